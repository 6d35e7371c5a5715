"""Sets of molecules: the bundled sample is what its card says and comes back from its graphs, no package is imported, no split leaks."""

import csv
import inspect
import lzma
import sys

import numpy as np
import pytest

from unstir.errors import DataError, UserError
from unstir_data import cards, fetch

Chem = pytest.importorskip("rdkit.Chem", reason="RDKit is not installed")

from unstir_molecules import datasets  # noqa: E402
from unstir_molecules.atoms import QM9, Vocabulary  # noqa: E402
from unstir_molecules.build import counted, dense_of, rebuilt  # noqa: E402
from unstir_molecules.molecules import built_set, molecule_set, smiles_of  # noqa: E402

CARDED = [
    one for _, one in inspect.getmembers(datasets, inspect.isclass) if issubclass(one, datasets.CardMolecules) and hasattr(one, "card")
]


@pytest.fixture(scope="module", autouse=True)
def _own_folder(tmp_path_factory):
    """Canonical SMILES are kept in a folder of the tests, not in the user's cache."""
    where = tmp_path_factory.mktemp("molecules")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets, "kept_folder", lambda: where)
        yield


@pytest.fixture(scope="module")
def sample():
    (made,) = datasets.QM9Sample().load()
    return made


def here(dataset, module):
    """Skip where the package is neither installed nor cached: tests fetch nothing."""
    known = cards.load(dataset.card)
    import importlib.util

    if importlib.util.find_spec(module) is None and fetch.cached(known.name) is None:
        pytest.skip(f"the package {known.source.package} is not installed")
    return dataset


def test_the_bundled_sample_is_what_its_card_says(sample):
    card = cards.load("molecules/qm9-sample")
    assert sample.attrs["key"] == "qm9-sample"
    assert sample.attrs["licence"] == card.licence
    assert "doi:10.1038/sdata.2014.22" in sample.attrs["citation"]
    assert sample["smiles"].shape == card.shape == (7500,)
    splits, counts = np.unique(sample["split"].values, return_counts=True)
    assert dict(zip(splits.tolist(), counts.tolist(), strict=True)) == {"train": 6000, "test": 1500}
    sizes = [Chem.MolFromSmiles(text).GetNumAtoms() for text in sample["smiles"].values.tolist()]
    assert (min(sizes), max(sizes)) == card.range
    assert sample["valid"].values.all()
    assert sample.attrs["facts"] == {"charged": "33 of 7,500"}


def test_no_molecule_of_the_sample_is_on_both_sides(sample):
    assert len(set(sample["smiles"].values.tolist())) == 7500
    assert (np.diff(sample["gdb_index"].values) > 0).all()


def test_the_sample_is_kept_and_comes_back_the_same(sample, monkeypatch):
    def never(*_, **__):
        raise AssertionError("it was made once more")

    monkeypatch.setattr(datasets, "canonical", never)
    (again,) = datasets.QM9Sample().load()
    assert again.identical(sample)


def test_a_cache_that_cannot_be_written_costs_time_alone(sample, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(datasets, "kept_folder", lambda: tmp_path / "file" / "folder")
    monkeypatch.setattr(datasets, "canonical", lambda texts: list(texts))
    (made,) = datasets.QM9Sample().load()
    assert made.sizes == sample.sizes


def test_every_molecule_comes_back_from_its_graph_but_the_charged_which_are_counted(sample):
    """On all of QM9: 130,251 of 130,831 exact, and the 580 charged ones refused."""
    texts = sample["smiles"].values.tolist()
    dense, lost = dense_of(texts, QM9)
    assert counted(lost) == {"charged": 33}
    gone = {one.index for one in lost}
    answers = rebuilt(dense.check(4, 4), QM9)
    assert [one.smiles for one in answers] == [text for i, text in enumerate(texts) if i not in gone]
    assert all(one.valid and not one.corrected for one in answers)


def test_charges_in_the_vocabulary_lose_none_of_the_sample(sample):
    charged = [text for text in sample["smiles"].values.tolist() if datasets.CHARGED.search(text)]
    vocabulary = Vocabulary.of(charged, charges=True)
    dense, lost = dense_of(charged, vocabulary)
    assert not lost
    assert [one.smiles for one in rebuilt(dense, vocabulary)] == charged


def test_the_sample_is_drawn_from_the_published_split(sample, yardsticks):
    with lzma.open(yardsticks / "qm9_gdb_smiles.csv.xz", "rt") as file:
        whole = {int(row["gdb_index"]): (row["smiles"], row["gdss_test"]) for row in csv.DictReader(file)}
    with lzma.open(cards.SAMPLES / "molecules" / "qm9-sample.csv.xz", "rt") as file:
        known = list(csv.DictReader(file))
    for row in known:
        assert whole[int(row["gdb_index"])] == (row["smiles"], "1" if row["split"] == "test" else "0")
    with np.load(yardsticks / "gdss_test_indices.npz") as ids:
        np.testing.assert_array_equal(np.flatnonzero(datasets.gdss_test()), np.sort(ids["qm9"]))


def test_the_published_test_set_has_13082_rows():
    assert datasets.gdss_test().shape == (datasets.GDB9,)
    assert datasets.gdss_test().sum() == 13_082


def test_a_damaged_split_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(cards, "SAMPLES", tmp_path)
    with pytest.raises(DataError, match="the bundled split .* is missing or damaged; install unstir again"):
        datasets.gdss_test()


@pytest.mark.parametrize("dataset", CARDED)
def test_every_dataset_has_a_card_that_says_where_it_comes_from(dataset):
    card = cards.load(dataset.card)
    assert card.kind in ("bundled", "package")
    assert card.licence
    assert card.source.sha256


def test_every_dataset_with_a_card_is_there():
    assert {one.__name__ for one in CARDED} == {"QM9Sample", "QM9", "Moses", "NCI", "WEHI"}


def test_the_whole_of_qm9_has_the_published_split():
    rows = here(datasets.QM9(), "qm9pack").rows()
    assert len(rows["source"]) == cards.load("molecules/qm9").shape[0] == 130_831
    assert (rows["split"] == "test").sum() == 12_914
    assert (np.diff(rows["gdb_index"]) > 0).all()
    assert rows["source"][:4].tolist() == ["C", "N", "O", "C#C"]
    assert "qm9pack" not in sys.modules


def test_a_part_of_moses_is_spread_over_the_file():
    (made,) = here(datasets.Moses(train=300, test=100, which="test_scaffolds"), "moses").load()
    assert (made["split"].values == "train").sum() == 300
    assert made.sizes["sample"] == 400
    assert made.attrs["facts"]["charged"] == "0 of 400"
    assert "moses" not in sys.modules


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: datasets.Moses(train=-1), "train and test must be at least 0"),
        (lambda: datasets.Moses(which="valid"), "which must be one of test, test_scaffolds"),
        (lambda: datasets.NCI(test=1.0), "test must be a share"),
        (lambda: datasets.WEHI(fragments="some"), "fragments must be one of"),
        (lambda: datasets.FileMolecules(test=0.0), "test must be a share"),
        (lambda: datasets.FileMolecules(charged="some"), "charged must be one of"),
    ],
)
def test_wrong_options_are_refused(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()


@pytest.mark.parametrize(
    ("dataset", "content"),
    [
        (datasets.NCI, "CCO 1\n[Na+].CC(=O)[O-] 2\nOCC 3\nxx 4\n"),
        (datasets.WEHI, '"CCO","W-1"\n"[Na+].CC(=O)[O-]","W-2"\n"OCC","W-3"\n"xx","W-4"\n'),
    ],
)
def test_dirty_sets_say_what_they_left_out(dataset, content, tmp_path, monkeypatch):
    path = tmp_path / ("a.smi" if dataset is datasets.NCI else "a.csv")
    path.write_text(content)
    monkeypatch.setattr(datasets, "system_file", lambda card, place: path)
    (made,) = dataset().load()
    assert made["smiles"].values.tolist() == ["CCO", "CC(=O)[O-]"]
    assert made.attrs["facts"] == {"left out (duplicate)": "1", "left out (unparsable)": "1"}
    assert set(made["split"].values.tolist()) <= {"train", "test"}


@pytest.mark.parametrize("dataset", [datasets.NCI(), datasets.WEHI()])
def test_without_debians_package_the_sentence_names_it(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("UNSTIR_CACHE", str(tmp_path))
    monkeypatch.setattr(type(dataset), "place", str(tmp_path / "none"))
    monkeypatch.setattr(fetch.shutil, "which", lambda name: None)
    with pytest.raises(DataError, match=r"rdkit-data is a Debian package .* unpack usr/share/RDKit/Data"):
        list(dataset.load())


def test_a_file_of_ones_own_is_split_by_molecule(tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("smiles\n" + "".join(f"{'C' * n}O\nO{'C' * n}\n" for n in range(1, 60)) + "xx\n")
    (made,) = datasets.FileMolecules(str(path), test=0.3).load()
    assert made.attrs["key"] == "mine"
    assert made.attrs["facts"] == {"left out (duplicate)": "59", "left out (unparsable)": "1"}
    assert 5 < (made["split"].values == "test").sum() < 30
    (again,) = datasets.FileMolecules(str(path), test=0.3).load()
    assert again.identical(made)


def test_a_file_of_test_molecules_takes_them_from_the_training_set(tmp_path):
    (tmp_path / "train.smi").write_text("C\nCC\nCCC\nCCCC\n")
    (tmp_path / "test.smi").write_text("CC\nO\n")
    (made,) = datasets.FileMolecules(str(tmp_path / "train.smi"), test_path=str(tmp_path / "test.smi")).load()
    sides = dict(zip(made["smiles"].values.tolist(), made["split"].values.tolist(), strict=True))
    assert sides == {"C": "train", "CCC": "train", "CCCC": "train", "CC": "test", "O": "test"}


def test_no_path_is_said():
    with pytest.raises(DataError, match="molecules/file needs the path of a file"):
        list(datasets.FileMolecules().load())


def test_a_set_of_molecules_survives_netcdf(tmp_path):
    made = built_set(rebuilt(dense_of(["CCO", "C#N"], QM9)[0], QM9), key="toy")
    made = molecule_set([*smiles_of(made), None], properties={"qed": [0.4, 0.5, np.nan], "source": ["a", "b", ""]}, key="toy")
    made.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    import xarray as xr

    with xr.open_dataset(tmp_path / "a.nc", engine="h5netcdf") as again:
        assert again["smiles"].values.tolist() == ["CCO", "C#N", ""]
        assert again["valid"].values.tolist() == [True, True, False]
        assert smiles_of(again) == ["CCO", "C#N"]
        assert smiles_of(again, made=False) == ["CCO", "C#N", ""]
    molecule_set([]).to_netcdf(tmp_path / "b.nc", engine="h5netcdf")


def test_a_set_whose_parts_disagree_is_refused():
    with pytest.raises(DataError, match=r"a set of 2 molecules has valid of shape \(1,\)"):
        molecule_set(["C", "N"], [True])
    with pytest.raises(DataError, match="cannot be called 'smiles'"):
        molecule_set(["C"], properties={"smiles": ["C"]})
    import xarray as xr

    with pytest.raises(DataError, match="has the variable smiles along sample"):
        smiles_of(xr.Dataset())
