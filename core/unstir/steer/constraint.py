"""Hold a region of the state at known values.

    x_s <- m (alpha_s v + beta_s y + sigma_s eps) + (1 - m) x_s,   or   m v + (1 - m) x_s

Reference: Lugmayr et al. 2022 (RePaint, without its jumps), arXiv:2201.09865; Janner et al. 2022 (Diffuser: the clean value),
arXiv:2205.09991 (hard conditions after every edit). Of categories the first line is a draw of q(x_s | v).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.steer.base import Moment, Steer, per_sample

_MODES = ("noised", "path", "clean", "end")


@dataclass(frozen=True, eq=False)
class Constraint(Steer):
    """Overwrite the masked region after every step.

    Modes: ``noised`` writes the value at the noise level reached, with new noise each time (draws once a step, for stochastic solvers);
    ``path`` does so with one noise for the whole trajectory, the exact path of a known value (for deterministic solvers, whose history
    stays smooth); ``clean`` writes the clean value at every level (for a network trained to see it so); ``end`` writes it once, at the end.

    Args:
        mask: True (or 1) where the value is known; (*shape), or (1 or samples, *shape).
        value: the clean value, the same shapes, or a number.
        mode: one of the four.

    Raises:
        UserError: another mode, or a value that is not finite where the mask holds.
    """

    mask: Tensor
    value: Tensor | float
    mode: str = "noised"
    exactness: ClassVar[str] = "exact in the masked region at the end; biased elsewhere, which sees the known part one evaluation later"

    def __post_init__(self) -> None:
        if self.mode not in _MODES:
            raise UserError(f"the mode of a Constraint is one of {', '.join(_MODES)}, got {self.mode!r}")
        value = torch.as_tensor(self.value)
        if not bool(torch.isfinite(torch.where(torch.as_tensor(self.mask) != 0, value, torch.zeros_like(value))).all()):
            raise UserError("the value of a Constraint must be finite wherever its mask holds")

    def after(self, x: Tensor, moment: Moment) -> Tensor:  # type: ignore[override]
        """The state with its masked region overwritten."""
        return self.held(x, moment, moment.row.s)

    def held(self, x: Tensor, moment: Moment, t: Any) -> Tensor:
        """A state at a time with its masked region overwritten: what other steers call after an edit.

        Args:
            x: (batch, *shape), anchor included.
            moment: the step.
            t: where the state is: the time at which the step starts or ends.

        Returns:
            A new state.

        Raises:
            UserError: a dict of leaves, or a value that does not fit.
        """
        if not isinstance(x, Tensor):
            raise UserError("a Constraint works on a tensor and the state is a dict of leaves: wrap it as OnLeaf(leaf, steer)")
        row = moment.row
        last = (row.sigma_t if t is row.t else row.sigma_s) == 0
        if self.mode == "end" and not last:
            return x
        noise = None
        if self.mode in ("noised", "path"):
            noise = torch.zeros(x.shape, dtype=noise_dtype(x), device=x.device) if last else self._noise(x, moment)
        return self.written(x, moment, t, noise)

    def written(self, x: Tensor, moment: Moment, t: Any, noise: Tensor | None) -> Tensor:
        """A state with its masked region overwritten by the clean value, or by that value with this noise in it.

        Args:
            x: (batch, *shape), anchor included.
            moment: the step.
            t: where the state is.
            noise: unit noise of the shape of x; absent for the clean value.

        Returns:
            A new state.
        """
        mask, known = (per_sample(self._batched(v, x), moment, x) for v in (self.mask, self.value))
        known = torch.where(mask != 0, known, torch.zeros_like(known))  # what is not known may hold anything, NaN too
        if noise is not None:
            known = moment.process.perturb(known, t, noise, moment.anchor)
        return torch.where(mask != 0, known.to(x.dtype), x)

    def _noise(self, x: Tensor, moment: Moment) -> Tensor:
        if self.mode == "path" and "noise" in moment.memory:
            return moment.memory["noise"]
        if moment.noise is None:
            raise UserError(f"a Constraint of mode {self.mode!r} needs noise, and this moment has none: use mode 'clean' or 'end'")
        moment.memory["noise"] = moment.noise.draw(tuple(x.shape[1:]), noise_dtype(x), x.device, stream="constraint")
        return moment.memory["noise"]

    @staticmethod
    def _batched(value: Tensor | float, x: Tensor) -> Tensor:
        value = torch.as_tensor(value)
        if value.ndim < x.ndim:
            value = value.expand(1, *x.shape[1:])
        return value


def noise_dtype(x: Tensor) -> torch.dtype:
    """In what type noise for a state is drawn: its own; float64 for whole numbers, whose process turns normals into uniforms."""
    return x.dtype if x.is_floating_point() or x.is_complex() else torch.float64


@dataclass(frozen=True, eq=False)
class Enforced(Constraint):
    """A :class:`Constraint` on the first state too, and after every edit that steers before it in the list make before a step.

    Arguments and errors are those of :class:`Constraint`. With one noise for the whole trajectory (``path``) or clean values the denoiser
    never sees anything else in the masked region, so that what is known leads the rest by no step less.
    """

    exactness: ClassVar[str] = "exact in the masked region at every time; biased elsewhere, which hears of it by the denoiser alone"

    def before(self, x: Tensor, moment: Moment) -> Tensor:  # type: ignore[override]
        """The state with its masked region overwritten."""
        return self.held(x, moment, moment.row.t)
