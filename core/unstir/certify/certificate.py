"""The certificate: what every registered part declares beside what closed forms measure, a finding a line.

    finding = (section, part, on, claim, measured, passed);       passed is None where something is told, not judged

A section is a function of named parts, the registered ones when none are named, so that a stranger's part is certified the moment it
registers, and a planted fault can be handed to it.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from unstir.errors import UnknownName
from unstir.threads import one_thread


@dataclass(frozen=True)
class Finding:
    """One line of the certificate.

    Attributes:
        section: name of the section.
        part: name of the part, as registered.
        on: what it was measured on: a process, a law, a grid.
        claim: what is declared or asked for.
        measured: what was found.
        passed: does it hold? None where nothing is claimed.
        curve: points (x, y) to draw, where the finding is a curve: evaluations and error.
    """

    section: str
    part: str
    on: str
    claim: str
    measured: str
    passed: bool | None = None
    curve: tuple[tuple[float, float], ...] = ()


Check = Callable[[Mapping[str, Any] | None, bool], Iterable[Finding]]


def judged(section: str, part: str, on: str, claim: str, measure: Callable[[], tuple[str, bool | None]]) -> Finding:
    """A finding from a measurement; one that raises has failed, and what it raised is what was measured.

    Args:
        section: name of the section.
        part: name of the part.
        on: what it is measured on.
        claim: what is declared or asked for.
        measure: gives what was found, and whether the claim holds.
    """
    try:
        measured, passed = measure()
    except Exception as error:
        return Finding(section, part, on, claim, f"{type(error).__name__}: {error}", False)
    return Finding(section, part, on, claim, measured, passed)


@dataclass(frozen=True)
class Section:
    """A part of the certificate.

    Attributes:
        name: short, as ``order``.
        title: of the page.
        kind: of parts, as the registry calls them, several joined by "+", or "" where the section brings its own.
        target: ``module:function``, a :data:`Check` of (parts or None, quick).
    """

    name: str
    title: str
    kind: str
    target: str

    def run(self, parts: Mapping[str, Any] | None = None, quick: bool = False) -> Iterator[Finding]:
        """The findings about some parts, in order.

        Args:
            parts: by name; the registered ones when absent.
            quick: a smaller sample of processes, step counts and draws.
        """
        module, _, function = self.target.partition(":")
        check: Check = getattr(importlib.import_module(module), function)
        yield from check(parts, quick)


SECTIONS = (
    Section(
        "closed-forms",
        "Processes: closed forms, inverses, schedules",
        "processes",
        "unstir.certify.processes:closed_forms",
    ),
    Section("order", "Solvers: declared and measured order", "solvers", "unstir.certify.solvers:order"),
    Section("error", "Solvers: error against evaluations", "solvers", "unstir.certify.solvers:error"),
    Section("variance", "Stochastic solvers: exact variance", "solvers", "unstir.certify.stochastic:variance"),
    Section("marginals", "Stochastic solvers: distance to the exact marginals", "solvers", "unstir.certify.stochastic:marginals"),
    Section("finite", "Solvers: finite for every number of steps", "solvers", "unstir.certify.solvers:finite"),
    Section("options", "Solvers: finite for every combination of choices", "solvers", "unstir.certify.solvers:options"),
    Section("costs", "Solvers: draws, operations, synchronisations", "solvers", "unstir.certify.solvers:costs"),
    Section("invariance", "A sample depends on its seed and index alone", "solvers", "unstir.certify.invariance:invariance"),
    Section("operators", "Operators: adjoints, norms, inverses, batches", "operators", "unstir.certify.operators:operators"),
    Section("discrete", "Discrete and count processes: laws by enumeration", "solvers", "unstir.certify.discreteness:discrete"),
    Section("inversion", "Reversible solvers: round trips", "solvers", "unstir.certify.inversion:inversion"),
    Section("likelihood", "Likelihood: error in nats", "", "unstir.certify.likelihood:likelihood"),
    Section("posterior", "Posterior methods: distance to the posterior", "guides+steers", "unstir.certify.posteriors:posterior_methods"),
    Section("particles", "Particles: evidence and tilt", "steers", "unstir.certify.particles:particles"),
    Section("guidance", "Guidance: the exact tilted law on a grid", "guides+steers", "unstir.certify.guidance:guidance"),
    Section(
        "guide-invariance",
        "Guides and steers: no sample sees another",
        "guides+steers",
        "unstir.certify.strangers:guide_invariance",
    ),
)


MADE_LATER = ("guides", "steers")  # their sections are given classes, and make them for the problems they measure


@dataclass
class Certificate:
    """All findings of one run.

    Attributes:
        findings: in order.
        seconds: of each section.
    """

    findings: list[Finding] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def failures(self) -> list[Finding]:
        """The findings that contradict a declaration."""
        return [finding for finding in self.findings if finding.passed is False]

    @property
    def passed(self) -> bool:
        """Does every judged finding hold, and is there one?"""
        return not self.failures and any(finding.passed for finding in self.findings)

    def of(self, section: str) -> list[Finding]:
        """The findings of one section."""
        return [finding for finding in self.findings if finding.section == section]

    def to_dict(self) -> dict[str, Any]:
        """The certificate as plain values, for JSON."""
        return {"passed": self.passed, "seconds": self.seconds, "findings": [asdict(finding) for finding in self.findings]}


def certify(
    names: Sequence[str] = (),
    *,
    sections: Sequence[str] = (),
    quick: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> Certificate:
    """Measure what parts declare against closed forms.

    Args:
        names: of registered parts; all when empty. Sections that bring their own parts run only when it is empty.
        sections: names of sections; all when empty.
        quick: a smaller sample, within a minute.
        progress: called with (sections done, sections in all, title of the next).

    Returns:
        The certificate.

    Raises:
        UnknownName: there is no such part or section; lists the nearest three.
    """
    for name in sections:
        if name not in (known := [section.name for section in SECTIONS]):
            raise UnknownName("section", name, known)
    chosen = [section for section in SECTIONS if not sections or section.name in sections]
    with one_thread():
        return _measured(chosen, names, quick, progress)


def _measured(
    chosen: Sequence[Section], names: Sequence[str], quick: bool, progress: Callable[[int, int, str], None] | None
) -> Certificate:
    parts = _parts(names) if names else None
    made = Certificate()
    for done, section in enumerate(chosen):
        own = None if parts is None else {name: part for kind in section.kind.split("+") for name, part in parts.get(kind, {}).items()}
        if progress:
            progress(done, len(chosen), section.title)
        if own == {}:
            continue
        begin = time.perf_counter()
        made.findings.extend(section.run(own, quick))
        made.seconds[section.name] = round(time.perf_counter() - begin, 2)
    if progress:
        progress(len(chosen), len(chosen), "")
    return made


def registered(kind: str) -> dict[str, Any]:
    """Every registered part of a kind that can be made without being told more, or makes an example of itself.

    Args:
        kind: as the registry calls it, ``"solvers"``.
    """
    from unstir import registry

    return {name: made for name in registry.names(kind) if (made := example(kind, name)) is not None}


def example(kind: str, name: str) -> Any:
    """The part that a name stands for, of its defaults or its own ``example()``; None where neither makes one.

    Args:
        kind: as the registry calls it.
        name: registered.
    """
    from unstir import names as short
    from unstir import registry

    if kind == "solvers" and name in short.known("solver"):
        return short.solver(name)
    made = registry.resolve(kind, name)
    if hasattr(made, "example"):
        return made.example()
    try:
        return made()
    except TypeError:
        return None


def _parts(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    from unstir import registry

    kinds = [kind for kind in dict.fromkeys(kind for section in SECTIONS for kind in section.kind.split("+")) if kind]
    found: dict[str, dict[str, Any]] = {kind: {} for kind in kinds}
    for name in names:
        own = [kind for kind in kinds if name in registry.names(kind)]
        if not own:
            raise UnknownName("part", name, [known for kind in kinds for known in registry.names(kind)])
        for kind in own:
            found[kind][name] = registry.resolve(kind, name) if kind in MADE_LATER else example(kind, name)
    return found
