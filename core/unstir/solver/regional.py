"""The SDE in one region and the ODE in the rest: DDIM with a share of fresh noise that differs from entry to entry.

    x_s = alpha_s x0 + sqrt(sigma_s^2 - v) eps + sqrt(v) z,      v = eta^2 sigma_s^2 (1 - rho_s^2/rho_t^2),     eta = eta(entry)

An entry of eta 0 is moved exactly as DDIM moves it.
Reference: Mou et al. 2024 (DiffEditor), arXiv:2402.02583, regional SDE.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.solver.base import Levels, Memory, Model, Row, Solver
from unstir.space import aligned, mask_of
from unstir.state import State, combine, nonzero


@dataclass(frozen=True, repr=False)
class Regional(Solver):
    """DDIM with fresh noise inside a region: an edit may move there, and the rest follows its own flow.

    Every marginal is that of DDIM, whatever the region, since both shares keep the noise of an entry at sigma_s.

    Args:
        region: the entry of the condition that says where: (batch or 1, ...), 1 inside and 0 outside or in between, its axes aligned with
            the first ones of the state (for a dict state, a dict with one a leaf). Everywhere when absent.
        inside, outside: eta in the region and elsewhere, 0 to 1.

    Raises:
        UserError: an option is out of range.
    """

    order: ClassVar[int] = 1
    region: str | None = None
    inside: float = 1.0
    outside: float = 0.0

    def __post_init__(self) -> None:
        if not (0 <= self.inside <= 1 and 0 <= self.outside <= 1):
            raise UserError(f"eta inside and outside must lie in [0, 1], got {self.inside} and {self.outside}")

    @property
    def stochastic(self) -> bool:
        """Does it draw noise?"""
        return self.inside > 0 or (self.region is not None and self.outside > 0)

    def coefficients(self, levels: Levels) -> list[tuple[float, ...]]:
        """``(a, b, d, alpha_t, kept, fresh, share)``: DDIM's own, what the share of fresh noise changes, and that share for eta = 1."""
        rows: list[tuple[float, ...]] = []
        for i in range(levels.steps):
            edge = levels.edge(i)
            if edge:
                rows.append((*edge, 0.0, 0.0, 0.0, 0.0))
                continue
            kept, share = levels.sigma[i + 1] / levels.sigma[i], math.sqrt(-math.expm1(2 * math.log(levels.rho[i + 1] / levels.rho[i])))
            a, b = kept, levels.alpha[i + 1] - kept * levels.alpha[i]
            rows.append((a, b, 0.0, levels.alpha[i], kept, levels.sigma[i + 1], share if self.stochastic else 0.0))
        return rows

    def step(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """DDIM's step and, where eta differs from 0, part of the noise exchanged for fresh noise."""
        x0 = model(x, row.t)
        d, share = row.c[2], row.c[6]
        noise = memory.noise() if nonzero(d) or nonzero(share) else None
        mask = None if self.region is None else mask_of(getattr(model, "condition", None), self.region)  # type: ignore[arg-type]
        if not isinstance(x, dict):
            return self._leaf(x, x0, noise, row.c, mask)  # type: ignore[arg-type]
        parts = {leaf: tuple(c[leaf] for c in row.c) for leaf in x}  # type: ignore[index]
        fresh: Any = noise or dict.fromkeys(x)
        return {leaf: self._leaf(x[leaf], x0[leaf], fresh[leaf], parts[leaf], mask and mask[leaf]) for leaf in x}  # type: ignore[index,call-overload]

    def _leaf(self, x: Tensor, x0: Tensor, noise: Tensor | None, c: Any, mask: Tensor | None) -> Tensor:
        a, b, d, alpha_t, kept, fresh, share = c
        exchanged = torch.sub(x, x0, alpha=alpha_t) if share else None  # sigma_t eps
        combine(x, a, (b, x0))
        if noise is not None and d:
            x.add_(noise, alpha=d)
        if noise is None or exchanged is None:
            return x
        eta: Tensor = torch.full((1,), self.inside, dtype=torch.float64, device=x.device)
        if mask is not None:
            eta = self.outside + (self.inside - self.outside) * aligned(mask.to(x.device, torch.float64), eta.new_empty((1,) * x.ndim))
        new = (eta * share).clamp(0, 1)
        lost = kept * (torch.sqrt((1 - new) * (1 + new)) - 1)
        return x.addcmul_(lost.to(x.dtype), exchanged).addcmul_((fresh * new).to(x.dtype), noise)
