"""The section of the certificate about posterior methods: how far each ends from the exact posterior of a linear problem.

    LG3 (three unknowns, two measurements, normal data): mean, covariance and W2 of the law at the end, propagated exactly where affine;
    a linear problem with mixture data in 20 dimensions: the same of samples, told

Judged is what a class declares and nothing else: one whose ``exactness`` begins with "exact" ends within .01 of the posterior, on LG3 or on
the problem that its sentence names (``PREMISES``). The others are told, nearest first.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from unstir import names
from unstir.certify.certificate import Finding, judged
from unstir.certify.distances import normal_wasserstein
from unstir.certify.examples import parts_of
from unstir.certify.laws import linear_mixture
from unstir.certify.oracles import LinearGaussian, lg3
from unstir.certify.posterior import PosteriorCheck, is_method, method, posterior
from unstir.guide import DDNM, TMPD, PiGDM, ProximalData
from unstir.posterior.daps import DAPS, Decoupled
from unstir.steer import Projection

_LIMIT = 0.01  # MMPS, which is exact, ends at .0043 (flow) and .0019 (ancestral) in 2,000 steps
_LG3 = "LG3"


@dataclass(frozen=True)
class Premise:
    """Where a method says that it is exact.

    Attributes:
        on: in words.
        problem: that problem.
        noise: of its measurement, as the method is told.
        options: of the method, there.
        solver: that it needs there; the flow and ancestral when absent.
        seen: is it exact in what A sees only?
    """

    on: str
    problem: LinearGaussian
    noise: float = 0.3
    options: Mapping[str, Any] = field(default_factory=dict)
    solver: Any = None
    seen: bool = False


def _white(std: float, problem: LinearGaussian | None = None) -> LinearGaussian:
    """A problem with data of one variance."""
    return dataclasses.replace(problem or lg3(), prior_cov=std**2 * torch.eye(3, dtype=torch.float64))


def _apart() -> LinearGaussian:
    """Two of three independent unknowns, measured one by one."""
    return _white(0.5, dataclasses.replace(lg3(), matrix=torch.tensor([[1.0, 0, 0], [0, 2.0, 0]], dtype=torch.float64)))


def _silent() -> LinearGaussian:
    """LG3, all but without measurement noise."""
    return dataclasses.replace(lg3(), noise_cov=1e-12 * torch.eye(2, dtype=torch.float64))


PREMISES: Mapping[type, Premise] = {
    PiGDM: Premise("white data", _white(0.5), options={"std": 0.5}),
    TMPD: Premise("independent data, measured apart", _apart()),
    ProximalData: Premise("flat data, what A sees", _white(1e5), options={"iterations": 50, "tolerance": 0.0}, seen=True),
    DDNM: Premise("LG3 without noise, what A sees", _silent(), seen=True),
    Projection: Premise("LG3 without noise, what A sees", _silent(), seen=True),
    DAPS: Premise("white data", _white(0.7), options={"std": 0.7}, solver=Decoupled(1)),
}


def posterior_methods(parts: Mapping[str, Any] | None, quick: bool) -> Iterator[Finding]:
    """Every guide and steer that takes an operator and a measurement: exactness where declared, and the ranked tables."""
    known = parts_of(("guides", "steers")) if parts is None else parts
    found = {name: part for name, part in known.items() if isinstance(part, type) and is_method(part)}
    for name, part in found.items():
        if part.exactness.startswith("exact"):  # type: ignore[attr-defined]
            yield from _declared(name, part, quick)
    steps = 60 if quick else 500
    for solver in ("f3", "ancestral"):
        yield from _ranked(found, f"{_LG3}, {solver}", functools.partial(_told, solver, steps, quick))
    yield from _ranked(found, "mixture data, 20 unknowns", functools.partial(_mixture, quick))


def _declared(name: str, part: type, quick: bool) -> Iterator[Finding]:
    premise = next((own for kind, own in PREMISES.items() if issubclass(part, kind)), Premise(_LG3, lg3()))
    if getattr(part, "particles", 1) > 1:
        return  # exact as particles grow: see the section on particles
    for solver, steps in _solvers(premise, part, quick):
        on = f"{premise.on}, {solver}, {steps} steps"
        yield judged("posterior", name, on, f"W2 below {_LIMIT}", functools.partial(_exact, part, premise, solver, steps))


def _solvers(premise: Premise, part: Any, quick: bool) -> list[tuple[Any, int]]:
    """What the claim is tried with: the flow of fourth order, whose 200 steps are enough, and the chain."""
    own = premise.solver or getattr(part, "solver", None)
    if own is not None:
        return [(own, 20)]
    return [("f3", 200)] if quick else [("f3", 200), ("ddim", 2000), ("ancestral", 2000)]


def _exact(part: type, premise: Premise, solver: Any, steps: int) -> tuple[str, bool]:
    keywords = {**method(part, premise.problem, premise.noise, **premise.options), "solver": names.solver(solver)}
    found = posterior(**keywords, problem=premise.problem, steps=steps)
    mean, cov, problem = found.mean, found.cov, premise.problem
    exact = problem.posterior_mean, problem.posterior_cov
    if premise.seen:
        a = problem.matrix
        mean, cov, exact = a @ mean, a @ cov @ a.mT, (a @ exact[0], a @ exact[1] @ a.mT)
    distance = normal_wasserstein(mean, cov, *exact)
    return f"W2 {distance:.4f}, mean {float((mean - exact[0]).norm()):.1e}, cov {float((cov - exact[1]).norm()):.1e}", distance < _LIMIT


Measure = Callable[[Any], tuple[str, PosteriorCheck]]


def _ranked(found: Mapping[str, Any], on: str, measure: Measure) -> Iterator[Finding]:
    """The same measurement of all methods, nearest to the posterior first; those that do not run, last, as failures."""
    made: list[tuple[float, Finding]] = []
    for name, part in found.items():
        distance = [float("inf")]

        def told(part: Any = part, distance: list[float] = distance) -> tuple[str, None]:
            solver, check = measure(part)
            distance[0] = check.wasserstein
            how = "propagated" if check.exact else "of samples"
            return f"W2 {check.wasserstein:.4f}, mean {check.mean_error:.4f}, cov {check.cov_error:.4f}, {how}, {solver}", None

        made.append((0.0, judged("posterior", name, on, part.exactness, told)))
        made[-1] = (distance[0], made[-1][1])
    for rank, (_, finding) in enumerate(sorted(made, key=lambda one: one[0]), 1):
        yield dataclasses.replace(finding, measured=f"{rank}. {finding.measured}")


def _told(solver: str, steps: int, quick: bool, part: Any) -> tuple[str, PosteriorCheck]:
    keywords = {"solver": solver, **method(part, **_more(part))}
    own = keywords["solver"]
    return str(own), posterior(**keywords, steps=steps if own == solver else 60, count=256 if quick else 1024)


def _mixture(quick: bool, part: Any) -> tuple[str, PosteriorCheck]:
    problem = linear_mixture()
    keywords = {"solver": "f3", **method(part, problem, problem.std, **_more(part))}
    return str(keywords["solver"]), posterior(**keywords, problem=problem, steps=20 if quick else 50, count=256 if quick else 2048)


def _more(part: Any) -> dict[str, Any]:
    """What a filter needs to keep more than one line of descent: how wide the data are."""
    return {"data_std": 1.0, "particles": 64} if "data_std" in inspect.signature(part).parameters else {}
