"""Residual processes: the data turn into their degraded version y while noise comes in (RDDM, Resfusion).

    RDDM:        x_t = x_0 + A (y - x_0) + B eps             = (1 - A) x_0 + A y + B eps
    Resfusion:   x_t = a x_0 + (1 - a)(y - x_0) + s eps      = (2 a - 1) x_0 + (1 - a) y + s eps,    a, s of a variance-preserving process

With A = 1 - alpha and B = sigma of a plain process RDDM at y = 0 is that process: the coefficient transform to DDPM.
[RDDM, Liu et al. 2024, arXiv:2308.13712; Resfusion, Shi et al. 2024, arXiv:2311.14900]
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from unstir import names
from unstir.errors import UserError
from unstir.process.affine import VP
from unstir.process.anchored import Anchored
from unstir.process.base import Process, Time, spread


@dataclass(frozen=True)
class _Power(Process):
    """RDDM's own schedules: alpha = (1 - t)^2 and sigma = scale t, the running sums of 2 (1 - t) and, squared, of 2 scale^2 t."""

    scale: float
    t_min: float = 1e-3
    t_max: float = 1.0

    def alpha(self, t: Time) -> Tensor:
        return (1 - self.time(t)).square()

    def sigma(self, t: Time) -> Tensor:
        return self.scale * self.time(t)

    def rate(self, t: Time) -> Tensor:
        return -2 / (1 - self.time(t))

    def diffusion(self, t: Time) -> Tensor:
        t = self.time(t)
        return self.scale * torch.sqrt(2 * t * (1 + t) / (1 - t))

    def time_at_rho(self, rho: float | Tensor) -> Tensor:
        """The root of rho (1 - t)^2 = scale t, written for rho = 0 and infinity too."""
        u = self.scale / torch.as_tensor(rho, dtype=torch.float64)
        return 2 / (2 + u + torch.sqrt(u * (u + 4)))


@dataclass(frozen=True)
class RDDM(Anchored):
    """Residual denoising: data become their degraded version, with noise on a schedule of its own.

    alpha = 1 - A, beta = A, sigma = B;   schedule "power": A = 1 - (1 - t)^2, B = scale t

    Args:
        scale: the noise at the end of the ``"power"`` schedule, in units of the state; small for restoration, 1 for generation.
        schedule: ``"power"``, or the short name of a plain process whose alpha is 1 - A and whose sigma is B: with ``"vp-table"`` and
            an anchor of 0 this is DDPM.

    Raises:
        UserError: the scale is not positive, or is given to another schedule; or the schedule has an anchor or no finite start.
    """

    scale: float = 0.1
    schedule: str = "power"

    def __post_init__(self) -> None:
        if not 0 < self.scale < math.inf:
            raise UserError(f"the scale of RDDM must be positive and finite, got {self.scale}")
        if self.schedule != "power" and self.scale != type(self).scale:
            raise UserError(f"the scale of RDDM belongs to the schedule 'power', and the schedule is {self.schedule!r}")
        if self.base.anchored or self.base.discrete:
            raise UserError(f"the schedule of RDDM is that of a plain process, and {self.schedule!r} is not one")

    @cached_property
    def base(self) -> Process:
        """The plain process with this alpha and sigma."""
        made: Process = _Power(self.scale) if self.schedule == "power" else names.process(self.schedule)
        return made

    @property
    def t_min(self) -> float:  # type: ignore[override]
        """That of the schedule."""
        return self.base.t_min

    @property
    def t_max(self) -> float:  # type: ignore[override]
        """That of the schedule."""
        return self.base.t_max

    @property
    def t_zero(self) -> float:
        """That of the schedule."""
        return self.base.t_zero

    def alpha(self, t: Time) -> Tensor:
        """1 - A."""
        return self.base.alpha(t)

    def sigma(self, t: Time) -> Tensor:
        """B."""
        return self.base.sigma(t)

    def rho(self, t: Time) -> Tensor:
        """B/(1 - A)."""
        return self.base.rho(t)

    def rate(self, t: Time) -> Tensor:
        """-A'/(1 - A)."""
        return self.base.rate(t)

    def diffusion(self, t: Time) -> Tensor:
        """That of the schedule."""
        return self.base.diffusion(t)

    def time_at_rho(self, rho: float | Tensor) -> Tensor:
        """That of the schedule."""
        return self.base.time_at_rho(rho)

    def label(self, t: Time) -> Tensor:
        """That of the schedule."""
        return self.base.label(t)


@dataclass(frozen=True)
class Resfusion(Process):
    """Prior residual noise: the scale of the data falls to 0 while the anchor's is still one half, and sampling starts there.

    alpha = 2 a - 1, beta = 1 - a, sigma = sqrt(1 - a^2), a = exp(-B/2) as VP's;   t_max: a = 1/2, x = y/2 + sqrt(3)/2 eps

    Args:
        beta_min, beta_max: noise rate at t = 0 and t = 1 of the variance-preserving process, per unit of time.
        t_min: the time nearest the data.
    """

    anchored: ClassVar[bool] = True
    beta_min: float = 0.1
    beta_max: float = 20.0
    t_min: float = 1e-3

    @property
    def base(self) -> VP:
        """The variance-preserving process."""
        return VP(self.beta_min, self.beta_max)

    @property
    def t_max(self) -> float:  # type: ignore[override]
        """The time at which a = 1/2: no data is left."""
        return float(self.base.time_at_integral(torch.tensor(2 * math.log(2), dtype=torch.float64)))

    def alpha(self, t: Time) -> Tensor:
        """2 a - 1 = expm1(log 2 - B/2), exactly 0 from t_max on."""
        left = math.log(2) - self.base.integral(t) / 2
        return torch.where(self.time(t) >= self.t_max, torch.zeros_like(left), torch.expm1(left))

    def beta(self, t: Time) -> Tensor:
        """1 - a."""
        return -torch.expm1(-self.base.integral(t) / 2)

    def sigma(self, t: Time) -> Tensor:
        """sqrt(1 - a^2)."""
        return self.base.sigma(t)

    def rate(self, t: Time) -> Tensor:
        """-B' a/(2 a - 1)."""
        return -self.base.noise_rate(t) * self.base.alpha(t) / self.alpha(t)

    def pull(self, t: Time) -> Tensor:
        """B' a/2 (1 + 2 (1 - a)/(2 a - 1)) = B' a/(2 (2 a - 1))."""
        return -self.rate(t) / 2

    def diffusion(self, t: Time) -> Tensor:
        """sqrt(B' (a^2 + 2 a (1 - a^2)/(2 a - 1)))."""
        a = self.base.alpha(t)
        return torch.sqrt(self.base.noise_rate(t) * (a.square() + 2 * a * self.sigma(t).square() / self.alpha(t)))

    def time_at_rho(self, rho: float | Tensor) -> Tensor:
        """B = -2 log(a), 1 - a = (2 - 3/(1 + sqrt(1 + 3 rho^2)))/(4 + rho^-2)."""
        squared = torch.as_tensor(rho, dtype=torch.float64).square()
        lost = (2 - 3 / (1 + torch.sqrt(1 + 3 * squared))) / (4 + 1 / squared)
        return self.base.time_at_integral(-2 * torch.log1p(-lost)).clamp(max=self.t_max)

    def clean(self, x: Tensor, resnoise: Tensor, anchor: Tensor, t: float, s: float) -> Tensor:
        """The clean data that a prediction of the residual noise stands for.

        resnoise = eps + c (y - x_0), c = (1 - a_t/a_s) sigma_t/(1 - (a_t/a_s)^2)
        x_0 = (x - (1 - a_t) y - sigma_t (resnoise - c y))/(2 a_t - 1 + sigma_t c),     finite at t_max too

        Args:
            x: noisy state (batch, *shape).
            resnoise: what the network predicts, (batch, *shape).
            anchor: y, the degraded data.
            t: the time of ``x``.
            s: the time of the chain's next state; the residual noise is defined for this one step.

        Returns:
            x_0 (batch, *shape).
        """
        step = self.base.alpha(t) / self.base.alpha(s)
        share = self.sigma(t) / (1 + step)  # c
        on_y, on_noise = spread(self.beta(t) - self.sigma(t) * share, x), spread(self.sigma(t), x)
        return (x - on_y * anchor - on_noise * resnoise) / spread(self.alpha(t) + self.sigma(t) * share, x)
