"""Maximum mean discrepancy between two sets of graphs, in the two conventions that the field tabulates under one name.

    MMD^2 = mean k(x, x') + mean k(y, y') - 2 mean k(x, y),   all pairs, the diagonal included (the biased V-statistic)
    k(x, y) = exp(-D(x, y)^2 / (2 sigma^2))

    statistic    `gdss`: D, sigma                                `spectre`: D, sigma
    degree       EMD, distance between neighbouring degrees 1; 1     TV = 1/2 |x - y|_1; 1
    clustering   EMD, distance between neighbouring bins 1/100; .1   TV; .1
    orbit        |x - y|_2; 30                                       1/2 |x - y|_1; 30
    spectral     EMD, distance between neighbouring bins 1; 1        TV; 1

The earth mover's distance of two histograms of one mass on a line is the sum of |cumsum(x - y)|, so that a Gram matrix is the city-block
distance of cumulative histograms. A kernel of squared EMD or TV need not be positive definite: the value can fall below 0 by a little.
At n graphs against m the value is above 0 for two sets of one law, too: compare with `floor`. `gdss` spectral is close to a delta
kernel: it saturates at 1/n + 1/m and ranks nothing.

Reference: Gretton et al. 2012 (MMD); You et al. 2018, arXiv:1802.08773; Jo et al. 2022 (GDSS), arXiv:2202.02514; Martinkus et al. 2022
(SPECTRE), arXiv:2204.01613; O'Bray et al. 2022 (on such comparisons), arXiv:2106.01098.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from unstir.errors import DataError, UserError
from unstir.plugin.kept import Memory
from unstir_molecules.graphs import Graphs
from unstir_molecules.statistics import CLUSTERING_BINS, STATISTICS, Statistic, chosen, features

Array = NDArray[Any]
Convention = Literal["gdss", "spectre"]
CONVENTIONS: tuple[Convention, ...] = get_args(Convention)
Law = Literal["emd", "tv", "l2"]
CELLS = 4_000_000
"""Entries of a Gram matrix that are made at a time: 32 MB, and as much again twice while they are made."""


@dataclass(frozen=True)
class Kernel:
    """exp(-D^2 / (2 sigma^2)).

    Args:
        law: D: ``"emd"`` (times ``step``), ``"tv"`` (half the city-block distance) or ``"l2"``.
        sigma: width.
        step: distance between neighbouring bins.
    """

    law: Law
    sigma: float
    step: float = 1.0

    def gram(self, x: Array, y: Array) -> Array:
        """Kernel of every pair.

        Args:
            x: (n, p) rows.
            y: (m, q) rows; the shorter of p and q is continued with zeros.

        Returns:
            (n, m) float64.
        """
        width = max(x.shape[1], y.shape[1])
        x, y = (np.pad(rows, ((0, 0), (0, width - rows.shape[1]))) for rows in (x, y))
        if self.law == "emd":
            distance = self.step * cdist(np.cumsum(x, axis=1), np.cumsum(y, axis=1), "cityblock")
        elif self.law == "tv":
            distance = 0.5 * cdist(x, y, "cityblock")
        else:
            distance = cdist(x, y)
        return np.exp(-(distance**2) / (2 * self.sigma**2))

    def blocks(self, x: Array, y: Array) -> Iterator[tuple[slice, Array]]:
        """Kernel of every pair, a few rows at a time.

        Args:
            x: (n, p) rows.
            y: (m, q) rows.

        Yields:
            Which rows of ``x``, and (rows, m) float64.
        """
        step = max(1, CELLS // len(y))
        for first in range(0, len(x), step):
            part = slice(first, first + step)
            yield part, self.gram(x[part], y)


KERNELS: dict[Convention, dict[Statistic, Kernel]] = {
    "gdss": {
        "degree": Kernel("emd", 1.0),
        "clustering": Kernel("emd", 0.1, 1 / CLUSTERING_BINS),
        "orbit": Kernel("l2", 30.0),
        "spectral": Kernel("emd", 1.0),
    },
    "spectre": {
        "degree": Kernel("tv", 1.0),
        "clustering": Kernel("tv", 0.1),
        "orbit": Kernel("tv", 30.0),
        "spectral": Kernel("tv", 1.0),
    },
}


_means: Memory[float] = Memory(256)


@dataclass(frozen=True)
class Spread:
    """A number over resamples.

    Args:
        value: mean over the resamples.
        low: 2.5 % quantile.
        high: 97.5 % quantile.
        sd: standard deviation.
    """

    value: float
    low: float
    high: float
    sd: float

    @classmethod
    def of(cls, values: Array) -> Spread:
        """Summary of values.

        Args:
            values: one a resample.
        """
        low, high = np.quantile(values, [0.025, 0.975])
        return cls(float(np.mean(values)), float(low), float(high), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0)


@dataclass(frozen=True, eq=False)
class Grams:
    """Two sets of graphs under the kernel of one statistic: the means of its Gram matrices, which are made in blocks and not kept.

    Args:
        first: n graphs.
        second: m graphs, those that are compared with.
        statistic: which.
        convention: whose kernel.

    Raises:
        DataError: a set is empty.
        UserError: there is no such convention or statistic.
    """

    first: Graphs
    second: Graphs
    statistic: Statistic
    convention: Convention

    def __post_init__(self) -> None:
        kernel_of(self.statistic, self.convention)
        for name, graphs in (("first", self.first), ("second", self.second)):
            if not len(graphs):
                raise DataError(f"the {name} of two sets of graphs to compare is empty")

    @property
    def rows(self) -> tuple[Array, Array]:
        """The statistic of the graphs of both sets, (n, p) and (m, q)."""
        return features(self.first, self.statistic), features(self.second, self.statistic, keep=True)

    def mmd(self) -> float:
        """MMD^2, the biased V-statistic."""
        x, y = self.rows
        return self._own(self.first, x) + self._own(self.second, y) - 2 * self._mean(x, y)

    def weighted(self, counts: Array, others: Array | None = None) -> Array:
        """MMD^2 of multisets drawn from both sides.

        Args:
            counts: (resamples, n) how often each graph of the first set is in.
            others: (resamples, m) the same of the second; each once without.

        Returns:
            (resamples,).
        """
        x, y = self.rows
        a = counts / counts.sum(1, keepdims=True)
        if others is None:
            b, within = np.full((1, len(y)), 1 / len(y)), np.asarray(self._own(self.second, y))
        else:
            b = others / others.sum(1, keepdims=True)
            within = self._form(b, y, b, y)
        return self._form(a, x, a, x) + within - 2 * self._form(a, x, b, y)

    def _form(self, a: Array, x: Array, b: Array, y: Array) -> Array:
        """a_r^T K(x, y) b_r for every resample r."""
        kernel = kernel_of(self.statistic, self.convention)
        return np.asarray(sum((a[:, part] * (b @ gram.T)).sum(1) for part, gram in kernel.blocks(x, y)))

    def _mean(self, x: Array, y: Array) -> float:
        kernel = kernel_of(self.statistic, self.convention)
        return sum(float(gram.sum()) for _, gram in kernel.blocks(x, y)) / (len(x) * len(y))

    def _own(self, graphs: Graphs, rows: Array) -> float:
        """The mean kernel of a set with itself, remembered by the content of the set."""
        return _means.of((graphs.digest, self.statistic, self.convention), lambda: self._mean(rows, rows))


def kernel_of(statistic: str, convention: str) -> Kernel:
    """The kernel of a statistic in a convention.

    Args:
        statistic: of `STATISTICS`.
        convention: of `CONVENTIONS`.

    Raises:
        UserError: there is no such one.
    """
    if convention not in KERNELS:
        raise UserError(f"convention must be one of {', '.join(CONVENTIONS)}, got {convention!r}")
    chosen((statistic,))
    return KERNELS[convention][statistic]  # type: ignore[index]


def mmd(first: Graphs, second: Graphs, statistic: Statistic, convention: Convention = "gdss") -> float:
    """MMD^2 of one statistic between two sets of graphs.

    Args:
        first: n graphs.
        second: m graphs.
        statistic: degree, clustering, orbit or spectral.
        convention: whose kernel: ``"gdss"`` or ``"spectre"``.

    Returns:
        The biased V-statistic; 0 for two equal sets.

    Raises:
        DataError: a set is empty.
        UserError: there is no such statistic or convention.
    """
    return Grams(first, second, statistic, convention).mmd()


def distances(
    first: Graphs, second: Graphs, convention: Convention = "gdss", statistics: Sequence[str] = STATISTICS
) -> dict[Statistic, float]:
    """MMD^2 of several statistics.

    Args:
        first: n graphs.
        second: m graphs.
        convention: ``"gdss"`` or ``"spectre"``.
        statistics: which.
    """
    return {name: mmd(first, second, name, convention) for name in chosen(statistics)}


def ratios(made: Mapping[Statistic, float], floor: Mapping[Statistic, float]) -> dict[Statistic, float]:
    """How many times the distance of the training graphs the made ones are from the test graphs (SPECTRE's ratio).

    Args:
        made: distances of generated from test graphs.
        floor: distances of training from test graphs.

    Returns:
        The ratios; NaN where the floor is 0 (or below, by rounding): nothing can be said relative to it.
    """
    return {name: value / floor[name] if floor[name] > 1e-12 else math.nan for name, value in made.items()}


def mean_ratio(found: Mapping[Statistic, float]) -> float:
    """Mean of the ratios, NaN where one of them is.

    Args:
        found: ratios.
    """
    return float(np.mean(list(found.values())))


def resampled(
    made: Graphs,
    real: Graphs,
    *,
    convention: Convention = "gdss",
    statistics: Sequence[str] = STATISTICS,
    resamples: int = 10,
    size: int | None = None,
    seed: int = 0,
) -> dict[Statistic, Spread]:
    """MMD^2 over random parts of the made graphs, each of as many graphs as there are real ones.

    Parts are drawn without replacement where there are more made graphs than a part takes, else with (a bootstrap: copies make its mean
    too large, by about (1 - mean k) / n).

    Args:
        made: generated graphs.
        real: test graphs, all of them every time.
        convention: ``"gdss"`` or ``"spectre"``.
        statistics: which.
        resamples: how many, at least 2; the field's tables need 10 or more.
        size: graphs of a part; as many as ``real`` when ``None``.
        seed: of the draws; the parts are the same for every statistic.

    Raises:
        DataError: a set is empty.
        UserError: an option out of range.
    """
    if resamples < 2:
        raise UserError(f"resamples must be at least 2, got {resamples}")
    size = len(real) if size is None else size
    if size < 1:
        raise UserError(f"size must be at least 1 graph, got {size}")
    counts = draws(len(made), size, resamples, seed)
    return {name: Spread.of(Grams(made, real, name, convention).weighted(counts)) for name in chosen(statistics)}


def jackknifed(
    made: Graphs, real: Graphs, convention: Convention = "gdss", statistics: Sequence[str] = STATISTICS, *, blocks: int = 20, seed: int = 0
) -> dict[Statistic, Array]:
    """How far MMD^2 moves with a block of graphs of both sets: block-jackknife parts around 0, whose spread is that of the distance.

    Args:
        made: generated graphs.
        real: test graphs.
        convention: ``"gdss"`` or ``"spectre"``.
        statistics: which.
        blocks: at most; fewer where a set has less than two graphs a block.
        seed: deals the graphs into blocks.

    Returns:
        (blocks,) each, of mean 0; empty where a set has fewer than four graphs.
    """
    count = min(blocks, len(made) // 2, len(real) // 2)
    if count < 2:
        return {name: np.zeros(0) for name in chosen(statistics)}
    rng = np.random.default_rng(seed)
    without = [(rng.permutation(len(one)) % count != np.arange(count)[:, None]).astype(float) for one in (made, real)]
    left = {name: Grams(made, real, name, convention).weighted(*without) for name in chosen(statistics)}
    return {name: (count - 1) * (value.mean() - value) for name, value in left.items()}


def floor(
    train: Graphs,
    test: Graphs,
    *,
    convention: Convention = "gdss",
    statistics: Sequence[str] = STATISTICS,
    repeats: int = 20,
    size: int | None = None,
    seed: int = 0,
) -> dict[Statistic, Spread]:
    """What real graphs score: MMD^2 of random training graphs, as many as there are test graphs, against the test graphs.

    Args:
        train: training graphs.
        test: test graphs.
        convention: ``"gdss"`` or ``"spectre"``.
        statistics: which.
        repeats: random parts.
        size: graphs of a part; as many as ``test`` when ``None``, at most all.
        seed: of the draws.
    """
    wanted = min(len(train), len(test) if size is None else size)
    return resampled(train, test, convention=convention, statistics=statistics, resamples=repeats, size=wanted, seed=seed)


def draws(count: int, size: int, resamples: int, seed: int) -> Array:
    """How often each of ``count`` graphs is in each random part.

    Args:
        count: graphs there are.
        size: graphs of a part.
        resamples: parts.
        seed: of the draws; part r depends on (seed, r) alone.

    Returns:
        (resamples, count) float64, rows sum to ``size``; 0 or 1 where ``size`` is below ``count``.
    """
    made = np.zeros((resamples, count))
    for r in range(resamples):
        rng = np.random.default_rng([seed, r])
        if size < count:
            made[r, rng.permutation(count)[:size]] = 1
        else:
            made[r] = np.bincount(rng.integers(count, size=size), minlength=count)
    return made
