"""The section of the certificate about discrete and count processes: laws of samples against enumeration.

Total variation between the law that a solver's own transition probabilities carry from the prior and the exact one, at 8, 16 and 32
steps: no draw in it, and it shrinks. First hitting, which has no error of its own, is held to the frequencies of its samples.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from unstir.certify import checks
from unstir.certify.certificate import Finding, judged, registered
from unstir.certify.discrete import CountOracle, count_law, law_of, markov_source
from unstir.certify.distances import total_variation
from unstir.loop import sample
from unstir.process import Process
from unstir.process.categorical import Categorical
from unstir.process.counts import Blackout, Counts, Thinning
from unstir.process.discrete import Discrete
from unstir.solver.discrete import DiscreteSolver

_STEPS = (8, 16, 32)
_COUNT = 2000
_LEFT = 0.1  # of counts that have not yet been born again where their laws are compared: the last step is an estimate, no draw
_PMF = torch.tensor([0.30, 0.05, 0.10, 0.20, 0.15, 0.10, 0.06, 0.04], dtype=torch.float64)


def processes() -> dict[str, Process]:
    """The discrete processes: those registered, and the kinds of noise that a categorical one has."""
    known = {name: made for name, made in registered("processes").items() if isinstance(made, Discrete)}
    known |= {f"categorical, {process.noise}": process for process in _categorical()}
    return {**known, "blackout": Blackout(), "thinning": Thinning(scale=2.0)}


def _categorical() -> list[Categorical]:
    return [Categorical(3), Categorical(3, "uniform"), Categorical(3, "marginal", (0.5, 0.3, 0.2))]


def discrete(parts: Mapping[str, Any] | None, quick: bool) -> Iterator[Finding]:
    """Every discrete solver on every discrete process."""
    known = registered("solvers") if parts is None else parts
    for name, solver in known.items():
        if not isinstance(solver, DiscreteSolver):
            continue
        for on, process in processes().items():
            if solver.refuses(process) is not None:
                continue
            if hasattr(solver, "law"):
                yield judged("discrete", name, on, "total variation shrinks", functools.partial(_shrinks, solver, process))
            claim = "samples of the law it declares" if hasattr(solver, "law") else "the exact law in one step"
            yield judged("discrete", name, on, claim, functools.partial(_frequencies, solver, process, quick))
            yield judged("discrete", name, on, "finite", functools.partial(_finite, solver, process, quick))
            yield judged("discrete", name, on, "no dependence on the batch", functools.partial(_batches, solver, process))


def oracle(process: Any) -> Any:
    """The law a process is measured on: a Markov source of three letters, or independent counts."""
    return CountOracle(_PMF, process) if isinstance(process, Counts) else markov_source(process, 3)


def times(process: Any, steps: int) -> list[float]:
    """Times from all noise to data; of counts in equal steps of survival, to the level where nine in ten survive."""
    if not isinstance(process, Counts):
        return [process.t_max * (1 - i / steps) for i in range(steps + 1)]
    lost = float(process.sigma(process.t_max)) - _LEFT
    return [process.t_max, *(float(process.time_at_alpha(1 - _LEFT - lost * (1 - i / steps))) for i in range(1, steps + 1))]


def law(solver: Any, process: Any, steps: int) -> tuple[Tensor, Tensor]:
    """The law of a solver's samples and the exact one.

    Args:
        solver: one that draws entries independently given the state.
        process: categorical, or of counts.
        steps: number of steps.
    """
    exact, grid = oracle(process), times(process, steps)
    if isinstance(process, Counts):
        seen = torch.arange(len(_PMF) if isinstance(process, Blackout) else 60)  # more than there are is lost
        chances = exact.log_likelihood(seen[:, None], grid[-1], torch.arange(len(_PMF), dtype=torch.float64)).exp()
        return count_law(exact, solver, grid, len(seen)), (chances.reshape(len(seen), -1) @ _PMF)
    return law_of(exact, solver, grid), exact.law(process.t_zero)


def _shrinks(solver: Any, process: Any) -> tuple[str, bool]:
    errors = [total_variation(*law(solver, process, steps)) for steps in _STEPS]
    measured = ", ".join(f"{error:.4f}" for error in errors) + " with " + ", ".join(map(str, _STEPS)) + " steps"
    return measured, all(fine < coarse / 1.4 for coarse, fine in zip(errors, errors[1:], strict=False)) and errors[-1] < 0.1


def _frequencies(solver: Any, process: Any, quick: bool) -> tuple[str, bool]:
    steps, declared, count = 4, hasattr(solver, "law"), _COUNT if quick else 4 * _COUNT
    samples: Any = sample(oracle(process), count, solver=solver, grid=times(process, steps if declared else 1))
    if isinstance(process, Counts):
        expected, place = law(solver, process, steps)[0], samples.x[:, 0]
    else:
        expected = law(solver, process, steps)[0] if declared else oracle(process).law(process.t_zero)
        place = (samples.x * process.states ** torch.arange(2, -1, -1)).sum(-1)
    return fits(place, expected)


def fits(place: Tensor, law: Tensor) -> tuple[str, bool]:
    """Chi-square of draws against a law, over the cells with at least 5 expected: within 4 standard deviations of its mean.

    Args:
        place: which cell each draw fell into (count,), whole numbers.
        law: probabilities of the cells.
    """
    expected = law * len(place)
    found = torch.bincount(place, minlength=len(law)).double()[: len(law)]
    keep = expected > 5
    free = int(keep.sum())
    square = float(((found - expected)[keep].square() / expected[keep]).sum())
    impossible = int(found[law == 0].sum())
    return f"chi-square {square:.1f} over {free} cells, {impossible} impossible", square < free + 4 * math.sqrt(2 * free) and not impossible


def _finite(solver: Any, process: Any, quick: bool) -> tuple[str, bool]:
    counts, last = ((1, 2, 3, 5, 50) if quick else range(1, 51)), getattr(process, "categories", 1000) - 1
    for steps in counts:
        x: Any = sample(oracle(process), 3, solver=solver, grid=f"uniform:{steps}").x
        if x.is_floating_point() or not bool(((x >= 0) & (x <= last)).all()):
            return f"{steps} steps: from {x.min()} to {x.max()}", False
    return f"{len(counts)} numbers of steps", True


def _batches(solver: Any, process: Any) -> tuple[str, bool]:
    found = checks.invariance(oracle(process), count=7, batches=(7, 1, 3), solver=solver, grid=times(process, 5), seed=2)
    return "equal bits" if found.same else f"differs by {found.worst:.1e}", found.passed
