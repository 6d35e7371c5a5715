"""Total variation: finite differences as an operator, and the ADMM that reconstructs under it.

    min_x 1/2 ||y - A x||^2 + lam TV(x) + pull/2 ||x - centre||^2,   TV(x) = sum |D x| (anisotropic) or sum ||D x||_2 (isotropic)

    x <- CG[(A^H A + rho D^T D + pull) x = A^H y + rho D^T (z - w) + pull centre], from the current x
    z <- shrink(D x + w, lam / rho);   w <- w + D x - z

Reference: Rudin, Osher & Fatemi 1992; Boyd et al. 2011; Chung et al. 2023, arXiv:2211.10655 (along one axis of a volume).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.operator.base import Operator
from unstir.operator.cg import conjugate_gradients


class Gradient(Operator):
    """Forward differences along chosen axes: (batch, *shape) to (batch, len(axes), *shape).

    (D x)_i = weight (x_{i+1} - x_i); at the last i it is 0 (``neumann``, the default) or weight (x_0 - x_last) (``periodic``).

    Args:
        shape: shape of a state, without the batch.
        axes: axes of ``shape`` to difference; all when absent.
        boundary: ``"neumann"`` or ``"periodic"``.
        weights: one factor an axis (such as 1 / spacing); 1 when absent.

    Raises:
        UserError: an unknown boundary, an axis that does not exist or is named twice, an axis of one element (of fewer than three for
            ``periodic``).
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        axes: Sequence[int] | None = None,
        *,
        boundary: str = "neumann",
        weights: Sequence[float] | None = None,
    ) -> None:
        if boundary not in ("neumann", "periodic"):
            raise UserError(f"the boundary of a gradient is 'neumann' or 'periodic', got {boundary!r}")
        wanted = tuple(range(len(shape))) if axes is None else tuple(axes)
        self.axes = tuple(axis % len(shape) for axis in wanted if -len(shape) <= axis < len(shape))
        if not wanted or len(set(self.axes)) < len(wanted):
            raise UserError(f"a gradient of states of shape {tuple(shape)} takes different axes from 0 to {len(shape) - 1}, got {wanted}")
        self.periodic = boundary == "periodic"
        self.factors = tuple(float(w) for w in weights) if weights is not None else (1.0,) * len(self.axes)
        if len(self.factors) != len(self.axes) or not all(math.isfinite(w) and w > 0 for w in self.factors):
            raise UserError(f"a gradient along {len(self.axes)} axes takes as many weights, all above 0, got {self.factors}")
        for axis in self.axes:
            if shape[axis] < 2:
                raise UserError(f"axis {axis} of states of shape {tuple(shape)} has one element: leave it out of the axes")
            if self.periodic and shape[axis] < 3:
                found = f"axis {axis} of {tuple(shape)} has {shape[axis]}"
                raise UserError(f"a periodic gradient needs at least 3 elements, {found}: use the boundary 'neumann'")
        super().__init__(tuple(shape), (len(self.axes), *shape))

    def difference(self, x: Tensor, which: int, out: Tensor) -> Tensor:
        """The difference of x (batch, *shape) along axis number ``which``, written to and returned as ``out``."""
        axis, last = self.axes[which] + 1, x.shape[self.axes[which] + 1] - 1
        torch.sub(x.narrow(axis, 1, last), x.narrow(axis, 0, last), out=out.narrow(axis, 0, last))
        edge = out.narrow(axis, last, 1)
        if self.periodic:
            torch.sub(x.narrow(axis, 0, 1), x.narrow(axis, last, 1), out=edge)
        else:
            edge.zero_()
        return out.mul_(self.factors[which]) if self.factors[which] != 1.0 else out

    def add_adjoint(self, field: Tensor, which: int, out: Tensor, scale: float = 1.0) -> None:
        """Add ``scale`` times the transposed difference of a field (batch, *shape) along axis number ``which`` to ``out``."""
        axis, last = self.axes[which] + 1, field.shape[self.axes[which] + 1] - 1
        scale *= self.factors[which]
        inside = field.narrow(axis, 0, last)
        out.narrow(axis, 1, last).add_(inside, alpha=scale)
        out.narrow(axis, 0, last).sub_(inside, alpha=scale)
        if self.periodic:
            edge = field.narrow(axis, last, 1)
            out.narrow(axis, 0, 1).add_(edge, alpha=scale)
            out.narrow(axis, last, 1).sub_(edge, alpha=scale)

    def add_normal(self, x: Tensor, out: Tensor, scale: float, buffer: Tensor) -> None:
        """Add ``scale`` D^T D x to ``out``; ``buffer`` has the shape of x and is overwritten."""
        for which in range(len(self.axes)):
            self.add_adjoint(self.difference(x, which, buffer), which, out, scale)

    def _forward(self, x: Tensor) -> Tensor:
        out = x.new_empty((x.shape[0], *self.shape_out))
        for which in range(len(self.axes)):
            self.difference(x, which, out[:, which])
        return out

    def _adjoint(self, y: Tensor) -> Tensor:
        out = y.new_zeros((y.shape[0], *self.shape_in))
        for which in range(len(self.axes)):
            self.add_adjoint(y[:, which], which, out)
        return out

    def describe(self) -> str:
        """Axes and boundary in a few words."""
        return f"Gradient of {self.shape_in} along {self.axes}, {'periodic' if self.periodic else 'neumann'}"

    @classmethod
    def example(cls) -> Gradient:
        """Along two of three axes, weighted."""
        return cls((4, 5, 3), (0, 2), weights=(1.0, 0.4))


def _ball(v: Tensor, radius: float, *, isotropic: bool) -> Tensor:
    """Project v (batch, axes, *shape) in place onto |v| <= radius, value by value or all axes together; the rest of v is the shrinkage."""
    if not isotropic and not v.is_complex():
        return v.clamp_(-radius, radius)
    size = v.abs() if v.is_complex() else v
    if isotropic:  # axis by axis: several times as fast as a norm over a strided axis
        square = size[:, 0].square()
        for which in range(1, v.shape[1]):
            square.addcmul_(size[:, which], size[:, which])
        size = square.sqrt_()[:, None]
    return v.mul_(size.clamp_min_(max(radius, torch.finfo(v.dtype).tiny)).reciprocal_().mul_(radius))


def check_tv(
    operator: Operator,
    lam: float,
    rho: float,
    outer: int,
    cg: int,
    axes: Sequence[int] | None,
    boundary: str,
    weights: Sequence[float] | None,
) -> Gradient:
    """Check the options of :func:`admm_tv` and give its gradient; refuses what cannot be, in a sentence."""
    if not (lam > 0 and rho > 0 and math.isfinite(lam) and math.isfinite(rho)):
        raise UserError(f"total variation needs lam and rho above 0, got lam={lam} and rho={rho}")
    if outer < 1 or cg < 1:
        raise UserError(f"total variation needs at least one outer and one CG iteration, got outer={outer} and cg={cg}")
    return Gradient(operator.shape_in, axes, boundary=boundary, weights=weights)


@torch.no_grad()
def admm_tv(
    operator: Operator,
    y: Tensor,
    *,
    lam: float,
    rho: float,
    outer: int,
    cg: int,
    axes: Sequence[int] | None = None,
    isotropic: bool = True,
    boundary: str = "neumann",
    weights: Sequence[float] | None = None,
    start: Tensor | None = None,
    state: tuple[Tensor, Tensor] | None = None,
    centre: Tensor | None = None,
    pull: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Reconstruct under total variation by ADMM; converges to the minimiser as ``outer`` grows, biased by warm starts before.

    Args:
        operator: A.
        y: measurements, (batch, *shape_out).
        lam: weight of the total variation, above 0 (units of the squared data residual per unit of gradient).
        rho: penalty of the splitting, above 0; changes the speed, not the limit.
        outer: ADMM iterations.
        cg: conjugate-gradient iterations of each x update, started at the current x.
        axes: axes of ``shape_in`` that are differenced; all when absent. (0,) is the through-plane variation of a volume.
        isotropic: couple the axes at each voxel (l2,1) instead of summing them (l1). The same with one axis.
        boundary: ``"neumann"`` or ``"periodic"``.
        weights: one factor an axis, such as 1 / spacing.
        start: (batch, *shape_in); zero when absent. Never overwritten.
        state: (z, w) of an earlier call, each (batch, axes, *shape_in); zero when absent. Never overwritten.
        centre: (batch, *shape_in), where the quadratic pull points; needs ``pull``.
        pull: weight of that pull, at least 0.
        progress: called with (done, outer) after each outer iteration.

    Returns:
        x (batch, *shape_in), and (z, w) for a warm start.

    Raises:
        UserError: lam or rho not above 0, outer or cg below 1, a measurement or gradient that does not fit.
    """
    gradient = check_tv(operator, lam, rho, outer, cg, axes, boundary, weights)
    if pull < 0 or (pull > 0) != (centre is not None):
        raise UserError("a pull towards a centre needs both: pull above 0 and centre")
    y = operator.measurement(y)
    data = operator.adjoint(y)
    if centre is not None:
        data = data + pull * centre
    x = torch.zeros_like(data) if start is None else start.to(data.dtype)
    if state is None:
        w = data.new_zeros((data.shape[0], *gradient.shape_out))
        z = torch.zeros_like(w)
    else:
        z, w = state[0].clone(), state[1].clone()
    buffer = torch.empty_like(data)

    def matrix(p: Tensor) -> Tensor:
        q = operator.normal(p)
        gradient.add_normal(p, q, rho, buffer)
        return q.add_(p, alpha=pull) if pull else q

    for done in range(outer):
        rhs = data.clone()
        z -= w
        for which in range(len(gradient.axes)):
            gradient.add_adjoint(z[:, which], which, rhs, rho)
        x, _ = conjugate_gradients(matrix, rhs, start=x, iterations=cg)
        for which in range(len(gradient.axes)):
            w[:, which] += gradient.difference(x, which, buffer)
        z.copy_(w)
        z -= _ball(w, lam / rho, isotropic=isotropic)
        if progress is not None:
            progress(done + 1, outer)
    return x, (z, w)
