"""Averages of a network's weights, kept in float32.

EMA:    theta' <- b theta' + (1 - b) theta,   b = min(decay, (1 + n)/(10 + n))
Power:  b = (1 - 1/n)^(gamma + 1), whose width relative to the training time stays fixed       [Karras et al. 2024, arXiv:2312.02696]
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass
class Average(ABC):
    """A running average of every floating-point entry of a state dict; the rest is copied.

    Args:
        values: the averages, by entry of the state dict; float32.
        count: updates taken in so far.
    """

    values: dict[str, Tensor] = field(default_factory=dict, repr=False)
    count: int = 0

    @abstractmethod
    def keep(self, count: int) -> float:
        """Share of the old average at the update number ``count`` (1 is the first)."""

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take in the network's present weights."""
        self.count += 1
        share = self.keep(self.count) if self.values else 0.0
        for key, value in network.state_dict().items():
            if not value.is_floating_point():
                self.values[key] = value.detach().clone()
            elif key not in self.values:
                self.values[key] = value.detach().float().clone()
            else:
                self.values[key].lerp_(value.detach().float(), 1 - share)

    def weights(self) -> dict[str, Tensor]:
        """The averaged state dict, float32."""
        return dict(self.values)


@dataclass
class EMA(Average):
    """Exponential average with a warm-up.

    Args:
        decay: share of the old average after the warm-up, in [0, 1).
    """

    decay: float = 0.999

    def keep(self, count: int) -> float:
        """min(decay, (1 + n)/(10 + n))."""
        return min(self.decay, (1 + count) / (10 + count))


@dataclass
class PowerEMA(Average):
    """Average of fixed relative width.

    Args:
        gamma: exponent; 6.94 is a width of 0.10 of the training, 16.97 of 0.05.
    """

    gamma: float = 6.94

    def keep(self, count: int) -> float:
        """(1 - 1/n)^(gamma + 1)."""
        return (1 - 1 / count) ** (self.gamma + 1)
