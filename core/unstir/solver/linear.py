"""Solvers of processes whose coordinates have noise levels of their own, and of processes without noise.

    multivariate:   n = R_t^-1 (x_t - M_t D),   x_s = M_s D + R_s (sqrt(1 - eta^2) n + eta z)
    cold:           x_s = x_t - Deg(D, t) + Deg(D, s)    (improved);      x_s = Deg(D, s)    (naive)

References: Zhang et al. 2023, arXiv:2206.05564 (gDDIM); Bansal et al. 2022, arXiv:2208.09392, algorithms 1 and 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from unstir.errors import UserError
from unstir.process import Process
from unstir.process.cold import Cold
from unstir.process.multivariate import Multivariate
from unstir.solver.base import Levels, Memory, Model, Row, Solver
from unstir.state import State, combine


class _OfMaps(Solver):
    """What solvers of linear maps share: rows of times, and the process they are for."""

    order: ClassVar[int] = 1
    joins: ClassVar[bool] = False
    kind: ClassVar[Any]

    def objection(self, process: Process) -> str | None:
        """Any process but its own kind.

        Args:
            process: of one tensor.
        """
        if isinstance(process, self.kind):
            return None
        return f"{type(self).__name__} steps a {self.kind.__name__} process, and {type(process).__name__} is none: take another solver"

    def coefficients(self, levels: Levels) -> list[tuple[float, ...]]:
        """None: the process is asked at each step."""
        return [() for _ in range(levels.steps)]

    def plan(self, process: Process, times: Sequence[Any]) -> list[Row]:
        """One row a step; see :meth:`Solver.plan`."""
        refusal = self.refuses(process)
        if refusal:
            raise UserError(refusal)
        if any(later >= earlier for earlier, later in zip(times, times[1:], strict=False)):
            raise UserError(f"times must decrease strictly, got {list(times)[:6]}")
        levels = [tuple(float(f(t)) for f in (process.alpha, process.sigma, process.rho)) for t in times]
        rows = []
        for i, (a, b) in enumerate(zip(levels, levels[1:], strict=False)):
            rows.append(Row(i, times[i], times[i + 1], a[0], a[1], b[0], b[1], a[2], b[2], ()))
        return rows


@dataclass(frozen=True, repr=False)
class LinearDDIM(_OfMaps):
    """First-order solver of a multivariate process: keep the noise, move the maps.

    x_s = M_s D + R_s (sqrt(1 - eta^2) n + eta z),    n = R_t^-1 (x_t - M_t D)

    Args:
        eta: 0 follows the flow, 1 draws all noise anew at every step; the marginals are kept for exact estimates of one point.

    Raises:
        UserError: eta is outside [0, 1].
    """

    eta: float = 0.0
    kind: ClassVar[Any] = Multivariate

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise UserError(f"eta must be from 0 to 1, got {self.eta}")

    @property
    def stochastic(self) -> bool:
        """Does it draw noise?"""
        return self.eta > 0

    def step(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """One evaluation and a few maps; a draw, unless eta is 0 or the step ends without noise."""
        process, t, s = model.process, row.t, row.s  # type: ignore[attr-defined]
        x0: Any = model(x, t)
        if row.sigma_s == 0:
            return process.carry(x0, s)
        noise = process.whiten(x - process.carry(x0, t), t)
        if self.eta:
            noise = combine(memory.noise(), self.eta, ((1 - self.eta**2) ** 0.5, noise))
        return process.carry(x0, s) + process.colour(noise, s)


@dataclass(frozen=True, repr=False)
class ColdSampler(_OfMaps):
    """Sampler of a deterministic degradation.

    x_s = x_t - Deg(D, t) + Deg(D, s): for a degradation x + t e it is exact whatever the restoration D; naive is x_s = Deg(D, s).

    Args:
        improved: the first form? The second otherwise.
    """

    improved: bool = True
    kind: ClassVar[Any] = Cold

    def step(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """One evaluation and two degradations."""
        process = model.process  # type: ignore[attr-defined]
        x0: Any = model(x, row.t)
        there = process.carry(x0, row.s)
        return x - process.carry(x0, row.t) + there if self.improved else there
