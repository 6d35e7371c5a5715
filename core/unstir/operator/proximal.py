"""The proximal step of a measurement: how far a clean estimate moves when it also has to explain the data.

    x0' = argmin_x  gamma/2 ||y - A x||^2 + 1/2 ||x - x0||^2,      (I + gamma A^H A) x0' = x0 + gamma A^H y,     CG from x0

Solved to the end it is the data step of DiffPIR (gamma = rho^2/noise^2); a few iterations are a Krylov step of their own, that of DDS.
Reference: Zhu et al. 2023 (DiffPIR), arXiv:2305.08995; Chung, Lee & Ye 2024 (DDS), arXiv:2303.05754.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.operator.base import Operator
from unstir.operator.cg import inner


@dataclass(frozen=True)
class Trust:
    """How far a measurement is trusted against an estimate.

    Args:
        gamma: the weight of the data, above 0; from the noise level when absent.
        noise: standard deviation of the measurement noise: gamma = rho^2/noise^2 (DiffPIR's lambda multiplies noise^2). Without ``gamma``
            and ``noise``, or with noise 0, the data alone count (gamma infinite).

    Raises:
        UserError: gamma not above 0, negative noise.
    """

    gamma: float | None = None
    noise: float | None = None

    def __post_init__(self) -> None:
        if self.gamma is not None and not self.gamma > 0:
            raise UserError(f"gamma must be above 0, got {self.gamma}")
        if self.noise is not None and not 0 <= self.noise < math.inf:
            raise UserError(f"the noise of a measurement must be finite and at least 0, got {self.noise}")

    def at(self, rho: float) -> float:
        """gamma at the noise level rho = sigma/alpha of the state that the estimate was made from."""
        if self.gamma is not None:
            return self.gamma
        return rho**2 / self.noise**2 if self.noise else math.inf


@dataclass(frozen=True)
class Proximal:
    """The step and when it stops; per sample, started at the estimate.

    Args:
        operator: A.
        iterations: conjugate-gradient iterations, at least 1.
        tolerance: stop a sample when the residual of the equation has shrunk by this factor.
        within: stop a sample once ||y - A x|| is at most this (Morozov's discrepancy: tau noise sqrt(m)); costs one A an iteration.

    Raises:
        UserError: fewer than 1 iteration, or a negative tolerance.
    """

    operator: Operator
    iterations: int
    tolerance: float = 0.0
    within: float | None = None

    def __post_init__(self) -> None:
        if self.iterations < 1 or not self.tolerance >= 0:
            raise UserError(f"data consistency needs iterations >= 1 and tolerance >= 0, got {self.iterations} and {self.tolerance}")

    @torch.no_grad()
    def __call__(self, x0: Tensor, y: Tensor, gamma: float) -> Tensor:
        """x0'.

        Args:
            x0: the estimates, (batch, *shape_in); not overwritten.
            y: the measurements, (batch or 1, *shape_out).
            gamma: weight of the data; infinity for the data alone.

        Returns:
            (batch, *shape_in), a new tensor.
        """
        if gamma == 0:
            return x0.clone()
        residual = y - self.operator(x0)

        def stop(change: Tensor) -> Tensor:
            left = residual - self.operator(change)
            return inner(left, left).real <= (self.within or 0.0) ** 2

        # the equation of the change x0' - x0: the same Krylov space, and no cancellation when gamma is small
        change, _ = self.operator.normal_solve(
            self.operator.adjoint(residual),
            shift=1 / gamma,
            iterations=self.iterations,
            tolerance=self.tolerance,
            stop=None if self.within is None else stop,
        )
        return x0 + change
