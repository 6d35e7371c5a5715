"""Two answers: the Wiener filter in closed form, and a diffusion prior steered towards the trace."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import xarray as xr

import unstir
from unstir.plugin import Case, Estimate


@dataclass(frozen=True)
class Wiener:
    """Least squares with a white prior of standard deviation ``scale``."""

    scale: float = 0.05

    needs: ClassVar[tuple[str, ...]] = ()
    uses_prior: ClassVar[bool] = False

    def __call__(self, case: Case, prior, seed: int, *, progress=None) -> Estimate:
        wavelet, noise = case.context["wavelet"], case.context["noise"]
        system = wavelet.T @ wavelet + (noise / self.scale) ** 2 * np.eye(len(wavelet))
        return answer(case, np.linalg.solve(system, wavelet.T @ case.measurement.amplitude.values))


@dataclass(frozen=True)
class Diffusion:
    """The mean of samples under a white prior, each step made consistent with the trace by conjugate gradients."""

    scale: float = 0.05
    steps: int = 20
    draws: int = 8

    needs: ClassVar[tuple[str, ...]] = ()
    uses_prior: ClassVar[bool] = False

    def __call__(self, case: Case, prior, seed: int, *, progress=None) -> Estimate:
        import torch

        from unstir.operator import Dense
        from unstir.steer import DataConsistency
        from unstir_seismic_example.prior import WhitePrior

        wavelet = torch.from_numpy(case.context["wavelet"]).float()
        amplitude = torch.from_numpy(case.measurement.amplitude.values).float()[None]
        steer = DataConsistency(Dense(wavelet), amplitude, iterations=5, noise=case.context["noise"])
        denoiser = WhitePrior(len(wavelet), self.scale)
        grid = f"karras:{self.steps}"
        samples = unstir.sample(denoiser, self.draws, solver="ddim", grid=grid, steers=[steer], seed=seed, progress=progress)
        return answer(case, np.asarray(samples, dtype=float).mean(0), nfe=samples.nfe * self.draws)


def answer(case: Case, reflectivity: np.ndarray, nfe: int = 0) -> Estimate:
    """The estimate in the variables and coordinates of the task's truth."""
    return Estimate(xr.Dataset({"reflectivity": ("time", reflectivity, {"units": "1"})}, {"time": case.measurement.time}), nfe)
