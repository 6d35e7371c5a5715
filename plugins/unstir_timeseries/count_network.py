"""A network that believes in rates: how much an item will sell on each day of a window, told the counts that are left of the window.

    r_h = lambda (z_h + a_h)/(lambda alpha + b_h),      a, b >= 0 told by the network from z, alpha and the context

Given x ~ Gamma(a, b) and z ~ Poisson(lambda alpha x) this is lambda E[x | z]: with constant a and b the law of the window is exactly
that of independent negative binomial counts, and what the network learns is the rest (the weekday, the level that all days share,
structural zeros). As a denoiser of `Thinning` of scale 1 the estimate is the rate r, in counts a step, so that the state reaches the count.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unstir.errors import UserError
from unstir.nn import LabelEmbedding


class CountNetwork(nn.Module):
    """Rates of a window of counts, of any length; for the linear schedule, alpha = 1 - t.

    The condition holds ``scale`` (batch, 1), lambda in counts a step; ``profile`` (batch, profile, steps), what is known of each step;
    ``facts`` (batch, facts) and ``history`` (batch, 3, context), what is known of the item, where the network was built with them.

    Args:
        profile: features of a step.
        facts: features of an item.
        context: steps of the history.
        width: channels.
        depth: residual blocks.
    """

    def __init__(self, profile: int = 0, facts: int = 0, context: int = 0, width: int = 64, depth: int = 3) -> None:
        super().__init__()
        self.profile, self.facts, self.context = profile, facts, context
        self.embed = LabelEmbedding(width, facts, "facts", high=16.0)
        self.remember = nn.Sequential(nn.Linear(3 * context, width), nn.SiLU(), nn.Linear(width, width)) if context else None
        self.enter = nn.Linear(5 + profile, width)
        self.norm = nn.ModuleList(nn.LayerNorm(width) for _ in range(depth))
        self.near = nn.ModuleList(nn.Conv1d(width, width, 7, padding=3, groups=width) for _ in range(depth))
        self.own = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.pooled = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.modulation = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.back = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.leave = nn.Linear(width, 2)
        nn.init.zeros_(self.leave.weight)
        nn.init.constant_(self.leave.bias, float(unsoftplus(torch.tensor(1.0))))

    def forward(self, x: Tensor, label: Tensor, condition: Mapping[str, Tensor] | None = None) -> Tensor:
        """Rates before the softplus that the denoiser puts on them.

        Args:
            x: counts (batch, steps).
            label: time t (batch,).
            condition: see the class.

        Returns:
            (batch, steps): softplus of it is the rate.

        Raises:
            UserError: the condition lacks something.
        """
        told = self._told(condition)
        z, dtype = x.to(self.leave.weight.dtype), self.leave.weight.dtype
        scale, alpha = told["scale"].to(dtype), (1 - label.reshape(-1, 1)).to(dtype)
        left = scale * alpha  # what a step of rate lambda would have left
        common = torch.cat([left.log1p(), (z.mean(1, keepdim=True) / (left + 0.1)).log1p()], 1)[:, None].expand(-1, z.shape[1], -1)
        parts = [torch.stack([z.log1p(), (z > 0).to(dtype), (z / (left + 1)).log1p()], -1), common]
        if self.profile:
            parts.append(told["profile"].to(dtype).mT)
        e = self.embed(label, {"facts": told["facts"]} if self.facts else None)
        if self.remember is not None:
            e = e + self.remember(told["history"].to(dtype).flatten(1))
        e, h = F.silu(e)[:, None], self.enter(torch.cat([part.expand(len(z), -1, -1) for part in parts], -1))
        for norm, near, own, pooled, modulation, back in zip(
            self.norm, self.near, self.own, self.pooled, self.modulation, self.back, strict=True
        ):
            v = norm(h)
            of_all = pooled(v.mean(1, keepdim=True)) + modulation(e)
            h = h + back(F.silu(own(v) + near(v.mT).mT + of_all))
        a, b = F.softplus(self.leave(F.silu(h))).unbind(-1)
        return unsoftplus(scale * (z + a) / (left + b + 1e-4))

    def _told(self, condition: Mapping[str, Tensor] | None) -> Mapping[str, Any]:
        wanted = ["scale"] + ["profile"] * bool(self.profile) + ["facts"] * bool(self.facts) + ["history"] * bool(self.context)
        missing = [name for name in wanted if condition is None or name not in condition]
        if missing or condition is None:
            raise UserError(f"a network of counts needs {' and '.join(missing)} in its condition")
        return condition


class Missing(nn.Module):
    """The same beliefs for training under pure death, `Blackout`, whose estimate is z + softplus(output): what has died is t r.

    If z_0 ~ Poisson(r), then E[z_0 - z | z] = (1 - alpha) E[r | z]: a network of rates is trained on the counts themselves.

    Args:
        network: rates before the softplus.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, label: Tensor, condition: Mapping[str, Tensor] | None = None) -> Tensor:
        """The number that has died, before the softplus.

        Args:
            x: counts (batch, steps).
            label: time (batch,).
            condition: of the network.
        """
        return unsoftplus(label[:, None] * F.softplus(self.network(x, label, condition)))


def unsoftplus(value: Tensor) -> Tensor:
    """log(e^v - 1), without overflow and down to the smallest normal number.

    Args:
        value: positive.
    """
    value = value.clamp(min=torch.finfo(value.dtype).tiny)
    return value + torch.log(-torch.expm1(-value))
