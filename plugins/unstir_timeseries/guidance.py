"""Observation guidance: an unconditional model of windows is pulled towards what was observed of them; one model forecasts and imputes.

    mse         D' = D - s (sigma^2/alpha) J^T grad E,   E = sum (y - D)^2
    quantile    D' = D - s (sigma^2/alpha) J^T grad E,   E = sum max(k d, (k - 1) d),   d = y - D,   k_i = (i + 1)/(S + 1) in path i of S
    pigdm       D' = D + (sigma^2/alpha) J^T (y - D)/(r^2 + R),   r^2 = rho^2/(1 + rho^2/std^2),   R = noise^2
    covariance  D' = D + V (V + R)^-1 (y - D),   V = (sigma^2/alpha) J = Cov[x0 | x_t]

over the observed entries, J = dD/dx. In an ancestral step of a table this shifts the mean by -s beta_t/sqrt(a_t) grad E; TSDiff's rule, s
times the posterior variance, is (1 - abar_{t-1})/(1 - abar_t) of that, which differs in the last few steps (here: the steer
``unstir.guide.ValueGuidance`` of -E, ``place="after"``, ``on="clean"``). "covariance" is exact for a normal law, "pigdm" where the data are
white too. A quantile pull does not grow with the error: the first steps after the observations stay too wide.

A pull that is strong for its step overshoots ("mse" diverges, a quantile rattles around its kink), so the first three are restrained: the
move D' - D is cut at c/share of itself, c where E is least along it, share = 1 - rho_s/rho_t the part of a step's way that an estimate
decides. Fine steps never feel it. Paths begin at alpha y + sigma z, with D' where nothing was observed: without it a process whose last
signal is not 0 (TSDiff's table) begins beside its own law, and deterministic solvers keep that error.

Paths under "quantile" come ordered, path i near its level k_i: shuffle them before they are taken for exchangeable.
Reference: Kollovieh et al. 2023 (TSDiff), arXiv:2307.11494; Song et al. 2023 (PiGDM), ICLR; Rozet et al. 2024 (MMPS), arXiv:2405.13712.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

import unstir
from unstir import names
from unstir.denoiser import Denoiser
from unstir.errors import SamplingDiverged, UserError
from unstir.guide import MMPS, Guide, LossGuidance, PiGDM
from unstir.guide.likelihood import Linearised, gain
from unstir.noise import NoiseSource
from unstir.operator import Identity
from unstir.operator.cg import inner
from unstir.process.base import spread
from unstir_timeseries.stability import leading_variance, stable_scale, survives

if TYPE_CHECKING:
    from unstir.process import Process
    from unstir.solver.base import Row

Kind = Literal["mse", "quantile", "pigdm", "covariance"]
_ENTRIES = ("observation", "observed", "level")  # of the condition, the guides' own


@dataclass(frozen=True)
class ObservationGuidance:
    """How strongly, and by which rule, windows are pulled towards their observed entries.

    Args:
        kind: "mse", "quantile", "pigdm" or "covariance".
        scale: s of "mse" and "quantile"; of the other two, whose pull is Bayes' rule, 1. At 0 samples are unconditional, to the bit.
        std: standard deviation of the data in units of the state, of "pigdm".
        noise: standard deviation of the observations in units of the state, of "pigdm" and "covariance".
        iterations: of the solve of "covariance", each a product with J^T; as many as there are observed entries solve it exactly.
        restrained: are moves cut where they overshoot? Without it "mse" has a largest scale, `stable_scale`, and refuses more.

    Raises:
        UserError: an unknown kind, or a number out of range.

    Example:
        >>> guidance = ObservationGuidance("quantile", scale=4.0)
        >>> paths = guidance.sample(prior, y, samples=100, solver="dpm++2m-sde", grid="logistic:20", seed=1)
    """

    kind: Kind = "quantile"
    scale: float = 1.0
    std: float = 1.0
    noise: float = 0.01
    iterations: int = 20
    restrained: bool = True

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UserError(f"observation guidance is one of {', '.join(get_args(Kind))}, got {self.kind!r}")
        if not 0 <= self.scale < math.inf:
            raise UserError(f"the scale of observation guidance must be finite and at least 0, got {self.scale}")
        if self.kind in ("pigdm", "covariance") and self.scale not in (0, 1):
            raise UserError(f"guidance by {self.kind!r} is Bayes' rule, scale 1 (or 0: none), got {self.scale}: its noise weakens it")
        if not 0 < self.std < math.inf or not 0 <= self.noise < math.inf or self.iterations < 1:
            raise UserError(
                "observation guidance needs std above 0, noise >= 0 and iterations >= 1, "
                f"got {self.std}, {self.noise} and {self.iterations}"
            )

    def guides(self, shape: tuple[int, ...]) -> tuple[Guide, ...]:
        """The guides for ``unstir.sample``, to be used with what `condition` gives.

        Args:
            shape: (channels, length) of a window.
        """
        measured: dict[str, Any] = {"operator": Identity(shape), "y": "observation", "noise": self.noise, "observed": "observed"}
        if self.scale and self.kind == "covariance":
            return (MMPS(**measured, iterations=self.iterations),)
        if self.scale and self.restrained:
            return (Restrained(self.kind, self.scale, self.std, self.noise),)
        if self.scale and self.kind == "pigdm":
            return (PiGDM(**measured, std=self.std, iterations=2),)
        loss = pinball if self.kind == "quantile" else squared
        return (LossGuidance(losses=loss, weight=self.scale, entries=_ENTRIES, on="clean"),)

    def condition(self, y: Tensor, *, samples: int) -> dict[str, Tensor]:
        """What the guides are told: what was observed of each item, a row a path; path i of item j is row j S + i.

        Args:
            y: (items, channels, length) scaled windows, NaN where nothing was observed.
            samples: S, paths an item, at least 1.

        Returns:
            "observation" and "observed" (items S, channels, length) and, for quantiles, "level" (items S,), k_i = (i + 1)/(S + 1).

        Raises:
            UserError: no paths, or an infinite value.
        """
        if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
            raise UserError(f"observation guidance draws a whole number of paths, at least 1, got {samples!r}")
        if bool(torch.isinf(y).any()):
            raise UserError("an observed value is infinite: what was not observed is NaN, everything else a number")
        rows = y.repeat_interleave(samples, 0)
        told = {"observation": rows.nan_to_num(0.0), "observed": (~rows.isnan()).to(y.dtype)}
        if self.kind == "quantile":
            told["level"] = ((torch.arange(samples, dtype=y.dtype, device=y.device) + 1) / (samples + 1)).repeat(len(y))
        return told

    def start(
        self, denoiser: Denoiser, grid: Any, y: Tensor, *, samples: int, seed: int, condition: Mapping[str, Any] | None = None
    ) -> tuple[Tensor, float] | None:
        """Where paths begin, ``start`` of ``unstir.sample``: alpha y + sigma z, with the guided estimate where nothing was observed.

        Args:
            denoiser: the model; one evaluation an item.
            grid: what will be sampled on.
            y: (items, channels, length) scaled windows, NaN where nothing was observed.
            samples: S, paths an item.
            seed: of z, which is keyed by path.
            condition: of the model itself.

        Returns:
            The state (items S, channels, length) and its time; ``None`` at scale 0.
        """
        if self.scale == 0:
            return None
        process, t = denoiser.process, names.grid(grid).times(denoiser.process)[0]
        alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
        level = torch.where(y.isnan(), y.nanmean(-1, keepdim=True).nan_to_num(0.0), y)
        (guide,) = self.guides(tuple(y.shape[1:]))
        told = {**(condition or {}), **self.condition(y, samples=1)}
        filled = torch.where(y.isnan(), guide.wrap(denoiser)(alpha * level, t, told), y).repeat_interleave(samples, 0)
        z = NoiseSource(seed, range(len(filled))).draw(filled.shape[1:], y.dtype, y.device, "observed-start")
        return alpha * filled + sigma * z, t

    def check(self, denoiser: Denoiser, *, solver: Any, grid: Any, condition: Mapping[str, Any] | None = None) -> None:
        """Refuse a scale that would diverge, before anything is drawn.

        Args:
            denoiser: the model.
            solver: what will sample.
            grid: what it will sample on.
            condition: of the model itself; its first row is taken.

        Raises:
            UserError: the scale of "mse", not restrained, is larger than `stable_scale`.
        """
        if self.kind != "mse" or self.scale == 0 or self.restrained:
            return
        if not survives(self.scale, leading_variance(denoiser, condition), denoiser.process, solver, grid):
            largest = stable_scale(denoiser, solver=solver, grid=grid, condition=condition)
            raise UserError(
                f"guidance by 'mse' with scale {self.scale:g} diverges on this model, solver and grid, where the largest stable scale is "
                f"{largest:.2g}: take a smaller one, more steps, or restrain it"
            )

    def sample(
        self,
        denoiser: Denoiser,
        y: Tensor,
        *,
        samples: int,
        solver: Any = "logistic3",
        grid: Any = "logistic:20",
        seed: int = 0,
        condition: Mapping[str, Any] | None = None,
        batch: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> unstir.Samples:
        """Draw windows given what was observed of them.

        Args:
            denoiser: the model of windows.
            y: (items, channels, length) scaled windows, NaN where nothing was observed.
            samples: S, paths an item.
            solver: a solver or its short name.
            grid: a grid or its short name.
            seed: of the draws.
            condition: of the model itself, a row an item or one for all; ``None`` for an unconditional one.
            batch: paths worked on at a time; all at once when absent.
            progress: called with (steps made, steps in all).

        Returns:
            The samples; ``x`` is (items S, channels, length), path i of item j in row j S + i.

        Raises:
            UserError: the scale diverges, or an argument does not fit.
        """
        told: dict[str, Any] = {
            key: value.repeat_interleave(samples, 0) if isinstance(value, Tensor) and value.ndim and len(value) == len(y) else value
            for key, value in (condition or {}).items()
        }
        told |= self.condition(y, samples=samples)
        self.check(denoiser, solver=solver, grid=grid, condition=condition)
        drawn: dict[str, Any] = {"solver": solver, "grid": grid, "seed": seed, "batch": batch, "progress": progress}
        drawn["start"] = self.start(denoiser, grid, y, samples=samples, seed=seed, condition=condition)
        try:
            return unstir.sample(denoiser, samples * len(y), guides=self.guides(tuple(y.shape[1:])), condition=told, **drawn)
        except SamplingDiverged as failure:
            raise UserError(
                f"guidance by {self.kind!r} with scale {self.scale:g} diverged at step {failure.step}, in path {failure.index % samples} "
                f"of item {failure.index // samples}: take a smaller scale, more steps, or 'pigdm'"
            ) from failure


@dataclass(frozen=True, eq=False)
class Restrained(Guide):
    """The pulls "mse", "quantile" and "pigdm", each move cut where it would overshoot within its step; one evaluation and its transpose.

    Args:
        kind: which pull.
        scale: s of "mse" and "quantile".
        std: of "pigdm".
        noise: of "pigdm".
        rows: the solver's plan; ``unstir.sample`` fills it in. Without it moves end where E is least.
    """

    kind: Kind
    scale: float = 1.0
    std: float = 1.0
    noise: float = 0.01
    rows: Sequence[Row] = ()
    needs_grad: ClassVar[bool] = True
    exactness: ClassVar[str] = "biased: as the pull is that it restrains, to which it tends as steps become finer"

    def planned(self, rows: Sequence[Row]) -> Guide:
        """The guide that knows the steps."""
        return replace(self, rows=tuple(rows))

    def estimate(self, denoiser: Denoiser, x: Any, t: Any, condition: Mapping[str, Any] | None) -> Any:
        """The guided estimate; nothing in it remembers a gradient."""
        seen = {key: value for key, value in (condition or {}).items() if key not in _ENTRIES} or None
        with torch.inference_mode(False), torch.no_grad():
            at = Linearised(denoiser, x, t, seen)
            d, observed = _error(at.x0, condition), (condition or {})["observed"].to(at.x0)
            move = gain(denoiser.process, x, t) * at.pull(self._push(d, observed, denoiser.process, t, condition))
            share = self.share(t)
            least = _least_pinball if self.kind == "quantile" else _least_squared
            part = least(d, move * observed, share, condition or {})
            return at.x0 + part.view(-1, *[1] * (d.ndim - 1)) * move

    def _push(self, d: Tensor, observed: Tensor, process: Process, t: Any, condition: Mapping[str, Any] | None) -> Tensor:
        """Minus the gradient of s E in D; the residual over its variance, for "pigdm"."""
        if self.kind == "mse":
            return 2 * self.scale * d
        if self.kind == "quantile":
            return self.scale * observed * (_levels(d, condition or {}) - (d < 0).to(d))
        r2 = 1 / (process.rho(t) ** -2 + self.std**-2)
        return d / (spread(r2, d) + self.noise**2)

    def share(self, t: Any) -> float:
        """1 - rho_s/rho_t of the step that begins at t or spans it; 1 where none is known.

        Args:
            t: a time, or (batch,).
        """
        row = next((row for row in self.rows if row.t >= t > row.s), None) if not isinstance(t, Tensor) or t.ndim == 0 else None
        return 1.0 if row is None or not math.isfinite(row.rho_t) else 1 - row.rho_s / row.rho_t  # type: ignore[arg-type, operator]


def _least_squared(d: Tensor, move: Tensor, share: float, condition: Mapping[str, Any]) -> Tensor:
    """min(1, c/share), c where sum (d - c move)^2 is least; (batch,)."""
    size = inner(move, move)
    return torch.where(size > 0, inner(d, move) / (share * torch.where(size > 0, size, 1.0)), 1.0).clamp(0, 1)


def _least_pinball(d: Tensor, move: Tensor, share: float, condition: Mapping[str, Any]) -> Tensor:
    """min(1, c/share), c where the quantile loss of d - c move is least, by bisection of its slope; (batch,)."""
    levels = _levels(d, condition)

    def falls(c: Tensor) -> Tensor:
        return inner(move, levels - (d < c.view(-1, *[1] * (d.ndim - 1)) * move).to(d)) >= 0

    low, high = d.new_zeros(len(d)), d.new_full((len(d),), share)
    whole = falls(high)
    for _ in range(8):  # to 1/256 of the share
        middle = (low + high) / 2
        good = falls(middle)
        low, high = torch.where(good, middle, low), torch.where(good, high, middle)
    return torch.where(whole, 1.0, low / share)


def squared(x0: Tensor, condition: Mapping[str, Any] | None) -> Tensor:
    """E = sum (y - x0)^2 over the observed entries.

    Args:
        x0: clean estimates (batch, channels, length).
        condition: as `ObservationGuidance.condition` makes it.

    Returns:
        (batch,).
    """
    d = _error(x0, condition)
    return inner(d, d)


def pinball(x0: Tensor, condition: Mapping[str, Any] | None) -> Tensor:
    """E = sum max(k d, (k - 1) d), d = y - x0, over the observed entries.

    Args:
        x0: clean estimates (batch, channels, length).
        condition: as `ObservationGuidance.condition` makes it, with levels.

    Returns:
        (batch,).
    """
    d = _error(x0, condition)
    k = _levels(d, condition or {})
    return torch.maximum(k * d, (k - 1) * d).flatten(1).sum(1)


def _levels(d: Tensor, condition: Mapping[str, Any]) -> Tensor:
    """k of each sample, ready to multiply d."""
    return condition["level"].to(d).view(-1, *[1] * (d.ndim - 1))  # type: ignore[no-any-return]


def _error(x0: Tensor, condition: Mapping[str, Any] | None) -> Tensor:
    """y - x0 where something was observed, else 0."""
    if not condition or "observation" not in condition:
        raise UserError("observation guidance finds no observations in the condition: ObservationGuidance.condition makes them")
    return (condition["observation"].to(x0) - x0) * condition["observed"].to(x0)
