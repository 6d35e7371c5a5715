"""The laws and distances that other tests stand on, against what is known of them."""

from __future__ import annotations

import math

import pytest
import torch

from unstir.certify.distances import (
    energy_distance,
    normal_wasserstein,
    sliced_wasserstein,
    total_variation,
    weights_distance,
    weights_of,
)
from unstir.certify.laws import classes3, gaussian, grid25, linear_mixture, ring8
from unstir.certify.oracles import gm4
from unstir.errors import UserError
from unstir.process import VP

X = torch.tensor([[0.7, -1.2], [2.1, 0.4], [-1.0, 1.5]], dtype=torch.float64)


@pytest.mark.parametrize("t", [0.05, 0.4, 0.9])
def test_the_classes_of_c3_add_up_to_the_whole(t: float) -> None:
    law = classes3(VP())
    weights = torch.tensor([0.4, 0.3, 0.3], dtype=torch.float64)
    parts = torch.stack([law.log_density(X, t, {"class": torch.full((3,), c)}) for c in range(3)], 1)
    assert torch.allclose(torch.logsumexp(parts + weights.log(), 1), law.log_density(X, t), atol=1e-12)
    assert torch.allclose(law.log_class(X, t), parts + weights.log() - law.log_density(X, t)[:, None], atol=1e-12)
    assert torch.allclose(law.log_class(X, t).exp().sum(1), torch.ones(3, dtype=torch.float64))


def test_the_score_of_a_class_is_the_score_of_all_and_the_classifier_s_gradient() -> None:
    law, t = classes3(VP()), 0.3
    x = X.clone().requires_grad_()
    label = torch.tensor([0, 1, 2])
    (gradient,) = torch.autograd.grad(law.log_class(x, t).gather(1, label[:, None]).sum(), x)
    assert torch.allclose(law.score(X, t, {"class": label}), law.score(X, t) + gradient, atol=1e-10)
    free = law(X, t, {"class": torch.full((3,), -1)})
    assert torch.equal(free, law(X, t))


def test_a_class_without_a_component_is_refused() -> None:
    from unstir.certify.laws import ClassOracle

    with pytest.raises(UserError, match="labels must give each"):
        ClassOracle([0.5, 0.5], [[0.0], [1.0]], [[1.0], [1.0]], [0, 2])


def test_the_posterior_of_a_mixture_problem_agrees_with_weighted_draws_of_the_prior() -> None:
    problem = linear_mixture(unknowns=3, measurements=1, std=0.5)
    x = problem.prior().draw(200_000, torch.Generator().manual_seed(0))
    log_w = -0.5 * ((x @ problem.matrix.mT - problem.y) / problem.std).square().sum(1)
    w = torch.softmax(log_w, 0)
    mean = (w[:, None] * x).sum(0)
    cov = (w[:, None] * (x - mean)).mT @ (x - mean)
    assert torch.allclose(mean, problem.posterior_mean, atol=0.01)  # 200,000 draws
    assert torch.allclose(cov, problem.posterior_cov, atol=0.01)
    evidence = torch.logsumexp(log_w, 0) - math.log(len(x)) - 0.5 * math.log(2 * math.pi * problem.std**2)
    assert problem.log_evidence == pytest.approx(float(evidence), abs=0.01)
    drawn = problem.draw(50_000)
    assert torch.allclose(drawn.mean(0), problem.posterior_mean, atol=0.02)
    assert torch.allclose(drawn.mT.cov(), problem.posterior_cov, atol=0.02)


def test_the_spectrum_of_g_is_the_one_asked_for() -> None:
    law = gaussian(8, -1.5)
    assert torch.allclose(law.variances.sort(descending=True).values, 4 * torch.arange(1, 9, dtype=torch.float64) ** -1.5)


def test_distances_vanish_for_one_law_and_see_another() -> None:
    first, second = (gm4().marginal(2000, 0.0, seed=seed) for seed in (0, 1))
    other = first + 0.5
    assert abs(energy_distance(first, second)) < 0.005 < 0.05 < energy_distance(first, other)  # its standard error here is 0.001
    assert sliced_wasserstein(first, second) < 0.1 < 0.3 < sliced_wasserstein(first, other)


def test_energy_distance_of_two_points_is_exact() -> None:
    a, b = torch.tensor([[0.0], [2.0]]), torch.tensor([[5.0], [6.0]])
    assert energy_distance(a, b) == pytest.approx(2 * 4.5 - 2 - 1)


def test_wasserstein_of_normal_laws_is_exact_for_commuting_covariances() -> None:
    mean = torch.zeros(2, dtype=torch.float64)
    a, b = (torch.diag(torch.tensor(v, dtype=torch.float64)) for v in ([4.0, 1.0], [1.0, 9.0]))
    assert normal_wasserstein(mean, a, mean + 1, b) == pytest.approx(math.sqrt(2 + 1 + 4))


def test_weights_are_counted_at_the_nearest_mode() -> None:
    law = ring8(weights=[1, 1, 2, 1, 1, 1, 1, 0.5])
    drawn = law.marginal(4000, 0.0)
    assert weights_distance(drawn, law) < 0.03  # 4,000 draws over 8 modes: about 0.02
    assert weights_distance(drawn, law, [1 / 8] * 8) > 0.05
    assert weights_of(law.means, law).tolist() == [1 / 8] * 8
    assert total_variation([0.5, 0.5], [1.0, 0.0]) == 0.5
    assert len(grid25().means) == 25
