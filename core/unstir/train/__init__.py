"""Training: losses with weights and time samplers, averaged weights, and a trainer that resumes exactly."""

from __future__ import annotations

import importlib
from typing import Any

_LAZY = {
    "DenoisingLoss": "loss",
    "LogUniform": "times",
    "LogNormal": "times",
    "LogitNormal": "times",
    "Uniform": "times",
    "Mixture": "times",
    "EMA": "ema",
    "PowerEMA": "ema",
    "Trainer": "trainer",
    "Schedule": "trainer",
}
__all__ = list(_LAZY)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"unstir.train.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'unstir.train' has no attribute {name!r}")
