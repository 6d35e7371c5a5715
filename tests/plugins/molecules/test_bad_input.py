"""What people give that is none: one sentence, a non-zero exit, nothing half-written; what can be left out is counted, with the reason.

The items are those of the spec of this domain ("Bad inputs") and of its issue. A file that is no use at all is tried through Python and
through every verb of the command line that takes one; single molecules and graphs through all that read or convert them.
"""

import gzip
import pickle
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rdkit", reason="RDKit is not installed")
pytest.importorskip("networkx", reason="networkx is not installed")

import networkx as nx
import torch

from unstir.errors import DataError, UnstirError, UserError
from unstir_molecules import build
from unstir_molecules.atoms import QM9, Vocabulary
from unstir_molecules.datasets import FileMolecules
from unstir_molecules.dense import Dense
from unstir_molecules.discrete import Discrete, DiscreteTraining
from unstir_molecules.formats import of_mols, of_networkx, of_pyg
from unstir_molecules.gdss.training import GDSSTraining
from unstir_molecules.graph_files import GraphFile
from unstir_molecules.graph_files import read as read_graphs
from unstir_molecules.graphs import Graphs, graph_set
from unstir_molecules.molecules import molecule_set
from unstir_molecules.smiles import Rules, cleaned, read
from unstir_pipelines.cli import app

TINY = {"width": 16, "edge_width": 8, "graph_width": 8, "heads": 2, "layers": 1, "mixes": 2, "batch": 4, "decay": 0, "steps": 2}
GOOD = "".join(f"{'C' * n}O\n" for n in range(1, 40))
RING = nx.to_numpy_array(nx.cycle_graph(5))


def tried(capsys, *words: str) -> tuple[int, str]:
    """Exit code and what was said on standard error."""
    capsys.readouterr()
    code = app.call([*words])
    return code, capsys.readouterr().err


def refused(capsys, *words: str) -> str:
    """The one sentence by which a command fails."""
    code, said = tried(capsys, *words)
    assert code in (1, 2), said
    assert said.startswith("error: "), said
    assert len(said.strip().splitlines()) == 1, said
    assert "--debug" not in said  # no fault of ours
    return said.strip()


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model of molecules that has learnt nothing: refusals do not depend on it."""
    item = molecule_set(["C", "CC", "CO", "CN", "C=O", "OCCN"] * 2, key="tiny")
    return str(DiscreteTraining(**TINY).fit(item, tmp_path_factory.mktemp("model") / "m"))


@pytest.fixture(scope="module")
def rings(tmp_path_factory):
    item = graph_set([nx.cycle_graph(n) for n in (4, 5, 6)] * 2, "rings")
    return str(DiscreteTraining(**TINY).fit(item, tmp_path_factory.mktemp("rings") / "m"))


MOLECULE_FILES = {
    "an empty file": ("a.csv", b"", "is empty"),
    "a head and nothing below it": ("a.csv", b"smiles\n", "has no molecules"),
    "blank lines": ("a.smi", b"\n\n\n", "has no molecules"),
    "a CSV without a column of SMILES": ("a.csv", b"id,logP\n1,2\n", "has no column of SMILES .* but id, logP; name it: column=NAME"),
    "a CSV with several columns of SMILES": ("a.csv", b"smiles A,smiles B\nC,CC\n", "has several columns of SMILES"),
    "a CSV without a head": ("a.csv", b"CCO\nCC\n", "begins with a molecule, not with names of columns: give it the head smiles"),
    "a page of the web": ("a.csv", b"<html><body>404</body></html>\n", "has no column of SMILES"),
    "a quote that does not close": ("a.csv", b'smiles\nCC\n"CC\nCCC\n', "the quotes of the row at line 3 of .* do not close"),
    "unparsable SMILES": ("a.smi", b"junk\nC1CC\n", "no molecule that can be used; 2 of 2 molecules are left out: 2 with no SMILES"),
    "the words None and nan": ("a.smi", b"None\nnan\n", "2 with no SMILES that RDKit can read"),
    "the wildcard": ("a.smi", b"*\n*CC\n", "2 with an atom that is no element"),
    "isotopes": ("a.smi", b"[13CH4]\n", "1 of 1 molecules is left out: 1 with an isotope"),
    "aromatic that cannot be kekulised": ("a.smi", b"c1cccc1\nn1cccc1\n", "2 with an aromatic ring without places"),
    "too many bonds": ("a.smi", b"C(C)(C)(C)(C)C\n", "1 with an atom with more bonds than it may have"),
    "radicals": ("a.smi", b"C[CH2]\n", "1 with hydrogens or lone electrons"),
    "a pickle": ("a.pkl", pickle.dumps(["C"]), "is a pickle, which runs whatever it holds when it is opened"),
    "a pickle called CSV": ("a.csv", pickle.dumps(["C"]), "is a pickle"),
    "another encoding": ("a.csv", "smiles\nC\n".encode("utf-16"), r"is no text in UTF-8 \(byte 0\); save it as such"),
    "a file that ends early": ("a.csv.gz", gzip.compress(b"smiles\nC\n", mtime=0)[:-6], "is damaged"),
    "a spreadsheet": ("a.xlsx", b"PK", "has no suffix of a format of molecules; readable are .csv"),
    "no suffix": ("a", b"C\n", "has no suffix of a format of molecules"),
    "an SDF that is none": ("a.sdf", b"no record\n", "has no molecule that can be used"),
    "a file that is missing": ("", b"", "none.csv does not exist"),
    "a folder": (".", b"", "is a folder"),
}
KEPT_FOR_NOVELTY = {
    "charged molecules": ("a.smi", b"C[N+](=O)[O-]\nC[NH3+]\n", "2 with a charged atom; charged=keep would keep such"),
    "several fragments": ("a.smi", b"CCO.CC\n", "1 with more than one fragment; fragments=largest would keep such"),
}
"""No molecules to learn, by default; they are known all the same where only novelty is asked for."""
TOO_FEW = {
    "one molecule": ("a.csv", b"smiles\nC\n"),
    "one molecule many times": ("a.csv", b"smiles\nC\nC\n[H]C\n"),
}


def placed(folder: Path, name: str, content: bytes) -> Path:
    folder.mkdir()
    if name and name != ".":
        (folder / name).write_bytes(content)
    return folder / (name or "none.csv")


@pytest.mark.parametrize(("name", "content", "sentence"), MOLECULE_FILES.values(), ids=MOLECULE_FILES)
def test_a_file_of_molecules_that_is_no_use_is_refused_everywhere(name, content, sentence, model, tmp_path, capsys, monkeypatch):
    path = placed(tmp_path / "in", name, content)
    with pytest.raises(DataError, match=sentence) as failure:
        read(path)
    assert "\n" not in str(failure.value)
    with pytest.raises(DataError, match=sentence):
        list(FileMolecules(str(path)).load())
    monkeypatch.chdir(tmp_path)
    before = files(tmp_path)
    for words in (
        ("run", "molecules/generate", "--data", str(path), "--methods", "n-gram", "--out", "run"),
        ("train", "molecules/generate", "--data", str(path), "--out", "model"),
        ("apply", "molecules/generate", "--model", model, "--n", "2", "--steps", "1", "--train", str(path), "--out", "new"),
    ):
        said = refused(capsys, *words, "-q")
        pytest.raises(DataError, _again, said).match(sentence)
        assert files(tmp_path) == before


def _again(said: str) -> None:
    raise DataError(said)


@pytest.mark.parametrize(("name", "content", "sentence"), KEPT_FOR_NOVELTY.values(), ids=KEPT_FOR_NOVELTY)
def test_a_file_of_which_nothing_is_kept_says_what_would_keep_it(name, content, sentence, tmp_path, capsys, monkeypatch):
    path = placed(tmp_path / "in", name, content)
    with pytest.raises(DataError, match=sentence):
        read(path)
    assert read(path, rules=Rules("keep", "largest")).smiles
    monkeypatch.chdir(tmp_path)
    before = files(tmp_path)
    for verb in ("run", "train"):
        pytest.raises(DataError, _again, refused(capsys, verb, "molecules/generate", "--data", str(path), "--out", "x", "-q")).match(
            sentence
        )
    assert files(tmp_path) == before


@pytest.mark.parametrize(("name", "content"), TOO_FEW.values(), ids=TOO_FEW)
def test_a_set_too_small_for_its_use_is_refused(name, content, tmp_path, capsys, monkeypatch):
    path = placed(tmp_path / "in", name, content)
    monkeypatch.chdir(tmp_path)
    said = refused(capsys, "run", "molecules/generate", "--data", str(path), "--out", "run", "-q")
    assert "has no molecule in its part 'test'" in said
    said = refused(capsys, "train", "molecules/generate", "--data", str(path), "--out", "model", "-q")
    assert "to learn from" in said
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [path]


DROPPED = {
    "None": (None, "empty"),
    "the hole of a table": (float("nan"), "empty"),
    "nothing": ("", "empty"),
    "spaces": ("  ", "empty"),
    "a number": (3, "unparsable"),
    "bytes": (b"CC", "unparsable"),
    "a zero byte": ("C\x00C", "unparsable"),
    "no SMILES": ("junk", "unparsable"),
    "an open ring": ("C1CC", "unparsable"),
    "a reaction": ("CC>>CO", "unparsable"),
    "an unknown atom": ("[Xx]", "unparsable"),
    "the wildcard": ("*", "wildcard"),
    "too many bonds": ("C(C)(C)(C)(C)C", "valence"),
    "not to be kekulised": ("c1cccc1", "kekulise"),
    "an isotope": ("[13CH4]", "isotope"),
    "heavy water": ("[2H]O[2H]", "isotope"),
    "hydrogen alone": ("[H][H]", "hydrogens"),
    "a radical": ("C[CH2]", "hydrogens"),
    "charged": ("C[N+](=O)[O-]", "charged"),
    "a salt": ("[Na+].[Cl-]", "charged"),
    "fragments": ("CCO.CC", "fragments"),
    "an unseen element": ("CBr", "atom"),
    "too many atoms": ("C" * 10, "size"),
}


@pytest.mark.parametrize(("item", "reason"), DROPPED.values(), ids=DROPPED)
def test_a_molecule_that_cannot_be_used_is_left_out_with_its_reason(item, reason):
    rules = Rules(vocabulary=QM9)
    found = cleaned(["C", item, "O"], rules)
    assert found.smiles == ["C", "O"]
    assert [(one.line, one.reason) for one in found.dropped] == [(2, reason)]
    dense, lost = build.dense_of(["C", item, "O"], QM9)
    assert dense.sizes.tolist() == [1, 1]
    assert [(one.index, one.reason) for one in lost] == [(1, reason)]
    with pytest.raises(DataError, match=r"^molecule 0 .* cannot be a graph: ") as failure:
        of_mols([item], QM9)
    assert "\n" not in str(failure.value)


def test_a_file_with_bad_molecules_among_good_ones_says_how_many_of_what(tmp_path, monkeypatch):
    bad = [item for item, _ in DROPPED.values() if isinstance(item, str) and "\x00" not in item]
    path = tmp_path / "mixed.smi"
    path.write_text(GOOD + "\n".join(bad) + "\n" + GOOD)
    with pytest.warns(UserWarning, match=r"mixed.smi: \d+ of \d+ molecules are left out: 39 with the same molecule once more, 4 with"):
        (item,) = FileMolecules(str(path), largest=50).load()
    assert item.sizes["sample"] == 39 + 2  # bromomethane and decane are molecules; the vocabulary that lacked them is not asked here
    assert item.attrs["facts"]["left out (charged)"] == "2"
    assert item.attrs["facts"]["left out (kekulise)"] == "1"


def test_explicit_hydrogens_and_one_atom_are_molecules():
    assert cleaned(["[H]C([H])([H])[H]", "[H]O[H]", "F"]).smiles == ["C", "O", "F"]
    dense, lost = build.dense_of(["[H]C([H])([H])[H]", "O"], QM9)
    assert (dense.sizes.tolist(), lost) == ([1, 1], [])
    assert [one.smiles for one in build.rebuilt(dense, QM9)] == ["C", "O"]


def test_a_table_of_other_programs_is_read(tmp_path):
    """A semicolon and quotes, as ChEMBL has it; a name with "smiles" in it; a byte-order mark, as Excel has it."""
    for number, text in enumerate(('"ID";"Canonical Smiles"\n"a";"CCO"\n', "\ufeffLigand SMILES,pIC50\nCCO,7\n", "Smiles\tx\nCCO\t1\n")):
        path = tmp_path / f"{number}.csv"
        path.write_text(text, encoding="utf-8")
        assert read(path).smiles == ["CCO"]


def test_molecules_that_do_not_fit_the_memory_are_refused(monkeypatch):
    monkeypatch.setattr(build, "memory", lambda: 1e5)
    build.dense_of(["C" * 9] * 10, QM9)
    with pytest.raises(DataError, match=r"10 molecules padded to 60 atoms each take 0 GB.*leave out the largest of them \(largest=N\)"):
        build.dense_of(["C" * 60] * 10, QM9, 60)


def test_a_vocabulary_of_nothing_is_refused():
    for items in ([], ["junk", None, float("nan")], ["[Na+]"]):
        with pytest.raises(UserError, match="no molecule is left to make a vocabulary from"):
            Vocabulary.of(items)


MATRICES = {
    "asymmetric": ({(0, 2): 1}, r"graph 0 \(its matrix is not symmetric\) of .* is directed"),
    "negative": ({(0, 1): -1, (1, 0): -1}, r"entry \(0, 1\) of adjacency matrix 0 is negative"),
    "NaN": ({(0, 1): np.nan, (1, 0): np.nan}, r"entry \(0, 1\) of adjacency matrix 0 is not finite"),
    "infinite": ({(0, 1): np.inf, (1, 0): np.inf}, "is not finite"),
    "NaN on the diagonal": ({(0, 0): np.nan}, r"entry \(0, 0\) of adjacency matrix 0 is not finite"),
}
GRAPH_FILES = {
    "an empty file": ("a.npz", b"", "is empty"),
    "a pickle": ("a.pkl", pickle.dumps([RING]), "is a pickle, and loading one runs whatever code its author put there"),
    "a pickle called npz": ("a.npz", pickle.dumps([RING]), "is a pickle"),
    "a pickle called text": ("a.txt", pickle.dumps([RING]), "is a pickle"),
    "objects in an array": ("a.npy", np.array([{}], dtype=object), "is no file of plain numpy arrays: Object arrays cannot be loaded"),
    "no graph": ("a.npy", np.zeros((0, 4, 4)), "holds no graph"),
    "graphs without a node": ("a.npy", np.zeros((3, 0, 0)), "holds no graph that has a node"),
    "a matrix that is not square": ("a.npy", np.zeros((2, 3)), "must be square"),
    "four dimensions": ("a.npy", np.zeros((1, 2, 2, 2)), r"holds an array of shape \(1, 2, 2, 2\)"),
    "complex numbers": ("a.npy", RING * 1j, "holds complex128, not numbers"),
    "above the size limit": (
        "a.txt",
        "\n".join(f"{n} {n + 1}" for n in range(6000)).encode(),
        r"more than \d+ nodes; largest says how many",
    ),
    "fewer sizes than matrices": ("a.npz", {"adjacency": [RING] * 3, "nodes": [5, 5]}, "must be 3 numbers from 0 to 5, one a matrix"),
    "sizes beyond the matrix": ("a.npz", {"adjacency": [RING], "nodes": [9]}, "must be 1 numbers from 0 to 5"),
    "sizes that cut edges off": ("a.npz", {"adjacency": [RING], "nodes": [3]}, r"has an edge at an absent node \(it has 3 nodes\)"),
    "sizes that are words": ("a.npz", {"adjacency": [RING], "nodes": ["five"]}, "nodes of .* must be whole numbers"),
    "half a node": ("a.npz", {"nodes": [3.5], "edges": [1], "u": [0], "v": [1]}, "nodes of .* must be whole numbers, got float64 as 3.5"),
    "edges that are not there": ("a.npz", {"nodes": [3], "edges": [2], "u": [0], "v": [1]}, "1 edges where these add up to 2"),
    "ends beyond the nodes": ("a.npz", {"nodes": [3], "edges": [1], "u": [0], "v": [9]}, "is not 0 <= u < v < 3"),
    "an end that is NaN": ("a.npz", {"nodes": [3], "edges": [1], "u": [0], "v": [np.nan]}, "v of .* must be whole numbers"),
    "half an edge": ("a.npz", {"a_n_nodes": [3], "a_n_edges": [1], "a_edges": [0, 1, 2]}, "edges are pairs"),
    "a weight below 0": ("a.txt", b"1 2 -1\n", "weights must be finite and not negative"),
    "a weight that is NaN": ("a.csv", b"u,v,weight\n1,2,nan\n", "weights must be finite and not negative"),
    "a table of molecules": ("a.csv", b"smiles\nC\nCC\n", "has the one column 'smiles'; a table of edges has u and v"),
    "blank lines": ("a.csv", b"\n\n", "has no head"),
    "JSON without end": ("a.json", b"[" * 100_000, "is no JSON"),
    "another encoding": ("a.txt", b"\xff\xfe1", "is no text in UTF-8"),
    "molecules": ("a.sdf", b"x", "is of no kind that graphs are read from"),
    "a file that is missing": ("", b"", "no"),
    "a folder": (".", b"", "is a folder|of no kind"),
} | {
    name: ("a.npy", np.array([[entries.get((i, j), RING[i, j]) for j in range(5)] for i in range(5)]), sentence)
    for name, (entries, sentence) in MATRICES.items()
}


def put(folder: Path, name: str, content: object) -> Path:
    folder.mkdir()
    path = folder / (name or "none.npz")
    if isinstance(content, np.ndarray):
        np.save(path, content, allow_pickle=True)
    elif isinstance(content, dict):
        np.savez(path, **content)
    elif name not in ("", "."):
        path.write_bytes(content)
    return path


@pytest.mark.parametrize(("name", "content", "sentence"), GRAPH_FILES.values(), ids=GRAPH_FILES)
def test_a_file_of_graphs_that_is_no_use_is_refused_everywhere(name, content, sentence, rings, tmp_path, capsys, monkeypatch):
    path = put(tmp_path / "in", name, content)
    with pytest.raises(DataError, match=sentence) as failure:
        read_graphs(path)
    assert "\n" not in str(failure.value)
    with pytest.raises(DataError, match=sentence):
        list(GraphFile(str(path)).load())
    monkeypatch.chdir(tmp_path)
    before = files(tmp_path)
    for words in (
        ("run", "graphs/community", "--data", str(path), "--methods", "erdos-renyi", "--out", "run"),
        ("apply", "graphs/generate", "--model", rings, "--n", "2", "--steps", "1", "--train", str(path), "--out", "new"),
    ):
        pytest.raises(DataError, _again, refused(capsys, *words, "-q")).match(sentence)
        assert files(tmp_path) == before


def test_self_loops_and_graphs_without_nodes_are_left_out_and_said(tmp_path):
    looped = RING.copy()
    looped[0, 0] = 1
    np.save(tmp_path / "a.npy", looped)
    with pytest.warns(UserWarning, match="1 self-loops were left out"):
        assert read_graphs(tmp_path / "a.npy").edges.tolist() == [5]
    np.savez(tmp_path / "a.npz", nodes=[0, 2, 0], edges=[0, 1, 0], u=[0], v=[1])
    with pytest.warns(UserWarning, match="2 graphs without a node were left out"):
        assert read_graphs(tmp_path / "a.npz").nodes.tolist() == [2]


def test_a_batch_of_isolated_nodes_is_learnt_and_drawn(tmp_path):
    """Nothing to divide by: no degree, no edge, no bond."""
    import unstir
    from unstir.plugin.protocols import Case

    item = graph_set([nx.empty_graph(n) for n in (2, 3)] * 4, "isolated")
    prior = unstir.load(DiscreteTraining(**TINY).fit(item, tmp_path / "m"))
    made = Discrete(grid="uniform:2")(Case("isolated", None, None, {"count": 3}), prior, 0)
    assert len(Graphs.of_dataset(made.data)) == 3
    assert [one.smiles for one in build.rebuilt(Graphs.of_dataset(item).dense(), QM9)] == ["C"] * 8


def test_a_degree_of_f_or_more_is_refused_with_what_would_do(tmp_path):
    item = graph_set([nx.star_graph(n) for n in (11, 12)] * 4, "stars")
    with pytest.raises(DataError, match="a node has 12 neighbours, and the model has 10 features, from 0 to 9: features=13 would do"):
        GDSSTraining(preset="community-small", steps=1).fit(item, tmp_path / "m")


class Data:
    """What a graph of PyTorch Geometric has."""

    def __init__(self, edge_index, x=None, edge_attr=None, num_nodes=2):
        self.edge_index, self.x, self.edge_attr, self.num_nodes = edge_index, x, edge_attr, num_nodes


BOTH = torch.tensor([[0, 1], [1, 0]])
OBJECTS = {
    "no edge_index": (of_pyg, Data(None), "edge_index of graph 0 must be whole numbers .*, got none"),
    "edges of three": (of_pyg, Data(torch.zeros(3, 2).long()), r"got torch.int64 of shape \(3, 2\)"),
    "edges between halves": (of_pyg, Data(BOTH + 0.5), "got torch.float32"),
    "half an edge": (of_pyg, Data(BOTH[:, :1]), "an edge lacks its other direction"),
    "a self-loop": (of_pyg, Data(torch.zeros(2, 1).long()), "a node joined to itself"),
    "a node beyond": (of_pyg, Data(BOTH * 9), "an edge at a node beyond its 2"),
    "NaN as a kind": (of_pyg, Data(BOTH, torch.tensor([[0.0], [torch.nan]])), "numbers that are not whole"),
    "a kind below 0": (of_pyg, Data(BOTH, torch.tensor([0, -1])), "a negative kind of node"),
    "fewer kinds than edges": (of_pyg, Data(BOTH, edge_attr=torch.tensor([1])), "has 2 edges and edge_attr for 1"),
    "a loop of networkx": (of_networkx, nx.Graph([(0, 0)]), "a node joined to itself"),
    "directed": (of_networkx, nx.DiGraph([(0, 1)]), "is directed"),
    "a kind of networkx below 0": (of_networkx, nx.Graph([(0, 1, {"kind": -1})]), "a negative kind of edge"),
}


@pytest.mark.parametrize(("convert", "thing", "sentence"), OBJECTS.values(), ids=OBJECTS)
def test_an_object_of_another_library_that_is_no_graph_is_refused(convert, thing, sentence):
    with pytest.raises(DataError, match=sentence):
        convert([thing])


def test_a_batch_with_nan_or_without_symmetry_is_refused():
    e = torch.zeros(1, 3, 3)
    for place, value, sentence in (((0, 0, 1), torch.nan, "not finite"), ((0, 0, 1), 1.0, "not symmetric"), ((0, 1, 1), 1.0, "itself")):
        broken = e.clone()
        broken[place] = value
        with pytest.raises(DataError, match=f"graph 0 of the batch .*{sentence}"):
            Dense.of(None, broken, [3]).check()


COMMANDS = {
    "no model": (["molecules/generate"], "needs a model: --model NAME"),
    "a model that is not there": (["molecules/generate", "--model", "nowhere"], "there is no checkpoint 'nowhere'"),
    "a file as the model": (["molecules/generate", "--model", "in.smi"], "is a file and a checkpoint is a folder"),
    "files to work on": (["molecules/generate", "--model", "MODEL", "in.smi"], "takes no files, got in.smi"),
    "none of them": (["molecules/generate", "--model", "MODEL", "--n", "0"], "must be at least 1, got 0"),
    "a number that is none": (["molecules/generate", "--model", "MODEL", "--n", "many"], "n must be a whole number"),
    "an unknown option": (["molecules/generate", "--model", "MODEL", "--maximize", "qed"], "did you mean --maximise"),
    "an unknown reward": (["molecules/generate", "--model", "MODEL", "--maximise", "fun"], "there is no reward 'fun'"),
    "a scaffold that is none": (["molecules/generate", "--model", "MODEL", "--scaffold", "junk"], "no SMILES that RDKit can read"),
    "a scaffold in pieces": (["molecules/generate", "--model", "MODEL", "--scaffold", "C.C"], "more than one fragment"),
    "a scaffold with a charge": (["molecules/generate", "--model", "MODEL", "--scaffold", "C[NH3+]"], "a charged atom"),
    "a scaffold too large": (["molecules/generate", "--model", "MODEL", "--scaffold", "CCCCCC"], "more atoms than there is room for"),
    "more atoms than learnt": (
        ["molecules/generate", "--model", "MODEL", "--nodes", "99"],
        "graphs of up to 4 nodes, and 99 are asked for",
    ),
    "a model of graphs": (["molecules/generate", "--model", "RINGS"], "is a model of plain graphs: unstir apply graphs/generate"),
    "a model of molecules": (["graphs/generate", "--model", "MODEL"], "is a model of molecules: unstir apply molecules/generate"),
}


@pytest.mark.parametrize(("words", "sentence"), COMMANDS.values(), ids=COMMANDS)
def test_a_command_that_cannot_be_done_says_so_and_writes_nothing(words, sentence, model, rings, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("in.smi").write_text("C\n")
    words = [{"MODEL": model, "RINGS": rings}.get(word, word) for word in words]
    assert sentence in refused(capsys, "apply", *words, "--out", "new", "-q")
    assert files(tmp_path) == ["in.smi"]


def test_data_verbs_take_names_of_datasets_and_no_files(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my.csv").write_text("smiles\nC\n")
    for verb in ("get", "verify"):
        assert "there is no dataset card 'my.csv'" in refused(capsys, "data", verb, "my.csv")
    with pytest.raises(UnstirError):
        raise DataError(refused(capsys, "run", "molecules/generate", "--data", "molecules/qm10", "-q"))
    assert files(tmp_path) == ["my.csv"]
