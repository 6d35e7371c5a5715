"""Pictures of the anomaly task: scores of steps or points beside their labels, and ROC curves.

found(c) = share of anomalies that score at least c,     false alarms(c) = share of normal entries that do
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from unstir.plugin.canvas import DASHES, INK, QUIET, WIDTH, legend, plain, plain_axes, style, tint, titled
from unstir.plugin.protocols import Case, Drawn, Estimate, RunView
from unstir.plugin.view import plural, spread
from unstir_timeseries.anomaly_task import AUROC, judged
from unstir_timeseries.canvas import EVENT, Array, axis_of, clock_of, has_calendar, time_axis, units_of
from unstir_timeseries.drawing import draw_scores
from unstir_timeseries.view import View

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

AT = 0.01  # share of false alarms that captions speak of
KEPT = 300  # points of a curve in the numbers


@dataclass(frozen=True)
class Scores:
    """Scores over the steps of a series, or their distribution over points, with the labels; and the ROC curve of every method.

    Args:
        cases: how many data sets are drawn.
        most: how many methods, those of highest AUROC; all are in the numbers.
        top: how many peaks of a series are marked.
    """

    cases: int = 2
    most: int = 6
    top: int = 0

    def draw(self, run: RunView) -> Iterator[Drawn]:
        """One picture a data set and setting; none where no label is known."""
        for view in View.each(run):
            keys = list(run.cases())
            for place in spread(len(keys), self.cases):
                case = run.case(keys[place], view.setting)
                found = {label: run.estimate(label, case.key, view.setting) for label in run.labels}
                held = {view.titles[label]: one for label, one in found.items() if one is not None and "score" in one.data}
                if held and case.truth is not None:
                    yield self.picture(view, case, held)

    def picture(self, view: View, case: Case, estimates: Mapping[str, Estimate]) -> Drawn:
        """The picture of one data set."""
        curves = {title: Curve.of(estimate, case) for title, estimate in estimates.items()}
        ranked = sorted(curves, key=lambda title: -curves[title].area)[: self.most]
        shown = {title: curves[title] for title in curves if title in ranked}
        is_series = "y" in case.measurement
        figure, left, panels, corner = page(len(shown) + is_series, is_series)
        if is_series:
            self._series(panels, case, {title: estimates[title] for title in shown})
        else:
            for axes, (title, estimate) in zip(panels, ((title, estimates[title]) for title in shown), strict=True):
                histogram(axes, *judged(estimate, case), title)
        normal = next(iter(shown.values())).normal
        for place, (title, curve) in enumerate(shown.items()):
            curve.draw(corner, plain(f"{title} {curve.area:.4f}", 34), place)
        floor = 10 ** math.floor(math.log10(1 / max(normal, 10)))
        chance = np.geomspace(floor, 1, 50)
        corner.plot(chance, chance, color=QUIET, linewidth=0.8, linestyle=(0, (1, 2)))
        plain_axes(corner)
        corner.set(xscale="log", xlim=(floor, 1), ylim=(0, 1.02))
        corner.set_xlabel("share of normal ones that score as high", fontsize=8, color=INK)
        corner.set_ylabel("share of anomalies found", fontsize=8, color=INK)
        titled(corner, "ROC (area)")
        below = corner.legend(frameon=False, fontsize=7, labelcolor=INK, loc="upper left", bbox_to_anchor=(-0.08, -0.2), borderaxespad=0)
        below.set_in_layout(False)  # the page is high enough
        legend(left, panels, columns=3)
        if is_series and clock_of(case.measurement):
            panels[-1].set_xlabel(clock_of(case.measurement), fontsize=8, color=QUIET)
        data = pd.concat([curve.frame.assign(method=title) for title, curve in curves.items()], ignore_index=True)
        caption = view.at + finding(curves, "step" if is_series else "point")
        return Drawn(view.named("scores", case.key), f"Scores, {case.key}{view.place}", caption, figure, data, case.key)

    def _series(self, panels: list[Axes], case: Case, estimates: Mapping[str, Estimate]) -> None:
        """The first series that has an anomaly, and the scores of its steps, a panel a method."""
        assert case.truth is not None
        label = case.truth["label"].transpose("item", "time")
        row = int(np.argmax((label.values == 1).any(1)))
        name, began = str(label["item"].values[row]), case.measurement.sizes["time"] - label.sizes["time"]
        x, y = axis_of(case.measurement)[began:], case.measurement["y"].sel(item=name).values[began:]
        if not has_calendar(case.measurement):
            x = np.arange(began, began + len(x))
        for place, (title, estimate) in enumerate(estimates.items()):
            score = estimate.data["score"].sel(item=name).values
            draw_scores(panels[0] if place == 0 else None, panels[place + 1], x, y, score, label.values[row], self.top)
            titled(panels[place + 1], title)
        titled(panels[0], name)
        for place, axes in enumerate(panels):
            plain_axes(axes, ticks=4)
            time_axis(axes, case.measurement, x)
            axes.set_ylabel(plain(units_of(case.measurement)) if place == 0 else "score", fontsize=8, color=INK)
            if place < len(panels) - 1:
                axes.tick_params(labelbottom=False)
                axes.xaxis.get_offset_text().set_visible(False)


def page(count: int, is_series: bool) -> tuple[Figure, SubFigure, list[Axes], Axes]:
    """A page with panels at the left (below each other for a series, in two columns for points) and one for ROC curves at the right.

    Args:
        count: panels at the left.
        is_series: are they below each other?

    Returns:
        The page, its left part, the panels there, and the one at the right.
    """
    from matplotlib.figure import Figure

    columns = 1 if is_series else 2
    rows = math.ceil(count / columns)
    height = max(rows * (0.95 if is_series else 1.35) + 0.4, 4.2)
    figure = Figure(figsize=(WIDTH, height), layout="constrained", facecolor="white")
    left, right = cast("list[SubFigure]", figure.subfigures(1, 2, width_ratios=[4.9, 2.7]))
    panels = list(left.subplots(rows, columns, squeeze=False).flat)
    for axes in panels[count:]:
        axes.remove()
    corner = right.subplots()
    corner.set_box_aspect(1.1)
    corner.set_anchor("N")
    return figure, left, panels[:count], corner


def histogram(axes: Axes, score: Array, label: Array, title: str) -> None:
    """Shares of normal and of anomalous points at each score; a logarithmic axis where scores are positive and spread over decades.

    Args:
        axes: where.
        score: (rows, entries), minus infinity where nothing was scored.
        label: 0, 1 or NaN.
        title: of the method.
    """
    seen = np.isfinite(score)
    values, kinds = score[seen], label[seen]
    positive = values[values > 0]
    is_log = len(positive) == len(values) and len(values) > 0 and float(values.max()) > 30 * float(np.median(values))
    if is_log:
        axes.set_xscale("log")
    ends = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    ends = ends if ends[1] > ends[0] else (ends[0] - 0.5, ends[1] + 0.5)
    edges = np.geomspace(*ends, 41) if is_log else np.linspace(*ends, 41)
    for kind, colour, name in ((0, QUIET, "normal"), (1, EVENT, "anomalous")):
        own = values[kinds == kind]
        shares = np.histogram(own, edges)[0] / max(1, len(own))
        axes.stairs(100 * shares, edges, fill=True, color=tint(colour, 0.35), zorder=1.5 + kind / 10)
        axes.stairs(100 * shares, edges, color=colour, linewidth=1.0, label=name, zorder=2 + kind / 10)
    plain_axes(axes, ticks=4)
    axes.set_xlabel("score", fontsize=8, color=INK)
    axes.set_ylabel("share, %", fontsize=8, color=INK)
    titled(axes, title)


@dataclass(frozen=True)
class Curve:
    """A ROC curve.

    Args:
        threshold: scores, falling.
        false: share of normal entries that score at least so much.
        found: share of anomalies that do.
        area: AUROC, ties half.
        normal: how many normal entries there are.
        anomalies: how many anomalous ones.
    """

    threshold: Array
    false: Array
    found: Array
    area: float
    normal: int
    anomalies: int

    @classmethod
    def of(cls, estimate: Estimate, case: Case) -> Curve:
        """The curve of a method.

        Args:
            estimate: with ``score``.
            case: with its truth.
        """
        score, label = judged(estimate, case)
        known = np.isfinite(label)
        values, place = np.unique(-score[known], return_inverse=True)
        anomalous = label[known] == 1
        hits, alarms = (np.cumsum(np.bincount(place, kind, len(values))) for kind in (anomalous, ~anomalous))
        area = AUROC()(estimate, case)["auroc"].value
        return cls(-values, alarms / alarms[-1], hits / hits[-1], area, int(alarms[-1]), int(hits[-1]))

    def at(self, share: float) -> float:
        """Share of anomalies found at the lowest threshold that gives at most this share of false alarms; 0 where none does.

        Args:
            share: of normal entries.
        """
        allowed = np.flatnonzero(self.false <= share)
        return float(self.found[allowed[-1]]) if len(allowed) else 0.0

    @property
    def frame(self) -> pd.DataFrame:
        """The curve, thinned."""
        kept = np.unique(np.linspace(0, len(self.false) - 1, min(KEPT, len(self.false))).round().astype(int))
        columns: dict[str, Any] = {"threshold": self.threshold, "false_alarms": self.false, "found": self.found}
        return pd.DataFrame(columns).iloc[kept]

    def draw(self, axes: Axes, name: str, place: int) -> None:
        """A staircase: ties are one step.

        Args:
            axes: where, logarithmic in false alarms.
            name: in the legend.
            place: of its colour.
        """
        look = style(place) | {"linestyle": DASHES[place % len(DASHES)], "linewidth": 1.3}
        axes.plot(
            np.concatenate([[1e-12], np.maximum(self.false, 1e-12)]),
            np.concatenate([[0.0], self.found]),
            drawstyle="steps-post",
            label=name,
            **look,
        )


def finding(curves: Mapping[str, Curve], noun: str) -> str:
    """Who ranks best, and what that finds.

    Args:
        curves: by method.
        noun: of what is scored.
    """
    ranked = sorted(curves, key=lambda title: -curves[title].area)
    first = curves[ranked[0]]
    others = ", ".join(f"{title} {curves[title].area:.4f}" for title in ranked[1:])
    said = f"Highest AUROC: {ranked[0]} {first.area:.4f}" + (f" ({others})" if others else "")
    what = plural(first.anomalies, f"anomalous {noun}")
    caught = f"at {100 * AT:g} % false alarms it finds {100 * first.at(AT):.1f} % of {what}"
    return f"{said}; {caught} among {plural(first.normal, f'normal {noun}')}."
