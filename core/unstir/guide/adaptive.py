"""Adaptive guidance: pay for the unconditional branch only while it says something else.

    AG:        D' = D_u + w (D_c - D_u)   until cos(eps_c, eps_u) > threshold, then D' = D_c,    each sample on its own
    LinearAG:  eps_u(t_i) ~ sum_j a_ij eps_c(t_{i-j}) + sum_j b_ij eps_u(t_{i-j}),   two numbers a step back, fitted by least squares

Reference: Castillo et al. 2023, "Adaptive guidance", arXiv:2312.12487.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from unstir.denoiser.base import anchor_of
from unstir.denoiser.convert import convert
from unstir.errors import UserError
from unstir.guide.base import Guide, Guided, RememberingGuide
from unstir.guide.cfg import extrapolated, unconditional, within
from unstir.guide.likelihood import check_tensor
from unstir.operator.cg import inner
from unstir.process.base import spread

if TYPE_CHECKING:
    from unstir.denoiser.base import Denoiser
    from unstir.process import Process


@dataclass(frozen=True, eq=False)
class AdaptiveGuidance(RememberingGuide):
    """Classifier-free guidance that stops for a sample once its two branches agree; 2 evaluations a step, then 1.

    Deciding costs a synchronisation a step on a device, as the unconditional branch is evaluated on fewer samples than there are.

    Args:
        weight: w of classifier-free guidance.
        threshold: the cosine between the two noises above which a sample goes on without guidance, -1 (never guided twice) to 1 (always
            guided).
        high: samples stop at sigma/alpha up to this only: at high noise the two noises agree whatever the condition says, since both are
            nearly the state itself.
        null: entries of the unconditional branch, as for ``CFG``.
        keys: entries left out of it, as for ``CFG``.

    Raises:
        UserError: a weight that is not finite, a threshold outside [-1, 1], or ``high`` is not positive.
    """

    weight: float
    threshold: float = 0.991
    high: float = 1.0
    null: Mapping[str, Any] | None = None
    keys: tuple[str, ...] | None = None
    exactness: ClassVar[str] = "biased as classifier-free guidance is; tends to it as the threshold goes to 1"

    def __post_init__(self) -> None:
        if not math.isfinite(self.weight) or not -1 <= self.threshold <= 1 or not self.high > 0:
            raise UserError(
                "adaptive guidance needs a finite weight, a threshold in [-1, 1] and a positive high, "
                f"got {self.weight}, {self.threshold}, {self.high}"
            )

    def wrap(self, denoiser: Denoiser) -> Denoiser:
        """The guided denoiser of one trajectory, which remembers who is still guided."""
        return _Adaptive(denoiser, self)


class _Adaptive(Guided):
    """A denoiser under adaptive guidance, along one trajectory."""

    guide: AdaptiveGuidance

    def __init__(self, denoiser: Denoiser, guide: AdaptiveGuidance) -> None:
        super().__init__(denoiser, guide)
        self.open: Tensor | None = None  # which samples are still guided

    def forward(self, x: Any, t: Any, condition: Mapping[str, Any] | None = None) -> Any:
        """The guided estimate, the unconditional branch evaluated for those who need it."""
        guide, process = self.guide, self.denoiser.process
        check_tensor(x, guide)
        given = self.denoiser(x, t, condition)
        if self.open is None:
            self.open = torch.ones(len(x), dtype=torch.bool, device=x.device)
        if len(self.open) != len(x):
            raise UserError(f"AdaptiveGuidance follows a trajectory of {len(self.open)} samples, and was asked about {len(x)}")
        index = self.open.nonzero().squeeze(1)
        if len(index) == 0:
            return given
        without = unconditional(condition, len(x), guide.null, guide.keys)
        some, time, conditional = x[index], t[index] if isinstance(t, Tensor) and t.ndim else t, given[index]
        free = self.denoiser(some, time, rows_at(without, index, len(x)))
        anchored = rows_at(condition, index, len(x))
        a, b = (noise_of(process, x0, some, time, anchored) for x0 in (conditional, free))
        cosine = (inner(a, b) / (inner(a, a) * inner(b, b)).sqrt()).clamp(max=1.0)  # rounding may go beyond
        agreed = (cosine > guide.threshold) & within(process, time, 0.0, guide.high).to(x.device)
        self.open = self.open.index_put((index,), ~agreed)
        return given.index_put((index,), extrapolated(free, conditional, guide.weight))  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class LinearAG(RememberingGuide):
    """Classifier-free guidance whose unconditional noise is a fitted combination of those before; make one with :meth:`fit`.

    Args:
        weight: w of classifier-free guidance.
        times: the times of the evaluations it was fitted for.
        coefficients: (evaluations, 2 depth): a of the conditional noise now, one back, ..., then b of the unconditional one back, two
            back, ...; what would lie before the first evaluation is 0.
        exact: how many first evaluations pay for both branches.
        errors: relative error of each fitted evaluation, on the trajectories of the fit.
        null: entries of the unconditional branch, as for ``CFG``.
        keys: entries left out of it, as for ``CFG``.

    Raises:
        UserError: the coefficients do not fit the times.
    """

    weight: float
    times: tuple[float, ...]
    coefficients: Tensor = field(repr=False)
    exact: int
    errors: tuple[float, ...] = ()
    null: Mapping[str, Any] | None = None
    keys: tuple[str, ...] | None = None
    exactness: ClassVar[str] = "biased: as classifier-free guidance is, and by the error of the regression"

    def __post_init__(self) -> None:
        if self.coefficients.ndim != 2 or len(self.coefficients) != len(self.times) or self.coefficients.shape[1] % 2 or self.exact < 1:
            shape = tuple(self.coefficients.shape)
            raise UserError(f"LinearAG needs coefficients ({len(self.times)}, 2 depth) and exact >= 1, got {shape} and {self.exact}")

    @classmethod
    def fit(
        cls,
        denoiser: Denoiser,
        weight: float,
        condition: Mapping[str, Any],
        *,
        solver: Any,
        grid: Any,
        count: int = 50,
        exact: int | None = None,
        depth: int = 2,
        seed: int = 0,
        null: Mapping[str, Any] | None = None,
        keys: tuple[str, ...] | None = None,
    ) -> LinearAG:
        """Fit the combinations on trajectories of classifier-free guidance, each step with the fitted history it will have.

        Args:
            denoiser: the model.
            weight: w.
            condition: of these trajectories, one row each or one for all.
            solver: what will sample; one that evaluates once at each time.
            grid: what will sample.
            count: number of trajectories.
            exact: how many first evaluations pay for both branches; half of them when absent.
            depth: how many evaluations back the combination looks.
            seed: of the trajectories.
            null: as for ``CFG``.
            keys: as for ``CFG``.

        Returns:
            The guide.

        Raises:
            UserError: the solver evaluates twice at one time, or nothing is left to fit.
        """
        from unstir.loop import sample

        record: list[tuple[float, Tensor, Tensor]] = []
        sample(denoiser, count, solver=solver, grid=grid, guides=[_Recorder(weight, null, keys, record)], condition=condition, seed=seed)
        times = tuple(time for time, _, _ in record)
        begin = len(times) // 2 if exact is None else exact
        if len(set(times)) < len(times) or not 1 <= begin < len(times) or depth < 1:
            raise UserError(f"LinearAG needs one evaluation a time and 1 <= exact < {len(times)} of them, got times {times}, exact {begin}")
        table, errors = torch.zeros(len(times), 2 * depth, dtype=torch.float64), []
        given, free = ([pair[k].double().flatten() for _, *pair in record] for k in (0, 1))
        known = list(free)
        for i in range(begin, len(times)):
            columns = _columns(given, known, i, depth)
            design = torch.stack(list(columns.values()), 1)
            found = torch.linalg.lstsq(design, free[i].unsqueeze(1), driver="gelsd").solution[:, 0]
            table[i, list(columns)] = found
            known[i] = design @ found
            errors.append(float((known[i] - free[i]).norm() / free[i].norm()))
        return cls(weight, times, table, begin, tuple(errors), null, keys)

    def wrap(self, denoiser: Denoiser) -> Denoiser:
        """The guided denoiser of one trajectory, which remembers the noises of the last evaluations."""
        return _Linear(denoiser, self)


class _Linear(Guided):
    """A denoiser under LinearAG, along one trajectory."""

    guide: LinearAG

    def __init__(self, denoiser: Denoiser, guide: LinearAG) -> None:
        super().__init__(denoiser, guide)
        self.given: list[Tensor] = []
        self.known: list[Tensor] = []

    def forward(self, x: Any, t: Any, condition: Mapping[str, Any] | None = None) -> Any:
        """The guided estimate: two evaluations at first, then one."""
        guide, process, i = self.guide, self.denoiser.process, len(self.given)
        check_tensor(x, guide)
        if i >= len(guide.times) or isinstance(t, Tensor) or not math.isclose(t, guide.times[i]):
            raise UserError(f"LinearAG was fitted for evaluations at {guide.times}, and the one after {i} of them is at {t}")
        conditional = self.denoiser(x, t, condition)
        self.given.append(noise_of(process, conditional, x, t, condition))
        if i < guide.exact:
            free = self.denoiser(x, t, unconditional(condition, len(x), guide.null, guide.keys))
            self.known.append(noise_of(process, free, x, t, condition))
            return extrapolated(free, conditional, guide.weight)
        depth = guide.coefficients.shape[1] // 2
        columns = _columns(self.given, [*self.known, self.given[i]], i, depth)
        self.known.append(sum(float(guide.coefficients[i, j]) * noise for j, noise in columns.items()))  # type: ignore[arg-type]
        shift = (guide.weight - 1) * (self.known[i] - self.given[i])  # of D in units of -sigma/alpha
        return conditional + spread(process.rho(t), x) * shift


class _Recorder(Guide):
    """Classifier-free guidance that keeps the noises of both branches."""

    exactness: ClassVar[str] = "as classifier-free guidance"

    def __init__(self, weight: float, null: Any, keys: Any, record: list[tuple[float, Tensor, Tensor]]) -> None:
        self.weight, self.null, self.keys, self.record = weight, null, keys, record

    def estimate(self, denoiser: Denoiser, x: Any, t: Any, condition: Mapping[str, Any] | None) -> Any:
        """The estimate of classifier-free guidance."""
        check_tensor(x, self)
        given, free = denoiser(x, t, condition), denoiser(x, t, unconditional(condition, len(x), self.null, self.keys))
        self.record.append((float(t), *(noise_of(denoiser.process, x0, x, t, condition) for x0 in (given, free))))  # type: ignore[arg-type]
        return extrapolated(free, given, self.weight)


def _columns(given: Sequence[Tensor], known: Sequence[Tensor], i: int, depth: int) -> dict[int, Tensor]:
    """The regressors of evaluation i by their column in the table."""
    now = {j: given[i - j] for j in range(depth) if i >= j}
    return now | {depth + j - 1: known[i - j] for j in range(1, depth + 1) if i >= j}


def noise_of(process: Process, x0: Tensor, x: Tensor, t: Any, condition: Mapping[str, Any] | None) -> Tensor:
    """eps = (x - beta y - alpha x0)/sigma: the noise that an estimate leaves in a state.

    Args:
        process: the process.
        x0: the estimate (batch, *shape).
        x: the state, its anchor in it.
        t: one time, or one a sample; sigma must not be 0 there.
        condition: holds the anchor y of an anchored process.

    Returns:
        eps (batch, *shape).
    """
    z = x - spread(process.beta(t), x) * process.need(anchor_of(condition)) if process.anchored else x
    return convert(x0, "x0", "eps", z, spread(process.alpha(t), x), spread(process.sigma(t), x))


def rows_at(condition: Mapping[str, Any] | None, index: Tensor, batch: int) -> Mapping[str, Any] | None:
    """The rows of a condition that belong to some samples; entries of one row for all, and others than tensors, stay.

    Args:
        condition: batch first, entries may be dicts.
        index: which samples, long (some,).
        batch: how many samples there are.

    Returns:
        A condition for ``len(index)`` samples.
    """
    if condition is None or len(index) == batch:
        return condition

    def part(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: part(inner) for key, inner in value.items()}
        return value[index] if isinstance(value, Tensor) and value.ndim and value.shape[0] == batch else value

    return {key: part(value) for key, value in condition.items()}
