"""A solver that chooses anew at every step: order, output and variable of the multistep engine, one choice a step.

    x_s = a x + sum_j b_j (x0_j + p_j x_j),      a, b, p of the choice made for the step, over the same history

Reference: Liu et al. 2023 (unified sampling framework), arXiv:2312.07243.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from unstir.errors import UserError
from unstir.solver.base import Levels, Memory, Model, Row, Solver, add_noise
from unstir.solver.multistep import Multistep
from unstir.state import State, clone, combine, nonzero


@dataclass(frozen=True, repr=False)
class PerStep(Solver):
    """Multistep predictors, one a step; what :func:`unstir.search.search` finds.

    Args:
        choices: what is done at the first step, the second, ...; the last holds for all that follow. Their corrections and start-ups are
            not made (each step begins with fewer values where there are none yet).

    Raises:
        UserError: there is no choice, or one is not a multistep solver.
    """

    choices: Sequence[Multistep] = (Multistep(predictor=1, start_up="none"),)

    def __post_init__(self) -> None:
        object.__setattr__(self, "choices", tuple(self.choices))
        if not self.choices or not all(isinstance(choice, Multistep) for choice in self.choices):
            raise UserError(f"every step takes a multistep solver, and there must be one; got {self.choices!r}")

    @property
    def order(self) -> int:  # type: ignore[override]
        """The least among the choices, which without a start-up is 2 at most."""
        return min(replace(choice, corrector=0, start_up="none").order for choice in self.choices)

    @property
    def kept(self) -> int:
        """Number of values that are remembered."""
        return max(choice.predictor for choice in self.choices)

    def coefficients(self, levels: Levels) -> list[tuple[float, ...]]:
        """``(a, d, b_0 .. b_{m-1}, e_1 .. e_{m-1})`` of ``x_s = a x + sum_j b_j x0_j + sum_{j>0} e_j x_j + d z``."""
        plain = [replace(choice, corrector=0, start_up="none") for choice in self.choices]
        tables = {choice: choice.coefficients(levels) for choice in set(plain)}
        rows = []
        for i in range(levels.steps):
            choice = plain[min(i, len(plain) - 1)]
            table, edge = tables[choice], levels.edge(i)
            if edge:
                a, b0, d = edge
                rows.append((a, d, b0, *[0.0] * (2 * self.kept - 2)))
                continue
            b = [*table[i][5 : 5 + choice.predictor], *[0.0] * (self.kept - choice.predictor)]
            e = [b[j] * table[i - j][0] if b[j] else 0.0 for j in range(1, self.kept)]
            rows.append((table[i][2], 0.0, *b, *e))
        return rows

    def step(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """One pass for each value and each earlier state used, and one to keep the state."""
        kept = self.kept
        a, d, b, e = row.c[0], row.c[1], row.c[2 : 2 + kept], row.c[2 + kept :]
        x0 = model(x, row.t)
        earlier = [memory.get(("earlier", (row.index - j) % kept)) for j in range(1, kept)]
        if kept > 1:
            memory["earlier", row.index % kept] = [clone(x), x0]
        terms = [(b[0], x0)]
        for j, known in enumerate(earlier, 1):
            if known is not None and (nonzero(b[j]) or nonzero(e[j - 1])):
                terms += [(b[j], known[1]), (e[j - 1], known[0])]
        return add_noise(combine(x, a, *terms), d, memory)
