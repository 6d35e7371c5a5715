"""Networks a denoiser can wrap: U-Net for 1, 2 and 3 dimensions, DiT, MLP."""

from __future__ import annotations

import importlib
from typing import Any

_LAZY = {"UNet": "unet", "DiT": "dit", "MLP": "mlp", "LabelEmbedding": "embedding"}
__all__ = list(_LAZY)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"unstir.nn.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'unstir.nn' has no attribute {name!r}")
