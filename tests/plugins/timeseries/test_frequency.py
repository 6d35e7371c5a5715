"""Frequencies: old names and new ones, seasons, lags, and what step given stamps have."""

import datetime as dt

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unstir.errors import DataError, UserError
from unstir_timeseries.frequency import CALENDAR, STEPS, infer, lags_of, legacy, normalise, parts, season_of, step_of

BOTH_WAYS = [
    ("H", "h"),
    ("T", "min"),
    ("S", "s"),
    ("L", "ms"),
    ("U", "us"),
    ("N", "ns"),
    ("D", "D"),
    ("B", "B"),
    ("W", "W"),
    ("M", "ME"),
    ("MS", "MS"),
    ("BM", "BME"),
    ("SM", "SME"),
    ("Q", "QE"),
    ("QS", "QS"),
    ("A", "YE"),
    ("AS", "YS"),
    ("BA", "BYE"),
    ("2H", "2h"),
    ("15T", "15min"),
    ("3M", "3ME"),
    ("W-MON", "W-MON"),
    ("Q-JAN", "QE-JAN"),
    ("2A-JUN", "2YE-JUN"),
]


@pytest.mark.parametrize(("old", "new"), BOTH_WAYS)
def test_an_old_alias_becomes_the_new_one_and_back(old, new):
    assert normalise(old) == new
    assert normalise(new) == new
    assert legacy(new) == old
    pd.tseries.frequencies.to_offset(new)  # pandas of today takes it


@pytest.mark.parametrize(
    ("given_", "new"),
    [("1H", "h"), ("60min", "h"), ("24h", "D"), ("48H", "2D"), ("3600S", "h"), ("90min", "90min"), ("1h30min", "90min"), ("0.5h", "30min")]
    + [("Y", "YE"), ("hourly", "h"), ("Daily", "D"), ("d", "D"), ("Min", "min"), (" 2 h ", "2h"), ("ms", "ms"), ("MS", "MS"), ("7D", "7D")]
    + [("W-SUN", "W"), ("W-wed", "W-WED"), ("QE-DEC", "QE"), ("QE-MAR", "QE"), ("Q-OCT", "QE-JAN"), ("QS-OCT", "QS"), ("QS-NOV", "QS-FEB")]
    + [("YE-DEC", "YE"), ("YS-JAN", "YS"), ("A-MAR", "YE-MAR"), (pd.offsets.Hour(3), "3h"), (pd.offsets.QuarterEnd(), "QE")]
    + [(dt.timedelta(minutes=5), "5min"), (np.timedelta64(1, "D"), "D"), (pd.offsets.Week(weekday=0), "W-MON")],
)
def test_one_step_has_one_name(given_, new):
    assert normalise(given_) == new


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ("hh", r"there is no frequency 'hh'; did you mean 'h'"),
        ("weeekly", "did you mean 'weekly'"),
        ("m", r"could be minutes \('min'\) or months \('ME'\)"),
        ("", "there is no frequency ''"),
        ("-1h", "there is no frequency '-1h'"),
        ("0h", "longer than nothing"),
        ("0ME", "whole number of 'ME', at least 1"),
        ("1.5ME", "whole number of 'ME'"),
        ("0.0000000001s", "whole number of nanoseconds"),
        ("W-XYZ", r"has the anchor 'XYZ', and 'W' takes MON \.\. SUN"),
        ("QE-MON", r"takes JAN \.\. DEC"),
        ("ME-DEC", "takes none"),
        ("B-MON", "takes none"),
        ("h-SUN", "takes none"),
        ("1h2ME", "there is no frequency"),
        (3, "an alias such as 'h'"),
        (None, "an alias such as 'h'"),
    ],
)
def test_what_is_no_frequency_is_refused_in_a_sentence(wrong, sentence):
    with pytest.raises(UserError, match=sentence):
        normalise(wrong)


@pytest.mark.parametrize(
    ("freq", "season"),
    [("H", 24), ("D", 1), ("B", 5), ("W", 1), ("M", 12), ("MS", 12), ("BME", 12), ("Q", 4), ("QS", 4), ("YE", 1), ("2h", 12), ("5h", 1)]
    + [("30min", 48), ("15T", 96), ("min", 1440), ("s", 3600), ("W-MON", 1), ("QE-JAN", 4), ("3ME", 4), ("24h", 1), ("2D", 1), ("ms", 1)]
    + [("SME", 24)],
)
def test_seasons_are_those_of_gluonts(freq, season):
    assert season_of(freq) == season


def test_lags_are_the_authors_table():
    assert lags_of("H") == lags_of("h") == (24, 48, 72, 96, 120, 144, 168, 336, 504, 672)
    assert lags_of("D") == lags_of("B") == tuple(range(30, 361, 30))
    assert max(lags_of("h")) == 672
    assert max(lags_of("D")) == 360


def test_lags_beyond_the_table_are_the_same_times():
    assert lags_of("2h") == tuple(lag // 2 for lag in lags_of("h"))
    assert lags_of("15min") == tuple(4 * lag for lag in lags_of("h"))
    assert lags_of("2D") == tuple(lag // 2 for lag in lags_of("D"))
    assert lags_of("5h")[:2] == (5, 10)  # 24 and 48 hours, rounded to steps
    assert lags_of("W")[-1] == 52
    assert lags_of("ME") == lags_of("MS") == (12, 24, 36)
    assert lags_of("QE") == (4, 8, 12)
    assert lags_of("YE") == (1, 2, 3)
    assert lags_of("s")[0] == 3600
    assert lags_of("ms") == ()


@settings(max_examples=200, deadline=None)
@given(count=st.integers(1, 400), unit=st.sampled_from([*STEPS, *CALENDAR]))
def test_names_lags_and_seasons_of_any_multiple_hold_together(count, unit):
    name = normalise(f"{count}{unit}")
    assert normalise(name) == name
    assert normalise(legacy(name)) == name
    assert season_of(name) >= 1
    lags = lags_of(name)
    assert list(lags) == sorted(set(lags))
    assert all(lag >= 1 for lag in lags)
    if step_of(name) is not None:
        assert step_of(name) == count * pd.Timedelta(STEPS[unit], unit="ns")
    else:
        assert parts(name) == (count, unit, "")


@pytest.mark.parametrize(
    "freq",
    ["h", "2h", "30min", "15min", "90min", "s", "10ms", "D", "3D", "B", "W", "W-WED", "2W-MON", "ME", "MS", "2ME", "QE", "QS", "QE-JAN"]
    + ["YE", "YS", "YE-MAR", "2YE", "BME", "BQE"],
)
@pytest.mark.parametrize("start", ["2019-11-27", "2020-02-01", "2021-01-31 12:00"])
def test_the_step_of_a_regular_index_is_found_whatever_is_missing(freq, start):
    index = pd.date_range(start, periods=60, freq=freq)
    assert infer(index) == freq
    rng = np.random.default_rng(0)
    assert infer(rng.permutation(np.delete(index.values, [7, 8, 30]))) == freq


def test_holidays_do_not_hide_business_days():
    index = pd.bdate_range("2020-01-01", "2020-12-31").drop(["2020-01-01", "2020-12-25"])
    assert infer(index) == "B"
    assert infer(pd.date_range("2024-01-01", periods=5)) == "D"  # Monday to Friday: nothing says that the weekend is left out


def test_irregular_and_too_few_stamps_are_refused_with_what_they_are():
    with pytest.raises(DataError, match="a1 has 1 stamp: two are needed to see a frequency; give freq="):
        infer(["2020-01-01"], "a1")
    with pytest.raises(DataError, match="0 stamps"):
        infer([])
    minutes = np.cumsum([0, 60, 60, 61, 59, 60, 60, 43])
    with pytest.raises(
        DataError, match=r"are not regular: steps run from 0 days 00:43:00 to 0 days 01:01:00, the commonest is 0 days 01:00:00 \(57%\)"
    ):
        infer(pd.Timestamp("2020-01-01") + pd.to_timedelta(minutes, unit="min"))
    with pytest.raises(DataError, match="not regular"):
        infer(pd.to_datetime(["2020-01-01 00:00:00", "2020-01-01 00:00:01", "2020-01-09 00:00:00"]))
    with pytest.raises(DataError, match="not regular"):
        infer(pd.date_range("2020-01-15", periods=12, freq="MS") + pd.Timedelta(days=14))
