"""Graph multi-head attention: node features and a stack of weighted adjacency matrices, each made from the other.

    G_c(X)  = D_c^-1/2 A_c D_c^-1/2 X W_c + b_c                 dense graph convolution; A_c with a diagonal of 1, D = max(row sum, 1)
    M_c     = sym( mean over heads of tanh(Q_c K_c^T / sqrt(d)) )        Q, K, V = G_c(X), or Q, K two-layer perceptrons of X
    X'      = tanh(MLP(V_1 | ... | V_C)),        A' = 2 sym( MLP(M_1 | ... | M_C | A_1 | ... | A_C) )

d is the width of V, not that of a head. A diagonal never matters (the convolution overwrites it and the last layer clears it), and every
matrix is symmetric, so perceptrons work on the n(n-1)/2 pairs i < j. The batch is the *last* axis: nodes are (F, N, B) and pairs (C, P, B),
so that small graphs are worked on side by side, and neither channels nor heads are ever turned around in memory.
Reference: Jo et al. 2022 (GDSS), arXiv:2202.02514, appendix C; Baek et al. 2021 (GMT), arXiv:2102.11533.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Conv = Literal["gcn", "mlp"]


@lru_cache(maxsize=256)
def _places(nodes: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Places of the pairs i < j in a flat matrix, of their mirror images, and of each entry of a matrix among the pairs, diagonal last."""
    with torch.inference_mode(False):
        i, j = torch.triu_indices(nodes, nodes, 1)
        back = torch.full((nodes, nodes), i.numel(), dtype=torch.long)
        back[i, j] = back[j, i] = torch.arange(i.numel())
        return (i * nodes + j).to(device), (j * nodes + i).to(device), back.flatten().to(device)


def pairs_of(matrix: Tensor) -> Tensor:
    """The entries i < j of symmetric matrices.

    Args:
        matrix: (..., N, N, B).

    Returns:
        (..., P, B), P = N(N-1)/2, row by row.
    """
    return matrix.flatten(-3, -2).index_select(-2, _places(matrix.shape[-2], matrix.device)[0])


def matrix_of(pairs: Tensor, nodes: int, diagonal: float) -> Tensor:
    """Symmetric matrices from their pairs.

    Args:
        pairs: (..., P, B), as :func:`pairs_of` gives them.
        nodes: N.
        diagonal: value on the diagonal.

    Returns:
        (..., N, N, B).
    """
    padded = functional.pad(pairs, (0, 0, 0, 1), value=diagonal)
    return padded.index_select(-2, _places(nodes, pairs.device)[2]).unflatten(-2, (nodes, nodes))


def normalised(adjacency: Tensor) -> Tensor:
    """D^-1/2 A D^-1/2, D the row sums, at least 1: the rows of a noisy matrix may sum to less, or below zero.

    Args:
        adjacency: (..., N, N, B) with its diagonal set to 1.

    Returns:
        (..., N, N, B).
    """
    scale = adjacency.sum(-2).clamp(min=1).rsqrt()
    return adjacency * scale[..., :, None, :] * scale[..., None, :, :]


def bounded(x: Tensor) -> Tensor:
    """tanh, as 2 sigmoid(2 x) - 1: a tenth of the time on a CPU, exact to rounding beside 1."""
    return torch.sigmoid(2 * x).mul(2).sub(1)


def elu(x: Tensor) -> Tensor:
    """x above 0, e^x - 1 below, over its argument. Without gradients as max(x, 2^(min(x, 0)/ln 2) - 1): half of the time on a CPU.

    Args:
        x: any shape; not to be used again.
    """
    if torch.is_grad_enabled():
        return functional.elu(x, inplace=True)
    below = x.clamp(max=0).mul_(1 / math.log(2)).exp2_().sub_(1)
    return torch.maximum(x, below, out=below)


def _side_by_side(nodes: int, batch: int) -> bool:
    """Are small matrices multiplied entry by entry for the whole batch at once? Else one by one, by a batched product."""
    return nodes <= min(32, batch)


def spread_over(adjacency: Tensor, x: Tensor) -> Tensor:
    """A X of every channel.

    Args:
        adjacency: (C, N, N, B).
        x: (F, N, B).

    Returns:
        (C, F, N, B).
    """
    nodes, batch = adjacency.shape[-2:]
    if not _side_by_side(nodes, batch):
        made = torch.matmul(x.permute(2, 0, 1), adjacency.permute(0, 3, 2, 1))
        return made.permute(0, 2, 3, 1).contiguous()
    made = adjacency[:, None, :, 0] * x[:, None, 0]
    for j in range(1, nodes):
        made.addcmul_(adjacency[:, None, :, j], x[:, None, j])
    return made


class MLP(nn.Module):
    """A perceptron over the first axis: many columns and few rows.

    Args:
        count: linear layers, at least 1.
        inputs, hidden, outputs: widths.
        activation: ``"elu"`` or ``"tanh"``, between the layers.
    """

    def __init__(self, count: int, inputs: int, hidden: int, outputs: int, activation: str = "elu") -> None:
        super().__init__()
        widths = [inputs, *[hidden] * (count - 1), outputs]
        self.linears = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False))
        self.activation = {"elu": elu, "tanh": bounded}[activation]

    def forward(self, x: Tensor) -> Tensor:
        """Features (inputs, many) to (outputs, many)."""
        for i, linear in enumerate(self.linears):
            x = torch.addmm(linear.bias[:, None], linear.weight, self.activation(x) if i else x)  # type: ignore[index,arg-type]
        return x


class Convolution(nn.Module):
    """A stack of dense graph convolutions, one a channel: A_c X W_c + b_c.

    Args:
        channels: C.
        inputs: features of a node.
        outputs: widths that are made side by side (queries, keys, values), each with its own Glorot start.
    """

    def __init__(self, channels: int, inputs: int, outputs: tuple[int, ...]) -> None:
        super().__init__()
        self.outputs = outputs
        self.weight = nn.Parameter(torch.empty(channels, inputs, sum(outputs)))
        self.bias = nn.Parameter(torch.zeros(channels, sum(outputs)))
        with torch.no_grad():
            for part in self.weight.split(outputs, -1):
                bound = math.sqrt(6 / (inputs + part.shape[-1]))
                part.uniform_(-bound, bound)

    def forward(self, x: Tensor, adjacency: Tensor, count: int | None = None) -> tuple[Tensor, ...]:
        """Convolve.

        Args:
            x: (F, N, B).
            adjacency: (C, N, N, B), normalised.
            count: how many of the widths are made; all of them when absent.

        Returns:
            One (C, width, N, B) a width.
        """
        widths = self.outputs[:count]
        mixed = spread_over(adjacency, x)
        weight, bias = self.weight[..., : sum(widths)], self.bias[:, : sum(widths), None]
        made = torch.baddbmm(bias, weight.mT, mixed.flatten(-2))
        return made.unflatten(-1, mixed.shape[-2:]).split(widths, 1)


class AttentionLayer(nn.Module):
    """One layer: nodes and matrices, each made from the other.

    Args:
        linears: linear layers of the perceptron over pairs.
        inputs: features of a node; ``outputs`` after the layer.
        attention: width of queries and keys, all heads together.
        outputs: width of the values.
        channels: C, matrices that come in; ``made`` matrices come out.
        heads: of the attention; their number divides ``attention``.
        conv: ``"gcn"``, or ``"mlp"`` where queries and keys are perceptrons of the node alone.
    """

    def __init__(
        self, linears: int, inputs: int, attention: int, outputs: int, channels: int, made: int, heads: int = 4, conv: Conv = "gcn"
    ) -> None:
        super().__init__()
        self.heads, self.scale = heads, 1 / math.sqrt(outputs)
        self.graph = Convolution(channels, inputs, (attention, attention, outputs) if conv == "gcn" else (outputs,))
        self.plain = nn.ModuleList()
        if conv == "mlp":
            self.plain.extend(MLP(2, inputs, 2 * attention, attention, "tanh") for _ in range(2 * channels))
        hidden = 2 * max(channels, made)
        self.mlp = MLP(linears, 2 * channels, hidden, made)
        self.multi_channel = MLP(2, channels * outputs, hidden, outputs)

    def forward(
        self, x: Tensor, pairs: Tensor, node: Tensor, pair: Tensor, *, last: Literal["", "nodes", "pairs"] = ""
    ) -> tuple[Tensor, Tensor]:
        """One layer.

        Args:
            x: (inputs, N, B).
            pairs: (C, P, B), the matrices.
            node: (N, B), 1 where a node is.
            pair: (P, B), 1 where both nodes are.
            last: of the last layer only the ``"nodes"`` or the ``"pairs"`` are needed; the other comes back as it was.

        Returns:
            x' (outputs, N, B) and the new matrices (made, P, B).
        """
        convolves = len(self.graph.outputs) == 3
        if convolves or last != "pairs":
            adjacency = normalised(matrix_of(pairs, len(node), 1.0))
            parts = self.graph(x, adjacency, 2 if convolves and last == "pairs" else None)
        before = x
        if last != "pairs":
            values: Tensor = self.multi_channel(parts[-1].reshape(-1, node.numel()))
            x = bounded(values.view(-1, *node.shape) * node)
        if last == "nodes":
            return x, pairs
        queries, keys = parts[:2] if convolves else self._plain(before)
        maps = attention_maps(queries, keys, self.heads, self.scale)
        made = self.mlp(torch.cat((maps, pairs)).flatten(1)).view(-1, *pair.shape)
        return x, 2 * made * pair

    def _plain(self, x: Tensor) -> tuple[Tensor, Tensor]:
        made = torch.stack([part(x.flatten(1)) for part in self.plain]).unflatten(-1, x.shape[1:])
        return made[0::2], made[1::2]


def attention_maps(queries: Tensor, keys: Tensor, heads: int, scale: float = 1.0) -> Tensor:
    """tanh(scale Q K^T), averaged over heads and symmetrised, as pairs.

    A head is a run of features. GDSS's code puts the heads on the batch axis and back, which comes to the same.

    Args:
        queries, keys: (C, width, N, B).
        heads: their number divides the width.
        scale: 1 / sqrt(d).

    Returns:
        (C, P, B).
    """
    nodes, batch = queries.shape[-2:]
    q, k = (part.unflatten(1, (heads, -1)) for part in (2 * scale * queries, keys))
    total: Tensor | None = None
    for head in range(heads):
        if _side_by_side(nodes, batch):
            found = q[:, head, 0, :, None] * k[:, head, 0, None]
            for d in range(1, q.shape[2]):
                found.addcmul_(q[:, head, d, :, None], k[:, head, d, None])
        else:
            found = torch.matmul(q[:, head].permute(0, 3, 2, 1), k[:, head].permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        found = found.sigmoid_()
        total = found if total is None else total + found if head == 1 else total.add_(found)
    assert total is not None
    upper, lower, _ = _places(nodes, queries.device)
    flat = total.reshape(len(q), nodes * nodes, batch)
    return (flat.index_select(1, upper) + flat.index_select(1, lower)) / heads - 1  # tanh(s) = 2 sigmoid(2 s) - 1, halves of two
