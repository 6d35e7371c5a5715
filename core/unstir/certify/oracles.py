"""Oracles: laws whose denoiser, score, density and flow are known in closed form, on every affine process.

    p(z) = sum_k w_k N(z; alpha m_k, alpha^2 C_k + sigma^2 I),        z = x - beta y
    D    = sum_k p_k [m_k + alpha C_k (alpha^2 C_k + sigma^2 I)^-1 (z - alpha m_k)],      score = (alpha D - z)/sigma^2

They need no x/alpha, so they hold at both ends: D = x/alpha at sigma = 0, the mean of the data at alpha = 0.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from unstir.denoiser.base import Condition, Denoiser, anchor_of
from unstir.errors import UserError
from unstir.process import EDM, Process
from unstir.process.base import spread

_TINY = 1e-300  # keeps 0/0 out where there is neither data nor noise in a state: the estimate is the mean of the data


class Oracle(Denoiser):
    """A denoiser that is exact, with the density, the score and the flow of its law.

    All computing is in float64; results come in the dtype of the state.
    """

    def forward(self, x: Tensor, t: Any, condition: Condition | None = None) -> Tensor:
        """E[x_0 | x_t = x], exactly."""
        z, alpha, sigma = self.plain(x, t, condition)
        return self.estimate(z, alpha, sigma).to(x.dtype)

    def with_process(self, process: Process) -> Denoiser:
        """The oracle of the same law on another process (no matching of noise levels is needed)."""
        return self if process == self.process else self.on(process)

    def score(self, x: Float[Tensor, "batch *shape"], t: Any, condition: Condition | None = None) -> Float[Tensor, "batch *shape"]:
        """grad log p(x_t), of the shape of ``x``; sigma must not be 0."""
        z, alpha, sigma = self.plain(x, t, condition)
        return ((alpha * self.estimate(z, alpha, sigma) - z) / sigma**2).to(x.dtype)

    def log_density(self, x: Float[Tensor, "batch *shape"], t: Any, condition: Condition | None = None) -> Float[Tensor, " batch"]:
        """log p(x_t) in nats, one number a sample."""
        z, alpha, sigma = self.plain(x, t, condition)
        return self.log_law(z, alpha, sigma).to(x.dtype)

    def marginal(self, count: int, t: float, *, seed: int = 0, anchor: Tensor | None = None) -> Float[Tensor, "count *shape"]:
        """Exact draws of x_t.

        Args:
            count: number of draws.
            t: the time; clean data at ``process.t_zero``.
            seed: of the draws.
            anchor: y, of the shape of the draws or broadcast to it; needed by an anchored process.

        Returns:
            States (count, *shape), float64.
        """
        generator = torch.Generator().manual_seed(seed)
        x0 = self.draw(count, generator)
        return self.process.perturb(x0, t, torch.randn(x0.shape, generator=generator, dtype=x0.dtype), anchor)

    def transport(
        self, x: Float[Tensor, "batch *shape"], t: float, s: float, condition: Condition | None = None, *, steps: int = 4000
    ) -> Float[Tensor, "batch *shape"]:
        """The state that the probability-flow equation carries from time ``t`` to time ``s``.

        Runge-Kutta 4 in log(sigma/alpha) unless the law has a closed form: on GM4 from 80 to .002 the error of 4000 steps is 2e-11.

        Args:
            x: states at ``t`` (batch, *shape).
            t, s: two times with sigma/alpha neither 0 nor infinite (a closed form allows both).
            condition: the anchor, on an anchored process.
            steps: number of steps.

        Returns:
            States at ``s``, of the shape and dtype of ``x``.
        """
        levels = torch.log(self.process.rho(torch.tensor([t, s], dtype=torch.float64)))
        if not torch.isfinite(levels).all():
            raise UserError(f"the flow is followed between noise levels that are neither 0 nor infinite, got times {t} and {s}")
        z, alpha, _ = self.plain(x, t, condition)
        bar, h = z / alpha, (levels[1] - levels[0]).item() / steps

        def slope(level: float, state: Tensor) -> Tensor:
            return state - self.estimate(state, 1.0, math.exp(level))

        for step in range(steps):
            level = levels[0].item() + step * h
            k1 = slope(level, bar)
            k2 = slope(level + h / 2, bar + h / 2 * k1)
            k3 = slope(level + h / 2, bar + h / 2 * k2)
            k4 = slope(level + h, bar + h * k3)
            bar = bar + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return self.with_anchor(float(self.process.alpha(s)) * bar, s, condition).to(x.dtype)

    def plain(self, x: Tensor, t: Any, condition: Condition | None) -> tuple[Tensor, Any, Any]:
        """z = x - beta y in float64, with alpha and sigma ready to multiply it."""
        z = x.to(torch.float64)
        if self.process.anchored:
            z = z - spread(self.process.beta(t), z) * self.process.need(anchor_of(condition))
        return z, spread(self.process.alpha(t), z), spread(self.process.sigma(t), z)

    def with_anchor(self, z: Tensor, t: float, condition: Condition | None) -> Tensor:
        """x = z + beta y."""
        if not self.process.anchored:
            return z
        return z + float(self.process.beta(t)) * self.process.need(anchor_of(condition))

    @abstractmethod
    def on(self, process: Process) -> Oracle:
        """The same law on another process."""

    @abstractmethod
    def estimate(self, z: Tensor, alpha: Any, sigma: Any) -> Tensor:
        """E[x_0 | z]."""

    @abstractmethod
    def log_law(self, z: Tensor, alpha: Any, sigma: Any) -> Tensor:
        """log p(z), (batch,)."""

    @abstractmethod
    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Clean data (count, *shape), float64."""


class GaussianOracle(Oracle):
    """The exact denoiser of normal data, N(mean, cov).

    D = m + alpha C (alpha^2 C + sigma^2)^-1 (z - alpha m)

    Args:
        mean: m, of the shape of a state, in units of the state.
        cov: C: a matrix (d, d) with d the number of entries of a state, or variances of the shape of the mean (no correlation).
        process: how the data are made noisy; EDM when absent.

    Raises:
        UserError: the covariance does not fit the mean, or is not symmetric and positive semi-definite.
    """

    mean: Tensor
    basis: Tensor | None
    variances: Tensor

    def __init__(self, mean: Any, cov: Any, process: Process | None = None) -> None:
        mean, cov = torch.as_tensor(mean, dtype=torch.float64), torch.as_tensor(cov, dtype=torch.float64)
        super().__init__(process or EDM(), tuple(mean.shape))
        d = mean.numel()
        if cov.shape == mean.shape:
            basis, variances = None, cov.reshape(-1)
        elif cov.shape == (d, d) and torch.allclose(cov, cov.mT):
            variances, basis = torch.linalg.eigh(cov)
        else:
            raise UserError(f"covariance of a state {tuple(mean.shape)} must be a symmetric ({d}, {d}) matrix or variances of that shape")
        if (variances < -1e-12 * variances.abs().max()).any():
            raise UserError("the covariance must be positive semi-definite")
        self.register_buffer("mean", mean)
        self.register_buffer("cov", cov)
        self.register_buffer("basis", basis)
        self.register_buffer("variances", variances.clamp(min=0))

    def on(self, process: Process) -> GaussianOracle:
        """The same law on another process."""
        return GaussianOracle(self.mean, self.cov, process)

    def estimate(self, z: Tensor, alpha: Any, sigma: Any) -> Tensor:
        """E[x_0 | z]."""
        flat, alpha, sigma = self._flat(z, alpha, sigma)
        total = alpha**2 * self.variances + sigma**2
        gain = alpha * self.variances / total.clamp(min=_TINY)
        return (self.mean.reshape(-1) + self._turn(gain * self._unturn(flat - alpha * self.mean.reshape(-1)))).reshape(z.shape)

    def log_law(self, z: Tensor, alpha: Any, sigma: Any) -> Tensor:
        """log p(z), (batch,)."""
        flat, alpha, sigma = self._flat(z, alpha, sigma)
        total = alpha**2 * self.variances + sigma**2
        offset = self._unturn(flat - alpha * self.mean.reshape(-1))
        return -0.5 * (offset.square() / total + torch.log(2 * math.pi * total)).sum(-1)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Clean data (count, *shape), float64."""
        noise = torch.randn(count, self.variances.numel(), generator=generator, dtype=torch.float64)
        return (self.mean.reshape(-1) + self._turn(torch.sqrt(self.variances) * noise)).reshape(count, *self.mean.shape)

    def transport(self, x: Tensor, t: float, s: float, condition: Condition | None = None, *, steps: int = 0) -> Tensor:
        """The state that the probability-flow equation carries from ``t`` to ``s``, in closed form.

        z_s = alpha_s m + [(alpha_s^2 C + sigma_s^2)/(alpha_t^2 C + sigma_t^2)]^(1/2) (z_t - alpha_t m)

        Args:
            x: states at ``t`` (batch, *shape).
            t, s: two times; only a pinned start (alpha = sigma = 0) has no flow.
            condition: the anchor, on an anchored process.
            steps: not used: the map is exact.

        Returns:
            States at ``s``, of the shape and dtype of ``x``.
        """
        z, alpha, sigma = self.plain(x, t, condition)
        if alpha == 0 and sigma == 0:
            raise UserError(f"no flow starts at time {t}: all states of one anchor are one point there")
        alpha_s, sigma_s = float(self.process.alpha(s)), float(self.process.sigma(s))
        mean = self.mean.reshape(-1)
        ratio = torch.sqrt((alpha_s**2 * self.variances + sigma_s**2) / (alpha**2 * self.variances + sigma**2))
        moved = alpha_s * mean + self._turn(ratio * self._unturn(z.flatten(1) - alpha * mean))
        return self.with_anchor(moved.reshape(z.shape), s, condition).to(x.dtype)

    def _flat(self, z: Tensor, alpha: Any, sigma: Any) -> tuple[Tensor, Any, Any]:
        alpha, sigma = (c.reshape(-1, 1) if isinstance(c, Tensor) else c for c in (alpha, sigma))
        return z.flatten(1), alpha, sigma

    def _turn(self, coordinates: Tensor) -> Tensor:
        return coordinates if self.basis is None else coordinates @ self.basis.mT

    def _unturn(self, offset: Tensor) -> Tensor:
        return offset if self.basis is None else offset @ self.basis


class MixtureOracle(Oracle):
    """The exact denoiser of a mixture of normal laws without correlation.

    D = sum_k p_k [m_k + alpha v_k/(alpha^2 v_k + sigma^2) (z - alpha m_k)],      p_k ~ w_k N(z; alpha m_k, alpha^2 v_k + sigma^2)

    Args:
        weights: w (components,), positive; scaled to sum to 1.
        means: m (components, *shape), in units of the state.
        stds: square roots of v, (components, *shape), positive.
        process: how the data are made noisy; EDM when absent.

    Raises:
        UserError: shapes do not fit, or a weight or a standard deviation is not positive.
    """

    log_weights: Tensor
    means: Tensor
    variances: Tensor

    def __init__(self, weights: Any, means: Any, stds: Any, process: Process | None = None) -> None:
        weights, means, stds = (torch.as_tensor(value, dtype=torch.float64) for value in (weights, means, stds))
        super().__init__(process or EDM(), tuple(means.shape[1:]))
        if weights.shape != means.shape[:1] or stds.shape != means.shape or means.ndim < 2:
            shapes = [tuple(value.shape) for value in (weights, means, stds)]
            raise UserError(f"a mixture needs weights (k,), means and stds (k, *shape), got {shapes}")
        if not ((weights > 0).all() and (stds > 0).all()):
            raise UserError("weights and standard deviations of a mixture must be positive")
        self.register_buffer("log_weights", torch.log(weights / weights.sum()))
        self.register_buffer("means", means)
        self.register_buffer("variances", stds.square())

    def on(self, process: Process) -> MixtureOracle:
        """The same law on another process."""
        return MixtureOracle(self.log_weights.exp(), self.means, self.variances.sqrt(), process)

    @property
    def mean(self) -> Tensor:
        """E[x_0], of the shape of a state."""
        return torch.tensordot(self.log_weights.exp(), self.means, dims=1)

    @property
    def cov(self) -> Tensor:
        """The covariance of the data (d, d), with d the number of entries of a state."""
        weights, means = self.log_weights.exp(), self.means.flatten(1)
        centred = means - weights @ means
        return torch.diag(weights @ self.variances.flatten(1)) + (weights[:, None] * centred).mT @ centred

    def estimate(self, z: Tensor, alpha: Any, sigma: Any) -> Tensor:
        """E[x_0 | z]."""
        alpha, sigma = (c[:, None] if isinstance(c, Tensor) else c for c in (alpha, sigma))
        total = alpha**2 * self.variances + sigma**2
        offset = z[:, None] - alpha * self.means
        gain = alpha * self.variances / total.clamp(min=_TINY)
        probability = torch.softmax(self._log_parts(offset, total), 1)
        probability = probability.reshape(probability.shape + (1,) * (z.ndim - 1))
        return (probability * (self.means + gain * offset)).sum(1)

    def log_law(self, z: Tensor, alpha: Any, sigma: Any) -> Tensor:
        """log p(z), (batch,)."""
        alpha, sigma = (c[:, None] if isinstance(c, Tensor) else c for c in (alpha, sigma))
        return torch.logsumexp(self._log_parts(z[:, None] - alpha * self.means, alpha**2 * self.variances + sigma**2), 1)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Clean data (count, *shape), float64."""
        which = torch.multinomial(self.log_weights.exp(), count, replacement=True, generator=generator)
        noise = torch.randn(count, *self.means.shape[1:], generator=generator, dtype=torch.float64)
        return self.means[which] + torch.sqrt(self.variances[which]) * noise

    def _log_parts(self, offset: Tensor, total: Tensor) -> Tensor:
        """log w_k N(z; alpha m_k, total), (batch, components)."""
        total = total.clamp(min=_TINY)
        return self.log_weights - 0.5 * (offset.square() / total + torch.log(2 * math.pi * total)).flatten(2).sum(-1)


def gm4(process: Process | None = None) -> MixtureOracle:
    """The suite's standard mixture GM4: four normal laws in two dimensions, mean (.15, .2).

    Args:
        process: how the data are made noisy; EDM when absent.

    Returns:
        Its exact denoiser, states (batch, 2).
    """
    weights, means = [0.4, 0.3, 0.2, 0.1], [[1, 0.5], [-0.8, 0.9], [-0.5, -1], [0.9, -0.7]]
    return MixtureOracle(weights, means, [[0.25, 0.1], [0.15, 0.3], [0.2, 0.2], [0.1, 0.35]], process)


def gm4_points(sigma: float = 80.0, count: int = 512) -> Float[Tensor, "count 2"]:
    """The fixed start points of GM4's benchmarks: exact draws at noise level ``sigma`` (alpha = 1) by numpy's Philox(0).

    Args:
        sigma: the noise level, in units of the state.
        count: number of points; 512 in all published tables.

    Returns:
        Points (count, 2), float64.
    """
    law = gm4()
    generator = np.random.Generator(np.random.Philox(0))
    noise = torch.from_numpy(generator.standard_normal((count, 2)))
    which = torch.from_numpy(generator.choice(4, size=count, p=[0.4, 0.3, 0.2, 0.1]))
    return law.means[which] + torch.sqrt(law.variances[which] + sigma**2) * noise


@dataclass(frozen=True)
class LinearGaussian:
    """A linear inverse problem with normal data and normal noise, whose posterior is normal: y = A x_0 + N(0, R).

    cov = (C^-1 + A^T R^-1 A)^-1,   mean = m + C A^T (A C A^T + R)^-1 (y - A m),   log evidence = log N(y; A m, A C A^T + R)

    Args:
        prior_mean: m (n,), in units of the state.
        prior_cov: C (n, n).
        matrix: A (measurements, n).
        noise_cov: R (measurements, measurements).
        y: the measurement (measurements,).
    """

    prior_mean: Tensor
    prior_cov: Tensor
    matrix: Tensor
    noise_cov: Tensor
    y: Tensor

    @property
    def evidence_cov(self) -> Tensor:
        """A C A^T + R."""
        return self.matrix @ self.prior_cov @ self.matrix.mT + self.noise_cov

    @property
    def gain(self) -> Tensor:
        """C A^T (A C A^T + R)^-1, (n, measurements)."""
        return torch.linalg.solve(self.evidence_cov, self.matrix @ self.prior_cov).mT

    @property
    def posterior_mean(self) -> Tensor:
        """E[x_0 | y], (n,)."""
        return self.prior_mean + self.gain @ (self.y - self.matrix @ self.prior_mean)

    @property
    def posterior_cov(self) -> Tensor:
        """Cov[x_0 | y], (n, n)."""
        cov = self.prior_cov - self.gain @ self.matrix @ self.prior_cov
        return (cov + cov.mT) / 2

    @property
    def log_evidence(self) -> float:
        """log p(y), in nats."""
        law = torch.distributions.MultivariateNormal(self.matrix @ self.prior_mean, self.evidence_cov)
        return law.log_prob(self.y).item()

    def prior(self, process: Process | None = None) -> GaussianOracle:
        """The exact denoiser of the prior, E[x_0 | x_t]."""
        return GaussianOracle(self.prior_mean, self.prior_cov, process)

    def posterior(self, process: Process | None = None) -> GaussianOracle:
        """The exact denoiser of the posterior, E[x_0 | x_t, y]: given x_0, noise and measurement are independent."""
        return GaussianOracle(self.posterior_mean, self.posterior_cov, process)


def lg3() -> LinearGaussian:
    """The suite's standard linear-Gaussian problem LG3: three unknowns, two measurements.

    Returns:
        The problem, in float64.
    """
    return LinearGaussian(
        prior_mean=torch.tensor([0.5, -0.3, 0.2], dtype=torch.float64),
        prior_cov=torch.tensor([[1, 0.6, 0.2], [0.6, 0.8, 0.1], [0.2, 0.1, 0.5]], dtype=torch.float64),
        matrix=torch.tensor([[1, 0.5, 0], [0, 1, -1]], dtype=torch.float64),
        noise_cov=0.09 * torch.eye(2, dtype=torch.float64),
        y=torch.tensor([1.2, -0.4], dtype=torch.float64),
    )
