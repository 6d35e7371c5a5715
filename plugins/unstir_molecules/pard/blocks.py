"""Graphs with their blocks, and the scene a network looks at: what is there, what is noisy, and who may see whom.

    p(G) = prod_b p(size_b, degree_b | G_<b) p(nodes and edges of block b | G_<b, size_b, degree_b)

An edge belongs to the later block of its two ends, so that every node and every edge belongs to one block. A *staged* scene shows one step
of this product: the clean blocks before the stage, and that block noisy. The *doubled* scene shows all steps at once: the clean graph, and
beside it a virtual noisy copy of every block,

    a clean node sees the clean nodes of its own and of earlier blocks
    a virtual node sees the clean nodes of earlier blocks and the virtual nodes of its own

so that the prediction of block b knows nothing of the clean block b nor of later ones.
Reference: Zhao, Ding and Akoglu 2024 (PARD), arXiv:2402.03687.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.space import JointSpace, Masked
from unstir_molecules.dense import Dense
from unstir_molecules.pard.order import Weighting, arranged, block_degrees, block_numbers

Visibility = Literal["causal", "prefix"]
"""May a clean node of a prefix see the nodes of its own and earlier blocks only, or all of the prefix?"""


def space_of(nodes: int) -> JointSpace:
    """Where the state of a block lives: kinds of its nodes, and of its edges once each, above the diagonal; 0 elsewhere.

    Args:
        nodes: kinds of nodes; graphs whose nodes are of one kind have edges alone.
    """
    edges = {"edges": Masked("pairs")}
    return JointSpace({"nodes": Masked("free"), **edges} if nodes > 1 else edges)


@dataclass(frozen=True)
class Ordered:
    """Graphs whose nodes are numbered block after block.

    Args:
        graphs: the batch.
        block: (B, N) long, rising along a row; -1 at absent nodes.
        degree: (B, N) long, the degree that is told of the block of each node; 0 at absent nodes.
    """

    graphs: Dense
    block: Tensor
    degree: Tensor

    @classmethod
    def of(cls, graphs: Dense, hops: int = 3, weighting: Weighting = "pard") -> Ordered:
        """The graphs in their structural order.

        Args:
            graphs: a batch.
            hops: K of the order.
            weighting: of the order.
        """
        block = block_numbers(graphs.e, graphs.mask, hops, weighting)
        order = arranged(block)
        graphs, block = graphs.ordered(order), block.gather(1, order)
        degrees = block_degrees(graphs.e, block)
        told = degrees.gather(1, block.clamp(min=0)) * (block >= 0) if degrees.shape[1] else torch.zeros_like(block)
        return cls(graphs, block, told)

    def __len__(self) -> int:
        return len(self.graphs)

    @property
    def blocks(self) -> Tensor:
        """(B,) long: how many blocks each graph has."""
        return self.block.amax(1) + 1

    def take(self, index: Any) -> Ordered:
        """Some of the graphs.

        Args:
            index: as ``Dense.take`` takes it.
        """
        return Ordered(self.graphs.take(index), self.block[index], self.degree[index])

    def trimmed(self, nodes: int | None = None) -> Ordered:
        """The same graphs, without padding that none of them needs.

        Args:
            nodes: pad to so many instead.
        """
        graphs = self.graphs.trimmed() if nodes is None else self.graphs.padded(nodes)
        width = graphs.x.shape[1]
        more = width - self.block.shape[1]
        if more <= 0:
            return Ordered(graphs, self.block[:, :width], self.degree[:, :width])
        pad = torch.nn.functional.pad
        return Ordered(graphs, pad(self.block, (0, more), value=-1), pad(self.degree, (0, more)))

    def state(self, condition: Mapping[str, Tensor], nodes: int = 2) -> dict[str, Tensor]:
        """The clean state: ``nodes`` (B, N) and ``edges`` (B, N, N), above the diagonal.

        Args:
            condition: as `condition` made it.
            nodes: kinds of nodes; edges alone for one.
        """
        edges = {"edges": self.graphs.e.long() * condition["pairs"]}
        return {"nodes": self.graphs.x.long() * condition["free"], **edges} if nodes > 1 else edges

    def condition(self, stage: Tensor | None = None) -> dict[str, Tensor]:
        """What a denoiser of blocks is told.

        Args:
            stage: (B,) the block at work in each graph; absent: all blocks at once.

        Returns:
            ``known_nodes``, ``known_edges`` the clean graph; ``block``, ``degree`` (B, N); ``stage`` (B,) where it was given;
            ``free`` (B, N) and ``pairs`` (B, N, N), the entries that are noisy: nodes, and edges above the diagonal.
        """
        block, upper = self.block, torch.triu(self.graphs.pairs)
        later = torch.maximum(block[:, :, None], block[:, None, :])
        told = {"known_nodes": self.graphs.x.long(), "known_edges": self.graphs.e.long(), "block": block, "degree": self.degree}
        if stage is None:
            return told | {"free": self.graphs.mask, "pairs": upper}
        return told | {"stage": stage, "free": block == stage[:, None], "pairs": upper & (later == stage[:, None, None])}

    def prefixes(self) -> tuple[Ordered, Tensor]:
        """Every graph once for each of its blocks, and once more for its end.

        Returns:
            The graphs, repeated, and the stage of each.
        """
        count = self.blocks + 1
        index = torch.repeat_interleave(torch.arange(len(self), device=count.device), count)
        first = torch.repeat_interleave(count.cumsum(0) - count, count)
        return self.take(index), torch.arange(len(index), device=count.device) - first


@dataclass(frozen=True)
class Scene:
    """What a network looks at, M places.

    Args:
        nodes, edges: kinds, (B, M) and (B, M, M), noisy ones among them.
        noisy: (B, M) bool, the nodes that are generated; their edges are, too.
        block: (B, M) long, -1 at absent nodes.
        degree, size: (B, M) long, what is told of the block of each node.
        sees: (B, M, M) bool, [i, k]: may node i know of node k? Transitive, and true of (i, i) where i is present.
    """

    nodes: Tensor
    edges: Tensor
    noisy: Tensor
    block: Tensor
    degree: Tensor
    size: Tensor
    sees: Tensor


def scene_of(state: Mapping[str, Tensor], condition: Mapping[str, Tensor], visibility: Visibility) -> Scene:
    """The scene of a noisy state: doubled where the condition has no ``stage``, else staged.

    Args:
        state: ``edges`` (B, N, N), above the diagonal, and, where nodes have kinds, ``nodes`` (B, N).
        condition: see ``Ordered.condition``.
        visibility: of the clean nodes.

    Raises:
        UserError: all blocks at once, while clean nodes see later ones.
    """
    known = {"nodes": condition["known_nodes"], "edges": condition["known_edges"]}
    state = {**state, "edges": state["edges"] + state["edges"].mT}
    block, degree = condition["block"], condition["degree"]
    size = ((block[:, :, None] == block[:, None, :]) & (block >= 0)[:, :, None]).sum(-1)
    if "stage" not in condition:
        if visibility != "causal":
            raise UserError("all blocks at once need a causal network: with visibility 'prefix' a prefix would know what follows it")
        return _doubled(state, known, block, degree, size)
    stage = condition["stage"][:, None]
    here = (block >= 0) & (block <= stage)
    noisy = here & (block == stage)
    nodes = torch.where(noisy, state["nodes"], known["nodes"]) if "nodes" in state else known["nodes"]
    edges = torch.where(noisy[:, :, None] | noisy[:, None, :], state["edges"], known["edges"])
    rank = block if visibility == "causal" else noisy.long()
    sees = (rank[:, None, :] <= rank[:, :, None]) & here[:, None, :] & here[:, :, None]
    return Scene(nodes, edges, noisy, torch.where(here, block, -1), degree, size, sees)


def _doubled(state: Mapping[str, Tensor], known: Mapping[str, Tensor], block: Tensor, degree: Tensor, size: Tensor) -> Scene:
    """The clean graph in the first N places, a virtual noisy copy of every block in the others."""
    here = block >= 0
    both = here[:, :, None] & here[:, None, :]
    mine, other = block[:, :, None], block[:, None, :]
    clean = torch.cat((both & (other <= mine), torch.zeros_like(both)), 2)
    virtual = torch.cat((both & (other < mine), both & (other == mine)), 2)
    nodes = torch.cat((known["nodes"], state.get("nodes", known["nodes"])), 1)
    upper = torch.cat((known["edges"], state["edges"]), 2)
    lower = torch.cat((state["edges"], state["edges"]), 2)
    block, degree, size = (torch.cat((value, value), 1) for value in (block, degree, size))
    noisy = torch.cat((torch.zeros_like(here), here), 1)
    return Scene(nodes, torch.cat((upper, lower), 1), noisy, block, degree, size, torch.cat((clean, virtual), 1))
