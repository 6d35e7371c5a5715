"""Cyclic one-way diffusion: what is known is planted at the top of each walk of a time-travelling solver, and flows into the rest.

    RePaint:   x_s[known] ~ q(x_s | v) = N(alpha_s v + beta_s y, sigma_s^2)      after every step: a ``Constraint`` under ``time-travel``
    one-way:   the same where the solver has just gone up (and at the first state), nothing on the way down; x_0[known] = v at the end

On the way down known and unknown are one state, so that the denoiser fits the one to the other; each cycle does it from a better beginning.
A jump must be short of where all is noise: there a cycle forgets what the last one did.
Reference: Wang et al. 2023 (cyclic one-way diffusion), arXiv:2306.08247; Lugmayr et al. 2022 (RePaint), arXiv:2201.09865.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from unstir.errors import UserError
from unstir.steer.base import Moment
from unstir.steer.constraint import Constraint


@dataclass(frozen=True, eq=False)
class OneWay(Constraint):
    """Plants the known region at the top of every walk of a time-travelling solver, and writes it at the end; nothing in between.

    With ``low`` above 0 it is also written at every level below, which keeps fine detail. Arguments are those of :class:`Constraint`, whose
    ``mode`` says with which noise, and this one.

    Args:
        low: write at every step that ends at a sigma/alpha of at most this.

    Raises:
        UserError: a mode without noise, a negative level, or a value that is not finite where the mask holds.
    """

    low: float = 0.0
    exactness: ClassVar[str] = "exact in the masked region at the end; biased elsewhere, less and less with the number of cycles"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode not in ("noised", "path") or not self.low >= 0:
            raise UserError(f"one-way diffusion plants a noised value ('noised' or 'path') and low >= 0, got {self.mode!r} and {self.low}")

    def before(self, x: Tensor, moment: Moment) -> Tensor:  # type: ignore[override]
        """The first state with the condition planted."""
        return self.held(x, moment, moment.row.t) if moment.row.index == 0 else x

    def after(self, x: Tensor, moment: Moment) -> Tensor:  # type: ignore[override]
        """The state, with the condition planted where a walk begins again, and below ``low``."""
        row = moment.row
        planted = row.rho_s > row.rho_t or row.rho_s <= self.low or moment.last  # type: ignore[operator]
        return self.held(x, moment, row.s) if planted else x
