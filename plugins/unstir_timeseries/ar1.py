"""The exact laboratory: windows of a stationary first-order autoregression, whose denoiser and conditional laws are known.

    y_t = c + phi (y_{t-1} - c) + N(0, s^2 (1 - phi^2)),   Cov[y_t, y_u] = s^2 phi^|t - u|
    y_{T+h} | y_T ~ N(c + phi^h (y_T - c), s^2 (1 - phi^{2h}))
    E[x0 | x_t] = c + alpha C (alpha^2 C + sigma^2 I)^-1 (x_t - alpha c)

s the stationary standard deviation. What a guide, a solver or a refinement does wrong here is its own doing, no network's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from unstir.errors import UserError

if TYPE_CHECKING:
    from unstir.certify.oracles import GaussianOracle
    from unstir.process import Process


@dataclass(frozen=True)
class Autoregression:
    """A stationary Gaussian autoregression of first order, in windows.

    Args:
        phi: the coefficient, inside (-1, 1).
        mean: c.
        std: s, the stationary standard deviation, above 0.
        length: steps of a window, at least 1.

    Raises:
        UserError: a number out of range.
    """

    phi: float = 0.9
    mean: float = 3.0
    std: float = 1.0
    length: int = 72

    def __post_init__(self) -> None:
        if not abs(self.phi) < 1 or not 0 < self.std < math.inf or not math.isfinite(self.mean) or self.length < 1:
            raise UserError(
                "an autoregression needs |phi| < 1, a finite mean, std above 0 and length >= 1, "
                f"got {self.phi}, {self.mean}, {self.std} and {self.length}"
            )

    @property
    def covariance(self) -> NDArray[np.float64]:
        """C, (length, length)."""
        step = np.arange(self.length)
        return np.asarray(self.std**2 * self.phi ** np.abs(step[:, None] - step[None]), dtype=np.float64)

    def denoiser(self, process: Process | None = None) -> GaussianOracle:
        """The exact denoiser of windows (batch, 1, length).

        Args:
            process: how the windows are made noisy; the table of TSDiff (100 steps, 1e-4 to 0.1) when absent.
        """
        from unstir.certify.oracles import GaussianOracle
        from unstir.process import VPTable

        mean = torch.full((1, self.length), self.mean, dtype=torch.float64)
        return GaussianOracle(mean, torch.from_numpy(self.covariance), process or VPTable("linear", 100, 1e-4, 0.1))

    def draw(self, count: int, seed: int) -> NDArray[np.float64]:
        """Windows (count, length), from the stationary law.

        Args:
            count: number of windows.
            seed: of the draws.
        """
        noise = np.random.default_rng(seed).standard_normal((count, self.length))
        return self.mean + noise @ np.linalg.cholesky(self.covariance).T

    def forecast(self, last: Any, horizon: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The law of the steps after an observed one.

        Args:
            last: y_T, one number or (windows,).
            horizon: H steps.

        Returns:
            Means (windows, H), and standard deviations (H,).
        """
        power = self.phi ** np.arange(1, horizon + 1)
        offset = np.atleast_1d(np.asarray(last, dtype=np.float64))[:, None] - self.mean
        return self.mean + offset * power, self.std * np.sqrt(1 - power**2)
