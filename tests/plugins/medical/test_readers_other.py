"""NumPy and InVesalius files, and the door that finds the format."""

import io
import json
import plistlib
import tarfile

import numpy as np
import pytest

from unstir.errors import DataError, MissingExtra
from unstir_data import fetch
from unstir_medical.readers import read
from unstir_medical.volume import affine_of, spacing_of


@pytest.fixture
def hu():
    values = np.random.default_rng(0).integers(-1000, 900, (6, 8, 10))
    values[:, 0] = -1000
    return values.astype(np.int16)  # (z, y, x), LPS


def test_a_bare_array_is_read_with_1_mm_cells_aloud(tmp_path, hu):
    np.save(tmp_path / "a.npy", hu)
    with pytest.warns(UserWarning, match="no geometry: cells are taken to be 1 mm"):
        volume = read(tmp_path / "a.npy")
    np.testing.assert_array_equal(volume["hu"], hu)
    assert spacing_of(volume) == (1, 1, 1)
    assert spacing_of(read(tmp_path / "a.npy", spacing=(5, 2, 2))) == (5, 2, 2)


def test_geometry_beside_or_inside_is_used(tmp_path, hu):
    np.save(tmp_path / "a.npy", hu)
    (tmp_path / "a.json").write_text(json.dumps({"geometry": {"spacing_mm": [5, 2, 2]}}))
    assert spacing_of(read(tmp_path / "a.npy")) == (5, 2, 2)
    affine = np.array([[2.0, 0, 0, -7], [0, 2, 0, 3], [0, 0, 5, 11], [0, 0, 0, 1]])
    np.savez(tmp_path / "b.npz", anything=hu, affine=affine)
    np.testing.assert_allclose(affine_of(read(tmp_path / "b.npz")), affine)


@pytest.mark.parametrize("dtype", [np.int32, np.float64, np.float32, np.int64])
def test_other_number_types_read_the_same(tmp_path, hu, dtype):
    np.save(tmp_path / "a.npy", hu.astype(dtype))
    np.testing.assert_array_equal(read(tmp_path / "a.npy", spacing=1.0)["hu"], hu)


def test_what_is_not_one_volume_is_named(tmp_path, hu):
    def refuse(name, sentence, **options):
        with pytest.raises(DataError, match=sentence):
            read(tmp_path / name, **options)

    np.save(tmp_path / "2d.npy", hu[0])
    refuse("2d.npy", "2D image")
    np.save(tmp_path / "4d.npy", np.stack([hu, hu]))
    refuse("4d.npy", r"holds 2 volumes of \(6, 8, 10\); choose one with index=0..1")
    assert read(tmp_path / "4d.npy", index=1, spacing=1)["hu"].shape == hu.shape
    np.savez(tmp_path / "two.npz", a=hu, b=hu)
    refuse("two.npz", r"2 arrays that could be a volume \(a, b\)")
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    refuse("o.npy", "is not a NumPy array that can be read")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "two.npz").read_bytes()[:200])
    refuse("cut.npz", "cut.npz is not a NumPy array")
    np.save(tmp_path / "a.npy", hu)
    refuse("a.npy", "spacing must be three positive sizes", spacing=(5, 0, 2))
    refuse("a.npy", "the option 'series' does not apply to this format", series=3)
    (tmp_path / "a.json").write_text("{")
    refuse("a.npy", "a.json, beside a.npy, is not JSON")
    np.save(tmp_path / "u.npy", (hu.clip(-1000, 1000) + 1000) / 2000)
    refuse("u.npy", "not in HU.*scaled already", spacing=1)


def project(path, hu, top="tmpxyz", cut=0, **changes):
    plist = {
        "matrix": {"dtype": "int16", "filename": "matrix.dat", "shape": list(hu.shape)},
        "spacing": [2.0, 1.5, 5.0],
        "modality": "CT",
        "orientation": 1,
        **changes,
    }
    data = hu[:, ::-1].astype("<i2").tobytes()
    with tarfile.open(path, "w:gz") as archive:
        for name, raw in (("main.plist", plistlib.dumps(plist)), ("matrix.dat", data[: len(data) - cut])):
            info = tarfile.TarInfo(f"{top}/{name}")
            info.size = len(raw)
            archive.addfile(info, io.BytesIO(raw))
    return path


def test_an_invesalius_project_is_read(tmp_path, hu):
    volume = read(project(tmp_path / "Skull.inv3", hu))
    np.testing.assert_array_equal(volume["hu"], hu)
    assert spacing_of(volume) == (5.0, 1.5, 2.0)
    assert volume.attrs["key"] == "Skull"
    np.testing.assert_allclose([volume.x[0], volume.y[0], volume.z[0]], 0, atol=1e-9)


def test_a_broken_invesalius_project_is_named(tmp_path, hu):
    with pytest.raises(DataError, match="is truncated: matrix.dat has 950 bytes"):
        read(project(tmp_path / "a.inv3", hu, cut=10))
    with pytest.raises(DataError, match="is MRI by its own word"):
        read(project(tmp_path / "a.inv3", hu, modality="MRI"))
    with pytest.raises(DataError, match="not an InVesalius project"):
        read(project(tmp_path / "a.inv3", hu, matrix={}))
    with pytest.raises(DataError, match="no usable geometry"):
        read(project(tmp_path / "a.inv3", hu, spacing=[1.0, 0.0, 1.0]))
    (tmp_path / "b.inv3").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match="b.inv3 is not an InVesalius project"):
        read(tmp_path / "b.inv3")


def test_the_real_head_lies_on_its_back():
    path = fetch.cached("medical/head")
    if path is None:
        pytest.skip("medical/head is not in the cache (unstir data get medical/head)")
    volume = read(path)
    assert volume["hu"].shape == (108, 256, 256)
    assert spacing_of(volume) == pytest.approx((1.5, 0.957, 0.957), abs=1e-3)
    assert (float(volume["hu"].min()), float(volume["hu"].max())) == (-1024, 2986)
    middle = volume["hu"].isel(z=slice(10, 30))
    air = (middle < -300).mean("x").mean("z")
    assert float(air[:20].mean()) > 0.95  # nothing in front of the nose
    assert float(air[-30:].mean()) < 0.99  # the headrest lies behind


def test_missing_files_and_things_that_are_no_volumes_are_named(tmp_path):
    with pytest.raises(DataError, match="nowhere.nii.gz does not exist"):
        read(tmp_path / "nowhere.nii.gz")
    for name, start, sentence in [
        ("a.png", b"\x89PNG\r\n\x1a\n", r"a.png is a 2D image \(PNG\), not a volume; readable are NIfTI"),
        ("scan", b"\xff\xd8\xff\xe0", r"2D image \(JPEG\)"),
        ("b.pdf", b"%PDF-1.4", r"not a volume that unstir can read \(it starts like a PDF\)"),
        ("c.txt", b"hello", "c.txt is not a volume that unstir can read; readable are"),
        ("d", b"", "d is not a volume that unstir can read"),
    ]:
        (tmp_path / name).write_bytes(start)
        with pytest.raises(DataError, match=sentence):
            read(tmp_path / name)


def test_the_format_is_found_by_content_where_the_name_says_nothing(tmp_path, hu):
    import nibabel

    nibabel.save(nibabel.Nifti1Image(hu.transpose(2, 1, 0), np.diag([-2.0, -2, 5, 1])), tmp_path / "a.nii")
    (tmp_path / "a.nii").rename(tmp_path / "volume")
    with pytest.raises(DataError, match="volume is NIfTI by its content; give it the suffix .nii"):
        read(tmp_path / "volume")
    nibabel.save(nibabel.Nifti1Image(hu.transpose(2, 1, 0), np.diag([-2.0, -2, 5, 1])), tmp_path / "B.NII.GZ")
    assert read(tmp_path / "B.NII.GZ").attrs["key"] == "B"


def test_a_missing_parser_names_the_extra(tmp_path, hu, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "nibabel", None)
    (tmp_path / "a.nii").write_bytes(bytes(400))
    with pytest.raises(MissingExtra, match=r"needs nibabel: pip install 'unstir\[medical\]'"):
        read(tmp_path / "a.nii")
