"""Training of GDSS: two networks, one noisy graph, two losses that meet nowhere.

    L_leaf = 1/2 E sum over all entries of (sigma s + eps)^2,      t ~ U(1e-5, 1), no weight of time;   s the score, so sigma s = -eps_hat

The sum runs over nodes x features and over both halves of the matrix, its mean over the batch alone. Each network has an Adam of its own:
clipped by its own norm, decay of weights as a gradient (not AdamW's), a rate that falls by a factor an epoch.
Reference: Jo et al. 2022 (GDSS), arXiv:2202.02514, eq. 7; the released settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from unstir.denoiser import NetworkDenoiser
from unstir.errors import UserError
from unstir.plugin.protocols import Progress
from unstir.train import DenoiserTraining, Ended, Schedule, Trainer, Uniform
from unstir_molecules.gdss.networks import GDSSNetwork
from unstir_molecules.gdss.presets import T_MIN, Preset, Terminal, denoiser_of, facts_of, preset
from unstir_molecules.gdss.state import moments_of, state_of
from unstir_molecules.training_sets import TrainingGraphs


@dataclass(frozen=True)
class GDSSLoss:
    """The two losses of a batch.

    Args:
        low: smallest time of training.
    """

    low: float = T_MIN

    def parts(self, denoiser: NetworkDenoiser, x_t: Any, t: Tensor, noise: Any, condition: Mapping[str, Any] | None) -> dict[str, Tensor]:
        """The loss of each leaf at given noise.

        Args:
            denoiser: whose network predicts noise (vp) or score (ve).
            x_t: noisy states.
            t: (B,) times.
            noise: unit noise that is in them.
            condition: with ``mask``.

        Returns:
            A scalar a leaf.
        """
        found = denoiser.network(x_t, dict.fromkeys(x_t, t), condition)
        kinds: Any = denoiser.parameterisation
        losses = {}
        for leaf, process in denoiser.process.leaves.items():  # type: ignore[attr-defined]
            sigma = process.sigma(t).to(found[leaf])[:, None, None]
            error = noise[leaf] + sigma * found[leaf] if kinds[leaf] == "score" else noise[leaf] - found[leaf]
            losses[leaf] = error.square().sum((1, 2)).mean() / 2
        return losses

    def __call__(
        self, denoiser: NetworkDenoiser, x0: Any, generator: torch.Generator, condition: Mapping[str, Any] | None = None
    ) -> Tensor:
        """The sum of both, whose gradients meet in no weight.

        Args:
            denoiser: what is trained.
            x0: clean states.
            generator: the only source of randomness.
            condition: with ``mask``.
        """
        return sum(self.drawn(denoiser, x0, generator, condition).values())  # type: ignore[return-value]

    def drawn(
        self, denoiser: NetworkDenoiser, x0: Any, generator: torch.Generator, condition: Mapping[str, Any] | None = None
    ) -> dict[str, Tensor]:
        """The loss of each leaf at times and noise of a generator; arguments as of a call."""
        t = Uniform(self.low)(denoiser.process.clock, len(x0["a"]), generator)
        unit = {leaf: torch.randn(value.shape, generator=generator).to(value) for leaf, value in x0.items()}
        noise: Any = denoiser.space.draw(unit, condition)  # type: ignore[arg-type]
        return self.parts(denoiser, denoiser.process.perturb(x0, t, noise), t, noise, condition)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Epochs(Schedule):
    """A rate that falls by a factor after every epoch.

    Args:
        length: steps of an epoch.
        factor: of the fall.
    """

    length: int = 1
    factor: float = 0.999

    def at(self, step: int, steps: int) -> float:
        """Learning rate of a step (0-based)."""
        return self.rate * self.factor ** (step // self.length)


@dataclass
class TwoAdams(Trainer):
    """A trainer that treats the two networks as two: each clipped by its own norm, decay of weights as a gradient.

    Args:
        decay: share of the weights that is added to their gradients.
    """

    decay: float = 1e-4

    def run(self, folder: str | Path, *, resume: bool = False, progress: Progress = None) -> list[float]:
        """Train; see ``Trainer.run``."""
        self.plain: GDSSNetwork = self.denoiser.network  # type: ignore[assignment]
        return super().run(folder, resume=resume, progress=progress)

    def _before_step(self, wrapped: Any, optimiser: Any, fabric: Any) -> None:
        for network in (self.plain.x, self.plain.a):
            if self.clip > 0:
                torch.nn.utils.clip_grad_norm_(network.parameters(), self.clip)
            for parameter in network.parameters():
                if parameter.grad is not None:
                    parameter.grad.add_(parameter.detach(), alpha=self.decay)


@dataclass(frozen=True)
class GDSSBatches:
    """Batches of clean states: every graph where a batch takes all, else graphs drawn without repetition.

    Args:
        graphs: what is learnt.
        settings: with F and the size of a batch.
    """

    graphs: TrainingGraphs
    settings: Preset

    def __call__(self, step: int, generator: np.random.Generator) -> Mapping[str, Any]:
        """The batch of a step: states and their mask."""
        count = len(self.graphs.seen)
        chosen = np.arange(count) if self.settings.batch >= count else generator.choice(count, self.settings.batch, replace=False)
        part = self.graphs.seen.take(chosen).trimmed()
        return {"x0": state_of(part, self.settings.features, self.settings.molecules), "condition": {"mask": part.mask}}

    @property
    def epoch(self) -> int:
        """Steps in which as many graphs are seen as there are."""
        return -(-len(self.graphs.seen) // self.settings.batch)


@dataclass(frozen=True)
class GDSSTraining(DenoiserTraining[GDSSBatches]):
    """Train GDSS on a set and write its checkpoint folder.

    Args:
        data: dataset whose training part is learnt.
        options: its options.
        preset: published settings; sizes of the data (atoms, nodes) take the place of the preset's.
        features: F of plain graphs, degrees 0 to F - 1; the preset's when 0.
        terminal: ``"gap"``, schedules as published, which end in a mixture of data and noise; or ``"closed"``, which end in noise.
        steps: optimiser steps; as many epochs as published when 0.
        batch: graphs a step; the preset's when 0.
        rate: learning rate; the preset's when 0.
        decay: factor on the rate after every epoch.
        eps: smallest time.
        ema: decay of the averaged weights, with a warm-up.
        average: are the averaged weights kept in the checkpoint? "" as the preset says, "yes" or "no".
        clip: largest norm of each network's gradient.
        weight_decay: of Adam, as a gradient.
        every: steps between saved states (each validated).
        seed: of everything.

    Raises:
        UserError: an option out of range.
    """

    data: str = "graphs/community"
    options: dict[str, Any] = field(default_factory=dict)
    preset: str = "community-small"
    features: int = 0
    terminal: Terminal = "gap"
    steps: int = 0
    batch: int = 0
    rate: float = 0.0
    decay: float = 0.999
    eps: float = T_MIN
    ema: float = 0.999
    average: str = ""
    clip: float = 1.0
    weight_decay: float = 1e-4
    every: int = 1000
    seed: int = 0

    free: ClassVar[tuple[str, ...]] = ("steps", "every")
    registered: ClassVar[str] = "molecules/gdss"

    def __post_init__(self) -> None:
        preset(self.preset)
        if self.terminal not in ("gap", "closed"):
            raise UserError(f"terminal must be 'gap' or 'closed', got {self.terminal!r}")
        if self.average not in ("", "yes", "no"):
            raise UserError(f"average must be 'yes', 'no' or empty, got {self.average!r}")
        if min(self.features, self.steps, self.batch, self.rate) < 0:
            raise UserError("features, steps, batch and rate must not be negative; 0 takes what was published")
        if not T_MIN <= self.eps < 1:
            raise UserError(f"eps must be at least {T_MIN} and below 1, got {self.eps}")

    def sampler(self, item: xr.Dataset) -> GDSSBatches:
        """The graphs that are learnt, and the settings that fit them; with ``split``, only its "train".

        Raises:
            DataError: a degree does not fit the features, or there is nothing to learn from.
        """
        graphs = TrainingGraphs.of(item)
        return GDSSBatches(graphs, self.settings(graphs))

    def trainer(self, sampler: GDSSBatches, device: str = "cpu") -> TwoAdams:
        """The core's trainer, ready to run."""
        settings, epoch = sampler.settings, sampler.epoch
        made = self.prepared(
            self.denoiser(sampler),
            sampler,
            GDSSLoss(self.eps),
            self.steps or settings.epochs * epoch,
            Epochs(settings.rate, length=epoch, factor=self.decay),
            device,
            kind=TwoAdams,
            betas=(0.9, 0.999),
            decay=self.weight_decay,
            weight_decay=0.0,
        )
        assert isinstance(made, TwoAdams)
        return made

    def settings(self, graphs: TrainingGraphs) -> Preset:
        """The preset with the sizes of the data and the options of this training.

        Args:
            graphs: what is learnt.

        Raises:
            DataError: a degree does not fit the features.
        """
        base = preset(self.preset)
        molecules = graphs.vocabulary is not None
        features = graphs.vocabulary.kinds if graphs.vocabulary else self.features or base.features
        made = replace(
            base,
            nodes=graphs.largest,
            features=features,
            molecules=molecules,
            batch=self.batch or base.batch,
            rate=self.rate or base.rate,
            average=base.average if not self.average else self.average == "yes",
        )
        for part in (graphs.seen, graphs.kept):
            state_of(part, features, molecules)
        return made.closed() if self.terminal == "closed" else made

    def network(self, sampler: GDSSBatches) -> dict[str, Any]:
        """Keyword arguments of the network."""
        return sampler.settings.network()

    def denoiser(self, sampler: GDSSBatches) -> NetworkDenoiser:
        """The untrained denoiser; its weights depend on the seed alone."""
        return denoiser_of(sampler.settings, self.untrained(GDSSNetwork, self.network(sampler)))

    def averaged(self, trainer: Trainer, sampler: GDSSBatches) -> NetworkDenoiser:
        """The denoiser with the weights that the settings ask for, averaged or plain, in evaluation mode."""
        if sampler.settings.average:
            return super().averaged(trainer, sampler)
        assert isinstance(trainer, TwoAdams)
        other = self.denoiser(sampler)
        other.network.load_state_dict(trainer.plain.state_dict())
        return other.eval()

    def score(self, denoiser: NetworkDenoiser, sampler: GDSSBatches) -> dict[str, float]:
        """The losses of held-out graphs, each at 16 stratified times."""
        graphs, settings = sampler.graphs, sampler.settings
        held = graphs.kept.take(np.tile(np.arange(len(graphs.kept)), 16))
        x0 = state_of(held, settings.features, settings.molecules)
        with torch.inference_mode():
            losses = GDSSLoss(self.eps).drawn(denoiser, x0, torch.Generator().manual_seed(0), {"mask": held.mask})
        return {leaf: round(float(value), 4) for leaf, value in losses.items()}

    def card(self, ended: Ended[GDSSBatches]) -> str:
        """The model card."""
        graphs, settings, found = ended.sampler.graphs, ended.sampler.settings, ended.found
        return graphs.card(
            title="GDSS of " + ("molecules" if settings.molecules else "graphs"),
            how=f"preset {self.preset}, {ended.trainer.steps} steps of {min(settings.batch, len(graphs.seen))} graphs, "
            f"rate {settings.rate:g}, {'averaged' if settings.average else 'plain'} weights, {ended.where(2)} in the last run; "
            f"nodes {settings.x}, edges {settings.a}: signal-to-noise ratio at the end {settings.terminal_text()}",
            found=f"loss of {graphs.held_out} held-out training graphs: nodes {found['x']:.3f}, edges {found['a']:.3f} "
            "(half the squared error of the noise, summed over a graph)",
        )

    def facts(self, ended: Ended[GDSSBatches]) -> dict[str, Any]:
        """Vocabulary, sizes, moments of the states, settings of the sampler."""
        graphs, settings = ended.sampler.graphs, ended.sampler.settings
        moments = moments_of(graphs.seen.take(slice(0, 20000)), settings.features, settings.molecules)
        return facts_of(settings, graphs.facts() | {"moments": moments, "preset": self.preset, "terminal": self.terminal})
