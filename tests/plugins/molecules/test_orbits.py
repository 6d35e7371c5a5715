from itertools import combinations

import numpy as np
import pytest

from unstir_molecules.graphs import Graphs
from unstir_molecules.orbits import orbit_counts

nx = pytest.importorskip("networkx", reason="networkx is not installed")

GOLDEN = {
    "petersen": (nx.petersen_graph(), "30 60 30 0 120 120 30 10 0 0 0 0 0 0 0"),
    "karate": (nx.karate_club_graph(), "156 786 393 135 1362 1362 3294 1098 144 452 904 452 170 170 44"),
    "miserables": (nx.les_miserables_graph(), "508 2814 1407 1401 9996 9996 19086 6362 180 4839 9678 4839 1420 1420 2556"),
    "bull": (nx.bull_graph(), "10 8 4 3 2 2 0 0 0 2 4 2 0 0 0"),
    "grid": (nx.grid_2d_graph(3, 3), "24 44 22 0 48 48 24 8 16 0 0 0 0 0 0"),
}
# orbit of a node by the number of nodes and edges of the graphlet and by the node's degree in it; degree sequences tell all but two apart
ORBIT = {(2, 1, 1): 0, (3, 2, 1): 1, (3, 2, 2): 2, (3, 3, 2): 3, (4, 4, 2): 8, (4, 5, 2): 12, (4, 5, 3): 13, (4, 6, 3): 14}


def enumerated(graph):
    """Orbit counts by looking at every set of two to four nodes."""
    made = np.zeros((len(graph), 15), dtype=int)
    for size in (2, 3, 4):
        for nodes in combinations(graph, size):
            small = graph.subgraph(nodes)
            if not nx.is_connected(small):
                continue
            degrees = sorted(dict(small.degree).values())
            for node, degree in small.degree:
                key = (size, small.number_of_edges(), degree)
                if degrees == [1, 1, 2, 2]:
                    orbit = 4 if degree == 1 else 5
                elif degrees == [1, 1, 1, 3]:
                    orbit = 6 if degree == 1 else 7
                elif degrees == [1, 2, 2, 3]:
                    orbit = {1: 9, 2: 10, 3: 11}[degree]
                else:
                    orbit = ORBIT[key]
                made[node, orbit] += 1
    return made


@pytest.mark.parametrize("name", list(GOLDEN))
def test_sums_over_nodes_are_the_published_ones(name):
    graph, sums = GOLDEN[name]
    np.testing.assert_array_equal(orbit_counts(Graphs.of_networkx([graph])).sum(0), [int(one) for one in sums.split()])


def test_the_first_node_of_the_karate_club():
    found = orbit_counts(Graphs.of_networkx([nx.karate_club_graph()]))[0]
    np.testing.assert_array_equal(found, [16, 17, 102, 18, 81, 197, 13, 352, 10, 6, 34, 171, 2, 30, 7])


@pytest.mark.parametrize("seed", range(6))
def test_counts_are_those_of_looking_at_every_set_of_nodes(seed):
    graph = nx.gnp_random_graph(11, 0.15 + 0.15 * seed, seed=seed)
    np.testing.assert_array_equal(orbit_counts(Graphs.of_networkx([graph])), enumerated(graph))


@pytest.mark.parametrize("n", [4, 5, 9])
def test_a_complete_graph_has_binomial_counts(n):
    from math import comb

    found = orbit_counts(Graphs.of_networkx([nx.complete_graph(n)]))
    np.testing.assert_array_equal(found[:, [0, 3, 14]], np.tile([n - 1, comb(n - 1, 2), comb(n - 1, 3)], (n, 1)))
    assert found.sum() == n * (n - 1 + comb(n - 1, 2) + comb(n - 1, 3))


def test_counts_do_not_depend_on_batch_mates_or_numbering():
    every = Graphs.of_networkx([graph for graph, _ in GOLDEN.values()] + [nx.empty_graph(0), nx.empty_graph(2), nx.path_graph(1)])
    together = orbit_counts(every)
    for i in range(len(every)):
        alone = orbit_counts(every.take([i]))
        np.testing.assert_array_equal(together[every.starts[i] : every.starts[i + 1]], alone)
        moved = orbit_counts(every.take([i]).permuted(1))
        np.testing.assert_array_equal(np.sort(moved, axis=0), np.sort(alone, axis=0))


def test_an_empty_set_has_no_counts():
    assert orbit_counts(Graphs.of_edges([])).shape == (0, 15)
