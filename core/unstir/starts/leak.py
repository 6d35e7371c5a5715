"""Starts with a signal leak: a process that ends short of pure noise was trained with data left in its last state.

    x_T = alpha_T x' + sigma_T eps,      x' drawn from a normal law fitted to the data

Started from N(0, I) instead, a direction of the data with variance l comes out with variance l/(alpha_T^2 l + sigma_T^2).
Reference: Everaert et al. 2024, arXiv:2309.15842.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.noise import NoiseSource
from unstir.process import Process
from unstir.starts.teleport import Gaussian


def leaked(law: Gaussian, process: Process, count: int, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[Tensor, float]:
    """The last state of a process, its leak of data drawn from a normal law; exact for normal data.

    Args:
        law: fitted to the data; a few components suffice, the leak is felt in large variances (brightness, low frequencies).
        process: of the denoiser, without an anchor.
        count: number of samples.
        seed: of the draws.
        dtype: of the states.

    Returns:
        ``(states (count, *shape), t_max)``, for ``start``.

    Raises:
        UserError: the process has an anchor.
    """
    if process.anchored:
        raise UserError(f"a leak is of the data alone, and {type(process).__name__} has an anchor")
    source, t = NoiseSource(seed, range(count)), process.t_max
    noise = source.draw(tuple(law.mean.shape), torch.float64, stream="start")
    return process.perturb(law.draw(source), t, noise).to(dtype), t
