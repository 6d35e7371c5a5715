"""Total variation and data consistency along a whole trajectory, by an ADMM that never starts anew.

    x0' = one or a few ADMM iterations on  1/2 ||y - A x||^2 + lam TV(x),  from x0, with (z, w) kept from the step before

Reference: Chung et al. 2023 (DiffusionMBIR, on the noisy state), arXiv:2211.10655; Chung, Lee & Ye 2024 (DDS, on the estimate),
arXiv:2303.05754.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from unstir.operator.base import Operator
from unstir.operator.proximal import Trust
from unstir.operator.tv import admm_tv, check_tv
from unstir.steer.base import Moment, Steer, check_on, edited, per_sample


@dataclass(frozen=True, eq=False)
class AdmmTV(Steer):
    """Couple the slices of a volume by total variation while fitting a measurement; per sample, warm-started through the trajectory.

    Args:
        operator: A, of the whole volume.
        y: the measurement, (*shape_out), (1, *shape_out) or one a sample of the run.
        lam: weight of the total variation, above 0.
        rho: penalty of the splitting, above 0.
        outer: ADMM iterations a step.
        cg: conjugate-gradient iterations each.
        axes: axes of the volume that are differenced; the first (through-plane) by default.
        isotropic: couple the axes at each voxel.
        boundary: ``"neumann"`` or ``"periodic"``.
        weights: one factor an axis, such as 1 / spacing.
        gamma: adds a pull of weight 1/gamma towards the estimate; from the noise level with ``noise``; none without both.
        noise: standard deviation of the measurement noise: gamma = rho_t^2/noise^2.
        on: ``"clean"`` edits the estimate (DDS), ``"noisy"`` the noisy state (DiffusionMBIR).

    Raises:
        UserError: a measurement that does not fit, lam or rho not above 0, an axis of one slice, negative noise.
    """

    operator: Operator
    y: Tensor
    lam: float
    rho: float
    outer: int = 1
    cg: int = 5
    axes: Sequence[int] | None = (0,)
    isotropic: bool = False
    boundary: str = "neumann"
    weights: Sequence[float] | None = None
    gamma: float | None = None
    noise: float | None = None
    on: str = "clean"
    exactness: ClassVar[str] = "biased: a penalised estimate; it fits the data exactly as lam tends to 0 and the iterations grow"
    _trust: Trust = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_on(self.on)
        object.__setattr__(self, "_trust", Trust(self.gamma, self.noise))
        check_tv(self.operator, self.lam, self.rho, self.outer, self.cg, self.axes, self.boundary, self.weights)
        object.__setattr__(self, "y", self.operator.measurement(self.y))

    def after(self, x: Tensor, moment: Moment) -> Tensor:  # type: ignore[override]
        """The state after ``outer`` more iterations of the trajectory's one ADMM."""
        return edited(x, moment, self.on, lambda x0: self.solve(x0, per_sample(self.y, moment, x0), moment))

    def solve(self, x0: Tensor, y: Tensor, moment: Moment) -> Tensor:
        """x0'; keeps (z, w) in the moment's memory."""
        gamma = self._trust.at(moment.rho)
        if gamma == 0:
            return x0.clone()
        x, moment.memory["state"] = admm_tv(
            self.operator,
            y,
            lam=self.lam,
            rho=self.rho,
            outer=self.outer,
            cg=self.cg,
            axes=self.axes,
            isotropic=self.isotropic,
            boundary=self.boundary,
            weights=self.weights,
            start=x0,
            state=moment.memory.get("state"),
            centre=x0 if 1 / gamma > 0 else None,
            pull=1 / gamma,
        )
        return x
