"""A graph's nodes as points whose distances are those along the graph, in a ball or in flat space: how much of a tree fits where.

    loss = mean over pairs of (d(z_i, z_j) / (scale D_ij) - 1)^2,      distortion = mean over pairs of |d / (scale D) - 1|

D are lengths of shortest paths; the scale is learnt with the points. Volumes of hyperbolic balls grow as exponentials of their radius, as
trees do, and so a tree fits into two dimensions as well as wanted (Sarkar), where flat space must squeeze its leaves.

Reference: Nickel and Kiela 2017, arXiv:1705.08039; Sala et al. 2018, arXiv:1804.03329.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from unstir.errors import DataError, UserError
from unstir_molecules.hyperbolic.ball import Ball, length

Geometry = Literal["hyperbolic", "euclidean"]


def hops(adjacency: NDArray[np.integer]) -> NDArray[np.float64]:
    """Lengths of shortest paths (n, n), infinite between components.

    Args:
        adjacency: (n, n), symmetric.
    """
    from scipy.sparse.csgraph import shortest_path

    return np.asarray(shortest_path(np.asarray(adjacency, dtype=float), unweighted=True, directed=False))


def fan(lengths: NDArray[np.float64]) -> NDArray[np.float64]:
    """A drawing to begin with (n, 2): the node in the middle, the others as far from it as their paths, branches side by side.

    Args:
        lengths: of shortest paths, of a connected graph.
    """
    root = int(lengths.sum(1).argmin())
    depth = lengths[root]
    children: dict[int, list[int]] = {node: [] for node in range(len(lengths))}
    for node in np.argsort(depth, kind="stable")[1:]:
        parent = np.flatnonzero((lengths[node] == 1) & (depth == depth[node] - 1))[0]
        children[int(parent)].append(int(node))
    order, stack = [], [root]
    while stack:
        node = stack.pop()
        order.append(node)
        stack.extend(children[node])
    first = np.zeros(len(lengths))
    leaves = np.cumsum([not children[node] for node in order])
    first[order] = np.concatenate([[0], leaves[:-1]])  # leaves before a node
    count = np.zeros(len(lengths))
    for node in reversed(order):
        count[node] = sum(count[child] for child in children[node]) or 1
    angle = 2 * np.pi * (first + count / 2) / leaves[-1]
    return np.stack([depth * np.cos(angle), depth * np.sin(angle)], 1)


@dataclass(frozen=True)
class Embedding:
    """Points of a graph's nodes.

    Args:
        points: (n, dim), float64.
        scale: distance of the space that stands for an edge.
        distortion: mean over pairs of |d/(scale D) - 1|.
    """

    points: Tensor
    scale: float
    distortion: float


@dataclass(frozen=True)
class Embedder:
    """Finds points by gradient descent, in float64.

    Args:
        geometry: "hyperbolic" (a ball of curvature -c) or "euclidean".
        dim: of the space.
        c: of the ball.
        steps: of Adam.
        rate: its learning rate, falling to 0.
        seed: of the jitter of the first points, which are those of `fan`.

    Raises:
        UserError: an option out of range.
    """

    geometry: Geometry = "hyperbolic"
    dim: int = 2
    c: float = 1.0
    steps: int = 1000
    rate: float = 0.05
    seed: int = 0

    def __post_init__(self) -> None:
        if self.geometry not in ("hyperbolic", "euclidean"):
            raise UserError(f"geometry is 'hyperbolic' or 'euclidean', got {self.geometry!r}")
        if min(self.dim, self.steps) < 1 or not self.rate > 0:
            raise UserError(f"an embedding needs a dimension, steps and a rate above 0, got {self.dim}, {self.steps} and {self.rate}")

    def __call__(self, adjacency: NDArray[np.integer]) -> Embedding:
        """Embed a connected graph.

        Args:
            adjacency: (n, n), symmetric.

        Raises:
            DataError: it is not connected, or has fewer than 3 nodes.
        """
        target = hops(adjacency)
        if len(target) < 3 or not np.isfinite(target).all():
            raise DataError(f"an embedding is of a connected graph of 3 nodes or more, got {len(target)} nodes")
        rows, columns = np.triu_indices(len(target), 1)
        wanted = torch.from_numpy(target[rows, columns])
        generator = torch.Generator().manual_seed(self.seed)
        tangent = 0.05 * torch.randn(len(target), self.dim, generator=generator, dtype=torch.float64)
        tangent[:, :2] += torch.from_numpy(fan(target))[:, : self.dim] * Ball(self.c).root ** -1
        tangent.requires_grad_()
        log_scale = torch.tensor(2 / Ball(self.c).root, dtype=torch.float64).log().requires_grad_()
        adam = torch.optim.Adam([tangent, log_scale], lr=self.rate)
        fall = torch.optim.lr_scheduler.CosineAnnealingLR(adam, self.steps)
        for _ in range(self.steps):
            adam.zero_grad()
            self._relative(tangent, rows, columns, wanted, log_scale).square().mean().backward()
            adam.step()
            fall.step()
        with torch.no_grad():
            found = float(self._relative(tangent, rows, columns, wanted, log_scale).abs().mean())
            return Embedding(self._points(tangent), float(log_scale.exp()), found)

    def _points(self, tangent: Tensor) -> Tensor:
        return Ball(self.c).exp0(tangent) if self.geometry == "hyperbolic" else tangent

    def _relative(self, tangent: Tensor, rows: NDArray, columns: NDArray, wanted: Tensor, log_scale: Tensor) -> Float[Tensor, " pairs"]:
        z = self._points(tangent)
        x, y = z[rows], z[columns]
        d = Ball(self.c).distance(x, y) if self.geometry == "hyperbolic" else length(x - y)[..., 0]
        return d / (log_scale.exp() * wanted) - 1
