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
    output, events = model(recordings, timesteps, record=dict.fromkeys(model.spiking, "spikes")), torch.zeros(model.input_shape)
    places = torch.cat([torch.as_tensor(rows)[:, 1:] for rows in recordings]).long().T
    sent = {"input": events.index_put(tuple(places), torch.ones(()), accumulate=True) / len(recordings)}
    sent |= {name: output.recorded[name]["spikes"].sum((0, 1)) / len(recordings) for name in model.spiking}
    synops, weights = {}, {}
    for source, counts in sent.items():
        for target, (connections, modules) in connected(model, source).items():
            synops[target] = synops.get(target, 0.0) + (counts * connections).sum().item()
            weights[target] = weights.get(target, set()) | modules
    sizes = {
        name: sum(value.numel() for key, value in node.named_parameters() if key != "bias") for name, node in model.nodes.items()
    }
    shapes = {"input": model.input_shape} | {name: model.shapes[name] for name in model.nodes if name in synops}
    return [
        Entry(
            name, "encoder" if name in synops else "input", prod(shape), sum(sizes[each] for each in weights.get(name, ())),
            spikes=sent[name].sum().item() if name in sent else 0.0, synops=synops.get(name, 0.0),
        )
        for name, shape in shapes.items()
    ]  # fmt: skip


def connected(model, source):
    """Target -> (how many connections each place of a source has to it, modules with weights in between) of neurons, and of the
    output behind weights."""
    names, found = list(model.nodes), {}
    with torch.enable_grad():
        begin = torch.ones(1, *(model.input_shape if source == "input" else model.shapes[source]), requires_grad=True)
        values, behind = ({names[0] if source == "input" else source: each} for each in (begin, set()))
        for name, node in model.nodes.items():
            before = [each for each in (*model.sources[name], *model.back[name]) if each in values]
            if not before or name in values:
                continue
            arriving, behind[name] = sum(values[each] for each in before), set().union(*(behind[each] for each in before))
            if isinstance(node, NIRNeuron) or (name == names[-1] and behind[name]):
                found[name] = torch.autograd.grad(arriving.sum(), begin, retain_graph=True)[0][0], behind[name]
            else:
                values[name] = with_ones(node)(arriving)
                behind[name] |= {name} if list(node.parameters()) else set()
    return found


def with_ones(node):
    """The module with weights of 1, which adds up connections."""
    node = copy.deepcopy(node)
    for parameter in node.parameters():
        parameter.data.fill_(1)
    if isinstance(node, Pool):
        node.mean = False
    return node
