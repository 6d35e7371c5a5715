import numpy as np
import pytest

from unstir.errors import UserError
from unstir_molecules.blocks import description_length, fitted, is_sbm, passes, plausibility
from unstir_molecules.graph_files import read
from unstir_molecules.graphs import Graphs
from unstir_molecules.structures import STRUCTURES, components, grid, judged, valid

nx = pytest.importorskip("networkx", reason="networkx is not installed")

KINDS = {
    "path": (nx.path_graph(7), {"connected", "planar", "tree", "lobster"}),
    "edge": (nx.path_graph(2), {"connected", "planar", "tree", "lobster"}),
    "alone": (nx.empty_graph(1), {"connected", "planar", "tree", "lobster"}),
    "two alone": (nx.empty_graph(2), set()),
    "nothing": (nx.empty_graph(0), set()),
    "star": (nx.star_graph(6), {"connected", "planar", "tree", "lobster"}),
    "binary tree": (nx.balanced_tree(2, 3), {"connected", "planar", "tree"} | {"lobster"}),
    "deep binary tree": (nx.balanced_tree(2, 4), {"connected", "planar", "tree"}),
    "square": (nx.cycle_graph(4), {"connected", "planar", "grid"}),
    "hexagon": (nx.cycle_graph(6), {"connected", "planar"}),
    "grid": (nx.grid_2d_graph(3, 5), {"connected", "planar", "grid"}),
    "long grid": (nx.grid_2d_graph(2, 20), {"connected", "planar"}),
    "K5": (nx.complete_graph(5), {"connected"}),
    "K33": (nx.complete_bipartite_graph(3, 3), {"connected"}),
    "K4": (nx.complete_graph(4), {"connected", "planar"}),
    "two squares": (nx.disjoint_union(nx.cycle_graph(4), nx.cycle_graph(4)), set()),
    "Petersen": (nx.petersen_graph(), {"connected"}),
}


@pytest.mark.parametrize("structure", [name for name in STRUCTURES if name not in ("any", "sbm")])
def test_the_kinds_of_known_graphs(structure):
    graphs = Graphs.of_networkx([graph for graph, _ in KINDS.values()])
    for copy in (graphs, graphs.permuted(1)):
        found = dict(zip(KINDS, valid(copy, structure).tolist(), strict=True))
        assert found == {name: structure in kinds for name, (_, kinds) in KINDS.items()}


def test_lobsters_are_trees_near_a_path():
    far = nx.path_graph(5)  # a leg of three nodes makes a path no lobster
    far.add_edges_from([(2, 5), (5, 6), (6, 7)])
    near = nx.path_graph(5)
    near.add_edges_from([(2, 5), (5, 6), (2, 7), (7, 8), (7, 9)])
    long = nx.path_graph(9)
    long.add_edges_from([(4, 9), (9, 10), (10, 11)])
    graphs = Graphs.of_networkx([near, long, far])
    assert valid(graphs, "lobster").tolist() == [True, False, True]  # the third: cutting leaves twice leaves a path through the leg


def test_a_grid_with_one_edge_moved_is_none():
    wrong = nx.grid_2d_graph(4, 6)
    wrong.remove_edge((0, 0), (0, 1))
    wrong.add_edge((0, 0), (3, 5))
    assert not valid(Graphs.of_networkx([wrong]), "grid")[0]
    assert nx.is_isomorphic(grid(4, 6).to_networkx()[0], nx.grid_2d_graph(4, 6))


def test_components_are_counted():
    graphs = Graphs.of_networkx(
        [nx.empty_graph(4), nx.empty_graph(0), nx.path_graph(3), nx.disjoint_union(nx.path_graph(2), nx.path_graph(3))]
    )
    assert components(graphs).tolist() == [4, 0, 1, 2]
    assert components(Graphs.of_edges([])).shape == (0,)


def planted(sizes, within, between, seed):
    return nx.stochastic_block_model(sizes, np.where(np.eye(len(sizes)), within, between).tolist(), seed=seed)


@pytest.mark.parametrize("sizes", [(20, 40), (25, 30, 35), (20, 25, 30, 35, 40)])
def test_planted_blocks_are_found_however_the_nodes_are_numbered(sizes):
    graph = Graphs.of_networkx([planted(sizes, 0.3, 0.005, 1)])
    truth = np.repeat(np.arange(len(sizes)), sizes)
    labelled = Graphs(graph.nodes, graph.offsets, graph.u, graph.v, truth)
    for copy in (labelled, labelled.permuted(2)):
        a = copy[0].astype(float)
        block = fitted(a)
        table = np.zeros((len(sizes), block.max() + 1), dtype=int)
        np.add.at(table, (copy.labels, block), 1)
        assert table.shape == (len(sizes),) * 2
        assert table.max(1).sum() >= sum(sizes) - 2  # a node with as many edges to another block may be counted there
        assert description_length(a, block) <= description_length(a, copy.labels) + 1e-9


def test_the_description_of_planted_blocks_is_shorter_than_of_one_or_of_random_ones():
    a = nx.to_numpy_array(planted((30, 30), 0.3, 0.005, 0))
    truth, one = np.repeat([0, 1], 30), np.zeros(60, dtype=int)
    shuffled = np.random.default_rng(0).permutation(truth)
    assert description_length(a, truth) < description_length(a, one) < description_length(a, shuffled)


def test_a_random_graph_is_one_block():
    assert fitted(nx.to_numpy_array(nx.gnp_random_graph(60, 0.3, seed=1))).max() == 0


def test_the_test_of_blocks_has_its_closed_form():
    a = nx.to_numpy_array(planted((30, 30), 0.3, 0.01, 3))
    block = np.repeat([0, 1], 30)
    from scipy.stats import chi2

    p = [a[:30, :30].sum() / 870, a[30:, 30:].sum() / 870, a[:30, 30:].sum() / 900]
    each = [chi2.sf((x - y) ** 2 / (x * (1 - x) + 1e-6), 1) for x, y in zip(p, (0.3, 0.3, 0.005), strict=True)]
    assert plausibility(a, block) == pytest.approx((each[0] + each[1] + 2 * each[2]) / 4)


def test_blocks_of_the_wrong_number_or_size_do_not_pass():
    a = nx.to_numpy_array(planted((30, 30), 0.3, 0.005, 0))
    assert passes(a, np.repeat([0, 1], 30))
    assert not passes(a, np.zeros(60, dtype=int))
    assert not passes(a, np.repeat([0, 1], [15, 45]))
    assert not is_sbm(Graphs.of_networkx([nx.gnp_random_graph(60, 0.15, seed=0), nx.path_graph(10)])).any()


def test_vun_counts_classes_that_are_valid_and_new_over_all_graphs():
    train = Graphs.of_networkx([nx.path_graph(6)])
    made = Graphs.of_networkx([nx.path_graph(6), nx.star_graph(5), nx.star_graph(5), nx.cycle_graph(6), nx.empty_graph(0)]).permuted(1)
    found = judged(made, train, "tree")
    assert found.valid.tolist() == [True, True, True, False, False]
    assert found.novel.tolist() == [False, True, True, True, False]
    np.testing.assert_allclose(found.vun, [0, 0.5, 0.5, 0, 0])
    assert found.vun.mean() == pytest.approx(1 / 5)


def test_an_unknown_structure_is_refused():
    with pytest.raises(UserError, match="structure must be one of any, connected, planar"):
        valid(Graphs.of_edges([]), "outerplanar")


def test_the_peers_planar_graphs_are_planar_as_often_as_measured(yardsticks):
    graphs = read(yardsticks / "spectre_digress_graphs.npz", name="digress_planar")
    assert valid(graphs, "planar").mean() == pytest.approx(0.85)
    assert valid(graphs, "connected").all()


def test_the_peers_block_models_are_connected_and_mostly_valid(yardsticks):
    graphs = read(yardsticks / "spectre_digress_graphs.npz", name="digress_sbm")
    assert valid(graphs, "connected").mean() == pytest.approx(0.975)
    assert 0.45 < valid(graphs.take(np.arange(20)), "sbm").mean() < 0.8  # published with graph-tool's blocks: about .6


def test_the_fields_grids_are_grids(yardsticks):
    graphs = read(yardsticks / "gdss_generic_graphs.npz", name="grid")
    assert valid(graphs.take(np.arange(20)), "grid").all()
