"""A denoiser says what it believes the clean data are: D(x, t) = E[x_0 | x_t = x, condition].

Guides and adaptors are denoisers too: they wrap one and give one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from unstir.denoiser.normaliser import Normaliser
from unstir.errors import UserError
from unstir.process import Joint, Process
from unstir.process.base import spread
from unstir.space import Euclidean, JointSpace, Space

Shape = tuple[int, ...] | dict[str, tuple[int, ...]]
Condition = Mapping[str, Any]


class Denoiser(torch.nn.Module, ABC):
    """What a model believes the clean data are.

    Args:
        process: how the data were made noisy.
        shape: shape of one state without its batch, -1 where any size works; a dict of shapes for a dict state.
        space: where states live; Euclidean (in every leaf) when absent.
        normaliser: from physical units to units of the state.
        card: the model card, a text.
    """

    process: Process
    space: Space
    shape: Shape
    normaliser: Normaliser
    card: str | None
    needs_noise: bool = False  # of an equation with noise, which a deterministic solver would follow to another law

    def __init__(
        self,
        process: Process,
        shape: Shape,
        space: Space | None = None,
        normaliser: Normaliser | None = None,
        card: str | None = None,
    ) -> None:
        super().__init__()
        self.process = process
        self.shape = shape
        self.space = space or (JointSpace({leaf: Euclidean() for leaf in shape}) if isinstance(shape, dict) else Euclidean())
        self.normaliser = normaliser or Normaliser()
        self.card = card

    @abstractmethod
    def forward(self, x: Any, t: Any, condition: Condition | None = None) -> Any:
        """E[x_0 | x_t = x, condition].

        Args:
            x: noisy state (batch, *shape), with its anchor in it; or a dict of such leaves.
            t: a float, the same time for all (coefficients stay on the host), or a tensor (batch,).
            condition: entries are batch first, of the size of the batch or 1; ``anchor`` is the anchor of an anchored process.

        Returns:
            The clean estimate, of the structure, shape and dtype of ``x``.
        """

    def with_process(self, process: Process) -> Denoiser:
        """The same model on another process: it is asked at the time of equal sigma/alpha.

        D'(x', t') = D(x' alpha/alpha', t),    rho(t) = rho'(t')

        Exact for every pair of processes; an anchor is taken out on one side and put in on the other. A noise level above the
        largest this model knows (infinite, at pure noise) is met at ``t_max``.

        Args:
            process: the other process; joint for a dict state.

        Returns:
            A denoiser on ``process``.
        """
        return self if process == self.process else Rescheduled(self, process)


class Rescheduled(Denoiser):
    """A denoiser moved to another process by matching sigma/alpha; see ``Denoiser.with_process``.

    Args:
        denoiser: the model, on its own process.
        process: the process to sample.

    Raises:
        UserError: one is joint and the other is not, their leaves differ, or the model's leaves share one time.
    """

    def __init__(self, denoiser: Denoiser, process: Process) -> None:
        super().__init__(process, denoiser.shape, denoiser.space, denoiser.normaliser, denoiser.card)
        own = denoiser.process
        if isinstance(own, Joint) != isinstance(process, Joint):
            raise UserError("a joint process can only be exchanged for another joint process")
        if isinstance(own, Joint) and isinstance(process, Joint):
            if set(own.leaves) != set(process.leaves):
                raise UserError(f"the leaves of the processes differ: {sorted(own.leaves)} and {sorted(process.leaves)}")
            if own.shared_time:
                raise UserError("the model has one time for all leaves, so their noise levels cannot be matched one by one")
        self.denoiser = denoiser

    def forward(self, x: Any, t: Any, condition: Condition | None = None) -> Any:
        """The estimate of the model at the matching time and scale."""
        own, other = self.denoiser.process, self.process
        if not isinstance(own, Joint) or not isinstance(other, Joint):
            moved, time = _moved(own, other, x, t, anchor_of(condition))
            return self.denoiser(moved, time, condition)
        times, anchors = other.times(t), anchor_of(condition) or {}
        parts = {leaf: _moved(own.leaves[leaf], other.leaves[leaf], x[leaf], times[leaf], anchors.get(leaf)) for leaf in x}
        return self.denoiser({leaf: part[0] for leaf, part in parts.items()}, {leaf: part[1] for leaf, part in parts.items()}, condition)

    def with_process(self, process: Process) -> Denoiser:
        """The model itself, moved to a third process."""
        return self.denoiser.with_process(process)


def _moved(own: Process, other: Process, x: Tensor, t: Any, anchor: Tensor | None) -> tuple[Tensor, Any]:
    """The state and the time at which the model is asked."""
    ratio: Any
    if isinstance(t, Tensor):
        time: Any = matching_time(own, other, t)
        level, level_other = _levels(own, other, time, t)
        ratio, beta, beta_other = (spread(c, x) for c in (level / level_other, own.beta(time), other.beta(t)))
    else:
        time, ratio, beta, beta_other = _matched(own, other, float(t))
    moved = x * ratio
    if own.anchored or other.anchored:
        moved = moved + (beta - beta_other * ratio) * (other if other.anchored else own).need(anchor)
    return moved, time


@lru_cache(maxsize=4096)
def _matched(own: Process, other: Process, t: float) -> tuple[float, float, float, float]:
    time = float(matching_time(own, other, t))
    level, level_other = _levels(own, other, time, t)
    ratio = float(level / level_other) if float(level_other) else 0.0  # a pinned end: the state without its anchor is 0
    return time, ratio, float(own.beta(time)), float(other.beta(t))


def matching_time(own: Process, other: Process, t: float | Tensor) -> Tensor:
    """The time on ``own`` whose sigma/alpha is that of ``other`` at ``t``, at most ``own.t_max`` where that is infinite."""
    rho = other.rho(t)
    return torch.where(torch.isinf(rho), torch.full_like(rho, own.t_max), own.time_at_rho(rho))


def _levels(own: Process, other: Process, time: float | Tensor, t: float | Tensor) -> tuple[Tensor, Tensor]:
    """What a state is divided by on each side: alpha at low noise, sigma at high noise, whichever is the larger."""
    noisy = other.sigma(t) > other.alpha(t)
    return torch.where(noisy, own.sigma(time), own.alpha(time)), torch.where(noisy, other.sigma(t), other.alpha(t))


def anchor_of(condition: Condition | None) -> Any:
    """The anchor in a condition, or None."""
    return None if condition is None else condition.get("anchor")


@lru_cache(maxsize=4096)
def scales(process: Process, t: float) -> tuple[float, float, float]:
    """alpha, beta and sigma at one time, as Python floats."""
    return float(process.alpha(t)), float(process.beta(t)), float(process.sigma(t))


def check_shape(x: Any, shape: Shape, who: str) -> None:
    """Raise unless a state has the shape a denoiser declares (-1 matches any size)."""
    if isinstance(shape, dict) != isinstance(x, Mapping):
        raise UserError(f"{who} takes a {'dict of leaves' if isinstance(shape, dict) else 'tensor'} as its state, got a {type(x).__name__}")
    if isinstance(shape, dict):
        if set(shape) != set(x):
            raise UserError(f"{who} takes the leaves {sorted(shape)}, got {sorted(x)}")
        for leaf, part in shape.items():
            check_shape(x[leaf], part, f"leaf {leaf!r} of {who}")
        return
    if x.ndim != len(shape) + 1 or any(want not in (-1, size) for want, size in zip(shape, x.shape[1:], strict=True)):
        raise UserError(f"{who} takes states of shape (batch, {', '.join(map(str, shape))}), got {tuple(x.shape)}")
