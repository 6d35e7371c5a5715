"""Inversion: from clean states to the noisy ones that a solver takes back to them, and ways to sample from there again.

    invert:  x at the clean end  ->  (x_T, what the solver must remember there);      sample(start=that) gives x again

A clean state is taken to be at the last noisy time of the grid: the step to sigma = 0 returns an estimate and forgets the state, so it
is left out, and so it is from the grid that comes back. Guides and condition are those that the samples are to be made with; the round
trip is exact for any of them, since a solver is inverted, not the denoiser.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from unstir import names
from unstir.denoiser.base import check_shape
from unstir.errors import SamplingDiverged, UserError
from unstir.evaluation import Counted, Evaluation, working_tensor
from unstir.grid import Grid, Times
from unstir.noise import NoiseSource
from unstir.samples import plain
from unstir.solver.base import Memory, Row
from unstir.solver.reversible import Reversible
from unstir.start import noise_for, rows_of, times_of
from unstir.state import State, batch_size, cat, clone, is_finite, leaves, map_state, take

if TYPE_CHECKING:
    from unstir.denoiser import Denoiser
    from unstir.solver import Solver


@dataclass
class Inversion:
    """Where clean states come from.

    Attributes:
        x: the states at the noisy end, ``(count, *shape)`` or a dict of such leaves.
        memory: what the solver must remember there: states, or lists of states.
        times: the times of the walk, from the noisy end to the clean one.
        nfe: evaluations of the denoiser that one sample took, counted.
        path: with ``trace``, the state at each of ``times``.
    """

    x: State
    memory: dict[str, Any] = field(repr=False)
    times: list[Any]
    nfe: int
    path: list[State] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return batch_size(self.x)

    @property
    def start(self) -> tuple[State, Any, dict[str, Any]]:
        """What ``sample`` begins with: the states, their time and the memory."""
        return self.x, self.times[0], self.memory

    @property
    def grid(self) -> Grid:
        """The grid that leads back: the times of the walk."""
        if isinstance(self.times[0], Mapping):
            raise UserError("times of separate leaves are no grid: sample with the grid given to invert, made with to_zero=false")
        return Times(tuple(self.times))


def invert(
    denoiser: Denoiser,
    x: State,
    *,
    solver: Solver | str = "bdia",
    grid: Any = "karras:20",
    condition: Mapping[str, Any] | None = None,
    guides: Sequence[Any] = (),
    seed: int = 0,
    batch: int | None = None,
    memory: Mapping[str, Any] | None = None,
    trace: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Inversion:
    """Take clean states to the noisy end along a reversible solver; sampling from there gives them again.

    Args:
        denoiser: the model, with its process, space and shape.
        x: the clean states, ``(count, *shape)``, anchor included; in float64 the round trip is exact to 1e-11, in float32 to 1e-4 or so.
        solver: a reversible solver or its short name: ``"bdia"``, ``"edict"``, ``"reversible-heun"``, ``"reversible-sde"`` (exact),
            ``"dpm-encoder"`` (exact; keeps the noise of each step), ``"ddim-inversion"`` (approximate).
        grid: a grid, its short name, or the times; a last step to sigma = 0 is left out.
        condition: what the denoiser is conditioned on: tensors with one row a sample, or one row for all.
        guides: each wraps the denoiser, the first innermost.
        seed: of the noise of a stochastic solver; sample ``i`` draws what sample ``i`` of ``sample`` draws with this seed.
        batch: samples worked on at a time; all at once when absent.
        memory: the solver's memory at the clean end, where it is known; made up when absent.
        trace: is the state of every step kept?
        progress: called with (steps made, steps in all) after each step.

    Returns:
        The noisy states, with what ``unstir.sample(start=..., grid=...)`` needs: ``inversion.start`` and ``inversion.grid``.

    Raises:
        SamplingDiverged: a state stopped being finite; names step, time and sample.
        UserError: an argument does not fit, or the solver cannot be inverted.

    Example:
        >>> there = unstir.invert(prior, x, solver="bdia", grid="karras:50")
        >>> back = unstir.sample(prior, len(x), solver="bdia", grid=there.grid, start=there.start)
    """
    run = _Run(denoiser, x, names.solver(solver), names.grid(grid), condition, guides, seed, batch, memory, trace, progress)
    return run.joined([run.walk(chosen) for chosen in run.chunks()])


@dataclass
class _Run:
    """One call of ``invert``: arguments checked, the plan made."""

    denoiser: Denoiser
    x: State
    solver: Any
    grid: Grid
    condition: Mapping[str, Any] | None
    guides: Sequence[Any]
    seed: int
    batch: int | None
    memory: Mapping[str, Any] | None
    trace: bool
    progress: Callable[[int, int], None] | None

    def __post_init__(self) -> None:
        if not isinstance(self.solver, Reversible):
            known = [name for name in names.known("solver") if isinstance(names.solver(name), Reversible)]
            raise UserError(f"{self.solver!r} cannot be inverted; reversible solvers are {', '.join(known)}")
        check_shape(self.x, self.denoiser.shape, "the denoiser")
        self.like = working_tensor(self.denoiser, self.x)
        self.x = map_state(lambda leaf: leaf.to(device=self.like.device, dtype=self.like.dtype), self.x)
        self.count = batch_size(self.x)
        if self.batch is not None and (isinstance(self.batch, bool) or not isinstance(self.batch, int) or self.batch < 1):
            raise UserError(f"batch must be a whole number of at least 1, got {self.batch!r}")
        self.size = self.batch or max(self.count, 1)
        self.times = noisy_times(times_of(self.grid, self.denoiser.process), self.denoiser.process)
        self.rows: list[Row] = self.solver.plan(self.denoiser.process, self.times)
        self.guides = [guide.planned(self.rows) for guide in self.guides]
        self.draw = [sum(self.solver.draws(row) for row in self.rows[:i]) for i in range(len(self.rows))]
        self.differentiates = any(guide.needs_grad for guide in self.guides)

    def chunks(self) -> list[range]:
        """The samples, ``size`` at a time; one empty chunk where there are none."""
        return [range(first, min(first + self.size, self.count)) for first in range(0, self.count, self.size)] or [range(0)]

    def walk(self, chosen: range) -> Inversion:
        """One chunk from its clean end to its noisy one."""
        with torch.no_grad() if self.differentiates else torch.inference_mode():
            denoiser = counted = Counted(self.denoiser)
            for guide in self.guides:
                denoiser = guide.wrap(denoiser)
            condition = rows_of(self.condition, chosen, self.count, self.like.device)
            model = Evaluation(denoiser, self.denoiser.process, condition)
            z = clone(model.with_anchor(take(self.x, slice(chosen.start, chosen.stop)), self.times[-1], -1.0))
            memory, at = Memory(lambda: self.noise(z, condition, chosen, at[0])), [0]
            memory.update(_part(self.memory or {}, chosen))
            path = [clone(model.with_anchor(z, self.times[-1]))] if self.trace else []
            if len(chosen):
                self.solver.begin(z, self.rows[-1], model, memory)
            for made, row in enumerate(reversed(self.rows) if len(chosen) else ()):
                model.step, at[0] = row.index, self.draw[row.index]
                z = self.solver.back(z, row, model, memory)
                if self.trace:
                    path.insert(0, clone(model.with_anchor(z, row.t)))
                if self.progress:
                    self.progress(len(self.rows) * (chosen.start // self.size) + made + 1, len(self.rows) * len(self.chunks()))
                self.check(z, row, chosen)
            kept = {name: memory[name] for name in self.solver.travels if name in memory}
            x = model.with_anchor(z, self.times[0])
        kept = {name: [plain(s) for s in value] if isinstance(value, list) else plain(value) for name, value in kept.items()}
        nfe = -(-counted.tally[0] // max(len(chosen), 1))
        return Inversion(plain(x), kept, self.times, nfe, [plain(state) for state in path] if self.trace else None)

    def noise(self, z: State, condition: Mapping[str, Any] | None, chosen: range, draw: int) -> State:
        """The draw of this number that ``sample`` would make for these samples."""
        return draw_number(self.denoiser, draw, z, chosen, self.seed, condition)

    def check(self, z: State, row: Row, chosen: range) -> None:
        """Raise where a state is no longer finite (looked at after every eighth step on an accelerator, and at the end)."""
        if row.index % 8 == 0 or self.like.device.type == "cpu":
            finite = is_finite(z).tolist()
            if not all(finite):
                time = next(iter(row.t.values())) if isinstance(row.t, dict) else row.t
                raise SamplingDiverged(row.index, time, chosen[finite.index(False)])

    def joined(self, parts: list[Inversion]) -> Inversion:
        """The inversions of all chunks as one."""
        if len(parts) == 1:
            return parts[0]
        memory: dict[str, Any] = {}
        for name, first in parts[0].memory.items():
            values = [part.memory[name] for part in parts]
            memory[name] = [cat(step) for step in zip(*values, strict=True)] if isinstance(first, list) else cat(values)
        path = [cat(step) for step in zip(*(part.path for part in parts), strict=True)] if self.trace else None  # type: ignore[arg-type]
        return Inversion(cat([part.x for part in parts]), memory, self.times, max(part.nfe for part in parts), path)


def draw_number(denoiser: Denoiser, number: int, like: State, chosen: range, seed: int, condition: Mapping[str, Any] | None) -> State:
    """The draw of this number, counted from 0, that a solver under ``sample`` makes for the chosen samples.

    Args:
        denoiser: whose space the noise lives in.
        number: of the draw.
        like: a state of these samples.
        chosen: indices of the samples.
        seed: of the run.
        condition: of the samples.
    """
    source = NoiseSource(seed, chosen)
    for stream in [f"solver/{leaf}" for leaf in like] if isinstance(like, dict) else ["solver"]:
        for _ in range(number):
            source.advance(stream)
    shape = map_state(lambda leaf: tuple(leaf.shape[1:]), like)
    return noise_for(denoiser, source, shape, leaves(like)[0], condition)


def noisy_times(times: list[Any], process: Any) -> list[Any]:
    """The times without those at the end where a leaf has no noise.

    Args:
        times: of a grid.
        process: whose sigma says where there is no noise.

    Raises:
        UserError: fewer than two are left.
    """

    def clean(t: Any) -> bool:
        sigma = process.sigma(t)
        return any(float(value) == 0 for value in (sigma.values() if isinstance(sigma, dict) else [sigma]))

    while times and clean(times[-1]):
        times = times[:-1]
    if len(times) < 2:
        raise UserError("going back from data needs a grid with at least two times at which there is noise")
    return times


def _part(memory: Mapping[str, Any], chosen: range) -> dict[str, Any]:
    """The rows of a memory that belong to the chosen samples."""
    rows = slice(chosen.start, chosen.stop)
    return {name: [take(s, rows) for s in value] if isinstance(value, list) else take(value, rows) for name, value in memory.items()}
