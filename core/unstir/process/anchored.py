"""Processes from data to an anchor: speech to noisy speech, image to degraded image.

x_t = alpha(t) x_0 + (1 - alpha(t)) y + sigma(t) eps,        dx = f (x - y) dt + g dw
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.process.base import Process, Time


class Anchored(Process):
    """A process whose mean runs from the data to the anchor: beta = 1 - alpha.

    Sampling starts around the anchor, alpha y + beta y = y: the anchor is the best guess of the data there is. Where alpha is
    not yet 0 at ``t_max`` (0.22 for OUVE) that is a mismatch of alpha (x_0 - y), which no solver mends.
    """

    anchored: ClassVar[bool] = True

    def beta(self, t: Time) -> Tensor:
        """1 - alpha."""
        return 1 - self.alpha(t)

    def pull(self, t: Time) -> Tensor:
        """-f: the drift is f (x - y)."""
        return -self.rate(t)

    def prior(self, anchor: Tensor | None = None, t: float | None = None) -> tuple[Any, Any]:
        """The anchor, and sigma at the start ``t`` (``t_max`` when absent)."""
        return self.need(anchor), float(self.sigma(self.t_max if t is None else t))


@dataclass(frozen=True)
class OUVE(Anchored):
    """Ornstein-Uhlenbeck drift to the anchor with exploding variance.

    dx = gamma (y - x) dt + sigma_min (sigma_max/sigma_min)^t sqrt(2 L) dw,    L = log(sigma_max/sigma_min)
    sigma^2 = sigma_min^2 exp(-2 gamma t) (exp(2 (gamma + L) t) - 1) L/(gamma + L)          [Richter et al. 2023, arXiv:2208.05830]

    Args:
        stiffness: gamma, per unit of time.
        sigma_min, sigma_max: levels of the diffusion, in units of the state.
        t_min, t_max: sampling interval.
    """

    stiffness: float = 1.5
    sigma_min: float = 0.05
    sigma_max: float = 0.5
    t_min: float = 0.03
    t_max: float = 1.0

    @property
    def growth(self) -> float:
        """L = log(sigma_max/sigma_min), per unit of time."""
        return math.log(self.sigma_max / self.sigma_min)

    def alpha(self, t: Time) -> Tensor:
        """exp(-gamma t)."""
        return torch.exp(-self.stiffness * self.time(t))

    def beta(self, t: Time) -> Tensor:
        """1 - exp(-gamma t)."""
        return -torch.expm1(-self.stiffness * self.time(t))

    def rho(self, t: Time) -> Tensor:
        """sigma_min sqrt((exp(2 (gamma + L) t) - 1) L/(gamma + L))."""
        total = self.stiffness + self.growth
        return self.sigma_min * torch.sqrt(torch.expm1(2 * total * self.time(t)) * (self.growth / total))

    def sigma(self, t: Time) -> Tensor:
        """alpha rho."""
        return self.rho(t) * self.alpha(t)

    def rate(self, t: Time) -> Tensor:
        """-gamma."""
        return torch.full_like(self.time(t), -self.stiffness)

    def diffusion(self, t: Time) -> Tensor:
        """sigma_min (sigma_max/sigma_min)^t sqrt(2 L)."""
        return self.sigma_min * torch.exp(self.growth * self.time(t)) * math.sqrt(2 * self.growth)

    def time_at_rho(self, rho: float | Tensor) -> Tensor:
        """log(1 + rho^2/sigma_min^2 (gamma + L)/L) / (2 (gamma + L))."""
        total = self.stiffness + self.growth
        relative = torch.as_tensor(rho, dtype=torch.float64) / self.sigma_min
        return torch.log1p(relative.square() * (total / self.growth)) / (2 * total)


@dataclass(frozen=True)
class MeanReverting(Anchored):
    """Mean-reverting process with a stationary noise level (IR-SDE).

        dx = theta (y - x) dt + scale sqrt(2 theta) dw,   alpha = exp(-T), sigma = scale sqrt(1 - exp(-2 T)), T = integral of theta,
        T(1) = -log(floor);   theta is constant, or proportional to 1 - cos^2(c (t + 0.008))/cos^2(0.008 c), c = pi/2/1.008
                                                                                            [Luo et al. 2023, arXiv:2301.11699]

    Args:
        scale: the stationary noise level, in units of the state.
        floor: alpha at t = 1.
        schedule: how theta runs.
        t_min, t_max: sampling interval.
    """

    scale: float = 50 / 255
    floor: float = 0.01
    schedule: Literal["cosine", "constant"] = "cosine"
    t_min: float = 0.01
    t_max: float = 1.0

    def __post_init__(self) -> None:
        if self.schedule not in ("cosine", "constant"):
            raise UserError(f"the schedule of MeanReverting is 'cosine' or 'constant', got {self.schedule!r}")

    def alpha(self, t: Time) -> Tensor:
        """exp(-T)."""
        return torch.exp(-self.integral(t))

    def beta(self, t: Time) -> Tensor:
        """1 - exp(-T)."""
        return -torch.expm1(-self.integral(t))

    def sigma(self, t: Time) -> Tensor:
        """scale sqrt(1 - exp(-2 T))."""
        return self.scale * torch.sqrt(-torch.expm1(-2 * self.integral(t)))

    def rho(self, t: Time) -> Tensor:
        """scale sqrt(exp(2 T) - 1)."""
        return self.scale * torch.sqrt(torch.expm1(2 * self.integral(t)))

    def rate(self, t: Time) -> Tensor:
        """-theta."""
        t, total = self.time(t), -math.log(self.floor)
        if self.schedule == "constant":
            return torch.full_like(t, -total)
        u = _COSINE * t
        return -total * _COSINE * torch.sin(u) * torch.sin(u + 2 * _OFFSET) / _WHOLE

    def diffusion(self, t: Time) -> Tensor:
        """scale sqrt(2 theta)."""
        return self.scale * torch.sqrt(-2 * self.rate(t))

    def time_at_rho(self, rho: float | Tensor) -> Tensor:
        """log(1 + rho^2/scale^2)/(2 T(1)) for the constant schedule; the cosine's T is Kepler's equation in t, solved by bisection."""
        if self.schedule == "cosine":
            return super().time_at_rho(rho)
        relative = torch.as_tensor(rho, dtype=torch.float64) / self.scale
        return torch.log1p(relative.square()) / (-2 * math.log(self.floor))

    def integral(self, t: Time) -> Tensor:
        """T(t), theta summed from 0 to t."""
        t, total = self.time(t), -math.log(self.floor)
        if self.schedule == "constant":
            return total * t
        return total * _area(_COSINE * t) / _WHOLE


_COSINE = math.pi / 2 / 1.008
_OFFSET = 0.008 * _COSINE


def _area(u: Tensor) -> Tensor:
    """Integral from 0 to u of sin(v) sin(v + 2a), which is cos^2(a) - cos^2(a + v); written so that nothing cancels at small u."""
    return (math.cos(2 * _OFFSET) * (u - torch.sin(u) * torch.cos(u)) + math.sin(2 * _OFFSET) * torch.sin(u).square()) / 2


_WHOLE = _area(torch.tensor(_COSINE, dtype=torch.float64)).item()


@dataclass(frozen=True)
class SBVE(Anchored):
    """Schroedinger bridge with exploding variance: pinned to the data at t = 0 and to the anchor at t = 1.

    S(t) = c (k^(2t) - 1)/(2 log k), R = S(1) - S;   alpha = R/S(1), beta = S/S(1), sigma = sqrt(S R/S(1))
                                                            [Chen et al. 2023, arXiv:2312.03491; Jukic et al. 2024, arXiv:2407.16074]

    At t = 1 alpha = sigma = 0: all samples of one anchor are the same point, so the first step must draw noise.

    Args:
        k: growth of the diffusion, g = sqrt(c) k^t.
        c: scale of the variance, in squared units of the state.
        t_min, t_max: sampling interval.
    """

    k: float = 2.6
    c: float = 0.4
    t_min: float = 1e-4
    t_max: float = 1.0

    def __post_init__(self) -> None:
        if not (self.k > 0 and self.k != 1 and self.c > 0):
            raise UserError(f"SBVE needs k positive and not 1, and c positive, got k={self.k}, c={self.c}")

    def variance(self, t: Time) -> Tensor:
        """S(t), the variance gained from 0 to t, in squared units of the state."""
        return self.c * torch.expm1(2 * math.log(self.k) * self.time(t)) / (2 * math.log(self.k))

    def rest(self, t: Time) -> Tensor:
        """R(t) = S(1) - S(t), without cancellation near t = 1."""
        t, log_k = self.time(t), math.log(self.k)
        return self.c * torch.exp(2 * log_k * t) * torch.expm1(2 * log_k * (1 - t)) / (2 * log_k)

    def alpha(self, t: Time) -> Tensor:
        """R/S(1)."""
        return self.rest(t) / self.variance(1.0)

    def beta(self, t: Time) -> Tensor:
        """S/S(1)."""
        return self.variance(t) / self.variance(1.0)

    def sigma(self, t: Time) -> Tensor:
        """sqrt(S R/S(1))."""
        return torch.sqrt(self.variance(t) * self.rest(t) / self.variance(1.0))

    def rho(self, t: Time) -> Tensor:
        """sqrt(S S(1)/R)."""
        return torch.sqrt(self.variance(t) * self.variance(1.0) / self.rest(t))

    def rate(self, t: Time) -> Tensor:
        """-g^2/R."""
        return -self.diffusion(t).square() / self.rest(t)

    def diffusion(self, t: Time) -> Tensor:
        """sqrt(c) k^t."""
        return math.sqrt(self.c) * torch.exp(math.log(self.k) * self.time(t))

    def time_at_rho(self, rho: float | Tensor) -> Tensor:
        """The root of S(t) = 1/(1/rho^2 + 1/S(1))."""
        variance = 1 / (1 / torch.as_tensor(rho, dtype=torch.float64).square() + 1 / self.variance(1.0))
        return torch.log1p(variance * (2 * math.log(self.k) / self.c)) / (2 * math.log(self.k))
