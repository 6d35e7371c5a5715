"""Volumes: the dataset convention, checks, grids."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unstir.errors import DataError, UserError
from unstir_medical import volume as v


def body(shape=(6, 8, 10), seed=0):
    hu = np.random.default_rng(seed).uniform(-100, 900, shape).astype(np.float32)
    hu[:, 0] = -1000
    return hu


def make(hu=None, spacing=(5.0, 2.0, 2.0), origin=(-7.0, 3.0, 11.0), **options):
    affine = np.diag([*spacing[::-1], 1.0])
    affine[:3, 3] = origin
    return v.build(body() if hu is None else hu, affine, key="case", **options)


def world(volume, index_zyx):
    return (v.affine_of(volume) @ [*index_zyx[::-1], 1.0])[:3]


def test_units_are_inverse_inside_the_window_and_clipped_outside():
    hu = np.array([-3024, -1000, 0, 500, 1000, 3071], dtype=np.int16)
    u = v.to_unit(hu)
    assert u.dtype == np.float32
    np.testing.assert_allclose(u, [0, 0, 0.5, 0.75, 1, 1])
    np.testing.assert_allclose(v.from_unit(u)[1:5], hu[1:5], atol=1e-4)
    assert v.to_unit(40.0) == 0.52
    assert torch.equal(v.to_unit(torch.tensor([-1000.0, 0.0])), torch.tensor([0.0, 0.5]))


def test_a_volume_carries_coordinates_spacing_and_affine():
    volume = make()
    assert volume["hu"].dims == ("z", "y", "x")
    assert volume["hu"].dtype == np.float32
    assert v.spacing_of(volume) == (5.0, 2.0, 2.0)
    np.testing.assert_allclose(volume.x[:3], [-7, -5, -3])
    np.testing.assert_allclose(volume.z[:3], [11, 16, 21])
    np.testing.assert_allclose(world(volume, (2, 1, 3)), [volume.x[3], volume.y[1], volume.z[2]])


@pytest.mark.parametrize("order", itertools.permutations("xyz"))
@pytest.mark.parametrize("flips", itertools.product([1, -1], repeat=3))
def test_every_axis_order_and_direction_gives_the_same_volume(order, flips):
    truth = make()
    letters = "".join(v.LETTERS["xyz".index(axis)][int(flip > 0)] for axis, flip in zip(order, flips, strict=True))
    values, affine = v.oriented(truth["hu"].values, v.affine_of(truth), letters)
    back = v.build(values.transpose(2, 1, 0), affine, key="case")
    np.testing.assert_array_equal(back["hu"], truth["hu"])
    np.testing.assert_allclose(v.affine_of(back), v.affine_of(truth), atol=1e-12)
    assert back.attrs["orientation"] == letters
    assert np.sign(np.linalg.det(affine)) == np.prod(flips) * (1 if order in (("x", "y", "z"), ("y", "z", "x"), ("z", "x", "y")) else -1)


def test_an_oblique_volume_keeps_its_turned_affine_and_its_spacing():
    angle = np.radians(20)
    affine = np.eye(4)
    affine[:3, :3] = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]]) * [2.0, 2.0, 5.0]
    volume = v.build(body(), affine, key="case")
    np.testing.assert_allclose(v.affine_of(volume), affine)
    np.testing.assert_allclose(v.spacing_of(volume), (5, 2, 2))
    np.testing.assert_allclose(np.diff(volume.x), 2)


def test_padding_below_minus_1024_becomes_air():
    hu = body()
    hu[0, 0, :4] = [-1024, -1500, -2000, -3024]
    np.testing.assert_array_equal(make(hu)["hu"][0, 0, :4], [-1024, -1000, -1000, -1000])


@pytest.mark.parametrize(
    ("values", "options", "sentence"),
    [
        (
            np.where(np.arange(480).reshape(6, 8, 10) == 7, np.nan, body()),
            {},
            r"1 voxels that are NaN or infinite, the first at index \(0, 0, 7\)",
        ),
        (np.where(np.arange(480).reshape(6, 8, 10) >= 478, np.inf, body()), {}, "2 voxels that are NaN or infinite"),
        (np.full((6, 8, 10), -1000.0), {}, "is constant: every voxel is -1000"),
        (
            body() * 0 + np.linspace(0, 1187, 10),
            {},
            "does not look like CT: values run from 0 to 1187 and CT in HU reaches below -900 in air. If it is CT, rescale to HU",
        ),
        (
            np.random.default_rng(0).random((6, 8, 10)),
            {},
            r"is not in HU: values run from .* scaled already; bring it back with HU = 2000 u - 1000",
        ),
        (body(), {"modality": "MR"}, "does not look like MR: values run from -1000"),
        (body()[0], {}, "is not a volume: its shape is"),
        (body().astype(complex), {}, "complex64|complex128 values; a volume holds real numbers"),
    ],
)
def test_values_that_cannot_be_a_volume_are_named_in_a_sentence(values, options, sentence):
    with pytest.raises(DataError, match=sentence):
        v.build(values, np.diag([2.0, 2.0, 5.0, 1.0]), key="case", source="knee.nii.gz", **options)


def test_a_crop_without_air_is_read_when_the_range_is_not_checked():
    assert make(body() * 0 + np.linspace(0, 80, 10, dtype=np.float32), check_range=False)["hu"].max() == 80


def test_a_geometry_that_cannot_be_inverted_is_refused():
    for affine in (np.zeros((4, 4)), np.diag([1, 1, 0, 1]), np.diag([np.nan, 1, 1, 1])):
        with pytest.raises(DataError, match="no usable geometry"):
            v.build(body(), affine, key="case")


def test_block_mean_is_the_mean_and_keeps_cell_centres():
    volume = make()
    coarse = v.block_mean(volume, (3, 2, 5))
    np.testing.assert_allclose(coarse["hu"][1, 2, 1], volume["hu"].values[3:6, 4:6, 5:10].mean(), rtol=1e-6)
    np.testing.assert_allclose(coarse.z, volume.z.values.reshape(2, 3).mean(1))
    np.testing.assert_allclose(coarse.x, volume.x.values.reshape(2, 5).mean(1))
    assert v.spacing_of(coarse) == (15.0, 4.0, 10.0)
    with pytest.raises(UserError, match="cannot be cut into blocks"):
        v.block_mean(volume, 3)


def test_resampling_at_a_whole_ratio_is_the_block_mean():
    volume = make()
    by_blocks, by_size = v.block_mean(volume, (1, 2, 2)), v.resample(volume, (None, 4.0, 4.0))
    np.testing.assert_allclose(by_size["hu"], by_blocks["hu"], atol=1e-3)
    np.testing.assert_allclose(by_size.y, by_blocks.y)


@settings(max_examples=40, deadline=None)
@given(spacing=st.tuples(*[st.floats(0.7, 9.0)] * 3))
def test_resampling_keeps_a_linear_field_and_patient_coordinates(spacing):
    volume = make(spacing=(5.0, 2.0, 1.5))
    linear = volume.assign(hu=(volume.z * 3 + volume.y * 2 - volume.x).astype(np.float32) + 0 * volume.hu)
    new = v.resample(linear, spacing)
    np.testing.assert_allclose(v.spacing_of(new), spacing, rtol=1e-9)
    # cells wholly inside the old centres: at the rim values are clamped or averaged over what is there
    inner = new.sel(
        **{a: [float(c) for c in new[a] if linear[a][0] + s <= c <= linear[a][-1] - s] for a, s in zip("zyx", spacing, strict=True)}
    )
    expected = (inner.z * 3 + inner.y * 2 - inner.x).broadcast_like(inner.hu)
    # area means of a linear field sampled in old cells err by up to a quarter of an old cell an axis
    np.testing.assert_allclose(inner["hu"], expected, atol=0.25 * (3 * 5 + 2 * 2 + 1.5) + 1e-2)
    if all(s <= o for s, o in zip(spacing, (5.0, 2.0, 1.5), strict=True)):
        np.testing.assert_allclose(inner["hu"], expected, atol=1e-2)


def test_a_spacing_must_be_positive():
    with pytest.raises(UserError, match="must be positive"):
        v.resample(make(), 0.0)


@pytest.mark.parametrize("shape", [(3, 20, 20), (3, 21, 33), (2, 7, 5)])
@pytest.mark.parametrize("size", [16, 8, None])
def test_prepare_gives_a_square_grid_and_restore_the_source_grid(shape, size):
    volume = make(body(shape))
    work = v.prepare(volume, size)
    side = max(shape[1:]) if size is None else size
    assert work["hu"].shape == (shape[0], side, side)
    assert float(work["hu"].max()) <= 1000
    back = v.restore(work)
    assert back["hu"].shape == shape
    np.testing.assert_allclose(v.affine_of(back), v.affine_of(volume), atol=1e-9)
    for axis in "zyx":
        np.testing.assert_allclose(back[axis], volume[axis], atol=1e-9)
    assert "source_shape" not in back.attrs
    if size is None:
        np.testing.assert_allclose(back["hu"], volume["hu"], atol=1e-3)


def test_prepare_keeps_a_point_where_it_was():
    hu = np.full((3, 30, 40), -1000.0, dtype=np.float32)
    hu[1, 12:16, 20:24] = 900
    volume = make(hu)
    work = v.prepare(volume, 10)
    for each in (volume, work, v.restore(work)):
        mass = each["hu"] + 1000
        for axis, expected in (("y", volume.y[12:16].mean()), ("x", volume.x[20:24].mean())):
            assert abs(float((mass * each[axis]).sum() / mass.sum() - expected)) < 0.5  # mm; a cell has 2


def test_prepare_makes_pixels_square():
    work = v.prepare(make(spacing=(5.0, 2.0, 1.0)), None)
    assert v.spacing_of(work) == (5.0, 1.0, 1.0)
    assert v.spacing_of(v.restore(work)) == (5.0, 2.0, 1.0)


def test_restore_moves_every_variable_of_an_estimate():
    work = v.prepare(make(), 4)
    work = work.assign(hu_std=work.hu * 0 + 7, samples=(("sample", "z", "y", "x"), np.stack([work.hu.values] * 2)))
    back = v.restore(work)
    assert back["samples"].shape == (2, 6, 8, 10)
    np.testing.assert_allclose(back["hu_std"], 7, rtol=1e-5)
    np.testing.assert_allclose(back["samples"][1], back["hu"], rtol=1e-5)


def test_a_volume_survives_netcdf(tmp_path):
    import xarray as xr

    work = v.prepare(make(), 4)
    work.to_netcdf(tmp_path / "v.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "v.nc", engine="h5netcdf") as read:
        np.testing.assert_allclose(v.affine_of(read), v.affine_of(work))
        assert v.spacing_of(read) == v.spacing_of(work)
        np.testing.assert_allclose(v.restore(read)["hu"], v.restore(work)["hu"])


@pytest.mark.parametrize("tilt", [0.0, 18.5, -12.0])
def test_straightening_brings_a_tilted_stack_back_to_its_place(tilt):
    """A linear field of patient coordinates, seen by tilted slices of uneven spacing, is the same field afterwards."""
    angle = np.radians(tilt)
    column, row = np.array([2.0, 0, 0]), 2.0 * np.array([0, np.cos(angle), -np.sin(angle)])
    heights = np.array([0.0, 4, 8, 9, 16, 20])
    positions = np.stack([np.array([-10.0, 5.0, z]) for z in heights])
    j, i = np.mgrid[:12, :9]
    points = positions[:, None, None] + i[..., None] * column + j[..., None] * row
    field = points @ [3.0, -2.0, 5.0]
    values, affine = v.straighten(field, positions, column, row, fill=np.nan)
    assert v.shear(affine) < 1e-12
    k, j, i = np.mgrid[: values.shape[0], : values.shape[1], : values.shape[2]]
    expected = (np.stack([i, j, k, np.ones_like(i)], -1) @ affine.T)[..., :3] @ [3.0, -2.0, 5.0]
    inside = np.isfinite(values)
    assert inside.mean() > 0.5
    np.testing.assert_allclose(values[inside], expected[inside], atol=1e-3)  # float32 of numbers up to 200


def test_a_sheared_affine_is_refused_or_straightened():
    affine = np.diag([2.0, 2.0, 5.0, 1.0])
    affine[1, 2] = 1.5
    with pytest.raises(DataError, match="sheared.*resample=True"):
        v.build(body(), affine, key="case")
    straight = v.build(body(), affine, key="case", resample=True)
    assert v.shear(v.affine_of(straight)) < 1e-12
    np.testing.assert_allclose(v.spacing_of(straight), (5, 2, 2))
    affine[0, 1] = 1.0
    with pytest.raises(DataError, match="rows and columns"):
        v.build(body(), affine, key="case", resample=True)
