"""Questions of computed tomography: a volume from few views, or from a part of the arc.

Each volume becomes a case: clipped to [-1000, 1000] HU on a square grid of ``size`` pixels (the truth), measured slice by slice with
parallel rays. By default the measurement is simulated on a finer grid than the one it is reconstructed on: the source's own pixels where
the source is finer (a 512 x 512 scan for ``size: 128``), else pixels cut into ``fine`` parts a side; the parts of a detector are averaged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from unstir.errors import DataError, UserError
from unstir.plugin.options import not_negative, one_of, positive
from unstir.plugin.protocols import Case, Estimate
from unstir_medical import volume as volumes
from unstir_medical.ct.geometry import ParallelGeometry, equal_angles
from unstir_medical.ct.noise import Noisy, gaussian, poisson
from unstir_medical.tomography import MU_WATER, ParallelBeamCT, simulate

Simulation = Literal["fine", "same"]
Noise = Literal["none", "gaussian", "poisson"]
BODY = 0.3  # state unit (-400 HU): what lies above it on the border of a slice is body out of view


@dataclass(frozen=True)
class ParallelBeamTask:
    """What the CT tasks share: working grid, simulation, noise.

    Args:
        size: side of the working grid in pixels.
        simulation: "fine" (a finer grid, the default) or "same" (the reconstruction's own grid, the "inverse crime").
        fine: parts a pixel is cut into where the source is not finer than the working grid.
        noise: "none", "gaussian" (``relative``) or "poisson" (``i0``, ``electronic``).
        relative: standard deviation of Gaussian noise relative to the root mean square of the line integrals.
        i0: photons a ray before the patient; 1e5 to 1e6 is a normal dose, 1e4 a low one.
        electronic: standard deviation of electronic noise, in photons.
        detectors: number of detectors of a pixel's width; 0 for as many as see the whole slice.
        offset_mm: shift of the detector row in mm.
        mu_water: attenuation of water in 1/mm.
        noise_seed: the noise of a case depends on this and the case's key alone.

    Raises:
        UserError: for a field outside its range.
    """

    size: int = 128
    simulation: Simulation = "fine"
    fine: int = 2
    noise: Noise = "none"
    relative: float = 0.01
    i0: float = 1e4
    electronic: float = 0.0
    detectors: int = 0
    offset_mm: float = 0.0
    mu_water: float = MU_WATER
    noise_seed: int = 0

    case_noun: ClassVar[str] = "patient"
    part_noun: ClassVar[str] = "slab"
    metrics: ClassVar[tuple[str, ...]] = ("medical/psnr", "medical/ssim", "medical/nmse", "medical/rmse-hu", "medical/data-residual")
    figures: ClassVar[tuple[str, ...]] = ("medical/slices", "medical/error-maps", "medical/residual", "medical/std", "medical/sinogram")

    def __post_init__(self) -> None:
        if self.size < 2:
            raise UserError(f"size must be at least 2 pixels, got {self.size}")
        one_of(self, simulation=Simulation, noise=Noise)
        if not 2 <= self.fine <= 8:
            raise UserError(f"fine must be between 2 and 8 parts a pixel, got {self.fine} (simulation: same does not refine)")
        not_negative(self, "relative", "electronic", "detectors", "noise_seed")
        positive(self, "i0", "mu_water")
        self.angles()

    def angles(self) -> tuple[float, ...]:
        """View angles in radians."""
        raise TypeError(f"{type(self).__name__} does not say where its views are: use SparseViewCT or LimitedAngleCT")

    def read(self, path: Path, *, index: int | None = None, series: str | None = None, resample: bool = False) -> xr.Dataset:
        """A user's own volume (NIfTI, NRRD, a folder of DICOM slices, NumPy) as an item like those of a dataset.

        Args:
            path: the file or folder.
            index: which volume of a 4-D file.
            series: which DICOM series: number, UID or part of its description.
            resample: straighten tilt, shear and variable spacing?

        Raises:
            DataError: the file is missing, is not a volume or is not CT in HU.
        """
        from unstir_medical.readers import read

        item: xr.Dataset = read(Path(path), index=index, series=series, resample=resample)
        return item

    def cases(self, items: Iterable[xr.Dataset]) -> Iterator[Case]:
        """One case a volume; the truth is the volume on the working grid."""
        for item in items:
            yield self.case(item)

    def case(self, item: xr.Dataset) -> Case:
        """The case of one volume.

        Raises:
            DataError: if the item is not a CT volume.
        """
        key = str(item.attrs.get("key", "volume"))
        if "hu" not in item:
            raise DataError(f"{key} is not a CT volume: it has {', '.join(map(str, item.data_vars))} and no variable 'hu'")
        truth = volumes.prepare(item, self.size)
        spacing = volumes.spacing_of(truth)
        operator = self.operator(truth.sizes["z"], spacing[1])
        source, fine = self.source(item, truth)
        clean = simulate(volumes.to_unit(source), operator, fine).numpy()
        noisy = self.noisy(clean, key)
        facts = {
            "geometry": operator.geometry.describe(),
            "simulation": self.simulation_sentence(truth, fine, replicated=source is truth["hu"].values),
            "noise": self.noise_sentence(noisy),
            "field of view": view_sentence(volumes.to_unit(truth["hu"].values), operator.geometry),
        }
        level = noisy.sigma / max(float(np.sqrt(np.mean(np.square(noisy.sinogram, dtype=np.float64)))), 1e-30)
        context = {
            "operator": operator,
            "spacing_mm": spacing,
            "shape": tuple(truth["hu"].shape),
            "grid": dict(truth.attrs),
            "noise_sigma": noisy.sigma,
            "noise_relative": level,
            "facts": facts,
        }
        return Case(key, truth, sinogram(noisy, operator, truth.coords["z"].values, facts), context)

    def __call__(self, truth: xr.Dataset, *, seed: int) -> xr.Dataset:
        """The task as a forward model: the measurement of one volume, with the noise of ``seed``."""
        measured: xr.Dataset = replace(self, noise_seed=seed).case(truth).measurement
        return measured

    def operator(self, slices: int, pixel_mm: float) -> ParallelBeamCT:
        """The scanner over ``slices`` slices of the working grid, the state unit as the unit of the image."""
        geometry = ParallelGeometry(self.size, self.size, self.angles(), pixel_mm, self.detectors, offset_mm=self.offset_mm)
        return ParallelBeamCT(geometry, slices, attenuation=2 * self.mu_water)

    def source(self, item: xr.Dataset, truth: xr.Dataset) -> tuple[NDArray[Any], int]:
        """What is measured, (z, size f, size f) in HU or the truth itself, and how much finer its grid is made."""
        if self.simulation == "same":
            return truth["hu"].values, 1
        _, y, x = volumes.spacing_of(item)
        factor = round(volumes.spacing_of(truth)[1] / min(y, x))
        if factor < 2:
            return truth["hu"].values, self.fine
        return volumes.prepare(item, self.size * factor)["hu"].values, factor

    def noisy(self, clean: NDArray[np.float32], key: str) -> Noisy:
        """Line integrals with the task's noise, which depends on (``noise_seed``, key) alone."""
        digest = hashlib.sha256(key.encode()).digest()
        generator = np.random.default_rng([self.noise_seed, int.from_bytes(digest[:8], "little")])
        if self.noise == "gaussian":
            return gaussian(clean, generator, relative=self.relative)
        if self.noise == "poisson":
            return poisson(clean, generator, i0=self.i0, electronic=self.electronic)
        return Noisy(clean.astype(np.float32), 0.0)

    def simulation_sentence(self, truth: xr.Dataset, fine: int, *, replicated: bool) -> str:
        """On which grid the measurement was simulated."""
        if fine == 1:
            return f"simulated on the reconstruction's own {self.size} x {self.size} grid (inverse crime)"
        how = "its pixels replicated" if replicated else "the source's own pixels"
        return f"simulated on a {self.size * fine} x {self.size * fine} grid ({how}), {fine} parts of each detector averaged"

    def noise_sentence(self, noisy: Noisy) -> str:
        """What was added to the line integrals."""
        if self.noise == "none":
            return "noiseless"
        if self.noise == "gaussian":
            return f"Gaussian, standard deviation {noisy.sigma:.4g} ({self.relative:.4g} of the root mean square)"
        clamped = f"{noisy.clamped} of {noisy.sinogram.size} rays without a photon, set to one count"
        return f"photon counting, {self.i0:.4g} photons a ray, electronic noise {self.electronic:.4g}; {clamped}"

    def export(self, estimate: Estimate, case: Case, stem: Path) -> list[Path]:
        """Write the volume (and its standard deviation) as NIfTI on the source's grid, with a JSON card.

        Returns:
            The files written.
        """
        from unstir_medical.writers import reconstruction_card, write

        seed, prior = estimate.info.get("seed", 0), estimate.info.get("prior_sha256")
        scanner, noise = case.context["operator"].describe(), case.measurement.attrs["noise"]
        card = reconstruction_card(operator=scanner, seed=seed, noise=noise, prior_sha256=prior, nfe=estimate.nfe)
        restored = volumes.restore(estimate.data)
        written = write(restored, stem.with_name(f"{stem.name}.nii.gz"), card=card)
        if "hu_std" in restored:
            written += write(restored, stem.with_name(f"{stem.name}-std.nii.gz"), variable="hu_std")
        return written


@dataclass(frozen=True)
class SparseViewCT(ParallelBeamTask):
    """A volume from a few views spread over 180 degrees.

    Args:
        views: number of views, ``theta_k = start + k 180 / views`` degrees.
        start: first angle in degrees.
    """

    views: int = 8
    start: float = 0.0

    def angles(self) -> tuple[float, ...]:
        """View angles in radians."""
        return equal_angles(self.views, 180.0, self.start)


@dataclass(frozen=True)
class LimitedAngleCT(ParallelBeamTask):
    """A volume from many views of a part of the half circle.

    Args:
        views: number of views on the arc, ``theta_k = start + k span / views`` degrees.
        span: length of the arc in degrees, above 0 and below 180.
        start: first angle in degrees.
    """

    views: int = 90
    span: float = 90.0
    start: float = 0.0

    def angles(self) -> tuple[float, ...]:
        """View angles in radians."""
        if not 0 < self.span < 180:
            raise UserError(f"span must be above 0 and below 180 degrees, got {self.span} (sparse-view-ct covers the half circle)")
        return equal_angles(self.views, self.span, self.start)


def sinogram(noisy: Noisy, operator: ParallelBeamCT, z: NDArray[np.float64], facts: Mapping[str, str]) -> xr.Dataset:
    """Line integrals as a dataset: ``sinogram`` (z, angle, detector), dimensionless; ``weights`` (1 / variance) of photon counts."""
    dims = ("z", "angle", "detector")
    data = {"sinogram": (dims, noisy.sinogram, {"units": "1", "long_name": "line integral of attenuation"})}
    if noisy.weights is not None:
        data["weights"] = (dims, noisy.weights, {"units": "1", "long_name": "1 / variance of the line integral (photon counts)"})
    coords = {
        "z": ("z", z, {"units": "mm"}),
        "angle": ("angle", np.asarray(operator.geometry.angles), {"units": "rad"}),
        "detector": ("detector", operator.geometry.detector_positions, {"units": "mm", "long_name": "distance from the rotation centre"}),
    }
    attrs = {"pixel_mm": operator.geometry.pixel_mm, "noise_sigma": noisy.sigma, "clamped_rays": noisy.clamped, "simulated": 1}
    return xr.Dataset(data, coords=coords, attrs=attrs | {"noise": facts["noise"], "simulation": facts["simulation"]})


def view_sentence(u: NDArray[Any], geometry: ParallelGeometry) -> str:
    """Does the body leave the slice, or the slice the detector? ``u`` (z, y, x) in the state unit."""
    edge = np.maximum.reduce([u[:, 0].max(1), u[:, -1].max(1), u[:, :, 0].max(1), u[:, :, -1].max(1)])
    cut = int((edge > BODY).sum())
    body = f"body or table touches the border in {cut} of {len(u)} slices" if cut else "the whole body is in view"
    reach = np.abs(geometry.detector_positions[[0, -1]]).min()
    corner = np.hypot(geometry.rows - 1, geometry.columns - 1) / 2 * geometry.pixel_mm
    return body if reach >= corner else f"{body}; the detector row ends {corner - reach:.4g} mm short of the corners of a slice (truncated)"


def reconstruction(u: Tensor | NDArray[Any], case: Case, *, std: Tensor | NDArray[Any] | None = None) -> xr.Dataset:
    """An estimate's dataset from values in the state unit: ``hu`` (z, y, x) in HU on the case's grid, and ``hu_std`` where given.

    Args:
        u: (z, y, x), state unit, not clipped here.
        case: whose grid is taken.
        std: standard deviation over samples, (z, y, x), state unit.
    """
    grid = dict(case.context["grid"])
    hu = np.asarray(torch.as_tensor(u).detach().cpu().numpy(), dtype=np.float32) * 2000.0 - 1000.0
    data = volumes.dataset(hu, grid["affine"], grid)
    if std is not None:
        spread = np.asarray(torch.as_tensor(std).detach().cpu().numpy(), dtype=np.float32) * 2000.0
        data["hu_std"] = (("z", "y", "x"), spread, {"units": "HU", "long_name": "standard deviation over samples"})
    return data
