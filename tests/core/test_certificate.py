"""The certificate: every registered part passes, and every check catches the fault planted for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from unstir.certify.certificate import SECTIONS, Certificate, Finding, certify, example
from unstir.certify.solvers import error_at
from unstir.errors import UnknownName
from unstir.process import EDM, VP
from unstir.solver import DDIM
from unstir.solver.base import Levels, Memory, Row
from unstir.state import combine

NAMES = [section.name for section in SECTIONS]
WHOLE = ("closed-forms", "order", "invariance")  # on every process; the others on the sample of --quick, for time


def section(name: str) -> Any:
    return SECTIONS[NAMES.index(name)]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_registered_part_keeps_what_it_declares(name: str) -> None:
    made = certify(sections=[name], quick=name not in WHOLE)
    assert made.findings
    assert not made.failures, made.failures[:5]


def failed(findings: Iterable[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.passed is False]


@dataclass(frozen=True, repr=False)
class WrongWeight(DDIM):
    """A coefficient off by a part in a thousand: the error no longer falls with the steps."""

    def coefficients(self, levels: Levels) -> list[tuple[float, ...]]:
        return [(a, b * 1.001, d) for a, b, d in super().coefficients(levels)]


@dataclass(frozen=True, repr=False)
class TooNoisy(DDIM):
    """Ancestral noise divided by the square root of two, as one library draws it."""

    eta: float = 1.0

    def coefficients(self, levels: Levels) -> list[tuple[float, ...]]:
        return [(a, b, d / 2**0.5) for a, b, d in super().coefficients(levels)]


@dataclass(frozen=True, repr=False)
class Coupled(DDIM):
    """Looks at the whole batch: its samples depend on their neighbours."""

    def step(self, x: Any, row: Row, model: Any, memory: Memory) -> Any:
        x = super().step(x, row, model, memory)
        return combine(x, 1.0 + 1e-6 * float(x.mean()))


@dataclass(frozen=True, repr=False)
class Stray(DDIM):
    """Draws from the global generator and multiplies by zero."""

    def step(self, x: Any, row: Row, model: Any, memory: Memory) -> Any:
        return super().step(x, row, model, memory) + 0 * torch.randn_like(x)


@dataclass(frozen=True, repr=False)
class Reading(DDIM):
    """Reads a value back to the host at every step."""

    def step(self, x: Any, row: Row, model: Any, memory: Memory) -> Any:
        assert float(x.abs().max()) >= 0
        return super().step(x, row, model, memory)


@dataclass(frozen=True, repr=False)
class Seedless(DDIM):
    """A stochastic solver that ignores its seed."""

    eta: float = 1.0

    def step(self, x: Any, row: Row, model: Any, memory: Memory) -> Any:
        return super().step(0 * x + 1, row, model, Memory(lambda: torch.ones_like(x)))


@dataclass(frozen=True, repr=False)
class Singular(DDIM):
    """Divides zero by zero on a grid of 3 steps only."""

    def coefficients(self, levels: Levels) -> list[tuple[float, ...]]:
        rows = super().coefficients(levels)
        return [tuple(float("nan") for _ in row) for row in rows] if len(rows) == 3 else rows


@dataclass(frozen=True, repr=False)
class Untried(DDIM):
    """One of its choices was never run."""

    kind: Literal["variance", "dds"] = "variance"
    careful: bool = True

    def coefficients(self, levels: Levels) -> list[tuple[float, ...]]:
        rows = super().coefficients(levels)
        return rows if self.careful or self.kind == "variance" else [(float("nan"), b, d) for _, b, d in rows]


@dataclass(frozen=True)
class WrongRate(VP):
    """Its closed form of f is off by one per cent."""

    def rate(self, t: Any) -> Tensor:
        return 1.01 * super().rate(t)


@dataclass(frozen=True)
class WrongInverse(EDM):
    """Its inverse is not one."""

    def time_at_rho(self, rho: Any) -> Tensor:
        return 1.001 * torch.as_tensor(rho, dtype=torch.float64)


PLANTED = [
    ("order", WrongWeight()),
    ("finite", Singular()),
    ("options", Untried()),
    ("costs", Stray()),
    ("costs", Reading()),
    ("variance", TooNoisy()),
    ("marginals", TooNoisy()),
    ("invariance", Coupled()),
    ("invariance", Seedless()),
    ("closed-forms", WrongRate()),
    ("closed-forms", WrongInverse()),
]


@pytest.mark.parametrize(("name", "part"), PLANTED, ids=lambda value: value if isinstance(value, str) else type(value).__name__)
def test_a_planted_fault_is_caught(name: str, part: Any) -> None:
    assert failed(section(name).run({"planted": part}, quick=True))


@pytest.mark.parametrize("name", ["order", "finite", "options", "costs", "variance", "marginals", "invariance"])
def test_the_sound_solver_that_the_faults_were_planted_in_passes(name: str) -> None:
    part = DDIM(eta=1.0) if name in ("variance", "marginals") else DDIM()
    found = list(section(name).run({"sound": part}, quick=True))
    assert any(finding.passed for finding in found)
    assert not failed(found), failed(found)


def test_a_certificate_without_a_judged_finding_does_not_pass() -> None:
    assert not Certificate().passed
    assert not Certificate([Finding("order", "a", "b", "c", "d")]).passed
    assert Certificate([Finding("order", "a", "b", "c", "d", True)]).passed


def test_one_part_is_certified_by_its_name() -> None:
    made = certify(["heun"], sections=["order", "costs"], quick=True)
    assert {finding.part for finding in made.findings} == {"heun"}
    assert made.passed
    with pytest.raises(UnknownName, match="heun"):
        certify(["huen"])
    with pytest.raises(UnknownName, match="order"):
        certify(sections=["oder"])


def test_the_error_of_the_certificate_is_that_of_the_published_table() -> None:
    """The row DDIM, uniform in log sigma, 20 evaluations: .0763 over 512 points; 128 of them give it to a tenth."""
    assert error_at(example("solvers", "ddim"), EDM(), 20) == pytest.approx(0.0763, rel=0.1)
