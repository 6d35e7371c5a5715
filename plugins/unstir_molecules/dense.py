"""A batch of graphs as padded tensors: kinds of nodes, kinds of edges, and which nodes are there.

    x (B, N),   e (B, N, N) = e^T, diag e = 0,   mask (B, N);   x = 0 and e = 0 wherever a node is absent

Sizes of a batch differ; `buckets` groups graphs of like size, so that little of what is computed is padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unstir.errors import DataError, UserError

WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True)
class Dense:
    """A batch of undirected graphs, padded to a common number of nodes.

    Args:
        x: (B, N) long, kind of each node, 0 to K-1 (all 0 where nodes have no kinds); 0 at absent nodes.
        e: (B, N, N) long, kind of each edge, 0 for none; symmetric, zero diagonal, 0 at absent nodes.
        mask: (B, N) bool, the nodes that are there: always the first of a row.
    """

    x: Tensor
    e: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return int(self.x.shape[0])

    @property
    def sizes(self) -> Tensor:
        """(B,) long: nodes of each graph."""
        return self.mask.sum(1)

    @property
    def pairs(self) -> Tensor:
        """(B, N, N) bool: ordered pairs of different nodes that are both there, the places where an edge may be."""
        both = self.mask[:, :, None] & self.mask[:, None, :]
        return both & ~torch.eye(self.mask.shape[1], dtype=torch.bool, device=self.mask.device)

    @classmethod
    def of(cls, x: Any, e: Any, sizes: Any) -> Dense:
        """A batch from arrays; what lies beyond a graph's size is set to 0.

        Args:
            x: (B, N) kinds of nodes, or None for nodes without kinds.
            e: (B, N, N) kinds of edges.
            sizes: (B,) nodes of each graph.

        Returns:
            The batch, not checked (`check`).
        """
        e = torch.as_tensor(np.asarray(e) if not isinstance(e, Tensor) else e)
        sizes = torch.as_tensor(np.asarray(sizes) if not isinstance(sizes, Tensor) else sizes, device=e.device)
        mask = torch.arange(e.shape[-1], device=e.device) < sizes[:, None]
        x = torch.zeros_like(mask, dtype=torch.int64) if x is None else torch.as_tensor(x, device=e.device)
        both = mask[:, :, None] & mask[:, None, :]
        return cls(torch.where(mask, x, torch.zeros_like(x)), torch.where(both, e, torch.zeros_like(e)), mask)

    def take(self, index: Any) -> Dense:
        """Some of the graphs, kinds as long whatever they are stored in.

        Args:
            index: a slice, indices or a boolean mask over the graphs.

        Returns:
            A batch of the same padding.
        """
        if isinstance(index, np.ndarray) or (isinstance(index, Sequence) and not isinstance(index, str)):
            index = torch.as_tensor(np.asarray(index, dtype=np.int64 if not len(index) else None), device=self.x.device)
        return Dense(self.x[index].long(), self.e[index].long(), self.mask[index])

    def to(self, device: torch.device | str) -> Dense:
        """The batch on a device.

        Args:
            device: where to.
        """
        return Dense(self.x.to(device), self.e.to(device), self.mask.to(device))

    def padded(self, nodes: int) -> Dense:
        """The same graphs padded to another number of nodes.

        Args:
            nodes: N, at least the size of the largest graph.

        Raises:
            UserError: a graph has more nodes.
        """
        largest = int(self.sizes.max()) if len(self) else 0
        if nodes < largest:
            raise UserError(f"graphs of up to {largest} nodes cannot be padded to {nodes}")
        more = nodes - self.x.shape[1]
        if more <= 0:
            return Dense(self.x[:, :nodes], self.e[:, :nodes, :nodes], self.mask[:, :nodes])
        pad = torch.nn.functional.pad
        return Dense(pad(self.x, (0, more)), pad(self.e, (0, more, 0, more)), pad(self.mask, (0, more)))

    def trimmed(self) -> Dense:
        """The same graphs without padding that none of them needs (at least one node wide)."""
        return self.padded(max(1, int(self.sizes.max()) if len(self) else 1))

    def compact(self) -> Dense:
        """The same graphs in a byte a kind: an eighth of the memory; `take` gives long again."""
        return Dense(self.x.to(torch.uint8), self.e.to(torch.uint8), self.mask)

    def check(self, nodes: int | None = None, edges: int | None = None) -> Dense:
        """Refuse what is no batch of undirected graphs.

        Args:
            nodes: K, kinds of nodes there are; any number when None.
            edges: kinds of edges there are, "none" included; any number when None.

        Returns:
            The batch itself.

        Raises:
            DataError: shapes disagree, a value is not finite or not whole, a kind is out of range, an edge is missing its other
                direction, a node is joined to itself, an absent node has a kind or an edge, or nodes have gaps before them.
        """
        self._shapes()
        for what, values, kinds in (("node", self.x, nodes), ("edge", self.e, edges)):
            if values.dtype not in WHOLE:
                flat = values.flatten(1)
                _refuse(~torch.isfinite(flat).all(1), f"has kinds of {what}s that are not finite")
                _refuse((flat != flat.round()).any(1), f"has kinds of {what}s that are not whole numbers")
            _refuse((values < 0).flatten(1).any(1), f"has a negative kind of {what}")
            if kinds is not None:
                _refuse((values >= kinds).flatten(1).any(1), f"has a kind of {what} beyond the {kinds} there are")
        _refuse((self.e != self.e.transpose(1, 2)).flatten(1).any(1), "is not symmetric: an edge lacks its other direction")
        _refuse((self.e.diagonal(dim1=1, dim2=2) != 0).any(1), "has a node joined to itself")
        _refuse((~self.mask[:, :-1] & self.mask[:, 1:]).any(1), "has a gap before one of its nodes (present nodes come first)")
        absent = ~(self.mask[:, :, None] & self.mask[:, None, :])
        _refuse(((self.e != 0) & absent).flatten(1).any(1), "has an edge at an absent node")
        _refuse(((self.x != 0) & ~self.mask).any(1), "has a kind at an absent node")
        return self

    def _shapes(self) -> None:
        batch, nodes = (tuple(self.x.shape) + (0, 0))[:2]
        if self.x.shape != (batch, nodes) or self.e.shape != (batch, nodes, nodes) or self.mask.shape != (batch, nodes):
            shapes = ", ".join(f"{name} {tuple(getattr(self, name).shape)}" for name in ("x", "e", "mask"))
            raise DataError(f"shapes of a batch of graphs must be (B, N), (B, N, N) and (B, N), got {shapes}")
        if self.mask.dtype != torch.bool:
            raise DataError(f"the mask of a batch of graphs must be boolean, got {self.mask.dtype}")

    def permuted(self, generator: torch.Generator) -> Dense:
        """The same graphs, the nodes of each in a random order.

        Args:
            generator: draws the orders (on the device of the batch).
        """
        keys = torch.rand(self.x.shape, generator=generator, device=self.x.device)
        return self.ordered(torch.where(self.mask, keys, torch.full_like(keys, 2.0)).argsort(dim=1, stable=True))

    def ordered(self, order: Tensor) -> Dense:
        """The same graphs, their nodes in a given order.

        Args:
            order: (B, N) long: the old place of the node at each new one.
        """
        nodes = self.x.shape[1]
        rows = self.e.gather(1, order[:, :, None].expand(-1, -1, nodes))
        return Dense(self.x.gather(1, order), rows.gather(2, order[:, None, :].expand(-1, nodes, -1)), self.mask.gather(1, order))


def _refuse(faulty: Tensor, fault: str) -> None:
    if bool(faulty.any()):
        raise DataError(f"graph {int(faulty.nonzero()[0, 0])} of the batch {fault}")


def concatenated(parts: Sequence[Dense]) -> Dense:
    """One batch of several, padded to the widest.

    Args:
        parts: at least one batch.

    Raises:
        DataError: there is none.
    """
    if not parts:
        raise DataError("there is no batch of graphs to join")
    nodes = max(part.x.shape[1] for part in parts)
    wide = [part.padded(nodes) for part in parts]
    return Dense(torch.cat([p.x for p in wide]), torch.cat([p.e for p in wide]), torch.cat([p.mask for p in wide]))


def buckets(sizes: Any, limit: int, waste: float = 1.5) -> list[NDArray[np.int64]]:
    """Groups of graphs of like size: worked on one by one, each padded to its own largest, they waste little.

    Args:
        sizes: (B,) nodes of each graph.
        limit: most graphs of a group.
        waste: a group's padded cells (size squared) may be at most so many times the cells of its graphs.

    Returns:
        Index arrays, smallest graphs first; each index in exactly one, in rising order among equal sizes.

    Raises:
        UserError: ``limit`` below 1 or ``waste`` below 1.
    """
    if limit < 1 or not waste >= 1:
        raise UserError(f"limit and waste must be at least 1, got {limit} and {waste}")
    sizes = np.asarray(sizes.cpu() if isinstance(sizes, Tensor) else sizes, dtype=np.int64)
    order = np.argsort(sizes, kind="stable")
    values, counts = np.unique(sizes, return_counts=True)
    cells = np.maximum(values, 1) ** 2
    ends, first, used = [], 0, 0
    for i, count in enumerate(np.cumsum(counts)):
        used += int(cells[i] * counts[i])
        if i + 1 == len(values) or cells[i + 1] * (count - first + counts[i + 1]) > waste * (used + cells[i + 1] * counts[i + 1]):
            ends.append((first, int(count)))
            first, used = int(count), 0
    return [order[start : min(start + limit, end)] for first, end in ends for start in range(first, end, limit)]
