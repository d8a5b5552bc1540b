"""Networks of NIR graphs.

Each node's equations by hand, the kernel against step() on random graphs, what is
refused.
"""

import copy
import ctypes
import pickle
import shutil
import subprocess
import warnings
from itertools import pairwise, permutations
from types import SimpleNamespace

import nir
import numpy as np
import pytest
import torch
from conftest import REPOSITORY, run_here, run_make
from torch import nn

from self_models import ModelError, first_difference, from_nir, load
from self_models.neurons.nir import Constants, NIRNeuron
from self_models.neurons.spiking import SpikingNeuron
from self_models.neurons.surrogates import triangle
from self_models.running.graph import Graph, chain_edges
from self_models.running.outputs import INPUT
from self_models.running.state import GraphState
from wfeedback.event import build
from wfeedback.event.layout import lay_out
from wfeedback.event.tables import K
from wfeedback.export.c_build import CBuild, encode_events
from wfeedback.export.c_folder import c_folder
from wfeedback.nir.graph_snn import GraphSNN

FILES = REPOSITORY.parent / "shared/data/nir"  # of somebody else, where they are
SHAPE = np.array([1])
needs_engine = pytest.mark.skipif(
    isinstance(build.kernel_build(), ModelError), reason="there is no C compiler"
)


def chain(*nodes, shape=(1,)):
    """Make a graph of these nodes, one behind the other."""
    by_name = {"input": nir.Input(np.array(shape))}
    for number, node in enumerate(nodes):
        by_name[str(number)] = node
    by_name["output"] = nir.Output(np.array(shape))
    return nir.NIRGraph(by_name, list(pairwise(by_name)), type_check=False)


def of(*values):
    """Return an array of these values, as nodes hold them."""
    return np.array(values, np.float32)


def equations(kind, v_threshold=1.0, v_reset=0.0, **values):
    """Make a node of neurons of this kind."""
    if kind.endswith("F"):  # it fires, and is no integrator
        values |= {"v_threshold": v_threshold, "v_reset": v_reset}
    arrays = {name: np.atleast_1d(np.float32(value)) for name, value in values.items()}
    return getattr(nir, kind)(**arrays)


CUBA = {"tau_syn": 2, "tau_mem": 4, "r": 4, "v_leak": 0, "w_in": 2}


IF_OF_TENSORS = nir.IF(torch.ones(1), torch.full((1,), 2.0), torch.zeros(1))


def name_of_node(value):
    """Return the name of a node, for the ids of tests."""
    return type(value).__name__ if isinstance(value, nir.NIRNode) else ""


@pytest.mark.parametrize(
    ("node", "arriving", "potentials", "spikes"),
    [
        # At the threshold, V = 1, it does not spike.
        (equations("IF", r=0.5), [1, 1, 1, 3, 0], [0.5, 1, 0, 0, 0], [0, 0, 1, 1, 0]),
        (IF_OF_TENSORS, [1, 1, 1, 1], [1, 2, 0, 1], [0, 0, 1, 0]),
        (
            equations("IF", r=1, v_reset=-0.5),
            [2, 0, 1.5, 0],
            [-0.5, -0.5, 1, 1],
            [1, 0, 0, 0],
        ),
        # V moves half of the way to 0.5 + 2 I: to 0.25, and to 0.125 + 1.25 = 1.375.
        (equations("LIF", tau=2, r=2, v_leak=0.5), [0, 1, 0], [0.25, 0, 0.25], [0, 1, 0]),
        (
            equations("LIF", tau=1, r=1, v_leak=0, v_threshold=-1),
            [0, -2, 0],
            [0, -2, 0],
            [1, 0, 1],
        ),
        (nir.Threshold(of(1)), [1, 1.5, 0.5], [1, 0, 0.5], [0, 1, 0]),
        # I is 1, 1/2, 1/4, 1/8, and V becomes 3/4 V + I: 1, 1.25, 0.25, 0.1875 + 0.125.
        (equations("CubaLIF", **CUBA), [1, 0, 0, 0], [1, 0, 0.25, 0.3125], [0, 1, 0, 0]),
    ],
    ids=name_of_node,
)
@pytest.mark.parametrize("engine", ["dense", "auto"])
def test_neurons_by_hand(node, arriving, potentials, spikes, engine):
    model = from_nir(chain(node), dt=1, reset="zero", engine=engine)

    check_neurons(model, arriving, potentials, spikes)


@pytest.mark.parametrize("engine", ["dense", "auto"])
def test_neurons_that_subtract_their_threshold_spike_once_a_timestep_by_hand(engine):
    model = from_nir(chain(equations("IF", r=1)), dt=1, reset="subtract", engine=engine)

    check_neurons(model, [3.5, 0, 0, 0], potentials=[2.5, 1.5, 0.5, 0.5], spikes=[1, 1, 1, 0])


def check_neurons(model, arriving, potentials, spikes):
    """Check a run of one node of neurons."""
    output = model(torch.tensor(arriving).reshape(1, -1, 1), record="all")

    assert not model.stays
    assert model.layers[1:] == ["0"]
    assert output.steps.tolist() == [len(arriving)]
    assert output.recorded["0"]["membrane"].flatten().tolist() == potentials
    assert output.logits_by_step.flatten().tolist() == np.cumsum(spikes).tolist()
    assert output.spikes_by_step["0"].flatten().tolist() == spikes
    assert output.recorded["0"]["spikes"].flatten().tolist() == [bool(spike) for spike in spikes]


@pytest.mark.parametrize(
    ("node", "arriving", "potentials"),
    [
        # Half of V and half of 1 + I: 0 + 1, 1/2 + 1/2, 1/2 + 1/2.
        (equations("LI", tau=2, r=1, v_leak=1), [1, 0, 0], [1, 1, 1]),
        (equations("I", r=2), [1, 0, -2], [2, 2, -2]),
        # I is 1, 1/2, 1/4, and V becomes 3/4 V + I: 1, 0.75 + 0.5, 0.9375 + 0.25.
        (equations("CubaLI", **CUBA), [1, 0, 0], [1, 1.25, 1.1875]),
    ],
    ids=name_of_node,
)
@pytest.mark.parametrize("engine", ["dense", "auto"])
def test_integrators_send_their_potential_by_hand(node, arriving, potentials, engine):
    graph = chain(node)
    graph.metadata = {"initial_potential": 0.5}  # only of neurons; integrators begin at 0
    model = from_nir(graph, dt=1, reset="zero", engine=engine)

    output = model(torch.tensor(arriving).reshape(1, -1, 1), record="all")

    assert not model.stays
    assert model.layers[1:] == []
    assert output.steps.tolist() == [len(arriving)]
    assert output.recorded["0"]["membrane"].flatten().tolist() == potentials
    assert output.logits_by_step.flatten().tolist() == np.cumsum(potentials).tolist()


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


@needs_engine
def test_potentials_of_neurons_with_leaks_of_their_own_by_hand():
    """As C programs read them: 1 arrives, of which two timesteps keep 1/4 and 9/16."""
    neurons = equations(
        "LIF", tau=[2, 4], r=[2, 4], v_leak=[0, 0], v_threshold=[4, 4], v_reset=[0, 0]
    )
    model = from_nir(chain(neurons, shape=(2,)), dt=1)
    kernel = build.library()
    kernel.network_potential.restype = ctypes.c_float
    kernel_state = model.engine.prepare_pool().new(model.engine.settings(3))
    state = ctypes.c_void_p(kernel_state.address)
    events = (ctypes.c_int32 * 2)(0, 1)

    kernel.network_reset(state, 0, 0, 0)
    kernel.network_arrive(state, events, 2)
    potentials = []
    for _ in range(3):
        assert kernel.network_step(state) == 0
        first = kernel.network_potential(state, 1, 0)
        second = kernel.network_potential(state, 1, 1)
        potentials.append([first, second])

    assert potentials == [[1, 1], [0.5, 0.75], [0.25, 0.5625]]


# --- random graphs


def grid(draw, *shape):
    """Draw multiples of 1/16 from -1 to 1."""
    return (draw.integers(-16, 17, shape) / 16).astype(np.float32)


def one_of(draw, *values):
    """Draw one of the values."""
    return values[draw.integers(len(values))]


def some_of(draw, number, *values):
    """Draw so many of the values, with repetition."""
    return [one_of(draw, *values) for _ in range(number)]


def random_constants(draw, shape, choices):
    """Draw the same constant for all neurons, or one for each of them."""
    if draw.random() < 0.3:
        values = draw.choice(choices, shape)
    else:
        values = one_of(draw, *choices)
    is_whole = draw.random() < 0.5 or np.ndim(values) > 0
    return np.broadcast_to(np.float32(values), shape if is_whole else (1,)).copy()


def size_and_dimensions(array):
    """Return by what one array is larger than another."""
    return array.size, array.ndim


def random_neuron(draw, shape):
    """Draw a node of neurons."""
    thresholds = (0.5, 1, 1.5)
    if draw.random() < 0.1:
        thresholds += (-0.25,)
    fires = {"v_threshold": thresholds, "v_reset": (0, 0, 0.25, -0.5)}
    leaks = {"tau": (1, 2, 4), "v_leak": (0, 0, 0.5)}
    synapse = {"tau_mem": (1, 2, 4), "tau_syn": (1, 2), "w_in": (1, 0.5), "v_leak": (0, 0.5)}
    kind, choices = one_of(
        draw,
        ("IF", fires),
        ("LIF", fires | leaks),
        ("IF", fires),
        ("LIF", fires | leaks),
        ("LI", leaks),
        ("I", {}),
        ("CubaLIF", fires | synapse),
        ("CubaLI", synapse),
    )
    if draw.random() >= 0.9:
        return nir.Threshold(random_constants(draw, shape, (0.5, 1)))

    constants = {"r": random_constants(draw, shape, (1, 0.5))}
    for name, values in choices.items():
        constants[name] = random_constants(draw, shape, values)
    # A node takes constants of one shape.
    largest = max(constants.values(), key=size_and_dimensions)
    for name, values in constants.items():
        constants[name] = np.broadcast_to(values, largest.shape).copy()
    return getattr(nir, kind)(**constants)


def random_convolution(draw, kind, shape):
    """Draw a convolution over 1 or 2 sides; return it and a module of its shapes."""
    sides = len(shape) - 1
    groups = one_of(draw, 1, 1, shape[0])
    channels = groups * one_of(draw, 1, 2, 3)
    kernel = some_of(draw, sides, 1, 2, 3, 4)
    dilation = some_of(draw, sides, 1, 1, 2)
    stride = some_of(draw, sides, 1, 1, 2, 3)
    padding = one_of(
        draw, "same", "valid", some_of(draw, sides, 0, 1, 2), some_of(draw, sides, 0, 1, 2)
    )
    if padding == "same":
        stride = [1] * sides
    weight = grid(draw, channels, shape[0] // groups, *kernel)
    bias = grid(draw, channels) * one_of(draw, 0, 1)

    convolution = {1: nn.Conv1d, 2: nn.Conv2d}[sides]
    module = convolution(shape[0], channels, kernel, stride, padding, dilation, groups)
    input_shape = shape[1:]
    if sides == 1:  # NIR then has numbers in place of tuples
        input_shape = shape[1]
        stride = stride[0]
        dilation = dilation[0]
        if isinstance(padding, list):
            padding = padding[0]
    else:
        stride = tuple(stride)
        dilation = tuple(dilation)
        if isinstance(padding, list):
            padding = tuple(padding)
    node = getattr(nir, kind)(input_shape, weight, stride, padding, dilation, groups, bias)
    return node, module


def random_pool(draw, kind):
    """Draw a pool over two sides; return it and a module of its shapes."""
    kernel = one_of(draw, [2, 2], [4, 4], [2, 4])
    stride, padding = one_of(
        draw,
        (kernel, [0, 0]),
        (kernel, [1, 1]),
        (some_of(draw, 2, 1, 2, 3), some_of(draw, 2, 0, 1)),
    )
    node = getattr(nir, kind)(np.array(kernel), np.array(stride), np.array(padding))
    return node, nn.AvgPool2d(kernel, stride, padding)


def random_linear(draw, shape):
    """Draw a linear node for this shape; return it and a module of its shapes."""
    kinds = {
        1: ["Affine", "Linear", "Scale"],
        2: ["Conv1d", "Flatten", "Scale"],
        3: ["Conv2d", "Conv2d", "SumPool2d", "AvgPool2d", "Flatten", "Scale"],
    }
    kind = one_of(draw, *kinds[len(shape)])
    if kind == "Scale":
        scale = np.full(shape, 0.5)
        if draw.random() < 0.4:
            scale = draw.choice([0.5, 1, 2], shape)
        return nir.Scale(scale.astype(np.float32)), nn.Identity()
    if kind == "Flatten":
        return nir.Flatten({"input": np.array(shape)}, 0, -1), nn.Flatten()
    if kind in ("Affine", "Linear"):
        neurons = int(draw.integers(2, 9))
        weight = grid(draw, neurons, *shape)
        node = nir.Linear(weight)
        if kind == "Affine":
            node = nir.Affine(weight, grid(draw, neurons))
        return node, nn.Linear(*shape, neurons)
    if kind in ("Conv1d", "Conv2d"):
        return random_convolution(draw, kind, shape)
    return random_pool(draw, kind)


NEURONS = nir.IF, nir.LIF, nir.CubaLIF, nir.Threshold, nir.LI, nir.CubaLI


def random_graph(seed):
    """Draw a graph of neurons and linear nodes on a grid, of what leads to its output.

    A node may have several sources, whose sum it takes.
    """
    draw = np.random.default_rng(seed)
    shape = tuple(draw.integers(5, 10, 3).tolist())
    shape = one_of(draw, shape, shape, (2, *shape[:2]), shape[:2], shape[:1])
    nodes = {"input": nir.Input(np.array(shape))}
    shapes = {"input": shape}
    edges = []
    last = "input"
    for number in range(draw.integers(3, 9)):
        name = str(number)
        source = one_of(draw, last, last, *list(nodes)[-3:])
        node, module = random_linear(draw, shapes[source])
        if draw.random() < 0.4:
            node = random_neuron(draw, shapes[source])
            module = nn.Identity()
        try:
            output = module(torch.zeros(1, *shapes[source]))
        except RuntimeError:  # a window larger than what it slides over
            continue
        edges.append((source, name))
        alike = [other for other in nodes if shapes[other] == shapes[source]]
        alike.remove(source)
        if draw.random() < 0.5 and alike:
            edges.append((alike[0], name))
        nodes[name] = node
        shapes[name] = tuple(output.shape[1:])
        last = name

    edges += edges_back(nodes, shapes, edges, every=2 if draw.random() < 0.4 else 99)
    nodes["output"] = nir.Output(np.array(shapes[last]))
    edges = [*dict.fromkeys(edges), (last, "output")]
    return leading_to_output(nodes, edges)


def edges_back(nodes, shapes, edges, every):
    """Return for every n-th edge one that leads back to its target from neurons."""
    back = []
    for source, target in edges[::every]:
        later = []
        for name, node in nodes.items():
            is_later = name >= target and isinstance(node, NEURONS)
            if is_later and shapes[name] == shapes[source]:
                later.append(name)
        if later:
            back.append((later[-1], target))
    return back


def leading_to_output(nodes, edges):
    """Make a graph of those nodes and edges from which the output is reached."""
    kept = {"output"}
    for source, target in list(reversed(edges)) * 2:  # twice, because of edges back
        if target in kept:
            kept.add(source)
    return nir.NIRGraph(
        {name: node for name, node in nodes.items() if name in kept},
        [edge for edge in edges if kept.issuperset(edge)],
        type_check=False,
    )


def random_events(seed, shape):
    """Draw 2 recordings of 6 timesteps, with 0 to 3 events at a place.

    Returns the generator, too.
    """
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(-1, 4, (2, 6, *shape), generator=draw).clamp(min=0), draw


def listed_events(events):
    """Return for each recording a row (timestep, place) for each event."""
    recordings = []
    for counts in events:
        rows = counts.nonzero().repeat_interleave(counts[counts > 0], 0)
        recordings.append(rows.numpy())
    return recordings


def make_runnable(graph):
    """Change metadata that the kernel leaves to the step."""
    for _ in range(2):  # it tells one at a time
        reason = from_nir(graph).stays or ""
        if "of their own" in reason:
            graph.metadata["initial_potential"] = 0
        if "below 0" in reason:
            graph.metadata["update"] = "immediate"


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
        make_runnable(graph)
        model = from_nir(graph, engine="event")
        reference = from_nir(graph, engine="dense")

        events, draw = random_events(seed, model.graph.shape)
        wanted = reference(events / 2, record="all")
        assert first_difference(model(events / 2, record="all"), wanted, tolerance=1e-5) is None
        assert first_difference(model(events / 2), wanted, tolerance=1e-5) is None

        in_order = listed_events(events)
        shuffled = [rows[torch.randperm(len(rows), generator=draw)] for rows in in_order]
        found = model(shuffled, 6)
        assert first_difference(found, reference(in_order, 6), tolerance=1e-5) is None
        assert torch.equal(found.spikes["input"], events.flatten(1).sum(1).double())

        if is_built_plainly and not isinstance(build.kernel_build(plain=True), ModelError):
            by_vectors = model(events / 3)  # on no grid, and yet bit for bit
            model.engine.prepare_pool().library = build.library(plain=True)
            assert first_difference(model(events / 3), by_vectors, tolerance=0) is None

        if is_checked_in_c:
            path = folder / f"net_{seed}.nir"
            nir.write(path, graph)
            assert "checked here: equal: 3 recordings, 40 timesteps" in str(c_folder(path, None))


@pytest.mark.parametrize("seed", range(48))
def test_the_kernel_is_step_on_random_graphs(seed, tmp_path):
    """However its loops are built, and as a folder of C, which some of the graphs are.

    benchmarks/robustness/random_networks.py takes any number of graphs, each in all
    ways.
    """
    # 7 and the periods of check_graph(), 2, 3 and 5, have no common divisor, so that
    # both ways meet all settings; and both meet all kinds of nodes.
    is_built_plainly = seed % 7 in (4, 5)
    is_checked_in_c = seed % 7 in (2, 6)
    check_graph(seed, tmp_path, is_built_plainly, is_checked_in_c)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore")
def test_the_kernel_is_step_where_potentials_begin_elsewhere():
    """As Norse begins, at v_leak: above and below thresholds and 0."""
    kinds_seen = set()
    for seed in range(60):
        graph = random_graph(seed)
        model = from_nir(graph, like="norse", dt=1)
        kinds = set()
        for name, neurons in model.neurons().items():
            if neurons.start is not None:
                kinds.add(type(graph.nodes[name]).__name__)
        if not (model.engine and kinds):
            continue
        kinds_seen |= kinds

        events, _ = random_events(seed, model.graph.shape)
        found = model(events / 2, record="all")
        reference = from_nir(graph, like="norse", dt=1, engine="dense")
        wanted = reference(events / 2, record="all")
        assert first_difference(found, wanted, tolerance=1e-5) is None
    assert kinds_seen >= {"IF", "LIF", "LI"}


def test_c_of_neurons_in_four_dimensions(tmp_path):
    neurons = [equations("IF", r=1), equations("IF", r=1, v_threshold=0.5)]
    nir.write(tmp_path / "net.nir", chain(*neurons, shape=(2, 3, 2, 2)))

    assert "checked here: equal: 3 recordings" in str(c_folder(tmp_path / "net.nir", None))


@pytest.mark.parametrize("engine", ["dense", "event"])
def test_events_of_the_input_are_counted_exactly_and_by_their_size(engine):
    model = from_nir(chain(equations("IF", r=1)), dt=1, engine=engine)

    output = model(torch.tensor([2.0**24, 1, -1, 1, -0.5]).reshape(1, 5, 1))

    # In float32 a sum of 2**24 and 1 is 2**24.
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
    # Of numbers that are no bytes: 0 + 1 + 255 + 51 = 307 events.
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
    path = tmp_path / "net.nir"
    folder = tmp_path / "c"
    nir.write(path, random_graph(seed))
    run_here("export", path, "--to c --output", folder)
    done = run_make(folder, "CFLAGS=-O1", goals=("all", "check"))
    assert "equal: 3 recordings" in done.stdout, done.stdout + done.stderr
    model = load(path)
    in_c = CBuild(folder, model)
    draw = torch.Generator().manual_seed(seed)
    events = torch.randint(0, 3, (4, 6, *model.graph.shape), generator=draw)

    # As tensors.
    record = dict.fromkeys(model.layers[1:], ("spikes", "membrane")) | {"input": "spikes"}
    wanted = model(events, record=record)
    assert first_difference(wanted, in_c(events), tolerance=0) is None
    with pytest.raises(ModelError, match="bytes up to 2 may be pixels or numbers of events"):
        in_c(events.to(torch.uint8))
    counted = in_c(events.to(torch.uint8), counts=True)
    assert first_difference(counted, in_c(events), tolerance=0) is None

    # As a stream of bytes: with a number of timesteps for all, the marks of ends are
    # not needed.
    end = b"\xff" * 8
    answers = answers_of_c(folder, encode_events(events).replace(end, b""), "-s", "6")
    assert np.array_equal(answers.logits, model(events).logits)

    # The n-th recording has events in the n-th timestep alone, which ends it.
    one_timestep_each = torch.eye(4, 6, dtype=int).view(4, 6, *[1] * len(model.graph.shape))
    late = events * one_timestep_each
    answers = answers_of_c(folder, encode_events(late))
    assert answers.steps == [1, 2, 3, 4]
    assert np.array_equal(answers.logits, model(late).logits_by_step[range(4), range(4)])
    without_last_end = answers_of_c(folder, encode_events(late).removesuffix(end))
    assert np.array_equal(without_last_end.logits, answers.logits)
    cut_off = answers_of_c(folder, encode_events(late)[:-3])
    assert cut_off.process.returncode == 2
    assert b"an event is 8 bytes, and the last one has 5" in cut_off.process.stderr

    # A recording stops when its largest output leads by 1.
    largest = model(events).logits_by_step.topk(2).values
    goes_on = largest[..., 0] - largest[..., 1] < 1
    stops = goes_on.int().cumprod(0).sum(0).add(1).clamp(max=6)
    lines = in_c.run(events, "-b", "1").splitlines()
    assert [int(line.split()[1]) for line in lines] == stops.tolist()


def answers_of_c(folder, raw, *options):
    """Give these bytes to the program of a folder of C; read its table."""
    process = subprocess.run([folder / "run", "-o", *options], input=raw, capture_output=True)
    steps = []
    logits = []
    for line in process.stdout.decode().splitlines():
        _number, step, _class, *outputs = line.split()
        steps.append(int(step))
        logits.append(outputs)
    return SimpleNamespace(steps=steps, logits=np.array(logits, np.float32), process=process)


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

    arriving = torch.tensor([2.0, 2, 2, 2, 4]).reshape(1, 5, 1)
    output = model(arriving, record={"0.lif": "spikes"})

    # After a spike -2 arrives, too.
    spikes = output.recorded["0.lif"]["spikes"].flatten().tolist()
    assert spikes == [True, False, True, False, True]
    assert not model.stays


def random_circles(draw):
    """Draw edges between the nodes 0 to 3, which is a chain, with some more of them."""
    edges = {("in", "0"), ("0", "1"), ("1", "2"), ("2", "3"), ("3", "out")}
    for source in "0123":
        for target in "0123":
            if draw.random() < 0.3:
                edges.add((source, target))
    if draw.random() < 0.5:
        edges.add(("0", "0"))
    edges.add(("in", one_of(draw, *"0123")))
    return sorted(edges)


def test_what_goes_back_does_not_depend_on_the_order_of_edges():
    """A circle with one entry goes back to it whatever its nodes are called.

    Of others a note names the edges that act later.
    """
    draw = np.random.default_rng(0)
    modules = dict.fromkeys([*"3120", "out"], nn.Identity())
    note_begins = "a circle has several entries; these edges act a timestep later: '"
    for _ in range(40):
        old_edges = random_circles(draw)
        edges_back = set()
        for names in permutations("0123"):
            new_name = dict(zip("0123", names, strict=True)) | {"in": INPUT, "out": "out"}
            old_name = {new: old for old, new in new_name.items()}
            edges = [(new_name[source], new_name[target]) for source, target in old_edges]
            draw.shuffle(edges)

            with warnings.catch_warnings(record=True) as notes:
                warnings.simplefilter("always")
                graph = Graph(modules, edges, (1,), {"output": "out"})
                of_reversed = Graph(modules, edges[::-1], (1,), {"output": "out"})

            assert graph.nodes == of_reversed.nodes
            back = [(old_name[source], old_name[target]) for source, target in graph.back]
            edges_back.add(frozenset(back))
            for note in notes:
                assert str(note.message).startswith(note_begins)
        assert (len(edges_back) > 1) == bool(notes)


@torch.no_grad()
def test_a_flatten_to_several_dimensions_is_left_to_the_step():
    flatten = nir.Flatten({"input": np.array([2, 3, 4])}, 1, 2)
    conv = nir.Conv1d(12, np.ones((1, 2, 3), np.float32), 1, 1, 1, 1, np.zeros(1, np.float32))
    model = from_nir(chain(flatten, conv, equations("IF", r=1), shape=(2, 3, 4)), dt=1)
    events = torch.zeros(1, 1, 2, 3, 4)
    events[0, 0, 0, 1, 0] = 3  # place 4 of the 12, whose neighbours are 3 and 5

    spiking = model(events).logits.nonzero()[:, 1]

    assert "a Flatten to the shape (2, 12)" in model.stays
    assert spiking.tolist() == [3, 4, 5]


@torch.no_grad()
def test_neurons_that_fire_before_they_are_charged_are_left_to_the_step():
    graph = chain(equations("IF", r=1, v_threshold=-0.25))
    graph.metadata["update"] = "delayed"
    model = from_nir(graph, dt=1)

    output = model(torch.zeros(1, 4, 1))

    assert "thresholds below 0" in model.stays
    assert output.logits_by_step.flatten().tolist() == [1, 2, 3, 4]


@torch.no_grad()
def test_a_stride_beyond_the_input():
    weight = np.ones((1, 2, 3, 3), np.float32)
    conv = nir.Conv2d((3, 4), weight, 10**12, 1, 1, 1, np.zeros(1, np.float32))
    graph = chain(conv, equations("IF", r=1), shape=(2, 3, 4))
    events = torch.randint(0, 2, (2, 6, 2, 3, 4))

    by_kernel = from_nir(graph, dt=1, engine="event")(events).logits_by_step
    by_layers = from_nir(graph, dt=1, engine="dense")(events).logits_by_step

    assert torch.equal(by_kernel, by_layers)
    assert by_kernel.sum() > 0


def test_it_trains_and_its_kernel_follows_the_weights():
    torch.manual_seed(0)
    graph = chain(
        nir.Affine(grid(np.random.default_rng(1), 4, 6), of(0, 0, 0, 0)),
        equations("LIF", tau=4, r=4, v_leak=0),
        nir.Linear(grid(np.random.default_rng(2), 2, 4)),
        equations("IF", r=1),
        shape=(6,),
    )
    model = from_nir(graph, dt=1).train()
    events = (torch.rand(64, 8, 6) < 0.4).float()
    labels = torch.arange(64) % 2
    events[labels == 0, :, :3] = 0

    optimiser = torch.optim.Adam(model.parameters(), 0.05)
    losses = []
    for _ in range(30):
        loss = nn.functional.cross_entropy(model(events).logits, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]

    by_kernel = model.eval()(events).logits
    by_layers = model.train()(events).logits
    assert torch.equal(by_kernel, by_layers)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(copied.eval()(events).logits, by_layers)


@pytest.mark.parametrize("engine", ["dense", "auto"])
@pytest.mark.parametrize("update", ["immediate", "delayed"])
def test_neurons_of_the_core_are_those_of_nir_without_constants(engine, update):
    torch.manual_seed(0)
    weights = nn.Linear(6, 5)
    events = (torch.rand(3, 20, 6) < 0.4).float()
    settings = {"threshold": 0.3, "leak": 0.9, "initial_potential": 0.5, "floor": 0.25}

    recorded = {}
    for kind in (SpikingNeuron, NIRNeuron):
        modules = {"in": weights, "a": kind(triangle(None, None), update, **settings)}
        graph = Graph(modules, chain_edges(modules), shape=(6,), ends={"output": "a"})
        model = GraphSNN(graph, engine=engine).eval()
        assert not model.stays
        recorded[kind] = model(events, record="all").recorded["a"]

    of_core = recorded[SpikingNeuron]
    of_nir = recorded[NIRNeuron]
    assert of_core["spikes"].any()
    assert of_core["membrane"].min() < 0
    assert torch.equal(of_core["spikes"], of_nir["spikes"])
    assert torch.equal(of_core["membrane"], of_nir["membrane"])


def test_a_changed_constant_counts_from_the_next_run_on():
    model = from_nir(chain(equations("IF", r=1)), dt=1)
    events = torch.ones(1, 8, 1)
    assert model(events).spikes["0"].item() == 4  # where V is 2

    model.graph.modules["0"].set_constants(Constants(gain=2.0, reset=0.0))

    assert model(events).spikes["0"].item() == 8
    assert model.train()(events).spikes["0"].item() == 8


@needs_engine
def test_one_gain_of_all_neurons_is_the_factor_of_a_link_without_weights():
    thresholds = {"v_threshold": [1, 1], "v_reset": [0, 0]}
    same = equations("IF", r=[0.5, 0.5], **thresholds)
    different = equations("IF", r=[0.5, 1], **thresholds)

    one_gain = lay_out(from_nir(chain(same, shape=(2,)), dt=1))
    gains = lay_out(from_nir(chain(different, shape=(2,)), dt=1))

    assert one_gain.nodes["link"][1] == K.SAME
    assert gains.nodes["link"][1] == K.PLACED


def test_r_of_one_by_dt_is_one():
    with pytest.warns(UserWarning, match=r"r of '0' is 1/dt, which is taken as 1"):
        model = from_nir(chain(equations("IF", r=1000)))

    assert model.graph.modules["0"].gain == 1
    assert model.dt == 1e-3


PAIR = chain(equations("IF", r=1)).nodes
TOO_FAST = nir.CubaLI(of(5e-4), of(2e-4), of(1), of(0))  # tau_syn, tau_mem, r, v_leak
FAULTS = {  # what is said of a graph -> the graph
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
        equations("LIF", tau=9e-4, r=1, v_leak=0), TOO_FAST
    ),
    "one of its values is not finite": chain(equations("IF", r=np.nan)),
    "more than half of its windows (3, 3)": chain(
        nir.SumPool2d(np.array([3, 3]), np.array([1, 1]), np.array([2, 2])), shape=(1, 4, 4)
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
def test_graphs_that_cannot_be_read_are_refused(words):
    with pytest.raises(ModelError) as error:
        from_nir(FAULTS[words])

    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_the_dt_that_is_proposed_can_be_read():
    graph = chain(equations("LIF", tau=9e-4, r=1, v_leak=0), TOO_FAST)

    assert from_nir(graph, 0.0001).dt == 1e-4


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(None, "no such file", id="missing"),
        pytest.param(
            b"\x89HDF\r\n\x1a\n" + bytes(100), "is no NIR file that can be read", id="damaged"
        ),
    ],
)
def test_files_that_cannot_be_read_are_refused(tmp_path, content, words):
    path = tmp_path / "net.nir"
    if content:
        path.write_bytes(content)

    with pytest.raises(ModelError) as error:
        from_nir(path)

    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_events_that_do_not_fit_are_refused():
    model = from_nir(chain(equations("IF", r=1), shape=(1, 2, 2)))

    words = r"do not fit this graph, whose input takes \(B, T, 1, 2, 2\)"
    with pytest.raises(ModelError, match=words):
        model(torch.zeros(1, 4, 3))

    outside = [0, 0, 1, 2]
    late = [3, 0, 1, 1]
    words = r"recording 0: an event lies outside of 3 timesteps and the sensor \(1, 2, 2\)"
    for event in (outside, late):
        with pytest.raises(ModelError, match=words):
            model([np.array([event])], 3)

    with pytest.raises(ModelError, match="record: input has no 'membrane'"):
        model(torch.zeros(1, 1, 1, 2, 2), record={"input": "membrane"})


@pytest.mark.skipif(not FILES.is_dir(), reason="needs ../shared/data/nir")
@pytest.mark.parametrize(("trace", "apart"), [("exact", 7e-3), ("norse", 1e-7)])
def test_the_lif_neuron_of_nirs_paper(trace, apart):
    """No spike differs from the exact solution's, nor from Norse's."""
    arriving, v, spikes = np.loadtxt(FILES / f"lif_{trace}.csv", delimiter=",").T
    model = load(FILES / "lif_norse.nir", dt=1e-4)
    events = torch.tensor(arriving, dtype=torch.float32).reshape(1, -1, 1)

    found = model(events, record="all").recorded["1"]

    assert np.abs(found["membrane"].flatten().numpy() - v).max() < apart
    assert spikes.sum() == 4
    assert np.array_equal(found["spikes"].flatten().numpy(), spikes)


def test_a_link_ends_at_its_last_layer_or_at_its_target():
    """Of two networks, one with a layer between input and neurons, one without."""
    neuron = SpikingNeuron(triangle(None, None), "immediate")
    layers = {"linear": nn.Linear(3, 3), "neuron": neuron}

    of_two = Graph(layers, chain_edges(layers), (3,), {"output": "neuron"})
    of_one = Graph({"neuron": neuron}, [(INPUT, "neuron")], (3,), {})

    assert [link.end for link in of_two.links] == ["linear", "output"]
    assert [link.end for link in of_one.links] == ["neuron"]
