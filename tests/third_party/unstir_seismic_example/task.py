"""Which reflectivity made this trace?  trace = wavelet * reflectivity + noise."""

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import xarray as xr

from unstir.errors import DataError
from unstir.plugin import Case, Estimate
from unstir_seismic_example.data import trace


@dataclass(frozen=True)
class Deconvolution:
    """Traces seen through a Ricker wavelet of ``frequency`` Hz with white noise of standard deviation ``noise``."""

    frequency: float = 25.0
    noise: float = 0.01

    metrics: ClassVar[tuple[str, ...]] = ("seismic-example/correlation",)
    figures: ClassVar[tuple[str, ...]] = ("seismic-example/traces",)

    def read(self, path: Path) -> xr.Dataset:
        if path.suffix != ".npy":
            raise DataError(f"{path} is not a reflectivity trace: give a one-dimensional .npy")
        return trace(np.load(path), path.stem)

    def cases(self, items: Iterable[xr.Dataset]) -> Iterator[Case]:
        for item in items:
            reflectivity = item.reflectivity.values
            wavelet = ricker_matrix(len(reflectivity), self.frequency, 0.004)
            rng = np.random.default_rng(zlib.crc32(item.attrs["key"].encode()))
            seen = wavelet @ reflectivity + self.noise * rng.standard_normal(len(reflectivity))
            measurement = xr.Dataset({"amplitude": ("time", seen, {"units": "1"})}, {"time": item.time})
            yield Case(item.attrs["key"], item, measurement, {"wavelet": wavelet, "noise": self.noise})

    def export(self, estimate: Estimate, case: Case, stem: Path) -> list[Path]:
        path = stem.with_name(f"{stem.name}.npy")
        np.save(path, estimate.data.reflectivity.values)
        return [path]


def ricker_matrix(samples: int, frequency: float, interval: float) -> np.ndarray:
    """Convolution by a Ricker wavelet as a matrix (samples, samples); frequency in Hz, interval in seconds."""
    lag = interval * (np.arange(samples)[:, None] - np.arange(samples)[None, :])
    phase = (np.pi * frequency * lag) ** 2
    return (1 - 2 * phase) * np.exp(-phase)
