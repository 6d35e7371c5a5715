"""Windows: scaling, lags, calendar and gaps on the way in, units on the way out."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unstir.errors import CheckpointError, DataError, UserError
from unstir_timeseries.panel import panel
from unstir_timeseries.windows import Windows, clock, usual_size


def hours(y, start="2024-01-01", **more):
    y = np.atleast_2d(np.asarray(y, dtype=float))
    time = pd.date_range(start, periods=y.shape[1], freq="h")
    return panel(y, time, [f"s{i}" for i in range(len(y))], freq="h", season=24, **more)


def waves(items=3, steps=120, seed=0):
    return np.random.default_rng(seed).gamma(3.0, size=(items, steps)) * np.arange(1, items + 1)[:, None]


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(["mean", "median", "std", "last", "none"]), st.floats(1e-6, 1e6), st.integers(0, 9))
def test_what_is_encoded_is_decoded(scaling, size, seed):
    y = waves(seed=seed) * size
    windows = Windows(30, 6, calendar=(), scaling=scaling, mean=0.4, std=2.0)
    encoded = windows.encode(hours(y), [50, 120])
    back = windows.decode(encoded.values, encoded)
    wanted = np.concatenate([y[:, 14:50], y[:, 84:120]])
    near = 1e-5 * size * 9 + (1e-6 if scaling == "none" else 0)  # states are float32
    np.testing.assert_allclose(back[:, 0], wanted, rtol=2e-4, atol=near)


def test_the_scale_is_of_the_observed_context_alone():
    y = waves()
    gap = y.copy()
    gap[:, 100:105] = np.nan
    windows = Windows(30, 6, calendar=())
    scale = windows.encode(hours(gap)).scale[:, 0]
    kept = np.r_[84:100, 105:114]
    np.testing.assert_allclose(scale, np.abs(y[:, kept]).mean(1))
    y[:, 114:] *= 100  # the horizon
    leaked = windows.encode(hours(y)).scale[:, 0]
    np.testing.assert_allclose(leaked, np.abs(y[:, 84:114]).mean(1), err_msg="the future leaks into the scale")


def test_a_walk_is_counted_from_its_last_value_in_units_of_its_steps():
    y = 1000 + np.cumsum(np.random.default_rng(0).normal(size=(2, 120)), 1)
    y[0, 113] = np.nan  # the last step of the context was not observed
    encoded = Windows(30, 6, calendar=(), scaling="last").encode(hours(y))
    np.testing.assert_allclose(encoded.shift[:, 0], [y[0, 112], y[1, 113]])
    np.testing.assert_allclose(encoded.scale[:, 0], np.sqrt(np.nanmean(np.diff(y[:, 84:114]) ** 2, 1)))
    assert encoded.scale.max() < 0.1 * 1000, "the floor is for scales that go with the size of a series"


def test_lag_channels_are_the_series_shifted():
    y = waves(1)
    windows = Windows(20, 4, lags=(10, 48), calendar=(), scaling="none")
    encoded = windows.encode(hours(y), 100)
    for channel, lag in enumerate((0, 10, 48)):
        np.testing.assert_allclose(encoded.values[0, channel].numpy(), y[0, 76 - lag : 100 - lag], rtol=1e-6)


def test_what_was_not_observed_is_masked_and_never_zero_data():
    y = waves(1)
    y[0, 90:95] = np.nan
    encoded = Windows(20, 4, lags=(10,), calendar=(), scaling="none").encode(hours(y), 104)
    assert encoded.mask[0, 0].tolist() == [0.0 if 90 <= step < 95 else 1.0 for step in range(80, 104)]
    assert encoded.mask[0, 1].tolist() == [0.0 if 90 <= step - 10 < 95 else 1.0 for step in range(80, 104)]
    early = Windows(20, 4, calendar=(), scaling="none").encode(hours(y), 10)
    assert early.mask[0, 0].tolist() == [0.0] * 14 + [1.0] * 10


def test_a_quiet_context_is_scaled_by_a_tenth_of_the_series_and_an_empty_series_by_the_fleet():
    y = np.ones((3, 100))
    y[0, 60:] = 1e-9
    y[1] = 0.0
    encoded = Windows(30, 6, calendar=()).encode(hours(y[:1]))
    assert encoded.scale[0, 0] == pytest.approx(0.1 * np.abs(y[0]).mean())
    with pytest.warns(UserWarning, match="all zero or empty"):
        encoded = Windows(30, 6, calendar=()).encode(hours(y))
    assert encoded.scale[1, 0] == pytest.approx(usual_size(y)[[0, 2]].mean())
    assert torch.isfinite(encoded.values).all()


@pytest.mark.parametrize("size", [1e12, 1e-12])
def test_magnitudes_do_not_matter(size):
    y = waves()
    small, large = (Windows(30, 6, calendar=()).encode(hours(values)) for values in (y, y * size))
    torch.testing.assert_close(small.values, large.values)


def test_the_clock_tells_hour_weekday_and_year_and_follows_beyond_the_panel():
    made = hours(np.zeros(48), start="2024-01-01")  # a Monday
    found = clock(made, -24, 72, ("hour", "weekday"))
    assert found.shape == (12, 96)
    np.testing.assert_allclose(found[:6, 24], [1, 0, 1, 0, 1, 0], atol=1e-6)  # midnight
    np.testing.assert_allclose(found[:6, :24], found[:6, 72:], atol=1e-5)
    np.testing.assert_allclose(found[6:8, 24 + 24], [np.cos(2 * np.pi / 7), np.sin(2 * np.pi / 7)], atol=1e-6)
    assert not clock(hours(np.zeros(48), calendar="unknown"), 0, 48, ("hour",)).any()


def test_known_covariates_are_the_last_features_and_must_be_known():
    known = np.arange(120.0)[None, None].repeat(3, 1)
    made = hours(waves(), known=known, covariates=["price"])
    encoded = Windows(30, 6, calendar=("hour",), covariates=1).encode(made, 100)
    assert encoded.features.shape == (3, 7, 36)
    np.testing.assert_allclose(encoded.features[0, 6].numpy(), np.arange(64, 100))
    known[0, 0, 99] = np.nan
    with pytest.raises(DataError, match="known covariate has missing values"):
        Windows(30, 6, calendar=("hour",), covariates=1).encode(hours(waves(), known=known, covariates=["price"]), 100)
    with pytest.raises(DataError, match="trained with 1 known covariates"):
        Windows(30, 6, calendar=(), covariates=1).encode(hours(waves()))


def test_a_multivariate_state_holds_every_series():
    y = waves()
    windows = Windows(30, 6, calendar=(), series=3)
    encoded = windows.encode(hours(y), [60, 100])
    assert encoded.values.shape == (2, 3, 36)
    back = windows.decode(encoded.values.repeat_interleave(2, 0), encoded)
    assert back.shape == (6, 2, 36)
    np.testing.assert_allclose(back[:, 1], np.concatenate([y[:, 24:60], y[:, 64:100]]), rtol=1e-4)
    with pytest.raises(DataError, match="forecasts 3 series together"):
        windows.encode(hours(y[:2]))


def test_a_checkpoints_facts_make_the_same_windows():
    windows = Windows(30, 6, lags=(7, 14), calendar=("hour",), mean=0.9, std=0.3)
    assert Windows.of({"windows": windows.facts()}) == windows
    with pytest.raises(CheckpointError, match="says nothing of windows"):
        Windows.of({"pixel_mm": [1, 2]})


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"context": 0}, "context and a horizon"),
        ({"horizon": 0}, "context and a horizon"),
        ({"lags": (0,)}, "lags are"),
        ({"lags": (7, 7)}, "lags are"),
        ({"calendar": ("moon",)}, "no part 'moon'"),
        ({"scaling": "max"}, "scaling is one of"),
        ({"floor": 1.0}, "floor is a share"),
        ({"series": 2, "lags": (1,)}, "no lags"),
    ],
)
def test_options_that_cannot_be_are_refused(options, sentence):
    with pytest.raises(UserError, match=sentence):
        Windows(**options)
