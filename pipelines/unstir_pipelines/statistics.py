"""Means with 95 % intervals by the percentile bootstrap: over cases, else over the parts of the one case.

m* = combine(v[i*]),  i* drawn with replacement;   [low, high] = the 2.5 % and 97.5 % quantiles of m*.     [Efron and Tibshirani 1993]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from unstir_pipelines.pairing import DRAWS, LEVEL, combined

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Interval:
    """A mean and where it could lie.

    Args:
        mean: the mean over cases, in the metric's unit.
        low: lower end of the 95 % interval, nan where nothing can be resampled.
        high: upper end.
        cases: how many cases.
        resampled: ``"cases"``, ``"parts"``, ``"seeds"`` or ``"none"``.
    """

    mean: float
    low: float
    high: float
    cases: int
    resampled: str


def bootstrap(values: Sequence[float] | np.ndarray, combine: str = "mean", *, draws: int = DRAWS, seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile interval of a combined value.

    Args:
        values: ``(n,)`` exchangeable values, or ``(n, m)`` where the m columns are drawn together and averaged after combining.
        combine: ``"mean"``, ``"rms"`` or ``"psnr"``, as in ``pairing.combined``.
        draws: bootstrap draws.
        seed: the same values give the same interval.

    Returns:
        Low and high; nan where n < 2.
    """
    table = np.asarray(values, dtype=float)
    table = table[:, None] if table.ndim == 1 else table
    count = len(table)
    if count < 2:
        return math.nan, math.nan
    generator = np.random.default_rng(seed)
    drawn = np.empty(draws)
    block = max(1, min(draws, 4_000_000 // table.size))
    for start in range(0, draws, block):
        index = generator.integers(count, size=(min(block, draws - start), count))
        drawn[start : start + block] = combined(np.moveaxis(table[index], 1, -1), combine).mean(-1)
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(drawn, [tail, 100 - tail])
    return float(low), float(high)


def interval(scores: Sequence[tuple[str, int, float, Sequence[float], str]], *, seed: int = 0) -> Interval:
    """The mean of one metric of one method under one setting, with its interval.

    Args:
        scores: ``(case, seed, value, parts, combine)`` of every job.
        seed: of the bootstrap.

    Returns:
        Over cases where there are several (seeds averaged within a case); else over the parts of the one case; else over its seeds.
    """
    by_case: dict[str, list[float]] = {}
    for case, _, value, _, _ in scores:
        by_case.setdefault(case, []).append(value)
    means = np.array([np.mean(values) for values in by_case.values()])
    mean = float(means.mean())
    if not np.isfinite(means).all():
        return Interval(mean, math.nan, math.nan, len(means), "none")
    if len(means) > 1:
        return Interval(mean, *bootstrap(means, seed=seed), len(means), "cases")
    parts = [np.asarray(part, dtype=float) for _, _, _, part, _ in scores]
    rules = {combine for *_, combine in scores}
    if len({len(part) for part in parts}) == 1 and len(parts[0]) > 1 and len(rules) == 1 and all(np.isfinite(part).all() for part in parts):
        return Interval(mean, *bootstrap(np.stack(parts, -1), rules.pop(), seed=seed), 1, "parts")
    if len(scores) > 1:
        return Interval(mean, *bootstrap([value for _, _, value, _, _ in scores], seed=seed), 1, "seeds")
    return Interval(mean, math.nan, math.nan, 1, "none")


def summarise(rows: pd.DataFrame, settings: Sequence[dict[str, Any]], labels: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of ``metrics.json``: one a setting, method and metric, in the order of the recipe.

    Args:
        rows: a row a job and metric, as in ``metrics.parquet``; ``setting`` is the JSON text of the setting.
        settings: in order.
        labels: methods in order.
    """
    import json

    made = []
    metrics = list(dict.fromkeys(rows["metric"])) if len(rows) else []
    groups = dict(iter(rows.groupby(["setting", "method", "metric"], sort=False))) if len(rows) else {}
    for setting in settings:
        for label in labels:
            for metric in metrics:
                group = groups.get((json.dumps(setting), label, metric))
                if group is None:
                    continue
                columns = ("case", "seed", "value", "parts", "combine")
                found = interval([tuple(row) for row in zip(*(group[name] for name in columns), strict=True)])
                first = group.iloc[0]
                is_part_a_case = found.resampled == "parts" and first["covers"] == len(first["parts"])
                made.append(
                    {
                        "task": first["task"],
                        "setting": dict(setting),
                        "method": label,
                        "metric": metric,
                        "unit": first["unit"],
                        "mean": found.mean,
                        "low": found.low,
                        "high": found.high,
                        "cases": int(first["covers"]) if first["covers"] else found.cases,
                        "better": first["better"],
                        "resampled": "cases" if is_part_a_case else found.resampled,
                    }
                )
    return made
