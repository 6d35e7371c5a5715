"""Molecules that are good at something, or that hold a scaffold: steers of the core with the rewards of this domain.

    p(G) exp(r(G)/temperature)/Z        by choosing among proposals (SVDD), or by particles that die and multiply (FK);
                                        by the slope of a network that tells r of noisy graphs (classifier guidance, TDS)

The reward of a noisy graph is that of the molecule that the model believes it to be, quantised and with its valencies corrected; what makes
no molecule has reward 0. The first two differentiate nothing, so any function of a molecule will do; the others ask a network that was
trained on the noise of the model (`property_training`).

Reference: Li et al. 2024 (SVDD), arXiv:2408.08252; Singhal et al. 2025 (FK), arXiv:2501.06848; Dhariwal and Nichol 2021 (guidance),
arXiv:2105.05233; Wu et al. 2023 (TDS), arXiv:2306.17775; Lugmayr et al. 2022 (in-painting), arXiv:2201.09865.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.guide import LossGuidance, TokenGuidance
from unstir.guide.base import Guide
from unstir.steer import FK, SVDD, TDS, Enforced, Moment, OnLeaf, Steer
from unstir_molecules.atoms import Vocabulary
from unstir_molecules.build import dense_of, rebuilt
from unstir_molecules.dense import Dense
from unstir_molecules.sampling import vocabulary_of

Decode = Callable[[Any, Tensor], Dense]
"""``decode(x0, mask)``: the graphs of a clean state of the model."""
By = Literal["svdd", "fk", "gradient", "tds"]
"""How a reward is raised."""
SLOPES = ("gradient", "tds")
"""The ways that need a network of properties."""


@dataclass(frozen=True)
class Steering:
    """How a model's samples are steered.

    Args:
        maximise: a reward: ``"qed"``, ``"logp"``, ``"sa"``, ``"similarity:SMILES"``; empty for none.
        by: ``"svdd"``: of ``particles`` proposals at every step one is kept, each sample by itself; ``"fk"``: ``particles`` samples share
            one problem and take each other's place; ``"gradient"``: by the slope of what ``regressor`` tells; ``"tds"``: particles that
            follow that slope and are weighed for it, of real-valued models.
        particles: M or K.
        temperature: in units of the reward; small is greedy.
        draws: clean molecules drawn of a belief for one value.
        scaffold: SMILES that every molecule holds: its atoms, the bonds among them and no others among them.
        regressor: for ``"gradient"`` and ``"tds"``, a checkpoint of `PropertyTraining`, a registered name or a folder.

    Raises:
        UserError: an option out of range.
    """

    maximise: str = ""
    by: By = "svdd"
    particles: int = 8
    temperature: float = 0.05
    draws: int = 1
    scaffold: str = ""
    regressor: str = ""

    def __post_init__(self) -> None:
        if self.by not in get_args(By):
            raise UserError(f"by is 'svdd', 'fk', 'gradient' or 'tds', got {self.by!r}")
        if self.maximise and (self.by in SLOPES) != bool(self.regressor):
            asked = (
                f"by={self.by!r} follows the slope of a network of properties: give regressor"
                if self.by in SLOPES
                else (f"by={self.by!r} asks the reward itself and takes no regressor: leave it out, or take by='gradient'")
            )
            raise UserError(asked)
        if self.by == "tds" and self.scaffold:
            raise UserError("by='tds' weighs the law of every step, which a scaffold changes: take svdd, fk or gradient with it")
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
        return self.particles if self.maximise and self.by != "gradient" else 1

    @property
    def is_asked(self) -> bool:
        """Is there anything to steer by?"""
        return bool(self.maximise or self.scaffold)

    def widened(self, mask: Tensor) -> Tensor:
        """The nodes of every sample that is drawn: each ``copies`` times, the last problem of particles filled up.

        Args:
            mask: (B, N) nodes that are there.
        """
        short = -len(mask) % (self.group // self.copies)
        return torch.cat([mask, mask[-1:].expand(short, -1)]).repeat_interleave(self.copies, 0)

    def parts(
        self, prior: Any, mask: Tensor, decode: Decode, leaves: tuple[str, str], *, path: bool = False
    ) -> tuple[list[Guide], list[Steer]]:
        """The guides and steers of the core.

        Args:
            prior: the model.
            mask: (B, N) nodes that are there.
            decode: a clean state of the model as graphs.
            leaves: names of its leaves of nodes and of edges.
            path: does the solver draw no noise? What is known is then noised once, not at every step.

        Raises:
            UserError: plain graphs cannot be steered so, the scaffold does not fit, or the model's steps have no slope.
            CheckpointError: the regressor is none of this model.
        """
        vocabulary = vocabulary_of(prior)
        if not self.is_asked:
            return [], []
        if vocabulary is None:
            raise UserError("rewards and scaffolds are of molecules, and this is a model of plain graphs")
        discrete = prior.process.discrete
        held = self.held(vocabulary, mask, leaves, None if discrete else int(prior.shape[leaves[0]][-1]), path) if self.scaffold else []
        if not self.maximise:
            return [], held
        if self.by in SLOPES:
            return self.uphill(prior, held)
        reward = MoleculeReward(self.maximise, vocabulary, decode)
        if self.by == "svdd":
            return [], [*held, SVDD(reward, self.particles, self.temperature, draws=self.draws)]
        return [], [*held, FK(reward=reward, scale=1 / self.temperature, particles=self.particles, draws=self.draws)]

    def uphill(self, prior: Any, held: list[Steer]) -> tuple[list[Guide], list[Steer]]:
        """What follows the slope of the regressor.

        Args:
            prior: the model.
            held: what holds the scaffold.

        Raises:
            UserError: particles of a discrete model.
            CheckpointError: the regressor is none of this model.
        """
        from unstir_molecules.property_guidance import predicted

        told = predicted(self.regressor, prior, self.maximise, self.temperature)
        if not prior.process.discrete:
            if self.by == "tds":
                return [], [TDS(told.clean, particles=self.particles, width=1.0)]
            return [LossGuidance(told, losses=lambda value, _: -value, on="noisy", told=("mask",))], held
        if self.by == "tds":
            raise UserError("by='tds' weighs Gaussian steps, and this model is of categories: take by='gradient', svdd or fk")
        return [], [*held, TokenGuidance(told), *held]  # what is held is held after the last word

    def held(
        self, vocabulary: Vocabulary, mask: Tensor, leaves: tuple[str, str], features: int | None = None, path: bool = False
    ) -> list[Steer]:
        """What holds the scaffold at the first nodes of every graph.

        Args:
            vocabulary: kinds of atoms.
            mask: (B, N) nodes that are there.
            leaves: names of the leaves of nodes and of edges.
            features: F of one-hot nodes beside real-valued edges; ``None`` for whole numbers.
            path: one noise for the whole trajectory?

        Raises:
            UserError: the scaffold cannot be said in the vocabulary, or is larger than a graph.
        """
        graph, nodes = scaffold_graph(self.scaffold, vocabulary), mask.shape[1]
        size = int(graph.sizes[0])
        if size > int(mask.sum(1).min()):
            raise UserError(f"the scaffold {self.scaffold!r} has {size} atoms, and graphs of {int(mask.sum(1).min())} are asked for")
        x = torch.zeros(1, nodes, dtype=torch.long)
        e = torch.zeros(1, nodes, nodes, dtype=torch.long)
        x[0, :size], e[0, :size, :size] = graph.x[0, :size], graph.e[0, :size, :size]
        known = torch.arange(nodes) < size
        pairs = known[:, None] & known & ~torch.eye(nodes, dtype=torch.bool)
        if features is None:
            return [OnLeaf(leaves[0], Enforced(known[None], x)), OnLeaf(leaves[1], Enforced(pairs[None], e))]
        kinds, atoms = torch.nn.functional.one_hot(x, features).float(), known[None, :, None].expand(1, nodes, features)
        mode = "path" if path else "noised"
        return [OnLeaf(leaves[0], Enforced(atoms, kinds, mode)), OnLeaf(leaves[1], EnforcedEdges(pairs[None], e.float(), mode))]


@dataclass(frozen=True, eq=False)
class EnforcedEdges(Enforced):
    """What the core enforces, of a symmetric matrix: both halves of an edge get the one noise of the space, (z + z^T)/sqrt(2).

    Arguments and errors are those of :class:`unstir.steer.Enforced`.
    """

    def _noise(self, x: Tensor, moment: Moment) -> Tensor:
        noise = super()._noise(x, moment)
        return (noise + noise.mT) / math.sqrt(2)


def scaffold_graph(scaffold: str, vocabulary: Vocabulary) -> Dense:
    """A scaffold as a graph.

    Args:
        scaffold: SMILES.
        vocabulary: kinds of atoms.

    Raises:
        UserError: it cannot be said in the vocabulary.
    """
    graph, lost = dense_of([scaffold], vocabulary)
    if lost:
        raise UserError(f"the scaffold {scaffold!r} cannot be held by this model: {lost[0].reason}")
    return graph


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
