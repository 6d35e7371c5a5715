"""Parallel-beam CT of a volume, slice by slice: y = c A_1 u.

A_1 holds the lengths (in pixels) of rays in pixels by Joseph's method, and ``c = attenuation * pixel_mm`` makes line integrals of
attenuation, dimensionless: ``mu = 2 mu_water u`` for the state unit ``u = (HU + 1000) / 2000``, so air is 0. The adjoint is exact.

Below 60 million entries A_1 is a sparse matrix, built once a geometry; above, the rows of one view at a time are built as they are needed.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.operator.base import Operator
from unstir.operator.sparse import SparseMatrix
from unstir_medical.ct.fbp import Window, fbp
from unstir_medical.ct.geometry import ParallelGeometry, equal_angles
from unstir_medical.ct.joseph import expected_entries, joseph_matrix, view_matrix

MU_WATER = 0.02  # 1/mm, at 60 to 70 keV
ATTENUATION = 2 * MU_WATER  # 1/mm for each state unit
MATRIX_LIMIT = 60_000_000  # entries; 8 bytes each, twice (the transpose is kept too)

Precision = Literal["float32", "float64"]


class ViewByView(Operator):
    """The projector of one slice without a stored matrix: the rows of each view are built, used and forgotten.

    Args:
        geometry: in pixels.
        precision: of the matrix entries.
    """

    def __init__(self, geometry: ParallelGeometry, precision: Precision = "float32") -> None:
        super().__init__((geometry.rows, geometry.columns), (geometry.views, geometry.detectors))
        self.geometry, self.precision = geometry, precision

    def _forward(self, x: Tensor) -> Tensor:
        columns = np.ascontiguousarray(x.detach().cpu().numpy().reshape(x.shape[0], -1).T)
        out = np.empty((x.shape[0], *self.shape_out), dtype=columns.dtype)
        for view in range(self.geometry.views):
            out[:, view] = (view_matrix(self.geometry, view, np.dtype(self.precision)) @ columns).T
        return torch.from_numpy(out).to(x.device)

    def _adjoint(self, y: Tensor) -> Tensor:
        rays = y.detach().cpu().numpy()
        out = np.zeros((self.geometry.pixels, y.shape[0]), dtype=rays.dtype)
        for view in range(self.geometry.views):
            out += view_matrix(self.geometry, view, np.dtype(self.precision)).T @ np.ascontiguousarray(rays[:, view].T)
        return torch.from_numpy(np.ascontiguousarray(out.T)).reshape(y.shape[0], *self.shape_in).to(y.device)

    def describe(self) -> str:
        """The geometry."""
        return f"{self.geometry.describe()}, rows built view by view"


@functools.lru_cache(maxsize=8)
def _stored(geometry: ParallelGeometry, precision: Precision, cache: Path | None) -> SparseMatrix:
    matrix = joseph_matrix(geometry, precision, cache)
    return SparseMatrix(matrix, (geometry.rows, geometry.columns), (geometry.views, geometry.detectors))


class ParallelBeamCT(Operator):
    """Line integrals of a stack of slices, (batch, slices, rows, columns) to (batch, slices, views, detectors).

    The matrix is built at the first use and shared by every operator of the same geometry; a pickled operator carries none.

    Args:
        geometry: angles, detectors and pixel size of every slice.
        slices: number of slices.
        attenuation: 1/mm of one unit of the image; 0.04 for the state unit.
        ray_weights: factor on every ray, broadcastable to (slices, views, detectors): 0 for a ray that is not measured,
            ``sqrt(w)`` for weighted least squares. The measurement must carry the same factor.
        precision: of the matrix entries; states of either precision are accepted.
        matrix_limit: entries above which no matrix is stored.
        cache: folder that keeps large matrices between processes.

    Raises:
        UserError: if ``slices`` is below 1, ``attenuation`` is not positive or ``ray_weights`` does not fit or is negative.
    """

    def __init__(
        self,
        geometry: ParallelGeometry,
        slices: int = 1,
        *,
        attenuation: float = ATTENUATION,
        ray_weights: Tensor | None = None,
        precision: Precision = "float32",
        matrix_limit: int = MATRIX_LIMIT,
        cache: Path | None = None,
    ) -> None:
        if slices < 1:
            raise UserError(f"a CT volume has at least 1 slice, got {slices}")
        if not (np.isfinite(attenuation) and attenuation > 0):
            raise UserError(f"attenuation must be positive (1/mm for each unit of the image), got {attenuation}")
        super().__init__((slices, geometry.rows, geometry.columns), (slices, geometry.views, geometry.detectors))
        self.geometry, self.slices, self.attenuation = geometry, slices, float(attenuation)
        self.precision, self.matrix_limit, self.cache = precision, matrix_limit, cache
        self.ray_weights = ray_weights
        if ray_weights is not None:
            try:
                fits = torch.broadcast_shapes(ray_weights.shape, self.shape_out) == self.shape_out
            except RuntimeError:
                fits = False
            if not fits or not bool((ray_weights >= 0).all()) or not bool(torch.isfinite(ray_weights).all()):
                raise UserError(f"ray weights must be finite, not negative and fit {self.shape_out}, got shape {tuple(ray_weights.shape)}")

    @property
    def pixel_unit(self) -> float:
        """The factor c of ``y = c A_1 u``: attenuation of one pixel of u = 1."""
        return self.attenuation * self.geometry.pixel_mm

    @functools.cached_property
    def projector(self) -> Operator:
        """A_1 of one slice, (batch, rows, columns) to (batch, views, detectors), lengths in pixels."""
        geometry = self.geometry.in_pixels()
        if expected_entries(geometry) > self.matrix_limit:
            return ViewByView(geometry, self.precision)
        return _stored(geometry, self.precision, self.cache)

    def _scaled(self, y: Tensor, power: int = 1) -> Tensor:
        """Multiply rays by c^power, in place, and by the ray weights to the same power."""
        if self.pixel_unit != 1.0:
            y *= self.pixel_unit**power
        if self.ray_weights is not None:
            y *= self.ray_weights.to(y.device, y.real.dtype) ** power
        return y

    def _forward(self, x: Tensor) -> Tensor:
        y = self.projector.forward(x.reshape(-1, *self.shape_in[1:]))
        return self._scaled(y.reshape(x.shape[0], *self.shape_out))

    def _adjoint(self, y: Tensor) -> Tensor:
        x = self.projector.adjoint((y if self.ray_weights is None else self._scaled(y.clone())).reshape(-1, *self.shape_out[1:]))
        if self.ray_weights is None and self.pixel_unit != 1.0:
            x *= self.pixel_unit
        return x.reshape(y.shape[0], *self.shape_in)

    def normal(self, x: Tensor) -> Tensor:
        """A^T A x, (batch, slices, rows, columns)."""
        if self.ray_weights is not None or tuple(x.shape[1:]) != self.shape_in or (torch.is_grad_enabled() and x.requires_grad):
            return super().normal(x)
        out = self.projector.normal(x.reshape(-1, *self.shape_in[1:])).reshape(x.shape)
        return out if self.pixel_unit == 1.0 else out.mul_(self.pixel_unit**2)

    def norm_sq(self) -> float:
        """The largest eigenvalue of A^T A; that of one slice unless rays carry weights."""
        if self.ray_weights is not None:
            return super().norm_sq()
        return self.pixel_unit**2 * self.projector.norm_sq()

    def pinv(self, y: Tensor) -> Tensor:
        """Filtered back-projection with a Hann window, not clipped; approximate, exact in the limit of many views."""
        return self.fbp(y)

    def fbp(self, y: Tensor, window: Window = "hann", *, clip: tuple[float, float] | None = None) -> Tensor:
        """Filtered back-projection.

        Args:
            y: (batch, slices, views, detectors), line integrals times the ray weights; rays of weight 0 count as 0.
            window: "ramp" (none), "hann" or "hamming".
            clip: bounds put on the image.

        Returns:
            (batch, slices, rows, columns) in the unit of the image.
        """
        if self.ray_weights is not None:
            weights = self.ray_weights.to(y.device, y.dtype)
            y = torch.where(weights > 0, y / torch.where(weights > 0, weights, 1.0), 0.0)
        image = fbp(y.detach().cpu().numpy() / self.attenuation, self.geometry, window, clip=clip)
        return torch.from_numpy(image).to(y.device, y.dtype)

    def weighted(self, weights: Tensor) -> ParallelBeamCT:
        """The operator ``sqrt(w) A`` of weighted least squares; multiply the measurement by ``sqrt(w)`` too.

        Args:
            weights: w, not negative, broadcastable to (slices, views, detectors); 0 leaves a ray out.
        """
        factor = weights.sqrt() if self.ray_weights is None else self.ray_weights * weights.sqrt()
        return self._with(ray_weights=factor)

    def in_pixels(self) -> ParallelBeamCT:
        """A / c: the same rays, the pixel as the unit of length and of attenuation; divide the measurement by :attr:`pixel_unit` too."""
        return self._with(geometry=self.geometry.in_pixels(), attenuation=1.0)

    def over(self, slices: int) -> ParallelBeamCT:
        """The same scanner over another number of slices, without ray weights."""
        return self._with(slices=slices, ray_weights=None)

    def _with(self, **changes: Any) -> ParallelBeamCT:
        same: dict[str, Any] = {
            "geometry": self.geometry,
            "slices": self.slices,
            "attenuation": self.attenuation,
            "ray_weights": self.ray_weights,
        }
        return ParallelBeamCT(**(same | changes), precision=self.precision, matrix_limit=self.matrix_limit, cache=self.cache)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "projector"}

    def describe(self) -> str:
        """Slices, geometry and unit in a line."""
        extra = "" if self.ray_weights is None else ", weighted rays"
        return f"CT of {self.slices} slices, {self.geometry.describe()}, {self.attenuation:.4g} /mm a unit{extra}"


def parallel_beam(
    views: int = 20, size: int = 128, slices: int = 1, *, span: float = 180.0, pixel_mm: float = 1.0, attenuation: float = ATTENUATION
) -> ParallelBeamCT:
    """Parallel-beam CT of square slices at equal angles, the whole slice in view.

    Args:
        views: number of views over the arc, its end left out.
        size: side of a slice in pixels.
        slices: number of slices.
        span: arc in degrees.
        pixel_mm: side of a pixel in mm.
        attenuation: 1/mm of one unit of the image.
    """
    return ParallelBeamCT(ParallelGeometry(size, size, equal_angles(views, span), pixel_mm), slices, attenuation=attenuation)


def simulate(volume: Tensor | np.ndarray, operator: ParallelBeamCT, fine: int = 1) -> Tensor:
    """The measurement of a volume that may be finer than the grid of the reconstruction, so that the inverse is not tried on its own model.

    Every pixel and every detector is cut into ``fine`` parts a side; the line integrals of a detector's parts are averaged.

    Args:
        volume: (slices, rows * fine, columns * fine) in the image unit, or (slices, rows, columns), whose pixels are then replicated.
        operator: of the reconstruction, (slices, rows, columns).
        fine: at least 1; 1 simulates on the grid of the reconstruction (the "inverse crime").

    Returns:
        Noiseless line integrals, (slices, views, detectors), float32.

    Raises:
        UserError: if the shape of the volume is neither of the two.
    """
    x = torch.as_tensor(volume, dtype=torch.float32)
    slices, rows, columns = operator.shape_in
    if fine < 1:
        raise UserError(f"the simulation grid must be at least as fine as the reconstruction's, got fine={fine}")
    if tuple(x.shape) == (slices, rows, columns) and fine > 1:
        x = x.repeat_interleave(fine, 1).repeat_interleave(fine, 2)
    if tuple(x.shape) != (slices, rows * fine, columns * fine):
        wanted = f"({slices}, {rows * fine}, {columns * fine})"
        raise UserError(f"a volume simulated {fine} times finer than {rows} x {columns} has shape {wanted}, got {tuple(x.shape)}")
    if fine == 1:
        return operator.over(slices)(x[None])[0]
    geometry = operator.geometry.finer(fine).in_pixels()
    y = ViewByView(geometry).forward(x) * (operator.attenuation * operator.geometry.pixel_mm / fine)
    return y.unflatten(-1, (operator.geometry.detectors, fine)).mean(-1)
