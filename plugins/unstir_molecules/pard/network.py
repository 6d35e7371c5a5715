"""The network of PARD: a transformer whose edges are multiplied as matrices (PPGN), in which everyone sees only the past.

    attention    h_i <- h_i + sum_{k seen by i} softmax_k(q_i . k_k + bias(g_ik)) v_k + sum_{k seen by i} u(g_ik)
    products     g_ij <- g_ij + MLP(g_ij, sum_{k seen by i} a(g_ik) b(g_kj), h_i + h_j),        i the one that sees j

Two nodes of a block see each other, and their edge takes both products. Because seeing is transitive, whatever enters g_ij was seen by i:
the prediction of a block is a function of the earlier blocks and of its own noisy entries. Only pairs of which one sees the other are kept,
in a list; products and attention spread them out to matrices. The products of a causal prefix miss the walks through later nodes, which is
what it costs to train all blocks in one pass; ``visibility="prefix"`` has them, and trains one prefix at a time.

What the clean nodes know of a prefix is pooled into one vector, which tells the size of the next block (0: the graph is complete) and,
given the size, its degree.
Reference: Zhao, Ding and Akoglu 2024 (PARD), arXiv:2402.03687; Maron et al. 2019 (PPGN), arXiv:1905.11136.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn

from unstir.errors import UserError
from unstir_molecules.pard.blocks import Scene, Visibility, scene_of
from unstir_molecules.pard.order import Weighting, check_order

TIMES = 16
"""Sines and cosines that tell the time."""
_ROLES = 5  # of a pair: a node itself; clean, of one block or of two; noisy, of one block or of two


@dataclass(frozen=True)
class Pairs:
    """The pairs of a scene that are kept: each unordered pair once, ``i`` the one that sees ``j``.

    Args:
        number: (B M M,) which pair is at (i, j) and (j, i); P where there is none.
        there: (P,) flat place of (i, j) in (B, M, M).
        back: (P,) flat place of (j, i).
        i, j: (P,) flat places of the two nodes in (B, M).
        mutual: (P, 1) do two different nodes see each other?
        sees: (B, M, M), as in the scene.
        count: (B, M, 1) how many each node sees, at least 1.
    """

    number: Tensor
    there: Tensor
    back: Tensor
    i: Tensor
    j: Tensor
    mutual: Tensor
    sees: Tensor
    count: Tensor

    @classmethod
    def of(cls, sees: Tensor) -> Pairs:
        """The pairs of a scene.

        Args:
            sees: (B, M, M) bool.
        """
        size = sees.shape[1]
        kept = sees & ~(sees.mT & torch.triu(torch.ones(size, size, dtype=torch.bool, device=sees.device), 1))
        b, i, j = kept.nonzero(as_tuple=True)
        there, back = (b * size + i) * size + j, (b * size + j) * size + i
        mutual = (sees.flatten()[back] & (i != j))[:, None]
        order = torch.arange(len(b), device=sees.device)
        number = torch.full((sees.numel(),), len(b), device=sees.device)
        number[back] = order
        number[there] = order
        return cls(number, there, back, b * size + i, b * size + j, mutual, sees, sees.sum(-1, keepdim=True).clamp(min=1))

    def spread(self, value: Tensor) -> Tensor:
        """(P, C) as symmetric matrices (B, C, M, M), 0 where there is no pair."""
        batch, size = self.sees.shape[:2]
        whole = torch.cat((value, value.new_zeros(1, value.shape[1])))[self.number]
        return whole.view(batch, size, size, -1).permute(0, 3, 1, 2).contiguous()

    def summed(self, value: Tensor) -> Tensor:
        """(P, C) added up over the pairs of each node with those it sees, (B, M, C)."""
        batch, size = self.sees.shape[:2]
        total = value.new_zeros(batch * size, value.shape[1]).index_add(0, self.i, value)
        return total.index_add(0, self.j, value * self.mutual).view(batch, size, -1)

    def gathered(self, value: Tensor) -> Tensor:
        """(B, C, M, M) at the pairs, (P, C): what i has of j, and for two of a block what j has of i as well."""
        flat = value.permute(0, 2, 3, 1).reshape(-1, value.shape[1])
        return flat[self.there] + torch.where(self.mutual, flat[self.back], 0.0)


class PARDNetwork(nn.Module):
    """Logits of the clean kinds of a block, and of the size and degree of the next one.

    Args:
        nodes: kinds of nodes.
        edges: kinds of edges, the first is none.
        largest: nodes of the largest graph.
        width: of the state of a node.
        edge_width: of the state of an edge.
        products: channels of the matrix products.
        layers: how many.
        heads: of the attention.
        visibility: ``"causal"`` or ``"prefix"``, see the module.
        hops, weighting: of the order it was trained in; kept for those who ask.

    Raises:
        UserError: an option out of range.
    """

    def __init__(
        self,
        nodes: int,
        edges: int = 2,
        largest: int = 9,
        width: int = 96,
        edge_width: int = 32,
        products: int = 16,
        layers: int = 5,
        heads: int = 4,
        visibility: Visibility = "causal",
        hops: int = 3,
        weighting: Weighting = "pard",
    ) -> None:
        super().__init__()
        check_order(hops, weighting)
        if visibility not in get_args(Visibility):
            raise UserError(f"visibility is 'causal' or 'prefix', got {visibility!r}")
        if width % heads:
            raise UserError(f"width must be a multiple of the {heads} heads, got {width}")
        self.kinds, self.largest, self.visibility, self.hops, self.weighting = (nodes, edges), largest, visibility, hops, weighting
        self.node_kind, self.edge_kind = nn.Embedding(nodes, width), nn.Embedding(edges, edge_width)
        self.role, self.node_role = nn.Embedding(_ROLES, edge_width), nn.Embedding(2, width)
        self.size, self.degree = nn.Embedding(largest + 1, width), nn.Embedding(largest, width)
        self.time = _mlp(TIMES, width, width + edge_width)
        self.ends = nn.Linear(width, edge_width)
        self.layers = nn.ModuleList(Layer(width, edge_width, products, heads) for _ in range(layers))
        self.node_out = nn.Sequential(nn.LayerNorm(width), _mlp(width, width, nodes))
        self.edge_out = nn.Sequential(nn.LayerNorm(edge_width), _mlp(edge_width, 2 * edge_width, edges))
        self.pooled = nn.Sequential(_mlp(4 * width + 2, 2 * width, width), nn.SiLU())
        self.next_size = nn.Linear(width, largest + 1)
        self.next_degree = _mlp(2 * width, width, largest)
        self.told_size = nn.Embedding(largest + 1, width)
        self.first: Tensor
        self.register_buffer("first", torch.full((largest + 1,), 1 / (largest + 1)))
        """Law of the first block's size, in the data."""

    def forward(
        self, x: Mapping[str, Tensor], label: Mapping[str, Tensor], condition: Mapping[str, Any] | None = None
    ) -> dict[str, Tensor]:
        """The logits.

        Args:
            x: the noisy state, ``edges`` (B, N, N) and ``nodes`` (B, N) where nodes have kinds.
            label: the time of each leaf, (B,).
            condition: see ``Ordered.condition``.

        Returns:
            ``nodes`` (B, N, kinds) and ``edges`` (B, N, N, kinds), 0 where nothing is noisy; ``size`` (B, S, largest + 1) of the block that
            follows each prefix and ``degree`` (B, S, largest) of that block, given its true size. S is one in a staged scene, else the
            prefixes of every number of blocks, none and all included.

        Raises:
            UserError: there is no condition, or its scene is not for this network.
        """
        condition = self._checked(condition)
        scene = scene_of(x, condition, self.visibility)
        h, g, pairs = self.seen(scene, label["edges"])
        batch, nodes = condition["block"].shape
        prefix = self.prefix(h[:, :nodes], condition)
        made = self._logits(h, g, scene, pairs, nodes)
        sizes = (condition["block"][:, None, :] == _stages(condition)[..., None]).sum(-1)
        return made | {"size": self.next_size(prefix), "degree": self.degrees(prefix, sizes)}

    def seen(self, scene: Scene, time: Tensor) -> tuple[Tensor, Tensor, Pairs]:
        """The states of nodes and of pairs after all layers.

        Args:
            scene: what is there.
            time: (B,) of the noisy part.

        Returns:
            (B, M, width), (P, edge_width), and which pairs these are.
        """
        pairs = Pairs.of(scene.sees)
        h, g = self.begun(scene, time, pairs)
        for layer in self.layers:
            h, g = layer(h, g, pairs)
        return h, g, pairs

    def begun(self, scene: Scene, time: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """The states of nodes (B, M, width) and of pairs (P, edge_width) before the first layer.

        Args:
            scene: what is there.
            time: (B,) of the noisy part.
            pairs: of the scene.
        """
        size = scene.nodes.shape[1]
        of_node, of_edge = self.told(time)
        noisy = scene.noisy[..., None].to(of_node.dtype)
        h = self.node_kind(scene.nodes) + self.node_role(scene.noisy.long()) + noisy * of_node[:, None]
        h = h + self.size(scene.size) + self.degree(scene.degree)
        mine = scene.noisy.flatten()[pairs.i]
        one = (scene.block.flatten()[pairs.i] == scene.block.flatten()[pairs.j]).long()
        role = torch.where(pairs.i == pairs.j, 0, 2 - one + 2 * mine.long())
        g = self.edge_kind(scene.edges.flatten()[pairs.there]) + self.role(role)
        ends = self.ends(h).flatten(0, 1)
        g = g + ends[pairs.i] + ends[pairs.j] + mine[:, None].to(g.dtype) * of_edge[pairs.i // size]
        return h, g

    def told(self, time: Tensor) -> tuple[Tensor, Tensor]:
        """What noisy nodes (B, width) and their pairs (B, edge_width) are told of the time.

        Args:
            time: (B,).
        """
        widths = (self.node_role.embedding_dim, self.role.embedding_dim)
        of_node, of_edge = self.time(_waves(time).to(self.role.weight)).split(widths, -1)
        return of_node, of_edge

    def prefix(self, h: Tensor, condition: Mapping[str, Tensor]) -> Tensor:
        """One vector for each prefix.

        Args:
            h: states of the clean nodes (B, N, width).
            condition: as for ``forward``.

        Returns:
            (B, S, width).
        """
        stage, block = _stages(condition)[..., None], condition["block"][:, None, :]
        before, last = ((block >= 0) & (block < stage)).to(h.dtype), (block >= 0) & (block == stage - 1)
        pools = [_mean(h, before), before @ h / self.largest, _mean(h, last.to(h.dtype)), _highest(h, before > 0)]
        counts = [before.sum(-1, keepdim=True) / self.largest, (before.sum(-1, keepdim=True) == 0).to(h.dtype)]
        return self.pooled(torch.cat([*pools, *counts], -1))

    def degrees(self, prefix: Tensor, size: Tensor) -> Tensor:
        """Logits of the degree of the next block.

        Args:
            prefix: (..., width).
            size: (...) of that block.

        Returns:
            (..., largest).
        """
        return self.next_degree(torch.cat((prefix, self.told_size(size)), -1))

    def _logits(self, h: Tensor, g: Tensor, scene: Scene, pairs: Pairs, nodes: int) -> dict[str, Tensor]:
        """The logits of noisy entries at the places of the state, which are the last N of the scene."""
        batch, size = scene.nodes.shape
        chosen = scene.noisy.flatten()[pairs.i] & (pairs.i != pairs.j)
        b, i, j = pairs.i[chosen] // size, pairs.i[chosen] % size % nodes, pairs.j[chosen] % size % nodes
        logits = self.edge_out(g[chosen])
        edges = logits.new_zeros(batch * nodes * nodes, logits.shape[-1])
        edges = edges.index_copy(0, (b * nodes + i) * nodes + j, logits).index_copy(0, (b * nodes + j) * nodes + i, logits)
        return {"nodes": self.node_out(h[:, size - nodes :]), "edges": edges.view(batch, nodes, nodes, -1)}

    def _checked(self, condition: Mapping[str, Any] | None) -> Mapping[str, Any]:
        if condition is None or "block" not in condition:
            raise UserError("a network of blocks must be told the blocks: give Ordered(...).condition() as the condition")
        if condition["block"].shape[1] > self.largest:
            raise UserError(f"this network is for graphs of up to {self.largest} nodes, got room for {condition['block'].shape[1]}")
        return condition


class Layer(nn.Module):
    """Attention among nodes, then products of edges; see the module.

    Args:
        width, edge_width: of the states of nodes and pairs.
        products: channels of the matrix products.
        heads: of the attention.
    """

    def __init__(self, width: int, edge_width: int, products: int, heads: int) -> None:
        super().__init__()
        self.heads, self.products = heads, products
        self.norm_h, self.norm_g, self.norm_f = nn.LayerNorm(width), nn.LayerNorm(edge_width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.from_pairs = nn.Linear(edge_width, heads + 3 * products)
        self.summed = nn.Linear(products, width)
        self.mlp_h = _mlp(width, 2 * width, width)
        self.ends = nn.Linear(width, edge_width, bias=False)
        self.into, self.onto = nn.Linear(edge_width + products, 2 * edge_width), nn.Linear(2 * edge_width, edge_width)
        self.from_ends = nn.Linear(edge_width, 2 * edge_width, bias=False)

    def forward(self, h: Tensor, g: Tensor, pairs: Pairs) -> tuple[Tensor, Tensor]:
        """The states after the layer.

        Args:
            h: (B, M, width).
            g: (P, edge_width).
            pairs: which pairs these are.
        """
        batch, size, width = h.shape
        normed = self.norm_g(g)
        spread, told = self.from_pairs(normed).split((self.heads + 2 * self.products, self.products), 1)
        bias, left, right = pairs.spread(spread).split((self.heads, self.products, self.products), 1)
        sees = pairs.sees[:, None]
        q, k, v = self.qkv(self.norm_h(h)).view(batch, size, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = (q @ k.mT) / math.sqrt(q.shape[-1]) + bias
        found = torch.softmax(scores.masked_fill(~sees, -1e9), -1) @ v
        scale = pairs.count.to(h.dtype).rsqrt()
        h = h + self.out(found.transpose(1, 2).reshape(batch, size, width)) + self.summed(pairs.summed(told) * scale)
        h = h + self.mlp_h(self.norm_f(h))
        product = pairs.gathered((left * sees) @ right * scale[:, None])
        ends = self.ends(h).flatten(0, 1)
        hidden = self.into(torch.cat((normed, product), -1)) + self.from_ends(ends[pairs.i] + ends[pairs.j])
        return h, g + self.onto(nn.functional.silu(hidden))


def _stages(condition: Mapping[str, Tensor]) -> Tensor:
    """(B, S): the stage of a staged scene, else every stage up to the end of the largest graph."""
    if "stage" in condition:
        return condition["stage"][:, None]
    block = condition["block"]
    return torch.arange(int(block.max()) + 2, device=block.device).expand(len(block), -1)


def _mean(h: Tensor, chosen: Tensor) -> Tensor:
    return chosen @ h / chosen.sum(-1, keepdim=True).clamp(min=1)


def _highest(h: Tensor, chosen: Tensor) -> Tensor:
    best = h[:, None].masked_fill(~chosen[..., None], -1e9).amax(2)
    return torch.where(chosen.any(-1, keepdim=True), best, 0.0)


def _mlp(size: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(size, hidden), nn.SiLU(), nn.Linear(hidden, out))


def _waves(t: Tensor) -> Tensor:
    """Sines and cosines of a time in [0, 1], (B, TIMES)."""
    angle = math.pi * t.double()[:, None] * (torch.arange(TIMES // 2, device=t.device) + 0.5)
    return torch.cat((angle.sin(), angle.cos()), -1)
