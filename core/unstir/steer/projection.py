"""Write the measured part of the state: whatever A sees becomes the measurement at the noise level reached.

    x_s <- x_s + A^+ (y_s - A x_s),        y_s = A q(x_s | A^+ y) = alpha_s A A^+ y + beta_s A (anchor) + sigma_s A z

With a mask it is RePaint without jumps; with a low-pass filter ILVR. Together with the guide ``DPS`` it is MCG:
``guides=[DPS(operator, y, weight)], steers=[Projection(operator, y)]``.
Reference: Choi et al. 2021 (ILVR), arXiv:2108.02938; Song et al. 2022, arXiv:2111.08005; Chung et al. 2022 (MCG), arXiv:2206.00941.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.operator.base import Operator
from unstir.steer.base import Moment, Steer, per_sample

_MODES = ("noised", "path")


@dataclass(frozen=True, eq=False)
class Projection(Steer):
    """Project onto the measurement after every step, per sample; no evaluation of the denoiser.

    Args:
        operator: A, whose ``pinv`` is used.
        y: the measurement, (*shape_out), (1, *shape_out) or one a sample of the run.
        mode: ``"noised"`` draws the noise z anew each step (for stochastic solvers), ``"path"`` once a trajectory (for deterministic ones).

    Raises:
        UserError: a measurement that does not fit or is not finite, or another mode.
    """

    operator: Operator
    y: Tensor
    mode: str = "noised"
    exactness: ClassVar[str] = "exact in what A sees, for a measurement without noise; biased in the rest, as steps become finer too"

    def __post_init__(self) -> None:
        if self.mode not in _MODES:
            raise UserError(f"the mode of a Projection is 'noised' or 'path', got {self.mode!r}")
        object.__setattr__(self, "y", self.operator.measurement(self.y))

    def after(self, x: Tensor, moment: Moment) -> Tensor:  # type: ignore[override]
        """The state whose measured part is that of the measurement, made noisy."""
        known = self.operator.pinv(per_sample(self.y, moment, x))
        noise = torch.zeros_like(x) if moment.row.sigma_s == 0 else self._noise(x, moment)
        noisy = moment.process.perturb(known, moment.row.s, noise, moment.anchor)
        return x + self.operator.pinv(self.operator(noisy - x))

    def _noise(self, x: Tensor, moment: Moment) -> Tensor:
        if self.mode == "path" and "noise" in moment.memory:
            return moment.memory["noise"]
        if moment.noise is None:
            raise UserError("a Projection needs noise, and this moment has none")
        moment.memory["noise"] = moment.noise.draw(tuple(x.shape[1:]), x.dtype, x.device, stream="projection")
        return moment.memory["noise"]
