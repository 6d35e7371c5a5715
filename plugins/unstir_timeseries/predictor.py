"""Forecasting from Python in the words of the field: fit, predict, sample forecasts, tidy frames.

>>> from unstir_timeseries.predictor import forecast
>>> table = forecast(frame, horizon=24, levels=(10, 50, 90))            # unique_id, ds, mean, q0.1, q0.5, q0.9

>>> predictor = TSDiffPredictor(horizon=24, context=168).fit(frame)
>>> for found in predictor.predict(frame, num_samples=100): found.quantile(0.9), found.to_frame(level=[80])
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

import unstir
from unstir.errors import DataError, UserError
from unstir.plugin.protocols import Case
from unstir_timeseries.frames import forecast_frame, to_panels
from unstir_timeseries.panel import forecast as estimate_of
from unstir_timeseries.panel import sample_quantiles
from unstir_timeseries.predict import TSDiff
from unstir_timeseries.training import TSDiffTraining

LOAD = "timeseries/gefcom"
"""The checkpoint that ships: hourly load."""
TOKENS = (8, 6, 4, 3, 2, 1)
"""Steps a token of a network that is fitted, the first that divides the window."""


@dataclass(frozen=True)
class SampleForecast:
    """Sample paths of the future of one series.

    Args:
        samples: (samples, horizon), in the series' own units.
        index: (horizon,) stamps.
        item_id: name of the series.
        info: how it was made.
    """

    samples: NDArray[np.float64]
    index: pd.DatetimeIndex
    item_id: str
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def mean(self) -> NDArray[np.float64]:
        """(horizon,) mean of the paths."""
        return self.samples.mean(0)

    @property
    def median(self) -> NDArray[np.float64]:
        """(horizon,) quantile 0.5."""
        return self.quantile(0.5)

    @property
    def num_samples(self) -> int:
        """How many paths."""
        return len(self.samples)

    @property
    def prediction_length(self) -> int:
        """How many steps."""
        return self.samples.shape[1]

    @property
    def start_date(self) -> pd.Timestamp:
        """The first stamp."""
        return self.index[0]

    def quantile(self, q: float | str) -> NDArray[np.float64]:
        """(horizon,) a quantile of the paths, as GluonTS takes it: sorted path number round((S-1) q).

        Args:
            q: level in [0, 1].

        Raises:
            UserError: it is no level.
        """
        level = float(q)
        if not 0 <= level <= 1:
            raise UserError(f"a quantile has a level between 0 and 1, got {q}")
        return sample_quantiles(self.samples, [level], axis=0)[0]

    def to_frame(self, level: Sequence[float] = (80, 90)) -> pd.DataFrame:
        """A tidy frame with central intervals.

        Args:
            level: coverage of the intervals in percent.

        Returns:
            Columns unique_id, ds, mean, median, and lo-L and hi-L for each.

        Raises:
            UserError: a coverage outside (0, 100).
        """
        made: dict[str, Any] = {"unique_id": self.item_id, "ds": self.index, "mean": self.mean, "median": self.median}
        for percent in level:
            if not 0 < percent < 100:
                raise UserError(f"an interval covers between 0 and 100 percent, got {percent}")
            for name, q in (("lo", 0.5 - percent / 200), ("hi", 0.5 + percent / 200)):
                made[f"{name}-{percent:g}"] = self.quantile(q)
        return pd.DataFrame(made)


@dataclass
class TSDiffPredictor:
    """TSDiff on a user's own series.

    Args:
        horizon: H, steps to forecast.
        context: C, steps of context; two weeks of hours by default.
        model: a checkpoint (registered name or folder) where it is not to be fitted.
        method: guide, solver, grid; the recipe's own where absent.
        training: every other option of the training, in place of its defaults; see :class:`TSDiffTraining`.
        seed: of training and paths.
    """

    horizon: int = 24
    context: int = 336
    model: str | Path = ""
    method: TSDiff = field(default_factory=TSDiff)
    training: dict[str, Any] = field(default_factory=dict)
    seed: int = 0

    def fit(
        self, data: Any, folder: str | Path = "", *, progress: Callable[[int, int], None] | None = None, resume: bool = False
    ) -> TSDiffPredictor:
        """Train on a frame (or whatever :func:`to_panels` reads); minutes on a CPU.

        Args:
            data: series of one step.
            folder: where the checkpoint goes; a temporary folder when empty.
            progress: told of steps.
            resume: go on from a training that was cut?

        Returns:
            The predictor, with ``model`` set to the checkpoint's folder.

        Raises:
            DataError: the series are too short, or of several steps.
        """
        panel = one_panel(data)
        window = self.context + self.horizon
        patch = next(count for count in TOKENS if window % count == 0 and window // count >= 8 or count == 1)
        fitted: dict[str, Any] = {
            "end": "", "held_out": (), "context": self.context, "horizon": self.horizon, "steps": 3000, "decay": 1500, "every": 500,
            "width": 64, "blocks": 3, "patch": patch,
            "covariates": panel.sizes.get("covariate", 0), "aligned": 0.0, "seed": self.seed,
        }  # fmt: skip
        target = Path(folder) if str(folder) else Path(tempfile.mkdtemp(prefix="unstir-tsdiff-"))
        TSDiffTraining(**(fitted | self.training)).fit(panel, target, progress=progress, resume=resume)
        return replace(self, model=target)

    def predict(
        self, dataset: Any, num_samples: int = 100, *, progress: Callable[[int, int], None] | None = None
    ) -> Iterator[SampleForecast]:
        """Forecast the steps after the last observed one.

        Args:
            dataset: what :func:`to_panels` reads; missing values in it are no obstacle.
            num_samples: paths a series.
            progress: told of steps.

        Returns:
            A :class:`SampleForecast` a series.

        Raises:
            UserError: there is no model yet.
            DataError: the data do not fit it.
        """
        if not str(self.model):
            raise UserError("this predictor has no model yet: fit it, or name one, as TSDiffPredictor(model='timeseries/gefcom')")
        prior, method = unstir.load(self.model), replace(self.method, samples=num_samples)
        for panel in to_panels(dataset):
            case = ahead(panel, self.horizon, self.context)
            found = method(case, prior, self.seed, progress=progress)
            index = pd.DatetimeIndex(found.data["time"].values)
            for name, paths in zip(found.data["item"].values, found.data["samples"].values.astype(np.float64), strict=True):
                yield SampleForecast(paths, index, str(name), found.info)


def forecast(
    data: Any, horizon: int = 24, levels: Sequence[float] = (10, 50, 90), *, model: str | Path = "", paths: int = 0,
    num_samples: int = 100, seed: int = 0, progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Forecast a frame.

    Args:
        data: a long or wide frame, or whatever :func:`to_panels` reads.
        horizon: steps.
        levels: quantiles in percent.
        model: a checkpoint; when empty, the one of hourly load for hourly series (said), and a model fitted here for the rest (minutes).
        paths: how many sample paths to give beside the quantiles, columns ``path-1``...
        num_samples: paths drawn a series.
        seed: of the draws.
        progress: told of steps.

    Returns:
        unique_id, ds, mean, ``q0.1``... and the paths, a row a series and step.

    Raises:
        UserError: a level outside (0, 100), or a horizon below 1.
        DataError: the data are no series that can be forecast.
    """
    checked(horizon, levels)
    made = []
    for panel in to_panels(data):
        predictor = TSDiffPredictor(horizon, model=model or (LOAD if panel.attrs["freq"] == "h" else ""), seed=seed)
        if not str(predictor.model):
            predictor = replace(predictor, context=context_for(panel, horizon)).fit(panel, progress=progress)
        elif not model:
            warnings.warn(f"forecast by {LOAD}, a model of hourly load; TSDiffPredictor(...).fit(data) makes one of your own", stacklevel=2)
        found = list(predictor.predict(panel, num_samples, progress=progress))
        whole = np.stack([item.samples for item in found])
        answer = ahead(panel, horizon).measurement.isel(time=slice(-horizon, None))
        table = forecast_frame(estimate_of(answer, samples=whole), [level / 100 for level in levels], like=panel)
        for number in range(min(paths, num_samples)):
            table[f"path-{number + 1}"] = whole[:, number].reshape(-1)
        made.append(table)
    return pd.concat(made, ignore_index=True)


def checked(horizon: int, levels: Sequence[float]) -> None:
    """Refuse a horizon or levels that cannot be.

    Args:
        horizon: steps.
        levels: in percent.

    Raises:
        UserError: a horizon below 1, no level, or one outside (0, 100).
    """
    if isinstance(horizon, bool) or not isinstance(horizon, int) or horizon < 1:
        raise UserError(f"the horizon is a whole number of steps, at least 1, got {horizon!r}")
    for level in levels or (None,):
        if level is None or not 0 < level < 100:
            raise UserError(f"levels are percentages between 0 and 100, as 10,50,90; got {level}")


def one_panel(data: Any) -> xr.Dataset:
    """The panel of data of one step.

    Args:
        data: what :func:`to_panels` reads.

    Raises:
        DataError: the data hold series of several steps.
    """
    panels = to_panels(data)
    if len(panels) != 1:
        raise DataError(f"the data hold series of several steps ({', '.join(str(p.attrs['freq']) for p in panels)}): fit each by itself")
    return panels[0]


def context_for(panel: xr.Dataset, horizon: int) -> int:
    """Steps of context for a model that is fitted: a few seasons and horizons, as many as the series leave room for."""
    longest = int(np.isfinite(panel["y"].values).sum(1).max(initial=0))
    wanted = max(4 * horizon, 4 * int(panel.attrs["season"]), 48)
    return max(min(wanted, (longest - horizon) // 3), horizon, 2)


def ahead(panel: xr.Dataset, horizon: int, context: int = 0) -> Case:
    """The case of the steps after the last observed one of a panel.

    Args:
        panel: may go on after its last observed step, with covariates known there.
        horizon: H.
        context: C, for methods that ask.

    Returns:
        A case without truth; its measurement ends ``horizon`` steps after the last observed one.

    Raises:
        DataError: nothing was observed, or known covariates do not reach over the horizon.
    """
    seen = np.isfinite(panel["y"].values)
    if not seen.any():
        raise DataError(f"{panel.attrs.get('key', 'the panel')} has no observed value: there is nothing to forecast from")
    last = int(np.flatnonzero(seen.any(0))[-1]) + 1
    late = last - (seen.shape[1] - np.argmax(seen[:, ::-1], 1))
    if (short := seen.any(1) & (late > 0)).any():
        name, steps = str(panel["item"].values[int(late.argmax())]), int(late.max())
        warnings.warn(
            f"{int(short.sum())} series end before the others ({name} by {steps} steps): what lies between is forecast too", stacklevel=2
        )
    history = panel.isel(time=slice(0, last))
    step = pd.tseries.frequencies.to_offset(str(panel.attrs["freq"]))
    stamps = pd.date_range(pd.Timestamp(history["time"].values[-1]), periods=horizon + 1, freq=step)[1:]
    whole = history.reindex(time=np.concatenate([history["time"].values, stamps.values.astype("datetime64[ns]")]))
    if "known" in panel:
        whole = whole.assign(known=panel["known"].reindex(time=whole["time"]))
        if not np.isfinite(whole["known"].values[..., last:]).all():
            raise DataError(
                f"the known covariates end before the {horizon} steps of the horizon do: give their values there, with y left empty"
            )
    if "category" in panel:
        whole = whole.assign(category=panel["category"])
    whole = whole.assign_attrs(panel.attrs | {"horizon": horizon})
    key = "".join(c if c.isalnum() or c in "-_." else "-" for c in str(panel.attrs.get("key", "panel")).lower()).strip("-._") or "panel"
    facts = {"season": int(panel.attrs["season"]), "freq": panel.attrs["freq"], "horizon": horizon, "training": history}
    return Case(key, None, whole, {**facts, "context": context or last, "origin": str(stamps[0]), "device": "cpu"})
