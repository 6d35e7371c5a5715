"""The section of the certificate about what a guided sample may depend on: not its batch, its chunk or its neighbours.

    problem i alone = problem i in a batch of any size, in any order = problem i beside others with other starts and conditions

A problem is a sample, or the particles of one. Every registered guide and steer takes part; one that no example can be made of is told.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from unstir import names
from unstir.certify.certificate import Finding, judged
from unstir.certify.examples import GRID, Example, example_of, parts_of
from unstir.evaluation import Evaluation
from unstir.loop import sample
from unstir.noise import NoiseSource
from unstir.solver import Memory
from unstir.start import first_state, noise_for, times_of
from unstir.state import leaves, map_state
from unstir.steering import Steering

_PROBLEMS = 5
_ORDER = (2, 4, 0, 3, 1)
_KEPT = 1  # the problem whose neighbours change
_ROUNDING = 1e-10  # of sums in another order; a sample that sees its neighbours differs by far more


def guide_invariance(parts: Mapping[str, Any] | None, quick: bool) -> Iterator[Finding]:
    """Every guide and steer, in batches of several sizes, beside other neighbours, and with other seeds."""
    for name, part in (parts_of(("guides", "steers")) if parts is None else parts).items():
        try:
            found = example_of(part, name)
        except Exception as error:
            yield Finding("guide-invariance", name, "its example", "can be made", f"{type(error).__name__}: {error}", False)
            continue
        if found is None:
            yield Finding("guide-invariance", name, "its example", "can be made", "no example()", None)
            continue
        checks: dict[str, Callable[[Example], tuple[str, bool]]] = {
            "batches of 5, 1 and 2": _batches,
            "problems in another order": _order,
            "other neighbours": _neighbours,
            "seeds 1, 1, 2": _seeds,
        }
        for on, check in checks.items():
            yield judged("guide-invariance", name, on, "a problem is by itself", functools.partial(check, found))


def _run(made: Example, seed: int = 1, problems: int = _PROBLEMS, labels: tuple[int, ...] = (0, 1, 1, 0, 1), **options: Any) -> Any:
    """Samples of an example, each problem with a class."""
    condition = {"class": torch.tensor(labels[:problems]).repeat_interleave(made.particles)}
    given = {"grid": "uniform:6" if made.denoiser.process.discrete else GRID, "seed": seed, "condition": condition}
    return sample(made.denoiser, problems * made.particles, **{**given, **made.options, **options}).x


def _off(a: Any, b: Any) -> float:
    return max(float((p.double() - q.double()).abs().max()) for p, q in zip(leaves(a), leaves(b), strict=True))


def _verdict(off: float) -> tuple[str, bool]:
    return "equal bits" if off == 0 else f"differs by {off:.1e}", off < _ROUNDING


def _batches(made: Example) -> tuple[str, bool]:
    whole = _run(made)
    return _verdict(max(_off(whole, _run(made, batch=size * made.particles)) for size in (1, 2)))


def _order(made: Example) -> tuple[str, bool]:
    places = torch.arange(_PROBLEMS * made.particles).view(_PROBLEMS, -1)
    straight, mixed = _walked(made, places), _walked(made, places[list(_ORDER)])
    return _verdict(_off(map_state(lambda leaf: leaf[places[list(_ORDER)].flatten()], straight), mixed))


def _walked(made: Example, places: Tensor) -> Any:
    """Samples in the order of their numbers (problems, particles): the loop of ``sample`` with its noise keyed by these."""
    denoiser, process, options = made.denoiser, made.denoiser.process, made.options
    condition = {"class": (places // made.particles % 2).flatten()}
    solver, noise = names.solver(options["solver"]), NoiseSource(1, places.flatten().tolist())
    times = times_of(names.grid("uniform:6" if process.discrete else GRID), process)
    rows, guided = solver.plan(process, times), denoiser
    for guide in options["guides"]:
        guided = guide.planned(rows).wrap(guided)
    model, like = Evaluation(guided, process, condition), torch.zeros((), dtype=torch.float64)
    with torch.no_grad():
        x = first_state(denoiser, model, noise, times, like, len(noise), None)
        shape = map_state(lambda leaf: tuple(leaf.shape[1:]), x)
        memory = Memory(lambda: noise_for(denoiser, noise, shape, like, condition), noise)
        steering = Steering(options.get("steers", ()), denoiser, model, noise, memory, solver.stochastic)
        for row in rows:
            model.step, last = row.index, row is rows[-1]
            x = steering.after(solver.step(steering.before(x, row, last), row, model, memory), row, last)
    return x


def _neighbours(made: Example) -> tuple[str, bool]:
    first, other = (_start(made, seed) for seed in (0, 1))
    here = slice(_KEPT * made.particles, (_KEPT + 1) * made.particles)

    def mixed(kept: Tensor, new: Tensor) -> Tensor:
        return torch.cat([new[: here.start], kept[here], new[here.stop :]])

    time = 1.0 if made.denoiser.process.discrete else float(made.denoiser.process.time_at_rho(20.0))
    before, after = _run(made, start=(first, time)), _run(made, labels=(1, 1, 0, 1, 0), start=(map_state(mixed, first, other), time))
    near, far = (_off(*(map_state(lambda leaf, rows=rows: leaf[rows], x) for x in (before, after))) for rows in (here, slice(None)))
    if far == 0:
        return "other starts changed nothing", False
    return _verdict(near)


def _start(made: Example, seed: int) -> Any:
    """States at the first time: of pure noise, or tokens (all masked, or all 0)."""
    denoiser, process, count = made.denoiser, cast(Any, made.denoiser.process), _PROBLEMS * made.particles
    generator = torch.Generator().manual_seed(seed)

    def drawn(shape: tuple[int, ...]) -> Tensor:
        if process.discrete:
            return torch.full((count, *shape), 0 if seed else process.states - 1)
        return 20 * torch.randn(count, *shape, generator=generator, dtype=torch.float64)

    return {leaf: drawn(shape) for leaf, shape in denoiser.shape.items()} if isinstance(denoiser.shape, dict) else drawn(denoiser.shape)


def _seeds(made: Example) -> tuple[str, bool]:
    first, again, other = (_run(made, seed) for seed in (1, 1, 2))
    distinct = _off(first, again) == 0 and _off(first, other) > 0
    return "equal, equal, another" if distinct else "not so", distinct
