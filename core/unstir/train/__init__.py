"""Training: losses with weights and time samplers, averaged weights, and a trainer that resumes exactly."""

from __future__ import annotations

import importlib
from typing import Any

_LAZY = {
    "DenoisingLoss": "loss",
    "PathLoss": "discrete",
    "VLB": "discrete",
    "nelbo": "discrete",
    "LogUniform": "times",
    "LogNormal": "times",
    "LogitNormal": "times",
    "Uniform": "times",
    "ReverseChain": "variance",
    "VariationalLoss": "variance",
    "ImportanceSampler": "variance",
    "TwoHeads": "variance",
    "bound": "variance",
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
