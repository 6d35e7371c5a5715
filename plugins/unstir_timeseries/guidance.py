"""Observation guidance: an unconditional model of windows is pulled towards what was observed of them; one model forecasts and imputes.

    mse         D' = D - s (sigma^2/alpha) J^T grad E,   E = sum (y - D)^2
    quantile    D' = D - s (sigma^2/alpha) J^T grad E,   E = sum max(k d, (k - 1) d),   d = y - D,   k_i = (i + 1)/(S + 1) in path i of S
    pigdm       D' = D + (sigma^2/alpha) J^T (y - D)/(r^2 + R),   r^2 = rho^2/(1 + rho^2/std^2),   R = noise^2
    covariance  D' = D + V (V + R)^-1 (y - D),   V = (sigma^2/alpha) J = Cov[x0 | x_t]

over the observed entries, J = dD/dx. In an ancestral step of a discrete table this shifts the mean by -s beta_t/sqrt(a_t) grad E; TSDiff's own
rule, s times the posterior variance, is (1 - abar_{t-1})/(1 - abar_t) of that, the same but for the last few steps (here it would be the steer
``unstir.guide.ValueGuidance`` of -E, ``place="after"``, ``on="clean"``). "covariance" is exact for a normal law, "pigdm" where the data are
white too. A quantile pull does not grow with the error: the first steps after the observations stay too wide. "mse" is the likelihood of noise
R = 1/(2 s) with the spread of x0 left out, and overshoots past a scale that depends on model, solver and grid: see `stable_scale`.

Paths under "quantile" come ordered, path i near its level k_i: shuffle them before they are taken for exchangeable.
Reference: Kollovieh et al. 2023 (TSDiff), arXiv:2307.11494; Song et al. 2023 (PiGDM), ICLR; Rozet et al. 2024 (MMPS), arXiv:2405.13712.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

import unstir
from unstir.certify.oracles import GaussianOracle
from unstir.denoiser import Denoiser
from unstir.errors import SamplingDiverged, UserError
from unstir.guide import MMPS, Guide, LossGuidance, PiGDM
from unstir.guide.likelihood import Linearised, gain
from unstir.operator import Identity
from unstir.operator.cg import inner

Kind = Literal["mse", "quantile", "pigdm", "covariance"]
_ENTRIES = ("observation", "observed", "level")  # of the condition, the guides' own
_SWING = 3.0  # paths this many times as wide as without guidance, at any step, count as diverging


@dataclass(frozen=True)
class ObservationGuidance:
    """How strongly, and by which rule, windows are pulled towards their observed entries.

    Args:
        kind: "mse", "quantile", "pigdm" or "covariance".
        scale: s of "mse" and "quantile"; of the other two, whose pull is Bayes' rule, 1. At 0 samples are unconditional, to the bit.
        std: standard deviation of the data in units of the state, of "pigdm".
        noise: standard deviation of the observations in units of the state, of "pigdm" and "covariance".
        iterations: of the solve of "covariance", each a product with J^T; as many as there are observed entries solve it exactly.

    Raises:
        UserError: an unknown kind, or a number out of range.

    Example:
        >>> guidance = ObservationGuidance("quantile", scale=4.0)
        >>> paths = guidance.sample(prior, y, samples=100, solver="ancestral", grid="native:100", seed=1)
    """

    kind: Kind = "quantile"
    scale: float = 1.0
    std: float = 1.0
    noise: float = 0.01
    iterations: int = 20

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UserError(f"observation guidance is one of {', '.join(get_args(Kind))}, got {self.kind!r}")
        if not 0 <= self.scale < math.inf:
            raise UserError(f"the scale of observation guidance must be finite and at least 0, got {self.scale}")
        if self.kind in ("pigdm", "covariance") and self.scale not in (0, 1):
            raise UserError(
                f"guidance by {self.kind!r} is Bayes' rule, scale 1 (or 0: none), got {self.scale}; its 'noise' is what weakens it"
            )
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
        if self.kind in ("mse", "quantile") or self.scale == 0:
            return (LossGuidance(losses=_LOSSES.get(self.kind, squared), weight=self.scale, entries=_ENTRIES, on="clean"),)
        pull: dict[str, Any] = {"operator": Identity(shape), "y": "observation", "noise": self.noise, "observed": "observed"}
        return (PiGDM(**pull, std=self.std, iterations=2) if self.kind == "pigdm" else MMPS(**pull, iterations=self.iterations),)

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

    def check(self, denoiser: Denoiser, *, solver: Any, grid: Any) -> None:
        """Refuse a scale that would diverge, before anything is drawn.

        Args:
            denoiser: the model.
            solver: what will sample.
            grid: what it will sample on.

        Raises:
            UserError: the scale of "mse" is larger than `stable_scale`.
        """
        if self.kind != "mse" or self.scale == 0:
            return
        variance = leading_variance(denoiser)
        if not _stable(self.scale, variance, denoiser, solver, grid):
            largest = stable_scale(denoiser, solver=solver, grid=grid)
            raise UserError(
                f"guidance by 'mse' with scale {self.scale:g} diverges on this model, solver and grid, where the largest stable scale is "
                f"{largest:.2g}: take a smaller one, more steps, or 'pigdm', which has no scale"
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
        self.check(denoiser, solver=solver, grid=grid)
        told: dict[str, Any] = {
            key: value.repeat_interleave(samples, 0) if isinstance(value, Tensor) and value.ndim and len(value) == len(y) else value
            for key, value in (condition or {}).items()
        }
        told |= self.condition(y, samples=samples)
        guides = self.guides(tuple(y.shape[1:]))
        drawn: dict[str, Any] = {"solver": solver, "grid": grid, "seed": seed, "batch": batch, "progress": progress}
        try:
            return unstir.sample(denoiser, samples * len(y), guides=guides, condition=told, **drawn)
        except SamplingDiverged as failure:
            raise UserError(
                f"guidance by {self.kind!r} with scale {self.scale:g} diverged at step {failure.step}, in path {failure.index % samples} of "
                f"item {failure.index // samples}: take a smaller scale, more steps, or 'pigdm'"
            ) from failure


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
    k = condition["level"].to(d).view(-1, *[1] * (d.ndim - 1))  # type: ignore[index]
    return torch.maximum(k * d, (k - 1) * d).flatten(1).sum(1)


_LOSSES = {"mse": squared, "quantile": pinball}


def _error(x0: Tensor, condition: Mapping[str, Any] | None) -> Tensor:
    """y - x0 where something was observed, else 0."""
    if not condition or "observation" not in condition:
        raise UserError("observation guidance finds no observations in the condition: ObservationGuidance.condition makes them")
    return (condition["observation"].to(x0) - x0) * condition["observed"].to(x0)


def stable_scale(denoiser: Denoiser, *, solver: Any, grid: Any) -> float:
    """The largest scale of "mse" that this solver survives on this grid, were the data normal with the model's `leading_variance`.

    Along the data's leading direction, of variance l, an observed normal law is one number: J = alpha l/(alpha^2 l + sigma^2) and guidance
    multiplies D by 1 - 2 s v, v = (sigma^2/alpha) J. The solver itself walks that law to y = 0; a scale is stable while no step is more than
    3 times as wide as without guidance (guided towards a value it should be narrower).

    Args:
        denoiser: the model.
        solver: what will sample.
        grid: what it will sample on.

    Returns:
        s, to 2 digits, from below; 0 where none is.
    """
    variance, low, high = leading_variance(denoiser), 0.0, 1e6
    while high - low > 0.01 * high:
        middle = math.sqrt(low * high) if low else high / 10
        if middle < 1e-9:
            return 0.0
        low, high = (middle, high) if _stable(middle, variance, denoiser, solver, grid) else (low, middle)
    return low


def _stable(scale: float, variance: float, denoiser: Denoiser, solver: Any, grid: Any) -> bool:
    """Does the walk of one normal number of this variance, pulled to its mean, stay narrow?"""
    law = GaussianOracle(torch.zeros(1), torch.full((1, 1), variance), denoiser.process)
    told = {"observation": torch.zeros(1, 1), "observed": torch.ones(1, 1)}
    guide = LossGuidance(losses=squared, weight=scale, entries=_ENTRIES, on="clean")
    try:
        walk = unstir.sample(law, 64, solver=solver, grid=grid, guides=[guide], condition=told, trace=True)
    except SamplingDiverged:
        return False
    levels = [(float(law.process.alpha(t)), float(law.process.sigma(t))) for t in walk.times]
    free = [math.sqrt(alpha**2 * variance + sigma**2) for alpha, sigma in levels]
    return all(float(x.square().mean().sqrt()) <= _SWING * wide for x, wide in zip(walk.path or [], free, strict=True))


_VARIANCES: WeakKeyDictionary[Denoiser, float] = WeakKeyDictionary()


def leading_variance(denoiser: Denoiser, *, iterations: int = 8) -> float:
    """The variance of a model's windows along their leading direction, in units of the state; kept for a model.

    The largest eigenvalue v of Cov[x0 | x_t] = (sigma^2/alpha) J by power iteration at a few noise levels, with 1/l = 1/v - 1/rho^2; the
    largest of them, from two states each.

    Args:
        denoiser: the model, unconditional.
        iterations: of each power iteration.

    Returns:
        l.
    """
    if denoiser not in _VARIANCES:
        _VARIANCES[denoiser] = _leading_variance(denoiser, iterations)
    return _VARIANCES[denoiser]


def _leading_variance(denoiser: Denoiser, iterations: int) -> float:
    process, top = denoiser.process, 0.0
    draw = torch.Generator().manual_seed(0)
    parameter = next((p for p in (*denoiser.parameters(), *denoiser.buffers()) if p.is_floating_point()), torch.zeros(1))
    shape: Any = denoiser.shape
    noise, start = (torch.randn(2, *shape, generator=draw).to(parameter) for _ in range(2))
    with torch.no_grad():
        centre = denoiser(float(process.sigma(process.t_max)) * noise, process.t_max)
        highest = min(float(process.rho(process.t_max)), 30.0)
        for rho in torch.logspace(math.log10(0.3), math.log10(max(highest, 0.3)), 5, dtype=torch.float64).tolist():
            t = float(process.time_at_rho(rho))
            x = float(process.alpha(t)) * centre + float(process.sigma(t)) * noise
            at, size, v, largest = Linearised(denoiser, x, t, None), gain(process, x, t), start, torch.zeros(2)
            for _ in range(iterations):
                v = v / inner(v, v).sqrt().clamp(min=1e-30).view(-1, *[1] * (v.ndim - 1))
                v = size * at.pull(v)
                largest = inner(v, v).sqrt()
            part = largest.double().clamp(max=0.95 * rho**2)  # beyond rho^2 a Jacobian is no covariance
            top = max(top, float((1 / (1 / part.clamp(min=1e-12) - rho**-2)).max()))
    return top
