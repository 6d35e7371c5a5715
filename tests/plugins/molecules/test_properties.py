"""Properties: the published values, distances of their laws in closed form, and rewards that give nothing for no molecule."""

import numpy as np
import pytest

from unstir.errors import UserError
from unstir_molecules.properties import NAMES, properties, reward, rewards, wasserstein

pytest.importorskip("rdkit", reason="RDKit is not installed")

GOLDEN = {
    "CC(=O)Oc1ccccc1C(=O)O": (0.550122, 1.580040, 1.3101),
    "Cn1c(=O)c2c(ncn2C)n(C)c1=O": (0.538463, 2.297982, -1.0293),
    "CC(C)Cc1ccc(C(C)C(=O)O)cc1": (0.821600, 2.191755, 3.0732),
    "CCO": (0.406808, 1.980257, -0.0014),
}


def test_properties_are_the_published_ones():
    found = properties(GOLDEN)
    for name, column in zip(("qed", "sa", "logp"), np.transpose(list(GOLDEN.values())), strict=True):
        np.testing.assert_allclose(found[name], column, atol=1e-4)  # logP is published to four digits
    np.testing.assert_allclose(found["weight"][3], 46.069, atol=1e-3)
    assert found["rings"].tolist() == [1, 2, 1, 0]


def test_no_molecule_has_no_properties():
    found = properties(["", "CCO"])
    assert set(found) == set(NAMES)
    assert all(np.isnan(values[0]) and np.isfinite(values[1]) for values in found.values())
    assert properties([])["qed"].shape == (0,)


def test_a_shift_is_its_own_distance():
    values = np.array([0.0, 1.0, 5.0, np.nan])
    assert wasserstein(values, values + 2.5) == pytest.approx(2.5)
    assert wasserstein(values, values) == 0
    assert np.isnan(wasserstein(values, np.array([np.nan])))


def test_rewards_are_the_properties_and_nothing_for_no_molecule():
    aspirin = next(iter(GOLDEN))
    assert reward("qed")(aspirin) == pytest.approx(0.550122, abs=1e-6)
    assert reward("sa")(aspirin) == pytest.approx((10 - 1.580040) / 9, abs=1e-6)
    assert reward("logp")(aspirin) == pytest.approx(1.3101, abs=1e-4)
    assert reward(f"similarity:{aspirin}")(aspirin) == 1.0
    assert 0 < reward(f"similarity:{aspirin}")("OC(=O)c1ccccc1O") < 1
    for name in ("qed", "sa", "logp", "similarity:CCO"):
        assert reward(name)("") == 0.0
        assert reward(name)("C1CC") == 0.0
        np.testing.assert_allclose(rewards(name, ["CCO", "", "CCO"]), [reward(name)("CCO"), 0.0, reward(name)("CCO")])


def test_a_reward_that_is_none_is_told():
    with pytest.raises(UserError, match="did you mean 'qed'"):
        reward("qet")
    with pytest.raises(UserError, match="similarity needs a molecule"):
        reward("similarity:C1CC")
