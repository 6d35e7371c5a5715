"""Noise of a CT measurement.

Gaussian: ``y = p + sigma eps``. Photon counts: ``I ~ Poisson(I0 exp(-p)) + N(0, s_e^2)``, ``y = -ln(max(I, 1) / I0)``; the variance of y is
about ``1 / I``, so ``w = max(I, 1)`` are the weights of penalised weighted least squares, ``|| sqrt(w) (A x - y) ||^2``. Line integrals are
dimensionless.

Reference: Thibault et al., A three-dimensional statistical approach to improved image quality, Med. Phys. 2007.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unstir.errors import UserError


@dataclass(frozen=True)
class Noisy:
    """Measured line integrals and what is known of their noise.

    Args:
        sinogram: shape of the clean line integrals, float32.
        sigma: root mean square of the added noise as expected from the model, in the unit of the line integrals.
        weights: 1 / variance of each ray (photon counts), shape of ``sinogram``; None when every ray has the same variance.
        clamped: number of rays without a photon, set to one count.
    """

    sinogram: NDArray[np.float32]
    sigma: float
    weights: NDArray[np.float32] | None = None
    clamped: int = 0


def gaussian(clean: NDArray, generator: np.random.Generator, *, sigma: float | None = None, relative: float | None = None) -> Noisy:
    """Add white Gaussian noise of standard deviation ``sigma``, or ``relative * ||clean|| / sqrt(size)``.

    Raises:
        UserError: unless exactly one of ``sigma`` and ``relative`` is given, and it is not negative.
    """
    if (sigma is None) == (relative is None):
        raise UserError("Gaussian noise needs either sigma (absolute) or relative, and not both")
    level = sigma if sigma is not None else relative * float(np.sqrt(np.mean(np.square(clean, dtype=np.float64))))  # type: ignore[operator]
    if not level >= 0:
        raise UserError(f"the standard deviation of the noise must not be negative, got {level}")
    return Noisy((clean + level * generator.standard_normal(clean.shape)).astype(np.float32), level)


def poisson(clean: NDArray, generator: np.random.Generator, *, i0: float, electronic: float = 0.0) -> Noisy:
    """Photon counting noise of ``i0`` photons a ray before the patient, plus electronic noise of ``electronic`` counts.

    Rays that end below one count are set to one and counted in ``clamped``.

    Raises:
        UserError: if ``i0`` is not positive or ``electronic`` is negative.
    """
    if not (np.isfinite(i0) and i0 > 0):
        raise UserError(f"i0 must be a positive number of photons, got {i0}")
    if electronic < 0:
        raise UserError(f"electronic noise must not be negative, got {electronic}")
    expected = i0 * np.exp(-np.asarray(clean, dtype=np.float64))
    counts = generator.poisson(expected) + (electronic * generator.standard_normal(clean.shape) if electronic else 0.0)
    clamped = int(np.count_nonzero(counts < 1))
    counts = np.maximum(counts, 1)
    variance = (expected + electronic**2) / np.maximum(expected, 1) ** 2
    return Noisy((-np.log(counts / i0)).astype(np.float32), float(np.sqrt(variance.mean())), counts.astype(np.float32), clamped)
