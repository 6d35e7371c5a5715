"""The search for times and solver choices, and the Beta grid it competes with."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from unstir import names, sample
from unstir.certify import GaussianOracle, checks, gm4
from unstir.certify.distances import sliced_wasserstein
from unstir.certify.laws import ring8
from unstir.errors import UserError
from unstir.grid import Beta, LogSNR, Quadratic, Uniform
from unstir.process import EDM, SBVE, VP, RectifiedFlow
from unstir.search import Found, Schedule, pool_of, search
from unstir.solver import Multistep, PerStep

RING = ring8(VP())
COUNT = 400


@lru_cache(maxsize=16)
def flow(seed: int) -> tuple[Tensor, Tensor]:
    """Starts and, by a fine solve, where the flow takes them: a reference without sampling error."""
    start = RING.marginal(COUNT, 1.0, seed=seed)
    return start, sample(RING, COUNT, solver="f4", grid=LogSNR(150), start=(start, 1.0)).x  # type: ignore[return-value]


def distance(solver: Any, grid: Any, seed: int) -> float:
    """Sliced Wasserstein-2 to the reference from the same starts."""
    start, reference = flow(seed)
    x: Any = sample(RING, COUNT, solver=solver, grid=grid, start=(start, 1.0)).x
    return sliced_wasserstein(x, reference, directions=24)


def test_four_searched_times_beat_uniform_and_quadratic_spacing_on_unseen_starts() -> None:
    """AutoDiffusion's claim (row 56), without the removal of layers."""
    plain = [Schedule(tuple(grid.times(VP()))) for grid in (Uniform(4), Quadratic(4))]
    found = search(
        lambda schedule, seed: distance("ddim", schedule.grid, seed),
        pool_of(VP(), "log-snr:40"),
        4,
        beginning=plain,
        evaluations=100,
        held_out=(11, 12, 13),
    )
    assert found.held_out < 0.9 * min(found.beginning_held_out)
    assert len(found.history) == 100
    assert found.value == min(value for _, value in found.history)
    assert found.best.times[0] == 1.0
    assert found.best.times[-1] == 0.0
    assert len(found.best.times) == 5


CHOICES = tuple(
    Multistep(output, "lambda", order, start_up="none")
    for output, order in (("x0", 1), ("x0", 2), ("x0", 3), ("eps", 2), ("eps", 3), ("F", 2), ("F", 3))
)


@lru_cache(maxsize=1)
def solver_search() -> Found:
    fixed = [Schedule(tuple(grid.times(VP())), (choice,) * 5) for grid in (Quadratic(5), LogSNR(5)) for choice in CHOICES]
    return search(
        lambda schedule, seed: distance(schedule.solver, schedule.grid, seed),
        pool_of(VP(), "log-snr:40"),
        5,
        choices=CHOICES,
        beginning=fixed,
        evaluations=150,
        held_out=(11, 12, 13),
    )


def test_a_searched_solver_beats_the_best_fixed_one_and_keeps_its_gain_on_fresh_starts() -> None:
    """The unified sampling framework's claim (row 68), 5 evaluations, at most 200 of the objective."""
    found = solver_search()
    fixed = [value for schedule, value in found.history[:14]]
    assert found.value < 0.9 * min(fixed)
    assert found.held_out < 0.95 * min(found.beginning_held_out)
    start, _ = flow(11)
    assert sample(RING, COUNT, solver=found.best.solver, grid=found.best.grid, start=(start, 1.0)).nfe == 5


def smooth(schedule: Schedule, seed: int) -> float:
    """An objective whose minimum is known: the pool's times nearest to .8, .5 and .1."""
    return float(np.square(np.array(schedule.times[1:-1]) - [0.8, 0.5, 0.1]).sum())


POOL = tuple(np.linspace(1, 0, 41).tolist())


def test_a_known_optimum_is_found_and_the_search_repeats_itself() -> None:
    found = search(smooth, POOL, 4, evaluations=300, seed=1)
    assert found.best.times == pytest.approx((1, 0.8, 0.5, 0.1, 0))
    assert search(smooth, POOL, 4, evaluations=60, seed=3) == search(smooth, POOL, 4, evaluations=60, seed=3)
    assert search(smooth, POOL, 4, evaluations=60, seed=3).history != search(smooth, POOL, 4, evaluations=60, seed=4).history


def test_searching_beats_guessing_at_equal_cost() -> None:
    """The best of 60 searched against the best of 60 random schedules, over 8 seeds."""
    searched = np.mean([search(smooth, POOL, 4, evaluations=60, seed=seed).value for seed in range(8)])
    random = np.random.default_rng(0)
    draws = [[smooth(Schedule((1, *sorted(random.choice(POOL[1:-1], 3, replace=False))[::-1], 0)), 0) for _ in range(60)] for _ in range(8)]
    assert searched < 0.6 * np.mean([min(one) for one in draws])  # measured .0019 and .0042


def test_a_search_ends_when_every_schedule_is_known_and_survives_objectives_that_are_not_finite() -> None:
    assert len(search(smooth, POOL[::8], 2, evaluations=50).history) == 4  # one inner time among four
    found = search(lambda schedule, seed: float("nan") if schedule.times[1] > 0.6 else smooth(schedule, seed), POOL, 4, evaluations=80)
    assert found.best.times[1] <= 0.6
    assert found.held_out is None


def test_schedules_to_begin_with_move_to_the_pool() -> None:
    given = Schedule((1.0, 0.801, 0.799, 0.2, 0.0))
    found = search(smooth, POOL, 4, beginning=[given], evaluations=1)
    assert found.best.times == pytest.approx((1, 0.825, 0.8, 0.2, 0)) or found.best.times == pytest.approx((1, 0.8, 0.775, 0.2, 0))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: search(smooth, POOL[:3], 4), "a pool of at least 5"),
        (lambda: search(smooth, POOL[::-1], 4), "strictly decreasing"),
        (lambda: search(smooth, POOL, 4, evaluations=0), "at least 1"),
        (lambda: search(smooth, POOL, 4, seen=3, held_out=(3,)), "not among those held out"),
        (lambda: search(smooth, POOL, 4, beginning=[Schedule((1.0, 0.0))]), "has 1 steps"),
        (lambda: Schedule((1.0, 0.0)).solver, "times alone"),
        (lambda: PerStep(()), "there must be one"),
        (lambda: PerStep(("ddim",)), "takes a multistep solver"),
        (lambda: Beta(5, a=0.0), "must be positive"),
    ],
)
def test_what_cannot_be_searched_is_refused(make: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        make()


# A choice a step


@pytest.mark.parametrize(
    "choice", CHOICES + (Multistep("eps", "rho", 3, start_up="none"), Multistep(variant="midpoint", start_up="none")), ids=repr
)
@pytest.mark.parametrize("process", [VP(), EDM(), RectifiedFlow(), SBVE()], ids=repr)
def test_one_choice_for_every_step_is_the_multistep_solver(choice: Multistep, process: Any) -> None:
    condition = {"anchor": torch.tensor([[0.3, -0.2]], dtype=torch.float64)} if process.anchored else None
    ours, theirs = (sample(gm4(process), 3, solver=s, grid="karras:9", condition=condition).x for s in (PerStep((choice,)), choice))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)  # type: ignore[arg-type]  # the same sums in another order


def test_mixed_choices_keep_the_order_of_the_worst_and_draw_nothing() -> None:
    mixed = PerStep((Multistep("eps", predictor=2), Multistep("x0", predictor=2), Multistep("F", predictor=3)))
    assert mixed.order == 2
    assert checks.order(mixed, steps=(256, 512)).passed
    assert checks.order(PerStep()).passed
    assert checks.draws(mixed).draws == 0
    assert checks.invariance(gm4(), solver=mixed, grid="karras:7").worst < 1e-12


# The Beta grid


def test_a_beta_grid_of_ones_is_uniform_and_below_1_dense_at_both_ends() -> None:
    assert Beta(7, a=1.0, b=1.0).times(VP()) == pytest.approx(Uniform(7).times(VP()))
    gaps = -np.diff(Beta(10, a=0.5, b=0.5).times(VP()))
    assert gaps[0] < 0.5 * gaps[5]
    assert gaps[-1] < 0.5 * gaps[5]
    for process in (VP(), EDM(), RectifiedFlow(), SBVE()):
        for steps in (1, 2, 5, 50):
            times = Beta(steps, a=0.4, b=0.7).times(process)
            assert len(times) == steps + 1
            assert times[0] == process.t_max
            assert times[-1] == process.t_zero
    assert names.grid("beta:10,a=0.3") == Beta(10, a=0.3)


def test_some_beta_grid_below_1_beats_uniform_times_on_the_ring() -> None:
    """Row 189. With DPM++ 2M; DDIM on this law gains nothing from it (.092 at 10 steps either way)."""
    for steps, a in ((10, 0.4), (20, 0.7)):
        assert distance("dpm++2m", Beta(steps, a=a, b=0.95), 11) < 0.5 * distance("dpm++2m", Uniform(steps), 11)


def test_low_frequencies_change_early_and_high_ones_late() -> None:
    """Row 189's motive, on a spectrum k^-2: the step at which a direction's estimate changes most comes later the smaller its variance.

    The change summed over directions is least at the noise end and no U: on this schedule density there (b < 1) buys nothing.
    """
    variances = torch.arange(1, 33, dtype=torch.float64) ** -2.0
    law = GaussianOracle(torch.zeros(32), variances, VP())
    run = sample(law, 100, solver="ddim", grid=Uniform(40, t_min=0.01), seed=1, trace=True)
    estimates = torch.stack(run.estimates or [])  # type: ignore[arg-type]
    change = (estimates[1:] - estimates[:-1]).norm(dim=1)  # (steps, directions)
    peaks = change.argmax(0)
    assert (peaks.diff() >= 0).all()
    assert peaks[0] < 30 < 37 < peaks[-1]
    total = change.norm(dim=1)
    assert (total[:25].diff() > 0).all()
    assert total[25:].min() > 5 * total[0]
