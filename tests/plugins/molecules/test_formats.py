"""Graphs as objects of other libraries: there and back is the same graph, and what is none is refused."""

import networkx as nx
import pytest
import torch

from unstir.errors import DataError
from unstir_molecules.dense import Dense
from unstir_molecules.formats import of_networkx, of_pyg, to_networkx, to_pyg


def batch():
    e = torch.zeros(3, 4, 4, dtype=torch.int64)
    for graph, u, v, kind in ((0, 0, 1, 2), (0, 1, 2, 1), (2, 0, 3, 3), (2, 1, 2, 1)):
        e[graph, u, v] = e[graph, v, u] = kind
    return Dense.of(torch.tensor([[1, 0, 3, 0], [2, 0, 0, 0], [0, 1, 1, 0]]), e, [3, 1, 4])


def same(one, other):
    return all(torch.equal(a, b) for a, b in ((one.x, other.x), (one.e, other.e), (one.mask, other.mask)))


def test_there_and_back_through_networkx():
    assert same(of_networkx(to_networkx(batch())), batch())


def test_a_vocabulary_names_atoms_and_bonds_of_networkx():
    from unstir_molecules.atoms import QM9

    graphs = to_networkx(batch(), QM9)
    assert [facts["atom"] for _, facts in graphs[0].nodes(data=True)] == ["N", "C", "F"]
    assert graphs[0].edges[0, 1]["bond"] == "double"
    for graph in graphs:
        for _, facts in graph.nodes(data=True):
            del facts["kind"]
    assert same(of_networkx(graphs, QM9), batch())
    graphs[1].nodes[0]["atom"] = "Si"
    with pytest.raises(DataError, match="graph 1 has the atom 'Si'"):
        of_networkx(graphs, QM9)


def test_names_of_nodes_and_their_absence_of_kinds_are_no_matter():
    graph = nx.Graph([("b", "a"), ("a", "c")])
    dense = of_networkx([graph, nx.empty_graph(1), nx.empty_graph(0)], nodes=5)
    assert dense.sizes.tolist() == [3, 1, 0]
    assert dense.e[0, 1].tolist() == [1, 0, 1, 0, 0]
    assert len(of_networkx([])) == 0


@pytest.mark.parametrize(
    ("graph", "sentence"),
    [
        (nx.DiGraph([(0, 1)]), "graph 0 is directed"),
        (nx.MultiGraph([(0, 1), (0, 1)]), "several edges between two nodes"),
        (nx.Graph([(0, 0)]), "has a node joined to itself"),
        (nx.path_graph(9), "has 9 nodes and there is room for 5"),
    ],
)
def test_graphs_of_networkx_that_are_not_simple_are_refused(graph, sentence):
    with pytest.raises(DataError, match=sentence):
        of_networkx([graph], nodes=5)


@pytest.mark.parametrize("kind", ["C", 0.5, True, None])
def test_a_kind_of_networkx_that_is_no_number_is_refused(kind):
    graph = nx.empty_graph(1)
    graph.nodes[0]["kind"] = kind
    with pytest.raises(DataError, match="a kind that is no whole number"):
        of_networkx([graph])


def test_there_and_back_through_pyg():
    pytest.importorskip("torch_geometric", reason="torch-geometric is not installed")
    graphs = to_pyg(batch())
    assert graphs[0].x.shape == (3, 1)
    assert graphs[0].edge_index.shape == (2, 4)
    assert graphs[0].is_undirected()
    assert same(of_pyg(graphs), batch())
    assert same(of_pyg(graphs, nodes=4), batch().padded(4))


def test_one_hot_graphs_of_pyg_are_read():
    data = pytest.importorskip("torch_geometric.data", reason="torch-geometric is not installed")
    graphs = to_pyg(batch())
    hot = torch.nn.functional.one_hot
    made = [
        data.Data(x=hot(g.x[:, 0], 4).float(), edge_index=g.edge_index, edge_attr=hot(g.edge_attr, 4)[:, 1:].float(), num_nodes=g.num_nodes)
        for g in graphs
    ]
    assert same(of_pyg(made), batch())
    bare = [data.Data(edge_index=g.edge_index, num_nodes=g.num_nodes) for g in graphs]
    assert torch.equal(of_pyg(bare).e, (batch().e > 0).long())


def test_graphs_of_pyg_that_are_none_are_refused():
    data = pytest.importorskip("torch_geometric.data", reason="torch-geometric is not installed")
    two = torch.tensor([[0, 1], [1, 0]])
    for graph, sentence in (
        (data.Data(edge_index=two[:, :1], num_nodes=2), "is not symmetric"),
        (data.Data(edge_index=torch.tensor([[0, 5], [5, 0]]), num_nodes=2), "graph 0 has an edge at a node beyond its 2"),
        (data.Data(edge_index=torch.tensor([[1], [1]]), num_nodes=2), "joined to itself"),
        (data.Data(x=torch.randn(2, 11), edge_index=two), "x of graph 0 must be kinds or one-hot, got rows of 11"),
        (data.Data(x=torch.tensor([0.5, 1.0]), edge_index=two), "not whole"),
    ):
        with pytest.raises(DataError, match=sentence):
            of_pyg([graph])


def test_there_and_back_through_rdkit(smiles):
    Chem = pytest.importorskip("rdkit.Chem", reason="RDKit is not installed")
    from unstir_molecules.atoms import QM9
    from unstir_molecules.formats import of_mols, to_mols

    dense = of_mols([Chem.MolFromSmiles(text) for text in smiles], QM9)
    mols = to_mols(dense, QM9)
    assert [Chem.MolToSmiles(mol) for mol in mols] == smiles
    assert same(of_mols(mols, QM9), dense)
    crowded = Dense.of(torch.zeros(1, 6, dtype=torch.int64), torch.ones(1, 6, 6, dtype=torch.int64) - torch.eye(6, dtype=torch.int64), [6])
    assert to_mols(crowded, QM9) == [None]
    with pytest.raises(DataError, match=r"molecule 1 \(CCl\) cannot be a graph: an atom or bond that the vocabulary has not"):
        of_mols(["C", "CCl"], QM9)
