"""Guides that pull a linear measurement's likelihood back through the denoiser; each subclass says how it whitens the residual.

    D' = D + (sigma_t^2/alpha_t) J^T A^H u(e),        e = y - A D,   J = dD/dx,   u(e) ~ Cov[y | x_t]^-1 e

since E[x0 | x_t, y] = D + (sigma_t^2/alpha_t) grad_x log p(y | x_t). With V = (sigma_t^2/alpha_t) J = Cov[x0 | x_t] for an exact denoiser.
Where some values were measured and others not, diag(o) A takes the place of A and o y that of y, o of ones and zeros, one a sample.
Reference: Efron 2011; Song et al. 2023 (PiGDM), ICLR; Rozet et al. 2024 (MMPS), arXiv:2405.13712.
"""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.guide.base import Guide, measured
from unstir.operator.base import Operator, Sensor
from unstir.process.base import spread

if TYPE_CHECKING:
    from unstir.denoiser.base import Denoiser
    from unstir.process import Process

Linear = Callable[[Tensor], Tensor]


class Linearised:
    """A denoiser at one state: its estimate, and any number of products with its transposed Jacobian.

    Args:
        denoiser: D; evaluated once.
        x: the noisy state (batch, *shape).
        t: a float, or (batch,).
        condition: what the denoiser is given.

    Attributes:
        x0: D(x, t), without a graph.
    """

    def __init__(self, denoiser: Denoiser, x: Tensor, t: Any, condition: Mapping[str, Any] | None) -> None:
        with torch.inference_mode(False), torch.enable_grad():
            self._x = x.detach().clone().requires_grad_()
            self._out = denoiser(self._x, t, condition)
        self.x0: Tensor = self._out.detach()

    def pull(self, v: Tensor) -> Tensor:
        """J^T v, (batch, *shape), without a graph.

        Args:
            v: (batch, *shape).

        Raises:
            UserError: the denoiser gives no gradient.
        """
        if not self._out.requires_grad:
            raise UserError("the denoiser under this guide gives no gradient: several measurements are one Stack of operators")
        with torch.inference_mode(False):
            v = v if self._out.is_complex() or not v.is_complex() else v.real
            return torch.autograd.grad(self._out, self._x, v.clone(), retain_graph=True)[0]


@dataclass(frozen=True, eq=False)
class Likelihood(Guide):
    """Guide by grad log p(y | x_t) for y = A x0 + N(0, noise^2); one evaluation of the denoiser, per sample.

    Args:
        operator: A, or a sensor, which is linearised at the estimate.
        y: the measurement, (*shape_out) or (1, *shape_out) for all samples; or the name of the condition's entry that holds one a sample
            (that entry is then kept from the denoiser).
        noise: standard deviation of the measurement noise, one number or (*shape_out), at least 0.
        observed: o, by keyword: which values were measured, ones and zeros (*shape_out) or (1, *shape_out) for all samples; or the name of
            the condition's entry that holds one a sample (kept from the denoiser too). All of them when absent. What ``y`` holds elsewhere
            must be finite and does not matter.

    Raises:
        UserError: a measurement that does not fit or is not finite, several measurements given directly, negative noise, or values of
            ``observed`` other than 0 and 1.
    """

    operator: Sensor
    y: Tensor | str
    noise: float | Tensor = 0.0
    observed: Tensor | str | None = field(default=None, kw_only=True)
    needs_grad: ClassVar[bool] = True

    def __post_init__(self) -> None:
        noise = torch.as_tensor(self.noise, dtype=torch.float64)
        if not bool((torch.isfinite(noise) & (noise >= 0)).all()) or noise.ndim > len(self.operator.shape_out):
            raise UserError(f"the noise of a measurement must be finite and at least 0, one number or of its shape, got {self.noise}")
        if isinstance(self.y, Tensor):
            object.__setattr__(self, "y", self.operator.measurement(self.y, shared=True))
        if isinstance(self.observed, Tensor):
            object.__setattr__(self, "observed", _ones_and_zeros(self.operator.measurement(self.observed, shared=True)))
        warn_if_blind(self.operator)

    def estimate(self, denoiser: Denoiser, x: Tensor, t: Any, condition: Mapping[str, Any] | None) -> Tensor:  # type: ignore[override]
        """The guided estimate; nothing in it remembers a gradient."""
        check_tensor(x, self)
        with torch.inference_mode(False), torch.no_grad():
            y, condition = measured(self.operator, self.y, condition, x)
            seen, condition = (None, condition) if self.observed is None else measured(self.operator, self.observed, condition, x)
            at, scale = Linearised(denoiser, x, t, condition), gain(denoiser.process, x, t)
            local = self.operator.linearise(at.x0)
            if seen is not None:
                local = _Seen(local, _ones_and_zeros(seen))
            noise = torch.as_tensor(self.noise).to(x.device, x.dtype)

            def pulled(v: Tensor) -> Tensor:
                return scale * at.pull(local.adjoint(v))

            residual = y - self.operator(at.x0)
            residual = residual if seen is None else residual * seen
            return at.x0 + pulled(self.whitened(residual, noise.square(), pulled, local, denoiser.process, t))

    @abstractmethod
    def whitened(self, residual: Tensor, variance: Tensor, pulled: Linear, operator: Operator, process: Process, t: Any) -> Tensor:
        """u(e): the residual times an approximate Cov[y | x_t]^-1.

        Args:
            residual: e, (batch, *shape_out).
            variance: R, of the measurement noise; one number or (*shape_out).
            pulled: v -> V A^H v, from (batch, *shape_out) to (batch, *shape_in).
            operator: A; of a sensor that is not linear, its derivative at the estimate.
            process: of the state.
            t: a float, or (batch,).

        Returns:
            (batch, *shape_out).
        """


class _Seen(Operator):
    """diag(o) A, with one o a sample."""

    def __init__(self, operator: Operator, seen: Tensor) -> None:
        super().__init__(operator.shape_in, operator.shape_out, is_complex=operator.is_complex)
        self.operator, self.seen = operator, seen

    def _forward(self, x: Tensor) -> Tensor:
        return self.operator.forward(x) * self.seen

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.operator.adjoint(y * self.seen)


def _ones_and_zeros(seen: Tensor) -> Tensor:
    if not bool(((seen == 0) | (seen == 1)).all()):
        raise UserError("what a guide takes as observed is 1 or 0, value by value: give weights as noise")
    return seen


def check_tensor(x: Any, guide: Guide) -> None:
    """Refuse a state that is a dict of leaves."""
    if not isinstance(x, Tensor):
        raise UserError(f"{type(guide).__name__} guides a tensor, and the state is a dict of leaves")


def gain(process: Process, x: Tensor, t: Any) -> float | Tensor:
    """sigma^2/alpha, ready to multiply ``x``: what turns a score into a change of the estimate; 0 where alpha is 0 (x holds no data)."""
    alpha, sigma = process.alpha(t), process.sigma(t)
    return spread(torch.where(alpha > 0, sigma**2 / torch.where(alpha > 0, alpha, 1.0), 0.0), x)


def warn_if_blind(operator: Sensor) -> None:
    """Warn where an operator measures nothing, so that samples follow the prior; one random state tells."""
    probe = torch.randn(1, *operator.shape_in, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        seen = operator(probe).abs().max() if math.prod(operator.shape_out) else torch.zeros(())
    if not bool(seen > 0):
        warnings.warn(f"{operator.describe()} measures nothing (all of it is 0): samples follow the prior", stacklevel=4)
