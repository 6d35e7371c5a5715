"""The report of a run: one HTML file that opens anywhere, with no network."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_LAZY = {"write": "page", "render": "page"}

__all__ = list(_LAZY)

if TYPE_CHECKING:
    from unstir_pipelines.report.page import render as render
    from unstir_pipelines.report.page import write as write


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"unstir_pipelines.report.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'unstir_pipelines.report' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
