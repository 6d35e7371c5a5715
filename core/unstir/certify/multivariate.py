"""Normal data on processes of linear maps: the exact denoiser, the exact law of samples, and the length of a path of spectra.

D = m + C M^T (M C M^T + S)^-1 (x_t - M m),          length = int sqrt(sum_k (d log v_k/dt)^2/2) dt
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from unstir.denoiser import Denoiser
from unstir.errors import UserError
from unstir.evaluation import Evaluation
from unstir.process import Multivariate
from unstir.solver.base import Memory
from unstir.solver.linear import LinearDDIM


class MapOracle(Denoiser):
    """The exact denoiser of normal data N(mean, cov) on a process of linear maps.

    Args:
        mean: m, of the shape of a state.
        cov: C (d, d), d the number of entries of a state.
        process: a multivariate process.

    Raises:
        UserError: the process is of another kind.
    """

    def __init__(self, mean: Tensor, cov: Tensor, process: Multivariate) -> None:
        if not isinstance(process, Multivariate):
            raise UserError(f"MapOracle is for multivariate processes, got {process!r}")
        super().__init__(process, tuple(mean.shape))
        self.mean, self.cov = mean, cov

    def forward(self, x: Tensor, t: Any, condition: Any = None) -> Tensor:
        """E[x_0 | x_t = x], exactly."""
        return self.estimate(self._maps(float(t)), x)

    def estimate(self, maps: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
        """The estimate, given M and R as matrices."""
        carried, root = maps
        total = carried @ self.cov @ carried.mT + root @ root.mT
        offset = x.flatten(1) - (carried @ self.mean.flatten())
        gain = torch.linalg.lstsq(total, carried @ self.cov).solution.mT
        return (self.mean.flatten() + offset @ gain.mT).reshape(x.shape)

    def sampled_covariance(self, steps: int) -> Tensor:
        """The exact covariance (d, d) of the samples of the flow, begun in the process' own noise, on times evenly spaced in t^(1/3).

        Args:
            steps: number of steps.
        """
        process: Any = self.process
        times = [process.t_max * (1 - i / steps) ** 3 for i in range(steps)] + [0.0]  # auxiliary noise vanishes like t^3
        size = self.mean.numel()
        units = torch.cat([torch.zeros(1, size, dtype=torch.float64), torch.eye(size, dtype=torch.float64)]).reshape(-1, *self.mean.shape)
        x: Any = process.begin(units, times[0])
        model, solver, memory = Evaluation(self, process, None), LinearDDIM(), Memory()
        for row in solver.plan(process, times):
            x = solver.step(x, row, model, memory)
        linear = (x[1:] - x[:1]).flatten(1)
        return linear.mT @ linear

    def _maps(self, t: float) -> tuple[Tensor, Tensor]:
        size, process = self.mean.numel(), self.process
        eye = torch.eye(size, dtype=torch.float64).reshape(size, *self.mean.shape)
        carried, root = (verb(eye, t).flatten(1).mT for verb in (process.carry, process.colour))  # type: ignore[attr-defined]
        return carried, root


def fisher_length(power: Tensor) -> float:
    """The length of a path of spectra in the Fisher metric of normal laws, by the trapezoid rule on log v.

    Args:
        power: v (times, *frequencies), positive.

    Returns:
        In nats' square root: sqrt(1/2) times the length of log v.
    """
    steps = power.log().flatten(1).diff(dim=0)
    return float(steps.norm(dim=1).sum()) / math.sqrt(2)
