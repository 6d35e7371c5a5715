"""The look of this plugin's pictures: pages of panels, axes with few and short labels, colours that everybody can tell apart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase

Array = NDArray[Any]
INK, QUIET, FAINT = "#22252a", "#6b7178", "#e4e6e9"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31")
"""Colours that the colour-blind can tell apart (Okabe and Ito, its yellow darkened for lines on white)."""
DASHES = ("-", (0, (5, 1.5)), (0, (2, 1.2)), (0, (6, 1.5, 1, 1.5)))
FOUND, EVENT = PALETTE[0], PALETTE[1]
WIDTH = 7.6  # inches: 1200 pixels as runs write their pictures
MOST = 8  # panels of a picture


def sheet(count: int, columns: int, height: float, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure with ``count`` panels, row by row.

    Args:
        count: of panels.
        columns: panels in a row.
        height: of a row, in inches.
        options: of matplotlib's ``subplots``.
    """
    from matplotlib.figure import Figure

    rows = math.ceil(count / columns)
    figure = Figure(figsize=(WIDTH, rows * height + 0.4), layout="constrained", facecolor="white")
    grid = list(figure.subplots(rows, columns, squeeze=False, **options).flat)
    for axes in grid[count:]:
        axes.remove()
    return figure, grid[:count]


def plain_axes(axes: Axes, ticks: int = 6) -> None:
    """The look of axes with numbers on them.

    Args:
        axes: whose.
        ticks: on a linear vertical axis, at most.
    """
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(QUIET)
    axes.grid(color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=7.5, color=QUIET, labelcolor=INK, length=2.5)
    axes.tick_params(which="minor", length=0)
    if axes.get_yscale() == "linear":
        axes.yaxis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}".replace("-", "\N{MINUS SIGN}")))


def time_axis(axes: Axes, panel: xr.Dataset, x: Array, ticks: int = 5) -> None:
    """Few and short labels of time, and the whole stretch from edge to edge.

    Args:
        axes: whose.
        panel: whose clock it is.
        x: what is shown.
        ticks: how many at most.
    """
    if has_calendar(panel):
        from matplotlib.dates import DAILY, HOURLY, MINUTELY, MONTHLY, SECONDLY, AutoDateLocator, ConciseDateFormatter

        locator = AutoDateLocator(minticks=2, maxticks=ticks)
        for unit, whole in ((SECONDLY, 60), (MINUTELY, 60), (HOURLY, 24), (DAILY, 31), (MONTHLY, 12)):
            locator.intervald[unit] = [
                *locator.intervald[unit],
                whole,
            ]  # few ticks fit between the largest part of a unit and two of the next
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
        axes.xaxis.get_offset_text().set(fontsize=7, color=QUIET)
    else:
        from matplotlib.ticker import MaxNLocator

        axes.xaxis.set_major_locator(MaxNLocator(ticks, integer=True))
    if len(x) > 1:
        axes.set_xlim(x[0], x[-1])


def titled(axes: Axes, words: str) -> None:
    """A title at the left; long ones are cut.

    Args:
        axes: whose.
        words: what it says.
    """
    axes.set_title(plain(words), loc="left", fontsize=8.5, weight="bold", color=INK)


def plain(words: str, longest: int = 30) -> str:
    """Words as they stand: no formula, and not too long.

    Args:
        words: any text.
        longest: characters that are kept.
    """
    return (words if len(words) <= longest else words[: longest - 1] + "\N{HORIZONTAL ELLIPSIS}").replace("$", r"\$")


def label_left(figure: Figure, grid: Sequence[Axes], words: str) -> None:
    """A name for the vertical axes of the first column.

    Args:
        figure: the page.
        grid: its panels.
        words: quantity and unit.
    """
    for axes in grid:
        spec = axes.get_subplotspec()
        if spec is not None and spec.is_first_col():
            axes.set_ylabel(plain(words, 60), fontsize=8, color=INK)
    figure.align_ylabels(grid)


def legend(figure: FigureBase, grid: Iterable[Axes], columns: int = 6) -> None:
    """One legend above all panels, every name once.

    Args:
        figure: the page.
        grid: its panels.
        columns: names in a row.
    """
    found: dict[str, Any] = {}
    for axes in grid:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(name, handle)
    order = sorted(found, key=lambda name: name != "observed")
    if found:
        look: dict[str, Any] = {"fontsize": 7.5, "labelcolor": INK, "frameon": False, "handlelength": 2.4, "columnspacing": 1.4}
        figure.legend([found[name] for name in order], order, loc="outside upper left", ncols=columns, **look)


def axis_of(panel: xr.Dataset) -> Array:
    """Stamps of a panel, or numbers of its steps where the clock is not its own."""
    return panel["time"].values if has_calendar(panel) else np.arange(panel.sizes["time"])


def has_calendar(panel: xr.Dataset) -> bool:
    """Are the stamps the series' own?"""
    return panel.attrs.get("calendar", "known") == "known"


def units_of(panel: xr.Dataset) -> str:
    """The unit of the values, "value" where nobody said."""
    return str(panel.attrs.get("units") or "value")


def clock_of(panel: xr.Dataset) -> str:
    """What a reader must know of the time axis, "" where the stamps speak for themselves."""
    if not has_calendar(panel):
        return f"steps from the {'origin' if panel.attrs.get('horizon') else 'beginning'}"
    return "times in UTC" if panel.attrs.get("tz") and panel.attrs.get("clock") == "utc" else ""


def tint(colour: str, share: float) -> tuple[float, float, float]:
    """A colour on white.

    Args:
        colour: as "#0072B2".
        share: of the colour, the rest is white.
    """
    red, green, blue = (1 - share * (1 - int(colour[place : place + 2], 16) / 255) for place in (1, 3, 5))
    return red, green, blue


def style(place: int) -> dict[str, Any]:
    """Colour and dashes of the line number ``place`` of a picture.

    Args:
        place: from 0.
    """
    return {"color": PALETTE[place % len(PALETTE)], "linestyle": DASHES[place % len(DASHES)], "linewidth": 1.5}
