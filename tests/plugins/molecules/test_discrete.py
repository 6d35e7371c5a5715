"""Discrete diffusion of graphs: training, drawing, steering; a sample depends on the seed and what was drawn before it, on nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import unstir
from unstir.errors import CheckpointError, UserError
from unstir.plugin.protocols import Case
from unstir_molecules.atoms import QM9
from unstir_molecules.build import dense_of
from unstir_molecules.discrete import Discrete, DiscreteTraining, graphs_of
from unstir_molecules.graphs import graph_set
from unstir_molecules.molecules import molecule_set
from unstir_molecules.sampling import drawn_sizes, histogram, width
from unstir_molecules.steering import MoleculeReward, Steering
from unstir_molecules.training_sets import TrainingGraphs

SMILES = ["C", "CC", "CO", "CN", "CF", "C=O", "C#N", "C1CC1", "CC=O", "OCCN", "C1CO1", "N#CC=O"] * 8
SMALL = {"width": 24, "edge_width": 12, "graph_width": 16, "heads": 2, "layers": 2, "mixes": 4, "batch": 16, "decay": 0, "warmup": 10}


def molecules():
    return molecule_set(SMILES, key="tiny", properties={"split": ["train"] * 90 + ["test"] * 6})


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    training = DiscreteTraining(**SMALL, steps=250, rate=3e-3, ema=0.95, targets=("qed",))
    return unstir.load(training.fit(molecules(), tmp_path_factory.mktemp("prior")))


def case(count=16):
    return Case("tiny", None, molecules(), {"count": count})


@pytest.mark.slow
def test_a_model_of_a_dozen_molecules_makes_them_again(prior):
    found = Discrete(grid="uniform:40")(case(64), prior, 0).data
    made = [text for text in found["smiles"].values.tolist() if text]
    assert found["valid"].values.mean() > 0.8
    assert np.mean([text in set(SMILES) for text in made]) > 0.3


@pytest.mark.slow
def test_the_first_of_many_are_those_of_few(prior):
    method = Discrete(grid="uniform:6")
    few, many = (method(case(count), prior, 3).data["smiles"].values.tolist() for count in (5, 12))
    assert many[:5] == few
    assert method(case(5), prior, 4).data["smiles"].values.tolist() != few


@pytest.mark.slow
def test_sizes_may_be_asked_for_and_what_is_told_is_known(prior):
    found = Discrete(grid="uniform:4", nodes="3").draw(prior, torch.ones(4, 3, dtype=torch.bool), 0)[0]
    assert found.sizes.tolist() == [3] * 4
    Discrete(grid="uniform:3", targets="qed:0.5")(case(3), prior, 0)
    with pytest.raises(CheckpointError, match="cannot be told 'logp'; it was trained to be told qed"):
        Discrete(grid="uniform:3", targets="logp:1")(case(3), prior, 0)
    with pytest.raises(UserError, match="targets are like"):
        Discrete(grid="uniform:3", targets="qed=high")(case(3), prior, 0)


@pytest.mark.slow
@pytest.mark.parametrize("by", ["svdd", "fk"])
def test_steering_raises_the_reward(prior, by):
    """A greedy choice among four: the mean rises by more than three standard errors of 24 samples."""
    plain = Discrete(grid="uniform:20", nodes="4")(case(24), prior, 0).data["smiles"].values.tolist()
    method = Discrete(grid="uniform:20", nodes="4", maximise="logp", by=by, particles=4, temperature=0.05)
    estimate = method(case(24), prior, 0)
    steered = estimate.data["smiles"].values.tolist()
    assert len(steered) == 24
    reward = MoleculeReward("logp", QM9, graphs_of)
    score = lambda texts: np.array([reward_of(reward, text) for text in texts])  # noqa: E731
    error = np.sqrt(score(plain).var() / 24 + score(steered).var() / 24)
    assert score(steered).mean() > score(plain).mean() + 3 * error


def reward_of(reward, smiles):
    graph = dense_of([smiles], QM9)[0] if smiles else None
    if graph is None or not len(graph):
        return 0.0
    return float(reward({"nodes": graph.x, "edges": graph.e}, {"mask": graph.mask})[0])


@pytest.mark.slow
def test_a_scaffold_is_held_and_one_that_cannot_be_is_refused(prior):
    from rdkit import Chem

    found = Discrete(grid="uniform:20", nodes="4", scaffold="C1CC1")(case(8), prior, 0).data
    ring = Chem.MolFromSmiles("C1CC1")
    for text, is_corrected in zip(found["smiles"].values.tolist(), found["corrected"].values.tolist(), strict=True):
        assert is_corrected or Chem.MolFromSmiles(text).HasSubstructMatch(ring) or "." in text
    with pytest.raises(UserError, match="has 4 atoms, and graphs of 3 are asked for"):
        Discrete(grid="uniform:4", nodes="3", scaffold="C1CCC1")(case(2), prior, 0)
    with pytest.raises(UserError, match="cannot be held by this model"):
        Discrete(grid="uniform:4", nodes="4", scaffold="CBr")(case(2), prior, 0)


def test_a_reward_of_no_molecule_is_0_and_each_is_asked_once():
    asked = []
    reward = MoleculeReward(lambda text: asked.append(text) or 1.0, QM9, graphs_of)
    graphs = dense_of(["CO", "CO", "C"], QM9)[0]
    empty = torch.zeros_like(graphs.mask[:1])
    state = {"nodes": torch.cat([graphs.x, graphs.x[:1] * 0]), "edges": torch.cat([graphs.e, graphs.e[:1] * 0])}
    assert reward(state, {"mask": torch.cat([graphs.mask, empty])}).tolist() == [1, 1, 1, 0]
    assert sorted(asked) == ["C", "CO"]


def test_sizes_are_drawn_as_often_as_they_occur_and_depend_on_those_before_alone():
    counts = histogram([3] * 10 + [5] * 30)
    assert counts == {"3": 10, "5": 30}
    sizes = drawn_sizes(counts, 4000, 7)
    assert (sizes == 5).mean() == pytest.approx(0.75, abs=0.03)  # four standard errors
    np.testing.assert_array_equal(drawn_sizes(counts, 10, 7), sizes[:10])
    assert set(drawn_sizes(counts, 100, 0, "4-5").tolist()) == {4, 5}
    assert set(drawn_sizes(counts, 100, 0, "2:1,4:0").tolist()) == {2}


@pytest.mark.parametrize("nodes", ["many", "0", "3-x", "4:-1", "3:0"])
def test_sizes_that_cannot_be_are_refused(nodes):
    with pytest.raises(UserError, match="sizes are like"):
        drawn_sizes({"9": 1}, 3, 0, nodes)


def test_more_nodes_than_were_seen_are_refused():
    with pytest.raises(UserError, match="graphs of up to 9 nodes, and 12"):
        drawn_sizes({"9": 1}, 3, 0, "12")


def test_padding_depends_on_a_graphs_own_size_and_grows_slowly():
    for size in range(1, 400):
        assert size <= width(size) <= max(16, 1.2 * size)


def test_plain_graphs_are_learnt_and_drawn(tmp_path):
    import networkx as nx

    graphs = graph_set([nx.cycle_graph(n) for n in (4, 5, 6)] * 10, "rings", split=["train"] * 27 + ["test"] * 3)
    folder = DiscreteTraining(**SMALL, steps=3).fit(graphs, tmp_path)
    found = Discrete(grid="uniform:4")(Case("rings", None, graphs, {"count": 6}), unstir.load(folder), 0).data
    assert found.sizes["graph"] == 6
    with pytest.raises(UserError, match="this is a model of plain graphs"):
        Discrete(grid="uniform:4", maximise="qed")(Case("rings", None, graphs, {"count": 2}), unstir.load(folder), 0)


@pytest.mark.parametrize("noise", ["uniform", "absorbing"])
def test_other_laws_of_noise_train_and_draw(noise, tmp_path):
    prior = unstir.load(DiscreteTraining(**SMALL, steps=2, noise=noise).fit(molecules(), tmp_path))
    assert Discrete(grid="uniform:4")(case(4), prior, 0).data.sizes["sample"] == 4


def test_test_molecules_are_never_seen_and_properties_come_with_their_own_molecule():
    item = molecule_set(["C", "CO", "CCO", "CCN", "[NH4+]"], key="x", properties={"split": ["train", "test", "train", "train", "train"]})
    made = TrainingGraphs.of(item, batch=4, targets=("qed",), told=1.0)
    assert len(made.seen) + len(made.kept) == 3
    assert made.facts()["sizes"] != {}
    batch = made(0, np.random.default_rng(0))
    reward = MoleculeReward("qed", made.vocabulary, graphs_of)
    wanted = reward(batch["x0"], batch["condition"])
    np.testing.assert_allclose(batch["condition"]["targets"][:, 0], wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"by": "luck"}, "by is"), ({"particles": 0}, "at least 1"), ({"temperature": 0.0}, "above 0"), ({"maximise": "beauty"}, "no reward")],
)
def test_steering_that_cannot_be_is_refused(options, sentence):
    with pytest.raises(UserError, match=sentence):
        Steering(**options)


@pytest.mark.parametrize(
    ("options", "sentence"), [({"noise": "pink"}, "noise is"), ({"told": 2.0}, "told is"), ({"width": 10, "heads": 3}, "multiple of heads")]
)
def test_training_options_out_of_range_are_refused(options, sentence):
    with pytest.raises(UserError, match=sentence):
        DiscreteTraining(**options)


def test_another_checkpoint_is_refused():
    with pytest.raises(CheckpointError, match="no model of graphs"):
        Discrete().check_prior(object())
