"""What is known of the networks of the recipes that came with the program: `--preset list`, and figures for the zoo's table."""

import json

from harness.command_line.presets import FOLDER, find, names
from harness.measuring.report import aligned
from harness.runs.paths import Paths
from harness.runs.runlog import read_records
from self_models.basics import HOME

HEAD = ("preset", "accuracy, %", "spikes/image", "trained in", "checkpoint", "what it is")


def preset_list():
    """A table of all recipes, by name: seed 0 as trained, without early exit; - for what is not known here."""
    of_snns, rows = names("snn"), []
    for name in names("ann"):
        recipe = find(name, "snn" if name in of_snns else "ann")
        found, seconds, is_here = evaluation_of(recipe), seconds_of(recipe), checkpoint_of(recipe).is_file()
        aim = (FOLDER / f"{name}.toml").read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        spikes = f"{found['spikes']['total']:,.0f}" if "spikes" in found else "-"
        cells = (f"{100 * found['accuracy']:.2f}", spikes) if found else ("-", "-")
        rows.append([name, *cells, f"{seconds / 60:,.0f} min" if seconds else "-", "here" if is_here else "-", aim])
    return "\n".join(aligned([HEAD, *rows], left=(0, 4, 5)))


def checkpoint_of(recipe):
    """Path of the recipe's network, seed 0, that came with the program."""
    return Paths(recipe.kind, recipe.run, HOME).best_path


def evaluation_of(recipe):
    """The JSON object of the last evaluation of the recipe's network, seed 0, as trained; {} where there is none."""
    result = HOME / f"results/{recipe.run}_T{recipe.flags.get('timesteps')}.json"
    records = json.loads(result.read_text(encoding="utf-8"))[:1] if result.is_file() else reversed(log_of(recipe))
    return next((record for record in records if record["event"] == "evaluation"), {})


def log_of(recipe):
    """The records of the log of a recipe's network, none where it is not committed."""
    return read_records(Paths(recipe.kind, recipe.run, HOME).json_path)


def seconds_of(recipe):
    """How long a recipe's network took to train, with those that it starts from; 0 where a log is not committed."""
    log = log_of(recipe)
    own = sum(record["seconds"] for record in log if record["event"] == "epoch")
    before = [seconds_of(start) for flag in recipe.starts if "pretrained" in flag and (start := recipe.start(flag))]
    return own + sum(before) if log and all(before) else 0
