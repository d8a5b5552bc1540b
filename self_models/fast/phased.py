"""A phased network's run: what a layer sends in its T steps follows from one product, on how often its inputs have spiked."""

import torch
from torch import nn

from self_models.fast.neuron_steps import accumulated, count_events, counts_by_layer
from self_models.network.graph import is_sender, passes
from self_models.network.neurons import CountingMaxPool, SpikingNeuron
from self_models.running.outputs import INPUT
from self_models.running.steps import show_image, stacked


def advance(model, run, draws):
    """All steps of a run, in place. draws: (steps, B, C, H, W). Returns what they show, with pictures."""
    steps, signal = len(draws), []
    for step, u in enumerate(draws[: model.timesteps]):
        show_image(model, run, run.shown_now())
        signal.append(model.encoding.send(run.view.unexplained(), u))
        run.counts.setdefault(INPUT, []).append(([step], count_events(run.view.sent(signal[-1])[None])))
        run.steps += 1
    signal = torch.stack(signal)
    run.note(INPUT, signal.flatten(0, 1), range(len(signal)))
    graph, shared = model.graph, []
    if model.has_feedback:
        of_decoder = {node.name for node in graph.needed("decoded")}
        shared = [node for node in graph.needed("output") if node.name in of_decoder]
    forked = through(model, run, shared, signal, 0)
    drives, begin = through(model, run, [node for node in graph.needed("output") if node not in shared], *forked)
    logits = accumulated(run.logits, drives.to(run.logits.dtype), 1, at_once=model.training)
    logits = torch.cat([run.logits.expand(begin, -1, -1), logits, logits[-1:].expand(steps - begin - len(logits), -1, -1)])
    run.logits = logits[-1]
    decoded, run.steps = [None] * steps, 0
    if model.has_feedback:
        output, begin = through(model, run, [node for node in graph.needed("decoded") if node not in shared], *forked)
        nothing = torch.zeros_like(output[0])
        decoded = [*[nothing] * begin, *output, *[nothing] * (steps - begin - len(output))]
    shown = [model.read_out_and_gate(run, codes) for codes in decoded]
    return stacked(shown) | {"logits": logits, "spikes": counts_by_layer(run, model.layers, steps)}


def through(model, run, nodes, signal, begin):
    """(what comes out of these nodes, one after the other, (T, B, ...), the first step in which it does) for a signal
    (T, B, ...) that begins in this one.

    A layer's neurons spike in the first of its steps, so in evaluation how often they do, (B, ...), stands for the T steps, up to
    the last neurons; where operations are counted each step is asked for.
    """
    steps = len(signal)
    neurons = [node.name for node in nodes if isinstance(node.module, SpikingNeuron)]
    as_numbers = bool(neurons) and not torch.is_grad_enabled() and run.sent is None
    signal = signal.sum(0) if as_numbers else signal.flatten(0, 1)
    for node, after in zip(nodes, [*(node.module for node in nodes[1:]), None], strict=False):
        key, layer = node.name, node.module
        if passes(layer):
            if key in run.memory:
                signal, _ = layer(signal, run.memory[key], steps)
            continue
        if isinstance(layer, SpikingNeuron):
            begin += steps
            if as_numbers:
                signal = spike_numbers(layer, signal, steps)
                counts = torch.stack([(signal > t).sum(tuple(range(1, signal.dim()))) for t in range(steps)]).float()
                if as_numbers := key != neurons[-1]:
                    run.counts[key] = [(range(begin, begin + steps), counts)]
                    continue
                signal = torch.cat([signal > t for t in range(steps)]).to(signal.dtype)
            else:
                signal = fired(layer, signal, steps)
                counts = count_events(signal.unflatten(0, (steps, -1)))
            run.counts[key] = [(range(begin, begin + steps), counts)]
        elif as_numbers:
            signal = nn.MaxPool2d.forward(layer, signal) if isinstance(layer, nn.MaxPool2d) else of_all(layer, signal, steps)
        elif isinstance(after, SpikingNeuron):
            signal = of_all(layer, signal.unflatten(0, (steps, -1)).sum(0), steps)
        elif isinstance(layer, CountingMaxPool):
            signal, _ = layer(signal, steps=steps)
        else:
            signal = layer(signal)
        if is_sender(layer) and not as_numbers:
            run.note(key, signal, range(begin, begin + steps))
    return signal.unflatten(0, (steps, -1)), begin


def of_all(layer, counts, steps):
    """What a layer makes in so many steps, (B, ...), of the sum of its inputs (B, ...)."""
    drive = layer(counts)
    if (bias := getattr(layer, "bias", None)) is not None:
        drive = drive + (steps - 1) * bias.view(-1, *[1] * (drive.dim() - 2))
    return drive


def spike_numbers(neuron, drive, steps):
    """How often the neurons of a PhasedNeuron that has got this drive (B, ...) spike: clip(ceil(V/theta) - 1, 0, T)."""
    v = drive.to(neuron.threshold.dtype) / neuron.threshold
    return v.add_(neuron.initial_potential - 1).ceil_().clamp_(0, steps)


def fired(neuron, drive, steps):
    """The spikes (steps B, ...) of the same, as the network's step says."""
    drive = drive.to(neuron.threshold.dtype)  # float32 where matrix products are bfloat16
    own, spikes = (neuron.threshold, neuron.leak, neuron.spike), []
    _, v = neuron.update(drive, neuron.at_rest(drive).v, *own, phase=0)
    for _ in range(steps):
        now, v = neuron.update(drive, v, *own, phase=1)
        spikes.append(now)
    return torch.cat(spikes)
