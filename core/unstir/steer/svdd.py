"""Soft-value decoding: of M proposals for the next state, one is kept, by its value.

    x_s^(1..M) ~ p(x_s | x_t),     keep i with probability softmax_i(v_s(x_s^(i))/alpha),     v_s = r(x0_s) or a value function

As M grows this samples p(x_s | x_t) exp(v_s/alpha)/norm, hence p(x_0) exp(r(x_0)/alpha) for the soft value
v_s = alpha log E[exp(r/alpha) | x_s]; r(x0_s) is its first approximation. Nothing is differentiated; discrete states too.
Reference: Li et al. 2024, "Derivative-Free Guidance in Continuous and Discrete Diffusion Models with Soft Value-Based Decoding",
arXiv:2408.08252.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.grid import check_steps
from unstir.steer.base import Moment, Steer
from unstir.steer.particles import Reward, check_alive, check_particles, flat, rewarded, uniforms

if TYPE_CHECKING:
    from unstir.state import State

Value = Callable[[Any, Any, Mapping[str, Any] | None], Tensor]


@dataclass(frozen=True, eq=False)
class SVDD(Steer):
    """Keep one of M proposals at every step; the M samples of a problem end as copies of one, so take every M-th.

    Args:
        reward: r(x0, condition), x0 clean states batch first; gives (batch,).
        particles: M, proposals a step; 1 leaves the base law.
        alpha: temperature, in units of the reward; infinity leaves the base law.
        value: v(x_t, t, condition) of noisy states, gives (batch,): a value function learned by regression; the reward of the denoiser's
            estimate (the posterior mean) when absent.
        draws: clean states drawn of categorical leaves for one value, while there is noise.

    Raises:
        UserError: an option out of range.
    """

    reward: Reward
    particles: int = 16
    alpha: float = 1.0
    value: Value | None = None
    draws: int = 1
    exactness: ClassVar[str] = "exact for p exp(r/alpha) as proposals grow, if the value is the soft value; by the posterior mean, biased"

    def __post_init__(self) -> None:
        check_particles(self.particles)
        check_steps(self.draws)
        if not self.alpha > 0:
            raise UserError(f"alpha of SVDD is a temperature above 0, got {self.alpha}")

    def before(self, x: State, moment: Moment) -> State:
        """M copies of the proposal that was kept."""
        if self.value is not None:
            return self.kept(moment, self.value(x, moment.row.t, moment.condition).detach().double() / self.alpha)
        return self.kept(moment, rewarded(self.reward, x, moment, 1 / self.alpha, self.draws))

    def after(self, x: State, moment: Moment) -> State:
        """At the end, the choice by the reward itself."""
        return self.kept(moment, rewarded(self.reward, x, moment, 1 / self.alpha, self.draws)) if moment.last else x

    def kept(self, moment: Moment, log_weights: Tensor) -> State:
        """Every place of a problem gets the one that was drawn."""
        grouped = log_weights.view(-1, self.particles)
        check_alive(grouped, moment)
        cumulated = torch.softmax(grouped, 1).cumsum(1)
        point = uniforms(moment, self.particles).to(cumulated.device)[:, None] * cumulated[:, -1:]
        chosen = torch.searchsorted(cumulated, point, right=True).clamp_(max=self.particles - 1)
        return moment.resample(flat(chosen.expand_as(grouped)))
