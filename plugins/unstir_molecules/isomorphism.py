"""Which graphs of a set are the same but for the numbering of their nodes; how much of a test set stands in the training set.

    colour_0(v) = hash(degree, triangles, label),   colour_k+1(v) = hash(colour_k(v), sum over neighbours of hash'(colour_k(u)))

A graph's key is the sum of its nodes' hashed colours: equal for isomorphic graphs, whatever the order. Graphs with one key are compared
exactly: colours are refined until no new ones appear, a node of the smallest repeated colour is singled out in one graph and each of
that colour in turn in the other, until every node has a colour of its own and the edges can be compared one by one. No answer rests
on a hash being unequal by luck: colours only say where not to look.

Uniqueness is counted by classes: k copies weigh 1/k each, so that the number does not depend on the order. A graph without nodes
is neither unique nor novel.

Reference: Weisfeiler and Leman 1968; McKay and Piperno 2014 (refinement and individualisation), arXiv:1301.1493.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unstir.plugin.kept import Memory
from unstir_molecules.graphs import Graphs

Array = NDArray[Any]
ROUNDS = 8  # of refinement for the keys; fixed, so that a key depends on its graph alone
COUNTED = 512  # nodes of the largest graph whose triangles are counted
SALT, STEP = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1B54A32D192ED03)


@dataclass(frozen=True)
class Leakage:
    """How much of a test set a training set holds already.

    Args:
        test: test graphs.
        leaked: test graphs that are isomorphic to a training graph.
        classes: isomorphism classes of all graphs, training and test.
        total: all graphs.
    """

    test: int
    leaked: int
    classes: int
    total: int

    @property
    def share(self) -> float:
        """Share of the test graphs that are isomorphic to a training graph."""
        return self.leaked / self.test if self.test else 0.0


def isomorphic(first: Graphs, second: Graphs, i: int = 0, j: int = 0) -> bool:
    """Are two graphs the same but for the numbering of their nodes? Exact; labels count where both sets have them.

    Args:
        first: a set.
        second: a set.
        i: which graph of the first.
        j: which of the second.
    """
    labelled = first.labels is not None and second.labels is not None
    pair = [_Coloured.of(graphs.take([k]), labelled) for graphs, k in ((first, i), (second, j))]
    return pair[0].key == pair[1].key and _same(*pair)


def classes(graphs: Graphs) -> Array:
    """Isomorphism class of each graph.

    Args:
        graphs: the set.

    Returns:
        (graphs,) int64, numbered from 0 in the order of first appearance.
    """
    return _classes.of(graphs.digest, lambda: _sorted_out(graphs))


def uniqueness(graphs: Graphs, *, count_empty: bool = False) -> Array:
    """Weight of each graph in the number of different ones: 1 / (how many of the set are isomorphic to it).

    Args:
        graphs: the set.
        count_empty: does a graph without nodes count as unique?

    Returns:
        (graphs,) float64; their sum is the number of classes, whatever the order.
    """
    found = classes(graphs)
    weight = 1.0 / np.bincount(found)[found] if len(found) else np.zeros(0)
    return weight if count_empty else np.where(graphs.nodes > 0, weight, 0.0)


def novel(graphs: Graphs, train: Graphs) -> Array:
    """Which graphs are isomorphic to none of a training set.

    Args:
        graphs: the set.
        train: the training set.

    Returns:
        (graphs,) bool; False for a graph without nodes.
    """
    found = classes(train + graphs)
    return ~np.isin(found[len(train) :], found[: len(train)]) & (graphs.nodes > 0)


def leakage(test: Graphs, train: Graphs) -> Leakage:
    """How many test graphs are isomorphic to a training graph.

    Args:
        test: test graphs.
        train: training graphs.
    """
    found = classes(train + test)
    leaked = np.isin(found[len(train) :], found[: len(train)])
    return Leakage(len(test), int(leaked.sum()), len(np.unique(found)), len(found))


def hashes(graphs: Graphs) -> Array:
    """A number of each graph that does not depend on the numbering of its nodes; different numbers mean different graphs.

    Args:
        graphs: the set.

    Returns:
        (graphs,) uint64; each depends on its graph alone.
    """
    return _keys(graphs, graphs.labels)[1]


def _sorted_out(graphs: Graphs) -> Array:
    colours, found = _keys(graphs, graphs.labels)
    made = np.zeros(len(graphs), dtype=np.int64)
    seen: dict[int, list[tuple[int, _Coloured]]] = {}
    count = 0
    for i, key in enumerate(found.tolist()):
        one = _Coloured(*_neighbours(graphs, i), colours[graphs.starts[i] : graphs.starts[i + 1]], key)
        same = next((number for number, other in seen.get(key, []) if _same(other, one)), None)
        if same is None:
            seen.setdefault(key, []).append((count, one))
            same, count = count, count + 1
        made[i] = same
    return made


_classes: Memory[Array] = Memory(32)


def _mixed(x: Array) -> Array:
    """A permutation of the 64-bit numbers that spreads them (splitmix64)."""
    with np.errstate(over="ignore"):
        x = x + SALT
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))


def _keys(graphs: Graphs, labels: Array | None) -> tuple[Array, Array]:
    """Colours of the nodes of all graphs after a fixed number of rounds, and the graphs' keys."""
    total = int(graphs.starts[-1])
    first = graphs.starts[graphs.owner]
    here = np.concatenate([first + graphs.u, first + graphs.v])
    there = np.concatenate([first + graphs.v, first + graphs.u])
    order = np.argsort(here, kind="stable")
    here, there = here[order], there[order]
    degree = np.bincount(here, minlength=total).astype(np.uint64)
    colour = _mixed(degree + (SALT * _triangles(graphs).astype(np.uint64)))
    if labels is not None:
        colour = _mixed(colour ^ _mixed(labels.astype(np.uint64)))
    begins, some = np.searchsorted(here, np.arange(total)), degree > 0
    for _ in range(ROUNDS):
        colour = _refined(colour, there, begins, some)
    per_graph = np.zeros(len(graphs), dtype=np.uint64)
    np.add.at(per_graph, np.repeat(np.arange(len(graphs)), graphs.nodes), _mixed(colour ^ STEP))
    sizes = _mixed(graphs.nodes.astype(np.uint64)) ^ _mixed(graphs.edges.astype(np.uint64) + STEP)
    return colour, _mixed(per_graph ^ sizes)


def _refined(colour: Array, there: Array, begins: Array, some: Array) -> Array:
    """One round: each node's colour with the sum of its neighbours'."""
    total = np.zeros(len(colour), dtype=np.uint64)
    if len(there):
        with np.errstate(over="ignore"):
            total[some] = np.add.reduceat(_mixed(colour)[there], begins[some])
    return _mixed(colour ^ _mixed(total ^ STEP))


def _triangles(graphs: Graphs) -> Array:
    """(nodes of all graphs,) triangles at each node; 0 in graphs of so many nodes that counting them costs more than it saves."""
    made = np.zeros(int(graphs.starts[-1]), dtype=np.int64)
    small = np.flatnonzero(graphs.nodes <= COUNTED)
    for index, a in graphs.take(small).batches():
        index = small[index]
        closed = np.rint(((a @ a) * a).sum(-1) / 2).astype(np.int64)
        inside = np.arange(a.shape[1]) < graphs.nodes[index][:, None]
        made[(graphs.starts[index][:, None] + np.arange(a.shape[1]))[inside]] = closed[inside]
    return made


@dataclass(frozen=True, eq=False)
class _Coloured:
    """One graph with colours: neighbours of all nodes one after another, where each node's begin, colours and key."""

    there: Array
    begins: Array
    colour: Array
    key: int

    @classmethod
    def of(cls, graph: Graphs, labelled: bool) -> _Coloured:
        colour, key = _keys(graph, graph.labels if labelled else None)
        return cls(*_neighbours(graph, 0), colour, int(key[0]))

    def twins_apart(self) -> Array:
        """Colours in which nodes with the same neighbours (or the same, each other included) are told apart: any order of them will do."""
        ends = np.append(self.begins[1:], len(self.there))
        colour, rank = self.colour.copy(), np.zeros(len(self.colour), dtype=np.uint64)
        if len(np.unique(colour)) == len(colour):
            return colour
        seen: dict[tuple[bool, int, bytes], int] = {}
        for node, (begin, end) in enumerate(zip(self.begins.tolist(), ends.tolist(), strict=True)):
            near = self.there[begin:end]
            for closed in (False, True):
                group = (closed, int(colour[node]), (np.sort(np.append(near, node)) if closed else near).tobytes())
                rank[node] += seen.setdefault(group, 0)
                seen[group] += 1
        return np.where(rank > 0, _mixed(colour ^ _mixed(rank)), colour)

    def pairs(self, place: Array) -> Array:
        """Every edge in both directions as one number, sorted, its nodes renumbered."""
        ends = np.repeat(place, np.diff(np.append(self.begins, len(self.there))))
        return np.sort(ends * len(place) + place[self.there])


def _neighbours(graphs: Graphs, index: int) -> tuple[Array, Array]:
    u, v = graphs.ends(index)
    here, there = np.concatenate([u, v]), np.concatenate([v, u])
    order = np.lexsort((there, here))
    return there[order], np.searchsorted(here[order], np.arange(int(graphs.nodes[index])))


def _same(a: _Coloured, b: _Coloured) -> bool:
    """Is there a renumbering that keeps colours and edges? Exact, by a depth-first search."""
    if len(a.colour) != len(b.colour) or len(a.there) != len(b.there):
        return False
    open_: list[Iterator[tuple[Array, Array]]] = [iter([(a.twins_apart(), b.twins_apart())])]
    while open_:
        pair = next(open_[-1], None)
        if pair is None:
            open_.pop()
            continue
        ours, theirs = _together(a, b, *pair)
        if not np.array_equal(np.sort(ours), np.sort(theirs)):
            continue
        values, counts = np.unique(ours, return_counts=True)
        if len(values) < len(ours):
            open_.append(_singled_out(ours, theirs, values[np.argmin(np.where(counts > 1, counts, len(ours) + 1))]))
            continue
        places = [np.argsort(np.argsort(colour)) for colour in (ours, theirs)]
        if np.array_equal(a.pairs(places[0]), b.pairs(places[1])):
            return True
    return False


def _singled_out(ours: Array, theirs: Array, cell: np.uint64) -> Iterator[tuple[Array, Array]]:
    """The first node of a colour gets one of its own in one graph; so does each of that colour in turn in the other."""
    single = _mixed(np.array([cell ^ STEP]))[0]
    marked = ours.copy()
    marked[np.flatnonzero(ours == cell)[0]] = single
    for node in np.flatnonzero(theirs == cell):
        other = theirs.copy()
        other[node] = single
        yield marked, other


def _together(a: _Coloured, b: _Coloured, ours: Array, theirs: Array) -> tuple[Array, Array]:
    """Both graphs' colours after the same number of rounds, until no new ones appear in the first."""
    some = [np.append(one.begins[1:], len(one.there)) > one.begins for one in (a, b)]
    count = len(np.unique(ours))
    while count < len(ours):
        finer = _refined(ours, a.there, a.begins, some[0])
        theirs = _refined(theirs, b.there, b.begins, some[1])
        more = len(np.unique(finer))
        ours = finer
        if more == count:
            break
        count = more
    return ours, theirs
