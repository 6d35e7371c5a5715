"""Blocks of a graph: a stochastic block model fitted by splitting and merging, and the test whether it is the one asked for.

    description length   DL = - sum_(r <= s) [m_rs ln p_rs + (n_rs - m_rs) ln(1 - p_rs)] + 1/2 k (k + 1)/2 ln(N (N - 1)/2) + N ln k
    p_rs = m_rs / n_rs,   n_rs the pairs of nodes of blocks r and s, m_rs the edges among them

Starting from one block, each is split in turn by the sign of the second eigenvector of its Laplacian, nodes move to the block that
explains their edges best, and a split or a merging of two blocks stays where DL falls.

    test   k in 2 ... 5,  20 <= block <= 40,   mean_rs [1 - F((p_rs - p*_rs)^2 / (p_rs (1 - p_rs) + 1e-6))] > 0.9
           F the chi^2 law of one degree of freedom, p* = 0.3 within a block, 0.005 between blocks

This is not the published number: that takes its blocks from graph-tool's nested fit and a thousand Monte Carlo sweeps. Where the
blocks are as plain as in the benchmark set, both find the same ones.

Reference: Peixoto 2014 (description length), arXiv:1310.4378; Martinkus et al. 2022 (the test), arXiv:2204.01613.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unstir_molecules.graphs import Graphs

Array = NDArray[Any]
WITHIN, BETWEEN = 0.3, 0.005
BLOCKS = (2, 5)
SIZES = (20, 40)
LEAST = 0.9
SWEEPS = 50


def is_sbm(graphs: Graphs) -> Array:
    """(graphs,) bool: the fitted blocks pass the test.

    Args:
        graphs: the set.
    """
    made = np.zeros(len(graphs), dtype=bool)
    possible = (graphs.nodes >= BLOCKS[0] * SIZES[0]) & (graphs.nodes <= BLOCKS[1] * SIZES[1])
    for i in np.flatnonzero(possible):
        a = graphs[int(i)].astype(np.float64)
        made[i] = passes(a, fitted(a))
    return made


def passes(a: Array, block: Array) -> bool:
    """Is a division into blocks the one of the benchmark set?

    Args:
        a: (n, n) adjacency matrix.
        block: (n,) number of each node's block.
    """
    size = np.bincount(block)
    if not BLOCKS[0] <= len(size) <= BLOCKS[1] or size.min() < SIZES[0] or size.max() > SIZES[1]:
        return False
    return plausibility(a, block) > LEAST


def plausibility(a: Array, block: Array) -> float:
    """Mean p-value of the edge densities within and between blocks.

    Args:
        a: (n, n) adjacency matrix.
        block: (n,) number of each node's block.

    Returns:
        Mean over ordered pairs of blocks, a block with itself included.
    """
    from scipy.stats import chi2

    edges, pairs = _counted(a, block)
    found = edges / np.maximum(pairs, 1)
    asked = np.where(np.eye(len(found), dtype=bool), WITHIN, BETWEEN)
    return float(chi2.sf((found - asked) ** 2 / (found * (1 - found) + 1e-6), 1).mean())


def fitted(a: Array) -> Array:
    """Blocks of a graph by description length; the same for every numbering of its nodes, but for ties.

    Args:
        a: (n, n) adjacency matrix.

    Returns:
        (n,) int64, numbered from 0 without gaps.
    """
    block = np.zeros(len(a), dtype=np.int64)
    best = description_length(a, block)
    improved = True
    while improved:
        tried = [_settled(a, made) for made in (*_splits(a, block), *_mergings(block))]
        lengths = [description_length(a, made) for made in tried]
        improved = bool(lengths) and min(lengths) < best - 1e-9
        if improved:
            block, best = tried[int(np.argmin(lengths))], min(lengths)
    return block


def description_length(a: Array, block: Array) -> float:
    """DL of a division, in nats.

    Args:
        a: (n, n) adjacency matrix.
        block: (n,) number of each node's block.
    """
    edges, pairs = _counted(a, block)
    p = edges / np.maximum(pairs, 1)
    whole = np.where((p > 0) & (p < 1), p, 0.5)
    each = np.where((p > 0) & (p < 1), edges * np.log(whole) + (pairs - edges) * np.log1p(-whole), 0.0)
    k, n = len(edges), len(a)
    upper = np.triu_indices(k)
    return float(-each[upper].sum() + 0.25 * k * (k + 1) * np.log(max(n * (n - 1) / 2, 1)) + n * np.log(k))


def _counted(a: Array, block: Array) -> tuple[Array, Array]:
    """Edges and pairs of nodes within and between blocks (k, k), symmetric."""
    z = np.eye(int(block.max(initial=0)) + 1)[block]
    edges, size = z.T @ a @ z, z.sum(0)
    pairs = np.outer(size, size) - np.diag(size)
    own = np.diag_indices(len(size))
    edges[own] /= 2
    pairs[own] /= 2
    return edges, pairs


def _settled(a: Array, block: Array) -> Array:
    """Nodes moved, all at once, to the block that explains their edges best, until none moves or DL stops falling."""
    block = np.unique(block, return_inverse=True)[1]
    length = description_length(a, block)
    for _ in range(SWEEPS):
        edges, pairs = _counted(a, block)
        p = (edges + 0.5) / (pairs + 1.0)  # never 0 or 1, else no node could move
        z = np.eye(len(p))[block]
        joined = a @ z
        others = z.sum(0) - z
        gain = joined @ np.log(p) + (others - joined) @ np.log1p(-p)
        made = np.unique(np.argmax(gain, axis=1), return_inverse=True)[1]
        shorter = description_length(a, made)
        if shorter >= length - 1e-9:
            break
        block, length = made, shorter
    return block


def _splits(a: Array, block: Array) -> list[Array]:
    """Every block halved by the sign of the second eigenvector of its own normalised Laplacian."""
    made = []
    for r in range(int(block.max()) + 1):
        inside = np.flatnonzero(block == r)
        if len(inside) < 2:
            continue
        own = a[np.ix_(inside, inside)]
        root = 1 / np.sqrt(np.maximum(own.sum(1), 1))
        second = np.linalg.eigh(np.diag((own.sum(1) > 0).astype(float)) - own * root[:, None] * root)[1][:, 1]
        half = block.copy()
        half[inside[second > 0]] = block.max() + 1
        made.append(half)
    return made


def _mergings(block: Array) -> list[Array]:
    """Every two blocks in one."""
    k = int(block.max()) + 1
    return [np.where(block == s, r, block) for r in range(k) for s in range(r + 1, k)]
