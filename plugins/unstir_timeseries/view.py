"""What is drawn of a run of the tasks on panels: the answers of every method under one setting, beside their targets."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr

from unstir.errors import UserError
from unstir.plugin.protocols import Case, Estimate, RunView
from unstir_timeseries.metrics import CRPS

Pairs = Sequence[tuple[Estimate, Case]]


@dataclass(frozen=True)
class View:
    """A run under one setting.

    Args:
        run: the run.
        setting: the varied keys.
    """

    run: RunView
    setting: Mapping[str, Any] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """The setting as a reader says it: ``{"task.missing": "rm"}`` is "missing rm"."""
        return setting_words(self.setting)

    @property
    def place(self) -> str:
        """The setting as the end of a title."""
        return f", {self.words}" if self.words else ""

    @property
    def at(self) -> str:
        """The setting as the beginning of a sentence."""
        return f"{self.words[:1].upper()}{self.words[1:]}: " if self.words else ""

    def named(self, *parts: str) -> str:
        """A file name of this setting.

        Args:
            parts: what else it is made of.
        """
        return re.sub(r"[^a-z0-9.]+", "-", "-".join([*parts, self.words]).lower()).strip("-.")

    @cached_property
    def titles(self) -> dict[str, str]:
        """What a reader sees of each method: its title in the recipe, else its label (also where two share a title)."""
        entries = dict(getattr(self.run.recipe, "resolved", {}).get("methods", {}))
        titles = {label: str(entries.get(label, {}).get("title") or label) for label in self.run.labels}
        return {label: title if list(titles.values()).count(title) == 1 else label for label, title in titles.items()}

    def cases(self) -> Iterator[Case]:
        """Every case, in order."""
        for key in self.run.cases():
            yield self.run.case(key, self.setting)

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

    def asked(self, labels: Sequence[str]) -> list[str]:
        """The methods asked for, all where none is.

        Args:
            labels: of methods.

        Raises:
            UserError: a label that the run does not have.
        """
        if unknown := sorted(set(labels) - set(self.run.labels)):
            raise UserError(f"figures show methods of the run, got {', '.join(unknown)}; there are {', '.join(self.run.labels)}")
        return list(labels) or list(self.run.labels)

    def told(self) -> dict[str, float]:
        """CRPS of each method as the run's table has it; empty where it has none."""
        rows = self.run.rows
        if not len(rows):
            return {}
        rows = rows[(rows["metric"] == "crps") & np.isfinite(rows["value"].astype(float))]
        rows = rows[[dict(other) == dict(self.setting) for other in rows["setting"]]]
        return {str(label): float(group["value"].mean()) for label, group in rows.groupby("method", sort=False)}


def views(run: RunView) -> Iterator[View]:
    """One view a setting.

    Args:
        run: the run.
    """
    for setting in run.settings:
        yield View(run, setting)


def setting_words(setting: Mapping[str, Any]) -> str:
    """A setting as a reader says it: ``{"task.missing": "rm"}`` is "missing rm".

    Args:
        setting: the varied keys.
    """
    words = []
    for key, value in setting.items():
        name = key.rsplit(".", 1)[-1].replace("_", " ")
        if isinstance(value, bool):
            words.append(name if value else f"no {name}")
        else:
            words.append(f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}")
    return ", ".join(words)


def crps_of(pairs: Pairs) -> float:
    """CRPS pooled over windows, NaN without a word where no target differs from zero.

    Args:
        pairs: forecasts with their windows.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return CRPS().over(pairs)["crps"].value


def best(scores: Mapping[str, float], most: int) -> list[str]:
    """The ``most`` labels of lowest score, in their own order; those without a number come last.

    Args:
        scores: by label.
        most: how many.
    """
    ranked = sorted(scores, key=lambda label: scores[label] if math.isfinite(scores[label]) else math.inf)[:most]
    return [label for label in scores if label in ranked]


def spread(count: int, wanted: int) -> list[int]:
    """``wanted`` places evenly spread over ``count``, all of them where there are no more.

    Args:
        count: how many there are.
        wanted: how many are shown.
    """
    if wanted >= count:
        return list(range(count))
    return [round((place + 0.5) * count / wanted - 0.5) for place in range(wanted)]


def has_spread(data: xr.Dataset) -> bool:
    """Do the quantiles of an estimate differ, or is it a point forecast?

    Args:
        data: of an estimate.
    """
    levels = data["quantiles"].transpose("item", "level", "time").values
    return bool((levels[:, -1] > levels[:, 0]).any())


def plural(count: int, noun: str) -> str:
    """A number with its noun.

    Args:
        count: how many.
        noun: in the singular, with a regular plural.
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def compared(scores: Mapping[str, float], digits: int = 4) -> str:
    """The lowest score and the others in order: "a 0.0512 (b 0.0570, c 0.0863)".

    Args:
        scores: by title; numbers that are not finite are left out.
        digits: after the point.
    """
    ranked = sorted((value, title) for title, value in scores.items() if math.isfinite(value))
    if not ranked:
        return "no score"
    (value, title), *others = ranked
    rest = ", ".join(f"{name} {number:.{digits}f}" for number, name in others)
    return f"{title} {value:.{digits}f}" + (f" ({rest})" if rest else "")
