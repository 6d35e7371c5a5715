"""Processes whose coordinates do not share one noise level: linear maps of time in place of numbers.

    x_t = M_t x_0 + R_t eps,        dM = F M dt,   dR = (F + G G^T S^-1/2) R dt,   S = R R^T

R is the root of the noise's covariance that the probability-flow equation carries along when the data are one point, so that a solver
may keep eps and move the maps:  x_s = M_s D + R_s R_t^-1 (x_t - M_t D).      [gDDIM: Zhang et al. 2023, arXiv:2206.05564]
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.process.affine import VPCosine
from unstir.process.base import Process, Time

_TIMES = 300  # of the table of roots; the step then is 0.04 in log t, and its error 1e-7


class Multivariate(Process):
    """A process of linear maps; ``alpha`` and ``sigma`` are their root-mean-square sizes, by which grids in sigma/alpha are laid.

    A new one gives ``carry``, ``colour``, ``whiten`` and the two sizes. Times are floats: one for all samples.
    """

    scalar: ClassVar[bool] = False

    @abstractmethod
    def carry(self, x0: Tensor, t: float) -> Tensor:
        """M_t x_0, (batch, *shape)."""

    @abstractmethod
    def colour(self, noise: Tensor, t: float) -> Tensor:
        """R_t eps, (batch, *shape)."""

    @abstractmethod
    def whiten(self, residual: Tensor, t: float) -> Tensor:
        """R_t^-1 (x_t - M_t x_0), (batch, *shape); t above ``t_zero``."""

    def begin(self, noise: Tensor, t: float) -> Tensor:
        """A first state at time ``t`` from unit noise (batch, *shape): R_t eps."""
        return self.colour(noise, float(t))

    def perturb(self, x0: Tensor, t: float, noise: Tensor, anchor: Tensor | None = None) -> Tensor:
        """x_t = M_t x_0 + R_t eps.

        Args:
            x0: clean state (batch, *shape).
            t: one time for all.
            noise: eps, of the shape of ``x0``.
            anchor: not used.

        Returns:
            Noisy state in the shape and dtype of ``x0``.
        """
        return self.carry(x0, float(t)) + self.colour(noise, float(t))


@dataclass(frozen=True)
class ShortestPath(Multivariate):
    """The path from data with a power spectrum to white noise that is shortest in the Fisher metric: sharpening, not blurring.

        v_k(t) = v_k^(1 - t),     a_k = sqrt((1 - w) v_k(t)/v_k),     s_k = sqrt(w v_k(t)),     k a frequency

    The geodesic between normal laws of variance v_k and 1 runs straight in log v_k, for every frequency at once; its length is
    sqrt(sum_k log(v_k)^2/2). It fixes the spectrum of x_t. How much of it is still signal, 1 - w, is alpha^2 of ``schedule``.
                                                                                    [Das et al. 2023, arXiv:2306.00501]

    Args:
        exponent: of the data's power spectrum, v_k = level (1 + |k|)^-exponent; 2 for natural images.
        level: the power at frequency 0, in squared units of the state.
        dims: how many of the last axes are transformed.
        schedule: a variance-preserving process on [0, 1].
        t_min, t_max: sampling interval.

    Raises:
        UserError: the level is not positive, or dims is below 1.
    """

    exponent: float = 2.0
    level: float = 4.0
    dims: int = 2
    schedule: Process = field(default_factory=VPCosine)
    t_min: float = 1e-3
    t_max: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.level < math.inf or self.dims < 1:
            raise UserError(f"ShortestPath needs a positive level and at least one axis, got level={self.level} and dims={self.dims}")

    def spectrum(self, shape: tuple[int, ...]) -> Tensor:
        """v_k of the data, for states whose last axes are ``shape``, in the layout of ``torch.fft.fftn``."""
        return self.level * (1 + frequencies(shape)) ** -self.exponent

    def power(self, shape: tuple[int, ...], t: float) -> Tensor:
        """v_k(t) of x_t."""
        return self.spectrum(shape) ** (1 - t)

    def alpha(self, t: Time) -> Tensor:
        """sqrt(1 - w), the size of the signal beside the spectrum."""
        return self.schedule.alpha(t)

    def sigma(self, t: Time) -> Tensor:
        """sqrt(w)."""
        return self.schedule.sigma(t)

    def time_at_rho(self, rho: float | Tensor) -> Tensor:
        """That of the schedule."""
        return self.schedule.time_at_rho(rho)

    def carry(self, x0: Tensor, t: float) -> Tensor:
        """The data, sharpened and scaled."""
        gain = float(self.alpha(t)) * self.spectrum(self._axes(x0)) ** (-t / 2)
        return filtered(x0, gain, self.dims)

    def colour(self, noise: Tensor, t: float) -> Tensor:
        """Noise of the spectrum of x_t."""
        return filtered(noise, float(self.sigma(t)) * self.power(self._axes(noise), t).sqrt(), self.dims)

    def whiten(self, residual: Tensor, t: float) -> Tensor:
        """The noise, white again."""
        return filtered(residual, 1 / (float(self.sigma(t)) * self.power(self._axes(residual), t).sqrt()), self.dims)

    def _axes(self, x: Tensor) -> tuple[int, ...]:
        if x.ndim <= self.dims:
            raise UserError(f"ShortestPath transforms the last {self.dims} axes after the batch, got a state of shape {tuple(x.shape)}")
        return tuple(x.shape[-self.dims :])


@dataclass(frozen=True)
class LinearDiffusion(Multivariate):
    """Data with auxiliary variables under any linear equation whose stationary law is N(0, I): moments by matrix exponentials.

        u = (x, v_1 ... v_k),   du = -speed (Q + D) u dt + sqrt(2 speed D) dw,   Q antisymmetric, D positive semi-definite
        M_t = exp(-speed (Q + D) t),    S_t = I - M_t M_t^T

    The state has the variables as its first axis after the batch; every coordinate of x moves alike.
    Critically damped Langevin diffusion is Q = [[0, -1], [1, 0]], D = diag(0, 2).
                                              [Singhal et al. 2023 (MDM), arXiv:2302.07261; Dockhorn et al. 2022, arXiv:2112.07068]

    Args:
        antisymmetric: Q, rows of numbers.
        dissipation: D, rows of numbers.
        speed: of mixing, per unit of time.
        t_min, t_max: sampling interval.

    Raises:
        UserError: the matrices do not fit, Q is not antisymmetric, D is not positive semi-definite, or some direction is never mixed.
    """

    antisymmetric: tuple[tuple[float, ...], ...] = ((0.0, -1.0), (1.0, 0.0))
    dissipation: tuple[tuple[float, ...], ...] = ((0.0, 0.0), (0.0, 2.0))
    speed: float = 8.0
    t_min: float = 0.01
    t_max: float = 1.0

    def __post_init__(self) -> None:
        q, d = np.array(self.antisymmetric, dtype=float), np.array(self.dissipation, dtype=float)
        if q.ndim != 2 or q.shape[0] != q.shape[1] or q.shape != d.shape:
            raise UserError(f"Q and D must be square matrices of one size, got shapes {q.shape} and {d.shape}")
        if not np.allclose(q, -q.T) or not np.allclose(d, d.T) or np.linalg.eigvalsh(d).min() < -1e-12:
            raise UserError("Q must be antisymmetric and D positive semi-definite")
        if not self.speed > 0 or np.linalg.eigvals(q + d).real.min() <= 1e-9:
            raise UserError(
                "some direction is never mixed: Q + D needs eigenvalues with positive real parts, and the speed must be positive"
            )

    @property
    def variables(self) -> int:
        """How many variables a coordinate has, the data's among them."""
        return len(self.antisymmetric)

    def mean(self, t: float) -> np.ndarray:
        """M_t (variables, variables)."""
        return _moments(self, float(t))[0]

    def covariance(self, t: float) -> np.ndarray:
        """S_t (variables, variables)."""
        return _moments(self, float(t))[1]

    def root(self, t: float) -> np.ndarray:
        """R_t (variables, variables), R_t R_t^T = S_t."""
        return _root(self, float(t))

    def alpha(self, t: Time) -> Tensor:
        """The size of M_t: root of the mean of its squared entries over the variables."""
        return self._sizes(t, lambda s: math.sqrt((self.mean(s) ** 2).sum() / self.variables))

    def sigma(self, t: Time) -> Tensor:
        """The size of R_t."""
        return self._sizes(t, lambda s: math.sqrt(max(np.trace(self.covariance(s)) / self.variables, 0.0)))

    def carry(self, x0: Tensor, t: float) -> Tensor:
        """M_t u_0."""
        return _mixed(self.mean(t), x0)

    def colour(self, noise: Tensor, t: float) -> Tensor:
        """R_t eps."""
        return _mixed(self.root(t), noise)

    def whiten(self, residual: Tensor, t: float) -> Tensor:
        """R_t^-1 (u_t - M_t u_0)."""
        return _mixed(np.linalg.inv(self.root(t)), residual)

    def _sizes(self, t: Time, size: Callable[[float], float]) -> Tensor:
        times = self.time(t)
        return torch.tensor([size(float(s)) for s in times.reshape(-1)], dtype=torch.float64).reshape(times.shape)


@lru_cache(maxsize=4096)
def _moments(process: LinearDiffusion, t: float) -> tuple[np.ndarray, np.ndarray]:
    """M_t and S_t by Van Loan's block exponential, which does not cancel where I - M M^T would."""
    from scipy.linalg import expm

    q, d = np.array(process.antisymmetric, dtype=float), np.array(process.dissipation, dtype=float)
    n, drift = len(q), -process.speed * (q + d)
    block = np.block([[-drift, 2 * process.speed * d], [np.zeros((n, n)), drift.T]])
    whole = expm(block * t)
    mean = whole[n:, n:].T
    covariance = mean @ whole[:n, n:]
    return mean, (covariance + covariance.T) / 2


@lru_cache(maxsize=4096)
def _root(process: LinearDiffusion, t: float) -> np.ndarray:
    """R_t: the last root of the table above ``t``, carried the rest of the way."""
    log_times, roots = _roots(process)
    if t >= process.t_max:
        return roots[0]
    log_t = math.log(max(t, math.exp(log_times[-1])))
    last = int(np.searchsorted(-log_times, -log_t, side="right")) - 1
    return _carried(process, roots[last], log_times[last], log_t)


@lru_cache(maxsize=16)
def _roots(process: LinearDiffusion) -> tuple[np.ndarray, list[np.ndarray]]:
    """R on times spaced evenly in log t, from t_max down, begun with the symmetric root of S."""
    log_times = np.linspace(math.log(process.t_max), math.log(1e-5 * process.t_max), _TIMES)
    roots = [_symmetric_root(_moments(process, process.t_max)[1])]
    for start, end in zip(log_times, log_times[1:], strict=False):
        roots.append(_carried(process, roots[-1], start, end))
    return log_times, roots


def _carried(process: LinearDiffusion, root: np.ndarray, start: float, end: float) -> np.ndarray:
    """R from one log time to another by one step of the fourth-order Magnus method, then made a root of S exactly."""
    from scipy.linalg import expm, polar

    h = end - start
    first, second = (_slope(process, start + h * (0.5 + place)) for place in (-math.sqrt(3) / 6, math.sqrt(3) / 6))
    exponent = h / 2 * (first + second) + math.sqrt(3) / 12 * h * h * (second @ first - first @ second)
    own = _symmetric_root(_moments(process, math.exp(end))[1])
    return own @ polar(np.linalg.solve(own, expm(exponent) @ root))[0]


def _slope(process: LinearDiffusion, log_t: float) -> np.ndarray:
    """t (F + G G^T S^-1/2), the slope of log R in log t."""
    q, d, t = np.array(process.antisymmetric), np.array(process.dissipation), math.exp(log_t)
    return t * process.speed * (d @ np.linalg.inv(_moments(process, t)[1]) - q - d)


def _symmetric_root(matrix: np.ndarray) -> np.ndarray:
    values, basis = np.linalg.eigh(matrix)
    return (basis * np.sqrt(values)) @ basis.T


def _mixed(matrix: np.ndarray, u: Tensor) -> Tensor:
    if u.ndim < 2 or u.shape[1] != len(matrix):
        raise UserError(f"the state of a linear diffusion is (batch, {len(matrix)}, ...), got shape {tuple(u.shape)}")
    return torch.einsum("ij,bj...->bi...", torch.from_numpy(matrix).to(u), u)


def frequencies(shape: tuple[int, ...]) -> Tensor:
    """|k| in whole cycles, in the layout of ``torch.fft.fftn`` for axes of these lengths."""
    axes = [torch.fft.fftfreq(n, d=1 / n, dtype=torch.float64) for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt()


def filtered(x: Tensor, gain: Tensor, dims: int) -> Tensor:
    """Multiply the spectrum of the last ``dims`` axes by a real, even gain.

    Args:
        x: (batch, ..., *axes), real.
        gain: of the shape of these axes, in the layout of ``torch.fft.fftn``.
        dims: how many axes.

    Returns:
        Of the shape and dtype of ``x``.
    """
    axes = tuple(range(-dims, 0))
    spectrum = torch.fft.fftn(x, dim=axes, norm="ortho")
    return torch.fft.ifftn(spectrum * gain.to(device=x.device, dtype=x.dtype), dim=axes, norm="ortho").real.contiguous()
