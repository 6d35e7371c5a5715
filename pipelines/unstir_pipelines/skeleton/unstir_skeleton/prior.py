"""What a network would learn from smooth signals, in closed form; put your own in its place (``unstir train``).

E[x_0 | x_t] = alpha C (alpha^2 C + sigma^2 I)^-1 x_t,    x_0 ~ N(0, C)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from unstir.denoiser import Denoiser
from unstir.process import VP
from unstir_skeleton.task import covariance


class SmoothPrior(Denoiser):
    """The denoiser of smooth signals.

    Args:
        samples: samples of a signal.
    """

    def __init__(self, samples: int) -> None:
        super().__init__(VP(), shape=(samples,))
        values, vectors = np.linalg.eigh(covariance(samples))
        self.values, self.vectors = torch.from_numpy(values.clip(0)), torch.from_numpy(vectors)

    def forward(self, x: torch.Tensor, t: Any, condition: Any = None) -> torch.Tensor:
        """E[x_0 | x_t = x], (batch, samples), in volt."""
        alpha, sigma = (part.reshape(-1, 1) for part in (self.process.alpha(t), self.process.sigma(t)))
        gain = alpha * self.values / (alpha**2 * self.values + sigma**2)
        return (x.double() @ self.vectors * gain @ self.vectors.T).to(x)
