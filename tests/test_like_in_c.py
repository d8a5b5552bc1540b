"""Networks of other simulators, exported to C by the flags of their convention, against the simulators themselves: no spike differs.

Twenty random networks for each condition, as a block that one program opens, and as a folder of C."""

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

import harness.exporting.c_folder

pytestmark = [
    pytest.mark.others,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler, cc"),
]
SIZES, STEPS, RECORDINGS, SEEDS = (5, 6, 6), 30, 2, 20


def network_of(neurons):
    """Layers with weights that are multiples of 1/16, each with what neurons(number) gives behind it."""
    layers = []
    for before, after in pairwise(SIZES):
        linear = nn.Linear(before, after)
        for parameter in linear.parameters():
            parameter.data = (torch.rand_like(parameter) * 32 - 16).round() / 16
        layers += [linear, neurons(after)]
    return layers


class SpikingJelly:
    """v_reset=None is in no file, since SpikingJelly does not write one: the file is that of v_reset=0.0."""

    def __init__(self, kind, **settings):
        self.kind, self.settings = kind, settings

    def neurons(self, count, **more):
        from spikingjelly.activation_based import neuron

        return getattr(neuron, self.kind)(v_threshold=0.5, **self.settings | more)

    def network(self):
        return nn.Sequential(*network_of(self.neurons))

    def run(self, network, events):
        return torch.stack([network(now) for now in events])

    def graph(self, network):
        from spikingjelly.activation_based.nir_exchange import export_to_nir

        written = [
            self.neurons(0, v_reset=0.0) if hasattr(layer, "v_threshold") else layer
            for layer in network
        ]
        return export_to_nir(nn.Sequential(*written), torch.zeros(1, SIZES[0]))


class SnnTorch:
    """Leaky with one beta, or, where beta is a pair, with one for each neuron, between the two."""

    def __init__(self, beta, **settings):
        self.beta, self.settings = beta, settings

    def neurons(self, count):
        from snntorch import Leaky

        low, high = self.beta if isinstance(self.beta, tuple) else (self.beta, self.beta)
        betas = low + (high - low) * torch.rand(count)
        return Leaky(betas, threshold=torch.ones(count), init_hidden=True, **self.settings)

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
    def __init__(self, kind):
        self.kind = kind

    def neurons(self, count):
        import norse.torch as norse

        ones = torch.ones(count)
        if self.kind == "IAF":
            return norse.IAFCell(norse.IAFParameters(ones))
        own = norse.LIFBoxParameters(500 * ones, v_th=ones / 4, v_leak=0 * ones, v_reset=0 * ones)
        return norse.LIFBoxCell(own)

    def network(self):
        import norse.torch as norse

        return norse.SequentialState(*network_of(self.neurons))

    def run(self, network, events):
        state, sent = None, []
        for now in events:
            spikes, state = network(now, state)
            sent.append(spikes)
        return torch.stack(sent)

    def graph(self, network):
        from norse.torch.utils.export_nir import to_nir

        return to_nir(network, torch.zeros(SIZES[0]))


class Sinabs:
    """One spike in a timestep at most, and a reset to 0; floor: lowest V."""

    def __init__(self, kind, single=True, floor=None):
        self.kind, self.single, self.floor = kind, single, floor

    def neurons(self, count):
        from sinabs import layers
        from sinabs.activation import MembraneReset, SingleSpike

        own = {"spike_threshold": torch.full((count,), 0.5), "batch_size": RECORDINGS}
        if self.kind == "LIF":
            own["tau_mem"] = torch.full((count,), 5.0)
        if self.single:
            own |= {"spike_fn": SingleSpike, "reset_fn": MembraneReset()}
        return getattr(layers, f"{self.kind}Squeeze")(min_v_mem=self.floor, **own)

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


LIKE = {  # simulator and neurons -> flags
    "spikingjelly": [
        (SpikingJelly("IFNode", v_reset=0.0), ""),
        (SpikingJelly("IFNode", v_reset=None), "--reset subtract"),
        (SpikingJelly("LIFNode", tau=2.0, v_reset=0.0), ""),
        (SpikingJelly("LIFNode", tau=2.0, v_reset=None), "--reset subtract"),
        (SpikingJelly("LIFNode", tau=2.0, v_reset=0.0, decay_input=False), ""),
    ],
    "snntorch": [
        (SnnTorch(0.95), ""),
        (SnnTorch(0.95, reset_mechanism="zero"), "--reset zero"),
        (SnnTorch(0.95, reset_mechanism="none"), "--reset none"),
        (
            SnnTorch(0.95, reset_mechanism="zero", reset_delay=False),
            "--reset zero --no-reset_delay",
        ),
        (
            SnnTorch(0.95, reset_mechanism="none", reset_delay=False),
            "--reset none --no-reset_delay",
        ),
        (SnnTorch((0.1, 0.9)), ""),
        (SnnTorch((0.1, 0.9), reset_mechanism="zero"), "--reset zero"),
        (SnnTorch((0.1, 0.9), reset_mechanism="none"), "--reset none"),
    ],
    "norse": [(Norse("LIFBox"), ""), (Norse("IAF"), "")],
    "sinabs": [
        (Sinabs("IAF"), "--reset zero"),
        (Sinabs("LIF"), "--reset zero"),
        (Sinabs("IAF", floor=-0.5), "--reset zero --membrane_floor 1"),
    ],
}
CONDITIONS = []
for package, cases in LIKE.items():
    for simulated, flags in cases:
        name = " ".join(map(str, [package, *vars(simulated).values(), flags]))
        CONDITIONS.append(pytest.param(package, simulated, flags, id=name))


def written(simulated, seed):
    """(a random network, what the simulator writes of it)"""
    torch.manual_seed(seed)
    network = simulated.network()
    with contextlib.redirect_stdout(io.StringIO()):
        return network, simulated.graph(network)


@torch.no_grad()
@pytest.mark.parametrize(("package", "simulated", "flags"), CONDITIONS)
def test_c_sends_the_spikes_of_the_simulator(tmp_path, monkeypatch, package, simulated, flags):
    """The first folder checks itself, too, as each does that a user makes."""
    pytest.importorskip(package)
    spikes = 0
    for seed in range(SEEDS):
        network, graph = written(simulated, seed)
        events = (torch.rand(STEPS, RECORDINGS, SIZES[0]) < 0.5).int()
        wanted = simulated.run(network, events.float()).transpose(0, 1).numpy()
        if seed:
            monkeypatch.setattr(
                harness.exporting.c_folder, "check_here", lambda files: "elsewhere"
            )
        folder = tmp_path / str(seed)
        folder.mkdir()
        of_block, of_folder = exported_spikes(
            folder, graph, f"--like {package} {flags}", events.transpose(0, 1)
        )
        assert np.array_equal(of_block, wanted), seed
        assert np.array_equal(of_folder, wanted), seed
        spikes += wanted.sum()
    assert spikes > 0


REFUSED = [
    pytest.param("sinabs", Sinabs("IAF", single=False), "", id="sinabs-IAF"),
    pytest.param("sinabs", Sinabs("LIF", single=False), "", id="sinabs-LIF"),
    pytest.param(
        "snntorch", SnnTorch(0.95, reset_delay=False), "--no-reset_delay", id="snntorch-subtract"
    ),
]


@torch.no_grad()
@pytest.mark.parametrize("to", ["block", "c"])
@pytest.mark.parametrize(("package", "simulated", "flags"), REFUSED)
def test_what_c_does_not_know_is_refused(tmp_path, package, simulated, flags, to):
    pytest.importorskip(package)
    nir.write(tmp_path / "net.nir", written(simulated, 0)[1])
    line = refused("export", tmp_path / "net.nir", f"--like {package} {flags} --to {to}")
    assert "which C does not know: it cannot be exported" in line
    assert [path.name for path in tmp_path.iterdir()] == ["net.nir"]
