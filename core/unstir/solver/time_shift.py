"""The time-shift sampler: ask the network at the time whose noise a sample really has.

    t' = argmin_tau | Var(x_t) - (alpha_tau^2 v + sigma_tau^2) |,  tau within a window around t;    eps = eps(x_t, t'),  the step as before

Var is the variance over the entries of one sample, v that of clean data. An imperfect network leaves samples with more or less noise
than their time says (exposure bias); this asks it what it was trained for.
Reference: Li et al. 2024, arXiv:2305.15583, algorithm 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from unstir import names
from unstir.errors import UserError
from unstir.process.base import spread
from unstir.solver.base import Around, Levels, Memory, Model, Row, Solver
from unstir.state import State

_CANDIDATES = 21  # times looked at in a window, the time itself in the middle


@dataclass(frozen=True, repr=False)
class TimeShift(Around):
    """A solver whose denoiser is asked, sample by sample, at the time that the sample's own variance points to.

    A correction of a network's bias: with an exact denoiser it only adds the error of reading a noise level off one sample's variance,
    which does not fall with the number of steps (so no order is declared). For processes without an anchor and states of one leaf.

    Args:
        solver: a solver or its short name.
        window: width of the window in log(sigma/alpha), half of it on each side; 0 shifts nothing.
        cutoff, high: noise levels sigma/alpha below and above which nothing is shifted. As published there is only a cutoff; for normal
            data an error of variance is contracted at low noise (sigma^2 < v/(1 - v) where variance is preserved) and enlarged above.
        variance: v, the mean variance over the entries of clean data, in squared units of the state; 0 as published. On a process that
            preserves variance it must be less than 1, where noise and data could not be told apart.

    Raises:
        UserError: an option is out of range.
    """

    solver: Solver = "ddim"  # type: ignore[assignment]
    window: float = 0.2
    cutoff: float = 0.5
    high: float = math.inf
    variance: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "solver", names.solver(self.solver))
        if not (0 <= self.window < math.inf and 0 <= self.cutoff <= self.high and 0 <= self.variance < math.inf):
            raise UserError(f"window, cutoff and variance must not be negative and high not below the cutoff, got {self!r}")

    @property
    def order(self) -> int:  # type: ignore[override]
        """That of the solver inside where nothing is shifted, else none."""
        return 0 if self.window else self.solver.order

    def coefficients(self, levels: Levels) -> list[tuple[float, ...]]:
        """``(shifts, times, alphas, sigmas, variances, *inner)``: the candidates of a step, 21 of each, and the solver's own.

        Raises:
            UserError: the process has an anchor.
        """
        if levels.process.anchored:
            raise UserError(f"the time shift reads a sample's noise off its variance, which the anchor of {levels.process!r} is part of")
        return [(*self._candidates(levels, i), *c) for i, c in enumerate(self.solver.coefficients(levels))]

    def _candidates(self, levels: Levels, i: int) -> tuple[float, ...]:
        process, rho = levels.process, levels.rho[i]
        if not (i and self.window and self.cutoff < rho <= self.high and math.isfinite(rho)):
            return (0.0,) * (1 + 4 * _CANDIDATES)
        highest = float(process.rho(process.t_max))
        around = rho * np.exp(np.linspace(-self.window / 2, self.window / 2, _CANDIDATES))
        times = process.time_at_rho(torch.from_numpy(np.minimum(around, highest)))
        times[_CANDIDATES // 2] = levels.t[i]
        alpha, sigma = process.alpha(times), process.sigma(times)
        shifts = float((alpha > 0).all())
        return (shifts, *times.tolist(), *alpha.tolist(), *sigma.tolist(), *(alpha**2 * self.variance + sigma**2).tolist())

    def step(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """The solver's step, with what the denoiser says of ``x`` itself taken from the shifted time."""
        width = 1 + 4 * _CANDIDATES
        table: Any = row.c[:width]
        inner = replace(row, c=row.c[width:])
        if isinstance(x, dict):
            raise UserError("the time shift reads the noise of a state of one leaf, and this one has several")
        if not table[0]:
            return self.solver.step(x, inner, model, memory)
        times, alpha, sigma, variance = torch.tensor(table[1:], dtype=torch.float64, device=x.device).reshape(4, _CANDIDATES)
        nearest = (x.flatten(1).to(torch.float64).var(1, unbiased=False)[:, None] - variance).abs().argmin(1)
        ratio = row.sigma_t / sigma[nearest]  # type: ignore[operator]

        def shifted(z: Any, t: Any) -> State:
            if t != row.t:
                return model(z, t)
            x0: Any = model(z, times[nearest])  # type: ignore[arg-type]
            on_x0 = spread(ratio * alpha[nearest] / row.alpha_t, z)  # type: ignore[arg-type,operator]
            on_z = spread((1 - ratio) / row.alpha_t, z)  # type: ignore[arg-type,operator]
            return on_x0 * x0 + on_z * z

        return self.solver.step(x, inner, shifted, memory)
