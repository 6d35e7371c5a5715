"""RED-diff: fit the mean of a narrow normal law to measurement and prior by gradient descent; samples are that mean.

    min_mu ||y - A mu||^2/(2 R) + lam E_t,eps [ w(t) <sg(eps_hat(x_t) - eps), mu> ],      x_t = alpha mu + sigma eps,  w = rho^power
    eps_hat - eps = (alpha/sigma) (mu - D(x_t)),      Adam on mu, one step of it a step of the grid, t from noisy to clean

No Jacobian of the network. The fixed point for a normal prior N(m, C) is not the posterior mean:

    [A^H A/R + lam sum_t w alpha sigma (alpha^2 C + sigma^2)^-1] (mu - m) = A^H (y - A m)/R

Reference: Mardani et al. 2023 (RED-diff), arXiv:2305.04391.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.operator.base import Operator
from unstir.steer.base import Moment, Steer, per_sample


@dataclass(frozen=True, eq=False)
class REDDiff(Steer):
    """Variational fit of mu along the grid, per sample; for one-evaluation solvers, whose steps it replaces.

    Args:
        operator: A.
        y: the measurement, (*shape_out), (1, *shape_out) or one a sample of the run.
        noise: standard deviation of the measurement noise, above 0; the paper leaves it 1.
        lam: weight of the prior, at least 0.
        power: of rho in the weight w; 1 is the paper's 1/sqrt(SNR).
        rate: Adam's step, in units of the state, above 0.

    Raises:
        UserError: a measurement that does not fit or is not finite, noise or rate not above 0, negative lam.
    """

    operator: Operator
    y: Tensor
    noise: float = 1.0
    lam: float = 0.25
    power: float = 1.0
    rate: float = 0.1
    exactness: ClassVar[str] = "biased: seeks a point of high density (the score's Jacobian is left out) and has no spread of its own"

    def __post_init__(self) -> None:
        if not 0 < self.noise < math.inf or not self.rate > 0 or not self.lam >= 0 or not math.isfinite(self.power):
            raise UserError(
                "RED-diff needs noise and rate above 0, lam at least 0 and a finite power, "
                f"got {self.noise}, {self.rate}, {self.lam} and {self.power}"
            )
        object.__setattr__(self, "y", self.operator.measurement(self.y))

    def before(self, x: Tensor, moment: Moment) -> Tensor:  # type: ignore[override]
        """The state; at first, the pseudo-inverse of the measurement made noisy."""
        if "mean" in moment.memory:
            return x
        moment.memory["mean"] = self.operator.pinv(per_sample(self.y, moment, x))
        moment.memory["first"], moment.memory["second"] = torch.zeros_like(x), torch.zeros_like(x)
        return self._noisy(moment.memory["mean"], moment, moment.row.t)

    def after(self, x: Tensor, moment: Moment) -> Tensor:  # type: ignore[override]
        """The mean after one more step of Adam, made noisy (and clean after the last)."""
        notes, row = moment.memory, moment.row
        mean, rho = notes["mean"], float(row.rho_t)  # type: ignore[arg-type]
        gradient = self.operator.adjoint(self.operator(mean) - per_sample(self.y, moment, x)) / self.noise**2
        if math.isfinite(rho):
            gradient = gradient + self.lam * rho ** (self.power - 1) * (mean - moment.x0)
        notes["first"] = torch.lerp(gradient, notes["first"], 0.9)
        notes["second"] = torch.lerp(gradient.square(), notes["second"], 0.99)
        first, second = notes["first"] / (1 - 0.9 ** (row.index + 1)), notes["second"] / (1 - 0.99 ** (row.index + 1))
        notes["mean"] = mean - self.rate * first / (second.sqrt() + 1e-8)
        return self._noisy(notes["mean"], moment, row.s, clean=moment.last)

    @staticmethod
    def _noisy(mean: Tensor, moment: Moment, t: Any, clean: bool = False) -> Tensor:
        if clean or moment.noise is None:
            noise = torch.zeros_like(mean)
        else:
            noise = moment.noise.draw(tuple(mean.shape[1:]), mean.dtype, mean.device, "red-diff")
        return moment.process.perturb(mean, t, noise, moment.anchor)
