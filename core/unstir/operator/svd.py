"""Singular coordinates of an operator: A = U diag(s) V^H, where a measurement says something about each coordinate on its own.

    c = V^H x,   U^H y = s c + U^H n

Exact and cheap for a :class:`Diagonal` (every entry is a coordinate); a dense decomposition, kept, for any other of moderate size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.operator.base import Operator
from unstir.operator.linear import Dense, Diagonal

_MOST = 2**25  # entries of the largest matrix that is decomposed


@dataclass(frozen=True)
class Singular:
    """The singular coordinates of an operator.

    Attributes:
        operator: A.
        values: s (n,), n entries of a state; 0 for what is not measured.
        left: U^H (n, m), rows of zeros where s is 0; absent where it is the identity.
        right: V^H (n, n); absent where it is the identity.
    """

    operator: Operator
    values: Tensor
    left: Tensor | None = None
    right: Tensor | None = None

    def coordinates(self, x: Tensor) -> Tensor:
        """c = V^H x, (batch, n), of states (batch, *shape_in)."""
        flat = x.flatten(1)
        return flat if self.right is None else flat @ self.right.to(flat).mT

    def state(self, c: Tensor) -> Tensor:
        """x = V c, (batch, *shape_in), of coordinates (batch, n)."""
        flat = c if self.right is None else c @ self.right.to(c)
        return flat.reshape(c.shape[0], *self.operator.shape_in)

    def measured(self, y: Tensor) -> Tensor:
        """U^H y / s, (batch, n), 0 where s is 0; of measurements (batch, *shape_out)."""
        flat = y.flatten(1)
        s = self.values.to(y.device, flat.real.dtype)
        seen = flat if self.left is None else flat @ self.left.to(flat).mT
        return torch.where(s > 0, seen / torch.where(s > 0, s, 1.0), 0.0)


def singular(operator: Operator) -> Singular:
    """The singular coordinates of a real operator.

    Args:
        operator: A; one with a method ``svd() -> (U, s, Vh)`` is asked, any other is written out as a matrix.

    Returns:
        U, s and V in float64, those of s below 1e-12 of the largest counted as 0.

    Raises:
        UserError: the operator is complex, or its matrix would have more than 2^25 entries.
    """
    if operator.is_complex:
        raise UserError(f"singular coordinates are those of real operators, and {operator.describe()} is complex")
    if isinstance(operator, Diagonal):
        weights = operator.weights.to(torch.float64).flatten()
        return Singular(operator, weights.abs(), torch.diag(weights.sign()) if bool((weights < 0).any()) else None)
    n, m = math.prod(operator.shape_in), math.prod(operator.shape_out)
    own = getattr(operator, "svd", None)
    if own is None and n * max(n, m) > _MOST:
        raise UserError(f"{operator.describe()} is too large to decompose: give it a method svd() -> (U, s, Vh)")
    u, s, vh = own() if own is not None else torch.linalg.svd(matrix_of(operator), full_matrices=True)
    s = torch.where(s > 1e-12 * s.max(), s, 0.0).to(torch.float64)
    values = torch.zeros(n, dtype=torch.float64)
    values[: len(s)] = s
    left = torch.zeros(n, m, dtype=torch.float64)
    left[: len(s)] = u[:, : len(s)].mT
    return Singular(operator, values, left, vh.to(torch.float64))


def matrix_of(operator: Operator) -> Tensor:
    """The matrix of a real operator (m, n) over flattened axes, float64: its action on every unit state."""
    if isinstance(operator, Dense):
        return operator.matrix.to(torch.float64)
    n = math.prod(operator.shape_in)
    with torch.no_grad():
        return operator(torch.eye(n, dtype=torch.float64).reshape(n, *operator.shape_in)).flatten(1).mT
