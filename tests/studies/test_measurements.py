"""Studies whose figures the pages quote: they are run tiny, and count as by hand."""

import json
import re
import shutil
from types import SimpleNamespace

import pytest
import torch
from conftest import refused, run_here
from PIL import Image

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
