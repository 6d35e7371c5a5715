"""From series to vectors and back: anomaly scores of windows, mapped to the steps that the windows cover.

    x_j = (y_j, ..., y_{j+w-1}),    score_t = mean or max of score(x_j) over the windows j that cover t

A window with a missing value is not scored, nor is a step that no scored window covers: its score is NaN.

Point-adjusted F1 (a whole event counts as found once one of its steps is) is not offered: on long events it rates random scores as high
as the best method. The steps themselves are judged, and the events' neighbourhood by choice.
Reference: Kim et al. 2022, Towards a rigorous evaluation of time-series anomaly detection, arXiv:2109.05257.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from unstir.errors import DataError, UserError
from unstir.plugin.protocols import Case, Estimate, Progress

Array = NDArray[np.float64]
Places = NDArray[np.int64] | None
Reduce = Literal["mean", "max"]
Scale = Literal["training", "window"]
FLAT = 1e-3  # a window whose spread is below this share of the training part's is not stretched further


@dataclass
class Ranked:
    """Scores of vectors.

    Args:
        scores: (rows,), the larger the stranger.
        nfe: evaluations of a network that a row took.
        said: sentences a reader must know.
    """

    scores: Array
    nfe: int = 0
    said: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Comparison:
    """How vectors are compared with a reference.

    Args:
        own: place of each query in steps, where the queries are the reference.
        apart: rows nearer than this in ``own`` share steps and do not vouch for each other.
        seed: of everything random.
        device: of networks.
        progress: called with (done, total).
    """

    own: Places = None
    apart: int = 1
    seed: int = 0
    device: str = "cpu"
    progress: Progress = None


STRANGERS = Comparison()
"""The queries are no part of the reference."""


@dataclass(frozen=True)
class AnomalyMethod(ABC):
    """What anomaly methods share: points and series come in, scores of the truth's shape go out, the larger the stranger."""

    needs: ClassVar[tuple[str, ...]] = ()
    uses_prior: ClassVar[bool] = False

    @abstractmethod
    def rank(self, reference: Array, query: Array, how: Comparison = STRANGERS) -> Ranked:
        """Score vectors by what they are compared with.

        Args:
            reference: (rows, features) normal vectors, or all of them.
            query: (rows, features) the vectors to score; ``reference`` itself where ``own`` is given.
            how: which of them may be compared, and the means.
        """

    def __call__(self, case: Case, prior: Any, seed: int, *, progress: Progress = None) -> Estimate:
        """Score the points or the steps of a case; ``info["said"]`` lists what a reader must know."""
        given, context = case.measurement, case.context
        device = str(context.get("device", "cpu"))
        if "points" in given:
            training = given["training"].values if "training" in given else None
            ranked = score_points(given["points"].values, training, self, seed=seed, device=device, progress=progress)
            data = xr.Dataset({"score": ("sample", ranked.scores)}, {"sample": given["sample"].values})
            return Estimate(data, ranked.nfe, {"said": ranked.said})
        options = {name: context[name] for name in ("window", "stride", "reduce", "scale")}
        training_steps = int(given.attrs.get("training", 0))
        found = score_panel(given, self, training=training_steps, seed=seed, device=device, progress=progress, **options)
        nfe, said = int(found.attrs.pop("nfe")), list(found.attrs.pop("said"))
        return Estimate(found.isel(time=slice(training_steps, None)), nfe, {"said": said})


def sliding(values: Array, window: int, stride: int = 1) -> tuple[Array, NDArray[np.int64]]:
    """The windows of a series, and where they begin; the last one ends at the last step whatever the stride.

    Args:
        values: (steps,).
        window: steps of a window.
        stride: steps between two beginnings, at most ``window`` so that every step is covered.

    Returns:
        Windows (count, window), and beginnings (count,).

    Raises:
        UserError: window or stride is not positive, or steps would be skipped.
        DataError: the series is shorter than a window.
    """
    check_windows(window, stride)
    if len(values) < window:
        raise DataError(f"a series of {len(values)} steps is shorter than a window of {window}")
    starts = np.arange(0, len(values) - window + 1, stride, dtype=np.int64)
    if starts[-1] != len(values) - window:
        starts = np.append(starts, len(values) - window)
    return np.lib.stride_tricks.sliding_window_view(values, window)[starts], starts


def to_steps(scores: Array, starts: NDArray[np.int64], window: int, steps: int, reduce: Reduce = "mean") -> Array:
    """Scores of steps from scores of windows.

    Args:
        scores: (count,), NaN where a window was not scored.
        starts: (count,) first step of each window.
        window: steps of a window.
        steps: of the series.
        reduce: "mean" or "max" over the scored windows that cover a step; "max" gives all steps of the strangest window one score.

    Returns:
        (steps,), NaN where no scored window covers a step.

    Raises:
        UserError: ``reduce`` is neither.
    """
    if reduce not in get_args(Reduce):
        raise UserError(f"reduce must be mean or max, got {reduce!r}")
    kept = np.isfinite(scores)
    scores, starts = scores[kept], starts[kept]
    index = starts[:, None] + np.arange(window)
    if reduce == "max":
        found = np.full(steps, -np.inf)
        np.maximum.at(found, index, scores[:, None])
        return np.where(np.isneginf(found), np.nan, found)
    total, count = np.zeros(steps), np.zeros(steps)
    np.add.at(total, index, scores[:, None])
    np.add.at(count, index, 1.0)
    return np.divide(total, count, out=np.full(steps, np.nan), where=count > 0)


def score_panel(
    panel: xr.Dataset,
    method: AnomalyMethod,
    window: int,
    *,
    stride: int = 1,
    reduce: Reduce = "mean",
    scale: Scale = "training",
    training: int = 0,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = None,
) -> xr.Dataset:
    """Anomaly scores of every step of every series of a panel; each series is compared with itself alone.

    Args:
        panel: ``y`` (item, time), NaN where nothing was observed.
        method: an anomaly method of this plugin (`DTENP`, `NearestNeighbours`...).
        window: steps of a window.
        stride: steps between two windows.
        reduce: how the windows that cover a step make its score, "mean" or "max".
        scale: "training" (z-scores by mean and spread of the part compared with) or "window" (every window its own: shape alone counts).
        training: steps at the beginning that are normal: the rest is compared with them. 0: all is compared with all, and a window with
            no window that it overlaps.
        seed: of everything random.
        device: of networks.
        progress: called with (done, total), items taken together.

    Returns:
        ``score`` (item, time) float64, the larger the stranger, NaN where a step was not scored, as in the training part;
        ``attrs["nfe"]`` evaluations a window, ``attrs["said"]`` a list of sentences.

    Raises:
        UserError: an option is out of range.
        DataError: too few steps for a window, or too few windows to compare with.
    """
    check_windows(window, stride, scale)
    y = np.asarray(panel["y"].transpose("item", "time").values, dtype=np.float64)
    if not 0 <= training < y.shape[1]:
        raise UserError(f"training must lie between 0 and the {y.shape[1] - 1} steps before the last, got {training}")
    out, nfe, said = np.full(y.shape, np.nan), 0, []
    for row, (name, series) in enumerate(zip(panel["item"].values.tolist(), y, strict=True)):
        series = np.where(np.isfinite(series), series, np.nan)
        try:
            known, query, starts, told = _vectors(series, training, window, stride, scale)
            whole = np.isfinite(query).all(axis=1)
            scores = np.full(len(query), np.nan)
            if whole.any():
                reference, own = (known, None) if training else (query[whole], starts[whole])
                report = None if progress is None else _within(progress, row, len(y))
                ranked = method.rank(reference, query[whole], Comparison(own, window, seed, device, report))
                scores[whole], nfe = ranked.scores, max(nfe, ranked.nfe)
                told += ranked.said
        except DataError as error:
            raise DataError(f"series {name}: {error}") from error
        if not whole.all():
            told.append(f"{int((~whole).sum())} of {whole.size} windows hold a missing value and are not scored")
        out[row, training:] = to_steps(scores, starts, window, y.shape[1] - training, reduce)
        said += [f"series {name}: {sentence}" for sentence in told]
    coords = {"item": panel["item"].values, "time": panel["time"].values}
    return xr.Dataset({"score": (("item", "time"), out)}, coords, {"nfe": nfe, "said": said})


def _vectors(series: Array, training: int, window: int, stride: int, scale: Scale) -> tuple[Array, Array, NDArray[np.int64], list[str]]:
    """Whole windows to compare with, windows to score, where these begin after the training part, and sentences."""
    base = series[:training] if training else series
    if not np.isfinite(base).any():
        raise DataError("no value is observed in the part to compare with")
    mean, spread = float(np.nanmean(base)), float(np.nanstd(base))
    told = []
    if spread <= 1e-12 * max(1.0, abs(mean)):
        told.append(f"the part to compare with is constant ({mean:.6g}): values are compared in their own unit")
        spread = 1.0
    series = (series - mean) / spread
    query, starts = sliding(series[training:], window, stride)
    known = sliding(series[:training], window, 1)[0] if training else query
    known = known[np.isfinite(known).all(axis=1)]
    return (own_scale(known), own_scale(query), starts, told) if scale == "window" else (known, query, starts, told)


def own_scale(windows: Array) -> Array:
    """Every window z-scored by itself; spreads below `FLAT` (of data of unit spread) are taken as `FLAT`.

    Args:
        windows: (count, window), NaN allowed (the window becomes NaN).

    Returns:
        The same shape.
    """
    return (windows - windows.mean(axis=1, keepdims=True)) / np.maximum(windows.std(axis=1, keepdims=True), FLAT)


def score_points(
    points: Array, training: Array | None, method: AnomalyMethod, *, seed: int = 0, device: str = "cpu", progress: Progress = None
) -> Ranked:
    """Anomaly scores of points, features z-scored by what they are compared with.

    Args:
        points: (rows, features); a row with a missing value is not scored (NaN).
        training: (rows, features) normal points; ``None``: every point is compared with all others, never with itself.
        method: an anomaly method of this plugin.
        seed: of everything random.
        device: of networks.
        progress: called with (done, total).

    Returns:
        Scores (rows,), evaluations a row, and sentences.

    Raises:
        DataError: no whole row to compare with, or fewer than the method needs.
    """
    whole = np.isfinite(points).all(axis=1)
    base = points[whole] if training is None else training[np.isfinite(training).all(axis=1)]
    if not len(base):
        raise DataError("there is no point without a missing value to compare with")
    mean, spread = base.mean(axis=0), base.std(axis=0)
    flat = spread <= 1e-12 * np.maximum(1.0, np.abs(mean))
    said = [f"{int(flat.sum())} of {flat.size} features are constant and stay in their own unit"] if flat.any() else []
    spread = np.where(flat, 1.0, spread)
    scores = np.full(len(points), np.nan)
    if not whole.all():
        said.append(f"{int((~whole).sum())} of {whole.size} points have a missing value and are not scored")
    if training is not None and len(base) < len(training):
        said.append(f"{len(training) - len(base)} of {len(training)} training points have a missing value and are left out")
    if not whole.any():
        return Ranked(scores, 0, said)
    query, own = (points[whole] - mean) / spread, np.flatnonzero(whole) if training is None else None
    reference = query if training is None else (base - mean) / spread
    ranked = method.rank(reference, query, Comparison(own, 1, seed, device, progress))
    scores[whole] = ranked.scores
    return Ranked(scores, ranked.nfe, said + ranked.said)


def check_windows(window: int, stride: int, scale: str = "training") -> None:
    """Check the options of windows.

    Args:
        window: steps of a window.
        stride: steps between two windows.
        scale: "training" or "window".

    Raises:
        UserError: one of them is out of range.
    """
    if window < 2:
        raise UserError(f"window must be at least 2 steps, got {window}")
    if not 1 <= stride <= window:
        raise UserError(f"stride must lie between 1 and the {window} steps of a window, got {stride}")
    if scale not in get_args(Scale):
        raise UserError(f"scale must be training or window, got {scale!r}")


def _within(progress: Progress, row: int, rows: int) -> Progress:
    """Progress of one of several items as progress of all."""
    assert progress is not None
    return lambda done, total: progress(row * total + done, rows * total)
