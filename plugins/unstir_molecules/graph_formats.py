"""How each kind of file holds graphs: what `unstir_molecules.graph_files` reads and writes by suffix.

Every reader yields (nodes, edges) a graph, nodes by the names of the file, or gives the whole set; faults are named with the file, the
graph and the edge or line.
"""

from __future__ import annotations

import csv
import json
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from zipfile import BadZipFile

import numpy as np
import xarray as xr

from unstir.errors import DataError
from unstir_molecules.adjacency import networkx
from unstir_molecules.graphs import Graphs


@dataclass
class Reading:
    """One file being read: what is allowed, and what was mended.

    Args:
        path: the file, for the sentences.
        largest: nodes of a graph, at most.
        directed: are directed graphs taken as undirected?
        name: of a set in a file of several.
    """

    path: Path
    largest: int = 5000
    directed: bool = False
    name: str = ""
    loops: int = field(default=0, init=False)
    double: int = field(default=0, init=False)
    empty: int = field(default=0, init=False)

    def graph(self, nodes: Iterable[Any], edges: Iterable[tuple[Any, Any, Any]], where: str) -> tuple[int, list[tuple[int, int]]]:
        """A graph from names of nodes and edges with weights.

        Args:
            nodes: names, in order; ends of edges that are not among them follow in the order they come.
            edges: two names and a weight.
            where: names the graph in a sentence.

        Returns:
            Number of nodes, and pairs of numbers, each once.

        Raises:
            DataError: a weight is no number, negative or not finite, or the graph is too large.
        """
        place: dict[Any, int] = {}
        for node in nodes:
            place.setdefault(node, len(place))
        found = set()
        for a, b, weight in edges:
            value = self.weight(weight, f"edge ({a}, {b}) of {where}")
            u, v = (place.setdefault(end, len(place)) for end in (a, b))
            if len(place) > self.largest:
                break
            if value == 0:
                continue
            pair = (min(u, v), max(u, v))
            self.loops += u == v
            self.double += pair in found
            if u != v:
                found.add(pair)
        self.check_size(len(place), where)
        return len(place), sorted(found)

    def weight(self, given: Any, where: str) -> float:
        """An edge's weight as a number.

        Args:
            given: as read; ``None`` for an edge without.
            where: names the edge in a sentence.

        Raises:
            DataError: it is no number, negative or not finite.
        """
        try:
            value = 1.0 if given is None or given == "" else float(given)
        except (TypeError, ValueError) as error:
            raise DataError(f"{where} of {self.path} has the weight {given!r}, which is no number") from error
        if not math.isfinite(value) or value < 0:
            raise DataError(f"{where} of {self.path} has the weight {value:g}; weights must be finite and not negative")
        return value

    def check_size(self, nodes: int, where: str) -> None:
        """Refuse a graph that is too large.

        Args:
            nodes: it has.
            where: names it.

        Raises:
            DataError: it has more than allowed.
        """
        if nodes > self.largest:
            raise DataError(f"{where} of {self.path} has more than {self.largest} nodes; largest says how many are allowed")

    def direct(self, is_directed: bool, where: str) -> None:
        """Refuse a directed graph, unless it was asked for as an undirected one.

        Args:
            is_directed: is it?
            where: names it.

        Raises:
            DataError: it is, and was not asked for.
        """
        if is_directed and not self.directed:
            raise DataError(f"{where} of {self.path} is directed; with directed=True its edges are taken without their direction")

    def said(self) -> None:
        """Say what was mended, once."""
        mended = [(self.loops, "self-loops were left out"), (self.double, "edges that came twice were merged")]
        mended += [(self.empty, "graphs without a node were left out")]
        parts = [f"{count} {what}" for count, what in mended if count]
        if parts:
            warnings.warn(f"{self.path}: {', '.join(parts)}", stacklevel=3)


def _graphml(reading: Reading) -> Iterator[tuple[int, Any]]:
    try:
        root = ElementTree.parse(reading.path).getroot()
    except ElementTree.ParseError as error:
        raise DataError(f"{reading.path} is no XML: {error}") from error
    weights = {key.get("id") for key in root.iter() if _tag(key) == "key" and key.get("attr.name") == "weight"}
    for index, graph in enumerate(one for one in root.iter() if _tag(one) == "graph"):
        where, usual = f"graph {index}", graph.get("edgedefault", "undirected")
        edges = [one for one in graph if _tag(one) == "edge"]
        reading.direct((usual == "directed" and not edges) or any(_is_directed(edge, usual) for edge in edges), where)
        found = []
        for edge in edges:
            if edge.get("source") is None or edge.get("target") is None:
                raise DataError(f"an edge of {where} of {reading.path} lacks its source or its target")
            weight = next((one.text for one in edge if _tag(one) == "data" and one.get("key") in weights), None)
            found.append((edge.get("source"), edge.get("target"), weight))
        yield reading.graph((one.get("id") for one in graph if _tag(one) == "node"), found, where)


def _tag(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _is_directed(edge: ElementTree.Element, usual: str) -> bool:
    return (edge.get("directed") == "true") if edge.get("directed") is not None else usual == "directed"


def _gml(reading: Reading) -> Iterator[tuple[int, Any]]:
    nx = networkx()
    try:
        graph = nx.read_gml(reading.path, label="id")
    except (nx.NetworkXError, ValueError, KeyError) as error:
        raise DataError(f"{reading.path} is no GML: {str(error).splitlines()[0]}") from error
    reading.direct(graph.is_directed(), "the graph")
    yield reading.graph(graph.nodes, ((a, b, weight) for a, b, weight in graph.edges(data="weight")), "the graph")


def _lines(reading: Reading) -> Iterator[tuple[int, Any]]:
    nodes, edges = [], []
    for number, line in enumerate(_text(reading.path).splitlines(), start=1):
        words = line.partition("#")[0].replace(",", " ").split()
        if len(words) > 3:
            raise DataError(f"line {number} of {reading.path} has {len(words)} words; an edge is two names and perhaps a weight")
        nodes += words[:2]
        if len(words) > 1:
            edges.append((words[0], words[1], words[2] if len(words) > 2 else None))
    if nodes:
        yield reading.graph(nodes, edges, "the graph")


def _table(reading: Reading) -> Iterator[tuple[int, Any]]:
    text = _text(reading.path)
    first = text.partition("\n")[0]
    split = "\t" if "\t" in first else ";" if ";" in first else ","
    rows = list(csv.reader(text.splitlines(), delimiter=split))
    head = [cell.strip().lower() for cell in rows[0]]
    ends = next((pair for pair in (("u", "v"), ("source", "target"), ("from", "to")) if set(pair) <= set(head)), None)
    if ends is None:
        yield from _lines(reading) if split != ";" and len(head) > 1 else _refuse_head(reading, head)
        return
    column = {name: head.index(name) for name in (*ends, "graph", "weight") if name in head}
    parts: dict[str, tuple[list[str], list[tuple[str, str, Any]]]] = {}
    for number, row in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(head):
            raise DataError(f"line {number} of {reading.path} has {len(row)} columns, its head has {len(head)}")
        a, b = (row[column[end]].strip() for end in ends)
        nodes, edges = parts.setdefault(row[column["graph"]].strip() if "graph" in column else "", ([], []))
        nodes += [name for name in (a, b) if name]
        if a and b:
            edges.append((a, b, row[column["weight"]] if "weight" in column else None))
    for key, (nodes, edges) in parts.items():
        yield reading.graph(nodes, edges, f"graph {key}" if key else "the graph")


def _refuse_head(reading: Reading, head: list[str]) -> Iterator[tuple[int, Any]]:
    words = f"the columns {', '.join(head)}" if len(head) > 1 else f"the one column {head[0]!r}" if any(head) else "no head"
    raise DataError(f"{reading.path} has {words}; a table of edges has u and v, or source and target")


def _node_link(reading: Reading) -> Iterator[tuple[int, Any]]:
    try:
        found = json.loads(_text(reading.path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise DataError(f"{reading.path} is no JSON: {error}") from error
    for index, one in enumerate(found if isinstance(found, list) else [found]):
        where = f"graph {index}"
        links = one.get("links", one.get("edges")) if isinstance(one, dict) else None
        if not isinstance(links, list) or not isinstance(one.get("nodes"), list):
            raise DataError(f"{where} of {reading.path} lacks its nodes or its links (node-link JSON)")
        reading.direct(bool(one.get("directed", False)), where)
        try:
            nodes = [node["id"] for node in one["nodes"]]
            edges = [(link["source"], link["target"], link.get("weight")) for link in links]
            yield reading.graph(nodes, edges, where)
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{where} of {reading.path} has a node without id, or a link without source and target") from error


def _arrays(reading: Reading) -> Graphs:
    try:
        with reading.path.open("rb") as file:
            found = np.load(file, allow_pickle=False)
            held = {"adjacency": found} if isinstance(found, np.ndarray) else {key: found[key] for key in found.files}
    except (ValueError, OSError, EOFError, KeyError, BadZipFile) as error:
        raise DataError(f"{reading.path} is no file of plain numpy arrays: {str(error).partition('. ')[0]}") from error
    if {"nodes", "edges", "u", "v"} <= set(held):
        nodes, edges, u, v = (_whole(reading, held, key) for key in ("nodes", "edges", "u", "v"))
        return _listed(reading, nodes, edges, u, v, _whole(reading, held, "label") if "label" in held else None)
    if "adjacency" in held:
        return _matrices(reading, held["adjacency"], _whole(reading, held, "nodes") if "nodes" in held else None)
    names = [key.removesuffix("_n_nodes") for key in held if key.endswith("_n_nodes")]
    names = [key for key in names if {f"{key}_n_edges", f"{key}_edges"} <= set(held)]
    if not names:
        raise DataError(f"{reading.path} has none of: nodes, edges, u, v; adjacency; NAME_n_nodes, NAME_n_edges, NAME_edges")
    if reading.name not in names and (reading.name or len(names) > 1):
        raise DataError(f"{reading.path} holds the sets {', '.join(names)}; name={reading.name!r} is none of them")
    name = reading.name or names[0]
    ends = _whole(reading, held, f"{name}_edges")
    if ends.size % 2:
        raise DataError(f"{name}_edges of {reading.path} has the shape {held[f'{name}_edges'].shape}; edges are pairs")
    ends = np.sort(ends.reshape(-1, 2), axis=1)
    nodes, edges = (_whole(reading, held, f"{name}_{key}") for key in ("n_nodes", "n_edges"))
    return _listed(reading, nodes, edges, ends[:, 0], ends[:, 1])


def _listed(reading: Reading, nodes: Any, edges: Any, u: Any, v: Any, labels: Any = None) -> Graphs:
    if len(nodes) != len(edges) or (edges < 0).any() or edges.sum() != len(u):
        said = f"{len(nodes)} graphs, numbers of edges of {len(edges)} and {len(u)} edges where these add up to {edges.sum()}"
        raise DataError(f"{reading.path} holds {said}")
    try:
        return Graphs(nodes, np.concatenate([[0], np.cumsum(edges)]), u, v, labels)
    except DataError as error:
        raise DataError(f"{reading.path}: {error}") from error


def _whole(reading: Reading, held: dict[str, Any], key: str) -> Any:
    """An array of whole numbers, flat."""
    flat = np.asarray(held[key]).reshape(-1)
    if flat.size and (flat.dtype.kind not in "iuf" or (flat.dtype.kind == "f" and not (flat == np.floor(flat)).all())):
        raise DataError(f"{key} of {reading.path} must be whole numbers, got {flat.dtype} as {flat[0]}")
    return flat.astype(np.int64)


def _matrices(reading: Reading, found: Any, sizes: Any) -> Graphs:
    a = np.asarray(found)
    if a.ndim not in (2, 3):
        raise DataError(f"{reading.path} holds an array of shape {a.shape}; adjacency matrices are (n, n) or (graphs, n, n)")
    stack = a[None] if a.ndim == 2 else a
    reading.check_size(stack.shape[-1], "a graph")
    if sizes is not None and (len(sizes) != len(stack) or (sizes < 0).any() or (sizes > stack.shape[-1]).any()):
        raise DataError(f"nodes of {reading.path} must be {len(stack)} numbers from 0 to {stack.shape[-1]}, one a matrix")
    if a.dtype.kind in "biuf" and stack.shape[-1] == stack.shape[-2]:
        loops = stack.diagonal(axis1=1, axis2=2) > 0
        reading.loops += int(loops.sum())
        turned = stack != stack.transpose(0, 2, 1)
        if np.isfinite(stack).all() and turned.any():
            reading.direct(True, f"graph {int(np.argwhere(turned)[0, 0])} (its matrix is not symmetric)")
            stack = np.maximum(stack, stack.transpose(0, 2, 1))
        keep = ~(loops[:, :, None] & np.eye(stack.shape[-1], dtype=bool))
        stack = np.where(keep, stack, 0)
    try:
        return Graphs.of_adjacency(stack, None if sizes is None else sizes.tolist())
    except DataError as error:
        raise DataError(f"{reading.path}: {error}") from error


def _border(reading: Reading) -> Graphs:
    try:
        with xr.open_dataset(reading.path, engine="h5netcdf") as file:
            found = file.load()
    except (OSError, ValueError) as error:
        raise DataError(f"{reading.path} is no netCDF file: {error}") from error
    try:
        return Graphs.of_dataset(found)
    except DataError as error:
        raise DataError(f"{reading.path}: {error}") from error


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text in UTF-8 (byte {error.start}); save it as such") from error


def _as_graphml(graphs: Graphs) -> str:
    lines = ['<?xml version="1.0" encoding="utf-8"?>', '<graphml xmlns="http://graphml.graphdrawing.org/xmlns">']
    for i, count in enumerate(graphs.nodes.tolist()):
        lines.append(f'<graph id="g{i}" edgedefault="undirected">')
        lines += [f'<node id="n{node}"/>' for node in range(count)]
        lines += [f'<edge source="n{u}" target="n{v}"/>' for u, v in zip(*(ends.tolist() for ends in graphs.ends(i)), strict=True)]
        lines.append("</graph>")
    return "\n".join([*lines, "</graphml>", ""])


def _as_json(graphs: Graphs) -> str:
    every = []
    for i, count in enumerate(graphs.nodes.tolist()):
        links = [{"source": u, "target": v} for u, v in zip(*(ends.tolist() for ends in graphs.ends(i)), strict=True)]
        every.append({"directed": False, "multigraph": False, "nodes": [{"id": node} for node in range(count)], "links": links})
    return json.dumps(every)


def _as_table(graphs: Graphs) -> str:
    lines = ["graph,u,v"]
    for i, count in enumerate(graphs.nodes.tolist()):
        lines += [f"{i},{node}," for node in range(count)]
        lines += [f"{i},{u},{v}" for u, v in zip(*(ends.tolist() for ends in graphs.ends(i)), strict=True)]
    return "\n".join([*lines, ""])


READERS: dict[str, Callable[[Reading], Any]] = {".graphml": _graphml, ".xml": _graphml, ".gml": _gml, ".json": _node_link, ".nc": _border}
READERS |= dict.fromkeys((".txt", ".edgelist", ".edges"), _lines) | dict.fromkeys((".csv", ".tsv"), _table)
READERS |= dict.fromkeys((".npz", ".npy"), _arrays)
WRITERS: dict[str, Callable[[Graphs], str]] = {".graphml": _as_graphml, ".json": _as_json, ".csv": _as_table}
