"""The energy ledger of somebody's network: what a GraphSNN does for one recording, event by event."""

import copy
from math import prod

import torch

from self_models.counting.ledger import Entry
from self_models.network.nodes import NIRNeuron, Pool


@torch.no_grad()
def graph_entries(model, recordings, timesteps):
    """The Entries of a GraphSNN's input, of its neurons, and of its output where weights lead to it: means over these recordings,
    as the model takes them. synops: additions, of each event that a node sends one for each connection that it has."""
    output = model(recordings, timesteps, record=dict.fromkeys(model.spiking, "spikes"))
    events = torch.zeros(model.input_shape).index_put(
        tuple(torch.cat([torch.as_tensor(rows) for rows in recordings])[:, 1:].long().T), torch.ones(()), accumulate=True
    )
    sent = {"input": events / len(recordings)}
    sent |= {name: output.recorded[name]["spikes"].sum((0, 1)) / len(recordings) for name in model.spiking}
    units, synops = {name: unit_of(node) for name, node in model.nodes.items()}, {}
    for source, counts in sent.items():
        for target, connections in reached(model, units, source).items():
            synops[target] = synops.get(target, 0.0) + (counts * connections).sum().item()
    entries = [Entry("input", "input", prod(model.input_shape), spikes=sent["input"].sum().item())]
    for name, node in model.nodes.items():
        if isinstance(node, NIRNeuron) or name in synops:
            spikes = sent[name].sum().item() if name in sent else 0.0
            neurons, weights = prod(model.shapes[name]), weights_before(model, name)
            entries.append(Entry(name, "encoder", neurons, weights, spikes=spikes, synops=synops.get(name, 0.0)))
    return entries


def unit_of(node):
    """The module with weights of 1: it adds up how many connections lead where."""
    unit = copy.deepcopy(node)
    for parameter in unit.parameters():
        parameter.fill_(1)
    if isinstance(unit, Pool):
        unit.mean = False
    return unit


def reached(model, units, source):
    """Target -> how many connections each place of a source has to it; targets are neurons, and the output behind weights."""
    names, found = list(model.nodes), {}
    with torch.enable_grad():
        begin = torch.ones(1, *(model.input_shape if source == "input" else model.shapes[source]), requires_grad=True)
        values, weighted = {names[0] if source == "input" else source: begin}, set()
        for name in names:
            before = [each for each in (*model.sources[name], *model.back[name]) if each in values]
            if not before or name in values:
                continue
            arriving = sum(values[each] for each in before)
            if any(each in weighted for each in before) or any(True for _ in units[name].parameters()):
                weighted.add(name)
            if isinstance(units[name], NIRNeuron) or (name == names[-1] and name in weighted):
                (found[name],) = torch.autograd.grad(arriving.sum(), begin, retain_graph=True)
            else:
                values[name] = units[name](arriving)
    return {name: connections[0] for name, connections in found.items()}


def weights_before(model, name):
    """How many weights lead to a node, from the neurons before it."""
    count, waiting = 0, [*model.sources[name], *model.back[name]]
    while waiting:
        each = waiting.pop()
        if not isinstance(model.nodes[each], NIRNeuron):
            count += sum(parameter.numel() for key, parameter in model.nodes[each].named_parameters() if key != "bias")
            waiting += [*model.sources[each], *model.back[each]]
    return count
