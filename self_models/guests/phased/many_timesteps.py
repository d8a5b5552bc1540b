"""All timesteps of a phased network at once: what a layer sends in its T steps follows from one product, on how often its inputs
have spiked."""

import functools
import operator

import torch

from self_models.engines.dense.neuron_steps import accumulate_logits, count_events, counts_by_layer
from self_models.engines.dense.run import encode_input, run_module
from self_models.guests.phased.timing import schedule_of
from self_models.layers.neurons import SpikingNeuron
from self_models.layers.node_kinds import has_state, is_sender
from self_models.runtime.loop import stack_outputs
from self_models.runtime.outputs import INPUT


def advance_phased(model, run, draws):
    """All steps of a phased network's run, in place. draws: (steps, B, C, H, W). Returns what they show, with pictures."""
    graph, steps, times = model.graph, len(draws), model.timesteps
    depths = schedule_of(graph).depths
    sent = {
        INPUT: torch.stack([*encode_input(model, run, draws[:times])])
    }  # in memory, since sums over steps round by layout
    propagate_phases(model, run, sent)

    def in_its_phase(end, before, after):
        """The T steps in which an end is reached, with what holds before and after them: all steps."""
        begin = (depths[end] - 1) * times
        return [*[before] * begin, *sent[end], *[after] * (steps - begin - times)]

    sent["output"] = accumulate_logits(
        run.logits, sent[graph.ends["output"]].to(run.logits.dtype), 1, at_once=model.training
    )
    logits = torch.stack(in_its_phase("output", run.logits, sent["output"][-1]))
    run.logits, decoded = logits[-1], [None] * steps
    if model.has_feedback:
        sent["decoded"] = sent[graph.ends["decoded"]]
        nothing = torch.zeros_like(sent["decoded"][0])
        decoded = in_its_phase("decoded", nothing, nothing)
    shown = [model.read_out_and_gate(run, codes) for codes in decoded]
    return stack_outputs(shown) | {
        "logits": logits,
        "spikes": counts_by_layer(run, model.layers, steps),
    }


def propagate_phases(model, run, sent):
    """Fill in sent, name -> what a node sends in the T steps in which its neurons fire, (T, B, ...). Neurons charge in T steps,
    then fire: so layers that lead to nothing but neurons run once, on the sum of what arrives in these steps."""
    graph, steps, sums = model.graph, model.timesteps, {}
    schedule = schedule_of(graph)
    for name, layer, sources, _ in graph.nodes:
        begin = schedule.depths[graph.before_pools(name)] * steps if is_sender(layer) else 0
        phase, is_neuron = range(begin, begin + steps), isinstance(layer, SpikingNeuron)
        if is_neuron or name in schedule.before_neurons:
            totals = (
                sums[source] if source in sums else sent[source].sum(0) for source in sources
            )
            arriving = functools.reduce(operator.add, totals)
            if is_neuron:
                spikes = layer.fired(arriving, steps)
                sent[name] = spikes.unflatten(0, (steps, -1))
                run.counts[name] = [(phase, count_events(sent[name]))]
                run.log_activity(name, spikes, phase)
            else:
                sums[name] = of_sum(layer, arriving, steps, run.graph_state.masks.get(name))
        else:
            arriving = functools.reduce(operator.add, (sent[source] for source in sources))
            sent[name] = run_module(run, name, layer, arriving.flatten(0, 1), phase)


def of_sum(layer, signal, steps, mask):
    """What a linear layer, or a dropout with this mask, makes in so many steps, (B, ...), of the sum of its inputs (B, ...)."""
    if has_state(layer):
        return layer(signal, mask)[0]
    drive = layer(signal)
    if (bias := getattr(layer, "bias", None)) is not None:
        drive = drive + (steps - 1) * bias.view(-1, *[1] * (drive.dim() - 2))
    return drive
