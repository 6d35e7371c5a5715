"""Questions about series: forecasts from rolling origins, and values to be imputed.

The origins are counted back from the end of the data, ``stride`` steps apart, so that the last window ends where the data end. Nothing
that a method may fit on reaches beyond the first origin, and no case holds a value of its own horizon.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
import xarray as xr

from unstir.errors import DataError, UserError
from unstir.plugin.options import at_least, one_of
from unstir.plugin.protocols import Case, Estimate
from unstir_timeseries.missing import Missing

Scenario = Literal["none", "rm", "bm-b", "bm-e"]


@dataclass(frozen=True)
class PanelTask:
    """What the tasks on panels share: reading a user's file, and writing answers as frames."""

    case_noun: ClassVar[str] = "window"
    part_noun: ClassVar[str] = "series"

    def read(
        self,
        path: Path,
        *,
        freq: str = "",
        season: int = 0,
        id: str = "unique_id",
        time: str = "ds",
        target: str = "y",
        known: tuple[str, ...] = (),
        duplicates: str = "refuse",
    ) -> xr.Dataset:
        """A user's own series (parquet, CSV, JSON lines, netCDF) as a panel.

        Args:
            path: the file.
            freq: the step, as a pandas alias; found in the stamps when empty, and a choice where a file holds several.
            season: steps of a season; the usual of the step when 0.
            id: column that names the series.
            time: column of the stamps.
            target: column of the values.
            known: columns that are known of the future too.
            duplicates: what to do with stamps that come twice.

        Raises:
            DataError: the file is missing, is no table of series, or holds series of several steps.
        """
        from unstir_timeseries.readers import read

        options: dict[str, Any] = {"id_col": id, "time_col": time, "target_col": target, "known": tuple(known), "duplicates": duplicates}
        panels = read(Path(path), freq=freq or None, season=season or None, **options)
        if len(panels) > 1:
            kinds = ", ".join(str(panel.attrs["freq"]) for panel in panels)
            raise DataError(f"{path} holds series of several steps ({kinds}): give each a file of its own")
        return panels[0].assign_attrs(key=Path(path).name.partition(".")[0])

    def export(self, estimate: Estimate, case: Case, stem: Path) -> list[Path]:
        """Write quantiles, and paths where there are any, as tidy parquet frames.

        Returns:
            The files written.
        """
        from unstir_timeseries.frames import forecast_frame, paths_frame

        written = [stem.with_name(f"{stem.name}-quantiles.parquet")]
        forecast_frame(estimate.data, like=case.measurement).to_parquet(written[0], index=False)
        if "samples" in estimate.data:
            written.append(stem.with_name(f"{stem.name}-paths.parquet"))
            paths_frame(estimate.data, like=case.measurement).to_parquet(written[1], index=False)
        return written


@dataclass(frozen=True)
class Forecast(PanelTask):
    """Forecasts of all series from rolling origins; a case is an origin.

    Args:
        horizon: H, steps to forecast.
        context: C, steps before the origin that a model with a window sees.
        windows: how many origins, counted back from the end; fewer where the data hold fewer (said).
        stride: steps between origins; the horizon when 0.
        first: step number or stamp of the first origin instead, the others following it.
        missing: what is taken away of the context: ``"none"``, ``"rm"`` (at random), ``"bm-b"`` (its beginning), ``"bm-e"`` (its end).
        gaps: how many steps are taken away; half of the context when 0.
        mask_seed: of what is taken away.

    Raises:
        UserError: an option out of range.
    """

    horizon: int = 24
    context: int = 336
    windows: int = 45
    stride: int = 192
    first: int | str = ""
    missing: Scenario = "none"
    gaps: int = 0
    mask_seed: int = 0

    metrics: ClassVar[tuple[str, ...]] = tuple(
        f"timeseries/{name}" for name in ("crps", "nd", "mase", "msis", "coverage", "width", "sample-crps", "energy")
    )
    figures: ClassVar[tuple[str, ...]] = tuple(f"timeseries/{name}" for name in ("fans", "calibration", "per-horizon", "windows"))

    def __post_init__(self) -> None:
        at_least(self, horizon=1, context=1, windows=1)
        if self.stride < 0 or not 0 <= self.gaps <= self.context:
            raise UserError(f"stride must not be negative and gaps lie within the context, got {self.stride} and {self.gaps}")
        one_of(self, missing=Scenario)

    def origins(self, panel: xr.Dataset) -> list[int]:
        """Steps at which the horizons begin, in order.

        Raises:
            DataError: the data are too short for one window.
        """
        steps, stride, key = panel.sizes["time"], self.stride or self.horizon, panel.attrs.get("key", "the panel")
        longest = int(np.isfinite(panel["y"].values).sum(1).max(initial=0))
        if longest < self.context + self.horizon:
            need = self.context + self.horizon
            raise DataError(
                f"{key} has {longest} observed steps in its longest series and a window takes {need} "
                f"(context {self.context}, horizon {self.horizon}): {need - longest} are missing; give more data, or a shorter task.context"
            )
        if self.first != "":
            begin = self.first if isinstance(self.first, int) else int(np.searchsorted(panel["time"].values, np.datetime64(self.first)))
            found = [begin + number * stride for number in range(self.windows)]
        else:
            found = [steps - self.horizon - number * stride for number in reversed(range(self.windows))]
        fit = [origin for origin in found if self.context <= origin <= steps - self.horizon]
        if not fit:
            raise DataError(f"no window of {self.context} + {self.horizon} steps fits into {key} at the origins asked for ({steps} steps)")
        if len(fit) < len(found):
            warnings.warn(f"{len(fit)} of the {len(found)} windows asked for fit into {key}", stacklevel=2)
        return fit

    def cases(self, items: Iterable[xr.Dataset]) -> Iterator[Case]:
        """One case an origin and panel."""
        for panel in items:
            origins = self.origins(panel)
            training = panel.isel(time=slice(0, origins[0]))
            for origin in origins:
                yield self.case(panel, origin, training)

    def case(self, panel: xr.Dataset, origin: int, training: xr.Dataset) -> Case:
        """The case of one origin; see the protocol in :mod:`unstir_timeseries.panel`."""
        end = origin + self.horizon
        truth = panel[["y"]].isel(time=slice(origin, end))
        y = panel["y"].values[:, :end].copy()
        y[:, origin:] = np.nan
        if self.missing != "none":
            hide = Missing(self.missing, context=self.context, gaps=self.gaps)
            y[:, :origin] = hide.hidden(y[:, :origin], self.mask_seed, origin)
        measurement = panel.isel(time=slice(0, end)).assign(y=(("item", "time"), y)).assign_attrs(horizon=self.horizon)
        stamp = pd.Timestamp(panel["time"].values[origin])
        facts = {
            "origin": str(stamp),
            "window": f"{self.context} + {self.horizon} steps ({panel.attrs['freq']}) of {panel.sizes['item']} series",
            "missing values": "as in the data"
            if self.missing == "none"
            else f"{self.missing}, {self.gaps or self.context // 2} steps of the context",
        }
        context = {
            "horizon": self.horizon, "context": self.context, "season": int(panel.attrs["season"]), "freq": panel.attrs["freq"],
            "origin": str(stamp), "training": training, "facts": facts,
        }  # fmt: skip
        if panel.attrs.get("simulated"):
            context["simulated"] = panel.attrs["simulated"]
        return Case(f"{str(panel.attrs.get('key', 'panel')).lower()}-{origin:06d}", truth, measurement, context)


@dataclass(frozen=True)
class Impute(PanelTask):
    """Values taken out of the past of all series, to be found again; a case is a window.

    Args:
        length: steps of a window.
        windows: how many, counted back from the end.
        stride: steps between them; the length when 0.
        missing: ``"rm"`` (steps at random), ``"bm-b"``, ``"bm-e"`` (beginning, end of the window) or ``"block"`` (one a series).
        gaps: how many steps of each series are taken away; a quarter when 0.
        mask_seed: of what is taken away.

    Raises:
        UserError: an option out of range.
    """

    length: int = 360
    windows: int = 12
    stride: int = 192
    missing: Literal["rm", "bm-b", "bm-e", "block"] = "block"
    gaps: int = 0
    mask_seed: int = 0

    metrics: ClassVar[tuple[str, ...]] = tuple(f"timeseries/{name}" for name in ("crps", "nd", "coverage", "width", "sample-crps"))
    figures: ClassVar[tuple[str, ...]] = ("timeseries/fans", "timeseries/calibration")

    def __post_init__(self) -> None:
        if self.length < 2 or self.windows < 1 or self.stride < 0 or not 0 <= self.gaps < self.length:
            raise UserError(
                "imputation needs windows of at least 2 steps, at least 1 of them, and fewer gaps than steps, "
                f"got {self.length}, {self.windows} and {self.gaps}"
            )
        if self.missing not in ("rm", "bm-b", "bm-e", "block"):
            raise UserError(f"missing must be rm, bm-b, bm-e or block, got {self.missing!r}")

    def cases(self, items: Iterable[xr.Dataset]) -> Iterator[Case]:
        """One case a window and panel."""
        whole = Forecast(horizon=self.length, context=1, windows=self.windows, stride=self.stride or self.length)
        for panel in items:
            origins = replace(whole).origins(panel)
            training = panel.isel(time=slice(0, origins[0]))
            for origin in origins:
                window = panel.isel(time=slice(origin, origin + self.length))
                hide = Missing(self.missing, context=self.length, gaps=self.gaps or self.length // 4)
                given = hide.hidden(window["y"].values.copy(), self.mask_seed, origin)
                truth = np.where(np.isnan(given), window["y"].values, np.nan)
                stamp = str(pd.Timestamp(window["time"].values[0]))
                facts = {"window": f"{self.length} steps from {stamp}", "missing values": f"{self.missing}, {hide.gaps} steps a series"}
                context: dict[str, Any] = {"season": int(panel.attrs["season"]), "freq": panel.attrs["freq"], "origin": stamp}
                context |= {"training": training, "facts": facts}
                measurement = window.assign(y=(("item", "time"), given)).assign_attrs(horizon=0)
                key = f"{str(panel.attrs.get('key', 'panel')).lower()}-{origin:06d}"
                yield Case(key, window[["y"]].assign(y=(("item", "time"), truth)), measurement, context)
