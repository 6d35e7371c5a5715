"""Diffusion bridges: a plain process held fixed at its far end, so that it runs from the data to the anchor (DDBM).

    dx = [f x + g^2 grad log p(x_T = y | x_t)] dt + g dw,     r = SNR_T/SNR_t = (rho_t/rho_T)^2     (f, g, rho, a, s: the plain process)
    alpha = a (1 - r),   beta = r a/a_T,   sigma = s sqrt(1 - r),       1/(sigma/alpha)^2 = 1/rho_t^2 - 1/rho_T^2

At t_max alpha = sigma = 0: all samples of one anchor are the same point there, so the first step must draw noise. An anchored process
runs on z = x - beta y, so every solver does the h-transform's drift without knowing of it.   [Zhou et al. 2024, arXiv:2309.16948, eq. 8]
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unstir.process.affine import EDM, VP
from unstir.process.base import Process, Time


class Bridge(Process):
    """A plain process (no anchor) conditioned on where it ends."""

    anchored: ClassVar[bool] = True

    @property
    @abstractmethod
    def base(self) -> Process:
        """The plain process."""

    @abstractmethod
    def rest(self, t: Time) -> Tensor:
        """1 - r, without cancellation near t_max."""

    def alpha(self, t: Time) -> Tensor:
        """a (1 - r)."""
        return self.base.alpha(t) * self.rest(t)

    def beta(self, t: Time) -> Tensor:
        """r a/a_T."""
        return (1 - self.rest(t)) * self.base.alpha(t) / self.base.alpha(self.t_max)

    def sigma(self, t: Time) -> Tensor:
        """s sqrt(1 - r)."""
        return self.base.sigma(t) * torch.sqrt(self.rest(t))

    def rho(self, t: Time) -> Tensor:
        """rho_t/sqrt(1 - r)."""
        return self.base.rho(t) / torch.sqrt(self.rest(t))

    def rate(self, t: Time) -> Tensor:
        """f - g^2/(a^2 rho_T^2 (1 - r))."""
        return self.base.rate(t) - self._attraction(t) / self.base.alpha(t)

    def pull(self, t: Time) -> Tensor:
        """g^2/(a a_T rho_T^2 (1 - r))."""
        return self._attraction(t) / self.base.alpha(self.t_max)

    def diffusion(self, t: Time) -> Tensor:
        """That of the plain process."""
        return self.base.diffusion(t)

    def time_at_rho(self, rho: float | Tensor) -> Tensor:
        """The time of the plain process at 1/sqrt(1/rho^2 + 1/rho_T^2)."""
        level = torch.rsqrt(torch.as_tensor(rho, dtype=torch.float64).pow(-2) + self.base.rho(self.t_max).pow(-2))
        return self.base.time_at_rho(level).clamp(max=self.t_max)

    def _attraction(self, t: Time) -> Tensor:
        base = self.base
        return base.diffusion(t).square() / (base.alpha(t) * base.rho(self.t_max).square() * self.rest(t))


@dataclass(frozen=True)
class DDBMVE(Bridge):
    """The bridge of the variance-exploding process, the noise level of which is the time.

    alpha = 1 - t^2/T^2, beta = t^2/T^2, sigma = t sqrt(1 - t^2/T^2), T = t_max

    Args:
        t_min, t_max: smallest and largest noise level of the plain process, in units of the state.
    """

    t_min: float = 0.002
    t_max: float = 80.0

    @property
    def base(self) -> Process:
        """EDM."""
        return EDM(self.t_min, self.t_max)

    def rest(self, t: Time) -> Tensor:
        """(1 - t/T)(1 + t/T)."""
        part = self.time(t) / self.t_max
        return (1 - part) * (1 + part)

    def label(self, t: Time) -> Tensor:
        """log(t)/4, as EDM's."""
        return self.base.label(t)


@dataclass(frozen=True)
class DDBMVP(Bridge):
    """The bridge of the variance-preserving process with a linear noise rate; DDBM's images have 0.1 and 2.

    r = (e^B - 1)/(e^B(T) - 1), B as VP's, T = t_max

    Args:
        beta_min, beta_max: noise rate at t = 0 and t = 1, per unit of time.
        t_min, t_max: sampling interval.
    """

    beta_min: float = 0.1
    beta_max: float = 2.0
    t_min: float = 1e-4
    t_max: float = 1.0

    @property
    def base(self) -> VP:
        """VP."""
        return VP(self.beta_min, self.beta_max, self.t_min, self.t_max)

    def rest(self, t: Time) -> Tensor:
        """e^B (e^(B(T) - B) - 1)/(e^B(T) - 1)."""
        base, t = self.base, self.time(t)
        left = (self.t_max - t) * (self.beta_min + (self.beta_max - self.beta_min) / 2 * (self.t_max + t))
        return torch.exp(base.integral(t)) * torch.expm1(left) / torch.expm1(base.integral(self.t_max))
