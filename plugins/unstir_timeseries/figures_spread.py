"""Is the spread of forecasts right: coverage of the quantiles with binomial bars, and histograms of the PIT."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from unstir.plugin.canvas import INK, QUIET, plain_axes, sheet, tint, titled
from unstir.plugin.protocols import Case, Drawn, Estimate, RunView
from unstir.plugin.view import best, plural
from unstir_timeseries.calibration import Coverage, bounds_of, coverage_curve
from unstir_timeseries.canvas import FOUND
from unstir_timeseries.pooling import answers
from unstir_timeseries.scores import binomial_bar, pit_histogram
from unstir_timeseries.view import View, crps_of, has_spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BINS = 10  # of a PIT histogram


@dataclass(frozen=True)
class Calibration:
    """Is the spread right: a column a method; above, the share of targets below each quantile; below, the histogram of the PIT.

    Bars are Wilson's 95 % intervals whose trials are windows: the steps of a window are correlated.

    Args:
        columns: how many methods, those of lowest CRPS that are no point forecasts.
        methods: labels shown, in this order, instead.
    """

    columns: int = 4
    methods: tuple[str, ...] = ()

    def draw(self, run: RunView) -> Iterator[Drawn]:
        """One picture a setting; none where every method gives points."""
        for view in View.each(run):
            found = {
                label: Spread.of(view.titles[label], pairs) for label, pairs in view.answered(self.methods) if has_spread(pairs[0][0].data)
            }
            if found:
                yield self.picture(view, found)

    def picture(self, view: View, found: Mapping[str, Spread]) -> Drawn:
        """The picture of one setting."""
        kept = list(found) if self.methods else best({label: one.crps for label, one in found.items()}, self.columns)
        shown = [found[label] for label in kept]
        figure, grid = sheet(2 * len(shown), columns=len(shown), height=1.9)
        top = 1.15 * max(float(one.histogram.max()) for one in shown) * BINS
        for place, one in enumerate(shown):
            one.draw_coverage(grid[place])
            one.draw_histogram(grid[len(shown) + place], max(top, 1.6))
            titled(grid[place], one.title)
            if place:
                grid[place].tick_params(labelleft=False)
                grid[len(shown) + place].tick_params(labelleft=False)
        for axes, words in ((grid[0], "targets below, %"), (grid[len(shown)], "density of the PIT")):
            axes.set_ylabel(words, fontsize=8, color=INK)
        figure.align_ylabels(grid)
        said = "; ".join(one.finding for one in shown)
        of = f" (the {len(shown)} of lowest CRPS)" if len(shown) < len(found) else ""
        bars = f"Bars are 95 % intervals over {plural(shown[0].windows, 'window')}."
        caption = f"{view.at}Share of targets inside the 80 % interval{of}: {said}. {bars}"
        data = pd.concat([one.frame for one in found.values()], ignore_index=True)
        return Drawn(view.named("calibration"), f"Calibration{view.place}", caption, figure, data)


@dataclass(frozen=True)
class Spread:
    """How the targets of all windows lie in one method's forecasts.

    Args:
        title: of the method.
        curve: of `coverage_curve`, in shares.
        histogram: (bins,) shares of the PIT.
        inside: share inside the 80 % interval.
        windows: how many.
        crps: of the method.
    """

    title: str
    curve: Mapping[str, Any]
    histogram: Any
    inside: float
    windows: int
    crps: float

    @classmethod
    def of(cls, title: str, pairs: Sequence[tuple[Estimate, Case]]) -> Spread:
        """Count the targets.

        Args:
            title: of the method.
            pairs: forecasts with their windows.
        """
        seen = [one for one in answers(pairs) if np.isfinite(one.y).any()]
        inside = Coverage().over(pairs)["coverage-80"].value / 100
        return cls(title, coverage_curve(pairs), pit_histogram(bounds_of(seen), BINS), inside, len(seen), crps_of(pairs))

    @property
    def finding(self) -> str:
        """The share inside the 80 % interval with its bar."""
        low, high = binomial_bar(self.inside, self.windows)
        return f"{self.title} {100 * self.inside:.1f} % ({100 * low:.0f} to {100 * high:.0f} %)"

    @property
    def frame(self) -> pd.DataFrame:
        """A row a level of the coverage, and a bin of the PIT."""
        cover = pd.DataFrame({"method": self.title, "kind": "coverage", "at": self.curve["level"]})
        cover = cover.assign(**{name: self.curve[name] for name in ("share", "low", "high")})
        return pd.concat(
            [cover, pd.DataFrame({"method": self.title, "kind": "pit", "at": np.arange(BINS) / BINS, "share": self.histogram})]
        )

    def draw_coverage(self, axes: Axes) -> None:
        """Shares of targets below the quantiles against their levels, both in percent."""
        level, share, low, high = (100 * self.curve[name] for name in ("level", "share", "low", "high"))
        axes.plot([0, 100], [0, 100], color=QUIET, linewidth=0.8, linestyle=(0, (1, 2)))
        axes.vlines(level, low, high, color=tint(FOUND, 0.45), linewidth=2.2)
        axes.plot(level, share, "o-", color=FOUND, markersize=2.6, linewidth=1.1)
        plain_axes(axes)
        axes.set(xlim=(0, 100), ylim=(0, 100), xticks=[0, 50, 100], yticks=[0, 25, 50, 75, 100])
        axes.set_xlabel("level of the quantile, %", fontsize=8, color=INK)

    def draw_histogram(self, axes: Axes, top: float) -> None:
        """The PIT, whose density is 1 where the forecast is calibrated."""
        edges = np.arange(BINS + 1) / BINS
        axes.bar(edges[:-1], BINS * self.histogram, 1 / BINS, align="edge", color=tint(FOUND, 0.5), edgecolor="white", linewidth=0.6)
        axes.axhline(1, color=QUIET, linewidth=0.8, linestyle=(0, (1, 2)))
        plain_axes(axes)
        axes.set(xlim=(0, 1), ylim=(0, top), xticks=[0, 0.5, 1])
        axes.set_xlabel("PIT", fontsize=8, color=INK)
