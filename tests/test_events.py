"""Recordings of event cameras: what their files hold, feedback networks that see a frame in each step, networks of NIR files."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

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
    records,
    refused,
    run_as_program,
    run_here,
    run_undrawn,
)
from PIL import Image
from test_stream import check_joined

from harness.drawing.film import as_pixels
from harness.measuring.simulators import check
from self_models import ModelError, evaluate, from_nir, load
from self_models.conversion import balance_thresholds
from self_models.counting.batches import Arrival, event_batches
from self_models.counting.operations import conventions
from self_models.data.events import read_as_frames, read_recording, rows_in
from self_models.data.folders import list_folder
from self_models.data.sets import augmented, load_data
from self_models.guests.energy import graph_entries
from self_models.runtime.draws import EVALUATION, Batch, Draws
from self_models.vgg_wFeedback import VGG_wFeedback
from self_models.vgg_wFeedback_spiking import VGG_SNN_STDB_wFeedback

NIR, NETWORK, RECORDINGS = (
    "run_nir",
    REPOSITORY / "examples/nmnist.nir",
    REPOSITORY / "data/nmnist",
)
OTHERS = REPOSITORY.parent / "shared/data/nir/cnn_sinabs.nir"  # of somebody else, where it is
NIR_PAGES = ("docs/how_to/nir.md", "docs/how_to/nir_write.md", "docs/reference/nir_nodes.md")
PAGE = "\n".join((REPOSITORY / page).read_text(encoding="utf-8") for page in NIR_PAGES)
EVENTS = [(1, 0, 1, 2500), (3, 2, 0, 2999), (3, 2, 0, 4000), (0, 1, 1, 9999)]  # x, y, p, t
FIELDS = [("x", "<i2"), ("y", "<i2"), ("p", "?"), ("t", "<i8")]


def as_bin(events):
    return b"".join(
        bytes([x, y, p << 7 | t >> 16, t >> 8 & 255, t & 255]) for x, y, p, t in events
    )


def by_field(events):
    return {
        name: np.array(values)
        for name, values in zip("xypt", zip(*events, strict=True), strict=True)
    }


WRITERS = {
    "a.bin": lambda path, events: path.write_bytes(as_bin(events)),
    "a.npy": lambda path, events: np.save(path, np.array(events, FIELDS)),
    "a.npz": lambda path, events: np.savez(path, **by_field(events)),
    "b.npz": lambda path, events: np.savez_compressed(path, events=np.array(events, FIELDS)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_events_by_hand(tmp_path, name):
    WRITERS[name](tmp_path / name, EVENTS)
    taken = lambda *how: (lambda rows, steps: (rows.tolist(), steps))(  # noqa: E731
        *rows_in(tmp_path / name, *how)
    )
    assert taken((2, 4, 4), 1e-3) == ([[0, 1, 0, 1], [0, 0, 2, 3], [2, 0, 2, 3], [7, 1, 1, 0]], 8)
    assert taken((1, 4, 4), 5e-3) == ([[0, 0, 0, 1], [0, 0, 2, 3], [0, 0, 2, 3], [1, 0, 1, 0]], 2)
    assert taken((2, 4, 4), 1e-3, 3) == (
        [[0, 1, 0, 1], [0, 0, 2, 3], [0, 0, 2, 3], [1, 1, 1, 0]],
        2,
    )
    for by, where in (("time", (0, 0, 0, 1)), ("number", (0, 0, 1, 1))):
        frames, wanted = (
            read_as_frames(tmp_path / name, (2, 2, 4, 4), 2, by),
            np.zeros((2, 2, 4, 4)),
        )
        for t, (x, y, p, _) in zip(where, EVENTS, strict=True):
            wanted[t, p, y, x] += 1
        assert np.array_equal(frames, np.round(wanted * 127.5))


def test_timesteps_begin_where_they_are_due_and_are_counted(tmp_path):
    np.save(
        tmp_path / "a.npy",
        np.array([(0, 0, 0, t) for t in (-246, -1, 0, 122, 123, 245, 246)], FIELDS),
    )
    rows, steps = rows_in(tmp_path / "a.npy", (2, 4, 4), 123e-6)
    assert (rows[:, 0].tolist(), steps) == ([0, 1, 2, 2, 3, 3, 4], 5)
    np.save(tmp_path / "b.npy", np.ones((2, 2, 4, 4), np.uint8))
    with pytest.raises(ModelError, match="leave out --events_per_step"):
        rows_in(tmp_path / "b.npy", (2, 4, 4), 1e-3, 5)


def test_frames_are_timesteps(tmp_path):
    counts = np.zeros((3, 2, 4, 4), np.uint8)
    counts[0, 1, 2, 3], counts[2, 0, 0, 0] = 2, 1
    np.save(tmp_path / "a.npy", counts)
    rows, steps = rows_in(tmp_path / "a.npy", (2, 4, 4), 1e-3)
    assert (rows.tolist(), steps) == ([[0, 1, 2, 3], [0, 1, 2, 3], [2, 0, 0, 0]], 3)
    np.save(tmp_path / "b.npy", counts.sum(1, keepdims=True))
    for name in "ab":  # of a network with one input channel
        assert rows_in(tmp_path / f"{name}.npy", (1, 4, 4), 1e-3)[0].tolist() == [
            [0, 0, 2, 3],
            [0, 0, 2, 3],
            [2, 0, 0, 0],
        ]
    with pytest.raises(ModelError, match=r"frames must be \(T, 2, H, W\)"):
        rows_in(tmp_path / "b.npy", (2, 4, 4), 1e-3)


def test_neighbouring_frames_are_added_up(tmp_path):
    counts = np.zeros((5, 2, 1, 2), np.int64)
    counts[:, 0, 0, 0], counts[:, 1, 0, 1] = [1, 2, 3, 4, 5], [0, 0, 0, 1, 0]
    write(tmp_path / "a.npz", counts)
    np.save(tmp_path / "a.npy", counts.astype(np.float32))
    for name in ("a.npz", "a.npy"):
        taken = {
            steps: read_as_frames(tmp_path / name, (steps, 2, 1, 2), 8) for steps in (1, 2, 3, 5)
        }
        assert [taken[steps][:, 0, 0, 0].tolist() for steps in (1, 2, 3, 5)] == [
            [255],
            [191, 255],
            [96, 223, 159],
            [32, 64, 96, 128, 159],
        ]
        assert taken[5][:, 1, 0, 1].tolist() == [0, 0, 0, 32, 0]
    assert read_as_frames(tmp_path / "a.npz", (5, 2, 1, 2), 1)[:, 1, 0, 1].tolist() == [
        0,
        0,
        0,
        255,
        0,
    ]


@pytest.mark.others
def test_recordings_are_read_as_tonic_reads_them():
    tonic = pytest.importorskip("tonic")
    path = next(RECORDINGS.glob("7/*.bin"))
    theirs = tonic.io.read_mnist_file(str(path), np.dtype([(name, np.int64) for name in "xytp"]))
    assert all(
        np.array_equal(theirs[name], getattr(read_recording(path), name)) for name in "xytp"
    )


@pytest.fixture
def folder(tmp_path):
    """FOLDER/CLASS/*.bin, two of the recordings here for each class."""
    for place in RECORDINGS.iterdir():
        for path in sorted(place.glob("*.bin"))[:2] if place.is_dir() else ():
            (tmp_path / "few" / place.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / "few" / place.name)
    return tmp_path / "few"


def of(events, name="a.bin"):
    return lambda folder: WRITERS[name](folder / f"0/{name}", events)


FAULTS = {
    "cut off": (
        lambda folder: (folder / "0/a.bin").write_bytes(bytes(7)),
        "",
        "0/a.bin: its 7 bytes are no whole events of 5",
    ),
    "outside": (
        of([(3, 34, 0, 5)]),
        "",
        "0/a.bin: an event at x = 3, y = 34 lies outside 34x34 pixels: choose",
    ),
    "back": (
        of([(1, 1, 0, 9), (1, 1, 0, 5)]),
        "",
        "0/a.bin: event 1 is at 5 us, after one at 9: sort its events by t",
    ),
    "long": (
        of([(1, 1, 0, 0), (1, 1, 0, 2**22)]),
        "--dt 1e-5",
        "419,431 timesteps of 0.01 ms: give a larger --dt",
    ),
    "too few": (
        lambda folder: [shutil.rmtree(folder / "8"), (folder / "9").rename(folder / "x")],
        "",
        "{network} 10 outputs: ",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_run_gets_a_line(folder, tmp_path, fault):
    spoil, flags, words = FAULTS[fault]
    spoil(folder)
    words = words.format(network=NETWORK)
    line = refused(NIR, NETWORK, folder, f"{flags} --output_dir {tmp_path / 'out'}")
    assert words in line and str(folder) in line and not list((tmp_path / "out").rglob("*.log"))


def test_a_network_of_a_library_on_the_recordings_here(tmp_path):
    """86 of 100 that it has not seen; by the kernel, by PyTorch and one at a time the same."""
    found, said = run_here(NIR, NETWORK, RECORDINGS, f"--wrong --output_dir {tmp_path}")
    assert (found["right"], found["recordings"], found["timesteps"]) == (86, 100, 32) and found[
        "dt"
    ] == 0.01
    wrong = re.findall(
        r"^wrong: \S+/data/nmnist/(\d)/\d+\.bin: class (\d), predicted (\d)$", said, re.MULTILINE
    )
    assert len(wrong) == 14 and all(of == label != read for of, label, read in wrong)
    assert set(found["joules"]) == {"arithmetic_45nm", "with_memory"}
    assert (
        "accuracy 86.00 %: 86 of 100 recordings" in (tmp_path / "logs/nir/nmnist.log").read_text()
    )
    (record,) = records(tmp_path / "logs/nir/nmnist.jsonl", "nir")
    assert record["spikes"] == found["spikes"] and record["spikes"]["input"] > 4000
    several, _ = run_here(NIR, NETWORK, RECORDINGS, f"--limit 20 --output_dir {tmp_path}")
    for flags in ("--engine dense", "--batch_size 1"):
        other, said = run_here(
            NIR, NETWORK, RECORDINGS, f"--limit 20 {flags} --output_dir {tmp_path}"
        )
        assert other["right"] == several["right"] and other["spikes"] == several["spikes"]
    run_here(
        NIR,
        NETWORK,
        RECORDINGS,
        f"--limit 1 --gif {next(RECORDINGS.glob('3/*.bin'))} --run_name x --output_dir {tmp_path}",
    )
    with Image.open(tmp_path / "trained_models/nir/x.gif") as gif:
        assert gif.n_frames == 31 and len(gif.convert("RGB").getcolors(2**20)) > 20
    flags = "--limit 1 --events_per_step 500 --steps 4 --reset subtract"
    _, said = run_here(NIR, NETWORK, RECORDINGS, f"{flags} --output_dir {tmp_path}")
    assert "4 timesteps of 500 events" in said


def test_additions_by_hand():
    """An event in a corner of 3x3 places meets 4 of the 9 weights of each of two channels, one in the middle all."""
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
    found = graph_entries(model, [np.array([[0, 0, 0, 0], [1, 0, 1, 1]])], 2)
    counts = {one.layer: (one.spikes, one.synops, one.weights) for one in found}
    assert counts == {"input": (2, 0, 0), "fires": (26, 8 + 18, 18), "output": (0, 26 * 5, 10)}


@pytest.mark.others
def test_other_simulators_send_the_same_spikes(tmp_path):
    for name in ("norse", "spikingjelly"):
        pytest.importorskip(name)
    rows, said = run_here(
        NIR, NETWORK, f"--check norse spikingjelly --limit 1 --output_dir {tmp_path}"
    )
    assert [row[::2] for row in rows] == [
        (name, "same") for name in ("kernel", "norse", "spikingjelly")
    ]
    assert "spikes of 3 nodes" in said


@pytest.mark.skipif(not OTHERS.is_file(), reason="the network of NIR's paper is not here")
def test_the_network_of_nirs_paper(tmp_path):
    found, _ = run_here(NIR, OTHERS, RECORDINGS, f"--dt 1e-3 --output_dir {tmp_path}")
    assert (found["right"], found["recordings"]) == (98, 100)


@pytest.mark.others
def test_the_example_trains_and_writes_what_runs(folder, tmp_path):
    pytest.importorskip("spikingjelly")
    command = [sys.executable, "-m", "examples.train_nir", str(folder), str(tmp_path / "new.nir")]
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    found, _ = run_here(NIR, tmp_path / "new.nir", folder, f"--output_dir {tmp_path}")
    assert found["accuracy"] > 0.5  # of those that it has seen


# --- still images


STILL = 12  # images
SHOWN = 4  # timesteps, in which it mistakes some of them


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Path of a NIR file of quick_baseline, which was trained with encoding poisson."""
    path = tmp_path_factory.mktemp("exported") / "net.nir"
    run_here("export", f"quick_baseline --to nir --output {path}")
    return path


@pytest.fixture(scope="module")
def network(exported):
    return load(exported)


@pytest.fixture(scope="module")
def digits():
    return load_data("MNIST", limit_test=STILL)[2]


def counted_by_hand(path, arriving):
    """Run a chain of NIR nodes timestep by timestep, from the numbers of its file alone.

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
    logits, potentials, spikes = 0, {}, {}
    for signal in arriving:
        name = after["input"]
        while name != "output":
            node = graph.nodes[name]
            kind = type(node).__name__
            if kind == "Conv2d":
                weight, bias = torch.from_numpy(node.weight), torch.from_numpy(node.bias)
                stride, padding = int(np.ravel(node.stride)[0]), int(np.ravel(node.padding)[0])
                signal = F.conv2d(signal, weight, bias, stride, padding)
            elif kind == "Affine":
                weight, bias = torch.from_numpy(node.weight), torch.from_numpy(node.bias)
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
    """What arrives in each timestep (T, B, 1, 28, 28): the image, or its events with seed 3."""
    images = digits.images / 255
    if encoding == "constant":
        return images.expand(SHOWN, *images.shape)
    numbers = Draws(3, EVALUATION, torch.arange(STILL)).uniforms(SHOWN, (1, 28, 28))
    return (numbers <= images).float()


@pytest.mark.parametrize("encoding", ["constant", "poisson"])
def test_still_images_by_a_loop_of_ones_own(exported, network, digits, encoding):
    """In Python and from the command line, in whatever batches and by either engine."""
    arriving = arriving_by_hand(digits, encoding)
    logits, spikes = counted_by_hand(exported, arriving)
    spikes["input"] = (arriving != 0).sum().item() / STILL
    right = (logits.argmax(1) == digits.labels).sum().item()
    assert 0 < right < STILL

    shown = {"timesteps": SHOWN, "encoding": encoding, "seed": 3}
    for model in (load(exported, engine="dense"), network):
        found = evaluate(model, digits, batch_size=5, **shown)
        assert found["spikes"] == pytest.approx(spikes, rel=2e-3)  # rounding decides some
        assert found["accuracy"] == right / STILL
        assert found["per_image"]["found"].tolist() == logits.argmax(1).tolist()
        assert sum(map(sum, found["confusion"])) == STILL
    scaled = evaluate(network, digits.images, digits.labels, scale=255, **shown)
    floats = evaluate(network, digits.images / 255, digits.labels, **shown)
    assert scaled["spikes"] == floats["spikes"] == found["spikes"]


@pytest.mark.parametrize("encoding", ["constant", "poisson"])
def test_still_images_from_the_command_line(exported, digits, tmp_path, encoding):
    flags = f"--dataset MNIST --limit {STILL} --timesteps {SHOWN} --encoding {encoding} --seed 3"
    record, said = run_here(
        NIR, exported, f"{flags} --batch_size 5 --wrong --output_dir {tmp_path}"
    )
    logits, spikes = counted_by_hand(exported, arriving_by_hand(digits, encoding))
    read_as = logits.argmax(1)
    right = int((read_as == digits.labels).sum())
    assert (record["images"], record["right"]) == (STILL, right)
    assert record["accuracy"] == right / STILL
    assert {name: record["spikes"][name] for name in spikes} == pytest.approx(spikes, rel=2e-3)
    assert f"accuracy {100 * right / STILL:.2f} %: {right} of {STILL} images" in said
    wrong = [n for n in range(STILL) if read_as[n] != digits.labels[n]]
    lines = [f"wrong: image {n}: class {digits.labels[n]}, predicted {read_as[n]}" for n in wrong]
    assert re.findall("^wrong: .*$", said, re.MULTILINE) == lines
    (kept,) = records(tmp_path / "logs/nir/net.jsonl", "nir")
    assert kept == record and kept["dataset"] == "MNIST" and kept["encoding"] == encoding
    trained = "note: the network was trained with --encoding poisson --timesteps 6"
    assert trained in said


def test_poisson_gives_what_the_network_gave_before_it_was_exported(network, digits):
    """The same random numbers, so the same spikes and additions."""
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


def small(shape, classes, **metadata):
    """A NIR graph of one layer of neurons, with random weights."""
    draw = np.random.default_rng(0)
    size = int(np.prod(shape))
    weight = draw.normal(size=(classes, size)).astype(np.float32)
    neurons = [np.full(classes, value, np.float32) for value in (1, 1)]
    nodes = {
        "input": nir.Input({"input": np.array(shape)}),
        "flat": nir.Flatten({"input": np.array(shape)}, 0, -1),
        "weights": nir.Affine(weight, np.zeros(classes, np.float32)),
        "fires": nir.IF(*neurons),
        "output": nir.Output({"output": np.array([classes])}),
    }
    return nir.NIRGraph(nodes, [*pairwise(list(nodes))], metadata=metadata)


def test_a_folder_of_colour_images(tmp_path):
    """Black sends nothing where values lie in [0, 1], and -1 where they lie in [-1, 1]."""
    folder = make_folder(tmp_path / "images", shape=(6, 6, 3))
    for part in ("train", "test"):
        Image.new("RGB", (6, 6)).save(folder / part / "cat/0.png")
    nir.write(tmp_path / "net.nir", small((3, 6, 6), 2))
    nir.write(tmp_path / "ours.nir", small((3, 6, 6), 2, encoding="direct", timesteps=2))
    flags = f"--dataset {folder} --timesteps 2 --output_dir {tmp_path}"
    unsigned, said = run_here(NIR, tmp_path / "net.nir", flags)
    assert "data: images, colour images of 6x6 pixels, 2 classes; images: test 8" in said
    assert "each pixel's value, 0 to 1, arrives" in said
    signed, said = run_here(NIR, tmp_path / "net.nir", f"{flags} --signed")
    assert "each pixel's value, -1 to 1, arrives" in said
    ours, _ = run_here(NIR, tmp_path / "ours.nir", flags)
    assert ours["spikes"] == signed["spikes"] and ours["joules"] == signed["joules"]
    test = load_data(str(folder))[2]
    lit = (test.images != 0).sum().item() / len(test)
    assert unsigned["spikes"]["input"] == 2 * lit
    assert signed["spikes"]["input"] == 2 * 3 * 6 * 6
    assert signed["additions"]["fires"] == 2 * 3 * 6 * 6 * 2
    for name, record in (("net.nir", unsigned), ("ours.nir", ours)):
        found = evaluate(load(tmp_path / name), test, timesteps=2)
        assert found["spikes"] == record["spikes"]
    found = evaluate(load(tmp_path / "ours.nir"), test, timesteps=2, scale=255)
    assert found["spikes"] == unsigned["spikes"]


def test_a_network_of_a_vector_takes_pictures(tmp_path, digits):
    nir.write(tmp_path / "net.nir", small((784,), 10))
    flags = f"--dataset MNIST --limit {STILL} --timesteps 3 --output_dir {tmp_path}"
    record, _ = run_here(NIR, tmp_path / "net.nir", flags)
    model = load(tmp_path / "net.nir")
    flat = digits.images.flatten(1)
    found = evaluate(model, flat, digits.labels, timesteps=3, scale=255)
    assert found["spikes"] == record["spikes"]
    assert evaluate(model, digits, timesteps=3)["spikes"] == record["spikes"]
    poisson = {"timesteps": 3, "encoding": "poisson"}
    of_vectors = evaluate(model, flat, digits.labels, scale=255, **poisson)
    assert evaluate(model, digits, **poisson)["spikes"] == of_vectors["spikes"]


def test_values_are_multiplied_and_whole_numbers_are_added():
    """By hand: 2 places of 2 reach 3 neurons each; a count of 2 is 2 events, 0.5 is one."""
    model = from_nir(small((2,), 3), dt=1)
    whole, values = torch.tensor([[[2.0, 1.0]]]), torch.tensor([[[2.0, 0.5]]])
    for arriving, synops, is_real in ((whole, 9, False), (values, 6, True)):
        of_input, of_neurons = graph_entries(model, arriving, 1)
        assert (of_input.spikes, of_neurons.synops) == (synops / 3, synops)
        assert of_neurons.real == is_real
    prices = conventions()["arithmetic_45nm"]
    assert of_neurons.picojoules(prices, "event-driven") == pytest.approx(6 * 4.6)


def test_recordings_are_evaluated_in_python_too():
    paths = [next(RECORDINGS.glob(f"{label}/*.bin")) for label in range(4)]
    model, labels = load(NETWORK), torch.arange(4)
    rows = [rows_in(path, model.graph.shape, model.dt)[0] for path in paths]
    listed = evaluate(model, rows, labels, batch_size=3)
    steps = 1 + max(int(each[:, 0].max()) for each in rows)
    frames = torch.zeros(4, steps, *model.graph.shape, dtype=torch.uint8)
    for one, each in zip(frames, rows, strict=True):
        np.add.at(one.numpy(), tuple(each.T), 1)
    with pytest.raises(ModelError, match="may be pixels or numbers of events"):
        evaluate(model, frames, labels)
    counted = evaluate(model, frames, labels, counts=True)
    logits = model(rows, steps).logits
    assert listed["spikes"] == counted["spikes"]
    assert listed["accuracy"] == (logits.argmax(1) == labels).double().mean()
    assert listed["spikes"]["input"] == sum(map(len, rows)) / 4


BYTES, LABELS = torch.full((2, 1, 28, 28), 200, dtype=torch.uint8), torch.tensor([3, 4])
OF_DATA = [
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


@pytest.mark.parametrize(("data", "words", "said"), OF_DATA, ids=range(len(OF_DATA)))
def test_data_that_do_not_fit_a_network_of_events(network, data, words, said):
    with pytest.raises(ModelError, match=said):
        evaluate(network, data, LABELS[: len(data)], **words)


def test_words_on_images_that_a_network_does_not_take(network, digits):
    snn = load(REPOSITORY / "trained_models/snn/quick_baseline.pth")
    for words in ({"timesteps": 4}, {"scale": 255}, {"counts": True}, {"encoding": "poisson"}):
        with pytest.raises(ModelError, match="are for networks of events, as NIR files"):
            evaluate(snn, digits, **words)
    with pytest.raises(ModelError, match="an ImageSet has no counts"):
        evaluate(network, digits, timesteps=4, counts=True)


REFUSED = [
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
    nir.write(tmp_path / "net.nir", small((784,), 10))
    line = refused(NIR, tmp_path / "net.nir", f"--output_dir {tmp_path}")
    assert "for images give --dataset NAME|FOLDER --timesteps T" in line


def test_images_are_checked_in_all_simulators(exported, tmp_path, monkeypatch):
    """What they would run are the values that the network sees."""
    seen = []
    module = importlib.import_module("run_nir")
    monkeypatch.setattr(module, "check", lambda path, events, *_, **__: seen.append(events) or [])
    flags = f"--dataset MNIST --limit 2 --timesteps 3 --check --output_dir {tmp_path}"
    run_here(NIR, exported, flags)
    assert torch.equal(
        seen[0], load_data("MNIST")[2].images[:2, None].expand(-1, 3, -1, -1, -1) / 255
    )
    assert check(exported, seen[0], 3, names=()) == [("kernel", "", "same", "")]


# --- feedback networks that see a frame in each step


SIZE, FRAMES = (2, 12, 12), 6
OF_FRAMES = {
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
    "stops": {**BLOCKS, "predict": "next", "rule": "confidence", "gap_bound": 0.015},
}


def recordings():
    """Random ones (4, 6, 2, 12, 12); in the fourth frame nothing moves, in the second recording not before the last."""
    x = (torch.rand(4, FRAMES, *SIZE, generator=torch.Generator().manual_seed(0)) < 0.2).float()
    x[1, :-1], x[:, 3] = 0, 0
    return x


def spiking(case):
    torch.manual_seed(1)
    model = VGG_SNN_STDB_wFeedback(**OF_FRAMES, **SPIKING, **CASES[case]).eval()
    model.set_thresholds([0.05 if "classifier" in name else 0.3 for name in model.neurons()])
    return model


def write(path, frames):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, frames=frames)


@pytest.fixture
def moving(tmp_path):
    """A folder of recordings of two classes, (4, 2, 12, 12): what is seen goes down, or to the right."""
    for part, seed in (("train", 0), ("test", 1)):
        draw = np.random.default_rng(seed)
        for name in ("down", "right"):
            for number in range(6):
                frames = np.zeros((4, *SIZE), np.uint8)
                for t, place in enumerate(draw.integers(0, 4) + np.arange(4)):
                    line = np.s_[t, 1, place, 2:9] if name == "down" else np.s_[t, 1, 2:9, place]
                    frames[line] = draw.integers(1, 4, 7)
                write(tmp_path / "moving" / part / name / f"{number}.npz", frames)
    return tmp_path / "moving"


@pytest.mark.parametrize("case", ["open", "block", "next", "rebuilt"])
def test_a_recording_is_a_stream_of_its_frames(case):
    """That a step sees its own frame follows from this, however many steps are taken at once."""
    model, x = spiking(case), recordings()
    whole, stream = model(x, seed=3), model.stream(seed=3)
    parts = [stream(x[:, t]) for t in range(FRAMES)]
    check_joined(parts, whole)
    assert all(count.sum() for count in whole.spikes.values())


def test_predict_next_compares_with_the_next_frame():
    """And an input neuron is closed in a step if the step before has predicted this one's frame."""
    x, frames = recordings(), recordings().transpose(0, 1)
    output = spiking("next")(x, seed=3)
    for t in range(FRAMES):
        assert torch.allclose(
            output.errors[t], (frames[min(t + 1, FRAMES - 1)] - output.predictions[t]) ** 2
        )
    now = spiking("next").change(predict="frame")(x, seed=3)
    assert torch.equal(now.is_open, output.is_open) and torch.equal(
        now.errors, (frames - now.predictions) ** 2
    )
    output = spiking("block")(x, seed=3)
    fits = (output.predictions[:-1].clamp(0, 1) - frames[1:]).abs() < 0.2
    assert torch.equal(output.is_open[1:], ~fits) and 0.1 < output.is_open[1:].float().mean() < 0.9


def test_a_conversion_is_calibrated_on_the_frames_that_the_ann_sees(moving, tmp_path):
    flags = f"-a VGG5_wFeedback_small --fc_width 16 --dataset {moving} --batch_size 4 --output_dir {tmp_path}"
    run_here("ann", f"{flags} --epochs 1 --run_name seen")
    ann = f"--pretrained_ann {tmp_path}/trained_models/ann/seen.pth --update immediate --calibrate --test_only"
    assert "sees 4 frames; give --timesteps 4" in refused("snn", f"{flags} {ann} --timesteps 2")
    _, said = run_here("snn", f"{flags} {ann} --balance_timesteps 4 --run_name y")
    assert (
        "calibrating biases: " in said and "features.1: mean rates of its channels off by " in said
    )


def test_the_ann_sees_the_mean_frame():
    torch.manual_seed(0)
    ann = VGG_wFeedback(**OF_FRAMES).eval()
    still = VGG_wFeedback(**{**OF_FRAMES, "recorded_frames": 0}).eval()
    still.load_state_dict(ann.state_dict())
    assert torch.equal(ann(recordings()).logits, still(recordings().mean(1)).logits)


def test_balancing_sees_the_frames_one_after_the_other():
    """And again from the first: with a recording whose frames are one, thresholds are those of the image."""
    x, model = recordings()[[0, 2, 3], :1], spiking("open")
    draws = lambda t: torch.zeros(3, *SIZE)  # noqa: E731
    assert balance_thresholds(
        model, x.expand(-1, FRAMES, -1, -1, -1), draws, 8
    ) == balance_thresholds(model, x[:, 0], draws, 8)
    x = torch.cat([x, torch.zeros_like(x)], 1)
    half = torch.cat([x, x, x, x], 1)
    assert balance_thresholds(model, x, draws, 8) == balance_thresholds(model, half, draws, 8)


def test_what_makes_no_network_and_is_no_recording():
    for settings, words in (
        (
            {"gate": "block"},
            "blocking: blocked pixels must reopen, because a recording changes: choose dynamic",
        ),
        ({"timesteps": 7}, "have 6 frames, one for each timestep: give at most 6, not 7"),
    ):
        with pytest.raises(ModelError, match=words):
            VGG_SNN_STDB_wFeedback(**{**OF_FRAMES, **SPIKING, **settings})
    for wrong in (recordings()[:, 0], recordings()[:, :5], -recordings()):
        with pytest.raises(
            ModelError, match=r"\(B, 6, 2, 12, 12\), uint8, or float32 or float64 in \[0, 1\]"
        ):
            spiking("open")(wrong)


def test_augmentation_moves_all_frames_alike():
    square = torch.zeros(2, 3, *SIZE)
    square[..., 4:8, 4:8] = 1
    moved = augmented(Batch(square, None, torch.arange(2)), 0, 1).images
    assert (
        moved.shape == square.shape
        and torch.equal(moved[:, 0], moved[:, 2])
        and not torch.equal(moved[0], moved[1])
    )


def test_the_colours_of_events():
    assert as_pixels(torch.tensor([[[0.0, 1, 0, 1]], [[0, 0, 1, 1]]]))[0].tolist() == [
        [0, 0, 0],
        [0, 128, 255],
        [255, 128, 0],
        [255, 255, 255],
    ]


def test_from_a_folder_to_the_report(moving, tmp_path, monkeypatch):
    """Training, conversion, evaluation by both engines, pictures and the page."""
    here, small = (
        f"--output_dir {tmp_path}",
        "-a VGG5_wFeedback_small --fc_width 16 --batch_size 4",
    )
    run = run_as_program(
        "ann", f"--dataset {moving} {small} --augment --epochs 2 -lr 5e-3 --run_name x {here}"
    )
    assert run.stderr == "" and "recordings of 4 frames of 12x12 pixels, 2 classes" in run.stdout
    spikes = f"--update immediate --readout membrane_linear --latch --epsilon 0.2 --epochs 1 {BALANCE} --engine dense"
    run_here(
        "snn",
        f"--dataset {moving} --pretrained_ann {tmp_path}/trained_models/ann/x.pth {spikes} {here}",
        "--batch_size 4 --count_bound 3 --predict next --run_name x --trade_off_type mean_t",
    )
    path = tmp_path / "trained_models/snn/x.pth"
    model = load(path, engine="dense")
    told = ("timesteps", "recorded_frames", "count_bound", "blocking", "predict", "image_shape")
    assert [model.settings[name] for name in told] == [4, 4, 3, "dynamic", "next", SIZE]
    trained = f"--pretrained_snn {path} --dataset {moving} {here} --batch_size 4"
    found = {}
    for engine in ("dense", "event"):
        run_undrawn("obj1", f"{trained} --epsilon 0 0.2 --engine {engine} --run_name {engine}")
        told = (
            "epsilon",
            "spikes",
            "accuracy",
            "comparisons",
            "reconstruction_error",
            "open_share",
            "mean_steps",
        )
        rows = records(tmp_path / f"logs/snn/{engine}.jsonl", "evaluation")
        found[engine] = [{name: row[name] for name in told} for row in rows]
    torch.testing.assert_close(found["dense"], found["event"], rtol=1e-5, atol=0)
    assert [row["epsilon"] for row in found["dense"]] == [0, 0.2]
    run_here(
        "snn",
        f"--dataset {moving} {small} --timesteps 2 --epochs 1 --engine dense --run_name y {here}",
    )
    run_here("snn", f"--resume --epochs 2 --run_name y {here}")
    assert load(tmp_path / "trained_models/snn/y.pth", engine="dense").frames == 2
    run_undrawn(
        "obj2", f"{trained} --rules all_predicted confidence --timesteps 2"
    )  # neighbours added up
    films = []
    monkeypatch.setattr(
        "snn_wFeedback_posthoc_model_analysis.save_contact_sheet",
        lambda _, film: films.append(film),
    )
    run_here("analysis", f"{trained} --images 1 --run_name seen")
    (film,) = films
    frames = np.load(moving / "test/down/0.npz")["frames"][:, 1]
    assert film.inputs.shape == (4, 1, 12, 12, 3) and np.array_equal(
        film.inputs[:, 0, ..., 0], np.round(frames * 85)
    )
    assert np.array_equal(film.images, film.inputs.max(0))
    with Image.open(tmp_path / "trained_models/snn/seen.gif") as gif:
        assert gif.n_frames == 4
    run_here("report", f"{tmp_path}/logs/snn/seen.jsonl --output {tmp_path}/page.html")
    assert "data:image/gif" in (tmp_path / "page.html").read_text()
    make_folder(tmp_path / "pets", ("down", "right"))
    for name, flags, words in (
        ("stream", f"{trained} --scene watch", "takes recordings"),
        (
            "obj1",
            trained.replace(str(moving), f"{tmp_path}/pets"),
            "has images, and the network takes recordings",
        ),
    ):
        assert words in refused(name, flags)


def test_the_same_folder_trains_feedback_networks(folder, tmp_path):
    """Without train/ and test/ a fifth of each class is for testing; frames are those of the network afterwards, too."""
    for label in "01234":
        shutil.copytree(RECORDINGS / label, folder / label, dirs_exist_ok=True)
    for label in "56789":
        shutil.rmtree(folder / label)
    net = f"-a VGG5_wFeedback_small --fc_width 8 --epochs 1 --batch_size 20 --run_name x --output_dir {tmp_path}"
    _, said = run_here("ann", f"--dataset {folder} --event_frames 3 {net}")
    assert "34x34 pixels, 5 classes" in said and "recordings of" in said
    train, _, test = load_data(str(folder), frames=3)
    assert (len(train), len(test), test.images.shape[1:]) == (40, 10, (3, 2, 34, 34))
    assert len({*list_folder(folder).paths}) == 50  # none is in both
    spiking = "--update immediate --readout membrane_linear --balance_images 8 --balance_timesteps 4 --split_by number"
    run_here(
        "snn",
        f"--dataset {folder} --pretrained_ann {tmp_path}/trained_models/ann/x.pth {net} {spiking} --predict next",
    )
    model = load(tmp_path / "trained_models/snn/x.pth")
    assert [model.settings[name] for name in ("recorded_frames", "split_by", "timesteps")] == [
        3,
        "number",
        3,
    ]
    trained = (
        f"--pretrained_snn {tmp_path}/trained_models/snn/x.pth --test_only --output_dir {tmp_path}"
    )
    (folder / "0/a.bin").write_bytes(as_bin([(40, 0, 0, 5)]))
    assert "0/a.bin (an event at x = 40, y = 0 lies outside 34x34 pixels" in refused(
        "snn", f"--dataset {folder} {trained}"
    )
    for path in sorted((folder / "1").iterdir())[4:]:
        path.unlink()
    assert "no recordings (.npy, .npz, .bin) in test/1: " in refused(
        "snn", f"--dataset {folder} {trained}"
    )


FIRST = "train/down/0.npz"


def frames_of(*shape, value=0.0):
    return lambda folder: write(folder / FIRST, np.full(shape, value))


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            lambda folder: np.savez(folder / FIRST, **dict.fromkeys("txy", np.arange(9))),
            "it holds t, x, y: name the array",
        ),
        (frames_of(4, 2, 12, 10), "not of one shape (T, C, H, W), but (4, 2, 12, 10) (train/"),
        (
            frames_of(4, 3, 12, 12),
            "frames must be (T, 2, H, W), of events off and on, not of shape",
        ),
        (
            frames_of(4, 2, 12, 12, value=-1),
            "frames must be counts of events, and some are negative",
        ),
        (lambda folder: (folder / FIRST).write_bytes(b"PK"), "no array can be read from it"),
    ],
)
def test_a_folder_that_is_no_data_set(moving, tmp_path, spoil, words):
    spoil(moving)
    line = refused("snn", f"--dataset {moving} --epochs 1 --output_dir {tmp_path / 'out'}")
    assert (
        words.format(folder=moving) in line
        and str(moving) in line
        and digests(tmp_path / "out") == {}
    )


@pytest.mark.others
@pytest.mark.parametrize("number", range(PAGE.count("```python")))
def test_the_blocks_of_the_page_run(tmp_path, monkeypatch, number):
    block = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[number]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(REPOSITORY / "examples")
    if library := re.search("spikingjelly|snntorch|norse|sinabs|tonic", block):
        pytest.importorskip(library[0])
    if "quick_baseline.nir" in block:
        run_here("export", "quick_baseline --to nir --output quick_baseline.nir")
    if "tonic" in block:
        datasets = importlib.import_module("tonic").datasets
        monkeypatch.setattr(
            datasets, "DVSGesture", lambda *args, **more: [(np.array(EVENTS, FIELDS), 4)]
        )
    exec(block, {})
    if "tonic" in block:
        assert rows_in(tmp_path / "gestures/4/0.npy", (2, 4, 4), 1e-3)[1] == 8
    for path in Path().glob("*.nir"):
        dt = 1e-4 if "snntorch" in block else 1e-3
        model = from_nir(path, dt=dt)
        assert model(torch.ones(1, 5, *model.input_shape)).spikes["input"].item() == 5 * np.prod(
            model.input_shape
        )
        if model.input_shape == (2, 34, 34):
            run_here(NIR, path, RECORDINGS, f"--limit 3 --dt {dt} --output_dir {tmp_path}")
