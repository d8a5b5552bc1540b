"""Networks of other simulators, read with --like, against the simulators themselves: no spike differs on a grid."""

import contextlib
import io
from itertools import pairwise

import nir
import pytest
import torch
from torch import nn

from self_models import ModelError, from_nir

pytestmark = [pytest.mark.others, pytest.mark.filterwarnings("ignore")]
SIZES, STEPS, IMAGES, SEEDS = (5, 6, 6), 30, 2, 10


def on_grid(module):
    for parameter in module.parameters():
        parameter.copy_((torch.rand_like(parameter) * 32 - 16).round() / 16)
    return module


def differences(build, run, export, **reading):
    """(neuron-steps of the last layer in which spikes differ, spikes) of networks of two layers on a grid, over seeds."""
    differ = spikes = 0
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        network, events = build(), (torch.rand(STEPS, IMAGES, SIZES[0]) < 0.5).float()
        with contextlib.redirect_stdout(io.StringIO()):
            graph = export(network)
        for engine in ("dense", "auto"):
            logits = from_nir(graph, engine=engine, **reading)(events.transpose(0, 1)).logits_by_step
            ours, theirs = logits.diff(dim=0, prepend=torch.zeros(1, *logits.shape[1:])), run(network, events)
            differ, spikes = differ + int((ours != theirs).sum()), spikes + int(theirs.sum())
    return differ, spikes


def layers(neurons):
    return nn.Sequential(*(each for n, m in pairwise(SIZES) for each in (on_grid(nn.Linear(n, m)), neurons(m))))


KINDS = "Leaky", "Synaptic", "RLeaky", "RSynaptic"
SNNTORCH = [(kind, reset, delay) for kind in KINDS for reset in ("subtract", "zero", "none") for delay in (True, False)
            if delay or kind != "RSynaptic"]  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize(("kind", "reset", "delay"), SNNTORCH)
def test_snntorch_with_every_reset(kind, reset, delay):
    """Its defaults are subtract and True; RSynaptic's own code fails without delay."""
    pytest.importorskip("snntorch")
    import snntorch
    from snntorch.export_nir import export_to_nir

    def neurons(n):
        decays = [torch.full((n,), 0.5)] * (2 if "Syn" in kind else 1)
        own = {"linear_features": n} if kind[0] == "R" else {}
        more = {} if kind == "RSynaptic" else {"reset_delay": delay}
        new = getattr(snntorch, kind)(*decays, threshold=torch.ones(n), init_hidden=True, reset_mechanism=reset, **own, **more)
        on_grid(getattr(new, "recurrent", nn.Identity()))
        return new

    def run(network, events):
        for layer in network[1::2]:
            layer.mem = layer.syn = layer.spk = torch.zeros(IMAGES, SIZES[-1])
        return torch.stack([network(now) for now in events])

    found = {} if (reset, delay) == ("subtract", True) else {"reset": reset, "reset_delay": delay}
    export = lambda network: export_to_nir(network, torch.zeros(1, SIZES[0]), ignore_dims=[0])  # noqa: E731
    differ, spikes = differences(lambda: layers(neurons), run, export, like="snntorch", **found)
    assert differ == 0 and spikes > 0


@torch.no_grad()
@pytest.mark.parametrize("kind", ["IFNode", "LIFNode", "ParametricLIFNode"])
def test_spikingjelly(kind):
    pytest.importorskip("spikingjelly")
    from spikingjelly.activation_based import functional, neuron
    from spikingjelly.activation_based.nir_exchange import export_to_nir

    def run(network, events):
        functional.reset_net(network)
        return torch.stack([network(now) for now in events])

    neurons = lambda n: getattr(neuron, kind)(v_reset=0.0, v_threshold=0.25)  # noqa: E731
    export = lambda network: export_to_nir(network, torch.zeros(1, SIZES[0]))  # noqa: E731
    differ, spikes = differences(lambda: layers(neurons), run, export, like="spikingjelly")
    assert differ == 0 and spikes > 0


@torch.no_grad()
@pytest.mark.parametrize("kind", ["IAF", "LIFBox"])
def test_norse(kind):
    pytest.importorskip("norse")
    import norse.torch as norse
    from norse.torch.utils.export_nir import to_nir

    def neurons(n):
        if kind == "IAF":
            return norse.IAFCell(norse.IAFParameters(torch.ones(n)))
        zeros = torch.zeros(n)
        return norse.LIFBoxCell(norse.LIFBoxParameters(torch.full((n,), 500.0), v_th=zeros + 0.25, v_leak=zeros, v_reset=zeros))

    def run(network, events):
        state, sent = None, []
        for now in events:
            spikes, state = network(now, state)
            sent.append(spikes)
        return torch.stack(sent)

    build = lambda: norse.SequentialState(*layers(neurons))  # noqa: E731
    differ, spikes = differences(build, run, lambda network: to_nir(network, torch.zeros(SIZES[0])), like="norse")
    assert differ == 0 and spikes > 0


@torch.no_grad()
@pytest.mark.parametrize("kind", ["several", "floor", "single", "LIF"])
def test_sinabs(kind):
    pytest.importorskip("sinabs")
    from sinabs.activation import MembraneReset, SingleSpike
    from sinabs.layers import IAFSqueeze, LIFSqueeze
    from sinabs.nir import to_nir

    def neurons(n):
        if kind == "LIF":
            return LIFSqueeze(tau_mem=torch.full((n,), 5.0), spike_threshold=torch.full((n,), 0.25), batch_size=IMAGES)
        single = {"spike_fn": SingleSpike, "reset_fn": MembraneReset()} if kind == "single" else {}
        return IAFSqueeze(batch_size=IMAGES, min_v_mem=-1.0 if kind == "floor" else None, **single)

    def run(network, events):
        for layer in network[1::2]:
            layer.reset_states()
        return network(events.transpose(0, 1).flatten(0, 1)).unflatten(0, (IMAGES, -1)).transpose(0, 1)

    def export(network):
        network(torch.zeros(IMAGES, SIZES[0]))
        graph = to_nir(network, torch.zeros(IMAGES, SIZES[0]))
        graph.infer_types()
        return graph

    own = {"floor": {"membrane_floor": 1.0}, "single": {"reset": "zero"}}.get(kind, {})
    differ, spikes = differences(lambda: layers(neurons), run, export, like="sinabs", **own)
    assert differ == 0 and spikes > 0


def test_what_a_file_does_not_say_is_noticed():
    """Time constants of another timestep; a beta of 1; a sum that snnTorch's exporter has lost."""
    linear = nir.Linear(torch.ones(1, 1).numpy())

    def read(tau, r, **own):
        values = [torch.tensor([each]).numpy() for each in (tau, r, 0.0, 1.0)]
        nodes = {"input": nir.Input([1]), "0": linear, "1": nir.LIF(*values), "output": nir.Output([1])}
        return from_nir(nir.NIRGraph(nodes, [("input", "0"), ("0", "1"), ("1", "output")], type_check=False), **own)

    with pytest.warns(UserWarning, match=r"written for timesteps of 0.1 ms: --dt 0.0001, or --like snntorch"):
        read(2e-3, 20.0)
    neuron = read(float("inf"), float("inf"), like="snntorch").graph.modules["1"]
    assert (neuron.gain, neuron.leak) == (1, 1)
    with pytest.raises(ModelError, match="like: unknown name 'brian'"):
        read(2e-3, 20.0, like="brian")
