"""Multistep consistency sampling with virtual inversion: editing a known state without inverting it.

    x_s = alpha_s x0' + sigma_s z,       x0' = D(x_t, target) + y - D(y_t, source),       y_t = alpha_t y + sigma_t eps

y is the known clean state and y_t it made noisy by the very noise of x_t, so that no trajectory of y is ever needed. What the two
conditions agree on stays: with target = source the result is y. (Consistency sampling by itself is ``DDIM(eta=1, kind="dds")``.)
Reference: Xu et al. 2024 (InfEdit, DDCM), arXiv:2312.04965, algorithm 2, written in terms of x0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from unstir.errors import UserError
from unstir.solver.ancestral import DDIM
from unstir.solver.base import Levels, Memory, Model, Row, Solver, add_noise
from unstir.state import State, clone, combine, nonzero

_PLAIN = DDIM(eta=1.0, kind="dds")


@dataclass(frozen=True, repr=False)
class VirtualInversion(Solver):
    """Consistency sampling that edits a known state: two evaluations a step.

    Begin at pure noise, or at a lower level from ``y`` made noisy: ``start=(process.perturb(y, t, noise), t)``. The ``condition`` of the
    run is the target. Exact where target and source agree (the result is y); otherwise an edit, not a draw of a law.

    Args:
        source: the entry of the condition that holds y (batch or 1, *shape), in units of the state; without a name nothing is edited and
            this is consistency sampling.
        source_condition: the entry of the condition with the source's own condition, a dict like the target's; without a condition when
            there is no such entry.
    """

    order: ClassVar[int] = 0  # it does not tend to the law
    source: str | None = None
    source_condition: str = "source_condition"

    @property
    def evaluations(self) -> int:  # type: ignore[override]
        """Two a step where something is edited."""
        return 1 if self.source is None else 2

    @property
    def stochastic(self) -> bool:
        """Always draws noise."""
        return True

    def coefficients(self, levels: Levels) -> list[tuple[float, ...]]:
        """``(a, b, d, alpha_t)``: those of consistency sampling (a is 0), and the scale of the data at t."""
        return [(*c, alpha) for c, alpha in zip(_PLAIN.coefficients(levels), levels.alpha[:-1], strict=True)]

    def step(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """Estimate both, carry the difference over to y, and add fresh noise."""
        a, b, d, alpha = row.c
        x0 = model(x, row.t)
        if self.source is not None:
            x0 = self._edited(x, x0, alpha, row, model, memory)
            memory["edited"] = clone(x0)
        return add_noise(combine(x, a, (b, x0)), d, memory)

    def _edited(self, x: State, x0: State, alpha: Any, row: Row, model: Any, memory: Memory) -> State:
        known = _known(model.condition, str(self.source), x)
        noisy = clone(x)
        if "edited" in memory and nonzero(alpha):
            less = {leaf: -c for leaf, c in alpha.items()} if isinstance(alpha, dict) else -alpha
            combine(noisy, 1.0, (less, memory["edited"]), (alpha, known))
        own = model.condition.get(self.source_condition)
        believed = model.denoiser(model.with_anchor(noisy, row.t), row.t, own)
        return combine(clone(x0), 1.0, (1.0, known), (-1.0, believed))


def _known(condition: Mapping[str, Any] | None, name: str, x: State) -> State:
    """The known state, one row a sample.

    Raises:
        UserError: the condition does not hold it, or it has another shape.
    """
    if condition is None or name not in condition:
        raise UserError(f"virtual inversion edits a known state and looks for it in condition[{name!r}]")
    known = condition[name]
    if isinstance(x, dict) != isinstance(known, dict):
        raise UserError(f"the known state in condition[{name!r}] must be structured as the states are")
    if isinstance(x, dict):
        return {leaf: known[leaf].to(x[leaf]).expand_as(x[leaf]) for leaf in x}
    return known.to(x).expand_as(x)
