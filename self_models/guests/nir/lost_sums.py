"""Sums that snnTorch's exporter loses, put back into the graph.

Where forward() adds two signals before a neuron n, as in ``n(conv(b) + a)``, the file
has neither the sum nor an edge from ``conv`` and ``a`` to ``n``. Instead ``n`` has an
Input of its own, and an edge leads from ``conv`` to an Output:

    written:  input_n -> n        conv -> output        a
    meant:    conv -> n <- a

``conv`` is called the dangling term here, since its edge to the Output leads nowhere;
``a`` the spiking term, since it sends spikes that go elsewhere, too.
"""

import copy
import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from self_models.basics import ModelError
from self_models.runtime.graph import depth_first_search

if TYPE_CHECKING:
    import nir

Edge = tuple[str, str]  # source, target


class Terms(NamedTuple):
    """What may be the terms of a lost sum.

    Attributes
    ----------
    dangling : list of Edge
        Edges to an Output whose sources may be the first term.
    spiking : list of str
        Names of nodes that may be the other term.
    """

    dangling: list[Edge]
    spiking: list[str]


def restore_sums(graph: "nir.NIRGraph", like: str | None) -> "nir.NIRGraph":
    """Put back the sums that snnTorch's exporter has lost.

    A sum is put back, with a warning, where only one dangling and one spiking term can
    be meant. Each sum that is put back may make another one certain.

    Parameters
    ----------
    graph : nir.NIRGraph
        The graph of a file, which stays as it is.
    like : str or None
        The simulator that wrote it.

    Returns
    -------
    nir.NIRGraph
        A copy with these sums.

    Raises
    ------
    ModelError
        If several terms can be meant, with lines of Python that mend the graph. And if
        snnTorch wrote a graph whose last node is no neuron, but may take a sum: of such
        a sum nothing is left in the file.
    """
    mended = copy.copy(graph)
    mended.nodes = dict(graph.nodes)
    mended.edges = list(graph.edges)
    lost = extra_input_edges(graph)
    # If one of them has no dangling term, the file is of another program, and means it
    while lost and all(find_terms(mended, target).dangling for _, target in lost):
        candidates = candidate_terms(mended, lost, graph.edges)
        certain = [edge for edge, terms in candidates.items() if is_certain(terms)]
        if not certain:
            raise ModelError(
                "its exporter has lost sums. Before nir.write, put back what forward() "
                f"adds: {'; '.join(map(mending_lines, candidates.items()))}"
            )
        edge = certain[0]
        names = put_back(mended, edge, candidates[edge])
        warnings.warn(
            f"{edge[1]!r} is read as {' + '.join(names)}, a guess: "
            "the file has lost how forward() joins them",
            stacklevel=3,
        )
        lost.remove(edge)

    last_nodes = drop_dangling_outputs(mended)
    if like == "snntorch":
        for name in last_nodes:
            if not sends_spikes(graph.nodes[name]) and find_terms(mended, name).spiking:
                raise ModelError(
                    f"it ends in {name!r}, no neuron; one that takes a sum is lost there: "
                    "add nn.Flatten() in any case"
                )
    return mended


def extra_input_edges(graph: "nir.NIRGraph") -> list[Edge]:
    """Return the edges from Inputs other than the one that is called "input"."""
    if "input" not in graph.nodes:
        return []
    inputs = [name for name, node in graph.nodes.items() if type(node).__name__ == "Input"]
    return [edge for edge in graph.edges if edge[0] in inputs and edge[0] != "input"]


def candidate_terms(
    mended: "nir.NIRGraph", lost: list[Edge], written_edges: list[Edge]
) -> dict[Edge, Terms]:
    """Return, for each edge from an extra Input, what may be the terms of its sum.

    Parameters
    ----------
    mended : nir.NIRGraph
        The graph as it is now.
    lost : list of Edge
        Edges from extra Inputs.
    written_edges : list of Edge
        Edges of the graph as it was in the file.
    """
    all_terms = {edge: find_terms(mended, edge[1]) for edge in lost}
    # An edge belongs to one sum: what is the only candidate of one is none of another.
    taken = [terms.dangling[0] for terms in all_terms.values() if len(terms.dangling) == 1]
    candidates = {}
    for edge, terms in all_terms.items():
        free = [dangling for dangling in terms.dangling if dangling not in taken]
        dangling = free or terms.dangling
        # Those that lead to the other term come first, as in conv(a) + a
        targets = {source for source, _ in dangling}
        leading = {source for source, target in written_edges if target in targets}
        first = [name for name in terms.spiking if name in leading]
        rest = [name for name in terms.spiking if name not in leading]
        candidates[edge] = Terms(dangling, first + rest)
    return candidates


def is_certain(terms: Terms) -> bool:
    """Return whether only one sum can be meant."""
    return len(terms.dangling) == len(terms.spiking) == 1


def changed_edges(edge: Edge, terms: Terms) -> tuple[list[Edge], list[Edge]]:
    """Return the edges that go, and those that come, where a sum is put back.

    If there are more candidates than needed, a sum of two terms is put back.
    """
    _, target = edge
    names = term_names(terms)
    gone = [edge, *terms.dangling]
    count = max(2, len(terms.dangling))
    new = [(name, target) for name in names[:count]]
    return gone, new


def term_names(terms: Terms) -> list[str]:
    """Return the names of all nodes that may be terms."""
    return [source for source, _ in terms.dangling] + terms.spiking


def put_back(mended: "nir.NIRGraph", edge: Edge, terms: Terms) -> list[str]:
    """Put a sum back into the graph, in place, and return the names of its terms."""
    gone, new = changed_edges(edge, terms)
    mended.edges = [other for other in mended.edges if other not in gone] + new
    del mended.nodes[edge[0]]  # the Input
    return term_names(terms)


def mending_lines(candidate: tuple[Edge, Terms]) -> str:
    """Return lines of Python that put back a sum, for somebody to choose its terms."""
    edge, terms = candidate
    source, target = edge
    gone, new = changed_edges(edge, terms)
    names = ", ".join(map(repr, term_names(terms)))
    return (
        f"into {target!r}, of {names}: del graph.nodes[{source!r}]; graph.edges = "
        f"[e for e in graph.edges if e not in {gone}] + {new}"
    )


def drop_dangling_outputs(mended: "nir.NIRGraph") -> list[str]:
    """Delete Outputs to which no edge is left; return the nodes before the others."""
    last_nodes = {}  # Output -> the node that leads to it
    for source, target in mended.edges:
        is_output = type(mended.nodes.get(target)).__name__ == "Output"
        if is_output and source in mended.nodes:
            last_nodes[target] = source
    if last_nodes:
        for name, node in list(mended.nodes.items()):
            if type(node).__name__ == "Output" and name not in last_nodes:
                del mended.nodes[name]
    return list(last_nodes.values())


def find_terms(graph: "nir.NIRGraph", target: str) -> Terms:
    """Find what may be the terms of a lost sum into a node.

    All have the shape of the node's output, and none comes behind the node.
    """
    shapes = {}
    for name, node in graph.nodes.items():
        shapes[name] = np.ravel((node.output_type or {}).get("output")).tolist()
    sources = {name: [] for name in shapes}
    for source, receiver in graph.edges:
        if receiver in sources and source in shapes:
            sources[receiver].append(source)
    fitting = []
    for name, shape in shapes.items():
        has_shape = shape == shapes.get(target)
        if has_shape and target not in depth_first_search(name, sources).finished:
            fitting.append(name)

    dangling = []
    for source, receiver in graph.edges:
        if source in fitting and type(graph.nodes.get(receiver)).__name__ == "Output":
            dangling.append((source, receiver))
    # The node before the Output that is meant sends spikes: it is a term only if need
    # be
    silent = [edge for edge in dangling if not sends_spikes(graph.nodes[edge[0]])]
    dangling = silent or dangling
    taken = dict(dangling)
    spiking = []
    for name in fitting:
        if sends_spikes(graph.nodes[name]) and name not in taken:
            spiking.append(name)
    return Terms(dangling, spiking)


def sends_spikes(node: object) -> bool:
    """Return whether a node sends spikes, or may be a graph or Flatten of what does."""
    return hasattr(node, "v_threshold") or type(node).__name__ in ("NIRGraph", "Flatten")
