"""From recipes to runs to reports: the runner, its engines and the command line."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_LAZY = {"run": "api", "Run": "api", "Recipe": "recipe", "RunFolder": "store"}

__all__ = list(_LAZY)

if TYPE_CHECKING:
    from unstir_pipelines.api import Run as Run
    from unstir_pipelines.api import run as run
    from unstir_pipelines.recipe import Recipe as Recipe
    from unstir_pipelines.store import RunFolder as RunFolder


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"unstir_pipelines.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'unstir_pipelines' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
