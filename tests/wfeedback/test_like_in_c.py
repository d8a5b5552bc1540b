"""Networks of other simulators, exported to C, against the simulators themselves.

They are exported by the flags of their convention, and no spike differs. Each condition
is tried with twenty random networks, as a block that one program opens, and as a folder
of C.
"""

import contextlib
import io
import shutil
from itertools import pairwise

import nir
import numpy as np
import pytest
import torch
from conftest import refused
from test_c_export import exported_spikes
from torch import nn

import wfeedback.export.c_folder

pytestmark = [
    pytest.mark.others,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler, cc"),
]
SIZES = (5, 6, 6)
STEPS = 30
RECORDINGS = 2
SEEDS = 20


def network_of(neurons):
    """Build linear layers, each with what neurons(size) makes behind it.

    Their weights and biases are multiples of 1/16.
    """
    layers = []
    for inputs, outputs in pairwise(SIZES):
        linear = nn.Linear(inputs, outputs)
        for parameter in linear.parameters():
            parameter.data = (torch.rand_like(parameter) * 32 - 16).round() / 16
        layers += [linear, neurons(outputs)]
    return layers


# Each class makes networks of one simulator. neurons(size) makes a layer of neurons,
# and network() a random network. run(network, events) gives what its last layer sends
# (T, B, outputs), for events (T, B, inputs), and graph(network) what its exporter
# writes.


class SpikingJelly:
    """Neurons of SpikingJelly.

    It writes no file of v_reset=None: the file is that of v_reset=0.0.
    """

    def __init__(self, kind, **settings):
        self.kind = kind
        self.settings = settings

    def neurons(self, size, **changes):
        from spikingjelly.activation_based import neuron

        return getattr(neuron, self.kind)(v_threshold=0.5, **self.settings | changes)

    def network(self):
        return nn.Sequential(*network_of(self.neurons))

    def run(self, network, events):
        return torch.stack([network(now) for now in events])

    def graph(self, network):
        from spikingjelly.activation_based.nir_exchange import export_to_nir

        written = []
        for layer in network:
            if hasattr(layer, "v_threshold"):
                layer = self.neurons(0, v_reset=0.0)
            written.append(layer)
        return export_to_nir(nn.Sequential(*written), torch.zeros(1, SIZES[0]))


class SnnTorch:
    """Leaky of snnTorch, with a beta drawn for each neuron between two values."""

    def __init__(self, lowest_beta, highest_beta, **settings):
        self.lowest_beta = lowest_beta
        self.highest_beta = highest_beta
        self.settings = settings

    def neurons(self, size):
        from snntorch import Leaky

        spread = self.highest_beta - self.lowest_beta
        betas = self.lowest_beta + spread * torch.rand(size)
        return Leaky(betas, threshold=torch.ones(size), init_hidden=True, **self.settings)

    def network(self):
        return nn.Sequential(*network_of(self.neurons))

    def run(self, network, events):
        for layer in network[1::2]:
            layer.mem = torch.zeros(RECORDINGS, SIZES[-1])
            layer.spk = torch.zeros(RECORDINGS, SIZES[-1])
        return torch.stack([network(now) for now in events])

    def graph(self, network):
        from snntorch.export_nir import export_to_nir

        return export_to_nir(network, torch.zeros(1, SIZES[0]), ignore_dims=[0])


class Norse:
    """Cells of Norse: IAF or LIFBox."""

    def __init__(self, kind):
        self.kind = kind

    def neurons(self, size):
        import norse.torch as norse

        ones = torch.ones(size)
        if self.kind == "IAF":
            return norse.IAFCell(norse.IAFParameters(ones))
        parameters = norse.LIFBoxParameters(
            500 * ones, v_th=ones / 4, v_leak=0 * ones, v_reset=0 * ones
        )
        return norse.LIFBoxCell(parameters)

    def network(self):
        import norse.torch as norse

        return norse.SequentialState(*network_of(self.neurons))

    def run(self, network, events):
        state = None
        sent = []
        for now in events:
            spikes, state = network(now, state)
            sent.append(spikes)
        return torch.stack(sent)

    def graph(self, network):
        from norse.torch.utils.export_nir import to_nir

        return to_nir(network, torch.zeros(SIZES[0]))


class Sinabs:
    """IAF or LIF of sinabs, by default with at most one spike, and a reset to 0."""

    def __init__(self, kind, single=True, floor=None):
        self.kind = kind
        self.single = single
        self.floor = floor  # the lowest V

    def neurons(self, size):
        from sinabs import layers
        from sinabs.activation import MembraneReset, SingleSpike

        settings = {
            "spike_threshold": torch.full((size,), 0.5),
            "batch_size": RECORDINGS,
            "min_v_mem": self.floor,
        }
        if self.kind == "LIF":
            settings["tau_mem"] = torch.full((size,), 5.0)
        if self.single:
            settings["spike_fn"] = SingleSpike
            settings["reset_fn"] = MembraneReset()
        return getattr(layers, f"{self.kind}Squeeze")(**settings)

    def network(self):
        return nn.Sequential(*network_of(self.neurons))

    def run(self, network, events):
        sent = network(events.transpose(0, 1).flatten(0, 1))
        return sent.unflatten(0, (RECORDINGS, STEPS)).transpose(0, 1)

    def graph(self, network):
        from sinabs.nir import to_nir

        network(torch.zeros(RECORDINGS, SIZES[0]))
        graph = to_nir(network, torch.zeros(RECORDINGS, SIZES[0]))
        graph.infer_types()
        for layer in network[1::2]:
            layer.reset_states()
        return graph


def condition(package, simulator, flags=""):
    """Describe neurons of a package, and how they are read beside --like."""
    values = " ".join(str(value) for value in vars(simulator).values())
    return pytest.param(package, simulator, flags, id=f"{package} {values} {flags}")


CONDITIONS = [
    condition("spikingjelly", SpikingJelly("IFNode", v_reset=0.0)),
    condition("spikingjelly", SpikingJelly("IFNode", v_reset=None), "--reset subtract"),
    condition("spikingjelly", SpikingJelly("LIFNode", tau=2.0, v_reset=0.0)),
    condition("spikingjelly", SpikingJelly("LIFNode", tau=2.0, v_reset=None), "--reset subtract"),
    condition("spikingjelly", SpikingJelly("LIFNode", tau=2.0, v_reset=0.0, decay_input=False)),
    condition("snntorch", SnnTorch(0.95, 0.95)),
    condition("snntorch", SnnTorch(0.95, 0.95, reset_mechanism="zero"), "--reset zero"),
    condition("snntorch", SnnTorch(0.95, 0.95, reset_mechanism="none"), "--reset none"),
    condition(
        "snntorch",
        SnnTorch(0.95, 0.95, reset_mechanism="zero", reset_delay=False),
        "--reset zero --no-reset_delay",
    ),
    condition(
        "snntorch",
        SnnTorch(0.95, 0.95, reset_mechanism="none", reset_delay=False),
        "--reset none --no-reset_delay",
    ),
    condition("snntorch", SnnTorch(0.1, 0.9)),
    condition("snntorch", SnnTorch(0.1, 0.9, reset_mechanism="zero"), "--reset zero"),
    condition("snntorch", SnnTorch(0.1, 0.9, reset_mechanism="none"), "--reset none"),
    condition("norse", Norse("LIFBox")),
    condition("norse", Norse("IAF")),
    condition("sinabs", Sinabs("IAF"), "--reset zero"),
    condition("sinabs", Sinabs("LIF"), "--reset zero"),
    condition("sinabs", Sinabs("IAF", floor=-0.5), "--reset zero --membrane_floor 1"),
]


def random_network(simulator, seed):
    """Return a random network, and the graph that the simulator writes of it."""
    torch.manual_seed(seed)
    network = simulator.network()
    with contextlib.redirect_stdout(io.StringIO()):
        graph = simulator.graph(network)
    return network, graph


@torch.no_grad()
@pytest.mark.parametrize(("package", "simulator", "flags"), CONDITIONS)
def test_c_sends_the_spikes_of_the_simulator(tmp_path, monkeypatch, package, simulator, flags):
    pytest.importorskip(package)
    spikes = 0
    for seed in range(SEEDS):
        network, graph = random_network(simulator, seed)
        events = (torch.rand(STEPS, RECORDINGS, SIZES[0]) < 0.5).int()
        expected = simulator.run(network, events.float()).transpose(0, 1).numpy()
        if seed > 0:  # the first folder checks itself, as each does that a user makes
            monkeypatch.setattr(wfeedback.export.c_folder, "check_here", lambda files: "elsewhere")
        folder = tmp_path / str(seed)
        folder.mkdir()

        of_block, of_folder = exported_spikes(
            folder, graph, f"--like {package} {flags}", events.transpose(0, 1)
        )

        assert np.array_equal(of_block, expected), seed
        assert np.array_equal(of_folder, expected), seed
        spikes += expected.sum()
    assert spikes > 0


@torch.no_grad()
@pytest.mark.parametrize("to", ["block", "c"])
@pytest.mark.parametrize(
    ("package", "simulator", "flags"),
    [
        condition("sinabs", Sinabs("IAF", single=False)),
        condition("sinabs", Sinabs("LIF", single=False)),
        condition("snntorch", SnnTorch(0.95, 0.95, reset_delay=False), "--no-reset_delay"),
    ],
)
def test_what_c_does_not_know_is_refused(tmp_path, package, simulator, flags, to):
    pytest.importorskip(package)
    _, graph = random_network(simulator, seed=0)
    nir.write(tmp_path / "net.nir", graph)
    line = refused("export", tmp_path / "net.nir", f"--like {package} {flags} --to {to}")
    assert "which C does not know: it cannot be exported" in line
    assert [path.name for path in tmp_path.iterdir()] == ["net.nir"]
