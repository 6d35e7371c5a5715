"""InVesalius projects (.inv3): a tar.gz with a generated top folder, `main.plist` and a raw `matrix.dat`.

The plist gives the matrix's shape as (z, y, x) and its spacing as (x, y, z). Rows are stored bottom up, as VTK draws them: y runs to
Anterior, x to Left, z to Superior.
"""

from __future__ import annotations

import plistlib
import tarfile
import warnings
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import xarray as xr

from unstir.errors import DataError
from unstir_medical import volume


def read(path: Path, *, modality: str = "CT", key: str, check_range: bool = True) -> xr.Dataset:
    """An InVesalius project as a volume.

    The project keeps no patient position: coordinates start at 0.

    Args:
        path: the file.
        modality: ``"CT"`` or ``"MR"``.
        key: name of the case.
        check_range: whether CT values must look like HU.

    Returns:
        The volume, dims (z, y, x).

    Raises:
        DataError: not an InVesalius project, damaged, or any fault `volume.build` names.
    """
    try:
        with tarfile.open(path, "r:gz") as archive:
            members = {PurePosixPath(member.name).name: member for member in archive if member.isfile()}
            project = plistlib.loads(_member(archive, members, "main.plist", path))
            matrix = project["matrix"]
            shape = tuple(int(n) for n in matrix["shape"])
            dtype = np.dtype(str(matrix["dtype"])).newbyteorder("<")
            spacing = [float(s) for s in project["spacing"]]
            raw = _member(archive, members, str(matrix["filename"]), path)
    except (tarfile.TarError, EOFError, OSError, zlib.error, plistlib.InvalidFileException, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is not an InVesalius project that can be read ({type(error).__name__}: {error})") from error
    if len(shape) != 3 or len(spacing) != 3 or min(*shape, *spacing) <= 0:
        raise DataError(f"{path} has no usable geometry: shape {shape}, spacing {spacing}")
    if len(raw) != np.prod(shape) * dtype.itemsize:
        needed = int(np.prod(shape)) * dtype.itemsize
        raise DataError(f"{path} is truncated: {matrix['filename']} has {len(raw)} bytes, {shape} voxels of {dtype.name} need {needed}")
    stored = str(project.get("modality", modality))
    if stored != modality:
        raise DataError(f"{path} is {stored} by its own word, not {modality}")
    if "affine" in project and not np.allclose(
        project["affine"], np.eye(4).tolist() if np.ndim(project["affine"]) == 2 else np.eye(4).ravel()
    ):
        warnings.warn(f"{path}: its affine is ignored, coordinates start at 0", stacklevel=3)
    values: np.ndarray[Any, Any] = np.frombuffer(raw, dtype).reshape(shape)
    affine = np.diag([spacing[0], -spacing[1], spacing[2], 1.0])
    affine[1, 3] = spacing[1] * (shape[1] - 1)
    return volume.build(values, affine, key=key, source=str(path), modality=modality, check_range=check_range)


def _member(archive: tarfile.TarFile, members: dict[str, tarfile.TarInfo], name: str, path: Path) -> bytes:
    if name not in members:
        raise DataError(f"{path} is not an InVesalius project: it has no {name} inside")
    file = archive.extractfile(members[name])
    assert file is not None
    return file.read()
