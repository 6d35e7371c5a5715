"""Active choice of the next measurement: where the particles of a problem disagree most, there the next look tells most.

    a* = argmax_a H(y[a]),      p(y[a]) = 1/K sum_i N(y_i[a], noise^2),  y_i the measurement that particle i predicts
    "variance": H ~ log Var_i y_i[a]      (normal);      "mixture": H ~ -1/K sum_i log 1/K sum_j exp(-|y_i[a] - y_j[a]|^2/(2 noise^2))

Reference: Nolan et al. 2024 (Active Diffusion Subsampling), arXiv:2406.14388; Kolchinsky & Tracey 2017 (pairwise bounds).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.steer.base import Moment, Steer, edited


def mixture_entropy(predicted: Tensor, noise: float) -> Tensor:
    """Upper bound of the entropy of a mixture of equal normal laws around particles, up to a constant, by pairwise distances.

    Args:
        predicted: (problems, particles, candidates, ...): what each particle predicts of each candidate, last axes its values.
        noise: standard deviation of the measurement noise, above 0.

    Returns:
        (problems, candidates) in nats; between 0 (all agree) and log particles (none do).
    """
    flat = predicted.reshape(*predicted.shape[:3], -1)
    square = (flat[:, :, None] - flat[:, None]).square().sum(-1)  # (problems, particles, particles, candidates)
    return -(torch.logsumexp(-square / (2 * noise**2), 2) - math.log(flat.shape[1])).mean(1)


@dataclass(frozen=True, eq=False)
class ActiveSubsampling(Steer):
    """Measure entries of the state one after another, each where it is most uncertain, while sampling; per problem.

    At the steps asked for, the candidate of the largest entropy is measured; after every step estimates are drawn to what is known.

    Args:
        acquire: ``acquire(mask, problems) -> values``: new values (problems, *shape) where the mask (problems, *shape) holds; ``problems``
            are their numbers in the run.
        steps: numbers of the steps after which to measure.
        groups: (*shape) long, from 0: entries of one number are measured together, as a line; each entry by itself when absent.
        noise: standard deviation of the measurement noise, above 0.
        particles: samples a problem, at least 2.
        budget: candidates measured each time, at least 1.
        entropy: ``"variance"`` or ``"mixture"``.

    Raises:
        UserError: an option is out of range.
    """

    acquire: Callable[[Tensor, Sequence[int]], Tensor]
    steps: Sequence[int]
    groups: Tensor | None = None
    noise: float = 0.1
    particles: int = 16
    budget: int = 1
    entropy: str = "variance"
    exactness: ClassVar[str] = (
        "the choice is that of the largest posterior variance as particles grow; samples are biased, as by DataConsistency"
    )

    def __post_init__(self) -> None:
        if not self.noise > 0 or self.particles < 2 or self.budget < 1 or self.entropy not in ("variance", "mixture"):
            raise UserError(
                "active subsampling needs noise above 0, at least 2 particles, a budget of at least 1 and the entropy 'variance' or "
                f"'mixture', got {self.noise}, {self.particles}, {self.budget} and {self.entropy!r}"
            )

    def after(self, x: Tensor, moment: Moment) -> Tensor:  # type: ignore[override]
        """The state drawn to what has been measured, with one more look where it is time for one."""
        notes, shape = moment.memory, tuple(x.shape[1:])
        x0 = moment.x0.reshape(-1, self.particles, *shape)  # type: ignore[union-attr]
        if "mask" not in notes:
            notes["mask"] = torch.zeros(x0.shape[0], *shape, dtype=torch.bool, device=x.device)
            notes["values"] = torch.zeros(x0.shape[0], *shape, dtype=x.dtype, device=x.device)
        if moment.row.index in self.steps:
            new = self.chosen(x0, notes["mask"])
            problems = [index // self.particles for index in list(moment.index)[:: self.particles]]
            notes["values"] = torch.where(new, self.acquire(new, problems).to(x), notes["values"])
            notes["mask"] = notes["mask"] | new
            moment.report("mask", notes["mask"])
        gamma = (moment.rho / self.noise) ** 2
        pull = gamma / (1 + gamma) if math.isfinite(gamma) else 1.0
        mask, values = (notes[key].repeat_interleave(self.particles, 0) for key in ("mask", "values"))
        return edited(x, moment, "clean", lambda clean: torch.where(mask, torch.lerp(clean, values, pull), clean))

    def chosen(self, x0: Tensor, known: Tensor) -> Tensor:
        """Where to measure next.

        Args:
            x0: estimates (problems, particles, *shape).
            known: (problems, *shape) bool: what has been measured.

        Returns:
            (problems, *shape) bool, ``budget`` candidates of each problem.
        """
        flat, seen = x0.flatten(2), known.flatten(1)
        groups = torch.arange(flat.shape[2]) if self.groups is None else self.groups.flatten()
        groups = groups.to(x0.device)
        count = int(groups.max()) + 1
        if self.entropy == "variance":
            score = flat.new_zeros(flat.shape[0], count).index_add_(1, groups, flat.var(1))
        else:
            parts = [mixture_entropy(flat[:, :, groups == g][:, :, None], self.noise) for g in range(count)]
            score = torch.cat(parts, 1)
        done = torch.zeros_like(score).index_add_(1, groups, seen.to(score)) > 0
        best = score.masked_fill(done, -math.inf).topk(min(self.budget, count), 1).indices
        picked = torch.zeros_like(done).scatter_(1, best, True) & ~done
        return picked[:, groups].reshape(known.shape)
