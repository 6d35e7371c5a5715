"""Errors of unstir: each says in one sentence what is wrong, where, and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UnstirError(Exception):
    """Base of every error raised on purpose by unstir."""


class UserError(UnstirError):
    """Something the caller can mend: shown as one sentence, without a traceback."""


class RecipeError(UserError):
    """A recipe (or a ``--set`` override) is not valid; the sentence names file, line and key."""


class DataError(UserError):
    """A file or a dataset cannot be used; the sentence names the file and the fault."""


class PluginError(UserError):
    """A plugin is broken, has the wrong API version, or claims a name that is taken."""


class CheckpointError(UserError):
    """A checkpoint folder is missing, truncated, or belongs to another network or range."""


class MissingExtra(UserError):
    """An optional dependency is not installed; the sentence gives the pip command."""


class UnknownName(UserError):
    """A name is not registered; the sentence lists the nearest known ones.

    Args:
        kind: what was looked for, in the singular (``"solver"``).
        name: what was asked.
        known: the names that exist.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name = kind, name
        self.nearest = nearest(name, known)
        hint = f"; did you mean {' or '.join(repr(n) for n in self.nearest)}?" if self.nearest else ""
        super().__init__(f"there is no {kind} {name!r}{hint}")


class SamplingDiverged(UnstirError):
    """A state stopped being finite.

    Args:
        step: index of the step (0-based).
        time: the process time the step went to.
        index: index of the first sample that is not finite.
    """

    def __init__(self, step: int, time: float, index: int) -> None:
        self.step, self.time, self.index = step, time, index
        super().__init__(
            f"sample {index} stopped being finite at step {step} (time {time:.6g}); "
            "a smaller guidance weight, a finer grid or float64 may help"
        )


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The known names most like ``name``, best first (at most ``count``)."""
    return difflib.get_close_matches(name, list(dict.fromkeys(known)), n=count, cutoff=0.4)
