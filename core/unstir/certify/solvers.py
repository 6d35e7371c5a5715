"""Sections of the certificate about solvers: order, error, finiteness, costs.

order       log2 of the ratio of median errors of N and 2 N steps on GM4, sigma/alpha from 2 to 0.1, against the exact flow
error       median error on GM4 from the noisiest to the cleanest level of a process, at 5, 10, 20 and 50 evaluations
finite      every number of steps from 1 to 50 on every kind of grid, to sigma = 0 and not
costs       draws, full-size operations, new tensors and synchronisations of one step
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import typing
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from functools import lru_cache
from typing import Any

import torch

from unstir.certify import checks
from unstir.certify.certificate import Finding, judged, registered
from unstir.certify.oracles import gm4, gm4_points
from unstir.errors import UserError
from unstir.grid import LogSNR
from unstir.loop import sample
from unstir.process import EDM, Joint, Process
from unstir.solver import Solver

NFE = (5, 10, 20, 50)
_QUICK = ("edm", "vp", "sb-ve")
_LOWEST, _HIGHEST = 0.002, 80.0


def continuous(quick: bool = False) -> dict[str, Process]:
    """The registered processes of real tensors that have one noise level for all coordinates, by name."""
    known = {name: made for name, made in registered("processes").items() if not quick or name in _QUICK}
    return {name: made for name, made in known.items() if not isinstance(made, Joint) and not made.discrete and made.scalar}


def refusal(solver: Solver, process: Process) -> str | None:
    """Why a solver does not run on a process, as it says itself or when a plan is asked of it; None where it runs."""
    try:
        solver.plan(process, LogSNR(4, to_zero=False).times(process))
    except UserError as error:
        return str(error)
    except Exception:
        return None  # a fault, which the measurement will show
    return None


def order(parts: Mapping[str, Solver] | None, quick: bool) -> Iterator[Finding]:
    """The measured order of every deterministic solver with fixed steps, on every continuous process."""
    for name, solver in _deterministic(parts).items():
        if solver.adaptive:
            yield judged("order", name, "edm", "error as asked", functools.partial(_tolerance, solver))
            continue
        for on, process in continuous(quick).items():
            if refusal(solver, process) is None:
                claim = f"order {solver.order}" if solver.order else "no order"
                yield judged("order", name, on, claim, functools.partial(_order, solver, process))


def _order(solver: Solver, process: Process) -> tuple[str, bool | None]:
    """With 128 and 256 steps; with twice and four times as many where these have not settled yet."""
    for steps in ((128, 256), (256, 512), (512, 1024)):
        found = checks.order(solver, process, steps=steps, points=32)
        if found.passed or solver.order == 0:
            break
    measured = f"{found.measured:.2f}, error {found.errors[-1]:.1e} at {found.steps[-1]} steps"
    return measured, found.passed if solver.order else None


def _tolerance(solver: Any) -> tuple[str, bool]:
    """An adaptive solver keeps its error near what it was asked for: a hundred local errors may add up."""
    found = checks.order(solver, EDM(), steps=(1, 2), points=32).errors[-1]
    return f"{found:.1e}, tolerance {solver.tolerance:.0e}", found <= 100 * solver.tolerance


def error(parts: Mapping[str, Solver] | None, quick: bool) -> Iterator[Finding]:
    """The error of every deterministic solver at 5, 10, 20 and 50 evaluations; told, not judged."""
    for name, solver in _deterministic(parts).items():
        for on, process in continuous(quick).items():
            if not solver.adaptive and refusal(solver, process) is None:
                yield _curve(name, solver, on, process)


def _curve(name: str, solver: Solver, on: str, process: Process) -> Finding:
    points = [nfe for nfe in NFE if nfe >= solver.evaluations]
    claim = "error at " + ", ".join(map(str, points))
    curve: list[tuple[float, float]] = []

    def measure() -> tuple[str, None]:
        curve.extend((float(nfe), error_at(solver, process, nfe)) for nfe in points)
        return ", ".join(f"{y:.3g}" for _, y in curve), None

    return replace(judged("error", name, on, claim, measure), curve=tuple(curve))


def error_at(solver: Solver, process: Process, nfe: int, points: int = 128) -> float:
    """The median error of x/alpha on GM4 with at most ``nfe`` evaluations, on levels uniform in log sigma/alpha.

    Args:
        solver: a deterministic solver.
        process: a continuous process; the levels are its own, within 80 and 0.002.
        nfe: number of evaluations.
        points: number of start points.

    Returns:
        The median of the 2-norm over the points.
    """
    high = min(_HIGHEST, 0.99 * float(process.rho(process.t_max)))
    low = max(_LOWEST, 1.01 * float(process.rho(max(process.t_min, process.t_zero))))
    bar, exact = _flow(high, low, points)
    begin = float(process.time_at_rho(high))
    anchor = torch.tensor([[0.3, -0.2]], dtype=torch.float64)
    x = float(process.alpha(begin)) * bar + float(process.beta(begin)) * anchor
    grid = LogSNR(max(nfe // solver.evaluations, 1), sigma_max=high, sigma_min=low, to_zero=False)
    condition = {"anchor": anchor} if process.anchored else None
    made: Any = sample(gm4(process), points, solver=solver, grid=grid, start=(x, begin), condition=condition)
    end = made.times[-1]
    found = (made.x - float(process.beta(end)) * anchor) / float(process.alpha(end))
    return torch.linalg.vector_norm(found - exact, dim=1).median().item()


@lru_cache(maxsize=32)
def _flow(high: float, low: float, points: int) -> tuple[torch.Tensor, torch.Tensor]:
    x = gm4_points(high, points)
    return x, gm4().transport(x, high, low, steps=1500)


def finite(parts: Mapping[str, Solver] | None, quick: bool) -> Iterator[Finding]:
    """Whether every solver stays finite on every continuous process, for every number of steps and every kind of grid."""
    counts = (1, 2, 3, 50) if quick else range(1, 51)
    for name, solver in _all(parts).items():
        for on, process in continuous(quick).items():
            if refusal(solver, process) is not None:
                continue
            grids = [f"karras:{n}" for n in counts] + [f"uniform:{n}" for n in counts if quick or n % 7 == 1]
            ends = (2, 9) if quick else (2, 3, 9)
            grids += [f"{kind}:{n},to_zero=false" for kind in ("karras", "log-snr", "quadratic") for n in ends]
            yield judged("finite", name, on, "finite", functools.partial(_finite, solver, process, grids))


def _finite(solver: Solver, process: Process, grids: list[str]) -> tuple[str, bool]:
    found = checks.finite(solver, process, grids, count=2)
    return f"{found.runs} grids" if found.passed else f"{len(found.failures)} of {found.runs} fail: {found.failures[0]}", found.passed


def costs(parts: Mapping[str, Solver] | None, quick: bool) -> Iterator[Finding]:
    """What one step costs beside the denoiser, and that a deterministic solver draws nothing."""
    for name, solver in _all(parts).items():
        claim = "draws keyed noise" if solver.stochastic else "draws nothing"
        yield judged("costs", name, "karras:10", claim, functools.partial(_draws, solver))
        yield judged("costs", name, "a step", "no synchronisation", functools.partial(_operations, solver))


def _draws(solver: Solver) -> tuple[str, bool]:
    drawn = checks.draws(solver)
    touched = ", and touched a global generator" if drawn.touched else ""
    return f"{drawn.draws} draws{touched}", not drawn.touched and (solver.stochastic or drawn.draws == 0)


def _operations(solver: Solver) -> tuple[str, bool | None]:
    found = checks.operations(solver)
    measured = f"{found.full_size} operations, {found.allocations} new tensors, {found.synchronisations} synchronisations"
    holds = found.synchronisations == 0 and found.draws == 0
    return measured, holds or (None if solver.adaptive else False)


def _all(parts: Mapping[str, Solver] | None) -> Mapping[str, Solver]:
    known = registered("solvers") if parts is None else parts
    return {name: solver for name, solver in known.items() if refusal(solver, EDM()) is None}


def _deterministic(parts: Mapping[str, Solver] | None) -> dict[str, Solver]:
    return {name: solver for name, solver in _all(parts).items() if not solver.stochastic}


def options(parts: Mapping[str, Solver] | None, quick: bool) -> Iterator[Finding]:
    """Whether every solver class stays finite for every combination of its choices (options of ``Literal`` and ``bool``)."""
    processes = continuous(quick)
    classes: dict[type[Solver], str] = {}
    for name, solver in _all(parts).items():
        classes.setdefault(type(solver), name)
    for made, name in classes.items():
        variants = choices(made)
        if len(variants) > 1:
            yield judged(
                "options", name, f"{len(variants)} combinations", "finite", functools.partial(_choices, variants, processes, quick)
            )


def choices(made: type[Solver]) -> list[Solver]:
    """A solver of a class for every combination of its options that are choices, but for those that the class refuses.

    Args:
        made: the class.
    """
    hints = typing.get_type_hints(made)
    taken: dict[str, tuple[Any, ...]] = {}
    for own in fields(made):  # type: ignore[arg-type]
        if typing.get_origin(hints[own.name]) is typing.Literal:
            taken[own.name] = typing.get_args(hints[own.name])
        elif hints[own.name] is bool:
            taken[own.name] = (True, False)
    found = []
    for values in itertools.product(*taken.values()):
        with contextlib.suppress(UserError, TypeError):
            found.append(made(**dict(zip(taken, values, strict=True))))
    return found


def _choices(variants: list[Solver], processes: Mapping[str, Process], quick: bool) -> tuple[str, bool]:
    grids = [f"karras:{n}" for n in ((1, 3) if quick else (1, 2, 3, 4, 7, 20))] + ["log-snr:5,to_zero=false"]
    runs = 0
    failures: list[str] = []
    for solver in variants:
        for process in processes.values():
            if refusal(solver, process) is None:
                found = checks.finite(solver, process, grids, count=1)
                runs, failures = runs + found.runs, [*failures, *found.failures]
    return f"{runs} runs" if not failures else f"{len(failures)} of {runs} fail: {failures[0]}", not failures
