"""Files of molecules: every format gives the same, and what is left out is said with its line and reason."""

import gzip
import lzma
import pickle

import pytest

from unstir.errors import DataError, UserError

Chem = pytest.importorskip("rdkit.Chem", reason="RDKit is not installed")

from unstir_molecules.atoms import QM9  # noqa: E402
from unstir_molecules.smiles import Rules, canonical, cleaned, read  # noqa: E402


def put(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def sdf(path, smiles, hydrogens=True):
    with Chem.SDWriter(str(path)) as writer:
        for text in smiles:
            mol = Chem.MolFromSmiles(text)
            writer.write(Chem.AddHs(mol) if hydrogens else mol)
    return path


def test_every_format_gives_the_same_molecules(tmp_path, smiles):
    lines = "".join(f"{text}\n" for text in smiles)
    files = [
        put(tmp_path / "a.smi", lines),
        put(tmp_path / "b.smi", "smiles name\n" + "".join(f"{text} m{i}\n" for i, text in enumerate(smiles)) + "\n\n"),
        put(tmp_path / "c.txt", "# a comment\n" + lines.replace("\n", "\r\n")),
        put(tmp_path / "d.csv", "id,SMILES\n" + "".join(f"{i},{text}\n" for i, text in enumerate(smiles))),
        put(tmp_path / "e.csv", "canonical_smiles;id\n" + "".join(f"{text};{i}\n" for i, text in enumerate(smiles))),
        put(tmp_path / "f.tsv", "\ufeffid\tsmiles\n" + "".join(f"{i}\t{text}\n" for i, text in enumerate(smiles))),
        put(tmp_path / "g.smi.gz", gzip.compress(lines.encode(), mtime=0)),
        put(tmp_path / "h.csv.xz", lzma.compress(("smiles\n" + lines).encode())),
        sdf(tmp_path / "i.sdf", smiles),
        put(tmp_path / "j.sdf.gz", gzip.compress((tmp_path / "i.sdf").read_bytes(), mtime=0)),
    ]
    for path in files:
        found = read(path)
        assert found.smiles == smiles, path.name
        assert not found.dropped
        assert found.said() == ""


def test_the_newline_inside_a_cell_of_zinc250k_is_no_part_of_the_molecule(tmp_path):
    path = put(tmp_path / "zinc.csv", ',smiles,logP\n0,"CCO\n",0.1\n1,"c1ccccc1\n",1.7\n')
    assert read(path).smiles == ["CCO", "c1ccccc1"]


def test_stereo_is_dropped_and_strings_are_canonical(tmp_path):
    assert read(put(tmp_path / "a.smi", "OC(=O)[C@@H](N)C\nC(/F)=C/F\nC1=CC=CC=C1\n")).smiles == ["CC(N)C(=O)O", "FC=CF", "c1ccccc1"]


def test_the_column_can_be_named(tmp_path):
    path = put(tmp_path / "a.csv", "structure,smiles\nC,CC\nN,NN\n")
    assert read(path, column="structure").smiles == ["C", "N"]
    with pytest.raises(DataError, match=r"a.csv has no column 'structur' but structure, smiles; did you mean 'structure'"):
        read(path, column="structur")


def test_a_table_without_smiles_is_refused_with_its_columns(tmp_path):
    with pytest.raises(DataError, match=r"a.csv has no column of SMILES .* but id, logP; name it"):
        read(put(tmp_path / "a.csv", "id,logP\n1,2\n"))


DIRTY = {
    "nonsense": "unparsable", "None": "unparsable", "C(C)(C)(C)(C)C": "valence", "c1cccc1": "kekulise", "*CC": "wildcard", "": "empty",
    "[13CH4]": "isotope", "C[CH2]": "hydrogens", "C[N+](=O)[O-]": "charged", "CCO.CC": "fragments",
}  # fmt: skip


def test_what_is_no_use_is_left_out_with_its_line_and_reason(tmp_path):
    found = read(put(tmp_path / "a.smi", "C\n" + "".join(f"{text}\n" for text in DIRTY) + "O\n"))
    assert found.smiles == ["C", "O"]
    assert found.lines == [1, len(DIRTY) + 2]
    assert {one.smiles: one.reason for one in found.dropped} == DIRTY
    assert [one.line for one in found.dropped] == list(range(2, len(DIRTY) + 2))
    assert found.counts["unparsable"] == 2
    assert found.said().startswith("10 of 12 molecules are left out: 2 with no SMILES that RDKit can read")


def test_charges_fragments_and_duplicates_are_choices():
    texts = ["C[N+](=O)[O-]", "CCO.C", "[Na+].CC(=O)[O-]", "OCC", "CCO"]
    assert cleaned(texts).smiles == ["CCO", "CCO"]
    assert cleaned(texts, Rules(charged="keep")).smiles == ["C[N+](=O)[O-]", "CCO", "CCO"]
    assert cleaned(texts, Rules(fragments="largest")).smiles == ["CCO", "CCO", "CCO"]
    assert cleaned(texts, Rules(charged="keep", fragments="largest")).smiles[2] == "CC(=O)[O-]"
    unique = cleaned(texts, Rules(duplicates="drop"))
    assert unique.smiles == ["CCO"]
    assert unique.counts["duplicate"] == 1


def test_a_vocabulary_says_which_atoms_and_how_many():
    found = cleaned(["CCO", "CCl", "CCCCCCCCCC", "C[O-]"], Rules(vocabulary=QM9, charged="keep"))
    assert found.smiles == ["CCO"]
    assert [one.reason for one in found.dropped] == ["atom", "size", "charged"]
    assert [one.reason for one in cleaned(["CCO", "CC"], Rules(largest=2)).dropped] == ["size"]


@pytest.mark.parametrize("options", [{"charged": "neutralise"}, {"fragments": "smallest"}, {"duplicates": "some"}, {"largest": -1}])
def test_wrong_rules_are_refused(options):
    (name,) = options
    with pytest.raises(UserError, match=f"{name} must be"):
        Rules(**options)


def test_a_pickle_is_never_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was opened",))

    for name in ("a.pkl", "b.csv", "c.pickle"):
        with pytest.raises(DataError, match="is a pickle, which runs whatever it holds"):
            read(put(tmp_path / name, pickle.dumps(Bomb())))


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.smi", b"", "is empty"),
        ("a.csv", b"smiles\n", "has no molecules"),
        ("a.smi", b"\n\n", "has no molecules"),
        ("a.smi", b"xyz\n\nqwe\n", "has no molecule that can be used; 3 of 3"),
        ("a.xlsx", b"PK", "no suffix of a format of molecules"),
        ("a", b"CCO", "no suffix of a format of molecules"),
        ("a.smi", b"CC\xff\xfe\n", "no text in UTF-8"),
        ("a.smi.gz", gzip.compress(b"CCO\n" * 99, mtime=0)[:-12], "is damaged"),
        ("a.csv.gz", b"smiles\nC\n", "is damaged"),
        ("a.sdf", b"no record\n", "has no molecule"),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path, name, content, sentence):
    with pytest.raises(DataError, match=sentence):
        read(put(tmp_path / name, content))


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read(tmp_path / "none.smi")
    with pytest.raises(DataError, match="is a folder"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["a.smi", "a.sdf"])
def test_columns_belong_to_tables(tmp_path, name):
    with pytest.raises(DataError, match="column is for tables"):
        read(put(tmp_path / name, "C\n"), column="smiles")


def test_a_broken_record_of_an_sdf_costs_that_record(tmp_path, smiles):
    path = sdf(tmp_path / "a.sdf", smiles[:3])
    records = path.read_text().split("$$$$\n")
    records[1] = records[1].replace(" C  ", " Qq ", 1)
    found = read(put(path, "$$$$\n".join(records)))
    assert found.smiles == [smiles[0], smiles[2]]
    assert [(one.line, one.reason) for one in found.dropped] == [(2, "unparsable")]


def test_one_atom_is_a_molecule():
    assert cleaned(["C", "[H]O[H]", "F"]).smiles == ["C", "O", "F"]
    assert cleaned([]).smiles == []
    assert canonical(["OCC", "", None, "junk", "C[N+](=O)[O-]"]) == ["CCO", None, None, None, "C[N+](=O)[O-]"]


def test_a_peers_samples_are_counted_as_published(yardsticks):
    """DiGress on QM9: 79 of 10,000 invalid (written "None"), 9,611 distinct."""
    found = read(yardsticks / "digress_qm9_noH_10000.smi.xz", rules=Rules(charged="keep"))
    assert found.counts == {"unparsable": 79}
    assert len(found.smiles) == 9921
    assert len(set(found.smiles)) == 9611
