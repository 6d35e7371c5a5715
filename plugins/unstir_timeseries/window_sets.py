"""Sets of windows of a panel: drawn at random from what a method may see, or held out, each in units of its context.

    window = (y_1 ... y_{C+H}) / s,    s = mean |y| of the C steps of context (at least a tenth of the mean |y| of the series)

Reference: Salinas et al. 2020 (mean scaling), arXiv:1704.04110.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from unstir.errors import DataError
from unstir.plugin.protocols import Case
from unstir_timeseries.windows import Known, Windows, usual_size

Array = NDArray[Any]


def window_set(values: Array, context: int, origin: Array, **more: Array) -> xr.Dataset:
    """Windows as they cross the border.

    Args:
        values: (samples, C + H) in units of the context.
        context: C.
        origin: (samples,) stamps of the first step of the horizons.
        more: further coordinates of the samples.
    """
    step = np.arange(values.shape[1]) - context
    coords = {"step": step, "origin": ("sample", np.asarray(origin, dtype="datetime64[ns]"))}
    return xr.Dataset({"windows": (("sample", "step"), values.astype(np.float32))}, coords | {k: ("sample", v) for k, v in more.items()})


def real_windows(panel: xr.Dataset, items: Array, ends: Array, context: int, horizon: int) -> xr.Dataset:
    """Complete windows of a panel; those with a missing value are left out.

    Args:
        panel: dims (item, time).
        items: (rows,) numbers of items.
        ends: (rows,) steps (exclusive) where the windows end.
        context: C, steps.
        horizon: H, steps.

    Returns:
        windows (sample, step), with the coordinates scale, item and origin.
    """
    known = Known(usual_size(panel["y"].values), np.zeros((0, 0), np.float32), 0)
    drawn = Windows(context=context, horizon=horizon, calendar=()).take(panel, items, ends, known=known)
    whole = drawn.mask[:, 0].bool().all(-1).numpy()
    origin = panel["time"].values[ends[whole] - horizon]
    values = drawn.values[:, 0].numpy()[whole]
    return window_set(values, context, origin, scale=drawn.scale[whole, 0], item=panel["item"].values[items[whole]])


def starts(panel: xr.Dataset, context: Any) -> tuple[Array, Array]:
    """Where complete windows of a panel are.

    Args:
        panel: dims (item, time).
        context: of a case: ``context``, ``horizon``, ``season`` and, where they are aligned, ``place``.

    Returns:
        Numbers of items, and steps (exclusive) where windows end, a row a window.

    Raises:
        DataError: there is none.
    """
    length, horizon = context["context"] + context["horizon"], context["horizon"]
    steps = panel.sizes["time"]
    ends = np.arange(length, steps + 1)
    if "place" in context:
        ends = ends[(ends - horizon) % context["season"] == context["place"]]
    seen = np.pad(np.isfinite(panel["y"].values).cumsum(1), ((0, 0), (1, 0)))
    items, which = np.nonzero(seen[:, ends] - seen[:, ends - length] == length) if len(ends) else (np.zeros(0, int), np.zeros(0, int))
    if not len(items):
        raise DataError(f"the {steps} steps before the held-out windows hold no complete window of {length} steps: hold out fewer windows")
    return items, ends[which]


def drawn(case: Case, seed: int) -> tuple[Array, Array]:
    """Items and ends of ``count`` windows at random, with replacement, of what a method may see.

    Args:
        case: of `Synthesise`.
        seed: of the draws; the case's key goes with it.
    """
    items, ends = starts(case.measurement, case.context)
    rng = np.random.default_rng(keyed(seed, case.key))
    chosen = rng.integers(len(items), size=case.context["count"])
    return items[chosen], ends[chosen]


def keyed(*parts: Any) -> int:
    """A seed made of several things.

    Args:
        parts: what it depends on.
    """
    return zlib.crc32("/".join(map(str, parts)).encode())
