"""Training of PARD: all blocks of a graph in one pass, or every prefix as a graph of its own.

    E_i sum_b [ KL(q(x_s | x_t, x_0) || p(x_s | x_t)) + 0.1 CE(x_0) ]_b  -  sum_b log p(size_b, degree_b | G_<b),     t = i/T, i uniform

At t = 1/T the divergence is the cross-entropy of the clean kinds; the divergence to the prior is 0, for nothing survives to t = 1. In one
pass all blocks of a graph share their time.
Reference: Zhao, Ding and Akoglu 2024 (PARD), arXiv:2402.03687; Austin et al. 2021 (the hybrid loss), arXiv:2107.03006.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from unstir.denoiser import TokenDenoiser
from unstir.errors import UnknownName, UserError
from unstir.train import VLB, DenoiserTraining, Ended, Schedule, Trainer
from unstir_molecules.dense import Dense
from unstir_molecules.pard.blocks import Ordered
from unstir_molecules.pard.denoiser import SCHEDULE, bound, denoiser_of, next_losses
from unstir_molecules.pard.network import PARDNetwork
from unstir_molecules.pard.order import Weighting, block_sizes, check_order
from unstir_molecules.pard.presets import PRESETS, Preset
from unstir_molecules.training_sets import TrainingGraphs

Mode = Literal["parallel", "sequential"]


@dataclass(frozen=True)
class BlockLoss:
    """The loss of a batch of graphs, per graph: a step of the bound on its blocks, and what their sizes and degrees cost.

    Args:
        steps: T, of a block.
        cross_entropy: weight of the cross-entropy of clean kinds, beside the divergence of one step.
        following: weight of the cross-entropy of sizes and degrees.
    """

    steps: int = 50
    cross_entropy: float = 0.1
    following: float = 1.0

    def __call__(self, denoiser: Any, x0: Any, generator: torch.Generator, condition: Mapping[str, Any] | None = None) -> Tensor:
        """The loss.

        Args:
            denoiser: of blocks.
            x0: the clean state.
            generator: the only source of randomness.
            condition: see ``Ordered.condition``; with a ``stage`` in it, all stages of each graph.

        Returns:
            A scalar, nats a graph and step.
        """
        if condition is None:
            raise UserError("the loss of blocks must be told the blocks: give Ordered(...).condition() as the condition")
        heard = _Heard(denoiser.network)
        asked = TokenDenoiser(heard, denoiser.process, denoiser.shape, space=denoiser.space)
        diffusion = VLB(self.steps, self.cross_entropy * self.steps)(asked, x0, generator, condition) / self.steps  # type: ignore[arg-type]
        following = torch.stack(list(next_losses(heard.said, condition).values())).sum(0).mean()
        rows = len(condition["block"]) / int((condition["stage"] == 0).sum()) if "stage" in condition else 1.0
        return (diffusion + self.following * following) * rows


class _Heard(nn.Module):
    """A network that is overheard: one pass tells the kinds to the core's loss, and sizes and degrees to ours."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.said: dict[str, Tensor] = {}

    def forward(self, x: Any, label: Any, condition: Any) -> dict[str, Tensor]:
        self.said = self.network(x, label, condition)
        return self.said


@dataclass(frozen=True)
class PARDTraining(DenoiserTraining["TrainingBlocks"]):
    """Train PARD on molecules or graphs and write its checkpoint folder.

    Args:
        data: dataset whose training part is learnt.
        options: its options.
        preset: a name of `PRESETS`, whose numbers hold where none is given here.
        mode: all blocks in one pass (``"parallel"``), or every prefix a graph (``"sequential"``), whose nodes then see all of the prefix.
        weighting: of the structural order.
        hops: K of the structural order.
        width, layers, edge_width, products, heads: of the network, see :class:`PARDNetwork`.
        diffusion: T, steps of a block.
        cross_entropy: its weight beside the divergence.
        batch: graphs a step.
        epochs: how often each graph is seen.
        steps: optimiser steps; from the epochs when 0.
        rate: learning rate of the plateau.
        warmup: steps of its warm-up.
        decay: share of the steps on the linear way down at the end.
        ema: decay of the averaged weights.
        clip: largest norm of a gradient.
        weight_decay: of AdamW.
        precision: as Lightning Fabric takes it.
        every: steps between saved states (each validated).
        seed: of everything.

    Raises:
        UnknownName: there is no such preset.
        UserError: an option out of range.
    """

    data: str = "molecules/qm9-sample"
    options: dict[str, Any] = field(default_factory=dict)
    preset: str = "qm9-cpu"
    mode: Mode = "parallel"
    weighting: Weighting = "pard"
    hops: int | None = None
    width: int | None = None
    layers: int | None = None
    edge_width: int | None = None
    products: int | None = None
    heads: int | None = None
    diffusion: int | None = None
    cross_entropy: float = 0.1
    batch: int | None = None
    epochs: float | None = None
    steps: int = 0
    rate: float | None = None
    warmup: int = 500
    decay: float = 0.4
    ema: float = 0.999
    clip: float = 1.0
    weight_decay: float = 0.01
    precision: str | None = None
    every: int = 1000
    seed: int = 0

    free: ClassVar[tuple[str, ...]] = ("every",)
    registered: ClassVar[str] = "molecules/pard"
    dtype: ClassVar[torch.dtype | None] = torch.float16
    measure: ClassVar[str] = "nats"

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise UnknownName("preset", self.preset, list(PRESETS))
        if self.mode not in get_args(Mode):
            raise UserError(f"mode is 'parallel' or 'sequential', got {self.mode!r}")
        check_order(self.chosen.hops, self.weighting)
        for name in ("width", "layers", "edge_width", "products", "heads", "diffusion", "batch"):
            if (value := getattr(self.chosen, name)) < 1:
                raise UserError(f"{name} must be at least 1, got {value}")
        if not 0 <= self.decay <= 1 or self.steps < 0 or not (self.chosen.epochs > 0 and self.chosen.rate > 0):
            raise UserError("decay is a share between 0 and 1, steps at least 0, epochs and rate above 0")

    @property
    def chosen(self) -> Preset:
        """The preset, with what was given in its place."""
        given = {name: getattr(self, name) for name in asdict(PRESETS[self.preset]) if getattr(self, name) is not None}
        return Preset(**{**asdict(PRESETS[self.preset]), **given})

    def sampler(self, item: xr.Dataset) -> TrainingBlocks:
        """The graphs that are learnt, in their order; with ``split``, only its "train"."""
        return TrainingBlocks.of(TrainingGraphs.of(item, batch=self.chosen.batch), self)

    def trainer(self, sampler: TrainingBlocks, device: str = "cpu") -> Trainer:
        """The core's trainer, ready to run.

        Args:
            sampler: what is learnt.
            device: ``"cpu"`` or ``"cuda"``.
        """
        chosen = self.chosen
        steps = self.steps or math.ceil(chosen.epochs * len(sampler.ordered) / chosen.batch)
        schedule = Schedule(chosen.rate, min(self.warmup, max(1, steps // 10)), int(self.decay * steps), 0.01)
        loss = BlockLoss(chosen.diffusion, self.cross_entropy)
        return self.prepared(self.denoiser(sampler), sampler, loss, steps, schedule, device, precision=chosen.precision)

    def network(self, sampler: TrainingBlocks) -> dict[str, Any]:
        """Keyword arguments of the network."""
        words = sampler.graphs.vocabulary
        kinds = {"nodes": words.kinds, "edges": len(words.bonds)} if words else {"nodes": 1, "edges": 2}
        sizes = {name: getattr(self.chosen, name) for name in ("width", "layers", "edge_width", "products", "heads", "hops")}
        visibility = "causal" if self.mode == "parallel" else "prefix"
        return {**kinds, **sizes, "largest": sampler.graphs.largest, "visibility": visibility, "weighting": self.weighting}

    def denoiser(self, sampler: TrainingBlocks) -> TokenDenoiser:
        """The untrained denoiser; its weights depend on the seed alone, and it knows how large first blocks are."""
        network = self.untrained(PARDNetwork, self.network(sampler))
        network.first.copy_(sampler.first)
        return denoiser_of(network, SCHEDULE)

    def score(self, denoiser: TokenDenoiser, sampler: TrainingBlocks) -> dict[str, float]:
        """The bound on held-out training graphs and its parts, nats a graph; without graphs whose first block has a size never seen."""
        found = bound(denoiser, sampler.held(), steps=self.chosen.diffusion, draws=10)
        finite = torch.isfinite(found["total"])
        return {name: round(float(value[finite].mean()), 3) for name, value in found.items()}

    def card(self, ended: Ended[TrainingBlocks]) -> str:
        """The model card."""
        graphs = ended.sampler.graphs
        return graphs.card(
            title="PARD, " + ("molecules" if graphs.vocabulary else "graphs"),
            how=f"{json.dumps(asdict(self.chosen))}, {self.mode}, {ended.trainer.steps} steps, {ended.where()} in the last run",
            found=f"bound on -log p(graph) of held-out training graphs, nats: {json.dumps(ended.found)}",
        )

    def facts(self, ended: Ended[TrainingBlocks]) -> dict[str, Any]:
        """Vocabulary, sizes, steps of a block."""
        return {**ended.sampler.graphs.facts(), "diffusion": self.chosen.diffusion}


@dataclass(frozen=True)
class TrainingBlocks:
    """Graphs in their order to train on, a batch drawn by (step, generator) alone.

    Args:
        graphs: what is learnt, and what is known of it.
        ordered: the learnt graphs, their blocks one after the other.
        training: the options.
    """

    graphs: TrainingGraphs
    ordered: Ordered
    training: PARDTraining

    @classmethod
    def of(cls, graphs: TrainingGraphs, training: PARDTraining) -> TrainingBlocks:
        """The graphs in their order.

        Args:
            graphs: what is learnt.
            training: the options.
        """
        return cls(graphs, Ordered.of(graphs.seen, training.chosen.hops, training.weighting), training)

    @property
    def first(self) -> Tensor:
        """(largest + 1,) how often the first block has each size."""
        sizes = block_sizes(self.ordered.block)[:, 0]
        counts = torch.bincount(sizes, minlength=self.graphs.largest + 1)
        return counts / counts.sum()

    def held(self) -> Dense:
        """The held-out graphs."""
        return self.graphs.kept.take(slice(None))

    def __call__(self, step: int, generator: np.random.Generator) -> Mapping[str, Any]:
        """The batch of a step: graphs, with their blocks; or each of their prefixes."""
        chosen = generator.integers(len(self.ordered), size=self.training.chosen.batch)
        drawn, stage = self.ordered.take(np.sort(chosen)).trimmed(), None
        if self.training.mode == "sequential":
            drawn, stage = drawn.prefixes()
        condition = drawn.condition(stage)
        kinds = self.graphs.vocabulary.kinds if self.graphs.vocabulary else 1
        return {"x0": drawn.state(condition, kinds), "condition": condition}
