"""Several models, or several conditions, at once: products, reliabilities, and weights that are learned.

    Product:            s = w_0 s_0 + sum_i w_i s_i,     D' = w_0 D_0 + sum_i w_i D_i + (1 - w_0 - sum_i w_i) z/alpha,  z = x - beta y
    Unite and Conquer:  D' = D(x, -) + sum_i a_i (D_i(x, y_i) - D_i(x, -))
    AFA:                D' = sum_i a_i(x, t, D_1, ...) D_i,   a = softmax of a small network, one weight a model at every place

s are scores at the noise level at hand: of p_0^w_0 prod p_i^w_i they are those of the product of the diffused laws, which is not the
diffused product. Langevin steps at every level (``AnnealedMCMC``) repair that; a negative weight is a negation.
References: Du et al. 2023 (Reduce, Reuse, Recycle), arXiv:2302.11552; Nair et al. 2023 (Unite and Conquer), arXiv:2212.00793; Wang et
al. 2025 (AFA), arXiv:2405.17082, whose merging of features is here the merging of estimates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from unstir.denoiser.base import Denoiser, anchor_of
from unstir.errors import UserError
from unstir.guide.auto import companion
from unstir.guide.base import Guide, Guided
from unstir.guide.cfg import unconditional
from unstir.guide.experts import minimise
from unstir.guide.likelihood import check_tensor
from unstir.process.base import spread

if TYPE_CHECKING:
    from unstir.state import State

Part = Denoiser | Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Product(Guide):
    """A product of powers of laws, level by level; one evaluation a factor of weight other than 0.

    Args:
        factors: other denoisers, or conditions (entries of one row, which replace those of the run) for the denoiser itself.
        weights: w_i, one a factor; negative to negate.
        own: w_0, of the denoiser itself under the run's condition; 0 leaves it out.

    Raises:
        UserError: weights are not finite, not one a factor, or a factor is neither.
    """

    factors: Sequence[Part]
    weights: Sequence[float]
    own: float = 1.0
    exactness: ClassVar[str] = "biased under a solver alone; exact with converged Langevin steps at every level, and many levels"

    def __post_init__(self) -> None:
        if len(self.factors) != len(self.weights) or not all(map(math.isfinite, (*self.weights, self.own))):
            raise UserError(
                f"a product of {len(self.factors)} factors needs a finite weight each, got {list(self.weights)} and own={self.own}"
            )
        if not all(isinstance(factor, (Denoiser, Mapping)) for factor in self.factors):
            raise UserError("a factor of a product is a denoiser or a condition")

    def wrap(self, denoiser: Denoiser) -> Denoiser:
        """The product as a denoiser, with a log-density where all its factors have one."""
        return _Product(denoiser, replace(self, factors=[companion(denoiser, f) if isinstance(f, Denoiser) else f for f in self.factors]))

    def asked(self, denoiser: Denoiser, condition: Mapping[str, Any] | None, batch: int) -> list[tuple[float, Denoiser, Any]]:
        """Weight, denoiser and condition of every factor that counts."""
        asked = [(self.own, denoiser, condition)]
        for weight, factor in zip(self.weights, self.factors, strict=True):
            if isinstance(factor, Denoiser):
                asked.append((weight, factor, condition))
            else:
                asked.append((weight, denoiser, unconditional({**(condition or {}), **factor}, batch, factor)))
        return [one for one in asked if one[0] != 0]

    def estimate(self, denoiser: Denoiser, x: Tensor, t: Any, condition: Mapping[str, Any] | None) -> Tensor:  # type: ignore[override]
        """The estimate whose score is the sum of scores."""
        check_tensor(x, self)
        process, asked = denoiser.process, self.asked(denoiser, condition, len(x))
        rest = 1 - math.fsum(weight for weight, _, _ in asked)
        total = torch.zeros_like(x)
        for weight, factor, own in asked:
            total = total + weight * factor(x, t, own)
        if abs(rest) < 1e-12:
            return total
        z = x - spread(process.beta(t), x) * process.need(anchor_of(condition)) if process.anchored else x
        if bool((process.alpha(t) == 0).any()):
            raise UserError("a product whose weights do not sum to 1 has no estimate at pure noise: begin where alpha is above 0")
        return total + rest / spread(process.alpha(t), x) * z


class _Product(Guided):
    """A product as a denoiser."""

    guide: Product

    def log_density(self, x: Tensor, t: Any, condition: Mapping[str, Any] | None = None) -> Tensor:
        """sum_i w_i log p_i(x_t) in nats, up to a constant of the level, (batch,)."""
        terms = []
        for weight, factor, own in self.guide.asked(self.denoiser, condition, len(x)):
            density = getattr(factor, "log_density", None)
            if density is None:
                raise UserError(f"{type(factor).__name__} has no log-density: use differences='path'")
            terms.append(weight * density(x, t, own))
        return torch.stack(terms).sum(0)


@dataclass(frozen=True, eq=False)
class UniteAndConquer(Guide):
    """Several conditions, each believed as far as it is reliable, by one model or by models trained on different data.

    Args:
        reliabilities: a_i for each entry of the condition; 0 removes the entry and its model exactly, and costs nothing.
        models: the denoiser that reads an entry, where it is not the one guided.

    Raises:
        UserError: no reliabilities, one that is not finite, or a model for an entry without one.
    """

    reliabilities: Mapping[str, float]
    models: Mapping[str, Denoiser] = field(default_factory=dict)
    exactness: ClassVar[str] = (
        "exact where the conditions are independent given x_t, all unconditional laws agree and reliabilities are 1; otherwise biased"
    )

    def __post_init__(self) -> None:
        if not self.reliabilities or not all(map(math.isfinite, self.reliabilities.values())) or set(self.models) - set(self.reliabilities):
            raise UserError(f"each entry needs a finite reliability, got {dict(self.reliabilities)} with models for {sorted(self.models)}")

    def wrap(self, denoiser: Denoiser) -> Denoiser:
        """The guided denoiser; evaluations of all models are counted."""
        return Guided(denoiser, replace(self, models={key: companion(denoiser, model) for key, model in self.models.items()}))

    def estimate(self, denoiser: Denoiser, x: Tensor, t: Any, condition: Mapping[str, Any] | None) -> Tensor:  # type: ignore[override]
        """The guided estimate: 1 evaluation and, for each condition, 1 more, and 1 more again of another model."""
        check_tensor(x, self)
        free = unconditional(condition, len(x), keys=tuple(self.reliabilities))
        base = denoiser(x, t, free)
        total = base
        for key, reliability in self.reliabilities.items():
            if reliability == 0:
                continue
            model = self.models.get(key, denoiser)
            given = model(x, t, {**(free or {}), key: (condition or {})[key]})
            total = total + reliability * (given - (base if model is denoiser else model(x, t, free)))
        return total


class Aggregator(nn.Module):
    """The small network of :class:`AFA`: the same two layers at every place, which see state, noise level and what the models say there.

    Args:
        channels: of a state (all its entries, for a vector).
        models: how many are merged.
        width: of the hidden layer.
    """

    def __init__(self, channels: int, models: int, width: int = 32) -> None:
        super().__init__()
        self.first = nn.Linear(channels * (models + 1) + 2, width)
        self.second = nn.Linear(width, models)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, z: Tensor, alpha: Tensor, sigma: Tensor, estimates: Sequence[Tensor]) -> Tensor:
        """Weights of the models, equal before training.

        Args:
            z: the state without its anchor (batch, channels, *cells).
            alpha: scale of the data (batch,).
            sigma: scale of the noise (batch,).
            estimates: of the models, each of the shape of ``z``.

        Returns:
            (batch, models, *cells), summing to 1 over the models.
        """
        alpha, sigma = (c.to(z).reshape(-1, *[1] * (z.ndim - 1)) for c in (alpha, sigma))
        size = (alpha**2 + sigma**2).sqrt()
        level = [c.expand(len(z), 1, *z.shape[2:]) for c in (alpha / size, torch.log(sigma.clamp_min(1e-6) / alpha.clamp_min(1e-6)) / 4)]
        seen = torch.cat([z / size, *estimates, *level], 1).movedim(1, -1)
        return torch.softmax(self.second(torch.nn.functional.silu(self.first(seen.to(self.first.weight)))), -1).movedim(-1, 1).to(z)


@dataclass(frozen=True, eq=False)
class AFA(Guide):
    """Frozen models merged by weights that a small network gives, a sample, a noise level and a place; one evaluation a model.

    Args:
        others: the models merged with the one guided.
        aggregator: for as many models, the one guided first.

    Raises:
        UserError: there is no other model.
    """

    others: Sequence[Denoiser]
    aggregator: Aggregator
    exactness: ClassVar[str] = "as good as its training: the weights minimise the denoising loss of the merged models"

    def __post_init__(self) -> None:
        if not self.others or not all(isinstance(other, Denoiser) for other in self.others):
            raise UserError(f"AFA merges the model with other denoisers, got {list(self.others)!r}")

    def wrap(self, denoiser: Denoiser) -> Denoiser:
        """The merged denoiser; evaluations of all models are counted."""
        return Guided(denoiser, replace(self, others=[companion(denoiser, other) for other in self.others]))

    def estimate(self, denoiser: Denoiser, x: State, t: Any, condition: Mapping[str, Any] | None) -> Tensor:
        """The merged estimate."""
        weights, estimates = self.weights(denoiser, x, t, condition)
        return (weights.unsqueeze(2) * estimates).sum(1)

    def weights(self, denoiser: Denoiser, x: Any, t: Any, condition: Mapping[str, Any] | None = None) -> tuple[Tensor, Tensor]:
        """The weights and what they merge.

        Args:
            denoiser: the one guided.
            x: noisy state (batch, channels, *cells).
            t: one time, or one a sample.
            condition: what the denoisers are given.

        Returns:
            (batch, models, *cells) and (batch, models, channels, *cells).
        """
        check_tensor(x, self)
        process = denoiser.process
        estimates = [model(x, t, condition) for model in (denoiser, *self.others)]
        z = x - spread(process.beta(t), x) * process.need(anchor_of(condition)) if process.anchored else x
        alpha, sigma = (c.expand(len(x)) if c.ndim == 0 else c for c in (process.alpha(t), process.sigma(t)))
        return self.aggregator(z, alpha, sigma, estimates), torch.stack(estimates, 1)

    def fit(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        *,
        low: float,
        high: float,
        steps: int = 300,
        batch: int = 256,
        rate: float = 1e-2,
        seed: int = 0,
    ) -> list[float]:
        """Train the aggregator on the denoising loss, min(1, 1/rho^2)-weighted; the models stay.

        Args:
            denoiser: the one guided, the first of the models.
            x0: clean data of all of them (count, *shape).
            low: the least sigma/alpha, above 0.
            high: the largest, finite.
            steps: of Adam.
            batch: samples a step.
            rate: Adam's, falling to 0.
            seed: of batches, levels and noise.

        Returns:
            The losses.
        """
        generator, process = torch.Generator().manual_seed(seed), denoiser.process
        models = replace(self, others=[other.with_process(process) for other in self.others])

        def loss() -> Tensor:
            clean = x0[torch.randint(len(x0), (batch,), generator=generator)]
            share = torch.rand(batch, generator=generator, dtype=torch.float64)
            rho = low * (high / low) ** share
            t = process.time_at_rho(rho)
            x = process.perturb(clean, t, torch.randn(clean.shape, generator=generator, dtype=clean.dtype))
            error = (models.estimate(denoiser, x, t, None) - clean).flatten(1).square().mean(1)
            return ((rho**-2).clamp(max=1.0).to(error) * error).mean()

        return minimise(self.aggregator.parameters(), loss, steps=steps, rate=rate)
