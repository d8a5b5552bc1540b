"""The logs of a training run after an interruption: made to agree with what its checkpoint knows."""

import json
import re
from itertools import count

from harness.runs.checkpoints import write_whole

COMMAND = "command: "  # begins the line of the readable log that says how the run was started
is_epoch_line = re.compile(r"(?:warning: )?epoch \d+\b[/:]").match  # of the readable log


def is_epoch_record(line):
    """Whether a JSON line reports on an epoch or the final evaluation; so does one that is broken."""
    try:
        record = json.loads(line) if line.strip() else {}
    except (ValueError, RecursionError):
        return True
    return not isinstance(record, dict) or record.get("event") in ("epoch", "evaluation")


def repair(path, known, is_known):
    """Make the log at path hold each line of `known` once, in order, and no other line that is_known(line); the rest stays.

    A file that has a line to lose is kept beside as ….old, ….old.2, …; returns its path, else None.
    """
    old = path.read_bytes().decode("utf-8", "surrogateescape") if path.exists() else ""
    missing, lines, lost, aside = list(known), [], False, None
    for line in old.removesuffix("\n").split("\n") if old else []:
        if line in missing:
            end = missing.index(line) + 1
            lines += missing[:end]
            del missing[:end]
        elif is_known(line):
            lost = True
        else:
            lines.append(line)
    if lost:
        names = (path.with_name(f"{path.name}.old" + f".{number}" * (number > 1)) for number in count(1))
        aside = next(name for name in names if not name.exists())
        write_whole(aside, lambda file: file.write(old.encode("utf-8", "surrogateescape")))
    new = "".join(f"{line}\n" for line in [*lines, *missing])
    if new != old:
        write_whole(path, lambda file: file.write(new.encode("utf-8", "surrogateescape")))
    return aside
