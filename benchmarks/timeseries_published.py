"""TSDiff beside the baselines on two of the field's own series: M4 hourly and the exchange rates.

    python benchmarks/timeseries_published.py m4 ../shared/data/timeseries/m4_hourly.npz --out runs/m4
    python benchmarks/timeseries_published.py exchange --out runs/exchange

Each trains a model on what lies before the test (minutes on a CPU; resumed where it was cut) and prints a table. The last horizon before
the test is held out of training and chooses nothing here: options are those of the load.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

import unstir
from unstir_timeseries.baselines import RandomWalk, Ridge, RidgeResidual, SeasonalNaive, SeasonalResidual
from unstir_timeseries.datasets import Exchange
from unstir_timeseries.metrics import CRPS, MASE, Coverage
from unstir_timeseries.panel import panel
from unstir_timeseries.predict import TSDiff
from unstir_timeseries.tasks import Forecast
from unstir_timeseries.training import TSDiffTraining


def m4(path: Path):
    """The 414 hourly series, ends aligned: (items, 960 + 48), NaN before a series begins."""
    file = np.load(path)
    ends = file["length"].cumsum()
    y = np.full((len(ends), 960 + 48), np.nan)
    for row, (end, length) in enumerate(zip(ends, file["length"], strict=True)):
        y[row, 960 - length : 960] = file["train"][end - length : end]
    y[:, 960:] = file["test"]
    time = pd.date_range("2000-01-01", periods=y.shape[1], freq="h")
    return panel(y, time, [str(name) for name in file["item_id"]], freq="h", season=24, key="m4", calendar="unknown")


def settings(name: str, path: Path | None):
    """Panel, task, training and baselines."""
    common = {"calendar": (), "batch": 64, "every": 500}
    if name == "m4":
        data = m4(path)
        task = Forecast(horizon=48, context=312, windows=1)
        fit = TSDiffTraining(
            **common, end=str(data["time"].values[960]), held_out=(("2000-02-08", "2000-02-09"),), context=312, horizon=48, aligned=0.0,
            width=96, blocks=4, patch=6, steps=10000, decay=5000,
        )  # fmt: skip
        others = {
            "seasonal-naive": SeasonalNaive(), "seasonal-residual": SeasonalResidual(), "ridge": Ridge(), "ridge-residual": RidgeResidual(),
        }  # fmt: skip
        return data, task, fit, others
    data = next(iter(Exchange().load()))
    task = Forecast(horizon=30, context=360, windows=5, stride=30, first=6071)
    end = pd.Timestamp(data["time"].values[6071])
    held = tuple((str(end - pd.offsets.BDay(30 * k)), str(end - pd.offsets.BDay(30 * k - 29))) for k in (1,))
    fit = TSDiffTraining(
        **common, data="timeseries/exchange", end=str(end), held_out=held, context=360, horizon=30, aligned=0.0,
        width=64, blocks=3, patch=6, steps=5000, decay=2500, scaling="last",
    )  # fmt: skip
    others = {
        "seasonal-naive": SeasonalNaive(), "random-walk (60)": RandomWalk(history=60), "random-walk (360)": RandomWalk(history=360),
        "ridge": Ridge(), "ridge-residual": RidgeResidual(),
    }  # fmt: skip
    return data, task, fit, others


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=["m4", "exchange"])
    parser.add_argument("path", nargs="?", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=0, help="of the training, where not the default; the last half decays")
    parser.add_argument("--samples", type=int, default=100)
    given = parser.parse_args()
    data, task, fit, others = settings(given.name, given.path)
    if given.steps:
        fit = type(fit)(**{**vars(fit), "steps": given.steps, "decay": given.steps // 2})
    prior = unstir.load(fit.fit(data, given.out, resume=True))
    cases = list(task.cases([data]))
    ours = {
        "tsdiff-cond": TSDiff(guide="told", grid="logistic:12", samples=given.samples),
        "tsdiff-cov": TSDiff(guide="past", grid="logistic:12", samples=given.samples),
        "tsdiff-q": TSDiff(guide="quantile", grid="logistic:12", samples=given.samples),
    }
    print(f"| method ({given.name}, {len(cases)} windows) | CRPS | MASE | coverage 80 % |\n|---|---|---|---|", flush=True)
    for label, method in {**others, **ours}.items():
        pairs = [(method(case, prior if label in ours else None, 0), case) for case in cases]
        found = {**CRPS().over(pairs), **MASE().over(pairs), **Coverage().over(pairs)}
        print(f"| {label} | {found['crps'].value:.4f} | {found['mase'].value:.3f} | {found['coverage-80'].value:.3f} |", flush=True)


if __name__ == "__main__":
    main()
