"""Cold diffusion: a deterministic degradation in place of noise.

x_t = Deg(x_0, t),        Deg(x_0, 0) = x_0          [Bansal et al. 2022, arXiv:2208.09392]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.process.base import Process, Time
from unstir.process.multivariate import filtered, frequencies


@dataclass(frozen=True)
class Cold(Process):
    """A process that degrades and draws nothing; sampling starts from a degraded state, ``start=(x, t)``.

    Args:
        degrade: of clean states (batch, *shape) and a time, gives x_t of the same shape; a Gaussian blur when absent.
        t_min, t_max: sampling interval.
    """

    degrade: Callable[[Tensor, float], Tensor] | None = None
    t_min: float = 0.0
    t_max: float = 1.0
    scalar: ClassVar[bool] = False

    def alpha(self, t: Time) -> Tensor:
        """1 - t/t_max: how much is left; it only orders the times."""
        return 1 - self.time(t) / self.t_max

    def sigma(self, t: Time) -> Tensor:
        """0: there is no noise."""
        return torch.zeros_like(self.time(t))

    def rho(self, t: Time) -> Tensor:
        """t/t_max, by which grids are laid."""
        return self.time(t) / self.t_max

    def time_at_rho(self, rho: float | Tensor) -> Tensor:
        """t_max rho."""
        return self.t_max * torch.as_tensor(rho, dtype=torch.float64)

    def carry(self, x0: Tensor, t: float) -> Tensor:
        """Deg(x_0, t).

        Args:
            x0: clean states (batch, *shape).
            t: one time for all.

        Raises:
            UserError: the degradation changed the shape.
        """
        made = blurred(x0, t) if self.degrade is None else self.degrade(x0, t)
        if made.shape != x0.shape:
            raise UserError(f"a degradation keeps the shape of a state, and this one made {tuple(made.shape)} of {tuple(x0.shape)}")
        return made

    def begin(self, noise: Tensor, t: float) -> Tensor:
        """Refuse: there is no noise to begin with.

        Args:
            noise: unit noise.
            t: the time.

        Raises:
            UserError: always.
        """
        raise UserError("a Cold process has no noise to begin with: give a degraded state as start=(state, t)")

    def perturb(self, x0: Tensor, t: float, noise: Tensor, anchor: Tensor | None = None) -> Tensor:
        """Deg(x_0, t); noise and anchor are not used.

        Args:
            x0: clean states (batch, *shape).
            t: one time for all.
            noise: not used.
            anchor: not used.
        """
        return self.carry(x0, float(t))


def blurred(x0: Tensor, t: float, *, width: float = 3.0, dims: int = 2) -> Tensor:
    """A Gaussian blur of the last axes, circular: the spectrum times exp(-2 (pi width t |k|/n)^2).

    Args:
        x0: (batch, ..., *axes).
        t: from 0, no blur, to 1.
        width: standard deviation at t = 1, in cells.
        dims: how many axes.

    Returns:
        Of the shape and dtype of ``x0``.
    """
    shape = tuple(x0.shape[-dims:])
    cycles = frequencies(shape) / max(shape)
    return filtered(x0, torch.exp(-2 * (torch.pi * width * t * cycles) ** 2), dims)
