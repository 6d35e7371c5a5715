"""Two perpendicular 2-D priors of one volume, taken in turn: a third dimension for the price of one evaluation a step.

    log p(x) = w log p_xy(slices along z) + (1 - w) log p_yz(slices along x) + const
    D(x, t) = D_xy(x, t) with probability w, else D_yz(x, t),       drawn once a time

In the limit of fine steps that is the weighted mean of the estimates (``Sliced`` with two axes), for one evaluation instead of two. Neither
samples the product by the flow: for normal priors with common eigenvectors it gives each variance l_1^w l_2^(1-w), their geometric mean,
where the product has the harmonic one, which Langevin corrections at each level restore.
Reference: Lee et al. 2023 (TPDM), arXiv:2303.08440.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import torch
from torch import Tensor

from unstir.denoiser.base import Condition, Denoiser
from unstir.errors import UserError


class Perpendicular(Denoiser):
    """One of two denoisers of the same states at each time, chosen by the time alone (so that no sample depends on its batch).

    Args:
        primary: such as ``Sliced(prior_xy, axis=0)``.
        secondary: such as ``Sliced(prior_yz, axis=2)``, on the same process.
        share: w, of the primary's turns, in [0, 1].
        seed: of the turns.

    Raises:
        UserError: the denoisers differ in process or shape, or the share lies outside [0, 1].
    """

    def __init__(self, primary: Denoiser, secondary: Denoiser, share: float = 0.5, seed: int = 0) -> None:
        if primary.process != secondary.process or primary.shape != secondary.shape:
            raise UserError("perpendicular priors must share process and shape; move one with with_process")
        if not 0 <= share <= 1:
            raise UserError(f"the share of the primary prior must lie in [0, 1], got {share}")
        super().__init__(primary.process, primary.shape, primary.space, primary.normaliser, primary.card)
        self.primary, self.secondary, self.share, self.seed = primary, secondary, share, seed

    def forward(self, x: Any, t: Any, condition: Condition | None = None) -> Any:
        """The estimate of the prior whose turn it is at ``t``."""
        if not isinstance(t, Tensor) or t.ndim == 0:
            return (self.primary if self.is_primary(float(t)) else self.secondary)(x, t, condition)
        turn = torch.tensor([self.is_primary(float(s)) for s in t], device=x.device).view(-1, *[1] * (x.ndim - 1))
        return torch.where(turn, self.primary(x, t, condition), self.secondary(x, t, condition))

    def with_process(self, process: Any) -> Denoiser:
        """Both priors moved to another process."""
        return Perpendicular(self.primary.with_process(process), self.secondary.with_process(process), self.share, self.seed)

    def is_primary(self, t: float) -> bool:
        """Is it the primary's turn at time ``t``?"""
        digest = hashlib.blake2b(struct.pack("<dq", t, self.seed), digest_size=8).digest()
        return int.from_bytes(digest, "little") / 2**64 < self.share
