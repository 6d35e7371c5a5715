"""Gaussian teleportation: the first steps in closed form, since at high noise the score is that of a normal law.

    x_s = alpha_s m + [(alpha_s^2 C + sigma_s^2)/(alpha_t^2 C + sigma_t^2)]^(1/2) (x_t - alpha_t m)

with the mean m and the covariance C of the data: a few principal directions and one variance for all others.
Reference: Wang & Vastola 2024, arXiv:2412.09726 (Gaussian score, analytical teleportation).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unstir.denoiser import Denoiser
from unstir.errors import UserError
from unstir.noise import NoiseSource
from unstir.process import Process


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A normal law fitted to data: C = U diag(l) U^T + r (I - U U^T).

    Args:
        mean: m (*shape), in units of the state.
        basis: U (d, k), orthonormal columns, d the number of entries of a state; k may be 0.
        variances: l (k,), in squared units of the state.
        rest: r, the variance in every other direction.

    Raises:
        UserError: shapes do not fit, or a variance is negative.
    """

    mean: Tensor
    basis: Tensor
    variances: Tensor
    rest: float = 0.0

    def __post_init__(self) -> None:
        d, k = self.mean.numel(), self.variances.numel()
        if tuple(self.basis.shape) != (d, k):
            raise UserError(f"a normal law of {d} entries and {k} variances needs a basis ({d}, {k}), got {tuple(self.basis.shape)}")
        if self.rest < 0 or (k and float(self.variances.min()) < 0):
            raise UserError("variances of a normal law must not be negative")

    @classmethod
    def fit(cls, data: Float[Tensor, "items *shape"], components: int | None = None) -> Gaussian:
        """The normal law of data: their mean, and their covariance in its principal directions.

        Args:
            data: clean states, in units of the state; at least 2.
            components: number of directions with a variance of their own; the others share the rest. All that the data span when absent.

        Returns:
            The law, in float64.

        Raises:
            UserError: fewer than 2 items, or more components than the data span.
        """
        n, d = len(data), data[0].numel() if len(data) else 0
        most = min(n - 1, d)
        k = most if components is None else components
        if n < 2 or not 0 <= k <= most:
            raise UserError(f"{n} items of {d} entries give 0 to {max(most, 0)} components of a normal law, got {components!r}")
        flat = data.to(torch.float64).flatten(1)
        mean = flat.mean(0)
        _, roots, basis = torch.linalg.svd(flat - mean, full_matrices=False)
        variances = roots.square() / (n - 1)
        rest = float(variances[k:].sum()) / (d - k) if k < d else 0.0
        return cls(mean.reshape(data.shape[1:]), basis[:k].mT.contiguous(), variances[:k].clone(), rest)

    def draw(self, source: NoiseSource, stream: str = "gaussian") -> Float[Tensor, "batch *shape"]:
        """Draws of the law, float64; keyed by sample.

        Args:
            source: noise of the samples.
            stream: of the draws.
        """
        unit = source.draw(tuple(self.mean.shape), torch.float64, stream=stream)
        return self.mean + self.scaled(unit, self.variances.sqrt(), self.rest**0.5)

    def scaled(self, x: Tensor, along: Tensor, others: float) -> Tensor:
        """``along`` times the part of x in each direction of the basis, plus ``others`` times what is orthogonal to all."""
        flat = x.flatten(1)
        return (others * flat + ((flat @ self.basis) * (along - others)) @ self.basis.mT).reshape(x.shape)

    def estimate(self, z: Tensor, alpha: float, sigma: float) -> Float[Tensor, "batch *shape"]:
        """E[x_0 | z] under the law.

        Args:
            z: a noisy state without its anchor (batch, *shape), float64.
            alpha, sigma: the scales of data and noise in it.
        """
        along = alpha * self.variances / (alpha**2 * self.variances + sigma**2)
        others = alpha * self.rest / (alpha**2 * self.rest + sigma**2)
        return self.mean + self.scaled(z - alpha * self.mean, along, others)

    def transported(self, z: Tensor, process: Process, t: float, s: float) -> Float[Tensor, "batch *shape"]:
        """The state that the probability-flow equation of this law carries from t to s, exactly.

        Args:
            z: states at t without their anchor (batch, *shape).
            process: the process.
            t: a time with noise.
            s: another time.
        """
        (alpha_t, sigma_t), (alpha_s, sigma_s) = ((float(process.alpha(u)), float(process.sigma(u))) for u in (t, s))
        along = torch.sqrt((alpha_s**2 * self.variances + sigma_s**2) / (alpha_t**2 * self.variances + sigma_t**2))
        others = math.sqrt((alpha_s**2 * self.rest + sigma_s**2) / (alpha_t**2 * self.rest + sigma_t**2))
        moved = alpha_s * self.mean + self.scaled(z.to(torch.float64) - alpha_t * self.mean, along, others)
        return moved.to(z.dtype)


def teleported(
    law: Gaussian, process: Process, count: int, t: float, *, seed: int = 0, begin: float | None = None, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, float]:
    """Noise at the end of a process, carried to time t in closed form: no evaluation until there.

    Exact for normal data; else as good as the normal law describes the score above t, see :func:`score_error`. The noise is that with which
    a run from the end would begin, so both lead to nearly one sample.

    Args:
        law: fitted to the data.
        process: of the denoiser, without an anchor.
        count: number of samples.
        t: the time to go on from.
        seed: of the noise.
        begin: the time of the noise; the process's end when absent.
        dtype: of the states.

    Returns:
        ``(states (count, *shape), t)``, for ``start``.

    Raises:
        UserError: the process has an anchor, or t is not before its end.
    """
    high = process.t_max if begin is None else begin
    if process.anchored or not process.t_zero <= t < high:
        raise UserError(f"teleportation goes from {high} to an earlier time on a process without an anchor, got t={t} on {process!r}")
    unit = NoiseSource(seed, range(count)).draw(tuple(law.mean.shape), torch.float64, stream="start")
    mean, std = process.prior(None, high)
    return law.transported(mean + std * unit, process, high, t).to(dtype), t


def score_error(law: Gaussian, denoiser: Denoiser, data: Tensor, times: Any, *, seed: int = 0) -> Float[Tensor, " times"]:
    """How far the score of a denoiser is from that of the normal law, relative to it, at several times: where teleportation may end.

    sqrt( mean |alpha (D - D_normal)|^2 / mean |alpha D_normal - x|^2 )

    Args:
        law: fitted to the data.
        denoiser: on a process without an anchor.
        data: clean states (items, *shape) that are made noisy.
        times: at which to compare.
        seed: of the noise.

    Returns:
        Relative root-mean-square differences (times,), float64.
    """
    process, errors = denoiser.process, []
    noise = NoiseSource(seed, range(len(data))).draw(tuple(data.shape[1:]), torch.float64)
    for t in times:
        alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
        x = alpha * data.to(torch.float64) + sigma * noise
        with torch.no_grad():
            believed = denoiser(x.to(data.dtype), float(t)).to(torch.float64)
        normal = law.estimate(x, alpha, sigma)
        errors.append(alpha * (believed - normal).norm() / (alpha * normal - x).norm())
    return torch.stack(errors)
