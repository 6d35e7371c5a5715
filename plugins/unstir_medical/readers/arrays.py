"""NumPy files (.npy, .npz): bare numbers, so the geometry stands beside them or is said aloud to be missing.

A .npz holds one volume and may hold ``spacing_mm`` (z, y, x), ``affine`` (index (x, y, z) to LPS mm), ``orientation``, ``modality``;
a .npy may have a JSON card of the same name beside it, as `unstir_medical.writers` writes it. Axes are (z, y, x).
"""

from __future__ import annotations

import json
import warnings
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from unstir.errors import DataError
from unstir_medical import volume

GEOMETRY = ("spacing_mm", "affine", "orientation", "modality")


def read(
    path: Path,
    *,
    index: int | None = None,
    spacing: float | Sequence[float] | None = None,
    resample: bool | float = False,
    modality: str = "CT",
    key: str,
    check_range: bool = True,
) -> xr.Dataset:
    """A NumPy file as a volume, axes (z, y, x).

    Args:
        path: the file.
        index: which volume of a 4-D array, along the first axis.
        spacing: cell size in mm, (z, y, x) or one number; default what the file says, else 1 mm with a warning.
        resample: straighten a sheared grid.
        modality: ``"CT"`` or ``"MR"``.
        key: name of the case.
        check_range: whether CT values must look like HU.

    Returns:
        The volume, dims (z, y, x).

    Raises:
        DataError: damaged, pickled, not three-dimensional, several arrays, a spacing not positive, or any fault `volume.build` names.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        values, grid = (loaded, _beside(path)) if isinstance(loaded, np.ndarray) else _archive(loaded, path)
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} is not a NumPy array that can be read: {error}") from error
    if values.ndim == 4 and values.shape[0] == 1 and index is None:
        index = 0
    if values.ndim == 4:
        if index is None or not 0 <= index < values.shape[0]:
            given = "" if index is None else f", got {index}"
            raise DataError(
                f"{path} holds {values.shape[0]} volumes of {values.shape[1:]}; "
                f"choose one with index=0..{values.shape[0] - 1} (in a run: --set data.index=0){given}"
            )
        values = values[index]
    elif index not in (None, 0):
        raise DataError(f"{path} holds one volume, there is no index {index}")
    if values.ndim == 2:
        raise DataError(f"{path} is a 2D image of {values.shape}, not a volume")
    if str(grid.get("modality", modality)) != modality:
        raise DataError(f"{path} is {grid['modality']} by its own word, not {modality}")
    affine = _affine(path, spacing, grid)
    result = volume.build(values, affine, key=key, source=str(path), modality=modality, resample=resample, check_range=check_range)
    return result.assign_attrs(orientation=str(grid["orientation"])) if "orientation" in grid else result


def _affine(path: Path, spacing: float | Sequence[float] | None, grid: Mapping[str, Any]) -> np.ndarray:
    if spacing is None and "affine" in grid:
        affine = np.asarray(grid["affine"], dtype=np.float64)
        if affine.shape != (4, 4):
            raise DataError(f"{path}: its affine has shape {affine.shape}, expected (4, 4)")
        return affine
    if spacing is None and "spacing_mm" not in grid:
        warnings.warn(
            f"{path} has no geometry: cells are taken to be 1 mm; give spacing=(z, y, x) in mm, or save spacing_mm beside the array",
            stacklevel=3,
        )
    size = np.broadcast_to(np.asarray(grid.get("spacing_mm", 1.0) if spacing is None else spacing, dtype=np.float64), (3,))
    if not (np.isfinite(size).all() and (size > 0).all()):
        raise DataError(f"{path}: spacing must be three positive sizes in mm (z, y, x), got {size.tolist()}")
    return np.diag([*size[::-1], 1.0])


def _archive(loaded: Any, path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    with loaded:
        names = [name for name in loaded.files if name not in GEOMETRY]
        big = [name for name in names if loaded[name].ndim >= 2]
        if len(big) != 1:
            raise DataError(
                f"{path} holds {len(big)} arrays that could be a volume ({', '.join(big) or 'none'}); save one, with spacing_mm beside it"
            )
        return loaded[big[0]], {name: loaded[name].tolist() for name in GEOMETRY if name in loaded.files}


def _beside(path: Path) -> dict[str, Any]:
    card = path.with_suffix(".json")
    if not card.exists():
        return {}
    try:
        found = json.loads(card.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{card}, beside {path.name}, is not JSON: {error}") from error
    geometry = found.get("geometry", {}) if isinstance(found, dict) else {}
    return {name: geometry[name] for name in GEOMETRY if name in geometry}
