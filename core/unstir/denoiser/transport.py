"""Any velocity field as a denoiser, so that every solver can follow it: between two laws, neither of which need be normal.

    dx = b dt:                                             D = x - t b                       on RectifiedFlow
    dx = (b - epsilon score) dt + sqrt(2 epsilon) dw:      D = x - t (b - epsilon score)     on Brownian(epsilon)

t runs from 1 (the source) to 0 (the data). Both are exact: the plain flow of the first, and the reverse equation of the second, are the
equations on the left.       [IADB, Heitz et al. 2023, arXiv:2305.03486; stochastic interpolants, Albergo et al. 2023, arXiv:2303.08797]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from unstir.denoiser.base import Condition, Denoiser, Shape
from unstir.denoiser.normaliser import Normaliser
from unstir.errors import UserError
from unstir.process.affine import RectifiedFlow
from unstir.process.base import Process, spread
from unstir.process.schedules import Brownian
from unstir.space import Space

Field = Callable[[Tensor, Any, Condition | None], Tensor]


class Transport(Denoiser):
    """A velocity field from a source at t = 1 to the data at t = 0.

    Sample it from draws of the source, ``start=(x1, 1.0)``: with any deterministic solver where ``epsilon`` is 0; with one of the reverse
    equation (``"ancestral"``, ``"dpm++2m-sde"``) where it is not, for a deterministic one then follows another flow. The law at
    t = 0 is the same for every ``epsilon``.

    Args:
        velocity: b, called as ``velocity(x, t, condition)``; t is a float or (batch,), the result of the shape of ``x``, per unit of time.
        shape: shape of one state without its batch.
        score: grad log p(x_t), called like ``velocity``; needed where ``epsilon`` is not 0.
        epsilon: how much noise comes in and is taken out again, in squared units of the state per unit of time.
        space: where states live.
        normaliser: from physical units to units of the state.
        card: the model card, a text.

    Raises:
        UserError: ``epsilon`` is negative, or not 0 and there is no score.
    """

    def __init__(
        self,
        velocity: Field,
        shape: Shape,
        *,
        score: Field | None = None,
        epsilon: float = 0.0,
        space: Space | None = None,
        normaliser: Normaliser | None = None,
        card: str | None = None,
    ) -> None:
        if not epsilon >= 0 or (epsilon > 0 and score is None):
            raise UserError(f"epsilon of Transport is at least 0, and above 0 it needs a score; got {epsilon} and {score!r}")
        process: Process = Brownian(epsilon) if epsilon else RectifiedFlow()
        super().__init__(process, shape, space, normaliser, card)
        self.velocity, self.score, self.epsilon, self.needs_noise = velocity, score, epsilon, epsilon > 0

    def forward(self, x: Any, t: Any, condition: Condition | None = None) -> Any:
        """x - t (b - epsilon score)."""
        drift = self.velocity(x, t, condition)
        if self.score is not None and self.epsilon > 0:
            drift = drift - self.epsilon * self.score(x, t, condition)
        return x - spread(self.process.time(t), x) * drift
