"""Guide and rescale: edit with a new condition, keep what an energy of features says of the source, and balance the two.

    D' = D_u + c + gamma g,     c = w (D_c - D_u),     g = -v (sigma^2/alpha) grad_x E(features now, features of the source)
    gamma = clip(r, low, high)/r,    r = ||g||/||c||,  each sample on its own

so that whatever the scale v of the energy, the guider's norm stays between ``low`` and ``high`` of that of classifier-free guidance.
Reference: Titov et al. 2024, arXiv:2409.01322; self-guidance energies: Epstein et al. 2023, arXiv:2306.00986.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.guide.base import Guide
from unstir.guide.cfg import unconditional
from unstir.guide.likelihood import check_tensor, gain
from unstir.operator.cg import inner

if TYPE_CHECKING:
    from unstir.denoiser.base import Denoiser

Energy = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Tensor]


@dataclass(frozen=True, eq=False)
class GuideAndRescale(Guide):
    """Classifier-free guidance to a new condition, held to the source by an energy; 3 evaluations a step and one transpose.

    Args:
        weight: w, not 0.
        energy: ``energy(now, source)`` gives a number a sample (batch,) from two mappings: ``"estimate"``, and each of ``layers``.
        source: ``source(t)`` gives the source's noisy state at a time (1 or batch, *shape), from its inversion say (``Recorded``).
        source_condition: what the denoiser is told of the source, one row or the batch; the unconditional branch's when absent.
        layers: names of modules inside the denoiser (or the ends of names) whose outputs are features.
        strength: v.
        low: the least norm of the guider, relative to classifier-free guidance.
        high: the largest.
        null: entries of the unconditional branch, as for ``CFG``.
        keys: entries left out of it, as for ``CFG``.

    Raises:
        UserError: a number is out of range.
    """

    weight: float
    energy: Energy
    source: Callable[[Any], Tensor]
    source_condition: Mapping[str, Any] | None = None
    layers: tuple[str, ...] = ()
    strength: float = 1.0
    low: float = 0.33
    high: float = 3.0
    null: Mapping[str, Any] | None = None
    keys: tuple[str, ...] | None = None
    needs_grad: ClassVar[bool] = True
    exactness: ClassVar[str] = "biased: an edit, no law; the guider's norm lies within its band at every step"

    def __post_init__(self) -> None:
        numbers = (self.weight, self.strength, self.low, self.high)
        if not all(map(math.isfinite, numbers)) or self.weight == 0 or not 0 <= self.low <= self.high or self.strength < 0:
            raise UserError(
                "guide and rescale needs a finite weight other than 0, strength >= 0 and 0 <= low <= high, "
                f"got weight={self.weight}, strength={self.strength}, low={self.low}, high={self.high}"
            )

    def estimate(self, denoiser: Denoiser, x: Tensor, t: Any, condition: Mapping[str, Any] | None) -> Tensor:  # type: ignore[override]
        """The guided estimate; nothing in it remembers a gradient."""
        check_tensor(x, self)
        free = unconditional(condition, len(x), self.null, self.keys)
        with torch.inference_mode(False), torch.no_grad():
            base = denoiser(x.clone(), t, free)
            source = self.source(t).to(x).expand_as(x)
            _, then = features(denoiser, source, t, self.source_condition or free, self.layers)
            with torch.enable_grad():
                x = x.detach().clone().requires_grad_()
                given, now = features(denoiser, x, t, condition, self.layers)
                energy = self.energy(now, then)
                if energy.shape != (len(x),) or not energy.requires_grad:
                    raise UserError(f"an energy is one differentiable number a sample, ({len(x)},), got {tuple(energy.shape)}")
                (slope,) = torch.autograd.grad(energy.sum(), x)
        edit = self.weight * (given.detach() - base)
        return base + edit + self.rescaled(-self.strength * gain(denoiser.process, x, t) * slope, edit)

    def rescaled(self, guider: Tensor, edit: Tensor) -> Tensor:
        """The guider, its norm brought into the band around that of the edit; 0 where it has no direction.

        Args:
            guider: (batch, *shape).
            edit: (batch, *shape).

        Returns:
            (batch, *shape).
        """
        own, other = (inner(value, value).sqrt() for value in (guider, edit))
        target = torch.minimum(torch.maximum(own, self.low * other), self.high * other)
        scale = torch.where(own > 0, target / torch.where(own > 0, own, 1.0), 0.0)
        return guider * scale.view(-1, *[1] * (guider.ndim - 1))


@dataclass(frozen=True, eq=False)
class Recorded:
    """The states of a recorded trajectory by their times: the ``source`` of an edit.

    Args:
        times: of the states, as in ``Samples.times``.
        path: the states, as in ``Samples.path``.

    Raises:
        UserError: not one state a time.
    """

    times: Sequence[float]
    path: Sequence[Tensor]

    def __post_init__(self) -> None:
        if len(self.times) != len(self.path):
            raise UserError(f"a recorded trajectory has one state a time, got {len(self.path)} states and {len(self.times)} times")

    def __call__(self, t: Any) -> Tensor:
        """The state at a time.

        Args:
            t: one of the times.

        Returns:
            (rows, *shape).

        Raises:
            UserError: nothing was recorded then.
        """
        for time, state in zip(self.times, self.path, strict=True):
            if math.isclose(time, t, rel_tol=1e-9):
                return state
        raise UserError(f"the source was recorded at other times than {t}: record it on the grid of the edit")


def features(
    denoiser: Denoiser, x: Tensor, t: Any, condition: Mapping[str, Any] | None, layers: Sequence[str] = ()
) -> tuple[Tensor, dict[str, Tensor]]:
    """An estimate, and what modules inside the denoiser gave on the way to it.

    Args:
        denoiser: the model.
        x: noisy state.
        t: the time.
        condition: what the denoiser is given.
        layers: names of modules, or the ends of their names.

    Returns:
        The estimate, and the features by layer, with the estimate itself as ``"estimate"``.

    Raises:
        UserError: a name fits no module, or several.
    """
    with _listening(denoiser, layers) as heard:
        x0 = denoiser(x, t, condition)
    return x0, {"estimate": x0, **heard}


@contextmanager
def _listening(denoiser: Denoiser, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    heard: dict[str, Tensor] = {}
    hooks = []
    try:
        for layer in layers:
            found = [module for name, module in denoiser.named_modules() if name == layer or name.endswith("." + layer)]
            if len(found) != 1:
                raise UserError(f"{len(found)} modules of the denoiser are called {layer!r}: give the end of a name that only one has")

            def keep(_module: Any, _inputs: Any, output: Any, layer: str = layer) -> None:
                heard[layer] = output

            hooks.append(found[0].register_forward_hook(keep))
        yield heard
    finally:
        for hook in hooks:
            hook.remove()
