"""Examples for learned baselines: windows of a panel with what precedes them, some of it hidden so that missing values are no surprise.

    s = max(mean |y| over the observed context, share x mean |y| of the series),   x = y / s

Reference: Salinas et al. 2020 (DeepAR), arXiv:1704.04110; scaling of `unstir_timeseries.windows`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from unstir.errors import DataError
from unstir.plugin.protocols import Case
from unstir_timeseries.panel import history_of
from unstir_timeseries.windows import Windows, usual_size

LONG = 7
"""Cycles of a long cycle: hours have days and weeks, days weeks and seven weeks."""


@dataclass(frozen=True)
class Examples:
    """Windows, one a row, in scaled units.

    Attributes:
        x: (rows, C + H), NaN where nothing was observed; the horizon is NaN where it is asked for.
        scale: (rows,) s, in units of ``y``.
        item: (rows,) which series.
        end: (rows,) step of the panel that follows the context.
    """

    x: NDArray[np.float64]
    scale: NDArray[np.float64]
    item: NDArray[np.int64]
    end: NDArray[np.int64]


def cycle_of(facts: Any) -> int:
    """Steps of the shortest cycle that a panel's attrs or a case's context tell of: the season, and a week for daily series."""
    season = int(facts.get("season", 1))
    offset = pd.tseries.frequencies.to_offset(str(facts.get("freq", "")) or None)
    return LONG if season == 1 and offset is not None and offset.name == "D" and offset.n == 1 else season


def training_of(case: Case) -> xr.Dataset:
    """The panel before the first origin.

    Raises:
        DataError: the case has none.
    """
    if not isinstance(training := case.context.get("training"), xr.Dataset):
        raise DataError(f"case {case.key} has no training panel, and a learned baseline needs one")
    return training


def check_covariates(training: xr.Dataset, measurement: xr.Dataset) -> int:
    """How many known covariates there are, the same in both panels.

    Args:
        training: the training panel.
        measurement: of a case.

    Raises:
        DataError: they differ.
    """
    trained, have = (panel.sizes["covariate"] if "known" in panel else 0 for panel in (training, measurement))
    if trained != have:
        raise DataError(f"the training panel has {trained} known covariate{'' if trained == 1 else 's'}, and the measurement has {have}")
    return trained


def ends(y: NDArray[Any], context: int, horizon: int, *, step: int = 1, phase: int = 0) -> NDArray[np.int64]:
    """Where training windows may be: at least half of the context observed, and something of the horizon.

    Args:
        y: (items, steps), NaN where nothing was observed.
        context: C.
        horizon: H.
        step: contexts end at multiples of it,
        phase: plus this.

    Returns:
        (windows, 2) item and end of the context.

    Raises:
        DataError: there is no such window.
    """
    seen = np.concatenate([np.zeros((len(y), 1), dtype=np.int64), np.cumsum(np.isfinite(y), 1)], 1)
    at = np.arange(context, y.shape[1] - horizon + 1)
    at = at[at % step == phase % step]
    good = (2 * (seen[:, at] - seen[:, at - context]) >= context) & (seen[:, at + horizon] > seen[:, at])
    items, which = np.nonzero(good)
    if not len(items):
        short = context + horizon - y.shape[1]
        why = f"{short} steps more are needed" if short > 0 else "half of every context is missing"
        raise DataError(f"no series has a window of {context} steps and {horizon} after them in {y.shape[1]} steps of training: {why}")
    return np.stack([items, at[which]], 1)


def cut(
    y: NDArray[Any],
    where: NDArray[np.int64],
    context: int,
    horizon: int,
    floor: float,
    *,
    usual: NDArray[np.float64] | None = None,
    hidden: NDArray[np.bool_] | None = None,
) -> Examples:
    """Windows of a panel.

    Args:
        y: (items, steps).
        where: (rows, 2) item and end of the context; what lies before the first step was not observed.
        context: C.
        horizon: H; 0 leaves the horizon out of sight.
        floor: smallest scale, as a share of the series' mean |y|.
        usual: (items,) that mean, where it is known already.
        hidden: (rows, C), what is to be taken away; where nothing would be left, nothing is.
    """
    item, end = where.T
    index = end[:, None] + np.arange(-context, horizon)
    raw = np.where(index >= 0, y[item[:, None], np.maximum(index, 0)], np.nan)
    if hidden is not None:
        less = np.where(hidden, np.nan, raw[:, :context])
        raw[:, :context] = np.where(np.isfinite(less).any(1, keepdims=True), less, raw[:, :context])
    usual = usual_size(y) if usual is None else usual
    _, scale = Windows(context, max(horizon, 1), floor=floor).scales(raw[:, None, :context], usual[item][:, None])
    return Examples(raw / scale, scale[:, 0], item, end)


def asked(case: Case, context: int, floor: float) -> Examples:
    """The context of every series of a case: one row a series, without its horizon.

    Raises:
        DataError: a series has no observed value at all.
    """
    history = history_of(case.measurement)
    y = history["y"].values
    if (empty := ~np.isfinite(y).any(1)).any():
        raise DataError(f"series {history['item'].values[empty][0]} of case {case.key} has no observed value to forecast from")
    return cut(y, np.stack([np.arange(len(y)), np.full(len(y), y.shape[1])], 1), context, 0, floor)


def hide(rows: int, context: int, share: float, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Parts of contexts to take away, 10 to 90 % of each: scattered steps, the first, the last, or a stretch.

    Args:
        rows: number of windows.
        context: C.
        share: of the rows that lose something.
        rng: where chance comes from.

    Returns:
        (rows, C), true where hidden.
    """
    steps, part = np.arange(context), rng.uniform(0.1, 0.9, (rows, 1))
    start = np.stack([np.zeros(rows), 1 - part[:, 0], rng.random(rows) * (1 - part[:, 0])], 1)  # first, last, a stretch
    kind = rng.integers(0, 4, rows)
    begin = start[np.arange(rows), np.minimum(kind, 2)][:, None] * context
    stretch = (steps >= begin) & (steps < begin + part * context)
    scattered = rng.random((rows, context)) < part
    chosen = rng.random(rows) < share
    return np.where((kind == 3)[:, None], scattered, stretch) & chosen[:, None]


def filled(x: NDArray[np.float64], cycle: int) -> NDArray[np.float64]:
    """Windows (rows, steps) with holes filled from their past alone: the value a cycle before, else the one before, else +-1.

    +-1 is the scale with the sign of the window's sum: nothing else is known before the first observation.
    """
    if np.isfinite(x).all():
        return x
    made, missing = x.copy(), ~np.isfinite(x)
    sign = np.where(np.nansum(x, 1) < 0, -1.0, 1.0)
    for step in np.flatnonzero(missing.any(0)):
        before = made[:, step - cycle] if step >= cycle else made[:, step - 1] if step else sign
        made[:, step] = np.where(missing[:, step], before, made[:, step])
    return made
