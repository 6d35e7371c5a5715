"""Choose among samples at inference: best of N, searches over the start noise and over paths.

    best of N:       x = argmax_j r(x^(j));      KL(best of N | p) <= log N - (N - 1)/N
    near the pivot:  z^(j) = sqrt(1 - rho^2) z + rho u^(j), keep the best of pivot and neighbours, and again
    over paths:      at several noise levels, keep the W best of all states by r(x0_t); noise each again, B times, and go on

The axis is the budget: evaluations of the denoiser spent on one problem. A verifier that is searched against is no longer a measure: report
another metric beside it, which may fall ("verifier hacking").
Reference: Ma et al. 2025, "Inference-time Scaling for Diffusion Models beyond Scaling Denoising Steps", arXiv:2501.09732.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from unstir import names
from unstir.denoiser import Denoiser
from unstir.errors import UserError
from unstir.evaluation import working_tensor
from unstir.grid import Times
from unstir.loop import sample
from unstir.noise import NoiseSource
from unstir.process import Joint, Process
from unstir.samples import Samples
from unstir.start import shape_of, times_of, unit_noise
from unstir.state import State, leaves, map_state, take

Verifier = Callable[[Any, Mapping[str, Any] | None], Tensor]


@dataclass
class Chosen:
    """What a search found, one sample a problem.

    Attributes:
        x: the chosen samples (problems, *shape).
        score: what the verifier says of them (problems,).
        nfe: evaluations of the denoiser spent on one problem.
        curve: (evaluations spent, best scores so far (problems,)) after each round.
    """

    x: State
    score: Tensor
    nfe: int
    curve: list[tuple[int, Tensor]] = field(repr=False)


def best_of(
    denoiser: Denoiser,
    count: int,
    verifier: Verifier,
    *,
    candidates: int,
    condition: Mapping[str, Any] | None = None,
    seed: int = 0,
    **options: Any,
) -> Chosen:
    """The best of N independent samples of each problem; candidate 0 is the sample of :func:`unstir.sample`, and more candidates only add.

    Args:
        denoiser: the model.
        count: number of problems.
        verifier: r(x, condition), clean samples batch first; gives (batch,), the larger the better.
        candidates: N.
        condition: one row a problem, or one for all.
        seed: any integer; problem i depends on it and on i only.
        **options: of :func:`unstir.sample`: solver, grid, guides, steers, batch.

    Returns:
        The best of each problem.

    Raises:
        UserError: fewer than 1 candidate, or a verifier that does not give one number a sample.

    Example:
        >>> best = unstir.choose.best_of(prior, 4, verifier, candidates=16, grid="karras:20")
    """
    _positive("candidates", candidates)
    best = None
    for candidate in range(candidates):
        found = sample(denoiser, count, condition=condition, seed=_round(seed, candidate), **options)
        best = _better(best, found.x, judged(verifier, found.x, condition), found.nfe)
    return best  # type: ignore[return-value]


def search_noise(
    denoiser: Denoiser,
    count: int,
    verifier: Verifier,
    *,
    budget: int,
    neighbours: int = 4,
    radius: float = 0.3,
    condition: Mapping[str, Any] | None = None,
    grid: Any = "karras:20",
    seed: int = 0,
    **options: Any,
) -> Chosen:
    """Zero-order search: move the start noise of each problem to the best of its neighbours, until the budget is spent.

    Neighbours are unit normal too, at distance about ``radius`` times the norm; with a radius of 1 this is best-of-N.

    Args:
        denoiser: the model.
        count: number of problems.
        verifier: r(x, condition), gives (batch,), the larger the better.
        budget: evaluations a problem may take; the first sample is always made.
        neighbours: tried in each round.
        radius: rho in (0, 1].
        condition: one row a problem, or one for all.
        grid: a grid, its short name, or the times.
        seed: any integer; problem i depends on it and on i only.
        **options: of :func:`unstir.sample`: solver (a deterministic one, such that the noise decides), guides, steers, batch.

    Returns:
        The best of each problem.

    Raises:
        UserError: a number out of range, or a verifier that does not give one number a sample.
    """
    _positive("neighbours", neighbours)
    _positive("budget", budget)
    if not 0 < radius <= 1:
        raise UserError(f"the radius of a search over noises lies in (0, 1], got {radius}")
    source, like = NoiseSource(seed, range(count)), working_tensor(denoiser, None)
    time, shape = times_of(names.grid(grid), denoiser.process)[0], shape_of(denoiser, condition)

    def run(unit: State) -> Samples:
        start = noised(denoiser, unit, time, condition)
        return sample(denoiser, count, condition=condition, grid=grid, start=(start, time), seed=seed, **options)

    pivot: Any = unit_noise(source, shape, like, "search")
    found = run(pivot)
    best = _better(None, found.x, judged(verifier, found.x, condition), found.nfe)
    while best.nfe + neighbours * found.nfe <= budget:
        centre = pivot
        for _ in range(neighbours):
            step: Any = unit_noise(source, shape, like, "search")
            tried = map_state(lambda z, u: math.sqrt(1 - radius**2) * z + radius * u, centre, step)
            found = run(tried)
            score = judged(verifier, found.x, condition)
            pivot = _where(score > best.score, tried, pivot)
            best = _better(best, found.x, score, found.nfe)
    return best


def search_paths(
    denoiser: Denoiser,
    count: int,
    verifier: Verifier,
    *,
    width: int = 2,
    branches: int = 4,
    levels: int = 3,
    back: float = 2.0,
    condition: Mapping[str, Any] | None = None,
    grid: Any = "karras:20",
    seed: int = 0,
    **options: Any,
) -> Chosen:
    """Search over paths: noise each kept state again, several times, denoise, and keep the best by the verifier of their estimates.

    Args:
        denoiser: the model.
        count: number of problems.
        verifier: r(x, condition), gives (batch,), the larger the better; it judges estimates on the way.
        width: W, states kept a problem.
        branches: B, renoised copies of each of them.
        levels: how often, at equal numbers of steps from each other.
        back: the noise level sigma/alpha is multiplied by this when a state is noised again.
        condition: one row a problem, or one for all.
        grid: a grid, its short name, or the times.
        seed: any integer; problem i depends on it and on i only.
        **options: of :func:`unstir.sample`: solver, guides, steers, batch.

    Returns:
        The best of each problem.

    Raises:
        UserError: a number out of range, more levels than the grid has times between its ends, a joint process, or a verifier that does not
            give one number a sample.
    """
    for name, value in (("width", width), ("branches", branches), ("levels", levels)):
        _positive(name, value)
    times, process = times_of(names.grid(grid), denoiser.process), denoiser.process
    stops = [round((k + 1) * (len(times) - 1) / (levels + 1)) for k in range(levels)]
    if len(set(stops)) < levels or stops[0] < 1 or isinstance(times[0], Mapping) or process.discrete or not back > 1:
        raise UserError(f"a search over paths needs one time for all leaves, {levels + 1} steps at least and back above 1, got back={back}")
    rows = width * branches
    wide = _repeated(condition, count, rows)
    found = sample(denoiser, count * rows, condition=wide, grid=Times(tuple(times[: stops[0] + 1])), seed=seed, **options)
    x, spent, curve = found.x, found.nfe * rows, []
    for k, stop in enumerate(stops):
        score = judged(verifier, _believed(denoiser, x, times[stop], wide), wide).view(count, rows)
        spent += rows
        curve.append((spent, score.amax(1)))
        kept = score.topk(width, 1).indices.repeat_interleave(branches, 1) + rows * torch.arange(count, device=score.device)[:, None]
        noisy = min(float(process.time_at_rho(back * float(process.rho(times[stop])))), times[0])
        x = renoised(denoiser, take(x, kept.flatten()), times[stop], noisy, wide, NoiseSource(_round(seed, k + 1), range(count * rows)))
        until = stops[k + 1] if k + 1 < levels else len(times) - 1
        below = [t for t in times[: until + 1] if t < noisy]
        grid_left, start = Times((noisy, *below)), (x, noisy)
        found = sample(denoiser, count * rows, condition=wide, grid=grid_left, start=start, seed=_round(seed, k + 1), **options)
        x, spent = found.x, spent + found.nfe * rows
    score = judged(verifier, x, wide).view(count, rows)
    top = score.argmax(1) + rows * torch.arange(count, device=score.device)
    best = score.amax(1)
    return Chosen(take(x, top), best, spent, [*curve, (spent, best)])


def judged(verifier: Verifier, x: Any, condition: Mapping[str, Any] | None) -> Tensor:
    """What a verifier says of each sample (batch,), float64.

    Args:
        verifier: r(x, condition).
        x: clean samples, batch first.
        condition: one row a sample, or one for all.

    Returns:
        Scores; NaN counts as minus infinity.

    Raises:
        UserError: the verifier does not give one number a sample.
    """
    score, batch = verifier(x, condition), leaves(x)[0].shape[0]
    if not isinstance(score, Tensor) or score.shape != (batch,):
        got = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
        raise UserError(f"a verifier gives one number a sample, ({batch},), got {got}")
    return torch.nan_to_num(score.detach().double(), nan=-math.inf, posinf=math.inf, neginf=-math.inf)


def noised(denoiser: Denoiser, unit: State, t: Any, condition: Mapping[str, Any] | None) -> State:
    """The state of the prior at time t that unit normals stand for: mean + sigma(t) draw(unit).

    Args:
        denoiser: with its process and space.
        unit: unit normals (batch, *shape).
        t: the time sampling starts from.
        condition: with the anchor, where the process has one.

    Returns:
        A state to start from.
    """
    mean, std = denoiser.process.prior((condition or {}).get("anchor"), t)
    noise: Any = denoiser.space.draw(unit, condition)  # type: ignore[arg-type]
    if isinstance(noise, dict):
        return {leaf: std[leaf] * value + mean[leaf] for leaf, value in noise.items()}
    return std * noise + mean


def renoised(denoiser: Denoiser, x: State, t: float, s: float, condition: Mapping[str, Any] | None, source: NoiseSource) -> State:
    """A state taken from time t up to the noisier time s by the process itself.

    z_s = r z_t + (sigma_s^2 - r^2 sigma_t^2)^(1/2) noise,   r = alpha_s/alpha_t,   z the state without its anchor

    Args:
        denoiser: with its process and space.
        x: states at t, batch first.
        t: their time.
        s: the noisier time.
        condition: with the anchor, where the process has one.
        source: keyed noise, one row a state.

    Returns:
        States at s.
    """
    process = denoiser.process
    shape: Any = map_state(lambda leaf: tuple(leaf.shape[1:]), x)
    noise = denoiser.space.draw(unit_noise(source, shape, leaves(x)[0], "renoise"), condition)  # type: ignore[arg-type]

    def up(own: Process, leaf: Tensor, z: Tensor, y: Tensor | None) -> Tensor:
        (alpha_t, sigma_t, beta_t), (alpha_s, sigma_s, beta_s) = ([float(f(u)) for f in (own.alpha, own.sigma, own.beta)] for u in (t, s))
        ratio = alpha_s / alpha_t
        moved = ratio * leaf + math.sqrt(max(sigma_s**2 - (ratio * sigma_t) ** 2, 0.0)) * z
        return moved + (beta_s - ratio * beta_t) * own.need(y) if own.anchored else moved

    anchor = (condition or {}).get("anchor")
    if not isinstance(process, Joint):
        return up(process, x, noise, anchor)  # type: ignore[arg-type]
    return {k: up(own, x[k], noise[k], (anchor or {}).get(k)) for k, own in process.leaves.items()}  # type: ignore[call-overload, index]


def _believed(denoiser: Denoiser, x: State, t: float, condition: Mapping[str, Any] | None) -> State:
    with torch.no_grad():
        return denoiser(x, t, condition)


def _better(best: Chosen | None, x: State, score: Tensor, nfe: int) -> Chosen:
    """The better of what was known and what was found, problem by problem."""
    if best is None:
        return Chosen(x, score, nfe, [(nfe, score)])
    better = score > best.score
    score, spent = torch.where(better, score, best.score), best.nfe + nfe
    return Chosen(_where(better, x, best.x), score, spent, [*best.curve, (spent, score)])


def _where(chosen: Tensor, x: State, y: State) -> Any:
    return map_state(lambda a, b: torch.where(chosen.view(-1, *[1] * (a.ndim - 1)), a, b), x, y)


def _repeated(condition: Mapping[str, Any] | None, count: int, times: int) -> dict[str, Any] | None:
    """The condition with each problem's row repeated."""
    if condition is None:
        return None

    def rows(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: rows(v) for key, v in value.items()}
        many = isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == count and count > 1
        return value.repeat_interleave(times, 0) if many else value

    return {key: rows(value) for key, value in condition.items()}


def _round(seed: int, number: int) -> int:
    """The seed of a round: round 0 is the seed itself, and no other seed of 64 bits meets the rest."""
    return seed + (number << 64)


def _positive(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{name} must be a whole number of at least 1, got {value!r}")
