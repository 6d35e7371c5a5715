"""Molecules that are good at something, or that hold a scaffold: steers of the core with the rewards of this domain.

    p(G) exp(r(G)/temperature)/Z        by choosing among proposals (SVDD), or by particles that die and multiply (FK)

The reward of a noisy graph is that of the molecule that the model believes it to be, quantised and with its valencies corrected; what makes
no molecule has reward 0. Nothing is differentiated, so any function of a molecule will do.

Reference: Li et al. 2024 (SVDD), arXiv:2408.08252; Singhal et al. 2025 (FK), arXiv:2501.06848; Lugmayr et al. 2022 (in-painting),
arXiv:2201.09865.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.steer import FK, SVDD, Enforced, OnLeaf, Steer
from unstir_molecules.atoms import Vocabulary
from unstir_molecules.build import dense_of, rebuilt
from unstir_molecules.dense import Dense

Decode = Callable[[Any, Tensor], Dense]
"""``decode(x0, mask)``: the graphs of a clean state of the model."""


@dataclass(frozen=True)
class Steering:
    """How a model's samples are steered.

    Args:
        maximise: a reward: ``"qed"``, ``"logp"``, ``"sa"``, ``"similarity:SMILES"``; empty for none.
        by: ``"svdd"``: of ``particles`` proposals at every step one is kept, each sample by itself; ``"fk"``: ``particles`` samples share
            one problem and take each other's place.
        particles: M or K.
        temperature: in units of the reward; small is greedy.
        draws: clean molecules drawn of a belief for one value.
        scaffold: SMILES that every molecule holds: its atoms, the bonds among them and no others among them.

    Raises:
        UserError: an option out of range.
    """

    maximise: str = ""
    by: Literal["svdd", "fk"] = "svdd"
    particles: int = 8
    temperature: float = 0.05
    draws: int = 1
    scaffold: str = ""

    def __post_init__(self) -> None:
        if self.by not in ("svdd", "fk"):
            raise UserError(f"by is 'svdd' or 'fk', got {self.by!r}")
        if self.particles < 1 or self.draws < 1 or not self.temperature > 0:
            raise UserError(
                f"particles and draws must be at least 1 and temperature above 0, got {self.particles}, {self.draws} and {self.temperature}"
            )
        if self.maximise:
            from unstir_molecules.properties import reward

            reward(self.maximise)  # refuses one that does not exist

    @property
    def copies(self) -> int:
        """Samples that are drawn for each one that is kept."""
        return self.particles if self.maximise and self.by == "svdd" else 1

    @property
    def group(self) -> int:
        """Samples that belong together in the sampler."""
        return self.particles if self.maximise else 1

    def steers(self, vocabulary: Vocabulary | None, mask: Tensor, decode: Decode, leaves: tuple[str, str]) -> list[Steer]:
        """The steers of the core.

        Args:
            vocabulary: kinds of atoms.
            mask: (B, N) nodes that are there.
            decode: a clean state of the model as graphs.
            leaves: names of its leaves of nodes and of edges.

        Raises:
            UserError: plain graphs cannot be steered so, or the scaffold does not fit.
        """
        if not self.maximise and not self.scaffold:
            return []
        if vocabulary is None:
            raise UserError("rewards and scaffolds are of molecules, and this is a model of plain graphs")
        made: list[Steer] = self.held(vocabulary, mask, leaves) if self.scaffold else []
        if self.maximise:
            reward = MoleculeReward(self.maximise, vocabulary, decode)
            if self.by == "svdd":
                made.append(SVDD(reward, self.particles, self.temperature, draws=self.draws))
            else:
                made.append(FK(reward=reward, scale=1 / self.temperature, particles=self.particles, draws=self.draws))
        return made

    def held(self, vocabulary: Vocabulary, mask: Tensor, leaves: tuple[str, str]) -> list[Steer]:
        """What holds the scaffold at the first nodes of every graph.

        Args:
            vocabulary: kinds of atoms.
            mask: (B, N) nodes that are there.
            leaves: names of the leaves of nodes and of edges.

        Raises:
            UserError: the scaffold cannot be said in the vocabulary, or is larger than a graph.
        """
        graph, lost = dense_of([self.scaffold], vocabulary)
        if lost:
            raise UserError(f"the scaffold {self.scaffold!r} cannot be held by this model: {lost[0].reason}")
        size, nodes = int(graph.sizes[0]), mask.shape[1]
        if size > int(mask.sum(1).min()):
            raise UserError(f"the scaffold {self.scaffold!r} has {size} atoms, and graphs of {int(mask.sum(1).min())} are asked for")
        x = torch.zeros(1, nodes, dtype=torch.long)
        e = torch.zeros(1, nodes, nodes, dtype=torch.long)
        x[0, :size], e[0, :size, :size] = graph.x[0, :size], graph.e[0, :size, :size]
        known = torch.arange(nodes) < size
        pairs = known[:, None] & known & ~torch.eye(nodes, dtype=torch.bool)
        return [OnLeaf(leaves[0], Enforced(known[None], x)), OnLeaf(leaves[1], Enforced(pairs[None], e))]


@dataclass
class MoleculeReward:
    """A reward of clean states: that of the molecule they make, 0 where they make none; each molecule is asked once.

    Args:
        name: of the reward, see `unstir_molecules.properties.reward`, or a function of a SMILES.
        vocabulary: kinds of atoms.
        decode: clean states as graphs.
        known: what was found so far, by SMILES.
    """

    name: str | Callable[[str], float]
    vocabulary: Vocabulary
    decode: Decode
    known: dict[str, float] = field(default_factory=dict)

    def __call__(self, x0: Any, condition: Mapping[str, Any] | None) -> Tensor:
        """One number a sample, (batch,).

        Args:
            x0: clean states.
            condition: with their ``mask``.
        """
        from unstir_molecules.properties import reward

        score = reward(self.name) if isinstance(self.name, str) else self.name
        built = rebuilt(self.decode(x0, (condition or {})["mask"]), self.vocabulary, workers=1)
        smiles = [one.smiles or "" for one in built]
        for text in dict.fromkeys(smiles):
            if text not in self.known:
                self.known[text] = float(score(text)) if text else 0.0
        return torch.tensor(np.array([self.known[text] for text in smiles]))
