"""Exact weights: twisted chains, the approximation-free ensemble, corrected guidance, filters on noised measurements."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import unstir
from unstir import names
from unstir.certify import GaussianOracle, MixtureOracle, lg3
from unstir.certify.laws import ClassOracle
from unstir.errors import UserError
from unstir.guide import CFG
from unstir.operator import Dense
from unstir.process import EDM, OUVE, VP
from unstir.solver import DDIM
from unstir.steer import FPS, TDS, MCGdiff, Moment, Tilt, TiltedCFG

LG3 = lg3()
PRIOR = LG3.prior()
FINE = "log-snr:100,sigma_max=20,sigma_min=0.05"  # its chain has log evidence -2.2777, the prior -2.3219


def log_normal(offset: Tensor, variance: float) -> Tensor:
    return -0.5 * (offset.square() / variance + math.log(2 * math.pi * variance)).sum(1)


def log_likelihood(x0: Tensor, _: Any) -> Tensor:
    return log_normal(LG3.y - x0 @ LG3.matrix.mT, 0.09)


def widened(x: Tensor, t: Any, _: Any) -> Tensor:
    """log N(y; A x, R + sigma^2 A A^T): what y says of x_t if nothing is known of x_0."""
    cov = LG3.noise_cov + float(t) ** 2 * LG3.matrix @ LG3.matrix.mT
    return torch.distributions.MultivariateNormal(LG3.y, cov).log_prob(x @ LG3.matrix.mT)


def chain_evidence(grid: str, solver: Any = "ancestral", process: Any = None, warm: bool = False, anchor: Any = 0.0) -> float:
    """log evidence of the prior that the solver's chain really samples: its steps are affine, its law normal; warm: from an exact start."""
    prior = LG3.prior(process)
    rows = names.solver(solver).plan(prior.process, names.grid(grid).times(prior.process))
    unit = torch.eye(3, dtype=torch.float64)
    mean = rows[0].alpha_t * anchor + torch.zeros(3, dtype=torch.float64)  # an anchored process starts around its anchor
    cov = rows[0].sigma_t ** 2 * unit
    if warm:
        mean, cov = LG3.prior_mean, cov + LG3.prior_cov
    still = {"anchor": torch.zeros(3, dtype=torch.float64)}
    for row in rows:
        a, b, d = row.c
        shift = prior(torch.zeros(1, 3, dtype=torch.float64), row.t, still)[0]
        matrix = a * unit + b * (prior(unit, row.t, still) - shift).mT
        mean, cov = matrix @ mean + b * shift, matrix @ cov @ matrix.mT + d**2 * unit
    law = torch.distributions.MultivariateNormal(LG3.matrix @ mean, LG3.matrix @ cov @ LG3.matrix.mT + LG3.noise_cov)
    return float(law.log_prob(LG3.y))


def lg3_run(steer: Any, grid: str, problems: int, **options: Any) -> Any:
    prior = LG3.prior(options.pop("process", None))
    options = {"solver": "ancestral", **options}
    return unstir.sample(prior, problems * steer.particles, grid=grid, steers=[steer], **options)


def standard_errors(log_evidence: Tensor, exact: float) -> tuple[float, float]:
    """How far the mean of Z/exact lies from 1, in standard errors, and that error."""
    ratio = torch.exp(log_evidence - exact)
    error = float(ratio.std()) / math.sqrt(len(ratio))
    return abs(float(ratio.mean()) - 1) / error, error


OPERATOR = Dense(LG3.matrix)
METHODS = {
    "tds": TDS(log_likelihood, width=0.3, particles=64),
    "ensemble": Tilt(widened, particles=64),
    "mcgdiff": MCGdiff(OPERATOR, LG3.y, 0.3, data_std=1.0, particles=64),
}


@pytest.mark.parametrize("name", METHODS)
def test_the_evidence_and_the_posterior_of_lg3(name: str) -> None:
    assert LG3.log_evidence == pytest.approx(-2.3219235384)
    samples = lg3_run(METHODS[name], FINE, 12)
    away, error = standard_errors(samples.info["log_evidence"], LG3.log_evidence)
    assert error < 0.15
    assert away < 3
    # 768 particles with shared ancestors count for some 150: .035 in a mean whose deviation is .43 at most; the chain is .02 too narrow
    assert (samples.x.mean(0) - LG3.posterior_mean).abs().max() < 0.12
    assert (samples.x.mT.cov() - LG3.posterior_cov).abs().max() < 0.06


@pytest.mark.parametrize("process", [None, VP(), OUVE()], ids=["edm", "vp", "ouve"])
@pytest.mark.parametrize("name", ["tds", "mcgdiff"])
def test_weights_are_exact_for_the_chain_that_the_solver_makes(name: str, process: Any) -> None:
    """At 20 steps the chain is far from the prior, and the evidence is the chain's."""
    grid, anchored = "karras:20", process is not None and process.anchored
    anchor = torch.tensor([0.4, -1.0, 2.0], dtype=torch.float64)
    exact = chain_evidence(grid, process=process, anchor=anchor if anchored else 0.0)
    condition = {"anchor": anchor[None]} if anchored else None
    samples = lg3_run(METHODS[name], grid, 24, process=process, condition=condition)
    away, error = standard_errors(samples.info["log_evidence"], exact)
    assert error < 0.12
    assert away < 3
    if process is None:
        assert abs(exact - LG3.log_evidence) > 0.2


def test_any_share_of_noise_is_weighed_exactly_by_tds() -> None:
    solver = DDIM(eta=0.6)
    samples = lg3_run(METHODS["tds"], "karras:20", 40, solver=solver)
    away, error = standard_errors(samples.info["log_evidence"], chain_evidence("karras:20", solver))
    assert error < 0.12
    assert away < 3


def test_a_chain_without_its_ratio_of_densities_is_caught() -> None:
    """A planted fault: the moved steps taken for the prior's own."""

    class Careless(TDS):
        def after(self, x: Tensor, moment: Moment) -> Tensor:
            moved = super().after(x, moment)
            moment.memory["log_ratio"] = 0.0
            return moved

    samples = lg3_run(Careless(log_likelihood, width=0.3, particles=64), "karras:20", 40)
    away, _ = standard_errors(samples.info["log_evidence"], chain_evidence("karras:20"))
    assert away > 10


def test_a_twist_of_finite_width_has_steadier_weights_than_the_published_one() -> None:
    published = lg3_run(TDS(log_likelihood, particles=64), "karras:20", 40).info["log_evidence"]
    softened = lg3_run(TDS(log_likelihood, width=0.3, particles=64), "karras:20", 40).info["log_evidence"]
    assert float(softened.std()) < 0.3 * float(published.std())  # measured .1 against .7


def test_the_one_dimensional_example_of_the_identity() -> None:
    """Mixture (.6, .4) at (-1, 1.2), std (.4, .3), y = .6, s = .5: posterior mean .90979, variance .23797."""
    law = MixtureOracle([0.6, 0.4], [[-1.0], [1.2]], [[0.4], [0.3]])

    def twist(x: Tensor, t: Any, _: Any) -> Tensor:
        return log_normal(0.6 - x, 0.25 + float(t) ** 2)

    exact = math.log(
        sum(w * math.exp(-0.5 * (0.6 - m) ** 2 / v) / math.sqrt(2 * math.pi * v) for w, m, v in ((0.6, -1, 0.41), (0.4, 1.2, 0.34)))
    )
    samples = unstir.sample(law, 2000, solver="ancestral", grid="log-snr:100", steers=[Tilt(twist, particles=500)])
    assert samples.x.mean() == pytest.approx(0.90979, abs=0.07)  # 2,000 particles count for some 300: .03
    assert samples.x.var() == pytest.approx(0.23797, abs=0.07)
    assert samples.info["log_evidence"].exp().mean().log() == pytest.approx(exact, abs=0.1)


@pytest.mark.parametrize("process", [EDM(), VP()], ids=["edm", "vp"])
def test_row_92_a_twist_fixed_in_time_samples_the_posterior_of_a_normal(process: Any) -> None:
    """N(0, 1), y = 1.5, noise .7, from sigma = 3: mean 1.007, variance .329; no p(y|x_t) is ever formed."""
    law = GaussianOracle([0.0], [1.0], process)
    begin = float(process.time_at_rho(3.0))
    start = law.marginal(2400, begin, seed=4)

    def twist(x: Tensor, t: Any, _: Any) -> Tensor:
        return log_normal(1.5 - x, 0.49)

    samples = unstir.sample(
        law, 2400, solver="ancestral", grid="log-snr:80,sigma_max=3", start=(start, begin), steers=[Tilt(twist, particles=600)]
    )
    assert samples.x.mean() == pytest.approx(1.007, abs=0.1)  # reference 1.03 +- .08, .30 +- .06
    assert samples.x.var() == pytest.approx(0.329, abs=0.07)
    exact = -0.5 * 1.5**2 / 1.49 - 0.5 * math.log(2 * math.pi * 1.49)
    found = float(samples.info["log_evidence"].exp().mean().log())
    assert found == pytest.approx(exact, abs=0.45)  # kappa = 1/2 has a bias of the steps: -.4 at 60 of them, -.07 at 200


def test_half_the_drift_has_steadier_weights_under_a_rough_twist() -> None:
    law = GaussianOracle([0.0], [1.0])
    start = law.marginal(2400, 3.0, seed=4)

    def spread(kappa: float) -> float:
        steer = Tilt(lambda x, t, c: log_normal(1.5 - x, 0.49), kappa=kappa, particles=60)
        options: Any = {"solver": "ancestral", "grid": "log-snr:40,sigma_max=3", "start": (start, 3.0)}
        return float(unstir.sample(law, 2400, steers=[steer], **options).info["log_evidence"].std())

    assert spread(0.5) < 0.6 * spread(1.0)


def test_a_tilted_law_on_a_grid() -> None:
    """p exp(l) of a mixture and a bump that is not normal, against the same product summed on a grid."""
    law = MixtureOracle([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.5]], [[0.5, 0.4], [0.4, 0.6]])

    def bump(x: Tensor) -> Tensor:
        return 1.5 * torch.cos(2 * x[:, 0]) + x[:, 1]

    def twist(x: Tensor, t: Any, _: Any) -> Tensor:
        return bump(x) / (1 + float(t) ** 2)  # any twist that ends in the bump

    axis = torch.linspace(-5, 5, 401, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis)
    log_density = law.log_density(points, 0.0) + bump(points)
    weights = torch.softmax(log_density, 0)
    mean = weights @ points
    samples = unstir.sample(law, 2400, solver="ancestral", grid="log-snr:80,sigma_min=0.02", steers=[Tilt(twist, particles=600)])
    assert (samples.x.mean(0) - mean).abs().max() < 0.12
    left = float(weights[points[:, 0] < 0].sum())
    assert (samples.x[:, 0] < 0).double().mean() == pytest.approx(left, abs=0.08)
    exact = float(torch.logsumexp(log_density, 0)) + 2 * math.log(10 / 400)
    assert samples.info["log_evidence"].exp().mean().log() == pytest.approx(exact, abs=0.12)


CLASSES = ClassOracle([0.5, 0.5], [[-0.6, 0.0], [0.7, 0.3]], [[1.0, 0.8], [0.7, 0.6]], [0, 1])
SECOND = {"class": torch.tensor([1])}


def test_corrected_guidance_samples_the_power_of_the_classifier_and_plain_guidance_does_not() -> None:
    weight = 3.0
    axis = torch.linspace(-8, 8, 401, dtype=torch.float64)
    points = torch.cartesian_prod(axis, axis)
    given = CLASSES.log_density(points, 0.0, {"class": torch.ones(len(points), dtype=torch.long)})
    log_density = weight * given + (1 - weight) * CLASSES.log_density(points, 0.0, None)
    exact = torch.softmax(log_density, 0) @ points
    options: Any = {"solver": "ancestral", "grid": "log-snr:80,sigma_max=20,sigma_min=0.02", "condition": SECOND}
    plain = unstir.sample(CLASSES, 1600, guides=[CFG(weight)], **options)
    corrected = unstir.sample(CLASSES, 1600, steers=[TiltedCFG(weight, particles=400)], **options)
    assert plain.x.mean(0)[0] - exact[0] > 0.12  # measured .2
    assert (corrected.x.mean(0) - exact).abs().max() < 0.08
    log_z = float(torch.logsumexp(log_density, 0)) + 2 * math.log(16 / 400)
    assert corrected.info["log_evidence"].exp().mean().log() == pytest.approx(log_z, abs=0.2)
    assert corrected.nfe <= 161  # two a step


def test_guidance_of_weight_one_and_a_twist_of_zero_are_the_plain_stream() -> None:
    options: Any = {"solver": "ancestral", "grid": "karras:8", "condition": SECOND}
    base = unstir.sample(CLASSES, 8, **options).x
    assert torch.equal(unstir.sample(CLASSES, 8, steers=[TiltedCFG(1.0, particles=4)], **options).x, base)
    for kappa in (0.5, 1.0):
        steer = Tilt(lambda x, t, c: torch.zeros_like(x[:, 0]), kappa=kappa, particles=4)
        assert torch.equal(unstir.sample(CLASSES, 8, steers=[steer], **options).x, base)


def test_filtering_along_a_path_is_exact_without_noise_and_too_narrow_with_it() -> None:
    noise = 0.01
    gain = LG3.prior_cov @ LG3.matrix.mT @ torch.linalg.inv(LG3.matrix @ LG3.prior_cov @ LG3.matrix.mT + noise**2 * torch.eye(2))
    mean = LG3.prior_mean + gain @ (LG3.y - LG3.matrix @ LG3.prior_mean)
    cov = LG3.prior_cov - gain @ LG3.matrix @ LG3.prior_cov
    grid = "log-snr:60,sigma_max=20,sigma_min=0.05"
    exact = lg3_run(FPS(OPERATOR, LG3.y, noise, particles=64), grid, 40)
    assert (exact.x.mean(0) - mean).abs().max() < 0.15  # 40 paths; the measurement has moved the mean by .64
    assert (exact.x.mT.cov() - cov).abs().max() < 0.06
    narrow = lg3_run(FPS(OPERATOR, LG3.y, 0.3, particles=64), grid, 16)
    seen = LG3.matrix @ narrow.x.mT.cov() @ LG3.matrix.mT
    assert seen.trace() < 0.6 * (LG3.matrix @ LG3.posterior_cov @ LG3.matrix.mT).trace()


def test_knowing_the_width_of_the_data_steadies_the_filter() -> None:
    published = lg3_run(MCGdiff(OPERATOR, LG3.y, 0.3, particles=64), "karras:20", 24).info["log_evidence"]
    known = lg3_run(METHODS["mcgdiff"], "karras:20", 24).info["log_evidence"]
    assert float(known.std()) < 0.4 * float(published.std())  # measured .08 against .6


def test_a_warm_start_is_weighed_and_not_moved() -> None:
    begin = 2.0
    start = PRIOR.marginal(64 * 30, begin, seed=2)
    steer = MCGdiff(OPERATOR, LG3.y, 0.3, data_std=1.0, warm=True, particles=64)
    samples = lg3_run(steer, "log-snr:60,sigma_max=2,sigma_min=0.05", 30, start=(start, begin))
    away, error = standard_errors(samples.info["log_evidence"], chain_evidence("log-snr:60,sigma_max=2,sigma_min=0.05", warm=True))
    assert error < 0.15
    assert away < 3


def test_each_problem_may_have_its_own_measurement() -> None:
    y = torch.stack([LG3.y, LG3.y + torch.tensor([1.0, -1.0])])
    samples = lg3_run(MCGdiff(OPERATOR, y, 0.3, particles=300), "log-snr:60,sigma_max=20,sigma_min=0.05", 2)
    for problem in range(2):
        mean = LG3.prior_mean + LG3.gain @ (y[problem] - LG3.matrix @ LG3.prior_mean)
        assert (samples.x.view(2, 300, 3)[problem].mean(0) - mean).abs().max() < 0.15  # 300 particles with shared ancestors


GAUSSIAN = {
    **METHODS,
    "tilted-cfg": TiltedCFG(2.0, particles=4),
}


@pytest.mark.parametrize("solver", ["dpm++2m", "ddim", "heun", "dpm++2m-sde", "ddim:eta=0.5,temperature=0.9"])
@pytest.mark.parametrize("name", GAUSSIAN)
def test_solvers_whose_steps_have_no_known_law_are_refused_in_a_sentence(name: str, solver: str) -> None:
    law, condition = (CLASSES, SECOND) if name == "tilted-cfg" else (PRIOR, None)
    with pytest.raises(UserError, match="solver='ancestral'"):
        unstir.sample(law, GAUSSIAN[name].particles, solver=solver, grid="karras:6", steers=[GAUSSIAN[name]], condition=condition)


@pytest.mark.parametrize("name", ["ensemble", "tilted-cfg"])
def test_what_is_exact_for_ancestral_steps_alone_refuses_another_share_of_noise(name: str) -> None:
    law, condition = (CLASSES, SECOND) if name == "tilted-cfg" else (PRIOR, None)
    with pytest.raises(UserError, match="eta = 1"):
        unstir.sample(law, GAUSSIAN[name].particles, solver=DDIM(0.6), grid="karras:6", steers=[GAUSSIAN[name]], condition=condition)


def test_a_twist_must_give_one_number_a_sample() -> None:
    with pytest.raises(UserError, match="one number a sample"):
        lg3_run(Tilt(lambda x, t, c: x, particles=4), "karras:6", 1)


def test_conditions_reach_twists() -> None:
    seen: list[Any] = []

    def twist(x: Tensor, t: Any, given: Any) -> Tensor:
        seen.append(given["y"])
        return (x * given["y"]).sum(1)

    y = torch.arange(8.0).view(8, 1)
    lg3_run(Tilt(twist, particles=4), "karras:4", 2, condition={"y": y})
    assert all(torch.equal(value, y) for value in seen)
