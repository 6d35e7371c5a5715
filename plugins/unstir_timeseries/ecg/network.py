"""What the network is told of a heart rate, and records drawn at heart rates.

c = (1, r, 60/r), r and 60/r scaled to [-1, 1] over the rates of the records; (0, 0, 0) where nothing is told
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import unstir
from unstir.denoiser import Denoiser
from unstir.guide import CFG
from unstir.plugin.protocols import Progress
from unstir_timeseries.ecg.records import RANGE

SOLVER = "dpm++2m"
GRID = "karras:24,sigma_max=40,sigma_min=0.005"
KIND = "ecg conditioned on heart rate"


def told(rates: NDArray[np.floating] | Tensor) -> Tensor:
    """What the network is told of heart rates; zeros would say that it is told nothing.

    Args:
        rates: (batch,) beats per minute.

    Returns:
        (batch, 3): 1, the rate and the time between beats, both scaled to [-1, 1] over `RANGE`.
    """
    rate = torch.as_tensor(rates, dtype=torch.float64)
    low, high = RANGE
    pace = (2 * rate - low - high) / (high - low)
    gap = (2 * 60 / rate - 60 / low - 60 / high) / (60 / low - 60 / high)
    return torch.stack((torch.ones_like(rate), pace, gap), -1).float()


def generated(
    prior: Denoiser,
    rates: NDArray[np.floating],
    *,
    seed: int,
    solver: str = SOLVER,
    grid: str = GRID,
    weight: float = 1.0,
    conditioned: bool = True,
    progress: Progress = None,
) -> tuple[NDArray[Any], int]:
    """Records drawn at heart rates.

    Args:
        prior: the trained denoiser.
        rates: (records,) beats per minute.
        seed: of the draw.
        solver: name of the solver.
        grid: name of the grid.
        weight: of classifier-free guidance; 1 is the plain conditional law.
        conditioned: is the network told the rates?
        progress: told of each step.

    Returns:
        (records, 12, samples) in mV, and the evaluations of the network.
    """
    device = next((p.device for p in prior.parameters()), torch.device("cpu"))
    features = told(rates).to(device) * conditioned
    guides = [CFG(weight, {"features": torch.zeros_like(features[:1])})] if conditioned and weight != 1 else []
    drawn = unstir.sample(
        prior, len(rates), solver=solver, grid=grid, guides=guides, condition={"features": features}, seed=seed, progress=progress
    )
    return prior.normaliser.decode(drawn.x).cpu().numpy().astype(np.float64), drawn.nfe
