"""Distances between laws, from samples or from tables.

energy distance   2 E|a - b| - E|a - a'| - E|b - b'|                 total variation   sum |p - q| / 2
sliced W2         mean over directions of the one-dimensional W2     W2 of normal laws  |m - n|^2 + tr(C + D - 2 (C^1/2 D C^1/2)^1/2)
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from unstir.certify.oracles import MixtureOracle


def energy_distance(a: Tensor, b: Tensor) -> float:
    """The energy distance of two samples, 2 E|a - b| - E|a - a'| - E|b - b'|, with distinct pairs only: unbiased, near 0 for one law.

    Args:
        a: (n, *shape).
        b: (m, *shape), in the same units.

    Returns:
        In units of the state.
    """
    a, b = (x.to(torch.float64).flatten(1) for x in (a, b))
    cross = torch.cdist(a, b).mean()
    own = [torch.pdist(x).mean() for x in (a, b)]
    return float(2 * cross - own[0] - own[1])


def sliced_wasserstein(a: Tensor, b: Tensor, *, directions: int = 64) -> float:
    """The sliced Wasserstein-2 distance of two samples of equal size, over fixed random directions.

    Args:
        a: (n, *shape).
        b: (n, *shape), in the same units.
        directions: number of directions.

    Returns:
        The root of the mean square, in units of the state.
    """
    a, b = (x.to(torch.float64).flatten(1) for x in (a, b))
    generator = torch.Generator().manual_seed(0)
    along = torch.randn(a.shape[1], directions, generator=generator, dtype=torch.float64)
    along = along / along.norm(dim=0)
    return float(((a @ along).sort(0).values - (b @ along).sort(0).values).square().mean().sqrt())


def normal_wasserstein(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """The Wasserstein-2 distance of two normal laws.

    Args:
        mean_a: (n,).
        cov_a: (n, n), positive semi-definite.
        mean_b: (n,).
        cov_b: (n, n), positive semi-definite.

    Returns:
        In units of the state.
    """
    root = _root(cov_a)
    squared = (mean_a - mean_b).square().sum() + (cov_a + cov_b - 2 * _root(root @ cov_b @ root)).diagonal().sum()
    return math.sqrt(max(float(squared), 0.0))


def weights_of(samples: Tensor, law: MixtureOracle) -> Tensor:
    """The share of samples nearest to each component of a mixture, (components,).

    Args:
        samples: (n, *shape).
        law: the mixture.
    """
    nearest = torch.cdist(samples.to(torch.float64).flatten(1), law.means.flatten(1)).argmin(1)
    return torch.bincount(nearest, minlength=len(law.means)).to(torch.float64) / len(samples)


def weights_distance(samples: Tensor, law: MixtureOracle, weights: Any = None) -> float:
    """Total variation between the shares of samples nearest to each component and the weights these should have.

    Args:
        samples: (n, *shape).
        law: the mixture.
        weights: (components,), summing to 1; the mixture's own when absent.
    """
    return total_variation(weights_of(samples, law), law.log_weights.exp() if weights is None else weights)


def total_variation(p: Any, q: Any) -> float:
    """Half the sum of the absolute differences of two tables of probabilities.

    Args:
        p: probabilities, any shape.
        q: probabilities, the same shape.
    """
    p, q = (torch.as_tensor(value, dtype=torch.float64) for value in (p, q))
    return float((p - q).abs().sum()) / 2


def _root(cov: Tensor) -> Tensor:
    """The symmetric root of a positive semi-definite matrix."""
    values, basis = torch.linalg.eigh((cov + cov.mT) / 2)
    return (basis * values.clamp(min=0).sqrt()) @ basis.mT
