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
    graph, sent = model.graph, {INPUT: signal}
    propagate(model, run, sent)
    logits = accumulated(run.logits, sent[graph.ends["output"]].to(run.logits.dtype), 1, at_once=model.training)
    begin = {end: (graph.depths[end] - 1) * model.timesteps for end in graph.ends}
    before, after = begin["output"], steps - begin["output"] - len(logits)
    logits = torch.cat([run.logits.expand(before, -1, -1), logits, logits[-1:].expand(after, -1, -1)])
    run.logits = logits[-1]
    decoded, run.steps = [None] * steps, 0
    if model.has_feedback:
        output = sent[graph.ends["decoded"]]
        nothing = torch.zeros_like(output[0])
        decoded = [*[nothing] * begin["decoded"], *output, *[nothing] * (steps - begin["decoded"] - len(output))]
    shown = [model.read_out_and_gate(run, codes) for codes in decoded]
    return stacked(shown) | {"logits": logits, "spikes": counts_by_layer(run, model.layers, steps)}


def propagate(model, run, sent):
    """Fill in sent, name -> what a node sends in the T steps in which its neurons fire, (T, B, ...).

    Neurons spike in the first of these steps, so how often they do, (B, ...), stands for the T steps: in evaluation of all nodes
    before the last neurons, unless operations are counted, for which each step is asked for; else of layers right before neurons.
    """
    graph, steps, counts = model.graph, model.timesteps, {}
    in_numbers = not torch.is_grad_enabled() and run.sent is None
    for node in graph.nodes:
        name, layer, by_step = node.name, node.module, not in_numbers or node.name in graph.last
        is_summed = not by_step or isinstance(layer, SpikingNeuron) or name in graph.before_neurons
        for source in node.sources if is_summed else ():
            if source not in counts:
                counts[source] = sent[source].sum(0)
        first, *more = ((counts if is_summed else sent)[source] for source in node.sources)
        signal = sum(more, first)
        if isinstance(layer, SpikingNeuron):
            begin = graph.depths[name] * steps
            if in_numbers:
                signal = spike_numbers(layer, signal, steps)
                spikes = torch.stack([(signal > t).sum(tuple(range(1, signal.dim()))) for t in range(steps)]).float()
                counts[name] = signal
                sent[name] = torch.stack([signal > t for t in range(steps)]).to(signal.dtype) if by_step else None
            else:
                sent[name] = fired(layer, signal, steps).unflatten(0, (steps, -1))
                spikes = count_events(sent[name])
            run.counts[name] = [(range(begin, begin + steps), spikes)]
        elif is_summed:
            counts[name] = of_counts(layer, signal, steps, run.memory.get(name))
        else:
            sent[name] = of_steps(layer, signal.flatten(0, 1), steps, run.memory.get(name)).unflatten(0, (steps, -1))
        if is_sender(layer) and not in_numbers:
            begin = graph.depths[graph.before_pools(name)] * steps
            run.note(name, sent[name].flatten(0, 1), range(begin, begin + steps))


def of_steps(layer, signal, steps, mask):
    """What a layer without neurons makes of a signal (T B, ...). mask: of a dropout."""
    if passes(layer):
        return signal if mask is None else layer(signal, mask, steps)[0]
    return layer(signal, steps=steps)[0] if isinstance(layer, CountingMaxPool) else layer(signal)


def of_counts(layer, counts, steps, mask):
    """What a layer without neurons makes in all steps, (B, ...), of the sum of its inputs (B, ...)."""
    if passes(layer):
        return counts if mask is None else layer(counts, mask)[0]
    return nn.MaxPool2d.forward(layer, counts) if isinstance(layer, nn.MaxPool2d) else of_all(layer, counts, steps)


def of_all(layer, counts, steps):
    """What a linear layer makes in so many steps, (B, ...), of the sum of its inputs (B, ...)."""
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
