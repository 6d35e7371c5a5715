"""More laws in closed form: rings, classes, normal laws with a spectrum, and linear problems with mixture data.

p(c | x_t) = w_c p(x_t | c) / p(x_t),         p(x_0 | y) = sum_k w_k N(y; A m_k, A C_k A^T + R) N(x_0; m_k|y, C_k|y) / p(y)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unstir.certify.oracles import GaussianOracle, LinearGaussian, MixtureOracle
from unstir.denoiser.base import Condition
from unstir.errors import UserError
from unstir.process import Process


class ClassOracle(MixtureOracle):
    """The exact denoiser of a mixture whose components belong to classes, with or without the class as a condition.

    The condition ``class`` holds a class a sample, (batch,) long; -1, or no such entry, is the law of all classes together.

    Args:
        weights: w (components,), positive; scaled to sum to 1.
        means: m (components, *shape), in units of the state.
        stds: (components, *shape), positive.
        labels: the class of each component (components,), whole numbers from 0.
        process: how the data are made noisy; EDM when absent.

    Raises:
        UserError: shapes do not fit, or a class has no component.
    """

    def __init__(self, weights: Any, means: Any, stds: Any, labels: Any, process: Process | None = None) -> None:
        super().__init__(weights, means, stds, process)
        self.labels = torch.as_tensor(labels, dtype=torch.int64)
        self.classes = int(self.labels.max()) + 1
        if self.labels.shape != self.log_weights.shape or len(self.labels.unique()) != self.classes:
            raise UserError(f"labels must give each of {len(self.log_weights)} components a class, from 0 on, got {self.labels.tolist()}")

    def on(self, process: Process) -> ClassOracle:
        """The same law on another process."""
        return ClassOracle(self.log_weights.exp(), self.means, self.variances.sqrt(), self.labels, process)

    def given(self, label: int) -> MixtureOracle:
        """The law of one class, unconditional."""
        own = self.labels == label
        return MixtureOracle(self.log_weights[own].exp(), self.means[own], self.variances[own].sqrt(), self.process)

    def forward(self, x: Tensor, t: Any, condition: Condition | None = None) -> Tensor:
        """E[x_0 | x_t = x, class]."""
        z, alpha, sigma = self.plain(x, t, condition)
        return self._by_class(self.estimate(z, alpha, sigma), condition, lambda law: law.estimate(z, alpha, sigma)).to(x.dtype)

    def score(self, x: Tensor, t: Any, condition: Condition | None = None) -> Tensor:
        """grad log p(x_t | class)."""
        z, alpha, sigma = self.plain(x, t, condition)
        x0 = self._by_class(self.estimate(z, alpha, sigma), condition, lambda law: law.estimate(z, alpha, sigma))
        return ((alpha * x0 - z) / sigma**2).to(x.dtype)

    def log_density(self, x: Tensor, t: Any, condition: Condition | None = None) -> Tensor:
        """log p(x_t | class) in nats, (batch,)."""
        z, alpha, sigma = self.plain(x, t, condition)
        return self._by_class(self.log_law(z, alpha, sigma), condition, lambda law: law.log_law(z, alpha, sigma)).to(x.dtype)

    def log_class(self, x: Float[Tensor, "batch *shape"], t: Any, condition: Condition | None = None) -> Float[Tensor, "batch classes"]:
        """log p(class | x_t), one column a class; differentiable in ``x``.

        Args:
            x: noisy states (batch, *shape).
            t: one time, or one a sample (batch,).
            condition: the anchor, on an anchored process.
        """
        z, alpha, sigma = self.plain(x, t, condition)
        weights = self.log_weights.exp()
        columns = [self.given(c).log_law(z, alpha, sigma) + math.log(float(weights[self.labels == c].sum())) for c in range(self.classes)]
        return torch.log_softmax(torch.stack(columns, 1), 1).to(x.dtype)

    def _by_class(self, free: Tensor, condition: Condition | None, given: Any) -> Tensor:
        label = (condition or {}).get("class")
        if label is None:
            return free
        label = torch.as_tensor(label).expand(len(free)).reshape(-1, *[1] * (free.ndim - 1))
        for c in range(self.classes):
            free = torch.where(label == c, given(self.given(c)), free)
        return free


def ring8(process: Process | None = None, weights: Any = None) -> MixtureOracle:
    """The ring M8: eight modes on a circle of radius 4, standard deviation 0.3, in two dimensions.

    Args:
        process: how the data are made noisy; EDM when absent.
        weights: of the modes (8,), counter-clockwise from (4, 0); equal when absent.
    """
    angle = torch.arange(8, dtype=torch.float64) * (math.pi / 4)
    means = 4 * torch.stack([torch.cos(angle), torch.sin(angle)], 1)
    return MixtureOracle([1.0] * 8 if weights is None else weights, means, torch.full((8, 2), 0.3), process)


def grid25(process: Process | None = None, spacing: float = 2.0, std: float = 0.15) -> MixtureOracle:
    """A square of 25 modes in two dimensions.

    Args:
        process: how the data are made noisy; EDM when absent.
        spacing: distance of neighbouring modes, in units of the state.
        std: of each mode.
    """
    line = spacing * torch.arange(-2, 3, dtype=torch.float64)
    return MixtureOracle([1.0] * 25, torch.cartesian_prod(line, line), torch.full((25, 2), std), process)


def classes3(process: Process | None = None, dimension: int = 2) -> ClassOracle:
    """The classes C3: three classes of two modes each; class c around angle 2 pi c/3, its modes a little apart.

    In more than two dimensions the class shows in the first two coordinates; the others, the layout, have one law for all classes.

    Args:
        process: how the data are made noisy; EDM when absent.
        dimension: number of coordinates, at least 2.
    """
    means = torch.zeros(6, dimension, dtype=torch.float64)
    for c in range(3):
        for m in range(2):
            angle = 2 * math.pi * (c + 0.12 * (2 * m - 1)) / 3
            means[2 * c + m, :2] = 2 * torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
    stds = torch.full((6, dimension), 0.25)
    stds[:, 2:] = 0.8
    return ClassOracle([0.25, 0.15, 0.2, 0.1, 0.15, 0.15], means, stds, [0, 0, 1, 1, 2, 2], process)


def gaussian(dimension: int = 16, power: float = -1.5, process: Process | None = None) -> GaussianOracle:
    """The normal law G, of mean 0 and variances 4 k^power in a fixed rotated basis, k = 1, 2, ...

    Args:
        dimension: number of coordinates.
        power: of the spectrum.
        process: how the data are made noisy; EDM when absent.
    """
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(dimension, dimension, generator=generator, dtype=torch.float64))
    variances = 4 * torch.arange(1, dimension + 1, dtype=torch.float64) ** power
    cov = (basis * variances) @ basis.mT
    return GaussianOracle(torch.zeros(dimension, dtype=torch.float64), (cov + cov.mT) / 2, process)


@dataclass(frozen=True)
class LinearMixture:
    """A linear inverse problem with mixture data and normal noise, y = A x_0 + N(0, std^2): its posterior is a mixture.

    Args:
        weights: of the prior's components (k,), summing to 1.
        means: (k, n), in units of the state.
        stds: (k, n), positive.
        matrix: A (measurements, n).
        std: of the noise, in units of the measurement.
        y: the measurement (measurements,).
    """

    weights: Tensor
    means: Tensor
    stds: Tensor
    matrix: Tensor
    std: float
    y: Tensor

    def prior(self, process: Process | None = None) -> MixtureOracle:
        """The exact denoiser of the prior."""
        return MixtureOracle(self.weights, self.means, self.stds, process)

    @property
    def parts(self) -> list[LinearGaussian]:
        """The normal problem of each component."""
        noise = self.std**2 * torch.eye(len(self.y), dtype=torch.float64)
        return [LinearGaussian(m, torch.diag(s**2), self.matrix, noise, self.y) for m, s in zip(self.means, self.stds, strict=True)]

    @property
    def log_evidence(self) -> float:
        """log p(y), in nats."""
        return float(torch.logsumexp(self._log_parts(), 0))

    @property
    def posterior_weights(self) -> Tensor:
        """Of the components (k,)."""
        return torch.softmax(self._log_parts(), 0)

    @property
    def posterior_mean(self) -> Tensor:
        """E[x_0 | y], (n,)."""
        return sum((w * part.posterior_mean for w, part in zip(self.posterior_weights, self.parts, strict=True)), torch.zeros(()))

    @property
    def posterior_cov(self) -> Tensor:
        """Cov[x_0 | y], (n, n)."""
        mean, total = self.posterior_mean, torch.zeros(())
        for w, part in zip(self.posterior_weights, self.parts, strict=True):
            offset = part.posterior_mean - mean
            total = total + w * (part.posterior_cov + torch.outer(offset, offset))
        return total

    def draw(self, count: int, seed: int = 0) -> Float[Tensor, "count n"]:
        """Exact draws of the posterior, float64.

        Args:
            count: number of draws.
            seed: of the draws.
        """
        generator = torch.Generator().manual_seed(seed)
        which = torch.multinomial(self.posterior_weights, count, replacement=True, generator=generator)
        noise = torch.randn(count, self.means.shape[1], generator=generator, dtype=torch.float64)
        roots = torch.stack([torch.linalg.cholesky(part.posterior_cov) for part in self.parts])
        return torch.stack([part.posterior_mean for part in self.parts])[which] + (roots[which] @ noise[..., None])[..., 0]

    def _log_parts(self) -> Tensor:
        return torch.log(self.weights) + torch.tensor([part.log_evidence for part in self.parts], dtype=torch.float64)


def linear_mixture(unknowns: int = 20, measurements: int = 8, std: float = 0.2) -> LinearMixture:
    """The linear problem LG: mixture data of three components in ``unknowns`` dimensions, fewer measurements.

    Args:
        unknowns: n.
        measurements: number of measurements.
        std: of the noise.
    """
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    means, matrix = normal(3, unknowns), normal(measurements, unknowns) / math.sqrt(unknowns)
    stds = 0.3 + 0.3 * torch.rand(3, unknowns, generator=generator, dtype=torch.float64)
    truth = means[0] + stds[0] * normal(unknowns)
    y = matrix @ truth + std * normal(measurements)
    return LinearMixture(torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64), means, stds, matrix, std, y)
