"""A NIR file as nodes and edges: read with the nir that is installed, and flat."""

import inspect
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from self_models.errors import ModelError

if TYPE_CHECKING:
    import nir


def nir_package() -> ModuleType:
    """Import the package nir, and return it: no other file does.

    It brings HDF5, which nothing else needs, so it is imported when it is first used.
    """
    import nir

    return nir


def read(source: "str | Path | nir.NIRGraph") -> tuple["nir.NIRGraph", str]:
    """Read a file, if it is one.

    Parameters
    ----------
    source : str, Path or nir.NIRGraph
        The file, or its graph.

    Returns
    -------
    graph : nir.NIRGraph
        The graph.
    label : str
        What messages call it.

    Raises
    ------
    ModelError
        If the file cannot be read.
    """
    nir = nir_package()
    if isinstance(source, nir.NIRGraph):
        return source, "this graph"
    try:
        graph = read_graph(source)
    except FileNotFoundError:
        raise ModelError(f"{source}: no such file") from None
    except Exception as error:  # whatever a damaged file makes h5py and nir raise
        lines = str(error).splitlines() or [type(error).__name__]
        raise ModelError(
            f"{source} is no NIR file that can be read ({lines[0]}): "
            "use another copy, or write it again"
        ) from None
    return graph, str(source)


def read_graph(path: str | Path) -> "nir.NIRGraph":
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
    nir = nir_package()
    if "type_check" in inspect.signature(nir.read).parameters:
        return nir.read(path, type_check=False)
    if "v_reset" in inspect.signature(nir.LIF).parameters:
        return nir.read(path)

    import h5py
    from nir.serialization import hdf2dict

    with h5py.File(path, "r") as file:
        content = hdf2dict(file["node"])
    v_resets = pop_v_resets(content)
    graph = nir.dict2NIRNode(content)
    for names, value in v_resets.items():
        node = graph
        for name in names:
            node = node.nodes[name]
        node.v_reset = value
    return graph


def pop_v_resets(content: dict, parents: tuple[str, ...] = ()) -> dict:
    """Take v_reset out of a graph's content, and out of graphs within it.

    Parameters
    ----------
    content : dict
        What a file says of a graph. Changed in place.
    parents : tuple of str
        Names of the nodes that lead to this graph.

    Returns
    -------
    dict of {tuple of str: ndarray}
        v_reset by the names of the nodes that lead to it.
    """
    v_resets = {}
    for name, node in content.get("nodes", {}).items():
        path = (*parents, name)
        if "v_reset" in node:
            v_resets[path] = node.pop("v_reset")
        v_resets |= pop_v_resets(node, path)
    return v_resets


def metadata_value(value: object) -> object:
    """Return a value of a file's metadata as a number, text, or an array."""
    if isinstance(value, np.ndarray | np.generic) and np.size(value) == 1:
        value = value.item()
    if isinstance(value, bytes):
        return value.decode()
    return value


def flatten(graph: "nir.NIRGraph", prefix: str = "") -> tuple[dict, list[tuple[str, str]]]:
    """Put the nodes of graphs within a graph beside its own.

    Parameters
    ----------
    graph : nir.NIRGraph
        The graph.
    prefix : str
        What stands before the names of its nodes.

    Returns
    -------
    nodes : dict of {str: nir.NIRNode}
        Name -> node. A node of a graph within is called GRAPH.NODE.
    edges : list of (str, str)
        Source and target, each edge once. One may name a node that is not there, which
        ``Graph`` refuses.

    Raises
    ------
    ModelError
        If a graph within it has no Input or Output, or several.
    """
    nodes = {}
    edges = []
    input_names = {}  # name of a graph within -> that of its Input, to which edges lead
    output_of = {}  # and of its Output, from which edges lead
    for name, node in graph.nodes.items():
        full_name = prefix + name
        if type(node).__name__ != "NIRGraph":
            nodes[full_name] = node
            continue
        inner_nodes, inner_edges = flatten(node, f"{full_name}.")
        nodes |= inner_nodes
        edges += inner_edges
        first, last = ends_of(node, f"the graph {full_name!r} within it")
        input_names[name] = f"{full_name}.{first}"
        output_of[name] = f"{full_name}.{last}"
    for source, target in graph.edges:
        full_source = output_of.get(source, prefix + source)
        full_target = input_names.get(target, prefix + target)
        edges.append((full_source, full_target))
    return nodes, list(dict.fromkeys(edges))


def ends_of(graph: "nir.NIRGraph", label: str) -> tuple[str, str]:
    """Return the names of a graph's Input and of its Output.

    Raises
    ------
    ModelError
        If it has none, or several. ``label``: what the message calls the graph.
    """
    return only_node(graph, "Input", label), only_node(graph, "Output", label)


def only_node(graph: "nir.NIRGraph", kind: str, label: str) -> str:
    """Return the name of the only node of a kind, or raise ModelError."""
    names = [name for name, node in graph.nodes.items() if type(node).__name__ == kind]
    if len(names) != 1:
        raise ModelError(f"{label} must have one {kind}, and has {len(names)}")
    return names[0]
