"""Solvers that go back up: stretches of a plan walked several times, with fresh noise in between.

    from noise level t up to s:      x <- (alpha_s/alpha_t) x + alpha_s sqrt(rho_s^2 - rho_t^2) z

That is the forward process itself, so with an exact denoiser every marginal stays what it is, and the error that a stretch has
accumulated is contracted each time it is walked.
References: Xu et al. 2023 (Restart), arXiv:2306.14878, algorithm 1; Lugmayr et al. 2022 (RePaint), arXiv:2201.09865, section 4.2;
Mou et al. 2024 (DiffEditor), arXiv:2402.02583, time travel.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from unstir import names
from unstir.errors import UserError
from unstir.process import Joint, Process
from unstir.solver.base import Around, Levels, Memory, Model, Row, Solver, add_noise
from unstir.state import State, combine, nonzero

_KEPT = "noise"  # draws to be repeated belong to the whole trajectory, everything else a solver remembers to one stretch


class Detour(Around):
    """A solver walking stretches of times downwards, renoised from the end of each to the beginning of the next."""

    @abstractmethod
    def route(self, process: Process, times: Sequence[Any]) -> list[list[Any]]:
        """The stretches that a grid is walked in.

        Args:
            process: the process.
            times: of the grid, strictly decreasing.

        Returns:
            Lists of decreasing times, in the order they are walked.
        """

    def plan(self, process: Process, times: Sequence[Any]) -> list[Row]:
        """The rows of the solver inside, stretch by stretch, with a row that goes up between two; see ``Solver.plan``."""
        rows: list[Row] = []
        for stretch in self.route(process, times):
            if rows:
                rows.append(_up(process, rows[-1].s, stretch[0]))
            rows += [replace(row, c=(0.0, 0.0, *row.c)) for row in self.solver.plan(process, stretch)]
        width = max((len(row.c) for row in rows), default=0)
        return [replace(row, index=i, c=row.c + (0.0,) * (width - len(row.c))) for i, row in enumerate(rows)]

    def coefficients(self, levels: Levels) -> list[tuple[float, ...]]:
        """A plan that goes up has no table over decreasing levels.

        Raises:
            UserError: always: this solver stands outermost.
        """
        raise UserError(f"{type(self).__name__} walks parts of a grid again, so it can only be the outermost solver")

    def step(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """Go up, forgetting what belongs to the stretch that ended, or make a step of the solver inside."""
        if nonzero(row.c[0]):
            for key in [key for key in memory if key != _KEPT]:
                del memory[key]
            return _UPWARDS.step(x, row, model, memory)
        return self.solver.step(x, replace(row, c=row.c[2:]), model, memory)


@dataclass(frozen=True, repr=False)
class Restart(Detour):
    """Sampling that, having come down to noise level ``low``, adds noise up to ``high`` and comes down again, several times.

    x_high = (alpha_high/alpha_low) x_low + alpha_high sqrt(high^2 - low^2) z,      then the solver from high to low

    Args:
        solver: walks downwards: a solver or its short name.
        low, high: noise levels sigma/alpha between which it restarts; both must lie on the grid's way.
        repeats: number of restarts K; 0 draws nothing and is the solver inside.
        steps: steps from ``high`` to ``low``, laid as Karras does; those of the grid in between when absent.

    Raises:
        UserError: an option is out of range.
    """

    solver: Solver = "heun"  # type: ignore[assignment]
    low: float = 0.06
    high: float = 0.3
    repeats: int = 2
    steps: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "solver", names.solver(self.solver))
        if not 0 < self.low < self.high < math.inf:
            raise UserError(f"a restart goes up from low to high, 0 < low < high, got low={self.low} and high={self.high}")
        _whole("repeats", self.repeats, 0)
        _whole("steps", 1 if self.steps is None else self.steps, 1)

    @property
    def stochastic(self) -> bool:
        """Does it draw noise?"""
        return self.repeats > 0 or self.solver.stochastic

    def route(self, process: Process, times: Sequence[Any]) -> list[list[Any]]:
        """Down to low; from high to low; from high to the end.

        Raises:
            UserError: the interval does not lie within the levels of the grid.
        """
        if self.repeats == 0 or len(times) < 2:
            return [list(times)]
        rho = [_level(process, t) for t in times]
        if not rho[-1] <= self.low < self.high <= rho[0]:
            raise UserError(
                f"a restart between the noise levels {self.low} and {self.high} needs a grid that passes both, and it goes from "
                f"{rho[0]:.6g} to {rho[-1]:.6g}"
            )
        low, high = _at(process, self.low), _at(process, self.high)
        inside = self._inside(process, [t for t, level in zip(times, rho, strict=True) if _between(self.low, level, self.high)])
        before = [t for t, level in zip(times, rho, strict=True) if _between(self.low, level, math.inf) or math.isinf(level)]
        after = [t for t, level in zip(times, rho, strict=True) if _between(-1.0, level, self.low)]
        again = [[high, *inside, low] for _ in range(self.repeats)]
        again[-1] += after
        return [[*before, low], *again]

    def _inside(self, process: Process, own: list[Any]) -> list[Any]:
        if self.steps is None:
            return own
        roots = [self.high ** (1 / 7) + i / self.steps * (self.low ** (1 / 7) - self.high ** (1 / 7)) for i in range(1, self.steps)]
        return [_at(process, root**7) for root in roots]


@dataclass(frozen=True, repr=False)
class TimeTravel(Detour):
    """Every ``jump`` steps go back up those steps and walk them again, ``walks`` times in all: RePaint's resampling.

    x_{t+jump} = (alpha_{t+jump}/alpha_t) x_t + alpha_{t+jump} sqrt(rho_{t+jump}^2 - rho_t^2) z,      then the solver down to t again

    The jump is made at once (its law is that of one-step renoisings); there is none from sigma = 0. Guides and steers act on every walk,
    which is what it is for: it lets what they impose spread.

    Args:
        solver: walks downwards: a solver or its short name.
        jump: number of steps of a jump, j.
        walks: how often each stretch of ``jump`` steps is walked, r; 1 is the solver inside.
        low, high: noise levels sigma/alpha between which a jump must lie whole; anywhere when left as they are.

    Raises:
        UserError: an option is out of range.
    """

    solver: Solver = "ancestral"  # type: ignore[assignment]
    jump: int = 10
    walks: int = 10
    low: float = 0.0
    high: float = math.inf

    def __post_init__(self) -> None:
        object.__setattr__(self, "solver", names.solver(self.solver))
        _whole("jump", self.jump, 1)
        _whole("walks", self.walks, 1)
        if not 0 <= self.low < self.high:
            raise UserError(f"time travel lies between low and high, 0 <= low < high, got low={self.low} and high={self.high}")

    @property
    def stochastic(self) -> bool:
        """Does it draw noise?"""
        return self.walks > 1 or self.solver.stochastic

    def route(self, process: Process, times: Sequence[Any]) -> list[list[Any]]:
        """Down to the end of each stretch, up to its beginning again, and on."""
        rho = [_level(process, t) for t in times]
        last = len(times) - 1 - (rho[-1] == 0)
        ends = [e for e in range(last % self.jump, last + 1, self.jump) if e >= self.jump]
        stretches, begin = [], 0
        for end in ends:
            top = end - self.jump
            if self.low <= rho[end] and rho[top] <= self.high and math.isfinite(rho[top]):
                for _ in range(self.walks - 1):
                    stretches.append(list(times[begin : end + 1]))
                    begin = top
        return [*stretches, list(times[begin:])]


@dataclass(frozen=True, repr=False)
class _Upwards(Solver):
    """Goes from the cleaner of two levels back to the noisier."""

    order: ClassVar[int] = 0
    evaluations: ClassVar[int] = 0

    def coefficients(self, levels: Levels) -> list[tuple[float, ...]]:
        (alpha_s, alpha_t), (rho_s, rho_t) = levels.alpha, levels.rho
        return [(alpha_s / alpha_t, alpha_s * math.sqrt((rho_s - rho_t) * (rho_s + rho_t)))]

    def step(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        up, fresh = row.c[:2]
        return add_noise(combine(x, up), fresh, memory)


_UPWARDS = _Upwards()


def _up(process: Process, t: Any, s: Any) -> Row:
    """The row that goes from time ``t`` up to the noisier ``s``."""
    row = _UPWARDS.plan(process, [s, t])[0]
    turned = {f"{name}_{a}": getattr(row, f"{name}_{b}") for name in ("alpha", "sigma", "rho") for a, b in ("ts", "st")}
    return replace(row, t=row.s, s=row.t, **turned)


def _at(process: Process, rho: float) -> Any:
    """The time of a noise level; a dict where every leaf has its own time."""
    if isinstance(process, Joint) and not process.shared_time:
        return {leaf: float(own.time_at_rho(rho)) for leaf, own in process.leaves.items()}
    return float(process.clock.time_at_rho(rho))


def _level(process: Process, t: Any) -> float:
    return float(process.clock.rho(next(iter(t.values())) if isinstance(t, dict) else t))


def _between(low: float, level: float, high: float) -> bool:
    """Strictly, and by more than rounding."""
    return low < level < high and not math.isclose(level, low, rel_tol=1e-9) and not math.isclose(level, high, rel_tol=1e-9)


def _whole(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{name} must be a whole number of at least {least}, got {value!r}")
