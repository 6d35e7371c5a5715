"""Readers of volumes: one module a format, `read` finds the right one."""

from __future__ import annotations

from typing import Any

_LAZY = {"read": "unstir_medical.readers.dispatch", "FORMATS": "unstir_medical.readers.dispatch"}
__all__ = ["FORMATS", "read"]


def __getattr__(name: str) -> Any:
    import importlib

    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'unstir_medical.readers' has no attribute {name!r}")
