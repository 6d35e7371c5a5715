"""Graphs of a HypDiff model, through the core's one loop.

    composition of clusters ~ those of training graphs of as many nodes,    y ~ unstir.sample,    z = exp at centre k of L_k s y,
    edge (i, j) with the decoder's probability, or where d(z_i, z_j)^2 < r

Edges are drawn: the decoder says how likely an edge is, and the likely ones alone make other graphs than those learnt, for half-likely
pairs are then all there or all absent (measured: benchmarks/molecules.md).
A graph depends on the seed and what `unstir_molecules.sampling.drawn` says, not on its neighbours.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

import unstir
from unstir import names
from unstir.errors import CheckpointError, UserError
from unstir.noise import NoiseSource
from unstir.plugin.protocols import Case, Estimate, Progress
from unstir_molecules.dense import Dense
from unstir_molecules.hyperbolic.network import HypDiffNetwork
from unstir_molecules.sampling import as_set, drawn, drawn_sizes, vocabulary_of


@dataclass(frozen=True)
class HypDiff:
    """Draw graphs of a HypDiff model.

    Args:
        solver: a solver of the core.
        grid: its times.
        edges: "drawn" with the decoder's probabilities, or the "likely" ones (above one half).
        nodes: sizes other than the learnt ones, see `unstir_molecules.sampling.drawn_sizes`.
        batch: graphs (of 9 nodes; fewer of larger ones) worked on at a time.

    Raises:
        UserError: an option out of range.
    """

    solver: str = "ancestral"
    grid: str = "uniform:100"
    edges: Literal["drawn", "likely"] = "drawn"
    nodes: str = ""
    batch: int = 1024

    needs: ClassVar[tuple[str, ...]] = ()
    uses_prior: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.edges not in ("likely", "drawn") or self.batch < 1:
            raise UserError(f"edges is 'drawn' or 'likely' and batch at least 1, got {self.edges!r} and {self.batch}")
        names.solver(self.solver)
        names.grid(self.grid)

    def check_prior(self, prior: Any) -> None:
        """Refuse a checkpoint that is no HypDiff model.

        Args:
            prior: a checkpoint's denoiser.

        Raises:
            CheckpointError: it is of another kind.
        """
        vocabulary_of(prior)
        if prior.facts.get("model") != "hypdiff" or not isinstance(prior.network, HypDiffNetwork):
            raise CheckpointError("this checkpoint is no HypDiff model: take the method it was trained for")

    def __call__(self, case: Case, prior: Any, seed: int, *, progress: Progress = None) -> Estimate:
        """``case.context["count"]`` new graphs.

        Args:
            case: of the task of generation.
            prior: a HypDiff model.
            seed: of the draws.
            progress: told of steps.

        Returns:
            The set; ``nfe`` counts the evaluations of one graph.
        """
        self.check_prior(prior)
        sizes = drawn_sizes(prior.facts["sizes"], int(case.context["count"]), seed, self.nodes)
        found, nfe = drawn(lambda mask, keyed, told: self.draw(prior, mask, keyed, told), sizes, seed, batch=self.batch, progress=progress)
        info = {
            "solver": self.solver, "grid": self.grid, "edges": self.edges, "nodes": self.nodes,
            "prior_sha256": getattr(prior, "sha256", None),
        }  # fmt: skip
        return Estimate(as_set(found, None, case.key), nfe=nfe, info=info)

    def draw(self, prior: Any, mask: Tensor, seed: int, progress: Progress = None, **options: Any) -> tuple[Dense, int]:
        """Graphs on the nodes of a mask.

        Args:
            prior: a HypDiff model.
            mask: (B, N) nodes that are there.
            seed: of the draws.
            progress: told of steps.
            options: guides, steers and more for `unstir.sample`.

        Returns:
            B graphs, and evaluations a graph.
        """
        sized = copy.copy(prior)
        sized.shape = (mask.shape[1], *prior.shape[1:])
        source = NoiseSource(seed, range(len(mask)))
        cluster = assigned(mask, prior.facts["compositions"], source)
        condition = {"mask": mask, "cluster": cluster, **options.pop("condition", {})}
        made: Any = unstir.sample(
            sized, len(mask), solver=self.solver, grid=self.grid, condition=condition, seed=seed, progress=progress, **options
        )
        with torch.inference_mode():
            z = prior.network.chart.points(prior.normaliser.decode(made.x), cluster)
            logits = prior.network.logits(z)
        if self.edges == "drawn":
            unit = torch.special.ndtr(source.draw(tuple(logits.shape[1:]), torch.float64, stream="edges"))
            present = unit < torch.sigmoid(logits.double())
        else:
            present = logits > 0
        present = present.triu(1) & mask[:, :, None] & mask[:, None]
        e = (present | present.mT).long()
        return Dense.of(torch.zeros(mask.shape, dtype=torch.long), e, mask.sum(1)), made.nfe


def assigned(mask: Tensor, compositions: list[list[int]], source: NoiseSource) -> Tensor:
    """The cluster of every node (B, N): a composition of a training graph of the same size, or of the nearest size, filled up.

    Args:
        mask: (B, N) nodes that are there.
        compositions: nodes of each cluster, for many training graphs.
        source: what draws, keyed by the sample.

    Raises:
        CheckpointError: there are no compositions.
    """
    if not compositions:
        raise CheckpointError("this checkpoint does not say how many nodes of each cluster graphs have")
    table = torch.tensor(compositions)
    sizes = table.sum(1)
    found = torch.zeros(mask.shape, dtype=torch.long)
    for row, (index, n) in enumerate(zip(source.indices, mask.sum(1).tolist(), strict=True)):
        generator = source.generator(index, "clusters")
        off = (sizes - n).abs()
        like = torch.nonzero(off == off.min())[:, 0]
        counts = table[like[int(generator.integers(len(like)))]]
        labels = torch.repeat_interleave(torch.arange(len(counts)), counts)
        if len(labels) != n:
            labels = labels[torch.from_numpy(generator.integers(len(labels), size=n))].sort().values
        found[row, :n] = labels
    source.advance("clusters")
    return found
