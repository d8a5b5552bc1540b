"""Compare the spikes of other simulators with ours, from the same NIR file.

``check`` runs each of them, and compares node by node. What is compared is not the
network that somebody has trained in a simulator, but the one that this simulator's
importer makes of the file: see ASSUMED.
"""

import contextlib
import importlib.metadata
import io
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import nir
import torch
from torch import nn

from self_models import first_difference
from self_models.basics import ModelError
from self_models.guests.nir.event_lists import check_recordings, event_frames
from self_models.guests.nir.graph_snn import GraphSNN
from self_models.guests.nir.reading import from_nir

# --- networks of other simulators: (graph, seconds of a timestep, batch size) -> module


def import_norse(graph: nir.NIRGraph, dt: float, batch: int = 1) -> nn.Module:
    """Return Norse's network of a graph."""
    return import_module("norse.torch").from_nir(graph, dt=dt)


def import_sinabs(graph: nir.NIRGraph, dt: float, batch: int = 1) -> nn.Module:
    """Return sinabs' network of a graph, which takes (B T, ...)."""
    return import_module("sinabs.nir").from_nir(graph, batch_size=batch)


def import_snntorch(graph: nir.NIRGraph, dt: float, batch: int = 1) -> nn.Module:
    """Return snnTorch's network of a graph."""
    return import_module("snntorch.import_nir").import_from_nir(graph)


def import_spikingjelly(graph: nir.NIRGraph, dt: float, batch: int = 1) -> nn.Module:
    """Return SpikingJelly's network of a graph."""
    exchange = import_module("spikingjelly.activation_based.nir_exchange")
    return exchange.import_from_nir(graph, dt=dt)


SIMULATORS = {
    "norse": import_norse,
    "sinabs": import_sinabs,
    "snntorch": import_snntorch,
    "spikingjelly": import_spikingjelly,
}


class Assumption(NamedTuple):
    """What a simulator's importer assumes of every file, whichever network it has.

    Attributes
    ----------
    message : str
        In words.
    reading : dict of {str: object}
        Arguments of ``from_nir`` with which we read a file in this way.
    flags : str
        The same as flags of a script.
    """

    message: str
    reading: Mapping[str, object]
    flags: str


ASSUMED = {
    "snntorch": Assumption(
        "every neuron has reset_mechanism='zero' and reset_delay=False",
        {"reset": "zero", "reset_delay": False},
        "--reset zero --no-reset_delay",
    ),
    "sinabs": Assumption(
        "every IF has min_v_mem = -threshold, every LIF and LI norm_input=False",
        {"membrane_floor": 1, "norm_input": False},
        "--membrane_floor 1 (with IF), --no-norm_input (with LIF and LI)",
    ),
}


def meaning_of_difference(name: str, conventions: Mapping[str, object]) -> str:
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
    assumption = ASSUMED[name]
    if all(conventions.get(key) == value for key, value in assumption.reading.items()):
        return ""
    return (
        f"; the importer of {name} assumes of every file: {assumption.message}. "
        f"Add {assumption.flags}: if nothing differs then, the difference came from this "
        "assumption, not from a mistake in reading"
    )


# --- what they send


def outputs(name: str, network: nn.Module, events: torch.Tensor) -> Iterator[torch.Tensor]:
    """Give what a simulator's network sends.

    Parameters
    ----------
    name : str
        The simulator.
    network : nn.Module
        The network.
    events : Tensor of shape (B, T, ...)
        What arrives.

    Yields
    ------
    Tensor
        Of each timestep (B, ...), or of sinabs of all at once (B T, ...).
    """
    if name == "sinabs":
        sent = network(events.flatten(0, 1))
        yield sent[0] if isinstance(sent, tuple) else sent
        return
    state = ()
    for frame in events.unbind(1):
        output = network(frame, *state)
        if isinstance(output, tuple) and len(output) > 1:
            sent, *state = output
        else:
            sent = output
            state = ()
        yield sent


class SpikeRecorder:
    """Records what all modules of a network send, for one recording at a time.

    Attributes
    ----------
    sent : dict of {str: dict of {int: list of Tensor}}
        Module -> recording -> what it sends in each timestep (1, ...).
    """

    def __init__(self):
        self.sent = {}

    def attach(self, network: nn.Module, recording: int) -> None:
        """Record what a network sends for the recording of this number."""
        for name, module in network.named_modules():
            module.register_forward_hook(partial(self._keep, name, recording))

    def _keep(self, name: str, recording: int, module, args, output) -> None:
        """Keep what a module has sent: a forward hook."""
        values = output[0] if isinstance(output, tuple) else output
        self.sent.setdefault(name, {}).setdefault(recording, []).append(values.detach())


def sent_by_modules(
    name: str, read_network: Callable[[], nn.Module], events: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Run a simulator's network, one recording at a time.

    Parameters
    ----------
    name : str
        The simulator.
    read_network : callable
        Makes the network anew, for each recording.
    events : Tensor of shape (B, T, ...)
        What arrives.

    Returns
    -------
    dict of {str: Tensor of shape (T, B, ...)}
        What each module sends.
    """
    recorder = SpikeRecorder()
    for number, recording in enumerate(events.split(1)):
        network = read_network()
        recorder.attach(network, number)
        list(outputs(name, network, recording))
    by_module = {}
    for module, recordings in recorder.sent.items():
        stacked = [torch.stack(steps) for steps in recordings.values()]
        if name == "sinabs":  # which takes all timesteps as one batch
            stacked = [steps.transpose(0, 1) for steps in stacked]
        by_module[module] = torch.cat(stacked, 1)
    return by_module


# --- comparisons


class Verdict(NamedTuple):
    """What a comparison has found.

    Attributes
    ----------
    verdict : {"same", "differs", "fails", "not installed"}
        In a word.
    message : str
        The first difference, what was compared, or why it fails.
    """

    verdict: str
    message: str


class Row(NamedTuple):
    """What was found of a simulator.

    Attributes
    ----------
    simulator : str
        Its name, or "kernel".
    version : str
        Its version.
    verdict, message : str
        See ``Verdict``.
    """

    simulator: str
    version: str
    verdict: str
    message: str


@torch.no_grad()
def check(
    path: str | Path,
    recordings: Sequence | torch.Tensor,
    timesteps: int,
    names: Sequence[str] = tuple(SIMULATORS),
    **conventions: object,
) -> list[Row]:
    """Compare our dense engine with the kernel, and with other simulators.

    Parameters
    ----------
    path : str or Path
        A NIR file.
    recordings : list of array, or Tensor of shape (B, T, ...)
        Recordings as a GraphSNN takes them, or what still images send.
    timesteps : int
        How many timesteps they have.
    names : sequence of str
        Which of SIMULATORS.
    **conventions
        Arguments of ``from_nir``.

    Returns
    -------
    list of Row
        Of the kernel, and of each of these simulators.
    """
    model = from_nir(path, engine="dense", **conventions)
    events = recordings
    if not isinstance(recordings, torch.Tensor):
        columns, _ = check_recordings(recordings, model.graph.shape, timesteps)
        events = event_frames(columns, model.graph.shape, timesteps)
    check_kernel = partial(compare_kernel, path, model, events, conventions)
    rows = [Row("kernel", "", *caught_verdict("kernel", check_kernel))]
    for name in names:
        check_simulator = partial(compare_simulator, name, path, model, events, conventions)
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            rows.append(Row(name, "", *not_installed(name)))
            continue
        rows.append(Row(name, version, *caught_verdict(name, check_simulator)))
    return rows


def not_installed(name: str) -> Verdict:
    """Return the verdict on a simulator that is not there."""
    return Verdict("not installed", f"pip install {name}")


def caught_verdict(name: str, compare: Callable[[], Verdict]) -> Verdict:
    """Return the verdict of a comparison with a simulator, or that it fails."""
    try:
        return compare()
    except importlib.metadata.PackageNotFoundError:
        return not_installed(name)
    except ModelError as error:
        return Verdict("fails", str(error))
    except Exception as error:  # whatever a simulator raises is what there is to say
        lines = str(error).strip().splitlines() or [""]
        return Verdict("fails", f"{type(error).__name__}: {lines[0]}")


def compare_kernel(
    path: str | Path,
    model: GraphSNN,
    events: torch.Tensor,
    conventions: Mapping[str, object],
) -> Verdict:
    """Compare what the kernel sends with a GraphSNN on the dense engine."""
    sent = from_nir(path, engine="event", **conventions)(events, record="all")
    difference = first_difference(sent, model(events, record="all"))
    if difference:
        return Verdict("differs", str(difference))
    return Verdict("same", "")


def compare_simulator(
    name: str,
    path: str | Path,
    model: GraphSNN,
    events: torch.Tensor,
    conventions: Mapping[str, object],
) -> Verdict:
    """Compare what another simulator sends with a GraphSNN, see ``check``."""
    read_network = partial(make_network, name, path, model.dt)
    with warnings.catch_warnings(action="ignore"), contextlib.redirect_stdout(io.StringIO()):
        sent = sent_by_modules(name, read_network, events)
    found = compare_nodes(model, events, sent)
    if found.verdict == "differs":
        meaning = meaning_of_difference(name, conventions)
        return Verdict("differs", f"{found.message}{meaning}")
    return found


def make_network(name: str, path: str | Path, dt: float) -> nn.Module:
    """Return the network that a simulator's importer makes of a file."""
    return SIMULATORS[name](nir.read(path), dt)


def compare_nodes(
    model: GraphSNN, events: torch.Tensor, sent: Mapping[str, torch.Tensor]
) -> Verdict:
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
    Verdict
        "same", "differs" or "fails".
    """
    ours = model(events, record=dict.fromkeys(model.layers[1:], "spikes"))
    counts = {}  # (T, B, ...); Norse's Flatten takes in a batch of one
    for name in model.layers[1:]:
        if name not in sent:
            return Verdict("fails", f"it has no node {name!r}")
        counts[name] = sent[name].reshape(ours.recorded[name]["spikes"].shape)

    theirs = {name: {"spikes": count != 0} for name, count in counts.items()}
    difference = first_difference(ours, ours._replace(recorded=ours.recorded | theirs))
    if difference:
        return Verdict("differs", f"{difference} (here, there)")
    for name, count in counts.items():  # sinabs sends several spikes in a timestep
        total = count.flatten(2).sum(2)
        our_total = ours.spikes_by_step[name]
        wrong = (total != our_total).nonzero().tolist()
        if wrong:
            step, image = wrong[0]
            both = f"{our_total[step, image]:g} and {total[step, image]:g}"
            where = f"image {image}, timestep {step}, {name}"
            return Verdict("differs", f"{where}: {both} spikes of all its neurons (here, there)")
    spikes = sum(int(ours.spikes[name].sum()) for name in counts)
    return Verdict("same", f"{spikes:,} spikes of {len(counts)} nodes")
