"""Volumes: the dataset convention, its checks, and moves between grids that keep patient coordinates right.

A volume is an `xarray.Dataset` with one variable on dims ``("z", "y", "x")``: ``hu`` (CT, HU) or ``intensity`` (MR, arbitrary units).
z is the axial slice index and the frame is LPS: x grows to the patient's Left, y to Posterior, z to Superior. Coordinates are cell
centres in mm, along the volume's own axes (patient axes unless the volume is oblique). Attributes:

    key           name of the case
    modality      "CT" or "MR"
    source        where it came from (a file's path)
    spacing_mm    cell size (z, y, x)
    affine        4 x 4, voxel index (x, y, z) -> LPS mm
    orientation   directions of the source file's array axes (i, j, k), such as "LPS" or "RAS": writers go back to them

CT state unit: u = (HU + 1000) / 2000, clipped to [0, 1]; attenuation is 2 mu_water u, so u = 0 is air.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.optimize import linear_sum_assignment

from unstir.errors import DataError, UserError

AIR = -1000.0  # HU
PADDING = -1024.0  # HU: what lies below was written by a scanner outside its circular field of view, or by an interpolation
STRAIGHTEN = "resample=True interpolates it onto even, square slices (in a recipe: data.resample: true)"
LETTERS = ("RL", "AP", "IS")  # negative and positive direction of the LPS axes x, y, z

Numeric = TypeVar("Numeric", float, np.ndarray, xr.DataArray)


def to_unit(hu: Numeric) -> Numeric:
    """The network's unit of a CT value; what is denser than 1000 HU (compact bone, metal) saturates.

    u = (clip(HU, -1000, 1000) + 1000) / 2000

    Args:
        hu: CT numbers in HU, any shape (array, DataArray or tensor).

    Returns:
        u in [0, 1], same shape and type; integers become float32.
    """
    if isinstance(hu, np.ndarray | xr.DataArray) and np.issubdtype(hu.dtype, np.integer):
        hu = cast(Numeric, hu.astype(np.float32))
    clipped: Any = min(max(hu, -1000.0), 1000.0) if isinstance(hu, int | float) else hu.clip(-1000.0, 1000.0)
    return cast(Numeric, (clipped + 1000.0) / 2000.0)


def from_unit(u: Numeric) -> Numeric:
    """CT numbers of network units, unclipped: HU = 2000 u - 1000.

    Args:
        u: network units, any shape (array, DataArray or tensor).

    Returns:
        HU, same shape and type.
    """
    return cast(Numeric, u * 2000.0 - 1000.0)


def name_of(volume: xr.Dataset) -> str:
    """Name of the variable that holds the voxels: ``hu`` or ``intensity``."""
    for name in ("hu", "intensity"):
        if name in volume:
            return name
    raise UserError(f"a volume has a variable 'hu' or 'intensity', this dataset has {sorted(map(str, volume.data_vars))}")


def affine_of(volume: xr.Dataset) -> NDArray[np.float64]:
    """The 4 x 4 affine, voxel index (x, y, z) to LPS mm (also after a netCDF round trip, which flattens it)."""
    return np.asarray(volume.attrs["affine"], dtype=np.float64).reshape(4, 4)


def spacing_of(volume: xr.Dataset) -> tuple[float, float, float]:
    """Cell size in mm, in the order (z, y, x)."""
    z, y, x = (float(v) for v in volume.attrs["spacing_mm"])
    return z, y, x


def dataset(values: NDArray[Any], affine: ArrayLike, attrs: Mapping[str, Any], name: str = "hu") -> xr.Dataset:
    """A volume from canonical values: coordinates and spacing follow from the affine.

    Args:
        values: shape (z, y, x), axes along Superior, Posterior, Left.
        affine: 4 x 4, voxel index (x, y, z) to LPS mm, axes perpendicular.
        attrs: further attributes (``key``, ``modality``, ``source``, ``orientation``).
        name: ``"hu"`` or ``"intensity"``.

    Returns:
        The dataset, dims (z, y, x), coordinates in mm.
    """
    matrix = np.asarray(affine, dtype=np.float64).reshape(4, 4)
    step = np.linalg.norm(matrix[:3, :3], axis=0)
    start = (matrix[:3, :3] / step).T @ matrix[:3, 3]
    coords = {
        axis: (axis, start[i] + step[i] * np.arange(values.shape[2 - i]), {"units": "mm", "long_name": f"{axis}, cell centres, LPS"})
        for i, axis in ((2, "z"), (1, "y"), (0, "x"))
    }
    units = {"units": "HU", "long_name": "CT number"} if name == "hu" else {"units": "1", "long_name": "signal intensity"}
    kept = dict(attrs) | {"spacing_mm": [float(v) for v in step[::-1]], "affine": matrix.tolist()}
    return xr.Dataset({name: (("z", "y", "x"), values, units)}, coords=coords, attrs=kept)


def build(
    values: NDArray[Any],
    affine: ArrayLike,
    *,
    key: str,
    source: str = "",
    modality: str = "CT",
    resample: bool | float = False,
    check_range: bool = True,
) -> xr.Dataset:
    """A checked volume from an array as its file has it; what all readers end in.

    Axes are permuted and flipped to (z, y, x) = (Superior, Posterior, Left), nearest directions for oblique scans. CT values below
    -1024 HU are padding and become air (-1000). A sheared grid is refused, or straightened with ``resample``.

    Args:
        values: shape (k, j, i), HU for CT.
        affine: 4 x 4, index (i, j, k) to LPS mm.
        key: name of the case.
        source: path of the file, used in error messages.
        modality: ``"CT"`` or ``"MR"``.
        resample: straighten a sheared grid (True), to slices this far apart in mm (a number).
        check_range: whether CT values must look like HU (False for a crop without air).

    Returns:
        The volume, float32.

    Raises:
        DataError: affine not usable; NaN, infinite or constant values; a range that does not fit the modality.
    """
    label = source or key
    matrix = np.asarray(affine, dtype=np.float64).reshape(4, 4)
    if values.ndim != 3 or 0 in values.shape:
        raise DataError(f"{label} is not a volume: its shape is {values.shape}, a volume has three axes")
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:3, :3])) < 1e-9:
        raise DataError(f"{label} has no usable geometry: its affine is not invertible ({_rows(matrix)})")
    data = _checked(np.asarray(values), label, modality, check_range)
    if shear(matrix) > 1e-3:
        if not resample:
            raise DataError(f"{label} is sheared (gantry tilt: its slices do not lie square above each other); {STRAIGHTEN}")
        stack = matrix[:3, 3] + np.arange(values.shape[0])[:, None] * matrix[:3, 2]
        data, matrix = straighten(
            data, stack, matrix[:3, 0], matrix[:3, 1], spacing=None if resample is True else float(resample), fill=_fill(modality)
        )
    data, matrix, orientation = canonical(data, matrix)
    attrs = {"key": key, "modality": modality, "source": source, "orientation": orientation}
    return dataset(np.ascontiguousarray(data), matrix, attrs, "hu" if modality == "CT" else "intensity")


def canonical(values: NDArray[Any], affine: ArrayLike) -> tuple[NDArray[Any], NDArray[np.float64], str]:
    """Permute and flip an array to (z, y, x) = (Superior, Posterior, Left); no interpolation.

    Args:
        values: shape (k, j, i).
        affine: 4 x 4, index (i, j, k) to LPS mm; either handedness.

    Returns:
        (values (z, y, x), affine of index (x, y, z), orientation letters of the axes i, j, k it had).
    """
    matrix = np.array(affine, dtype=np.float64)
    cosines = matrix[:3, :3] / np.linalg.norm(matrix[:3, :3], axis=0)
    world, axis = linear_sum_assignment(-np.abs(cosines))  # world axis w is source axis axis[w]
    letters = [""] * 3
    for w, a in zip(world, axis, strict=True):
        letters[a] = LETTERS[w][int(cosines[w, a] > 0)]
    moved = values.transpose(2, 1, 0).transpose(axis)
    matrix[:3, :3] = matrix[:3, axis]
    for w in range(3):
        if matrix[w, w] < 0:
            moved = np.flip(moved, w)
            matrix[:3, 3] += matrix[:3, w] * (moved.shape[w] - 1)
            matrix[:3, w] *= -1
    return moved.transpose(2, 1, 0), matrix, "".join(letters)


def oriented(values: NDArray[Any], affine: ArrayLike, orientation: str) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Undo `canonical`: an array whose axes (i, j, k) point where the letters say.

    Args:
        values: shape (z, y, x).
        affine: 4 x 4, index (x, y, z) to LPS mm.
        orientation: three letters, one of R/L, A/P, I/S each, in any order.

    Returns:
        (values (i, j, k), affine of index (i, j, k) to LPS mm).
    """
    matrix, moved = np.array(affine, dtype=np.float64), values.transpose(2, 1, 0)
    order = [next((w for w, pair in enumerate(LETTERS) if letter in pair), -1) for letter in orientation.upper()]
    if sorted(order) != [0, 1, 2]:
        raise UserError(f"orientation {orientation!r} is not three letters, one of each pair R/L, A/P, I/S (such as 'LPS')")
    moved, matrix[:3, :3] = moved.transpose(order), matrix[:3, order]
    for a, letter in enumerate(orientation.upper()):
        if letter == LETTERS[order[a]][0]:
            moved = np.flip(moved, a)
            matrix[:3, 3] += matrix[:3, a] * (moved.shape[a] - 1)
            matrix[:3, a] *= -1
    return moved, matrix


def shear(affine: ArrayLike) -> float:
    """Largest cosine between two axes of a grid: 0 where they are perpendicular."""
    axes = np.asarray(affine, dtype=np.float64)[:3, :3]
    axes = axes / np.linalg.norm(axes, axis=0)
    return float(np.abs(axes.T @ axes - np.eye(3)).max())


def straighten(
    slices: NDArray[Any],
    positions: NDArray[np.float64],
    column: NDArray[np.float64],
    row: NDArray[np.float64],
    *,
    spacing: float | None = None,
    fill: float = AIR,
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """Slices with any spacing and any in-plane drift (gantry tilt), linearly interpolated onto a rectangular grid.

    Each slice is shifted inside its plane to undo the drift of its corner, in a field wide enough for all; then slices are
    interpolated along the normal.

    Args:
        slices: shape (k, j, i), sorted along the normal.
        positions: shape (k, 3), LPS mm of each slice's first voxel.
        column: LPS mm from one voxel to the next along i.
        row: LPS mm from one voxel to the next along j, perpendicular to ``column``.
        spacing: distance of the new slices in mm; None: the median distance of the old.
        fill: value outside the slices.

    Returns:
        (values (k', j', i'), affine of index (i, j, k) to LPS mm).

    Raises:
        DataError: rows and columns are not perpendicular.
    """
    width, height = float(np.linalg.norm(column)), float(np.linalg.norm(row))
    ex, ey = column / width, row / height
    if abs(float(ex @ ey)) > 1e-3:
        raise DataError("rows and columns of the slices are not perpendicular; such a grid cannot be straightened")
    normal = np.cross(ex, ey)
    drift = np.stack(
        [(positions - positions[0]) @ ey / height, (positions - positions[0]) @ ex / width], axis=1
    )  # (k, 2) in pixels, (j, i)
    low, high = np.floor(drift.min(0) + 1e-6).astype(int), np.ceil(drift.max(0) - 1e-6).astype(int)
    wide = np.full((len(slices), slices.shape[1] + high[0] - low[0], slices.shape[2] + high[1] - low[1]), fill, dtype=np.float32)
    for k, plane in enumerate(slices):
        moved = plane.astype(np.float32)
        whole = np.floor(drift[k] + 1e-6).astype(int)
        for axis in (0, 1):
            part = float(drift[k, axis] - whole[axis])
            if part > 1e-6:
                edge = np.full_like(np.take(moved, [0], axis), fill)
                moved = (1 - part) * np.concatenate([moved, edge], axis) + part * np.concatenate([edge, moved], axis)
        j, i = whole - low
        wide[k, j : j + moved.shape[0], i : i + moved.shape[1]] = moved[: wide.shape[1] - j, : wide.shape[2] - i]
    along = (positions - positions[0]) @ normal
    step = spacing or float(np.median(np.abs(np.diff(along)))) if len(along) > 1 else spacing or 1.0
    sign = 1.0 if along[-1] >= 0 else -1.0
    count = int(math.floor(abs(along[-1]) / step + 1e-6)) + 1
    index = np.interp(step * np.arange(count), np.abs(along), np.arange(len(along)))
    below = np.minimum(index.astype(int), len(along) - 1)
    above = np.minimum(below + 1, len(along) - 1)
    part_z = (index - below).astype(np.float32)[:, None, None]
    values = (1 - part_z) * wide[below] + part_z * wide[above]
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = column, row, sign * step * normal
    affine[:3, 3] = positions[0] + low[1] * column + low[0] * row
    return values, affine


def block_mean(volume: xr.Dataset, factor: int | Sequence[int]) -> xr.Dataset:
    """Mean over blocks of cells, coordinates and affine following.

    Args:
        volume: a volume.
        factor: block size in cells, (z, y, x), or one number for y and x.

    Returns:
        The coarser volume, float32.

    Raises:
        UserError: the shape is not a multiple of the block.
    """
    blocks = (1, int(factor), int(factor)) if isinstance(factor, int) else tuple(int(f) for f in factor)
    name = name_of(volume)
    values = volume[name].values
    if any(f < 1 or n % f for n, f in zip(values.shape, blocks, strict=True)):
        raise UserError(f"a volume of {values.shape} cells cannot be cut into blocks of {blocks}; pad it first (volume.prepare does)")
    z, y, x = (n // f for n, f in zip(values.shape, blocks, strict=True))
    mean = values.reshape(z, blocks[0], y, blocks[1], x, blocks[2]).mean(axis=(1, 3, 5), dtype=np.float64).astype(np.float32)
    affine = affine_of(volume)
    affine[:3, 3] += affine[:3, :3] @ ((np.array(blocks[::-1]) - 1) / 2)
    affine[:3, :3] *= np.array(blocks[::-1])
    return dataset(mean, affine, volume.attrs, name)


def resample(volume: xr.Dataset, spacing: float | Sequence[float | None]) -> xr.Dataset:
    """The volume on a grid of another cell size, over the same field.

    Coarser axes are averaged over the area of the new cells (exact block mean at whole ratios, so nothing aliases), finer axes are
    interpolated linearly. A rest of the field smaller than a cell is shared by both ends.

    Args:
        volume: a volume.
        spacing: new cell size in mm, (z, y, x) or one number for all; None keeps an axis.

    Returns:
        The new volume, float32.

    Raises:
        UserError: a spacing that is not positive.
    """
    wanted = (
        [float(spacing)] * 3
        if isinstance(spacing, int | float)
        else [old if s is None else float(s) for s, old in zip(spacing, spacing_of(volume), strict=True)]
    )
    if min(wanted) <= 0:
        raise UserError(f"a spacing must be positive, got {wanted} mm")
    shape = volume[name_of(volume)].shape
    ratio = np.array(wanted) / np.array(spacing_of(volume))
    ratio[np.abs(ratio - 1) < 1e-6] = 1.0
    count = [max(1, int(n / r + 1e-6 + 0.5)) for n, r in zip(shape, ratio, strict=True)]
    offset = (np.array(shape) - ratio * np.array(count)) / 2  # of the first new cell's edge, in old cells
    affine = affine_of(volume)
    affine[:3, 3] += affine[:3, :3] @ (offset + ratio / 2 - 0.5)[::-1]
    affine[:3, :3] *= ratio[::-1]
    return _regrid(volume, count, ratio, offset, affine)


def prepare(volume: xr.Dataset, size: int | None = 128) -> xr.Dataset:
    """A CT volume on the square grid a task works on: clipped to [-1000, 1000] HU, square pixels, padded with air, block-averaged.

    Pixels that are not square are resampled to the finer of the two sizes; the smallest whole block factor is taken that brings the
    longer side to ``size`` cells or fewer.

    Args:
        volume: a CT volume, dims (z, y, x).
        size: side of the working grid in pixels; None keeps the pixel size and only pads to a square.

    Returns:
        The working volume (z, size, size), float32; attributes ``source_shape`` and ``source_affine`` remember the way back (`restore`).

    Raises:
        UserError: size below 1.
    """
    if size is not None and size < 1:
        raise UserError(f"size must be at least 1 pixel, got {size}")
    name = name_of(volume)
    back = {"source_shape": list(volume[name].shape), "source_affine": affine_of(volume).tolist()}
    work = volume.assign({name: volume[name].astype(np.float32).clip(-1000.0, 1000.0)}) if name == "hu" else volume
    _, dy, dx = spacing_of(work)
    if abs(dy / dx - 1) > 1e-3:
        work = resample(work, (None, min(dy, dx), min(dy, dx)))
    side = max(work.sizes["y"], work.sizes["x"])
    factor = 1 if size is None else -(-side // size)
    work = _padded(work, side if size is None else size * factor, AIR if name == "hu" else 0.0)
    work = block_mean(work, factor)
    return work.assign_attrs(back)


def restore(volume: xr.Dataset) -> xr.Dataset:
    """A result on the working grid of `prepare`, interpolated linearly back onto the source's grid (its shape, affine, orientation).

    Args:
        volume: a volume whose attributes hold ``source_shape`` and ``source_affine``; every variable with dims z, y, x is moved.

    Returns:
        The volume on the source's grid, float32. A volume that never left its grid is returned as it is.

    Raises:
        UserError: the two grids differ by more than shift and cell size.
    """
    if "source_affine" not in volume.attrs:
        return volume
    target = np.asarray(volume.attrs["source_affine"], dtype=np.float64).reshape(4, 4)
    count = [int(n) for n in volume.attrs["source_shape"]]
    affine = affine_of(volume)
    step = np.linalg.solve(affine[:3, :3], target[:3, :3])
    if np.abs(step - np.diag(np.diag(step))).max() > 1e-4:
        raise UserError("this volume was turned since it was prepared: it cannot go back to its source's grid")
    ratio = np.diag(step)[::-1]
    first = np.linalg.solve(affine[:3, :3], target[:3, 3] - affine[:3, 3])[::-1]
    moved = _regrid(volume, count, ratio, first - ratio / 2 + 0.5, target)
    moved.attrs = {k: v for k, v in moved.attrs.items() if k not in ("source_shape", "source_affine")}
    return moved


def _regrid(volume: xr.Dataset, count: Sequence[int], ratio: ArrayLike, offset: ArrayLike, affine: NDArray[np.float64]) -> xr.Dataset:
    """Every variable with dims z, y, x, on ``count`` cells of ``ratio`` old cells each, the first edge at ``offset`` old cells."""
    ratio, offset = np.asarray(ratio, dtype=np.float64), np.asarray(offset, dtype=np.float64)
    name = name_of(volume)
    moved: dict[str, xr.Variable] = {}
    for key, variable in volume.data_vars.items():
        if not {"z", "y", "x"} <= set(variable.dims):
            continue
        values = variable.values.astype(np.float32)
        for a, axis in enumerate("zyx"):
            at = variable.get_axis_num(axis)
            if ratio[a] == 1 and offset[a] == 0 and count[a] == values.shape[at]:
                continue
            front = np.moveaxis(values, at, 0)
            new = _weights(front.shape[0], count[a], float(ratio[a]), float(offset[a])) @ front.reshape(front.shape[0], -1)
            values = np.moveaxis(new.reshape(count[a], *front.shape[1:]), 0, at)
        moved[str(key)] = xr.Variable(variable.dims, np.ascontiguousarray(values), variable.attrs)
    grid = dataset(moved[name].values, affine, volume.attrs, name)
    return grid.assign({key: value for key, value in moved.items() if key != name})


def _weights(old: int, new: int, ratio: float, offset: float) -> sparse.csr_array:
    """Rows of weights from ``old`` cells to ``new`` ones: area overlap where coarser, linear between centres (clamped) where finer."""
    left = offset + ratio * np.arange(new)
    if ratio <= 1:
        centre = np.clip(left + ratio / 2 - 0.5, 0, old - 1)
        below = np.minimum(centre.astype(int), max(old - 2, 0))
        part = centre - below
        above = np.minimum(below + 1, old - 1)
        rows = np.tile(np.arange(new), 2)
        return sparse.csr_array(
            (np.concatenate([1 - part, part]).astype(np.float32), (rows, np.concatenate([below, above]))), shape=(new, old)
        )
    first = np.clip(np.floor(left).astype(int), 0, old - 1)
    cells = first[:, None] + np.arange(int(math.ceil(ratio)) + 1)
    overlap = np.clip(np.minimum(cells + 1, left[:, None] + ratio) - np.maximum(cells, left[:, None]), 0, None) * (cells < old)
    overlap /= overlap.sum(1, keepdims=True)
    rows = np.repeat(np.arange(new), cells.shape[1])
    return sparse.csr_array((overlap.ravel().astype(np.float32), (rows, np.minimum(cells, old - 1).ravel())), shape=(new, old))


def _padded(volume: xr.Dataset, side: int, fill: float) -> xr.Dataset:
    name = name_of(volume)
    before = [(side - volume.sizes[axis]) // 2 for axis in "yx"]
    after = [side - volume.sizes[axis] - b for axis, b in zip("yx", before, strict=True)]
    if not any(before + after):
        return volume
    values = np.pad(volume[name].values, ((0, 0), (before[0], after[0]), (before[1], after[1])), constant_values=fill)
    affine = affine_of(volume)
    affine[:3, 3] -= before[1] * affine[:3, 0] + before[0] * affine[:3, 1]
    return dataset(values, affine, volume.attrs, name)


def _checked(values: NDArray[Any], label: str, modality: str, check_range: bool) -> NDArray[np.float32]:
    """Values as float32 with padding turned to air, or the sentence that says what is wrong with them."""
    if modality not in ("CT", "MR"):
        raise UserError(f"modality must be 'CT' or 'MR', got {modality!r}")
    if values.dtype.kind not in "iufb":
        raise DataError(f"{label} holds {values.dtype} values; a volume holds real numbers")
    bad = ~np.isfinite(values) if values.dtype.kind == "f" else np.zeros(1, dtype=bool)
    if bad.any():
        where = tuple(int(i) for i in np.unravel_index(int(bad.argmax()), bad.shape))
        raise DataError(
            f"{label} has {int(bad.sum())} voxels that are NaN or infinite, the first at index {where} (slice, row, column); mend it"
        )
    data = np.asarray(values, dtype=np.float32)
    low, high = float(data.min()), float(data.max())
    if low == high:
        raise DataError(f"{label} is constant: every voxel is {low:g}")
    span = f"values run from {low:g} to {high:g}"
    if modality == "MR":
        if check_range and low < -900:
            raise DataError(f"{label} does not look like MR: {span} and only CT in HU reaches below -900")
        return data
    if check_range and low >= -900:
        if low >= -2 and high <= 2:
            raise DataError(
                f"{label} is not in HU: {span}, so it seems to be scaled already; bring it back with HU = 2000 u - 1000 (u in [0, 1])"
            )
        raise DataError(
            f"{label} does not look like CT: {span} and CT in HU reaches below -900 in air. "
            "If it is CT, rescale to HU; if it is MR, no CT recipe fits it"
        )
    if low < PADDING:
        data = np.where(data < PADDING, np.float32(AIR), data)
    if check_range and high > 32767:
        warnings.warn(f"{label}: {span} HU; values above 1000 HU are clipped where the state unit is used", stacklevel=3)
    return data


def _fill(modality: str) -> float:
    return AIR if modality == "CT" else 0.0


def _rows(matrix: NDArray[np.float64]) -> str:
    return "; ".join(" ".join(f"{v:g}" for v in row) for row in matrix[:3])
