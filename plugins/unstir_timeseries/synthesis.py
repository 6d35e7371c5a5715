"""Synthetic windows: a generator sees the past of a panel, and its windows are compared with real ones that nobody has seen.

    window = (y_1 ... y_{C+H}) / s,    s = mean |y| of the C steps of context (at least a tenth of the mean |y| of the series)

The border, all in units of s:

    measurement   the panel up to C steps before the first held-out horizon (item, time)
    context       context C, horizon H, count (windows wanted), season, freq, place (of the horizon within a season; absent: anywhere)
    truth         windows (sample, step), scale (sample), item (sample), origin (sample), no step of which is in the measurement
    estimate      windows (sample, step), ``count`` of them; origin (sample) is the stamp that a window was made for

``step`` runs from -C to H - 1, and 0 is the first step of the horizon; ``origin`` is the stamp of step 0.

Reference: Kollovieh et al. 2023 (TSDiff), arXiv:2307.11494; Theiler et al. 1992 (phase surrogates); Kuensch 1989 (block bootstrap).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import torch
import xarray as xr
from numpy.typing import NDArray

import unstir
from unstir import names
from unstir.errors import CheckpointError, DataError
from unstir.plugin.options import at_least, one_of
from unstir.plugin.protocols import Case, Estimate, Progress
from unstir_timeseries.tasks import Forecast, PanelTask
from unstir_timeseries.window_sets import drawn, keyed, real_windows, starts, window_set
from unstir_timeseries.windows import Known, Windows

Array = NDArray[Any]
Surrogate = Literal["none", "phase", "blocks", "gaussian"]


@dataclass(frozen=True)
class Synthesise(PanelTask):
    """Windows like those of a panel; a case is a panel.

    Args:
        context: C, steps of a window before its horizon.
        horizon: H, steps of the horizon.
        windows: how many origins are held out, counted back from the end of the data.
        stride: steps between them.
        count: synthetic windows wanted of a method.
        aligned: do the horizons of all windows, real and synthetic, begin at the same place of a season (midnight)? Else anywhere.

    Raises:
        UserError: an option out of range.
    """

    context: int = 336
    horizon: int = 24
    windows: int = 43
    stride: int = 192
    count: int = 10000
    aligned: bool = True

    case_noun: ClassVar[str] = "panel"
    part_noun: ClassVar[str] = "window"
    metrics: ClassVar[tuple[str, ...]] = tuple(
        f"timeseries/{name}" for name in ("lps", "discriminative", "acf-distance", "spectrum-distance", "memorisation")
    )
    figures: ClassVar[tuple[str, ...]] = ("timeseries/synthetic",)

    def __post_init__(self) -> None:
        at_least(self, context=2, horizon=1, windows=1, stride=1, count=10)

    def cases(self, items: Iterable[xr.Dataset]) -> Iterator[Case]:
        """One case a panel.

        Args:
            items: panels.

        Raises:
            DataError: no complete window is left for the methods to see, or none is held out.
        """
        for panel in items:
            yield self.case(panel)

    def case(self, panel: xr.Dataset) -> Case:
        """The case of a panel.

        Args:
            panel: dims (item, time).

        Raises:
            DataError: no complete window is left for the methods to see, or none is held out.
        """
        held = Forecast(horizon=self.horizon, context=self.context, windows=self.windows, stride=self.stride)
        season, key = int(panel.attrs["season"]), str(panel.attrs.get("key", "panel")).lower()
        origins = np.array(held.origins(panel))
        if not self.aligned:
            origins = origins - np.random.default_rng(0).integers(min(season, int(origins[0]) - self.context + 1), size=len(origins))
        seen = panel.isel(time=slice(0, int(origins.min()) - self.context))
        context = {"context": self.context, "horizon": self.horizon, "count": self.count, "season": season, "freq": panel.attrs["freq"]}
        if self.aligned:
            if len({int(origin) % season for origin in origins}) > 1:
                raise DataError(
                    f"with a stride of {self.stride} the horizons begin at different places of a season of {season}: aligned: false"
                )
            context["place"] = int(origins[0]) % season
        ends = np.repeat(origins + self.horizon, panel.sizes["item"])
        truth = real_windows(panel, np.tile(np.arange(panel.sizes["item"]), len(origins)), ends, self.context, self.horizon)
        if not truth.sizes["sample"]:
            raise DataError(f"every held-out window of {key} has missing values")
        starts(seen, context)
        last = pd.Timestamp(seen["time"].values[-1])
        context["facts"] = {
            "window": f"{self.context} + {self.horizon} steps ({panel.attrs['freq']}) of {panel.sizes['item']} series, over mean |context|",
            "seen": f"up to {last}",
            "held out": f"{truth.sizes['sample']} complete windows after it",
        }
        if panel.attrs.get("simulated"):
            context["simulated"] = panel.attrs["simulated"]
        return Case(key, truth, seen, context)

    def export(self, estimate: Estimate, case: Case, stem: Path) -> list[Path]:
        """Write the windows as a parquet frame, a row a window and a column a step.

        Args:
            estimate: what a method made.
            case: what it answers.
            stem: of the file's name.

        Returns:
            The file written.
        """
        windows = estimate.data["windows"]
        frame = pd.DataFrame(windows.values, columns=[str(step) for step in windows["step"].values])
        path = stem.with_name(f"{stem.name}-windows.parquet")
        frame.to_parquet(path, index=False)
        return [path]


@dataclass(frozen=True)
class RealWindows:
    """Windows of what a method may see, at random: the reference of every table; or surrogates of them, the classical generators.

    ``"phase"`` keeps the Fourier amplitudes of each window and draws its phases (Theiler et al. 1992). ``"blocks"`` puts, in the place of
    each block of steps, the same steps of the series some whole periods before or after (block bootstrap). ``"gaussian"`` draws from the
    normal law with the mean and covariance of the windows: a linear predictive score sees second moments only and cannot tell it from real.
    The defaults of the blocks were chosen on validation windows of hourly load.

    Args:
        surrogate: ``"none"``, ``"phase"``, ``"blocks"`` or ``"gaussian"``.
        block: steps of a block.
        period: steps of a period; the season when 0.
        reach: how many periods away a block may come from.

    Raises:
        UserError: an option out of range.
    """

    surrogate: Surrogate = "none"
    block: int = 72
    period: int = 0
    reach: int = 1

    needs: ClassVar[tuple[str, ...]] = ()
    uses_prior: ClassVar[bool] = False

    def __post_init__(self) -> None:
        one_of(self, surrogate=Surrogate)
        at_least(self, block=1, period=0, reach=1)

    def __call__(self, case: Case, prior: Any, seed: int, *, progress: Progress = None) -> Estimate:
        """Draw windows.

        Args:
            case: of `Synthesise`.
            prior: not used.
            seed: of the draws.
            progress: not told of anything.
        """
        items, ends = drawn(case, seed)
        panel, context, horizon = case.measurement, case.context["context"], case.context["horizon"]
        rng = np.random.default_rng(keyed(seed, case.key, self.surrogate))
        if self.surrogate == "blocks":
            values = self.blocks(panel, items, ends, context, horizon, rng)
            made = window_set(values, context, panel["time"].values[ends - horizon])
        else:
            made = real_windows(panel, items, ends, context, horizon)[["windows"]].drop_vars(["scale", "item"])
        if self.surrogate == "phase":
            made = made.assign(windows=(("sample", "step"), phase_surrogates(made["windows"].values, context, rng)))
        if self.surrogate == "gaussian":
            made = made.assign(windows=(("sample", "step"), gaussian_surrogates(made["windows"].values, rng)))
        return Estimate(made, info={"seed": seed, "surrogate": self.surrogate})

    def blocks(self, panel: xr.Dataset, items: Array, ends: Array, context: int, horizon: int, rng: np.random.Generator) -> Array:
        """Windows (rows, C + H) of blocks from other periods of the same series, in units of their context."""
        y, length, period = panel["y"].values, context + horizon, self.period or int(panel.attrs["season"])
        size = np.nanmean(np.abs(y), axis=1)[items]
        index = ends[:, None] - length + np.arange(length)
        pieces = -(-length // self.block)
        shift = period * np.repeat(rng.integers(-self.reach, self.reach + 1, size=(len(ends), pieces)), self.block, axis=1)[:, :length]
        other = index + shift
        inside = (other >= 0) & (other < y.shape[1])
        values = y[items[:, None], np.where(inside, other, index)]
        values = np.where(np.isfinite(values), values, y[items[:, None], index])
        return values / np.maximum(np.abs(values[:, :context]).mean(1), 0.1 * size)[:, None]


def gaussian_surrogates(windows: Array, rng: np.random.Generator) -> Array:
    """Draws from the normal law with the mean and covariance of windows.

    Args:
        windows: (samples, steps).
        rng: what draws.

    Returns:
        (samples, steps) float32, independent.
    """
    mean = windows.mean(0, dtype=np.float64)
    values, vectors = np.linalg.eigh(np.cov(windows, rowvar=False, dtype=np.float64))
    return np.asarray(mean + (rng.standard_normal(windows.shape) * np.sqrt(np.maximum(values, 0.0))) @ vectors.T, dtype=np.float32)


def phase_surrogates(windows: Array, context: int, rng: np.random.Generator) -> Array:
    """Windows with the Fourier amplitudes of others and random phases, scaled by their context again.

    Args:
        windows: (samples, C + H).
        context: C.
        rng: draws the phases.

    Returns:
        (samples, C + H) float32; each keeps its mean and its spectrum up to a common factor.
    """
    length = windows.shape[1]
    spectrum = np.fft.rfft(windows, axis=1)
    turn = np.exp(2j * np.pi * rng.random(spectrum.shape))
    turn[:, 0] = 1
    if length % 2 == 0:
        turn[:, -1] = 1
    made = np.fft.irfft(spectrum * turn, n=length, axis=1)
    size = np.abs(made[:, :context]).mean(1, keepdims=True)
    return np.where(size > 0, made / np.where(size > 0, size, 1.0), made).astype(np.float32)


@dataclass(frozen=True)
class TSDiffSamples:
    """Unconditional samples of TSDiff's windows; a model that knows the calendar is given that of random windows it may see.

    Args:
        solver: a solver of the core.
        grid: a grid of the core.
        batch: windows worked on at a time.

    Raises:
        UserError: an option out of range.
    """

    solver: str = "logistic3"
    grid: str = "logistic:20"
    batch: int = 1000

    needs: ClassVar[tuple[str, ...]] = ()
    uses_prior: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(self, batch=1)
        names.solver(self.solver)
        names.grid(self.grid)

    def check_prior(self, prior: Any) -> None:
        """Refuse a checkpoint that cannot draw windows by itself.

        Args:
            prior: a checkpoint's denoiser.

        Raises:
            CheckpointError: it is no model of single series scaled by their mean size, or was never trained without observations.
        """
        facts = getattr(prior, "facts", {})
        windows = Windows.of(facts)
        if not facts.get("is_free", True):
            raise CheckpointError("this checkpoint is conditional only (it was trained with told: 1) and draws no windows by itself")
        if windows.series > 1 or windows.scaling != "mean":
            raise CheckpointError(
                "synthetic windows are of one series, scaled by the mean size of their context; "
                f"this checkpoint holds {windows.series} series, scaled by {windows.scaling!r}"
            )

    def __call__(self, case: Case, prior: Any, seed: int, *, progress: Progress = None) -> Estimate:
        """Draw windows.

        Args:
            case: of `Synthesise`.
            prior: a model of windows.
            seed: of the draws.
            progress: told of steps.

        Returns:
            The windows; ``nfe`` counts the evaluations of all of them.

        Raises:
            CheckpointError: the model is of another kind, step or length.
        """
        self.check_prior(prior)
        windows = Windows.of(prior.facts)
        self.check_case(case, prior.facts, windows)
        items, ends = drawn(case, seed)
        condition = None
        if windows.features:
            known = Known.of(case.measurement, windows)
            parts = [slice(first, first + self.batch) for first in range(0, len(items), self.batch)]
            taken = [windows.take(case.measurement, items[part], ends[part], known=known).features for part in parts]
            condition = {"features": torch.cat([part for part in taken if part is not None])}
        found = unstir.sample(
            prior,
            len(items),
            solver=self.solver,
            grid=self.grid,
            condition=condition,
            seed=keyed(seed, case.key),
            batch=self.batch,
            progress=progress,
        )
        made = found.x[:, 0].double().cpu().numpy() * windows.std + windows.mean  # type: ignore[index]
        origin = case.measurement["time"].values[ends - case.context["horizon"]]
        info = {"seed": seed, "solver": self.solver, "grid": self.grid, "prior_sha256": getattr(prior, "sha256", None)}
        return Estimate(window_set(made, case.context["context"], origin), nfe=found.nfe * len(items), info=info)

    def check_case(self, case: Case, facts: Any, windows: Windows) -> None:
        """Refuse a case of other windows than the model's.

        Args:
            case: of `Synthesise`.
            facts: of the checkpoint.
            windows: of the checkpoint.

        Raises:
            CheckpointError: the step, or context and horizon, differ.
        """
        if facts.get("freq") not in (None, case.context["freq"]):
            raise CheckpointError(f"this checkpoint was trained on steps of {facts['freq']!r}, and the panel's is {case.context['freq']!r}")
        asked, held = (case.context["context"], case.context["horizon"]), (windows.context, windows.horizon)
        if asked != held:
            raise CheckpointError(
                f"this checkpoint draws windows of {held[0]} + {held[1]} steps, and the task asks for {asked[0]} + {asked[1]}"
            )
