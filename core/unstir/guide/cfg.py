"""Classifier-free guidance: exaggerate what the condition changes.

    CFG:     D' = D_u + w (D_c - D_u)                                where low <= sigma/alpha <= high, else D_c
    CFG++:   D' = D_u + w/(1 - rho_s/rho_t) (D_c - D_u),             rho = sigma/alpha, of the step from t to s

w = 1 is the plain conditional denoiser of CFG, w = 0 the unconditional one. Ho & Salimans and azula count from there: their weight is
w - 1. CFG++ is published as a step of its own, x_s = alpha_s D_w + sigma_s eps_u with D_w of CFG and the noise of the unconditional
branch; written out, the two differ from DDIM's alpha_s D' + sigma_s eps' by a weight alone, w/(1 - rho_s/rho_t) for w.
Reference: Ho & Salimans 2022, arXiv:2207.12598; interval: Kynkaanniemi et al. 2024, arXiv:2404.07724; rescaling: Lin et al. 2024,
arXiv:2305.08891; CFG++: Chung et al. 2024, arXiv:2406.08070.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.guide.base import Guide
from unstir.guide.likelihood import check_tensor
from unstir.state import batch_size, map_state

if TYPE_CHECKING:
    from unstir.denoiser.base import Denoiser
    from unstir.process import Process
    from unstir.solver.base import Row
    from unstir.state import State

_STRUCTURAL = ("anchor", "mask")  # entries that say where the state lives, not what it should be


@dataclass(frozen=True, eq=False)
class CFG(Guide):
    """Classifier-free guidance; the second evaluation is skipped where it would not count.

    Args:
        weight: w.
        null: entries of the unconditional branch that replace those of the condition, batch first, of size 1 or the batch. When absent,
            ``keys`` are left out instead.
        keys: entries left out of the unconditional branch; all but ``anchor`` and ``mask`` when absent.
        low: guide from this sigma/alpha on.
        high: guide up to this sigma/alpha.
        rescale: phi in [0, 1]: mix in D' std(D_c)/std(D'), per sample, against over-saturation (the paper takes 0.7).

    Raises:
        UserError: a weight that is not finite, an empty interval, or phi outside [0, 1].
    """

    weight: float
    null: Mapping[str, Any] | None = None
    keys: tuple[str, ...] | None = None
    low: float = 0.0
    high: float = math.inf
    rescale: float = 0.0
    exactness: ClassVar[str] = "exact for weight 1 (and 0, everywhere); otherwise biased: it does not sample p(x|c)^w p(x)^(1-w)"

    def __post_init__(self) -> None:
        if not math.isfinite(self.weight) or not 0 <= self.low < self.high or not 0 <= self.rescale <= 1:
            raise UserError(
                "classifier-free guidance needs a finite weight, 0 <= low < high and rescale in [0, 1], "
                f"got weight={self.weight}, low={self.low}, high={self.high}, rescale={self.rescale}"
            )

    def estimate(self, denoiser: Denoiser, x: State, t: Any, condition: Mapping[str, Any] | None) -> State:
        """The guided estimate: one evaluation outside the interval or at weight 1, two inside."""
        free = self.unconditional(condition, batch_size(x))
        given, active = denoiser(x, t, condition), within(denoiser.process, t, self.low, self.high)
        if self.weight == 1 or not bool(active.any()):
            return given
        return extrapolated(denoiser(x, t, free), given, self.weight, active, self.rescale)

    def unconditional(self, condition: Mapping[str, Any] | None, batch: int) -> Mapping[str, Any] | None:
        """The condition of the second branch."""
        return unconditional(condition, batch, self.null, self.keys)


@dataclass(frozen=True, eq=False)
class CFGPlusPlus(Guide):
    """CFG++: guidance that keeps the noise of the unconditional branch, so that weights of 0 to 1 are enough; two evaluations a step.

    Args:
        weight: w, 0 (unconditional) to 1.
        null: as for :class:`CFG`.
        keys: as for :class:`CFG`.
        rows: the solver's plan; ``unstir.sample`` fills it in.

    Raises:
        UserError: a weight outside [0, 1].
    """

    weight: float
    null: Mapping[str, Any] | None = None
    keys: tuple[str, ...] | None = None
    rows: Sequence[Row] = ()
    exactness: ClassVar[str] = "the published step to rounding on DDIM (eta = 0); biased: it samples neither p(x|c) nor a power of it"

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise UserError(f"the weight of CFG++ must lie in [0, 1], got {self.weight}")

    def planned(self, rows: Sequence[Row]) -> CFGPlusPlus:
        """The guide that knows from which noise level to which each step goes."""
        return replace(self, rows=tuple(rows))

    def estimate(self, denoiser: Denoiser, x: State, t: Any, condition: Mapping[str, Any] | None) -> State:
        """The guided estimate of the step that begins at t, or holds it."""
        check_tensor(x, self)
        free = denoiser(x, t, unconditional(condition, batch_size(x), self.null, self.keys))
        row = row_at(self.rows, t)
        kept = float(row.rho_s) / float(row.rho_t) if math.isfinite(row.rho_t) else 0.0  # type: ignore[arg-type]
        return extrapolated(free, denoiser(x, t, condition), self.weight / (1 - kept))


def row_at(rows: Sequence[Row], t: Any) -> Row:
    """The step of a plan that begins at time t, or else the one that holds it.

    Raises:
        UserError: there is no such step, or the time is one a sample.
    """
    if not rows or isinstance(t, (Tensor, Mapping)):
        raise UserError("this guide must know the solver's steps: it runs under unstir.sample, at one time for all samples")
    exact = (row for row in rows if row.t == t)
    held = (row for row in rows if row.s < t < row.t)  # type: ignore[operator]
    row = next(exact, None) or next(held, None)
    if row is None:
        raise UserError(f"the plan of this guide holds no step at time {t}")
    return row


def unconditional(
    condition: Mapping[str, Any] | None, batch: int, null: Mapping[str, Any] | None = None, keys: Sequence[str] | None = None
) -> Mapping[str, Any] | None:
    """The condition of the unconditional branch.

    Args:
        condition: that of the conditional branch.
        batch: number of samples.
        null: entries that replace those of the condition, batch first, of size 1 or the batch.
        keys: without ``null``, the entries left out; all but ``anchor`` and ``mask`` when absent.

    Returns:
        A condition, None where nothing is left.

    Raises:
        UserError: there is no condition, or nothing of it is left out.
    """
    if not condition:
        raise UserError("classifier-free guidance needs a condition: pass condition={...} to sample")
    if null is not None:
        single = {key for key, value in null.items() if isinstance(value, Tensor) and value.shape[:1] == (1,)}
        return {**condition, **{key: v.expand(batch, *v.shape[1:]) if key in single else v for key, v in null.items()}}
    dropped = set(keys) if keys is not None else set(condition) - set(_STRUCTURAL)
    missing = dropped - set(condition)
    if missing or not dropped:
        raise UserError(f"classifier-free guidance leaves out {sorted(dropped) or 'nothing'}, the condition holds {sorted(condition)}")
    return {key: value for key, value in condition.items() if key not in dropped} or None


def within(process: Process, t: Any, low: float, high: float) -> Tensor:
    """Does sigma/alpha lie in [low, high] at t? One answer, or one a sample where t is (batch,)."""
    rho = process.clock.rho(next(iter(t.values())) if isinstance(t, Mapping) else t)
    return (rho >= low) & (rho <= high)


def extrapolated(free: State, given: State, weight: float, active: Tensor | None = None, rescale: float = 0.0) -> State:
    """free + weight (given - free), with the spread of ``given`` as far as ``rescale`` asks; ``given`` where not active.

    Args:
        free: the estimate to move away from.
        given: the estimate to move to, and beyond it where the weight is above 1.
        weight: w.
        active: whether to guide, 0-dimensional or (batch,).
        rescale: phi in [0, 1].

    Returns:
        The extrapolated estimate.
    """

    def mixed(away: Tensor, towards: Tensor) -> Tensor:
        guided = torch.lerp(away, towards, weight)
        if rescale:
            ratio = _spread(towards) / _spread(guided).clamp_min(torch.finfo(guided.dtype).tiny)
            guided = guided * (rescale * ratio + (1 - rescale)).view(-1, *[1] * (towards.ndim - 1))
        if active is None or active.ndim == 0:
            return guided
        return torch.where(active.to(towards.device).view(-1, *[1] * (towards.ndim - 1)), guided, towards)

    return map_state(mixed, free, given)


def _spread(x: Tensor) -> Tensor:
    """Standard deviation of each sample over all its values, sample by sample so that the batch does not decide the order of the sum."""
    return torch.stack([row.std(correction=0) for row in x])
