"""Windows of counts and what a network is told about them: the scale of the item, its recent past, the season of each step.

    lambda = (sum of the context + P m)/(C + P),   m the item's mean over all its past, P steps a season

Everything is known at the origin. Steps that were not observed count for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unstir.errors import DataError
from unstir_timeseries.demand import Array

FACTS = 7
"""Numbers told about an item at an origin."""


@dataclass(eq=False)
class Windows:
    """Windows over a panel of counts.

    Args:
        y: (items, steps) counts, NaN where not observed.
        place: (steps,) place of each step in the season.
        period: steps of the season.
        context: steps of the past that a window sees.
    """

    y: Array
    place: Array
    period: int
    context: int
    _sums: Array = field(init=False, repr=False)

    def __post_init__(self) -> None:
        parts = np.stack([np.nan_to_num(self.y), np.isfinite(self.y), self.y > 0]).astype(np.float64)
        self._sums = np.pad(np.cumsum(parts, axis=2), ((0, 0), (0, 0), (1, 0)))

    def told(self, items: Array, ends: Array, future: Array) -> dict[str, Tensor]:
        """The condition of windows that begin after ``ends`` steps.

        Args:
            items: (windows,) numbers of the items, each with a sale before the end.
            ends: (windows,) steps of the past known.
            future: (windows, steps) places of the window's steps in the season.

        Returns:
            ``scale`` (windows, 1), ``facts`` (windows, 7), ``history`` (windows, 3, context), ``profile`` (windows, period + 1, steps).
        """
        back = ends[:, None] - self.context + np.arange(self.context)  # before the first step: not observed
        inside = back >= 0
        past = np.where(inside, self.y[items[:, None], np.maximum(back, 0)], np.nan)
        place = np.where(inside, self.place[np.maximum(back, 0)], 0)
        seen, sold = np.isfinite(past), np.nan_to_num(past)
        whole = self._sums[0, items, ends] / np.maximum(self._sums[1, items, ends], 1)
        scale = (sold.sum(1) + self.period * whole) / (seen.sum(1) + self.period)
        relative = sold / scale[:, None]
        history = np.stack([np.log1p(relative), sold > 0, seen], 1)
        season = np.stack([(relative * (place == phase)).sum(1) for phase in range(self.period)], 1)
        often = np.stack([(seen & (place == phase)).sum(1) for phase in range(self.period)], 1)
        mean = (season + 1) / (often + 1)  # towards lambda itself
        one = np.eye(self.period)[future].transpose(0, 2, 1)
        profile = np.concatenate([one, np.log(np.take_along_axis(mean, future, 1))[:, None]], 1)
        facts = self._facts(items, ends, scale, whole, sold, seen)
        told = {"scale": scale[:, None], "facts": facts, "history": history, "profile": profile}
        return {name: torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32)) for name, value in told.items()}

    def batch(self, generator: np.random.Generator, count: int, horizon: int) -> dict[str, Any]:
        """Windows of the panel for a step of training, at random items and origins.

        Args:
            generator: of the choice.
            count: number of windows.
            horizon: steps of each.

        Returns:
            ``x0`` long (count, horizon) and ``condition``, in which ``present`` says what was observed.

        Raises:
            DataError: no item has sold a season before a whole window.
        """
        usable, first, last = self._origins(horizon)
        chosen = generator.integers(len(usable), size=count)
        items, ends = usable[chosen], first[chosen] + generator.integers(1 + last - first[chosen])
        steps = ends[:, None] + np.arange(horizon)
        target = self.y[items[:, None], steps]
        present = torch.from_numpy(np.isfinite(target))
        return {
            "x0": torch.from_numpy(np.nan_to_num(target)).long(),
            "condition": self.told(items, ends, self.place[steps]) | {"present": present},
        }

    def _origins(self, horizon: int) -> tuple[Array, Array, int]:
        """Items with a window, their first origin and the last one: a season after the first sale, a window before the end."""
        first = np.argmax(self._sums[2] > 0, axis=1) - 1 + self.period
        last = self.y.shape[1] - horizon
        usable = np.flatnonzero((self._sums[2][:, -1] > 0) & (first <= last))
        if not len(usable):
            raise DataError(
                f"counts cannot be learnt from a training panel of {self.y.shape[1]} steps in which no series has a sale "
                f"{self.period + horizon} steps or more before the end"
            )
        return usable, first[usable], last

    def _facts(self, items: Array, ends: Array, scale: Array, whole: Array, sold: Array, seen: Array) -> Array:
        """Size, level against the whole past, share of selling steps, steps since the last sale, level of the last season, that of all."""
        recent = sold[:, -self.period :].sum(1) / np.maximum(seen[:, -self.period :].sum(1), 1)
        since = np.where((sold > 0).any(1), np.argmax((sold > 0)[:, ::-1], axis=1), sold.shape[1])
        pooled = self._sums.sum(1)
        begin, middle = np.maximum(ends - self.context, 0), np.maximum(ends - self.period, 0)
        of_all, lately = ((pooled[0, ends] - pooled[0, a] + 1) / (pooled[1, ends] - pooled[1, a] + 1) for a in (begin, middle))
        share, before = (sold > 0).mean(1), self._sums[2, items, ends] / np.maximum(self._sums[1, items, ends], 1)
        level = [np.log(scale), np.log(scale / np.maximum(whole, 1e-12)), share, before]
        return np.stack([*level, np.log1p(since), np.log1p(recent / scale), np.log(lately / of_all)], 1)
