"""Diffusion posterior sampling: descend the data residual, through the denoiser.

    D' = D + w (sigma_t^2/alpha_t) g,      g = -grad_x ||y - A D(x, t)|| = J^T A^H e / ||e||,   e = y - A D,   J = dD/dx

so that the score gains -w grad ||y - A D||, and the weight means the same for every process, solver and grid. The published method
instead steps after the solver, x_s <- x_s - w grad ||y - A D||. For the DDIM family (DDPM is eta = 1), x_s = a x + b D' + d z, that is
D' = D + (w/b) g: give its ``plan`` to have b. To rounding it is then the published method, with one evaluation a step.

Reference: Chung et al. 2023, arXiv:2209.14687 (the norm, not its square; the norm of each sample, never of the batch).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.guide.base import Guide, measured
from unstir.guide.likelihood import Linearised, check_tensor, gain
from unstir.operator.base import Sensor
from unstir.operator.cg import inner

if TYPE_CHECKING:
    from unstir.denoiser.base import Denoiser
    from unstir.solver import Row


@dataclass(frozen=True, eq=False)
class DPS(Guide):
    """Guide by the gradient of the data residual's norm, per sample; one evaluation of the denoiser and its transpose.

    Args:
        operator: A, or a sensor, which is linearised at the estimate.
        y: the measurement, (*shape_out) or (1, *shape_out) for all samples; or the name of the condition's entry that holds one a sample
            (that entry is then kept from the denoiser).
        weight: w, at least 0.
        plan: rows of the DDIM solver that samples, ``solver.plan(process, times)``, for the published placement; the score's when absent.

    Raises:
        UserError: a measurement that does not fit or is not finite, several measurements given directly, or a negative weight.
    """

    operator: Sensor
    y: Tensor | str
    weight: float = 1.0
    plan: Sequence[Row] | None = None
    needs_grad: ClassVar[bool] = True
    exactness: ClassVar[str] = "biased: the likelihood is evaluated at the estimate, and its norm stands for its square over the noise"

    def __post_init__(self) -> None:
        if not 0 <= self.weight < math.inf:
            raise UserError(f"the weight of DPS must be finite and at least 0, got {self.weight}")
        if isinstance(self.y, Tensor):
            object.__setattr__(self, "y", self.operator.measurement(self.y, shared=True))

    def estimate(self, denoiser: Denoiser, x: Tensor, t: Any, condition: Mapping[str, Any] | None) -> Tensor:  # type: ignore[override]
        """The guided estimate; nothing in it remembers a gradient."""
        check_tensor(x, self)
        y, condition = measured(self.operator, self.y, condition, x)
        with torch.inference_mode(False), torch.no_grad():
            at = Linearised(denoiser, x, t, condition)
            residual = y - self.operator(at.x0)
            size = inner(residual, residual).real.sqrt().view(-1, *[1] * (residual.ndim - 1))
            ascent = at.pull(self.operator.linearise(at.x0).adjoint(residual / torch.where(size > 0, size, 1.0)))
            return at.x0 + ascent * self.scale(denoiser.process, x, t)

    def scale(self, process: Any, x: Tensor, t: Any) -> float | Tensor:
        """What g is multiplied by to move the estimate: a float, or (batch, 1, ...) for a time a sample."""
        if self.plan is None:
            return self.weight * gain(process, x, t)
        row = next((row for row in self.plan if row.t == t), None)
        if row is None or len(row.c) != 3:
            raise UserError(f"the plan given to DPS must be that of the DDIM solver that samples; it has no row (a, b, d) for time {t}")
        return self.weight / row.c[1] if row.alpha_t else 0.0  # type: ignore[operator]
