"""Choosing at inference: best of N, searches over noises and paths, the law of the noise."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import unstir
from unstir.certify import GaussianOracle, MixtureOracle
from unstir.certify.discrete import markov_source
from unstir.certify.laws import ring8
from unstir.choose import best_of, renoised, search_noise, search_paths
from unstir.errors import UserError
from unstir.noise import NoiseSource
from unstir.noise_law import optimise_noise
from unstir.process import OUVE, VP
from unstir.process.categorical import Categorical

NORMAL = GaussianOracle([0.0, 0.0], [1.0, 1.0])
RING = ring8()


def first(x: Tensor, _: Any) -> Tensor:
    return x[:, 0]


def test_the_gain_of_the_best_of_n_is_the_expected_maximum() -> None:
    """Of N unit normals: 0, .5642, 1.0294, 1.7660 for N = 1, 2, 4, 16 (the sampler's own width put in)."""
    width = float(unstir.sample(NORMAL, 4000, grid="karras:12", seed=9).x.std())
    found = best_of(NORMAL, 1000, first, candidates=16, grid="karras:12")
    assert found.nfe == 16 * 12
    for candidates, expected in ((1, 0.0), (2, 0.5642), (4, 1.0294), (16, 1.7660)):
        spent, scores = found.curve[candidates - 1]
        assert spent == candidates * 12
        assert scores.mean() == pytest.approx(width * expected, abs=4 * width / math.sqrt(1000))
    torch.testing.assert_close(first(found.x, None), found.score)


def test_one_candidate_is_the_plain_sample_and_more_only_add() -> None:
    options: Any = {"grid": "karras:6", "seed": 7}
    base = unstir.sample(RING, 5, **options).x
    assert torch.equal(best_of(RING, 5, first, candidates=1, **options).x, base)
    few, many = (best_of(RING, 5, first, candidates=n, **options) for n in (3, 6))
    assert torch.equal(few.score, many.curve[2][1])
    assert (many.score >= few.score).all()


SEARCHES: dict[str, Any] = {
    "random": lambda law, count, verifier, size, **o: best_of(law, count, verifier, candidates=size, **o),
    "noise": lambda law, count, verifier, size, **o: search_noise(law, count, verifier, budget=size * 12, neighbours=2, radius=0.5, **o),
    "paths": lambda law, count, verifier, size, **o: search_paths(law, count, verifier, width=1, branches=size, levels=2, **o),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_row_51_the_score_rises_with_the_budget(name: str) -> None:
    scores, spent = [], []
    for size in (1, 4, 12):
        found = SEARCHES[name](RING, 60, first, size, grid="karras:12")
        scores.append(float(found.score.mean()))
        spent.append(found.nfe)
        assert [nfe for nfe, _ in found.curve] == sorted(nfe for nfe, _ in found.curve)
    assert spent[0] < spent[1] < spent[2]
    assert scores[0] + 0.5 < scores[1] < scores[2]
    assert scores[2] > 3.0  # the best mode lies at 4
    if name == "noise":
        assert spent == [12, 36, 132]  # rounds of two neighbours, 24 evaluations each, as far as the budget goes


@pytest.mark.parametrize("name", SEARCHES)
def test_a_problem_is_searched_alone(name: str) -> None:
    def toward(x: Tensor, condition: Any) -> Tensor:
        return -(x - condition["y"]).square().sum(1)

    law = MixtureOracle([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.0]], [[0.5, 0.5], [0.5, 0.5]])
    y = torch.tensor([[1.0, 0.0], [-1.0, 0.5], [0.0, 1.0]], dtype=torch.float64)
    other = y.clone()
    other[1] = torch.tensor([2.0, 2.0])
    a, b = (SEARCHES[name](law, 3, toward, 6, grid="karras:12", condition={"y": goal}) for goal in (y, other))
    assert torch.equal(a.x[[0, 2]], b.x[[0, 2]])
    assert not torch.equal(a.x[1], b.x[1])


def test_a_verifier_that_is_searched_is_no_measure() -> None:
    """The searched score rises while an independent one, the log density, falls."""
    plain, best = (best_of(NORMAL, 300, first, candidates=n, grid="karras:12") for n in (1, 16))
    assert best.score.mean() > plain.score.mean() + 1
    assert NORMAL.log_density(best.x, 0.0).mean() < NORMAL.log_density(plain.x, 0.0).mean() - 0.5


def test_a_search_takes_discrete_states() -> None:
    law = markov_source(Categorical(3), length=4)
    found = best_of(law, 40, lambda x, _: (x == 2).sum(1).double(), candidates=6, solver="discrete-ancestral", grid="uniform:6")
    assert not found.x.is_floating_point()
    assert found.score.mean() > 2


@pytest.mark.parametrize("process", [None, VP(), OUVE()], ids=["edm", "vp", "ouve"])
def test_a_state_noised_again_has_the_marginal_of_the_noisier_time(process: Any) -> None:
    law = MixtureOracle([0.5, 0.5], [[-1.0], [1.0]], [[0.5], [0.5]], process)
    t, s = (float(law.process.time_at_rho(level)) for level in (0.3, 0.9))
    anchor = torch.tensor([[2.0]], dtype=torch.float64) if law.process.anchored else None
    condition = None if anchor is None else {"anchor": anchor}
    x = renoised(law, law.marginal(4000, t, seed=1, anchor=anchor), t, s, condition, NoiseSource(0, range(4000)))
    exact = law.marginal(4000, s, seed=2, anchor=anchor)
    error = float(exact.std()) / math.sqrt(4000)
    assert float(x.mean() - exact.mean()) == pytest.approx(0, abs=6 * error)  # two samples: 4 standard errors
    assert float(x.std() / exact.std()) == pytest.approx(1, abs=0.06)


def generator(z: Tensor) -> Tensor:
    """The exact one-step map of N((0, 0), diag(1, .25)) from sigma = 80."""
    return z * torch.tensor([1.0, 0.5], dtype=z.dtype)


@pytest.mark.parametrize("gradient", ["pathwise", "reinforce"])
def test_row_192_the_optimal_noise_of_a_linear_reward(gradient: str) -> None:
    """r = a.x: the optimum is mean G^T a/penalty, standard deviation 1, KL |mean|^2/2."""
    goals = torch.tensor([[1.0, -2.0], [-2.0, 0.0]], dtype=torch.float64)

    def reward(x: Tensor) -> Tensor:
        return (x.view(2, -1, 2) * goals[:, None]).sum(2).flatten()

    options: Any = {"problems": 2, "draws": 64, "penalty": 2.0, "rate": 0.02, "gradient": gradient, "dtype": torch.float64}
    law = optimise_noise(generator, reward, (2,), steps=250, **options)
    exact = torch.tensor([[0.5, -0.5], [-1.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(law.mean, exact, rtol=0, atol=0.12)  # Adam's own jitter and 64 draws a step
    torch.testing.assert_close(law.std, torch.ones_like(exact), rtol=0, atol=0.12)
    torch.testing.assert_close(law.divergence, exact.square().sum(1) / 2, rtol=0, atol=0.12)
    assert (law.rewards[-20:].mean(0) > law.rewards[:20].mean(0) + 0.3).all()
    assert (law.kl[0] == 0).all()
    assert law.draw(3).shape == (6, 2)


def test_a_dearer_price_keeps_the_noise_nearer_to_the_base() -> None:
    found = [optimise_noise(generator, lambda x: x[:, 0], (2,), steps=60, penalty=p).divergence for p in (0.1, 1.0, 10.0)]
    assert found[0] > found[1] > found[2]


def test_no_steps_leave_the_base_noise() -> None:
    law = optimise_noise(generator, lambda x: x[:, 0], (2,), steps=0, problems=3)
    assert torch.equal(law.mean, torch.zeros(3, 2))
    assert torch.equal(law.std, torch.ones(3, 2))
    assert (law.divergence == 0).all()


def test_a_problem_of_the_noise_law_does_not_see_the_others() -> None:
    def reward(scale: float) -> Any:
        return lambda x: x[:, 0] * torch.cat([torch.ones(16), torch.full((16,), scale)])

    a, b = (optimise_noise(generator, reward(scale), (2,), steps=10, problems=2, gradient="reinforce") for scale in (1.0, -3.0))
    assert torch.equal(a.mean[0], b.mean[0])
    assert not torch.equal(a.mean[1], b.mean[1])


@pytest.mark.parametrize(
    "make",
    [
        lambda: best_of(NORMAL, 2, first, candidates=0),
        lambda: best_of(NORMAL, 2, lambda x, _: x, candidates=1, grid="karras:3"),
        lambda: search_noise(NORMAL, 2, first, budget=0),
        lambda: search_noise(NORMAL, 2, first, budget=10, radius=0.0),
        lambda: search_noise(NORMAL, 2, first, budget=10, neighbours=0),
        lambda: search_paths(NORMAL, 2, first, levels=5, grid="karras:3"),
        lambda: search_paths(NORMAL, 2, first, back=1.0),
        lambda: search_paths(NORMAL, 2, first, width=0),
        lambda: optimise_noise(generator, lambda x: x[:, 0], (2,), gradient="guess"),
        lambda: optimise_noise(generator, lambda x: x[:, 0], (2,), gradient="reinforce", draws=1),
        lambda: optimise_noise(generator, lambda x: x[:, 0].detach(), (2,)),
    ],
)
def test_options_out_of_range_are_refused(make: Any) -> None:
    with pytest.raises(UserError):
        make()
