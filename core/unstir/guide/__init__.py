"""Guides: what else a denoiser knows. A guide wraps a denoiser and gives a denoiser."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_LAZY = {"Guide": "base", "Guided": "base", "CFG": "cfg", "DPS": "dps", "ProximalData": "proximal"}
__all__ = list(_LAZY)

if TYPE_CHECKING:
    from unstir.guide.base import Guide as Guide
    from unstir.guide.base import Guided as Guided
    from unstir.guide.cfg import CFG as CFG
    from unstir.guide.dps import DPS as DPS
    from unstir.guide.proximal import ProximalData as ProximalData


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"unstir.guide.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'unstir.guide' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
