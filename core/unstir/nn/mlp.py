"""A residual multilayer perceptron for states that are vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from unstir.errors import UserError
from unstir.nn.embedding import LabelEmbedding


class MLP(nn.Module):
    """x -> W_out silu(... h + W2 silu(W1 norm(h) + e(label)) ...).

    Args:
        size: number of entries of the state (its event shape is flattened and restored).
        width: hidden width.
        depth: residual blocks.
        embedding: width of the label's embedding.
        features: length of ``condition[feature_key]``, shape ``(batch or 1, features)``; 0 for none.
        feature_key: name of that entry.
    """

    def __init__(
        self, size: int, width: int = 128, depth: int = 3, embedding: int = 64, features: int = 0, feature_key: str = "features"
    ) -> None:
        super().__init__()
        self.size = size
        self.embed = LabelEmbedding(embedding, features, feature_key)
        self.enter = nn.Linear(size, width)
        self.norm = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.first = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.modulation = nn.ModuleList(nn.Linear(embedding, width) for _ in range(depth))
        self.second = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.leave = nn.Linear(width, size)
        nn.init.normal_(self.leave.weight, std=1e-3 / math.sqrt(width))
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: Tensor, label: Tensor, condition: Mapping[str, Tensor] | None = None) -> Tensor:
        """Apply the network to ``x`` of shape ``(batch, *event)``; returns the same shape."""
        if x[0].numel() != self.size:
            raise UserError(f"this MLP takes states of {self.size} entries, got a tensor of shape {tuple(x.shape)}")
        embedding = F.silu(self.embed(label, condition))
        h = self.enter(x.flatten(1))
        for norm, first, modulation, second in zip(self.norm, self.first, self.modulation, self.second, strict=True):
            h = h + second(F.silu(first(norm(h)) + modulation(embedding)))
        return self.leave(F.silu(h)).reshape(x.shape)
