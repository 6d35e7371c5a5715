"""Convolution with a known kernel, by Fourier transforms, with an exact adjoint at every boundary.

    y_i = sum_j k_j x_(i - j + c),   c = len(k)//2, the kernel's middle;       A = crop K pad,   A^H = pad^T K^H crop^T,   K circular

For a circular boundary A = F^H diag(h) F: norm max |h|^2, A^+ = F^H diag(1/h) F, and singular values |h|, with real singular vectors for
a real kernel: those of Hartley, V = Re F - Im F, and U = A V/|h|.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
from scipy.fft import next_fast_len
from torch import Tensor

from unstir.errors import UserError
from unstir.operator.base import Operator
from unstir.operator.fourier import Fourier, filtered
from unstir.operator.resample import Pad
from unstir.operator.svd import matrix_of

_NULL = 1e-12  # of the largest: a singular value below it is rounding of the transform


class Convolution(Operator):
    """Convolution along the last 1 to 3 axes, the same for all axes before.

    Args:
        kernel: k, (*taps), one axis for each convolved axis, real or complex.
        shape: shape of a state, without the batch.
        boundary: how states continue beyond their edges: ``"circular"``, ``"zero"``, or ``"reflect"`` (mirrored, the edge cell twice).

    Raises:
        UserError: a kernel of no or more than 3 axes, empty, not finite or all zeros, more axes than the state has, an unknown boundary,
            or a kernel reaching further than the state is wide, for ``reflect``.
    """

    def __init__(self, kernel: Tensor, shape: tuple[int, ...], *, boundary: str = "circular") -> None:
        kernel = torch.as_tensor(kernel).detach().cpu()
        if not 1 <= kernel.ndim <= min(3, len(shape)):
            raise UserError(f"states of shape {tuple(shape)} take a kernel of 1 to {min(3, len(shape))} axes, got {tuple(kernel.shape)}")
        if not bool(torch.isfinite(kernel).all()) or not bool(kernel.any()):
            raise UserError("the kernel of a convolution must be finite, and not zero everywhere")
        super().__init__(tuple(shape), tuple(shape), is_complex=kernel.is_complex())
        self.kernel, self.boundary = kernel, boundary
        cells = self.shape_in[-kernel.ndim :]
        places = [torch.arange(taps) for taps in kernel.shape]
        self._pad: Pad | None = None
        if boundary == "circular":
            extent = list(cells)
            places = [(place - len(place) // 2) % n for place, n in zip(places, cells, strict=True)]
        else:
            self._pad = Pad(self.shape_in, [(taps - 1 - taps // 2, taps // 2) for taps in kernel.shape], boundary=boundary)
            extent = [next_fast_len(n + taps - 1, real=True) for n, taps in zip(cells, kernel.shape, strict=True)]
        wide = torch.complex128 if self.is_complex else torch.float64
        spread = torch.zeros(extent, dtype=wide).index_put_(tuple(torch.meshgrid(*places, indexing="ij")), kernel.to(wide), accumulate=True)
        self.spectrum = torch.fft.fftn(spread)
        self._inside: tuple[Any, ...] = (..., *(slice(taps - 1, taps - 1 + n) for taps, n in zip(kernel.shape, cells, strict=True)))

    def _forward(self, x: Tensor) -> Tensor:
        if self._pad is None:
            return filtered(x, self.spectrum, real=not self.is_complex)
        return filtered(self._pad._forward(x), self.spectrum, real=not self.is_complex)[self._inside].contiguous()

    def _adjoint(self, y: Tensor) -> Tensor:
        if self._pad is None:
            return filtered(y, self.spectrum.conj(), real=not self.is_complex)
        wide = y.new_zeros((*y.shape[: -self.spectrum.ndim], *self.spectrum.shape))
        wide[self._inside] = y
        whole = filtered(wide, self.spectrum.conj(), real=not self.is_complex)
        extent = self._pad.shape_out[-self.spectrum.ndim :]
        cells: tuple[Any, ...] = (..., *(slice(0, n) for n in extent))
        return self._pad._adjoint(whole[cells])

    def norm_sq(self) -> float:
        """The largest |h|^2 of a circular convolution; found by iteration for other boundaries."""
        return super().norm_sq() if self._pad is not None else float(self.spectrum.abs().max()) ** 2

    def pinv(self, y: Tensor) -> Tensor:
        """A^+ y, (batch, *shape_in): y over h where h is above rounding, for a circular boundary; by conjugate gradients for others."""
        if self._pad is not None:
            return super().pinv(y)
        self._check(y, self.shape_out, "measurements")
        size = self.spectrum.abs()
        kept = size > size.max() * torch.finfo(y.dtype).eps * math.prod(self.shape_in)
        inverse = torch.where(kept, 1 / torch.where(kept, self.spectrum, 1.0), 0.0)
        return filtered(y, inverse, real=not self.is_complex)

    def svd(self) -> tuple[Tensor, Tensor, Tensor]:
        """U (n, n), s (n,) and V^H (n, n), in double precision: in closed form, unordered, for a circular boundary."""
        if self._pad is not None:
            return tuple(torch.linalg.svd(matrix_of(self)))  # type: ignore[return-value]
        n, cells = math.prod(self.shape_in), math.prod(self.spectrum.shape)
        waves = Fourier(self.shape_in, self.spectrum.ndim)
        v = waves._forward(torch.eye(n, dtype=torch.float64).reshape(n, *self.shape_in)).flatten(1).conj()
        if not self.is_complex:
            v = v.real + v.imag  # Re F - Im F, symmetric: row i is singular vector i
        size = self.spectrum.abs()
        s = torch.where(size > _NULL * size.max(), size, 0.0).flatten().repeat(n // cells)
        moved = self._forward(v.reshape(n, *self.shape_in)).flatten(1)
        u = torch.where((s > 0)[:, None], moved / torch.where(s > 0, s, 1.0)[:, None], v)
        return u.mT, s, v.conj()

    def describe(self) -> str:
        """Taps and boundary in a few words."""
        return f"{type(self).__name__} {self.shape_in}, {' x '.join(map(str, self.kernel.shape))} taps, {self.boundary}"

    @classmethod
    def example(cls) -> Convolution:
        """A kernel of 3 x 2 taps without symmetry, circular."""
        return cls(torch.tensor([[0.1, 0.4], [1.0, -0.3], [0.2, 0.5]], dtype=torch.float64), (2, 4, 5))


def gaussian_kernel(sigmas: Sequence[float]) -> Tensor:
    """A product of Gaussians of sum 1, cut at three standard deviations.

    Args:
        sigmas: standard deviation along each axis, in cells; 0 for a single tap.

    Returns:
        (*taps), an odd number along each axis, float64.

    Raises:
        UserError: no standard deviation, or one that is negative or not finite.
    """
    if not sigmas or not all(0 <= sigma < math.inf for sigma in sigmas):
        raise UserError(f"a Gaussian needs standard deviations that are finite and at least 0, got {tuple(sigmas)}")
    parts = []
    for sigma in sigmas:
        place = torch.arange(-math.ceil(3 * sigma), math.ceil(3 * sigma) + 1, dtype=torch.float64)
        part = torch.exp(-0.5 * (place / (sigma or 1.0)) ** 2)
        parts.append(part / part.sum())
    return functools.reduce(lambda made, part: made[..., None] * part, parts)


class GaussianBlur(Convolution):
    """A Gaussian blur along the last axes.

    Args:
        shape: shape of a state, without the batch.
        sigmas: standard deviation along each of the last 1 to 3 axes, in cells.
        boundary: ``"reflect"``, ``"zero"`` or ``"circular"``.

    Raises:
        UserError: a negative standard deviation, or what :class:`Convolution` refuses.
    """

    def __init__(self, shape: tuple[int, ...], sigmas: Sequence[float], *, boundary: str = "reflect") -> None:
        super().__init__(gaussian_kernel(sigmas), shape, boundary=boundary)

    @classmethod
    def example(cls) -> GaussianBlur:
        """Half a cell along one axis and 0.8 along the other, reflected."""
        return cls((2, 4, 5), (0.5, 0.8))
