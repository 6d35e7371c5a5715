"""Counts: learning to jump against closed forms, the recursions of Croston and TSB by hand, laws around them, bad input."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from scipy import stats

import unstir
from unstir.denoiser import NetworkDenoiser, TokenDenoiser
from unstir.errors import DataError, UnknownName, UserError
from unstir.nn import MLP
from unstir.noise import NoiseSource
from unstir.plugin.protocols import Case
from unstir.process import VP, Blackout, Thinning
from unstir.train import EMA, DenoisingLoss, Schedule, Trainer
from unstir_timeseries import counts as jumps
from unstir_timeseries import fits
from unstir_timeseries.count_network import CountNetwork, Missing, unsoftplus
from unstir_timeseries.count_windows import Windows
from unstir_timeseries.counts import Jump, draw_counts, levels, train_counts
from unstir_timeseries.demand import counts_of, midpoints, phases
from unstir_timeseries.intermittent import Croston, Empirical, NegativeBinomial, count_quantiles, demand_rates, inverse_size
from unstir_timeseries.panel import LEVELS, panel


def case_of(y: np.ndarray, horizon: int = 7, freq: str = "D", key: str = "shop-1") -> Case:
    """A case whose whole history is ``y``."""
    items, steps = y.shape
    time = pd.date_range("2024-01-01", periods=steps + horizon, freq=freq)
    whole = panel(np.pad(y, ((0, 0), (0, horizon)), constant_values=np.nan), time, [f"sku-{i}" for i in range(items)], freq=freq, season=1)
    history = whole.isel(time=slice(0, steps))
    return Case(key, None, whole.assign_attrs(horizon=horizon), {"horizon": horizon, "context": 28, "training": history})


def sales(items: int = 6, steps: int = 140, seed: int = 0) -> np.ndarray:
    """Negative binomial sales, nothing on Sundays, gaps before the start."""
    rng = np.random.default_rng(seed)
    y = rng.poisson(rng.gamma(0.6, 1 / 0.6, (items, steps)) * np.geomspace(0.3, 6, items)[:, None]).astype(float)
    y[:, 6::7] = 0
    y[0, :20] = np.nan
    return y


# Thinning and thickening


def test_thinned_counts_are_poisson_again_with_the_golden_moments():
    """Mean 177.73 and variance 177.34 of 200,000 draws at lambda 50, x 7, alpha .50785; 40,000 here: four standard errors."""
    source = NoiseSource(0, range(400))
    z0 = Thinning(50.0).perturb(torch.full((400, 100), 7.0), 0.0, source.draw((100,), torch.float64))
    z = Blackout("linear", t_max=1.0).perturb(z0, 1 - 0.50785, source.draw((100,), torch.float64)).double()
    assert pytest.approx(177.7475) == 50 * 7 * 0.50785
    assert z.mean().item() == pytest.approx(177.73, abs=4 * np.sqrt(177.75 * (1 / 40000 + 1 / 200000)))
    assert z.var().item() == pytest.approx(177.34, abs=4 * 177.75 * np.sqrt(2 / 40000 + 2 / 200000))


class GammaPoisson(torch.nn.Module):
    """E[lambda x | z] for x ~ Gamma(a, b) and z ~ Poisson(lambda alpha x)."""

    def __init__(self, a: float, b: float, scale: float) -> None:
        super().__init__()
        self.a, self.b, self.scale = a, b, scale

    def forward(self, x, label, condition=None):
        return unsoftplus(self.scale * (x.double() + self.a) / (self.scale * (1 - label.double()[:, None]) + self.b))


@pytest.mark.parametrize(("a", "scale"), [(1.0, 2.0), (0.4, 1.5)])
def test_the_exact_network_gives_the_negative_binomial_law(a, scale):
    """W1 and the share of zeros, within Monte Carlo error and the bias of 80 steps, of first order (.0035 of zeros, .02 of the mean)."""
    count = 4000
    x = np.asarray(draw_counts(GammaPoisson(a, a, scale), {}, 2, count // 2, times=levels(80))).ravel()
    law = stats.nbinom.pmf(np.arange(200), a, a / (a + scale))
    found = np.bincount(x, minlength=200) / count
    cumulative = law.cumsum()
    noise = np.sqrt(cumulative * (1 - cumulative) / count).sum()
    assert np.abs((found - law).cumsum()).sum() < 2 * noise + 0.02 * scale  # the mean of W1 is .8 of the sum of deviations
    assert found[0] == pytest.approx(law[0], abs=4 * np.sqrt(law[0] * (1 - law[0]) / count) + 0.006)


def exact_law(a: float, scale: float, steps: int, size: int = 160) -> np.ndarray:
    """The law of thickening with the exact network, carried from step to step."""
    z, law = np.arange(size), np.eye(size)[0]
    alpha = [1 - t for t in levels(steps)]
    for begin, end in zip(alpha, alpha[1:], strict=False):
        births = scale * (z + a) / (scale * begin + a) * (end - begin)
        law = law @ stats.poisson.pmf(z[None] - z[:, None], births[:, None])
    return law


def test_the_bias_of_thickening_is_of_the_first_order_and_takes_zeros_away():
    """Gamma-Poisson of dispersion 1 at two sales a step: .007 of zeros at 40 steps, halved with every doubling."""
    truth = 1 / 3
    errors = [exact_law(1.0, 2.0, steps)[0] - truth for steps in (10, 20, 40, 80)]
    assert all(error < 0 for error in errors)
    assert errors[2] == pytest.approx(-0.007, abs=5e-4)
    for coarse, fine in zip(errors, errors[1:], strict=False):
        assert coarse / fine == pytest.approx(2, abs=0.15)  # the next order of 1/N


def test_an_untrained_network_is_the_law_of_geometric_counts():
    network = CountNetwork(width=8, depth=1)
    z, label, scale = torch.tensor([[0, 3, 40]]), torch.tensor([0.25]), torch.tensor([[2.0]])
    rate = torch.nn.functional.softplus(network(z, label, {"scale": scale}))
    torch.testing.assert_close(rate, 2 * (z + 1) / (2 * 0.75 + 1), rtol=1e-3, atol=0)  # the floor of 1e-4 below the line


def test_what_died_is_what_the_rate_still_owes():
    """Under pure death the belief is z + t r: the same rate of births as thickening, whatever the network."""
    torch.manual_seed(0)
    network = CountNetwork(width=8, depth=1)
    torch.nn.init.normal_(network.leave.weight)
    z, t, told = torch.tensor([[0, 3, 40]]), 0.3, {"scale": torch.tensor([[2.0]])}
    thin, death = TokenDenoiser(network, Thinning(), (3,)), TokenDenoiser(Missing(network), Blackout("linear", t_max=1.0), (3,))
    rates = thin.process.rates(z, thin(z, t, told), t), death.process.rates(z, death(z, t, told), t)
    torch.testing.assert_close(*rates, rtol=1e-4, atol=1e-6)  # float32, and z + t r - z at z = 40


def test_the_softplus_is_undone_from_tiny_to_large():
    value = torch.tensor([1e-30, 1e-3, 1.0, 30.0, 1e4])
    torch.testing.assert_close(torch.nn.functional.softplus(unsoftplus(value))[1:], value[1:], rtol=1e-5, atol=0)
    assert torch.isfinite(unsoftplus(torch.zeros(1))).all()


def test_a_network_says_what_it_needs():
    network = CountNetwork(profile=2, facts=3, context=4, width=8, depth=1)
    with pytest.raises(UserError, match="profile and facts and history"):
        network(torch.zeros(1, 5), torch.zeros(1), {"scale": torch.ones(1, 1)})


# Row 132 of the methods


def law_of(inflated: float) -> np.ndarray:
    law = (1 - inflated) * stats.nbinom.pmf(np.arange(60), 1.0, 0.25)
    law[0] += inflated
    return law / law.sum()


def distances(found: np.ndarray, law: np.ndarray) -> tuple[float, float]:
    """W1, and the error of the share of zeros."""
    share = np.bincount(np.clip(found, 0, 59), minlength=60) / len(found)
    return float(np.abs((share - law).cumsum()).sum()), abs(float(share[0] - law[0]))


def jumped(law: np.ndarray, updates: int, steps: int, count: int) -> np.ndarray:
    scale = torch.full((1, 1), float((law * np.arange(60)).sum()))

    def batches(step, rng):
        x0 = torch.from_numpy(rng.choice(60, size=(128, 1), p=law))
        return {"x0": x0, "condition": {"scale": scale, "present": torch.ones(128, 1, dtype=torch.bool)}}

    torch.manual_seed(0)
    network = train_counts(CountNetwork(width=16, depth=1), batches, 1, updates=updates, rate=4e-3)
    return np.asarray(draw_counts(network, {"scale": scale}, 1, count, times=levels(steps)))[:, 0]


def rounded(law: np.ndarray, updates: int, steps: int, count: int, folder) -> np.ndarray:
    mean = (law * np.arange(60)).sum()
    spread = np.sqrt((law * (np.arange(60) - mean) ** 2).sum())

    def batches(step, rng):
        return {"x0": torch.from_numpy((rng.choice(60, size=(128, 1), p=law) - mean) / spread).float()}

    torch.manual_seed(0)
    denoiser = NetworkDenoiser(MLP(1, 32, 2), VP(), shape=(1,), parameterisation="eps")
    schedule = Schedule(4e-3, warmup=min(100, updates), decay=updates // 2, last=0.01)
    trainer = Trainer(denoiser, batches, DenoisingLoss(), updates, schedule, {"ema": EMA(decay=0.99)}, accelerator="cpu", every=updates)
    trainer.run(folder)
    denoiser.network.load_state_dict(trainer.averages["ema"].weights())
    drawn = np.asarray(unstir.sample(denoiser, count, solver="ancestral", grid=f"quadratic:{steps}"))[:, 0]
    return np.clip(np.rint(drawn * spread + mean), 0, None).astype(int)


@pytest.mark.slow
@pytest.mark.parametrize("inflated", [0.0, 0.5])
def test_jumps_keep_sparse_laws_better_than_rounded_normal_noise(tmp_path, inflated):
    """Both trained alike (400 updates of 128 counts), 20 evaluations a sample; normal noise on the best of three grids, quadratic.

    Measured, W1 and error of the zeros: negative binomial .10 and .02 beside .31 and .04 (600 updates; another seed .07 and .01 beside .26
    and .03); with half of the counts 0 besides, .08 and .023 beside .18 and .010. So excess zeros are kept better by normal noise, and at
    500 evaluations it has .06 and .01 of the first law, which is what as many exact draws have: jumps need fewer steps, no more.
    """
    law = law_of(inflated)
    ours, theirs = distances(jumped(law, 300, 20, 3000), law), distances(rounded(law, 300, 20, 3000, tmp_path), law)
    assert ours[0] < 0.7 * theirs[0]
    assert ours[1] < (0.05 if inflated else theirs[1])


# A forecaster


def test_jumps_forecast_whole_numbers_and_repeat_them(cache):
    case, method = case_of(sales()), Jump(samples=8, steps=6, updates=3, batch=8, width=8, depth=1)
    estimate = method(case, None, 1)
    paths = estimate.data["samples"]
    assert paths.dims == ("item", "sample", "time")
    assert paths.shape == (6, 8, 7)
    assert paths.dtype == np.float32
    assert (paths.values == np.round(paths.values)).all()
    assert (paths.values >= 0).all()
    assert estimate.data["quantiles"].shape == (6, len(LEVELS), 7)
    assert estimate.nfe == 8 * 6
    np.testing.assert_array_equal(method(case, None, 1).data["samples"], paths)
    assert (method(case, None, 2).data["samples"].values != paths.values).any()


def test_a_fit_is_made_once_and_read_again(cache, monkeypatch):
    case, method = case_of(sales()), Jump(samples=4, steps=3, updates=2, batch=4, width=8, depth=1)
    first = method(case, None, 0).data["samples"]
    assert len(list((cache / "fits").glob("jump-*.safetensors"))) == 1
    monkeypatch.setattr(jumps, "train_counts", lambda *args, **kwargs: pytest.fail("it was fitted again"))
    method(case, None, 0)
    fits.forget()
    np.testing.assert_array_equal(method(case, None, 0).data["samples"], first)


def test_a_fit_looks_at_nothing_after_the_first_origin(cache):
    """Another past of the case changes the forecast, not the fit."""
    y = sales()
    case, method = case_of(y), Jump(samples=4, steps=3, updates=2, batch=4, width=8, depth=1)
    weights = method.fit(case, 7).leave.weight
    later = case_of(np.pad(y, ((0, 0), (0, 7)), constant_values=9.0))
    later.context["training"] = case.context["training"]
    torch.testing.assert_close(method.fit(later, 7).leave.weight, weights, rtol=0, atol=0)


@pytest.mark.slow
def test_training_finds_the_weekday_the_level_and_the_dispersion(cache):
    """Simulated sales, nothing on Sundays, items 20-fold apart: beside the law that made them, after 300 updates."""
    rng = np.random.default_rng(0)
    rate = np.geomspace(0.3, 6, 24)[:, None] * np.ones(280)
    rate[:, 6::7] = 0
    y = rng.poisson(rng.gamma(0.6, 1 / 0.6, rate.shape) * rate).astype(float)
    paths = Jump(samples=60, steps=30, updates=300, batch=32, width=16, depth=1, rate=4e-3)(case_of(y), None, 0).data["samples"].values
    sunday = 6 - 280 % 7
    assert (paths[:, :, sunday] == 0).mean() > 0.95  # structural zeros, learnt
    open_days = np.delete(paths, sunday, axis=2)
    made = stats.nbinom.pmf(0, 0.6, 0.6 / (0.6 + rate[:, 0]))
    assert (open_days == 0).mean() == pytest.approx(made.mean(), abs=0.05)
    level = open_days.mean((1, 2)) / rate[:, 0]
    assert np.median(level) == pytest.approx(1, abs=0.2)  # the mean of 56 days of such sales is known to .2
    assert level.std() < 0.5


def test_windows_know_only_what_came_before_them():
    y = sales()
    place = np.arange(140) % 7
    before, after = Windows(y, place, 7, 28), Windows(np.where(np.arange(140) < 100, y, 77.0), place, 7, 28)
    items, ends, future = np.arange(1, 6), np.full(5, 100), np.tile(place[100:107], (5, 1))
    for name, value in before.told(items, ends, future).items():
        torch.testing.assert_close(after.told(items, ends, future)[name], value, rtol=0, atol=0)
        assert torch.isfinite(value).all()


def test_windows_of_training_lie_within_the_series_and_say_what_was_observed():
    y = sales()
    y[2, 50:60] = np.nan
    batch = Windows(y, np.arange(140) % 7, 7, 28).batch(np.random.default_rng(0), 200, 14)
    assert batch["x0"].shape == (200, 14)
    assert batch["x0"].dtype == torch.long
    assert not batch["condition"]["present"].all()
    assert (batch["x0"][~batch["condition"]["present"]] == 0).all()
    assert (batch["condition"]["scale"] > 0).all()


# Croston, TSB, laws


def test_the_recursions_of_croston_sba_and_tsb_by_hand():
    """Sales 0 3 0 0 5 at alpha .5: size 3 then 4, interval 2 then 2.5; chance 1/2, 1/4, 1/8, then 9/16."""
    y = np.array([[0.0, 3, 0, 0, 5]])
    np.testing.assert_allclose(demand_rates(y, 0.5)[0], [np.nan, np.nan, 1.5, 1.5, 1.5, 1.6])
    np.testing.assert_allclose(demand_rates(y, 0.5, "sba")[0, 2:], np.array([1.5, 1.5, 1.5, 1.6]) * 0.75)
    np.testing.assert_allclose(demand_rates(y, 0.5, "tsb")[0, 2:], [1.5, 0.75, 0.375, 4 * 9 / 16])


def test_steps_without_observation_change_no_rate():
    y, gaps = np.array([[0.0, 3, 0, 0, 5]]), np.array([[0.0, np.nan, 3, 0, np.nan, np.nan, 0, 5]])
    for variant in ("croston", "tsb"):
        np.testing.assert_allclose(demand_rates(gaps, 0.5, variant)[0, -1], demand_rates(y, 0.5, variant)[0, -1])


def test_moments_of_a_negative_binomial_law_are_found_and_its_quantiles_are_its_own():
    rng = np.random.default_rng(0)
    y = rng.negative_binomial(0.5, 0.5 / 4.5, (1, 40000)).astype(float)  # mean 4, 1/r = 2
    assert inverse_size(y, np.full_like(y, 4.0))[0] == pytest.approx(2, rel=0.1)  # the fourth moment's error at 40,000 draws is .04
    assert inverse_size(np.full((1, 9), 4.0), np.full((1, 9), 4.0))[0] == 0  # less spread than Poisson
    found = count_quantiles(np.array([[4.0, 0.0]]), np.array([2.0]), LEVELS)[0]
    np.testing.assert_array_equal(found[:, 0], stats.nbinom.ppf(LEVELS, 0.5, 0.5 / 4.5))
    np.testing.assert_array_equal(found[:, 1], 0)
    np.testing.assert_array_equal(count_quantiles(np.array([[4.0]]), np.array([0.0]), LEVELS)[0, :, 0], stats.poisson.ppf(LEVELS, 4.0))


def test_empirical_quantiles_are_counts_that_were_sold():
    y = np.array([[np.nan, 0, 0, 0, 0, 0, 2, 2, 9, 0, 0]])
    estimate = Empirical(samples=10, last=11)(case_of(y, 2), None, 0)
    np.testing.assert_array_equal(np.sort(estimate.data["samples"][0, :, 0]), [0] * 7 + [2, 2, 9])
    assert estimate.data["quantiles"].sel(level=0.8, item="sku-0").values.tolist() == [2.0, 2.0]
    assert estimate.data["quantiles"].sel(level=0.95, item="sku-0").values.tolist() == [9.0, 9.0]


def test_a_weekday_without_sales_stays_without():
    y = sales(4, 140)
    sunday = 6
    for method in (Empirical(last=140, weekday=True), NegativeBinomial(last=140), Croston(alpha=0.1)):
        samples = method(case_of(y), None, 0).data["samples"]
        assert (samples[:, :, sunday] == 0).all()
        assert (samples[-1, :, :6] > 0).any()


@pytest.mark.parametrize("method", [Empirical(), NegativeBinomial(), Croston(), Croston(variant="sba", law="poisson")], ids=repr)
def test_what_is_left_open_is_chosen_before_the_first_origin(method):
    case = case_of(sales())
    estimate = method(case, None, 0)
    assert estimate.info["option"] in method.candidates
    assert estimate.data["samples"].shape == (6, 100, 7)
    later = case_of(np.pad(sales(), ((0, 0), (0, 7)), constant_values=50.0))
    later.context["training"] = case.context["training"]
    assert method(later, None, 0).info["option"] == estimate.info["option"]


def test_paths_carry_their_law_without_noise():
    """Quantiles of 200 paths are those of the law within one path; steps are shuffled apart."""
    y = np.tile(np.random.default_rng(0).poisson(20.0, 300).astype(float), (2, 1))
    samples = NegativeBinomial(samples=200, last=300, seasonal=False)(case_of(y), None, 0).data["samples"].values
    law = np.sort(samples[0, :, 0])
    np.testing.assert_array_equal(np.sort(samples[0, :, 3]), law)
    assert abs(np.corrcoef(samples[0, :, 0], samples[0, :, 3])[0, 1]) < 0.3  # four standard errors of 200 independent pairs
    assert midpoints(2) == (0.25, 0.75)


def test_seasons_are_those_of_the_calendar():
    days = pd.date_range("2024-01-03", periods=3, freq="D")  # a Wednesday
    np.testing.assert_array_equal(phases(days.values, "D", 1)[0], [2, 3, 4])
    hours = pd.date_range("2024-01-03 22:00", periods=3, freq="h")
    np.testing.assert_array_equal(phases(hours.values, "h", 24)[0], [22, 23, 0])
    assert phases(hours.values, "20min", 5)[1] == 5


# Bad input


EVERY = [Empirical(last=28), NegativeBinomial(last=28), Croston(alpha=0.1), Jump(samples=2, steps=2, updates=1, batch=2, width=4, depth=1)]


@pytest.mark.parametrize("method", EVERY, ids=lambda method: type(method).__name__)
@pytest.mark.parametrize(("value", "kind"), [(-1.0, "negative"), (0.5, "no whole number"), (np.inf, "infinite")])
def test_what_is_no_count_is_refused_in_one_sentence(cache, method, value, kind):
    y = sales()
    y[2, 30] = value
    with pytest.raises(DataError, match=f"sku-2 is .* at 2024-01-31 00:00:00, which is {kind}"):
        method(case_of(y), None, 0)


@pytest.mark.parametrize("method", EVERY, ids=lambda method: type(method).__name__)
def test_an_item_that_never_sold_is_forecast_to_be_zero_and_said(cache, method):
    y = sales()
    y[1], y[3] = 0.0, np.nan
    estimate = method(case_of(y), None, 0)
    for item in (1, 3):
        assert (estimate.data["samples"][item] == 0).all()
        assert (estimate.data["quantiles"][item] == 0).all()
    assert estimate.info["said"] == ["nothing was sold of sku-1, sku-3 before shop-1: the forecast is 0"]
    assert np.isfinite(estimate.data["samples"].values).all()


def test_a_panel_too_short_to_learn_from_is_refused(cache):
    with pytest.raises(DataError, match="counts cannot be learnt from a training panel of 12 steps"):
        Jump(updates=1)(case_of(sales(3, 12), 7), None, 0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Jump(samples=1), "samples must be at least 2"),
        (lambda: Jump(spacing=0), "spacing and rate must be positive"),
        (lambda: Empirical(last=-1), "last must be at least 0"),
        (lambda: NegativeBinomial(last=-1), "last must be at least 0"),
        (lambda: Croston(alpha=1.5), "alpha must lie in"),
        (lambda: Croston(samples=1), "samples must be at least 2"),
    ],
)
def test_options_are_checked(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_an_unknown_variant_lists_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'croston'"):
        Croston(variant="crostn")


def test_counts_pass_as_they_are_with_their_gaps():
    y = np.array([[1.0, np.nan, 0.0]])
    whole = xr.Dataset({"y": (("item", "time"), y)}, {"item": ["a"], "time": pd.date_range("2024", periods=3)})
    np.testing.assert_array_equal(counts_of(whole), y)
