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
import math
import re
import shutil
import warnings
from itertools import pairwise, product

import nir
import numpy as np
import pytest
import torch
from conftest import REPOSITORY, refused, run_here
from torch import nn

from self_models import ModelError, from_nir, load
from self_models.data.events import rows_in
from wfeedback.event import layout
from wfeedback.nir.files import pop_v_resets
from wfeedback.nir.simulators import check, meaning_of_difference

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
    """Build two linear layers on a grid, with neurons behind them; `last` the last."""
    num_inputs, num_hidden, num_outputs = SIZES
    last = last or neurons
    return nn.Sequential(
        on_grid(nn.Linear(num_inputs, num_hidden)),
        neurons(num_hidden),
        on_grid(nn.Linear(num_hidden, num_outputs)),
        last(num_outputs),
    )


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
    """Compare what last layers of random networks send, here and in their simulator.

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
        network -> potentials of its last layer in this run (T, B, ...), of a simulator
        that records them. Ours may differ from them by ROUNDING.
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


def snntorch_cases():
    """Return (kind, reset, delay) of each sort of neurons."""
    kinds = ("Leaky", "Synaptic", "RLeaky", "RSynaptic")
    cases = []
    for kind, reset in product(kinds, ("subtract", "zero", "none")):
        cases.append((kind, reset, True))
        if kind != "RSynaptic":  # whose own code fails without delay
            cases.append((kind, reset, False))
    return cases


def run_snntorch(network, events):
    for layer in network[1::2]:
        layer.mem = torch.zeros(IMAGES, SIZES[-1])
        layer.syn = torch.zeros(IMAGES, SIZES[-1])
        layer.spk = torch.zeros(IMAGES, SIZES[-1])
    return torch.stack([network(now) for now in events])


def export_snntorch(network):
    from snntorch.export_nir import export_to_nir

    return export_to_nir(network, torch.zeros(1, SIZES[0]), ignore_dims=[0])


@others
@needs_v_reset
@pytest.mark.parametrize(("kind", "reset", "delay"), snntorch_cases())
def test_snntorch_with_every_reset(kind, reset, delay):
    snntorch = pytest.importorskip("snntorch")

    def neurons(size):
        settings = {"reset_mechanism": reset}
        decays = [torch.full((size,), 0.5)]
        if kind in ("Synaptic", "RSynaptic"):
            decays.append(torch.full((size,), 0.5))
        if kind in ("RLeaky", "RSynaptic"):
            settings["linear_features"] = size
        if kind != "RSynaptic":
            settings["reset_delay"] = delay
        cells = getattr(snntorch, kind)(
            *decays, threshold=torch.ones(size), init_hidden=True, **settings
        )
        if kind in ("RLeaky", "RSynaptic"):
            on_grid(cells.recurrent)
        return cells

    reading = {"reset": reset, "reset_delay": delay}
    if (reset, delay) == ("subtract", True):
        reading = {}  # snnTorch's defaults, and ours
    served = check_reading(
        lambda: layers(neurons), run_snntorch, export_snntorch, like="snntorch", **reading
    )
    assert served == ({"dense"} if (reset, delay) == ("subtract", False) else BOTH)


@others
@needs_v_reset
def test_snntorch_with_betas_and_thresholds_of_each_neuron():
    """Betas are rounded on their way through the file.

    Spikes are the same, since none of these potentials is as near to its threshold as
    that.
    """
    snntorch = pytest.importorskip("snntorch")

    def neurons(size):
        return snntorch.Leaky(
            torch.rand(size), threshold=torch.rand(size) + 0.25, init_hidden=True
        )

    served = check_reading(lambda: layers(neurons), run_snntorch, export_snntorch, like="snntorch")
    assert served == BOTH


# --- SpikingJelly

SPIKINGJELLY = {
    "IFNode": {},
    "LIFNode": {"tau": 2.0},
    "LIFNode-decay_input=False": {"tau": 2.0, "decay_input": False},
    "ParametricLIFNode": {"init_tau": 2.0},
    "ParametricLIFNode-decay_input=False": {"init_tau": 2.0, "decay_input": False},
    "CUBALIFNode": {"c_decay": 0.5, "v_decay": 0.5},
}


def spikingjelly_neurons(kind, v_reset):
    """Make neurons of a kind in SPIKINGJELLY, for any number of inputs."""
    from spikingjelly.activation_based import neuron

    name, _, _ = kind.partition("-")
    return getattr(neuron, name)(v_reset=v_reset, v_threshold=0.25, **SPIKINGJELLY[kind])


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
    served = check_reading(
        lambda: layers(lambda size: spikingjelly_neurons(kind, v_reset)),
        run_spikingjelly,
        export_spikingjelly,
        like="spikingjelly",
    )
    assert served == BOTH


@others
@needs_v_reset
@pytest.mark.parametrize("kind", ["IFNode", "LIFNode-decay_input=False"])
def test_spikingjelly_exported_with_another_dt(kind):
    """Where the file shows it, a note names the dt that it was written with."""
    pytest.importorskip("spikingjelly")

    def build():
        return layers(lambda size: spikingjelly_neurons(kind, v_reset=0.0))

    def export(network):
        return export_spikingjelly(network, dt=1e-3)

    served = check_reading(build, run_spikingjelly, export, like="spikingjelly", dt=1e-3)
    assert served == BOTH
    with pytest.warns(UserWarning, match="dt=0.001|--dt 0.001"):
        from_nir(export(build()), like="spikingjelly")


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


NORSE = {  # neurons -> parameters beside v_th
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


def norse_neurons(kind, size, dt=0.001, **values):
    """Make cells of Norse with a leak of 1/2; values of each neuron, or of all."""
    import norse.torch as norse
    from norse.torch.functional.reset import reset_subtract

    tensors = {name: torch.zeros(size) + value for name, value in values.items()}
    half = torch.full((size,), 0.5 / dt)
    if kind.startswith("IAF"):
        return norse.IAFCell(norse.IAFParameters(**tensors), dt=dt)
    if kind.startswith("LIBox"):
        return norse.LIBoxCell(norse.LIBoxParameters(half, **tensors), dt=dt)
    parameters = {"v_leak": torch.zeros(size), "v_reset": torch.zeros(size)} | tensors
    if kind.startswith("LIFBox"):
        if "subtract" in kind:
            parameters["reset_method"] = reset_subtract
        return norse.LIFBoxCell(norse.LIFBoxParameters(half, **parameters), dt=dt)
    return norse.LIFCell(norse.LIFParameters(half, half, **parameters), dt=dt)


@others
@pytest.mark.parametrize("kind", NORSE)
def test_norse(kind):
    """V begins at v_leak, that of an IAF at v_reset."""
    norse = pytest.importorskip("norse.torch")
    values = NORSE[kind]

    def build():
        cells = layers(lambda size: norse_neurons(kind, size, v_th=0.25, **values))
        return norse.SequentialState(*cells)

    reading = {}
    if "subtract" in kind:
        reading["reset"] = "subtract"
    if "v_reset" in values:
        reading["v_reset"] = values["v_reset"]
    assert check_reading(build, run_norse, export_norse, like="norse", **reading) == BOTH


@others
@pytest.mark.parametrize("kind", ["LIFBox", "LIF"])
def test_norse_with_values_of_each_neuron(kind):
    """Potentials that begin at values of their own are not on the kernel."""
    norse = pytest.importorskip("norse.torch")

    def neurons(size):
        v_leak = (torch.rand(size) * 8).round() / 16
        return norse_neurons(kind, size, v_th=0.25 + v_leak.flip(0), v_leak=v_leak)

    def build():
        return norse.SequentialState(*layers(neurons))

    assert check_reading(build, run_norse, export_norse, like="norse") == {"dense"}


@others
@pytest.mark.parametrize("kind", ["LIFBox", "LIF", "LIBox"])
def test_norse_with_another_dt(kind):
    """It is read with the product of the cells' dt and that of the export."""
    norse = pytest.importorskip("norse.torch")
    sends_values = kind == "LIBox"

    def neurons(size):
        return norse_neurons("IAF" if sends_values else kind, size, 0.002, v_th=0.25)

    def integrators(size):
        return norse_neurons("LIBox", size, 0.002, v_leak=0.25)

    served = check_reading(
        lambda: norse.SequentialState(*layers(neurons, integrators if sends_values else None)),
        run_norse,
        lambda network: export_norse(network, dt=0.004),
        sends_values=sends_values,
        like="norse",
        dt=8e-6,
    )
    assert served == BOTH


@others
@pytest.mark.parametrize("v_leak", [0.0, 0.125, -0.5])
def test_norse_integrators(v_leak):
    """They send V, which begins at v_leak."""
    norse = pytest.importorskip("norse.torch")

    def neurons(size):
        return norse_neurons("IAF", size, v_th=0.25)

    def integrators(size):
        return norse_neurons("LIBox", size, v_leak=v_leak)

    def build():
        return norse.SequentialState(*layers(neurons, integrators))

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


def sinabs_neurons(kind, size, **settings):
    """Make IAF, LIF or ExpLeak of sinabs; time constants are of each neuron."""
    from sinabs import layers as sinabs_layers

    if kind != "IAF":
        settings["tau_mem"] = 2 + 6 * torch.rand(size)
    if kind == "LIF":
        threshold = settings.get("spike_threshold", 0.25)
        settings["spike_threshold"] = torch.full((size,), threshold)
    return getattr(sinabs_layers, f"{kind}Squeeze")(batch_size=IMAGES, **settings)


SINGLE = "SingleSpike, MembraneReset"
DENSE = {"dense"}


def sinabs_case(kind, *, engines=DENSE, settings=None, **reading):
    """Describe neurons of sinabs, how they are read, and which engines run them."""
    return pytest.param(kind, settings or {}, reading, engines, id=kind)


SINABS = [
    sinabs_case("IAF"),
    sinabs_case("IAF SingleSpike", max_spikes=1),
    sinabs_case("IAF MaxSpike(2)", max_spikes=2),
    sinabs_case(f"IAF {SINGLE}", reset="zero", engines=BOTH),
    sinabs_case("IAF min_v_mem", settings={"min_v_mem": -0.5}, membrane_floor=0.5),
    sinabs_case("IAF tau_syn", settings={"tau_syn": 3.0}, tau_syn=3.0),
    sinabs_case(
        f"IAF tau_syn {SINGLE}",
        settings={"tau_syn": 3.0},
        tau_syn=3.0,
        reset="zero",
        engines=BOTH,
    ),
    sinabs_case("LIF"),
    sinabs_case("LIF norm_input=False", settings={"norm_input": False}, norm_input=False),
    sinabs_case("LIF norm_input=True", settings={"norm_input": True}, norm_input=True),
    sinabs_case(f"LIF {SINGLE}", reset="zero", engines=BOTH),
    sinabs_case(
        f"LIF norm_input=False {SINGLE}",
        settings={"norm_input": False},
        norm_input=False,
        reset="zero",
        engines=BOTH,
    ),
    sinabs_case("LIF SingleSpike", max_spikes=1),
    sinabs_case("LIF MaxSpike(2)", max_spikes=2),
    sinabs_case("LIF min_v_mem", settings={"min_v_mem": -0.125}, membrane_floor=0.5),
    sinabs_case("LIF tau_syn", settings={"tau_syn": 3.0}, tau_syn=3.0),
    sinabs_case(
        "LIF tau_syn norm_input=False",
        settings={"tau_syn": 3.0, "norm_input": False},
        tau_syn=3.0,
        norm_input=False,
    ),
    sinabs_case(
        f"LIF tau_syn {SINGLE}",
        settings={"tau_syn": 3.0},
        tau_syn=3.0,
        reset="zero",
        engines=BOTH,
    ),
]


@others
@pytest.mark.parametrize(("kind", "settings", "reading", "engines"), SINABS)
def test_sinabs(kind, settings, reading, engines):
    """exp(-1/tau) is on no grid, but our dense engine computes as sinabs, to the bit.

    The kernel multiplies weights by 1 - exp(-1/tau) beforehand; none of these
    potentials is so near to a threshold that it counts.
    """
    pytest.importorskip("sinabs")
    from sinabs.activation import MaxSpike, MembraneReset, SingleSpike

    activation = {}
    if "SingleSpike" in kind:
        activation["spike_fn"] = SingleSpike
    if "MaxSpike" in kind:
        activation["spike_fn"] = MaxSpike(2)
    if SINGLE in kind:
        activation["reset_fn"] = MembraneReset()

    def neurons(size):
        return sinabs_neurons(kind[:3], size, record_states=True, **settings, **activation)

    served = check_reading(
        lambda: layers(neurons),
        run_sinabs,
        export_sinabs,
        potentials=lambda network: network[-1].recordings["v_mem"].transpose(0, 1),
        like="sinabs",
        **reading,
    )
    assert served == engines


@others
@pytest.mark.parametrize("norm_input", [None, False, True])
@pytest.mark.parametrize("single", [True, False])
def test_sinabs_integrators(norm_input, single):
    """ExpLeak sends V, and its norm_input is False by default.

    Our dense engine computes V to the bit.
    """
    pytest.importorskip("sinabs")
    from sinabs.activation import MembraneReset, SingleSpike

    activation = {}
    of_integrators = {}
    reading = {}
    if single:
        activation = {"spike_fn": SingleSpike, "reset_fn": MembraneReset()}
        reading["reset"] = "zero"
    if norm_input is not None:
        of_integrators["norm_input"] = norm_input
        reading["norm_input"] = norm_input

    def neurons(size):
        return sinabs_neurons("IAF", size, **activation)

    def integrators(size):
        return sinabs_neurons("ExpLeak", size, **of_integrators)

    served = check_reading(
        lambda: layers(neurons, integrators),
        run_sinabs,
        export_sinabs,
        sends_values=True,
        rounding={"event"},
        like="sinabs",
        **reading,
    )
    assert served == (BOTH if single else DENSE)


@others
def test_sinabs_with_arguments_of_each_layer():
    """Where layers differ, a dict has the value of each, by its name in the file."""
    pytest.importorskip("sinabs")

    def neurons(size):
        return sinabs_neurons("LIF", size, norm_input=False, tau_syn=3.0)

    def integrators(size):
        return sinabs_neurons("ExpLeak", size, norm_input=True)

    served = check_reading(
        lambda: layers(neurons, integrators),
        run_sinabs,
        export_sinabs,
        sends_values=True,
        rounding={"event"},
        like="sinabs",
        norm_input={"1": False, "3": True},
        tau_syn={"1": [3.0] * SIZES[1]},
    )
    assert served == DENSE


@others
def test_sinabs_with_convolutions():
    """As public networks for N-MNIST, with a pool, and a floor that files lack."""
    pytest.importorskip("sinabs")
    from sinabs.layers import SumPool2d

    shape = 2, 8, 8

    def build():
        return nn.Sequential(
            on_grid(nn.Conv2d(2, 4, 3, bias=False)),
            sinabs_neurons("IAF", 1, min_v_mem=-1.0),
            SumPool2d(2),
            nn.Flatten(),
            on_grid(nn.Linear(36, 6, bias=False)),
            sinabs_neurons("IAF", 1, min_v_mem=-1.0),
        )

    served = check_reading(
        build,
        run_sinabs,
        lambda network: export_sinabs(network, shape),
        shape,
        like="sinabs",
        membrane_floor=1.0,
    )
    assert served == DENSE


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
    """Make a cell with its default time constants, and a threshold that is reached."""
    import norse.torch as norse

    parameters = {} if kind == "LIBox" else {"v_th": torch.tensor(0.1)}
    parameters = getattr(norse, f"{kind}Parameters")(**parameters)
    return getattr(norse, f"{kind}Cell")(parameters)


@others
@pytest.mark.parametrize(
    ("kind", "last", "comparison"),
    [
        ("LIFBox", "LIFBox", {}),
        ("LIF", "LIF", {}),
        ("LIFBox", "LIBox", {"sends_values": True, "rounding": BOTH}),
    ],
    ids=["LIFBox", "LIF", "LIBox"],
)
def test_norse_off_the_grid(kind, last, comparison):
    """Leaks that its cells have by default are rounded on their way through the file.

    None of these potentials is so near to its threshold that it counts.
    """
    norse = pytest.importorskip("norse.torch")

    def build():
        cells = layers(lambda size: norse_by_default(kind), lambda size: norse_by_default(last))
        return norse.SequentialState(*off_grid(cells))

    assert check_reading(build, run_norse, export_norse, like="norse", **comparison) == BOTH


@others
@needs_v_reset
@pytest.mark.parametrize("decay_input", [True, False])
def test_spikingjelly_off_the_grid(decay_input):
    pytest.importorskip("spikingjelly")
    from spikingjelly.activation_based import neuron

    def neurons(size):
        return neuron.LIFNode(tau=3.0, decay_input=decay_input, v_reset=-0.1, v_threshold=0.3)

    def build():
        return off_grid(layers(neurons))

    served = check_reading(build, run_spikingjelly, export_spikingjelly, like="spikingjelly")
    assert served == BOTH


# --- what the importers of simulators make of a file


def a_recording():
    """Return an event in each timestep, at one input after the other."""
    steps = torch.arange(STEPS)
    return torch.stack([steps, steps % SIZES[0]], 1).numpy()


@others
@needs_v_reset
def test_a_difference_from_an_importer_is_explained(tmp_path):
    """The importer of snnTorch reads otherwise than the network was that wrote."""
    snntorch = pytest.importorskip("snntorch")
    torch.manual_seed(0)

    def neurons(size):
        return snntorch.Leaky(
            torch.full((size,), 0.5), threshold=torch.ones(size), init_hidden=True
        )

    path = tmp_path / "net.nir"
    with contextlib.redirect_stdout(io.StringIO()):
        nir.write(path, export_snntorch(layers(neurons)))

    _, theirs = check(path, [a_recording()], STEPS, ["snntorch"], like="snntorch")
    assert theirs.verdict == "differs"
    assert "assumes of every file: every neuron has reset_mechanism='zero'" in theirs.message
    assert "Add --reset zero --no-reset_delay: if nothing differs then, the" in theirs.message

    flags = {"reset": "zero", "reset_delay": False}
    _, theirs = check(path, [a_recording()], STEPS, ["snntorch"], like="snntorch", **flags)
    assert theirs.verdict == "same"


@others
@pytest.mark.parametrize(
    ("kind", "reading", "flags"),
    [
        ("IAF", {"membrane_floor": 1.0}, "--membrane_floor 1"),
        ("LIF", {"norm_input": False}, "--no-norm_input"),
    ],
    ids=["IAF", "LIF"],
)
def test_the_importer_of_sinabs_has_defaults_of_its_own(tmp_path, kind, reading, flags):
    pytest.importorskip("sinabs")
    torch.manual_seed(0)
    network = layers(lambda size: sinabs_neurons(kind, size, spike_threshold=0.25))
    path = tmp_path / "net.nir"
    nir.write(path, export_sinabs(network))

    _, theirs = check(path, [a_recording()], STEPS, ["sinabs"], like="sinabs")
    assert theirs.verdict == "differs"
    assert f"Add {flags}: if nothing differs then" in theirs.message

    _, theirs = check(path, [a_recording()], STEPS, ["sinabs"], like="sinabs", **reading)
    assert theirs.verdict == "same"


@pytest.mark.parametrize(
    ("kinds", "given", "advice"),
    [
        ({"IF", "LI"}, {}, "Add --membrane_floor 1 --no-norm_input: if"),
        ({"IF", "LI"}, {"membrane_floor": 1.0}, "Add --no-norm_input: if"),
        ({"IF", "LI"}, {"membrane_floor": 1.0, "norm_input": False}, None),
        ({"IF", "Affine"}, {"membrane_floor": 1.0}, None),  # it takes no norm_input
        ({"LIF", "Affine"}, {"norm_input": False}, None),
    ],
)
def test_the_importers_assumptions_are_named_as_far_as_they_are_not_met(kinds, given, advice):
    said = meaning_of_difference("sinabs", kinds, {"like": "sinabs", **given})
    if advice is None:
        assert said == ""
    else:
        assert advice in said


# --- by hand

HALF_LIFE = float(np.float32(1 / np.log(2)))  # in timesteps: exp(-1/HALF_LIFE) is 1/2


def one_neuron(kind, **values):
    """Return a graph of one neuron, called n, with these values."""
    arrays = {name: np.full(1, value) for name, value in values.items()}
    node = getattr(nir, kind)(**arrays)
    nodes = {"input": nir.Input(np.array([1])), "n": node, "output": nir.Output(np.array([1]))}
    return nir.NIRGraph(nodes, [("input", "n"), ("n", "output")])


LEAKY = {"tau": HALF_LIFE, "r": 1.0, "v_leak": 0.0}
OF_NORSE = {"tau": 2e-6, "r": 1.0, "v_leak": 0.5}  # a leak of 1/2
BY_HAND = [
    pytest.param(
        one_neuron("LIF", **LEAKY, v_threshold=4.0),
        {"like": "sinabs"},
        DENSE,
        [1, 0, 1],
        # V goes halfway to what arrives: 1 / 2, 0.5 / 2, (0.25 + 1) / 2
        [0.5, 0.25, 0.625],
        [0, 0, 0],
        id="sinabs, LIF",
    ),
    pytest.param(
        one_neuron("LIF", **LEAKY, v_threshold=4.0),
        {"like": "sinabs", "norm_input": False},
        DENSE,
        [1, 0, 1],
        # V halves, and all that arrives is added: 0 + 1, 1 / 2 + 0, 0.5 / 2 + 1
        [1, 0.5, 1.25],
        [0, 0, 0],
        id="sinabs, LIF, norm_input False",
    ),
    pytest.param(
        one_neuron("LIF", **LEAKY, v_threshold=4.0),
        {"like": "sinabs", "norm_input": {"n": False}, "tau_syn": HALF_LIFE},
        DENSE,
        [1, 0, 1],
        # I is 1/2, 1/4, 5/8; V halves, and I is added
        [0.5, 0.5, 0.875],
        [0, 0, 0],
        id="sinabs, LIF, tau_syn",
    ),
    pytest.param(
        one_neuron("IF", r=1.0, v_threshold=4.0),
        {"like": "sinabs", "tau_syn": {"n": [HALF_LIFE]}},
        DENSE,
        [1, 0, 1],
        # I is 1/2, 1/4, 5/8, and V their sum so far
        [0.5, 0.75, 1.375],
        [0, 0, 0],
        id="sinabs, IAF, tau_syn",
    ),
    pytest.param(
        one_neuron("LI", **LEAKY),
        {"like": "sinabs"},
        BOTH,
        [1, 0, 1],
        # V halves, and all that arrives is added
        [1, 0.5, 1.25],
        [1, 0.5, 1.25],
        id="sinabs, ExpLeak",
    ),
    pytest.param(
        one_neuron("LI", **LEAKY),
        {"like": "sinabs", "norm_input": True},
        BOTH,
        [1, 0, 1],
        # V goes halfway to what arrives
        [0.5, 0.25, 0.625],
        [0.5, 0.25, 0.625],
        id="sinabs, ExpLeak, norm_input True",
    ),
    pytest.param(
        one_neuron("IF", r=1.0, v_threshold=1.0),
        {"like": "sinabs"},
        DENSE,
        [3.5, 0, 0],
        # three spikes at once, each of which takes 1 from V
        [0.5, 0.5, 0.5],
        [3, 0, 0],
        id="sinabs, MultiSpike",
    ),
    pytest.param(
        one_neuron("IF", r=1.0, v_threshold=1.0),
        {"like": "sinabs", "max_spikes": 2},
        DENSE,
        [3.5, 0, 0],
        # two spikes take 2 from V, and one in the next timestep takes 1
        [1.5, 0.5, 0.5],
        [2, 1, 0],
        id="sinabs, MaxSpike(2)",
    ),
    pytest.param(
        one_neuron("LIF", **OF_NORSE, v_threshold=1.0),
        {"like": "norse"},
        BOTH,
        [0, 2, 0],
        # V stays at v_leak; (0.5 + 2 + 0.5) / 2 is 1.5, a spike, and 0; then halfway to
        # v_leak
        [0.5, 0, 0.25],
        [0, 1, 0],
        id="Norse, LIFBox begins at v_leak",
    ),
    pytest.param(
        one_neuron("LIF", **OF_NORSE, v_threshold=1.0),
        {"like": "norse", "v_reset": -0.5},
        BOTH,
        [0, 2, 0],
        # as before, but for the reset to -0.5, from which 0 is halfway to v_leak
        [0.5, -0.5, 0],
        [0, 1, 0],
        id="Norse, LIFBox, v_reset",
    ),
    pytest.param(
        one_neuron("IF", r=1.0, v_threshold=1.0),
        {"like": "norse", "v_reset": -0.25},
        BOTH,
        [1, 1, 0],
        # -0.25 + 1; 1.75 is a spike
        [0.75, -0.25, -0.25],
        [0, 1, 0],
        id="Norse, IAF begins at v_reset",
    ),
    pytest.param(
        one_neuron("LI", tau=2e-6, r=1.0, v_leak=-1.0),
        {"like": "norse"},
        BOTH,
        [0, 1, 0],
        # -1; (-1 - 1 + 1) / 2; (-0.5 - 1) / 2
        [-1, -0.5, -0.75],
        [-1, -0.5, -0.75],
        id="Norse, LIBox begins at v_leak",
    ),
    pytest.param(
        one_neuron("CubaLIF", tau_syn=2e-6, tau_mem=2e-6, r=1.0, v_leak=0.0, v_threshold=1.0),
        {"like": "norse"},
        BOTH,
        [1, 0, 0],
        # I is 1, 1/2, 1/4; V goes halfway to it
        [0.5, 0.5, 0.375],
        [0, 0, 0],
        id="Norse, LIF",
    ),
]


@pytest.mark.parametrize(
    ("graph", "reading", "engines", "arriving", "potentials", "sent"), BY_HAND
)
def test_what_a_simulator_computes_by_hand(graph, reading, engines, arriving, potentials, sent):
    """Integrators send V."""
    events = torch.tensor(arriving, dtype=torch.float32).reshape(1, -1, 1)
    for engine in sorted(engines):
        model = from_nir(graph, engine=engine, **reading)
        output = model(events, record="all")
        found = output.recorded["n"]["membrane"].flatten().tolist()
        assert found == pytest.approx(potentials, abs=1e-6)
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
CUBA = {"tau_syn": 2e-6, "tau_mem": 2e-6, "v_leak": 0.0, "v_threshold": 1.0}
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
    (
        one_neuron("CubaLIF", r=1.0, **CUBA),
        {"like": "sinabs"},
        "node 'n' is a CubaLIF, which sinabs neither writes nor reads",
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
NOTED = [
    pytest.param(
        LIF,
        {"like": "sinabs"},
        "sinabs does not write norm_input, .*: read with its defaults, norm_input=True of LIF and",
        {"norm_input": True},
        id="sinabs lacks",
    ),
    pytest.param(
        IF,
        {"like": "norse"},
        "Norse does not write v_reset and reset_method: read with its defaults, v_reset=0 and",
        {"v_reset": 0},
        id="Norse lacks",
    ),
    pytest.param(
        one_neuron("LIF", tau=2e-4, r=2.0, v_leak=0.0, v_threshold=1.0),
        {"like": "snntorch"},
        "snnTorch does not write reset_mechanism and reset_delay: read with its defaults, reset='",
        {"reset": "subtract"},
        id="snnTorch lacks",
    ),
    pytest.param(
        one_neuron("LIF", tau=5.0, r=2.0, v_leak=0.0, v_threshold=1.0),
        {"like": "sinabs", "norm_input": True},
        "sinabs writes v_leak 0 and r 1: those of 'n' are ignored",
        None,
        id="other r",
    ),
    pytest.param(
        one_neuron("CubaLIF", r=1.0, w_in=2.0, **CUBA),
        {"like": "norse", "v_reset": 0},
        "Norse writes r 1 and w_in 1: 'n' is read as NIR has it",
        None,
        id="other w_in",
    ),
    pytest.param(
        LI,
        {"like": "sinabs", "membrane_floor": 1.0},
        "membrane_floor is in thresholds, which 'n' has not: no floor there",
        None,
        id="no threshold",
    ),
    pytest.param(
        one_neuron("IF", r=1000.0, v_threshold=1.0),
        {"like": "spikingjelly"},
        "SpikingJelly writes r = 1/dt, and r of 'n' is that of timesteps of 1 ms: give dt=0.001",
        {"dt": 0.001},
        id="another dt",
    ),
]


@pytest.mark.parametrize(("graph", "reading", "words", "silencing"), NOTED)
def test_what_is_taken_for_granted_is_noted(graph, reading, words, silencing):
    """With the arguments in `silencing`, which say it, it is not noted."""
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
    neurons = nir.LIF(
        tau=np.full(10, 5.0),
        r=np.full(10, 1.0),
        v_leak=np.zeros(10),
        v_threshold=np.full(10, 0.25),
    )
    nodes = {
        "input": nir.Input(sensor),
        "flat": nir.Flatten({"input": sensor}, 0, -1),
        "linear": nir.Linear(torch.randn(10, 2312).numpy()),
        "lif": neurons,
        "output": nir.Output(np.array([10])),
    }
    path = tmp_path / "net.nir"
    nir.write(path, nir.NIRGraph(nodes, [*pairwise(nodes)]))
    recording = tmp_path / "folder/3/a.bin"
    recording.parent.mkdir(parents=True)
    shutil.copy(next((REPOSITORY / "data/nmnist/3").glob("*.bin")), recording)
    rows, _ = rows_in(recording, (2, 34, 34), 1e-3)
    first_steps = rows[rows[:, 0] < 40]

    spikes = []
    for flags, arguments in (
        ("", {}),
        ("--no-norm_input", {"norm_input": False}),
        ("--tau_syn 3", {"tau_syn": 3.0}),
        ("--max_spikes 1", {"max_spikes": 1}),
        ("--reset zero --v_reset -0.5", {"reset": "zero", "v_reset": -0.5}),
    ):
        how = f"--like sinabs --steps 40 --output_dir {tmp_path} --overwrite {flags}"
        found, said = run_here("nir", path, tmp_path / "folder", how)
        output = load(path, like="sinabs", **arguments)([first_steps], 40)
        assert found["spikes"]["lif"] == output.spikes["lif"].item() > 0
        assert ("note: sinabs does not write norm_input" in said) == (flags == "")
        spikes.append(found["spikes"]["lif"])
    assert len({*spikes}) == len(spikes)

    line = refused("nir", path, "--like norse --tau_syn 3")
    assert "tau_syn says how sinabs ran a network: give " in line


@needs_v_reset
def test_a_file_with_v_reset_is_read_with_an_older_nir(tmp_path, monkeypatch):
    """By nir.read() up to 1.0.6, which takes the file alone, and nodes up to 1.0.5."""
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
    """Return a graph as snnTorch's exporter leaves it.

    Parameters
    ----------
    edges : str
        Such as "input-w1 w1-l1". The first letter of a name tells its kind: i is an
        Input, w a Linear, l a LIF, f a Flatten, and o an Output.
    tau, r : float
        Of the LIF.
    """
    one = np.ones(1, np.float32)
    shape = np.array([1])
    kinds = {
        "i": nir.Input(shape),
        "w": nir.Linear(one[None]),
        "l": nir.LIF(tau * one, r * one, 0 * one, one),
        "f": nir.Flatten({"input": shape}, 0, -1),
        "o": nir.Output(shape),
    }
    pairs = [tuple(edge.split("-")) for edge in edges.split()]
    nodes = {}
    for source, target in pairs:
        nodes[source] = kinds[source[0]]
        nodes[target] = kinds[target[0]]
    return nir.NIRGraph(nodes, pairs, **NOT_CHECKED)


def read_lif(tau, r, **reading):
    """Read a graph of one LIF with these values, and return its neurons."""
    graph = as_exported("input-w w-l l-output", tau, r)
    return from_nir(graph, **reading).graph.modules["l"]


def test_a_neuron_that_never_leaks_is_read():
    neuron = read_lif(math.inf, math.inf, like="snntorch")
    assert (neuron.gain, neuron.leak) == (1, 1)


@pytest.mark.parametrize(
    ("beta", "words", "clamped"),
    [
        (-0.25, "shorter than dt, 0.001 s: give like='snntorch', without another timestep", 0),
        (1.25, "beta above 1", 1),
    ],
)
def test_a_beta_that_is_no_leak_is_noticed(beta, words, clamped):
    r = 1 / (1 - beta)
    tau = 1e-4 * r
    with pytest.raises(ModelError, match=words):
        read_lif(tau, r)
    with pytest.warns(UserWarning, match="'l': a beta below 0 or above 1 is clamped"):
        neuron = read_lif(tau, r, like="snntorch")
    assert (neuron.gain, neuron.leak) == (1, clamped)


def test_time_constants_of_another_timestep_are_noticed():
    with pytest.warns(UserWarning) as notes:
        read_lif(2e-3, 20.0)  # beta is 0.95
        read_lif(0.02, 2.0)  # beta is 0.5
        read_lif(0.01, 1.0)  # beta is 0, which nobody means
    ends = [str(note.message).partition("timesteps of ")[2] for note in notes]
    assert ends == ["0.1 ms: dt=0.0001, or like='snntorch'", "10 ms: dt=0.01"]


def read_sources(graph):
    """Read a graph as snnTorch's, and return what feeds each node, such as "l1+w2"."""
    sources = {}
    for node in from_nir(graph, like="snntorch").graph.nodes:
        sources[node.name] = "+".join(sorted(node.sources))
    return sources


LOST_SUM = "input-w1 w1-l1 l1-w2 w2-output input_l2-l2 l2-w3 "  # of w2 and l1 into l2


def test_a_sum_that_snntorchs_exporter_loses_is_put_back_with_a_note():
    graph = as_exported(f"{LOST_SUM} w3-l3 l3-output")
    with pytest.warns(UserWarning, match=r"'l2' is read as w2 \+ l1, a guess"):
        assert read_sources(graph)["l2"] == "l1+w2"


def test_two_lost_sums_are_put_back_by_the_lines_of_an_error():
    graph = as_exported(f"{LOST_SUM} w3-output input_l3-l3 l3-f f-output_f")
    words = r"into 'l2', of 'w2', 'l1'.* into 'l3', of 'w3', 'l2', 'l1': del "
    with pytest.raises(ModelError, match=words) as error:
        read_sources(graph)
    line = r"del graph.nodes\[.+?\]; graph.edges = .+? \+ \[.+?\]"
    for found in re.findall(line, str(error.value)):
        exec(found)
    assert read_sources(graph).items() >= {"l2": "l1+w2", "l3": "l2+w3"}.items()


def test_a_lost_end_is_refused():
    with pytest.raises(ModelError, match=r"it ends in 'w2', no neuron.* add nn.Flatten\(\)"):
        read_sources(as_exported("input-w1 w1-l1 l1-w2 w2-output"))
    assert read_sources(as_exported("input-w1 w1-l1 l1-w2 w2-f f-output"))["f"] == "w2"


def test_a_constant_that_c_does_not_know_is_refused_by_the_event_engine(monkeypatch):
    """Whoever adds a field to Constants learns that C would leave it out."""
    known = layout.KNOWN_CONSTANTS - {"gain"}
    monkeypatch.setattr(layout, "KNOWN_CONSTANTS", known)
    with pytest.raises(ModelError, match="has the constant gain, which C does not know"):
        from_nir(REPOSITORY / "examples/nmnist.nir", dt=1e-3, engine="event")
