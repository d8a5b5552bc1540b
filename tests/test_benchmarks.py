"""Benchmarks whose figures the pages quote: what they hand to whom, and each of them run tiny."""

import json
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from conftest import REPOSITORY, refused, run_here
from PIL import Image

from benchmarks.findings import moving, streams
from benchmarks.robustness import frozen, fuzz
from benchmarks.robustness.figure_data import catching_figures, digest_of, figure_data
from benchmarks.robustness.record_differences import compare_records, value_differences
from benchmarks.robustness.recorded_commands import COMMAND_LINES, CommandLine, record_commands
from benchmarks.robustness.recorded_files import Normaliser
from benchmarks.speed import microcontroller
from harness import UserError
from harness.runs.saving import save_checkpoint
from self_models.conversion import bounds_as_thresholds, fit_thresholds
from self_models.data.sets import load_data
from self_models.guests.link import SendOnDelta, run_link
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback


def test_streams_counts_by_hand():
    labels = torch.tensor([[3] * 6 + [5] * 7 + [-1] * 2 + [4] * 6 + [2] * 3]).T
    right = torch.tensor(
        [[0] * 6 + [0, 0, 1, 0, 1, 1, 1] + [0] * 2 + [1, 1, 1, 1, 1, 0] + [1] * 3]
    ).T.bool()
    assert streams.settling(labels, right).tolist() == [
        5,
        float("inf"),
    ]  # the first is no change, 2 is too short
    frames = torch.zeros(5, 2, 1, 1, 2)
    frames[:, 0, 0, 0, 0] = torch.tensor([0.0, 0.1, 0.15, 0.25, 0.3])  # creeps
    frames[:, 1, 0, 0, 1] = torch.tensor([0.0, 0.5, 0.5, 0.5, 0.0])
    assert streams.differs(frames[:, 0], frames[0, 0]).tolist() == [
        False,
        False,
        False,
        True,
        True,
    ]
    held, sent = streams.sent_and_held(frames)
    assert sent.T.tolist() == [[0, 0, 0, 1, 0], [0, 1, 0, 0, 1]]
    assert torch.stack(held)[:, 0, 0, 0, 0].tolist() == pytest.approx([0, 0, 0, 0.25, 0.25])


def test_phased_finds_where_a_network_differs_from_its_ann(tmp_path):
    """None of these images; then, with a threshold that is not the ANN's, those whose class it changes, by that layer."""
    torch.manual_seed(0)
    own = {"plan": [[4, "M", 6], []], "fc_layers": 0, "init": "kaiming"}
    ann = VGG_wFeedback(**own, activation_ann="qcfs", qcfs_levels=2).eval()
    for bound in (ann.features[1].bound, ann.features[4].bound):
        bound.data.fill_(0.7)
    snn = VGG_SNN_STDB_wFeedback(
        **own, update="phased", encoding="direct", timesteps=2, initial_potential=0.5
    ).eval()
    snn.load_state_dict(bounds_as_thresholds(ann.state_dict())[0], strict=False)
    fit_thresholds(snn)
    save_checkpoint(tmp_path / "ann.pth", ann)
    flags = f"--dataset MNIST --limit_test 40 --pair {tmp_path}/ann.pth {tmp_path}/snn.pth"
    for changed in (False, True):
        snn.features[4].threshold.data.mul_(1 + 2 * changed)
        save_checkpoint(tmp_path / "snn.pth", snn)
        (first, *others) = (
            json.loads(line)
            for line in run_here("benchmarks.findings.phased", flags)[1].splitlines()
        )
        assert (
            first["latency"] == 6 and first["levels"] == 2 and first["other_class"] == len(others)
        )
        assert bool(others) == changed and {one["layer"] for one in others} <= {"features.4"}


def test_microcontroller_counts_instructions_of_network_and_ann():
    if not (shutil.which("arm-none-eabi-gcc") and shutil.which("qemu-system-arm")):
        pytest.skip("no tools for a Cortex-M4")
    said = run_here("benchmarks.speed.microcontroller", "--networks quick_baseline --cores m4")[1]
    found, folded = map(json.loads, said.splitlines())
    assert (found["weights"], folded["weights"]) == ("int8", "int8_folded") and folded["equal"]
    assert folded["instructions"] < found["instructions"] and folded["ram"] < found["ram"]
    products = (
        28**2 * 9 * 16 + 14**2 * (64 * 16 + 144 * 32 + 288 * 32) + 49 * 128 * 32 + 1568 * 256
    )
    assert found["equal"] and found["instructions"] > 1e6 and found["stack"] < 2000
    assert products < found["ann_instructions"] < 4 * products


def test_missing_tools_of_a_microcontroller_are_a_line(monkeypatch):
    said = "m4: not run, since tools are missing. On Debian: apt install qemu-system-arm"
    done = SimpleNamespace(stdout="", stderr=f"{said}\nmake: *** Error 1\n", returncode=2)
    monkeypatch.setattr(microcontroller.subprocess, "run", lambda *_, **__: done)
    with pytest.raises(UserError, match=f"^{re.escape(said)}$"):
        microcontroller.played({}, "m4")


@pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler, cc")
def test_c_export_sends_the_same_spikes():
    said = run_here(
        "benchmarks.speed.c_export",
        "--networks tiny_feedback --images 400 --compared 5 --repeats 1 --cflags=-O1",
    )[1]
    rows = [json.loads(line) for line in said.splitlines()]
    assert [(row["weights"], row["differing"], row["compared"]) for row in rows] == [
        ("float32", 0, 400),
        ("int8", 0, 5),
    ]
    assert all(speed > 0 for row in rows for speed in row["images_per_second"].values())


def test_streams_compares_with_the_controls(trained, baseline):
    flags = f"--pair {trained.snn} {baseline} --seeds 0 --scenes part noise --streams 3 --steps 24 --engine dense"
    lines = [
        json.loads(line) for line in run_here("benchmarks.findings.streams", flags)[1].splitlines()
    ]
    rows = {(row["scene"], row["case"]): row for row in lines if "case" in row}
    assert len(rows) == 10 and len(lines) == 10 + 8
    for scene in ("part", "noise"):
        of = {case: row for (name, case), row in rows.items() if name == scene}
        assert of["send-on-delta"]["spikes"]["input"] < of["baseline"]["spikes"]["input"]
        assert all(
            row["spikes"]["total"] == pytest.approx(sum(list(row["spikes"].values())[:4]))
            for row in of.values()
        )
        assert all(row["energy_joules"] > 0 and 0 <= row["accuracy"] <= 1 for row in of.values())
    assert (
        rows["noise", "detector"]["spikes"]["total"] < rows["part", "detector"]["spikes"]["total"]
    )  # which sleeps
    (apart,) = [
        row for row in lines if (row["scene"], row.get("feedback against")) == ("part", "baseline")
    ]
    ours, theirs = (rows["part", case]["spikes"]["total"] for case in ("feedback", "baseline"))
    assert apart["spikes"] == [pytest.approx(100 * (ours / theirs - 1)), None]


@pytest.mark.others
def test_inference_peers_send_our_spikes(tmp_path):
    """Both networks, with the gate open and with blocking in a loop, by step and by layer; rounding may move a spike or two."""
    peers = ["snntorch", "spikingjelly"]
    for package in peers:
        pytest.importorskip(package, reason=f"{package} is not installed")
    flags = "--images 2 --batches 2 --timesteps 8 --rounds 1 --threads 1 --peers snntorch spikingjelly --picture"
    said = run_here("benchmarks.speed.inference", flags, tmp_path / "peers.png")[1]
    rows = [json.loads(line) for line in said.splitlines()]
    assert [row["network"] for row in rows] == ["baseline", "blocking"]
    for row in rows:
        assert row["norse"] is None and row["spikes_per_image"] > 500 and row["ann"] > 0
        assert all(row[name] > 0 for name in ("ours_event", "ours_dense", *row["way"])) and {
            *row["way"]
        } == {*peers}
        assert row["same_spikes"].pop("ours_event") is True and list(row["same_spikes"]) == peers
        assert all(share is True or 0 < share < 1e-3 for share in row["same_spikes"].values())
    with Image.open(tmp_path / "peers.png") as picture:
        assert picture.width > 1000


def test_inference_counts_the_additions_of_spikes(tmp_path):
    """By hand of the input: 3072 pixels in 4 timesteps, of which one meets 16 neurons in (3 n - 2)^2 / n^2 of n x n places."""
    flags = f"--peers --widths 1 --rates 0.001 0.1 --images 2 --batches 2 --rounds 1 --picture {tmp_path / 'map.png'}"
    few, many = map(
        json.loads,
        run_here("benchmarks.speed.inference", "--networks random --threads 1", flags)[
            1
        ].splitlines(),
    )
    of_input = 4 * 3 * 94**2 * 16
    assert of_input < few["additions"] < 1.05 * of_input < 1.5 * of_input < many["additions"]
    assert (
        few["ours_event"] > 0
        and few["way"] == {}
        and (tmp_path / "map.png").stat().st_size > 10_000
    )


@pytest.mark.others
def test_train_step_trains_the_same_network_three_times():
    """Loss and gradient of the first step agree; segments give ours the same, too."""
    pytest.importorskip("snntorch", reason="snntorch is not installed")
    pytest.importorskip("spikingjelly", reason="spikingjelly is not installed")
    tiny = "-a VGG5_wFeedback_small --fc_width 8 --timesteps 4 --batch_size 4 --rounds 1"
    ways = ("", "--only ours --bptt_segments auto", "--only ours --gate block")
    every, alone, blocking = (
        json.loads(run_here("benchmarks.speed.train_step", tiny, more)[1]) for more in ways
    )
    first = every["ours_first_loss_and_gradient"]
    others = [every[f"{name}_first_loss_and_gradient"] for name in ("snntorch", "spikingjelly")]
    for found in (*others, alone["ours_first_loss_and_gradient"]):
        assert found == pytest.approx(first, rel=1e-4) and min(found) > 0
    assert (
        every["ratio_to_fastest_peer_s"] > 0
        and 0 < every["products_share"] < 1
        and alone["ours_gb"] > 0.1
    )
    assert "snntorch_s" not in alone and blocking["ours_first_loss_and_gradient"] != first
    assert "--only ours" in refused("benchmarks.speed.train_step", "--gate block")


def test_a_moving_scene_is_predicted_alike_in_each_engine():
    model, digits = moving.Predictor().eval(), load_data("MNIST", limit_test=50)[2].images[:, 0]
    frames, following = (
        each[0] for each in moving.frames_of(moving.moving_scenes("two", digits, 1, 8))
    )
    events = torch.zeros(len(frames), moving.T, 2, 48, 48)
    events[:, 0] = moving.wrapped(frames, 10)
    with torch.no_grad():
        sums, sent = model(frames)
        by_event, dense = (model.as_graph(engine)(events) for engine in ("event", "dense"))
    assert (
        torch.equal(by_event.logits, dense.logits)
        and by_event.spikes.keys() == dense.spikes.keys()
    )
    assert all(torch.equal(counts, dense.spikes[name]) for name, counts in by_event.spikes.items())
    assert torch.equal(by_event.logits.view_as(sums) - 0.5, sums) and all(
        signal.any() for signal in sent.values()
    )
    with torch.no_grad():
        prediction, graded = moving.Predictor(graded=True)(frames)
    assert torch.equal(prediction, (sums > 0).float()) and all(
        torch.equal(graded[name], sent[name]) for name in sent
    )
    assert ((sums > 0) != following).sum() < (
        frames[:, 0] != following
    ).sum()  # better than send-on-delta


def test_moving_counts_by_hand(tmp_path, monkeypatch):
    right, becomes = (
        torch.tensor([[1, 1, 0, 0, 1, 1, 0, 0]]).bool(),
        torch.tensor([[0, 0, 1, 0, 0, 1, 1, 0]]).bool(),
    )
    assert moving.waiting(right, becomes) == [3, 1]
    frames = torch.tensor([0.0, 0.5, 0.58, 0.62, 0.5, 0.7]).view(1, 6, 1, 1)
    steps = list(run_link(SendOnDelta(), frames, 0.1))
    assert [step.events.item() for step in steps] == [0, 1, 1, 1]
    assert [step.rebuilt.item() for step in steps] == pytest.approx([0.5, 0.62, 0.5, 0.7])
    for name, value in {
        "GENERATIONS": 1,
        "UPDATES": dict.fromkeys(moving.UPDATES, 1),
        "SCENES": 3,
        "FRAMES": 20,
        "EPSILONS": (0.2, 0.3, 0.4),
        "TRAINED_ON": moving.TRAINED_ON[:2],
    }.items():
        monkeypatch.setattr(moving, name, value)
    rows = []
    for _ in range(2):  # the second time there is nothing to train
        run_here("benchmarks.findings.moving", f"--seeds 0 --folder {tmp_path}")
        rows.append((tmp_path / "rows.jsonl").read_text())
    assert (
        "NaN" not in rows[0]
        and rows[0] == rows[1]
        and rows[0].count("\n") == len(moving.TESTED_ON)
    )
    assert (
        run_here("benchmarks.findings.moving", f"--summary {tmp_path / 'rows.jsonl'}")[1].count(
            "| ours |"
        )
        == 2
    )
    run_here("benchmarks.findings.moving", f"--grey --seeds 0 --folder {tmp_path}")
    rows = moving.rows_of(tmp_path / "grey_rows.jsonl")
    for row in rows:
        row["points_lost"] = row["epsilon"] - 0.05  # so that 0.3 is the largest
    ((one,), (two,)) = moving.at_equal_accuracy(moving.by_kind(rows)).values()
    assert {*one["epsilon"].values(), *two["epsilon"].values()} == {0.3} and len(
        rows
    ) == 4 * 6 * len(moving.EPSILONS)
    in_black_and_white, in_grey = (
        torch.load(tmp_path / f"{name}_0.pth", weights_only=True)
        for name in ("float", "grey_float")
    )
    assert all(
        (in_grey[name] - of).abs().max() < 0.006 for name, of in in_black_and_white.items()
    )  # one update from there


@pytest.mark.parametrize("kind", [fuzz.checkpoints, fuzz.data_files, fuzz.flag_values])
def test_only_clean_errors(kind, tmp_path):
    counts = kind(40, tmp_path)
    assert counts["examples"] >= 40 and 0 < counts["refused"] <= counts["examples"]


# --- frozen.py: what a record holds, and what it notices


def draw_by_hand(change=None):
    """Data of a figure with one of each thing, 400 x 300 pixels. change(figure, axes): a fault."""
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
        change(figure, (left, right))
    figure.canvas.draw()
    data = figure_data(figure)
    plt.close(figure)
    return data


@pytest.fixture(scope="module")
def unchanged():
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
    assert entry.startswith("'network' at ") and entry.endswith("; Line2D #4477aaff - .")
    right = data["axes 2"]
    assert right["titles"][0].startswith("'on the right' at ")
    values = np.array([[0.0, 1.0], [2.0, 3.0]])
    assert right["images"][0]["values"] == f"float64 (2, 2) {digest_of(values.tobytes())}"
    assert right["images"][0]["limits"] == [0.0, 4.0]


FAULTS = {  # what is changed -> the place of the one difference
    "a title": (lambda figure, axes: axes[0].set_title("Spike"), "axes 1 | titles"),
    "a text moves a pixel": (
        lambda figure, axes: figure.texts[0].set_x(0.5025),
        "texts | 1: 'here' at 200.0, 75.0; 10 pt, #ff0000ff -> 'here' at 201.0, 75.0; ",
    ),
    "the colour of a bar": (
        lambda figure, axes: axes[0].patches[1].set_facecolor("#aa3378"),
        "axes 1 | patches | 2: ",
    ),
    "a point of a line": (
        lambda figure, axes: axes[0].lines[0].set_ydata([3, 1.51]),
        "axes 1 | lines | 1 | points | 2 | 2: 1.5 -> 1.51",
    ),
    "an event mark": (
        lambda figure, axes: axes[0].collections[0].set_positions([0.0, 2.5]),
        "axes 1 | collections | 1 | positions | 1: 1.0 -> 0.0",
    ),
    "a pixel of a picture": (
        lambda figure, axes: axes[1].images[0].set_data([[0.0, 1.0], [2.0, 2.0]]),
        "axes 2 | images | 1 | values: ",
    ),
    "a name in a legend": (
        lambda figure, axes: axes[0].get_legend().get_texts()[0].set_text("netwerk"),
        "axes 1 | legend | entries | 1: ",
    ),
    "a hidden title": (
        lambda figure, axes: axes[1].set_title("", loc="right"),
        "axes 2 | titles: ",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_changed_figure_is_noticed(fault, unchanged):
    change, place = FAULTS[fault]
    lines = value_differences(unchanged, draw_by_hand(change), "figure 1")
    assert lines and lines[0].startswith(f"figure 1 | {place}"), lines


def test_figures_are_caught_frame_by_frame(tmp_path):
    with catching_figures() as figures:
        figure = plt.figure(figsize=(1, 1))
        heading = figure.suptitle("timestep 1")
        figure.canvas.draw()
        heading.set_text("timestep 2")
        figure.savefig(tmp_path / "a.png")
        plt.close(figure)
    (caught,) = figures
    drawings = caught.data()["drawings"]
    assert [drawing["texts"] for drawing in drawings.values()] == [
        ["'timestep 1'"],
        ["'timestep 2'"],
    ]
    assert caught.data()["texts"][0].startswith("'timestep 2' at ")
    (pixels,) = Normaliser({}).file(tmp_path / "a.png")["frames"]
    assert caught.pixels == pixels  # so a record can name the figure by its file


def test_what_differs_from_run_to_run_is_taken_out(tmp_path):
    """Clock times, durations, speeds, revisions and folders go; all other numbers stay."""
    normaliser = Normaliser({"REPOSITORY": REPOSITORY, "FOLDER": tmp_path})
    lines = f"""started 2026-12-01 09:08:07
versions: Python 3.11.7, torch 2.13.0; git revision: 83b7b7fa+changes; seed: 3
epoch 1/2: train total 0.4685, accuracy 95.42 %; 1,234.5 s
accuracy 12.50 % on 16 images, 0.3 s
12.5 recordings per second (files already read; threads: 1)
wrote {tmp_path}/a.png; {REPOSITORY}/examples/nmnist.nir
rule           accuracy  spikes  images/s  faster
never           12.50 %   2,034     12.25    1.00
confidence 2    12.50 %   1,034  1,012.25   11.00
faster: images per second"""
    assert (
        normaliser.text(lines)
        == """started TIME
versions: Python 3.11.7, torch 2.13.0; git revision: REVISION; seed: 3
epoch 1/2: train total 0.4685, accuracy 95.42 %; SECONDS s
accuracy 12.50 % on 16 images, SECONDS s
SPEED recordings per second (files already read; threads: 1)
wrote FOLDER/a.png; REPOSITORY/examples/nmnist.nir
rule           accuracy  spikes
never           12.50 %   2,034
confidence 2    12.50 %   1,034
faster: images per second""".splitlines()
    )
    record = {"seconds": 1.5, "date": "2026-12-01", "accuracy": 0.5, 3: float("nan")}
    assert normaliser.value({"epoch": [record]}) == {"epoch": [{"accuracy": 0.5, "3": "nan"}]}


def test_files_are_known_by_their_content(tmp_path):
    """The same tensors in another file, of another time; then with another value, or shape."""
    normaliser = Normaliser({"FOLDER": tmp_path})
    contents = []
    for number, saved in enumerate(
        (
            {"weight": torch.ones(2, 3), "epoch": 1, "seconds": 0.1},
            {"epoch": 1, "weight": torch.ones(2, 3), "seconds": 0.2},
            {"weight": torch.ones(3, 2), "epoch": 1},
            {"weight": torch.ones(2, 3) + torch.eye(3)[:2] * 1e-6, "epoch": 1},
        )
    ):
        torch.save(saved, tmp_path / f"{number}.pth")
        contents.append(normaliser.file(tmp_path / f"{number}.pth"))
    assert contents[0] == contents[1] and contents[0]["epoch"] == 1
    assert contents[2] != contents[0] != contents[3]
    frames = [Image.new("L", (2, 2), value) for value in (0, 90)]
    found = []
    for duration in (100, 250):
        path = tmp_path / "film.gif"
        frames[0].save(path, save_all=True, append_images=frames[1:], duration=duration, loop=0)
        found.append(normaliser.file(path))
    assert [film["durations"] for film in found] == [[100, 100], [250, 250]]
    assert found[0]["frames"] == found[1]["frames"] and len(set(found[0]["frames"])) == 2


@pytest.fixture(scope="module")
def recorded_twice():
    """Two records of a training, one that is interrupted, and a refusal."""
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
    assert [record[f"command {name}: status"] for name in ("training", "interrupted")] == [0, 130]
    (line,) = record["command interrupted: errors"]
    assert line.startswith("stopped by SIGINT in epoch 1 of 1, after update 1")
    assert record["command refused: status"] == 2
    assert record["command refused: errors"][0].startswith("error: unknown recipe")
    saved = record["command training: file trained_models/ann/whole.pth"]
    assert saved["state_dict"]["features.0.weight"].startswith("float32 4x2x3x3 ")
    log = record["command training: file logs/ann/whole.jsonl"]
    assert log["run 1"]["parameters"]["run_name"] == "whole"
    assert "seconds" not in log["epoch 1"]["train"] and log["epoch 1"]["epoch"] == 1
    text = json.dumps(record)
    assert str(REPOSITORY) not in text and "frozen_" not in text


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
    assert lines[:3] == [
        "command training",
        "  output: + one more line",
        f"  {log}: {old} -> 7",
    ]
    assert lines[3:] == [
        "command refused",
        "  status: 2 -> (absent)",
        "gone: snn gone_network dense",
        "no longer run: nir n dense",
        f"{len(found) - 1} keys in both, 3 differ, 1 are new",
    ]
    assert differs
    assert compare_records(kept, kept, lambda group: True)[1] is False


def test_a_revision_is_recorded_by_its_own_script(tmp_path, monkeypatch, capfd):
    """Each of two revisions has a frozen.py that says who recorded; no worktree stays behind."""
    script = tmp_path / "benchmarks/robustness/frozen.py"
    script.parent.mkdir(parents=True)
    stub = """import json, os, pathlib, sys
record = {"command a: status": VALUE, "command a: folder": os.getcwd() == os.environ["PYTHONPATH"]}
pathlib.Path(sys.argv[2]).write_text(json.dumps(record))
"""

    def git(*words):
        author = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", *author, "-C", str(tmp_path), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    git("init", "-q")
    script.write_text(stub.replace("VALUE", "0"))
    git("add", ".")
    git("commit", "-qm", "Before")
    monkeypatch.setattr(frozen, "HERE", tmp_path)
    monkeypatch.setattr(sys, "argv", ["frozen.py", "against", "HEAD", "--part", "commands"])
    for value, status in (("0", 0), ("3", 1)):
        script.write_text(stub.replace("VALUE", value))
        with pytest.raises(SystemExit) as stop:
            frozen.main()
        assert stop.value.code == status
    assert "command a\n  status: 0 -> 3\n" in capfd.readouterr().out
    monkeypatch.setattr(sys, "argv", ["frozen.py", "against", "no_such_revision"])
    with pytest.raises(SystemExit) as stop:
        frozen.main()
    assert stop.value.code == 2
    assert "there is no worktree of no_such_revision" in capfd.readouterr().err
    assert len(git("worktree", "list").splitlines()) == 1
