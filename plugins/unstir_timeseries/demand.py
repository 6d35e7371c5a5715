"""What a case of counts gives to the methods of intermittent demand: whole numbers, their place in the season, and paths as an answer.

    paths of independent steps:   F^{-1}((s - 1/2)/S), s = 1 ... S, shuffled for every step

so that S paths carry the quantiles of their law without noise, and are exchangeable. Counts of the past are whole numbers of at least 0.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from unstir.errors import DataError
from unstir.plugin.protocols import Case
from unstir_timeseries.panel import history_of, horizon_of

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Demand:
    """The past of every item and the calendar around it.

    Args:
        y: (items, steps) counts of the past, NaN where nothing was observed.
        past: (steps,) place of each step in the season, 0 ... period - 1.
        future: (horizon,) the same of the steps asked for.
        period: steps of the season: days of a week, hours of a day, months of a year.
        ever: (items,) was anything ever sold? Where not, the forecast is 0.
        said: sentences about what was done for want of data.
    """

    y: Array
    past: Array
    future: Array
    period: int
    ever: NDArray[np.bool_]
    said: tuple[str, ...] = ()

    @property
    def horizon(self) -> int:
        """Steps asked for."""
        return len(self.future)

    def cut(self, end: int, horizon: int) -> tuple[Demand, Array]:
        """The question as it stood at an earlier step, and its answer.

        Args:
            end: steps of the past that were known then.
            horizon: steps asked for.

        Returns:
            The shorter demand and what came, (items, horizon).
        """
        y = self.y[:, :end]
        shorter = Demand(y, self.past[:end], self.past[end : end + horizon], self.period, np.nansum(y, axis=1) > 0)
        return shorter, self.y[:, end : end + horizon]


def demand_of(case: Case) -> Demand:
    """The demand of a case.

    Args:
        case: of the forecast task.

    Returns:
        Its checked past.

    Raises:
        DataError: a value is negative, infinite or no whole number, or there is no past.
    """
    history, future = history_of(case.measurement), horizon_of(case.measurement)
    y = counts_of(history)
    place, period = phases(np.concatenate([history["time"].values, future["time"].values]), history.attrs["freq"], history.attrs["season"])
    steps = y.shape[1]
    if steps == 0:
        raise DataError(f"{case.key} has no step before its horizon to forecast from")
    ever = np.nansum(y, axis=1) > 0
    silent = [str(name) for name in history["item"].values[~ever]]
    said = (f"nothing was sold of {_some(silent)} before {case.key}: the forecast is 0",) if silent else ()
    return Demand(y, place[:steps], place[steps:], period, ever, said)


def counts_of(panel: xr.Dataset) -> Array:
    """The values of a panel of counts.

    Args:
        panel: any.

    Returns:
        (items, steps) float64, NaN where nothing was observed.

    Raises:
        DataError: a value is negative, infinite or no whole number; names the series and the stamp.
    """
    y = np.asarray(panel["y"].values, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        bad = (y < 0) | np.isinf(y) | (y != np.round(y)) & ~np.isnan(y)
    if bad.any():
        item, step = (int(index[0]) for index in np.nonzero(bad))
        value, stamp = y[item, step], pd.Timestamp(panel["time"].values[step])
        kind = "negative" if value < 0 else "infinite" if np.isinf(value) else "no whole number"
        raise DataError(
            f"{panel['item'].values[item]} is {value:g} at {stamp}, which is {kind}: methods of counts take whole numbers of at least 0 "
            "(round, clip or drop such values, or take another method)"
        )
    return y


def phases(time: Array, freq: str, season: int) -> tuple[Array, int]:
    """The place of stamps in the season that matters for counts: weekday, hour of the day, month, quarter.

    Args:
        time: (steps,) stamps.
        freq: pandas alias.
        season: steps of a season of any other frequency.

    Returns:
        (steps,) places from 0, and the number of places.
    """
    stamps = pd.DatetimeIndex(time)
    known = {"D": (stamps.day_of_week, 7), "B": (stamps.day_of_week, 7), "h": (stamps.hour, 24)}
    known |= dict.fromkeys(("ME", "MS"), (stamps.month - 1, 12)) | dict.fromkeys(("QE", "QS"), (stamps.quarter - 1, 4))
    if freq in known:
        return np.asarray(known[freq][0]), known[freq][1]
    return np.arange(len(stamps)) % max(int(season), 1), max(int(season), 1)


def shuffled(ordered: Array, rng: np.random.Generator) -> Array:
    """Paths of independent steps from ordered draws.

    Args:
        ordered: (items, samples, steps) quantiles at (s - 1/2)/S.
        rng: of the shuffling.

    Returns:
        The same shape.
    """
    return rng.permuted(ordered, axis=1)


def midpoints(samples: int) -> tuple[float, ...]:
    """(s - 1/2)/S for s = 1 ... S."""
    return tuple((np.arange(samples) + 0.5) / samples)


def generator(seed: int, case: Case) -> np.random.Generator:
    """Randomness that depends on the seed and the name of the case alone.

    Args:
        seed: of the run.
        case: any.
    """
    return np.random.default_rng([seed % 2**63, zlib.crc32(case.key.encode())])


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
