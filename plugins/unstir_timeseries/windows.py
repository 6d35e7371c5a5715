"""Windows of a panel as states of a denoiser, and back: scaled by the context, lags and calendar beside.

    state_0 = (y/s - m)/d,   s = max(mean |y| of the observed context, share x mean |y| of the series),   state_j: state_0 shifted by lag j

A window has C steps of context and H of horizon. Entries that were not observed are 0 in the state and in its mask.
Reference: Kollovieh et al. 2023 (TSDiff), arXiv:2307.11494; Salinas et al. 2020 (mean scaling), arXiv:1704.04110.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import pandas as pd
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from unstir.errors import CheckpointError, DataError, UserError
from unstir_timeseries.past import last_cycle

Scaling = Literal["mean", "median", "std", "last", "none"]
TINY = 1e-10
HARMONICS = {"hour": (24.0, 3), "weekday": (7.0, 3), "year": (365.25, 3)}
"""Period (in hours, days, days) and number of harmonics of each part of the calendar."""


@dataclass(frozen=True)
class Encoded:
    """Windows as a denoiser takes them; one row a window.

    Attributes:
        values: (rows, channels, L) states, 0 where nothing was observed.
        mask: (rows, channels, L), 1 where observed.
        scale: (rows, series) s, in units of ``y``.
        shift: (rows, series) what was taken away before scaling (``std`` and ``last``), else 0.
        features: (rows, features, L) known covariates, or ``None``.
    """

    values: Tensor
    mask: Tensor
    scale: NDArray[np.float64]
    shift: NDArray[np.float64]
    features: Tensor | None

    def condition(self, repeats: int = 1, *, told: bool = False) -> dict[str, Tensor]:
        """The condition of a denoiser, each row ``repeats`` times; ``told`` adds what a conditional network is told."""
        made: dict[str, Tensor] = {}
        if self.features is not None:
            made["features"] = self.features.repeat_interleave(repeats, 0)
        if told:
            made["told"] = torch.cat((self.values, self.mask), 1).repeat_interleave(repeats, 0)
        return made


@dataclass(frozen=True)
class Windows:
    """How windows become states.

    Args:
        context: C, steps before the forecast.
        horizon: H, steps of the forecast.
        lags: shifts in steps, a channel each.
        calendar: parts of the calendar given as features, of `HARMONICS`.
        covariates: how many known covariates of the panel are given as features.
        scaling: ``"mean"`` (of absolute values), ``"median"`` (of absolute values), ``"std"`` (mean and standard deviation),
            ``"last"`` (the last value, and the root mean square of steps: for walks without a level) or ``"none"``.
        floor: smallest scale of ``"mean"`` and ``"median"``, as a share of the series' own mean |y|.
        mean: m, mean of the scaled values.
        std: d, their standard deviation.
        series: 1; or how many series a state holds, one a channel (multivariate; no lags then).

    Raises:
        UserError: an option out of range.
    """

    context: int = 336
    horizon: int = 24
    lags: tuple[int, ...] = ()
    calendar: tuple[str, ...] = ("hour", "weekday", "year")
    covariates: int = 0
    scaling: Scaling = "mean"
    floor: float = 0.1
    mean: float = 0.0
    std: float = 1.0
    series: int = 1

    KEYS: ClassVar[tuple[str, ...]] = (
        "context", "horizon", "lags", "calendar", "covariates", "scaling", "floor", "mean", "std", "series",
    )  # fmt: skip

    def __post_init__(self) -> None:
        if self.context < 1 or self.horizon < 1:
            raise UserError(f"a window has a context and a horizon of at least 1 step, got {self.context} and {self.horizon}")
        if any(lag < 1 for lag in self.lags) or len(set(self.lags)) != len(self.lags):
            raise UserError(f"lags are different whole numbers of at least 1 step, got {self.lags}")
        if unknown := [part for part in self.calendar if part not in HARMONICS]:
            raise UserError(f"the calendar has no part {unknown[0]!r}; it has {', '.join(HARMONICS)}")
        if self.scaling not in get_args(Scaling):
            raise UserError(f"scaling is one of {', '.join(get_args(Scaling))}, got {self.scaling!r}")
        if not 0 <= self.floor < 1 or not self.std > 0:
            raise UserError(f"a scale's floor is a share in [0, 1) and the standard deviation positive, got {self.floor} and {self.std}")
        if self.series > 1 and self.lags:
            raise UserError("a multivariate window has its series as channels, and no lags")

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> Windows:
        """As a checkpoint's facts say.

        Raises:
            CheckpointError: they say nothing of windows.
        """
        given = facts.get("windows")
        if not isinstance(given, Mapping) or not set(cls.KEYS) >= set(given):
            raise CheckpointError("this checkpoint says nothing of windows of a series: it is not one of this domain")
        options: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
        return cls(**options)

    def facts(self) -> dict[str, Any]:
        """What a checkpoint keeps, JSON-able."""
        return {key: list(value) if isinstance(value := getattr(self, key), tuple) else value for key in self.KEYS}

    @property
    def length(self) -> int:
        """L = C + H."""
        return self.context + self.horizon

    @property
    def reach(self) -> int:
        """Steps before the window that the lags look back."""
        return max(self.lags, default=0)

    @property
    def channels(self) -> int:
        """Of a state: series, or one and its lags."""
        return self.series if self.series > 1 else 1 + len(self.lags)

    @property
    def features(self) -> int:
        """How many features a step has."""
        return sum(2 * HARMONICS[part][1] for part in self.calendar) + self.covariates

    def encode(self, panel: xr.Dataset, ends: NDArray[np.int64] | int | None = None) -> Encoded:
        """The windows of a panel that end at given steps, for every item: rows are items within ends.

        Args:
            panel: dims (item, time); NaN where nothing was observed.
            ends: one or more steps (exclusive) where windows end; the end of the panel when absent.

        Returns:
            The windows; what lies before the panel's first step was not observed.

        Raises:
            DataError: a window reaches beyond the panel, or its covariates are missing.
        """
        at = np.atleast_1d(np.asarray(panel.sizes["time"] if ends is None else ends, dtype=np.int64))
        items = 1 if self.series > 1 else panel.sizes["item"]
        return self.take(panel, np.tile(np.arange(items), len(at)), np.repeat(at, items))

    def take(self, panel: xr.Dataset, items: NDArray[np.int64], ends: NDArray[np.int64], *, known: Known | None = None) -> Encoded:
        """Windows of chosen items that end at chosen steps.

        Args:
            panel: dims (item, time); NaN where nothing was observed.
            items: (rows,) numbers of items; any number where a state holds all series.
            ends: (rows,) steps (exclusive) where they end.
            known: what every window of the panel shares, made once with `Known.of` for many calls.

        Returns:
            The windows, a row each.

        Raises:
            DataError: a window ends beyond the panel, its covariates are missing, or the panel has another number of series.
        """
        y, known = panel["y"].values, known or Known.of(panel, self)
        if ends.size and (ends.max() > y.shape[1] or ends.min() < 1):
            raise DataError(f"a window would end at step {int(ends.max())} of a panel of {y.shape[1]} steps")
        index = ends[:, None] - self.length + np.arange(self.length)  # (rows, L)
        if self.series > 1:
            if len(y) != self.series:
                raise DataError(f"this checkpoint forecasts {self.series} series together, and the panel has {len(y)}")
            raw, usual = _at(y, slice(None), index).transpose(1, 0, 2), np.broadcast_to(known.usual, (len(index), self.series))
        else:
            raw, usual = np.stack([_at(y, items, index - lag) for lag in (0, *self.lags)], 1), known.usual[items][:, None]
        shift, scale = self.scales(raw[:, : self.series, : self.context], usual)
        values = ((raw - shift[..., None]) / scale[..., None] - self.mean) / self.std
        seen = np.isfinite(values)
        made = torch.from_numpy(np.where(seen, values, 0.0).astype(np.float32)), torch.from_numpy(seen.astype(np.float32))
        return Encoded(*made, scale, shift, self._features(panel, items, index, known))

    def decode(self, state: Tensor, encoded: Encoded) -> NDArray[np.float64]:
        """Values of the series in its own units from states.

        Args:
            state: (rows k, channels, L), each window k times in a row.
            encoded: the windows.

        Returns:
            (rows, k, L); (rows series, k, L) for multivariate windows.
        """
        rows, series = encoded.scale.shape
        scaled = state[:, :series].double().numpy() * self.std + self.mean
        scaled = scaled.reshape(rows, -1, series, self.length).transpose(0, 2, 1, 3)
        return (scaled * encoded.scale[..., None, None] + encoded.shift[..., None, None]).reshape(rows * series, -1, self.length)

    def scales(self, context: NDArray[Any], usual: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Shift and scale of contexts (rows, series, C); ``usual`` is (rows, series), the mean |y| of each series."""
        if self.scaling == "none":
            return np.zeros(context.shape[:-1]), np.ones(context.shape[:-1])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # windows without an observation
            shift, found = (np.nan_to_num(part) for part in self._scales(context))
        floor = self.floor * usual if self.scaling in ("mean", "median") else np.zeros_like(usual)
        fleet = usual[usual > 0].mean() if (usual > 0).any() else 1.0
        if (lost := (found <= TINY * np.maximum(usual, fleet)) & (usual <= 0)).any():
            warnings.warn(
                f"{int(lost.sum())} of the windows are all zero or empty: they are scaled by the other series' mean", stacklevel=3
            )
        return shift, np.where(lost, fleet, np.maximum(found, np.maximum(floor, TINY * fleet)))

    def _scales(self, context: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Shift and scale as the rule has them, NaN where nothing was observed."""
        none = np.zeros(context.shape[:-1])
        if self.scaling == "std":
            return np.nanmean(context, -1), np.nanstd(context, -1)
        if self.scaling == "last":
            last = last_cycle(context.reshape(-1, context.shape[-1]), 1)[0]
            return last.reshape(none.shape), np.sqrt(np.nanmean(np.diff(context, axis=-1) ** 2, -1))
        size = np.abs(context)
        return none, np.nanmean(size, -1) if self.scaling == "mean" else np.nanmedian(size, -1)

    def _features(self, panel: xr.Dataset, items: NDArray[np.int64], index: NDArray[np.int64], known: Known) -> Tensor | None:
        """Features of the steps ``index`` (rows, L) of the items; steps before the panel follow its clock."""
        if not self.features:
            return None
        made = [known.clock[:, np.clip(index + known.before, 0, None)]]
        if self.covariates:
            if "known" not in panel or panel.sizes["covariate"] != self.covariates:
                have = panel.sizes["covariate"] if "known" in panel else 0
                raise DataError(f"this checkpoint was trained with {self.covariates} known covariates, and the panel has {have}")
            item = np.zeros_like(items) if self.series > 1 else items
            made.append(panel["known"].values[:, item[:, None], np.clip(index, 0, None)])
            if not np.isfinite(made[-1]).all():
                raise DataError("a known covariate has missing values in a window: fill them, also over the horizon")
        return torch.from_numpy(np.concatenate(made).transpose(1, 0, 2).astype(np.float32))


@dataclass(frozen=True)
class Known:
    """What every window of a panel shares.

    Attributes:
        usual: (items,) mean |y| of the observed values.
        clock: (features, before + steps) calendar, from ``before`` steps before the panel on.
        before: see ``clock``.
    """

    usual: NDArray[np.float64]
    clock: NDArray[np.float32]
    before: int

    @classmethod
    def of(cls, panel: xr.Dataset, windows: Windows) -> Known:
        """Made once a panel."""
        before = windows.length
        return cls(usual_size(panel["y"].values), clock(panel, -before, panel.sizes["time"], windows.calendar), before)


def _at(y: NDArray[Any], items: Any, index: NDArray[np.int64]) -> NDArray[np.float64]:
    """Values at steps (rows, L) of one item a row (or of all, (items, rows, L)); NaN before the first step."""
    found = y[:, np.clip(index, 0, None)] if isinstance(items, slice) else y[items[:, None], np.clip(index, 0, None)]
    return np.where(index < 0, np.nan, found)


def usual_size(y: NDArray[Any]) -> NDArray[np.float64]:
    """Mean |y| of the observed values of each series (items, steps); 0 where there are none."""
    seen = np.isfinite(y)
    return np.where(seen, np.abs(np.where(seen, y, 0.0)), 0.0).sum(1) / np.maximum(seen.sum(1), 1)


def clock(panel: xr.Dataset, first: int, end: int, parts: tuple[str, ...]) -> NDArray[np.float32]:
    """Harmonics of the calendar of steps ``first`` to ``end`` of a panel (its steps from 0), zero where its clock is unknown.

    cos and sin of 2 pi k u,   u the hour of the day, the day of the week and the day of the year as parts of their periods

    Args:
        panel: with ``time`` and attrs ``freq`` and ``calendar``.
        first: may be negative, before the panel.
        end: may lie beyond it.
        parts: of `HARMONICS`.

    Returns:
        (features, end - first).
    """
    count = sum(2 * HARMONICS[part][1] for part in parts)
    if not parts or panel.attrs.get("calendar", "known") != "known":
        return np.zeros((count, end - first), dtype=np.float32)
    stamps = pd.DatetimeIndex(panel["time"].values)
    step = pd.tseries.frequencies.to_offset(str(panel.attrs["freq"]))
    if first < 0:
        stamps = pd.date_range(end=stamps[0], periods=1 - first, freq=step)[:-1].append(stamps)
    if (missing := end - min(first, 0) - len(stamps)) > 0:
        stamps = stamps.append(pd.date_range(start=stamps[-1], periods=missing + 1, freq=step)[1:])
    stamps = stamps[: end - min(first, 0)][max(first, 0) :]
    hour = stamps.hour + stamps.minute / 60 + stamps.second / 3600
    place = {"hour": hour, "weekday": stamps.day_of_week + hour / 24, "year": stamps.day_of_year - 1 + hour / 24}
    made = []
    for part in parts:
        period, harmonics = HARMONICS[part]
        angle = 2 * np.pi * np.asarray(place[part], dtype=np.float64) / period
        made += [wave(k * angle) for k in range(1, harmonics + 1) for wave in (np.cos, np.sin)]
    return np.stack(made).astype(np.float32)
