"""Plain linear operators and the ways to put operators together.

Dense y = A x;  Diagonal y = w x;  Mask y = m x;  Identity;  Compose (A @ B) x = A (B x);  Stack [A; B];  SliceWise: A on every slice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.operator.base import Operator


class Dense(Operator):
    """y = A x with a dense real or complex matrix over the flattened axes.

    A product with a dense matrix may round differently for another batch size; every other operator here gives the same bits.

    Args:
        matrix: (outputs, inputs), real or complex.
        shape_in: shape of a state, product = inputs; flat when absent.
        shape_out: shape of a measurement, product = outputs; flat when absent.

    Raises:
        UserError: not a matrix, shapes that do not fit it, or entries that are not finite.
    """

    def __init__(self, matrix: Tensor, shape_in: tuple[int, ...] | None = None, shape_out: tuple[int, ...] | None = None) -> None:
        matrix = torch.as_tensor(matrix).detach()
        if matrix.ndim != 2 or not bool(torch.isfinite(matrix).all()):
            raise UserError(f"Dense takes a finite matrix (outputs, inputs), got shape {tuple(matrix.shape)}")
        super().__init__(shape_in or (matrix.shape[1],), shape_out or (matrix.shape[0],), is_complex=matrix.is_complex())
        if math.prod(self.shape_in) != matrix.shape[1] or math.prod(self.shape_out) != matrix.shape[0]:
            raise UserError(f"a {matrix.shape[0]} x {matrix.shape[1]} matrix does not map {self.shape_in} to {self.shape_out}")
        self.matrix = matrix

    def _like(self, x: Tensor) -> Tensor:
        return self.matrix.to(x.device, x.dtype.to_complex() if self.is_complex else x.dtype)

    def _forward(self, x: Tensor) -> Tensor:
        matrix = self._like(x)
        return (x.flatten(1).to(matrix.dtype) @ matrix.T).reshape(x.shape[0], *self.shape_out)

    def _adjoint(self, y: Tensor) -> Tensor:
        matrix = self._like(y)
        return (y.flatten(1).to(matrix.dtype) @ matrix.conj()).reshape(y.shape[0], *self.shape_in)

    def pinv(self, y: Tensor) -> Tensor:
        """A^+ y by singular values in double precision, (batch, *shape_in)."""
        matrix = self._like(y)
        inverse = torch.linalg.pinv(matrix.to(torch.complex128 if matrix.is_complex() else torch.float64)).to(matrix.dtype)
        return (y.flatten(1).to(matrix.dtype) @ inverse.T).reshape(y.shape[0], *self.shape_in)

    def svd(self) -> tuple[Tensor, Tensor, Tensor]:
        """U (m, m), s (min(m, n),), descending, and V^H (n, n), in double precision."""
        return tuple(torch.linalg.svd(self.matrix.to(torch.complex128 if self.is_complex else torch.float64)))  # type: ignore[return-value]

    @classmethod
    def example(cls) -> Dense:
        """A complex matrix, 7 x 20."""
        places = torch.arange(140, dtype=torch.float64).reshape(7, 20)
        return cls(torch.complex(torch.sin(places**2), torch.cos(3 * places)), (4, 5))


class Diagonal(Operator):
    """y = w x, value by value (ray weights, coil maps, masks).

    Args:
        weights: (*shape), real or complex.

    Raises:
        UserError: weights that are not finite, or all zero (they would measure nothing).
    """

    def __init__(self, weights: Tensor) -> None:
        weights = torch.as_tensor(weights).detach()
        super().__init__(tuple(weights.shape), tuple(weights.shape), is_complex=weights.is_complex())
        if not bool(torch.isfinite(weights).all()):
            raise UserError(f"the weights of a {type(self).__name__} must be finite")
        if not bool(weights.any()):
            raise UserError(f"a {type(self).__name__} of zeros measures nothing: at least one value must be kept")
        self.weights = weights

    def _like(self, x: Tensor) -> Tensor:
        return self.weights.to(x.device, x.dtype.to_complex() if self.is_complex else x.dtype)

    def _forward(self, x: Tensor) -> Tensor:
        return x * self._like(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return y * self._like(y).conj()

    def pinv(self, y: Tensor) -> Tensor:
        """y / w where w is not zero, else zero; (batch, *shape_in)."""
        self._check(y, self.shape_out, "measurements")
        weights = self._like(y)
        return torch.where(weights != 0, y / torch.where(weights != 0, weights, 1.0), 0.0)

    def norm_sq(self) -> float:
        """The largest |w|^2."""
        return float(self.weights.abs().max()) ** 2 if self.weights.dtype != torch.bool else 1.0

    def svd(self) -> tuple[Tensor, Tensor, Tensor]:
        """U (n, n), the phases of the weights, s = |w| (n,), unordered, and V^H = I (n, n), in double precision."""
        weights = self.weights.to(torch.complex128 if self.is_complex else torch.float64).flatten()
        phases = torch.where(weights == 0, 1.0, torch.sgn(weights))
        return torch.diag(phases), weights.abs(), torch.eye(len(weights), dtype=weights.dtype)

    @classmethod
    def example(cls) -> Diagonal:
        """Complex weights, one of them 0."""
        places = torch.arange(20, dtype=torch.float64).reshape(4, 5)
        return cls(torch.complex(torch.sin(places), torch.sin(2 * places)))


class Mask(Diagonal):
    """y = m x with m of zeros and ones: what is not measured is zero in y; idempotent and self-adjoint.

    Args:
        mask: (*shape), boolean or of zeros and ones, True where measured.

    Raises:
        UserError: other values, or a mask that keeps nothing.
    """

    def __init__(self, mask: Tensor) -> None:
        mask = torch.as_tensor(mask)
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise UserError("a mask holds True and False (or 1 and 0) only: use Diagonal for weights")
        super().__init__(mask.bool())

    @property
    def mask(self) -> Tensor:
        """(*shape) boolean, True where measured."""
        return self.weights

    def normal(self, x: Tensor) -> Tensor:
        """m x: a mask is its own square."""
        return self.forward(x)

    def pinv(self, y: Tensor) -> Tensor:
        """m y."""
        return self.adjoint(y)

    def describe(self) -> str:
        """The mask in a few words."""
        return f"Mask {self.shape_in}, {int(self.weights.sum())} of {self.weights.numel()} measured"

    @classmethod
    def example(cls) -> Mask:
        """Two of three cells."""
        return cls(torch.arange(20).reshape(4, 5) % 3 > 0)


class Identity(Operator):
    """y = x, in a new tensor.

    Args:
        shape: shape of a state, without the batch.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__(shape, shape)

    def _forward(self, x: Tensor) -> Tensor:
        return x.clone()

    def _adjoint(self, y: Tensor) -> Tensor:
        return y.clone()

    def pinv(self, y: Tensor) -> Tensor:
        """y."""
        return self.adjoint(y)

    def norm_sq(self) -> float:
        """1."""
        return 1.0

    def svd(self) -> tuple[Tensor, Tensor, Tensor]:
        """U = I (n, n), s = 1 (n,) and V^H = I (n, n), float64."""
        unit = torch.eye(math.prod(self.shape_in), dtype=torch.float64)
        return unit, torch.ones(len(unit), dtype=torch.float64), unit

    @classmethod
    def example(cls) -> Identity:
        """Of 4 x 5 cells."""
        return cls((4, 5))


class Compose(Operator):
    """(A B) x = A (B x), written ``A @ B``.

    Args:
        outer: A.
        inner: B, applied first.

    Raises:
        UserError: B does not end where A begins.
    """

    def __init__(self, outer: Operator, inner: Operator) -> None:
        if outer.shape_in != inner.shape_out:
            raise UserError(f"cannot compose: {inner.describe()} gives {inner.shape_out}, {outer.describe()} takes {outer.shape_in}")
        super().__init__(inner.shape_in, outer.shape_out, is_complex=outer.is_complex or inner.is_complex)
        self.outer, self.inner = outer, inner

    def _forward(self, x: Tensor) -> Tensor:
        return self.outer.forward(self.inner.forward(x))

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.inner.adjoint(self.outer.adjoint(y))

    def describe(self) -> str:
        """Both parts in a few words."""
        return f"[{self.outer.describe()}] @ [{self.inner.describe()}]"

    @classmethod
    def example(cls) -> Compose:
        """Weights, padding and a masked Fourier transform, in this order."""
        from unstir.operator.fourier import Fourier
        from unstir.operator.resample import Pad

        mask = torch.arange(48).reshape(6, 8) % 4 > 0
        return cls(Fourier((6, 8), mask=mask), cls(Pad((4, 5), [(1, 1), (0, 3)]), Diagonal.example()))


class Stack(Operator):
    """All measurements of one state, flattened and joined: y = (A_1 x, A_2 x, ...).

    Args:
        operators: at least one, all of the same states.

    Raises:
        UserError: no operator, or operators of different states.
    """

    def __init__(self, operators: Sequence[Operator]) -> None:
        shapes = {operator.shape_in for operator in operators}
        if len(shapes) != 1:
            raise UserError(f"a stack needs at least one operator, all of the same states; these take {sorted(shapes)}")
        self.sizes = [math.prod(operator.shape_out) for operator in operators]
        super().__init__(shapes.pop(), (sum(self.sizes),), is_complex=any(operator.is_complex for operator in operators))
        self.operators = tuple(operators)

    def _forward(self, x: Tensor) -> Tensor:
        return torch.cat([operator.forward(x).flatten(1) for operator in self.operators], 1)

    def _adjoint(self, y: Tensor) -> Tensor:
        parts = self.split(y)
        result = self.operators[0].adjoint(parts[0])
        for operator, part in zip(self.operators[1:], parts[1:], strict=True):
            result = result + operator.adjoint(part)
        return result

    def split(self, y: Tensor) -> list[Tensor]:
        """The measurement of each operator, (batch, *its shape_out), from the joined one (batch, total)."""
        parts = torch.split(y, self.sizes, 1)
        return [part.reshape(part.shape[0], *operator.shape_out) for part, operator in zip(parts, self.operators, strict=True)]

    def describe(self) -> str:
        """All parts in a few words."""
        return "Stack(" + ", ".join(operator.describe() for operator in self.operators) + ")"

    @classmethod
    def example(cls) -> Stack:
        """A real and a complex sensor of the same state."""
        from unstir.operator.fourier import Fourier

        return cls([Mask.example(), Fourier((4, 5), mask=torch.arange(20).reshape(4, 5) % 2 > 0) @ Diagonal.example()])


class SliceWise(Operator):
    """The same operator on every slice of a volume: (batch, depth, *shape_in) to (batch, depth, *shape_out), all slices in one call.

    Args:
        operator: of one slice.
        depth: number of slices, at least 1.
    """

    def __init__(self, operator: Operator, depth: int) -> None:
        super().__init__((depth, *operator.shape_in), (depth, *operator.shape_out), is_complex=operator.is_complex)
        self.operator, self.depth = operator, depth

    def _slices(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0] * self.depth, *x.shape[2:])

    def _volumes(self, x: Tensor) -> Tensor:
        return x.reshape(x.shape[0] // self.depth, self.depth, *x.shape[1:])

    def _forward(self, x: Tensor) -> Tensor:
        return self._volumes(self.operator.forward(self._slices(x)))

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._volumes(self.operator.adjoint(self._slices(y)))

    def normal(self, x: Tensor) -> Tensor:
        """A^H A of every slice, (batch, depth, *shape_in)."""
        if x.ndim != len(self.shape_in) + 1 or tuple(x.shape[1:]) != self.shape_in:
            return super().normal(x)
        return self._volumes(self.operator.normal(self._slices(x)))

    def norm_sq(self) -> float:
        """That of one slice."""
        return self.operator.norm_sq()

    def pinv(self, y: Tensor) -> Tensor:
        """A^+ of every slice, (batch, depth, *shape_in)."""
        return self._volumes(self.operator.pinv(self._slices(y)))

    def describe(self) -> str:
        """The slice's operator and the depth."""
        return f"[{self.operator.describe()}] on each of {self.depth} slices"

    @classmethod
    def example(cls) -> SliceWise:
        """Averages on each of 3 slices."""
        from unstir.operator.resample import AveragePool

        return cls(AveragePool((4, 6), (2, 3)), 3)
