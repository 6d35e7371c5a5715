"""Random graphs, one at a time: the laws behind the simulated sets.

    G(n, p), block models, uniform labelled trees (Pruefer), lobsters, Delaunay triangulations, networks grown by degree with triangles

Each takes the generator that draws, and gives edges as pairs of node numbers.

Reference: Holme and Kim 2002 (growth with triangles), doi:10.1103/PhysRevE.65.026107.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unstir.errors import UserError
from unstir_molecules.graphs import Graphs
from unstir_molecules.structures import is_connected

Array = NDArray[Any]
TRIES = 10_000


def random_pairs(rng: np.random.Generator, nodes: int, p: float) -> Array:
    """Edges (edges, 2) of G(n, p).

    Args:
        rng: what draws.
        nodes: n.
        p: probability of an edge.
    """
    return np.argwhere(np.triu(rng.random((nodes, nodes)) < p, 1))


def connected(draw: Callable[[], tuple[int, Array]]) -> tuple[int, Array]:
    """The first drawn graph that is connected.

    Args:
        draw: gives nodes and edges.

    Returns:
        Its nodes and edges.

    Raises:
        UserError: none was, in many tries.
    """
    for _ in range(TRIES):
        nodes, edges = draw()
        if is_connected(Graphs.of_edges([(nodes, edges)]))[0]:
            return nodes, edges
    raise UserError(f"no connected graph was drawn in {TRIES} tries: the probability of an edge is too small")


def tree_of(sequence: Array) -> Array:
    """The labelled tree of a Pruefer sequence.

    Args:
        sequence: (n - 2,) numbers of nodes, 0 to n - 1.

    Returns:
        Edges (n - 1, 2).
    """
    nodes = len(sequence) + 2
    left = np.bincount(sequence, minlength=nodes) + 1
    leaves = [int(node) for node in np.flatnonzero(left == 1)]
    heapq.heapify(leaves)
    made = []
    for node in sequence.tolist():
        made.append((heapq.heappop(leaves), node))
        left[node] -= 1
        if left[node] == 1:
            heapq.heappush(leaves, node)
    return np.array([*made, (heapq.heappop(leaves), heapq.heappop(leaves))])


def grown(rng: np.random.Generator, nodes: int, closing: float) -> list[set[int]]:
    """Neighbours of each node of a network grown by degree, with closed triangles.

    Args:
        rng: what draws.
        nodes: how many.
        closing: probability that a further edge of a new node goes to a neighbour of the node joined last.
    """
    near: list[set[int]] = [{1}, {0}]
    ends = [0, 1]
    for new in range(2, nodes):
        near.append(set())
        last = -1
        for place in range(int(rng.integers(1, 4))):
            others = sorted(near[last] - near[new] - {new}) if place and rng.random() < closing else []
            target = others[rng.integers(len(others))] if others else ends[rng.integers(len(ends))]
            if target == new or target in near[new]:
                continue
            near[new].add(target)
            near[target].add(new)
            ends += [new, target]
            last = target
    return near


def around(near: list[set[int]], centre: int) -> tuple[int, Array]:
    """A node with its neighbours, and the edges among them.

    Args:
        near: neighbours of each node.
        centre: the node.

    Returns:
        Nodes, and edges (edges, 2), the centre being node 0.
    """
    inside = [centre, *sorted(near[centre])]
    place = {node: i for i, node in enumerate(inside)}
    return len(inside), np.array([(place[a], place[b]) for a in inside for b in near[a] if b in place and place[a] < place[b]]).reshape(
        -1, 2
    )


def fixed_seed(nodes: int, p: float, seed: int) -> Array:
    """Edges (edges, 2) of G(n, p) as networkx draws it from a seed: pairs in order, one number of Python's generator each.

    Args:
        nodes: n.
        p: probability of an edge.
        seed: of Python's generator.
    """
    law = random.Random(seed)
    return np.array([pair for pair in combinations(range(nodes), 2) if law.random() < p]).reshape(-1, 2)


def triangulation(rng: np.random.Generator, nodes: int) -> Array:
    """Edges (edges, 2) of the Delaunay triangulation of uniform points in the unit square; some come twice.

    Args:
        rng: what draws.
        nodes: points, at least 4.
    """
    from scipy.spatial import Delaunay

    corners = Delaunay(rng.random((nodes, 2))).simplices
    return np.concatenate([corners[:, [0, 1]], corners[:, [1, 2]], corners[:, [2, 0]]])


def block_model(rng: np.random.Generator, sizes: Array, within: float, between: float) -> Array:
    """Edges (edges, 2) of a stochastic block model.

    Args:
        rng: what draws.
        sizes: (blocks,) nodes of each block.
        within: probability of an edge in a block.
        between: probability of an edge between two blocks.
    """
    block = np.repeat(np.arange(len(sizes)), sizes)
    likely = np.where(block[:, None] == block, within, between)
    return np.argwhere(np.triu(rng.random(likely.shape) < likely, 1))


def lobster(rng: np.random.Generator, longest: int, leg: float, foot: float) -> tuple[int, Array]:
    """A path of 1 to ``longest`` nodes, each with a leg by chance, each leg with a foot by chance.

    Args:
        rng: what draws.
        longest: nodes of the path.
        leg: probability of a leg.
        foot: probability of a foot.

    Returns:
        Nodes, and edges (edges, 2).
    """
    spine = int(rng.integers(1, longest + 1))
    legs = np.flatnonzero(rng.random(spine) < leg)
    feet = np.flatnonzero(rng.random(len(legs)) < foot)
    path, leg_nodes = np.arange(spine), spine + np.arange(len(legs))
    joined = [(path[:-1], path[1:]), (legs, leg_nodes), (leg_nodes[feet], spine + len(legs) + np.arange(len(feet)))]
    return spine + len(legs) + len(feet), np.concatenate([np.stack(ends, 1) for ends in joined])
