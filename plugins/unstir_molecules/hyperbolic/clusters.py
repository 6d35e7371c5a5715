"""Clusters of points in the ball: k-means with the distance and the midpoints of the space.

    k_i = argmin_k d(z_i, mu_k),     mu_k = gyromidpoint of the points of cluster k

The first centres are the point in the middle and, again and again, the point farthest from all centres so far: nothing is drawn.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unstir.errors import UserError
from unstir_molecules.hyperbolic.ball import Ball
from unstir_molecules.hyperbolic.flat import Flat


class Clusters(NamedTuple):
    """Centres, and the cluster of each point.

    Args:
        centres: (clusters, dim) points.
        cluster: (points,) numbers.
    """

    centres: Tensor
    cluster: Tensor


def nearest(space: Ball | Flat, z: Float[Tensor, "points dim"], centres: Float[Tensor, "clusters dim"]) -> Int[Tensor, " points"]:
    """The number of the nearest centre.

    Args:
        space: whose distance.
        z: points.
        centres: points.
    """
    return space.distance(z[:, None], centres[None]).argmin(1)


def clustered(space: Ball | Flat, z: Float[Tensor, "points dim"], clusters: int, rounds: int = 30) -> Clusters:
    """Cluster points.

    Args:
        space: a ball, or flat.
        z: points.
        clusters: K, at least 1; fewer where fewer points differ.
        rounds: at most.

    Raises:
        UserError: no clusters, or no points.
    """
    if clusters < 1 or not len(z):
        raise UserError(f"clustering needs a cluster and a point, got {clusters} and {len(z)}")
    centres = space.means(z, z.new_ones(1, len(z)))
    if clusters > 1:
        centres = z[space.distance(z, centres).argmin()][None]
    while len(centres) < clusters:
        far = space.distance(z[:, None], centres[None]).amin(1)
        if not float(far.max()) > 1e-9:
            break
        centres = torch.cat([centres, z[far.argmax()][None]])
    cluster = nearest(space, z, centres)
    for _ in range(rounds):
        weights = torch.nn.functional.one_hot(cluster, len(centres)).T.to(z)
        filled = weights.sum(1, keepdim=True) > 0
        centres = torch.where(filled, space.means(z, weights), centres)
        before, cluster = cluster, nearest(space, z, centres)
        if torch.equal(before, cluster):
            break
    return Clusters(centres, cluster)
