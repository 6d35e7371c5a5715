"""Noise that is a function: for states that are values of a function at points, at any points and however many.

    f_t(p) = alpha f_0(p) + sigma g(p),     g ~ GP(0, k),   k(p, q) = exp(-|p - q|^2/(2 length^2))

The law of f_t at some points does not depend on which other points are asked for; with white noise a finer grid averages the noise away.
                                                                                [Zhang & Wonka 2024, arXiv:2311.15435]
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.space import Condition, Space

_JITTER = 1e-8  # added to the kernel's diagonal, so that neighbouring points keep it positive definite


@dataclass(frozen=True)
class FunctionNoise(Space):
    """States (batch, points) or (batch, points, channels): values of functions at ``condition[key]``, (batch or 1, points, dimension).

    Noise has unit variance at every point and the correlation k between points; channels are independent.

    Args:
        length: over which noise is correlated, in units of the points.
        key: the entry of the condition with the points.

    Raises:
        UserError: the length is not positive.
    """

    length: float = 0.2
    key: str = "points"

    def __post_init__(self) -> None:
        if not self.length > 0:
            raise UserError(f"the length of FunctionNoise must be positive, got {self.length}")

    def draw(self, noise: Tensor, condition: Condition = None) -> Tensor:
        """The root of the kernel times unit noise."""
        points = (condition or {}).get(self.key)
        if points is None:
            raise UserError(f"function noise needs the points of the values: give them as condition[{self.key!r}]")
        if points.ndim != 3 or noise.ndim < 2 or points.shape[1] != noise.shape[1]:
            raise UserError(f"points must be (batch, {noise.shape[1]}, dimension) for this state, got shape {tuple(points.shape)}")
        root, wide = torch.linalg.cholesky(self.kernel(points.to(torch.float64))), noise.to(torch.float64)
        if len(root) == 1:
            return torch.einsum("ij,bj...->bi...", root[0], wide).to(noise.dtype)
        return torch.einsum("bij,bj...->bi...", root, wide).to(noise.dtype)

    def kernel(self, points: Tensor) -> Tensor:
        """k between all pairs of points, (batch, points, points).

        Args:
            points: (batch, points, dimension).
        """
        squared = torch.cdist(points, points).square()
        eye = torch.eye(points.shape[1], dtype=points.dtype, device=points.device)
        return torch.exp(-squared / (2 * self.length**2)) + _JITTER * eye

    def project(self, x: Tensor, condition: Condition = None) -> Tensor:
        """The state itself: any values are values of a function."""
        return x
