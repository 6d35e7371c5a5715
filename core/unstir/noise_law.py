"""Optimise the law of the start noise of a (few-step) generator, per problem.

    max over mu, s:   E_z r(G(mu + s z)) - penalty KL(N(mu, s^2) | N(0, 1)),      KL = sum (mu^2 + s^2 - 1 - log s^2)/2

by Adam on (mu, log s); the gradient goes through the generator ("pathwise") or does without ("reinforce": (r - mean of others) grad log q).
Reference: Kim et al. 2024, "Model-Agnostic Human Preference Inversion in Diffusion Models", arXiv:2404.00879.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from unstir.errors import UserError
from unstir.noise import NoiseSource

_GRADIENTS = ("pathwise", "reinforce")


@dataclass
class NoiseLaw:
    """A normal law of start noise for each problem, and how it was found.

    Attributes:
        mean: mu (problems, *shape).
        std: s (problems, *shape).
        rewards: mean reward of each step (steps, problems).
        kl: KL(N(mu, s^2) | N(0, 1)) before each step, in nats (steps, problems).
    """

    mean: Tensor
    std: Tensor
    rewards: Tensor = field(repr=False)
    kl: Tensor = field(repr=False)

    def draw(self, count: int, seed: int = 0) -> Float[Tensor, "rows *shape"]:
        """Noise for a generator: ``count`` rows a problem, consecutive; base noise where nothing was optimised.

        Args:
            count: rows a problem.
            seed: any integer.

        Returns:
            (problems * count, *shape).
        """
        mean, std = (value.repeat_interleave(count, 0) for value in (self.mean, self.std))
        return mean + std * NoiseSource(seed, range(len(mean))).draw(tuple(mean.shape[1:]), mean.dtype, mean.device, stream="start")

    @property
    def divergence(self) -> Float[Tensor, " problems"]:
        """KL(N(mu, s^2) | N(0, 1)) in nats."""
        return divergence(self.mean, self.std.log())


def optimise_noise(
    generator: Callable[[Tensor], Any],
    reward: Callable[[Any], Tensor],
    shape: tuple[int, ...],
    *,
    problems: int = 1,
    steps: int = 100,
    draws: int = 16,
    rate: float = 0.05,
    penalty: float = 0.1,
    gradient: str = "pathwise",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> NoiseLaw:
    """Find mean and standard deviation of the noise that raise a reward, at a price for leaving the unit normal law.

    Args:
        generator: G of noise (problems * draws, *shape), the rows of a problem consecutive; gives clean samples, batch first.
        reward: r of clean samples, gives (batch,).
        shape: of one noise.
        problems: number of problems, each with a law of its own.
        steps: of Adam; 0 leaves the unit normal law.
        draws: samples a problem and step; at least 2 for ``"reinforce"``.
        rate: of Adam.
        penalty: weight of the KL, in units of the reward a nat.
        gradient: ``"pathwise"`` (generator and reward are differentiated) or ``"reinforce"`` (neither is).
        seed: any integer; problem i depends on it and on i only.
        dtype: of the noise.

    Returns:
        The laws, with rewards and KL of every step.

    Raises:
        UserError: a number out of range, or a reward that is not differentiable under ``"pathwise"``.

    Example:
        >>> law = optimise_noise(lambda z: denoiser(80.0 * z, 80.0), reward, (2,), steps=50)
    """
    if gradient not in _GRADIENTS or min(problems, draws) < 1 or steps < 0 or penalty < 0 or (gradient == "reinforce" and draws < 2):
        raise UserError(
            f"optimise_noise takes a gradient of {', '.join(_GRADIENTS)} (this with 2 draws or more), steps and penalty of at least 0; "
            f"got {gradient!r}, {steps} steps, {draws} draws, penalty {penalty}"
        )
    mean, log_std = (torch.zeros(problems, *shape, dtype=dtype, requires_grad=True) for _ in range(2))
    adam = torch.optim.Adam([mean, log_std], lr=rate)
    source, rewards, prices = NoiseSource(seed, range(problems * draws)), [], []
    for _ in range(steps):
        unit = source.draw(shape, dtype, stream="noise law").view(problems, draws, *shape)
        z = mean[:, None] + log_std.exp()[:, None] * unit
        price = divergence(mean, log_std)
        gain, found = _gain(generator, reward, z, mean, log_std, gradient)
        adam.zero_grad()
        (penalty * price - gain).sum().backward()  # problems share no parameter, and Adam works entry by entry
        adam.step()
        rewards.append(found.detach().mean(1))
        prices.append(price.detach())
    rows: Any = (torch.stack(kept) if kept else torch.zeros(0, problems, dtype=dtype) for kept in (rewards, prices))
    return NoiseLaw(mean.detach(), log_std.detach().exp(), *rows)


def divergence(mean: Tensor, log_std: Tensor) -> Float[Tensor, " problems"]:
    """KL(N(mean, std^2) | N(0, 1)) of each problem, in nats.

    Args:
        mean: (problems, *shape).
        log_std: log of the standard deviation, of the same shape.
    """
    return (0.5 * (mean.square() + torch.exp(2 * log_std) - 1) - log_std).flatten(1).sum(1)


def _gain(
    generator: Callable[[Tensor], Any], reward: Callable[[Any], Tensor], z: Tensor, mean: Tensor, log_std: Tensor, gradient: str
) -> tuple[Tensor, Tensor]:
    """Something (problems,) whose gradient is that of the mean reward, and the rewards (problems, draws)."""
    problems, draws = z.shape[:2]
    if gradient == "pathwise":
        found = reward(generator(z.flatten(0, 1))).view(problems, draws)
        if not found.requires_grad:
            raise UserError("the reward gives no gradient to the noise: use gradient='reinforce'")
        return found.mean(1), found
    z = z.detach()
    with torch.no_grad():
        found = reward(generator(z.flatten(0, 1))).view(problems, draws)
    advantage = (found - found.mean(1, keepdim=True)) * draws / (draws - 1)
    log_q = -(0.5 * ((z - mean[:, None]) / log_std.exp()[:, None]).square() + log_std[:, None]).flatten(2).sum(2)
    return (advantage.to(log_q) * log_q).mean(1), found
