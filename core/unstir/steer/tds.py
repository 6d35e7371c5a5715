"""The twisted diffusion sampler: the denoiser's estimate twists the steps, and exact weights take back what it gets wrong.

    psi_t(x_t) = p(y | x0 = D(x_t, t))^m(rho_t),     m = 1/(1 + (rho/width)^2),  rho = sigma/alpha
    q(x_s | x_t) = N(a x_t + b D + d^2 grad log psi_t(x_t), d^2)
    w <- w psi_s(x_s) p(x_s | x_t) / [psi_t(x_t) q(x_s | x_t)],       x_T ~ p_T,  w = psi_T

The guided mean is DPS-like; the weights make it exact, for any m with m(0) = 1. The published twist (width infinite) takes a rough estimate
for a certain one while noise is large: its weights have heavy tails. A width near (noise of the measurement)/|A| cures that.
Reference: Wu et al. 2023, "Practical and Asymptotically Exact Conditional Sampling in Diffusion Models", arXiv:2306.17775.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from unstir.errors import UserError
from unstir.state import map_state
from unstir.steer.base import Moment
from unstir.steer.particles import Reward
from unstir.steer.tilt import Twisted, slope_of

if TYPE_CHECKING:
    from unstir.state import State


@dataclass(frozen=True, eq=False)
class TDS(Twisted):
    """Sample p(x_0) p(y | x_0) by particles whose proposals follow the gradient of log p(y | D(x_t)).

    One evaluation of the denoiser and its transpose a step, with a solver of the DDIM family that draws noise. log Z estimates log p(y).
    States are tensors or dicts of leaves, in any space whose noise is normal; leaves share a width in units of the first one's level.

    Args:
        log_likelihood: log p(y | x_0) as a function (x0, condition), differentiable by autograd; gives (batch,).
        width: the level sigma/alpha at which the twist counts half; infinite as published.
        particles: K, consecutive samples of one problem.
        threshold: resample where ESS is below this share of K.

    Raises:
        UserError: an option out of range, or a solver whose steps have no known law.
    """

    log_likelihood: Reward
    width: float = math.inf
    exactness: ClassVar[str] = "exact for the solver's chain times p(y|x0), as particles grow"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.width > 0:
            raise UserError(f"the width of TDS is a noise level above 0, got {self.width}")

    def twist(self, x: State, moment: Moment) -> tuple[Tensor, State]:
        """log psi_t and its gradient, through the denoiser."""
        denoiser, seen = moment.denoiser, {}
        level: Any = moment.row.rho_t
        rho = float(next(iter(level.values())) if isinstance(level, Mapping) else level)
        softened = 1.0 if math.isinf(self.width) else 1 / (1 + (rho / self.width) ** 2)

        def log_psi(state: State) -> Tensor:
            x0 = denoiser(state, moment.row.t, moment.condition)
            seen["x0"] = denoiser.space.project(x0, moment.condition)  # type: ignore[arg-type]
            return softened * self.log_likelihood(seen["x0"], moment.condition)

        found = slope_of(log_psi, x)
        moment.believe(map_state(lambda x0, leaf: x0.detach().to(leaf.dtype), seen["x0"], x))
        return found

    def end(self, x: State, moment: Moment) -> Tensor:
        """log p(y | x_0)."""
        return self.log_likelihood(moment.look(), moment.condition).detach()
