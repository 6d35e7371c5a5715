"""A search for good times, and good solver choices, of a few steps.

    schedule* = argmin objective(schedule, seed)        by evolution: keep the best, change a time or a choice, cross two, evaluate, repeat

Of several changed schedules the one that a ridge regression on all schedules evaluated so far likes best is evaluated next. What was found
is judged on seeds that the search has not seen.
References: Li et al. 2023 (AutoDiffusion), arXiv:2309.10438; Liu et al. 2023 (S^3 for the unified sampling framework), arXiv:2312.07243.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unstir import names
from unstir.errors import UserError
from unstir.grid import Times
from unstir.process import Process
from unstir.solver.multistep import Multistep
from unstir.solver.per_step import PerStep

Objective = Callable[["Schedule", int], float]
_Genes = tuple[tuple[int, ...], tuple[int, ...]]  # numbers of the inner times in the pool, and of the choices
_RIDGE = 1e-2


@dataclass(frozen=True)
class Schedule:
    """Times and, if they were searched for, a solver choice for each step.

    Attributes:
        times: strictly decreasing, first and last included.
        choices: one a step; empty where only times were searched for.
    """

    times: tuple[float, ...]
    choices: tuple[Multistep, ...] = ()

    @property
    def grid(self) -> Times:
        """The times as a grid."""
        return Times(self.times)

    @property
    def solver(self) -> PerStep:
        """The choices as a solver.

        Raises:
            UserError: none were searched for.
        """
        if not self.choices:
            raise UserError("this schedule has times alone; sample with a solver of your own")
        return PerStep(self.choices)


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        best: the schedule of the lowest objective.
        value: its objective.
        held_out: its mean objective over the seeds held out; None where there are none.
        beginning_held_out: the same of each schedule that the search was given to begin with.
        history: every schedule evaluated, with its objective, in order.
    """

    best: Schedule
    value: float
    held_out: float | None
    beginning_held_out: tuple[float | None, ...]
    history: tuple[tuple[Schedule, float], ...] = field(repr=False)


def pool_of(process: Process, grid: Any) -> tuple[float, ...]:
    """The times of a fine grid, as the pool to choose from.

    Args:
        process: the process.
        grid: a grid or its short name, such as ``"log-snr:60"``.
    """
    return tuple(names.grid(grid).times(process))


def search(
    objective: Objective,
    pool: Sequence[float],
    steps: int,
    *,
    choices: Sequence[Multistep] = (),
    beginning: Sequence[Schedule] = (),
    evaluations: int = 200,
    parents: int = 10,
    proposals: int = 4,
    seed: int = 0,
    seen: int = 0,
    held_out: Sequence[int] = (),
) -> Found:
    """Search for the schedule with the lowest objective.

    Args:
        objective: ``objective(schedule, seed)``: lower is better; not finite counts as worst. Sample with that seed, for example.
        pool: strictly decreasing times to choose from; the first and the last are always taken.
        steps: number of steps.
        choices: what a solver may do at a step; times alone are searched for where there are none.
        beginning: schedules to begin with; their times are moved to the nearest of the pool.
        evaluations: of the objective during the search.
        parents: number of best schedules that are changed.
        proposals: changed schedules among which the regression picks the one to evaluate.
        seed: of the search itself.
        seen: the seed with which the objective is evaluated during the search.
        held_out: seeds for judging what was found.

    Returns:
        The best schedule, its objective, and both on the seeds held out.

    Raises:
        UserError: the pool is too small or does not decrease, or a number is out of range.
    """
    if steps < 1 or len(pool) < steps + 1 or any(later >= earlier for earlier, later in zip(pool, pool[1:], strict=False)):
        raise UserError(f"{steps} steps need a pool of at least {steps + 1} strictly decreasing times, got {len(pool)}")
    if min(evaluations, parents, proposals) < 1 or seen in held_out:
        raise UserError("evaluations, parents and proposals must be at least 1, and the seed seen not among those held out")
    space = _Space(tuple(float(t) for t in pool), steps, tuple(choices), np.random.default_rng(seed))
    known: dict[_Genes, float] = {}
    waiting = list(dict.fromkeys([space.nearest(one) for one in beginning]))
    for _ in range(evaluations):
        best = sorted(known, key=known.__getitem__)[:parents]
        genes = waiting.pop(0) if waiting else space.next(best, known, proposals)
        if genes is None:
            break
        value = float(objective(space.schedule(genes), seen))
        known[genes] = value if np.isfinite(value) else np.inf
    winner = min(known, key=known.__getitem__)
    final = space.schedule(winner)

    def judged(schedule: Schedule) -> float | None:
        return float(np.mean([objective(schedule, other) for other in held_out])) if held_out else None

    history = tuple((space.schedule(genes), value) for genes, value in known.items())
    return Found(final, known[winner], judged(final), tuple(judged(one) for one in beginning), history)


@dataclass(frozen=True, eq=False)
class _Space:
    pool: tuple[float, ...]
    steps: int
    choices: tuple[Multistep, ...]
    random: np.random.Generator

    def schedule(self, genes: _Genes) -> Schedule:
        inner, picks = genes
        times = (self.pool[0], *(self.pool[i] for i in inner), self.pool[-1])
        return Schedule(times, tuple(self.choices[c] for c in picks))

    def nearest(self, schedule: Schedule) -> _Genes:
        """The genes of a schedule on the pool; times that would coincide are spread over free neighbours."""
        pool, taken = np.array(self.pool[1:-1]), set[int]()
        if len(schedule.times) != self.steps + 1:
            raise UserError(f"a schedule to begin with has {len(schedule.times) - 1} steps, and {self.steps} are searched for")
        for t in schedule.times[1:-1]:
            free = [i for i in np.argsort(np.abs(pool - t)).tolist() if i + 1 not in taken]
            taken.add(free[0] + 1)
        picks = [self.choices.index(c) if c in self.choices else 0 for c in schedule.choices] if self.choices else []
        return tuple(sorted(taken)), tuple(picks or [0] * (self.steps * bool(self.choices)))

    def next(self, best: Sequence[_Genes], known: dict[_Genes, float], proposals: int) -> _Genes | None:
        """The most promising of a few new schedules; None where none is left to be found."""
        new: dict[_Genes, None] = {}
        for _ in range(50 * proposals):
            genes = self.child(best) if best and self.random.random() < 0.9 else self.fresh()
            if genes not in known:
                new[genes] = None
            if len(new) == proposals:
                break
        finite = {genes: value for genes, value in known.items() if np.isfinite(value)}
        if not new or len(finite) < 8:
            return next(iter(new), None)
        told = np.array([self.features(genes) for genes in finite])
        values = np.log(np.maximum(list(finite.values()), 1e-12))
        mean = told.mean(0)
        weights = np.linalg.solve(
            (told - mean).T @ (told - mean) + _RIDGE * np.eye(told.shape[1]), (told - mean).T @ (values - values.mean())
        )
        return min(new, key=lambda genes: float((self.features(genes) - mean) @ weights))

    def features(self, genes: _Genes) -> np.ndarray:
        place = np.array(genes[0]) / len(self.pool)
        picked = np.eye(max(len(self.choices), 1))[list(genes[1])].ravel()
        return np.concatenate([place, place**2, picked])

    def fresh(self) -> _Genes:
        inner = self.random.choice(np.arange(1, len(self.pool) - 1), self.steps - 1, replace=False)
        picks = tuple(self.random.integers(0, len(self.choices), self.steps).tolist()) if self.choices else ()
        return tuple(sorted(inner.tolist())), picks

    def child(self, best: Sequence[_Genes]) -> _Genes:
        """One of the best, crossed with another in one case of three, with one time or choice changed."""
        inner, picks = (list(part) for part in best[int(self.random.integers(len(best)))])
        if self.random.random() < 1 / 3:
            other = best[int(self.random.integers(len(best)))]
            keep = self.random.random(self.steps) < 0.5
            inner = [a if k else b for a, b, k in zip(inner, other[0], keep, strict=False)]
            picks = [a if k else b for a, b, k in zip(picks, other[1], keep, strict=False)]
        if picks and self.random.random() < 0.5:
            picks[self.random.integers(self.steps)] = int(self.random.integers(len(self.choices)))
        elif inner:
            at = int(self.random.integers(len(inner)))
            inner[at] += int(self.random.choice([-1, 1])) * int(self.random.geometric(0.4))
        inside = {min(max(int(i), 1), len(self.pool) - 2) for i in inner}
        while len(inside) < self.steps - 1:
            inside.add(int(self.random.integers(1, len(self.pool) - 1)))
        return tuple(sorted(inside)), tuple(picks)
