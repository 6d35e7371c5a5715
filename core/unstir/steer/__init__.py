"""Steers: where a state may go after a step."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_LAZY = {
    "Moment": "base",
    "OnLeaf": "base",
    "Steer": "base",
    "Constraint": "constraint",
    "DataConsistency": "consistency",
    "AdmmTV": "admm",
}
__all__ = list(_LAZY)

if TYPE_CHECKING:
    from unstir.steer.admm import AdmmTV as AdmmTV
    from unstir.steer.base import Moment as Moment
    from unstir.steer.base import OnLeaf as OnLeaf
    from unstir.steer.base import Steer as Steer
    from unstir.steer.consistency import DataConsistency as DataConsistency
    from unstir.steer.constraint import Constraint as Constraint


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"unstir.steer.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'unstir.steer' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
