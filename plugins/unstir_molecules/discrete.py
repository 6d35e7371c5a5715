"""Graphs as categories: every atom and every bond is replaced, one by one, by a draw of a law, and a transformer believes what it was.

    q(x_t | x_0) = alpha_t 1{x_t = x_0} + (1 - alpha_t) m,      loss = sum over nodes and edges of -log p(x_0 | G_t)

m are the marginals of the data (DiGress), uniform, or a mask. All else is the core's: process, loss, solvers, steers.

Reference: Vignac et al. 2023 (DiGress), arXiv:2209.14734; Austin et al. 2021 (D3PM), arXiv:2107.03006; Shi et al. 2024 (MD4),
arXiv:2406.04329.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import xarray as xr
from torch import Tensor

import unstir
from unstir import checkpoint, names, registry
from unstir.denoiser import TokenDenoiser
from unstir.errors import CheckpointError, UserError
from unstir.guide import CFG
from unstir.plugin.protocols import Case, Estimate, Progress
from unstir.process import Categorical, Joint
from unstir.process.discrete import SymmetricTokens
from unstir.space import JointSpace, Masked
from unstir.train import EMA, Schedule, Trainer
from unstir.train.discrete import PathLoss, nelbo
from unstir_molecules.dense import Dense
from unstir_molecules.sampling import as_set, drawn, drawn_sizes, of_width, vocabulary_of
from unstir_molecules.steering import Steering
from unstir_molecules.training_sets import TrainingGraphs

SPACE = JointSpace({"nodes": Masked("mask"), "edges": SymmetricTokens("mask")})
SHAPE: dict[str, tuple[int, ...]] = {"nodes": (-1,), "edges": (-1, -1)}


@dataclass(frozen=True)
class DiscreteTraining:
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
        steps: optimiser steps.
        batch: graphs a step.
        rate: learning rate of the plateau.
        warmup: steps of its warm-up.
        decay: steps of the linear way down at the end.
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

    needs: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if self.noise not in ("marginal", "uniform", "absorbing"):
            raise UserError(f"noise is 'marginal', 'uniform' or 'absorbing', got {self.noise!r}")
        if not 0 <= self.told <= 1 or not self.edges > 0:
            raise UserError(f"told is a share between 0 and 1 and edges a weight above 0, got {self.told} and {self.edges}")
        if self.width % self.heads:
            raise UserError(f"width must be a multiple of heads, got {self.width} and {self.heads}")

    def run(self, out: str | Path, *, device: str = "cpu", progress: Progress = None, resume: bool = False) -> Path:
        """Train (or go on) in ``out/training`` and write the checkpoint to ``out``; validation goes to ``out/validation.jsonl``.

        Returns:
            The checkpoint folder.
        """
        item = next(iter(registry.resolve("data", self.data)(**self.options).load()))
        return self.fit(item, out, device=device, progress=progress, resume=resume)

    def fit(self, item: xr.Dataset, out: str | Path, *, device: str = "cpu", progress: Progress = None, resume: bool = False) -> Path:
        """Train on a set at hand.

        Args:
            item: a set of molecules or of graphs; where it says which are for the test, these are not seen.
            out: the checkpoint folder.
            device: ``"cpu"`` or ``"cuda"``.
            progress: told of each step.
            resume: go on from the last state kept?

        Returns:
            The checkpoint folder.
        """
        out = Path(out)
        out.mkdir(parents=True, exist_ok=True)
        sampler = TrainingGraphs.of(item, batch=self.batch, targets=self.targets, told=self.told)
        process, started, log = self.process(sampler), time.monotonic(), out / "validation.jsonl"
        denoiser = self.denoiser(sampler, process)

        def validate(step: int, trainer: Trainer) -> None:
            held = self.averaged(trainer, sampler, process)
            line = {"step": step, "seconds": round(time.monotonic() - started), "nats": self.score(held, sampler)}
            kept = [json.loads(text) for text in log.read_text().splitlines()] if log.exists() else []
            log.write_text("".join(json.dumps(one) + "\n" for one in [*(old for old in kept if old["step"] < step), line]))

        loss = PathLoss(0.01, (("edges", self.edges),)) if self.bound else PathLoss(1.0, (("edges", self.edges),), bound=False)
        trainer = Trainer(
            denoiser,  # type: ignore[arg-type]
            sampler,
            loss,  # type: ignore[arg-type]
            self.steps,
            Schedule(self.rate, self.warmup, self.decay, 0.01),
            {"ema": EMA(decay=self.ema)},
            self.seed,
            clip=self.clip,
            weight_decay=self.weight_decay,
            accelerator="cuda" if device.startswith("cuda") else "cpu",
            precision=self.precision,
            every=self.every,
            config={key: value for key, value in asdict(self).items() if key not in ("steps", "decay", "every")},
            on_save=validate,
        )
        trainer.run(out / "training", resume=resume, progress=progress)
        denoiser = self.averaged(trainer, sampler, process)
        nats = self.score(denoiser, sampler)
        denoiser.card = sampler.card(
            title="Discrete diffusion of " + ("molecules" if sampler.vocabulary else "graphs"),
            how=f"GraphTransformer, {self.noise} noise ({self.schedule}), {self.steps} steps of {self.batch} graphs, one {device} "
            f"({platform.machine()}), {(time.monotonic() - started) / 3600:.1f} h in the last run",
            found=f"bound on -log p(graph | size) of {sampler.held_out} held-out training graphs: {nats:.2f} nats",
        )
        return checkpoint.save(
            denoiser, out, network="molecules/graph-transformer", config=self.network(sampler), dtype=torch.float16, facts=sampler.facts()
        )

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

    def denoiser(self, sampler: TrainingGraphs, process: Joint) -> TokenDenoiser:
        """The untrained denoiser; its weights depend on the seed alone."""
        from unstir_molecules.transformer import GraphTransformer

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = GraphTransformer(**self.network(sampler))
        return TokenDenoiser(network, process, dict(SHAPE), space=SPACE)

    def averaged(self, trainer: Trainer, sampler: TrainingGraphs, process: Joint) -> TokenDenoiser:
        """The denoiser with the averaged weights, in evaluation mode."""
        other = self.denoiser(sampler, process)
        other.network.load_state_dict(trainer.averages["ema"].weights())
        return other.eval()

    def score(self, denoiser: TokenDenoiser, sampler: TrainingGraphs) -> float:
        """The bound on -log p of held-out training graphs, in nats a graph."""
        x0, condition = sampler.held()
        with torch.inference_mode():
            return float(nelbo(denoiser, x0, draws=8, condition=condition).mean())


@dataclass(frozen=True)
class Discrete:
    """Draw graphs or molecules of a discrete diffusion.

    Args:
        solver: a discrete solver of the core.
        grid: its times.
        nodes: sizes other than the learnt ones, see `unstir_molecules.sampling.drawn_sizes`.
        batch: graphs (of 9 nodes; fewer of larger ones) worked on at a time.
        maximise, by, particles, temperature, draws, scaffold: see :class:`Steering`.
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
    by: Literal["svdd", "fk"] = "svdd"
    particles: int = 8
    temperature: float = 0.05
    draws: int = 1
    scaffold: str = ""
    targets: str = ""
    weight: float = 2.0

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
        return Steering(self.maximise, self.by, self.particles, self.temperature, self.draws, self.scaffold)

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
        short = -len(mask) % (steering.group // steering.copies)  # FK's last problem is filled up
        wide = torch.cat([mask, mask[-1:].expand(short, -1)]).repeat_interleave(steering.copies, 0)
        told = self.told(prior)
        guides = (
            [CFG(self.weight, keys=("targets",)), *options.pop("guides", ())] if told and self.weight != 1 else options.pop("guides", ())
        )
        made: Any = unstir.sample(
            sized,
            len(wide),
            solver=self.solver,
            grid=self.grid,
            guides=guides,
            steers=[*steering.steers(vocabulary_of(prior), mask, graphs_of, ("nodes", "edges")), *options.pop("steers", ())],
            condition={"mask": wide, **told, **options.pop("condition", {})},
            seed=seed,
            progress=progress,
            **options,
        )
        found = graphs_of(made.x, wide).take(slice(0, None, steering.copies)).take(slice(0, len(mask)))
        return found, made.nfe * steering.copies


def graphs_of(state: Mapping[str, Tensor], mask: Tensor) -> Dense:
    """The graphs of clean states.

    Args:
        state: ``nodes`` (B, N) and ``edges`` (B, N, N).
        mask: (B, N) nodes that are there.
    """
    return Dense.of(state["nodes"], state["edges"], mask.sum(1))
