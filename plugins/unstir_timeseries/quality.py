"""Are synthetic windows like real ones that nobody has seen: for a forecaster, for a classifier, in their second moments, and not copies.

    LPS  = sum s |y - W c| / sum s |y| over held-out windows, W the ridge from context c to horizon y learnt on synthetic windows
    disc = |accuracy - 1/2| of a classifier of seen and synthetic,        ACF: rms over lags of mean r_real - mean r_synthetic
    copies = share of synthetic windows nearer to a seen window than 95 % of held-out windows are

Each has its reference in the row of real windows: the real past against the real future does not score the ideal value either.

Reference: Kollovieh et al. 2023 (LPS), arXiv:2307.11494; Yoon et al. 2019 (discriminative score); Meehan et al. 2020 (data copying).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from unstir.errors import DataError, UserError
from unstir.plugin.options import at_least
from unstir.plugin.protocols import Case, Estimate, MetricInfo, Score
from unstir_timeseries.likeness import autocorrelation, classified, log_periodogram, nearest_seen, ridge_predictions
from unstir_timeseries.pooling import FEWEST_WINDOWS, influence, over_under
from unstir_timeseries.window_sets import drawn, real_windows

Array = NDArray[Any]
NEAREST = 1e-4  # root mean square difference, in units of the context, below which two windows are the same


def both(estimate: Estimate, case: Case) -> tuple[Array, Array]:
    """Synthetic and held-out windows of a case, (samples, C + H) float64 in units of the context.

    Args:
        estimate: what a method made.
        case: with its truth.

    Raises:
        DataError: no truth, no windows, windows of another length, or values that are not finite.
    """
    if case.truth is None:
        raise DataError(f"case {case.key} has no held-out windows to compare with")
    if "windows" not in estimate.data:
        raise DataError(f"the estimate of case {case.key} has no windows: it is no answer to timeseries/synthesise")
    made, held = (data["windows"].transpose("sample", "step").values.astype(np.float64) for data in (estimate.data, case.truth))
    if made.shape[1] != held.shape[1] or len(made) < 2:
        raise DataError(f"the estimate of case {case.key} holds {made.shape[0]} windows of {made.shape[1]} steps, not of {held.shape[1]}")
    if not np.isfinite(made).all():
        raise DataError(f"{int((~np.isfinite(made)).any(1).sum())} synthetic windows of case {case.key} are not finite")
    return made, held


def groups(truth: xr.Dataset) -> Array:
    """What intervals resample: the origin of each held-out window where there are at least five origins, else its series.

    Args:
        truth: of a case.

    Returns:
        (samples,) numbers from 0.
    """
    origins = np.unique(truth["origin"].values, return_inverse=True)
    return np.asarray(origins[1] if len(origins[0]) >= FEWEST_WINDOWS else np.unique(truth["item"].values, return_inverse=True)[1])


RESAMPLED = "the interval resamples held-out origins (below five: series)"
FOLDS = "the interval resamples these stretches"


@dataclass(frozen=True)
class LPS:
    """Linear predictive score: how well a ridge learnt on synthetic windows predicts real ones."""

    def describe(self) -> list[MetricInfo]:
        """The score, and its ratio to that of real windows."""
        how = "CRPS of the point forecast (sum |y - f| / sum |y|, original units) of a ridge (alpha 1, intercept) from context to horizon"
        made = MetricInfo(
            "lps", "LPS", "", "down", f"{how}, learnt on the synthetic windows and tested on the held-out ones; {RESAMPLED}", digits=4
        )
        other = "LPS divided by that of a ridge learnt on as many windows drawn at random from what the method saw; 1 is as good as real"
        return [made, MetricInfo("lps-ratio", "LPS / real", "", "down", f"{other}; jackknife, paired: {RESAMPLED}", digits=4)]

    def __call__(self, estimate: Estimate, case: Case) -> dict[str, Score]:
        """Learn and test.

        Args:
            estimate: synthetic windows.
            case: with its held-out windows.
        """
        made, held = both(estimate, case)
        count, scale, group = case.context["context"], case.truth["scale"].values, groups(case.truth)  # type: ignore[index,arg-type]
        real = seen_windows(case, len(made))["windows"].values.astype(float)
        target = held[:, count:]
        size = np.bincount(group, scale * np.abs(target).sum(1))
        if not size.sum() > 0:
            raise DataError(f"every held-out horizon of case {case.key} is zero, and their size divides")
        ours, theirs = (
            np.bincount(group, scale * np.abs(ridge_predictions(windows, held[:, :count]) - target).sum(1)) for windows in (made, real)
        )
        if not theirs.sum() > 0:
            raise DataError(f"a ridge on real windows of case {case.key} is perfect: there is nothing to compare with")
        paired = influence(list(zip(ours, theirs, strict=True)), lambda some: float(sum(a for a, _ in some) / sum(b for _, b in some)))
        return {"lps": over_under(ours, size), "lps-ratio": paired}


def seen_windows(case: Case, count: int) -> xr.Dataset:
    """Windows drawn at random from what a method saw, as `real_windows` gives them; the draw is the metrics' own.

    Args:
        case: of `Synthesise`.
        count: how many.
    """
    items, ends = drawn(Case(case.key, None, case.measurement, {**case.context, "count": count}), seed=1)
    return real_windows(case.measurement, items, ends, case.context["context"], case.context["horizon"])


@dataclass(frozen=True)
class Discriminative:
    """Discriminative score: can a classifier tell real from synthetic windows of a time that it has not seen?

    The real ones come from what the method saw: against later ones drift alone would tell them apart. Folds are stretches of time and not
    series, as a window of a series that is real in one fold and synthetic in all would be taken for synthetic.

    Args:
        trees: of the classifier.
        folds: stretches of time.
        windows: real and synthetic windows, of each at most.
        lags: autocorrelations given to the classifier beside values and spectrum; at most half a window.

    Raises:
        UserError: an option out of range.
    """

    trees: int = 100
    folds: int = 5
    windows: int = 1000
    lags: int = 48

    def __post_init__(self) -> None:
        at_least(self, trees=1, folds=2, windows=20, lags=1)

    def describe(self) -> list[MetricInfo]:
        """The score by accuracy, as the field tabulates it, and the area under the curve."""
        how = f"{self.trees} extremely randomised trees on values, autocorrelations and log periodogram of windows at random from what the"
        rest = f"method saw and as many synthetic ones, cross-validated over {self.folds} stretches of time, mean over them; {FOLDS}"
        score = MetricInfo(
            "discriminative", "discr. score", "", "down", f"|accuracy - 1/2| of {how} {rest}; 0 is right, 1/2 is worst", digits=4
        )
        return [
            score,
            MetricInfo(
                "discriminative-auroc", "discr. AUROC", "", "down", f"area under the ROC curve of {how} {rest}; 1/2 is right", digits=4
            ),
        ]

    def __call__(self, estimate: Estimate, case: Case) -> dict[str, Score]:
        """Classify.

        Args:
            estimate: synthetic windows, each with the stamp it was made for.
            case: of `Synthesise`.

        Raises:
            DataError: all windows are of one stretch of time.
            MissingExtra: scikit-learn is not installed.
        """
        made, _ = both(estimate, case)
        real = seen_windows(case, min(len(made), self.windows))
        kept = np.sort(np.random.default_rng(0).permutation(len(made))[: real.sizes["sample"]])
        rows = np.concatenate([real["windows"].values.astype(float), made[kept]])
        origin = np.concatenate([data["origin"].values.astype("datetime64[ns]") for data in (real, estimate.data.isel(sample=kept))])
        edges = np.linspace(0, 1, self.folds + 1)[1:-1]
        cuts = np.sort(real["origin"].values)[(edges * real.sizes["sample"]).astype(int)]
        is_real = np.arange(len(rows)) < real.sizes["sample"]
        accuracy, area = classified(self.features(rows), is_real, np.searchsorted(cuts, origin, "right"), self.trees)
        excess = np.array(accuracy) - 0.5
        sign = -1.0 if excess.mean() < 0 else 1.0
        scores = Score(float(sign * excess.mean()), tuple(float(sign * part) for part in excess))
        return {"discriminative": scores, "discriminative-auroc": Score(float(np.mean(area)), tuple(area))}

    def features(self, windows: Array) -> Array:
        """What the classifier sees of windows (samples, C + H): values, autocorrelations, log periodogram.

        Args:
            windows: (samples, C + H).
        """
        return np.concatenate([windows, autocorrelation(windows, min(self.lags, windows.shape[1] // 2)), log_periodogram(windows)], axis=1)


def _mean_distance(real: Array, synthetic: Array, group: Array) -> Score:
    """Root mean square over columns of the difference of means, the real rows in groups for the interval."""
    ours = synthetic.mean(0)
    parts = [(real[group == one].sum(0), int((group == one).sum())) for one in np.unique(group)]

    def distance(some: Sequence[tuple[Array, int]]) -> float:
        mean = sum(total for total, _ in some) / sum(count for _, count in some)
        return float(np.sqrt(np.mean((mean - ours) ** 2)))

    return influence(parts, distance)


@dataclass(frozen=True)
class ACFDistance:
    """Distance of mean autocorrelations.

    Args:
        lags: how many; half a window, at most 168, when 0.

    Raises:
        UserError: a negative number.
    """

    lags: int = 0

    def __post_init__(self) -> None:
        at_least(self, lags=0)

    def describe(self) -> list[MetricInfo]:
        """One entry."""
        upto = f"lags 1 to {self.lags}" if self.lags else "lags 1 to half a window, at most 168"
        how = f"root mean square over {upto} of the difference between the mean autocorrelations of held-out and synthetic windows"
        return [MetricInfo("acf-distance", "ACF distance", "", "down", f"{how}; jackknife: {RESAMPLED}", digits=4)]

    def __call__(self, estimate: Estimate, case: Case) -> dict[str, Score]:
        """Compare.

        Args:
            estimate: synthetic windows.
            case: with its held-out windows.
        """
        made, held = both(estimate, case)
        lags = min(self.lags or min(168, held.shape[1] // 2), held.shape[1] - 1)
        return {"acf-distance": _mean_distance(autocorrelation(held, lags), autocorrelation(made, lags), groups(case.truth))}  # type: ignore[arg-type]


@dataclass(frozen=True)
class SpectrumDistance:
    """Distance of mean log periodograms."""

    def describe(self) -> list[MetricInfo]:
        """One entry."""
        how = "root mean square over frequencies 1/L to 1/2 a step of the difference between the mean log periodograms (10 log10, no taper)"
        return [
            MetricInfo("spectrum-distance", "spectrum", "dB", "down", f"{how} of held-out and synthetic windows; jackknife: {RESAMPLED}")
        ]

    def __call__(self, estimate: Estimate, case: Case) -> dict[str, Score]:
        """Compare.

        Args:
            estimate: synthetic windows.
            case: with its held-out windows.
        """
        made, held = both(estimate, case)
        return {"spectrum-distance": _mean_distance(log_periodogram(held), log_periodogram(made), groups(case.truth))}  # type: ignore[arg-type]


@dataclass(frozen=True)
class Memorisation:
    """Are synthetic windows copies of what the method saw? Every seen window of every series, at every step, is compared.

    Args:
        windows: synthetic and held-out windows that are looked up, of each at most.

    Raises:
        UserError: fewer than 20, of which 5 % would be less than one.
    """

    windows: int = 200

    def __post_init__(self) -> None:
        if self.windows < 20:
            raise UserError(f"memorisation needs at least 20 windows, got {self.windows}")

    def describe(self) -> list[MetricInfo]:
        """The share of copies, and the mean distance."""
        how = "distance to the nearest window that the method saw (root mean square over steps, in units of the context, every step tried)"
        copies = f"share of {self.windows} synthetic windows whose {how} is below that of 95 % of held-out windows; 5 % is right"
        far = f"|mean log2 of the {how} of synthetic windows - that of held-out windows|; 0 is right; copies, a narrow law, noise: above"
        return [
            MetricInfo("copies", "copies", "%", "down", f"{copies}; the interval resamples synthetic windows"),
            MetricInfo("nearest-distance", "nearest", "octaves", "down", f"{far}; the interval resamples synthetic windows"),
        ]

    def __call__(self, estimate: Estimate, case: Case) -> dict[str, Score]:
        """Look the windows up.

        Args:
            estimate: synthetic windows.
            case: with its held-out windows.
        """
        made, held = both(estimate, case)
        rng = np.random.default_rng(0)
        ours, theirs = (windows[np.sort(rng.permutation(len(windows))[: self.windows])] for windows in (made, held))
        found = nearest_seen(np.concatenate([ours, theirs]), case.measurement, case.context["context"])
        near, usual = np.log2(np.maximum(found, NEAREST))[: len(ours)], np.log2(np.maximum(found, NEAREST))[len(ours) :]
        copies = 100.0 * (near < np.quantile(usual, 0.05))
        gap = near - usual.mean()
        sign = -1.0 if gap.mean() < 0 else 1.0
        return {
            "copies": Score(float(copies.mean()), tuple(float(part) for part in copies)),
            "nearest-distance": Score(float(sign * gap.mean()), tuple(float(sign * part) for part in gap)),
        }
