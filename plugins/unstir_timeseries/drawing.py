"""How series are drawn: fan charts of forecasts and of filled gaps, and anomaly scores below the series that they belong to.

What was observed is a solid line, broken where nothing was; what was found is a median in central bands that narrow to the observed
neighbours; what was to be found is dashed. A band may leave a panel: limits follow the values, not the widest forecast.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from unstir.errors import DataError, UserError
from unstir.plugin.canvas import FAINT, INK, MOST, QUIET, label_left, legend, plain, plain_axes, sheet, tint, titled
from unstir_timeseries.canvas import EVENT, FOUND, Array, axis_of, clock_of, has_calendar, time_axis, units_of
from unstir_timeseries.frames import quantile

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LONGEST = 500  # steps of a window that is shown whole
PATHS = 5


@dataclass(frozen=True)
class Fan:
    """A stretch of one series with what was found where it was not observed; all arrays (steps,), NaN where there is nothing.

    Args:
        title: name of the series.
        x: stamps, or steps from the origin where the calendar is not the series' own.
        y: what was observed.
        asked: which steps were to be found.
        median: found.
        bands: lower and upper end of the central bands, the widest first, with their share in percent.
        paths: (paths, steps) a few.
        truth: what was to be found.
    """

    title: str
    x: Array
    y: Array
    asked: Array
    median: Array
    bands: Sequence[tuple[float, Array, Array]] = ()
    paths: Array = field(default_factory=lambda: np.zeros((0, 0)))
    truth: Array | None = None

    @property
    def joined(self) -> Array:
        """Which steps are found, or stand beside such a step: bands begin at what was observed there."""
        near = self.asked.copy()
        near[1:] |= self.asked[:-1]
        near[:-1] |= self.asked[1:]
        return near

    def meet(self, values: Array) -> Array:
        """Found values where they were asked for, and what was observed beside them."""
        return np.where(self.asked, values, np.where(self.joined, self.y, np.nan))

    def draw(self, axes: Axes) -> None:
        """Draw it; the limits are set by `share_limits`."""
        shades = np.linspace(0.22, 0.5, max(len(self.bands), 2))
        for (share, low, high), shade in zip(self.bands, shades, strict=False):
            low, high = self.meet(low), self.meet(high)
            known = np.isfinite(low) & np.isfinite(high)
            axes.fill_between(
                self.x, low, high, where=known.tolist(), color=tint(FOUND, shade), linewidth=0, label=f"{share:g} % band", zorder=1.5
            )
        for path in self.paths:
            axes.plot(self.x, self.meet(path), color=FOUND, alpha=0.55, linewidth=0.5, label="paths", zorder=2.2)
        axes.plot(self.x, self.meet(self.median), color=FOUND, linewidth=1.5, label="median", zorder=2.5)
        if self.truth is not None:
            axes.plot(self.x, self.meet(self.truth), color=INK, linewidth=1.1, linestyle=(0, (2.5, 1.2)), label="truth", zorder=2.8)
        axes.plot(self.x, self.y, color=INK, linewidth=1.1, label="observed", zorder=2.6)
        seen = np.isfinite(np.pad(self.y, 1, constant_values=np.nan))
        alone = seen[1:-1] & ~seen[:-2] & ~seen[2:]
        axes.plot(self.x[alone], self.y[alone], ".", color=INK, markersize=2.5, zorder=2.6)


def central(levels: Iterable[float]) -> list[tuple[float, float, float]]:
    """Central bands of levels in percent: share, lower and upper level, the widest first; a level without its mirror gets it.

    Args:
        levels: percentages in (0, 100); 50 is the median and makes no band.

    Raises:
        UserError: a level is not between 0 and 100.
    """
    halves = set()
    for level in levels:
        if not 0 < level < 100:
            raise UserError(f"levels are percentages between 0 and 100, got {level:g}")
        halves.add(round(abs(level - 50), 9))
    return [(round(2 * half, 9), round(50 - half, 9), round(50 + half, 9)) for half in sorted(halves, reverse=True) if half]


def fan_of(
    measurement: xr.Dataset, estimate: xr.Dataset, item: str, levels: Sequence[float], truth: xr.Dataset | None = None, back: int = 0
) -> Fan:
    """One series with what was found of it.

    Args:
        measurement: the panel, y NaN where it is asked for.
        estimate: the data of an estimate.
        item: which series.
        levels: in percent.
        truth: what was to be found, with ``y``.
        back: steps before the horizon that are shown; around the longest gap where there is no horizon; chosen when 0.

    Raises:
        DataError: measurement or estimate lacks the series.
        UserError: a level that the estimate cannot give.
    """
    for data, name in ((measurement, "the panel"), (estimate, "the estimate")):
        if item not in data["item"].values:
            raise DataError(f"{name} has no series {item!r}")
    steps, horizon = measurement.sizes["time"], int(measurement.attrs.get("horizon", 0))
    one = measurement.sel(item=item)
    y = one["y"].values.astype(np.float64)
    place = np.searchsorted(one["time"].values, estimate["time"].values)
    alone = estimate.sel(item=[item])
    known = np.full(steps, np.nan)
    if truth is not None and item in truth["item"].values:
        known[np.searchsorted(one["time"].values, truth["time"].values)] = truth["y"].sel(item=item).values
    asked = np.zeros(steps, dtype=bool)
    asked[place] = True
    asked &= np.arange(steps) >= steps - horizon if horizon else gaps_of(y) | (np.isnan(y) & np.isfinite(known))
    shown = _stretch(y, asked, horizon, int(measurement.attrs.get("season", 1)), back)

    def spread(values: Array) -> Array:
        whole = np.full(steps, np.nan)
        whole[place] = values
        return whole[shown]

    bands = [(share, spread(quantile(alone, low / 100)[0]), spread(quantile(alone, high / 100)[0])) for share, low, high in central(levels)]
    drawn = alone["samples"].transpose("item", "sample", "time").values[0, :PATHS] if "samples" in alone else np.zeros((0, 0))
    x = one["time"].values if has_calendar(measurement) else np.arange(steps) - (steps - horizon if horizon else 0)
    paths = np.array([spread(path) for path in drawn])
    return Fan(
        item,
        x[shown],
        y[shown],
        asked[shown],
        spread(quantile(alone, 0.5)[0]),
        bands,
        paths,
        known[shown] if np.isfinite(known[shown]).any() else None,
    )


def _stretch(y: Array, asked: Array, horizon: int, season: int, back: int) -> slice:
    """The steps that are shown: a few seasons before a horizon, more after a gap, or what surrounds the longest gap."""
    steps = len(asked)
    if horizon:
        before, origin = back or max(2 * horizon, min(3 * season, 8 * horizon), 12), steps - horizon
        seen = np.flatnonzero(np.isfinite(y[:origin]))
        if len(seen) and not back:  # half of it may be what was observed last, before a gap
            before = max(before, min(origin - int(seen[-1]) - 1 + before // 2, LONGEST))
        return slice(max(0, origin - before), steps)
    if steps <= (back or LONGEST):
        return slice(0, steps)
    first, last = max(runs(asked), key=lambda gap: gap[1] - gap[0], default=(steps - 1, steps))
    length = back or min(LONGEST, max(4 * (last - first), 3 * season, 48))
    begin = min(max(0, (first + last - length) // 2), steps - length)
    return slice(begin, begin + length)


def gaps_of(y: Array) -> Array:
    """Which steps of a series are gaps: missing, and neither before its first nor after its last value.

    Args:
        y: (..., steps).
    """
    seen = np.isfinite(y)
    return ~seen & (np.cumsum(seen, -1) > 0) & (np.cumsum(seen[..., ::-1], -1)[..., ::-1] > 0)


def fan_chart(
    measurement: xr.Dataset,
    estimate_data: xr.Dataset,
    *,
    truth: xr.Dataset | None = None,
    levels: Sequence[float] = (10, 50, 90),
    items: Sequence[str] | None = None,
    most: int = 6,
    back: int | None = None,
) -> Figure:
    """Fan charts of some series: what was observed, the median and central bands of what was found, and a few paths.

    Args:
        measurement: a panel; ``attrs["horizon"]`` steps at its end are asked for, or its gaps where that is 0 or absent.
        estimate_data: the data of an estimate (`unstir_timeseries.panel.forecast`).
        truth: what was to be found, dashed.
        levels: quantiles in percent; each makes, with its mirror, a central band.
        items: the series shown; the first ``most``, of an imputation those with most gaps, where absent.
        most: how many at most, never above 8.
        back: steps shown before a horizon, or in all of an imputation; chosen when absent.

    Returns:
        A figure, a panel a series.

    Raises:
        DataError: a series that is not there.
        UserError: a level that is none, or that the estimate cannot give; ``most`` below 1.
    """
    if most < 1:
        raise UserError(f"most must be at least 1, got {most}")
    horizon = int(measurement.attrs.get("horizon", 0))
    names = [str(name) for name in measurement["item"].values]
    if items is None and not horizon:
        count = gaps_of(measurement["y"].transpose("item", "time").values).sum(1)
        names = [names[place] for place in sorted(np.argsort(-count, kind="stable")[: min(most, MOST)]) if count[place]] or names[:1]
    chosen = list(items if items is not None else names)[: min(most, MOST)]
    fans = [fan_of(measurement, estimate_data, name, levels, truth, back or 0) for name in chosen]
    figure, grid = sheet(len(fans), columns=2 if len(fans) > 1 else 1, height=1.7 if len(fans) > 1 else 2.6)
    for fan, axes in zip(fans, grid, strict=True):
        fan.draw(axes)
        plain_axes(axes)
        titled(axes, fan.title)
        time_axis(axes, measurement, fan.x, ticks=5 if len(fans) > 1 else 8)
        share_limits([axes], [fan])
    if horizon:  # all panels show the same stretch
        for axes in grid[:-2]:
            axes.xaxis.get_offset_text().set_visible(False)
    label_left(figure, grid, units_of(measurement))
    legend(figure, grid, first="observed")
    said = len(fans) < measurement.sizes["item"]
    below = [f"{len(fans)} of {measurement.sizes['item']} series" if said else "", clock_of(measurement)]
    if any(below):
        figure.supxlabel("; ".join(filter(None, below)), fontsize=8, color=QUIET)
    return figure


def score_chart(panel: xr.Dataset, scored: xr.Dataset, *, labels: xr.Dataset | xr.DataArray | Array | None = None, top: int = 5) -> Figure:
    """Series above, the anomaly score of their steps below, the highest scores marked; at most four series, those that score highest.

    Args:
        panel: dims (item, time).
        scored: ``score`` (item, time) of its steps, or of the last of them; NaN where there is none.
        labels: 1 where a step is anomalous, (item, time) like the score; shaded.
        top: how many separate peaks of a series are marked.

    Returns:
        A figure, two panels a series.

    Raises:
        DataError: the scores are of other series.
    """
    score = scored["score"].transpose("item", "time")
    names = [str(name) for name in score["item"].values]
    if missing := set(names) - {str(name) for name in panel["item"].values}:
        raise DataError(f"scores of series that the panel does not have: {', '.join(sorted(missing))}")
    if isinstance(labels, xr.Dataset):
        labels = labels["label"]
    marked = None if labels is None else np.asarray(getattr(labels, "values", labels))
    highest = np.nan_to_num(score.values, nan=-np.inf).max(1)
    chosen = sorted(np.argsort(-highest, kind="stable")[: MOST // 2])
    figure, grid = sheet(2 * len(chosen), columns=1, height=1.15 if len(chosen) > 1 else 1.6)
    x, late = axis_of(panel), panel.sizes["time"] - score.sizes["time"]
    for number, place in enumerate(chosen):
        above, below = grid[2 * number : 2 * number + 2]
        values = np.concatenate([np.full(late, np.nan), score.values[place]])
        label = None if marked is None else np.concatenate([np.zeros(late), marked[place]])
        draw_scores(above, below, x, panel["y"].sel(item=names[place]).values, values, label, top)
        titled(above, names[place])
        began = int(np.argmax(np.isfinite(values)))
        for axes, what in ((above, units_of(panel)), (below, "score")):
            plain_axes(axes)
            axes.set_ylabel(plain(what), fontsize=8, color=INK)
            time_axis(axes, panel, x)
            if began:
                axes.axvspan(x[0], x[began], color=FAINT, linewidth=0, zorder=0)
        if began:
            below.annotate("not scored", (0.005, 0.95), xycoords="axes fraction", va="top", fontsize=7, color=QUIET)
        above.tick_params(labelbottom=False)
        above.xaxis.get_offset_text().set_visible(False)
    figure.align_ylabels(grid)
    if marked is not None:
        legend(figure, grid)
    said = [f"{len(chosen)} of {len(names)} series, those that score highest" if len(chosen) < len(names) else "", clock_of(panel)]
    if any(said):
        figure.supxlabel("; ".join(filter(None, said)), fontsize=8, color=QUIET)
    return figure


def draw_scores(above: Axes | None, below: Axes, x: Array, y: Array, score: Array, label: Array | None, top: int) -> None:
    """Draw a series and its scores.

    Args:
        above: where the series goes; ``None`` to leave it out.
        below: where the score goes.
        x: (steps,).
        y: (steps,).
        score: (steps,), NaN where there is none.
        label: (steps,), 1 where anomalous.
        top: how many peaks are marked.
    """
    if above is not None:
        above.plot(x, y, color=INK, linewidth=0.8)
    below.plot(x, score, color=FOUND, linewidth=0.9)
    below.margins(y=0.12)
    marked = peaks(score, top)
    for axes, values in ((above, y), (below, score)):
        if axes is not None and marked:
            axes.plot(x[marked], values[marked], "o", color=FOUND, markersize=3.5, zorder=3)
    if label is not None:
        least = max(1, len(x) // 250)  # an event of twelve steps among thousands must be seen
        for begin, end in runs(np.asarray(label) == 1):
            wide = max(0, least - (end - begin)) // 2
            span = x[max(0, begin - wide)], x[min(len(x), end + wide) - 1]
            for axes in filter(None, (above, below)):
                axes.axvspan(*span, color=tint(EVENT, 0.4), linewidth=1.0, zorder=0.5, label="labelled anomalous")


def runs(marked: Array) -> list[tuple[int, int]]:
    """Where runs of true values begin and end (exclusive).

    Args:
        marked: (steps,) booleans.
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(marked, dtype=int), [0]])))
    return [(int(begin), int(end)) for begin, end in zip(edges[::2], edges[1::2], strict=True)]


def peaks(score: Array, count: int) -> list[int]:
    """The highest steps that are the highest of their neighbourhood, a fiftieth of the length to either side.

    Args:
        score: (steps,), NaN where there is none.
        count: how many at most.
    """
    known, apart = np.where(np.isfinite(score), score, -np.inf).astype(np.float64), max(1, len(score) // 50)
    found: list[int] = []
    for place in np.argsort(-known, kind="stable").tolist():
        if len(found) == count or not np.isfinite(known[place]):
            break
        near = known[max(0, place - apart) : place + apart + 1]
        if known[place] == near.max() and all(abs(place - other) > apart for other in found):
            found.append(place)
    return found


def share_limits(grid: Iterable[Axes], fans: Iterable[Fan]) -> None:
    """One scale for some panels: all values, and bands up to as far beyond them as they reach themselves.

    Args:
        grid: the panels.
        fans: what they show.
    """
    fans = list(fans)
    values = _finite([part for fan in fans for part in (fan.y, fan.median, *([] if fan.truth is None else [fan.truth]))])
    wide = _finite([end for fan in fans for _, *ends in fan.bands for end in ends])
    core = _finite([part for fan in fans for part in (fan.y, *([] if fan.truth is None else [fan.truth]))])
    core = core if core.size else values
    if not core.size:
        return
    reach = max(float(np.ptp(core)), 1e-9 * float(np.abs(core).max()), 1e-12)
    every = np.concatenate([core, values, wide])
    low, high = max(float(every.min()), float(core.min()) - reach), min(float(every.max()), float(core.max()) + reach)
    for axes in grid:
        axes.set_ylim(low - 0.05 * (high - low or reach), high + 0.05 * (high - low or reach))


def _finite(parts: Sequence[Array]) -> Array:
    joined = np.concatenate([np.ravel(part) for part in parts]) if parts else np.zeros(0)
    return joined[np.isfinite(joined)]
