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

    Raises:
        UserError: the width holds no pair of cosine and sine.
    """

    def __init__(self, width: int, features: int = 0, feature_key: str = "features", low: float = 0.02, high: float = 4.0) -> None:
        super().__init__()
        if width < 2:
            raise UserError(f"an embedding needs a width of at least 2, got {width}")
        self.features, self.feature_key = features, feature_key
        self.low, self.high, self.pairs = low, high, width // 2
        self.first = nn.Linear(2 * self.pairs, width)
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
        angle = label.reshape(-1, 1).float() * self.frequencies(label.device)
        hidden = self.first(torch.cat((angle.cos(), angle.sin()), -1).to(self.first.weight.dtype))
        if self.from_features is not None:
            if condition is None or self.feature_key not in condition:
                raise UserError(f"this network needs condition[{self.feature_key!r}], a tensor of shape (batch, {self.features})")
            given = condition[self.feature_key]
            if given.shape[-1] != self.features:
                raise UserError(f"condition[{self.feature_key!r}] has {given.shape[-1]} features, this network takes {self.features}")
            hidden = hidden + self.from_features(given.to(hidden.dtype))
        return self.second(nn.functional.silu(hidden))

    def frequencies(self, device: torch.device) -> Tensor:
        """2 pi f, in float32 whatever the network's dtype: rounded to half precision they could not tell one label from the next."""
        place = torch.arange(self.pairs, device=device) / max(self.pairs - 1, 1)
        return 2 * math.pi * self.low * (self.high / self.low) ** place
