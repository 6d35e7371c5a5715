"""Pseudo-inverse guidance: the likelihood of a measurement, as if what is left of the data were white.

    D' = D + (sigma_t^2/alpha_t) J^T A^H (r^2 A A^H + R)^-1 (y - A D),        r^2 = rho^2 s^2/(s^2 + rho^2),   rho = sigma_t/alpha_t

r^2 is Cov[x0 | x_t] for data N(m, s^2 I). With s infinite r = rho, the "V = sigma^2 I" of DiffPIR, with the Jacobian kept.
Reference: Song et al. 2023, "Pseudoinverse-guided diffusion models for inverse problems", ICLR.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.guide.likelihood import Likelihood, Linear
from unstir.operator.cg import conjugate_gradients
from unstir.process.base import spread

if TYPE_CHECKING:
    from unstir.operator.base import Operator
    from unstir.process import Process


@dataclass(frozen=True, eq=False)
class PiGDM(Likelihood):
    """Guide by the pseudo-inverse, per sample; one evaluation of the denoiser and its transpose.

    Args:
        std: s, standard deviation of the data in units of the state; infinity for r = rho.
        iterations: conjugate-gradient iterations of the solve, at least 1.
        tolerance: stop a sample when its residual has shrunk by this factor.

    Raises:
        UserError: as :class:`Likelihood`; s not above 0, fewer than 1 iteration, a negative tolerance.
    """

    std: float = 1.0
    iterations: int = 50
    tolerance: float = 1e-6
    exactness: ClassVar[str] = "exact for normal data of covariance s^2 I, as the steps become finer; biased otherwise"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.std > 0 or self.iterations < 1 or not self.tolerance >= 0:
            raise UserError(
                f"PiGDM needs std above 0, iterations >= 1 and tolerance >= 0, got {self.std}, {self.iterations} and {self.tolerance}"
            )

    def whitened(self, residual: Tensor, variance: Tensor, pulled: Linear, operator: Operator, process: Process, t: Any) -> Tensor:
        """(r^2 A A^H + R)^-1 e, by conjugate gradients."""
        square = process.rho(t) ** 2
        square = square if math.isinf(self.std) else 1 / (1 / square + self.std**-2)
        r2 = spread(torch.where(torch.isfinite(square), square, 0.0), residual)

        def matrix(v: Tensor) -> Tensor:
            return r2 * operator(operator.adjoint(v)) + variance * v

        return conjugate_gradients(matrix, residual, iterations=self.iterations, tolerance=self.tolerance)[0]
