"""Frechet ChemNet distance: the law of normal distances, the published activations, equal sizes, and a memory that changes nothing."""

import builtins

import numpy as np
import pytest

from unstir.errors import DataError, MissingExtra, UserError
from unstir_molecules import fcd, remembered

pytest.importorskip("fcd", reason="fcd is not installed")

GOLDEN = {
    "C": (-0.05681, 0.00466, -0.18709, 0.00403),
    "CCO": (-0.04490, 0.01146, -0.17741, 0.01567),
    "c1ccccc1": (0.11963, -0.00043, -0.10609, 0.02302),
}
MANY = [
    f"{'C' * left}{middle}{'C' * right}"
    for left in range(1, 5)
    for middle in ("O", "N", "S", "C(=O)", "C#C", "C=C")
    for right in range(1, 5)
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    """Activations go to a folder of the test."""
    monkeypatch.setattr(remembered, "folder", lambda: tmp_path / "activations")
    remembered.forget()
    yield
    remembered.forget()


def test_activations_are_the_published_ones():
    found = fcd.activations(list(GOLDEN))
    for row, golden in zip(found, GOLDEN.values(), strict=True):
        np.testing.assert_allclose(row[:4], golden, atol=1e-4)  # printed to five digits; sums in float32
    assert found[0].sum() == pytest.approx(1.79849, abs=1e-3)


def test_activations_keep_order_and_repeats_and_do_not_depend_on_the_batch(monkeypatch):
    together = fcd.activations(["CCO", "C", "CCO"])
    assert (together[0] == together[2]).all()
    remembered.forget()
    monkeypatch.setattr(fcd, "BATCH", 1)
    np.testing.assert_allclose(fcd.activations(["C"])[0], together[1], atol=1e-5)  # float32 sums in another order


def test_the_distance_of_normal_laws_is_that_of_wasserstein():
    """Diagonal covariances: |mu - mu'|^2 + sum (s - s')^2, exactly, whatever the estimate of the law."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((500, 6))
    values -= values.mean(0)
    white = values @ np.linalg.inv(np.linalg.cholesky(np.cov(values.T))).T
    s, t, mean = np.array([1, 2, 3, 1, 0.5, 0]), np.array([2, 2, 1, 1, 0.1, 4]), np.arange(6.0)
    expected = (mean**2).sum() + ((s - t) ** 2).sum()
    assert fcd.frechet(white * s, white * t + mean) == pytest.approx(expected, rel=1e-9)


def test_the_distance_agrees_with_the_matrix_root():
    """The library's own formula with a matrix square root, on correlated vectors."""
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(1)
    a, b = (rng.standard_normal((80, 5)) @ rng.standard_normal((5, 5)) for _ in range(2))
    cov = [np.cov(one.T) for one in (a, b)]
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov[0] + cov[1] - 2 * sqrtm(cov[0] @ cov[1]).real)
    assert fcd.frechet(a, b) == pytest.approx(expected, rel=1e-9)


def test_a_set_is_at_no_distance_from_itself_and_fewer_vectors_than_places_do_no_harm():
    values = np.random.default_rng(0).standard_normal((20, 512))
    assert fcd.frechet(values, values[::-1]) == pytest.approx(0.0, abs=1e-9)
    assert np.isfinite(fcd.frechet(values, values + 1.0))


def test_both_sides_have_the_same_n_and_it_is_told():
    found = fcd.fcd(MANY, MANY[:40], 64)
    assert found.n == 40
    assert len(found.parts) == 20
    assert np.mean(found.parts) == pytest.approx(found.value)
    assert fcd.fcd(MANY, MANY[:40], 64).value == found.value
    assert fcd.fcd(MANY, MANY[:40], 30, blocks=0).parts == ()
    assert np.isnan(fcd.fcd(["C"], MANY).value)


def test_other_molecules_are_further_away_than_more_of_the_same():
    near = fcd.fcd(MANY[::2], MANY[1::2], blocks=0).value
    far = fcd.fcd(["c1ccccc1" + one for one in MANY[::2]], MANY[1::2], blocks=0).value
    assert far > 2 * near


def test_activations_of_a_set_that_comes_again_are_remembered_in_the_process_and_on_disk(monkeypatch, tmp_path):
    monkeypatch.setattr(remembered, "WORTH", 3)
    asked = []
    seen = fcd._seen
    monkeypatch.setattr(fcd, "_seen", lambda names: asked.append(len(names)) or seen(names))
    first = fcd.activations(["C", "CC", "CCC"], keep=True)
    fcd.activations(["CCC", "C", "CC"])
    remembered.forget()
    again = fcd.activations(["C", "CC", "CCC"], keep=True)
    assert asked == [3]
    assert (first == again).all()
    fcd.activations(["N", "O", "F"])
    (kept,) = (tmp_path / "activations").iterdir()  # samples of one run are not kept
    kept.write_bytes(b"torn")
    remembered.forget()
    with pytest.warns(UserWarning, match="made again"):
        assert (fcd.activations(["C", "CC", "CCC"], keep=True) == first).all()


def test_bad_input_is_told(monkeypatch):
    with pytest.raises(DataError, match="1 to 349"):
        fcd.activations(["C" * 350])
    with pytest.raises(DataError, match="1 to 349"):
        fcd.activations([""])
    with pytest.raises(DataError, match="one size"):
        fcd.between(np.zeros((3, 2)), np.zeros((4, 2)))
    with pytest.raises(DataError, match="at least 2"):
        fcd.frechet(np.zeros((1, 2)), np.zeros((4, 2)))
    with pytest.raises(UserError, match="n = 1"):
        fcd.fcd(MANY, MANY, 1)


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name.partition(".")[0] == "fcd":
            raise ModuleNotFoundError("No module named 'fcd'", name="fcd")
        return real(name, *rest, **more)

    fcd._network.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match="pip install"):
        fcd.activations(["C"])
