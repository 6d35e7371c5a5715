"""Linear interpolation of holes, with the errors that it makes on the series' own observed values.

f_t = (b y_{t-am} + a y_{t+bm})/(a + b),   a and b the cycles of m steps to the nearest observed values at that place;   y_{t-am} alone
where nothing follows.  Quantiles: f_t + those of y_s - f_s over all s whose own three values were observed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from unstir.errors import DataError
from unstir.plugin.options import at_least
from unstir.plugin.protocols import Case, Estimate, Progress
from unstir_timeseries.panel import LEVELS, forecast
from unstir_timeseries.past import Array

FAR = 1 << 30


@dataclass(frozen=True)
class Interpolation:
    """Straight lines between observed values, for imputation and for forecasts (which hold the last value).

    Args:
        cycle: m, steps between the values that are joined: 1, or a season to join the same places of neighbouring seasons.
        errors: at most so many of a series' errors before the first window, evenly spread, count beside the window's own.

    Raises:
        UserError: an option out of range.
    """

    cycle: int = 1
    errors: int = 2000

    needs: ClassVar[tuple[str, ...]] = ()
    uses_prior: ClassVar[bool] = False

    def __post_init__(self) -> None:
        at_least(self, cycle=1, errors=1)

    def __call__(self, case: Case, prior: Any, seed: int, *, progress: Progress = None) -> Estimate:
        """Values and quantiles of every step; observed ones stay as they are.

        Raises:
            DataError: no series has an observed value.
        """
        window = case.measurement
        y = window["y"].transpose("item", "time").values.astype(np.float64)
        if not np.isfinite(y).any():
            raise DataError(f"case {case.key} has no observed value to interpolate between")
        quantiles, said = np.repeat(y[:, None], len(LEVELS), 1), []
        point, training = y.copy(), case.context.get("training")
        for row, name in enumerate(str(item) for item in window["item"].values):
            series = y[row]
            if not np.isfinite(series).any():
                point[row], quantiles[row] = np.nanmedian(y), np.nanquantile(y, LEVELS)[:, None]
                said.append(f"{name}: nothing was observed in the window, answered by the law of the other series")
                continue
            sources = [series]
            if isinstance(training, xr.Dataset) and name in training["item"].values:
                sources.append(training["y"].sel(item=name).values.astype(np.float64))
            self._row(series, sources, point[row], quantiles[row])
        data = forecast(window, quantiles=quantiles, mean=point)
        return Estimate(data, info={"said": said} if said else {})

    def _row(self, series: Array, sources: list[Array], point: Array, quantiles: Array) -> None:
        """Fill the holes of one series in place."""
        back, ahead = neighbours(np.isfinite(series), self.cycle)
        holes = np.flatnonzero(~np.isfinite(series))
        orphans = (back[holes] == FAR) & (ahead[holes] == FAR)
        if orphans.any():
            point[holes[orphans]], quantiles[:, holes[orphans]] = np.nanmedian(series), np.nanquantile(series, LEVELS)[:, None]
        joined = holes[~orphans]
        for a, b in sorted({(int(back[t]), int(ahead[t])) for t in joined}):
            here = joined[(back[joined] == a) & (ahead[joined] == b)]
            point[here] = between(series, here, a, b, self.cycle)
            errors = np.concatenate([_errors(source, a, b, self.cycle, self.errors) for source in sources])
            spread = np.quantile(errors, LEVELS) if errors.size else np.zeros(len(LEVELS))
            quantiles[:, here] = point[here] + spread[:, None]


def neighbours(seen: NDArray[np.bool_], cycle: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many cycles back and ahead the nearest observed values at the same place are.

    Args:
        seen: (steps,) what was observed.
        cycle: m, steps.

    Returns:
        (steps,) twice; `FAR` where there is none.
    """
    rows = -(-len(seen) // cycle)
    grid, place = np.pad(seen, (0, rows * cycle - len(seen))).reshape(rows, cycle), np.arange(rows)[:, None]
    last = np.maximum.accumulate(np.where(grid, place, -FAR), axis=0)
    following = np.minimum.accumulate(np.where(grid, place, FAR)[::-1], axis=0)[::-1]
    back, ahead = np.where(last < 0, FAR, place - last), np.where(following >= FAR, FAR, following - place)
    return back.ravel()[: len(seen)], ahead.ravel()[: len(seen)]


def between(y: Array, at: NDArray[np.int64], back: int, ahead: int, cycle: int) -> Array:
    """The straight line at some steps.

    Args:
        y: (steps,) the series.
        at: which steps.
        back: cycles to the value before, or `FAR`.
        ahead: cycles to the value after, or `FAR`.
        cycle: m, steps.
    """
    if ahead == FAR:
        return y[at - back * cycle]
    if back == FAR:
        return y[at + ahead * cycle]
    return (ahead * y[at - back * cycle] + back * y[at + ahead * cycle]) / (back + ahead)


def _errors(y: Array, back: int, ahead: int, cycle: int, most: int) -> Array:
    first = 0 if back == FAR else back * cycle
    last = len(y) if ahead == FAR else len(y) - ahead * cycle
    at = np.arange(first, max(first, last), max(1, -(-(last - first) // most)))
    errors = y[at] - between(y, at, back, ahead, cycle)
    return errors[np.isfinite(errors)]
