"""How well do two traces agree, in a number and in a picture?"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from unstir.plugin import Case, Drawn, Estimate, MetricInfo, RunView, Score


@dataclass(frozen=True)
class Correlation:
    """Pearson correlation of estimated and true reflectivity."""

    def describe(self) -> list[MetricInfo]:
        return [MetricInfo("correlation", "Correlation", "", "up", "Pearson correlation of estimate and truth over a trace.")]

    def __call__(self, estimate: Estimate, case: Case) -> dict[str, Score]:
        value = np.corrcoef(estimate.data.reflectivity.values, case.truth.reflectivity.values)[0, 1]
        return {"correlation": Score(float(value))}


@dataclass(frozen=True)
class Traces:
    """The first trace of every setting, truth and estimates on one axis."""

    def draw(self, run: RunView) -> Iterator[Drawn]:
        from matplotlib.figure import Figure

        key = run.cases()[0]
        for index, setting in enumerate(run.settings):
            case = run.case(key, setting)
            seconds = case.truth.time.values
            lines = {"truth": case.truth.reflectivity.values}
            for label in run.labels:
                if (estimate := run.estimate(label, key, setting)) is not None:
                    lines[label] = estimate.data.reflectivity.values
            figure = Figure(figsize=(7, 3), layout="constrained")
            axes = figure.add_subplot(xlabel="time (s)", ylabel="reflectivity")
            for label, line in lines.items():
                axes.plot(seconds, line, label=label)
            axes.legend()
            caption = f"Reflectivity of {key}: truth and {len(lines) - 1} estimates."
            yield Drawn(f"traces-{index}", "Traces", caption, figure, pd.DataFrame(lines, index=seconds), key)
