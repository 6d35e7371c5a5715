"""What a baseline sees of a forecast case, and how it answers: quantiles of every series and step, NaN nowhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from unstir.errors import DataError, UserError
from unstir.plugin.protocols import Case, Estimate
from unstir_timeseries.panel import LEVELS, forecast, history_of, horizon_of

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Past:
    """What is known when a forecast is asked for.

    Attributes:
        y: (items, steps) everything before the horizon, NaN where not observed.
        context: C, the last steps that a method with a window sees.
        horizon: H.
        season: steps of a season.
        future: has the ``item`` and ``time`` of the answer.
        said: sentences a reader must know, filled on the way.
    """

    y: Array
    context: int
    horizon: int
    season: int
    future: xr.Dataset
    said: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, case: Case, season: int = 0) -> Past:
        """What a forecast case holds.

        Args:
            case: of the task ``timeseries/forecast``.
            season: steps of a season; the panel's when 0.

        Raises:
            DataError: the case asks for no forecast, or nothing lies before its horizon.
        """
        measurement = case.measurement
        horizon = int(measurement.attrs.get("horizon", 0))
        if horizon < 1:
            raise DataError(f"case {case.key} asks for no forecast: its horizon is {horizon}")
        y = history_of(measurement)["y"].transpose("item", "time").values.astype(np.float64, copy=False)
        if not y.shape[1]:
            raise DataError(f"case {case.key} has nothing before its horizon to forecast from")
        if np.isinf(y).any():
            raise DataError(f"case {case.key} has infinite values; mark what was not observed as missing (NaN)")
        context = min(int(case.context.get("context", y.shape[1])), y.shape[1])
        own = int(case.context.get("season", measurement.attrs.get("season", 1)))
        return cls(y, context, horizon, season or own, horizon_of(measurement))

    @property
    def window(self) -> Array:
        """(items, C) the context."""
        return self.y[:, -self.context :]

    @property
    def steps(self) -> NDArray[np.int64]:
        """(H,) 1 to H."""
        return np.arange(1, self.horizon + 1)

    def say(self, sentence: str, rows: Any) -> None:
        """Note what happened to some of the series, where it did to any; ``rows`` is (items,), true for those."""
        if rows.any():
            names = [str(name) for name in self.future["item"].values[rows]]
            self.said.append(f"{', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}: {sentence}")

    def estimate(self, quantiles: Array, mean: Array | None = None) -> Estimate:
        """The answer; a series that was never observed gets the law of the values of all series' contexts.

        Args:
            quantiles: (items, levels, H) at ``panel.LEVELS``, or (items, H) for a point forecast.
            mean: (items, H); the median when absent.

        Raises:
            DataError: no series has an observed value.
        """
        if quantiles.ndim == 2:
            quantiles = np.repeat(quantiles[:, None], len(LEVELS), 1)
        quantiles, mean = quantiles.copy(), quantiles[:, LEVELS.index(0.5)].copy() if mean is None else mean.copy()
        if (never := ~np.isfinite(self.y).any(1)).any():
            seen = self.window[np.isfinite(self.window)]
            if not seen.size:
                raise DataError("no series has an observed value in its context: there is nothing to forecast from")
            quantiles[never], mean[never] = np.quantile(seen, LEVELS)[:, None], seen.mean()
            self.say("never observed, forecast by the law of all series' contexts", never)
        return Estimate(forecast(self.future, quantiles=quantiles, mean=mean), info={"said": list(self.said)} if self.said else {})


def filled(y: Array, season: int = 1) -> Array:
    """Series with holes filled: short ones along a straight line, those longer than a quarter of a season from the neighbouring seasons.

    The first and last observed values (of a place of the season) are held; a row without any stays NaN.

    Args:
        y: (rows, steps), NaN where not observed.
        season: m, steps; 1 for straight lines throughout.
    """
    if np.isfinite(y).all():
        return y
    lines = np.asarray(pd.DataFrame(y.T).interpolate(method="linear", limit_direction="both").to_numpy().T, dtype=np.float64)
    if season == 1:
        return lines
    rows, steps = y.shape
    cycles = -(-steps // season)
    grid = np.pad(y, ((0, 0), (0, cycles * season - steps)), constant_values=np.nan).reshape(rows, cycles, season)
    places = filled(grid.transpose(0, 2, 1).reshape(rows * season, cycles)).reshape(rows, season, cycles)
    seasonal = places.transpose(0, 2, 1).reshape(rows, cycles * season)[:, :steps]
    return np.where((gaps(y) > season / 4) & np.isfinite(seasonal), seasonal, lines)


def gaps(y: Array) -> NDArray[np.int64]:
    """(rows, steps) length of the hole that each step lies in; 0 where it was observed.

    Args:
        y: (rows, steps), NaN where not observed.
    """
    seen, steps = np.isfinite(y), np.arange(y.shape[1])
    before = np.maximum.accumulate(np.where(seen, steps, -1), axis=1)
    after = np.minimum.accumulate(np.where(seen, steps, y.shape[1])[:, ::-1], axis=1)[:, ::-1]
    return np.where(seen, 0, after - before - 1)


def last_cycle(y: Array, season: int) -> tuple[Array, NDArray[np.int64]]:
    """The last observed value at each place of the season.

    Args:
        y: (rows, steps), NaN where not observed.
        season: m.

    Returns:
        (rows, m) values for the m steps that follow, NaN where the place was never observed, and (rows, m) how many seasons old they are.
    """
    rows, steps = y.shape
    cycles = -(-steps // season)
    grid = np.full((rows, cycles * season), np.nan)
    grid[:, cycles * season - steps :] = y
    back = grid.reshape(rows, cycles, season)[:, ::-1]
    seen = np.isfinite(back)
    age = np.argmax(seen, axis=1)
    return np.where(seen.any(1), np.take_along_axis(back, age[:, None], 1)[:, 0], np.nan), age + 1


def quantiles_of(values: Array) -> Array:
    """(rows, levels) quantiles at ``panel.LEVELS`` of the observed values of each row; NaN where a row has none.

    Args:
        values: (rows, any), NaN where not observed.
    """
    if values.size and np.isfinite(values).all():  # the same numbers, many times faster
        return np.quantile(values, LEVELS, axis=1).T
    made = np.full((len(values), len(LEVELS)), np.nan)
    if (some := np.isfinite(values).any(1)).any():
        made[some] = np.nanquantile(values[some], LEVELS, axis=1).T
    return made


def check_season(season: int) -> None:
    """Check the option of a baseline that repeats seasons.

    Args:
        season: m, steps; the panel's when 0.

    Raises:
        UserError: it is negative.
    """
    if season < 0:
        raise UserError(f"season must be at least 1 step, or 0 for the panel's, got {season}")
