"""Guides that know the covariance of what is left of the data: V = (sigma_t^2/alpha_t) dD/dx = Cov[x0 | x_t] (Tweedie, second order).

    MMPS:   D' = D + V A^H (A V A^H + R)^-1 (y - A D)                      solved by GMRES or CG through the denoiser
    TMPD:   D' = D + V A^H diag(A V A^H 1 + R)^-1 (y - A D)                its rows summed up onto the diagonal

Reference: Rozet et al. 2024 (MMPS), arXiv:2405.13712; Boys et al. 2023 (TMPD), arXiv:2310.06721.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.guide.likelihood import Likelihood, Linear
from unstir.operator.cg import conjugate_gradients
from unstir.operator.krylov import gmres

if TYPE_CHECKING:
    from unstir.operator.base import Operator
    from unstir.process import Process

Method = Literal["gmres", "cg"]


@dataclass(frozen=True, eq=False)
class MMPS(Likelihood):
    """Moment-matching posterior sampling, per sample; one evaluation, and one product with J^T an iteration.

    Args:
        method: ``"gmres"`` (a trained network's Jacobian is not quite symmetric), or ``"cg"`` for one that is.
        iterations: at most this many, at least 1; as many as the measurement has entries solve it exactly.
        tolerance: stop a sample when the residual of the equation has shrunk by this factor.

    Raises:
        UserError: as :class:`Likelihood`; another method, fewer than 1 iteration, a negative tolerance.
    """

    method: Method = "gmres"
    iterations: int = 20
    tolerance: float = 1e-6
    exactness: ClassVar[str] = "exact for normal data, the equation solved and the steps fine; biased otherwise: x0 given x_t is not normal"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method not in get_args(Method) or self.iterations < 1 or not self.tolerance >= 0:
            raise UserError(
                "MMPS needs the method 'gmres' or 'cg', iterations >= 1 and tolerance >= 0, "
                f"got {self.method!r}, {self.iterations} and {self.tolerance}"
            )

    def whitened(self, residual: Tensor, variance: Tensor, pulled: Linear, operator: Operator, process: Process, t: Any) -> Tensor:
        """(A V A^H + R)^-1 e."""

        def matrix(v: Tensor) -> Tensor:
            return operator(pulled(v)) + variance * v

        solve = gmres if self.method == "gmres" else conjugate_gradients
        return solve(matrix, residual, iterations=self.iterations, tolerance=self.tolerance)[0]


@dataclass(frozen=True, eq=False)
class TMPD(Likelihood):
    """Tweedie moment projected diffusion, per sample; one evaluation and two products with J^T. Rows whose sum is negative count as 0."""

    exactness: ClassVar[str] = "exact for normal data where A Cov[x0 | x_t] A^H is diagonal, as the steps become finer; biased otherwise"

    def whitened(self, residual: Tensor, variance: Tensor, pulled: Linear, operator: Operator, process: Process, t: Any) -> Tensor:
        """e over the row sums of A V A^H, plus R; 0 where that is 0."""
        rows = operator(pulled(torch.ones_like(residual)))
        total = (rows.real if rows.is_complex() else rows).clamp(min=0) + variance
        return torch.where(total > 0, residual / torch.where(total > 0, total, 1.0), 0.0)
