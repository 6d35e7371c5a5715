"""Learned baselines: DeepAR and gradient-boosted quantiles, fitted on what lies before the first origin of a run.

A fit belongs to (training panel, options, seed, this code) and is made once, whatever the number of windows; see `unstir_timeseries.fits`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from unstir.errors import UserError
from unstir.plugin.options import positive
from unstir.plugin.protocols import Case, Estimate, Progress
from unstir_timeseries import examples, fits, gbm
from unstir_timeseries.panel import LEVELS, forecast, horizon_of
from unstir_timeseries.windows import usual_size

VERSION = 2
"""Raised when the same options no longer give the same fit."""


@dataclass(frozen=True)
class DeepAR:
    """A recurrent network with a Student-t law of the next step, sampled step by step; small and plain, after GluonTS's.

    Trained on windows of the training panel before its last weeks, which choose the weights and stop the training. The same code, options
    and seed give the same bits. Missing values of the context are drawn, so that what is missing widens the forecast.

    Args:
        samples: S, paths of each series.
        hidden: units of a layer.
        layers: of the LSTM.
        dropout: between layers, in training.
        lags: in steps; around whole cycles and weeks where empty.
        unrolled: steps of the context over which the network is unrolled, at most half of it; the others serve as lags.
        steps: most steps of training.
        batch: windows of a step.
        rate: learning rate of Adam at first; it falls to zero along a cosine.
        clip: largest norm of the gradient.
        patience: looks (every 100 steps) at the held-back weeks without an improvement before the training stops.
        missing: share of training windows of which a part is hidden.
        floor: smallest scale of a context, as a share of the series' mean |y|.

    Raises:
        UserError: an option out of range.

    Reference: Salinas et al. 2020, arXiv:1704.04110.
    """

    samples: int = 100
    hidden: int = 40
    layers: int = 2
    dropout: float = 0.1
    lags: tuple[int, ...] = ()
    unrolled: int = 72
    steps: int = 3000
    batch: int = 64
    rate: float = 5e-3
    clip: float = 10.0
    patience: int = 8
    missing: float = 0.2
    floor: float = 0.1

    needs: ClassVar[tuple[str, ...]] = ()
    uses_prior: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "lags", tuple(self.lags))
        _whole(self, "samples", "hidden", "layers", "unrolled", "steps", "batch", "patience")
        _shares(self, "dropout", "missing", "floor")
        positive(self, "rate", "clip")
        if any(not isinstance(lag, int) or lag < 1 for lag in self.lags) or len(set(self.lags)) != len(self.lags):
            raise UserError(f"lags must be different whole numbers of at least 1 step, got {list(self.lags)}")

    def __call__(self, case: Case, prior: Any, seed: int, *, progress: Progress = None) -> Estimate:
        """Forecast with paths; ``info`` has the steps trained and the loss of the held-back weeks."""
        from unstir_timeseries import deepar

        training, context, horizon = examples.training_of(case), int(case.context["context"]), int(case.context["horizon"])
        examples.check_covariates(training, case.measurement)
        shape = deepar.Shape.of(self, training, context, horizon)
        facts = {**asdict(self), "samples": 0, "version": VERSION, "context": context, "horizon": horizon, "seed": seed}
        name = f"deepar-{fits.fingerprint(training, facts)}"
        fit = fits.recall(name, lambda: deepar.fit(training, shape, self, seed, progress))
        rows = examples.asked(case, context, self.floor)
        made = deepar.paths(rows, case.measurement, shape, self, fit, self.samples, seed)
        best = fit["loss"][np.argmin(fit["loss"][:, 1])]
        info = {"steps": int(fit["loss"][-1, 0]), "kept": int(best[0]), "held_back_loss": float(best[1]), "lags": list(shape.lags)}
        return Estimate(forecast(horizon_of(case.measurement), samples=made), info=info)


@dataclass(frozen=True)
class QuantileGBM:
    """Gradient-boosted trees for every level and step ahead; the levels are sorted, so that they do not cross.

    Direct: a tree sees the context, the step ahead and the calendar of the step asked for. No paths, so no joint law of the steps. The mean
    is that of the piecewise linear quantile function, flat beyond its ends.

    Args:
        rows: training examples, each a random window and step ahead.
        trees: of each level.
        rate: learning rate.
        leaves: most leaves of a tree.
        least: fewest examples in a leaf.
        columns: share of the features that a split may choose from, in (0, 1].
        missing: share of training windows of which a part is hidden.
        floor: smallest scale of a context, as a share of the series' mean |y|.
        aligned: are windows of training at the same place of the cycle as the origin? A run whose origins are not whole cycles apart then
            fits once for each place.

    Raises:
        UserError: an option out of range.

    Reference: direct quantile boosting as in Makridakis et al. 2022 (M5), Int. J. Forecasting 38; scikit-learn's histogram trees.
    """

    rows: int = 40_000
    trees: int = 200
    rate: float = 0.1
    leaves: int = 31
    least: int = 60
    columns: float = 0.3
    missing: float = 0.1
    floor: float = 0.1
    aligned: bool = True

    needs: ClassVar[tuple[str, ...]] = ()
    uses_prior: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _whole(self, "rows", "trees", "leaves", "least")
        _shares(self, "missing", "floor")
        positive(self, "rate")
        if self.leaves < 2 or not 0 < self.columns <= 1:
            raise UserError(f"leaves must be at least 2 and columns a share in (0, 1], got {self.leaves} and {self.columns}")

    def __call__(self, case: Case, prior: Any, seed: int, *, progress: Progress = None) -> Estimate:
        """Forecast quantiles."""
        training, context, horizon = examples.training_of(case), int(case.context["context"]), int(case.context["horizon"])
        cycle = examples.cycle_of(training.attrs)
        step = cycle if self.aligned else 1
        phase = _since(training, case.measurement, horizon) % step
        facts = {**asdict(self), "version": VERSION, "context": context, "horizon": horizon, "seed": seed, "phase": phase}
        name = f"gbm-{fits.fingerprint(training, facts)}"
        fit = fits.recall(name, lambda: gbm.fit(training, context, horizon, self, seed, step=step, phase=phase, progress=progress))
        quantiles = np.sort(self._predict(fit, case, context, horizon, cycle), 1)
        return Estimate(forecast(horizon_of(case.measurement), quantiles=quantiles, mean=_mean(quantiles)))

    def _predict(self, fit: fits.Fit, case: Case, context: int, horizon: int, cycle: int) -> NDArray[np.float64]:
        """(items, levels, H) as the trees have them."""
        rows, training = examples.asked(case, context, self.floor), examples.training_of(case)
        examples.check_covariates(training, case.measurement)
        usual = dict(zip(training["item"].values, usual_size(training["y"].values), strict=True))
        items, ahead = len(rows.x), np.tile(np.arange(1, horizon + 1), len(rows.x))
        each = replace(rows, item=np.repeat(rows.item, horizon), end=np.repeat(rows.end, horizon))
        size = np.asarray([usual.get(name, np.nan) for name in case.measurement["item"].values])
        told = gbm.told(case.measurement, each, ahead, size)
        made = gbm.walk(fit, gbm.features(np.repeat(rows.x, horizon, 0), ahead, cycle, told))
        return made.reshape(len(LEVELS), items, horizon).transpose(1, 0, 2) * rows.scale[:, None, None]


def _since(training: xr.Dataset, measurement: xr.Dataset, horizon: int) -> int:
    """Steps from the first of the training panel to the origin, counted on the measurement's clock."""
    stamps, first = pd.DatetimeIndex(measurement["time"].values), training["time"].values[0]
    return len(stamps) - horizon - int(stamps.searchsorted(first))


def _mean(quantiles: NDArray[np.float64]) -> NDArray[np.float64]:
    """(items, H) mean of the piecewise linear quantile function (items, levels, H), flat beyond its ends."""
    levels = np.asarray(LEVELS)
    ends = quantiles[:, 0] * levels[0] + quantiles[:, -1] * (1 - levels[-1])
    return np.asarray(ends + np.trapezoid(quantiles, levels, axis=1))


def _whole(options: Any, *names: str) -> None:
    for name in names:
        if isinstance(value := getattr(options, name), bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"{name} must be a whole number of at least 1, got {value!r}")


def _shares(options: Any, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(options, name) < 1:
            raise UserError(f"{name} must be a share in [0, 1), got {getattr(options, name)!r}")
