"""Do other simulators send the same spikes as we do, from the same NIR file? check() runs each, node by node."""

import contextlib
import importlib.metadata
import io
import warnings

import nir
import torch

from self_models import first_difference
from self_models.basics import ModelError
from self_models.graph import frames_of, from_nir, lists_of


def norse(graph, dt, batch=1):
    import norse.torch

    return norse.torch.from_nir(graph, dt=dt)


def sinabs(graph, dt, batch=1):
    import sinabs.nir

    return sinabs.nir.from_nir(graph, batch_size=batch)  # it takes all timesteps at once, (B T, ...)


def snntorch(graph, dt, batch=1):
    from snntorch.import_nir import import_from_nir

    return import_from_nir(graph)


def spikingjelly(graph, dt, batch=1):
    from spikingjelly.activation_based.nir_exchange import import_from_nir

    return import_from_nir(graph, dt=dt)


SIMULATORS = {one.__name__: one for one in (norse, sinabs, snntorch, spikingjelly)}  # (graph, dt, batch) -> its network


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

    def keep(name):
        def hook(module, given, output):
            sent.setdefault(name, []).append((output[0] if isinstance(output, tuple) else output).detach())

        return hook

    for module_name, module in network.named_modules():
        if module_name:
            module.register_forward_hook(keep(module_name))
    for _ in outputs(name, network, events):
        pass
    found = {name: torch.stack(values) for name, values in sent.items()}
    return {name: values.transpose(0, 1) for name, values in found.items()} if name == "sinabs" else found


@torch.no_grad()
def check(path, recordings, timesteps, names=tuple(SIMULATORS), dt=None, reset=None):
    """Rows (simulator, version, verdict, in words) of the kernel, and of each of these simulators: 'same', 'differs', 'fails' or
    'not installed'. recordings: as a GraphSNN takes them."""
    model = from_nir(path, dt, reset, engine="dense")
    events = frames_of(lists_of(recordings, model.input_shape, timesteps)[0], model.input_shape, timesteps)
    ours, rows = model(events, record="all"), []
    try:
        found = first_difference(from_nir(path, dt, reset, "event")(events, record="all"), ours)
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


def compared(model, ours, sent):
    """(verdict, in words) of what another simulator's nodes have sent. ours: the GraphOutput of the same events."""
    spikes = {name: ours.recorded[name]["spikes"].float() for name in model.spiking}
    for name, mine in spikes.items():
        if name not in sent:
            return "fails", f"it has no node {name!r}"
        theirs = sent[name].reshape(mine.shape)
        if not torch.equal(theirs, mine):
            step, image, *_ = (theirs != mine).nonzero()[0].tolist()
            neuron = int((theirs != mine)[step, image].flatten().nonzero()[0])
            a, b = (each[step, image].flatten()[neuron].item() for each in (mine, theirs))
            return "differs", f"recording {image}, timestep {step}, node {name}, neuron {neuron}: {a:g} here and {b:g} there"
    return "same", f"{sum(int(each.sum()) for each in spikes.values()):,} spikes of {len(spikes)} nodes"
