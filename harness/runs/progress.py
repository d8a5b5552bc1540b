"""How far something has come: a bar on a terminal, else a line now and then."""

import sys

from tqdm import tqdm

from harness.processes import ranks

EVERY = 30.0  # seconds from one line to the next, where standard error is no terminal
BAR = "{desc} {percentage:3.0f}% {bar:24} {n_fmt}/{total_fmt} [{elapsed}<{remaining}]{postfix}"
LINE = "{desc}: {percentage:.0f} %, {n_fmt} of {total_fmt}, {elapsed} gone, {remaining} left{postfix}"


class Lines:
    """A file for tqdm that makes each of its texts a line of its own."""

    def write(self, text):
        if text := text.strip():
            print(text, file=sys.stderr, flush=True)

    def flush(self):
        sys.stderr.flush()


def progress_bar(label, total, done=0):
    """A tqdm of `total` parts that leaves nothing behind; none but for the first rank. On a terminal a bar; else, every half
    minute, a line with percent, time gone and left, and what set_postfix_str was last told."""
    if not ranks.is_first():
        return tqdm(disable=True)
    if sys.stderr.isatty():
        return tqdm(total=total, initial=done, desc=label, leave=False, dynamic_ncols=True, bar_format=BAR)
    often = {"mininterval": EVERY, "maxinterval": EVERY, "miniters": 1, "delay": EVERY}
    return tqdm(total=total, initial=done, desc=label, leave=False, file=Lines(), bar_format=LINE, **often)
