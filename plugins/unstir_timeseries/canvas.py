"""What this plugin's pictures have beside the look of all: an axis of time, the words of a panel, two colours that mean something."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from unstir.plugin.canvas import PALETTE, QUIET

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[Any]
FOUND, EVENT = PALETTE[0], PALETTE[1]


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
