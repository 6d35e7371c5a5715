"""The sections of the certificate on guides, particles, inversion, discrete laws and likelihoods: each catches the fault planted for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import unstir
from unstir.certify.certificate import SECTIONS, Finding, certify
from unstir.certify.examples import example_of, parts_of
from unstir.errors import UserError
from unstir.guide import CFG, MMPS, ClassifierGuidance, EventGuidance, Guide, PiGDM, UniteAndConquer
from unstir.process import Categorical
from unstir.solver import BDIA, DDIMInversion, DiscreteAncestral, FirstHitting
from unstir.solver.base import Memory, Row
from unstir.state import combine
from unstir.steer import FK, SVDD, TDS, DataConsistency, MCGdiff, Moment, Steer, TiltedCFG

NAMES = [section.name for section in SECTIONS]


def failed(findings: Iterable[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.passed is False]


def run(name: str, part: Any) -> list[Finding]:
    return list(SECTIONS[NAMES.index(name)].run({"planted": part}, quick=True))


# ---- posterior methods


@dataclass(frozen=True, eq=False)
class Heavier(MMPS):
    """A twentieth too much of what the measurement says."""

    def estimate(self, denoiser: Any, x: Tensor, t: Any, condition: Any) -> Tensor:
        x0 = denoiser(x, t, condition)
        return x0 + 1.05 * (super().estimate(denoiser, x, t, condition) - x0)


@dataclass(frozen=True, eq=False)
class TooSure(PiGDM):
    """Forgets the noise of the measurement."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "noise", 0.0)
        super().__post_init__()


@dataclass(frozen=True, eq=False)
class Boasting(DataConsistency):
    """Says that it is exact."""

    exactness: ClassVar[str] = "exact for linear problems"


# ---- guides


@dataclass(frozen=True, eq=False)
class Stronger(ClassifierGuidance):
    """Its weight is off by a tenth."""

    def strength(self, t: Any) -> float:
        return 1.1 * self.weight


@dataclass(frozen=True, eq=False)
class Halved(EventGuidance):
    """Half the way into the event."""

    def estimate(self, denoiser: Any, x: Tensor, t: Any, condition: Any) -> Tensor:
        x0 = denoiser(x, t, condition)
        return x0 + 0.5 * (super().estimate(denoiser, x, t, condition) - x0)


@dataclass(frozen=True, eq=False)
class Twice(UniteAndConquer):
    """Counts the unconditional estimate twice."""

    def estimate(self, denoiser: Any, x: Tensor, t: Any, condition: Any) -> Tensor:
        return super().estimate(denoiser, x, t, condition) + 0.01 * denoiser(x, t, None)


@dataclass(frozen=True, eq=False)
class Unweighted(TiltedCFG):
    """Guided steps without the weights that correct them."""

    def weighted(self, x: Any, moment: Moment, log_factor: Tensor, final: bool = False) -> Any:
        return super().weighted(x, moment, 0 * log_factor, final)


@dataclass(frozen=True, eq=False)
class CoupledGuide(CFG):
    """Looks at the mean of the batch."""

    def estimate(self, denoiser: Any, x: Any, t: Any, condition: Any) -> Any:
        return super().estimate(denoiser, x, t, condition) + 1e-6 * x.mean()


@dataclass(frozen=True, eq=False)
class ByPlace(CFG):
    """Treats the first sample of a batch differently."""

    def estimate(self, denoiser: Any, x: Any, t: Any, condition: Any) -> Any:
        x0 = super().estimate(denoiser, x, t, condition).clone()
        x0[0] += 1e-6
        return x0


@dataclass(frozen=True, eq=False)
class StrayGuide(CFG):
    """Draws from the global generator."""

    def estimate(self, denoiser: Any, x: Any, t: Any, condition: Any) -> Any:
        return super().estimate(denoiser, x, t, condition) + 1e-3 * torch.randn_like(x)


# ---- particles


@dataclass(frozen=True, eq=False)
class Careless(TDS):
    """Takes its moved steps for the prior's own."""

    def after(self, x: Tensor, moment: Moment) -> Tensor:
        moved = super().after(x, moment)
        moment.memory["log_ratio"] = 0.0
        return moved


@dataclass(frozen=True, eq=False)
class Forgetful(FK):
    """Does not apply the last weights, and takes half the reward."""

    def log_potential(self, value: Tensor, moment: Moment) -> Tensor:
        return super().log_potential(0.5 * value, moment)

    def after(self, x: Any, moment: Moment) -> Any:
        return self.weighted(x, moment, torch.zeros(len(x)), final=True) if moment.last else x


@dataclass(frozen=True, eq=False)
class Narrow(MCGdiff):
    """Weighs by half of what it should."""

    def weighted(self, x: Any, moment: Moment, log_factor: Tensor, final: bool = False) -> Any:
        return super().weighted(x, moment, 0.5 * log_factor, final)


@dataclass(frozen=True, eq=False)
class Mixing(FK):
    """Resamples across problems."""

    def after(self, x: Any, moment: Moment) -> Any:
        x = super().after(x, moment)
        return x + 1e-6 * x.mean() if moment.last else x


@dataclass(frozen=True, eq=False)
class Greedy(SVDD):
    """Keeps the best of its proposals, whatever the temperature."""

    def kept(self, moment: Moment, log_weights: Tensor) -> Any:
        return super().kept(moment, 1e6 * log_weights)


# ---- solvers and likelihoods


@dataclass(frozen=True, repr=False)
class OneWay(BDIA):
    """A step and a way back that differ in one coefficient."""

    def step(self, x: Any, row: Row, model: Any, memory: Memory) -> Any:
        return combine(super().step(x, row, model, memory), 1.0 + 1e-7)


class Claiming(DDIMInversion):
    """Says that its approximate inverse is exact."""

    exact: ClassVar[bool] = True


@dataclass(frozen=True, repr=False)
class Hesitant(DiscreteAncestral):
    """Draws from a law that it does not declare."""

    def move(self, process: Any, x: Tensor, x0: Tensor, row: Row, u: Tensor) -> Tensor:
        return super().move(process, x, x0, row, u**1.1)


@dataclass(frozen=True, repr=False)
class Frozen(DiscreteAncestral):
    """Always takes the law of a step of a quarter the size."""

    def law(self, process: Categorical, x: Tensor, x0: Tensor, row: Row) -> Tensor:
        alpha_s: Any = row.alpha_s
        return process.posterior(x, x0, row.alpha_t, row.alpha_t + 0.9 * (alpha_s - row.alpha_t))  # type: ignore[arg-type,operator]


@dataclass(frozen=True, repr=False)
class Biased(FirstHitting):
    """Lifts the masks from the belief of the first state only: what was lifted on the way is not told."""

    def step(self, x: Any, row: Row, model: Any, memory: Memory) -> Any:
        return super().step(x, row, _Deaf(model), memory)


class _Deaf:
    def __init__(self, model: Any) -> None:
        self.model, self.said = model, None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def __call__(self, x: Any, t: Any) -> Any:
        self.said = self.model(x, t) if self.said is None else self.said
        return self.said


@dataclass(frozen=True, repr=False)
class CoupledJumps(DiscreteAncestral):
    """All samples of a batch share the draw of its first."""

    def move(self, process: Any, x: Tensor, x0: Tensor, row: Row, u: Tensor) -> Tensor:
        return super().move(process, x, x0, row, u[:1].expand_as(u))


def wrong_prior(*args: Any, **options: Any) -> Any:
    """Leaves out the normaliser of one coordinate."""
    found = unstir.likelihood(*args, **options)
    return replace(found, nats=found.nats + 1e-3)


def rough(*args: Any, **options: Any) -> Any:
    """Takes a wrong estimate of the divergence: a probe that is not of unit size."""
    found = unstir.likelihood(*args, **options)
    return replace(found, nats=1.01 * found.nats) if options.get("divergence") is None else found


PLANTED = [
    ("posterior", Heavier),
    ("posterior", TooSure),
    ("posterior", Boasting),
    ("guidance", Stronger),
    ("guidance", Halved),
    ("guidance", Twice),
    ("guidance", Unweighted),
    ("guide-invariance", CoupledGuide),
    ("guide-invariance", ByPlace),
    ("guide-invariance", StrayGuide),
    ("guide-invariance", Mixing),
    ("particles", Careless),
    ("particles", Forgetful),
    ("particles", Narrow),
    ("particles", Greedy),
    ("inversion", OneWay()),
    ("inversion", Claiming()),
    ("discrete", Hesitant()),
    ("discrete", Frozen()),
    ("discrete", Biased()),
    ("discrete", CoupledJumps()),
    ("likelihood", wrong_prior),
    ("likelihood", rough),
]


def told(value: Any) -> str:
    return value if isinstance(value, str) else getattr(value, "__name__", type(value).__name__)


@pytest.mark.parametrize(("name", "part"), PLANTED, ids=told)
def test_a_planted_fault_is_caught(name: str, part: Any) -> None:
    assert failed(run(name, part))


SOUND = [
    ("posterior", MMPS),
    ("posterior", PiGDM),
    ("posterior", DataConsistency),
    ("guidance", ClassifierGuidance),
    ("guidance", EventGuidance),
    ("guidance", UniteAndConquer),
    ("guidance", TiltedCFG),
    ("guide-invariance", CFG),
    ("guide-invariance", FK),
    ("particles", TDS),
    ("particles", FK),
    ("particles", MCGdiff),
    ("particles", SVDD),
    ("inversion", BDIA()),
    ("inversion", DDIMInversion()),
    ("discrete", DiscreteAncestral()),
    ("discrete", FirstHitting()),
    ("likelihood", unstir.likelihood),
]


@pytest.mark.parametrize(("name", "part"), SOUND, ids=told)
def test_the_sound_part_that_a_fault_was_planted_in_passes(name: str, part: Any) -> None:
    found = run(name, part)
    assert found
    assert not failed(found), failed(found)
    if part not in (DataConsistency, DDIMInversion()):  # which claim nothing
        assert any(finding.passed for finding in found)


class Needy(Guide):
    """A stranger's guide that nobody knows how to make."""

    exactness = "exact"

    def __init__(self, oracle_of_delphi: Any) -> None:
        raise UserError("it was not to be made")

    def estimate(self, denoiser: Any, x: Any, t: Any, condition: Any) -> Any:
        return denoiser(x, t, condition)


class Considerate(Needy):
    """A stranger's guide with an example of its own."""

    def __init__(self, oracle_of_delphi: str) -> None:
        self.said = oracle_of_delphi

    @classmethod
    def example(cls) -> Guide:
        return cls("know thyself")


def test_a_guide_without_an_example_is_a_finding_and_one_with_its_own_is_measured() -> None:
    (finding,) = run("guide-invariance", Needy)
    assert (finding.passed, finding.measured) == (None, "no example()")
    found = run("guide-invariance", Considerate)
    assert len(found) == 4
    assert all(one.passed for one in found)


def test_a_steer_that_raises_has_failed() -> None:
    class Broken(Steer):
        exactness = "exact"

        def after(self, x: Any, moment: Moment) -> Any:
            raise ValueError("the wrong day")

    found = run("guide-invariance", Broken)
    assert len(failed(found)) == 4
    assert all("the wrong day" in one.measured for one in found)


def test_every_registered_guide_and_steer_has_an_example() -> None:
    missing = [name for name, part in parts_of(("guides", "steers")).items() if example_of(part, name) is None]
    assert not missing, missing


def test_guides_are_certified_by_name() -> None:
    made = certify(["mmps"], sections=["posterior", "guide-invariance", "order"], quick=True)
    assert {finding.part for finding in made.findings} == {"mmps"}
    assert {finding.section for finding in made.findings} == {"posterior", "guide-invariance"}
    assert made.passed


def test_an_example_made_of_an_instance_is_that_instance() -> None:
    guide = CFG(1.5)
    made = example_of(guide)
    assert made is not None
    assert made.part is guide
