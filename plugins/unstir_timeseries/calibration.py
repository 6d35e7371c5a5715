"""Is the spread of a forecast right: coverage, width, PIT, whole paths, and zeros.

    coverage = share of targets inside the central interval,      PIT = F(y), uniform where F is the law of y
    ES = E||X - y|| - E||X - X'|| / 2,                            VS_p = mean over pairs of (|y_i - y_j|^p - E|X_i - X_j|^p)^2

The steps of a window are correlated: a window is one trial. Coverage and PIT look at one step at a time; the energy score sees whole
paths, and the variogram score sees how their steps hang together.

Reference: Gneiting, Balabdaoui and Raftery 2007; Czado et al. 2009; Scheuerer and Hamill 2015.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unstir.errors import UserError
from unstir.plugin.protocols import Case, Estimate, MetricInfo, Score
from unstir_timeseries.panel import LEVELS, NINE
from unstir_timeseries.pooling import RESAMPLED, ZERO_TARGETS, Answer, answers, influence, nothing, ratio
from unstir_timeseries.scores import binomial_bar, energy_score, level_widths, observed_mean, pit_bounds, pit_distance, variogram_score

Array = NDArray[Any]
CENTRAL = {50: (0.25, 0.75), 80: (0.1, 0.9), 90: (0.05, 0.95)}
NO_TARGET = "the score is NaN: no target is observed"


def hits(one: Answer, low: float, high: float) -> tuple[Array, Array]:
    """Targets inside a central interval, and targets, of each series of a window.

    Args:
        one: the window.
        low: level of the lower end.
        high: level of the upper end.

    Returns:
        (items,) each; hits are NaN where nothing is scored.
    """
    seen = np.isfinite(one.y)
    inside = (one.y >= one.quantile(low)) & (one.y <= one.quantile(high)) & seen
    count = seen.sum(-1)
    return np.where(count > 0, inside.sum(-1), np.nan), count.astype(float)


@dataclass(frozen=True)
class Coverage:
    """Shares of targets inside the central 50, 80 and 90 % intervals, and the mean error of the nine quantiles' coverage."""

    def describe(self) -> list[MetricInfo]:
        """One entry an interval, better the nearer to its name, and the mean error."""
        how = "of targets between the quantiles {} and {}, ends included, pooled over windows, series and steps; {}"
        made = [
            MetricInfo(f"coverage-{name}", f"in {name} %", "%", "neither", f"share {how.format(low, high, RESAMPLED)}; {name} is right")
            for name, (low, high) in CENTRAL.items()
        ]
        error = "mean over q = .1 ... .9 of |share of targets at or below quantile q - q|; jackknife parts are windows"
        return [*made, MetricInfo("coverage-error", "coverage error", "", "down", error, digits=4)]

    def over(self, pairs: Sequence[tuple[Estimate, Case]]) -> dict[str, Score]:
        """Count the targets inside.

        Args:
            pairs: forecasts with their windows.
        """
        found = answers(pairs)
        made = {}
        for name, (low, high) in CENTRAL.items():
            share = ratio(found, lambda one, low=low, high=high: hits(one, low, high), NO_TARGET)  # type: ignore[misc]
            made[f"coverage-{name}"] = Score(100 * share.value, tuple(100 * part for part in share.parts))
        below = [_below(one) for one in found]
        if not sum(int(count) for _, count in below):
            return made | {"coverage-error": nothing(NO_TARGET)}
        return made | {"coverage-error": influence(below, _coverage_error)}


def _below(one: Answer) -> tuple[Array, int]:
    """How many targets lie at or below each of the nine quantiles, and how many targets there are."""
    return (one.y[:, None] <= one.quantiles(NINE)).sum((0, 2)), int(np.isfinite(one.y).sum())


def _coverage_error(counts: Sequence[tuple[Array, int]]) -> float:
    total = sum(count for _, count in counts)
    return float(np.abs(sum(below for below, _ in counts) / total - np.array(NINE)).mean()) if total else math.nan


def coverage_curve(pairs: Sequence[tuple[Estimate, Case]]) -> dict[str, Array]:
    """Coverage of every quantile, with binomial bars whose trials are windows.

    Args:
        pairs: forecasts with their windows.

    Returns:
        ``level``, ``share`` of targets at or below the quantile, ``low`` and ``high`` of Wilson's 95 % interval, (levels,) each.
    """
    found = [one for one in answers(pairs) if np.isfinite(one.y).any()]
    below = sum((one.y[:, None] <= one.quantiles()).sum((0, 2)) for one in found)
    share = np.asarray(below / max(1, sum(np.isfinite(one.y).sum() for one in found)))
    if not found:
        share = np.full(len(LEVELS), np.nan)
    bars = np.array([binomial_bar(float(value), max(1, len(found))) for value in share])
    return {"level": np.array(LEVELS), "share": share, "low": bars[:, 0], "high": bars[:, 1]}


@dataclass(frozen=True)
class Width:
    """Width of the central 80 % interval, relative to the size of the series."""

    def describe(self) -> list[MetricInfo]:
        """One entry."""
        how = "sum of (quantile .9 - quantile .1) / sum |y|, pooled over windows, series and scored steps; narrow is good at right coverage"
        return [MetricInfo("width-80", "width 80 %", "", "neither", f"{how}; {RESAMPLED}")]

    def over(self, pairs: Sequence[tuple[Estimate, Case]]) -> dict[str, Score]:
        """Pool the widths.

        Args:
            pairs: forecasts with their windows.
        """

        def cells(one: Answer) -> tuple[Array, Array]:
            seen = np.isfinite(one.y)
            wide = np.where(seen, one.quantile(0.9) - one.quantile(0.1), 0.0).sum(-1)
            return np.where(seen.any(-1), wide, np.nan), np.nansum(np.abs(one.y), axis=-1)

        return {"width-80": ratio(answers(pairs), cells, ZERO_TARGETS)}


def bounds_of(found: Sequence[Answer]) -> tuple[Array, Array]:
    """Bounds of the PIT of all targets, from samples where there are any, else from quantiles.

    Args:
        found: the windows.

    Returns:
        Lower and upper, (targets,) each.
    """
    each = [
        pit_bounds(one.y, quantiles=one.quantiles(), levels=LEVELS) if samples is None else pit_bounds(one.y, samples=samples)
        for one, samples in ((one, one.samples()) for one in found)
    ]
    return np.concatenate([low for low, _ in each]), np.concatenate([high for _, high in each])


@dataclass(frozen=True)
class PIT:
    """Distance of the probability integral transform from the uniform law."""

    def describe(self) -> list[MetricInfo]:
        """One entry."""
        how = "integral over u in (0, 1) of |share of targets whose randomised F(y) is below u - u|, the randomisation averaged out"
        return [
            MetricInfo(
                "pit", "PIT distance", "", "down", f"{how}; 0 is calibrated, 1/4 far too wide; jackknife parts are windows", digits=4
            )
        ]

    def over(self, pairs: Sequence[tuple[Estimate, Case]]) -> dict[str, Score]:
        """Pool the targets of all windows.

        Args:
            pairs: forecasts with their windows.
        """
        each = [bounds_of([one]) for one in answers(pairs) if np.isfinite(one.y).any()]
        if not each:
            return {"pit": nothing(NO_TARGET)}
        joined = lambda some: (np.concatenate([low for low, _ in some]), np.concatenate([high for _, high in some]))  # noqa: E731
        return {"pit": influence(each, lambda some: pit_distance(joined(some)))}


def _paths(pairs: Sequence[tuple[Estimate, Case]]) -> list[Answer] | Score:
    found = answers(pairs)
    return found if all(one.samples() is not None for one in found) else Score(math.nan)  # what its definition says, so no warning


@dataclass(frozen=True)
class EnergyScore:
    """Energy score of whole paths."""

    def describe(self) -> list[MetricInfo]:
        """One entry."""
        how = "sum over series and windows of mean ||x - y|| - sum ||x - x'|| / (2 S (S - 1)), norms over the horizon, divided by sum ||y||"
        return [MetricInfo("energy", "energy score", "", "down", f"{how}; NaN without sample paths; {RESAMPLED}", digits=4)]

    def over(self, pairs: Sequence[tuple[Estimate, Case]]) -> dict[str, Score]:
        """Pool the scores of paths.

        Args:
            pairs: forecasts with their windows.
        """
        found = _paths(pairs)
        if isinstance(found, Score):
            return {"energy": found}
        cells = lambda one: (energy_score(one.paths(), one.y), np.sqrt(np.nansum(one.y**2, axis=-1)))  # noqa: E731
        return {"energy": ratio(found, cells, ZERO_TARGETS)}


@dataclass(frozen=True)
class VariogramScore:
    """Variogram score of whole paths: the dependence between steps.

    Args:
        p: power of the differences.
    """

    p: float = 0.5

    def __post_init__(self) -> None:
        if not self.p > 0:
            raise UserError(f"the power of the variogram score must be positive, got p={self.p}")

    def describe(self) -> list[MetricInfo]:
        """One entry."""
        how = f"mean over pairs of steps of (|y_i - y_j|^{self.p:g} - mean over paths of |x_i - x_j|^{self.p:g})^2, equal weights"
        return [
            MetricInfo(
                "variogram",
                "variogram score",
                "",
                "down",
                f"{how}, summed over series and windows and divided by the sum of their mean |y|^{2 * self.p:g}; "
                f"NaN without sample paths; {RESAMPLED}",
                digits=4,
            )
        ]

    def over(self, pairs: Sequence[tuple[Estimate, Case]]) -> dict[str, Score]:
        """Pool the scores of paths.

        Args:
            pairs: forecasts with their windows.
        """
        found = _paths(pairs)
        if isinstance(found, Score):
            return {"variogram": found}
        size = lambda y: np.nan_to_num(observed_mean(np.abs(y) ** (2 * self.p)))  # noqa: E731
        return {"variogram": ratio(found, lambda one: (variogram_score(one.paths(), one.y, p=self.p), size(one.y)), ZERO_TARGETS)}


@dataclass(frozen=True)
class ZeroShare:
    """How far the probability that a forecast gives to zero is from the share of zeros (counts, intermittent demand)."""

    def describe(self) -> list[MetricInfo]:
        """One entry."""
        how = "|mean probability of zero - share of zero targets|, forecasts rounded to whole numbers, pooled over all steps"
        return [MetricInfo("zeros", "zero share error", "", "down", f"{how}; {RESAMPLED}", digits=4)]

    def over(self, pairs: Sequence[tuple[Estimate, Case]]) -> dict[str, Score]:
        """Compare the shares.

        Args:
            pairs: forecasts with their windows.
        """
        gap = ratio(answers(pairs), _zeros, NO_TARGET)
        sign = -1.0 if gap.value < 0 else 1.0
        return {"zeros": Score(sign * gap.value, tuple(sign * part for part in gap.parts))}


def _zeros(one: Answer) -> tuple[Array, Array]:
    """Probability of zero less the zeros of each series, and its targets; quantiles stand for the levels nearest to them."""
    seen = np.isfinite(one.y)
    samples = one.samples()
    if samples is not None:
        share = (np.rint(samples) == 0).mean(1)
    else:
        share = ((np.rint(one.quantiles()) == 0) * level_widths(LEVELS)[:, None]).sum(1)
    gap = np.where(seen, share - (one.y == 0), 0.0).sum(-1)
    return np.where(seen.any(-1), gap, np.nan), seen.sum(-1).astype(float)
