"""Spaces: where states live, and what noise is there.

draw: iid unit normals -> noise of the space;     project: the nearest state of the space
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unstir.errors import UserError

Condition = Mapping[str, Any] | None


class Space(ABC):
    """A linear space of states with its unit noise."""

    @abstractmethod
    def draw(self, noise: Float[Tensor, "batch *shape"], condition: Condition = None) -> Float[Tensor, "batch *shape"]:
        """Unit noise of the space.

        Args:
            noise: independent unit normals of the shape of a state.
            condition: what the sample is conditioned on; a space may read a mask there.

        Returns:
            Noise in the space, with unit variance in each of its free entries (or the projection of unit noise, where said).
        """

    @abstractmethod
    def project(self, x: Float[Tensor, "batch *shape"], condition: Condition = None) -> Float[Tensor, "batch *shape"]:
        """The state of the space nearest to ``x`` (orthogonal projection, so projecting twice changes nothing)."""


@dataclass(frozen=True)
class Euclidean(Space):
    """All real arrays of a shape."""

    def draw(self, noise: Tensor, condition: Condition = None) -> Tensor:
        """The noise itself."""
        return noise

    def project(self, x: Tensor, condition: Condition = None) -> Tensor:
        """The state itself."""
        return x


@dataclass(frozen=True)
class Masked(Space):
    """States that are zero outside a mask: fewer atoms than places, an irregular field of view.

    Args:
        key: the entry of the condition that holds the mask (batch, ...): as many axes as the state or fewer, aligned with its
            first ones; not 0 (or true) where the state lives.
    """

    key: str = "mask"

    def draw(self, noise: Tensor, condition: Condition = None) -> Tensor:
        """The noise where the mask is."""
        return self.project(noise, condition)

    def project(self, x: Tensor, condition: Condition = None) -> Tensor:
        """The state where the mask is, 0 elsewhere."""
        return x * aligned(mask_of(condition, self.key), x)


@dataclass(frozen=True)
class Symmetric(Space):
    """Symmetric matrices with a zero diagonal in the last two axes: weighted adjacency without self-loops.

    Noise has unit variance in each entry off the diagonal: sqrt(2) times the projection of unit noise.

    Args:
        key: the entry of the condition with a mask of nodes (batch, nodes); entries of absent nodes are zero.
    """

    key: str | None = None

    def draw(self, noise: Tensor, condition: Condition = None) -> Tensor:
        """sqrt(2) times the projection: unit variance off the diagonal."""
        return math.sqrt(2) * self.project(noise, condition)

    def project(self, x: Tensor, condition: Condition = None) -> Tensor:
        """(x + x^T)/2 with its diagonal set to 0."""
        if x.ndim < 3 or x.shape[-1] != x.shape[-2]:
            raise UserError(f"a symmetric state must end in two equal axes, got the shape {tuple(x.shape)}")
        x = (x + x.mT) / 2
        x = x - torch.diag_embed(torch.diagonal(x, dim1=-2, dim2=-1))
        if self.key is None:
            return x
        node = mask_of(condition, self.key).to(x.dtype)
        node = node.reshape(node.shape[:1] + (1,) * (x.ndim - 3) + node.shape[-1:])
        return x * node[..., :, None] * node[..., None, :]


@dataclass(frozen=True)
class ZeroMean(Space):
    """States whose mean over an axis is zero: coordinates without their centre of mass.

    Noise is the projection of unit noise: covariance I - 11^T/n along the axis.

    Args:
        axis: the axis of the mean; the batch is axis 0.
        key: the entry of the condition with a mask along that axis (batch, n); the mean is over present entries and absent ones are zero.
    """

    axis: int = 1
    key: str | None = None

    def draw(self, noise: Tensor, condition: Condition = None) -> Tensor:
        """The noise without its mean."""
        return self.project(noise, condition)

    def project(self, x: Tensor, condition: Condition = None) -> Tensor:
        """The state without its mean."""
        if not -x.ndim < self.axis < x.ndim or self.axis % x.ndim == 0:
            raise UserError(f"axis {self.axis} of ZeroMean is not an axis after the batch of a state of shape {tuple(x.shape)}")
        if self.key is None:
            return x - x.mean(self.axis, keepdim=True)
        mask = mask_of(condition, self.key).to(x.dtype)
        shape = [1] * x.ndim
        shape[0], shape[self.axis] = mask.shape[0], mask.shape[-1]
        mask = mask.reshape(shape)
        mean = (x * mask).sum(self.axis, keepdim=True) / mask.sum(self.axis, keepdim=True).clamp(min=1)
        return (x - mean) * mask


@dataclass(frozen=True)
class JointSpace(Space):
    """A space a leaf of a dict state.

    Args:
        leaves: the space of each leaf; all read the same condition.
    """

    leaves: Mapping[str, Space]

    def __hash__(self) -> int:
        return hash(tuple(self.leaves.items()))

    def draw(self, noise: Any, condition: Condition = None) -> Any:
        """Noise of each leaf."""
        return {leaf: self.of(leaf).draw(value, condition) for leaf, value in noise.items()}

    def project(self, x: Any, condition: Condition = None) -> Any:
        """Projection of each leaf."""
        return {leaf: self.of(leaf).project(value, condition) for leaf, value in x.items()}

    def of(self, leaf: str) -> Space:
        """The space of a leaf."""
        if leaf not in self.leaves:
            raise UserError(f"the state has a leaf {leaf!r} and the joint space has only {sorted(self.leaves)}")
        return self.leaves[leaf]


def mask_of(condition: Condition, key: str) -> Tensor:
    """The mask in a condition.

    Args:
        condition: what the denoiser is told.
        key: of the mask in it.

    Raises:
        UserError: the condition has no such entry.
    """
    if condition is None or key not in condition:
        raise UserError(f"the space needs a mask: give it as condition[{key!r}]")
    return condition[key]


def aligned(mask: Tensor, x: Tensor) -> Tensor:
    """The mask in the dtype of ``x``, its axes aligned with the first axes of ``x``."""
    return mask.to(x.dtype).reshape(mask.shape + (1,) * (x.ndim - mask.ndim))
