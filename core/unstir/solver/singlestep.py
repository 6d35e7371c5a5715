"""DPM-Solver and DPM-Solver++ in single steps: Runge-Kutta methods of two or three evaluations that are exact in the linear part.

    eps:  x_s = (alpha_s/alpha_t) x - sigma_s [phi_1 eps_t + phi_2 (eps_r - eps_t)/r],    phi_1 = e^h - 1,     phi_2 = phi_1/h - 1
    x0:   x_s = (sigma_s/sigma_t) x - alpha_s [phi_1 D_t   + phi_2 (D_r - D_t)/r],        phi_1 = e^{-h} - 1,  phi_2 = -(phi_1/h + 1)

with r the share of the step h in log(alpha/sigma) at which the last evaluation before s lies; of two evaluations phi_2 is published as
phi_1/2. Three evaluations lie at 0, r_1, r_2, and the second difference enters only where the state at r_2 is made.

References: Lu et al. 2022 (DPM-Solver), arXiv:2206.00927, algorithms 1 and 2; Lu et al. 2022 (DPM-Solver++), arXiv:2211.01095, algorithm 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from unstir.errors import UserError
from unstir.solver.base import Levels, Memory, Model, Row, Solver, add_noise
from unstir.solver.multistep import Multistep, complement
from unstir.state import State, combine, shifted

Output = Literal["eps", "x0"]
Ending = Literal["even", "published"]


@dataclass(frozen=True, repr=False)
class Singlestep(Solver):
    """DPM-Solver-1, -2 and -3 (``output="eps"``) and DPM-Solver++ 2S and 3S (``"x0"``), for any number of steps.

    A grid of N steps costs N evaluations: its times are taken in groups of ``stages``, the inner ones being where the evaluations
    between lie (states there are of lower order). What is left over at the end are multistep steps from the values already known.

    Args:
        output: which estimate is interpolated: the noise ``"eps"`` or the clean state ``"x0"``.
        stages: evaluations of a group, 1 (DDIM) to 3.
        ending: what is done where N is not a multiple of ``stages``: ``"even"`` takes the rest in multistep steps of as many values,
            which keeps the order; ``"published"`` in a shorter group, and for three stages ends multiples of three in groups of 2 and 1:
            third order is then reached for no sequence of N.

    Raises:
        UserError: an option is unknown.
    """

    output: Output = "x0"
    stages: int = 2
    ending: Ending = "even"

    def __post_init__(self) -> None:
        if self.output not in get_args(Output) or self.ending not in get_args(Ending):
            raise UserError(f"output is 'eps' or 'x0' and ending 'even' or 'published', got {self.output!r} and {self.ending!r}")
        if self.stages not in (1, 2, 3):
            raise UserError(f"stages must be 1, 2 or 3, got {self.stages!r}")

    @property
    def order(self) -> int:  # type: ignore[override]
        """That of a whole group, unless a shorter one ends the run."""
        return self.stages if self.ending == "even" else min(self.stages, 2)

    def groups(self, steps: int) -> list[int]:
        """How many evaluations each group makes, for a grid with this many steps between finite noise levels; the rest is multistep.

        Args:
            steps: of the grid.
        """
        full, rest = divmod(steps, self.stages)
        if self.ending == "even":
            return [self.stages] * full if full else [steps] * (steps > 0)
        return [3] * (full - 1) + [2, 1] if self.stages == 3 and full and not rest else [self.stages] * full + [rest] * (rest > 0)

    def coefficients(self, levels: Levels) -> list[tuple[float, ...]]:
        """``(begins, p, d, a, b_0, b_1, b_2, b_3)``: ``x_s = a x_begin + sum_j b_j Y_j + d z``, newest first.

        ``Y = x0 + p x`` is a multiple of the output at the time of its evaluation; where a group ``begins``, the state is kept.
        """
        inner = [i for i in range(levels.steps) if levels.edge(i) is None]
        rows: list[tuple[float, ...]] = []
        for i in range(levels.steps):
            edge = levels.edge(i)
            rows.append((1.0, 0.0, edge[2], edge[0], edge[1], 0.0, 0.0, 0.0) if edge else ())
        start = inner[0] if inner else 0
        for size in self.groups(len(inner)):
            for stage in range(size):
                rows[start + stage] = self._stage(levels, start, stage, size)
            start += size
        for i in range(start, inner[-1] + 1 if inner else 0):
            rows[i] = self._rest(levels, i, first=i == start)
        return rows

    def step(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """One evaluation, a pass for each value in use and one to keep the state or the noise."""
        begins, p, d, a = row.c[:4]
        x0 = model(x, row.t)
        slots = [("value", (row.index - j) % 4) for j in range(4)]
        if self.output == "x0":
            memory[slots[0]] = x0
        else:
            shifted(memory.buffer(slots[0], x), x0, p, x)
        begun = combine(memory.buffer("begun", x), complement(begins), (begins, x))
        values = [memory.get(slot, x0) for slot in slots]
        return add_noise(combine(x, 0.0, (a, begun), *zip(row.c[4:], values, strict=True)), d, memory)

    def _stage(self, levels: Levels, i: int, stage: int, size: int) -> tuple[float, ...]:
        """The coefficients of the step to inner state ``stage + 1`` of a group of ``size`` that begins at level ``i``."""
        to, eps = i + stage + 1, self.output == "eps"
        lam = -np.log(levels.rho[i : to + 1])
        h, sign = float(lam[-1] - lam[0]), 1.0 if eps else -1.0
        phi_1 = math.expm1(sign * h)
        phi_2 = phi_1 / 2 if size == 2 else sign * phi_1 / h - 1
        slope = phi_2 * h / float(lam[stage] - lam[0]) if stage else 0.0
        scale, a = (levels.sigma, levels.alpha) if eps else (levels.alpha, levels.sigma)
        weights = [0.0] * 4  # of the outputs, newest first
        weights[0] -= float(scale[to]) * slope
        weights[stage] -= float(scale[to]) * (phi_1 - slope)
        if eps:  # Y = x0 - x/alpha = -rho eps
            weights = [w / -float(levels.rho[i + stage - j]) if w else 0.0 for j, w in enumerate(weights)]
        p = -1 / float(levels.alpha[i + stage]) if eps else 0.0
        return (float(stage == 0), p, 0.0, float(a[to] / a[i]), *weights)

    def _rest(self, levels: Levels, i: int, first: bool) -> tuple[float, ...]:
        """A multistep step from level i; the state after one evaluation within a group of three is too rough for it."""
        lags = (0, 1) if self.stages == 2 else (0, 1, 3) if first else (0, 1, 2)
        a, b = Multistep(self.output).weights(levels, i, i + 1, [i - lag for lag in lags])
        weights = [0.0] * 4
        for lag, weight in zip(lags, b, strict=True):
            weights[lag] = weight
        return (1.0, -1 / float(levels.alpha[i]) if self.output == "eps" else 0.0, 0.0, a, *weights)
