"""The Poincare ball: hyperbolic space of curvature -c as the points x with c |x|^2 < 1.

    x + y = ((1 + 2c<x,y> + c|y|^2) x + (1 - c|x|^2) y) / (1 + 2c<x,y> + c^2 |x|^2 |y|^2)        lambda_x = 2 / (1 - c|x|^2)
    exp_x(v) = x + tanh(sqrt(c) lambda_x |v| / 2) v / (sqrt(c) |v|)          log_x(y) = 2 / (sqrt(c) lambda_x) artanh(sqrt(c) |w|) w / |w|
    d(x, y) = 2/sqrt(c) artanh(sqrt(c) |w|) = 2/sqrt(c) arsinh(sqrt(c) |x - y| / sqrt((1 - c|x|^2) (1 - c|y|^2))),        w = -x + y

with Moebius addition for + and -. Vectors v are coordinates of the tangent space, whose length at x is lambda_x |v|. The second form of
the distance loses nothing between near points nor near the boundary, and is the one used. `clamp` keeps points where their arithmetic still
holds: within 9.9/sqrt(c) of the origin in float32, within 19.1/sqrt(c) in float64.

Reference: Ungar 2008; Ganea et al. 2018, arXiv:1805.09112; Chami et al. 2019 (HGCN), arXiv:1910.12933.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from unstir.errors import UserError

MARGIN = {torch.float64: 1e-8, torch.float32: 1e-4}
"""How far from the boundary points are kept, as a share of the radius."""
TINY = 1e-15


@dataclass(frozen=True)
class Ball:
    """Poincare ball of curvature -c.

    Args:
        c: above 0; its radius is 1/sqrt(c).

    Raises:
        UserError: c is not positive and finite.

    Example:
        >>> ball = Ball(1.0)
        >>> float(ball.distance(torch.zeros(2), torch.tensor([0.5, 0.0])))  # 2 artanh(1/2) = log 3
        1.0986122...
    """

    c: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.c < math.inf:
            raise UserError(f"the curvature c of a ball must be positive and finite, got {self.c}")

    @property
    def root(self) -> float:
        """sqrt(c), one over the radius."""
        return math.sqrt(self.c)

    def clamp(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """The points, those at the boundary or beyond it pulled radially inside.

        Args:
            x: any points of the flat space.
        """
        largest = (1 - MARGIN.get(x.dtype, 1e-2)) / self.root
        norm = length(x)
        return torch.where(norm > largest, x * (largest / norm), x)

    def conformal(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch 1"]:
        """lambda_x = 2/(1 - c|x|^2), hyperbolic length of a unit of coordinates at x."""
        return 2 / self._gap(x)

    def add(self, x: Float[Tensor, "*batch dim"], y: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Moebius addition, for fixed x an isometry of y; neither commutative nor associative.

        Args:
            x: moves.
            y: is moved.
        """
        xy, x2, y2 = ((a * b).sum(-1, keepdim=True) for a, b in ((x, y), (x, x), (y, y)))
        above = (1 + 2 * self.c * xy + self.c * y2) * x + (1 - self.c * x2) * y
        return above / (1 + 2 * self.c * xy + self.c**2 * x2 * y2).clamp(min=TINY)

    def exp(self, x: Float[Tensor, "*batch dim"], v: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """Where the geodesic from x with velocity v is after a unit of time.

        Args:
            x: points.
            v: tangent vectors there.
        """
        norm = length(v)
        return self.clamp(self.add(x, torch.tanh(self.root * self.conformal(x) * norm / 2) * v / (self.root * norm)))

    def log(self, x: Float[Tensor, "*batch dim"], y: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """The velocity at x of the geodesic that is at y after a unit of time: the inverse of `exp`.

        Args:
            x: points.
            y: points.
        """
        w = self.add(-x, y)
        return self.distance(x, y)[..., None] / self.conformal(x) * w / length(w)

    def exp0(self, v: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """`exp` at the origin: tanh(sqrt(c)|v|) v/(sqrt(c)|v|)."""
        norm = length(v)
        return self.clamp(torch.tanh(self.root * norm) * v / (self.root * norm))

    def log0(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """`log` at the origin: artanh(sqrt(c)|x|) x/(sqrt(c)|x|)."""
        norm = length(x)
        return artanh(self.root * norm) * x / (self.root * norm)

    def distance(self, x: Float[Tensor, "*batch dim"], y: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        """d(x, y), in units of the space (1/sqrt(c) is its radius of curvature).

        Args:
            x: points.
            y: points.
        """
        flat = length(x - y)[..., 0]
        return 2 / self.root * torch.asinh(self.root * flat / (self._gap(x) * self._gap(y))[..., 0].sqrt())

    def moved(self, x: Float[Tensor, "*batch dim"], y: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """log_x(y) in orthonormal coordinates: its Euclidean length is d(x, y); the inverse of `placed`.

        Args:
            x: points, the origins.
            y: points.
        """
        return self.log(x, y) * self.conformal(x)

    def placed(self, x: Float[Tensor, "*batch dim"], u: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """exp_x of orthonormal coordinates: the point at distance |u| from x in the direction u.

        Args:
            x: points, the origins.
            u: coordinates, |u| a distance.
        """
        return self.exp(x, u / self.conformal(x))

    def means(
        self, x: Float[Tensor, "*batch points dim"], weights: Float[Tensor, "*batch many points"]
    ) -> Float[Tensor, "*batch many dim"]:
        """Gyromidpoints of weighted points: exact for two points, and moved as they are by every isometry.

            m = 1/2 * (sum w lambda x / sum w (lambda - 1)),      1/2 * halves the distance to the origin

        Args:
            x: points.
            weights: of the points, not negative; a row of them for each midpoint. The origin where all are 0.
        """
        factor = self.conformal(x)
        mean = weights @ (factor * x) / (weights @ (factor - 1)).clamp(min=TINY)
        squared = self.c * mean.square().sum(-1, keepdim=True)
        # half of a vector, tanh(artanh(r)/2) = r/(1 + sqrt(1 - r^2)); the floor keeps the gradient of the root finite
        return self.clamp(mean / (1 + (1 - squared).clamp(min=TINY).sqrt()))

    def _gap(self, x: Tensor) -> Tensor:
        """1 - c|x|^2, positive."""
        return (1 - self.c * x.square().sum(-1, keepdim=True)).clamp(min=MARGIN.get(x.dtype, 1e-2))


def length(x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch 1"]:
    """|x|, never 0, with a gradient that is finite at 0.

    Args:
        x: vectors.
    """
    return (x.square().sum(-1, keepdim=True) + TINY**2).sqrt()


def artanh(x: Tensor) -> Tensor:
    """artanh, its argument kept below 1.

    Args:
        x: numbers, meant to be below 1.
    """
    return torch.atanh(x.clamp(max=1 - MARGIN.get(x.dtype, 1e-2) / 4))
