"""``unstir train molecules/generate --data my.csv`` and ``graphs/generate``: a file, nothing else to prepare, and new ones of it."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

import unstir
from unstir.errors import CheckpointError, DataError, UserError
from unstir_molecules import discrete, tasks
from unstir_molecules.apply import MakeGraphs, MakeMolecules
from unstir_molecules.discrete import DiscreteTraining, fitting_batch
from unstir_molecules.graph_files import write
from unstir_molecules.graphs import Graphs
from unstir_molecules.molecules import molecule_set
from unstir_pipelines import options
from unstir_pipelines.train import train

RECIPES = Path(tasks.__file__).parent / "recipes"
MOLECULES, GRAPHS = RECIPES / "generate.yaml", RECIPES / "generate-graphs.yaml"
GOOD = ["C", "CC", "CO", "CN", "CF", "C=O", "C#N", "C1CC1", "CC=O", "OCCN", "C1CO1", "N#CC=O", "CCO", "CCC", "CCN", "CNC", "COC", "OCCO"]
BAD = ["CC[N+](C)(C)C", "not a molecule", "CC.O", "C", ""]
TINY = [f"train.{name}" for name in ("width=12", "edge_width=8", "graph_width=8", "heads=2", "layers=1", "mixes=2", "every=2", "warmup=1")]


@pytest.fixture
def table(tmp_path):
    """A chemist's table: a column of names, one of SMILES, some of which cannot be used."""
    path = tmp_path / "mine.csv"
    path.write_text("name,SMILES\n" + "".join(f"m{number},{text}\n" for number, text in enumerate([*GOOD, *BAD])))
    return path


@pytest.fixture
def graphs(tmp_path):
    """A file of cycles and paths of 4 to 9 nodes."""
    rings = {size: [(node, (node + 1) % size) for node in range(size)] for size in range(4, 10)}
    made = Graphs.of_edges([(size, edges[cut:]) for cut in (0, 1) for size, edges in rings.items()])
    return write(made, tmp_path / "rings.npz")


def trained(recipe, data, out, **more):
    sets = [*TINY, f"train.steps={more.pop('steps', 4)}", f"train.batch={more.pop('batch', 4)}", *more.pop("sets", ())]
    return train(recipe, data=[str(data)], out=out, sets=sets, device="cpu", **more)


def test_a_table_of_molecules_becomes_a_model_that_new_ones_are_drawn_from(table, tmp_path):
    said, steps = [], []
    model = trained(MOLECULES, table, tmp_path / "model", tell=said.append, progress=lambda *done: steps.append(done))
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert len(said) == 1
    assert said[0].startswith(f"learns {table}")
    for reason in ("charged", "unparsable", "fragments", "duplicate"):
        assert f"left out ({reason}): 1" in said[0]
    prior = unstir.load(model)
    assert "- left out: 1 (charged)" in prior.card
    assert prior.facts["data"] == "mine"
    assert set(prior.facts["vocabulary"]["atoms"]) <= {"C", "O", "N", "F"}
    summary = MakeMolecules(model=str(model), n=5, steps=3, train=str(table))([], tmp_path / "new")
    assert any("samples.smi" in name for name in summary["files"])


def test_what_a_run_keeps_for_the_test_is_never_learnt(table, monkeypatch, tmp_path):
    seen = []
    fit = DiscreteTraining.fit
    monkeypatch.setattr(DiscreteTraining, "fit", lambda self, item, *rest, **more: seen.append(item) or fit(self, item, *rest, **more))
    model = trained(MOLECULES, table, tmp_path / "model", steps=1)
    ran = tasks.Generate().read(table)
    assert seen[0]["split"].values.tolist() == ran["split"].values.tolist()
    learnt = int((ran["split"].values == "train").sum())
    assert sum(unstir.load(model).facts["sizes"].values()) == learnt - 1  # one is held out for validation


def test_a_file_of_graphs_becomes_a_model_that_new_ones_are_drawn_from(graphs, tmp_path):
    model = trained(GRAPHS, graphs, tmp_path / "model")
    prior = unstir.load(model)
    assert prior.facts["vocabulary"] is None
    assert prior.facts["data"] == "rings"
    summary = MakeGraphs(model=str(model), n=3, steps=3, train=str(graphs))([], tmp_path / "new")
    assert any("samples.npz" in name for name in summary["files"])


def test_stopped_by_ctrl_c_it_says_how_to_go_on_and_does_so_to_the_same_weights(table, tmp_path):
    def press(step, steps):
        if step == 3:
            signal.raise_signal(signal.SIGINT)

    straight = trained(MOLECULES, table, tmp_path / "straight", steps=6)
    with pytest.raises(UserError, match=r"stopped: the same command with --out .*cut --resume goes on"):
        trained(MOLECULES, table, tmp_path / "cut", steps=6, progress=press)
    assert not (tmp_path / "cut" / "model.json").exists()
    cut = trained(MOLECULES, table, tmp_path / "cut", steps=6, resume=True)
    assert (straight / "model.safetensors").read_bytes() == (cut / "model.safetensors").read_bytes()
    steps = [json.loads(line)["step"] for line in (cut / "validation.jsonl").read_text().splitlines()]
    assert steps == [2, 4, 6]


def test_another_file_cannot_go_on_with_a_training(table, tmp_path):
    trained(MOLECULES, table, tmp_path / "model", steps=2)
    other = tmp_path / "other.csv"
    other.write_text(table.read_text())
    with pytest.raises(CheckpointError, match=r"another configuration \(data: .*mine.csv there, .*other.csv now\)"):
        trained(MOLECULES, other, tmp_path / "model", steps=4, resume=True)


def test_how_a_file_is_read_can_be_said(table, tmp_path):
    said = []
    model = trained(MOLECULES, table, tmp_path / "model", steps=1, sets=["data.charged=keep", "data.fragments=largest"], tell=said.append)
    assert "charged" not in said[0]
    config = json.loads((model / "training" / "step-00000001" / "state.json").read_text())["config"]
    assert config["data"] == str(table)
    assert config["options"] == {"charged": "keep", "fragments": "largest"}


def test_files_that_cannot_be_learnt_are_refused(table, tmp_path):
    with pytest.raises(DataError, match=r"nothing.csv does not exist"):
        trained(MOLECULES, tmp_path / "nothing.csv", tmp_path / "out")
    with pytest.raises(options.UsageError, match="a training learns one file, and --data names 2"):
        train(MOLECULES, data=[str(table), str(table)], out=tmp_path / "out")
    alone = tmp_path / "alone.smi"
    alone.write_text("CC\n")
    with pytest.raises(DataError, match="2 are needed at least"):
        trained(MOLECULES, alone, tmp_path / "out")


def test_a_registered_set_can_be_named_in_place_of_a_file(tmp_path):
    model = train(
        GRAPHS, data=["graphs/tree"], out=tmp_path / "trees", sets=[*TINY, "train.steps=1", "train.batch=2", "train.options={count: 8}"]
    )
    assert unstir.load(model).facts["data"] == "tree"


@pytest.mark.parametrize(("nodes", "batch"), [(1, 128), (9, 128), (12, 128), (24, 32), (38, 12), (60, 5), (500, 4)])
def test_the_batch_falls_with_the_pairs_of_nodes(nodes, batch):
    assert fitting_batch(nodes) == batch


def test_steps_suit_the_number_of_graphs():
    training = DiscreteTraining(steps=0, batch=0)
    sampler = training.sampler(molecule_set(GOOD, key="few"))
    trainer = training.trainer(sampler)
    assert (sampler.batch, trainer.steps) == (128, 2000)
    assert (trainer.schedule.warmup, trainer.schedule.decay) == (200, 800)
    for count, steps in ((6400, 5000), (10**6, 20000)):  # a hundred times each; at most an hour or so
        assert training.length(SimpleNamespace(seen=range(count), batch=128)) == steps
    assert DiscreteTraining(steps=7).trainer(sampler).steps == 7
    with pytest.raises(UserError, match="steps and batch must not be negative"):
        DiscreteTraining(batch=-1)


def test_a_training_that_needs_much_memory_is_announced(graphs):
    training = DiscreteTraining(batch=4000, edge_width=2000, layers=2, width=6, graph_width=4, mixes=1)
    sampler = training.sampler(tasks.GenerateGraphs().read(graphs))
    with pytest.warns(UserWarning, match="a step of 4000 graphs of up to 9 nodes takes about 65 GB of memory; a smaller batch"):
        training.trainer(sampler)


def test_held_out_graphs_are_judged_in_parts_where_they_are_large(monkeypatch):
    training = DiscreteTraining(width=12, edge_width=8, graph_width=8, heads=2, layers=1, mixes=2)
    sampler = training.sampler(molecule_set(GOOD * 4, key="few"))
    denoiser, sizes = training.denoiser(sampler).eval(), []
    whole, judge = training.score(denoiser, sampler), discrete.nelbo
    monkeypatch.setattr(discrete, "PAIRS", 2 * sampler.largest**2)
    monkeypatch.setattr(discrete, "nelbo", lambda model, x0, **more: sizes.append(len(x0["nodes"])) or judge(model, x0, **more))
    assert abs(training.score(denoiser, sampler) / whole - 1) < 0.5  # other draws of the same law
    assert sizes == [2, 1]
