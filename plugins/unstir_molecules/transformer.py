"""A transformer of nodes, edges and the whole graph: what is believed of the clean graph, given the noisy one.

    s_ij = (q_i . k_j)/sqrt(d) (1 + m(e_ij)) + b(e_ij),    x_i <- x_i + sum_j softmax_j(s_ij) v_j
    e_ij <- e_ij + W [s_ij + s_ji, sum_k p_ik q_kj + p_jk q_ki]

Edges modulate the attention of nodes and are updated by it, as in DiGress; the second entry of the update, a product of matrices a channel
(PPGN), lets edges see triangles. Pooling, attention and products leave padding out, so a prediction does not depend on it. Edges are
kept once, as the pairs i < j: what is computed of them is computed half as often.

Reference: Vignac et al. 2023 (DiGress), arXiv:2209.14734; Maron et al. 2019 (PPGN), arXiv:1905.11136.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unstir_molecules.features import GRAPH_FEATURES, NODE_FEATURES, graph_features

TIMES = 16
"""Sines and cosines that tell the time."""


class GraphTransformer(nn.Module):
    """Logits of clean kinds of nodes and edges.

    Args:
        nodes: kinds of nodes.
        edges: kinds of edges, the first is none.
        width: of the state of a node.
        edge_width: of the state of an edge.
        graph_width: of the state of a graph.
        heads: of the attention.
        layers: how many.
        mixes: channels of the matrix product of edges; 0 leaves it out, as DiGress does.
        largest: nodes of the largest graph, the unit of sizes.
        orders: bond order of each kind of edge, for the valency that a node has now; empty for graphs without.
        legacy: features as DiGress has them, see `features`.
        targets: numbers that the network is told of the whole graph (``condition["targets"]``, NaN where not told).
        dropout: of updates.
    """

    valency: Tensor

    def __init__(
        self,
        nodes: int,
        edges: int,
        width: int = 128,
        edge_width: int = 48,
        graph_width: int = 64,
        heads: int = 8,
        layers: int = 6,
        mixes: int = 16,
        largest: int = 9,
        orders: Sequence[float] = (),
        legacy: bool = False,
        targets: int = 0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.largest, self.legacy, self.targets, self.kinds = largest, legacy, targets, (nodes, edges)
        valency = torch.zeros(edges + 1)
        valency[: len(orders)] = torch.tensor(list(orders), dtype=torch.float32)
        self.register_buffer("valency", valency, persistent=False)
        self.node_kind, self.edge_kind = nn.Embedding(nodes + 1, width), nn.Embedding(edges + 1, edge_width)
        self.node_in = nn.Linear(NODE_FEATURES + 1, width)
        self.edge_in = nn.Linear(2 * width, edge_width)
        self.graph_in = _mlp(TIMES + GRAPH_FEATURES + 2 * targets, graph_width, graph_width)
        self.layers = nn.ModuleList(Layer(width, edge_width, graph_width, heads, mixes, dropout) for _ in range(layers))
        self.node_out = nn.Sequential(nn.LayerNorm(width), _mlp(width, width, nodes))
        self.edge_out = nn.Sequential(nn.LayerNorm(edge_width), _mlp(edge_width, edge_width, edges))

    def forward(
        self, x: Mapping[str, Tensor], label: Mapping[str, Tensor], condition: Mapping[str, Any] | None = None
    ) -> dict[str, Tensor]:
        """The logits.

        Args:
            x: ``nodes`` (batch, n) and ``edges`` (batch, n, n), kinds, a mask of either being the last kind.
            label: the time of each leaf (batch,).
            condition: ``mask`` (batch, n), true at present nodes; all where absent; ``targets`` (batch, targets).

        Returns:
            ``nodes`` (batch, n, kinds) and ``edges`` (batch, n, n, kinds), symmetric.
        """
        kinds, bonds, condition = x["nodes"], x["edges"], condition or {}
        mask = condition["mask"].bool().expand(len(kinds), -1) if "mask" in condition else torch.ones_like(kinds, dtype=torch.bool)
        pairs = Pairs.of(mask)
        adjacency = ((bonds > 0) & (bonds < self.kinds[1])).float()
        of_nodes, of_graph = graph_features(adjacency, mask, self.largest, legacy=self.legacy)
        valency = self.valency[bonds].sum(-1, keepdim=True) / 4
        h = self.node_kind(kinds) + self.node_in(torch.cat([of_nodes, valency], -1))
        first, second = h[:, pairs.i], h[:, pairs.j]
        e = self.edge_kind(bonds[:, pairs.i, pairs.j]) + self.edge_in(torch.cat([first + second, first * second], -1))
        g = self.graph_in(torch.cat([_waves(label["nodes"]), of_graph, *self._told(condition, kinds)], -1))
        h, e = h * mask[..., None], e * pairs.there
        for layer in self.layers:
            h, e, g = layer(h, e, g, mask, pairs)
        return {"nodes": self.node_out(h), "edges": pairs.spread(self.edge_out(e)).permute(0, 2, 3, 1)}

    def _told(self, condition: Mapping[str, Any], kinds: Tensor) -> list[Tensor]:
        if not self.targets:
            return []
        given = condition.get("targets")
        if given is None:
            return [torch.zeros(len(kinds), 2 * self.targets, device=kinds.device)]
        given = given.float().expand(len(kinds), -1)
        known = torch.isfinite(given)
        return [torch.where(known, given, 0.0), known.float()]


class Layer(nn.Module):
    """Attention among nodes, update of edges, update of the graph; see the module.

    Args:
        width, edge_width, graph_width: of the three states.
        heads: of the attention.
        mixes: channels of the matrix product of edges.
        dropout: of updates.
    """

    def __init__(self, width: int, edge_width: int, graph_width: int, heads: int, mixes: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.mixes = heads, mixes
        self.norm_x, self.norm_e, self.norm_h, self.norm_f = (nn.LayerNorm(size) for size in (width, edge_width, width, edge_width))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.on_scores = nn.Linear(edge_width, 2 * heads)
        self.factors = nn.Linear(edge_width, 2 * mixes) if mixes else None
        self.edge = nn.Linear(heads + mixes, edge_width)
        self.film_x, self.film_e = nn.Linear(graph_width, 2 * width), nn.Linear(graph_width, 2 * edge_width)
        self.mlp_x, self.mlp_e = _mlp(width, 2 * width, width), _mlp(edge_width, 2 * edge_width, edge_width)
        self.ends = nn.Linear(width, edge_width)
        self.graph = _mlp(graph_width + 2 * width + edge_width, 2 * graph_width, graph_width)
        self.norm_g = nn.LayerNorm(graph_width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, e: Tensor, g: Tensor, mask: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor, Tensor]:
        """The three states after the layer, 0 at padding.

        Args:
            x: (batch, n, width).
            e: (batch, pairs, edge_width).
            g: (batch, graph_width).
            mask: (batch, n) bool.
            pairs: of nodes.
        """
        batch, n, width = x.shape
        present = mask[..., None].to(x.dtype)
        q, k, v = self.qkv(self.norm_x(x)).view(batch, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        normed = self.norm_e(e)
        factor, offset = pairs.spread(self.on_scores(normed)).chunk(2, 1)
        scores = (q @ k.mT) / math.sqrt(q.shape[-1]) * (1 + factor) + offset
        attention = torch.softmax(scores.masked_fill(~mask[:, None, None, :], -1e9), -1)
        found = self.out((attention @ v).transpose(1, 2).reshape(batch, n, width))
        x = x + self.drop(_film(found, self.film_x(g)[:, None]))
        x = (x + self.drop(self.mlp_x(self.norm_h(x)))) * present
        count = present.sum(1).clamp(min=1)
        news = [pairs.gather(scores)]
        if self.factors is not None:
            first, second = pairs.spread(self.factors(normed) * pairs.there).chunk(2, 1)
            news.append(pairs.gather(first @ second) / count.sqrt()[:, None])
        ends = self.ends(x)
        update = self.edge(torch.cat(news, -1)) + ends[:, pairs.i] + ends[:, pairs.j]
        e = e + self.drop(_film(update, self.film_e(g)[:, None]))
        e = (e + self.drop(self.mlp_e(self.norm_f(e)))) * pairs.there
        highest = x.masked_fill(~mask[..., None], -1e9).amax(1).clamp(min=-1e8)
        pooled = torch.cat([g, x.sum(1) / count, highest, e.sum(1) / count.square()], -1)
        return x, e, self.norm_g(g + self.graph(pooled))


@dataclass(frozen=True)
class Pairs:
    """The pairs i < j of n nodes, and the way to matrices and back.

    Args:
        i, j: (pairs,) the two nodes of each.
        place: (n, n) the pair of two nodes in either order; one beyond the last on the diagonal.
        there: (batch, pairs, 1), 1 where both nodes are present.
    """

    i: Tensor
    j: Tensor
    place: Tensor
    there: Tensor

    @classmethod
    def of(cls, mask: Tensor) -> Pairs:
        """The pairs of a batch.

        Args:
            mask: (batch, n) bool.
        """
        n = mask.shape[1]
        i, j = torch.triu_indices(n, n, 1, device=mask.device)
        place = torch.full((n, n), len(i), device=mask.device)
        place[i, j] = place[j, i] = torch.arange(len(i), device=mask.device)
        return cls(i, j, place, (mask[:, i] & mask[:, j]).float()[..., None])

    def spread(self, value: Tensor) -> Tensor:
        """Symmetric matrices (batch, channels, n, n), 0 on the diagonal, of values (batch, pairs, channels)."""
        padded = torch.nn.functional.pad(value.transpose(1, 2), (0, 1))
        return padded[:, :, self.place]

    def gather(self, matrix: Tensor) -> Tensor:
        """The symmetric part of matrices (batch, channels, n, n) at the pairs, (batch, pairs, channels)."""
        return ((matrix[..., self.i, self.j] + matrix[..., self.j, self.i]) / 2).transpose(1, 2)


def _film(value: Tensor, told: Tensor) -> Tensor:
    factor, offset = told.chunk(2, -1)
    return value * (1 + factor) + offset


def _mlp(size: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(size, hidden), nn.SiLU(), nn.Linear(hidden, out))


def _waves(t: Tensor) -> Tensor:
    """Sines and cosines of a time in [0, 1], (batch, TIMES)."""
    frequencies = torch.arange(TIMES // 2, device=t.device, dtype=torch.float32) + 0.5
    angle = math.pi * t.float()[:, None] * frequencies
    return torch.cat([angle.sin(), angle.cos()], -1)
