"""Gradient estimation: denoising is a projection onto the data, DDIM a gradient descent on the distance to them, and this one with memory.

    x_s = (alpha_s/alpha_t) x + alpha_s (rho_s - rho_t) [gamma eps_t + (1 - gamma) eps_before]

Reference: Permenter & Yuan 2024 (interpreting and improving diffusion models from an optimization perspective), arXiv:2306.04848, alg. 2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from unstir.errors import UserError
from unstir.solver.base import Levels, Memory, Model, Row, Solver, add_noise
from unstir.solver.plms import rho_step
from unstir.state import State, combine, shifted


@dataclass(frozen=True, repr=False)
class GradientEstimation(Solver):
    """DDIM along the noise extrapolated from the last two steps: good at five to ten steps, though only of first order.

    Args:
        gamma: how far; 1 is DDIM, 1.5 the two-value Adams-Bashforth method of equal steps (second order on smooth grids), 2 the paper's.

    Raises:
        UserError: gamma is not a positive number.
    """

    gamma: float = 2.0

    def __post_init__(self) -> None:
        if not 0 < self.gamma < math.inf:
            raise UserError(f"gamma must be positive, got {self.gamma}")

    @property
    def order(self) -> int:  # type: ignore[override]
        """1, but 2 for gamma = 1.5."""
        return 2 if self.gamma == 1.5 else 1

    def coefficients(self, levels: Levels) -> list[tuple[float, ...]]:
        """``(p, d, a, b_0, b_1)`` of ``x_s = a x + b_0 Y + b_1 Y_before + d z``, ``Y = x0 + p x = -rho eps``."""
        rows: list[tuple[float, ...]] = []
        known = 0
        for i in range(levels.steps):
            edge = levels.edge(i)
            if edge:
                rows.append((0.0, edge[2], edge[0], edge[1], 0.0))
                continue
            a, b = rho_step(levels, i, (self.gamma, 1 - self.gamma) if known else (1.0,))
            rows.append((-1 / float(levels.alpha[i]), 0.0, a, *b, *[0.0] * (2 - len(b))))
            known += 1
        return rows

    def step(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """Three passes and one to keep the noise."""
        p, d, a, b, before = row.c
        x0 = model(x, row.t)
        now, last = (("value", (row.index - j) % 2) for j in range(2))
        shifted(memory.buffer(now, x), x0, p, x)
        return add_noise(combine(x, a, (b, memory[now]), (before, memory.get(last, x0))), d, memory)
