"""Rolling origins without leaks, and values taken out to be found again."""

import numpy as np
import pandas as pd
import pytest

from unstir.errors import DataError, UserError
from unstir_timeseries.datasets import GEFCom
from unstir_timeseries.panel import history_of, horizon_of, panel
from unstir_timeseries.tasks import Forecast, Impute


def hours(steps=1000, items=2, seed=0):
    y = np.random.default_rng(seed).gamma(3.0, size=(items, steps))
    return panel(y, pd.date_range("2024-01-01", periods=steps, freq="h"), [f"s{i}" for i in range(items)], freq="h", season=24, key="toy")


def test_the_default_windows_on_the_load_are_w8():
    load = next(iter(GEFCom().load()))
    origins = Forecast().origins(load)
    stamps = pd.DatetimeIndex(load["time"].values[origins])
    assert len(origins) == 45
    assert stamps[0] == pd.Timestamp("2007-07-13")
    assert stamps[-1] == pd.Timestamp("2008-06-29")
    assert set(np.diff(origins)) == {192}
    assert set(stamps.day_of_week) == set(range(7))


def test_no_case_holds_its_own_future_nor_what_a_fit_must_not_see():
    data = hours()
    other = data.assign(y=data["y"].copy())
    task = Forecast(horizon=12, context=48, windows=3, stride=24)
    first = task.origins(data)[0]
    cases = list(task.cases([data]))
    for case, origin in zip(cases, task.origins(data), strict=True):
        assert np.isnan(horizon_of(case.measurement)["y"].values).all()
        np.testing.assert_array_equal(case.truth["y"].values, data["y"].values[:, origin : origin + 12])
        assert case.measurement.sizes["time"] == origin + 12
        assert case.context["training"].sizes["time"] == first
        assert case.context["training"] is cases[0].context["training"]
        changed = other.assign(y=other["y"].where(np.arange(1000) < origin, 99.0))
        again = task.case(changed, origin, changed.isel(time=slice(0, first)))
        np.testing.assert_array_equal(again.measurement["y"].values, case.measurement["y"].values)
        np.testing.assert_array_equal(again.context["training"]["y"].values, case.context["training"]["y"].values)


@pytest.mark.parametrize(("scenario", "share"), [("rm", None), ("bm-b", 0), ("bm-e", 24)])
def test_half_of_the_context_is_taken_away(scenario, share):
    data = hours()
    task = Forecast(horizon=12, context=48, windows=2, stride=24, missing=scenario)
    for case in task.cases([data]):
        lost = np.isnan(history_of(case.measurement)["y"].values)
        assert (lost.sum(1) == 24).all()
        assert not lost[:, :-48].any()
        if share is not None:
            assert lost[:, lost.shape[1] - 48 + share :][:, :24].all()
        assert np.isfinite(case.truth["y"].values).all()
    again = [case.measurement["y"].values for case in task.cases([data])]
    np.testing.assert_array_equal(again[0], next(iter(task.cases([data]))).measurement["y"].values)


def test_windows_that_do_not_fit_are_said_and_too_short_data_refused():
    with pytest.warns(UserWarning, match="4 of the 50 windows"):
        assert len(Forecast(horizon=12, context=48, windows=50, stride=24).origins(hours(140))) == 4
    with pytest.raises(DataError, match=r"toy has 50 observed steps .* takes 60 .*: 10 are missing"):
        Forecast(horizon=12, context=48).origins(hours(50))
    with pytest.raises(DataError, match="no window"):
        Forecast(horizon=12, context=48, first=2000, windows=1).origins(hours())


def test_the_first_origin_may_be_a_step_or_a_stamp():
    assert Forecast(horizon=12, context=48, windows=2, stride=24, first=100).origins(hours()) == [100, 124]
    assert Forecast(horizon=12, context=48, windows=1, first="2024-01-05").origins(hours()) == [96]


@pytest.mark.parametrize("kind", ["rm", "bm-b", "bm-e", "block"])
def test_imputation_scores_what_was_taken_away_and_nothing_else(kind):
    data = hours()
    for case in Impute(length=60, windows=3, stride=80, missing=kind, gaps=10).cases([data]):
        lost = np.isnan(case.measurement["y"].values)
        assert (lost.sum(1) == 10).all()
        np.testing.assert_array_equal(np.isfinite(case.truth["y"].values), lost)
        assert case.measurement.attrs["horizon"] == 0


def test_a_users_file_becomes_a_panel(tmp_path):
    table = pd.DataFrame({"unique_id": "a", "ds": pd.date_range("2024-01-01", periods=50, freq="h"), "y": np.arange(50.0)})
    table.to_csv(tmp_path / "Mine.csv", index=False)
    found = Forecast().read(tmp_path / "Mine.csv")
    assert found.attrs["key"] == "Mine"
    assert found.sizes == {"item": 1, "time": 50}
    daily = table.assign(unique_id="b", ds=pd.date_range("2024-01-01", periods=50, freq="D"))
    pd.concat([table, daily]).to_csv(tmp_path / "both.csv", index=False)
    with pytest.warns(UserWarning, match="several frequencies"), pytest.raises(DataError, match="several steps"):
        Forecast().read(tmp_path / "both.csv")


@pytest.mark.parametrize(
    ("task", "options", "sentence"),
    [
        (Forecast, {"horizon": 0}, "horizon must be at least 1"),
        (Forecast, {"missing": "all"}, "missing must be one of"),
        (Forecast, {"gaps": 999}, "gaps lie within"),
        (Impute, {"gaps": 400}, "fewer gaps than steps"),
        (Impute, {"missing": "none"}, "missing must be"),
    ],
)
def test_options_that_cannot_be_are_refused(task, options, sentence):
    with pytest.raises(UserError, match=sentence):
        task(**options)
