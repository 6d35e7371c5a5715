"""Denoising diffusion restoration: sample each singular coordinate of the measurement by what is less noisy, state or data.

c = V^H D, cbar = U^H y/s, tau = noise/s, rho = sigma/alpha, eps = V^H (x_t - alpha_t D)/sigma_t; in each coordinate of x_s/alpha_s:

    s = 0:        c + sqrt(1 - eta^2) rho_s eps + eta rho_s z
    rho_s < tau:  c + sqrt(1 - eta^2) rho_s (cbar - c)/tau + eta rho_s z
    else:         (1 - eta_b) c + eta_b cbar + sqrt(rho_s^2 - eta_b^2 tau^2) z

The noise has no factor 1/sqrt(2), which one implementation gives it.
Reference: Kawar et al. 2022 (DDRM), arXiv:2201.11793, eq. 7-8.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.operator.base import Operator
from unstir.operator.svd import Singular, singular
from unstir.steer.base import Moment, Steer, per_sample


@dataclass(frozen=True, eq=False)
class DDRM(Steer):
    """Replace every step by DDRM's, per sample; for solvers that evaluate the denoiser once, at the state they step from.

    Args:
        operator: A, real; its singular coordinates are found once.
        y: the measurement, (*shape_out), (1, *shape_out) or one a sample of the run.
        noise: standard deviation of the measurement noise, at least 0.
        eta: share of fresh noise, 0 to 1.
        eta_b: how far well measured coordinates follow the measurement, 0 to 1.

    Raises:
        UserError: a measurement that does not fit or is not finite, negative noise, eta or eta_b outside [0, 1].
    """

    operator: Operator
    y: Tensor
    noise: float = 0.0
    eta: float = 0.85
    eta_b: float = 1.0
    exactness: ClassVar[str] = "biased: eta above 0 does not keep the variance, and unmeasured coordinates are not told of measured ones"
    _svd: Singular = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.noise < math.inf or not 0 <= self.eta <= 1 or not 0 <= self.eta_b <= 1:
            raise UserError(f"DDRM needs noise >= 0 and eta, eta_b in [0, 1], got {self.noise}, {self.eta} and {self.eta_b}")
        object.__setattr__(self, "y", self.operator.measurement(self.y))
        object.__setattr__(self, "_svd", singular(self.operator))

    def before(self, x: Tensor, moment: Moment) -> Tensor:  # type: ignore[override]
        """The state, remembered; the first one moved onto the measurement where that is less noisy."""
        row: Any = moment.row
        if row.index == 0 and row.alpha_t:
            rho = row.rho_t
            known, tau, seen = self._known(x, moment)
            c = self._svd.coordinates((x - self._pull(x, moment, row.t)) / row.alpha_t)
            start = known + torch.sqrt((1 - (tau / rho) ** 2).clamp(min=0)) * c
            c = torch.where(seen & (tau <= rho), start, c)
            x = row.alpha_t * self._svd.state(c) + self._pull(x, moment, row.t)
        moment.memory["state"] = x.clone()  # solvers step in place
        return x

    def after(self, x: Tensor, moment: Moment) -> Tensor:  # type: ignore[override]
        """DDRM's step from the state remembered."""
        row: Any = moment.row
        before, rho = moment.memory["state"], row.rho_s
        known, tau, seen = self._known(x, moment)
        c = self._svd.coordinates(moment.x0)  # type: ignore[arg-type]
        plain = before - self._pull(x, moment, row.t)
        eps = self._svd.coordinates((plain - row.alpha_t * moment.x0) / row.sigma_t)
        z = self._svd.coordinates(moment.noise.draw(tuple(x.shape[1:]), x.dtype, x.device, "ddrm")) if rho else torch.zeros_like(c)  # type: ignore[union-attr]
        kept, fresh = math.sqrt(1 - self.eta**2) * rho, self.eta * rho
        spread = torch.sqrt((rho**2 - (self.eta_b * tau) ** 2).clamp(min=0))
        near = c + kept * (known - c) / torch.where(tau > 0, tau, 1.0) + fresh * z
        far = torch.lerp(c, known, self.eta_b) + spread * z
        c = torch.where(seen, torch.where(rho < tau, near, far), c + kept * eps + fresh * z)
        return row.alpha_s * self._svd.state(c) + self._pull(x, moment, row.s)

    def _known(self, x: Tensor, moment: Moment) -> tuple[Tensor, Tensor, Tensor]:
        """cbar (batch, n), tau (n,) and which coordinates are measured."""
        s = self._svd.values.to(x.device, x.dtype)
        return self._svd.measured(per_sample(self.y, moment, x)), self.noise / torch.where(s > 0, s, 1.0), s > 0

    @staticmethod
    def _pull(x: Tensor, moment: Moment, t: float) -> float | Tensor:
        """beta(t) times the anchor."""
        return float(moment.process.beta(t)) * moment.anchor if moment.process.anchored else 0.0
