import numpy as np
import pytest
import torch
import xarray as xr

from unstir.errors import DataError
from unstir_molecules.dense import Dense
from unstir_molecules.graphs import Graphs, graph_set, part

nx = pytest.importorskip("networkx", reason="networkx is not installed")

MIXED = Graphs.of_networkx(
    [nx.karate_club_graph(), nx.petersen_graph(), nx.path_graph(1), nx.empty_graph(3), nx.star_graph(4), nx.empty_graph(0)]
)


def test_a_set_crosses_the_border_and_comes_back_the_same(tmp_path):
    labelled = Graphs.of_edges([(3, [(2, 0)]), (0, []), (2, [(0, 1)])], labels=[[5, 6, 7], [], [8, 9]])
    for graphs in (MIXED, labelled, Graphs.of_edges([])):
        data = graphs.dataset("a-set")
        data.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
        with xr.open_dataset(tmp_path / "a.nc", engine="h5netcdf") as file:
            again = Graphs.of_dataset(file.load())
        assert again.digest == graphs.digest
        assert data.attrs["key"] == "a-set"
    assert set(labelled.dataset("a").dims) == {"graph", "edge", "node"}


def test_the_edges_of_the_border_are_those_of_the_contract():
    data = graph_set(MIXED, "a")
    assert (data["u"].values < data["v"].values).all()
    np.testing.assert_array_equal(data["edges"].values, [78, 15, 0, 0, 4, 0])
    np.testing.assert_array_equal(data["u"].values[-4:], 0)
    np.testing.assert_array_equal(data["v"].values[-4:], [1, 2, 3, 4])


def test_adjacency_matrices_there_and_back():
    again = Graphs.of_adjacency(list(MIXED))
    assert again.digest == MIXED.digest
    assert MIXED[0].dtype == np.uint8
    assert MIXED[-2].sum() == 8
    np.testing.assert_array_equal(MIXED[1], nx.to_numpy_array(nx.petersen_graph()))
    with pytest.raises(IndexError):
        MIXED[6]


def test_graphs_of_networkx_there_and_back():
    again = Graphs.of_networkx(MIXED.to_networkx())
    assert again.digest == MIXED.digest
    merged = Graphs.of_networkx([nx.MultiGraph([(0, 1), (1, 0), (1, 2)])])
    assert merged.edges.tolist() == [2]
    with pytest.raises(DataError, match="graph 1 is directed"):
        Graphs.of_networkx([nx.path_graph(2), nx.DiGraph([(0, 1)])])
    with pytest.raises(DataError, match="self-loop at node 0"):
        Graphs.of_networkx([nx.Graph([("a", "a")])])


def test_padded_tensors_there_and_back():
    dense = MIXED.dense()
    assert dense.x.shape == (6, 34)
    assert dense.check() is dense
    assert Graphs.of_dense(dense).digest == MIXED.digest
    assert Graphs.of_dense(MIXED.dense(40)).digest == MIXED.digest
    kinds = Dense(torch.tensor([[1, 0], [2, 0]]), torch.tensor([[[0, 3], [3, 0]], [[0, 0], [0, 0]]]), torch.tensor([[1, 1], [1, 0]]).bool())
    made = Graphs.of_dense(kinds)
    assert made.labels.tolist() == [1, 0, 2]
    assert made.edges.tolist() == [1, 0]
    torch.testing.assert_close(made.dense().x, kinds.x)
    with pytest.raises(DataError, match="a graph has 34 nodes, and there is room for 20"):
        MIXED.dense(20)


def test_taking_graphs_takes_their_edges_and_labels():
    labelled = Graphs.of_edges([(3, [(2, 0)]), (2, []), (2, [(0, 1)])], labels=[[5, 6, 7], [1, 2], [8, 9]])
    taken = labelled.take([2, 0, 2])
    assert taken.labels.tolist() == [8, 9, 5, 6, 7, 8, 9]
    assert [a.sum() for a in taken] == [2, 2, 2]
    assert MIXED.take(MIXED.nodes > 4).nodes.tolist() == [34, 10, 5]
    joined = MIXED + MIXED
    assert [joined[i].tolist() == MIXED[i % 6].tolist() for i in range(12)] == [True] * 12


def test_a_permutation_keeps_degrees_and_moves_labels_with_their_nodes():
    labelled = Graphs(MIXED.nodes, MIXED.offsets, MIXED.u, MIXED.v, MIXED.degrees())
    moved = labelled.permuted(3)
    np.testing.assert_array_equal(moved.labels, moved.degrees())
    assert moved.digest != labelled.digest
    assert moved.digest == labelled.permuted(3).digest
    one = labelled.take([0]).permuted(3)
    np.testing.assert_array_equal(one[0], moved[0])


def test_isolated_nodes_go_and_an_empty_graph_becomes_one_node():
    made = Graphs.of_edges(
        [(5, [(1, 3)]), (3, []), (0, []), (2, [(0, 1)])], labels=[[0, 1, 2, 3, 4], [5, 6, 7], [], [8, 9]]
    ).without_isolated()
    assert made.nodes.tolist() == [2, 1, 1, 2]
    assert made.labels.tolist() == [1, 3, 0, 0, 8, 9]
    assert made[0].tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize("cells", [1, 400, 10**6])
def test_batches_hold_every_graph_once(cells):
    seen = np.zeros(6, dtype=int)
    for index, a in MIXED.batches(cells=cells):
        for place, i in enumerate(index):
            n = MIXED.nodes[i]
            np.testing.assert_array_equal(a[place, :n, :n], MIXED[i])
            assert a[place].sum() == MIXED[i].sum()
            seen[i] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize(
    ("matrix", "fault"),
    [
        ([[0, 1], [0, 0]], r"entry \(0, 1\) of adjacency matrix 0 is not that of its mirror image"),
        ([[0, -1], [-1, 0]], r"entry \(0, 1\) of adjacency matrix 0 is negative"),
        ([[0, np.nan], [np.nan, 0]], "is not finite"),
        ([[0, np.inf], [np.inf, 0]], "is not finite"),
        ([[0, 0], [0, 1]], "self-loop at node 1"),
        ([[0, 1, 0], [1, 0, 0]], "must be square"),
        ([["a"]], "not numbers"),
    ],
)
def test_a_matrix_of_no_simple_graph_is_refused(matrix, fault):
    with pytest.raises(DataError, match=fault):
        Graphs.of_adjacency([np.array(matrix)])


def test_an_edge_at_an_absent_node_is_refused():
    a = np.ones((3, 3)) - np.eye(3)
    assert Graphs.of_adjacency([a], sizes=[3]).edges.tolist() == [3]
    with pytest.raises(DataError, match="edge at an absent node"):
        Graphs.of_adjacency([a], sizes=[2])


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        (([2], [0, 1], [0], [2]), r"edge \(0, 2\) of graph 0 is not 0 <= u < v < 2"),
        (([2], [0, 1], [1], [0]), r"edge \(1, 0\) of graph 0"),
        (([2], [0, 2], [0, 0], [1, 1]), "comes twice"),
        (([2], [0, 2], [0], [1]), "rise from 0 to 1"),
        (([-1], [0, 0], [], []), "negative number of nodes"),
        (([2], [0, 1], [0], [1], [1]), "2 nodes came with 1 labels"),
    ],
)
def test_edges_of_no_simple_graph_are_refused(given, fault):
    with pytest.raises(DataError, match=fault):
        Graphs(*given)


def test_a_dataset_without_edges_says_what_it_lacks():
    with pytest.raises(DataError, match="lacks u, v"):
        Graphs.of_dataset(MIXED.dataset("a").drop_vars(["u", "v"]))


def test_the_parts_of_a_set_are_the_graphs_of_its_split():
    data = MIXED.dataset("a", split=["test", "train", "train", "test", "train", "train"], attrs={"structure": "any"})
    assert Graphs.of_dataset(part(data, "test")).nodes.tolist() == [34, 3]
    assert part(data, "train").attrs == {"key": "a", "structure": "any"}
    with pytest.raises(DataError, match="no graph in its part 'validation'"):
        part(data, "validation")
    with pytest.raises(DataError, match="does not say which"):
        part(MIXED.dataset("a"), "test")
