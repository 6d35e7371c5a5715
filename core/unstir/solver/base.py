"""A solver says how to step from one time to the next: a table of coefficients made once, then a few tensor operations a step.

    d(x/alpha) = eps d(rho),   eps = (x - alpha x0)/sigma,   rho = sigma/alpha

holds for every affine process, so a solver needs only alpha, sigma and rho at the grid's times, in float64 on the host. At three places rho
has no finite logarithm, and every solver steps there in the one way that is exact or the only one there is:

    to sigma = 0:                   x_s = alpha_s x0
    from alpha = 0 (pure noise):    x_s = alpha_s x0 + (sigma_s/sigma_t) x
    from alpha = sigma = 0 (a pin): x_s = alpha_s x0 + sigma_s z
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import torch

from unstir.errors import UserError
from unstir.noise import NoiseSource
from unstir.process import Joint, Process
from unstir.state import State, clone, combine, empty_like, nonzero

_NOTHING = 1e-8  # where alpha/sigma is below it, its square is lost to rounding beside 1: pure noise
Number = float | dict[str, float]
Model = Callable[[State, Number], State]


@dataclass(frozen=True)
class Row:
    """One step of a plan, from time t to time s; of a joint process every number is a dict with one a leaf.

    Attributes:
        index: number of the step, from 0.
        t, s: times, from the noisier to the cleaner.
        alpha_t, sigma_t, rho_t: scales of data and noise at t, and their ratio sigma/alpha.
        alpha_s, sigma_s, rho_s: the same at s.
        c: the solver's coefficients, in the order its ``step`` reads them.
    """

    index: int
    t: Number
    s: Number
    alpha_t: Number
    sigma_t: Number
    alpha_s: Number
    sigma_s: Number
    rho_t: Number
    rho_s: Number
    c: tuple[Any, ...]


@dataclass(frozen=True)
class Levels:
    """The noise levels of a grid, for one process: what a solver makes its coefficients from.

    Attributes:
        process: the process (one leaf's, if it is joint).
        t, alpha, sigma, rho: float64 arrays ``(steps + 1,)``; rho decreases strictly, may begin at infinity and end at 0.
    """

    process: Process
    t: np.ndarray
    alpha: np.ndarray
    sigma: np.ndarray
    rho: np.ndarray

    @property
    def steps(self) -> int:
        """Number of steps."""
        return max(len(self.t) - 1, 0)

    def edge(self, i: int) -> tuple[float, float, float] | None:
        """``(a, b, d)`` of ``x_s = a x + b x0 + d z`` where step ``i`` touches rho = infinity or rho = 0, else ``None``."""
        if self.sigma[i + 1] == 0:
            return 0.0, float(self.alpha[i + 1]), 0.0
        if np.isfinite(self.rho[i]):
            return None
        if self.sigma[i] == 0:
            return 0.0, float(self.alpha[i + 1]), float(self.sigma[i + 1])
        return float(self.sigma[i + 1] / self.sigma[i]), float(self.alpha[i + 1]), 0.0

    @classmethod
    def of(cls, process: Process, times: Sequence[float]) -> Levels:
        """Evaluate a process at the times of a grid.

        Raises:
            UserError: the times do not decrease strictly, or two of them have one noise level.
        """
        t = np.asarray(times, dtype=np.float64)
        if (np.diff(t) >= 0).any() or np.isnan(t).any():
            raise UserError(f"times must decrease strictly, got {_excerpt(t)}")
        time = torch.from_numpy(t)
        alpha, sigma, rho = (np.array(f(time), dtype=np.float64) for f in (process.alpha, process.sigma, process.rho))
        rho = np.where(alpha <= _NOTHING * sigma, np.inf, np.where(sigma == 0, 0.0, rho))
        if not (rho[1:] < rho[:-1]).all():
            raise UserError(f"the noise level sigma/alpha must decrease at every step, got {_excerpt(rho)} at times {_excerpt(t)}")
        return cls(process, t, alpha, sigma, rho)


class Memory(dict[Any, Any]):
    """What a solver remembers along one trajectory, and its source of noise.

    Args:
        noise: gives unit noise in the space of the state, a new draw at every call.
        source: the keyed noise of these samples, for laws other than the normal.
        known: what it remembers from the beginning (the other state of a reversible solver, draws to be repeated).

    Attributes:
        source: as given.
    """

    def __init__(
        self, noise: Callable[[], State] | None = None, source: NoiseSource | None = None, known: Mapping[Any, Any] | None = None
    ) -> None:
        super().__init__(known or {})
        self._noise, self.source, self._replayed = noise, source, 0

    def noise(self) -> State:
        """Unit noise in the space of the state, keyed by sample; a new draw at every call.

        Under a start that brings its own draws, ``memory["noise"]``, these are given again, in order.

        Raises:
            RuntimeError: this trajectory was given no source of noise.
            UserError: the draws that the start brought are used up.
        """
        if "noise" in self:
            draws = self["noise"]
            self._replayed += 1
            if self._replayed > len(draws):
                raise UserError(f"the start brought {len(draws)} draws of noise, and the solver asks for more: sample as it was encoded")
            return clone(draws[self._replayed - 1])
        if self._noise is None:
            raise RuntimeError("a stochastic step needs a source of noise: Memory(noise=...)")
        return self._noise()

    def buffer(self, name: Any, like: State) -> State:
        """A state-shaped buffer that lives as long as the trajectory; its content is whatever was last written."""
        if name not in self:
            self[name] = empty_like(like)
        return self[name]


class Solver(ABC):
    """Steps a state from the noise to the data: a frozen dataclass with two methods.

    Attributes:
        order: global order of accuracy it declares (``unstir certify`` measures it); 0 where it does not converge to the law.
        evaluations: evaluations of the denoiser per step; the last step may need fewer.
        linear: is a step linear in state, estimates and noise? (Then the variance of its samples of a normal law is known exactly.)
        adaptive: does it choose its own steps between the times of the grid, to a ``tolerance``?
        joins: does it step the leaves of a joint process?
    """

    order: ClassVar[int]
    evaluations: ClassVar[int] = 1
    linear: ClassVar[bool] = True
    adaptive: ClassVar[bool] = False
    joins: ClassVar[bool] = True

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.__repr__ = Solver.__repr__  # type: ignore[method-assign]  # in the class's own dict, so that @dataclass keeps it

    def __repr__(self) -> str:
        changed = [(f.name, getattr(self, f.name)) for f in fields(self) if getattr(self, f.name) != f.default]  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in changed)})"

    @property
    def stochastic(self) -> bool:
        """Does it draw noise? (Any solver does, once, to leave a pinned start.)"""
        return False

    def refuses(self, process: Process) -> str | None:
        """Why it cannot run on a process, in a sentence that says what to do; ``None`` where it can.

        Args:
            process: a process; a leaf's answer counts for a joint one.
        """
        if not isinstance(process, Joint):
            return self.objection(process)
        if not self.joins:
            return f"{type(self).__name__} steps one tensor, and a joint process has several leaves: take one solver a leaf, Split"
        return next((refusal for own in process.leaves.values() if (refusal := self.refuses(own))), None)

    def objection(self, process: Process) -> str | None:
        """What :meth:`refuses` says of a process that is not joint.

        Args:
            process: of one tensor.
        """
        if process.discrete:
            return f"{type(self).__name__} steps real numbers, and the states of {type(process).__name__} are whole: take a discrete solver"
        if not process.scalar:
            return f"{type(self).__name__} steps with one noise level, and {type(process).__name__} has several: take a solver made for it"
        return None

    def plan(self, process: Process, times: Sequence[Any]) -> list[Row]:
        """Make the table of coefficients, in float64 on the host.

        Args:
            process: a process, or a joint one with a leaf each.
            times: strictly decreasing; each a float, or a dict with one a leaf where a joint process has separate times.

        Returns:
            One row per step.

        Raises:
            UserError: the times do not decrease strictly, an option does not fit the grid, or the solver refuses the process.
        """
        refusal = self.refuses(process)
        if refusal:
            raise UserError(refusal)
        if not isinstance(process, Joint):
            return list(_table(self, process, tuple(times)))
        tables = {}
        for leaf, own in process.leaves.items():
            tables[leaf] = _table(self, own, tuple(t[leaf] if isinstance(t, Mapping) else t for t in times))
        return [_join(dict(zip(tables, rows, strict=True)), process.shared_time) for rows in zip(*tables.values(), strict=True)]

    @abstractmethod
    def coefficients(self, levels: Levels) -> list[tuple[float, ...]]:
        """The coefficients ``c`` of every step; all steps have equally many, 0 where there is nothing to do.

        Args:
            levels: the grid's noise levels.

        Returns:
            One tuple per step.
        """

    @abstractmethod
    def step(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """Make one step; may overwrite ``x``.

        Args:
            x: state at time ``row.t``, batch first.
            row: the step's row of the plan.
            model: ``model(x, t) -> x0``, guided and counted; its states share no memory with ``x`` and may be kept, not overwritten.
            memory: history and noise of this trajectory, empty at its first step.

        Returns:
            State at time ``row.s``.
        """


class Around(Solver):
    """A solver around another: what it declares is that solver's, unless it says otherwise.

    Attributes:
        solver: the solver inside.
    """

    solver: Solver

    @property
    def order(self) -> int:  # type: ignore[override]
        """That of the solver inside."""
        return self.solver.order

    @property
    def evaluations(self) -> int:  # type: ignore[override]
        """Those of the solver inside."""
        return self.solver.evaluations

    @property
    def stochastic(self) -> bool:
        """Does the solver inside draw noise?"""
        return self.solver.stochastic


@lru_cache(maxsize=128)
def _table(solver: Solver, process: Process, times: tuple[float, ...]) -> tuple[Row, ...]:
    levels = Levels.of(process, times)
    numbers = [[float(v) for v in values] for values in (levels.t, levels.alpha, levels.sigma, levels.rho)]
    rows = []
    for i, c in enumerate(solver.coefficients(levels)):
        (t, s), (alpha_t, alpha_s), (sigma_t, sigma_s), (rho_t, rho_s) = (values[i : i + 2] for values in numbers)
        rows.append(Row(i, t, s, alpha_t, sigma_t, alpha_s, sigma_s, rho_t, rho_s, tuple(float(v) for v in c)))
    return tuple(rows)


def add_noise(x: State, d: Number, memory: Memory) -> State:
    """Add ``d z`` in place, drawing z only where d differs from 0."""
    return combine(x, 1.0, (d, memory.noise())) if nonzero(d) else x


def _join(rows: dict[str, Row], shared_time: bool) -> Row:
    """The rows of the leaves as one row, with a number a leaf."""
    first = next(iter(rows.values()))
    names = [f.name for f in fields(Row) if f.name not in ("index", "c")]
    numbers: dict[str, Any] = {name: {leaf: getattr(row, name) for leaf, row in rows.items()} for name in names}
    if shared_time:
        numbers.update(t=first.t, s=first.s)
    c = tuple({leaf: row.c[j] for leaf, row in rows.items()} for j in range(len(first.c)))
    return Row(index=first.index, **numbers, c=c)  # type: ignore[arg-type]


def _excerpt(values: np.ndarray) -> str:
    shown = ", ".join(f"{v:.6g}" for v in values[:6])
    return f"[{shown}{', ...' if len(values) > 6 else ''}]"
