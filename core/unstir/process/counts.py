"""Counts that thin out towards 0 and are built up again, birth by birth.

    Blackout   x_t ~ Binomial(x_0, alpha_t)              x_s - x_t ~ Binomial(x_0 - x_t, (alpha_s - alpha_t)/(1 - alpha_t))
    Thinning   x_t ~ Poisson(scale alpha_t x_0)          x_s - x_t ~ Poisson(scale (alpha_s - alpha_t) x_0)

Both bridges hold for the true x_0. A network knows its mean alone, so the sampled law is exact in the limit of many steps (each step then
sees at most one birth, whose rate is linear in x_0). Draws are made by inversion, on the host, from one uniform an entry.
References: Santos et al. 2023 (Blackout diffusion), arXiv:2305.11089; Chen & Zhou 2023 (Learning to jump), arXiv:2305.18375.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.noise import NoiseSource
from unstir.process.categorical import bregman
from unstir.process.discrete import Discrete, check_schedule, spread_over, uniforms


class Counts(Discrete):
    """A process of counts (batch, *shape), all 0 at its end; estimates are means of the clean counts, of the shape of the state."""

    @property
    def pointed(self) -> bool:
        """The prior is the count 0."""
        return True

    def first(self, source: NoiseSource, shape: tuple[int, ...], stream: str) -> Tensor:
        """Zeros; nothing is drawn."""
        return torch.zeros(len(source), *shape, dtype=torch.long)

    def certain(self, x0: Tensor, like: Tensor) -> Tensor:
        """The count itself."""
        return x0.to(like.dtype)

    @abstractmethod
    def rates(self, x: Tensor, x0: Tensor, t: Any) -> Tensor:
        """The rate of births on the way back, (batch, *shape), per unit of time.

        Args:
            x: counts at t.
            x0: mean of the clean counts.
            t: one time, or one a sample.
        """

    @abstractmethod
    def birth_law(self, x: Tensor, x0: Tensor, alpha_t: float, alpha_s: float, size: int) -> Tensor:
        """Probabilities of 0, 1, ..., size - 1 births between t and the earlier time s, (batch, *shape, size).

        Args:
            x: counts at t.
            x0: mean of the clean counts.
            alpha_t, alpha_s: survival at t and s.
            size: number of probabilities.
        """

    def divergence(self, x: Tensor, x0: Tensor, estimate: Tensor, t: Any) -> Tensor:
        """Bregman's divergence of the birth rates: r log(r/r') - r + r'."""
        return bregman(self.rates(x, self.certain(x0, estimate), t), self.rates(x, estimate, t))

    def prior_divergence(self, x0: Tensor) -> Tensor:
        """0: a bound follows the counts down to no survival at all, where both laws are 0."""
        return torch.zeros(x0.shape, dtype=torch.float64, device=x0.device)

    def leap(self, x: Tensor, x0: Tensor, t: float, s: float, u: Tensor) -> Tensor:
        """Births ~ Poisson(rate at t times the step); to clean data as ``ancestral``."""
        if float(self.sigma(s)) == 0:
            return self.ancestral(x, x0, float(self.alpha(t)), 1.0, u)
        return x + poisson(self.rates(x, x0, t) * (t - s), u)


@dataclass(frozen=True)
class Blackout(Counts):
    """Pure death: every unit of a count dies alone, x_t ~ Binomial(x_0, alpha_t); the way back is births, never more than x_0.

    Births of a step ~ Binomial(n, p) with n = E[x_0 | x_t] - x_t, p = (alpha_s - alpha_t)/(1 - alpha_t); of a fractional n the last part of
    a unit is born with its share of p, so that the mean is kept and no count exceeds the estimate rounded up.

    Args:
        schedule: survival against time; ``exponential`` is the paper's, rate 1 of death per unit and time.
        t_min, t_max: sampling interval; at 15, the paper's, one unit in three million is alive.

    Raises:
        UnknownName: there is no such schedule.
    """

    schedule: str = "exponential"
    t_min: float = 1e-3
    t_max: float = 15.0

    def __post_init__(self) -> None:
        check_schedule(self.schedule, self.t_max)

    def perturb(self, x0: Tensor, t: Any, noise: Tensor, anchor: Any = None) -> Tensor:
        """Binomial(x_0, alpha_t)."""
        return binomial(x0, torch.as_tensor(spread_over(self.alpha(t), x0), dtype=torch.float64), uniforms(noise))

    def belief(self, x: Tensor, output: Tensor) -> Tensor:
        """x_t + softplus(output): the network says how many have died, never fewer than none."""
        return x + torch.nn.functional.softplus(output)

    def rates(self, x: Tensor, x0: Tensor, t: Any) -> Tensor:
        """-alpha'/(1 - alpha) (x_0 - x_t), which is (x_0 - x_t) e^{-t}/(1 - e^{-t}) for the exponential schedule."""
        return (spread_over(self.weight(t), x) * (x0 - x).clamp(min=0)).to(x0.dtype)

    def ancestral(self, x: Tensor, x0: Tensor, alpha_t: float, alpha_s: float, u: Tensor) -> Tensor:
        """The binomial bridge."""
        missing = (x0 - x).to(torch.float64).clamp(min=0)
        missing = torch.where((missing - missing.round()).abs() < 1e-5, missing.round(), missing)  # so that float32 means whole numbers
        p, whole = (alpha_s - alpha_t) / (1 - alpha_t), missing.floor()
        share = (missing - whole) * p
        extra = u < share
        inner = torch.where(extra, u / share.clamp(min=1e-300), (u - share) / (1 - share).clamp(min=1e-300)).clamp(0, 1)
        return x + binomial(whole, torch.full_like(inner, p), inner) + extra

    def birth_law(self, x: Tensor, x0: Tensor, alpha_t: float, alpha_s: float, size: int) -> Tensor:
        """Binomial(floor n, p) and the fractional part of a unit."""
        missing, p = (x0 - x).to(torch.float64).clamp(min=0)[..., None], (alpha_s - alpha_t) / (1 - alpha_t)
        whole, k = missing.floor(), torch.arange(size, dtype=torch.float64, device=x.device)
        chosen = torch.lgamma(whole + 1) - torch.lgamma(k + 1) - torch.lgamma((whole - k).clamp(min=0) + 1)
        dead = torch.tensor(1 - p, dtype=torch.float64)
        law = torch.exp(chosen + torch.xlogy(k, torch.tensor(p, dtype=torch.float64)) + torch.xlogy((whole - k).clamp(min=0), dead)) * (
            k <= whole
        )
        share = (missing - whole) * p
        return (1 - share) * law + share * torch.nn.functional.pad(law, (1, 0))[..., :-1]


@dataclass(frozen=True)
class Thinning(Counts):
    """Poisson thinning: x_t ~ Poisson(scale alpha_t x_0), for sparse, skewed, heavy-tailed data of at least 0; thickened by Poisson jumps.

    Between the prior and the data states are in units of ``scale x_0``; the last step, to sigma = 0, gives the estimate of x_0, rounded.

    Args:
        scale: counts per unit of data: larger ones blur less and need more jumps.
        schedule: survival against time.
        t_min, t_max: sampling interval.

    Raises:
        UnknownName: there is no such schedule.
        UserError: ``scale`` is not positive.
    """

    scale: float = 1.0
    schedule: str = "linear"
    t_min: float = 1e-3
    t_max: float = 1.0

    def __post_init__(self) -> None:
        check_schedule(self.schedule, self.t_max)
        if not 0 < self.scale < math.inf:
            raise UserError(f"scale must be positive, got {self.scale}")

    def perturb(self, x0: Tensor, t: Any, noise: Tensor, anchor: Any = None) -> Tensor:
        """Poisson(scale alpha_t x_0)."""
        return poisson(self.scale * spread_over(self.alpha(t), x0) * x0, uniforms(noise))

    def belief(self, x: Tensor, output: Tensor) -> Tensor:
        """softplus(output)."""
        return torch.nn.functional.softplus(output)

    def rates(self, x: Tensor, x0: Tensor, t: Any) -> Tensor:
        """-scale alpha' x_0."""
        return (self.scale * spread_over(self.loss_rate(t), x) * x0).to(x0.dtype)

    def ancestral(self, x: Tensor, x0: Tensor, alpha_t: float, alpha_s: float, u: Tensor) -> Tensor:
        """A Poisson jump; the rounded estimate where alpha_s is 1."""
        if alpha_s == 1:
            return x0.round().long()
        return x + poisson(self.scale * (alpha_s - alpha_t) * x0, u)

    def birth_law(self, x: Tensor, x0: Tensor, alpha_t: float, alpha_s: float, size: int) -> Tensor:
        """Poisson(scale (alpha_s - alpha_t) x_0)."""
        return poisson_law(self.scale * (alpha_s - alpha_t) * x0, size)


def poisson_law(mean: Tensor, size: int) -> Tensor:
    """Probabilities of 0, 1, ..., size - 1 under Poisson(mean).

    Args:
        mean: (batch, *shape).
        size: number of probabilities.

    Returns:
        (batch, *shape, size), float64.
    """
    mean, k = mean.to(torch.float64)[..., None], torch.arange(size, dtype=torch.float64, device=mean.device)
    return torch.exp(torch.xlogy(k, mean) - mean - torch.lgamma(k + 1))


def binomial(n: Tensor, p: Tensor, u: Tensor) -> Tensor:
    """Binomial(n, p) by inversion of its distribution function.

    Args:
        n: numbers of trials (batch, *shape).
        p: chances of success, broadcast to ``n``.
        u: uniforms of the shape of ``n``.

    Returns:
        Long tensor of the shape of ``n``.
    """
    from scipy.stats import binom  # a quarter of a second to import

    return _inverted(binom.ppf, u, n, p)


def poisson(mean: Tensor, u: Tensor) -> Tensor:
    """Poisson(mean) by inversion of its distribution function.

    Args:
        mean: (batch, *shape).
        u: uniforms of that shape.

    Returns:
        Long tensor of that shape.
    """
    from scipy.stats import poisson as law

    return _inverted(law.ppf, u, mean)


def _inverted(quantile: Callable[..., Any], u: Tensor, *parameters: Tensor) -> Tensor:
    found = quantile(u.clamp(max=1 - 2**-53).cpu().numpy(), *(value.to("cpu", torch.float64).numpy() for value in parameters))
    return torch.from_numpy(found).to(u.device).clamp(min=0).long()  # the quantile of u = 0 is -1
