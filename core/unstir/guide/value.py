"""Value and policy guidance, as planners use them: the state itself is moved, before a step or after it.

    before:  x_t <- x_t + scale v grad V(x_t, t),  so many times, then the solver's step
    after:   x_s <- x_s + scale v grad V(x_t, t):  the mean of the step is moved
    v = sigma_s^2 (1 - rho_s^2/rho_t^2), the variance of an ancestral step, or 1;   V of the state, or of the estimate x0 past the denoiser

With ancestral steps, scale 1 and V = log p(y | x_t) both are Bayes' rule in the limit of small steps.
Policy guidance moves the actions of a trajectory alone, before each step but the last, step k of N:

    a <- a + (1 - k/N + 0.3 sin(pi (k+1)/N)) w g/(|g| + 1e-8),     g = grad_a log pi(a | s)

A value as a guide, for any solver, is :class:`unstir.guide.loss.LossGuidance` on noisy states of the loss -V.
Reference: Janner et al. 2022 (Diffuser), arXiv:2205.09991; Dhariwal & Nichol 2021 (the mean moved), arXiv:2105.05233;
Nair et al. 2023 (Steered Diffusion: V = -L(x0), after), arXiv:2310.00224; Patel et al. 2024 (FlowChef: V = -L(x0), before),
arXiv:2412.00100; Jackson et al. 2024 (policy-guided diffusion), arXiv:2404.06356.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.operator.cg import inner
from unstir.steer.base import Moment, Steer
from unstir.steer.tilt import slope_of

if TYPE_CHECKING:
    from unstir.solver.base import Row
    from unstir.steer.constraint import Constraint

Place = Literal["before", "after"]


@dataclass(frozen=True, eq=False)
class Climb(Steer):
    """Moves the state up the gradient of a function of it, before each step or after it; subclasses say how far.

    Args:
        function: of noisy states, ``function(x, t)``, or of clean estimates, ``function(x0)``; differentiable, gives (batch,).
        scale: factor of every move; 0 asks nothing and moves nothing.
        place: ``"before"`` the step, or ``"after"`` it, on its mean.
        on: ``"noisy"`` or ``"clean"``: where the gradient is taken; that of a clean estimate moves the state past the denoiser.
        low: no moves in steps that begin below this sigma/alpha.
        high: none in steps that begin above this one.
        mask: which entries may move, (*shape) or (1, *shape), 1 or 0; all when absent.
        constraint: what is enforced after every move, for it to hold while the next gradient is taken.

    Raises:
        UserError: an option out of range.
    """

    function: Callable[..., Tensor]
    scale: float = 1.0
    place: Place = "before"
    on: Literal["noisy", "clean"] = "noisy"
    low: float = 0.0
    high: float = math.inf
    mask: Tensor | None = None
    constraint: Constraint | None = None
    needs_grad: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.place not in ("before", "after") or self.on not in ("noisy", "clean"):
            raise UserError(f"a climb is 'before' or 'after' a step, on 'noisy' or 'clean' states, got {self.place!r} and {self.on!r}")
        if not math.isfinite(self.scale) or not 0 <= self.low < self.high:
            raise UserError(f"a climb needs a finite scale and 0 <= low < high, got {self.scale}, {self.low} and {self.high}")

    @abstractmethod
    def length(self, gradient: Tensor, moment: Moment) -> Tensor:
        """The move that a gradient makes, without the scale."""

    @property
    def moves(self) -> int:
        """How many moves a step has."""
        return 1

    def acts(self, moment: Moment) -> bool:
        """Does it move anything in this step? Not where a solver goes back up."""
        row = moment.row
        return self.scale != 0 and row.rho_s < row.rho_t and self.low <= row.rho_t <= self.high  # type: ignore[operator]

    def before(self, x: Tensor, moment: Moment) -> Tensor:  # type: ignore[override]
        """The state moved; or a note of how far the end of the step will be."""
        if not isinstance(x, Tensor):
            raise UserError("a climb moves a tensor and the state is a dict of leaves")
        moment.memory.pop("move", None)
        if not self.acts(moment):
            return x
        given, total = x, torch.zeros_like(x)
        for _ in range(self.moves):
            move = self.scale * self.length(self._gradient(x, moment, x is given), moment)
            if self.place == "before":
                x = self._enforced(x + move, moment, moment.row.t)
            total = total + move
        if self.place == "after":
            moment.memory["move"] = total
        return x

    def after(self, x: Tensor, moment: Moment) -> Tensor:  # type: ignore[override]
        """The state with its mean moved, where that was noted."""
        return self._enforced(x + moment.memory["move"], moment, moment.row.s) if "move" in moment.memory else x

    def _enforced(self, x: Tensor, moment: Moment, t: Any) -> Tensor:
        return x if self.constraint is None else self.constraint.held(x, moment, t)

    def _gradient(self, x: Tensor, moment: Moment, fresh: bool) -> Tensor:
        t: Any = moment.row.t
        if self.on == "noisy":
            _, gradient = slope_of(lambda state: self.function(state, t), x)
        else:
            x0: Any = moment.look() if fresh else moment.look(x)
            _, gradient = slope_of(self.function, x0)
        return gradient if self.mask is None else gradient * self.mask.to(gradient)


@dataclass(frozen=True, eq=False)
class ValueGuidance(Climb):
    """Moves a state up the gradient of its value; arguments of :class:`Climb`, ``function`` being the value, and these.

    Diffuser's are ``scale=0.1, repeats=2``, before the step, with its conditions as ``constraint``. On clean states after the step it costs
    no evaluation of its own.

    Args:
        repeats: moves before each step, each with its own gradient; after a step there is one.
        by_variance: is the move scaled by the variance of the (ancestral) step? Otherwise ``scale`` alone says how far.

    Raises:
        UserError: as for :class:`Climb`, or ``repeats`` is not a number of moves.
    """

    repeats: int = 1
    by_variance: bool = True
    exactness: ClassVar[str] = "exact with ancestral steps, the true log p(y | x_t) and scale 1, as steps become finer; otherwise biased"

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.repeats, bool) or not isinstance(self.repeats, int) or self.repeats < 1:
            raise UserError(f"value guidance makes a whole number of moves, at least 1, got {self.repeats!r}")
        if self.place == "after" and self.repeats > 1:
            raise UserError(f"after a step there is one move, got repeats={self.repeats}: repeat with scale, or move before the step")

    @property
    def moves(self) -> int:
        """``repeats``."""
        return self.repeats

    def length(self, gradient: Tensor, moment: Moment) -> Tensor:
        """v times the gradient."""
        return variance_of(moment.row) * gradient if self.by_variance else gradient


@dataclass(frozen=True, eq=False)
class PolicyGuidance(Climb):
    """Moves the actions of a trajectory towards those a policy would take; arguments of :class:`Climb` and these.

    ``function`` is log pi(a | s) of whole states, ``scale`` is w, ``mask`` is 1 at the actions; ``on="clean"`` is its denoised guidance.

    Args:
        steps: N of the published weights, the number of steps; without it the weight is 1 all along.
        normalised: is the gradient of each sample brought to norm 1?

    Raises:
        UserError: as for :class:`Climb`, no mask, or ``steps`` is less than 1.
    """

    steps: int | None = None
    normalised: bool = True
    exactness: ClassVar[str] = "biased: towards p(trajectory) prod pi(a | s)^w, without the normaliser of its noisy versions"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mask is None or (self.steps is not None and self.steps < 1):
            raise UserError(f"policy guidance needs a mask that says where the actions are, and steps >= 1 if given, got {self.steps}")

    def acts(self, moment: Moment) -> bool:
        """Not before the last step."""
        return super().acts(moment) and not moment.last

    def length(self, gradient: Tensor, moment: Moment) -> Tensor:
        """(1 - k/N + 0.3 sin(pi (k+1)/N)) g/(|g| + 1e-8)."""
        if self.normalised:
            gradient = gradient / (inner(gradient, gradient).sqrt() + 1e-8).view(-1, *[1] * (gradient.ndim - 1))
        return gradient if self.steps is None else policy_weight(moment.row.index, self.steps) * gradient


def variance_of(row: Row) -> float:
    """The variance that an ancestral step draws, sigma_s^2 (1 - rho_s^2/rho_t^2).

    Args:
        row: the step.
    """
    return float(row.sigma_s**2 * (1 - (row.rho_s / row.rho_t) ** 2))  # type: ignore[operator]


def policy_weight(step: int, steps: int) -> float:
    """1 - k/N + 0.3 sin(pi (k+1)/N).

    Args:
        step: k, from 0.
        steps: N.
    """
    return 1 - step / steps + 0.3 * math.sin(math.pi * (step + 1) / steps)
