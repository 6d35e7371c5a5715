"""Simulated bodies: closed forms, what is conserved, and sets that cross the border."""

from __future__ import annotations

import numpy as np
import pytest

from unstir.errors import UserError
from unstir_molecules.trajectories.datasets import Charges, Springs
from unstir_molecules.trajectories.simulator import Forces, charges_of, coupled, springs_between

PAIR = np.array([[[0.0, 1.0], [1.0, 0.0]]])


def test_two_bodies_on_a_spring_swing_as_a_cosine():
    """x_1 - x_2 = d cos(sqrt(2k) t): masses 1, reduced mass 1/2. Leapfrog's phase error is (w h)^2/24 of w t."""
    x = np.array([[[0.5, 0.0, 0.0], [-0.5, 0.0, 0.0]]])
    forces = Forces("springs", 0.1)
    places, velocities = forces.run(x, np.zeros_like(x), PAIR, frames=31, interval=0.5, step=0.01)
    t, w = 0.5 * np.arange(31), np.sqrt(0.2)
    np.testing.assert_allclose(places[0, :, 0, 0] - places[0, :, 1, 0], np.cos(w * t), atol=1e-5)
    np.testing.assert_allclose(velocities[0, :, 0, 0] - velocities[0, :, 1, 0], -w * np.sin(w * t), atol=1e-5)


def test_two_opposite_charges_circle_each_other():
    """At distance 1 with k = 1 the force 1 bends a circle of radius 1/2 at speed sqrt(1/2)."""
    x = np.array([[[0.5, 0.0], [-0.5, 0.0]]])
    v = np.sqrt(0.5) * np.array([[[0.0, 1.0], [0.0, -1.0]]])
    places, _ = Forces("charges", 1.0).run(x, v, -PAIR, frames=20, interval=0.2, step=0.002)
    np.testing.assert_allclose(np.linalg.norm(places, axis=-1), 0.5, atol=1e-5)


@pytest.mark.parametrize("forces", [Forces("springs", 0.3), Forces("charges", 0.7, 0.2)])
def test_forces_are_minus_the_gradient_of_the_potential_and_add_up_to_nothing(forces):
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((4, 3)), springs_between(4, 0.7, rng) if forces.law == "springs" else coupled(charges_of(4, rng))
    found, h = forces.force(x, w), 1e-6
    for body, axis in np.ndindex(4, 3):
        step = np.zeros((4, 3))
        step[body, axis] = h
        slope = (forces.potential(x + step, w) - forces.potential(x - step, w)) / (2 * h)
        assert found[body, axis] == pytest.approx(-slope, abs=1e-7)
    np.testing.assert_allclose(found.sum(0), 0, atol=1e-12)


@pytest.mark.parametrize("data", [Springs(count=60), Charges(count=60, step=0.0025)])
def test_energy_drifts_little_and_four_times_less_at_half_the_step(data):
    def drift(step):
        item = next(type(data)(count=60, step=step).load())
        e = data.forces.energy(item["position"].values, item["velocity"].values, item["coupling"].values[:, None])
        kinetic = (item["velocity"].values ** 2).sum((-1, -2)).mean() / 2
        return np.median(np.abs(e - e[:, :1]).max(1)) / kinetic

    coarse, fine = drift(data.step), drift(data.step / 2)
    assert coarse < 1e-3
    assert coarse / fine == pytest.approx(4, rel=0.1)


def test_the_centre_of_mass_moves_evenly_and_time_can_be_turned_back():
    item = next(Springs(count=5).load())
    centre = item["position"].mean("body").values
    np.testing.assert_allclose(np.diff(centre, 2, axis=1), 0, atol=1e-10)
    forces, w = Springs().forces, item["coupling"].values
    back, _ = forces.run(item["position"].values[:, -1], -item["velocity"].values[:, -1], w, frames=30, interval=0.1, step=0.01)
    np.testing.assert_allclose(back[:, ::-1], item["position"].values, atol=1e-9)


@pytest.mark.parametrize("cls", [Springs, Charges])
def test_a_trajectory_depends_on_the_seed_and_its_number_alone(cls):
    few, many = (next(cls(count=count).load()) for count in (4, 9))
    np.testing.assert_array_equal(few["position"].values, many["position"].values[:4])
    assert not np.array_equal(few["position"].values, next(cls(count=4, seed=1).load())["position"].values)
    assert few["position"].dims == ("trajectory", "time", "body", "axis")
    assert "leapfrog" in few.attrs["simulated"]
    assert (few["split"].values == ["train"] * 3 + ["test"]).all()


def test_bad_options_are_refused():
    with pytest.raises(UserError, match="law must be one of springs, charges"):
        Forces("gravity")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="bodies must be at least 2"):
        Springs(bodies=1)
    with pytest.raises(UserError, match="strength must be above 0"):
        Charges(strength=0)
    with pytest.raises(UserError, match="must be positive"):
        Forces().run(np.zeros((1, 2, 3)), np.zeros((1, 2, 3)), PAIR, frames=2, interval=0.1, step=0)
