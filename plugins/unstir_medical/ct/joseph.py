"""Line integrals through a pixel image by Joseph's method, as a sparse matrix.

A ray steps over rows when it is nearer to the y axis (``|dx| <= |dy|``), else over columns; at each step the image is interpolated linearly
between two pixels and weighted by the length of the step, ``1 / |dy|`` or ``1 / |dx|``.

Reference: Joseph, An improved algorithm for reprojecting rays through pixel images, IEEE TMI 1982.
"""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from unstir_medical.ct.geometry import ParallelGeometry


def joseph_rows(origins: NDArray, directions: NDArray, rows: int, columns: int) -> sp.csr_array:
    """The rows of the projector that belong to a bundle of rays.

    Args:
        origins: a point on each ray, (rays, 2) as (x, y) in pixels from the centre of the grid.
        directions: unit directions, (rays, 2).
        rows, columns: pixels of the slice along y and x.

    Returns:
        Matrix (rays, rows * columns) in float64, lengths in pixels, columns in row-major order of the slice.
    """
    steep = np.abs(directions[:, 0]) <= np.abs(directions[:, 1])
    if steep.all():
        return _bundle(origins, directions, rows, columns, over_rows=True)
    if not steep.any():
        return _bundle(origins, directions, rows, columns, over_rows=False)
    parts = [_bundle(origins[pick], directions[pick], rows, columns, over_rows=over) for pick, over in ((steep, True), (~steep, False))]
    order = np.argsort(np.concatenate([np.flatnonzero(steep), np.flatnonzero(~steep)]))
    return sp.vstack(parts, format="csr")[order]


def _bundle(origins: NDArray, directions: NDArray, rows: int, columns: int, *, over_rows: bool) -> sp.csr_array:
    """Rays that all step over rows (or all over columns); the rows of the matrix come out in order, no sorting of rays."""
    along, across = (1, 0) if over_rows else (0, 1)
    steps, width = (rows, columns) if over_rows else (columns, rows)
    line = np.arange(steps) - (steps - 1) / 2
    slope = (directions[:, across] / directions[:, along])[:, None]
    position = origins[:, across, None] + (line - origins[:, along, None]) * slope + (width - 1) / 2
    lower = np.floor(position)
    upper_part = position - lower
    length = 1 / np.abs(directions[:, along])[:, None, None]
    weight = np.stack([1 - upper_part, upper_part], axis=-1)
    pixel = lower.astype(np.int64)[..., None] + np.array([0, 1])
    kept = (pixel >= 0) & (pixel < width) & (weight > 0)
    step = np.arange(steps)[None, :, None]
    flat = step * columns + pixel if over_rows else pixel * columns + step
    indptr = np.concatenate([[0], np.cumsum(kept.sum(axis=(1, 2)))])
    parts = (weight * length)[kept], flat[kept].astype(np.int32), indptr.astype(np.int32)
    matrix = sp.csr_array(parts, shape=(len(origins), rows * columns))
    matrix.sort_indices()
    return matrix


def view_matrix(geometry: ParallelGeometry, view: int, dtype: np.dtype | type = np.float32) -> sp.csr_array:
    """The rows of one view, (detectors, pixels), lengths in pixels; ``geometry`` must be in pixels."""
    return joseph_rows(*geometry.rays(view), geometry.rows, geometry.columns).astype(dtype)


def expected_entries(geometry: ParallelGeometry) -> int:
    """An upper estimate of the number of stored entries, without building anything."""
    tilt = np.maximum(np.abs(np.cos(geometry.angles)), np.abs(np.sin(geometry.angles)))
    inside = geometry.pixels * tilt * geometry.pixel_mm / geometry.detector_mm
    return int(2 * np.minimum(inside, geometry.detectors * max(geometry.rows, geometry.columns)).sum())


@functools.lru_cache(maxsize=8)
def joseph_matrix(geometry: ParallelGeometry, dtype: str = "float32", cache: Path | None = None) -> sp.csr_array:
    """The whole projector, (views * detectors, rows * columns), lengths in pixels; built once a geometry and kept in memory.

    Args:
        geometry: in pixels (:meth:`ParallelGeometry.in_pixels`).
        dtype: "float32" or "float64"; the geometry is computed in float64 either way.
        cache: folder that keeps the matrix between processes; None keeps it in memory alone.
    """
    stored = None if cache is None else cache / f"joseph-{_key(geometry)}-{dtype}.npz"
    if stored is not None and stored.exists():
        return sp.csr_array(sp.load_npz(stored))
    matrix = sp.vstack([view_matrix(geometry, view, np.dtype(dtype)) for view in range(geometry.views)], format="csr")
    if stored is not None:
        _save(matrix, stored)
    return matrix


def _key(geometry: ParallelGeometry) -> str:
    return hashlib.sha256(repr(geometry).encode()).hexdigest()[:16]


def _save(matrix: sp.csr_array, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".npz", delete=False) as file:
        sp.save_npz(file, matrix, compressed=False)
    os.replace(file.name, path)
