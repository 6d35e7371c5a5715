"""What is hidden: how much, where, and the same for the same seed, window and series."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unstir.errors import DataError, UserError
from unstir_timeseries.missing import Missing
from unstir_timeseries.panel import panel

KINDS = ("rm", "bm-b", "bm-e", "block")


def hourly(items=4, steps=200):
    time = pd.date_range("2024-01-01", periods=steps, freq="h")
    y = np.random.default_rng(0).random((items, steps)) + 1
    return panel(y, time, [f"s{i}" for i in range(items)], freq="h", season=24)


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(KINDS), context=st.integers(1, 60), steps=st.integers(1, 80), seed=st.integers(0, 99), data=st.data())
def test_as_many_steps_are_hidden_as_asked_and_only_in_the_context(kind, context, steps, seed, data):
    gaps = data.draw(st.integers(0, context))
    y = np.ones((3, steps))
    made = Missing(kind, context, gaps).hidden(y, seed, 7)
    hidden = np.isnan(made)
    assert (hidden.sum(1) == min(gaps or context // 2, context, steps)).all()
    assert not hidden[:, : max(steps - context, 0)].any()
    assert (y == 1).all()  # what was given stays as it is


def test_the_beginning_and_the_end_are_the_context_s():
    y = np.arange(100.0)[None]
    assert np.isnan(Missing("bm-b", 40).hidden(y, 0, 0)[0, 60:80]).all()
    assert np.isfinite(Missing("bm-b", 40).hidden(y, 0, 0)[0, 80:]).all()
    assert np.isnan(Missing("bm-e", 40).hidden(y, 0, 0)[0, 80:]).all()
    assert np.isfinite(Missing("bm-e", 40).hidden(y, 0, 0)[0, :80]).all()


def test_a_block_is_one_block_and_begins_anywhere():
    starts = set()
    for seed in range(200):
        hidden = np.isnan(Missing("block", 12, 4).hidden(np.ones((1, 12)), seed, 0)[0])
        assert np.abs(np.diff(hidden.astype(int))).sum() <= 2
        starts.add(int(np.argmax(hidden)))
    assert starts == set(range(9))


def test_every_step_is_as_likely_to_be_hidden_at_random():
    shares = np.mean([np.isnan(Missing("rm", 20, 5).hidden(np.ones((1, 20)), seed, 3)[0]) for seed in range(2000)], axis=0)
    np.testing.assert_allclose(shares, 0.25, atol=5 * np.sqrt(0.25 * 0.75 / 2000))


@pytest.mark.parametrize("kind", ["rm", "block"])
def test_masks_depend_on_seed_window_and_series_alone(kind):
    hide = Missing(kind, 96)
    one, again = hide.hidden(np.ones((4, 200)), 1, 50), hide.hidden(np.full((4, 200), 9.0), 1, 50)
    np.testing.assert_array_equal(np.isnan(one), np.isnan(again))
    np.testing.assert_array_equal(np.isnan(hide.hidden(np.ones((2, 200)), 1, 50)), np.isnan(one[:2]))
    others = hide.hidden(np.ones((4, 200)), 2, 50), hide.hidden(np.ones((4, 200)), 1, 51)
    assert len({np.isnan(made).tobytes() for made in (one, *others)}) == 3
    assert len({mask.tobytes() for mask in np.isnan(one)}) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_panel_is_measured_without_its_horizon(kind):
    truth = hourly()
    seen = Missing(kind, 48)(truth.assign_attrs(horizon=24), seed=3)
    hidden = np.isnan(seen["y"].values)
    assert not hidden[:, -24:].any()
    assert (hidden[:, 128:176].sum(1) == 24).all()
    assert hidden.sum() == 4 * 24
    assert seen.attrs["missing"] == kind
    assert np.isfinite(truth["y"]).all()
    np.testing.assert_array_equal(seen["y"].values[~hidden], truth["y"].values[~hidden])
    again = Missing(kind, 48)(truth.assign_attrs(horizon=24), seed=3)
    np.testing.assert_array_equal(seen["y"], again["y"])


def test_what_was_missing_stays_missing():
    truth = hourly()
    truth["y"].values[:, 10:30] = np.nan
    seen = Missing("bm-e", 48)(truth, seed=0)
    assert np.isnan(seen["y"].values[:, 10:30]).all()
    assert np.isnan(seen["y"].values).sum() == 4 * (20 + 24)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"kind": "bm"}, "kind must be one of rm, bm-b, bm-e, block"),
        ({"context": 0}, "context must be at least 1"),
        ({"context": 8, "gaps": 9}, "gaps must lie between 0 and the context of 8 steps"),
        ({"gaps": -1}, "gaps must lie between"),
    ],
)
def test_an_option_out_of_range_is_refused(options, sentence):
    with pytest.raises(UserError, match=sentence):
        Missing(**options)


def test_a_panel_without_values_is_refused():
    with pytest.raises(DataError, match="without y"):
        Missing()(hourly().drop_vars("y"), seed=0)
