"""Self-attention and blur guidance: move away from what the model believes when details are taken out.

    x~ = x + alpha (M blur(x0) + (1 - M) x0 - x0),   x0 = D(x)        the same noise on an estimate blurred where the mask M is 1
    eps' = eps(x~) + (1 + s) (eps(x) - eps(x~)),     which is         D' = D(x) + s (D(x) - D(x~)) + s (x~0 - x0)

with x~0 the blurred estimate. Without condition or training; M = 1 everywhere is blur guidance.
Reference: Hong et al. 2023 (SAG), arXiv:2210.00939.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from unstir.errors import UserError
from unstir.guide.base import Guide
from unstir.guide.likelihood import check_tensor
from unstir.process.base import spread

if TYPE_CHECKING:
    from unstir.denoiser.base import Denoiser

Mask = Callable[["Denoiser", Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class BlurGuidance(Guide):
    """Guidance by the model's own blurred estimate, everywhere or where a mask says; 2 evaluations a step.

    Args:
        weight: s; 0 changes nothing and costs nothing.
        sigma: width of the Gaussian blur, in cells of the state.
        mask: ``mask(denoiser, x0)`` gives 1 where to blur (batch, 1 or channels, *cells), right after the first evaluation; everywhere
            when absent. ``AttentionMask`` reads the network's attention: self-attention guidance.

    Raises:
        UserError: a weight that is not finite, or a width that is not positive.
    """

    weight: float
    sigma: float = 2.0
    mask: Mask | None = None
    exactness: ClassVar[str] = "exact for weight 0; otherwise biased towards estimates with more detail than the model's own"

    def __post_init__(self) -> None:
        if not math.isfinite(self.weight) or not 0 < self.sigma < math.inf:
            raise UserError(f"blur guidance needs a finite weight and a positive width, got {self.weight} and {self.sigma}")

    def estimate(self, denoiser: Denoiser, x: Tensor, t: Any, condition: Mapping[str, Any] | None) -> Tensor:  # type: ignore[override]
        """The guided estimate."""
        check_tensor(x, self)
        x0 = denoiser(x, t, condition)
        if self.weight == 0:
            return x0
        shift = blurred(x0, self.sigma) - x0
        if self.mask is not None:
            shift = shift * self.mask(denoiser, x0)
        dulled = denoiser(x + spread(denoiser.process.alpha(t), x) * shift, t, condition)
        return x0 + self.weight * (x0 - dulled + shift)


@dataclass(frozen=True)
class AttentionMask:
    """Where a network attended more than on average, from the maps of its last evaluation.

    mask = [mean over heads and queries of the attention paid to a token > threshold x its mean], repeated over the token's cells.

    Args:
        threshold: in units of the mean attention (the paper takes 1).
        maps: gives the maps (batch, heads, tokens, tokens) of a denoiser; when absent, the first attribute ``attention`` found on it or
            inside it.

    Raises:
        UserError: the threshold is negative.
    """

    threshold: float = 1.0
    maps: Callable[[Denoiser], Tensor] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < math.inf:
            raise UserError(f"the threshold of an attention mask must be finite and not negative, got {self.threshold}")

    def __call__(self, denoiser: Denoiser, x0: Tensor) -> Tensor:
        """The mask of a state of one or two axes of cells after its channels.

        Args:
            denoiser: has just been evaluated.
            x0: its estimate (batch, channels, *cells).

        Returns:
            (batch, 1, *cells), 0 or 1.

        Raises:
            UserError: there are no maps, or their tokens do not tile the cells.
        """
        maps = self.maps(denoiser) if self.maps else _attention(denoiser)
        if maps is None:
            raise UserError("the network keeps no attention maps: give AttentionMask(maps=...) or BlurGuidance(mask=...)")
        paid = maps.mean(dim=(1, 2))  # (batch, tokens): the attention each token receives
        cells = tuple(x0.shape[2:])
        ratio = (math.prod(cells) / paid.shape[1]) ** (1 / max(len(cells), 1))
        side = round(ratio)
        if len(cells) not in (1, 2) or not math.isclose(side, ratio) or any(n % side for n in cells):
            raise UserError(f"{paid.shape[1]} tokens do not tile a state of shape {tuple(x0.shape[1:])}")
        mask = (paid > self.threshold * paid.mean(1, keepdim=True)).to(x0.dtype)
        return F.interpolate(mask.reshape(-1, 1, *(n // side for n in cells)), size=cells, mode="nearest")


def _attention(denoiser: torch.nn.Module) -> Tensor | None:
    found = (getattr(module, "attention", None) for module in denoiser.modules())
    return next((maps for maps in found if isinstance(maps, Tensor)), None)


def blurred(x: Tensor, sigma: float) -> Tensor:
    """A Gaussian blur along the axes of cells, reflected at the edges.

    Args:
        x: (batch, channels, *cells), or (batch, cells).
        sigma: standard deviation in cells; the kernel is cut at three of them.

    Returns:
        The blurred state, of the same shape; a sample does not depend on its batch.
    """
    radius = math.ceil(3 * sigma)
    kernel = [math.exp(-0.5 * (k / sigma) ** 2) for k in range(-radius, radius + 1)]
    for axis in range(min(2, x.ndim - 1), x.ndim):
        size = x.shape[axis]
        place = torch.arange(-radius, size + radius, device=x.device).remainder(2 * size)  # ... 1 0 | 0 1 2 ... n-1 | n-1 ...
        place = torch.minimum(place, 2 * size - 1 - place)
        parts = (x.index_select(axis, place[k : k + size]) * (weight / sum(kernel)) for k, weight in enumerate(kernel))
        x = sum(parts, torch.zeros_like(x))
    return x
