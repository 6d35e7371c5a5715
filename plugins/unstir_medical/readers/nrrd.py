"""NRRD (.nrrd, .nhdr): SimpleITK parses; the header's `space` and `space directions` decide which way is up.

ITK turns RAS and LAS headers into LPS itself; negative directions stay in its direction matrix and are flipped by `volume.build`.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from unstir.errors import DataError
from unstir_medical import volume
from unstir_medical.readers.extra import needs

SPACES = {"left-posterior-superior", "lps", "right-anterior-superior", "ras", "left-anterior-superior", "las"}


def read(
    path: Path, *, index: int | None = None, resample: bool | float = False, modality: str = "CT", key: str, check_range: bool = True
) -> xr.Dataset:
    """An NRRD file as a volume.

    A component axis (direction ``none`` or NaN) is not an axis of space: with more than one component an index is needed.
    A file without ``space`` is read as LPS along its axes, with a warning.

    Args:
        path: the file.
        index: which component or volume of a 4-D file, 0-based.
        resample: straighten a sheared grid.
        modality: ``"CT"`` or ``"MR"``.
        key: name of the case.
        check_range: whether CT values must look like HU.

    Returns:
        The volume, dims (z, y, x).

    Raises:
        DataError: not NRRD, damaged, not three-dimensional, 4-D without an index, or any fault `volume.build` names.
        MissingExtra: SimpleITK is not installed.
    """
    itk = needs("SimpleITK")
    fields = header(path)
    space = fields.get("space", "")
    if space.lower() not in SPACES:
        if "space directions" in fields:
            raise DataError(f"{path} gives directions in space {space!r}; readable are LPS, RAS and LAS")
        warnings.warn(f"{path} names no space: its axes are taken to run Left, Posterior, Superior", stacklevel=3)
    reader = itk.ImageFileReader()
    reader.SetImageIO("NrrdImageIO")
    reader.SetFileName(str(path))
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise DataError(f"{path} is not NRRD that SimpleITK can read: {_last(error)}") from error
    image = _three(itk, image, index, path)
    spacing, direction = np.array(image.GetSpacing()), np.array(image.GetDirection()).reshape(3, 3)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = direction * spacing, image.GetOrigin()
    values = itk.GetArrayFromImage(image)
    return volume.build(values, affine, key=key, source=str(path), modality=modality, resample=resample, check_range=check_range)


def header(path: Path) -> dict[str, str]:
    """The ``field: value`` lines of an NRRD header, field names in lower case.

    Args:
        path: the file.

    Returns:
        Field to text.

    Raises:
        DataError: the file is missing, or does not start with ``NRRD``.
    """
    fields: dict[str, str] = {}
    try:
        with path.open("rb") as file:
            if not file.read(4) == b"NRRD":
                raise DataError(f"{path} is not NRRD: it does not start with 'NRRD'")
            for line in file:
                text = line.decode("latin-1").strip()
                if not text:
                    break
                name, colon, value = text.partition(":")
                if colon and not text.startswith("#"):
                    fields[name.strip().lower()] = value.lstrip("=").strip()
    except OSError as error:
        raise DataError(f"{path} cannot be opened: {error.strerror}") from error
    return fields


def _three(itk: Any, image: Any, index: int | None, path: Path) -> Any:
    components, size = image.GetNumberOfComponentsPerPixel(), image.GetSize()
    count = components if components > 1 else size[3] if len(size) == 4 else 1
    if len(size) < 3:
        raise DataError(f"{path} is a 2D image of {tuple(size)}, not a volume")
    if count > 1 and (index is None or not 0 <= index < count):
        given = "" if index is None else f", got {index}"
        raise DataError(
            f"{path} holds {count} volumes of {tuple(size[:3])}; choose one with index=0..{count - 1} (in a run: --set data.index=0){given}"
        )
    if count == 1 and index not in (None, 0):
        raise DataError(f"{path} holds one volume, there is no index {index}")
    if components > 1:
        return itk.VectorIndexSelectionCast(image, index)
    if len(size) == 4:
        return image[:, :, :, index or 0]
    return image


def _last(error: BaseException) -> str:
    return str(error).strip().splitlines()[-1].strip()
