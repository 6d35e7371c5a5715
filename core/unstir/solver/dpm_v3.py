"""DPM-Solver-v3: multistep in an output whose linear part, scale and offset are statistics of the model, taken once.

    d(x/alpha)/d(lambda) = -l x/alpha - f,    f = (sigma eps - l x)/alpha = (1 - l) x/alpha - x0,    lambda = -log(sigma/alpha)
    f = e^{S - S_0} [g + e^{S_0} (B - B_0)],  S' = s,  B' = e^{-S} b,  L' = l,         g replaced by a polynomial through its last values
    x_s/alpha_s = e^{L_t - L_s} x/alpha_t - e^{-L_s} int e^{L + S - S_0} [g + e^{S_0} (B - B_0)] d(lambda)

l, s and b are a number per lambda and coordinate: l = E diag(d(sigma eps)/dx) leaves f the smallest slope in x, and s, b are the
least-squares line of df/d(lambda) against f. With l = 1 and s = b = 0 this is DPM-Solver++ with exact weights.

Reference: Zheng et al. 2023 (DPM-Solver-v3), arXiv:2310.13268, eqs. 5, 8, 10, 11 and algorithm 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor

from unstir.denoiser import Denoiser
from unstir.denoiser.base import Condition
from unstir.errors import UserError
from unstir.process import Joint, Process
from unstir.solver.base import Levels, Memory, Model, Row, Solver, add_noise
from unstir.solver.multistep import lagrange
from unstir.state import State, combine

_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(24)


class Statistics:
    """The statistics l, s and b of a model, between whose lambdas they are cubic splines.

    Args:
        lam: lambda = -log(sigma/alpha), increasing, (n,) with n at least 4.
        l, s, b: (n, *shape), one number a coordinate, or (n,) for all of them.

    Raises:
        UserError: the numbers are not finite, or of shapes that do not fit.
    """

    def __init__(self, lam: Any, l: Any, s: Any, b: Any) -> None:  # noqa: E741
        values = [np.asarray(value, dtype=np.float64) for value in (lam, l, s, b)]
        self.lam = values[0]
        if self.lam.ndim != 1 or len(self.lam) < 4 or (np.diff(self.lam) <= 0).any():
            raise UserError("statistics need at least four increasing values of lambda")
        if len({value.shape for value in values[1:]}) != 1 or values[1].shape[:1] != self.lam.shape:
            raise UserError(f"l, s and b must be of one shape (lambdas, *shape), got {[value.shape for value in values[1:]]}")
        if not all(np.isfinite(value).all() for value in values):
            raise UserError("the statistics of a model must be finite")
        self.l, self.s, self.b = (CubicSpline(self.lam, value) for value in values[1:])
        self.L, self.S = self.l.antiderivative(), self.s.antiderivative()
        self.offset = bool(values[3].any())

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the numbers at one lambda."""
        return self.l.c.shape[2:]

    def linear(self, lam: float) -> np.ndarray:
        """l, held constant outside of the lambdas known."""
        return np.asarray(self.l(np.clip(lam, self.lam[0], self.lam[-1])))

    def sums(self, spline: Any, slope: Any, lam: np.ndarray) -> np.ndarray:
        """An integral of ``slope`` (``L`` of l, ``S`` of s) at lambdas, straight outside of those known."""
        inside = np.clip(lam, self.lam[0], self.lam[-1])
        beyond = (lam - inside).reshape(lam.shape + (1,) * len(self.shape))
        return np.asarray(spline(inside) + beyond * slope(inside))

    def drift(self, low: float, lam: np.ndarray) -> np.ndarray:
        """B(lam) - B(low) times e^{S(low)}, the integral of e^{S_0 - S} b."""
        if not self.offset:
            return np.zeros((*lam.shape, *self.shape))
        half = (lam - low) / 2
        nodes = low + half[:, None] * (1 + _POINTS)
        inside = np.clip(nodes, self.lam[0], self.lam[-1])
        value = np.exp(self.sums(self.S, self.s, np.array([low])) - self.sums(self.S, self.s, nodes)) * self.b(inside)
        weights = (half[:, None] * _WEIGHTS).reshape(nodes.shape + (1,) * len(self.shape))
        return np.asarray((weights * value).sum(1))


def calibrate(
    denoiser: Denoiser,
    data: Tensor,
    levels: Sequence[float] | None = None,
    *,
    condition: Condition | None = None,
    probes: int = 0,
    seed: int = 0,
) -> Statistics:
    """Measure the statistics of a model for :class:`DPMSolverV3`, by differences of its estimates.

    At every level the data are made noisy anew. l takes two evaluations of the whole batch per probe, s and b two more.

    Args:
        denoiser: any denoiser whose process is not joint and has no anchor.
        data: clean states (batch, *shape), or samples of the denoiser.
        levels: noise levels sigma/alpha, decreasing; 60 uniform in their logarithm over the process when absent.
        condition: what the denoiser is conditioned on, batch first.
        probes: random signs to estimate the diagonal of the Jacobian with; 0 takes one direction after another, exactly.
        seed: of the noise and the signs.

    Returns:
        The statistics.

    Raises:
        UserError: the process is joint or has an anchor.
    """
    process = denoiser.process
    if isinstance(process, Joint) or process.anchored:
        raise UserError("statistics are measured on a process with one time and no anchor")
    if levels is None:
        high, low = (float(process.rho(t)) for t in (process.t_max, process.t_min))
        levels = np.geomspace(min(high, 80.0), low, 60).tolist()
    generator = torch.Generator().manual_seed(seed)
    residual, lam = _Residual(denoiser, condition), -np.log(np.asarray(levels, dtype=np.float64))

    def noisy(rho: float) -> Tensor:
        return data + rho * torch.randn(data.shape, generator=generator, dtype=data.dtype).to(data.device)

    with torch.no_grad():
        linear = CubicSpline(lam, np.stack([_jacobian(residual, noisy(rho), rho, probes, generator) for rho in levels]))
        lines = [_line(residual, noisy(rho), rho, linear(at), linear(at, 1)) for rho, at in zip(levels, lam, strict=True)]
    return Statistics(lam, linear(lam), np.stack([s for s, _ in lines]), np.stack([b for _, b in lines]))


class _Residual:
    """sigma eps/alpha = x/alpha - x0 at a state x/alpha and a noise level."""

    def __init__(self, denoiser: Denoiser, condition: Condition | None) -> None:
        self.denoiser, self.condition = denoiser, condition

    def __call__(self, bar: Tensor, rho: float) -> Tensor:
        t = float(self.denoiser.process.time_at_rho(rho))
        return bar - self.denoiser(bar * float(self.denoiser.process.alpha(t)), t, self.condition)


def _jacobian(residual: _Residual, bar: Tensor, rho: float, probes: int, generator: torch.Generator) -> np.ndarray:
    """l: the mean diagonal of the derivative of sigma eps by x."""
    nudge, size = 1e-3 * rho, bar[0].numel()
    total = torch.zeros(bar.shape[1:], dtype=torch.float64, device=bar.device)
    for probe in range(probes or size):
        if probes:
            signs = torch.randint(0, 2, bar.shape, generator=generator).to(bar) * 2 - 1
        else:
            signs = torch.eye(size, dtype=bar.dtype, device=bar.device)[probe].reshape(1, *bar.shape[1:]).expand_as(bar)
        change = (residual(bar + nudge * signs, rho) - residual(bar - nudge * signs, rho)) / (2 * nudge)
        total += (signs * change).to(torch.float64).mean(0) / (probes or 1)
    return total.cpu().numpy()


def _line(residual: _Residual, bar: Tensor, rho: float, l: np.ndarray, l_slope: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # noqa: E741
    """s and b: the least-squares line of df/d(lambda), along the flow, against f."""
    step, here = 1e-3, residual(bar, rho)
    later, before = (residual(bar - lam * here, rho * math.exp(-lam)) for lam in (step, -step))
    linear, turning = torch.from_numpy(l).to(bar.device), torch.from_numpy(l_slope).to(bar.device)
    bar, here, change = (value.to(torch.float64) for value in (bar, here, (later - before) / (2 * step)))
    f, slope = here - linear * bar, change - turning * bar + linear * here  # d(x/alpha)/d(lambda) = -sigma eps/alpha
    varied = (f - f.mean(0)).square().mean(0)
    s = ((f - f.mean(0)) * (slope - slope.mean(0))).mean(0) / varied.clamp(min=1e-300)
    s = torch.where(varied > 1e-12 * here.square().mean(0), s, 0.0)
    return s.cpu().numpy(), (slope.mean(0) - s * f.mean(0)).cpu().numpy()


@dataclass(frozen=True, repr=False)
class DPMSolverV3(Solver):
    """DPM-Solver-v3, predictor and corrector, one evaluation a step; without statistics it is DPM-Solver++ with exact weights.

    x_s/alpha_s = e^{L_t - L_s} x/alpha_t - sum_j C_j f_j - K,      one C and K a coordinate

    Args:
        statistics: l, s and b of the model, see :func:`calibrate`.
        predictor: number of values interpolated, 1 to 4.
        corrector: number of values of the implicit correction of every step, once its evaluation is there; 0 does none.

    Raises:
        UserError: an option is out of range.
    """

    joins: ClassVar[bool] = False
    statistics: Statistics | None = None
    predictor: int = 2
    corrector: int = 3

    def __post_init__(self) -> None:
        if not 1 <= self.predictor <= 4 or not 0 <= self.corrector <= 4:
            raise UserError(f"predictor must be 1 to 4 and corrector 0 to 4, got {self.predictor} and {self.corrector}")
        if not isinstance(self.statistics, Statistics | None):
            raise UserError(f"statistics must be what calibrate gives, got {type(self.statistics).__name__}")

    @property
    def order(self) -> int:  # type: ignore[override]
        """The predictor's, one more with a longer corrector, and no more than the first step leaves: 2, or 3 where it is corrected."""
        return min(max(self.predictor, min(self.corrector, self.predictor + 1)), 3 if self.corrector > 1 else 2)

    def plan(self, process: Process, times: Sequence[Any]) -> list[Row]:
        """The rows, whose coefficients have one number a coordinate."""
        rows, levels = super().plan(process, times), Levels.of(process, times)
        first = next((row.index for row in rows if row.c[0]), 0)
        return [replace(row, c=(*row.c, *self._row(levels, row.index, first))) if row.c[0] else row for row in rows]  # type: ignore[arg-type]

    def coefficients(self, levels: Levels) -> list[tuple[float, ...]]:
        """``(follow, a, b, d)``: follow the flow, or where it has no finite noise level step as ``x_s = a x + b x0 + d z``."""
        return [(0.0, *edge) if (edge := levels.edge(i)) else (1.0, 0.0, 0.0, 0.0) for i in range(levels.steps)]

    def step(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """``x_s = A x + sum_j C_j f_j + K``, and the same before it from the state before, with f at x, where corrected."""
        follow, a, b, d = row.c[:4]
        x0 = model(x, row.t)
        if not follow:
            return add_noise(combine(x, a, (b, x0)), d, memory)
        count, kept = int(row.c[4]), max(self.predictor, self.corrector)  # type: ignore[arg-type]
        part, A, K, *rest = (value.to(x) for value in row.c[5:])  # type: ignore[union-attr]
        memory["f", row.index % kept] = x * part - x0
        values = [memory["f", (row.index - j) % kept] for j in range(max(count, len(rest) - count - 2))]
        if len(rest) > count:
            back, offset, *weights = rest[count:]
            x = _line_of(memory["kept"], back, offset, weights, values)
        memory["kept"] = x
        return _line_of(x, A, K, rest[:count], values)

    def _row(self, levels: Levels, i: int, first: int) -> tuple[Any, ...]:
        """``(count, (1 - l)/alpha_t, A, K, C_0 .. C_{count-1}, [A', K', C'_0 ..])``."""
        known = i - first + 1
        count, corrected = min(self.predictor, known), min(self.corrector, known)
        ahead = self._weights(levels, i, i + 1, range(i, i - count, -1))
        again = self._weights(levels, i - 1, i, range(i, i - corrected, -1)) if corrected > 1 else []
        part = (1 - self._statistics.linear(-math.log(levels.rho[i]))) / levels.alpha[i]
        return (count, *(torch.as_tensor(value, dtype=torch.float64) for value in (part, *ahead, *again)))

    @property
    def _statistics(self) -> Statistics:
        if self.statistics is not None:
            return self.statistics
        return Statistics([-1.0, 0.0, 1.0, 2.0], np.ones(4), np.zeros(4), np.zeros(4))

    def _weights(self, levels: Levels, t: int, s: int, nodes: Sequence[int]) -> list[np.ndarray]:
        """``[A, K, C_0, ..]`` of ``x_s = A x_t + K + sum_j C_j f_j`` from level ``t`` to level ``s``."""
        known, at, (low, high) = self._statistics, -np.log(levels.rho[list(nodes)]), -np.log(levels.rho[[t, s]])
        u = (low + high) / 2 + (high - low) / 2 * _POINTS
        L, S = (lambda lam: known.sums(known.L, known.l, lam)), (lambda lam: known.sums(known.S, known.s, lam))
        end, origin = np.array([high]), at[:1]
        measure = (high - low) / 2 * _WEIGHTS.reshape((-1,) + (1,) * len(known.shape))
        factor = measure * np.exp(L(u) - L(end) + S(u) - S(origin))
        basis = [lagrange(u, at, j).reshape((-1,) + (1,) * len(known.shape)) for j in range(len(at))]
        scale = np.exp(S(origin) - S(at))
        drift, drifts = known.drift(at[0], u), known.drift(at[0], at)
        between = drift - sum(curve * value for curve, value in zip(basis, drifts, strict=True))
        alpha_t, alpha_s = levels.alpha[t], levels.alpha[s]
        A = alpha_s / alpha_t * np.exp(L(np.array([low])) - L(end))[0]
        C = [-alpha_s * (factor * curve).sum(0) * r for curve, r in zip(basis, scale, strict=True)]
        return [A, -alpha_s * (factor * between).sum(0), *C]


def _line_of(x: Any, A: Tensor, K: Tensor, C: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
    """A x + K + sum_j C_j f_j, as many values as there are C."""
    out: Tensor = x * A + K
    for weight, value in zip(C, values, strict=False):
        out.addcmul_(value, weight)
    return out
