"""NIfTI: every trap of the header."""

import gzip
import itertools

import nibabel
import numpy as np
import pytest

from unstir.errors import DataError
from unstir_medical.readers import read
from unstir_medical.volume import affine_of, spacing_of

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


@pytest.fixture
def hu():
    values = np.random.default_rng(0).integers(-1000, 900, (6, 8, 10))
    values[:, 0] = -1000
    return values.astype(np.int16)  # (z, y, x), LPS


def save(path, hu, affine=None, **fields):
    """An LPS-ordered array (z, y, x) with cells of 5 x 2 x 2 mm, as NIfTI."""
    lps = np.array([[2.0, 0, 0, -7], [0, 2, 0, 3], [0, 0, 5, 11], [0, 0, 0, 1]])
    image = nibabel.Nifti1Image(hu.transpose(2, 1, 0), LPS @ lps if affine is None else affine)
    image.header.set_xyzt_units("mm")
    for name, value in fields.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


def patched(path, **fields):
    """Change header fields of a .nii that nibabel would mend or refuse when saving."""
    raw = bytearray(path.read_bytes())
    header = nibabel.Nifti1Header(bytes(raw[:348]), check=False)
    for name, value in fields.items():
        header[name] = value
    raw[:348] = header.binaryblock
    path.write_bytes(raw)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_the_array_comes_in_patient_order_with_patient_coordinates(tmp_path, hu, suffix):
    volume = read(save(tmp_path / f"chest{suffix}", hu))
    np.testing.assert_array_equal(volume["hu"], hu)
    assert volume.attrs["key"] == "chest"
    assert spacing_of(volume) == (5, 2, 2)
    np.testing.assert_allclose([volume.x[0], volume.y[0], volume.z[0]], [-7, 3, 11])


@pytest.mark.parametrize(
    ("order", "flips"), list(itertools.product(itertools.permutations(range(3)), itertools.product([1, -1], repeat=3)))[::5]
)
def test_every_orientation_and_handedness_is_the_same_volume(tmp_path, hu, order, flips):
    straight = read(save(tmp_path / "a.nii", hu))
    source = nibabel.load(tmp_path / "a.nii")
    turned = source.as_reoriented(np.stack([order, flips], 1))
    assert (np.linalg.det(turned.affine) > 0) in (True, False)
    nibabel.save(turned, tmp_path / "b.nii")
    other = read(tmp_path / "b.nii")
    np.testing.assert_array_equal(other["hu"], straight["hu"])
    np.testing.assert_allclose(affine_of(other), affine_of(straight), atol=1e-4)


def test_scaling_is_applied_and_a_slope_of_nan_or_zero_counts_as_one(tmp_path, hu):
    np.testing.assert_allclose(read(patched(save(tmp_path / "s.nii", hu), scl_slope=0.5, scl_inter=-450))["hu"], hu * 0.5 - 450)
    for slope, inter in [(0, 0), (np.nan, np.nan), (0, 7), (np.nan, 7), (np.inf, 0)]:
        np.testing.assert_array_equal(read(patched(save(tmp_path / "s.nii", hu), scl_slope=slope, scl_inter=inter))["hu"], hu)
    with pytest.raises(DataError, match="invalid intercept"):
        read(patched(save(tmp_path / "s.nii", hu), scl_slope=2, scl_inter=np.nan))


@pytest.mark.parametrize("dtype", [np.int32, np.float32, np.float64, ">i2"])
def test_ct_of_other_number_types_reads_the_same(tmp_path, hu, dtype):
    np.testing.assert_array_equal(read(save(tmp_path / "a.nii", hu.astype(dtype)))["hu"], hu)


def test_four_dimensions_need_an_index(tmp_path, hu):
    series = np.stack([hu, hu + 1, hu + 2], -1).transpose(2, 1, 0, 3)
    nibabel.save(nibabel.Nifti1Image(series, LPS), tmp_path / "4d.nii")
    with pytest.raises(DataError, match=r"holds 3 volumes of \(10, 8, 6\); choose one with index=0..2"):
        read(tmp_path / "4d.nii")
    with pytest.raises(DataError, match=r"index=0..2 .*, got 3"):
        read(tmp_path / "4d.nii", index=3)
    np.testing.assert_array_equal(read(tmp_path / "4d.nii", index=2)["hu"], hu + 2)
    nibabel.save(nibabel.Nifti1Image(series[..., :1], LPS), tmp_path / "one.nii")
    np.testing.assert_array_equal(read(tmp_path / "one.nii")["hu"], hu)


def test_a_2d_image_is_not_a_volume(tmp_path, hu):
    nibabel.save(nibabel.Nifti1Image(hu[0].T, LPS), tmp_path / "2d.nii")
    with pytest.raises(DataError, match="2D image"):
        read(tmp_path / "2d.nii")


def test_without_sform_and_qform_the_voxel_sizes_are_used_aloud(tmp_path, hu):
    path = patched(save(tmp_path / "a.nii", hu), sform_code=0, qform_code=0)
    with pytest.warns(UserWarning, match="neither sform nor qform"):
        volume = read(path)
    assert spacing_of(volume) == (5, 2, 2)


def test_the_qform_is_used_where_there_is_no_sform(tmp_path, hu):
    image = nibabel.Nifti1Image(hu.transpose(2, 1, 0), None)
    turned = LPS @ np.array([[-2.0, 0, 0, 11], [0, 2, 0, 3], [0, 0, 5, 11], [0, 0, 0, 1]])  # left-handed: qfac -1
    image.set_qform(turned, code=1)
    image.set_sform(None, code=0)
    nibabel.save(image, tmp_path / "q.nii")
    volume = read(tmp_path / "q.nii")
    np.testing.assert_array_equal(volume["hu"], hu[:, :, ::-1])
    np.testing.assert_allclose(volume.x[0], -7, atol=1e-4)


def test_metres_and_micrometres_become_millimetres(tmp_path, hu):
    for units, factor in [("meter", 1e3), ("micron", 1e-3)]:
        image = nibabel.load(save(tmp_path / "a.nii", hu))
        image.header.set_xyzt_units(units)
        image.set_sform(np.diag([1 / factor, 1 / factor, 1 / factor, 1]) @ image.affine)
        nibabel.save(image, tmp_path / "b.nii")
        np.testing.assert_allclose(spacing_of(read(tmp_path / "b.nii")), (5, 2, 2), rtol=1e-5)


def test_shear_is_refused_or_straightened(tmp_path, hu):
    affine = LPS @ np.array([[2.0, 0, 0, 0], [0, 2, 1.5, 0], [0, 0, 5, 0], [0, 0, 0, 1]])
    path = save(tmp_path / "tilt.nii", hu, affine)
    with pytest.raises(DataError, match="tilt.nii is sheared"):
        read(path)
    assert spacing_of(read(path, resample=True)) == pytest.approx((5, 2, 2))


def test_an_mr_is_not_taken_for_ct(tmp_path, hu):
    path = save(tmp_path / "knee.nii.gz", (hu.astype(int) + 1000).astype(np.int16))
    with pytest.raises(DataError, match="knee.nii.gz does not look like CT: values run from 0 to 18"):
        read(path)
    assert "intensity" in read(path, modality="MR")


def test_nan_and_colour_and_complex_are_refused(tmp_path, hu):
    bad = hu.astype(np.float32)
    bad[1, 2, 3] = np.nan
    with pytest.raises(DataError, match=r"1 voxels that are NaN or infinite, the first at index \(1, 2, 3\)"):
        read(save(tmp_path / "n.nii", bad))
    rgb = np.zeros((4, 4, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    nibabel.save(nibabel.Nifti1Image(rgb, np.eye(4)), tmp_path / "rgb.nii")
    with pytest.raises(DataError, match="colour"):
        read(tmp_path / "rgb.nii")
    with pytest.raises(DataError, match="complex64"):
        read(save(tmp_path / "c.nii", hu.astype(np.complex64)))


def test_damaged_files_are_named(tmp_path, hu):
    whole = save(tmp_path / "a.nii.gz", hu).read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "short.nii").write_bytes(gzip.decompress(whole)[:600])
    (tmp_path / "text.nii").write_text("hello")
    (tmp_path / "empty.nii.gz").write_bytes(b"")
    for name in ("cut.nii.gz", "short.nii", "text.nii", "empty.nii.gz"):
        with pytest.raises(DataError, match=name):
            read(tmp_path / name)
