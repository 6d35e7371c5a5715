import math
from dataclasses import replace

import numpy as np
import pytest

from unstir.errors import DataError, UserError
from unstir.plugin.protocols import Case, Estimate, Method, Metric
from unstir_molecules.generators import Community, Tree
from unstir_molecules.graph_files import read
from unstir_molecules.graph_metrics import VUN, Connected, GDSSDistance, Novelty, Ratio, Sizes, SpectreDistance
from unstir_molecules.graphs import Graphs, part
from unstir_molecules.mmd import distances
from unstir_molecules.opponents import ConfigurationModel, ErdosRenyi, TrainGraphs, swapped

nx = pytest.importorskip("networkx", reason="networkx is not installed")

METRICS = [
    GDSSDistance(),
    SpectreDistance(),
    GDSSDistance(resamples=4),
    Ratio(),
    Ratio("gdss"),
    VUN(),
    VUN("planar"),
    Connected(),
    Novelty(),
    Sizes(),
]
OPPONENTS = [ErdosRenyi(), ConfigurationModel(), ConfigurationModel("swapped"), TrainGraphs()]


def case_of(dataset, count=20):
    (data,) = dataset.load()
    return Case(data.attrs["key"], part(data, "test"), part(data, "train"), {"count": count})


CASE = case_of(Community(count=40))
BLIND = replace(CASE, truth=None)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: f"{type(metric).__name__}")
def test_a_metric_gives_what_it_describes(metric):
    assert isinstance(metric, Metric)
    scores = metric(TrainGraphs()(BLIND, None, 0), CASE)
    infos = {info.key: info for info in metric.describe()}
    assert set(scores) == set(infos)
    for key, score in scores.items():
        assert isinstance(score.value, float)
        assert infos[key].definition
        if score.parts:
            assert np.mean(score.parts) == pytest.approx(score.value)


@pytest.mark.parametrize(
    "metric", [one for one in METRICS if not getattr(one, "resamples", 0)], ids=lambda metric: f"{type(metric).__name__}"
)
def test_no_metric_depends_on_numbering_or_order(metric):
    made = Graphs.of_dataset(ErdosRenyi()(BLIND, None, 0).data)
    moved = made.take(np.random.default_rng(1).permutation(20)).permuted(3)
    first, second = (metric(Estimate(graphs.dataset("a")), CASE) for graphs in (made, moved))
    assert {key: one.value for key, one in first.items()} == pytest.approx({key: one.value for key, one in second.items()}, abs=1e-10)


def test_keys_of_different_metrics_never_meet():
    every = [
        info.key
        for metric in (GDSSDistance(), SpectreDistance(), Ratio(), VUN(), Connected(), Novelty(), Sizes())
        for info in metric.describe()
    ]
    assert len(every) == len(set(every))


def test_distances_are_those_of_the_library():
    estimate = ErdosRenyi()(BLIND, None, 0)
    made, test = Graphs.of_dataset(estimate.data), Graphs.of_dataset(CASE.truth)
    found = SpectreDistance(("degree", "orbit"))(estimate, CASE)
    assert {key: score.value for key, score in found.items()} == {
        f"spectre-{name}": value for name, value in distances(made, test, "spectre", ("degree", "orbit")).items()
    }
    spread = GDSSDistance().spread(estimate, CASE, 5)["gdss-degree"]
    assert spread.low <= spread.value <= spread.high


def test_training_graphs_have_the_ratio_one():
    whole = Estimate(CASE.measurement)
    found = Ratio()(whole, CASE)
    assert {score.value for score in found.values()} == {1.0}


def test_a_ratio_without_a_floor_is_nan_and_said():
    case = case_of(Tree(count=20, nodes=16))  # no tree has a triangle
    with pytest.warns(UserWarning, match="the ratio of clustering is NaN: training and test graphs do not differ in it"):
        found = Ratio()(TrainGraphs()(replace(case, truth=None), None, 0), case)
    assert math.isnan(found["ratio-clustering"].value)
    assert math.isnan(found["ratio"].value)
    assert math.isfinite(found["ratio-degree"].value)


def test_shares_of_a_small_set():
    train = Graphs.of_networkx([nx.path_graph(5)]).dataset("t", attrs={"structure": "tree"})
    test = Graphs.of_networkx([nx.path_graph(5), nx.star_graph(4)]).dataset("t")
    case = Case("t", test, train, {"count": 5})
    made = [nx.path_graph(5), nx.star_graph(4), nx.star_graph(4), nx.cycle_graph(5), nx.empty_graph(2)]
    estimate = Estimate(Graphs.of_networkx(made).dataset("t"))
    values = {key: score.value for metric in (VUN(), Connected(), Novelty(), Sizes()) for key, score in metric(estimate, case).items()}
    assert values["structure"] == pytest.approx(3 / 5)
    assert values["vun"] == pytest.approx(1 / 5)
    assert values["connected"] == pytest.approx(4 / 5)
    assert values["uniqueness"] == pytest.approx(4 / 5)
    assert values["novelty"] == pytest.approx(4 / 5)
    assert values["leakage"] == pytest.approx(1 / 2)
    assert values["nodes"] == pytest.approx(22 / 5)
    assert values["nodes-distance"] == pytest.approx(3 / 5)
    assert values["edges"] == pytest.approx(17 / 5)
    assert values["edges-distance"] == pytest.approx((1 + 4) / 5)
    assert VUN("planar")(estimate, case)["structure"].value == pytest.approx(4 / 5)


def test_bad_estimates_and_options_are_refused():
    with pytest.raises(DataError, match="holds no graph"):
        Connected()(Estimate(Graphs.of_edges([]).dataset("a")), CASE)
    with pytest.raises(DataError, match="a set of graphs lacks nodes"):
        Connected()(Estimate(CASE.measurement.drop_vars("nodes")), CASE)
    with pytest.raises(DataError, match="no test graphs to compare with"):
        GDSSDistance()(Estimate(CASE.measurement), BLIND)
    with pytest.raises(UserError, match="statistics must be some of"):
        GDSSDistance(("degree", "degree"))
    with pytest.raises(UserError, match="resamples must be 0 or at least 2"):
        GDSSDistance(resamples=1)
    with pytest.raises(UserError, match="convention must be one of"):
        Ratio("digress")
    with pytest.raises(UserError, match="structure must be one of"):
        VUN("round")


@pytest.mark.parametrize("method", OPPONENTS, ids=lambda method: f"{type(method).__name__}")
def test_an_opponent_answers_with_as_many_graphs_as_are_wanted(method):
    assert isinstance(method, Method)
    ticks = []
    estimate = method(BLIND, None, 5, progress=lambda done, total: ticks.append((done, total)))
    again = method(BLIND, None, 5)
    made = Graphs.of_dataset(estimate.data)
    assert len(made) == 20
    assert made.digest == Graphs.of_dataset(again.data).digest != Graphs.of_dataset(method(BLIND, None, 6).data).digest
    assert set(made.nodes.tolist()) <= set(CASE.measurement["nodes"].values.tolist())
    assert all(done <= total for done, total in ticks)
    empty = replace(BLIND, measurement=Graphs.of_edges([]).dataset("a"))
    with pytest.raises(DataError, match="training set of case community is empty"):
        method(empty, None, 0)


@pytest.mark.parametrize("method", OPPONENTS[:3], ids=lambda method: f"{type(method).__name__}")
def test_a_random_graph_depends_on_the_seed_and_its_number_alone(method):
    few = method(replace(BLIND, context={"count": 4}), None, 5)
    many = Graphs.of_dataset(method(BLIND, None, 5).data)
    assert Graphs.of_dataset(few.data).digest == many.take([0, 1, 2, 3]).digest


def test_random_graphs_keep_what_they_say():
    one = nx.gnp_random_graph(16, 0.4, seed=0)
    case = Case("a", None, Graphs.of_networkx([one]).dataset("a"), {"count": 50})
    degrees = sorted(dict(one.degree).values())
    er, erased, kept = (Graphs.of_dataset(method(case, None, 0).data) for method in OPPONENTS[:3])
    assert set(er.edges.tolist()) == {one.number_of_edges()}
    assert (erased.edges <= one.number_of_edges()).all()
    assert erased.edges.min() < one.number_of_edges()
    assert all(sorted(a.sum(0).tolist()) == degrees for a in kept)
    assert len({a.tobytes() for a in kept}) == 50


def test_swaps_reach_every_graph_of_a_degree_sequence_equally_often():
    matchings = [swapped(np.array([[0, 1], [2, 3]]), 11, np.random.default_rng(i)) for i in range(900)]
    partner = [next(int(max(pair)) for pair in made if 0 in pair) for made in matchings]
    shares = np.bincount(partner, minlength=4)[1:] / 900
    np.testing.assert_allclose(shares, 1 / 3, atol=0.065)  # four standard errors
    assert swapped(np.array([[0, 1]]), 5, np.random.default_rng(0)).tolist() == [[0, 1]]


def test_training_graphs_are_drawn_without_replacement_where_there_are_enough():
    made = Graphs.of_dataset(TrainGraphs()(replace(BLIND, context={"count": 32}), None, 0).data)
    assert sorted(a.tobytes() for a in made) == sorted(a.tobytes() for a in Graphs.of_dataset(CASE.measurement))
    assert len(Graphs.of_dataset(TrainGraphs()(replace(BLIND, context={"count": 50}), None, 0).data)) == 50


def test_random_graphs_are_far_where_training_graphs_are_near(yardsticks):
    graphs = read(yardsticks / "gdss_generic_graphs.npz", name="community_small")
    test, train = graphs.take(np.arange(20)), graphs.take(np.arange(20, 100))
    case = Case("a", test.dataset("a"), train.dataset("a"), {"count": 80})
    blind = replace(case, truth=None)
    er, near = (distances(Graphs.of_dataset(method(blind, None, 0).data), test) for method in (ErdosRenyi(), TrainGraphs()))
    for name, least in (("degree", 0.08), ("clustering", 0.5), ("orbit", 0.25)):
        assert er[name] > least > 8 * near[name]
