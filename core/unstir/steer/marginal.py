"""Match the values of each sample to a reference: its colours, its histogram, the climatology of a field.

    x0 <- x0 + strength (T(x0) - x0),   then the step goes on, x_s <- x_s + alpha_s (change of x0)

    nearest:  each place takes the reference value nearest to it (all channels together: a colour)
    sorted:   each channel's k-th smallest of n values takes the reference's quantile (k - 1/2)/n: the optimal map in one dimension
    sliced:   sorted along random directions of the channels, one after another: a map of colours that keeps what channels share

Reference: Shum et al. 2025 (color alignment in diffusion), arXiv:2503.06746; Rabin et al. 2012 (sliced optimal transport).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.steer.base import Moment, Steer, edited

Match = Literal["nearest", "sorted", "sliced"]


@dataclass(frozen=True, eq=False)
class MatchMarginal(Steer):
    """Gives every sample the values of a reference, each sample on its own, and leaves it to the denoiser where they go.

    Args:
        reference: the values, (n, channels); (n,) for one channel. States are (batch, channels, *cells), or (batch, *cells) for one.
        match: ``"sorted"`` (each channel's histogram), ``"sliced"`` (all channels together) or ``"nearest"`` (values of the set, in any
            numbers).
        strength: share of the way there, from 0 to 1, before the last step; the last goes all the way.
        high: begin when a step starts from a sigma/alpha of at most this: before, the estimate is a blur and has few values.
        directions: of ``"sliced"``.

    Raises:
        UserError: a reference that is not values by channels or not finite, another match, or an option out of range.
    """

    reference: Tensor
    match: Match = "sorted"
    strength: float = 1.0
    high: float = math.inf
    directions: int = 16
    exactness: ClassVar[str] = "exact in the values at the end (sliced: nearly); biased in where they are, which no law is known for"

    def __post_init__(self) -> None:
        if self.reference.ndim not in (1, 2) or not len(self.reference) or not bool(torch.isfinite(self.reference).all()):
            raise UserError(f"a reference is finite values by channels, (n, channels) or (n,), got {tuple(self.reference.shape)}")
        if self.match not in get_args(Match) or not 0 <= self.strength <= 1 or not self.high > 0 or self.directions < 1:
            raise UserError(
                "match is 'nearest', 'sorted' or 'sliced', strength from 0 to 1, high above 0, directions at least 1, got "
                f"{self.match!r}, {self.strength}, {self.high} and {self.directions}"
            )

    def after(self, x: Tensor, moment: Moment) -> Tensor:  # type: ignore[override]
        """The state with the values of its estimate matched."""
        row = moment.row
        upwards = row.rho_s > row.rho_t  # type: ignore[operator]
        if upwards or row.rho_t > self.high or (self.strength == 0 and not moment.last):  # type: ignore[operator]
            return x
        clean = row.sigma_s == 0
        strength = 1.0 if clean else self.strength
        return edited(x, moment, "noisy" if clean else "clean", lambda x0: torch.lerp(x0, self.matched(x0), strength))

    def matched(self, x0: Tensor) -> Tensor:
        """The clean states with the reference's values.

        Args:
            x0: (batch, channels, *cells), or (batch, *cells).

        Returns:
            New states of that shape.

        Raises:
            UserError: other channels than those of the reference.
        """
        reference = self.reference.to(x0)
        if reference.ndim == 2 and (x0.ndim < 2 or x0.shape[1] != reference.shape[1]):
            raise UserError(f"the reference has {reference.shape[1]} channels, and the state is {tuple(x0.shape[1:])}")
        flat = x0.flatten(2) if reference.ndim == 2 else x0.flatten(1).unsqueeze(1)
        table = reference.mT if reference.ndim == 2 else reference.unsqueeze(0)
        if self.match == "nearest":
            found = table[:, torch.cdist(flat.mT, table.mT[None]).argmin(2)].movedim(0, 1)
        elif self.match == "sorted":
            found = _sorted(flat, table)
        else:
            found = self._sliced(flat, table)
        return found.reshape(x0.shape)

    def _sliced(self, flat: Tensor, table: Tensor) -> Tensor:
        """Sorted along the axes of random bases, in turn."""
        generator = torch.Generator().manual_seed(0)
        channels = len(table)
        for _ in range(self.directions):
            basis, _ = torch.linalg.qr(torch.randn(channels, channels, generator=generator, dtype=torch.float64))
            basis = basis.to(table)
            flat = torch.einsum("ij,bjn->bin", basis.mT, _sorted(torch.einsum("ij,bjn->bin", basis, flat), basis @ table))
        return flat


def _sorted(flat: Tensor, table: Tensor) -> Tensor:
    """The value of each rank from the reference's quantiles; flat (batch, channels, n), table (channels, m)."""
    count, known = flat.shape[2], table.sort(1).values
    place = (torch.arange(count, dtype=torch.float64, device=flat.device) + 0.5) / count * table.shape[1] - 0.5
    low = place.floor().clamp(0, table.shape[1] - 1)
    high = (low + 1).clamp(max=table.shape[1] - 1)
    quantiles = torch.lerp(known[:, low.long()], known[:, high.long()], (place - low).clamp(0, 1).to(flat.dtype))
    return torch.empty_like(flat).scatter_(2, flat.argsort(2), quantiles.expand_as(flat))
