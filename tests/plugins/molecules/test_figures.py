"""Pictures of molecules and graphs: captions say the numbers, marks say what became of a sample, data come along."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text

from unstir.errors import UserError
from unstir.plugin.protocols import Case, Drawn, Estimate, Figure
from unstir_molecules.figures_graphs import DrawnGraphs, Statistics, statistics_of
from unstir_molecules.graphs import Graphs, graph_set
from unstir_molecules.tasks import Generate, GenerateGraphs

TRAIN = ["CCO", "CCN", "c1ccccc1", "CC(=O)N", "C1CC1"] * 4
TEST = ["CCC", "CCO", "CC=O", "C1CCC1", "Oc1ccccc1"] * 3


class Run:
    """A run in memory of one case."""

    def __init__(self, case, estimates):
        self.held, self.answers, self.labels, self.settings, self.folder = case, estimates, list(estimates), [{}], None
        self.recipe = SimpleNamespace(title="A run", resolved={"methods": {"ours": {"title": "Our model"}}})
        self.rows = pd.DataFrame(columns=["method", "case", "seed", "setting", "metric", "unit", "value"])

    def cases(self):
        return [self.held.key]

    def case(self, key, setting):
        return self.held

    def estimate(self, label, key, setting):
        return self.answers[label]


def words(figure):
    return [one.get_text() for one in figure.findobj(Text) if one.get_text()]


# ---- molecules


def molecules(truth=True):
    pytest.importorskip("rdkit", reason="RDKit is not installed")
    from unstir_molecules.molecules import molecule_set

    ours = ["CCO", "CCF", "CCF", "CCCl", None, "CCBr"]
    faults = [True, True, True, True, False, False], [False] * 5 + [True], ["", "", "", "", "empty", "valence"]
    answers = {"ours": molecule_set(ours, *faults), "lost": None, "copies": molecule_set(TRAIN[:4])}
    case = Case("toy", molecule_set(TEST) if truth else None, molecule_set(TRAIN), {"count": 6})
    return Run(case, {label: None if one is None else Estimate(one, 5) for label, one in answers.items()})


def test_every_sample_has_the_mark_of_what_became_of_it():
    from unstir_molecules.drawing import marked

    data = molecules().answers["ours"].data
    assert marked(data, set(TRAIN))["mark"].tolist() == ["in train", "novel", "repeat", "novel", "none", "mended"]
    assert marked(data, None)["mark"].tolist() == ["valid", "valid", "repeat", "valid", "none", "mended"]
    assert marked(data, set(TRAIN))["novel"].tolist() == [False, True, True, True, False, True]


def test_structures_show_the_first_samples_of_every_method_below_the_test_set():
    from unstir_molecules.figures import Structures

    figure = Structures(rows=1, columns=4)
    assert isinstance(figure, Figure)
    (one,) = figure.draw(molecules())
    assert isinstance(one, Drawn)
    assert (one.name, one.case) == ("grid-toy", "toy")
    seen = words(one.figure)
    assert [word for word in seen if word in ("test set", "Our model", "copies", "lost")] == ["test set", "Our model", "copies"]
    assert seen.count("novel") == 2
    assert seen.count("in train") == 1 + 4
    assert "Valid, distinct and novel of all samples: Our model 33.3\N{NO-BREAK SPACE}% (copies 0.0\N{NO-BREAK SPACE}%)." in one.caption
    assert "novel of these: Our model 2 of 4, copies 0 of 4" in one.caption
    assert len(one.data) == 3 * 4
    images = [image for axes in one.figure.axes for image in axes.images]
    assert all(image.get_array().min() < 0.6 for image in images)  # something is drawn in each


def test_a_sample_that_is_no_molecule_says_what_was_wrong():
    from unstir_molecules.figures import Structures

    (one,) = Structures(rows=1, columns=6, methods=("ours",)).draw(molecules(truth=False))
    assert {"none: empty", "mended: valence"} <= set(words(one.figure))
    assert "test set" not in words(one.figure)


def test_laws_of_properties_stand_beside_real_ones_and_the_caption_has_the_floor():
    from unstir_molecules.drawing import PANELS
    from unstir_molecules.figures import PropertyLaws

    (one,) = PropertyLaws().draw(molecules())
    assert one.name == "properties-toy"
    assert list(one.data.columns) == ["property", "set", "low", "high", "percent"]
    assert set(one.data["set"]) == {"test", "train", "Our model", "copies"}
    assert set(one.data["property"]) == set(PANELS)
    np.testing.assert_allclose(one.data.groupby(["property", "set"])["percent"].sum(), 100)
    assert "weight, Da" in words(one.figure)
    assert "Wasserstein distance to the test set" in one.caption
    assert "heavy atoms Our model" in one.caption or "heavy atoms copies" in one.caption
    assert one.caption.count(", train ") == len(PANELS)
    (blind,) = PropertyLaws().draw(molecules(truth=False))
    assert "there is no test set beside" in blind.caption


def test_whole_numbers_have_bins_of_their_own_and_one_value_has_a_width():
    pytest.importorskip("rdkit", reason="RDKit is not installed")
    from unstir_molecules.drawing import edges_of

    assert edges_of([np.array([1.0, 3.0, np.nan]), np.zeros(0)], whole=True).tolist() == [0.5, 1.5, 2.5, 3.5]
    assert edges_of([np.full(4, 2.0)], whole=False)[[0, -1]].tolist() == [2, 3]


def test_failures_are_bars_and_the_caption_counts_them():
    from unstir_molecules.figures import Failures

    (one,) = Failures().draw(molecules())
    assert one.caption == "Samples with a fault: Our model 33.3 % (empty 1, valence 1; 1 mended); copies none."
    assert {" 33.3 %", " 0.0 %", "valence", "empty"} <= set(words(one.figure))
    held = one.data.set_index(["method", "kind"])
    assert held.loc[("Our model", "valence"), ["count", "mended"]].tolist() == [1, 1]


def test_nothing_is_drawn_of_no_answer_and_options_are_checked():
    from unstir_molecules.figures import Failures, PropertyLaws, Structures

    run = molecules()
    run.answers = dict.fromkeys(run.answers)
    assert [list(figure().draw(run)) for figure in (Structures, PropertyLaws, Failures)] == [[], [], []]
    with pytest.raises(UserError, match="product 60 at most"):
        Structures(rows=10, columns=10)
    with pytest.raises(UserError, match="most must be at least 1"):
        Failures(most=0)
    with pytest.raises(UserError, match="count must be at least 1"):
        PropertyLaws(count=0)
    with pytest.raises(UserError, match="figures show methods of the run, got nobody"):
        list(Structures(methods=("nobody",)).draw(run))


# ---- graphs


def graphs(truth=True):
    nx = pytest.importorskip("networkx")
    train, test = [nx.cycle_graph(n) for n in (4, 5, 6)], [nx.cycle_graph(n) for n in (5, 6, 7)]
    made = [nx.cycle_graph(5), nx.path_graph(4), nx.Graph([(0, 1), (2, 3)])]
    case = Case("rings", graph_set(test) if truth else None, graph_set(train), {"count": 3})
    return Run(case, {"ours": Estimate(graph_set(made), 3), "copies": Estimate(graph_set(train), 0)})


def test_graphs_stand_below_test_graphs_with_their_size_and_whether_they_are_new():
    (one,) = DrawnGraphs(columns=3).draw(graphs())
    assert one.name == "grid-rings"
    seen = words(one.figure)
    assert "5 nodes, 5 edges\nin train" in seen
    assert "4 nodes, 3 edges\nnovel" in seen
    assert "7 nodes, 7 edges" in seen
    assert (
        "Our model 33.3\N{NO-BREAK SPACE}% (copies 0.0\N{NO-BREAK SPACE}%)" in one.caption
    )  # the path is new and whole, the pairs are not
    assert one.data.groupby("set")["nodes"].count().to_dict() == {"Our model": 3, "copies": 3, "test set": 3}


def test_drawings_do_not_depend_on_the_moment():
    first, second = (list(DrawnGraphs(columns=2).draw(graphs()))[0].figure for _ in range(2))
    places = [[tuple(map(tuple, one.get_offsets().tolist())) for axes in page.axes for one in axes.collections] for page in (first, second)]
    assert places[0] == places[1]


def test_statistics_stand_beside_real_ones():
    (one,) = Statistics().draw(graphs())
    assert set(one.data["set"]) == {"test", "train", "Our model", "copies"}
    np.testing.assert_allclose(one.data.groupby(["statistic", "set"])["percent"].sum(), 100)
    assert "degree copies 0.000 (train 0.000, Our model" in one.caption
    (blind,) = Statistics().draw(graphs(truth=False))
    assert blind.caption == "There are no test graphs beside."
    rings = statistics_of(Graphs.of_dataset(graphs().held.truth))
    assert set(rings["degree"].tolist()) == {2}


def test_options_of_graphs_are_checked():
    with pytest.raises(UserError, match="columns must be from 1 to 12"):
        DrawnGraphs(columns=0)
    with pytest.raises(UserError, match="most must be at least 1"):
        Statistics(most=0)


def test_tasks_name_figures_that_are_registered():
    from unstir import registry

    for task in (Generate, GenerateGraphs):
        assert task.figures
        assert set(task.figures) <= set(registry.names("figures"))
