"""What every table of generated graphs carries: training graphs themselves, and the two random graphs that keep only sizes or degrees.

    train-graphs          training graphs, drawn at random
    erdos-renyi           G(n, m) with n and m of a random training graph
    configuration-model   the degrees of a random training graph, half-edges matched at random

A generator that does not clearly beat the last two has learnt no structure; the first is the floor: no generator should be nearer to the
test graphs, and it makes nothing new. Graph i of the two models depends on (seed, i) alone.

Reference: Erdos and Renyi 1959; Molloy and Reed 1995 (configuration model), doi:10.1002/rsa.3240060204.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from unstir.errors import DataError, UserError
from unstir.plugin.protocols import Case, Estimate, Progress
from unstir_molecules.graphs import Graphs

Array = NDArray[Any]
Simple = Literal["erased", "swapped"]


@dataclass(frozen=True)
class Opponent(ABC):
    """A graph made from one random training graph."""

    needs: ClassVar[tuple[str, ...]] = ()
    uses_prior: ClassVar[bool] = False

    def __call__(self, case: Case, prior: Any, seed: int, *, progress: Progress = None) -> Estimate:
        """Make graphs.

        Args:
            case: its measurement is the training set, its context says the ``count`` of graphs that are wanted.
            prior: not used.
            seed: of the draws.
            progress: told of graphs.

        Returns:
            A set of ``count`` graphs.

        Raises:
            DataError: the training set is empty.
        """
        train = Graphs.of_dataset(case.measurement)
        count = int(case.context["count"])
        if not len(train):
            raise DataError(f"the training set of case {case.key} is empty")
        made = []
        for i in range(count):
            rng = np.random.default_rng([seed, i])
            like = int(rng.integers(len(train)))
            made.append(self.one(int(train.nodes[like]), np.stack(train.ends(like), 1), rng))
            if progress is not None:
                progress(i + 1, count)
        return Estimate(Graphs.of_edges(made).dataset(case.key), info={"seed": seed})

    @abstractmethod
    def one(self, nodes: int, edges: Array, rng: np.random.Generator) -> tuple[int, Array]:
        """Nodes and edges of one graph.

        Args:
            nodes: of the training graph.
            edges: (edges, 2) of the training graph.
            rng: what draws.
        """


@dataclass(frozen=True)
class ErdosRenyi(Opponent):
    """Uniform among the graphs with as many nodes and edges as a random training graph."""

    def one(self, nodes: int, edges: Array, rng: np.random.Generator) -> tuple[int, Array]:
        """G(n, m)."""
        u, v = np.triu_indices(nodes, 1)
        chosen = rng.permutation(len(u))[: len(edges)]
        return nodes, np.stack([u[chosen], v[chosen]], 1)


@dataclass(frozen=True)
class ConfigurationModel(Opponent):
    """Half-edges of a random training graph's nodes, matched at random.

    Args:
        simple: self-loops and double edges are ``"erased"`` (some edges are lost, most in dense graphs), or none arise as edges of the
            training graph are ``"swapped"`` in pairs (every degree is kept; the harder opponent).
        swaps: tried swaps per edge.

    Raises:
        UserError: an option out of range.
    """

    simple: Simple = "erased"
    swaps: int = 10

    def __post_init__(self) -> None:
        if self.simple not in get_args(Simple):
            raise UserError(f"simple must be one of {', '.join(get_args(Simple))}, got {self.simple!r}")
        if self.swaps < 1:
            raise UserError(f"swaps must be at least 1, got {self.swaps}")

    def one(self, nodes: int, edges: Array, rng: np.random.Generator) -> tuple[int, Array]:
        """A graph of the same degrees, or nearly."""
        if self.simple == "swapped":
            return nodes, swapped(edges, self.swaps * len(edges), rng)
        ends = rng.permutation(edges.reshape(-1)).reshape(-1, 2)
        return nodes, ends[ends[:, 0] != ends[:, 1]]


@dataclass(frozen=True)
class TrainGraphs:
    """Training graphs, drawn without replacement where there are enough, else with."""

    needs: ClassVar[tuple[str, ...]] = ()
    uses_prior: ClassVar[bool] = False

    def __call__(self, case: Case, prior: Any, seed: int, *, progress: Progress = None) -> Estimate:
        """Draw graphs.

        Args:
            case: its measurement is the training set, its context says the ``count`` of graphs that are wanted.
            prior: not used.
            seed: of the draw.
            progress: not told of anything.

        Returns:
            A set of ``count`` graphs.

        Raises:
            DataError: the training set is empty.
        """
        train, count = Graphs.of_dataset(case.measurement), int(case.context["count"])
        if not len(train):
            raise DataError(f"the training set of case {case.key} is empty")
        rng = np.random.default_rng([seed, 0])
        chosen = rng.permutation(len(train))[:count] if count <= len(train) else rng.integers(len(train), size=count)
        return Estimate(train.take(chosen).dataset(case.key), info={"seed": seed})


def swapped(edges: Array, tries: int, rng: np.random.Generator) -> Array:
    """Edges after random swaps of ends, a-b and c-d to a-d and c-b where neither is there: every degree is kept.

    Args:
        edges: (edges, 2), each once.
        tries: of swaps.
        rng: what draws.
    """
    made = [(int(a), int(b)) for a, b in edges]
    if len(made) < 2:
        return edges
    there = {frozenset(pair) for pair in made}
    for i, j, turned in zip(*rng.integers(len(made), size=(2, tries)).tolist(), (rng.random(tries) < 0.5).tolist(), strict=True):
        (a, b), (c, d) = made[i], made[j][::-1] if turned else made[j]
        first, second = frozenset((a, d)), frozenset((c, b))
        if len({a, b, c, d}) < 4 or first in there or second in there:
            continue
        there -= {frozenset(made[i]), frozenset(made[j])}
        there |= {first, second}
        made[i], made[j] = (a, d), (c, b)
    return np.array(made)
