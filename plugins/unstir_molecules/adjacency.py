"""Adjacency matrices: checked at the door, and padded so that graphs of several sizes make one array.

    A (n, n),  A = A^T,  A_ii = 0,  A_ij in {0, 1}

An entry says whether there is an edge; kinds of edges are those of `unstir_molecules.dense`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unstir.errors import DataError, MissingExtra

Array = NDArray[Any]


def checked(matrix: Any, name: str) -> Array:
    """An adjacency matrix that is one: square, finite, not negative, symmetric, with a zero diagonal.

    Args:
        matrix: (n, n) numbers.
        name: what an error calls it.

    Raises:
        DataError: it is not; the sentence names the first fault and where it is.
    """
    a = np.asarray(matrix)
    if a.ndim != 2 or a.shape[0] != a.shape[1]:
        raise DataError(f"{name} has the shape {a.shape}; it must be square")
    if a.dtype.kind not in "biuf":
        raise DataError(f"{name} holds {a.dtype}, not numbers")
    faults = [("is not finite", ~np.isfinite(a)), ("is negative", np.less(a, 0)), ("is not that of its mirror image", a != a.T)]
    for fault, where in faults:
        if where.any():
            i, j = (int(k) for k in np.argwhere(where)[0])
            raise DataError(f"entry ({i}, {j}) of {name} {fault}: {a[i, j]}")
    if a.diagonal().any():
        raise DataError(f"{name} has a self-loop at node {int(np.flatnonzero(a.diagonal())[0])}")
    return a


def padded(owner: Array, u: Array, v: Array, count: int, size: int) -> Array:
    """Adjacency matrices of several graphs.

    Args:
        owner: (edges,) the graph that each edge belongs to.
        u: (edges,) one end.
        v: (edges,) the other.
        count: of the graphs.
        size: N, at least the nodes of the largest.

    Returns:
        (count, N, N) uint8.
    """
    made = np.zeros((count, size, size), dtype=np.uint8)
    made[owner, u, v] = made[owner, v, u] = 1
    return made


def spans(offsets: Array, index: Array) -> Array:
    """Positions offsets[i] ... offsets[i + 1] - 1 of each i, one after another.

    Args:
        offsets: (n + 1,) rising.
        index: (k,) which spans.
    """
    length = offsets[index + 1] - offsets[index]
    first = np.concatenate([[0], np.cumsum(length)])[:-1]
    return np.arange(int(length.sum())) + np.repeat(offsets[index] - first, length)


def networkx() -> Any:
    """The library networkx.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import networkx as nx
    except ImportError as error:
        raise MissingExtra("this needs networkx: pip install 'unstir[molecules]'") from error
    return nx
