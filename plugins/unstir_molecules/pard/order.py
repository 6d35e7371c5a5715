"""The structural partial order of a graph: which nodes come into being together, and in which order the blocks do.

On what is left of the graph   x_0 = 1,   x_k = (I + A) x_{k-1},   w(v) = sum_{k=1..K} x_k(v) n^{K-k};   all nodes of least w are removed

until nothing is left; what was removed last is generated first. x_k counts walks of length k - 1 from v to its neighbours and itself, so
that x_1 is the degree plus one. The digits x_k of w may exceed its base n, the number of nodes of the whole graph, and carry over:
``"pard"`` keeps that, ``"lexicographic"`` compares x_1, then x_2, and so on. Whole numbers all along: no tie is decided by rounding.
Reference: Zhao, Ding and Akoglu 2024 (PARD), arXiv:2402.03687.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from unstir.errors import UserError

Weighting = Literal["pard", "lexicographic"]
_MOST = 2**63 - 1
_CELLS = 2**24  # entries of the adjacencies worked on at a time


def check_order(hops: int, weighting: str) -> None:
    """Refuse an order that does not exist.

    Args:
        hops: K.
        weighting: its name.

    Raises:
        UserError: K is not a whole number of at least 0, or there is no such weighting.
    """
    if isinstance(hops, bool) or not isinstance(hops, int) or hops < 0:
        raise UserError(f"hops must be a whole number of at least 0, got {hops!r}")
    if weighting not in get_args(Weighting):
        raise UserError(f"weighting must be one of {', '.join(get_args(Weighting))}, got {weighting!r}")


def block_numbers(e: Tensor, mask: Tensor, hops: int = 3, weighting: Weighting = "pard") -> Tensor:
    """The block of every node, 0 for the block generated first.

    Args:
        e: (B, N, N) kinds of edges, 0 for none; symmetric. Only whether there is an edge matters.
        mask: (B, N) the nodes that are there.
        hops: K; with 0 every graph is one block.
        weighting: how the digits of w are compared.

    Returns:
        (B, N) long, -1 at absent nodes. Renumbering the nodes renumbers it and changes nothing else.

    Raises:
        UserError: there is no such order, or so many walks that 64 bits do not hold their number.
    """
    check_order(hops, weighting)
    size = max(1, _CELLS // max(1, e.shape[-1] ** 2))
    parts = [_numbered(e[i : i + size], mask[i : i + size], hops, weighting) for i in range(0, len(e), size)]
    return torch.cat(parts) if parts else torch.full(mask.shape, -1, dtype=torch.long, device=e.device)


def arranged(block: Tensor) -> Tensor:
    """The order of the nodes that puts blocks one after the other, as ``Dense.ordered`` takes it; absent nodes come last.

    Args:
        block: (B, N), -1 at absent nodes.

    Returns:
        (B, N) long: the old place of the node at each new one; nodes of one block keep their order.
    """
    last = torch.iinfo(torch.long).max
    return torch.where(block < 0, last, block).argsort(dim=1, stable=True)


def block_sizes(block: Tensor) -> Tensor:
    """How many nodes each block has.

    Args:
        block: (B, N), -1 at absent nodes.

    Returns:
        (B, blocks) long; 0 beyond a graph's last block.
    """
    count = int(block.max()) + 1 if block.numel() else 0
    return (block[:, :, None] == torch.arange(count, device=block.device)).sum(1)


def block_degrees(e: Tensor, block: Tensor) -> Tensor:
    """How many neighbours the nodes of each block have in the graph grown so far, that block included.

    Nodes of a block have one degree, but for digits of w that carried over (``"pard"`` on dense graphs): the least of them counts then.

    Args:
        e: (B, N, N) kinds of edges.
        block: (B, N), -1 at absent nodes.

    Returns:
        (B, blocks) long; 0 beyond a graph's last block.
    """
    earlier = (block[:, None, :] <= block[:, :, None]) & (block[:, None, :] >= 0)
    degree = ((e != 0) & earlier).sum(-1)
    count = int(block.max()) + 1 if block.numel() else 0
    inside = block[:, :, None] == torch.arange(count, device=block.device)
    least = torch.where(inside, degree[:, :, None], _MOST).amin(1) if block.shape[1] else inside.sum(1)
    return torch.where(inside.any(1), least, 0)


def _numbered(e: Tensor, mask: Tensor, hops: int, weighting: Weighting) -> Tensor:
    adjacent = ((e != 0) & mask[:, :, None] & mask[:, None, :]).long()
    nodes = mask.sum(1)
    _check_counts(adjacent, nodes, hops, weighting)
    left, turn = mask.clone(), torch.full(mask.shape, -1, dtype=torch.long, device=e.device)
    for i in range(mask.shape[1]):
        if not bool(left.any()):
            break
        least = _least(adjacent, left, nodes, hops, weighting)
        turn[least] = i
        left &= ~least
    return torch.where(mask, turn.amax(1, keepdim=True) - turn, -1) if mask.shape[1] else turn


def _least(adjacent: Tensor, left: Tensor, nodes: Tensor, hops: int, weighting: Weighting) -> Tensor:
    """(B, N) bool: the nodes of least weight among those that are left."""
    found, x = left.clone(), left.long()
    weight = torch.zeros_like(x)
    for _ in range(hops):
        x = (x + (adjacent * x[:, None, :]).sum(-1)) * left
        if weighting == "lexicographic":
            found &= x == torch.where(found, x, _MOST).amin(1, keepdim=True)
        weight = weight * nodes[:, None] + x
    if weighting == "lexicographic":
        return found
    return found & (weight == torch.where(left, weight, _MOST).amin(1, keepdim=True))


def _check_counts(adjacent: Tensor, nodes: Tensor, hops: int, weighting: Weighting) -> None:
    """64 bits must hold every x_k <= (largest degree + 1)^k, and w."""
    if not adjacent.numel():
        return
    most, n = int(adjacent.sum(-1).max()) + 1, int(nodes.max())
    largest = most**hops if weighting == "lexicographic" else sum(most**k * n ** (hops - k) for k in range(1, hops + 1))
    if largest >= _MOST:
        raise UserError(f"hops of {hops} count more walks in graphs of {n} nodes than 64 bits hold: take fewer")
