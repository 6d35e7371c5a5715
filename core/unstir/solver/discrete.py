"""Solvers of discrete processes: states of whole numbers, one leaf or a dict of leaves.

    ancestral       x_s ~ p(x_s | x_t), entry by entry, averaged over the belief about x_0; for counts the binomial bridge, the Poisson jump
    tau-leaping     jump rates at t kept until s: an entry stays with chance exp(-integral of its rate)
    first hitting   a mask is seen at level 1 - alpha = u^{1/n} (1 - alpha_t), n masks left: one entry at a time, one evaluation each

A step of the first two draws entries independently given x_t, which is all the error of the first where the belief is exact: in N steps two
tokens are unmasked together with chance 1/N. First hitting has none. All entries of all leaves are drawn from the state before the step.
References: Austin et al. 2021 (D3PM), arXiv:2107.03006; Campbell et al. 2022, arXiv:2205.14987; Zheng et al. 2024 (first hitting),
arXiv:2409.02908.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from unstir.process import Joint, Process
from unstir.process.categorical import Categorical, draw
from unstir.process.discrete import Discrete, by_leaf, uniforms
from unstir.solver.base import Levels, Memory, Model, Row, Solver
from unstir.state import State


class DiscreteSolver(Solver):
    """A solver of discrete processes; its ``model`` must be an ``Evaluation``, which knows process, space and condition."""

    order: ClassVar[int] = 1
    discrete: ClassVar[bool] = True

    @property
    def stochastic(self) -> bool:
        """Always draws."""
        return True

    def objection(self, process: Process) -> str | None:
        """A process that is not discrete.

        Args:
            process: of one tensor.
        """
        if not isinstance(process, Discrete):
            kind = type(process).__name__
            return f"{type(self).__name__} steps whole numbers, and the states of {kind} are real: beside discrete leaves take Split"
        return None

    def coefficients(self, levels: Levels) -> list[tuple[float, ...]]:
        """None: the processes hold the laws."""
        return [()] * levels.steps


class _Jumps(DiscreteSolver):
    """One evaluation a step, and one uniform an entry."""

    @abstractmethod
    def move(self, process: Discrete, x: Tensor, x0: Tensor, row: Row, u: Tensor) -> Tensor:
        """A draw of x_s for one leaf, whose numbers are in ``row``."""

    @abstractmethod
    def law(self, process: Categorical, x: Tensor, x0: Tensor, row: Row) -> Tensor:
        """The probabilities ``move`` draws from, (batch, *shape, states).

        Args:
            process: of one leaf.
            x: state at t.
            x0: the belief there.
            row: the step, with this leaf's numbers.
        """

    def step(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """Every leaf drawn anew, given the state before the step."""
        process, known = model.process, model.condition  # type: ignore[attr-defined]
        belief, noise = as_leaves(model(x, row.t)), as_leaves(memory.noise())
        new = {}
        for leaf, own in by_leaf(process).items():
            new[leaf] = self.move(own, as_leaves(x)[leaf], belief[leaf], row_of(row, leaf), uniforms(noise[leaf]))  # type: ignore[arg-type]
        return model.denoiser.space.project(new if isinstance(x, dict) else new[""], known)  # type: ignore[attr-defined]


@dataclass(frozen=True, repr=False)
class DiscreteAncestral(_Jumps):
    """x_s ~ p(x_s | x_t) = sum over x_0 of q(x_s | x_t, x_0) p(x_0 | x_t), entry by entry: exact but for drawing entries independently.

    Of counts it is the binomial bridge (Blackout) or the Poisson jump (Thinning) at the mean of x_0.       [D3PM, arXiv:2107.03006, eq. 4]
    """

    def move(self, process: Discrete, x: Tensor, x0: Tensor, row: Row, u: Tensor) -> Tensor:
        """A draw of the posterior."""
        return process.ancestral(x, x0, row.alpha_t, row.alpha_s, u)  # type: ignore[arg-type]

    def law(self, process: Categorical, x: Tensor, x0: Tensor, row: Row) -> Tensor:
        """The posterior."""
        return process.posterior(x, x0, row.alpha_t, row.alpha_s)  # type: ignore[arg-type]


@dataclass(frozen=True, repr=False)
class TauLeaping(_Jumps):
    """Jump rates frozen over a step: an entry stays with chance exp(-integral of its rate), else jumps once; a count gets Poisson births.

    For masks this is ancestral sampling; elsewhere it is biased by the first order of the step.             [arXiv:2205.14987, sec. 4.3]
    """

    def move(self, process: Discrete, x: Tensor, x0: Tensor, row: Row, u: Tensor) -> Tensor:
        """A draw of the leap."""
        return process.leap(x, x0, row.t, row.s, u)  # type: ignore[arg-type]

    def law(self, process: Categorical, x: Tensor, x0: Tensor, row: Row) -> Tensor:
        """The law of the leap."""
        return process.leap_law(x, x0, row.t, row.s)  # type: ignore[arg-type]


@dataclass(frozen=True, repr=False)
class FirstHitting(DiscreteSolver):
    """Masks are lifted one at a time, at the times at which the exact process lifts them: no error of its own on any grid.

    Within a step every mask lifts at 1 - alpha = u (1 - alpha_t), u uniform, if that is above 1 - alpha_s; in the order of these times each
    is drawn from a new evaluation. Where one law serves the tied entries (the two of an edge) they lift together. A grid of one step costs
    as many evaluations as there are masks; each further step up to the number of them, since the chunk waits for its slowest sample. Reads
    one number back to the host per evaluation.                                                               [arXiv:2409.02908, alg. 1]
    """

    def refuses(self, process: Process) -> str | None:
        """Why it cannot run: a leaf has no mask, or the leaves have separate times.

        Args:
            process: a process; a leaf's answer counts for a joint one.
        """
        if isinstance(process, Joint) and not process.shared_time:
            return "first hitting lifts the masks of all leaves in the order of one time: it needs a joint process with shared_time"
        return super().refuses(process)

    def objection(self, process: Process) -> str | None:
        """A process without masks.

        Args:
            process: of one tensor.
        """
        if getattr(process, "mask", None) is None:
            return f"first hitting lifts masks, and {process!r} has none: take noise='absorbing'"
        return super().objection(process)

    def step(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """Masks lifted between t and s, latest time first."""
        process, space, known = model.process, model.denoiser.space, model.condition  # type: ignore[attr-defined]
        processes, single = by_leaf(process), not isinstance(x, dict)
        state, when, value = dict(as_leaves(x)), as_leaves(memory.noise()), dict(as_leaves(memory.noise()))
        numbers = {
            leaf: torch.arange(part[0].numel(), device=part.device).reshape(part.shape[1:]).expand_as(part) for leaf, part in state.items()
        }
        tied = as_leaves(space.project(numbers[""] if single else numbers, known))  # entries that are one hold one number
        hits = {}
        for leaf, own in processes.items():
            step = row_of(row, leaf)
            u = uniforms(when[leaf]).flatten(1).gather(1, tied[leaf].flatten(1)).reshape(state[leaf].shape)
            time = own.time_at_alpha(1 - u * float(own.sigma(step.t)))  # type: ignore[attr-defined,arg-type]
            lifted = (state[leaf] == own.mask) & (u * float(own.sigma(step.t)) > float(own.sigma(step.s)))  # type: ignore[attr-defined,arg-type]
            hits[leaf] = torch.where(lifted, time, -1.0)
            value[leaf] = uniforms(value[leaf])
        while True:
            latest = torch.stack([hit.flatten(1).amax(1) for hit in hits.values()]).amax(0)
            if not bool((latest >= 0).any()):
                return state[""] if single else state
            at: Any = torch.where(latest >= 0, latest, float(row.s))  # type: ignore[arg-type]
            belief = as_leaves(model(state[""] if single else state, at))
            for leaf, part in state.items():
                now = (hits[leaf] >= 0) & (hits[leaf] == latest.reshape(-1, *[1] * (part.ndim - 1)))
                state[leaf] = torch.where(now, draw(belief[leaf], value[leaf]), part)
                hits[leaf] = torch.where(now, -1.0, hits[leaf])
            projected = space.project(state[""] if single else state, known)
            state = dict(as_leaves(projected))


def as_leaves(state: State) -> Mapping[str, Tensor]:
    """A state as a dict of leaves; a tensor under the name ``""``."""
    return state if isinstance(state, dict) else {"": state}


def row_of(row: Row, leaf: str, c: tuple[Any, ...] = ()) -> Row:
    """The row as one leaf sees it, with that leaf's numbers.

    Args:
        row: of a joint plan, or of a single process.
        leaf: its name; ``""`` for a single process.
        c: the coefficients of the row.
    """
    numbers = {name: getattr(row, name) for name in ("t", "s", "alpha_t", "sigma_t", "alpha_s", "sigma_s", "rho_t", "rho_s")}
    return replace(row, c=c, **{name: value[leaf] if isinstance(value, Mapping) else value for name, value in numbers.items()})
