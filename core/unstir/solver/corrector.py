"""Predictor-corrector sampling: after every step of a predictor, Langevin steps at the new noise level.

    x <- x + delta score + sqrt(2 delta) z,    score = -eps/sigma_s
    kind "norm":      delta = 2 (alpha_t/alpha_s)^2 (snr |z|/|score|)^2, norms over one sample (never over the batch), at most 2 sigma_s^2
    kind "annealed":  delta = 2 (alpha_t/alpha_s)^2 (snr sigma_s)^2

The factor (alpha_t/alpha_s)^2 is 1 where variance explodes and 1 - beta_i where it is preserved.
With "norm" the length of a step depends on the state and the draw, so it keeps the law of a level only in many dimensions, where norms
hardly vary (in two it widens modes by a third); "annealed" keeps it up to O(delta) in any.
References: Song et al. 2021, arXiv:2011.13456, algorithms 4 and 5; Song & Ermon 2020, arXiv:2006.09011 (annealed).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.solver.ancestral import DDIM
from unstir.solver.base import Levels, Memory, Model, Row, Solver
from unstir.state import State, nonzero


@dataclass(frozen=True, repr=False)
class PredictorCorrector(Solver):
    """A predictor, then Langevin corrections; not applied at sigma = 0.

    Args:
        predictor: any solver; ancestral sampling when absent.
        snr: size of a correction relative to the score, 0.16 for variance-exploding processes; 0 corrects nothing and draws nothing.
        corrections: Langevin steps per step of the predictor, one evaluation each.
        kind: how long a correction is, see the module.

    Raises:
        UserError: an option is out of range.
    """

    predictor: Solver = field(default_factory=lambda: DDIM(eta=1.0))
    snr: float = 0.16
    corrections: int = 1
    kind: Literal["norm", "annealed"] = "norm"

    def __post_init__(self) -> None:
        if not isinstance(self.predictor, Solver):
            raise UserError(f"predictor must be a solver, got {self.predictor!r}")
        if not 0 <= self.snr < math.inf or self.corrections < 0:
            raise UserError(f"snr and corrections must not be negative, got {self.snr} and {self.corrections}")
        if self.kind not in ("norm", "annealed"):
            raise UserError(f"kind must be 'norm' or 'annealed', got {self.kind!r}")

    @property
    def order(self) -> int:  # type: ignore[override]
        """That of the predictor, which alone moves the state through time."""
        return self.predictor.order

    @property
    def evaluations(self) -> int:  # type: ignore[override]
        """Those of the predictor and one per correction."""
        return self.predictor.evaluations + self.corrections

    @property
    def stochastic(self) -> bool:
        """Does it draw noise?"""
        return self.predictor.stochastic or (self.snr > 0 and self.corrections > 0)

    def coefficients(self, levels: Levels) -> list[tuple[float, ...]]:
        """``(size, alpha_s, sigma_s, *predictor)``; ``size`` is 0 where nothing is corrected."""
        rows = []
        for i, c in enumerate(self.predictor.coefficients(levels)):
            size = 0.0 if levels.sigma[i + 1] == 0 or self.corrections == 0 else self.snr * _ratio(levels, i)
            rows.append((size, levels.alpha[i + 1], levels.sigma[i + 1], *c))
        return rows

    def step(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """The predictor's step, then the corrections at s."""
        size, alpha, sigma = row.c[:3]
        inner = Row(row.index, row.t, row.s, row.alpha_t, row.sigma_t, row.alpha_s, row.sigma_s, row.rho_t, row.rho_s, row.c[3:])
        x = self.predictor.step(x, inner, model, memory)
        if nonzero(size):
            for _ in range(self.corrections):
                x0, z = model(x, row.s), memory.noise()
                if isinstance(x, dict):
                    x = {leaf: self._langevin(x[leaf], x0[leaf], z[leaf], size[leaf], alpha[leaf], sigma[leaf]) for leaf in x}  # type: ignore
                else:
                    x = self._langevin(x, x0, z, size, alpha, sigma)  # type: ignore[arg-type]
        return x

    def _langevin(self, x: Tensor, x0: Tensor, z: Tensor, size: float, alpha: float, sigma: float) -> Tensor:
        if size == 0:
            return x
        eps = x.sub(x0, alpha=alpha).div_(sigma)
        relative: float | Tensor = size  # sqrt(delta/2)/sigma
        if self.kind == "norm":
            relative = (size * _norm(z) / _norm(eps).clamp_(min=torch.finfo(x.dtype).tiny)).clamp_(max=1.0)
        return x.sub_(eps.mul_(2 * sigma * relative**2)).add_(z.mul_(2 * sigma * relative))


def _ratio(levels: Levels, i: int) -> float:
    return float(levels.alpha[i] / levels.alpha[i + 1]) if math.isfinite(levels.rho[i]) else 1.0


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x.reshape(x.shape[0], -1), dim=1).reshape(-1, *[1] * (x.ndim - 1))
