"""Sinograms from files: line integrals of attenuation, (z, angle, detector), with the angles and lengths that belong to them.

Three kinds of file, all with line integrals ``-ln(I / I0)``, dimensionless (not photon counts, not transmission, not HU):

    .npz   ``sinogram`` (z, angle, detector), or (angle, detector) for one slice; ``angles``, one a view; ``detector_mm``, the distance of
           detector centres; ``slice_mm``, the distance of slices; optional ``offset_mm``, the shift of the detector row, ``noise_sigma``
    .nc    variable ``sinogram`` with those dims, coordinates ``angle`` (rad), ``detector`` and ``z`` (mm): as the CT tasks write it
    .npy   the bare array; angles and lengths are given as options

Angles are in radians unless one is above 2 pi, then all are degrees (``angle_unit`` says it outright). They may be in any order; views at
one angle are averaged. The rotation axis projects onto the middle of the detector row, ``s = x cos(theta) + y sin(theta)``.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from unstir.errors import DataError
from unstir.plugin.protocols import Case
from unstir_medical.ct.geometry import ParallelGeometry
from unstir_medical.ct.noise import Noisy
from unstir_medical.tasks import sinogram
from unstir_medical.tomography import ParallelBeamCT

AngleUnit = Literal["auto", "degrees", "radians"]
LARGEST = 20.0  # of a line integral: a metre of water; what is larger has another unit
SUPPORT = 0.03  # part of the largest line integral above which a ray is taken to have met the body
SLICE_MM = 5.0  # distance told of a lone slice, which has no neighbours


@dataclass(frozen=True)
class Scan:
    """A checked sinogram.

    Args:
        values: line integrals, shape (z, angle, detector), float32.
        angles: of each view, radians within [-2 pi, 2 pi], none twice.
        detector_mm: distance between detector centres.
        slice_mm: distance between slices.
        offset_mm: shift of the detector row.
        z_mm: position of the first slice.
        noise_sigma: standard deviation of the noise, 0 where nobody knows it.
        notes: what was done to it on the way, a sentence each.
    """

    values: NDArray[np.float32]
    angles: tuple[float, ...]
    detector_mm: float
    slice_mm: float
    offset_mm: float = 0.0
    z_mm: float = 0.0
    noise_sigma: float = 0.0
    notes: tuple[str, ...] = field(default=())

    @property
    def reach_mm(self) -> float:
        """How far the body reaches from the rotation axis, in mm: the outermost ray that met anything."""
        strength = np.abs(self.values).max(axis=(0, 1))
        hit = np.flatnonzero(strength > SUPPORT * strength.max())
        count = self.values.shape[2]
        s = (np.arange(count) - (count - 1) / 2) * self.detector_mm + self.offset_mm
        return float(np.abs(s[hit]).max() + self.detector_mm / 2)

    @property
    def field_mm(self) -> float:
        """Diameter of the circle that every view sees, in mm."""
        return max(self.values.shape[2] * self.detector_mm - 2 * abs(self.offset_mm), 0.0)

    def binned(self, detectors: int, slices: int) -> Scan:
        """Means over so many neighbouring detectors and slices; a last, smaller group of slices counts as a whole one."""
        values, offset, z = self.values, self.offset_mm, self.z_mm
        notes = list(self.notes)
        if detectors > 1:
            rest = values.shape[2] % detectors
            left = rest // 2
            values = values[:, :, left : values.shape[2] - (rest - left)]
            values = values.reshape(*values.shape[:2], -1, detectors).mean(-1)
            offset += (2 * left - rest) * self.detector_mm / 2
            notes.append(f"{detectors} neighbouring detectors averaged into one of {detectors * self.detector_mm:.4g} mm")
        if slices > 1:
            values = np.pad(values, ((0, -len(values) % slices), (0, 0), (0, 0)), mode="edge")
            values = values.reshape(-1, slices, *values.shape[1:]).mean(1)
            z += (slices - 1) / 2 * self.slice_mm
            notes.append(f"{slices} neighbouring slices averaged into one of {slices * self.slice_mm:.4g} mm")
        lengths = {"detector_mm": self.detector_mm * detectors, "slice_mm": self.slice_mm * slices, "offset_mm": offset, "z_mm": z}
        sigma = self.noise_sigma / math.sqrt(detectors * slices)
        return replace(self, values=values.astype(np.float32), noise_sigma=sigma, notes=tuple(notes), **lengths)  # type: ignore[arg-type]

    def case(self, key: str, size: int, pixel_mm: float, mu_water: float) -> Case:
        """The question of this sinogram: a volume of square slices of ``size`` pixels, centred on the rotation axis; no truth."""
        slices, _, detectors = self.values.shape
        geometry = ParallelGeometry(size, size, self.angles, pixel_mm, detectors, self.detector_mm, self.offset_mm)
        operator = ParallelBeamCT(geometry, slices, attenuation=2 * mu_water)
        affine = np.diag([pixel_mm, pixel_mm, self.slice_mm, 1.0])
        affine[:3, 3] = [-(size - 1) / 2 * pixel_mm] * 2 + [self.z_mm]
        grid = {"key": key, "modality": "CT", "source": key, "orientation": "LPS", "affine": affine.tolist()}
        known = f"standard deviation {self.noise_sigma:.4g}" if self.noise_sigma else "measured, of unknown strength"
        facts = {"geometry": geometry.describe(), "simulation": "measured", "noise": known}
        z = self.z_mm + self.slice_mm * np.arange(slices, dtype=np.float64)
        measurement = sinogram(Noisy(self.values, self.noise_sigma), operator, z, facts).assign_attrs(simulated=0)
        context = {
            "operator": operator,
            "spacing_mm": (self.slice_mm, pixel_mm, pixel_mm),
            "shape": operator.shape_in,
            "grid": grid,
            "noise_sigma": self.noise_sigma,
            "noise_relative": self.noise_sigma / float(np.sqrt(np.mean(np.square(self.values, dtype=np.float64)))),
            "facts": facts,
        }
        return Case(key, None, measurement, context)


def is_sinogram(path: Path, *, has_angles: bool = False) -> bool:
    """Does a file look like a sinogram: netCDF, a .npz with ``sinogram``, or a .npy with angles given beside it?"""
    suffix = path.suffix.lower()
    if suffix == ".npz" and path.is_file():
        try:
            with zipfile.ZipFile(path) as archive:
                return "sinogram.npy" in archive.namelist()
        except zipfile.BadZipFile:
            return False
    return suffix == ".nc" or (suffix == ".npy" and has_angles)


def read(
    path: Path,
    *,
    angles: str | Sequence[float] = (),
    angle_unit: AngleUnit = "auto",
    detector_mm: float = 0.0,
    slice_mm: float = 0.0,
    noise_sigma: float = 0.0,
    check_range: bool = True,
) -> Scan:
    """A sinogram from a file; an option that is given counts in place of what the file says.

    Args:
        path: .npz, .nc or .npy.
        angles: of each view, or a file of them (.npy, or text, one a line).
        angle_unit: "degrees", "radians", or "auto".
        detector_mm: distance between detector centres in mm.
        slice_mm: distance between slices in mm.
        noise_sigma: standard deviation of the noise of the line integrals.
        check_range: whether values must look like line integrals of attenuation.

    Returns:
        The sinogram, checked.

    Raises:
        DataError: missing or damaged file, wrong shape, angles or lengths that lack or do not fit, values that are no line integrals.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist")
    try:
        found = _netcdf(path) if path.suffix.lower() == ".nc" else _numpy(path)
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        reason = "it is empty" if path.is_file() and path.stat().st_size == 0 else _first_line(error)
        raise DataError(f"{path} is not a sinogram that can be read: {reason}") from error
    given = {"detector_mm": detector_mm, "slice_mm": slice_mm, "noise_sigma": noise_sigma}
    found |= {name: value for name, value in given.items() if value}
    if len(angles):
        found["angles"] = _listed(angles)
    values = _shaped(path, np.asarray(found["sinogram"]))
    radians, notes = _radians(path, found.get("angles"), angle_unit, values.shape)
    if check_range:
        _check_values(path, values)
    values, radians, repeated = _averaged(values, radians)
    if repeated:
        notes += (f"{repeated} views at an angle that was there already were averaged with it",)
    if slice_of_one := len(values) == 1 and not found.get("slice_mm"):
        notes += (f"one slice of unknown thickness, taken to be {SLICE_MM:g} mm",)
    lengths = {
        "detector_mm": _length(path, found.get("detector_mm") or found.get("pixel_mm"), "detector_mm", "detectors"),
        "slice_mm": SLICE_MM if slice_of_one else _length(path, found.get("slice_mm"), "slice_mm", "slices"),
    }
    more = {name: float(found.get(name) or 0.0) for name in ("offset_mm", "z_mm", "noise_sigma")}
    if not all(math.isfinite(value) for value in more.values()) or more["noise_sigma"] < 0:
        raise DataError(f"{path}: offset_mm and noise_sigma must be finite, noise_sigma not negative, got {more}")
    return Scan(values, tuple(radians.tolist()), notes=notes, **lengths, **more)


def _numpy(path: Path) -> dict[str, Any]:
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return {"sinogram": loaded}
    with loaded:
        if "sinogram" not in loaded.files:
            raise DataError(f"{path} holds {', '.join(loaded.files) or 'nothing'} and no array 'sinogram' (z, angle, detector)")
        return {name: loaded[name] if loaded[name].ndim else loaded[name].item() for name in loaded.files}


def _netcdf(path: Path) -> dict[str, Any]:
    import xarray as xr

    with xr.open_dataset(path, engine="h5netcdf") as data:
        if "sinogram" not in data or set(data["sinogram"].dims) - {"z", "angle", "detector"}:
            raise DataError(f"{path} has no variable 'sinogram' with dims (z, angle, detector)")
        measured = data["sinogram"].transpose(..., "angle", "detector")
        found: dict[str, Any] = dict(data.attrs) | {"sinogram": measured.values}
        for name, length, first in (("detector", "detector_mm", "offset_mm"), ("z", "slice_mm", "z_mm")):
            if name in measured.coords and measured[name].ndim and measured[name].size:
                place = measured[name].values.astype(np.float64)
                step = np.diff(place)
                if step.size and (step.min() <= 0 or np.ptp(step) > 1e-3 * step.mean()):
                    raise DataError(f"{path}: the coordinate {name!r} must grow in equal steps")
                found |= {length: float(step.mean())} if step.size else {}
                found[first] = float(place.mean()) if name == "detector" else float(place[0])
        if "angle" in measured.coords:
            found["angles"] = measured["angle"].values
        return found


def _listed(angles: str | Sequence[float]) -> Any:
    if not isinstance(angles, str):
        return list(angles)
    path = Path(angles).expanduser()
    if not path.is_file():
        raise DataError(f"angles: there is no file {angles}; give a list such as [0, 45, 90, 135], or a file (.npy, or text, one a line)")
    try:
        return np.load(path, allow_pickle=False) if path.suffix == ".npy" else np.loadtxt(path, delimiter=None, ndmin=1)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(f"{path} is not a list of angles: {_first_line(error)}") from error


def _shaped(path: Path, values: NDArray[Any]) -> NDArray[np.float32]:
    if values.dtype.kind not in "iuf":
        raise DataError(f"{path} holds {values.dtype} values; line integrals are real numbers")
    if values.ndim == 2:
        values = values[None]
    if values.ndim != 3:
        raise DataError(f"{path} has shape {values.shape}; a sinogram has axes (z, angle, detector), or (angle, detector) for one slice")
    slices, views, detectors = values.shape
    if views == 0:
        raise DataError(f"{path} has no views: its shape (z, angle, detector) is {values.shape}")
    if slices == 0 or detectors < 2:
        raise DataError(f"{path}: a sinogram has at least 1 slice and 2 detectors, its shape (z, angle, detector) is {values.shape}")
    bad = ~np.isfinite(values)
    if bad.any():
        where = tuple(int(i) for i in np.unravel_index(int(bad.argmax()), bad.shape))
        raise DataError(f"{path} has {int(bad.sum())} rays that are NaN or infinite, the first at index {where} (z, angle, detector)")
    return np.ascontiguousarray(values, dtype=np.float32)


def _radians(path: Path, angles: Any, unit: AngleUnit, shape: tuple[int, ...]) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    if angles is None or np.size(angles) == 0:
        raise DataError(f"{path} does not say its view angles: save 'angles' in it (one a view), or give --angles")
    listed = np.asarray(angles)
    if listed.dtype.kind not in "iuf" or listed.ndim != 1 or not np.isfinite(listed).all():
        raise DataError(f"{path}: angles must be a list of finite numbers, one a view")
    _, views, detectors = shape
    if len(listed) != views:
        turned = "; it looks transposed, the order is (z, angle, detector)" if len(listed) in (detectors, shape[0]) else ""
        raise DataError(f"{path} has {views} views and {len(listed)} angles{turned}")
    listed = listed.astype(np.float64)
    is_degrees = unit == "degrees" or (unit == "auto" and np.abs(listed).max() > 2 * math.pi + 1e-6)
    taken = f"angles from {listed.min():.4g} to {listed.max():.4g} taken as {'degrees' if is_degrees else 'radians'}"
    return np.mod(np.radians(listed) if is_degrees else listed, 2 * math.pi), (taken,) if unit == "auto" else ()


def _averaged(values: NDArray[np.float32], radians: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float64], int]:
    """Views and angles with each angle once, in their order, and how many were one too many."""
    turned = np.round(np.mod(radians + 1e-9, 2 * math.pi), 8)
    _, first, group = np.unique(turned, return_index=True, return_inverse=True)
    if len(first) == len(radians):
        return values, radians, 0
    order = np.argsort(first)
    means = np.stack([values[:, group == which].mean(1) for which in order], axis=1)
    return means.astype(np.float32), radians[first[order]], len(radians) - len(first)


def _check_values(path: Path, values: NDArray[np.float32]) -> None:
    """Refuse what is not line integrals of attenuation."""
    low, high = float(values.min()), float(values.max())
    span = f"{path} does not hold line integrals of attenuation: values run from {low:.4g} to {high:.4g}"
    hint = "(check_range: false takes them as they are)"
    if low == high:
        raise DataError(f"{path} is constant: every ray is {low:g}")
    if low < -LARGEST:
        raise DataError(f"{span}, so they look like HU; line integrals are sums of attenuation (1/mm) times length (mm) {hint}")
    if high > LARGEST:
        mend = "photon counts become line integrals by -ln(I / I0), lengths in pixels by 1/mm times the pixel in mm"
        raise DataError(f"{span}; {mend} {hint}")
    if low < -0.1 * high:
        raise DataError(f"{span}, and attenuation is not negative beyond noise: is the air (offset) correction missing? {hint}")
    edge, middle = float(values[:, :, [0, -1]].mean()), float(values[:, :, values.shape[2] // 3 : -(values.shape[2] // 3) or None].mean())
    if low >= 0 and high <= 1.1 and edge > middle + 0.05:
        raise DataError(f"{span} and are largest beside the body, so they look like transmission I / I0; take -ln(I / I0) {hint}")


def _length(path: Path, value: Any, name: str, what: str) -> float:
    if value is None or np.size(value) != 1:
        raise DataError(f"{path} does not say the distance between its {what}: save {name} (mm) in it, or give --{name.replace('_', '-')}")
    length = float(np.asarray(value).item())
    if not (math.isfinite(length) and length > 0):
        raise DataError(f"{path}: {name} must be a positive length in mm, got {length:g}")
    return length


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
