"""Where the rays of a parallel-beam scanner run.

A view at angle theta measures line integrals along ``x cos(theta) + y sin(theta) = s``; x and y (mm) are counted from the centre of the
pixel grid, ``(N - 1) / 2``, x along columns and y along rows; detectors are centred at ``(N_det - 1) / 2`` and may be shifted.

Reference: Natterer, The Mathematics of Computerized Tomography, 1986.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from unstir.errors import UserError

MISSING_WEDGE = 4.0  # a gap this many times the median gap between views is a missing wedge, not a coarse sampling


def detectors_for(rows: int, columns: int) -> int:
    """Number of detectors, one pixel wide, that see a whole ``rows`` x ``columns`` slice from every angle: ``ceil(diagonal)``."""
    return math.ceil(math.hypot(rows, columns))


def equal_angles(views: int, span_degrees: float = 180.0, start_degrees: float = 0.0) -> tuple[float, ...]:
    """``views`` angles in radians, ``theta_k = start + k span / views``: the end of the arc is left out.

    Args:
        views: number of views, at least 1.
        span_degrees: length of the arc in degrees, above 0 and at most 360.
        start_degrees: first angle in degrees.

    Raises:
        UserError: if ``views`` is below 1 or the span is outside (0, 360].
    """
    if views < 1:
        raise UserError(f"views must be at least 1, got {views}")
    if not 0 < span_degrees <= 360:
        raise UserError(f"span must be above 0 and at most 360 degrees, got {span_degrees}")
    start, span = math.radians(start_degrees), math.radians(span_degrees)
    return tuple(start + k * span / views for k in range(views))


@dataclass(frozen=True)
class ParallelGeometry:
    """A slice, a list of view angles and a row of detectors.

    Args:
        rows, columns: pixels of a slice along y and x.
        angles: view angles in radians, in any order.
        pixel_mm: side of a (square) pixel in mm.
        detectors: number of detectors; by default enough for the diagonal of the slice. Fewer detectors truncate the field of view.
        detector_mm: distance between detector centres in mm; by default one pixel.
        offset_mm: shift of the detector row along s in mm (an error of the centre of rotation).

    Raises:
        UserError: if a size is not positive, an angle repeats, is not finite, or looks like degrees.
    """

    rows: int
    columns: int
    angles: tuple[float, ...]
    pixel_mm: float = 1.0
    detectors: int = field(default=0)
    detector_mm: float = field(default=0.0)
    offset_mm: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "angles", tuple(float(a) for a in self.angles))
        for name, value in (("rows", self.rows), ("columns", self.columns), ("number of angles", len(self.angles))):
            if value < 1:
                raise UserError(f"{name} must be at least 1, got {value}")
        if not (math.isfinite(self.pixel_mm) and self.pixel_mm > 0):
            raise UserError(f"pixel_mm must be a positive length in mm, got {self.pixel_mm}")
        if self.detectors < 0 or self.detector_mm < 0:
            raise UserError(f"detectors and detector_mm must be positive, got {self.detectors} and {self.detector_mm}")
        object.__setattr__(self, "detectors", self.detectors or detectors_for(self.rows, self.columns))
        object.__setattr__(self, "detector_mm", self.detector_mm or self.pixel_mm)
        check_angles(self.angles)

    @property
    def views(self) -> int:
        """Number of views."""
        return len(self.angles)

    @property
    def pixels(self) -> int:
        """Number of pixels of a slice."""
        return self.rows * self.columns

    @property
    def detector_positions(self) -> NDArray[np.float64]:
        """Positions s of the detector centres in mm, shape (detectors,)."""
        centred = np.arange(self.detectors, dtype=np.float64) - (self.detectors - 1) / 2
        return np.asarray(centred * self.detector_mm + self.offset_mm, dtype=np.float64)

    def rays(self, view: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """A point on each ray of ``view`` and its unit direction, both (detectors, 2) as (x, y) in mm."""
        cos, sin = math.cos(self.angles[view]), math.sin(self.angles[view])
        origin = self.detector_positions[:, None] * np.array([cos, sin])
        return origin, np.broadcast_to(np.array([-sin, cos]), origin.shape)

    def in_pixels(self) -> ParallelGeometry:
        """The same geometry with the pixel as the unit of length: what the cached matrix is built for."""
        detector, offset = (round(length / self.pixel_mm, 12) for length in (self.detector_mm, self.offset_mm))
        return ParallelGeometry(self.rows, self.columns, self.angles, 1.0, self.detectors, detector, offset)

    def finer(self, factor: int) -> ParallelGeometry:
        """The same scanner over the same slice with every pixel and every detector cut into ``factor`` parts a side."""
        rows, columns, detectors = (count * factor for count in (self.rows, self.columns, self.detectors))
        return ParallelGeometry(rows, columns, self.angles, self.pixel_mm / factor, detectors, self.detector_mm / factor, self.offset_mm)

    def view_weights(self) -> NDArray[np.float64]:
        """Part of the half circle each view stands for, in radians, shape (views,).

        Half of the gap to the neighbour on either side (modulo pi); a gap above four times the median is a missing wedge, which the views
        at its ends do not fill. Equal angles over 180 degrees give ``pi / views``, over a shorter ``arc / views``; opposite views share.
        """
        folded = np.mod(np.asarray(self.angles), np.pi)
        folded[np.pi - folded < 1e-9] = 0.0
        distinct, inverse, shared = np.unique(np.round(folded, 9), return_inverse=True, return_counts=True)
        if distinct.size == 1:
            return np.full(self.views, np.pi / self.views)
        after = np.diff(np.append(distinct, distinct[0] + np.pi))
        before = np.roll(after, 1)
        wedge = MISSING_WEDGE * np.median(after)
        after_used = np.where(after > wedge, np.minimum(before, after), after)
        before_used = np.where(before > wedge, np.minimum(before, after), before)
        return ((after_used + before_used) / 2 / shared)[inverse]

    def describe(self) -> str:
        """One line: the slice, the views and the detectors."""
        degrees = np.degrees(np.asarray(self.angles))
        return (
            f"parallel beam, {self.views} views from {degrees.min():.4g} to {degrees.max():.4g} degrees, "
            f"{self.detectors} detectors of {self.detector_mm:.4g} mm (offset {self.offset_mm:.4g} mm), "
            f"slices of {self.rows} x {self.columns} pixels of {self.pixel_mm:.4g} mm"
        )


def check_angles(angles: Sequence[float]) -> None:
    """Refuse angles that are not finite, are not radians, or repeat.

    Raises:
        UserError: naming the first bad angle.
    """
    values = np.asarray(angles, dtype=np.float64)
    if not np.isfinite(values).all():
        raise UserError(f"view angle {int(np.argmin(np.isfinite(values)))} is not a finite number")
    if np.abs(values).max() > 2 * np.pi + 1e-6:
        raise UserError(f"view angles must be in radians, within [-2 pi, 2 pi]; {np.abs(values).max():.4g} looks like degrees")
    turned = np.round(np.mod(values + 1e-9, 2 * np.pi), 8)
    distinct, counts = np.unique(turned, return_counts=True)
    if distinct.size < values.size:
        raise UserError(f"view angle {distinct[counts > 1][0]:.6g} rad is listed {counts.max()} times; average repeated views first")
