"""The one multistep engine: every linear multistep solver of the probability-flow ODE is a choice of output, variable and order.

In x/alpha, with a normaliser n and a kernel k that make the equation of the output Y exact,

    x_s/(alpha_s n_s) = x_t/(alpha_t n_t) + int_{rho_t}^{rho_s} k(rho) Y d rho

    Y     n                   k
    eps   1                   1
    x0    rho                 -1/rho^2
    F     sqrt(rho^2 + s^2)   -s/(rho^2 + s^2)        s: standard deviation of the data; F as in EDM
    v     rho + s             1/(rho + s)^2           v = s eps - x0, the velocity of a straight path

and Y is replaced by the polynomial through its last values in a variable u(rho). Its weights come from Gauss-Legendre quadrature in
log rho, in float64 on the host. The first steps, of low order for want of history, are corrected with the implicit formula once the
next evaluation is there (predict, evaluate, correct: no evaluation is added); without it no method started from one value exceeds
second order. Fourth order needs one evaluation more, at the first corrected state.

References: Lu et al. 2022, arXiv:2206.00927 and arXiv:2211.01095 (DPM-Solver, DPM-Solver++); Zhang & Chen 2023, arXiv:2204.13902 (DEIS);
Zhao et al. 2023, arXiv:2302.04867 (UniPC); Karras et al. 2022, arXiv:2206.00364 (F).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch

from unstir.errors import UserError
from unstir.process import VPTable
from unstir.solver.base import Levels, Memory, Model, Number, Row, Solver, add_noise
from unstir.state import State, combine, nonzero, shifted

Output = Literal["F", "eps", "x0", "v"]
Variable = Literal["lambda", "rho", "theta", "q7", "logistic", "t"]
StartUp = Literal["none", "free", "full"]
Variant = Literal["exact", "midpoint", "published", "bh1", "bh2"]

_COARSE = 1.0  # first steps longer than this in log rho are left alone: correcting them makes them worse
_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(40)


@dataclass(frozen=True, repr=False)
class Multistep(Solver):
    """A linear multistep solver of any order, one evaluation a step.

    Args:
        output: what is interpolated: the estimate ``"x0"``, the noise ``"eps"``, EDM's ``"F"`` or the velocity ``"v"``.
        variable: in which variable it is a polynomial: ``"lambda"`` = -log rho, ``"rho"``, ``"theta"`` = atan(rho/scale),
            ``"q7"`` = rho^(1/7), ``"logistic"`` = rho^power/(rho^power + scale^power), ``"t"``.
        predictor: number of values interpolated.
        corrector: number of values of the implicit correction after every step; 0: only at the start-up.
        start_up: what is done about the first steps, which lack history: ``"free"`` corrects them (order 3 at most), ``"full"`` also
            evaluates again after the first correction (order 4 at most, one evaluation more), ``"none"`` leaves them (order 2 at most).
            Grids whose first steps are longer than 1 in log rho are too coarse to gain from it, and get ``"none"``.
        variant: ``"exact"`` weights; ``"midpoint"`` those of DPM-Solver and DPM-Solver++ 2M; ``"published"`` those of their 3M, whose
            second difference counts half, so that it is of second order, and whose second step is that of ``"midpoint"``; ``"bh1"`` and
            ``"bh2"`` those of UniPC, whose slope counts B(h)/2 where there are only two values, B(h) = h and e^h - 1.
        scale: standard deviation of the data per coordinate, for ``"F"``, ``"v"``, ``"theta"`` and ``"logistic"``; a factor of 1.5 either
            way matters little.
        power: of the logistic variable; 1 is the time of a straight path, towards 0 it becomes ``"lambda"``.

    Raises:
        UserError: an option is unknown, or does not go with the others.

    Example:
        >>> Multistep("eps", "lambda", predictor=3)          # DPM-Solver multistep, DEIS in log rho
    """

    output: Output = "x0"
    variable: Variable = "lambda"
    predictor: int = 2
    corrector: int = 0
    start_up: StartUp = "free"
    variant: Variant = "exact"
    scale: float = 0.5
    power: float = 0.6

    def __post_init__(self) -> None:
        for name, kind in (("output", Output), ("variable", Variable), ("start_up", StartUp), ("variant", Variant)):
            if getattr(self, name) not in get_args(kind):
                raise UserError(f"{name} must be one of {', '.join(map(repr, get_args(kind)))}, got {getattr(self, name)!r}")
        if not 1 <= self.predictor <= 6 or not 0 <= self.corrector <= 6:
            raise UserError(f"predictor must be 1 to 6 and corrector 0 to 6, got {self.predictor} and {self.corrector}")
        if not (0 < self.scale < math.inf and 0 < self.power <= 2):
            raise UserError(f"scale must be positive and power lie in (0, 2], got {self.scale} and {self.power}")
        own = {"midpoint": 2, "published": 3}.get(self.variant)
        if own and (self.variable, self.predictor) != ("lambda", own):
            raise UserError(f"variant {self.variant!r} is of variable 'lambda' and predictor {own} only")
        if self.variant in ("bh1", "bh2") and (self.variable != "lambda" or self.output not in ("x0", "eps")):
            raise UserError(f"variant {self.variant!r} is of variable 'lambda' and output 'x0' or 'eps' only")

    @property
    def order(self) -> int:  # type: ignore[override]
        """Global order: the predictor's, one more with a longer corrector, and no more than the start-up leaves (2, 3 or 4)."""
        steady = 2 if self.variant == "published" else max(self.predictor, min(self.corrector, self.predictor + 1))
        return min(steady, {"none": 3 if self.corrector > 1 else 2, "free": 3, "full": 4}[self.start_up])

    def coefficients(self, levels: Levels) -> list[tuple[float, ...]]:
        """``(p, d, a, again, keep, b_0 .. b_{m-1}, A, B_0 .. B_{m-1})``, m the number of values kept.

        The kept value of a step is ``Y = x0 + p x`` (a multiple of the output). With it the step is
        ``x_s = a x + b_0 x0 + sum_{j>0} b_j Y_j + d z``, and the correction made before it ``x = A x_kept + sum_j B_j Y_j``; ``again`` asks
        for an evaluation at the corrected state, ``keep`` for that state to be remembered.
        """
        first = 0 if levels.steps == 0 or math.isfinite(levels.rho[0]) else 1
        early = levels.rho[first : first + self._kept + 1]
        fine = bool((early[1:] > early[:-1] * math.exp(-_COARSE)).all())
        return [self._row(levels, i, first, fine and self.start_up != "none") for i in range(levels.steps)]

    def step(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """One pass and one for each value interpolated, another to keep F or eps; a correction costs as much again."""
        kept = self._kept
        p, d, a, again, keep = row.c[:5]
        b, A, B = row.c[5 : 5 + kept], row.c[5 + kept], row.c[6 + kept :]
        x0 = model(x, row.t)
        values = self._remember(x0, p, x, row.index, memory)
        if nonzero(A):
            combine(x, complement(A), (A, memory["kept"]), *zip(B, values, strict=True))
        if nonzero(again):
            x0 = model(x, row.t)
            values = self._remember(x0, p, x, row.index, memory)
        if nonzero(keep):
            combine(memory.buffer("kept", x), complement(keep), (keep, x))
        combine(x, a, (b[0], x0), *zip(b[1:], values[1:], strict=True))
        return add_noise(x, d, memory)

    def _remember(self, x0: State, p: Number, x: State, index: int, memory: Memory) -> list[State]:
        """Keep ``Y = x0 + p x``, and give the values kept, newest first (before there are as many, whatever; their coefficients are 0)."""
        slots = [("value", (index - j) % self._kept) for j in range(self._kept)]
        if self.output == "x0":
            memory[slots[0]] = x0
        else:
            shifted(memory.buffer(slots[0], x), x0, p, x)
        return [memory.get(slot, x0) for slot in slots]

    @property
    def _kept(self) -> int:
        return max(self.predictor, self.corrector)

    def _row(self, levels: Levels, i: int, first: int, start_up: bool) -> tuple[float, ...]:
        kept, edge = self._kept, levels.edge(i)
        if edge:
            a, b0, d = edge
            return (0.0, d, a, 0.0, 0.0, b0, *[0.0] * (2 * kept))
        known = i - first + 1  # values from which to step on, this one included
        starting = start_up and known <= kept
        p, _ = self._value(levels, i)
        carry, b = self.weights(levels, i, i + 1, range(i, i - min(self.predictor, known), -1))
        a = carry + b[0] * p
        corrected = known if starting else min(self.corrector, known)
        origin = first if starting else i - 1
        A, B = self.weights(levels, origin, i, range(i, i - corrected, -1)) if corrected > 1 else (0.0, [])
        again = float(starting and known == 2 and self.start_up == "full" and kept > 2)
        keep = float(kept > 1 and (known == 1 or (self.corrector > 1 and not (starting and known < kept))))
        return (p, 0.0, a, again, keep, *b, *[0.0] * (kept - len(b)), A, *B, *[0.0] * (kept - len(B)))

    def _value(self, levels: Levels, i: int) -> tuple[float, float]:
        """``p`` and ``g`` of ``Y = g (x0 + p x)`` at level ``i``."""
        alpha, rho, s = levels.alpha[i], levels.rho[i], self.scale
        if self.output == "x0":
            return 0.0, 1.0
        if self.output == "eps":
            return -1 / alpha, -1 / rho
        if self.output == "v":
            return -s / ((rho + s) * alpha), -(rho + s) / rho
        return -(s * s) / ((rho * rho + s * s) * alpha), math.hypot(rho, s) / (rho * s)

    def weights(self, levels: Levels, t: int, s: int, nodes: Sequence[int]) -> tuple[float, list[float]]:
        """``(A, [B_j])`` of ``x_s = A x_t + sum_j B_j Y_j`` from level ``t`` to level ``s``, ``Y_j = x0 + p x`` at the levels ``nodes``."""
        log_t, log_s = math.log(levels.rho[t]), math.log(levels.rho[s])
        log_rho = (log_s + log_t) / 2 + (log_s - log_t) / 2 * _POINTS
        rho, scale = np.exp(log_rho), self.scale
        normalisers = {"eps": lambda r: 1.0, "x0": lambda r: r, "F": lambda r: math.hypot(r, scale), "v": lambda r: r + scale}
        kernels = {"eps": rho, "x0": -1 / rho, "F": -scale * rho / (rho * rho + scale * scale), "v": rho / (rho + scale) ** 2}
        normaliser, kernel = normalisers[self.output], kernels[self.output]  # k d(rho)/d(log rho)
        measure = (log_s - log_t) / 2 * _WEIGHTS * kernel
        u, at = self._u(levels, rho), self._u(levels, levels.rho[list(nodes)])
        scale_s = levels.alpha[s] * normaliser(levels.rho[s])
        A = scale_s / (levels.alpha[t] * normaliser(levels.rho[t]))
        weights = [float(measure @ lagrange(u, at, j)) for j in range(len(at))]
        if self.variant != "exact" and (s == nodes[0] + 1 or self.variant.startswith("bh")):
            weights = self._published(u, at, measure, weights, s == nodes[0])
        return A, [scale_s * w * self._value(levels, node)[1] for w, node in zip(weights, nodes, strict=True)]

    def _u(self, levels: Levels, rho: np.ndarray) -> np.ndarray:
        if self.variable == "lambda":
            return -np.log(rho)
        if self.variable == "theta":
            return np.arctan(rho / self.scale)
        if self.variable == "q7":
            return rho ** (1 / 7)
        if self.variable == "logistic":
            return rho**self.power / (rho**self.power + self.scale**self.power)
        if self.variable == "rho":
            return rho
        if isinstance(levels.process, VPTable):
            raise UserError("variable 't' needs a smooth time, and that of a table has a kink at every index; take 'lambda'")
        return levels.process.time_at_rho(torch.from_numpy(rho)).numpy()

    def _published(self, u: np.ndarray, at: np.ndarray, measure: np.ndarray, exact: list[float], implicit: bool) -> list[float]:
        """The weights as DPM-Solver, DPM-Solver++ and UniPC publish them for 2 values, and the first two for 3 values."""
        if self.variant == "published":
            if len(exact) == 2:
                return self._halfway(u, at, sum(exact))
            if len(exact) != 3:
                return exact
            h = 2 * (u.mean() - at[0])  # of this step, in lambda; the points of the quadrature are symmetric
            r0, r1 = (at[0] - at[1]) / h, (at[1] - at[2]) / h
            second = np.array([1 / r0, -1 / r0 - 1 / r1, 1 / r1]) / (r0 + r1)
            return list(np.array(exact) - float(measure @ ((u - at[0]) / h) ** 2) / 2 * second)
        if len(exact) != 2:
            return exact
        h = at[0] - at[1] if implicit else 2 * (u.mean() - at[0])
        bh = 1.0 if self.variant != "bh1" else h / math.expm1(h) if self.output == "eps" else -h / math.expm1(-h)  # B(h)/(e^h - 1)
        total = sum(exact)
        return [total * bh / 2, total * (1 - bh / 2)] if implicit else self._halfway(u, at, total, bh)

    def _halfway(self, u: np.ndarray, at: np.ndarray, total: float, bh: float = 1.0) -> list[float]:
        """The weights of two values whose line is taken at the middle of the step."""
        slope = bh * (u.mean() - at[0]) / (at[0] - at[1])
        return [total * (1 + slope), -total * slope]


def lagrange(u: np.ndarray, at: np.ndarray, j: int) -> np.ndarray:
    """The polynomial that is 1 at node ``j`` and 0 at the others.

    Args:
        u: where it is wanted.
        at: the nodes.
        j: which of them.
    """
    return np.prod([np.ones_like(u), *((u - at[m]) / (at[j] - at[m]) for m in range(len(at)) if m != j)], axis=0)


def complement(c: Number) -> Number:
    """1 where a coefficient is 0, else 0: what keeps a leaf as it is when another is overwritten.

    Args:
        c: a coefficient, one number or one a leaf.
    """
    return {leaf: float(value == 0) for leaf, value in c.items()} if isinstance(c, dict) else float(c == 0)
