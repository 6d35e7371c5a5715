"""Processes without an anchor: variance preserving, variance exploding, and straight lines.

x_t = alpha(t) x_0 + sigma(t) eps                       [Song et al. 2021, arXiv:2011.13456; Karras et al. 2022, arXiv:2206.00364]
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.process.base import Process, Time


@dataclass(frozen=True)
class VP(Process):
    """Variance preserving, linear noise rate.

    alpha = exp(-B/2), sigma = sqrt(1 - exp(-B)), B = beta_min t + (beta_max - beta_min) t^2/2      [Song et al. 2021, eq. 33]

    Args:
        beta_min, beta_max: noise rate at t = 0 and t = 1, per unit of time.
        t_min, t_max: sampling interval.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_min: float = 1e-3
    t_max: float = 1.0

    def alpha(self, t: Time) -> Tensor:
        """exp(-B/2)."""
        return torch.exp(-self.integral(t) / 2)

    def sigma(self, t: Time) -> Tensor:
        """sqrt(1 - exp(-B))."""
        return torch.sqrt(-torch.expm1(-self.integral(t)))

    def rho(self, t: Time) -> Tensor:
        """sqrt(exp(B) - 1)."""
        return torch.sqrt(torch.expm1(self.integral(t)))

    def rate(self, t: Time) -> Tensor:
        """-B'/2."""
        return -self.noise_rate(t) / 2

    def diffusion(self, t: Time) -> Tensor:
        """sqrt(B')."""
        return torch.sqrt(self.noise_rate(t))

    def time_at_rho(self, rho: float | Tensor) -> Tensor:
        """The root of B(t) = log(1 + rho^2)."""
        return self.time_at_integral(torch.log1p(torch.as_tensor(rho, dtype=torch.float64).square()))

    def noise_rate(self, t: Time) -> Tensor:
        """B'(t), per unit of time."""
        return self.beta_min + (self.beta_max - self.beta_min) * self.time(t)

    def integral(self, t: Time) -> Tensor:
        """B(t), the noise rate summed from 0 to t."""
        t = self.time(t)
        return t * (self.beta_min + (self.beta_max - self.beta_min) / 2 * t)

    def time_at_integral(self, b: Tensor) -> Tensor:
        """The time at which the summed noise rate is ``b``: the positive root, without cancellation."""
        return 2 * b / (self.beta_min + torch.sqrt(self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * b))


@dataclass(frozen=True)
class SubVP(VP):
    """Sub-variance preserving: as VP, with less noise on the way.

    alpha = exp(-B/2), sigma = 1 - exp(-B)                                                          [Song et al. 2021, eq. 29]
    """

    def sigma(self, t: Time) -> Tensor:
        """1 - exp(-B)."""
        return -torch.expm1(-self.integral(t))

    def rho(self, t: Time) -> Tensor:
        """2 sinh(B/2)."""
        return 2 * torch.sinh(self.integral(t) / 2)

    def diffusion(self, t: Time) -> Tensor:
        """sqrt(B' (1 - exp(-2 B)))."""
        return torch.sqrt(self.noise_rate(t) * -torch.expm1(-2 * self.integral(t)))

    def time_at_rho(self, rho: float | Tensor) -> Tensor:
        """The root of B(t) = 2 asinh(rho/2)."""
        return self.time_at_integral(2 * torch.asinh(torch.as_tensor(rho, dtype=torch.float64) / 2))


@dataclass(frozen=True)
class VPCosine(Process):
    """Variance preserving, cosine schedule; pure noise at t = 1.

    alpha = cos(c (t + offset)) / cos(c offset), c = pi/2/(1 + offset), sigma = sqrt(1 - alpha^2) [Nichol & Dhariwal 2021, arXiv:2102.09672]

    Args:
        offset: keeps the noise rate at t = 0 above zero.
        t_min, t_max: sampling interval; at t = 1 alpha is exactly 0.
    """

    offset: float = 0.008
    t_min: float = 1e-3
    t_max: float = 1.0

    @property
    def frequency(self) -> float:
        """c, in radians per unit of time."""
        return math.pi / 2 / (1 + self.offset)

    def alpha(self, t: Time) -> Tensor:
        """sin(c (1 - t)) / sin(c): the ratio of cosines, exactly 0 at t = 1."""
        return torch.sin(self.frequency * (1 - self.time(t))) / math.sin(self.frequency)

    def sigma(self, t: Time) -> Tensor:
        """sqrt(sin(c (2 - t)) sin(c t)) / sin(c): sqrt(1 - alpha^2) without cancellation."""
        c, t = self.frequency, self.time(t)
        return torch.sqrt(torch.sin(c * (2 - t)) * torch.sin(c * t)) / math.sin(c)

    def rate(self, t: Time) -> Tensor:
        """-c / tan(c (1 - t))."""
        return -self.frequency / torch.tan(self.frequency * (1 - self.time(t)))

    def diffusion(self, t: Time) -> Tensor:
        """sqrt(-2 f)."""
        return torch.sqrt(-2 * self.rate(t))

    def time_at_rho(self, rho: float | Tensor) -> Tensor:
        """1 - v/c, v = atan(sin(c)/r), r = sqrt(rho^2 + cos(c)^2); at low noise c - v is taken from its own tangent, so nothing cancels."""
        sin, cos, rho = math.sin(self.frequency), math.cos(self.frequency), torch.as_tensor(rho, dtype=torch.float64)
        r = torch.hypot(rho, torch.full_like(rho, cos))
        near_noise = self.frequency - torch.atan2(torch.full_like(rho, sin), r)
        near_data = torch.atan2(sin * rho.square() / (r + cos), cos * r + sin**2)
        return torch.where(rho > 1, near_noise, near_data) / self.frequency


@dataclass(frozen=True)
class VE(Process):
    """Variance exploding, geometric noise levels.

    alpha = 1, sigma = sigma_min (sigma_max/sigma_min)^t                                            [Song et al. 2021, eq. 31]

    Args:
        sigma_min, sigma_max: noise level at t = 0 and t = 1, in units of the state.
        t_min, t_max: sampling interval.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    t_min: float = 0.0
    t_max: float = 1.0

    @property
    def t_zero(self) -> float:
        """Minus infinity: sigma only tends to 0."""
        return -math.inf

    @property
    def growth(self) -> float:
        """log(sigma_max/sigma_min), per unit of time."""
        return math.log(self.sigma_max / self.sigma_min)

    def alpha(self, t: Time) -> Tensor:
        """1."""
        return torch.ones_like(self.time(t))

    def sigma(self, t: Time) -> Tensor:
        """sigma_min (sigma_max/sigma_min)^t."""
        return self.sigma_min * torch.exp(self.growth * self.time(t))

    def rate(self, t: Time) -> Tensor:
        """0."""
        return torch.zeros_like(self.time(t))

    def diffusion(self, t: Time) -> Tensor:
        """sigma sqrt(2 log(sigma_max/sigma_min))."""
        return self.sigma(t) * math.sqrt(2 * self.growth)

    def time_at_rho(self, rho: float | Tensor) -> Tensor:
        """log(rho/sigma_min) / log(sigma_max/sigma_min)."""
        return torch.log(torch.as_tensor(rho, dtype=torch.float64) / self.sigma_min) / self.growth


@dataclass(frozen=True)
class EDM(Process):
    """Variance exploding with the noise level as the time.

    alpha = 1, sigma = t                                                                            [Karras et al. 2022, arXiv:2206.00364]

    Args:
        t_min, t_max: smallest and largest noise level of sampling, in units of the state.
    """

    t_min: float = 0.002
    t_max: float = 80.0

    def alpha(self, t: Time) -> Tensor:
        """1."""
        return torch.ones_like(self.time(t))

    def sigma(self, t: Time) -> Tensor:
        """t."""
        return self.time(t)

    def rate(self, t: Time) -> Tensor:
        """0."""
        return torch.zeros_like(self.time(t))

    def diffusion(self, t: Time) -> Tensor:
        """sqrt(2 t)."""
        return torch.sqrt(2 * self.time(t))

    def time_at_rho(self, rho: float | Tensor) -> Tensor:
        """rho."""
        return torch.as_tensor(rho, dtype=torch.float64)

    def label(self, t: Time) -> Tensor:
        """log(t)/4."""
        return torch.log(self.time(t)) / 4


@dataclass(frozen=True)
class RectifiedFlow(Process):
    """A straight line from data to noise, with a time shift.

    alpha = 1 - u, sigma = u, u = k t / (1 + (k - 1) t)
                                                [Liu et al. 2023, arXiv:2209.03003; the shift: Esser et al. 2024, arXiv:2403.03206]

    The network is told u. At t = 1 alpha is exactly 0.

    Args:
        shift: k; above 1 spends more of the time near the noise.
        t_min, t_max: sampling interval.
    """

    shift: float = 1.0
    t_min: float = 1e-3
    t_max: float = 1.0

    def __post_init__(self) -> None:
        if not self.shift > 0:
            raise UserError(f"the shift of RectifiedFlow must be positive, got {self.shift}")

    def alpha(self, t: Time) -> Tensor:
        """(1 - t) / (1 + (k - 1) t)."""
        return (1 - self.time(t)) / self.stretch(t)

    def sigma(self, t: Time) -> Tensor:
        """k t / (1 + (k - 1) t)."""
        return self.shift * self.time(t) / self.stretch(t)

    def rho(self, t: Time) -> Tensor:
        """k t / (1 - t)."""
        t = self.time(t)
        return self.shift * t / (1 - t)

    def rate(self, t: Time) -> Tensor:
        """-k / ((1 - t) (1 + (k - 1) t))."""
        return -self.shift / ((1 - self.time(t)) * self.stretch(t))

    def diffusion(self, t: Time) -> Tensor:
        """k sqrt(2 t/(1 - t)) / (1 + (k - 1) t)."""
        t = self.time(t)
        return self.shift / self.stretch(t) * torch.sqrt(2 * t / (1 - t))

    def time_at_rho(self, rho: float | Tensor) -> Tensor:
        """1 / (1 + k/rho)."""
        return 1 / (1 + self.shift / torch.as_tensor(rho, dtype=torch.float64))

    def label(self, t: Time) -> Tensor:
        """u, which is sigma."""
        return self.sigma(t)

    def stretch(self, t: Time) -> Tensor:
        """1 + (k - 1) t."""
        return 1 + (self.shift - 1) * self.time(t)
