"""Pull the clean estimate towards a measurement by a few conjugate-gradient iterations.

    x0' = CG_M[(I + gamma A^H A) x = x0 + gamma A^H y], from x0;      x_s <- x_s + alpha_s (x0' - x0)

The noise direction stays that of the network, so every step moves the state by the whole of x0' - x0: more steps bind it tighter. The guide
``ProximalData`` moves it in proportion to the step instead, and has a limit.
Reference: Chung, Lee & Ye 2024 (DDS), arXiv:2303.05754; Wang et al. 2023 (DDNM), arXiv:2212.00490.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from unstir.errors import UserError
from unstir.operator.base import Operator
from unstir.operator.proximal import Proximal, Trust
from unstir.steer.base import Moment, Steer, check_on, edited, per_sample


@dataclass(frozen=True, eq=False)
class DataConsistency(Steer):
    """Conjugate gradients towards a measurement after every step, started at the current estimate; per sample.

    Args:
        operator: A.
        y: the measurement, (*shape_out), (1, *shape_out) or one a sample of the run.
        iterations: conjugate-gradient iterations M, at least 1.
        gamma: weight of the data; from the noise level when absent.
        noise: standard deviation of the measurement noise: gamma = rho_t^2/noise^2 (DiffPIR's lambda multiplies noise^2). Without ``gamma``
            and ``noise`` (or with noise 0) the data alone count, and the number of iterations decides.
        tolerance: stop a sample when the residual of the equation has shrunk by this factor.
        discrepancy: tau: stop a sample at ||y - A x|| <= tau noise sqrt(m), m measured values; costs one A an iteration.
        on: ``"clean"`` edits the estimate (exact for every step affine in x0), ``"noisy"`` the noisy state.

    Raises:
        UserError: a measurement that does not fit or is not finite, negative noise, gamma not above 0, fewer than 1 iteration.
    """

    operator: Operator
    y: Tensor
    iterations: int = 5
    gamma: float | None = None
    noise: float | None = None
    tolerance: float = 0.0
    discrepancy: float | None = None
    on: str = "clean"
    exactness: ClassVar[str] = "biased, towards too little spread; consistent with the data as gamma and the iterations grow"
    _trust: Trust = field(init=False, repr=False)
    _step: Proximal = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_on(self.on)
        if self.discrepancy is not None and not (self.discrepancy > 0 and self.noise):
            raise UserError("the discrepancy rule needs discrepancy above 0 and the noise of the measurement")
        within = self.discrepancy * self.noise * math.sqrt(math.prod(self.operator.shape_out)) if self.discrepancy and self.noise else None
        object.__setattr__(self, "_trust", Trust(self.gamma, self.noise))
        object.__setattr__(self, "_step", Proximal(self.operator, self.iterations, self.tolerance, within))
        object.__setattr__(self, "y", self.operator.measurement(self.y))

    def after(self, x: Tensor, moment: Moment) -> Tensor:  # type: ignore[override]
        """The state, consistent with the measurement as far as gamma and the iterations take it."""
        return edited(x, moment, self.on, lambda x0: self._step(x0, per_sample(self.y, moment, x0), self._trust.at(moment.rho)))
