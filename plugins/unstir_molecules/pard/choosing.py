"""Choice among growing graphs by a reward, block by block.

    SVDD   of M proposals for the next block (or for the end) one is kept, with chance softmax(r(G so far)/temperature)
    FK     K graphs of one problem, w <- w exp[(r(G_b) - r(G_b-1))/temperature]; resampled where ESS < K/2, and at the end

The weights of FK multiply to exp(r(G)/temperature), so that it samples the model's law times that as K grows, whatever r says of graphs
that are not complete. SVDD is biased: r of the graph so far stands for what a good end would give.
Reference: Li et al. 2024 (SVDD), arXiv:2408.08252; Singhal et al. 2025 (FK), arXiv:2501.06848.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from unstir.noise import NoiseSource
from unstir.process.discrete import uniforms
from unstir.steer.particles import effective_size, flat, own_places, systematic
from unstir_molecules.atoms import Vocabulary
from unstir_molecules.dense import Dense
from unstir_molecules.steering import MoleculeReward, Steering

_LAST = 2**16 - 1  # the number of the choice at the end, beyond every block


class Growth(Protocol):
    """Graphs that grow together, K consecutive ones a problem."""

    index: Tensor

    def graphs(self) -> Dense:
        """All of them, as they are now."""

    def take(self, index: Tensor) -> None:
        """Graphs take the place of others."""


@dataclass
class Choice:
    """Chooses among graphs that grow together.

    Args:
        steering: how; ``maximise``, ``by``, ``particles`` and ``temperature`` of it.
        vocabulary: kinds of atoms.
        seed: of the draws.
    """

    steering: Steering
    vocabulary: Vocabulary
    seed: int
    reward: MoleculeReward = field(init=False)
    log_weights: Any = None
    spent: Any = None

    def __post_init__(self) -> None:
        self.reward = MoleculeReward(self.steering.maximise, self.vocabulary, lambda x, mask: Dense(x["nodes"], x["edges"], mask))

    def __call__(self, growing: Growth, stage: int, grew: Tensor) -> None:
        """The choice after a block.

        Args:
            growing: the graphs.
            stage: number of the block.
            grew: (graphs,) bool, those that got a block or came to their end at this stage; problems without one are left alone.
        """
        particles = self.steering.particles
        problems = grew.view(-1, particles).any(1)
        values = self.values(growing.graphs(), problems.repeat_interleave(particles))
        places = own_places(values)
        if self.steering.by == "svdd":
            cumulated = torch.softmax(values, 1).cumsum(1)
            point = self.uniform(growing, stage)[:, None] * cumulated[:, -1:]
            kept = torch.searchsorted(cumulated, point, right=True).clamp_(max=particles - 1).expand_as(places)
            growing.take(flat(torch.where(problems[:, None], kept, places)))
            return
        spent = torch.zeros_like(values) if self.spent is None else self.spent
        gained = torch.where(problems[:, None], values - spent, torch.zeros_like(values))
        self.log_weights = gained if self.log_weights is None else self.log_weights + gained
        self.spent = spent + gained
        self.resampled(growing, stage, problems & (effective_size(self.log_weights) < particles / 2))

    def last(self, growing: Growth) -> None:
        """The choice at the end: of particles whose weights still differ.

        Args:
            growing: the graphs, all complete.
        """
        if self.log_weights is not None:
            self.resampled(growing, _LAST, self.log_weights.amax(1) > self.log_weights.amin(1))

    def resampled(self, growing: Growth, stage: int, chosen: Tensor) -> None:
        """Particles of the chosen problems take each other's place by their weights."""
        index = torch.where(chosen[:, None], systematic(self.log_weights, self.uniform(growing, stage)), own_places(self.log_weights))
        growing.take(flat(index))
        self.spent = self.spent.gather(1, index)
        self.log_weights = torch.where(chosen[:, None], torch.zeros_like(self.log_weights), self.log_weights)

    def values(self, graphs: Dense, asked: Tensor) -> Tensor:
        """r/temperature, (problems, particles); 0 where nobody asks."""
        found = torch.zeros(len(graphs), dtype=torch.float64)
        if bool(asked.any()):
            part = graphs.take(asked)
            found[asked] = self.reward({"nodes": part.x, "edges": part.e}, {"mask": part.mask}) / self.steering.temperature
        return found.view(-1, self.steering.particles)

    def uniform(self, growing: Growth, stage: int) -> Tensor:
        """One uniform a problem, keyed by its first graph and the stage."""
        source = NoiseSource((self.seed << 16) + stage, growing.index[:: self.steering.particles].tolist())
        return uniforms(source.draw((1,), torch.float64, stream="choice"))[:, 0]
