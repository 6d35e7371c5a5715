"""A network that is told the beats as a clock, and records drawn at heart rates.

    F([x; cos p; sin p], label, c),    p(t) = p_0 + 2 pi r t/60,    c = (1, r, 60/r, cos p_0, sin p_0);    all 0 where r is not told
    p(x | r) = integral of p(x | r, p_0) over p_0 uniform on the circle

R peaks stand where the clock is at 0, as in ECGSYN itself. Told the rate r alone, a convolution of this size must measure each gap
between beats anew, and the gaps scatter: its heart rates were off by 8 to 10 beats per minute.
[U-Net: Ronneberger et al. 2015, arXiv:1505.04597; McSharry et al. 2003, IEEE Trans. Biomed. Eng. 50(3)]
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import unstir
from unstir.denoiser import Denoiser
from unstir.errors import UserError
from unstir.guide import CFG
from unstir.nn import UNet
from unstir.plugin.protocols import Progress
from unstir_timeseries.ecg.records import RANGE

SOLVER = "dpm++2m"
GRID = "karras:24,sigma_max=40,sigma_min=0.005"
TOLD = 5
"""Numbers that the network is told."""
KIND = "ecg conditioned on heart rate"


class BeatNetwork(nn.Module):
    """The core's one-dimensional U-Net with the clock of the beats beside the leads.

    Args:
        leads: channels of the state.
        sampling_rate: samples per second.
        widths: channels of each level; each level halves the resolution.
        attention: levels with self-attention, which lets all beats be one person's.
        blocks: residual blocks a level.
        stem: samples that are folded into channels.
        embedding: width of the label's embedding.

    Raises:
        UserError: the U-Net cannot be built so.
    """

    def __init__(
        self,
        leads: int = 12,
        sampling_rate: int = 100,
        widths: Sequence[int] = (40, 32, 48),
        attention: Sequence[int] = (2,),
        blocks: int = 1,
        stem: int = 2,
        embedding: int = 64,
    ) -> None:
        super().__init__()
        self.sampling_rate = sampling_rate
        self.unet = UNet(1, leads + 2, leads, widths, blocks, stem, attention, embedding, features=TOLD)

    def forward(self, x: Tensor, label: Tensor, condition: Mapping[str, Tensor] | None = None) -> Tensor:
        """Apply the network.

        Args:
            x: (batch, leads, samples).
            label: noise label, (batch,).
            condition: ``features`` (batch or 1, 5) as `told` makes them.

        Returns:
            (batch, leads, samples).

        Raises:
            UserError: the features are missing.
        """
        if condition is None or "features" not in condition:
            raise UserError(f"this network needs condition['features'], a tensor of shape (batch, {TOLD})")
        return self.unet(torch.cat((x, self.clock(condition["features"], x)), 1), label, condition)

    def clock(self, features: Tensor, x: Tensor) -> Tensor:
        """cos and sin of the phase of the beats, zeros where none is told.

        Args:
            features: (batch or 1, 5) as `told` makes them.
            x: the state, for its size.

        Returns:
            (batch, 2, samples).
        """
        low, high = RANGE
        rate = (low + high + (high - low) * features[:, 1].float()) / 2
        seconds = torch.arange(x.shape[-1], device=x.device) / self.sampling_rate
        start = torch.atan2(features[:, 4].float(), features[:, 3].float())
        phase = start[:, None] + 2 * math.pi / 60 * rate[:, None] * seconds
        clock = torch.stack((phase.cos(), phase.sin()), 1) * features[:, :1, None]
        return clock.to(x.dtype).expand(x.shape[0], -1, -1)


def told(rates: NDArray[np.floating], phases: NDArray[np.floating]) -> Tensor:
    """What the network is told of the beats; zeros would say that it is told nothing.

    Args:
        rates: (batch,) beats per minute.
        phases: (batch,) of the beat at the first sample, in radians; an R peak is at 0.

    Returns:
        (batch, 5): 1, the rate and the time between beats, both scaled to [-1, 1] over `RANGE`, cos and sin of the phase.
    """
    low, high = RANGE
    pace = (2 * rates - low - high) / (high - low)
    gap = (2 * 60 / rates - 60 / low - 60 / high) / (60 / low - 60 / high)
    return torch.from_numpy(np.stack((np.ones_like(pace), pace, gap, np.cos(phases), np.sin(phases)), -1)).float()


def phase_of(peaks: NDArray[np.integer], rate: float, sampling_rate: float) -> float:
    """Phase at sample 0 of the clock whose zeros come nearest to the R peaks: the angle of the mean of exp(-2 pi i r t_k/60).

    Args:
        peaks: (n,) sample numbers of R peaks.
        rate: beats per minute.
        sampling_rate: samples per second.

    Returns:
        Radians, in (-pi, pi].
    """
    return float(np.angle(np.exp(-2j * math.pi / 60 * rate * np.asarray(peaks) / sampling_rate).mean()))


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
        rates: (records,) beats per minute; the phase of the first beat is drawn.
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
    phases = np.random.default_rng([seed, 1]).uniform(-math.pi, math.pi, len(rates))
    features = told(np.asarray(rates, dtype=np.float64), phases).to(device) * conditioned
    guides = [CFG(weight, {"features": torch.zeros_like(features[:1])})] if conditioned and weight != 1 else []
    drawn = unstir.sample(
        prior, len(rates), solver=solver, grid=grid, guides=guides, condition={"features": features}, seed=seed, progress=progress
    )
    return prior.normaliser.decode(drawn.x).cpu().numpy().astype(np.float64), drawn.nfe
