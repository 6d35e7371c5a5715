"""Anomaly scores by diffusion time, beside the baselines that they must beat: nearest neighbours, isolation forest, reconstruction.

    x_s = x_0 + sigma_s eps,     p(sigma^2 | x)  ~  sum_i sigma^-d exp(-||x - x_i||^2 / (2 sigma^2)),     sigma_t^2 = 1 - abar_t

How much noise makes a normal point look like x? For one squared distance r^2 the answer is an inverse gamma law of sigma^2 with a = d/2 - 1
and b = r^2/2, whose mode is r^2/d. The scores here are continuous: the published ones stop at the last step of the table, where all distant
points tie.

References: Livernoche et al. 2024, On Diffusion Modeling for Anomaly Detection, arXiv:2305.18593 (DTE); Ramaswamy et al. 2000, Efficient
algorithms for mining outliers (nearest neighbours); Liu et al. 2008, Isolation forest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from unstir.errors import DataError, MissingExtra
from unstir.plugin.options import at_least, one_of, positive
from unstir_timeseries.anomaly_networks import DTE, Reconstruction, dimension_of, noise_levels
from unstir_timeseries.anomaly_windows import STRANGERS, AnomalyMethod, Array, Comparison, Places, Ranked, score_panel, to_steps

__all__ = ["DTE", "DTENP", "Forest", "NearestNeighbours", "Reconstruction", "score_panel", "to_steps"]

Law = Literal["nearest", "mixture"]
Score = Literal["mode", "step", "mean"]
Take = Literal["last", "mean-square"]
FIXED_POINT = 50  # iterations of sigma^2 <- sum w r^2 / d; each raises the density
CHUNK = 256  # points whose distances to everything are in memory at a time


@dataclass(frozen=True)
class NearestNeighbours(AnomalyMethod):
    """Distance to the nearest normal points: the baseline to beat.

    Args:
        neighbours: k.
        take: "last" (distance to the k-th) or "mean-square" (mean squared distance to all k).

    Raises:
        UserError: an option is out of range.
    """

    neighbours: int = 5
    take: Take = "last"

    def __post_init__(self) -> None:
        positive(self, "neighbours")
        one_of(self, take=Take)

    def rank(self, reference: Array, query: Array, how: Comparison = STRANGERS) -> Ranked:
        """The k-th smallest distance, or the mean of the k smallest squared ones."""
        distances = nearest(reference, query, self.neighbours, how.own, how.apart)
        return Ranked(distances[:, -1] if self.take == "last" else np.square(distances).mean(axis=1))


@dataclass(frozen=True)
class DTENP(AnomalyMethod):
    """Diffusion time without a network: the law of sigma^2 from the distances to the nearest normal points.

        nearest:  InvGamma(sigma^2; d/2 - 1, r^2/2),  r^2 the mean of the k smallest squared distances       (published, k = 5)
        mixture:  sum over the k nearest points, the exact posterior under a uniform law of sigma^2 when k covers all of them

    The mode of the first is r^2/d, in the order of mean squared distances; that of the second solves sigma^2 = sum_i w_i r_i^2/d,
    w_i ~ exp(-r_i^2/(2 sigma^2)).

    Args:
        neighbours: k; 0 in "mixture": all points.
        law: "nearest" or "mixture".
        score: "mode" (sigma^2, continuous), "step" (the published index of the likeliest step of the table, which stops at its end)
            or "mean" (posterior mean of the step).
        steps: T, length of the table of "step" and "mean".

    Raises:
        UserError: an option is out of range.
    """

    neighbours: int = 5
    law: Law = "nearest"
    score: Score = "mode"
    steps: int = 300

    def __post_init__(self) -> None:
        one_of(self, law=Law, score=Score)
        if self.neighbours or self.law == "nearest":
            positive(self, "neighbours")
        at_least(self, steps=2)

    def rank(self, reference: Array, query: Array, how: Comparison = STRANGERS) -> Ranked:
        """Mode, likeliest step or mean step of the law.

        Raises:
            DataError: fewer than 3 features (the law of sigma^2 then has no norm), or fewer points than neighbours.
        """
        size, own = dimension_of(query), how.own
        count = self.neighbours or len(reference) - (0 if own is None else most_near(own, how.apart))
        stride = CHUNK if count > CHUNK else len(query)
        out = np.empty(len(query))
        for begin in range(0, len(query), stride):
            part = slice(begin, begin + stride)
            places = None if own is None else own[part]
            squares = np.square(nearest(reference, query[part], count, places, how.apart, own))
            out[part] = self.of(squares.mean(axis=1, keepdims=True) if self.law == "nearest" else squares, size)
            if how.progress is not None:
                how.progress(min(begin + stride, len(query)), len(query))
        return Ranked(out)

    def of(self, squares: Array, size: int) -> Array:
        """The score of squared distances.

        Args:
            squares: (rows, k).
            size: d.

        Returns:
            (rows,).
        """
        if self.score == "mode":
            return mode(squares, size)
        levels = noise_levels(self.steps)
        log_law = np.stack([logsumexp(-squares / (2 * level), axis=1) - size / 2 * math.log(level) for level in levels], axis=1)
        if self.score == "step":
            return log_law.argmax(axis=1).astype(np.float64)
        weights = np.exp(log_law - logsumexp(log_law, axis=1, keepdims=True))
        return weights @ np.arange(self.steps, dtype=np.float64)


def mode(squares: Array, size: int) -> Array:
    """The sigma^2 of largest density of sum_i sigma^-d exp(-r_i^2/(2 sigma^2)): r^2/d for a single distance.

    Looked for on a logarithmic grid between the smallest r^2/d and the mean of r^2/d, where every stationary point lies, then by the
    fixed point sigma^2 = sum_i w_i r_i^2/d. A distance of 0 makes it 0.

    Args:
        squares: r_i^2, (rows, k).
        size: d.
    """
    if squares.shape[1] == 1:
        return squares[:, 0] / size
    scaled = np.sort(squares, axis=1) / size
    out, kept = np.zeros(len(scaled)), scaled[:, 0] > 0
    scaled = scaled[kept]
    grid = np.exp(np.linspace(np.log(scaled[:, 0]), np.log(scaled.mean(axis=1)), 64))
    value = np.stack([logsumexp(-size * scaled / (2 * level[:, None]), axis=1) - size / 2 * np.log(level) for level in grid])
    level = np.take_along_axis(grid, value.argmax(axis=0)[None], axis=0)[0]
    for _ in range(FIXED_POINT):
        logits = -size * (scaled - scaled[:, :1]) / (2 * level[:, None])
        weights = np.exp(logits)
        level = (weights * scaled).sum(axis=1) / weights.sum(axis=1)
    out[kept] = level
    return out


@dataclass(frozen=True)
class Forest(AnomalyMethod):
    """Isolation forest of scikit-learn: minus the score of its samples.

    Args:
        trees: number of trees.

    Raises:
        UserError: no tree.
    """

    trees: int = 100

    def __post_init__(self) -> None:
        positive(self, "trees")

    def rank(self, reference: Array, query: Array, how: Comparison = STRANGERS) -> Ranked:
        """Fit on the reference, score the query."""
        try:
            from sklearn.ensemble import IsolationForest
        except ModuleNotFoundError as error:
            raise missing() from error
        forest = IsolationForest(n_estimators=self.trees, random_state=how.seed % 2**32).fit(reference)
        return Ranked(-forest.score_samples(query))


def nearest(reference: Array, query: Array, neighbours: int, own: Places = None, apart: int = 1, whole: Places = None) -> Array:
    """Distances to the nearest reference rows, nearest first.

    Args:
        reference: (rows, features).
        query: (points, features).
        neighbours: how many.
        own: places of the queries in steps where they are rows of the reference: rows nearer than ``apart`` are no neighbours.
        apart: see ``own``; 1 leaves out the row itself alone (and no duplicate of it).
        whole: places of the reference rows; ``own`` where absent.

    Returns:
        (points, neighbours).

    Raises:
        DataError: there are not enough rows.
        MissingExtra: scikit-learn is not installed.
    """
    try:
        from sklearn.neighbors import NearestNeighbors
    except ModuleNotFoundError as error:
        raise missing() from error
    places = own if whole is None else whole
    crowd = 0 if own is None or places is None else most_near(places, apart)
    if len(reference) < neighbours + crowd:
        shared = "" if crowd < 2 else f" besides the {crowd} that overlap"
        raise DataError(f"{neighbours} neighbours are asked for{shared}, and there are {len(reference)} vectors to compare with")
    distances, index = NearestNeighbors(n_neighbors=neighbours + crowd).fit(reference).kneighbors(query)
    if own is None or places is None:
        return np.asarray(distances, dtype=np.float64)
    distances = np.where(np.abs(places[index] - own[:, None]) < apart, np.inf, distances)
    return np.sort(distances, axis=1)[:, :neighbours]


def most_near(places: NDArray[np.int64], apart: int) -> int:
    """The largest number of rows that lie nearer than ``apart`` to one row, itself among them.

    Args:
        places: (rows,), increasing.
        apart: in steps.
    """
    right, left = np.searchsorted(places, places + apart, "left"), np.searchsorted(places, places - apart, "right")
    return int((right - left).max())


def missing() -> MissingExtra:
    """The sentence for an environment without scikit-learn."""
    return MissingExtra("anomaly scores by neighbours and forests need scikit-learn: pip install 'unstir[timeseries]'")
