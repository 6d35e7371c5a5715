"""Distance of two sets of molecules by the neighbourhood subgraph pairwise distance kernel, as GDSS uses it.

    phi_(r,d)(G) counts, over atoms v, u at d bonds from each other, {N_r(v), N_r(u)} and N_r(u);      MMD^2 = |mean phi_a - mean phi_b|^2

N_r(v) is what lies within r bonds of v: at every distance, the multiset of labels and degrees of atoms, and of labels of bonds between one
distance and the next. r and d run from 0 to 4, features are hashed into 2^16 places, every (r, d) and then the whole has unit length, and
the kernel is linear, so that no Gram matrix is needed. The estimate is the biased one. Labels are element symbols and bond orders as whole
numbers, an aromatic bond counting 1. The hash is a fixed function of the labels: no order of atoms, no seed of the interpreter changes it.

Where features of two (r, d) meet in a place they add up here; in the original the later overwrites the earlier.

Reference: Costa and De Grave 2010; Jo et al. 2022 (GDSS), arXiv:2202.02514; the definition of the features is that of EDeN.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rdkit import rdBase
from scipy.sparse import coo_matrix, csr_matrix, vstack

from unstir.errors import DataError, UserError
from unstir.plugin.kept import Arrays
from unstir_molecules.each import molecules
from unstir_molecules.remembered import of_distinct

Array = NDArray[Any]
COMPLEXITY = 4
"""Largest radius and largest distance, in bonds."""
PLACES = 1 << 16
"""Length of a feature vector."""
CELLS = 1_000_000
"""Pairs of atoms worked on at a time."""
VERSION = 1


@dataclass(frozen=True)
class Labelled:
    """A graph with labels.

    Args:
        nodes: label of every node.
        edges: pairs of different nodes, each once.
        kinds: label of every edge.
    """

    nodes: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]
    kinds: tuple[str, ...]


def labelled(mol: Any) -> Labelled:
    """The graph of a molecule: element symbols, and bond orders as whole numbers (aromatic 1).

    Args:
        mol: an RDKit molecule.
    """
    bonds = list(mol.GetBonds())
    return Labelled(
        tuple(atom.GetSymbol() for atom in mol.GetAtoms()),
        tuple((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in bonds),
        tuple(str(int(bond.GetBondTypeAsDouble())) for bond in bonds),
    )


@cache
def _of_text(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "little")


def _mixed(value: Array) -> Array:
    """A bijection of 64-bit words that scatters them (the finaliser of splitmix64)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _joined(first: Array, second: Array) -> Array:
    """A hash of an ordered pair of words."""
    return _mixed(first * np.uint64(0x9E3779B97F4A7C15) + _mixed(second + np.uint64(0xD1B54A32D192ED03)))


def features(graphs: Sequence[Labelled], complexity: int = COMPLEXITY) -> csr_matrix:
    """Feature vectors of graphs, each of unit length.

    Args:
        graphs: graphs of at least one node each.
        complexity: largest radius and distance, in edges.

    Returns:
        (graphs, 65536) float64 rows.

    Raises:
        DataError: a graph has no node.
        UserError: the complexity is negative.
    """
    if complexity < 0:
        raise UserError(f"complexity must be at least 0, got {complexity}")
    if empty := [place for place, graph in enumerate(graphs) if not graph.nodes]:
        raise DataError(f"graph {empty[0]} has no node and so no features")
    order = np.argsort([len(graph.nodes) for graph in graphs], kind="stable")
    parts = [_rows([graphs[place] for place in batch], complexity) for batch in _batches(graphs, order)]
    if not parts:
        return csr_matrix((0, PLACES))
    back = np.empty(len(order), dtype=np.int64)
    back[order] = np.arange(len(order))
    return csr_matrix(vstack(parts, format="csr")[back])


def _batches(graphs: Sequence[Labelled], order: Array) -> Iterator[Array]:
    first = 0
    while first < len(order):
        last = first + 1
        while last < len(order) and (last + 1 - first) * len(graphs[order[last]].nodes) ** 2 <= CELLS:
            last += 1
        yield order[first:last]
        first = last


@dataclass(frozen=True)
class _Padded:
    node: Array  # (B, N) word of every node's label and degree, 0 where absent
    there: Array  # (B, N) bool
    edge: Array  # (B, E) word of every edge's label, 0 where absent
    ends: Array  # (B, E, 2)
    hops: Array  # (B, N, N) edges between nodes, -1 beyond reach


def _padded(graphs: Sequence[Labelled], reach: int) -> _Padded:
    count, size = len(graphs), max(len(graph.nodes) for graph in graphs)
    most = max(1, *(len(graph.edges) for graph in graphs)) if graphs else 1
    node, there = np.zeros((count, size), np.uint64), np.zeros((count, size), bool)
    edge, ends = np.zeros((count, most), np.uint64), np.zeros((count, most, 2), np.int64)
    adjacent = np.zeros((count, size, size), np.float32)
    for row, graph in enumerate(graphs):
        there[row, : len(graph.nodes)] = True
        node[row, : len(graph.nodes)] = [_of_text(label) for label in graph.nodes]
        if graph.edges:
            ends[row, : len(graph.edges)] = graph.edges
            edge[row, : len(graph.edges)] = [_of_text(label) for label in graph.kinds]
    rows, places = np.nonzero(edge)
    left, right = ends[rows, places].T
    adjacent[rows, left, right] = adjacent[rows, right, left] = 1.0
    degree = adjacent.sum(-1).astype(np.uint64)
    hops = np.where(there[:, :, None] & np.eye(size, dtype=bool), 0, -1).astype(np.int8)
    for hop in range(1, reach + 1):
        front = (hops == hop - 1).astype(np.float32) @ adjacent
        hops[(front > 0) & (hops < 0)] = hop
    return _Padded(np.where(there, _joined(node, degree), 0), there, np.where(edge > 0, _mixed(edge), 0), ends, hops)


def _neighbourhoods(batch: _Padded, complexity: int) -> tuple[list[Array], list[Array]]:
    """Words (B, N) of what lies within 0 ... complexity edges of every node, and which exist."""
    count, size = batch.there.shape
    far = np.int8(complexity + 1)
    hops = np.where(batch.hops < 0, far, batch.hops)
    row = np.arange(count)[:, None]
    nearer = np.minimum(hops[row, batch.ends[..., 0]], hops[row, batch.ends[..., 1]])  # (B, E, N)
    nearer = np.where((batch.edge > 0)[..., None], nearer, far)
    words, exist = [], []
    running, alive = np.zeros((count, size), np.uint64), batch.there
    for radius in range(complexity + 1):
        if radius:
            inside = nearer == radius - 1
            between = np.where(inside, batch.edge[..., None], 0).sum(1, dtype=np.uint64)
            running = _joined(running, between + np.uint64(2 * radius - 1))
            alive = alive & inside.any(1)
        shell = hops == radius
        alive = alive & shell.any(2)
        running = _joined(running, np.where(shell, batch.node[:, None, :], 0).sum(2, dtype=np.uint64) + np.uint64(2 * radius))
        words.append(running)
        exist.append(alive)
    return words, exist


def _rows(graphs: Sequence[Labelled], complexity: int) -> csr_matrix:
    batch = _padded(graphs, complexity)
    words, exist = _neighbourhoods(batch, complexity)
    found: list[tuple[Array, Array, Array]] = []
    for distance in range(complexity + 1):
        graph, v, u = np.nonzero(batch.hops == distance)
        for radius in range(complexity + 1):
            both = exist[radius][graph, v] & exist[radius][graph, u]
            row, first, second = graph[both], words[radius][graph[both], v[both]], words[radius][graph[both], u[both]]
            kind = np.full(1, 1 + radius * (complexity + 1) + distance, np.uint64)
            pair = _joined(_joined(np.minimum(first, second), np.maximum(first, second)), kind)
            place = np.concatenate([pair, _joined(second, kind)]) & np.uint64(PLACES - 1)
            keys, often = np.unique(np.tile(row, 2) * PLACES + place.astype(np.int64), return_counts=True)
            row = keys // PLACES
            length = np.sqrt(np.bincount(row, often.astype(np.float64) ** 2, minlength=len(graphs)))
            found.append((row, keys % PLACES, often / length[row]))
    row, place, value = (np.concatenate(part) for part in zip(*found, strict=True))
    made = coo_matrix((value, (row, place)), shape=(len(graphs), PLACES)).tocsr()
    length = np.sqrt(made.multiply(made).sum(1))
    return csr_matrix(made.multiply(1.0 / np.asarray(length)))


def embedded(smiles: Iterable[str], *, keep: bool = False) -> csr_matrix:
    """Feature vectors of molecules; distinct ones are looked at once, and remembered.

    Args:
        smiles: SMILES, each a molecule.
        keep: is this a set that comes again in other runs, as a test set does? Then it is remembered on disk too.

    Returns:
        (n, 65536) float64 rows of unit length.

    Raises:
        DataError: one is no molecule.
    """
    found, place = of_distinct("nspdk", [VERSION, COMPLEXITY, PLACES, rdBase.rdkitVersion], smiles, _embedded, keep=keep)
    parts = (found["data"], found["indices"], found["indptr"])
    return csr_matrix(parts, shape=(len(found["indptr"]) - 1, PLACES))[place]


def _embedded(names: list[str]) -> Arrays:
    made = features([labelled(mol) for mol in molecules(names, "NSPDK")])
    return {"data": made.data, "indices": made.indices, "indptr": made.indptr}


def squared_mmd(ours: csr_matrix, theirs: csr_matrix) -> float:
    """Squared maximum mean discrepancy of two sets of feature vectors under the linear kernel.

    Args:
        ours: rows of features.
        theirs: rows of features.

    Returns:
        The biased estimate, at least 0; NaN where a set is empty.
    """
    if not (ours.shape[0] and theirs.shape[0]):
        return float("nan")
    gap = np.asarray(ours.mean(0)).ravel() - np.asarray(theirs.mean(0)).ravel()
    return float(gap @ gap)


def nspdk(ours: Iterable[str], theirs: Iterable[str]) -> float:
    """NSPDK MMD^2 of two sets of molecules.

    Args:
        ours: SMILES, each a molecule.
        theirs: SMILES, each a molecule.

    Returns:
        The biased estimate; it falls as 1 / n + 1 / m for sets of one law, so compare equal sizes only.

    Raises:
        DataError: one is no molecule.
    """
    return squared_mmd(embedded(ours), embedded(theirs))
