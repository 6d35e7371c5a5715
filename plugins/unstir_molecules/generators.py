"""Sets of simulated graphs, the ones that the field compares generators on; every graph depends on (seed, its number) alone.

    community   n of {12 ... 20}: two G(h, 0.7), h = n // 2, each pair across joined with probability 0.1 / h, by one edge at least
    ego         neighbourhoods of nodes of a grown network with closed triangles, 4 to 18 nodes
    grid        m x n, 10 <= m, n <= 19;   planar   Delaunay triangulation of 64 uniform points
    sbm         2 to 5 blocks of 20 to 40 nodes, pairs joined with probability 0.3 within and 0.005 between, connected
    tree        uniform among labelled trees of 64 nodes;   lobster   a path with legs and feet, 10 to 100 nodes

The field's own community_small was made with one fixed seed a community: five pairs of communities in all, and half of its test graphs
stand in its training set. ``legacy_seed=True`` makes sets of that kind, whose novelty means nothing.

Reference: You et al. 2018 (GraphRNN), arXiv:1802.08773; Niu et al. 2020 (EDP-GNN), arXiv:2003.00638; Liao et al. 2019 (GRAN),
arXiv:1910.00760; Martinkus et al. 2022 (SPECTRE), arXiv:2204.01613.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from unstir.errors import UserError
from unstir.plugin.options import at_least, probabilities
from unstir_molecules.division import Split, divided
from unstir_molecules.graphs import Graphs
from unstir_molecules.random_graphs import (
    TRIES,
    around,
    block_model,
    connected,
    fixed_seed,
    grown,
    lobster,
    random_pairs,
    tree_of,
    triangulation,
)
from unstir_molecules.structures import grid

Array = NDArray[Any]


@dataclass(frozen=True)
class Generated(ABC):
    """Graphs of a random law.

    Args:
        count: graphs, test graphs included.
        seed: of the set; graph i depends on (seed, i) and the other options alone.
        test: share of test graphs.
        split: which they are: the ``"first"``, or ``"shuffled"``.

    Raises:
        UserError: an option out of range.
    """

    count: int = 100
    seed: int = 0
    test: float = 0.2
    split: Split = "first"

    card: ClassVar[str] = "generated-graphs"
    key: ClassVar[str]
    structure: ClassVar[str] = "connected"

    def __post_init__(self) -> None:
        at_least(self, count=2, seed=0)

    def load(self) -> Iterator[xr.Dataset]:
        """One set, with ``split``."""
        facts = {"structure": self.structure, "simulated": self.law()}
        yield divided(self.graphs(), self.key, split=self.split, test=self.test, seed=self.seed, attrs=facts)

    def graphs(self) -> Graphs:
        """All graphs, in order."""
        return Graphs.of_edges(self.one(np.random.default_rng([self.seed, i])) for i in range(self.count))

    @abstractmethod
    def one(self, rng: np.random.Generator) -> tuple[int, Array]:
        """Nodes and edges (edges, 2) of one graph.

        Args:
            rng: what draws.
        """

    @abstractmethod
    def law(self) -> str:
        """How the graphs are drawn, in a sentence."""


@dataclass(frozen=True)
class Community(Generated):
    """Two communities and a few bridges, 12 to 20 nodes.

    Args:
        smallest: nodes, at least 4.
        largest: nodes; an odd number rounds down to two equal halves.
        within: probability of an edge in a community; a community is drawn again until it is connected.
        bridges: times 1 / (nodes of a community): probability of an edge between two nodes across.
        legacy_seed: draw every first community of a size with seed 0 and every second with seed 1, as the field's set was made?
    """

    smallest: int = 12
    largest: int = 20
    within: float = 0.7
    bridges: float = 0.1
    legacy_seed: bool = False

    key: ClassVar[str] = "community"
    tiny: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, smallest=4, largest=self.smallest)
        probabilities(self, "within")
        if self.within == 0:
            raise UserError("within must be above 0, else no community is connected")
        probabilities(self, "bridges")

    def one(self, rng: np.random.Generator) -> tuple[int, Array]:
        """Two communities, joined."""
        half = int(rng.integers(self.smallest, self.largest + 1)) // 2
        if self.legacy_seed:
            parts = [fixed_seed(half, self.within, seed) for seed in (0, 1)]
        else:
            parts = [connected(lambda: (half, random_pairs(rng, half, self.within)))[1] for _ in range(2)]
        across = np.argwhere(rng.random((half, half)) < self.bridges / half)
        if not len(across):
            across = np.zeros((1, 2), dtype=np.int64)
        return 2 * half, np.concatenate([parts[0], parts[1] + half, across + [0, half]])

    def law(self) -> str:
        """The law."""
        how = "with the same two seeds in every graph (five pairs of communities in all)" if self.legacy_seed else "drawn anew"
        return f"two communities G(n/2, {self.within:g}) {how}, {self.smallest} to {self.largest} nodes, bridges {self.bridges:g} / (n/2)"


@dataclass(frozen=True)
class Ego(Generated):
    """Neighbourhoods of nodes in a grown network: a stand-in for those of a citation network, whose files no package carries.

    Each new node joins one to three nodes; the first by degree, each further one a neighbour of the last (closing a triangle) with
    probability ``closing``, else by degree again.

    Args:
        count: neighbourhoods, of different nodes.
        network: nodes of the network that they are taken from.
        closing: probability to close a triangle.
        smallest: nodes of a neighbourhood, its centre included.
        largest: nodes of a neighbourhood.
    """

    count: int = 200
    network: int = 3300
    closing: float = 0.5
    smallest: int = 4
    largest: int = 18

    key: ClassVar[str] = "ego"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, network=10, smallest=1, largest=self.smallest)
        probabilities(self, "closing")

    def graphs(self) -> Graphs:
        """Neighbourhoods of random nodes.

        Raises:
            UserError: the network has fewer of such sizes.
        """
        near = grown(np.random.default_rng([self.seed, 0]), self.network, self.closing)
        size = np.array([len(others) + 1 for others in near])
        centres = np.flatnonzero((size >= self.smallest) & (size <= self.largest))
        if len(centres) < self.count:
            raise UserError(f"a network of {self.network} nodes has {len(centres)} neighbourhoods of such sizes, {self.count} are wanted")
        chosen = np.random.default_rng([self.seed, 1]).permutation(centres)[: self.count]
        return Graphs.of_edges(around(near, int(centre)) for centre in chosen)

    def one(self, rng: np.random.Generator) -> tuple[int, Array]:
        """A neighbourhood of a network of its own; a set takes all from one."""
        near = grown(rng, self.network, self.closing)
        fits = [node for node, others in enumerate(near) if self.smallest <= len(others) + 1 <= self.largest]
        return around(near, int(rng.choice(fits)))

    def law(self) -> str:
        """The law."""
        return (
            f"neighbourhoods of {self.smallest} to {self.largest} nodes in a network grown by degree with triangles, {self.network} nodes"
        )


@dataclass(frozen=True)
class Grid(Generated):
    """Grids of 10 to 19 nodes a side: 55 different ones, so that many test graphs stand in any training set.

    Args:
        smallest: nodes of a side.
        largest: nodes of a side.
    """

    smallest: int = 10
    largest: int = 19

    key: ClassVar[str] = "grid"
    structure: ClassVar[str] = "grid"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, smallest=2, largest=self.smallest)

    def one(self, rng: np.random.Generator) -> tuple[int, Array]:
        """One grid."""
        made = grid(*(int(side) for side in rng.integers(self.smallest, self.largest + 1, size=2)))
        return int(made.nodes[0]), np.stack([made.u, made.v], 1)

    def law(self) -> str:
        """The law."""
        return f"grids, both sides uniform from {self.smallest} to {self.largest} nodes"


@dataclass(frozen=True)
class Planar(Generated):
    """Delaunay triangulations of uniform points in the unit square.

    Args:
        count: graphs.
        nodes: points, at least 4.
    """

    count: int = 200
    nodes: int = 64

    key: ClassVar[str] = "planar"
    structure: ClassVar[str] = "planar"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, nodes=4)

    def one(self, rng: np.random.Generator) -> tuple[int, Array]:
        """One triangulation."""
        return self.nodes, triangulation(rng, self.nodes)

    def law(self) -> str:
        """The law."""
        return f"Delaunay triangulations of {self.nodes} uniform points"


@dataclass(frozen=True)
class SBM(Generated):
    """Stochastic block models, drawn again until connected.

    Args:
        count: graphs.
        within: probability of an edge in a block.
        between: probability of an edge between two blocks.
    """

    count: int = 200
    within: float = 0.3
    between: float = 0.005

    key: ClassVar[str] = "sbm"
    structure: ClassVar[str] = "sbm"

    def __post_init__(self) -> None:
        super().__post_init__()
        probabilities(self, "within", "between")

    def one(self, rng: np.random.Generator) -> tuple[int, Array]:
        """Two to five blocks of 20 to 40 nodes."""

        def draw() -> tuple[int, Array]:
            sizes = rng.integers(20, 41, size=rng.integers(2, 6))
            return int(sizes.sum()), block_model(rng, sizes, self.within, self.between)

        return connected(draw)

    def law(self) -> str:
        """The law."""
        return f"two to five blocks of 20 to 40 nodes, edges {self.within:g} within and {self.between:g} between, connected"


@dataclass(frozen=True)
class Tree(Generated):
    """Trees, each labelled tree as likely as any other (Pruefer sequences).

    Args:
        count: graphs.
        nodes: of a tree, at least 2.
    """

    count: int = 200
    nodes: int = 64

    key: ClassVar[str] = "tree"
    structure: ClassVar[str] = "tree"

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, nodes=2)

    def one(self, rng: np.random.Generator) -> tuple[int, Array]:
        """One tree."""
        return self.nodes, tree_of(rng.integers(self.nodes, size=self.nodes - 2))

    def law(self) -> str:
        """The law."""
        return f"uniform labelled trees of {self.nodes} nodes"


@dataclass(frozen=True)
class Lobster(Generated):
    """Lobsters: a path of 1 to 80 nodes, each with a leg by chance, each leg with a foot by chance; of 10 to 100 nodes.

    Args:
        leg: probability of a leg.
        foot: probability of a foot.
        smallest: nodes; a lobster beyond either bound is drawn again.
        largest: nodes.
    """

    leg: float = 0.7
    foot: float = 0.7
    smallest: int = 10
    largest: int = 100

    key: ClassVar[str] = "lobster"
    structure: ClassVar[str] = "lobster"

    def __post_init__(self) -> None:
        super().__post_init__()
        probabilities(self, "leg", "foot")
        at_least(self, smallest=1, largest=self.smallest)

    def one(self, rng: np.random.Generator) -> tuple[int, Array]:
        """One lobster.

        Raises:
            UserError: no lobster of such a size was drawn.
        """
        for _ in range(TRIES):
            size, edges = lobster(rng, 80, self.leg, self.foot)
            if self.smallest <= size <= self.largest:
                return size, edges
        raise UserError(f"no lobster of {self.smallest} to {self.largest} nodes was drawn in {TRIES} tries")

    def law(self) -> str:
        """The law."""
        return f"a path with legs ({self.leg:g}) and feet ({self.foot:g}), {self.smallest} to {self.largest} nodes"
