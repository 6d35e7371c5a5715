"""Grids: the times at which a sampler looks, made once, in float64, on the host.

N steps are N+1 strictly decreasing times. With ``to_zero`` the last one is where sigma is 0 and the last step returns the clean
estimate. Grids of the noise level are laid in rho = sigma/alpha; on a process that ends in pure noise (rho infinite at ``t_max``)
and with no ``sigma_max`` given, the first time is that end and the formula covers the rest, from ``NOISY`` down.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from unstir.errors import UserError
from unstir.process import Joint, Process, VPTable

NOISY = 80.0  # the largest finite noise level (in units of the state) of grids on processes that end in pure noise


class Grid(ABC):
    """The times of a sampler: a frozen dataclass."""

    def times(self, process: Process) -> list[Any]:
        """The times on a process, strictly decreasing, N+1 for N steps.

        Args:
            process: the process to sample; with separate times (a joint process) each time is a dict, one entry a leaf.

        Returns:
            Python floats.

        Raises:
            UserError: the grid cannot be laid on this process, or repeats a time.
        """
        if isinstance(process, Joint) and not process.shared_time:
            columns = {leaf: self.times(part) for leaf, part in process.leaves.items()}
            return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        times = [float(t) for t in self.lay(process)]
        for later, earlier in zip(times[1:], times, strict=False):
            if not later < earlier:
                raise UserError(f"the times of a grid must decrease strictly, and {self!r} goes from {earlier:.17g} to {later:.17g}")
        return times

    @abstractmethod
    def lay(self, process: Process) -> Sequence[float]:
        """The times on a process with one time; ``times`` checks them."""


@dataclass(frozen=True)
class _Levels(Grid):
    """Grids laid in the noise level rho = sigma/alpha."""

    steps: int
    sigma_max: float | None = None
    sigma_min: float | None = None
    to_zero: bool = True

    def __post_init__(self) -> None:
        check_steps(self.steps)
        for name, value in (("sigma_max", self.sigma_max), ("sigma_min", self.sigma_min)):
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"{name} of a grid must be positive and finite, got {value}")

    def lay(self, process: Process) -> list[float]:
        """The levels as times of the process, and the ends that have no level."""
        high, low, first = self.ends(process)
        count = self.steps + (not self.to_zero) - len(first)
        levels = self.spacing(high, low, count) if count > 1 else np.array([high] * count)
        times = process.time_at_rho(torch.from_numpy(levels)).tolist()
        if self.sigma_max is None and not first:
            times[0] = process.t_max
        return first + times + [process.t_zero] * self.to_zero

    def ends(self, process: Process) -> tuple[float, float, list[float]]:
        """Largest and smallest finite level, and the time before them where the process ends in pure noise."""
        clock = process.clock
        low = float(clock.rho(process.t_min)) if self.sigma_min is None else self.sigma_min
        high = float(clock.rho(process.t_max)) if self.sigma_max is None else self.sigma_max
        first = [process.t_max] if math.isinf(high) else []
        high = NOISY if math.isinf(high) else high
        if not 0 < low < high:
            raise UserError(f"a grid needs 0 < sigma_min < sigma_max, got sigma_min={low:.6g} and sigma_max={high:.6g} on {process!r}")
        return high, low, first

    @abstractmethod
    def spacing(self, high: float, low: float, count: int) -> np.ndarray:
        """``count`` levels from ``high`` down to ``low``, both included."""


@dataclass(frozen=True)
class Karras(_Levels):
    """Noise levels equally spaced in their ``rho``-th root.

    sigma_i = (sigma_max^(1/rho) + i/(n-1) (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho       [Karras et al. 2022, arXiv:2206.00364, eq. 5]

    Args:
        steps: number of steps.
        sigma_max, sigma_min: largest and smallest noise level sigma/alpha; the process's own when absent.
        to_zero: end at noise level 0, one step after ``sigma_min``; else at ``sigma_min``.
        rho: the root; 7 puts most steps at low noise.
    """

    rho: float = 7.0

    def spacing(self, high: float, low: float, count: int) -> np.ndarray:
        """Equal steps in the ``rho``-th root."""
        levels = np.linspace(high ** (1 / self.rho), low ** (1 / self.rho), count) ** self.rho
        levels[0], levels[-1] = high, low
        return levels


@dataclass(frozen=True)
class LogSNR(_Levels):
    """Noise levels equally spaced in their logarithm.

    Args:
        steps: number of steps.
        sigma_max, sigma_min: largest and smallest noise level sigma/alpha; the process's own when absent.
        to_zero: end at noise level 0, one step after ``sigma_min``; else at ``sigma_min``.
    """

    def spacing(self, high: float, low: float, count: int) -> np.ndarray:
        """Equal steps in the logarithm."""
        levels = np.exp(np.linspace(math.log(high), math.log(low), count))
        levels[0], levels[-1] = high, low
        return levels


@dataclass(frozen=True)
class Logistic(_Levels):
    """Noise levels equally spaced in u = rho^power/(rho^power + scale^power), the logistic function of log rho.

    Most steps go where the noise is about as large as the data, between the scale of the data and that of their finest detail, and few
    to the ends, where every estimate is nearly linear. A step to noise level 0 is a step of u like the others unless that would pass
    ``sigma_min``; all grids above fall short of it.

    Args:
        steps: number of steps.
        sigma_max, sigma_min: largest and smallest noise level sigma/alpha; the process's own when absent.
        to_zero: end at noise level 0; else at ``sigma_min``.
        scale: standard deviation of the data per coordinate; a factor of 2 either way matters little.
        power: 1 is uniform in the time of a straight path; towards 0 the grid becomes that of ``LogSNR``.
    """

    scale: float = 0.5
    power: float = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.scale < math.inf and 0 < self.power <= 2):
            raise UserError(f"the scale of a grid must be positive and its power lie in (0, 2], got {self.scale} and {self.power}")

    def spacing(self, high: float, low: float, count: int) -> np.ndarray:
        """Equal steps in u."""
        first, lowest = (1 / (1 + (self.scale / level) ** self.power) for level in (high, low))
        last = max(lowest, first / count) if self.to_zero else lowest
        u = np.linspace(first, last, count)
        levels: np.ndarray = self.scale * (u / (1 - u)) ** (1 / self.power)
        levels[0], levels[-1] = high, low if last == lowest else levels[-1]
        return levels


@dataclass(frozen=True)
class _Times(Grid):
    """Grids laid in the time itself.

    With ``to_zero`` and no ``t_min`` the formula runs down to the time where sigma is 0; where there is no such finite time, or
    ``t_min`` is given, it runs to ``t_min`` in one step less and the last step goes to sigma 0.
    """

    steps: int
    t_max: float | None = None
    t_min: float | None = None
    to_zero: bool = True

    def __post_init__(self) -> None:
        check_steps(self.steps)

    def lay(self, process: Process) -> list[float]:
        """The times from ``t_max`` down, and the one where sigma is 0."""
        high = process.t_max if self.t_max is None else self.t_max
        if self.to_zero and self.t_min is None and math.isfinite(process.t_zero):
            return list(self.spacing(high, process.t_zero, self.steps + 1, process.t_zero))
        low = process.t_min if self.t_min is None else self.t_min
        if not low < high:
            raise UserError(f"a grid needs t_min < t_max, got t_min={low} and t_max={high} on {process!r}")
        origin = process.t_zero if math.isfinite(process.t_zero) else min(low, process.t_min)
        times = self.spacing(high, low, self.steps + (not self.to_zero), origin)
        return [*times, process.t_zero] if self.to_zero else list(times)

    @abstractmethod
    def spacing(self, high: float, low: float, count: int, origin: float) -> np.ndarray:
        """``count`` times from ``high`` down to ``low``, both included."""


@dataclass(frozen=True)
class Uniform(_Times):
    """Times equally spaced.

    Args:
        steps: number of steps.
        t_max, t_min: first and last time; the process's own when absent.
        to_zero: end where sigma is 0; else at ``t_min``.
    """

    def spacing(self, high: float, low: float, count: int, origin: float) -> np.ndarray:
        """Equal steps."""
        return np.linspace(high, low, count)


@dataclass(frozen=True)
class Quadratic(_Times):
    """Times whose square roots are equally spaced, denser near the data.             [DDIM, Song et al. 2021, arXiv:2010.02502, app. D]

    Args:
        steps: number of steps.
        t_max, t_min: first and last time; the process's own when absent.
        to_zero: end where sigma is 0; else at ``t_min``.
    """

    def spacing(self, high: float, low: float, count: int, origin: float) -> np.ndarray:
        """Equal steps of the square root of the time since the data."""
        times = origin + np.linspace(math.sqrt(high - origin), math.sqrt(low - origin), count) ** 2
        times[0], times[-1] = high, times[-1] if count == 1 else low
        return times


@dataclass(frozen=True)
class Beta(_Times):
    """Times at the quantiles of a Beta law: with ``a`` and ``b`` below 1, dense at both ends.

    t_i = t_min + (t_max - t_min) F^-1(1 - i/(n-1)),   F the distribution function of Beta(a, b)       [Lee et al. 2024, arXiv:2407.12173]

    Args:
        steps: number of steps.
        t_max, t_min: first and last time; the process's own when absent.
        to_zero: end where sigma is 0; else at ``t_min``.
        a: of the Beta law, positive; smaller is denser at the data.
        b: of the Beta law, positive; smaller is denser at the noise. 1 and 1 are :class:`Uniform`.
    """

    a: float = 0.6
    b: float = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.a < math.inf and 0 < self.b < math.inf):
            raise UserError(f"a and b of a Beta grid must be positive, got {self.a} and {self.b}")

    def spacing(self, high: float, low: float, count: int, origin: float) -> np.ndarray:
        """Quantiles at equal steps of probability."""
        from scipy.special import betaincinv

        times = low + (high - low) * betaincinv(self.a, self.b, np.linspace(1, 0, count))
        times[0] = high
        return times


@dataclass(frozen=True)
class Native(Grid):
    """Whole indices of a process given by a table, and no times between them.

    Args:
        steps: number of steps, at most the table's.
        spacing: ``trailing`` (from the last index in equal strides), ``leading`` (equal strides from index 0) or ``linspace``
            (both ends).                                                    [named as in Lin et al. 2024, arXiv:2305.08891, table 2]
    """

    steps: int
    spacing: Literal["trailing", "leading", "linspace"] = "trailing"

    def __post_init__(self) -> None:
        check_steps(self.steps)
        if self.spacing not in ("trailing", "leading", "linspace"):
            raise UserError(f"the spacing of a native grid is 'trailing', 'leading' or 'linspace', got {self.spacing!r}")

    def lay(self, process: Process) -> list[float]:
        """Whole indices, and the time of the data."""
        table = process.clock
        if not isinstance(table, VPTable):
            raise UserError(f"a native grid needs a process with a table of steps, got {type(process).__name__}; 'uniform' works on any")
        if self.steps > table.steps:
            raise UserError(f"the table has {table.steps} steps, and the native grid asks for {self.steps}")
        if self.spacing == "linspace":
            index: np.ndarray = np.round(np.linspace(table.steps - 1, 0, self.steps))
        elif self.spacing == "leading":
            index = np.arange(self.steps)[::-1] * float(table.steps // self.steps)
        else:
            index = np.round(table.steps - np.arange(self.steps) * (table.steps / self.steps)) - 1
        return [*(float(i) for i in index), process.t_zero]


@dataclass(frozen=True)
class Times(Grid):
    """Times given one by one.

    Args:
        values: at least two, strictly decreasing; the last may be the time where sigma is 0.
    """

    values: Sequence[float]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(float(value) for value in self.values))
        if len(self.values) < 2 or any(math.isnan(value) for value in self.values):
            raise UserError(f"a grid of given times needs at least two numbers, got {self.values}")

    def lay(self, process: Process) -> Sequence[float]:
        """The times as they were given."""
        if self.values[-1] < process.t_zero:
            raise UserError(f"the last time {self.values[-1]} is before {process.t_zero}, where {type(process).__name__} has no noise left")
        return self.values


def check_steps(steps: int) -> None:
    """Check a number of steps.

    Args:
        steps: of a grid.

    Raises:
        UserError: ``steps`` is not a whole number of at least 1.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise UserError(f"a grid needs at least 1 step, got {steps!r}")
