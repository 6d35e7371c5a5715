"""The Fourier transform as an operator, whole or at some frequencies, and products with a spectrum.

    y = M F x,     F orthonormal over the last axes (F^H F = I),  M of zeros and ones:      A^+ = A^H,  singular values 0 and 1

Several sensors that weigh the state by c_i before the transform are ``Stack([Fourier(shape, mask=m) @ Diagonal(c_i), ...])``; finer
frequencies than the state has cells, ``Fourier(padded) @ Pad(shape, widths)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.operator.base import Operator


def _each(transform: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """A transform of every sample. On a CPU one by one, from a copy: libraries round differently by batch size and memory alignment."""
    if not len(x):  # which libraries refuse
        return transform(x.new_zeros(1, *x.shape[1:]))[:0]
    if x.device.type != "cpu":
        return transform(x)
    return torch.stack([transform(one.clone(memory_format=torch.contiguous_format)) for one in x])


def filtered(x: Tensor, spectrum: Tensor, *, real: bool) -> Tensor:
    """F^-1 (spectrum F x) over the last axes.

    Args:
        x: (batch, ..., *cells), continued by zeros to the extent of the spectrum.
        spectrum: over all frequencies, one axis for each of the last ones of ``x``.
        real: is this the spectrum of a real kernel? A real ``x`` then stays real.

    Returns:
        (batch, ..., *spectrum.shape), complex unless ``x`` and the kernel are real.
    """
    extent, axes = tuple(spectrum.shape), tuple(range(-spectrum.ndim, 0))
    if real and not x.is_complex():
        half = spectrum[..., : extent[-1] // 2 + 1].to(x.device, x.dtype.to_complex())
        return _each(lambda one: torch.fft.irfftn(torch.fft.rfftn(one, extent, axes) * half, extent, axes), x)
    whole = spectrum.to(x.device, x.dtype if x.is_complex() else x.dtype.to_complex())
    return _each(lambda one: torch.fft.ifftn(torch.fft.fftn(one, extent, axes) * whole, extent, axes), x)


class Fourier(Operator):
    """The orthonormal Fourier transform over the last axes; frequencies that are not measured are zero in y. States count as complex.

    Args:
        shape: shape of a state, without the batch.
        axes: how many of the last axes are transformed; all when absent.
        mask: True where measured, over the transformed axes or all of ``shape``; everywhere when absent.
        centred: is the origin in the middle of the axes, of states and of frequencies, instead of at their beginning?

    Raises:
        UserError: a number of axes that the shape does not have, a mask of another shape, of other values than 0 and 1, or empty.
    """

    def __init__(self, shape: tuple[int, ...], axes: int | None = None, *, mask: Tensor | None = None, centred: bool = False) -> None:
        super().__init__(tuple(shape), tuple(shape), is_complex=True)
        count = len(shape) if axes is None else axes
        if not 1 <= count <= len(shape):
            raise UserError(f"states of shape {tuple(shape)} have 1 to {len(shape)} axes to transform, got {axes}")
        self.axes, self.centred = tuple(range(-count, 0)), centred
        if mask is not None:
            mask = torch.as_tensor(mask)
            if tuple(mask.shape) not in (self.shape_in, self.shape_in[-count:]):
                raise UserError(f"a mask of frequencies has shape {self.shape_in[-count:]} or {self.shape_in}, got {tuple(mask.shape)}")
            if not bool(((mask == 0) | (mask == 1)).all()) or not bool(mask.any()):
                raise UserError("a mask of frequencies holds True and False only, and at least one True")
            mask = mask.bool()
        self.mask = mask

    def _masked(self, y: Tensor) -> Tensor:
        return y if self.mask is None else y * self.mask.to(y.device)

    def _forward(self, x: Tensor) -> Tensor:
        x = torch.fft.ifftshift(x, self.axes) if self.centred else x
        y = _each(lambda one: torch.fft.fftn(one, dim=self.axes, norm="ortho"), x)
        return self._masked(torch.fft.fftshift(y, self.axes) if self.centred else y)

    def _adjoint(self, y: Tensor) -> Tensor:
        y = self._masked(y)
        y = torch.fft.ifftshift(y, self.axes) if self.centred else y
        x = _each(lambda one: torch.fft.ifftn(one, dim=self.axes, norm="ortho"), y)
        return torch.fft.fftshift(x, self.axes) if self.centred else x

    def norm_sq(self) -> float:
        """1."""
        return 1.0

    def pinv(self, y: Tensor) -> Tensor:
        """A^H y: frequencies that are not measured become zero; (batch, *shape_in), complex."""
        return self.adjoint(y)

    def svd(self) -> tuple[Tensor, Tensor, Tensor]:
        """U = I (n, n), s, the mask (n,), and V^H = F (n, n), complex128 and float64."""
        n = math.prod(self.shape_in)
        waves = Fourier(self.shape_in, len(self.axes), centred=self.centred)
        vh = waves._forward(torch.eye(n, dtype=torch.float64).reshape(n, *self.shape_in)).flatten(1).mT
        s = torch.ones(n, dtype=torch.float64) if self.mask is None else self.mask.expand(self.shape_in).flatten().to(torch.float64)
        return torch.eye(n, dtype=vh.dtype), s, vh

    def describe(self) -> str:
        """Axes and share of frequencies in a few words."""
        share = "" if self.mask is None else f", {float(self.mask.float().mean()):.0%} of frequencies"
        return f"Fourier {self.shape_in} over {len(self.axes)} axes{share}"

    @classmethod
    def example(cls) -> Fourier:
        """Two thirds of the frequencies of 4 x 5 cells, the origin in the middle."""
        return cls((2, 4, 5), 2, mask=torch.arange(20).reshape(4, 5) % 3 > 0, centred=True)
