"""Event guidance: samples given that a number C(x0) is above zero, and how likely that is.

    x0 | x_t ~ N(D, V),  V = (sigma^2/alpha) dD/dx        (Tweedie)
    p(C > 0 | x_t) = Phi(C(D)/sqrt(v)),                     v = g^T V g,  g = grad C(D)
    D' = E[x0 | x_t, C > 0] = D + V g h(z)/sqrt(v),         z = C(D)/sqrt(v),  h = phi/Phi

the mean of a normal law cut by a half space; to the gradient of log Phi it adds nothing where V is constant, and, unlike that gradient,
it stays finite as v falls to 0: D moves to C = 0 at most. One product with J^T gives V g, hence v too.
Reference: Finzi et al. 2023 (user-defined event sampling), arXiv:2306.07526.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from unstir.errors import UserError
from unstir.guide.base import Guide, Guided
from unstir.guide.cfg import within
from unstir.guide.likelihood import Linearised, check_tensor, gain
from unstir.operator.cg import inner
from unstir.steer.base import Moment, Steer
from unstir.steer.tilt import Twist, slope_of

if TYPE_CHECKING:
    from unstir.denoiser.base import Denoiser
    from unstir.state import State

_LEAST = 1e-30  # a variance below it is none: the event has happened, or not


@dataclass(frozen=True, eq=False)
class EventGuidance(Guide):
    """Guide to the half space that an event cuts off, per sample; one evaluation of the denoiser and one transpose.

    Args:
        event: C of clean states, differentiable; gives (batch,). The event is C > 0.
        low: guide from this sigma/alpha on.
        high: guide up to this sigma/alpha.

    Raises:
        UserError: an empty interval.
    """

    event: Callable[[Tensor], Tensor]
    low: float = 0.0
    high: float = math.inf
    needs_grad: ClassVar[bool] = True
    exactness: ClassVar[str] = "exact for normal data and a linear event as steps become finer; biased where x0 given x_t has several modes"

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high:
            raise UserError(f"event guidance needs 0 <= low < high, got {self.low} and {self.high}")

    def estimate(self, denoiser: Denoiser, x: Tensor, t: Any, condition: Mapping[str, Any] | None) -> Tensor:  # type: ignore[override]
        """The guided estimate; nothing in it remembers a gradient."""
        check_tensor(x, self)
        active = within(denoiser.process, t, self.low, self.high)
        if not bool(active.any()):
            return denoiser(x, t, condition)
        with torch.inference_mode(False), torch.no_grad():
            x0, value, moved, variance = self._normal(denoiser, x, t, condition)
            there = (variance > _LEAST) & active.to(x.device)
            root = torch.where(there, variance, 1.0).sqrt()
            step = torch.where(there, _hazard(value / root) / root, 0.0)
            return x0 + step.to(x0.dtype).view(-1, *[1] * (x.ndim - 1)) * moved

    def probability(
        self, denoiser: Denoiser, x: Float[Tensor, "batch *shape"], t: Any, condition: Mapping[str, Any] | None = None
    ) -> Float[Tensor, " batch"]:
        """p(C > 0 | x_t) of each state, by the normal approximation; its mean over draws of x_t estimates P(E).

        Args:
            denoiser: without this guide.
            x: noisy states.
            t: a float, or (batch,).
            condition: what the denoiser is given.
        """
        with torch.inference_mode(False), torch.no_grad():
            _, value, _, variance = self._normal(denoiser, x, t, condition)
            root = torch.where(variance > _LEAST, variance, 1.0).sqrt()
            return torch.where(variance > _LEAST, torch.special.ndtr(value / root), (value > 0).to(value.dtype))

    def twist(self, denoiser: Denoiser, slack: float = 0.0) -> Twist:
        """log p(C > 0 | x_t), differentiable: what :class:`unstir.steer.Tilt` repairs the approximation with, by weighted particles.

        At sigma = 0 it is 0 inside and -inf outside. Its gradient goes through the denoiser twice.

        Args:
            denoiser: without this guide.
            slack: standard deviation added to that of C, which keeps the twist from being steep where the approximation is too sure.
        """

        def log_probability(x: Tensor, t: Any, condition: Mapping[str, Any] | None) -> Tensor:
            if float(denoiser.process.sigma(t)) == 0:
                value = self.event(x / float(denoiser.process.alpha(t)))
                return torch.where(value > 0, 0.0, -math.inf).to(value.dtype)
            with torch.enable_grad():
                x = x if x.requires_grad else x.detach().clone().requires_grad_()
                x0 = denoiser(x, t, condition)
                value = self.event(x0)
                (slope,) = torch.autograd.grad(value.sum(), x0, create_graph=True)
                (pulled,) = torch.autograd.grad(x0, x, slope, create_graph=True)
                variance = inner(slope, gain(denoiser.process, x, t) * pulled).clamp(min=_LEAST) + slack**2
                return torch.special.log_ndtr(value / variance.sqrt())

        return log_probability

    def _normal(self, denoiser: Denoiser, x: Tensor, t: Any, condition: Mapping[str, Any] | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """D, C(D), V g and v; numbers a sample in float64."""
        at = Linearised(denoiser, x, t, condition)
        value, slope = slope_of(self.event, at.x0)
        moved = gain(denoiser.process, x, t) * at.pull(slope)
        return at.x0, value.double(), moved, inner(slope.double(), moved.double())


@dataclass(frozen=True, eq=False)
class EventProbability(Steer):
    """Changes nothing; reports p(E | x_t) of each sample as ``Samples.info["event_probability"]``, whose mean estimates P(E).

    Beside the guide itself only the first state still follows the law without it; without the guide any level will do, and the estimate
    tends to the share of samples in E, with a smaller variance, as the level falls.

    Args:
        guide: knows the event; may be one of the run's guides or not.
        level: report at the first state whose sigma/alpha is at most this; the first of all when infinite.

    Raises:
        UserError: a negative level.
    """

    guide: EventGuidance
    level: float = math.inf
    needs_grad: ClassVar[bool] = True
    exactness: ClassVar[str] = "changes nothing; the estimate is exact for normal data and linear events, and as the level falls to 0"

    def __post_init__(self) -> None:
        if not self.level >= 0:
            raise UserError(f"the level of an event's probability is a sigma/alpha of at least 0, got {self.level}")

    def before(self, x: State, moment: Moment) -> State:
        """The state as it is."""
        if moment.row.rho_t <= self.level and "done" not in moment.memory:  # type: ignore[operator]
            if not isinstance(x, Tensor):
                raise UserError("the probability of an event is that of a tensor, and the state is a dict of leaves")
            moment.memory["done"] = True
            free = _without(moment.denoiser, self.guide)
            moment.report("event_probability", self.guide.probability(free, x, moment.row.t, moment.condition))
        return x

    def after(self, x: State, moment: Moment) -> State:
        """The state as it is."""
        return x


def _without(denoiser: Denoiser, guide: Guide) -> Denoiser:
    """What is under a guide, or the denoiser itself where that guide is not at work."""
    at = denoiser
    while isinstance(at, Guided):
        if at.guide is guide:
            return at.denoiser
        at = at.denoiser
    return denoiser


def _hazard(z: Tensor) -> Tensor:
    """phi(z)/Phi(z), for z of any size."""
    return math.sqrt(2 / math.pi) / torch.special.erfcx(-z / math.sqrt(2))
