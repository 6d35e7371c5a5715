"""A run under one setting, as a picture or a caption speaks of it: its words, its titles, who is best.

``{"task.missing": "rm", "task.views": 8}`` is "missing rm, views 8"; scores that are not finite are never best.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import numpy as np

from unstir.errors import UserError
from unstir.plugin.protocols import Case, Estimate, RunView


@dataclass(frozen=True)
class View:
    """A run under one setting.

    Args:
        run: the run.
        setting: the varied keys.
    """

    run: RunView
    setting: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def each(cls, run: RunView) -> Iterator[Self]:
        """One view a setting.

        Args:
            run: the run.
        """
        for setting in run.settings:
            yield cls(run, setting)

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

    def estimates(self, key: str, labels: Sequence[str] = ()) -> dict[str, Estimate]:
        """What methods answered to a case, by label; those that did not are left out.

        Args:
            key: of the case.
            labels: of methods; all where empty.

        Raises:
            UserError: a label that the run does not have.
        """
        found = {label: self.run.estimate(label, key, self.setting) for label in self.asked(labels)}
        return {label: estimate for label, estimate in found.items() if estimate is not None}

    def means(self, metric: str) -> dict[str, float]:
        """A number of each method as the run's table has it, its mean over cases and seeds; empty where it has none.

        Args:
            metric: key of the number.
        """
        rows = self.run.rows
        if not len(rows):
            return {}
        rows = rows[(rows["metric"] == metric) & np.isfinite(rows["value"].astype(float))]
        rows = rows[np.array([dict(other) == dict(self.setting) for other in rows["setting"]], dtype=bool)]
        return {str(label): float(group["value"].mean()) for label, group in rows.groupby("method", sort=False)}


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


def plural(count: int, noun: str) -> str:
    """A number with its noun.

    Args:
        count: how many.
        noun: in the singular, with a regular plural.
    """
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def compared(scores: Mapping[str, float], digits: int = 4, *, unit: str = "", highest: bool = False) -> str:
    """The best score and the others in order: "a 0.0512 (b 0.0570, c 0.0863)".

    Args:
        scores: by title; numbers that are not finite are left out.
        digits: after the point.
        unit: written behind every number.
        highest: is the highest score the best? Else the lowest is.
    """
    ranked = sorted(((value, title) for title, value in scores.items() if math.isfinite(value)), reverse=highest)
    if not ranked:
        return "no score"
    (value, title), *others = ranked
    behind = f"\N{NO-BREAK SPACE}{unit}" if unit else ""
    rest = ", ".join(f"{name} {number:.{digits}f}{behind}" for number, name in others)
    return f"{title} {value:.{digits}f}{behind}" + (f" ({rest})" if rest else "")
