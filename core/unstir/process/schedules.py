"""Noise schedules of their own kind: log-SNR linear in time, and plain Brownian motion.

    logistic:   alpha^2 = 1/(1 + e^u), sigma^2 = 1/(1 + e^-u), u = k (t - t0)
    Brownian:   x_t = x_0 + sqrt(2 epsilon) W_t

References: Lin et al. 2024 (Schedule Your Edit), arXiv:2410.18756, for the logistic one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.process.base import Process, Time


@dataclass(frozen=True)
class VPLogistic(Process):
    """Variance preserving, logistic: log(alpha^2/sigma^2) = -k (t - t0) falls in a straight line.

    d rho/dt = k rho/2 is finite at the data, where the linear and the cosine schedule have an infinite slope, so that the first steps
    of an inversion are small. The published table is k = 0.015 and t0 = 600 of 1000 indices. As sigma only tends to 0, the step to the
    data begins at ``exp(-k t0/2)``.

    Args:
        steepness: k, per unit of time.
        centre: t0, the time at which alpha = sigma.
        t_min, t_max: sampling interval.

    Raises:
        UserError: the steepness is not positive.
    """

    steepness: float = 15.0
    centre: float = 0.6
    t_min: float = 0.0
    t_max: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.steepness < math.inf:
            raise UserError(f"the steepness of VPLogistic must be positive and finite, got {self.steepness}")

    @property
    def t_zero(self) -> float:
        """Minus infinity: sigma only tends to 0."""
        return -math.inf

    def exponent(self, t: Time) -> Tensor:
        """u = k (t - t0), which is 2 log(rho)."""
        return self.steepness * (self.time(t) - self.centre)

    def alpha(self, t: Time) -> Tensor:
        """(1 + e^u)^(-1/2)."""
        return torch.sqrt(torch.sigmoid(-self.exponent(t)))

    def sigma(self, t: Time) -> Tensor:
        """(1 + e^-u)^(-1/2)."""
        return torch.sqrt(torch.sigmoid(self.exponent(t)))

    def rho(self, t: Time) -> Tensor:
        """e^(u/2)."""
        return torch.exp(self.exponent(t) / 2)

    def rate(self, t: Time) -> Tensor:
        """-k sigma^2/2."""
        return -self.steepness / 2 * torch.sigmoid(self.exponent(t))

    def diffusion(self, t: Time) -> Tensor:
        """sqrt(k) sigma."""
        return math.sqrt(self.steepness) * self.sigma(t)

    def time_at_rho(self, rho: float | Tensor) -> Tensor:
        """t0 + 2 log(rho)/k."""
        return self.centre + 2 * torch.log(torch.as_tensor(rho, dtype=torch.float64)) / self.steepness


@dataclass(frozen=True)
class Brownian(Process):
    """Variance exploding at a constant rate.

    alpha = 1, sigma = sqrt(2 epsilon t), dx = sqrt(2 epsilon) dw

    Args:
        epsilon: half the variance gained per unit of time, in squared units of the state.
        t_min, t_max: sampling interval.

    Raises:
        UserError: ``epsilon`` is not positive.
    """

    epsilon: float = 1.0
    t_min: float = 1e-3
    t_max: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < math.inf:
            raise UserError(f"epsilon of Brownian must be positive and finite, got {self.epsilon}")

    def alpha(self, t: Time) -> Tensor:
        """1."""
        return torch.ones_like(self.time(t))

    def sigma(self, t: Time) -> Tensor:
        """sqrt(2 epsilon t)."""
        return torch.sqrt(2 * self.epsilon * self.time(t))

    def rate(self, t: Time) -> Tensor:
        """0."""
        return torch.zeros_like(self.time(t))

    def diffusion(self, t: Time) -> Tensor:
        """sqrt(2 epsilon)."""
        return torch.full_like(self.time(t), math.sqrt(2 * self.epsilon))

    def time_at_rho(self, rho: float | Tensor) -> Tensor:
        """rho^2/(2 epsilon)."""
        return torch.as_tensor(rho, dtype=torch.float64).square() / (2 * self.epsilon)
