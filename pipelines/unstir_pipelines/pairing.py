"""Is one method better than another? Differences over what both were judged on, with bootstrap intervals.

Two methods that answered the same cases are compared case by case (one case: part by part): the same draw of cases is taken for both,

    d* = combine(a[i*]) - combine(b[i*]),   i* drawn with replacement,

so that what makes a case hard for both cancels. The interval is the 2.5 % and 97.5 % quantile of d*.        [Efron and Tibshirani 1993]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 2000
LEVEL = 0.95

Scored = Mapping[tuple[str, int], tuple[float, Sequence[float], str]]
"""(case, seed) -> (value, parts, combine) of one method under one setting and one metric."""


@dataclass(frozen=True)
class Difference:
    """How far one method is from another on what both answered.

    Args:
        mean: difference of the two means, in the metric's unit.
        low: lower end of its 95 % bootstrap interval.
        high: upper end.
        cases: how many cases both answered.
        over: what was resampled, ``"cases"`` or ``"parts"``.
    """

    mean: float
    low: float
    high: float
    cases: int
    over: str

    @property
    def clear(self) -> bool:
        """Does the interval leave zero out?"""
        return self.low > 0 or self.high < 0


def combined(parts: np.ndarray, combine: str) -> np.ndarray:
    """Combine parts along the last axis into a metric's value.

    Args:
        parts: ``(..., parts)``, values of exchangeable parts.
        combine: ``"mean"``, ``"rms"`` (root of the mean square) or ``"psnr"`` (-10 log10 of the mean).

    Returns:
        ``(...)``, the values.
    """
    if combine == "psnr":
        return -10 * np.log10(np.maximum(parts.mean(-1), 1e-30))
    if combine == "rms":
        return np.sqrt((parts**2).mean(-1))
    return parts.mean(-1)


def paired_difference(a: Scored, b: Scored, *, draws: int = DRAWS, seed: int = 0) -> Difference | None:
    """The difference a - b over the cases and seeds that both methods answered.

    Args:
        a: scores of one method.
        b: scores of the other, same setting and metric.
        draws: bootstrap draws.
        seed: of the bootstrap; the same scores give the same interval.

    Returns:
        The difference, or ``None`` where nothing can be resampled: no shared case, or one case without shared parts.
    """
    shared = sorted(key for key in a.keys() & b.keys() if np.isfinite(a[key][0]) and np.isfinite(b[key][0]))
    cases = sorted({case for case, _ in shared})
    generator = np.random.default_rng(seed)
    tail = 100 * (1 - LEVEL) / 2
    if len(cases) >= 2:
        gap = np.array([np.mean([a[key][0] - b[key][0] for key in shared if key[0] == case]) for case in cases])
        drawn = gap[generator.integers(len(gap), size=(draws, len(gap)))].mean(-1)
        low, high = np.percentile(drawn, [tail, 100 - tail])
        return Difference(float(gap.mean()), float(low), float(high), len(cases), "cases")
    usable = [key for key in shared if len(a[key][1]) == len(b[key][1]) >= 2 and a[key][2] == b[key][2]]
    if not usable or len({len(a[key][1]) for key in usable}) != 1:
        return None
    left, right = (np.array([scored[key][1] for key in usable], dtype=float) for scored in (a, b))
    combine = a[usable[0]][2]
    index = generator.integers(left.shape[1], size=(draws, left.shape[1]))
    drawn = (combined(left[:, index], combine) - combined(right[:, index], combine)).mean(0)
    low, high = np.percentile(drawn, [tail, 100 - tail])
    mean = float(np.mean([a[key][0] - b[key][0] for key in usable]))
    return Difference(mean, float(low), float(high), 1, "parts")
