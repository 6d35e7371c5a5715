"""Molecules into graphs and back: exact, the published rules as RDKit itself judges them, and what cannot be said is counted."""

import numpy as np
import pytest
import torch

from unstir.errors import CheckpointError, DataError, UserError
from unstir_molecules.dense import Dense

Chem = pytest.importorskip("rdkit.Chem", reason="RDKit is not installed")
from rdkit import rdBase  # noqa: E402

from unstir_molecules import atoms, build, each, valence  # noqa: E402
from unstir_molecules.atoms import QM9, ZINC, Vocabulary  # noqa: E402
from unstir_molecules.build import counted, dense_of, mols_of, quantised, rebuilt  # noqa: E402

ORDER = {1: Chem.BondType.SINGLE, 2: Chem.BondType.DOUBLE, 3: Chem.BondType.TRIPLE}
USUAL = {7: 3, 8: 2, 16: 2}


def graphs(count, nodes, vocabulary, seed=0, density=0.3):
    """Random graphs, most of which no chemist would sign."""
    rng = np.random.default_rng(seed)
    bonds = rng.choice([0, 1, 2, 3], (count, nodes, nodes), p=[1 - density, *(density * np.array([0.6, 0.3, 0.1]))])
    upper = np.triu(bonds, 1)
    return Dense.of(rng.integers(0, vocabulary.kinds, (count, nodes)), upper + upper.transpose(0, 2, 1), rng.integers(0, nodes + 1, count))


def first_problem(mol):
    problems = [one for one in Chem.DetectChemistryProblems(mol, Chem.SANITIZE_PROPERTIES) if one.GetType() == "AtomValenceException"]
    return problems[0].GetAtomIdx() if problems else None


def order_sum(atom):
    return int(sum(bond.GetBondTypeAsDouble() for bond in atom.GetBonds()))


def published(kinds, bonds, vocabulary):
    """The published build and correction, bond by bond, as RDKit judges them: the molecule, valid before, its corrected form."""
    mol = Chem.RWMol()
    for kind in kinds:
        mol.AddAtom(Chem.Atom(vocabulary.atoms[kind]))
    for i in range(len(kinds)):
        for j in range(i):
            if bonds[i, j]:
                mol.AddBond(i, j, ORDER[int(bonds[i, j])])
                bad = first_problem(mol)
                if bad is not None:
                    atom = mol.GetAtomWithIdx(bad)
                    if atom.GetAtomicNum() in USUAL and order_sum(atom) == USUAL[atom.GetAtomicNum()] + 1:
                        atom.SetFormalCharge(1)
    valid, lowered = first_problem(mol) is None, Chem.RWMol(mol)
    while (bad := first_problem(lowered)) is not None:
        bond = max(lowered.GetAtomWithIdx(bad).GetBonds(), key=lambda one: one.GetBondTypeAsDouble())
        ends, order = (bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()), int(bond.GetBondTypeAsDouble()) - 1
        lowered.RemoveBond(*ends)
        if order:
            lowered.AddBond(*ends, ORDER[order])
    return mol, valid, lowered


@pytest.mark.parametrize(("vocabulary", "nodes", "count"), [(QM9, 9, 300), (ZINC, 12, 120)])
def test_charges_validity_and_correction_are_the_published_ones(vocabulary, nodes, count):
    dense = graphs(count, nodes, vocabulary)
    ours = mols_of(dense, vocabulary, charges=True)
    kinds, orders, mask = dense.x.numpy(), dense.e.numpy(), dense.mask.numpy()
    plus = valence.charged(kinds, orders, mask, vocabulary)
    lowered, answers = valence.corrected(kinds, orders, plus, vocabulary), rebuilt(dense, vocabulary, workers=1)
    with rdBase.BlockLogs():
        for i, n in enumerate(mask.sum(1)):
            mol, valid, correct = published(kinds[i, :n], orders[i, :n, :n], vocabulary)
            assert [a.GetFormalCharge() for a in ours[i].GetAtoms()] == [a.GetFormalCharge() for a in mol.GetAtoms()]
            assert answers[i].valid == (valid and n > 0)
            np.testing.assert_array_equal(lowered[i, :n, :n], Chem.GetAdjacencyMatrix(correct, useBO=True))
    assert 0.05 < np.mean([one.valid for one in answers]) < 0.95
    assert plus.any()


def test_everything_is_valid_after_the_correction():
    dense = graphs(200, 9, QM9, seed=1)
    for size, one in zip(dense.sizes.tolist(), rebuilt(dense, QM9, workers=1), strict=True):
        assert (one.smiles is None) == (size == 0)
        if size:
            assert Chem.MolFromSmiles(one.smiles) is not None
            assert "." not in one.smiles
            assert one.corrected <= (not one.valid)
            assert (one.problem == "valence") == (not one.valid)


def test_without_correction_an_invalid_graph_has_no_smiles():
    for one in rebuilt(graphs(100, 9, QM9, seed=2), QM9, correct=False, workers=1):
        assert not one.corrected
        assert (one.smiles is not None) == one.valid


def test_a_ring_of_charged_oxygens_comes_of_the_charge_rule():
    """Three oxygens in a ring with one double bond: the +1 rule makes [O+] of two, without it the double bond is lowered."""
    e = torch.zeros(1, 3, 3, dtype=torch.int64)
    e[0, 0, 1] = e[0, 1, 0] = 2
    e[0, 1, 2] = e[0, 2, 1] = e[0, 0, 2] = e[0, 2, 0] = 1
    dense = Dense.of(torch.full((1, 3), 2), e, [3])
    (with_rule,), (without,) = rebuilt(dense, QM9), rebuilt(dense, QM9, charges=False)
    assert (with_rule.valid, with_rule.corrected, with_rule.smiles) == (True, False, Chem.CanonSmiles("O1[O+]=[O+]1"))
    assert (without.valid, without.corrected, without.smiles) == (False, True, Chem.CanonSmiles("O1OO1"))


def test_small_molecules_come_back_as_they_were(smiles):
    dense, lost = dense_of(smiles, QM9)
    assert not lost
    answers = rebuilt(dense.check(4, 4), QM9)
    assert [one.smiles for one in answers] == smiles
    assert all(one.valid and not one.corrected and one.problem == "" and one.fragments == 1 for one in answers)


def test_the_order_of_the_nodes_and_the_padding_change_no_molecule(smiles):
    dense, _ = dense_of(smiles, QM9)
    turned = dense.padded(20).permuted(torch.Generator().manual_seed(0))
    assert [one.smiles for one in rebuilt(turned, QM9)] == smiles


def test_a_molecule_does_not_depend_on_its_batch():
    dense = graphs(60, 9, QM9, seed=3)
    assert [rebuilt(dense.take([i]), QM9)[0] for i in range(0, 60, 7)] == rebuilt(dense, QM9)[::7]


def test_a_caller_keeps_its_molecules():
    mol = Chem.AddHs(Chem.MolFromSmiles("c1ccncc1"))
    before = mol.ToBinary()
    dense, lost = dense_of([mol, Chem.MolFromSmiles("C")], QM9)
    assert not lost
    assert dense.sizes.tolist() == [6, 1]
    assert mol.ToBinary() == before


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"), (None, "empty"), ("not a molecule", "unparsable"), ("C(C)(C)(C)(C)C", "valence"), ("c1cccc1", "kekulise"),
        ("*", "wildcard"), ("C*", "wildcard"), ("[13CH4]", "isotope"), ("[2H]C", "isotope"), ("[H][H]", "hydrogens"),
        ("[CH3]", "hydrogens"), ("C[N+](=O)[O-]", "charged"), ("[Na+].[Cl-]", "charged"), ("C.O", "fragments"),
        ("C1CC1.C1CC1", "fragments"), ("CCl", "atom"), ("CCCCCCCCCC", "size"),
    ],
)  # fmt: skip
def test_what_cannot_be_said_is_left_out_with_a_reason(text, reason):
    dense, lost = dense_of(["C", text, "O"], QM9)
    assert len(dense) == 2
    assert [(one.index, one.reason) for one in lost] == [(1, reason)]
    assert reason in build.REASONS
    assert counted(lost) == {reason: 1}


def test_explicit_hydrogens_are_no_atoms():
    dense, lost = dense_of(["[H]C([H])([H])O[H]"], QM9)
    assert not lost
    assert dense.sizes.tolist() == [2]


def test_hydrogens_that_valence_does_not_say_are_not_lost_in_silence():
    phosphorus = Vocabulary(("C", "O", "P", "S"), largest=9)
    _, lost = dense_of(["[PH5]", "P", "CP(=O)O", "[SH4]"], phosphorus)
    assert [one.index for one in lost] == [0, 3]
    assert counted(lost) == {"hydrogens": 2}


def test_nothing_and_nobody_are_batches():
    dense, lost = dense_of([], QM9)
    assert len(dense.check()) == 0
    assert not lost
    assert rebuilt(dense, QM9) == []
    dense, _ = dense_of(["C"], QM9, size=1)
    assert dense.e.shape == (1, 1, 1)
    assert rebuilt(dense, QM9)[0].smiles == "C"


def test_a_charge_in_the_vocabulary_brings_charged_molecules_back():
    texts = ["C[N+](=O)[O-]", "C[NH3+]", "[C-]#[O+]", "CCO"]
    vocabulary = Vocabulary.of(texts, charges=True)
    assert {"N+", "O-", "C-", "O+"} <= set(vocabulary.atoms)
    dense, lost = dense_of(texts, vocabulary)
    assert not lost
    assert [one.smiles for one in rebuilt(dense, vocabulary)] == [Chem.CanonSmiles(text) for text in texts]


def test_the_longest_string_and_the_most_atoms_are_two_choices():
    dense, _ = dense_of(["CCCC", "N=C=O"], QM9)  # four atoms in four letters, three in five
    x = torch.cat([dense.x[0, :4], dense.x[1, :3]])[None]
    e = torch.zeros(1, 7, 7, dtype=torch.int64)
    e[0, :4, :4], e[0, 4:, 4:] = dense.e[0, :4, :4], dense.e[1, :3, :3]
    both = Dense.of(x, e, [7])
    kept = {keep: rebuilt(both, QM9, keep=keep)[0] for keep in ("longest", "largest", "all")}
    assert {keep: one.smiles for keep, one in kept.items()} == {"longest": "N=C=O", "largest": "CCCC", "all": "CCCC.N=C=O"}
    assert {(one.valid, one.problem, one.fragments) for one in kept.values()} == {(True, "disconnected", 2)}


def test_isolated_atoms_alone_are_a_molecule_each_of_which_one_is_kept():
    (one,) = rebuilt(Dense.of(torch.tensor([[0, 1, 2]]), torch.zeros(1, 3, 3, dtype=torch.int64), [3]), QM9)
    assert one.fragments == 3
    assert one.smiles in ("C", "N", "O")


def test_wrong_options_are_refused(smiles):
    dense, _ = dense_of(smiles, QM9)
    with pytest.raises(UserError, match="keep must be one of longest, largest, all, got 'best'"):
        rebuilt(dense, QM9, keep="best")
    with pytest.raises(UserError, match="size must be at least 1"):
        dense_of(smiles, QM9, size=0)
    with pytest.raises(DataError, match="a kind of node beyond the 1 there are"):
        rebuilt(dense, Vocabulary(("C",)))


@pytest.mark.parametrize("name", ["C", "N", "O", "F", "P", "S", "Cl", "Br", "I", "B", "Si", "N+", "O+", "O-", "C-", "S+"])
def test_the_limit_of_an_atom_is_where_rdkit_begins_to_complain(name):
    symbol, charge = atoms.symbol_of(name)
    with rdBase.BlockLogs():
        for bonds in range(8):
            mol = Chem.RWMol()
            mol.AddAtom(Chem.Atom(symbol))
            mol.GetAtomWithIdx(0).SetFormalCharge(charge)
            for i in range(bonds):
                mol.AddAtom(Chem.Atom("C"))
                mol.AddBond(0, i + 1, ORDER[1])
            assert (first_problem(mol) == 0) == (bonds > atoms.limit(name))


def test_a_vocabulary_is_learnt_by_falling_count():
    vocabulary = Vocabulary.of(["CCO", "CN", "CF", "CO", "C[N+](=O)[O-]", "nonsense", "C#N"])
    assert vocabulary.atoms == ("C", "N", "O", "F")
    assert vocabulary.bonds == ("none", "single", "double", "triple")
    assert vocabulary.largest == 3
    assert vocabulary.valencies == {"C": 3, "N": 3, "O": 1, "F": 1}
    assert Vocabulary.of(["CC", "CO"]).bonds == ("none", "single")


def test_a_vocabulary_survives_json():
    import json

    for vocabulary in (QM9, ZINC, Vocabulary(("C", "N+", "O-"), largest=3)):
        again = Vocabulary.of_dict(json.loads(json.dumps(vocabulary.as_dict())))
        assert again == vocabulary
        assert hash(again) == hash(vocabulary)
    with pytest.raises(CheckpointError, match="no vocabulary of molecules"):
        Vocabulary.of_dict({"atoms": ["C"]})


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"atoms": ()}, "at least one atom"), ({"atoms": ("C", "Xx")}, "an atom is an element"), ({"atoms": ("C", "C")}, "comes twice"),
        ({"atoms": ("C",), "bonds": ("none", "aromatic")}, "bonds must be none, single"), ({"atoms": ("C",), "largest": 0}, "largest"),
    ],
)  # fmt: skip
def test_a_wrong_vocabulary_is_refused(options, sentence):
    with pytest.raises(UserError, match=sentence):
        Vocabulary(**options)
    with pytest.raises(UserError, match="no molecule is left"):
        Vocabulary.of(["", "C[N+](=O)[O-]"])


def test_cuts_of_real_values_are_the_published_ones():
    x = torch.tensor([[[0.6, 0.0], [0.5, 0.2], [0.1, 0.51], [0.7, 0.9]]])
    a = torch.zeros(1, 4, 4)
    for i, j, value in ((2, 0, 0.5), (3, 0, 2.5), (3, 2, 1.49), (1, 0, 3.0)):
        a[0, i, j] = value
    a[0, 0, 3] = 99.0  # the upper triangle says nothing
    a[0, 2, 2] = 5.0  # nor does the diagonal
    dense = quantised(x, a).check(2, 4)
    assert dense.mask.tolist() == [[True, True, True, False]]
    assert dense.x.tolist() == [[0, 1, 0, 0]]  # the atom with two features above the cut takes the first
    assert dense.e[0, :3, :3].tolist() == [[0, 1, 3], [1, 0, 1], [3, 1, 0]]
    assert quantised(x, a, several="largest").x.tolist() == [[0, 1, 1, 0]]


def test_one_hot_atoms_and_whole_bonds_are_quantised_to_themselves(smiles):
    dense, _ = dense_of(smiles, QM9)
    hot = torch.nn.functional.one_hot(dense.x, 4) * dense.mask[:, :, None]
    again = quantised(hot.float(), dense.e.float())
    assert torch.equal(again.x, dense.x)
    assert torch.equal(again.e, dense.e)
    assert torch.equal(again.mask, dense.mask)


@pytest.mark.parametrize(
    ("x", "a", "sentence"),
    [
        (torch.full((2, 3, 4), float("nan")), torch.zeros(2, 3, 3), "the atoms of graph 0 are not finite"),
        (torch.zeros(2, 3, 4), torch.full((2, 3, 3), float("inf")), "the bonds of graph 0 are not finite"),
        (torch.zeros(2, 3, 4), torch.zeros(2, 4, 4), "must fit"),
    ],
)
def test_real_values_that_are_none_are_refused(x, a, sentence):
    with pytest.raises(DataError, match=sentence):
        quantised(x, a)
    with pytest.raises(UserError, match="several must be first or largest"):
        quantised(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1), several="last")


def test_processes_change_nothing(smiles, monkeypatch):
    """Several chunks, so that workers start; order and every value are those of one process."""
    monkeypatch.setattr(each, "SMALL", 20)
    monkeypatch.setattr(each, "CHUNK", 10)
    texts = (smiles + ["C[N+](=O)[O-]", "junk"]) * 5
    one, two = dense_of(texts, QM9, workers=1), dense_of(texts, QM9, workers=2)
    assert one[1] == two[1]
    assert [lost.index for lost in one[1]][:2] == [9, 10]
    assert torch.equal(one[0].e, two[0].e)
    assert rebuilt(one[0], QM9, workers=1) == rebuilt(one[0], QM9, workers=2)


def test_a_worker_that_dies_is_said(monkeypatch):
    monkeypatch.setattr(each, "SMALL", 1)
    with pytest.raises(RuntimeError, match="a worker process ended with 1: TypeError"):
        each.mapped(max, [1, "a", 2, "b"], workers=2, chunk=2)


def test_a_set_knows_of_pieces_that_the_first_fault_hides():
    """A carbon with five bonds beside a lone oxygen: the problem is valence, and it is in two pieces all the same."""
    from unstir_molecules.judge import are_whole, judge
    from unstir_molecules.molecules import built_set

    x, e = torch.zeros(3, 4, dtype=torch.long), torch.zeros(3, 4, 4, dtype=torch.long)
    x[1, 3] = 1
    for a, b, order in ((0, 1, 3), (1, 2, 2)):
        e[1, a, b] = e[1, b, a] = order
        e[0, a, b] = e[0, b, a] = 1
    both = Dense.of(x, e, torch.tensor([3, 4, 1]))
    data = built_set(rebuilt(both, Vocabulary(("C", "O"), largest=4)))
    assert data["problem"].values.tolist() == ["", "valence", ""]
    assert data["fragments"].values.tolist() == [1, 2, 1]
    assert are_whole(data).tolist() == [True, False, True]
    assert judge(data, []).whole == 2
