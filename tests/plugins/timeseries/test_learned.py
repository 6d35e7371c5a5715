"""Learned baselines: the law of DeepAR's steps, the trees walked here, closed forms on an autoregression, holes, leaks and what is kept."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch

from unstir.errors import DataError, UserError
from unstir_timeseries import deepar, examples, fits, gbm
from unstir_timeseries.datasets import AR1
from unstir_timeseries.learned import DeepAR, QuantileGBM
from unstir_timeseries.panel import LEVELS, NINE, panel
from unstir_timeseries.scores import weighted_quantile_loss
from unstir_timeseries.tasks import Forecast

PHI, MEAN, SD = 0.9, 10.0, 1 / np.sqrt(1 - 0.9**2)
"""The autoregression of the closed forms: innovations of standard deviation 1."""
TINY = DeepAR(hidden=12, layers=1, unrolled=12, steps=20, batch=16, rate=0.02, samples=20, patience=3)
FEW = QuantileGBM(rows=600, trees=5, leaves=6, least=10)
BOTH = [pytest.param(TINY, id="deepar"), pytest.param(FEW, id="gbm")]


pytestmark = pytest.mark.usefixtures("cache")


def made(y, **facts):
    time = pd.date_range("2024-01-01", periods=y.shape[1], freq="h")
    return panel(y, time, [f"s{i}" for i in range(len(y))], freq="h", season=24, **facts)


def waves(items=4, steps=400, seed=0):
    """Daily waves with noise, of different sizes."""
    rng = np.random.default_rng(seed)
    day = np.sin(2 * np.pi * np.arange(steps) / 24)
    return made((10.0 ** np.arange(items))[:, None] * (3 + day + 0.2 * rng.standard_normal((items, steps))))


def cases(series, context=48, windows=1, **options):
    return list(Forecast(horizon=24, context=context, windows=windows, stride=24, **options).cases([series]))


def blind(case):
    return replace(case, truth=None)


def of_levels(quantiles, levels=NINE):
    return quantiles[:, [LEVELS.index(level) for level in levels]]


def inside(quantiles, y, share):
    low, high = (LEVELS.index(round(0.5 + sign * share / 2, 3)) for sign in (-1, 1))
    return float(np.mean((y >= quantiles[:, low]) & (y <= quantiles[:, high])))


# The law of a step


def test_the_log_density_is_scipys():
    rng = np.random.default_rng(0)
    x, loc = rng.normal(0, 3, 50), rng.normal(0, 1, 50)
    df, scale = rng.uniform(2, 40, 50), rng.uniform(0.01, 3, 50)
    got = deepar.log_density(*(torch.from_numpy(part) for part in (x, df, loc, scale)))
    np.testing.assert_allclose(got, scipy.stats.t.logpdf(x, df, loc, scale), rtol=1e-10)  # float64 on both sides


@pytest.mark.parametrize("df", [2.1, 5.0, 60.0])
def test_polar_draws_have_the_law_of_student(df):
    u, v = torch.from_numpy(np.random.default_rng(1).random((2, 20_000)))
    drawn = deepar.polar(1 - u, v, torch.tensor(df, dtype=torch.float64)).numpy()
    assert scipy.stats.kstest(drawn, scipy.stats.t(df).cdf).pvalue > 0.01  # one fixed draw each


def test_marks_of_filled_lags_weigh_nothing_until_something_is_missing():
    network = deepar.Network(7, 4, 1, 0.0, slice(2, 4))
    assert not network.lstm.weight_ih_l0[:, 2:4].any()
    assert network.lstm.weight_ih_l0[:, :2].any()


def test_lags_stand_around_cycles_and_weeks_within_reach():
    assert deepar.lags_of(24, 200) == (1, 2, 3, 23, 24, 25, 47, 48, 49, 72, 96, 120, 144, 167, 168, 169)
    assert deepar.lags_of(1, 10) == (1, 2, 3, 6, 7, 8)
    assert deepar.lags_of(24, 1) == (1,)


# Windows


def test_holes_are_filled_from_the_past_alone():
    x = np.arange(1.0, 11.0)[None]
    x[0, [0, 4, 8]] = np.nan
    np.testing.assert_array_equal(examples.filled(x, 4), [[1, 2, 3, 4, 1, 6, 7, 8, 1, 10]])
    x[0, 9] = 99.0
    np.testing.assert_array_equal(examples.filled(x, 4)[0, :9], [1, 2, 3, 4, 1, 6, 7, 8, 1])


def test_hidden_parts_stay_within_their_share():
    hidden = examples.hide(4000, 50, 0.25, np.random.default_rng(0))
    assert hidden.any(1).mean() == pytest.approx(0.25, abs=0.03)  # 4 standard errors of 4000 draws
    assert hidden[hidden.any(1)].mean() == pytest.approx(0.5, abs=0.03)


def test_training_windows_end_where_they_are_told_and_never_reach_beyond_the_panel():
    y = np.ones((2, 100))
    y[1, :80] = np.nan
    where = examples.ends(y, 20, 10, step=8, phase=3)
    assert set(where[:, 1] % 8) == {3}
    assert where[:, 1].max() <= 90
    assert set(where[where[:, 0] == 1, 1]) == set()  # the second series has never half of a context and a horizon
    assert set(examples.ends(y, 20, 10)[:, 1][examples.ends(y, 20, 10)[:, 0] == 1]) == {90}


def test_a_scale_has_a_floor_of_the_series_size():
    y = np.concatenate([np.full((1, 90), 100.0), np.full((1, 10), 1e-3)], 1)
    (scale,) = examples.cut(y, np.array([[0, 100]]), 10, 0, 0.1).scale
    assert scale == pytest.approx(0.1 * np.abs(y).mean())


# Trees


def test_trees_walked_from_arrays_are_scikit_learns():
    sklearn = pytest.importorskip("sklearn.ensemble")
    rng = np.random.default_rng(0)
    x = rng.standard_normal((800, 5))
    x[rng.random(x.shape) < 0.2] = np.nan
    y = np.nan_to_num(x[:, 0]) - np.isnan(x[:, 1]) + 0.1 * rng.standard_normal(800)
    models = [sklearn.HistGradientBoostingRegressor(loss="quantile", quantile=q, max_iter=7, random_state=0).fit(x, y) for q in (0.2, 0.8)]
    fit = gbm.arrays(models, np.arange(1, 6))
    wanted = [model.predict(x) for model in models]
    np.testing.assert_allclose(gbm.walk(fit, np.column_stack([y, x])), wanted, rtol=0, atol=1e-12)  # the order of a sum of 8 numbers


def test_features_look_where_they_say():
    x = np.arange(1.0, 337.0)[None]
    got = gbm.features(x, np.array([5]), 24, np.zeros((1, 1)))[0]
    assert got[: gbm.RECENT].tolist() == list(range(336, 312, -1))
    same = got[gbm.RECENT : gbm.RECENT + gbm.CYCLES]
    assert same.tolist() == [341 - 24 * k for k in range(1, 15)]
    assert got[gbm.RECENT + gbm.CYCLES :][:7].tolist() == [319, 318, 316, 315, 174, 173, 172]


# Closed forms


@pytest.fixture(scope="module")
def autoregression():
    """A panel of 150 series, 4 origins after 500 steps; truth (600, 24) and the exact law's quantiles of it."""
    (series,) = AR1(items=150, steps=596, phi=PHI, sd=SD, mean=MEAN).load()
    found = cases(series, windows=4)
    ahead = np.arange(1, 25)
    spread = SD * np.sqrt(1 - PHI ** (2 * ahead))
    truth = np.concatenate([case.truth["y"].values for case in found])
    last = np.concatenate([case.measurement["y"].values[:, -25] for case in found])
    law = scipy.stats.norm.ppf(np.asarray(LEVELS))[:, None] * spread
    return found, truth, MEAN + PHI**ahead * (last - MEAN)[:, None, None] + law


@pytest.mark.parametrize(
    ("method", "excess"),
    [  # the spec allows 0.135 where the exact law has 0.1269; trees have steps where the law has lines, and 75 inputs to be misled by
        pytest.param(DeepAR(hidden=20, layers=1, dropout=0.0, unrolled=24, steps=400, rate=1e-2, missing=0.0), 0.135 / 0.1269, id="deepar"),
        pytest.param(QuantileGBM(rows=15_000, trees=40, least=100, missing=0.0, aligned=False), 1.09, id="gbm"),
    ],
)
def test_on_an_autoregression_it_comes_near_the_exact_law(method, excess, autoregression):
    found, truth, law = autoregression
    quantiles = np.concatenate([method(blind(case), None, 0).data["quantiles"].values for case in found])
    exact = weighted_quantile_loss(of_levels(law), truth, NINE)
    assert exact == pytest.approx(0.1269, abs=0.006)  # the expectation; 600 windows have a standard error of about 0.002
    assert weighted_quantile_loss(of_levels(quantiles), truth, NINE) < exact * excess  # on the same windows
    for share in (0.5, 0.8, 0.9):
        assert inside(quantiles, truth, share) == pytest.approx(inside(law, truth, share), abs=0.03)


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(DeepAR(hidden=12, layers=1, dropout=0.0, unrolled=12, steps=400, batch=32, rate=1e-2), id="deepar"),
        pytest.param(replace(FEW, trees=80, missing=0.0, columns=1.0), id="gbm"),  # 0.9^80 of the way to a value is left
    ],
)
def test_a_constant_series_is_forecast_as_a_constant(method):
    series = made(np.broadcast_to(np.array([[5.0], [-2.0], [4e6]]), (3, 300)))
    (case,) = cases(series)
    quantiles = method(blind(case), None, 0).data["quantiles"].values
    level = np.array([5.0, -2.0, 4e6])[:, None]
    np.testing.assert_allclose(quantiles[:, LEVELS.index(0.5)] / level, 1, atol=0.01)
    assert ((quantiles[:, -1] - quantiles[:, 0]) / np.abs(level)).max() < 0.05  # real series of this file: above 0.5


# Behaviour


@pytest.mark.parametrize("method", BOTH)
def test_levels_do_not_cross_and_the_answer_is_in_units(method):
    (case,) = cases(waves())
    data = method(blind(case), None, 0).data
    assert data["quantiles"].shape == (4, len(LEVELS), 24)
    assert (np.diff(data["quantiles"].values, axis=1) >= 0).all()
    sizes = data["mean"].values.mean(1) / (3 * 10.0 ** np.arange(4))
    assert ((sizes > 0.5) & (sizes < 1.5)).all()  # barely trained, but never in scaled units
    np.testing.assert_array_equal(data["time"], case.truth["time"])


@pytest.mark.parametrize("method", BOTH)
def test_the_future_changes_nothing(method):
    series = waves()
    changed = series.copy(deep=True)
    (case,) = cases(series)
    changed["y"][:, -24:] = 1e9
    (other,) = cases(changed)
    one = method(blind(case), None, 0).data
    fits.forget()
    np.testing.assert_array_equal(one["quantiles"], method(blind(other), None, 0).data["quantiles"])


@pytest.mark.parametrize("method", BOTH)
def test_a_forecast_scales_with_the_series(method):
    (case,), (big,) = cases(waves()), cases(waves().assign(y=lambda panel: panel["y"] * 2.0**40))
    one, other = (method(blind(each), None, 0).data["quantiles"].values for each in (case, big))
    if isinstance(method, DeepAR):
        np.testing.assert_allclose(other / 2.0**40, one, rtol=1e-4)  # float32
    else:
        np.testing.assert_allclose(other / 2.0**40, one, rtol=0.02, atol=0)  # bins of the logarithm of the size round apart


@pytest.mark.parametrize("method", BOTH)
def test_the_same_seed_gives_the_same_bits_from_process_and_disk_and_another_seed_does_not(method, monkeypatch):
    (case,) = cases(waves())
    first = method(blind(case), None, 3).data["quantiles"].values
    fits.forget()
    monkeypatch.setattr(deepar, "fit", None)  # from here on a fit can only come from disk
    monkeypatch.setattr(gbm, "fit", None)
    np.testing.assert_array_equal(first, method(blind(case), None, 3).data["quantiles"].values)
    monkeypatch.undo()
    fits.forget()
    assert not np.array_equal(first, method(blind(case), None, 4).data["quantiles"].values)


@pytest.mark.parametrize("method", BOTH)
def test_the_windows_of_a_run_fit_once(method, monkeypatch):
    count = []
    for module in (deepar, gbm):
        true = module.fit
        monkeypatch.setattr(module, "fit", lambda *args, true=true, **kwargs: count.append(1) or true(*args, **kwargs))
    for case in cases(waves(), windows=3):
        method(blind(case), None, 0)
    assert len(count) == 1


def test_a_damaged_fit_is_made_again_and_said():
    (case,) = cases(waves())
    first = FEW(blind(case), None, 0).data
    fits.forget()
    (path,) = fits.folder().glob("*.safetensors")
    path.write_bytes(b"nonsense")
    with pytest.warns(UserWarning, match="cannot be read"):
        again = FEW(blind(case), None, 0).data
    np.testing.assert_array_equal(first["quantiles"], again["quantiles"])


def test_the_first_paths_do_not_depend_on_how_many_are_drawn():
    (case,) = cases(waves())
    few, more = (replace(TINY, samples=count)(blind(case), None, 0).data["samples"].values for count in (5, 9))
    np.testing.assert_allclose(more[:, :5], few, rtol=1e-5)  # sums of another batch


@pytest.mark.parametrize("where", [slice(-24, None), slice(0, 24)], ids=["end", "beginning"])
@pytest.mark.parametrize("method", BOTH)
def test_a_context_half_missing_is_no_failure(method, where):
    (case,) = cases(waves())
    y = case.measurement["y"].values.copy()
    y[:, -72:-24][:, where] = np.nan
    case = replace(case, measurement=case.measurement.assign(y=(("item", "time"), y)))
    assert np.isfinite(method(blind(case), None, 0).data["quantiles"]).all()


def test_a_missing_end_of_the_context_widens_the_forecast(autoregression):
    """The step after a gap of 12 has the law of 13 steps ahead, sd 2.2 instead of 1."""
    method = DeepAR(hidden=16, layers=1, dropout=0.0, unrolled=24, steps=200, rate=5e-3)
    case = autoregression[0][0]
    y = case.measurement["y"].values.copy()
    y[:, -36:-24] = np.nan
    holed = replace(case, measurement=case.measurement.assign(y=(("item", "time"), y)))
    spread = [method(blind(each), None, 0).data["samples"].values[..., 0].std(1).mean() for each in (case, holed)]
    assert spread[1] > 1.5 * spread[0]


def test_boosted_quantiles_widen_when_half_of_the_context_is_missing(autoregression):
    case = autoregression[0][0]
    y = case.measurement["y"].values.copy()
    y[:, -48:-24] = np.nan
    holed = replace(case, measurement=case.measurement.assign(y=(("item", "time"), y)))
    method = QuantileGBM(rows=4000, trees=20, missing=0.3, aligned=False)
    low, high = LEVELS.index(0.1), LEVELS.index(0.9)
    widths = [np.diff(method(blind(each), None, 0).data["quantiles"].values[:, [low, high], 0], axis=1).mean() for each in (case, holed)]
    assert widths[1] > 1.3 * widths[0]


def test_known_covariates_are_used():
    """A series that is its covariate and small noise: nothing of the past tells it."""
    rng = np.random.default_rng(0)
    known = rng.uniform(1, 3, (1, 3, 500))
    series = made(known[0] + 0.01 * rng.standard_normal((3, 500)), known=known, covariates=["driver"], calendar="unknown")
    (case,) = cases(series)
    trees = QuantileGBM(rows=1500, trees=40, least=10, missing=0.0, aligned=False)(blind(case), None, 0).data
    network = DeepAR(hidden=16, layers=1, unrolled=24, steps=300, rate=1e-2, missing=0.0)(blind(case), None, 0).data
    for data in (trees, network):
        off = np.abs(data["quantiles"].values[:, LEVELS.index(0.5)] - case.truth["y"].values).mean()
        assert off < 0.15  # without the covariate: 0.5, a quarter of its range
    bare = replace(case, measurement=case.measurement.drop_vars("known"))
    with pytest.raises(DataError, match="training panel has 1"):
        TINY(blind(bare), None, 0)
    with pytest.raises(DataError, match="training panel has 1"):
        FEW(blind(bare), None, 0)


def test_a_series_that_training_never_saw_is_forecast():
    (case,) = cases(waves())
    named = case.measurement.assign_coords(item=["new", "s1", "s2", "s3"])
    assert np.isfinite(FEW(blind(replace(case, measurement=named)), None, 0).data["quantiles"]).all()


# Bad input


@pytest.mark.parametrize("method", BOTH)
def test_a_training_panel_too_short_is_refused_with_the_number_of_steps(method):
    (case,) = cases(waves())
    short = replace(case, context={**case.context, "training": case.context["training"].isel(time=slice(0, 60))})
    with pytest.raises(DataError, match="steps more are needed"):
        method(blind(short), None, 0)
    with pytest.raises(DataError, match="no training panel"):
        method(blind(replace(case, context={**case.context, "training": None})), None, 0)


@pytest.mark.parametrize("method", BOTH)
def test_a_series_without_any_value_is_refused_by_name(method):
    (case,) = cases(waves())
    y = case.measurement["y"].values.copy()
    y[2] = np.nan
    empty = replace(case, measurement=case.measurement.assign(y=(("item", "time"), y)))
    with pytest.raises(DataError, match="s2"):
        method(blind(empty), None, 0)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: DeepAR(samples=0), "samples"),
        (lambda: DeepAR(dropout=1.0), "dropout"),
        (lambda: DeepAR(rate=0.0), "rate"),
        (lambda: DeepAR(lags=(0, 1)), "lags"),
        (lambda: DeepAR(lags=(1, 1)), "lags"),
        (lambda: QuantileGBM(leaves=1), "leaves"),
        (lambda: QuantileGBM(columns=0.0), "columns"),
        (lambda: QuantileGBM(rows=2.5), "rows"),
        (lambda: QuantileGBM(missing=-0.1), "missing"),
    ],
)
def test_options_out_of_range_are_refused(make, match):
    with pytest.raises(UserError, match=match):
        make()


def test_lags_beyond_the_context_are_refused():
    (case,) = cases(waves())
    with pytest.raises(DataError, match="reach 40"):
        replace(TINY, lags=(1, 40))(blind(case), None, 0)
