"""Pictures of a run: fan charts, the score by step of the horizon and by window; those of the other questions are listed here too."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from unstir.errors import UserError
from unstir.plugin.canvas import INK, MOST, QUIET, label_left, legend, plain, plain_axes, sheet, style, titled
from unstir.plugin.protocols import Case, Drawn, Estimate, RunView
from unstir.plugin.view import best, compared, spread
from unstir_timeseries.calibration import Coverage
from unstir_timeseries.canvas import clock_of, has_calendar, time_axis, units_of
from unstir_timeseries.drawing import Fan, fan_of, share_limits
from unstir_timeseries.figures_generated import Leads, Synthetic
from unstir_timeseries.figures_scores import Scores
from unstir_timeseries.figures_spread import Calibration
from unstir_timeseries.figures_steps import Steps
from unstir_timeseries.metrics import crps_by_step
from unstir_timeseries.view import View, crps_of, has_spread

__all__ = ["Calibration", "Fans", "Leads", "PerHorizon", "Scores", "Steps", "Synthetic", "Windows"]


@dataclass(frozen=True)
class Fans:
    """Fan charts of some windows: a row a series, a column a method, one scale a row.

    Windows and series are spread evenly over all there are, whatever their scores. The methods are those of lowest CRPS in the run's
    table: the best one without a diffusion model, and the best with one.

    Args:
        windows: how many windows are drawn of each setting.
        rows: how many series.
        columns: how many methods.
        levels: quantiles in percent; each makes, with its mirror, a central band.
        methods: labels shown, in this order, instead of the best.
        series: names shown, instead of some spread over all.
        back: steps shown before the horizon; chosen when 0.

    Raises:
        UserError: nothing would be drawn, or more than eight panels in a picture.
    """

    windows: int = 2
    rows: int = 2
    columns: int = 3
    levels: tuple[float, ...] = (10.0, 25.0, 50.0, 75.0, 90.0)
    methods: tuple[str, ...] = ()
    series: tuple[str, ...] = ()
    back: int = 0

    def __post_init__(self) -> None:
        rows, columns = len(self.series) or self.rows, len(self.methods) or self.columns
        if min(self.windows, rows, columns) < 1:
            raise UserError(f"windows, rows and columns must be at least 1, got {self.windows}, {rows} and {columns}")
        if self.back < 0:
            raise UserError(f"back must not be negative, got {self.back}")
        if rows * columns > MOST:
            raise UserError(f"a picture has at most {MOST} panels, got {rows} series by {columns} methods")

    def draw(self, run: RunView) -> Iterator[Drawn]:
        """One picture a window and setting."""
        for view in View.each(run):
            keys = list(run.cases())
            for place in spread(len(keys), self.windows):
                found = {label: run.estimate(label, keys[place], view.setting) for label in view.asked(self.methods)}
                held = {label: one for label, one in found.items() if one is not None and "quantiles" in one.data}
                if held:
                    yield self.picture(view, run.case(keys[place], view.setting), self.chosen(view, held))

    def chosen(self, view: View, held: Mapping[str, Estimate]) -> dict[str, Estimate]:
        """The answers that are drawn, in the recipe's order."""
        if self.methods:
            return {label: held[label] for label in self.methods if label in held}
        told = view.told()
        scores = {label: told.get(label, math.inf) for label in held}
        learned = {label: score for label, score in scores.items() if held[label].nfe > 0}
        plain_ones = {label: score for label, score in scores.items() if label not in learned}
        kept = {*best(plain_ones, 1 if learned else self.columns)}
        kept |= {*best(learned, self.columns - len(kept))}
        kept |= {*best({label: score for label, score in scores.items() if label not in kept}, self.columns - len(kept))}
        return {label: held[label] for label in held if label in kept}

    def picture(self, view: View, case: Case, estimates: Mapping[str, Estimate]) -> Drawn:
        """The picture of one window."""
        measurement, truth = case.measurement, case.truth
        every = [str(name) for name in measurement["item"].values]
        names = list(self.series) or [every[place] for place in spread(len(every), self.rows)]
        figure, grid = sheet(len(names) * len(estimates), columns=len(estimates), height=1.75)
        records: list[pd.DataFrame] = []
        for row, name in enumerate(names):
            panels, fans = grid[row * len(estimates) : (row + 1) * len(estimates)], []
            for axes, (label, estimate) in zip(panels, estimates.items(), strict=True):
                fan = fan_of(measurement, estimate.data, name, self.levels, truth, self.back)
                fan.draw(axes)
                plain_axes(axes)
                time_axis(axes, measurement, fan.x, ticks={1: 8, 2: 5}.get(len(estimates), 4))
                titled(axes, view.titles[label] if row == 0 else "")
                fans.append(fan)
                records.append(numbers(fan, view.titles[label]))
            share_limits(panels, fans)
            for axes in panels[1:]:
                axes.tick_params(labelleft=False)
            panels[0].set_ylabel(plain(f"{name}, {units_of(measurement)}", 34), fontsize=8, color=INK)
            if row < len(names) - 1:
                for axes in panels:
                    axes.xaxis.get_offset_text().set_visible(False)
        figure.align_ylabels(grid)
        legend(figure, grid, first="observed")
        if clock_of(measurement):
            figure.supxlabel(clock_of(measurement), fontsize=8, color=QUIET)
        begin = str(case.context.get("origin", "")) or str(measurement["time"].values[-1])[:16]
        title = f"{'Forecasts' if measurement.attrs.get('horizon') else 'Gaps'} from {begin}{view.place}"
        caption = f"{view.at}{self.finding(view, case, estimates)}"
        return Drawn(view.named("fans", case.key), title, caption, figure, pd.concat(records, ignore_index=True), case.key)

    def finding(self, view: View, case: Case, estimates: Mapping[str, Estimate]) -> str:
        """Who is nearest to the truth in this window, over all its series."""
        count = f"{case.measurement.sizes['item']} series"
        if case.truth is None or not np.isfinite(case.truth["y"].values).any():
            return f"What {', '.join(view.titles[label] for label in estimates)} say of {count}; the truth is not known."
        scores = {view.titles[label]: crps_of([(estimate, case)]) for label, estimate in estimates.items()}
        shares = [
            f"{view.titles[label]} {Coverage().over([(estimate, case)])['coverage-80'].value:.0f} %"
            for label, estimate in estimates.items() if has_spread(estimate.data)
        ]  # fmt: skip
        said = f"Lowest CRPS of this window, over all {count}: {compared(scores)}."
        return said + (f" The 80 % band holds of the targets: {', '.join(shares)}." if shares else "")


def numbers(fan: Fan, method: str) -> pd.DataFrame:
    """What a fan shows, a row a step that was asked for.

    Args:
        fan: the fan.
        method: whose.
    """
    columns: dict[str, Any] = {"series": fan.title, "method": method, "time": fan.x, "median": fan.median}
    for share, low, high in fan.bands:
        columns |= {f"low-{share:g}": low, f"high-{share:g}": high}
    columns["truth"] = np.nan if fan.truth is None else fan.truth
    return pd.DataFrame(columns)[fan.asked]


@dataclass(frozen=True)
class PerHorizon:
    """CRPS of each step of the horizon, relative to the mean size of all steps; a panel a setting, one scale.

    Args:
        most: how many methods, those of lowest CRPS; all are in the numbers.
        methods: labels shown instead.
    """

    most: int = 7
    methods: tuple[str, ...] = ()

    def draw(self, run: RunView) -> Iterator[Drawn]:
        """One picture; none where no horizon was asked for."""
        found: dict[str, dict[str, Any]] = {}
        for view in View.each(run):
            scored = {view.titles[label]: crps_by_step(pairs) for label, pairs in view.answered(self.methods) if forecasts(pairs)}
            if known := {title: line for title, line in scored.items() if np.isfinite(line).any()}:
                found[view.words] = known
        if not found:
            return
        totals = {title: np.mean([np.nanmean(lines[title]) for lines in found.values() if title in lines])
                  for lines in found.values() for title in lines}  # fmt: skip
        shown = best({title: float(total) for title, total in totals.items()}, self.most)
        figure, grid = sheet(min(len(found), 4), columns=min(2, len(found)), height=2.5, sharey=True)
        for axes, (words, lines) in zip(grid, found.items(), strict=False):
            for place, title in enumerate(shown):
                if title in lines:
                    axes.plot(np.arange(1, len(lines[title]) + 1), lines[title], **style(place), label=plain(title))
            plain_axes(axes)
            axes.set_xlim(1, max(1.5, *(len(line) for line in lines.values())))
            titled(axes, words)
            axes.set_xlabel("step of the horizon", fontsize=8, color=INK)
        grid[0].set_ylim(bottom=0)  # shared, and the top is known only now
        label_left(figure, grid, "CRPS")
        legend(figure, grid, columns=4)
        data = pd.concat([
            pd.DataFrame({"setting": words, "method": title, "step": np.arange(1, len(line) + 1), "crps": line})
            for words, lines in found.items() for title, line in lines.items()
        ], ignore_index=True)  # fmt: skip
        caption = " ".join(self.finding(words, lines) for words, lines in found.items())
        yield Drawn("per-horizon", "CRPS by step of the horizon", caption, figure, data)

    def finding(self, words: str, lines: Mapping[str, Any]) -> str:
        """Who is best on the whole, and how its score grows."""
        means = {title: float(np.nanmean(line)) for title, line in lines.items()}
        first = min(means, key=means.__getitem__)
        line, size = lines[first], max(1, len(lines[first]) // 4)
        ends = float(np.nanmean(line[:size])), float(np.nanmean(line[-size:]))
        at = f"{words[:1].upper()}{words[1:]}: " if words else ""
        steps = "step" if size == 1 else f"{size} steps"
        said = f"{at}{first} has the lowest CRPS, {means[first]:.4f} on the whole"
        said += f", {ends[0]:.4f} over the first {steps} and {ends[1]:.4f} over the last"
        wins = sum(1 for place in range(len(line)) if all(not other[place] < line[place] for other in lines.values()))
        return said + (f"; it is lowest at {wins} of {len(line)} steps." if len(lines) > 1 else ".")


def forecasts(pairs: Sequence[tuple[Estimate, Case]]) -> bool:
    """Are these forecasts of one horizon?

    Args:
        pairs: answers with their windows.
    """
    return bool(pairs[0][1].measurement.attrs.get("horizon")) and len({case.truth.sizes["time"] for _, case in pairs}) == 1  # type: ignore[union-attr]


@dataclass(frozen=True)
class Windows:
    """CRPS of every window over time.

    Args:
        most: how many methods, those of lowest CRPS; all are in the numbers.
        methods: labels shown instead.
    """

    most: int = 5
    methods: tuple[str, ...] = ()

    def draw(self, run: RunView) -> Iterator[Drawn]:
        """One picture a setting; none of a single window."""
        for view in View.each(run):
            records, totals = [], {}
            for label, pairs in view.answered(self.methods):
                title = view.titles[label]
                totals[title] = crps_of(pairs)
                for estimate, case in pairs:
                    assert case.truth is not None
                    records.append(
                        {"method": title, "window": case.key, "origin": case.truth["time"].values[0], "crps": crps_of([(estimate, case)])}
                    )
            if len({record["window"] for record in records}) > 1:
                yield self.picture(view, pd.DataFrame(records), totals)

    def picture(self, view: View, data: pd.DataFrame, totals: Mapping[str, float]) -> Drawn:
        """The picture of one setting."""
        panel = next(iter(view.targets.values())).measurement
        shown = best(totals, self.most)
        order = {key: number for number, key in enumerate(view.targets)}
        figure, (axes,) = sheet(1, columns=1, height=2.6)
        known = has_calendar(panel)
        for place, title in enumerate(shown):
            own = data[data["method"] == title]
            x = own["origin"].to_numpy() if known else own["window"].map(order).to_numpy() + 1
            axes.plot(x, own["crps"], "o", markersize=2.8, **style(place) | {"linewidth": 1.1}, label=plain(title))
        plain_axes(axes)
        axes.set_ylim(bottom=0)
        every = np.unique(data["origin"].to_numpy()) if known else np.arange(1, len(order) + 1)
        margin = (every[-1] - every[0]) / 50
        time_axis(axes, panel, np.array([every[0] - margin, every[-1] + margin]), ticks=8)
        axes.set_xlabel("beginning of the window" if known else "window", fontsize=8, color=INK)
        label_left(figure, [axes], "CRPS of the window")
        legend(figure, [axes], columns=5)
        named = {key: str(stamp)[:16].replace("T", " ") for key, stamp in zip(data["window"], data["origin"].to_numpy(), strict=True)}
        names = named if known else {key: f"number {number + 1}" for key, number in order.items()}
        title, caption = f"CRPS window by window{view.place}", view.at + self.finding(data, totals, names)
        return Drawn(view.named("windows"), title, caption, figure, data)

    def finding(self, data: pd.DataFrame, totals: Mapping[str, float], names: Mapping[str, str]) -> str:
        """Who wins how many windows, and where it is worst."""
        table = data.pivot(index="window", columns="method", values="crps")
        first = min(totals, key=lambda title: totals[title] if math.isfinite(totals[title]) else math.inf)
        own = data[data["method"] == first].dropna(subset="crps")
        if own.empty:
            return "No window has a target that differs from zero."
        worst = own.loc[own["crps"].idxmax()]
        wins = int((table.drop(columns=first).min(axis=1) > table[first]).sum())
        whole = f"{first} has the lowest CRPS over all, {totals[first]:.4f}"
        beside = f", and the lowest of all methods in {wins} of {len(table)} windows" if table.shape[1] > 1 else ""
        return f"{whole}{beside}; its worst window ({names[worst['window']]}) has {worst['crps']:.4f}."
