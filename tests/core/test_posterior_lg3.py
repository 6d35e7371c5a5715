"""Posterior methods on LG3, whose posterior is normal and known: golden rows, and the exact law at the end of a run."""

import dataclasses
import math

import pytest
import torch

from unstir import sample
from unstir.certify import lg3
from unstir.certify.laws import linear_mixture
from unstir.certify.posterior import methods, posterior
from unstir.errors import UserError
from unstir.guide import DDNM, DPS, MMPS, TMPD, Guide, PiGDM, ProximalData
from unstir.operator import Dense
from unstir.posterior import DAPS, Decoupled
from unstir.process import EDM, VP
from unstir.steer import DDRM, DataConsistency, EnsembleKalman, Projection

PROBLEM = lg3()
A, Y = Dense(PROBLEM.matrix), PROBLEM.y
X = torch.tensor([[1, -1, 0.5]], dtype=torch.float64)
INFINITE = math.inf

GOLDEN = [
    (MMPS(A, Y, 0.3), (1.155483, -0.149802, 0.296517)),
    (MMPS(A, Y, 0.3, method="cg"), (1.155483, -0.149802, 0.296517)),
    (TMPD(A, Y, 0.3), (1.096863, -0.145928, 0.242531)),
    (PiGDM(A, Y, 0.3), (1.198349, -0.143790, 0.326095)),
    (DDNM(A, Y), (1.276539, -0.153078, 0.246922)),
    (ProximalData(A, Y, noise=0.3, iterations=3, tolerance=0.0), (1.197783, -0.185025, 0.239490)),
]


@pytest.mark.parametrize(("guide", "golden"), GOLDEN, ids=[f"{type(g).__name__}-{i}" for i, (g, _) in enumerate(GOLDEN)])
def test_the_guided_estimate_is_the_golden_one(guide, golden):
    found = guide.wrap(PROBLEM.prior())(X, 0.7)
    torch.testing.assert_close(found[0], torch.tensor(golden, dtype=torch.float64), rtol=0, atol=6e-7)  # golden to six digits


@pytest.mark.parametrize("process", [EDM(), VP()])
def test_mmps_is_the_posterior_denoiser_of_normal_data_at_every_noise_level(process):
    guided, exact = MMPS(A, Y, 0.3).wrap(PROBLEM.prior(process)), PROBLEM.posterior(process)
    for t in (process.t_max, process.t_max / 3, process.t_max / 100):
        x = PROBLEM.posterior(process).marginal(5, t)
        torch.testing.assert_close(guided(x, t), exact(x, t), rtol=1e-6, atol=1e-6)  # the solve stops at 1e-6
    t = torch.linspace(process.t_max / 10, process.t_max, 5, dtype=torch.float64)
    torch.testing.assert_close(guided(x, t), exact(x, t), rtol=1e-6, atol=1e-6)


def test_pigdm_is_exact_for_white_data_and_tmpd_where_the_data_covariance_is_diagonal():
    white = dataclasses.replace(PROBLEM, prior_cov=0.25 * torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(PiGDM(A, Y, 0.3, std=0.5).wrap(white.prior())(X, 0.7), white.posterior()(X, 0.7), rtol=1e-6, atol=1e-6)
    rows = Dense(torch.tensor([[1.0, 0, 0], [0, 2.0, 0]], dtype=torch.float64))
    apart = dataclasses.replace(white, matrix=rows.matrix)
    torch.testing.assert_close(TMPD(rows, Y, 0.3).wrap(apart.prior())(X, 0.7), apart.posterior()(X, 0.7))


RANKS = [
    ("mmps", MMPS(A, Y, 0.3), 0.0043, 0.0019, 6e-5),
    ("pigdm", PiGDM(A, Y, 0.3), 0.066, 0.013, 6e-4),
    ("tmpd", TMPD(A, Y, 0.3), 0.201, 0.113, 6e-4),
    ("white-jacobian", PiGDM(A, Y, 0.3, std=INFINITE), 0.260, 0.085, 6e-4),
    ("ddnm", DDNM(A, Y), 0.360, 0.351, 6e-4),
]


@pytest.mark.parametrize(("name", "guide", "ode", "ancestral", "digits"), RANKS, ids=[rank[0] for rank in RANKS])
def test_run_to_the_end_each_method_is_as_far_from_the_posterior_as_it_should(name, guide, ode, ancestral, digits):
    # DiffPIR and DDS are held to theirs in test_guide.py
    for solver, golden in (("ddim", ode), ("ancestral", ancestral)):
        found = posterior([guide], solver=solver)
        assert found.exact
        assert found.wasserstein == pytest.approx(golden, abs=digits)


def test_ancestral_sampling_with_mmps_has_the_posterior_mean():
    found = posterior([MMPS(A, Y, 0.3)], solver="ancestral")
    assert found.mean_error < 5e-5  # an ancestral chain forgets the mean of its start, (.001/80)^2 of it is left, and rounding of the solve
    assert found.wasserstein < 0.01


def test_a_higher_order_solver_comes_nearer_with_fewer_steps():
    assert posterior([MMPS(A, Y, 0.3)], solver="f3", steps=200).wasserstein < posterior([MMPS(A, Y, 0.3)], steps=200).wasserstein


def test_propagation_agrees_with_samples():
    exact = posterior([ProximalData(A, Y, noise=0.3)], [DataConsistency(A, Y, gamma=0.1)], solver="ancestral", steps=30)
    drawn = sample(
        PROBLEM.prior(), 20000, solver="ancestral", grid="log-snr:30,sigma_max=80,sigma_min=0.001,to_zero=false",
        guides=[ProximalData(A, Y, noise=0.3)], steers=[DataConsistency(A, Y, gamma=0.1)],
    )  # fmt: skip
    assert exact.exact
    # 20,000 draws: 4 standard errors of a mean and of a covariance of entries below .5
    torch.testing.assert_close(drawn.x.mean(0), exact.mean, rtol=0, atol=4 * 0.5 / 141)
    torch.testing.assert_close(torch.cov(drawn.x.T), exact.cov, rtol=0, atol=4 * 0.35 / 141)


class Shifted(Guide):
    """A planted fault: MMPS with a residual of the wrong scale."""

    exactness = "none"

    def __init__(self, factor):
        self.factor = factor

    def estimate(self, denoiser, x, t, condition):
        with torch.inference_mode(False):
            x0 = denoiser(x, t, condition)
            if not self.factor:
                return x0
            return x0 + self.factor * (MMPS(A, Y, 0.3).wrap(denoiser)(x, t, condition) - x0)


class Curved(Guide):
    """A planted fault: not affine."""

    exactness = "none"

    def estimate(self, denoiser, x, t, condition):
        return denoiser(x, t, condition) + 0.01 * torch.sin(x)


def test_the_certificate_sees_a_wrong_coefficient_and_a_method_that_is_not_affine():
    assert posterior([Shifted(1.0)], steps=300).wasserstein < 0.01
    assert posterior([Shifted(1.05)], steps=300).wasserstein > 0.01
    assert not posterior([Curved()], steps=20, count=64).exact
    assert not posterior([DPS(A, Y)], steps=20, count=64).exact


def test_every_registered_posterior_method_is_certified():
    made = methods()
    known = {"dps", "mmps", "tmpd", "pigdm", "ddnm", "proximal-data", "data-consistency", "projection", "ddrm", "ensemble-kalman", "daps"}
    assert known | {"red-diff"} <= set(made)
    prior = float((PROBLEM.prior_mean - PROBLEM.posterior_mean).norm())
    for name, keywords in made.items():
        found = posterior(**keywords(), steps=60, count=256)
        assert math.isfinite(found.wasserstein), name
        assert found.mean_error < prior / 2, name  # each has learned from the measurement


def test_the_published_daps_spreads_too_much_and_is_exact_as_a_gibbs_sampler_of_white_data():
    white = dataclasses.replace(PROBLEM, prior_cov=0.49 * torch.eye(3, dtype=torch.float64))
    for steps in (5, 20):
        found = posterior(steers=[DAPS(A, Y, 0.3, std=0.7)], solver=Decoupled(1), steps=steps, problem=white)
        assert found.exact
        # 5 steps from 80 forget the start to 5e-8; what is left is the last renoising, by .001
        torch.testing.assert_close(found.cov, white.posterior_cov + 1e-6 * torch.eye(3), rtol=0, atol=1e-9)
        assert found.mean_error < 1e-6
    published = posterior(steers=[DAPS(A, Y, 0.3)], solver="decoupled:inner=20", steps=60)
    assert torch.trace(published.cov) > 1.3 * torch.trace(PROBLEM.posterior_cov)


def test_langevin_draws_tend_to_exact_ones():
    white = dataclasses.replace(PROBLEM, prior_cov=0.49 * torch.eye(3, dtype=torch.float64))

    def distance(langevin, rate):
        steer = DAPS(A, Y, 0.3, std=0.7, langevin=langevin, rate=rate)
        return posterior(steers=[steer], solver=Decoupled(1), steps=10, problem=white).wasserstein

    coarse, fine = distance(100, 0.5), distance(400, 0.05)
    assert fine < coarse / 4  # the bias of a Langevin step is proportional to it
    assert fine < 0.02


def test_daps_asks_for_its_solver():
    with pytest.raises(UserError, match="solver Decoupled"):
        sample(PROBLEM.prior(), 1, steers=[DAPS(A, Y, 0.3)])


@pytest.mark.parametrize("solver", ["ddim", "ancestral"])
def test_the_ensemble_kalman_steer_is_mmps_without_a_derivative(solver):
    kind = "flow" if solver == "ddim" else "sde"
    keywords = {"solver": solver, "grid": "log-snr:40,sigma_max=80,sigma_min=0.01,to_zero=false", "seed": 3}
    free = sample(PROBLEM.prior(), 12, steers=[EnsembleKalman(A, Y[None], 0.3, particles=6, kind=kind)], **keywords)
    guided = sample(PROBLEM.prior(), 12, guides=[MMPS(A, Y, 0.3, tolerance=0.0)], **keywords)
    torch.testing.assert_close(free.x, guided.x, rtol=1e-6, atol=1e-6)
    assert free.nfe <= 41  # what it looks at is what the solver asks for next


def test_the_spread_of_the_estimates_is_not_the_covariance_of_what_is_left():
    # the gain Cov(D, A D) [Cov(A D) + R]^-1 of some texts: its covariance is J Cov(x_t) J^T, which grows where V shrinks
    x = PROBLEM.prior().marginal(20000, 0.7)
    spread = torch.cov(PROBLEM.prior()(x, 0.7).T)
    left = PROBLEM.prior_cov - PROBLEM.prior_cov @ torch.linalg.solve(
        PROBLEM.prior_cov + 0.49 * torch.eye(3, dtype=torch.float64), PROBLEM.prior_cov
    )
    torch.testing.assert_close(spread, PROBLEM.prior_cov - left, rtol=0, atol=0.03)  # 4 standard errors
    assert (spread - left).norm() > 0.3


def test_ddrm_samples_the_prior_where_nothing_is_measured_and_has_no_square_root_of_two():
    # N(0, 1) prior, 300 geometric steps 40 -> .001, the second coordinate unmeasured: standard deviations of core.md
    one = dataclasses.replace(
        PROBLEM,
        prior_mean=torch.zeros(2, dtype=torch.float64),
        prior_cov=torch.eye(2, dtype=torch.float64),
        matrix=torch.tensor([[1.0, 0]], dtype=torch.float64),
        noise_cov=0.01 * torch.eye(1, dtype=torch.float64),
        y=torch.tensor([0.3], dtype=torch.float64),
    )
    operator = Dense(one.matrix)
    for eta, golden in ((0.0, 0.99), (0.5, 0.95), (0.85, 0.86), (1.0, 0.69)):
        found = posterior(steers=[DDRM(operator, one.y, 0.1, eta=eta)], problem=one, steps=300)
        assert found.exact
        assert float(found.cov[1, 1].sqrt()) == pytest.approx(golden, abs=0.012)  # the grid here begins at 80, not 40


def test_mcg_is_the_guide_dps_with_the_projection():
    process, weight = EDM(), 0.3
    times = [80.0, 5.0, 0.5, 0.0]
    found = sample(
        PROBLEM.prior(), 2, solver="ddim", grid=times, guides=[DPS(A, Y, weight)], steers=[Projection(A, Y, mode="path")], trace=True
    )
    guided, pinv = DPS(A, Y, weight).wrap(PROBLEM.prior()), torch.linalg.pinv(PROBLEM.matrix)
    noise = None
    for t, s, before, after in zip(times, times[1:], found.path, found.path[1:], strict=False):
        ratio = s / t
        moved = ratio * before + (1 - ratio) * guided(before, t)
        rest = moved - moved @ PROBLEM.matrix.T @ pinv.T
        torch.testing.assert_close(after - after @ PROBLEM.matrix.T @ pinv.T, rest)
        seen = (after @ PROBLEM.matrix.T - Y) / s if s else after @ PROBLEM.matrix.T - Y
        assert s > 0 or seen.abs().max() < 1e-12
        if noise is not None and s:
            torch.testing.assert_close(seen, noise)  # one noise for the whole path
        noise = seen
    assert process == PROBLEM.prior().process


def test_on_mixture_data_nothing_is_exact_and_methods_that_know_the_covariance_come_nearest():
    problem = linear_mixture()
    operator = Dense(problem.matrix)
    keywords = {"problem": problem, "steps": 60, "count": 256}
    found = {
        name: posterior([guide], **keywords)
        for name, guide in (
            ("mmps", MMPS(operator, problem.y, problem.std)),
            ("pigdm", PiGDM(operator, problem.y, problem.std)),
            ("diffpir", ProximalData(operator, problem.y, noise=problem.std)),
            ("ddnm", DDNM(operator, problem.y)),
            ("prior", Shifted(0.0)),
        )
    }
    assert not any(check.exact for check in found.values())
    distance = {name: check.wasserstein for name, check in found.items()}
    assert max(distance["mmps"], distance["pigdm"]) < 0.6 * min(distance["diffpir"], distance["ddnm"])
    assert max(distance["diffpir"], distance["ddnm"]) < distance["prior"]
