"""Classifier-free guidance: exaggerate what the condition changes.

    D' = D_u + w (D_c - D_u)    where low <= sigma/alpha <= high, else D_c

w = 1 is the plain conditional denoiser, w = 0 the unconditional one. Ho & Salimans and azula count from there: their weight is w - 1.
Reference: Ho & Salimans 2022, arXiv:2207.12598; interval: Kynkaanniemi et al. 2024, arXiv:2404.07724; rescaling: Lin et al. 2024,
arXiv:2305.08891.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.guide.base import Guide
from unstir.state import batch_size, map_state

if TYPE_CHECKING:
    from unstir.denoiser.base import Denoiser
    from unstir.state import State

_STRUCTURAL = ("anchor", "mask")  # entries that say where the state lives, not what it should be


@dataclass(frozen=True, eq=False)
class CFG(Guide):
    """Classifier-free guidance; the second evaluation is skipped where it would not count.

    Args:
        weight: w.
        null: entries of the unconditional branch that replace those of the condition, batch first, of size 1 or the batch. When absent,
            ``keys`` are left out instead.
        keys: entries left out of the unconditional branch; all but ``anchor`` and ``mask`` when absent.
        low: guide from this sigma/alpha on.
        high: guide up to this sigma/alpha.
        rescale: phi in [0, 1]: mix in D' std(D_c)/std(D'), per sample, against over-saturation (the paper takes 0.7).

    Raises:
        UserError: a weight that is not finite, an empty interval, or phi outside [0, 1].
    """

    weight: float
    null: Mapping[str, Any] | None = None
    keys: tuple[str, ...] | None = None
    low: float = 0.0
    high: float = math.inf
    rescale: float = 0.0
    exactness: ClassVar[str] = "exact for weight 1 (and 0, everywhere); otherwise biased: it does not sample p(x|c)^w p(x)^(1-w)"

    def __post_init__(self) -> None:
        if not math.isfinite(self.weight) or not 0 <= self.low < self.high or not 0 <= self.rescale <= 1:
            raise UserError(
                "classifier-free guidance needs a finite weight, 0 <= low < high and rescale in [0, 1], "
                f"got weight={self.weight}, low={self.low}, high={self.high}, rescale={self.rescale}"
            )

    def estimate(self, denoiser: Denoiser, x: State, t: Any, condition: Mapping[str, Any] | None) -> State:
        """The guided estimate: one evaluation outside the interval or at weight 1, two inside."""
        without = self.unconditional(condition, batch_size(x))
        conditional = denoiser(x, t, condition)
        clock = denoiser.process.clock
        rho = clock.rho(next(iter(t.values())) if isinstance(t, Mapping) else t)
        active = (rho >= self.low) & (rho <= self.high)
        if self.weight == 1 or not bool(active.any()):
            return conditional

        def mixed(given: Tensor, free: Tensor) -> Tensor:
            guided = torch.lerp(free, given, self.weight)
            if self.rescale:
                ratio = _spread(given) / _spread(guided).clamp_min(torch.finfo(guided.dtype).tiny)
                guided = guided * (self.rescale * ratio + (1 - self.rescale)).view(-1, *[1] * (given.ndim - 1))
            return guided if active.ndim == 0 else torch.where(active.to(given.device).view(-1, *[1] * (given.ndim - 1)), guided, given)

        return map_state(mixed, conditional, denoiser(x, t, without))

    def unconditional(self, condition: Mapping[str, Any] | None, batch: int) -> Mapping[str, Any] | None:
        """The condition of the second branch."""
        if not condition:
            raise UserError("classifier-free guidance needs a condition: pass condition={...} to sample")
        if self.null is not None:
            single = {key for key, value in self.null.items() if isinstance(value, Tensor) and value.shape[:1] == (1,)}
            return {**condition, **{key: v.expand(batch, *v.shape[1:]) if key in single else v for key, v in self.null.items()}}
        dropped = set(self.keys) if self.keys is not None else set(condition) - set(_STRUCTURAL)
        missing = dropped - set(condition)
        if missing or not dropped:
            raise UserError(f"classifier-free guidance leaves out {sorted(dropped) or 'nothing'}, the condition holds {sorted(condition)}")
        return {key: value for key, value in condition.items() if key not in dropped} or None


def _spread(x: Tensor) -> Tensor:
    """Standard deviation of each sample over all its values, sample by sample so that the batch does not decide the order of the sum."""
    return torch.stack([row.std(correction=0) for row in x])
