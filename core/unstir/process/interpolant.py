"""Stochastic interpolants: a path between two laws, with noise of its own on the way.

    x_t = alpha x_0 + beta x_1 + gamma z,        gamma = sqrt(a t (1 - t)), 0 at both ends
    velocity b = alpha' E[x_0|x_t] + beta' E[x_1|x_t] + gamma' E[z|x_t],       score = -E[z|x_t]/gamma
    either way in time:  dx = b dt,   or, from x_1 to x_0,   dx = (b - epsilon score) dt + sqrt(2 epsilon) dw   for any epsilon >= 0

Where x_1 is known (paired data) it is the anchor, and every solver runs on z = x - beta x_1. Where only its law is known, both ends are
estimated, and :class:`unstir.denoiser.Transport` makes a denoiser of velocity and score.     [Albergo et al. 2023, arXiv:2303.08797]
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from unstir.errors import UserError
from unstir.process.base import Process, Time, slope, spread

_QUARTER = math.pi / 2


@dataclass(frozen=True)
class Interpolant(Process):
    """A stochastic interpolant from the data x_0 to the anchor x_1.

    path "linear": alpha = 1 - t, beta = t;   "trigonometric": alpha = cos(pi t/2), beta = sin(pi t/2);   sigma = gamma = sqrt(a t (1 - t))

    At t = 1 alpha = sigma = 0: the first step must draw noise.

    Args:
        a: the squared noise in the middle is a/4, in squared units of the state.
        path: how the ends are mixed.
        t_min, t_max: sampling interval.

    Raises:
        UserError: ``a`` is not positive, or there is no such path.
    """

    anchored: ClassVar[bool] = True
    a: float = 2.0
    path: Literal["linear", "trigonometric"] = "linear"
    t_min: float = 1e-4
    t_max: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.a < math.inf:
            raise UserError(f"a of Interpolant must be positive and finite, got {self.a}; without noise it is a rectified flow")
        if self.path not in ("linear", "trigonometric"):
            raise UserError(f"the path of Interpolant is 'linear' or 'trigonometric', got {self.path!r}")

    def alpha(self, t: Time) -> Tensor:
        """1 - t, or sin(pi (1 - t)/2)."""
        left = 1 - self.time(t)
        return left if self.path == "linear" else torch.sin(_QUARTER * left)

    def beta(self, t: Time) -> Tensor:
        """t, or sin(pi t/2)."""
        t = self.time(t)
        return t if self.path == "linear" else torch.sin(_QUARTER * t)

    def sigma(self, t: Time) -> Tensor:
        """gamma = sqrt(a t (1 - t))."""
        t = self.time(t)
        return torch.sqrt(self.a * t * (1 - t))

    def rho(self, t: Time) -> Tensor:
        """sqrt(a t/(1 - t)), divided by alpha/(1 - t) on the trigonometric path; infinite at t = 1."""
        t = self.time(t)
        straight = torch.sqrt(self.a * t / (1 - t))
        return straight if self.path == "linear" else straight / (_QUARTER * torch.sinc((1 - t) / 2))

    def rate(self, t: Time) -> Tensor:
        """-1/(1 - t), or -(pi/2) / tan(pi (1 - t)/2)."""
        left = 1 - self.time(t)
        return -1 / left if self.path == "linear" else -_QUARTER / torch.tan(_QUARTER * left)

    def pull(self, t: Time) -> Tensor:
        """1/(1 - t), or (pi/2)/cos(pi t/2)."""
        left = 1 - self.time(t)
        return 1 / left if self.path == "linear" else _QUARTER / torch.sin(_QUARTER * left)

    def diffusion(self, t: Time) -> Tensor:
        """sqrt(a (1 - 2 t - 2 f t (1 - t))); sqrt(a) on the linear path, whose z is a Brownian bridge."""
        t = self.time(t)
        if self.path == "linear":
            return torch.full_like(t, math.sqrt(self.a))
        return torch.sqrt(self.a * (1 - 2 * t - 2 * self.rate(t) * t * (1 - t)))

    def time_at_rho(self, rho: float | Tensor) -> Tensor:
        """1/(1 + a/rho^2) on the linear path; by bisection on the other."""
        if self.path == "trigonometric":
            return super().time_at_rho(rho)
        return 1 / (1 + self.a / torch.as_tensor(rho, dtype=torch.float64).square())

    def noise(self, x: Float[Tensor, "batch *shape"], t: Time, x0: Tensor, x1: Tensor) -> Float[Tensor, "batch *shape"]:
        """E[z|x_t] = (x - alpha E[x_0|x_t] - beta E[x_1|x_t])/gamma, and 0 at both ends, where z is forgotten.

        Args:
            x: state (batch, *shape).
            t: one time, or one a sample (batch,).
            x0, x1: estimates of the two ends, E[x_0|x_t] and E[x_1|x_t].

        Returns:
            The expected noise (batch, *shape).
        """
        gamma = self.sigma(t)
        per = torch.where(gamma > 0, 1 / gamma, torch.zeros_like(gamma))
        return (x - spread(self.alpha(t), x) * x0 - spread(self.beta(t), x) * x1) * spread(per, x)

    def velocity(self, x: Float[Tensor, "batch *shape"], t: Time, x0: Tensor, x1: Tensor) -> Float[Tensor, "batch *shape"]:
        """b = alpha' E[x_0|x_t] + beta' E[x_1|x_t] + gamma' E[z|x_t].

        At the ends, where gamma' is infinite and E[z|x_t] zero, their product is left out: an error of one step of an Euler method.

        Args:
            x: state (batch, *shape).
            t: one time, or one a sample (batch,).
            x0, x1: estimates of the two ends.

        Returns:
            Change of ``x`` per unit of time (batch, *shape).
        """
        t = self.time(t)
        on_x0, on_x1 = (spread(slope(f, t), x) for f in (self.alpha, self.beta))
        gamma = self.sigma(t)
        growth = torch.where(gamma > 0, self.a * (1 - 2 * t) / (2 * gamma), torch.zeros_like(gamma))  # gamma'
        return on_x0 * x0 + on_x1 * x1 + spread(growth, x) * self.noise(x, t, x0, x1)

    def score(self, x: Float[Tensor, "batch *shape"], t: Time, x0: Tensor, x1: Tensor) -> Float[Tensor, "batch *shape"]:
        """-E[z|x_t]/gamma, and 0 at the ends, where it cannot be had from the estimates.

        Args:
            x: state (batch, *shape).
            t: one time, or one a sample (batch,).
            x0, x1: estimates of the two ends.

        Returns:
            grad log p(x_t), of the shape of ``x``.
        """
        gamma = self.sigma(t)
        per = torch.where(gamma > 0, 1 / gamma, torch.zeros_like(gamma))
        return -spread(per, x) * self.noise(x, t, x0, x1)
