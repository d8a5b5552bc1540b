"""docs/tutorials/first_experiment.md does what it says: its files and commands, in order, on fewer images."""

import re
import runpy
from pathlib import Path

import pytest
from conftest import REPOSITORY, records, run_here

from harness.runs.commands import COMMANDS

PAGE = (REPOSITORY / "docs/tutorials/first_experiment.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(python|toml|bash)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
FEWER = {  # command -> flags that make it quick
    "ann": "--limit_train 96 --limit_test 16 --holdout 32 --epochs 1 --fc_width 8",
    "snn": "--limit_train 96 --limit_test 16 --holdout 32 --fc_width 8 --balance_images 8 --balance_timesteps 10",
    "analysis": "--limit_test 16 --images 2 --chart_images 8",
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder to work in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    return tmp_path


@pytest.mark.usefixtures("forgotten")
def test_the_tutorial_does_what_it_says(here):
    said = {}
    for kind, text in BLOCKS:
        if kind != "bash":
            Path(re.match(r"# (\S+)\n", text)[1]).write_text(text)
            continue
        for line in text.splitlines():
            command, took = line.split("  #")
            assert re.fullmatch(r" \d+ s", took), line
            program, name, *flags = command.split()
            if program == "python":
                runpy.run_path(name)
            else:
                said[name] = said.get(name, "") + run_here(COMMANDS[name], *flags, FEWER.get(name, ""))[1]
    runs = [f"{recipe}{seed}" for recipe in ("plain", "patient") for seed in ("", "_1", "_2")]
    for name in runs:
        (evaluation,) = records(f"logs/snn/{name}.jsonl", "evaluation")
        assert (
            len(evaluation["open_share"]) == 6 and evaluation["images"] == 16 and Path(f"trained_models/snn/{name}.pth").is_file()
        )
        assert Path(f"logs/snn/{name}.log").is_file()
    assert records("logs/snn/patient.jsonl", "run")[0]["parameters"]["gate"] == "patient"
    for title in re.findall(r"^\| ((?:accuracy|spikes|input).*?) \|", PAGE, re.MULTILINE):
        assert f"\n{title}  " in said["compare"], title
    assert "3 pairs" in said["compare"] and Path("comparison.csv").is_file()
    assert Path("trained_models/snn/patient_posthoc_analysis.gif").is_file() and Path("open_input.pdf").stat().st_size > 1000
