"""How few evaluations do: CRPS against evaluations of the denoiser, beside many steps of the ancestral sampler."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from unstir.plugin.canvas import INK, MOST, QUIET, label_left, plain_axes, sheet, tint, titled
from unstir.plugin.options import positive
from unstir.plugin.protocols import Drawn, RunView
from unstir_timeseries.canvas import FOUND
from unstir_timeseries.metrics import CRPS
from unstir_timeseries.view import View

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DRAWS = 1000  # of the bootstrap over windows


@dataclass(frozen=True)
class Point:
    """One method of a family.

    Args:
        label: of the method.
        nfe: evaluations a path.
        crps: pooled over the windows.
        parts: by window, whose mean is the score.
        keys: of the windows.
    """

    label: str
    nfe: float
    crps: float
    parts: tuple[float, ...]
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """Methods that differ in their steps alone.

    Args:
        name: what their labels begin with.
        few: by evaluations, the reference left out.
        reference: many steps, ``None`` where there are none.
    """

    name: str
    few: Sequence[Point]
    reference: Point | None

    def ratio(self, point: Point) -> tuple[float, float, float]:
        """CRPS relative to the reference, with its 95 % interval over windows drawn again for both; NaN ends where windows differ."""
        if self.reference is None or not self.reference.crps > 0:
            return math.nan, math.nan, math.nan
        value = point.crps / self.reference.crps
        if point.keys != self.reference.keys or not len(point.keys) == len(point.parts) == len(self.reference.parts):
            return value, math.nan, math.nan
        draws = np.random.default_rng(0).integers(len(point.parts), size=(DRAWS, len(point.parts)))
        found = np.array(point.parts)[draws].mean(1) / np.array(self.reference.parts)[draws].mean(1)
        low, high = np.quantile(found, [0.025, 0.975])
        return value, float(low), float(high)


@dataclass(frozen=True)
class Steps:
    """CRPS against evaluations: a panel a family of methods, many ancestral steps as a line with a band of two percent about it.

    A family are the methods whose labels begin with the same word, up to the first hyphen. Bars are 95 % intervals of the ratio to the
    reference over windows.

    Args:
        reference: a word in the label of the method that the others are compared with; the one of most evaluations of each family.
        within: half-width of the band, as a share.

    Raises:
        UserError: ``within`` is not positive.
    """

    reference: str = "ancestral"
    within: float = 0.02

    def __post_init__(self) -> None:
        positive(self, "within")

    def draw(self, run: RunView) -> Iterator[Drawn]:
        """One picture a setting; none without evaluations."""
        for view in View.each(run):
            families = self.families(view)[:MOST]
            if families:
                yield self.picture(view, families)

    def families(self, view: View) -> list[Family]:
        """Methods that have evaluations, by the first word of their labels."""
        found: dict[str, list[Point]] = {}
        for label, pairs in view.answered():
            nfe = float(np.mean([estimate.nfe for estimate, _ in pairs]))
            if nfe > 0:
                score = CRPS().over(pairs)["crps"]
                keys = tuple(case.key for _, case in pairs)
                found.setdefault(label.partition("-")[0], []).append(Point(label, nfe, score.value, score.parts, keys))
        made = []
        for name, points in found.items():
            marked = [point for point in points if self.reference in point.label]
            reference = max(marked, key=lambda point: point.nfe) if marked else None
            few = sorted((point for point in points if point is not reference), key=lambda point: point.nfe)
            made.append(Family(name, few, reference))
        return made

    def picture(self, view: View, families: Sequence[Family]) -> Drawn:
        """The picture of one setting."""
        figure, grid = sheet(len(families), columns=min(2, len(families)), height=2.6, sharey=True, sharex=True)
        records = []
        ticks = sorted({point.nfe for family in families for point in family.few})
        for axes, family in zip(grid, families, strict=True):
            self.panel(axes, family, ticks)
            for point in [*family.few, *([family.reference] if family.reference else [])]:
                ratio, low, high = family.ratio(point)
                records.append({"family": family.name, "method": point.label, "nfe": point.nfe, "crps": point.crps}
                               | {"ratio": ratio, "ratio-low": low, "ratio-high": high})  # fmt: skip
        label_left(figure, grid, "CRPS")
        caption = view.at + " ".join(self.finding(family) for family in families)
        return Drawn(view.named("steps"), f"CRPS against evaluations{view.place}", caption, figure, pd.DataFrame(records))

    def panel(self, axes: Axes, family: Family, ticks: Sequence[float]) -> None:
        """One family; ``ticks``: the evaluations that are written below."""
        from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

        points, reference = family.few, family.reference
        if reference is not None:
            ends = reference.crps * (1 - self.within), reference.crps * (1 + self.within)
            axes.axhspan(*ends, color=tint(QUIET, 0.18), linewidth=0)
            axes.axhline(reference.crps, color=QUIET, linewidth=1.0, linestyle=(0, (4, 2)))
            words = f"{reference.nfe:g} {self.reference} steps, ±{100 * self.within:g} %"
            axes.annotate(words, (0.99, ends[0]), xycoords=("axes fraction", "data"), ha="right", va="top", fontsize=7, color=QUIET)
            for point in points:
                _, low, high = family.ratio(point)
                if math.isfinite(low):
                    axes.vlines(point.nfe, low * reference.crps, high * reference.crps, color=tint(FOUND, 0.5), linewidth=2)
        axes.plot([point.nfe for point in points], [point.crps for point in points], "o-", color=FOUND, markersize=4.5, linewidth=1.3)
        axes.set_xscale("log")
        axes.margins(x=0.12, y=0.15)
        plain_axes(axes)
        axes.xaxis.set_major_locator(FixedLocator(list(ticks)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xlabel("evaluations a path", fontsize=8, color=INK)
        titled(axes, family.name)

    def finding(self, family: Family) -> str:
        """The fewest evaluations that do."""
        reference, points = family.reference, [point for point in family.few if math.isfinite(point.crps)]
        if not points:
            return ""
        lowest = min(points, key=lambda point: point.crps)
        if reference is None:
            return f"{family.name}: lowest CRPS {lowest.crps:.4f} with {lowest.nfe:g} evaluations."
        beside = f"{reference.nfe:g} {self.reference} steps ({reference.crps:.4f})"
        fit = [point for point in points if point.crps <= reference.crps * (1 + self.within)]
        if not fit:
            gap = 100 * (lowest.crps / reference.crps - 1)
            near = f"nearest is {lowest.crps:.4f} with {lowest.nfe:g} evaluations, {gap:+.1f} %"
            return f"{family.name}: none is within {100 * self.within:g} % of {beside}; {near}."
        first = min(fit, key=lambda point: point.nfe)
        gap = 100 * (first.crps / reference.crps - 1)
        return (
            f"{family.name}: {first.nfe:g} evaluations are within {100 * self.within:g} % of {beside}: CRPS {first.crps:.4f}, {gap:+.1f} %."
        )
