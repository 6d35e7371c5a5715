"""Filtered back-projection.

    x(r) = sum_k w_k (q_k * h)(x cos theta_k + y sin theta_k)

with ``w_k`` the part of the half circle of view k and the ramp h by its spatial kernel, ``h[0] = 1/(4 d^2)``, ``h[odd k] = -1/(pi k d)^2``,
``h[even k] = 0`` (sampling ``|f|`` instead shifts the mean of the image), optionally windowed, zero-padded against wrap-around.

Reference: Kak and Slaney, Principles of Computerized Tomographic Imaging, 1988, chapter 3.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from unstir.errors import UserError
from unstir_medical.ct.geometry import ParallelGeometry

Window = Literal["ramp", "hann", "hamming"]


def ramp_response(detectors: int, spacing: float, window: Window = "hann") -> NDArray[np.float64]:
    """Frequency response of the windowed ramp on the padded grid of :func:`numpy.fft.rfft`.

    Args:
        detectors: length of a projection.
        spacing: distance between detectors.
        window: "ramp" (none), "hann" or "hamming".

    Returns:
        Response of shape (padded / 2 + 1,), padded the power of two at or above twice ``detectors``; unit 1 / spacing.

    Raises:
        UserError: if the window has another name.
    """
    if window not in get_args(Window):
        raise UserError(f"filter must be one of {', '.join(get_args(Window))}, got {window!r}")
    padded = 2 ** math.ceil(math.log2(max(2 * detectors, 2)))
    lag = np.minimum(np.arange(padded), padded - np.arange(padded))
    kernel = np.zeros(padded)
    kernel[0] = 1 / (4 * spacing**2)
    odd = lag % 2 == 1
    kernel[odd] = -1 / (np.pi * lag[odd] * spacing) ** 2
    response = np.fft.rfft(kernel).real * spacing
    phase = np.cos(np.pi * np.arange(response.size) / (response.size - 1))
    if window == "hann":
        response *= 0.5 * (1 + phase)
    elif window == "hamming":
        response *= 0.54 + 0.46 * phase
    return response


def filtered(sinogram: NDArray, spacing: float, window: Window = "hann") -> NDArray:
    """Each projection convolved with the windowed ramp; shape and dtype of ``sinogram`` (..., detectors)."""
    detectors = sinogram.shape[-1]
    response = ramp_response(detectors, spacing, window)
    padded = 2 * (response.size - 1)
    return np.fft.irfft(np.fft.rfft(sinogram, padded, axis=-1) * response, padded, axis=-1)[..., :detectors].astype(sinogram.dtype)


def fbp(sinogram: NDArray, geometry: ParallelGeometry, window: Window = "hann", *, clip: tuple[float, float] | None = None) -> NDArray:
    """Filtered back-projection of a stack of sinograms, by linear interpolation on the detector row.

    Args:
        sinogram: line integrals in image unit x mm, (..., views, detectors).
        geometry: the scanner.
        window: "ramp" (none), "hann" or "hamming".
        clip: lower and upper bound put on the image, or None.

    Returns:
        Images (..., rows, columns) in the image unit and the dtype of ``sinogram``.
    """
    rows, columns = geometry.rows, geometry.columns
    lead = sinogram.shape[:-2]
    q = filtered(sinogram.reshape(-1, geometry.views, geometry.detectors), geometry.detector_mm, window)
    q = np.ascontiguousarray(np.moveaxis(q, 0, -1))  # (views, detectors, slices): one pixel reads one run of memory
    out = np.zeros((rows * columns, q.shape[-1]), dtype=sinogram.dtype)
    x = (np.arange(columns) - (columns - 1) / 2) * geometry.pixel_mm
    y = (np.arange(rows) - (rows - 1) / 2)[:, None] * geometry.pixel_mm
    first = geometry.detector_positions[0]
    for view, (angle, weight) in enumerate(zip(geometry.angles, geometry.view_weights(), strict=True)):
        place = ((x * math.cos(angle) + y * math.sin(angle) - first) / geometry.detector_mm).ravel()
        lower = np.floor(place).astype(np.int64)
        part = (place - lower)[:, None].astype(sinogram.dtype)
        for index, share in ((lower, 1 - part), (lower + 1, part)):
            seen = (index >= 0) & (index < geometry.detectors)
            out += np.where(seen[:, None], sinogram.dtype.type(weight) * share, 0) * q[view][np.clip(index, 0, geometry.detectors - 1)]
    image = np.moveaxis(out, -1, 0).reshape(*lead, rows, columns)
    return np.ascontiguousarray(image if clip is None else np.clip(image, *clip))
