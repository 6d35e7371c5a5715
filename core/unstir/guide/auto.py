"""Autoguidance: move away from what a worse version of the model believes.

    D' = D_bad + w (D_good - D_bad)    where low <= sigma/alpha <= high, else D_good

The worse model does the same task with the same condition (smaller, or trained less), so that their difference points to what both
do badly, and not to another law. w = 1 is the good model.
Reference: Karras et al. 2024, "Guiding a diffusion model with a bad version of itself", arXiv:2406.02507.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from unstir.denoiser.base import Denoiser
from unstir.errors import UserError
from unstir.evaluation import Counted
from unstir.guide.base import Guide, Guided
from unstir.guide.cfg import extrapolated, within

if TYPE_CHECKING:
    from unstir.state import State


@dataclass(frozen=True, eq=False)
class Autoguidance(Guide):
    """Guidance by a worse model; one evaluation of each a step, none of the worse one where it would not count.

    Args:
        bad: the worse model, a denoiser of the same states on any process.
        weight: w.
        low: guide from this sigma/alpha on.
        high: guide up to this sigma/alpha.

    Raises:
        UserError: a weight that is not finite, an empty interval, or ``bad`` is no denoiser.
    """

    bad: Denoiser
    weight: float = 2.0
    low: float = 0.0
    high: float = math.inf
    exactness: ClassVar[str] = "exact for weight 1, and where the models agree; otherwise biased towards where the good model is surer"

    def __post_init__(self) -> None:
        if not isinstance(self.bad, Denoiser):
            raise UserError(f"autoguidance needs a denoiser as its worse model, got {self.bad!r}")
        if not math.isfinite(self.weight) or not 0 <= self.low < self.high:
            raise UserError(
                f"autoguidance needs a finite weight and 0 <= low < high, got weight={self.weight}, low={self.low}, high={self.high}"
            )

    def wrap(self, denoiser: Denoiser) -> Denoiser:
        """The guided denoiser; evaluations of the worse model are counted with its own."""
        return Guided(denoiser, replace(self, bad=companion(denoiser, self.bad)))

    def estimate(self, denoiser: Denoiser, x: State, t: Any, condition: Mapping[str, Any] | None) -> State:
        """The guided estimate."""
        given, active = denoiser(x, t, condition), within(denoiser.process, t, self.low, self.high)
        if self.weight == 1 or not bool(active.any()):
            return given
        return extrapolated(self.bad(x, t, condition), given, self.weight, active)


def companion(denoiser: Denoiser, other: Denoiser) -> Denoiser:
    """Another model beside a denoiser: on its process, and counted together with it where it is counted.

    Args:
        denoiser: the one that is sampled.
        other: the other model, on any process.

    Returns:
        The other model, on the denoiser's process.
    """
    moved = other.with_process(denoiser.process)
    found: Any = denoiser
    while found is not None and not isinstance(found, Counted):
        found = getattr(found, "denoiser", None)
    return moved if found is None or isinstance(moved, Counted) else Counted(moved, found.tally)
