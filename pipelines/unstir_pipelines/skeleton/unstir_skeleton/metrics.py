"""How far are two signals apart, in numbers and in a picture?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from unstir.plugin import Case, Drawn, Estimate, MetricInfo, RunView, Score


@dataclass(frozen=True)
class RootMeanSquare:
    """Root of the mean squared error, in volt."""

    def describe(self) -> list[MetricInfo]:
        """Say what the number is."""
        return [MetricInfo("rmse", "RMSE", "V", "down", "Root of the mean over time of the squared error.")]

    def __call__(self, estimate: Estimate, case: Case) -> dict[str, Score]:
        """Score one estimate."""
        return {"rmse": Score(float(np.sqrt(np.mean(_error(estimate, case) ** 2))))}


@dataclass(frozen=True)
class Worst:
    """Largest absolute error, in volt."""

    def describe(self) -> list[MetricInfo]:
        """Say what the number is."""
        return [MetricInfo("worst", "Worst", "V", "down", "Largest absolute error over time.")]

    def __call__(self, estimate: Estimate, case: Case) -> dict[str, Score]:
        """Score one estimate."""
        return {"worst": Score(float(np.abs(_error(estimate, case)).max()))}


@dataclass(frozen=True)
class Curves:
    """The first case of every setting: truth, measurement and estimates on one axis."""

    def draw(self, run: RunView) -> Iterator[Drawn]:
        """Draw one picture a setting."""
        import pandas as pd
        from matplotlib.figure import Figure

        key = run.cases()[0]
        for index, setting in enumerate(run.settings):
            case = run.case(key, setting)
            curves = {"truth": _signal(case.truth)}
            for label in run.labels:
                if (estimate := run.estimate(label, key, setting)) is not None:
                    curves[label] = _signal(estimate.data)
            seconds = case.measurement.time.values
            figure = Figure(figsize=(7, 3), layout="constrained")
            axes = figure.add_subplot(xlabel="time (s)", ylabel="signal (V)")
            for label, curve in curves.items():
                axes.plot(seconds, curve, label=label, color="0.4" if label == "truth" else None)
            seen = case.measurement.seen.values
            axes.plot(seconds[seen], _signal(case.measurement)[seen], "o", color="black", label="seen")
            axes.legend()
            best = min(list(curves)[1:], key=lambda label: float(np.abs(curves[label] - curves["truth"]).max()), default="none")
            caption = f"Signal {key} from {int(seen.sum())} samples; {best} stays closest to the truth."
            yield Drawn(f"curves-{index}", "Signals", caption, figure, pd.DataFrame(curves, index=seconds), key)


def _signal(data: object) -> np.ndarray:
    return np.asarray(data["signal"].values)  # type: ignore[index]


def _error(estimate: Estimate, case: Case) -> np.ndarray:
    return _signal(estimate.data) - _signal(case.truth)
