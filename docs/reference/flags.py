"""Make flags.md beside it, the reference of all flags, of their declarations.

`PYTHONPATH=. python docs/reference/flags.py`
"""

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path

import ann_wFeedback
import snn_wFeedback
import snn_wFeedback_posthoc_model_analysis as analysis
from self_models.settings import Choice, Number, Setting, Switch
from wfeedback.command_line.parser import GROUPS
from wfeedback.command_line.reading import add_reading_flags

PAGE = Path(__file__).with_suffix(".md")
HEAD = """# All flags

**Which flags are there, and which command takes them?** The tables below list all flags of
training and evaluation, by subject. You need few of them: `--help` shows the common flags of a
command, and `--help_all` shows all. This page is generated from the code, by `PYTHONPATH=. python
docs/reference/flags.py`.

How to read the tables: the column *in* names the commands that have a flag.

- **A** is `wfeedback ann`, which trains the conventional network.
- **S** is `wfeedback snn`, which trains the spiking one.
- **P** are the *post-hoc* commands, which evaluate a trained network: `analysis`, `obj1`, `obj2`,
  `obj3` and `stream`.
- **N** and **E**, in the last table, are `wfeedback nir` and `wfeedback export`. These flags say
  how a NIR file is read (NIR is an exchange format for spiking networks). `--help` lists the other
  flags of these two commands.

A *switch* is turned on by `--NAME` and off by `--no-NAME`.

**Why does my flag do nothing?** Some flags belong to a part that you have not chosen. This is no
error, but a line of the log names those that you typed: flags of a gate, rule or read-out that is
not chosen, flags that the chosen `--optimizer` does not have, those of training with
`--test_only`, and those of conversion where no ANN is converted. Another line says where
`--default_threshold` has no effect, because thresholds come with a checkpoint or are found by a
conversion.

**Which flags are refused because they do nothing?** A flag that you type is refused if it counts
only beside another flag, or for other images or networks: `--cutout` without `--augment`,
`--warm_up` with the schedule `step`, `--readout` without a decoder. The error says what the flag
needs. What a recipe says is never refused in this way. The table of these needs is in
`wfeedback/building/idle_flags.py`.

**Which optimisers?** `--optimizer` takes the name of any optimiser of `torch.optim` that can train
a network here. `--learning_rate` and, as far as the optimiser has them, `--weight_decay`,
`--momentum`, `--nesterov` and `--amsgrad` come from their flags. The defaults of these flags are
the original implementation's and not PyTorch's. For example, RMSprop has a momentum unless you
type `--momentum 0`. Everything else is as PyTorch has it, and a line of the log says with what the
optimiser was made. Three are refused: `LBFGS`, because it computes the loss several times in a
step; `SparseAdam`, because it takes sparse gradients only; and `Muon`, because it takes matrices
only, while networks here have convolutions, too.
"""
COLUMNS = ("| flag | in | default | values | meaning |", "| --- | --- | --- | --- | --- |")


def page() -> str:
    """Return the text of the page."""
    scripts = {
        "A": ann_wFeedback.build_parser([]).settings,
        "S": snn_wFeedback.build_parser([]).settings,
        "P": analysis.build_parser([]).settings,
    }
    parts = [HEAD]
    listed = set()
    for group in GROUPS:
        names = []
        for known in scripts.values():
            for name, declared in known.items():
                if declared.group == group and name not in listed:
                    names.append(name)
                    listed.add(name)
        rows = [row(name, scripts) for name in names]
        parts += [f"## {group.capitalize()}", "", *COLUMNS, *rows, ""]
    parts += ["## Reading a NIR file", "", *COLUMNS, *reading_rows(), ""]
    return "\n".join(parts)


def reading_rows() -> list[str]:
    """Return lines of the table for the flags that say how a NIR file is read."""
    parser = argparse.ArgumentParser(add_help=False)
    add_reading_flags(parser)
    rows = []
    for action in parser._actions:
        if action.choices:
            kind = Choice(action.choices)
        else:
            kind = getattr(action.type, "kind", Switch())
        rows.append(line(action.option_strings[:1], "N E", "", kind, action.help))
    return rows


def row(name: str, scripts: Mapping[str, Mapping[str, Setting]]) -> str:
    """Return a setting's line of the table.

    scripts: letter of a script -> name -> Setting.
    """
    having = {letter: known[name] for letter, known in scripts.items() if name in known}
    declarations = list(having.values())
    defaults = dict.fromkeys(declared.default for declared in declarations)
    default = ", ".join(f"`{value}`" for value in defaults if value not in (None, ""))
    first = declarations[0]
    return line(first.option_strings(name), " ".join(having), default, first.kind, first.help)


def line(
    option_strings: Iterable[str], scripts: str, default: str, kind: object, help: str
) -> str:
    """Return a line of the table, for a flag with values of this kind."""
    flags = " ".join(f"`{words}`" for words in option_strings)
    cells = [flags, scripts, default, values(kind), help]
    escaped = [cell.replace("|", r"\|") for cell in cells]
    return f"| {' | '.join(escaped)} |"


def values(kind: object) -> str:
    """Say what a setting of this kind can be."""
    if isinstance(kind, Choice):
        return ", ".join(f"`{name}`" for name in kind.names)
    if isinstance(kind, Number):
        what = "whole number" if kind.kind is int else "number"
        return f"{what} {kind.range}".strip()
    return "switch" if isinstance(kind, Switch) else "text"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
