"""Density guidance: choose how likely a sample shall be, exactly, along its path.

    u' = u + [(div u + b)/|score|^2] score    =>    d log p_t(x_t)/dt = b

for the flow u. In X = x/alpha and tau = -log(rho): u = D - X, score = (D - X)/rho^2, div u = alpha tr(dD/dx) - d, which makes it a guide:

    D' = X + (1 + k)(D - X),      k = rho^2 (b + div u)/|D - X|^2

With b = c - div u the density gains c over what the flow would give, and no divergence is needed; b = -div u is the flow itself. The
stochastic version adds noise along the level sets of the density, P z with P = 1 - s s^T/|s|^2, and takes back what it costs:
c <- c - spread (div u + 1 - alpha s.(dD/dx) s/|s|^2) for noise of variance spread (rho_t^2 - rho_s^2) a step.

Reference: Karczewski et al. 2025, arXiv:2502.05807.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from unstir import names
from unstir.divergence import check_divergence, estimate_and_trace, signs
from unstir.errors import UserError
from unstir.evaluation import Evaluation, working_tensor
from unstir.guide.base import Guide, Guided
from unstir.noise import NoiseSource
from unstir.operator.cg import inner
from unstir.process.base import spread as spread_over
from unstir.start import first_state, times_of
from unstir.state import combine
from unstir.steer.base import Moment, Steer

if TYPE_CHECKING:
    from unstir.denoiser.base import Denoiser
    from unstir.solver import Row
    from unstir.state import State


@dataclass(frozen=True, eq=False)
class DensityControl(Guide):
    """Set the change of log-density along the path, per unit of -log(sigma/alpha), in nats.

    Args:
        change: nats that log p(x_0) gains in all over what the flow gives, spread evenly in log(sigma/alpha) over the interval.
        rate: b as a function of sigma/alpha (a float; gives a float or (batch,)), instead of a change: the log-density of x/alpha then
            ends at its start plus the integral of b. Where it asks for more than the law's maximum the path runs away: see ``limit``.
        low: smallest sigma/alpha of the interval; the grid's last noisy level where that is larger.
        high: largest sigma/alpha of the interval; the grid's first finite level where that is smaller.
        spread: of the noise that a :class:`DensityNoise` with the same value adds.
        divergence: ``"exact"`` (up to 64 entries) or ``"hutchinson"`` (one probe, the same for all samples and times), where one is needed:
            for a rate, or a spread above 0.
        limit: largest |k|; below infinity the density is missed where the score vanishes, and nothing runs away. In few dimensions a path
            may well meet such a place; in many the score is never small.

    Raises:
        UserError: both a change and a rate or neither, or an option out of range.
    """

    change: float | None = None
    rate: Callable[[float], Any] | None = None
    low: float = 0.0
    high: float = math.inf
    spread: float = 0.0
    divergence: Literal["exact", "hutchinson"] = "hutchinson"
    limit: float = math.inf
    exactness: ClassVar[str] = "exact in the limit of small steps: each path's log-density changes as asked; the law of samples is another"

    def __post_init__(self) -> None:
        if (self.change is None) == (self.rate is None) or not math.isfinite(self.change or 0):
            raise UserError("density control takes either a finite change or a rate")
        if not (0 <= self.low < self.high and 0 <= self.spread < math.inf and self.limit > 0):
            raise UserError(f"density control needs 0 <= low < high, spread >= 0 and limit > 0, got {self!r}")
        if self.divergence not in ("exact", "hutchinson"):
            raise UserError(f"divergence is 'exact' or 'hutchinson', got {self.divergence!r}")

    @property
    def needs_grad(self) -> bool:  # type: ignore[override]
        """Is the divergence needed?"""
        return self.rate is not None or self.spread > 0

    def planned(self, rows: Sequence[Row]) -> DensityControl:
        """The same, over the finite levels of the grid."""
        levels = [float(rho) for row in rows for rho in (row.rho_t, row.rho_s) if 0 < rho < math.inf]  # type: ignore[operator, arg-type]
        if not levels or max(levels) <= self.low or min(levels) >= self.high:
            raise UserError(f"no level of the grid lies in the interval [{self.low}, {self.high}] of the density control")
        return replace(self, low=max(self.low, min(levels)), high=min(self.high, max(levels)))

    def wrap(self, denoiser: Denoiser) -> Denoiser:
        """The controlled denoiser, with a probe of its own where one is needed."""
        return _Controlled(denoiser, self)

    def estimate(self, denoiser: Denoiser, x: State, t: Any, condition: Mapping[str, Any] | None, probe: Tensor | None = None) -> Tensor:
        """The guided estimate: one evaluation, two with a spread above 0."""
        if not isinstance(x, Tensor) or isinstance(t, Tensor):
            raise UserError("density control guides a tensor at one time for all samples")
        process = denoiser.process
        alpha, rho = float(process.alpha(t)), float(process.rho(t))
        if not self.low <= rho * (1 + 1e-9) or not rho <= self.high * (1 + 1e-9):
            return denoiser(x, t, condition)
        beta = spread_over(process.beta(t), x) if process.anchored else 0.0
        clean = (x - beta * process.need((condition or {}).get("anchor"))) / alpha if process.anchored else x / alpha
        if not self.needs_grad:
            x0, traces = denoiser(x, t, condition), None
        else:
            x0, traces = estimate_and_trace(denoiser, x, t, condition, probe)
        pull = x0 - clean
        length = inner(pull, pull).real.clamp_min(torch.finfo(pull.dtype).tiny)
        gain = self.gain(denoiser, x, t, condition, rho, pull * length.rsqrt().view(_column(x)), traces, alpha)
        k = (rho * rho * gain / length).clamp(-self.limit, self.limit)
        return clean + pull * (1 + k).view(_column(x))

    def gain(
        self,
        denoiser: Denoiser,
        x: Tensor,
        t: Any,
        condition: Mapping[str, Any] | None,
        rho: float,
        direction: Tensor,
        traces: Any,
        alpha: float,
    ) -> Any:
        """``b + div u``, less what the noise costs: a number, or (batch,).

        Args:
            denoiser: the denoiser being guided.
            x: the noisy state.
            t: its time.
            condition: what the denoiser is given.
            rho: sigma/alpha.
            direction: of the score, a unit vector a sample.
            traces: tr dD/dx (batch,), where it is needed.
            alpha: scale of the data.
        """
        if traces is None:
            return self.change / math.log(self.high / self.low)  # type: ignore[operator]
        free = denoiser.space.project(torch.ones_like(x), condition).flatten(1).sum(1)  # entries
        expansion = alpha * traces - free  # div u
        change = self.change / math.log(self.high / self.low) if self.rate is None else self.rate(rho) + expansion  # type: ignore[operator]
        if not self.spread:
            return change
        along: Any = estimate_and_trace(denoiser, x, t, condition, direction)[1]
        return change - self.spread * (expansion + 1 - alpha * along)


class _Controlled(Guided):
    """A controlled denoiser; its probe is one draw of signs, the same for every trajectory."""

    def __init__(self, denoiser: Denoiser, guide: DensityControl) -> None:
        super().__init__(denoiser, guide)
        self.control, self.probe = guide, None

    def forward(self, x: Any, t: Any, condition: Mapping[str, Any] | None = None) -> Any:
        """The controlled estimate."""
        if self.control.needs_grad and isinstance(x, Tensor):
            check_divergence(self.control.divergence, x)
            if self.control.divergence == "hutchinson" and self.probe is None:
                one = signs(NoiseSource(0, [0]), x[:1])
                self.probe = self.denoiser.space.project(one.expand_as(x), condition)  # type: ignore[union-attr, assignment]
        return self.control.estimate(self.denoiser, x, t, condition, self.probe)


@dataclass(frozen=True)
class DensityNoise(Steer):
    """Noise along the level sets of the density, after each step of a first-order solver under a :class:`DensityControl`.

    x_s <- x_s + alpha_s sqrt(spread (rho_t^2 - rho_s^2)) P z,      P = 1 - s s^T/|s|^2,  s along x_s - alpha_s x0

    Args:
        spread: 1 is the noise of the reverse SDE.

    Raises:
        UserError: a negative spread.
    """

    spread: float = 1.0
    exactness: ClassVar[str] = "with a DensityControl of the same spread, exact in the limit of small steps, as that is"

    def __post_init__(self) -> None:
        if not 0 <= self.spread < math.inf:
            raise UserError(f"the spread of density noise must be finite and at least 0, got {self.spread}")

    def after(self, x: State, moment: Moment) -> State:
        """The state, moved within its level set; as it is where sigma is 0, and after pure noise."""
        row, process = moment.row, moment.process
        if not isinstance(x, Tensor) or not isinstance(moment.x0, Tensor) or moment.noise is None:
            raise UserError("density noise moves a tensor under unstir.sample")
        if row.sigma_s == 0 or not math.isfinite(row.rho_t) or self.spread == 0:  # type: ignore[arg-type]
            return x
        beta = float(process.beta(row.s)) * moment.anchor if process.anchored else 0.0  # type: ignore[arg-type]
        across = x - beta - float(row.alpha_s) * moment.x0  # type: ignore[arg-type]
        length = inner(across, across).real.clamp_min(torch.finfo(across.dtype).tiny)
        z = moment.noise.draw(tuple(x.shape[1:]), x.dtype, x.device, "density")
        z = z - across * (inner(across, z).real / length).view(_column(x))
        variance = self.spread * (float(row.rho_t) ** 2 - float(row.rho_s) ** 2)  # type: ignore[arg-type]
        return x + float(row.alpha_s) * math.sqrt(variance) * z  # type: ignore[arg-type]


def scaled_prior(
    denoiser: Denoiser,
    count: int,
    *,
    scale: float,
    grid: Any = "karras:20",
    condition: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> tuple[State, Any]:
    """The start of ``unstir.sample`` with the same arguments, its noise scaled: the simplest way to likelier or less likely samples.

    Args:
        denoiser: the model.
        count: number of samples.
        scale: factor on the noise; below 1 samples are likelier where score and divergence are aligned, as they mostly are.
        grid: a grid, its short name, or the times.
        condition: as for ``sample``; the anchor is read from it.
        seed: as for ``sample``.

    Returns:
        ``(state, t)``, to be given as ``start``.

    Raises:
        UserError: a scale that is not finite.
    """
    if not math.isfinite(scale):
        raise UserError(f"the scale of the prior must be finite, got {scale}")
    times, like = times_of(names.grid(grid), denoiser.process), working_tensor(denoiser, None)
    model = Evaluation(denoiser, denoiser.process, condition)
    z = first_state(denoiser, model, NoiseSource(seed, range(count)), times, like, count, None)
    return model.with_anchor(combine(z, scale), times[0]), times[0]


def _column(x: Tensor) -> tuple[int, ...]:
    return (-1, *[1] * (x.ndim - 1))
