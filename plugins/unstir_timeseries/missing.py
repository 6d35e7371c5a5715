"""What hides values: scattered steps, a part of the context, or a block, as NaN.

    rm     n of the last C steps, drawn without replacement, others for each series
    bm-b   the first n of them, far from the forecast
    bm-e   the last n of them, just before the forecast
    block  n steps in a row, from a place drawn for each series

Reference: Kollovieh et al. 2023 (TSDiff), arXiv:2307.11494, section 4.2 (n = C/2).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from unstir.errors import DataError, UserError
from unstir.plugin.options import at_least, one_of

Kind = Literal["rm", "bm-b", "bm-e", "block"]


@dataclass(frozen=True)
class Missing:
    """Take values of the context away.

    Args:
        kind: ``"rm"``, ``"bm-b"``, ``"bm-e"`` or ``"block"``.
        context: C, the last steps of which some are hidden; fewer where the series are shorter.
        gaps: n, how many of them; half of the context when 0.

    Raises:
        UserError: an option out of range.
    """

    kind: Kind = "rm"
    context: int = 336
    gaps: int = 0

    def __post_init__(self) -> None:
        one_of(self, kind=Kind)
        at_least(self, context=1)
        if not 0 <= self.gaps <= self.context:
            raise UserError(f"gaps must lie between 0 and the context of {self.context} steps, got {self.gaps}")

    def __call__(self, truth: xr.Dataset, *, seed: int) -> xr.Dataset:
        """A panel with values hidden in its last ``context`` steps, before its horizon where it has one.

        Args:
            truth: a panel, dims (item, time).
            seed: where chance comes from, with the number of steps before the horizon and the place of the series.

        Returns:
            The panel, NaN where hidden; ``attrs["missing"]`` is the kind.

        Raises:
            DataError: it has no ``y``.
        """
        if "y" not in truth:
            raise DataError("a panel without y has nothing to hide")
        y = truth["y"].transpose("item", "time").values.copy()
        end = y.shape[1] - int(truth.attrs.get("horizon", 0))
        y[:, :end] = self.hidden(y[:, :end], seed, end)
        return truth.assign(y=(("item", "time"), y)).assign_attrs(missing=self.kind)

    def hidden(self, y: NDArray[Any], seed: int, origin: int) -> NDArray[np.float64]:
        """Values with some of the last ``context`` steps taken away.

        Args:
            y: (items, steps), which stay as they are.
            seed: where chance comes from,
            origin: with this, which names the window, and the place of the series.

        Returns:
            (items, steps), NaN where hidden.
        """
        made = np.array(y, dtype=np.float64)
        length = min(self.context, made.shape[1])
        for row, series in enumerate(made):
            series[made.shape[1] - length :][self.mask(length, np.random.default_rng([seed, origin, row]))] = np.nan
        return made

    def mask(self, length: int, generator: np.random.Generator) -> NDArray[np.bool_]:
        """Which of some steps are hidden.

        Args:
            length: how many steps there are.
            generator: where chance comes from.

        Returns:
            (length,) true where hidden.
        """
        steps, gaps = np.arange(length), min(self.gaps or self.context // 2, length)
        if self.kind == "rm":
            return np.isin(steps, generator.choice(length, gaps, replace=False))
        last = length - gaps
        first = {"bm-b": 0, "bm-e": last, "block": int(generator.integers(0, last + 1))}[self.kind]
        return (steps >= first) & (steps < first + gaps)
