"""The denoising loss: E w(t) ||D(x_t, t) - x_0||^2, x_t drawn from the process.

Every parameterisation is trained through its denoiser; the weight says in which unit the error counts:

    x0: 1        eps: SNR        v: SNR + 1        edm: (rho^2 + s^2)/(rho s)^2        min-snr: min(SNR, 5)        SNR = 1/rho^2
[EDM, arXiv:2206.00364; Min-SNR, arXiv:2303.09556]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from unstir.denoiser import NetworkDenoiser
from unstir.errors import UnknownName
from unstir.process import Joint, Process
from unstir.train.times import TimeSampler, Uniform

WEIGHTS = ("x0", "eps", "v", "edm", "min-snr")


@dataclass(frozen=True)
class DenoisingLoss:
    """Mean of w(t) ||D(x_t, t) - x_0||^2 over the batch and the entries of a state.

    Args:
        times: law of the training times.
        weight: one of `WEIGHTS`.
        most: weights above this are clipped (0: never), so that one near-clean draw cannot rule a batch.

    Raises:
        UnknownName: there is no such weight.
    """

    times: TimeSampler = field(default_factory=Uniform)
    weight: str = "eps"
    most: float = 0.0

    def __post_init__(self) -> None:
        if self.weight not in WEIGHTS:
            raise UnknownName("loss weight", self.weight, WEIGHTS)

    def weights(self, process: Process, t: Tensor, sigma_data: float) -> Tensor:
        """w(t), shape of ``t``, float64."""
        inverse = process.rho(t) ** -2
        made = {
            "x0": lambda: torch.ones_like(inverse),
            "eps": lambda: inverse,
            "v": lambda: inverse + 1,
            "edm": lambda: inverse + sigma_data**-2,
            "min-snr": lambda: inverse.clamp(max=5.0),
        }[self.weight]()
        return made.clamp(max=self.most) if self.most > 0 else made

    def __call__(
        self, denoiser: NetworkDenoiser, x0: Any, generator: torch.Generator, condition: Mapping[str, Any] | None = None
    ) -> Tensor:
        """The loss of a batch.

        Args:
            denoiser: what is trained.
            x0: clean states ``(batch, *shape)``, or a dict of leaves.
            generator: the only source of randomness.
            condition: as for the denoiser; ``anchor`` for anchored processes.

        Returns:
            A scalar.
        """
        process = denoiser.process
        count = (next(iter(x0.values())) if isinstance(x0, Mapping) else x0).shape[0]
        anchor = (condition or {}).get("anchor")
        t: Any
        if not isinstance(process, Joint):
            t = self.times(process, count, generator)
            x_t = process.perturb(x0, t, denoiser.space.draw(_normal(x0, generator), condition), anchor)
            return self._leaf(process, denoiser.sigma_data, t, denoiser(x_t, t, condition), _target(denoiser, x0))
        if process.shared_time:
            t = self.times(process.clock, count, generator)
        else:
            t = {leaf: self.times(part, count, generator) for leaf, part in process.leaves.items()}
        noise = denoiser.space.draw({leaf: _normal(value, generator) for leaf, value in x0.items()}, condition)  # type: ignore[arg-type]
        x_t = process.perturb(x0, t, noise, anchor)
        found, at = denoiser(x_t, t, condition), process.times(t)
        clean = {leaf: _target(denoiser, value) for leaf, value in x0.items()}
        return sum(  # type: ignore[return-value]
            self._leaf(part, denoiser.sigma_data, at[leaf], found[leaf], clean[leaf]) for leaf, part in process.leaves.items()
        )

    def _leaf(self, process: Process, sigma_data: float, t: Tensor, found: Tensor, x0: Tensor) -> Tensor:
        error = (found.float() - x0.float()).square().flatten(1).mean(1)
        return (self.weights(process, t, sigma_data).to(error) * error).mean()


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)


def _target(denoiser: NetworkDenoiser, x0: Tensor) -> Tensor:
    return x0[:, denoiser.context : x0.shape[1] - denoiser.context] if denoiser.context else x0
