"""Two answers: straight lines between what was seen, and a diffusion prior made consistent with it at every step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

import unstir
from unstir.plugin import Case, Estimate
from unstir_skeleton.task import as_signal


@dataclass(frozen=True)
class Linear:
    """Straight lines from one seen sample to the next."""

    needs: ClassVar[tuple[str, ...]] = ()
    uses_prior: ClassVar[bool] = False

    def __call__(self, case: Case, prior: Any, seed: int, *, progress: Any = None) -> Estimate:
        """Answer one case."""
        seen, time = case.measurement.seen.values, case.measurement.time.values
        return Estimate(as_signal(np.interp(time, time[seen], case.measurement.signal.values[seen]), case.key))


@dataclass(frozen=True)
class Diffusion:
    """The mean of several signals drawn from a prior, each pulled towards the samples that were seen.

    Args:
        solver: how to step.
        grid: where to look.
        draws: how many signals, at least 1.
    """

    solver: str = "ddim"
    grid: str = "karras:100"
    draws: int = 16

    needs: ClassVar[tuple[str, ...]] = ()
    uses_prior: ClassVar[bool] = False  # True, once you have trained one: a recipe then names its checkpoint

    def __call__(self, case: Case, prior: Any, seed: int, *, progress: Any = None) -> Estimate:
        """Answer one case."""
        import torch

        from unstir.operator import Mask
        from unstir.steer import DataConsistency
        from unstir_skeleton.prior import SmoothPrior

        seen = torch.from_numpy(case.measurement.seen.values)
        signal = torch.from_numpy(case.measurement.signal.values).float()
        pull = DataConsistency(Mask(seen), signal, iterations=3, noise=case.context["noise"])
        denoiser = SmoothPrior(len(signal))
        samples = unstir.sample(denoiser, self.draws, solver=self.solver, grid=self.grid, steers=[pull], seed=seed, progress=progress)
        return Estimate(as_signal(np.asarray(samples, dtype=float).mean(0), case.key), nfe=samples.nfe * self.draws)
