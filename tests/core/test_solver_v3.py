"""DPM-Solver-v3: statistics in closed form for normal data, one exact step, and what it gains on a ring."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch

from unstir import sample
from unstir.certify import GaussianOracle, checks, gm4
from unstir.certify.joint import JointOracle
from unstir.certify.laws import ring8
from unstir.errors import UserError
from unstir.grid import LogSNR
from unstir.process import EDM, OUVE, VP, VPTable
from unstir.solver import DPMSolverV3, Multistep, Statistics, calibrate

VARIANCE = torch.arange(1, 7, dtype=torch.float64) ** -1.5
LEVELS = np.geomspace(81.0, 0.0019, 400)


@functools.cache
def normal(mean: float = 0.0, process: Any = None) -> tuple[GaussianOracle, Statistics]:
    law = GaussianOracle(torch.full((6,), mean, dtype=torch.float64), VARIANCE, process or EDM())
    return law, calibrate(law, law.draw(32, torch.Generator().manual_seed(1)), LEVELS)


def test_the_linear_statistic_of_normal_data_is_its_closed_form() -> None:
    _, found = normal()
    for rho in (60.0, 2.0, 0.3, 0.01):
        expected = rho**2 / (VARIANCE.numpy() + rho**2)
        np.testing.assert_allclose(found.linear(-np.log(rho)), expected, rtol=1e-6, atol=1e-9)  # cubic splines over 400 levels: h^4


def test_random_signs_estimate_the_same_diagonal() -> None:
    law, exact = normal()
    found = calibrate(law, law.draw(16, torch.Generator().manual_seed(1)), LEVELS[::40], probes=1)
    here = -np.log(LEVELS[160])
    np.testing.assert_allclose(found.linear(here), exact.linear(here), atol=1e-9)  # exact where no coordinate meets another


@pytest.mark.parametrize("process", [EDM(), VP()], ids=repr)
def test_one_step_is_exact_on_normal_data_without_correlation(process: Any) -> None:
    law, statistics = normal(0.0, process)
    t, s = (float(process.time_at_rho(rho)) for rho in (80.0, 0.002))
    start = law.marginal(20, t, seed=2)
    found = sample(law, 20, solver=DPMSolverV3(statistics), grid=[t, s], start=(start, t))
    assert (found.x - law.transport(start, t, s)).abs().max() < 1e-6  # 7e-8 was measured
    plain = sample(law, 20, solver=DPMSolverV3(), grid=[t, s], start=(start, t))
    assert (plain.x - law.transport(start, t, s)).abs().max() > 0.1


def test_one_step_is_exact_with_a_mean_through_the_offset() -> None:
    law, statistics = normal(0.7)
    start = law.marginal(20, 80.0, seed=2)
    found = sample(law, 20, solver=DPMSolverV3(statistics), grid=[80.0, 0.002], start=(start, 80.0))
    assert (found.x - law.transport(start, 80.0, 0.002)).abs().max() < 1e-3  # differences of 1e-3 in lambda, and quadrature over splines


def test_without_statistics_it_is_the_data_prediction_method_with_exact_weights() -> None:
    for predictor, corrector in ((1, 0), (2, 0), (3, 0), (2, 3), (3, 4)):
        for grid in ("karras:9", "log-snr:6,to_zero=false"):
            found = sample(gm4(VP()), 8, solver=DPMSolverV3(None, predictor, corrector), grid=grid)
            expected = sample(gm4(VP()), 8, solver=Multistep("x0", "lambda", predictor, corrector, start_up="none"), grid=grid)
            torch.testing.assert_close(found.x, expected.x, rtol=1e-9, atol=1e-10)
            assert found.nfe == expected.nfe


@functools.cache
def gm4_statistics() -> Statistics:
    return calibrate(gm4(), gm4().draw(512, torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("options", [(2, 0), (2, 3)])
def test_statistics_change_the_constant_of_the_error_and_not_its_order(options: tuple[int, int]) -> None:
    found = checks.order(DPMSolverV3(gm4_statistics(), *options), steps=(128, 256), points=32)
    assert -0.1 < found.measured - found.declared < 0.25, found  # the splines' kinks are of fourth order, and still fade at 256 steps


def test_on_a_ring_it_is_no_worse_than_the_second_order_method_at_five_to_eight_evaluations() -> None:
    process = VP()
    law: Any = ring8(process)
    high, low = float(process.rho(1.0)) * 1.001, float(process.rho(1e-3)) * 0.999
    statistics = calibrate(law, law.draw(512, torch.Generator().manual_seed(2)), np.geomspace(high, low, 60))
    start = law.marginal(128, 1.0, seed=1)
    exact = law.transport(start, 1.0, 1e-3, steps=800)
    for n in (5, 6, 7, 8):
        errors = []
        for solver in (DPMSolverV3(statistics), "dpm++2m"):
            found: Any = sample(law, 128, solver=solver, grid=LogSNR(n, to_zero=False), start=(start, 1.0)).x
            distance = torch.linalg.vector_norm(found - exact, dim=1)
            errors.append((distance.median().item(), distance.square().mean().sqrt().item()))
        assert errors[0][0] < 0.7 * errors[1][0], errors
        assert errors[0][1] < errors[1][1], errors  # led by the few points that switch mode


def test_any_grid_and_number_of_steps_is_finite() -> None:
    for process in (EDM(), VPTable("linear", zero_terminal=True)):
        for solver in (DPMSolverV3(), DPMSolverV3(gm4_statistics())):
            found = checks.finite(solver, process, [f"karras:{n}" for n in (*range(1, 7), 20, 50)] + ["uniform:5", "logistic:7"], count=2)
            assert found.passed, found.failures[:3]


def test_it_draws_nothing_and_does_not_mix_samples() -> None:
    solver = DPMSolverV3(gm4_statistics())
    assert (checks.draws(solver).draws, checks.draws(solver).touched) == (0, False)
    assert checks.invariance(gm4(), solver=solver, grid="karras:7").passed


def test_statistics_of_one_number_for_all_coordinates_do() -> None:
    lam = np.linspace(-5, 7, 30)
    rho = np.exp(-lam)
    shared = Statistics(lam, rho**2 / (0.25 + rho**2), np.zeros(30), np.zeros(30))
    law = GaussianOracle(torch.zeros(2, 3), torch.full((2, 3), 0.25), EDM())
    start = law.marginal(5, 80.0, seed=1)
    found = sample(law, 5, solver=DPMSolverV3(shared), grid=[80.0, 3.0, 0.01], start=(start, 80.0))
    torch.testing.assert_close(found.x, law.transport(start, 80.0, 0.01), rtol=1e-3, atol=1e-3)  # 30 levels


def test_what_does_not_fit_is_a_sentence() -> None:
    lam, ones = np.linspace(0, 1, 5), np.ones(5)
    short, unknown = (lam[:3], ones[:3], ones[:3], ones[:3]), (lam, ones * np.nan, ones, ones)
    for bad in ((lam[::-1], ones, ones, ones), short, (lam, ones[:4], ones, ones), unknown):
        with pytest.raises(UserError):
            Statistics(*bad)
    for options in ({"predictor": 0}, {"corrector": 5}, {"statistics": 3.0}):
        with pytest.raises(UserError):
            DPMSolverV3(**options)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no anchor"):
        calibrate(gm4(OUVE()), torch.zeros(2, 2))
    with pytest.raises(UserError, match="joint"):
        sample(JointOracle({"x": gm4(VP())}, shared_time=True), 1, solver=DPMSolverV3())
