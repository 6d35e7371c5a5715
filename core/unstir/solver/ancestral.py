"""The DDIM family: noise split between what is kept and what is drawn anew, from the ODE (eta = 0) to ancestral (eta = 1).

    x_s = alpha_s x0 + temperature ( sqrt(sigma_s^2 - v) eps + sqrt(v) z ),      eps = (x - alpha_t x0)/sigma_t
    kind "variance": v = eta^2 sigma_s^2 (1 - rho_s^2/rho_t^2);      kind "dds": v = eta^2 sigma_s^2

and two solvers of the reverse SDE that draw all noise anew: DPM-Solver++'s, which is exact for a constant estimate, and Euler-Maruyama.
References: Song et al. 2021 (DDIM), arXiv:2010.02502, eq. 12; Chung et al. 2024 (DDS), arXiv:2303.05754; Lu et al. 2022 (DPM-Solver++),
arXiv:2211.01095 (the multistep SDE form); Song et al. 2021, arXiv:2011.13456 (the reverse SDE).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from unstir.errors import UserError
from unstir.solver.base import Levels, Memory, Model, Row, Solver, add_noise
from unstir.state import State, combine


@dataclass(frozen=True, repr=False)
class DDIM(Solver):
    """One evaluation a step; deterministic and of first order at ``eta = 0``, ancestral sampling at ``eta = 1``.

    Args:
        eta: share of fresh noise, 0 to 1.
        temperature: factor on all noise of a step; 0 keeps none (``x_s = alpha_s x0``), the half-quadratic iteration of warm-started
            reconstruction.
        kind: ``"variance"`` (DDIM's split, which keeps the marginals) or ``"dds"`` (``v = eta^2 sigma_s^2``).

    Raises:
        UserError: an option is out of range.
    """

    eta: float = 0.0
    temperature: float = 1.0
    kind: Literal["variance", "dds"] = "variance"

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise UserError(f"eta must lie in [0, 1], got {self.eta}")
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"temperature must be finite and not negative, got {self.temperature}")
        if self.kind not in ("variance", "dds"):
            raise UserError(f"kind must be 'variance' or 'dds', got {self.kind!r}")

    @property
    def order(self) -> int:  # type: ignore[override]
        """First; 0, no convergence to the law, where noise is withheld or split as in DDS with fresh noise."""
        return int(self.temperature == 1 and (self.kind == "variance" or self.eta == 0))

    @property
    def stochastic(self) -> bool:
        """Does it draw noise?"""
        return self.eta > 0 and self.temperature > 0

    @property
    def brownian(self) -> bool:
        """Are its draws the increments of one Brownian motion in 1/rho^2?"""
        return self.eta == 1 and self.temperature > 0 and self.kind == "variance"

    def coefficients(self, levels: Levels) -> list[tuple[float, ...]]:
        """``(a, b, d)`` of ``x_s = a x + b x0 + d z``."""
        return [self._row(levels, i) for i in range(levels.steps)]

    def _row(self, levels: Levels, i: int) -> tuple[float, ...]:
        alpha_t, sigma_t, rho_t = levels.alpha[i], levels.sigma[i], levels.rho[i]
        alpha_s, sigma_s, rho_s = levels.alpha[i + 1], levels.sigma[i + 1], levels.rho[i + 1]
        if sigma_t == 0 or sigma_s == 0:
            a, b, d = levels.edge(i)  # type: ignore[misc]
            return a, b, self.temperature * d
        share = 1.0 if self.kind == "dds" or rho_t == math.inf else -math.expm1(2 * math.log(rho_s / rho_t))
        fresh = self.eta * math.sqrt(share)
        a = self.temperature * math.sqrt((1 - fresh) * (1 + fresh)) * sigma_s / sigma_t
        return a, alpha_s - a * alpha_t, self.temperature * sigma_s * fresh

    def step(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """``x_s = a x + b x0 + d z``: two passes and, where d > 0, a draw and a third."""
        a, b, d = row.c
        return add_noise(combine(x, a, (b, model(x, row.t))), d, memory)


@dataclass(frozen=True, repr=False)
class MultistepSDE(Solver):
    """DPM-Solver++ (2M) for the reverse SDE: ancestral noise with a second-order mean.

    x_s/alpha_s = (rho_s^2/rho_t^2) x/alpha_t + (1 - e^{-2h}) [x0 + (x0 - x0_prev) h/(2 h_prev)] + rho_s sqrt(1 - e^{-2h}) z
    h = log(rho_t/rho_s)

    The order is that of the mean, and the weak one: the variance of samples of a normal law converges with the square of the step.
    """

    order: ClassVar[int] = 2
    brownian: ClassVar[bool] = True

    @property
    def stochastic(self) -> bool:
        """Always draws noise."""
        return True

    def coefficients(self, levels: Levels) -> list[tuple[float, ...]]:
        """``(a, b0, b1, d)`` of ``x_s = a x + b0 x0 + b1 x0_prev + d z``."""
        rows: list[tuple[float, ...]] = []
        before: float | None = None  # the last finite h
        for i in range(levels.steps):
            edge = levels.edge(i)
            if edge:
                rows.append((edge[0], edge[1], 0.0, edge[2]))
                continue
            h = math.log(levels.rho[i] / levels.rho[i + 1])
            gain = -math.expm1(-2 * h) * levels.alpha[i + 1]
            slope = 0.0 if before is None else h / (2 * before)
            a = math.exp(-2 * h) * levels.alpha[i + 1] / levels.alpha[i]
            rows.append((a, gain * (1 + slope), -gain * slope, levels.sigma[i + 1] * math.sqrt(-math.expm1(-2 * h))))
            before = h
        return rows

    def step(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """Three passes, and a draw with a fourth."""
        a, b0, b1, d = row.c
        x0 = model(x, row.t)
        combine(x, a, (b0, x0), (b1, memory.get("previous", x0)))
        memory["previous"] = x0
        return add_noise(x, d, memory)


@dataclass(frozen=True, repr=False)
class EulerMaruyama(Solver):
    """Euler-Maruyama for the reverse SDE: the plain baseline, too noisy below some hundred steps.

    In the variance rho^2, in the time, or as the reverse of the forward step, x_t = r x_s + G z; S is the score at t:

        "variance"   x_s/alpha_s = x/alpha_t + w (x0 - x/alpha_t)/rho_t^2 + sqrt(w) z,      w = rho_t^2 - rho_s^2
        "time"       x_s = x + (g^2 S - f x)(t - s) + g sqrt(t - s) z,                      f and g at t
        "reverse"    x_s = (2 - r) x + G^2 S + G z,     r = alpha_t/alpha_s,     G^2 = sigma_t^2 - r^2 sigma_s^2

    The last is Score SDE's reverse diffusion predictor: with the exact r and G of the step, which are those of its discrete noise levels
    up to the second order of the step. Where variance explodes the first and the last are one. To sigma = 0 all give the estimate.
    [Song et al. 2021, arXiv:2011.13456, appendix E]

    Args:
        kind: ``"variance"``, ``"time"`` or ``"reverse"``.

    Raises:
        UserError: no such kind.
    """

    order: ClassVar[int] = 1
    kind: Literal["variance", "time", "reverse"] = "variance"

    def __post_init__(self) -> None:
        if self.kind not in ("variance", "time", "reverse"):
            raise UserError(f"kind must be 'variance', 'time' or 'reverse', got {self.kind!r}")

    @property
    def stochastic(self) -> bool:
        """Always draws noise."""
        return True

    def coefficients(self, levels: Levels) -> list[tuple[float, ...]]:
        """``(a, b, d)`` of ``x_s = a x + b x0 + d z``."""
        return [levels.edge(i) or self._row(levels, i) for i in range(levels.steps)]

    def _row(self, levels: Levels, i: int) -> tuple[float, ...]:
        alpha_t, alpha_s, sigma_t, sigma_s = *levels.alpha[i : i + 2], *levels.sigma[i : i + 2]
        if self.kind == "variance":
            share, carried = -math.expm1(2 * math.log(levels.rho[i + 1] / levels.rho[i])), alpha_s / alpha_t
            return carried * (1 - share), alpha_s * share, alpha_s * levels.rho[i] * math.sqrt(share)
        if self.kind == "time":
            step, t = levels.t[i] - levels.t[i + 1], float(levels.t[i])
            kept, spread = 1 - float(levels.process.rate(t)) * step, float(levels.process.diffusion(t)) ** 2 * step
        else:
            ratio = alpha_t / alpha_s
            kept, spread = 2 - ratio, sigma_t**2 - (ratio * sigma_s) ** 2
        share = spread / sigma_t**2
        return kept - share, share * alpha_t, math.sqrt(spread)

    def step(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """``x_s = a x + b x0 + d z``: two passes and, where d > 0, a draw and a third."""
        a, b, d = row.c
        return add_noise(combine(x, a, (b, model(x, row.t))), d, memory)
