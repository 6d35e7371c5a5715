"""EVODiff (experimental): the second-order data-prediction step with its slope scaled, per sample, to leave the least variance.

    x_s = (sigma_s/sigma_t) x - alpha_s (e^{-h} - 1) [m_0 + zeta (m_0 - m_1) h/(2 h_0)],        h_0 the step from m_1 to m_0
    zeta = argmin |m_0 - m_1 - zeta (m_1 - m_2) h_0/h_1|^2 = <m_0 - m_1, d>/|d|^2,  d = (m_1 - m_2) h_0/h_1,  cut to [0, 1]

The variance of the next estimate given the present ones is not known without a reference; here it is that of the last one, of which
the same extrapolation is asked. zeta tends to 1 as steps shrink, so the method is of second order. In the code that was published with
the paper the difference is m_1 - m_0, and it does not converge.

Reference: after Li et al. 2025 (EVODiff: entropy-aware variance optimised diffusion inference), arXiv:2509.26096.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from unstir.solver.base import Levels, Memory, Model, Number, Row, Solver, add_noise
from unstir.state import State, clone, combine, map_state, nonzero


@dataclass(frozen=True, repr=False)
class EVODiff(Solver):
    """Two-value data prediction whose slope counts zeta times, zeta from a least-squares fit to the last estimate; experimental.

    x_s = (sigma_s/sigma_t) x - alpha_s (e^{-h} - 1) [m_0 + zeta (m_0 - m_1) h/(2 h_0)]
    """

    order: ClassVar[int] = 2

    def coefficients(self, levels: Levels) -> list[tuple[float, ...]]:
        """``(a, b, d, slope, ratio)`` of ``x_s = a x + b m_0 + slope zeta (m_0 - m_1) + d z``; ratio = h_0/h_1, 0 without m_2."""
        rows: list[tuple[float, ...]] = []
        steps: list[float] = []
        for i in range(levels.steps):
            edge = levels.edge(i)
            if edge:
                rows.append((*edge, 0.0, 0.0))
                continue
            h = math.log(levels.rho[i] / levels.rho[i + 1])
            b = -float(levels.alpha[i + 1]) * math.expm1(-h)
            slope = b * h / (2 * steps[-1]) if steps else 0.0
            rows.append((float(levels.sigma[i + 1] / levels.sigma[i]), b, 0.0, slope, steps[-1] / steps[-2] if len(steps) > 1 else 0.0))
            steps.append(h)
        return rows

    def step(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """Two passes, and the slope's: its scale is found in two sums over each sample, on the device."""
        a, b, d, slope, ratio = row.c
        m_0 = model(x, row.t)
        m_1, m_2 = memory.get("m_1", m_0), memory.get("m_2", m_0)
        combine(x, a, (b, m_0))
        if nonzero(slope):
            change = combine(clone(m_0), 1.0, (-1.0, m_1))
            last = combine(clone(m_1), ratio, (_negative(ratio), m_2))
            combine(x, 1.0, (slope, map_state(lambda now, d: now * best_scale(now, d), change, last)))
        memory["m_1"], memory["m_2"] = m_0, m_1
        return add_noise(x, d, memory)


def best_scale(target: Tensor, d: Tensor) -> Tensor:
    """The scale zeta that makes ``|target - zeta d|^2`` least in each sample, cut to [0, 1]; 1 where ``d`` is 0.

    Args:
        target: (batch, *shape).
        d: of the same shape.

    Returns:
        (batch, 1, ...), ready to multiply ``target``.
    """
    axes = tuple(range(1, target.ndim))
    energy = d.square().sum(axes, keepdim=True)
    return ((target * d).sum(axes, keepdim=True) / energy.clamp(min=1e-30)).clamp(0, 1).where(energy > 1e-30, 1.0)


def _negative(c: Number) -> Number:
    return {leaf: -value for leaf, value in c.items()} if isinstance(c, dict) else -c
