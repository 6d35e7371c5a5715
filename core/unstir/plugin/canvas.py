"""The look of pictures: sheets of panels, axes with few and short labels, one legend a sheet, colours that everybody can tell apart.

A picture is as wide as a page of a report (7.6 inches) and still readable at half that size; matplotlib is imported on use.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, FigureBase

INK, QUIET, FAINT = "#22252a", "#6b7178", "#e4e6e9"
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31")
"""Colours that the colour-blind can tell apart (Okabe and Ito, its yellow darkened for lines on white)."""
DASHES = ("-", (0, (5, 1.5)), (0, (2, 1.2)), (0, (6, 1.5, 1, 1.5)))
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
        ticks: on a linear vertical axis, at most; 0 leaves the axis as it is.
    """
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(QUIET)
    axes.grid(color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=7.5, color=QUIET, labelcolor=INK, length=2.5)
    axes.tick_params(which="minor", length=0)
    if ticks and axes.get_yscale() == "linear":
        axes.yaxis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 2.5, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}".replace("-", "\N{MINUS SIGN}")))


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


def legend(figure: FigureBase, grid: Iterable[Axes], columns: int = 6, first: str = "") -> None:
    """One legend above all panels, every name once.

    Args:
        figure: the page.
        grid: its panels.
        columns: names in a row.
        first: the name that stands first; the others keep their order.
    """
    found: dict[str, Any] = {}
    for axes in grid:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(name, handle)
    order = sorted(found, key=lambda name: name != first)
    if found:
        look: dict[str, Any] = {"fontsize": 7.5, "labelcolor": INK, "frameon": False, "handlelength": 2.4, "columnspacing": 1.4}
        figure.legend([found[name] for name in order], order, loc="outside upper left", ncols=columns, **look)


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
