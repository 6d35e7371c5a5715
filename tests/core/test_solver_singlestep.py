"""DPM-Solver in single steps: orders against the exact flow of normal data, any number of steps, strong guidance."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from unstir import sample
from unstir.certify import checks, gm4
from unstir.certify.joint import JointOracle
from unstir.certify.laws import classes3, gaussian
from unstir.errors import UserError
from unstir.grid import LogSNR, Quadratic
from unstir.guide import CFG
from unstir.process import EDM, VP, RectifiedFlow, VPTable
from unstir.solver import DDIM, Levels, Singlestep

ALL = [Singlestep(output, stages) for output in ("eps", "x0") for stages in (1, 2, 3)]  # type: ignore[arg-type]


@pytest.mark.parametrize("output", ["eps", "x0"])
def test_one_stage_is_ddim(output: Any) -> None:
    start = gm4(VP()).marginal(6, 1.0, seed=1)
    options: dict[str, Any] = {"grid": "karras:9", "start": (start, 1.0)}
    found = sample(gm4(VP()), 6, solver=Singlestep(output, 1), **options)
    torch.testing.assert_close(found.x, sample(gm4(VP()), 6, solver=DDIM(), **options).x, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("solver", ALL, ids=repr)
def test_on_normal_data_the_error_falls_with_the_declared_power_of_the_step(solver: Singlestep) -> None:
    law = gaussian(16, process=VP())
    start = law.marginal(32, 1.0, seed=1)
    exact = law.transport(start, 1.0, 1e-3)

    def error(n: int) -> float:
        found = sample(law, 32, solver=solver, grid=LogSNR(n, to_zero=False), start=(start, 1.0)).x
        return (found - exact).square().mean().sqrt().item()  # type: ignore[operator]

    slope = math.log2(error(32 * solver.stages) / error(64 * solver.stages))
    assert slope == pytest.approx(solver.order, abs=0.25)  # 1: .97, 2: 2.04, 3: 3.17 were measured with other code


@pytest.mark.parametrize("solver", [s for s in ALL if s.stages > 1], ids=repr)
@pytest.mark.parametrize("rest", [0, 1, 2])
def test_the_order_is_kept_when_steps_are_left_over(solver: Singlestep, rest: int) -> None:
    steps = (192 + rest, 2 * (192 + rest))
    found = checks.order(solver, steps=steps)
    assert found.passed, found


def test_the_published_endings_are_those_of_the_papers() -> None:
    three = Singlestep(stages=3, ending="published")
    assert [three.groups(n) for n in range(1, 8)] == [[1], [2], [2, 1], [3, 1], [3, 2], [3, 2, 1], [3, 3, 1]]
    assert Singlestep(stages=2, ending="published").groups(5) == [2, 2, 1]


def test_an_even_ending_leaves_the_rest_to_multistep_steps_that_are_better_than_short_groups() -> None:
    """That a short group costs an order, planted: an ending of one evaluation is of local second order."""
    even, short = (checks.order(Singlestep(stages=3, ending=ending), steps=(94, 190)) for ending in ("even", "published"))  # type: ignore[arg-type]
    assert all(a < 0.5 * b for a, b in zip(even.errors, short.errors, strict=True))


def test_a_step_costs_one_evaluation_whatever_the_stages() -> None:
    for solver in ALL:
        for n in (1, 2, 3, 4, 5, 8):
            assert sample(gm4(), 2, solver=solver, grid=f"log-snr:{n},to_zero=false").nfe == n


@pytest.mark.parametrize("process", [EDM(), VPTable("linear", zero_terminal=True), RectifiedFlow()], ids=repr)
def test_numbers_of_steps_up_to_50_are_finite(process: Any) -> None:
    for solver in (*ALL, Singlestep(stages=3, ending="published")):
        found = checks.finite(solver, process, [f"karras:{n}" for n in (*range(1, 11), 25, 48, 49, 50)], count=2)  # all remainders
        assert found.passed, found.failures[:3]


def test_two_stages_at_the_middle_are_the_midpoint_rule() -> None:
    """x_s = x + (rho_s - rho_t) eps at the geometric mean of the levels: DPM-Solver-2 of EDM."""
    denoiser, t, s = gm4(), 2.0, 0.5
    middle, x = math.sqrt(t * s), gm4().marginal(4, 2.0, seed=2)
    inner = x + (middle - t) * (x - denoiser(x, t)) / t
    expected = x + (s - t) * (inner - denoiser(inner, middle)) / middle
    found = sample(denoiser, 4, solver=Singlestep("eps", 2), grid=[t, middle, s], start=(x, t)).x
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


def test_three_stages_are_exact_where_the_noise_is_a_line_in_lambda() -> None:
    """All weights of a group on eps = 1 and on eps = lambda are integrals in closed form."""
    levels = Levels.of(EDM(), [4.0, 2.0, 1.0, 0.5])
    lam = -torch.log(torch.tensor(levels.rho))
    row = Singlestep("eps", 3).coefficients(levels)[2]
    newest, _, first = row[4:7]
    rho = levels.rho
    ones = -newest * rho[2] - first * rho[0]  # Y = -rho eps
    line = -newest * rho[2] * float(lam[2] - lam[0])
    h = float(lam[3] - lam[0])
    assert ones == pytest.approx(rho[3] - rho[0], rel=1e-13)
    assert line == pytest.approx(-rho[3] * (math.expm1(h) - h), rel=1e-12)  # -int rho (lambda - lambda_0) d(lambda)


def test_under_strong_guidance_the_multistep_method_is_far_better_than_single_steps() -> None:
    count, law = 96, classes3(VP())
    condition = {"class": torch.arange(count) % 3}
    for weight in (4.0, 9.0):
        options: dict[str, Any] = {"guides": [CFG(weight)], "condition": condition, "seed": 3}
        truth: Any = sample(law, count, solver="rk45:1e-7,1e-8", grid=LogSNR(12, to_zero=False), **options).x

        def error(solver: str, n: int) -> float:
            found: Any = sample(law, count, solver=solver, grid=Quadratic(n, t_min=1e-3, to_zero=False), **options).x  # noqa: B023
            return (found - truth).square().mean().sqrt().item()  # noqa: B023

        for n in (15, 20):
            single = min(error("dpm-solver-2s", n), error("dpm-solver-3s", n))
            assert error("dpm++2m", n) < 0.55 * single  # .025, .013 against .104, .026 for weight 4; .027, .015 against .56, .098 for 9


def test_leaves_of_a_joint_state_may_begin_their_groups_at_different_steps() -> None:
    denoiser = JointOracle({"x": gm4(VP()), "y": gm4(RectifiedFlow())}, shared_time=True)  # y starts in pure noise: one step apart
    times = [1.0, 0.8, 0.65, 0.5, 0.35, 0.2, 0.1, 0.0]
    start = {"x": gm4(VP()).marginal(3, 1.0, seed=1), "y": gm4(RectifiedFlow()).marginal(3, 1.0, seed=2)}
    for solver in ALL:
        both: Any = sample(denoiser, 3, solver=solver, grid=times, start=(start, 1.0)).x
        for leaf, process in (("x", VP()), ("y", RectifiedFlow())):
            alone = sample(gm4(process), 3, solver=solver, grid=times, start=(start[leaf], 1.0)).x
            torch.testing.assert_close(both[leaf], alone, rtol=1e-11, atol=1e-12)


def test_single_steps_draw_nothing_and_do_not_mix_samples() -> None:
    for solver in ALL:
        assert (checks.draws(solver).draws, checks.draws(solver).touched) == (0, False)
        assert checks.invariance(gm4(), solver=solver, grid="karras:7").passed


def test_options_are_checked() -> None:
    for options in ({"stages": 4}, {"stages": 0}, {"output": "F"}, {"ending": "short"}):
        with pytest.raises(UserError):
            Singlestep(**options)  # type: ignore[arg-type]
