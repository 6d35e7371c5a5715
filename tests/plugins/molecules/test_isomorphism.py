import numpy as np
import pytest

from unstir_molecules.graph_files import read
from unstir_molecules.graphs import Graphs
from unstir_molecules.isomorphism import classes, hashes, isomorphic, leakage, novel, uniqueness

nx = pytest.importorskip("networkx", reason="networkx is not installed")


def shrikhande():
    steps = ((0, 1), (1, 0), (1, 1))
    return nx.Graph([((i, j), ((i + a) % 4, (j + b) % 4)) for i in range(4) for j in range(4) for a, b in steps])


def rook():
    return nx.line_graph(nx.complete_bipartite_graph(4, 4))


SYMMETRIC = {
    "empty": nx.empty_graph(30),
    "complete": nx.complete_graph(20),
    "star": nx.star_graph(200),
    "edges": nx.disjoint_union_all([nx.path_graph(2)] * 40),
    "hypercube": nx.hypercube_graph(5),
    "grid": nx.grid_2d_graph(12, 12),
    "binary": nx.balanced_tree(2, 6),
    "bipartite": nx.complete_bipartite_graph(12, 12),
    "petersen": nx.petersen_graph(),
    "shrikhande": shrikhande(),
    "alone": nx.empty_graph(1),
    "nothing": nx.empty_graph(0),
}


@pytest.mark.parametrize("name", list(SYMMETRIC))
def test_a_graph_is_isomorphic_to_itself_renumbered(name):
    graph = Graphs.of_networkx([SYMMETRIC[name]])
    for seed in range(3):
        assert isomorphic(graph, graph.permuted(seed))
    assert hashes(graph)[0] == hashes(graph.permuted(1))[0]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (nx.cycle_graph(6), nx.disjoint_union(nx.cycle_graph(3), nx.cycle_graph(3))),
        (nx.cycle_graph(8), nx.disjoint_union(nx.cycle_graph(4), nx.cycle_graph(4))),  # one colour each: refinement alone cannot tell
        (rook(), shrikhande()),  # the smallest strongly regular pair
        (nx.petersen_graph(), nx.circulant_graph(10, [1, 5])),
        (nx.disjoint_union(nx.cycle_graph(20), nx.cycle_graph(24)), nx.disjoint_union(nx.cycle_graph(21), nx.cycle_graph(23))),
        (nx.path_graph(3), nx.path_graph(4)),
        (nx.empty_graph(0), nx.empty_graph(1)),
    ],
)
def test_graphs_that_differ_are_told_apart(first, second):
    assert not isomorphic(Graphs.of_networkx([first]), Graphs.of_networkx([second]))


def test_the_seven_nodes_atlas_has_as_many_classes_as_graphs():
    atlas = Graphs.of_networkx(nx.graph_atlas_g())  # every graph of up to seven nodes, once
    assert len(np.unique(classes(atlas))) == len(atlas) == 1253
    both = classes(atlas + atlas.permuted(4))
    np.testing.assert_array_equal(both[:1253], both[1253:])


def test_labels_tell_graphs_apart_and_travel_with_their_nodes():
    path = [(3, [(0, 1), (1, 2)])]
    ends, middle, turned = (Graphs.of_edges(path, [kinds]) for kinds in ([1, 0, 0], [0, 1, 0], [0, 0, 1]))
    assert not isomorphic(ends, middle)
    assert isomorphic(ends, turned)
    assert isomorphic(ends, Graphs.of_edges(path))  # without labels on one side they do not count
    assert len(np.unique(classes(ends + middle + turned))) == 2


def test_a_hash_depends_on_its_graph_alone():
    every = Graphs.of_networkx(list(SYMMETRIC.values()))
    np.testing.assert_array_equal(hashes(every), [hashes(every.take([i]))[0] for i in range(len(every))])


def test_uniqueness_does_not_depend_on_the_order():
    graphs = Graphs.of_networkx(
        [nx.path_graph(4), nx.star_graph(3), nx.path_graph(4), nx.empty_graph(0), nx.path_graph(4), nx.empty_graph(0)]
    )
    weight = uniqueness(graphs)
    np.testing.assert_allclose(weight, [1 / 3, 1, 1 / 3, 0, 1 / 3, 0])
    order = np.random.default_rng(0).permutation(6)
    np.testing.assert_allclose(uniqueness(graphs.take(order)), weight[order])
    np.testing.assert_allclose(uniqueness(graphs, count_empty=True)[[3, 5]], 0.5)


def test_novel_graphs_are_isomorphic_to_no_training_graph():
    train = Graphs.of_networkx([nx.path_graph(4), nx.cycle_graph(5)])
    made = Graphs.of_networkx([nx.star_graph(3), nx.path_graph(4), nx.empty_graph(0), nx.cycle_graph(5)]).permuted(2)
    assert novel(made, train).tolist() == [True, False, False, False]
    found = leakage(made, train)
    assert (found.test, found.leaked, found.classes, found.total, found.share) == (4, 2, 4, 6, 0.5)


def test_empty_sets_have_no_classes():
    nothing = Graphs.of_edges([])
    assert classes(nothing).shape == uniqueness(nothing).shape == novel(nothing, nothing).shape == (0,)
    assert leakage(nothing, nothing).share == 0


LEAKED = {"community_small": (10, 20, 52, 100), "ego_small": (28, 40, 82, 200), "grid": (17, 20, 46, 100), "ENZYMES": (0, 117, 582, 587)}


@pytest.mark.parametrize("name", list(LEAKED))
def test_leakage_of_the_fields_sets(yardsticks, name):
    graphs = read(yardsticks / "gdss_generic_graphs.npz", name=name)
    held = int(0.2 * len(graphs))
    found = leakage(graphs.take(np.arange(held)), graphs.take(np.arange(held, len(graphs))))
    assert (found.leaked, found.test, found.classes, found.total) == LEAKED[name]


def test_leakage_of_the_twenty_node_communities(yardsticks):
    graphs = read(yardsticks / "spectre_digress_graphs.npz", name="comm20")
    found = leakage(graphs.take(np.arange(20)), graphs.take(np.arange(20, 100)))
    assert (found.leaked, found.classes) == (5, 62)
