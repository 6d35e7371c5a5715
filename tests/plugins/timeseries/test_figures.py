"""What is drawn of series and of runs: lines, bands and captions say the numbers; nothing overlaps; what is missing is left out."""

import io
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_rgb
from matplotlib.dates import date2num
from matplotlib.text import Text

from unstir.errors import DataError, MissingExtra, UserError
from unstir.plugin.canvas import INK
from unstir.plugin.page import shown
from unstir.plugin.protocols import Case, Drawn, Estimate, Figure
from unstir.plugin.view import best, compared, setting_words, spread
from unstir_timeseries import page as pages_module
from unstir_timeseries.anomaly_task import AUROC, Anomaly
from unstir_timeseries.calibration import Coverage, coverage_curve
from unstir_timeseries.canvas import FOUND
from unstir_timeseries.drawing import central, fan_chart, gaps_of, peaks, runs, score_chart
from unstir_timeseries.ecg.leads import complete
from unstir_timeseries.ecg.records import dataset as records
from unstir_timeseries.figures import Calibration, Fans, Leads, PerHorizon, Scores, Steps, Synthetic, Windows
from unstir_timeseries.likeness import autocorrelation, log_periodogram
from unstir_timeseries.metrics import CRPS, crps_by_step
from unstir_timeseries.panel import LEVELS, forecast, horizon_of, panel
from unstir_timeseries.quality import ACFDistance, SpectrumDistance
from unstir_timeseries.scores import binomial_bar
from unstir_timeseries.synthesis import RealWindows, Synthesise
from unstir_timeseries.tasks import Forecast, Impute
from unstir_timeseries.view import crps_of

H = 6
METHODS = {"naive": (0.0, 0, 1.5), "honest": (1.0, 0, 0.6), "narrow": (0.4, 20, 0.5), "wide": (2.5, 20, 0.5)}
"""Width of the quantiles, evaluations, size of the error."""
FORECASTS = (Fans, Calibration, PerHorizon, Windows)


def series(items=3, steps=400, seed=0, **attrs):
    rng = np.random.default_rng(seed)
    y = 50 + 20 * np.sin(2 * np.pi * np.arange(steps) / 12)[None] + 5 * rng.standard_normal((items, steps))
    time = pd.date_range("2024-01-01", periods=steps, freq="h")
    return panel(y, time, [f"s{i}" for i in range(items)], freq="h", season=12, key="toy", attrs={"units": "kW"} | attrs)


def answer(case, truth, width, nfe, error, seed):
    rng = np.random.default_rng(seed)
    centre = truth + 5 * error * rng.standard_normal(truth.shape)
    z = np.sqrt(2) * np.array([math.copysign(abs(2 * level - 1) ** 1.2, level - 0.5) for level in LEVELS])
    where = horizon_of(case.measurement) if case.measurement.attrs.get("horizon") else case.measurement
    if nfe:
        paths = centre[:, None] + 5 * width * rng.standard_normal((len(truth), 40, truth.shape[1]))
        return Estimate(forecast(where, samples=paths), nfe)
    return Estimate(forecast(where, quantiles=centre[:, None] + 5 * width * z[None, :, None], mean=centre), nfe)


class Run:
    """A run in memory: cases by setting, and estimates by label, case and setting."""

    def __init__(self, cases, estimates, settings=({},), has_rows=True):
        self.folder, self.settings, self.held, self.estimates = None, [dict(one) for one in settings], cases, estimates
        self.labels = list(dict.fromkeys(label for label, _, _ in estimates))
        self.recipe = SimpleNamespace(title="A run", resolved={"methods": {label: {} for label in self.labels}})
        self.has_rows = has_rows

    @property
    def rows(self):
        rows = []
        for number, setting in enumerate(self.settings if self.has_rows else []):
            for label in self.labels:
                pairs = [
                    (one, self.held[number][key])
                    for (name, key, at), one in self.estimates.items()
                    if (name, at) == (label, number) and one
                ]
                if pairs and "quantiles" in pairs[0][0].data and pairs[0][1].truth is not None:
                    value = CRPS().over(pairs)["crps"].value
                    rows.append(
                        {"method": label, "case": "all", "seed": 0, "setting": setting, "metric": "crps", "unit": "", "value": value}
                    )
        return pd.DataFrame(rows, columns=["method", "case", "seed", "setting", "metric", "unit", "value"])

    def cases(self):
        return list(self.held[0])

    def case(self, key, setting):
        return self.held[self.settings.index(dict(setting))][key]

    def estimate(self, label, key, setting):
        return self.estimates.get((label, key, self.settings.index(dict(setting))))

    def pairs(self, label, number=0):
        return [(self.estimates[label, key, number], case) for key, case in self.held[number].items()]


def made(windows=6, settings=({},), lost=(), is_blind=False, **attrs):
    data = series(**attrs)
    held, estimates = [], {}
    for number, setting in enumerate(settings):
        task = Forecast(horizon=H, context=48, windows=windows, stride=24, missing=setting.get("task.missing", "none"))
        found = {case.key: case for case in task.cases([data])}
        for place, (key, case) in enumerate(found.items()):
            for label, look in METHODS.items():
                estimates[label, key, number] = None if label in lost else answer(case, case.truth["y"].values, *look, seed=place)
        held.append({key: replace(case, truth=None) for key, case in found.items()} if is_blind else found)
    return Run(held, estimates, settings)


@pytest.fixture(scope="module")
def run():
    return made()


@pytest.fixture(scope="module")
def drawn(run):
    return {figure: list(figure().draw(run)) for figure in FORECASTS}


def words(figure):
    """Every text of a page that is seen."""
    return [found.get_text() for found in figure.findobj(Text) if found.get_visible() and found.get_text()]


def line(axes, label):
    (found,) = [one for one in axes.get_lines() if one.get_label() == label]
    return np.asarray(found.get_ydata(), dtype=float)


def check(one):
    """A picture is readable: a sentence, few panels, tick labels that keep clear of each other and of the edge."""
    assert isinstance(one, Drawn)
    assert one.title
    assert one.caption.endswith(".")
    assert "  " not in one.title + one.caption
    assert "nan" not in one.caption
    assert not set(one.name) - set("abcdefghijklmnopqrstuvwxyz0123456789-.")
    assert len(one.figure.axes) <= 8
    assert one.figure.get_figwidth() == 7.6
    one.figure.savefig(io.BytesIO(), format="png", dpi=60)
    for axes in one.figure.axes:
        for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
            boxes = [text.get_window_extent() for text in labels if text.get_visible() and text.get_text()]
            inside = [box for box in boxes if box.x1 > 0 and box.x0 < one.figure.bbox.x1 and axes.bbox.padded(20).overlaps(box)]
            clash = [(a, b) for i, a in enumerate(inside) for b in inside[i + 1 :] if a.shrunk(0.98, 0.9).overlaps(b.shrunk(0.98, 0.9))]
            assert not clash, (one.name, [text.get_text() for text in labels])


# ---- fan charts


@pytest.fixture(scope="module")
def window(run):
    key = run.cases()[2]
    return run.case(key, {}), run.estimate("wide", key, {})


def test_a_fan_shows_what_was_observed_what_was_found_and_what_was_to_be_found(window):
    case, estimate = window
    figure = fan_chart(case.measurement, estimate.data, truth=case.truth, levels=(10, 50, 90), items=["s1"], back=30)
    (axes,) = figure.axes
    past = case.measurement["y"].sel(item="s1").values[-30 - H : -H]
    np.testing.assert_array_equal(line(axes, "observed"), [*past, *[np.nan] * H])
    found = estimate.data.sel(item="s1")["quantiles"]
    np.testing.assert_array_equal(line(axes, "median")[-H - 1 :], [past[-1], *found.sel(level=0.5).values])
    np.testing.assert_array_equal(line(axes, "truth")[-H:], case.truth["y"].sel(item="s1").values)
    assert next(one for one in axes.get_lines() if one.get_label() == "truth").get_linestyle() != "-"
    paths = [one for one in axes.get_lines() if one.get_label() == "paths"]
    assert len(paths) == 5
    np.testing.assert_allclose(paths[3].get_ydata()[-H:], estimate.data["samples"].sel(item="s1").values[3], rtol=1e-6)  # float32
    (band,) = [one for one in axes.collections if isinstance(one, PolyCollection)]
    corners = band.get_paths()[0].vertices
    for level in (0.1, 0.9):
        for value in found.sel(level=level).values:
            assert np.isclose(corners[:, 1], value).any()
    assert corners[:, 0].min() == date2num(case.measurement["time"].values[-H - 1])  # opens at the last value that was observed
    assert {"80 % band", "kW", "s1", "1 of 3 series"} <= set(words(figure))


def test_missing_values_of_the_past_are_gaps_in_the_line(window):
    case, estimate = window
    y = case.measurement["y"].values.copy()
    y[:, -20:-15] = np.nan
    y[:, -22] = np.nan  # leaves a value that stands alone
    figure = fan_chart(case.measurement.assign(y=(("item", "time"), y)), estimate.data, items=["s0"])
    (axes,) = figure.axes
    observed = line(axes, "observed")
    assert np.isnan(observed[[-20, -16, -22]]).all()
    assert np.isfinite(observed[[-21, -23, -14]]).all()
    dots = [one for one in axes.get_lines() if one.get_marker() == "." and len(one.get_xdata())]
    assert [list(one.get_ydata()) for one in dots] == [[y[0, -21]]]


def test_what_was_observed_last_is_seen_before_a_gap_at_the_origin(window):
    case, estimate = window
    y = case.measurement["y"].values.copy()
    y[:, -H - 100 :] = np.nan
    (axes,) = fan_chart(case.measurement.assign(y=(("item", "time"), y)), estimate.data, items=["s0"]).axes
    assert np.isfinite(line(axes, "observed")).sum() == 18  # half of three seasons


def test_an_imputation_has_bands_in_its_gaps_alone_and_they_close_at_what_was_observed():
    case = list(Impute(length=60, windows=2, stride=60, missing="block", gaps=12).cases([series()]))[0]
    y = case.measurement["y"].values
    quantiles = np.nan_to_num(y, nan=50.0)[:, None] + 10 * (np.array(LEVELS) - 0.5)[None, :, None]
    estimate = forecast(case.measurement, quantiles=quantiles)
    figure = fan_chart(case.measurement, estimate, truth=case.truth, levels=(10, 90), items=["s2"])
    (axes,) = figure.axes
    gap = np.flatnonzero(np.isnan(y[2]))
    (band,) = [one for one in axes.collections if isinstance(one, PolyCollection)]
    (area,) = band.get_paths()
    at = date2num(case.measurement["time"].values)
    inside = area.vertices[(area.vertices[:, 0] > at[gap[0] - 1] + 1e-6) & (area.vertices[:, 0] < at[gap[-1] + 1] - 1e-6)]
    np.testing.assert_allclose(np.abs(inside[:, 1] - 50), 4)  # 10 (0.9 - 0.5)
    ends = area.vertices[np.abs(area.vertices[:, 0] - at[gap[0] - 1]) < 1e-6]
    np.testing.assert_allclose(ends[:, 1], y[2, gap[0] - 1])
    assert area.vertices[:, 0].min() >= at[gap[0] - 1]
    assert area.vertices[:, 0].max() <= at[gap[-1] + 1]
    np.testing.assert_array_equal(line(axes, "truth")[gap], case.truth["y"].values[2, gap])


def test_series_with_most_gaps_are_shown_of_an_imputation_and_a_long_one_around_its_longest_gap():
    y = np.arange(6000.0)[None] % 97 + np.zeros((12, 1))
    for item, gap in ((3, 4), (7, 9), (9, 2)):
        y[item, 3000 : 3000 + gap] = np.nan
    data = panel(y, pd.date_range("2024-01-01", periods=6000, freq="h"), [f"s{i}" for i in range(12)], freq="h", season=24)
    estimate = forecast(data, quantiles=np.repeat(np.nan_to_num(y)[:, None], len(LEVELS), 1))
    figure = fan_chart(data, estimate, most=2)
    assert {"s3", "s7"} <= set(words(figure))
    assert "s9" not in words(figure)
    left, right = figure.axes[1].get_xlim()
    assert left < date2num(data["time"].values[3000]) < date2num(data["time"].values[3008]) < right
    assert len(line(figure.axes[1], "observed")) < 200


@pytest.mark.parametrize(
    ("levels", "bands"),
    [
        ((10, 50, 90), [(80, 10, 90)]),
        ((50,), []),
        ((2.5, 25, 75, 97.5), [(95, 2.5, 97.5), (50, 25, 75)]),
        ((90,), [(80, 10, 90)]),
        ((20, 90), [(80, 10, 90), (60, 20, 80)]),
    ],
)
def test_levels_make_central_bands(levels, bands):
    assert central(levels) == bands


def test_levels_and_series_that_cannot_be_drawn_are_refused_in_a_sentence(run, window):
    case, estimate = window
    with pytest.raises(UserError, match="percentages between 0 and 100, got 0"):
        fan_chart(case.measurement, estimate.data, levels=(0, 50))
    points = run.estimate("honest", case.key, {})
    with pytest.raises(UserError, match="0.005 lies outside"):
        fan_chart(case.measurement, points.data, levels=(0.5,))
    with pytest.raises(DataError, match="the panel has no series 'x'"):
        fan_chart(case.measurement, estimate.data, items=["x"])
    with pytest.raises(DataError, match="the estimate has no series 's2'"):
        fan_chart(case.measurement, estimate.data.isel(item=[0, 1]))
    with pytest.raises(UserError, match="most must be at least 1, got 0"):
        fan_chart(case.measurement, estimate.data, most=0)


def test_a_picture_never_has_more_than_eight_panels():
    run = made(windows=1, items=20)
    (key,) = run.cases()
    figure = fan_chart(run.case(key, {}).measurement, run.estimate("wide", key, {}).data, most=30)
    assert len(figure.axes) == 8
    assert "8 of 20 series" in words(figure)


def test_a_forecast_gone_astray_does_not_set_the_scale(window):
    case, estimate = window
    far = estimate.data.assign(quantiles=estimate.data["quantiles"] + 1e6 * (estimate.data["level"] - 0.5))
    (axes,) = fan_chart(case.measurement, far, items=["s0"]).axes
    low, high = axes.get_ylim()
    shown = case.measurement["y"].values[0, -54:-H]
    assert high - low < 4 * np.ptp(shown)


def test_names_are_no_formulas_and_stamps_that_are_not_the_series_own_are_not_shown():
    run = made(windows=1, units="$")
    (key,) = run.cases()
    case, estimate = run.case(key, {}), run.estimate("wide", key, {}).data
    names = ["a$b$", "x" * 50, "c"]
    there = case.measurement.assign_coords(item=names)
    figure = fan_chart(there, estimate.assign_coords(item=names))
    assert {r"a\$b\$", "x" * 29 + "…", r"\$"} <= set(words(figure))
    figure.savefig(io.BytesIO(), format="png", dpi=30)
    counted = there.assign_attrs(calendar="unknown")
    figure = fan_chart(counted, estimate.assign_coords(item=names))
    assert "steps from the origin" in words(figure)
    assert figure.axes[0].get_lines()[-1].axes.get_xlim()[1] == H - 1
    assert "times in UTC" in words(fan_chart(there.assign_attrs(tz="Europe/Berlin", clock="utc"), estimate.assign_coords(item=names)))


def test_one_step_ahead_is_a_fan_too():
    data = series(steps=60)
    case = next(iter(Forecast(horizon=1, context=24, windows=1).cases([data])))
    (axes,) = fan_chart(case.measurement, answer(case, case.truth["y"].values, 1.0, 0, 0.5, 0).data, items=["s0"]).axes
    (band,) = [one for one in axes.collections if isinstance(one, PolyCollection)]
    assert band.get_paths()


def test_gaps_are_neither_before_a_series_begins_nor_after_it_ends():
    y = np.array([[np.nan, 1, np.nan, np.nan, 2, np.nan]])
    np.testing.assert_array_equal(gaps_of(y), [[False, False, True, True, False, False]])


# ---- anomaly scores of one's own series


def test_a_score_chart_puts_scores_below_the_series_that_score_highest():
    data = series(items=7, steps=300)
    score = np.abs(np.random.default_rng(0).standard_normal((7, 200)))
    score[[1, 2, 4, 6], 50] = 30.0
    label = np.zeros((7, 200))
    label[4, 48:52] = 1
    scored = xr.Dataset({"score": (("item", "time"), score)}, {"item": data["item"].values, "time": data["time"].values[100:]})
    figure = score_chart(data, scored, labels=label, top=2)
    assert len(figure.axes) == 8
    assert {"s1", "s2", "s4", "s6", "kW", "score", "not scored", "labelled anomalous"} <= set(words(figure))
    assert "s0" not in words(figure)
    below = figure.axes[5]
    np.testing.assert_array_equal(below.get_lines()[0].get_ydata(), [*[np.nan] * 100, *score[4]])
    marks = below.get_lines()[1].get_ydata()
    assert len(marks) == 2
    assert marks[0] == 30.0
    spans = [patch for patch in figure.axes[4].patches if patch.get_label() == "labelled anomalous"]
    assert len(spans) == 1
    with pytest.raises(DataError, match="scores of series that the panel does not have: z"):
        score_chart(data, scored.assign_coords(item=["z", *data["item"].values[1:]]))


def test_a_score_chart_takes_scores_of_all_steps_with_none_in_the_training_part():
    data = series(items=1, steps=300)
    score = np.where(np.arange(300) < 150, np.nan, 1.0)[None]
    figure = score_chart(data, xr.Dataset({"score": (("item", "time"), score)}, {"item": data["item"].values, "time": data["time"].values}))
    assert "not scored" in words(figure)
    empty = xr.Dataset({"score": (("item", "time"), score * np.nan)}, {"item": data["item"].values, "time": data["time"].values})
    score_chart(data, empty).savefig(io.BytesIO(), format="png", dpi=30)


def test_peaks_are_highest_of_their_neighbourhood_and_shoulders_are_none():
    score = np.exp(-(((np.arange(500) - 200) / 30.0) ** 2)) + 0.5 * np.exp(-(((np.arange(500) - 400) / 5.0) ** 2))
    score[:20] = np.nan
    assert peaks(score, 2) == [200, 400]
    assert peaks(np.full(10, np.nan), 3) == []
    assert runs(np.array([1, 1, 0, 1])) == [(0, 2), (3, 4)]


# ---- pictures of runs of forecasts


@pytest.mark.parametrize("figure", FORECASTS)
def test_a_picture_of_a_run_is_readable_and_brings_its_numbers(figure, drawn):
    assert isinstance(figure(), Figure)
    assert drawn[figure]
    assert len({one.name for one in drawn[figure]}) == len(drawn[figure])
    for one in drawn[figure]:
        check(one)
        assert len(one.data)


def test_fans_are_a_row_a_series_a_column_a_method_and_one_scale_a_row(run, drawn):
    first, second = drawn[Fans]
    assert [first.case, second.case] == [run.cases()[1], run.cases()[4]]  # evenly spread, whatever the scores
    axes = first.figure.axes
    assert [one.get_title(loc="left") for one in axes] == ["honest", "narrow", "wide", "", "", ""]
    assert len({one.get_ylim() for one in axes[:3]}) == 1
    assert len({one.get_ylim() for one in axes[3:]}) == 1
    assert axes[0].get_ylabel() == "s0, kW"
    assert {"80 % band", "50 % band", "truth", "paths"} <= set(words(first.figure))
    values = {label: crps_of([(run.estimate(label, first.case, {}), run.case(first.case, {}))]) for label in ("honest", "narrow", "wide")}
    inside = Coverage().over([(run.estimate("wide", first.case, {}), run.case(first.case, {}))])["coverage-80"].value
    assert f"over all 3 series: {compared(values)}." in first.caption
    assert f"wide {inside:.0f} %" in first.caption
    assert set(first.data["method"]) == {"honest", "narrow", "wide"}
    one = first.data[(first.data["method"] == "wide") & (first.data["series"] == "s0")]
    np.testing.assert_allclose(one["low-80"], run.estimate("wide", first.case, {}).data["quantiles"].sel(item="s0", level=0.1))
    np.testing.assert_array_equal(one["truth"], run.case(first.case, {}).truth["y"].sel(item="s0"))


def test_fans_show_the_methods_and_series_asked_for(run):
    (one,) = Fans(windows=1, methods=("wide", "naive"), series=("s2",), levels=(50.0,)).draw(run)
    assert [axes.get_title(loc="left") for axes in one.figure.axes] == ["wide", "naive"]
    assert one.figure.axes[0].get_ylabel() == "s2, kW"
    assert not [axes for axes in one.figure.axes if [c for c in axes.collections if isinstance(c, PolyCollection)]]
    with pytest.raises(UserError, match="at most 8 panels, got 3 series by 3 methods"):
        Fans(rows=3)
    with pytest.raises(UserError, match="at least 1, got 2, 0 and 3"):
        Fans(rows=0)
    with pytest.raises(UserError, match="figures show methods of the run, got sirt; there are naive"):
        list(Fans(methods=("sirt",)).draw(run))


def test_gaps_of_an_imputation_are_fans_too():
    found = {case.key: case for case in Impute(length=48, windows=2, stride=48, missing="rm", gaps=12).cases([series()])}
    estimates = {}
    for key, case in found.items():
        truth = np.where(np.isnan(case.truth["y"].values), case.measurement["y"].values, case.truth["y"].values)
        estimates["honest", key, 0] = answer(case, truth, 1.0, 0, 0.6, 0)
    view = Run([found], estimates)
    one, _ = Fans().draw(view)
    check(one)
    assert one.title.startswith("Gaps from")
    assert len(one.data) == 2 * 12
    (calibration,) = Calibration().draw(view)
    check(calibration)
    assert list(PerHorizon().draw(view)) == []


def test_calibration_counts_targets_below_quantiles_with_bars_over_windows(run, drawn):
    (one,) = drawn[Calibration]
    assert set(one.data["method"]) == {"honest", "narrow", "wide"}  # a point forecast has no spread
    assert len(one.figure.axes) == 6
    expected = coverage_curve(run.pairs("honest"))
    cover = one.data[(one.data["method"] == "honest") & (one.data["kind"] == "coverage")]
    for name in ("share", "low", "high"):
        np.testing.assert_allclose(cover[name], expected[name])
    np.testing.assert_allclose(one.figure.axes[0].get_lines()[1].get_ydata(), 100 * expected["share"])
    for method in ("honest", "narrow", "wide"):
        pit = one.data[(one.data["method"] == method) & (one.data["kind"] == "pit")]
        assert pit["share"].sum() == pytest.approx(1)
        inside = Coverage().over(run.pairs(method))["coverage-80"].value
        low, high = binomial_bar(inside / 100, 6)
        assert f"{method} {inside:.1f} % ({100 * low:.0f} to {100 * high:.0f} %)" in one.caption
    assert "over 6 windows" in one.caption
    heights = [bar.get_height() for bar in one.figure.axes[3].patches]
    assert np.mean(heights) == pytest.approx(1)  # a density


def test_only_the_best_are_calibrated_where_there_are_many_and_all_are_in_the_numbers(run):
    (one,) = Calibration(columns=2).draw(run)
    scores = {label: crps_of(run.pairs(label)) for label in ("honest", "narrow", "wide")}
    assert [axes.get_title(loc="left") for axes in one.figure.axes[:2]] == best(scores, 2)
    assert "(the 2 of lowest CRPS)" in one.caption
    assert set(one.data["method"]) == set(scores)


def test_the_score_by_step_is_the_metric_and_its_mean_the_crps(run, drawn):
    (one,) = drawn[PerHorizon]
    (axes,) = one.figure.axes
    for label in METHODS:
        np.testing.assert_allclose(line(axes, label), crps_by_step(run.pairs(label)))
        own = one.data[one.data["method"] == label]
        assert own["crps"].mean() == pytest.approx(crps_of(run.pairs(label)))
    scores = {label: crps_of(run.pairs(label)) for label in METHODS}
    first = min(scores, key=scores.__getitem__)
    assert one.caption.startswith(f"{first} has the lowest CRPS, {scores[first]:.4f} on the whole")
    table = one.data.pivot(index="step", columns="method", values="crps")
    assert f"it is lowest at {int((table.idxmin(axis=1) == first).sum())} of {H} steps." in one.caption


def test_every_window_has_its_own_score_over_time(run, drawn):
    (one,) = drawn[Windows]
    assert len(one.data) == 6 * len(METHODS)
    for label in METHODS:
        own = one.data[one.data["method"] == label].set_index("window")["crps"]
        for estimate, case in run.pairs(label):
            assert own[case.key] == pytest.approx(crps_of([(estimate, case)]))
    table = one.data.pivot(index="window", columns="method", values="crps")
    scores = {label: crps_of(run.pairs(label)) for label in METHODS}
    first = min(scores, key=scores.__getitem__)
    wins = int((table.idxmin(axis=1) == first).sum())
    assert f"{first} has the lowest CRPS over all, {scores[first]:.4f}, and the lowest of all methods in {wins} of 6 windows" in one.caption
    assert f"has {table[first].max():.4f}." in one.caption
    assert len(one.figure.axes[0].get_lines()) == 4


def test_windows_without_a_calendar_are_numbered():
    data = series().assign_attrs(calendar="unknown")
    found = {case.key: case for case in Forecast(horizon=H, context=48, windows=3, stride=24).cases([data])}
    view = Run(
        [found], {("honest", key, 0): answer(case, case.truth["y"].values, 1.0, 0, 0.6, n) for n, (key, case) in enumerate(found.items())}
    )
    (one,) = Windows().draw(view)
    check(one)
    np.testing.assert_array_equal(one.figure.axes[0].get_lines()[0].get_xdata(), [1, 2, 3])
    assert "its worst window (number " in one.caption


@pytest.mark.parametrize("figure", FORECASTS)
def test_settings_that_vary_are_told_apart(figure):
    varied = made(windows=5, settings=({"task.missing": "none"}, {"task.missing": "bm-e"}))
    pictures = list(figure().draw(varied))
    assert len({one.name for one in pictures}) == len(pictures)
    text = " ".join(one.title + one.caption for one in pictures)
    assert "issing none" in text
    assert "issing bm-e" in text
    for one in pictures:
        check(one)


def test_the_scores_of_all_settings_by_step_fit_into_one_scale():
    varied = made(windows=2, settings=({"task.gaps": 0}, {"task.gaps": 1}))
    for key in varied.cases():
        estimate = varied.estimates["honest", key, 1]
        varied.estimates["honest", key, 1] = Estimate(estimate.data.assign(quantiles=3 * estimate.data["quantiles"]))
    (one,) = PerHorizon().draw(varied)
    one.figure.draw_without_rendering()
    low, high = one.figure.axes[1].get_ylim()
    assert one.figure.axes[0].get_ylim() == (low, high) == (0, high)
    assert high > one.data["crps"].max()


@pytest.mark.parametrize("figure", FORECASTS)
def test_methods_that_failed_are_left_out(figure):
    half = made(windows=3, lost=("naive", "wide"))
    for one in figure().draw(half):
        assert not [word for word in words(one.figure) if "wide" in word or "naive" in word]
        assert "wide" not in one.caption
    assert list(figure().draw(made(windows=3, lost=METHODS))) == []


@pytest.mark.parametrize("figure", FORECASTS)
def test_a_run_without_a_truth_is_drawn_as_far_as_it_goes(figure):
    pictures = list(figure().draw(made(windows=3, is_blind=True)))
    assert bool(pictures) == (figure is Fans)
    for one in pictures:
        check(one)
        assert "the truth is not known" in one.caption
        assert "truth" not in words(one.figure)


def test_a_run_without_a_table_and_a_single_window_are_drawn():
    single = made(windows=1)
    single.has_rows = False
    (fans,) = Fans().draw(single)
    check(fans)
    assert len(fans.figure.axes) == 6
    assert list(Windows().draw(single)) == []
    (calibration,) = Calibration().draw(single)
    assert "over 1 window." in calibration.caption


def test_targets_that_are_all_zero_have_no_score_and_are_drawn():
    empty = series()
    empty["y"][:, -200:] = 0.0
    found = {case.key: case for case in Forecast(horizon=H, context=48, windows=3, stride=24).cases([empty])}
    view = Run(
        [found], {("honest", key, 0): answer(case, case.truth["y"].values, 1.0, 0, 0.6, 0) for key, case in found.items()}, has_rows=False
    )
    for figure in FORECASTS:
        for one in figure().draw(view):
            check(one)


# ---- evaluations


def steps_run(factor):
    base = made(windows=8)
    labels = {"pigdm-6": 6, "pigdm-10": 10, "pigdm-20": 20, "pigdm-ancestral-100": 100, "told-20": 20, "told-ancestral-100": 100}
    estimates = {}
    for label, nfe in labels.items():
        for estimate, case in base.pairs("honest"):
            truth = case.truth["y"].values[:, None]
            data = estimate.data.assign(quantiles=truth + (estimate.data["quantiles"] - truth) * factor.get(label, 1.0))
            estimates[label, case.key, 0] = Estimate(data, nfe)
    estimates |= {("naive", key, 0): base.estimates["naive", key, 0] for key in base.cases()}
    return Run(base.held, estimates)


def test_steps_say_the_fewest_evaluations_within_two_percent_of_many_ancestral_steps():
    run = steps_run({"pigdm-6": 1.5, "pigdm-10": 1.015, "pigdm-20": 1.0, "told-20": 1.1})
    (one,) = Steps().draw(run)
    check(one)
    reference = crps_of(run.pairs("pigdm-ancestral-100"))
    table = one.data.set_index("method")
    assert set(table["family"]) == {"pigdm", "told"}  # a method without evaluations is no point
    np.testing.assert_allclose(table.loc[["pigdm-6", "pigdm-10", "pigdm-20"], "ratio"], [1.5, 1.015, 1.0])  # losses are homogeneous
    np.testing.assert_allclose(table.loc["pigdm-6", ["ratio-low", "ratio-high"]].astype(float), 1.5)  # the same factor in every window
    assert (
        f"pigdm: 10 evaluations are within 2 % of 100 ancestral steps ({reference:.4f}): CRPS {1.015 * reference:.4f}, +1.5 %."
        in one.caption
    )
    assert "told: none is within 2 % of 100 ancestral steps" in one.caption
    assert "20 evaluations, +10.0 %." in one.caption
    pigdm, told = one.figure.axes
    np.testing.assert_allclose(pigdm.get_lines()[-1].get_xdata(), [6, 10, 20])
    np.testing.assert_allclose(pigdm.get_lines()[-1].get_ydata(), np.array([1.5, 1.015, 1.0]) * reference)
    np.testing.assert_allclose(pigdm.get_lines()[0].get_ydata(), reference)
    band = pigdm.patches[0]
    assert (band.get_y(), band.get_y() + band.get_height()) == pytest.approx((0.98 * reference, 1.02 * reference))
    assert pigdm.get_ylim() == told.get_ylim()
    assert {"evaluations a path", "CRPS", "100 ancestral steps, ±2 %"} <= set(words(one.figure))


def test_steps_without_a_reference_or_with_windows_lost_are_drawn():
    run = steps_run({"pigdm-6": 1.5})
    for key in run.cases():
        run.estimates["pigdm-ancestral-100", key, 0] = None
    run.estimates["told-20", run.cases()[0], 0] = None
    (one,) = Steps().draw(run)
    check(one)
    assert "pigdm: lowest CRPS" in one.caption
    assert math.isnan(one.data.set_index("method").loc["told-20", "ratio-low"])  # other windows than the reference
    assert list(Steps().draw(made(windows=1, lost=("narrow", "wide")))) == []
    with pytest.raises(UserError, match="within must be positive, got 0"):
        Steps(within=0)


# ---- anomaly scores


def scored_run(is_series):
    rng = np.random.default_rng(0)
    if is_series:
        label = np.zeros((1, 600))
        label[0, 450:460] = 1
        item = series(items=1, steps=600).assign(label=(("item", "time"), label))
        case = next(iter(Anomaly(window=20).cases([item])))
    else:
        label = (rng.random(900) < 0.1).astype(float)
        x = rng.standard_normal((900, 3)) + 3 * label[:, None]
        item = xr.Dataset(
            {"x": (("sample", "feature"), x), "label": ("sample", label)},
            {"sample": np.arange(900), "feature": list("abc")},
            {"key": "blobs"},
        )
        case = next(iter(Anomaly().cases([item])))
    truth = case.truth["label"]
    estimates = {}
    for name, strength in (("blind", 0.0), ("fair", 1.5), ("sharp", 20.0)):
        score = np.exp(strength * np.nan_to_num(truth.values) + rng.standard_normal(truth.shape))
        estimates[name, case.key, 0] = Estimate(xr.Dataset({"score": (truth.dims, score)}, truth.coords))
    estimates["broken", case.key, 0] = None
    return Run([{case.key: case}], estimates)


@pytest.mark.parametrize("is_series", [True, False], ids=["series", "points"])
def test_scores_stand_beside_their_labels_and_the_roc_curve_has_the_area_of_the_metric(is_series):
    run = scored_run(is_series)
    (key,) = run.cases()
    (one,) = Scores().draw(run)
    check(one)
    area = {name: AUROC()(run.estimates[name, key, 0], run.case(key, {}))["auroc"].value for name in ("blind", "fair", "sharp")}
    for name, value in area.items():
        assert f"{name} {value:.4f}" in one.caption
        assert f"{name} {value:.4f}" in words(one.figure)
        curve = one.data[one.data["method"] == name]
        if not is_series:  # few enough thresholds to keep nearly all
            assert np.trapezoid(curve["found"], curve["false_alarms"]) == pytest.approx(value, abs=0.02)  # thinned to 300 points
        assert curve["found"].is_monotonic_increasing
        assert (curve["false_alarms"].iloc[-1], curve["found"].iloc[-1]) == (1.0, 1.0)
    assert one.caption.startswith(f"Highest AUROC: sharp {area['sharp']:.4f} (")
    assert "at 1 % false alarms it finds 100.0 % of" in one.caption
    assert "broken" not in words(one.figure)
    if is_series:
        assert len(one.figure.axes) == 5
        np.testing.assert_array_equal(one.figure.axes[3].get_lines()[0].get_ydata(), run.estimates["sharp", key, 0].data["score"].values[0])
        assert {"labelled anomalous", "kW"} <= set(words(one.figure))
    else:
        shares = one.figure.axes[2].patches[0].get_data().values
        assert shares.sum() == pytest.approx(100)
        assert {"normal", "anomalous", "share, %"} <= set(words(one.figure))


# ---- synthetic windows


def test_synthetic_windows_stand_beside_held_out_ones_with_their_second_moments():
    task = Synthesise(context=48, horizon=12, windows=6, stride=12, count=60)
    (case,) = task.cases([series(steps=900)])
    ask = replace(case, truth=None)
    methods = {"real-windows": RealWindows(), "phase-surrogates": RealWindows("phase")}
    run = Run(
        [{case.key: case}],
        {(label, case.key, 0): method(ask, None, 0) for label, method in methods.items()} | {("gone", case.key, 0): None},
    )
    (one,) = Synthetic().draw(run)
    check(one)
    titles = [axes.get_title(loc="left") for axes in one.figure.axes[:3]]
    assert titles == ["held out", "real-windows", "phase-surrogates"]
    assert len({axes.get_ylim() for axes in one.figure.axes[:3]}) == 1
    held = case.truth["windows"].values.astype(float)
    for kind, expected in (("acf", autocorrelation(held, 30).mean(0)), ("spectrum_db", log_periodogram(held).mean(0))):
        found = one.data[(one.data["method"] == "held out") & (one.data["kind"] == kind)]
        np.testing.assert_allclose(found["value"], expected)
    cycles = one.data[(one.data["method"] == "held out") & (one.data["kind"] == "spectrum_db")]["at"].to_numpy()
    assert cycles[np.argmax(log_periodogram(held).mean(0))] == pytest.approx(1)  # the season of 12 steps
    for label in methods:
        estimate = run.estimates[label, case.key, 0]
        near, power = ACFDistance()(estimate, case)["acf-distance"].value, SpectrumDistance()(estimate, case)["spectrum-distance"].value
        assert f"{label} {near:.3f} and {power:.2f} dB" in one.caption
    assert f"{len(held)} held-out and 60 synthetic windows" in one.caption
    assert {"autocorrelation", "power, dB", "frequency, cycles in 12 steps", "lag, steps (h)"} <= set(words(one.figure))
    blind = Run([{case.key: ask}], run.estimates)
    assert list(Synthetic().draw(blind)) == []


# ---- ECG


def beats(rate, count, seed=0, lost=0.0):
    """Records of narrow peaks at a rate; ``lost`` breaks Einthoven's identities."""
    rng = np.random.default_rng(seed)
    time = np.arange(400) / 100
    phase = (time[None] + rng.random((count, 1))) * rate / 60 % 1
    wave = np.exp(-(((phase - 0.5) / 0.02) ** 2)) + 0.2 * np.exp(-(((phase - 0.75) / 0.06) ** 2))
    leads = complete(wave[:, None] * np.linspace(0.5, 1.2, 8)[None, :, None])
    leads[:, 2] += lost * rng.standard_normal(leads[:, 2].shape)
    return records(leads, np.full(count, rate), 100, key="toy")


def ecg_run():
    held, estimates = {}, {}
    for rate in (60.0, 90.0):
        asked = xr.Dataset(
            {"heart_rate": ((), rate)}, {"lead": beats(rate, 1)["lead"], "time": beats(rate, 1)["time"]}, {"sampling_rate": 100}
        )
        key = f"toy-{rate:g}-bpm"
        held[key] = Case(key, beats(rate + 1, 2), asked, {"simulated": "toy beats"})
        for number, label in enumerate(("resampled", "diffusion", "broken")):
            estimates[label, key, 0] = None if label == "broken" else Estimate(beats(rate, 2, number + 1, lost=0.1 * number), 20 * number)
    return Run([held], estimates)


def test_generated_records_stand_beside_a_held_out_one_lead_by_lead():
    pytest.importorskip("neurokit2", reason="heart rates are found by neurokit2 (pip install 'unstir[ecg]')")
    run = ecg_run()
    first, second = Leads().draw(run)
    for one in (first, second):
        check(one)
        assert [axes.get_title(loc="left") for axes in one.figure.axes] == ["held out", "resampled", "diffusion"]
        assert {"time, s", "1 mV", "aVR", "V6"} <= set(words(one.figure))
        assert all(len(axes.get_lines()) == 13 for axes in one.figure.axes)  # twelve leads and the bar
        assert one.caption.endswith("Data: toy beats.")
    own = first.data[first.data["record"] == "diffusion"]
    np.testing.assert_allclose(own["V6"], run.estimates["diffusion", run.cases()[0], 0].data["ecg"].values[0, -1], rtol=1e-6)  # float32
    lead = first.figure.axes[2].get_lines()[0]
    np.testing.assert_allclose(lead.get_ydata(), own["I"])
    assert to_rgb(lead.get_color()) == to_rgb(FOUND)
    assert to_rgb(first.figure.axes[0].get_lines()[0].get_color()) == to_rgb(INK)
    assert first.caption.startswith(
        "Asked for 60 beats per minute; found in the records shown, in lead V3: held out 61.0 (Einthoven 0.0 %)"
    )
    assert "resampled 60.0 (Einthoven 0.0 %)" in first.caption
    assert "resampled 90" in second.caption


def test_records_are_drawn_where_no_heart_rate_can_be_found(monkeypatch):
    def lacking(*_):
        raise MissingExtra("pip install 'unstir[ecg]'")

    monkeypatch.setattr("unstir_timeseries.ecg.metrics.heart_rate", lacking)
    one, _ = Leads().draw(ecg_run())
    assert "no rate without neurokit2" in one.caption


# ---- small things


def test_places_are_spread_evenly_and_settings_and_scores_are_said_in_words():
    assert [spread(45, 2), spread(3, 5), spread(10, 1), spread(20, 2)] == [[11, 33], [0, 1, 2], [4], [4, 14]]
    assert setting_words({"task.missing": "rm", "methods.a.flip": False, "task.noise": 0.5}) == "missing rm, no flip, noise 0.5"
    assert compared({"a": 0.2, "b": 0.1, "c": math.nan}) == "b 0.1000 (a 0.2000)"
    assert compared({"c": math.nan}) == "no score"
    assert best({"a": 3.0, "b": math.nan, "c": 1.0}, 2) == ["a", "c"]


def test_titles_come_from_the_recipe_unless_two_share_one():
    named = made(windows=2)
    named.recipe.resolved["methods"] = {"naive": {"title": "Last season"}, "honest": {"title": "same"}, "wide": {"title": "same"}}
    (one,) = PerHorizon().draw(named)
    assert {"Last season", "honest", "wide", "narrow"} <= set(words(one.figure))


# ---- the page


@pytest.fixture(scope="module")
def picture():
    from matplotlib.figure import Figure as Page

    return Page(figsize=(2, 1))


def table(rows=60):
    stamps = pd.date_range("2024-03-01", periods=rows, freq="h")
    return pd.DataFrame(
        {"unique_id": "<script>x</script>", "ds": stamps, "mean": np.linspace(1, 123456.7, rows), "q0.5": -1.5, "is_imputed": True}
    )


def judged(windows=3):
    row = {"windows": windows, "nd": 0.1, "coverage-50": 47.0, "coverage-80": 76.54, "coverage-error": 0.03}
    return pd.DataFrame([{"method": "tsdiff-q", "crps": 0.0512} | row, {"method": "seasonal", "crps": 0.0863} | row])


def write(folder, picture, **given):
    asked = {
        "title": "Forecast of <a & b>",
        "table": table(),
        "scores": judged(),
        "facts": {"method": "tsdiff-q", "model": None, "options": {"samples": 100}},
    }
    path = pages_module.page(folder, picture=picture, **(asked | given))
    assert path == folder / "report.html"
    assert [one.name for one in folder.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


def test_the_page_is_one_file_and_names_are_no_markup(tmp_path, picture):
    text = write(tmp_path, picture)
    assert "<script" not in text
    assert "&lt;script&gt;x&lt;/script&gt;" in text
    assert "<h1>Forecast of &lt;a &amp; b&gt;</h1>" in text
    assert 'src="data:image/png;base64,' in text
    assert "http:" not in text
    assert "https:" not in text
    assert "@media print" in text
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text


def test_the_page_shows_the_first_rows_and_says_how_many_more_there_are(tmp_path, picture):
    text = write(tmp_path, picture)
    assert text.count("<td>2024-03-0") == 48
    assert "These are the first 48 rows; 12 more are in the parquet file" in text
    for cell in ("<td>2024-03-01 00:00</td>", "<td>−1.5000</td>", "<td>yes</td>", '<th scope="col">filled</th>'):
        assert cell in text
    assert "more are in" not in write(tmp_path, picture, table=table(10))


def test_the_page_says_what_the_past_says_and_that_few_windows_say_little(tmp_path, picture):
    text = write(tmp_path, picture)
    assert "The last 3 windows of the past were forecast in the same way" in text
    assert "CRPS: tsdiff-q 0.0512 beside seasonal 0.0863." in text
    assert "did better here" not in text
    assert "held 76.5\N{NO-BREAK SPACE}% of the true values" in text
    assert "3 windows say little" in text
    assert "<td>76.5</td>" in text
    assert "seasonal did better here." in write(tmp_path, picture, scores=judged().assign(crps=[0.2, 0.1]))
    assert "One window says little" in write(tmp_path, picture, scores=judged(1))
    assert "say little" not in write(tmp_path, picture, scores=judged(45))
    assert "No window of the past was tried" in write(tmp_path, picture, scores=None)
    lost = write(tmp_path, picture, scores=judged().assign(crps=[math.nan, 0.1]))
    assert "CRPS: tsdiff-q" not in lost
    assert "<td>–</td>" in lost


def test_the_page_says_how_it_was_made(tmp_path, picture):
    text = write(tmp_path, picture)
    assert "<dt>method</dt><dd>tsdiff-q</dd>" in text
    assert "<dt>options</dt><dd>samples: 100</dd>" in text
    assert "<dt>model</dt>" not in text


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        (pd.Timestamp("2024-03-01 05:00", tz="Europe/Berlin"), "2024-03-01 05:00+0100"),
        (pd.Timestamp("2024-03-01 05:00:07"), "2024-03-01 05:00:07"),
        (np.bool_(False), "no"),
        (12345, "12,345"),
        (2024, "2024"),
        (-1e-12, "−1e-12"),
        (math.inf, "–"),
        ([0.5, "a"], "0.5, a"),
        ({}, "none"),
        ("<b>", "<b>"),
    ],
)
def test_values_are_written_for_readers(value, seen):
    assert shown(value) == seen
