"""DPM-OT: a semi-discrete optimal transport map from noise to data, then a few steps from an intermediate noise level.

    T(z) = y_i  with  i = argmax_j <z, y_j> + h_j,       the heights h such that every cell has the mass 1/n of N(0, I)

The map is the gradient of Brenier's convex potential max_j <z, y_j> + h_j; its heights maximise a concave function whose gradient is the
wanted mass less the mass of a cell, estimated on draws.
Reference: Li et al. 2023 (DPM-OT), arXiv:2307.11308.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unstir.errors import UserError
from unstir.noise import NoiseSource
from unstir.process import Process


@dataclass(frozen=True, eq=False)
class SemiDiscrete:
    """The optimal map from N(0, I) to the uniform law of some points.

    Args:
        points: y (n, *shape), clean states in units of the state.
        heights: h (n,), as :meth:`fit` finds them.
    """

    points: Tensor
    heights: Tensor

    @classmethod
    def fit(
        cls, points: Float[Tensor, "n *shape"], *, rounds: int = 800, draws: int = 4096, rate: float = 0.5, seed: int = 0
    ) -> SemiDiscrete:
        """Find the heights by stochastic gradient ascent with falling steps, averaged over the last half.

        Args:
            points: y, clean states.
            rounds: gradient steps.
            draws: of N(0, I) in each.
            rate: first step, in units of the points' mean square distance from their mean times the root of its dimension.
            seed: of the draws.

        Returns:
            The map, in float64.

        Raises:
            UserError: fewer than 2 points, or counts below 1.
        """
        if len(points) < 2 or rounds < 1 or draws < 1:
            raise UserError(f"a transport map needs at least 2 points, 1 round and 1 draw, got {len(points)}, {rounds} and {draws}")
        y = points.to(torch.float64).flatten(1)
        n, d = y.shape
        generator = torch.Generator().manual_seed(seed)
        spread = float((y - y.mean(0)).norm(dim=1).mean())
        heights, average = torch.zeros(2, n, dtype=torch.float64)
        for step in range(rounds):
            z = torch.randn(draws, d, generator=generator, dtype=torch.float64)
            mass = torch.bincount((z @ y.mT + heights).argmax(1), minlength=n) / draws
            heights = heights + rate * spread * math.sqrt(n) / math.sqrt(1 + step) * (1 / n - mass)
            heights = heights - heights.mean()
            if step >= rounds // 2:
                average += heights / (rounds - rounds // 2)
        return cls(points.to(torch.float64), average)

    def cells(self, z: Float[Tensor, "batch *shape"]) -> Tensor:
        """The cell i of each noise (batch,), long."""
        return self._scores(z).argmax(1)

    def masses(self, draws: int = 100_000, *, seed: int = 1) -> Float[Tensor, " n"]:
        """The mass of each cell under N(0, I), estimated; 1/n where the fit has converged.

        Args:
            draws: of N(0, I).
            seed: of the draws.
        """
        generator, count = torch.Generator().manual_seed(seed), torch.zeros(len(self.points), dtype=torch.float64)
        for part in torch.arange(draws).split(10_000):
            z = torch.randn(len(part), self.points[0].numel(), generator=generator, dtype=torch.float64)
            count += torch.bincount(self.cells(z), minlength=len(self.points))
        return count / draws

    def _scores(self, z: Tensor) -> Tensor:
        return z.to(torch.float64).flatten(1) @ self.points.flatten(1).mT + self.heights

    def mapped(self, z: Float[Tensor, "batch *shape"], *, neighbours: int = 1, angle: float = 0.5) -> Float[Tensor, "batch *shape"]:
        """T(z), or between the best few points of z whose direction differs little: never across modes.

        Args:
            z: unit noise.
            neighbours: number of points blended, by the inverse of how far each is from being the best; 1 is T itself.
            angle: largest angle, in radians, between a blended point and the best one (both measured from the mean of all points).

        Returns:
            Clean states, float64.
        """
        score, index = self._scores(z).topk(neighbours, dim=1)
        best = self.points[index[:, 0]]
        if neighbours == 1:
            return best
        offsets = (self.points - self.points.mean(0)).flatten(1)
        direction = offsets / offsets.norm(dim=1, keepdim=True).clamp(min=1e-12)
        near = (direction[index] * direction[index[:, :1]]).sum(-1) >= math.cos(angle)
        gap = score[:, :1] - score
        near[:, 0] = True
        weight = near / (gap + gap[:, -1:] / neighbours + 1e-12)
        weight = weight / weight.sum(1, keepdim=True)
        return (weight[..., None] * self.points.flatten(1)[index]).sum(1).reshape(z.shape)

    def start(
        self,
        process: Process,
        count: int,
        t: float,
        *,
        neighbours: int = 1,
        angle: float = 0.5,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> tuple[Tensor, float]:
        """Noise mapped to data and made noisy again to time t, from where a few steps suffice.

        With one neighbour it follows the noised law of the points themselves, up to the error of the cells' masses.

        Args:
            process: of the denoiser, without an anchor.
            count: number of samples.
            t: the time to go on from.
            neighbours: see :meth:`mapped`.
            angle: see :meth:`mapped`.
            seed: of the draws.
            dtype: of the states.

        Returns:
            ``(states (count, *shape), t)``, for ``start``.

        Raises:
            UserError: the process has an anchor.
        """
        if process.anchored:
            raise UserError(f"the map is from noise to data, and {type(process).__name__} has an anchor")
        source, shape = NoiseSource(seed, range(count)), tuple(self.points.shape[1:])
        clean = self.mapped(source.draw(shape, torch.float64, stream="start"), neighbours=neighbours, angle=angle)
        return process.perturb(clean, t, source.draw(shape, torch.float64, stream="transport")).to(dtype), t
