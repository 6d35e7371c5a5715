"""unstir_data: dataset cards, bundled samples, trained checkpoints, and the fetching of what is not bundled."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["cards", "fetch"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module(f"unstir_data.{name}")
    raise AttributeError(f"module 'unstir_data' has no attribute {name!r}")
