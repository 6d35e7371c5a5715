"""Decoupled annealing: from each noise level all the way to clean data, look at the measurement there, and make it noisy anew.

    Decoupled:  x0_hat = ODE(x_t -> 0),       x_s = alpha_s x0 + sigma_s z
    DAPS:       x0 ~ N(x0; x0_hat, r^2) p(y | x0),        r^2 = rho_t^2 s^2/(s^2 + rho_t^2)        in place of x0_hat

The solver alone samples the prior, at every step from scratch; with the steer it is DAPS, with ``DataConsistency`` its mode. As published
s is infinite; each step then adds rho_t^2 to what is not measured. With one inner step (x0_hat = E[x0 | x_t]) it is a Gibbs sampler that is
exact for data N(m, s^2 I), on any grid.
Reference: Zhang et al. 2024 (DAPS), arXiv:2407.01521.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from unstir import names
from unstir.errors import UserError
from unstir.operator.base import Operator
from unstir.operator.proximal import Proximal
from unstir.process import Process
from unstir.solver.base import Levels, Memory, Model, Row, Solver, add_noise
from unstir.state import State, combine
from unstir.steer.base import Moment, Steer, edited, per_sample


@dataclass(frozen=True)
class InnerRow(Row):
    """A step with the plan of a flow inside it.

    Attributes:
        inside: the rows of the inner flow.
    """

    inside: tuple[Row, ...] = ()


@dataclass(frozen=True, repr=False)
class Decoupled(Solver):
    """Renoise the end of an inner flow at every step; exact on any grid as the inner flow is, and no better than it on a fine one.

    Args:
        inner: steps of the inner flow (uniform in rho^(1/7) down to 0), at least 1.
        flow: the deterministic solver of the inner flow, or its short name.

    Raises:
        UserError: fewer than 1 inner step, a stochastic flow, or a joint process.
    """

    joins: ClassVar[bool] = False
    order: ClassVar[int] = 0  # more steps do not mend the inner flow
    inner: int = 5
    flow: Solver | str = "dpm++2m"

    def __post_init__(self) -> None:
        object.__setattr__(self, "flow", names.solver(self.flow))
        if self.inner < 1 or self.flow.stochastic:  # type: ignore[union-attr]
            raise UserError(f"a decoupled solver needs at least 1 inner step of a deterministic flow, got {self.inner} of {self.flow!r}")

    @property
    def evaluations(self) -> int:  # type: ignore[override]
        """Evaluations of the denoiser a step: those of the inner flow."""
        return self.inner * self.flow.evaluations  # type: ignore[union-attr]

    @property
    def stochastic(self) -> bool:
        """Draws noise at every step but one to sigma = 0."""
        return True

    def plan(self, process: Process, times: Sequence[Any]) -> list[Row]:
        """The table of coefficients, with that of the inner flow at each step; see :meth:`Solver.plan`."""
        return [self._with_flow(process, row) for row in super().plan(process, times)]

    def _with_flow(self, process: Process, row: Any) -> Row:
        inside: list[Row] = []
        if math.isfinite(row.rho_t):
            rho = np.linspace(row.rho_t ** (1 / 7), 0, self.inner + 1)[1:-1] ** 7
            inner = [row.t, *(float(process.time_at_rho(float(r))) for r in rho), process.t_zero]
            inside = self.flow.plan(process, inner)  # type: ignore[union-attr]
        return InnerRow(**{f.name: getattr(row, f.name) for f in fields(Row)}, inside=tuple(inside))

    def coefficients(self, levels: Levels) -> list[tuple[float, ...]]:
        """``(a, b, d)`` of ``x_s = b x0_hat + d z``; from pure noise or a pin, of ``x_s = a x + b x0 + d z``."""
        return [self._row(levels, i) for i in range(levels.steps)]

    def _row(self, levels: Levels, i: int) -> tuple[float, ...]:
        edge = None if math.isfinite(levels.rho[i]) else levels.edge(i)
        return edge or (0.0, float(levels.alpha[i + 1]), float(levels.sigma[i + 1]))

    def step(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """The inner flow down to clean data; then its end made noisy."""
        a, b, d = row.c
        inside: tuple[Row, ...] = getattr(row, "inside", ())
        if not inside:
            return add_noise(combine(x, a, (b, model(x, row.t))), d, memory)
        own = Memory()
        for inner in inside:
            x = self.flow.step(x, inner, model, own)  # type: ignore[union-attr]
        return add_noise(combine(x, b / float(inside[-1].alpha_s)), d, memory)  # type: ignore[operator, arg-type]


@dataclass(frozen=True, eq=False)
class DAPS(Steer):
    """Draw clean data around the inner flow's end that explain the measurement, per sample; for the solver ``Decoupled``.

    Args:
        operator: A.
        y: the measurement, (*shape_out), (1, *shape_out) or one a sample of the run.
        noise: standard deviation of the measurement noise, above 0.
        std: s, standard deviation of the data in units of the state.
        langevin: steps of Langevin dynamics; 0 draws exactly, by solving a perturbed least-squares problem.
        rate: of a Langevin step, as a fraction of the largest stable one over 2.
        iterations: conjugate-gradient iterations of an exact draw.
        tolerance: stop a sample when the residual of that equation has shrunk by this factor.

    Raises:
        UserError: a measurement that does not fit or is not finite, noise or std not above 0, negative langevin, rate outside (0, 1].
    """

    operator: Operator
    y: Tensor
    noise: float = 0.1
    std: float = math.inf
    langevin: int = 0
    rate: float = 0.5
    iterations: int = 50
    tolerance: float = 1e-6
    solver: ClassVar[str] = "decoupled"
    exactness: ClassVar[str] = "exact for data N(m, s^2 I) with one inner step and exact draws; biased otherwise, towards too much spread"

    def __post_init__(self) -> None:
        if not 0 < self.noise < math.inf or self.langevin < 0 or not 0 < self.rate <= 1 or not self.std > 0:
            raise UserError(
                "DAPS needs noise and std above 0, langevin >= 0 and rate in (0, 1], "
                f"got {self.noise}, {self.std}, {self.langevin} and {self.rate}"
            )
        Proximal(self.operator, self.iterations, self.tolerance)
        object.__setattr__(self, "y", self.operator.measurement(self.y))

    def after(self, x: Tensor, moment: Moment) -> Tensor:  # type: ignore[override]
        """The state whose clean part is such a draw."""
        if not isinstance(moment.row, InnerRow):
            raise UserError("DAPS edits the end of an inner flow: sample with the solver Decoupled")
        if moment.noise is None or not math.isfinite(moment.rho):
            return x
        return edited(x, moment, "clean", lambda x0: self.drawn(x0, per_sample(self.y, moment, x0), moment))

    def drawn(self, x0: Tensor, y: Tensor, moment: Moment) -> Tensor:
        """A draw of N(x0_hat, r^2) p(y | x0).

        Args:
            y: (batch, *shape_out).
            moment: knows r, and has the noise.

        Returns:
            (batch, *shape_in).
        """
        r = 1 / math.hypot(1 / moment.rho, 1 / self.std)

        def unit(like: Tensor, stream: str) -> Tensor:
            return moment.noise.draw(tuple(like.shape[1:]), like.dtype, like.device, stream)  # type: ignore[union-attr]

        if self.langevin == 0:
            step = Proximal(self.operator, self.iterations, self.tolerance)
            return step(x0 + r * unit(x0, "daps"), y + self.noise * unit(y, "daps/data"), (r / self.noise) ** 2)
        size = self.rate / (1 / r**2 + self.operator.norm_sq() / self.noise**2)
        x = x0.clone()
        for _ in range(self.langevin):
            slope = (x0 - x) / r**2 + self.operator.adjoint(y - self.operator(x)) / self.noise**2
            x = x + size * slope + math.sqrt(2 * size) * unit(x, "daps")
        return x
