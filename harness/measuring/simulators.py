"""Do other simulators send the same spikes as we do, from the same NIR file? check() runs each, node by node."""

import contextlib
import importlib.metadata
import io
import warnings
from functools import partial
from importlib import import_module
from itertools import combinations

import nir
import torch

from self_models import first_difference
from self_models.basics import ModelError
from self_models.graph import frames_of, lists_of
from self_models.nir import from_nir

WAYS = {  # in which another simulator's neuron may differ -> in words
    "at": "fires at the threshold, too",
    "several": "sends several spikes in a timestep",
    "reset": "resets in another way: by subtraction, or to v_reset",
    "floor": "keeps V above -threshold",
    "early": "fires before it is charged",
    "late": "hands its spikes on a timestep later",
}
NEAR = 1e-5  # of a threshold: nearer potentials are a matter of rounding


SIMULATORS = {  # (graph, dt, batch) -> its network
    "norse": lambda graph, dt, batch=1: import_module("norse.torch").from_nir(graph, dt=dt),
    "sinabs": lambda graph, dt, batch=1: import_module("sinabs.nir").from_nir(graph, batch_size=batch),  # takes (B T, ...)
    "snntorch": lambda graph, dt, batch=1: import_module("snntorch.import_nir").import_from_nir(graph),
    "spikingjelly": lambda graph, dt, batch=1: import_module("spikingjelly.activation_based.nir_exchange").import_from_nir(
        graph, dt=dt
    ),
}


def outputs(name, network, events):
    """What a simulator's network sends for events (B, T, ...): one after the other, each of a timestep, or of all at once."""
    if name == "sinabs":
        sent = network(events.flatten(0, 1))
        yield sent[0] if isinstance(sent, tuple) else sent
        return
    state = None
    for now in events.unbind(1):
        output = network(now) if state is None else network(now, state)
        sent, state = output if isinstance(output, tuple) and len(output) > 1 else (output, None)
        yield sent


def sent_by_modules(name, network, events):
    """Module -> what it sends (T, 1, ...) for the events (1, T, ...) of one recording."""
    sent = {}

    def keep(name, module, given, output):
        sent.setdefault(name, []).append((output[0] if isinstance(output, tuple) else output).detach())

    for module_name, module in network.named_modules():
        if module_name:
            module.register_forward_hook(partial(keep, module_name))
    for _ in outputs(name, network, events):
        pass
    found = {name: torch.stack(values) for name, values in sent.items()}
    return {name: values.transpose(0, 1) for name, values in found.items()} if name == "sinabs" else found


@torch.no_grad()
def check(path, recordings, timesteps, names=tuple(SIMULATORS), **conventions):
    """Rows (simulator, version, verdict, in words) of the kernel, and of each of these simulators: 'same', 'differs', 'fails' or
    'not installed'. recordings: as a GraphSNN takes them; conventions: as from_nir() has them."""
    model = from_nir(path, engine="dense", **conventions)
    events = frames_of(lists_of(recordings, model.graph.shape, timesteps)[0], model.graph.shape, timesteps)
    ours, rows = here(model, events), []
    try:
        found = first_difference(from_nir(path, engine="event", **conventions)(events, record="all"), model(events, record="all"))
        rows.append(("kernel", "", "differs" if found else "same", str(found or "")))
    except ModelError as error:
        rows.append(("kernel", "", "fails", str(error)))
    for name in names:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            rows.append((name, "", "not installed", f"pip install {name}"))
            continue
        try:
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
                each = []
                for one in events:  # by itself: not all take batches
                    each.append(sent_by_modules(name, SIMULATORS[name](nir.read(path), model.dt), one[None]))
            sent = {node: torch.cat([one[node] for one in each], 1) for node in each[0]}
            rows.append((name, version, *compared(model, ours, sent)))
        except Exception as error:  # whatever it raises is what there is to say
            words = (str(error).strip().splitlines() or [""])[0]
            rows.append((name, version, "fails", f"{type(error).__name__}: {words}"))
    return rows


def here(model, events):
    """Node -> (what arrives at it, what it sends), (T, B, ...), by step()."""
    memory, kept = {}, {}
    for now in events.unbind(1):
        before = dict(memory)
        sent = model.step(memory, now)
        for node in model.graph.nodes:
            if node.name in model.layers:
                arrived = model.graph.arriving(node, sent, before or model.graph.before(now))
                kept.setdefault(node.name, []).append((arrived, sent[node.name]))
    return {name: [torch.stack(each) for each in zip(*values, strict=True)] for name, values in kept.items()}


def compared(model, ours, sent):
    """(verdict, in words) of what another simulator's nodes have sent."""
    for name, (arriving, spikes) in ours.items():
        if name not in sent:
            return "fails", f"it has no node {name!r}"
        theirs = sent[name].reshape(spikes.shape)
        if torch.equal(theirs, spikes):
            continue
        step, image, *_ = (theirs != spikes).nonzero()[0].tolist()
        neuron = int((theirs != spikes)[step, image].flatten().nonzero()[0])
        a, b = (each[step, image].flatten()[neuron].item() for each in (spikes, theirs))
        words = f"recording {image}, timestep {step}, node {name}, neuron {neuron}: {a:g} here and {b:g} there"
        part = [each[: step + 1, image : image + 1] for each in (arriving, theirs)], [arriving, theirs]
        return "differs", f"{words}; {why(model.graph.modules[name], *part)}"
    return "same", f"{sum(int(spikes.sum()) for _, spikes in ours.values()):,} spikes of {len(ours)} nodes"


def why(node, first, whole):
    """Which of WAYS makes a neuron of ours send what another simulator's does, the fewest of them, in words. first, whole: (what
    arrives, what it sends there) up to the first difference, and of all timesteps."""
    spikes, distance = like(node, first[0], ())
    if distance[-1][spikes[-1] != first[1][-1]].max() < NEAR:
        return "a matter of rounding: V is that near to the threshold"
    for count in range(1, 4):
        for ways in combinations(WAYS, count):
            if all(torch.equal(like(node, arriving, ways)[0], theirs) for arriving, theirs in (first, whole)):
                return "there a neuron " + " and ".join(WAYS[way] for way in ways)
    return "none of the known conventions explains it"


def like(node, arriving, ways):
    """(spikes, distance from the threshold, in thresholds) of a neuron that differs in these ways, (T, B, ...)."""
    v, current, found, distance = torch.zeros_like(arriving[0]), torch.zeros_like(arriving[0]), [], []
    theta, subtract = node.threshold, (node.reset is None) != ("reset" in ways)
    for now in arriving:
        if node.synapse_leak is not None:
            now = current = node.synapse_leak * current + node.synapse_gain * now
        charged = node.leak * v + node.gain * now + node.drive
        compared = v if "early" in ways else charged
        levels = (compared / theta).floor() if "at" in ways else (compared / theta).ceil() - 1
        spikes = levels.clamp(min=0, max=None if "several" in ways else 1)
        v = charged - spikes * theta if subtract else torch.where(spikes > 0, node.reset or 0, charged)
        v = torch.maximum(v, -theta) if "floor" in ways else v
        found.append(spikes)
        distance.append((compared / theta - 1).abs())
    if "late" in ways:
        found = [torch.zeros_like(found[0]), *found[:-1]]
    return torch.stack(found), torch.stack(distance)
