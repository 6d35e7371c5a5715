"""Bi-directional integration: DDIM made reversible by taking its step up and its step down from the same point.

    x_s/n_s = DDIM(x_t; t -> s)/n_s + gamma (x_r - DDIM(x_t; t -> r))/n_r,      r > t > s three times of the grid

Linear in x_r, x_s and x0 = D(x_t, t), so x_r follows from (x_t, x_s) with the same evaluation. The first step is DDIM. As published n is 1;
with n = sqrt(sigma^2 + scale^2 alpha^2), in which states have one size at all levels, the oscillation that a leapfrog leaves undamped
shrinks with the state, and the error with it, up to 20 times where variance explodes.

Reference: Zhang et al. 2023, arXiv:2307.10829.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from unstir.errors import UserError
from unstir.solver.base import Levels, Memory, Model, Row
from unstir.solver.reversible import Paired, upwards
from unstir.state import State, clone, combine


@dataclass(frozen=True, repr=False)
class BDIA(Paired):
    """One evaluation a step and three passes, exactly invertible; of second order at ``gamma = 1``, of first below it.

    At ``gamma = 1`` it is a leapfrog, weakly unstable: with few steps and strong guidance its samples can be worse than DDIM's. The
    rounding of an inversion grows as ``gamma^-steps``.

    Args:
        gamma: in [0, 1]; 0 is DDIM, which cannot be inverted.
        scale: standard deviation of the data per coordinate, in n; None for n = 1, as published.

    Raises:
        UserError: an option is out of range.
    """

    width: ClassVar[int] = 6
    gamma: float = 1.0
    scale: float | None = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.gamma <= 1:
            raise UserError(f"gamma must lie in [0, 1], got {self.gamma}")
        if self.scale is not None and not 0 < self.scale < math.inf:
            raise UserError(f"scale must be positive, or None, got {self.scale}")

    @property
    def order(self) -> int:  # type: ignore[override]
        """2 at ``gamma = 1``, else 1."""
        return 2 if self.gamma == 1 else 1

    def lone(self, i: int) -> bool:
        """The first step has no state before it."""
        return i == 0

    def weights(self, levels: Levels, i: int) -> tuple[float, ...]:
        """``(gamma, a, b)`` of ``x_s = gamma x_r + a x_t + b x0``, and those of ``x_r`` in ``x_s, x_t, x0``."""
        sigma_r, sigma_t, sigma_s = levels.sigma[i - 1 : i + 2] / levels.sigma[i]
        alpha_r, alpha_t, alpha_s = levels.alpha[i - 1 : i + 2]
        n_r, n_s = self._size(levels, i - 1), self._size(levels, i + 1)
        gamma = self.gamma * (n_s / n_r if n_r else 1.0)  # at a pinned start all states are one
        a = sigma_s - gamma * sigma_r
        b = (alpha_s - sigma_s * alpha_t) - gamma * (alpha_r - sigma_r * alpha_t)
        return (gamma, a, b, *((1 / gamma, -a / gamma, -b / gamma) if gamma else (0.0, 0.0, 0.0)))

    def _size(self, levels: Levels, i: int) -> float:
        return 1.0 if self.scale is None else math.hypot(levels.sigma[i], self.scale * levels.alpha[i])

    def left(self, x: State, new: State, memory: Memory) -> State:
        """The new state; the one it came from is kept for the next step."""
        memory["previous"] = x
        return new

    def move(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """Three passes, over the state of two steps ago."""
        gamma, a, b = row.c[4:7]
        new = combine(memory["previous"], gamma, (a, x), (b, model(x, row.t)))
        memory["previous"] = x
        return new

    def begin(self, x: State, row: Row, model: Model, memory: Memory) -> None:
        """The state one step up, by DDIM's approximate inverse: any would do, for it is carried along."""
        if "previous" not in memory:
            memory["previous"] = upwards(x, row, model(x, row.s))

    def back(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """The state of the step before, which is known; the one before that is computed."""
        if self.gamma == 0:
            raise UserError("BDIA at gamma = 0 is DDIM, which has no inverse: give gamma in (0, 1]")
        if row.index == 0:
            memory["next"] = x
            return memory.pop("previous")
        return super().back(x, row, model, memory)

    def undo(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """Three passes."""
        gain, a, b = row.c[7:10]
        known: State = memory["previous"]
        memory["previous"] = combine(clone(x), gain, (a, known), (b, model(known, row.t)))
        return known
