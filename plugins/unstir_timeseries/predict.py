"""TSDiff on a panel: forecasts and imputations by one model of windows, guided by what was observed or told of it.

    y_missing ~ p(window | y_observed):   guides of :mod:`unstir_timeseries.guidance` on an unconditional model,
    or the network told what was observed (``guide: told``, TSDiff-Cond and CSDI's way)

Any pattern of missing values is one call; any solver and grid of the core will do.
Reference: Kollovieh et al. 2023 (TSDiff), arXiv:2307.11494; Tashiro et al. 2021 (CSDI), arXiv:2107.03502.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

import unstir
from unstir import names
from unstir.denoiser import Denoiser
from unstir.errors import CheckpointError, DataError, UserError
from unstir.guide import KnownCovariance
from unstir.plugin.options import at_least, one_of
from unstir.plugin.protocols import Case, Estimate, Progress
from unstir_timeseries.guidance import ObservationGuidance
from unstir_timeseries.panel import forecast
from unstir_timeseries.windows import Encoded, Windows

MOST = 8000
"""Past windows that a covariance is made of, at most."""
Guidance = Literal["quantile", "mse", "pigdm", "covariance", "past", "told", "both"]


@dataclass(frozen=True)
class TSDiff:
    """Draw paths of the values that were not observed: the horizon of a forecast, the gaps of an imputation.

    Args:
        guide: ``"past"`` (covariance of the past windows of the panel: no derivative, the default), ``"quantile"``, ``"mse"``, ``"pigdm"``,
            ``"covariance"`` (the model's own, by its derivative), ``"told"`` for a network that is told what was observed, or ``"both"``:
            half of the paths by ``"past"`` and half by ``"told"``, a pool of two forecasts that err differently.
        scale: of ``"quantile"`` and ``"mse"``.
        std: of ``"pigdm"``, standard deviation of the data in units of the state.
        noise: of ``"pigdm"``, ``"covariance"`` and ``"past"``, standard deviation of the observations in units of the state.
        iterations: of ``"covariance"``.
        solver: a solver of the core.
        grid: a grid of the core.
        samples: paths a series.
        spread: factor on the paths' distances from their median, chosen on held-out windows: a model of few years is too sure.
        positive: are paths held at or above 0? Refused where the history has negative values.
        batch: paths worked on at a time.

    Raises:
        UserError: an option out of range.
    """

    guide: Guidance = "past"
    scale: float = 4.0
    std: float = 1.0
    noise: float = 0.1
    iterations: int = 10
    solver: str = "logistic3"
    grid: str = "logistic:10"
    samples: int = 100
    spread: float = 1.0
    positive: bool = False
    batch: int = 256

    needs: ClassVar[tuple[str, ...]] = ()
    uses_prior: ClassVar[bool] = True

    def __post_init__(self) -> None:
        one_of(self, guide=Guidance)
        if not 0 < self.spread < float("inf"):
            raise UserError(f"spread is a positive factor, got {self.spread}")
        at_least(self, samples=1, batch=1)
        names.solver(self.solver)
        names.grid(self.grid)
        self.guidance  # noqa: B018 (its own checks)

    @property
    def guidance(self) -> ObservationGuidance | None:
        """The options of a guide that differentiates; ``None`` for the others."""
        if self.guide == "told" or self.guide == "past" or self.guide == "both":
            return None
        scale = self.scale if self.guide in ("quantile", "mse") else float(self.scale > 0)
        return ObservationGuidance(self.guide, scale=scale, std=self.std, noise=self.noise, iterations=self.iterations)

    def check_prior(self, prior: Any) -> None:
        """Refuse a checkpoint that is no model of windows, or not of this use.

        Args:
            prior: a checkpoint's denoiser.

        Raises:
            CheckpointError: it is of another kind.
        """
        facts = getattr(prior, "facts", {})
        Windows.of(facts)
        if self.guide in ("told", "both") and not facts.get("is_told", True):
            raise CheckpointError("this checkpoint cannot be told what was observed (it was trained with told: 0): take another guide")
        if self.guide != "told" and not facts.get("is_free", True):
            raise CheckpointError("this checkpoint is conditional only (it was trained with told: 1): take guide: told")

    def __call__(self, case: Case, prior: Any, seed: int, *, progress: Progress = None) -> Estimate:
        """Paths of the horizon, or of the whole window where there is none.

        Args:
            case: of a task on panels.
            prior: a model of windows.
            seed: of the paths; the case's key goes with it.
            progress: told of steps.

        Returns:
            The estimate; ``nfe`` counts the evaluations of one path.

        Raises:
            CheckpointError: the model is of another kind, step or length.
            DataError: the panel does not fit the model.
        """
        self.check_prior(prior)
        panel = case.measurement
        horizon = int(panel.attrs.get("horizon", 0))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            keyed = zlib.crc32(f"{seed}/{case.key}".encode())
            paths, nfe = self.paths(prior, panel, seed=keyed, progress=progress)
        for warning in said:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        wanted = panel.isel(time=slice(panel.sizes["time"] - horizon, None)) if horizon else panel
        paths = paths[..., panel.sizes["time"] - wanted.sizes["time"] :] if horizon else paths
        info = {"seed": seed, "solver": self.solver, "grid": self.grid, "guide": self.guide, "samples": self.samples}
        info |= {"prior_sha256": getattr(prior, "sha256", None), "said": [str(one.message) for one in said if one.category is UserWarning]}
        return Estimate(forecast(wanted, samples=paths), nfe=nfe, info=info)

    def paths(self, prior: Denoiser, panel: xr.Dataset, *, seed: int, progress: Progress = None) -> tuple[NDArray[np.float64], int]:
        """Paths of every value of a panel's last stretch that was not observed; observed values stand as they are.

        Args:
            prior: a model of windows.
            panel: dims (item, time), NaN where unknown.
            seed: of the draws.
            progress: told of steps.

        Returns:
            (items, samples, steps), NaN before the first window, and evaluations a path.

        Raises:
            CheckpointError: the model is of another step.
            DataError: the panel does not fit the model.
        """
        if self.guide == "both":
            return self._pooled(prior, panel, seed, progress)
        facts: dict[str, Any] = getattr(prior, "facts", {})
        windows = Windows.of(facts)
        check_panel(panel, facts, windows, positive=self.positive)
        y = panel["y"].values
        made = np.repeat(y[:, None], self.samples, 1)
        nfe, ends = 0, window_ends(y, windows)
        for number, end in enumerate(ends):
            encoded = windows.encode(panel, end)
            past = past_covariance(panel, windows, end) if self.guide == "past" else None
            found, evaluations = self.draw(prior, windows, encoded, seed + number, _part(progress, number, len(ends)), past=past)
            nfe += evaluations
            span = slice(max(end - windows.length, 0), end)
            part = found[..., windows.length - (span.stop - span.start) :]
            if self.spread != 1:
                middle = np.median(part, 1, keepdims=True)
                part = middle + self.spread * (part - middle)
            made[..., span] = np.where(np.isnan(y[:, None, span]), part, y[:, None, span])
        if self.positive:
            made = np.maximum(made, 0.0)
        return shuffled(made, seed) if self.guide == "quantile" else made, nfe

    def _pooled(self, prior: Denoiser, panel: xr.Dataset, seed: int, progress: Progress) -> tuple[NDArray[np.float64], int]:
        """Half of the paths by each of the two guides, in a random order."""
        parts = [replace(self, guide="past", samples=self.samples - self.samples // 2)]
        if self.samples > 1:
            parts.append(replace(self, guide="told", samples=self.samples // 2))
        drawn = [one.paths(prior, panel, seed=seed + n, progress=_part(progress, n, len(parts))) for n, one in enumerate(parts)]
        return shuffled(np.concatenate([paths for paths, _ in drawn], 1), seed), drawn[0][1]

    def draw(
        self, prior: Denoiser, windows: Windows, encoded: Encoded, seed: int, progress: Progress = None, *, past: Tensor | None = None
    ) -> tuple[NDArray[np.float64], int]:
        """Paths of windows, (rows, samples, L) in the units of the series, and evaluations a path."""
        rows, guidance = len(encoded.values), self.guidance
        drawn: dict[str, Any] = {"solver": self.solver, "grid": self.grid, "seed": seed, "batch": self.batch, "progress": progress}
        if past is not None:
            told = {"observation": encoded.values, "observed": encoded.mask}
            rows_of = {key: value.repeat_interleave(self.samples, 0) for key, value in told.items()}
            guides = [KnownCovariance(past, noise=self.noise)]
            found = unstir.sample(
                prior, rows * self.samples, guides=guides, condition={**encoded.condition(self.samples), **rows_of}, **drawn
            )
        elif guidance is None:
            found = unstir.sample(prior, rows * self.samples, condition=encoded.condition(self.samples, told=True) or None, **drawn)
        else:
            y = torch.where(encoded.mask > 0, encoded.values, torch.nan)
            found = guidance.sample(prior, y, samples=self.samples, condition=encoded.condition(), **drawn)
        return windows.decode(found.x, encoded), found.nfe  # type: ignore[arg-type]


def past_covariance(panel: xr.Dataset, windows: Windows, end: int) -> Tensor:
    """The covariance of a panel's own past windows, in units of the state, shrunk by Ledoit and Wolf's rule.

    Windows that end a whole number of weeks (of seasons, of steps, where these are too few) before ``end`` and have no gap, of all series;
    where there are fewer than two, half a unit of variance and no correlation.

    Args:
        panel: dims (item, time); nothing after its last observed step is looked at.
        windows: how windows become states.
        end: where the window to be drawn ends.

    Returns:
        (n, n), n the entries of a state.

    Reference: Ledoit and Wolf 2004, J. Multivariate Analysis.
    """
    from sklearn.covariance import ledoit_wolf

    observed = np.flatnonzero(np.isfinite(panel["y"].values).any(0))
    last, season = (int(observed[-1]) + 1 if len(observed) else 0), int(panel.attrs["season"])
    size, states = windows.channels * windows.length, torch.empty(0, windows.channels * windows.length)
    for cycle in (7 * season, season, 1):
        ends = np.arange(end - cycle, windows.length + windows.reach - 1, -cycle)
        ends = ends[ends <= last]
        items = 1 if windows.series > 1 else panel.sizes["item"]
        ends = ends[: max(MOST // items, 1)]
        if len(ends):
            drawn = windows.take(panel, np.tile(np.arange(items), len(ends)), np.repeat(ends, items))
            whole = drawn.mask.flatten(1).all(1)
            states = drawn.values.flatten(1)[whole]
        if len(states) >= 8 * size:
            break
    if len(states) < 2:
        return 0.5 * torch.eye(size, dtype=torch.float64)
    return torch.from_numpy(ledoit_wolf(states.double().numpy())[0])


def window_ends(y: NDArray[Any], windows: Windows) -> list[int]:
    """Ends of the windows that cover every gap of a panel, the last at its end; a later window is drawn first where two overlap.

    Args:
        y: (items, steps), NaN at the gaps.
        windows: their length.

    Returns:
        Ends (exclusive), ascending.
    """
    gaps = np.isnan(y) & (np.cumsum(np.isfinite(y), 1) > 0)  # what lies before a series begins is no gap
    ends, end = [], y.shape[1]
    while end > 0 and gaps[:, :end].any():
        if gaps[:, max(end - windows.length, 0) : end].any():
            ends.append(max(end, min(windows.length, y.shape[1])))
        end -= windows.length
    return sorted(set(ends))


def check_panel(panel: xr.Dataset, facts: dict[str, Any], windows: Windows, *, positive: bool = False) -> None:
    """Refuse a panel that a model of windows was not made for.

    Args:
        panel: dims (item, time).
        facts: of the checkpoint.
        windows: of the checkpoint.
        positive: must its values not be negative?

    Raises:
        CheckpointError: another step, or a horizon that leaves no context.
        DataError: values that cannot be.
    """
    if facts.get("freq") not in (None, panel.attrs["freq"]):
        raise CheckpointError(f"this checkpoint was trained on steps of {facts['freq']!r}, and the panel's step is {panel.attrs['freq']!r}")
    horizon = int(panel.attrs.get("horizon", 0))
    if horizon > windows.length // 2:
        raise CheckpointError(
            f"this checkpoint knows windows of {windows.length} steps, and a horizon of {horizon} leaves less than half for its past"
        )
    y = panel["y"].values
    if np.isinf(y).any():
        raise DataError("the panel has infinite values")
    if positive and (np.nan_to_num(y) < 0).any():
        raise DataError("positive: true, and the history has negative values")
    empty = ~np.isfinite(y[:, -windows.length :]).any(1)
    if empty.any():
        name = str(panel["item"].values[int(np.argmax(empty))])
        warnings.warn(
            f"{int(empty.sum())} series have no observed value in their window ({name}...): their paths are the model's own", stacklevel=3
        )


def shuffled(paths: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """Paths of each series in a random order: under quantile guidance path i is drawn near its level, so they leave the sampler in order.

    Args:
        paths: (items, samples, steps).
        seed: of the order.

    Returns:
        The same paths, each series' in an order of its own.
    """
    order = np.random.default_rng(seed).permuted(np.tile(np.arange(paths.shape[1]), (len(paths), 1)), axis=1)
    return np.take_along_axis(paths, order[..., None], 1)


def _part(progress: Progress, number: int, count: int) -> Callable[[int, int], None] | None:
    """Progress of one window of several."""
    if progress is None:
        return None
    return lambda done, total: progress(number * total + done, count * total)
