"""Generated reflectivity: a few layers in white noise, 4 ms apart."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import xarray as xr


@dataclass(frozen=True)
class Generated:
    """Reflectivity of ``count`` traces of ``samples`` samples; dims (time), time in seconds."""

    count: int = 3
    samples: int = 128
    seed: int = 0

    card: ClassVar[str] = "generated"
    tiny: ClassVar[bool] = True

    def load(self) -> Iterator[xr.Dataset]:
        for index in range(self.count):
            rng = np.random.default_rng([self.seed, index])
            spikes = 0.02 * rng.standard_normal(self.samples)
            spikes[rng.choice(self.samples, 8, replace=False)] += rng.uniform(-0.3, 0.3, 8)
            yield trace(spikes, f"trace-{index}")


def trace(reflectivity: np.ndarray, key: str) -> xr.Dataset:
    """A trace as this plugin's tasks take it: ``reflectivity`` without unit over ``time`` in seconds."""
    time = xr.Variable("time", 0.004 * np.arange(len(reflectivity)), {"units": "s"})
    return xr.Dataset({"reflectivity": ("time", reflectivity, {"units": "1"})}, {"time": time}, {"key": key})
