"""Variance-preserving processes given by a table of discrete noise rates, made continuous in the index.

    abar_i = prod_{j<=i} (1 - beta_j),     alpha = sqrt(abar), sigma = sqrt(1 - abar);     log alpha is linear between indices

Index -1 is the data (abar = 1).                  [Ho et al. 2020, arXiv:2006.11239; zero terminal SNR: Lin et al. 2024, arXiv:2305.08891]
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.process.base import Process, Time

Schedule = Literal["linear", "scaled-linear", "squaredcos"]


@dataclass(frozen=True)
class VPTable(Process):
    """Variance preserving with ``steps`` discrete noise rates; the time is the (continuous) index, which the network is told.

    Args:
        schedule: ``linear`` (DDPM, 1e-4 to 0.02), ``scaled-linear`` (latent diffusion, 0.00085 to 0.012, linear in the square
            root) or ``squaredcos`` (cosine, rates cut at 0.999).
        steps: number of indices, 0 ... steps-1.
        beta_min, beta_max: first and last rate; the schedule's own when absent (``squaredcos`` has none).
        zero_terminal: rescale so that the last index is pure noise (alpha exactly 0).
    """

    schedule: Schedule = "linear"
    steps: int = 1000
    beta_min: float | None = None
    beta_max: float | None = None
    zero_terminal: bool = False

    def __post_init__(self) -> None:
        if self.schedule not in ("linear", "scaled-linear", "squaredcos"):
            raise UserError(f"the schedule of VPTable is 'linear', 'scaled-linear' or 'squaredcos', got {self.schedule!r}")
        if self.steps < 2:
            raise UserError(f"VPTable needs at least 2 steps, got {self.steps}")
        if self.schedule == "squaredcos" and (self.beta_min is not None or self.beta_max is not None):
            raise UserError("the schedule 'squaredcos' has no beta_min and beta_max")

    @property
    def t_zero(self) -> float:
        """Index -1."""
        return -1.0

    @property
    def t_min(self) -> float:  # type: ignore[override]
        """Index 0."""
        return 0.0

    @property
    def t_max(self) -> float:  # type: ignore[override]
        """The last index."""
        return float(self.steps - 1)

    @property
    def log_alphas(self) -> Tensor:
        """log alpha at the indices -1, 0, ..., steps-1 (steps+1,), float64."""
        return _log_alphas(self)

    def betas(self) -> Tensor:
        """The table of noise rates (steps,), float64, before any rescaling."""
        index = torch.arange(self.steps, dtype=torch.float64)
        if self.schedule == "squaredcos":
            level = torch.cos((torch.arange(self.steps + 1, dtype=torch.float64) / self.steps + 0.008) / 1.008 * (math.pi / 2)).square()
            return (1 - level[1:] / level[:-1]).clamp(max=0.999)
        low, high = (1e-4, 0.02) if self.schedule == "linear" else (0.00085, 0.012)
        low = low if self.beta_min is None else self.beta_min
        high = high if self.beta_max is None else self.beta_max
        if self.schedule == "linear":
            return low + (high - low) * index / (self.steps - 1)
        return (math.sqrt(low) + (math.sqrt(high) - math.sqrt(low)) * index / (self.steps - 1)).square()

    def alpha(self, t: Time) -> Tensor:
        """exp(log_alpha)."""
        lower, upper, part = self.bracket(t)
        # The last interval of a zero-terminal table has no slope in log alpha: alpha itself is linear there.
        return torch.where(torch.isinf(upper), torch.exp(lower) * (1 - part), torch.exp(lower + part * (upper - lower).nan_to_num()))

    def sigma(self, t: Time) -> Tensor:
        """sqrt(1 - alpha^2), without cancellation."""
        return torch.sqrt(-torch.expm1(2 * self.log_alpha(t)))

    def rho(self, t: Time) -> Tensor:
        """sqrt(alpha^-2 - 1), without cancellation."""
        return torch.sqrt(torch.expm1(-2 * self.log_alpha(t)))

    def rate(self, t: Time) -> Tensor:
        """The slope of log alpha between two indices."""
        lower, upper, part = self.bracket(t)
        return torch.where(torch.isinf(upper), -1 / (1 - part), upper - lower)

    def diffusion(self, t: Time) -> Tensor:
        """sqrt(-2 f)."""
        return torch.sqrt(-2 * self.rate(t))

    def time_at_rho(self, rho: float | Tensor) -> Tensor:
        """The index, by search in the table."""
        target = -torch.log1p(torch.as_tensor(rho, dtype=torch.float64).square()) / 2
        table = self.log_alphas.to(target.device)
        index = (torch.searchsorted(-table, -target.contiguous()) - 1).clamp(0, self.steps - 1)
        lower, upper = table[index], table[index + 1]
        part = torch.where(torch.isinf(upper), -torch.expm1(target - lower), (target - lower) / (upper - lower))
        return (index - 1 + part.clamp(0, 1)).to(torch.float64)

    def log_alpha(self, t: Time) -> Tensor:
        """log alpha, linear between indices."""
        lower, upper, part = self.bracket(t)
        return torch.where(torch.isinf(upper), lower + torch.log1p(-part), lower + part * (upper - lower).nan_to_num())

    def bracket(self, t: Time) -> tuple[Tensor, Tensor, Tensor]:
        """log alpha at the indices around ``t``, and the part of the way between them."""
        t = self.time(t)
        table = self.log_alphas.to(t.device)
        index = torch.floor(t.detach()).clamp(-1, self.steps - 2)
        place = index.long() + 1
        return table[place], table[place + 1], (t - index).clamp(max=1)


@lru_cache(maxsize=64)
def _log_alphas(process: VPTable) -> Tensor:
    with torch.inference_mode(False):
        log_alpha = torch.log1p(-process.betas()).cumsum(0) / 2
        if process.zero_terminal:
            alpha = torch.exp(log_alpha)
            first, last = alpha[0].clone(), alpha[-1].clone()
            log_alpha = torch.log((alpha - last) * (first / (first - last)))
        return torch.cat([torch.zeros(1, dtype=torch.float64), log_alpha])
