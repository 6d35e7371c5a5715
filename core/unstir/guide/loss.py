"""Guidance by losses of the clean estimate: downhill, with the gradient through the denoiser or past it.

    D' = D - w (sigma^2/alpha) J^T sum_i grad L_i(D),  J = dD/dx          through the denoiser
    D' = D - w r^2 sum_i grad L_i(D),  r^2 = rho^2/(1 + rho^2/s^2)        past it: the gradient is skipped, J taken as (alpha r^2/sigma^2) I

Several losses are one sum and one gradient. On normal data N(m, c) and L = (x0 - y)^2/2, both (s^2 = c) end, as steps become fine, at

    mean  m + (y - m) sqrt(2wc) F(sqrt(wc/2)),     variance  c exp(-wc)           F(v) = exp(-v^2) int_0^v exp(u^2) du

where Bayes' rule has m + (y - m) wc/(1 + wc) and c/(1 + wc). The published steps of their own, x_s - k grad L after a step or
x_t - s grad L(x0) before it, are :class:`unstir.guide.value.ValueGuidance` of V = -L; their repeated steps are the solver ``time-travel``.
Reference: Nair et al. 2023 (Steered Diffusion), arXiv:2310.00224; Bansal et al. 2023 (universal guidance), arXiv:2302.07121;
Patel et al. 2024 (FlowChef, gradient skipping), arXiv:2412.00100.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from unstir.errors import UserError
from unstir.guide.classifier import Uphill

Loss = Callable[[Tensor, Mapping[str, Any] | None], Tensor]


def itself(x0: Tensor, t: Any = None) -> Tensor:
    """The state itself: a loss of x0 and of nothing else."""
    return x0


@dataclass(frozen=True, eq=False)
class LossGuidance(Uphill):
    """Guidance down any loss of the clean estimate; one evaluation of the denoiser and, through it, its transpose.

    ``jacobian=False`` is gradient skipping: no transpose, half the time, exact for normal data with one variance s^2 = ``data_std``^2.

    Args:
        model: what the losses are of, a pretrained inverse model say, called as ``model(x0)``; x0 itself when absent.
        losses: one loss or several, called as ``loss(model(x0), condition)``, differentiable; each gives one number a sample (batch,).
        weight: w; 0 is the denoiser, to the bit.
        on: ``"clean"``; ``"noisy"`` for losses of noisy states, ``model(x, t)``, with the gradient in x: a value is minus a loss.
        jacobian: is the denoiser differentiated?
        data_std: s of the gradient without the Jacobian, in units of the state.
        low: guide from this sigma/alpha on.
        high: guide up to this sigma/alpha.
        entries: names of entries of the condition that are the losses' and kept from the denoiser.

    Raises:
        UserError: no loss, or an option out of range.
    """

    model: Callable[..., Tensor] = itself
    losses: Loss | Sequence[Loss] = ()
    on: str = "clean"
    entries: tuple[str, ...] = ()
    exactness: ClassVar[str] = "biased: the loss of the mean stands for that of all x0 that fit x_t; exact to first order in w, small noise"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "losses", (self.losses,) if callable(self.losses) else tuple(self.losses))
        if not self.losses:
            raise UserError("loss guidance needs a loss, or several")

    def hidden(self) -> tuple[str, ...]:
        """What only the losses are told."""
        return self.entries

    def score(self, output: Tensor, condition: Mapping[str, Any] | None) -> Tensor:
        """Minus the sum of the losses.

        Raises:
            UserError: a loss does not give one number a sample.
        """
        total = output.new_zeros(output.shape[0])
        for loss in self.losses:  # type: ignore[union-attr]
            value = loss(output, condition)
            if value.shape != total.shape:
                raise UserError(f"a loss gives one number a sample, ({total.shape[0]},), got {tuple(value.shape)}")
            total = total - value
        return total
