"""The network of GeoTDM: messages between bodies of one frame, attention between frames of one body, and vectors that turn with the world.

    spatial    m_ij = f(h_i, h_j, log(1 + d_ij^2), w_ij),     h_i += g(h_i, sum_j m_ij, log(1 + |V_i|^2))
               V_i += sum_j a(m_ij) (P_i - P_j)/(1 + d_ij) + sum_j b(m_ij) V_j
    temporal   a_ts = softmax_s(q_t k_s + bias(t - s) + log-distance),     h_t += sum_s a_ts v_s,
               V_t += sum_s a_ts (g_s (P_s - P_t) + V_s)
    answer     sum_c beta_c(h) V_c,     V begun with the noisy state r itself

h are invariants, V vectors, P places: given frames, then reference + s r. Only differences of places, lengths, and sums of vectors with
invariant weights occur, so the answer turns and mirrors with the input and does not see a shift. The reference of the frames to come is a
combination of the given ones whose weights add up to 1, by least squares on the training set, and so it turns and shifts with them.

Reference: Han et al. 2024 (GeoTDM), arXiv:2410.13027; Satorras et al. 2021 (EGNN), arXiv:2102.09844; Schuett et al. 2021 (PaiNN),
arXiv:2102.03150.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unstir.errors import UserError
from unstir.nn.embedding import LabelEmbedding


class SpatialLayer(nn.Module):
    """Messages between all bodies of a frame.

    Args:
        width: of the invariants.
        channels: of the vectors.
    """

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.own, self.other = nn.Linear(width, width), nn.Linear(width, width, bias=False)
        self.pair = nn.Linear(2, width)
        self.message = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.gates = nn.Linear(width, 2 * channels)
        self.update = nn.Sequential(nn.Linear(2 * width + channels, width), nn.SiLU(), nn.Linear(width, width))
        self.mix = nn.Linear(channels, channels, bias=False)

    def forward(self, h: Tensor, v: Tensor, places: Tensor, coupling: Tensor) -> tuple[Tensor, Tensor]:
        """New invariants and vectors.

        Args:
            h: (B, F, N, W).
            v: (B, F, N, A, C).
            places: (B, F, N, A).
            coupling: (B, N, N).
        """
        n = places.shape[2]
        away = places[:, :, :, None] - places[:, :, None]
        squared = away.square().sum(-1)
        pair = torch.stack([torch.log1p(squared), coupling[:, None].expand_as(squared)], -1)
        m = self.message(self.own(h)[:, :, :, None] + self.other(h)[:, :, None] + self.pair(pair))
        m = m * (1 - torch.eye(n, dtype=m.dtype, device=m.device))[..., None] / (n - 1)
        push, pull = self.gates(m).chunk(2, -1)
        away = away / (1 + torch.sqrt(squared + 1e-12))[..., None]
        v = v + torch.einsum("bfija,bfijc->bfiac", away, push) + torch.einsum("bfjac,bfijc->bfiac", self.mix(v), pull)
        return h + self.update(torch.cat([h, m.sum(3), _lengths(v)], -1)), v


class TemporalLayer(nn.Module):
    """Attention between all frames of a body.

    Args:
        width: of the invariants.
        channels: of the vectors, a multiple of the heads.
        heads: of the attention.
        frames: F, given ones included.
    """

    def __init__(self, width: int, channels: int, heads: int, frames: int) -> None:
        super().__init__()
        self.heads, self.frames = heads, frames
        self.norm = nn.LayerNorm(width)
        self.ask = nn.Linear(width, 3 * width)
        self.gate = nn.Linear(width, heads)
        self.out = nn.Linear(width, width)
        self.bias = nn.Parameter(torch.zeros(heads, 2 * frames - 1))
        self.far = nn.Parameter(torch.zeros(heads))
        self.into = nn.Linear(heads, channels, bias=False)
        self.mix, self.mixed = nn.Linear(channels, channels, bias=False), nn.Linear(channels, channels, bias=False)
        self.update = nn.Sequential(nn.Linear(width + channels, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, h: Tensor, v: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """New invariants and vectors.

        Args:
            h: (B, F, N, W).
            v: (B, F, N, A, C).
            places: (B, F, N, A).
        """
        q, k, value = (part.unflatten(-1, (self.heads, -1)) for part in self.ask(self.norm(h)).chunk(3, -1))
        steps = torch.arange(self.frames, device=h.device)
        bias = self.bias[:, steps[:, None] - steps[None] + self.frames - 1]
        apart = torch.log1p((places[:, :, None] - places[:, None]).square().sum(-1))  # (B, F, F, N)
        logits = torch.einsum("btnhw,bsnhw->bnhts", q, k) / math.sqrt(q.shape[-1])
        a = torch.softmax(logits + bias + self.far[:, None, None] * apart.permute(0, 3, 1, 2)[:, :, None], -1)
        gate = self.gate(h)
        from_there = torch.einsum("bnhts,bsnh,bsnx->btnxh", a, gate, places)
        from_here = torch.einsum("bnhts,bsnh->btnh", a, gate)[..., None, :] * places[..., None]
        carried = torch.einsum("bnhts,bsnxhc->btnxhc", a, self.mix(v).unflatten(-1, (self.heads, -1))).flatten(-2)
        v = v + self.into(from_there - from_here) + self.mixed(carried)
        h = h + self.out(torch.einsum("bnhts,bsnhw->btnhw", a, value).flatten(-2))
        return h + self.update(torch.cat([h, _lengths(v)], -1)), v


class GeoTDMNetwork(nn.Module):
    """What the noise (or velocity, or data) in a trajectory is, as vectors; called by a denoiser.

    Args:
        bodies: N.
        given: G, frames that are known; 0 for trajectories out of nothing.
        frames: T, frames to come.
        axes: A, dimensions.
        scale: of the residual, in units of the places: the state is (places - reference)/scale.
        width: of the invariants.
        layers: of each kind.
        heads: of the attention.
        channels: of the vectors, a multiple of the heads.

    Raises:
        UserError: a size does not fit.
    """

    weights: Tensor

    def __init__(
        self,
        bodies: int = 5,
        given: int = 10,
        frames: int = 20,
        axes: int = 3,
        scale: float = 1.0,
        width: int = 64,
        layers: int = 3,
        heads: int = 4,
        channels: int = 8,
    ) -> None:
        super().__init__()
        if channels % heads or width % heads:
            raise UserError(f"width and channels must be multiples of heads, got {width}, {channels} and {heads}")
        if bodies < 2 or frames < 1 or given < 0 or not scale > 0:
            raise UserError(f"a network of trajectories needs 2 bodies, a frame and a scale, got {bodies}, {frames} and {scale}")
        self.bodies, self.given, self.frames, self.axes, self.scale, self.channels = bodies, given, frames, axes, scale, channels
        last = torch.zeros(frames, max(given, 1))
        last[:, -1] = 1
        self.register_buffer("weights", last)
        self.begin = nn.Linear(2, width)
        self.frame = nn.Embedding(given + frames, width)
        self.level = LabelEmbedding(width)
        self.vectors = nn.Linear(2, channels, bias=False)
        self.spatial = nn.ModuleList(SpatialLayer(width, channels) for _ in range(layers))
        self.temporal = nn.ModuleList(TemporalLayer(width, channels, heads, given + frames) for _ in range(layers))
        self.end = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, channels + 1))

    def reference(self, given: Float[Tensor, "batch given bodies axes"]) -> Float[Tensor, "batch frames bodies axes"]:
        """Where the frames to come are expected: sum_s weight_ts x_s, weights that add up to 1.

        Args:
            given: places of the known frames.
        """
        return torch.einsum("ts,bsna->btna", self.weights.to(given), given)

    def forward(self, x: Float[Tensor, "batch points axes"], label: Tensor, condition: Mapping[str, Any] | None = None) -> Tensor:
        """Vectors of the shape of ``x``.

        Args:
            x: noisy residuals (B, T N, A), frame by frame.
            label: (B,) time of the noise.
            condition: ``given`` (B, G, N, A) places, ``coupling`` (B, N, N) and ``charge`` (B, N); the last two are 0 where not told.
        """
        told = condition or {}
        count, total = len(x), self.given + self.frames
        x = x if self.given else x - x.mean(1, keepdim=True)
        residual = x.reshape(count, self.frames, self.bodies, self.axes)
        places = self.scale * residual
        if self.given:
            if "given" not in told:
                raise UserError(f"this network forecasts: give the {self.given} known frames as condition['given']")
            given = told["given"].to(x).expand(count, -1, -1, -1)
            places = torch.cat([given, self.reference(given) + places], 1)
            residual = torch.cat([torch.zeros_like(given), residual], 1)
        centred = places - (places[:, self.given - 1 : self.given] if self.given else places.mean((1, 2), keepdim=True))
        coupling = told["coupling"].to(x).expand(count, -1, -1) if "coupling" in told else x.new_zeros(count, self.bodies, self.bodies)
        charge = told["charge"].to(x).expand(count, -1) if "charge" in told else x.new_zeros(count, self.bodies)
        kind = torch.stack([charge, coupling.sum(-1)], -1)[:, None].expand(-1, total, -1, -1)
        steps = torch.arange(total, device=x.device)
        h = self.begin(kind) + self.frame(steps)[:, None] + self.level(label).to(x)[:, None, None]
        v = self.vectors(torch.stack([residual, centred], -1))
        for spatial, temporal in zip(self.spatial, self.temporal, strict=True):
            h, v = spatial(h, v, centred, coupling)
            h, v = temporal(h, v, centred)
        weights = self.end(h[:, self.given :])
        found = (weights[..., None, :-1] * v[:, self.given :]).sum(-1) / self.channels + weights[..., -1:] * residual[:, self.given :]
        found = found.reshape(x.shape)
        return found if self.given else found - found.mean(1, keepdim=True)


def _lengths(v: Tensor) -> Tensor:
    """log(1 + |V|^2) of every channel."""
    return torch.log1p(v.square().sum(-2))
