"""Orbit counts of connected graphlets of up to four nodes, by matrix algebra: no compiled counter, no files.

With A the adjacency matrix, d = A 1, C = A^2 without its diagonal, T = A o A^2 (common neighbours of adjacent nodes), t = T 1 / 2 triangles
and c2(x) = x (x - 1) / 2, every non-induced count is a product of these, and the induced counts follow from the densest down:

    o14  K4 at a node                                           o13 = sum_u A c2(T) - 3 o14
    o12 = 1/2 sum_ab A_va A_vb A_ab (T_ab - 1) - 3 o14          o8  = sum_w c2(C) - o12 - o13 - 3 o14
    o11 = t (d - 2) - 2 o13 - 3 o14                             o10 = T (d - 2) - 2 o12 - 2 o13 - 6 o14
    o9  = A t - T 1 - 2 o12 - 3 o14                             o7  = C(d, 3) - o11 - o13 - o14
    o6  = A c2(d - 1) - o9 - o10 - 2 o12 - o13 - 3 o14
    o5  = (d - 1) o A (d - 1) - T 1 - 2 o8 - o10 - 2 o11 - 2 o12 - 4 o13 - 6 o14
    o4  = A^2 (d - 1) - d (d - 1) - 2 t - 2 o8 - 2 o9 - o10 - 4 o12 - 2 o13 - 6 o14
    o3 = t,   o2 = c2(d) - t,   o1 = A (d - 1) - 2 t,   o0 = d

K4 are counted once each, at the node that comes first by (degree, number), among its at most sqrt(2 m) later neighbours.

Reference: Przulj 2007 (orbits), doi:10.1093/bioinformatics/btl301; Hocevar and Demsar 2014 (ORCA, whose numbering this is),
doi:10.1093/bioinformatics/btt717.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unstir_molecules.graphs import Graphs

Array = NDArray[Any]
ORBITS = 15
CELLS = 4_000_000  # entries of the neighbourhoods' matrices worked on at a time


def orbit_counts(graphs: Graphs) -> Array:
    """How often each node lies on each of the 15 orbits of the connected graphlets of two to four nodes.

    Args:
        graphs: the set.

    Returns:
        (nodes of all graphs, 15) int64, the graphs one after another; exact.
    """
    made = np.zeros((int(graphs.starts[-1]), ORBITS), dtype=np.int64)
    for index, a in graphs.batches():
        counts = batch_orbits(a)
        inside = np.arange(a.shape[1]) < graphs.nodes[index][:, None]
        rows = graphs.starts[index][:, None] + np.arange(a.shape[1])
        made[rows[inside]] = counts[inside]
    return made


def batch_orbits(a: Array) -> Array:
    """Orbit counts of a padded batch; absent nodes count nothing.

    Args:
        a: (B, N, N) float64 adjacency matrices, 0 at absent nodes.

    Returns:
        (B, N, 15) int64.
    """
    d = a.sum(-1)
    square = _product(a, a)
    t_edge = a * square
    t1 = t_edge.sum(-1)
    t = t1 / 2
    of = lambda x: np.einsum("bij,bj->bi", a, x)  # noqa: E731
    o14 = _cliques(a)
    o13 = _pairs(t_edge).sum(-1) - 3 * o14
    o12 = 0.5 * (_product(a, a * (t_edge - 1)) * a).sum(-1) - 3 * o14
    c = square
    c[:, np.arange(a.shape[1]), np.arange(a.shape[1])] = 0
    o8 = _pairs(c).sum(-1) - o12 - o13 - 3 * o14
    o11 = t * (d - 2) - 2 * o13 - 3 * o14
    o10 = np.einsum("bij,bj->bi", t_edge, d - 2) - 2 * o12 - 2 * o13 - 6 * o14
    o9 = of(t) - t1 - 2 * o12 - 3 * o14
    o7 = d * (d - 1) * (d - 2) / 6 - o11 - o13 - o14
    o6 = of(_pairs(d - 1)) - o9 - o10 - 2 * o12 - o13 - 3 * o14
    rest = of(d - 1)
    o5 = (d - 1) * rest - t1 - 2 * o8 - o10 - 2 * o11 - 2 * o12 - 4 * o13 - 6 * o14
    o4 = of(rest) - d * (d - 1) - 2 * t - 2 * o8 - 2 * o9 - o10 - 4 * o12 - 2 * o13 - 6 * o14
    o2, o1 = _pairs(d) - t, rest - 2 * t
    return np.rint(np.stack([d, o1, o2, t, o4, o5, o6, o7, o8, o9, o10, o11, o12, o13, o14], -1)).astype(np.int64)


def _product(a: Array, b: Array) -> Array:
    """a @ b of whole numbers; in float32 where that is exact (sums below 2^24)."""
    small = a.shape[-1] ** 2 < 2**24
    return (a.astype(np.float32) @ b.astype(np.float32)).astype(np.float64) if small else a @ b


def _pairs(x: Array) -> Array:
    """c2(x) = x (x - 1) / 2."""
    return x * (x - 1) / 2


def _cliques(a: Array) -> Array:
    """(B, N) complete graphs of four nodes that each node is in."""
    batch, size = a.shape[:2]
    order = np.argsort(a.sum(-1), axis=-1, kind="stable")
    rank = np.argsort(order, axis=-1)
    later = (a > 0) & (rank[:, :, None] < rank[:, None, :])
    owner, node = np.nonzero(later.sum(-1) >= 3)
    made = np.zeros((batch, size))
    width = int(later.sum(-1).max(initial=0))
    step = max(1, CELLS // max(width, 1) ** 2)
    for begin in range(0, len(owner), step):
        g, v = owner[begin : begin + step], node[begin : begin + step]
        near = later[g, v]
        some = int(near.sum(-1).max())
        inside = np.argsort(~near, axis=-1, kind="stable")[:, :some]  # (rows, some) the later neighbours, then nodes that are none
        real = np.take_along_axis(near, inside, -1)
        b = a[g[:, None, None], inside[:, :, None], inside[:, None, :]] * (real[:, :, None] & real[:, None, :])
        closed = ((b @ b) * b).sum(-1) / 2  # triangles at each neighbour
        np.add.at(made, (g, v), closed.sum(-1) / 3)
        np.add.at(made, (g[:, None], inside), closed)
    return made
