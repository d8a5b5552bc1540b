"""Steps of a run that a layer takes as one batch, as far as no prediction comes in between: what the model's step() says."""

import torch

from self_models.fast import phased
from self_models.fast.folded_chain import folded
from self_models.fast.neuron_steps import UPDATES, accumulated, count_events, counts_by_layer, neuron_steps
from self_models.network.graph import has_state, is_sender, passes
from self_models.network.neurons import SpikingNeuron
from self_models.network.stages import LINEAR
from self_models.running.outputs import INPUT
from self_models.running.steps import show_image, stacked


def can_run(model):
    """True if the model's steps can be taken at once; else step() runs it."""
    updates = {neuron.update for neuron in model.neurons().values()}
    if model.is_custom or model.unknown:
        return False
    return model.graph.ends.keys().isdisjoint(model.graph.early) if model.phased else updates <= {*UPDATES}


def prepared(model, x):
    """The graph's nodes for images x, chains of the decoder's linear layers folded into one where that pays: in evaluation for
    one signal, so that the same layers are folded in any batch, and in a stream. A phased network's decoder runs once an image:
    it is left."""
    nodes = model.graph.nodes
    if not model.has_feedback or model.phased:
        return nodes
    signals = len(x) * model.timesteps if model.training else 1
    return folded(nodes, model.graph.ends["decoded"], signals, x.shape[2:])


def advance(model, run, draws):
    """T steps, in place. draws: uniform in [0, 1), (T, B, C, H, W). Returns what they show, with pictures.

    A layer takes all steps as one batch, but for those that the decoder needs where the gate makes the input of a step depend on
    the prediction of the step before.
    """
    if model.phased:
        return phased.advance(model, run, draws)
    graph, first = model.graph, run.steps
    of_decoder = {node.name for node in graph.needed("decoded")} if model.has_feedback else ()
    before, after = ([node for node in run.nodes if (node.name in of_decoder) == asked] for asked in (True, False))
    parts = [decode(model, run, before, part) for part in draws.split(1 if model.gate.reacts else len(draws))]
    sent = parts[0][0] if len(parts) == 1 else {name: torch.cat([sent[name] for sent, _ in parts]) for name in parts[0][0]}
    propagate(run, after, sent, range(first, run.steps))
    logits = accumulated(
        run.logits, sent[graph.ends["output"]].to(run.image.dtype), model.settings["output_leak"], at_once=model.training
    )
    run.logits = logits[-1]
    shown = stacked([shown for _, of_part in parts for shown in of_part])
    return shown | {"logits": logits, "spikes": counts_by_layer(run, model.layers, len(draws))}


def decode(model, run, nodes, draws):
    """T steps of these nodes, those that the decoder needs, on what the input neurons see now, in place. draws: (T, B, C, H, W).
    Returns (name -> what a node sends (T, B, ...), the input and what others need, what each step shows)."""
    steps = range(run.steps, run.steps + len(draws))
    if run.recording is not None and len(draws) > 1:  # several frames of a recording are seen at once, (T, B, C, H, W)
        view = model.gate.start(run.recording[:, steps.start : steps.stop].transpose(0, 1))
    else:
        show_image(model, run, run.shown_now())
        view = run.view
    sent = {INPUT: model.encoding.send(view.unexplained(), draws)}
    if run.sent is not None:
        run.note(INPUT, sent[INPUT].flatten(0, 1), steps)
    run.counts.setdefault(INPUT, []).append((steps, count_events(view.sent(sent[INPUT]))))
    propagate(run, nodes, sent, steps)
    decoded = sent.pop(model.graph.ends["decoded"]) if model.has_feedback else [None] * len(draws)
    taken = {source for node in run.nodes if node not in nodes for source in node.sources}
    shown = [model.read_out_and_gate(run, codes) for codes in decoded]
    return {name: signal for name, signal in sent.items() if name in taken}, shown


def propagate(run, nodes, sent, steps):
    """These nodes in the steps of these numbers, in place. sent: name -> what a node sends (t, B, ...), which is filled in. Where
    all steps are views of one, as of an image that is sent unchanged, the linear layers before the first neurons run once."""
    times = len(steps)
    for name, module, sources, _ in nodes:
        first, *more = (sent[source] for source in sources)
        signal = sum(more, first)
        alike = times > 1 and not signal.stride(0)
        if passes(module) and name not in run.memory:
            sent[name] = signal
        elif alike and isinstance(module, LINEAR):
            once = module(signal[0])
            sent[name] = once.expand(times, *once.shape)
        else:
            sent[name] = at_once(run, name, module, torch.cat([signal[0]] * times) if alike else signal.flatten(0, 1), steps)


def at_once(run, name, module, signal, steps):
    """What a module sends in these steps (t, B, ...), of a signal (t B, ...)."""
    if isinstance(module, SpikingNeuron):
        signal, run.memory[name], counts = neuron_steps(module, signal, run.memory.get(name), len(steps))
        run.counts.setdefault(name, []).append((steps, counts))
    elif has_state(module):
        signal, run.memory[name] = module(signal, run.memory.get(name), len(steps))
    else:
        signal = module(signal)
    if is_sender(module):
        run.note(name, signal, steps)
    return signal.unflatten(0, (len(steps), -1))
