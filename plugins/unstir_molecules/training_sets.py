"""The graphs that a model learns from: read once into bytes, a batch drawn by (step, generator) alone, a few held out.

Test graphs are never seen; the held-out ones judge a training while it runs and are not learnt either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from unstir.errors import DataError
from unstir_molecules.atoms import Vocabulary
from unstir_molecules.build import Lost, counted, dense_of
from unstir_molecules.dense import Dense
from unstir_molecules.graphs import Graphs
from unstir_molecules.sampling import histogram

LEFT = "left out ("
"""Begins the facts of a set that say what its reader left out."""
HELD_OUT = 512
"""Held-out graphs, at most a twentieth."""


@dataclass(frozen=True)
class TrainingGraphs:
    """Graphs to train on.

    Args:
        seen: the graphs that are learnt, in bytes.
        kept: the held-out ones.
        vocabulary: kinds of atoms; ``None`` for plain graphs.
        name: of the data.
        batch: graphs a step.
        told: share of the graphs whose ``targets`` the network is told.
        targets: (graphs, properties) of the learnt graphs; empty where none are asked for.
        target_names: what they are.
        lost: molecules that the vocabulary cannot say.
        citation: of the data.
        left_out: what its reader left out, how many for each reason.
    """

    seen: Dense
    kept: Dense
    vocabulary: Vocabulary | None
    name: str
    batch: int = 128
    told: float = 0.0
    targets: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    target_names: tuple[str, ...] = ()
    lost: tuple[Lost, ...] = ()
    citation: str = ""
    left_out: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, item: xr.Dataset, *, batch: int = 128, targets: Sequence[str] = (), told: float = 0.0) -> TrainingGraphs:
        """The training part of a set.

        Args:
            item: molecules (``smiles``) or graphs; with ``split``, only its "train".
            batch: graphs a step.
            targets: properties of molecules that the network is told, see `unstir_molecules.properties`.
            told: share of the graphs whose properties it is told.

        Raises:
            DataError: nothing is left to learn from, or properties are asked of plain graphs.
        """
        chosen = np.flatnonzero(item["split"].values == "train") if "split" in item else None
        lost: list[Lost] = []
        vocabulary, values = None, np.zeros((0, 0), np.float32)
        if "smiles" in item:
            smiles = [str(text) for text in (item["smiles"].values if chosen is None else item["smiles"].values[chosen]) if text]
            vocabulary = Vocabulary.of(smiles)
            dense, lost = dense_of(smiles, vocabulary)
            if targets:
                values = _properties(smiles, {one.index for one in lost}, targets)
        elif targets:
            raise DataError("properties are of molecules, and this is a set of plain graphs")
        else:
            graphs = Graphs.of_dataset(item)
            dense = (graphs if chosen is None else graphs.take(chosen)).dense()
        key = item.attrs.get("key", "the set")
        if len(dense) < 2:
            raise DataError(f"{key} has {'one graph' if len(dense) else 'no graph'} to learn from, and 2 are needed at least")
        if not dense.pairs.any():
            raise DataError(f"every graph of {key} has a single node: there is nothing between nodes to learn from")
        order = np.random.default_rng(0).permutation(len(dense))
        held = min(HELD_OUT, max(1, len(dense) // 20))
        name, citation = str(item.attrs.get("key", "")), str(item.attrs.get("citation", ""))
        seen, kept = dense.take(order[held:]).compact(), dense.take(order[:held]).compact()
        values = values[order[held:]] if len(values) else values
        facts = item.attrs.get("facts", {})
        left = {key[len(LEFT) : -1]: str(value) for key, value in facts.items() if key.startswith(LEFT)}
        return cls(seen, kept, vocabulary, name, batch, told, values, tuple(targets), tuple(lost), citation, left)

    @property
    def largest(self) -> int:
        """Nodes of the largest graph."""
        return int(self.seen.mask.shape[1])

    @property
    def held_out(self) -> int:
        """How many graphs are held out."""
        return len(self.kept)

    @cached_property
    def node_shares(self) -> NDArray[np.float64]:
        """How often each kind of node occurs; for plain graphs one kind, and one that never does."""
        kinds = self.vocabulary.kinds if self.vocabulary else 1
        counts = np.bincount(self.seen.x[self.seen.mask].numpy(), minlength=max(kinds, 2))
        return counts / counts.sum()

    @cached_property
    def edge_shares(self) -> NDArray[np.float64]:
        """How often each kind of edge occurs between two nodes of a graph."""
        kinds = len(self.vocabulary.bonds) if self.vocabulary else 2
        counts = np.zeros(kinds)
        for start in range(0, len(self.seen), 4096):
            part = self.seen.take(slice(start, start + 4096))
            counts += np.bincount(part.e[part.pairs].numpy(), minlength=kinds)
        return counts / counts.sum()

    def __call__(self, step: int, generator: np.random.Generator) -> Mapping[str, Any]:
        """The batch of a step: graphs, their mask, and properties that are told."""
        chosen = generator.integers(len(self.seen), size=self.batch)
        x0, condition = _state(self.seen.take(chosen))
        if self.target_names:
            hidden = generator.random(self.targets[chosen].shape) >= self.told
            condition["targets"] = torch.from_numpy(np.where(hidden, np.float32(np.nan), self.targets[chosen]))
        return {"x0": x0, "condition": condition}

    def held(self) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """The held-out graphs and their condition."""
        return _state(self.kept.take(slice(None)))

    def facts(self) -> dict[str, Any]:
        """What a checkpoint keeps: vocabulary, sizes, properties told."""
        return {
            "vocabulary": self.vocabulary.as_dict() if self.vocabulary else None,
            "sizes": histogram(self.seen.sizes.numpy()),
            "data": self.name,
            "targets": list(self.target_names),
        }

    def card(self, *, title: str, how: str, found: str) -> str:
        """The model card.

        Args:
            title: of the model.
            how: network, steps, hardware, time.
            found: validation.
        """
        sizes = self.seen.sizes
        what = f"molecules of {', '.join(self.vocabulary.atoms)} without hydrogens" if self.vocabulary else "plain graphs"
        left = "".join(f"\n- left out: {number} ({reason})" for reason, number in [*self.left_out.items(), *counted(self.lost).items()])
        return (
            f"# {title}\n\n- data: {self.name}, {len(self.seen)} {what}, {int(sizes.min())} to {int(sizes.max())} nodes; "
            f"test graphs were never seen{left}\n- training: {how}\n- validation: {found}\n"
            f"- limits: makes graphs like those it has seen, of up to {self.largest} nodes\n- licence: that of the project"
            + (f"\n- citation: {self.citation}" if self.citation else "")
            + "\n"
        )


def _state(graphs: Dense) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    return {"nodes": graphs.x, "edges": graphs.e}, {"mask": graphs.mask}


def _properties(smiles: Sequence[str], lost: set[int], names: Sequence[str]) -> NDArray[np.float32]:
    from unstir_molecules.properties import rewards

    kept = [text for index, text in enumerate(smiles) if index not in lost]
    return np.stack([np.asarray(rewards(name, kept), dtype=np.float32) for name in names], 1)
