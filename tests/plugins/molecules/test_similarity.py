"""Similarity by fingerprints: matrix products against RDKit's own, by hand where hands reach."""

import numpy as np
import pytest

from unstir.errors import DataError
from unstir_molecules import similarity
from unstir_molecules.similarity import BITS, fingerprints, mean_similarity, nearest_similarity, tanimoto

pytest.importorskip("rdkit", reason="RDKit is not installed")


def test_matrix_products_agree_with_rdkit(smiles, monkeypatch):
    from rdkit import Chem, DataStructs
    from rdkit.Chem import rdFingerprintGenerator

    make = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=1024).GetFingerprint
    bits = [make(Chem.MolFromSmiles(one)) for one in smiles]
    expected = np.array([[DataStructs.TanimotoSimilarity(a, b) for b in bits] for a in bits])
    monkeypatch.setattr(similarity, "BLOCK", 4)
    found = fingerprints(smiles)
    np.testing.assert_allclose(mean_similarity(found, found), expected.mean(1))
    np.testing.assert_allclose(nearest_similarity(found[:5], found[5:]), expected[:5, 5:].max(1))
    assert tanimoto(found[0], found[1]) == pytest.approx(expected[0, 1])


def test_by_hand():
    a, b = np.array([[1, 1, 0, 0], [0, 0, 0, 0]], np.uint8), np.array([[1, 0, 1, 0], [1, 1, 0, 0]], np.uint8)
    np.testing.assert_allclose(nearest_similarity(a, b), [1.0, 0.0])
    np.testing.assert_allclose(mean_similarity(a, b), [(1 / 3 + 1) / 2, 0.0])
    np.testing.assert_allclose(mean_similarity(a, a), [0.5, 0.5])  # nothing is like nothing


def test_sets_without_molecules():
    none = fingerprints([])
    assert none.shape == (0, BITS)
    assert np.isnan(nearest_similarity(fingerprints(["C"]), none)).all()
    assert np.isnan(mean_similarity(fingerprints(["C"]), none)).all()
    with pytest.raises(DataError, match="no molecule"):
        fingerprints(["C", "C1CC"])
