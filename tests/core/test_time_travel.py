"""Solvers that go back up in noise: the marginals stay, the plan is what it says, and what guides impose spreads."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from unstir import names, sample
from unstir.certify import GaussianOracle, checks, gm4
from unstir.certify.distances import energy_distance
from unstir.certify.laws import ring8
from unstir.errors import UserError
from unstir.grid import Karras, LogSNR
from unstir.guide import Guide
from unstir.process import EDM, OUVE, SBVE, VE, VP, Joint, RectifiedFlow, VPCosine
from unstir.solver import DDIM, Heun, Multistep, PredictorCorrector, Restart, Solver, TimeTravel
from unstir.solver.restart import Detour

VARIANCE = 0.25
PROCESSES = [VP(), RectifiedFlow(), VE(), EDM()]


@dataclass(frozen=True, repr=False)
class ExactFlow(Solver):
    """The flow of N(0, 1/4), exactly."""

    order = 99

    def coefficients(self, levels: Any) -> Any:
        total = levels.alpha**2 * VARIANCE + levels.sigma**2
        return [(math.sqrt(total[i + 1] / total[i]),) for i in range(levels.steps)]

    def step(self, x: Any, row: Any, model: Any, memory: Any) -> Any:
        return row.c[0] * x


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
@pytest.mark.parametrize(
    "solver",
    [Restart(ExactFlow(), 0.06, 0.3, 3), Restart(ExactFlow(), 0.01, 10.0, 2, steps=4), TimeTravel(ExactFlow(), 3, 4)],
    ids=["restart", "restart-wide", "time-travel"],
)
def test_going_back_up_keeps_the_exact_marginals(process: Any, solver: Detour) -> None:
    times = LogSNR(12, sigma_max=50.0, sigma_min=0.005, to_zero=False).times(process)
    assert checks.variance_ratio(solver, process, times, VARIANCE) == pytest.approx(1, abs=1e-11)  # rounding of some 40 rows


def test_a_wrong_renoising_would_be_seen() -> None:
    class Faulty(TimeTravel):
        def plan(self, process: Any, times: Any) -> Any:
            from dataclasses import replace

            rows = super().plan(process, times)
            return [replace(row, c=(row.c[0], row.c[1] * 1.01, *row.c[2:])) for row in rows]

    times = LogSNR(12, sigma_max=50.0, sigma_min=0.005, to_zero=False).times(EDM())
    assert abs(checks.variance_ratio(Faulty(ExactFlow(), 3, 4), EDM(), times, VARIANCE) - 1) > 1e-4


def test_restart_contracts_the_error_of_a_coarse_solver() -> None:
    """The claim of Restart at the level of variances: what the first pass got wrong is forgotten when noise is added."""
    for steps in (5, 10, 20):
        times = Karras(steps, sigma_max=80.0, sigma_min=0.002, to_zero=False).times(EDM())
        plain = checks.variance_ratio("heun", EDM(), times, VARIANCE)
        again = checks.variance_ratio(Restart("heun", 0.06, 0.3, 4, steps=9), EDM(), times, VARIANCE)
        assert abs(again - 1) < 0.5 * abs(plain - 1)


@pytest.mark.parametrize("name", ["ddim", "ancestral", "heun", "dpm++2m", "dpm++2m-sde", "f4", "pc:snr=0"])
def test_any_solver_can_restart_and_travel(name: str) -> None:
    times = LogSNR(200, sigma_max=50.0, sigma_min=0.005, to_zero=False).times(EDM())
    for solver in (Restart(names.solver(name), 0.06, 0.3, 2), TimeTravel(names.solver(name), 50, 2)):
        assert checks.variance_ratio(solver, EDM(), times, VARIANCE) == pytest.approx(1, abs=0.03)  # first order in 9/200


def test_a_plan_goes_up_where_it_should() -> None:
    rows = Restart(Heun(), 0.06, 0.3, 2, steps=3).plan(EDM(), names.grid("karras:6").times(EDM()))
    assert [row.index for row in rows] == list(range(len(rows)))
    assert all(earlier.s == later.t for earlier, later in zip(rows, rows[1:], strict=False))
    ups = [row for row in rows if row.rho_s > row.rho_t]
    assert [(row.t, row.s) for row in ups] == [(0.06, pytest.approx(0.3))] * 2
    assert all(row.c[0] == 1 and row.c[1] == pytest.approx(math.sqrt(0.3**2 - 0.06**2)) for row in ups)
    assert rows[-1].s == 0


def test_repaints_schedule_walks_every_stretch_r_times() -> None:
    times = [float(t) for t in range(12, -1, -1)]
    rows = TimeTravel(DDIM(), jump=4, walks=3).plan(EDM(), times)
    walked = [row.t for row in rows if row.s < row.t]
    # 11 steps end above sigma = 0: stretches of 4 from the end, (12 .. 9) walked once, (9 .. 5) and (5 .. 1) thrice, and the last step
    assert [walked.count(t) for t in times[:-1]] == [1, 1, 1, 3, 3, 3, 3, 3, 3, 3, 3, 1]
    assert sum(row.s > row.t for row in rows) == 4
    assert TimeTravel(DDIM(), jump=4, walks=1).plan(EDM(), times)[0].s == 11.0


def test_time_travel_stays_between_its_levels() -> None:
    rows = TimeTravel(DDIM(), jump=2, walks=2, low=0.1, high=10.0).plan(EDM(), names.grid("karras:18").times(EDM()))
    ups = [row for row in rows if row.rho_s > row.rho_t]
    assert ups
    assert all(row.rho_t >= 0.1 and row.rho_s <= 10 for row in ups)


def test_nothing_walked_again_is_the_solver_inside() -> None:
    for solver in (Restart(Multistep("F", predictor=3), repeats=0), TimeTravel(Multistep("F", predictor=3), walks=1)):
        assert not solver.stochastic
        assert checks.draws(solver).draws == 0
        assert torch.equal(sample(gm4(), 4, solver=solver).x, sample(gm4(), 4, solver=solver.solver).x)  # type: ignore[arg-type]


def test_history_does_not_outlive_a_stretch() -> None:
    """A multistep solver begins anew after going up: the first step of a stretch uses one value."""
    solver = Restart(Multistep("x0", predictor=2, start_up="none"), 0.06, 0.3, 1, steps=2)
    rows = solver.plan(EDM(), names.grid("karras:8").times(EDM()))
    after = rows[next(i for i, row in enumerate(rows) if row.rho_s > row.rho_t) + 1]
    assert after.c[2:][6] == 0  # the weight of the value before


@pytest.mark.parametrize("process", [VPCosine(), OUVE(), SBVE(), RectifiedFlow(shift=3.0)], ids=repr)
def test_every_process_can_be_walked_again(process: Any) -> None:
    for solver in (Restart(), TimeTravel("dpm++2m", 2, 2)):
        found = checks.finite(solver, process, [f"karras:{n}" for n in (1, 2, 3, 5, 10)])
        assert found.passed, found


def test_leaves_with_their_own_times_go_up_together() -> None:
    from unstir.certify import JointOracle

    for shared in (True, False):
        joint = JointOracle({"x": gm4(VP()), "y": gm4(RectifiedFlow(t_max=1.0 if shared else 0.99))}, shared_time=shared)
        for solver in (Restart("ddim", 0.06, 0.3, 1, steps=3), TimeTravel("ddim", 2, 2)):
            rows = solver.plan(joint.process, names.grid("log-snr:6,sigma_max=20,sigma_min=0.01").times(joint.process))
            up = next(row for row in rows if row.rho_s["x"] > row.rho_t["x"])
            assert up.alpha_s["x"] == pytest.approx(float(VP().alpha(up.s["x"] if isinstance(up.s, dict) else up.s)))
            grid = "log-snr:6,sigma_max=20,sigma_min=0.01"
            assert all(torch.isfinite(leaf).all() for leaf in sample(joint, 3, solver=solver, grid=grid).x.values())  # type: ignore[union-attr]
    assert isinstance(joint.process, Joint)


def test_a_walked_again_sample_does_not_depend_on_its_batch() -> None:
    for solver in ("restart", "time-travel:dpm++2m,2,3"):
        assert checks.invariance(GaussianOracle(torch.zeros(3), torch.ones(3)), solver=solver, grid="karras:8").passed


class PullToLine(Guide):
    """Moves the estimate half of the way towards x_1 = 1/2: a constraint that a guide satisfies only in part."""

    exactness = "never; it stands for any guide that is not"

    def estimate(self, denoiser: Any, x: Any, t: Any, condition: Any) -> Any:
        x0 = denoiser(x, t, condition).clone()
        x0[:, 0] += 0.3 * (0.5 - x0[:, 0])
        return x0


def test_time_travel_lowers_the_residual_of_a_guided_constraint() -> None:
    """Not only because the guide acts more often: DDIM with as many evaluations is compared (.37, with 68 .29; .15)."""

    def run(solver: Solver, steps: int) -> tuple[float, int]:
        found = sample(ring8(), 400, solver=solver, grid=f"karras:{steps},sigma_max=20", guides=[PullToLine()], seed=2)
        return float((found.x[:, 0] - 0.5).abs().mean()), found.nfe  # type: ignore[index,call-overload]

    travelled, nfe = run(TimeTravel("ddim", 4, 5, low=0.01, high=10.0), 20)
    assert travelled < 0.6 * run(DDIM(), 20)[0]
    assert travelled < 0.7 * run(DDIM(), nfe)[0]


def test_time_travel_with_an_exact_denoiser_keeps_the_law() -> None:
    law = ring8()
    grid = Karras(40, sigma_max=20.0, sigma_min=0.02)
    truth = law.marginal(1500, 0.0, seed=5)
    start = (law.marginal(1500, 20.0, seed=6), 20.0)
    x = sample(law, 1500, solver=TimeTravel("dpm++2m", 5, 4), grid=grid, start=start, seed=1).x
    floor = energy_distance(law.marginal(1500, 0.0, seed=7), truth)
    assert energy_distance(x, truth) < abs(floor) + 0.03  # type: ignore[arg-type]  # the floor's own spread over seeds is .01


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Restart(low=0.3, high=0.1), "0 < low < high"),
        (lambda: Restart(repeats=-1), "repeats must be"),
        (lambda: Restart(steps=0), "steps must be"),
        (lambda: TimeTravel(jump=0), "jump must be"),
        (lambda: TimeTravel(walks=0), "walks must be"),
        (lambda: TimeTravel(low=2.0, high=1.0), "low < high"),
        (lambda: sample(gm4(), 1, solver=Restart(), grid=[0.2, 0.1, 0.0]), "a grid that passes both"),
        (lambda: sample(gm4(), 1, solver=PredictorCorrector(Restart())), "only be the outermost"),
    ],
)
def test_what_cannot_be_walked_is_refused(make: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        make()
