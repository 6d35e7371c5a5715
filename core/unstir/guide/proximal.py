"""Let the estimate explain the measurement before the solver sees it.

    DiffPIR:  D'(x, t) = argmin_z  gamma/2 ||y - A z||^2 + 1/2 ||z - D(x, t)||^2,      gamma = rho_t^2/noise^2
    DDNM:     D'(x, t) = A^+ y + (I - A^+ A) D(x, t)                                    its limit for noise 0, by A's own pseudo-inverse

No gradient of the network; works with every solver, histories included, and settles as the steps become finer. DiffPIR as published adds
noise by ``DDIM(eta=sqrt(zeta), kind="dds")``.
Reference: Zhu et al. 2023 (DiffPIR), arXiv:2305.08995; Wang et al. 2023 (DDNM), arXiv:2212.00490.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from unstir.errors import UserError
from unstir.guide.base import Guide, measured
from unstir.guide.likelihood import check_tensor
from unstir.operator.base import Operator
from unstir.operator.proximal import Proximal, Trust

if TYPE_CHECKING:
    from unstir.denoiser.base import Denoiser


@dataclass(frozen=True, eq=False)
class ProximalData(Guide):
    """Replace the estimate by its proximal point under the data, per sample; one evaluation of the denoiser.

    Args:
        operator: A.
        y: the measurement, (*shape_out) or (1, *shape_out) for all samples; or the name of the condition's entry that holds one a sample
            (that entry is then kept from the denoiser).
        gamma: weight of the data; from the noise level when absent.
        noise: standard deviation of the measurement noise: gamma = rho_t^2/noise^2; the data alone count without both.
        iterations: conjugate-gradient iterations.
        tolerance: stop a sample when the residual of the equation has shrunk by this factor.

    Raises:
        UserError: a measurement that does not fit or is not finite, gamma not above 0, negative noise, fewer than 1 iteration.
    """

    operator: Operator
    y: Tensor | str
    gamma: float | None = None
    noise: float | None = None
    iterations: int = 20
    tolerance: float = 1e-4
    exactness: ClassVar[str] = "exact where Cov[x0 | x_t] = rho_t^2 I and the equation is solved; biased otherwise"
    _trust: Trust = field(init=False, repr=False)
    _step: Proximal = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_trust", Trust(self.gamma, self.noise))
        object.__setattr__(self, "_step", Proximal(self.operator, self.iterations, self.tolerance))
        if isinstance(self.y, Tensor):
            object.__setattr__(self, "y", self.operator.measurement(self.y, shared=True))

    def estimate(self, denoiser: Denoiser, x: Tensor, t: Any, condition: Mapping[str, Any] | None) -> Tensor:  # type: ignore[override]
        """The estimate that explains the measurement as far as gamma asks."""
        if not isinstance(x, Tensor) or isinstance(t, Tensor):
            raise UserError("ProximalData guides a tensor at one time for all samples, not a dict of leaves or a time a sample")
        y, condition = measured(self.operator, self.y, condition, x)
        return self._step(denoiser(x, t, condition), y, self._trust.at(float(denoiser.process.rho(t))))


@dataclass(frozen=True, eq=False)
class DDNM(Guide):
    """Replace what the measurement sees of the estimate by the measurement, per sample; one evaluation of the denoiser.

    Args:
        operator: A, whose ``pinv`` is used.
        y: the measurement, (*shape_out) or (1, *shape_out) for all samples; or the name of the condition's entry that holds one a sample
            (that entry is then kept from the denoiser).

    Raises:
        UserError: a measurement that does not fit or is not finite.
    """

    operator: Operator
    y: Tensor | str
    exactness: ClassVar[str] = "exact in what A sees, for a measurement without noise; biased in the rest, which is not told of it"

    def __post_init__(self) -> None:
        if isinstance(self.y, Tensor):
            object.__setattr__(self, "y", self.operator.measurement(self.y, shared=True))

    def estimate(self, denoiser: Denoiser, x: Tensor, t: Any, condition: Mapping[str, Any] | None) -> Tensor:  # type: ignore[override]
        """The estimate that meets the measurement exactly."""
        check_tensor(x, self)
        y, condition = measured(self.operator, self.y, condition, x)
        x0 = denoiser(x, t, condition)
        return x0 + self.operator.pinv(y - self.operator(x0))
