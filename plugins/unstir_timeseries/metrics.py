"""Numbers that judge forecasts and imputations, each with its convention: those that weigh errors against the size of the series.

    CRPS = mean over q = .1 ... .9 of 2 sum |(f_q - y)(1[y <= f_q] - q)| / sum |y|,       ND = sum |y - f| / sum |y|

What the field tabulates as CRPS is this weighted quantile loss: for a perfect Gaussian it expects 0.6173 sigma where the CRPS of
Gneiting and Raftery is 0.5642 sigma, and it does not see tails beyond 10 and 90 %. Sums are pooled over all windows and series, so that
large series dominate. Calibration and scores of whole paths are in `calibration`.

Reference: GluonTS 0.17 (Evaluator), Hyndman and Koehler 2006 (MASE), Makridakis et al. 2020 (MSIS).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unstir.errors import UserError
from unstir.plugin.protocols import Case, Estimate, MetricInfo, Score
from unstir_timeseries.calibration import PIT, Coverage, EnergyScore, VariogramScore, Width, ZeroShare
from unstir_timeseries.panel import LEVELS, NINE
from unstir_timeseries.pooling import RESAMPLED, ZERO_TARGETS, Answer, answers, ratio, root_ratio
from unstir_timeseries.scores import (
    coverage,
    crps_quantiles,
    crps_samples,
    energy_score,
    mase,
    msis,
    nd,
    nrmse,
    observed_mean,
    pinball,
    pit,
    quantile_losses,
    seasonal_error,
    smape,
    variogram_score,
    weighted_quantile_loss,
)

__all__ = [
    "CRPS",
    "MASE",
    "MSIS",
    "ND",
    "NRMSE",
    "PIT",
    "SMAPE",
    "Coverage",
    "EnergyScore",
    "SampleCRPS",
    "VariogramScore",
    "Width",
    "ZeroShare",
    "coverage",
    "crps_by_step",
    "crps_samples",
    "energy_score",
    "mase",
    "msis",
    "nd",
    "nrmse",
    "pit",
    "quantile_losses",
    "seasonal_error",
    "smape",
    "variogram_score",
    "weighted_quantile_loss",
]

Array = NDArray[Any]
FIXED = f"the normaliser is held fixed when {RESAMPLED}"
SERIES = "mean over series and windows; a series whose past never changes is left out"


def scored(values: Array, y: Array) -> Array:
    """Sums over the steps that have a target, NaN for a series that has none.

    Args:
        values: (items, steps).
        y: (items, steps), NaN where not scored.
    """
    return np.where(np.isfinite(y).any(-1), np.nansum(values, axis=-1), np.nan)


def size(y: Array) -> Array:
    """Sum of |y| of each series.

    Args:
        y: (items, steps), NaN where not scored.
    """
    return np.nansum(np.abs(y), axis=-1)


@dataclass(frozen=True)
class CRPS:
    """Mean weighted quantile loss at .1 to .9: the CRPS of the field's tables (GluonTS, mean_wQuantileLoss)."""

    def describe(self) -> list[MetricInfo]:
        """One entry."""
        how = "mean over q = .1 ... .9 of 2 sum |(f_q - y)(1[y <= f_q] - q)| / sum |y|, pooled over windows, series and steps"
        return [MetricInfo("crps", "CRPS", "", "down", f"{how} (GluonTS's mean weighted quantile loss); {FIXED}", digits=4)]

    def over(self, pairs: Sequence[tuple[Estimate, Case]]) -> dict[str, Score]:
        """Pool the losses.

        Args:
            pairs: forecasts with their windows.

        Returns:
            "crps"; for a point forecast it is the ND.
        """

        def cells(one: Answer) -> tuple[Array, Array]:
            losses = pinball(one.quantiles(NINE), one.y, NINE).mean(1)
            return scored(losses, one.y), size(one.y)

        return {"crps": ratio(answers(pairs), cells, ZERO_TARGETS)}


def crps_by_step(pairs: Sequence[tuple[Estimate, Case]]) -> Array:
    """CRPS of each step of the horizon, relative to the mean |y| of all steps, so that the mean over steps is the CRPS.

    Args:
        pairs: forecasts with their windows, one horizon.

    Returns:
        (steps,); NaN for a step without a target.

    Raises:
        UserError: the windows have different horizons.
    """
    found = answers(pairs)
    if len({one.y.shape[1] for one in found}) > 1:
        raise UserError("CRPS by step needs windows of one horizon")
    y = np.concatenate([one.y for one in found])
    losses = np.concatenate([pinball(one.quantiles(NINE), one.y, NINE).mean(1) for one in found])
    if not np.nansum(np.abs(y)) > 0:
        return np.full(y.shape[1], np.nan)
    return observed_mean(losses.T) / np.nanmean(np.abs(y))


@dataclass(frozen=True)
class SampleCRPS:
    """CRPS of Gneiting and Raftery, tails included: fair from samples, else from quantiles."""

    def describe(self) -> list[MetricInfo]:
        """One entry."""
        how = "sum over steps of mean |x - y| - sum |x - x'| / (2 S (S - 1)) over S sample paths, divided by sum |y|; where there are only"
        rest = f"quantiles, 2 pinball integrated over the {len(LEVELS)} levels (up to 3 % more for a Gaussian)"
        return [MetricInfo("sample-crps", "CRPS fair", "", "down", f"{how} {rest}; {FIXED}", digits=4)]

    def over(self, pairs: Sequence[tuple[Estimate, Case]]) -> dict[str, Score]:
        """Pool the scores of all steps.

        Args:
            pairs: forecasts with their windows.
        """

        def cells(one: Answer) -> tuple[Array, Array]:
            samples = one.samples()
            steps = crps_quantiles(one.quantiles(), one.y, LEVELS) if samples is None else crps_samples(samples, one.y)
            return scored(steps, one.y), size(one.y)

        return {"sample-crps": ratio(answers(pairs), cells, ZERO_TARGETS)}


@dataclass(frozen=True)
class ND:
    """Normalised deviation of the median."""

    def describe(self) -> list[MetricInfo]:
        """One entry."""
        return [MetricInfo("nd", "ND", "", "down", f"sum |y - median| / sum |y|, pooled over windows, series and steps; {FIXED}", digits=4)]

    def over(self, pairs: Sequence[tuple[Estimate, Case]]) -> dict[str, Score]:
        """Pool the absolute errors.

        Args:
            pairs: forecasts with their windows.
        """
        cells = lambda one: (scored(np.abs(one.y - one.quantile(0.5)), one.y), size(one.y))  # noqa: E731
        return {"nd": ratio(answers(pairs), cells, ZERO_TARGETS)}


@dataclass(frozen=True)
class NRMSE:
    """Normalised root mean square error of the mean."""

    def describe(self) -> list[MetricInfo]:
        """One entry."""
        how = "root of the mean over series and windows of the mean square error of the forecast's mean, divided by their mean |y|"
        return [MetricInfo("nrmse", "NRMSE", "", "down", f"{how}; {FIXED}", digits=4)]

    def over(self, pairs: Sequence[tuple[Estimate, Case]]) -> dict[str, Score]:
        """Pool the square errors.

        Args:
            pairs: forecasts with their windows.
        """
        cells = lambda one: (observed_mean((one.y - one.mean()) ** 2), np.nan_to_num(observed_mean(np.abs(one.y))))  # noqa: E731
        return {"nrmse": root_ratio(answers(pairs), cells, ZERO_TARGETS)}


@dataclass(frozen=True)
class MASE:
    """Mean absolute scaled error."""

    def describe(self) -> list[MetricInfo]:
        """One entry."""
        error = "the seasonal error, mean |y_t - y_(t-m)| over the whole past (m falls to 1 where the past is not longer)"
        return [MetricInfo("mase", "MASE", "", "down", f"mean |y - median| / {error}; {SERIES}; {RESAMPLED}", digits=4)]

    def over(self, pairs: Sequence[tuple[Estimate, Case]]) -> dict[str, Score]:
        """Average the scaled errors of series.

        Args:
            pairs: forecasts with their windows.
        """
        return {"mase": ratio(answers(pairs), lambda one: _each(mase(one.quantile(0.5), one.y, past_error(one))), NO_CHANGE)}


@dataclass(frozen=True)
class MSIS:
    """Mean scaled interval score of the 95 % interval."""

    def describe(self) -> list[MetricInfo]:
        """One entry."""
        how = "mean of u - l + 40 (l - y)1[y < l] + 40 (y - u)1[y > u] with l, u the quantiles .025 and .975, divided by the seasonal error"
        return [MetricInfo("msis", "MSIS", "", "down", f"{how} as MASE takes it; {SERIES}; {RESAMPLED}", digits=4)]

    def over(self, pairs: Sequence[tuple[Estimate, Case]]) -> dict[str, Score]:
        """Average the scaled interval scores of series.

        Args:
            pairs: forecasts with their windows.
        """
        cells = lambda one: _each(msis(one.quantile(0.025), one.quantile(0.975), one.y, past_error(one)))  # noqa: E731
        return {"msis": ratio(answers(pairs), cells, NO_CHANGE)}


@dataclass(frozen=True)
class SMAPE:
    """Symmetric mean absolute percentage error, as a share."""

    def describe(self) -> list[MetricInfo]:
        """One entry."""
        how = "mean of 2 |y - median| / (|y| + |median|), a step where both are zero counting zero; mean over series and windows"
        return [MetricInfo("smape", "sMAPE", "", "down", f"{how}; {RESAMPLED}", digits=4)]

    def over(self, pairs: Sequence[tuple[Estimate, Case]]) -> dict[str, Score]:
        """Average over series.

        Args:
            pairs: forecasts with their windows.
        """
        none = "sMAPE is NaN: no target is observed"
        return {"smape": ratio(answers(pairs), lambda one: _each(smape(one.quantile(0.5), one.y)), none)}


NO_CHANGE = "the score is NaN: the past of no scored series ever changes, and its seasonal error divides"


def past_error(one: Answer) -> Array:
    """Seasonal error of each series of a window.

    Args:
        one: the window.

    Returns:
        (items,), NaN where the past has no pair of observations a season apart.
    """
    return seasonal_error(one.past(), one.season())


def _each(values: Array) -> tuple[Array, Array]:
    """Every series of every window counts once."""
    return values, np.ones(len(values))
