"""A linear measurement y = A x, with its exact adjoint.

    <A x, y> = <x, A^H y>   for all x and y, to rounding.

A new operator subclasses :class:`Operator`, calls ``super().__init__(shape_in, shape_out)`` and writes ``_forward`` and ``_adjoint`` for
batches; shape checks, gradients (backward is the adjoint, so nothing is recorded inside), norms and least squares come with it. One that
knows its singular values also writes ``svd() -> (U, s, V^H)``, V^H square; one that every test and certificate shall see, ``example()``.
A sensor that is not linear is a :class:`Sensor` with a derivative that is an operator (``unstir.operator.nonlinear``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.operator.cg import CGReport, conjugate_gradients, inner


class _Apply(torch.autograd.Function):
    """y = A x with the gradient A^H g, and (through itself) all higher derivatives."""

    @staticmethod
    def forward(x: Tensor, operator: Operator, transposed: bool) -> Tensor:
        return operator._adjoint(x) if transposed else operator._forward(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Operator, bool], output: Tensor) -> None:
        x, ctx.operator, ctx.transposed = inputs
        ctx.real = not x.is_complex()

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int, None, None], x: Tensor, operator: Operator, transposed: bool) -> tuple[Tensor, int]:
        x = x.movedim(in_dims[0], 0)  # an operator takes any batch: the mapped axis joins it
        return _Apply.apply(x.flatten(0, 1), operator, transposed).unflatten(0, x.shape[:2]), 0

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        result = _Apply.apply(gradient.contiguous(), ctx.operator, not ctx.transposed)
        return (result.real if ctx.real and result.is_complex() else result), None, None


class Sensor(ABC):
    """How the world measures: maps batches of states, (batch, *shape_in), to measurements, (batch, *shape_out), linearly or not.

    Args:
        shape_in: shape of a state, without the batch.
        shape_out: shape of a measurement, without the batch.
        is_complex: whether the measurement of a real state is complex.

    Raises:
        UserError: a shape has an extent below 1.
    """

    def __init__(self, shape_in: tuple[int, ...], shape_out: tuple[int, ...], *, is_complex: bool = False) -> None:
        self.shape_in, self.shape_out = tuple(int(n) for n in shape_in), tuple(int(n) for n in shape_out)
        self.is_complex = is_complex
        if min((*self.shape_in, *self.shape_out, 1)) < 1:
            raise UserError(f"an operator from {self.shape_in} to {self.shape_out} is empty: every extent must be at least 1")

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """What is measured of states (batch, *shape_in): (batch, *shape_out)."""

    def __call__(self, x: Tensor) -> Tensor:
        """``forward``."""
        return self.forward(x)

    @abstractmethod
    def linearise(self, x: Tensor) -> Operator:
        """The derivative at states (batch, *shape_in), one a sample, as an operator with an exact adjoint."""

    def _check(self, x: Tensor, shape: tuple[int, ...], what: str) -> None:
        if x.ndim != len(shape) + 1 or tuple(x.shape[1:]) != shape:
            raise UserError(f"{self.describe()} takes {what} of shape (batch, {', '.join(map(str, shape))}), got {tuple(x.shape)}")
        if not (x.is_floating_point() or x.is_complex()):
            raise UserError(f"{self.describe()} takes {what} of floating point, got {x.dtype}: convert them with .float()")

    def measurement(self, y: Tensor, *, shared: bool = False) -> Tensor:
        """Check a measurement at the door.

        Args:
            y: (batch, *shape_out), or (*shape_out) for a single one.
            shared: must it be a single one, for all samples?

        Returns:
            (batch, *shape_out), the same values.

        Raises:
            UserError: another shape, a value that is not finite, or several measurements where one was asked.
        """
        y = torch.as_tensor(y)
        if tuple(y.shape) == self.shape_out:
            y = y[None]
        if y.ndim != len(self.shape_out) + 1 or tuple(y.shape[1:]) != self.shape_out:
            wanted = ", ".join(map(str, self.shape_out))
            raise UserError(f"a measurement by {self.describe()} has shape (batch, {wanted}), got {tuple(y.shape)}")
        bad = ~torch.isfinite(y).flatten(1).all(1)
        if bool(bad.any()):
            raise UserError(f"measurement {int(bad.nonzero()[0])} has values that are not finite: every value must be a number")
        if shared and y.shape[0] != 1:
            raise UserError(f"got {y.shape[0]} measurements where one serves all samples: put one a sample into the condition, named")
        return y

    def describe(self) -> str:
        """The sensor in a few words, for messages and cards."""
        return f"{type(self).__name__} {self.shape_in} -> {self.shape_out}"

    def __repr__(self) -> str:
        return f"<{self.describe()}>"


class Operator(Sensor):
    """A linear map of batches, (batch, *shape_in) to (batch, *shape_out).

    Results are new tensors in the dtype and on the device of the argument. A real operator acts on the real and the imaginary part of a
    complex argument; the inner products are sum(conj(a) b).

    Args:
        shape_in: shape of a state, without the batch.
        shape_out: shape of a measurement, without the batch.
        is_complex: whether the measurement of a real state is complex.

    Raises:
        UserError: a shape has an extent below 1.
    """

    def __init__(self, shape_in: tuple[int, ...], shape_out: tuple[int, ...], *, is_complex: bool = False) -> None:
        super().__init__(shape_in, shape_out, is_complex=is_complex)
        self._norm_sq: float | None = None

    @abstractmethod
    def _forward(self, x: Tensor) -> Tensor:
        """A x for x (batch, *shape_in); must not record gradients or share memory with x."""

    @abstractmethod
    def _adjoint(self, y: Tensor) -> Tensor:
        """A^H y for y (batch, *shape_out); the same rules."""

    def forward(self, x: Tensor) -> Tensor:
        """A x.

        Args:
            x: (batch, *shape_in).

        Returns:
            (batch, *shape_out).

        Raises:
            UserError: another shape.
        """
        return self._run(x, self.shape_in, "states", transposed=False)

    def adjoint(self, y: Tensor) -> Tensor:
        """A^H y.

        Args:
            y: (batch, *shape_out).

        Returns:
            (batch, *shape_in).

        Raises:
            UserError: another shape.
        """
        return self._run(y, self.shape_out, "measurements", transposed=True)

    def _run(self, x: Tensor, shape: tuple[int, ...], what: str, *, transposed: bool) -> Tensor:
        self._check(x, shape, what)
        if torch.is_grad_enabled() and x.requires_grad:
            return _Apply.apply(x, self, transposed)
        return self._adjoint(x) if transposed else self._forward(x)

    def linearise(self, x: Tensor) -> Operator:
        """A itself, whatever the states: what is linear is its own derivative."""
        return self

    def normal(self, x: Tensor) -> Tensor:
        """A^H A x, (batch, *shape_in)."""
        return self.adjoint(self.forward(x))

    def norm_sq(self) -> float:
        """The largest eigenvalue of A^H A by Lanczos in float64 from a fixed start, from below, its residual below 1e-5 of it; kept."""
        if self._norm_sq is None:
            self._norm_sq = self._largest()
        return self._norm_sq

    def _largest(self, iterations: int = 300) -> float:
        q = torch.randn(1, *self.shape_in, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        before, beta, value = torch.zeros_like(q), 0.0, 0.0
        diagonal: list[float] = []
        beside: list[float] = []
        q = q / inner(q, q).sqrt()
        for _ in range(iterations):
            w = self.normal(q)
            diagonal.append(float(inner(q, w).real))
            w = w - diagonal[-1] * q - beta * before
            beta = float(inner(w, w).real.sqrt())
            rows = torch.tensor([diagonal, [*beside, 0.0]], dtype=torch.float64)
            values, vectors = torch.linalg.eigh(torch.diag(rows[0]) + torch.diag(rows[1, :-1], -1))  # which reads the lower half
            value = float(values[-1])
            # the eigenvalue is within the residual, and as a rule within its square
            if beta * abs(float(vectors[-1, -1])) <= 1e-5 * abs(value):
                break
            before, q = q, w / beta
            beside.append(beta)
        return value

    def normal_solve(
        self,
        rhs: Tensor,
        *,
        start: Tensor | None = None,
        shift: float | Tensor = 0.0,
        iterations: int,
        tolerance: float = 0.0,
        stop: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, CGReport]:
        """Solve (A^H A + shift I) x = rhs by conjugate gradients, per sample.

        Args:
            rhs: (batch, *shape_in).
            start: (batch, *shape_in), zero when absent; never overwritten.
            shift: at least 0; a tensor (batch,) for one a sample.
            iterations: at most this many.
            tolerance: relative residual at which a sample stops.
            stop: of x, gives (batch,) booleans: True freezes the sample.

        Returns:
            x (batch, *shape_in) and the report of iterations and residuals.

        Raises:
            UserError: ``shift`` is negative or not finite, or not one a sample.
        """
        if isinstance(shift, Tensor):
            if tuple(shift.shape) != (rhs.shape[0],):
                raise UserError(f"{rhs.shape[0]} samples take as many shifts of their normal equations, got shape {tuple(shift.shape)}")
            each = shift.to(rhs.device, rhs.real.dtype).view(-1, *[1] * len(self.shape_in))
        elif not 0 <= shift < float("inf"):
            raise UserError(f"the shift of a normal equation must be finite and at least 0, got {shift}")

        def matrix(x: Tensor) -> Tensor:
            if isinstance(shift, Tensor):
                return self.normal(x).addcmul_(x, each)
            return self.normal(x).add_(x, alpha=shift) if shift else self.normal(x)

        return conjugate_gradients(matrix, rhs, start=start, iterations=iterations, tolerance=tolerance, stop=stop)

    def pinv(self, y: Tensor) -> Tensor:
        """The least-squares state of least norm, A^+ y: by conjugate gradients from zero unless the operator knows better.

        Args:
            y: (batch, *shape_out).

        Returns:
            (batch, *shape_in), to a relative residual of 1e-6 or 200 iterations.
        """
        return self.normal_solve(self.adjoint(y), iterations=200, tolerance=1e-6)[0]

    def __matmul__(self, other: Operator) -> Operator:
        """``A @ B``: first B, then A."""
        from unstir.operator.linear import Compose

        return Compose(self, other)
