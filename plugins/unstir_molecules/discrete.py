"""Graphs as categories: every atom and every bond is replaced, one by one, by a draw of a law, and a transformer believes what it was.

    q(x_t | x_0) = alpha_t 1{x_t = x_0} + (1 - alpha_t) m,      loss = sum over nodes and edges of -log p(x_0 | G_t)

m are the marginals of the data (DiGress), uniform, or a mask. All else is the core's: process, loss, solvers, steers.

Reference: Vignac et al. 2023 (DiGress), arXiv:2209.14734; Austin et al. 2021 (D3PM), arXiv:2107.03006; Shi et al. 2024 (MD4),
arXiv:2406.04329.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
import xarray as xr
from torch import Tensor

import unstir
from unstir import names
from unstir.denoiser import TokenDenoiser
from unstir.errors import CheckpointError, UserError
from unstir.guide import CFG
from unstir.plugin.protocols import Case, Estimate, Progress
from unstir.process import Categorical, Joint
from unstir.process.discrete import SymmetricTokens
from unstir.space import JointSpace, Masked
from unstir.train import DenoiserTraining, Ended, Schedule, Trainer
from unstir.train.discrete import PathLoss, nelbo
from unstir_molecules.dense import Dense
from unstir_molecules.sampling import as_set, drawn, drawn_sizes, of_width, vocabulary_of
from unstir_molecules.steering import By, Steering
from unstir_molecules.training_sets import TrainingGraphs

SPACE = JointSpace({"nodes": Masked("mask"), "edges": SymmetricTokens("mask")})
PAIRS = 1_000_000
"""Pairs of nodes that held-out graphs are judged on at a time."""
BYTES, LARGE = 50, 4.0
"""Of memory that a pair of nodes takes in training, for each layer and channel of an edge (measured); GB above which it is announced."""
SHAPE: dict[str, tuple[int, ...]] = {"nodes": (-1,), "edges": (-1, -1)}


@dataclass(frozen=True)
class DiscreteTraining(DenoiserTraining[TrainingGraphs]):
    """Train a discrete diffusion of graphs and write its checkpoint folder.

    Args:
        data: dataset whose training part is learnt.
        options: its options.
        noise: ``"marginal"``, ``"uniform"`` or ``"absorbing"``.
        schedule: survival against time.
        legacy: features as DiGress has them, faults included.
        targets: properties that the network is told for some of the molecules ("qed", "logp", "sa").
        told: share of the molecules whose properties it is told.
        width, edge_width, graph_width, heads, layers, mixes: of the network, see :class:`GraphTransformer`.
        edges: weight of an edge in the loss.
        bound: train the bound on -log p (with a hundredth of the cross-entropy), in place of the cross-entropy alone?
        steps: optimiser steps; by the number of graphs when 0 (`DiscreteTraining.length`).
        batch: graphs a step; by their size when 0 (`fitting_batch`).
        rate: learning rate of the plateau.
        warmup: steps of its warm-up.
        decay: steps of the linear way down at the end; two fifths of them when ``steps`` is 0.
        ema: decay of the averaged weights.
        clip: largest norm of a gradient.
        weight_decay: of AdamW.
        precision: as Lightning Fabric takes it.
        every: steps between saved states (each validated).
        seed: of everything.

    Raises:
        UserError: an option out of range.
    """

    data: str = "molecules/qm9-sample"
    options: dict[str, Any] = field(default_factory=dict)
    noise: Literal["marginal", "uniform", "absorbing"] = "marginal"
    schedule: str = "cosine"
    legacy: bool = False
    targets: tuple[str, ...] = ()
    told: float = 0.7
    width: int = 96
    edge_width: int = 32
    graph_width: int = 64
    heads: int = 6
    layers: int = 5
    mixes: int = 8
    edges: float = 1.0
    bound: bool = False
    steps: int = 20000
    batch: int = 128
    rate: float = 1e-3
    warmup: int = 500
    decay: int = 8000
    ema: float = 0.999
    clip: float = 1.0
    weight_decay: float = 1e-4
    precision: str = "32-true"
    every: int = 1000
    seed: int = 0

    registered: ClassVar[str] = "molecules/graph-transformer"
    dtype: ClassVar[torch.dtype | None] = torch.float16
    measure: ClassVar[str] = "nats"

    def __post_init__(self) -> None:
        if self.noise not in ("marginal", "uniform", "absorbing"):
            raise UserError(f"noise is 'marginal', 'uniform' or 'absorbing', got {self.noise!r}")
        if not 0 <= self.told <= 1 or not self.edges > 0:
            raise UserError(f"told is a share between 0 and 1 and edges a weight above 0, got {self.told} and {self.edges}")
        if self.width % self.heads:
            raise UserError(f"width must be a multiple of heads, got {self.width} and {self.heads}")
        if min(self.steps, self.batch) < 0:
            raise UserError(f"steps and batch must not be negative, got {self.steps} and {self.batch}; 0 takes what fits the data")

    def sampler(self, item: xr.Dataset) -> TrainingGraphs:
        """The graphs that are learnt; with ``split``, only its "train"."""
        made = TrainingGraphs.of(item, batch=self.batch, targets=self.targets, told=self.told)
        return made if self.batch else replace(made, batch=fitting_batch(made.largest))

    def trainer(self, sampler: TrainingGraphs, device: str = "cpu") -> Trainer:
        """The core's trainer, ready to run."""
        loss = PathLoss(0.01, (("edges", self.edges),)) if self.bound else PathLoss(1.0, (("edges", self.edges),), bound=False)
        memory = BYTES * sampler.batch * sampler.largest**2 * self.layers * self.edge_width / 1e9
        if memory > LARGE:
            what = f"a step of {sampler.batch} graphs of up to {sampler.largest} nodes takes about {memory:.0f} GB of memory"
            warnings.warn(f"{what}; a smaller batch, edge_width or number of layers takes less", stacklevel=2)
        steps, schedule = self.steps, Schedule(self.rate, self.warmup, self.decay, 0.01)
        if not steps:
            steps = self.length(sampler)
            schedule = Schedule(self.rate, min(self.warmup, steps // 10), 2 * steps // 5, 0.01)
        return self.prepared(self.denoiser(sampler), sampler, loss, steps, schedule, device)

    def length(self, sampler: TrainingGraphs) -> int:
        """Optimiser steps that suit a set on a CPU: a hundred times each graph, within 2,000 and 20,000 steps."""
        return min(max(100 * len(sampler.seen) // sampler.batch, 2000), 20000)

    def process(self, sampler: TrainingGraphs) -> Joint:
        """The process: a law of noise for nodes and one for edges."""
        leaves = {}
        for leaf, shares in (("nodes", sampler.node_shares), ("edges", sampler.edge_shares)):
            law = {"marginals": tuple(float(share) for share in shares)} if self.noise == "marginal" else {}
            leaves[leaf] = Categorical(max(len(shares), 2), self.noise, schedule=self.schedule, **law)  # type: ignore[arg-type]
        return Joint(leaves, shared_time=True)

    def network(self, sampler: TrainingGraphs) -> dict[str, Any]:
        """Keyword arguments of the network."""
        kinds = {"nodes": max(len(sampler.node_shares), 2), "edges": max(len(sampler.edge_shares), 2)}
        sizes = {name: getattr(self, name) for name in ("width", "edge_width", "graph_width", "heads", "layers", "mixes", "legacy")}
        orders = list(range(kinds["edges"])) if sampler.vocabulary else []
        return {**kinds, **sizes, "largest": sampler.largest, "orders": orders, "targets": len(self.targets)}

    def denoiser(self, sampler: TrainingGraphs) -> TokenDenoiser:
        """The untrained denoiser; its weights depend on the seed alone."""
        from unstir_molecules.transformer import GraphTransformer

        network = self.untrained(GraphTransformer, self.network(sampler))
        return TokenDenoiser(network, self.process(sampler), dict(SHAPE), space=SPACE)

    def score(self, denoiser: TokenDenoiser, sampler: TrainingGraphs) -> float:
        """The bound on -log p of held-out training graphs, in nats a graph."""
        size, parts = max(1, PAIRS // sampler.largest**2), []
        for start in range(0, sampler.held_out, size):
            x0, condition = ({key: value[start : start + size] for key, value in part.items()} for part in sampler.held())
            with torch.inference_mode():
                parts.append(nelbo(denoiser, x0, draws=8, condition=condition, seed=start))
        return float(torch.cat(parts).mean())

    def card(self, ended: Ended[TrainingGraphs]) -> str:
        """The model card."""
        sampler = ended.sampler
        return sampler.card(
            title="Discrete diffusion of " + ("molecules" if sampler.vocabulary else "graphs"),
            how=f"GraphTransformer, {self.noise} noise ({self.schedule}), {ended.trainer.steps} steps of {sampler.batch} graphs, "
            f"{ended.where()} in the last run",
            found=f"bound on -log p(graph | size) of {sampler.held_out} held-out training graphs: {ended.found:.2f} nats",
        )

    def facts(self, ended: Ended[TrainingGraphs]) -> dict[str, Any]:
        """Vocabulary, sizes, properties told."""
        return ended.sampler.facts()


@dataclass(frozen=True)
class Discrete:
    """Draw graphs or molecules of a discrete diffusion.

    Args:
        solver: a discrete solver of the core.
        grid: its times.
        nodes: sizes other than the learnt ones, see `unstir_molecules.sampling.drawn_sizes`.
        batch: graphs (of 9 nodes; fewer of larger ones) worked on at a time.
        maximise, by, particles, temperature, draws, scaffold, regressor: see :class:`Steering`.
        targets: values of the properties that the model was trained to be told, as "qed:0.6"; empty for none.
        weight: of classifier-free guidance towards them; 1 for none.

    Raises:
        UserError: an option out of range.
    """

    solver: str = "discrete-ancestral"
    grid: str = "uniform:100"
    nodes: str = ""
    batch: int = 1024
    maximise: str = ""
    by: By = "svdd"
    particles: int = 8
    temperature: float = 0.05
    draws: int = 1
    scaffold: str = ""
    targets: str = ""
    weight: float = 2.0
    regressor: str = ""

    needs: ClassVar[tuple[str, ...]] = ()
    uses_prior: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise UserError(f"batch must be at least 1, got {self.batch}")
        names.solver(self.solver)
        names.grid(self.grid)
        self.steering  # noqa: B018 (its own checks)

    @property
    def steering(self) -> Steering:
        """How the samples are steered."""
        return Steering(self.maximise, self.by, self.particles, self.temperature, self.draws, self.scaffold, self.regressor)

    def told(self, prior: Any) -> dict[str, Tensor]:
        """The condition that tells the network its targets.

        Args:
            prior: trained with ``targets``.

        Raises:
            CheckpointError: it was not told this property in training.
            UserError: ``targets`` is not like "qed:0.6,logp:1".
        """
        if not self.targets:
            return {}
        known, values = list(prior.facts.get("targets") or []), {}
        for pair in self.targets.split(","):
            name, _, number = pair.strip().partition(":")
            try:
                values[name] = float(number)
            except ValueError as error:
                raise UserError(f"targets are like 'qed:0.6,logp:1', got {self.targets!r}") from error
            if name not in known:
                raise CheckpointError(f"this checkpoint cannot be told {name!r}; it was trained to be told {', '.join(known) or 'nothing'}")
        return {"targets": torch.tensor([[values.get(name, torch.nan) for name in known]])}

    def check_prior(self, prior: Any) -> None:
        """Refuse a checkpoint that is no discrete model of graphs.

        Args:
            prior: a checkpoint's denoiser.

        Raises:
            CheckpointError: it is of another kind.
        """
        vocabulary_of(prior)
        if not isinstance(prior, TokenDenoiser):
            raise CheckpointError("this checkpoint is no discrete diffusion of graphs: take the method it was trained for")

    def __call__(self, case: Case, prior: Any, seed: int, *, progress: Progress = None) -> Estimate:
        """``case.context["count"]`` new graphs.

        Args:
            case: of a task of generation.
            prior: a discrete model of graphs.
            seed: of the draws.
            progress: told of steps.

        Returns:
            The set; ``nfe`` counts the evaluations of one graph.
        """
        self.check_prior(prior)
        sizes = drawn_sizes(prior.facts["sizes"], int(case.context["count"]), seed, self.nodes)
        found, nfe = drawn(lambda mask, keyed, told: self.draw(prior, mask, keyed, told), sizes, seed, batch=self.batch, progress=progress)
        info = {"solver": self.solver, "grid": self.grid, "nodes": self.nodes, "prior_sha256": getattr(prior, "sha256", None)}
        return Estimate(as_set(found, vocabulary_of(prior), case.key), nfe=nfe, info=info)

    def draw(self, prior: Any, mask: Tensor, seed: int, progress: Progress = None, **options: Any) -> tuple[Dense, int]:
        """Graphs on the nodes of a mask.

        Args:
            prior: a discrete model of graphs.
            mask: (B, N) nodes that are there.
            seed: of the draws.
            progress: told of steps.
            options: guides, steers and more for `unstir.sample`.

        Returns:
            B graphs, and evaluations a graph.
        """
        sized, steering = of_width(prior, mask.shape[1]), self.steering
        wide, told = steering.widened(mask), self.told(prior)
        _, steers = steering.parts(prior, mask, graphs_of, ("nodes", "edges"))
        guides = (
            [CFG(self.weight, keys=("targets",)), *options.pop("guides", ())] if told and self.weight != 1 else options.pop("guides", ())
        )
        made: Any = unstir.sample(
            sized,
            len(wide),
            solver=self.solver,
            grid=self.grid,
            guides=guides,
            steers=[*steers, *options.pop("steers", ())],
            condition={"mask": wide, **told, **options.pop("condition", {})},
            seed=seed,
            progress=progress,
            **options,
        )
        found = graphs_of(made.x, wide).take(slice(0, None, steering.copies)).take(slice(0, len(mask)))
        return found, made.nfe * steering.copies


def fitting_batch(nodes: int) -> int:
    """Graphs a step whose pairs of nodes are about as many as those of 128 molecules of a dozen atoms; at least 4.

    Args:
        nodes: of the largest graph, to which all are padded.
    """
    return min(max(128 * 12**2 // nodes**2, 4), 128)


def graphs_of(state: Mapping[str, Tensor], mask: Tensor) -> Dense:
    """The graphs of clean states.

    Args:
        state: ``nodes`` (B, N) and ``edges`` (B, N, N).
        mask: (B, N) nodes that are there.
    """
    return Dense.of(state["nodes"], state["edges"], mask.sum(1))
