"""The gradient of a loss on samples with respect to the noise they began with, in memory that does not grow with the steps.

    g_t = (d step/d(x_t, memory_t))^T g_s,      each state found again by the reversible solver's ``back`` instead of being kept

Exact for the solver's own map: what automatic differentiation through all its steps gives, for a third evaluation of each step.

Reference: Blasingame & Liu 2025, arXiv:2502.08834; McCallum & Foster 2024, arXiv:2410.11648.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from unstir import names
from unstir.errors import UserError
from unstir.evaluation import Evaluation, check_like
from unstir.inversion import draw_number
from unstir.solver.base import Memory, Row
from unstir.solver.reversible import Reversible, every
from unstir.start import cut, times_of
from unstir.state import State, clone, leaves, map_state

if TYPE_CHECKING:
    from unstir.denoiser import Denoiser
    from unstir.solver import Solver

_TWINS = ("partner", "previous")  # what a solver's memory carries of a state, and not of an evaluation


def pulled_back(
    denoiser: Denoiser,
    start: tuple[State, Any],
    cotangent: Callable[[State], State],
    *,
    solver: Solver | str = "reversible-heun",
    grid: Any = "karras:20",
    condition: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> tuple[State, State]:
    """Sample from a noisy state, and pull the gradient of a loss back to it.

    Args:
        denoiser: the model; it must give gradients.
        start: ``(state, t)``, the state ``(batch, *shape)``.
        cotangent: of the samples, gives the gradient of the loss with respect to them, of their structure and shape.
        solver: an exactly reversible solver whose memory is states: BDIA, EDICT, reversible Heun or SDE.
        grid: a grid, its short name, or the times; cut at t.
        condition: what the denoiser is conditioned on, one row a sample or one for all.
        seed: of the noise of a stochastic solver, as for ``sample``.

    Returns:
        The samples, as ``sample`` gives them, and the gradient with respect to the starting state.

    Raises:
        UserError: the solver is not exactly reversible, or a gradient does not fit.
    """
    made: Any = names.solver(solver)
    if not isinstance(made, Reversible) or not made.exact or "noise" in made.travels:
        raise UserError(f"gradients are pulled back along exactly reversible solvers such as 'reversible-heun', not {made!r}")
    rows: list[Row] = made.plan(denoiser.process, cut(times_of(names.grid(grid), denoiser.process), start[1]))
    anchored = Evaluation(denoiser, denoiser.process, condition)
    draws = [sum(made.draws(row) for row in rows[:i]) for i in range(len(rows))]

    def model(z: State, t: Any) -> State:  # steps write over their states, which a graph still needs
        return denoiser.space.project(denoiser(anchored.with_anchor(clone(z), t), t, condition), condition)  # type: ignore[arg-type]

    def memory(row: Row, like: State, known: Mapping[Any, Any]) -> Memory:
        return Memory(lambda: draw_number(denoiser, draws[row.index], like, range(leaves(like)[0].shape[0]), seed, condition), None, known)

    with torch.no_grad():
        first = map_state(torch.Tensor.detach, anchored.with_anchor(clone(start[0]), rows[0].t, -1.0))
        known: dict[Any, Any] = {}
        x, before = clone(first), None
        for row in rows:
            if not every(row.sigma_s):  # the last step, which has no inverse
                before = clone(x), _copied(known)
            own = memory(row, x, known)
            x, known = made.step(x, row, model, own), dict(own)
        samples = anchored.with_anchor(clone(x), rows[-1].s)
        gradient: dict[Any, State] = {"x": cotangent(samples)}
        check_like(gradient["x"], samples, "the cotangent")
        for row in reversed(rows):
            if row.index == 0:
                x, known = clone(first), {}
            elif not every(row.sigma_s) and before:
                x, known = before
            else:
                own = memory(row, x, known)
                x, known = made.back(x, row, model, own), dict(own)
            gradient = _pull(made, row, x, {name: known[name] for name in _TWINS if name in known}, gradient, model, memory)
    return samples, gradient["x"]


def _pull(
    solver: Reversible,
    row: Row,
    x: State,
    twins: dict[Any, State],
    gradient: dict[Any, State],
    model: Callable[[State, Any], State],
    memory: Callable[[Row, State, Mapping[Any, Any]], Memory],
) -> dict[Any, State]:
    """The gradient before a step from that after it: of the state, and of its twins in the memory."""
    with torch.enable_grad():
        inputs: dict[Any, State] = {name: map_state(_leaf, state) for name, state in {"x": x, **twins}.items()}
        own = memory(row, x, {name: clone(inputs[name]) for name in twins})
        after = solver.step(clone(inputs["x"]), row, model, own)
        outputs = {name: own.get(name, after) if name != "x" else after for name in gradient}  # a twin not yet there begins as the state
        wanted = [leaf for state in inputs.values() for leaf in leaves(state)]
        results, weights = ([leaf for name in gradient for leaf in leaves(of[name])] for of in (outputs, gradient))
        found = iter(torch.autograd.grad(results, wanted, weights, allow_unused=True))
    return {name: map_state(lambda leaf: _or_zero(next(found), leaf), s) for name, s in inputs.items()}


def _leaf(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().clone().requires_grad_()


def _or_zero(gradient: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(like) if gradient is None else gradient


def _copied(known: Mapping[Any, Any]) -> dict[Any, Any]:
    return {name: clone(known[name]) for name in _TWINS if name in known}
