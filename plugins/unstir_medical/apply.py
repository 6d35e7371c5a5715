"""``unstir apply medical/reconstruct``: a volume from a sinogram that was measured, or from simulated views of a volume."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from unstir.errors import DataError, UserError
from unstir.plugin.chain import Chain
from unstir.plugin.files import Job, one_by_one
from unstir.plugin.options import not_negative
from unstir.plugin.protocols import Case, Estimate, Progress
from unstir.plugin.results import together
from unstir_medical import sinograms
from unstir_medical import volume as volumes
from unstir_medical.sinograms import AngleUnit
from unstir_medical.slabs import REFERENCE
from unstir_medical.tasks import LimitedAngleCT, Noise, ParallelBeamTask, SparseViewCT
from unstir_medical.tomography import MU_WATER

RECIPE = "medical/sparse-view-ct"
"""Whose methods, options and checkpoint are used."""
PIXEL_MM, SLICE_MM = (1.7, 3.0), (3.0, 6.0)
"""Pixels and slice distances a prior knows whose checkpoint does not say."""

Known = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class Reconstruct:
    """Reconstruct CT volumes from sinograms, or from simulated views of volumes.

    A **sinogram** holds line integrals -ln(I / I0) of parallel rays, axes (z, angle, detector), or (angle, detector) for one slice:
    a .npz with ``sinogram``, ``angles``, ``detector_mm`` and ``slice_mm``; a .nc as the CT tasks write it; or a bare .npy with
    ``--angles``, ``--detector-mm`` and ``--slice-mm``. Angles are in radians, or in degrees where one is above 2 pi.
    A **volume** (NIfTI, NRRD, NumPy, a folder of DICOM slices; HU) is projected into ``views``, and reconstructed from these alone.

    Every file gives NAME-reconstruction.nii.gz (int16 HU; a volume's on the grid and affine of its source), .png (three slices), .json
    (all that was done). The grid is one the prior knows unless ``pixel_mm`` says otherwise. Not for clinical use.

    Args:
        method: a method of the recipe medical/sparse-view-ct (fbp, sirt, admm-tv, dds, dds-warm, diffusion-mbir...), or a registered one.
        options: in place of the recipe's: ``{iterations: 5}``.
        checkpoint: the prior, a registered name or a folder; empty for the recipe's.
        kind: "sinogram", "volume", or "auto", which tells them apart by the file.
        views: simulated views of a volume.
        span: arc of these views in degrees.
        noise: of these views: "none", "gaussian" or "poisson".
        i0: photons a ray for Poisson noise.
        relative: standard deviation of Gaussian noise relative to the root mean square of the line integrals.
        pixel_mm: side of a pixel that is worked with, in mm; 0 chooses one near 2.28 mm that the prior knows.
        size: side of a slice in pixels; 0 takes what holds the body.
        angles: of a sinogram's views: a list, or a file (.npy, or text, one a line).
        angle_unit: "degrees", "radians" or "auto".
        detector_mm: distance between detectors, where a sinogram does not say it.
        slice_mm: distance between slices, where a sinogram does not say it.
        noise_sigma: standard deviation of a sinogram's noise, where it does not say it.
        mu_water: attenuation of water in 1/mm.
        index: which volume of a 4-D file.
        series: which DICOM series, where a folder holds several.
        resample: are gantry tilt, shear and uneven slices straightened?
        check_range: must values look like HU, or like line integrals?
        seed: of simulated noise and of samples.
    """

    method: str = "dds-warm"
    options: dict[str, Any] = field(default_factory=dict)
    checkpoint: str = ""
    kind: Literal["auto", "sinogram", "volume"] = "auto"
    views: int = 20
    span: float = 180.0
    noise: Noise = "none"
    i0: float = 1e4
    relative: float = 0.01
    pixel_mm: float = 0.0
    size: int = 0
    angles: str | list[float] = ""
    angle_unit: AngleUnit = "auto"
    detector_mm: float = 0.0
    slice_mm: float = 0.0
    noise_sigma: float = 0.0
    mu_water: float = MU_WATER
    index: int | None = None
    series: str | None = None
    resample: bool = False
    check_range: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        not_negative(self, "pixel_mm", "detector_mm", "slice_mm", "noise_sigma", "size", "seed")
        self.task(2)

    def __call__(self, files: Sequence[Path], out: Path, *, device: str = "cpu", progress: Progress = None) -> dict[str, Any]:
        """Reconstruct every file; one that cannot be is reported at the end, when the others are done.

        Args:
            files: sinograms and volumes, in any mixture.
            out: folder of the results, made if needed.
            device: of the prior ("cpu", "cuda").
            progress: told of hundredths of a method's work.

        Returns:
            ``files``, the paths written; ``said``, what happened in sentences; and ``results``, what was done with each file.

        Raises:
            UserError: no file, an unknown method or option, a prior that is not there.
            DataError: one or more files could not be reconstructed; a sentence each.
        """
        if not files:
            raise UserError("name at least one sinogram or volume, as unstir apply medical/reconstruct chest.nii.gz --out reconstructed")
        chain = self.chain(device)
        return one_by_one(files, out, progress, lambda job: self.one(job, chain), "reconstructed")

    def chain(self, device: str) -> Chain:
        """The method asked for, with those it starts from."""
        return Chain.of(RECIPE, self.method, options=self.options, checkpoint=self.checkpoint, device=device)

    def one(self, job: Job, chain: Chain) -> dict[str, Any]:
        """Reconstruct one file and write its results."""
        started, file = time.perf_counter(), job.file
        is_sinogram = self.kind == "sinogram" or (self.kind == "auto" and sinograms.is_sinogram(file, has_angles=bool(self.angles)))
        case, notes = self.measured(file, known_to(chain)) if is_sinogram else self.simulated(file, known_to(chain))
        check(chain, case)
        estimate = chain(case, self.seed, job.progress)
        card = self.card(file, case, estimate, chain) | {"kind": "sinogram" if is_sinogram else "volume", "notes": notes}
        card["seconds"] = round(time.perf_counter() - started, 2)
        written = [str(path) for path in write(case, estimate, chain.label, card, job)]
        return card | {"files": written, "said": [f"{card['method']} on {card['grid']}", *notes]}

    def measured(self, file: Path, known: Known) -> tuple[Case, list[str]]:
        """The case of a sinogram, on a grid that the prior knows, and what was done to get there."""
        given = {name: getattr(self, name) for name in ("angles", "angle_unit", "detector_mm", "slice_mm", "noise_sigma", "check_range")}
        scan = sinograms.read(file, **given)
        pixel = self.pixel_mm or working(scan.detector_mm, known["pixel_mm"], REFERENCE[1])
        thin = 1 if self.pixel_mm or scan.slice_mm >= known["slice_mm"][0] else math.ceil(known["slice_mm"][0] / scan.slice_mm - 1e-6)
        scan = scan.binned(max(1, int(pixel / scan.detector_mm + 1e-6)), thin)
        seen = math.floor(scan.field_mm / math.sqrt(2) / pixel + 1e-6)
        size = self.size or max(2, min(max(math.ceil(2 * scan.reach_mm / pixel), seen), math.ceil(scan.field_mm / pixel)))
        if self.size and self.size * pixel > scan.field_mm + 2 * pixel:
            asked = f"a field of {self.size} x {pixel:.4g} mm"
            raise DataError(f"{file}: the detector is too narrow for {asked}, it sees {scan.field_mm:.4g} mm; give a smaller --size")
        notes = list(scan.notes)
        if 2 * scan.reach_mm > scan.field_mm - 1e-6:
            notes.append("truncated: the body reaches the end of the detector, so values near the border are wrong")
        return scan.case(file.stem, size, pixel, self.mu_water), notes

    def simulated(self, file: Path, known: Known) -> tuple[Case, list[str]]:
        """The case of a volume, its views simulated from its own pixels, on a grid that the prior knows."""
        from unstir_medical.readers import read

        try:
            item = read(file, index=self.index, series=self.series, resample=self.resample, check_range=self.check_range)
        except DataError as error:
            if file.suffix.lower() != ".npy" or self.kind == "volume":
                raise
            raise DataError(f"{error}; if it is a sinogram, give its --angles, --detector-mm and --slice-mm") from error
        dz, dy, dx = volumes.spacing_of(item)
        fine = min(dy, dx)
        pixel = self.pixel_mm or working(fine, known["pixel_mm"], REFERENCE[1])
        low, high = known["slice_mm"]
        distance = dz * math.ceil(low / dz - 1e-6) if dz < low else dz / math.ceil(dz / high - 1e-6)
        parts = max(1, round(pixel / fine))
        work = volumes.resample(item, (distance, pixel / parts, pixel / parts))
        side = max(work.sizes["y"], work.sizes["x"])
        case = self.task(max(2, self.size, -(-side // parts))).case(work)
        case.context["grid"].update(source_shape=list(item["hu"].shape), source_affine=volumes.affine_of(item).tolist())
        notes = [case.measurement.attrs["simulation"], case.context["facts"]["field of view"]]
        if (distance, pixel) != (dz, fine):
            source = f"the source has {dz:.4g} and {fine:.4g} mm"
            notes.append(f"worked on slices {distance:.4g} mm apart with pixels of {pixel:.4g} mm; {source}")
        return case, notes

    def task(self, size: int) -> ParallelBeamTask:
        """The simulation of a volume's views."""
        common: dict[str, Any] = {name: getattr(self, name) for name in ("views", "noise", "i0", "relative", "mu_water")}
        common |= {"size": size, "noise_seed": self.seed}
        return SparseViewCT(**common) if self.span == 180.0 else LimitedAngleCT(**common, span=self.span)

    def card(self, file: Path, case: Case, estimate: Estimate, chain: Chain) -> dict[str, Any]:
        """What was done to a file, in words and numbers."""
        from unstir_medical.metrics import PSNR, DataResidual
        from unstir_medical.writers import reconstruction_card

        z, y, x = case.context["shape"]
        dz, dy, _ = case.context["spacing_mm"]
        card = reconstruction_card(
            operator=case.context["operator"].describe(),
            seed=self.seed,
            noise=case.measurement.attrs["noise"],
            prior_sha256=chain.sha256,
            source=str(file),
            method=chain.label,
            options=chain.said,
            checkpoint=chain.checkpoint if chain.sha256 else None,
            grid=f"{z} slices {dz:.4g} mm apart of {y} x {x} pixels of {dy:.4g} mm",
            residual=DataResidual()(estimate, case)["data-residual"].value,
            nfe=estimate.nfe,
        )
        if case.truth is not None:
            card["psnr_db"] = PSNR(planes=())(estimate, case)["psnr"].value
        return card


def known_to(chain: Chain) -> Known:
    """Pixels and slice distances (mm) that the prior of a chain was trained for."""
    facts = getattr(chain.prior, "facts", {})
    pixel, distance = facts.get("pixel_mm", PIXEL_MM), facts.get("slice_distance_mm", SLICE_MM)
    return {"pixel_mm": (float(pixel[0]), float(pixel[1])), "slice_mm": (float(distance[0]), float(distance[1]))}


def check(chain: Chain, case: Case) -> None:
    """Refuse a grid that the prior was not trained for.

    Raises:
        DataError: saying the grid and the range.
    """
    if chain.prior is None:
        return
    dz, dy, _ = case.context["spacing_mm"]
    for what, value, key in (("pixels of", dy, "pixel_mm"), ("slices that are", dz, "slice_mm")):
        low, high = known_to(chain)[key]
        if not low - 1e-3 <= value <= high + 1e-3:
            asked = f"{case.key} has {what} {value:.4g} mm"
            raise DataError(f"{asked}, and {chain.checkpoint} was trained for {low:g} to {high:g} mm; --method admm-tv needs no prior")


def working(cell: float, known: tuple[float, float], middle: float) -> float:
    """A cell size in mm that the prior knows: the file's own, else the whole multiple (or part) nearest the middle, else the middle."""
    low, high = known
    if low - 1e-3 <= cell <= high + 1e-3:
        return cell
    many = [cell * k for k in range(2, int(high / cell + 1e-6) + 1)] or [cell / math.ceil(cell / high - 1e-6)]
    fit = [size for size in many if low <= size <= high + 1e-6]
    return min(fit, key=lambda size: abs(math.log(size / middle))) if fit else middle


def write(case: Case, estimate: Estimate, label: str, card: Mapping[str, Any], job: Job) -> list[Path]:
    """Write volume, picture and card under names of their own: all of them, or none."""
    from unstir_medical import writers
    from unstir_medical.drawing import slices_picture, window_of
    from unstir_medical.scene import Scene

    restored = volumes.restore(estimate.data)
    stem = job.free(f"{case.key}-reconstruction", ".nii.gz")
    shown = Scene(case, {}, {label: estimate}, {label: label}, {})
    picture = slices_picture(shown, window_of(shown))
    with together(job.out) as made:
        names = writers.write(restored, made.folder / f"{stem}.nii.gz", card=card)
        if "hu_std" in restored:
            names += writers.write(restored, made.folder / f"{stem}-std.nii.gz", variable="hu_std")
        names.append(made.folder / f"{stem}.png")
        picture.savefig(names[-1], dpi=160, bbox_inches="tight", metadata={"Software": None})
    return [job.out / name.name for name in names]
