"""Weighted particles: K samples that answer one problem together, and the books kept of their weights.

    w_i <- w_i G_i,        ESS = (sum w)^2 / sum w^2,        log Z = sum over resamplings of log mean w
    where ESS < threshold K: particle i is copied n_i times, E n_i = K w_i / sum w, |n_i - E n_i| < 1, and all w = 1
    at the end the last weights are applied, so that the samples count alike.

The resampling is systematic: the points (u + 0, ..., u + K - 1)/K on the cumulated weights, one uniform u a problem, keyed by the problem's
first sample. Weights are logarithms in float64; problems never see each other.
Reference: Del Moral 2004, "Feynman-Kac formulae"; Douc & Cappe 2005 (systematic resampling), arXiv:cs/0507025.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unstir.errors import UnstirError, UserError
from unstir.process import categorical, discrete
from unstir.state import leaves
from unstir.steer.base import Moment, Steer

if TYPE_CHECKING:
    from unstir.state import State

Reward = Callable[[Any, Mapping[str, Any] | None], Tensor]


class ParticlesDied(UnstirError):
    """All particles of a problem have weight zero, or a weight that is not a number.

    Args:
        problem: number of the problem, from 0.
        step: the step at whose end they died.
    """

    def __init__(self, problem: int, step: int) -> None:
        self.problem, self.step = problem, step
        super().__init__(
            f"all particles of problem {problem} have weight zero (or not a number) at step {step}: "
            "a smaller strength, more particles or a reward that is finite somewhere may help"
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class ParticleSteer(Steer):
    """A steer that weighs the particles of a problem and lets the heavy ones take the place of the light ones.

    Subclasses call :meth:`weighted` with what the weights are multiplied by. ``Samples.info`` then holds ``log_evidence`` (problems,), the
    estimate of log Z in nats, and ``ess`` (problems, times weighed), the effective sample size before each resampling.

    Args:
        particles: K, how many consecutive samples make one problem.
        threshold: resample a problem where its ESS is below this share of K; 0 waits for the end, 1 resamples whenever weights differ.

    Raises:
        UserError: fewer than 1 particle, or a threshold outside [0, 1].
    """

    particles: int = 16
    threshold: float = 0.5
    exactness: ClassVar[str] = "as the weights of the subclass"

    def __post_init__(self) -> None:
        check_particles(self.particles)
        if not 0 <= self.threshold <= 1:
            raise UserError(f"the threshold of a particle steer is a share of its particles, from 0 to 1, got {self.threshold}")

    def weighted(self, x: State, moment: Moment, log_factor: Float[Tensor, " batch"], final: bool = False) -> State:
        """Multiply the weights, and resample where they have become uneven.

        Args:
            x: the state handed to the steer.
            moment: the step; ``moment.memory`` keeps the books.
            log_factor: log G, one a sample.
            final: is this the end? Then resample wherever weights differ, and report the evidence and the ESS.

        Returns:
            The state, resampled.

        Raises:
            UserError: it resamples on the way and the solver draws no noise.
        """
        if self.threshold and self.particles > 1 and not final and not moment.stochastic:
            who = type(self).__name__
            raise UserError(f"{who} resamples on the way, and a solver without noise keeps copies equal: take 'ancestral', or threshold=0")
        notes = moment.memory
        log_weights = (notes.get("log_weights", 0.0) + log_factor.double()).view(-1, self.particles)
        check_alive(log_weights, moment)
        log_mean, size = log_mean_exp(log_weights), effective_size(log_weights)
        uneven = log_weights.amax(1) > log_weights.amin(1)
        chosen = uneven if final else uneven & (size < self.threshold * self.particles)
        notes.setdefault("ess", []).append(size)
        notes["log_evidence"] = notes.get("log_evidence", 0.0) + torch.where(chosen, log_mean, torch.zeros_like(log_mean))
        uniform = uniforms(moment, self.particles).to(log_weights.device)
        index = torch.where(chosen[:, None], systematic(log_weights, uniform), own_places(log_weights))
        if log_weights.device.type != "cpu" or bool(chosen.any()):
            x = moment.resample(flat(index))
        notes["log_weights"] = torch.where(chosen[:, None], torch.zeros_like(log_weights), log_weights).flatten()
        if final:
            moment.report("log_evidence", notes["log_evidence"] + torch.where(chosen, torch.zeros_like(log_mean), log_mean))
            moment.report("ess", torch.stack(notes["ess"], 1))
        return x


def check_particles(particles: int) -> None:
    """Refuse what is not a number of particles.

    Args:
        particles: K.

    Raises:
        UserError: not a whole number of at least 1.
    """
    if isinstance(particles, bool) or not isinstance(particles, int) or particles < 1:
        raise UserError(f"a problem needs a whole number of particles, at least 1, got {particles!r}")


def check_alive(log_weights: Float[Tensor, "problems particles"], moment: Moment) -> None:
    """Refuse problems whose weights are all zero, or hold a NaN or +inf; looked at on the CPU, and elsewhere at the last step only.

    Args:
        log_weights: of all problems at hand.
        moment: the step.

    Raises:
        ParticlesDied: names the problem.
    """
    if log_weights.device.type != "cpu" and not moment.last:
        return
    alive = torch.isfinite(log_weights.amax(1))
    if not bool(alive.all()):
        particles = log_weights.shape[1]
        raise ParticlesDied(moment.index[int((~alive).nonzero()[0]) * particles] // particles, moment.row.index)


def log_mean_exp(log_weights: Float[Tensor, "problems particles"]) -> Float[Tensor, " problems"]:
    """log of the mean weight of each problem."""
    return torch.logsumexp(log_weights, 1) - math.log(log_weights.shape[1])


def effective_size(log_weights: Float[Tensor, "problems particles"]) -> Float[Tensor, " problems"]:
    """ESS = (sum w)^2 / sum w^2 of each problem, from 1 to K."""
    return torch.exp(2 * torch.logsumexp(log_weights, 1) - torch.logsumexp(2 * log_weights, 1))


def systematic(log_weights: Float[Tensor, "problems particles"], uniform: Float[Tensor, " problems"]) -> Int[Tensor, "problems particles"]:
    """Which particle each place gets: the i-th the one whose cumulated weight first exceeds (u + i)/K.

    Args:
        log_weights: not normalised; a weight of zero (-inf) is never chosen.
        uniform: u in [0, 1), one a problem.

    Returns:
        Indices within the problem, not decreasing.
    """
    cumulated = torch.softmax(log_weights, 1).cumsum(1)
    points = (uniform[:, None] + own_places(log_weights)) / log_weights.shape[1]
    return torch.searchsorted(cumulated / cumulated[:, -1:], points, right=True).clamp_(max=log_weights.shape[1] - 1)


def own_places(log_weights: Float[Tensor, "problems particles"]) -> Int[Tensor, "problems particles"]:
    """Each place its own particle: 0, ..., K - 1 in every problem."""
    return torch.arange(log_weights.shape[1], device=log_weights.device).expand_as(log_weights)


def flat(index: Int[Tensor, "problems particles"]) -> Int[Tensor, " batch"]:
    """Indices within problems as indices of the batch."""
    first = torch.arange(index.shape[0], device=index.device)[:, None] * index.shape[1]
    return (index + first).flatten()


def uniforms(moment: Moment, particles: int, stream: str = "particles") -> Float[Tensor, " problems"]:
    """One uniform in [0, 1) a problem, keyed by the problem's first sample.

    Args:
        moment: the step, with its source of noise.
        particles: K.
        stream: of the source of noise.

    Returns:
        float64, on the host.

    Raises:
        UserError: the moment has no noise.
    """
    noise = moment.noise
    if noise is None:
        raise UserError("a particle steer draws which particles live on, and this moment has no noise: it runs under unstir.sample")
    drawn = [noise.generator(index, stream).random() for index in noise.indices[::particles]]
    noise.advance(stream)
    return torch.tensor(drawn, dtype=torch.float64)


def rewarded(reward: Reward, x: State, moment: Moment, scale: float, draws: int = 1) -> Float[Tensor, " batch"]:
    """scale r(x0) of what the denoiser believes of a state; for categories log mean exp(scale r) over clean states drawn from its belief.

    Args:
        reward: r(x0, condition) of clean states, batch first; gives (batch,). It need not be differentiable.
        x: the state handed to the steer.
        moment: the step.
        scale: lambda.
        draws: clean states drawn of a categorical leaf, each position on its own, while there is noise.

    Returns:
        float64, one a sample.

    Raises:
        UserError: the reward does not give one number a sample.
    """
    x0 = moment.look()
    is_belief = any(_is_belief(*pair) for pair in _pairs(x0, x))
    guesses = draws if is_belief else 1
    values = []
    for _ in range(guesses):
        guess = _guess(x0, x, moment)
        if is_belief and moment.trajectory is not None:
            guess = moment.denoiser.space.project(guess, moment.condition)  # entries that are tied were drawn each on its own
        given = reward(guess, moment.condition)
        if not isinstance(given, Tensor) or given.shape != (leaves(x)[0].shape[0],):
            got = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
            raise UserError(f"a reward gives one number a sample, ({leaves(x)[0].shape[0]},), got {got}")
        values.append(scale * given.detach().double())
    return torch.logsumexp(torch.stack(values), 0) - math.log(guesses) if guesses > 1 else values[0]


def _pairs(x0: Any, x: Any) -> list[tuple[Tensor, Tensor]]:
    return list(zip(leaves(x0), leaves(x), strict=True))


def _is_belief(x0: Tensor, x: Tensor) -> bool:
    """Are these probabilities (batch, *shape, K) of the categories of x?"""
    return not x.is_floating_point() and x0.ndim == x.ndim + 1


def _guess(x0: Any, x: Any, moment: Moment) -> Any:
    """The estimate itself, with categories drawn where it holds their probabilities."""
    if isinstance(x0, dict):
        return {leaf: _guess(x0[leaf], x[leaf], moment) for leaf in x0}
    if not _is_belief(x0, x) or moment.noise is None:
        return x0
    return categorical.draw(x0, discrete.uniforms(moment.noise.draw(tuple(x.shape[1:]), torch.float64, x0.device, stream="guess")))
