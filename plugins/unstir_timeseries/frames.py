"""Frames in, frames out: panels from whatever a forecaster has, and tidy frames of panels, forecasts and paths.

to_panels: frame -> panels (one a frequency);  to_frame: panel -> (unique_id, ds, y)
forecast_frame: estimate -> (unique_id, ds, mean, q0.1 ...);  paths_frame: estimate -> (unique_id, ds, sample, y)
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from unstir.errors import DataError, UserError
from unstir_timeseries import columns, frequency
from unstir_timeseries.grids import Rules, panels_of
from unstir_timeseries.panel import NINE, sample_quantiles
from unstir_timeseries.rows import Columns, rows_of


def to_panels(
    data: Any,
    *,
    freq: str | None = None,
    season: int | None = None,
    known: Sequence[str] = (),
    static: Sequence[str] = (),
    id_col: str = "unique_id",
    time_col: str = "ds",
    target_col: str = "y",
    key: str = "panel",
    on_gaps: str = "nan",
    duplicates: str = "refuse",
    off_grid: str = "refuse",
    clock: str = "utc",
    date_format: str | None = None,
) -> list[xr.Dataset]:
    """Panels of a user's series: one for each frequency.

    Args:
        data: a long frame (``unique_id``, ``ds``, ``y``), a wide one (a column a series, the times as index or as ``ds``), a pandas Series
            or a mapping of them, an xarray object with a time axis (other dimensions become items), dictionaries of GluonTS (``start``,
            ``target``, ``item_id``, ``feat_dynamic_real``, ``feat_static_cat``), anything with ``to_pandas()``, or a panel.
        freq: the step, old alias or new ("H", "h"); found in the stamps where absent. Needed for series of one row and for whole numbers
            that count steps.
        season: steps of a season; by the frequency where absent (24 for "h").
        known: columns known of the future too: their rows may go on where ``y`` ends (NaN).
        static: columns of one value a series.
        id_col: column of the names.
        time_col: column of the times.
        target_col: column of the values.
        key: name of the panels.
        on_gaps: steps without a row become missing values ("nan"), or are refused ("refuse").
        duplicates: rows of one series and stamp: "refuse", or "mean", "sum", "first", "last" of them.
        off_grid: stamps beside the grid: "refuse", or "snap" to the nearest step.
        clock: for stamps with a time zone and steps below a day: "utc" (regular; results come back in the zone), or "wall".
        date_format: how text is read as times, where it is not ISO 8601.

    Returns:
        Panels (see `unstir_timeseries.panel`), the one of most series first. Missing values are NaN, never zero. What was changed on the
        way is in ``attrs["said"]``, a sentence a line, and is warned of once.

    Raises:
        DataError: the data is empty, lacks a column, has stamps that fit no grid, or values that are no finite numbers; one sentence.
        UserError: an option is not one of those above.
    """
    rules = Rules(on_gaps, duplicates, off_grid, clock)
    if season is not None and (not isinstance(season, int | np.integer) or isinstance(season, bool) or season < 1):
        raise UserError(f"season must be a whole number of steps, at least 1, got {season!r}")
    step = None if freq is None else frequency.normalise(freq)
    if isinstance(data, xr.Dataset) and is_panel(data):
        if step not in (None, data.attrs["freq"]):
            raise DataError(f"the panel has the step {data.attrs['freq']!r}, not {step!r}")
        return [data if season is None else data.assign_attrs(season=int(season))]
    named = Columns(id_col, time_col, target_col, _names(known), _names(static), date_format)
    made = panels_of(rows_of(data, named, step), rules, freq=step, season=season, key=key)
    if "said" in made[0].attrs:
        warnings.warn(made[0].attrs["said"].replace("\n", "; "), stacklevel=2)
    return made


def _names(given: Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def is_panel(data: xr.Dataset) -> bool:
    """Whether a dataset has the shape of a panel already."""
    shaped = "y" in data.data_vars and data["y"].dims == ("item", "time") and {"item", "time"} <= set(data.coords)
    return shaped and {"key", "freq", "season", "calendar"} <= set(data.attrs)


def to_frame(panel: xr.Dataset, *, trim: bool = True) -> pd.DataFrame:
    """The long tidy frame of a panel.

    Args:
        panel: a panel.
        trim: whether steps before the first and after the last value (of ``y`` or of a covariate) of a series are left out.

    Returns:
        ``unique_id``, ``ds`` (in the time zone that the stamps had, if any), ``y``, then covariates and categories; by item, then time.
    """
    y = panel["y"].values
    count, length = y.shape
    known = panel["known"].values if "known" in panel else np.zeros((0, count, length))
    frame = _long(panel, panel, y.reshape(-1), "y")
    for place in range(len(known)):
        frame[str(panel["covariate"].values[place])] = known[place].reshape(-1)
    if "category" in panel:
        for place, name in enumerate(panel["static"].values):
            frame[str(name)] = np.repeat(panel["category"].values[place].astype(object), length)
    if not trim:
        return frame
    held = ~np.isnan(y) | (~np.isnan(known)).any(axis=0)
    inside = np.maximum.accumulate(held, axis=1) & np.maximum.accumulate(held[:, ::-1], axis=1)[:, ::-1]
    return frame[inside.reshape(-1)].reset_index(drop=True)


def _long(data: xr.Dataset, panel: xr.Dataset | None, values: NDArray[Any], name: str) -> pd.DataFrame:
    """A row an item and time, by item; ``data`` has the items and times, ``panel`` knows the time zone."""
    items, length = data["item"].values.astype(str), data.sizes["time"]
    ds = _given_back(pd.DatetimeIndex(data["time"].values), panel)
    return pd.DataFrame(
        {"unique_id": np.repeat(items.astype(object), length), "ds": ds[np.tile(np.arange(length), len(items))], name: values}
    )


def _given_back(time: pd.DatetimeIndex, panel: xr.Dataset | None) -> pd.Index:
    """Stamps as their owner had them: in the time zone, or counted."""
    attrs = {} if panel is None else panel.attrs
    if attrs.get("counted") and len(time):
        length = 2 + len(pd.date_range(columns.COUNTED_FROM, time.max(), freq=attrs["freq"]))
        return pd.Index(columns.counting(attrs["freq"], length).get_indexer(time))
    if "tz" not in attrs:
        return time
    if attrs.get("clock") == "utc":
        return time.tz_localize("UTC").tz_convert(attrs["tz"])
    step = frequency.step_of(attrs["freq"])
    if step is not None and step < pd.Timedelta(days=1):
        return time  # hours of the wall clock: those of a change of the clocks have no place in the zone
    return time.tz_localize(attrs["tz"], nonexistent="shift_forward", ambiguous=np.ones(len(time), dtype=bool))


def forecast_frame(estimate: xr.Dataset, levels: Sequence[float] = NINE, *, like: xr.Dataset | None = None) -> pd.DataFrame:
    """The tidy frame of a forecast.

    Args:
        estimate: the data of an estimate (`unstir_timeseries.panel.forecast`).
        levels: levels of the quantiles, in (0, 1).
        like: the panel that was forecast: its time zone is given back.

    Returns:
        ``unique_id``, ``ds``, ``mean`` and a column ``q<level>`` each level, in increasing order. A level that the estimate does not hold
        is taken from its samples, else between the two levels about it.

    Raises:
        UserError: a level is not in (0, 1), or lies outside what an estimate without samples holds.
    """
    frame = _long(estimate, like, estimate["mean"].values.reshape(-1), "mean")
    for level in checked_levels(levels):
        frame[f"q{level:g}"] = quantile(estimate, level).reshape(-1)
    return frame


def checked_levels(levels: Sequence[float]) -> list[float]:
    """Levels of quantiles, increasing, each once.

    Args:
        levels: levels in (0, 1).

    Raises:
        UserError: there is none, or one is not between 0 and 1.
    """
    made = sorted({float(one) for one in levels})
    if not made:
        raise UserError("levels must name at least one quantile")
    for one in made:
        if not 0 < one < 1:
            hint = f"; {one:g} % is {one / 100:g}" if 1 <= one < 100 else ""
            raise UserError(f"levels of quantiles must lie between 0 and 1, got {one:g}{hint}")
    return made


def quantile(estimate: xr.Dataset, level: float) -> NDArray[np.float64]:
    """The quantile of an estimate at any level.

    Args:
        estimate: the data of an estimate.
        level: in (0, 1).

    Returns:
        (items, steps): as held, else of the samples by GluonTS's rule, else linear between the two levels about it.

    Raises:
        UserError: the level lies outside what is held, and there are no samples.
    """
    held = estimate["level"].values
    same = np.flatnonzero(np.isclose(held, level, rtol=0, atol=1e-9))
    table = estimate["quantiles"].transpose("item", "level", "time").values
    if len(same):
        return np.asarray(table[:, same[0]])
    if "samples" in estimate:
        return np.asarray(sample_quantiles(estimate["samples"].values.astype(np.float64), [level], axis=1)[:, 0])
    if not held[0] < level < held[-1]:
        raise UserError(f"the forecast holds levels from {held[0]:g} to {held[-1]:g} and no samples: {level:g} lies outside")
    above = int(np.searchsorted(held, level))
    part = (level - held[above - 1]) / (held[above] - held[above - 1])
    return np.asarray((1 - part) * table[:, above - 1] + part * table[:, above])


def paths_frame(estimate: xr.Dataset, *, like: xr.Dataset | None = None) -> pd.DataFrame:
    """The tidy frame of the sample paths of a forecast.

    Args:
        estimate: the data of an estimate that has ``samples``.
        like: the panel that was forecast: its time zone is given back.

    Returns:
        ``unique_id``, ``ds``, ``sample``, ``y``; ordered by item, sample and time.

    Raises:
        DataError: the method drew no paths.
    """
    if "samples" not in estimate:
        raise DataError("this forecast holds quantiles only: its method draws no sample paths")
    samples = estimate["samples"].transpose("item", "sample", "time").values
    count, paths, length = samples.shape
    one = _long(estimate, like, np.zeros(count * length), "y")
    row = (np.arange(count)[:, None, None] * length + np.arange(length) + np.zeros((1, paths, 1), dtype=np.int64)).reshape(-1)
    made = one.iloc[row].reset_index(drop=True)
    made["y"] = samples.reshape(-1)
    made.insert(2, "sample", np.tile(np.repeat(np.arange(paths), length), count))
    return made
