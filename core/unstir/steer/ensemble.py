"""Ensemble Kalman guidance: the particles of one problem tell each other what a measurement says, without a derivative or an adjoint.

    D'_j = D_j + P (S + R)^-1 (y - G(D_j)),      x_s <- x_s + b (D' - D),     b = alpha_s (1 - r) or alpha_s (1 - r^2),  r = rho_s/rho_t
    P = (sigma_t^2/alpha_t) Cov(x_t)^-1 Cov(x_t, G(D)) = V A^T,      S = Cov(G(D), D) Cov(D)^-1 P = A V A^T

over the particles. Cov(D, G(D)) alone is not V A^T = Cov[x0 | x_t] A^T: it holds the spread of the particles, and tends to C A^T.
Reference: Zheng et al. 2024 (EnKG), arXiv:2409.20175, with the gain of Rozet et al. 2024 (MMPS), arXiv:2405.13712.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.steer.base import Moment, Steer, per_sample


@dataclass(frozen=True, eq=False)
class EnsembleKalman(Steer):
    """Move the particles of each problem by a Kalman gain from their own statistics; one evaluation of the denoiser each.

    Args:
        operator: G, a linear operator or any function from (batch, *shape) to (batch, *measurement).
        y: the measurement, (1, *measurement) for all samples or one a sample of the run (that of a problem's first particle counts).
        noise: standard deviation of the measurement noise, above 0.
        particles: samples a problem; more than a state has entries, for the gain to be that of the whole state.
        kind: ``"flow"`` for solvers of the flow (with DDIM's steps it is the guide), ``"sde"`` for ancestral ones.

    Raises:
        UserError: a measurement that is not finite, noise not above 0, fewer than 2 particles, or another kind.
    """

    operator: Callable[[Tensor], Tensor]
    y: Tensor
    noise: float = 0.1
    particles: int = 64
    kind: str = "flow"
    exactness: ClassVar[str] = "that of MMPS where denoiser and G are affine and particles outnumber a state's entries; biased otherwise"

    def __post_init__(self) -> None:
        if not self.noise > 0 or self.particles < 2 or self.kind not in ("flow", "sde"):
            raise UserError(
                "EnsembleKalman needs noise above 0, at least 2 particles and the kind 'flow' or 'sde', "
                f"got {self.noise}, {self.particles} and {self.kind!r}"
            )
        if not bool(torch.isfinite(self.y).all()):
            raise UserError("the measurement of EnsembleKalman has values that are not finite: every value must be a number")

    def before(self, x: Tensor, moment: Moment) -> Tensor:  # type: ignore[override]
        """The state, remembered with its estimate."""
        moment.memory["state"], moment.memory["estimate"] = x.clone(), moment.look()
        return x

    def after(self, x: Tensor, moment: Moment) -> Tensor:  # type: ignore[override]
        """The state, moved as its estimate is."""
        row = moment.row
        ratio = row.rho_s / row.rho_t if row.alpha_t else 0.0  # type: ignore[operator]
        b = row.alpha_s * (1 - (ratio if self.kind == "flow" else ratio**2))  # type: ignore[operator]
        if not row.alpha_t:
            return x
        scale = row.sigma_t**2 / row.alpha_t  # type: ignore[operator]
        return x + b * self.change(moment.memory["state"], moment.memory["estimate"], per_sample(self.y, moment, x), scale)

    def change(self, x: Tensor, x0: Tensor, y: Tensor, scale: float) -> Tensor:
        """D' - D of every particle.

        Args:
            y: (batch, *measurement).
            scale: sigma_t^2/alpha_t.

        Returns:
            (batch, *shape).

        Raises:
            UserError: the measurement does not have the shape that G gives.
        """
        seen = self.operator(x0)
        if seen.shape != y.shape:
            raise UserError(f"a measurement of EnsembleKalman must have shape {tuple(seen.shape[1:])}, got {tuple(y.shape[1:])}")
        state, estimate, found, given = (v.reshape(-1, self.particles, v[0].numel()) for v in (x, x0, seen, y))  # (problems, particles, -)
        spread, believed, seen_spread = (v - v.mean(1, keepdim=True) for v in (state, estimate, found))
        p = scale * torch.linalg.pinv(spread) @ seen_spread  # V A^T, (problems, n, m)
        s = p.mT @ torch.linalg.pinv(believed) @ seen_spread  # A V A^T
        s = (s + s.mT) / 2 + self.noise**2 * torch.eye(s.shape[-1], dtype=s.dtype, device=s.device)
        moved = torch.linalg.solve(s, (given[:, :1] - found).mT)  # (problems, m, particles)
        return (p @ moved).mT.reshape(x0.shape)
