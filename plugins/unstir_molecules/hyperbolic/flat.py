"""Flat space with the verbs of the ball, so that the comparison differs in nothing but the geometry.

exp_x(v) = x + v,     log_x(y) = y - x,     d(x, y) = |x - y|,     midpoint = weighted mean
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from unstir_molecules.hyperbolic.ball import TINY, length


@dataclass(frozen=True)
class Flat:
    """Euclidean space; see `Ball` for what each verb means."""

    def exp0(self, v: Tensor) -> Tensor:
        """v."""
        return v

    def log0(self, x: Tensor) -> Tensor:
        """x."""
        return x

    def distance(self, x: Float[Tensor, "*batch dim"], y: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch"]:
        """|x - y|."""
        return length(x - y)[..., 0]

    def moved(self, x: Tensor, y: Tensor) -> Tensor:
        """y - x."""
        return y - x

    def placed(self, x: Tensor, u: Tensor) -> Tensor:
        """x + u."""
        return x + u

    def means(
        self, x: Float[Tensor, "*batch points dim"], weights: Float[Tensor, "*batch many points"]
    ) -> Float[Tensor, "*batch many dim"]:
        """Weighted means, a row of weights each."""
        return weights @ x / weights.sum(-1, keepdim=True).clamp(min=TINY)
