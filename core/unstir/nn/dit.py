"""A small diffusion transformer over the patches of a 1-, 2- or 3-dimensional state.

Blocks with adaptive layer norm: h + g1 attention(norm(h)(1+a1)+b1), h + g2 mlp(norm(h)(1+a2)+b2), gates g zero at the start.
[DiT, Peebles and Xie 2023, arXiv:2212.09748]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unstir.errors import UserError
from unstir.nn.embedding import LabelEmbedding
from unstir.nn.unet import depth_to_space, space_to_depth


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, embedding: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attended = nn.Linear(width, width)
        self.hidden = nn.Linear(width, 4 * width)
        self.out = nn.Linear(4 * width, width)
        self.modulation = nn.Linear(embedding, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        a1, b1, g1, a2, b2, g2 = self.modulation(embedding).unsqueeze(1).chunk(6, -1)
        batch, tokens, width = x.shape
        packed = self.query_key_value(self.norm(x) * (1 + a1) + b1).reshape(batch, tokens, 3, self.heads, -1)
        q, k, v = packed.permute(2, 0, 3, 1, 4)
        x = x + g1 * self.attended(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width))
        return x + g2 * self.out(F.gelu(self.hidden(self.norm(x) * (1 + a2) + b2)))


class DiT(nn.Module):
    """Diffusion transformer of fixed size.

    Args:
        size: spatial sizes of the state, each a multiple of ``patch``.
        in_channels: channels of the state.
        out_channels: channels of the output.
        patch: side of a patch.
        width: token width, a multiple of ``heads``.
        depth: blocks.
        heads: attention heads.
        features: length of ``condition[feature_key]``, shape ``(batch or 1, features)``; 0 for none.
        feature_key: name of that entry.

    Raises:
        UserError: a size is no multiple of the patch, or the width none of the heads.
    """

    def __init__(
        self,
        size: Sequence[int],
        in_channels: int,
        out_channels: int,
        patch: int = 4,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        features: int = 0,
        feature_key: str = "features",
    ) -> None:
        super().__init__()
        if any(n % patch for n in size):
            raise UserError(f"sizes {tuple(size)} of a DiT must be multiples of its patch {patch}")
        if width % heads:
            raise UserError(f"width {width} of a DiT must be a multiple of its {heads} heads")
        self.size, self.patch = tuple(size), patch
        cell, tokens = patch ** len(self.size), 1
        for n in self.size:
            tokens *= n // patch
        self.embed = LabelEmbedding(width, features, feature_key)
        self.enter = nn.Linear(in_channels * cell, width)
        self.position = nn.Parameter(torch.randn(1, tokens, width) * 0.02)
        self.blocks = nn.ModuleList(_Block(width, heads, width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, out_channels * cell)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: Tensor, label: Tensor, condition: Mapping[str, Tensor] | None = None) -> Tensor:
        """Apply the network to ``x`` of shape ``(batch, in_channels, *size)``; returns ``(batch, out_channels, *size)``."""
        if tuple(x.shape[2:]) != self.size:
            raise UserError(f"this DiT was built for sizes {self.size}, got {tuple(x.shape[2:])}")
        embedding = F.silu(self.embed(label, condition))
        cells = space_to_depth(x, self.patch)
        h = self.enter(cells.flatten(2).transpose(1, 2)) + self.position
        for block in self.blocks:
            h = block(h, embedding)
        h = self.leave(self.norm(h)).transpose(1, 2)
        return depth_to_space(h.reshape(h.shape[0], h.shape[1], *cells.shape[2:]), self.patch)
