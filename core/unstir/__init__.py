"""unstir: one certified diffusion core, scientific domains as plugins.

Names are imported on first use, so ``import unstir`` costs little more than Python itself.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_LAZY = {
    "sample": "unstir.loop",
    "stream": "unstir.loop",
    "Samples": "unstir.loop",
    "invert": "unstir.inversion",
    "Inversion": "unstir.inversion",
    "likelihood": "unstir.flow_likelihood",
    "pulled_back": "unstir.adjoint",
    "LogLikelihood": "unstir.flow_likelihood",
    "load": "unstir.checkpoint",
    "save": "unstir.checkpoint",
    "run": "unstir.runner",
    "hookimpl": "unstir.plugin.markers",
    "Denoiser": "unstir.denoiser",
    "NetworkDenoiser": "unstir.denoiser",
    "Sliced": "unstir.denoiser",
    "Normaliser": "unstir.denoiser",
}
_MODULES: tuple[str, ...] = ("certify", "checkpoint", "denoiser", "errors", "grid", "guide", "names", "nn", "noise", "operator")
_MODULES += ("plugin", "process", "registry", "solver", "search", "space", "starts", "steer", "testing", "train")
_MODULES += ("posterior",)
_MODULES += ("choose", "noise_law")

__all__ = ["__version__", *_LAZY, *_MODULES]

if TYPE_CHECKING:
    from unstir import registry as registry
    from unstir.adjoint import pulled_back as pulled_back
    from unstir.checkpoint import load as load
    from unstir.checkpoint import save as save
    from unstir.denoiser import Denoiser as Denoiser
    from unstir.denoiser import NetworkDenoiser as NetworkDenoiser
    from unstir.denoiser import Normaliser as Normaliser
    from unstir.denoiser import Sliced as Sliced
    from unstir.flow_likelihood import LogLikelihood as LogLikelihood
    from unstir.flow_likelihood import likelihood as likelihood
    from unstir.inversion import Inversion as Inversion
    from unstir.inversion import invert as invert
    from unstir.loop import Samples as Samples
    from unstir.loop import sample as sample
    from unstir.loop import stream as stream
    from unstir.plugin.markers import hookimpl as hookimpl
    from unstir.runner import run as run


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"unstir.{name}")
    raise AttributeError(f"module 'unstir' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
