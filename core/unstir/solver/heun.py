"""Heun's method for the probability-flow ODE in sigma/alpha time, and EDM's stochastic sampler around it.

    d(x/alpha) = eps d(rho);     trapezoid rule with an Euler predictor, Euler at the step to sigma = 0

Reference: Karras et al. 2022 (EDM), arXiv:2206.00364, algorithms 1 and 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from unstir.errors import UserError
from unstir.solver.base import Levels, Memory, Model, Number, Row, Solver, add_noise
from unstir.state import State, combine, nonzero


@dataclass(frozen=True, repr=False)
class Heun(Solver):
    """The trapezoid rule with an Euler predictor: second order, two evaluations a step and one at the step to sigma = 0.

    Below some 20 evaluations it is much worse than the multistep solvers.
    """

    order: ClassVar[int] = 2
    evaluations: ClassVar[int] = 2

    def coefficients(self, levels: Levels) -> list[tuple[float, ...]]:
        """``(a, b, d, A, B, E, F)``: ``x' = a x + b x0 + d z``, then ``x_s = A x + B x0 + E x' + F x0'`` where F differs from 0."""
        rows = []
        for i in range(levels.steps):
            edge = levels.edge(i)
            rows.append((*edge, 0.0, 0.0, 1.0, 0.0) if edge else _trapezoid(levels, i, levels.alpha[i], levels.rho[i]))
        return rows

    def step(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """Predict with the slope at t, then average it with the slope at the predicted point."""
        return _heun(x, row.t, row.s, row.c, model, memory)


@dataclass(frozen=True, repr=False)
class Churn(Solver):
    """EDM's stochastic sampler: before every Heun step the noise is raised a little, by fresh noise.

    gamma = min(churn/steps, sqrt(2) - 1) where s_min <= rho <= s_max;   rho' = rho (1 + gamma);   x/alpha += sqrt(rho'^2 - rho^2) s_noise z

    Args:
        churn: total amount of noise raised over the steps; 0 is :class:`Heun` and draws nothing.
        s_min, s_max: interval of noise levels rho = sigma/alpha in which noise is raised.
        s_noise: standard deviation of the fresh noise, a little above 1 to make up for a denoiser that removes too much.

    Raises:
        UserError: an option is out of range.
    """

    order: ClassVar[int] = 2
    evaluations: ClassVar[int] = 2
    churn: float = 40.0
    s_min: float = 0.05
    s_max: float = 50.0
    s_noise: float = 1.003

    def __post_init__(self) -> None:
        if not (0 <= self.churn < math.inf and 0 <= self.s_min <= self.s_max and 0 <= self.s_noise < math.inf):
            raise UserError(f"churn and s_noise must not be negative and s_min not above s_max, got {self!r}")

    @property
    def stochastic(self) -> bool:
        """Does it draw noise?"""
        return self.churn > 0 and self.s_noise > 0

    def coefficients(self, levels: Levels) -> list[tuple[float, ...]]:
        """``(up, fresh, t', *heun)``: first ``x = up x + fresh z`` at time t', then Heun's coefficients from t'."""
        return [self._row(levels, i) for i in range(levels.steps)]

    def _row(self, levels: Levels, i: int) -> tuple[float, ...]:
        rho, alpha, t = levels.rho[i], levels.alpha[i], levels.t[i]
        gamma = min(self.churn / levels.steps, math.sqrt(2) - 1) if self.s_min <= rho <= self.s_max else 0.0
        up, fresh = 1.0, 0.0
        raised = min(rho * (1 + gamma), float(levels.process.rho(levels.process.t_max))) if gamma else rho
        if raised > rho and math.isfinite(raised):
            t = float(levels.process.time_at_rho(raised))
            new = float(levels.process.alpha(t))
            up, fresh = new / alpha, new * math.sqrt((raised - rho) * (raised + rho)) * self.s_noise
            rho, alpha = raised, new
        edge = levels.edge(i)
        return up, fresh, t, *((*edge, 0.0, 0.0, 1.0, 0.0) if edge else _trapezoid(levels, i, alpha, rho))

    def step(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """Raise the noise (no draw where it stays), then Heun."""
        up, fresh, t = row.c[:3]
        x = add_noise(combine(x, up), fresh, memory)
        return _heun(x, t, row.s, row.c[3:], model, memory)


def _trapezoid(levels: Levels, i: int, alpha_t: float, rho_t: float) -> tuple[float, ...]:
    """Heun's coefficients from level (alpha_t, rho_t) to level ``i + 1``; eps = (x - alpha x0)/(alpha rho) and the prediction folded in."""
    alpha_s, rho_s = levels.alpha[i + 1], levels.rho[i + 1]
    change = rho_s - rho_t
    a, b = alpha_s / alpha_t * rho_s / rho_t, -alpha_s * change / rho_t
    half, again = change / 2, change / (2 * rho_s)  # of the predicted state, which is a x + b x0
    A = alpha_s / alpha_t * (rho_t + rho_s) / (2 * rho_t) + again * a
    return a, b, 0.0, A, -alpha_s * half / rho_t + again * b, 0.0, -alpha_s * half / rho_s


def _heun(x: State, t: Number, s: Number, c: tuple[Number, ...], model: Model, memory: Memory) -> State:
    a, b, d, A, B, E, F = c
    x0 = model(x, t)
    predicted = combine(memory.buffer("predicted", x), 0.0, (a, x), (b, x0))
    add_noise(predicted, d, memory)
    if not nonzero(F):
        return combine(x, 0.0, (1.0, predicted))
    x0_s = model(predicted, s)
    return combine(x, A, (B, x0), (E, predicted), (F, x0_s))
