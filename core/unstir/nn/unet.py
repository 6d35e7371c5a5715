"""A U-Net for signals, images and volumes, sized for a CPU.

A space-to-depth stem moves the work to half resolution; residual blocks are modulated by the noise label; attention is optional.
Any size works: the input is padded to a multiple of the coarsest cell and the output cropped back.
[Ronneberger et al. 2015, arXiv:1505.04597; Ho et al. 2020, arXiv:2006.11239]
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unstir.errors import UserError
from unstir.nn.embedding import LabelEmbedding

_CONVOLUTION = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def _groups(channels: int) -> int:
    return math.gcd(channels, 8)


def space_to_depth(x: Tensor, factor: int) -> Tensor:
    """Fold cells of ``factor`` a side into channels: ``(batch, C, *size) -> (batch, C factor^dim, *size/factor)``."""
    dim = x.ndim - 2
    batch, channels, *size = x.shape
    x = x.reshape(batch, channels, *(n for s in size for n in (s // factor, factor)))
    coarse, fine = range(2, 2 + 2 * dim, 2), range(3, 3 + 2 * dim, 2)
    return x.permute(0, 1, *fine, *coarse).reshape(batch, channels * factor**dim, *(s // factor for s in size))


def depth_to_space(x: Tensor, factor: int) -> Tensor:
    """Inverse of `space_to_depth`."""
    dim = x.ndim - 2
    batch, channels, *size = x.shape
    x = x.reshape(batch, channels // factor**dim, *(factor,) * dim, *size)
    order = (n for axis in range(dim) for n in (2 + dim + axis, 2 + axis))
    return x.permute(0, 1, *order).reshape(batch, channels // factor**dim, *(s * factor for s in size))


class _Block(nn.Module):
    """x + conv(silu(norm(h) (1 + a) + b)), h = conv(silu(norm(x))), with (a, b) from the embedding."""

    def __init__(self, dim: int, inputs: int, outputs: int, embedding: int) -> None:
        super().__init__()
        convolution = _CONVOLUTION[dim]
        self.first_norm = nn.GroupNorm(_groups(inputs), inputs)
        self.first = convolution(inputs, outputs, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * outputs)
        self.second_norm = nn.GroupNorm(_groups(outputs), outputs)
        self.second = convolution(outputs, outputs, 3, padding=1)
        self.skip = convolution(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.first(F.silu(self.first_norm(x)))
        scale, shift = self.modulation(embedding)[(...,) + (None,) * (x.ndim - 2)].chunk(2, 1)
        h = self.second(F.silu(torch.addcmul(shift, self.second_norm(h), 1 + scale)))
        return self.skip(x) + h


class _Attention(nn.Module):
    """Self-attention over all positions, as a residual."""

    def __init__(self, dim: int, channels: int, head: int = 32) -> None:
        super().__init__()
        self.heads = next(count for count in range(max(channels // head, 1), 0, -1) if channels % count == 0)
        self.norm = nn.GroupNorm(_groups(channels), channels)
        self.query_key_value = _CONVOLUTION[dim](channels, 3 * channels, 1)
        self.out = _CONVOLUTION[dim](channels, channels, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        batch, channels = x.shape[:2]
        q, k, v = self.query_key_value(self.norm(x)).reshape(batch, 3, self.heads, channels // self.heads, -1).transpose(-1, -2).unbind(1)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(x.shape)
        return x + self.out(attended)


class UNet(nn.Module):
    """U-Net with a space-to-depth stem.

    Args:
        dim: 1, 2 or 3 spatial dimensions.
        in_channels: channels of the state (with its context, where it has one).
        out_channels: channels of the output.
        widths: channels of each level; each level halves the resolution.
        blocks: residual blocks a level, on the way down and on the way up.
        stem: side of the cell that the stem folds into channels (1: none).
        attention: levels (0 the finest) with self-attention after each block on the way up.
        embedding: width of the label's embedding.
        features: length of ``condition[feature_key]``, shape ``(batch or 1, features)``; 0 for none.
        feature_key: name of that entry.

    Raises:
        UserError: the dimension is not 1, 2 or 3, there is no width, block or stem, or attention is asked for at a level that is not
            there.
    """

    def __init__(
        self,
        dim: int,
        in_channels: int,
        out_channels: int,
        widths: Sequence[int] = (64, 128, 192),
        blocks: int = 2,
        stem: int = 2,
        attention: Sequence[int] = (),
        embedding: int = 128,
        features: int = 0,
        feature_key: str = "features",
    ) -> None:
        super().__init__()
        if dim not in _CONVOLUTION:
            raise UserError(f"a U-Net has 1, 2 or 3 dimensions, got {dim}")
        if not widths or min(widths) < 1:
            raise UserError(f"a U-Net needs at least one width, each at least 1, got {list(widths)}")
        if blocks < 1 or stem < 1:
            raise UserError(f"blocks and stem of a U-Net must be at least 1, got {blocks} and {stem}")
        if not set(attention) <= set(range(len(widths))):
            raise UserError(f"attention goes to levels 0 to {len(widths) - 1} of this U-Net, got {sorted(attention)}")
        self.dim, self.stem, self.levels, self.in_channels = dim, stem, len(widths), in_channels
        self.embed = LabelEmbedding(embedding, features, feature_key)
        convolution, cell = _CONVOLUTION[dim], stem**dim
        self.enter = convolution(in_channels * cell, widths[0], 3, padding=1)
        self.down, self.up, self.attend = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.coarsen, self.refine = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(widths):
            last = level == self.levels - 1
            self.down.append(nn.ModuleList(_Block(dim, width, width, embedding) for _ in range(blocks)))
            self.up.append(nn.ModuleList(_Block(dim, width if n or last else 2 * width, width, embedding) for n in range(blocks)))
            self.attend.append(_Attention(dim, width) if level in attention else nn.Identity())
            if not last:
                self.coarsen.append(convolution(width, widths[level + 1], 3, stride=2, padding=1))
                self.refine.append(convolution(widths[level + 1], width, 1))
        self.leave_norm = nn.GroupNorm(_groups(widths[0]), widths[0])
        self.leave = convolution(widths[0], out_channels * cell, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]
        if dim == 2:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # twice as fast on a CPU

    def forward(self, x: Tensor, label: Tensor, condition: Mapping[str, Tensor] | None = None) -> Tensor:
        """Apply the network.

        Args:
            x: ``(batch, in_channels, *size)``, any size.
            label: noise label, ``(batch,)`` or one for all.
            condition: holds the features where the network has some.

        Returns:
            ``(batch, out_channels, *size)``.
        """
        if x.ndim != self.dim + 2:
            raise UserError(f"this U-Net takes (batch, channels, {self.dim} spatial sizes), got a tensor of shape {tuple(x.shape)}")
        if x.shape[1] != self.in_channels:
            raise UserError(f"this U-Net takes {self.in_channels} channels, got a tensor of shape {tuple(x.shape)}")
        size, cell = x.shape[2:], self.stem * 2 ** (self.levels - 1)
        margin = [-n % cell for n in size]
        if any(margin):
            x = F.pad(x, [p for m in reversed(margin) for p in (m // 2, m - m // 2)], mode="replicate")
        embedding = F.silu(self.embed(label, condition))
        x = self.enter(space_to_depth(x, self.stem))
        skips = []
        for level in range(self.levels):
            for block in self.down[level]:  # type: ignore[attr-defined]
                x = block(x, embedding)
            if level < self.levels - 1:
                skips.append(x)
                x = self.coarsen[level](x)
        for level in reversed(range(self.levels)):
            if level < self.levels - 1:
                x = torch.cat((F.interpolate(self.refine[level](x), scale_factor=2.0), skips.pop()), 1)
            for block in self.up[level]:  # type: ignore[attr-defined]
                x = self.attend[level](block(x, embedding))
        x = depth_to_space(self.leave(F.silu(self.leave_norm(x))), self.stem)
        for axis, (m, n) in enumerate(zip(margin, size, strict=True), start=2):
            x = x.narrow(axis, m // 2, n)
        return x
