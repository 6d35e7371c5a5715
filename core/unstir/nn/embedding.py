"""Embedding of what a network is told besides the state: its noise label and, where it has one, a vector of features.

e(l) = W2 silu(W1 [cos(2 pi f l), sin(2 pi f l)])   with frequencies f spaced geometrically.   [Vaswani et al. 2017; Ho et al. 2020]
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from unstir.errors import UserError


class LabelEmbedding(nn.Module):
    """Vector the blocks of a network are modulated with.

    Args:
        width: length of the vector.
        features: length of the feature vector in the condition; 0 for none.
        feature_key: the condition's entry that holds it, shape ``(batch or 1, features)``, roughly of unit scale.
        low: lowest frequency of the label, in cycles per unit of label.
        high: highest frequency.
    """

    def __init__(self, width: int, features: int = 0, feature_key: str = "features", low: float = 0.02, high: float = 4.0) -> None:
        super().__init__()
        self.features, self.feature_key = features, feature_key
        half = width // 2
        self.frequencies: Tensor
        self.register_buffer("frequencies", 2 * math.pi * low * (high / low) ** (torch.arange(half) / max(half - 1, 1)), persistent=False)
        self.first = nn.Linear(2 * half, width)
        self.second = nn.Linear(width, width)
        self.from_features = nn.Linear(features, width) if features else None

    def forward(self, label: Tensor, condition: Mapping[str, Tensor] | None = None) -> Tensor:
        """Embed labels.

        Args:
            label: ``(batch,)`` or a 0-dimensional tensor.
            condition: must hold ``feature_key`` when the network was built with features.

        Returns:
            ``(batch, width)``.

        Raises:
            UserError: the features are missing or of another length.
        """
        angle = label.reshape(-1, 1).to(self.frequencies.dtype) * self.frequencies
        hidden = self.first(torch.cat((angle.cos(), angle.sin()), -1))
        if self.from_features is not None:
            if condition is None or self.feature_key not in condition:
                raise UserError(f"this network needs condition[{self.feature_key!r}], a tensor of shape (batch, {self.features})")
            given = condition[self.feature_key]
            if given.shape[-1] != self.features:
                raise UserError(f"condition[{self.feature_key!r}] has {given.shape[-1]} features, this network takes {self.features}")
            hidden = hidden + self.from_features(given.to(hidden.dtype))
        return self.second(nn.functional.silu(hidden))
