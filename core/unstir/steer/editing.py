"""Editing what was inverted: a source branch that stays on its path, and fresh noise only where the edit shall be.

    DirectInversion:  x_s <- x_s + d,  d = x*_s - x_s for source samples, 0 for the others;      x* the path of the inversion
    EtaNoise:         x_s <- alpha_s x0 + sqrt(1 - w^2) (x_s - alpha_s x0) + w sigma_s z,      w^2 = (eta m)^2 (1 - rho_s^2/rho_t^2)

m is a mask. After a DDIM step EtaNoise is DDIM with that eta in every entry.

References: Ju et al. 2024 (direct inversion), arXiv:2310.01506; Kang et al. 2024 (eta inversion), arXiv:2403.09468.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.state import State, map_state
from unstir.steer.base import Moment, Steer, per_sample


@dataclass(frozen=True, eq=False)
class DirectInversion(Steer):
    """Keep the source branch on the path of its inversion, and leave the others alone.

    A run of ``2 n`` samples from the inversion's start repeated, the first ``n`` with the source's condition, the others with the edited
    one: networks that look across (attention control) then see an exact source. It costs one inversion with ``trace=True``.

    Args:
        path: ``inversion.path``, the states at the times of the grid, noisy to clean.

    Raises:
        UserError: an empty path.
    """

    path: Sequence[State]
    exactness: ClassVar[str] = "exact for source samples: they end where the inversion began, whatever the solver; others are untouched"

    def __post_init__(self) -> None:
        if not self.path:
            raise UserError("direct inversion needs the path of the inversion: unstir.invert(..., trace=True).path")

    def after(self, x: State, moment: Moment) -> State:
        """The state, source samples put back on their path."""
        place = moment.row.index + 1
        if place >= len(self.path):
            raise UserError(f"the path of the inversion has {len(self.path)} states: sample on its grid, inversion.grid")

        def corrected(leaf: Tensor, kept: Tensor) -> Tensor:
            rows = [row for row, index in enumerate(moment.index) if index < kept.shape[0]]
            new = leaf.clone()
            new[rows] = kept[[moment.index[row] for row in rows]].to(new)
            return new

        return map_state(corrected, x, self.path[place])


@dataclass(frozen=True, eq=False)
class EtaNoise(Steer):
    """Replace a share of the noise by fresh noise where a mask says so, as DDIM's eta does everywhere.

    Before a :class:`DirectInversion` it makes eta inversion: what it puts into the source branch is compensated there.

    Args:
        eta: in [0, 1]; or a function of sigma/alpha giving that.
        mask: (1 or count, *shape), 0 where the state is to be kept, 1 where it is to change; everywhere when absent.

    Raises:
        UserError: eta out of range, or a mask outside [0, 1].
    """

    eta: float | Callable[[float], float]
    mask: Tensor | None = None
    exactness: ClassVar[str] = "keeps the marginals of an exact denoiser in the limit of small steps, where the mask is 0 or 1"

    def __post_init__(self) -> None:
        if not callable(self.eta) and not 0 <= self.eta <= 1:
            raise UserError(f"eta must lie in [0, 1], got {self.eta}")
        if self.mask is not None and not bool(((self.mask >= 0) & (self.mask <= 1)).all()):
            raise UserError("the mask of eta noise must lie in [0, 1]")

    def after(self, x: State, moment: Moment) -> State:
        """The state, part of its noise drawn anew (from the solver's stream); as it is where sigma is 0."""
        row, process = moment.row, moment.process
        if not isinstance(x, Tensor) or not isinstance(moment.x0, Tensor) or moment.noise is None:
            raise UserError("eta noise works on a tensor under unstir.sample: wrap it as OnLeaf(leaf, steer)")
        rho_t, rho_s, sigma = (float(number) for number in (row.rho_t, row.rho_s, row.sigma_s))  # type: ignore[arg-type]
        eta = float(self.eta(rho_t)) if callable(self.eta) else self.eta
        if sigma == 0 or eta == 0:
            return x
        share: Any = eta * math.sqrt(1.0 if math.isinf(rho_t) else -math.expm1(2 * math.log(rho_s / rho_t)))
        if self.mask is not None:
            share = share * per_sample(self.mask, moment, x)
        mean = float(row.alpha_s) * moment.x0  # type: ignore[arg-type]
        if process.anchored:
            mean = mean + float(process.beta(row.s)) * moment.anchor  # type: ignore[arg-type]
        z = moment.noise.draw(tuple(x.shape[1:]), x.dtype, x.device, "solver")
        kept = torch.sqrt(1 - share * share) if isinstance(share, Tensor) else math.sqrt((1 - share) * (1 + share))
        return mean + kept * (x - mean) + share * sigma * z if self.mask is None else x + (kept - 1) * (x - mean) + share * sigma * z
