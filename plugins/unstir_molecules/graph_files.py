"""Graphs from files and to files: GraphML, GML, edge lists, node-link JSON, numpy arrays, our own netCDF.

    .graphml            every <graph> of the file;  .gml  one graph
    .txt .edgelist      a line an edge, "a b" by spaces, tabs or commas; a line of one name is an isolated node; # begins a comment;
    .csv .tsv           the same with a head: columns u and v (or source and target), and graph where there are several
    .json               node-link: {"nodes": [{"id": 1}], "links": [{"source": 1, "target": 2}]}, or a list of such
    .npz                nodes, edges, u, v (ours); NAME_n_nodes, NAME_n_edges, NAME_edges (one set or more); adjacency (graphs, n, n)
    .npy                adjacency (n, n) or (graphs, n, n)
    .nc                 the set as it crosses the border

Weights, names and attributes are not kept; an edge of weight 0 is none. Double edges are merged and self-loops left out, and either is
said once as a warning. A directed graph is refused unless it is asked to be taken as undirected. Pickles are refused: loading one runs
whatever code its author put there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import xarray as xr

from unstir.errors import DataError, UserError
from unstir_molecules.division import Split, divided
from unstir_molecules.graph_formats import READERS, WRITERS, Reading
from unstir_molecules.graphs import Graphs

PICKLES = (".pkl", ".pickle", ".p", ".pt", ".pth", ".joblib")


def read(path: str | os.PathLike[str], *, name: str = "", largest: int = 5000, directed: bool = False) -> Graphs:
    """Graphs of a file.

    Args:
        path: the file, in one of the formats above.
        name: of the set, in an ``.npz`` of several.
        largest: nodes of a graph, at most.
        directed: take directed graphs as undirected?

    Raises:
        DataError: the file is missing, empty, of another kind, or holds something that is no simple graph.
        MissingExtra: GML needs networkx, which is not installed.
    """
    path = Path(path)
    kind = path.suffix.lower()
    if not path.exists():
        raise DataError(f"there is no file {path}")
    if not path.is_file():
        raise DataError(f"{path} is a folder, no file of graphs")
    if kind in PICKLES or _starts_as_pickle(path):
        raise DataError(f"{path} is a pickle, and loading one runs whatever code its author put there; save the graphs as .npz or .graphml")
    if kind not in READERS:
        raise DataError(f"{path} is of no kind that graphs are read from; there are {', '.join(sorted(READERS))}")
    if not path.stat().st_size:
        raise DataError(f"{path} is empty")
    reading = Reading(path, largest, directed, name)
    made = READERS[kind](reading)
    made = made if isinstance(made, Graphs) else Graphs.of_edges(made)
    if not made.nodes.any():
        raise DataError(f"{path} holds no graph{' that has a node' if len(made) else ''}")
    for i in np.flatnonzero(made.nodes > largest)[:1]:
        reading.check_size(int(made.nodes[i]), f"graph {i}")
    reading.empty = int((made.nodes == 0).sum())
    reading.said()
    return made.take(made.nodes > 0) if reading.empty else made


def _starts_as_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(2)
    return start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")


def write(graphs: Graphs, path: str | os.PathLike[str]) -> Path:
    """Write graphs in a format that `read` takes.

    Args:
        graphs: the set.
        path: ``.npz``, ``.graphml``, ``.json``, ``.csv`` or ``.nc``.

    Returns:
        The file.

    Raises:
        UserError: the suffix is another one.
    """
    path = Path(path)
    kind = path.suffix.lower()
    part = path.with_name(f".{path.name}.part{path.suffix}")
    if kind == ".npz":
        np.savez_compressed(part, nodes=graphs.nodes, edges=graphs.edges, u=graphs.u, v=graphs.v)
    elif kind == ".nc":
        graphs.dataset(path.stem).to_netcdf(part, engine="h5netcdf")
    elif kind in WRITERS:
        part.write_text(WRITERS[kind](graphs), encoding="utf-8")
    else:
        raise UserError(f"graphs are written as {', '.join(sorted([*WRITERS, '.nc', '.npz']))}, not as {kind or 'a file without a suffix'}")
    return part.replace(path)


@dataclass(frozen=True)
class GraphFile:
    """Graphs of your own: any file that `read` knows.

    Args:
        path: the file.
        which: of the sets of an ``.npz`` that holds several: its name.
        structure: what a valid graph is: ``"connected"``, ``"planar"``, ``"tree"``, ``"lobster"``, ``"grid"``, ``"sbm"``, or ``"any"``.
        largest: nodes of a graph, at most.
        directed: take directed graphs as undirected?
        test: share of test graphs.
        split: which they are: the ``"first"``, or ``"shuffled"``.
        seed: of the draw.

    Raises:
        UserError: there is no such structure.
    """

    path: str = ""
    which: str = ""
    structure: str = "any"
    largest: int = 5000
    directed: bool = False
    test: float = 0.2
    split: Split = "first"
    seed: int = 0

    card: ClassVar[str] = ""

    def __post_init__(self) -> None:
        from unstir_molecules.structures import STRUCTURES

        if self.structure not in STRUCTURES:
            raise UserError(f"structure must be one of {', '.join(STRUCTURES)}, got {self.structure!r}")

    def load(self) -> Iterator[xr.Dataset]:
        """The file's graphs as one set, with ``split``.

        Raises:
            DataError: no path was given, or what is there is no set of graphs.
        """
        if not self.path:
            raise DataError("graphs/file needs the path of a file: data.path=graphs.npz")
        graphs = read(self.path, name=self.which, largest=self.largest, directed=self.directed)
        key = (self.which or Path(self.path).stem).lower().replace(" ", "-")
        yield divided(graphs, key, split=self.split, test=self.test, seed=self.seed, attrs={"structure": self.structure})
