"""Solvers that choose their own steps between two times of the grid, each sample for itself.

    d(x/alpha)/d(log rho) = x/alpha - x0 = rho eps,       rho = sigma/alpha

A step makes two results of different order; their difference, over absolute + tolerance |x/alpha|, root mean square over one sample, is E.
It is taken if E <= 1, with the better result, and the next is safety E^(-1/q) times as long, between a fifth and five times. Samples never
share a norm, a time or a step, and one that has arrived is evaluated no more.

References: Dormand & Prince 1980 (RK45); Song et al. 2021, arXiv:2011.13456 (for probability flows); Lu et al. 2022 (DPM-Solver-12, -23),
arXiv:2206.00927, appendix C.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.evaluation import Evaluation
from unstir.process import Process
from unstir.process.base import spread
from unstir.solver.base import Levels, Memory, Model, Row, Solver, add_noise
from unstir.state import State, combine

Field = Callable[[Tensor, Tensor], Tensor]

_LONGEST = 0.5  # the first step tried, in log rho
_SHORTEST = 1e-9  # a step this short is taken whatever its error
_ROUGH, _FINE = 0.2, 5.0

_NODES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_TABLEAU = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_DIFFERENCE = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


@dataclass(frozen=True, repr=False)
class Adaptive(Solver):
    """What adaptive solvers share: the control of the steps.

    Args:
        tolerance: error allowed in a step, relative to the state x/alpha.
        absolute: error allowed in a step, in units of the state.
        safety: factor on the length of the next step.

    Raises:
        UserError: an option is out of range.
    """

    adaptive: ClassVar[bool] = True
    joins: ClassVar[bool] = False
    tolerance: float = 1e-3
    absolute: float = 1e-4
    safety: float = 0.9

    def __post_init__(self) -> None:
        if not (0 < self.tolerance < math.inf and 0 < self.absolute < math.inf and 0 < self.safety <= 1):
            raise UserError(f"tolerance and absolute must be positive and safety lie in (0, 1], got {self!r}")

    def plan(self, process: Process, times: Sequence[Any]) -> list[Row]:
        """The rows of the grid, each with the process behind its coefficients; the steps between are found on the way."""
        return [replace(row, c=(*row.c, process)) for row in super().plan(process, times)]  # type: ignore[arg-type]

    def coefficients(self, levels: Levels) -> list[tuple[float, ...]]:
        """``(follow, a, b, d)``: follow the flow, or where it has no finite noise level step as ``x_s = a x + b x0 + d z``."""
        return [(0.0, *edge) if (edge := levels.edge(i)) else (1.0, 0.0, 0.0, 0.0) for i in range(levels.steps)]

    def step(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """Follow the flow from t to s; reads back which samples have arrived, once a step."""
        follow, a, b, d = row.c[:4]
        process: Process = row.c[4]  # type: ignore[assignment]
        assert isinstance(x, Tensor)
        if not follow:
            return add_noise(combine(x, a, (b, model(x, row.t))), d, memory)
        begin, end = math.log(row.rho_t), math.log(row.rho_s)  # type: ignore[arg-type]
        bar = x / row.alpha_t  # type: ignore[operator]
        here = torch.full((len(x),), begin, dtype=torch.float64, device=x.device)
        length = memory.get("length", torch.full_like(here, _LONGEST)).clone()
        seen, slope = torch.empty_like(x), torch.empty_like(x)
        known = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        active = torch.arange(len(x), device=x.device)
        while len(active):
            ask = _Asked(model, process, active, len(x), row, seen)
            y, at = bar[active], here[active]
            fresh = ~known[active]
            if fresh.any():
                some = active[fresh]
                slope[some] = _Asked(model, process, some, len(x), row, seen)(bar[some], here[some])
                known[some] = True
            left = at - end
            last = length[active] >= left * (1 - 1e-12)
            h = torch.where(last, left, length[active])
            new, error, ahead = self.attempt(ask, y, at, h, slope[active])
            norm = self._norm(error, y, new)
            good = (norm <= 1) | (h <= _SHORTEST)
            factor = (self.safety * norm.clamp(min=1e-12) ** (-1 / self.exponent)).clamp(_ROUGH, _FINE)
            proposed = torch.where(good & last, torch.maximum(length[active], h * factor), h * factor)
            length[active] = torch.where(torch.isfinite(proposed), proposed, h * _ROUGH)
            done = active[good]
            bar[done], here[done] = new[good], torch.where(last, torch.full_like(at, end), at - h)[good]
            known[done] = ahead is not None
            if ahead is not None:
                slope[done] = ahead[good]
            active = active[~(good & last)]
        memory["length"] = length
        if isinstance(model, Evaluation):
            model.x0 = seen
        return combine(x, 0.0, (row.alpha_s, bar))  # type: ignore[arg-type]

    @property
    @abstractmethod
    def exponent(self) -> int:
        """q: the error of a step falls with this power of its length."""

    @abstractmethod
    def attempt(self, f: Field, y: Tensor, at: Tensor, h: Tensor, slope: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """One step of every sample.

        Args:
            f: the slope rho eps at (y, log rho).
            y: states x/alpha (active, *shape).
            at: log rho of each (active,).
            h: how far each goes down in log rho, positive.
            slope: the slope at the beginning.

        Returns:
            The better result, its difference from the other, and the slope at the end if it is known.
        """

    def _norm(self, error: Tensor, y: Tensor, new: Tensor) -> Tensor:
        allowed = self.absolute + self.tolerance * torch.maximum(y.abs(), new.abs())
        norm = (error / allowed).flatten(1).square().mean(1).sqrt().to(torch.float64)
        return torch.where(torch.isfinite(norm), norm, math.inf)


@dataclass(frozen=True, repr=False)
class RK45(Adaptive):
    """Dormand and Prince's pair of orders 5 and 4 in log(sigma/alpha): six evaluations a step, and one at its first.

    d(x/alpha)/d(log rho) = x/alpha - x0
    """

    order: ClassVar[int] = 5
    evaluations: ClassVar[int] = 7

    @property
    def exponent(self) -> int:
        """5: the lower of the two is of order 4."""
        return 5

    def attempt(self, f: Field, y: Tensor, at: Tensor, h: Tensor, slope: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """The pair; the last slope is the first of the next step."""
        slopes, step = [slope], spread(-h, y)
        reached = y
        for node, weights in zip(_NODES, _TABLEAU, strict=True):
            reached = y + step * sum(w * k for w, k in zip(weights, slopes, strict=True) if w)  # type: ignore[operator]
            slopes.append(f(reached, at - node * h))
        error: Tensor = step * sum(w * k for w, k in zip(_DIFFERENCE, slopes, strict=True) if w)  # type: ignore[operator, assignment]
        return reached, error, slopes[-1]


@dataclass(frozen=True, repr=False)
class DPMAdaptive(Adaptive):
    """DPM-Solver-12 and -23: single steps of DPM-Solver of ``stages`` evaluations, judged by the one of an evaluation less.

    x_s/alpha_s = x_t/alpha_t + (rho_s - rho_t) [eps_t + (eps_r - eps_t)/(2 r)]    of two evaluations; of three see DPM-Solver-3

    Args:
        stages: 2 (DPM-Solver-12) or 3 (DPM-Solver-23).

    Raises:
        UserError: stages is neither 2 nor 3.
    """

    tolerance: float = 0.05
    absolute: float = 0.0078
    stages: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stages not in (2, 3):
            raise UserError(f"stages must be 2 or 3, got {self.stages!r}")

    @property
    def order(self) -> int:  # type: ignore[override]
        """That of the better result."""
        return self.stages

    @property
    def evaluations(self) -> int:  # type: ignore[override]
        """At least so many between two times of the grid."""
        return self.stages

    @property
    def exponent(self) -> int:
        """The lower order and one."""
        return self.stages

    def attempt(self, f: Field, y: Tensor, at: Tensor, h: Tensor, slope: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """The inner states lie at r = 1/2, or 1/3 and 2/3, of h; ``rho_s (e^h - 1) = rho_t - rho_s``."""
        rho, r = torch.exp(at), 1 / self.stages

        def change(share: float) -> Any:  # rho_r - rho_t
            return spread(rho * torch.expm1(-share * h), y)

        def second(share: float) -> Any:  # -rho_r [(e^{rh} - 1)/(rh) - 1]
            return spread(-torch.exp(at - share * h) * (torch.expm1(share * h) / (share * h) - 1), y)

        def eps(state: Tensor, share: float) -> Tensor:
            return f(state, at - share * h) * spread(torch.exp(share * h - at), y)

        start = slope * spread(1 / rho, y)
        first = eps(y + change(r) * start, r)
        lower = y + change(1.0) * (start + (first - start) / (2 * r))
        if self.stages == 2:
            return lower, change(1.0) * (first - start) / (2 * r), None
        last = eps(y + change(2 * r) * start + 2 * second(2 * r) * (first - start), 2 * r)
        new = y + change(1.0) * start + second(1.0) / (2 * r) * (last - start)
        return new, new - lower, None


class _Asked:
    """The slope rho eps of some samples, each at its own time; their part of the condition goes with them."""

    def __init__(self, model: Model, process: Process, index: Tensor, total: int, row: Row, seen: Tensor) -> None:
        self.model, self.process, self.index, self.seen = model, process, index, seen
        if isinstance(model, Evaluation):
            self.model = Evaluation(model.denoiser, process, _rows(model.condition, index, total))
            self.model.step = row.index

    def __call__(self, y: Tensor, at: Tensor) -> Tensor:
        t = self.process.time_at_rho(torch.exp(at))
        z = y * spread(self.process.alpha(t), y)
        if isinstance(self.model, Evaluation):
            x0 = self.model.believed(self.model.with_anchor(z, t), t)
        else:
            x0 = self.model(z, t)  # type: ignore[arg-type]
        assert isinstance(x0, Tensor)
        self.seen[self.index] = x0
        return y - x0


def _rows(condition: Mapping[str, Any] | None, index: Tensor, total: int) -> dict[str, Any] | None:
    if condition is None:
        return None

    def part(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: part(inner) for key, inner in value.items()}
        return value[index] if isinstance(value, Tensor) and value.ndim and value.shape[0] == total else value

    return {key: part(value) for key, value in condition.items()}
