"""Pictures of what was generated: synthetic windows beside real ones, with their second moments; and ECG records beside held-out ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pandas as pd

from unstir.errors import MissingExtra
from unstir.plugin.canvas import INK, MOST, QUIET, WIDTH, legend, plain, plain_axes, sheet, style, titled
from unstir.plugin.protocols import Case, Drawn, Estimate, RunView
from unstir.plugin.view import spread
from unstir_timeseries.canvas import FOUND, Array
from unstir_timeseries.view import View

if TYPE_CHECKING:
    from matplotlib.figure import SubFigure

SHOWN = 3  # windows of a column
DAYS = 7  # seasons of a window that are shown, at its end
SPACING_MV = 2.0  # between two leads


@dataclass(frozen=True)
class Synthetic:
    """Synthetic windows beside held-out ones, the first few of each; below, mean autocorrelations and mean log periodograms.

    Args:
        columns: how many methods, the last of the recipe.
        methods: labels shown instead.
    """

    columns: int = 5
    methods: tuple[str, ...] = ()

    def draw(self, run: RunView) -> Iterator[Drawn]:
        """One picture a panel and setting; none without held-out windows."""
        for view in View.each(run):
            for case in view.cases():
                found = {label: run.estimate(label, case.key, view.setting) for label in view.asked(self.methods)}
                held = {view.titles[label]: one for label, one in found.items() if one is not None and "windows" in one.data}
                if held and case.truth is not None:
                    yield self.picture(view, case, dict(list(held.items())[-self.columns :]))

    def picture(self, view: View, case: Case, estimates: Mapping[str, Estimate]) -> Drawn:
        """The picture of one panel."""
        from matplotlib.figure import Figure

        from unstir_timeseries.likeness import autocorrelation, log_periodogram
        from unstir_timeseries.quality import ACFDistance, SpectrumDistance, both

        assert case.truth is not None
        first = next(iter(estimates.values()))
        windows = {"held out": both(first, case)[1]} | {title: both(estimate, case)[0] for title, estimate in estimates.items()}
        figure = Figure(figsize=(WIDTH, 5.0), layout="constrained", facecolor="white")
        above, under = cast("list[SubFigure]", figure.subfigures(2, 1, height_ratios=[1.2, 1]))
        season, length = int(case.context["season"]), windows["held out"].shape[1]
        panels = list(above.subplots(1, len(windows), squeeze=False).flat)
        side_by_side(panels, windows, case, min(length, DAYS * season if season > 1 else 200))
        lags = min(168, length // 2)
        moments = {title: (autocorrelation(made, lags).mean(0), log_periodogram(made).mean(0)) for title, made in windows.items()}
        lag, cycles = np.arange(1, lags + 1), np.arange(1, length // 2 + 1) * season / length
        below = list(under.subplots(1, 2))
        for place, (title, (acf, spectrum)) in enumerate(moments.items()):
            look: dict[str, Any] = style(place - 1) if place else {"color": INK, "linewidth": 2.2}
            below[0].plot(lag, acf, label=plain(title), **look)
            below[1].plot(cycles, spectrum, label=plain(title), **look)
        across = (
            f"lag, steps ({case.context['freq']})",
            f"frequency, cycles in {season} steps" if season > 1 else "frequency, cycles a step",
        )
        for axes, word, up in zip(below, across, ("autocorrelation", "power, dB"), strict=True):
            plain_axes(axes)
            axes.set_xlabel(word, fontsize=8, color=INK)
            axes.set_ylabel(up, fontsize=8, color=INK)
        legend(under, below, columns=min(len(windows), 6))
        numbers = [
            pd.DataFrame({"method": title, "kind": kind, "at": at, "value": value})
            for title, pair in moments.items() for kind, at, value in (("acf", lag, pair[0]), ("spectrum_db", cycles, pair[1]))
        ]  # fmt: skip
        said = [
            f"{title} {ACFDistance()(estimate, case)['acf-distance'].value:.3f} and "
            f"{SpectrumDistance()(estimate, case)['spectrum-distance'].value:.2f} dB" for title, estimate in estimates.items()
        ]  # fmt: skip
        counts = f"{len(windows['held out'])} held-out and {len(windows[next(iter(estimates))])} synthetic windows"
        caption = f"{view.at}Distance of mean autocorrelation and of mean spectrum from {counts}: {'; '.join(said)}."
        title = f"Synthetic windows, {case.key}{view.place}"
        return Drawn(view.named("synthetic", case.key), title, caption, figure, pd.concat(numbers, ignore_index=True), case.key)


def side_by_side(panels: list[Any], windows: Mapping[str, Array], case: Case, steps: int) -> None:
    """A column a set of windows, the first few above each other, on one scale.

    Args:
        panels: one a set.
        windows: (samples, steps) by title, in units of their context.
        case: whose.
        steps: of each window that are shown, its last.
    """
    chosen = {title: made[spread(len(made), SHOWN), -steps:] for title, made in windows.items()}
    low, high = np.quantile(chosen["held out"], [0.002, 0.998])
    gap = 1.1 * max(float(high - low), 1e-9)
    x = np.arange(windows["held out"].shape[1])[-steps:] - case.context["context"]
    for place, (axes, (title, lines)) in enumerate(zip(panels, chosen.items(), strict=True)):
        for number, line in enumerate(lines):
            axes.plot(x, line - number * gap, color=INK if place == 0 else style(place - 1)["color"], linewidth=0.8)
        plain_axes(axes)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_ylim(low - (SHOWN - 0.8) * gap, high + 0.3 * gap)
        axes.set_xlim(x[0] - 0.12 * len(x), x[-1])  # room for the bar
        axes.axvline(-0.5, color=QUIET, linewidth=0.7, linestyle=(0, (1, 2)))
        titled(axes, plain(title, 17))
        axes.set_xlabel("step", fontsize=8, color=INK)
    measure(panels[0], "1", float(low) - (SHOWN - 0.8) * gap)
    panels[0].set_ylabel("value / mean of its context", fontsize=8, color=INK)


def measure(axes: Any, words: str, begin: float) -> None:
    """A bar at the left edge that is one unit high.

    Args:
        axes: where.
        words: what one unit is.
        begin: where the bar begins.
    """
    axes.plot([0.02, 0.02], [begin, begin + 1], transform=axes.get_yaxis_transform(), color=QUIET, linewidth=2, solid_capstyle="butt")
    axes.annotate(words, (0.045, begin + 0.5), xycoords=axes.get_yaxis_transform(), va="center", fontsize=7, color=QUIET)


@dataclass(frozen=True)
class Leads:
    """Generated records of twelve leads beside the held-out one of the nearest heart rate, the first record of each method.

    Args:
        cases: how many heart rates are drawn.
        columns: how many methods, the last of the recipe.
        methods: labels shown instead.
    """

    cases: int = 3
    columns: int = 3
    methods: tuple[str, ...] = ()

    def draw(self, run: RunView) -> Iterator[Drawn]:
        """One picture a heart rate and setting."""
        for view in View.each(run):
            keys = list(run.cases())
            for place in spread(len(keys), self.cases):
                case = run.case(keys[place], view.setting)
                found = {label: run.estimate(label, case.key, view.setting) for label in view.asked(self.methods)}
                held = {view.titles[label]: one for label, one in found.items() if one is not None and "ecg" in one.data}
                if held:
                    yield self.picture(view, case, dict(list(held.items())[-min(self.columns, MOST - 1) :]))

    def picture(self, view: View, case: Case, estimates: Mapping[str, Estimate]) -> Drawn:
        """The picture of one heart rate."""
        asked, rate = float(case.measurement["heart_rate"]), float(case.measurement.attrs["sampling_rate"])
        records = {title: estimate.data.isel(record=0) for title, estimate in estimates.items()}
        if case.truth is not None and case.truth.sizes["record"]:
            nearest = int(np.abs(case.truth["heart_rate"].values - asked).argmin())
            records = {"held out": case.truth.isel(record=nearest)} | records
        figure, grid = sheet(len(records), columns=len(records), height=5.0, sharey=True)
        tables, names = [], [str(name) for name in case.measurement["lead"].values]
        for axes, (title, record) in zip(grid, records.items(), strict=True):
            leads = record["ecg"].transpose("lead", "time").values.astype(np.float64)
            time = record["time"].values
            for number, lead in enumerate(leads):
                axes.plot(time, lead - number * SPACING_MV, color=INK if title == "held out" else FOUND, linewidth=0.8)
            plain_axes(axes)
            axes.set_yticks([-number * SPACING_MV for number in range(len(names))], names)
            axes.set_ylim(-(len(names) - 0.4) * SPACING_MV, 1.2 * SPACING_MV)
            axes.set_xlim(time[0], time[-1])
            measure(axes, "1 mV", 0.6 * SPACING_MV)
            axes.set_xlabel("time, s", fontsize=8, color=INK)
            titled(axes, plain(title, 24))
            tables.append(pd.DataFrame({"record": title, "time_s": time} | dict(zip(names, leads, strict=True))))
        caption = f"{view.at}Asked for {asked:g} beats per minute; {self.finding(records, rate)}"
        simulated = case.context.get("simulated")
        caption += f" Data: {simulated}." if isinstance(simulated, str) else ""
        data = pd.concat(tables, ignore_index=True)
        return Drawn(view.named("leads", case.key), f"Records at {asked:g} beats per minute{view.place}", caption, figure, data, case.key)

    def finding(self, records: Mapping[str, Any], rate: float) -> str:
        """The heart rates that are found in the records shown, and how far their leads are from Einthoven's identities."""
        from unstir_timeseries.ecg.leads import residual
        from unstir_timeseries.ecg.metrics import HeartRate, heart_rate

        said = []
        for title, record in records.items():
            leads = record["ecg"].transpose("lead", "time").values.astype(np.float64)
            size = float(np.sqrt(np.square(leads - leads.mean(-1, keepdims=True)).mean()))
            left = 100 * float(np.sqrt(np.square(residual(leads)).mean())) / max(size, 1e-12)
            try:
                found = heart_rate(record["ecg"].sel(lead=HeartRate().lead).values, rate)
                beats = f"{found:.1f}" if math.isfinite(found) else "no rate"
            except MissingExtra:
                beats = "no rate without neurokit2"
            said.append(f"{title} {beats} (Einthoven {left:.1f} %)")
        return f"found in the records shown, in lead {HeartRate().lead}: {', '.join(said)}."
