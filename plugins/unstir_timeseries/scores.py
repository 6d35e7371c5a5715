"""Scores of forecasts as functions of arrays: the pinball family in GluonTS's convention, sample scores of steps and of whole paths.

    QL_q = 2 sum |(f_q - y)(1[y <= f_q] - q)|,    wQL_q = QL_q / sum |y|,    CRPS = mean of wQL_q over q = .1 ... .9
    CRPS(F, y) = E|X - y| - E|X - X'| / 2,        ES = E||X - y|| - E||X - X'|| / 2,
    VS_p = mean over pairs of steps of (|y_i - y_j|^p - E|X_i - X_j|^p)^2

Steps are the last axis; a target that is NaN is not scored. Sums are pooled over all series, so that large ones dominate.

Reference: Gneiting and Raftery 2007 (scores), Scheuerer and Hamill 2015 (variogram), Czado et al. 2009 (PIT of counts), GluonTS 0.17.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unstir.errors import DataError

Array = NDArray[Any]
BLOCK = 2**24  # numbers held at once by the scores that compare samples in pairs


def pinball(quantiles: Array, y: Array, levels: Sequence[float]) -> Array:
    """Twice the pinball loss, 2 |(f - y)(1[y <= f] - q)|.

    Args:
        quantiles: (..., levels, steps) f.
        y: (..., steps), NaN where not scored.
        levels: q of each.

    Returns:
        (..., levels, steps), NaN where ``y`` is.
    """
    target = np.asarray(y, dtype=np.float64)[..., None, :]
    q = np.asarray(levels, dtype=np.float64)[:, None]
    return 2 * np.abs((quantiles - target) * ((target <= quantiles) - q))


def quantile_losses(quantiles: Array, y: Array, levels: Sequence[float]) -> Array:
    """Weighted quantile loss of each level, pooled over everything but the levels.

    Args:
        quantiles: (..., levels, steps).
        y: (..., steps), NaN where not scored.
        levels: q of each.

    Returns:
        (levels,) sums of losses over the sum of |y|; NaN where every target is zero or NaN.
    """
    losses = np.moveaxis(pinball(quantiles, y, levels), -2, 0).reshape(len(levels), -1)
    total = np.nansum(np.abs(y))
    return np.nansum(losses, axis=1) / total if total > 0 else np.full(len(levels), np.nan)


def weighted_quantile_loss(quantiles: Array, y: Array, levels: Sequence[float]) -> float:
    """Mean weighted quantile loss, which the field calls CRPS at the levels .1 to .9.

    Args:
        quantiles: (..., levels, steps).
        y: (..., steps), NaN where not scored.
        levels: q of each (``panel.NINE``).

    Returns:
        Mean over levels of `quantile_losses`.
    """
    return float(quantile_losses(quantiles, y, levels).mean())


def crps_samples(samples: Array, y: Array, *, fair: bool = True) -> Array:
    """CRPS of samples, step by step: mean |x - y| - sum |x - x'| / (2 S (S - 1)), or / (2 S^2).

    Args:
        samples: (..., samples, steps).
        y: (..., steps), NaN where not scored.
        fair: unbiased for the law the samples come from (S(S-1), needs two samples), else the score of the samples as a law (S^2).

    Returns:
        (..., steps) in the units of ``y``.

    Raises:
        DataError: the fair form of one sample.
    """
    count = samples.shape[-2]
    if fair and count < 2:
        raise DataError("the fair CRPS needs at least two samples, got one")
    ordered = np.sort(np.asarray(samples, dtype=np.float64), axis=-2)
    error = np.abs(ordered - np.asarray(y, dtype=np.float64)[..., None, :]).mean(-2)
    rank = (2 * np.arange(count) - count + 1.0)[:, None]  # sum of |x - x'| over ordered pairs is twice sum of rank * x
    return error - (rank * ordered).sum(-2) / (count * (count - 1 if fair else count))


def crps_quantiles(quantiles: Array, y: Array, levels: Sequence[float]) -> Array:
    """CRPS from quantiles: 2 pinball integrated over q, each level standing for the values of q nearest to it.

    Args:
        quantiles: (..., levels, steps), levels increasing.
        y: (..., steps), NaN where not scored.
        levels: q of each.

    Returns:
        (..., steps) in the units of ``y``.
    """
    return (pinball(quantiles, y, levels) * level_widths(levels)[:, None]).sum(-2)


def level_widths(levels: Sequence[float]) -> Array:
    """How much of (0, 1) is nearest to each of the increasing ``levels``; sums to 1."""
    q = np.asarray(levels, dtype=np.float64)
    return np.diff(np.concatenate([[0.0], (q[1:] + q[:-1]) / 2, [1.0]]))


def seasonal_error(past: Array, season: int) -> Array:
    """Mean |y_t - y_{t-m}| over the whole past; m falls to 1 where a series is not longer than m.

    Args:
        past: (..., steps); a series begins at its first observed step, and pairs with a NaN are left out.
        season: m in steps, at least 1.

    Returns:
        (...); NaN where no pair is observed.
    """
    rows = np.asarray(past, dtype=np.float64).reshape(-1, past.shape[-1])
    return np.array([_seasonal_error(row, season) for row in rows]).reshape(past.shape[:-1])


def _seasonal_error(row: Array, season: int) -> float:
    seen = np.flatnonzero(np.isfinite(row))
    if len(seen) < 2:
        return float("nan")
    row = row[seen[0] : seen[-1] + 1]
    lag = season if len(row) > season else 1
    change = np.abs(row[lag:] - row[:-lag])
    kept = change[np.isfinite(change)]
    return float(kept.mean()) if len(kept) else float("nan")


def observed_mean(values: Array) -> Array:
    """Mean over the steps that are not NaN; NaN, without a warning, where there is none.

    Args:
        values: (..., steps).
    """
    seen = np.isfinite(values)
    count = seen.sum(-1)
    return np.where(count > 0, np.where(seen, values, 0.0).sum(-1) / np.maximum(count, 1), np.nan)


def mase(point: Array, y: Array, error: Array) -> Array:
    """Mean absolute scaled error, mean |y - f| / seasonal error.

    Args:
        point: (..., steps) f, the median.
        y: (..., steps), NaN where not scored.
        error: (...) of `seasonal_error`.

    Returns:
        (...) one a series; NaN where the seasonal error is 0 or unknown.
    """
    return _scaled(observed_mean(np.abs(y - point)), error)


def msis(lower: Array, upper: Array, y: Array, error: Array, *, alpha: float = 0.05) -> Array:
    """Mean scaled interval score, mean (u - l + 2/a (l - y)1[y < l] + 2/a (y - u)1[y > u]) / seasonal error.

    Args:
        lower: (..., steps) quantile alpha / 2.
        upper: (..., steps) quantile 1 - alpha / 2.
        y: (..., steps), NaN where not scored.
        error: (...) of `seasonal_error`.
        alpha: share that the interval leaves out.

    Returns:
        (...) one a series; NaN where the seasonal error is 0 or unknown.
    """
    outside = np.maximum(lower - y, 0) + np.maximum(y - upper, 0)
    return _scaled(observed_mean(upper - lower + 2 / alpha * outside), error)


def _scaled(values: Array, error: Array) -> Array:
    return np.where(error > 0, values / np.where(error > 0, error, 1.0), np.nan)


def nd(point: Array, y: Array) -> float:
    """Normalised deviation, sum |y - f| / sum |y| over everything; NaN where every target is zero or NaN.

    Args:
        point: (..., steps) f, the median.
        y: (..., steps), NaN where not scored.
    """
    total = np.nansum(np.abs(y))
    return float(np.nansum(np.abs(y - point)) / total) if total > 0 else float("nan")


def nrmse(mean: Array, y: Array) -> float:
    """Normalised root mean square error, sqrt(mean of the series' MSE) / mean of the series' mean |y|.

    Args:
        mean: (..., steps), the mean of the forecast.
        y: (..., steps), NaN where not scored.

    Returns:
        NaN where every target is zero or NaN.
    """
    size = np.nanmean(observed_mean(np.abs(y)))
    return float(np.sqrt(np.nanmean(observed_mean((y - mean) ** 2))) / size) if size > 0 else float("nan")


def smape(point: Array, y: Array) -> Array:
    """Symmetric percentage error, 2 mean |y - f| / (|y| + |f|); a step where both are 0 counts 0.

    Args:
        point: (..., steps) f, the median.
        y: (..., steps), NaN where not scored.

    Returns:
        (...) one a series, between 0 and 2.
    """
    size = np.abs(y) + np.abs(point)
    return observed_mean(np.where(size == 0, 0.0, 2 * np.abs(y - point) / np.where(size == 0, 1.0, size)))


def coverage(quantile: Array, y: Array) -> float:
    """Share of targets at or below a quantile.

    Args:
        quantile: (..., steps).
        y: (..., steps), NaN where not scored.
    """
    seen = np.isfinite(y)
    return float((y <= quantile)[seen].mean()) if seen.any() else float("nan")


def energy_score(samples: Array, y: Array) -> Array:
    """Fair energy score of whole paths, mean ||x - y|| - sum ||x - x'|| / (2 S (S - 1)), over the observed steps.

    Args:
        samples: (series, samples, steps), at least two samples.
        y: (series, steps), NaN where not scored.

    Returns:
        (series,) in the units of ``y``; NaN where a series has no target.
    """
    seen = np.isfinite(y)
    count = samples.shape[1]
    made = np.full(len(y), np.nan)
    for i in np.flatnonzero(seen.any(-1)):
        paths = np.asarray(samples[i], dtype=np.float64)[:, seen[i]] - y[i, seen[i]]
        square = (paths**2).sum(-1)
        between = np.sqrt(np.maximum(square[:, None] + square - 2 * paths @ paths.T, 0.0))
        np.fill_diagonal(between, 0.0)
        made[i] = np.sqrt(square).mean() - between.sum() / (2 * count * max(count - 1, 1))
    return made


def variogram_score(samples: Array, y: Array, *, p: float = 0.5) -> Array:
    """Variogram score of whole paths: mean over pairs of observed steps of (|y_i - y_j|^p - mean |x_i - x_j|^p)^2.

    It sees the dependence between steps, and no shift that all steps share.

    Args:
        samples: (series, samples, steps).
        y: (series, steps), NaN where not scored.
        p: the power.

    Returns:
        (series,) in the units of ``y`` to the power 2p; NaN where a series has fewer than two targets.
    """
    made = np.full(len(y), np.nan)
    for i in range(len(y)):
        seen = np.flatnonzero(np.isfinite(y[i]))
        if len(seen) < 2:
            continue
        a, b = np.triu_indices(len(seen), 1)
        paths, target = np.asarray(samples[i], dtype=np.float64)[:, seen], y[i, seen]
        block = max(1, BLOCK // len(paths))
        cuts = [slice(start, start + block) for start in range(0, len(a), block)]
        forecast = np.concatenate([(np.abs(paths[:, a[cut]] - paths[:, b[cut]]) ** p).mean(0) for cut in cuts])
        made[i] = ((np.abs(target[a] - target[b]) ** p - forecast) ** 2).mean()
    return made


def pit_bounds(
    y: Array, *, samples: Array | None = None, quantiles: Array | None = None, levels: Sequence[float] = ()
) -> tuple[Array, Array]:
    """Between which two probabilities a target lies in its forecast: exact for samples, between the neighbouring levels for quantiles.

    With S samples of the law of ``y`` a uniform number between #(x < y) / (S + 1) and (#(x <= y) + 1) / (S + 1) is uniform in (0, 1),
    with ties too (counts).

    Args:
        y: (..., steps), NaN where not scored.
        samples: (..., samples, steps).
        quantiles: (..., levels, steps), used where there are no samples.
        levels: q of each, increasing.

    Returns:
        Lower and upper bounds, (n,) each, of the n targets that are scored.

    Raises:
        DataError: neither samples nor quantiles are given.
    """
    seen = np.isfinite(y)
    target = y[..., None, :]
    if samples is not None:
        drawn = np.asarray(samples, dtype=np.float64)
        below, upto = (drawn < target).sum(-2), (drawn <= target).sum(-2)
        return below[seen] / (samples.shape[-2] + 1), (upto[seen] + 1) / (samples.shape[-2] + 1)
    if quantiles is None:
        raise DataError("a PIT needs samples or quantiles")
    edges = np.concatenate([[0.0], np.asarray(levels, dtype=np.float64), [1.0]])
    ordered = np.sort(quantiles, axis=-2)
    below, upto = (ordered < target).sum(-2), (ordered <= target).sum(-2)
    return edges[below[seen]], edges[upto[seen] + 1]


def pit(bounds: tuple[Array, Array], generator: np.random.Generator) -> Array:
    """Randomised PIT values, uniform where forecast and target have the same law.

    Args:
        bounds: of `pit_bounds`.
        generator: what draws.

    Returns:
        (n,) in [0, 1].
    """
    lower, upper = bounds
    return lower + (upper - lower) * generator.random(lower.shape)


def pit_distribution(bounds: tuple[Array, Array], u: Array) -> Array:
    """Distribution function of the PIT, the randomisation averaged out: mean of clip((u - lower) / (upper - lower), 0, 1).

    Args:
        bounds: of `pit_bounds`.
        u: (points,) in [0, 1].

    Returns:
        (points,); equal to ``u`` where the forecast is calibrated.
    """
    pairs, counts = np.unique(np.stack(bounds), axis=1, return_counts=True)
    share = np.clip((u[:, None] - pairs[0]) / (pairs[1] - pairs[0]), 0.0, 1.0)
    return share @ (counts / counts.sum())


def pit_histogram(bounds: tuple[Array, Array], bins: int = 10) -> Array:
    """Share of targets in each bin of the PIT, the randomisation averaged out; 1/bins each where the forecast is calibrated.

    Args:
        bounds: of `pit_bounds`.
        bins: how many, of equal width.

    Returns:
        (bins,) shares that sum to 1.
    """
    return np.diff(pit_distribution(bounds, np.linspace(0.0, 1.0, bins + 1)))


def pit_distance(bounds: tuple[Array, Array], points: int = 400) -> float:
    """Wasserstein distance of the PIT from the uniform law, the integral of |F(u) - u|: 0 at best, 1/4 for a law much too wide.

    Args:
        bounds: of `pit_bounds`.
        points: of the integral's midpoint rule.
    """
    u = (np.arange(points) + 0.5) / points
    return float(np.abs(pit_distribution(bounds, u) - u).mean())


def binomial_bar(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's 95 % interval of a share seen in ``count`` independent trials; for coverage the trials are windows, not their steps.

    Args:
        share: in [0, 1].
        count: how many trials.
        z: normal quantile of the interval.

    Returns:
        Low and high.
    """
    width = 1 + z * z / count
    centre = (share + z * z / (2 * count)) / width
    half = z / width * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return float(centre - half), float(centre + half)
