"""Writers: round trips, the source's affine, cards, whole files only."""

import json
import os

import nibabel
import numpy as np
import pytest

from unstir.errors import DataError, UserError
from unstir_medical import volume as v
from unstir_medical.readers import read
from unstir_medical.writers import SUFFIXES, reconstruction_card, write


@pytest.fixture
def volume():
    hu = np.random.default_rng(0).integers(-1000, 900, (6, 8, 10))
    hu[:, 0] = -1000
    affine = np.array([[2.0, 0, 0, -7.25], [0, 2.0, 0, 3.5], [0, 0, 5.0, 11], [0, 0, 0, 1]])
    return v.build(hu, affine, key="case", source="source")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("orientation", ["LPS", "RAS", "SAL", "PIR"])
def test_a_volume_comes_back_as_it_was_written(tmp_path, volume, suffix, orientation):
    written = write(volume.assign_attrs(orientation=orientation), tmp_path / f"out{suffix}")
    back = read(written[0])
    np.testing.assert_array_equal(back["hu"], volume["hu"])
    np.testing.assert_allclose(v.affine_of(back), v.affine_of(volume), atol=1e-5)
    assert back.attrs["orientation"] == orientation
    for axis in "zyx":
        np.testing.assert_allclose(back[axis], volume[axis], atol=1e-5)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_an_oblique_volume_keeps_its_affine(tmp_path, volume, suffix):
    turn = np.eye(4)
    turn[:3, :3] = [[np.cos(0.3), -np.sin(0.3), 0], [np.sin(0.3), np.cos(0.3), 0], [0, 0, 1]]
    oblique = v.dataset(volume["hu"].values, turn @ v.affine_of(volume), volume.attrs)
    back = read(write(oblique, tmp_path / f"out{suffix}")[0])
    np.testing.assert_allclose(v.affine_of(back), v.affine_of(oblique), atol=1e-5)


def test_a_reconstruction_overlays_its_source_voxel_by_voxel(tmp_path, volume):
    """NIfTI in (axes L A S, left-handed), working grid, NIfTI out: same shape, same affine, whole HU."""
    moved, affine = v.oriented(volume["hu"].values, v.affine_of(volume), "LAS")
    nibabel.save(nibabel.Nifti1Image(moved.astype(np.int16), np.diag([-1.0, -1, 1, 1]) @ affine), tmp_path / "in.nii.gz")
    work = v.prepare(read(tmp_path / "in.nii.gz"), 5)
    out = nibabel.load(write(v.restore(work), tmp_path / "out.nii.gz")[0])
    source = nibabel.load(tmp_path / "in.nii.gz")
    assert out.shape == source.shape
    assert out.get_data_dtype() == np.int16
    np.testing.assert_allclose(out.affine, source.affine, atol=1e-4)
    assert nibabel.aff2axcodes(out.affine) == ("L", "A", "S")
    assert int(out.header["sform_code"]) == int(out.header["qform_code"]) == 1
    np.testing.assert_allclose(out.header.get_qform(), source.affine, atol=1e-4)


def test_a_card_says_how_it_was_made(tmp_path, volume):
    card = reconstruction_card(operator="parallel beam, 8 views", seed=3, noise="none", prior_sha256="ab" * 32, method="dds")
    volume_file, card_file = write(volume, tmp_path / "deep" / "case.nii.gz", card=card)
    assert card_file.name == "case.json"
    said = json.loads(card_file.read_text())
    assert said["operator"] == "parallel beam, 8 views"
    assert (said["seed"], said["noise"], said["prior_sha256"], said["method"]) == (3, "none", "ab" * 32, "dds")
    assert said["geometry"]["shape"] == [6, 8, 10]
    assert volume_file.exists()


def test_ct_is_rounded_and_a_standard_deviation_is_not(tmp_path, volume):
    volume = volume.assign(hu=volume.hu + 0.4, hu_std=volume.hu * 0 + 12.25)
    np.testing.assert_array_equal(read(write(volume, tmp_path / "a.nii.gz")[0])["hu"], np.rint(volume.hu))
    spread = write(volume, tmp_path / "b.nii.gz", variable="hu_std")[0]
    np.testing.assert_array_equal(nibabel.load(spread).get_fdata(), np.full((10, 8, 6), 12.25))


def test_values_beyond_int16_are_kept_as_float(tmp_path, volume):
    volume["hu"][0, 3, 3] = 70000
    with pytest.warns(UserWarning, match="clipped where the state unit is used"):
        assert read(write(volume, tmp_path / "a.nii.gz")[0])["hu"].max() == 70000


def test_the_same_volume_is_the_same_bytes(tmp_path, volume):
    one, two = (write(volume, tmp_path / name / "v.nii.gz")[0].read_bytes() for name in "ab")
    assert one == two


def test_mr_comes_back_as_mr(tmp_path, volume):
    mr = v.build(volume["hu"].values + 1000.5, v.affine_of(volume), key="case", modality="MR")
    for suffix in (".nii.gz", ".nrrd", ".npz"):
        back = read(write(mr, tmp_path / f"a{suffix}")[0], modality="MR")
        np.testing.assert_array_equal(back["intensity"], mr["intensity"])


def test_nothing_half_written_is_left(tmp_path, volume, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="a.nii.gz was not written: No space left on device"):
        write(volume, tmp_path / "a.nii.gz")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_named(tmp_path, volume):
    with pytest.raises(UserError, match="no suffix that a volume can be written to; use one of .nii.gz"):
        write(volume, tmp_path / "a.png")
    with pytest.raises(UserError, match="no variable 'hu_std'"):
        write(volume, tmp_path / "a.nii", variable="hu_std")
    volume["hu"][0, 0, 0] = np.nan
    with pytest.raises(DataError, match="1 voxels are NaN or infinite"):
        write(volume, tmp_path / "a.nii")
    (tmp_path / "file").write_text("")
    volume["hu"][0, 0, 0] = 0
    with pytest.raises(DataError, match="was not written"):
        write(volume, tmp_path / "file" / "a.nii")
