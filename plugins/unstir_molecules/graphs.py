"""Sets of simple undirected graphs: what crosses the border, and the same in memory.

    nodes   (graph) how many nodes each has
    edges   (graph) how many edges each has
    u, v    (edge)  ends of the edges, u < v, numbered from 0 within a graph; the edges of all graphs one after another, in their order
    label   (node)  kind of each node, the nodes of all graphs one after another; absent where nodes have no kinds
    split   (graph) "train" or "test"; absent where the set is of one kind
    attrs   key, structure ("planar", "tree" ... ; absent where nothing is promised), simulated, said

A graph has no self-loops, no double edges and no weights; its adjacency matrix is symmetric with a zero diagonal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from unstir.errors import DataError
from unstir_molecules.adjacency import checked, networkx, padded, spans
from unstir_molecules.dense import Dense

if TYPE_CHECKING:
    import networkx as nx


Array = NDArray[Any]
CELLS = 4_000_000  # of the padded adjacency matrices that are worked on at a time: 32 MB in float64


@dataclass(frozen=True, eq=False)
class Graphs:
    """A set of graphs as edge lists; `of_edges`, `of_adjacency` and the other makers check and sort what they are given.

    Args:
        nodes: (graphs,) number of nodes of each.
        offsets: (graphs + 1,) where the edges of each begin and end.
        u: (edges,) smaller end, numbered within the graph.
        v: (edges,) larger end.
        labels: (nodes of all graphs,) kind of each node, or ``None``.

    Raises:
        DataError: sizes that disagree, an end that is no node, u >= v, or an edge that comes twice.
    """

    nodes: Array
    offsets: Array
    u: Array
    v: Array
    labels: Array | None = None

    def __post_init__(self) -> None:
        for name in ("nodes", "offsets", "u", "v"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), dtype=np.int64).reshape(-1))
        if self.labels is not None:
            object.__setattr__(self, "labels", np.asarray(self.labels, dtype=np.int64).reshape(-1))
        self._check()
        owner = np.repeat(np.arange(len(self)), self.edges)
        order = np.lexsort((self.v, self.u, owner))
        object.__setattr__(self, "u", self.u[order])
        object.__setattr__(self, "v", self.v[order])
        same = (np.diff(self.u) == 0) & (np.diff(self.v) == 0) & (np.diff(owner) == 0)
        if same.any():
            graph = int(owner[np.flatnonzero(same)[0]])
            raise DataError(f"an edge of graph {graph} comes twice; each edge is given once, with u < v")

    def _check(self) -> None:
        count, edges = len(self.nodes), len(self.u)
        if len(self.offsets) != count + 1 or self.offsets[0] != 0 or self.offsets[-1] != edges or (np.diff(self.offsets) < 0).any():
            raise DataError(f"{count} graphs with {edges} edges need {count + 1} offsets that rise from 0 to {edges}")
        if len(self.v) != edges:
            raise DataError(f"{edges} first ends of edges came with {len(self.v)} second ends")
        if (self.nodes < 0).any():
            raise DataError(f"graph {int(np.flatnonzero(self.nodes < 0)[0])} has a negative number of nodes")
        if self.labels is not None and len(self.labels) != self.nodes.sum():
            raise DataError(f"{int(self.nodes.sum())} nodes came with {len(self.labels)} labels")
        owner = np.repeat(np.arange(count), self.edges)
        wrong = (self.u < 0) | (self.u >= self.v) | (self.v >= self.nodes[owner])
        if wrong.any():
            at = int(np.flatnonzero(wrong)[0])
            graph = int(owner[at])
            asked = f"0 <= u < v < {int(self.nodes[graph])}"
            raise DataError(f"edge ({self.u[at]}, {self.v[at]}) of graph {graph} is not {asked}")

    @classmethod
    def of_edges(cls, graphs: Iterable[tuple[int, Any]], labels: Sequence[Any] | None = None) -> Graphs:
        """Graphs from numbers of nodes and edges.

        Args:
            graphs: for each graph its number of nodes and its edges, (edges, 2) in any order of ends; double edges are merged.
            labels: for each graph the kinds of its nodes.

        Raises:
            DataError: a self-loop, or an end that is no node.
        """
        nodes, found = [], []
        for index, (count, edges) in enumerate(graphs):
            ends = np.sort(np.asarray(edges, dtype=np.int64).reshape(-1, 2), axis=1)
            if (ends[:, 0] == ends[:, 1]).any():
                raise DataError(f"graph {index} has a self-loop at node {int(ends[ends[:, 0] == ends[:, 1]][0, 0])}")
            nodes.append(count)
            found.append(np.unique(ends, axis=0))
        offsets = np.concatenate([[0], np.cumsum([len(ends) for ends in found])]).astype(np.int64)
        every = np.concatenate(found) if found else np.zeros((0, 2), np.int64)
        kinds = None if labels is None else np.concatenate([np.asarray(one, dtype=np.int64).reshape(-1) for one in labels])
        return cls(np.asarray(nodes, dtype=np.int64), offsets, every[:, 0], every[:, 1], kinds)

    @classmethod
    def of_adjacency(cls, matrices: Iterable[Any], sizes: Sequence[int] | None = None) -> Graphs:
        """Graphs from adjacency matrices; any positive entry is an edge.

        Args:
            matrices: (n, n) arrays, or one array (graphs, n, n).
            sizes: numbers of present nodes where the matrices are padded; what lies beyond them must be 0. All of a matrix without.

        Raises:
            DataError: a matrix is not square, not finite, negative, asymmetric, has a self-loop, or an edge of an absent node.
        """
        found = []
        for index, matrix in enumerate(matrices):
            a = checked(matrix, f"adjacency matrix {index}")
            count = len(a) if sizes is None else int(sizes[index])
            if a[count:].any():
                raise DataError(f"adjacency matrix {index} has an edge at an absent node (it has {count} nodes)")
            found.append((count, np.argwhere(np.triu(a, 1))))
        return cls.of_edges(found)

    @classmethod
    def of_networkx(cls, graphs: Iterable[nx.Graph]) -> Graphs:
        """Graphs of networkx; the order of their nodes is kept, weights and attributes are not.

        Args:
            graphs: undirected, without self-loops; parallel edges are merged.

        Raises:
            DataError: a directed graph, or a self-loop.
        """
        found = []
        for index, graph in enumerate(graphs):
            if graph.is_directed():
                raise DataError(f"graph {index} is directed; graph.to_undirected() makes it one that can be used here")
            place = {node: i for i, node in enumerate(graph.nodes)}
            found.append((len(place), [(place[a], place[b]) for a, b in graph.edges()]))
        return cls.of_edges(found)

    @classmethod
    def of_dense(cls, dense: Dense) -> Graphs:
        """Graphs of a padded batch; every kind of edge is an edge.

        Args:
            dense: (B, N) nodes and (B, N, N) edges; kinds of nodes become labels where there is more than one.
        """
        sizes = dense.mask.sum(1).cpu().numpy().astype(np.int64)
        present = (dense.e > 0).triu(1).cpu().numpy()
        owner, u, v = np.nonzero(present)
        offsets = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(sizes)))])
        kinds = dense.x.cpu().numpy()[dense.mask.cpu().numpy()]
        return cls(sizes, offsets, u, v, kinds if kinds.size and kinds.any() else None)

    @classmethod
    def of_dataset(cls, data: xr.Dataset) -> Graphs:
        """Graphs from the set that crosses the border.

        Args:
            data: dims (graph, edge), as at the head of this module.

        Raises:
            DataError: a variable is missing, or the edges are not those of simple graphs.
        """
        missing = [name for name in ("nodes", "edges", "u", "v") if name not in data]
        if missing:
            raise DataError(f"a set of graphs lacks {', '.join(missing)}")
        edges = np.asarray(data["edges"].values, dtype=np.int64)
        offsets = np.concatenate([[0], np.cumsum(edges)])
        return cls(data["nodes"].values, offsets, data["u"].values, data["v"].values, data["label"].values if "label" in data else None)

    def dataset(self, key: str, *, split: Any = None, attrs: Mapping[str, Any] | None = None) -> xr.Dataset:
        """The set as it crosses the border.

        Args:
            key: names the set.
            split: (graphs,) "train" or "test".
            attrs: more facts.
        """
        made: dict[str, Any] = {name: ("graph", getattr(self, name)) for name in ("nodes", "edges")}
        made |= {name: ("edge", getattr(self, name)) for name in ("u", "v")}
        if self.labels is not None:
            made["label"] = ("node", self.labels)
        if split is not None:
            made["split"] = ("graph", np.asarray(split).astype(str))
        return xr.Dataset(made, attrs={"key": key, **(attrs or {})})

    def dense(self, size: int | None = None) -> Dense:
        """The set as one padded batch of a single kind of edge.

        Args:
            size: N, nodes after padding; those of the largest graph when ``None``.

        Raises:
            DataError: a graph has more than ``size`` nodes.
        """
        import torch

        largest = int(self.nodes.max(initial=0))
        if size is not None and size < largest:
            raise DataError(f"a graph has {largest} nodes, and there is room for {size}")
        width = largest if size is None else size
        mask = np.arange(width) < self.nodes[:, None]
        x = np.zeros((len(self), width), dtype=np.int64)
        if self.labels is not None:
            x[mask] = self.labels
        e = self.padded(width).astype(np.int64)
        return Dense(torch.from_numpy(x), torch.from_numpy(e), torch.from_numpy(mask))

    def to_networkx(self) -> list[nx.Graph]:
        """The graphs of networkx, nodes 0 to n - 1, with ``label`` where nodes have kinds."""
        nx = networkx()
        made, starts = [], self.starts
        for i, (count, low, high) in enumerate(zip(self.nodes, self.offsets[:-1], self.offsets[1:], strict=True)):
            graph = nx.Graph()
            graph.add_nodes_from(range(int(count)))
            graph.add_edges_from(zip(self.u[low:high].tolist(), self.v[low:high].tolist(), strict=True))
            if self.labels is not None:
                nx.set_node_attributes(graph, dict(enumerate(self.labels[starts[i] : starts[i + 1]].tolist())), "label")
            made.append(graph)
        return made

    def __len__(self) -> int:
        return len(self.nodes)

    def __getitem__(self, index: int) -> Array:
        """Adjacency matrix (n, n) uint8 of one graph."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"there are {len(self)} graphs, and none has the number {index}")
        index %= len(self)
        made = np.zeros((self.nodes[index],) * 2, dtype=np.uint8)
        u, v = self.ends(index)
        made[u, v] = made[v, u] = 1
        return made

    def __iter__(self) -> Iterator[Array]:
        return (self[i] for i in range(len(self)))

    def __add__(self, other: Graphs) -> Graphs:
        """Both sets, one after the other; node kinds are kept where both have them."""
        labels = None if self.labels is None or other.labels is None else np.concatenate([self.labels, other.labels])
        offsets = np.concatenate([self.offsets, self.offsets[-1] + other.offsets[1:]])
        nodes, u, v = (np.concatenate([getattr(self, name), getattr(other, name)]) for name in ("nodes", "u", "v"))
        return Graphs(nodes, offsets, u, v, labels)

    @cached_property
    def edges(self) -> Array:
        """(graphs,) number of edges of each."""
        return np.diff(self.offsets)

    @cached_property
    def owner(self) -> Array:
        """(edges,) the graph that each edge belongs to."""
        return np.repeat(np.arange(len(self)), self.edges)

    @cached_property
    def starts(self) -> Array:
        """(graphs + 1,) where the nodes of each graph begin when the nodes of all stand one after another."""
        return np.concatenate([[0], np.cumsum(self.nodes)])

    @cached_property
    def digest(self) -> str:
        """Content hash; the same graphs in the same order, with nodes numbered the same, have the same."""
        parts = [self.nodes, self.offsets, self.u, self.v, self.labels if self.labels is not None else np.zeros(0, np.int64)]
        return hashlib.sha256(b"|".join(np.ascontiguousarray(part, dtype="<i8").tobytes() for part in parts)).hexdigest()

    def ends(self, index: int) -> tuple[Array, Array]:
        """Ends u < v of the edges of one graph.

        Args:
            index: which graph.
        """
        part = slice(self.offsets[index], self.offsets[index + 1])
        return self.u[part], self.v[part]

    def degrees(self) -> Array:
        """(nodes of all graphs,) degree of each node, the graphs one after another."""
        first = self.starts[self.owner]
        return np.bincount(np.concatenate([first + self.u, first + self.v]), minlength=int(self.starts[-1]))

    def take(self, index: Any) -> Graphs:
        """Some graphs, in the order asked; a graph may be taken twice.

        Args:
            index: numbers of the graphs, or a mask of bool.
        """
        index = np.asarray(index)
        index = np.flatnonzero(index) if index.dtype == bool else index.astype(np.int64).reshape(-1)
        edges = spans(self.offsets, index)
        offsets = np.concatenate([[0], np.cumsum(self.edges[index])])
        labels = None if self.labels is None else self.labels[spans(self.starts, index)]
        return Graphs(self.nodes[index], offsets, self.u[edges], self.v[edges], labels)

    def permuted(self, seed: int) -> Graphs:
        """The same graphs with their nodes renumbered at random; graph i depends on (seed, i) and its size alone.

        Args:
            seed: of the permutations.
        """
        drawn = [np.random.default_rng([seed, i]).permutation(n) for i, n in enumerate(self.nodes)]
        place = np.concatenate([np.zeros(0, np.int64), *drawn])
        first = self.starts[self.owner]
        ends = np.sort(np.stack([place[first + self.u], place[first + self.v]], 1), axis=1)
        labels = None
        if self.labels is not None:
            labels = np.empty_like(self.labels)
            labels[np.repeat(self.starts[:-1], self.nodes) + place] = self.labels
        return Graphs(self.nodes, self.offsets, ends[:, 0], ends[:, 1], labels)

    def without_isolated(self) -> Graphs:
        """The graphs without their isolated nodes; one without any edge becomes a single node, as the field's post-processing has it."""
        kept = self.degrees() > 0
        count = np.add.reduceat(np.append(kept, False), self.starts[:-1], dtype=np.int64) if len(self) else np.zeros(0, np.int64)
        count = np.where(self.nodes > 0, count, 0)
        place: Array = np.cumsum(kept) - kept
        first = self.starts[self.owner]
        begin = np.append(place, kept.sum())[first]
        u, v = place[first + self.u] - begin, place[first + self.v] - begin
        labels = None if self.labels is None else np.insert(self.labels[kept], np.cumsum(count)[count == 0], 0)
        return Graphs(np.maximum(count, 1), self.offsets, u, v, labels)

    def padded(self, size: int | None = None) -> Array:
        """Adjacency matrices of all graphs in one array.

        Args:
            size: N, at least the nodes of the largest; these when ``None``.

        Returns:
            (graphs, N, N) uint8.
        """
        return padded(self.owner, self.u, self.v, len(self), int(self.nodes.max(initial=0)) if size is None else size)

    def batches(self, waste: float = 1.25, cells: int = CELLS) -> Iterator[tuple[Array, Array]]:
        """Graphs of like size together, as padded adjacency matrices.

        Args:
            waste: how many times as many nodes as the smallest graph the largest of a batch has at most (or four nodes more).
            cells: entries of a batch at most, unless one graph has more.

        Yields:
            Numbers of the graphs (B,), and their adjacency matrices (B, N, N) float64, N the nodes of the largest.
        """
        order = np.argsort(self.nodes, kind="stable")
        begin = 0
        while begin < len(order):
            least = int(self.nodes[order[begin]])
            end = begin + int(np.searchsorted(self.nodes[order[begin:]], max(waste * least, least + 4), side="right"))
            fits = (np.arange(1, end - begin + 1) * self.nodes[order[begin:end]] ** 2) <= cells
            end = begin + max(int(fits.sum()), 1)
            index = order[begin:end]
            yield index, self.take(index).padded(int(self.nodes[index[-1]])).astype(np.float64)
            begin = end


def graph_set(graphs: Graphs | Iterable[Any], key: str = "graphs", *, split: Any = None, attrs: Any = None) -> xr.Dataset:
    """A set of graphs as it crosses the border.

    Args:
        graphs: `Graphs`, or graphs of networkx.
        key: names the set.
        split: (graphs,) "train" or "test".
        attrs: more facts.
    """
    made = graphs if isinstance(graphs, Graphs) else Graphs.of_networkx(graphs)
    return made.dataset(key, split=split, attrs=attrs)


def part(data: xr.Dataset, name: str) -> xr.Dataset:
    """The train or test graphs of a set that says which are which.

    Args:
        data: a set with ``split``.
        name: "train" or "test".

    Returns:
        The graphs of that part, in order, with the attributes of the set.

    Raises:
        DataError: the set has no split, or none of its graphs is of that part.
    """
    key = str(data.attrs.get("key", "graphs"))
    if "split" not in data:
        raise DataError(f"the set {key!r} does not say which of its graphs are for training and which for the test")
    chosen = np.flatnonzero(data["split"].values == name)
    if not len(chosen):
        raise DataError(f"the set {key!r} has no graph in its part {name!r}")
    return Graphs.of_dataset(data).take(chosen).dataset(key, attrs=data.attrs)
