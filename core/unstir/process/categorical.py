"""Categories that are replaced, one by one, by draws of a stationary law m: uniform, the marginals of the data, or a mask.

    q(x_t | x_0) = alpha_t 1{x_t = x_0} + (1 - alpha_t) m(x_t)
    q(x_s | x_t, x_0) = [a 1{x_s = x_t} + (1 - a) m(x_t)] [alpha_s 1{x_s = x_0} + (1 - alpha_s) m(x_s)] / q(x_t | x_0),  a = alpha_t/alpha_s

With a belief p about x_0 the last line is averaged over x_0, w = p/q(x_t | x_0), W = sum w, which needs no K x K matrix:

    p(x_s | x_t) = [a 1{x_s = x_t} + (1 - a) m(x_t)] [alpha_s w(x_s) + (1 - alpha_s) m(x_s) W]

Putting the mean of x_0 into the line above instead would be wrong wherever q(x_t | x_0) depends on x_0.
References: Austin et al. 2021 (D3PM), arXiv:2107.03006; Vignac et al. 2023 (DiGress, marginals), arXiv:2209.14734; Shi et al. 2024 (MD4),
arXiv:2406.04329; Sahoo et al. 2024 (MDLM, SUBS), arXiv:2406.07524; Ou et al. 2025 (RADD), arXiv:2406.03736.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from unstir.errors import UserError
from unstir.noise import NoiseSource
from unstir.process.discrete import Discrete, check_schedule, spread_over, uniforms

_EDGE = 1e-8  # survival below which a state is pure noise, as for the solvers of continuous states


@dataclass(frozen=True)
class Categorical(Discrete):
    """Categories 0 ... K-1, replaced by draws of a stationary law; estimates are probabilities (batch, *shape, K).

    Args:
        categories: K, the number of categories of clean data.
        noise: the stationary law: ``absorbing`` (a further category K, the mask), ``uniform`` or ``marginal``.
        marginals: the law itself, K numbers that sum to 1; for ``marginal`` alone.
        schedule: survival against time, one of ``linear``, ``cosine``, ``log-linear``, ``md4-cosine``, ``pard-cosine``,
            ``exponential``.
        t_min, t_max: sampling interval.

    Raises:
        UnknownName: there is no such schedule.
        UserError: the numbers do not make a law.
    """

    categories: int
    noise: Literal["absorbing", "uniform", "marginal"] = "absorbing"
    marginals: tuple[float, ...] | None = None
    schedule: str = "linear"
    t_min: float = 1e-3
    t_max: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.categories, bool) or not isinstance(self.categories, int) or self.categories < 2:
            raise UserError(f"categories must be a whole number of at least 2, got {self.categories!r}")
        if self.noise not in ("absorbing", "uniform", "marginal"):
            raise UserError(f"the noise of Categorical is 'absorbing', 'uniform' or 'marginal', got {self.noise!r}")
        if (self.marginals is not None) != (self.noise == "marginal"):
            raise UserError("marginals are the stationary law of noise='marginal': give both or neither")
        if self.marginals is not None:
            object.__setattr__(self, "marginals", tuple(float(m) for m in self.marginals))
            fits = len(self.marginals) == self.categories and min(self.marginals) >= 0 and abs(math.fsum(self.marginals) - 1) < 1e-6
            if not fits:
                raise UserError(f"marginals must be {self.categories} numbers of at least 0 that sum to 1, got {self.marginals}")
        check_schedule(self.schedule, self.t_max)

    @property
    def pointed(self) -> bool:
        """Is the prior a single state, all masks?"""
        return self.noise == "absorbing"

    @property
    def states(self) -> int:
        """Number of values an entry may take: the categories, and the mask of ``absorbing``."""
        return self.categories + (self.noise == "absorbing")

    @property
    def mask(self) -> int | None:
        """The value that stands for the mask: K for ``absorbing``, else None."""
        return self.categories if self.noise == "absorbing" else None

    def stationary(self, like: Tensor) -> Tensor:
        """m (states,), in the floating dtype and on the device of ``like``."""
        return _stationary(self).to(device=like.device, dtype=like.dtype if like.is_floating_point() else torch.float64)

    def first(self, source: NoiseSource, shape: tuple[int, ...], stream: str) -> Tensor:
        """Independent draws of m (nothing is drawn for masks)."""
        if self.mask is not None:
            return torch.full((len(source), *shape), self.mask, dtype=torch.long)
        u = uniforms(source.draw(shape, torch.float64, stream=stream))
        return draw(self.stationary(u).expand(*u.shape, self.states), u)

    def perturb(self, x0: Tensor, t: Any, noise: Tensor, anchor: Any = None) -> Tensor:
        """x_0 with chance alpha, else a draw of m: one uniform decides both."""
        u, alpha = uniforms(noise), spread_over(self.alpha(t), x0)
        lost = torch.as_tensor(1.0 - alpha, dtype=torch.float64, device=x0.device)
        fresh = ((u - alpha) / lost.clamp(min=1e-300)).clamp(0, 1)
        new = draw(self.stationary(fresh).expand(*fresh.shape, self.states), fresh)
        return torch.where(u < alpha, x0.long(), new)

    def belief(self, x: Tensor, output: Tensor) -> Tensor:
        """Probabilities from logits; with masks the SUBS rule: the mask is never predicted and what is seen stays.

        Args:
            x: noisy state (batch, *shape).
            output: logits (batch, *shape, categories), or with a further column for the mask, which is dropped.

        Returns:
            Probabilities (batch, *shape, categories).

        Raises:
            UserError: the logits have another number of columns.
        """
        if output.shape[:-1] != x.shape or output.shape[-1] not in (self.categories, self.states):
            raise UserError(f"logits must have the shape {(*x.shape, self.categories)}, got {tuple(output.shape)}")
        probabilities = torch.softmax(
            output[..., : self.categories].float() if output.dtype.itemsize < 4 else output[..., : self.categories], -1
        )
        if self.mask is None:
            return probabilities
        return torch.where((x == self.mask)[..., None], probabilities, self.certain(x, probabilities))

    def certain(self, x0: Tensor, like: Tensor) -> Tensor:
        """One-hot rows; a mask in ``x0`` gives a row of zeros."""
        return functional.one_hot(x0, self.states)[..., : self.categories].to(like.dtype)

    def likelihood_weights(self, x: Tensor, x0: Tensor, alpha: float | Tensor) -> Tensor:
        """w = p(x_0 = k)/q(x_t | x_0 = k), (batch, *shape, states); 0 where x_t could not have come from k."""
        here = functional.one_hot(x, self.states).to(x0.dtype)
        alpha = spread_over(alpha, x, 1)
        likelihood = alpha * here + (1 - alpha) * self.stationary(x0)[x][..., None]
        believed = functional.pad(x0, (0, self.states - self.categories))
        return torch.where(likelihood > 0, believed / likelihood, torch.zeros_like(likelihood)).to(x0.dtype)

    def posterior(self, x: Tensor, x0: Tensor, alpha_t: float | Tensor, alpha_s: float | Tensor) -> Tensor:
        """p(x_s | x_t), averaged over the belief about x_0.

        Args:
            x: state at t (batch, *shape).
            x0: probabilities of the clean categories (batch, *shape, categories).
            alpha_t, alpha_s: survival at t and at the earlier time s; one for all, or one a sample.

        Returns:
            Probabilities (batch, *shape, states). A state that the belief holds impossible stays where it is.
        """
        w, m = self.likelihood_weights(x, x0, alpha_t), self.stationary(x0)
        here = functional.one_hot(x, self.states).to(x0.dtype)
        a, kept = spread_over(alpha_t / alpha_s, x, 1), spread_over(alpha_s, x, 1)
        law = (a * here + (1 - a) * m[x][..., None]) * (kept * w + (1 - kept) * m * w.sum(-1, keepdim=True))
        total = law.sum(-1, keepdim=True)
        return torch.where(total > 0, law / total.clamp(min=torch.finfo(law.dtype).tiny), here).to(x0.dtype)

    def ancestral(self, x: Tensor, x0: Tensor, alpha_t: float, alpha_s: float, u: Tensor) -> Tensor:
        """A draw of ``posterior``."""
        return draw(self.posterior(x, x0, alpha_t, alpha_s), u)

    def leap_law(self, x: Tensor, x0: Tensor, t: float, s: float) -> Tensor:
        """p(x_s | x_t) when every entry jumps at most once, with the belief about x_0 kept: stays with chance exp(-integral of its rate).

        The rates at tau between s and t, beta m(x) q_tau(v | x_0)/q_tau(x | x_0), beta = -alpha'/alpha, integrate in closed form. For masks
        this is ``posterior``; elsewhere it is of first order in the step. From pure noise, and to clean data, it is ``posterior``.

        Args:
            x: state at t (batch, *shape).
            x0: probabilities of the clean categories (batch, *shape, categories).
            t, s: the two times.

        Returns:
            Probabilities (batch, *shape, states).
        """
        (alpha_t, alpha_s), (lost_t, lost_s) = ([float(f(time)) for time in (t, s)] for f in (self.alpha, self.sigma))
        if alpha_t < _EDGE or lost_s == 0:
            return self.posterior(x, x0, alpha_t, alpha_s)
        m = self.stationary(x0)
        p, here = functional.pad(x0, (0, self.states - self.categories)), functional.one_hot(x, self.states).to(x0.dtype)
        long, own = math.log(alpha_s / alpha_t), m[x][..., None]
        back = math.log(lost_t / lost_s) + m * long  # x_0 = v
        away = (1 - own).clamp(min=1e-6)  # x_0 = x: no chance of it where x is the mask
        stay = long - torch.log((own + away * alpha_s) / (own + away * alpha_t)) / away
        px = p.gather(-1, x[..., None])
        rates = (p * back + px * m * stay + (1 - px - p) * m * long).clamp(min=0) * (own > 0) * (1 - here)
        total = rates.sum(-1, keepdim=True)
        jump = -torch.expm1(-total)
        return torch.where(total > 0, jump * rates / total.clamp(min=torch.finfo(rates.dtype).tiny), 0.0) + (1 - jump) * here

    def leap(self, x: Tensor, x0: Tensor, t: float, s: float, u: Tensor) -> Tensor:
        """A draw of ``leap_law``."""
        return draw(self.leap_law(x, x0, t, s), u)

    def concrete_score(self, x: Tensor, x0: Tensor, t: Any) -> Tensor:
        """p_t(x with this entry v)/p_t(x) for every v: what SEDD learns; alpha/(1 - alpha) p(x_0 = v) at a mask.

        Args:
            x: state (batch, *shape).
            x0: probabilities of the clean categories at ``x`` (batch, *shape, categories).
            t: one time, or one a sample.

        Returns:
            (batch, *shape, states); 1 at the state itself.
        """
        alpha = self.alpha(t)
        w, kept = self.likelihood_weights(x, x0, alpha), spread_over(alpha, x, 1)
        return (kept * w + (1 - kept) * self.stationary(x0) * w.sum(-1, keepdim=True)).to(x0.dtype)

    def rates(self, x: Tensor, x0: Tensor, t: Any) -> Tensor:
        """Rates of the reverse jumps from x to every other state, (batch, *shape, states), per unit of time; 0 to itself."""
        w, m = self.likelihood_weights(x, x0, self.alpha(t)), self.stationary(x0)
        alpha = self.alpha(t).clamp(min=1e-30)
        odds, loss = (spread_over(c, x, 1) for c in ((1 - alpha) / alpha, self.loss_rate(t)))
        away = 1 - functional.one_hot(x, self.states).to(x0.dtype)
        return (loss * m[x][..., None] * (w + odds * m * w.sum(-1, keepdim=True)) * away).to(x0.dtype)

    def divergence(self, x: Tensor, x0: Tensor, estimate: Tensor, t: Any) -> Tensor:
        """With masks -alpha'/(1 - alpha) times the cross-entropy where x is masked (MD4, MDLM, t-DCE); else summed over the jumps."""
        if self.mask is not None:
            chance = estimate.gather(-1, x0[..., None])[..., 0]
            weight = spread_over(self.weight(t), x)
            return torch.where(x == self.mask, -torch.log(chance.clamp(min=torch.finfo(chance.dtype).tiny)) * weight, 0.0).to(
                estimate.dtype
            )
        true, believed = self.rates(x, self.certain(x0, estimate), t), self.rates(x, estimate, t)
        return bregman(true, believed).sum(-1)

    def prior_divergence(self, x0: Tensor) -> Tensor:
        """KL(q(x_T | x_0) || m) of every entry, in nats; 0 for masks, which a bound follows down to no survival at all."""
        if self.pointed:
            return torch.zeros(x0.shape, dtype=torch.float64, device=x0.device)
        alpha = float(self.alpha(self.t_max))
        m = self.stationary(torch.empty(0, dtype=torch.float64, device=x0.device))
        law = alpha * functional.one_hot(x0, self.states).to(m) + (1 - alpha) * m
        return (torch.xlogy(law, law) - torch.xlogy(law, m)).sum(-1)


def bregman(rate: Tensor, believed: Tensor) -> Tensor:
    """r log(r/r') - r + r', with 0 log 0 = 0: the divergence of Poisson rates, in nats per unit of time."""
    tiny = torch.finfo(believed.dtype).tiny
    return torch.xlogy(rate, rate.clamp(min=tiny)) - torch.xlogy(rate, believed.clamp(min=tiny)) - rate + believed


def draw(law: Tensor, u: Tensor) -> Tensor:
    """Draws of categories by inversion of their distribution function.

    Args:
        law: probabilities (..., states).
        u: uniforms (...).

    Returns:
        Long tensor (...); a category of probability 0 is never drawn.
    """
    total = law.to(torch.float64).cumsum(-1)
    above = (u[..., None].to(total) * total[..., -1:]) >= total
    return above.sum(-1).clamp(max=law.shape[-1] - 1)


@lru_cache(maxsize=64)
def _stationary(process: Categorical) -> Tensor:
    with torch.inference_mode(False):
        if process.mask is not None:
            return functional.one_hot(torch.tensor(process.mask), process.states).to(torch.float64)
        law = process.marginals or (1 / process.categories,) * process.categories
        return torch.tensor(law, dtype=torch.float64) / math.fsum(law)
