"""Solvers of joint processes: a solver a leaf, and the symmetric splitting S4 with one evaluation for prediction and correction.

    Split    every leaf moves by its own solver, all from one evaluation at the state before the step
    S4       x <- x + delta S + sqrt(2 delta) noise z        Langevin, S = score(x_t), delta = 2 (alpha_t/alpha_s)^2 (snr |z|/|S|)^2
             x <- (alpha_m/alpha_t) x + alpha_m sqrt(rho_t^2 - rho_m^2) z   half of the linear part, run backwards, t -> m = (t + s)/2
             x <- x + alpha_m alpha_t (rho_t^2 - rho_s^2) S                 the score part, whole, by the stored score
             x <- (alpha_s/alpha_m) x + alpha_s sqrt(rho_m^2 - rho_s^2) z   the other half

References: Jo et al. 2022 (GDSS), arXiv:2202.02514, section 3.3 and algorithm 1; Song et al. 2021, arXiv:2011.13456 (the correction).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.process import Joint, Process
from unstir.solver.base import Levels, Memory, Model, Row, Solver
from unstir.solver.corrector import norms
from unstir.solver.discrete import FirstHitting, as_leaves, row_of
from unstir.state import State


@dataclass(frozen=True, repr=False)
class S4(Solver):
    """Symmetric splitting of the reverse SDE of joint leaves: one evaluation drives half transition, Langevin correction, half transition.

    First order, half the evaluations of a predictor-corrector. To sigma = 0 it gives the estimate, without noise. Biased by the order of
    snr^2 at any number of steps, as every Langevin step of fixed relative length is, and by more in few dimensions, where the ratio of
    norms scatters; at ``snr = 0`` by O(step).

    Args:
        snr: size of the correction relative to the score; 0 corrects nothing.
        noise: factor on the correction's noise (``scale_eps``); below 1 it sharpens and biases.
        variant: ``exact`` integrates the schedule; ``published`` has g(t)^2 (t - s) for the score part and the variance
            alpha_t^2 (rho_t^2 - rho_m^2) for each half, equal to first order.
        norms: ``"sample"``, one sample's leaf; or ``"batch"``, the means over the batch, as GDSS's released code has it: then a sample
            depends on its batch.

    Raises:
        UserError: an option is out of range.
    """

    order: ClassVar[int] = 1
    snr: float = 0.15
    noise: float = 1.0
    variant: Literal["exact", "published"] = "exact"
    norms: Literal["sample", "batch"] = "sample"

    def __post_init__(self) -> None:
        if not (0 <= self.snr < math.inf and 0 <= self.noise < math.inf):
            raise UserError(f"snr and noise must be finite and not negative, got {self.snr} and {self.noise}")
        if self.variant not in ("exact", "published"):
            raise UserError(f"variant must be 'exact' or 'published', got {self.variant!r}")
        if self.norms not in ("sample", "batch"):
            raise UserError(f"norms must be 'sample' or 'batch', got {self.norms!r}")

    @property
    def linear(self) -> bool:  # type: ignore[override]
        """Without the correction, whose length depends on norms."""
        return self.snr == 0

    @property
    def stochastic(self) -> bool:
        """Always draws."""
        return True

    def coefficients(self, levels: Levels) -> list[tuple[float, ...]]:
        """``(size, a1, d1, k, a2, d2, b)``: correction, first half, score, second half; b of the estimate where there is an edge."""
        return [self._row(levels, i) for i in range(levels.steps)]

    def _row(self, levels: Levels, i: int) -> tuple[float, ...]:
        edge = levels.edge(i)
        if edge:
            return 0.0, edge[0], edge[2], 0.0, 1.0, 0.0, edge[1]
        t, s = float(levels.t[i]), float(levels.t[i + 1])
        middle = (t + s) / 2
        process, (alpha_t, alpha_s), (rho_t, rho_s) = levels.process, levels.alpha[i : i + 2], levels.rho[i : i + 2]
        alpha_m, rho_m = float(process.alpha(middle)), float(process.rho(middle))
        first, second = math.sqrt(rho_t**2 - rho_m**2), math.sqrt(rho_m**2 - rho_s**2)
        if self.variant == "published":
            spread, kick = (alpha_t, alpha_m), float(process.diffusion(t)) ** 2 * (t - s)
        else:
            spread, kick = (alpha_m, alpha_s), alpha_m * alpha_t * (rho_t**2 - rho_s**2)
        size = self.snr * alpha_t / alpha_s
        return size, alpha_m / alpha_t, spread[0] * first, kick, alpha_s / alpha_m, spread[1] * second, 0.0

    def step(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """One evaluation, at the state before the step in every leaf; up to three draws."""
        belief, old = as_leaves(model(x, row.t)), as_leaves(x)
        numbers = {leaf: tuple(c[leaf] if isinstance(c, Mapping) else c for c in row.c) for leaf in old}
        draws = [as_leaves(memory.noise()) if any(c[j] for c in numbers.values()) else None for j in (0, 2, 5)]
        new = {}
        for leaf, part in old.items():
            noises = [None if drawn is None else drawn[leaf] for drawn in draws]
            new[leaf] = self._leaf(part, belief[leaf], row_of(row, leaf), numbers[leaf], noises)
        return new if isinstance(x, dict) else new[""]

    def _leaf(self, x: Tensor, x0: Tensor, row: Row, c: tuple[float, ...], noises: list[Any]) -> Tensor:
        size, a1, d1, kick, a2, d2, edge = c
        if edge:
            x = a1 * x + edge * x0
            return x + d1 * noises[1] if d1 else x
        score = (float(row.alpha_t) * x0 - x) / float(row.sigma_t) ** 2  # type: ignore[arg-type]
        if size:
            length, pull = (norms(value, self.norms) for value in (noises[0], score))
            delta = 2 * (size * length / pull.clamp(min=torch.finfo(x.dtype).tiny)).square()
            delta = delta.clamp(max=2 * float(row.sigma_t) ** 2)  # type: ignore[arg-type]
            x = x + delta * score + torch.sqrt(2 * delta) * (self.noise * noises[0])
        return a2 * (a1 * x + d1 * noises[1] + kick * score) + d2 * noises[2]


@dataclass(frozen=True, repr=False)
class Split(Solver):
    """A solver a leaf of a joint process: continuous and discrete leaves side by side.

    All leaves move from the same state, by one evaluation of it; so each solver must ask once a step, and at the step's own state.

    Args:
        leaves: the solver of each leaf.

    Raises:
        UserError: a solver evaluates more than once a step, or ``leaves`` holds something else.
    """

    leaves: Mapping[str, Solver]

    def __post_init__(self) -> None:
        for leaf, solver in self.leaves.items():
            if not isinstance(solver, Solver):
                raise UserError(f"leaf {leaf!r} needs a solver, got {solver!r}")
            if solver.evaluations != 1 or isinstance(solver, (FirstHitting, Split)):
                raise UserError(f"leaf {leaf!r} needs a solver with one evaluation a step, which all leaves share, got {solver!r}")

    def __hash__(self) -> int:
        return hash(tuple(self.leaves.items()))

    @property
    def order(self) -> int:  # type: ignore[override]
        """The lowest of the leaves."""
        return min(solver.order for solver in self.leaves.values())

    @property
    def stochastic(self) -> bool:
        """Does any leaf draw?"""
        return any(solver.stochastic for solver in self.leaves.values())

    def refuses(self, process: Process) -> str | None:
        """Why it cannot run: the leaves differ, or the solver of a leaf refuses its process.

        Args:
            process: joint, with the leaves of this solver.
        """
        if not isinstance(process, Joint) or set(process.leaves) != set(self.leaves):
            found = sorted(process.leaves) if isinstance(process, Joint) else "none"
            return f"the solvers are for the leaves {sorted(self.leaves)}, and those of the process are {found}"
        return next((refusal for leaf, own in process.leaves.items() if (refusal := self.leaves[leaf].refuses(own))), None)

    def plan(self, process: Process, times: Sequence[Any]) -> list[Row]:
        """The plans of the leaves, joined; ``c`` holds one dict with the coefficients of each leaf.

        Args:
            process: joint, with the leaves of this solver.
            times: strictly decreasing; each a float, or a dict with one a leaf.

        Returns:
            One row per step.

        Raises:
            UserError: the leaves differ from those of the process, or a plan does not fit.
        """
        refusal = self.refuses(process)
        if refusal or not isinstance(process, Joint):
            raise UserError(str(refusal))
        plans = {}
        for leaf, own in process.leaves.items():
            plans[leaf] = self.leaves[leaf].plan(own, [t[leaf] if isinstance(t, Mapping) else t for t in times])
        if len({len(plan) for plan in plans.values()}) > 1:
            raise UserError(f"the plans of the leaves differ in length: { {leaf: len(plan) for leaf, plan in plans.items()} }")
        return [_joined(dict(zip(plans, rows, strict=True)), process.shared_time) for rows in zip(*plans.values(), strict=True)]

    def coefficients(self, levels: Levels) -> list[tuple[float, ...]]:
        """None of its own: ``plan`` holds those of the leaves."""
        return [()] * levels.steps

    def step(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """Every leaf moved by its solver, given the state before the step."""
        belief: Any = model(x, row.t)
        draws: list[Any] = []  # the n-th draw of every leaf is a part of one draw
        new = {}
        for leaf, solver in self.leaves.items():
            own = memory.setdefault(("leaf", leaf), _LeafMemory(memory, leaf))
            own.begin(draws)
            new[leaf] = solver.step(x[leaf].clone(), row_of(row, leaf, row.c[0][leaf]), _LeafModel(model, leaf, belief[leaf]), own)  # type: ignore
        return {leaf: new[leaf] for leaf in x}  # type: ignore[misc]


class _LeafMemory(Memory):
    """The memory of one leaf's solver, which takes its part of the draws of all."""

    def __init__(self, memory: Memory, leaf: str) -> None:
        super().__init__(None, memory.source)
        self.all, self.leaf = memory, leaf

    def begin(self, draws: list[Any]) -> None:
        """A new step, whose draws are kept in ``draws``."""
        self.draws, self.taken = draws, 0

    def noise(self) -> Tensor:
        """The leaf's part of the next draw."""
        if self.taken == len(self.draws):
            self.draws.append(self.all.noise())
        self.taken += 1
        return self.draws[self.taken - 1][self.leaf]


class _LeafModel:
    """What one leaf's solver sees: the estimate that was made for all."""

    def __init__(self, model: Any, leaf: str, x0: Tensor) -> None:
        self.leaf, self.x0 = leaf, x0
        self.process, self.condition = model.process.leaves[leaf], model.condition
        self.denoiser = SimpleNamespace(space=model.denoiser.space.of(leaf))
        self.asked = False

    def __call__(self, z: State, t: Any) -> Tensor:
        if self.asked:
            raise UserError(f"the solver of leaf {self.leaf!r} asks for a second evaluation in a step, and the leaves share one")
        self.asked = True
        return self.x0


def _joined(rows: dict[str, Row], shared_time: bool) -> Row:
    """The rows of the leaves as one, with a number a leaf and each leaf's own coefficients."""
    first = next(iter(rows.values()))
    names = ("alpha_t", "sigma_t", "alpha_s", "sigma_s", "rho_t", "rho_s") + (() if shared_time else ("t", "s"))
    numbers: dict[str, Any] = {name: {leaf: getattr(row, name) for leaf, row in rows.items()} for name in names}
    c: Any = ({leaf: row.c for leaf, row in rows.items()},)
    return Row(**({"index": first.index, "t": first.t, "s": first.s} | numbers), c=c)
