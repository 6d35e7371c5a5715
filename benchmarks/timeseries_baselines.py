"""Classical forecasts beside the numbers the plan asks for: hourly load (W8, W7), exchange rates, road occupancy, M4 hourly.

    python benchmarks/timeseries_baselines.py                          # the bundled load
    python benchmarks/timeseries_baselines.py exchange traffic         # series in packages (fetched once, cached)
    python benchmarks/timeseries_baselines.py m4 --m4 m4_hourly.npz    # item_id, length, train (concatenated), test
    python benchmarks/timeseries_baselines.py draws                    # ridge of the load over ten seeds of its training windows
    python benchmarks/timeseries_baselines.py more                     # smoothing, ridge under missing data, interpolation

CRPS is the mean weighted quantile loss at .1 to .9, pooled. Alphas, lengths of history and laws are those that the plan lists, every one of
them on the test windows: the best of a column is slightly optimistic.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from unstir.errors import UserError
from unstir_timeseries.baselines import ETS, Interpolation, RandomWalk, Ridge, RidgeResidual, SeasonalNaive, SeasonalResidual
from unstir_timeseries.datasets import Exchange, GEFCom, Traffic
from unstir_timeseries.metrics import CRPS, Coverage
from unstir_timeseries.panel import panel
from unstir_timeseries.tasks import Forecast, Impute

Rows = Mapping[str, tuple[Any, float | None]]
SEASONS: dict[str, Any] = {
    "seasonal naive 24": SeasonalNaive(),
    "seasonal naive 168": SeasonalNaive(168),
    "seasonal residual 24": SeasonalResidual(),
    "seasonal residual 168": SeasonalResidual(168),
}
LOAD: dict[str, Any] = {"windows": 20_000, "aligned": True}
RIDGES = {f"{kind.__name__} {alpha}": kind(alpha=alpha, **LOAD) for alpha in (1, 10, 100) for kind in (Ridge, RidgeResidual)}
W8 = (0.1045, 0.1577, 0.0863, 0.1319, 0.0711, 0.0570, 0.0716, 0.0573, 0.0759, 0.0606)
W7 = (0.0964, 0.1480, 0.0789, 0.1485, 0.0733, 0.0580, 0.0726, 0.0573, 0.0752, 0.0590)
EXCHANGE: Rows = {
    "seasonal naive 5": (SeasonalNaive(), 0.01075),
    "last value": (SeasonalNaive(1), 0.0093),
    "ridge": (Ridge(), 0.0107),
    "ridge residual": (RidgeResidual(), 0.0084),
    "random walk, Gaussian, 360": (RandomWalk(360), 0.0077),
    "random walk, Gaussian, 60": (RandomWalk(60), 0.0070),
    "random walk, empirical, 360": (RandomWalk(360, "empirical"), 0.0077),
    "random walk, empirical, 1000": (RandomWalk(1000, "empirical"), 0.0077),
    "random walk, empirical, all": (RandomWalk("all", "empirical"), 0.0072),
}
ROADS: Rows = {
    **{name: (method, asked) for (name, method), asked in zip(SEASONS.items(), (0.2308, 0.1463, 0.2118, 0.1359), strict=True)},
    "ridge": (Ridge(), 0.1667),
    "ridge residual": (RidgeResidual(), 0.1467),
}
M4: Rows = {
    "seasonal naive 24": (SeasonalNaive(), 0.0483),
    "seasonal naive 168": (SeasonalNaive(168), 0.0608),
    "ridge": (Ridge(), 0.0395),
    "ridge residual": (RidgeResidual(), 0.0375),
    "seasonal residual 24, whole series": (SeasonalResidual(history="all"), 0.0375),
    "random walk, Gaussian": (RandomWalk(), None),
}


def pairs(task: Any, data: xr.Dataset, methods: Mapping[str, Any]) -> tuple[dict[str, list[Any]], dict[str, float]]:
    """Estimates and cases of every method, and the seconds they took."""
    made: dict[str, list[Any]] = {name: [] for name in methods}
    spent = dict.fromkeys(methods, 0.0)
    for case in task.cases([data]):
        for name, method in methods.items():
            started = time.perf_counter()
            made[name].append((method(case, None, 0), case))
            spent[name] += time.perf_counter() - started
    return made, spent


def table(setting: str, task: Any, data: xr.Dataset, rows: Rows) -> Iterator[str]:
    made, spent = pairs(task, data, {name: method for name, (method, _) in rows.items()})
    for name, (_, asked) in rows.items():
        value = CRPS().over(made[name])["crps"].value
        quantiles = made[name][0][0].data["quantiles"].values
        inside = "" if (quantiles == quantiles[:, :1]).all() else f"{Coverage().over(made[name])['coverage-80'].value:.1f}"
        plan = "" if asked is None else f"{asked:.5f}" if asked == 0.01075 else f"{asked:.4f}"
        yield f"| {setting} | {name} | {value:.4f} | {plan} | {inside} | {spent[name]:.1f} |"


def load(protocol: str, stride: int, windows: int, asked: tuple[float, ...]) -> Iterator[str]:
    (data,) = GEFCom().load()
    methods = SEASONS | RIDGES
    rows = {name: (method, number) for (name, method), number in zip(methods.items(), asked, strict=True)}
    yield from table(f"load, {protocol}", Forecast(windows=windows, stride=stride), data, rows)


def m4(file: Path | None) -> Iterator[str]:
    if file is None:
        raise UserError("m4 needs its file: --m4 m4_hourly.npz")
    held = np.load(file)
    ends = np.cumsum(held["length"])
    longest, horizon = int(held["length"].max()), held["test"].shape[1]
    y = np.full((len(ends), longest + horizon), np.nan)
    for row, (end, length) in enumerate(zip(ends, held["length"], strict=True)):
        y[row, longest - length : longest] = held["train"][end - length : end]
    y[:, longest:] = held["test"]
    stamps = pd.date_range("2000-01-01", periods=y.shape[1], freq="h")
    data = panel(y, stamps, [str(item) for item in held["item_id"]], freq="h", season=24, key="m4", calendar="unknown")
    yield from table("M4 hourly", Forecast(horizon=horizon, context=312, windows=1), data, M4)


def draws() -> Iterator[str]:
    """What the choice of the training windows is worth."""
    (data,) = GEFCom().load()
    for protocol, task in (("W8", Forecast()), ("W7", Forecast(windows=52, stride=168))):
        for kind in (Ridge, RidgeResidual):
            methods = {str(seed): kind(draw=seed, **LOAD) for seed in range(10)}
            found = [CRPS().over(answers)["crps"].value for answers in pairs(task, data, methods)[0].values()]
            spread = f"{np.mean(found):.4f} ± {np.std(found, ddof=1):.4f} ({min(found):.4f} to {max(found):.4f})"
            yield f"| load, {protocol} | {kind.__name__} 1, ten draws | {spread} | | | |"


def more() -> Iterator[str]:
    (data,) = GEFCom().load()
    residual = {"RidgeResidual 1": (RidgeResidual(**LOAD), None), "seasonal residual 24": (SeasonalResidual(), None)}
    for scenario in ("none", "rm", "bm-b", "bm-e"):
        yield from table(f"load, W8, {scenario}", Forecast(missing=scenario), data, residual)  # type: ignore[arg-type]
    smooth: Rows = {
        "ets 24": (ETS(), None),
        "random walk": (RandomWalk(), None),
        "RidgeResidual, any hour": (RidgeResidual(windows=20_000), None),
    }
    yield from table("load, W8", Forecast(), data, smooth)
    lines: Rows = {
        "lines": (Interpolation(), None),
        "lines, day to day": (Interpolation(24), None),
        "week to week": (Interpolation(168), None),
    }
    for kind in ("rm", "block"):
        yield from table(f"load, impute 90 of 360, {kind}", Impute(missing=kind), data, lines)  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["load"], help="of load, exchange, traffic, m4, draws, more")
    parser.add_argument("--m4", type=Path, help="the yardstick file of M4 hourly")
    asked = parser.parse_args()
    print("| data | method | CRPS | plan | in 80 %, % | s |\n|---|---|---|---|---|---|")
    for part in asked.parts:
        if part == "load":
            found = [load("W8", 192, 45, W8), load("W7", 168, 52, W7)]
        elif part == "exchange":
            found = [
                table("exchange", Forecast(horizon=30, context=360, windows=5, stride=30, first=6071), next(Exchange().load()), EXCHANGE)
            ]
        elif part == "traffic":
            found = [table("traffic-20", Forecast(windows=7, stride=24, first=14_036), next(Traffic().load()), ROADS)]
        else:
            found = [{"m4": lambda: m4(asked.m4), "draws": draws, "more": more}[part]()]
        for rows in found:
            for row in rows:
                print(row, flush=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
