"""Training slabs of CT volumes: a slice with its neighbours, at any pixel size, slice spacing, angle and window.

Each volume is resampled once into ``variants`` (pixel size, slice distance, rotation and offset drawn from the seed); a batch then only
crops, flips and jitters, so that it costs next to nothing beside the network. A batch is a function of (seed, step) alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from unstir.errors import UserError

REFERENCE = (5.0, 2.28)
"""Slice distance and pixel size (mm) at which the features are 0."""

PLANES = {"axial": (0, 1, 2), "coronal": (1, 0, 2), "sagittal": (2, 0, 1)}
"""Axes of (z, y, x) that number the slices, the rows and the columns."""


def features(distance_mm: float | Tensor, pixel_mm: float | Tensor) -> Tensor:
    """What the prior is told of the grid: ``(log(distance / 5), log(pixel / 2.28)) / 0.3``.

    Args:
        distance_mm: between slices, mm.
        pixel_mm: side of a pixel, mm.

    Returns:
        ``(..., 2)``.
    """
    distance, pixel = torch.as_tensor(distance_mm, dtype=torch.float32), torch.as_tensor(pixel_mm, dtype=torch.float32)
    return torch.stack((torch.log(distance / REFERENCE[0]), torch.log(pixel / REFERENCE[1])), -1) / 0.3


@dataclass(frozen=True)
class Source:
    """One plane of one training volume.

    Args:
        hu: ``(slices, rows, columns)`` in HU.
        spacing_mm: of the three axes.
        weight: share of the batches, relative.
        turns: may it be transposed and turned upside down (axial planes)?
    """

    hu: NDArray[np.float32]
    spacing_mm: tuple[float, float, float]
    weight: float
    turns: bool = True


@dataclass(frozen=True)
class Variant:
    """A source on one grid: ``u`` (slices, rows, columns) in [0, 1] as uint16 / 65535 of a wider window, and its spacing."""

    values: NDArray[np.uint16]
    distance_mm: float
    pixel_mm: float
    turns: bool


class Slabs:
    """Batches of slabs.

    Args:
        sources: planes of training volumes.
        crop: side of a slab in pixels.
        context: neighbours on either side.
        batch: slabs a batch.
        variants: grids a source is resampled to.
        pixel_mm: range of pixel sizes (a source smaller than the crop takes pixels as small as it needs).
        distance_mm: range of slice distances (a source thicker than that keeps its own).
        rotation: largest angle in degrees.
        alone: share of slabs whose neighbours are left out (zeros), so that the prior also works slice by slice.
        seed: of the grids.
        progress: told of the grids made.

    Raises:
        UserError: no source, or one with too few slices.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        crop: int,
        context: int,
        batch: int,
        variants: int,
        pixel_mm: tuple[float, float] = (1.7, 3.0),
        distance_mm: tuple[float, float] = (3.0, 6.0),
        rotation: float = 10.0,
        alone: float = 0.15,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        if not sources:
            raise UserError("a prior needs at least one training volume")
        self.crop, self.context, self.batch, self.alone = crop, context, batch, alone
        self.variants: list[list[Variant]] = []
        for number, source in enumerate(sources):
            rng = np.random.default_rng([seed, number])
            self.variants.append([_variant(source, crop, pixel_mm, distance_mm, rotation, rng) for _ in range(variants)])
            if progress is not None:
                progress(number + 1, len(sources))
        weight = np.array([source.weight for source in sources], dtype=float)
        self.share = weight / weight.sum()

    def __call__(self, step: int, rng: np.random.Generator) -> Mapping[str, object]:
        """``x0`` (batch, 1 + 2 context, crop, crop) in the state unit; the condition's ``grid`` (batch, 2) and ``present``.

        ``present`` (batch, 1 + 2 context, 1, 1) is 0 where a neighbour is missing: there neither state nor noise, as in ``Sliced``.
        """
        slabs, present, grids = zip(*(self._slab(rng) for _ in range(self.batch)), strict=True)
        there = torch.from_numpy(np.stack(present))[:, :, None, None]
        return {"x0": torch.from_numpy(np.stack(slabs)), "condition": {"grid": torch.stack(grids), "present": there}}

    def _slab(self, rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32], Tensor]:
        group = self.variants[int(rng.choice(len(self.variants), p=self.share))]
        variant = group[int(rng.integers(len(group)))]
        depth, rows, columns = variant.values.shape
        top, left = int(rng.integers(rows - self.crop + 1)), int(rng.integers(columns - self.crop + 1))
        centre = int(rng.integers(depth))
        slab = np.zeros((1 + 2 * self.context, self.crop, self.crop), np.float32)
        only = rng.random() < self.alone
        present = np.zeros(len(slab), np.float32)
        for channel, index in enumerate(range(centre - self.context, centre + self.context + 1)):
            if 0 <= index < depth and (index == centre or not only):
                present[channel] = 1.0
                slab[channel] = variant.values[index, top : top + self.crop, left : left + self.crop]
        hu = slab * (4096.0 / 65535.0) - 1024.0
        gain, shift = (1 + 0.03 * rng.standard_normal(), 8.0 * rng.standard_normal()) if rng.random() < 0.5 else (1.0, 0.0)
        u = (present[:, None, None] * np.clip((gain * (hu + 1000.0) + shift) / 2000.0, 0.0, 1.0)).astype(np.float32)
        if rng.random() < 0.5:
            u = u[:, :, ::-1]
        if variant.turns and rng.random() < 0.3:
            u = u[:, ::-1]
        if variant.turns and rng.random() < 0.2:
            u = u.swapaxes(1, 2)
        if rng.random() < 0.5:
            u, present = u[::-1], present[::-1]
        return np.ascontiguousarray(u), np.ascontiguousarray(present), features(variant.distance_mm, variant.pixel_mm)


def _variant(
    source: Source,
    crop: int,
    pixel_mm: tuple[float, float],
    distance_mm: tuple[float, float],
    rotation: float,
    rng: np.random.Generator,
) -> Variant:
    """The source on a grid drawn from the ranges, every pixel the mean over its own area (box), every slice over its distance."""
    hu, (dz, dy, dx) = source.hu, source.spacing_mm
    if dz < distance_mm[0] / 1.4:
        least = math.ceil(distance_mm[0] / dz - 1e-6)
        every = int(rng.integers(least, max(least, math.floor(distance_mm[1] / dz + 1e-6)) + 1))
    else:
        every = 1
    first = int(rng.integers(max(len(hu) % every, every - 1) + 1)) if every > 1 else 0
    first = min(first, max(len(hu) - every, 0))
    whole = (len(hu) - first) // every
    if whole < 1:
        raise UserError(f"a training volume of {len(hu)} slices {dz:g} mm apart is too thin for slices {every * dz:g} mm apart")
    stack = torch.from_numpy(hu[first : first + whole * every].reshape(whole, every, *hu.shape[1:]).mean(1))
    extent = min(stack.shape[1] * dy, stack.shape[2] * dx)
    largest = min(pixel_mm[1], extent / crop)
    smallest = min(max(pixel_mm[0], 0.9 * max(dy, dx)), largest)
    pixel = math.exp(rng.uniform(math.log(smallest), math.log(largest)))
    fine = max(1, round(1.3 * pixel / max(dy, dx)))
    angle = math.radians(rng.uniform(-rotation, rotation))
    rows = max(crop, round(stack.shape[1] * dy / pixel))
    columns = max(crop, round(stack.shape[2] * dx / pixel))
    shift_y, shift_x = rng.uniform(-0.5, 0.5, 2) * pixel
    y = (torch.arange(rows * fine) - (rows * fine - 1) / 2) * (pixel / fine) + shift_y
    x = (torch.arange(columns * fine) - (columns * fine - 1) / 2) * (pixel / fine) + shift_x
    yy, xx = torch.meshgrid(y, x, indexing="ij")
    turned_y, turned_x = math.cos(angle) * yy - math.sin(angle) * xx, math.sin(angle) * yy + math.cos(angle) * xx
    grid = torch.stack((2 * turned_x / (stack.shape[2] * dx), 2 * turned_y / (stack.shape[1] * dy)), -1)[None].float()
    made = []
    for slice_ in stack:
        lifted = F.grid_sample((slice_ + 1024.0)[None, None], grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        made.append(F.avg_pool2d(lifted, fine)[0, 0])
    values = (torch.stack(made).clamp(0, 4095.9) * (65535.0 / 4096.0)).round().to(torch.int32).numpy().astype(np.uint16)
    return Variant(values, every * dz, pixel, source.turns)


def planes(hu: NDArray[np.float32], spacing_mm: tuple[float, float, float], weights: Mapping[str, float]) -> list[Source]:
    """The planes of one volume as sources, with the weights given by plane name."""
    found = []
    for name, weight in weights.items():
        if name not in PLANES:
            raise UserError(f"a plane is axial, coronal or sagittal, got {name!r}")
        axes = PLANES[name]
        spacing = (spacing_mm[axes[0]], spacing_mm[axes[1]], spacing_mm[axes[2]])
        found.append(Source(np.ascontiguousarray(hu.transpose(axes), dtype=np.float32), spacing, weight, turns=name == "axial"))
    return found
