"""Counts: Blackout's pure death and Poisson thinning, their bridges and rates, and the exact law of what is sampled."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

import unstir
from unstir.certify import CountOracle, MixtureOracle, checks, count_law
from unstir.certify.distances import total_variation
from unstir.denoiser import TokenDenoiser
from unstir.errors import UserError
from unstir.process import VP, Blackout, Thinning
from unstir.process.counts import binomial, poisson
from unstir.solver import DiscreteAncestral, TauLeaping

PMF = torch.tensor(0.6 * stats.poisson.pmf(range(21), 3) + 0.4 * stats.binom.pmf(range(21), 20, 0.7), dtype=torch.float64)
PMF = PMF / PMF.sum()


def quantiles(count: int) -> Tensor:
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


def equal_levels(process: Blackout, steps: int) -> list[float]:
    """Times of equal steps in survival, from no survival worth the name to the data."""
    return [process.t_max, *(float(process.time_at_alpha(i / steps)) for i in range(1, steps)), 0.0]


def test_blackout_has_the_golden_rate_and_bridge() -> None:
    process = Blackout()
    x, x0 = torch.tensor([[3]]), torch.tensor([[7.0]], dtype=torch.float64)
    assert process.rates(x, x0, 0.8).item() == pytest.approx(3.26386488, abs=5e-9)
    law = process.birth_law(x, x0, math.exp(-0.8), math.exp(-0.3), 6)[0, 0]
    golden = torch.tensor([0.04907371, 0.22076337, 0.37242288, 0.27923071, 0.07850933, 0.0], dtype=torch.float64)
    torch.testing.assert_close(law, golden, rtol=0, atol=5e-9)


def test_the_bridge_is_what_bayes_rule_gives() -> None:
    """p(x_s | x_t, x_0) = p(x_s | x_0) p(x_t | x_s)/p(x_t | x_0), with death between s and t binomial."""
    x0, n, a_t, a_s = 9, 2, 0.2, 0.5
    m = torch.arange(n, x0 + 1)
    joint = stats.binom.pmf(m, x0, a_s) * stats.binom.pmf(n, m, a_t / a_s)
    law = Blackout().birth_law(torch.tensor([n]), torch.tensor([float(x0)]), a_t, a_s, x0 - n + 1)[0]
    torch.testing.assert_close(law, torch.from_numpy(joint / joint.sum()), rtol=1e-10, atol=0)


@pytest.mark.parametrize("x0", [2.0, 5.0, 6.37])
@pytest.mark.parametrize("process", [Blackout(), Thinning(scale=2.0)], ids=lambda p: type(p).__name__)
def test_draws_follow_the_declared_law_of_births(process: Blackout | Thinning, x0: float) -> None:
    """The 20,000 quantiles of the uniform in turn: frequencies are exact to the rounding of one cell."""
    x, u = torch.full((1, 20000), 2), quantiles(20000)[None]
    found = process.ancestral(x, torch.full((1, 20000), x0, dtype=torch.float64), 0.3, 0.6, u)
    law = process.birth_law(torch.tensor([2]), torch.tensor([x0], dtype=torch.float64), 0.3, 0.6, 40)[0]
    frequencies = torch.bincount((found - 2)[0], minlength=40) / 20000
    torch.testing.assert_close(frequencies.double(), law, rtol=0, atol=3 / 20000)
    assert float(law.sum()) == pytest.approx(1, abs=1e-9)


def test_the_mean_of_a_fractional_bridge_is_kept_and_its_bound_too() -> None:
    process, u = Blackout(), quantiles(5000)[None]
    found = process.ancestral(torch.full((1, 5000), 4), torch.full((1, 5000), 6.25, dtype=torch.float64), 0.2, 0.9, u)
    assert found.double().mean().item() == pytest.approx(4 + 2.25 * 0.7 / 0.8, abs=2e-3)
    assert found.min() >= 4
    assert found.max() <= 7
    assert (process.ancestral(torch.tensor([[4]]), torch.tensor([[3.2]]), 0.2, 1.0, torch.tensor([[0.5]])) == 4).all()  # never below x_t


def test_death_and_thinning_compose_exactly() -> None:
    """Markov: thinning to s and then from s to t is thinning to t; for Poisson noise the thinned law is Poisson again."""
    process, t = Thinning(scale=3.0), 0.7
    a_t, a_s, mean = float(process.alpha(t)), float(process.alpha(0.4)), 3.0 * 2.5
    z_s = stats.poisson.pmf(range(80), a_s * mean)
    thinned = sum(p * stats.binom.pmf(range(40), z, a_t / a_s) for z, p in enumerate(z_s))
    torch.testing.assert_close(torch.as_tensor(thinned), torch.as_tensor(stats.poisson.pmf(range(40), a_t * mean)), rtol=1e-9, atol=1e-14)
    x_t = process.perturb(torch.full((1, 8000), 2.5, dtype=torch.float64), t, torch.special.ndtri(quantiles(8000))[None])
    frequencies = torch.bincount(x_t[0], minlength=40) / 8000
    torch.testing.assert_close(frequencies.double(), torch.as_tensor(stats.poisson.pmf(range(40), a_t * mean)), rtol=0, atol=3 / 8000)


def test_perturbed_counts_are_binomial_and_time_may_differ_between_samples() -> None:
    process, times = Blackout(), torch.tensor([0.2, 1.5], dtype=torch.float64)
    x_t = process.perturb(torch.full((2, 8000), 9), times, torch.special.ndtri(quantiles(8000)).expand(2, -1))
    for row, t in zip(x_t, times.tolist(), strict=True):
        expected = torch.as_tensor(stats.binom.pmf(range(10), 9, math.exp(-t)))
        torch.testing.assert_close(torch.bincount(row, minlength=10).double() / 8000, expected, rtol=0, atol=3 / 8000)


def test_inversion_has_no_quantile_below_zero_and_none_infinite() -> None:
    u = torch.tensor([0.0, 1e-300, 1.0], dtype=torch.float64)
    assert binomial(torch.tensor([5.0] * 3), torch.tensor([0.4] * 3), u).tolist() == [0, 0, 5]
    found = poisson(torch.full((3,), 4.0, dtype=torch.float64), u)
    assert found[0] == 0
    assert 0 < found[2] < 60
    assert poisson(torch.zeros(1), torch.tensor([0.9])).item() == 0


def test_the_oracle_is_the_mean_by_enumeration() -> None:
    process, t = Blackout(), 0.7
    joint = PMF * torch.as_tensor(stats.binom.pmf(4, range(21), math.exp(-t)))
    expected = (joint * torch.arange(21)).sum() / joint.sum()
    assert CountOracle(PMF, process)(torch.tensor([[4]]), t).item() == pytest.approx(expected.item(), rel=1e-12)
    thinning = Thinning(scale=2.0)
    joint = PMF * torch.as_tensor(stats.poisson.pmf(4, [2.0 * (1 - t) * k for k in range(21)]))
    expected = (joint * torch.arange(21)).sum() / joint.sum()
    assert CountOracle(PMF, thinning)(torch.tensor([[4]]), t).item() == pytest.approx(expected.item(), rel=1e-12)


def test_blackout_sampling_reaches_the_law_of_the_counts_as_steps_grow() -> None:
    """Exact law of the binomial bridge at the mean: below .03 in total variation at 100 steps, and falling like 1/N."""
    process = Blackout()
    errors = []
    for steps in (25, 50, 100):
        law = count_law(CountOracle(PMF, process), DiscreteAncestral(), equal_levels(process, steps), 22)
        assert float(law.sum()) == pytest.approx(1, abs=1e-9)
        errors.append(float(total_variation(law[:21], PMF)))
    assert errors[2] < 0.03
    assert errors[0] / errors[1] > 1.5
    assert errors[1] / errors[2] > 1.5


def test_samples_of_counts_follow_the_law_that_was_carried() -> None:
    process = Blackout()
    grid = equal_levels(process, 20)
    samples = unstir.sample(CountOracle(PMF, process, (4,)), 800, solver="discrete-ancestral", grid=grid, trace=True)
    assert (samples.path[0] == 0).all()
    assert samples.x.dtype == torch.long
    for before, after in zip(samples.path, samples.path[1:], strict=False):
        assert (after >= before).all()
    for after, estimate in zip(samples.path[1:], samples.estimates, strict=True):
        assert (after <= torch.ceil(estimate - 1e-5)).all()
    law = count_law(CountOracle(PMF, process), DiscreteAncestral(), grid, 22)
    expected, found = 3200 * law, torch.bincount(samples.x.flatten(), minlength=22).double()
    keep = expected > 5
    statistic = float(((found - expected)[keep].square() / expected[keep]).sum())
    assert statistic < int(keep.sum()) + 4 * math.sqrt(2 * int(keep.sum()))


def test_frozen_birth_rates_lag_behind_the_bridge_and_catch_up() -> None:
    """Exact laws of both: tau-leaping is worse at the same steps and of the first order."""
    process, oracle = Blackout(), CountOracle(PMF, Blackout())
    leaping = [float(total_variation(count_law(oracle, TauLeaping(), equal_levels(process, n), 60)[:21], PMF)) for n in (50, 100, 200)]
    bridge = float(total_variation(count_law(oracle, DiscreteAncestral(), equal_levels(process, 50), 60)[:21], PMF))
    assert bridge < leaping[0]
    assert leaping[0] / leaping[1] > 1.5
    assert leaping[1] / leaping[2] > 1.5


@pytest.mark.parametrize("solver", ["discrete-ancestral", "tau-leaping"])
@pytest.mark.parametrize("process", [Blackout(), Thinning(scale=2.0)], ids=lambda p: type(p).__name__)
def test_a_sample_of_counts_does_not_depend_on_its_batch(process: Blackout, solver: str) -> None:
    oracle = CountOracle(PMF, process, (3,))
    assert checks.invariance(oracle, count=5, batches=(1, 2, 5), solver=solver, grid="uniform:6").passed


def wasserstein(law: Tensor, other: Tensor) -> float:
    return float((law.cumsum(0) - other.cumsum(0)).abs().sum())


def negative_binomial(inflated: float) -> Tensor:
    """Sparse and skewed: mean 3 where it is not 0, with an excess of zeros."""
    law = torch.as_tensor(stats.nbinom.pmf(range(41), 1.0, 0.25))
    law = (1 - inflated) * law / law.sum()
    law[0] += inflated
    return law


@pytest.mark.parametrize("inflated", [0.0, 0.5])
def test_jumps_keep_sparse_counts_better_than_rounded_normal_noise(inflated: float) -> None:
    """Thickening, its exact law, beside ancestral sampling under VP on its best grid: exact denoisers, 20 steps each.

    The fraction of zeros is nearer too without excess zeros; with half of the counts 0 normal noise has it to .01 and jumps to .03.
    """
    pmf, steps, process = negative_binomial(inflated), 20, Thinning(scale=4.0)
    levels = torch.logspace(math.log10(0.05 / process.scale), 0, steps, dtype=torch.float64)  # from 0.05 births a unit
    law = count_law(CountOracle(pmf, process), DiscreteAncestral(), [1.0, *(1 - levels[:-1]).tolist(), 0.0], 240)
    assert float(law.sum()) == pytest.approx(1, abs=1e-9)
    jumps, scale = law[:41], float(torch.sqrt((pmf * torch.arange(41.0) ** 2).sum()))
    normal = MixtureOracle(pmf.tolist(), (torch.arange(41.0)[:, None] / scale).tolist(), [[1e-3]] * 41, VP())
    for grid in ("log-snr", "uniform", "quadratic"):
        drawn = unstir.sample(normal, 2000, solver="ancestral", grid=f"{grid}:{steps}").x * scale
        rounded = torch.bincount(drawn.round().clamp(0, 40).long().flatten(), minlength=41).double() / 2000
        assert wasserstein(jumps, pmf) < wasserstein(rounded, pmf)
        if not inflated:
            assert abs(float(jumps[0] - pmf[0])) < abs(float(rounded[0] - pmf[0]))


def test_a_network_says_how_many_are_missing_never_fewer_than_none() -> None:
    class Net(torch.nn.Module):
        def forward(self, x: Tensor, label: Tensor, condition: object) -> Tensor:
            return torch.full(x.shape, -3.0)

    model = TokenDenoiser(Net(), Blackout(), (2,))
    x = torch.tensor([[0, 5]])
    assert (model(x, 1.0) > x).all()
    assert (model(x, 1.0) - x < 0.06).all()
    assert (TokenDenoiser(Net(), Thinning(), (2,))(x, 0.5) > 0).all()


def test_options_are_checked() -> None:
    with pytest.raises(UserError):
        Thinning(scale=0.0)
    with pytest.raises(UserError):
        Blackout(schedule="linear")  # which ends at 1, not at 15
    assert float(Blackout(schedule="linear", t_max=1.0).alpha(1.0)) == 0
