"""Recordings of event cameras, NIR networks, and feedback networks that see frames.

What the files of recordings hold; NIR networks on recordings and on still images;
networks with feedback that see another frame in each timestep.
"""

import importlib
import itertools
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import nir
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import (
    BALANCE,
    PLAN,
    REPOSITORY,
    digests,
    make_folder,
    module_of,
    records,
    refused,
    run_as_program,
    run_here,
    run_undrawn,
)
from PIL import Image
from test_stream import check_joined

from self_models import ModelError, evaluate, from_nir, load
from self_models.conversion import balance_thresholds
from self_models.data.events import read_as_frames, read_recording, rows_in
from self_models.data.folders import list_folder
from self_models.data.sets import augmented, load_data
from self_models.evaluation.batches import Arrival, event_batches
from self_models.evaluation.operations import conventions
from self_models.running.draws import EVALUATION, Batch, Draws
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback
from wfeedback.drawing.film import as_pixels
from wfeedback.energy.ledger import graph_entries
from wfeedback.nir.simulators import check

NIR = "nir"
NETWORK = REPOSITORY / "examples/nmnist.nir"
RECORDINGS = REPOSITORY / "data/nmnist"
OTHERS = REPOSITORY.parent / "shared/data/nir/cnn_sinabs.nir"  # of somebody else, where it is
NIR_PAGES = ("docs/how_to/nir.md", "docs/how_to/nir_write.md", "docs/reference/nir_nodes.md")
PAGE = "\n".join((REPOSITORY / page).read_text(encoding="utf-8") for page in NIR_PAGES)
EVENTS = [(1, 0, 1, 2500), (3, 2, 0, 2999), (3, 2, 0, 4000), (0, 1, 1, 9999)]  # x, y, p, t
FIELDS = [("x", "<i2"), ("y", "<i2"), ("p", "?"), ("t", "<i8")]


def as_bin(events):
    """Encode events as N-MNIST does: x, y, and a bit of p before the 23 bits of t."""
    encoded = b""
    for x, y, p, t in events:
        encoded += bytes([x, y, p << 7 | t >> 16, t >> 8 & 255, t & 255])
    return encoded


def write_bin(path, events):
    """Write events as N-MNIST does."""
    path.write_bytes(as_bin(events))


def write_npy(path, events):
    """Write events as one structured array."""
    np.save(path, np.array(events, FIELDS))


def write_npz_of_fields(path, events):
    """Write events as an array for each of x, y, p and t."""
    x, y, p, t = np.array(events).T
    np.savez(path, x=x, y=y, p=p, t=t)


def write_npz_of_events(path, events):
    """Write events as a structured array of the name events."""
    np.savez_compressed(path, events=np.array(events, FIELDS))


@pytest.mark.parametrize(
    ("name", "write_events"),
    [
        ("a.bin", write_bin),
        ("a.npy", write_npy),
        ("a.npz", write_npz_of_fields),
        ("b.npz", write_npz_of_events),
    ],
)
def test_events_by_hand(tmp_path, name, write_events):
    path = tmp_path / name
    write_events(path, EVENTS)

    # Times count from the first event on: 0, 499, 1500 and 7499 us.
    rows, steps = rows_in(path, (2, 4, 4), 1e-3)
    assert rows.tolist() == [[0, 1, 0, 1], [0, 0, 2, 3], [2, 0, 2, 3], [7, 1, 1, 0]]
    assert steps == 8

    # One input channel takes events of both kinds.
    rows, steps = rows_in(path, (1, 4, 4), 5e-3)
    assert rows.tolist() == [[0, 0, 0, 1], [0, 0, 2, 3], [0, 0, 2, 3], [1, 0, 1, 0]]
    assert steps == 2

    # Three events for each timestep.
    rows, steps = rows_in(path, (2, 4, 4), 1e-3, 3)
    assert rows.tolist() == [[0, 1, 0, 1], [0, 0, 2, 3], [0, 0, 2, 3], [1, 1, 1, 0]]
    assert steps == 2

    # Two frames, of half of the time or of half of the events. Two events are 255.
    for split_by, frame_of_event in (("time", (0, 0, 0, 1)), ("number", (0, 0, 1, 1))):
        counts = np.zeros((2, 2, 4, 4))
        for t, (x, y, p, _) in zip(frame_of_event, EVENTS, strict=True):
            counts[t, p, y, x] += 1
        frames = read_as_frames(path, (2, 2, 4, 4), 2, split_by)
        assert np.array_equal(frames, np.round(counts * 127.5))


def test_timesteps_begin_where_they_are_due_and_are_counted(tmp_path):
    times = (-246, -1, 0, 122, 123, 245, 246)
    np.save(tmp_path / "a.npy", np.array([(0, 0, 0, t) for t in times], FIELDS))

    rows, steps = rows_in(tmp_path / "a.npy", (2, 4, 4), 123e-6)

    # Microseconds after the first event: 0, 245, 246, 368, 369, 491, 492; by 123.
    assert rows[:, 0].tolist() == [0, 1, 2, 2, 3, 3, 4]
    assert steps == 5


def test_frames_have_no_number_of_events_per_timestep(tmp_path):
    np.save(tmp_path / "b.npy", np.ones((2, 2, 4, 4), np.uint8))

    with pytest.raises(ModelError, match="leave out --events_per_step"):
        rows_in(tmp_path / "b.npy", (2, 4, 4), 1e-3, 5)


def test_frames_are_timesteps(tmp_path):
    counts = np.zeros((3, 2, 4, 4), np.uint8)
    counts[0, 1, 2, 3] = 2
    counts[2, 0, 0, 0] = 1
    np.save(tmp_path / "a.npy", counts)
    np.save(tmp_path / "b.npy", counts.sum(1, keepdims=True))

    rows, steps = rows_in(tmp_path / "a.npy", (2, 4, 4), 1e-3)
    assert rows.tolist() == [[0, 1, 2, 3], [0, 1, 2, 3], [2, 0, 0, 0]]
    assert steps == 3

    for name in ("a.npy", "b.npy"):  # of a network with one input channel
        rows, _ = rows_in(tmp_path / name, (1, 4, 4), 1e-3)
        assert rows.tolist() == [[0, 0, 2, 3], [0, 0, 2, 3], [2, 0, 0, 0]]

    with pytest.raises(ModelError, match=r"frames must be \(T, 2, H, W\)"):
        rows_in(tmp_path / "b.npy", (2, 4, 4), 1e-3)


@pytest.mark.parametrize("name", ["a.npz", "a.npy"])
@pytest.mark.parametrize(
    ("steps", "off", "on"),
    [
        # Counts 1, 2, 3, 4, 5 of one pixel and 0, 0, 0, 1, 0 of another, times 255 / 8.
        (1, [255], [32]),  # 15, and more than 8 are 255, too
        (2, [191, 255], [0, 32]),  # 1 + 2 + 3 = 6, and 4 + 5 = 9
        (3, [96, 223, 159], [0, 32, 0]),  # 1 + 2 = 3, 3 + 4 = 7, and 5
        (5, [32, 64, 96, 128, 159], [0, 0, 0, 32, 0]),
    ],
)
def test_neighbouring_frames_are_added_up(tmp_path, name, steps, off, on):
    counts = np.zeros((5, 2, 1, 2), np.int64)
    counts[:, 0, 0, 0] = [1, 2, 3, 4, 5]
    counts[:, 1, 0, 1] = [0, 0, 0, 1, 0]
    write_frames(tmp_path / "a.npz", counts)
    np.save(tmp_path / "a.npy", counts.astype(np.float32))

    frames = read_as_frames(tmp_path / name, (steps, 2, 1, 2), 8)

    assert frames[:, 0, 0, 0].tolist() == off
    assert frames[:, 1, 0, 1].tolist() == on


def test_one_event_is_white_where_a_count_of_1_is(tmp_path):
    counts = np.zeros((5, 2, 1, 2), np.int64)
    counts[:, 0, 0, 0] = [1, 2, 3, 4, 5]
    counts[3, 1, 0, 1] = 1
    write_frames(tmp_path / "a.npz", counts)

    frames = read_as_frames(tmp_path / "a.npz", (5, 2, 1, 2), 1)

    assert frames[:, 1, 0, 1].tolist() == [0, 0, 0, 255, 0]


@pytest.mark.others
def test_recordings_are_read_as_tonic_reads_them():
    tonic = pytest.importorskip("tonic")
    path = next(RECORDINGS.glob("7/*.bin"))
    fields = np.dtype([(name, np.int64) for name in "xytp"])

    theirs = tonic.io.read_mnist_file(str(path), fields)
    ours = read_recording(path)

    for name in "xytp":
        assert np.array_equal(theirs[name], getattr(ours, name))


@pytest.fixture
def folder(tmp_path):
    """Copy two of the recordings here for each class to FOLDER/CLASS."""
    few = tmp_path / "few"
    for label in range(10):
        (few / str(label)).mkdir(parents=True)
        for path in sorted((RECORDINGS / str(label)).glob("*.bin"))[:2]:
            shutil.copy(path, few / str(label))
    return few


def cut_a_recording_off(folder):
    """Write seven bytes, and an event has five."""
    (folder / "0/a.bin").write_bytes(bytes(7))


def add_recording(events, folder):
    """Add a recording of these events to the class 0."""
    write_bin(folder / "0/a.bin", events)


def take_two_classes_away(folder):
    """Remove the class 8, and rename 9 to what is no class of the network."""
    shutil.rmtree(folder / "8")
    (folder / "9").rename(folder / "x")


@pytest.mark.parametrize(
    ("spoil", "flags", "words"),
    [
        pytest.param(
            cut_a_recording_off,
            "",
            "0/a.bin: its 7 bytes are no whole events of 5",
            id="cut off",
        ),
        pytest.param(
            partial(add_recording, [(3, 34, 0, 5)]),
            "",
            "0/a.bin: an event at x = 3, y = 34 lies outside 34x34 pixels: choose",
            id="outside",
        ),
        pytest.param(
            partial(add_recording, [(1, 1, 0, 9), (1, 1, 0, 5)]),
            "",
            "0/a.bin: event 1 is at 5 us, after one at 9: sort its events by t",
            id="back in time",
        ),
        pytest.param(
            partial(add_recording, [(1, 1, 0, 0), (1, 1, 0, 2**22)]),
            "--dt 1e-5",
            "419,431 timesteps of 0.01 ms: give a larger --dt",
            id="long",
        ),
        pytest.param(take_two_classes_away, "", "{network} 10 outputs: ", id="an unknown class"),
    ],
)
def test_what_cannot_be_run_gets_a_line(folder, tmp_path, spoil, flags, words):
    spoil(folder)

    line = refused(NIR, NETWORK, folder, f"{flags} --output_dir {tmp_path / 'out'}")

    assert words.format(network=NETWORK) in line
    assert str(folder) in line
    assert not list((tmp_path / "out").rglob("*.log"))


def test_a_network_of_a_library_on_the_recordings_here(tmp_path):
    found, said = run_here(NIR, NETWORK, RECORDINGS, f"--wrong --output_dir {tmp_path}")

    # 86 of the 100 recordings, which it has not seen in training.
    assert (found["right"], found["recordings"], found["timesteps"]) == (86, 100, 32)
    assert found["dt"] == 0.01
    assert set(found["joules"]) == {"arithmetic_45nm", "with_memory"}
    pattern = r"^wrong: \S+/data/nmnist/(\d)/\d+\.bin: class (\d), predicted (\d)$"
    wrong = re.findall(pattern, said, re.MULTILINE)
    assert len(wrong) == 14
    for class_folder, label, predicted in wrong:
        assert class_folder == label != predicted

    log = (tmp_path / "logs/nir/nmnist.log").read_text()
    assert "accuracy 86.00 %: 86 of 100 recordings" in log
    (record,) = records(tmp_path / "logs/nir/nmnist.jsonl", "nir")
    assert record["spikes"] == found["spikes"]
    assert record["spikes"]["input"] > 4000


def test_kernel_pytorch_and_one_recording_at_a_time_give_the_same(tmp_path):
    flags = f"--limit 20 --output_dir {tmp_path}"
    several, _ = run_here(NIR, NETWORK, RECORDINGS, flags)

    for other_way in ("--engine dense", "--batch_size 1"):
        other, _ = run_here(NIR, NETWORK, RECORDINGS, f"{other_way} {flags}")
        assert other["right"] == several["right"]
        assert other["spikes"] == several["spikes"]


def test_a_film_of_a_recording_has_a_frame_for_each_timestep(tmp_path):
    first_events = sorted(RECORDINGS.glob("3/*.bin"))[0].read_bytes()[: 5 * 400]
    (tmp_path / "short.bin").write_bytes(first_events)
    _, steps = rows_in(tmp_path / "short.bin", (2, 34, 34), 0.01)

    flags = f"--limit 1 --gif {tmp_path}/short.bin --run_name x --output_dir {tmp_path}"
    run_here(NIR, NETWORK, RECORDINGS, flags)

    with Image.open(tmp_path / "trained_models/nir/x.gif") as gif:
        assert gif.n_frames == steps == 4
        assert len(gif.convert("RGB").getcolors(2**20)) > 20


def test_timesteps_may_be_made_of_a_number_of_events(tmp_path):
    flags = "--limit 1 --events_per_step 500 --steps 4 --reset subtract"

    _, said = run_here(NIR, NETWORK, RECORDINGS, f"{flags} --output_dir {tmp_path}")

    assert "4 timesteps of 500 events" in said


def test_additions_by_hand():
    """An event in a corner of 3x3 places meets 4 of 9 weights; in the middle, all."""
    nodes = {
        "input": nir.Input({"input": np.array([1, 3, 3])}),
        "convolution": nir.Conv2d((3, 3), np.ones((2, 1, 3, 3)), 1, 1, 1, 1, np.zeros(2)),
        "fires": nir.IF(np.ones((2, 3, 3)), np.full((2, 3, 3), 0.5)),
        "pool": nir.SumPool2d(np.array([3, 3]), np.array([3, 3]), np.array([0, 0])),
        "flat": nir.Flatten({"input": np.array([2, 1, 1])}, 0, -1),
        "classifier": nir.Affine(np.ones((5, 2)), np.zeros(5)),
        "output": nir.Output({"output": np.array([5])}),
    }
    model = from_nir(nir.NIRGraph(nodes, [*pairwise(list(nodes))]))
    corner = [0, 0, 0, 0]
    middle = [1, 0, 1, 1]

    entries = graph_entries(model, [np.array([corner, middle])], 2)

    # Each of the two channels has 4 weights for the corner and 9 for the middle, and as
    # many neurons spike: 2 * 4 + 2 * 9 = 26 spikes. Each reaches the 5 outputs.
    counts = {entry.layer: (entry.spikes, entry.synops, entry.weights) for entry in entries}
    assert counts == {"input": (2, 0, 0), "fires": (26, 8 + 18, 18), "output": (0, 26 * 5, 10)}


@pytest.mark.others
def test_other_simulators_send_the_same_spikes(tmp_path):
    for name in ("norse", "spikingjelly"):
        pytest.importorskip(name)

    flags = f"--check norse spikingjelly --limit 1 --output_dir {tmp_path}"
    rows, said = run_here(NIR, NETWORK, flags)

    verdicts = [(row.simulator, row.verdict) for row in rows]
    assert verdicts == [("kernel", "same"), ("norse", "same"), ("spikingjelly", "same")]
    assert "spikes of 3 nodes" in said


@pytest.mark.skipif(not OTHERS.is_file(), reason="the network of NIR's paper is not here")
def test_the_network_of_nirs_paper(tmp_path):
    found, _ = run_here(NIR, OTHERS, RECORDINGS, f"--dt 1e-3 --output_dir {tmp_path}")

    assert (found["right"], found["recordings"]) == (98, 100)


def run_example(*words, cwd):
    """Run examples/train_nir.py from a folder, without the repository on its path."""
    pytest.importorskip("spikingjelly")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, str(REPOSITORY / "examples/train_nir.py"), *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment)


@pytest.mark.others
@pytest.mark.parametrize(
    ("words", "line"),
    [
        ((), "error: the following arguments are required: FOLDER, FILE.nir"),
        (("none", "new.nir"), "error: none has no recordings"),
        (("none", "none/new.nir"), "error: none/new.nir: give a file in a folder that is there"),
        (("damaged", "new.nir"), "error: damaged/0/a.bin: its 3 bytes are no whole events"),
    ],
)
def test_the_example_refuses_wrong_paths_in_one_line(tmp_path, words, line):
    damaged = tmp_path / "damaged/0/a.bin"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"abc")

    done = run_example(*words, cwd=tmp_path)

    assert done.returncode == 2
    assert done.stderr.startswith(line)
    assert done.stderr.count("\n") == 1


@pytest.mark.others
def test_the_example_trains_and_writes_what_runs(folder, tmp_path):
    done = run_example(str(folder), "new.nir", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found, _ = run_here(NIR, tmp_path / "new.nir", folder, f"--output_dir {tmp_path}")

    assert found["accuracy"] > 0.5  # of those that it has seen


# --- still images


STILL = 12  # images
SHOWN = 4  # timesteps, in which it mistakes some of them


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Export quick_baseline, which was trained with encoding poisson, to a NIR file."""
    path = tmp_path_factory.mktemp("exported") / "net.nir"
    run_here("export", f"quick_baseline --to nir --output {path}")
    return path


@pytest.fixture(scope="module")
def network(exported):
    """Load the network of that file."""
    return load(exported)


@pytest.fixture(scope="module")
def digits():
    """Load the first images of MNIST's test set."""
    return load_data("MNIST", limit_test=STILL)[2]


def counted_by_hand(path, arriving):
    """Run a chain of NIR nodes timestep by timestep, from its file's numbers alone.

    Parameters
    ----------
    path : Path
        A file whose neurons are IF, with r = 1 and the threshold subtracted.
    arriving : Tensor of shape (T, B, ...)
        What arrives in each timestep.

    Returns
    -------
    logits : Tensor of shape (B, classes)
        What the last node sends, summed over time.
    spikes : dict of {str: float}
        Spikes of each neuron node, per image.
    """
    graph = nir.read(path)
    after = dict(graph.edges)
    logits = 0
    potentials = {}
    spikes = {}
    for signal in arriving:
        name = after["input"]
        while name != "output":
            node = graph.nodes[name]
            kind = type(node).__name__
            if kind == "Conv2d":
                weight = torch.from_numpy(node.weight)
                bias = torch.from_numpy(node.bias)
                stride = int(np.ravel(node.stride)[0])
                padding = int(np.ravel(node.padding)[0])
                signal = F.conv2d(signal, weight, bias, stride, padding)
            elif kind == "Affine":
                weight = torch.from_numpy(node.weight)
                bias = torch.from_numpy(node.bias)
                signal = F.linear(signal, weight, bias)
            elif kind == "Flatten":
                signal = signal.flatten(1)
            else:
                assert kind == "IF" and (node.r == 1).all()
                threshold = torch.from_numpy(node.v_threshold)
                potential = potentials.get(name, 0) + signal
                signal = (potential > threshold).float()
                potentials[name] = potential - threshold * signal
                spikes[name] = spikes.get(name, 0) + signal.sum().item() / len(signal)
            name = after[name]
        logits = logits + signal
    return logits, spikes


def arriving_by_hand(digits, encoding):
    """Give for each timestep (T, B, 1, 28, 28) the image, or its events with seed 3."""
    images = digits.images / 255
    if encoding == "constant":
        return images.expand(SHOWN, *images.shape)
    numbers = Draws(3, EVALUATION, torch.arange(STILL)).uniforms(SHOWN, (1, 28, 28))
    return (numbers <= images).float()


@pytest.fixture(scope="module", params=["constant", "poisson"])
def by_hand(request, exported, digits):
    """Run the exported network on the digits by hand, with each encoding."""
    arriving = arriving_by_hand(digits, request.param)
    logits, spikes = counted_by_hand(exported, arriving)
    spikes["input"] = (arriving != 0).sum().item() / STILL
    predicted = logits.argmax(1)
    right = int((predicted == digits.labels).sum())
    assert 0 < right < STILL
    return SimpleNamespace(
        encoding=request.param, spikes=spikes, predicted=predicted.tolist(), right=right
    )


def test_still_images_by_a_loop_of_ones_own(exported, network, digits, by_hand):
    """By either engine, as a data set, bytes or floats, in whatever batches."""
    shown = {"timesteps": SHOWN, "encoding": by_hand.encoding, "seed": 3}

    for model in (load(exported, engine="dense"), network):
        found = evaluate(model, digits, batch_size=5, **shown)
        assert found["spikes"] == pytest.approx(by_hand.spikes, rel=2e-3)  # rounding decides some
        assert found["accuracy"] == by_hand.right / STILL
        assert found["per_image"]["found"].tolist() == by_hand.predicted
        assert sum(sum(row) for row in found["confusion"]) == STILL

    of_bytes = evaluate(network, digits.images, digits.labels, scale=255, **shown)
    of_floats = evaluate(network, digits.images / 255, digits.labels, **shown)
    assert of_bytes["spikes"] == of_floats["spikes"] == found["spikes"]


def test_still_images_from_the_command_line(exported, digits, by_hand, tmp_path):
    encoding = by_hand.encoding
    right = by_hand.right
    wrong = []
    for number, predicted in enumerate(by_hand.predicted):
        label = digits.labels[number]
        if predicted != label:
            wrong.append(f"wrong: image {number}: class {label}, predicted {predicted}")

    flags = f"--dataset MNIST --limit {STILL} --timesteps {SHOWN} --encoding {encoding}"
    if encoding == "poisson":
        flags += " --seed 3"
    record, said = run_here(
        NIR, exported, f"{flags} --batch_size 5 --wrong --output_dir {tmp_path}"
    )

    assert (record["images"], record["right"]) == (STILL, right)
    assert record["accuracy"] == right / STILL
    assert record["spikes"] == pytest.approx(by_hand.spikes, rel=2e-3)
    assert f"accuracy {100 * right / STILL:.2f} %: {right} of {STILL} images" in said
    assert re.findall("^wrong: .*$", said, re.MULTILINE) == wrong
    assert "note: the network was trained with --encoding poisson --timesteps 6" in said

    (kept,) = records(tmp_path / "logs/nir/net.jsonl", "nir")
    assert kept == record
    assert kept["dataset"] == "MNIST"
    assert kept["encoding"] == encoding


def test_poisson_gives_what_the_network_gave_before_it_was_exported(network, digits):
    """The random numbers are the same, and so are the spikes and additions."""
    snn = load(REPOSITORY / "trained_models/snn/quick_baseline.pth", timesteps=SHOWN)
    wanted = evaluate(snn, digits, seed=1)

    found = evaluate(network, digits, seed=1, timesteps=SHOWN, encoding="poisson")

    spikes = {name.replace(".", "_"): count for name, count in wanted["spikes"].items()}
    assert found["spikes"] == spikes
    assert found["confusion"] == wanted["confusion"]

    arrival = Arrival(SHOWN, encoding="poisson")
    (batch,) = event_batches(network, digits, None, STILL, arrival)
    entries = graph_entries(network, batch.events(1), SHOWN)
    additions = wanted["operations"]["event_acs"]
    assert sum(entry.synops for entry in entries) == pytest.approx(additions)


def one_layer_graph(shape, classes, **metadata):
    """Make a NIR graph of one layer of neurons, with random weights."""
    draw = np.random.default_rng(0)
    size = int(np.prod(shape))
    weight = draw.normal(size=(classes, size)).astype(np.float32)
    ones = np.ones(classes, np.float32)
    nodes = {
        "input": nir.Input({"input": np.array(shape)}),
        "flat": nir.Flatten({"input": np.array(shape)}, 0, -1),
        "weights": nir.Affine(weight, np.zeros(classes, np.float32)),
        "fires": nir.IF(r=ones, v_threshold=ones),
        "output": nir.Output({"output": np.array([classes])}),
    }
    return nir.NIRGraph(nodes, [*pairwise(list(nodes))], metadata=metadata)


def test_a_folder_of_colour_images(tmp_path):
    """A black pixel is 0 and sends nothing, or -1 where values are signed."""
    folder = make_folder(tmp_path / "images", shape=(6, 6, 3))
    for part in ("train", "test"):
        Image.new("RGB", (6, 6)).save(folder / part / "cat/0.png")
    nir.write(tmp_path / "net.nir", one_layer_graph((3, 6, 6), 2))
    ours_graph = one_layer_graph((3, 6, 6), 2, encoding="direct", timesteps=2)
    nir.write(tmp_path / "ours.nir", ours_graph)
    test = load_data(str(folder))[2]

    flags = f"--dataset {folder} --timesteps 2 --output_dir {tmp_path}"
    unsigned, said = run_here(NIR, tmp_path / "net.nir", flags)
    assert "data: images, colour images of 6x6 pixels, 2 classes; images: test 8" in said
    assert "each pixel's value, 0 to 1, arrives" in said

    signed, said = run_here(NIR, tmp_path / "net.nir", f"{flags} --signed")
    assert "each pixel's value, -1 to 1, arrives" in said

    # A file of ours says that its network was trained with values in [-1, 1].
    ours, _ = run_here(NIR, tmp_path / "ours.nir", flags)
    assert ours["spikes"] == signed["spikes"]
    assert ours["joules"] == signed["joules"]

    lit = (test.images != 0).sum().item() / len(test)
    assert unsigned["spikes"]["input"] == 2 * lit  # in each of 2 timesteps
    assert signed["spikes"]["input"] == 2 * 3 * 6 * 6  # every pixel of 3 channels
    assert signed["additions"]["fires"] == 2 * 3 * 6 * 6 * 2  # at each of 2 neurons

    for name, record in (("net.nir", unsigned), ("ours.nir", ours)):
        found = evaluate(load(tmp_path / name), test, timesteps=2)
        assert found["spikes"] == record["spikes"]
    found = evaluate(load(tmp_path / "ours.nir"), test, timesteps=2, scale=255)
    assert found["spikes"] == unsigned["spikes"]


def test_a_network_of_a_vector_takes_pictures(tmp_path, digits):
    nir.write(tmp_path / "net.nir", one_layer_graph((784,), 10))
    flags = f"--dataset MNIST --limit {STILL} --timesteps 3 --output_dir {tmp_path}"
    model = load(tmp_path / "net.nir")
    flat = digits.images.flatten(1)

    record, _ = run_here(NIR, tmp_path / "net.nir", flags)

    found = evaluate(model, flat, digits.labels, timesteps=3, scale=255)
    assert found["spikes"] == record["spikes"]
    assert evaluate(model, digits, timesteps=3)["spikes"] == record["spikes"]

    poisson = {"timesteps": 3, "encoding": "poisson"}
    of_vectors = evaluate(model, flat, digits.labels, scale=255, **poisson)
    assert evaluate(model, digits, **poisson)["spikes"] == of_vectors["spikes"]


def test_values_are_multiplied_and_whole_numbers_are_added():
    """By hand: each of two places reaches 3 neurons."""
    model = from_nir(one_layer_graph((2,), 3), dt=1)

    counts = torch.tensor([[[2.0, 1.0]]])
    of_input, of_neurons = graph_entries(model, counts, 1)
    assert of_input.spikes == 2 + 1  # a count of 2 is 2 events
    assert of_neurons.synops == 3 * (2 + 1)
    assert not of_neurons.real

    values = torch.tensor([[[2.0, 0.5]]])
    of_input, of_neurons = graph_entries(model, values, 1)
    assert of_input.spikes == 1 + 1  # a value is one event
    assert of_neurons.synops == 3 * (1 + 1)
    assert of_neurons.real

    # A multiplication with its addition, 4.6 pJ, for each of the 6.
    prices = conventions()["arithmetic_45nm"]
    assert of_neurons.picojoules(prices, "event-driven") == pytest.approx(6 * 4.6)


def test_recordings_are_evaluated_in_python_too():
    paths = [next(RECORDINGS.glob(f"{label}/*.bin")) for label in range(4)]
    labels = torch.arange(4)
    model = load(NETWORK)
    rows = [rows_in(path, model.graph.shape, model.dt)[0] for path in paths]
    steps = 1 + max(int(events[:, 0].max()) for events in rows)
    frames = torch.zeros(4, steps, *model.graph.shape, dtype=torch.uint8)
    for frames_of_one, events in zip(frames, rows, strict=True):
        np.add.at(frames_of_one.numpy(), tuple(events.T), 1)

    listed = evaluate(model, rows, labels, batch_size=3)
    with pytest.raises(ModelError, match="may be pixels or numbers of events"):
        evaluate(model, frames, labels)
    counted = evaluate(model, frames, labels, counts=True)

    logits = model(rows, steps).logits
    assert listed["spikes"] == counted["spikes"]
    assert listed["accuracy"] == (logits.argmax(1) == labels).double().mean()
    assert listed["spikes"]["input"] == sum(len(events) for events in rows) / 4


BYTES = torch.full((2, 1, 28, 28), 200, dtype=torch.uint8)
WRONG_DATA = [  # data, words on them, what the error says
    (BYTES, {"timesteps": 4}, "bytes up to 200 may be pixels or numbers of events"),
    (BYTES, {"scale": 255}, r"still images: say for how many timesteps .* timesteps=T"),
    (BYTES, {"timesteps": 0, "scale": 255}, "timesteps: 0 is not"),
    (BYTES, {"timesteps": 4, "encoding": "poisson", "counts": True}, "these reach 200: give a"),
    (BYTES, {"timesteps": 4, "encoding": "latency", "scale": 255}, "unknown name 'latency'"),
    (BYTES[:, :, 1:], {"timesteps": 4}, r"takes images \(B, 1, 28, 28\) with timesteps=T, or"),
    (BYTES / torch.nan, {"timesteps": 4}, "some values of the data are not finite"),
    (BYTES[:, None], {"timesteps": 4, "scale": 255}, "1 timesteps of their own: leave out"),
    (BYTES[:, None], {"encoding": "poisson", "scale": 255}, "encoding is for still images"),
    (BYTES[:0], {"timesteps": 4}, "data must have at least one image"),
    ([], {}, "data must have at least one recording"),
    ([np.zeros((1, 4), int)] * 2, {"scale": 255}, "scale and encoding are for images"),
    ([np.zeros(4, int)] * 2, {}, r"recording 0: its events must be whole numbers \(n, 4\)"),
]


@pytest.mark.parametrize(("data", "words", "said"), WRONG_DATA, ids=range(len(WRONG_DATA)))
def test_data_that_do_not_fit_a_network_of_events(network, data, words, said):
    labels = torch.tensor([3, 4])[: len(data)]

    with pytest.raises(ModelError, match=said):
        evaluate(network, data, labels, **words)


def test_words_on_images_that_a_network_does_not_take(network, digits):
    snn = load(REPOSITORY / "trained_models/snn/quick_baseline.pth")

    for words in ({"timesteps": 4}, {"scale": 255}, {"counts": True}, {"encoding": "poisson"}):
        with pytest.raises(ModelError, match="are for networks of events, as NIR files"):
            evaluate(snn, digits, **words)

    with pytest.raises(ModelError, match="an ImageSet has no counts"):
        evaluate(network, digits, timesteps=4, counts=True)


REFUSED = [  # flags, what the line of the error says
    ("--dataset MNIST", "--dataset needs --timesteps T"),
    ("--dataset MNIST --timesteps 0", "0 is not"),
    ("--dataset MNIST --timesteps 4 --encoding latency", "invalid choice: 'latency'"),
    ("--dataset CIFAR10 --timesteps 4", "colour images of 32x32 pixels, (3, 32, 32), and {net}"),
    ("--dataset CIFAR10 --timesteps 4", "takes (1, 28, 28): give one that fits"),
    ("--dataset {here}/cats --timesteps 4", "has 2 classes (cat, dog), and {net} has 10 outputs"),
    ("--dataset MINST --timesteps 4", "did you mean MNIST?"),
    ("--dataset {recordings} --timesteps 4", "has recordings: give the folder without --dataset"),
    ("{here} --dataset MNIST --timesteps 4", "{here} names recordings, and --dataset images"),
    ("--dataset MNIST --timesteps 4 --steps 3", "--steps is for recordings, and --dataset"),
    ("--dataset MNIST --timesteps 4 --events_per_step 9", "--events_per_step is for recordings"),
    ("--dataset MNIST --timesteps 4 --gif x.npy", "--gif is for recordings, and --dataset"),
    ("--timesteps 4", "--timesteps is for images: add --dataset NAME|FOLDER"),
    ("--encoding poisson", "--encoding is for images: add --dataset"),
    ("--seed 1", "--seed is for images: add --dataset"),
    ("--signed", "--signed is for images: add --dataset"),
    ("--data_dir {here}", "--data_dir is for images: add --dataset"),
    ("--skip_bad", "--skip_bad is for images: add --dataset"),
    ("{here}/cats", "of images: --dataset FOLDER --timesteps T"),
]


@pytest.mark.parametrize(("flags", "words"), REFUSED, ids=range(len(REFUSED)))
def test_images_that_cannot_be_run_get_a_line(exported, tmp_path, flags, words):
    make_folder(tmp_path / "cats", count=1)
    names = {"here": tmp_path, "net": exported, "recordings": RECORDINGS}

    line = refused(NIR, exported, f"{flags.format(**names)} --output_dir {tmp_path / 'out'}")

    assert words.format(**names) in line
    assert not list((tmp_path / "out").rglob("*.log"))


def test_a_network_without_a_place_for_recordings_says_how_it_takes_images(tmp_path):
    nir.write(tmp_path / "net.nir", one_layer_graph((784,), 10))

    line = refused(NIR, tmp_path / "net.nir", f"--output_dir {tmp_path}")

    assert "for images give --dataset NAME|FOLDER --timesteps T" in line


def test_images_are_checked_in_all_simulators(exported, tmp_path, monkeypatch):
    """What they would run are the values that the network sees."""
    inputs_seen = []

    def keep_inputs(_path, inputs, *_, **__):
        inputs_seen.append(inputs)
        return []

    monkeypatch.setattr(module_of(NIR), "check", keep_inputs)
    flags = f"--dataset MNIST --limit 2 --timesteps 3 --check --output_dir {tmp_path}"
    run_here(NIR, exported, flags)

    images = load_data("MNIST")[2].images[:2]
    (inputs,) = inputs_seen
    assert torch.equal(inputs, images[:, None].expand(-1, 3, -1, -1, -1) / 255)
    assert check(exported, inputs, 3, names=()) == [("kernel", "", "same", "")]


# --- feedback networks that see a frame in each timestep


SIZE = (2, 12, 12)
FRAMES = 6
FRAME_NET = {
    "plan": PLAN,
    "fc_width": 8,
    "image_shape": SIZE,
    "labels": 3,
    "recorded_frames": FRAMES,
}
SPIKING = {
    "timesteps": FRAMES,
    "update": "immediate",
    "readout": "membrane_linear",
    "readout_slew": 0.3,
}
BLOCKS = {"gate": "block", "blocking": "dynamic", "epsilon": 0.2}
CASES = {
    "open": {},
    "block": {**BLOCKS, "latch": True},
    "next": {**BLOCKS, "predict": "next", "encoding": "direct", "surprise": 2.0},
    "rebuilt": {"gate": "reconstruct", "epsilon": 0.2, "predict": "next", "encoding": "direct"},
}


def random_recordings():
    """Give 4 recordings (4, 6, 2, 12, 12).

    Nothing moves in the fourth frame, and in the second recording before the last one.
    """
    draw = torch.Generator().manual_seed(0)
    frames = (torch.rand(4, FRAMES, *SIZE, generator=draw) < 0.2).float()
    frames[1, :-1] = 0
    frames[:, 3] = 0
    return frames


def spiking_net(case):
    """Build a network with the settings of this case, all of whose layers spike."""
    torch.manual_seed(1)
    model = VGG_SNN_STDB_wFeedback(**FRAME_NET, **SPIKING, **CASES[case]).eval()
    thresholds = []
    for name in model.neurons():
        thresholds.append(0.05 if "classifier" in name else 0.3)
    model.set_thresholds(thresholds)
    return model


def write_frames(path, frames):
    """Write the frames of a recording, and make its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, frames=frames)


def make_moving(folder):
    """Write recordings (4, 2, 12, 12) of two classes: a line goes down, or right."""
    for part, seed in (("train", 0), ("test", 1)):
        draw = np.random.default_rng(seed)
        for name in ("down", "right"):
            for number in range(6):
                frames = np.zeros((4, *SIZE), np.uint8)
                first_place = draw.integers(0, 4)
                for t in range(4):
                    place = first_place + t
                    line = np.s_[t, 1, place, 2:9] if name == "down" else np.s_[t, 1, 2:9, place]
                    frames[line] = draw.integers(1, 4, 7)
                write_frames(folder / part / name / f"{number}.npz", frames)
    return folder


@pytest.fixture
def moving(tmp_path):
    """Make a folder of recordings of two classes, down and right."""
    return make_moving(tmp_path / "moving")


@pytest.mark.parametrize("case", CASES)
def test_a_recording_is_a_stream_of_its_frames(case):
    """So each timestep sees its own frame, however many are taken at once."""
    model = spiking_net(case)
    recordings = random_recordings()

    whole = model(recordings, seed=3)
    stream = model.stream(seed=3)
    pieces = [stream(recordings[:, t]) for t in range(FRAMES)]

    check_joined(pieces, whole)
    for counts in whole.spikes.values():
        assert counts.sum() > 0


def test_predict_next_compares_with_the_next_frame():
    recordings = random_recordings()
    frames = recordings.transpose(0, 1)

    following = spiking_net("next")(recordings, seed=3)
    for t in range(FRAMES):
        next_frame = frames[min(t + 1, FRAMES - 1)]  # the last one is compared with itself
        errors = (next_frame - following.predictions[t]) ** 2
        assert torch.allclose(following.errors[t], errors)

    present = spiking_net("next").change(predict="frame")(recordings, seed=3)
    assert torch.equal(present.is_open, following.is_open)
    assert torch.equal(present.errors, (frames - present.predictions) ** 2)


def test_an_input_neuron_is_closed_if_the_step_before_has_predicted_this_ones_frame():
    recordings = random_recordings()
    frames = recordings.transpose(0, 1)

    output = spiking_net("block")(recordings, seed=3)

    distances = (output.predictions[:-1].clamp(0, 1) - frames[1:]).abs()
    assert torch.equal(output.is_open[1:], distances >= 0.2)
    assert 0.1 < output.is_open[1:].float().mean() < 0.9


def test_a_conversion_is_calibrated_on_the_frames_that_the_ann_sees(moving, tmp_path):
    net = "-a VGG5_wFeedback_small --fc_width 16 --batch_size 4"
    flags = f"{net} --dataset {moving} --output_dir {tmp_path}"
    run_here("ann", f"{flags} --epochs 1 --run_name seen")

    ann = tmp_path / "trained_models/ann/seen.pth"
    flags += f" --pretrained_ann {ann} --update immediate --calibrate --test_only"
    assert "sees 4 frames; give --timesteps 4" in refused("snn", f"{flags} --timesteps 2")

    _, said = run_here("snn", f"{flags} --balance_timesteps 4 --run_name y")
    assert "calibrating biases: " in said
    assert "features.1: mean rates of its channels off by " in said


def test_the_ann_sees_the_mean_frame():
    torch.manual_seed(0)
    of_recordings = VGG_wFeedback(**FRAME_NET).eval()
    of_images = VGG_wFeedback(**FRAME_NET | {"recorded_frames": 0}).eval()
    of_images.load_state_dict(of_recordings.state_dict())
    recordings = random_recordings()

    logits = of_recordings(recordings).logits

    assert torch.equal(logits, of_images(recordings.mean(1)).logits)


def draw_zeros(_timestep):
    """Give the draws of a timestep, at which every pixel above 0 sends."""
    return torch.zeros(3, *SIZE)


def test_balancing_a_recording_whose_frames_are_one_is_balancing_that_image():
    model = spiking_net("open")
    image = random_recordings()[[0, 2, 3], 0]
    same_frames = image[:, None].expand(-1, FRAMES, -1, -1, -1)

    thresholds = balance_thresholds(model, same_frames, draw_zeros, 8)

    assert thresholds == balance_thresholds(model, image, draw_zeros, 8)


def test_balancing_sees_the_frames_one_after_the_other_and_again_from_the_first():
    model = spiking_net("open")
    frame = random_recordings()[[0, 2, 3], :1]
    two_frames = torch.cat([frame, torch.zeros_like(frame)], 1)
    eight_frames = torch.cat([two_frames] * 4, 1)

    thresholds = balance_thresholds(model, two_frames, draw_zeros, 8)

    assert thresholds == balance_thresholds(model, eight_frames, draw_zeros, 8)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"gate": "block"},
            "blocking: blocked pixels must reopen, because a recording changes: choose dynamic",
        ),
        ({"timesteps": 7}, "have 6 frames, one for each timestep: give at most 6, not 7"),
    ],
)
def test_what_makes_no_network_of_recordings(settings, words):
    with pytest.raises(ModelError, match=words):
        VGG_SNN_STDB_wFeedback(**FRAME_NET | SPIKING | settings)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(random_recordings()[:, 0], id="an image"),
        pytest.param(random_recordings()[:, :5], id="too few frames"),
        pytest.param(-random_recordings(), id="negative"),
    ],
)
def test_what_is_no_recording(wrong):
    model = spiking_net("open")
    words = r"\(B, 6, 2, 12, 12\), uint8, or float32 or float64 in \[0, 1\]"
    with pytest.raises(ModelError, match=words):
        model(wrong)


def test_augmentation_moves_all_frames_alike():
    square = torch.zeros(2, 3, *SIZE)
    square[..., 4:8, 4:8] = 1

    moved = augmented(Batch(square, None, torch.arange(2)), 0, 1).images

    assert moved.shape == square.shape
    assert torch.equal(moved[:, 0], moved[:, 2])
    assert not torch.equal(moved[0], moved[1])


def test_the_colours_of_events():
    off = [[0.0, 1, 0, 1]]
    on = [[0, 0, 1, 1]]

    (row,) = as_pixels(torch.tensor([off, on]))

    assert row.tolist() == [
        [0, 0, 0],  # neither: black
        [0, 128, 255],  # off: blue
        [255, 128, 0],  # on: orange
        [255, 255, 255],  # both: white
    ]


# --- from a folder to the report


SMALL = "-a VGG5_wFeedback_small --fc_width 16 --batch_size 4"


@pytest.fixture(scope="module")
def moving_nets(tmp_path_factory):
    """Train networks on recordings of two classes by the scripts. Read only."""
    place = tmp_path_factory.mktemp("moving_nets")
    recordings = make_moving(place / "moving")
    flags = f"--dataset {recordings} --run_name x --output_dir {place}"
    ann_run = run_as_program("ann", f"{flags} {SMALL} --augment --epochs 2 -lr 5e-3")
    ann = place / "trained_models/ann/x.pth"
    run_here(
        "snn",
        f"{flags} --pretrained_ann {ann} --batch_size 4 --epochs 1 --engine dense {BALANCE}",
        "--update immediate --readout membrane_linear --latch --epsilon 0.2",
        "--count_bound 3 --predict next --trade_off_type mean_t",
    )
    return SimpleNamespace(
        recordings=recordings, ann_run=ann_run, snn=place / "trained_models/snn/x.pth"
    )


@pytest.fixture
def moving_flags(moving_nets, tmp_path):
    """Name the trained SNN and its recordings, and tmp_path as the place of results."""
    net = f"--pretrained_snn {moving_nets.snn} --dataset {moving_nets.recordings}"
    return f"{net} --batch_size 4 --output_dir {tmp_path}"


def test_training_says_what_the_recordings_are(moving_nets):
    assert moving_nets.ann_run.stderr == ""
    assert "recordings of 4 frames of 12x12 pixels, 2 classes" in moving_nets.ann_run.stdout


def test_a_trained_network_knows_how_its_recordings_were_read(moving_nets):
    settings = load(moving_nets.snn, engine="dense").settings

    assert settings["timesteps"] == 4
    assert settings["recorded_frames"] == 4
    assert settings["count_bound"] == 3
    assert settings["blocking"] == "dynamic"
    assert settings["predict"] == "next"
    assert settings["image_shape"] == SIZE


def test_both_engines_evaluate_recordings_alike(moving_flags, tmp_path):
    names = (
        "epsilon",
        "spikes",
        "accuracy",
        "comparisons",
        "reconstruction_error",
        "open_share",
        "mean_steps",
    )
    found = {}
    for engine in ("dense", "event"):
        flags = f"{moving_flags} --epsilon 0 0.2 --engine {engine} --run_name {engine}"
        run_undrawn("obj1", flags)
        rows = records(tmp_path / f"logs/snn/{engine}.jsonl", "evaluation")
        found[engine] = [{name: row[name] for name in names} for row in rows]

    torch.testing.assert_close(found["dense"], found["event"], rtol=1e-5, atol=0)
    assert [row["epsilon"] for row in found["dense"]] == [0, 0.2]


def test_a_network_of_fewer_timesteps_sees_neighbouring_frames_added_up(
    moving_nets, moving_flags, tmp_path
):
    data = f"--dataset {moving_nets.recordings} --output_dir {tmp_path}"
    run_here("snn", f"{data} {SMALL} --timesteps 2 --epochs 1 --engine dense --run_name y")
    run_here("snn", f"--resume --epochs 2 --run_name y --output_dir {tmp_path}")
    assert load(tmp_path / "trained_models/snn/y.pth", engine="dense").frames == 2

    run_undrawn("obj2", f"{moving_flags} --rules all_predicted confidence --timesteps 2")


def test_the_report_shows_the_film_of_a_recording(
    moving_nets, moving_flags, tmp_path, monkeypatch
):
    films = []
    monkeypatch.setattr(
        "snn_wFeedback_posthoc_model_analysis.save_contact_sheet",
        lambda _path, film: films.append(film),
    )
    frames = np.load(moving_nets.recordings / "test/down/0.npz")["frames"][:, 1]

    run_here("analysis", f"{moving_flags} --images 1 --run_name seen")
    run_here("report", f"{tmp_path}/logs/snn/seen.jsonl --output {tmp_path}/page.html")

    (film,) = films
    assert film.inputs.shape == (4, 1, 12, 12, 3)
    assert np.array_equal(film.inputs[:, 0, ..., 0], np.round(frames * 85))  # 255 / count_bound
    assert np.array_equal(film.images, film.inputs.max(0))
    with Image.open(tmp_path / "trained_models/snn/seen.gif") as gif:
        assert gif.n_frames == 4
    assert "data:image/gif" in (tmp_path / "page.html").read_text()


def test_a_network_of_recordings_takes_no_images(moving_nets, moving_flags, tmp_path):
    pets = make_folder(tmp_path / "pets", ("down", "right"))
    of_pets = moving_flags.replace(str(moving_nets.recordings), str(pets))

    assert "takes recordings" in refused("stream", f"{moving_flags} --scene watch")
    line = refused("obj1", of_pets)
    assert "has images, and the network takes recordings" in line


# --- folders of recordings


def test_the_same_folder_trains_feedback_networks(folder, tmp_path):
    """Without train/ and test/ a fifth of each class is for testing."""
    for label in range(5):
        shutil.copytree(RECORDINGS / str(label), folder / str(label), dirs_exist_ok=True)
    for label in range(5, 10):
        shutil.rmtree(folder / str(label))
    net = "-a VGG5_wFeedback_small --fc_width 8 --epochs 1 --batch_size 20 --run_name x"
    flags = f"--dataset {folder} --output_dir {tmp_path}"

    _, said = run_here("ann", f"{flags} --event_frames 3 {net}")
    assert "34x34 pixels, 5 classes" in said
    assert "recordings of" in said
    train, _, test = load_data(str(folder), frames=3)
    assert len(train) == 40
    assert len(test) == 10
    assert test.images.shape[1:] == (3, 2, 34, 34)
    assert len(set(list_folder(folder).paths)) == 50  # none is in both

    # The SNN has the frames of the ANN.
    ann = tmp_path / "trained_models/ann/x.pth"
    balance = "--balance_images 8 --balance_timesteps 4"
    spiking = "--update immediate --readout membrane_linear --split_by number --predict next"
    run_here("snn", f"{flags} --pretrained_ann {ann} {net} {balance} {spiking}")
    settings = load(tmp_path / "trained_models/snn/x.pth").settings
    assert settings["recorded_frames"] == 3
    assert settings["split_by"] == "number"
    assert settings["timesteps"] == 3

    # What is found wrong in the folder later is refused.
    flags += f" --pretrained_snn {tmp_path}/trained_models/snn/x.pth --test_only"
    write_bin(folder / "0/a.bin", [(40, 0, 0, 5)])
    line = refused("snn", flags)
    assert "0/a.bin (an event at x = 40, y = 0 lies outside 34x34 pixels" in line
    for path in sorted((folder / "1").iterdir())[4:]:
        path.unlink()
    assert "no recordings (.npy, .npz, .bin) in test/1: " in refused("snn", flags)


def replace_by_events(path):
    """Write an array for each of t, x and y, without the polarity."""
    np.savez(path, t=np.arange(9), x=np.arange(9), y=np.arange(9))


def replace_by_narrower_frames(path):
    """Write frames that are two columns narrower than the others."""
    write_frames(path, np.zeros((4, 2, 12, 10)))


def replace_by_three_channels(path):
    """Write frames with a channel beside those of off and on."""
    write_frames(path, np.zeros((4, 3, 12, 12)))


def replace_by_negative_counts(path):
    """Write frames that count -1 events."""
    write_frames(path, np.full((4, 2, 12, 12), -1.0))


def replace_by_the_start_of_a_zip_file(path):
    """Write the two bytes with which an .npz file begins."""
    path.write_bytes(b"PK")


@pytest.mark.parametrize(
    ("replace", "words"),
    [
        (replace_by_events, "it holds t, x, y: name the array"),
        (
            replace_by_narrower_frames,
            "not of one shape (T, C, H, W), but (4, 2, 12, 10) (train/",
        ),
        (
            replace_by_three_channels,
            "frames must be (T, 2, H, W), of events off and on, not of shape",
        ),
        (
            replace_by_negative_counts,
            "frames must be counts of events, and some are negative",
        ),
        (replace_by_the_start_of_a_zip_file, "no array can be read from it"),
    ],
)
def test_a_folder_that_is_no_data_set(moving, tmp_path, replace, words):
    replace(moving / "train/down/0.npz")

    line = refused("snn", f"--dataset {moving} --epochs 1 --output_dir {tmp_path / 'out'}")

    assert words in line
    assert str(moving) in line
    assert digests(tmp_path / "out") == {}


# --- the pages


@pytest.mark.others
@pytest.mark.parametrize("number", range(PAGE.count("```python")))
def test_the_blocks_of_the_page_run(tmp_path, monkeypatch, number):
    block = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[number]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(REPOSITORY / "examples")
    library = re.search("spikingjelly|snntorch|norse|sinabs|tonic", block)
    if library:
        pytest.importorskip(library[0])
    if "quick_baseline.nir" in block:
        run_here("export", "quick_baseline --to nir --output quick_baseline.nir")
    if "tonic" in block:
        # In place of a download: one recording of the class 4.
        gestures = [(np.array(EVENTS, FIELDS), 4)]
        datasets = importlib.import_module("tonic").datasets
        monkeypatch.setattr(datasets, "DVSGesture", lambda *_, **__: gestures)

    exec(block, {})

    if "tonic" in block:
        assert rows_in(tmp_path / "gestures/4/0.npy", (2, 4, 4), 1e-3)[1] == 8
    for path in Path().glob("*.nir"):
        dt = 1e-4 if "snntorch" in block else 1e-3
        model = from_nir(path, dt=dt)
        output = model(torch.ones(1, 5, *model.input_shape))
        assert output.spikes["input"].item() == 5 * np.prod(model.input_shape)
        if model.input_shape == (2, 34, 34):
            run_here(NIR, path, RECORDINGS, f"--limit 3 --dt {dt} --output_dir {tmp_path}")


def test_recordings_per_second_are_of_the_time_that_the_model_took(monkeypatch):
    """A clock that moves on by a second each time that somebody looks at it."""
    script = module_of(NIR)
    clock = itertools.count(100.0)
    monkeypatch.setattr(script, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    monkeypatch.setattr(script, "costs", lambda *_: {})
    answer = SimpleNamespace(logits=torch.tensor([[0.0, 1.0]]), spikes={})

    figures, predicted = script.evaluate(
        lambda batch, steps: answer, [None] * 4, [1, 1, 1, 0], steps=2, batch_size=1
    )

    assert predicted == [1, 1, 1, 1]
    assert figures["seconds"] == 4.0  # a second for each of four batches
    assert figures["recordings_per_second"] == 1.0
    assert figures["accuracy"] == 0.75
