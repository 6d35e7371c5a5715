"""Denoisers: what a model believes the clean data are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unstir.lazy import attach

_LAZY = {
    "Denoiser": "base",
    "Rescheduled": "base",
    "Normaliser": "normaliser",
    "NetworkDenoiser": "network",
    "Sliced": "sliced",
    "Perpendicular": "perpendicular",
    "Transport": "transport",
    "TokenDenoiser": "tokens",
    "Reuse": "tokens",
    "PARAMETERISATIONS": "convert",
    "Tiled": "tiled",
}
__all__ = list(_LAZY)

if TYPE_CHECKING:
    from unstir.denoiser.base import Denoiser as Denoiser
    from unstir.denoiser.base import Rescheduled as Rescheduled
    from unstir.denoiser.convert import PARAMETERISATIONS as PARAMETERISATIONS
    from unstir.denoiser.network import NetworkDenoiser as NetworkDenoiser
    from unstir.denoiser.normaliser import Normaliser as Normaliser
    from unstir.denoiser.perpendicular import Perpendicular as Perpendicular
    from unstir.denoiser.sliced import Sliced as Sliced
    from unstir.denoiser.tiled import Tiled as Tiled
    from unstir.denoiser.tokens import Reuse as Reuse
    from unstir.denoiser.tokens import TokenDenoiser as TokenDenoiser
    from unstir.denoiser.transport import Transport as Transport

__getattr__, __dir__ = attach(__name__, _LAZY)
