"""The two score networks of GDSS, and both as one network of a dict state.

    s_X = MLP(X | H_1 | ... | H_depth),      H_l = tanh(G(H_{l-1}))                ScoreNetworkX; with attention layers: its GMH form
    s_A = MLP(A, A^2, ... | layer 1 | ... | layer L), diagonal 0                   ScoreNetworkA, a number a pair

Neither is told the time: from a noisy graph the level of its noise can be seen. What they give is read by the process:
score = -s/sigma where variance is preserved (so s predicts the noise), score = s where it explodes.
Reference: Jo et al. 2022 (GDSS), arXiv:2202.02514, eq. 8-9 and appendix C.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from unstir.errors import UserError
from unstir_molecules.gdss.attention import MLP, AttentionLayer, Conv, Convolution, bounded, matrix_of, normalised, pairs_of

WORK = 256 * 81
"""Entries of adjacency matrices that a CPU works on at a time without gradients: larger arrays are asked of the system anew each time."""


def at_a_time(nodes: int) -> int:
    """Graphs that are worked on together; as many as they have nodes at least, so that small matrices stay side by side.

    Args:
        nodes: of a graph.
    """
    return max(min(nodes, 32), WORK // max(nodes, 1) ** 2)


def powers(adjacency: Tensor, count: int) -> list[Tensor]:
    """A, A^2, ..., A^count: plain matrix powers of the noisy weighted matrix.

    Args:
        adjacency: (B, N, N).
        count: how many.

    Returns:
        ``count`` matrices (N, N, B).
    """
    made = [adjacency]
    for _ in range(count - 1):
        made.append(torch.bmm(made[-1], adjacency))
    return [power.permute(1, 2, 0).contiguous() for power in made]


class ScoreNetworkX(nn.Module):
    """The score of the nodes by graph convolutions.

    Args:
        features: F, of a node.
        depth: convolutions.
        hidden: width of each.
    """

    def __init__(self, features: int, depth: int, hidden: int) -> None:
        super().__init__()
        self.first = 1
        self.layers = nn.ModuleList(Convolution(1, width, (hidden,)) for width in [features, *[hidden] * (depth - 1)])
        total = features + depth * hidden
        self.final = MLP(3, total, 2 * total, features)

    def forward(self, x: Tensor, stack: Tensor, node: Tensor, pair: Tensor) -> Tensor:
        """The output for every node.

        Args:
            x: (F, N, B) features, 0 at absent nodes.
            stack: (1 or more, P, B) powers of the adjacency, 0 at absent nodes.
            node: (N, B), 1 where a node is.
            pair: (P, B), 1 where both nodes are.

        Returns:
            (F, N, B), 0 at absent nodes.
        """
        seen, adjacency = [x], normalised(matrix_of(stack[:1], len(node), 1.0))
        for layer in self.layers:
            seen.append(bounded(layer(seen[-1], adjacency)[0][0]))
        return self.final(torch.cat(seen).flatten(1)).view_as(x) * node


class _Stack(nn.Module):
    """Attention layers over powers of the adjacency matrix, with a tanh more after each where ``tanh``; of the last only ``last``."""

    tanh: ClassVar[bool] = False
    last: ClassVar[Literal["nodes", "pairs"]] = "pairs"

    def __init__(
        self, features: int, count: int, hidden: int, attention: int, linears: int, channels: tuple[int, int, int], heads: int, conv: Conv
    ) -> None:
        super().__init__()
        first, middle, last = channels
        self.first = first
        self.layers = nn.ModuleList()
        for i in range(count):
            inputs, width = (features, hidden) if i == 0 else (hidden, attention)
            made = middle if i < count - 1 or count == 1 else last
            self.layers.append(AttentionLayer(linears, inputs, width, hidden, first if i == 0 else middle, made, heads, conv))

    def walk(self, x: Tensor, stack: Tensor, node: Tensor, pair: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Nodes and pairs after every layer, the inputs first."""
        nodes, stacks = [x], [stack[: self.first]]
        for layer in self.layers:
            x, made = layer(nodes[-1], stacks[-1], node, pair, last=self.last if layer is self.layers[-1] else "")
            nodes.append(bounded(x) if self.tanh else x)
            stacks.append(made)
        return nodes, stacks


class ScoreNetworkXGMH(_Stack):
    """The score of the nodes by attention layers, with a tanh more after each (the second ZINC250k weights).

    Args:
        features: F, of a node.
        depth: attention layers.
        hidden: width of node features.
        attention: width of queries and keys.
        linears: of the perceptrons over pairs.
        channels: matrices at first, between the layers, and after the last.
        heads: of the attention.
        conv: how queries and keys are made.
    """

    tanh = True
    last = "nodes"

    def __init__(
        self,
        features: int,
        depth: int,
        hidden: int,
        attention: int,
        linears: int,
        channels: tuple[int, int, int],
        heads: int = 4,
        conv: Conv = "gcn",
    ) -> None:
        super().__init__(features, depth, hidden, attention, linears, channels, heads, conv)
        total = features + depth * hidden
        self.final = MLP(3, total, 2 * total, features)

    def forward(self, x: Tensor, stack: Tensor, node: Tensor, pair: Tensor) -> Tensor:
        """The output for every node; see :class:`ScoreNetworkX`."""
        return self.final(torch.cat(self.walk(x, stack, node, pair)[0]).flatten(1)).view_as(x) * node


class ScoreNetworkA(_Stack):
    """The score of the edges by attention layers. The nodes after the last layer are not used: their weights are counted, never trained.

    Args:
        features: F, of a node.
        layers: attention layers.
        hidden: width of node features.
        attention: width of queries and keys.
        linears: of the perceptrons over pairs.
        channels: matrices at first, between the layers, and after the last.
        heads: of the attention.
        conv: how queries and keys are made.
    """

    def __init__(
        self,
        features: int,
        layers: int,
        hidden: int,
        attention: int,
        linears: int,
        channels: tuple[int, int, int],
        heads: int = 4,
        conv: Conv = "gcn",
    ) -> None:
        super().__init__(features, layers, hidden, attention, linears, channels, heads, conv)
        first, middle, last = channels
        total = first + middle * (layers - 1) + last
        self.final = MLP(3, total, 2 * total, 1)

    def forward(self, x: Tensor, stack: Tensor, node: Tensor, pair: Tensor) -> Tensor:
        """The output for every pair.

        Args:
            x: (F, N, B) features, 0 at absent nodes.
            stack: (powers, P, B) powers of the adjacency, 0 at absent nodes.
            node: (N, B), 1 where a node is.
            pair: (P, B), 1 where both nodes are.

        Returns:
            (P, B), 0 where a node is absent.
        """
        stacks = torch.cat(self.walk(x, stack, node, pair)[1])
        return self.final(stacks.flatten(1)).view_as(pair) * pair


class GDSSNetwork(nn.Module):
    """Both networks, over a dict state ``{"x": (B, N, F), "a": (B, N, N)}``, told no time.

    Args:
        features: F, of a node.
        depth: layers of the network of the nodes.
        layers: attention layers of the network of the edges.
        hidden: width of node features.
        attention: width of queries and keys; ``hidden`` when 0.
        linears: linear layers of the perceptrons over pairs.
        channels: matrices at first (powers of the adjacency), between the layers, and after the last.
        heads: of the attention; they divide ``hidden`` and ``attention``.
        conv: ``"gcn"`` or ``"mlp"``: how queries and keys are made.
        gmh: are the nodes' scores made by attention too?

    Raises:
        UserError: a size below 1, or heads that do not divide a width.
    """

    def __init__(
        self,
        features: int,
        depth: int,
        layers: int,
        hidden: int,
        attention: int = 0,
        linears: int = 2,
        channels: tuple[int, int, int] = (2, 8, 4),
        heads: int = 4,
        conv: Conv = "gcn",
        gmh: bool = False,
    ) -> None:
        super().__init__()
        attention = attention or hidden
        if min(features, depth, layers, hidden, attention, linears, heads, *channels) < 1:
            raise UserError("features, depth, layers, widths, linears, heads and channels of a GDSS network must be at least 1")
        if hidden % heads or attention % heads:
            raise UserError(f"heads must divide the widths of the attention, {hidden} and {attention}, got {heads}")
        if conv not in ("gcn", "mlp"):
            raise UserError(f"conv must be 'gcn' or 'mlp', got {conv!r}")
        first, middle, last = channels
        shared: tuple[Any, ...] = (hidden, attention, linears, (first, middle, last), heads, conv)
        self.x: nn.Module = ScoreNetworkXGMH(features, depth, *shared) if gmh else ScoreNetworkX(features, depth, hidden)
        self.a = ScoreNetworkA(features, layers, *shared)
        self.channels = first

    def forward(self, x: Mapping[str, Tensor], label: Any = None, condition: Mapping[str, Any] | None = None) -> dict[str, Tensor]:
        """What the networks say of a noisy graph.

        Args:
            x: ``x`` (B, N, F) and ``a`` (B, N, N), 0 at absent nodes; ``a`` symmetric with a diagonal of 0.
            label: not used.
            condition: ``mask`` (B, N) or (1, N), true where a node is; all nodes are there without it.

        Returns:
            ``x`` (B, N, F) and ``a`` (B, N, N).
        """
        x_in, a = x["x"], x["a"]
        mask = (condition or {}).get("mask")
        present = x_in.new_ones(x_in.shape[:2]) if mask is None else mask.to(x_in.dtype).expand(x_in.shape[:2])
        if torch.is_grad_enabled() or a.device.type != "cpu" or len(a) <= (size := at_a_time(a.shape[-1])):
            return self._found(x_in, a, present)
        parts = [self._found(*part) for part in zip(x_in.split(size), a.split(size), present.split(size), strict=True)]
        return {leaf: torch.cat([part[leaf] for part in parts]) for leaf in ("x", "a")}

    def _found(self, x: Tensor, a: Tensor, present: Tensor) -> dict[str, Tensor]:
        """Both outputs of a batch, with the batch turned to the last axis and back."""
        node = present.mT.contiguous()
        pair = pairs_of(node[:, None] * node)
        stack = torch.stack([pairs_of(power) for power in powers(a, self.channels)])
        features = x.permute(2, 1, 0).contiguous()
        found_x, found_a = self.x(features, stack, node, pair), self.a(features, stack, node, pair)
        return {"x": found_x.permute(2, 1, 0).contiguous(), "a": matrix_of(found_a, a.shape[-1], 0.0).permute(2, 0, 1).contiguous()}
