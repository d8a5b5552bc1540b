"""Benchmarks whose figures the pages quote: they are run tiny, and count as by hand."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from conftest import REPOSITORY, refused, run_here
from PIL import Image

from benchmarks.robustness import frozen, fuzz
from benchmarks.robustness.figure_data import catching_figures, digest_of, figure_data
from benchmarks.robustness.record_differences import compare_records, value_differences
from benchmarks.robustness.recorded_commands import COMMAND_LINES, CommandLine, record_commands
from benchmarks.robustness.recorded_files import Normaliser
from self_models.conversion import bounds_as_thresholds, fit_thresholds
from self_models.data.sets import load_data
from self_models.errors import UserError
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from studies.findings import moving, streams
from studies.link import SendOnDelta, run_link
from studies.speed import microcontroller
from wfeedback.runs.saving import save_checkpoint


def run_study(name, *flags):
    """Run a study; return the JSON objects of the lines that it prints."""
    _, printed = run_here(f"studies.{name}", *flags)
    return [json.loads(line) for line in printed.splitlines()]


# --- streams.py


def test_a_network_settles_when_its_answer_stays_right():
    # A stream's first label is no change, and the last label is too short.
    labels = [3] * 6 + [5] * 7 + [-1] * 2 + [4] * 6 + [2] * 3
    right = [0] * 6 + [0, 0, 1, 0, 1, 1, 1] + [0] * 2 + [1, 1, 1, 1, 1, 0] + [1] * 3

    found = streams.settling(torch.tensor([labels]).T, torch.tensor([right]).T.bool())

    # Label 5 is right from the 5th of its timesteps on; label 4 is wrong at its end.
    assert found.tolist() == [5, float("inf")]


@pytest.fixture
def two_streams():
    """Make frames (T, B, C, H, W) of a pixel that creeps, and of one that flashes."""
    frames = torch.zeros(5, 2, 1, 1, 2)
    frames[:, 0, 0, 0, 0] = torch.tensor([0.0, 0.1, 0.15, 0.25, 0.3])
    frames[:, 1, 0, 0, 1] = torch.tensor([0.0, 0.5, 0.5, 0.5, 0.0])
    return frames


def test_frames_differ_by_epsilon_of_0_2(two_streams):
    found = streams.differs(two_streams[:, 0], two_streams[0, 0])
    assert found.tolist() == [False, False, False, True, True]


def test_send_on_delta_sends_what_is_off_by_epsilon_of_0_2(two_streams):
    held, sent = streams.sent_and_held(two_streams)
    assert sent.T.tolist() == [[0, 0, 0, 1, 0], [0, 1, 0, 0, 1]]
    assert torch.stack(held)[:, 0, 0, 0, 0].tolist() == pytest.approx([0, 0, 0, 0.25, 0.25])


def test_streams_compares_with_the_controls(trained, baseline):
    flags = f"--pair {trained.snn} {baseline} --seeds 0 --scenes part noise"

    lines = run_study("findings.streams", flags, "--streams 3 --steps 24 --engine dense")

    rows = {(row["scene"], row["case"]): row for row in lines if "case" in row}
    assert len(rows) == 10  # 2 scenes, 5 cases
    assert len(lines) == 10 + 8  # 2 scenes, 2 networks against 4 others
    for row in rows.values():
        parts = [row["spikes"][part] for part in ("input", "encoder", "decoder", "classifier")]
        assert row["spikes"]["total"] == pytest.approx(sum(parts))
        assert row["energy_joules"] > 0
        assert 0 <= row["accuracy"] <= 1

    spikes = {key: row["spikes"] for key, row in rows.items()}
    for scene in ("part", "noise"):
        send_on_delta = spikes[scene, "send-on-delta"]
        assert send_on_delta["input"] < spikes[scene, "baseline"]["input"]
    # The detector sleeps while there is but noise.
    assert spikes["noise", "detector"]["total"] < spikes["part", "detector"]["total"]

    comparisons = {}
    for line in lines:
        if "feedback against" in line:
            comparisons[line["scene"], line["feedback against"]] = line
    ratio = spikes["part", "feedback"]["total"] / spikes["part", "baseline"]["total"]
    assert comparisons["part", "baseline"]["spikes"] == [pytest.approx(100 * (ratio - 1)), None]


# --- phased.py


@pytest.fixture
def pair(tmp_path):
    """Save an ANN and the phased SNN of its thresholds; return both."""
    torch.manual_seed(0)
    shape = {"plan": [[4, "M", 6], []], "fc_layers": 0, "init": "kaiming"}
    ann = VGG_wFeedback(**shape, activation_ann="qcfs", qcfs_levels=2).eval()
    ann.features[1].bound.data.fill_(0.7)
    ann.features[4].bound.data.fill_(0.7)
    phased = {"update": "phased", "encoding": "direct", "timesteps": 2, "initial_potential": 0.5}
    snn = VGG_SNN_STDB_wFeedback(**shape, **phased).eval()
    weights, *_ = bounds_as_thresholds(ann.state_dict())
    snn.load_state_dict(weights, strict=False)
    fit_thresholds(snn)
    save_checkpoint(tmp_path / "ann.pth", ann)
    save_checkpoint(tmp_path / "snn.pth", snn)
    return ann, snn


def run_phased(folder):
    """Compare the pair; return a line for each image that they do not answer alike."""
    flags = f"--dataset MNIST --limit_test 40 --pair {folder}/ann.pth {folder}/snn.pth"
    network, *differing = run_study("findings.phased", flags)
    assert network["latency"] == 6
    assert network["levels"] == 2
    assert network["other_class"] == len(differing)
    return differing


@pytest.mark.usefixtures("pair")
def test_phased_finds_that_a_network_answers_as_its_ann(tmp_path):
    assert run_phased(tmp_path) == []


def test_phased_finds_the_layer_by_which_a_network_differs_from_its_ann(tmp_path, pair):
    _, snn = pair
    snn.features[4].threshold.data.mul_(3)
    save_checkpoint(tmp_path / "snn.pth", snn)

    differing = run_phased(tmp_path)

    assert differing
    assert {image["layer"] for image in differing} == {"features.4"}


# --- networks in C


def test_microcontroller_counts_instructions_of_network_and_ann():
    if not (shutil.which("arm-none-eabi-gcc") and shutil.which("qemu-system-arm")):
        pytest.skip("no tools for a Cortex-M4")

    flags = "--networks quick_baseline --cores m4"
    whole, folded = run_study("speed.microcontroller", flags)

    assert whole["weights"] == "int8"
    assert whole["equal"]
    assert whole["instructions"] > 1e6
    assert whole["stack"] < 2000
    assert folded["weights"] == "int8_folded"
    assert folded["equal"]
    assert folded["instructions"] < whole["instructions"]
    assert folded["ram"] < whole["ram"]

    # Of the ANN, layer by layer: places, and synapses of each
    products = (
        28**2 * 9 * 16 + 14**2 * (64 * 16 + 144 * 32 + 288 * 32) + 49 * 128 * 32 + 1568 * 256
    )
    assert products < whole["ann_instructions"] < 4 * products


def test_missing_tools_of_a_microcontroller_are_a_line(monkeypatch):
    line = "m4: not run, since tools are missing. On Debian: apt install qemu-system-arm"
    done = SimpleNamespace(stdout="", stderr=f"{line}\nmake: *** Error 1\n", returncode=2)
    monkeypatch.setattr(microcontroller.subprocess, "run", lambda *_, **__: done)
    with pytest.raises(UserError, match=f"^{re.escape(line)}$"):
        microcontroller.played({}, "m4")


@pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler, cc")
def test_c_export_sends_the_same_spikes():
    flags = "--networks tiny_feedback --images 400 --compared 5 --repeats 1 --cflags=-O1"

    floats, integers = run_study("speed.c_export", flags)

    assert floats["weights"] == "float32"
    assert floats["compared"] == 400
    assert integers["weights"] == "int8"
    assert integers["compared"] == 5
    for row in (floats, integers):
        assert row["differing"] == 0
        for speed in row["images_per_second"].values():
            assert speed > 0


# --- speed beside other simulators


@pytest.mark.others
def test_inference_peers_send_our_spikes(tmp_path):
    """With the gate open, and with blocking in a loop, by step and by layer."""
    peers = ["snntorch", "spikingjelly"]
    for package in peers:
        pytest.importorskip(package, reason=f"{package} is not installed")
    small = "--images 2 --batches 2 --timesteps 8 --rounds 1 --threads 1"
    flags = f"{small} --peers snntorch spikingjelly --picture"

    rows = run_study("speed.inference", flags, tmp_path / "peers.png")

    assert [row["network"] for row in rows] == ["baseline", "blocking"]
    for row in rows:
        assert row["norse"] is None
        assert row["spikes_per_image"] > 500
        assert row["way"].keys() == set(peers)
        for speed in ("ann", "ours_event", "ours_dense", *peers):
            assert row[speed] > 0
        assert row["same_spikes"].pop("ours_event") is True
        assert list(row["same_spikes"]) == peers
        for share_that_differs in row["same_spikes"].values():
            # Rounding may move a spike or two.
            assert share_that_differs is True or 0 < share_that_differs < 1e-3
    with Image.open(tmp_path / "peers.png") as picture:
        assert picture.width > 1000


def test_inference_counts_the_additions_of_spikes(tmp_path):
    picture = tmp_path / "map.png"
    network = "--networks random --widths 1 --rates 0.001 0.1 --images 2"
    measurement = f"--peers --batches 2 --rounds 1 --threads 1 --picture {picture}"

    few, many = run_study("speed.inference", network, measurement)

    # The 32 x 32 pixels of 3 channels spike in each of 4 timesteps. With a kernel of 3,
    # the 32 pixels of a row reach 3 * 32 - 2 = 94 places, in each of 16 channels.
    of_input = 4 * 3 * 94**2 * 16
    assert of_input < few["additions"] < 1.05 * of_input
    assert many["additions"] > 1.5 * of_input
    assert few["ours_event"] > 0
    assert few["way"] == {}
    assert picture.stat().st_size > 10_000


@pytest.mark.others
def test_train_step_trains_the_same_network_three_times():
    """Loss and gradient of the first step agree; segments give ours the same, too."""
    pytest.importorskip("snntorch", reason="snntorch is not installed")
    pytest.importorskip("spikingjelly", reason="spikingjelly is not installed")
    tiny = "-a VGG5_wFeedback_small --fc_width 8 --timesteps 4 --batch_size 4 --rounds 1"

    (every,) = run_study("speed.train_step", tiny)
    (in_segments,) = run_study("speed.train_step", tiny, "--only ours --bptt_segments auto")
    (blocking,) = run_study("speed.train_step", tiny, "--only ours --gate block")

    first = every["ours_first_loss_and_gradient"]
    for found in (
        every["snntorch_first_loss_and_gradient"],
        every["spikingjelly_first_loss_and_gradient"],
        in_segments["ours_first_loss_and_gradient"],
    ):
        assert found == pytest.approx(first, rel=1e-4)
        assert min(found) > 0
    assert blocking["ours_first_loss_and_gradient"] != first
    assert every["ratio_to_fastest_peer_s"] > 0
    assert 0 < every["products_share"] < 1
    assert in_segments["ours_gb"] > 0.1
    assert "snntorch_s" not in in_segments


@pytest.mark.others
def test_train_step_has_no_peers_that_block():
    pytest.importorskip("snntorch", reason="snntorch is not installed")
    pytest.importorskip("spikingjelly", reason="spikingjelly is not installed")
    assert "--only ours" in refused("studies.speed.train_step", "--gate block")


# --- moving.py


def test_a_moving_scene_is_predicted_alike_in_each_engine():
    model = moving.Predictor().eval()
    digits = load_data("MNIST", limit_test=50)[2].images[:, 0]
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
    right = torch.tensor([[1, 1, 0, 0, 1, 1, 0, 0]]).bool()
    becomes = torch.tensor([[0, 0, 1, 0, 0, 1, 1, 0]]).bool()
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
        run_here("studies.findings.moving", f"--seeds 0 --folder {tmp_path}")
        rows.append((tmp_path / "rows.jsonl").read_text())
    assert (
        "NaN" not in rows[0]
        and rows[0] == rows[1]
        and rows[0].count("\n") == len(moving.TESTED_ON)
    )
    assert (
        run_here("studies.findings.moving", f"--summary {tmp_path / 'rows.jsonl'}")[1].count(
            "| ours |"
        )
        == 2
    )
    run_here("studies.findings.moving", f"--grey --seeds 0 --folder {tmp_path}")
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


def moving_row(arm, lost):
    """Return a row of a scene in grey, in which an arm loses so many points."""
    accuracy = {"ours": 0.9, "send-on-delta": 0.1}[arm]
    return {
        "arm": arm,
        "epsilon": 0.3,
        "events": [1.0, 1.0, 1.0],
        "points_lost": lost,
        "of_true": accuracy,
        "inside": {"of": arm},
    }


def test_the_accuracy_shown_at_equal_accuracy_is_ours_or_none():
    """Another arm's is not, where ours loses more than the limit at any epsilon."""
    columns = {
        "one": [moving_row("send-on-delta", 0.1), moving_row("ours", 0.2)],
        "two": [moving_row("send-on-delta", 0.1), moving_row("ours", 0.5)],
    }
    found = moving.at_equal_accuracy(columns)
    assert list(found) == ["one"]
    ((row,),) = found.values()
    assert row["accuracy"] == 0.9 and row["inside"] == {"of": "ours"}


def test_a_table_in_grey_has_dashes_for_an_arm_that_always_loses_too_much(capsys):
    inside = {"D": 1, "V": 1, "M": 1, "additions": 1000}
    rows = []
    for kind, arm, lost in [
        ("one", "send-on-delta", 9.0),
        ("one", "best shift", 0.1),
        ("one", "ours", 0.1),
        ("two", "send-on-delta", 0.1),
        ("two", "ours", 9.0),
    ]:
        row = {"kind": kind, "noise": 0.0, "arm": arm, "epsilon": 0.1, "points_lost": lost}
        rows.append(row | {"of_true": 0.5, "events": [9.0, 3.0, 6.0], "inside": inside})

    moving.print_summary(rows, grey=True)

    said = capsys.readouterr().out
    assert said.startswith("two: ours loses more than 0.3 points at every epsilon\n| | one |\n")
    assert "| ours | 9.0 (0.1) |" in said and "| best shift less ours | 0.0 |" in said
    assert "send-on-delta" not in said and "price" not in said


# --- fuzz.py


@pytest.mark.parametrize("kind", [fuzz.checkpoints, fuzz.data_files, fuzz.flag_values])
def test_only_clean_errors(kind, tmp_path):
    counts = kind(40, tmp_path)
    assert counts["examples"] >= 40
    assert 0 < counts["refused"] <= counts["examples"]


# --- frozen.py: what a record holds, and what it notices


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
