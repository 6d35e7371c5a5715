"""A network that tells properties of the molecule behind a noisy graph, and guidance by it.

    f(x_t, t) ~ E[r(molecule) | x_t],       p(x_t | high r) ~ p(x_t) exp(f(x_t, t)/temperature)

trained by squared error on the noisy states of a given model's process (`property_training`), one network for several properties.
f stands for the soft value temperature log E[exp(r/temperature) | x_t], of which it is the first order: what is guided by it is biased.
It is a function of one-hot (or real-valued) states that has a slope everywhere, does not depend on the order of nodes, nor on padding.

Reference: Dhariwal and Nichol 2021, arXiv:2105.05233; Vignac et al. 2023 (DiGress), arXiv:2209.14734, section 5.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

import unstir
from unstir.errors import CheckpointError
from unstir_molecules.sampling import vocabulary_of

TIMES = 16
"""Sines and cosines that tell the time."""
LEAVES = (("x", "a"), ("nodes", "edges"))
"""Names of nodes and edges in a state, continuous and discrete."""


class PropertyNetwork(nn.Module):
    """Properties of graphs, from real-valued or one-hot states.

    Args:
        nodes: features of a node.
        edges: features of an edge, 1 for a number.
        properties: how many numbers it tells.
        width: of the state of a node.
        layers: of messages.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, nodes: int, edges: int, properties: int = 1, width: int = 64, layers: int = 4) -> None:
        super().__init__()
        self.node_in, self.time_in = nn.Linear(nodes, width), nn.Linear(TIMES, width)
        self.edge_in = nn.Linear(edges, width)
        self.from_ends = nn.ModuleList(nn.Linear(width, 2 * width) for _ in range(layers))
        self.from_edge = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.update = nn.ModuleList(nn.Sequential(nn.LayerNorm(2 * width), _mlp(2 * width, 2 * width, width)) for _ in range(layers))
        self.out = nn.Sequential(nn.LayerNorm(2 * width), _mlp(2 * width, 2 * width, properties))
        self.register_buffer("mean", torch.zeros(properties))
        self.register_buffer("spread", torch.ones(properties))

    def forward(self, x: Mapping[str, Tensor], label: Mapping[str, Tensor] | Tensor, condition: Mapping[str, Any] | None = None) -> Tensor:
        """The properties, in their own units.

        Args:
            x: nodes (batch, n, features) and edges (batch, n, n) or (batch, n, n, features), under names of `LEAVES`.
            label: the time, (batch,), or one a leaf.
            condition: with ``mask`` (batch, n).

        Returns:
            (batch, properties).
        """
        nodes, edges = (x[leaf] for leaf in next(names for names in LEAVES if names[0] in x))
        edges = edges if edges.ndim == 4 else edges[..., None]
        mask = (condition or {})["mask"].to(nodes.dtype).expand(len(nodes), -1)
        t = label if isinstance(label, Tensor) else next(iter(label.values()))
        time_told = self.time_in(_waves(t).to(nodes.dtype))[:, None]
        h = self.node_in(nodes) + time_told
        e = self.edge_in((edges + edges.transpose(1, 2)) / 2)
        pairs = mask[:, :, None] * mask[:, None] * (1 - torch.eye(mask.shape[1], dtype=mask.dtype, device=mask.device))
        for ends, edge, update in zip(self.from_ends, self.from_edge, self.update, strict=True):
            here, there = ends(h).chunk(2, -1)
            messages = nn.functional.silu(here[:, :, None] + there[:, None] + edge(e)) * pairs[..., None]
            h = h + update(torch.cat([h, messages.sum(2) / 4], -1))
        present = mask[..., None]
        total = (h * present).sum(1)
        told = self.out(torch.cat([total / present.sum(1).clamp(min=1), total / 8], -1))
        return self.mean + self.spread * told


def hot(denoiser: Any, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Discrete states as one-hot ones, float32.

    Args:
        denoiser: with the process of each leaf.
        x: states of whole numbers.
    """
    return {leaf: one_hot(value, denoiser.process.leaves[leaf].states).float() for leaf, value in x.items()}


@dataclass
class Predicted:
    """A property told by a network, as guides and steers of the core ask for it, divided by a temperature.

    Args:
        network: of a checkpoint.
        place: which of its properties.
        temperature: in units of the property.
    """

    network: Any
    place: int
    temperature: float

    def __call__(self, x: Mapping[str, Tensor], t: Any, condition: Mapping[str, Any] | None = None, *, mask: Any = None) -> Tensor:
        """(batch,) f/temperature of noisy states, real-valued or one-hot.

        Args:
            x: the states.
            t: a time, or (batch,).
            condition: with ``mask``.
            mask: of nodes, where there is no condition.
        """
        first = next(iter(x.values()))
        weight = next(self.network.parameters())
        state = {leaf: value.to(weight.dtype) for leaf, value in x.items()}
        label = torch.as_tensor(t, dtype=weight.dtype, device=first.device).expand(len(first))
        told = self.network(state, label, {"mask": (condition or {})["mask"] if mask is None else mask})
        return (told[:, self.place] / self.temperature).to(first.dtype)

    def clean(self, x0: Mapping[str, Tensor], condition: Mapping[str, Any] | None) -> Tensor:
        """The same of clean states.

        Args:
            x0: the states.
            condition: with ``mask``.
        """
        return self(x0, 0.0, condition)


def predicted(regressor: str, prior: Any, name: str, temperature: float) -> Predicted:
    """What a checkpoint tells of a property, for guidance of a model.

    Args:
        regressor: a registered checkpoint of `PropertyTraining`, or a folder.
        prior: the model that is guided.
        name: of the property.
        temperature: in units of it.

    Raises:
        CheckpointError: it is of another kind, of another process, or was not taught that property.
    """
    told: Any = unstir.load(regressor)
    known = told.facts.get("properties", [])
    if told.facts.get("model") != "property":
        raise CheckpointError(f"{regressor} tells no properties: train one with molecules/property-training")
    if name not in known:
        raise CheckpointError(f"{regressor} was not taught {name!r}, it tells {', '.join(known)}")
    if told.process != prior.process:
        raise CheckpointError(f"{regressor} was trained on the noise of another model: train it with this one as its model")
    device = next((value.device for value in prior.parameters()), torch.device("cpu"))
    for parameter in told.network.parameters():
        parameter.requires_grad_(False)
    return Predicted(told.network.to(device), known.index(name), temperature)


def check_guided(prior: Any, name: str) -> None:
    """Refuse a model whose noisy states no network of properties is taught.

    Args:
        prior: a checkpoint's denoiser.
        name: its name.

    Raises:
        CheckpointError: it is no model of molecules, or one of blocks.
    """
    leaves = tuple(getattr(prior.process, "leaves", ()))
    if vocabulary_of(prior) is None or leaves not in LEAVES or hasattr(prior.network, "prefix"):
        raise CheckpointError(f"properties are taught on the noise of GDSS or of a discrete diffusion of molecules, and {name} is neither")


def _mlp(size: int, hidden: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(size, hidden), nn.SiLU(), nn.Linear(hidden, out))


def _waves(t: Tensor) -> Tensor:
    """Sines and cosines of a time in [0, 1], (batch, TIMES)."""
    angle = math.pi * t.float()[:, None] * (torch.arange(TIMES // 2, device=t.device, dtype=torch.float32) + 0.5)
    return torch.cat([angle.sin(), angle.cos()], -1)
