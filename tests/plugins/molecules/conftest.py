"""What the tests of molecules and graphs share."""

from pathlib import Path

import pytest

YARDSTICKS = Path(__file__).parents[4] / "shared" / "data" / "molecules"
SMALL = ("C", "CCO", "c1ccccc1", "CC(=O)N", "N#Cc1ccoc1", "FC1CC1", "C1=CN=CN1", "OC1C2CC1O2", "CC#CC(=O)O")


@pytest.fixture(scope="session")
def yardsticks():
    """Folder of the yardstick data; tests that need it are skipped where it is not."""
    if not YARDSTICKS.is_dir():
        pytest.skip("the yardstick data of molecules are not here")
    return YARDSTICKS


@pytest.fixture(scope="session")
def smiles():
    """A few neutral molecules of at most nine heavy atoms C, N, O, F: canonical SMILES."""
    Chem = pytest.importorskip("rdkit.Chem", reason="RDKit is not installed")
    return [Chem.CanonSmiles(text) for text in SMALL]


@pytest.fixture(autouse=True)
def _own_statistics(tmp_path_factory, monkeypatch):
    """What is remembered of sets goes to a folder of the test session."""
    from unstir_molecules import remembered

    where = tmp_path_factory.getbasetemp() / "statistics"
    monkeypatch.setattr(remembered, "folder", lambda: where)
