"""The recorder of revisions and the fuzzer: what they hold, and what they notice."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from PIL import Image

from benchmarks.robustness import frozen, fuzz
from benchmarks.robustness.figure_data import catching_figures, digest_of, figure_data
from benchmarks.robustness.record_differences import compare_records, value_differences
from benchmarks.robustness.recorded_commands import COMMAND_LINES, CommandLine, record_commands
from benchmarks.robustness.recorded_files import Normaliser


@pytest.mark.parametrize("kind", [fuzz.checkpoints, fuzz.data_files, fuzz.flag_values])
def test_only_clean_errors(kind, tmp_path):
    counts = kind(40, tmp_path)
    assert counts["examples"] >= 40
    assert 0 < counts["refused"] <= counts["examples"]


def draw_by_hand(change=None):
    """Draw one of each thing on 400 x 300 pixels, with a change; return the data."""
    figure, (left, right, hidden) = plt.subplots(1, 3, figsize=(4, 3), dpi=100)
    figure.text(0.5, 0.25, "here", ha="left", va="bottom", color="red")
    left.set(title="Spikes", xlabel="timestep", xticks=[1, 2], xlim=(0, 3), ylim=(0, 4))
    left.plot([1, 2], [3, 1.5], ".-", color="#4477aa", label="network")
    left.bar([1, 2], [2, 1], 0.5, color=["#228833", "#aa3377"])
    left.eventplot([[1.0, 2.5]], lineoffsets=[3], colors="black")
    left.legend(loc="upper right")
    right.imshow(np.array([[0.0, 1.0], [2.0, 3.0]]), cmap="gray", vmin=0, vmax=4)
    right.set(xticks=[], yticks=[])
    right.set_title("on the right", loc="right")
    hidden.set_visible(False)
    if change:
        change(figure, left, right)
    figure.canvas.draw()
    data = figure_data(figure)
    plt.close(figure)
    return data


@pytest.fixture(scope="module")
def unchanged():
    """Draw the figure as it is."""
    return draw_by_hand()


def test_a_figure_becomes_data(unchanged):
    data = unchanged
    assert data["size"] == [400.0, 300.0]
    assert data["texts"] == ["'here' at 200.0, 75.0; 10 pt, #ff0000ff"]
    assert "axes 3" not in data  # it is hidden
    left = data["axes 1"]
    assert left["titles"][0].startswith("'Spikes' at ")
    assert left["x"]["label"][0].startswith("'timestep' at ")
    assert left["x"]["limits"] == [0.0, 3.0]
    assert [tick.split(" at ")[0] for tick in left["x"]["ticks"]] == ["1.0: '1'", "2.0: '2'"]
    assert left["lines"][0]["points"] == [[1.0, 3.0], [2.0, 1.5]]
    assert left["lines"][0]["label"] == "network"
    assert left["lines"][0]["look"].startswith("#4477aaff, style -, width 1.5, marker .")
    assert left["patches"] == [
        "Rectangle 0.75, 0.0, 0.5, 2.0; #228833ff",
        "Rectangle 1.75, 0.0, 0.5, 1.0; #aa3377ff",
    ]
    assert left["collections"][0]["positions"] == [1.0, 2.5]
    assert left["collections"][0]["offset"] == 3.0
    (entry,) = left["legend"]["entries"]
    assert entry.startswith("'network' at ")
    assert entry.endswith("; Line2D #4477aaff - .")
    right = data["axes 2"]
    assert right["titles"][0].startswith("'on the right' at ")
    values = np.array([[0.0, 1.0], [2.0, 3.0]])
    assert right["images"][0]["values"] == f"float64 (2, 2) {digest_of(values.tobytes())}"
    assert right["images"][0]["limits"] == [0.0, 4.0]


@pytest.mark.parametrize(
    ("change", "place"),
    [
        pytest.param(
            lambda figure, left, right: left.set_title("Spike"),
            "axes 1 | titles",
            id="a title",
        ),
        pytest.param(
            lambda figure, left, right: figure.texts[0].set_x(0.5025),
            "texts | 1: 'here' at 200.0, 75.0; 10 pt, #ff0000ff -> 'here' at 201.0, 75.0; ",
            id="a text moves a pixel",
        ),
        pytest.param(
            lambda figure, left, right: left.patches[1].set_facecolor("#aa3378"),
            "axes 1 | patches | 2: ",
            id="the colour of a bar",
        ),
        pytest.param(
            lambda figure, left, right: left.lines[0].set_ydata([3, 1.51]),
            "axes 1 | lines | 1 | points | 2 | 2: 1.5 -> 1.51",
            id="a point of a line",
        ),
        pytest.param(
            lambda figure, left, right: left.collections[0].set_positions([0.0, 2.5]),
            "axes 1 | collections | 1 | positions | 1: 1.0 -> 0.0",
            id="an event mark",
        ),
        pytest.param(
            lambda figure, left, right: right.images[0].set_data([[0.0, 1.0], [2.0, 2.0]]),
            "axes 2 | images | 1 | values: ",
            id="a pixel of a picture",
        ),
        pytest.param(
            lambda figure, left, right: left.get_legend().get_texts()[0].set_text("netwerk"),
            "axes 1 | legend | entries | 1: ",
            id="a name in a legend",
        ),
        pytest.param(
            lambda figure, left, right: right.set_title("", loc="right"),
            "axes 2 | titles: ",
            id="a hidden title",
        ),
    ],
)
def test_a_changed_figure_is_noticed(change, place, unchanged):
    lines = value_differences(unchanged, draw_by_hand(change), "figure 1")
    assert lines
    assert lines[0].startswith(f"figure 1 | {place}"), lines


def test_figures_are_caught_frame_by_frame(tmp_path):
    with catching_figures() as figures:
        figure = plt.figure(figsize=(1, 1))
        heading = figure.suptitle("timestep 1")
        figure.canvas.draw()
        heading.set_text("timestep 2")
        figure.savefig(tmp_path / "a.png")
        plt.close(figure)

    (caught,) = figures
    drawings = caught.data()["drawings"].values()
    texts = [drawing["texts"] for drawing in drawings]
    assert texts == [["'timestep 1'"], ["'timestep 2'"]]
    assert caught.data()["texts"][0].startswith("'timestep 2' at ")
    (pixels,) = Normaliser({}).file(tmp_path / "a.png")["frames"]
    assert caught.pixels == pixels  # so a record can name the figure by its file


def test_what_differs_from_run_to_run_is_taken_out_of_lines(tmp_path):
    """Times, speeds, revisions and folders go; all other numbers stay."""
    normaliser = Normaliser({"REPOSITORY": REPOSITORY, "FOLDER": tmp_path})
    printed = f"""started 2026-12-01 09:08:07
versions: Python 3.11.7, torch 2.13.0; git revision: 83b7b7fa+changes; seed: 3
epoch 1/2: train total 0.4685, accuracy 95.42 %; 1,234.5 s
accuracy 12.50 % on 16 images, 0.3 s
12.5 recordings per second (files already read; threads: 1)
wrote {tmp_path}/a.png; {REPOSITORY}/examples/nmnist.nir
rule           accuracy  spikes  images/s  faster
never           12.50 %   2,034     12.25    1.00
confidence 2    12.50 %   1,034  1,012.25   11.00
faster: images per second"""
    recorded = """started TIME
versions: Python 3.11.7, torch 2.13.0; git revision: REVISION; seed: 3
epoch 1/2: train total 0.4685, accuracy 95.42 %; SECONDS s
accuracy 12.50 % on 16 images, SECONDS s
SPEED recordings per second (files already read; threads: 1)
wrote FOLDER/a.png; REPOSITORY/examples/nmnist.nir
rule           accuracy  spikes
never           12.50 %   2,034
confidence 2    12.50 %   1,034
faster: images per second"""
    assert normaliser.text(printed) == recorded.splitlines()


def test_what_differs_from_run_to_run_is_taken_out_of_logs():
    record = {"seconds": 1.5, "date": "2026-12-01", "accuracy": 0.5, 3: float("nan")}
    recorded = Normaliser({}).value({"epoch": [record]})
    assert recorded == {"epoch": [{"accuracy": 0.5, "3": "nan"}]}


@pytest.mark.parametrize(
    ("other", "is_same"),
    [
        ({"epoch": 1, "weight": torch.ones(2, 3), "seconds": 0.2}, True),
        ({"weight": torch.ones(3, 2), "epoch": 1}, False),
        ({"weight": torch.ones(2, 3) + torch.eye(3)[:2] * 1e-6, "epoch": 1}, False),
    ],
    ids=["order and time", "shape", "value"],
)
def test_checkpoints_are_known_by_their_content(tmp_path, other, is_same):
    normaliser = Normaliser({"FOLDER": tmp_path})
    torch.save({"weight": torch.ones(2, 3), "epoch": 1, "seconds": 0.1}, tmp_path / "one.pth")
    torch.save(other, tmp_path / "other.pth")

    content = normaliser.file(tmp_path / "one.pth")

    assert content["epoch"] == 1
    assert (normaliser.file(tmp_path / "other.pth") == content) == is_same


def test_films_are_known_by_their_frames_and_durations(tmp_path):
    black = Image.new("L", (2, 2), 0)
    grey = Image.new("L", (2, 2), 90)
    normaliser = Normaliser({"FOLDER": tmp_path})
    film = {"save_all": True, "append_images": [grey], "loop": 0}
    black.save(tmp_path / "short.gif", duration=100, **film)
    black.save(tmp_path / "long.gif", duration=250, **film)

    short = normaliser.file(tmp_path / "short.gif")
    long = normaliser.file(tmp_path / "long.gif")

    assert short["durations"] == [100, 100]
    assert long["durations"] == [250, 250]
    assert short["frames"] == long["frames"]
    assert len(set(short["frames"])) == 2


@pytest.fixture(scope="module")
def recorded_twice():
    """Record a training, one that is interrupted, and a refusal, twice."""
    few = "-a VGG4_tiny --fc_width 4 --dataset events --event_frames 2 --epochs 1 --batch_size 8"
    command_lines = {
        "training": CommandLine("ann", f"{few} --run_name whole"),
        "interrupted": CommandLine("ann", f"{few} --run_name part", interrupted_after=1),
        "refused": COMMAND_LINES["refused: no such recipe"],
    }
    return [dict(record_commands(REPOSITORY, command_lines)) for _ in range(2)]


def test_command_lines_are_recorded(recorded_twice):
    record, again = recorded_twice
    assert record == again
    assert record["command training: status"] == 0
    assert record["command interrupted: status"] == 130
    (line,) = record["command interrupted: errors"]
    assert line.startswith("stopped by SIGINT in epoch 1 of 1, after update 1")
    assert record["command refused: status"] == 2
    assert record["command refused: errors"][0].startswith("error: unknown recipe")
    saved = record["command training: file trained_models/ann/whole.pth"]
    assert saved["state_dict"]["features.0.weight"].startswith("float32 4x2x3x3 ")
    log = record["command training: file logs/ann/whole.jsonl"]
    assert log["run 1"]["parameters"]["run_name"] == "whole"
    assert log["epoch 1"]["epoch"] == 1
    assert "seconds" not in log["epoch 1"]["train"]

    # Neither the repository nor the folder in which commands ran
    text = json.dumps(record)
    assert str(REPOSITORY) not in text
    assert "frozen_" not in text


def test_differences_are_named_below_their_command_line(recorded_twice):
    kept, _ = recorded_twice
    kept = kept | {"snn gone_network dense logits": "a", "nir n dense logits": "b"}
    found = json.loads(json.dumps(recorded_twice[0] | {"nir n dense sums": "c"}))
    del found["command refused: status"]
    found["command training: file logs/ann/whole.jsonl"]["epoch 1"]["train"]["accuracy"] = 7
    found["command training: output"] += ["one more line"]

    lines, differs = compare_records(kept, found, lambda group: group.startswith("nir"))
    old = kept["command training: file logs/ann/whole.jsonl"]["epoch 1"]["train"]["accuracy"]
    log = "file logs/ann/whole.jsonl | epoch 1 | train | accuracy"
    assert lines == [
        "command training",
        "  output: + one more line",
        f"  {log}: {old} -> 7",
        "command refused",
        "  status: 2 -> (absent)",
        "gone: snn gone_network dense",
        "no longer run: nir n dense",
        f"{len(found) - 1} keys in both, 3 differ, 1 are new",
    ]
    assert differs


def test_a_record_does_not_differ_from_itself(recorded_twice):
    record, _ = recorded_twice
    _, differs = compare_records(record, record, lambda group: True)
    assert differs is False


# A frozen.py that records a status, and whether it runs in the folder of its modules
STUB = """import json, os, pathlib, sys
record = {"command a: status": VALUE, "command a: folder": os.getcwd() == os.environ["PYTHONPATH"]}
pathlib.Path(sys.argv[2]).write_text(json.dumps(record))
"""


@dataclass
class Revisions:
    """A repository in which a frozen.py that records status 0 is committed."""

    folder: Path

    def git(self, *words):
        """Run git there."""
        author = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", *author, "-C", str(self.folder), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def write(self, status):
        """Write a frozen.py that records this status."""
        script = self.folder / "benchmarks/robustness/frozen.py"
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(STUB.replace("VALUE", str(status)))

    def num_worktrees(self):
        """Count the worktrees, with the repository itself."""
        return len(self.git("worktree", "list").splitlines())


@pytest.fixture
def revisions(tmp_path, monkeypatch):
    """Make the repository, and let frozen.py take it for its own."""
    repository = Revisions(tmp_path)
    repository.git("init", "-q")
    repository.write(status=0)
    repository.git("add", ".")
    repository.git("commit", "-qm", "Before")
    monkeypatch.setattr(frozen, "HERE", tmp_path)
    return repository


@pytest.mark.parametrize(
    ("recorded", "status", "lines"),
    [(0, 0, ""), (3, 1, "command a\n  status: 0 -> 3\n")],
    ids=["same", "differs"],
)
def test_a_revision_is_recorded_by_its_own_script(
    revisions, monkeypatch, capfd, recorded, status, lines
):
    revisions.write(recorded)
    monkeypatch.setattr(sys, "argv", ["frozen.py", "against", "HEAD", "--part", "commands"])

    with pytest.raises(SystemExit) as stop:
        frozen.main()

    assert stop.value.code == status
    assert lines in capfd.readouterr().out
    assert revisions.num_worktrees() == 1


def test_a_revision_that_is_not_there_is_refused(revisions, monkeypatch, capfd):
    monkeypatch.setattr(sys, "argv", ["frozen.py", "against", "no_such_revision"])

    with pytest.raises(SystemExit) as stop:
        frozen.main()

    assert stop.value.code == 2
    assert "there is no worktree of no_such_revision" in capfd.readouterr().err
    assert revisions.num_worktrees() == 1
