"""Stochastic solvers on one Brownian path, whatever the number of steps: runs with more steps converge to one sample.

In the clock tau = 1/rho^2 the reverse SDE of every affine process is, for u = (x/alpha)/rho^2,

    du = x0 d tau + dW(tau),      so that a step of ancestral sampling draws z = (W(tau_s) - W(tau_t))/sqrt(tau_s - tau_t)

exactly. W is a virtual Brownian tree: its value at any tau is found by halving an octave [2^k, 2^(k+1)] again and again, each midpoint
drawn from the bridge with noise keyed by (seed, index, octave, node), so nothing is stored.
References: Li et al. 2020, arXiv:2001.01328 (virtual Brownian tree); Lu et al. 2022, arXiv:2211.01095 (SDE-DPM-Solver++).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any

from unstir import names
from unstir.errors import UserError
from unstir.noise import NoiseSource
from unstir.solver.base import Around, Levels, Memory, Model, Row, Solver
from unstir.start import unit_noise
from unstir.state import State, combine, leaves, map_state


class BrownianTree:
    """A Brownian motion W(tau), tau > 0, that gives the same value whenever it is asked.

    Args:
        draw: gives unit noise for a name, the same for the same name: a state.
        depth: how often an octave is halved; within its last part W is a bridge drawn once, so each value has its exact law, and two
            values are jointly exact unless both fall into one part (2^-depth of tau).
    """

    def __init__(self, draw: Callable[[str], State], depth: int = 16) -> None:
        self.draw, self.depth = draw, depth

    def increment(self, a: float, b: float) -> State:
        """W(b) - W(a), for 0 < a < b, in new tensors."""
        first, last = (math.frexp(tau)[1] - 1 for tau in (a, b))
        out = self._within(last, b)
        for octave in range(first, last):
            combine(out, 1.0, (math.sqrt(2.0**octave), self.draw(f"{octave}")))
        return combine(out, 1.0, (-1.0, self._within(first, a)))

    def _within(self, octave: int, tau: float) -> State:
        """W(tau) - W(2^octave), down the tree."""
        low, width = 2.0**octave, 2.0**octave
        right = self.draw(f"{octave}")
        combine(right, math.sqrt(width))
        left = map_state(lambda leaf: leaf * 0, right)
        node = 1
        for _ in range(self.depth):
            if tau == low:
                return left
            middle = combine(self.draw(f"{octave}/{node}"), math.sqrt(width) / 2, (0.5, left), (0.5, right))
            width /= 2
            later = tau >= low + width
            left, right, low, node = (middle, right, low + width, 2 * node + 1) if later else (left, middle, low, 2 * node)
        part = (tau - low) / width
        bridge = math.sqrt(width * part * (1 - part))
        end = combine(left, 1 - part, (part, right))
        return combine(end, 1.0, (bridge, self.draw(f"{octave}/{node}"))) if bridge else end


@dataclass(frozen=True, repr=False)
class OnePath(Around):
    """A stochastic solver whose noise is one Brownian path a sample: changing the number of steps refines the same sample.

    Its law is that of the solver inside.

    Args:
        solver: draws the increments of a Brownian motion in 1/rho^2: ancestral sampling or the multistep SDE solver; or its short name.
        depth: how often an octave of 1/rho^2 is halved; each step costs about as many draws.

    Raises:
        UserError: the solver's draws are no such increments, or the depth is out of range.
    """

    solver: Solver = "dpm++2m-sde"  # type: ignore[assignment]
    depth: int = 16

    def __post_init__(self) -> None:
        object.__setattr__(self, "solver", names.solver(self.solver))
        if not getattr(self.solver, "brownian", False):
            raise UserError(f"one path needs a solver that draws increments of it, 'ancestral' or 'dpm++2m-sde', got {self.solver!r}")
        if isinstance(self.depth, bool) or not isinstance(self.depth, int) or not 1 <= self.depth <= 40:
            raise UserError(f"depth must be 1 to 40, got {self.depth!r}")

    @property
    def stochastic(self) -> bool:
        """Always draws noise."""
        return True

    def coefficients(self, levels: Levels) -> list[tuple[float, ...]]:
        """Those of the solver inside."""
        return self.solver.coefficients(levels)

    def step(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """The step of the solver inside, its draw replaced by the path's increment (not at the ends of rho, nor without keyed noise)."""
        a, b = _clock(row.rho_t), _clock(row.rho_s)
        if memory.source is None or "noise" in memory or isinstance(a, dict) or not 0 < a < b < math.inf:
            return self.solver.step(x, row, model, memory)
        evaluation: Any = model
        source, space, condition = memory.source, evaluation.denoiser.space, evaluation.condition
        shape, like = map_state(lambda leaf: tuple(leaf.shape[1:]), x), leaves(x)[0]

        def draw(name: str) -> State:
            anew = NoiseSource(source.seed, source.indices)  # so that a name gives the same noise again
            return space.draw(unit_noise(anew, shape, like, f"brownian/{name}"), condition)  # type: ignore[arg-type]

        def noise() -> State:
            return combine(BrownianTree(draw, self.depth).increment(a, b), 1 / math.sqrt(b - a))

        return self.solver.step(x, row, model, _OnPath(memory, noise))  # type: ignore[arg-type]


class _OnPath(MutableMapping[Any, Any]):
    """The same memory with another source of noise."""

    def __init__(self, memory: Memory, noise: Callable[[], State]) -> None:
        self.memory, self.noise, self.source, self.buffer = memory, noise, memory.source, memory.buffer

    def __getitem__(self, key: Any) -> Any:
        return self.memory[key]

    def __setitem__(self, key: Any, value: Any) -> None:
        self.memory[key] = value

    def __delitem__(self, key: Any) -> None:
        del self.memory[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.memory)

    def __len__(self) -> int:
        return len(self.memory)


def _clock(rho: Any) -> Any:
    return rho if isinstance(rho, dict) else 1 / (rho * rho) if rho else math.inf
