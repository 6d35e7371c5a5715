"""Simulated trajectories, as they cross the border; each depends on (seed, its number) alone.

    position   (trajectory, time, body, axis)   places
    velocity   (trajectory, time, body, axis)   velocities, per unit of time
    coupling   (trajectory, body, other)        1 where a spring is, or q_i q_j
    charge     (trajectory, body)               q_i; 0 for bodies on springs
    split      (trajectory)                     "train" or "test": the last share is for the test
    attrs      key, law, strength, softening, simulated

First places are normal with standard deviation 0.5, first velocities have length 0.5 in random directions, as in the field's benchmark;
there are no walls here, for a box would single out directions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import xarray as xr

from unstir.errors import UserError
from unstir.plugin.options import at_least
from unstir_molecules.trajectories.simulator import Array, Forces, charges_of, coupled, springs_between


@dataclass(frozen=True)
class Simulated(ABC):
    """Trajectories of interacting bodies.

    Args:
        count: trajectories, those for the test included.
        bodies: of each.
        axes: 2 or 3 dimensions.
        frames: kept of each.
        interval: time between frames.
        step: of leapfrog, at most.
        test: share of the trajectories that is for the test.
        seed: of the first places, velocities and couplings.

    Raises:
        UserError: an option out of range.
    """

    count: int = 500
    bodies: int = 5
    axes: int = 3
    frames: int = 30
    interval: float = 0.1
    step: float = 0.01
    test: float = 0.2
    seed: int = 43

    card: ClassVar[str] = "trajectories"
    tiny: ClassVar[bool] = True
    key: ClassVar[str]

    def __post_init__(self) -> None:
        at_least(self, count=2, bodies=2, axes=1, frames=2)
        if not min(self.interval, self.step) > 0 or not 0 < self.test < 1 or self.seed < 0:
            numbers = f"{self.interval}, {self.step}, {self.test}, {self.seed}"
            raise UserError(f"interval and step must be positive, test a share and seed not negative, got {numbers}")
        self.forces  # noqa: B018 (its own checks)

    @property
    @abstractmethod
    def forces(self) -> Forces:
        """The law."""

    @abstractmethod
    def kinds(self, rng: np.random.Generator) -> tuple[Array, Array]:
        """Charges (bodies,) and couplings (bodies, bodies) of one trajectory.

        Args:
            rng: what draws.
        """

    @abstractmethod
    def said(self) -> str:
        """How they are simulated, in a sentence."""

    def load(self) -> Iterator[xr.Dataset]:
        """One set, with ``split``."""
        x, v, charge, coupling = [], [], [], []
        for number in range(self.count):
            rng = np.random.default_rng([self.seed, number])
            q, w = self.kinds(rng)
            way = rng.standard_normal((self.bodies, self.axes))
            x.append(0.5 * rng.standard_normal((self.bodies, self.axes)))
            v.append(0.5 * way / np.linalg.norm(way, axis=-1, keepdims=True))
            charge.append(q)
            coupling.append(w)
        w = np.stack(coupling)
        position, velocity = self.forces.run(np.stack(x), np.stack(v), w, frames=self.frames, interval=self.interval, step=self.step)
        tested = max(1, round(self.test * self.count))
        split = np.where(np.arange(self.count) < self.count - tested, "train", "test")
        over = ("trajectory", "time", "body", "axis")
        facts = {"strength": self.forces.strength, "softening": self.forces.softening}
        yield xr.Dataset(
            {
                "position": (over, position),
                "velocity": (over, velocity),
                "charge": (("trajectory", "body"), np.stack(charge)),
                "coupling": (("trajectory", "body", "other"), w),
                "split": ("trajectory", split),
            },
            coords={"time": self.interval * np.arange(self.frames)},
            attrs={"key": self.key, "law": self.forces.law, **facts, "simulated": self.said()},
        )


@dataclass(frozen=True)
class Springs(Simulated):
    """Bodies of which some pairs are joined by springs of no natural length.

    Args:
        strength: k, per unit of time squared.
        share: of the pairs that are joined.
    """

    strength: float = 0.1
    share: float = 0.5

    key: ClassVar[str] = "springs"

    @property
    def forces(self) -> Forces:
        """F = -k sum w (x_i - x_j)."""
        return Forces("springs", self.strength)

    def kinds(self, rng: np.random.Generator) -> tuple[Array, Array]:
        """No charges, random springs."""
        return np.zeros(self.bodies), springs_between(self.bodies, self.share, rng)

    def said(self) -> str:
        """How they are simulated, in a sentence."""
        return f"leapfrog with steps of {self.step:g}, springs of k = {self.strength:g} between {self.share:.0%} of the pairs, masses 1"


@dataclass(frozen=True)
class Charges(Simulated):
    """Bodies of charge 1 or -1.

    Args:
        strength: k of F = k q_i q_j r/|r|^3.
        softening: length below which the force no longer grows.
    """

    step: float = 0.005
    strength: float = 1.0
    softening: float = 0.3

    key: ClassVar[str] = "charges"

    @property
    def forces(self) -> Forces:
        """F = k sum q q (x_i - x_j)/s^3."""
        return Forces("charges", self.strength, self.softening)

    def kinds(self, rng: np.random.Generator) -> tuple[Array, Array]:
        """Random signs, and their products."""
        charge = charges_of(self.bodies, rng)
        return charge, coupled(charge)

    def said(self) -> str:
        """How they are simulated, in a sentence."""
        return f"leapfrog with steps of {self.step:g}, charges of 1 or -1, k = {self.strength:g} softened at {self.softening:g}, masses 1"
