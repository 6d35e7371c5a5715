"""Correct a generator by resampling: particles weighted by an estimated density ratio of true to generated states.

    psi_t(x_t) = p_true(x_t)/p_model(x_t),     w <- w psi_s(x_s)/psi_t(x_t),     w = psi_T at the start

The product telescopes to the ratio at the last time, so the samples follow p_model psi_0: the truth, as far as the last ratio is right.
Those before it only keep alive what will be needed. A ratio comes from a classifier of true against generated states, noised alike:

    log psi_t(x) = logit P(true | x_t = x) + log(n_generated/n_true)

Reference: Liu et al. 2024, "Correcting Diffusion Generation through Resampling", arXiv:2312.06038.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.noise import NoiseSource
from unstir.steer.base import Moment
from unstir.steer.particles import ParticleSteer
from unstir.steer.svdd import Value

if TYPE_CHECKING:
    from unstir.process import Process
    from unstir.state import State


@dataclass(frozen=True, eq=False)
class RatioFilter(ParticleSteer):
    """Particles weighted by a density ratio of noisy states; nothing is differentiated, and any state will do.

    Args:
        log_ratio: log psi_t as a function (x_t, t, condition), gives (batch,); for example a :class:`DensityRatio`, or a detector's score.
        particles: K, consecutive samples of one problem.
        threshold: resample where ESS is below this share of K.

    Raises:
        UserError: an option out of range.
    """

    log_ratio: Value
    exactness: ClassVar[str] = "exact for the model's law times the last ratio, as particles grow"

    def before(self, x: State, moment: Moment) -> State:
        """The state, resampled by the ratio at its time."""
        return self.weighted(x, moment, self.gained(x, moment.row.t, moment))

    def after(self, x: State, moment: Moment) -> State:
        """At the end, the state resampled by the last ratio."""
        return self.weighted(x, moment, self.gained(x, moment.row.s, moment), final=True) if moment.last else x

    def gained(self, x: State, t: Any, moment: Moment) -> Tensor:
        """log psi_s(x_s) - log psi_t(x_t)."""
        value = self.log_ratio(x, t, moment.condition).detach().double()
        gained = value - moment.memory.get("log_ratio", 0.0)
        moment.memory["log_ratio"] = value
        return gained


@dataclass(frozen=True, eq=False)
class DensityRatio:
    """The log ratio of two densities at several noise levels, by logistic regression on Gaussian bumps; ``fit_ratio`` makes one.

    log psi_t(x) = b + sum_j w_j exp(-|x - c_j|^2/(2 h^2)),   with b, w, c, h of the fitted time nearest to t in log(sigma/alpha)

    Args:
        process: what makes data noisy.
        times: the times fitted, decreasing.
        fits: (centres (bumps, entries), width h, coefficients (1 + bumps,)) of each.
    """

    process: Process
    times: tuple[float, ...]
    fits: tuple[tuple[Tensor, float, Tensor], ...]

    def __call__(self, x: Tensor, t: Any, condition: Any = None) -> Tensor:
        """log psi_t of each state (batch,), float64."""
        levels = torch.log(self.process.rho(torch.tensor([*self.times, float(t)], dtype=torch.float64)).clamp(min=1e-12))
        centres, width, coefficients = self.fits[int((levels[:-1] - levels[-1]).abs().argmin())]
        return _bumps(x, centres, width) @ coefficients.to(x.device)


def fit_ratio(
    true: Tensor, generated: Tensor, process: Process, times: Sequence[float], *, bumps: int = 50, ridge: float = 1e-2, seed: int = 0
) -> DensityRatio:
    """Fit a classifier of true against generated data at each of several noise levels.

    Args:
        true: a few clean true samples (n_true, *shape).
        generated: clean samples of the model (n_generated, *shape).
        process: what makes data noisy.
        times: of the fits, decreasing; the last near the data, for it decides the law.
        bumps: Gaussian bumps, centred on data of both kinds.
        ridge: penalty on the squares of the coefficients, a share of the number of samples.
        seed: of the noise that makes the samples noisy.

    Returns:
        The log ratio as a function of noisy states.

    Raises:
        UserError: samples of two shapes, no times, or no positive ridge.
    """
    if true.shape[1:] != generated.shape[1:] or not times or not ridge > 0:
        raise UserError(
            f"a ratio is fitted to samples of one shape at some times, with a ridge above 0, got {tuple(true.shape)}, "
            f"{tuple(generated.shape)}, {len(times)} times and {ridge}"
        )
    clean = torch.cat([true, generated]).double()
    label = torch.cat([torch.ones(len(true)), torch.zeros(len(generated))]).double()
    source, stride = NoiseSource(seed, range(len(clean))), max(len(clean) // bumps, 1)
    fits = []
    for t in times:
        x = process.perturb(clean, float(t), source.draw(tuple(clean.shape[1:]), torch.float64, stream="ratio")).flatten(1)
        centres = x[::stride][:bumps]
        width = float(torch.cdist(centres, centres).median()) / 2
        coefficients = _logistic(_bumps(x, centres, width), label, ridge)
        coefficients[0] += math.log(len(generated) / len(true))
        fits.append((centres, width, coefficients))
    return DensityRatio(process, tuple(float(t) for t in times), tuple(fits))


def _bumps(x: Tensor, centres: Tensor, width: float) -> Tensor:
    distance = torch.cdist(x.flatten(1).double(), centres.to(x.device))
    return torch.cat([torch.ones_like(distance[:, :1]), torch.exp(-0.5 * (distance / width).square())], 1)


def _logistic(features: Tensor, label: Tensor, ridge: float) -> Tensor:
    """Newton's method; the constant is not penalised."""
    penalty = torch.full_like(features[0], ridge * len(label) / features.shape[1])
    penalty[0] = 0.0
    w = torch.zeros_like(features[0])
    for _ in range(30):
        chance = torch.sigmoid(features @ w)
        curvature = (features.mT * (chance * (1 - chance))) @ features + torch.diag(penalty + 1e-9)
        change = torch.linalg.solve(curvature, features.mT @ (label - chance) - penalty * w)
        w = w + change * min(1.0, 5.0 / float(change.abs().max().clamp(min=1e-12)))
        if float(change.abs().max()) < 1e-10:
            break
    return w
