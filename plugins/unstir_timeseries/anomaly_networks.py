"""Anomaly scores by networks: diffusion time asked of a network (DTE), and the error of a diffusion model's reconstruction.

    x_s = x_0 + sigma_s eps,    sigma_t^2 = 1 - abar_t,  t uniform;      the network is shown x_s alone and tells t

References: Livernoche et al. 2024, On Diffusion Modeling for Anomaly Detection, arXiv:2305.18593 (DTE); Ho et al. 2020, arXiv:2006.11239
(the diffusion model that reconstructs).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from unstir.errors import DataError, UserError
from unstir.plugin.options import one_of, positive
from unstir.plugin.protocols import Progress
from unstir.process import EDM, VPTable
from unstir_timeseries.anomaly_windows import STRANGERS, AnomalyMethod, Array, Comparison, Ranked

Variant = Literal["categorical", "inverse-gamma", "gaussian"]
Network = TypeVar("Network", bound=nn.Module)
ADDED = EDM()
"""Noise added without shrinking the data: x + sigma eps."""


def noise_levels(steps: int) -> Array:
    """sigma_t^2 = 1 - abar_t of the diffusion time table (steps,), beta linear from 1e-4 to 0.01.

    Args:
        steps: T, at least 2.
    """
    levels: Array = VPTable("linear", steps, 1e-4, 0.01).sigma(torch.arange(steps, dtype=torch.float64)).square().numpy()
    return levels


def time_bin(t: Any, steps: int, bins: int) -> Any:
    """Number of the equal time bin that a step lies in, floor(bins t / steps).

    Args:
        t: steps, 0 ... steps-1; an array or a tensor.
        steps: T.
        bins: number of bins.
    """
    return t * bins // steps


@dataclass(frozen=True)
class DTE(AnomalyMethod):
    """Diffusion time by a network: it is shown x_s = x + sigma_s eps and asked for the noise; one evaluation a point.

        categorical:    logits of equal time bins, cross entropy on the logits;  score sum_b b p_b          (DTE-C)
        inverse-gamma:  log b, maximise log b - b/((d/2 - 1) sigma_t^2);         score the mode 2 b/d       (DTE-IG)
        gaussian:       t/T by mean squared error;                               score t                    (DTE-Gaussian)

    The published code gives a softmax to a cross entropy that applies another; here it is applied once, and in float64 when scoring, so
    that distant points do not tie.

    Args:
        variant: "categorical", "inverse-gamma" or "gaussian".
        steps: T of the table of noise levels.
        bins: time bins of the categorical variant.
        updates: optimiser steps (published: 400 epochs).
        batch: points of a step.
        rate: learning rate of Adam (published: 1e-4, with which a small set is left half learnt; chosen by how well the noise put on
            held-out normal points is told, no anomaly seen).
        weight_decay: of Adam.
        dropout: share of hidden units left out in training.
        hidden: widths of the hidden layers.

    Raises:
        UserError: an option is out of range.
    """

    variant: Variant = "categorical"
    steps: int = 400
    bins: int = 7
    updates: int = 2000
    batch: int = 64
    rate: float = 1e-3
    weight_decay: float = 5e-4
    dropout: float = 0.5
    hidden: tuple[int, ...] = (256, 512, 256)

    def __post_init__(self) -> None:
        one_of(self, variant=Variant)
        positive(self, "updates", "batch", "rate")
        object.__setattr__(self, "hidden", tuple(self.hidden))
        if not 2 <= self.bins <= self.steps:
            raise UserError(f"bins must lie between 2 and the {self.steps} steps, got {self.bins}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout must be at least 0 and below 1, got {self.dropout}")
        if not self.hidden or min(self.hidden) < 1:
            raise UserError(f"hidden must list positive widths, got {list(self.hidden)}")

    def rank(self, reference: Array, query: Array, how: Comparison = STRANGERS) -> Ranked:
        """Train on the reference, score the query.

        Raises:
            DataError: fewer than 3 features in the inverse gamma variant.
        """
        size = dimension_of(query) if self.variant == "inverse-gamma" else query.shape[1]
        data, levels = torch.from_numpy(reference).float().to(how.device), torch.from_numpy(noise_levels(self.steps))

        def build() -> nn.Module:
            widths, parts = (size, *self.hidden), list[nn.Module]()
            for before, after in zip(widths[:-1], widths[1:], strict=True):
                parts += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(self.dropout)]
            last = nn.Linear(widths[-1], self.bins if self.variant == "categorical" else 1)
            if self.variant == "inverse-gamma":  # from below, where the loss's slope is bounded by 1
                nn.init.constant_(last.bias, float(levels[0].log()) + math.log(size / 2 - 1))
            return nn.Sequential(*parts, last).to(how.device)

        def loss(network: nn.Module, generator: torch.Generator) -> Tensor:
            rows = torch.randint(len(data), (self.batch,), generator=generator)
            t = torch.randint(self.steps, (self.batch,), generator=generator)
            noise = torch.randn((self.batch, size), generator=generator)
            x = ADDED.perturb(data[rows.to(how.device)], levels[t].sqrt(), noise.to(how.device))
            return self.loss(network(x), t.to(how.device), levels[t].to(how.device, torch.float32), size)

        network = trained(build, loss, self.updates, self.rate, self.weight_decay, how.seed, how.progress)
        with torch.inference_mode():
            values = torch.cat([network(part.float().to(how.device)).cpu().double() for part in torch.from_numpy(query).split(8192)])
        said = [] if how.own is None else ["the network was trained on the very points that it scores"]
        return Ranked(self.of(values, size).numpy(), 1, said)

    def loss(self, found: Tensor, t: Tensor, level: Tensor, size: int) -> Tensor:
        """The variant's loss.

        Args:
            found: what the network gave (batch, outputs).
            t: the true steps (batch,).
            level: sigma_t^2 (batch,).
            size: d.
        """
        if self.variant == "categorical":
            return nn.functional.cross_entropy(found, time_bin(t, self.steps, self.bins))
        if self.variant == "gaussian":
            return nn.functional.mse_loss(found[:, 0], t.to(found) / self.steps)
        return (found[:, 0].exp() / (level * (size / 2 - 1)) - found[:, 0]).mean()

    def of(self, found: Tensor, size: int) -> Tensor:
        """The score of what the network gave: expected bin, mode of sigma^2, or step.

        Args:
            found: (rows, outputs), float64.
            size: d.
        """
        if self.variant == "categorical":
            return torch.softmax(found, dim=1) @ torch.arange(self.bins, dtype=found.dtype)
        return found[:, 0] * self.steps if self.variant == "gaussian" else 2 * found[:, 0].exp() / size


@dataclass(frozen=True)
class Reconstruction(AnomalyMethod):
    """A diffusion model of normal points: noise a point, sample back from there, measure how far it comes out.

        x_t = x + sigma eps,    x^ = sample from (x_t, t),    score = mean over repeats of ||x - x^||^2 / d

    Args:
        level: sigma of the noise put on, in units of the data's spread (0.955 is index 250 of DDPM's 1000, the published start).
        evaluations: steps back.
        repeats: noises a point.
        solver: of the core; "ddpm" draws, "ddim" does not.
        updates: optimiser steps of the training.
        batch: points of a step.
        rate: learning rate.
        width: of the residual perceptron.
        depth: its blocks.

    Raises:
        UserError: an option is out of range.
    """

    level: float = 0.955
    evaluations: int = 50
    repeats: int = 1
    solver: str = "ddpm"
    updates: int = 3000
    batch: int = 256
    rate: float = 1e-3
    width: int = 256
    depth: int = 3

    def __post_init__(self) -> None:
        positive(self, "level", "evaluations", "repeats", "updates", "batch", "rate", "width", "depth")

    def rank(self, reference: Array, query: Array, how: Comparison = STRANGERS) -> Ranked:
        """Train on the reference, reconstruct the query."""
        from unstir import NetworkDenoiser, sample
        from unstir.nn import MLP
        from unstir.noise import NoiseSource
        from unstir.train import DenoisingLoss, LogNormal

        data, size = torch.from_numpy(reference).float().to(how.device), query.shape[1]
        objective = DenoisingLoss(LogNormal(), "edm")

        def build() -> NetworkDenoiser:
            network = MLP(size, self.width, self.depth).to(how.device)
            return NetworkDenoiser(network, ADDED, parameterisation="edm", shape=(size,), sigma_data=1.0)

        def loss(denoiser: Any, generator: torch.Generator) -> Tensor:
            return objective(denoiser, data[torch.randint(len(data), (self.batch,), generator=generator).to(how.device)], generator)

        denoiser: Any = trained(build, loss, self.updates, self.rate, 0.0, how.seed, how.progress)
        clean = torch.from_numpy(query).float().repeat_interleave(self.repeats, dim=0).to(how.device)
        noise = NoiseSource(how.seed, range(len(clean))).draw((size,), clean.dtype, how.device, "anomaly")
        start = (ADDED.perturb(clean, self.level, noise), self.level)
        low = min(ADDED.t_min, self.level / 2)
        grid = f"log-snr:{self.evaluations},sigma_max={self.level},sigma_min={low}"
        found = sample(denoiser, len(clean), solver=self.solver, grid=grid, start=start, seed=how.seed, batch=8192)
        back: Any = found.x
        error = (back.double() - clean.double()).square().mean(dim=1).reshape(-1, self.repeats).mean(dim=1)
        said = [] if how.own is None else ["the model was trained on the very points that it scores"]
        return Ranked(error.cpu().numpy(), found.nfe * self.repeats, said)


def trained(
    build: Callable[[], Network],
    loss: Callable[[Network, torch.Generator], Tensor],
    steps: int,
    rate: float,
    weight_decay: float,
    seed: int,
    progress: Progress,
) -> Network:
    """A network made and trained by Adam, gradients clipped to norm 1; the same seed gives the same bits.

    Args:
        build: makes it.
        loss: of a batch that it draws from the generator.
        steps: of the optimiser.
        rate: learning rate.
        weight_decay: of Adam.
        seed: of the first weights, the batches and dropout.
        progress: called with (steps done, steps).

    Raises:
        DataError: the loss stopped being finite.
    """
    generator = torch.Generator().manual_seed(seed % 2**63)
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(seed % 2**63)
        network = build().train()
        optimiser = torch.optim.Adam(network.parameters(), rate, weight_decay=weight_decay)
        for step in range(steps):
            optimiser.zero_grad()
            value = loss(network, generator)
            value.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            if progress is not None and (step + 1) % 100 == 0:
                progress(step + 1, steps)
    if not torch.isfinite(value):
        raise DataError("the training of the anomaly scores stopped being finite: a smaller learning rate may help")
    return network.eval()


def dimension_of(query: Array) -> int:
    """The number of features, where the law of the noise level has a norm.

    Args:
        query: (rows, features).

    Raises:
        DataError: fewer than 3 features.
    """
    if query.shape[1] < 3:
        raise DataError(f"the law of the diffusion time needs at least 3 features (steps of a window), got {query.shape[1]}: take knn")
    return query.shape[1]
