"""The networks of HypDiff in one module: graph to points, points to graph, and the denoiser of the points.

    encoder   z <- exp_0(silu(W log_0 z + U log_0 mean_j(z_j) + b)),   means are gyromidpoints over neighbours and oneself
    decoder   p(edge) = 1 / (exp((d(z_i, z_j)^2 - r) / t) + 1)                                                   (Fermi-Dirac)
    denoiser  a transformer over nodes, told the noise level and each node's cluster

Linear maps in the tangent space of the origin alone would be a flat network in disguise (exp and log of one layer cancel those of the
next); what is hyperbolic here are the means over neighbours, the distance of the decoder, the clusters, and the tangent spaces there.

Reference: Fu et al. 2024 (HypDiff), arXiv:2405.03188; Chami et al. 2019 (HGCN), arXiv:1910.12933.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from unstir.errors import UserError
from unstir.nn.embedding import LabelEmbedding
from unstir_molecules.hyperbolic.ball import Ball, length
from unstir_molecules.hyperbolic.flat import Flat
from unstir_molecules.hyperbolic.process import Chart

FARTHEST = 3.0
"""Points lie within this many times 1/sqrt(c) of the origin, in length of the tangent vector: twice that in distance."""


def node_features(
    adjacency: Float[Tensor, "batch n n"], mask: Bool[Tensor, "batch n"], walks: int, vectors: int
) -> Float[Tensor, "batch n f"]:
    """What the encoder sees of each node: its degree, chances to return to it, and entries of Laplacian eigenvectors.

    Args:
        adjacency: 0 or 1, symmetric, 0 at absent nodes.
        mask: nodes that are there.
        walks: longest walk whose return is counted.
        vectors: eigenvectors of the normalised Laplacian above the lowest, times the root of n; of the sign that makes the sum of their
            cubes positive.
    """
    degree = adjacency.sum(-1, keepdim=True)
    step = adjacency / degree.clamp(min=1)
    power, returns = step, []
    for _ in range(walks - 1):
        power = power @ step
        returns.append(power.diagonal(dim1=1, dim2=2))
    root = degree.clamp(min=1).rsqrt()
    absent = torch.diag_embed(4.0 * (~mask).to(adjacency))  # their eigenvalues come last
    laplacian = torch.eye(adjacency.shape[1], dtype=adjacency.dtype, device=adjacency.device) - root * adjacency * root.mT + absent
    found = torch.linalg.eigh(laplacian.double())[1].to(adjacency)[..., 1 : vectors + 1]
    found = nn.functional.pad(found, (0, vectors - found.shape[-1])) * mask.sum(1)[:, None, None].sqrt()
    sign = torch.where(found.pow(3).sum(1, keepdim=True) < 0, -1.0, 1.0)
    return torch.cat([degree / 10, torch.stack(returns, -1), sign * found], -1) * mask[..., None]


class HypDiffNetwork(nn.Module):
    """Encoder, decoder and denoiser.

    Args:
        dim: of the points.
        c: the curvature is -c; 0 for flat space.
        clusters: K.
        kappa: noise across the direction of a cluster's centre relative to that along it.
        walks: longest return of the features.
        eigenvectors: of the features.
        hidden: width of the encoder.
        encoders: its layers.
        width: of the denoiser.
        layers: of the denoiser.
        heads: of its attention.
        radius: r of the decoder to begin with, a squared distance.
        temperature: t of the decoder to begin with.

    Raises:
        UserError: an option out of range.
    """

    centres: Tensor

    def __init__(
        self,
        dim: int = 16,
        c: float = 0.6,
        clusters: int = 4,
        kappa: float = 1.0,
        walks: int = 8,
        eigenvectors: int = 8,
        hidden: int = 64,
        encoders: int = 3,
        width: int = 128,
        layers: int = 4,
        heads: int = 4,
        radius: float = 2.0,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        if c < 0 or min(dim, clusters, encoders, layers, eigenvectors) < 1 or walks < 2 or not temperature > 0:
            raise UserError("c must not be negative, walks be at least 2, dim, clusters, encoders, layers, eigenvectors at least 1")
        self.space: Ball | Flat = Ball(c) if c > 0 else Flat()
        self.reach = FARTHEST / (c**0.5 if c > 0 else 1.0)
        self.walks, self.eigenvectors, self.kappa = walks, eigenvectors, kappa
        sizes = [walks + eigenvectors, *([hidden] * encoders)]
        self.own = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False))
        self.near = nn.ModuleList(nn.Linear(a, b, bias=False) for a, b in zip(sizes, sizes[1:], strict=False))
        self.latent = nn.Linear(hidden, dim)
        self.radius = nn.Parameter(torch.tensor(float(radius)))
        self.log_temperature = nn.Parameter(torch.tensor(float(temperature)).log())
        self.register_buffer("centres", torch.zeros(clusters, dim))
        self.begin, self.level, self.cluster = nn.Linear(dim, width), LabelEmbedding(width), nn.Embedding(clusters, width)
        block = nn.TransformerEncoderLayer(width, heads, 2 * width, dropout=0.0, batch_first=True, norm_first=True, activation="gelu")
        self.blocks = nn.TransformerEncoder(block, layers, enable_nested_tensor=False)
        self.end = nn.Linear(width, dim)

    @property
    def chart(self) -> Chart:
        """The coordinates that are diffused."""
        return Chart(self.space, self.centres, self.kappa)

    def encoded(self, adjacency: Float[Tensor, "batch n n"], mask: Bool[Tensor, "batch n"]) -> Float[Tensor, "batch n dim"]:
        """Points of nodes; the origin for absent ones.

        Args:
            adjacency: 0 or 1.
            mask: nodes that are there.
        """
        here = mask[..., None].to(adjacency)
        weights = adjacency + torch.eye(adjacency.shape[1], dtype=adjacency.dtype, device=adjacency.device) * here
        h = node_features(adjacency, mask, self.walks, self.eigenvectors)
        for own, near in zip(self.own, self.near, strict=True):
            around = self.space.log0(self.space.means(self.space.exp0(self.bounded(h)), weights))
            h = nn.functional.silu(own(h) + near(around)) * here
        return self.space.exp0(self.bounded(self.latent(h)) * here)

    def bounded(self, v: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        """The tangent vector with its length bent below the largest.

        Args:
            v: tangent vectors at the origin.
        """
        norm = length(v)
        return v * (self.reach * torch.tanh(norm / self.reach) / norm)

    def logits(self, z: Float[Tensor, "batch n dim"]) -> Float[Tensor, "batch n n"]:
        """(r - d^2)/t: the log odds of every edge.

        Args:
            z: points.
        """
        return (self.radius - self.space.distance(z[:, :, None], z[:, None]).square()) * torch.exp(-self.log_temperature)

    def forward(self, x: Tensor, label: Tensor, condition: Mapping[str, Any] | None = None) -> Any:
        """What is predicted of noisy coordinates (B, N, dim); where the condition has ``adjacency``, logits of its edges and how far its
        points are from the origin.

        Args:
            x: noisy coordinates; for ``adjacency``: the jitter of the points, in orthonormal tangent coordinates.
            label: (B,) time of the noise.
            condition: ``mask`` (B, N) and ``cluster`` (B, N); or ``mask`` and ``adjacency`` (B, N, N).
        """
        told = condition or {}
        if "mask" not in told:
            raise UserError("this network needs the nodes that are there as condition['mask']")
        mask = told["mask"].bool()
        if "adjacency" in told:
            z = self.encoded(told["adjacency"], mask)
            return self.logits(self.space.placed(z, x)), self.space.distance(torch.zeros_like(z), z)
        h = self.begin(x) + self.cluster(told["cluster"].long()) + self.level(label).to(x)[:, None]
        h = self.blocks(h, src_key_padding_mask=~mask.expand(len(x), -1))
        return self.end(h) * mask[..., None]
