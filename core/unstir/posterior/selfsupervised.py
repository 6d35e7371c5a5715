"""Train a denoiser of signals that were never seen, from measurements alone: the loss goes through the operator.

    u_t = alpha_t y_seen + sigma_t eps,    S = D(lift(u_t), t, view),      loss = w(t) || render(S) - y ||^2 over all that was measured

y_seen is a part of the measurement y of a signal (a context view, some pixels); the rest is held out, so that the network must fill in
what it does not see. With random views whose parts cover the signal, the minimiser is E[x_0 | u_t, view] in every entry.
Reference: Tewari et al. 2023, arXiv:2306.11719; Daras et al. 2023 (Ambient diffusion), arXiv:2305.19256.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from unstir.denoiser import Denoiser
from unstir.errors import UserError
from unstir.process.base import spread
from unstir.train.loss import DenoisingLoss
from unstir.train.times import TimeSampler, Uniform

View = Tensor


def _masked(signal: Tensor, view: View) -> Tensor:
    return signal * view


@dataclass(frozen=True)
class MeasurementLoss:
    """The denoising loss on measurements; exchange ``render`` and ``lift`` for another physics.

    Args:
        render: the forward operator, ``render(signal, view) -> measurement`` (batch, ...); by default the view is a mask of pixels.
        lift: from a (noisy) measurement to what the network takes as its state, such as A^H or A^+; by default the mask again.
        times: law of the training times.
        weight: as that of :class:`DenoisingLoss`; 1 by default, since what is held out stays uncertain at little noise, where other
            weights grow without bound.

    Raises:
        UnknownName: there is no such weight.
    """

    render: Callable[[Tensor, View], Tensor] = _masked
    lift: Callable[[Tensor, View], Tensor] = _masked
    times: TimeSampler = field(default_factory=Uniform)
    weight: str = "x0"

    def __post_init__(self) -> None:
        DenoisingLoss(self.times, self.weight)

    def __call__(
        self, denoiser: Denoiser, y: Tensor, view: View, seen: View, generator: torch.Generator, sigma_data: float = 0.5
    ) -> Tensor:
        """The loss of a batch.

        Args:
            denoiser: what is trained; told the view it sees as ``condition["view"]``.
            y: measurements of all views, (batch, ...).
            view: how each was measured, (batch, ...).
            seen: the part of the view that the network sees, of the same shape.
            generator: the only source of randomness.
            sigma_data: standard deviation of the data, for the weight.

        Returns:
            A scalar.

        Raises:
            UserError: measurements that are not finite.
        """
        if not bool(torch.isfinite(y).all()):
            raise UserError("measurements to train on must be finite")
        process, t = denoiser.process, self.times(denoiser.process, y.shape[0], generator)
        noise = torch.randn(y.shape, generator=generator, dtype=y.dtype).to(y.device)
        noisy: Any = spread(process.alpha(t), y) * y + spread(process.sigma(t), y) * noise
        signal = denoiser(self.lift(noisy, seen), t, {"view": seen})
        error = (self.render(signal, view) - y).square().flatten(1).mean(1)
        weights = DenoisingLoss(self.times, self.weight).weights(process, t, sigma_data).to(error)
        return (weights * error).mean()
