"""Experts by noise level: several small guiding networks, each for its own range of sigma/alpha, taught without labels.

    f(x, t) = f_k(x, t)  where  levels[k-1] <= sigma/alpha < levels[k]
    teach:  min E KL( softmax f_clean(x_0) || softmax f_k(alpha x_0 + sigma eps, t) ),    x_0 drawn by the diffusion model itself

The minimum over all functions is E[p_clean(c | x_0) | x_t]: the true p(c | x_t) if the clean network is right.
Reference: Go et al. 2023 (PPAP), arXiv:2212.05973; low-rank copies: Hu et al. 2021 (LoRA), arXiv:2106.09685.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unstir.errors import UserError
from unstir.process import Process


class Experts(nn.Module):
    """One network made of experts, each asked at its own noise levels; the ``model`` of a guide of noisy states.

    Args:
        networks: the experts, cleanest first, each called as ``network(x, t)``.
        levels: the sigma/alpha where one expert hands over to the next, increasing, one fewer than experts.
        process: whose times these are.

    Raises:
        UserError: levels do not increase, or are not one fewer than experts.
    """

    def __init__(self, networks: Sequence[nn.Module], levels: Sequence[float], process: Process) -> None:
        super().__init__()
        bounds = [0.0, *levels, math.inf]
        if len(levels) != len(networks) - 1 or any(low >= high for low, high in zip(bounds, bounds[1:], strict=False)):
            raise UserError(f"{len(networks)} experts need {len(networks) - 1} increasing positive levels between them, got {list(levels)}")
        self.networks, self.levels, self.process = nn.ModuleList(networks), tuple(map(float, levels)), process

    def forward(self, x: Tensor, t: Any) -> Tensor:
        """What the expert of the noise level gives.

        Args:
            x: noisy states (batch, *shape).
            t: one time, or one a sample (batch,).

        Returns:
            (batch, ...).
        """
        which = torch.bucketize(self.process.rho(t), torch.tensor(self.levels, dtype=torch.float64), right=True)
        if which.ndim == 0:
            return self.networks[int(which)](x, t)
        parts, places = [], []
        for k in which.unique().tolist():
            places.append((which == k).nonzero().squeeze(1).to(x.device))
            parts.append(self.networks[k](x[places[-1]], t[places[-1].to(t.device)]))
        return torch.cat(parts)[torch.cat(places).argsort()]

    def teach(
        self,
        teacher: Callable[[Tensor], Tensor],
        x0: Tensor,
        *,
        low: float,
        high: float,
        steps: int = 500,
        batch: int = 256,
        rate: float = 3e-3,
        seed: int = 0,
    ) -> Experts:
        """Teach every expert on its own levels what a clean classifier says of clean samples; no labels.

        Args:
            teacher: gives the logits (batch, classes) of clean states.
            x0: clean samples (count, *shape), drawn from the diffusion model or from data.
            low: the least sigma/alpha met in sampling, above 0.
            high: the largest, finite.
            steps: of Adam, for each expert.
            batch: samples a step.
            rate: Adam's, falling to 0 as half a cosine.
            seed: of batches, levels and noise.

        Returns:
            The experts themselves.
        """
        with torch.no_grad():
            belief = torch.softmax(teacher(x0), 1)
        bounds = [math.log(level) for level in (low, *self.levels, high)]
        for k, network in enumerate(self.networks):
            generator, first, last = torch.Generator().manual_seed(seed + k), bounds[k], bounds[k + 1]

            def loss(
                network: nn.Module = network, generator: torch.Generator = generator, first: float = first, last: float = last
            ) -> Tensor:
                index = torch.randint(len(x0), (batch,), generator=generator)
                rho = torch.exp(first + (last - first) * torch.rand(batch, generator=generator, dtype=torch.float64))
                t = self.process.time_at_rho(rho)
                noise = torch.randn(batch, *x0.shape[1:], generator=generator, dtype=x0.dtype)
                found = network(self.process.perturb(x0[index], t, noise), t)
                return F.cross_entropy(found, belief[index].to(found))

            minimise(network.parameters(), loss, steps=steps, rate=rate)
        return self


class LowRank(nn.Module):
    """A linear layer that stays as it is, plus a trained map of low rank: y = W x + b + B A x, with B = 0 at first.

    Args:
        layer: the linear layer; its parameters are frozen.
        rank: of B A.
    """

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        self.layer = layer.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(rank, layer.in_features).to(layer.weight) / math.sqrt(layer.in_features))
        self.up = nn.Parameter(layer.weight.new_zeros(layer.out_features, rank))

    @property
    def weight(self) -> Tensor:
        """W, for those who ask a layer for its precision."""
        return self.layer.weight

    def forward(self, x: Tensor) -> Tensor:
        """y (batch, ..., out_features)."""
        return self.layer(x) + F.linear(F.linear(x, self.down), self.up)


def low_rank_copy(network: nn.Module, rank: int, *, seed: int = 0) -> nn.Module:
    """A copy of a network of which only a low-rank part of every linear layer is trained: a cheap expert.

    Args:
        network: stays as it is.
        rank: of the trained part, at least 1.
        seed: of its first values.

    Returns:
        The copy; it gives what the network gives until it is trained.

    Raises:
        UserError: the network has no linear layer inside, or the rank is below 1.
    """
    made = copy.deepcopy(network).requires_grad_(False)
    places = [(owner, name, child) for owner in made.modules() for name, child in owner.named_children() if isinstance(child, nn.Linear)]
    if rank < 1 or not places:
        raise UserError(f"a low-rank copy needs linear layers and a rank of at least 1, got {len(places)} layers and rank {rank}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for owner, name, child in places:
            setattr(owner, name, LowRank(child, rank))
    return made


def minimise(parameters: Iterable[nn.Parameter], loss: Callable[[], Tensor], *, steps: int, rate: float) -> list[float]:
    """Adam with a rate that falls to 0 as half a cosine; parameters that need no gradient stay.

    Args:
        parameters: what is trained.
        loss: a new scalar at every call.
        steps: number of steps.
        rate: the first rate.

    Returns:
        The losses.
    """
    optimiser = torch.optim.Adam([one for one in parameters if one.requires_grad], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1))
    losses = []
    for _ in range(steps):
        optimiser.zero_grad()
        value = loss()
        value.backward()
        optimiser.step()
        schedule.step()
        losses.append(float(value.detach()))
    return losses
