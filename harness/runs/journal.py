"""The two logs of a training run after an interruption: made to agree with what its checkpoint knows."""

import json
import re
from pathlib import Path

from harness.runs.checkpoints import write_whole

EPOCH_LINE = re.compile(r"(?:warning: )?epoch \d+\b[/:]")


def reports_in_text(line):
    """Whether a line of the readable log reports on an epoch."""
    return bool(EPOCH_LINE.match(line))


def reports_in_json(line):
    """Whether a JSON line reports on an epoch or the final evaluation; so does one that is broken."""
    if not line.strip():
        return False
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return True
    return not isinstance(record, dict) or record.get("event") in ("epoch", "evaluation")


def mend(path, known, reports):
    """Make the log at path hold each line of `known` once, in order, and no other line that reports(line); the rest stays.

    A file that has a line to lose is kept beside as ….old; returns its path, else None.
    """
    path = Path(path)
    old = path.read_bytes().decode("utf-8", "surrogateescape") if path.exists() else ""
    lines, missing, lost = old.removesuffix("\n").split("\n") if old else [], dict.fromkeys(known), False
    kept = []
    for line in lines:
        if line in missing:
            del missing[line]
        elif reports(line):
            lost = True
            continue
        kept.append(line)
    for line in missing:
        following = set(known[known.index(line) + 1 :])
        kept.insert(next((i for i, other in enumerate(kept) if other in following), len(kept)), line)
    new = "".join(f"{line}\n" for line in kept)
    if new == old:
        return None
    aside = free_name(path.with_name(f"{path.name}.old")) if lost else None
    if lost:
        write_whole(aside, lambda file: file.write(old.encode("utf-8", "surrogateescape")))
    write_whole(path, lambda file: file.write(new.encode("utf-8", "surrogateescape")))
    return aside


def free_name(path):
    """This path, or the first of path.2, path.3, … that does not exist."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}.{number}")
    return free
