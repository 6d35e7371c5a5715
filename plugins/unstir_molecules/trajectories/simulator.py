"""Bodies on springs and charged bodies, moved by leapfrog; what is conserved is computed beside them.

    springs   F_i = -k sum_j w_ij (x_i - x_j),              U = k/2 sum over pairs of w_ij |x_i - x_j|^2,  w_ij is 1 where a spring is
    charges   F_i = k sum_j q_i q_j (x_i - x_j) / s_ij^3,   U = k sum over pairs of q_i q_j / s_ij,        s^2 = |x_i - x_j|^2 + softening^2
    leapfrog  v <- v + F h/2,   x <- x + v h,   v <- v + F h/2     (masses are 1; the energy's error stays of order h^2 for ever)

Both laws are one: a coupling a pair (w_ij or q_i q_j) and a force along the line between. They know no walls and no place of their own, so
that turning and shifting a whole trajectory gives a trajectory, and the centre of mass moves evenly.

Reference: Kipf et al. 2018 (NRI, the field's benchmark), arXiv:1802.04687; Han et al. 2024 (GeoTDM), arXiv:2410.13027; Verlet 1967.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from unstir.errors import UserError

Array = NDArray[Any]
Law = Literal["springs", "charges"]


@dataclass(frozen=True)
class Forces:
    """A law between bodies of mass 1.

    Args:
        law: "springs" or "charges".
        strength: k; of springs per unit of time squared, of charges in units of length^3 / time^2.
        softening: of charges, a length below which the force no longer grows; 0 for Coulomb's law, whose close encounters no step resolves.

    Raises:
        UserError: an option out of range.
    """

    law: Law = "springs"
    strength: float = 0.1
    softening: float = 0.0

    def __post_init__(self) -> None:
        if self.law not in get_args(Law):
            raise UserError(f"law must be one of {', '.join(get_args(Law))}, got {self.law!r}")
        if not self.strength > 0 or self.softening < 0:
            raise UserError(f"strength must be above 0 and softening not negative, got {self.strength} and {self.softening}")

    def force(self, x: Array, coupling: Array) -> Array:
        """F of every body.

        Args:
            x: (..., bodies, axes) places.
            coupling: (..., bodies, bodies), symmetric, zero diagonal.

        Returns:
            (..., bodies, axes).
        """
        if self.law == "springs":
            return -self.strength * (coupling.sum(-1)[..., None] * x - coupling @ x)
        away = x[..., :, None, :] - x[..., None, :, :]
        cubed = self._apart(away) ** -1.5
        return self.strength * np.einsum("...ij,...ijk->...ik", coupling * cubed, away)

    def potential(self, x: Array, coupling: Array) -> Array:
        """U of all bodies together (...).

        Args:
            x: (..., bodies, axes) places.
            coupling: (..., bodies, bodies).
        """
        away = x[..., :, None, :] - x[..., None, :, :]
        if self.law == "springs":
            return self.strength / 4 * (coupling * (away**2).sum(-1)).sum((-1, -2))
        return self.strength / 2 * (coupling / np.sqrt(self._apart(away))).sum((-1, -2))

    def energy(self, x: Array, v: Array, coupling: Array) -> Array:
        """Kinetic and potential energy together (...).

        Args:
            x: (..., bodies, axes) places.
            v: of the same shape, velocities.
            coupling: (..., bodies, bodies).
        """
        return (v**2).sum((-1, -2)) / 2 + self.potential(x, coupling)

    def _apart(self, away: Array) -> Array:
        """Squared softened distances (..., bodies, bodies); 1 on the diagonal, which couples nothing."""
        return (away**2).sum(-1) + self.softening**2 + np.eye(away.shape[-2])

    def run(self, x: Array, v: Array, coupling: Array, *, frames: int, interval: float, step: float) -> tuple[Array, Array]:
        """Trajectories by leapfrog.

        Args:
            x: (trajectories, bodies, axes) places at the first frame.
            v: velocities there.
            coupling: (trajectories, bodies, bodies).
            frames: how many are kept, the first included.
            interval: time between frames.
            step: h, at most; an interval holds a whole number of steps.

        Returns:
            Places and velocities (trajectories, frames, bodies, axes).

        Raises:
            UserError: a number is not positive.
        """
        if frames < 1 or not min(interval, step) > 0:
            raise UserError(f"frames, interval and step must be positive, got {frames}, {interval} and {step}")
        inner = int(np.ceil(interval / step - 1e-9))
        h = interval / inner
        places, velocities = [x], [v]
        force = self.force(x, coupling)
        for _ in range(frames - 1):
            for _ in range(inner):
                v = v + h / 2 * force
                x = x + h * v
                force = self.force(x, coupling)
                v = v + h / 2 * force
            places.append(x)
            velocities.append(v)
        return np.stack(places, 1), np.stack(velocities, 1)


def springs_between(bodies: int, share: float, rng: np.random.Generator) -> Array:
    """w_ij: each pair is joined by a spring with a probability.

    Args:
        bodies: how many.
        share: the probability.
        rng: what draws.

    Returns:
        (bodies, bodies), 0 or 1, symmetric, zero diagonal.
    """
    upper = np.triu(rng.random((bodies, bodies)) < share, 1).astype(float)
    return upper + upper.T


def charges_of(bodies: int, rng: np.random.Generator) -> Array:
    """q_i: 1 or -1, as likely.

    Args:
        bodies: how many.
        rng: what draws.
    """
    return rng.choice([-1.0, 1.0], size=bodies)


def coupled(charge: Array) -> Array:
    """q_i q_j of every pair (..., bodies, bodies), zero diagonal.

    Args:
        charge: (..., bodies).
    """
    return charge[..., :, None] * charge[..., None, :] * (1 - np.eye(charge.shape[-1]))
