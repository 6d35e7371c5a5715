"""Training of HypDiff: first the autoencoder, then its points are clustered, then the denoiser learns their coordinates.

    autoencoder   -log p(edges | z jittered), the mean over pairs, + weight d(0, z)^2
    denoiser      the core's loss of v on y = L_k^-1 u / s, u the tangent coordinates of z at the centre of its cluster k (`Chart`)

Both stages run on the core's trainer and resume. Flat points (``c=0``) and isotropic noise (``kappa=1, delta=0``) are options, so that each
part can be compared with its absence.

Reference: Fu et al. 2024 (HypDiff), arXiv:2405.03188.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from unstir import checkpoint
from unstir.denoiser import NetworkDenoiser, Normaliser
from unstir.errors import DataError, UserError
from unstir.plugin.protocols import Progress
from unstir.space import Masked
from unstir.train import DenoisingLoss, Schedule, Training
from unstir_molecules.dense import Dense
from unstir_molecules.hyperbolic.clusters import clustered
from unstir_molecules.hyperbolic.network import HypDiffNetwork
from unstir_molecules.hyperbolic.process import Radial
from unstir_molecules.training_sets import TrainingGraphs

KEPT = 512
"""Compositions (how many nodes of each cluster a graph has) that a checkpoint keeps, at most."""


@dataclass(frozen=True)
class AutoencoderLoss:
    """-log p(edges | points), jittered, and a pull to the origin.

    Args:
        jitter: standard deviation of the points' noise, a distance.
        pull: weight of d(0, z)^2.
    """

    jitter: float = 0.1
    pull: float = 1e-3

    def __call__(self, denoiser: NetworkDenoiser, x0: Tensor, generator: torch.Generator, condition: Mapping[str, Any]) -> Tensor:
        """The loss of a batch.

        Args:
            denoiser: whose network is trained.
            x0: zeros (B, N, dim).
            generator: the only source of randomness.
            condition: ``mask`` and ``adjacency``.

        Returns:
            A scalar, in nats a pair.
        """
        noise = self.jitter * torch.randn(x0.shape, generator=generator).to(x0)
        logits, away = denoiser.network(noise, x0.new_zeros(len(x0)), condition)
        mask, adjacency = condition["mask"], condition["adjacency"]
        pairs = (mask[:, :, None] & mask[:, None]).triu(1)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits[pairs], adjacency[pairs])
        return loss + self.pull * away[mask].square().mean()


@dataclass(frozen=True)
class HypDiffTraining(Training):
    """Train HypDiff on graphs and write its checkpoint folder.

    Args:
        data: dataset whose training part is learnt.
        options: its options.
        dim: of the points.
        c: the curvature is -c; 0 for flat space.
        clusters: K.
        kappa: noise across the direction of a cluster's centre relative to that along it; 1 for isotropic noise.
        delta: of the radial term; 0 for none.
        hidden, encoders: width and layers of the encoder.
        width, layers, heads: of the denoiser.
        jitter: of the points in the autoencoder's training.
        pull: of the points to the origin.
        encoding: optimiser steps of the autoencoder.
        steps: optimiser steps of the denoiser.
        batch: graphs a step.
        rate: learning rate of both.
        warmup: steps of its warm-up.
        ema: decay of the averaged weights.
        every: steps between saved states.
        seed: of everything.

    Raises:
        UserError: an option out of range.
    """

    data: str = "graphs/community"
    options: dict[str, Any] = field(default_factory=dict)
    dim: int = 16
    c: float = 0.6
    clusters: int = 4
    kappa: float = 0.5
    delta: float = 0.01
    hidden: int = 64
    encoders: int = 3
    width: int = 128
    layers: int = 4
    heads: int = 4
    jitter: float = 0.1
    pull: float = 1e-3
    encoding: int = 3000
    steps: int = 10000
    batch: int = 64
    rate: float = 1e-3
    warmup: int = 100
    ema: float = 0.999
    every: int = 1000
    seed: int = 0

    free: ClassVar[tuple[str, ...]] = ("steps", "encoding", "every")

    def __post_init__(self) -> None:
        if min(self.dim, self.clusters, self.encoding, self.steps, self.batch) < 1:
            raise UserError("dim, clusters, encoding, steps and batch must be at least 1")
        if self.c < 0 or not self.kappa > 0 or self.jitter < 0 or self.pull < 0:
            raise UserError(
                f"c, jitter and pull must not be negative and kappa positive, got {self.c}, {self.jitter}, {self.pull}, {self.kappa}"
            )
        self.process  # noqa: B018 (its own checks)

    @property
    def process(self) -> Radial:
        """The process of a state."""
        return Radial(delta=self.delta, c=self.c)

    def fit(self, item: xr.Dataset, out: str | Path, *, device: str = "cpu", progress: Progress = None, resume: bool = False) -> Path:
        """Train (or go on) on a set at hand in ``out/autoencoder`` and ``out/training`` and write the checkpoint to ``out``.

        Args:
            item: a set of graphs; where it says which are for the test, these are not seen.
            out: the checkpoint folder.
            device: ``"cpu"`` or ``"cuda"``.
            progress: told of each step of both stages.
            resume: go on from the last states kept?

        Returns:
            The checkpoint folder.

        Raises:
            DataError: the set is one of molecules, whose kinds of nodes and bonds this model does not know.
        """
        out, started = Path(out), time.monotonic()
        out.mkdir(parents=True, exist_ok=True)
        graphs = TrainingGraphs.of(item)
        if graphs.vocabulary is not None:
            raise DataError("HypDiff is a model of plain graphs, and this is a set of molecules")
        whole = self.encoding + self.steps
        denoiser = self.denoiser(1.0)
        loss: Any = AutoencoderLoss(self.jitter, self.pull)
        first = self.prepared(denoiser, self.batches(graphs.seen), loss, self.encoding, self.schedule(self.encoding), device)
        first.run(out / "autoencoder", resume=resume, progress=part(progress, 0, whole))
        denoiser.network.load_state_dict(first.averages["ema"].weights())
        network: Any = denoiser.network.eval()
        with torch.inference_mode():
            points = encoded(network, graphs.seen)
        mask = graphs.seen.mask
        found = clustered(network.space, points[mask], self.clusters)
        network.centres[: len(found.centres)] = found.centres
        cluster = torch.zeros(mask.shape, dtype=torch.long)
        cluster[mask] = found.cluster
        with torch.inference_mode():
            y = network.chart.coordinates(points, cluster) * mask[..., None]
        scale = max(float(y[mask].square().mean().sqrt()), 1e-6)
        state = network.state_dict()
        denoiser = self.denoiser(scale, state)
        draw = self.latents(y.clone() / scale, cluster, mask)
        second = self.prepared(denoiser, draw, DenoisingLoss(weight="v"), self.steps, self.schedule(self.steps), device)
        second.run(out / "training", resume=resume, progress=part(progress, self.encoding, whole))
        final = self.denoiser(scale, state | second.averages["ema"].weights()).eval()
        accuracy = self.restored(final.network, graphs.kept)
        names = "flat space" if self.c == 0 else f"curvature -{self.c:g}"
        final.card = graphs.card(
            title="HypDiff of graphs",
            how=f"{self.dim} dimensions of {names}, {len(found.centres)} clusters, kappa {self.kappa:g}, delta {self.delta:g}; "
            f"{self.encoding} steps of the autoencoder and {self.steps} of the denoiser, {self.batch} graphs each, one {device} "
            f"({platform.machine()}), {(time.monotonic() - started) / 3600:.2f} h in the last run",
            found=f"the decoder restores {accuracy:.1%} of the pairs of {graphs.held_out} held-out training graphs",
        )
        facts = graphs.facts() | {"model": "hypdiff", "compositions": compositions(cluster, mask, self.clusters)}
        return checkpoint.save(final, out, network="molecules/hypdiff", config=self.network(), facts=facts)

    def schedule(self, steps: int) -> Schedule:
        """Learning rate of a stage.

        Args:
            steps: of the stage.
        """
        return Schedule(self.rate, self.warmup, steps // 3, 0.01)

    def network(self) -> dict[str, Any]:
        """Keyword arguments of the network."""
        return {name: getattr(self, name) for name in ("dim", "c", "clusters", "kappa", "hidden", "encoders", "width", "layers", "heads")}

    def denoiser(self, scale: float, weights: Mapping[str, Tensor] | None = None) -> NetworkDenoiser:
        """The denoiser, untrained or with given weights; untrained ones depend on the seed alone.

        Args:
            scale: s, of the coordinates.
            weights: of the network.
        """
        network = self.untrained(HypDiffNetwork, self.network())
        if weights is not None:
            network.load_state_dict(weights)
        normaliser = Normaliser(scale=scale)
        return NetworkDenoiser(
            network, self.process, parameterisation="v", shape=(-1, self.dim), space=Masked("mask"), normaliser=normaliser
        )

    def batches(self, seen: Dense) -> Callable[[int, np.random.Generator], Mapping[str, Any]]:
        """Batches of the autoencoder.

        Args:
            seen: the graphs.
        """

        def draw(step: int, generator: np.random.Generator) -> Mapping[str, Any]:
            part = seen.take(generator.integers(len(seen), size=self.batch))
            adjacency = (part.e > 0).float()
            return {"x0": torch.zeros(*part.mask.shape, self.dim), "condition": {"mask": part.mask, "adjacency": adjacency}}

        return draw

    def latents(self, y: Tensor, cluster: Tensor, mask: Tensor) -> Callable[[int, np.random.Generator], Mapping[str, Any]]:
        """Batches of the denoiser.

        Args:
            y: (graphs, N, dim) states.
            cluster: (graphs, N).
            mask: (graphs, N).
        """

        def draw(step: int, generator: np.random.Generator) -> Mapping[str, Any]:
            chosen = torch.from_numpy(generator.integers(len(y), size=self.batch))
            return {"x0": y[chosen], "condition": {"mask": mask[chosen], "cluster": cluster[chosen]}}

        return draw

    def restored(self, network: Any, graphs: Dense) -> float:
        """Share of the pairs whose edge or absence the decoder finds again.

        Args:
            network: encoder and decoder.
            graphs: held-out ones.
        """
        with torch.inference_mode():
            right = (network.logits(encoded(network, graphs)) > 0) == (graphs.e > 0)
        pairs = (graphs.mask[:, :, None] & graphs.mask[:, None]).triu(1)
        return float(right[pairs].double().mean())


def encoded(network: Any, graphs: Dense) -> Tensor:
    """Points of the nodes of graphs (graphs, N, dim).

    Args:
        network: with the encoder.
        graphs: to encode.
    """
    parts = [graphs.take(slice(start, start + 256)) for start in range(0, len(graphs), 256)]
    return torch.cat([network.encoded((one.e > 0).float(), one.mask) for one in parts])


def compositions(cluster: Tensor, mask: Tensor, clusters: int) -> list[list[int]]:
    """How many nodes of each cluster a graph has, for graphs spread evenly over the set.

    Args:
        cluster: (graphs, N).
        mask: (graphs, N).
        clusters: K.
    """
    chosen = np.unique(np.linspace(0, len(mask) - 1, min(len(mask), KEPT)).round().astype(int))
    return [torch.bincount(cluster[i][mask[i]], minlength=clusters).tolist() for i in chosen]


def part(progress: Progress, done: int, whole: int) -> Progress:
    """Progress of one stage, told as that of all.

    Args:
        progress: told of the whole.
        done: steps before.
        whole: steps in all.
    """
    return None if progress is None else lambda step, steps: progress(done + step, whole)
