"""Quantiles of every step ahead by gradient-boosted trees on what the context shows.

    q_l(h) = s F_l(features(x, h)),   F_l = base_l + sum_k tree_k,   fitted to the pinball loss max(l d, (l - 1) d),  d = y/s - F
    features: the last values; the same place of earlier cycles and its neighbours; means, spreads and changes; h; calendar; covariates

The trees are kept as arrays and walked here, so that a fit is read from disk without unpickling; they are scikit-learn's to the last bit.
Reference: Ke et al. 2017 (histogram trees); direct forecasts as in Makridakis et al. 2022 (M5), Int. J. Forecasting 38.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from unstir.errors import MissingExtra
from unstir.plugin.protocols import Progress
from unstir_timeseries import examples
from unstir_timeseries.panel import LEVELS
from unstir_timeseries.windows import usual_size

if TYPE_CHECKING:
    from unstir_timeseries.fits import Fit
    from unstir_timeseries.learned import QuantileGBM

RECENT = 24
"""Last values that are features."""
CYCLES = 14
"""Earlier cycles whose value at the same place is a feature."""
BLOCK = 4096
"""Rows that walk the trees together."""
JITTER = 1e-6
"""Noise of the scaled targets: where many are equal (zeros, constants) so is every gradient of the pinball loss, and no tree can split."""


def features(x: NDArray[np.float64], ahead: NDArray[np.int64], cycle: int, told: NDArray[np.float64]) -> NDArray[np.float64]:
    """Features of one step ahead for each window.

    Args:
        x: (rows, C) scaled contexts, NaN where not observed.
        ahead: (rows,) h, from 1.
        cycle: steps of the shortest cycle.
        told: (rows, more) what is known of that step: calendar, covariates, the size of the series.

    Returns:
        (rows, features), NaN where nothing is known.
    """
    count, rows = x.shape[1], np.arange(len(x))

    def ago(lag: NDArray[np.int64]) -> NDArray[np.float64]:
        """The value ``lag`` steps before the step asked for, where the context has it."""
        place = count - 1 + ahead - lag
        return np.where((place >= 0) & (place < count), x[rows, np.clip(place, 0, count - 1)], np.nan)

    def span(begin: int, end: int) -> NDArray[np.float64]:
        """The last values from ``begin`` to ``end`` steps back."""
        return x[:, max(count - end, 0) : max(count - begin, 0)] if begin < count else np.full((len(x), 1), np.nan)

    day, week = -(-ahead // cycle) * cycle, -(-ahead // (examples.LONG * cycle)) * examples.LONG * cycle
    same = [ago(day + k * cycle) for k in range(CYCLES)]
    recent = [x[:, count - 1 - back] if back < count else np.full(len(x), np.nan) for back in range(RECENT)]
    near = [ago(day + k) for k in (-2, -1, 1, 2)] + [ago(week + k) for k in (-1, 0, 1)]
    long, half = examples.LONG * cycle, max(cycle // 4, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # spans without an observation
        mean = {
            ends: np.nanmean(span(*ends), 1) for ends in ((0, 3), (0, cycle), (cycle, 2 * cycle), (0, long), (long, 2 * long), (0, half))
        }
        spread = [np.nanstd(span(0, cycle), 1), np.nanstd(span(0, long), 1), np.nanmin(span(0, cycle), 1), np.nanmax(span(0, cycle), 1)]
        change = [span(0, 1)[:, -1] - span(lag, lag + 1)[:, -1] for lag in (cycle, long)]
        change += [mean[0, half] - np.nanmean(span(cycle, cycle + half), 1), mean[0, cycle] - mean[cycle, 2 * cycle]]
        level = [np.nanmean(np.stack(same[: examples.LONG]), 0), np.isfinite(x).mean(1), np.isfinite(span(0, cycle)).mean(1)]
    return np.column_stack([*recent, *same, *near, *mean.values(), *spread, *change, *level, ahead, told])


def told(panel: xr.Dataset, rows: examples.Examples, ahead: NDArray[np.int64], usual: NDArray[np.float64]) -> NDArray[np.float64]:
    """What is known of the steps asked for: calendar (where it is known), covariates, and the size of the series.

    Args:
        panel: with ``time``, and ``known`` where there are covariates.
        rows: the windows.
        ahead: (rows,) h, from 1.
        usual: (items,) mean |y|.

    Returns:
        (rows, columns).
    """
    at, made = rows.end + ahead - 1, [np.log(np.where(usual > 0, usual, np.nan))[rows.item]]
    if panel.attrs.get("calendar", "known") == "known":
        stamps = pd.DatetimeIndex(panel["time"].values)[at]
        made += [stamps.hour + stamps.minute / 60, stamps.day_of_week, stamps.day_of_year]
    if "known" in panel:
        made += list(panel["known"].values[:, rows.item, at])
    return np.column_stack([np.asarray(column, dtype=np.float64) for column in made])


def fit(
    training: xr.Dataset,
    context: int,
    horizon: int,
    options: QuantileGBM,
    seed: int,
    *,
    step: int = 1,
    phase: int = 0,
    progress: Progress = None,
) -> Fit:
    """Fit the trees of every level on random windows of a panel.

    Args:
        training: the training panel.
        context: C.
        horizon: H.
        options: of the method.
        seed: of the windows and of the trees.
        step: contexts of training end at multiples of it,
        phase: plus this.

    Returns:
        What `arrays` makes of the models of all levels.

    Raises:
        DataError: no window fits.
        MissingExtra: scikit-learn is not installed.
    """
    try:
        from sklearn.ensemble import HistGradientBoostingRegressor
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise MissingExtra("quantile-gbm needs scikit-learn: pip install 'unstir[timeseries]'") from error
    y, rng = training["y"].values, np.random.default_rng([seed, 2])
    usual, where = usual_size(y), examples.ends(y, context, horizon, step=step, phase=phase)
    where = where[rng.integers(0, len(where), options.rows)]
    ahead = rng.integers(1, horizon + 1, options.rows)
    rows = examples.cut(
        y, where, context, horizon, options.floor, usual=usual, hidden=examples.hide(len(where), context, options.missing, rng)
    )
    target = rows.x[np.arange(len(where)), context - 1 + ahead]
    target = target + JITTER * rng.standard_normal(len(target))
    seen = np.isfinite(target)
    inputs = features(rows.x[:, :context], ahead, examples.cycle_of(training.attrs), told(training, rows, ahead, usual))[seen]
    kept = np.flatnonzero(np.isfinite(inputs).any(0))  # a column without any value cannot be binned
    models = []
    with threadpool_limits(1):  # sums over rows then do not depend on the machine's cores
        for done, level in enumerate(LEVELS):
            model = HistGradientBoostingRegressor(
                loss="quantile", quantile=level, learning_rate=options.rate, max_iter=options.trees, max_leaf_nodes=options.leaves,
                min_samples_leaf=options.least, max_features=options.columns, early_stopping=False, random_state=seed % 2**32,
            )  # fmt: skip
            models.append(model.fit(inputs[:, kept], target[seen]))
            if progress is not None:
                progress(done + 1, len(LEVELS))
    return arrays(models, kept)


def walk(fit: Fit, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
    """What the trees say.

    Args:
        fit: what `arrays` returned.
        inputs: (rows, features).

    Returns:
        (levels, rows), each level as its trees have it: levels may cross.
    """
    made = np.empty((len(fit["base"]), len(inputs)))
    for begin in range(0, len(inputs), BLOCK):
        part = inputs[begin : begin + BLOCK]
        rows = np.arange(len(part))[:, None]
        for level, (base, roots) in enumerate(zip(fit["base"], fit["roots"], strict=True)):
            at = np.broadcast_to(roots, (len(part), len(roots))).copy()
            while not (done := fit["leaf"][at]).all():
                value = part[rows, fit["feature"][at]]
                left = np.where(np.isnan(value), fit["missing_left"][at], value <= fit["threshold"][at])
                at = np.where(done, at, np.where(left, fit["left"][at], fit["right"][at]))
            made[level, begin : begin + BLOCK] = base + fit["value"][at].sum(1)
    return made


def arrays(models: Sequence[Any], kept: NDArray[np.int64]) -> Fit:
    """Fitted models as arrays: the nodes of all trees in one row, children numbered in it.

    Args:
        models: scikit-learn's histogram boosting of one output, each with the same number of trees and no categories.
        kept: which of the columns that `walk` is given the models were.
    """
    trees = [stage[0].nodes for model in models for stage in model._predictors]
    starts = np.cumsum([0, *(len(tree) for tree in trees)])
    nodes, shift = np.concatenate(trees), np.repeat(starts[:-1], [len(tree) for tree in trees])
    return {
        "base": np.asarray([float(np.squeeze(model._baseline_prediction)) for model in models]),
        "roots": starts[:-1].reshape(len(models), -1).astype(np.int32),
        "leaf": nodes["is_leaf"].astype(bool),
        "feature": kept[nodes["feature_idx"]].astype(np.int32),
        "threshold": nodes["num_threshold"].astype(np.float64),
        "missing_left": nodes["missing_go_to_left"].astype(bool),
        "left": (nodes["left"] + shift).astype(np.int32),
        "right": (nodes["right"] + shift).astype(np.int32),
        "value": nodes["value"].astype(np.float64),
    }
