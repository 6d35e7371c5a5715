"""Checks: what a solver promises, measured against closed forms or counted.

    order        slope of the error against the exact flow of GM4, sigma/alpha from 2 to 0.1
    finite       no value that is not finite, on any grid, from 1 step on
    invariance   a sample's bits do not depend on its batch
    draws        noise drawn after the initial state
    operations   passes over a full-size tensor in one step, and what would stall a device
    variance     exact variance of the samples of a normal law, by propagating the coefficient of every draw

Each takes a solver (or its short name) and returns a small record; none asserts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from unstir import names
from unstir.certify.oracles import gm4, gm4_points
from unstir.denoiser import Denoiser
from unstir.errors import UnstirError, UserError
from unstir.grid import Grid, LogSNR, Times
from unstir.loop import sample
from unstir.process import EDM, Process
from unstir.solver import Memory, Solver

_HIGH, _LOW = 2.0, 0.1  # levels sigma/alpha between which order is measured; the flow of GM4 is curved there and neither end is trivial


class NotLinear(UserError):
    """A solver's steps are not linear in state, estimate and noise, so their variance has no closed form."""


@dataclass(frozen=True)
class OrderCheck:
    """Order of accuracy, declared and measured.

    Attributes:
        declared: what the solver declares.
        measured: log2 of the last two errors' ratio.
        steps: numbers of steps, doubling.
        errors: median error for each.
    """

    declared: int
    measured: float
    steps: tuple[int, ...]
    errors: tuple[float, ...]

    @property
    def passed(self) -> bool:
        """Is the measured order within 0.1 of the declared one?"""
        return abs(self.measured - self.declared) <= 0.1


@dataclass(frozen=True)
class FiniteCheck:
    """Where a solver failed: one sentence per failure, none if it passed."""

    runs: int
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Did every run end in finite samples?"""
        return not self.failures


@dataclass(frozen=True)
class InvarianceCheck:
    """Largest change of a sample over several batch sizes; ``same`` is whether not a bit changed."""

    batches: tuple[int, ...]
    same: bool
    worst: float

    @property
    def passed(self) -> bool:
        """Did no bit change?"""
        return self.same


@dataclass(frozen=True)
class DrawCheck:
    """Draws of noise after the initial state, and whether torch's or numpy's global generators were touched."""

    draws: int
    touched: bool


@dataclass(frozen=True)
class OperationCheck:
    """Operations of one step in its steady state, without those of the denoiser.

    Attributes:
        full_size: operations that write a tensor of the state's size.
        allocations: those of them that made a new tensor.
        draws: calls of a random generator of torch.
        synchronisations: values read back to the host.
    """

    full_size: int
    allocations: int
    draws: int
    synchronisations: int


def order(solver: Solver | str, process: Process | None = None, *, steps: Sequence[int] = (128, 256), points: int = 64) -> OrderCheck:
    """Measure the order of a deterministic solver on GM4.

    The error is that of x/alpha, against the exact flow, so that all processes are measured on the same problem.

    Args:
        solver: the solver.
        process: the process it runs on; EDM when absent.
        steps: numbers of steps, each twice the one before.
        points: number of start points.

    Returns:
        Declared and measured order.

    Raises:
        UserError: the solver is stochastic.
    """
    made: Solver = names.solver(solver)
    process = process or EDM()
    if made.stochastic:
        raise UserError(f"the order is that of the flow, and {made!r} draws noise")
    begin, end = (float(process.time_at_rho(level)) for level in (_HIGH, _LOW))
    bar, exact = _flow(points)
    anchor = torch.tensor([[0.3, -0.2]], dtype=torch.float64)
    condition = {"anchor": anchor} if process.anchored else None
    x = float(process.alpha(begin)) * bar + float(process.beta(begin)) * anchor
    errors = []
    for count in steps:
        grid = LogSNR(count, sigma_max=_HIGH, sigma_min=_LOW, to_zero=False)
        samples = sample(gm4(process), points, solver=made, grid=grid, start=(x, begin), condition=condition)
        found = (samples.x - float(process.beta(end)) * anchor) / float(process.alpha(end))  # type: ignore[operator]
        errors.append(torch.linalg.vector_norm(found - exact, dim=1).median().item())
    return OrderCheck(made.order, math.log2(errors[-2] / errors[-1]), tuple(steps), tuple(errors))


@lru_cache(maxsize=4)
def _flow(points: int) -> tuple[Tensor, Tensor]:
    x = gm4_points(_HIGH, points)
    return x, gm4().transport(x, _HIGH, _LOW, steps=1000)


def finite(solver: Solver | str, process: Process, grids: Iterable[Grid | str], *, count: int = 3) -> FiniteCheck:
    """Run a solver over many grids and report whatever is not finite or raises.

    Args:
        solver: the solver.
        process: the process.
        grids: grids or their short names.
        count: number of samples per run.

    Returns:
        The failures, a sentence each.
    """
    failures, runs, denoiser = [], 0, gm4(process)
    condition = {"anchor": torch.tensor([[0.3, -0.2]], dtype=torch.float64)} if process.anchored else None
    for grid in grids:
        runs += 1
        try:
            if not torch.isfinite(sample(denoiser, count, solver=solver, grid=grid, condition=condition).x).all():  # type: ignore[arg-type]
                failures.append(f"{solver!r} on {grid!r}: not finite")
        except (UnstirError, ArithmeticError, RuntimeError, IndexError, ValueError) as error:
            failures.append(f"{solver!r} on {grid!r}: {type(error).__name__}: {error}")
    return FiniteCheck(runs, tuple(failures))


def invariance(denoiser: Denoiser, *, count: int = 5, batches: Sequence[int] = (1, 2, 5), **options: Any) -> InvarianceCheck:
    """Compare samples made in batches of several sizes, bit by bit.

    Args:
        denoiser: one that treats samples alone, elementwise (a matrix product may differ in the last bit between batch sizes).
        count: number of samples.
        batches: batch sizes.
        **options: of ``sample``: solver, grid, guides, steers, condition, start, seed.

    Returns:
        Whether all bits agree, and the largest difference.
    """
    runs = [sample(denoiser, count, batch=batch, **options).x for batch in batches]
    flat = [torch.cat([leaf.flatten() for leaf in (run.values() if isinstance(run, dict) else [run])]) for run in runs]
    worst = max((other - flat[0]).abs().max().item() for other in flat)
    return InvarianceCheck(tuple(batches), all(torch.equal(other, flat[0]) for other in flat), worst)


def draws(solver: Solver | str, process: Process | None = None, *, grid: Grid | str = "karras:10") -> DrawCheck:
    """Count the draws of noise that a solver makes after the initial state.

    Args:
        solver: the solver.
        process: the process; EDM when absent.
        grid: the grid.

    Returns:
        The number of draws, and whether a global generator was touched.
    """
    process = process or EDM()
    counted = [0]
    made: Solver = names.solver(solver)
    x: Any = torch.zeros(1, 2, dtype=torch.float64)
    condition = {"anchor": x.clone()} if process.anchored else None  # an anchor of 0, so that states need no moving

    def noise() -> Tensor:
        counted[0] += 1
        return torch.full((1, 2), 0.5, dtype=torch.float64)

    before, denoiser, memory = torch.get_rng_state(), gm4(process), Memory(noise)
    for row in made.plan(process, names.grid(grid).times(process)):
        x = made.step(x, row, lambda z, t: denoiser(z, t, condition), memory)
    sample(denoiser, 1, solver=made, grid=grid, condition=condition)
    return DrawCheck(counted[0], not torch.equal(before, torch.get_rng_state()))


def operations(
    solver: Solver | str, process: Process | None = None, *, steps: int = 10, shape: Sequence[int] = (4, 3, 8, 8)
) -> OperationCheck:
    """Count the tensor operations of a step in its steady state (the last but one of a grid).

    Args:
        solver: the solver.
        process: the process; EDM when absent.
        steps: number of steps of the grid.
        shape: shape of the state, batch first.

    Returns:
        Operations of full size, new tensors, draws and synchronisations.
    """
    made: Solver = names.solver(solver)
    process = process or EDM()
    x: Any = torch.ones(*shape)
    estimate = torch.zeros(*shape)
    memory = Memory(lambda: estimate.clone())
    count = OperationCheck(0, 0, 0, 0)
    with torch.inference_mode():
        for row in made.plan(process, names.grid(f"karras:{steps}").times(process))[:-1]:
            with _Counter(estimate.numel()) as counter:
                x = made.step(x, row, lambda z, t: estimate, memory)
            count = OperationCheck(counter.full_size, counter.allocations, counter.draws, counter.synchronisations)
    return count


class _Counter(TorchDispatchMode):
    """Counts what is dispatched while it is entered."""

    def __init__(self, numel: int) -> None:
        super().__init__()
        self.numel = numel
        self.full_size = self.allocations = self.draws = self.synchronisations = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function._schema.name.partition("::")[2]
        views = any(out.alias_info is not None and not out.alias_info.is_write for out in function._schema.returns)
        if isinstance(result, Tensor) and result.numel() >= self.numel and not views:
            self.full_size += 1
            self.allocations += not any(out.alias_info is not None for out in function._schema.returns)
        self.draws += torch.Tag.nondeterministic_seeded in function.tags
        self.synchronisations += name in ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "item")
        return result


def variance_ratio(solver: Solver | str, process: Process, times: Sequence[float], variance: float) -> float:
    """Standard deviation of a solver's samples over the exact one, for data N(0, variance): deterministic, even for a stochastic solver.

    With the exact denoiser every step is linear, so a sample is a combination of independent unit draws (the start is one); the
    state carries the coefficient of each draw in an entry of its own, and the variance is the sum of their squares.

    Args:
        solver: a solver whose steps are linear in state, estimate and noise (all but Langevin corrections with norms).
        process: the process, without an anchor.
        times: the times, first to last; sampling starts in the exact law at the first.
        variance: of the data, in squared units of the state.

    Returns:
        Sampled over exact standard deviation at the last time.

    Raises:
        NotLinear: the solver's steps are not linear.
    """
    made: Solver = names.solver(solver)
    if not made.linear:
        raise NotLinear(f"the steps of {made!r} are not linear in state, estimate and noise")
    rows = made.plan(process, Times(tuple(times)).times(process))
    width = 2 + len(rows) * (2 + made.evaluations)
    used = 1
    x: Any = torch.zeros(1, width, dtype=torch.float64)
    x[0, 0] = math.sqrt(_law(process, times[0], variance))

    def noise() -> Tensor:
        nonlocal used
        unit = torch.zeros(1, width, dtype=torch.float64)
        unit[0, used] = 1.0
        used += 1
        return unit

    def denoise(z: Any, t: Any) -> Any:
        return z * (float(process.alpha(t)) * variance / _law(process, t, variance))

    memory = Memory(noise)
    for row in rows:
        x = made.step(x, row, denoise, memory)
    return torch.linalg.vector_norm(x).item() / math.sqrt(_law(process, times[-1], variance))


def _law(process: Process, t: Any, variance: float) -> float:
    return float(process.alpha(t)) ** 2 * variance + float(process.sigma(t)) ** 2
