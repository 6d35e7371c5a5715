"""DifFace: begin the reverse process in its middle, at a restored image made noisy.

    x_N = alpha_N f(y) + sigma_N eps,       then sample from t_N on, unconditionally

An error e of the restorer enters as alpha_N e and leaves contracted by alpha_N C (alpha_N^2 C + sigma_N^2)^-1/2 C^-1/2 (normal data, flow).
Reference: Yue & Loy 2022 (DifFace), arXiv:2212.06512.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from unstir.denoiser import Denoiser
from unstir.errors import UserError
from unstir.noise import NoiseSource


def difface(denoiser: Denoiser, restored: Tensor, t: float, *, seed: int = 0, condition: Any = None) -> tuple[Tensor, float]:
    """The truncated start of a restored image: ``sample(denoiser, len(restored), start=difface(denoiser, restored, t))``.

    Args:
        denoiser: what will sample; its process and space make the noise.
        restored: f(y), (count, *shape), by any restorer trained for least squares.
        t: where to begin; early (noisy) forgets the restorer's errors, late keeps its content. Chosen on held-out pairs.
        seed: of the noise, which is keyed by sample.
        condition: as for sampling; ``anchor`` for an anchored process.

    Returns:
        ``(state, t)``.

    Raises:
        UserError: the images are not finite, or ``t`` is not a time of the process.
    """
    process = denoiser.process
    if not bool(torch.isfinite(restored).all()):
        raise UserError("the restored images have values that are not finite: every value must be a number")
    if not process.t_zero <= t <= process.t_max:
        raise UserError(f"the start must lie between {process.t_zero} and {process.t_max}, got {t}")
    noise = NoiseSource(seed, range(restored.shape[0])).draw(tuple(restored.shape[1:]), restored.dtype, restored.device, "difface")
    return process.perturb(restored, t, denoiser.space.draw(noise, condition), (condition or {}).get("anchor")), float(t)
