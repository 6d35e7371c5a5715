"""NRRD: directions, spaces, component axes."""

import gzip

import numpy as np
import pytest

from unstir.errors import DataError
from unstir_medical.readers import read
from unstir_medical.volume import spacing_of


@pytest.fixture
def hu():
    values = np.random.default_rng(0).integers(-1000, 900, (6, 8, 10))
    values[:, 0] = -1000
    return values.astype(np.int16)  # (z, y, x), LPS; cells 5 x 2 x 2 mm, first at (-7, 3, 11)


def save(path, values, directions="(2,0,0) (0,2,0) (0,0,5)", origin="(-7,3,11)", space="left-posterior-superior", more="", encoding="raw"):
    """An NRRD file written by hand: values (k, j, i) or (k, j, i, component)."""
    sizes = " ".join(str(n) for n in values.shape[::-1])
    lines = [
        "NRRD0004",
        "# a comment: with a colon",
        "type: short",
        f"dimension: {values.ndim}",
        f"sizes: {sizes}",
        "endian: little",
        f"encoding: {encoding}",
    ]
    lines += (
        [f"space: {space}"] * bool(space)
        + [f"space directions: {directions}"] * bool(directions)
        + [f"space origin: {origin}"] * bool(origin)
    )
    data = values.astype("<i2").tobytes()
    text = "\n".join([*lines, *([more] if more else [])]) + "\n\n"
    path.write_bytes(text.encode() + (gzip.compress(data) if encoding == "gzip" else data))
    return path


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def test_the_array_comes_in_patient_order(tmp_path, hu, encoding):
    volume = read(save(tmp_path / "chest.nrrd", hu, encoding=encoding))
    np.testing.assert_array_equal(volume["hu"], hu)
    assert spacing_of(volume) == (5, 2, 2)
    np.testing.assert_allclose([volume.x[0], volume.y[0], volume.z[0]], [-7, 3, 11])


def test_negative_directions_are_flipped_back(tmp_path, hu):
    path = save(tmp_path / "a.nrrd", hu[:, ::-1, ::-1], "(-2,0,0) (0,-2,0) (0,0,5)", "(11,17,11)")
    volume = read(path)
    np.testing.assert_array_equal(volume["hu"], hu)
    np.testing.assert_allclose([volume.x[0], volume.y[0]], [-7, 3])
    assert volume.attrs["orientation"] == "RAS"


@pytest.mark.parametrize(
    ("space", "directions", "origin"),
    [
        ("right-anterior-superior", "(-2,0,0) (0,-2,0) (0,0,5)", "(7,-3,11)"),
        ("RAS", "(-2,0,0) (0,-2,0) (0,0,5)", "(7,-3,11)"),
        ("left-anterior-superior", "(2,0,0) (0,-2,0) (0,0,5)", "(-7,-3,11)"),
        ("LPS", "(2,0,0) (0,2,0) (0,0,5)", "(-7,3,11)"),
    ],
)
def test_other_spaces_mean_the_same_patient(tmp_path, hu, space, directions, origin):
    volume = read(save(tmp_path / "a.nrrd", hu, directions, origin, space))
    np.testing.assert_array_equal(volume["hu"], hu)
    np.testing.assert_allclose([volume.x[0], volume.y[0], volume.z[0]], [-7, 3, 11])


@pytest.mark.parametrize("none", ["none", "(nan,nan,nan)"])
def test_a_component_axis_needs_an_index(tmp_path, hu, none):
    both = np.stack([hu, hu + 5], -1)
    path = save(tmp_path / "two.nrrd", both, f"{none} (2,0,0) (0,2,0) (0,0,5)", more="kinds: vector domain domain domain")
    with pytest.raises(DataError, match=r"holds 2 volumes of .*index=0..1"):
        read(path)
    np.testing.assert_array_equal(read(path, index=1)["hu"], hu + 5)
    single = save(tmp_path / "one.nrrd", hu[..., None], f"{none} (2,0,0) (0,2,0) (0,0,5)", more="kinds: vector domain domain domain")
    volume = read(single)
    np.testing.assert_array_equal(volume["hu"], hu)
    assert spacing_of(volume) == (5, 2, 2)


def test_a_series_axis_needs_an_index(tmp_path, hu):
    both = np.stack([hu, hu + 5])
    path = save(tmp_path / "t.nrrd", both, "(2,0,0) (0,2,0) (0,0,5) none", more="kinds: domain domain domain list")
    with pytest.raises(DataError, match="holds 2 volumes"):
        read(path)
    np.testing.assert_array_equal(read(path, index=1)["hu"], hu + 5)


def test_without_a_space_the_axes_are_taken_as_lps_aloud(tmp_path, hu):
    path = save(tmp_path / "a.nrrd", hu, directions="", origin="", space="", more="spacings: 2 2 5")
    with pytest.warns(UserWarning, match="names no space"):
        volume = read(path)
    np.testing.assert_array_equal(volume["hu"], hu)
    assert spacing_of(volume) == (5, 2, 2)


def test_an_unknown_space_is_refused(tmp_path, hu):
    with pytest.raises(DataError, match="space 'scanner-xyz'; readable are LPS, RAS and LAS"):
        read(save(tmp_path / "a.nrrd", hu, space="scanner-xyz"))


def test_damaged_files_and_2d_images_are_named(tmp_path, hu):
    whole = save(tmp_path / "a.nrrd", hu).read_bytes()
    (tmp_path / "cut.nrrd").write_bytes(whole[:-100])
    (tmp_path / "text.nrrd").write_text("hello")
    for name in ("cut.nrrd", "text.nrrd"):
        with pytest.raises(DataError, match=name):
            read(tmp_path / name)
    flat = save(tmp_path / "flat.nrrd", hu[0], "(2,0) (0,2)", "(0,0)", space="", more="space dimension: 2")
    with pytest.raises(DataError, match="flat.nrrd"):
        read(flat)
