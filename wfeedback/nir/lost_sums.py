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

from self_models.errors import ModelError
from self_models.running.graph import depth_first_search

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

    Where forward() computes ``n(conv(b) + a)``, the file has neither the sum nor an
    edge from its terms ``conv`` and ``a`` to ``n``, but an extra Input and Output:

        written:  input_n -> n        conv -> output        a
        put back: conv -> n <- a

    ``conv``, whose edge leads to an Output, is the dangling term here, and ``a``, which
    sends spikes that go elsewhere, too, is the spiking term. Where just one of each can
    be meant, the sum is put back with a warning, which names the line that has called
    the caller of this function, ``from_nir``. That may make the next sum certain, since
    its terms are no longer candidates of others.

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
    mended = copy_of_graph(graph)
    lost = extra_input_edges(graph)  # one for each lost sum: (Input, node that takes it)
    # An extra Input without a dangling term for its sum is there on purpose: the file
    # then is of another program, whose graphs have several Inputs, and is left alone.
    while lost and all(find_terms(mended, target).dangling for _, target in lost):
        # mended has what is put back so far; the order of candidates is that of the
        # edges that the file itself has.
        candidates = candidate_terms(mended, lost, graph.edges)
        certain = [edge for edge, terms in candidates.items() if is_certain(terms)]
        if not certain:
            raise ModelError(
                "its exporter has lost sums. Before nir.write, put back what forward() "
                f"adds: {'; '.join(map(mending_lines, candidates.items()))}"
            )
        edge = certain[0]
        names = term_names(candidates[edge])
        put_back_in_place(mended, edge, candidates[edge])
        warnings.warn(
            f"{edge[1]!r} is read as {' + '.join(names)}, a guess: "
            "the file has lost how forward() joins them",
            stacklevel=3,  # the user's line that calls from_nir()
        )
        lost.remove(edge)

    delete_unused_outputs(mended)
    if like == "snntorch":
        check_last_nodes(mended)
    return mended


def copy_of_graph(graph: "nir.NIRGraph") -> "nir.NIRGraph":
    """Return a graph of the same nodes, with a dict and a list of its own."""
    own = copy.copy(graph)
    own.nodes = dict(graph.nodes)
    own.edges = list(graph.edges)
    return own


def check_last_nodes(mended: "nir.NIRGraph") -> None:
    """Raise ModelError where a neuron that takes a sum may be lost at a graph's end.

    If the last node before an Output sends no spikes, such as a convolution, and there
    is a spiking node whose signal could be added to its own, a neuron may have followed
    that took both. Of such a neuron snnTorch's exporter writes nothing.
    """
    for name in nodes_before_outputs(mended).values():
        if not sends_spikes(mended.nodes[name]) and find_terms(mended, name).spiking:
            raise ModelError(
                f"it ends in {name!r}, no neuron; one that takes a sum is lost there: "
                "add nn.Flatten() in any case"
            )


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

    For each sum of forward(), such as ``n(conv(b) + a)``, snnTorch's exporter writes an
    extra Input with an edge to ``n``, in place of edges from the terms ``conv`` and
    ``a``. ``find_terms`` finds candidates by shape. With several sums, one may be found
    for two of them, and this narrows them down. For example, let there be two sums, and
    the first one have only the candidate ``conv1``, the second ``conv1`` and ``conv2``:
    then ``conv1`` is the first one's, and ``conv2`` the second one's.

    Parameters
    ----------
    mended : nir.NIRGraph
        The graph as it is now.
    lost : list of Edge
        Edges from extra Inputs.
    written_edges : list of Edge
        Edges of the graph as it was in the file.

    Returns
    -------
    dict of {Edge: Terms}
        Extra Input and its target -> candidates.
    """
    all_terms = {edge: find_terms(mended, edge[1]) for edge in lost}
    # An edge belongs to one sum: what is the only candidate of one is none of another.
    taken = [terms.dangling[0] for terms in all_terms.values() if len(terms.dangling) == 1]
    candidates = {}
    for edge, terms in all_terms.items():
        free = [dangling for dangling in terms.dangling if dangling not in taken]
        # If none is free, the only candidate that is taken is this sum's own
        dangling = free if free else terms.dangling
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


def put_back_in_place(mended: "nir.NIRGraph", edge: Edge, terms: Terms) -> None:
    """Replace the extra Input of an edge by edges from the terms of its lost sum."""
    gone, new = changed_edges(edge, terms)
    mended.edges = [other for other in mended.edges if other not in gone] + new
    extra_input, _ = edge
    del mended.nodes[extra_input]


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


def nodes_before_outputs(graph: "nir.NIRGraph") -> dict[str, str]:
    """Return for each Output to which an edge leads the node that it comes from.

    An Output has one edge. If a file has more, the last one in the list counts.
    """
    last_nodes = {}
    for source, target in graph.edges:
        if is_output(graph, target) and source in graph.nodes:
            last_nodes[target] = source
    return last_nodes


def delete_unused_outputs(mended: "nir.NIRGraph") -> None:
    """Delete the Outputs to which no edge is left, in place.

    These are the Outputs of dangling terms, whose edges now lead to a sum. If no Output
    has an edge, all stay, so that a message about them counts those of the file.
    """
    used = nodes_before_outputs(mended)
    if not used:
        return
    for name in list(mended.nodes):
        if is_output(mended, name) and name not in used:
            del mended.nodes[name]


def is_output(graph: "nir.NIRGraph", name: str) -> bool:
    """Return whether a node of this name is in a graph, and is a nir.Output.

    Classes of nir are compared by name in this file, since nir is only imported where a
    file is read.
    """
    return type(graph.nodes.get(name)).__name__ == "Output"


def find_terms(graph: "nir.NIRGraph", target: str) -> Terms:
    """Find the nodes whose signals may be added in the lost sum that a node takes.

    snnTorch's exporter drops the sum of ``n(conv(b) + a)`` and the edges of its terms:
    it leaves ``conv -> output``, with an Output of its own, and ``a`` as it is. So a
    term is a node that could send to ``target``, here ``n``, and that either leads to
    an Output (dangling, such as ``conv``), or sends spikes (spiking, such as ``a``).

    Parameters
    ----------
    graph : nir.NIRGraph
        The graph, which is not changed.
    target : str
        Name of the node that takes the sum.

    Returns
    -------
    Terms
        Candidates, in the order of the graph's edges and nodes.
    """
    fitting = nodes_that_may_send_to(graph, target)
    all_dangling = []
    for source, receiver in graph.edges:
        if source in fitting and is_output(graph, receiver):
            all_dangling.append((source, receiver))
    # A spiking node with an edge to an Output is usually the last node of the network,
    # not a term. It counts only where there is no other dangling node.
    silent = [edge for edge in all_dangling if not sends_spikes(graph.nodes[edge[0]])]
    dangling = silent or all_dangling

    dangling_names = {source for source, _ in dangling}
    spiking = []
    for name in fitting:
        if sends_spikes(graph.nodes[name]) and name not in dangling_names:
            spiking.append(name)
    return Terms(dangling, spiking)


def nodes_that_may_send_to(graph: "nir.NIRGraph", target: str) -> list[str]:
    """Return the nodes from which an edge to ``target`` could lead, without a loop.

    Their output has the shape of that of ``target``, which is a neuron and so takes
    this shape, too, and ``target`` is none of their ancestors. Where a file does not
    say a shape, it is [None] here: nodes without a shape fit each other.
    """
    shapes = {}
    for name, node in graph.nodes.items():
        shapes[name] = np.ravel((node.output_type or {}).get("output")).tolist()
    sources = {name: [] for name in shapes}  # node -> nodes that send to it
    for source, receiver in graph.edges:
        if receiver in sources and source in shapes:
            sources[receiver].append(source)
    fitting = []
    for name, shape in shapes.items():
        if shape != shapes.get(target):
            continue
        # All nodes on any path to this one, and the node itself
        ancestors = depth_first_search(name, sources).finished
        if target not in ancestors:
            fitting.append(name)
    return fitting


def sends_spikes(node: object) -> bool:
    """Return whether a node sends spikes, or may be a graph or Flatten of what does."""
    return hasattr(node, "v_threshold") or type(node).__name__ in ("NIRGraph", "Flatten")
