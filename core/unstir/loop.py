"""The one loop: from noise, or from any noisy state, to samples.

    x = prior or start;   for each row of the plan:  x <- steers(solver.step(x, row, guides(denoiser)))

A sample depends on (seed, its index) alone; plans are made before the loop, in float64 on the host; a deterministic solver draws nothing
after the initial state. The state inside is z = x - beta(t) y, y the anchor, which follows the plain process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from unstir import names
from unstir.denoiser import Denoiser
from unstir.errors import SamplingDiverged, UserError
from unstir.evaluation import Counted, Evaluation, working_tensor
from unstir.noise import NoiseSource
from unstir.samples import Samples, joined, plain
from unstir.solver.base import Memory, Solver
from unstir.start import cut, first_state, known_at, noise_for, rows_of, shape_of, times_of, unit_noise
from unstir.state import clone, is_finite, leaves, map_state
from unstir.steering import Steering


def sample(
    denoiser: Denoiser,
    count: int,
    *,
    solver: Solver | str = "logistic3",
    grid: Any = "logistic:20",
    guides: Sequence[Any] = (),
    steers: Sequence[Any] = (),
    condition: Mapping[str, Any] | None = None,
    start: Sequence[Any] | None = None,
    seed: int = 0,
    batch: int | None = None,
    trace: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Samples:
    """Draw samples of a denoiser's law (conditioned, guided and steered), or take noisy states back to clean ones.

    Args:
        denoiser: the model, with its process, space and shape.
        count: number of samples; 0 gives none.
        solver: a solver or its short name.
        grid: a grid, its short name, or the times.
        guides: each wraps the denoiser, the first innermost.
        steers: each may change the state after a step, in order.
        condition: what the denoiser is conditioned on: tensors with one row a sample, or one row for all. ``anchor`` is the anchor.
        start: ``(state, t)``: begin with this noisy state (``count`` rows, or one for all) at time t; the grid is cut there. A third entry
            is what the solver remembers from before: the twin of a reversible solver, ``{"noise": [...]}`` draws to be repeated.
        seed: any integer; sample ``i`` depends on it and on ``i`` only.
        batch: samples worked on at a time; all at once when absent.
        trace: are the state and the estimate of every step kept?
        progress: called with (steps made, steps in all) after each step.

    Returns:
        The samples, ``(count, *shape)`` in units of the state, with times and counted evaluations.

    Raises:
        SamplingDiverged: a sample stopped being finite; names step, time and sample.
        UserError: an argument, or what the denoiser gives, does not fit; one sentence.

    Example:
        >>> samples = unstir.sample(prior, 16, solver="dpm++2m", grid="karras:20", seed=1)
    """
    run = _Run(denoiser, count, names.solver(solver), grid, guides, steers, condition, start, seed, batch, trace, progress)
    return joined(list(run.chunks()) or [run.none()])


def stream(
    denoiser: Denoiser,
    count: int,
    *,
    solver: Solver | str = "logistic3",
    grid: Any = "logistic:20",
    guides: Sequence[Any] = (),
    steers: Sequence[Any] = (),
    condition: Mapping[str, Any] | None = None,
    start: Sequence[Any] | None = None,
    seed: int = 0,
    batch: int | None = None,
    trace: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Samples]:
    """The samples of :func:`sample`, the same ones, ``batch`` at a time, in memory that does not grow with ``count``.

    Args and errors are those of :func:`sample`; arguments are checked at the call, before the first chunk is asked for.

    Returns:
        An iterator over :class:`Samples` of ``batch`` samples each, the last perhaps of fewer.
    """
    return _Run(denoiser, count, names.solver(solver), grid, guides, steers, condition, start, seed, batch, trace, progress).chunks()


@dataclass
class _Run:
    """One call of ``sample`` or ``stream``: arguments checked, the plan made."""

    denoiser: Denoiser
    count: int
    solver: Solver
    grid: Any
    guides: Sequence[Any]
    steers: Sequence[Any]
    condition: Mapping[str, Any] | None
    start: Sequence[Any] | None
    seed: int
    batch: int | None
    trace: bool
    progress: Callable[[int, int], None] | None

    def __post_init__(self) -> None:
        for name, number, least in (("count", self.count, 0), ("batch", 1 if self.batch is None else self.batch, 1)):
            if isinstance(number, bool) or not isinstance(number, int) or number < least:
                raise UserError(f"{name} must be a whole number of at least {least}, got {number!r}")
        group = math.lcm(*(steer.particles for steer in self.steers))
        if self.count % group:
            raise UserError(f"count must be a multiple of the {group} particles of a problem, got {self.count}")
        if self.denoiser.needs_noise and not self.solver.stochastic:
            raise UserError(f"{type(self.denoiser).__name__} has an equation with noise, and {self.solver!r} draws none: take 'ancestral'")
        self.size = max((self.batch or max(self.count, 1)) // group, 1) * group
        self.like = working_tensor(self.denoiser, self.start[0] if self.start else None)
        self.times = cut(times_of(names.grid(self.grid), self.denoiser.process), self.start[1] if self.start else None)
        self.rows = self.solver.plan(self.denoiser.process, self.times)
        self.guides = [guide.planned(self.rows) for guide in self.guides]
        self.times = [self.rows[0].t, *(row.s for row in self.rows)] if self.rows else self.times
        self.differentiates = any(getattr(part, "needs_grad", False) for part in (*self.guides, *self.steers))
        NoiseSource(self.seed, ())

    def chunks(self) -> Iterator[Samples]:
        """The samples, ``size`` at a time; a chunk that stops being finite is walked again, watched, to say where."""
        for first in range(0, self.count, self.size):
            chosen = range(first, min(first + self.size, self.count))
            yield self.walk(chosen) or self.walk(chosen, watch=True)  # type: ignore[misc]

    def none(self) -> Samples:
        """No samples, in the right shape."""
        shape = map_state(lambda leaf: leaf.shape[1:], self.start[0]) if self.start else shape_of(self.denoiser, self.condition)
        x = unit_noise(NoiseSource(self.seed, ()), shape, self.like, "")
        return Samples(x, 0, self.times, [x] * len(self.times) if self.trace else None, [x] * len(self.rows) if self.trace else None)

    def walk(self, chosen: range, watch: bool = False) -> Samples | None:
        """One chunk from its first state to its last; ``None`` once it is not finite, or the error that says where if watched."""
        with torch.no_grad() if self.differentiates else torch.inference_mode():
            denoiser = counted = Counted(self.denoiser)
            for guide in self.guides:
                denoiser = guide.wrap(denoiser)
            condition = rows_of(self.condition, chosen, self.count, self.like.device)
            noise, process = NoiseSource(self.seed, chosen), self.denoiser.process
            model = Evaluation(denoiser, process, condition)
            z = first_state(self.denoiser, model, noise, self.times, self.like, self.count, self.start)
            shape = map_state(lambda leaf: tuple(leaf.shape[1:]), z)
            known = known_at(self.start, chosen, self.count)
            memory = Memory(lambda: noise_for(self.denoiser, noise, shape, self.like, condition), noise, known)
            steering = Steering(self.steers, self.denoiser, model, noise, memory, self.solver.stochastic) if self.steers else None
            path, estimates = [clone(model.with_anchor(z, self.times[0]))] if self.trace else [], []
            for row in self.rows:
                model.step, last = row.index, row is self.rows[-1]
                z = steering.before(z, row, last) if steering else z
                z = self.solver.step(z, row, model, memory)
                z = steering.after(z, row, last) if steering else z
                if self.trace:
                    path.append(clone(model.with_anchor(z, row.s)))
                    estimates.append(clone(model.x0))
                if self.looks(row.index, watch) and not math.isfinite(sum(float(leaf.sum()) for leaf in leaves(z))):
                    finite = is_finite(z).tolist()
                    if watch and not all(finite):
                        time = next(iter(row.s.values())) if isinstance(row.s, dict) else row.s
                        raise SamplingDiverged(row.index, time, chosen[finite.index(False)])
                    if not all(finite):
                        return None
                if self.progress and not watch:
                    chunk, chunks = chosen.start // self.size, -(-self.count // self.size)
                    self.progress(len(self.rows) * chunk + row.index + 1, len(self.rows) * chunks)
            x = model.with_anchor(z, self.times[-1])
        x, path, estimates = plain(x), [plain(state) for state in path], [plain(state) for state in estimates]
        nfe, info = -(-counted.tally[0] // len(chosen)), steering.info if steering else {}
        return Samples(x, nfe, self.times, path if self.trace else None, estimates if self.trace else None, info)

    def looks(self, step: int, watch: bool) -> bool:
        """Is the state looked at after this step? At all when watched, at the last, and on a CPU (no synchronisation) at 0, 1, 3, 7..."""
        return watch or step + 1 == len(self.rows) or (self.like.device.type == "cpu" and step & (step + 1) == 0)
