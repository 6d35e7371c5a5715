"""NIfTI (.nii, .nii.gz): nibabel parses, this module minds the traps of the header.

File index (i, j, k) -> RAS mm by the affine (sform, else qform); LPS = diag(-1, -1, 1) RAS.
"""

from __future__ import annotations

import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from unstir.errors import DataError
from unstir_medical import volume
from unstir_medical.readers.extra import needs

MILLIMETRES = {1: 1000.0, 2: 1.0, 3: 0.001}  # xyzt_units: metre, millimetre, micrometre


def read(
    path: Path, *, index: int | None = None, resample: bool | float = False, modality: str = "CT", key: str, check_range: bool = True
) -> xr.Dataset:
    """A NIfTI file as a volume.

    A ``scl_slope`` that is 0 or NaN counts as 1; either handedness of the affine is right; sizes in metres or
    micrometres become mm. A file with neither sform nor qform is read with its bare voxel sizes, with a warning.

    Args:
        path: the file.
        index: which volume of a 4-D file, 0-based.
        resample: straighten a sheared grid.
        modality: ``"CT"`` or ``"MR"``.
        key: name of the case.
        check_range: whether CT values must look like HU.

    Returns:
        The volume, dims (z, y, x).

    Raises:
        DataError: not NIfTI, damaged, not three-dimensional, 4-D without an index, or any fault `volume.build` names.
        MissingExtra: nibabel is not installed.
    """
    nibabel = needs("nibabel")
    try:
        image = nibabel.load(path)
    except (nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not NIfTI that nibabel can read: {error}") from error
    if not isinstance(image, nibabel.Nifti1Image):
        raise DataError(f"{path} holds {type(image).__name__}, not NIfTI")
    header = image.header
    try:
        raw = np.asanyarray(image.dataobj.get_unscaled())
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path} is truncated or damaged: {error}") from error
    if raw.dtype.names is not None or raw.dtype.kind not in "iufb":
        raise DataError(f"{path} holds {'colour' if raw.dtype.names else raw.dtype} voxels; a volume holds real numbers")
    values = _three(raw, index, path)
    slope, inter = float(image.dataobj.slope), float(image.dataobj.inter)  # nibabel reads a slope of 0 or NaN as (1, 0)
    if (slope, inter) != (1.0, 0.0):
        values = values * np.float64(slope) + inter
    affine = _affine(image, path)
    affine[:3] *= MILLIMETRES.get(int(header["xyzt_units"]) & 7, 1.0)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    return volume.build(
        values.transpose(2, 1, 0), lps, key=key, source=str(path), modality=modality, resample=resample, check_range=check_range
    )


def _three(raw: np.ndarray, index: int | None, path: Path) -> np.ndarray:
    while raw.ndim > 3 and raw.shape[-1] == 1:
        raw = raw[..., 0]
    if raw.ndim > 4:
        raise DataError(f"{path} has {raw.ndim} axes ({raw.shape}); a volume has three, a series of volumes four")
    if raw.ndim == 4:
        if index is None or not 0 <= index < raw.shape[3]:
            given = "" if index is None else f", got {index}"
            raise DataError(
                f"{path} holds {raw.shape[3]} volumes of {raw.shape[:3]}; "
                f"choose one with index=0..{raw.shape[3] - 1} (in a run: --set data.index=0){given}"
            )
        return raw[..., index]
    if index not in (None, 0):
        raise DataError(f"{path} holds one volume, there is no index {index}")
    if raw.ndim < 3:
        raise DataError(f"{path} is a 2D image of {raw.shape}, not a volume")
    return raw


def _affine(image: Any, path: Path) -> np.ndarray:
    """sform where its code is set, else qform; without both, bare voxel sizes with the axes taken as RAS."""
    header = image.header
    sform, qform = int(header["sform_code"]), int(header["qform_code"])
    if sform <= 0 and qform <= 0:
        zooms = np.asarray(header.get_zooms()[:3], dtype=np.float64)
        warnings.warn(
            f"{path} has neither sform nor qform: its axes are taken to run Right, Anterior, Superior, "
            f"its voxels to be {zooms.round(4).tolist()} mm",
            stacklevel=4,
        )
        return np.diag([*zooms, 1.0])
    return np.array(image.affine, dtype=np.float64)
