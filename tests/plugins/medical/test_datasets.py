"""Datasets: the bundled patient, package volumes where they are cached, a file of one's own."""

import inspect

import numpy as np
import pytest

from unstir.errors import DataError, UserError
from unstir_data import cards, fetch
from unstir_medical import datasets, volume
from unstir_medical.readers import read

CARDED = [
    c for _, c in inspect.getmembers(datasets, inspect.isclass) if issubclass(c, datasets.CardVolume) and c is not datasets.CardVolume
]


def test_the_bundled_patient_is_the_yardstick_volume():
    """Golden numbers of the 4 x 4 block mean; the file is rounded to whole HU, 0.00025 of the unit."""
    (item,) = datasets.Lung1().load()
    assert item["hu"].shape == (48, 128, 128)
    assert item.attrs["key"] == "lung1"
    assert volume.spacing_of(item) == (5.0, 2.28125, 2.28125)
    u = volume.to_unit(item["hu"].values.astype(np.float64))
    assert u.mean() == pytest.approx(0.21125, abs=1e-5)
    assert u.std() == pytest.approx(0.23513, abs=1e-5)
    assert u[24, 64, 64] == pytest.approx(0.08184, abs=2.6e-4)
    assert u[10, 40, 70] == pytest.approx(0.16584, abs=2.6e-4)


def test_the_bundled_patient_is_made_from_the_full_one():
    if fetch.cached("medical/lung1-full") is None:
        pytest.skip("medical/lung1-full is not in the cache (unstir data get medical/lung1-full)")
    (full,), (bundled,) = datasets.Lung1Full().load(), datasets.Lung1().load()
    work = volume.prepare(full, 128)
    np.testing.assert_array_equal(np.rint(work["hu"]), bundled["hu"])
    np.testing.assert_allclose(volume.affine_of(work), volume.affine_of(bundled))
    u = volume.to_unit(work["hu"].values.astype(np.float64))
    assert (u.mean(), u.std(), u[24, 64, 64], u[10, 40, 70]) == pytest.approx((0.21125, 0.23513, 0.08184, 0.16584), abs=6e-6)


@pytest.mark.parametrize("dataset", CARDED, ids=lambda c: c.__name__)
def test_a_volume_is_what_its_card_says(dataset):
    card = cards.load(dataset.card)
    if fetch.cached(dataset.card) is None:
        pytest.skip(f"{dataset.card} is not in the cache (unstir data get {dataset.card})")
    (item,) = dataset(every=1).load()
    values = item[volume.name_of(item)]
    assert values.shape == card.shape
    np.testing.assert_allclose(volume.spacing_of(item), [float(s.split()[0]) for s in card.spacing], rtol=1e-6)
    low = card.range[0] if card.range[0] >= -1024 or dataset.modality == "MR" else -1024  # padding is read as air
    assert (float(values.min()), float(values.max())) == (low, card.range[1])
    assert item.attrs["key"] == dataset.card.split("/")[1]


def test_every_second_slice_keeps_its_place():
    (item,), (whole,) = datasets.Lung1(every=2).load(), datasets.Lung1().load()
    np.testing.assert_array_equal(item["hu"], whole["hu"][::2])
    np.testing.assert_allclose(item.z, whole.z[::2])
    assert volume.spacing_of(item)[0] == 10.0
    with pytest.raises(UserError, match="every must be at least 1, got 0"):
        datasets.Lung1(every=0)


def test_a_file_of_ones_own_is_a_dataset(tmp_path):
    path = fetch.get("medical/lung1")
    (item,) = datasets.FileVolume(str(path), every=4).load()
    assert item.attrs["key"] == "lung1"
    assert item.sizes["z"] == 12
    with pytest.raises(DataError, match="does not exist"):
        list(datasets.FileVolume(str(tmp_path / "no.nii")).load())


def test_roles_are_by_subject():
    roles = {}
    for name in cards.names():
        card = cards.load(name)
        assert roles.setdefault(card.subject, card.split) == card.split, card.subject
    assert cards.load("medical/lung1").split == cards.load("medical/lung1-full").split == cards.load("medical/head").split == "test"


def test_the_sample_is_ordinary_nifti():
    assert read(fetch.get("medical/lung1")).attrs["orientation"] == "LPS"
