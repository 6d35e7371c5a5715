import numpy as np
import pytest

from unstir.errors import UserError
from unstir.plugin.protocols import Dataset
from unstir_molecules.generators import SBM, Community, Ego, Grid, Lobster, Planar, Tree
from unstir_molecules.graph_files import read
from unstir_molecules.graphs import Graphs, part
from unstir_molecules.isomorphism import classes, leakage
from unstir_molecules.mmd import distances
from unstir_molecules.random_graphs import block_model, fixed_seed, grown, tree_of
from unstir_molecules.structures import valid

nx = pytest.importorskip("networkx", reason="networkx is not installed")

SMALL = [Community(count=20), Ego(count=20), Grid(count=10), Planar(count=10), SBM(count=5), Tree(count=20), Lobster(count=20)]


@pytest.mark.parametrize("law", SMALL, ids=lambda law: law.key)
def test_a_set_keeps_the_protocol_and_its_graphs_are_what_it_promises(law):
    assert isinstance(law, Dataset)
    (data,) = law.load()
    assert data.attrs["key"] == law.key
    assert data.attrs["simulated"]
    graphs = Graphs.of_dataset(data)
    kind = "connected" if law.structure == "sbm" else law.structure  # the test of blocks turns some real ones down
    assert valid(graphs, kind).all()
    held = int(0.2 * law.count)
    assert (data["split"].values[:held] == "test").all()
    assert (data["split"].values[held:] == "train").all()


@pytest.mark.parametrize("law", SMALL, ids=lambda law: law.key)
def test_a_graph_depends_on_the_seed_and_its_number_alone(law):
    graphs, other = law.graphs(), type(law)(count=law.count, seed=1).graphs()
    assert graphs.digest == law.graphs().digest != other.digest
    assert type(law)(count=3).graphs().digest == graphs.take([0, 1, 2]).digest


def test_a_shuffled_split_holds_out_as_many_of_other_graphs():
    (data,) = Community(count=50, split="shuffled").load()
    chosen = np.flatnonzero(data["split"].values == "test")
    assert len(chosen) == 10
    assert chosen.max() > 10
    assert len(Graphs.of_dataset(part(data, "train"))) == 40


def test_communities_have_two_halves_and_a_bridge():
    graphs = Community(count=200).graphs()
    assert set(graphs.nodes.tolist()) == {12, 14, 16, 18, 20}
    across = []
    for a in graphs:
        half = len(a) // 2
        across.append(a[:half, half:].sum())
        assert a[0, half] == 1 or across[-1] >= 1
    within = np.mean([2 * (a.sum() / 2 - c) / (2 * (len(a) // 2) * (len(a) // 2 - 1)) for a, c in zip(graphs, across, strict=True)])
    assert min(across) == 1
    assert within == pytest.approx(
        0.7, abs=0.02
    )  # 200 graphs of about 55 pairs: one standard error is .003, and connectedness adds a little


def test_legacy_communities_are_the_same_five_pairs():
    legacy = Community(count=60, legacy_seed=True).graphs()
    seen = set()
    for a in legacy:
        half = len(a) // 2
        for seed, own in ((0, a[:half, :half]), (1, a[half:, half:])):
            assert {tuple(e) for e in np.argwhere(np.triu(own))} == set(nx.gnp_random_graph(half, 0.7, seed=seed).edges)
        seen.add(half)
    assert seen == {6, 7, 8, 9, 10}
    fresh = Community(count=60).graphs()
    assert len(np.unique(classes(fresh))) == 60 > len(np.unique(classes(legacy)))
    assert leakage(legacy.take(np.arange(12)), legacy.take(np.arange(12, 60))).share > 0.2


def test_the_legacy_communities_are_those_of_the_fields_file(yardsticks):
    graphs = read(yardsticks / "gdss_generic_graphs.npz", name="community_small")
    for a in graphs:
        half = len(a) // 2
        for seed, own in ((0, a[:half, :half]), (1, a[half:, half:])):
            np.testing.assert_array_equal(np.argwhere(np.triu(own)), fixed_seed(half, 0.7, seed))
    found = distances(Community(legacy_seed=True).graphs(), graphs)
    assert found["degree"] < 0.03
    assert found["orbit"] < 0.02


def test_a_pruefer_sequence_gives_its_tree():
    expected = nx.from_prufer_sequence([3, 3, 3, 4])
    assert {frozenset(pair) for pair in tree_of(np.array([3, 3, 3, 4])).tolist()} == {frozenset(edge) for edge in expected.edges}
    assert tree_of(np.zeros(0, dtype=int)).tolist() == [[0, 1]]


def test_the_sixteen_labelled_trees_of_four_nodes_are_equally_likely():
    drawn = Tree(count=1600, nodes=4).graphs()
    stars = (drawn.degrees().reshape(-1, 4).max(1) == 3).mean()
    assert stars == pytest.approx(4 / 16, abs=0.045)  # four standard errors of a share of 1600


def test_block_models_have_their_densities():
    rng = np.random.default_rng(0)
    edges = np.concatenate([block_model(rng, np.array([30, 40]), 0.3, 0.005) for _ in range(200)])
    inside = (edges < 30).all(1) | (edges >= 30).all(1)
    assert inside.sum() / 200 == pytest.approx(0.3 * (435 + 780), rel=0.01)
    assert (~inside).sum() / 200 == pytest.approx(0.005 * 1200, rel=0.12)  # 1200 edges counted: four standard errors


def test_planar_sets_have_the_edges_of_triangulations():
    graphs = Planar(count=30).graphs()
    assert (graphs.edges <= 3 * 64 - 6).all()
    assert graphs.edges.mean() == pytest.approx(178.4, abs=1)


def test_neighbourhoods_hold_their_centre_and_close_triangles():
    near = grown(np.random.default_rng(0), 400, 0.5)
    assert all(node in near[other] for node in range(400) for other in near[node])
    for a in Ego(count=20).graphs():
        assert a[0, 1:].all()
        assert 4 <= len(a) <= 18
    assert Ego(count=100, closing=0.9).graphs().edges.sum() > Ego(count=100, closing=0.0).graphs().edges.sum()


def test_lobsters_have_the_sizes_asked_for():
    sizes = Lobster(count=30, smallest=20, largest=30).graphs().nodes
    assert sizes.min() >= 20
    assert sizes.max() <= 30
    with pytest.raises(UserError, match="no lobster of 500 to 600 nodes"):
        Lobster(count=5, smallest=500, largest=600).graphs()


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda: Community(count=1), "count must be at least 2, got 1"),
        (lambda: Community(within=1.2), "within must lie between 0 and 1"),
        (lambda: Community(within=0.0), "within must be above 0"),
        (lambda: Community(largest=10), "largest must be at least 12"),
        (lambda: Grid(smallest=1), "smallest must be at least 2"),
        (lambda: list(Tree(test=0.0).load()), "leaves 0 for the test"),
        (lambda: list(Tree(test=1.0).load()), "leaves 200 for the test and 0 for training"),
        (lambda: list(Tree(split="last").load()), "split must be one of first, shuffled"),
        (lambda: Ego(count=200, network=100).graphs(), "neighbourhoods of such sizes, 200 are wanted"),
        (lambda: SBM(between=0.0).graphs(), "no connected graph was drawn"),
    ],
)
def test_options_out_of_range_are_refused(make, fault, monkeypatch):
    monkeypatch.setattr("unstir_molecules.random_graphs.TRIES", 20)
    with pytest.raises(UserError, match=fault):
        make()
