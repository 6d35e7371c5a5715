"""Denoising MCMC: a chain over states and noise levels together, and a short denoising run from each state it visits.

    x <- x + delta score(x, t_k) + sqrt(2 delta) z,  delta = (step sigma_k)^2/2;       k ~ p(k | x) proportional to p(k) p(x | k)

The chain wanders between modes at high noise and is often at low noise, whence few steps lead to data; its states at level k follow the
process's own law there, so any solver finishes them.
Reference: Kim & Ye 2023 (Denoising Langevin Gibbs), arXiv:2209.14593.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unstir import names
from unstir.denoiser import Denoiser
from unstir.errors import UserError
from unstir.loop import sample
from unstir.noise import NoiseSource


@dataclass(frozen=True, eq=False)
class Chain:
    """What a chain visited.

    Attributes:
        states: x (visits, chains, *shape).
        levels: k (visits, chains), long: numbers into ``times``.
        times: the levels' times.
        evaluations: of the denoiser for one visit of one chain.
    """

    states: Tensor
    levels: Tensor
    times: tuple[float, ...]
    evaluations: int


def denoising_mcmc(
    denoiser: Denoiser,
    log_level: Callable[[Tensor], Tensor],
    x: Tensor,
    times: Sequence[float],
    *,
    first: int,
    visits: int,
    step: float = 0.5,
    inner: int = 1,
    skip: int = 0,
    seed: int = 0,
) -> Chain:
    """Run chains over (state, noise level).

    Args:
        denoiser: gives the scores; asked with a time a sample.
        log_level: log p(k | x) up to a constant of x, (chains, levels): a classifier of noise levels, with the wanted law of k in it.
        x: first states (chains, *shape), with noise of level ``first``.
        times: of the levels, on a process without an anchor, with noise at each.
        first: level of the first states.
        visits: number of visits kept.
        step: length of a Langevin step relative to sigma of its level.
        inner: Langevin steps between two draws of the level.
        skip: visits left out at the beginning.
        seed: of all draws, keyed by chain.

    Returns:
        The visits, each after ``inner`` Langevin steps and a draw of the level.

    Raises:
        UserError: the process has an anchor, a level has no noise, or a number is out of range.
    """
    process = denoiser.process
    time = torch.tensor([float(t) for t in times], dtype=torch.float64)
    alpha, sigma = process.alpha(time), process.sigma(time)
    if process.anchored or not bool((sigma > 0).all()):
        raise UserError("denoising MCMC needs the score at every level, which takes noise and no anchor")
    if visits < 1 or inner < 1 or skip < 0 or not 0 <= first < len(times) or not 0 < step < math.inf:
        raise UserError(f"visits and inner must be at least 1, first a level, step positive; got {visits}, {inner}, {first}, {step}")
    source, each = NoiseSource(seed, range(len(x))), (-1, *[1] * (x.ndim - 1))
    level = torch.full((len(x),), first)
    states, levels = [], []
    for visit in range(skip + visits):
        for _ in range(inner):
            a, s = (c[level].reshape(each).to(x) for c in (alpha, sigma))
            with torch.no_grad():
                score = (a * denoiser(x, time[level]) - x) / s**2
            noise = source.draw(tuple(x.shape[1:]), x.dtype, stream="langevin")
            x = x + (step * s) ** 2 / 2 * score + step * s * noise
        # the largest of log p(k | x) and Gumbel noise is a draw of k
        uniform = torch.special.ndtr(source.draw((len(times),), torch.float64, stream="level"))
        level = (torch.log_softmax(log_level(x), 1) - torch.log(-torch.log(uniform))).argmax(1)
        if visit >= skip:
            states.append(x)
            levels.append(level)
    return Chain(torch.stack(states), torch.stack(levels), tuple(time.tolist()), inner)


def finish(
    denoiser: Denoiser, chain: Chain, *, solver: Any = "dpm++2m", grid: Any = "karras:20", condition: Mapping[str, Any] | None = None
) -> tuple[Tensor, float]:
    """Denoise every state that a chain visited, from its own noise level on.

    Args:
        denoiser: of the chain's process.
        chain: what was visited.
        solver: a deterministic solver.
        grid: laid over the whole process; each state joins it at its own level.
        condition: of the denoiser, one row for all.

    Returns:
        Samples (visits x chains, *shape) in the order visited, and the mean number of evaluations of one, those of the chain included.

    Raises:
        UserError: the solver draws noise.
    """
    made = names.solver(solver)
    if made.stochastic:
        raise UserError(f"states of different levels are finished in groups, which takes a deterministic solver, and {made!r} draws noise")
    states, levels = chain.states.flatten(0, 1), chain.levels.flatten()
    out, spent = torch.empty_like(states), 0
    for k in levels.unique().tolist():
        rows = levels == k
        count = int(rows.sum())
        run = sample(denoiser, count, solver=made, grid=grid, condition=condition, start=(states[rows], chain.times[k]))
        out[rows] = run.x  # type: ignore[assignment]
        spent += run.nfe * count
    return out, chain.evaluations + spent / len(states)
