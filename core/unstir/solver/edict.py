"""Exact inversion by coupled transformations: two states, each moved by an Euler step with the other's slope, then mixed.

    X+ = X + h f(Y, t),         Y+ = Y + h f(X+, t)
    X' = p X+ + (1 - p) Y+,     Y' = p Y+ + (1 - p) X'                  every other step with the roles exchanged

Each line can be solved for what it replaced. In the variables of output "eps" (X = x/alpha, h = rho_s - rho_t, f = eps: DDIM) this is the
published method; in those of output "F", which are bounded, far fewer steps will do.

Reference: Wallace et al. 2023, arXiv:2211.12446, eqs. 14-15; the variables: ``unstir.solver.reversible``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from unstir.errors import UserError
from unstir.solver.base import Levels, Memory, Model, Row
from unstir.solver.reversible import Output, Paired, check_frame, frame
from unstir.state import State, clone, combine


@dataclass(frozen=True, repr=False)
class EDICT(Paired):
    """Two evaluations a step, first order, exactly invertible.

    Args:
        mix: p, in (0.5, 1). Sampling draws the two states together by 2 p - 1 a step, and inverting drives them apart as fast: take it
            nearer to 1 the more steps there are (the paper has .93 for 50 steps, in its variables).

        output: in which variables, ``"F"`` or, as published, ``"eps"``.
        scale: standard deviation of the data per coordinate, for ``"F"``.

    Raises:
        UserError: an option is out of range.
    """

    order: ClassVar[int] = 1
    evaluations: ClassVar[int] = 2
    width: ClassVar[int] = 6
    mix: float = 0.98
    output: Output = "F"
    scale: float = 0.5

    def __post_init__(self) -> None:
        if not 0.5 < self.mix < 1:
            raise UserError(f"mix must lie in (0.5, 1), got {self.mix}")
        check_frame(self.output, self.scale)

    def weights(self, levels: Levels, i: int) -> tuple[float, ...]:
        """``(a, e, f)`` of ``x+ = a x + e y + f D(y)``, and ``(1/a, -e/a, -f/a)``."""
        (n_t, v_t, p, q), (n_s, v_s, _, _) = (frame(levels, j, self.output, self.scale) for j in (i, i + 1))
        a, h = n_s / n_t, n_s * (v_s - v_t)
        e, f = h * p, h * q
        return (a, e, f, 1 / a, -e / a, -f / a)

    def move(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """Two evaluations at t; eight passes."""
        a, e, f = row.c[4:7]
        x, y = self._roles(x, memory, row)
        combine(x, a, (e, y), (f, model(y, row.t)))
        combine(y, a, (e, x), (f, model(x, row.t)))
        combine(x, self.mix, (1 - self.mix, y))
        combine(y, self.mix, (1 - self.mix, x))
        return self._state(x, y, memory, row)

    def undo(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """The four lines from the last to the first."""
        gain, e, f = row.c[7:10]
        undo, mixed = 1 / self.mix, -(1 - self.mix) / self.mix
        x, y = self._roles(clone(x), memory, row)
        combine(y, undo, (mixed, x))
        combine(x, undo, (mixed, y))
        combine(y, gain, (e, x), (f, model(x, row.t)))
        combine(x, gain, (e, y), (f, model(y, row.t)))
        return self._state(x, y, memory, row)

    def _roles(self, x: State, memory: Memory, row: Row) -> tuple[State, State]:
        partner: State = memory["partner"] if "partner" in memory else clone(x)
        return (partner, x) if row.index % 2 else (x, partner)

    def _state(self, x: State, y: State, memory: Memory, row: Row) -> State:
        x, memory["partner"] = (y, x) if row.index % 2 else (x, y)
        return x
