"""The likelihood of data: the probability flow carries a state to the prior, and the density changes by the divergence on the way.

    n = sqrt(sigma^2 + s^2 alpha^2),  w = (x - beta y)/n,  theta = atan2(sigma, s alpha):
    dw/d(theta) = -F,      F = (n D/s - s alpha w)/sigma,      tr dF/dw = (n^2 tr dD/dx/s - d s alpha)/sigma
    log p(x) = log p_T(x_T) + d log(n_T/n) - int tr dF/dw d(theta)

by Runge-Kutta 4 on the times of a grid. In theta everything is bounded, so pure noise (alpha = 0) is no special place. The one at the data
is where sigma = 0: the density is that of the data with the noise of the grid's last noisy time.

References: Chen et al. 2018, arXiv:1806.07366; Song et al. 2021, arXiv:2011.13456, app. D.2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from unstir import names
from unstir.denoiser.base import check_shape
from unstir.divergence import check_divergence, estimate_and_trace, signs
from unstir.errors import UserError
from unstir.evaluation import Counted, Evaluation, working_tensor
from unstir.inversion import noisy_times
from unstir.noise import NoiseSource
from unstir.operator.cg import inner
from unstir.process import Joint, Process
from unstir.samples import plain
from unstir.space import Euclidean, JointSpace, Masked
from unstir.start import rows_of, times_of
from unstir.state import State, batch_size, cat, leaves, map_state, take

if TYPE_CHECKING:
    from unstir.denoiser import Denoiser

_SCALE = 0.5  # s: any standard deviation near that of the data does


@dataclass
class LogLikelihood:
    """What the flow says of data.

    Attributes:
        nats: log p of each sample, (batch,), float64, in units of the state.
        bits_per_dim: -log2 p over the number of entries, (batch,); of the quantised data where a bin was given.
        dimensions: free entries of each sample, (batch,).
        prior: which law the density at the noisy end was taken from.
        nfe: evaluations of the denoiser that one sample took, counted.
        x: the states at the noisy end.
        t: their time.
    """

    nats: Tensor
    bits_per_dim: Tensor
    dimensions: Tensor
    prior: str
    nfe: int
    x: State = field(repr=False)
    t: Any


def likelihood(
    denoiser: Denoiser,
    x: State,
    *,
    divergence: Literal["hutchinson", "exact"] = "hutchinson",
    grid: Any = "log-snr:100",
    prior: Any = "normal",
    condition: Mapping[str, Any] | None = None,
    guides: Sequence[Any] = (),
    bin_width: float | None = None,
    seed: int = 0,
    batch: int | None = None,
) -> LogLikelihood:
    """The log-likelihood of data under a denoiser, by its probability flow.

    With Hutchinson's estimate the expectation over the probe is exact for the divergence along the path; the probe is fixed along it and
    keyed by (seed, sample), so average over seeds for a smaller error. Four evaluations a step.

    Args:
        denoiser: the model, with its process, space (Euclidean or masked) and shape.
        x: the data, ``(batch, *shape)``, anchor included.
        divergence: ``"exact"`` for states of up to 64 entries, ``"hutchinson"`` for any.
        grid: a grid, its short name, or the times; a last step to sigma = 0 is left out.
        prior: the law at the noisy end: ``"normal"``, N(beta y, sigma^2), or one of your own: an object with
            ``log_density(x, t, condition)`` or such a function, giving (batch,) nats.
        condition: what the denoiser is conditioned on: tensors with one row a sample, or one row for all.
        guides: each wraps the denoiser, the first innermost; the law is then that of the guided flow. They must give gradients.
        bin_width: where the data are whole multiples of this (quantised), in units of the state: they are dequantised by uniform noise in
            [0, bin_width), and ``bits_per_dim`` bounds that of the quantised data from above. Without it, data on a lattice can have any
            density, and bits per dimension mean nothing.
        seed: of probes and dequantisation.
        batch: samples worked on at a time; all at once when absent.

    Returns:
        Nats, bits per dimension, and what they rest on.

    Raises:
        UserError: an argument does not fit, the space has no density of this kind, or the process ends in a point.

    Example:
        >>> unstir.likelihood(prior, x, divergence="exact", grid="log-snr:300").nats
    """
    check_shape(x, denoiser.shape, "the denoiser")
    check_divergence(divergence, x)
    if bin_width is not None and not 0 < bin_width < math.inf:
        raise UserError(f"bin_width must be positive, got {bin_width}")
    if prior != "normal" and not callable(getattr(prior, "log_density", prior)):
        raise UserError(f"prior is 'normal', a function, or an object with log_density, got {prior!r}")
    _check_space(denoiser.space)
    like, count = working_tensor(denoiser, x), batch_size(x)
    x = map_state(lambda leaf: leaf.to(device=like.device, dtype=like.dtype), x)
    times = noisy_times(times_of(names.grid(grid), denoiser.process), denoiser.process)
    parts = []
    for first in range(0, max(count, 1), batch or max(count, 1)):
        chosen = range(first, min(first + (batch or count), count))
        source = NoiseSource(seed, chosen)
        part = take(x, slice(chosen.start, chosen.stop))
        part = part if bin_width is None else _dequantised(part, bin_width, source)
        own = rows_of(condition, chosen, count, like.device)
        parts.append(_walk(denoiser, part, times, own, guides, divergence, prior, source, bin_width))
    nats, bits, dimensions = (torch.cat([getattr(part, name) for part in parts]) for name in ("nats", "bits_per_dim", "dimensions"))
    return LogLikelihood(nats, bits, dimensions, parts[0].prior, parts[0].nfe, cat([part.x for part in parts]), times[0])


@torch.no_grad()
def _walk(
    denoiser: Denoiser,
    x: State,
    times: list[Any],
    condition: Mapping[str, Any] | None,
    guides: Sequence[Any],
    divergence: str,
    prior: Any,
    source: NoiseSource,
    bin_width: float | None,
) -> LogLikelihood:
    """The flow of one chunk, from the data up."""
    guided = counted = Counted(denoiser)
    for guide in guides:
        guided = guide.wrap(guided)
    process, space = denoiser.process, denoiser.space
    anchored = Evaluation(guided, process, condition)
    free = space.project(map_state(torch.ones_like, x), condition)  # type: ignore[arg-type]
    d = map_state(lambda leaf: leaf.flatten(1).sum(1).double(), free)
    probe = space.project(signs(source, x), condition) if divergence == "hutchinson" else None  # type: ignore[arg-type]

    def field_at(w: State, t: Any, speed: Any, place: Any) -> tuple[State, Tensor]:
        """dw/dt and the rate of log p(w), at one time."""
        x = anchored.with_anchor(map_state(lambda leaf, c: leaf * c.n, w, place), t)
        x0, traces = estimate_and_trace(guided, x, t, condition, probe)
        moved = map_state(lambda leaf, clean, c, v: v * (c.decay * leaf - c.gain * clean), w, x0, place, speed)
        rates = map_state(lambda trace, free, c, v: v * (c.n * c.gain * trace.double() - free * c.decay), traces, d, place, speed)
        return moved, sum(leaves(rates))  # type: ignore[return-value]

    rising = times[::-1]
    start, end = _places(process, rising[0]), _places(process, rising[-1])
    w = map_state(lambda leaf, c: leaf / c.n, anchored.with_anchor(x, rising[0], -1.0), start)
    change = torch.zeros(batch_size(x), dtype=torch.float64, device=leaves(x)[0].device)
    for t, s in zip(rising, rising[1:], strict=False):
        w, gained = _rk4(field_at, w, _stages(process, t, s))
        change = change + gained
    top = anchored.with_anchor(map_state(lambda leaf, c: leaf * c.n, w, end), rising[-1])
    volume = sum(leaves(map_state(lambda free, a, b: free * math.log(b.n / a.n), d, start, end)))
    law, name = _prior(prior, process, top, rising[-1], condition, d, free)
    nats, dimensions = law + volume - change, sum(leaves(d))
    bits = -nats / (dimensions * math.log(2)) - (math.log2(bin_width) if bin_width else 0.0)  # type: ignore[operator]
    return LogLikelihood(nats, bits, dimensions, name, -(-counted.tally[0] // max(batch_size(x), 1)), plain(top), rising[-1])  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Place:
    """Numbers of one leaf at one time: ``F = gain x0 - decay w``."""

    n: float
    gain: float
    decay: float
    theta: float


def _rk4(field_at: Callable[..., tuple[State, Tensor]], w: State, stages: Sequence[tuple[Any, Any, Any]]) -> tuple[State, Tensor]:
    """One step of Runge-Kutta 4 through three times; the speeds are per step."""
    first, middle, last = stages
    k1, r1 = field_at(w, *first)
    k2, r2 = field_at(map_state(lambda a, k: a + k / 2, w, k1), *middle)
    k3, r3 = field_at(map_state(lambda a, k: a + k / 2, w, k2), *middle)
    k4, r4 = field_at(map_state(torch.add, w, k3), *last)
    moved = map_state(lambda a, p, q, r, s: a + (p + 2 * q + 2 * r + s) / 6, w, k1, k2, k3, k4)
    return moved, (r1 + 2 * r2 + 2 * r3 + r4) / 6


def _stages(process: Process, t: Any, s: Any) -> list[tuple[Any, Any, Any]]:
    """(time, speed of theta, place) at both ends of a step and half-way in theta (of the clock, for leaves that share a time)."""

    def half(own: Process, a: _Place, b: _Place) -> float:
        return float(own.time_at_rho(_SCALE * math.tan((a.theta + b.theta) / 2)))

    places = [_places(process, t), _places(process, s)]
    if isinstance(process, Joint) and not process.shared_time:
        middle: Any = {leaf: half(own, places[0][leaf], places[1][leaf]) for leaf, own in process.leaves.items()}
    else:
        ends = [next(iter(place.values())) if isinstance(place, dict) else place for place in places]
        middle = half(process.clock, ends[0], ends[1])
    places.insert(1, _places(process, middle))

    def speed(*weights: float) -> Any:  # of the parabola through the three; constant where theta itself is halved
        return map_state(lambda a, b, c: weights[0] * a.theta + weights[1] * b.theta + weights[2] * c.theta, *places)

    speeds = speed(-3, 4, -1), speed(-1, 0, 1), speed(1, -4, 3)
    return list(zip((t, middle, s), speeds, places, strict=True))


def _places(process: Process, t: Any) -> Any:
    """The numbers of each leaf at one time."""
    if isinstance(process, Joint):
        return {leaf: _places(process.leaves[leaf], s) for leaf, s in process.times(t).items()}
    alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
    if sigma == 0:
        raise UserError(f"{type(process).__name__} ends in a point, where there is no density to start from: end the grid before it")
    n = math.hypot(sigma, _SCALE * alpha)
    return _Place(n, n / (_SCALE * sigma), _SCALE * alpha / sigma, math.atan2(sigma, _SCALE * alpha))


def _prior(prior: Any, process: Process, x: State, t: Any, condition: Mapping[str, Any] | None, d: Any, free: Any) -> tuple[Tensor, str]:
    """log p_T of the states at the noisy end, and what it was called."""
    if prior != "normal":
        law = prior.log_density if hasattr(prior, "log_density") else prior
        return law(x, t, condition).double(), type(prior).__name__ if hasattr(prior, "log_density") else getattr(prior, "__name__", "law")
    mean, std = process.prior((condition or {}).get("anchor"), t)

    def log_normal(leaf: Tensor, size: Tensor, mask: Tensor, m: Any, s: float) -> Tensor:
        offset = (leaf - m) * mask
        return -inner(offset, offset).double() / (2 * s * s) - size * math.log(s * math.sqrt(2 * math.pi))

    if isinstance(x, dict):
        total = sum(log_normal(x[leaf], d[leaf], free[leaf], mean[leaf], std[leaf]) for leaf in x)
        return total, "normal"  # type: ignore[return-value]
    return log_normal(x, d, free, mean, std), f"normal, standard deviation {std:.6g}"


def _dequantised(x: State, width: float, source: NoiseSource) -> State:
    def moved(leaf: Tensor, stream: str) -> Tensor:
        shape = leaf.shape[1:]
        unit = [torch.from_numpy(source.generator(index, stream).random(tuple(shape))) for index in source.indices]
        source.advance(stream)
        return leaf + width * torch.stack(unit).to(leaf) if unit else leaf

    return {leaf: moved(value, f"dequantise/{leaf}") for leaf, value in x.items()} if isinstance(x, dict) else moved(x, "dequantise")


def _check_space(space: Any) -> None:
    parts = space.leaves.values() if isinstance(space, JointSpace) else [space]
    for part in parts:
        if not isinstance(part, (Euclidean, Masked)):
            raise UserError(f"likelihoods are for Euclidean and masked spaces: {type(part).__name__} has no density in its entries")
