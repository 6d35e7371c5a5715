"""The anisotropic noise of HypDiff, as what it is in law: a scalar process that falls slower, and a fixed covariance in each cluster.

    as its code has it   x_t = delta tanh(sqrt(c) t/2000) x_0 + sqrt(abar) x_0 + sign(x_0) sqrt(1 - abar) eps
    in law               x_t | x_0 ~ N((exp(-B/2) + delta tanh(sqrt(c) reach t)) x_0, 1 - exp(-B))
    here, of cluster k   the covariance is (1 - exp(-B)) L_k L_k^T,    L_k = P_k + kappa (1 - P_k)

The signs change nothing: eps is symmetric and independent of x_0, so sign(x_0) eps has the law of eps, given x_0, too, and a network that
says x_0 cannot tell. What can be anisotropic is the covariance: P_k projects on the direction of the centre of cluster k (radial: how
popular a node is), 1 - P_k on the rest (angular: where its cluster lies), whose noise is scaled by kappa. L_k is the same at all times, so
that the process is the isotropic one in the coordinates L_k^-1 x, and the core's solvers walk those (`Chart`). kappa = 1 and delta = 0 is
isotropic.

Reference: Fu et al. 2024 (HypDiff), arXiv:2405.03188.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unstir.errors import UserError
from unstir.process import VP, Process
from unstir.process.base import Time
from unstir_molecules.hyperbolic.ball import Ball
from unstir_molecules.hyperbolic.flat import Flat


@dataclass(frozen=True)
class Radial(VP):
    """Variance preserving noise whose signal keeps a part that grows: the radial term.

    alpha = exp(-B/2) + delta tanh(sqrt(c) reach t),     sigma = sqrt(1 - exp(-B))

    Args:
        delta: the most that is kept; 0 for VP.
        c: curvature.
        reach: of the growth, per unit of time; the published 1/2000 a step of 1000 is 0.5.

    Raises:
        UserError: delta is so large that the signal would grow again against the noise.
    """

    delta: float = 0.01
    c: float = 1.0
    reach: float = 0.5

    def __post_init__(self) -> None:
        if self.delta < 0 or self.c < 0 or self.reach < 0:
            raise UserError(f"delta, c and reach must not be negative, got {self.delta}, {self.c} and {self.reach}")
        if not bool((torch.diff(self.rho(torch.linspace(self.t_min, self.t_max, 257))) > 0).all()):
            raise UserError(f"with delta = {self.delta:g} the signal grows again against the noise: take a smaller one")

    def alpha(self, t: Time) -> Tensor:
        """exp(-B/2) + delta tanh(sqrt(c) reach t)."""
        return super().alpha(t) + self.delta * torch.tanh(math.sqrt(self.c) * self.reach * self.time(t))

    def rho(self, t: Time) -> Tensor:
        """sigma/alpha."""
        return self.sigma(t) / self.alpha(t)

    def rate(self, t: Time) -> Tensor:
        """alpha'/alpha, alpha' = -B'/2 exp(-B/2) + delta sqrt(c) reach / cosh(sqrt(c) reach t)^2."""
        speed = math.sqrt(self.c) * self.reach
        growth = self.delta * speed / torch.cosh(speed * self.time(t)).square()
        return (growth - self.noise_rate(t) / 2 * super().alpha(t)) / self.alpha(t)

    def diffusion(self, t: Time) -> Tensor:
        """sqrt(B' exp(-B) - 2 f sigma^2)."""
        fall = self.noise_rate(t) * torch.exp(-self.integral(t))
        return torch.sqrt((fall - 2 * self.rate(t) * self.sigma(t).square()).clamp(min=0))

    def time_at_rho(self, rho: float | Tensor) -> Tensor:
        """By bisection."""
        return Process.time_at_rho(self, rho)


@dataclass(frozen=True)
class Chart:
    """From points of a space, each of a cluster, to the coordinates that are diffused, and back.

        y = L_k^-1 u,     u = log at the centre of cluster k, in orthonormal coordinates: |u| is the distance from the centre

    Args:
        space: a ball, or flat.
        centres: (clusters, dim) points.
        kappa: noise across the direction of a centre, relative to that along it; 1 for isotropic noise.

    Raises:
        UserError: kappa is not positive.
    """

    space: Ball | Flat
    centres: Tensor
    kappa: float = 1.0

    def __post_init__(self) -> None:
        if not self.kappa > 0:
            raise UserError(f"kappa must be positive, got {self.kappa}")

    def stretched(self, u: Float[Tensor, "*batch dim"], cluster: Int[Tensor, "*batch"], kappa: float) -> Float[Tensor, "*batch dim"]:
        """P_k u + kappa (1 - P_k) u; P_k is the identity where the centre is the origin, which has no direction.

        Args:
            u: tangent vectors at the centres.
            cluster: k of each.
            kappa: factor across.
        """
        norm = self.centres.norm(dim=-1, keepdim=True)
        way = (self.centres / norm.clamp(min=1e-12))[cluster]
        along = torch.where(norm[cluster] > 1e-6, (u * way).sum(-1, keepdim=True) * way, u)
        return along + kappa * (u - along)

    def coordinates(self, z: Float[Tensor, "*batch dim"], cluster: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch dim"]:
        """y of points.

        Args:
            z: points.
            cluster: k of each.
        """
        return self.stretched(self.space.moved(self.centres[cluster], z), cluster, 1 / self.kappa)

    def points(self, y: Float[Tensor, "*batch dim"], cluster: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch dim"]:
        """The points of coordinates.

        Args:
            y: coordinates.
            cluster: k of each.
        """
        return self.space.placed(self.centres[cluster], self.stretched(y, cluster, self.kappa))
