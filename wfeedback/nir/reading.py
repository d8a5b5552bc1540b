"""``from_nir``: a network of a NIR file, read as its simulator would run it."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from self_models.errors import ModelError
from self_models.running.graph import Graph
from self_models.running.outputs import INPUT
from wfeedback.nir.checks import (
    check_arguments,
    check_time_constants,
    note_on_implied_dt,
    note_on_inverse_r,
    notes_on_nodes,
)
from wfeedback.nir.conventions import (
    DEFAULT_DT,
    LIKE,
    READING,
    RESETS,
    Convention,
    find_convention,
)
from wfeedback.nir.files import ends_of, flatten, metadata_value, read
from wfeedback.nir.graph_snn import GraphSNN
from wfeedback.nir.lost_sums import restore_sums
from wfeedback.nir.nodes import check_shapes, module_of

if TYPE_CHECKING:
    import nir

__all__ = ["LIKE", "READING", "RESETS", "from_nir"]


def from_nir(  # noqa: PLR0913  (one argument for each thing that a file may not say)
    source: "str | Path | nir.NIRGraph",
    dt: float | None = None,
    reset: str | None = None,
    engine: str = "auto",
    like: str | None = None,
    reset_delay: bool | None = None,
    membrane_floor: float | None = None,
    norm_input: bool | dict | None = None,
    tau_syn: float | np.ndarray | dict | None = None,
    max_spikes: int | dict | None = None,
    v_reset: float | np.ndarray | dict | None = None,
) -> GraphSNN:
    """Read a spiking network from a NIR file, ready to run.

    A file does not say everything. An argument given here holds first, then what the
    simulator named by ``like`` takes for granted, then what the file says. Where
    nothing says it, a warning names the value that was taken.

    Parameters
    ----------
    source : str, Path or nir.NIRGraph
        The file, or its graph.
    dt : float, optional
        Duration of a timestep in seconds, by which time constants are read. By default
        what ``like`` says, else the file, else 0.001.
    reset : str, optional
        What a spike does to the membrane potential V. "zero": it becomes ``v_reset``.
        "subtract": the threshold is subtracted. "none": nothing happens.
    engine : {"auto", "event", "dense"}
        What runs the network: the event engine, or PyTorch. "auto": the event engine if
        it supports all nodes.
    like : str, optional
        The simulator that wrote the file, whose conventions then hold: "nir",
        "snntorch", "norse", "sinabs" or "spikingjelly"; by default NIR's own. For each
        of its neurons docs/reference/nir_nodes.md says whether the spikes are the same.
    reset_delay : bool, optional
        Whether the reset comes in the next timestep, as in snnTorch.
    membrane_floor : float, optional
        V does not fall below so many thresholds under 0.
    norm_input : bool or dict of {str: bool}, optional
        Only sinabs: whether its LIF and ExpLeak multiply their input by
        1 - exp(-1 / tau). By default LIF do and ExpLeak do not, as in sinabs. One value
        for all nodes, or one for each node's name.
    tau_syn : float, array or dict of {str: float or array}, optional
        Only sinabs: synaptic time constant of its IAF and LIF, in timesteps. By default
        they have none.
    max_spikes : int or dict of {str: int}, optional
        Only sinabs: most spikes of a neuron in a timestep; 1 is its SingleSpike. By
        default there is no limit, as with MultiSpike.
    v_reset : float, array or dict of {str: float or array}, optional
        V after a spike, instead of what the file says.

    Returns
    -------
    GraphSNN
        The network, in evaluation mode.

    Raises
    ------
    ModelError
        If the file cannot be read, if its graph cannot be run, or if arguments do not
        fit.
    """
    graph, label = read(source)  # the label is what messages call the file
    metadata = {name: metadata_value(value) for name, value in graph.metadata.items()}
    if metadata.get("update") == "phased":
        raise ModelError(
            f"{label}: its layers fire in turn (update phased), which a graph does not: "
            "use its checkpoint"
        )
    given = {  # what the user has said; None where nothing
        "dt": dt,
        "reset": reset,
        "reset_delay": reset_delay,
        "membrane_floor": membrane_floor,
        "norm_input": norm_input,
        "tau_syn": tau_syn,
        "max_spikes": max_spikes,
        "v_reset": v_reset,
    }
    convention = find_convention(metadata, like, given)
    try:
        # Sums come first: the nodes and edges that follow are those of the whole graph.
        # A note is warned of as soon as it is known, since what comes behind it may
        # refuse the file, and the note may then say why.
        parts = graph_parts(restore_sums(graph, like))
        warn_caller(note_on_inverse_r(parts.nodes, convention.dt))
        check_arguments(parts.nodes, convention, like)
        for note in notes_on_nodes(parts.nodes, convention, like, given):
            warn_caller(note)
        # Modules before time constants: a tau of 0 is refused by its node, in words
        # that fit it better.
        modules = make_modules(parts, convention)
        warn_caller(check_time_constants(parts.nodes, convention))
        if not is_dt_chosen(convention.dt, like, dt):
            warn_caller(note_on_implied_dt(parts.nodes, convention))
        graph = Graph(modules, parts.edges, parts.shape, {"output": parts.output})
        check_shapes(graph)
    except ModelError as error:
        raise ModelError(f"{label}: {error}") from None
    model = GraphSNN(graph, convention.dt, engine).eval()
    model.metadata = metadata
    model.convention = convention
    return model


def warn_caller(note: str | None) -> None:
    """Warn with a note, if there is one, at the line that calls `from_nir`."""
    if note:
        warnings.warn(note, stacklevel=3)


class GraphParts(NamedTuple):
    """A NIR graph without graphs in it, and without its Input.

    Attributes
    ----------
    nodes : dict of {str: nir.NIRNode}
        All nodes but the Input.
    edges : list of (str, str)
        Source and target; the source of what arrives is called "input".
    shape : list of int
        Shape of what arrives in a timestep.
    output : str
        Name of the Output.
    """

    nodes: dict
    edges: list[tuple[str, str]]
    shape: list[int]
    output: str


def graph_parts(graph: "nir.NIRGraph") -> GraphParts:
    """Take a NIR graph apart.

    Raises
    ------
    ModelError
        If it has no Input or Output, or several, or if they lie within the graph.
    """
    nodes, edges = flatten(graph)
    first, last = ends_of(graph, "this graph")
    for source, target in edges:
        if target == first:
            raise ModelError(
                f"an edge leads from {source!r} to the input {first!r}: "
                "the input must be the first node"
            )
    for source, target in edges:
        if source == last:
            raise ModelError(
                f"an edge leads from the output {last!r} to {target!r}: "
                "the output must be the last node"
            )
    shape = np.atleast_1d(nodes.pop(first).input_type["input"]).tolist()
    renamed = []
    for source, target in edges:
        renamed.append((INPUT if source == first else source, target))
    return GraphParts(nodes, renamed, shape, last)


def make_modules(parts: GraphParts, convention: Convention) -> dict:
    """Return the module of each node by its name."""
    edges = set(parts.edges)
    recurrent = {source for source, target in edges if (target, source) in edges}
    return {
        name: module_of(name, node, convention, name in recurrent)
        for name, node in parts.nodes.items()
    }


def is_dt_chosen(dt: float, like: str | None, given_dt: float | None) -> bool:
    """Return whether somebody has asked for this length of a timestep.

    Users of SpikingJelly may export with a dt of their own. So of its files, the
    simulator's name alone says nothing of it.
    """
    if like == "spikingjelly":
        return given_dt is not None
    return bool(like or dt != DEFAULT_DT)
