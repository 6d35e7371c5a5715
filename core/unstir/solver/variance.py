"""Ancestral sampling with a chosen or learned variance of the reverse step (DDPM's two, IDDPM's between them).

    x_s = a x + b x0 + sqrt(Sigma) z,   a = (rho_s/rho_t)^2 alpha_s/alpha_t,   b = alpha_s q,   q = 1 - (rho_s/rho_t)^2
    log Sigma = v log(large) + (1 - v) log(small),    small = sigma_s^2 q (beta-tilde),    large = sigma_t^2 q (beta)

v = 0 is right for data that are one point, v = 1 for normal data of unit variance.
[DDPM, Ho et al. 2020, arXiv:2006.11239; IDDPM, Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 15]
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.solver.base import Levels, Memory, Model, Row, Solver, add_noise
from unstir.state import State, combine

Fraction = Callable[[Tensor, Any, Any], Tensor]


@dataclass(frozen=True, repr=False)
class ReverseVariance(Solver):
    """One evaluation a step; the variance lies between DDPM's two.

    Args:
        fraction: v for all steps, or what gives it: called as ``fraction(x, t, condition)`` after the denoiser, with a state (batch,
            *shape), gives a tensor that broadcasts against it; a learned one knows how wrong the denoiser still is.

    Raises:
        UserError: a number that is not finite.
    """

    order: ClassVar[int] = 1
    fraction: float | Fraction = 0.0

    def __post_init__(self) -> None:
        if not callable(self.fraction) and not math.isfinite(self.fraction):
            raise UserError(f"fraction must be a finite number or a function of state, time and condition, got {self.fraction}")

    @property
    def stochastic(self) -> bool:
        """Always draws noise."""
        return True

    def coefficients(self, levels: Levels) -> list[tuple[float, ...]]:
        """``(a, b, d, r)`` of ``x_s = a x + b x0 + d r^v z``; ``d = 0`` at the step to sigma = 0."""
        return [self._row(levels, i) for i in range(levels.steps)]

    def _row(self, levels: Levels, i: int) -> tuple[float, ...]:
        rho_t, alpha_s, sigma_t, sigma_s = levels.rho[i], levels.alpha[i + 1], levels.sigma[i], levels.sigma[i + 1]
        if sigma_s == 0:
            return 0.0, alpha_s, 0.0, 1.0
        if not math.isfinite(rho_t):
            a, share = 0.0, 1.0
        else:
            h = math.log(rho_t / levels.rho[i + 1])
            a, share = math.exp(-2 * h) * alpha_s / levels.alpha[i], -math.expm1(-2 * h)
        ratio = sigma_t / sigma_s if sigma_t > 0 else 1.0  # a pinned start has no variance of its own
        d = sigma_s * math.sqrt(share)
        if callable(self.fraction):
            return a, alpha_s * share, d, ratio
        return a, alpha_s * share, d * ratio**self.fraction, 1.0

    def step(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """Three passes and a draw, and three more where v is learned."""
        a, b, d, ratio = row.c
        x0 = model(x, row.t)
        if not callable(self.fraction) or ratio == 1.0:
            return add_noise(combine(x, a, (b, x0)), d, memory)
        if isinstance(x, dict) or isinstance(ratio, dict):
            raise UserError("a learned reverse variance is for a state of one leaf")
        v = self.fraction(x, row.t, getattr(model, "condition", None))
        scale = torch.exp(v.to(x.dtype) * math.log(ratio)).mul(d)  # type: ignore[arg-type]
        return combine(x, a, (b, x0), (1.0, scale * memory.noise()))  # type: ignore[operator]
