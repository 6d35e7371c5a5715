"""How a score over many windows and series becomes one number with parts: a ratio of sums.

    value = sum N / sum D over windows w and series i,        part_w = N_w / (sum D / windows)

The mean of the parts is the value. The normaliser is held fixed when an interval resamples the parts. Parts are windows where there are
at least five, else series: the steps of a window are correlated and never resampled alone.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from unstir.errors import DataError
from unstir.plugin.protocols import Case, Estimate, Score
from unstir_timeseries.panel import LEVELS, history_of

Array = NDArray[Any]
FEWEST_WINDOWS = 5
RESAMPLED = f"the interval resamples windows, below {FEWEST_WINDOWS} windows series"
ZERO_TARGETS = "the score is NaN: every observed target is zero, and the sum of |y| divides"


@dataclass(frozen=True)
class Answer:
    """One window's targets and forecast, series by series, in the same order.

    Args:
        items: names of the series.
        y: (items, steps) targets, NaN where not scored.
        data: the estimate's Dataset, its items and steps those of ``y``.
        case: where it comes from.
    """

    items: tuple[str, ...]
    y: Array
    data: xr.Dataset
    case: Case

    def quantile(self, level: float) -> Array:
        """(items, steps) quantile at one of ``panel.LEVELS``.

        Args:
            level: which.

        Raises:
            DataError: the estimate lacks the level.
        """
        return self.quantiles((level,))[:, 0]

    def quantiles(self, levels: Sequence[float] = LEVELS) -> Array:
        """(items, levels, steps) quantiles.

        Args:
            levels: which, all of ``panel.LEVELS``.

        Raises:
            DataError: the estimate lacks one of them.
        """
        held = self.data["level"].values
        index = [int(np.argmin(np.abs(held - level))) for level in levels]
        if np.abs(held[index] - levels).max() > 1e-9:
            raise DataError(f"the estimate of window {self.case.key} has quantiles at {held.tolist()}, not at {list(levels)}")
        return self.data["quantiles"].transpose("item", "level", "time").values[:, index]

    def samples(self) -> Array | None:
        """(items, samples, steps) paths, ``None`` where the estimate has only quantiles or a single path."""
        if "samples" not in self.data or self.data.sizes["sample"] < 2:
            return None
        return self.data["samples"].transpose("item", "sample", "time").values

    def paths(self) -> Array:
        """(items, samples, steps) paths.

        Raises:
            DataError: there are none, or a single one.
        """
        found = self.samples()
        if found is None:
            raise DataError(f"the estimate of window {self.case.key} has no sample paths")
        return found

    def mean(self) -> Array:
        """(items, steps) mean of the forecast."""
        return self.data["mean"].transpose("item", "time").values

    def past(self) -> Array:
        """(items, steps) everything before the horizon; all that was measured where there is no horizon (imputation)."""
        seen = self.case.measurement
        before = history_of(seen) if seen.attrs.get("horizon") else seen
        return before["y"].sel(item=list(self.items)).transpose("item", "time").values

    def season(self) -> int:
        """Steps of a season."""
        return int(self.case.context.get("season", self.case.measurement.attrs.get("season", 1)))


def answers(pairs: Sequence[tuple[Estimate, Case]]) -> list[Answer]:
    """Line forecasts up with their targets.

    Args:
        pairs: estimates with the cases that they answer.

    Raises:
        DataError: a case has no truth, or an estimate lacks a series, a step or the quantiles that its case asks for.
    """
    return [_answer(estimate, case) for estimate, case in pairs]


def _answer(estimate: Estimate, case: Case) -> Answer:
    if case.truth is None:
        raise DataError(f"window {case.key} has no truth to compare with")
    truth, data = case.truth, estimate.data
    if "quantiles" not in data:
        raise DataError(f"the estimate of window {case.key} has no quantiles: a forecast is made by panel.forecast")
    for name in ("item", "time"):
        missing = set(truth[name].values.tolist()) - set(data[name].values.tolist())
        if missing:
            raise DataError(f"the estimate of window {case.key} lacks {len(missing)} {name}s of its truth")
    items = tuple(str(item) for item in truth["item"].values)
    y = truth["y"].transpose("item", "time").values.astype(np.float64)
    return Answer(items, y, data.sel(item=truth["item"].values, time=truth["time"].values), case)


Cells = Callable[[Answer], "tuple[Array, Array]"]


@dataclass(frozen=True)
class Sums:
    """Numerators and denominators summed by part.

    Args:
        over: (parts,) sums of the numerator.
        under: (parts,) sums of the denominator.
        counts: (parts,) series and windows that went into each.
        names: of the parts.
    """

    over: Array
    under: Array
    counts: Array
    names: tuple[str, ...]


def collect(found: Sequence[Answer], cells: Cells) -> Sums:
    """Sum numerators and denominators by part.

    Args:
        found: the windows.
        cells: numerator and denominator, (items,) each, of a window; a NaN numerator says that the series is not scored there.
    """
    by_window = len(found) >= FEWEST_WINDOWS
    made: dict[str, Array] = {}
    for index, answer in enumerate(found):
        over, under = cells(answer)
        for item, a, b in zip(answer.items, over, under, strict=True):
            if np.isfinite(a):
                name = f"{index}:{answer.case.key}" if by_window else item
                made.setdefault(name, np.zeros(3))
                made[name] += (a, b, 1)
    table = np.array(list(made.values())).reshape(-1, 3)
    return Sums(table[:, 0], table[:, 1], table[:, 2], tuple(made))


def ratio(found: Sequence[Answer], cells: Cells, empty: str) -> Score:
    """A ratio of sums with its parts.

    Args:
        found: the windows.
        cells: as in `collect`.
        empty: the sentence that is said (a warning) where the denominator is zero and the value NaN.
    """
    sums = collect(found, cells)
    return over_under(sums.over, sums.under) if sums.under.sum() > 0 else nothing(empty)


def over_under(over: Array, under: Array) -> Score:
    """A ratio of sums over parts.

    Args:
        over: (parts,) sums of the numerator.
        under: (parts,) sums of the denominator, whose own sum is positive.
    """
    total = float(under.sum())
    return Score(float(over.sum()) / total, tuple(float(part) for part in over * (len(over) / total)))


def root_ratio(found: Sequence[Answer], cells: Cells, empty: str) -> Score:
    """The root of a mean square over a mean, with parts whose root mean square it is.

    Args:
        found: the windows.
        cells: mean square and mean size of each series, as in `collect`.
        empty: the sentence that is said where every target is zero.
    """
    sums = collect(found, cells)
    count = float(sums.counts.sum())
    if not sums.under.sum() > 0:
        return nothing(empty)
    size = float(sums.under.sum()) / count
    parts = np.sqrt(sums.over * len(sums.over) / count) / size
    return Score(math.sqrt(float(sums.over.sum()) / count) / size, tuple(float(part) for part in parts), "rms")


def influence(found: Sequence[Any], value: Callable[[Sequence[Any]], float]) -> Score:
    """A number that is no ratio of sums, with jackknife parts: v + (n - 1)(mean of v without one - v without this one).

    Args:
        found: the parts (windows, series).
        value: the number, of any subset of them.

    Returns:
        The number, and parts whose mean it is and whose bootstrap has the jackknife's variance; no parts below five.
    """
    whole, n = value(found), len(found)
    if n < FEWEST_WINDOWS or not math.isfinite(whole):
        return Score(whole)
    left = np.array([value([*found[:i], *found[i + 1 :]]) for i in range(n)])
    return Score(whole, tuple(float(part) for part in whole + (n - 1) * (left.mean() - left)))


def nothing(reason: str) -> Score:
    """A score that is NaN, with the reason said as a warning.

    Args:
        reason: a sentence.
    """
    warnings.warn(reason, stacklevel=3)
    return Score(math.nan)
