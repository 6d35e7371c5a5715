"""The variational bound of a chain, term by term, and the reverse variance that is learned from it (DDPM, IDDPM).

    q(x_s|x_t, x_0) = N(a x_t + b x_0, small),      p(x_s|x_t) = N(a x_t + b D(x_t, t), Sigma),    log Sigma between log small and log large
    -log p(x_0) <= KL(q(x_T|x_0)|prior) + sum_t KL(q(x_s|x_t, x_0)|p(x_s|x_t)) - log p(x_0|x_1)
    L_t = (log Sigma - log small + (small + b^2 (x_0 - D)^2)/Sigma - 1)/2,      L_hybrid = |eps - eps_theta|^2 + 0.001 sum_t L_t

a, b, small and large are those of :class:`unstir.solver.ReverseVariance`, which samples with what is learned here.
[DDPM, Ho et al. 2020, arXiv:2006.11239, eq. 5; IDDPM, Nichol & Dhariwal 2021, arXiv:2102.09672, eqs. 15, 16 and 18]
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unstir.denoiser import Denoiser
from unstir.errors import UserError
from unstir.process import Joint, Process
from unstir.process.base import spread
from unstir.solver.variance import Fraction


@dataclass(frozen=True)
class ReverseChain:
    """A chain of normal steps from the prior to the data.

    Args:
        process: how the data become noise, one leaf.
        times: strictly decreasing, noise first; the last is the time at which sigma is 0.

    Raises:
        UserError: the times do not decrease to the data, or are fewer than three.
    """

    process: Process
    times: Sequence[float]

    def __post_init__(self) -> None:
        object.__setattr__(self, "times", tuple(float(t) for t in self.times))
        falls = all(s < t for t, s in zip(self.times[:-1], self.times[1:], strict=True))
        if isinstance(self.process, Joint) or self.process.discrete:
            raise UserError("a reverse chain is of one continuous process")
        if len(self.times) < 3 or not falls or float(self.process.sigma(self.times[-1])) > 0:
            raise UserError("the times of a reverse chain decrease strictly, in at least two steps, to one at which sigma is 0")

    @property
    def steps(self) -> int:
        """How many, the one to the data with them."""
        return len(self.times) - 1

    @cached_property
    def table(self) -> dict[str, Tensor]:
        """``t``, ``b``, ``small`` and ``large`` (the variances as logarithms) of every step, (steps,) each, float64.

        At the step to the data ``small`` is 0, and the one of the step before stands in for it.
        """
        times = torch.tensor(self.times, dtype=torch.float64)
        alpha, sigma, rho = (f(times) for f in (self.process.alpha, self.process.sigma, self.process.rho))
        share = -torch.expm1(2 * torch.log(rho[1:] / rho[:-1]))
        small, large = 2 * torch.log(sigma[1:]) + torch.log(share), 2 * torch.log(sigma[:-1]) + torch.log(share)
        small[-1] = small[-2]
        return {"t": times[:-1], "b": alpha[1:] * share, "small": small, "large": torch.where(large.isfinite(), large, small)}

    def log_variance(self, step: Tensor, fraction: Tensor) -> Tensor:
        """log Sigma = v log(large) + (1 - v) log(small).

        Args:
            step: number of the step of each sample (batch,), from the noise.
            fraction: v, (batch, *shape) or broadcast to it.

        Returns:
            Of the shape of ``fraction``, with its gradient.
        """
        small, large = (spread(self.table[name].to(step.device)[step], fraction) for name in ("small", "large"))
        return fraction * large + (1 - fraction) * small

    def terms(self, step: Tensor, x0: Tensor, estimate: Tensor, fraction: Tensor) -> Float[Tensor, " batch"]:
        """The term of one step for each sample: a KL divergence, or -log p(x_0|x_1) at the step to the data.

        Args:
            step: number of the step of each sample (batch,), from the noise.
            x0: clean states (batch, *shape).
            estimate: D(x_t, t), of the same shape.
            fraction: v, of the same shape or broadcast to it.

        Returns:
            Nats (batch,), summed over the entries of a state.
        """
        log_variance = self.log_variance(step, fraction).expand_as(x0)
        small, b = (torch.as_tensor(spread(self.table[name].to(step.device)[step], x0)) for name in ("small", "b"))
        error = (b * (x0 - estimate)).square()
        divergence = log_variance - small + (torch.exp(small) + error) * torch.exp(-log_variance) - 1
        decoder = log_variance + math.log(2 * math.pi) + (x0 - estimate).square() * torch.exp(-log_variance)
        last = spread((step == self.steps - 1).to(x0.dtype), x0)
        return (last * decoder + (1 - last) * divergence).flatten(1).sum(1) / 2

    def prior_term(self, x0: Tensor, condition: Mapping[str, Any] | None = None) -> Float[Tensor, " batch"]:
        """KL(q(x_T|x_0)|prior): what the last state still knows of the data, in nats (batch,)."""
        end, anchor = self.times[0], (condition or {}).get("anchor")
        mean, std = self.process.prior(anchor, end)
        if std == 0:  # pinned: the last state is the anchor
            return x0.new_zeros(len(x0))
        offset = self.process.perturb(x0, end, torch.zeros_like(x0), anchor) - mean
        return (offset.square() / (2 * std**2)).flatten(1).sum(1)


def bound(
    denoiser: Denoiser,
    x0: Float[Tensor, "batch *shape"],
    chain: ReverseChain,
    *,
    fraction: float | Fraction = 0.0,
    generator: torch.Generator,
    condition: Mapping[str, Any] | None = None,
) -> Float[Tensor, "terms batch"]:
    """An upper bound of -log p(x_0) under a chain, term by term: one draw of x_t a step.

    Args:
        denoiser: the model, on the chain's process (or moved to it).
        x0: clean states.
        chain: the steps.
        fraction: v of the reverse variance: a number, or a function of state, time and condition (see ``ReverseVariance``).
        generator: the only source of randomness.
        condition: as for the denoiser.

    Returns:
        Nats (steps + 1, batch): the prior's term, then each step's, from the noise to the data; their sum is the bound.
    """
    model, rows = denoiser.with_process(chain.process), [chain.prior_term(x0, condition)]
    for number, t in enumerate(chain.times[:-1]):
        x_t = chain.process.perturb(x0, t, _normal(x0, generator), (condition or {}).get("anchor"))
        estimate = model(x_t, t, condition)
        v = fraction(x_t, t, condition) if callable(fraction) else torch.full_like(x0, fraction)
        step = torch.full((len(x0),), number, device=x0.device)
        rows.append(chain.terms(step, x0, estimate, v))
    return torch.stack(rows)


class TwoHeads(torch.nn.Module):
    """A network that predicts and says how sure it is: one trunk whose output has twice the channels.

    Its first half is the prediction, its second half u with v = (u + 1)/2. The half that a call does not return is kept for
    ``fraction``, which must follow the call it belongs to.

    Args:
        network: called as a denoiser's network is; its output (batch, 2 channels, ...).
    """

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network
        self._kept: Tensor | None = None

    def forward(self, x: Tensor, label: Tensor, condition: Any = None) -> Tensor:
        """The prediction (batch, channels, ...)."""
        predicted, self._kept = self.network(x, label, condition).chunk(2, dim=1)
        return predicted

    def fraction(self, x: Tensor, t: Any, condition: Any = None) -> Tensor:
        """v of the last call, which was made with these arguments."""
        if self._kept is None or self._kept.shape[0] != x.shape[0]:
            raise UserError("the fraction of TwoHeads follows a call of the network on the same states")
        return (self._kept + 1) / 2


class ImportanceSampler:
    """Steps drawn in proportion to the root of their mean squared term, once every step was seen often enough.

    p_t ~ sqrt(mean of the last L_t^2), weights 1/(T p_t), so that the weighted mean is the mean over all steps.   [IDDPM, eq. 18]

    Args:
        steps: T.
        keep: terms remembered a step; until all are there the draw is uniform.
        even: part of the probability that is always uniform.

    Raises:
        UserError: an option is out of range.
    """

    def __init__(self, steps: int, *, keep: int = 10, even: float = 0.001) -> None:
        if steps < 1 or keep < 1 or not 0 < even <= 1:
            raise UserError(f"ImportanceSampler needs steps and keep of at least 1 and 0 < even <= 1, got {steps}, {keep} and {even}")
        self.steps, self.keep, self.even = steps, keep, even
        self.seen = torch.zeros(steps, dtype=torch.long)
        self.kept = torch.zeros(steps, keep, dtype=torch.float64)

    @property
    def probabilities(self) -> Tensor:
        """p of every step (steps,), float64."""
        flat = torch.full((self.steps,), 1 / self.steps, dtype=torch.float64)
        size = self.kept.square().mean(1).sqrt()
        if (self.seen < self.keep).any() or not size.sum() > 0:
            return flat
        return (1 - self.even) * size / size.sum() + self.even * flat

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Steps and weights of a batch.

        Args:
            count: batch size.
            generator: the only source of randomness.

        Returns:
            Numbers of steps (count,) and their weights (count,), float64.
        """
        p = self.probabilities
        step = torch.multinomial(p, count, replacement=True, generator=generator)
        return step, 1 / (self.steps * p[step])

    def update(self, step: Tensor, terms: Tensor) -> None:
        """Remember the terms of a batch.

        Args:
            step: numbers of the steps (batch,).
            terms: their terms (batch,), of any unit.
        """
        for number, value in zip(step.tolist(), terms.detach().double().tolist(), strict=True):
            self.kept[number, int(self.seen[number]) % self.keep] = value
            self.seen[number] += 1


@dataclass(frozen=True)
class VariationalLoss:
    """L_vlb, or L_hybrid = |eps - eps_theta|^2 + weight L_vlb with the mean of L_vlb held fixed, in bits an entry.

    L_vlb is the mean over drawn steps times their number; its prior term has no parameters and is left out.

    Args:
        chain: the steps.
        fraction: v as ``bound`` takes it; for a network with two heads ``heads.fraction``, and the denoiser holds ``heads``.
        weight: of L_vlb in the hybrid, 0.001 as published.
        hybrid: is the simple loss there, so that L_vlb teaches the variance alone?
        sampler: draws the steps; uniform when absent. Importance sampling is for L_vlb; the hybrid's simple loss is weighted with it.

    Raises:
        UserError: the weight is not positive, or the sampler is of another chain.
    """

    chain: ReverseChain
    fraction: Fraction
    weight: float = 0.001
    hybrid: bool = True
    sampler: ImportanceSampler = field(default=None)  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if not self.weight > 0:
            raise UserError(f"the weight of L_vlb must be positive, got {self.weight}")
        if self.sampler is None:
            object.__setattr__(self, "sampler", ImportanceSampler(self.chain.steps, even=1.0))
        if self.sampler.steps != self.chain.steps:
            raise UserError(f"the sampler draws from {self.sampler.steps} steps, and the chain has {self.chain.steps}")

    def __call__(self, denoiser: Denoiser, x0: Tensor, generator: torch.Generator, condition: Mapping[str, Any] | None = None) -> Tensor:
        """The loss of a batch.

        Args:
            denoiser: what is trained, on the chain's process.
            x0: clean states (batch, *shape).
            generator: the only source of randomness.
            condition: as for the denoiser; ``anchor`` for anchored processes.

        Returns:
            A scalar.
        """
        process, chain = self.chain.process, self.chain
        step, weights = self.sampler.draw(len(x0), generator)
        t = chain.table["t"][step]
        x_t = process.perturb(x0, t, _normal(x0, generator), (condition or {}).get("anchor"))
        estimate = denoiser(x_t, t, condition)
        v = self.fraction(x_t, t, condition)
        terms = chain.terms(step.to(x0.device), x0, estimate.detach() if self.hybrid else estimate, v)
        terms = terms / (math.log(2) * x0[0].numel())
        self.sampler.update(step, terms)
        total = chain.steps * terms
        if self.hybrid:
            error = spread(process.rho(t).reciprocal(), x0) * (x0 - estimate)  # eps - eps_theta
            total = error.square().flatten(1).mean(1) + self.weight * total
        return (weights.to(total) * total).mean()


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)
