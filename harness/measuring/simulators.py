"""Do other simulators send the same spikes as we do, from the same NIR file? check() runs each, node by node.

What is compared is not the network that somebody has trained in a simulator, but the
one that this simulator's importer makes of the file: see ASSUMED."""

import contextlib
import importlib.metadata
import io
import warnings
from functools import partial
from importlib import import_module

import nir
import torch

from self_models import first_difference
from self_models.basics import ModelError
from self_models.guests.nir.event_lists import check_recordings, event_frames
from self_models.guests.nir.reading import from_nir

SIMULATORS = {  # (graph, dt, batch) -> its network
    "norse": lambda graph, dt, batch=1: import_module("norse.torch").from_nir(graph, dt=dt),
    "sinabs": lambda graph, dt, batch=1: import_module("sinabs.nir").from_nir(
        graph, batch_size=batch
    ),  # takes (B T, ...)
    "snntorch": lambda graph, dt, batch=1: import_module("snntorch.import_nir").import_from_nir(
        graph
    ),
    "spikingjelly": lambda graph, dt, batch=1: import_module(
        "spikingjelly.activation_based.nir_exchange"
    ).import_from_nir(graph, dt=dt),
}


ASSUMED = {
    # What a simulator's importer assumes of every file, whichever network was exported;
    # the arguments of from_nir with which we read a file in this way; the flags.
    "snntorch": (
        "every neuron has reset_mechanism='zero' and reset_delay=False",
        {"reset": "zero", "reset_delay": False},
        "--reset zero --no-reset_delay",
    ),
    "sinabs": (
        "every IF has min_v_mem = -threshold, every LIF and LI norm_input=False",
        {"membrane_floor": 1, "norm_input": False},
        "--membrane_floor 1 (with IF), --no-norm_input (with LIF and LI)",
    ),
}


def meaning_of_difference(name, conventions):
    """Say what a difference means where a simulator's importer assumes something.

    Parameters
    ----------
    name : str
        The simulator.
    conventions : dict
        Arguments of from_nir with which the file was read here.

    Returns
    -------
    str
        Words to follow the difference. Empty if the file was read as the importer
        assumes, or as no simulator's.
    """
    if name not in ASSUMED or conventions.get("like") != name:
        return ""
    assumed, arguments, flags = ASSUMED[name]
    if all(conventions.get(key) == value for key, value in arguments.items()):
        return ""
    return (
        f"; the importer of {name} assumes of every file: {assumed}. Add {flags}: if nothing "
        "differs then, the difference came from this assumption, not from a mistake in reading"
    )


def outputs(name, network, events):
    """What a simulator's network sends for events (B, T, ...): one after the other, each of a timestep, or of all at once."""
    if name == "sinabs":
        sent = network(events.flatten(0, 1))
        yield sent[0] if isinstance(sent, tuple) else sent
        return
    state = ()
    for frame in events.unbind(1):
        output = network(frame, *state)
        sent, *state = output if isinstance(output, tuple) and len(output) > 1 else (output,)
        yield sent


def sent_by_modules(name, network, events):
    """Module -> what it sends (T, B, ...) for events (B, T, ...), one recording at a time. network: () -> a fresh one."""
    sent = {}  # module -> recording -> step -> (1, ...)

    def keep(node, number, module, given, output):
        values = output[0] if isinstance(output, tuple) else output
        sent.setdefault(node, {}).setdefault(number, []).append(values.detach())

    for number, recording in enumerate(events.split(1)):
        fresh = network()
        for node, module in fresh.named_modules():
            module.register_forward_hook(partial(keep, node, number))
        list(outputs(name, fresh, recording))
    by_module = {
        node: [torch.stack(steps) for steps in recordings.values()]
        for node, recordings in sent.items()
    }
    if name == "sinabs":  # which takes all steps as one batch
        by_module = {
            node: [steps.transpose(0, 1) for steps in recordings]
            for node, recordings in by_module.items()
        }
    return {node: torch.cat(recordings, 1) for node, recordings in by_module.items()}


@torch.no_grad()
def check(path, recordings, timesteps, names=tuple(SIMULATORS), **conventions):
    """Rows (simulator, version, verdict, in words) of the kernel, and of each of these simulators: 'same', 'differs', 'fails' or
    'not installed'. recordings: as a GraphSNN takes them, or what still images send,
    (B, T, ...); conventions: as from_nir() has them."""
    model, rows = from_nir(path, engine="dense", **conventions), []
    events = recordings
    if not isinstance(recordings, torch.Tensor):
        lists, _ = check_recordings(recordings, model.graph.shape, timesteps)
        events = event_frames(lists, model.graph.shape, timesteps)
    for name in ("kernel", *names):
        version = ""
        try:
            if name == "kernel":
                sent = from_nir(path, engine="event", **conventions)(events, record="all")
                difference = first_difference(sent, model(events, record="all"))
                verdict = ("differs", str(difference)) if difference else ("same", "")
            else:
                version = importlib.metadata.version(name)
                with (
                    warnings.catch_warnings(action="ignore"),
                    contextlib.redirect_stdout(io.StringIO()),
                ):
                    sent = sent_by_modules(
                        name, lambda name=name: SIMULATORS[name](nir.read(path), model.dt), events
                    )
                verdict = compared(model, events, sent)
                if verdict[0] == "differs":
                    words = meaning_of_difference(name, conventions)
                    verdict = "differs", f"{verdict[1]}{words}"
        except importlib.metadata.PackageNotFoundError:
            verdict = "not installed", f"pip install {name}"
        except ModelError as error:
            verdict = "fails", str(error)
        except Exception as error:  # whatever a simulator raises is what there is to say
            verdict = (
                "fails",
                f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}",
            )
        rows.append((name, version, *verdict))
    return rows


def compared(model, events, sent):
    """Compare what the nodes of another simulator have sent with a GraphSNN.

    Parameters
    ----------
    model : GraphSNN
        The network as it was read here.
    events : Tensor of shape (B, T, ...)
        Input of both.
    sent : dict of {str: Tensor of shape (T, B, ...)}
        What each node of the other network has sent: how many spikes.

    Returns
    -------
    verdict : {"same", "differs", "fails"}
    words : str
        The first difference, or what was compared.
    """
    ours = model(events, record=dict.fromkeys(model.layers[1:], "spikes"))
    counts = {}  # (T, B, ...); Norse's Flatten takes in a batch of one
    for name in model.layers[1:]:
        if name not in sent:
            return "fails", f"it has no node {name!r}"
        counts[name] = sent[name].reshape(ours.recorded[name]["spikes"].shape)

    theirs = {name: {"spikes": count != 0} for name, count in counts.items()}
    if difference := first_difference(ours, ours._replace(recorded=ours.recorded | theirs)):
        return "differs", f"{difference} (here, there)"
    for name, count in counts.items():  # sinabs sends several spikes in a timestep
        total = count.flatten(2).sum(2)
        wrong = (total != ours.spikes_by_step[name]).nonzero().tolist()
        if wrong:
            step, image = wrong[0]
            both = f"{ours.spikes_by_step[name][step, image]:g} and {total[step, image]:g}"
            where = f"image {image}, timestep {step}, {name}"
            return "differs", f"{where}: {both} spikes of all its neurons (here, there)"
    spikes = sum(int(ours.spikes[name].sum()) for name in counts)
    return "same", f"{spikes:,} spikes of {len(counts)} nodes"
