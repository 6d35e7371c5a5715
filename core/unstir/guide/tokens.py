"""Guidance of discrete states by a score that knows noise: the reverse step reweighted to first order.

    p(x_s | x_t, y) ~ p(x_s | x_t) p(y | x_s),     log p(y | x_s) = log p(y | x_t) + <grad_h s(h_t), h_s - h_t> + ...
    entry by entry    q(x_s,i = v) = p(x_s,i = v | x_t) exp(w g_iv)/norm,     g = grad_h s,  h the one-hot states, s = log p(y | .)

Where two entries are one number (the two halves of a symmetric matrix) g adds the slopes of both. DiGress guides by the squared error of
a regressor; any differentiable function of one-hot states will do.
Reference: Vignac et al. 2023 (DiGress), arXiv:2209.14734, section 5; Nisonoff et al. 2024 (the same of rates), arXiv:2406.01572.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from unstir.errors import UserError
from unstir.guide.slope import in_space, value_and_slope
from unstir.process import Categorical, Joint
from unstir.process.categorical import draw
from unstir.process.discrete import by_leaf, uniforms
from unstir.space import JointSpace, Space
from unstir.steer.base import Moment, Steer

if TYPE_CHECKING:
    from unstir.solver.base import Row
    from unstir.state import State


@dataclass(frozen=True, eq=False)
class TokenGuidance(Steer):
    """Draws every step of ancestral sampling anew, from its law reweighted by the slope of a score.

    No evaluation of the denoiser beyond the solver's own, one of the score and its gradient a step.

    Args:
        function: s(h, t, condition), h the one-hot states (batch, *shape, states) in the precision of the belief, or a dict of them;
            differentiable, each sample on its own; gives (batch,), log p(y | x_t) up to a constant.
        weight: w; 0 leaves the law of the solver.

    Raises:
        UserError: the weight is not finite.
    """

    function: Callable[[Any, Any, Mapping[str, Any] | None], Tensor]
    weight: float = 1.0
    needs_grad: ClassVar[bool] = True
    solver: ClassVar[str] = "discrete-ancestral"
    exactness: ClassVar[str] = "exact for log p(y | x_t) linear in each entry, as steps become finer; otherwise biased"

    def __post_init__(self) -> None:
        if not math.isfinite(self.weight):
            raise UserError(f"the weight of guidance must be finite, got {self.weight}")

    def before(self, x: State, moment: Moment) -> State:
        """Nothing but a look at what is believed, and the law of the step."""
        processes = by_leaf(moment.process)
        states: dict[str, Tensor] = x if isinstance(x, dict) else {"": x}
        if not all(isinstance(processes[leaf], Categorical) for leaf in states):
            raise UserError("TokenGuidance reweights categories, and a leaf of the state is something else")
        x0: Any = moment.look()
        beliefs = x0 if isinstance(x0, dict) else {"": x0}
        hot = {leaf: one_hot(value, processes[leaf].states).to(beliefs[leaf].dtype) for leaf, value in states.items()}  # type: ignore[attr-defined]
        slopes = self.slopes(hot if isinstance(x, dict) else hot[""], moment)
        laws = {}
        for leaf, value in states.items():
            own, row = processes[leaf], moment.leaf(leaf).row if isinstance(moment.process, Joint) else moment.row
            laws[leaf] = self.law(own, value, beliefs[leaf], slopes[leaf], row)  # type: ignore[arg-type]
        moment.memory["laws"] = laws
        return x

    def after(self, x: State, moment: Moment) -> State:
        """The step, drawn of the reweighted law."""
        if self.weight == 0:
            return x
        new = {}
        for leaf, law in moment.memory["laws"].items():
            assert moment.noise is not None
            u = uniforms(moment.noise.draw(tuple(law.shape[1:-1]), torch.float64, law.device, stream=f"tokens/{leaf}"))
            new[leaf] = draw(law, u)
        return new if isinstance(x, dict) else new[""]

    def law(self, process: Categorical, x: Tensor, x0: Tensor, slope: Tensor, row: Row) -> Tensor:
        """q(x_s | x_t), entry by entry.

        Args:
            process: of the leaf.
            x: its state (batch, *shape).
            x0: the belief (batch, *shape, categories).
            slope: g (batch, *shape, states).
            row: the step of this leaf.

        Returns:
            Probabilities (batch, *shape, states).
        """
        law = process.posterior(x, x0, row.alpha_t, row.alpha_s)  # type: ignore[arg-type]
        weighed = law * torch.exp(self.weight * (slope - slope.amax(-1, keepdim=True))) if self.weight else law
        total = weighed.sum(-1, keepdim=True)
        return torch.where(total > 0, weighed / total.clamp(min=torch.finfo(law.dtype).tiny), law)

    def slopes(self, hot: Any, moment: Moment) -> dict[str, Tensor]:
        """g of every leaf, tied entries added.

        Args:
            hot: one-hot states.
            moment: the step.

        Raises:
            UserError: the function does not give one number a sample.
        """

        def checked(state: Any) -> Tensor:
            value = self.function(state, moment.row.t, moment.condition)
            batch = len(next(iter(state.values())) if isinstance(state, dict) else state)
            if value.shape != (batch,):
                raise UserError(f"the score of TokenGuidance gives one number a sample, ({batch},), got {tuple(value.shape)}")
            return value

        _, found = value_and_slope(checked, hot)
        given: dict[str, Tensor] = found if isinstance(found, dict) else {"": found}
        space = moment.denoiser.space
        return {leaf: _tied(space.of(leaf) if isinstance(space, JointSpace) else space, g, moment.condition) for leaf, g in given.items()}


def _tied(space: Space, slope: Tensor, condition: Mapping[str, Any] | None) -> Tensor:
    """The slopes of entries that are one number, added; category by category, for a space knows states without categories."""
    return torch.stack([in_space(space, one, condition) for one in slope.unbind(-1)], -1)  # type: ignore[misc]
