"""What a block need not work out again: the clean part of its scene, which is the same at all T steps of the block.

    clean nodes see clean nodes alone, so that h_i, g_ij of clean i and j depend neither on the noisy entries nor on the time

A step then works on the n noisy nodes of a graph of N and on their pairs: n (N - n) + n (n + 1)/2 pairs in place of N (N + 1)/2, and
products of n N N in place of N N N. What clean nodes hold for the others is kept, layer by layer: keys and values of the attention, one
factor of the products, and the ends of edges. Sizes and degrees of what follows, which no step of a block needs, are left out.
Reference: Zhao, Ding and Akoglu 2024 (PARD), arXiv:2402.03687.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from unstir.denoiser import TokenDenoiser
from unstir_molecules.pard.blocks import Scene, scene_of
from unstir_molecules.pard.network import Layer, Pairs, PARDNetwork


@dataclass(frozen=True)
class Kept:
    """What the clean nodes hold for the noisy ones in one layer; 0 at noisy and absent nodes.

    Args:
        key, value: (B, heads, N, width/heads).
        right: (B, products, N, N).
        ends: (B, N, edge_width).
    """

    key: Tensor
    value: Tensor
    right: Tensor
    ends: Tensor


@dataclass(frozen=True)
class Noisy:
    """The noisy nodes of a staged scene, M of each graph at most, and their pairs, P.

    Args:
        place: (B, M) where they are; ``there`` (B, M) says which of these places count.
        there: (B, M, 1).
        b, i, j: (P,) graph, noisy node and the node it sees, each pair of two noisy nodes once.
        slot, other: (P,) numbers of i and j among the noisy nodes; ``other`` is 0 where j is clean.
        mutual: (P, 1) are both noisy, and different?
        sees: (B, M, N).
    """

    place: Tensor
    there: Tensor
    b: Tensor
    i: Tensor
    j: Tensor
    slot: Tensor
    other: Tensor
    mutual: Tensor
    sees: Tensor

    @classmethod
    def of(cls, scene: Scene) -> Noisy:
        """The noisy part of a staged scene, whose noisy nodes follow one another.

        Args:
            scene: with what is noisy and who sees whom.
        """
        count = scene.noisy.sum(1)
        first = scene.noisy.long().argmax(1)
        slots = torch.arange(int(count.max()), device=count.device)
        there = slots < count[:, None]
        place = torch.where(there, first[:, None] + slots, 0)
        sees = scene.sees.gather(1, place[..., None].expand(-1, -1, scene.sees.shape[2])) & there[..., None]
        kept = sees & ~(scene.noisy[:, None, :] & (torch.arange(sees.shape[2], device=count.device) > place[..., None]))
        b, slot, j = kept.nonzero(as_tuple=True)
        i = place[b, slot]
        both = scene.noisy[b, j]
        other = torch.where(both, j - first[b], 0)
        return cls(place, there[..., None], b, i, j, slot, other, (both & (i != j))[:, None], sees)

    def rows(self, value: Tensor) -> Tensor:
        """(B, N, C) at the noisy nodes, (B, M, C)."""
        return value.gather(1, self.place[..., None].expand(-1, -1, value.shape[2]))

    def written(self, whole: Tensor, rows: Tensor) -> Tensor:
        """(B, heads, N, d) with (B, heads, M, d) in the places of the noisy nodes, 0 before."""
        index = self.place[:, None, :, None].expand(-1, whole.shape[1], -1, whole.shape[3])
        return whole.scatter_add(2, index, rows * self.there[:, None])

    def spread(self, value: Tensor) -> Tensor:
        """(P, C) as rows of symmetric matrices, (B, C, M, N), 0 where there is no pair."""
        whole = value.new_zeros(*self.sees.shape, value.shape[1])
        whole[self.b, self.slot, self.j] = value
        m = self.mutual[:, 0]
        whole[self.b[m], self.other[m], self.i[m]] = value[m]
        return whole.permute(0, 3, 1, 2)

    def beside(self, clean: Tensor, value: Tensor) -> Tensor:
        """(B, C, N, N) of the clean pairs with (P, C) at the noisy ones, both ways."""
        whole = clean.clone().permute(0, 2, 3, 1)
        whole[self.b, self.i, self.j] = value
        whole[self.b, self.j, self.i] = value
        return whole.permute(0, 3, 1, 2)

    def summed(self, value: Tensor) -> Tensor:
        """(P, C) added up over the pairs of each noisy node, (B, M, C)."""
        batch, rows = self.place.shape
        total = value.new_zeros(batch * rows, value.shape[1]).index_add(0, self.b * rows + self.slot, value)
        return total.index_add(0, self.b * rows + self.other, value * self.mutual).view(batch, rows, -1)

    def gathered(self, value: Tensor) -> Tensor:
        """(B, C, M, N) at the pairs, (P, C): what i has of j, and for two noisy nodes what j has of i as well."""
        there = value[self.b, :, self.slot, self.j]
        return there + torch.where(self.mutual, value[self.b, :, self.other, self.i], 0.0)


class Remembering(nn.Module):
    """A network of blocks that remembers the clean part of one scene; the same logits, to rounding.

    Args:
        network: of blocks.
        condition: with a ``stage``; later calls are about the same graphs at the same stage.
    """

    def __init__(self, network: PARDNetwork, condition: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.network, self.condition = network, condition
        known = {"nodes": condition["known_nodes"], "edges": torch.zeros_like(condition["known_edges"])}
        scene = scene_of(known, condition, network.visibility)
        self.noisy = Noisy.of(scene)
        self.kept = kept(network, scene)

    def forward(
        self, x: Mapping[str, Tensor], label: Mapping[str, Tensor], condition: Mapping[str, Any] | None = None
    ) -> dict[str, Tensor]:
        """The logits of the block.

        Args:
            x: the noisy state, as ``PARDNetwork`` takes it.
            label: the time of each leaf, (B,).
            condition: as it was remembered.

        Returns:
            ``nodes`` (B, N, kinds) and ``edges`` (B, N, N, kinds), 0 where nothing is noisy.
        """
        network, noisy = self.network, self.noisy
        scene = scene_of(x, self.condition, network.visibility)
        of_node, of_edge = network.told(label["edges"])
        kinds, size, degree = noisy.rows(torch.stack((scene.nodes, scene.size, scene.degree), -1)).unbind(-1)
        h = network.node_kind(kinds) + network.node_role.weight[1] + of_node[:, None]
        h = h + network.size(size) + network.degree(degree)
        block = scene.block
        one = (block[noisy.b, noisy.i] == block[noisy.b, noisy.j]).long()
        g = network.edge_kind(scene.edges[noisy.b, noisy.i, noisy.j]) + network.role(torch.where(noisy.i == noisy.j, 0, 4 - one))
        g = g + self._ends(network.ends(h), self.kept[0].ends) + of_edge[noisy.b]
        for layer, clean in zip(network.layers, self.kept[1:], strict=True):
            h, g = self._layer(layer, h, g, clean)  # type: ignore[arg-type]
        return self._logits(h, g)

    def _ends(self, ends: Tensor, clean: Tensor) -> Tensor:
        """(P, edge_width): of both nodes of each pair."""
        noisy = self.noisy
        whole = noisy.written(clean[:, None], ends[:, None])[:, 0]
        return whole[noisy.b, noisy.i] + whole[noisy.b, noisy.j]

    def _layer(self, layer: Layer, h: Tensor, g: Tensor, clean: Kept) -> tuple[Tensor, Tensor]:
        """A layer of the network for the noisy nodes and pairs; see ``Layer.forward``."""
        noisy = self.noisy
        batch, rows, width = h.shape
        normed = layer.norm_g(g)
        bias, left, right, told = layer.from_pairs(normed).split((layer.heads, *[layer.products] * 3), 1)
        q, k, v = layer.qkv(layer.norm_h(h)).view(batch, rows, 3, layer.heads, -1).permute(2, 0, 3, 1, 4)
        key, value = noisy.written(clean.key, k), noisy.written(clean.value, v)
        scores = (q @ key.mT) / math.sqrt(q.shape[-1]) + noisy.spread(bias)
        found = torch.softmax(scores.masked_fill(~noisy.sees[:, None], -1e9), -1) @ value
        scale = noisy.sees.sum(-1, keepdim=True).clamp(min=1).to(h.dtype).rsqrt()
        h = h + layer.out(found.transpose(1, 2).reshape(batch, rows, width)) + layer.summed(noisy.summed(told) * scale)
        h = h + layer.mlp_h(layer.norm_f(h))
        product = noisy.gathered(noisy.spread(left) @ noisy.beside(clean.right, right) * scale[:, None])
        hidden = layer.into(torch.cat((normed, product), -1)) + layer.from_ends(self._ends(layer.ends(h), clean.ends))
        return h, g + layer.onto(nn.functional.silu(hidden))

    def _logits(self, h: Tensor, g: Tensor) -> dict[str, Tensor]:
        noisy, network = self.noisy, self.network
        batch, nodes = self.condition["block"].shape
        chosen = noisy.i != noisy.j
        logits = network.edge_out(g[chosen])
        b, i, j = noisy.b[chosen], noisy.i[chosen], noisy.j[chosen]
        edges = logits.new_zeros(batch, nodes, nodes, logits.shape[-1])
        edges[b, i, j] = logits
        edges[b, j, i] = logits
        kinds = network.node_out(h)
        places = kinds.new_zeros(batch, 1, nodes, kinds.shape[-1])
        return {"nodes": noisy.written(places, kinds[:, None])[:, 0], "edges": edges}


def kept(network: PARDNetwork, scene: Scene) -> list[Kept]:
    """What the clean nodes of a scene hold: the ends at the beginning (in an empty `Kept`), then layer by layer.

    Args:
        network: of blocks.
        scene: staged.
    """
    clean = (scene.block >= 0) & ~scene.noisy
    sees = scene.sees & clean[:, :, None] & clean[:, None, :]
    alone = replace(scene, noisy=torch.zeros_like(scene.noisy), sees=sees, block=torch.where(clean, scene.block, -1))
    pairs = Pairs.of(sees)
    h, g = network.begun(alone, torch.zeros(len(clean), device=clean.device), pairs)
    there = clean[..., None].to(h.dtype)
    none = h.new_zeros(0)
    found = [Kept(none, none, none, network.ends(h) * there)]
    batch, size, _ = h.shape
    for layer in network.layers:
        assert isinstance(layer, Layer)
        cut = (layer.heads + layer.products, layer.products, layer.products)
        right = pairs.spread(layer.from_pairs(layer.norm_g(g)).split(cut, 1)[1])
        _, k, v = (layer.qkv(layer.norm_h(h)) * there).view(batch, size, 3, layer.heads, -1).permute(2, 0, 3, 1, 4)
        h, g = layer(h, g, pairs)
        found.append(Kept(k, v, right, layer.ends(h) * there))
    return found


def remembering(denoiser: TokenDenoiser, condition: Mapping[str, Tensor]) -> TokenDenoiser:
    """The denoiser of one block of given graphs, its clean part worked out once.

    Args:
        denoiser: of blocks.
        condition: with a ``stage``, on the device of the network.
    """
    network: Any = denoiser.network
    return TokenDenoiser(Remembering(network, condition), denoiser.process, denoiser.shape, space=denoiser.space)
