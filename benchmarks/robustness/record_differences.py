"""What differs between two records of frozen.py, in lines for a reader."""

import difflib
from collections.abc import Callable, Mapping

MOST_LINES = 20  # of one key
SHOWN = 70  # letters of a value that differs
BEFORE = 20  # of them before the place where it differs
ABSENT = "(absent)"


def compare_records(
    kept: Mapping[str, object], found: Mapping[str, object], is_there: Callable[[str], bool]
) -> tuple[list[str], bool]:
    """Say what differs between two records.

    Parameters
    ----------
    kept, found : dict of {str: object}
        The record of before, and the present one. Keys begin with what ``group_of``
        returns.
    is_there : callable
        Whether a group that only ``kept`` has could be recorded today: takes its name.

    Returns
    -------
    lines : list of str
        Each value that differs, below the group that it belongs to; then the groups
        that are lost; at last how many keys there are.
    differs : bool
        Whether something differs, or is no longer recorded though it could be. A group
        that is new, or gone with its checkpoint, does not count.
    """
    groups_in_both = {group_of(key) for key in kept} & {group_of(key) for key in found}
    differing = []
    new = []
    lost_groups = set()
    for key in dict.fromkeys([*found, *kept]):
        group = group_of(key)
        if key in kept and key in found:
            if kept[key] != found[key]:
                differing.append(key)
        elif is_command(group) and group in groups_in_both:
            differing.append(key)  # of the same command line a file, say, is new or is missing
        elif key in found:
            new.append(key)
        else:
            lost_groups.add(group)

    lines = []
    last_group = None
    for key in differing:
        group = group_of(key)
        if group != last_group:
            lines.append(group)
        last_group = group
        about = key.removeprefix(group).strip(" :")
        changes = value_differences(kept.get(key, ABSENT), found.get(key, ABSENT), about)
        lines += [f"  {line}" for line in changes[:MOST_LINES]]
        if len(changes) > MOST_LINES:
            lines.append(f"  {about}: and {len(changes) - MOST_LINES} more")
    no_longer_recorded = sorted(group for group in lost_groups if is_there(group))
    lines += [f"gone: {group}" for group in sorted(lost_groups.difference(no_longer_recorded))]
    lines += [f"no longer run: {group}" for group in no_longer_recorded]
    count_in_both = len(kept.keys() & found.keys())
    lines.append(f"{count_in_both} keys in both, {len(differing)} differ, {len(new)} are new")
    return lines, bool(differing or no_longer_recorded)


def group_of(key: str) -> str:
    """Return the command line, or the network and how it is run, that a key is of."""
    if is_command(key):
        return key.rpartition(": ")[0]
    return " ".join(key.split()[:3])


def is_command(key: str) -> bool:
    """Return whether a key, or a group, is of a command line."""
    return key.startswith("command ")


def value_differences(old: object, new: object, place: str) -> list[str]:
    """Say where two values differ.

    Parameters
    ----------
    old, new : object
        Numbers, texts, lists and dicts.
    place : str
        What the values are called.

    Returns
    -------
    list of str
        A line for each part that differs: its place, and what it was and is.
    """
    lines = []
    if old == new:
        return lines
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            lines += value_differences(
                old.get(key, ABSENT), new.get(key, ABSENT), f"{place} | {key}"
            )
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (one, other) in enumerate(zip(old, new, strict=True), start=1):
            lines += value_differences(one, other, f"{place} | {number}")
    elif is_text(old) and is_text(new):
        for line in difflib.ndiff(old, new):
            if line.startswith(("- ", "+ ")):
                lines.append(f"{place}: {line[:SHOWN]}")
    else:
        lines.append(f"{place}: {' -> '.join(shortened(str(old), str(new)))}")
    return lines


def is_text(value: object) -> bool:
    """Return whether a value is a list of lines."""
    return isinstance(value, list) and all(isinstance(line, str) for line in value)


def shortened(old: str, new: str) -> list[str]:
    """Cut two texts around the place where they begin to differ."""
    same = 0
    while same < min(len(old), len(new)) and old[same] == new[same]:
        same += 1
    start = max(same - BEFORE, 0)
    if max(len(old), len(new)) <= SHOWN:
        start = 0
    shown = []
    for text in (old, new):
        part = text[start : start + SHOWN]
        if start:
            part = f"...{part}"
        if len(text) > start + SHOWN:
            part = f"{part}..."
        shown.append(part)
    return shown
