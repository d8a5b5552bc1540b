"""Networks of other simulators, read with --like, against the simulators themselves.

Each condition is tried with SEEDS random networks, on both engines where the kernel
serves. Weights and thresholds are multiples of 1/16 and leaks are 1/2: all sums are
exact, and no spike may differ, nor a potential that a last layer sends. A test whose
numbers are others says so. What can be computed by hand stands at the end, and needs
no simulator.
"""

import contextlib
import copy
import inspect
import io
import re
import shutil
import warnings
from itertools import pairwise

import nir
import numpy as np
import pytest
import torch
from conftest import REPOSITORY, refused, run_here
from torch import nn

from harness.measuring.simulators import check
from self_models import ModelError, from_nir, load
from self_models.data.events import rows_in
from self_models.engines.event import layout
from self_models.guests.nir.files import pop_v_resets

pytestmark = pytest.mark.filterwarnings("ignore")
others = pytest.mark.others
SIZES = 5, 6, 6
STEPS = 16
IMAGES = 2
SEEDS = 20
ROUNDING = 1e-5  # of potentials of the size of 1
WRITES_V_RESET = "v_reset" in inspect.signature(nir.IF).parameters
needs_v_reset = pytest.mark.skipif(
    not WRITES_V_RESET, reason="its exporter writes v_reset, which nir has from 1.0.6 on"
)


@torch.no_grad()
def on_grid(module):
    """Draw multiples of 1/16 in -1 to 1 for a module's parameters, and return it."""
    for parameter in module.parameters():
        parameter.copy_((torch.rand_like(parameter) * 32 - 16).round() / 16)
    return module


def layers(neurons, last=None):
    """Build linear layers on a grid, each with neurons behind it, the last by `last`."""
    modules = []
    for n, m in pairwise(SIZES):
        make = last if last and len(modules) == 2 else neurons
        modules += [on_grid(nn.Linear(n, m)), make(m)]
    return nn.Sequential(*modules)


@torch.no_grad()
def check_reading(
    build,
    run,
    export,
    shape=SIZES[:1],
    sends_values=False,
    rounding=(),
    potentials=None,
    **reading,
):
    """Compare what the last layer of random networks sends, here and in their simulator.

    Parameters
    ----------
    build : callable
        Makes a network, random by torch's generator.
    run : callable
        (network, events (T, B, ...)) -> what the last layer sends (T, B, ...).
    export : callable
        network -> its nir.NIRGraph.
    shape : tuple of int
        Shape of the input in a timestep.
    sends_values : bool
        Whether the last layer sends membrane potentials rather than spikes.
    rounding : collection of {"dense", "event"}
        Engines on which potentials are compared within ROUNDING, not to the bit.
    potentials : callable, optional
        network -> potentials of its last layer in this run (T, B, ...), of a simulator that
        records them. Ours may differ from them by ROUNDING.
    **reading
        Arguments of from_nir.

    Returns
    -------
    set of {"dense", "event"}
        Engines that ran the networks.
    """
    sent = 0.0
    engines = set()
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        network = build()
        events = (torch.rand(STEPS, IMAGES, *shape) < 0.5).float()
        with contextlib.redirect_stdout(io.StringIO()):
            graph = export(network)
        theirs = run(network, events)
        sent += theirs.abs().sum().item()
        models = [from_nir(graph, **reading)]
        if models[0].engine:
            models.append(from_nir(graph, engine="dense", **reading))
        for model in models:
            last = model.graph.neuron_names[-1]
            record = {last: "membrane"} if sends_values or potentials else None
            output = model(events.transpose(0, 1), record=record)
            if sends_values:
                ours = output.recorded[last]["membrane"]
            else:
                before = torch.zeros(1, *output.logits.shape)
                ours = output.logits_by_step.diff(dim=0, prepend=before)
            engine = "event" if model.engine else "dense"
            engines.add(engine)
            tolerance = ROUNDING if engine in rounding else 0
            torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
            if potentials:
                found = output.recorded[last]["membrane"]
                size = 10  # of what many spikes in a timestep are subtracted from
                torch.testing.assert_close(
                    found, potentials(network), rtol=ROUNDING, atol=size * ROUNDING
                )
    assert sent > 0
    return engines


BOTH = {"dense", "event"}

# --- snnTorch

SNNTORCH = [
    (kind, reset, delay)
    for kind in ("Leaky", "Synaptic", "RLeaky", "RSynaptic")
    for reset in ("subtract", "zero", "none")
    for delay in (True, False)
    if delay or kind != "RSynaptic"  # whose own code fails without delay
]


def run_snntorch(network, events):
    for layer in network[1::2]:
        layer.mem = layer.syn = layer.spk = torch.zeros(IMAGES, SIZES[-1])
    return torch.stack([network(now) for now in events])


def export_snntorch(network):
    from snntorch.export_nir import export_to_nir

    return export_to_nir(network, torch.zeros(1, SIZES[0]), ignore_dims=[0])


@others
@needs_v_reset
@pytest.mark.parametrize(("kind", "reset", "delay"), SNNTORCH)
def test_snntorch_with_every_reset(kind, reset, delay):
    """Its defaults are subtract and True."""
    snntorch = pytest.importorskip("snntorch")

    def neurons(n):
        decays = [torch.full((n,), 0.5)] * (2 if "Syn" in kind else 1)
        own = {"linear_features": n} if kind[0] == "R" else {}
        more = {} if kind == "RSynaptic" else {"reset_delay": delay}
        new = getattr(snntorch, kind)(
            *decays,
            threshold=torch.ones(n),
            init_hidden=True,
            reset_mechanism=reset,
            **own,
            **more,
        )
        on_grid(getattr(new, "recurrent", nn.Identity()))
        return new

    found = {} if (reset, delay) == ("subtract", True) else {"reset": reset, "reset_delay": delay}
    served = check_reading(
        lambda: layers(neurons), run_snntorch, export_snntorch, like="snntorch", **found
    )
    assert served == ({"dense"} if (reset, delay) == ("subtract", False) else BOTH)


@others
@needs_v_reset
def test_snntorch_with_betas_and_thresholds_of_each_neuron():
    """Betas are rounded on their way through the file. Spikes are the same, since none of
    these potentials is as near to its threshold as that."""
    snntorch = pytest.importorskip("snntorch")
    neurons = lambda n: snntorch.Leaky(  # noqa: E731
        torch.rand(n), threshold=torch.rand(n) + 0.25, init_hidden=True
    )
    served = check_reading(lambda: layers(neurons), run_snntorch, export_snntorch, like="snntorch")
    assert served == BOTH


# --- SpikingJelly

SPIKINGJELLY = {
    "IFNode": ("IFNode", {}),
    "LIFNode": ("LIFNode", {"tau": 2.0}),
    "LIFNode-decay_input=False": ("LIFNode", {"tau": 2.0, "decay_input": False}),
    "ParametricLIFNode": ("ParametricLIFNode", {"init_tau": 2.0}),
    "ParametricLIFNode-decay_input=False": (
        "ParametricLIFNode",
        {"init_tau": 2.0, "decay_input": False},
    ),
    "CUBALIFNode": ("CUBALIFNode", {"c_decay": 0.5, "v_decay": 0.5}),
}


def run_spikingjelly(network, events):
    from spikingjelly.activation_based import functional

    functional.reset_net(network)
    return torch.stack([network(now) for now in events])


def export_spikingjelly(network, **more):
    from spikingjelly.activation_based.nir_exchange import export_to_nir

    return export_to_nir(network, torch.zeros(1, SIZES[0]), **more)


@others
@needs_v_reset
@pytest.mark.parametrize("v_reset", [0.0, -0.25])
@pytest.mark.parametrize("kind", SPIKINGJELLY)
def test_spikingjelly(kind, v_reset):
    """V begins at v_reset, and leaks towards it."""
    pytest.importorskip("spikingjelly")
    from spikingjelly.activation_based import neuron

    name, own = SPIKINGJELLY[kind]
    neurons = lambda n: getattr(neuron, name)(v_reset=v_reset, v_threshold=0.25, **own)  # noqa: E731
    served = check_reading(
        lambda: layers(neurons), run_spikingjelly, export_spikingjelly, like="spikingjelly"
    )
    assert served == BOTH


@others
@needs_v_reset
@pytest.mark.parametrize("kind", ["IFNode", "LIFNode-decay_input=False"])
def test_spikingjelly_exported_with_another_dt(kind):
    """Where the file shows it, a note names the dt that it was written with."""
    pytest.importorskip("spikingjelly")
    from spikingjelly.activation_based import neuron

    name, own = SPIKINGJELLY[kind]
    neurons = lambda n: getattr(neuron, name)(v_reset=0.0, v_threshold=0.25, **own)  # noqa: E731
    export = lambda network: export_spikingjelly(network, dt=1e-3)  # noqa: E731
    served = check_reading(
        lambda: layers(neurons), run_spikingjelly, export, like="spikingjelly", dt=1e-3
    )
    assert served == BOTH
    with pytest.warns(UserWarning, match="dt=0.001|--dt 0.001"):
        from_nir(export(layers(neurons)), like="spikingjelly")


# --- Norse


def run_norse(network, events):
    state = None
    sent = []
    for now in events:
        signal, state = network(now, state)
        sent.append(signal)
    return torch.stack(sent)


def export_norse(network, dt=0.001):
    from norse.torch.utils.export_nir import to_nir

    return to_nir(network, torch.zeros(SIZES[0]), dt=dt)


NORSE = {  # neurons: parameters beside v_th, arguments of from_nir
    "IAF": {},
    "IAF v_reset": {"v_reset": -0.25},
    "LIFBox": {},
    "LIFBox v_leak": {"v_leak": 0.125},
    "LIFBox v_leak above v_th": {"v_leak": 0.5},
    "LIFBox v_reset": {"v_leak": 0.125, "v_reset": -0.25},
    "LIFBox reset_subtract": {"v_leak": 0.125},
    "LIF": {},
    "LIF v_leak": {"v_leak": 0.125},
    "LIF v_reset": {"v_leak": -0.125, "v_reset": -0.25},
}


def norse_neurons(kind, n, dt=0.001, **values):
    """Cells of Norse with a leak of 1/2; values of each neuron, or of all."""
    import norse.torch as norse
    from norse.torch.functional.reset import reset_subtract

    tensors = {name: torch.zeros(n) + value for name, value in values.items()}
    half = torch.full((n,), 0.5 / dt)
    if kind.startswith("IAF"):
        return norse.IAFCell(norse.IAFParameters(**tensors), dt=dt)
    if kind.startswith("LIBox"):
        return norse.LIBoxCell(norse.LIBoxParameters(half, **tensors), dt=dt)
    zeros = {"v_leak": torch.zeros(n), "v_reset": torch.zeros(n)}
    if kind.startswith("LIFBox"):
        more = {"reset_method": reset_subtract} if "subtract" in kind else {}
        return norse.LIFBoxCell(norse.LIFBoxParameters(half, **zeros | tensors, **more), dt=dt)
    return norse.LIFCell(norse.LIFParameters(half, half, **zeros | tensors), dt=dt)


@others
@pytest.mark.parametrize("kind", NORSE)
def test_norse(kind):
    """V begins at v_leak, that of an IAF at v_reset."""
    norse = pytest.importorskip("norse.torch")
    values = NORSE[kind]
    neurons = lambda n: norse_neurons(kind, n, v_th=0.25, **values)  # noqa: E731
    found = {"reset": "subtract"} if "subtract" in kind else {}
    if "v_reset" in values:
        found = {"v_reset": values["v_reset"]}
    build = lambda: norse.SequentialState(*layers(neurons))  # noqa: E731
    assert check_reading(build, run_norse, export_norse, like="norse", **found) == BOTH


@others
@pytest.mark.parametrize("kind", ["LIFBox", "LIF"])
def test_norse_with_values_of_each_neuron(kind):
    """Potentials that begin at values of their own are not on the kernel."""
    norse = pytest.importorskip("norse.torch")

    def neurons(n):
        v_leak = (torch.rand(n) * 8).round() / 16
        return norse_neurons(kind, n, v_th=0.25 + v_leak.flip(0), v_leak=v_leak)

    build = lambda: norse.SequentialState(*layers(neurons))  # noqa: E731
    assert check_reading(build, run_norse, export_norse, like="norse") == {"dense"}


@others
@pytest.mark.parametrize("kind", ["LIFBox", "LIF", "LIBox"])
def test_norse_with_another_dt(kind):
    """dt is the product of that of the cells, and that of the export."""
    norse = pytest.importorskip("norse.torch")
    neurons = lambda n: norse_neurons("IAF" if kind == "LIBox" else kind, n, 0.002, v_th=0.25)  # noqa: E731
    last = (lambda n: norse_neurons(kind, n, 0.002, v_leak=0.25)) if kind == "LIBox" else None
    build = lambda: norse.SequentialState(*layers(neurons, last))  # noqa: E731
    served = check_reading(
        build,
        run_norse,
        lambda network: export_norse(network, dt=0.004),
        sends_values=kind == "LIBox",
        like="norse",
        dt=8e-6,
    )
    assert served == BOTH


@others
@pytest.mark.parametrize("v_leak", [0.0, 0.125, -0.5])
def test_norse_integrators(v_leak):
    """They send V, which begins at v_leak."""
    norse = pytest.importorskip("norse.torch")
    neurons = lambda n: norse_neurons("IAF", n, v_th=0.25)  # noqa: E731
    last = lambda n: norse_neurons("LIBox", n, v_leak=v_leak)  # noqa: E731
    build = lambda: norse.SequentialState(*layers(neurons, last))  # noqa: E731
    served = check_reading(build, run_norse, export_norse, sends_values=True, like="norse")
    assert served == BOTH


# --- sinabs


def run_sinabs(network, events):
    for layer in network:
        if hasattr(layer, "reset_states"):
            layer.reset_states()
    sent = network(events.transpose(0, 1).flatten(0, 1))
    return sent.unflatten(0, (IMAGES, -1)).transpose(0, 1)


def export_sinabs(network, shape=SIZES[:1]):
    from sinabs.nir import to_nir

    network(torch.zeros(IMAGES, *shape))
    graph = to_nir(network, torch.zeros(IMAGES, *shape))
    graph.infer_types()
    return graph


def sinabs_neurons(kind, n, **own):
    """IAF, LIF or ExpLeak of sinabs, with time constants and thresholds of each neuron."""
    from sinabs import layers as sinabs_layers

    if kind != "IAF":
        own["tau_mem"] = 2 + 6 * torch.rand(n)
    if kind == "LIF":
        own["spike_threshold"] = torch.full((n,), own.get("spike_threshold", 0.25))
    return getattr(sinabs_layers, f"{kind}Squeeze")(batch_size=IMAGES, **own)


SINGLE = "SingleSpike, MembraneReset"
SINABS = {  # neurons: their arguments, arguments of from_nir, engines
    "IAF": ({}, {}, {"dense"}),
    "IAF SingleSpike": ({}, {"max_spikes": 1}, {"dense"}),
    "IAF MaxSpike(2)": ({}, {"max_spikes": 2}, {"dense"}),
    f"IAF {SINGLE}": ({}, {"reset": "zero"}, BOTH),
    "IAF min_v_mem": ({"min_v_mem": -0.5}, {"membrane_floor": 0.5}, {"dense"}),
    "IAF tau_syn": ({"tau_syn": 3.0}, {"tau_syn": 3.0}, {"dense"}),
    f"IAF tau_syn {SINGLE}": ({"tau_syn": 3.0}, {"tau_syn": 3.0, "reset": "zero"}, BOTH),
    "LIF": ({}, {}, {"dense"}),
    "LIF norm_input=False": ({"norm_input": False}, {"norm_input": False}, {"dense"}),
    "LIF norm_input=True": ({"norm_input": True}, {"norm_input": True}, {"dense"}),
    f"LIF {SINGLE}": ({}, {"reset": "zero"}, BOTH),
    f"LIF norm_input=False {SINGLE}": (
        {"norm_input": False},
        {"norm_input": False, "reset": "zero"},
        BOTH,
    ),
    "LIF SingleSpike": ({}, {"max_spikes": 1}, {"dense"}),
    "LIF MaxSpike(2)": ({}, {"max_spikes": 2}, {"dense"}),
    "LIF min_v_mem": ({"min_v_mem": -0.125}, {"membrane_floor": 0.5}, {"dense"}),
    "LIF tau_syn": ({"tau_syn": 3.0}, {"tau_syn": 3.0}, {"dense"}),
    "LIF tau_syn norm_input=False": (
        {"tau_syn": 3.0, "norm_input": False},
        {"tau_syn": 3.0, "norm_input": False},
        {"dense"},
    ),
    f"LIF tau_syn {SINGLE}": ({"tau_syn": 3.0}, {"tau_syn": 3.0, "reset": "zero"}, BOTH),
}


@others
@pytest.mark.parametrize("kind", SINABS)
def test_sinabs(kind):
    """exp(-1/tau) is on no grid. Our dense engine computes as sinabs does, to the bit. The
    kernel multiplies weights by 1 - exp(-1/tau) beforehand; none of these potentials is
    so near to a threshold that it counts."""
    pytest.importorskip("sinabs")
    from sinabs.activation import MaxSpike, MembraneReset, SingleSpike

    own, found, engines = SINABS[kind]
    own = dict(own)
    if "SingleSpike" in kind:
        own["spike_fn"] = SingleSpike
    if "MaxSpike" in kind:
        own["spike_fn"] = MaxSpike(2)
    if SINGLE in kind:
        own["reset_fn"] = MembraneReset()
    neurons = lambda n: sinabs_neurons(kind[:3], n, record_states=True, **own)  # noqa: E731
    served = check_reading(
        lambda: layers(neurons),
        run_sinabs,
        export_sinabs,
        potentials=lambda network: network[-1].recordings["v_mem"].transpose(0, 1),
        like="sinabs",
        **found,
    )
    assert served == engines


@others
@pytest.mark.parametrize("norm_input", [None, False, True])
@pytest.mark.parametrize("single", [True, False])
def test_sinabs_integrators(norm_input, single):
    """ExpLeak sends V, and its norm_input is False by default. Our dense engine computes V
    to the bit."""
    pytest.importorskip("sinabs")
    from sinabs.activation import MembraneReset, SingleSpike

    fires = {"spike_fn": SingleSpike, "reset_fn": MembraneReset()} if single else {}
    own = {} if norm_input is None else {"norm_input": norm_input}
    neurons = lambda n: sinabs_neurons("IAF", n, **fires)  # noqa: E731
    last = lambda n: sinabs_neurons("ExpLeak", n, **own)  # noqa: E731
    found = own | ({"reset": "zero"} if single else {})
    served = check_reading(
        lambda: layers(neurons, last),
        run_sinabs,
        export_sinabs,
        sends_values=True,
        rounding={"event"},
        like="sinabs",
        **found,
    )
    assert served == (BOTH if single else {"dense"})


@others
def test_sinabs_with_arguments_of_each_layer():
    """Where layers differ, a dict has the value of each, by its name in the file."""
    pytest.importorskip("sinabs")
    neurons = lambda n: sinabs_neurons("LIF", n, norm_input=False, tau_syn=3.0)  # noqa: E731
    last = lambda n: sinabs_neurons("ExpLeak", n, norm_input=True)  # noqa: E731
    served = check_reading(
        lambda: layers(neurons, last),
        run_sinabs,
        export_sinabs,
        sends_values=True,
        rounding={"event"},
        like="sinabs",
        norm_input={"1": False, "3": True},
        tau_syn={"1": [3.0] * SIZES[1]},
    )
    assert served == {"dense"}


@others
def test_sinabs_with_convolutions():
    """And a pool and a floor, as in public networks for N-MNIST, whose files lack it."""
    pytest.importorskip("sinabs")
    from sinabs.layers import SumPool2d

    shape = 2, 8, 8
    neurons = lambda: sinabs_neurons("IAF", 1, min_v_mem=-1.0)  # noqa: E731

    def build():
        conv = on_grid(nn.Conv2d(2, 4, 3, bias=False))
        linear = on_grid(nn.Linear(36, 6, bias=False))
        return nn.Sequential(conv, neurons(), SumPool2d(2), nn.Flatten(), linear, neurons())

    served = check_reading(
        build,
        run_sinabs,
        lambda network: export_sinabs(network, shape),
        shape,
        like="sinabs",
        membrane_floor=1.0,
    )
    assert served == {"dense"}


# --- off the grid


@torch.no_grad()
def off_grid(network):
    """Draw any weights and biases in -1 to 1, and return the network."""
    for layer in network:
        if isinstance(layer, nn.Linear):
            layer.weight.uniform_(-1, 1)
            layer.bias.uniform_(-1, 1)
    return network


def norse_by_default(kind):
    """A cell with its default time constants, and a threshold that is reached."""
    import norse.torch as norse

    more = {} if kind == "LIBox" else {"v_th": torch.tensor(0.1)}
    parameters = getattr(norse, f"{kind}Parameters")(**more)
    return getattr(norse, f"{kind}Cell")(parameters)


@others
@pytest.mark.parametrize("kind", ["LIFBox", "LIF", "LIBox"])
def test_norse_off_the_grid(kind):
    """The leaks that its cells have by default are rounded on their way through the file.
    None of these potentials is so near to its threshold that it counts."""
    norse = pytest.importorskip("norse.torch")
    neurons = lambda n: norse_by_default("LIFBox" if kind == "LIBox" else kind)  # noqa: E731
    last = lambda n: norse_by_default(kind)  # noqa: E731
    build = lambda: norse.SequentialState(*off_grid(layers(neurons, last)))  # noqa: E731
    values = {"sends_values": True, "rounding": BOTH} if kind == "LIBox" else {}
    assert check_reading(build, run_norse, export_norse, like="norse", **values) == BOTH


@others
@needs_v_reset
@pytest.mark.parametrize("decay_input", [True, False])
def test_spikingjelly_off_the_grid(decay_input):
    pytest.importorskip("spikingjelly")
    from spikingjelly.activation_based import neuron

    neurons = lambda n: neuron.LIFNode(  # noqa: E731
        tau=3.0, decay_input=decay_input, v_reset=-0.1, v_threshold=0.3
    )
    build = lambda: off_grid(layers(neurons))  # noqa: E731
    served = check_reading(build, run_spikingjelly, export_spikingjelly, like="spikingjelly")
    assert served == BOTH


# --- what the importers of simulators make of a file


@others
@needs_v_reset
def test_a_difference_from_an_importer_is_explained(tmp_path):
    """snnTorch's importer reads its own file otherwise than the network that wrote it."""
    snntorch = pytest.importorskip("snntorch")
    torch.manual_seed(0)
    neurons = lambda n: snntorch.Leaky(  # noqa: E731
        torch.full((n,), 0.5), threshold=torch.ones(n), init_hidden=True
    )
    path = tmp_path / "net.nir"
    with contextlib.redirect_stdout(io.StringIO()):
        nir.write(path, export_snntorch(layers(neurons)))
    recordings = [torch.stack([torch.arange(STEPS), torch.arange(STEPS) % SIZES[0]], 1).numpy()]

    _, row = check(path, recordings, STEPS, ["snntorch"], like="snntorch")
    assert row[2] == "differs"
    assert "assumes of every file: every neuron has reset_mechanism='zero'" in row[3]
    assert "Add --reset zero --no-reset_delay: if nothing differs then, the" in row[3]
    flags = {"reset": "zero", "reset_delay": False}
    _, row = check(path, recordings, STEPS, ["snntorch"], like="snntorch", **flags)
    assert row[2] == "same"


@others
@pytest.mark.parametrize("kind", ["IAF", "LIF"])
def test_the_importer_of_sinabs_has_defaults_of_its_own(tmp_path, kind):
    pytest.importorskip("sinabs")
    torch.manual_seed(0)
    path = tmp_path / "net.nir"
    nir.write(path, export_sinabs(layers(lambda n: sinabs_neurons(kind, n, spike_threshold=0.25))))
    recordings = [torch.stack([torch.arange(STEPS), torch.arange(STEPS) % SIZES[0]], 1).numpy()]

    _, row = check(path, recordings, STEPS, ["sinabs"], like="sinabs")
    assert row[2] == "differs" and "--no-norm_input (with LIF and LI): if nothing" in row[3]
    flags = {"membrane_floor": 1.0} if kind == "IAF" else {"norm_input": False}
    _, row = check(path, recordings, STEPS, ["sinabs"], like="sinabs", **flags)
    assert row[2] == "same"


# --- by hand

HALF = float(np.float32(1 / np.log(2)))  # exp(-1/HALF) is 1/2, in timesteps


def one_neuron(kind, **values):
    """A graph of one neuron, whose values are arrays of one."""
    node = getattr(nir, kind)(**{name: np.full(1, value) for name, value in values.items()})
    nodes = {"input": nir.Input(np.array([1])), "n": node, "output": nir.Output(np.array([1]))}
    return nir.NIRGraph(nodes, [("input", "n"), ("n", "output")])


LEAKY = {"tau": HALF, "r": 1.0, "v_leak": 0.0}
OF_NORSE = {"tau": 2e-6, "r": 1.0, "v_leak": 0.5}
BY_HAND = {  # graph, how it is read, what arrives, V after each timestep, spikes of each
    "sinabs, LIF": (
        one_neuron("LIF", **LEAKY, v_threshold=4.0),
        {"like": "sinabs"},
        [1, 0, 1],
        [0.5, 0.25, 0.625],
        [0, 0, 0],
    ),
    "sinabs, LIF, norm_input False": (
        one_neuron("LIF", **LEAKY, v_threshold=4.0),
        {"like": "sinabs", "norm_input": False},
        [1, 0, 1],
        [1, 0.5, 1.25],
        [0, 0, 0],
    ),
    "sinabs, LIF, tau_syn": (  # I is 1/2, 1/4, 5/8
        one_neuron("LIF", **LEAKY, v_threshold=4.0),
        {"like": "sinabs", "norm_input": {"n": False}, "tau_syn": HALF},
        [1, 0, 1],
        [0.5, 0.5, 0.875],
        [0, 0, 0],
    ),
    "sinabs, IAF, tau_syn": (
        one_neuron("IF", r=1.0, v_threshold=4.0),
        {"like": "sinabs", "tau_syn": {"n": [HALF]}},
        [1, 0, 1],
        [0.5, 0.75, 1.375],
        [0, 0, 0],
    ),
    "sinabs, ExpLeak": (
        one_neuron("LI", **LEAKY),
        {"like": "sinabs"},
        [1, 0, 1],
        [1, 0.5, 1.25],
        None,
    ),
    "sinabs, ExpLeak, norm_input True": (
        one_neuron("LI", **LEAKY),
        {"like": "sinabs", "norm_input": True},
        [1, 0, 1],
        [0.5, 0.25, 0.625],
        None,
    ),
    "sinabs, MultiSpike": (
        one_neuron("IF", r=1.0, v_threshold=1.0),
        {"like": "sinabs"},
        [3.5, 0, 0],
        [0.5, 0.5, 0.5],
        [3, 0, 0],
    ),
    "sinabs, MaxSpike(2)": (
        one_neuron("IF", r=1.0, v_threshold=1.0),
        {"like": "sinabs", "max_spikes": 2},
        [3.5, 0, 0],
        [1.5, 0.5, 0.5],
        [2, 1, 0],
    ),
    "Norse, LIFBox begins at v_leak": (
        one_neuron("LIF", **OF_NORSE, v_threshold=1.0),
        {"like": "norse"},
        [0, 2, 0],
        [0.5, 0, 0.25],
        [0, 1, 0],
    ),
    "Norse, LIFBox, v_reset": (
        one_neuron("LIF", **OF_NORSE, v_threshold=1.0),
        {"like": "norse", "v_reset": -0.5},
        [0, 2, 0],
        [0.5, -0.5, 0],
        [0, 1, 0],
    ),
    "Norse, IAF begins at v_reset": (
        one_neuron("IF", r=1.0, v_threshold=1.0),
        {"like": "norse", "v_reset": -0.25},
        [1, 1, 0],
        [0.75, -0.25, -0.25],
        [0, 1, 0],
    ),
    "Norse, LIBox begins at v_leak": (
        one_neuron("LI", tau=2e-6, r=1.0, v_leak=-1.0),
        {"like": "norse"},
        [0, 1, 0],
        [-1, -0.5, -0.75],
        None,
    ),
    "Norse, LIF": (  # I is 1, 1/2, 1/4
        one_neuron("CubaLIF", tau_syn=2e-6, tau_mem=2e-6, r=1.0, v_leak=0.0, v_threshold=1.0),
        {"like": "norse"},
        [1, 0, 0],
        [0.5, 0.5, 0.375],
        [0, 0, 0],
    ),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_what_a_simulator_computes_by_hand(name):
    graph, reading, arriving, potentials, spikes = BY_HAND[name]
    models = [from_nir(graph, engine="dense", **reading)]
    if "spike" not in name.lower() and "IAF" not in name and "sinabs, LIF" not in name:
        models.append(from_nir(graph, engine="event", **reading))
    for model in models:
        output = model(torch.tensor(arriving, dtype=torch.float32).reshape(1, -1, 1), record="all")
        found = output.recorded["n"]["membrane"].flatten().tolist()
        assert found == pytest.approx(potentials, abs=1e-6)
        sent = potentials if spikes is None else spikes
        total = output.logits_by_step.flatten().tolist()
        assert total == pytest.approx(np.cumsum(sent).tolist(), abs=1e-6)


@needs_v_reset
@pytest.mark.parametrize("engine", ["dense", "event"])
def test_spikingjelly_begins_at_v_reset_by_hand(engine):
    graph = one_neuron("IF", r=1e4, v_threshold=1.0, v_reset=-0.25)
    model = from_nir(graph, like="spikingjelly", engine=engine)
    output = model(torch.tensor([1, 0.25, 0.5]).reshape(1, 3, 1), record="all")
    assert output.recorded["n"]["membrane"].flatten().tolist() == [0.75, -0.25, 0.25]
    assert output.logits_by_step.flatten().tolist() == [0, 1, 1]


LIF = one_neuron("LIF", **LEAKY, v_threshold=1.0)
IF = one_neuron("IF", r=1.0, v_threshold=1.0)
REFUSED = [
    (LIF, {"norm_input": True}, "norm_input says how sinabs ran a network: give like='sinabs'"),
    (LIF, {"like": "norse", "tau_syn": 2}, "tau_syn says how sinabs ran a network"),
    (IF, {"like": "sinabs", "norm_input": True}, "norm_input: no node here is LIF or LI; those"),
    (
        LIF,
        {"like": "sinabs", "tau_syn": {"m": 2}},
        "tau_syn: node 'm' is not IF or LIF; those are n",
    ),
    (LIF, {"like": "sinabs", "tau_syn": 0}, "tau_syn: 0 is not above 0"),
    (LIF, {"like": "sinabs", "tau_syn": {"n": -1}}, "tau_syn of 'n': -1 is not above 0"),
    (LIF, {"like": "sinabs", "tau_syn": "two"}, "tau_syn: 'two' is not a number"),
    (LIF, {"like": "sinabs", "norm_input": 1}, "norm_input: 1 is neither True nor False"),
    (
        one_neuron("LIF", tau=-1.0, r=1.0, v_leak=0.0, v_threshold=1.0),
        {"like": "sinabs"},
        "a time constant must be above 0 timesteps, not -1",
    ),
    (LIF, {"like": "sinabs", "max_spikes": 0}, "max_spikes: 0 is not a whole number from 1"),
    (
        IF,
        {"like": "sinabs", "max_spikes": 2, "reset": "zero"},
        "max_spikes goes with reset='subtract'",
    ),
    (
        IF,
        {"like": "norse", "v_reset": 1, "reset": "subtract"},
        "v_reset is where V goes with reset='zero', which is 'subtract' here",
    ),
    (IF, {"like": "norse", "v_reset": np.inf}, "v_reset: inf is not finite"),
    (IF, {"like": "norse", "v_reset": [0.0, 1.0]}, "it has values for (2,)"),
]


@pytest.mark.parametrize(("graph", "reading", "words"), REFUSED)
def test_arguments_that_do_not_fit_are_refused(graph, reading, words):
    with pytest.raises(ModelError, match=re.escape(words)):
        from_nir(graph, **reading)


LI = one_neuron("LI", **LEAKY)
CUBA = {"tau_syn": 2e-6, "tau_mem": 2e-6, "v_leak": 0.0, "v_threshold": 1.0}
NOTED = {  # graph, how it is read, what is noted, arguments with which it is not
    "sinabs lacks": (
        LIF,
        {"like": "sinabs"},
        "sinabs does not write norm_input, .*: read with its defaults, norm_input=True of LIF and",
        {"norm_input": True},
    ),
    "Norse lacks": (
        IF,
        {"like": "norse"},
        "Norse does not write v_reset and reset_method: read with its defaults, v_reset=0 and",
        {"v_reset": 0},
    ),
    "snnTorch lacks": (
        one_neuron("LIF", tau=2e-4, r=2.0, v_leak=0.0, v_threshold=1.0),
        {"like": "snntorch"},
        "snnTorch does not write reset_mechanism and reset_delay: read with its defaults, reset='",
        {"reset": "subtract"},
    ),
    "other r": (
        one_neuron("LIF", tau=5.0, r=2.0, v_leak=0.0, v_threshold=1.0),
        {"like": "sinabs", "norm_input": True},
        "sinabs writes v_leak 0 and r 1: those of 'n' are ignored",
        None,
    ),
    "other w_in": (
        one_neuron("CubaLIF", r=1.0, w_in=2.0, **CUBA),
        {"like": "norse", "v_reset": 0},
        "Norse writes r 1 and w_in 1: 'n' is read as NIR has it",
        None,
    ),
    "no threshold": (
        LI,
        {"like": "sinabs", "membrane_floor": 1.0},
        "membrane_floor is in thresholds, which 'n' has not: no floor there",
        None,
    ),
    "another dt": (
        one_neuron("IF", r=1000.0, v_threshold=1.0),
        {"like": "spikingjelly"},
        "SpikingJelly writes r = 1/dt, and r of 'n' is that of timesteps of 1 ms: give dt=0.001",
        {"dt": 0.001},
    ),
}


@pytest.mark.parametrize("name", NOTED)
def test_what_is_taken_for_granted_is_noted(name):
    graph, reading, words, silencing = NOTED[name]
    with pytest.warns(UserWarning, match=words):
        from_nir(graph, **reading)
    if silencing:
        with warnings.catch_warnings(record=True) as notes:
            warnings.simplefilter("always")
            from_nir(graph, **reading | silencing)
        assert not [note for note in notes if re.match(words, str(note.message))]


def test_flags_and_load_read_as_from_nir_does(tmp_path):
    torch.manual_seed(0)
    sensor = np.array([2, 34, 34])
    nodes = {
        "input": nir.Input(sensor),
        "flat": nir.Flatten({"input": sensor}, 0, -1),
        "linear": nir.Linear(torch.randn(10, 2312).numpy()),
        "lif": nir.LIF(*(np.full(10, value) for value in (5.0, 1.0, 0.0, 0.25))),
        "output": nir.Output(np.array([10])),
    }
    path = tmp_path / "net.nir"
    nir.write(path, nir.NIRGraph(nodes, [*pairwise(nodes)]))
    recording = tmp_path / "folder/3/a.bin"
    recording.parent.mkdir(parents=True)
    shutil.copy(next((REPOSITORY / "data/nmnist/3").glob("*.bin")), recording)
    rows, _ = rows_in(recording, (2, 34, 34), 1e-3)
    spikes = []
    for flags, arguments in (
        ("", {}),
        ("--no-norm_input", {"norm_input": False}),
        ("--tau_syn 3", {"tau_syn": 3.0}),
        ("--max_spikes 1", {"max_spikes": 1}),
        ("--reset zero --v_reset -0.5", {"reset": "zero", "v_reset": -0.5}),
    ):
        words = f"--like sinabs --steps 40 --output_dir {tmp_path} --overwrite"
        found, said = run_here("nir", path, tmp_path / "folder", f"{words} {flags}")
        output = load(path, like="sinabs", **arguments)([rows[rows[:, 0] < 40]], 40)
        assert found["spikes"]["lif"] == output.spikes["lif"].item() > 0
        assert ("note: sinabs does not write norm_input" in said) == (not flags.startswith("--"))
        spikes.append(found["spikes"]["lif"])
    assert len({*spikes}) == len(spikes)
    line = refused("nir", path, "--like norse --tau_syn 3")
    assert "tau_syn says how sinabs ran a network: give " in line


@needs_v_reset
def test_a_file_with_v_reset_is_read_with_an_older_nir(tmp_path, monkeypatch):
    """Up to 1.0.6 nir.read() takes the file alone; up to 1.0.5 no node has a v_reset."""
    inner = one_neuron("LIF", tau=2e-3, r=1.0, v_leak=0.0, v_threshold=1.0, v_reset=-0.5)
    outer = one_neuron("IF", r=1.0, v_threshold=1.0, v_reset=-0.25)
    outer.nodes["graph"] = inner
    outer.edges = [("input", "graph"), ("graph", "n"), ("n", "output")]
    path = tmp_path / "net.nir"
    nir.write(path, outer)
    make_node = nir.dict2NIRNode

    def make_old_node(content):
        assert not pop_v_resets(copy.deepcopy(content))
        return make_node(content)

    monkeypatch.setattr(nir, "read", lambda filename: pytest.fail("it knows no v_reset"))
    monkeypatch.setattr(nir, "LIF", lambda tau, r, v_leak, v_threshold: None)
    monkeypatch.setattr(nir, "dict2NIRNode", make_old_node)
    neurons = from_nir(path).neurons()
    assert {name: one.reset for name, one in neurons.items()} == {"graph.n": -0.5, "n": -0.25}


# --- what files do not say


has_check = "type_check" in inspect.signature(nir.NIRGraph).parameters
NOT_CHECKED = {"type_check": False} if has_check else {}  # nir checks types from 1.0.7 on


def as_exported(edges, tau=1e-3, r=10.0):
    """A graph of edges as snnTorch's exporter leaves them; i: Input, w: Linear, l: LIF, f: Flatten, o: Output."""
    one, shape = np.ones(1, np.float32), np.array([1])
    kinds = {
        "i": nir.Input(shape),
        "w": nir.Linear(one[None]),
        "l": nir.LIF(tau * one, r * one, 0 * one, one),
        "f": nir.Flatten({"input": shape}, 0, -1),
        "o": nir.Output(shape),
    }
    pairs = [tuple(each.split("-")) for each in edges.split()]
    return nir.NIRGraph(
        {name: kinds[name[0]] for pair in pairs for name in pair}, pairs, **NOT_CHECKED
    )


def test_what_a_file_does_not_say_is_noticed():
    """Time constants of another timestep; betas from 1 on, and below 0."""
    read = lambda tau, r, **own: from_nir(as_exported("input-w w-l l-output", tau, r), **own)  # noqa: E731
    neuron = read(float("inf"), float("inf"), like="snntorch").graph.modules["l"]
    assert (neuron.gain, neuron.leak) == (1, 1)
    for beta, words in (
        (-0.25, "shorter than dt, 0.001 s: give like='snntorch', without another timestep"),
        (1.25, "beta above 1"),
    ):
        values = 1e-4 / (1 - beta), 1 / (1 - beta)
        with pytest.raises(ModelError, match=words):
            read(*values)
        with pytest.warns(UserWarning, match="'l': a beta below 0 or above 1 is clamped"):
            neuron = read(*values, like="snntorch").graph.modules["l"]
        assert (neuron.gain, neuron.leak) == (1, beta > 0)
    with pytest.warns(UserWarning) as notes:
        (
            read(2e-3, 20.0),
            read(0.02, 2.0),
            read(0.01, 1.0),
        )  # betas of 0.95, 0.5, and of 0, which nobody means
    ends = [str(note.message).partition("timesteps of ")[2] for note in notes]
    assert ends == ["0.1 ms: dt=0.0001, or like='snntorch'", "10 ms: dt=0.01"]


def test_sums_that_snntorchs_exporter_loses():
    """One is put back, with a note; of two, an error's lines do it, as they stand. At the end it leaves too little: refused."""
    sources = lambda net: {  # noqa: E731
        node[0]: "+".join(sorted(node[2])) for node in from_nir(net, like="snntorch").graph.nodes
    }
    start = "input-w1 w1-l1 l1-w2 w2-output input_l2-l2 l2-w3 "
    with pytest.warns(UserWarning, match=r"'l2' is read as w2 \+ l1, a guess"):
        assert sources(as_exported(start + "w3-l3 l3-output"))["l2"] == "l1+w2"
    graph = as_exported(start + "w3-output input_l3-l3 l3-f f-output_f")
    with pytest.raises(
        ModelError, match=r"into 'l2', of 'w2', 'l1'.* into 'l3', of 'w3', 'l2', 'l1': del "
    ) as error:
        sources(graph)
    for line in re.findall(
        r"del graph.nodes\[.+?\]; graph.edges = .+? \+ \[.+?\]", str(error.value)
    ):
        exec(line)
    assert sources(graph).items() >= {"l2": "l1+w2", "l3": "l2+w3"}.items()
    with pytest.raises(ModelError, match=r"it ends in 'w2', no neuron.* add nn.Flatten\(\)"):
        sources(as_exported("input-w1 w1-l1 l1-w2 w2-output"))
    assert sources(as_exported("input-w1 w1-l1 l1-w2 w2-f f-output"))["f"] == "w2"


def test_a_constant_that_c_does_not_know_is_refused_by_the_event_engine(monkeypatch):
    """Whoever adds a field to Constants learns that C would run the neuron without it."""
    known = layout.KNOWN_CONSTANTS - {"gain"}
    monkeypatch.setattr(layout, "KNOWN_CONSTANTS", known)
    with pytest.raises(ModelError, match="has the constant gain, which C does not know"):
        from_nir(REPOSITORY / "examples/nmnist.nir", dt=1e-3, engine="event")
