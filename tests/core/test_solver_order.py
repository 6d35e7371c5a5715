"""Deterministic solvers: order as declared on every process, the published error tables, and no value that is not finite."""

from __future__ import annotations

import functools

import pytest
import torch

from unstir import names, sample
from unstir.certify import checks, gm4, gm4_points
from unstir.certify.solvers import continuous, refusal
from unstir.errors import UserError
from unstir.grid import Karras, LogSNR
from unstir.process import EDM, OUVE, SBVE, VE, VP, MeanReverting, Process, RectifiedFlow, SubVP, VPCosine, VPTable
from unstir.solver import DDIM, Churn, Multistep, PredictorCorrector, Solver

PROCESSES: list[Process] = [
    EDM(),
    VP(),
    VPCosine(),
    VPTable(),
    VPTable("squaredcos"),
    VPTable("linear", zero_terminal=True),
    SubVP(),
    VE(),
    RectifiedFlow(),
    RectifiedFlow(shift=3.0),
    OUVE(),
    MeanReverting(),
    SBVE(),
]
ALL = [name for name in names.known("solver") if refusal(names.solver(name), EDM()) is None]
DETERMINISTIC = [name for name in ALL if not (names.solver(name).stochastic or names.solver(name).adaptive)]
EVERYWHERE = ["ddim", "heun", "dpm++2m", "deis3", "logistic3", "f4", "unipc2", "dpm++3s", "plms", "bdia"]  # of each kind one
MORE: list[Solver] = [
    Multistep("F", "lambda", 3, corrector=4, start_up="full"),
    Multistep("eps", "q7", 3, corrector=4, start_up="full"),
    Multistep("x0", "theta", 2, corrector=3),
    Multistep("F", "q7", 2),
    Churn(churn=0.0),
    PredictorCorrector(Multistep("F", "lambda", 3), snr=0.0),
]


@pytest.mark.slow
@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_the_measured_order_is_the_declared_one(process: Process) -> None:
    """Every solver on what is not a registered process by itself; the certificate's test measures every solver on those that are."""
    varied = repr(process) not in {repr(own) for own in continuous().values()}
    for name in DETERMINISTIC if varied else EVERYWHERE:
        if refusal(names.solver(name), process) is None:
            found = checks.order(name, process)
            assert found.passed, (name, found)


def test_a_polynomial_in_time_is_refused_where_time_has_kinks() -> None:
    with pytest.raises(UserError, match="kink at every index"):
        checks.order("tab3", VPTable())


@pytest.mark.parametrize("solver", MORE, ids=repr)
def test_the_measured_order_of_other_choices_is_the_declared_one(solver: Solver) -> None:
    found = checks.order(solver, steps=(256, 512))
    assert found.passed, found


def test_without_a_start_up_no_multistep_solver_is_better_than_second_order() -> None:
    for output, variable in (("x0", "lambda"), ("eps", "lambda")):
        found = checks.order(Multistep(output, variable, 3, start_up="none"))
        assert found.declared == 2
        assert found.passed, found


def test_the_published_third_order_weight_gives_second_order() -> None:
    found = checks.order("dpm++3m-published")
    assert found.declared == 2
    assert found.passed, found


@functools.cache
def exact() -> tuple[torch.Tensor, torch.Tensor]:
    x = gm4_points(80.0, 512)
    return x, gm4().transport(x, 80.0, 0.002, steps=1000)


# Error against NFE (5, 10, 20) on GM4, median of 512 points, sigma 80 -> .002: Karras grid, then uniform in log sigma.
TABLE = {
    "ddim": (Multistep("eps", predictor=1), ".370 .153 .0759", ".338 .154 .0763"),
    "heun": ("heun", "2.92 .629 .123", "43 .778 .130"),
    "dpm++ 2m midpoint": ("dpm++2m", ".295 .182 .0315", ".152 .0791 .0168"),
    "dpm++ 2m exact, xEAB2": ("dpm++2m-exact", ".630 .305 .0449", ".302 .134 .0249"),
    "dpm++ 3m published": ("dpm++3m-published", "1.20 .148 .0185", ".457 .0305 .00434"),
    "xEAB3": (Multistep("x0", predictor=3, start_up="none"), "1.54 .298 .033", ".539 .041 .0101"),
    "dpm-solver 2m": ("dpm-solver-2m", ".150 .0196 .0036", ".163 .0182 .0071"),
    "dpm-solver 3m": ("dpm-solver-3m", ".150 .0168 .00162", ".160 .0144 .0046"),
    "deis2, zEAB2": ("deis2", ".220 .0232 .0081", ".218 .0369 .0123"),
    "deis3, zEAB3": (Multistep("eps", predictor=3, start_up="none"), ".155 .0172 .00175", ".149 .0114 .0027"),
    "lms4": (Multistep("eps", "rho", 4, start_up="none"), ".332 .0655 .0148", ".307 .0844 .0186"),
    "F, lambda, 4": ("f4:scale=.8", None, ".10 .022 .0020"),
    "F, q7, 2": (Multistep("F", "q7", 2, scale=0.8), None, ".15 .013 .0057"),
    "x0, theta, 2 + 2": (Multistep("x0", "theta", 2, corrector=2, scale=0.8), None, ".24 .046 .0019"),
}


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_published_errors_are_reproduced_to_the_printed_digits(row: str) -> None:
    solver = names.solver(TABLE[row][0])
    start, end = exact()
    for grid, printed in zip((Karras, LogSNR), TABLE[row][1:], strict=True):
        for nfe, digits in zip((5, 10, 20), (printed or "").split(), strict=False):
            steps = nfe // solver.evaluations
            found = sample(gm4(), 512, solver=solver, grid=grid(steps, sigma_max=80.0, sigma_min=0.002, to_zero=False), start=(start, 80.0))
            error = torch.linalg.vector_norm(found.x - end, dim=1).median().item()
            unit = 10.0 ** -len(digits.partition(".")[2])
            assert abs(error - float(digits)) <= 0.6 * unit, (grid.__name__, nfe, error, digits)  # half a unit of the last digit


COUNTS = {"karras": (1, 2, 3, 4, 7, 20, 50), "uniform": (1, 2, 3, 4, 7, 20, 50), "log-snr": (1, 3, 20), "quadratic": (1, 3, 20)}


@pytest.mark.slow
@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_no_solver_leaves_the_finite_numbers_on_any_grid(process: Process) -> None:
    table = isinstance(process, VPTable)
    for name in ALL:
        if refusal(names.solver(name), process) is not None:
            continue
        grids = [f"{grid}:{n}" for grid, numbers in COUNTS.items() for n in numbers]
        grids += [f"{grid}:{n},to_zero=false" for grid in COUNTS for n in (2, 9)] + [f"native:{n}" for n in (1, 2, 10, 50) if table]
        found = checks.finite(name, process, grids, count=2)
        assert found.passed, found.failures[:5]


def test_every_number_of_steps_from_1_to_50_is_finite() -> None:
    for process in (EDM(), VPTable("linear", zero_terminal=True), SBVE()):
        for name in ("dpm++2m", "f4"):
            found = checks.finite(name, process, [f"karras:{n}" for n in range(1, 51)], count=2)
            assert found.passed, found.failures[:5]


def test_a_grid_of_one_step_to_zero_gives_the_estimate() -> None:
    denoiser = gm4(VP())
    start = torch.tensor([[0.4, -0.2], [1.0, 1.0]], dtype=torch.float64)
    expected = denoiser(start, 0.5)
    for name in set(ALL) - {"churn", "restart"}:  # which raise the noise first
        found = sample(denoiser, 2, solver=name, grid=[0.5, 0.0], start=(start, 0.5))
        torch.testing.assert_close(found.x, expected, rtol=1e-13, atol=1e-14)
        assert found.nfe == 1


def test_pure_noise_is_left_by_the_exact_first_step() -> None:
    process = VPTable("linear", zero_terminal=True)  # alpha is 0 at its end, so the step to s is alpha_s D + sigma_s x
    denoiser, start, s = gm4(process), torch.tensor([[0.4, -1.2]], dtype=torch.float64), 500.0
    expected = process.alpha(s) * denoiser(start, process.t_max) + process.sigma(s) * start
    for name in set(DETERMINISTIC) - {"tab3"}:
        found = sample(denoiser, 1, solver=name, grid=[process.t_max, s, 0.0], start=(start, process.t_max), trace=True)
        torch.testing.assert_close(found.path[1], expected, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("name", ["dpm++2m", "ddim", "f4", "heun"])
def test_a_pinned_start_is_left_at_random_with_the_variance_of_the_bridge(name: str) -> None:
    process, s, count = SBVE(), 0.6, 4000
    denoiser = gm4(process)
    anchor = torch.tensor([[0.3, -0.2]], dtype=torch.float64)
    found = sample(denoiser, count, solver=name, grid=[process.t_max, s, 0.0], condition={"anchor": anchor}, trace=True)
    assert torch.equal(found.path[0], anchor.expand(count, 2))
    first = found.path[1]
    mean = process.alpha(s) * denoiser(anchor, process.t_max, {"anchor": anchor}) + process.beta(s) * anchor
    error = first.std(dim=0) / process.sigma(s) - 1
    assert error.abs().max() < 4 / (2 * count) ** 0.5  # four standard errors of a standard deviation
    assert ((first.mean(dim=0) - mean[0]) / process.sigma(s)).abs().max() < 4 / count**0.5
    assert found.x.std(dim=0).min() > 0.3  # one sample per anchor would have no spread


def test_lower_accuracy_runs_stay_close_to_float64() -> None:
    start, _ = exact()
    for name in DETERMINISTIC:
        wide = sample(gm4(), 64, solver=name, grid="karras:10", start=(start[:64], 80.0)).x
        narrow = sample(gm4(), 64, solver=name, grid="karras:10", start=(start[:64].float(), 80.0)).x
        assert narrow.dtype == torch.float32
        assert (narrow - wide).abs().median() < 1e-4, name  # rounding of x at sigma 80 is 4e-6; the flow and the weights spread it


def test_solvers_refuse_grids_that_do_not_decrease() -> None:
    for times in ([1.0, 1.0, 0.5], [0.5, 1.0], [1.0, 0.0, -1.0]):
        with pytest.raises(UserError, match="decrease"):
            DDIM().plan(EDM(), times)
