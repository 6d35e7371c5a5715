"""Checks of options that many parts have: what is wrong with which, in one sentence."""

from __future__ import annotations

import math
from typing import Any, get_args

from unstir.errors import UserError


def at_least(options: Any, **bounds: float) -> None:
    """Check that options do not lie below their bounds.

    Args:
        options: what has them.
        bounds: the least value of each.

    Raises:
        UserError: one lies below.
    """
    for name, least in bounds.items():
        if not (value := getattr(options, name)) >= least:  # NaN is not
            raise UserError(f"{name} must be at least {least}, got {value}")


def positive(options: Any, *names: str) -> None:
    """Check that options are finite and above 0.

    Args:
        options: what has them.
        names: which.

    Raises:
        UserError: one is not.
    """
    for name in names:
        if not (math.isfinite(value := getattr(options, name)) and value > 0):
            raise UserError(f"{name} must be positive, got {value}")


def not_negative(options: Any, *names: str) -> None:
    """Check that options are finite and 0 or above.

    Args:
        options: what has them.
        names: which.

    Raises:
        UserError: one is not.
    """
    for name in names:
        if not (math.isfinite(value := getattr(options, name)) and value >= 0):
            raise UserError(f"{name} must not be negative, got {value}")


def probabilities(options: Any, *names: str) -> None:
    """Check that options lie between 0 and 1, both included.

    Args:
        options: what has them.
        names: which.

    Raises:
        UserError: one does not.
    """
    for name in names:
        if not 0 <= (value := getattr(options, name)) <= 1:
            raise UserError(f"{name} must lie between 0 and 1, got {value}")


def one_of(options: Any, **allowed: Any) -> None:
    """Check that options are among a few words.

    Args:
        options: what has them.
        allowed: the words of each, a ``Literal`` or a tuple.

    Raises:
        UserError: one is another word.
    """
    for name, words in allowed.items():
        words = words if isinstance(words, tuple) else get_args(words)
        if (value := getattr(options, name)) not in words:
            raise UserError(f"{name} must be one of {', '.join(words)}, got {value!r}")
