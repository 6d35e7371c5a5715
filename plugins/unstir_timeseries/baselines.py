"""Classical forecasts that every table carries: the last season, the last value, and their own past errors around them.

    seasonal naive       f_h = y_{T+h-m j},  j the seasons back to the last observed value at that place of the season
    seasonal residual    f_h + sqrt(j) quantiles of y_t - y_{t-m}, the series' own
    random walk          y_T + sqrt(h) sd z_q,  sd of the last changes;  or y_T + quantiles of y_{t+h} - y_t

Point forecasts give one value at every level: their CRPS is their ND. Missing values are stepped over, never filled with zero.
Reference: Hyndman and Athanasopoulos, Forecasting: principles and practice, 3rd edition 2021, section 5.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from unstir.errors import UserError
from unstir.plugin.options import one_of
from unstir.plugin.protocols import Case, Estimate, Progress
from unstir_timeseries.interpolation import Interpolation
from unstir_timeseries.panel import LEVELS
from unstir_timeseries.past import Array, Past, check_season, last_cycle, quantiles_of
from unstir_timeseries.ridge import Ridge, RidgeResidual
from unstir_timeseries.smoothing import ETS, StatsForecast

__all__ = [
    "ETS",
    "Interpolation",
    "RandomWalk",
    "Ridge",
    "RidgeResidual",
    "SeasonalNaive",
    "SeasonalResidual",
    "StatsForecast",
]

Law = Literal["gaussian", "empirical"]


@dataclass(frozen=True)
class SeasonalNaive:
    """The last season, repeated; where a value of it is missing, the same place of the season before.

    Args:
        season: m, steps; the panel's when 0.

    Raises:
        UserError: the season is negative.
    """

    season: int = 0

    needs: ClassVar[tuple[str, ...]] = ()
    uses_prior: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_season(self.season)

    def __call__(self, case: Case, prior: Any, seed: int, *, progress: Progress = None) -> Estimate:
        """A point forecast of every series."""
        past = Past.of(case, self.season)
        return past.estimate(naive(past)[0])


@dataclass(frozen=True)
class SeasonalResidual(SeasonalNaive):
    """Seasonal naive with the quantiles of the series' own seasonal differences around it.

    Args:
        history: differences of ``"context"``, of ``"all"`` before the origin, or of so many last steps.
        grow: multiply by the root of the seasons between a step and the value that it repeats, as a seasonal random walk does?

    Raises:
        UserError: an option out of range.
    """

    history: int | str = "context"
    grow: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_history(self.history)

    def __call__(self, case: Case, prior: Any, seed: int, *, progress: Progress = None) -> Estimate:
        """Quantiles of every series."""
        past = Past.of(case, self.season)
        point, age = naive(past)
        spread = change_quantiles(past, self.history, past.season)
        past.say("no seasonal difference was observed, the forecast is a point", ~np.isfinite(spread).all(1))
        grown = np.nan_to_num(spread)[:, :, None] * (np.sqrt(age)[:, None] if self.grow else 1.0)
        return past.estimate(point[:, None] + grown, point)


@dataclass(frozen=True)
class RandomWalk:
    """The last value, with the spread of the series' own changes.

    Args:
        history: changes of ``"context"``, of ``"all"`` before the origin, or so many last changes.
        law: ``"gaussian"``, standard deviation of the one-step changes times the root of the steps; or ``"empirical"``, quantiles of the
            h-step changes.

    Raises:
        UserError: an option out of range.
    """

    history: int | str = "context"
    law: Law = "gaussian"

    needs: ClassVar[tuple[str, ...]] = ()
    uses_prior: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_history(self.history)
        one_of(self, law=Law)

    def __call__(self, case: Case, prior: Any, seed: int, *, progress: Progress = None) -> Estimate:
        """Quantiles of every series."""
        past = Past.of(case, 1)
        last, age = last_cycle(past.y, 1)  # age: steps back to the last observed value, 1 where it is the last step
        law = self._gaussian if self.law == "gaussian" else self._empirical
        return past.estimate(last[:, :, None] + law(past, age[:, 0]), np.repeat(last, past.horizon, 1))

    def _gaussian(self, past: Past, age: Any) -> Array:
        from scipy.special import ndtri

        changes = np.diff(recent(past, self.history, 1), axis=1)
        known = np.isfinite(changes).any(1)
        past.say("no two neighbouring steps were observed, the forecast is a point", ~known)
        sd = np.zeros(len(changes))
        sd[known] = np.nanstd(changes[known], axis=1)
        steps = past.steps + age[:, None] - 1
        return sd[:, None, None] * ndtri(LEVELS)[:, None] * np.sqrt(steps)[:, None]

    def _empirical(self, past: Past, age: Any) -> Array:
        made, lost = np.zeros((len(past.y), len(LEVELS), past.horizon)), np.zeros(len(past.y), dtype=bool)
        lags = past.steps + age[:, None] - 1
        found = {lag: change_quantiles(past, self.history, lag) for lag in np.unique(lags)}
        for row, needed in enumerate(lags):
            for step, lag in enumerate(needed):
                spread = found[lag][row]
                if not np.isfinite(spread).all():  # nothing is known of changes over so many steps: the longest known ones
                    spread, lost[row] = made[row, :, max(step - 1, 0)], True
                made[row, :, step] = spread
        past.say("no change over as many steps was observed, the spread stops growing", lost)
        return made


def naive(past: Past) -> tuple[Array, Array]:
    """The seasonal naive forecast.

    Args:
        past: what is known.

    Returns:
        (items, H) values, and (items, H) how many seasons lie between each step and the value that it repeats.
    """
    cycle, age = last_cycle(past.y, past.season)
    lost = ~np.isfinite(cycle)
    empty = lost.all(1)
    if (some := lost.any(1) & ~empty).any():
        middle = np.nanmedian(past.y[some], axis=1)[:, None]
        cycle[some] = np.where(lost[some], middle, cycle[some])
        past.say("places of the season that were never observed are forecast by the median", some)
    place, cycles = (past.steps - 1) % past.season, (past.steps - 1) // past.season
    return cycle[:, place], (age[:, place] + cycles).astype(np.float64)


def recent(past: Past, history: int | str, more: int = 0) -> Array:
    """The steps that differences are taken of.

    Args:
        past: what is known.
        history: ``"context"``, ``"all"`` or a number of last steps.
        more: steps beyond a number.
    """
    if history == "all":
        return past.y
    return past.window if history == "context" else past.y[:, -(int(history) + more) :]


def change_quantiles(past: Past, history: int | str, lag: int) -> Array:
    """Quantiles of a series' own changes over some steps.

    Args:
        past: what is known.
        history: of which steps, see `recent`; where these hold no such change, of all steps before the origin.
        lag: steps.

    Returns:
        (items, levels), NaN where no such change was observed.
    """
    made = np.full((len(past.y), len(LEVELS)), np.nan)
    for seen in (recent(past, history), past.y):
        rows = ~np.isfinite(made).all(1)
        if rows.any() and lag < seen.shape[1]:
            made[rows] = quantiles_of(seen[rows, lag:] - seen[rows, :-lag])
    return made


def _check_history(history: int | str) -> None:
    if history in ("context", "all"):
        return
    if isinstance(history, str) or history < 2:
        raise UserError(f'history must be "context", "all" or at least 2 steps, got {history!r}')
