"""Langevin steps on the score of one noise level, begun at data.

    x <- x + delta score(x, t) + sqrt(2 delta) z,      score = (alpha D - x)/sigma^2

Begun at noise, such a chain does not find the weights of far modes in any reasonable time; begun at data and stopped early it has them.
Reference: Koehler & Vuong 2023, arXiv:2310.01762 (data initialisation on the vanilla score).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unstir.denoiser import Denoiser
from unstir.errors import UserError
from unstir.noise import NoiseSource


def langevin_chain(
    denoiser: Denoiser,
    x: Tensor,
    t: float,
    *,
    steps: int,
    size: float,
    condition: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> tuple[Tensor, float]:
    """Unadjusted Langevin at time t, from given states; as biased as the steps are long, and where the chain is short, by its beginning.

    Args:
        denoiser: gives the score at t; take the smallest noise it knows for the score of the data.
        x: states to begin at (count, *shape), such as data.
        t: a time with some noise.
        steps: number of steps, one evaluation each.
        size: delta, in squared units of the state.
        condition: of the denoiser, one row a state or one for all.
        seed: of the noise, keyed by row.

    Returns:
        ``(states (count, *shape), t)``, for ``start``.

    Raises:
        UserError: there is no noise at t, the process has an anchor, or the steps or their size are out of range.
    """
    process = denoiser.process
    alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
    if process.anchored or not sigma > 0:
        raise UserError(f"Langevin needs the score, which takes noise and no anchor; sigma is {sigma} at time {t} of {process!r}")
    if steps < 0 or not 0 < size < math.inf:
        raise UserError(f"Langevin takes at least 0 steps of a positive size, got {steps} and {size}")
    source = NoiseSource(seed, range(len(x)))
    x = x.clone()
    with torch.no_grad():
        for _ in range(steps):
            score = (alpha * denoiser(x, t, condition) - x) / sigma**2
            noise = source.draw(tuple(x.shape[1:]), x.dtype, x.device, "langevin")
            x.add_(denoiser.space.project(score, condition), alpha=size)
            x.add_(denoiser.space.draw(noise, condition), alpha=math.sqrt(2 * size))
    return x, t
