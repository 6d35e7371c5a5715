"""Datasets of the medical domain: each has a card, and yields volumes with ``attrs["key"]``.

Roles are by patient and never mixed: lung1 is the test patient, head the test of another scanner; lung2, aorta, abdomen, siemens train.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import xarray as xr

from unstir.errors import DataError
from unstir.plugin.options import at_least
from unstir_data import fetch
from unstir_medical.readers import read


@dataclass(frozen=True)
class CardVolume:
    """One volume that a card describes: bundled, or taken from its package on first use and cached.

    Args:
        every: keep every so many slices (1: all).
    """

    every: int = 1

    card: ClassVar[str]
    modality: ClassVar[str] = "CT"

    def __post_init__(self) -> None:
        at_least(self, every=1)

    def load(self) -> Iterator[xr.Dataset]:
        """The volume, dims (z, y, x), HU; ``attrs["key"]`` is the card's short name."""
        volume = read(fetch.get(self.card), key=self.card.rpartition("/")[2], modality=self.modality)
        yield thinned(volume, self.every)


@dataclass(frozen=True)
class Lung1(CardVolume):
    """Chest CT of the test patient, bundled: 48 x 128 x 128, 5 x 2.28 x 2.28 mm. Never in training."""

    card: ClassVar[str] = "medical/lung1"


@dataclass(frozen=True)
class Lung1Full(CardVolume):
    """Chest CT of the test patient at full resolution: 48 x 512 x 512, 5 x 0.57 x 0.57 mm. Never in training."""

    card: ClassVar[str] = "medical/lung1-full"


@dataclass(frozen=True)
class Lung2(CardVolume):
    """Chest and upper abdomen CT, 61 x 512 x 512, 5 x 0.627 x 0.627 mm. Training and its held-out slabs."""

    card: ClassVar[str] = "medical/lung2"


@dataclass(frozen=True)
class Aorta(CardVolume):
    """Contrast-enhanced chest CT, 191 x 167 x 233, 1.5 mm isotropic. Training, in all three planes."""

    card: ClassVar[str] = "medical/aorta"


@dataclass(frozen=True)
class Abdomen(CardVolume):
    """Abdomen and pelvis CT with metal, 112 x 101 x 122, 3 mm isotropic. Training."""

    card: ClassVar[str] = "medical/abdomen"


@dataclass(frozen=True)
class Siemens(CardVolume):
    """Upper abdomen CT, 20 JPEG 2000 DICOM slices of 512 x 512, 2 x 0.977 x 0.977 mm. Training; the second scanner."""

    card: ClassVar[str] = "medical/siemens"


@dataclass(frozen=True)
class Head(CardVolume):
    """Head CT in a bone setting, 108 x 256 x 256, 1.5 x 0.957 x 0.957 mm, every second slice by default. Generalisation test."""

    every: int = 2

    card: ClassVar[str] = "medical/head"


@dataclass(frozen=True)
class Ch2(CardVolume):
    """T1-weighted brain MR of one subject, 181 x 217 x 181, 1 mm isotropic. MR test."""

    card: ClassVar[str] = "medical/ch2"
    modality: ClassVar[str] = "MR"


@dataclass(frozen=True)
class FileVolume:
    """A volume of your own: any file or folder that the readers know.

    Args:
        path: the file, or a folder of DICOM slices.
        index: which volume of a 4-D file, 0-based.
        series: which DICOM series, where a folder holds several (number, UID, or part of the description).
        resample: straighten gantry tilt, shear and variable spacing.
        modality: ``"CT"`` or ``"MR"``.
        every: keep every so many slices (1: all).
        check_range: whether CT values must look like HU.
    """

    path: str = ""
    index: int | None = None
    series: str | None = None
    resample: bool = False
    modality: str = "CT"
    every: int = 1
    check_range: bool = True

    card: ClassVar[str] = ""

    def load(self) -> Iterator[xr.Dataset]:
        """The volume, dims (z, y, x); ``attrs["key"]`` is the file's stem.

        Raises:
            DataError: no path was given, or what is there is not a volume.
        """
        if not self.path:
            raise DataError("medical/file needs the path of a volume: data.path=chest.nii.gz")
        options = {"index": self.index, "series": self.series, "resample": self.resample}
        volume = read(Path(self.path), modality=self.modality, check_range=self.check_range, **options)
        yield thinned(volume, self.every)


def thinned(volume: xr.Dataset, every: int) -> xr.Dataset:
    """Every so many slices of a volume, from the first on, the geometry following.

    Args:
        volume: dims (z, y, x).
        every: stride along z, at least 1.

    Returns:
        The thinner volume (slices dropped, not averaged).
    """
    if every == 1:
        return volume
    from unstir_medical.volume import affine_of, dataset, name_of

    affine, name = affine_of(volume), name_of(volume)
    affine[:3, 2] *= every
    return dataset(volume[name].values[::every], affine, volume.attrs, name)
