"""Makes flags.md beside it, the reference of all flags, of their declarations: `PYTHONPATH=. python docs/reference/flags.py`."""

from pathlib import Path

from harness.command_line.flags import ann_settings, posthoc_settings, snn_settings
from harness.command_line.parser import GROUPS
from self_models.basics.settings import Choice, Number, Switch
from self_models.vgg_wFeedback_spiking_target_objective_1 import InputBlockingSNN

PAGE = Path(__file__).with_suffix(".md")
HEAD = """# All flags

Made from the declarations by `PYTHONPATH=. python docs/reference/flags.py`. *In* says which scripts have a flag: **A**
`ann_wFeedback.py`, **S** `snn_wFeedback.py`, **P** the post-hoc scripts. *Counts with* names what must be chosen for a flag to
have an effect; elsewhere it is refused. A switch is turned off by `--no-NAME`. Each script's `--help_all` lists its own flags,
with those that it has alone.
"""
COLUMNS = ("| flag | in | default | values | counts with | meaning |", "| --- | --- | --- | --- | --- | --- |")


def page():
    """The text of the page."""
    scripts = {"A": ann_settings(), "S": snn_settings(), "P": posthoc_settings(InputBlockingSNN)}
    parts, named = [HEAD], set()
    for group, about in GROUPS.items():
        names = dict.fromkeys(name for known in scripts.values() for name, one in known.items() if one.group == group)
        rows = [row(name, scripts) for name in names if name not in named]
        named |= names.keys()
        said = [f"{about.capitalize()}.", ""] if about else []
        parts += [f"## {group.capitalize()}", "", *said, *COLUMNS, *rows, ""]
    return "\n".join(parts)


def row(name, scripts):
    """A setting's line of the table. scripts: letter -> name -> Setting."""
    having = {letter: known[name] for letter, known in scripts.items() if name in known}
    one, defaults = next(iter(having.values())), dict.fromkeys(each.default for each in having.values())
    flags = " ".join(f"`{words}`" for words in one.option_strings(name))
    default = ", ".join(f"`{value}`" for value in defaults if value not in (None, ""))
    cells = [flags, " ".join(having), default, values(one.kind), ", ".join(map(needed, one.needs)), one.help]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def needed(need):
    """What must be chosen, in words."""
    absent = need.values and not any(need.values)
    values = " ".join(f"`{value}`" for value in need.values if value)
    return f"{'no ' if absent else ''}`--{need.flag}` {values}".strip()


def values(kind):
    """What a setting of this kind can be, in words."""
    if isinstance(kind, Choice):
        return ", ".join(f"`{name}`" for name in kind.names)
    if isinstance(kind, Number):
        return f"{'whole number' if kind.kind is int else 'number'} {kind.range}".strip()
    return "switch" if isinstance(kind, Switch) else "text"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
