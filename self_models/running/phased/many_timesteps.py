"""All timesteps of a phased network at once.

What a layer sends in the T timesteps of its phase follows from the sum of what arrives
while it charges. So layers that lead to nothing but neurons are computed once, on that
sum, and not in each timestep.
"""

import functools
import operator

import torch
from torch import nn

from self_models.networks.node_kinds import has_state, is_sender
from self_models.neurons.spiking import SpikingNeuron
from self_models.running.dense.neuron_steps import accumulate_logits, count_events, counts_by_layer
from self_models.running.dense.run import encode_input, run_module
from self_models.running.loop import stack_outputs
from self_models.running.outputs import INPUT
from self_models.running.phased.schedule import schedule_of
from self_models.running.state import RunState


def advance_phased(model, run: RunState, draws: torch.Tensor) -> dict[str, torch.Tensor]:
    """Take all timesteps of a run at once, in place.

    A phase is T timesteps. In the first one the input sends, and in phase d the neurons
    at depth d fire, d links behind the input. An end of the graph at depth d, the
    logits or the decoder's output, gets signals from depth d - 1, and so in phase
    d - 1, counted from 0.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
        A phased network.
    run : RunState
        At rest; it is changed.
    draws : Tensor of shape (steps, B, C, H, W)
        Draws of the input for all timesteps of all phases. The input sends in the first
        phase alone.

    Returns
    -------
    dict of {str: Tensor of shape (steps, B, ...)}
        Outputs of every timestep, with pictures; see self_models/running/loop.py.
    """
    graph = model.graph
    num_steps = len(draws)
    phase_length = model.timesteps
    depths = schedule_of(graph).depths
    # In memory, not as a view of one image: sums over timesteps round by layout
    input_signal = torch.stack([*encode_input(model, run, draws[:phase_length])])
    node_outputs = {INPUT: input_signal}
    propagate_phases(model, run, node_outputs)  # fills in what all other nodes send

    # Before their phase the logits are those at rest, and after it they stay.
    currents = node_outputs[graph.ends["output"]].to(run.logits.dtype)
    growing = accumulate_logits(run.logits, currents, leak=1, at_once=model.training)
    steps_before = (depths["output"] - 1) * phase_length
    logits = torch.stack(
        fill_phases(growing, steps_before, num_steps, before=run.logits, after=growing[-1])
    )
    run.logits = logits[-1]

    # Outside of its phase nothing arrives from the decoder.
    decoded = [None] * num_steps
    if model.has_feedback:
        codes = node_outputs[graph.ends["decoded"]]
        nothing = torch.zeros_like(codes[0])
        steps_before = (depths["decoded"] - 1) * phase_length
        decoded = fill_phases(codes, steps_before, num_steps, before=nothing, after=nothing)
    # Each call changes the run, from which the next one goes on: in order of timesteps.
    outputs_by_step = []
    for code in decoded:
        outputs_by_step.append(model.read_out_and_gate(run, code))
    outputs = stack_outputs(outputs_by_step)
    outputs["logits"] = logits
    outputs["spikes"] = counts_by_layer(run, model.layers, num_steps)
    return outputs


def fill_phases(
    values: torch.Tensor,
    steps_before: int,
    num_steps: int,
    before: torch.Tensor,
    after: torch.Tensor,
) -> list[torch.Tensor]:
    """Return the values of an end in all timesteps, from those of its own phase.

    Parameters
    ----------
    values : Tensor of shape (T, B, ...)
        What it has in the phase in which signals reach it.
    steps_before : int
        Timesteps before that phase.
    num_steps : int
        Timesteps in all.
    before, after : Tensor of shape (B, ...)
        What it has in each timestep before that phase, and after it.

    Returns
    -------
    list of Tensor of shape (B, ...)
        Of each timestep.
    """
    steps_after = num_steps - steps_before - len(values)
    return [before] * steps_before + [*values] + [after] * steps_after


def propagate_phases(model, run: RunState, node_outputs: dict[str, torch.Tensor]) -> None:
    """Run all nodes of a phased network once, each for the T timesteps of its phase.

    A layer of neurons first charges for T timesteps, and only then fires. So its spikes
    depend on the sum of the currents over these T timesteps, not on their order. A
    linear layer makes of a sum the sum of what it makes of each timestep, up to its
    bias. So wherever a linear layer leads to nothing but neurons, it runs once on the
    sum over timesteps, (B, ...), in place of T times. Other nodes, such as maximum
    pools and layers before the logits, run on all T timesteps.

    Parameters
    ----------
    model : VGG_SNN_STDB_wFeedback
        A phased network.
    run : RunState
        It is changed: its counts of spikes, states of layers and logged activity.
    node_outputs : dict of {str: Tensor of shape (T, B, ...)}
        What each node sends in the timesteps in which its neurons fire. At first it has
        "input" alone. The others are added, but for the layers that run on sums.
    """
    graph = model.graph
    phase_length = model.timesteps
    schedule = schedule_of(graph)  # in which phase a layer fires, and what runs on sums
    sums = {}  # (B, ...) of nodes that run on sums: what they send in T timesteps together
    for node in graph.nodes:  # sources come before targets
        name = node.name
        layer = node.module
        if isinstance(layer, SpikingNeuron):
            charge = add_up([sum_of(source, sums, node_outputs) for source in node.sources])
            phase = phase_of_sender(model, name)
            node_outputs[name] = fire_in_phase(run, name, layer, charge, phase)
        elif name in schedule.before_neurons:
            total = add_up([sum_of(source, sums, node_outputs) for source in node.sources])
            sums[name] = apply_to_sum(layer, total, phase_length, run.graph_state.masks.get(name))
        else:
            signal = add_up([node_outputs[source] for source in node.sources])
            phase = range(phase_length)  # a linear layer logs nothing: any T numbers do
            if is_sender(layer):  # a maximum pool logs in which timesteps it sends
                phase = phase_of_sender(model, name)
            node_outputs[name] = run_module(run, name, layer, signal.flatten(0, 1), phase)


def add_up(signals: list[torch.Tensor]) -> torch.Tensor:
    """Return the sum of signals of one shape, added from left to right."""
    return functools.reduce(operator.add, signals)


def phase_of_sender(model, name: str) -> range:
    """Return the timesteps in which neurons, or the neurons before a pool, fire."""
    graph = model.graph
    depth = schedule_of(graph).depths[graph.before_pools(name)]  # number of the phase
    first_step = depth * model.timesteps
    return range(first_step, first_step + model.timesteps)


def fire_in_phase(
    run: RunState, name: str, layer: SpikingNeuron, charge: torch.Tensor, phase: range
) -> torch.Tensor:
    """Return the spikes of neurons, and note them in the run.

    Parameters
    ----------
    run : RunState
        Its counts and its log of activity are changed.
    name : str
        Name of the neurons.
    layer : PhasedNeuron
        The neurons.
    charge : Tensor of shape (B, ...)
        Sum of all currents that arrive while they charge.
    phase : range
        The T timesteps in which they fire.

    Returns
    -------
    Tensor of shape (T, B, ...)
        0 or 1.
    """
    spikes = layer.fired(charge, len(phase))  # (T B, ...)
    by_timestep = spikes.unflatten(0, (len(phase), -1))
    run.counts[name] = [(phase, count_events(by_timestep))]
    run.log_activity(name, spikes, phase)
    return by_timestep


def sum_of(
    source: str, sums: dict[str, torch.Tensor], node_outputs: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Return the sum over timesteps of what a node sends."""
    if source in sums:
        return sums[source]
    return node_outputs[source].sum(0)


def apply_to_sum(
    layer: nn.Module, total: torch.Tensor, steps: int, mask: torch.Tensor | None
) -> torch.Tensor:
    """Return the sum of what a layer makes of signals, from the sum of the signals.

    Parameters
    ----------
    layer : nn.Module
        A linear layer, or a dropout.
    total : Tensor of shape (B, ...)
        The sum of its inputs.
    steps : int
        How many inputs these are; a bias counts for each.
    mask : Tensor or None
        Mask of a dropout.

    Returns
    -------
    Tensor of shape (B, ...)
    """
    if has_state(layer):
        return layer(total, mask)[0]
    result = layer(total)
    bias = getattr(layer, "bias", None)
    if bias is None:
        return result
    # The layer has added its bias once
    return result + (steps - 1) * bias.view(-1, *[1] * (result.dim() - 2))
