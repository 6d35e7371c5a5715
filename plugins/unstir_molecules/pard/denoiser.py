"""The denoiser of a block: uniform noise on the kinds of its nodes and edges, on PARD's cosine, and its bounds in nats.

    alpha(t) = cos(pi/2 (t + .008)/1.008), 1 at t = 0: not squared;     T steps a block, at t = i/T

    -log p(G) <= sum_b [ -log p(size_b, degree_b | G_<b) + bound of T ancestral steps on block b ] - log p(stop | G)

G is the graph with its nodes numbered; nodes of a block are drawn together, so that renumbering within blocks changes nothing.
Reference: Zhao, Ding and Akoglu 2024 (PARD), arXiv:2402.03687; Austin et al. 2021 (D3PM), arXiv:2107.03006.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unstir.denoiser import TokenDenoiser
from unstir.process import Categorical, Joint
from unstir.train import nelbo
from unstir_molecules.dense import Dense
from unstir_molecules.pard.blocks import Ordered, space_of
from unstir_molecules.pard.network import PARDNetwork

SCHEDULE = "pard-cosine"
_CELLS = 2**18  # pairs of nodes of the graphs that are judged at a time


def process_of(nodes: int, edges: int, schedule: str = SCHEDULE) -> Joint:
    """Uniform noise on the kinds of nodes and edges, at one time.

    Args:
        nodes: kinds of nodes; for one kind there are edges alone.
        edges: kinds of edges, the first is none.
        schedule: of the core.
    """
    leaves = {"nodes": nodes, "edges": edges} if nodes > 1 else {"edges": edges}
    return Joint({leaf: Categorical(kinds, "uniform", schedule=schedule) for leaf, kinds in leaves.items()})


def denoiser_of(network: PARDNetwork, schedule: str = SCHEDULE, card: str | None = None) -> TokenDenoiser:
    """A network as the denoiser of blocks: of the block at a stage, or of all blocks of a graph at once, as its condition says.

    Args:
        network: of blocks.
        schedule: of the noise.
        card: the model card.
    """
    nodes, edges = network.kinds
    shape: dict[str, tuple[int, ...]] = {"nodes": (-1,), "edges": (-1, -1)} if nodes > 1 else {"edges": (-1, -1)}
    return TokenDenoiser(network, process_of(nodes, edges, schedule), shape, space=space_of(nodes), card=card)


def bound(denoiser: TokenDenoiser, graphs: Dense, *, steps: int = 50, draws: int | None = None, seed: int = 0) -> dict[str, Tensor]:
    """An upper bound on -log p(G) of graphs, estimated, and its parts.

    Args:
        denoiser: a denoiser of blocks.
        graphs: what is judged.
        steps: T, of a block.
        draws: noisy states drawn for each graph (causal networks) or each block; T when absent, one a step.
        seed: of the draws.

    Returns:
        ``diffusion``, ``size``, ``degree`` and their sum ``total``, each (B,) in nats, float64; infinite where the first block has a size
        that no graph of training had.
    """
    size = max(1, _CELLS // max(1, graphs.x.shape[1] ** 2))
    if len(graphs) > size:
        cuts = range(0, len(graphs), size)
        parts = [bound(denoiser, graphs.take(slice(i, i + size)), steps=steps, draws=draws, seed=seed + i) for i in cuts]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    network: Any = denoiser.network
    ordered = Ordered.of(graphs, network.hops, network.weighting)
    draws = draws or steps
    with torch.no_grad():
        if network.visibility == "causal":
            condition = ordered.condition()
            x0 = ordered.state(condition, network.kinds[0])
            diffusion = nelbo(denoiser, x0, draws=draws, steps=steps, condition=condition, seed=seed)
            owner, asked, told = torch.arange(len(ordered)), x0, condition
        else:
            every, stage = ordered.prefixes()
            told = every.condition(stage)
            asked = every.state(told, network.kinds[0])
            owner = torch.repeat_interleave(torch.arange(len(ordered)), ordered.blocks + 1)
            each = nelbo(denoiser, asked, draws=draws, steps=steps, condition=told, seed=seed)
            diffusion = torch.zeros(len(ordered), dtype=torch.float64).index_add(0, owner, each)
        output = network(asked, dict.fromkeys(("nodes", "edges"), torch.zeros(len(owner))), told)
        found = {"diffusion": diffusion}
        for name, value in next_losses(output, told, network.first).items():
            found[name] = torch.zeros(len(ordered), dtype=torch.float64).index_add(0, owner, value.double())
    return found | {"total": torch.stack(list(found.values())).sum(0)}


def next_losses(output: Mapping[str, Tensor], condition: Mapping[str, Tensor], first: Tensor | None = None) -> dict[str, Tensor]:
    """-log p of the size and of the degree of every block, given what came before it; of the size 0 at the end of a graph.

    Args:
        output: of the network, ``size`` (B, S, largest + 1) and ``degree`` (B, S, largest).
        condition: what it was told.
        first: (largest + 1,) law of the first block's size, which no network predicts; without it that size costs nothing.

    Returns:
        ``size`` and ``degree``, (B,) nats each.
    """
    block = condition["block"]
    stages = condition["stage"][:, None] if "stage" in condition else torch.arange(output["size"].shape[1], device=block.device)[None]
    inside = block[:, None, :] == stages.expand(len(block), -1)[..., None]
    size, degree = inside.sum(-1), torch.where(inside, condition["degree"][:, None, :], 0).amax(-1)
    blocks = block.amax(1, keepdim=True) + 1
    known = torch.zeros_like(output["size"]) if first is None else (first / first.sum()).to(output["size"]).log().expand_as(output["size"])
    law = torch.where((stages == 0)[..., None], known, torch.log_softmax(output["size"], -1))
    of_size = -law.gather(-1, size[..., None])[..., 0]
    of_degree = -torch.log_softmax(output["degree"], -1).gather(-1, degree[..., None])[..., 0]
    return {
        "size": torch.where(stages <= blocks, of_size, 0.0).sum(1),
        "degree": torch.where(stages < blocks, of_degree, 0.0).sum(1),
    }
