"""Fewer cells or more: padding, block averages, and every f-th value of a blurred state.

What each does, and what is known of it in closed form:

    Pad          y = x, continued beyond its edges           P^T P = diag(copies of a cell)            P^+ = diag(copies)^-1 P^T
    AveragePool  y = mean over blocks of f cells             A A^T = I/f                               A^+ = f A^T, each mean repeated
    Downsample   y = every f-th value of k * x               circular: A A^T is a convolution too      A^+ = A^T (A A^T)^+
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.operator.base import Operator
from unstir.operator.fourier import filtered

BOUNDARIES = ("circular", "zero", "reflect")


class Pad(Operator):
    """States continued beyond the edges of their last axes: by zeros, by their mirror image (the edge cell twice), or periodically.

    Args:
        shape: shape of a state, without the batch.
        widths: (before, after) of each padded axis, the last ones of ``shape``, in cells.
        boundary: ``"zero"``, ``"reflect"`` or ``"circular"``.

    Raises:
        UserError: an unknown boundary, more widths than axes, negative widths, or an image wider than the state.
    """

    def __init__(self, shape: tuple[int, ...], widths: Sequence[tuple[int, int]], *, boundary: str = "zero") -> None:
        self.widths, self.boundary, first = tuple((int(a), int(b)) for a, b in widths), boundary, len(shape) - len(widths)
        if boundary not in BOUNDARIES:
            raise UserError(f"a boundary is one of {', '.join(BOUNDARIES)}, got {boundary!r}")
        if first < 0 or min((width for pair in self.widths for width in pair), default=0) < 0:
            raise UserError(f"states of shape {tuple(shape)} take at most {len(shape)} pairs of widths, none negative, got {self.widths}")
        for size, pair in zip(shape[first:], self.widths, strict=True):
            if boundary != "zero" and max(pair) > size:
                raise UserError(f"an axis of {size} cells cannot be continued by {max(pair)} with the boundary {boundary!r}")
        padded = tuple(size + sum(pair) for size, pair in zip(shape[first:], self.widths, strict=True))
        super().__init__(tuple(shape), (*shape[:first], *padded))
        self._first = first + 1

    def _forward(self, x: Tensor) -> Tensor:
        for axis, (before, after) in enumerate(self.widths, self._first):
            x = torch.cat([*self._edges(x, axis, before, after)], axis)
        return x if self.widths else x.clone()

    def _edges(self, x: Tensor, axis: int, before: int, after: int) -> tuple[Tensor, Tensor, Tensor]:
        """What stands before x, x, and what stands after it."""
        size = x.shape[axis]
        if self.boundary == "reflect":
            return x.narrow(axis, 0, before).flip(axis), x, x.narrow(axis, size - after, after).flip(axis)
        if self.boundary == "circular":
            return x.narrow(axis, size - before, before), x, x.narrow(axis, 0, after)
        shape = list(x.shape)
        shape[axis] = before
        left = x.new_zeros(shape)
        shape[axis] = after
        return left, x, x.new_zeros(shape)

    def _adjoint(self, y: Tensor) -> Tensor:
        for axis, (before, after) in reversed(list(enumerate(self.widths, self._first))):
            size = y.shape[axis] - before - after
            left, x, right = (part for part in y.split([before, size, after], axis))
            y = x.clone()
            if self.boundary == "reflect":
                y.narrow(axis, 0, before).add_(left.flip(axis))
                y.narrow(axis, size - after, after).add_(right.flip(axis))
            elif self.boundary == "circular":
                y.narrow(axis, size - before, before).add_(left)
                y.narrow(axis, 0, after).add_(right)
        return y if self.widths else y.clone()

    def copies(self) -> Tensor:
        """How often each cell stands in a measurement, (*shape_in), float64."""
        return self._adjoint(torch.ones(1, *self.shape_out, dtype=torch.float64))[0]

    def norm_sq(self) -> float:
        """The most copies of a cell."""
        return float(self.copies().max())

    def pinv(self, y: Tensor) -> Tensor:
        """The mean of a cell's copies, (batch, *shape_in)."""
        return self.adjoint(y) / self.copies().to(y.device, y.real.dtype)

    def svd(self) -> tuple[Tensor, Tensor, Tensor]:
        """U (m, n), s (n,), the root of the copies, and V^H = I (n, n), float64."""
        n, s = math.prod(self.shape_in), self.copies().sqrt().flatten()
        unit = torch.eye(n, dtype=torch.float64)
        return self._forward(unit.reshape(n, *self.shape_in)).flatten(1).mT / s, s, unit

    @classmethod
    def example(cls) -> Pad:
        """A mirror image around 4 x 5 cells."""
        return cls((2, 4, 5), [(1, 2), (0, 3)], boundary="reflect")


def coarse_shape(shape: tuple[int, ...], factors: Sequence[int]) -> tuple[int, ...]:
    """The shape of a state coarsened along its last axes.

    Args:
        shape: of a state, without the batch.
        factors: one an axis, the last ones of ``shape``.

    Returns:
        The coarser shape.

    Raises:
        UserError: a factor below 1 or that does not divide its axis, or no factor, or more factors than axes.
    """
    first = len(shape) - len(factors)
    if not factors or first < 0 or min(factors) < 1 or any(n % f for n, f in zip(shape[first:], factors, strict=True)):
        raise UserError(f"the last axes of {tuple(shape)} cannot be divided by {tuple(factors)}: give one divisor an axis")
    return (*shape[:first], *(n // f for n, f in zip(shape[first:], factors, strict=True)))


class AveragePool(Operator):
    """Means over blocks of cells along the last axes.

    Args:
        shape: shape of a state, without the batch.
        factors: cells of a block along each of the last axes; each divides its axis.

    Raises:
        UserError: a factor that does not divide its axis.
    """

    def __init__(self, shape: tuple[int, ...], factors: Sequence[int]) -> None:
        self.factors = tuple(int(f) for f in factors)
        super().__init__(tuple(shape), coarse_shape(tuple(shape), self.factors))
        self.cells = math.prod(self.factors)
        self._first = len(shape) - len(self.factors)

    def _forward(self, x: Tensor) -> Tensor:
        for axis, factor in enumerate(self.factors, self._first + 1):
            parts = x.unflatten(axis, (-1, factor)).unbind(axis + 1)
            x = sum(parts[1:], parts[0].clone())  # value by value: the same bits in every batch
        return x.contiguous() / self.cells

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._repeated(y) / self.cells

    def _repeated(self, y: Tensor) -> Tensor:
        for axis, factor in enumerate(self.factors, self._first + 1):
            y = y.repeat_interleave(factor, axis)
        return y

    def norm_sq(self) -> float:
        """1/f."""
        return 1 / self.cells

    def pinv(self, y: Tensor) -> Tensor:
        """Each mean repeated over its block, (batch, *shape_in)."""
        return self.adjoint(y) * self.cells

    def svd(self) -> tuple[Tensor, Tensor, Tensor]:
        """U = I (m, m), s = 1/sqrt(f) (m,), and V^H (n, n): the blocks, then what averages do not see (cosines within each block)."""
        m, n = math.prod(self.shape_out), math.prod(self.shape_in)
        waves = torch.ones(1, 1, dtype=torch.float64)
        for factor in self.factors:
            waves = torch.kron(waves, _cosines(factor))
        cells = torch.arange(n).reshape(self.shape_in)[None]
        for axis, factor in enumerate(self.factors, self._first + 1):
            cells = cells.unflatten(axis, (-1, factor)).movedim(axis + 1, -1)  # (1, *shape_out, *factors) after the last axis
        cells = cells.reshape(m, self.cells)
        vh = torch.zeros(self.cells, m, n, dtype=torch.float64)
        vh.scatter_(2, cells.expand(self.cells, m, self.cells), waves[:, None].expand(self.cells, m, self.cells))
        unit = torch.eye(m, dtype=torch.float64)
        return unit, torch.full((m,), self.cells**-0.5, dtype=torch.float64), vh.reshape(n, n)

    @classmethod
    def example(cls) -> AveragePool:
        """Blocks of 2 x 3 cells."""
        return cls((2, 4, 6), (2, 3))


def _cosines(n: int) -> Tensor:
    """Orthonormal cosines (n, n), the constant one first."""
    k, i = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(n, dtype=torch.float64)
    rows = torch.cos(math.pi * k * (i + 0.5) / n)
    return rows / rows.norm(dim=1, keepdim=True)


class Downsample(Operator):
    """Every f-th value along the last axes of a state blurred against aliasing: y = (k * x) at the cells (f-1)//2, (f-1)//2 + f, ...

    Args:
        shape: shape of a state, without the batch.
        factors: f of each of the last axes; each divides its axis.
        kernel: k, one axis a factor; a Gaussian of standard deviation (f-1)/2 cells when absent.
        boundary: of the blur, ``"reflect"``, ``"zero"`` or ``"circular"``; with the last, norm and pseudo-inverse have closed forms.

    Raises:
        UserError: a factor that does not divide its axis, a kernel or boundary that does not fit.
    """

    def __init__(self, shape: tuple[int, ...], factors: Sequence[int], *, kernel: Tensor | None = None, boundary: str = "reflect") -> None:
        from unstir.operator.convolution import Convolution, gaussian_kernel

        self.factors = tuple(int(f) for f in factors)
        coarse = coarse_shape(tuple(shape), self.factors)
        if kernel is None:
            kernel = gaussian_kernel([(f - 1) / 2 for f in self.factors])
        if kernel.ndim != len(self.factors):
            raise UserError(f"{len(self.factors)} factors take a kernel of as many axes, got one of shape {tuple(kernel.shape)}")
        self.blur = Convolution(kernel, tuple(shape), boundary=boundary)
        super().__init__(tuple(shape), coarse, is_complex=self.blur.is_complex)
        self._cells: tuple[Any, ...] = (..., *(slice((f - 1) // 2, None, f) for f in self.factors))

    def _forward(self, x: Tensor) -> Tensor:
        return self.blur._forward(x)[self._cells].contiguous()

    def _adjoint(self, y: Tensor) -> Tensor:
        fine = y.new_zeros((y.shape[0], *self.shape_in))
        fine[self._cells] = y
        return self.blur._adjoint(fine)

    def _spectrum(self) -> Tensor | None:
        """The eigenvalues of A A^H over the coarse frequencies: the mean of |k|^2 over the frequencies that alias; circular only."""
        if self.blur.boundary != "circular":
            return None
        power = self.blur.spectrum.abs().square()
        for axis, factor in enumerate(self.factors):
            power = power.unflatten(axis, (factor, -1)).mean(axis)
        return power

    def norm_sq(self) -> float:
        """The largest eigenvalue of A A^H; closed form for a circular blur."""
        power = self._spectrum()
        return super().norm_sq() if power is None else float(power.max())

    def pinv(self, y: Tensor) -> Tensor:
        """A^H (A A^H)^+ y, (batch, *shape_in), by Fourier transforms for a circular blur and by conjugate gradients for others."""
        power = self._spectrum()
        if power is None:
            return super().pinv(y)
        # eigenvalues are squares of singular values, and below (eps n s)^2 those are rounding
        limit = float(power.max()) * (torch.finfo(y.dtype).eps * math.prod(self.shape_in)) ** 2
        power = torch.where(power > limit, 1 / power.clamp_min(limit), 0.0)
        self._check(y, self.shape_out, "measurements")
        return self.adjoint(filtered(y, power, real=not self.is_complex))

    @classmethod
    def example(cls) -> Downsample:
        """A circular blur, every second value of every third row."""
        return cls((2, 6, 4), (3, 2), boundary="circular")
