"""The shape in which series cross the plugin's border: a panel, one ``xarray.Dataset`` for all items of one frequency.

    y         (item, time) float64, NaN where nothing was observed, the future included
    known     (covariate, item, time) float64, what is known of the future too; absent where there is nothing
    category  (static, item) str; absent where there is nothing
    attrs     key, freq (a pandas alias, "h"), season (steps), calendar ("known", or "unknown" where the clock is not the series' own)

A forecast is the imputation of the last ``horizon`` steps. Estimates hold ``quantiles`` (item, level, time) at `LEVELS`, and ``samples``
(item, sample, time) where a method draws paths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from unstir.errors import DataError

LEVELS = (0.025, 0.05, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 0.95, 0.975)
"""Levels of the quantiles that every estimate gives."""
NINE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Levels of the weighted quantile loss that the field calls CRPS."""


def panel(
    y: NDArray[Any],
    time: pd.DatetimeIndex | NDArray[Any],
    items: Sequence[str],
    *,
    freq: str,
    season: int,
    key: str = "panel",
    calendar: str = "known",
    known: NDArray[Any] | None = None,
    covariates: Sequence[str] = (),
    category: Mapping[str, Sequence[str]] | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """A panel from arrays.

    Args:
        y: (items, steps), NaN where nothing was observed.
        time: (steps,) the stamps, regular and increasing.
        items: names of the series.
        freq: pandas alias of the step.
        season: steps of a season.
        key: name of the panel.
        calendar: "known", or "unknown" where the stamps were made up.
        known: (covariates, items, steps) covariates known in the future too.
        covariates: their names.
        category: static categories: a value an item.
        attrs: more facts.

    Raises:
        DataError: the shapes disagree, or two items have one name.
    """
    y = np.asarray(y, dtype=np.float64)
    if y.shape != (len(items), len(time)):
        raise DataError(f"a panel of {len(items)} items and {len(time)} steps has values of shape {y.shape}")
    if len(set(items)) != len(items):
        raise DataError("two series of a panel have the same name")
    made: dict[str, Any] = {"y": (("item", "time"), y)}
    coords: dict[str, Any] = {"item": np.asarray(list(items), dtype=object).astype(str), "time": np.asarray(time, dtype="datetime64[ns]")}
    if known is not None:
        made["known"] = (("covariate", "item", "time"), np.asarray(known, dtype=np.float64))
        coords["covariate"] = list(covariates)
    if category:
        made["category"] = (("static", "item"), np.asarray([list(values) for values in category.values()]).astype(str))
        coords["static"] = list(category)
    facts = {"key": key, "freq": freq, "season": int(season), "calendar": calendar, **(attrs or {})}
    return xr.Dataset(made, coords, facts)


def forecast(
    future: xr.Dataset, *, samples: NDArray[Any] | None = None, quantiles: NDArray[Any] | None = None, mean: NDArray[Any] | None = None
) -> xr.Dataset:
    """The data of an estimate: quantiles, and paths where there are any.

    Args:
        future: whatever has the ``item`` and ``time`` of the answer (`horizon_of`).
        samples: (items, samples, steps) paths in the units of ``y``; quantiles are taken from them where none are given.
        quantiles: (items, len(LEVELS), steps).
        mean: (items, steps); of the samples, else the median, where absent.

    Returns:
        ``quantiles`` (item, level, time), ``mean`` (item, time), and ``samples`` (item, sample, time) float32 where given.
    """
    if quantiles is None:
        if samples is None:
            raise DataError("a forecast needs samples or quantiles")
        quantiles = sample_quantiles(samples, LEVELS, axis=1)
    if mean is None:
        mean = np.mean(samples, axis=1) if samples is not None else quantiles[:, LEVELS.index(0.5)]
    made = {"quantiles": (("item", "level", "time"), np.asarray(quantiles, dtype=np.float64)), "mean": (("item", "time"), mean)}
    if samples is not None:
        made["samples"] = (("item", "sample", "time"), np.asarray(samples, dtype=np.float32))
    return xr.Dataset(made, {"item": future["item"].values, "time": future["time"].values, "level": list(LEVELS)})


def sample_quantiles(samples: NDArray[Any], levels: Sequence[float], axis: int = 1) -> NDArray[Any]:
    """Quantiles of samples as GluonTS takes them: sorted sample number round((S-1) q), halves to even.

    Args:
        samples: S of them along ``axis``.
        levels: q, in [0, 1].
        axis: which axis.

    Returns:
        ``samples``' shape with the levels in place of the samples.
    """
    ordered = np.sort(samples, axis=axis)
    index = [int(np.round((samples.shape[axis] - 1) * level)) for level in levels]
    return np.take(ordered, index, axis=axis)


def horizon_of(measurement: xr.Dataset) -> xr.Dataset:
    """The last ``horizon`` steps of a measurement: what a forecast is asked for."""
    return measurement.isel(time=slice(measurement.sizes["time"] - int(measurement.attrs["horizon"]), None))


def history_of(measurement: xr.Dataset) -> xr.Dataset:
    """What a measurement holds before its horizon."""
    return measurement.isel(time=slice(0, measurement.sizes["time"] - int(measurement.attrs["horizon"])))
