"""Pieces of molecules: known cuts and scaffolds, and the cosine of their counts by hand."""

import numpy as np
import pytest

from unstir_molecules import each as module
from unstir_molecules.each import each
from unstir_molecules.fragments import cosine, counts, fragments_of, scaffold, scaffolds_of

pytest.importorskip("rdkit", reason="RDKit is not installed")


def test_an_amide_is_cut_and_an_alkane_is_not():
    amide, alkane = fragments_of(["CC(=O)NC1CCCCC1", "CCCC"])
    assert len(amide) == 3
    assert alkane == ["CCCC"]


def test_a_scaffold_keeps_rings_and_what_links_them():
    found = scaffolds_of(["CCc1ccccc1CCC1CCCCC1C", "Cc1ccccc1", "CCO"], rings=1)
    assert found == [["c1ccc(CCC2CCCCC2)cc1"], ["c1ccccc1"], []]


def test_scaffolds_of_too_few_rings_do_not_count():
    assert scaffolds_of(["CCc1ccccc1CCC1CCCCC1C", "Cc1ccccc1", "CCO"]) == [["c1ccc(CCC2CCCCC2)cc1"], [], []]


def test_the_cosine_by_hand():
    ours, theirs = counts([[["a", "a"], ["b"]], [["a"], ["c"]]])
    assert cosine(ours, theirs) == pytest.approx(2 / (np.sqrt(5) * np.sqrt(2)))
    assert cosine(ours, ours) == pytest.approx(1.0)
    assert np.isnan(cosine(*counts([[[]], [["a"]]])))


def test_processes_change_nothing(smiles, monkeypatch):
    monkeypatch.setattr(module, "FEWEST", 0)
    monkeypatch.setattr(module, "PART", 4)
    asked = [one for one in smiles for _ in range(2)] + [""]
    assert each(scaffold, asked, workers=2) == each(scaffold, asked, workers=1)
    assert each(scaffold, asked)[-1] is None
