"""Annealed MCMC: at every noise level, walk under the law that the guided denoiser says the state has there.

    ula:   x' = x + d s(x) + sqrt(2 d) z,        s = (alpha D(x) - z_t)/sigma^2,  z_t = x - beta y,   d = size (sigma^2 + alpha^2 std^2)
    mala:  the same, accepted with probability min(1, p(x') q(x | x')/(p(x) q(x' | x)))
    hmc:   ``leaps`` leapfrog steps of length sqrt(2 d) from a new momentum, accepted with min(1, exp(-change of energy))

Composed laws need it: their summed scores belong to no diffusion, so a solver alone ends elsewhere, but they do belong to a law at every
level. Every sample accepts or rejects on its own; the share of accepted moves is ``Samples.info["acceptance"]``.
Reference: Du et al. 2023 (Reduce, Reuse, Recycle), arXiv:2302.11552.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.operator.cg import inner
from unstir.steer.base import Moment, Steer

Look = Callable[[Tensor], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class AnnealedMCMC(Steer):
    """Steps of Markov chain Monte Carlo at every noise level reached, and at the first; none at sigma = 0.

    A level costs ``steps`` evaluations for ula, and steps (times leaps, for hmc) + 1 for the others.

    Args:
        steps: moves at each level.
        kind: ``"ula"``, ``"mala"`` or ``"hmc"``.
        size: of a move, relative to the squared width of the law.
        data_std: std: the width of the narrowest part of the law, in units of the clean state.
        leaps: leapfrog steps of a move of hmc.
        differences: how log p(x') - log p(x) is found. ``"density"``: by the guided denoiser's ``log_density`` (exact laws, energy models,
            products of these); ``"path"``: by the trapezoid rule along the move, exact where log p is quadratic, which costs nothing.
        low: walk at levels of sigma/alpha from this one on.
        high: walk at levels up to this one.

    Raises:
        UserError: an option is out of range.
    """

    steps: int = 10
    kind: str = "ula"
    size: float = 0.1
    data_std: float = 1.0
    leaps: int = 3
    differences: str = "density"
    low: float = 0.0
    high: float = math.inf
    exactness: ClassVar[str] = (
        "mala and hmc with densities leave each level's law as it is, exact as steps grow; ula in the limit of small moves too; "
        "path differences as far as log p is quadratic"
    )

    def __post_init__(self) -> None:
        if self.kind not in ("ula", "mala", "hmc") or self.differences not in ("density", "path"):
            raise UserError(f"kind is 'ula', 'mala' or 'hmc', differences 'density' or 'path', got {self.kind!r}, {self.differences!r}")
        positive = all(0 < value < math.inf for value in (self.size, self.data_std))
        if self.steps < 0 or self.leaps < 1 or not positive or not 0 <= self.low < self.high:
            raise UserError(
                "annealed MCMC needs steps >= 0, leaps >= 1, positive size and data_std and 0 <= low < high, got "
                f"{self.steps}, {self.leaps}, {self.size}, {self.data_std}, {self.low}, {self.high}"
            )

    def before(self, x: Any, moment: Moment) -> Any:
        """The first state of a trajectory, moved under the law of its level."""
        return self._walk(x, moment, moment.row.t, moment.row.rho_t) if moment.row.index == 0 else x

    def after(self, x: Any, moment: Moment) -> Any:
        """The state, moved under the law of the level reached."""
        return self._walk(x, moment, moment.row.s, moment.row.rho_s)

    def _walk(self, x: Any, moment: Moment, t: Any, rho: Any) -> Any:
        if not isinstance(x, Tensor):
            raise UserError("annealed MCMC moves a tensor, and the state is a dict of leaves")
        if rho == 0 or not self.low <= rho <= self.high or self.steps == 0:
            return x
        if moment.noise is None:
            raise UserError("annealed MCMC draws noise, and this moment has none")
        alpha, sigma = (float(f(t)) for f in (moment.process.alpha, moment.process.sigma))
        length = self.size * (sigma**2 + (alpha * self.data_std) ** 2)
        look = self._look(moment, t, alpha, sigma)

        def normal(stream: str, *shape: int) -> Tensor:
            return moment.noise.draw(shape, x.dtype, x.device, stream=f"mcmc/{stream}")  # type: ignore[union-attr]

        if self.kind == "ula":
            for _ in range(self.steps):
                x = x + length * look(x)[0] + math.sqrt(2 * length) * normal("move", *x.shape[1:])
            return x
        move = _langevin if self.kind == "mala" else partial(_leapfrog, leaps=self.leaps)
        score, level = look(x)
        taken = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        for _ in range(self.steps):
            new, new_score, new_level, log_ratio = move(x, score, level, length, look, normal("move", *x.shape[1:]))
            accepted = torch.special.log_ndtr(normal("accept", 1)[:, 0]) < log_ratio
            taken = taken + accepted
            x, score = (torch.where(accepted.view(-1, *[1] * (x.ndim - 1)), a, b) for a, b in ((new, x), (new_score, score)))
            level = None if level is None else torch.where(accepted, new_level, level)  # type: ignore[arg-type]
        self._report(moment, taken)
        return x

    def _look(self, moment: Moment, t: Any, alpha: float, sigma: float) -> Look:
        """The score of states at this level, and their log-density where it is asked for."""
        denoiser, condition = moment.denoiser, moment.condition
        pull = float(moment.process.beta(t)) * moment.process.need(moment.anchor) if moment.process.anchored else 0.0
        density = getattr(denoiser, "log_density", None)
        if self.kind != "ula" and self.differences == "density" and density is None:
            raise UserError("the guided denoiser has no log-density: use differences='path', or kind 'ula'")

        def look(x: Tensor) -> tuple[Tensor, Tensor | None]:
            x0: Any = moment.look(x)
            score = (alpha * x0 - (x - pull)) / sigma**2
            return score, density(x, t, condition) if self.kind != "ula" and self.differences == "density" else None  # type: ignore[misc]

        return look

    def _report(self, moment: Moment, taken: Tensor) -> None:
        memory = moment.memory
        memory["taken"], memory["moves"] = memory.get("taken", 0.0) + taken, memory.get("moves", 0) + self.steps
        moment.report("acceptance", memory["taken"] / memory["moves"])


def _langevin(
    x: Tensor, score: Tensor, level: Tensor | None, length: float, look: Look, z: Tensor
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """A proposal of mala: where it is, its score and log-density, and the log of the ratio that decides."""
    forward = length * score + math.sqrt(2 * length) * z
    new_score, new_level = look(x + forward)
    back = -forward - length * new_score
    rise = 0.5 * inner(score + new_score, forward) if level is None else new_level - level  # type: ignore[operator]
    return x + forward, new_score, new_level, rise + 0.5 * inner(z, z) - inner(back, back) / (4 * length)


def _leapfrog(
    x: Tensor, score: Tensor, level: Tensor | None, length: float, look: Look, z: Tensor, leaps: int
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """A proposal of hmc, z its first momentum; as for mala."""
    step, momentum, rise, new_level = math.sqrt(2 * length), z, x.new_zeros(len(x)), level
    for _ in range(leaps):
        half = momentum + 0.5 * step * score
        x = x + step * half
        new_score, new_level = look(x)
        momentum = half + 0.5 * step * new_score
        rise = rise + 0.5 * step * inner(score + new_score, half)
        score = new_score
    rise = rise if level is None else new_level - level  # type: ignore[operator]
    return x, score, new_level, rise + 0.5 * (inner(z, z) - inner(momentum, momentum))
