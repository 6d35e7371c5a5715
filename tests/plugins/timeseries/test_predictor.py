"""Forecasting from Python: fit and predict in the words of the field, on whatever frame a forecaster has."""

import numpy as np
import pandas as pd
import pytest

from unstir.errors import DataError, UserError
from unstir_timeseries.frames import to_panels
from unstir_timeseries.predict import TSDiff
from unstir_timeseries.predictor import SampleForecast, TSDiffPredictor, ahead, context_for, forecast

QUICK = {"steps": 3, "decay": 0, "every": 3, "width": 8, "blocks": 1, "states": 4, "batch": 4}


@pytest.fixture
def frame(table):
    """Daily series."""
    return lambda steps=200, freq="D", **more: table(steps, freq, **more)


def predictor(**more):
    return TSDiffPredictor(horizon=4, context=20, method=TSDiff(guide="pigdm", grid="logistic:4"), training=QUICK, **more)


def test_fit_and_predict_give_a_sample_forecast_a_series(frame, tmp_path):
    made = predictor().fit(frame(), tmp_path / "model")
    found = list(made.predict(frame(), num_samples=5))
    assert [item.item_id for item in found] == ["a", "b"]
    one = found[0]
    assert isinstance(one, SampleForecast)
    assert one.samples.shape == (5, 4)
    assert one.num_samples == 5
    assert one.prediction_length == 4
    assert list(one.index) == list(pd.date_range("2024-07-19", periods=4, freq="D"))
    assert one.start_date == pd.Timestamp("2024-07-19")
    np.testing.assert_array_equal(one.quantile(0.5), np.sort(one.samples, 0)[2])
    np.testing.assert_array_equal(one.quantile("0.9"), np.sort(one.samples, 0)[4])
    assert list(one.to_frame(level=[80]).columns) == ["unique_id", "ds", "mean", "median", "lo-80", "hi-80"]
    again = list(made.predict(frame(), num_samples=5))
    np.testing.assert_array_equal(one.samples, again[0].samples)


def test_series_the_model_never_saw_are_forecast_like_any_other(frame, tmp_path):
    made = predictor().fit(frame(), tmp_path / "model")
    found = list(made.predict(frame(names=("stranger",)), num_samples=3))
    assert found[0].item_id == "stranger"
    assert np.isfinite(found[0].samples).all()


def test_a_frame_in_a_tidy_frame_out(frame, tmp_path):
    made = predictor().fit(frame(), tmp_path / "model")
    table = forecast(frame(), horizon=4, levels=(10, 50, 90), model=made.model, paths=2, num_samples=8)
    assert list(table.columns) == ["unique_id", "ds", "mean", "q0.1", "q0.5", "q0.9", "path-1", "path-2"]
    assert len(table) == 8
    assert (table["q0.1"] <= table["q0.9"]).all()
    wide = frame().pivot(index="ds", columns="unique_id", values="y")
    same = forecast(wide, horizon=4, model=made.model, paths=2, num_samples=8)
    pd.testing.assert_frame_equal(table, same)


def test_missing_values_and_ragged_ends_are_no_obstacle(frame, tmp_path):
    made = predictor().fit(frame(), tmp_path / "model")
    holes = frame()
    holes.loc[holes.index % 7 == 0, "y"] = np.nan
    short = holes[(holes.unique_id == "a") | (holes.ds < "2024-07-10")]
    with pytest.warns(UserWarning, match=r"1 series end before the others \(b by 9 steps\)"):
        found = list(made.predict(short, num_samples=3))
    assert all(np.isfinite(item.samples).all() for item in found)
    assert found[0].index.equals(found[1].index)


def test_covariates_known_in_the_future_reach_over_the_horizon(frame):
    data = frame(names=("a",)).assign(price=1.0)
    data.loc[data.ds >= "2024-07-10", "y"] = np.nan  # 9 rows of the future
    panel = to_panels(data, known=("price",))[0]
    case = ahead(panel, 4)
    assert pd.Timestamp(case.measurement["time"].values[-1]) == pd.Timestamp("2024-07-13")
    assert np.isfinite(case.measurement["known"].values).all()
    with pytest.raises(DataError, match="known covariates end before"):
        ahead(panel, 20)


def test_what_cannot_be_is_refused_in_a_sentence(frame):
    with pytest.raises(UserError, match="no model yet"):
        list(predictor().predict(frame()))
    with pytest.raises(UserError, match="horizon is a whole number"):
        forecast(frame(), horizon=0)
    with pytest.raises(UserError, match="levels are percentages"):
        forecast(frame(), levels=(10, 120))
    with pytest.raises(DataError, match="it lacks"):
        predictor().fit(frame(15))
    with pytest.raises(UserError, match="between 0 and 1"):
        SampleForecast(np.zeros((2, 3)), pd.date_range("2024-01-01", periods=3), "a").quantile(1.5)
    with pytest.raises(UserError, match="between 0 and 100"):
        SampleForecast(np.zeros((2, 3)), pd.date_range("2024-01-01", periods=3), "a").to_frame(level=[100])
    nothing = to_panels(frame())[0]
    with pytest.raises(DataError, match="no observed value"):
        ahead(nothing.assign(y=nothing["y"] * np.nan), 4)
    assert context_for(to_panels(frame(60))[0], 4) == 18
