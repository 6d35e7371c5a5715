"""Features of noisy graphs: cycles by enumeration, components by search, and nothing that depends on the order of nodes."""

import networkx as nx
import numpy as np
import pytest
import torch

from unstir_molecules.features import GRAPH_FEATURES, NODE_FEATURES, cycles, graph_features

GRAPHS = {
    "petersen": nx.petersen_graph(),
    "complete": nx.complete_graph(6),
    "wheel": nx.wheel_graph(7),
    "karate": nx.karate_club_graph(),
    "two parts": nx.disjoint_union(nx.cycle_graph(5), nx.path_graph(3)),
    "random": nx.gnp_random_graph(9, 0.5, seed=3),
}


def dense(graph, size=None):
    n = graph.number_of_nodes()
    a = torch.zeros(1, size or n, size or n)
    a[0, :n, :n] = torch.as_tensor(nx.to_numpy_array(graph, weight=None))
    mask = torch.zeros(1, size or n, dtype=torch.bool)
    mask[0, :n] = True
    return a, mask


@pytest.mark.parametrize("name", [name for name in GRAPHS if name != "karate"])
def test_cycles_are_those_that_enumeration_finds(name):
    graph = nx.convert_node_labels_to_integers(GRAPHS[name])
    found = [cycle for cycle in nx.simple_cycles(graph, length_bound=6) if len(cycle) >= 3]
    of_nodes, of_graph = cycles(dense(graph)[0].double())
    for length in (3, 4, 5, 6):
        assert of_graph[0, length - 3] == sum(len(cycle) == length for cycle in found)
        if length < 6:
            each = np.bincount([node for cycle in found if len(cycle) == length for node in cycle], minlength=len(graph))
            np.testing.assert_array_equal(of_nodes[0, :, length - 3], each)


def test_karate_has_the_number_of_triangles_that_networkx_counts():
    of_nodes, _ = cycles(dense(GRAPHS["karate"])[0].double())
    assert of_nodes[0, :, 0].tolist() == list(nx.triangles(GRAPHS["karate"]).values())


def test_components_are_counted_and_nodes_outside_the_largest_marked():
    a, mask = dense(GRAPHS["two parts"], size=10)
    of_nodes, of_graph = graph_features(a, mask, 10)
    assert of_nodes[0, :, 3].tolist() == [0] * 5 + [1] * 3 + [0] * 2
    assert of_graph[0, 5] == pytest.approx(0.2)


@pytest.mark.parametrize(("name", "legacy"), [*((name, False) for name in GRAPHS), ("karate", True), ("random", True)])
def test_padding_changes_no_feature(name, legacy):
    """Where eigenvalues repeat DiGress's eigenvectors are arbitrary, so its features are compared on two graphs only."""
    graph = GRAPHS[name]
    n = graph.number_of_nodes()
    nodes, whole = graph_features(*dense(graph), 40, legacy=legacy)
    padded, padded_whole = graph_features(*dense(graph, n + 6), 40, legacy=legacy)
    signless = torch.abs if legacy else torch.clone
    torch.testing.assert_close(signless(padded[:, :n]), signless(nodes), atol=1e-5, rtol=1e-5)
    assert not padded[:, n:].any()
    torch.testing.assert_close(padded_whole, whole, atol=1e-6, rtol=1e-6)
    assert nodes.shape[-1] == NODE_FEATURES
    assert whole.shape[-1] == GRAPH_FEATURES


@pytest.mark.parametrize("name", GRAPHS)
def test_features_follow_the_nodes_when_they_are_renamed(name):
    a, mask = dense(GRAPHS[name])
    order = torch.randperm(a.shape[-1], generator=torch.Generator().manual_seed(1))
    nodes, whole = graph_features(a, mask, 40)
    moved, moved_whole = graph_features(a[:, order][:, :, order], mask, 40)
    torch.testing.assert_close(moved, nodes[:, order], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(moved_whole, whole, atol=1e-5, rtol=1e-5)


def test_published_features_saturate_and_ours_do_not():
    a, mask = dense(nx.complete_graph(9))
    b, _ = dense(nx.complete_graph(9))
    b[0, 0, 1] = b[0, 1, 0] = 0
    first, second = (graph_features(graph, mask, 9, legacy=True)[1][0, 1:5] for graph in (a, b))
    assert torch.equal(first, second)
    first, second = (graph_features(graph, mask, 9)[1][0, 1:5] for graph in (a, b))
    assert (first > second).all()


def test_a_graph_without_nodes_or_edges_has_finite_features():
    for n in (1, 4):
        nodes, whole = graph_features(torch.zeros(1, n, n), torch.ones(1, n, dtype=torch.bool), 9)
        assert torch.isfinite(nodes).all()
        assert torch.isfinite(whole).all()
    nodes, whole = graph_features(torch.zeros(1, 3, 3), torch.zeros(1, 3, dtype=torch.bool), 9)
    assert not nodes.any()
    assert torch.isfinite(whole).all()
