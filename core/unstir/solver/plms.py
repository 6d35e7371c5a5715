"""PLMS, the pseudo linear multistep method of PNDM: Adams-Bashforth weights of equal steps put on DDIM's step.

    x_s = (alpha_s/alpha_t) x + alpha_s (rho_s - rho_t) e,      e = (55 eps_0 - 59 eps_1 + 37 eps_2 - 9 eps_3)/24
    e = (23, -16, 5)/12 and (3, -1)/2 while there are three and two values; the first step is a trapezoid of two evaluations

The weights are those of equal steps in sigma/alpha, which no grid has, so that on smooth grids the method is of second order whatever its
number of values; the multistep engine with variable ``"rho"`` has the weights that belong to the steps.

Reference: Liu et al. 2022 (PNDM), arXiv:2202.09778, eqs. 10 to 13 (F-PNDM starts with Runge-Kutta, this one, as used, with a trapezoid).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from unstir.solver.base import Levels, Memory, Model, Row, Solver, add_noise
from unstir.state import State, combine, nonzero, shifted

_WEIGHTS: dict[int, tuple[float, ...]] = {
    1: (1.0,),
    2: (1.5, -0.5),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


@dataclass(frozen=True, repr=False)
class PLMS(Solver):
    """Four-value pseudo multistep; one evaluation a step and one more at the first.

    x_s = (alpha_s/alpha_t) x + alpha_s (rho_s - rho_t) sum_j w_j eps_j,      w = (55, -59, 37, -9)/24
    """

    order: ClassVar[int] = 2

    def coefficients(self, levels: Levels) -> list[tuple[float, ...]]:
        """``(p, d, a, b_0, .., b_3, ahead, B, p_s)`` of ``x_s = a x + sum_j b_j Y_j + B Y_s + d z``, newest first.

        ``Y = x0 + p x = -rho eps``. Where B differs from 0 (the first step) ``Y_s = x0 + p_s x`` is evaluated at the state
        ``a x + ahead Y_0``.
        """
        rows: list[tuple[float, ...]] = []
        known = 0
        for i in range(levels.steps):
            edge = levels.edge(i)
            if edge:
                rows.append((0.0, edge[2], edge[0], edge[1], 0.0, 0.0, 0.0, edge[1], 0.0, 0.0))
                continue
            known += 1
            a, (ahead, *_) = rho_step(levels, i, (1.0,))
            b, B = rho_step(levels, i, _WEIGHTS[min(known, 4)])[1], 0.0
            if known == 1:
                B, *b = rho_step(levels, i, (0.5, 0.5), i + 1)[1]
            p, p_s = (-1 / float(alpha) for alpha in levels.alpha[i : i + 2])
            rows.append((p, 0.0, a, *b, *[0.0] * (4 - len(b)), ahead, B, p_s))
        return rows

    def step(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """A pass for each value in use and one to keep the noise."""
        p, d, a, *b, ahead, B, p_s = row.c
        slots = [("value", (row.index - j) % 4) for j in range(4)]
        x0 = model(x, row.t)
        shifted(memory.buffer(slots[0], x), x0, p, x)
        terms = list(zip(b, [memory.get(slot, x0) for slot in slots], strict=True))
        if nonzero(B):
            reached = combine(memory.buffer("ahead", x), 0.0, (a, x), (ahead, memory[slots[0]]))
            terms.append((B, shifted(memory.buffer("value ahead", x), model(reached, row.s), p_s, reached)))
        return add_noise(combine(x, a, *terms), d, memory)


def rho_step(levels: Levels, i: int, weights: tuple[float, ...], newest: int | None = None) -> tuple[float, list[float]]:
    """``(a, [b_j])`` of ``x_s = a x + sum_j b_j Y_j``: DDIM's step along ``sum_j w_j eps_j``, with ``Y = x0 - x/alpha = -rho eps``.

    Args:
        levels: the grid's noise levels.
        i: the step, from level i to level i + 1.
        weights: w, newest first.
        newest: level of the newest value; i when absent.
    """
    top = i if newest is None else newest
    change = float(levels.alpha[i + 1] * (levels.rho[i + 1] - levels.rho[i]))
    return float(levels.alpha[i + 1] / levels.alpha[i]), [-change * w / float(levels.rho[top - j]) for j, w in enumerate(weights)]
