"""What a graph transformer is told of a noisy graph beside its nodes and edges: cycles, components, spectrum, valencies.

    c3 = t/2,  t = diag(A^3)      c4 = [diag(A^4) - d(d - 1) - A d]/2      c5 = [diag(A^5) - 2 t d - A t - 2 (A o A^2) d + 5 t]/2

of a node; of a graph c3 ... c6 by traces of powers of A. Message passing cannot count cycles, so they are given.

``legacy`` are DiGress's: c5 = [diag(A^5) - 2 t d - A t + t]/2, which counts walks around triangles too; counts over 10 capped at 1, so that
dense graphs look alike; components counted by eigenvalues below a threshold;
eigenvectors whose sign, and whose basis where eigenvalues repeat, are arbitrary. Otherwise counts enter by their logarithm, components are
found by reachability, and the diagonals of heat kernels exp(-t L) stand for eigenvectors: functions of the graph alone.

Reference: Vignac et al. 2023 (DiGress), arXiv:2209.14734, appendix B; Harary and Manvel 1971 (numbers of cycles).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

HEAT = (0.5, 2.0)
"""Times of the heat kernels, in units of the unnormalised Laplacian."""
EIGENVALUES = 5
NODE_FEATURES = 3 + 1 + len(HEAT)
"""Cycles of 3, 4 and 5, outside the largest component, heat kernels (or two eigenvectors)."""
GRAPH_FEATURES = 1 + 4 + 1 + EIGENVALUES
"""Size, cycles of 3 ... 6, components, eigenvalues."""


def graph_features(adjacency: Tensor, mask: Tensor, largest: int, *, legacy: bool = False) -> tuple[Tensor, Tensor]:
    """Features of nodes and of graphs.

    Args:
        adjacency: (batch, nodes, nodes), 0 or 1, symmetric, zero diagonal, 0 at absent nodes.
        mask: (batch, nodes), true at present nodes.
        largest: nodes of the largest graph, the unit of sizes.
        legacy: DiGress's own, faults included.

    Returns:
        (batch, nodes, NODE_FEATURES) and (batch, GRAPH_FEATURES), float32; 0 at absent nodes.
    """
    a, present = adjacency.double(), mask.double()
    of_nodes, of_graphs = cycles(a, legacy=legacy)
    reached = reachability(a, mask)
    outside, components = by_component(reached, mask)
    degree = a.sum(-1)
    laplacian = torch.diag_embed(degree) - a
    # absent nodes get an eigenvalue above all others (at most 2 max d <= 2 n), so that they never count among the first
    far = 4.0 * a.shape[-1]
    values, vectors = torch.linalg.eigh(laplacian + torch.diag_embed(far * (1 - present)))
    sizes = present.sum(-1)
    if legacy:
        count = (values < 1e-5 * sizes[:, None]).sum(-1)
        scale = lambda c: (c / 10).clamp(max=1.0)  # noqa: E731
        shown = _eigenvectors(vectors, count, 2)
    else:
        count = components
        scale = lambda c: torch.log1p(c.clamp(min=0)) / 4  # noqa: E731
        square = vectors.square()
        shown = torch.stack([(square * torch.exp(-time * values)[:, None]).sum(-1) for time in HEAT], -1)
    first = count[:, None] + torch.arange(EIGENVALUES, device=a.device)
    shared = values.gather(-1, first.clamp(max=values.shape[-1] - 1)) / sizes[:, None].clamp(min=1)
    shared = torch.where(first < sizes[:, None], shared, 0.0)
    nodes = torch.cat([scale(of_nodes), outside.double()[..., None], shown], -1) * present[..., None]
    graphs = torch.cat([(sizes / largest)[:, None], scale(of_graphs), (count / largest)[:, None], shared], -1)
    return nodes.float(), graphs.float()


def cycles(a: Tensor, *, legacy: bool = False) -> tuple[Tensor, Tensor]:
    """Simple cycles through each node of 3, 4 and 5 edges, and of each graph of 3, 4, 5 and 6.

    Args:
        a: (batch, nodes, nodes), 0 or 1, symmetric, zero diagonal, float64.
        legacy: cycles of 5 as DiGress counts them.

    Returns:
        (batch, nodes, 3) and (batch, 4), exact whole numbers (but for ``legacy``).
    """
    degree = a.sum(-1)
    a2 = a @ a
    a3 = a2 @ a
    a4 = a2 @ a2
    on2, on3, on4 = (torch.diagonal(power, dim1=-2, dim2=-1) for power in (a2, a3, a4))
    on5 = (a2 * a3).sum(-1)
    neighbours = lambda value: (a @ value[..., None])[..., 0]  # noqa: E731
    c3 = on3 / 2
    c4 = (on4 - degree * (degree - 1) - neighbours(degree)) / 2
    around = 0.0 if legacy else 2 * ((a * a2) @ degree[..., None])[..., 0] - 4 * on3
    c5 = (on5 - 2 * on3 * degree - neighbours(on3) + on3 - around) / 2
    tr = lambda value: value.sum(-1)  # noqa: E731
    c6 = (
        (a3 * a3).sum((-2, -1))
        - 3 * tr(on3.square())
        + 9 * (a * a2.square()).sum((-2, -1))
        - 6 * tr(on2 * on4)
        + 6 * tr(on4)
        - 4 * tr(on3)
        + 4 * tr(on2**3)
        + 3 * a3.sum((-2, -1))
        - 12 * tr(on2.square())
        + 4 * tr(on2)
    ) / 12
    of_graph = torch.stack([tr(c3) / 3, tr(c4) / 4, tr(c5) / 5, c6], -1)
    return torch.stack([c3, c4, c5], -1), of_graph


def reachability(a: Tensor, mask: Tensor) -> Tensor:
    """Which nodes a path joins, by repeated squaring: (batch, nodes, nodes) bool; a present node reaches itself.

    Args:
        a: (batch, nodes, nodes), not 0 at edges.
        mask: (batch, nodes), true at present nodes.
    """
    reached = ((a > 0) | torch.diag_embed(mask)).double()
    for _ in range(max(1, math.ceil(math.log2(max(a.shape[-1], 2))))):
        reached = ((reached @ reached) > 0).double()
    return reached > 0


def by_component(reached: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes outside every largest component, (batch, nodes) bool, and the number of components, (batch,).

    Args:
        reached: of ``reachability``.
        mask: (batch, nodes), true at present nodes.
    """
    sizes = reached.sum(-1)
    outside = (sizes < sizes.amax(-1, keepdim=True)) & mask
    components = torch.where(mask, 1.0 / sizes.clamp(min=1), 0.0).sum(-1).round().long()
    return outside, components


def _eigenvectors(vectors: Tensor, skip: Tensor, count: int) -> Tensor:
    """The ``count`` vectors after the first ``skip``, (batch, nodes, count)."""
    index = (skip[:, None] + torch.arange(count, device=skip.device)).clamp(max=vectors.shape[-1] - 1)
    return vectors.gather(-1, index[:, None].expand(-1, vectors.shape[-2], -1))
