"""DICOM series: pydicom parses; slices are ordered and spaced by where the patient lies, never by file name or number.

n = row x column direction;  order and spacing by ImagePositionPatient . n;  HU = stored slope + intercept, slice by slice.
"""

from __future__ import annotations

import warnings
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from unstir.errors import DataError, MissingExtra
from unstir_medical import volume
from unstir_medical.readers.extra import needs

DECODERS = {  # what pip calls the decoder of a compressed transfer syntax (last parts of its UID)
    **dict.fromkeys(("4.90", "4.91", "4.201", "4.202", "4.203"), "pylibjpeg-openjpeg"),
    **dict.fromkeys(("4.50", "4.51", "4.57", "4.70", "4.80", "4.81"), "pylibjpeg-libjpeg"),
    "5": "pylibjpeg-rle",
}


@dataclass(frozen=True)
class Slice:
    """One image of a series: a file, or a frame of a multi-frame file; positions and steps in LPS mm."""

    file: Path
    frame: int
    position: NDArray[np.float64]
    column: NDArray[np.float64]
    row: NDArray[np.float64]
    shape: tuple[int, int]
    slope: float
    intercept: float
    thickness: float | None

    @property
    def normal(self) -> NDArray[np.float64]:
        """Unit normal of the slice's plane."""
        cross = np.cross(self.column, self.row)
        return cross / np.linalg.norm(cross)


def read(
    path: Path, *, series: str | int | None = None, resample: bool | float = False, modality: str = "CT", key: str, check_range: bool = True
) -> xr.Dataset:
    """A folder of DICOM slices (searched with its subfolders), or one multi-frame file, as a volume.

    Localisers go, and derived images where the series has original ones; two images of one place that are equal count once. Padding
    (PixelPaddingValue, and all below -1024 HU) becomes air before anything is interpolated.

    Args:
        path: a folder or a file.
        series: which series, where there are several: SeriesInstanceUID, SeriesNumber, or part of the description.
        resample: interpolate variable spacing, missing slices and gantry tilt onto an even grid: True, or the slice distance in mm.
        modality: ``"CT"`` or ``"MR"``.
        key: name of the case.
        check_range: whether CT values must look like HU.

    Returns:
        The volume, dims (z, y, x).

    Raises:
        DataError: no DICOM inside, another modality, several series, uneven or tilted slices without ``resample``, two different images
            at one place, damaged pixels, units that are not HU, or any fault `volume.build` names.
        MissingExtra: pydicom, or the decoder of a compressed transfer syntax, is not installed.
    """
    pydicom = needs("pydicom")
    files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
    headers = _headers(pydicom, files)
    if not headers:
        raise DataError(f"{path} holds no DICOM images ({len(files)} file{'' if len(files) == 1 else 's'} looked at)")
    fitting = {file: header for file, header in headers.items() if str(header.get("Modality", modality)) == modality and "Rows" in header}
    if not fitting:
        found = ", ".join(sorted({str(h.get("Modality", "?")) for h in headers.values()}))
        raise DataError(f"{path} holds {found} images and {modality} is wanted" + ("; no CT recipe fits MR" if found == "MR" else ""))
    chosen = _series(fitting, series, path)
    slices = _stack(chosen, path)
    values, slices = _values(pydicom, slices, path, modality)
    return _volume(values, slices, path, modality, key, resample, check_range)


def _headers(pydicom: Any, files: Sequence[Path]) -> dict[Path, Any]:
    headers = {}
    for file in files:
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True)
        except (pydicom.errors.InvalidDicomError, EOFError, OSError, ValueError):
            continue  # not DICOM: a folder from a disc holds viewers and notes too
        if "SOPClassUID" in header and "DirectoryRecordSequence" not in header:
            headers[file] = header
    return headers


def _series(headers: dict[Path, Any], wanted: str | int | None, path: Path) -> dict[Path, Any]:
    """The headers of one series without localisers and, where originals exist, derived images."""
    groups: dict[str, dict[Path, Any]] = defaultdict(dict)
    for file, header in headers.items():
        groups[str(header.get("SeriesInstanceUID", ""))][file] = header
    kept = {uid: images for uid, group in groups.items() if (images := _images(group))}
    if not kept:
        raise DataError(f"{path} holds only localisers, no slices of a volume")
    if wanted is not None:
        text = str(wanted)
        exact = [uid for uid, group in kept.items() if text in (uid, str(next(iter(group.values())).get("SeriesNumber", "")))]
        part = [uid for uid, group in kept.items() if text.lower() in str(next(iter(group.values())).get("SeriesDescription", "")).lower()]
        kept = {uid: kept[uid] for uid in exact or part} or kept
        if not exact and not part:
            raise DataError(f"{path} has no series {text!r}; it has {_listed(kept)}")
    if len(kept) > 1:
        raise DataError(
            f"{path} holds {len(kept)} series ({_listed(kept)}); choose one with series=NUMBER (in a run: --set data.series=NUMBER)"
        )
    return next(iter(kept.values()))


def _images(group: dict[Path, Any]) -> dict[Path, Any]:
    kinds = {file: [str(part).upper() for part in header.get("ImageType", [])] for file, header in group.items()}
    images = {file: header for file, header in group.items() if "LOCALIZER" not in kinds[file]}
    original = {file: header for file, header in images.items() if kinds[file][:1] != ["DERIVED"]}
    if original and len(original) < len(images):
        warnings.warn(f"{len(images) - len(original)} derived images beside {len(original)} original ones are left out", stacklevel=5)
    return original or images


def _listed(groups: dict[str, dict[Path, Any]]) -> str:
    lines = []
    for group in groups.values():
        first = next(iter(group.values()))
        lines.append(
            f"{first.get('SeriesNumber', '?')}: {str(first.get('SeriesDescription', '')) or 'no description'}, {len(group)} images"
        )
    return "; ".join(sorted(lines))


def _stack(headers: dict[Path, Any], path: Path) -> list[Slice]:
    """Slices of the one stack in a series, sorted along the normal."""
    slices = [slice_ for file, header in headers.items() for slice_ in _slices(file, header)]
    groups: dict[tuple[Any, ...], list[Slice]] = defaultdict(list)
    for one in slices:
        groups[(one.shape, *np.round(np.concatenate([one.column, one.row]), 3))].append(one)
    first, *others = sorted(groups.values(), key=len, reverse=True)
    rest = sum(map(len, others))
    if rest > 3 or rest >= len(first):
        raise DataError(
            f"{path} mixes images of {len(groups)} different sizes, pixel sizes or orientations in one series "
            f"({', '.join(str(len(group)) for group in [first, *others])} of each)"
        )
    if rest:
        warnings.warn(f"{path}: {rest} images of another size or orientation (localisers) are left out", stacklevel=4)
    return sorted(first, key=lambda one: float(one.position @ one.normal))


def _slices(file: Path, header: Any) -> list[Slice]:
    if int(header.get("SamplesPerPixel", 1)) != 1:
        raise DataError(f"{file} is a colour image, not a slice of a volume")
    count = int(header.get("NumberOfFrames", 1) or 1)
    groups = [_groups(header, k) for k in range(count)] if "PerFrameFunctionalGroupsSequence" in header else [[header]] * count
    if count > 1 and groups[0] == [header]:
        raise DataError(f"{file} has {count} frames without a position each; it is not a volume that can be placed")
    return [_slice(file, k, parts, header) for k, parts in enumerate(groups)]


def _groups(header: Any, k: int) -> list[Any]:
    """The datasets that describe frame k of an enhanced multi-frame file: its own and the shared functional groups."""
    items = [header.PerFrameFunctionalGroupsSequence[k], *header.get("SharedFunctionalGroupsSequence", [])]
    return [sequence.value[0] for item in items for sequence in item if sequence.VR == "SQ" and len(sequence.value)] + [header]


def _slice(file: Path, frame: int, parts: Sequence[Any], header: Any) -> Slice:
    def find(name: str, default: Any = None) -> Any:
        return next((part.get(name) for part in parts if part.get(name) not in (None, "")), default)

    position, cosines, pixel = find("ImagePositionPatient"), find("ImageOrientationPatient"), find("PixelSpacing")
    if position is None or cosines is None or pixel is None:
        missing = next(
            n for n, v in (("ImagePositionPatient", position), ("ImageOrientationPatient", cosines), ("PixelSpacing", pixel)) if v is None
        )
        raise DataError(f"{file} has no {missing}, so it cannot be placed in a volume")
    units = str(find("RescaleType", "HU")).strip().upper()
    if str(header.get("Modality")) == "CT" and units not in ("HU", "US", ""):
        raise DataError(f"{file} holds values in {units}, not HU")
    x, y = np.array(cosines[:3], dtype=np.float64), np.array(cosines[3:], dtype=np.float64)
    if abs(float(x @ y)) > 1e-2 or not 0.9 < float(np.linalg.norm(x)) < 1.1 or min(float(pixel[0]), float(pixel[1])) <= 0:
        raise DataError(f"{file} has no usable geometry: orientation {list(map(float, cosines))}, pixel spacing {list(map(float, pixel))}")
    thickness = find("SpacingBetweenSlices", find("SliceThickness"))
    return Slice(
        file=file,
        frame=frame,
        position=np.array(position, dtype=np.float64),
        column=x * float(pixel[1]),
        row=y * float(pixel[0]),
        shape=(int(header.Rows), int(header.Columns)),
        slope=float(find("RescaleSlope", 1.0)),
        intercept=float(find("RescaleIntercept", 0.0)),
        thickness=None if thickness is None else abs(float(thickness)),
    )


def _values(pydicom: Any, slices: list[Slice], path: Path, modality: str) -> tuple[NDArray[np.float32], list[Slice]]:
    """Values of each slice (HU for CT), equal images of one place counted once."""
    planes: list[NDArray[np.float32]] = []
    kept: list[Slice] = []
    opened: tuple[Path, NDArray[Any], Any] | None = None
    inverted: set[bool] = set()
    limits: list[tuple[float, float]] = []
    same = 0
    for one in slices:
        if opened is None or opened[0] != one.file:
            opened = (one.file, *_pixels(pydicom, one.file))
        stored, header = opened[1][one.frame] if opened[1].ndim == 3 else opened[1], opened[2]
        plane = (stored * one.slope + one.intercept).astype(np.float32)
        padding = _padding(header, stored, one) if modality == "CT" else None
        if padding is not None:
            plane[padding] = volume.AIR
        if kept and abs(float((one.position - kept[-1].position) @ one.normal)) < 1e-3:
            if not np.array_equal(plane, planes[-1]):
                raise DataError(
                    f"{path} has two different images at one place ({kept[-1].file.name} and {one.file.name}): "
                    "several phases or reconstructions in one series"
                )
            same += 1
            continue
        inverted.add(str(header.get("PhotometricInterpretation", "")) == "MONOCHROME1")
        limits.append(_limits(header))
        planes.append(plane)
        kept.append(one)
    if same:
        warnings.warn(f"{path}: {same} slices stand there twice and are counted once", stacklevel=4)
    if len(inverted) > 1:
        raise DataError(f"{path} mixes MONOCHROME1 and MONOCHROME2 slices in one series")
    values = np.stack(planes)
    if inverted == {True} and _border(values) > (float(values.min()) + float(values.max())) / 2:
        # MONOCHROME1 is a hint for display and stored values stand; air at the bright end shows a writer that turned the values too
        warnings.warn(f"{path} is MONOCHROME1 with bright air: its stored values are turned over", stacklevel=4)
        for k, one in enumerate(kept):
            values[k] = (sum(limits[k]) * one.slope + 2 * one.intercept) - values[k]
    return values, kept


def _pixels(pydicom: Any, file: Path) -> tuple[NDArray[Any], Any]:
    """Stored values of a file, signed as PixelRepresentation says, bits above BitsStored cleared; and its header."""
    header = pydicom.dcmread(file)
    syntax = getattr(header.file_meta, "TransferSyntaxUID", None)
    if syntax is not None and syntax.is_encapsulated:
        _need_decoder(pydicom, syntax, file)
    try:
        stored = header.pixel_array.astype(np.int64 if int(header.BitsAllocated) > 16 else np.int32)
        bits, signed = int(header.BitsStored), int(header.PixelRepresentation) == 1
    except (AttributeError, ValueError, RuntimeError, NotImplementedError, KeyError, EOFError) as error:
        raise DataError(f"{file} has damaged pixels: {' '.join(str(error).split())}") from error
    stored &= (1 << bits) - 1
    if signed:
        stored = np.where(stored >= 1 << (bits - 1), stored - (1 << bits), stored)
    return stored, header


def _need_decoder(pydicom: Any, syntax: Any, file: Path) -> None:
    try:
        if pydicom.pixels.get_decoder(syntax).is_available:
            return
    except NotImplementedError as error:
        raise DataError(f"{file} is compressed as {syntax.name}, which pydicom does not decode") from error
    package = DECODERS.get(str(syntax).removeprefix("1.2.840.10008.1.2."), "python-gdcm")
    raise MissingExtra(f"{file} is compressed as {syntax.name} and its decoder is not installed: pip install pylibjpeg {package}")


def _limits(header: Any) -> tuple[float, float]:
    bits = int(header.BitsStored)
    return (
        (-float(1 << (bits - 1)), float((1 << (bits - 1)) - 1)) if int(header.PixelRepresentation) == 1 else (0.0, float((1 << bits) - 1))
    )


def _padding(header: Any, stored: NDArray[Any], one: Slice) -> NDArray[np.bool_] | None:
    """Where PixelPaddingValue (or the range up to its limit) stands. A padding value among tissue is not believed."""
    value = header.get("PixelPaddingValue")
    if not isinstance(value, int):
        return None
    limit = header.get("PixelPaddingRangeLimit")
    low, high = sorted((value, limit if isinstance(limit, int) else value))
    if int(header.PixelRepresentation) == 1 and low >= 1 << (int(header.BitsStored) - 1):
        low, high = low - (1 << int(header.BitsAllocated)), high - (1 << int(header.BitsAllocated))
    if high * one.slope + one.intercept > -900 and low * one.slope + one.intercept < 3000:
        return None
    return (stored >= low) & (stored <= high)


def _border(values: NDArray[np.float32]) -> float:
    edge = np.concatenate([values[:, 0], values[:, -1], values[:, :, 0], values[:, :, -1]], axis=1)
    return float(np.median(edge))


def _volume(
    values: NDArray[np.float32], slices: list[Slice], path: Path, modality: str, key: str, resample: bool | float, check_range: bool
) -> xr.Dataset:
    """Even, square slices as they are; uneven or tilted ones refused, or straightened."""
    first = slices[0]
    positions = np.stack([one.position for one in slices])
    along = (positions - first.position) @ first.normal
    gaps = np.diff(along)
    options: dict[str, Any] = {"key": key, "source": str(path), "modality": modality, "check_range": check_range}
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 3] = first.column, first.row, first.position
    if len(slices) == 1:
        if not first.thickness:
            raise DataError(f"{path} is one slice without SliceThickness; a volume needs several")
        affine[:3, 2] = first.normal * first.thickness
        return volume.build(values, affine, **options)
    fault = " and ".join(filter(None, (_uneven(gaps, along), _tilt(positions, first))))
    if not fault:
        affine[:3, 2] = first.normal * float(along[-1] / (len(slices) - 1))
        return volume.build(values, affine, **options)
    if not resample:
        raise DataError(f"{path} has {fault}; {volume.STRAIGHTEN}")
    warnings.warn(f"{path} has {fault}; its slices are interpolated onto an even grid", stacklevel=4)
    if modality == "CT":
        values = np.where(values < volume.PADDING, np.float32(volume.AIR), values)
    spacing = None if resample is True else float(resample)
    fill = volume.AIR if modality == "CT" else 0.0
    values, affine = volume.straighten(values, positions, first.column, first.row, spacing=spacing, fill=fill)
    return volume.build(values, affine, **options)


def _uneven(gaps: NDArray[np.float64], along: NDArray[np.float64]) -> str | None:
    base = Counter(np.round(gaps, 2)).most_common(1)[0][0] or float(np.median(gaps))
    if np.abs(gaps - np.mean(gaps)).max() <= 0.05 * np.mean(gaps):
        return None
    ratio = gaps / base
    if np.abs(ratio - np.round(ratio)).max() < 0.05 and (np.round(ratio) == 1).mean() >= 0.5:
        holes = np.flatnonzero(np.round(ratio) > 1)
        places = ", ".join(f"{along[k]:g} mm" for k in holes[:3])
        lacking = int(np.round(ratio[holes]).sum()) - len(holes)
        return f"{lacking} missing slice{'' if lacking == 1 else 's'} (the others are {base:g} mm apart, gaps lie {places} from the first)"
    return f"variable spacing (slices {gaps.min():.3g} to {gaps.max():.3g} mm apart along the normal)"


def _tilt(positions: NDArray[np.float64], first: Slice) -> str | None:
    moved = positions - positions[0]
    drift = np.abs(np.stack([moved @ first.column / (first.column @ first.column), moved @ first.row / (first.row @ first.row)])).max()
    if drift <= 0.5:
        return None
    step = moved[-1]
    angle = np.degrees(np.arccos(np.clip(abs(float(step @ first.normal)) / float(np.linalg.norm(step)), 0, 1)))
    return f"a gantry tilt of {angle:.1f} degrees (slices drift by {drift:.0f} pixels)"
