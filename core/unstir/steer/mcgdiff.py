"""Particle filters on a noised measurement, for linear operators: MCGdiff and FPS.

    y = A x_0 + noise n,      psi_s(x_s) = N(y_s; A x_s, S_s):
    MCGdiff    y_s = y/k_s,                                                  S_s = (noise^2 I + v_s A A^T)/k_s^2
    FPS        y_s a path of the noised measurement, from y_T down to y,     S_s = alpha_s^2 noise^2 I
    weigh:     w <- w C_s(x_t)/psi_t(x_t),   C_s(x_t) = int p(x_s|x_t) psi_s(x_s) dx_s = N(y_s; A m, d^2 A A^T + S_s),   m = a x_t + b D
    move:      x_s ~ p(x_s|x_t) psi_s(x_s)/C_s(x_t):    x_s <- x_s + d^2 A^T (d^2 A A^T + S_s)^-1 (y_s - A x_s - S_s^(1/2) e)

k_s x_s and v_s are mean and variance of x_0 given x_s, were the data N(0, data_std^2); as published data_std is infinite, k = 1/alpha,
v = (sigma/alpha)^2. MCGdiff's weights telescope to p(y | x_0): exact for the solver's chain as particles grow. FPS leaves the division
by psi_t out, since without noise the path is A x_s itself and every point of it a measurement of its own; with noise it counts y once a
step and is too narrow.
A A^T is diagonalised once.
References: Cardoso et al. 2024 (MCGdiff), arXiv:2308.07983; Dou & Song 2024 (FPS), ICLR.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.operator.base import Operator
from unstir.steer.base import Moment, per_sample
from unstir.steer.particles import ParticleSteer
from unstir.steer.tilt import check_gaussian, mean_of_step, plain

_LARGEST = 4096  # measured values whose A A^T is still diagonalised


@dataclass(frozen=True, eq=False)
class MCGdiff(ParticleSteer):
    """Monte Carlo guided diffusion: fully adapted particles for a noisy linear measurement; one evaluation a step, no gradient.

    Args:
        operator: A, real, of at most 4096 measured values.
        y: the measurement, (*shape_out) or (1, *shape_out) for all problems, or one row a problem of the run.
        noise: standard deviation of the measurement's noise, above 0.
        data_std: rough standard deviation of the data, in units of the state: the weights are the steadier for it; infinite as published.
        warm: does the run begin at a given state? It is then weighed only; else the first state, a draw of the prior, is redrawn given y.
        particles: K, consecutive samples of one problem.
        threshold: resample where ESS is below this share of K.

    Raises:
        UserError: a measurement that does not fit, noise not above 0, a complex or too large operator, or a solver without a known law.
    """

    operator: Operator
    y: Tensor
    noise: float
    data_std: float = math.inf
    warm: bool = False
    exactness: ClassVar[str] = "exact for the solver's chain times p(y|x0), as particles grow"
    solver: ClassVar[str] = "ancestral"
    telescopes: ClassVar[bool] = True
    basis: Tensor = field(init=False, repr=False)
    powers: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        size = math.prod(self.operator.shape_out)
        if not self.data_std > 0:
            raise UserError(f"the standard deviation of the data must be above 0, got {self.data_std}")
        if not 0 < self.noise < math.inf or self.operator.is_complex or size > _LARGEST:
            raise UserError(f"a particle filter takes a real operator of up to {_LARGEST} values and noise above 0, got noise={self.noise}")
        unit = torch.eye(size, dtype=torch.float64).reshape(size, *self.operator.shape_out)
        gram = self.operator(self.operator.adjoint(unit)).reshape(size, size)
        powers, basis = torch.linalg.eigh((gram + gram.mT) / 2)
        y = self.operator.measurement(self.y)
        object.__setattr__(self, "powers", powers.clamp(min=0))
        object.__setattr__(self, "basis", basis)
        object.__setattr__(self, "y", y if y.shape[0] == 1 else y.repeat_interleave(self.particles, 0))

    def before(self, x: Tensor, moment: Moment) -> Tensor:  # type: ignore[override]
        """The state, resampled by how well each particle can still meet the measurement of the next time."""
        check_gaussian(x, moment, type(self).__name__)
        row, notes, first = moment.row, moment.memory, x
        c: Any = row.c
        if "log_psi" not in notes:
            x = self.begun(x, moment)
        notes["centre"] = self.centre(x, moment, row.alpha_s, row.sigma_s, (c[0], c[2]))
        mean = mean_of_step(x, moment) if x is first else None
        if mean is None:  # moved: what the denoiser believes is asked of the new state, and handed on with it
            moment.move(x)
            mean = mean_of_step(x, moment)
        spread = self.spread(x, row.alpha_s, row.sigma_s)
        ahead = log_normal(notes["centre"] - self.measured(mean), c[2] ** 2 * self.powers.to(spread) + spread)
        return self.weighted(x, moment, ahead - notes["log_psi"] if self.telescopes else ahead)  # type: ignore[return-value]

    def after(self, x: Tensor, moment: Moment) -> Tensor:  # type: ignore[override]
        """The state, drawn given the measurement of its time; at the end resampled by the last weights."""
        row, notes = moment.row, moment.memory
        d: Any = row.c[2]
        z, spread = plain(x, moment, row.s), self.spread(x, row.alpha_s, row.sigma_s)
        moved = self.pull(z, notes["centre"], d**2, spread, moment) if d else torch.zeros_like(x)
        notes["log_psi"] = log_normal(notes["centre"] - self.measured(z + moved), spread)
        notes["moved"] = x + moved
        if moment.last:
            self.weighted(x, moment, torch.zeros_like(notes["log_psi"]), final=True)
        return notes.pop("moved")

    def begun(self, x: Tensor, moment: Moment) -> Tensor:
        """The first state given its measurement, with the weight of the whole prior; or, where it was given, with its own."""
        row, notes = moment.row, moment.memory
        sigma: Any = row.sigma_t
        centre, spread = self.centre(x, moment, row.alpha_t, sigma, None), self.spread(x, row.alpha_t, sigma)
        z = plain(x, moment, row.t)
        moved = torch.zeros_like(x) if self.warm else self.pull(z, centre, sigma**2, spread, moment)
        notes["log_psi"] = log_normal(centre - self.measured(z + moved), spread)
        middle = plain(torch.zeros_like(x) + moment.process.prior(moment.anchor, row.t)[0], moment, row.t)  # type: ignore[arg-type]
        whole = log_normal(centre - self.measured(middle), sigma**2 * self.powers.to(spread) + spread)
        notes["log_weights"] = notes["log_psi"] if self.warm else whole
        return x if self.warm else x + moved

    def pull(self, z: Tensor, centre: Tensor, variance: float, spread: Tensor, moment: Moment) -> Tensor:
        """What makes a draw of N(m, variance I) one of that law given A z + S^(1/2) e = centre."""
        drawn = moment.noise.draw((len(spread),), z.dtype, z.device, stream="measured")  # type: ignore[union-attr]
        gap = centre - self.measured(z) - spread.sqrt() * drawn
        gain = variance / (variance * self.powers.to(spread) + spread)
        return self.operator.adjoint(((gain * gap) @ self.basis.to(z).mT).reshape(-1, *self.operator.shape_out))

    def centre(self, x: Tensor, moment: Moment, alpha: Any, sigma: Any, step: tuple[float, float] | None) -> Tensor:
        """y_s in the basis of A A^T, (batch, values), after a step (a, d); at the start for ``None``."""
        return self.stretch(alpha, sigma) * self.turned(per_sample(self.y, moment, x))

    def spread(self, x: Tensor, alpha: Any, sigma: Any) -> Tensor:
        """The diagonal of S_s in that basis, in the dtype of x."""
        stretch = self.stretch(alpha, sigma)
        return ((stretch * self.noise) ** 2 + stretch * sigma**2 / (alpha or 1.0) * self.powers if alpha else sigma**2 * self.powers).to(x)

    def stretch(self, alpha: Any, sigma: Any) -> float:
        """1/k = alpha + sigma^2/(alpha data_std^2)."""
        return alpha + sigma**2 / (alpha * self.data_std**2) if alpha else 0.0

    def measured(self, z: Tensor) -> Tensor:
        """A z in that basis, (batch, values)."""
        return self.turned(self.operator(z))

    def turned(self, y: Tensor) -> Tensor:
        """A measurement in the basis of A A^T, (batch, values)."""
        return y.flatten(1) @ self.basis.to(y)


@dataclass(frozen=True, eq=False)
class FPS(MCGdiff):
    """Filtering posterior sampling: particles that follow a path of the noised measurement, one path a problem.

    y_T = alpha_T y + sigma_T (A A^T)^(1/2) e,     y_s = a y_t + (alpha_s - a alpha_t) y + d (A A^T)^(1/2) e;     w <- w C_s(x_t)

    For measurements (all but) without noise; log Z is that of the whole path. Args and errors are those of :class:`MCGdiff`.
    """

    exactness: ClassVar[str] = "exact as particles grow and the noise of the measurement goes to 0; too narrow with noise"
    telescopes: ClassVar[bool] = False

    def centre(self, x: Tensor, moment: Moment, alpha: Any, sigma: Any, step: tuple[float, float] | None) -> Tensor:
        """The next point of the path."""
        y, notes = self.turned(per_sample(self.y, moment, x)), moment.memory
        drawn = moment.noise.draw((y.shape[1],), x.dtype, x.device, stream="path")  # type: ignore[union-attr]
        drawn = drawn[:: self.particles].repeat_interleave(self.particles, 0) * self.powers.to(x).sqrt()
        a, d = step or (0.0, float(moment.row.sigma_t))  # type: ignore[arg-type]
        before = notes.get("path", torch.zeros_like(y))
        kept = float(moment.row.alpha_t) if step else 0.0  # type: ignore[arg-type]
        notes["path"] = a * before + (alpha - a * kept) * y + d * drawn
        return notes["path"]

    def spread(self, x: Tensor, alpha: Any, sigma: Any) -> Tensor:
        """alpha^2 noise^2, and where alpha is all but 0 a trace of A A^T's noise."""
        return ((alpha * self.noise) ** 2 + 1e-6 * sigma**2 * self.powers).to(x)


def log_normal(offset: Tensor, variance: Tensor) -> Tensor:
    """log N(offset; 0, diag(variance)), (batch,), in float64."""
    offset, variance = offset.double(), variance.double()
    return -0.5 * (offset.square() / variance + torch.log(2 * math.pi * variance)).sum(1)
