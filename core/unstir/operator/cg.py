"""Conjugate gradients for a batch of independent problems.

    M x = b,  M Hermitian positive semi-definite, one problem a sample; every sample has its own step lengths and its own stop.

Reference: Hestenes & Stiefel 1952.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from unstir.errors import UserError

_SPLIT = 32768  # from this size on torch may sum one row with several threads, but never a row of many


def inner(a: Tensor, b: Tensor, buffer: Tensor | None = None) -> Tensor:
    """The inner product of each sample, conjugate-linear in the first argument.

    <a, b> = sum(conj(a) b) over all axes but the first. A sample's result does not depend on the other samples of the batch, bit for bit.

    Args:
        a: (batch, *shape), real or complex.
        b: the same shape.
        buffer: where to write the products (contiguous, the shape of ``a``); allocated when absent, and for complex products.

    Returns:
        (batch,), complex when an argument is.
    """
    if a.is_complex() or b.is_complex():
        return _complex_inner(a, b)
    return _rows(torch.mul(a, b, out=buffer))


def _complex_inner(a: Tensor, b: Tensor) -> Tensor:
    """By real products: those of complex numbers are rounded otherwise in the last few of a tensor than before."""
    wide = torch.promote_types(a.dtype, b.dtype)
    a, b = (torch.view_as_real(part.to(wide).resolve_conj()) for part in (a, b))
    turned = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    return torch.complex(_rows(a * b), _rows(turned))


def _rows(product: Tensor) -> Tensor:
    """The sum of each sample's values."""
    product = product.reshape(product.shape[0], math.prod(product.shape[1:]))
    if product.shape[1] < _SPLIT:
        return product.sum(1)
    return torch.stack([row.sum() for row in product])


@dataclass(frozen=True)
class CGReport:
    """What conjugate gradients did.

    Attributes:
        iterations: (batch,) int64, iterations that moved each sample.
        residual: (batch,) real, ||b - M x|| / ||b|| by the recurrence (the absolute norm where b is zero).
    """

    iterations: Tensor
    residual: Tensor


def conjugate_gradients(
    matrix: Callable[[Tensor], Tensor],
    rhs: Tensor,
    *,
    start: Tensor | None = None,
    iterations: int,
    tolerance: float = 0.0,
    stop: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, CGReport]:
    """Solve M x = rhs for every sample of a batch; exact in at most as many iterations as M has distinct eigenvalues.

    A sample that has converged (to rounding, if ``tolerance`` asks for more), or whose direction M does not see (p.Mp = 0), is frozen: it
    neither moves nor becomes NaN.
    With ``tolerance=0`` and no ``stop`` the number of iterations is fixed and nothing waits for the device.

    Args:
        matrix: M as a function of a (batch, *shape) tensor; it must not keep or change its argument.
        rhs: b, (batch, *shape), real or complex.
        start: (batch, *shape), where to start; zero when absent. Never overwritten.
        iterations: at most this many.
        tolerance: stop a sample at ||b - M x|| <= tolerance ||b||.
        stop: of the current x, gives (batch,) booleans: True freezes the sample. Called before every iteration.

    Returns:
        x (batch, *shape) in a new tensor, and the report.

    Raises:
        UserError: ``iterations`` or ``tolerance`` is negative, or ``start`` has another shape, or a gradient is asked for.
    """
    if iterations < 0 or tolerance < 0:
        raise UserError(f"conjugate gradients need iterations >= 0 and tolerance >= 0, got {iterations} and {tolerance}")
    shape = tuple(rhs.shape)
    if start is not None and start.shape != shape:
        raise UserError(f"the start of conjugate gradients must have the shape of the right-hand side, {shape}, got {tuple(start.shape)}")
    if torch.is_grad_enabled() and (rhs.requires_grad or start is not None and start.requires_grad):
        raise UserError("conjugate gradients keep no gradient: detach their arguments, or run them under torch.no_grad()")
    column = (-1, *[1] * (rhs.ndim - 1))
    x = torch.zeros_like(rhs, memory_format=torch.contiguous_format) if start is None else start.to(rhs.dtype, copy=True).contiguous()
    r = rhs.clone(memory_format=torch.contiguous_format)
    if start is not None:
        r -= matrix(x)
    p, buffer = r.clone(), torch.empty_like(r)
    rr = inner(r, r, buffer).real
    bb = inner(rhs, rhs, buffer).real
    # below rounding a residual points where a singular M sees nothing, and a step along it is as large as it is meaningless
    limit = max(tolerance, 10 * torch.finfo(rr.dtype).eps) ** 2 * bb
    active = rr > limit
    used = torch.zeros_like(rr, dtype=torch.int64)
    for _ in range(iterations):
        if stop is not None:
            active = active & ~stop(x)
        if (stop is not None or tolerance > 0) and not bool(active.any()):
            break
        q = matrix(p)
        pq = inner(p, q, buffer).real
        active = active & (pq > 0)
        step = torch.where(active, rr / torch.where(active, pq, 1.0), 0.0)
        x += torch.mul(p, step.view(column), out=buffer)
        r -= torch.mul(q, step.view(column), out=buffer)
        after = inner(r, r, buffer).real
        turn = torch.where(active, after / torch.where(active, rr, 1.0), 0.0)
        p.mul_(turn.view(column)).add_(r)
        rr = torch.where(active, after, rr)
        used += active
        active = active & (rr > limit)
    return x, CGReport(used, torch.where(bb > 0, (rr / torch.where(bb > 0, bb, 1.0)).sqrt(), rr.sqrt()))
