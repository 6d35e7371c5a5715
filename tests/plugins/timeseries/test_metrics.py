"""Forecast scores: goldens of GluonTS 0.17, closed forms, masks, the parts that intervals are made from, bad input."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from unstir.errors import DataError, UserError
from unstir.plugin.protocols import Case, Estimate
from unstir_timeseries import calibration, metrics, scores
from unstir_timeseries.panel import LEVELS, NINE, forecast, horizon_of, panel, sample_quantiles

A = np.array([[9, 10, 12], [11, 10, 13], [10, 12, 11], [8, 9, 14], [12, 11, 15]], dtype=float)
B = np.array([[90, 80, 70], [100, 95, 85], [110, 105, 60], [95, 100, 75], [105, 90, 80]], dtype=float)
GOLDEN = np.stack([A, B])
TARGET = np.array([[10, 11, 12], [100, 90, 100]], dtype=float)
PAST = np.array([[8, 9, 10, 9, 8, 10, 11, 9], [100, 110, 90, 95, 105, 100, 98, 97]], dtype=float)
EVERY = [metrics.CRPS(), metrics.SampleCRPS(), metrics.ND(), metrics.NRMSE(), metrics.MASE(), metrics.MSIS(), metrics.SMAPE()]
EVERY += [metrics.Coverage(), metrics.Width(), metrics.PIT(), metrics.EnergyScore(), metrics.VariogramScore(), metrics.ZeroShare()]


def window(y, past, samples=None, quantiles=None, key="w", season=1):
    """One window with its forecast; y (items, steps), past (items, history), samples (items, samples, steps)."""
    y, past = np.asarray(y, dtype=float), np.asarray(past, dtype=float)
    time = pd.date_range("2020-01-01", periods=past.shape[1] + y.shape[1], freq="h")
    items = [f"series-{i}" for i in range(len(y))]
    seen = panel(np.concatenate([past, np.full(y.shape, np.nan)], 1), time, items, freq="h", season=season, attrs={"horizon": y.shape[1]})
    truth = panel(y, time[past.shape[1] :], items, freq="h", season=season)
    made = forecast(horizon_of(seen), samples=samples, quantiles=quantiles)
    return Estimate(made), Case(key, truth[["y"]], seen, {"season": season, "horizon": y.shape[1]})


def gaussian_windows(count=8, items=3, steps=6, seed=0, spread=1.0, samples=200):
    """Independent normal targets around 10 with samples of spread times their deviation."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        y, past = 10 + rng.standard_normal((items, steps)), 10 + rng.standard_normal((items, 30))
        made.append(window(y, past, 10 + spread * rng.standard_normal((items, samples, steps)), key=f"w{i}"))
    return made


def value(metric, pairs, key=None):
    found = metric.over(pairs)
    assert list(found) == [info.key for info in metric.describe()]
    return found[key or next(iter(found))].value


def combined(score):
    parts = np.array(score.parts)
    return math.sqrt((parts**2).mean()) if score.combine == "rms" else parts.mean()


# ---------------------------------------------------------------- goldens


def test_quantile_losses_of_golden_a_are_gluonts_to_the_printed_digits():
    quantiles = sample_quantiles(GOLDEN, NINE, axis=1)
    expected = [0.040248, 0.045820, 0.068731, 0.086687, 0.099071, 0.111455, 0.120124, 0.121362, 0.102786]
    np.testing.assert_allclose(scores.quantile_losses(quantiles, TARGET, NINE), expected, atol=5e-7)
    assert scores.weighted_quantile_loss(quantiles, TARGET, NINE) == pytest.approx(0.088476092, abs=5e-10)
    assert np.abs(TARGET).sum() == 323


def test_crps_and_point_errors_of_golden_a_are_gluonts_to_nine_digits():
    pairs = [window(TARGET, PAST, GOLDEN)]
    assert value(metrics.CRPS(), pairs) == pytest.approx(0.088476092, abs=5e-10)
    assert value(metrics.ND(), pairs) == pytest.approx(0.099071207, abs=5e-10)
    assert value(metrics.NRMSE(), pairs) == pytest.approx(0.199688242, abs=5e-10)
    assert value(metrics.MASE(), pairs) == pytest.approx(0.919636618, abs=5e-10)
    assert value(metrics.MSIS(), pairs) == pytest.approx(16.174353599, abs=5e-10)
    assert value(metrics.SMAPE(), pairs) == pytest.approx(0.085834406, abs=5e-10)


def test_functions_of_golden_a_agree_with_the_classes():
    quantiles = sample_quantiles(GOLDEN, NINE, axis=1)
    error = scores.seasonal_error(PAST, 1)
    np.testing.assert_allclose(error, [1.285714, 7.571429], atol=5e-7)
    np.testing.assert_allclose(scores.mase(quantiles[:, 4], TARGET, error), [0.518519, 1.320755], atol=5e-7)
    assert scores.nd(quantiles[:, 4], TARGET) == pytest.approx(0.099071207, abs=5e-10)
    assert scores.nrmse(GOLDEN.mean(1), TARGET) == pytest.approx(0.199688242, abs=5e-10)
    assert scores.smape(quantiles[:, 4], TARGET).mean() == pytest.approx(0.085834406, abs=5e-10)


def test_coverage_of_golden_a_is_gluonts_and_its_mean_error_is_of_each_level_with_itself():
    """GluonTS's .348148 compares the last level's coverage with all nine levels; a level with itself gives 1/9."""
    quantiles = sample_quantiles(GOLDEN, NINE, axis=1)
    found = np.array([scores.coverage(quantiles[:, i], TARGET) for i in range(9)])
    np.testing.assert_allclose(found, [0, 0.3333, 0.3333, 0.6667, 0.6667, 0.6667, 0.8333, 0.8333, 0.8333], atol=5e-5)
    assert np.abs(found[-1] - np.array(NINE)).mean() == pytest.approx(0.348148, abs=5e-7)
    assert value(metrics.Coverage(), [window(TARGET, PAST, GOLDEN)], "coverage-error") == pytest.approx(1 / 9)


def test_golden_b_a_hundred_normal_quantiles_of_two_steps():
    samples = np.repeat(norm.ppf((np.arange(100) + 0.5) / 100)[None, :, None], 2, axis=2)
    y = np.array([[0.3, -1.2]])
    assert scores.weighted_quantile_loss(sample_quantiles(samples, NINE, axis=1), y, NINE) == pytest.approx(0.739628404, abs=5e-10)
    assert value(metrics.CRPS(), [window(y, np.arange(8.0)[None], samples)]) == pytest.approx(0.739628404, abs=5e-10)


def test_sample_crps_of_golden_a_in_both_forms():
    np.testing.assert_allclose(scores.crps_samples(A, TARGET[0], fair=False), [0.40, 0.44, 0.60], atol=1e-12)
    np.testing.assert_allclose(scores.crps_samples(A, TARGET[0]), [0.20, 0.30, 0.40], atol=1e-12)


# ---------------------------------------------------------------- closed forms


def test_both_crps_of_a_perfect_gaussian_are_their_closed_forms():
    """Numerators .6173185 sigma (nine quantiles) and sigma / sqrt(pi); the mean over a fine grid of y's law has no sampling error."""
    y = norm.ppf((np.arange(20000) + 0.5) / 20000)[None]
    quantiles = np.repeat(norm.ppf(NINE)[None, :, None], y.shape[1], axis=2)
    assert np.mean(scores.pinball(quantiles, y, NINE)) == pytest.approx(0.6173185, abs=2e-5)  # tails of the grid
    levels = np.repeat(norm.ppf(LEVELS)[None, :, None], y.shape[1], axis=2)
    exact = 1 / math.sqrt(math.pi)
    assert np.mean(scores.crps_quantiles(levels, y, LEVELS)) == pytest.approx(exact, rel=0.03)  # what the metric's definition says
    drawn = norm.ppf((np.arange(400) + 0.5) / 400)[:, None].repeat(y.shape[1], 1)
    assert np.mean(scores.crps_samples(drawn, y[0], fair=False)) == pytest.approx(exact, rel=0.005)


def test_the_fair_crps_does_not_depend_on_the_number_of_samples():
    rng = np.random.default_rng(0)
    y = rng.standard_normal(40000)
    few, many = (scores.crps_samples(rng.standard_normal((count, 40000)), y).mean() for count in (4, 64))
    assert few == pytest.approx(many, abs=0.012)  # four standard errors: sd .6 / sqrt(40000)
    assert many == pytest.approx(1 / math.sqrt(math.pi), abs=0.012)


def test_crps_of_a_point_forecast_is_its_nd():
    rng = np.random.default_rng(1)
    y, past = rng.random((3, 5)) + 1, rng.random((3, 20))
    point = np.repeat(rng.random((3, 1, 5)), len(LEVELS), axis=1)
    pairs = [window(y, past, quantiles=point)]
    assert value(metrics.CRPS(), pairs) == pytest.approx(value(metrics.ND(), pairs), rel=1e-12)


@pytest.mark.parametrize("dimension", [1, 5])
def test_energy_score_is_the_double_sum(dimension):
    rng = np.random.default_rng(2)
    samples, y = rng.standard_normal((2, 7, dimension)), rng.standard_normal((2, dimension))
    for i in range(2):
        first = np.mean([np.linalg.norm(x - y[i]) for x in samples[i]])
        second = sum(np.linalg.norm(a - b) for a in samples[i] for b in samples[i]) / (2 * 7 * 6)
        assert scores.energy_score(samples, y)[i] == pytest.approx(first - second, rel=1e-9)
    if dimension == 1:
        np.testing.assert_allclose(scores.energy_score(samples, y), scores.crps_samples(samples, y)[:, 0], rtol=1e-9)


def test_variogram_score_is_the_double_sum_and_does_not_see_a_common_shift():
    rng = np.random.default_rng(3)
    samples, y = rng.standard_normal((1, 9, 4)), rng.standard_normal((1, 4))
    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    expected = np.mean(
        [(abs(y[0, i] - y[0, j]) ** 0.5 - np.mean(np.abs(samples[0, :, i] - samples[0, :, j]) ** 0.5)) ** 2 for i, j in pairs]
    )
    assert scores.variogram_score(samples, y)[0] == pytest.approx(expected, rel=1e-12)
    assert scores.variogram_score(samples + 7, y)[0] == pytest.approx(expected, rel=1e-9)


def test_variogram_and_energy_scores_see_lost_dependence_that_crps_does_not():
    """Shuffling each step's samples keeps every marginal: the CRPS stays to the bit, the scores of paths get worse."""
    rng = np.random.default_rng(4)
    pairs, broken = [], []
    for i in range(12):
        walk = lambda n: 10 + np.cumsum(rng.standard_normal((n, 3, 12)), axis=2)  # noqa: E731
        y, samples = walk(1)[0], np.moveaxis(walk(100), 0, 1)
        pairs.append(window(y, np.ones((3, 4)).cumsum(1), samples, key=f"w{i}"))
        broken.append(window(y, np.ones((3, 4)).cumsum(1), rng.permuted(samples, axis=1), key=f"w{i}"))
    assert value(metrics.CRPS(), broken) == value(metrics.CRPS(), pairs)
    assert value(metrics.VariogramScore(), broken) > 1.2 * value(metrics.VariogramScore(), pairs)
    assert value(metrics.EnergyScore(), broken) > value(metrics.EnergyScore(), pairs)


def test_seasonal_error_takes_the_whole_past_and_falls_to_one_where_it_is_short():
    past = np.array([np.arange(10.0) * 2, np.r_[np.full(6, np.nan), 1.0, 2.0, 4.0, 8.0]])
    np.testing.assert_allclose(scores.seasonal_error(past, 4), [8.0, 7 / 3])  # the second has four steps only: m = 1
    np.testing.assert_allclose(scores.seasonal_error(past[:1, :4], 4), [2.0])
    holes = np.array([[0.0, np.nan, 2.0, 3.0]])
    np.testing.assert_allclose(scores.seasonal_error(holes, 1), [1.0])
    assert np.isnan(scores.seasonal_error(np.array([[np.nan, 5.0]]), 1)).all()


# ---------------------------------------------------------------- calibration


def test_coverage_and_pit_of_the_right_law_are_right():
    pairs = gaussian_windows(40, 10, 10)
    found = metrics.Coverage().over(pairs)
    for name in (50, 80, 90):
        p, n = name / 100, 4000
        assert found[f"coverage-{name}"].value == pytest.approx(name, abs=100 * 4 * math.sqrt(p * (1 - p) / n) + 1)  # 200 samples: 1
    assert value(metrics.PIT(), pairs) < 0.015  # sd of a share over 4000 targets is .008
    assert value(metrics.PIT(), gaussian_windows(40, 10, 10, spread=0.4)) > 0.08
    assert value(metrics.PIT(), gaussian_windows(40, 10, 10, spread=3.0)) > 0.08


def test_pit_distance_of_degenerate_laws_is_its_closed_form():
    everywhere = (np.zeros(50), np.ones(50))
    assert scores.pit_distance(everywhere) == pytest.approx(0.0, abs=1e-12)
    middle = (np.full(50, 0.5 - 1e-9), np.full(50, 0.5 + 1e-9))
    assert scores.pit_distance(middle) == pytest.approx(0.25, abs=1e-3)  # the midpoint rule of 400 points
    np.testing.assert_allclose(scores.pit_histogram(everywhere, 5), 0.2)


def test_randomised_pit_of_counts_is_uniform_and_its_histogram_is_the_mean_over_draws():
    rng = np.random.default_rng(5)
    y, samples = rng.poisson(0.7, (1, 20000)).astype(float), rng.poisson(0.7, (1, 30, 20000)).astype(float)
    bounds = scores.pit_bounds(y, samples=samples)
    drawn = scores.pit(bounds, rng)
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    np.testing.assert_allclose(scores.pit_histogram(bounds), 0.1, atol=0.01)  # four standard errors of a share: .0085
    np.testing.assert_allclose(np.histogram(drawn, 10, (0, 1))[0] / 20000, scores.pit_histogram(bounds), atol=0.01)


def test_pit_from_quantiles_agrees_with_pit_from_samples():
    rng = np.random.default_rng(6)
    y = rng.standard_normal((1, 5000)) * 1.5
    quantiles = np.repeat(norm.ppf(LEVELS)[None, :, None], 5000, axis=2)
    samples = rng.standard_normal((1, 400, 5000))
    a = scores.pit_distance(scores.pit_bounds(y, quantiles=quantiles, levels=LEVELS))
    assert a == pytest.approx(scores.pit_distance(scores.pit_bounds(y, samples=samples)), abs=0.01)
    with pytest.raises(DataError, match="samples or quantiles"):
        scores.pit_bounds(y)


def test_coverage_bars_count_windows_not_steps():
    pairs = gaussian_windows(25, 4, 8)
    curve = calibration.coverage_curve(pairs)
    assert list(curve["level"]) == list(LEVELS)
    low, high = scores.binomial_bar(float(curve["share"][7]), 25)
    assert (curve["low"][7], curve["high"][7]) == pytest.approx((low, high))
    assert 0.3 < high - low < 0.4  # 2 * 1.96 * sqrt(.25 / 25) = .39, shrunk by Wilson
    assert scores.binomial_bar(0.0, 20)[0] == pytest.approx(0, abs=1e-12)
    assert scores.binomial_bar(0.0, 20)[1] == pytest.approx(1.96**2 / (20 + 1.96**2))


def test_the_width_is_that_of_the_middle_eighty_percent():
    quantiles = np.repeat(norm.ppf(LEVELS, loc=10)[None, :, None], 6, axis=2)
    pairs = [window(np.full((1, 6), 10.0), np.arange(8.0)[None], quantiles=quantiles)]
    assert value(metrics.Width(), pairs) == pytest.approx((norm.ppf(0.9) - norm.ppf(0.1)) / 10)


def test_zero_share_compares_probabilities_with_zeros():
    y = np.array([[0.0, 0.0, 1.0, 3.0]])
    samples = np.array([[[0.0, 0, 0, 0], [0.2, 1, 0, 2], [0, 0, 2, 1], [0, 1, 1, 1]]])
    pairs = [window(y, np.arange(8.0)[None], samples)]
    assert value(metrics.ZeroShare(), pairs) == pytest.approx(abs((1 + 0.5 + 0.5 + 0.25) / 4 - 0.5))
    quantiles = np.where(np.array(LEVELS)[None, :, None] <= 0.5, 0.0, 1.0) * np.ones((1, 1, 4))
    assert value(metrics.ZeroShare(), [window(y, np.arange(8.0)[None], quantiles=quantiles)]) == pytest.approx(0.05)  # .55 less .5


# ---------------------------------------------------------------- pooling and parts


def test_combining_the_parts_gives_the_value_and_parts_are_windows_from_five_on():
    for count, expected in ((8, 8), (3, 3)):
        pairs = gaussian_windows(count, 3 if count == 3 else 4)
        for metric in EVERY:
            for key, score in metric.over(pairs).items():
                if count < 5 and key in ("pit", "coverage-error"):
                    assert score.parts == (), key
                    continue
                assert len(score.parts) == expected, key
                assert combined(score) == pytest.approx(score.value, rel=1e-9, abs=1e-12), key


def test_large_series_dominate_the_pooled_crps():
    rng = np.random.default_rng(7)
    y, samples = 10 + rng.standard_normal((2, 5)), 10 + rng.standard_normal((2, 50, 5))
    scale = np.array([1.0, 1000.0])
    both = value(metrics.CRPS(), [window(y * scale[:, None], np.ones((2, 4)), samples * scale[:, None, None])])
    large = value(metrics.CRPS(), [window(y[1:] * 1000, np.ones((1, 4)), samples[1:] * 1000)])
    assert both == pytest.approx(large, rel=0.01)


def test_crps_by_step_averages_to_the_crps_and_grows_along_a_random_walk():
    rng = np.random.default_rng(8)
    walk = lambda *shape: 50 + np.cumsum(rng.standard_normal((*shape, 10)), axis=-1)  # noqa: E731
    pairs = [window(walk(5), np.ones((5, 4)), walk(5, 100), key=f"w{i}") for i in range(30)]
    steps = metrics.crps_by_step(pairs)
    assert steps.mean() == pytest.approx(value(metrics.CRPS(), pairs), rel=1e-12)
    assert steps[-1] > 2 * steps[0]
    with pytest.raises(UserError, match="one horizon"):
        metrics.crps_by_step([*pairs, *gaussian_windows(1)])


def test_a_target_that_is_nan_is_not_scored():
    rng = np.random.default_rng(9)
    y, past, samples = 10 + rng.random((2, 6)), rng.random((2, 30)), 10 + rng.random((2, 40, 6))
    for metric in EVERY:
        short = metric.over([window(y[:, :4], past, samples[:, :, :4])])
        holes = np.where(np.arange(6) < 4, y, np.nan)
        for key, score in metric.over([window(holes, past, samples)]).items():
            assert score.value == pytest.approx(short[key].value, rel=1e-6), key
        gone = holes.copy()
        gone[1] = np.nan
        alone = metric.over([window(holes[:1], past[:1], samples[:1])])
        for key, score in metric.over([window(gone, past, samples)]).items():
            assert score.value == pytest.approx(alone[key].value, rel=1e-9), key


def test_an_estimate_may_hold_its_series_in_another_order():
    pairs = [window(TARGET, PAST, GOLDEN)]
    turned = [(Estimate(pairs[0][0].data.isel(item=[1, 0]).transpose("time", ...)), pairs[0][1])]
    for metric in EVERY:
        assert {k: s.value for k, s in metric.over(turned).items()} == {k: s.value for k, s in metric.over(pairs).items()}


# ---------------------------------------------------------------- reasons and bad input


def test_all_zero_targets_give_nan_with_the_reason():
    pairs = [window(np.zeros((2, 3)), PAST, GOLDEN)]
    for metric in (metrics.CRPS(), metrics.SampleCRPS(), metrics.ND(), metrics.NRMSE(), metrics.Width(), metrics.EnergyScore()):
        with pytest.warns(UserWarning, match="every observed target is zero"):
            assert math.isnan(value(metric, pairs)), metric
    assert math.isnan(scores.weighted_quantile_loss(GOLDEN[:, :1], np.zeros((2, 3)), (0.5,)))
    assert math.isnan(scores.nd(TARGET, np.zeros((2, 3))))
    assert math.isnan(scores.nrmse(TARGET, np.zeros((2, 3))))


def test_a_past_that_never_changes_gives_nan_with_the_reason_and_is_left_out_beside_others():
    flat = PAST.copy()
    flat[0] = 9
    for metric in (metrics.MASE(), metrics.MSIS()):
        alone = value(metric, [window(TARGET[1:], PAST[1:], GOLDEN[1:])])
        assert value(metric, [window(TARGET, flat, GOLDEN)]) == pytest.approx(alone)
        with pytest.warns(UserWarning, match="ever changes"):
            assert math.isnan(value(metric, [window(TARGET[:1], flat[:1], GOLDEN[:1])]))


@pytest.mark.parametrize("metric", [metrics.EnergyScore(), metrics.VariogramScore()])
def test_scores_of_paths_without_paths_are_nan_as_their_definition_says(metric):
    pairs = [window(TARGET, PAST, quantiles=sample_quantiles(GOLDEN, LEVELS, axis=1))]
    assert math.isnan(value(metric, pairs))
    assert "NaN without sample paths" in metric.describe()[0].definition


def test_nothing_observed_gives_nan_and_never_a_silent_number():
    pairs = [window(np.full((2, 3), np.nan), PAST, GOLDEN)]
    for metric in EVERY:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            found = metric.over(pairs)
        assert all(math.isnan(score.value) for score in found.values()), metric
        assert all("NaN" in str(one.message) for one in said), [str(one.message) for one in said]
        assert said, metric


def test_bad_pairs_are_refused_in_a_sentence():
    estimate, case = window(TARGET, PAST, GOLDEN)
    with pytest.raises(DataError, match="no truth"):
        metrics.CRPS().over([(estimate, Case("w", None, case.measurement, case.context))])
    with pytest.raises(DataError, match="lacks 1 items"):
        metrics.CRPS().over([(Estimate(estimate.data.isel(item=[0])), case)])
    with pytest.raises(DataError, match="lacks 2 times"):
        metrics.CRPS().over([(Estimate(estimate.data.isel(time=[0])), case)])
    with pytest.raises(DataError, match="no quantiles"):
        metrics.CRPS().over([(Estimate(estimate.data.drop_vars("quantiles")), case)])
    with pytest.raises(DataError, match="quantiles at"):
        metrics.CRPS().over([(Estimate(estimate.data.sel(level=[0.5])), case)])
    with pytest.raises(UserError, match="power"):
        metrics.VariogramScore(p=0)
    with pytest.raises(DataError, match="two samples"):
        scores.crps_samples(A[:1], TARGET[0])


def test_every_definition_is_a_sentence_with_what_the_interval_resamples():
    for metric in EVERY:
        for info in metric.describe():
            assert info.definition.count(".\n") == 0, info.key
            assert len(info.definition) > 60, info.key
            assert any(word in info.definition for word in ("resamples windows", "jackknife parts are windows")), info.key
