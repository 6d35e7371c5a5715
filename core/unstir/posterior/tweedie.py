"""Noise2Score: clean data from noisy data alone, for noise whose variance is a power of the mean, Var[y] = phi mu^p.

    E[mu^(1-p) | y] = y^(1-p) + (1-p) phi (p/(2y) + s(y)),      s = grad log p(y)                    p != 1
    E[log mu | y]   = log y + phi (1/(2y) + s(y))                                                     p = 1

by the saddle-point form of the Tweedie family; x = E[mu^(1-p) | y]^(1/(1-p)), or exp E[log mu | y]. p = 0 is normal noise, x = y + phi s
(exact); 2 is Gamma noise, x = y/(1 - phi - phi y s) (exact as the harmonic mean E[1/mu | y]^-1); 1 is phi times Poisson(mu/phi) (as phi/y
tends to 0).
Reference: Kim et al. 2021 (Noise2Score), arXiv:2106.07009; Kim & Ye 2022, arXiv:2207.07826.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unstir.denoiser import Denoiser
from unstir.errors import UserError


def power_mean(y: Tensor, score: Tensor, p: float, phi: float) -> Tensor:
    """The clean estimate of noisy data from the score of their law.

    Args:
        y: noisy data, any shape; positive unless p is 0.
        score: s(y), the same shape.
        p: power of the mean in the variance, in [0, 2].
        phi: dispersion, above 0.

    Returns:
        The same shape; powers of what is negative (no data does that) count as of 0.

    Raises:
        UserError: p outside [0, 2], phi not above 0, or data not above 0 where p is not 0.
    """
    if not 0 <= p <= 2 or not 0 < phi < math.inf:
        raise UserError(f"the power must lie in [0, 2] and phi above 0, got {p} and {phi}")
    if p == 0:
        return y + phi * score
    if not bool((y > 0).all()):
        raise UserError("data of a power law with p above 0 must be positive: add the offset of the counts, or leave zeros out")
    moved = phi * (p / (2 * y) + score)
    if abs(p - 1) < 1e-9:
        return y * torch.exp(moved)
    return (y ** (1 - p) + (1 - p) * moved).clamp(min=0) ** (1 / (1 - p))


@dataclass(frozen=True)
class Tweedie:
    """Denoise data by a prior that was trained on noisy data: its score at little noise is that of the noisy law.

    s(y) = (alpha D(alpha y, t) - alpha y)/sigma^2 alpha,  at a small time t: the noisy law blurred by rho_t.

    Args:
        denoiser: of the noisy data, E[y | y_t].
        p: power of the mean in the variance.
        phi: dispersion.
        t: a time at which sigma/alpha is small beside the noise.
    """

    denoiser: Denoiser
    p: float
    phi: float
    t: float

    def __call__(self, y: Tensor) -> Tensor:
        """The clean estimate of noisy data (batch, *shape)."""
        alpha, rho = float(self.denoiser.process.alpha(self.t)), float(self.denoiser.process.rho(self.t))
        return power_mean(y, (self.denoiser(alpha * y, self.t) - y) / rho**2, self.p, self.phi)


def power_law(y: Tensor, copy: Tensor | None = None, *, powers: Sequence[float] | None = (0.0, 1.0, 2.0)) -> tuple[float, float]:
    """Estimate p and phi of Var[y] = phi mu^p from two noisy copies of smooth data, or from one copy and its shift by an entry.

    (p, phi) = argmin sum log(phi m^p) + v/(phi m^p),      m = (y + y')/2,  v = (y - y')^2/2

    Args:
        y: noisy data, (..., width), positive unless only p = 0 is asked.
        copy: other noisy data of the same truth; ``y`` shifted along its last axis when absent (then the truth must be smooth).
        powers: the classes to choose from; None for any p in [0, 2].

    Returns:
        (p, phi).

    Raises:
        UserError: nothing to compare, or data without a positive mean.
    """
    first, second = (y, copy) if copy is not None else (y[..., 1:], y[..., :-1])
    if first.shape != second.shape or not first.numel():
        raise UserError(f"two copies of the same shape are needed, got {tuple(first.shape)} and {tuple(second.shape)}")
    m, v = ((first + second) / 2).flatten().double(), ((first - second).square() / 2).flatten().double()
    m, v = m[m > 0], v[m > 0]
    if not len(m):
        raise UserError("the data have no positive mean")
    found: list[tuple[float, float, float]] = []
    for p in torch.linspace(0, 2, 201).tolist() if powers is None else powers:
        phi = float((v / m**p).mean())
        found.append((math.log(phi) + p * float(m.log().mean()), float(p), phi))
    return min(found)[1:]
