"""Pictures of a CT run: slices, errors, residuals, spread and measurements, each case under each setting."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from unstir.errors import UserError
from unstir.plugin.canvas import INK, PALETTE, QUIET, WIDTH, plain_axes
from unstir.plugin.protocols import Drawn, RunView
from unstir_medical.drawing import Auto, Scale, Sheet, nice, slices_picture, strips, window_of
from unstir_medical.scene import TRUTH, Array, Cut, Scene, floor, projected, scene, scenes, traces

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Overview:
    """The run in one picture: a row a setting; the truth and every method in an axial and a coronal slice, with the PSNR.

    Args:
        level: middle of the window in HU, or "auto".
        width: width of the window in HU, or "auto".
        slices: index of the axial, coronal and sagittal slice, or "auto" for those through the middle of the body.
        methods: labels shown, in this order; empty for all.
        case: key of the case shown, empty for the first.
    """

    level: Auto = "auto"
    width: Auto = "auto"
    slices: Cut = "auto"
    methods: tuple[str, ...] = ()
    case: str = ""

    def draw(self, run: RunView) -> Iterator[Drawn]:
        """One picture, named "overview"."""
        keys = list(run.cases())
        if not keys:
            return
        key = self.case or keys[0]
        if key not in keys:
            raise UserError(f"the overview shows a case of the run, got {key!r}; there are {', '.join(keys)}")
        if unknown := set(self.methods) - set(run.labels):
            raise UserError(f"the overview shows methods of the run, got {', '.join(sorted(unknown))}; there are {', '.join(run.labels)}")
        found = [one for setting in run.settings if (one := scene(run, key, setting)) is not None and self.shown(one)]
        if not found:
            return
        sheet, window = Sheet(), window_of(found[0], self.level, self.width)
        for one in found:
            planes, shown, top = one.planes(self.slices)[:2], self.shown(one), sheet.down
            strips(sheet, one, planes, shown, window, one.score, left=0.42)
            if one.words:
                sheet.text(0.1, (top + sheet.down) / 2 + 0.1, one.words, rotation=90, ha="center", va="center", weight="bold", fontsize=10)
        title = f"{run.recipe.title}, {key}"
        caption = sentence("; ".join(filter(None, (one.finding() for one in found))), f"Window {window.low:g} to {window.high:g} HU")
        yield Drawn("overview", title, caption, sheet.figure(), None, key)

    def shown(self, one: Scene) -> dict[str, Array]:
        """The volumes asked for, by title; the truth first."""
        if not self.methods:
            return one.volumes
        wanted = [TRUTH, *(one.titles[label] for label in self.methods)]
        return {title: one.volumes[title] for title in wanted if title in one.volumes}


@dataclass(frozen=True)
class Slices:
    """Three orthogonal slices of the truth and of every method, in one window.

    Args:
        level: middle of the window in HU, or "auto".
        width: width of the window in HU, or "auto".
        slices: index of the axial, coronal and sagittal slice, or "auto" for those through the middle of the body.
        cases: how many cases are drawn.
    """

    level: Auto = "auto"
    width: Auto = "auto"
    slices: Cut = "auto"
    cases: int = 2

    def draw(self, run: RunView) -> Iterator[Drawn]:
        """One picture a case and setting."""
        for one in scenes(run, self.cases):
            window = window_of(one, self.level, self.width)
            caption = sentence(one.finding(), f"Window {window.low:g} to {window.high:g} HU")
            yield drawn("slices", "Slices", one, caption, slices_picture(one, window, self.slices))


@dataclass(frozen=True)
class ErrorMaps:
    """Estimate minus truth in three orthogonal slices, on one diverging scale in HU.

    Args:
        limit: end of the scale in HU, or "auto": what 95 % of the body's errors of the middling method stay below.
        slices: index of the axial, coronal and sagittal slice, or "auto" for those through the middle of the body.
        cases: how many cases are drawn.
    """

    limit: Auto = "auto"
    slices: Cut = "auto"
    cases: int = 2

    def draw(self, run: RunView) -> Iterator[Drawn]:
        """One picture a case and setting, with the errors in numbers; none where the truth is not known."""
        import pandas as pd

        for one in scenes(run, self.cases):
            errors = one.errors()
            if not errors:
                continue
            inside = {title: error[one.body].astype(np.float64) for title, error in errors.items()}
            frame = pd.DataFrame({
                "rmse_hu": {title: root_mean_square(values) for title, values in inside.items()},
                "bias_hu": {title: float(values.mean()) for title, values in inside.items()},
                "p95_abs_error_hu": {title: float(np.percentile(np.abs(values), 95)) for title, values in inside.items()},
            }).rename_axis("method")  # fmt: skip
            limit = nice(float(frame["p95_abs_error_hu"].median())) if self.limit == "auto" else self.limit
            under = {title: f"RMSE {value:.0f} HU" for title, value in frame["rmse_hu"].items()}
            sheet = Sheet()
            strips(sheet, one, one.planes(self.slices), errors, Scale(-limit, limit, "RdBu_r", "HU", "both"), under.__getitem__)
            yield drawn("error-maps", "Errors", one, self.caption(one, frame["rmse_hu"]), sheet.figure(), frame)

    def caption(self, one: Scene, rms: pd.Series) -> str:
        """Who errs least and most."""
        at = f"at {one.words} " if one.words else ""
        least = f"{rms.min():.0f} HU ({rms.idxmin()})"
        if len(rms) > 1:
            said = f"{at}the root mean square error in the body runs from {least} to {rms.max():.0f} HU ({rms.idxmax()})"
        else:
            said = f"{at}the root mean square error in the body is {least}"
        return f"{sentence(said)} Red is too dense, blue not dense enough."


@dataclass(frozen=True)
class Curves:
    """Residuals of one scene against steps.

    Args:
        scene: where they are from.
        lines: relative residual of every step, by title.
        floor: levels drawn across, by name: what no method needs to go below.
    """

    scene: Scene
    lines: Mapping[str, Sequence[float]]
    floor: Mapping[str, float]

    @property
    def values(self) -> list[float]:
        """Every positive value: what a logarithmic axis can show."""
        return [value for line in (*self.lines.values(), self.floor.values()) for value in line if value > 0]

    @property
    def records(self) -> list[dict[str, Any]]:
        """A row a method and step."""
        return [
            {**self.scene.setting, "method": title, "step": step, "residual": value}
            for title, line in self.lines.items() for step, value in enumerate(line, 1)
        ]  # fmt: skip

    @property
    def finding(self) -> str:
        """Which method ends lowest, beside the floor."""
        ends = {title: line[-1] for title, line in self.lines.items()}
        best = min(ends, key=ends.__getitem__)
        beside = "".join(f" ({name} {value:.2g})" for name, value in self.floor.items())
        return f"{self.scene.words + ': ' if self.scene.words else ''}{best} ends lowest at {ends[best]:.2g}{beside}"

    def drawing(self, colours: Mapping[str, str], limits: tuple[float, float], *, is_log: bool, is_first: bool) -> Callable[[Axes], None]:
        """What draws them: one colour a title, the same limits in every panel, steps on a logarithmic axis where lengths differ much."""

        def draw(axes: Axes) -> None:
            for place, (title, line) in enumerate(self.lines.items()):
                style = ("-", "--", "-.", ":")[place % 4]
                axes.plot(range(1, len(line) + 1), line, style, color=colours[title], linewidth=1.6, label=title)
            for name, value in self.floor.items():
                axes.axhline(value, color=QUIET, linewidth=0.8, linestyle=(0, (1, 2)))
                axes.annotate(name, (0.01, value), xycoords=("axes fraction", "data"), ha="left", va="bottom", fontsize=7, color=QUIET)
            axes.set_yscale("log")
            axes.set_ylim(*limits)
            if is_log:
                axes.set_xscale("log")
            plain_axes(axes, ticks=0)
            axes.set_xlabel("step", fontsize=8, color=INK)
            if is_first:
                axes.set_ylabel("||A x - y|| / ||y||", fontsize=8, color=INK)
            else:
                axes.tick_params(labelleft=False)
            axes.set_title(self.scene.words, fontsize=9, weight="bold", loc="left", color=INK)
            axes.legend(frameon=False, fontsize=7.5, labelcolor=INK, loc="upper right")

        return draw


@dataclass(frozen=True)
class Residual:
    """The relative data residual ``||A x - y|| / ||y||`` against the steps of every method that has a trace.

    Args:
        cases: how many cases are drawn.
    """

    cases: int = 2

    def draw(self, run: RunView) -> Iterator[Drawn]:
        """One picture a case, a panel a setting; none where no method has a trace."""
        for key in list(run.cases())[: self.cases]:
            found = [scene(run, key, setting) for setting in run.settings]
            curves = [Curves(one, lines, floor(one)) for one in found if one is not None and (lines := traces(one))]
            if any(one.values for one in curves):
                yield self.picture(key, curves)

    def picture(self, key: str, curves: Sequence[Curves]) -> Drawn:
        """The picture of one case."""
        import pandas as pd

        columns = min(3, len(curves))
        left, gap, height = 0.55, 0.25, 2.3
        width = min((WIDTH - left - 0.05 - gap * (columns - 1)) / columns, 4.6)
        sheet = Sheet(width=left + columns * width + gap * (columns - 1) + 0.05)
        titles = dict.fromkeys(title for one in curves for title in one.lines)
        colours = {title: PALETTE[place % len(PALETTE)] for place, title in enumerate(titles)}
        values = [value for one in curves for value in one.values]
        limits = min(values) / 1.4, max(values) * 1.4 * 1.25 ** len(titles)  # room for the legend
        lengths = [len(line) for one in curves for line in one.lines.values()]
        for place, one in enumerate(curves):
            across, down = place % columns, place // columns
            draw = one.drawing(colours, limits, is_log=max(lengths) > 8 * min(lengths), is_first=across == 0)
            sheet.panel(left + across * (width + gap), 0.25 + down * (height + 0.75), width, height, draw)
        sheet.down = math.ceil(len(curves) / columns) * (height + 0.75)
        data = pd.DataFrame([record for one in curves for record in one.records])
        caption = "; ".join(one.finding for one in curves) + "."
        return Drawn(f"residual-{key}", f"Data residual against steps, {key}", caption, sheet.figure(), data, key)


@dataclass(frozen=True)
class StandardDeviation:
    """The standard deviation over posterior samples, beside the error it should foretell.

    Args:
        slices: index of the axial, coronal and sagittal slice, or "auto" for those through the middle of the body.
        cases: how many cases are drawn.
    """

    slices: Cut = "auto"
    cases: int = 2

    def draw(self, run: RunView) -> Iterator[Drawn]:
        """One picture a case and setting with an ensemble; none where no method gave ``hu_std``."""
        for one in scenes(run, self.cases):
            spread = {one.titles[label]: e.data["hu_std"].values for label, e in one.estimates.items() if "hu_std" in e.data}
            if spread:
                yield self.picture(one, spread)

    def picture(self, one: Scene, spread: Mapping[str, Array]) -> Drawn:
        """The picture of one scene: the maps, the size of the error, and how the two agree."""
        import pandas as pd

        errors = {title: np.abs(error) for title, error in one.errors().items() if title in spread}
        known = [np.percentile(values[one.body], 98) for values in [*spread.values(), *errors.values()]]
        scale, sheet = Scale(0.0, nice(float(np.median(known))), "inferno", "HU", "max"), Sheet()
        shown: dict[str, Array] = {}
        for title, values in spread.items():
            shown[f"{title}: std"] = values
            if title in errors:
                shown[f"{title}: |error|"] = errors[title]
        means = {name: f"mean {float(values[one.body].mean()):.0f} HU" for name, values in shown.items()}
        strips(sheet, one, one.planes(self.slices)[:2], shown, scale, means.__getitem__)
        if not errors:
            mean = "; ".join(f"{title} {float(values[one.body].mean()):.0f} HU" for title, values in spread.items())
            return drawn("std", "Standard deviation", one, sentence(f"mean standard deviation in the body: {mean}"), sheet.figure())
        inside = {title: (spread[title][one.body], errors[title][one.body]) for title in errors}
        frames = {title: calibration(*pair) for title, pair in inside.items()}
        sheet.down += 0.25
        sheet.panel(0.55, sheet.down, 3.0, 2.3, calibration_panel(frames))
        sheet.down += 2.75
        said = []
        for title, (std, error) in inside.items():
            related = float(np.corrcoef(std, error)[0, 1]) if std.std() > 0 and error.std() > 0 else math.nan
            share = f"two standard deviations hold {np.mean(error <= 2 * std):.0%} of the errors (95 % if normal)"
            said.append(f"{title}: {share}, correlation {related:.2f}")
        data = pd.concat([frame.assign(method=title) for title, frame in frames.items()], ignore_index=True)
        data = data[["method", *data.columns[:-1]]]
        return drawn("std", "Standard deviation", one, "; ".join(said) + ".", sheet.figure(), data)


def calibration(spread: Array, error: Array, bins: int = 12) -> pd.DataFrame:
    """Root mean square error of voxels of like standard deviation, in bins of as many voxels each.

    Args:
        spread: standard deviation of each voxel in HU.
        error: its error in HU.
        bins: number of bins.

    Returns:
        Columns ``std_hu``, ``rmse_hu`` and ``voxels``, a row a bin.
    """
    import pandas as pd

    parts = [part for part in np.array_split(np.argsort(spread, kind="stable"), bins) if len(part)]
    columns = {"std_hu": [root_mean_square(spread[part]) for part in parts], "rmse_hu": [root_mean_square(error[part]) for part in parts]}
    return pd.DataFrame(columns | {"voxels": [len(part) for part in parts]})


def root_mean_square(values: Array) -> float:
    """Root of the mean square, summed in float64."""
    return math.sqrt(float(np.mean(np.square(values, dtype=np.float64))))


def calibration_panel(frames: Mapping[str, pd.DataFrame]) -> Callable[[Axes], None]:
    """What draws root mean square errors against standard deviations, HU, equality dotted."""

    def draw(axes: Axes) -> None:
        top = max(float(frame[["std_hu", "rmse_hu"]].to_numpy().max()) for frame in frames.values()) * 1.05
        axes.plot([0, top], [0, top], color=QUIET, linewidth=0.8, linestyle=(0, (1, 2)))
        for place, (title, frame) in enumerate(frames.items()):
            mark, colour = "osD^v"[place % 5] + "-", PALETTE[place % len(PALETTE)]
            axes.plot(frame["std_hu"], frame["rmse_hu"], mark, color=colour, markersize=3.5, linewidth=1.2, label=title)
        plain_axes(axes, ticks=0)
        axes.set(xlim=(0, top), ylim=(0, top))
        axes.set_xlabel("standard deviation, HU", fontsize=8, color=INK)
        axes.set_ylabel("root mean square error, HU", fontsize=8, color=INK)
        axes.legend(frameon=False, fontsize=7.5, labelcolor=INK, loc="upper left")

    return draw


@dataclass(frozen=True)
class Sinogram:
    """The measurement of one slice, and what every answer leaves of it unexplained.

    Args:
        slice: index of the slice, or "auto" for the middle of the body.
        cases: how many cases are drawn.
    """

    slice: int | Literal["auto"] = "auto"
    cases: int = 2

    def draw(self, run: RunView) -> Iterator[Drawn]:
        """One picture a case and setting."""
        for one in scenes(run, self.cases):
            yield self.picture(one)

    def picture(self, one: Scene) -> Drawn:
        """The picture of one scene."""
        import pandas as pd

        measured = one.case.measurement["sinogram"]
        y = measured.values
        at = one.centre[0] if self.slice == "auto" else self.slice
        if not 0 <= at < len(y):
            raise UserError(f"slice must be from 0 to {len(y) - 1} for case {one.case.key}, got {at}")
        left = {one.titles[label]: projected(one, e.data["hu"].values) - y for label, e in one.estimates.items()}
        norm = max(float(np.linalg.norm(y)), 1e-30)
        share = {title: float(np.linalg.norm(values)) / norm for title, values in left.items()}
        reach = nice(float(np.median([np.percentile(np.abs(values[at]), 98) for values in left.values()])))
        whole = Scale(0.0, nice(float(y[at].max()), (1, 1.5, 2, 3, 4, 5, 6, 8, 10)), "cividis", "line integral")
        rest = Scale(-reach, reach, "RdBu_r", "A x - y", "both")
        degrees = np.degrees(measured["angle"].values)
        across = measured["detector"].values if "detector" in measured.coords else np.arange(y.shape[2]) * 1.0
        sheet, columns = Sheet(), 3
        lines = math.ceil((1 + len(left)) / columns)
        start, gap, width, height = 0.5, 0.12, 1.95, 1.35
        for place, (title, values) in enumerate([("measured", y), *left.items()]):
            x, top = start + place % columns * (width + gap), 0.34 + place // columns * (height + 0.5)
            under = f"slice {at}" if place == 0 else f"{share[title]:.2%} left"
            sheet.text(x, top - 0.33, title, weight="bold")
            sheet.text(x, top - 0.185, under, fontsize=7.5, color=QUIET)
            axis = (place % columns == 0, place // columns == lines - 1 or place + columns > len(left))
            sheet.panel(x, top, width, height, sinogram_panel(values[at], degrees, across, whole if place == 0 else rest, axis))
        sheet.down = 0.34 + lines * (height + 0.5) - 0.1
        beside = start + columns * (width + gap) + 0.05
        sheet.panel(beside, 0.34, 0.09, 0.5, whole.bar)
        sheet.panel(beside, 0.34 + 0.8, 0.09, height - 0.8 + (lines > 1) * 0.5, rest.bar)
        best = min(share, key=share.__getitem__)
        count = len(degrees)
        views = f"{count} view{'s' if count > 1 else ''} from {degrees.min():.4g} to {degrees.max():.4g} degrees"
        noise = str(one.case.measurement.attrs.get("noise", ""))
        caption = f"{', '.join(filter(None, [views, noise]))}; {best} explains them best, {share[best]:.2%} left."
        data = pd.DataFrame({"method": list(share), "relative_residual": list(share.values())})
        return drawn("sinogram", "Measurement", one, caption, sheet.figure(), data)


def sinogram_panel(values: Array, degrees: Array, across: Array, scale: Scale, axis: tuple[bool, bool]) -> Callable[[Axes], None]:
    """What draws the rays of a slice, angles downwards; ``axis``: are angles and millimetres written beside it?"""

    def draw(axes: Axes) -> None:
        count = len(degrees)
        extent = (float(across[0]), float(across[-1]), count - 0.5, -0.5)
        axes.imshow(values, scale.colours, vmin=scale.low, vmax=scale.high, extent=extent, aspect="auto", interpolation="nearest")
        step = nice(0.3 * float(np.abs(across).max()), (1, 2, 5, 10))
        axes.set_xticks([-step, 0.0, step], [f"{mm:g}" for mm in (-step, 0.0, step)])
        ticks = np.unique(np.linspace(0, count - 1, min(count, 5)).round().astype(int))
        axes.set_yticks(ticks, [f"{degrees[tick]:.3g}°" for tick in ticks])
        axes.tick_params(labelsize=7, color=QUIET, labelcolor=INK, length=2, labelleft=axis[0], labelbottom=axis[1])
        for spine in axes.spines.values():
            spine.set(color=QUIET, linewidth=0.5)
        if axis[0]:
            axes.set_ylabel("angle", fontsize=7.5, color=INK)
        if axis[1]:
            axes.set_xlabel("detector, mm", fontsize=7.5, color=INK)

    return draw


def sentence(*parts: str) -> str:
    """Findings as sentences; one that starts with the name of a method keeps its case."""
    return " ".join(f"{part[:1].upper() if part.startswith('at ') else part[:1]}{part[1:].rstrip('.')}." for part in parts if part)


def drawn(kind: str, title: str, one: Scene, caption: str, figure: Figure, data: pd.DataFrame | None = None) -> Drawn:
    """A picture of one scene, named after its kind, case and setting."""
    return Drawn(f"{kind}-{one.slug}", f"{title}, {one.place}", caption, figure, data, one.case.key)
