"""Networks of other simulators, read with --like, against the simulators themselves: no spike differs on a grid."""

import contextlib
import io
import re
from itertools import pairwise

import nir
import numpy as np
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


def differences(build, run, export, shape=SIZES[:1], **reading):
    """(neuron-steps of the last layer in which spikes differ, spikes) of networks on a grid, over seeds."""
    differ = spikes = 0
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        network, events = build(), (torch.rand(STEPS, IMAGES, *shape) < 0.5).float()
        with contextlib.redirect_stdout(io.StringIO()):
            graph = export(network)
        for engine in ("dense", "auto"):
            logits = from_nir(graph, engine=engine, **reading)(
                events.transpose(0, 1)
            ).logits_by_step
            ours, theirs = (
                logits.diff(dim=0, prepend=torch.zeros(1, *logits.shape[1:])),
                run(network, events),
            )
            differ, spikes = differ + int((ours != theirs).sum()), spikes + int(theirs.sum())
    return differ, spikes


def layers(neurons):
    return nn.Sequential(
        *(each for n, m in pairwise(SIZES) for each in (on_grid(nn.Linear(n, m)), neurons(m)))
    )


KINDS = "Leaky", "Synaptic", "RLeaky", "RSynaptic"
SNNTORCH = [
    (kind, reset, delay)
    for kind in KINDS
    for reset in ("subtract", "zero", "none")
    for delay in (True, False)
    if delay or kind != "RSynaptic"
]


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
        return norse.LIFBoxCell(
            norse.LIFBoxParameters(
                torch.full((n,), 500.0), v_th=zeros + 0.25, v_leak=zeros, v_reset=zeros
            )
        )

    def run(network, events):
        state, sent = None, []
        for now in events:
            spikes, state = network(now, state)
            sent.append(spikes)
        return torch.stack(sent)

    build = lambda: norse.SequentialState(*layers(neurons))  # noqa: E731
    differ, spikes = differences(
        build, run, lambda network: to_nir(network, torch.zeros(SIZES[0])), like="norse"
    )
    assert differ == 0 and spikes > 0


@torch.no_grad()
@pytest.mark.parametrize("kind", ["several", "convolutions", "single", "LIF"])
def test_sinabs(kind):
    """Convolutions, a pool and a floor: as public networks for N-MNIST, whose files have lost the floor."""
    pytest.importorskip("sinabs")
    from sinabs.activation import MembraneReset, SingleSpike
    from sinabs.layers import IAFSqueeze, LIFSqueeze, SumPool2d
    from sinabs.nir import to_nir

    shape = (2, 8, 8) if kind == "convolutions" else SIZES[:1]

    def neurons(n=1):
        if kind == "LIF":
            return LIFSqueeze(
                tau_mem=torch.full((n,), 5.0),
                spike_threshold=torch.full((n,), 0.25),
                batch_size=IMAGES,
            )
        single = {"spike_fn": SingleSpike, "reset_fn": MembraneReset()} if kind == "single" else {}
        return IAFSqueeze(
            batch_size=IMAGES, min_v_mem=-1.0 if kind == "convolutions" else None, **single
        )

    def build():
        if kind != "convolutions":
            return layers(neurons)
        conv, linear = (
            on_grid(nn.Conv2d(2, 4, 3, bias=False)),
            on_grid(nn.Linear(36, 6, bias=False)),
        )
        return nn.Sequential(conv, neurons(), SumPool2d(2), nn.Flatten(), linear, neurons())

    def run(network, events):
        for layer in network:
            if hasattr(layer, "reset_states"):
                layer.reset_states()
        return (
            network(events.transpose(0, 1).flatten(0, 1))
            .unflatten(0, (IMAGES, -1))
            .transpose(0, 1)
        )

    def export(network):
        network(torch.zeros(IMAGES, *shape))
        graph = to_nir(network, torch.zeros(IMAGES, *shape))
        graph.infer_types()
        return graph

    own = {"convolutions": {"membrane_floor": 1.0}, "single": {"reset": "zero"}}.get(kind, {})
    differ, spikes = differences(build, run, export, shape, like="sinabs", **own)
    assert differ == 0 and spikes > 0


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
        {name: kinds[name[0]] for pair in pairs for name in pair}, pairs, type_check=False
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
