"""Steering by rewards that nobody differentiates: Feynman-Kac potentials, soft-value decoding, a filter by density ratios."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import unstir
from unstir.certify import MixtureOracle
from unstir.certify.discrete import Enumerated, markov_source, states_of
from unstir.certify.distances import total_variation, weights_distance
from unstir.certify.laws import ring8
from unstir.errors import UserError
from unstir.process.categorical import Categorical
from unstir.steer import FK, SVDD, RatioFilter, fit_ratio
from unstir.steer.particles import log_mean_exp

RING = ring8()
GRID = "karras:60,sigma_max=20,sigma_min=0.02"


def reward(x: Tensor, _: Any) -> Tensor:
    return 0.5 * x[:, 0]


def tilted(scale: float = 1.0) -> tuple[Tensor, float, float]:
    """Weights of the modes, mean reward and log Z of ring8 exp(scale r), in closed form: a tilted normal keeps its width and moves."""
    c = 0.5 * scale
    log_weights = c * RING.means[:, 0] - math.log(8) + c**2 * 0.09 / 2
    weights = torch.softmax(log_weights, 0)
    return weights, float((weights * 0.5 * (RING.means[:, 0] + c * 0.09)).sum()), float(torch.logsumexp(log_weights, 0))


def test_row_1_more_particles_bring_the_steered_law_to_the_tilted_one() -> None:
    weights, mean, log_z = tilted()
    assert mean == pytest.approx(1.418, abs=1e-3)
    distances = []
    for particles, limit in ((1, 0.55), (4, 0.13), (16, 0.07), (64, 0.06)):
        samples = unstir.sample(RING, 2048, solver="ancestral", grid=GRID, steers=[FK(reward, particles=particles, every=3)])
        distances.append(weights_distance(samples.x, RING, weights))
        assert distances[-1] < limit  # measured .47/.10/.03/.03; 2,048 true draws lie at .02
        assert samples.nfe == 60  # looks are handed on to the solver
    assert distances[0] > 0.4
    assert reward(samples.x, None).mean() == pytest.approx(mean, abs=0.08)
    evidence = samples.info["log_evidence"].exp()
    assert abs(float(evidence.mean()) - math.exp(log_z)) < 3 * float(evidence.std()) / math.sqrt(len(evidence)) + 0.05  # chain's own bias


@pytest.mark.parametrize("particles", [1, 8])
def test_no_strength_or_one_particle_is_the_unsteered_stream_bit_for_bit(particles: int) -> None:
    base = unstir.sample(RING, 16, solver="ancestral", grid="karras:10", seed=5)
    scale = 3.0 if particles == 1 else 0.0
    for potential in ("difference", "max", "sum"):
        steer = FK(reward, scale=scale, potential=potential, particles=particles)
        assert torch.equal(unstir.sample(RING, 16, solver="ancestral", grid="karras:10", seed=5, steers=[steer]).x, base.x)


@pytest.mark.parametrize("every", [1, 3])
def test_the_product_of_potentials_telescopes_to_the_reward(every: int) -> None:
    """Without resampling on the way the last weights are exp(lambda r(x_0)) for every potential, whatever was met before."""
    base = unstir.sample(RING, 32, solver="ancestral", grid="karras:10").x
    exact = log_mean_exp((1.7 * reward(base, None)).view(2, 16))
    for potential in ("difference", "max", "sum"):
        steer = FK(reward, scale=1.7, potential=potential, every=every, particles=16, threshold=0.0)
        found = unstir.sample(RING, 32, solver="ancestral", grid="karras:10", steers=[steer])
        torch.testing.assert_close(found.info["log_evidence"], exact, rtol=1e-12, atol=1e-12)


def test_potentials_share_one_target() -> None:
    weights, _, _ = tilted()
    for potential in ("max", "sum"):
        steer = FK(reward, potential=potential, particles=256, every=10)
        samples = unstir.sample(RING, 1024, solver="ancestral", grid="karras:40,sigma_max=20,sigma_min=0.02", steers=[steer])
        assert weights_distance(samples.x, RING, weights) < 0.12  # measured .03 to .07: "sum" spends its particles early


def test_best_of_k_is_a_special_case() -> None:
    base = unstir.sample(RING, 32, solver="ancestral", grid="karras:10").x.view(4, 8, 2)
    best = base[torch.arange(4), reward(base.flatten(0, 1), None).view(4, 8).argmax(1)]
    steer = FK(reward, scale=1e6, particles=8, threshold=0.0)
    found = unstir.sample(RING, 32, solver="ancestral", grid="karras:10", steers=[steer]).x.view(4, 8, 2)
    assert torch.equal(found, best[:, None].expand(4, 8, 2))


def test_row_59_soft_value_decoding_nears_the_tilted_law_as_proposals_grow() -> None:
    weights, _, _ = tilted()
    found = {}
    for proposals in (1, 4, 16):
        samples = unstir.sample(RING, 512 * proposals, solver="ancestral", grid=GRID, steers=[SVDD(reward, particles=proposals)])
        copies = samples.x.view(512, proposals, 2)
        assert torch.equal(copies, copies[:, :1].expand_as(copies))  # the M of a problem end as one
        found[proposals] = weights_distance(copies[:, 0], RING, weights)
    assert found[1] > 0.4  # reference .44/.078/.029
    assert found[4] < 0.13
    assert found[16] < 0.08  # 512 true draws lie at .03 +- .015


def test_a_colder_decoding_raises_the_reward_and_an_endless_temperature_does_nothing() -> None:
    means = []
    for alpha in (math.inf, 1.0, 0.25):
        samples = unstir.sample(RING, 256 * 8, solver="ancestral", grid="karras:30", steers=[SVDD(reward, particles=8, alpha=alpha)])
        means.append(float(reward(samples.x[::8], None).mean()))
    assert abs(means[0]) < 4 * math.sqrt(2) / math.sqrt(256)  # reward has variance 2 on the ring
    assert means[0] + 0.8 < means[1] < means[2] - 0.3


def test_the_soft_value_converges_where_the_posterior_mean_overshoots() -> None:
    """v = alpha log E[exp(r/alpha) | x_t] in closed form: the mixture of each mode's tilted normal."""
    alpha = 0.5
    c = 0.5 / alpha

    def value(x: Tensor, t: Any, _: Any) -> Tensor:
        level = float(t) ** 2
        offset = x[:, None] - RING.means
        log_p = -0.5 * offset.square().sum(2) / (0.09 + level)
        mean = RING.means[:, 0] + 0.09 / (0.09 + level) * offset[:, :, 0]
        variance = 0.09 * level / (0.09 + level)
        return alpha * (torch.logsumexp(log_p + c * mean, 1) + c**2 * variance / 2 - torch.logsumexp(log_p, 1))

    def excess(proposals: int, soft: bool) -> float:
        steer = SVDD(reward, proposals, alpha, value=value if soft else None)
        grid = "log-snr:20,sigma_max=20,sigma_min=0.05"
        samples = unstir.sample(RING, 200 * proposals, solver="ancestral", grid=grid, steers=[steer])
        return float(reward(samples.x[::proposals], None).mean()) - mean

    _, mean, _ = tilted(1 / alpha)
    few, many, rough = excess(4, soft=True), excess(48, soft=True), excess(48, soft=False)
    assert few < many < 0.06  # finite M falls short of the tilt, less and less; 200 draws of standard deviation .3 have error .02
    assert many > -0.17  # measured -.09
    assert rough > 0.06  # the posterior mean has a limit of its own: measured +.10


def test_a_reward_that_jumps_will_do() -> None:
    def right(x: Tensor, _: Any) -> Tensor:
        return torch.where(x[:, 0] > 1.5, 3.0, 0.0)

    for steer, least in ((FK(right, particles=64), 0.85), (SVDD(right, particles=16), 0.6)):
        samples = unstir.sample(RING, 1024, solver="ancestral", grid="karras:30", steers=[steer])
        assert (samples.x[:, 0] > 1.5).double().mean() > least  # base .375; the limit is 3 e^3/(3 e^3 + 5) = .92; M = 16 falls short of it


def letters(x: Tensor, _: Any) -> Tensor:
    assert not x.is_floating_point()  # rewards see clean sequences, never probabilities
    return 0.7 * (x == 0).sum(1).double()


@pytest.mark.parametrize("noise", ["absorbing", "uniform"])
def test_discrete_states_are_steered_to_the_tilted_law(noise: Any) -> None:
    law: Enumerated = markov_source(Categorical(3, noise=noise), length=4)
    exact = law.weights * letters(law.support, None).exp()
    everything = states_of(3, 4)
    target = torch.stack([exact[(law.support == state).all(1)].sum() for state in everything]) / exact.sum()

    def occupancy(x: Tensor) -> Tensor:
        return torch.bincount((x * torch.tensor([27, 9, 3, 1])).sum(1), minlength=81).double() / len(x)

    options: Any = {"solver": "discrete-ancestral", "grid": "uniform:20"}
    base = unstir.sample(law, 1024, **options)
    steered = unstir.sample(law, 1024, steers=[FK(letters, particles=128, draws=2)], **options)
    decoded = unstir.sample(law, 256 * 8, steers=[SVDD(letters, particles=8)], **options)
    rewards = [float(letters(x, None).mean()) for x in (base.x, steered.x, decoded.x[::8])]
    exact_reward = float((target * letters(everything, None)).sum())
    assert rewards[0] < exact_reward - 0.25
    assert abs(rewards[1] - exact_reward) < 0.12  # 8 problems of 128 particles that share ancestors
    assert abs(rewards[2] - exact_reward) < 0.2  # 8 proposals a step, and a rough value
    assert total_variation(occupancy(steered.x), target) < 0.75 * total_variation(occupancy(base.x), target)
    evidence = steered.info["log_evidence"].exp()
    error = float(evidence.std()) / math.sqrt(len(evidence))
    assert abs(float(evidence.mean()) - float(exact.sum())) < 3 * error + 0.05 * float(
        exact.sum()
    )  # 20 parallel steps have a bias of their own


def test_row_173_a_density_ratio_mends_wrong_mode_weights() -> None:
    means, stds = [[-1.5, 0.0], [1.5, 0.0]], [[0.5, 0.5], [0.5, 0.5]]
    model, truth = MixtureOracle([0.7, 0.3], means, stds), MixtureOracle([0.5, 0.5], means, stds)
    real, generated = truth.marginal(500, 0.0, seed=1), model.marginal(2000, 0.0, seed=2)
    ratio = fit_ratio(real, generated, model.process, [10.0, 3.0, 1.0, 0.5, 0.2, 0.02])
    options: Any = {"solver": "ancestral", "grid": "karras:25"}
    plain = unstir.sample(model, 1000, **options)
    mended = unstir.sample(model, 1000, steers=[RatioFilter(ratio, particles=250)], **options)
    assert weights_distance(plain.x, truth) > 0.15
    assert weights_distance(mended.x, truth) < 0.05
    assert mended.info["ess"].shape == (4, 26)  # logged before every step and at the end
    assert ((mended.info["ess"] > 1) & (mended.info["ess"] < 250.001)).all()
    at = torch.tensor([[1.5, 0.0], [-1.5, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(ratio(at, 0.02), torch.log(torch.tensor([0.5 / 0.3, 0.5 / 0.7], dtype=torch.float64)), rtol=0, atol=0.35)


def test_a_ratio_needs_samples_of_one_shape() -> None:
    with pytest.raises(UserError, match="one shape"):
        fit_ratio(torch.zeros(5, 2), torch.zeros(5, 3), RING.process, [1.0])
    with pytest.raises(UserError, match="times"):
        fit_ratio(torch.zeros(5, 2), torch.zeros(5, 2), RING.process, [])
