"""The anomaly task: which points, or which steps of a series, are not like the others? And the two numbers that judge a ranking.

    AUROC = P(score of an anomaly > score of a normal one) + P(equal)/2
    AP    = sum_n (R_n - R_{n-1}) P_n,   recall R_n and precision P_n among the scores of the n largest distinct values

Semi-supervised: trained on normal data alone (half of the normal points, or the beginning of a series), judged on the rest. Unsupervised:
everything is compared with everything else, labels unseen. Point-adjusted F1 is not offered: it rates random scores as high as the best
method on long events (arXiv:2109.05257). Steps are judged one by one, and with ``slack`` the neighbourhood of an event counts in part.

Reference: Livernoche et al. 2024, arXiv:2305.18593 (the protocols); Paparrizos et al. 2022, Volume under the surface, PVLDB 15 (slack).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from unstir.errors import DataError, UserError
from unstir.plugin.options import not_negative, one_of
from unstir.plugin.protocols import Case, Estimate, MetricInfo, Score
from unstir_timeseries.anomaly_data import read_labelled
from unstir_timeseries.anomaly_windows import Array, Reduce, Scale, check_windows

Protocol = Literal["semi-supervised", "unsupervised"]
MOST_PARTS = 200


@dataclass(frozen=True)
class Anomaly:
    """Score points or steps by how little they are like normal ones.

    Args:
        protocol: "semi-supervised" or "unsupervised".
        share: share of the normal points that train; of a series that names no training part, of its steps (anomalies in it are hidden).
        split_seed: which normal points train.
        window: steps of a window of a series.
        stride: steps between two windows.
        reduce: "mean" or "max" of the windows that cover a step; "max" gives one score to all steps of the strangest window, as far as it
            reaches beyond the event.
        scale: "training" (z-scores by the training part) or "window" (every window by itself: shape alone counts).

    Raises:
        UserError: an option is out of range.
    """

    protocol: Protocol = "semi-supervised"
    share: float = 0.5
    split_seed: int = 0
    window: int = 100
    stride: int = 1
    reduce: Reduce = "mean"
    scale: Scale = "training"

    case_noun: ClassVar[str] = "data set"
    part_noun: ClassVar[str] = "event"
    metrics: ClassVar[tuple[str, ...]] = ("timeseries/auroc", "timeseries/average-precision")
    figures: ClassVar[tuple[str, ...]] = ("timeseries/scores",)

    def __post_init__(self) -> None:
        one_of(self, protocol=Protocol, reduce=Reduce)
        if not 0 < self.share < 1:
            raise UserError(f"share must lie between 0 and 1, got {self.share}")
        not_negative(self, "split_seed")
        check_windows(self.window, self.stride, self.scale)

    def read(self, path: Path, *, label: str = "", time: str = "", training: int = 0) -> xr.Dataset:
        """A user's own labelled table (CSV, parquet): points, or series where it has a column of times.

        Args:
            path: the file; a column of labels (``anomaly``, ``is_anomaly``, ``label``) holds 0 and 1.
            label: its name, if it is another.
            time: name of the column of stamps or step numbers.
            training: steps at the beginning that are for training.

        Raises:
            DataError: the file is missing or not such a table.
        """
        return read_labelled(path, label=label, time=time, training=training)

    def cases(self, items: Iterable[xr.Dataset]) -> Iterator[Case]:
        """One case an item: points are split at random, series in time."""
        for item in items:
            yield self.of_points(item) if "x" in item else self.of_series(item)

    def of_points(self, item: xr.Dataset) -> Case:
        """The case of labelled points: ``training`` (row, feature) and ``points`` (sample, feature); the truth is ``label`` (sample).

        Args:
            item: ``x`` (sample, feature) and ``label`` (sample).

        Raises:
            DataError: no normal points to train on, or no anomaly to find.
        """
        key, x, label = str(item.attrs.get("key", "points")), item["x"].values, item["label"].values
        data: dict[str, Any] = {}
        kept = np.arange(len(x))
        told = "every point is compared with all others, never with itself"
        if self.protocol == "semi-supervised":
            normal = np.flatnonzero(label == 0)
            count = int(len(normal) * self.share)
            if count < 1:
                raise DataError(f"{key} has {len(normal)} normal points: too few to train on {self.share:.0%} of them")
            shuffled = np.random.default_rng(self.split_seed).permutation(normal)
            data["training"] = (("row", "feature"), x[shuffled[:count]])
            kept = np.sort(np.r_[shuffled[count:], np.flatnonzero(label != 0)])  # in the file's order, which tells nothing
            told = f"trained on {count} of {len(normal)} normal points (split {self.split_seed}), tested on {len(kept)} others"
        data["points"] = (("sample", "feature"), x[kept])
        coords = {"sample": item["sample"].values[kept], "feature": item["feature"].values}
        truth = xr.Dataset({"label": ("sample", label[kept])}, {"sample": coords["sample"]}, {"key": key})
        return self._case(key, truth, xr.Dataset(data, coords, {"key": key}), {"protocol": f"{self.protocol}: {told}"})

    def of_series(self, item: xr.Dataset) -> Case:
        """The case of labelled series: the panel with ``attrs["training"]`` steps to learn from; the truth is ``label`` of the rest.

        Args:
            item: a panel with ``label`` (item, time).

        Raises:
            DataError: it is no labelled panel, the training part leaves nothing, or there is no anomaly to find.
        """
        key = str(item.attrs.get("key", "series"))
        if not {"y", "label"} <= set(item):
            raise DataError(f"{key} is neither points (x, label) nor labelled series (y, label)")
        steps, training, told = item.sizes["time"], 0, "every window is compared with those that it does not overlap"
        label, y = (item[name].transpose("item", "time").values.astype(np.float64) for name in ("label", "y"))
        if self.protocol == "semi-supervised":
            training = int(item.attrs.get("training", 0)) or int(steps * self.share)
            if not self.window <= training <= steps - self.window:
                raise DataError(f"{key} has {steps} steps, {training} of them for training: both parts need a window of {self.window}")
            hidden = label[:, :training] == 1
            y[:, :training][hidden] = np.nan
            told = f"trained on the first {training} of {steps} steps"
            told += f", {int(hidden.sum())} anomalous ones of them hidden" if hidden.any() else ""
        measured = item[["y"]].assign(y=(("item", "time"), y))
        measured.attrs = {**item.attrs, "training": training}
        judged = np.where(np.isfinite(y), label, np.nan)[:, training:]
        coords = {"item": item["item"].values, "time": item["time"].values[training:]}
        truth = xr.Dataset({"label": (("item", "time"), judged)}, coords, {"key": key})
        facts = {"protocol": f"{self.protocol}: {told}"}
        facts["windows"] = f"{self.window} steps, stride {self.stride}; a step gets the {self.reduce} of the windows that cover it"
        return self._case(key, truth, measured, facts)

    def _case(self, key: str, truth: xr.Dataset, measurement: xr.Dataset, facts: dict[str, str]) -> Case:
        for value, what in ((1, "anomaly to find"), (0, "normal value to compare with")):
            if not (truth["label"].values == value).any():
                raise DataError(f"{key} has no {what} in its test part")
        options = {"window": self.window, "stride": self.stride, "reduce": self.reduce, "scale": self.scale}
        return Case(key, truth, measurement, {**options, "facts": facts})

    def export(self, estimate: Estimate, case: Case, stem: Path) -> list[Path]:
        """Write a CSV: what was scored, ``score``, and ``anomaly`` where it is known; long (``unique_id``, ``ds``, ``y``) for series.

        Args:
            estimate: with ``score``.
            case: whose measurement is written beside it.
            stem: path without suffix.

        Returns:
            The file.
        """
        import pandas as pd

        score = estimate.data["score"]
        if "sample" in score.dims:
            given = case.measurement["points"]
            frame = pd.DataFrame(given.values, columns=given["feature"].values.tolist())
            frame.insert(0, "sample", given["sample"].values)
        else:
            y = case.measurement["y"].sel(time=score["time"]).transpose("item", "time")
            names, times = np.meshgrid(y["item"].values, y["time"].values, indexing="ij")
            frame = pd.DataFrame({"unique_id": names.ravel(), "ds": times.ravel(), "y": y.values.ravel()})
        frame["score"] = score.values.ravel()
        if case.truth is not None:
            frame["anomaly"] = case.truth["label"].values.ravel()
        path = stem.with_name(stem.name + ".csv")
        frame.to_csv(path, index=False)
        return [path]


def judged(estimate: Estimate, case: Case) -> tuple[Array, Array]:
    """Scores and labels, a row a series (one row for points); unscored entries rank below every score.

    Args:
        estimate: with ``score``.
        case: with its truth.

    Returns:
        Two arrays (rows, entries); the label is NaN where nobody judges.

    Raises:
        DataError: there is no truth, or the shapes differ.
    """
    if case.truth is None:
        raise DataError(f"case {case.key} has no truth to compare with")
    score, label = estimate.data["score"], case.truth["label"]
    if score.shape != label.shape:
        raise DataError(f"the scores of case {case.key} have shape {score.shape} and its labels {label.shape}")
    values = np.where(np.isfinite(score.values), score.values, -np.inf)
    return np.atleast_2d(values), np.atleast_2d(label.values)


def closeness(label: Array, slack: int) -> Array:
    """How much every entry belongs to an anomaly: 1 on it, sqrt(1 - distance/(slack + 1)) beside it, 0 from there on.

    Args:
        label: (rows, steps), 0, 1 or NaN.
        slack: steps beside an event that count in part.

    Returns:
        The same shape.
    """
    found = (label == 1).astype(np.float64)
    for row in found:
        if slack and row.any():
            distance = np.abs(nearest_anomaly(row) - np.arange(len(row)))
            row[:] = np.sqrt(np.clip(1 - distance / (slack + 1), 0, None))
    return found


def nearest_anomaly(row: Array) -> NDArray[np.int64]:
    """The anomalous entry nearest to each entry, the earlier of two.

    Args:
        row: (entries,), 1 where anomalous, at least once.
    """
    marked, place = np.flatnonzero(row == 1), np.arange(len(row))
    later = np.clip(np.searchsorted(marked, place), 0, len(marked) - 1)
    earlier = np.maximum(later - 1, 0)
    return np.where(np.abs(marked[earlier] - place) <= np.abs(marked[later] - place), marked[earlier], marked[later])


def pairwise(scores: Array, weights: Array) -> Array:
    """For every entry the weighted share of normal ones that score lower, ties half: AUROC is its mean, weighted by anomaly.

    Args:
        scores: (entries,).
        weights: how anomalous each is, in [0, 1]; 1 - weight is how normal.

    Returns:
        (entries,).
    """
    _, place = np.unique(scores, return_inverse=True)
    normal = np.bincount(place, 1 - weights)
    below = np.cumsum(normal) - normal
    share: Array = ((below + normal / 2) / normal.sum())[place]
    return share


def precision(scores: Array, weights: Array) -> Array:
    """For every entry the precision of a threshold at its score: AP is its mean, weighted by anomaly.

    Args:
        scores: (entries,).
        weights: how anomalous each is, in [0, 1].

    Returns:
        (entries,).
    """
    _, place = np.unique(-scores, return_inverse=True)
    hits, all_ = np.cumsum(np.bincount(place, weights)), np.cumsum(np.bincount(place))
    at: Array = (hits / all_)[place]
    return at


def parts_of(values: Array, weights: Array, units: NDArray[np.int64]) -> tuple[float, ...]:
    """Parts whose plain mean is the weighted mean: one an anomaly or event, in at most `MOST_PARTS` groups; none for a single one.

    Args:
        values: of each entry.
        weights: of each entry, 0 where normal.
        units: the anomaly or event that an entry belongs to, 0 ... n-1.
    """
    count = int(units.max()) + 1
    groups = min(count, MOST_PARTS)
    if groups < 2:
        return ()
    sums = np.bincount(units % groups, values * weights, groups)
    return tuple((sums * groups / weights.sum()).tolist())


def units_of(label: Array, runs: bool) -> NDArray[np.int64]:
    """The number of the anomaly that each entry is nearest to, in its row.

    Args:
        label: (rows, entries), 0, 1 or NaN.
        runs: is a run of anomalous entries one event (series), or each an anomaly of its own (points)?
    """
    marked = label == 1
    begins = marked & ~np.concatenate([np.zeros((len(label), 1), bool), marked[:, :-1]], axis=1) if runs else marked
    number = np.cumsum(begins).reshape(label.shape) - 1
    for row, own in zip(marked, number, strict=True):
        if row.any():
            own[:] = own[nearest_anomaly(row.astype(np.float64))]
    return np.maximum(number, 0)


@dataclass(frozen=True)
class _Ranking:
    """What the two metrics share.

    Args:
        slack: steps of a series beside an event that count in part as anomalous; 0 gives the plain number alone.

    Raises:
        UserError: ``slack`` is negative.
    """

    slack: int = 0

    def __post_init__(self) -> None:
        not_negative(self, "slack")

    def score(self, estimate: Estimate, case: Case, slack: int, each: Any) -> Score:
        """The weighted mean over anomalies of ``each(scores, weights)``, and its parts."""
        scores, label = judged(estimate, case)
        weights, known = closeness(label, slack), np.isfinite(label)
        units = units_of(label, runs="time" in estimate.data.dims)
        values, weight = each(scores[known], weights[known]), weights[known]
        return Score(float((values * weight).sum() / weight.sum()), parts_of(values, weight, units[known]))

    def numbers(self, estimate: Estimate, case: Case, key: str, each: Any) -> dict[str, Score]:
        """The plain number, and the one with slack where a series has it."""
        found = {key: self.score(estimate, case, 0, each)}
        if self.slack and "time" in estimate.data.dims:
            found[f"range-{key}"] = self.score(estimate, case, self.slack, each)
        return found

    def infos(self, key: str, title: str, what: str) -> list[MetricInfo]:
        """Entries for the plain number and the one with slack."""
        ends = "entries without a score rank last; the interval resamples anomalies (events of a series), normal ones held fixed"
        plain = MetricInfo(key, title, "", "up", f"{what}; {ends}", digits=4)
        beside = f"{what}, where a step at distance k from an event is anomalous by sqrt(1 - k/{self.slack + 1}) and normal by the rest"
        return [plain, MetricInfo(f"range-{key}", f"Range {title}", "", "up", f"{beside}; {ends}", digits=4)] if self.slack else [plain]


@dataclass(frozen=True)
class AUROC(_Ranking):
    """Area under the receiver operating characteristic, over points or over steps."""

    def describe(self) -> list[MetricInfo]:
        """One entry, two with ``slack``."""
        return self.infos("auroc", "AUROC", "probability that an anomalous entry scores above a normal one, ties half")

    def __call__(self, estimate: Estimate, case: Case) -> dict[str, Score]:
        """AUROC; parts by anomaly."""
        return self.numbers(estimate, case, "auroc", pairwise)


@dataclass(frozen=True)
class AP(_Ranking):
    """Average precision, over points or over steps; its chance level is the share of anomalies."""

    def describe(self) -> list[MetricInfo]:
        """One entry, two with ``slack``."""
        what = "sum of precision times the rise of recall over the distinct scores, the chance level being the share of anomalies"
        return self.infos("average-precision", "AP", what)

    def __call__(self, estimate: Estimate, case: Case) -> dict[str, Score]:
        """Average precision; parts by anomaly."""
        return self.numbers(estimate, case, "average-precision", precision)
