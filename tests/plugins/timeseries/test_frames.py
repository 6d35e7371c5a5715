"""Frames to panels and back: every form that forecasters use, and everything that can be wrong with one."""

import datetime as dt
import warnings
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from unstir.errors import DataError, UserError
from unstir_timeseries.frames import checked_levels, forecast_frame, is_panel, paths_frame, quantile, to_frame, to_panels
from unstir_timeseries.panel import LEVELS, forecast, sample_quantiles

HOURS = pd.date_range("2024-01-01", periods=48, freq="h")


def long(items=("a", "b"), times=HOURS, **columns):
    parts = [pd.DataFrame({"unique_id": item, "ds": times, "y": np.arange(len(times)) + 100.0 * k}) for k, item in enumerate(items)]
    return pd.concat(parts, ignore_index=True).assign(**columns)


def one(data, **options):
    """The only panel, which came without a word."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (panel,) = to_panels(data, **options)
    assert is_panel(panel)
    assert "said" not in panel.attrs
    return panel


def aloud(data, match, **options):
    """The panels, about which something was said (once)."""
    with pytest.warns(UserWarning, match=match) as heard:
        panels = to_panels(data, **options)
    assert len(heard) == 1
    assert heard[0].filename == __file__
    assert all(panel.attrs["said"].replace("\n", "; ") == str(heard[0].message) for panel in panels)
    return panels


# forms ------------------------------------------------------------------------------------------------------------------------------


def test_a_long_frame_becomes_a_panel():
    panel = one(long(), key="load")
    assert panel["y"].dims == ("item", "time")
    assert panel["y"].dtype == np.float64
    assert panel["time"].dtype == np.dtype("datetime64[ns]")
    assert panel.attrs == {"key": "load", "freq": "h", "season": 24, "calendar": "known"}
    assert list(panel["item"].values) == ["a", "b"]
    np.testing.assert_array_equal(panel["y"], np.arange(48) + [[0], [100]])


def test_every_form_of_the_same_series_is_the_same_panel():
    frame = long()
    wide = frame.pivot(index="ds", columns="unique_id", values="y")
    array = xr.DataArray(wide.to_numpy(), {"time": HOURS, "item": ["a", "b"]}, ("time", "item"), name="y")
    grid = xr.DataArray(wide.to_numpy().reshape(48, 1, 2), {"time": HOURS, "row": ["n"], "col": [1, 2]}, ("time", "row", "col"))
    gluonts = [{"start": "2024-01-01 00:00", "target": wide[item].tolist(), "item_id": item} for item in "ab"]
    forms = {
        "indexed by name": frame.set_index("unique_id"),
        "indexed by both": frame.set_index(["unique_id", "ds"]),
        "a series of two indices": frame.set_index(["unique_id", "ds"])["y"],
        "wide": wide,
        "wide with ds": wide.reset_index(),
        "a mapping": {item: wide[item] for item in "ab"},
        "records": frame.to_dict("records"),
        "xarray": array,
        "xarray dataset": array.to_dataset(),
        "a variable a series": xr.Dataset({item: ("time", wide[item]) for item in "ab"}, {"time": HOURS}),
        "gluonts": gluonts,
        "gluonts of periods": [{**entry, "start": pd.Period("2024-01-01 00:00", "h")} for entry in gluonts],
        "a generator": (entry for entry in gluonts),
        "text": frame.assign(ds=frame["ds"].astype(str)),
        "dates as objects": frame.assign(ds=frame["ds"].astype(object)),
        "categories": frame.assign(unique_id=frame["unique_id"].astype("category")),
        "periods": wide.set_axis(pd.PeriodIndex(wide.index, freq="h")),
    }
    expected = one(frame)
    for name, form in forms.items():
        options = {"freq": "H"} if "gluonts" in name or "generator" in name else {}
        xr.testing.assert_identical(one(form, **options), expected)
    renamed = frame.rename(columns={"unique_id": "item_id", "ds": "timestamp", "y": "target"})
    xr.testing.assert_identical(one(renamed, id_col="item_id", time_col="timestamp", target_col="target"), expected)
    assert list(one(grid)["item"].values) == ["n/1", "n/2"]
    assert one(expected) is expected


def test_a_series_keeps_its_name_and_a_single_one_that_of_its_column():
    assert list(one(pd.Series(range(5), HOURS[:5], name="z"))["item"].values) == ["z"]
    assert list(one(pd.Series(range(5), HOURS[:5]))["item"].values) == ["y"]
    assert list(one(long(("a",))[["ds", "y"]])["item"].values) == ["y"]


def test_several_variables_with_other_dimensions_are_named_by_both():
    data = xr.Dataset({v: (("time", "site"), np.ones((48, 2))) for v in ("wind", "sun")}, {"time": HOURS, "site": [7, 9]})
    assert list(one(data)["item"].values) == ["wind/7", "wind/9", "sun/7", "sun/9"]
    assert list(one(data, target_col="sun", known="wind")["item"].values) == ["7", "9"]


def test_what_can_be_made_pandas_is_taken():
    class Table:
        def to_pandas(self):
            return long()

    assert one(Table()).sizes == {"item": 2, "time": 48}


def test_the_order_of_appearance_is_kept():
    assert list(one(long(("z", "a", "m")))["item"].values) == ["z", "a", "m"]


def test_numbers_as_names_are_text():
    assert list(one(long((3, 1)))["item"].values) == ["3", "1"]
    with pytest.raises(DataError, match="two different values of column 'unique_id' are both written '1'"):
        to_panels(pd.concat([long((1,)), long(("1",))]))


# missing values and ragged series ---------------------------------------------------------------------------------------------------


def test_what_is_missing_is_nan_and_never_zero():
    frame = long()
    frame.loc[5, "y"] = np.nan
    assert np.isnan(one(frame)["y"].values[0, 5])
    (panel,) = aloud(frame.drop([9, 10, 60]), r"3 steps have no row \(series 'a', 'b'\): missing values")
    np.testing.assert_array_equal(np.argwhere(np.isnan(panel["y"].values)), [[0, 5], [0, 9], [0, 10], [1, 12]])
    with pytest.raises(DataError, match=r"3 steps have no row .*; on_gaps='nan' makes them missing"):
        to_panels(frame.drop([9, 10, 60]), on_gaps="refuse")


def test_ragged_series_are_nan_outside_their_own_time():
    frame = pd.concat([long(("a",), HOURS[:30]), long(("b",), HOURS[10:])])
    panel = one(frame, on_gaps="refuse")
    assert panel.sizes["time"] == 48
    assert np.isnan(panel["y"].values[0, 30:]).all()
    assert np.isnan(panel["y"].values[1, :10]).all()
    pd.testing.assert_frame_equal(to_frame(panel), frame.reset_index(drop=True), check_dtype=False)


def test_a_series_without_any_value_is_kept_aloud():
    frame = long()
    frame.loc[frame["unique_id"] == "b", "y"] = np.nan
    (panel,) = aloud(frame, "series 'b' has no observed value")
    assert np.isnan(panel["y"].values[1]).all()


# covariates and categories ----------------------------------------------------------------------------------------------------------


def test_what_is_known_of_the_future_goes_beyond_the_last_value():
    frame = long(temp=np.arange(96.0), zone=["n"] * 48 + ["s"] * 48)
    frame.loc[frame["ds"] >= HOURS[40], "y"] = np.nan
    panel = one(frame, known=["temp"], static=["zone"])
    assert np.isnan(panel["y"].values[:, 40:]).all()
    np.testing.assert_array_equal(panel["known"].sel(covariate="temp"), np.arange(96.0).reshape(2, 48))
    assert panel["category"].sel(static="zone").values.tolist() == ["n", "s"]
    pd.testing.assert_frame_equal(to_frame(panel), frame, check_dtype=False)
    wide = frame[frame["unique_id"] == "a"].set_index("ds")[["y", "temp"]].rename(columns={"y": "a"})
    np.testing.assert_array_equal(one(wide.assign(b=1.0), known=["temp"])["known"].values[0, 1], np.arange(48.0))


def test_features_of_gluonts_are_covariates_and_categories():
    entries = [
        {"start": "2024-01-01", "target": [1, "NaN", None, 4], "feat_dynamic_real": [[0, 1, 2, 3, 4, 5]], "feat_static_cat": [k, 7]}
        for k in range(2)
    ]
    panel = one(entries, freq="H")
    np.testing.assert_array_equal(panel["y"].values[0], [1, np.nan, np.nan, 4, np.nan, np.nan])
    np.testing.assert_array_equal(panel["known"].sel(covariate="feat_dynamic_real_0").values[1], range(6))
    assert panel["category"].values.tolist() == [["0", "1"], ["7", "7"]]
    named = one(entries, freq="h", known=["temp"], static=["shop"])
    assert list(named["covariate"].values) == ["temp"]
    assert list(named["static"].values) == ["shop", "feat_static_cat_1"]


def test_many_targets_of_gluonts_are_an_item_each():
    panel = one([{"start": "2024-01-01", "target": [[1, 2, 3], [4, 5, 6]], "item_id": "m"}], freq="D")
    assert list(panel["item"].values) == ["m/0", "m/1"]


@pytest.mark.parametrize(
    ("freq", "start", "first"),
    [
        ("M", "2024-01-01", "2024-01-31"),
        ("Q", "2024-02-01", "2024-03-31"),
        ("W", "2024-01-03", "2024-01-07"),
        ("MS", "2024-01-09", "2024-01-01"),
    ]
    + [("A", "2024-05-05", "2024-12-31"), ("B", "2024-01-06", "2024-01-08"), ("15T", "2024-01-01 00:30", "2024-01-01 00:30")],
)
def test_starts_of_gluonts_are_periods(freq, start, first):
    panel = one([{"start": start, "target": [1.0, 2.0, 3.0]}], freq=freq)
    assert panel["time"].values[0] == np.datetime64(first)


def test_starts_of_gluonts_inside_a_step_are_taken_back_aloud():
    (panel,) = aloud([{"start": "2024-01-01 10:20", "target": [1.0, 2.0]}], "taken back to it, as GluonTS does", freq="H")
    assert panel["time"].values[0] == np.datetime64("2024-01-01T10:00")


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        ([], "the data is empty"),
        ([{"target": [1]}], "series '0' has no 'start'"),
        ([{"start": "2024-01-01", "target": []}], "series '0' has an empty target"),
        ([{"start": "2024-01-01", "target": [[[1]]]}], "has 3 dimensions"),
        ([{"start": "2024-01-01", "target": [[1, 2], [3]]}], "rows of different length"),
        ([{"start": "2024-01-01", "target": [1, np.inf]}], "the target of series '0' is infinite 1 time, first in row 1"),
        ([{"start": "2024-01-01", "target": [1], "item_id": "k"}] * 2, "two series have the item_id 'k'"),
        (
            [{"start": "2024-01-01", "target": [1]}, {"start": "2024-01-01", "target": [1], "feat_static_cat": [1]}],
            "only 1 of 2 series have",
        ),
        ([{"start": "2024-01-01", "target": [1]}, {"start": "2024-01-01"}], "series '1' has no 'target'"),
        ([{"start": "once", "target": [1]}], "the start of series '0' holds 'once' in row 0, which cannot be read as a time"),
        ([pd.Series([1.0])], "a list of Series is no list of series; give {name: series}"),
    ],
)
def test_what_is_wrong_with_dictionaries_of_gluonts_is_said(entries, sentence):
    with pytest.raises(DataError, match=sentence):
        to_panels(entries, freq="H")


def test_dictionaries_of_gluonts_need_a_frequency():
    with pytest.raises(DataError, match="series '0' carries no frequency: give freq="):
        to_panels([{"start": "2024-01-01", "target": [1]}])


def test_a_static_column_that_changes_is_refused():
    with pytest.raises(DataError, match="static column 'z' has several values in series 'a'; one that changes belongs to known="):
        to_panels(long(z=range(96)), static=["z"])
    with pytest.raises(DataError, match="wide frame .* has no place for the static column 'z'"):
        to_panels(long(("a",)).set_index("ds")[["y"]].rename(columns={"y": "a"}).assign(z="n"), static=["z"])


# values ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.arange(4, dtype=np.int8), ""),
        (np.arange(4, dtype=np.float32), ""),
        (pd.array([0, 1, 2, 3], dtype="Int64"), ""),
        (pd.array([0, 1, 2, 3], dtype="Float32"), ""),
        (pd.array([0, 1, 2, 3], dtype="int64[pyarrow]"), ""),
        ([Decimal(0), Decimal("1"), 2, 3.0], ""),
        (["0", "1.0", " 2", "3e0"], "column 'y' holds numbers as text: read as numbers"),
        (pd.Categorical([0, 1, 2, 3]), ""),
    ],
)
def test_numbers_of_any_kind_are_read(values, said):
    frame = pd.DataFrame({"unique_id": "a", "ds": HOURS[:4], "y": values})
    panel = aloud(frame, said)[0] if said else one(frame)
    np.testing.assert_array_equal(panel["y"].values, [[0, 1, 2, 3]])


def test_true_and_false_are_one_and_zero_aloud():
    for values in ([True, False, True], pd.array([True, False, True], dtype="boolean"), np.array([True, False, True], dtype=object)):
        (panel,) = aloud(pd.DataFrame({"ds": HOURS[:3], "y": values}), "column 'y' is true or false: read as 1 and 0")
        assert panel["y"].values.tolist() == [[1, 0, 1]]


@pytest.mark.parametrize("gap", [None, np.nan, pd.NA, "", "NaN", "n/a", " null "])
def test_what_means_nothing_is_missing(gap):
    values = pd.Series([1, gap, 3], dtype=object)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (panel,) = to_panels(pd.DataFrame({"ds": HOURS[:3], "y": values}))
    np.testing.assert_array_equal(panel["y"].values, [[1, np.nan, 3]])


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ([1.0, np.inf, -np.inf], "column 'y' is infinite 2 times, first in row 1: make these values NaN where unknown"),
        (["1", "inf", "2"], "is infinite"),
        (["1", "two", "3"], "column 'y' holds 'two' in row 1, which is not a number"),
        (["1,234", "2", "3"], "holds '1,234' in row 0"),
        ([1j, 2, 3], "complex"),
        (pd.Series([1j, 2, "3"], dtype=object), "complex"),
        (HOURS[:3], r"column 'y' holds times \(datetime64"),
        (pd.to_timedelta([1, 2, 3], unit="h"), "holds times"),
        ([[1], [2], [3]], "which is not a number"),
    ],
)
def test_what_is_no_finite_number_is_refused(values, sentence):
    with pytest.raises(DataError, match=sentence):
        to_panels(pd.DataFrame({"ds": HOURS[:3], "y": values}))


def test_whole_numbers_beyond_float64_are_rounded_aloud():
    aloud(pd.DataFrame({"ds": HOURS[:2], "y": [2**53 + 1, 1]}), r"of 2\^53 and more, which are rounded")


@pytest.mark.parametrize("size", [1e12, 1e-12, 1e300, 5e-324])
def test_large_and_small_numbers_stay_what_they_are(size):
    frame = long(("a",))
    frame["y"] = (frame["y"] + 1) * size if size < 1e300 else size
    panel = one(frame)
    np.testing.assert_array_equal(panel["y"].values[0], frame["y"])
    np.testing.assert_array_equal(to_frame(panel)["y"], frame["y"])


# stamps -----------------------------------------------------------------------------------------------------------------------------


def test_unsorted_rows_are_sorted_aloud():
    (panel,) = aloud(long().sample(frac=1, random_state=0), "rows of 2 series were not in order of time: sorted")
    np.testing.assert_array_equal(panel.sel(item="b")["y"], np.arange(48) + 100)


def test_rows_of_several_series_that_alternate_are_in_order():
    one(long().sort_values(["ds", "unique_id"]))


def test_stamps_that_come_twice_are_refused_or_joined_as_asked():
    frame = pd.concat([long(), long(("a",)).iloc[3:5].assign(y=[10.0, np.nan])])
    with pytest.raises(
        DataError, match=r"series 'a' has several rows at 2024-01-01 03:00:00 \(2 such rows in all\); give duplicates='mean'"
    ):
        to_panels(frame)
    expected = {"mean": [6.5, 4], "sum": [13, 4], "first": [3, 4], "last": [10, 4]}
    for rule, values in expected.items():
        (panel,) = aloud(frame, f"2 rows had a stamp that was there already: the {rule} is taken", duplicates=rule)
        assert panel["y"].values[0, 3:5].tolist() == values
    with pytest.raises(UserError, match="duplicates must be one of refuse, mean, sum, first, last, got 'max'"):
        to_panels(frame, duplicates="max")


def test_irregular_stamps_are_refused_or_snapped_as_asked():
    rng = np.random.default_rng(0)
    late = HOURS + pd.to_timedelta(rng.integers(-600, 600, 48), unit="s")
    frame = pd.DataFrame({"ds": late, "y": np.arange(48.0)})
    with pytest.raises(DataError, match="the stamps of series 'y' are not regular: steps run from .*; give freq="):
        to_panels(frame)
    with pytest.raises(DataError, match=r"series 'y' has a row at .*, which is not on its grid of step 'h' from .*; give off_grid='snap'"):
        to_panels(frame, freq="h")
    (panel,) = aloud(frame, "48 stamps were moved to the nearest step, by up to 0 days 00:0", freq="h", off_grid="snap")
    np.testing.assert_array_equal(panel["time"], HOURS)
    np.testing.assert_array_equal(panel["y"].values[0], np.arange(48))


@pytest.mark.parametrize("freq", ["MS", "ME", "W", "B", "QE", "YS", "2W-MON"])
def test_stamps_beside_a_calendar_are_snapped_to_its_nearest_day(freq):
    index = pd.date_range("2020-01-01", periods=12, freq=freq)
    (panel,) = aloud(pd.Series(np.arange(12.0), index + pd.Timedelta(hours=7)), "12 stamps were moved", freq=freq, off_grid="snap")
    np.testing.assert_array_equal(panel["time"], index)


def test_two_stamps_snapped_to_one_step_are_duplicates():
    index = pd.to_datetime(["2024-01-01 00:00", "2024-01-01 00:50", "2024-01-01 01:10"])
    with pytest.raises(DataError, match="several rows at 2024-01-01 01:00:00"):
        to_panels(pd.Series([1.0, 2.0, 4.0], index), freq="h", off_grid="snap")


def test_series_of_several_frequencies_are_a_panel_each():
    days = pd.date_range("2024-01-01", periods=30, freq="D")
    months = pd.date_range("2020-01-31", periods=20, freq="ME")
    frame = pd.concat([long(), long(("d",), days), long(("m",), months)])
    panels = aloud(frame, r"several frequencies or phases: 2 of 'h', 1 of 'D', 1 of 'ME', a panel each", key="k")
    assert [panel.attrs["freq"] for panel in panels] == ["h", "D", "ME"]
    assert [panel.attrs["season"] for panel in panels] == [24, 1, 12]
    assert [panel.attrs["key"] for panel in panels] == ["k-h", "k-D", "k-ME"]
    assert [list(panel["item"].values) for panel in panels] == [["a", "b"], ["d"], ["m"]]


def test_series_of_one_frequency_that_never_meet_are_a_panel_each():
    panels = aloud(pd.concat([long(), long(("c",), HOURS + pd.Timedelta(minutes=30))]), "phases: 2 of 'h', 1 of 'h'")
    assert [panel.attrs["key"] for panel in panels] == ["panel-h-1", "panel-h-2"]
    many = pd.concat([long((str(k),), HOURS + pd.Timedelta(minutes=k)) for k in range(30)])
    with pytest.raises(DataError, match="start at more than 24 different phases; off_grid='snap'"):
        to_panels(many)


def test_short_series_take_the_frequency_of_the_others_where_they_lie_on_it():
    frame = pd.concat([long(), long(("x",), HOURS[[3]]), long(("w",), HOURS[[3, 20, 41]])])
    (panel,) = aloud(frame, "stamps of series 'x', 'w' are too few or too irregular to show a frequency: 'h', like the others")
    assert panel.sizes["item"] == 4
    assert np.isfinite(panel.sel(item="w")["y"]).sum() == 3
    with pytest.raises(DataError, match="series 'x' has 1 stamp: two are needed"):
        to_panels(pd.concat([long(), long(("x",), HOURS[[3]] + pd.Timedelta(minutes=1))]))


def test_five_days_of_a_week_are_business_days_beside_business_days():
    panel = aloud(
        pd.concat([long(("a",), pd.bdate_range("2024-01-01", periods=60)), long(("b",), pd.bdate_range("2024-01-02", periods=4))]), "'B'"
    )
    assert panel[0].attrs["freq"] == "B"


def test_one_row_needs_a_frequency():
    with pytest.raises(DataError, match="series 'y' has 1 stamp: two are needed to see a frequency; give freq="):
        to_panels(pd.DataFrame({"ds": HOURS[:1], "y": [1.0]}))
    panel = one(pd.DataFrame({"ds": HOURS[:1], "y": [1.0]}), freq="H")
    assert panel.sizes == {"item": 1, "time": 1}


def test_a_given_frequency_puts_gaps_between_sparse_stamps():
    (panel,) = aloud(pd.Series([1.0, 2.0], HOURS[[0, 9]]), "8 steps have no row", freq="H")
    assert panel.sizes["time"] == 10


def test_a_grid_too_fine_to_hold_is_refused():
    with pytest.raises(DataError, match="steps of 'ms' from 1990.* would be more than"):
        to_panels(pd.Series([1.0, 2.0], pd.to_datetime(["1990-01-01", "2024-01-01"])), freq="ms")


def test_times_that_are_missing_or_no_times_are_refused():
    frame = long(("a",))
    with pytest.raises(DataError, match="column 'ds' has no time in 1 of 48 rows, first in row 4"):
        to_panels(frame.assign(ds=frame["ds"].where(frame.index != 4)))
    cases = {
        "holds whole numbers, not times; give freq= and they count steps": np.arange(48),
        "pd.to_datetime.*unit='s'": np.arange(48) * 3600 + 1_700_000_000,
        "holds float64 values, not times": np.arange(48.0),
        "holds bool values": [True] * 48,
        "holds 'soon' in row 0, which cannot be read as a time": ["soon"] * 48,
        "runs from 1500.* years 1678 to 2262": [f"1500-01-01 {k % 24:02d}:00" for k in range(48)],
        "'01/02/2024', which could have the day or the month first; give date_format=": ["01/02/2024"] * 48,
        "'99/99/2024', which cannot be read": ["99/99/2024"] * 48,
    }
    for sentence, values in cases.items():
        with pytest.raises(DataError, match=sentence):
            to_panels(frame.assign(ds=values))
    with pytest.raises(DataError, match="column 'unique_id' has no name in 48 rows, first in row 0"):
        to_panels(frame.assign(unique_id=None))


def test_dates_with_slashes_are_read_where_one_order_fits():
    days = pd.date_range("2024-01-01", periods=40, freq="D")
    for form, name in (("%d/%m/%Y", "day first"), ("%m/%d/%Y", "month first")):
        frame = pd.DataFrame({"ds": days.strftime(form), "y": np.arange(40.0)})
        (panel,) = aloud(frame, f"column 'ds' is read with the {name}")
        np.testing.assert_array_equal(panel["time"], days)
        np.testing.assert_array_equal(one(frame, date_format=form)["time"], days)
    with pytest.raises(DataError, match="cannot be read as a time by the format '%Y'"):
        to_panels(frame, date_format="%Y")


def test_dates_of_python_are_read():
    frame = pd.DataFrame({"ds": [dt.date(2024, 1, k) for k in range(1, 10)], "y": np.arange(9.0)})
    assert one(frame).attrs["freq"] == "D"


def test_counted_steps_are_put_on_a_calendar_that_is_not_theirs():
    frame = long(("a", "b"), np.arange(3, 50))
    (panel,) = aloud(frame, "they count steps of 'h', put on a calendar that starts 2000-01-01", freq="H")
    assert panel.attrs["calendar"] == "unknown"
    pd.testing.assert_frame_equal(to_frame(panel), frame, check_dtype=False)
    estimate = forecast(panel.isel(time=slice(40, None)), samples=np.zeros((2, 5, 7)))
    assert forecast_frame(estimate, like=panel)["ds"].tolist()[:7] == list(range(43, 50))
    with pytest.raises(DataError, match="counts must lie between 0 and 10 million"):
        to_panels(long(("a",), np.arange(-3, 5)), freq="h")


def test_years_as_whole_numbers_are_years():
    (panel,) = aloud(long(("a",), np.arange(1990, 2020)), "holds whole numbers: read as years", freq="Y")
    assert panel["time"].values[0] == np.datetime64("1990-12-31")
    assert panel.attrs["calendar"] == "known"


# time zones -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Asia/Kathmandu", "UTC"])
def test_hours_of_a_zone_are_regular_in_utc_and_come_back_in_the_zone(zone):
    """The year of 8784 hours has a gap and a repeated hour by the wall clock, and neither in UTC."""
    local = pd.date_range("2024-01-01", "2024-12-31", freq="h", tz=zone)
    frame = long(("a",), local)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        (panel,) = to_panels(frame, on_gaps="refuse")
    assert ("said" in panel.attrs) == bool(heard) == (zone != "UTC")
    np.testing.assert_array_equal(panel["time"].values, local.tz_convert("UTC").tz_localize(None))
    pd.testing.assert_frame_equal(to_frame(panel), frame, check_dtype=False)


def test_days_of_a_zone_are_dates():
    local = pd.date_range("2024-01-01", "2024-12-31", freq="D", tz="Europe/Berlin")
    (panel,) = aloud(long(("a",), local), "days are those of the clock on the wall in Europe/Berlin", on_gaps="refuse")
    assert panel.attrs["freq"] == "D"
    np.testing.assert_array_equal(panel["time"], pd.date_range("2024-01-01", "2024-12-31"))
    pd.testing.assert_frame_equal(to_frame(panel), long(("a",), local), check_dtype=False)


def test_the_clock_on_the_wall_may_be_kept():
    local = pd.date_range("2024-03-01", "2024-11-30", freq="h", tz="Europe/Berlin")
    (panel,) = aloud(long(("a",), local), "1 steps that the clocks repeat in autumn are averaged", clock="wall")
    by_time = panel["y"].isel(item=0).to_series()
    assert np.isnan(by_time["2024-03-31 02:00"])
    twice = np.flatnonzero(local.tz_localize(None) == pd.Timestamp("2024-10-27 02:00"))
    assert by_time["2024-10-27 02:00"] == twice.mean()
    assert to_frame(panel)["ds"].dt.tz is None  # the skipped and the repeated hour have no place in the zone


def test_offsets_that_change_are_one_time():
    local = pd.date_range("2024-03-20", "2024-04-10", freq="h", tz="Europe/Berlin")
    text = pd.DataFrame({"ds": [one.isoformat() for one in local], "y": np.arange(float(len(local)))})
    (panel,) = aloud(text, "several offsets from UTC; stamps of hours are kept in UTC", on_gaps="refuse")
    np.testing.assert_array_equal(panel["time"], local.tz_convert("UTC").tz_localize(None))
    days = pd.date_range("2024-03-20", "2024-04-10", freq="D", tz="Europe/Berlin")
    (panel,) = aloud(pd.DataFrame({"ds": [one.isoformat() for one in days], "y": 1.0}), "days are those of the clock on the wall")
    np.testing.assert_array_equal(panel["time"], days.tz_localize(None))


def test_hours_without_a_zone_that_come_twice_in_autumn_are_told_as_such():
    local = pd.date_range("2024-10-20", "2024-11-01", freq="h", tz="Europe/Berlin").tz_localize(None)
    with pytest.raises(DataError, match="looks like the hour that clocks repeat in autumn"):
        to_panels(long(("a",), local))
    (panel,) = aloud(long(("a",), local), "the mean is taken", duplicates="mean")
    assert panel.sizes["time"] == len(local) - 1


# columns ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "options", "sentence"),
    [
        (pd.DataFrame(), {}, "the frame is empty: it has no rows"),
        (long()[:0], {}, "the frame is empty"),
        (
            long().rename(columns={"y": "target"}),
            {},
            r"no column 'y'; did you mean target_col='target'\? \(columns: unique_id, ds, target\)",
        ),
        (long().rename(columns={"y": "yy"}), {}, "did you mean target_col='yy'"),
        (long().assign(ds=1.5).rename(columns={"ds": "date"}), {}, "no column 'ds'; did you mean time_col='date'"),
        (long(), {"known": ["temp"]}, "no column 'temp'"),
        (long(temperature=1.0), {"known": ["temperatur"]}, "did you mean 'temperature'"),
        (long(), {"id_col": "item"}, "no column 'item'"),
        (long(), {"target_col": "load"}, "no column 'load'"),
        (long(), {"time_col": "when"}, "no column 'when'"),
        (long().rename(columns={"unique_id": "item_id"}), {}, "stamps come several times .*; did you mean id_col='item_id'"),
        (pd.DataFrame({"ds": HOURS, "name": "x"}), {}, r"the frame has no column of numbers \(columns: ds, name\)"),
        (pd.DataFrame(np.ones((3, 2)), columns=["a", "a"], index=HOURS[:3]), {}, "two columns of the frame are called 'a'"),
        (pd.DataFrame({"a": [1.0], "b": [2.0]}), {}, "no column 'ds'"),
        (np.ones(5), {}, "a ndarray is no frame of series"),
        (5, {}, "a int is no frame of series"),
        ("load.csv", {}, "a str is no frame of series"),
        ({}, {}, "a dict is no frame of series"),
        (xr.Dataset({"a": ("x", [1.0])}), {}, "which dimension is the time"),
        (xr.Dataset({"a": ("time", [])}, {"time": HOURS[:0]}), {}, "the dataset is empty: dimension 'time' has no steps"),
        (xr.Dataset({"a": ("time", ["x"] * 3)}, {"time": HOURS[:3]}), {}, "the dataset has no series"),
        (xr.Dataset({"a": ("time", [1.0] * 3)}, {"time": HOURS[:3]}), {"known": ["b"]}, "no variable 'b'"),
        (xr.Dataset({"a": ("time", [1.0] * 3)}, {"time": HOURS[:3]}), {"time_col": "t"}, "which dimension is the time"),
    ],
)
def test_what_is_missing_is_named_with_the_nearest(frame, options, sentence):
    with pytest.raises(DataError, match=sentence):
        to_panels(frame, **options)


def test_other_calendars_are_refused():
    pytest.importorskip("cftime")
    times = xr.date_range("2000-01-01", periods=5, calendar="noleap", use_cftime=True)
    with pytest.raises(DataError, match="is in the calendar 'noleap'"):
        to_panels(xr.DataArray(np.ones(5), {"time": times}, ("time",)))


def test_the_only_column_of_times_is_taken_aloud():
    wide = long().pivot(index="ds", columns="unique_id", values="y").rename_axis("date").reset_index()
    for form in (wide, wide.assign(date=wide["date"].astype(str))):
        (panel,) = aloud(form, "there is no column 'ds': the only column of times, 'date', is taken")
        assert list(panel["item"].values) == ["a", "b"]


def test_columns_that_are_not_used_are_told():
    aloud(long(temp=1.0), r"column 'temp' not used \(known= and static= name covariates and categories\)")
    wide = long().pivot(index="ds", columns="unique_id", values="y").assign(note="x")
    (panel,) = aloud(wide, "column 'note' not used: no numbers")
    assert panel.sizes["item"] == 2
    with pytest.raises(DataError, match="column 'a' holds 'x' in row 2"):
        to_panels(wide.assign(a=wide["a"].astype(object).where(wide.index != HOURS[2], "x"))[["a", "b"]])


@pytest.mark.parametrize(
    "options", [{"season": 0}, {"season": 1.5}, {"season": True}, {"clock": "x"}, {"on_gaps": "zero"}, {"off_grid": "x"}, {"freq": "hh"}]
)
def test_options_that_are_none_are_refused(options):
    with pytest.raises(UserError):
        to_panels(long(), **options)


def test_a_panel_with_another_step_is_refused():
    with pytest.raises(DataError, match="the panel has the step 'h', not 'D'"):
        to_panels(one(long()), freq="D")
    assert one(one(long()), season=168).attrs["season"] == 168


# round trips ------------------------------------------------------------------------------------------------------------------------

NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=6)
VALUES = st.one_of(st.just(np.nan), st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([0.0, 1e12, 1e-12, -3.5]))


@st.composite
def frames(draw):
    """Long frames of whole grids: ragged series with holes, a covariate beyond the last value, a category."""
    freq = draw(st.sampled_from(["h", "2h", "15min", "D", "B", "W-WED", "ME", "QS", "YE"]))
    index = pd.date_range(draw(st.sampled_from(["1999-12-30", "2024-02-27", "2023-11-05"])), periods=16, freq=freq)
    parts = []
    for name in draw(st.lists(NAMES, min_size=1, max_size=3, unique=True)):
        first = draw(st.integers(0, 8))
        length = draw(st.integers(5, 16 - first))
        y = np.array(draw(st.lists(VALUES, min_size=length, max_size=length)))
        temp = np.arange(length) * draw(st.floats(-1e3, 1e3))
        parts.append(pd.DataFrame({"unique_id": name, "ds": index[first : first + length], "y": y, "temp": temp, "kind": draw(NAMES)}))
    return freq, pd.concat(parts, ignore_index=True)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(frames(), st.booleans())
def test_a_frame_comes_back_from_its_panel(made, shuffled):
    freq, frame = made
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        panels = to_panels(frame.sample(frac=1, random_state=1) if shuffled else frame, freq=freq, known=["temp"], static=["kind"])
    back = pd.concat([to_frame(panel) for panel in panels])
    order = ["unique_id", "ds"]
    frame["ds"] = frame["ds"].astype("datetime64[ns]")
    left, right = (one.sort_values(order).reset_index(drop=True).astype({"unique_id": object, "kind": object}) for one in (back, frame))
    pd.testing.assert_frame_equal(left, right, check_exact=True)
    for panel in panels:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (again,) = to_panels(to_frame(panel, trim=False), freq=freq, known=["temp"], static=["kind"])
        xr.testing.assert_equal(again, panel)


# forecasts --------------------------------------------------------------------------------------------------------------------------


def estimate(samples=True):
    draws = np.random.default_rng(0).normal(size=(2, 100, 48))
    panel = one(long())
    if samples:
        return forecast(panel, samples=draws), draws
    return forecast(panel, quantiles=np.broadcast_to(np.asarray(LEVELS)[None, :, None], (2, len(LEVELS), 48))), draws


def test_a_forecast_is_a_tidy_frame():
    data, draws = estimate()
    frame = forecast_frame(data, levels=(0.9, 0.1, 0.1, 0.33))
    assert list(frame.columns) == ["unique_id", "ds", "mean", "q0.1", "q0.33", "q0.9"]
    assert len(frame) == 96
    assert frame["unique_id"].tolist() == ["a"] * 48 + ["b"] * 48
    np.testing.assert_allclose(frame["mean"], draws.mean(axis=1).reshape(-1))
    np.testing.assert_array_equal(frame["q0.9"], sample_quantiles(draws, [0.9])[:, 0].reshape(-1))
    held = data["samples"].values.astype(np.float64)
    np.testing.assert_array_equal(frame["q0.33"], sample_quantiles(held, [0.33])[:, 0].reshape(-1))


def test_a_level_that_is_not_held_lies_between_those_about_it():
    data, _ = estimate(samples=False)
    np.testing.assert_allclose(quantile(data, 0.15), 0.15, rtol=1e-12)  # the quantile of this law is its level, and linear
    with pytest.raises(UserError, match=r"holds levels from 0\.025 to 0\.975 and no samples: 0\.99 lies outside"):
        forecast_frame(data, [0.99])
    with pytest.raises(DataError, match="its method draws no sample paths"):
        paths_frame(data)


@pytest.mark.parametrize("level", [0, 1, -0.1, 1.5, 10, float("nan")])
def test_levels_outside_zero_and_one_are_refused(level):
    with pytest.raises(UserError, match="must lie between 0 and 1, got"):
        checked_levels([0.5, level])


def test_percent_are_told_as_such():
    with pytest.raises(UserError, match=r"got 10; 10 % is 0\.1"):
        checked_levels([10])
    with pytest.raises(UserError, match="at least one"):
        checked_levels([])


def test_paths_are_a_tidy_frame():
    data, _ = estimate()
    frame = paths_frame(data)
    assert list(frame.columns) == ["unique_id", "ds", "sample", "y"]
    cube = frame["y"].to_numpy().reshape(2, 100, 48)
    np.testing.assert_array_equal(cube, data["samples"].values)
    row = frame.iloc[100 * 48 + 7 * 48 + 3]
    assert (row["unique_id"], row["sample"], row["ds"]) == ("b", 7, HOURS[3])


def test_forecasts_come_back_in_the_zone_of_their_panel():
    local = pd.date_range("2024-01-01", periods=48, freq="h", tz="Europe/Berlin")
    (panel,) = aloud(long(("a",), local), "UTC")
    made = forecast_frame(forecast(panel, samples=np.zeros((1, 3, 48))), like=panel)
    assert made["ds"].tolist() == local.tolist()
