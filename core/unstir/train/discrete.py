"""Losses of discrete processes, and the bound on -log p(x_0) in nats.

    path    E_t sum_i  r log(r/r') - r + r'        reverse jump rates r given x_0, r' believed: the continuous-time bound
                with masks    -alpha'/(1 - alpha) sum over masks of the cross-entropy, any schedule: MD4, MDLM, t-DCE, the loss of AO-ARM
                for counts    Bregman's x_0 log(x_0/f) - x_0 + f, weighted by the rate: Blackout, Learning to jump
    VLB     E_i sum KL( q(x_s | x_t, x_0) || p(x_s | x_t) ),  N steps, + lambda cross-entropy                           D3PM

Entries that are tied (the two of an edge) count once, absent entries not at all.
References: Austin et al. 2021, arXiv:2107.03006; Campbell et al. 2022, arXiv:2205.14987; Lou et al. 2024, arXiv:2310.16834; Shi et al.
2024, arXiv:2406.04329; Ou et al. 2025, arXiv:2406.03736; Santos et al. 2023, arXiv:2305.11089; Chen & Zhou 2023, arXiv:2305.18375.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unstir.denoiser import Denoiser
from unstir.errors import UserError
from unstir.noise import NoiseSource
from unstir.process.categorical import Categorical
from unstir.process.discrete import Discrete, by_leaf, uniforms
from unstir.space import JointSpace, Space, Symmetric
from unstir.state import batch_size


@dataclass(frozen=True)
class PathLoss:
    """The continuous-time bound per sample, in nats, by one time a sample: -log p(x_0) <= E[loss] + KL to the prior.

    Levels 1 - alpha are the squares of uniforms, stratified over the batch: jumps have rates like 1/(1 - alpha), and under uniform levels
    (MD4's cross-entropy/(1 - alpha)) the loss would have infinite variance. A continuous leaf of a dict state adds its squared error.

    Args:
        cross_entropy: lambda, the weight of a plain cross-entropy of the clean categories added to the bound.
        weights: factor of each leaf of a dict state, 1 where absent (DiGress: 5 for edges).
        bound: is the bound itself in the loss? Without it the plain cross-entropy is left (DiGress trains so).

    Raises:
        UserError: nothing would be left.
    """

    cross_entropy: float = 0.0
    weights: tuple[tuple[str, float], ...] = ()
    bound: bool = True

    def __post_init__(self) -> None:
        if not self.bound and self.cross_entropy <= 0:
            raise UserError("without the bound a loss needs cross_entropy above 0")

    def __call__(self, denoiser: Denoiser, x0: Any, generator: torch.Generator, condition: Mapping[str, Any] | None = None) -> Tensor:
        """The loss of a batch.

        Args:
            denoiser: what is trained, on a discrete process (or a joint one with one time).
            x0: clean states (batch, *shape), or a dict of leaves.
            generator: the only source of randomness.
            condition: as for the denoiser.

        Returns:
            A scalar: nats per sample.
        """
        count = batch_size(x0)
        offset = torch.rand((), generator=generator, dtype=torch.float64)
        root = 1 - (offset + torch.arange(count, dtype=torch.float64) / count) % 1.0  # in (0, 1]
        noise = _noise(denoiser, x0, lambda leaf, shape: torch.randn((count, *shape), generator=generator, dtype=torch.float64), condition)
        t, scale = _at_root(denoiser, root)
        x_t = denoiser.space.project(denoiser.process.perturb(x0, t, noise), condition)
        parts = _terms(denoiser, x_t, x0, denoiser(x_t, t, condition), t, condition, self.cross_entropy, self.bound, scale)
        factors = dict(self.weights)
        return sum(factors.get(leaf, 1.0) * value.mean() for leaf, value in parts.items())  # type: ignore[return-value]


@dataclass(frozen=True)
class VLB:
    """The bound of N ancestral steps, in nats, by one step a sample: N KL(q(x_s | x_t, x_0) || p(x_s | x_t)), s the time before t.

    The KL to the prior, which nothing can train, is left out (``nelbo`` counts it). The last step's KL is -log p(x_0 | x_t).

    Args:
        steps: N; the times are uniform between 0 and ``t_max``.
        cross_entropy: lambda of D3PM's hybrid loss.

    Raises:
        UserError: ``steps`` is not positive.
    """

    steps: int = 1000
    cross_entropy: float = 0.01

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise UserError(f"a bound needs at least 1 step, got {self.steps}")

    def __call__(self, denoiser: Denoiser, x0: Any, generator: torch.Generator, condition: Mapping[str, Any] | None = None) -> Tensor:
        """The loss of a batch.

        Args:
            denoiser: what is trained, on categorical processes.
            x0: clean states (batch, *shape), or a dict of leaves.
            generator: the only source of randomness.
            condition: as for the denoiser.

        Returns:
            A scalar: nats per sample, and lambda times the cross-entropy.
        """
        count = batch_size(x0)
        offset = torch.rand((), generator=generator, dtype=torch.float64)
        step = 1 + torch.floor((offset + torch.arange(count, dtype=torch.float64) / count) % 1.0 * self.steps).clamp(max=self.steps - 1)
        noise = _noise(denoiser, x0, lambda leaf, shape: torch.randn((count, *shape), generator=generator, dtype=torch.float64), condition)
        return self.terms(denoiser, x0, step, noise, condition).mean()

    def terms(self, denoiser: Denoiser, x0: Any, step: Tensor, noise: Any, condition: Mapping[str, Any] | None = None) -> Tensor:
        """The loss of every sample at a given step.

        Args:
            denoiser: on categorical processes.
            x0: clean states.
            step: whole numbers 1 ... N (batch,): from t = step to s = step - 1, in Nths of ``t_max``.
            noise: unit normals of the shape of ``x0``.
            condition: as for the denoiser.

        Returns:
            (batch,), nats.
        """
        t, s = (i / self.steps * denoiser.process.t_max for i in (step, step - 1))
        x_t = denoiser.space.project(denoiser.process.perturb(x0, t, noise), condition)
        belief, total = _leaves(denoiser(x_t, t, condition)), torch.zeros(())
        for leaf, process in by_leaf(denoiser.process).items():
            x, clean, p = _leaves(x_t)[leaf], _leaves(x0)[leaf], belief[leaf]
            divergence = self.steps * divergence_of_step(process, x, clean, p, t, s)
            divergence = divergence + self.cross_entropy * _cross_entropy(p, clean)
            total = total + (divergence * _once(denoiser.space, leaf, clean, condition)).flatten(1).sum(1)
        return total


def divergence_of_step(process: Any, x: Tensor, x0: Tensor, estimate: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """KL(q(x_s | x_t, x_0) || p(x_s | x_t)) of every entry, in nats.

    Args:
        process: categorical.
        x: state at t (batch, *shape).
        x0: the clean state.
        estimate: the belief at ``x`` (batch, *shape, categories).
        t, s: times (batch,), s the earlier.

    Returns:
        (batch, *shape).

    Raises:
        UserError: the process is not categorical.
    """
    if not isinstance(process, Categorical):
        raise UserError(f"the bound of N steps is for Categorical, got {type(process).__name__}: take PathLoss")
    alpha_t, alpha_s = process.alpha(t), process.alpha(s)
    true, believed = (process.posterior(x, p, alpha_t, alpha_s) for p in (process.certain(x0, estimate), estimate))
    tiny = torch.finfo(believed.dtype).tiny
    return (torch.xlogy(true, true) - torch.xlogy(true, believed.clamp(min=tiny))).sum(-1)


def nelbo(
    denoiser: Denoiser,
    x0: Any,
    *,
    draws: int = 128,
    steps: int | None = None,
    condition: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Tensor:
    """An upper bound on -log p(x_0), estimated: continuous-time, or that of N ancestral steps.

    -log p(x_0) <= E[sum of divergences] + KL(q(x_T | x_0) || prior);      an equality with masks and the exact belief

    Args:
        denoiser: on a discrete process, or a joint one of discrete leaves with one time.
        x0: clean states (batch, *shape), or a dict of leaves.
        draws: states drawn per sample, at levels that are squares of stratified uniforms (continuous time) or in turn at every step.
        steps: N, for the bound of N ancestral steps of categories; continuous time when absent.
        condition: as for the denoiser.
        seed: of the draws; those of sample i depend on it and i alone.

    Returns:
        (batch,), nats, float64.

    Raises:
        UserError: a leaf is not discrete.
    """
    for leaf, process in by_leaf(denoiser.process).items():
        if not isinstance(process, Discrete):
            raise UserError(f"the discrete bound is for discrete processes, got {type(process).__name__} in leaf {leaf!r}")
    count = batch_size(x0)
    source = NoiseSource(seed, range(count))
    offset = uniforms(source.draw((draws,), torch.float64, stream="root"))
    total = torch.zeros(count, dtype=torch.float64)
    with torch.no_grad():
        for j in range(draws):
            noise = _noise(denoiser, x0, lambda leaf, shape: source.draw(shape, torch.float64, stream=f"noise/{leaf}"), condition)
            if steps is not None:
                step = torch.floor((offset[:, j] + j) / draws * steps).clamp(max=steps - 1) + 1
                total += VLB(steps, 0.0).terms(denoiser, x0, step, noise, condition) / draws
                continue
            t, scale = _at_root(denoiser, (offset[:, j] + j) / draws)
            x_t = denoiser.space.project(denoiser.process.perturb(x0, t, noise), condition)
            parts = _terms(denoiser, x_t, x0, denoiser(x_t, t, condition), t, condition, 0.0, True, scale)
            total += sum(parts.values()) / draws
        for leaf, process in by_leaf(denoiser.process).items():
            clean = _leaves(x0)[leaf]
            total += (process.prior_divergence(clean) * _once(denoiser.space, leaf, clean, condition)).flatten(1).sum(1)  # type: ignore[attr-defined]
    return total


def _at_root(denoiser: Denoiser, root: Tensor) -> tuple[Tensor, Tensor]:
    """The time at which 1 - alpha of the (first discrete) process is the square of ``root``, and the time per root there, both (batch,)."""
    clock: Any = next(process for process in by_leaf(denoiser.process).values() if isinstance(process, Discrete))
    span = 1.0 if clock.pointed else float(clock.sigma(clock.t_max))
    t = clock.time_at_alpha(1 - span * root.square())
    return t, 2 * span * root / clock.loss_rate(t)


def _terms(
    denoiser: Denoiser, x_t: Any, x0: Any, belief: Any, t: Any, condition: Any, cross_entropy: float, bound: bool, scale: Tensor
) -> dict[str, Tensor]:
    """The loss of every leaf and sample, {leaf: (batch,)}."""
    found = {}
    for leaf, process in by_leaf(denoiser.process).items():
        x, clean, p = (_leaves(state)[leaf] for state in (x_t, x0, belief))
        if not isinstance(process, Discrete):
            found[leaf] = (p - clean).square().flatten(1).sum(1)
            continue
        value = torch.zeros((), device=p.device)
        if bound:
            value = value + process.divergence(x, clean, p, t) * scale.to(p).reshape(-1, *[1] * (x.ndim - 1))
        if cross_entropy and isinstance(process, Categorical):
            value = value + cross_entropy * _cross_entropy(p, clean)
        found[leaf] = (value * _once(denoiser.space, leaf, clean, condition)).flatten(1).sum(1)
    return found


def _cross_entropy(p: Tensor, x0: Tensor) -> Tensor:
    return -torch.log(p.gather(-1, x0[..., None])[..., 0].clamp(min=torch.finfo(p.dtype).tiny))


def _once(space: Space, leaf: str, x0: Tensor, condition: Any) -> Tensor:
    """1 for every free entry, a half for each of two that are tied, 0 for absent ones."""
    own = space.of(leaf) if isinstance(space, JointSpace) else space
    return own.project(torch.ones(x0.shape, device=x0.device), condition) / (2 if isinstance(own, Symmetric) else 1)


def _noise(denoiser: Denoiser, x0: Any, unit: Any, condition: Any) -> Any:
    """Unit normals for every entry, tied where the entries are."""
    drawn = {leaf: unit(leaf, value.shape[1:]).to(value.device) for leaf, value in _leaves(x0).items()}
    return denoiser.space.draw(drawn if isinstance(x0, dict) else drawn[""], condition)  # type: ignore[arg-type]


def _leaves(state: Any) -> Mapping[str, Any]:
    return state if isinstance(state, Mapping) else {"": state}
