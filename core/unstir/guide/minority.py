"""Minority guidance: towards the rare among the data.

    l(x0) = E_eps |x0 - D(x_s)|,  x_s = alpha_s x0 + sigma_s eps       the minority score: the denoiser takes the rare for the common

    with labels:  bins of l by quantiles; a classifier of noisy states learns them; ``ClassifierGuidance`` to the bin of the rare
    without:      D' = D + w (sigma^2/alpha) J^T grad L,   L = |x0_t - sg E_eps D(alpha_s x0_t + sigma_s eps)|,   x0_t = D(x_t)

Reference: Um et al. 2023 (minority guidance), arXiv:2301.12334; Um & Ye 2024 (self-guided minority generation), arXiv:2407.11555.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from unstir.errors import UserError
from unstir.guide.base import Guide
from unstir.guide.cfg import row_at, within
from unstir.guide.experts import minimise
from unstir.guide.likelihood import Linearised, check_tensor, gain
from unstir.noise import NoiseSource
from unstir.operator.cg import inner
from unstir.train.times import LogUniform, TimeSampler

if TYPE_CHECKING:
    from unstir.denoiser.base import Denoiser
    from unstir.process import Process
    from unstir.solver.base import Row


def minority_score(
    denoiser: Denoiser,
    x0: Float[Tensor, "batch *shape"],
    t: float,
    condition: Mapping[str, Any] | None = None,
    *,
    draws: int = 8,
    seed: int = 0,
) -> Float[Tensor, " batch"]:
    """The minority score of clean states, l = E |x0 - D(x_t)|: large for the rare.

    Args:
        denoiser: knows what is common.
        x0: clean states.
        t: the time to which they are made noisy.
        condition: what the denoiser is given, one row or one a sample.
        draws: of the noise, of which the mean is taken.
        seed: of the noise; that of a state depends on its place.

    Returns:
        One number a state, in units of the state.

    Raises:
        UserError: fewer than 1 draw.
    """
    if draws < 1:
        raise UserError(f"a minority score takes at least 1 draw of noise, got {draws}")
    source, total = NoiseSource(seed, range(len(x0))), x0.new_zeros(len(x0))
    for _ in range(draws):
        noise = source.draw(tuple(x0.shape[1:]), x0.dtype, x0.device, stream="minority")
        offset = x0 - denoiser(denoiser.process.perturb(x0, t, noise, (condition or {}).get("anchor")), t, condition).detach()
        total = total + inner(offset, offset).sqrt()
    return total / draws


def minority_bins(scores: Float[Tensor, " n"], bins: int) -> Int[Tensor, " n"]:
    """Bins of equally many scores: 0 for the most common, ``bins - 1`` for the rarest.

    Args:
        scores: of the data.
        bins: how many.

    Returns:
        The bin of each, long.

    Raises:
        UserError: fewer than 2 bins, or fewer scores than bins.
    """
    if not 2 <= bins <= len(scores):
        raise UserError(f"scores are put into 2 bins or more, none of them empty, got {bins} bins for {len(scores)} scores")
    edges = torch.quantile(scores.double(), torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1])
    return torch.bucketize(scores.double(), edges)


def fit_classifier(
    network: torch.nn.Module,
    process: Process,
    data: Tensor,
    labels: Tensor,
    *,
    times: TimeSampler = LogUniform(),  # noqa: B008 a frozen value
    steps: int = 1000,
    batch: int = 256,
    rate: float = 3e-3,
    seed: int = 0,
) -> list[float]:
    """Train a classifier of noisy states, by cross-entropy.

    Args:
        network: called as ``network(x, t)`` with t (batch,); gives logits (batch, classes). Trained in place.
        process: what makes the data noisy.
        data: clean states (n, *shape).
        labels: their classes (n,), long.
        times: the law of the times trained at.
        steps: of the optimiser.
        batch: states a step.
        rate: the first rate of learning; it falls to 0.
        seed: of everything drawn.

    Returns:
        The losses.

    Raises:
        UserError: not one label a state.
    """
    if labels.shape != data.shape[:1]:
        raise UserError(f"a classifier is trained with one label a state, got {tuple(labels.shape)} for {data.shape[0]} states")
    generator = torch.Generator().manual_seed(seed)

    def loss() -> Tensor:
        chosen = torch.randint(len(data), (batch,), generator=generator)
        t = times(process, batch, generator).to(data.dtype)
        noise = torch.randn(batch, *data.shape[1:], generator=generator, dtype=data.dtype)
        return F.cross_entropy(network(process.perturb(data[chosen], t, noise), t), labels[chosen])

    return minimise(network.parameters(), loss, steps=steps, rate=rate)


@dataclass(frozen=True, eq=False)
class SelfMinority(Guide):
    """Guidance away from what the denoiser would make of its own estimate; no classifier, ``draws`` evaluations more and a transpose.

    The noise is drawn once, in pairs of opposite sign, the same for all samples and steps: nothing random enters a deterministic solver.

    Args:
        weight: w, in 1/units of the state; 0 is the denoiser, to the bit.
        level: sigma/alpha of the time s to which the estimate is made noisy; some half the distance of the rare from the common.
        draws: of the noise, even.
        every: guide in every so-many-th step of the plan.
        low: guide from this sigma/alpha on.
        high: guide up to this sigma/alpha.
        seed: of the noise.
        rows: the solver's plan; ``unstir.sample`` fills it in.

    Raises:
        UserError: an option out of range.
    """

    weight: float = 1.0
    level: float = 1.0
    draws: int = 4
    every: int = 1
    low: float = 0.0
    high: float = math.inf
    seed: int = 0
    rows: Sequence[Row] = ()
    needs_grad: ClassVar[bool] = True
    exactness: ClassVar[str] = "biased: shifts samples towards rare modes, and lets some fall off them"

    def __post_init__(self) -> None:
        if not math.isfinite(self.weight) or not 0 < self.level < math.inf or not 0 <= self.low < self.high:
            raise UserError(f"minority guidance needs a finite weight, a level above 0 and 0 <= low < high, got {self!r}")
        if self.draws < 2 or self.draws % 2 or self.every < 1:
            raise UserError(f"minority guidance needs an even number of draws and every >= 1, got {self.draws} and {self.every}")

    def planned(self, rows: Sequence[Row]) -> Guide:
        """The guide that knows which step it is in, where it rests in some."""
        return replace(self, rows=tuple(rows)) if self.every > 1 else self

    def estimate(self, denoiser: Denoiser, x: Tensor, t: Any, condition: Mapping[str, Any] | None) -> Tensor:  # type: ignore[override]
        """The guided estimate; nothing in it remembers a gradient."""
        check_tensor(x, self)
        active = within(denoiser.process, t, self.low, self.high)
        resting = self.every > 1 and row_at(self.rows, t).index % self.every
        if self.weight == 0 or resting or not bool(active.any()):
            return denoiser(x, t, condition)
        with torch.inference_mode(False), torch.no_grad():
            at = Linearised(denoiser, x, t, condition)
            offset = at.x0 - self._again(denoiser, at.x0, condition)
            size = inner(offset, offset).sqrt()
            unit = offset * torch.where(size > 0, 1 / size, 0.0).view(-1, *[1] * (x.ndim - 1))
            climbed = at.x0 + self.weight * gain(denoiser.process, x, t) * at.pull(unit)
            return torch.where(active.to(x.device).view(-1, *[1] * (x.ndim - 1)), climbed, at.x0)

    def _again(self, denoiser: Denoiser, x0: Tensor, condition: Mapping[str, Any] | None) -> Tensor:
        """What the denoiser makes of the estimate, made noisy again: the mean over the draws."""
        process = denoiser.process
        t = float(process.time_at_rho(self.level))
        half = NoiseSource(self.seed, range(self.draws // 2)).draw(tuple(x0.shape[1:]), x0.dtype, x0.device, stream="minority")
        total = torch.zeros_like(x0)
        for noise in (*half, *-half):
            total = total + denoiser(process.perturb(x0, t, noise.expand_as(x0), (condition or {}).get("anchor")), t, condition).detach()
        return total / self.draws
