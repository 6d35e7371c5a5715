"""Exponential smoothing, a model a series, fitted on the context.

    y_t = l_{t-1} + b_{t-1} + s_{t-m} + e_t,   l, b, s moved by alpha e_t, beta e_t, gamma e_t,   e_t ~ N(0, sd^2)
    y_{T+h} ~ N(mean_h, sd^2 (1 + sum_{j<h} c_j^2)),   exact for additive errors

`ETS` is statsmodels' with the heuristic start (the estimated start takes a hundred times longer and gains nothing on hourly load).
`StatsForecast` takes any model of that package, which does not allow pandas 3. Missing values are filled in (`past.filled`).
Reference: Hyndman, Koehler, Ord and Snyder, Forecasting with exponential smoothing, 2008, chapter 6.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from unstir.errors import MissingExtra, UserError
from unstir.plugin.options import one_of
from unstir.plugin.protocols import Case, Estimate, Progress
from unstir_timeseries.panel import LEVELS
from unstir_timeseries.past import Array, Past, check_season, filled

Trend = Literal["none", "additive", "damped"]


@dataclass(frozen=True)
class ETS:
    """Exponential smoothing with additive errors and season, exact Gaussian quantiles.

    Args:
        season: m, steps; the panel's when 0; 1 for none.
        trend: ``"none"``, ``"additive"`` or ``"damped"``.

    Raises:
        UserError: an option out of range.
    """

    season: int = 0
    trend: Trend = "none"

    needs: ClassVar[tuple[str, ...]] = ()
    uses_prior: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_season(self.season)
        one_of(self, trend=Trend)

    def __call__(self, case: Case, prior: Any, seed: int, *, progress: Progress = None) -> Estimate:
        """Quantiles of every series.

        Raises:
            MissingExtra: statsmodels is not installed.
        """
        from scipy.special import ndtri

        past = Past.of(case, self.season)
        mean, sd = np.zeros((len(past.y), past.horizon)), np.zeros((len(past.y), past.horizon))
        constant, stuck = np.zeros((2, len(past.y)), dtype=bool)
        for row, y in enumerate(complete(past)):
            if progress is not None:
                progress(row, len(past.y))
            size, level = np.abs(y).mean(), float(y[-1])
            if np.ptp(y) <= 1e-12 * size or len(y) < 4:
                mean[row], constant[row] = level, True
            else:
                mean[row], sd[row], stuck[row] = self._law(y / size, past)
                mean[row], sd[row] = mean[row] * size, sd[row] * size
        past.say("constant or shorter than 4 steps, the last value is held without spread", constant)
        past.say("the fit did not converge; the law is that of its last step", stuck)
        return past.estimate(mean[:, None] + sd[:, None] * ndtri(LEVELS)[:, None], mean)

    def _law(self, y: Array, past: Past) -> tuple[Array, Array, bool]:
        """Mean and standard deviation of the horizon of one scaled series, and whether its fit failed to converge."""
        try:
            import pandas as pd
            from statsmodels.tsa.exponential_smoothing.ets import ETSModel
        except ImportError as error:
            raise MissingExtra("timeseries/ets needs statsmodels: pip install 'unstir[timeseries]'") from error
        seasonal = past.season > 1 and len(y) >= 2 * past.season + 4
        options: dict[str, Any] = {"seasonal": "add", "seasonal_periods": past.season} if seasonal else {}
        if self.trend != "none":
            options |= {"trend": "add", "damped_trend": self.trend == "damped"}
        start = "heuristic" if len(y) >= 10 else "estimated"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = ETSModel(pd.Series(y), error="add", initialization_method=start, **options).fit(disp=False)
            law = fit.get_prediction(start=len(y), end=len(y) + past.horizon - 1, method="exact")
        variance = np.asarray(law.forecast_variance, dtype=np.float64)
        return np.asarray(law.predicted_mean, dtype=np.float64), np.sqrt(variance), not fit.mle_retvals["converged"]


@dataclass(frozen=True)
class StatsForecast:
    """A model of the package statsforecast, with its own intervals.

    Args:
        model: name of a class of ``statsforecast.models`` that takes ``season_length``: ``"AutoETS"``, ``"AutoARIMA"``, ``"AutoTheta"``,
            ``"MSTL"``, ``"SeasonalNaive"``.
        season: m, steps; the panel's when 0.

    Raises:
        UserError: the season is negative.
    """

    model: str = "AutoETS"
    season: int = 0

    needs: ClassVar[tuple[str, ...]] = ()
    uses_prior: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_season(self.season)

    def __call__(self, case: Case, prior: Any, seed: int, *, progress: Progress = None) -> Estimate:
        """Quantiles of every series.

        Raises:
            MissingExtra: statsforecast is not installed.
            UserError: it has no such model.
        """
        try:
            from statsforecast import models
        except ImportError as error:
            raise MissingExtra(
                "timeseries/statsforecast needs statsforecast, which is not installed with pandas 3 or later: "
                "pip install 'unstir[statsforecast]' 'pandas<3' in an environment of its own"
            ) from error
        if not isinstance(kind := getattr(models, self.model, None), type):
            raise UserError(f"statsforecast has no model {self.model!r}; AutoETS, AutoARIMA, AutoTheta and MSTL are some")
        past = Past.of(case, self.season)
        widths = sorted({round(abs(200 * level - 100)) for level in LEVELS} - {0})
        mean = np.zeros((len(past.y), past.horizon))
        quantiles = np.zeros((len(past.y), len(LEVELS), past.horizon))
        for row, y in enumerate(complete(past)):
            if progress is not None:
                progress(row, len(past.y))
            law = kind(season_length=past.season).forecast(y=y, h=past.horizon, level=widths)
            mean[row] = law["mean"]
            for number, level in enumerate(LEVELS):
                width = round(abs(200 * level - 100))
                quantiles[row, number] = law[f"{'lo' if level < 0.5 else 'hi'}-{width}"] if width else mean[row]
        return past.estimate(quantiles, mean)


def complete(past: Past) -> Array:
    """(items, C) contexts without holes; said where there were any.

    A context without any observed value is the last value observed before it, one never observed 0.
    """
    window = past.window
    past.say("missing values of the context are filled in", ~np.isfinite(window).all(1) & np.isfinite(window).any(1))
    if (empty := ~np.isfinite(window).any(1)).any():
        before = filled(past.y[empty])[:, -1:]
        past.say("nothing observed in the context, the last value before it is held", empty & np.isfinite(past.y).any(1))
        window = window.copy()
        window[empty] = np.nan_to_num(before)
    return filled(window, past.season)
