"""A NIR file as nodes and edges: read, mended where its exporter has lost a sum, flat."""

import copy
import inspect
import warnings

import numpy as np

from self_models.basics import ModelError
from self_models.runtime.graph import depth_first_search


def read(source):
    """(nir.NIRGraph, its name in messages) of a file or graph. Raises ModelError."""
    import nir  # it brings HDF5, which nothing else needs

    if isinstance(source, nir.NIRGraph):
        return source, "this graph"
    try:
        graph = graph_in(source)
    except FileNotFoundError:
        raise ModelError(f"{source}: no such file") from None
    except Exception as error:  # whatever a damaged file makes h5py and nir raise
        words = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"{source} is no NIR file that can be read ({words}): use another copy, or write it again"
        ) from None
    return graph, str(source)


def graph_in(path):
    """Read a file with the nir that is installed, from 1.0.4 on.

    Up to 1.0.6 nir.read() checks no types, and up to 1.0.5 it knows no v_reset: the
    nodes get it behind its back, as the attribute that they have in later versions.

    Parameters
    ----------
    path : str or Path
        The file.

    Returns
    -------
    nir.NIRGraph
    """
    import nir

    if "type_check" in inspect.signature(nir.read).parameters:
        return nir.read(path, type_check=False)
    if "v_reset" in inspect.signature(nir.LIF).parameters:
        return nir.read(path)

    import h5py
    from nir.serialization import hdf2dict

    with h5py.File(path, "r") as file:
        content = hdf2dict(file["node"])
    resets = taken_resets(content)
    graph = nir.dict2NIRNode(content)
    for place, value in resets.items():
        node = graph
        for name in place:
            node = node.nodes[name]
        node.v_reset = value
    return graph


def taken_resets(content, place=()):
    """Take v_reset out of a graph's content, and of graphs within it.

    Parameters
    ----------
    content : dict
        What a file says of a graph. Changed in place.
    place : tuple of str
        Names of the nodes that lead to this graph.

    Returns
    -------
    dict of {tuple of str: ndarray}
        v_reset by the names of the nodes that lead to it.
    """
    resets = {}
    for name, node in content.get("nodes", {}).items():
        if "v_reset" in node:
            resets[(*place, name)] = node.pop("v_reset")
        resets |= taken_resets(node, (*place, name))
    return resets


def said(value):
    """A value of a file's metadata as Python has it."""
    value = (
        value.item()
        if isinstance(value, (np.ndarray, np.generic)) and np.size(value) == 1
        else value
    )
    return value.decode() if isinstance(value, bytes) else value


def flat(graph, prefix=""):
    """(name -> node, edges) of a graph, those of graphs within it named GRAPH.NODE."""
    nodes, edges, entry, leaving = {}, [], {}, {}
    for name, node in graph.nodes.items():
        full = prefix + name
        entry[name] = leaving[name] = full
        if type(node).__name__ == "NIRGraph":
            inner, more = flat(node, f"{full}.")
            entry[name], leaving[name] = (
                f"{full}.{end}" for end in ends_of(node, f"the graph {full!r} within it")
            )
            nodes, edges = nodes | inner, edges + more
        else:
            nodes[full] = node
    for a, b in graph.edges:
        edges.append(
            (leaving.get(a, prefix + a), entry.get(b, prefix + b))
        )  # Graph refuses one that leads to no node
    return nodes, list(dict.fromkeys(edges))


def with_sums(graph, like):
    """The graph with the sums that snnTorch's exporter loses: of c(b) + a, into neurons n, it leaves an Input of its own to n
    and an edge from c to the Output. A sum is put back, with a warning, where one c and one a can be meant; else a ModelError
    names all that can be, and the lines that mend it. Of neurons at the end it leaves nothing: refused if like is snnTorch."""
    mended = copy.copy(graph)
    mended.nodes, mended.edges = dict(graph.nodes), list(graph.edges)
    inputs = [
        name
        for name, node in graph.nodes.items()
        if type(node).__name__ == "Input" and "input" in graph.nodes
    ]
    lost = [(a, b) for a, b in graph.edges if a in inputs and a != "input"]
    while lost and all(terms_of(mended, to)[0] for _, to in lost):  # else others have written it
        found, unclear = {edge: terms_of(mended, edge[1]) for edge in lost}, []
        sole = [ends[0] for ends, _ in found.values() if len(ends) == 1]
        for (own, to), (ends, others) in found.items():
            ends = [
                edge for edge in ends if edge not in sole
            ] or ends  # an edge belongs to one sum
            others = sorted(
                others, key=lambda name: all((name, c) not in graph.edges for c, _ in ends)
            )  # first as in c(a) + a
            terms = [c for c, _ in ends] + others
            gone, new = [(own, to), *ends], [(term, to) for term in terms[: max(2, len(ends))]]
            if len(ends) == len(others) == 1:
                break
            unclear.append(
                f"into {to!r}, of {', '.join(map(repr, terms))}: del graph.nodes[{own!r}]; graph.edges = "
                f"[e for e in graph.edges if e not in {gone}] + {new}"
            )
        else:
            raise ModelError(
                f"its exporter has lost sums. Before nir.write, put back what forward() adds: {'; '.join(unclear)}"
            )
        warnings.warn(
            f"{to!r} is read as {' + '.join(terms)}, a guess: the file has lost how forward() joins them",
            stacklevel=3,
        )
        mended.edges = [edge for edge in mended.edges if edge not in gone] + new
        del mended.nodes[own]
        lost.remove((own, to))
    last = {
        b: a
        for a, b in mended.edges
        if type(mended.nodes.get(b)).__name__ == "Output" and a in mended.nodes
    }
    for name in [
        each
        for each, node in mended.nodes.items()
        if last and type(node).__name__ == "Output" and each not in last
    ]:
        del mended.nodes[name]  # it was that of c
    for name in last.values() if like == "snntorch" else ():
        if not sends_spikes(graph.nodes[name]) and terms_of(mended, name)[1]:
            raise ModelError(
                f"it ends in {name!r}, no neuron; one that takes a sum is lost there: add nn.Flatten() in any case"
            )
    return mended


def terms_of(graph, to):
    """(edges to the Output, nodes that send spikes): the source of one and one of the others may be the sum into a node whose
    input is lost. All have its shape, and none comes behind the node."""
    shapes = {
        name: np.ravel((node.output_type or {}).get("output")).tolist()
        for name, node in graph.nodes.items()
    }
    sources = {name: [a for a, b in graph.edges if b == name and a in shapes] for name in shapes}
    fit = [
        name
        for name in shapes
        if shapes[name] == shapes.get(to) and to not in depth_first_search(name, sources).finished
    ]
    ends = [
        (a, b)
        for a, b in graph.edges
        if a in fit and type(graph.nodes.get(b)).__name__ == "Output"
    ]
    ends = [
        edge for edge in ends if not sends_spikes(graph.nodes[edge[0]])
    ] or ends  # the Output's own only if need be
    return ends, [
        name for name in fit if sends_spikes(graph.nodes[name]) and name not in dict(ends)
    ]


def sends_spikes(node):
    return hasattr(node, "v_threshold") or type(node).__name__ in ("NIRGraph", "Flatten")


def ends_of(graph, which):
    """Names of its Input and its Output."""
    ends = []
    for kind in ("Input", "Output"):
        ends += (
            names := [name for name, node in graph.nodes.items() if type(node).__name__ == kind]
        )
        if len(names) != 1:
            raise ModelError(f"{which} must have one {kind}, and has {len(names)}")
    return ends
