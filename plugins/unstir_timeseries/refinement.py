"""The walk that refines windows, and the one time it looks at.

    y <- prox_R(y - eta grad(-log p) + noise sqrt(2 eta) z),   -log p ~ sum (eps - eps_theta)^2 = sum (D(alpha y + sigma eps) - y)^2/rho^2
    R = sum (y~ - y)^2 ("mse"),   sum max(k d, (k - 1) d), d = y~ - y ("quantile");      at tau = argmin_t (loss_t - mean loss)^2

eps is drawn anew at every iteration; with noise 0 (maximum likelihood) eta is halved on a plateau. The step along R is implicit (prox), so
that any lambda is stable; TSDiff's explicit step is the same to first order and diverges for eta lambda > 1. Its paper has a temperature
gamma, noise = sqrt(gamma); its code has noise = gamma = 0.1.

For normal data N(m, C), B = sigma^2 (alpha^2 C + sigma^2)^-1 and no R the walk is linear, its stationary law N(m, S) closed:

    S = (I - eta H) S (I - eta H) + 2 eta noise^2 I + eta^2 (4 sigma^2/rho^4) B G^2 B
    H = (2/rho^2) B^2,    G = alpha C (alpha^2 C + sigma^2)^-1

not p, but of its mode; directions much wider than tau's noise are almost free. The last term is the noise of eps, there without z too.
Reference: Kollovieh et al. 2023 (TSDiff, "refine"), arXiv:2307.11494, section 4.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unstir.denoiser import Denoiser
from unstir.errors import UserError
from unstir.guide.likelihood import Linearised
from unstir.noise import NoiseSource
from unstir.process import Process, VPTable


@dataclass(frozen=True)
class Langevin:
    """The walk of a refinement in window space; see the module's equations.

    Args:
        regulariser: R, "mse" or "quantile".
        weight: lambda, at least 0; towards infinity the base stays as it is.
        noise: factor of sqrt(2 eta) z, at least 0; 0 is maximum likelihood.
        rate: eta, above 0.
        iterations: of the walk, one evaluation of the model and its transpose each.
        patience: without noise, iterations without a lower energy after which a path halves its rate.

    Raises:
        UserError: an option out of range.
    """

    regulariser: Literal["mse", "quantile"] = "quantile"
    weight: float = 1.0
    noise: float = 0.1
    rate: float = 0.1
    iterations: int = 20
    patience: int = 100

    def __post_init__(self) -> None:
        if self.regulariser not in ("mse", "quantile"):
            raise UserError(f"the regulariser of a refinement is 'mse' or 'quantile', got {self.regulariser!r}")
        if not self.weight >= 0 or not 0 <= self.noise < math.inf or not 0 < self.rate < math.inf:
            raise UserError(f"a refinement needs weight >= 0, noise >= 0 and rate above 0, got {self.weight}, {self.noise} and {self.rate}")
        if self.iterations < 0 or self.patience < 1:
            raise UserError(f"a refinement needs iterations >= 0 and patience >= 1, got {self.iterations} and {self.patience}")

    def walk(
        self,
        denoiser: Denoiser,
        base: Tensor,
        held: Tensor,
        levels: Tensor,
        t: float,
        *,
        source: NoiseSource,
        condition: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """Refined windows.

        Args:
            denoiser: the model.
            base: y~ (rows, channels, length), in units of the state.
            held: the same shape, 1 where R holds y near it, else 0.
            levels: (rows,) k of "quantile".
            t: tau, a time of the denoiser's process.
            source: the noise of these rows.
            condition: of the denoiser, a row each.

        Returns:
            y, of the shape of ``base``.
        """
        process, y = denoiser.process, base.clone()
        alpha, sigma, rho = float(process.alpha(t)), float(process.sigma(t)), float(process.rho(t))
        column = (-1, *[1] * (base.ndim - 1))
        rate, best = base.new_full((len(base),), self.rate), base.new_full((len(base),), math.inf)
        waited = torch.zeros_like(rate)
        for _ in range(self.iterations):
            at = Linearised(denoiser, alpha * y + sigma * _unit(source, y, "eps"), t, condition)
            error = (at.x0 - y) / rho
            slope = 2 / rho * (alpha * at.pull(error) - error)
            if not self.noise:
                energy = error.square().flatten(1).sum(1) + self.held_back(base - y, held, levels)
                waited = torch.where(energy < best, 0.0, waited + 1)
                rate, waited = torch.where(waited > self.patience, rate / 2, rate), torch.where(waited > self.patience, 0.0, waited)
                best = torch.minimum(best, energy)
            y = y - rate.view(column) * slope
            if self.noise:
                y = y + self.noise * math.sqrt(2 * self.rate) * _unit(source, y, "langevin")
            y = self.pulled(y, base, held, levels, rate)
        return y

    def held_back(self, d: Tensor, held: Tensor, levels: Tensor) -> Tensor:
        """lambda R, (rows,).

        Args:
            d: y~ - y, (rows, channels, length).
            held: where R holds.
            levels: k, (rows,).
        """
        k = levels.view(-1, *[1] * (d.ndim - 1))
        loss = d.square() if self.regulariser == "mse" else torch.maximum(k * d, (k - 1) * d)
        return self.weight * (loss * held).flatten(1).sum(1)

    def pulled(self, y: Tensor, base: Tensor, held: Tensor, levels: Tensor, rate: Tensor) -> Tensor:
        """prox of eta lambda R at y: argmin_z R(z, y~) eta lambda + (z - y)^2/2.

        Args:
            y: (rows, channels, length).
            base: y~.
            held: where R holds.
            levels: k, (rows,).
            rate: eta, (rows,).
        """
        column = (-1, *[1] * (y.ndim - 1))
        if math.isinf(self.weight):
            return torch.where(held > 0, base, y)
        reach, d, k = (self.weight * rate).view(column), base - y, levels.view(column)
        move = d * (2 * reach / (1 + 2 * reach)) if self.regulariser == "mse" else torch.clamp(d, -reach * (1 - k), reach * k)
        return y + held * move


def _unit(source: NoiseSource, like: Tensor, stream: str) -> Tensor:
    return source.draw(like.shape[1:], like.dtype, like.device, stream)


def training_times(process: Process) -> list[float]:
    """Times at which a model of windows is trained, each as often: the table's indices, or quantiles of EDM's law of noise levels.

    log sigma ~ N(-1.2, 1.2^2), 64 quantiles of it                                     [Karras et al. 2022, arXiv:2206.00364]

    Args:
        process: of the model.
    """
    if isinstance(process, VPTable):
        return [float(index) for index in range(process.steps)]
    normal = torch.distributions.Normal(-1.2, 1.2).icdf((torch.arange(64, dtype=torch.float64) + 0.5) / 64)
    high = float(process.rho(process.t_max))
    return [float(process.time_at_rho(rho)) for rho in normal.exp().clamp(max=high).tolist()]


def losses(
    denoiser: Denoiser,
    windows: Tensor,
    times: Sequence[float],
    *,
    mask: Tensor | None = None,
    condition: Mapping[str, Any] | None = None,
    draws: int = 4,
    seed: int = 0,
) -> NDArray[np.float64]:
    """The noise-prediction loss of a model at each time, per observed entry: mean (eps - eps_theta)^2 = mean (D - x0)^2/rho^2.

    Args:
        denoiser: the model.
        windows: clean states (rows, channels, length).
        times: of its process.
        mask: (rows, channels, length), 1 where observed; everywhere when absent.
        condition: of the model, a row each.
        draws: noises a window, shared by the times, which makes the losses comparable; one draw leaves tau noisy.
        seed: of the noise.

    Returns:
        (times,).
    """
    process, source = denoiser.process, NoiseSource(seed, range(len(windows)))
    mask = torch.ones_like(windows) if mask is None else mask
    found = np.zeros(len(times))
    with torch.no_grad():
        for _ in range(draws):
            eps = _unit(source, windows, "loss")
            for place, t in enumerate(times):
                x0 = denoiser(float(process.alpha(t)) * windows + float(process.sigma(t)) * eps, t, condition)
                found[place] += float(((x0 - windows).square() * mask).sum() / mask.sum()) / float(process.rho(t)) ** 2 / draws
    return found


def representative(found: NDArray[np.float64], times: Sequence[float]) -> float:
    """tau: the time whose loss is nearest to the mean loss.

    Args:
        found: (times,) losses.
        times: of them.
    """
    return times[int(np.argmin((found - found.mean()) ** 2))]
