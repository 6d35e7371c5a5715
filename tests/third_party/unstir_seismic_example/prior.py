"""White reflectivity: the closed form of what a network would learn from it."""

import torch

from unstir.denoiser import Denoiser
from unstir.process import VP


class WhitePrior(Denoiser):
    """E[x_0 | x_t] for x_0 ~ N(0, scale^2 I):  alpha scale^2 / (alpha^2 scale^2 + sigma^2) x_t."""

    def __init__(self, samples: int, scale: float) -> None:
        super().__init__(VP(), shape=(samples,))
        self.scale = scale

    def forward(self, x: torch.Tensor, t, condition=None) -> torch.Tensor:
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        gain = alpha * self.scale**2 / (alpha**2 * self.scale**2 + sigma**2)
        return gain.to(x).reshape(-1, 1) * x
