"""A 2D prior over the slices of a volume.

D(x, t)[..., i, ...] = D_2(x[..., i-c : i+c+1, ...], t)          averaged over the axes the volume is cut along
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from unstir.denoiser.base import Condition, Denoiser, check_shape
from unstir.errors import UserError


class Sliced(Denoiser):
    """A 2D prior over the slices of a volume, along one axis or several.

    The slices of all samples go through the prior in chunks, so memory does not grow with their number, and the result does not
    depend on the chunk (but for rounding in the network). Along several axes the estimates are averaged, which is no longer the
    denoiser of any one prior.                                                  [TPDM, Lee et al. 2023, arXiv:2303.08440, uses two axes]

    Args:
        prior: a denoiser of (slices, 1 + 2 context, height, width) that returns (slices, 1, height, width); or a dict of one an
            axis (all on one process).
        shape: the volume (Z, Y, X), -1 where any size works.
        axis: 0, 1 or 2, the axis that numbers the slices, or several of them.
        chunk: slices that go through the prior at once.
        context: neighbours on either side given to the prior as channels; zeros beyond the ends of the volume.
        weights: of each axis in the average, in the order of ``axis``; equal when absent. They are scaled to sum to 1.
        recompute: where gradients are needed, forget the inside of the prior and compute it again chunk by chunk, so that memory
            stays flat at the price of one more evaluation.

    Raises:
        UserError: an axis is not 0, 1 or 2, is named twice or has no prior; priors differ in process; or weights do not fit.
    """

    def __init__(
        self,
        prior: Denoiser | Mapping[int, Denoiser],
        shape: tuple[int, int, int] = (-1, -1, -1),
        axis: int | Sequence[int] = 0,
        chunk: int = 16,
        context: int = 0,
        *,
        weights: Sequence[float] | None = None,
        recompute: bool = True,
    ) -> None:
        axes = (axis,) if isinstance(axis, int) else tuple(axis)
        if not axes or len(set(axes)) < len(axes) or not set(axes) <= {0, 1, 2}:
            raise UserError(f"a volume is sliced along axes 0, 1 or 2, each at most once, got {axis}")
        priors = dict(prior) if isinstance(prior, Mapping) else dict.fromkeys(axes, prior)
        if set(axes) - set(priors):
            raise UserError(f"there is no prior for axis {min(set(axes) - set(priors))}")
        first = priors[axes[0]]
        if any(priors[a].process != first.process for a in axes):
            raise UserError("the priors of the axes differ in process; move them to one with with_process")
        if chunk < 1 or context < 0:
            raise UserError(f"chunk must be at least 1 and context at least 0, got {chunk} and {context}")
        share = [1.0] * len(axes) if weights is None else [float(w) for w in weights]
        if len(share) != len(axes) or min(share) < 0 or sum(share) <= 0:
            raise UserError(f"weights must be one non-negative number an axis, not all 0, got {weights} for axes {axes}")
        super().__init__(first.process, tuple(shape), normaliser=first.normaliser, card=first.card)
        self.priors = torch.nn.ModuleDict({str(a): priors[a] for a in axes})
        self.axes, self.chunk, self.context, self.recompute = axes, chunk, context, recompute
        self.weights = tuple(w / sum(share) for w in share)

    def forward(self, x: Float[Tensor, "batch Z Y X"], t: Any, condition: Condition | None = None) -> Float[Tensor, "batch Z Y X"]:
        """E[x_0 | x_t = x, condition], slice by slice; condition entries of the volume's shape are sliced too, others repeated."""
        check_shape(x, self.shape, "the sliced denoiser")
        estimates = [self._along(axis, x, t, condition) for axis in self.axes]
        if len(estimates) == 1:
            return estimates[0]
        return sum((w * estimate for w, estimate in zip(self.weights[1:], estimates[1:], strict=True)), self.weights[0] * estimates[0])

    def with_process(self, process: Any) -> Denoiser:
        """The same volume denoiser with its priors moved to another process."""
        moved = {axis: self.priors[str(axis)].with_process(process) for axis in self.axes}  # type: ignore[operator]
        return Sliced(moved, self.shape, self.axes, self.chunk, self.context, weights=self.weights, recompute=self.recompute)  # type: ignore[arg-type]

    def _along(self, axis: int, x: Tensor, t: Any, condition: Condition | None) -> Tensor:
        stack = x.movedim(axis + 1, 1)
        count = stack.shape[0] * stack.shape[1]
        if count == 0:
            return x.clone()
        prior = self.priors[str(axis)]
        forget = self.recompute and torch.is_grad_enabled() and x.requires_grad
        estimates = []
        for start in range(0, count, self.chunk):
            index = range(start, min(start + self.chunk, count))
            given = self._window(stack, index), self._times(t, stack, index), self._condition(condition, x, axis, index)
            estimates.append(checkpoint(prior, *given, use_reentrant=False) if forget else prior(*given))
        slices = torch.cat(estimates)
        if slices.shape != (count, 1, *stack.shape[2:]):
            raise UserError(f"the prior must return slices of shape {(count, 1, *stack.shape[2:])}, got {tuple(slices.shape)}")
        return slices.reshape(stack.shape).movedim(1, axis + 1)

    def _window(self, stack: Tensor, index: range) -> Tensor:
        """The slices of a chunk with their neighbours as channels (slices, 1 + 2 context, height, width)."""
        count, device = stack.shape[1], stack.device
        flat = torch.arange(index.start, index.stop, device=device)
        sample, place = (flat // count)[:, None], (flat % count)[:, None]
        around = place + torch.arange(-self.context, self.context + 1, device=device)
        window = stack[sample, around.clamp(0, count - 1)]
        if not self.context:
            return window
        inside = (around >= 0) & (around < count)
        return window * inside[:, :, None, None].to(window.dtype)

    def _times(self, t: Any, stack: Tensor, index: range) -> Any:
        return t[_samples(stack, index)] if isinstance(t, Tensor) and t.ndim else t

    def _condition(self, condition: Condition | None, x: Tensor, axis: int, index: range) -> Condition | None:
        """The condition of a chunk: what has the shape of the volume is sliced with it, the rest is repeated for each slice."""
        if condition is None:
            return None
        stack = x.movedim(axis + 1, 1)
        return {key: self._entry(value, stack, axis, index) for key, value in condition.items()}

    def _entry(self, value: Any, stack: Tensor, axis: int, index: range) -> Any:
        if not isinstance(value, Tensor) or not value.ndim or value.shape[0] not in (1, stack.shape[0]):
            return value
        turned = value.movedim(axis + 1, 1) if value.ndim == 4 else value
        if turned.ndim == 4 and turned.shape[1:] == stack.shape[1:]:
            return self._window(turned.expand(stack.shape), index)
        return value[_samples(stack, index)] if value.shape[0] > 1 else value.expand(len(index), *value.shape[1:])


def _samples(stack: Tensor, index: range) -> Tensor:
    """Which sample each slice of a chunk belongs to."""
    return torch.arange(index.start, index.stop, device=stack.device) // stack.shape[1]
