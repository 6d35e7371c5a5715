"""Ridge regression from a window's context to its horizon, one for all series, and its errors on windows that it did not see.

    f = s (x W + b),   x = context/s,   W, b = argmin sum |horizon/s - x W - b|^2 + alpha |W|^2
    s = max(mean |context|, floor x mean |y| of the series);   quantiles: f_h + s times those of the errors at step h

Fitted on windows that end before the first origin of the run: 90 % of them for W and b, the last 10 % of the draws for the errors.
Holes of a context are filled (`past.filled`); a step of the horizon that was not observed leaves the fit of that step.
Reference: Kollovieh et al. 2023 (TSDiff), arXiv:2307.11494, section 4.4 ("Linear", the predictor of the linear predictive score).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from unstir.errors import DataError, UserError
from unstir.plugin.options import not_negative, positive
from unstir.plugin.protocols import Case, Estimate, Progress
from unstir_timeseries import fits
from unstir_timeseries.panel import LEVELS
from unstir_timeseries.past import Array, Past, filled, quantiles_of
from unstir_timeseries.windows import Windows, usual_size

FLOOR = 0.1
"""Smallest scale of a window, as a share of the series' mean |y|: quiet windows would else be huge targets."""
KIND = "ridge-2"
"""Names fits that are kept on disk; to be counted up when the same options come to give another fit."""


@dataclass(frozen=True)
class Ridge:
    """Ridge regression from context to horizon, a point forecast.

    Args:
        alpha: weight of |W|^2, in scaled units.
        windows: how many training windows are drawn, with replacement: a series, then a place in it.
        aligned: only windows whose horizon begins at the place of the season where the forecast does (midnight)?
        held: share of the draws, the last ones, that only give the errors.
        draw: seed of the draws, whatever the seed of the run.

    Raises:
        UserError: an option out of range.
    """

    alpha: float = 1.0
    windows: int = 10_000
    aligned: bool = False
    held: float = 0.1
    draw: int = 0

    needs: ClassVar[tuple[str, ...]] = ()
    uses_prior: ClassVar[bool] = False
    spread: ClassVar[bool] = False

    def __post_init__(self) -> None:
        positive(self, "alpha")
        if not 0 < self.held < 1 or int(self.windows * (1 - self.held)) < 1 or int(self.windows * self.held) < 1:
            raise UserError(f"held is a share in (0, 1) that leaves windows on both sides, got {self.held} of {self.windows}")
        not_negative(self, "draw")

    def __call__(self, case: Case, prior: Any, seed: int, *, progress: Progress = None) -> Estimate:
        """A forecast of every series.

        Raises:
            DataError: the case has no training panel, or one without a single window.
        """
        training = case.context.get("training")
        if not isinstance(training, xr.Dataset):
            raise DataError(f"case {case.key} has no training panel, and ridge regression needs one")
        past = Past.of(case)
        fit = self.fit(training, past.context, past.horizon, past.season, past.y.shape[1])
        x, scale = _scaled(past, usual_size(past.y), past.context)
        past.say("missing values of the context are filled in", ~np.isfinite(x).all(1) & np.isfinite(x).any(1))
        past.say("nothing observed in the context, forecast from the usual window", ~np.isfinite(x).any(1) & np.isfinite(past.y).any(1))
        if not fit["fitted"].all():
            lost = ", ".join(str(step) for step in past.steps[fit["fitted"] == 0][:5])
            past.said.append(f"step {lost} of the horizon was never observed in training, forecast by the mean of the other steps")
        x = np.where(np.isfinite(x).any(1, keepdims=True), filled(x, past.season), fit["usual"])
        point = x @ fit["weights"] + fit["intercept"]
        quantiles = point[:, None] + fit["errors"] if self.spread else np.repeat(point[:, None], len(LEVELS), 1)
        return past.estimate(quantiles * scale[:, None, None], point * scale[:, None])

    def fit(self, training: xr.Dataset, context: int, horizon: int, season: int, origin: int) -> fits.Fit:
        """The regression, made once a training panel and kept.

        Args:
            training: what lies before the first origin.
            context: C.
            horizon: H.
            season: m.
            origin: steps before the forecast's first step, which says at what place of the season it begins.

        Returns:
            ``weights`` (C, H), ``intercept`` (H,), ``errors`` (levels, H), ``usual`` (C,) the mean window, ``fitted`` (H,) 1 or 0.
        """
        stride = season if self.aligned else 1
        facts = {
            "alpha": self.alpha, "windows": self.windows, "held": self.held, "draw": self.draw, "floor": FLOOR, "levels": LEVELS,
            "context": context, "horizon": horizon, "season": season, "stride": stride, "phase": origin % stride,
        }  # fmt: skip
        y = training["y"].transpose("item", "time").values.astype(np.float64)
        name = f"{KIND}-{fits.fingerprint(training, facts)}"
        return fits.recall(name, lambda: self._fit(y, context, horizon, season, origin % stride))

    def _fit(self, y: Array, context: int, horizon: int, season: int, phase: int) -> fits.Fit:
        stride = season if self.aligned else 1
        drawn = draws(places(y, context, horizon, stride, phase), self.windows, np.random.default_rng(self.draw))
        item, start = drawn.T
        raw = y[item[:, None], start[:, None] + np.arange(context + horizon)]
        _, scale = Windows(context, horizon, floor=FLOOR).scales(raw[:, :context], usual_size(y)[item])
        scaled = raw / scale[:, None]
        x, target = filled(scaled[:, :context], season), scaled[:, context:]
        kept = int((1 - self.held) * len(x))
        weights, intercept, fitted = solve(x[:kept], target[:kept], self.alpha)
        errors = target[kept:] - (x[kept:] @ weights + intercept)
        spread = quantiles_of(errors.T).T
        spread = np.where(np.isfinite(spread), spread, np.nan_to_num(quantiles_of(errors.reshape(1, -1)).T))
        return {"weights": weights, "intercept": intercept, "errors": spread, "usual": x[:kept].mean(0), "fitted": fitted.astype(np.int64)}


@dataclass(frozen=True)
class RidgeResidual(Ridge):
    """Ridge regression with the quantiles, step by step, of its errors on held-back windows."""

    spread: ClassVar[bool] = True


def places(y: Array, context: int, horizon: int, stride: int, phase: int) -> list[tuple[int, NDArray[np.int64]]]:
    """Where training windows begin: between a series' first and last observed value, half of the context observed and some of the horizon.

    Args:
        y: (items, steps), NaN where not observed.
        context: C.
        horizon: H.
        stride: horizons begin at multiples of it,
        phase: plus this. With a stride above 1 a series' first and last window are left out, as in the yardstick.

    Returns:
        Item and starts, for the items that have any.

    Raises:
        DataError: there is no such window.
    """
    made, length, seen = [], context + horizon, np.isfinite(y)
    for item, row in enumerate(seen):
        if not row.any():
            continue
        first, last = int(np.argmax(row)), len(row) - int(np.argmax(row[::-1]))
        count = np.concatenate([[0], np.cumsum(row)])
        start = np.arange(first, last - length + 1)
        start = start[(start + context - phase) % stride == 0]
        start = start[1:-1] if stride > 1 else start
        start = start[(2 * (count[start + context] - count[start]) >= context) & (count[start + length] > count[start + context])]
        if len(start):
            made.append((item, start))
    if not made:
        longest = int(seen.sum(1).max(initial=0))
        wanted = length + (2 * stride if stride > 1 else 0)
        raise DataError(
            f"no series has a training window of {context} + {horizon} steps before the first origin: the longest has {longest} observed "
            f"steps and {wanted} are needed, {max(wanted - longest, 0)} more"
        )
    return made


def draws(where: list[tuple[int, NDArray[np.int64]]], number: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """(number, 2) item and start of windows: a series is drawn, then one of its starts, every series as often as another."""
    made = np.empty((number, 2), dtype=np.int64)
    for row in made:
        item, starts = where[generator.integers(len(where))]
        row[:] = item, starts[generator.integers(len(starts))]
    return made


def solve(x: Array, target: Array, alpha: float) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Ridge regression with an intercept that is not shrunk, every step of the horizon on the windows where it was observed.

    Args:
        x: (rows, C).
        target: (rows, H), NaN where not observed.
        alpha: weight of |W|^2.

    Returns:
        W (C, H), b (H,), and (H,) which steps were observed at all; the others get the mean of the observed targets.
    """
    seen = np.isfinite(target)
    weights, intercept = np.zeros((x.shape[1], target.shape[1])), np.full(target.shape[1], np.nanmean(target) if seen.any() else 1.0)
    patterns, which = np.unique(seen, axis=1, return_inverse=True)
    for number, rows in enumerate(patterns.T):
        if not rows.any():
            continue
        steps = np.flatnonzero(which.ravel() == number)
        inside, outside = x[rows], target[np.ix_(rows, steps)]
        middle, level = inside.mean(0), outside.mean(0)
        centred = inside - middle
        w = np.linalg.solve(centred.T @ centred + alpha * np.eye(x.shape[1]), centred.T @ (outside - level))
        weights[:, steps], intercept[steps] = w, level - middle @ w
    return weights, intercept, np.asarray(seen.any(0))


def _scaled(past: Past, usual: Array, context: int) -> tuple[Array, Array]:
    """Contexts over their scales, and the scales."""
    _, scale = Windows(context, past.horizon, floor=FLOOR).scales(past.window, usual)
    return past.window / scale[:, None], scale
