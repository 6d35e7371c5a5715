"""Networks a denoiser can wrap: U-Net for 1, 2 and 3 dimensions, DiT, MLP."""

from __future__ import annotations

from unstir.lazy import attach

_LAZY = {"UNet": "unet", "DiT": "dit", "MLP": "mlp", "LabelEmbedding": "embedding"}
__all__ = list(_LAZY)

__getattr__, __dir__ = attach(__name__, _LAZY)
