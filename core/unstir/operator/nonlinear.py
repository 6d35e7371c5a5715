"""Sensors that are not linear: any differentiable function of a state, its derivative as an operator, and Gauss-Newton on it.

    y = f(x),   J = df/dx at a state,   J v and J^H w by automatic differentiation
    y = |A x|  (phase retrieval),       y = l tanh(A x/l)  (saturation)

A guide for linear sensors becomes one for these with A = J at the current estimate and f(x0) for A x0.
Reference: Levenberg 1944; Marquardt 1963 (the damped steps).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.operator.base import Operator, Sensor
from unstir.operator.cg import inner


class Nonlinear(Sensor):
    """A differentiable function of real states as a sensor.

    Args:
        function: of (batch, *shape_in), gives (batch, *shape_out), real or complex; every sample on its own. It is asked once about
            zeros, for the shape of a measurement.
        shape_in: shape of a state, without the batch. A complex state is a real one with a last axis of 2 (``torch.view_as_real``).

    Raises:
        UserError: the function does not keep the batch.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], shape_in: tuple[int, ...]) -> None:
        with torch.no_grad():
            y = function(torch.zeros(2, *shape_in))
        if y.ndim < 1 or y.shape[0] != 2:
            raise UserError(f"the function of a {type(self).__name__} gave {tuple(y.shape)} for a batch of 2: it must keep the batch first")
        super().__init__(tuple(shape_in), tuple(y.shape[1:]), is_complex=y.is_complex())
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """f(x).

        Args:
            x: (batch, *shape_in), real.

        Returns:
            (batch, *shape_out).

        Raises:
            UserError: another shape, or complex states.
        """
        self._check_state(x)
        return self.function(x)

    def linearise(self, x: Tensor) -> Operator:
        """J at each sample's state.

        Args:
            x: (batch, *shape_in), real; a batch of 1 serves batches of any size.

        Returns:
            The operator, for batches of as many samples; complex tangents count as two real ones.

        Raises:
            UserError: another shape, or complex states.
        """
        self._check_state(x)
        return _Jacobian(self, x.detach().clone())

    def _check_state(self, x: Tensor) -> None:
        self._check(x, self.shape_in, "states")
        if x.is_complex():
            raise UserError(f"{self.describe()} takes real states, got {x.dtype}: give them a last axis of 2 by torch.view_as_real")

    @classmethod
    def example(cls) -> Nonlinear:
        """Products of neighbours."""
        return cls(lambda x: x * x.roll(1, -1), (2, 4))


class _Jacobian(Operator):
    """J of a sensor. f is run once a batch size and dtype; J v is the derivative of J^H w in w, so that each product is one backward."""

    def __init__(self, sensor: Nonlinear, point: Tensor) -> None:
        super().__init__(sensor.shape_in, sensor.shape_out, is_complex=sensor.is_complex)
        self.sensor, self.point = sensor, point
        self._graph: tuple[Any, tuple[Tensor, ...]] | None = None

    def _recorded(self, like: Tensor) -> tuple[Tensor, ...]:
        """x, f(x), w and Re J^H w, as functions of x and w."""
        batch, dtype = like.shape[0], like.real.dtype
        if self.point.shape[0] not in (1, batch):
            raise UserError(f"a derivative at {self.point.shape[0]} states takes batches of as many, got {batch}")
        key = (batch, dtype, like.device)
        if self._graph is None or self._graph[0] != key:
            with torch.inference_mode(False), torch.enable_grad():
                x = self.point.to(like.device, dtype).expand(batch, *self.shape_in).clone().requires_grad_()
                y = self.sensor.function(x)
                w = torch.zeros_like(y).requires_grad_()
                (pulled,) = torch.autograd.grad(y, x, w, create_graph=True)
            self._graph = (key, (x, y, w, pulled))
        return self._graph[1]

    def _forward(self, x: Tensor) -> Tensor:
        _, y, w, pulled = self._recorded(x)

        def push(v: Tensor) -> Tensor:
            if not pulled.requires_grad:  # f does not depend on x
                return torch.zeros_like(y)
            (pushed,) = torch.autograd.grad(pulled, w, v, retain_graph=True, allow_unused=True, materialize_grads=True)
            return pushed

        return self._parts(push, x)

    def _adjoint(self, y: Tensor) -> Tensor:
        x, measured, _, _ = self._recorded(y)

        def pull(w: Tensor) -> Tensor:
            (pulled,) = torch.autograd.grad(measured, x, w, retain_graph=True)
            return pulled

        if not self.is_complex:
            return self._parts(pull, y)
        y = y.to(measured.dtype)
        return torch.complex(pull(y), pull(-1j * y))

    @staticmethod
    def _parts(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """A map of real tensors, of the real and the imaginary part."""
        return function(x.real) + 1j * function(x.imag) if x.is_complex() else function(x)

    def norm_sq(self) -> float:
        """The largest over the states."""
        if len(self.point) == 1:
            return super().norm_sq()
        return max(_Jacobian(self.sensor, one[None]).norm_sq() for one in self.point)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_graph": None}

    def describe(self) -> str:
        """The sensor, and where."""
        return f"derivative of {self.sensor.describe()} at {len(self.point)} states"


class Magnitude(Nonlinear):
    """y = |A x|: phase retrieval, where A is complex. The derivative of 0 counts as 0.

    Args:
        operator: A.
    """

    def __init__(self, operator: Operator) -> None:
        self.operator = operator
        super().__init__(self._magnitude, operator.shape_in)

    def _magnitude(self, x: Tensor) -> Tensor:
        return self.operator(x).abs()

    def describe(self) -> str:
        """The operator whose phases are lost."""
        return f"Magnitude of [{self.operator.describe()}]"

    @classmethod
    def example(cls) -> Magnitude:
        """Fourier magnitudes, twice as many as cells along each axis."""
        from unstir.operator.fourier import Fourier
        from unstir.operator.resample import Pad

        return cls(Fourier((6, 8)) @ Pad((3, 4), [(0, 3), (0, 4)]))


class Saturation(Nonlinear):
    """y = l tanh(A x/l): a sensor that is linear for small values and never shows more than l.

    Args:
        operator: A, real.
        limit: l, above 0, in units of the measurement.

    Raises:
        UserError: a limit not above 0, or a complex operator.
    """

    def __init__(self, operator: Operator, limit: float = 1.0) -> None:
        if not 0 < limit < math.inf or operator.is_complex:
            raise UserError(f"a saturating sensor takes a limit above 0 and a real operator, got {limit} and {operator.describe()}")
        self.operator, self.limit = operator, limit
        super().__init__(self._saturated, operator.shape_in)

    def _saturated(self, x: Tensor) -> Tensor:
        return self.limit * torch.tanh(self.operator(x) / self.limit)

    def describe(self) -> str:
        """The operator and the limit."""
        return f"Saturation of [{self.operator.describe()}] at {self.limit:g}"

    @classmethod
    def example(cls) -> Saturation:
        """Blurred cells that saturate at 2."""
        from unstir.operator.convolution import GaussianBlur

        return cls(GaussianBlur.example(), 2.0)


@torch.no_grad()
def gauss_newton(
    sensor: Sensor, y: Tensor, start: Tensor, *, steps: int, iterations: int = 50, damping: float = 1e-3
) -> tuple[Tensor, Tensor]:
    """Reduce ||y - f(x)|| by damped Gauss-Newton steps, per sample: (J^H J + mu I) dx = J^H (y - f(x)).

    A step that does not reduce a sample's residual is not taken, and its mu grows tenfold; one that does shrinks it as much.

    Args:
        sensor: f, of real measurements.
        y: measurements (batch or 1, *shape_out).
        start: (batch, *shape_in); never overwritten.
        steps: at least 0.
        iterations: of conjugate gradients, each step.
        damping: mu to begin with, above 0.

    Returns:
        x (batch, *shape_in), a local minimum as steps grow, and ||y - f(x)|| (batch,).

    Raises:
        UserError: negative steps, damping not above 0, complex measurements, or a measurement that does not fit.
    """
    if steps < 0 or not 0 < damping < math.inf or sensor.is_complex:
        asked = f"{steps}, {damping} and {sensor.describe()}"
        raise UserError(f"Gauss-Newton takes steps >= 0, damping above 0 and a sensor of real measurements, got {asked}")
    x, y = start.clone(), sensor.measurement(y)
    residual = y - sensor(x)
    square = inner(residual, residual)
    mu = torch.full_like(square, damping)
    column = (-1, *[1] * (x.ndim - 1))
    for _ in range(steps):
        jacobian = sensor.linearise(x)
        change, _ = jacobian.normal_solve(jacobian.adjoint(residual), shift=mu, iterations=iterations)
        left = y - sensor(x + change)
        after = inner(left, left)
        better = after < square
        x = torch.where(better.view(column), x + change, x)
        residual = torch.where(better.view(-1, *[1] * (left.ndim - 1)), left, residual)
        square, mu = torch.where(better, after, square), torch.where(better, mu / 10, mu * 10).clamp(1e-12, 1e12)
    return x, square.sqrt()
