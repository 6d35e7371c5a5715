"""Baselines: the yardstick numbers to four digits, closed forms, no look ahead, and whatever series a user has."""

import importlib.util
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unstir.errors import DataError, MissingExtra, UserError
from unstir.plugin.protocols import Case
from unstir_data import fetch
from unstir_timeseries import baselines, datasets, fits, ridge
from unstir_timeseries.baselines import ETS, Interpolation, RandomWalk, Ridge, RidgeResidual, SeasonalNaive, SeasonalResidual, StatsForecast
from unstir_timeseries.metrics import CRPS
from unstir_timeseries.panel import LEVELS, panel
from unstir_timeseries.past import filled, gaps, last_cycle
from unstir_timeseries.ridge import draws, places, solve
from unstir_timeseries.tasks import Forecast, Impute

YARDSTICKS = Path(__file__).parents[4] / "shared" / "data" / "timeseries"
LOAD = {"windows": 20_000, "aligned": True}
SMALL = (SeasonalNaive(), SeasonalResidual(), RandomWalk(), RandomWalk(law="empirical"), Ridge(windows=300), RidgeResidual(windows=300))


@pytest.fixture(autouse=True)
def _own_fits(tmp_path_factory, monkeypatch):
    """Fits go to a folder of the test session, not to the user's cache."""
    where = tmp_path_factory.getbasetemp() / "fits"
    monkeypatch.setattr(fits, "folder", lambda: where)


def hourly(y, season=24, freq="h", key="toy"):
    y = np.atleast_2d(y)
    time = pd.date_range("2024-01-01", periods=y.shape[1], freq=freq)
    return panel(y, time, [f"s{i}" for i in range(len(y))], freq=freq, season=season, key=key)


def daily_shape(steps=1200, items=3, seed=0):
    """Positive series with a daily shape and noise."""
    noise = np.random.default_rng(seed).standard_normal((items, steps))
    return 10 + 4 * np.sin(2 * np.pi * np.arange(steps) / 24) + np.arange(1, items + 1)[:, None] + noise


def crps(task, data, methods):
    """The score of each method, in one pass over the windows."""
    answers = {name: [] for name in methods}
    for case in task.cases([data]):
        for name, method in methods.items():
            answers[name].append((method(case, None, 0), case))
    return {name: CRPS().over(pairs)["crps"].value for name, pairs in answers.items()}


def ask(method, y, horizon=24, context=96, season=24, **facts):
    """The forecast after the last step of series."""
    data = hourly(np.concatenate([np.atleast_2d(y), np.zeros((len(np.atleast_2d(y)), horizon))], 1), season)
    task = Forecast(horizon=horizon, context=context, windows=1, **facts)
    (case,) = task.cases([data])
    return method(case, None, 0)


def agrees(found, wanted):
    """To the four digits that the plan gives; 6e-5 since it rounded two of them (0.14625, 0.07894) its own way."""
    assert found == pytest.approx(wanted, abs=6e-5)


# What the plan measured


def test_seasonal_baselines_of_the_load_are_the_yardsticks():
    """The context is all they need, so the load is cut."""
    (load,) = datasets.GEFCom(start="2007-06-01").load()
    methods = {
        "naive 24": SeasonalNaive(), "naive 168": SeasonalNaive(168),
        "residual 24": SeasonalResidual(), "residual 168": SeasonalResidual(168),
    }  # fmt: skip
    agrees(crps(Forecast(), load, methods), {"naive 24": 0.1045, "naive 168": 0.1577, "residual 24": 0.0863, "residual 168": 0.1319})
    w7 = Forecast(windows=52, stride=168)
    agrees(crps(w7, load, methods), {"naive 24": 0.0964, "naive 168": 0.1480, "residual 24": 0.0789, "residual 168": 0.1485})


def test_ridge_of_the_load_is_the_yardstick():
    (load,) = datasets.GEFCom().load()
    methods = {"point": Ridge(**LOAD), "residual": RidgeResidual(**LOAD)}
    agrees(crps(Forecast(), load, methods), {"point": 0.0711, "residual": 0.0570})


@pytest.mark.slow
def test_ridge_of_the_load_is_the_yardstick_at_every_alpha():
    (load,) = datasets.GEFCom().load()
    methods = {f"{kind.__name__} {alpha}": kind(alpha=alpha, **LOAD) for alpha in (1, 10, 100) for kind in (Ridge, RidgeResidual)}
    w7 = crps(Forecast(windows=52, stride=168), load, methods)
    assert [round(value, 4) for value in w7.values()] == [0.0733, 0.0580, 0.0726, 0.0573, 0.0752, 0.0590]
    del methods["Ridge 1"], methods["RidgeResidual 1"]
    w8 = crps(Forecast(), load, methods)
    assert [round(value, 4) for value in w8.values()] == [0.0716, 0.0573, 0.0759, 0.0606]


def test_a_random_walk_of_the_exchange_rates_is_the_yardstick():
    if fetch.cached("timeseries/exchange") is None:
        pytest.skip("timeseries/exchange is not in the cache (unstir data get timeseries/exchange)")
    (rates,) = datasets.Exchange().load()
    methods = {
        "naive": SeasonalNaive(), "last": SeasonalNaive(1), "360": RandomWalk(360), "60": RandomWalk(60),
        "empirical 360": RandomWalk(360, "empirical"), "empirical 1000": RandomWalk(1000, "empirical"),
        "all": RandomWalk("all", "empirical"), "ridge": Ridge(),
    }  # fmt: skip
    found = crps(Forecast(horizon=30, context=360, windows=5, stride=30, first=6071), rates, methods)
    wanted = {
        "naive": 0.0107,
        "last": 0.0093,
        "360": 0.0077,
        "60": 0.0070,
        "empirical 360": 0.0077,
        "empirical 1000": 0.0077,
        "all": 0.0072,
    }
    agrees(found, wanted | {"ridge": 0.0107})


def test_traffic_baselines_are_the_yardsticks():
    if fetch.cached("timeseries/traffic") is None:
        pytest.skip("timeseries/traffic is not in the cache (unstir data get timeseries/traffic)")
    (traffic,) = datasets.Traffic().load()
    methods = {
        "24": SeasonalNaive(), "168": SeasonalNaive(168), "residual 24": SeasonalResidual(), "residual 168": SeasonalResidual(168),
        "ridge": Ridge(), "ridge residual": RidgeResidual(),
    }  # fmt: skip
    found = crps(Forecast(windows=7, stride=24, first=14_036), traffic, methods)
    wanted = {"24": 0.2308, "168": 0.1463, "residual 24": 0.2118, "residual 168": 0.1359}
    agrees(found, wanted | {"ridge": 0.1667, "ridge residual": 0.1467})


def test_seasonal_baselines_of_m4_are_the_yardsticks():
    """With the differences of the whole series, growing from day to day. Ridge needs the plan's own draws there, which it does not give."""
    if not (file := YARDSTICKS / "m4_hourly.npz").exists():
        pytest.skip("the yardstick file m4_hourly.npz is not beside the repository")
    m4 = np.load(file)
    ends = np.cumsum(m4["length"])
    y = np.full((414, 960 + 48), np.nan)
    for row, (end, length) in enumerate(zip(ends, m4["length"], strict=True)):
        y[row, 960 - length : 960] = m4["train"][end - length : end]
    y[:, 960:] = m4["test"]
    methods = {"24": SeasonalNaive(), "168": SeasonalNaive(168), "residual": SeasonalResidual(history="all")}
    agrees(crps(Forecast(horizon=48, context=312, windows=1), hourly(y), methods), {"24": 0.0483, "168": 0.0608, "residual": 0.0375})


# Closed forms


def test_seasonal_naive_repeats_the_last_season():
    y = np.arange(100.0)
    found = ask(SeasonalNaive(season=7), y, horizon=10, context=50).data
    np.testing.assert_array_equal(found["mean"].values[0], [93, 94, 95, 96, 97, 98, 99, 93, 94, 95])
    assert (found["quantiles"] == found["mean"]).all()


def test_seasonal_naive_steps_over_missing_values_to_the_season_before():
    y = np.arange(40.0)
    y[[34, 29]] = np.nan  # the fifth place of the last two cycles of 5
    found = ask(SeasonalNaive(season=5), y, horizon=5, context=20, season=5).data["mean"].values[0]
    np.testing.assert_array_equal(found, [35, 36, 37, 38, 39])
    y[39] = np.nan
    found = ask(SeasonalNaive(season=5), y, horizon=5, context=20, season=5).data["mean"].values[0]
    np.testing.assert_array_equal(found, [35, 36, 37, 38, 24])


def test_seasonal_residual_widens_with_the_seasons_it_repeats_over():
    y = np.random.default_rng(0).standard_normal(400).cumsum()
    found = ask(SeasonalResidual(season=4), y, horizon=12, context=200, season=4).data
    offsets = (found["quantiles"] - found["mean"]).values[0]
    np.testing.assert_allclose(offsets[:, 4:8], np.sqrt(2) * offsets[:, :4], rtol=1e-9)
    np.testing.assert_allclose(offsets[:, 8:], np.sqrt(3) * offsets[:, :4], rtol=1e-9)
    np.testing.assert_allclose(offsets[:, 0], np.quantile(y[-196:] - y[-200:-4], LEVELS), rtol=1e-12)
    flat = ask(SeasonalResidual(season=4, grow=False), y, horizon=12, context=200, season=4).data
    np.testing.assert_allclose((flat["quantiles"] - flat["mean"]).values[0], np.tile(offsets[:, :1], 12), rtol=1e-9)


def test_a_random_walk_spreads_with_the_root_of_the_steps():
    from scipy.stats import norm

    y = np.random.default_rng(1).standard_normal(500).cumsum()
    found = ask(RandomWalk(history=100), y, horizon=9, context=200).data["quantiles"].values[0]
    sd = np.diff(y[-101:]).std()
    np.testing.assert_allclose(found, y[-1] + sd * norm.ppf(LEVELS)[:, None] * np.sqrt(np.arange(1, 10)), rtol=1e-12)


def test_a_random_walk_with_its_last_values_missing_starts_from_the_last_observed_one():
    y = np.random.default_rng(1).standard_normal(500).cumsum()
    cut = y.copy()
    cut[-8:] = np.nan
    whole = ask(RandomWalk(history="all"), y[:-8], horizon=24).data["quantiles"].values[0]
    found = ask(RandomWalk(history="all"), cut, horizon=16).data["quantiles"].values[0]
    np.testing.assert_allclose(found, whole[:, 8:], rtol=1e-12)


def test_empirical_changes_are_those_over_as_many_steps():
    y = np.random.default_rng(2).standard_normal(300).cumsum()
    found = ask(RandomWalk(history=120, law="empirical"), y, horizon=5).data["quantiles"].values[0]
    seen = y[-120:]
    np.testing.assert_allclose(found[:, 2], y[-1] + np.quantile(seen[3:] - seen[:-3], LEVELS), rtol=1e-12)


def test_changes_that_a_masked_context_does_not_hold_are_taken_from_before_it():
    """The last half of the context is missing: it has no change over 50 steps, what lies before it has."""
    y = daily_shape(600, 1)
    y[0, -48:] = np.nan
    found = ask(RandomWalk(law="empirical"), y).data["quantiles"].values[0]
    np.testing.assert_allclose(found[:, 1] - y[0, -49], np.nanquantile(y[0, 50:] - y[0, :-50], LEVELS), rtol=1e-12)
    found = ask(SeasonalResidual(season=72), y).data
    assert (found["quantiles"].sel(level=0.9) > found["quantiles"].sel(level=0.1)).all()


def test_ridge_is_scikit_learns():
    linear_model = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    generator = np.random.default_rng(0)
    x, target = generator.standard_normal((200, 12)), generator.standard_normal((200, 3))
    weights, intercept, fitted = solve(x, target, 2.5)
    model = linear_model.Ridge(alpha=2.5).fit(x, target)
    np.testing.assert_allclose(weights.T, model.coef_, atol=1e-10)  # two direct solves of one well-posed system
    np.testing.assert_allclose(intercept, model.intercept_, atol=1e-10)
    assert fitted.all()


def test_a_step_that_was_not_observed_leaves_only_its_own_fit():
    generator = np.random.default_rng(0)
    x, target = generator.standard_normal((200, 12)), generator.standard_normal((200, 4))
    holes = target.copy()
    holes[:50, 1], holes[:, 3] = np.nan, np.nan
    weights, intercept, fitted = solve(x, holes, 1.0)
    whole, start, _ = solve(x, target, 1.0)
    part, _, _ = solve(x[50:], target[50:], 1.0)
    np.testing.assert_allclose(weights[:, [0, 2]], whole[:, [0, 2]], atol=1e-12)
    np.testing.assert_allclose(weights[:, 1], part[:, 1], atol=1e-12)
    assert fitted.tolist() == [True, True, True, False]
    assert intercept[3] == pytest.approx(np.nanmean(holes))
    np.testing.assert_allclose(intercept[0], start[0], atol=1e-12)


def test_ridge_learns_the_conditional_mean_of_an_autoregression():
    """AR(1) about 3: mean-abs scaling of a long context is near constant, so that the best linear forecast is near 3 + phi^h (y - 3)."""
    (data,) = datasets.AR1(items=20, steps=1500, sd=0.5).load()
    task = Forecast(horizon=6, context=100, windows=10, stride=20)
    errors = []
    for case in task.cases([data]):
        last = case.measurement["y"].values[:, -7]
        best = 3 + 0.9 ** np.arange(1, 7) * (last[:, None] - 3)
        errors.append(Ridge(windows=8000)(case, None, 0).data["mean"].values - best)
    assert np.sqrt(np.mean(np.square(errors))) < 0.1  # noise of 100 coefficients from 20 x 1300 steps; the law's own sd is 0.2 to 0.4


def test_windows_end_before_the_first_origin_and_series_are_drawn_alike():
    y = np.random.default_rng(0).random((4, 500))
    y[1, :300] = np.nan  # a short series, drawn as often as a long one
    found = draws(places(y, 48, 24, 1, 0), 4000, np.random.default_rng(0))
    assert (found[:, 1] + 72 <= 500).all()
    assert (found[found[:, 0] == 1, 1] >= 300).all()
    assert np.abs(np.bincount(found[:, 0]) - 1000).max() < 5 * np.sqrt(4000 * 0.25 * 0.75)
    aligned = draws(places(y, 48, 24, 24, 7), 500, np.random.default_rng(0))
    assert set((aligned[:, 1] + 48) % 24) == {7}


def test_exponential_smoothing_spreads_as_its_law_says():
    """ETS(A, N, N): variance of step h over that of step 1 is 1 + (h - 1) a^2, linear in h."""
    pytest.importorskip("statsmodels", reason="statsmodels is not installed")
    y = 50 + np.random.default_rng(3).standard_normal(300).cumsum() * 0.3 + np.random.default_rng(4).standard_normal(300)
    found = ask(ETS(season=1), y, horizon=10, context=200).data
    width = found["quantiles"].sel(level=0.9).values[0] - found["quantiles"].sel(level=0.1).values[0]
    growth = (width / width[0]) ** 2 - 1
    np.testing.assert_allclose(growth, growth[1] * np.arange(10), rtol=1e-6)
    assert 0 < growth[1] < 1
    assert np.ptp(found["mean"].values) == pytest.approx(0, abs=1e-6)


def test_exponential_smoothing_follows_a_season():
    pytest.importorskip("statsmodels", reason="statsmodels is not installed")
    y = daily_shape(400, 1)[0]
    found = ask(ETS(), y, context=240).data["mean"].values[0]
    expected = 11 + 4 * np.sin(2 * np.pi * np.arange(400, 424) / 24)
    assert np.sqrt(np.mean((found - expected) ** 2)) < 0.7  # noise 1 over 10 days of each hour, and of the level


def test_statsforecast_says_why_it_is_not_there():
    if importlib.util.find_spec("statsforecast") is not None:
        pytest.skip("statsforecast is installed")
    with pytest.raises(MissingExtra, match=r"pip install 'unstir\[statsforecast\]' 'pandas<3'"):
        ask(StatsForecast(), np.arange(200.0))


def test_statsforecast_forecasts_where_it_is():
    pytest.importorskip("statsforecast", reason="statsforecast is not installed: it does not allow pandas 3")
    y = daily_shape(400, 2)
    found = ask(StatsForecast("AutoETS"), y, context=240).data
    assert np.isfinite(found["quantiles"].values).all()
    assert (np.diff(found["quantiles"].values, axis=1) >= 0).all()
    expected = 11 + 4 * np.sin(2 * np.pi * np.arange(400, 424) / 24)
    assert np.sqrt(np.mean((found["mean"].values[0] - expected) ** 2)) < 1  # noise 1 over 10 days of each hour
    with pytest.raises(UserError, match="has no model 'AutoMagic'"):
        ask(StatsForecast("AutoMagic"), y)


# No look ahead


@pytest.mark.parametrize("method", SMALL, ids=repr)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**16), window=st.integers(0, 2), value=st.sampled_from([np.nan, 0.0, 1e6, -3.0]))
def test_no_baseline_sees_its_future(method, seed, window, value):
    """Whatever stands at and after an origin, its forecast is the same bits; so is the fit, made before the first origin."""
    y = daily_shape(400, 2, seed)
    task = Forecast(horizon=12, context=48, windows=3, stride=24, first=300)
    cases = list(task.cases([hourly(y)]))
    changed = y.copy()
    changed[:, 300 + 24 * window :] = value
    other = list(task.cases([hourly(changed)]))[window]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, again = method(cases[window], None, 0), method(other, None, 0)
    np.testing.assert_array_equal(found.data["quantiles"].values, again.data["quantiles"].values)


# Whatever series a user has


@pytest.mark.parametrize("scenario", ["rm", "bm-b", "bm-e"])
@pytest.mark.parametrize("method", [*SMALL, ETS(season=24)], ids=repr)
def test_half_a_missing_context_is_forecast(method, scenario):
    if isinstance(method, ETS):
        pytest.importorskip("statsmodels", reason="statsmodels is not installed")
    task = Forecast(horizon=24, context=96, windows=1, missing=scenario)
    (case,) = task.cases([hourly(daily_shape(600))])
    found = method(case, None, 0).data
    q = found["quantiles"].values
    assert np.isfinite(q).all()
    assert (np.diff(q, axis=1) >= 0).all()
    assert found.sizes == {"item": 3, "level": len(LEVELS), "time": 24}
    assert np.abs(found["mean"].values - 12).max() < 15  # of the size of the series: nothing was taken for zero


@pytest.mark.parametrize("method", [*SMALL, ETS(season=24)], ids=repr)
@pytest.mark.parametrize("factor", [2.0**40, 2.0**-40])
def test_a_forecast_has_the_unit_of_its_series(method, factor):
    """1e12 and 1e-12: powers of two, so that only rounding inside a solver differs."""
    if isinstance(method, ETS):
        pytest.importorskip("statsmodels", reason="statsmodels is not installed")
    y = daily_shape(500, 2)
    found, scaled = ask(method, y).data["quantiles"].values, ask(method, y * factor).data["quantiles"].values
    np.testing.assert_allclose(scaled, found * factor, rtol=1e-9)


@pytest.mark.parametrize("method", [*SMALL, ETS(season=24)], ids=repr)
def test_constant_series_are_forecast_by_their_constant(method):
    if isinstance(method, ETS):
        pytest.importorskip("statsmodels", reason="statsmodels is not installed")
    found = ask(method, np.full((2, 400), 7.0)).data["quantiles"].values
    np.testing.assert_allclose(found, 7.0, rtol=1e-9)


@pytest.mark.parametrize("kind", [Ridge, RidgeResidual])
def test_an_all_zero_context_is_scaled_by_its_series_and_an_all_zero_series_by_the_others(kind):
    y = daily_shape(600, 3)
    y[0, -96:] = 0
    quiet = ask(kind(windows=300), y).data["mean"].values
    assert np.isfinite(quiet).all()
    y[0] = 0
    with pytest.warns(UserWarning, match="all zero or empty"):
        found = ask(kind(windows=300), y).data["mean"].values
    assert np.isfinite(found).all()
    assert np.abs(found[0]).max() < 20  # of the size of the others, not of 1/1e-10


def test_a_quiet_stretch_is_no_huge_target(monkeypatch):
    """Half of the past is nearly zero: windows that leave it are targets of ten times their scale with the floor, of a million without."""
    y = daily_shape(800, 3)
    y[:, 200:600] *= 1e-6
    assert np.abs(ask(RidgeResidual(windows=2000), y).data["quantiles"].values).max() < 500
    monkeypatch.setattr(ridge, "FLOOR", 1e-6)
    assert np.abs(ask(RidgeResidual(windows=2000), y).data["quantiles"].values).max() > 1e6


@pytest.mark.parametrize("method", SMALL, ids=repr)
def test_a_series_that_was_never_observed_gets_the_law_of_the_others(method):
    y = daily_shape(500, 3)
    y[1] = np.nan
    found = ask(method, y)
    assert np.isfinite(found.data["quantiles"].values).all()
    assert any("s1: never observed" in sentence for sentence in found.info["said"])
    np.testing.assert_allclose(found.data["quantiles"].sel(level=0.5).values[1], np.nanmedian(y[:, -96:]), rtol=1e-12)


@pytest.mark.parametrize("method", SMALL, ids=repr)
def test_an_empty_context_falls_back_on_what_lies_before(method):
    y = daily_shape(600, 3)
    y[2, -96:] = np.nan
    found = ask(method, y)
    assert np.isfinite(found.data["quantiles"].values).all()
    assert np.abs(found.data["mean"].values[2] - 13).max() < 12


@pytest.mark.parametrize("method", SMALL[:4], ids=repr)
def test_nothing_observed_at_all_is_refused(method):
    data = hourly(np.full((2, 400), np.nan))
    case = Case("toy", None, data.assign_attrs(horizon=24), {"context": 96, "season": 24})
    with pytest.raises(DataError, match="no series has an observed value"):
        method(case, None, 0)


def test_ridge_says_how_many_steps_are_missing():
    with pytest.raises(
        DataError, match=r"no series has a training window of 96 \+ 24 steps .* has 100 observed steps and 120 are needed, 20 more"
    ):
        ask(Ridge(), daily_shape(100, 2), context=96)


def test_ridge_needs_a_training_panel():
    data = hourly(daily_shape(400, 2)).assign_attrs(horizon=24)
    with pytest.raises(DataError, match="no training panel"):
        Ridge()(Case("toy", None, data, {"context": 96}), None, 0)


def test_a_forecast_of_no_steps_is_refused():
    with pytest.raises(DataError, match="asks for no forecast"):
        SeasonalNaive()(Case("toy", None, hourly(daily_shape(400, 2)).assign_attrs(horizon=0), {}), None, 0)


def test_infinite_values_are_refused():
    y = daily_shape(400, 2)
    y[0, 5] = np.inf
    with pytest.raises(DataError, match="infinite values"):
        ask(SeasonalNaive(), y)


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (lambda: SeasonalNaive(-1), "season must be at least 1 step"),
        (lambda: SeasonalResidual(history=1), "history must be"),
        (lambda: SeasonalResidual(history="week"), "history must be"),
        (lambda: RandomWalk(law="cauchy"), "law must be one of gaussian, empirical"),
        (lambda: Ridge(alpha=0), "alpha must be positive"),
        (lambda: Ridge(held=1.0), "held is a share"),
        (lambda: Ridge(windows=1), "held is a share"),
        (lambda: Ridge(draw=-1), "draw must not be negative"),
        (lambda: ETS(trend="up"), "trend must be one of"),
        (lambda: ETS(season=-1), "season must be"),
        (lambda: StatsForecast(season=-1), "season must be"),
        (lambda: Interpolation(0), "cycle must be at least 1"),
        (lambda: Interpolation(errors=0), "errors must be at least 1"),
    ],
)
def test_an_option_out_of_range_is_refused(made, sentence):
    with pytest.raises(UserError, match=sentence):
        made()


def test_the_fit_is_made_once_a_training_panel(monkeypatch):
    calls = []
    real = baselines.Ridge._fit
    monkeypatch.setattr(baselines.Ridge, "_fit", lambda self, *rest: calls.append(1) or real(self, *rest))
    task = Forecast(horizon=12, context=48, windows=4, stride=24)
    for case in task.cases([hourly(daily_shape(500, 2, seed=77))]):
        Ridge(windows=200)(case, None, 0)
        RidgeResidual(windows=200)(case, None, 0)
    assert len(calls) == 1


# Interpolation


def test_straight_lines_are_interpolated_exactly():
    y = np.outer([1.0, -2.0], np.arange(200)) + 5
    task = Impute(length=100, windows=1, missing="rm", gaps=30)
    (case,) = task.cases([hourly(y)])
    found = Interpolation()(case, None, 0).data
    inside = np.s_[:, 1:-1]
    np.testing.assert_allclose(found["mean"].values[inside], y[:, -100:][inside], rtol=1e-12)


def test_observed_values_stay_as_they_are():
    task = Impute(length=120, windows=2, missing="block")
    for case in task.cases([hourly(daily_shape(600))]):
        found, given = Interpolation()(case, None, 0).data["quantiles"].values, case.measurement["y"].values
        seen = np.isfinite(given)
        assert np.isfinite(found).all()
        assert (np.where(seen[:, None], found - given[:, None], 0) == 0).all()


def test_interpolated_intervals_cover():
    """AR(1): the errors of the same line on other steps of the series are exchangeable with those at the holes."""
    (data,) = datasets.AR1(items=40, steps=1500).load()
    task = Impute(length=200, windows=3, stride=200, missing="rm", gaps=60)
    inside = []
    for case in task.cases([data]):
        q = Interpolation()(case, None, 0).data["quantiles"]
        truth = case.truth["y"].values
        hole = np.isfinite(truth)
        inside.append(((q.sel(level=0.1).values <= truth) & (truth <= q.sel(level=0.9).values))[hole])
    assert np.concatenate(inside).mean() == pytest.approx(0.8, abs=0.02)  # 7,200 holes: binomial sd 0.005, correlated within a series


def test_a_cycle_joins_the_same_hours_of_neighbouring_days():
    y = np.tile(np.arange(24.0) ** 2, 20)
    task = Impute(length=240, windows=1, missing="block", gaps=60)
    (case,) = task.cases([hourly(y)])
    np.testing.assert_allclose(Interpolation(cycle=24)(case, None, 0).data["mean"].values[0], y[-240:], rtol=1e-12)


def test_a_series_missing_from_the_window_gets_the_law_of_the_others():
    y = daily_shape(300, 2)
    y[1, -120:] = np.nan
    task = Impute(length=120, windows=1, missing="rm")
    (case,) = task.cases([hourly(y)])
    found = Interpolation()(case, None, 0)
    assert np.isfinite(found.data["quantiles"].values).all()
    assert "s1: nothing was observed" in found.info["said"][0]


# What they are made of


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**16), steps=st.integers(1, 40), season=st.integers(1, 12))
def test_the_last_cycle_is_the_last_observed_value_at_each_place(seed, steps, season):
    generator = np.random.default_rng(seed)
    y = np.where(generator.random(steps) < 0.5, np.nan, generator.random(steps))
    values, age = last_cycle(y[None], season)
    for place in range(season):
        known = [(steps + place - j * season, j) for j in range(1, steps + 2) if 0 <= steps + place - j * season < steps]
        seen = [(y[at], j) for at, j in known if np.isfinite(y[at])]
        if seen:
            assert (values[0, place], age[0, place]) == seen[0]
        else:
            assert np.isnan(values[0, place])


def test_holes_are_filled_along_straight_lines():
    y = np.array([[np.nan, 1.0, np.nan, 3.0, np.nan], [np.nan] * 5])
    np.testing.assert_array_equal(filled(y), [[1, 1, 2, 3, 3], [np.nan] * 5])


def test_short_holes_are_filled_by_lines_and_long_ones_from_the_neighbouring_seasons():
    y = np.tile(np.arange(8.0) ** 2, 4)[None]
    short, long = y.copy(), y.copy()
    short[0, [9, 20]] = np.nan
    np.testing.assert_array_equal(filled(short, 8)[0, [9, 20]], [(y[0, 8] + y[0, 10]) / 2, (y[0, 19] + y[0, 21]) / 2])
    long[0, 9:20], long[0, 28:] = np.nan, np.nan
    np.testing.assert_array_equal(filled(long, 8), y)
    long[0, 7::8] = np.nan  # a place of the season that was never seen: the last observed value
    assert np.isfinite(filled(long, 8)).all()
    np.testing.assert_array_equal(gaps(long)[0, 6:10], [0, 1, 0, 11])
