"""Is a generated graph of the kind that the training graphs are? And how many are so, different, and new: V.U.N.

    connected   one component
    planar      connected, and can be drawn in the plane without crossings
    tree        connected, n - 1 edges
    lobster     a tree that is a path, or nothing, once its leaves are cut off twice
    grid        isomorphic to some m x n grid, 2 <= m, n < 20
    sbm         two to five blocks of 20 to 40 nodes, and mean p-value of their edge densities (see `blocks`) above 0.9
    V.U.N. = (isomorphism classes of generated graphs that are valid and hold no training graph) / generated graphs

The share is of all generated graphs, so that it falls with every fault. A graph without nodes is never valid.

Reference: Martinkus et al. 2022 (SPECTRE), arXiv:2204.01613; Vignac et al. 2023 (DiGress), arXiv:2209.14734; Bergmeister et al. 2024
(trees), arXiv:2312.11529.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from unstir.errors import UserError
from unstir_molecules.adjacency import networkx
from unstir_molecules.blocks import is_sbm
from unstir_molecules.graphs import Graphs
from unstir_molecules.isomorphism import isomorphic, novel, uniqueness

Array = NDArray[Any]
Structure = Literal["any", "connected", "planar", "tree", "lobster", "grid", "sbm"]
STRUCTURES: tuple[Structure, ...] = get_args(Structure)
LONGEST = 19  # nodes of the longer side of a grid


@dataclass(frozen=True, eq=False)
class Judged:
    """Validity, uniqueness and novelty of each generated graph.

    Args:
        valid: (graphs,) bool, is of the kind asked for.
        unique: (graphs,) 1 / (graphs of the set isomorphic to it); 0 for one without nodes.
        novel: (graphs,) bool, is isomorphic to no training graph.
    """

    valid: Array
    unique: Array
    novel: Array

    @property
    def vun(self) -> Array:
        """(graphs,) weight of each graph in V.U.N.: its uniqueness where it is valid and novel, else 0; the mean is the number."""
        return np.where(self.valid & self.novel, self.unique, 0.0)


def judged(graphs: Graphs, train: Graphs, structure: Structure = "any") -> Judged:
    """Validity, uniqueness and novelty.

    Args:
        graphs: generated graphs.
        train: training graphs.
        structure: what a valid graph is.
    """
    return Judged(valid(graphs, structure), uniqueness(graphs), novel(graphs, train))


def valid(graphs: Graphs, structure: Structure) -> Array:
    """Which graphs are of a kind.

    Args:
        graphs: the set.
        structure: one of `STRUCTURES`; ``"any"`` asks for a node only.

    Returns:
        (graphs,) bool.

    Raises:
        UserError: there is no such kind.
        MissingExtra: planarity needs networkx, which is not installed.
    """
    if structure not in _TESTS:
        raise UserError(f"structure must be one of {', '.join(STRUCTURES)}, got {structure!r}")
    return _TESTS[structure](graphs) & (graphs.nodes > 0)


def components(graphs: Graphs) -> Array:
    """Number of connected components of each graph, counted and not read off eigenvalues.

    Args:
        graphs: the set.

    Returns:
        (graphs,) int64; 0 for a graph without nodes.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    total = int(graphs.starts[-1])
    first = graphs.starts[graphs.owner]
    a = coo_array((np.ones(len(graphs.u), dtype=np.int8), (first + graphs.u, first + graphs.v)), shape=(total, total))
    count, part = connected_components(a, directed=False) if total else (0, np.zeros(0, dtype=np.int64))
    owner = np.zeros(count, dtype=np.int64)
    owner[part] = np.repeat(np.arange(len(graphs)), graphs.nodes)
    return np.bincount(owner, minlength=len(graphs))


def is_connected(graphs: Graphs) -> Array:
    """(graphs,) bool: one component.

    Args:
        graphs: the set.
    """
    return components(graphs) == 1


def is_planar(graphs: Graphs) -> Array:
    """(graphs,) bool: connected, and can be drawn in the plane without crossings.

    Args:
        graphs: the set.

    Raises:
        MissingExtra: networkx is not installed.
    """
    nx = networkx()
    possible = is_connected(graphs) & (graphs.edges <= np.maximum(3 * graphs.nodes - 6, 3))
    for i in np.flatnonzero(possible):
        possible[i] = nx.check_planarity(graphs.take([i]).to_networkx()[0])[0]
    return possible


def is_tree(graphs: Graphs) -> Array:
    """(graphs,) bool: connected, with one edge less than nodes.

    Args:
        graphs: the set.
    """
    return is_connected(graphs) & (graphs.edges == graphs.nodes - 1)


def is_lobster(graphs: Graphs) -> Array:
    """(graphs,) bool: a tree of which a path, or nothing, is left when its leaves are cut off twice.

    Args:
        graphs: the set.
    """
    first = graphs.starts[graphs.owner]
    u, v, total = first + graphs.u, first + graphs.v, int(graphs.starts[-1])
    there = np.ones(total, dtype=bool)
    for _ in range(2):
        there &= _degrees(u, v, there) > 1
    bent = _degrees(u, v, there) > 2
    crooked = np.bincount(np.repeat(np.arange(len(graphs)), graphs.nodes), bent, minlength=len(graphs)) > 0
    return is_tree(graphs) & ~crooked


def is_grid(graphs: Graphs) -> Array:
    """(graphs,) bool: isomorphic to some m x n grid, 2 <= m, n < 20.

    Args:
        graphs: the set.
    """
    made = np.zeros(len(graphs), dtype=bool)
    for i, (nodes, edges) in enumerate(zip(graphs.nodes.tolist(), graphs.edges.tolist(), strict=True)):
        sides = 2 * nodes - edges  # m + n, as a grid has 2 m n - m - n edges
        root = sides * sides - 4 * nodes
        if root < 0 or (whole := int(round(root**0.5))) ** 2 != root or (sides - whole) % 2:
            continue
        m, n = (sides - whole) // 2, (sides + whole) // 2
        if m >= 2 and n <= LONGEST and m * n == nodes:
            made[i] = isomorphic(graphs, grid(m, n), i)
    return made


def grid(m: int, n: int) -> Graphs:
    """One m x n grid.

    Args:
        m: rows.
        n: columns.
    """
    number = np.arange(m * n).reshape(m, n)
    across, down = (number[:, :-1], number[:, 1:]), (number[:-1], number[1:])
    return Graphs.of_edges([(m * n, np.concatenate([np.stack([a.ravel(), b.ravel()], 1) for a, b in (across, down)]))])


def _degrees(u: Array, v: Array, there: Array) -> Array:
    """Degrees among the nodes that are there."""
    both = there[u] & there[v]
    return np.bincount(np.concatenate([u[both], v[both]]), minlength=len(there))


_TESTS: dict[str, Callable[[Graphs], Array]] = {
    "any": lambda graphs: graphs.nodes > 0,
    "connected": is_connected,
    "planar": is_planar,
    "tree": is_tree,
    "lobster": is_lobster,
    "grid": is_grid,
    "sbm": is_sbm,
}
