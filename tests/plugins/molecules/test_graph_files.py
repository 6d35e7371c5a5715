import json
import pickle

import numpy as np
import pytest

from unstir.errors import DataError, UserError
from unstir_molecules.graph_files import GraphFile, read, write
from unstir_molecules.graphs import Graphs, part

nx = pytest.importorskip("networkx", reason="networkx is not installed")

SET = Graphs.of_networkx([nx.karate_club_graph(), nx.empty_graph(3), nx.path_graph(1), nx.petersen_graph()])


@pytest.mark.parametrize("suffix", [".npz", ".graphml", ".json", ".csv", ".nc"])
def test_what_is_written_is_read_again(tmp_path, suffix):
    written = write(SET, tmp_path / f"a{suffix}")
    assert read(written).digest == SET.digest
    assert [path.name for path in tmp_path.iterdir()] == [f"a{suffix}"]


def test_files_of_networkx_are_read(tmp_path):
    nx.write_graphml(nx.karate_club_graph(), tmp_path / "a.graphml")
    nx.write_gml(nx.petersen_graph(), tmp_path / "a.gml")
    nx.write_edgelist(nx.petersen_graph(), tmp_path / "a.edgelist", data=False)
    (tmp_path / "a.json").write_text(json.dumps(nx.node_link_data(nx.bull_graph(), edges="links")))
    assert read(tmp_path / "a.graphml").digest == SET.take([0]).digest
    assert read(tmp_path / "a.gml").digest == SET.take([3]).digest
    assert nx.is_isomorphic(read(tmp_path / "a.edgelist").to_networkx()[0], nx.petersen_graph())
    assert read(tmp_path / "a.json").edges.tolist() == [5]


def test_an_edge_list_may_name_isolated_nodes_and_weights(tmp_path):
    (tmp_path / "a.txt").write_text("# a comment\nx y\ny, z, 0.5\n\nalone\nx\tw\t0  # no edge\n")
    found = read(tmp_path / "a.txt")
    assert found.nodes.tolist() == [5]
    assert np.stack([found.u, found.v], 1).tolist() == [[0, 1], [1, 2]]


@pytest.mark.parametrize(
    ("text", "nodes", "edges"),
    [
        ("graph,u,v\na,1,2\na,2,3\nb,1,2\nc,7,\n", [3, 2, 1], [2, 1, 0]),
        ("Source;Target;Weight\n1;2;1\n2;3;0\n", [3], [1]),
        ("from\tto\n1\t2\n", [2], [1]),
        ("1,2\n2,3\n", [3], [2]),
    ],
)
def test_tables_of_edges(tmp_path, text, nodes, edges):
    (tmp_path / "a.csv").write_text(text)
    found = read(tmp_path / "a.csv")
    assert found.nodes.tolist() == nodes
    assert found.edges.tolist() == edges


def test_arrays_of_matrices(tmp_path):
    a = np.zeros((2, 4, 4))
    a[0, :3, :3] = 1 - np.eye(3)
    a[1, 0, 1] = a[1, 1, 0] = 2.5
    np.save(tmp_path / "one.npy", a[0])
    np.savez(tmp_path / "many.npz", adjacency=a, nodes=[3, 4])
    assert read(tmp_path / "one.npy").nodes.tolist() == [4]
    many = read(tmp_path / "many.npz")
    assert many.nodes.tolist() == [3, 4]
    assert many.edges.tolist() == [3, 1]


def test_named_sets_of_an_archive(tmp_path):
    arrays = {f"{name}_{what}": value for name in ("a", "b") for what, value in (("n_nodes", [2, 3]), ("n_edges", [1, 2]))}
    arrays |= {"a_edges": [[0, 1], [0, 1], [1, 2]], "b_edges": [[1, 0], [2, 0], [1, 2]]}
    np.savez(tmp_path / "two.npz", **arrays)
    assert read(tmp_path / "two.npz", name="b").v.tolist() == [1, 2, 2]
    with pytest.raises(DataError, match="holds the sets a, b; name='' is none of them"):
        read(tmp_path / "two.npz")
    with pytest.raises(DataError, match="name='c' is none of them"):
        read(tmp_path / "two.npz", name="c")


def test_the_yardstick_sets_are_read(yardsticks):
    sizes = {"community_small": 100, "ego_small": 200, "ENZYMES": 587, "grid": 100}
    assert {name: len(read(yardsticks / "gdss_generic_graphs.npz", name=name)) for name in sizes} == sizes


def test_self_loops_and_double_edges_are_left_out_and_said(tmp_path):
    (tmp_path / "a.txt").write_text("1 2\n2 1\n1 1\n2 3\n")
    with pytest.warns(UserWarning, match="1 self-loops were left out, 1 edges that came twice were merged"):
        found = read(tmp_path / "a.txt")
    assert found.edges.tolist() == [2]
    np.save(tmp_path / "a.npy", np.ones((3, 3)))
    with pytest.warns(UserWarning, match="3 self-loops were left out"):
        assert read(tmp_path / "a.npy").edges.tolist() == [3]


def test_a_directed_graph_is_refused_unless_asked_for_without_directions(tmp_path):
    graph = nx.DiGraph([(0, 1), (1, 0), (1, 2)])
    nx.write_graphml(graph, tmp_path / "a.graphml")
    nx.write_gml(graph, tmp_path / "a.gml")
    (tmp_path / "a.json").write_text(json.dumps(nx.node_link_data(graph, edges="edges")))
    np.save(tmp_path / "a.npy", nx.to_numpy_array(graph))
    for suffix in (".graphml", ".gml", ".json", ".npy"):
        with pytest.raises(DataError, match=r"is directed; with directed=True"):
            read(tmp_path / f"a{suffix}")
    with pytest.warns(UserWarning, match="came twice were merged"):
        assert read(tmp_path / "a.graphml", directed=True).edges.tolist() == [2]
    assert read(tmp_path / "a.npy", directed=True).edges.tolist() == [2]


def test_pickles_are_refused_with_the_reason(tmp_path):
    for suffix in (".pkl", ".pickle", ".pt"):
        (tmp_path / f"a{suffix}").write_bytes(pickle.dumps([1]))
        with pytest.raises(DataError, match="loading one runs whatever code its author put there"):
            read(tmp_path / f"a{suffix}")
    np.save(tmp_path / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "a.npz", nodes=np.array([{}], dtype=object))
    for suffix in (".npy", ".npz"):
        with pytest.raises(DataError, match="no file of plain numpy arrays"):
            read(tmp_path / f"a{suffix}")


@pytest.mark.parametrize(
    ("name", "text", "fault"),
    [
        ("a.txt", "", "is empty"),
        ("a.txt", "# nothing\n", "holds no graph"),
        ("a.txt", "1 2 -1\n", "has the weight -1; weights must be finite and not negative"),
        ("a.txt", "1 2 nan\n", "has the weight nan"),
        ("a.txt", "1 2 inf\n", "has the weight inf"),
        ("a.txt", "1 2 x\n", "has the weight 'x', which is no number"),
        ("a.txt", "1 2 3 4\n", "line 1 of .* has 4 words"),
        ("a.csv", "u,v\n1,2\n1\n", "line 3 of .* has 1 columns, its head has 2"),
        ("a.csv", "a;b\n1;2\n", "has the columns a, b; a table of edges has u and v"),
        ("a.json", "{", "is no JSON"),
        ("a.json", "[]", "holds no graph"),
        ("a.json", '{"nodes": []}', "lacks its nodes or its links"),
        ("a.json", '{"nodes": [{}], "links": []}', "has a node without id"),
        ("a.json", '{"nodes": [], "links": [{"source": 1}]}', "link without source and target"),
        ("a.graphml", "<a>", "is no XML"),
        ("a.graphml", "<graphml/>", "holds no graph"),
        ("a.graphml", '<graphml><graph edgedefault="undirected"><edge source="1"/></graph></graphml>', "lacks its source or its target"),
        ("a.gml", "graph [", "is no GML"),
        ("a.nc", "text", "is no netCDF file"),
        ("a.npz", "text", "no file of plain numpy arrays"),
        ("a.graph6", "text", "is of no kind that graphs are read from"),
    ],
)
def test_bad_files_are_refused_in_a_sentence(tmp_path, name, text, fault):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=fault):
        read(tmp_path / name)


@pytest.mark.parametrize(
    ("array", "fault"),
    [
        (np.array([[0, -1], [-1, 0]]), r"entry \(0, 1\) of adjacency matrix 0 is negative"),
        (np.array([[0, np.nan], [np.nan, 0]]), "is not finite"),
        (np.zeros((2, 3)), "must be square"),
        (np.zeros(3), r"holds an array of shape \(3,\)"),
        (np.zeros((7, 7)), "more than 6 nodes"),
        (np.array([["a", "b"], ["c", "d"]]), "not numbers"),
    ],
)
def test_bad_matrices_are_refused_in_a_sentence(tmp_path, array, fault):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DataError, match=fault):
        read(tmp_path / "a.npy", largest=6)


def test_files_that_are_missing_or_too_large_are_refused(tmp_path):
    with pytest.raises(DataError, match="there is no file"):
        read(tmp_path / "a.txt")
    for suffix in (".csv", ".graphml", ".json", ".npz", ".nc"):
        write(SET, tmp_path / f"a{suffix}")
        with pytest.raises(DataError, match=r"graph 0 of .* has more than 20 nodes; largest says how many"):
            read(tmp_path / f"a{suffix}", largest=20)
    np.savez(tmp_path / "odd.npz", something=[1])
    with pytest.raises(DataError, match="has none of: nodes, edges, u, v; adjacency"):
        read(tmp_path / "odd.npz")
    with pytest.raises(UserError, match="not as .xlsx"):
        write(SET, tmp_path / "a.xlsx")


def test_single_nodes_are_graphs(tmp_path):
    (tmp_path / "a.txt").write_text("alone\n")
    assert read(tmp_path / "a.txt").nodes.tolist() == [1]


def test_a_users_file_is_a_dataset_with_its_split(tmp_path):
    path = write(SET, tmp_path / "My graphs.npz")
    (data,) = GraphFile(str(path), structure="connected", test=0.5).load()
    assert data.attrs["key"] == "my-graphs"
    assert data.attrs["structure"] == "connected"
    assert Graphs.of_dataset(part(data, "test")).nodes.tolist() == [34, 3]
    with pytest.raises(DataError, match="needs the path of a file"):
        list(GraphFile().load())
    with pytest.raises(UserError, match="structure must be one of"):
        GraphFile(structure="nice")
