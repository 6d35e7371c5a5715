"""At which noise levels a network is trained: samplers of process time, stratified over the batch.

u_i = (u + i/B) mod 1,  u ~ U(0, 1)   (one draw for the whole batch: the variance of the loss falls)        [VDM, arXiv:2107.00630]
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from unstir.process import Process


class TimeSampler(ABC):
    """A law of training times, given by the inverse of its distribution function."""

    def __call__(self, process: Process, count: int, generator: torch.Generator) -> Tensor:
        """Times of a batch.

        Args:
            process: whose times.
            count: batch size.
            generator: the only source of randomness.

        Returns:
            ``(count,)``, float64.
        """
        offset = torch.rand((), generator=generator, dtype=torch.float64)
        return self.quantile(process, (offset + torch.arange(count, dtype=torch.float64) / max(count, 1)) % 1.0)

    @abstractmethod
    def quantile(self, process: Process, u: Tensor) -> Tensor:
        """Times at the quantiles ``u`` in [0, 1), float64."""


@dataclass(frozen=True)
class Uniform(TimeSampler):
    """t uniform between the process's ends (``low`` moves the near end away from zero noise)."""

    low: float = 1e-3

    def quantile(self, process: Process, u: Tensor) -> Tensor:
        """t = t_max - (1 - u)(t_max - max(t_min, low))."""
        near = max(process.t_min, self.low)
        return process.t_max - (1 - u) * (process.t_max - near)


@dataclass(frozen=True)
class LogUniform(TimeSampler):
    """log rho uniform on [log low, log high], rho = sigma/alpha; levels beyond the ends of the process are taken at its ends."""

    low: float = 0.002
    high: float = 80.0

    def quantile(self, process: Process, u: Tensor) -> Tensor:
        """rho = low (high/low)^u."""
        return _time(process, self.low * (self.high / self.low) ** u)


@dataclass(frozen=True)
class LogNormal(TimeSampler):
    """log rho ~ N(mean, std^2); levels beyond the ends of the process are taken at its ends.    [EDM, arXiv:2206.00364]"""

    mean: float = -1.2
    std: float = 1.2

    def quantile(self, process: Process, u: Tensor) -> Tensor:
        """rho = exp(mean + std Phi^-1(u)); u is kept off the ends by 1e-6."""
        return _time(process, torch.exp(self.mean + self.std * torch.special.ndtri(u.clamp(1e-6, 1 - 1e-6))))


@dataclass(frozen=True)
class LogitNormal(TimeSampler):
    """t = sigmoid(mean + std n) of the way from t_min to t_max.                            [SD3, arXiv:2403.03206]"""

    mean: float = 0.0
    std: float = 1.0

    def quantile(self, process: Process, u: Tensor) -> Tensor:
        """The quantile function of the logit-normal law, scaled to the process's times."""
        share = torch.sigmoid(self.mean + self.std * torch.special.ndtri(u.clamp(1e-6, 1 - 1e-6)))
        return process.t_min + (process.t_max - process.t_min) * share


@dataclass(frozen=True)
class Mixture(TimeSampler):
    """Two laws: ``first`` with probability ``share``, else ``second``."""

    first: TimeSampler
    second: TimeSampler
    share: float = 0.5

    def quantile(self, process: Process, u: Tensor) -> Tensor:
        """The laws side by side: quantiles below ``share`` go to the first."""
        inner = torch.where(u < self.share, u / self.share, (u - self.share) / (1 - self.share))
        inner = inner.clamp(0.0, math.nextafter(1.0, 0.0))
        return torch.where(u < self.share, self.first.quantile(process, inner), self.second.quantile(process, inner))


def _time(process: Process, rho: Tensor) -> Tensor:
    """The times of noise levels; beyond the ends a process has no law, and its network no label."""
    return process.time_at_rho(rho).clamp(process.t_min, process.t_max)
