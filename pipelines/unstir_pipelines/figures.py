"""Pictures of a run, drawn once and kept with their captions and numbers: ``figures/NAME.png``, ``NAME.csv``, ``index.json``.

The recipe's figures come from plugins; one is drawn here for every run, quality against time. ``figures/overview.png`` is the picture that
answers the run's question: the figure named ``overview``, else the first of the recipe's, else quality against time.
"""

from __future__ import annotations

import io
import json
import math
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unstir.plugin.protocols import Drawn
from unstir_pipelines.jobs import reason_of
from unstir_pipelines.results import Results, headed, named, setting_title, shown
from unstir_pipelines.store import to_json, write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from unstir_pipelines.view import Run

INDEX = "index.json"
OVERVIEW = "overview"
GENERIC = "quality-against-time"

INK, QUIET = "#22252a", "#7c828a"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31")
"""Colours that the colour-blind can tell apart (Okabe and Ito, its yellow darkened for lines on white)."""

PLACES = tuple(
    (side, right, above + (math.copysign(9 * reach, above) if above else 0))
    for reach in range(4)
    for side, right, above in (("left", 8, 0), ("right", -8, 0), ("center", 0, 11), ("center", 0, -11))
    + (("left", 7, 11), ("left", 7, -11), ("right", -7, 11), ("right", -7, -11))
)
"""Where a name may stand beside its point, the best place first: alignment, points to the right, points up."""

Box = tuple[float, float, float, float]
"""Left, bottom, right, top, in pixels."""

STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e6e9",
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "savefig.facecolor": "white",
}
"""How our own figures look (matplotlib)."""


@dataclass(frozen=True)
class Picture:
    """A picture as it lies in the run folder.

    Args:
        name: file name without suffix.
        title: a few words.
        caption: a sentence that states the finding.
        case: key of the case shown, ``None`` for the whole run.
        image: path of the PNG, relative to the run folder.
        data: path of the numbers shown (CSV), relative to the run folder; ``None`` where the picture is an image.
    """

    name: str
    title: str
    caption: str
    case: str | None
    image: str
    data: str | None


@dataclass(frozen=True)
class Gallery:
    """All pictures of a run.

    Args:
        pictures: in the order of the recipe, the generic one last.
        overview: name of the picture that ``overview.png`` is a copy of, ``None`` where there is none.
        failed: figures that could not be drawn: name and reason.
    """

    pictures: tuple[Picture, ...] = ()
    overview: str | None = None
    failed: tuple[tuple[str, str], ...] = ()


def draw(run: Run | None, results: Results) -> Gallery:
    """Draw every figure of the recipe and the generic one, and write them under ``figures/``.

    A figure that fails is left out with its reason; the others are drawn.

    Args:
        run: the finished run; ``None`` where a plugin that made it is gone: the recipe's figures are those drawn before.
        results: its numbers.

    Returns:
        What lies in the folder now.
    """
    import matplotlib

    if "matplotlib.pyplot" not in sys.modules:
        matplotlib.use("Agg")
    folder = results.folder / "figures"
    folder.mkdir(exist_ok=True)
    before = saved(results.folder) if run is None else Gallery()
    pictures = [picture for picture in before.pictures if picture.name != GENERIC and (results.folder / picture.image).exists()]
    failed = list(before.failed)
    for name, figure in _asked(run):
        try:
            for drawn in figure.draw(run):
                pictures.append(_keep(folder, drawn, pictures))
        except Exception as error:
            failed.append((name, reason_of(error)))
    with matplotlib.rc_context(STYLE):
        generic = quality_against_time(results)
        if generic is not None:
            pictures.append(_keep(folder, generic, pictures))
    gallery = Gallery(tuple(pictures), _overview(pictures), tuple(failed))
    chosen = next((picture for picture in pictures if picture.name == gallery.overview), None)
    if chosen is not None and chosen.name != OVERVIEW:
        write_whole(folder / f"{OVERVIEW}.png", (results.folder / chosen.image).read_bytes())
    write_whole(folder / INDEX, to_json(asdict(gallery)))
    return gallery


def _asked(run: Run | None) -> list[tuple[str, Any]]:
    """The figures of the recipe, by name."""
    if run is None:
        return []
    entries = run.recipe.resolved.get("figures") or ()
    return list(zip([named(entry) for entry in entries], run.assembly(0).figures, strict=True))


def saved(folder: Path) -> Gallery:
    """The pictures that were drawn before, empty where there are none."""
    path = folder / "figures" / INDEX
    if not path.exists():
        return Gallery()
    content = json.loads(path.read_text())
    pictures = tuple(Picture(**picture) for picture in content["pictures"])
    return Gallery(pictures, content["overview"], tuple((name, reason) for name, reason in content["failed"]))


def png(figure: Figure, dots: int = 160) -> bytes:
    """A matplotlib figure as PNG, the same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dots, bbox_inches="tight", facecolor=figure.get_facecolor(), metadata={"Software": None})
    return buffer.getvalue()


def quality_against_time(results: Results) -> Drawn | None:
    """The first metric of every method against the seconds it took, a panel a setting, intervals as bars; ``None`` without numbers."""
    from matplotlib.figure import Figure

    if not results.leads:
        return None
    metric = results.leads[0]
    info = results.info(metric)
    settings = [setting for setting in results.settings if results.ranked(setting, metric)]
    if not settings:
        return None
    columns = min(len(settings), 3)
    lines = math.ceil(len(settings) / columns)
    figure = Figure(figsize=(max(5.2, 3.9 * columns), 3.3 * lines + 0.3), layout="constrained")
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(settings) :]:
        axes.set_visible(False)
    records = []
    learned = [label for label in results.labels if results.uses_prior(label)]
    colours = dict.fromkeys(results.labels, INK) | {label: PALETTE[index % len(PALETTE)] for index, label in enumerate(learned)}
    for axes, setting in zip(grid.flat, settings, strict=False):
        points = []
        for label in results.labels:
            number, seconds = results.number(label, setting, metric), results.number(label, setting, "seconds")
            if number is None or seconds is None or not math.isfinite(number.mean) or not seconds.mean > 0:
                continue
            nfe = results.number(label, setting, "nfe")
            records.append({**setting, "method": label, "seconds": seconds.mean, "nfe": nfe.mean if nfe else 0} | _ends(metric, number))
            colour = colours[label]
            if math.isfinite(number.half):
                axes.plot([seconds.mean] * 2, [number.low, number.high], color=colour, linewidth=1.6, solid_capstyle="butt", zorder=3)
            mark = {"marker": "o"} if results.uses_prior(label) else {"marker": "s", "markerfacecolor": "white"}
            axes.plot(seconds.mean, number.mean, color=colour, markersize=6, linestyle="", zorder=4, **mark)
            points.append((seconds.mean, number.mean, shortened(results.titled(label), 28)))
        log_axis(axes)
        axes.margins(x=0.2, y=0.16)
        name_points(axes, points)
        axes.set_title(plain(setting_title(setting)))
    for axes in grid[:, 0]:
        axes.set_ylabel(plain(f"{info.title} ({info.unit})" if info.unit else info.title))
    for axes in grid[-1]:
        axes.set_xlabel("seconds a case")
    if not records:
        return None
    import pandas as pd

    where = {"up": "up and to the left", "down": "down and to the left", "neither": "to the left"}[info.better]
    caption = f"{_finding(results, metric, settings)} Better is {where}; squares use no trained prior, bars are 95 % intervals."
    return Drawn(GENERIC, f"{info.title} against time", caption, figure, pd.DataFrame.from_records(records))


def log_axis(axes: Axes, values: Iterable[float] = ()) -> None:
    """Make the x axis logarithmic, its ticks written as plain numbers: the values themselves where they are few, else powers of ten."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    axes.set_xscale("log")
    ticks = sorted({value for value in values if value > 0})
    if 0 < len(ticks) <= 6:
        axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def plain(text: str) -> str:
    """A text that matplotlib draws as it stands, dollar signs included."""
    return text.replace("$", r"\$")


def shortened(text: str, length: int) -> str:
    """A text of at most so many characters."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def name_points(axes: Axes, points: Sequence[tuple[float, float, str]], font: float = 8.5) -> None:
    """Write each point's name beside it where it meets no other name and no other point: right, left, above or below, then further away.

    Args:
        axes: where the points are.
        points: x, y, name; x on the axis' own scale.
        font: size of the names, in points.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()
    unit = figure.dpi / 72
    frame = axes.get_window_extent()
    centres = [axes.transData.transform((x, y)) for x, y, _ in points]
    taken = [(across - 5 * unit, up - 5 * unit, across + 5 * unit, up + 5 * unit) for across, up in centres]
    for own, ((x, y, name), (across, up)) in enumerate(zip(points, centres, strict=True)):
        width, height = 0.6 * font * len(name) * unit, 1.25 * font * unit
        boxes = {place: _box(place, across, up, width, height, unit) for place in PLACES}
        others = [other for index, other in enumerate(taken) if index != own]
        inside = [place for place, (left, _, right, _) in boxes.items() if left >= frame.x0 and right <= frame.x1]
        free = [place for place in inside if not any(_meet(boxes[place], other) for other in others)]
        place = (free or inside or list(PLACES))[0]
        taken.append(boxes[place])
        axes.annotate(plain(name), (x, y), xytext=place[1:], textcoords="offset points", fontsize=font, va="center", ha=place[0], zorder=5)


def _box(place: tuple[str, float, float], across: float, up: float, width: float, height: float, unit: float) -> Box:
    side, right, above = place
    left = across + right * unit - {"left": 0.0, "right": width, "center": width / 2}[side]
    middle = up + above * unit
    return left, middle - height / 2, left + width, middle + height / 2


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _finding(results: Results, metric: str, settings: Iterable[Any]) -> str:
    """Which method is best and what it costs, setting by setting."""
    said = []
    for setting in settings:
        best = results.ranked(setting, metric)[0]
        number, seconds = results.number(best, setting, metric), results.number(best, setting, "seconds")
        unit = headed(results.info(metric)).removeprefix(results.info(metric).title).strip()
        text = f"{results.titled(best)} is best, {shown(number, metric)}{' ' + unit if unit else ''}"
        if seconds is not None:
            text += f" in {shown(seconds, 'seconds')} s"
        title = setting_title(setting)
        said.append(f"{title}: {text}" if title else text)
    return "; ".join(said) + "."


def _ends(metric: str, number: Any) -> dict[str, float]:
    return {metric: number.mean, "low": number.low, "high": number.high}


def _overview(pictures: Sequence[Picture]) -> str | None:
    names = [picture.name for picture in pictures]
    if OVERVIEW in names:
        return OVERVIEW
    return names[0] if names else None


def _keep(folder: Path, drawn: Drawn, before: Sequence[Picture]) -> Picture:
    """Write one figure and its numbers; a name that is taken gets a number."""
    taken = {picture.name for picture in before}
    stem = re.sub(r"[^A-Za-z0-9=+,.@-]+", "-", drawn.name).strip("-.") or "figure"
    name, count = stem, 1
    while name in taken:
        count += 1
        name = f"{stem}-{count}"
    write_whole(folder / f"{name}.png", png(drawn.figure))
    drawn.figure.clear()
    data = None
    if drawn.data is not None:
        write_whole(folder / f"{name}.csv", drawn.data.to_csv(index=drawn.data.index.name is not None))
        data = f"figures/{name}.csv"
    return Picture(name, drawn.title, drawn.caption, drawn.case, f"figures/{name}.png", data)
