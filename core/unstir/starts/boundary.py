"""Optimal boundary conditions: one start for all inputs of a conditional flow, chosen on calibration items.

    x_T* = argmin over K draws of  mean_i error(flow(x_T; y_i), truth_i)

With a deterministic solver every input then has one answer, the same at each repeat.
Reference: Ma et al. 2023, arXiv:2305.15357.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from unstir import names
from unstir.denoiser import Denoiser
from unstir.errors import UserError
from unstir.loop import sample
from unstir.noise import NoiseSource


@dataclass(frozen=True, eq=False)
class Boundary:
    """A start chosen among draws.

    Attributes:
        state: x_T (1, *shape): one row for all samples.
        t: its time.
        errors: mean calibration error of every draw (candidates,).
    """

    state: Tensor
    t: float
    errors: Tensor = field(repr=False)

    @property
    def start(self) -> tuple[Tensor, float]:
        """``(state, t)``, for ``start``."""
        return self.state, self.t


def squared_error(x: Tensor, truth: Tensor) -> Tensor:
    """The mean square over the entries of each item, (items,)."""
    return (x - truth).square().flatten(1).mean(1)


def optimal_boundary(
    denoiser: Denoiser,
    truths: Tensor,
    condition: Mapping[str, Any] | None,
    *,
    candidates: int = 64,
    error: Callable[[Tensor, Tensor], Tensor] = squared_error,
    solver: Any = "dpm++2m",
    grid: Any = "karras:20",
    guides: Sequence[Any] = (),
    seed: int = 0,
) -> Boundary:
    """The draw of the prior from which the flow restores calibration items best.

    It lowers the mean error over inputs and gives up the spread of answers: not a draw of the conditional law.

    Args:
        denoiser: conditional or guided, on a process whose prior needs no anchor.
        truths: calibration items (items, *shape), in units of the state.
        condition: their measurements, one row an item.
        candidates: number of draws K; each costs one run over all items.
        error: gives one number an item from restored states and truths.
        solver: a deterministic solver.
        grid: of the runs.
        guides: of the runs.
        seed: of the draws.

    Returns:
        The best draw, with all errors.

    Raises:
        UserError: the solver draws noise, or there is no candidate or no item.
    """
    made = names.solver(solver)
    if made.stochastic:
        raise UserError(f"one start gives one answer only by a deterministic solver, and {made!r} draws noise")
    if candidates < 1 or len(truths) < 1:
        raise UserError(f"a start is chosen among at least 1 candidate on at least 1 item, got {candidates} and {len(truths)}")
    times = names.grid(grid).times(denoiser.process)
    mean, std = denoiser.process.prior(None, times[0])
    drawn = mean + std * NoiseSource(seed, range(candidates)).draw(tuple(truths.shape[1:]), truths.dtype, truths.device, "start")
    errors = []
    for x in drawn:
        run = sample(
            denoiser, len(truths), solver=made, grid=grid, guides=guides, condition=condition, start=(x[None], times[0]), seed=seed
        )
        errors.append(error(run.x, truths).mean())  # type: ignore[arg-type]
    every = torch.stack(errors)
    best = int(every.argmin())
    return Boundary(drawn[best : best + 1].clone(), times[0], every)
