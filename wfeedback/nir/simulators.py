"""Check whether other simulators send the same spikes from the same NIR file.

What is compared is not the network that somebody has trained in a simulator, but the
one that this simulator's importer makes of the file: see `ASSUMED`.
"""

import contextlib
import importlib.metadata
import io
import warnings
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib import import_module
from os import PathLike
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from self_models import first_difference
from self_models.errors import ModelError
from wfeedback.event.event_lists import check_recordings, event_frames
from wfeedback.nir.checks import kind_of
from wfeedback.nir.files import flatten, nir_package
from wfeedback.nir.graph_snn import GraphSNN
from wfeedback.nir.reading import from_nir

if TYPE_CHECKING:
    import nir


def norse_network(graph: "nir.NIRGraph", dt: float, batch: int = 1) -> nn.Module:
    """Let Norse import a graph, with timesteps of ``dt`` seconds."""
    return import_module("norse.torch").from_nir(graph, dt=dt)


def sinabs_network(graph: "nir.NIRGraph", dt: float, batch: int = 1) -> nn.Module:
    """Let sinabs import a graph; its network takes all timesteps, (batch * T, ...)."""
    return import_module("sinabs.nir").from_nir(graph, batch_size=batch)


def snntorch_network(graph: "nir.NIRGraph", dt: float, batch: int = 1) -> nn.Module:
    """Let snnTorch import a graph."""
    return import_module("snntorch.import_nir").import_from_nir(graph)


def spikingjelly_network(graph: "nir.NIRGraph", dt: float, batch: int = 1) -> nn.Module:
    """Let SpikingJelly import a graph, with timesteps of ``dt`` seconds."""
    importer = import_module("spikingjelly.activation_based.nir_exchange")
    return importer.import_from_nir(graph, dt=dt)


SIMULATORS = {
    "norse": norse_network,
    "sinabs": sinabs_network,
    "snntorch": snntorch_network,
    "spikingjelly": spikingjelly_network,
}


class Assumption(NamedTuple):
    """What the importer of a simulator assumes of every file.

    Attributes
    ----------
    meaning : str
        The assumption, in the simulator's own words.
    arguments : dict
        Arguments of ``from_nir`` with which a file is read in this way here.
    flags : dict of {str: str}
        The flag for each of these arguments.
    kinds : dict of {str: tuple of str}
        Kinds of nodes that an argument is for; those that are not in it are for all.
    """

    meaning: str
    arguments: dict[str, object]
    flags: dict[str, str]
    kinds: dict[str, tuple[str, ...]]


ASSUMED = {
    "snntorch": Assumption(
        "every neuron has reset_mechanism='zero' and reset_delay=False",
        {"reset": "zero", "reset_delay": False},
        {"reset": "--reset zero", "reset_delay": "--no-reset_delay"},
        {},
    ),
    "sinabs": Assumption(
        "every IF has min_v_mem = -threshold, every LIF and LI norm_input=False",
        {"membrane_floor": 1, "norm_input": False},
        {"membrane_floor": "--membrane_floor 1", "norm_input": "--no-norm_input"},
        {"membrane_floor": ("IF",), "norm_input": ("LIF", "LI")},
    ),
}


class Comparison(NamedTuple):
    """What came of the comparison with one simulator.

    Attributes
    ----------
    simulator : str
        Its name.
    version : str
        Its version. Empty for the kernel, and if it is not installed.
    verdict : {"same", "differs", "fails", "not installed"}
        Whether it sends the same spikes.
    message : str
        The first difference, the error, or what was compared.
    """

    simulator: str
    version: str
    verdict: str
    message: str


def meaning_of_difference(name: str, kinds: set[str], conventions: dict[str, object]) -> str:
    """Say what a difference means where a simulator's importer assumes something.

    Parameters
    ----------
    name : str
        The simulator.
    kinds : set of str
        Kinds of the file's nodes.
    conventions : dict
        Arguments of ``from_nir`` with which the file was read here.

    Returns
    -------
    str
        A text to follow the difference. Empty if the file was read as the importer
        assumes, or as no simulator's.
    """
    if name not in ASSUMED or conventions.get("like") != name:
        return ""
    assumption = ASSUMED[name]
    missing = []  # flags
    for argument, value in assumption.arguments.items():
        is_for_file = not kinds.isdisjoint(assumption.kinds.get(argument, kinds))
        if is_for_file and conventions.get(argument) != value:
            missing.append(assumption.flags[argument])
    if not missing:
        return ""
    return (
        f"; the importer of {name} assumes of every file: {assumption.meaning}. "
        f"Add {' '.join(missing)}: if nothing differs then, the difference came from this "
        "assumption, not from a mistake in reading"
    )


def outputs(name: str, network: nn.Module, events: torch.Tensor) -> Iterator[torch.Tensor]:
    """Run a simulator's network on events.

    Parameters
    ----------
    name : str
        The simulator.
    network : nn.Module
        Its network, as one of `SIMULATORS` makes it.
    events : Tensor of shape (B, T, ...)
        The input.

    Yields
    ------
    Tensor of shape (B, ...)
        What the network sends, in one timestep after the other. sinabs takes all of
        them at once, and yields a single Tensor of shape (B * T, ...).
    """
    if name == "sinabs":
        output = network(events.flatten(0, 1))
        yield output[0] if isinstance(output, tuple) else output
        return
    state = ()
    for frame in events.unbind(1):
        output = network(frame, *state)
        if isinstance(output, tuple) and len(output) > 1:
            output, *state = output
        else:
            state = []
        yield output


def sent_by_modules(
    name: str, make_network: Callable[[], nn.Module], events: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Record what each module of a simulator's network sends.

    Parameters
    ----------
    name : str
        The simulator.
    make_network : callable
        Returns a fresh network. Each recording gets its own, so that no state is left
        over.
    events : Tensor of shape (B, T, ...)
        The recordings.

    Returns
    -------
    dict of {str: Tensor of shape (T, B, ...)}
        Name of a module -> what it sends.
    """
    calls = {}  # module -> number of a recording -> its outputs, each of a call

    def keep(node, number, module, inputs, output):
        values = output[0] if isinstance(output, tuple) else output
        calls.setdefault(node, {}).setdefault(number, []).append(values.detach())

    for number, recording in enumerate(events.split(1)):
        network = make_network()
        for node, module in network.named_modules():
            module.register_forward_hook(partial(keep, node, number))
        for _ in outputs(name, network, recording):
            pass  # the hooks keep what is sent

    sent = {}
    for node, by_recording in calls.items():
        recordings = [torch.stack(values) for values in by_recording.values()]
        if name == "sinabs":  # one call has all timesteps, as one batch
            recordings = [values.transpose(0, 1) for values in recordings]
        sent[node] = torch.cat(recordings, 1)
    return sent


@torch.no_grad()
def check(
    path: str | PathLike,
    recordings: list | torch.Tensor,
    timesteps: int,
    names: Iterable[str] = tuple(SIMULATORS),
    **conventions: object,
) -> list[Comparison]:
    """Compare our dense engine with our kernel, and with other simulators.

    Parameters
    ----------
    path : str or Path
        The NIR file.
    recordings : list of array, or Tensor of shape (B, T, ...)
        Recordings as a ``GraphSNN`` takes them, or what still images send.
    timesteps : int
        Number of timesteps of the recordings.
    names : iterable of str
        The simulators.
    **conventions
        Arguments of ``from_nir``: how the file is read here.

    Returns
    -------
    list of Comparison
        That with the kernel, then one for each simulator. An error of a simulator is
        its verdict "fails".
    """
    model = from_nir(path, engine="dense", **conventions)
    events = recordings
    if not isinstance(recordings, torch.Tensor):
        lists, _ = check_recordings(recordings, model.graph.shape, timesteps)
        events = event_frames(lists, model.graph.shape, timesteps)

    comparisons = []
    for name in ("kernel", *names):
        version = ""
        try:
            if name == "kernel":
                verdict, message = compare_kernel(path, model, events, conventions)
            else:
                version = importlib.metadata.version(name)
                verdict, message = compare_simulator(name, path, model, events)
                if verdict == "differs":
                    nodes, _ = flatten(nir_package().read(path))
                    kinds = {kind_of(node) for node in nodes.values()}
                    message += meaning_of_difference(name, kinds, conventions)
        except importlib.metadata.PackageNotFoundError:
            verdict = "not installed"
            message = f"pip install {name}"
        except ModelError as error:
            verdict = "fails"
            message = str(error)
        except Exception as error:  # whatever a simulator raises is what there is to say
            verdict = "fails"
            lines = str(error).strip().splitlines() or [""]
            message = f"{type(error).__name__}: {lines[0]}"
        comparisons.append(Comparison(name, version, verdict, message))
    return comparisons


def compare_kernel(
    path: str | PathLike, model: GraphSNN, events: torch.Tensor, conventions: dict[str, object]
) -> tuple[str, str]:
    """Compare the kernel of the event engine with the dense engine.

    Parameters
    ----------
    path : str or Path
        The NIR file.
    model : GraphSNN
        The network with the dense engine.
    events : Tensor of shape (B, T, ...)
        Input of both.
    conventions : dict
        Arguments of ``from_nir`` with which the file was read.

    Returns
    -------
    verdict : {"same", "differs"}
    message : str
        The first difference.
    """
    kernel = from_nir(path, engine="event", **conventions)
    difference = first_difference(kernel(events, record="all"), model(events, record="all"))
    if difference:
        return "differs", str(difference)
    return "same", ""


def compare_simulator(
    name: str, path: str | PathLike, model: GraphSNN, events: torch.Tensor
) -> tuple[str, str]:
    """Compare another simulator with a network as it was read here.

    Parameters
    ----------
    name : str
        The simulator, one of `SIMULATORS`.
    path : str or Path
        The NIR file.
    model : GraphSNN
        The network as it was read here.
    events : Tensor of shape (B, T, ...)
        Input of both.

    Returns
    -------
    verdict : {"same", "differs", "fails"}
    message : str
        The first difference, or what was compared.
    """

    def make_network():
        return SIMULATORS[name](nir_package().read(path), model.dt)

    # What importers print and warn of is not about our question.
    with (
        warnings.catch_warnings(action="ignore"),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        sent = sent_by_modules(name, make_network, events)
    return compare_nodes(model, events, sent)


def compare_nodes(
    model: GraphSNN, events: torch.Tensor, sent: dict[str, torch.Tensor]
) -> tuple[str, str]:
    """Compare what the nodes of another simulator have sent with a ``GraphSNN``.

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
    message : str
        The first difference, or what was compared.
    """
    ours = model(events, record=dict.fromkeys(model.layers[1:], "spikes"))
    counts = {}  # (T, B, ...); Norse's Flatten takes in a batch of one
    for name in model.layers[1:]:
        if name not in sent:
            return "fails", f"it has no node {name!r}"
        counts[name] = sent[name].reshape(ours.recorded[name]["spikes"].shape)

    theirs = {name: {"spikes": count != 0} for name, count in counts.items()}
    difference = first_difference(ours, ours._replace(recorded=ours.recorded | theirs))
    if difference:
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
