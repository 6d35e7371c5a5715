"""Particles: the books of their weights, and that problems are strangers to each other."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

import unstir
from unstir.certify import MixtureOracle
from unstir.certify.laws import ClassOracle
from unstir.errors import UserError
from unstir.noise import NoiseSource
from unstir.operator import Diagonal
from unstir.steer import FK, FPS, SVDD, TDS, MCGdiff, Moment, RatioFilter, Steer, Tilt, TiltedCFG
from unstir.steer.particles import ParticlesDied, effective_size, flat, log_mean_exp, systematic

K = 8
LAW = MixtureOracle([0.6, 0.4], [[-1.0, 0.3], [1.2, -0.5]], [[0.4, 0.3], [0.3, 0.5]])
TWO = ClassOracle([0.6, 0.4], [[-1.0, 0.3], [1.2, -0.5]], [[0.4, 0.3], [0.3, 0.5]], [0, 1])
GRID = "log-snr:8,sigma_max=20,sigma_min=0.05"
TARGETS = torch.tensor([[0.6, -0.2], [-0.9, 0.4], [1.4, 0.0]], dtype=torch.float64)


def toward(x: Tensor, condition: Mapping[str, Any] | None) -> Tensor:
    """A reward of its own for each problem: closeness to the condition's ``y``."""
    assert condition is not None
    return -2 * (x - condition["y"]).square().sum(1)


def steers(targets: Tensor) -> dict[str, tuple[Any, Steer]]:
    def by_time(x: Tensor, t: Any, condition: Mapping[str, Any] | None) -> Tensor:
        return toward(x, condition) / (1 + float(t) ** 2)

    operator = Diagonal(torch.tensor([1.0, 0.5], dtype=torch.float64))
    return {
        "fk": (LAW, FK(toward, particles=K)),
        "svdd": (LAW, SVDD(toward, particles=K)),
        "tds": (LAW, TDS(toward, width=0.5, particles=K)),
        "tilt": (LAW, Tilt(by_time, particles=K)),
        "tilt-path": (LAW, Tilt(by_time, kappa=1.0, particles=K)),
        "ratio": (LAW, RatioFilter(by_time, particles=K)),
        "mcgdiff": (LAW, MCGdiff(operator, targets, 0.3, particles=K)),
        "fps": (LAW, FPS(operator, targets, 0.3, particles=K)),
        "tilted-cfg": (TWO, TiltedCFG(2.0, keys=("class",), particles=K)),
    }


def run(name: str, targets: Tensor, **options: Any) -> Any:
    law, steer = steers(targets)[name]
    problems = len(targets)
    condition = {"y": targets.repeat_interleave(K, 0)}
    if name == "tilted-cfg":
        condition["class"] = (targets[:, 0] > 0).long().repeat_interleave(K)
    return unstir.sample(law, problems * K, solver="ancestral", grid=GRID, steers=[steer], condition=condition, seed=3, **options)


@pytest.mark.parametrize("name", steers(TARGETS))
def test_a_problem_is_the_same_alone_in_its_chunk_and_beside_others(name: str) -> None:
    together, apart = run(name, TARGETS), run(name, TARGETS, batch=K)
    assert torch.equal(together.x, apart.x)
    assert together.info.keys() == apart.info.keys()
    for key, value in together.info.items():
        assert len(value) == len(TARGETS)  # one row a problem
        assert torch.equal(value, apart.info[key])


@pytest.mark.parametrize("name", steers(TARGETS))
def test_a_problem_does_not_see_what_others_ask(name: str) -> None:
    other = TARGETS.clone()
    other[1] = torch.tensor([1.1, -2.0])
    a, b = run(name, TARGETS), run(name, other)
    assert torch.equal(a.x[:K], b.x[:K])
    assert torch.equal(a.x[2 * K :], b.x[2 * K :])
    assert not torch.equal(a.x[K : 2 * K], b.x[K : 2 * K])


@pytest.mark.parametrize("name", steers(TARGETS))
def test_no_global_generator_is_touched(name: str) -> None:
    before = torch.get_rng_state()
    run(name, TARGETS[:1])
    assert torch.equal(before, torch.get_rng_state())


class Still:
    """A trajectory that stands still: what is resampled is the state it was given."""

    def __init__(self, x: Tensor) -> None:
        self.x, self.reports, self.moment = x, {}, None

    stochastic = True

    def look(self) -> Tensor:
        return self.x

    def resample(self, index: Tensor) -> Tensor:
        self.x = self.x[index]
        return self.x

    def report(self, name: str, value: Tensor) -> None:
        self.reports[name] = value


def weighed(steer: FK, x: Tensor, rounds: list[Tensor], indices: list[int]) -> Still:
    still, memory, noise = Still(x), {}, NoiseSource(0, indices)
    for number, log_factor in enumerate(rounds):
        last = number == len(rounds) - 1
        row: Any = type("Row", (), {"index": number})()
        moment = Moment(row, x, LAW.process, None, noise, indices, memory, last, still)
        steer.weighted(still.x, moment, log_factor, final=last)
    return still


def test_permuting_problems_permutes_results() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.arange(4 * K, dtype=torch.float64)
    rounds = [2 * torch.randn(4 * K, generator=generator, dtype=torch.float64) for _ in range(3)]
    order = torch.tensor([2, 0, 3, 1])
    places = flat(torch.arange(K).expand(4, K))[order[:, None] * K + torch.arange(K)].flatten()
    first = weighed(FK(toward, particles=K), x, rounds, list(range(4 * K)))
    second = weighed(FK(toward, particles=K), x[places], [r[places] for r in rounds], places.tolist())
    assert torch.equal(first.x[places], second.x)
    assert torch.equal(first.reports["log_evidence"][order], second.reports["log_evidence"])
    assert not torch.equal(first.x, x)


def test_copies_differ_from_their_expectation_by_less_than_one_and_never_revive_the_dead() -> None:
    generator = torch.Generator().manual_seed(1)
    log_weights = 3 * torch.randn(200, 16, generator=generator, dtype=torch.float64)
    log_weights[:, ::3] = -math.inf
    index = systematic(log_weights, torch.rand(200, generator=generator, dtype=torch.float64))
    copies = torch.zeros(200, 16, dtype=torch.float64).scatter_add_(1, index, torch.ones(200, 16, dtype=torch.float64))
    expected = 16 * torch.softmax(log_weights, 1)
    assert (copies - expected).abs().max() < 1 + 1e-9
    assert copies[:, ::3].sum() == 0


def test_systematic_resampling_is_unbiased() -> None:
    log_weights = torch.tensor([[0.3, -1.0, 1.2, -0.4, 0.0]], dtype=torch.float64).expand(4000, 5)
    index = systematic(log_weights, (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000)  # every u once: no chance is left
    copies = torch.bincount(index.flatten(), minlength=5).double() / 4000
    torch.testing.assert_close(copies, 5 * torch.softmax(log_weights[0], 0), rtol=0, atol=5e-4)  # the grid of u is 1/4000


def test_equal_weights_leave_every_particle_in_its_place() -> None:
    index = systematic(torch.zeros(3, 7, dtype=torch.float64), torch.tensor([0.001, 0.5, 0.999], dtype=torch.float64))
    assert torch.equal(index, torch.arange(7).expand(3, 7))


def test_effective_size_and_evidence_of_known_weights() -> None:
    log_weights = torch.log(torch.tensor([[1.0, 1, 1, 1], [4, 0, 0, 0], [2, 2, 0, 0]], dtype=torch.float64))
    torch.testing.assert_close(effective_size(log_weights), torch.tensor([4.0, 1, 2], dtype=torch.float64))
    torch.testing.assert_close(log_mean_exp(log_weights), torch.zeros(3, dtype=torch.float64))  # the mean weight is 1
    huge = effective_size(log_weights + 5000)
    torch.testing.assert_close(huge, torch.tensor([4.0, 1, 2], dtype=torch.float64))  # logarithms do not overflow


def test_the_last_weights_are_applied() -> None:
    """With nothing resampled on the way, the samples are exactly the systematic resample of the unsteered ones by exp(r)."""

    def reward(x: Tensor, _: Any) -> Tensor:
        return 2 * x[:, 0]

    base = unstir.sample(LAW, 64, solver="ancestral", grid=GRID)
    steered = unstir.sample(LAW, 64, solver="ancestral", grid=GRID, steers=[FK(reward, particles=64, threshold=0.0)])
    weights = torch.softmax(reward(base.x, None), 0)
    mean = (weights[:, None] * base.x).sum(0)
    spread = (base.x.amax(0) - base.x.amin(0)) / 64  # copies differ from their expectation by less than one
    assert ((steered.x.mean(0) - mean).abs() < 4 * spread).all()
    assert (steered.x.mean(0) - base.x.mean(0))[0] > 0.5
    assert set(steered.x[:, 0].tolist()) <= set(base.x[:, 0].tolist())
    torch.testing.assert_close(steered.info["log_evidence"], torch.logsumexp(reward(base.x, None)[None], 1) - math.log(64))


def test_a_problem_whose_particles_all_die_is_named() -> None:
    def reward(x: Tensor, condition: Any) -> Tensor:
        return torch.where(condition["y"][:, 0] > 1, -math.inf, 0.0).expand(len(x))

    with pytest.raises(ParticlesDied, match="problem 2 "):
        run_with(FK(reward, particles=K))
    with pytest.raises(ParticlesDied, match="problem 2 "):
        run_with(FK(reward, particles=K), batch=K)
    with pytest.raises(ParticlesDied, match="problem 0 "):
        run_with(SVDD(lambda x, _: torch.full((len(x),), math.nan), particles=K))


def run_with(steer: Steer, **options: Any) -> Any:
    condition = {"y": TARGETS.repeat_interleave(K, 0)}
    return unstir.sample(LAW, 3 * K, solver="ancestral", grid=GRID, steers=[steer], condition=condition, **options)


@pytest.mark.parametrize(
    "make",
    [
        lambda: FK(toward, particles=0),
        lambda: FK(toward, threshold=1.5),
        lambda: FK(toward, potential="product"),
        lambda: FK(toward, scale=math.inf),
        lambda: FK(toward, every=0),
        lambda: SVDD(toward, alpha=0.0),
        lambda: SVDD(toward, particles=True),
        lambda: TDS(toward, width=0.0),
        lambda: Tilt(lambda x, t, c: x[:, 0], kappa=0.7),
        lambda: TiltedCFG(math.nan),
        lambda: MCGdiff(Diagonal(torch.ones(2)), torch.zeros(2), 0.0),
        lambda: MCGdiff(Diagonal(torch.ones(2, dtype=torch.complex64)), torch.zeros(2), 0.1),
    ],
)
def test_options_out_of_range_are_refused(make: Any) -> None:
    with pytest.raises(UserError):
        make()


def test_a_reward_of_the_wrong_shape_is_refused_in_a_sentence() -> None:
    with pytest.raises(UserError, match="one number a sample"):
        run_with(FK(lambda x, _: x, particles=K))
    with pytest.raises(UserError, match="one number a sample"):
        run_with(TDS(lambda x, _: x, particles=K))


def test_a_run_needs_a_whole_number_of_problems() -> None:
    with pytest.raises(UserError):
        unstir.sample(LAW, K + 1, solver="ancestral", grid=GRID, steers=[FK(lambda x, _: x[:, 0], particles=K)])
