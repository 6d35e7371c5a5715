"""Stochastic solvers: exact variance recursions, the split of the noise, Langevin corrections, and what is drawn when."""

from __future__ import annotations

import math

import pytest
import torch

from unstir import names, sample
from unstir.certify import GaussianOracle, checks, gm4
from unstir.certify.solvers import refusal
from unstir.errors import UserError
from unstir.grid import Karras, LogSNR
from unstir.noise import NoiseSource
from unstir.process import EDM, SBVE, VE, VP, Joint, RectifiedFlow
from unstir.solver import DDIM, Churn, Heun, Memory, Multistep, MultistepSDE, PredictorCorrector
from unstir.solver.corrector import norms

NUMBERS = (5, 10, 20, 50, 100)
# Sampled over exact standard deviation for N(0, .25), VE 80 -> .002 from the exact law at 80: exact affine recursions.
GOLDEN = [
    ("ancestral", Karras, (0.4434, 0.6234, 0.7658, 0.8910, 0.9425)),
    ("ancestral", LogSNR, (0.4475, 0.6446, 0.7853, 0.9028, 0.9493)),
    ("ddim", Karras, (0.5478, 0.7528, 0.8676, 0.9448, 0.9720)),
    ("ddim", LogSNR, (0.5713, 0.7673, 0.8759, 0.9484, 0.9739)),
    ("ddim:eta=0.5", Karras, (0.5340, 0.7321, 0.8480, 0.9329, 0.9651)),
    ("dpm++2m-sde", Karras, (0.9212, 1.1681, 1.1030, 1.0165, 1.0039)),
    ("dpm++2m-sde", LogSNR, (0.7903, 1.0467, 1.0360, 1.0073, 1.0019)),
]


@pytest.mark.parametrize(("name", "grid", "golden"), GOLDEN, ids=[f"{g[0]}-{g[1].__name__}" for g in GOLDEN])
def test_variance_recursions_have_the_golden_ratios(name: str, grid: type, golden: tuple[float, ...]) -> None:
    for steps, ratio in zip(NUMBERS, golden, strict=True):
        times = grid(steps, sigma_max=80.0, sigma_min=0.002, to_zero=False).times(EDM())
        assert checks.variance_ratio(name, EDM(), times, 0.25) == pytest.approx(ratio, abs=6e-5)


@pytest.mark.parametrize("name", ["ddim", "ddim:eta=0.5", "ancestral", "dpm++2m-sde", "churn", "dpm++2m", "f4", "heun"])
def test_the_variance_converges_on_every_process(name: str) -> None:
    for process in (VP(), RectifiedFlow(), VE(), EDM()):
        times = LogSNR(300, sigma_max=50.0, sigma_min=0.005, to_zero=False).times(process)
        assert checks.variance_ratio(name, process, times, 0.25) == pytest.approx(1, abs=0.03)  # first order in 9/300


def test_ancestral_steps_do_not_depend_on_the_process() -> None:
    ratios = []
    for process in (VP(), RectifiedFlow(), EDM()):
        times = LogSNR(20, sigma_max=50.0, sigma_min=0.005, to_zero=False).times(process)
        ratios.append(checks.variance_ratio("ancestral", process, times, 0.25))
    assert ratios[1:] == pytest.approx(ratios[:1] * 2, rel=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.3, 0.85, 1.0])
@pytest.mark.parametrize("kind", ["variance", "dds"])
def test_the_split_of_the_noise_keeps_its_total(eta: float, kind: str) -> None:
    process = VP()
    for row in DDIM(eta=eta, kind=kind).plan(process, [1.0, 0.6, 0.2, 0.01]):
        a, b, d = row.c
        kept = a * row.sigma_t  # the share of eps that stays
        assert math.hypot(kept, d) == pytest.approx(row.sigma_s, rel=1e-12)
        assert b + a * row.alpha_t == pytest.approx(row.alpha_s, rel=1e-12)
        if kind == "dds":
            assert d == pytest.approx(eta * row.sigma_s, rel=1e-12)
        else:
            assert d == pytest.approx(eta * row.sigma_s * math.sqrt(1 - row.rho_s**2 / row.rho_t**2), rel=1e-9)


def test_temperature_0_is_the_half_quadratic_iteration() -> None:
    x = torch.tensor([[2.0, -1.0]], dtype=torch.float64)
    rows = DDIM(eta=0.85, temperature=0).plan(VP(), [0.8, 0.4])
    x0 = torch.tensor([[0.25, 0.5]], dtype=torch.float64)
    assert torch.equal(DDIM(eta=0.85, temperature=0).step(x, rows[0], lambda x, t: x0, Memory()), rows[0].alpha_s * x0)
    assert not DDIM(eta=0.85, temperature=0).stochastic


def test_ancestral_samples_have_the_recursions_variance() -> None:
    variance, count = 0.25, 20000
    denoiser = GaussianOracle([0.0], [variance], EDM())
    grid = Karras(10, sigma_max=80.0, sigma_min=0.002, to_zero=False)
    expected = checks.variance_ratio("ancestral", EDM(), grid.times(EDM()), variance)
    found = sample(denoiser, count, solver="ancestral", grid=grid, seed=4).x.std().item() / math.sqrt(variance + 0.002**2)
    assert found == pytest.approx(expected, rel=4 / math.sqrt(2 * count))  # four standard errors


def test_churn_of_nothing_is_heun() -> None:
    start = (torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 80, 80.0)
    runs = [sample(gm4(), 3, solver=solver, grid="karras:12", start=start) for solver in (Heun(), Churn(churn=0.0))]
    torch.testing.assert_close(runs[0].x, runs[1].x, rtol=1e-12, atol=1e-13)
    assert runs[0].nfe == runs[1].nfe == 23


def test_churn_raises_the_noise_only_inside_its_interval() -> None:
    rows = Churn(churn=10.0, s_min=0.1, s_max=10.0).plan(EDM(), Karras(18).times(EDM()))
    for row in rows:
        up, fresh, t = row.c[:3]
        inside = 0.1 <= row.rho_t <= 10.0
        assert (fresh > 0) == inside
        assert t == pytest.approx(row.t * (1 + min(10 / 18, math.sqrt(2) - 1) * inside), rel=1e-12)
        if inside:
            assert fresh == pytest.approx(math.sqrt(t**2 - row.t**2) * 1.003, rel=1e-12)


def test_churn_does_not_raise_the_noise_above_the_processs_end() -> None:
    for process in (VP(), SBVE()):
        rows = Churn(s_max=math.inf, s_min=0.0).plan(process, names.grid("karras:10").times(process))
        assert all(row.c[2] <= process.t_max for row in rows)


def langevin_target(kind: str, snr: float) -> float:
    """Standard deviation, relative to N(0, 1 + .5^2) at sigma = .5, after many corrections at one level."""
    denoiser = GaussianOracle(torch.zeros(64), torch.ones(64), EDM())
    solver = PredictorCorrector(DDIM(eta=1.0), snr=snr, corrections=60, kind=kind)
    start = (torch.zeros(200, 64, dtype=torch.float64), 0.51)  # a score of 0: the length of a step must not become infinite
    x = sample(denoiser, 200, solver=solver, grid=[0.51, 0.5], start=start).x
    return (x.std() / math.sqrt(1.25)).item()


def test_langevin_corrections_alone_lead_to_the_law_of_the_level() -> None:
    assert langevin_target("annealed", 0.35) == pytest.approx(1, abs=0.06)  # discretisation: delta/(2 var) = 5 %; sampling error 0.6 %
    assert langevin_target("norm", 0.16) == pytest.approx(1, abs=0.06)


def test_a_correction_takes_the_norms_of_each_sample() -> None:
    solver = PredictorCorrector(snr=0.3)
    denoiser = gm4()
    start = torch.tensor([[0.1, 0.2], [9.0, -7.0]], dtype=torch.float64)
    together = sample(denoiser, 2, solver=solver, grid="karras:6", start=(start, 80.0)).x
    other = start.clone()
    other[1] = 1000.0
    assert torch.equal(sample(denoiser, 2, solver=solver, grid="karras:6", start=(other, 80.0)).x[0], together[0])


def test_norms_over_the_batch_are_their_means_and_change_nothing_for_one_sample() -> None:
    denoiser, own, all_ = gm4(), PredictorCorrector(snr=0.3), PredictorCorrector(snr=0.3, norms="batch")
    start = torch.tensor([[0.1, 0.2], [9.0, -7.0]], dtype=torch.float64)
    run = {"grid": "karras:6"}
    assert torch.equal(*(sample(denoiser, 1, solver=solver, start=(start[:1], 80.0), **run).x for solver in (own, all_)))  # type: ignore[arg-type]
    together = [sample(denoiser, 2, solver=solver, start=(start, 80.0), **run).x for solver in (own, all_)]
    assert not torch.allclose(*together)
    values = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    assert norms(values, "sample").tolist() == [[5.0], [1.0]]
    assert norms(values, "batch").tolist() == [[3.0]]


def test_a_correction_may_come_before_the_first_step_and_less_of_its_noise_may_be_kept() -> None:
    """One step, in closed form: x_0 = 0 everywhere, so S = -x/sigma^2; the predictor draws nothing."""
    denoiser = GaussianOracle(torch.zeros(1, dtype=torch.float64), torch.full((1,), 1e-12, dtype=torch.float64), EDM())
    x, snr, s = torch.full((1, 1), 3.0, dtype=torch.float64), 0.1, 1.0
    for noise in (1.0, 0.5):
        solver = PredictorCorrector(DDIM(), snr=snr, kind="annealed", noise=noise, first=True)
        found = sample(denoiser, 1, solver=solver, grid=[2.0, s], start=(x, 2.0), seed=4).x
        source = NoiseSource(4, [0])
        z = [source.draw((1,), torch.float64, stream="solver") for _ in range(2)]
        state = x
        for sigma, unit in ((2.0, z[0]), (s, z[1])):
            state = state * (s / 2.0 if sigma == s else 1.0)  # DDIM towards 0
            state = state * (1 - 2 * snr**2) + 2 * sigma * snr * noise * unit
        torch.testing.assert_close(found, state, rtol=1e-9, atol=1e-9)
    assert checks.draws(PredictorCorrector(DDIM(), snr=0.16, first=True), grid="karras:5").draws == 5


def test_each_leaf_of_a_dict_state_may_have_its_own_length_of_correction() -> None:
    process = Joint({"x": VE(), "a": VP()})
    rows = PredictorCorrector(snr={"x": 0.1, "a": 0.0}).plan(process, [0.9, 0.5])
    assert rows[0].c[0] == pytest.approx({"x": 0.1, "a": 0.0})
    one = PredictorCorrector(snr=0.1).plan(process, [0.9, 0.5])
    assert rows[0].c[2:] == one[0].c[2:]
    assert hash(PredictorCorrector(snr={"x": 0.1, "a": 0.0})) is not None
    assert not PredictorCorrector(DDIM(), snr={"x": 0.0}).stochastic
    with pytest.raises(UserError, match="leaves"):
        PredictorCorrector(snr={"x": 0.1}).plan(process, [0.9, 0.5])


def test_corrections_are_smaller_where_variance_is_preserved() -> None:
    for process, factor in ((EDM(), 1.0), (VP(), None)):
        for row in PredictorCorrector(snr=0.2).plan(process, [0.5, 0.4]):
            expected = 0.2 * (row.alpha_t / row.alpha_s if factor is None else factor)
            assert row.c[0] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", [name for name in names.known("solver") if refusal(names.solver(name), EDM()) is None])
def test_only_stochastic_solvers_draw_and_nobody_touches_a_global_generator(name: str) -> None:
    found = checks.draws(name)
    assert (found.draws > 0) == names.solver(name).stochastic
    assert not found.touched


def test_noise_is_drawn_only_where_its_coefficient_is_not_0() -> None:
    assert checks.draws("ancestral", grid="karras:10").draws == 9  # not at the step to sigma = 0
    assert checks.draws("ddim", SBVE()).draws == 1  # only to leave the pin
    assert checks.draws("ddim:eta=1,temperature=0").draws == 0
    assert checks.draws(Churn(churn=40.0, s_min=1.0, s_max=2.0)).draws == sum(1 <= t <= 2 for t in Karras(10).times(EDM()))
    assert checks.draws(PredictorCorrector(DDIM(), snr=0.16, corrections=2), grid="karras:5").draws == 8


@pytest.mark.parametrize(
    ("name", "passes"),
    [("dpm++2m", 3), ("ddim", 2), ("dpm++3m", 4), ("f3", 5), ("deis3", 5), ("multistep:F,lambda,2", 4), ("heun", 6)],
)
def test_a_step_takes_few_passes_over_memory_and_never_asks_the_device(name: str, passes: int) -> None:
    found = checks.operations(name)
    assert found.full_size <= passes
    assert found.allocations == found.draws == found.synchronisations == 0


def test_a_2m_step_is_within_its_budget() -> None:
    found = checks.operations("dpm++2m")
    assert (found.full_size <= 4, found.draws, found.synchronisations) == (True, 0, 0)


def test_the_counter_of_operations_sees_what_it_should() -> None:
    class Wasteful(DDIM):
        def step(self, x, row, model, memory):  # type: ignore[no-untyped-def]
            if x.sum().item() > -1:
                x = x + torch.randn_like(x)
            return x.clone()

    found = checks.operations(Wasteful())
    assert (found.full_size, found.allocations, found.draws, found.synchronisations) == (3, 3, 1, 1)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: DDIM(eta=-0.1), "eta must lie"),
        (lambda: DDIM(temperature=-1), "temperature must be"),
        (lambda: DDIM(kind="other"), "kind must be"),
        (lambda: Churn(churn=-1), "must not be negative"),
        (lambda: Churn(s_min=2, s_max=1), "s_min not above s_max"),
        (lambda: PredictorCorrector(snr=-1), "must not be negative"),
        (lambda: PredictorCorrector("ddim"), "predictor must be a solver"),
        (lambda: PredictorCorrector(kind="other"), "kind must be"),
        (lambda: PredictorCorrector(norms="all"), "norms must be"),
        (lambda: PredictorCorrector(noise=-1), "noise must be"),
        (lambda: PredictorCorrector(snr={"x": -1}), "must not be negative"),
        (lambda: Multistep("eps", "rho", 2, variant="midpoint"), "variant 'midpoint' is of variable 'lambda'"),
        (lambda: Multistep(predictor=7), "predictor must be 1 to 6"),
        (lambda: Multistep(start_up=True), "start_up must be one of"),
        (lambda: Multistep(scale=0), "scale must be positive"),
        (lambda: checks.order(MultistepSDE()), "draws noise"),
    ],
)
def test_options_out_of_range_are_refused(make, sentence: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match=sentence):
        make()
