"""Feynman-Kac steering: particles resampled by potentials of an intermediate reward, whose product is exp(lambda r(x_0)).

    v_t = lambda r(x0_t),   x0_t the estimate at time t;     log G_t = v_t - v_(t+1)      "difference"
                                                             log G_t = max_(u >= t) v_u   "max"
                                                             log G_t = sum_(u >= t) v_u   "sum"
    at the end  log G_0 = v_0 - sum of all log G before, with v_0 = lambda r(x_0): the product telescopes for each of them.

Any reward will do: nothing is differentiated. The target is p(x_0) exp(lambda r(x_0)); log Z estimates log E_p exp(lambda r).
Reference: Singhal et al. 2025, "A General Framework for Inference-time Scaling and Steering of Diffusion Models", arXiv:2501.06848.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.grid import check_steps
from unstir.steer.base import Moment
from unstir.steer.particles import ParticleSteer, Reward, rewarded

if TYPE_CHECKING:
    from unstir.state import State

_POTENTIALS = ("difference", "max", "sum")


@dataclass(frozen=True, eq=False)
class FK(ParticleSteer):
    """Feynman-Kac steering by a reward of the clean estimate; the solver must draw noise, or copies stay copies.

    With ``threshold=0`` only the last weights count: importance resampling, and best-of-K as ``scale`` grows.

    Args:
        reward: r(x0, condition), x0 clean states batch first; gives (batch,). -inf forbids a state.
        scale: lambda.
        potential: ``"difference"``, ``"max"`` or ``"sum"``; they differ in when particles die, not in the target.
        every: weigh before every so-many-th step; the reward is asked as often.
        draws: clean states drawn of categorical leaves for one value, while there is noise.
        particles: K, consecutive samples of one problem.
        threshold: resample where ESS is below this share of K.

    Raises:
        UserError: an option out of range.
    """

    reward: Reward
    scale: float = 1.0
    potential: str = "difference"
    every: int = 1
    draws: int = 1
    exactness: ClassVar[str] = "exact for the sampler's own law times exp(lambda r), as particles grow"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_steps(self.every)
        check_steps(self.draws)
        if self.potential not in _POTENTIALS or not math.isfinite(self.scale):
            raise UserError(f"FK takes a finite scale and a potential of {', '.join(_POTENTIALS)}, got {self.scale} and {self.potential!r}")

    def before(self, x: State, moment: Moment) -> State:
        """The state, resampled by this time's potential."""
        if moment.row.index % self.every:
            return x
        return self.weighted(x, moment, self.log_potential(rewarded(self.reward, x, moment, self.scale, self.draws), moment))

    def after(self, x: State, moment: Moment) -> State:
        """At the end, the state resampled by what makes the product of all potentials exp(lambda r(x_0))."""
        if not moment.last:
            return x
        value = rewarded(self.reward, x, moment, self.scale, self.draws)
        return self.weighted(x, moment, value - moment.memory.get("spent", 0.0), final=True)

    def log_potential(self, value: Tensor, moment: Moment) -> Tensor:
        """log G_t of each particle; what it has spent so far follows its line of descent."""
        notes = moment.memory
        if self.potential == "difference":
            log_g = value - notes.get("spent", 0.0)
        elif self.potential == "sum":
            log_g = notes["running"] = notes.get("running", 0.0) + value
        else:
            log_g = notes["running"] = torch.maximum(notes.get("running", value), value)
        notes["spent"] = notes.get("spent", 0.0) + log_g
        return log_g
