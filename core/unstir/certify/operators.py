"""The section of the certificate about operators: what linear algebra says of A, found from its matrix, A on every unit state.

adjoint     <A x, y> = <x, A^H y>, real and complex, in double and single precision
gradient    finite differences of A x and of A^H y against what backward gives
norm        norm_sq = s_1^2;     pinv = A^+;     svd: U diag(s) V^H = A with U, V orthonormal, where offered
batch       a sample alone and in a batch, forward, back and inverted
solvers     (A^H A + shift_i I) x = b_i by conjugate gradients and GMRES, a batch and each alone, against a direct solve

A sensor that is not linear is judged by its derivative at a state.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from unstir.certify.certificate import Finding, judged, registered
from unstir.operator.base import Operator, Sensor
from unstir.operator.cg import CGReport, inner
from unstir.operator.krylov import gmres

Outcome = tuple[str, bool]
_ITERATED = 1e-7  # relative; the residual of norm_sq is below 1e-5, and its error of the order of the square
_LARGEST = 1024  # extent of a matrix that is written out
_EXACT = 1e-10  # double precision, after a few hundred roundings
_SOLVED = 1e-8  # what a relative residual of 1e-12 leaves at a condition number of 1e3


def operators(parts: Mapping[str, Sensor] | None, quick: bool) -> Iterator[Finding]:
    """Every registered operator that makes an example of itself.

    Args:
        parts: by name; the registered ones when absent.
        quick: the same: these are quick.
    """
    known = registered("operators") if parts is None else parts
    for name, sensor in known.items():
        if not isinstance(sensor, Sensor):  # one that cannot be made without being told more
            continue
        operator = sensor if isinstance(sensor, Operator) else sensor.linearise(normal(1, sensor.shape_in, torch.float64, 9))
        for claim, check in CLAIMS.items():
            if (claim != "svd" or hasattr(operator, "svd")) and (claim in ANY_SIZE or _small(operator)):
                yield judged("operators", name, operator.describe(), claim, functools.partial(check, operator))


def _small(operator: Operator) -> bool:
    return max(math.prod(operator.shape_in), math.prod(operator.shape_out)) <= _LARGEST


def normal(batch: int, shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """Normal numbers (batch, *shape), the same at every call.

    Args:
        batch: how many.
        shape: of each.
        dtype: real or complex; drawn in double precision.
        seed: another one gives others.
    """
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(seed), dtype=wide).to(dtype)


def matrix_by_units(operator: Operator) -> Tensor:
    """The matrix (m, n) over flattened axes, real or complex, in double precision: A on every unit state.

    Args:
        operator: of a small shape.
    """
    n = math.prod(operator.shape_in)
    return operator(torch.eye(n, dtype=torch.float64).reshape(n, *operator.shape_in)).flatten(1).mT


def adjoint(operator: Operator) -> Outcome:
    """The dot test, for pairs of normal vectors.

    Args:
        operator: A.
    """
    worst = {torch.float64: 0.0, torch.float32: 0.0}
    for dtype in (torch.float64, torch.complex128, torch.float32, torch.complex64):
        x, y = normal(3, operator.shape_in, dtype, 1), normal(3, operator.shape_out, dtype, 2)
        forward, back = operator(x), operator.adjoint(y)
        if not forward.dtype == back.dtype == (dtype.to_complex() if operator.is_complex else dtype):
            return f"{dtype} became {forward.dtype} and {back.dtype}", False
        gap = (inner(forward, y.to(forward.dtype)) - inner(x.to(back.dtype), back)).abs()
        size = inner(forward, forward).real.sqrt() * inner(y, y).real.sqrt()
        precision = dtype.to_real()
        worst[precision] = max(worst[precision], float((gap / size).max()))
    double, single = worst.values()
    return f"{double:.1e}, {single:.1e} in single precision", double < _EXACT and single < 1e-5


def gradient(operator: Operator) -> Outcome:
    """Backward against finite differences.

    Args:
        operator: A.
    """
    x, y = normal(1, operator.shape_in, torch.float64, 3), normal(1, operator.shape_out, torch.float64, 4)
    y = y.to(torch.complex128) if operator.is_complex else y
    close: dict[str, Any] = {"eps": 1e-2, "rtol": 1e-7, "atol": 1e-9}  # differences of linear functions are exact at any distance
    checked = [
        torch.autograd.gradcheck(function, (z.requires_grad_(),), raise_exception=False, fast_mode=True, **close)
        for function, z in ((operator.forward, x), (operator.adjoint, y))
    ]
    return f"forward {checked[0]}, adjoint {checked[1]}", all(checked)


def norm(operator: Operator) -> Outcome:
    """``norm_sq`` against the largest singular value of the matrix.

    Args:
        operator: A.
    """
    exact = float(torch.linalg.matrix_norm(matrix_by_units(operator), 2)) ** 2
    found = operator.norm_sq()
    return f"{found:.7g} for {exact:.7g}", abs(found - exact) <= _ITERATED * exact


def pinv(operator: Operator) -> Outcome:
    """``pinv`` against the pseudo-inverse of the matrix, on measurements that no state explains.

    Args:
        operator: A.
    """
    matrix = matrix_by_units(operator)
    y = normal(2, operator.shape_out, matrix.dtype, 5)
    exact = y.flatten(1) @ torch.linalg.pinv(matrix).mT
    found = operator.pinv(y)
    off = float((found.flatten(1) - exact).abs().max() / exact.abs().max())
    iterated = torch.equal(found, Operator.pinv(operator, y))
    # iterations leave a residual of 1e-6, which the condition number, at most 1e3 in the examples, amplifies
    return f"{off:.1e}{', by iteration' if iterated else ''}", off < (1e-3 if iterated else _ITERATED)


def svd(operator: Any) -> Outcome:
    """Singular values and vectors, put together again.

    Args:
        operator: A, with a method ``svd``.
    """
    matrix = matrix_by_units(operator)
    u, s, vh = operator.svd()
    u = u[:, : len(s)]
    off = float(((u * s) @ vh[: len(s)] - matrix).abs().max() / matrix.abs().max())
    skew = max(float((q @ q.mH - torch.eye(len(q), dtype=q.dtype)).abs().max()) for q in (u.mH, vh))
    whole = tuple(vh.shape) == (matrix.shape[1],) * 2 and bool((s >= 0).all())
    return f"{off:.1e}, orthonormal to {skew:.1e}", max(off, skew) < _EXACT and whole


def batch(operator: Operator) -> Outcome:
    """A sample alone and with others.

    Args:
        operator: A.
    """
    worst = 0.0
    for dtype in (torch.float64, torch.float32):
        x, y = normal(5, operator.shape_in, dtype, 6), normal(5, operator.shape_out, dtype, 7)
        tried = [(operator.forward, x), (operator.adjoint, y), (operator.normal, x)]
        for function, z in [*tried, (operator.pinv, y)] if _small(operator) else tried:
            together, alone = function(z), function(z[2:3])
            off = float((together[2:3] - alone).abs().max() / alone.abs().max())
            worst = max(worst, off / torch.finfo(dtype).eps)
            if function(z[:0]).shape[0] or len(together) != 5:
                return "another number of samples", False
    # products with dense matrices are summed in an order that depends on the batch
    return "equal bits" if worst == 0 else f"{worst:.1f} roundings", worst <= 100


def solvers(operator: Operator) -> Outcome:
    """Conjugate gradients and GMRES on the shifted normal equations, each sample with its own shift and its own stop.

    Args:
        operator: A.
    """
    matrix = matrix_by_units(operator)
    n, size = matrix.shape[1], operator.norm_sq()
    b = normal(3, operator.shape_in, matrix.dtype, 8)
    shifts = torch.tensor([2.0, 0.3, 0.05], dtype=torch.float64) * size
    dense = matrix.mH @ matrix + shifts[:, None, None] * torch.eye(n, dtype=matrix.dtype)
    exact = torch.linalg.solve(dense, b.flatten(1)[..., None])[..., 0]
    worst, counts, alike = 0.0, [], True
    for solve in (_cg, _gmres):
        x, report = solve(operator, b, shifts)
        worst = max(worst, float((x.flatten(1) - exact).abs().max() / exact.abs().max()))
        left = b.flatten(1)[..., None] - dense @ x.flatten(1)[..., None]
        true = left.norm(dim=(1, 2)) / b.flatten(1).norm(dim=1)
        alike &= bool(((true - report.residual).abs() <= 1e-10).all())
        for i in range(3):
            alone, own = solve(operator, b[i : i + 1], shifts[i : i + 1])
            alike &= int(own.iterations) == int(report.iterations[i])
            worst = max(worst, float((x[i] - alone[0]).abs().max()))
        counts.append("/".join(map(str, report.iterations.tolist())))
    note = "" if alike else "; reports that are not those of each alone, or of the true residual"
    return f"{worst:.1e} after {counts[0]} and {counts[1]} iterations{note}", worst < _SOLVED and alike


def _cg(operator: Operator, b: Tensor, shifts: Tensor) -> tuple[Tensor, CGReport]:
    return operator.normal_solve(b, shift=shifts, iterations=200, tolerance=1e-12)


def _gmres(operator: Operator, b: Tensor, shifts: Tensor) -> tuple[Tensor, CGReport]:
    column = shifts.view(-1, *[1] * len(operator.shape_in))
    return gmres(lambda x: operator.normal(x) + column * x, b, iterations=2 * math.prod(operator.shape_in), tolerance=1e-12)


CLAIMS: dict[str, Callable[[Operator], Outcome]] = {
    "adjoint": adjoint,
    "gradient": gradient,
    "norm": norm,
    "pinv": pinv,
    "svd": svd,
    "batch": batch,
    "solvers": solvers,
}
"""Name of the claim, and the check of it; the one about svd where an operator offers it."""

ANY_SIZE = ("adjoint", "batch")
"""Claims that need no matrix; of an operator with a state or measurement of more than 1024 values, no others are checked."""
