"""GMRES for a batch of independent problems: least residual over a Krylov space, for matrices that need not be symmetric.

    x_k = argmin ||b - M x|| over span(b, M b, .., M^(k-1) b),        Arnoldi, and Givens rotations a sample

Reference: Saad & Schultz 1986.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.operator.cg import CGReport, inner


def gmres(matrix: Callable[[Tensor], Tensor], rhs: Tensor, *, iterations: int, tolerance: float = 0.0) -> tuple[Tensor, CGReport]:
    """Solve M x = rhs for every sample of a batch, from zero and without restarts; complex numbers count as pairs of real ones.

    A sample that has converged (to rounding, if ``tolerance`` asks for more), or whose Krylov space is exhausted, is frozen.
    With ``tolerance=0`` nothing waits for the device. A sample's result does not depend on the other samples, bit for bit.

    Args:
        matrix: M as a function of a (batch, *shape) tensor, linear over the reals.
        rhs: b, (batch, *shape), real or complex.
        iterations: at most this many; so many vectors are kept.
        tolerance: stop a sample at ||b - M x|| <= tolerance ||b||.

    Returns:
        x (batch, *shape) in a new tensor, and the report.

    Raises:
        UserError: ``iterations`` or ``tolerance`` is negative.
    """
    if iterations < 0 or tolerance < 0:
        raise UserError(f"GMRES needs iterations >= 0 and tolerance >= 0, got {iterations} and {tolerance}")
    column = (-1, *[1] * (rhs.ndim - 1))
    size = _norm(rhs)
    limit = max(tolerance, 10 * torch.finfo(size.dtype).eps) * size
    active, left = size > 0, size
    used = torch.zeros_like(size, dtype=torch.int64)
    basis = [rhs / torch.where(active, size, 1.0).view(column)]
    triangle: list[list[Tensor]] = []
    turns: list[tuple[Tensor, Tensor]] = []
    right: list[Tensor] = []
    for _ in range(iterations):
        if tolerance > 0 and not bool(active.any()):
            break
        w = matrix(basis[-1])
        before, h = _norm(w), []
        for v in basis:
            h.append(inner(v, w).real)
            w = w - h[-1].view(column) * v
        after = _norm(w)
        after = torch.where(after > 10 * torch.finfo(size.dtype).eps * before, after, 0.0)
        for j, (c, s) in enumerate(turns):
            h[j], h_next = c * h[j] + s * h[j + 1], c * h[j + 1] - s * h[j]
            h[j + 1] = h_next
        pivot = torch.hypot(h[-1], after)
        active = active & (pivot > 0)
        safe = torch.where(active, pivot, 1.0)
        c, s = torch.where(active, h[-1] / safe, 1.0), torch.where(active, after / safe, 0.0)
        triangle.append([*(torch.where(active, entry, 0.0) for entry in h[:-1]), safe])
        right.append(torch.where(active, c * left, 0.0))
        left = torch.where(active, -s * left, left)
        turns.append((c, s))
        used += active
        active = active & (left.abs() > limit) & (after > 0)
        basis.append(w / torch.where(after > 0, after, 1.0).view(column))
    return _combined(basis, triangle, right, rhs), CGReport(used, left.abs() / torch.where(size > 0, size, 1.0))


def _combined(basis: list[Tensor], triangle: list[list[Tensor]], right: list[Tensor], rhs: Tensor) -> Tensor:
    """sum_k y_k v_k with y from back substitution."""
    x, weights = torch.zeros_like(rhs), list(right)
    for k in reversed(range(len(right))):
        weights[k] = weights[k] / triangle[k][k]
        for j in range(k):
            weights[j] = weights[j] - triangle[k][j] * weights[k]
        x = x + weights[k].view(-1, *[1] * (rhs.ndim - 1)) * basis[k]
    return x


def _norm(x: Tensor) -> Tensor:
    return inner(x, x).real.sqrt()
