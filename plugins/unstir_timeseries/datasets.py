"""Series of the plugin: bundled (GEFCom2012 load), inside packages of a public registry, simulated (AR1), and files of one's own.

Each has a card and yields panels; the series of one panel share their step, missing values are NaN. The traps of each stand in its card.

    AR(1)   y_t = m + phi (y_{t-1} - m) + sd sqrt(1 - phi^2) e_t,   y_0 ~ N(m, sd^2)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import xarray as xr

from unstir.errors import DataError, UserError
from unstir.plugin.options import at_least, one_of, positive
from unstir_data import fetch
from unstir_timeseries.panel import panel
from unstir_timeseries.sales import Returns, daily_units, sale_lines

MELBOURNE = "UTC+10, the standard time of Melbourne all year"


@dataclass(frozen=True)
class CardPanel(ABC):
    """Series that a card describes: bundled, or taken from their package on first use and cached.

    Args:
        start: first stamp, as "2007-01-01"; empty for the first there is.
        end: last stamp, included, a day to its last step; empty for the last there is.
    """

    start: str = ""
    end: str = ""

    card: ClassVar[str]

    def load(self) -> Iterator[xr.Dataset]:
        """The panels; ``attrs["key"]`` of the first is the card's short name.

        Raises:
            UserError: ``start`` or ``end`` is no date, or nothing lies between them.
        """
        for whole in self.panels(fetch.get(self.card)):
            yield between(whole, self.start, self.end)

    @abstractmethod
    def panels(self, path: Path) -> Iterator[xr.Dataset]:
        """The panels of the card's file.

        Args:
            path: the file.
        """

    @property
    def key(self) -> str:
        """The card's short name."""
        return self.card.rpartition("/")[2]


@dataclass(frozen=True)
class GEFCom(CardPanel):
    """Hourly load of 20 zones of a US utility in kW, 2004-01-01 00:00 to 2008-06-29 23:00, bundled; no missing values.

    Temperature was measured, not forecast: it is never a covariate of the load here. On request it comes as a panel of its own, so that
    it can be forecast or imputed beside the load.

    Args:
        zones: numbers of the zones, 1 to 20; empty for all. Zone 7 equals zone 3 and zone 2 is 0.9268 times zone 3: never split them.
        temperature: also yield the panel ``gefcom-temperature``, 11 stations in degrees Fahrenheit?

    Raises:
        UserError: a zone that does not exist or comes twice.
    """

    zones: tuple[int, ...] = ()
    temperature: bool = False

    card: ClassVar[str] = "timeseries/gefcom"

    def __post_init__(self) -> None:
        object.__setattr__(self, "zones", tuple(self.zones))
        for zone in self.zones:
            if zone not in range(1, 21):
                raise UserError(f"zones are numbered 1 to 20, got {zone}")
        if len(set(self.zones)) != len(self.zones):
            raise UserError(f"a zone comes twice in {list(self.zones)}")

    def panels(self, path: Path) -> Iterator[xr.Dataset]:
        """The load (items ``zone-01``...), then the temperature where asked for."""
        zones = self.zones or tuple(range(1, 21))
        with xr.open_dataset(path, engine="h5netcdf") as file:
            load, degrees = file["kw"].values[[zone - 1 for zone in zones]], file["temperature"].values
            time = pd.date_range(file.attrs["start"], periods=file.sizes["time"], freq="h")
        yield panel(load, time, [f"zone-{z:02d}" for z in zones], freq="h", season=24, key=self.key, attrs={"units": "kW"})
        if self.temperature:
            names = [f"station-{n:02d}" for n in range(1, len(degrees) + 1)]
            yield panel(degrees, time, names, freq="h", season=24, key="gefcom-temperature", attrs={"units": "degrees Fahrenheit"})


@dataclass(frozen=True)
class GEFComWind(CardPanel):
    """Hourly power of 7 wind farms as shares of their capacity, 2009-07-01 00:00 to 2012-07-12 00:00; many exact zeros."""

    card: ClassVar[str] = "timeseries/gefcom-wind"

    def panels(self, path: Path) -> Iterator[xr.Dataset]:
        """The seven farms, items ``wp1`` to ``wp7``."""
        table = pd.read_csv(path)
        names = [f"wp{n}" for n in range(1, 8)]
        time = pd.DatetimeIndex(pd.to_datetime(table["date"].astype(str), format="%Y%m%d%H"))
        yield panel(table[names].to_numpy().T, time, names, freq="h", season=24, key=self.key, attrs={"units": "share of the capacity"})


@dataclass(frozen=True)
class TextPanel(CardPanel):
    """Columns of numbers separated by spaces, without stamps: made-up ones are put there and the calendar is marked unknown."""

    items: ClassVar[tuple[str, ...]]
    first: ClassVar[str]
    freq: ClassVar[str]
    season: ClassVar[int]
    units: ClassVar[str]

    def panels(self, path: Path) -> Iterator[xr.Dataset]:
        """One panel, a column an item."""
        y = np.loadtxt(path).T
        time = pd.date_range(self.first, periods=y.shape[1], freq=self.freq)
        facts = {"units": self.units}
        yield panel(y, time, self.items, freq=self.freq, season=self.season, key=self.key, calendar="unknown", attrs=facts)


@dataclass(frozen=True)
class Exchange(TextPanel):
    """Daily exchange rates of 8 countries against the US dollar, 7,588 business days; a random walk is the forecast to beat."""

    card: ClassVar[str] = "timeseries/exchange"
    items: ClassVar[tuple[str, ...]] = ("australia", "britain", "canada", "switzerland", "china", "japan", "new-zealand", "singapore")
    first: ClassVar[str] = "1990-01-01"
    freq: ClassVar[str] = "B"
    season: ClassVar[int] = 5
    units: ClassVar[str] = "US dollars"


@dataclass(frozen=True)
class Traffic(TextPanel):
    """Hourly occupancy of 20 road sensors, 17,544 hours: the first 20 of the 862 that the field uses."""

    card: ClassVar[str] = "timeseries/traffic"
    items: ClassVar[tuple[str, ...]] = tuple(f"sensor-{n:02d}" for n in range(1, 21))
    first: ClassVar[str] = "2015-01-01"
    freq: ClassVar[str] = "h"
    season: ClassVar[int] = 24
    units: ClassVar[str] = "share of the time"


@dataclass(frozen=True)
class ETTh1(TextPanel):
    """Hourly loads (six columns) and oil temperature of a transformer, 17,420 hours; several columns cross zero."""

    card: ClassVar[str] = "timeseries/etth1"
    items: ClassVar[tuple[str, ...]] = ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")
    first: ClassVar[str] = "2016-07-01"
    freq: ClassVar[str] = "h"
    season: ClassVar[int] = 24
    units: ClassVar[str] = "as in the file"


@dataclass(frozen=True)
class VicElec(CardPanel):
    """Half-hourly electricity demand of Victoria, 2012 to 2014, with public holidays as a covariate known in advance.

    Args:
        temperature: also yield the panel ``vic-elec-temperature`` (measured, not known of the future), degrees Celsius?
    """

    temperature: bool = False

    card: ClassVar[str] = "timeseries/vic-elec"

    def panels(self, path: Path) -> Iterator[xr.Dataset]:
        """The demand (item ``victoria``), then the temperature where asked for."""
        table = pd.read_csv(path)
        time = _melbourne(table["Time"])
        facts = {"units": "MW", "clock": MELBOURNE}
        holiday = table["Holiday"].to_numpy(float)[None, None]
        demand = table["Demand"].to_numpy()[None]
        yield panel(demand, time, ["victoria"], freq="30min", season=48, key=self.key, known=holiday, covariates=["holiday"], attrs=facts)
        if self.temperature:
            degrees, facts = table["Temperature"].to_numpy()[None], facts | {"units": "degrees Celsius"}
            yield panel(degrees, time, ["melbourne"], freq="30min", season=48, key="vic-elec-temperature", attrs=facts)


@dataclass(frozen=True)
class Prices(CardPanel):
    """Hourly day-ahead electricity prices of France and Belgium, 2015-01 to 2016-10, EUR/MWh; load and generation forecasts are known."""

    card: ClassVar[str] = "timeseries/prices"

    def panels(self, path: Path) -> Iterator[xr.Dataset]:
        """Items ``FR`` and ``BE``; covariates ``gen_forecast`` and ``system_load``, MW."""
        table = pd.read_csv(path).assign(ds=lambda t: pd.to_datetime(t["ds"]))
        wide = {name: table.pivot(index="ds", columns="unique_id", values=name) for name in ("y", "gen_forecast", "system_load")}
        items, covariates = ["FR", "BE"], ["gen_forecast", "system_load"]
        known = np.stack([wide[name][items].to_numpy().T for name in covariates])
        y, facts = wide["y"][items].to_numpy().T, {"units": "EUR/MWh"}
        time = pd.DatetimeIndex(wide["y"].index)
        yield panel(y, time, items, freq="h", season=24, key=self.key, known=known, covariates=covariates, attrs=facts)


@dataclass(frozen=True)
class Pedestrian(CardPanel):
    """Hourly counts of pedestrians at four places of Melbourne, 2015 and 2016, with gaps."""

    card: ClassVar[str] = "timeseries/pedestrian"

    def panels(self, path: Path) -> Iterator[xr.Dataset]:
        """One panel, an item a sensor; hours that the file lacks are missing."""
        table = pd.read_csv(path)
        wide = table.assign(time=_melbourne(table["Date_Time"])).pivot(index="time", columns="Sensor", values="Count").asfreq("h")
        facts = {"units": "pedestrians", "kind": "count", "clock": MELBOURNE}
        yield panel(wide.to_numpy().T, pd.DatetimeIndex(wide.index), list(wide), freq="h", season=24, key=self.key, attrs=facts)


@dataclass(frozen=True)
class Retail(CardPanel):
    """Daily units of the products of an online shop, 2009-12-01 to 2011-12-09: intermittent counts.

    Lines that stand twice in the file count once; what was given away (price 0) and codes that are no products are left out. A series is
    missing before the product's first sale and, for all products, on days when the shop sold nothing; else no sale is a zero.

    Args:
        min_days: only products sold on at least so many days of the whole range (a choice that looks at the whole range).
        products: only so many, those sold on most days (0: all).
        returns: "same-day": an order that the same customer cancels on its day did not happen, later returns are ignored; "net": every
            return is subtracted on its own day, down to zero.

    Raises:
        UserError: an option outside its range.
    """

    min_days: int = 100
    products: int = 0
    returns: Returns = "same-day"

    card: ClassVar[str] = "timeseries/retail"

    def __post_init__(self) -> None:
        at_least(self, min_days=1, products=0)
        one_of(self, returns=Returns)

    def panels(self, path: Path) -> Iterator[xr.Dataset]:
        """One panel, an item a product's code.

        Raises:
            UserError: no product was sold on so many days.
        """
        units, floored = daily_units(sale_lines(path), self.returns)
        days = (units > 0).sum(axis=1)
        kept = days[days >= self.min_days].sort_values(ascending=False, kind="stable").index[: self.products or None]
        if not len(kept):
            raise UserError(f"no product was sold on at least {self.min_days} days, at most {days.max()}")
        time = pd.date_range(units.columns[0], units.columns[-1], freq="D")
        y = units.loc[sorted(kept)].reindex(columns=time).to_numpy(float)
        y[np.nancumsum(y, axis=1) == 0] = np.nan
        facts = {"units": "units", "kind": "count", "returns": self.returns, "floored": floored}
        yield panel(y, time, sorted(kept), freq="D", season=1, key=self.key, attrs=facts)


def _melbourne(stamps: pd.Series) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(pd.to_datetime(stamps, utc=True).dt.tz_localize(None)) + pd.Timedelta(hours=10)


@dataclass(frozen=True)
class AR1:
    """Simulated stationary Gaussian AR(1) series whose predictive law is known in closed form.

    Args:
        items: number of independent series; the first are the same whatever the number.
        steps: length of each.
        phi: correlation of neighbours, in (-1, 1).
        sd: standard deviation of the stationary law.
        mean: its mean.
        seed: the series depend on this, their number in the panel and the other options alone.

    Raises:
        UserError: an option outside its range.
    """

    items: int = 8
    steps: int = 1200
    phi: float = 0.9
    sd: float = 1.0
    mean: float = 3.0
    seed: int = 0

    card: ClassVar[str] = ""
    tiny: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(self, items=1, steps=1, seed=0)
        if not -1 < self.phi < 1:
            raise UserError(f"phi must lie between -1 and 1, got {self.phi}")
        positive(self, "sd")

    def load(self) -> Iterator[xr.Dataset]:
        """One panel ``ar1``, hourly stamps from 2000-01-01 that mean nothing."""
        from scipy.signal import lfilter

        y = np.empty((self.items, self.steps))
        for i in range(self.items):
            noise = np.random.default_rng([self.seed, i]).standard_normal(self.steps)
            noise[1:] *= np.sqrt(1 - self.phi**2)
            y[i] = self.mean + self.sd * lfilter([1.0], [1.0, -self.phi], noise)
        time = pd.date_range("2000-01-01", periods=self.steps, freq="h")
        facts = {"simulated": f"a stationary Gaussian AR(1), phi {self.phi:g}, standard deviation {self.sd:g}, mean {self.mean:g}"}
        names = [f"ar1-{i:03d}" for i in range(self.items)]
        yield panel(y, time, names, freq="h", season=24, key="ar1", calendar="unknown", attrs=facts)


@dataclass(frozen=True)
class FilePanel:
    """Series of your own: any file that the readers know (parquet, CSV, JSON lines, netCDF, Zarr).

    Args:
        path: the file.
        freq: pandas alias of the step, where the stamps do not say it.
        season: steps of a season; the usual of the step when 0.
        known: columns that are known of the future too.
        static: columns of one value a series.
        id_col: column of the series' names.
        time_col: column of the stamps.
        target_col: column of the values.
        duplicates: rows of one series and stamp: "refuse", or "mean", "sum", "first", "last" of them.
        off_grid: stamps beside the grid: "refuse", or "snap" to the nearest step.
    """

    path: str = ""
    freq: str = ""
    season: int = 0
    known: tuple[str, ...] = ()
    static: tuple[str, ...] = ()
    id_col: str = "unique_id"
    time_col: str = "ds"
    target_col: str = "y"
    duplicates: str = "refuse"
    off_grid: str = "refuse"

    card: ClassVar[str] = ""

    def load(self) -> Iterator[xr.Dataset]:
        """The file's panels, one a step length.

        Raises:
            DataError: no path was given, or what is there is not a table of series.
        """
        if not self.path:
            raise DataError("timeseries/file needs the path of a table: data.path=sales.parquet")
        from unstir_timeseries.readers import read

        options: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "path"}
        yield from read(Path(self.path), **options | {"freq": self.freq or None, "season": self.season or None})


def between(whole: xr.Dataset, start: str, end: str) -> xr.Dataset:
    """The steps of a panel from one stamp to another, both included.

    Args:
        whole: a panel.
        start: first stamp; empty for the first there is.
        end: last stamp; empty for the last there is. A day means its last step.

    Returns:
        The shorter panel.

    Raises:
        UserError: a stamp cannot be read, or nothing lies between them.
    """
    if not start and not end:
        return whole
    index = whole.indexes["time"]
    try:
        low, high = index.slice_locs(start or None, end or None)
    except (ValueError, TypeError) as error:
        raise UserError(f"start {start!r} or end {end!r} is not a date") from error
    if high <= low:
        asked = f"{start or 'its start'} and {end or 'its end'}"
        raise UserError(f"nothing of {whole.attrs['key']} ({index[0]} to {index[-1]}) lies between {asked}")
    return whole.isel(time=slice(low, high))
