"""Blind restoration: fit the parameters of a degradation while sampling, and guide the estimate by what they predict.

    L = 1/2 ||y - f(x0, phi)||^2;     repeat:  x0 <- x0 - w dL/dx0,   phi <- phi - rate dL/dphi/m,      from x0 = D(x_t), phi kept

m is the number of measured values. The guidance is on the estimate (through the denoiser with ``through``, DPS-like, for comparison).
Reference: Fei et al. 2023 (GDP), arXiv:2304.01247.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.guide.base import Guided, RememberingGuide
from unstir.guide.likelihood import Linearised, check_tensor

if TYPE_CHECKING:
    from unstir.denoiser.base import Denoiser


@dataclass(frozen=True, eq=False)
class Blind(RememberingGuide):
    """Guide by a degradation whose parameters are found on the way, one set a trajectory; one evaluation of the denoiser.

    Args:
        degrade: ``f(x0, phi) -> y``: states (batch, *shape) and parameters (batch, n) to measurements (batch, *measurement);
            differentiable, and each row by itself.
        y: the measurement (1, *measurement) for all samples, or the name of the condition's entry that holds one a sample.
        start: phi to begin with, (n,).
        weight: w, above 0; stable up to 2 over the largest squared singular value of df/dx0.
        rate: of phi, at least 0; 0 keeps it.
        repeats: gradient steps an evaluation, at least 1.
        low: update phi only where sigma/alpha is at most this, once the estimate says something.
        through: is the gradient taken at x_t, through the denoiser, instead of at the estimate?

    Raises:
        UserError: a measurement or start that is not finite, weight not above 0, negative rate, fewer than 1 repeat.
    """

    degrade: Callable[[Tensor, Tensor], Tensor]
    y: Tensor | str
    start: Tensor
    weight: float = 0.5
    rate: float = 0.5
    repeats: int = 4
    low: float = math.inf
    through: bool = False
    needs_grad: ClassVar[bool] = True
    exactness: ClassVar[str] = "biased: estimate and parameters follow a gradient, and the spread of neither is sampled"

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf or not 0 <= self.rate < math.inf or self.repeats < 1 or not self.low > 0:
            raise UserError(
                "blind guidance needs weight above 0, rate >= 0, repeats >= 1 and low above 0, "
                f"got {self.weight}, {self.rate}, {self.repeats} and {self.low}"
            )
        for what in (self.y, self.start):
            if isinstance(what, Tensor) and not bool(torch.isfinite(what).all()):
                raise UserError("measurement and start of a blind guide must be finite: every value must be a number")

    def wrap(self, denoiser: Denoiser) -> BlindGuided:
        """The guided denoiser, with parameters of its own."""
        return BlindGuided(denoiser, self)

    def slopes(self, x0: Tensor, phi: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """dL/dx0 and dL/dphi/m, each row by itself.

        Args:
            phi: (batch, n).
            y: (batch or 1, *measurement).

        Returns:
            (batch, *shape) and (batch, n).
        """
        with torch.inference_mode(False), torch.enable_grad():
            x0, phi = x0.detach().clone().requires_grad_(), phi.detach().clone().requires_grad_()
            residual = self.degrade(x0, phi) - y
            by_state, by_phi = torch.autograd.grad(0.5 * residual.square().sum(), (x0, phi))
        return by_state, by_phi / residual[0].numel()


class BlindGuided(Guided):
    """A denoiser under blind guidance, and the parameters found so far.

    Args:
        denoiser: the denoiser being guided.
        guide: the blind guide.

    Attributes:
        phi: (batch, n) parameters of each sample; None before the first evaluation.
    """

    guide: Blind

    def __init__(self, denoiser: Denoiser, guide: Blind) -> None:
        super().__init__(denoiser, guide)
        self.phi: Tensor | None = None

    def forward(self, x: Any, t: Any, condition: Mapping[str, Any] | None = None) -> Any:
        """The guided estimate; moves the parameters."""
        guide: Any = self.guide
        check_tensor(x, guide)
        y = guide.y
        if isinstance(y, str):
            if not condition or y not in condition:
                raise UserError(f"a blind guide looks for its measurement in condition[{y!r}]")
            y, condition = condition[y], {key: value for key, value in condition.items() if key != guide.y} or None
        y = y.to(x)
        if self.phi is None or self.phi.shape[0] != x.shape[0]:
            self.phi = guide.start.to(x).reshape(1, -1).expand(x.shape[0], -1).clone()
        at = Linearised(self.denoiser, x, t, condition) if guide.through else None
        x0 = at.x0 if at else self.denoiser(x, t, condition)
        fits = float(torch.as_tensor(self.process.rho(t)).max()) <= guide.low
        for _ in range(guide.repeats if fits and guide.rate else 0):  # before the estimate explains the data by wrong parameters
            self.phi = self.phi - guide.rate * guide.slopes(x0, self.phi, y)[1]
        for _ in range(guide.repeats):
            by_state, _ = guide.slopes(x0, self.phi, y)
            x0 = x0 - guide.weight * (at.pull(by_state) if at else by_state)
        return x0
