"""What is drawn of a run of the tasks on panels: the answers of every method under one setting, beside their targets."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import xarray as xr

from unstir.plugin import view
from unstir.plugin.protocols import Case, Estimate
from unstir_timeseries.metrics import CRPS

Pairs = Sequence[tuple[Estimate, Case]]


@dataclass(frozen=True)
class View(view.View):
    """A run of panels under one setting.

    Args:
        run: the run.
        setting: the varied keys.
    """

    @cached_property
    def targets(self) -> dict[str, Case]:
        """Cases that have a truth, by key, with no more of their measurement than its attributes: whole pasts fill a memory."""
        return {case.key: replace(case, measurement=case.measurement.isel(time=slice(0, 0)), context={})
                for case in self.cases() if case.truth is not None}  # fmt: skip

    def pairs(self, label: str) -> list[tuple[Estimate, Case]]:
        """What a method answered, with the targets; answers without quantiles are left out.

        Args:
            label: of the method.
        """
        found = ((self.run.estimate(label, key, self.setting), case) for key, case in self.targets.items())
        return [(estimate, case) for estimate, case in found if estimate is not None and "quantiles" in estimate.data]

    def answered(self, labels: Sequence[str] = ()) -> Iterator[tuple[str, list[tuple[Estimate, Case]]]]:
        """Methods that answered anything, with their answers; one method's are in memory at a time.

        Args:
            labels: which; all where empty.

        Raises:
            UserError: a label that the run does not have.
        """
        for label in self.asked(labels):
            if pairs := self.pairs(label):
                yield label, pairs

    def told(self) -> dict[str, float]:
        """CRPS of each method as the run's table has it; empty where it has none."""
        return self.means("crps")


def crps_of(pairs: Pairs) -> float:
    """CRPS pooled over windows, NaN without a word where no target differs from zero.

    Args:
        pairs: forecasts with their windows.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return CRPS().over(pairs)["crps"].value


def has_spread(data: xr.Dataset) -> bool:
    """Do the quantiles of an estimate differ, or is it a point forecast?

    Args:
        data: of an estimate.
    """
    levels = data["quantiles"].transpose("item", "level", "time").values
    return bool((levels[:, -1] > levels[:, 0]).any())
