"""Grids: golden numbers, strictly decreasing, right ends on every process, clear refusals."""

import math

import numpy as np
import pytest
import torch

from unstir.errors import UserError
from unstir.grid import NOISY, Karras, LogSNR, Native, Quadratic, Times, Uniform
from unstir.process import EDM, OUVE, SBVE, VE, VP, Joint, MeanReverting, RectifiedFlow, SubVP, VPCosine, VPTable

PROCESSES = [VP(), SubVP(), VPCosine(), VE(), EDM(), RectifiedFlow(), RectifiedFlow(3.0), VPTable(), VPTable("squaredcos")]
PROCESSES += [
    VPTable(zero_terminal=True),
    OUVE(),
    MeanReverting(),
    MeanReverting(schedule="constant"),
    SBVE(),
    Joint({"x": VP(), "a": VE()}),
]
GRIDS = [Karras, LogSNR, Uniform, Quadratic]


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
@pytest.mark.parametrize("grid", GRIDS)
def test_every_grid_fits_every_process(grid, process):
    """N steps are N+1 strictly decreasing floats, from the prior to sigma = 0, or to t_min."""
    for steps in (1, 2, 3, 5, 20, 50):
        times = grid(steps).times(process)
        assert len(times) == steps + 1
        assert all(type(t) is float for t in times)
        assert (np.diff(times) < 0).all()
        assert times[0] == process.t_max
        assert times[-1] == process.t_zero
        short = grid(steps, to_zero=False).times(process)
        assert len(short) == steps + 1
        assert (np.diff(short) < 0).all()
        level = torch.tensor(short[-1] if steps > 1 or math.isfinite(float(process.clock.rho(process.t_max))) else process.t_min)
        np.testing.assert_allclose(process.clock.rho(level), process.clock.rho(process.t_min), rtol=1e-6)


def test_karras_has_its_golden_numbers():
    expected = [80, 42.4151893, 21.1086767, 9.7232014, 4.0661236, 1.5017420, 0.4699791, 0.1166386, 0.0204353, 0.002]
    np.testing.assert_allclose(Karras(9, to_zero=False).times(EDM()), expected, rtol=0, atol=5e-8)
    assert Karras(10).times(EDM()) == [*Karras(9, to_zero=False).times(EDM()), 0.0]


@pytest.mark.parametrize("process", [VP(), SubVP(), VPCosine(), RectifiedFlow(3.0), OUVE(), SBVE()], ids=repr)
def test_grids_of_the_noise_level_are_the_same_levels_on_every_process(process):
    options = {"sigma_max": 20.0, "sigma_min": 0.01}
    for grid in (Karras(12, **options), LogSNR(12, **options)):
        levels = process.rho(torch.tensor(grid.times(process), dtype=torch.float64))
        np.testing.assert_allclose(levels, grid.times(EDM()), rtol=1e-9)  # at the bridge's end one bit of t is 1e-13 of rho


def test_log_snr_steps_are_equal():
    levels = torch.log(VP().rho(torch.tensor(LogSNR(10, to_zero=False).times(VP()), dtype=torch.float64)))
    np.testing.assert_allclose(levels.diff(), (levels[-1] - levels[0]).expand(10) / 10, rtol=1e-9)


def test_a_process_that_ends_in_pure_noise_starts_there_unless_told_otherwise():
    times = Karras(4).times(RectifiedFlow())
    assert times[0] == 1.0
    assert float(RectifiedFlow().rho(times[1])) == pytest.approx(NOISY)
    assert float(RectifiedFlow().rho(Karras(4, sigma_max=30.0).times(RectifiedFlow())[0])) == pytest.approx(30)


def test_uniform_runs_straight_to_the_data():
    assert Uniform(4).times(RectifiedFlow()) == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert Uniform(3, t_min=0.1).times(VP()) == pytest.approx([1.0, 0.55, 0.1, 0.0])
    assert Uniform(3).times(VE()) == [1.0, 0.5, 0.0, -math.inf]
    assert Quadratic(4).times(RectifiedFlow()) == [1.0, 0.5625, 0.25, 0.0625, 0.0]


def test_native_grids_are_the_known_indices():
    table = VPTable()
    assert Native(4).times(table) == [999, 749, 499, 249, -1]
    assert Native(4, "leading").times(table) == [750, 500, 250, 0, -1]
    assert Native(4, "linspace").times(table) == [999, 666, 333, 0, -1]
    assert Native(1000).times(table) == [*range(999, -1, -1), -1]
    assert Uniform(10).times(table) == Native(10).times(table)
    for steps in range(1, 51):
        for spacing in ("trailing", "leading", "linspace"):
            times = Native(steps, spacing).times(table)
            assert all(t == int(t) for t in times)
            assert len(times) == steps + 1


def test_separate_times_are_laid_leaf_by_leaf():
    joint = Joint({"x": EDM(), "a": VP()}, shared_time=False)
    times = Karras(5).times(joint)
    assert [t["x"] for t in times] == Karras(5).times(EDM())
    assert [t["a"] for t in times] == Karras(5).times(VP())


def test_given_times_are_taken_as_they_are():
    assert Times([3, 1.0, 0]).times(EDM()) == [3.0, 1.0, 0.0]
    assert Times([3, 1]) == Times((3.0, 1.0))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Karras(0), "at least 1 step"),
        (lambda: Uniform(2.5), "at least 1 step"),
        (lambda: Karras(5, sigma_max=-1.0), "sigma_max"),
        (lambda: LogSNR(5, sigma_min=0.0), "sigma_min"),
        (lambda: Karras(5, sigma_max=0.001).times(EDM()), "sigma_min < sigma_max"),
        (lambda: Uniform(5, t_max=0.1, t_min=0.2).times(VP()), "t_min < t_max"),
        (lambda: Times([1.0]), "at least two"),
        (lambda: Times([1.0, math.nan]), "at least two"),
        (lambda: Times([1.0, 1.0, 0.0]).times(EDM()), "decrease strictly"),
        (lambda: Times([0.1, 1.0]).times(EDM()), "decrease strictly"),
        (lambda: Times([1.0, -1.0]).times(EDM()), "no noise left"),
        (lambda: Native(5).times(EDM()), "table"),
        (lambda: Native(1001).times(VPTable()), "1000 steps"),
        (lambda: Native(5, "backward"), "spacing"),
    ],
)
def test_an_impossible_grid_is_refused_in_a_sentence(make, words):
    with pytest.raises(UserError, match=words):
        make()
