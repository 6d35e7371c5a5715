"""Writers of volumes: NIfTI, NRRD, NumPy, on the source's affine and axis order, each with a JSON card that says how it was made.

CT is rounded to int16 HU (float32 where int16 cannot hold it). Files are written whole under a temporary name, then renamed.
"""

from __future__ import annotations

import gzip
import io
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from unstir.errors import DataError, UserError
from unstir.plugin.results import write_whole
from unstir_medical import volume as volumes
from unstir_medical.readers.extra import needs

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".npy", ".npz")


def write(volume: xr.Dataset, path: str | Path, *, card: Mapping[str, Any] | None = None, variable: str | None = None) -> list[Path]:
    """A volume as a file, in the format of its suffix, on its own grid (`volume.restore` goes to the source's grid first).

    The array's axes run as in the source file (attribute ``orientation``), so both overlay voxel by voxel.

    Args:
        volume: dims (z, y, x).
        path: ends in .nii.gz, .nii, .nrrd, .npy or .npz; folders are made.
        card: how it was made (`reconstruction_card`); written beside as JSON. A .npy file has no geometry and always gets one.
        variable: which variable, default the volume's voxels; others (``hu_std``) stay float32.

    Returns:
        The files written: the volume, and its card.

    Raises:
        UserError: unknown suffix or variable.
        DataError: values not finite, or the disk refuses.
    """
    path = Path(path)
    suffix = next((s for s in SUFFIXES if path.name.lower().endswith(s)), None)
    if suffix is None:
        raise UserError(f"{path} has no suffix that a volume can be written to; use one of {', '.join(SUFFIXES)}")
    name = variable or volumes.name_of(volume)
    if name not in volume:
        raise UserError(f"the volume has no variable {name!r}, it has {', '.join(map(str, volume.data_vars))}")
    values = volume[name].transpose("z", "y", "x").values
    if not np.isfinite(values).all():
        raise DataError(f"{path} was not written: {int((~np.isfinite(values)).sum())} voxels are NaN or infinite")
    if name == "hu":
        whole = np.rint(values)
        values = whole.astype(np.int16 if np.abs(whole).max() <= 32767 else np.float32)
    encode: Callable[..., bytes] = {".nii.gz": _nifti, ".nii": _nifti, ".nrrd": _nrrd, ".npy": _npy, ".npz": _npz}[suffix]
    written = [path]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, encode(volume, values, suffix))
        if card is not None or suffix == ".npy":
            beside = path.with_name(path.name[: -len(suffix)] + ".json")
            write_whole(
                beside, (json.dumps({**(card or {}), "geometry": geometry(volume)}, indent=1, sort_keys=True, default=str) + "\n").encode()
            )
            written.append(beside)
    except OSError as error:
        raise DataError(f"{path} was not written: {error.strerror or error}") from error
    return written


def reconstruction_card(
    *, operator: str, seed: int, noise: str | float | Mapping[str, Any], prior_sha256: str | None, **more: Any
) -> dict[str, Any]:
    """What a reconstruction's JSON card says.

    Args:
        operator: the forward operator, as its ``describe()`` says.
        seed: seed of the samples.
        noise: the measurement's noise, in words or numbers.
        prior_sha256: hash of the prior's weights; None for a method without a prior.
        more: further entries (method, solver, grid, nfe).

    Returns:
        A JSON-able mapping.
    """
    from unstir import __version__

    return {"unstir": __version__, "operator": operator, "seed": seed, "noise": noise, "prior_sha256": prior_sha256, **more}


def geometry(volume: xr.Dataset) -> dict[str, Any]:
    """Grid of a volume as plain numbers: shape and spacing (z, y, x), affine of index (x, y, z) to LPS mm, source orientation."""
    return {
        "shape": [int(volume.sizes[a]) for a in "zyx"],
        "spacing_mm": list(volumes.spacing_of(volume)),
        "affine": volumes.affine_of(volume).tolist(),
        "orientation": str(volume.attrs.get("orientation", "LPS")),
        "modality": str(volume.attrs.get("modality", "CT")),
    }


def _nifti(volume: xr.Dataset, values: np.ndarray, suffix: str) -> bytes:
    nibabel = needs("nibabel")
    moved, affine = volumes.oriented(values, volumes.affine_of(volume), str(volume.attrs.get("orientation", "LPS")))
    ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    image = nibabel.Nifti1Image(np.asfortranarray(moved), ras)
    image.set_sform(ras, code=1)
    image.set_qform(ras, code=1)
    image.header.set_xyzt_units("mm")
    data: bytes = image.to_bytes()
    return gzip.compress(data, compresslevel=9, mtime=0) if suffix == ".nii.gz" else data


def _nrrd(volume: xr.Dataset, values: np.ndarray, suffix: str) -> bytes:
    itk = needs("SimpleITK")
    moved, affine = volumes.oriented(values, volumes.affine_of(volume), str(volume.attrs.get("orientation", "LPS")))
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image = itk.GetImageFromArray(np.ascontiguousarray(moved.transpose(2, 1, 0)))
    image.SetSpacing(spacing.tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    with tempfile.TemporaryDirectory() as folder:
        itk.WriteImage(image, f"{folder}/volume.nrrd", useCompression=True, imageIO="NrrdImageIO")
        return Path(folder, "volume.nrrd").read_bytes()


def _npy(volume: xr.Dataset, values: np.ndarray, suffix: str) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(values))
    return buffer.getvalue()


def _npz(volume: xr.Dataset, values: np.ndarray, suffix: str) -> bytes:
    grid, buffer = geometry(volume), io.BytesIO()
    arrays = {key: np.asarray(grid[key]) for key in ("spacing_mm", "affine", "orientation", "modality")}
    np.savez_compressed(buffer, volume=np.ascontiguousarray(values), **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()
