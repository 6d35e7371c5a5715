"""The question: what is a smooth signal between the few noisy samples of it that we have?

y = M x + noise,  x ~ N(0, C),  C_ij = exp(-(t_i - t_j)^2 / (2 width^2))
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import xarray as xr

from unstir.errors import DataError
from unstir.plugin import Case, Estimate

WIDTH = 0.08
"""Width of the bumps of a signal, in seconds."""


@dataclass(frozen=True)
class Generated:
    """Smooth random signals of one second; dims (time), time in seconds, the signal in volt.

    Args:
        count: how many signals.
        samples: samples of each.
    """

    count: int = 4
    samples: int = 96

    card: ClassVar[str] = "generated"
    tiny: ClassVar[bool] = True

    def load(self) -> Iterator[xr.Dataset]:
        """Yield the signals, the same ones each time."""
        values, vectors = np.linalg.eigh(covariance(self.samples))
        root = vectors * np.sqrt(values.clip(0))
        for index in range(self.count):
            yield as_signal(root @ np.random.default_rng(index).standard_normal(self.samples), f"signal-{index}")


@dataclass(frozen=True)
class Gaps:
    """Every ``keep``-th sample is seen, with white noise of ``noise`` volt.

    Args:
        keep: one sample in so many is seen, at least 1.
        noise: standard deviation of the noise in volt.
    """

    keep: int = 6
    noise: float = 0.05

    metrics: ClassVar[tuple[str, ...]] = ("skeleton/rmse", "skeleton/worst")
    figures: ClassVar[tuple[str, ...]] = ("skeleton/curves",)

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ValueError(f"keep must be at least 1, got {self.keep}")

    def read(self, path: Path) -> xr.Dataset:
        """A user's own signal: one second of it in a text file, one number a line, in volt."""
        try:
            values = np.loadtxt(path, ndmin=1)
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is not a signal: write one number a line ({error})") from error
        return as_signal(values, path.stem)

    def cases(self, items: Iterable[xr.Dataset]) -> Iterator[Case]:
        """Measure each signal; its noise depends on its key alone."""
        for item in items:
            key = item.attrs["key"]
            signal = item.signal.values
            noise = self.noise * np.random.default_rng(zlib.crc32(key.encode())).standard_normal(len(signal))
            seen = np.arange(len(signal)) % self.keep == 0
            measurement = item.assign(signal=("time", np.where(seen, signal + noise, 0.0), {"units": "V"}), seen=("time", seen))
            yield Case(key, item, measurement, {"noise": self.noise})

    def export(self, estimate: Estimate, case: Case, stem: Path) -> list[Path]:
        """Write the signal as text, one number a line."""
        path = stem.with_name(f"{stem.name}.txt")
        np.savetxt(path, estimate.data.signal.values)
        return [path]


def as_signal(values: np.ndarray, key: str) -> xr.Dataset:
    """A signal as this plugin passes it around: ``signal`` in volt over ``time`` in seconds."""
    time = xr.Variable("time", np.arange(len(values)) / len(values), {"units": "s"})
    return xr.Dataset({"signal": ("time", values, {"units": "V"})}, {"time": time}, {"key": key})


def covariance(samples: int) -> np.ndarray:
    """C, (samples, samples), in volt squared."""
    time = np.arange(samples) / samples
    return np.exp(-((time[:, None] - time[None, :]) ** 2) / (2 * WIDTH**2))
