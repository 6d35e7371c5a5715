"""Published multistep solvers: each equals its formula, and what its paper claims is measured."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from unstir import sample
from unstir.certify import checks, gm4
from unstir.certify.joint import JointOracle
from unstir.certify.laws import ring8
from unstir.errors import UserError
from unstir.grid import LogSNR, Quadratic, Uniform
from unstir.process import EDM, VP, RectifiedFlow
from unstir.solver import DDIM, PLMS, EVODiff, GradientEstimation, Heun, Levels, Memory, Multistep, Solver
from unstir.solver.evodiff import best_scale
from unstir.state import batch_size

OUTPUTS, VARIABLES = ("x0", "eps", "F", "v"), ("lambda", "rho", "theta", "q7", "logistic", "t")


def points(count: int = 8) -> torch.Tensor:
    return gm4(VP()).marginal(count, 0.9, seed=3)


def run(solver: Solver | str, denoiser: Any, start: Any, times: list[float]) -> torch.Tensor:
    return sample(denoiser, batch_size(start), solver=solver, grid=times, start=(start, times[0])).x  # type: ignore[return-value]


TIMES = [0.9, 0.7, 0.55, 0.4, 0.3, 0.2, 0.1]


def test_tab_0_is_ddim() -> None:
    for variable in VARIABLES:
        found = run(Multistep("eps", variable, 1), gm4(VP()), points(), TIMES)  # type: ignore[arg-type]
        torch.testing.assert_close(found, run(DDIM(), gm4(VP()), points(), TIMES), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("variable", VARIABLES)
def test_the_weights_of_several_values_sum_to_that_of_one(output: Any, variable: Any) -> None:
    """A constant output is followed exactly whatever the number of values."""
    levels = Levels.of(VP(), TIMES)

    def in_outputs(nodes: list[int]) -> tuple[float, float]:
        made = Multistep(output, variable, len(nodes))
        a, b = made.weights(levels, 4, 5, nodes)
        return a, sum(weight / made._value(levels, node)[1] for weight, node in zip(b, nodes, strict=True))

    alone = in_outputs([4])
    for count in (2, 3, 4):
        assert in_outputs(list(range(4, 4 - count, -1))) == pytest.approx(alone, rel=1e-10)


def test_velocity_in_the_logistic_variable_of_power_one_is_adams_bashforth_in_the_time_of_a_straight_path() -> None:
    process, times = RectifiedFlow(), [0.9, 0.8, 0.7, 0.6, 0.5]
    denoiser, x = gm4(process), gm4(process).marginal(6, 0.9, seed=1)
    expected, before = x.clone(), None
    for t, s in itertools.pairwise(times):
        v = (expected - denoiser(expected, t)) / t  # dx/dt = eps - x0
        slope = v if before is None else 1.5 * v - 0.5 * before
        expected, before = expected + (s - t) * slope, v
    found = run(Multistep("v", "logistic", 2, start_up="none", scale=1.0, power=1.0), denoiser, x, times)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", ["bh1", "bh2"])
def test_unipc_is_its_published_update(kind: str) -> None:
    process, times = VP(), TIMES[:4]
    denoiser, x = gm4(process), points()
    alpha, sigma = ([float(f(t)) for t in times] for f in (process.alpha, process.sigma))
    lam = [math.log(a / s) for a, s in zip(alpha, sigma, strict=True)]

    def linear(i: int, x: torch.Tensor, m: torch.Tensor) -> tuple[torch.Tensor, float, float]:
        h = lam[i + 1] - lam[i]
        return sigma[i + 1] / sigma[i] * x - alpha[i + 1] * math.expm1(-h) * m, -h if kind == "bh1" else math.expm1(-h), h

    m0 = denoiser(x, times[0])
    x1 = linear(0, x, m0)[0]
    m1 = denoiser(x1, times[1])
    base, B, h0 = linear(0, x, m0)
    x1 = base - alpha[1] * B * 0.5 * (m1 - m0)  # UniC-1: rho_c = 1/2
    base, B, h1 = linear(1, x1, m1)
    r = -h0 / h1
    x2 = base - alpha[2] * B * 0.5 * (m0 - m1) / r  # UniP-2: rho_p = 1/2
    m2 = denoiser(x2, times[2])
    hh = -h1
    phi = math.expm1(hh) / hh - 1  # h phi_k for the right-hand side
    b = np.array([phi, (phi / hh - 0.5) * 2]) / B
    rho = np.linalg.solve(np.array([[1.0, 1.0], [r, 1.0]]), b)  # UniC-2
    x2 = base - alpha[2] * B * (rho[0] * (m0 - m1) / r + rho[1] * (m2 - m1))
    base, B, h2 = linear(2, x2, m2)
    expected = base - alpha[3] * B * 0.5 * (m1 - m2) / (-h1 / h2)
    torch.testing.assert_close(run(f"unipc2-{kind}", denoiser, x, times), expected, rtol=1e-11, atol=1e-12)


def test_plms_starts_with_the_trapezoid_and_goes_on_with_the_weights_of_equal_steps() -> None:
    process = EDM()
    denoiser, times = gm4(process), [4.0, 3.1, 2.2, 1.4, 0.8, 0.4]
    x = denoiser.marginal(5, 4.0, seed=2)
    expected, eps = x.clone(), []
    weights = {1: [1.0], 2: [3 / 2, -1 / 2], 3: [23 / 12, -16 / 12, 5 / 12], 4: [55 / 24, -59 / 24, 37 / 24, -9 / 24]}
    for t, s in itertools.pairwise(times):
        eps.append((expected - denoiser(expected, t)) / t)
        if len(eps) == 1:
            ahead = expected + (s - t) * eps[0]
            expected = expected + (s - t) * (eps[0] + (ahead - denoiser(ahead, s)) / s) / 2
        else:
            expected = expected + (s - t) * sum(w * e for w, e in zip(weights[min(len(eps), 4)], eps[::-1], strict=False))
    found = sample(denoiser, 5, solver=PLMS(), grid=times, start=(x, 4.0))
    torch.testing.assert_close(found.x, expected, rtol=1e-12, atol=1e-12)
    assert found.nfe == len(times)  # one a step, and one more
    first = run(PLMS(), denoiser, x, times[:2])
    torch.testing.assert_close(first, run(Heun(), denoiser, x, times[:2]), rtol=1e-12, atol=1e-12)


def test_gradient_estimation_of_gamma_one_is_ddim() -> None:
    found = run(GradientEstimation(1.0), gm4(VP()), points(), TIMES)
    torch.testing.assert_close(found, run(DDIM(), gm4(VP()), points(), TIMES), rtol=1e-12, atol=1e-13)


def test_gradient_estimation_of_gamma_one_and_a_half_is_second_order() -> None:
    assert checks.order(GradientEstimation(1.5)).passed
    assert checks.order(GradientEstimation(2.0)).passed  # declared, and measured, to be of first order


def test_denoising_is_the_gradient_of_half_the_squared_distance_as_the_noise_vanishes() -> None:
    """x - x0 = grad 1/2 dist^2; for eight points with std .001 it is, once their basins are apart."""
    law = ring8(EDM())
    tight = type(law)(torch.ones(8), law.means, torch.full((8, 2), 1e-3))
    x = law.means * 1.01 + 0.02
    for sigma in (0.5, 0.1):
        direction = x - tight(x, sigma)
        torch.testing.assert_close(direction, x - law.means, atol=1e-4, rtol=1e-3)  # (std/sigma)^2 of the distance stays


@functools.cache
def ring() -> tuple[Any, torch.Tensor, torch.Tensor]:
    law = ring8(VP())
    x = law.marginal(256, 1.0, seed=1)
    return law, x, law.transport(x, 1.0, 1e-3, steps=1000)


def ring_error(solver: Solver | str, n: int, grid: Any = LogSNR) -> float:
    law, x, exact = ring()
    grid = LogSNR(n, to_zero=False) if grid is LogSNR else Quadratic(n, t_min=1e-3, to_zero=False)
    return (sample(law, 256, solver=solver, grid=grid, start=(x, 1.0)).x - exact).square().mean().sqrt().item()  # type: ignore[operator]


def test_on_a_ring_deis_is_better_the_more_values_it_uses() -> None:
    for grid in (LogSNR, Quadratic):
        four, two = (ring_error(Multistep("eps", "t", n, start_up="none"), 10, grid) for n in (4, 2))
        assert four < two < ring_error("ddim", 10, grid)  # .053 < .078 < .204; .026 < .045 < .126


def test_the_table_of_the_ring_is_reproduced() -> None:
    """Measured once with other code and other draws, at 5, 8, 10, 15, 20 steps; draws spread by 10 %."""
    expected = {
        "ddim": (0.44, 0.27, 0.21, 0.136, 0.101),
        "dpm++2m": (0.45, 0.22, 0.129, 0.049, 0.027),
        "lms2": (0.37, 0.19, 0.135, 0.074, 0.048),
    }
    solvers = {"lms2": Multistep("eps", "rho", 2, start_up="none")}
    for name, row in expected.items():
        for n, value in zip((5, 8, 10, 15, 20), row, strict=True):
            assert ring_error(solvers.get(name, name), n) == pytest.approx(value, rel=0.12), (name, n)


def test_gradient_estimation_is_better_at_five_to_eight_steps_and_the_second_order_method_from_fifteen() -> None:
    for n in (5, 6, 7, 8):
        assert ring_error(GradientEstimation(), n) < min(ring_error("ddim", n), ring_error("dpm++2m", n))
    for n in (15, 20):
        assert ring_error("dpm++2m", n) < ring_error(GradientEstimation(), n)


def test_evodiff_is_no_worse_than_the_second_order_method_at_eight_to_ten_evaluations() -> None:
    for n in (8, 9, 10):
        assert ring_error(EVODiff(), n) < 0.75 * ring_error("dpm++2m", n)  # .141, .105, .093 against .219, .170, .129
        assert ring_error(EVODiff(), n, Quadratic) < 1.1 * ring_error("dpm++2m", n, Quadratic)  # .046, .040, .033 against .051, .038, .032


def test_the_scale_of_least_variance_is_the_best_of_a_search() -> None:
    generator = torch.Generator().manual_seed(0)
    d = torch.randn(6, 3, 4, generator=generator, dtype=torch.float64)
    target = 0.6 * d + 0.4 * torch.randn(6, 3, 4, generator=generator, dtype=torch.float64)
    zeta = torch.linspace(0, 1, 2001, dtype=torch.float64)
    spread = (target[:, None] - zeta[None, :, None, None] * d[:, None]).square().sum((2, 3))
    torch.testing.assert_close(best_scale(target, d).flatten(), zeta[spread.argmin(1)], atol=3e-4, rtol=0)  # half a step of the search
    assert best_scale(d, torch.zeros_like(d)).unique().tolist() == [1.0]
    torch.testing.assert_close(best_scale(target[2:3], d[2:3]), best_scale(target, d)[2:3])  # a sample's own


def test_evodiff_with_its_difference_turned_around_does_not_converge() -> None:
    """The fault of the published code, planted: the check of order must see it."""

    class Turned(EVODiff):
        def coefficients(self, levels: Levels) -> list[tuple[float, ...]]:
            return [(a, b, d, -slope, ratio) for a, b, d, slope, ratio in super().coefficients(levels)]

    assert checks.order(EVODiff(), steps=(256, 512)).passed
    assert not checks.order(Turned(), steps=(256, 512)).passed


def test_a_wrong_weight_is_seen_by_the_check_of_order() -> None:
    class Off(Multistep):
        def weights(self, levels: Levels, t: int, s: int, nodes: Any) -> tuple[float, list[float]]:
            a, b = super().weights(levels, t, s, nodes)
            return a, [b[0] * (1 + 1e-3), *b[1:]]

    assert checks.order(Multistep("F", "logistic", 3)).passed
    assert not checks.order(Off("F", "logistic", 3)).passed


def test_options_that_do_not_fit_are_a_sentence() -> None:
    for options in ({"power": 0.0}, {"power": 2.5}, {"variant": "bh2", "variable": "rho"}, {"variant": "bh1", "output": "F"}):
        with pytest.raises(UserError):
            Multistep(**options)  # type: ignore[arg-type]
    for gamma in (0.0, -1.0, math.inf):
        with pytest.raises(UserError, match="gamma"):
            GradientEstimation(gamma)


NEW = [PLMS(), GradientEstimation(), EVODiff(), Multistep("F", "logistic", 3), Multistep(predictor=3, corrector=4, variant="bh1")]


@pytest.mark.parametrize("solver", NEW, ids=repr)
def test_every_number_of_steps_from_1_to_50_is_finite(solver: Solver) -> None:
    grids = [f"logistic:{n}" for n in range(1, 51)] + [f"karras:{n}" for n in (1, 2, 3, 5, 20)]
    found = checks.finite(solver, VP(), grids, count=2)
    assert found.passed, found.failures[:3]


@pytest.mark.parametrize("solver", NEW, ids=repr)
def test_new_solvers_draw_nothing_and_do_not_mix_samples(solver: Solver) -> None:
    drawn = checks.draws(solver)
    assert (drawn.draws, drawn.touched) == (0, False)
    assert checks.invariance(gm4(), solver=solver, grid="logistic:7").passed


def test_a_step_of_the_recommended_solver_costs_no_more_passes_than_its_values_and_one_to_keep() -> None:
    found = checks.operations(Multistep("F", "logistic", 3))
    assert (found.full_size, found.allocations, found.draws, found.synchronisations) == (5, 0, 0, 0)


def test_steps_of_a_joint_state_are_those_of_its_leaves() -> None:
    denoiser = JointOracle({"x": gm4(VP()), "y": gm4(RectifiedFlow())}, shared_time=True)
    times = Uniform(6).times(VP())
    x, y = gm4(VP()).marginal(3, times[0], seed=1), gm4(RectifiedFlow()).marginal(3, times[0], seed=2)  # y starts at alpha = 0
    for solver in (PLMS(), GradientEstimation(), EVODiff(), Multistep("v", "logistic", 3)):
        both: Any = run(solver, denoiser, {"x": x, "y": y}, times)
        alone = {"x": run(solver, gm4(VP()), x, times), "y": run(solver, gm4(RectifiedFlow()), y, times)}
        for leaf, found in both.items():
            torch.testing.assert_close(found, alone[leaf], rtol=1e-10, atol=1e-11)


def test_memory_is_left_to_the_trajectory() -> None:
    """Two trajectories that take turns do not disturb each other."""
    denoiser, solver = gm4(VP()), Multistep("F", "logistic", 3)
    rows = solver.plan(VP(), TIMES)
    states, memories = [points(2), points(2) + 0.5], [Memory(), Memory()]
    for row in rows:
        states = [solver.step(x, row, denoiser, memory) for x, memory in zip(states, memories, strict=True)]  # type: ignore[misc]
    torch.testing.assert_close(states[0], run(solver, denoiser, points(2), TIMES), rtol=1e-12, atol=1e-13)
