"""Solvers that can be run backwards: from clean states to the noisy ones they come from.

    step:  (x_t, memory) -> (x_s, memory);      back:  its inverse, to rounding, from the same evaluations of the denoiser

A reversible solver carries two states, so that each is advanced by what the other one says. Two steps have no inverse of their own: the one
that leaves pure noise (alpha = 0) or a pinned start (alpha = sigma = 0), whose result is carried along in the memory; and the one to
sigma = 0, which forgets its start, so an inversion begins above it.

References: Kidger et al. 2021, arXiv:2105.13493 (reversible Heun); McCallum & Foster 2024, arXiv:2410.11648 (the pair of any one-step
method); Blasingame & Liu 2025, arXiv:2502.08834 (its exponential form for diffusion SDEs).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from unstir.errors import UserError
from unstir.solver.ancestral import DDIM
from unstir.solver.base import Levels, Memory, Model, Number, Row, Solver, add_noise
from unstir.state import State, clone, combine, nonzero

Output = Literal["F", "eps"]


class Reversible(Solver):
    """A solver whose steps can be undone.

    Attributes:
        exact: is ``back`` the inverse of ``step`` to rounding?
        travels: names of what the memory must hold at the noisy end for ``step`` to return what ``back`` came from.
    """

    exact: ClassVar[bool] = True
    travels: ClassVar[tuple[str, ...]] = ()

    def begin(self, x: State, row: Row, model: Model, memory: Memory) -> None:
        """Fill the memory at the clean end, where nothing but the state is known.

        Args:
            x: state at time ``row.s``.
            row: the last step.
            model: ``model(x, t) -> x0``.
            memory: left alone where it already holds what the solver remembers there.
        """

    @abstractmethod
    def back(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """Undo one step; ``x`` is not overwritten.

        Args:
            x: state at time ``row.s``, batch first.
            row: the step's row of the plan.
            model: ``model(x, t) -> x0``, guided and counted.
            memory: as ``step`` left it at time ``row.s``, or ``begin`` and the steps undone so far.

        Returns:
            State at time ``row.t``.

        Raises:
            UserError: the step has no inverse.
        """

    def draws(self, row: Row) -> bool:
        """Does the step of this row draw noise?"""
        return False


def upwards(x: State, row: Row, x0: State) -> State:
    """The state at ``row.t`` with the noise of ``x``, a state at ``row.s``: ``alpha_t x0 + (sigma_t/sigma_s)(x - alpha_s x0)``.

    Returns:
        A new state.

    Raises:
        UserError: ``row.s`` is where sigma is 0, and ``x`` holds no noise.
    """
    if not every(row.sigma_s):
        raise UserError("a step to sigma = 0 forgets where it came from: end the grid above it (to_zero=false)")
    a = _each(lambda sigma_t, sigma_s: sigma_t / sigma_s, row.sigma_t, row.sigma_s)
    b = _each(lambda alpha_t, alpha_s, ratio: alpha_t - ratio * alpha_s, row.alpha_t, row.alpha_s, a)
    return combine(clone(x), a, (b, x0))


class Paired(Reversible):
    """A reversible solver with coefficients ``(plain, a, b, d, *own)``: rows where plain is not 0 are ``x_s = a x + b x0 + d z``.

    They are DDIM steps where a leaf touches rho = infinity or rho = 0, and wherever :meth:`lone` says so.
    """

    travels: ClassVar[tuple[str, ...]] = ("partner", "next")
    width: ClassVar[int]

    def coefficients(self, levels: Levels) -> list[tuple[float, ...]]:
        """``(plain, a, b, d, *own)``."""
        rows: list[tuple[float, ...]] = []
        for i in range(levels.steps):
            edge = levels.edge(i)
            own = (0.0,) * self.width if edge or self.lone(i) else self.weights(levels, i)
            ratio = 0.0 if edge else levels.sigma[i + 1] / levels.sigma[i]
            rows.append((float(bool(edge) or self.lone(i)), *(edge or (ratio, levels.alpha[i + 1] - ratio * levels.alpha[i], 0.0)), *own))
        return rows

    def lone(self, i: int) -> bool:
        """Has step ``i`` no second state to go by?"""
        return False

    @abstractmethod
    def weights(self, levels: Levels, i: int) -> tuple[float, ...]:
        """The solver's own ``width`` coefficients of a step between finite levels."""

    @abstractmethod
    def move(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """``step``, between finite levels."""

    @abstractmethod
    def undo(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """``back``, between finite levels."""

    def step(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """The solver's own step; at the edges what an inversion remembered, else DDIM."""
        if row.index == 0:  # what the caller gave is not overwritten
            memory.update({name: clone(memory[name]) for name in self.travels if name in memory})
        plain, a, b, d = row.c[:4]
        if not nonzero(plain):
            return self.move(x, row, model, memory)
        new: State | None = memory.pop("next", None)
        if new is None:
            new = add_noise(combine(clone(x), a, (b, model(x, row.t))), d, memory)
        elif nonzero(d):
            memory.noise()  # what is known is not drawn, but counts, so that later draws stay the same
        return self.left(x, new, memory)

    def left(self, x: State, new: State, memory: Memory) -> State:
        """What a plain step gives, with the state it left noted where a solver needs it."""
        return new

    def back(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """The inverse of the solver's own step; at the edges the state is carried along, and the noisy one estimated."""
        if not nonzero(row.c[0]):
            return self.undo(x, row, model, memory)
        below = upwards(x, row, model(x, row.s))
        memory["next"] = x
        return below


@dataclass(frozen=True, repr=False)
class ReversibleHeun(Paired):
    """Reversible Heun for the probability-flow ODE: second order, one evaluation a step and one more at the first.

        X = x/n,   dX = f dv;    Y' = 2 X - Y + h f(Y, t),    X' = X + h/2 (f(Y, t) + f(Y', s)),    h = v_s - v_t

    output "eps": n = alpha, v = rho, f = eps;    output "F": n = sqrt(sigma^2 + scale^2 alpha^2), v = atan(rho/scale), f = -F (see EDM)

    Weakly stable, like every explicit reversible method: at few steps it is worse than the multistep solvers.

    Args:
        output: in which variables; ``"F"`` is bounded at all levels, ``"eps"`` the textbook form.
        scale: standard deviation of the data per coordinate, for ``"F"``.

    Raises:
        UserError: an option is out of range.
    """

    order: ClassVar[int] = 2
    width: ClassVar[int] = 16
    output: Output = "F"
    scale: float = 0.5

    def __post_init__(self) -> None:
        check_frame(self.output, self.scale)

    def weights(self, levels: Levels, i: int) -> tuple[float, ...]:
        """Of ``y' = c0 x + c1 y + c2 D(y)``, ``x' = c3 x + c4 y + c5 D(y) + c6 y' + c7 D(y')``, and eight more of the way back."""
        t, s = (frame(levels, j, self.output, self.scale) for j in (i, i + 1))
        return (*_heun(t, s), *_heun(s, t))

    def move(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """Eight passes."""
        return self._pass(x, row.c[4:12], row.t, row.s, model, memory)

    def undo(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """The same, with the times and the sign of the step exchanged: the method is symmetric."""
        return self._pass(clone(x), row.c[12:20], row.s, row.t, model, memory)

    def _pass(self, x: State, c: Sequence[Number], t: Number, s: Number, model: Model, memory: Memory) -> State:
        y: State = memory["partner"] if "partner" in memory else clone(x)
        value: State = memory["value"] if "value" in memory else model(y, t)
        new = combine(clone(x), c[0], (c[1], y), (c[2], value))
        after = model(new, s)
        combine(x, c[3], (c[4], y), (c[5], value), (c[6], new), (c[7], after))
        memory["partner"], memory["value"] = new, after
        return x


def _heun(t: tuple[float, float, float, float], s: tuple[float, float, float, float]) -> tuple[float, ...]:
    """The eight coefficients from frame ``t`` to frame ``s``, each ``(n, v, p, q)``."""
    (n_t, v_t, p_t, q_t), (n_s, v_s, p_s, q_s) = t, s
    ratio, half = n_s / n_t, n_s * (v_s - v_t) / 2
    return 2 * ratio, 2 * half * p_t - ratio, 2 * half * q_t, ratio, half * p_t, half * q_t, half * p_s, half * q_s


@dataclass(frozen=True, repr=False)
class ReversibleSDE(Paired):
    """A reversible pair for the reverse SDE, each half of it an ancestral step (the exponential Euler step), on one path of noise.

        q = 1/rho^2,  X = q x/alpha:    dX = D dq + dW_q                                    the reverse SDE, a drift and a Brownian path
        X' = mix X + (1 - mix) Y + h D(Y, t) + dW,     Y' = Y + h D(X', s) + dW,            h = q_s - q_t

    Two evaluations a step. In q the noise of early steps counts ever less beside that of later ones, so the difference of the pair dies
    out; with plain Euler steps in sigma^2 the round trip is as exact while the samples blow up.

    The noise of a run is keyed by its seed: invert and sample with the same one. Data that did not come from that noise are led back to a
    start far outside the prior, since the SDE forgets its start as (rho_s/rho_t)^2: to have noise-like latents, find the noises
    (``NoiseMaps``). The rounding of a round trip from noise to data and back grows by the square of ``rho_t/rho_s`` and by ``1/mix`` a
    step; the one from data to noise and back does not.

    Args:
        mix: how much of the state is kept, in (0, 1]; the rest is replaced by its partner.

    Raises:
        UserError: ``mix`` is out of range.
    """

    order: ClassVar[int] = 1
    evaluations: ClassVar[int] = 2
    width: ClassVar[int] = 9
    mix: float = 0.999

    def __post_init__(self) -> None:
        if not 0 < self.mix <= 1:
            raise UserError(f"mix must lie in (0, 1], got {self.mix}")

    @property
    def stochastic(self) -> bool:
        """Always draws noise."""
        return True

    def draws(self, row: Row) -> bool:
        """Every step between finite levels draws once, and that which leaves a pinned start."""
        return nonzero(row.c[7]) or nonzero(row.c[3])

    def weights(self, levels: Levels, i: int) -> tuple[float, ...]:
        """``(mix a, (1-mix) a, g, d, a)`` of the step, ``a = alpha_s q_t/(alpha_t q_s)``; four of the way back."""
        ratio = levels.rho[i + 1] / levels.rho[i]
        a = levels.alpha[i + 1] / levels.alpha[i] * ratio * ratio
        share = (1 - ratio) * (1 + ratio)
        g, d = levels.alpha[i + 1] * share, levels.sigma[i + 1] * math.sqrt(share)
        return (self.mix * a, (1 - self.mix) * a, g, d, a, 1 / a, -g / a, -d / a, 1 / self.mix)

    def move(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """One draw, used twice."""
        keep, swap, g, d, a = row.c[4:9]
        y: State = memory["partner"] if "partner" in memory else clone(x)
        z = memory.noise()
        combine(x, keep, (swap, y), (g, model(y, row.t)), (d, z))
        memory["partner"] = combine(y, a, (g, model(x, row.s)), (d, z))
        return x

    def undo(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """The partner first, then the state."""
        keep, swap, _, _, a, inverse, g, d, gain = row.c[4:13]
        z = memory.noise()
        y: State = memory["partner"] if "partner" in memory else clone(x)
        y = combine(clone(y), inverse, (g, model(x, row.s)), (d, z))
        new = combine(clone(x), inverse, (g, model(y, row.t)), (d, z))  # mix X + (1 - mix) Y
        memory["partner"] = y
        return combine(combine(new, 1.0, (-1.0, y)), gain, (1.0, y))


@dataclass(frozen=True, repr=False)
class DDIMInversion(Reversible):
    """DDIM, and the usual way of stepping it backwards: an approximation, of first order in the step.

        step:  x_s = alpha_s D(x_t, t) + sigma_s eps(x_t, t);      back:  x_t = alpha_t D(x_s, s) + sigma_t eps(x_s, s),
        then ``iterations`` times  x_t <- (alpha_t/alpha_s) x_s + (sigma_t - sigma_s alpha_t/alpha_s) eps(x_t, t)

    The fixed point is the exact inverse; with an estimate that is no contraction (a mixture's between its modes) it need not be reached.

    References: Song et al. 2021, arXiv:2010.02502; Pan et al. 2023, arXiv:2309.04907 (the iteration).

    Args:
        iterations: evaluations spent on each step after the first.

    Raises:
        UserError: ``iterations`` is not a whole number of at least 0.
    """

    order: ClassVar[int] = 1
    exact: ClassVar[bool] = False
    iterations: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.iterations, bool) or not isinstance(self.iterations, int) or self.iterations < 0:
            raise UserError(f"iterations must be a whole number of at least 0, got {self.iterations!r}")

    def coefficients(self, levels: Levels) -> list[tuple[float, ...]]:
        """``(a, b, d)`` of DDIM, and ``(p, q, r)`` of ``x_t <- p x_s + q x_t + r D(x_t)`` (0 where it has no use)."""
        rows = []
        for i, row in enumerate(DDIM().coefficients(levels)):
            alpha, sigma = levels.alpha[i], levels.sigma[i]
            p = alpha / levels.alpha[i + 1]
            q = 1 - p * levels.sigma[i + 1] / sigma if sigma else 0.0
            rows.append((*row, p, q, -q * alpha))
        return rows

    def step(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """As DDIM."""
        a, b, d = row.c[:3]
        return add_noise(combine(x, a, (b, model(x, row.t))), d, memory)

    def back(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """One evaluation, and one an iteration."""
        p, q, r = row.c[3:]
        new = upwards(x, row, model(x, row.s))
        for _ in range(self.iterations):
            combine(new, q, (p, x), (r, model(new, row.t)))
        return new


def frame(levels: Levels, i: int, output: Output, scale: float) -> tuple[float, float, float, float]:
    """``(n, v, p, q)`` at level ``i``: in ``X = x/n`` the flow is ``dX = f dv``, ``f = p x + q x0``; see :class:`ReversibleHeun`."""
    alpha, sigma = levels.alpha[i], levels.sigma[i]
    if output == "eps":
        return alpha, levels.rho[i], 1 / sigma, -alpha / sigma
    n = math.hypot(sigma, scale * alpha)
    return n, math.atan2(sigma, scale * alpha), scale * alpha / (n * sigma), -n / (scale * sigma)


def check_frame(output: str, scale: float) -> None:
    """Raise unless ``output`` and ``scale`` name variables for :func:`frame`."""
    if output not in get_args(Output) or not 0 < scale < math.inf:
        raise UserError(f"output must be 'F' or 'eps' and scale positive, got {output!r} and {scale}")


def every(number: Number) -> bool:
    """Is a number nonzero in every leaf?"""
    return all(number.values()) if isinstance(number, dict) else number != 0


def _each(function: Callable[..., float], *numbers: Number) -> Number:
    """A function of numbers, leaf by leaf where they are dicts."""
    if not isinstance(numbers[0], dict):
        return function(*numbers)
    return {leaf: function(*(number[leaf] for number in numbers)) for leaf in numbers[0]}  # type: ignore[index]
