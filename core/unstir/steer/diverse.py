"""Meaningful diversity: the samples of one problem keep their distance, so that a few of them show all there is.

    j = argmin_k |x0_i - x0_k|  within the problem,  d = |x0_i - x0_j|
    x0_i <- x0_i + strength (D - d)_+ (I - A^+ A)(x0_i - x0_j)/d,          then the step goes on, x_s <- x_s + alpha_s (change of x0)

A, where given, is what measured them: nothing is pushed that the measurement sees. Without it, at strength 1/2, two samples that are each
other's nearest end at distance D. Afterwards, of many samples, a few may be chosen as the farthest points.
Reference: Cohen et al. 2023 (from posterior sampling to meaningful diversity), arXiv:2310.16047; Eldar et al. 1997 (farthest points).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from unstir.errors import UserError
from unstir.operator.base import Operator
from unstir.steer.base import Moment, Steer, edited
from unstir.steer.particles import check_particles


@dataclass(frozen=True, eq=False)
class Diverse(Steer):
    """Pushes each estimate away from the nearest one of its problem while they are closer than ``distance``.

    Args:
        distance: D, in units of the state (the norm over all its entries).
        particles: N, consecutive samples of one problem; other problems are not seen.
        strength: share of the missing distance that a step makes good.
        low: push in steps that start from this sigma/alpha or more; the rest brings samples back to where the data are.
        high: push in steps that start from this sigma/alpha or less.
        operator: A, for samples of an inverse problem: its ``pinv`` keeps pushes out of what it sees.

    Raises:
        UserError: an option out of range.
    """

    distance: float
    particles: int = 4
    strength: float = 0.5
    low: float = 0.0
    high: float = math.inf
    operator: Operator | None = None
    exactness: ClassVar[str] = "biased on purpose: the rare is shown more often than it occurs"

    def __post_init__(self) -> None:
        check_particles(self.particles)
        if not 0 < self.distance < math.inf or not math.isfinite(self.strength) or not 0 <= self.low < self.high:
            raise UserError(
                "diversity needs a distance above 0, a finite strength and 0 <= low < high, got "
                f"{self.distance}, {self.strength}, {self.low} and {self.high}"
            )

    def after(self, x: Tensor, moment: Moment) -> Tensor:  # type: ignore[override]
        """The state with its estimate pushed."""
        row = moment.row
        upwards = row.rho_s > row.rho_t  # type: ignore[operator]
        if moment.last or upwards or self.particles == 1 or not self.low <= row.rho_t <= self.high:  # type: ignore[operator]
            return x
        return edited(x, moment, "clean", self.pushed)

    def pushed(self, x0: Tensor) -> Tensor:
        """The clean estimates at their distance.

        Args:
            x0: (problems N, *shape).

        Returns:
            New estimates of that shape.
        """
        grouped = x0.reshape(-1, self.particles, x0[0].numel())
        apart = (grouped[:, :, None] - grouped[:, None]).norm(dim=3) + torch.diag(x0.new_full((self.particles,), math.inf))
        nearest, which = apart.min(2)
        away = grouped - grouped.gather(1, which.unsqueeze(2).expand_as(grouped))
        share = torch.where(nearest > 0, (self.distance - nearest).clamp(min=0) / torch.where(nearest > 0, nearest, 1.0), 0.0)
        push = (self.strength * share.unsqueeze(2) * away).reshape(x0.shape)
        if self.operator is not None:
            push = push - self.operator.pinv(self.operator(push))
        return x0 + push


def farthest_points(x: Tensor, count: int) -> Int[Tensor, " count"]:
    """Which of many samples to show: the first, then again and again the one farthest from all chosen.

    Args:
        x: samples (n, *shape), or features of them.
        count: how many to choose.

    Returns:
        Their indices, in the order chosen.

    Raises:
        UserError: more than there are, or none.
    """
    if not 1 <= count <= len(x):
        raise UserError(f"of {len(x)} samples 1 to {len(x)} can be chosen, got {count}")
    flat, chosen = x.flatten(1), [0]
    nearest = (flat - flat[0]).norm(dim=1)
    for _ in range(count - 1):
        chosen.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, (flat - flat[chosen[-1]]).norm(dim=1))
    return torch.tensor(chosen)
