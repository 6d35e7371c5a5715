"""One door for volumes on disk: the format is found by name, else by the first bytes."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import xarray as xr

from unstir.errors import DataError

FORMATS = {
    ".nii": "nifti",
    ".nii.gz": "nifti",
    ".nrrd": "nrrd",
    ".nhdr": "nrrd",
    ".npy": "arrays",
    ".npz": "arrays",
    ".inv3": "inv3",
    ".dcm": "dicom",
    ".ima": "dicom",
}
READABLE = "readable are NIfTI (.nii, .nii.gz), NRRD (.nrrd, .nhdr), NumPy (.npy, .npz), InVesalius (.inv3) and folders of DICOM slices"
IMAGES = {b"\x89PNG": "PNG", b"\xff\xd8\xff": "JPEG", b"GIF8": "GIF", b"II*\x00": "TIFF", b"MM\x00*": "TIFF", b"BM": "BMP"}
OTHERS = {
    b"%PDF": "a PDF",
    b"PK\x03\x04": "a zip archive; unpack it",
    b"\x89HDF": "HDF5",
    b"RIFF": "RIFF audio or video",
    b"SIMPLE": "FITS",
}


def read(path: str | Path, **options: Any) -> xr.Dataset:
    """A volume from a file or a folder of DICOM slices.

    Args:
        path: the file (format by suffix, else by content) or folder.
        options: ``index`` (which volume of a 4-D file), ``series`` (which DICOM series: number, UID or part of its description),
            ``resample`` (straighten tilt, shear and variable spacing: True, or the slice distance in mm), ``spacing`` (z, y, x in mm,
            for NumPy files), ``modality`` ("CT", default, or "MR"), ``key`` (name of the case; default the file's stem),
            ``check_range`` (False for CT crops without air). An option that a format does not have is refused when it is given.

    Returns:
        The volume: variable ``hu`` in HU (``intensity`` for MR), dims (z, y, x), LPS coordinates in mm; see `unstir_medical.volume`.

    Raises:
        DataError: missing, not a volume, damaged, or values that do not fit; one sentence names the file and the fault.
        MissingExtra: the format's parser is not installed.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path} does not exist")
    name = "dicom" if path.is_dir() else _format(path)
    options["key"] = options.get("key") or stem(path)
    module = importlib.import_module(f"unstir_medical.readers.{name}")
    known = set(module.read.__kwdefaults__ or ()) | {"key"}
    given = {option: value for option, value in options.items() if option in known or value not in (None, False)}
    unknown = sorted(set(given) - known)
    if unknown:
        raise DataError(f"{path}: the option {unknown[0]!r} does not apply to this format (its options are {', '.join(sorted(known))})")
    dataset: xr.Dataset = module.read(path, **given)
    return dataset


def stem(path: Path) -> str:
    """A file's name without the suffixes of the known formats."""
    low = path.name.lower()
    suffix = max((s for s in FORMATS if low.endswith(s)), key=len, default="")
    return path.name[: len(path.name) - len(suffix)] or path.name


def _format(path: Path) -> str:
    low = path.name.lower()
    for suffix in sorted(FORMATS, key=len, reverse=True):
        if low.endswith(suffix):
            return FORMATS[suffix]
    with path.open("rb") as file:
        start = file.read(352)
    if start[128:132] == b"DICM":
        return "dicom"
    if start[:4] == b"NRRD":
        return "nrrd"
    if start[344:348] in (b"n+1\x00", b"ni1\x00"):
        raise DataError(f"{path} is NIfTI by its content; give it the suffix .nii (or .nii.gz)")
    for magic, what in IMAGES.items():
        if start.startswith(magic):
            raise DataError(f"{path} is a 2D image ({what}), not a volume; {READABLE}")
    what = next((f" (it starts like {what})" for magic, what in OTHERS.items() if start.startswith(magic)), "")
    raise DataError(f"{path} is not a volume that unstir can read{what}; {READABLE}")
