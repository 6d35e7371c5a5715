"""How few evaluations do: numbers of a run against evaluations a sample, a line a family of methods that differ in their steps alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from unstir.errors import UserError
from unstir.plugin.canvas import INK, QUIET, legend, plain_axes, sheet, style, titled
from unstir.plugin.protocols import Drawn, RunView
from unstir.plugin.view import View

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Families = dict[str, list[dict[str, float]]]
"""By name: numbers by key, a dict a method, fewest evaluations first."""
TITLES = {"valid": "valid before correction, %", "fcd": "FCD", "vun": "V x U x N, %", "reward": "mean reward"}


@dataclass(frozen=True)
class Steps:
    """Numbers of the run's table against evaluations: a panel a number, a line a family, methods without evaluations left out.

    A family are the methods whose labels begin alike, up to the last hyphen: ``s4-50`` and ``s4-100``.

    Args:
        metrics: keys of the numbers; those that the run lacks have no panel.

    Raises:
        UserError: no key is given.
    """

    metrics: tuple[str, ...] = ("valid", "fcd")

    def __post_init__(self) -> None:
        if not self.metrics:
            raise UserError("metrics must name at least one number to be drawn against evaluations")

    def draw(self, run: RunView) -> Iterator[Drawn]:
        """One picture a setting; none where nothing was evaluated."""
        for view in View.each(run):
            known = set(run.rows["metric"]) if len(run.rows) else set()
            found = {key: view.means(key) if key in known else {} for key in ("nfe", *self.metrics)}
            shown = [key for key in self.metrics if found[key]]
            families = self.families(view.run.labels, found)
            if shown and families:
                yield self.picture(view, shown, families)

    def families(self, labels: Sequence[str], found: Mapping[str, Mapping[str, float]]) -> Families:
        """The families, in the order of the recipe.

        Args:
            labels: of the methods.
            found: numbers by key and label.
        """
        made: Families = {}
        for label in labels:
            if found["nfe"].get(label, 0) > 0:
                numbers = {key: values.get(label, math.nan) for key, values in found.items()}
                made.setdefault(label.rpartition("-")[0] or label, []).append(numbers)
        return {name: sorted(points, key=lambda point: point["nfe"]) for name, points in made.items()}

    def picture(self, view: View, shown: list[str], families: Families) -> Drawn:
        """The picture of one setting.

        Args:
            view: of the run.
            shown: keys with numbers.
            families: what is drawn.
        """
        figure, grid = sheet(len(shown), columns=min(2, len(shown)), height=3.2, sharex=True)
        for axes, key in zip(grid, shown, strict=True):
            self.panel(axes, key, families)
        legend(figure, grid)
        records = [{"family": name, **point} for name, points in families.items() for point in points]
        caption = view.at + " ".join(self.finding(view, key, families) for key in shown)
        return Drawn(view.named("steps"), f"Quality against evaluations{view.place}", caption.strip(), figure, pd.DataFrame(records))

    def panel(self, axes: Axes, key: str, families: Families) -> None:
        """One number.

        Args:
            axes: where.
            key: of the number.
            families: what is drawn.
        """
        from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

        for place, (name, points) in enumerate(families.items()):
            across, up = [point["nfe"] for point in points], [point[key] for point in points]
            axes.plot(across, up, marker="o", markersize=3.5, label=name, **style(place))
        axes.set_xscale("log")
        plain_axes(axes)
        axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.tick_params(axis="x", colors=QUIET, labelsize=7)
        axes.set_xlabel("evaluations a sample", fontsize=8, color=INK)
        titled(axes, TITLES.get(key, key))

    def finding(self, view: View, key: str, families: Families) -> str:
        """The best number, and the best with at most a hundred evaluations.

        Args:
            view: of the run, which says whether more is better.
            key: of the number.
            families: what is drawn.
        """
        rows = view.run.rows
        better = str(rows.loc[rows["metric"] == key, "better"].iloc[0]) if "better" in rows else "neither"
        points = [(name, point) for name, each in families.items() for point in each if math.isfinite(point[key])]
        if better not in ("up", "down") or not points:
            return ""
        sign = 1 if better == "down" else -1

        def said(pair: tuple[str, dict[str, float]]) -> str:
            return f"{pair[1][key]:.4g} ({pair[0]}, {pair[1]['nfe']:g} evaluations)"

        best = min(points, key=lambda pair: sign * pair[1][key])
        few = [pair for pair in points if pair[1]["nfe"] <= 100]
        near = f"; with at most 100 {said(min(few, key=lambda pair: sign * pair[1][key]))}" if few and best not in few else ""
        return f"Best {TITLES.get(key, key).removesuffix(', %')}: {said(best)}{near}."
