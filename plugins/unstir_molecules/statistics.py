"""What distances between sets of graphs look at: one row a graph, the same for every numbering of its nodes.

    degree       share of nodes of each degree 0, 1, 2 ...
    clustering   share of nodes in 100 bins of c = 2 t / (d (d - 1)) on [0, 1]; c = 0 where d < 2
    orbit        mean over nodes of the 15 orbit counts, not normalised
    spectral     share of eigenvalues of 1 - D^-1/2 A D^-1/2 in 200 bins on [-1e-5, 2]; an isolated node has the eigenvalue 0

Rows are remembered by the content of the set, so that a reference set is worked on once. A graph without nodes counts as one isolated
node, as the field's post-processing makes of it. Eigenvalues beyond 2 by rounding are in the last bin.

Reference: You et al. 2018 (GraphRNN), arXiv:1802.08773; Liao et al. 2019 (GRAN, spectra), arXiv:1910.00760.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from unstir.errors import UserError
from unstir_molecules.graphs import Graphs
from unstir_molecules.orbits import orbit_counts
from unstir_molecules.remembered import of_graphs

Array = NDArray[Any]
Statistic = Literal["degree", "clustering", "orbit", "spectral"]
STATISTICS: tuple[Statistic, ...] = get_args(Statistic)
CLUSTERING_BINS = 100
SPECTRAL_BINS = 200
SPECTRAL_RANGE = (-1e-5, 2.0)
ABSENT = 9.0  # an eigenvalue of padding, beyond any of a graph
VERSION = 1


def features(graphs: Graphs, statistic: Statistic, *, keep: bool = False) -> Array:
    """One statistic of each graph, remembered by the content of the set.

    Args:
        graphs: the set.
        statistic: which, of `STATISTICS`.
        keep: is this a set that comes again in other runs, as a test set does? Then it is remembered on disk too.

    Returns:
        (graphs, width) float64, not to be written to; the width of ``"degree"`` is the largest degree + 1, of the others fixed.

    Raises:
        UserError: there is no such statistic.
    """
    if statistic not in STATISTICS:
        raise UserError(f"there is no graph statistic {statistic!r}; there are {', '.join(STATISTICS)}")
    return of_graphs(f"graphs-{statistic}-{VERSION}", graphs, lambda: _MAKERS[statistic](graphs), keep=keep and statistic != "degree")


def degree_shares(graphs: Graphs) -> Array:
    """Share of nodes of each degree.

    Args:
        graphs: the set.

    Returns:
        (graphs, largest degree + 1); rows sum to 1.
    """
    degree = graphs.degrees()
    return _shares(graphs, degree, int(degree.max(initial=0)) + 1, empty=0)


def clustering_coefficients(graphs: Graphs) -> Array:
    """Clustering coefficient 2 t / (d (d - 1)) of each node, 0 where d < 2.

    Args:
        graphs: the set.

    Returns:
        (nodes of all graphs,), the graphs one after another.
    """
    twice = np.zeros(int(graphs.starts[-1]))
    for index, a in graphs.batches():
        closed = np.rint(((a @ a) * a).sum(-1))
        inside = np.arange(a.shape[1]) < graphs.nodes[index][:, None]
        twice[(graphs.starts[index][:, None] + np.arange(a.shape[1]))[inside]] = closed[inside]
    degree = graphs.degrees()
    return np.where(degree > 1, twice / np.maximum(degree * (degree - 1), 1), 0.0)


def clustering_shares(graphs: Graphs) -> Array:
    """Share of nodes in each bin of the clustering coefficient.

    Args:
        graphs: the set.

    Returns:
        (graphs, 100); rows sum to 1.
    """
    bins = _binned(clustering_coefficients(graphs), np.linspace(0.0, 1.0, CLUSTERING_BINS + 1))
    return _shares(graphs, bins, CLUSTERING_BINS, empty=0)


def mean_orbits(graphs: Graphs) -> Array:
    """Mean over nodes of the orbit counts.

    Args:
        graphs: the set.

    Returns:
        (graphs, 15), not normalised; 0 for a graph without nodes.
    """
    counts = np.concatenate([np.zeros((1, 15)), np.cumsum(orbit_counts(graphs), axis=0)])
    total = counts[graphs.starts[1:]] - counts[graphs.starts[:-1]]
    return np.asarray(total / np.maximum(graphs.nodes, 1)[:, None])


def eigenvalues(graphs: Graphs) -> Array:
    """Eigenvalues of the normalised Laplacian 1 - D^-1/2 A D^-1/2; an isolated node's row of it is zero.

    Args:
        graphs: the set.

    Returns:
        (nodes of all graphs,), the graphs one after another, rising within each.
    """
    made = np.zeros(int(graphs.starts[-1]))
    for index, a in graphs.batches():
        degree = a.sum(-1)
        root = np.where(degree > 0, 1 / np.sqrt(np.maximum(degree, 1)), 0.0)
        inside = np.arange(a.shape[1]) < graphs.nodes[index][:, None]
        laplacian = -a * root[:, :, None] * root[:, None, :]
        laplacian[:, np.arange(a.shape[1]), np.arange(a.shape[1])] = np.where(inside, degree > 0, ABSENT)
        made[(graphs.starts[index][:, None] + np.arange(a.shape[1]))[inside]] = np.linalg.eigvalsh(laplacian)[inside]
    return made


def spectral_shares(graphs: Graphs) -> Array:
    """Share of eigenvalues of the normalised Laplacian in each bin.

    Args:
        graphs: the set.

    Returns:
        (graphs, 200); rows sum to 1.
    """
    edges = np.linspace(*SPECTRAL_RANGE, SPECTRAL_BINS + 1)
    return _shares(graphs, _binned(eigenvalues(graphs), edges), SPECTRAL_BINS, empty=0)


def _binned(values: Array, edges: Array) -> Array:
    """Bins as numpy's histogram has them, the last one closed; what lies outside is in the nearest."""
    return np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)


def _shares(graphs: Graphs, bins: Array, width: int, empty: int) -> Array:
    """Histogram of the nodes of each graph (graphs, width), over their number; all in bin ``empty`` for a graph without nodes."""
    owner = np.repeat(np.arange(len(graphs)), graphs.nodes)
    counts = np.bincount(owner * width + bins, minlength=len(graphs) * width).reshape(len(graphs), width).astype(np.float64)
    counts[graphs.nodes == 0, empty] = 1
    return counts / np.maximum(graphs.nodes, 1)[:, None]


_MAKERS: dict[Statistic, Callable[[Graphs], Array]] = {
    "degree": degree_shares,
    "clustering": clustering_shares,
    "orbit": mean_orbits,
    "spectral": spectral_shares,
}


def chosen(statistics: Sequence[str]) -> tuple[Statistic, ...]:
    """Names of statistics, checked.

    Args:
        statistics: some of `STATISTICS`.

    Raises:
        UserError: one that does not exist, one twice, or none.
    """
    wrong = [name for name in statistics if name not in STATISTICS]
    if wrong or not statistics or len(set(statistics)) != len(statistics):
        raise UserError(f"statistics must be some of {', '.join(STATISTICS)}, each once, got {list(statistics)}")
    return tuple(statistics)  # type: ignore[arg-type]
