"""What ``unstir data`` does: the cards of ``unstir_data``, and the cache behind them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from unstir_data import cards, fetch


def listed() -> list[dict[str, Any]]:
    """Every card as a dict, with ``here``: is it in its place, and whole?"""
    rows = []
    for name in cards.names():
        card = cards.load(name)
        rows.append({**card.model_dump(mode="json"), "here": fetch.verify(name).state == "ok"})
    return rows


def chosen(names: Sequence[str]) -> list[str]:
    """Names as given, each known; ``all`` is every one.

    Raises:
        UnknownName: no card has such a name.
    """
    if list(names) == ["all"]:
        return cards.names()
    for name in names:
        cards.load(name)
    return list(names)


def get(name: str, progress: Callable[[int, int], None] | None = None) -> Path:
    """Get a dataset, checked.

    Args:
        name: its card's name.
        progress: told of bytes so far and bytes in all.

    Raises:
        DataError: it cannot be had; says why.
    """
    return fetch.get(name, progress)


def verified(names: Sequence[str] | None = None) -> dict[str, str]:
    """``ok``, ``absent`` or ``damaged`` for each name; without names, all that are here.

    Raises:
        UnknownName: no card has such a name.
    """
    if names:
        return {name: fetch.verify(name).state for name in chosen(names)}
    states = {name: fetch.verify(name).state for name in cards.names()}
    return {name: state for name, state in states.items() if state != "absent"}


def size(count: int) -> str:
    """A number of bytes for people: ``1.1 MB``."""
    amount = float(count)
    for unit in ("B", "kB", "MB"):
        if amount < 999.5:
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 10 else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"
