"""Predictor-corrector sampling: after every step of a predictor, Langevin steps at the new noise level.

    x <- x + delta score + sqrt(2 delta) z,    score = -eps/sigma_s
    kind "norm":      delta = 2 (alpha_t/alpha_s)^2 (snr |z|/|score|)^2, norms over one sample's leaf, at most 2 sigma_s^2
    kind "annealed":  delta = 2 (alpha_t/alpha_s)^2 (snr sigma_s)^2

The factor (alpha_t/alpha_s)^2 is 1 where variance explodes and 1 - beta_i where it is preserved.
With "norm" the length of a step depends on the state and the draw, so it keeps the law of a level only in many dimensions, where norms
hardly vary (in two it widens modes by a third); "annealed" keeps it up to O(delta) in any. All leaves of a state are corrected from one
evaluation of it, each by its own norms. What was published differs in three places, each an option: norms averaged over the batch
(``norms="batch"``), less noise than a Langevin step needs (``noise``), and a correction before the first step too (``first``).
References: Song et al. 2021, arXiv:2011.13456, algorithms 4 and 5; Song & Ermon 2020, arXiv:2006.09011 (annealed); Jo et al. 2022 (GDSS),
arXiv:2202.02514 (``noise`` is its scale_eps).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.process import Joint, Process
from unstir.solver.ancestral import DDIM
from unstir.solver.base import Levels, Memory, Model, Row, Solver
from unstir.state import State, nonzero


@dataclass(frozen=True, repr=False)
class PredictorCorrector(Solver):
    """A predictor, then Langevin corrections; not applied at sigma = 0.

    Args:
        predictor: any solver; ancestral sampling when absent.
        snr: size of a correction relative to the score, 0.16 for variance-exploding processes; 0 corrects nothing and draws nothing. A
            mapping gives each leaf of a dict state its own.
        corrections: Langevin steps per step of the predictor, one evaluation each.
        kind: how long a correction is, see the module.
        norms: ``"sample"``, or ``"batch"``, the means of the norms over the batch: then a sample depends on its batch.
        noise: factor on the noise of a correction; below 1 it sharpens and biases.
        first: is the state corrected before the first step too?

    Raises:
        UserError: an option is out of range.
    """

    predictor: Solver = field(default_factory=lambda: DDIM(eta=1.0))
    snr: float | Mapping[str, float] = 0.16
    corrections: int = 1
    kind: Literal["norm", "annealed"] = "norm"
    norms: Literal["sample", "batch"] = "sample"
    noise: float = 1.0
    first: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.predictor, Solver):
            raise UserError(f"predictor must be a solver, got {self.predictor!r}")
        if not all(0 <= snr < math.inf for snr in self._sizes) or self.corrections < 0:
            raise UserError(f"snr and corrections must not be negative, got {self.snr} and {self.corrections}")
        if self.kind not in ("norm", "annealed"):
            raise UserError(f"kind must be 'norm' or 'annealed', got {self.kind!r}")
        if self.norms not in ("sample", "batch"):
            raise UserError(f"norms must be 'sample' or 'batch', got {self.norms!r}")
        if not 0 <= self.noise < math.inf:
            raise UserError(f"noise must be finite and not negative, got {self.noise}")

    def __hash__(self) -> int:
        return hash((self.predictor, self._sizes, self.corrections, self.kind, self.norms, self.noise, self.first))

    @property
    def _sizes(self) -> tuple[float, ...]:
        return tuple(self.snr.values()) if isinstance(self.snr, Mapping) else (self.snr,)

    @property
    def order(self) -> int:  # type: ignore[override]
        """That of the predictor, which alone moves the state through time."""
        return self.predictor.order

    @property
    def evaluations(self) -> int:  # type: ignore[override]
        """Those of the predictor and one per correction."""
        return self.predictor.evaluations + self.corrections

    @property
    def stochastic(self) -> bool:
        """Does it draw noise?"""
        return self.predictor.stochastic or (max(self._sizes, default=0.0) > 0 and self.corrections > 0)

    def plan(self, process: Process, times: Sequence[Any]) -> list[Row]:
        """The table of coefficients; see ``Solver.plan``.

        Args:
            process: joint, with the leaves of ``snr``, where that is a mapping.
            times: strictly decreasing.

        Returns:
            One row per step.

        Raises:
            UserError: as ``Solver.plan``, or the leaves of ``snr`` are not those of the process.
        """
        if not isinstance(self.snr, Mapping):
            return super().plan(process, times)
        if not isinstance(process, Joint) or set(process.leaves) != set(self.snr):
            found = sorted(process.leaves) if isinstance(process, Joint) else "none"
            raise UserError(f"snr is given for the leaves {sorted(self.snr)}, and those of the process are {found}")
        rows = replace(self, snr=1.0).plan(process, times)
        sized = [tuple({leaf: self.snr[leaf] * size for leaf, size in c.items()} for c in row.c[:2]) for row in rows]
        return [replace(row, c=sizes + row.c[2:]) for row, sizes in zip(rows, sized, strict=True)]

    def coefficients(self, levels: Levels) -> list[tuple[float, ...]]:
        """``(size, before, *predictor)``: sizes of the corrections at s and, of the first step, at t; 0 where nothing is corrected."""
        snr = 0.0 if self.corrections == 0 or isinstance(self.snr, Mapping) else self.snr
        rows = []
        for i, c in enumerate(self.predictor.coefficients(levels)):
            before = snr * _ratio(levels, i) if self.first and i == 0 and math.isfinite(levels.rho[0]) else 0.0
            rows.append((0.0 if levels.sigma[i + 1] == 0 else snr * _ratio(levels, i), before, *c))
        return rows

    def step(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """The predictor's step, then the corrections at s."""
        size, before = row.c[:2]
        x = self._corrected(x, row.t, before, row.alpha_t, row.sigma_t, model, memory)
        x = self.predictor.step(x, replace(row, c=row.c[2:]), model, memory)
        return self._corrected(x, row.s, size, row.alpha_s, row.sigma_s, model, memory)

    def _corrected(self, x: State, t: Any, size: Any, alpha: Any, sigma: Any, model: Model, memory: Memory) -> State:
        """The corrections at one level, of every leaf from the state before each."""
        for _ in range(self.corrections if nonzero(size) else 0):
            x0: Any = model(x, t)
            z: Any = memory.noise()
            if isinstance(x, dict):
                x = {leaf: self._langevin(x[leaf], x0[leaf], z[leaf], size[leaf], alpha[leaf], sigma[leaf]) for leaf in x}
            else:
                x = self._langevin(x, x0, z, size, alpha, sigma)
        return x

    def _langevin(self, x: Tensor, x0: Tensor, z: Tensor, size: float, alpha: float, sigma: float) -> Tensor:
        if size == 0:
            return x
        eps = x.sub(x0, alpha=alpha).div_(sigma)
        relative: float | Tensor = size  # sqrt(delta/2)/sigma
        if self.kind == "norm":
            lengths = norms(z, self.norms), norms(eps, self.norms).clamp(min=torch.finfo(x.dtype).tiny)
            relative = (size * lengths[0] / lengths[1]).clamp_(max=1.0)
        return x.sub_(eps.mul_(2 * sigma * relative**2)).add_(z.mul_(2 * sigma * self.noise * relative))


def _ratio(levels: Levels, i: int) -> float:
    return float(levels.alpha[i] / levels.alpha[i + 1]) if math.isfinite(levels.rho[i]) else 1.0


def norms(x: Tensor, over: Literal["sample", "batch"]) -> Tensor:
    """The norm of each sample's leaf, or the mean of these norms over the batch.

    Args:
        x: (batch, *shape).
        over: ``"sample"`` or ``"batch"``.

    Returns:
        (batch or 1, 1, ..., 1), as many axes as ``x``.
    """
    found = torch.linalg.vector_norm(x.reshape(x.shape[0], -1), dim=1).reshape(-1, *[1] * (x.ndim - 1))
    return found if over == "sample" else found.mean(0, keepdim=True)
