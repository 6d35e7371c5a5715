"""Stochastic solvers, continued: Euler-Maruyama, regions, one Brownian path, virtual inversion, time shift, and one law for all."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from unstir import names, sample
from unstir.certify import GaussianOracle, checks, gm4
from unstir.certify.distances import energy_distance
from unstir.certify.laws import classes3, ring8
from unstir.denoiser import Denoiser
from unstir.errors import UserError
from unstir.grid import Karras, LogSNR
from unstir.process import EDM, OUVE, SBVE, VE, VP, RectifiedFlow
from unstir.solver import (
    DDIM,
    BrownianTree,
    EulerMaruyama,
    MultistepSDE,
    OnePath,
    PredictorCorrector,
    Regional,
    TimeShift,
    VirtualInversion,
)

PROCESSES = [VP(), RectifiedFlow(), VE(), EDM()]


class Function(Denoiser):
    """A function of (x, t, condition) as a denoiser."""

    def __init__(self, function: Any, shape: Any = (2,), process: Any = None) -> None:
        super().__init__(process or EDM(), shape)
        self.function = function

    def forward(self, x: Any, t: Any, condition: Any = None) -> Any:
        return self.function(x, t, condition)


# Euler-Maruyama


def test_euler_maruyama_has_the_golden_variances() -> None:
    """Sampled over exact standard deviation for N(0, .25), 80 -> .002: exact affine recursions."""
    for steps, golden in zip((5, 10, 20, 50, 100), (3.0951, 1.7956, 1.3230, 1.1143, 1.0549), strict=True):
        times = Karras(steps, sigma_max=80.0, sigma_min=0.002, to_zero=False).times(EDM())
        assert checks.variance_ratio("euler-maruyama", EDM(), times, 0.25) == pytest.approx(golden, abs=6e-5)


def test_euler_maruyama_does_not_depend_on_the_process_and_converges() -> None:
    ratios = []
    for process in PROCESSES:
        times = LogSNR(300, sigma_max=50.0, sigma_min=0.005, to_zero=False).times(process)
        ratios.append(checks.variance_ratio(EulerMaruyama(), process, times, 0.25))
    assert ratios[0] == pytest.approx(1, abs=0.05)  # first order in 9/300
    assert ratios[1:] == pytest.approx(ratios[:1] * 3, rel=1e-9)


@pytest.mark.parametrize("kind", ["time", "reverse"])
def test_euler_maruyama_in_time_and_in_reverse_converge_on_every_process(kind: Any) -> None:
    for process in (*PROCESSES, OUVE()):
        times = LogSNR(600, sigma_max=20.0, sigma_min=0.02, to_zero=False).times(process)
        found = checks.variance_ratio(EulerMaruyama(kind), process, times, 0.25)
        assert found == pytest.approx(1, abs=0.05), process  # first order in 7/600


def test_the_kinds_of_euler_maruyama_are_the_published_steps() -> None:
    """In time: x + (g^2 S - f x) h + g sqrt(h) z. In reverse: (2 - sqrt(1 - b)) x + b S + sqrt(b) z, b = beta h up to its square; on a
    process that explodes it is the step in the variance."""
    low, high, t, h = 0.1, 1.0, 0.6, 1e-3
    beta, process = low + t * (high - low), VP(low, high)
    sigma2 = float(process.sigma(t)) ** 2
    for kind, kept in (("time", 1 + beta * h / 2), ("reverse", 2 - math.sqrt(1 - beta * h))):
        (row,) = EulerMaruyama(kind).plan(process, [t, t - h])  # type: ignore[arg-type]
        tolerance = 1e-12 if kind == "time" else beta * h * 1e-2
        assert row.c[2] ** 2 == pytest.approx(beta * h, rel=1e-12 if kind == "time" else 2e-3)
        assert row.c[1] == pytest.approx(beta * h / sigma2 * float(process.alpha(t)), rel=1e-12 if kind == "time" else 2e-3)
        assert row.c[0] + beta * h / sigma2 == pytest.approx(kept, abs=tolerance)
    for a, b in zip(EulerMaruyama("reverse").plan(VE(), [0.5, 0.4, 0.1]), EulerMaruyama().plan(VE(), [0.5, 0.4, 0.1]), strict=True):
        assert a.c == pytest.approx(b.c, rel=1e-12)
    with pytest.raises(UserError, match="kind must be"):
        EulerMaruyama("forward")  # type: ignore[arg-type]


@pytest.mark.parametrize(("solver", "order"), [("euler-maruyama", 1), ("ancestral", 1), ("ddim:eta=0.5", 1), ("dpm++2m-sde", 2)])
def test_the_variance_converges_with_the_declared_order(solver: str, order: int) -> None:
    errors = []
    for steps in (256, 512):
        times = LogSNR(steps, sigma_max=2.0, sigma_min=0.1, to_zero=False).times(EDM())
        errors.append(abs(checks.variance_ratio(solver, EDM(), times, 0.25) - 1))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1) == names.solver(solver).order


# Score SDE, row 78: one law for the reverse SDE, the flow, and predictor-corrector sampling


def test_reverse_sde_flow_and_corrector_give_one_law() -> None:
    law = ring8()
    truth, floor = law.marginal(2000, 0.0, seed=1), abs(energy_distance(law.marginal(2000, 0.0, seed=2), law.marginal(2000, 0.0, seed=1)))
    start = (law.marginal(2000, 20.0, seed=3), 20.0)

    def compared(solver: Any) -> tuple[float, float]:
        grid = Karras(60, sigma_max=20.0, sigma_min=0.02)
        x: Any = sample(law, 2000, solver=solver, grid=grid, start=start, seed=4).x
        spread = (x - law.means[torch.cdist(x, law.means).argmin(1)]).square().mean().sqrt()
        return energy_distance(x, truth), float(spread / 0.3)

    for solver in (DDIM(eta=1.0), EulerMaruyama(), names.solver("heun"), PredictorCorrector(DDIM(eta=1.0), kind="annealed")):
        distance, spread = compared(solver)
        assert distance < floor + 0.006, solver  # true draws of this number are .004 apart, either way
        assert spread == pytest.approx(1, abs=0.1), solver  # first order in 60 steps (Euler-Maruyama 1.083)
    assert compared(DDIM(eta=1.0, temperature=0.9))[1] < 0.9  # a planted fault: noise left out
    assert compared(PredictorCorrector(DDIM(eta=1.0), kind="norm"))[1] > 1.2  # its step depends on the state: biased in few dimensions


# Regions


def test_outside_its_region_a_trajectory_is_that_of_the_flow_to_the_bit() -> None:
    denoiser = GaussianOracle(torch.zeros(4, 6), torch.linspace(0.1, 2, 24).reshape(4, 6).double())
    mask = torch.zeros(1, 4, 6)
    mask[:, 1:3, 2:5] = 1
    run = {"grid": "karras:12", "seed": 3, "trace": True}
    mixed = sample(denoiser, 3, solver=Regional("region"), condition={"region": mask}, **run)
    flow = sample(denoiser, 3, solver="ddim", **run)
    outside = ~mask.bool().expand(3, 4, 6)
    for ours, theirs in zip(mixed.path or [], flow.path or [], strict=True):
        assert torch.equal(ours[outside], theirs[outside])  # type: ignore[index]
    assert (mixed.x - flow.x).abs()[~outside].min() > 1e-6  # type: ignore[operator,index]


@pytest.mark.parametrize("eta", [1.0, 0.5])
def test_inside_its_region_the_variance_is_ddims(eta: float) -> None:
    for process in PROCESSES:
        times = LogSNR(10, sigma_max=50.0, sigma_min=0.005, to_zero=False).times(process)
        everywhere = checks.variance_ratio(Regional(inside=eta), process, times, 0.25)
        assert everywhere == pytest.approx(checks.variance_ratio(DDIM(eta=eta), process, times, 0.25), rel=1e-12)


def test_a_soft_region_keeps_the_noise_of_every_entry() -> None:
    """Weights between 0 and 1 are an eta of their own: with nothing to denoise the standard deviation stays sigma_s exactly."""
    row = Regional("region").plan(EDM(), [2.0, 1.0])[0]
    weight = torch.linspace(0, 1, 5)[None].double()
    model = Model(lambda x, t: torch.zeros_like(x), {"region": weight})
    unit = torch.ones(1, 5).double()
    kept = Regional("region").step(2 * unit, row, model, memory(torch.zeros(1, 5).double()))
    fresh = Regional("region").step(0 * unit, row, model, memory(unit))
    torch.testing.assert_close(torch.hypot(kept, fresh), unit, rtol=1e-12, atol=0)  # type: ignore[arg-type]
    assert (fresh.diff() > 0).all()  # type: ignore[union-attr]


class Model:
    """A model outside of the loop, with a condition."""

    def __init__(self, function: Any, condition: Any) -> None:
        self.function, self.condition = function, condition

    def __call__(self, x: Any, t: Any) -> Any:
        return self.function(x, t)


def memory(noise: Tensor) -> Any:
    from unstir.solver import Memory

    return Memory(noise.clone)


def test_regions_of_leaves_and_of_samples() -> None:
    from unstir.certify import JointOracle

    joint = JointOracle({"x": gm4(VP()), "y": gm4(RectifiedFlow())})
    mask = {"x": torch.tensor([[1.0, 0.0]]), "y": torch.zeros(1, 2)}
    found: Any = sample(joint, 3, solver=Regional("region"), condition={"region": mask}, grid="uniform:6").x
    flow: Any = sample(joint, 3, solver="ddim", grid="uniform:6").x
    assert torch.equal(found["y"], flow["y"])
    assert not torch.equal(found["x"], flow["x"])
    each = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    some: Any = sample(gm4(), 2, solver=Regional("region"), condition={"region": each}, grid="karras:6").x
    assert torch.equal(some[1], sample(gm4(), 2, solver="ddim", grid="karras:6").x[1])  # type: ignore[index]
    with pytest.raises(UserError, match="region"):
        sample(gm4(), 1, solver=Regional("region"), grid="karras:3")


# One Brownian path


def coefficients_of(taus: list[tuple[float, float]], depth: int) -> Tensor:
    """Increments as rows over the independent draws that they are made of: the law of the tree, without sampling."""
    names_: dict[str, int] = {}

    def draw(name: str) -> Tensor:
        unit = torch.zeros(4000, dtype=torch.float64)
        unit[names_.setdefault(name, len(names_))] = 1
        return unit

    tree = BrownianTree(draw, depth)
    return torch.stack([tree.increment(a, b) for a, b in taus])  # type: ignore[misc]


def test_the_increments_of_the_tree_are_exactly_brownian() -> None:
    times = [1.6e-4, 3e-4, 0.01, 0.7, 0.75, 1.0, 1.5, 2.0, 37.2, 2.5e5]
    rows = coefficients_of(list(zip(times, times[1:], strict=False)), 20)
    expected = torch.diag(torch.tensor(np.diff(times)))
    scale = torch.tensor(np.diff(times)).sqrt()
    torch.testing.assert_close(rows @ rows.T / scale / scale[:, None], expected / scale / scale[:, None], rtol=0, atol=1e-9)


def test_increments_over_any_times_are_of_one_path() -> None:
    whole, first, second = coefficients_of([(0.3, 5.0), (0.3, 0.9), (0.9, 5.0)], 20)
    torch.testing.assert_close(whole, first + second, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["ancestral", "dpm++2m-sde"])
@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_with_a_constant_estimate_every_number_of_steps_gives_one_sample(name: str, process: Any) -> None:
    """In 1/rho^2 the step is then exact, so that only the path matters."""
    denoiser = Function(lambda x, t, c: torch.full_like(x, 0.7), process=process)
    begin = float(process.time_at_rho(50.0))
    start = (torch.full((2, 2), 3.0, dtype=torch.float64), begin)

    def run(steps: int) -> Tensor:
        grid = LogSNR(steps, sigma_max=50.0, sigma_min=0.5, to_zero=False)
        return sample(denoiser, 2, solver=OnePath(names.solver(name)), grid=grid, start=start, seed=5).x  # type: ignore[return-value]

    torch.testing.assert_close(run(1), run(40), rtol=0, atol=1e-9)
    torch.testing.assert_close(run(7), run(40), rtol=0, atol=1e-9)
    assert not torch.equal(run(1)[0], run(1)[1])


def test_more_steps_converge_to_one_sample() -> None:
    def run(solver: Any, steps: int) -> Any:
        start = (torch.tensor([[1.5, -0.5]], dtype=torch.float64).expand(30, 2) * 2, 2.0)
        grid = LogSNR(steps, sigma_max=2.0, sigma_min=0.1, to_zero=False)
        return sample(gm4(), 30, solver=solver, grid=grid, start=start, seed=1).x

    one = OnePath(DDIM(eta=1.0), depth=8)
    errors = [float((run(one, steps) - run(one, 96)).norm(dim=1).median()) for steps in (10, 40)]
    assert errors[1] < 0.4 * errors[0] < 0.1  # strong order 1: the noise is additive; 96 steps are not the end themselves
    assert float((run("ancestral", 40) - run("ancestral", 96)).norm(dim=1).median()) > 0.2  # other noise, other samples


def test_one_path_keeps_the_law_and_the_independence_of_samples() -> None:
    found: Any = sample(GaussianOracle([0.0], [0.25]), 1000, solver=OnePath("ancestral", depth=6), grid="karras:6", seed=2).x
    plain: Any = sample(GaussianOracle([0.0], [0.25]), 1000, solver="ancestral", grid="karras:6", seed=2).x
    assert float(found.std() / plain.std()) == pytest.approx(1, abs=0.13)  # four standard errors of the ratio of 2 x 1,000
    assert checks.invariance(GaussianOracle(torch.zeros(3), torch.ones(3)), solver="one-path", grid="karras:5").passed


def test_one_path_refuses_what_it_cannot_drive() -> None:
    for solver in ("ddim:eta=0.5", "heun", "churn", "euler-maruyama", "consistency"):
        with pytest.raises(UserError, match="one path needs"):
            OnePath(names.solver(solver))
    with pytest.raises(UserError, match="depth"):
        OnePath(depth=0)
    assert OnePath().stochastic
    assert OnePath().order == 2
    assert MultistepSDE.brownian


# Consistency sampling and virtual inversion


def test_consistency_sampling_is_ddim_that_keeps_no_noise() -> None:
    for row in names.solver("consistency").plan(VP(), [1.0, 0.6, 0.2, 0.01]):
        assert row.c == pytest.approx((0.0, row.alpha_s, row.sigma_s), abs=1e-15)


@pytest.mark.parametrize("process", [VP(), EDM(), RectifiedFlow(), VE(sigma_max=20.0)], ids=repr)
def test_editing_towards_the_source_gives_the_source_back(process: Any) -> None:
    law = classes3(process)
    known = law.marginal(5, process.t_zero if math.isfinite(process.t_zero) else process.t_min, seed=1)
    label = torch.tensor([0, 1, 2, 0, 1])
    condition = {"class": label, "y": known, "source_condition": {"class": label}}
    for seed in (0, 7):
        run = sample(law, 5, solver=VirtualInversion("y"), grid="log-snr:6,sigma_max=15", condition=condition, seed=seed)
        torch.testing.assert_close(run.x, known, rtol=0, atol=2e-12)  # type: ignore[arg-type]  # rounding of states of size 15
        assert run.nfe == 12


def test_editing_the_class_keeps_what_classes_share_better_than_sdedit() -> None:
    """At equal accuracy of the class; the shared coordinates of C3 are those after the second."""
    law, process, count = classes3(EDM(), dimension=4), EDM(), 300
    source, target = torch.zeros(count, dtype=torch.int64), torch.ones(count, dtype=torch.int64)
    known = law.given(0).marginal(count, 0.0, seed=3)
    condition = {"class": target, "y": known, "source_condition": {"class": source}}

    def quality(x: Any) -> tuple[float, float]:
        return float((law.log_class(x, 0.0).argmax(1) == 1).double().mean()), float((x - known)[:, 2:].norm(dim=1).mean())

    accuracy, moved = quality(sample(law, count, solver=VirtualInversion("y"), grid="karras:10,sigma_max=20", condition=condition).x)
    assert accuracy > 0.95
    noise = torch.randn(count, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for level in (0.5, 1.0, 2.0, 4.0):
        start = (process.perturb(known, level, noise), level)
        by_sdedit = quality(sample(law, count, solver="ddim", grid="karras:10,sigma_max=20", start=start, condition={"class": target}).x)
        assert by_sdedit[0] < accuracy - 0.02 or by_sdedit[1] > moved + 0.1
    assert by_sdedit[0] > 0.95  # SDEdit does reach the class, from high enough


def test_virtual_inversion_says_what_it_lacks() -> None:
    with pytest.raises(UserError, match="looks for it in condition"):
        sample(gm4(), 1, solver=VirtualInversion("y"), grid="karras:3")
    assert sample(gm4(), 2, solver="virtual-inversion", grid="karras:3").x.equal(sample(gm4(), 2, solver="consistency", grid="karras:3").x)  # type: ignore[union-attr,arg-type]


# Time shift


def test_the_shift_finds_the_noise_level_of_each_sample() -> None:
    """A state of 4096 entries with more or less noise than its time says is asked about at its own level."""
    asked: list[Any] = []

    def watch(x: Any, t: Any, c: Any) -> Any:
        asked.append(t)
        return torch.zeros_like(x)

    process = EDM()
    noise = torch.randn(3, 4096, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    levels = torch.tensor([0.95, 1.0, 1.05], dtype=torch.float64)
    solver = TimeShift("ddim", window=0.2, cutoff=0.1)
    rows = solver.plan(process, [2.0, 1.0, 0.5])
    solver.step(levels[:, None] * noise, rows[1], lambda x, t: watch(x, t, None), memory(noise))
    assert asked[0].tolist() == pytest.approx(levels.tolist(), rel=0.03)  # the variance of 4,096 entries is known to 2 %, steps are 1 %
    far = solver.step(9.0 * noise, rows[1], lambda x, t: watch(x, t, None), memory(noise))
    assert asked[1].tolist() == pytest.approx([math.exp(0.1)] * 3)
    assert torch.isfinite(far).all()


def test_the_shift_keeps_the_steps_coefficients() -> None:
    """eps is taken at the shifted time and put into the step of the time itself."""
    process, shift = VP(), TimeShift("ddim", window=1.0, cutoff=0.0)
    law = GaussianOracle(torch.zeros(4096), 0.2 * torch.ones(4096), process)
    rows = shift.plan(process, [0.6, 0.5, 0.4])
    x = 0.8 * law.marginal(2, 0.5, seed=1)
    seen: list[Any] = []

    def model(z: Any, t: Any) -> Any:
        seen.append(t)
        return law(z, t)

    after = shift.step(x.clone(), rows[1], model, memory(x))
    t = seen[0]
    alpha, sigma = process.alpha(t)[:, None], process.sigma(t)[:, None]
    eps = (x - alpha * law(x, t)) / sigma
    x0 = (x - rows[1].sigma_t * eps) / rows[1].alpha_t
    torch.testing.assert_close(after, rows[1].alpha_s * x0 + rows[1].sigma_s * eps, rtol=1e-10, atol=1e-12)


def test_the_shift_does_nothing_where_the_variance_is_as_it_should_be() -> None:
    law = GaussianOracle(torch.zeros(4096), 0.25 * torch.ones(4096), VP())
    solver = TimeShift("ddim", window=0.1, cutoff=0.5, variance=0.25)
    grid = LogSNR(60, sigma_min=0.01)
    x, plain = (sample(law, 2, solver=s, grid=grid).x for s in (solver, "ddim"))
    assert float((x - plain).norm() / plain.norm()) < 0.01  # type: ignore[operator,union-attr]


@pytest.mark.parametrize("process", [VP(), EDM()], ids=repr)
def test_the_shift_contracts_an_error_of_variance_only_at_low_noise(process: Any) -> None:
    """For normal data of variance v the noise that a network sees in x grows with its time while sigma^2 < v/(1 - v) (VP; v for alpha = 1).

    Below that level, asking a state of too much variance at a later time takes more of it away; above, less, and the shift makes it worse.
    """
    v = 0.25
    law = GaussianOracle(torch.zeros(4096), v * torch.ones(4096), process)
    solver = TimeShift("ddim", window=0.5, cutoff=0.0, variance=v)
    limit = math.sqrt(v / (1 - v) if isinstance(process, VP) else v)

    def excess(sigma: float, used: Any) -> float:
        time = torch.linspace(process.t_min, process.t_max, 20001, dtype=torch.float64)
        t = float(time[int((process.sigma(time) - sigma).abs().argmin())])
        times = [float(process.time_at_rho(float(process.rho(t)) * factor)) for factor in (1.5, 1.0, 0.7)]
        x = 1.05 * law.marginal(1, times[1], seed=1)
        after = used.step(x.clone(), used.plan(process, times)[1], law, memory(x))
        return float(after.var()) / (float(process.alpha(times[2])) ** 2 * v + float(process.sigma(times[2])) ** 2) - 1  # type: ignore[union-attr]

    assert excess(0.6 * limit, solver) < excess(0.6 * limit, DDIM())
    assert excess(1.4 * limit, solver) > excess(1.4 * limit, DDIM()) > 0.02


def test_shifts_are_per_sample_end_at_the_cutoff_and_spare_joint_and_anchored_states() -> None:
    rows = TimeShift(window=0.2, cutoff=1.0, high=50.0).plan(EDM(), names.grid("karras:10").times(EDM()))
    assert [bool(row.c[0]) for row in rows] == [row.index > 0 and 1.0 < row.rho_t <= 50.0 for row in rows]  # type: ignore[operator]
    assert checks.invariance(GaussianOracle(torch.zeros(3), torch.ones(3)), solver=TimeShift(), grid="karras:8").passed
    assert sample(gm4(), 2, solver=TimeShift(window=0.0)).x.equal(sample(gm4(), 2, solver="ddim").x)  # type: ignore[union-attr,arg-type]
    with pytest.raises(UserError, match="anchor"):
        TimeShift().plan(OUVE(), [0.9, 0.5])
    with pytest.raises(UserError, match="must not be negative"):
        TimeShift(window=-1.0)


def test_new_stochastic_solvers_are_finite_from_one_step_on() -> None:
    for name in ("euler-maruyama", "regional", "virtual-inversion", "one-path:depth=2", "consistency"):
        for process in (VP(), RectifiedFlow(), SBVE(), VE()):
            found = checks.finite(name, process, [f"karras:{n}" for n in (1, 2, 3, 6)] + ["beta:5", "uniform:4"])
            assert found.passed, found
