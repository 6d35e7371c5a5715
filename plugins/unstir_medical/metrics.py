"""Numbers that judge a reconstructed CT volume, each with its convention.

All are taken in the state unit ``u = (HU + 1000) / 2000``, data range 1 (a window of 2000 HU), without clipping the estimate.

    PSNR = -10 log10 mean (x - x*)^2          SSIM = mean of (2 m m* + c1)(2 s_xx* + c2) / ((m^2 + m*^2 + c1)(s^2 + s*^2 + c2))

Averaging PSNR over coronal slices moves it by up to 3 dB and a wrong data range moves SSIM by 0.07, so plane, window and range are part of
every definition. Intervals come from slabs of 20 mm, about the length over which neighbouring slices resemble each other.

Reference: Wang et al., Image quality assessment, IEEE TIP 2004.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy import ndimage

from unstir.errors import DataError, UserError
from unstir.plugin.protocols import Case, Estimate, MetricInfo, Score
from unstir_medical.volume import spacing_of

Plane = Literal["axial", "coronal", "sagittal"]
Blurred = dict[tuple[int, ...], list[NDArray]]
PLANES: dict[Plane, int] = {"axial": 0, "coronal": 1, "sagittal": 2}  # the axis of (z, y, x) that runs through the slices
WINDOW, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2
SLAB_MM = 20.0
BODY_HU = -400.0


def unit_values(data: xr.Dataset) -> NDArray[np.float64]:
    """The voxels of a volume in the state unit, shape (z, y, x), not clipped."""
    return (data["hu"].values.astype(np.float64) + 1000.0) / 2000.0


def pair(estimate: Estimate, case: Case) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Estimate and truth in the state unit, (z, y, x) each.

    Raises:
        DataError: if the case has no truth, the shapes differ, or the estimate is not finite.
    """
    if case.truth is None:
        raise DataError(f"case {case.key} has no truth to compare with")
    found, truth = unit_values(estimate.data), unit_values(case.truth)
    if found.shape != truth.shape:
        raise DataError(f"the estimate of case {case.key} has shape {found.shape} and its truth {truth.shape}")
    if not np.isfinite(found).all():
        raise DataError(f"the estimate of case {case.key} has {int((~np.isfinite(found)).sum())} voxels that are not finite")
    return found, truth


def slabs(count: int, spacing_mm: float) -> Iterator[slice]:
    """Cut ``count`` slices into slabs of nearly equal size, 20 mm each (at least one slab, at least one slice a slab)."""
    parts = max(1, min(count, round(count * spacing_mm / SLAB_MM)))
    edges = [round(i * count / parts) for i in range(parts + 1)]
    return (slice(a, b) for a, b in zip(edges[:-1], edges[1:], strict=True))


def _slab_means(values: NDArray[np.float64], spacing_mm: float) -> tuple[float, ...]:
    means = (values[slab][np.isfinite(values[slab])] for slab in slabs(len(values), spacing_mm))
    return tuple(float(kept.mean()) for kept in means if kept.size)


@dataclass(frozen=True)
class PSNR:
    """Peak signal-to-noise ratio of the volume, and its mean over the slices of each plane (slices without error are left out).

    Args:
        planes: planes whose slices are averaged besides the volume.
    """

    planes: tuple[Plane, ...] = get_args(Plane)

    def __post_init__(self) -> None:
        check_planes(self.planes)

    def describe(self) -> list[MetricInfo]:
        """One entry for the volume and one a plane."""
        span = "data range 1 = 2000 HU"
        return [MetricInfo("psnr", "PSNR", "dB", "up", f"-10 log10 of the mean square error over all voxels, {span}")] + [
            MetricInfo(f"psnr-{p}", f"PSNR {p}", "dB", "up", f"mean over {p} slices of -10 log10 of a slice's mean square error, {span}")
            for p in self.planes
        ]

    def __call__(self, estimate: Estimate, case: Case) -> dict[str, Score]:
        """PSNR in dB; parts are the mean square errors of slabs (volume) or the mean PSNR of slabs (planes)."""
        found, truth = pair(estimate, case)
        square = (found - truth) ** 2
        spacing = spacing_of(case.truth)  # type: ignore[arg-type]
        scores = {"psnr": Score(psnr(float(square.mean())), tuple(float(square[s].mean()) for s in slabs(len(square), spacing[0])), "psnr")}
        for plane in self.planes:
            axis = PLANES[plane]
            error = square.mean(axis=tuple(a for a in range(3) if a != axis))
            values = np.full(error.shape, np.inf)
            values[error > 0] = -10 * np.log10(error[error > 0])
            kept = values[np.isfinite(values)]
            scores[f"psnr-{plane}"] = Score(float(kept.mean()) if kept.size else math.inf, _slab_means(values, spacing[axis]))
        return scores


def psnr(mean_square_error: float) -> float:
    """-10 log10 of a mean square error relative to the data range; infinite at 0."""
    return math.inf if mean_square_error == 0 else -10 * math.log10(mean_square_error)


@dataclass(frozen=True)
class SSIM:
    """Structural similarity of the volume (window in three dimensions) and of the slices of each plane (window in two).

    The variant of scikit-image with ``gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1``: 11 taps,
    K = (.01, .03), borders of 5 pixels left out.

    Args:
        planes: planes whose slices are averaged.
        volume: is the volume scored too, with an 11 x 11 x 11 window?
    """

    planes: tuple[Plane, ...] = get_args(Plane)
    volume: bool = True

    def __post_init__(self) -> None:
        check_planes(self.planes)

    def describe(self) -> list[MetricInfo]:
        """One entry for the volume and one a plane."""
        variant = "sigma 1.5, K = (.01, .03), population covariance, data range 1 = 2000 HU, borders of 5 left out"
        whole = [MetricInfo("ssim", "SSIM", "", "up", f"mean SSIM of the volume, Gaussian window 11 x 11 x 11, {variant}")]
        return whole * self.volume + [
            MetricInfo(f"ssim-{p}", f"SSIM {p}", "", "up", f"mean SSIM of {p} slices, Gaussian window 11 x 11, {variant}")
            for p in self.planes
        ]

    def __call__(self, estimate: Estimate, case: Case) -> dict[str, Score]:
        """SSIM, 1 at best; parts are means over slabs.

        Raises:
            UserError: if a slice (or the volume) is smaller than the window.
        """
        found, truth = pair(estimate, case)
        spacing = spacing_of(case.truth)  # type: ignore[arg-type]
        wanted: list[tuple[str, tuple[int, ...]]] = [("ssim", (0, 1, 2))] * self.volume
        wanted += [(f"ssim-{p}", tuple(a for a in range(3) if a != PLANES[p])) for p in self.planes]
        scores = {}
        for (key, axes), image in zip(wanted, ssim_maps(found, truth, [axes for _, axes in wanted]), strict=True):
            through = 0 if len(axes) == 3 else 3 - sum(axes)
            a_slice = image.mean(axis=tuple(a for a in range(3) if a != through))
            scores[key] = Score(float(image.mean()), _slab_means(a_slice, spacing[through]))
        return scores


def ssim_maps(found: NDArray, truth: NDArray, windows: Sequence[tuple[int, ...]]) -> Iterator[NDArray[np.float64]]:
    """SSIM maps of two arrays, whole stacks of slices at once.

    Args:
        found, truth: same shape, data range 1.
        windows: axes that the 11-tap Gaussian window spans, in increasing order, one map each; (1, 2) filters every slice along axis 0.

    Yields:
        A map for each window, cropped by 5 along the axes of its window.

    Raises:
        UserError: if an axis of a window is shorter than 11.
    """
    for axes in windows:
        if min(found.shape[a] for a in axes) < WINDOW:
            raise UserError(
                f"SSIM needs at least {WINDOW} pixels along each side of its window, got a volume of {found.shape}; "
                "choose other planes, or volume: false"
            )
    x, y = (np.asarray(v, dtype=np.float64) for v in (found, truth))
    taps = np.exp(-0.5 * (np.arange(WINDOW) - WINDOW // 2) ** 2 / SIGMA**2)
    taps /= taps.sum()
    blurred: Blurred = {(): [x, y, x * x, y * y, x * y]}
    for axes in windows:
        mx, my, xx, yy, xy = _blur(blurred, axes, taps)
        vx, vy, cxy = xx - mx * mx, yy - my * my, xy - mx * my
        yield ((2 * mx * my + C1) * (2 * cxy + C2)) / ((mx * mx + my * my + C1) * (vx + vy + C2))


def _blur(blurred: Blurred, axes: tuple[int, ...], taps: NDArray) -> list[NDArray]:
    """The five moments blurred along ``axes``, the last axis first: a pass along x serves the axial, coronal and volume windows."""
    if axes not in blurred:
        blurred[axes] = [_valid(v, taps, axes[0]) for v in _blur(blurred, axes[1:], taps)]
    return blurred[axes]


def _valid(values: NDArray, taps: NDArray, axis: int) -> NDArray:
    """Correlation along one axis where the whole window fits."""
    inside = [slice(None)] * values.ndim
    inside[axis] = slice(WINDOW // 2, values.shape[axis] - WINDOW // 2)
    return ndimage.correlate1d(values, taps, axis=axis)[tuple(inside)]


@dataclass(frozen=True)
class NMSE:
    """Normalised mean square error of the volume."""

    def describe(self) -> list[MetricInfo]:
        """One entry."""
        return [MetricInfo("nmse", "NMSE", "", "down", "||x - x*||^2 / ||x*||^2 over all voxels in the state unit, where air is 0")]

    def __call__(self, estimate: Estimate, case: Case) -> dict[str, Score]:
        """NMSE; parts are slab errors relative to the mean energy of the volume."""
        found, truth = pair(estimate, case)
        energy = float((truth**2).mean())
        if energy == 0:
            raise DataError(f"the truth of case {case.key} is air everywhere: NMSE divides by its energy")
        square = (found - truth) ** 2
        parts = tuple(float(square[s].mean()) / energy for s in slabs(len(square), spacing_of(case.truth)[0]))  # type: ignore[arg-type]
        return {"nmse": Score(float(square.mean()) / energy, parts)}


@dataclass(frozen=True)
class RMSE:
    """Root mean square error in HU inside the body."""

    def describe(self) -> list[MetricInfo]:
        """One entry."""
        region = f"the largest region of the truth above {BODY_HU:g} HU with its holes (lungs) filled slice by slice"
        return [MetricInfo("rmse-hu", "RMSE", "HU", "down", f"root mean square error in HU over the body: {region}")]

    def __call__(self, estimate: Estimate, case: Case) -> dict[str, Score]:
        """RMSE in HU; parts are root mean squares of slabs, each as many body voxels as it has."""
        found, truth = pair(estimate, case)
        body = body_mask(case.truth["hu"].values)  # type: ignore[index]
        if not body.any():
            raise DataError(f"the truth of case {case.key} has no voxel above {BODY_HU:g} HU: there is no body to measure in")
        square = np.where(body, (2000 * (found - truth)) ** 2, 0.0)
        cut = [s for s in slabs(len(square), spacing_of(case.truth)[0]) if body[s].any()]  # type: ignore[arg-type]
        parts = tuple(math.sqrt(square[s].sum() / body[s].sum()) for s in cut)
        return {"rmse-hu": Score(math.sqrt(square.sum() / body.sum()), parts, "rms")}


def body_mask(hu: NDArray[Any]) -> NDArray[np.bool_]:
    """The body: the largest connected region above -400 HU, its holes filled in every axial slice; shape (z, y, x)."""
    labels, count = ndimage.label(hu > BODY_HU)
    if count == 0:
        return np.zeros(hu.shape, dtype=bool)
    largest = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    return np.stack([ndimage.binary_fill_holes(plane) for plane in largest])


@dataclass(frozen=True)
class DataResidual:
    """How far the estimate is from explaining the measurement."""

    def describe(self) -> list[MetricInfo]:
        """One entry."""
        definition = "||A x - y|| / ||y|| over all rays; the relative noise level is as low as it should go"
        return [MetricInfo("data-residual", "data residual", "", "down", definition)]

    def __call__(self, estimate: Estimate, case: Case) -> dict[str, Score]:
        """Relative residual; parts are residuals of slabs relative to the mean energy of a slab's rays."""
        import torch

        operator = case.context["operator"]
        x = torch.from_numpy(unit_values(estimate.data).astype(np.float32))[None]
        y = np.asarray(case.measurement["sinogram"].values, dtype=np.float64)
        residual = (operator(x)[0].numpy() - y) ** 2
        energy = float((y**2).mean())
        if energy == 0:
            raise DataError(f"the measurement of case {case.key} is zero on every ray")
        parts = tuple(math.sqrt(float(residual[s].mean()) / energy) for s in slabs(len(residual), spacing_of(estimate.data)[0]))
        return {"data-residual": Score(math.sqrt(float(residual.mean()) / energy), parts, "rms")}


def check_planes(planes: Sequence[str]) -> None:
    """Refuse a plane that does not exist.

    Raises:
        UserError: naming it.
    """
    for plane in planes:
        if plane not in PLANES:
            raise UserError(f"planes are axial, coronal and sagittal, got {plane!r}")
