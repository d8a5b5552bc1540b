"""Networks of NIR graphs: each node's equations by hand, the kernel against step() on random graphs, what is refused."""

import copy
import ctypes
import pickle
import shutil
import subprocess
import warnings
from itertools import pairwise, permutations

import nir
import numpy as np
import pytest
import torch
from conftest import REPOSITORY, run_here, run_make
from torch import nn

from harness.exporting.c_build import CBuild, encode_events
from harness.exporting.c_folder import c_folder
from self_models import ModelError, first_difference, from_nir, load
from self_models.engines.event import build
from self_models.guests.nir.graph_snn import GraphSNN
from self_models.guests.nir.neurons import Constants, NIRNeuron
from self_models.layers.neurons import SpikingNeuron
from self_models.layers.surrogates import triangle
from self_models.runtime.graph import Graph, chain_edges
from self_models.runtime.outputs import INPUT
from self_models.runtime.state import GraphState

FILES = REPOSITORY.parent / "shared/data/nir"  # of somebody else, where they are
SHAPE = np.array([1])


def chain(*nodes, shape=(1,)):
    """A graph of these nodes, one behind the other."""
    names = ["input", *map(str, range(len(nodes))), "output"]
    nodes = [nir.Input(np.array(shape)), *nodes, nir.Output(np.array(shape))]
    return nir.NIRGraph(dict(zip(names, nodes, strict=True)), [*pairwise(names)], type_check=False)


def of(*values):
    return np.array(values, np.float32)


def equations(kind, v_threshold=1.0, v_reset=0.0, **values):
    both = {"v_threshold": v_threshold, "v_reset": v_reset} if kind.endswith("F") else {}
    return getattr(nir, kind)(
        **{name: np.atleast_1d(np.float32(value)) for name, value in (values | both).items()}
    )


CUBA = {"tau_syn": 2, "tau_mem": 4, "r": 4, "v_leak": 0, "w_in": 2}


@pytest.mark.parametrize(
    ("node", "reset", "arriving", "potentials", "spikes"),
    [
        (
            equations("IF", r=0.5),
            "zero",
            [1, 1, 1, 3, 0],
            [0.5, 1, 0, 0, 0],
            [0, 0, 1, 1, 0],
        ),  # not at the threshold
        (
            nir.IF(torch.ones(1), torch.full((1,), 2.0), torch.zeros(1)),
            "zero",
            [1, 1, 1, 1],
            [1, 2, 0, 1],
            [0, 0, 1, 0],
        ),
        (
            equations("IF", r=1, v_reset=-0.5),
            "zero",
            [2, 0, 1.5, 0],
            [-0.5, -0.5, 1, 1],
            [1, 0, 0, 0],
        ),
        (
            equations("IF", r=1),
            "subtract",
            [3.5, 0, 0, 0],
            [2.5, 1.5, 0.5, 0.5],
            [1, 1, 1, 0],
        ),  # one spike a timestep
        (
            equations("LIF", tau=2, r=2, v_leak=0.5),
            "zero",
            [0, 1, 0],
            [0.25, 0, 0.25],
            [0, 1, 0],
        ),  # V = 1.375 there
        (
            equations("LIF", tau=1, r=1, v_leak=0, v_threshold=-1),
            "zero",
            [0, -2, 0],
            [0, -2, 0],
            [1, 0, 1],
        ),
        (equations("LI", tau=2, r=1, v_leak=1), "zero", [1, 0, 0], [1, 1, 1], None),
        (equations("I", r=2), "zero", [1, 0, -2], [2, 2, -2], None),
        (nir.Threshold(of(1)), "zero", [1, 1.5, 0.5], [1, 0, 0.5], [0, 1, 0]),
        (
            equations("CubaLIF", **CUBA),
            "zero",
            [1, 0, 0, 0],
            [1, 0, 0.25, 0.3125],
            [0, 1, 0, 0],
        ),  # I is 1, 1/2, 1/4, 1/8
        (equations("CubaLI", **CUBA), "zero", [1, 0, 0], [1, 1.25, 1.1875], None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nir.NIRNode) else "",
)
@pytest.mark.parametrize("engine", ["dense", "auto"])
def test_neurons_by_hand(node, reset, arriving, potentials, spikes, engine):
    graph = chain(node)
    graph.metadata = (
        {} if spikes else {"initial_potential": 0.5}
    )  # integrators begin at 0 whatever neurons do
    model = from_nir(graph, dt=1, reset=reset, engine=engine)
    assert not model.stays
    output = model(torch.tensor(arriving).reshape(1, -1, 1), record="all")
    assert output.recorded["0"]["membrane"].flatten().tolist() == potentials
    sent = potentials if spikes is None else spikes
    assert output.logits_by_step.flatten().tolist() == np.cumsum(sent).tolist()
    assert model.layers[1:] == ["0"] * (spikes is not None) and output.steps.tolist() == [
        len(arriving)
    ]
    if spikes is not None:
        assert output.spikes_by_step["0"].flatten().tolist() == spikes
        assert output.recorded["0"]["spikes"].flatten().tolist() == list(map(bool, spikes))


@pytest.mark.parametrize(
    ("given", "dt", "leak"),
    [
        ({}, 0.01, 0.5),  # as the file says
        ({"like": "nir"}, 0.01, 0.5),  # which takes nothing for granted
        ({"like": "snntorch"}, 1e-4, 0.995),
        ({"like": "snntorch", "dt": 0.002}, 0.002, 0.9),
    ],
)
def test_what_is_given_comes_before_like_and_that_before_the_file(given, dt, leak):
    """A timestep keeps 1 - dt / tau of V, of a time constant tau of 0.02 s."""
    graph = chain(equations("LIF", tau=0.02, r=1, v_leak=0))
    graph.metadata = {"seconds_per_step": 0.01, "reset": "subtract"}
    model = from_nir(graph, **given)
    assert model.dt == dt
    assert model.graph.modules["0"].leak.item() == pytest.approx(leak)


@pytest.mark.skipif(isinstance(build.kernel_build(), ModelError), reason="there is no C compiler")
def test_potentials_of_neurons_with_leaks_of_their_own_by_hand():
    """As C programs read them: 1 arrives at both, of which two timesteps keep 1/4 and 9/16."""
    neurons = equations(
        "LIF", tau=[2, 4], r=[2, 4], v_leak=[0, 0], v_threshold=[4, 4], v_reset=[0, 0]
    )
    model = from_nir(chain(neurons, shape=(2,)), dt=1)
    pool, of_kernel = model.engine.current(), build.library()
    kernel_state, events = pool.new(model.engine.settings(3)), (ctypes.c_int32 * 2)(0, 1)
    state, potential = ctypes.c_void_p(kernel_state.address), of_kernel.network_potential
    potential.restype = ctypes.c_float
    of_kernel.network_reset(state, 0, 0, 0)
    of_kernel.network_arrive(state, events, 2)
    found = [
        [potential(state, 1, n) for n in (0, 1)]
        for _ in range(3)
        if of_kernel.network_step(state) == 0
    ]
    assert found == [[1, 1], [0.5, 0.75], [0.25, 0.5625]]


def grid(draw, *shape):
    return (draw.integers(-16, 17, shape) / 16).astype(np.float32)


def one_of(draw, *values):
    return values[draw.integers(len(values))]


def random_neuron(draw, shape):
    """A node of neurons, with values of one kind, or of each neuron's own."""

    def values(*choice):
        each = draw.choice(choice, shape) if draw.random() < 0.3 else one_of(draw, *choice)
        return np.broadcast_to(
            np.float32(each), shape if draw.random() < 0.5 or np.ndim(each) else (1,)
        ).copy()

    def all_of(**choices):
        found = {name: values(*choice) for name, choice in choices.items()}
        whole = max(
            (each.shape for each in found.values()), key=lambda shape: (np.prod(shape), len(shape))
        )
        return {name: np.broadcast_to(each, whole).copy() for name, each in found.items()}

    fires = {
        "v_threshold": (0.5, 1, 1.5, *[-0.25] * (draw.random() < 0.1)),
        "v_reset": (0, 0, 0.25, -0.5),
    }
    leaks = {"tau": (1, 2, 4), "v_leak": (0, 0, 0.5)}
    synapse = {"tau_mem": (1, 2, 4), "tau_syn": (1, 2), "w_in": (1, 0.5), "v_leak": (0, 0.5)}
    kind, more = one_of(
        draw,
        *[("IF", fires), ("LIF", fires | leaks)] * 2,
        ("LI", leaks),
        ("I", {}),
        ("CubaLIF", fires | synapse),
        ("CubaLI", synapse),
    )
    return (
        getattr(nir, kind)(**all_of(r=(1, 0.5), **more))
        if draw.random() < 0.9
        else nir.Threshold(values(0.5, 1))
    )


def random_linear(draw, shape):
    """(a linear node for this shape, the module whose shapes it has)"""
    kinds = {
        1: ["Affine", "Linear"],
        2: ["Conv1d"],
        3: ["Conv2d", "Conv2d", "SumPool2d", "AvgPool2d"],
    }[len(shape)]
    kind, sides = one_of(draw, *kinds, *["Flatten"] * (len(shape) > 1), "Scale"), len(shape) - 1
    some = lambda *values: [one_of(draw, *values) for _ in range(sides)]  # noqa: E731
    if kind == "Scale":
        scale = draw.choice([0.5, 1, 2], shape) if draw.random() < 0.4 else np.full(shape, 0.5)
        return nir.Scale(scale.astype(np.float32)), nn.Identity()
    if kind == "Flatten":
        return nir.Flatten({"input": np.array(shape)}, 0, -1), nn.Flatten()
    if not sides:
        out, biased = int(draw.integers(2, 9)), kind == "Affine"
        weight = grid(draw, out, *shape)
        return nir.Affine(weight, grid(draw, out)) if biased else nir.Linear(weight), nn.Linear(
            *shape, out
        )
    if kind.startswith("Conv"):
        groups = one_of(draw, 1, 1, shape[0])
        out, kernel, dilation, stride = (
            groups * one_of(draw, 1, 2, 3),
            some(1, 2, 3, 4),
            some(1, 1, 2),
            some(1, 1, 2, 3),
        )
        padding = one_of(draw, "same", "valid", some(0, 1, 2), some(0, 1, 2))
        stride = [1] * sides if padding == "same" else stride
        weight, bias = (
            grid(draw, out, shape[0] // groups, *kernel),
            grid(draw, out) * one_of(draw, 0, 1),
        )
        plain = [
            value if sides > 1 or isinstance(value, str) else value[0]
            for value in (stride, padding, dilation)
        ]
        within = shape[1:] if sides > 1 else shape[1]
        module = (nn.Conv1d, nn.Conv2d)[sides - 1](
            shape[0], out, kernel, stride, padding, dilation, groups
        )
        return getattr(nir, kind)(
            within, weight, *(tuple(v) if isinstance(v, list) else v for v in plain), groups, bias
        ), module
    kernel = one_of(draw, [2, 2], [4, 4], [2, 4])
    stride, padding = one_of(draw, (kernel, [0, 0]), (kernel, [1, 1]), (some(1, 2, 3), some(0, 1)))
    return getattr(nir, kind)(*map(np.array, (kernel, stride, padding))), nn.AvgPool2d(
        kernel, stride, padding
    )


NEURONS = nir.IF, nir.LIF, nir.CubaLIF, nir.Threshold, nir.LI, nir.CubaLI


def random_graph(seed):
    """A graph of neurons and linear nodes on a grid, with sums of several sources, and what leads to its output."""
    draw = np.random.default_rng(seed)
    shape = tuple(draw.integers(5, 10, 3).tolist())
    shape = one_of(draw, shape, shape, (2, *shape[:2]), shape[:2], shape[:1])
    nodes, shapes, edges, last = (
        {"input": nir.Input(np.array(shape))},
        {"input": shape},
        [],
        "input",
    )
    for number in map(str, range(draw.integers(3, 9))):
        source = one_of(draw, last, last, *list(nodes)[-3:])
        node, module = random_linear(draw, shapes[source])
        if draw.random() < 0.4:
            node, module = random_neuron(draw, shapes[source]), nn.Identity()
        try:
            after = tuple(module(torch.zeros(1, *shapes[source])).shape[1:])
        except RuntimeError:  # a window larger than what it slides over
            continue
        others = [name for name in nodes if name != source and shapes[name] == shapes[source]][
            : draw.random() < 0.5
        ]
        edges += [(each, number) for each in (source, *others)]
        nodes[number], shapes[number], last = node, after, number
    for source, target in [*edges][
        :: 2 if draw.random() < 0.4 else 99
    ]:  # an edge back, to what takes this source's shape
        later = [
            name
            for name in nodes
            if name >= target
            and shapes[name] == shapes[source]
            and isinstance(nodes[name], NEURONS)
        ]
        edges += [(later[-1], target)] if later else []
    nodes["output"], edges = (
        nir.Output(np.array(shapes[last])),
        [*dict.fromkeys(edges), (last, "output")],
    )
    kept = {"output"}
    for source, target in [*reversed(edges)] * 2:
        kept |= {source} if target in kept else set()
    return nir.NIRGraph(
        {name: nodes[name] for name in nodes if name in kept},
        [edge for edge in edges if kept.issuperset(edge)],
        type_check=False,
    )


@torch.no_grad()
def check_graph(seed, folder, is_built_plainly=True, is_checked_in_c=True):
    """Compare the kernel with step() on the random graph of this seed.

    Spikes, potentials and sums, for frames with values and for lists of events.

    Parameters
    ----------
    seed : int
        Of the graph and of what arrives.
    folder : Path
        For files.
    is_built_plainly : bool
        Compare with the kernel of plain loops, too.
    is_checked_in_c : bool
        Export the graph as a folder of C, which checks itself, too.
    """
    graph = random_graph(seed)
    graph.metadata = {"seconds_per_step": 1, "reset": ["zero", "subtract"][seed % 2]}
    graph.metadata["initial_potential"] = [0, 1.5, 0.5][seed % 3]
    graph.metadata["update"] = ["immediate", "delayed"][seed % 5 == 0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # padding 'same' of even kernels
        for words, name, value in [
            ("of their own", "initial_potential", 0),
            ("below 0", "update", "immediate"),
        ] * 2:
            graph.metadata |= {name: value} if words in (from_nir(graph).stays or "") else {}
        model, plain = (from_nir(graph, engine=engine) for engine in ("event", "dense"))
        draw = torch.Generator().manual_seed(seed)
        events = torch.randint(-1, 4, (2, 6, *model.graph.shape), generator=draw).clamp(min=0)
        wanted = plain(events / 2, record="all")
        assert first_difference(model(events / 2, record="all"), wanted, tolerance=1e-5) is None
        assert first_difference(model(events / 2), wanted, tolerance=1e-5) is None
        rows = [one.nonzero().repeat_interleave(one[one > 0], 0).numpy() for one in events]
        found = model([each[torch.randperm(len(each), generator=draw)] for each in rows], 6)
        assert first_difference(found, plain(rows, 6), tolerance=1e-5) is None
        assert torch.equal(found.spikes["input"], events.flatten(1).sum(1).double())
        if is_built_plainly and not isinstance(build.kernel_build(plain=True), ModelError):
            fast, model.engine.current().library = model(events / 3), build.library(plain=True)
            assert (
                first_difference(model(events / 3), fast, tolerance=0) is None
            )  # bit for bit, on no grid
        if is_checked_in_c:
            path = folder / f"net_{seed}.nir"
            nir.write(path, graph)
            assert "checked here: equal: 3 recordings, 40 timesteps" in str(c_folder(path, None))


@pytest.mark.parametrize("seed", range(48))
def test_the_kernel_is_step_on_random_graphs(seed, tmp_path):
    """However its loops are built, and as a folder of C, which some of the graphs are.

    benchmarks/robustness/random_networks.py takes any number of graphs, each in all ways.
    """
    # 7 and the periods of check_graph(), 2, 3 and 5, have no common divisor, so that both
    # ways meet all settings; and both meet all kinds of nodes.
    check_graph(seed, tmp_path, seed % 7 in (4, 5), seed % 7 in (2, 6))


@torch.no_grad()
@pytest.mark.filterwarnings("ignore")
def test_the_kernel_is_step_where_potentials_begin_elsewhere():
    """As Norse begins at v_leak: above and below thresholds and 0, and of neurons that send V."""
    kinds = set()
    for seed in range(60):
        graph = random_graph(seed)
        model = from_nir(graph, like="norse", dt=1)
        neurons = model.neurons()
        begins = {
            type(graph.nodes[name]).__name__
            for name, one in neurons.items()
            if one.start is not None
        }
        if not (model.engine and begins):
            continue
        kinds |= begins
        draw = torch.Generator().manual_seed(seed)
        events = torch.randint(-1, 4, (2, 6, *model.graph.shape), generator=draw).clamp(min=0)
        found = model(events / 2, record="all")
        plain = from_nir(graph, like="norse", dt=1, engine="dense")
        assert first_difference(found, plain(events / 2, record="all"), tolerance=1e-5) is None
    assert kinds >= {"IF", "LIF", "LI"}


def test_c_of_neurons_in_four_dimensions(tmp_path):
    nir.write(
        tmp_path / "net.nir",
        chain(equations("IF", r=1), equations("IF", r=1, v_threshold=0.5), shape=(2, 3, 2, 2)),
    )
    assert "checked here: equal: 3 recordings" in str(c_folder(tmp_path / "net.nir", None))


@pytest.mark.parametrize("engine", ["dense", "event"])
def test_events_of_the_input_are_counted_exactly_and_by_their_size(engine):
    model = from_nir(chain(equations("IF", r=1)), dt=1, engine=engine)
    output = model(torch.tensor([2.0**24, 1, -1, 1, -0.5]).reshape(1, 5, 1))
    assert output.spikes_by_step["input"].flatten().tolist() == [2**24, 1, 1, 1, 0.5]
    assert output.spikes["input"].item() == 2**24 + 3.5


BYTES = torch.tensor([0, 1, 255, 51], dtype=torch.uint8).reshape(1, 4, 1)


@pytest.mark.parametrize("engine", ["dense", "event"])
@pytest.mark.parametrize("training", [False, True])
def test_bytes_above_1_are_pixels_or_counts_as_the_caller_says(engine, training):
    """Neurons with the threshold 1: a count n brings V to n, a pixel p to p / 255."""
    model = from_nir(chain(equations("IF", r=1)), dt=1, reset="subtract", engine=engine)
    model.train(training)
    unclear = "bytes up to 255 may be pixels or numbers of events: say scale=255 for images"
    for events in (BYTES, BYTES.numpy()):
        with pytest.raises(ModelError, match=unclear):
            model(events)
        counted = model(events, counts=True)
        assert counted.spikes_by_step["input"].flatten().tolist() == [0, 1, 255, 51]
        assert counted.logits_by_step.flatten().tolist() == [0, 0, 1, 2]
        scaled = model(events, scale=255)
        pixels = torch.tensor([0, 1 / 255, 1, 0.2])
        assert torch.equal(scaled.spikes_by_step["input"].flatten(), pixels)
        assert scaled.logits_by_step.flatten().tolist() == [0, 0, 1, 1]
    with pytest.raises(ModelError, match=unclear):
        model.step(GraphState(), BYTES[:, 2])


def test_bytes_of_0_and_1_and_other_numbers_need_no_word():
    model = from_nir(chain(equations("IF", r=1)), dt=1)
    assert model(BYTES[:, :2]).spikes["input"].item() == 1
    assert model(BYTES.short()).spikes["input"].item() == 307
    assert model(BYTES.float()).spikes["input"].item() == 307
    assert model(BYTES.float(), scale=2).spikes["input"].item() == 153.5


@pytest.mark.parametrize(
    ("events", "words", "said"),
    [
        (BYTES, {"scale": 255, "counts": True}, "give one of the two"),
        (BYTES, {"scale": 0}, "scale: 0 is not"),
        ([np.array([[0, 0]])], {"scale": 255}, "lists of events have no values: leave it out"),
    ],
)
def test_words_on_bytes_that_cannot_be(events, words, said):
    model = from_nir(chain(equations("IF", r=1)), dt=1)
    with pytest.raises(ModelError, match=said):
        model(events, **words)


@pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler, cc")
@pytest.mark.parametrize("seed", [12, 21, 39])  # outputs of one dimension, of a Flatten, of three
def test_a_folder_of_c_reads_events(tmp_path, seed):
    """It checks itself, and answers recordings one after the other as we do."""
    path, folder, draw = tmp_path / "net.nir", tmp_path / "c", torch.Generator().manual_seed(seed)
    nir.write(path, random_graph(seed))
    run_here("export", path, "--to c --output", folder)
    done = run_make(folder, "CFLAGS=-O1", goals=("all", "check"))
    assert "equal: 3 recordings" in done.stdout, done.stdout + done.stderr
    model = load(path)
    events = torch.randint(0, 3, (4, 6, *model.graph.shape), generator=draw)
    record = dict.fromkeys(model.layers[1:], ("spikes", "membrane")) | {"input": "spikes"}
    found, end = CBuild(folder, model), b"\xff" * 8
    assert first_difference(model(events, record=record), found(events), tolerance=0) is None
    with pytest.raises(ModelError, match="bytes up to 2 may be pixels or numbers of events"):
        found(events.to(torch.uint8))
    counted = found(events.to(torch.uint8), counts=True)
    assert first_difference(counted, found(events), tolerance=0) is None

    def answered(raw, *options):
        done = subprocess.run([folder / "run", "-o", *options], input=raw, capture_output=True)
        lines = [line.split() for line in done.stdout.decode().splitlines()]
        return (
            [int(steps) for _, steps, *_ in lines],
            np.array([logits for _, _, _, *logits in lines], np.float32),
            done,
        )

    assert np.array_equal(
        answered(encode_events(events).replace(end, b""), "-s", "6")[1],
        model(events).logits.numpy(),
    )
    late = events * torch.eye(4, 6, dtype=int).view(
        4, 6, *[1] * len(model.graph.shape)
    )  # none begins before the last ends
    steps, logits, _ = answered(encode_events(late))
    assert steps == [1, 2, 3, 4]
    assert np.array_equal(logits, model(late).logits_by_step[range(4), range(4)])
    assert np.array_equal(answered(encode_events(late).removesuffix(end))[1], logits)
    done = answered(encode_events(late)[:-3])[2]
    assert done.returncode == 2 and b"an event is 8 bytes, and the last one has 5" in done.stderr
    goes_on = model(events).logits_by_step.topk(2).values.diff()[..., 0] > -1
    stops = goes_on.int().cumprod(0).sum(0).add(1).clamp(max=6)
    assert [
        int(line.split()[1]) for line in found.run(events, "-b", "1").splitlines()
    ] == stops.tolist()


def test_an_edge_back_acts_a_timestep_later_and_graphs_lie_within_graphs():
    inner = nir.NIRGraph(
        {
            "in": nir.Input(SHAPE),
            "lif": equations("CubaLIF", **CUBA | {"tau_syn": 1, "w_in": 1, "tau_mem": 1, "r": 1}),
            "back": nir.Linear(of([1.0])),
            "out": nir.Output(SHAPE),
        },
        [("in", "lif"), ("lif", "back"), ("back", "lif"), ("lif", "out")],
        type_check=False,
    )
    inner.nodes["back"].weight = of(-2.0).reshape(1, 1)
    model = from_nir(chain(inner), dt=1)
    output = model(torch.tensor([2.0, 2, 2, 2, 4]).reshape(1, 5, 1), record={"0.lif": "spikes"})
    assert (
        output.recorded["0.lif"]["spikes"].flatten().tolist() == [True, False, True, False, True]
        and not model.stays
    )


PLAIN = nn.Identity()


def test_what_goes_back_does_not_depend_on_the_order_of_edges():
    """A circle with one entry goes back to it whatever its nodes are called; of others a note names the edges that act later."""
    draw = np.random.default_rng(0)
    for _ in range(40):
        pairs = [(a, b) for a in range(4) for b in range(4) if draw.random() < 0.3] + [(0, 0)] * (
            draw.random() < 0.5
        )
        pairs = {(f"{a}", f"{b}") for a, b in [*pairs, (0, 1), (1, 2), (2, 3)]} | {
            ("in", "0"),
            ("3", "out"),
        }
        pairs = sorted(pairs | {("in", one_of(draw, "0", "1", "2", "3"))})
        found = set()
        for names in permutations("0123"):
            new = dict(zip("0123", names, strict=True)) | {"in": INPUT, "out": "out"}
            edges = [(new[a], new[b]) for a, b in pairs]
            draw.shuffle(edges)
            runs = [list(map(tuple, each)) for each in (edges, edges[::-1])]
            with warnings.catch_warnings(record=True) as notes:
                warnings.simplefilter("always")
                graphs = [
                    Graph(dict.fromkeys([*"3120", "out"], PLAIN), each, (1,), {"output": "out"})
                    for each in runs
                ]
            assert graphs[0].nodes == graphs[1].nodes
            old = {its: name for name, its in new.items()}
            found.add(frozenset((old[a], old[b]) for a, b in graphs[0].back))
            for note in notes:
                assert str(note.message).startswith(
                    "a circle has several entries; these edges act a timestep later: '"
                )
        assert (len(found) > 1) == bool(notes)


@torch.no_grad()
def test_what_the_kernel_leaves_to_the_step_and_a_stride_beyond_the_input():
    """A Flatten to several dimensions; neurons that fire before they are charged, by thresholds below 0."""
    conv = nir.Conv1d(12, np.ones((1, 2, 3), np.float32), 1, 1, 1, 1, np.zeros(1, np.float32))
    rows = from_nir(
        chain(
            nir.Flatten({"input": np.array([2, 3, 4])}, 1, 2),
            conv,
            equations("IF", r=1),
            shape=(2, 3, 4),
        ),
        dt=1,
    )
    events = torch.zeros(1, 1, 2, 3, 4)
    events[0, 0, 0, 1, 0] = 3
    assert "a Flatten to the shape (2, 12)" in rows.stays and rows(events).logits.nonzero()[
        :, 1
    ].tolist() == [3, 4, 5]
    graph = chain(equations("IF", r=1, v_threshold=-0.25))
    graph.metadata["update"] = "delayed"
    early = from_nir(graph, dt=1)
    assert "thresholds below 0" in early.stays and early(
        torch.zeros(1, 4, 1)
    ).logits_by_step.flatten().tolist() == [1, 2, 3, 4]
    wide = nir.Conv2d(
        (3, 4), np.ones((1, 2, 3, 3), np.float32), 10**12, 1, 1, 1, np.zeros(1, np.float32)
    )
    graph = chain(wide, equations("IF", r=1), shape=(2, 3, 4))
    events = torch.randint(0, 2, (2, 6, 2, 3, 4))
    a, b = (
        from_nir(graph, dt=1, engine=engine)(events).logits_by_step
        for engine in ("event", "dense")
    )
    assert torch.equal(a, b) and a.sum() > 0


def test_it_trains_and_its_kernel_follows_the_weights():
    torch.manual_seed(0)
    graph = chain(
        nir.Affine(grid(np.random.default_rng(1), 4, 6), of(0, 0, 0, 0)),
        equations("LIF", tau=4, r=4, v_leak=0),
        nir.Linear(grid(np.random.default_rng(2), 2, 4)),
        equations("IF", r=1),
        shape=(6,),
    )
    model, events, labels = (
        from_nir(graph, dt=1).train(),
        (torch.rand(64, 8, 6) < 0.4).float(),
        torch.arange(64) % 2,
    )
    events[labels == 0, :, :3] = 0
    optimiser, losses = torch.optim.Adam(model.parameters(), 0.05), []
    for _ in range(30):
        loss = nn.functional.cross_entropy(model(events).logits, labels)
        optimiser.zero_grad(), loss.backward(), optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    trained, dense = model.eval()(events), model.train()(events)
    assert torch.equal(trained.logits, dense.logits)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(copied.eval()(events).logits, dense.logits)


@pytest.mark.parametrize("engine", ["dense", "auto"])
@pytest.mark.parametrize("update", ["immediate", "delayed"])
def test_neurons_of_the_core_are_those_of_nir_without_constants(engine, update):
    torch.manual_seed(0)
    weights = nn.Linear(6, 5)
    events = (torch.rand(3, 20, 6) < 0.4).float()

    def run(kind):
        own = {"threshold": 0.3, "leak": 0.9, "initial_potential": 0.5, "floor": 0.25}
        modules = {"in": weights, "a": kind(triangle(None, None), update, **own)}
        graph = Graph(modules, chain_edges(modules), shape=(6,), ends={"output": "a"})
        model = GraphSNN(graph, engine=engine).eval()
        assert not model.stays
        return model(events, record="all").recorded["a"]

    plain = run(SpikingNeuron)
    of_nir = run(NIRNeuron)
    assert plain["spikes"].any()
    assert plain["membrane"].min() < 0
    for kind in ("spikes", "membrane"):
        assert torch.equal(plain[kind], of_nir[kind])


def test_a_changed_constant_counts_from_the_next_run_on():
    model = from_nir(chain(equations("IF", r=1)), dt=1)
    events = torch.ones(1, 8, 1)
    assert model(events).spikes["0"].item() == 4  # where V is 2
    model.graph.modules["0"].set_constants(Constants(gain=2.0, reset=0.0))
    assert model(events).spikes["0"].item() == 8
    assert model.train()(events).spikes["0"].item() == 8


def test_r_of_one_by_dt_is_one():
    with pytest.warns(UserWarning, match=r"r of '0' is 1/dt, which is taken as 1"):
        model = from_nir(chain(equations("IF", r=1000)))
    assert model.graph.modules["0"].gain == 1 and model.dt == 1e-3


def damaged(path):
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    return path


PAIR = chain(equations("IF", r=1)).nodes
FAULTS = {
    "no such file": lambda path: path,
    "is no NIR file that can be read": damaged,
    "node '0' is a Delay, which is not known here": chain(nir.Delay(of(1))),
    "node '1' does not fit what arrives, (3,)": chain(
        nir.Linear(np.ones((3, 1), np.float32)), nir.I(of(1, 2))
    ),
    "asks for the node 'nowhere'": nir.NIRGraph(PAIR, [("input", "nowhere")], type_check=False),
    "must have one Output, and has 0": nir.NIRGraph(
        {"input": PAIR["input"]}, [], type_check=False
    ),
    "node '0' is not reached from the input": nir.NIRGraph(
        PAIR, [("input", "output")], type_check=False
    ),
    "a time constant must be above 0 seconds, not 0": chain(
        equations("LIF", tau=0, r=1, v_leak=0)
    ),
    "node '1': its time constant of 0.0002 s is shorter than dt, 0.001 s: give dt=0.0001": chain(
        equations("LIF", tau=9e-4, r=1, v_leak=0),
        nir.CubaLI(*map(torch.tensor, ([5e-4], [2e-4], [1.0], [0.0]))),
    ),
    "one of its values is not finite": chain(equations("IF", r=np.nan)),
    "more than half of its windows (3, 3)": chain(
        nir.SumPool2d(*np.int64([[3, 3], [1, 1], [2, 2]])), shape=(1, 4, 4)
    ),
    "the shapes of its sources differ": nir.NIRGraph(
        {
            "input": nir.Input(np.array([2])),
            "0": nir.Linear(np.eye(1, 2, dtype=np.float32)),
            "1": equations("IF", r=1),
            "output": nir.Output(SHAPE),
        },
        [("input", "0"), ("input", "1"), ("0", "1"), ("1", "output")],
        type_check=False,
    ),
}


@pytest.mark.parametrize("words", FAULTS)
def test_what_cannot_be_read_is_refused(tmp_path, words):
    fault = FAULTS[words]
    with pytest.raises(ModelError) as found:
        from_nir(fault(tmp_path / "net.nir") if callable(fault) else fault)
    assert words in str(found.value) and "\n" not in str(found.value)
    if "give dt=" in words:
        assert from_nir(fault, float(words.split("=")[1])).dt == 1e-4


def test_events_that_do_not_fit_are_refused():
    model = from_nir(chain(equations("IF", r=1), shape=(1, 2, 2)))
    with pytest.raises(
        ModelError, match=r"do not fit this graph, whose input takes \(B, T, 1, 2, 2\)"
    ):
        model(torch.zeros(1, 4, 3))
    for late_or_outside in ([0, 0, 1, 2], [3, 0, 1, 1]):
        with pytest.raises(
            ModelError,
            match=r"recording 0: an event lies outside of 3 timesteps and the sensor \(1, 2, 2\)",
        ):
            model([np.array([late_or_outside])], 3)
    with pytest.raises(ModelError, match="record: input has no 'membrane'"):
        model(torch.zeros(1, 1, 1, 2, 2), record={"input": "membrane"})


@pytest.mark.skipif(not FILES.is_dir(), reason="needs ../shared/data/nir")
@pytest.mark.parametrize(("trace", "apart"), [("exact", 7e-3), ("norse", 1e-7)])
def test_the_lif_neuron_of_nirs_paper(trace, apart):
    """No spike differs from the exact solution's, nor from Norse's."""
    arriving, v, spikes = np.loadtxt(FILES / f"lif_{trace}.csv", delimiter=",").T
    model = load(FILES / "lif_norse.nir", dt=1e-4)
    found = model(
        torch.tensor(arriving, dtype=torch.float32).reshape(1, -1, 1), record="all"
    ).recorded["1"]
    assert np.abs(found["membrane"].flatten().numpy() - v).max() < apart and spikes.sum() == 4
    assert np.array_equal(found["spikes"].flatten().numpy(), spikes)


def test_a_link_ends_at_its_last_layer_or_at_its_target():
    """Of two networks, one with a layer between the input and the neurons, one without."""
    neuron = SpikingNeuron(triangle(None, None), "immediate")
    layers = {"linear": nn.Linear(3, 3), "neuron": neuron}
    graph = Graph(layers, chain_edges(layers), (3,), {"output": "neuron"})
    assert [link.end for link in graph.links] == ["linear", "output"]
    assert [
        link.end for link in Graph({"neuron": neuron}, [(INPUT, "neuron")], (3,), {}).links
    ] == ["neuron"]
