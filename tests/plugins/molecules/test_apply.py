"""``unstir apply molecules/generate`` and ``graphs/generate``: samples, table, structures and page, or one sentence and nothing written."""

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("rdkit", reason="RDKit is not installed")

import unstir
from unstir.errors import CheckpointError, UnstirError, UserError
from unstir_molecules import making
from unstir_molecules.apply import MakeGraphs, MakeMolecules
from unstir_molecules.discrete import Discrete, DiscreteTraining
from unstir_molecules.graph_files import read as read_graphs
from unstir_molecules.graphs import graph_set
from unstir_molecules.library import judged
from unstir_molecules.molecules import molecule_set
from unstir_molecules.similarity import fingerprints, nearest

SMILES = ["C", "CC", "CO", "CN", "CF", "C=O", "C#N", "C1CC1", "CC=O", "OCCN", "C1CO1", "N#CC=O"] * 8
SMALL = {"width": 24, "edge_width": 12, "graph_width": 16, "heads": 2, "layers": 2, "mixes": 4, "batch": 16, "decay": 0, "warmup": 10}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    item = molecule_set(SMILES, key="tiny", properties={"split": ["train"] * 90 + ["test"] * 6})
    return str(DiscreteTraining(**SMALL, steps=40, rate=3e-3, ema=0.9).fit(item, tmp_path_factory.mktemp("model") / "m"))


@pytest.fixture(scope="module")
def rings(tmp_path_factory):
    nx = pytest.importorskip("networkx")
    item = graph_set([nx.cycle_graph(n) for n in (4, 5, 6)] * 10, "rings", split=["train"] * 27 + ["test"] * 3)
    return str(DiscreteTraining(**SMALL, steps=3).fit(item, tmp_path_factory.mktemp("rings") / "m"))


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    path = tmp_path_factory.mktemp("train") / "known.smi"
    path.write_text("\n".join(dict.fromkeys(SMILES)) + "\n")
    return str(path)


def test_a_set_is_smiles_a_table_structures_and_a_page(model, train, tmp_path):
    from rdkit import Chem

    told = []
    said = MakeMolecules(model=model, n=30, steps=8, train=train)(
        [], tmp_path / "out", progress=lambda done, total: told.append(done / total)
    )
    names = ["report.html", "samples.csv", "samples.sdf", "samples.smi"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert sorted(said["files"]) == [str(tmp_path / "out" / name) for name in names]
    assert told[-1] == 1
    assert told == sorted(told)
    table = pd.read_csv(tmp_path / "out" / "samples.csv", keep_default_na=False)
    columns = "smiles valid corrected problem qed sa logp weight rings novel nearest similarity"
    assert list(table.columns) == columns.split()
    assert len(table) == 30
    made = [text for text in table["smiles"] if text]
    assert (tmp_path / "out" / "samples.smi").read_text().split() == made
    assert [text not in SMILES for text in made] == table["novel"][table["smiles"] != ""].tolist()
    assert set(table["nearest"][table["smiles"] != ""]) <= set(SMILES)
    drawn = list(Chem.SDMolSupplier(str(tmp_path / "out" / "samples.sdf")))
    assert [Chem.MolToSmiles(mol, isomericSmiles=False) for mol in drawn] == made
    assert all(not mol.GetConformer().Is3D() for mol in drawn)
    assert drawn[0].GetProp("_Name") == "sample-0"
    assert said["results"][0]["made"] == len(made)
    assert any(sentence.startswith("time: sampling") for sentence in said["said"])
    page = (tmp_path / "out" / "report.html").read_text()
    for words in ("What they are", "Beside real molecules", "How it was made", "<dt>model sha256</dt>", "sampling: ", "known.smi: 12"):
        assert words in page
    assert page.count("data:image/png;base64,") >= 2
    assert "http:" not in page
    assert "https:" not in page


def test_the_same_seed_gives_the_same_samples_and_fewer_are_the_first_of_many(model, train, tmp_path):
    for name, n, seed in (("few", 4, 3), ("many", 9, 3), ("other", 9, 4)):
        MakeMolecules(model=model, n=n, steps=4, seed=seed, train=train)([], tmp_path / name)
    few, many, other = (
        pd.read_csv(tmp_path / name / "samples.csv", keep_default_na=False)["smiles"].tolist() for name in ("few", "many", "other")
    )
    assert many[:4] == few
    assert many != other


def test_without_its_training_set_a_model_says_nothing_of_novelty(model, tmp_path):
    said = MakeMolecules(model=model, n=5, steps=2)([], tmp_path)
    assert any("training set of this model (tiny) is not at hand" in sentence for sentence in said["said"])
    assert "novel" not in pd.read_csv(tmp_path / "samples.csv").columns
    assert "novel_made" not in said["results"][0]
    assert "nothing is said of novelty" in (tmp_path / "report.html").read_text()


def test_the_data_that_a_model_names_are_found_or_their_sample(monkeypatch):
    class Lost:
        def load(self):
            raise UserError("no network")

    class Sample:
        def load(self):
            yield molecule_set(["C", "CC"], key="s", properties={"split": ["train", "test"]})

    monkeypatch.setattr("unstir.registry.names", lambda kind: ["molecules/x", "molecules/x-sample"])
    monkeypatch.setattr("unstir.registry.resolve", lambda kind, name: Sample if name.endswith("sample") else Lost)
    said = []
    assert making.registered("molecules", "x", said).attrs["key"] == "s"
    assert "molecules/x cannot be loaded (no network)" in said
    assert "novelty is judged against the training part of molecules/x-sample, not of molecules/x" in said


def test_the_best_of_a_reward_are_on_the_page_and_steering_is_that_of_the_method(model, train, tmp_path):
    said = MakeMolecules(model=model, n=6, steps=3, nodes="3", maximise="sa", particles=2, train=train)([], tmp_path)
    table = pd.read_csv(tmp_path / "samples.csv")
    np.testing.assert_allclose(table["reward"].dropna(), (10 - table["sa"].dropna()) / 9, atol=2e-6)  # the table has six digits
    assert "Highest reward" in (tmp_path / "report.html").read_text()
    assert said["results"][0]["nfe"] >= 6  # two proposals at each of three steps


def test_a_scaffold_is_held_and_leaves_only_sizes_that_hold_it(model, train, tmp_path):
    from rdkit import Chem

    said = MakeMolecules(model=model, n=6, steps=4, scaffold="C1CC1", train=train)([], tmp_path)
    assert "molecules have at least the 3 atoms of the scaffold" in said["said"]
    table = pd.read_csv(tmp_path / "samples.csv", keep_default_na=False)
    ring = Chem.MolFromSmiles("C1CC1")
    for text, is_corrected in zip(table["smiles"], table["corrected"], strict=True):
        assert is_corrected or not text or Chem.MolFromSmiles(text).HasSubstructMatch(ring)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"n": 0}, "n is how many molecules are made and must be at least 1, got 0"),
        ({"steps": -1}, "must not be negative"),
        ({"seed": -1}, "must not be negative"),
        ({"nodes": "many"}, "sizes are like"),
        ({"maximise": "beauty"}, "there is no reward 'beauty'"),
        ({"maximise": "similarity:XYZ"}, "needs a molecule to resemble"),
        ({"by": "luck"}, "by is 'svdd', 'fk', 'gradient' or 'tds'"),
        ({"temperature": 0.0}, "temperature above 0"),
    ],
)
def test_options_that_cannot_be_are_refused(options, sentence):
    with pytest.raises(UserError, match=sentence):
        MakeMolecules(**options)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"model": ""}, "needs a model: --model NAME"),
        ({"model": "molecules/nowhere"}, "nowhere"),
        ({"scaffold": "CBr"}, "'CBr' does not fit .* of up to 4 atoms C, O, N, F: an atom or bond"),
        ({"scaffold": "C1CCCC1"}, "of up to 4 atoms C, O, N, F: more atoms than there is room for"),
        ({"nodes": "7-9"}, "up to 4 nodes, and 9 are asked for"),
        ({"scaffold": "C1CC1", "nodes": "2"}, "has 3 atoms, and graphs of 2 are asked for"),
        ({"train": "nowhere.smi"}, "nowhere.smi"),
    ],
)
def test_what_a_model_cannot_do_is_one_sentence_and_nothing_is_written(model, tmp_path, options, sentence):
    with pytest.raises(UnstirError, match=sentence) as failure:
        MakeMolecules(**{"model": model, "n": 4, "steps": 2, **options})([], tmp_path / "out")
    assert "\n" not in str(failure.value)
    assert not (tmp_path / "out").exists()


def test_files_and_models_of_the_other_kind_are_refused(model, rings, tmp_path):
    with pytest.raises(UserError, match=r"takes no files, got a.csv"):
        MakeMolecules(model=model)(["a.csv"], tmp_path)
    with pytest.raises(UserError, match="is a model of plain graphs: unstir apply graphs/generate"):
        MakeMolecules(model=rings, n=2)([], tmp_path)
    with pytest.raises(UserError, match="is a model of molecules: unstir apply molecules/generate"):
        MakeGraphs(model=model, n=2)([], tmp_path)


def test_each_kind_of_model_has_its_method(model):
    prior = unstir.load(model)
    ask = {"nodes": "", "steps": 7, "model": "m"}
    assert making.method_of(prior, **ask) == Discrete(grid="uniform:7")
    assert making.method_of(prior, **ask | {"steps": 0}) == Discrete()
    other = type("Other", (), {"facts": {"sizes": {"3": 1}}})()
    with pytest.raises(CheckpointError, match="no method here draws of"):
        making.method_of(other, **ask)
    blocks = type("Blocks", (), {"facts": {"sizes": {}}, "network": type("N", (), {"prefix": 0, "degrees": 0, "first": 0})()})()
    with pytest.raises(UserError, match="steered by svdd or fk: leave out --regressor"):
        making.method_of(blocks, **ask, steering={"maximise": "qed", "regressor": "r"})
    with pytest.raises(UserError, match="leave out --nodes"):
        making.method_of(blocks, **ask | {"nodes": "8"})


def test_a_run_that_takes_long_is_announced_before_it_begins(model, monkeypatch):
    prior, method = unstir.load(model), Discrete(grid="uniform:500")
    case = making.Case("samples", None, None, {"count": 4_000_000})
    clock = iter([0.0, 0.5])
    monkeypatch.setattr(making.time, "perf_counter", lambda: next(clock))
    with pytest.warns(UserWarning, match="4,000,000 samples of up to 4 nodes in 500 steps take about .* hours on cpu and 3 GB"):
        (words,) = making.announced(method, case, prior, 0, "cpu")
    assert words.startswith("4,000,000 samples")
    assert making.announced(Discrete(grid="uniform:5"), making.Case("samples", None, None, {"count": 9}), prior, 0, "cpu") == []
    assert [making.spell(seconds) for seconds in (0.2, 60, 600, 9000)] == ["1 seconds", "60 seconds", "10 minutes", "2.5 hours"]


def test_the_nearest_of_a_set_is_found_and_ties_go_to_the_first():
    ours, theirs = fingerprints(["CCO", "c1ccccc1"]), fingerprints(["CC", "CCO", "CCO", "Cc1ccccc1"])
    place, value = nearest(ours, theirs)
    assert place.tolist() == [1, 3]
    assert value[0] == 1
    place, value = nearest(ours, theirs[:0])
    assert place.tolist() == [-1, -1]
    assert np.isnan(value).all()


def test_a_table_of_samples_keeps_those_that_are_no_molecule():
    data = molecule_set(["C", None, "CC"], [True, False, False], [False, False, True], ["", "valence", "valence"])
    table, counts = judged(data, molecule_set(["C"]))
    assert table["smiles"].tolist() == ["C", "", "CC"]
    assert table["novel"].tolist() == [False, False, True]
    assert table["similarity"].isna().tolist() == [False, True, False]
    assert (counts["samples"], counts["valid"], counts["made"], counts["novel"], counts["novel_made"]) == (3, 1, 2, 0, 1)
    assert np.isnan(table["qed"][1])


def test_plain_graphs_are_files_that_are_read_again_and_a_page(rings, tmp_path):
    nx = pytest.importorskip("networkx")
    nx.write_graphml(nx.cycle_graph(5), tmp_path / "known.graphml")
    said = MakeGraphs(model=rings, n=7, steps=4, train=str(tmp_path / "known.graphml"))([], tmp_path / "out")
    names = ["report.html", "samples.graphml", "samples.npz"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    one, other = (read_graphs(tmp_path / "out" / name) for name in names[1:])
    assert len(one) == len(other) == 7
    assert one.nodes.tolist() == other.nodes.tolist()
    assert one.edges.tolist() == other.edges.tolist()
    assert any("of 7 graphs are in one piece" in sentence for sentence in said["said"])
    assert any("not in the training set" in sentence for sentence in said["said"])
    assert "Beside real graphs" in (tmp_path / "out" / "report.html").read_text()


def test_a_folder_without_a_model_is_refused(tmp_path):
    folder = tmp_path / "empty"
    folder.mkdir()
    with pytest.raises(CheckpointError, match=r"no model\.json"):
        MakeMolecules(model=str(folder))([], tmp_path / "out")
