"""Solvers: how to step from one time to the next."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_LAZY = {
    "Solver": "base",
    "Row": "base",
    "Levels": "base",
    "Memory": "base",
    "Multistep": "multistep",
    "DDIM": "ancestral",
    "MultistepSDE": "ancestral",
    "Heun": "heun",
    "Churn": "heun",
    "PredictorCorrector": "corrector",
}
__all__ = list(_LAZY)

if TYPE_CHECKING:
    from unstir.solver.ancestral import DDIM as DDIM
    from unstir.solver.ancestral import MultistepSDE as MultistepSDE
    from unstir.solver.base import Levels as Levels
    from unstir.solver.base import Memory as Memory
    from unstir.solver.base import Row as Row
    from unstir.solver.base import Solver as Solver
    from unstir.solver.corrector import PredictorCorrector as PredictorCorrector
    from unstir.solver.heun import Churn as Churn
    from unstir.solver.heun import Heun as Heun
    from unstir.solver.multistep import Multistep as Multistep


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
