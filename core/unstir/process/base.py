"""A process says how data become noise; all of it follows from three functions of time.

    x_t = alpha(t) x_0 + beta(t) y + sigma(t) eps,          rho = sigma/alpha
    dx  = [f x + (beta' - f beta) y] dt + g dw,             f = alpha'/alpha,   g^2 = (sigma^2)' - 2 f sigma^2

y is an anchor (the noisy speech, the blurred image); most processes have none. z_t = x_t - beta(t) y is the plain process
with the same alpha and sigma, so everything that samples works on z.      [Song et al. 2021, arXiv:2011.13456]
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from unstir.errors import UserError

Time = float | Tensor


class Process(ABC):
    """How data become noise: a frozen dataclass of closed forms in float64.

    A new process gives ``alpha`` and ``sigma`` (and ``beta`` when it has an anchor); ``rate``, ``diffusion``, ``pull`` and
    ``time_at_rho`` then follow numerically, and closed forms of them make it faster and exact at the ends. Every function of
    time takes a float or a tensor of any shape and returns a float64 tensor of that shape (no dimension for a float).

    Attributes:
        t_min: the time nearest the data from which sampling grids start (sigma is small there, not zero).
        t_max: the time of the prior.
        anchored: whether ``beta`` differs from 0, so that an anchor is needed.
        scalar: whether all coordinates of a state share one noise level, so that any solver of real states can step it.
        discrete: whether states are whole numbers (categories, counts), with a law of their own instead of ``alpha x_0 + sigma eps``.
    """

    t_min: float
    t_max: float
    anchored: ClassVar[bool] = False
    scalar: ClassVar[bool] = True
    discrete: ClassVar[bool] = False

    @property
    def t_zero(self) -> float:
        """The time at which sigma is exactly 0 (``-inf`` where sigma only tends to 0); earlier times mean the same."""
        return 0.0

    @property
    def clock(self) -> Process:
        """The process that grids in sigma/alpha are made on: itself, or the first leaf of a joint process."""
        return self

    def time(self, t: Time) -> Tensor:
        """``t`` as a float64 tensor, no earlier than ``t_zero``."""
        return torch.as_tensor(t, dtype=torch.float64).clamp(min=self.t_zero)

    @abstractmethod
    def alpha(self, t: Time) -> Tensor:
        """The scale of the data in x_t."""

    @abstractmethod
    def sigma(self, t: Time) -> Tensor:
        """The standard deviation of the noise in x_t."""

    def beta(self, t: Time) -> Tensor:
        """The scale of the anchor in x_t; 0 for a process without one."""
        return torch.zeros_like(self.time(t))

    def rho(self, t: Time) -> Tensor:
        """sigma/alpha: the noise level of x_t/alpha; infinite where alpha is 0."""
        return self.sigma(t) / self.alpha(t)

    def log_snr(self, t: Time) -> Tensor:
        """log(alpha^2/sigma^2), in nats; from +inf at the data down to -inf at pure noise."""
        return -2 * torch.log(self.rho(t))

    def rate(self, t: Time) -> Tensor:
        """f = alpha'/alpha, per unit of time."""
        return slope(self.alpha, self.time(t)) / self.alpha(t)

    def pull(self, t: Time) -> Tensor:
        """beta' - f beta: how strongly the drift pulls towards the anchor, per unit of time."""
        if not self.anchored:
            return torch.zeros_like(self.time(t))
        return slope(self.beta, self.time(t)) - self.rate(t) * self.beta(t)

    def diffusion(self, t: Time) -> Tensor:
        """g (never g squared), per square root of time."""
        squared = slope(lambda s: self.sigma(s).square(), self.time(t)) - 2 * self.rate(t) * self.sigma(t).square()
        return torch.sqrt(squared.clamp(min=0))

    def time_at_rho(self, rho: float | Tensor) -> Tensor:
        """The time at which sigma/alpha is ``rho``: the inverse of ``rho(t)``, for 0 and infinity too.

        Without a closed form it is found by bisection between ``t_zero`` and ``t_max`` and stops at these ends.
        """
        target = torch.as_tensor(rho, dtype=torch.float64)
        start = self.t_zero if math.isfinite(self.t_zero) else self.t_min
        low, high = torch.full_like(target, start), torch.full_like(target, self.t_max)
        while True:
            middle = (low + high) / 2
            if ((middle <= low) | (middle >= high)).all():
                break
            above = self.rho(middle) > target
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        found = torch.where(target <= self.rho(self.t_zero), torch.full_like(target, self.t_zero), high)
        return torch.where(target >= self.rho(self.t_max), torch.full_like(target, self.t_max), found)

    def label(self, t: Time) -> Tensor:
        """What a network trained on this process is told about the time."""
        return self.time(t)

    def drift(self, x: Float[Tensor, "batch *shape"], t: Time, anchor: Tensor | None = None) -> Float[Tensor, "batch *shape"]:
        """f x + (beta' - f beta) y: the drift of the forward equation.

        Args:
            x: noisy state.
            t: one time, or one a sample (batch,).
            anchor: y, of the shape of ``x`` (or broadcast to it); needed by an anchored process.

        Returns:
            Change of ``x`` per unit of time, in the dtype of ``x``.

        Raises:
            UserError: the process needs an anchor and there is none.
        """
        out = spread(self.rate(t), x) * x
        return out + spread(self.pull(t), x) * self.need(anchor) if self.anchored else out

    def prior(self, anchor: Tensor | None = None, t: float | None = None) -> tuple[Any, Any]:
        """Mean and standard deviation of the normal law that sampling starts from.

        Args:
            anchor: y; needed by an anchored process.
            t: the time of the start; ``t_max`` when absent.

        Returns:
            Mean (0.0, or a tensor of the anchor's shape) and standard deviation (a float).

        Raises:
            UserError: the process needs an anchor and there is none.
        """
        start = self.t_max if t is None else t
        mean = float(self.beta(start)) * self.need(anchor) if self.anchored else 0.0
        return mean, float(self.sigma(start))

    def perturb(self, x0: Any, t: Any, noise: Any, anchor: Any = None) -> Any:
        """x_t = alpha x_0 + beta y + sigma eps.

        Args:
            x0: clean state (batch, *shape).
            t: one time, or one a sample (batch,).
            noise: eps, of the shape of ``x0``, unit noise of the space.
            anchor: y; needed by an anchored process.

        Returns:
            Noisy state in the shape and dtype of ``x0``.

        Raises:
            UserError: the process needs an anchor and there is none.
        """
        x = spread(self.alpha(t), x0) * x0 + spread(self.sigma(t), x0) * noise
        return x + spread(self.beta(t), x0) * self.need(anchor) if self.anchored else x

    def need(self, anchor: Tensor | None) -> Tensor:
        """The anchor, or the sentence that says it is missing."""
        if anchor is None:
            raise UserError(f"{type(self).__name__} runs between data and an anchor: give the anchor as condition['anchor']")
        return anchor


def slope(f: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """f'(t), elementwise, by automatic differentiation."""
    with torch.enable_grad(), torch.inference_mode(False):
        t = t.detach().clone().requires_grad_()
        value = f(t).sum()
        (derivative,) = torch.autograd.grad(value, t) if value.requires_grad else (torch.zeros_like(t),)
    return derivative


def spread(coefficient: Tensor, x: Tensor) -> float | Tensor:
    """A coefficient ready to multiply ``x``: a float (one for all), or a tensor (batch, 1, ...) in the dtype and device of ``x``."""
    if coefficient.ndim == 0 and coefficient.device.type == "cpu":
        return coefficient.item()
    return coefficient.to(device=x.device, dtype=x.dtype).reshape(coefficient.shape + (1,) * (x.ndim - coefficient.ndim))
