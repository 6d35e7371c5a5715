"""The CT operator: exact adjoint, golden numbers, closed forms, geometry that is refused."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unstir.errors import UserError
from unstir_medical.ct.geometry import ParallelGeometry, detectors_for, equal_angles
from unstir_medical.ct.joseph import expected_entries, joseph_matrix, joseph_rows
from unstir_medical.tomography import ParallelBeamCT, ViewByView, parallel_beam, simulate

UNEVEN = (0.0, 0.1, 0.75, 1.3, 2.9)
GEOMETRIES = {
    "even": ParallelGeometry(32, 32, equal_angles(8)),
    "odd": ParallelGeometry(33, 33, equal_angles(7)),
    "rectangle": ParallelGeometry(20, 31, equal_angles(6)),
    "uneven angles": ParallelGeometry(32, 32, UNEVEN),
    "detector offset": ParallelGeometry(32, 32, equal_angles(5), 2.28, offset_mm=1.7),
    "truncated detector": ParallelGeometry(32, 32, equal_angles(5), 1.5, detectors=17),
    "coarse detector": ParallelGeometry(32, 32, equal_angles(5), 1.5, detectors=20, detector_mm=3.4),
    "limited angle": ParallelGeometry(32, 32, equal_angles(9, 90.0)),
    "full turn": ParallelGeometry(32, 32, equal_angles(9, 360.0)),
    "one view": ParallelGeometry(16, 16, (0.4,)),
}


def dot_error(operator, dtype, seed=0):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(2, *operator.shape_in, generator=draw, dtype=dtype)
    y = torch.randn(2, *operator.shape_out, generator=draw, dtype=dtype)
    ax, aty = operator(x), operator.adjoint(y)
    scale = (ax.double().norm() * y.double().norm()).item()
    return abs((ax.double() * y.double()).sum().item() - (x.double() * aty.double()).sum().item()) / scale


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("slices", [1, 3])
@pytest.mark.parametrize("limit", [60_000_000, 0], ids=["matrix", "view by view"])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_the_adjoint_is_the_transpose(name, limit, slices, dtype):
    operator = ParallelBeamCT(GEOMETRIES[name], slices, matrix_limit=limit, precision="float64" if dtype == torch.float64 else "float32")
    assert isinstance(operator.projector, ViewByView) == (limit == 0)
    assert dot_error(operator, dtype) < (1e-6 if dtype == torch.float32 else 1e-14)


def test_the_adjoint_is_the_transpose_with_ray_weights():
    weights = torch.rand(3, 8, 46, generator=torch.Generator().manual_seed(1))
    weights[:, :, :5] = 0
    operator = ParallelBeamCT(GEOMETRIES["even"], 3, ray_weights=weights)
    assert dot_error(operator, torch.float32) < 1e-6
    assert bool((operator(torch.ones(1, 3, 32, 32))[..., :5] == 0).all())


@settings(max_examples=25, deadline=None)
@given(
    rows=st.integers(1, 24),
    columns=st.integers(1, 24),
    angles=st.lists(st.floats(0, 3.1), min_size=1, max_size=4, unique_by=lambda a: round(a, 6)),
    detectors=st.integers(1, 40),
    spacing=st.floats(0.3, 4),
    offset=st.floats(-6, 6),
    pixel=st.floats(0.2, 5),
)
def test_any_detector_and_any_angles_have_an_exact_adjoint(rows, columns, angles, detectors, spacing, offset, pixel):
    operator = ParallelBeamCT(ParallelGeometry(rows, columns, tuple(angles), pixel, detectors, spacing, offset), 2, precision="float64")
    x = torch.randn(1, 2, rows, columns, dtype=torch.float64)
    y = torch.randn(1, *operator.shape_out, dtype=torch.float64)
    left, right = (operator(x) * y).sum().item(), (x * operator.adjoint(y)).sum().item()
    assert left == pytest.approx(right, rel=1e-9, abs=1e-10 * (1 + operator(x).norm().item() * y.norm().item()))


@pytest.mark.parametrize(("views", "entries", "norm"), [(8, 200_650, 993.4), (20, 556_506, 2473.7)])
def test_golden_entries_and_norm(views, entries, norm):
    operator = parallel_beam(views, 128, attenuation=1.0)
    matrix = operator.projector.matrix
    assert abs(matrix.nnz - entries) <= 500  # at 90 degrees some weights are exact zeros or 1e-16, as the platform rounds
    assert expected_entries(operator.geometry) >= entries
    assert operator.norm_sq() == pytest.approx(norm, abs=0.05)
    assert operator.shape_out == (1, views, 182)
    assert detectors_for(256, 256) == 363


def disc(size=128, radius=40.0):
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return (x**2 + y**2 <= radius**2).astype(np.float64)


@pytest.mark.parametrize(("views", "error"), [(8, 0.0079), (180, 0.0064)])
def test_the_sinogram_of_a_disc_is_its_chord_length(views, error):
    operator = parallel_beam(views, 128, attenuation=1.0)
    image = disc()
    found = operator(torch.from_numpy(image)[None, None])[0, 0].numpy()
    s = operator.geometry.detector_positions
    chord = np.broadcast_to(2 * np.sqrt(np.maximum(1600 - s**2, 0)), found.shape)
    assert np.linalg.norm(found - chord) / np.linalg.norm(chord) == pytest.approx(error, abs=1e-4)
    assert found.sum(1) == pytest.approx(np.full(views, image.sum()), rel=5e-4)  # every view counts the same mass


def test_lengths_are_in_mm_and_attenuation_is_in_the_operator():
    geometry = ParallelGeometry(32, 32, (0.0, math.pi / 2), 2.5)
    line = ParallelBeamCT(geometry, 1, attenuation=0.04)(torch.ones(1, 1, 32, 32))
    assert line[0, 0, :, 23].tolist() == pytest.approx([32 * 2.5 * 0.04] * 2, rel=1e-6)
    operator = ParallelBeamCT(geometry, 2)
    x = torch.rand(1, 2, 32, 32)
    assert torch.allclose(operator(x) / operator.pixel_unit, operator.in_pixels()(x), rtol=1e-5)


def test_a_detector_sees_a_point_at_x_cos_plus_y_sin():
    image = torch.zeros(1, 1, 41, 41, dtype=torch.float64)
    image[0, 0, 8, 31] = 1  # y = -12, x = 11
    operator = parallel_beam(12, 41, attenuation=1.0)
    y = operator(image)[0, 0].numpy()
    centre = (y @ operator.geometry.detector_positions) / y.sum(1)
    angles = np.array(operator.geometry.angles)
    assert centre == pytest.approx(11 * np.cos(angles) - 12 * np.sin(angles), abs=0.5)  # interpolation moves a point by less


def test_an_offset_of_one_detector_shifts_the_sinogram_by_one():
    x = torch.rand(1, 1, 32, 32)
    geometry = ParallelGeometry(32, 32, UNEVEN, 2.0)
    shifted = ParallelGeometry(32, 32, UNEVEN, 2.0, offset_mm=2.0)
    assert torch.allclose(ParallelBeamCT(geometry)(x)[..., 1:], ParallelBeamCT(shifted)(x)[..., :-1], atol=1e-5)


def test_fewer_detectors_are_the_middle_of_the_sinogram():
    x = torch.rand(1, 1, 32, 32)
    full, cut = (ParallelBeamCT(ParallelGeometry(32, 32, UNEVEN, detectors=n))(x) for n in (46, 20))
    assert torch.allclose(full[..., 13:33], cut, atol=1e-6)


def test_rays_of_any_direction_give_the_rows_of_their_view():
    geometry = GEOMETRIES["even"]
    bundles = [geometry.rays(view) for view in range(geometry.views)]
    order = np.random.default_rng(0).permutation(geometry.views * geometry.detectors)
    origins, directions = (np.concatenate(part)[order] for part in zip(*bundles, strict=True))
    mixed = joseph_rows(origins, directions, 32, 32)
    assert abs(mixed - joseph_matrix(geometry, "float64")[order]).max() < 1e-12


def test_slices_do_not_see_each_other():
    operator = parallel_beam(5, 24, 4)
    x = torch.rand(2, 4, 24, 24)
    one = parallel_beam(5, 24, 1)
    assert torch.allclose(operator(x)[1, 2], one(x[1:2, 2:3])[0, 0], atol=1e-6)
    assert torch.allclose(operator.normal(x), operator.adjoint(operator(x)), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("limit", [60_000_000, 0], ids=["matrix", "view by view"])
def test_gradients_are_those_of_a_linear_map(limit):
    geometry = ParallelGeometry(6, 6, UNEVEN, 1.3)
    operator = ParallelBeamCT(geometry, 2, precision="float64", matrix_limit=limit)
    x = torch.randn(1, 2, 6, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(operator, (x,))
    y = torch.randn(1, *operator.shape_out, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(operator.adjoint, (y,))
    assert torch.autograd.gradgradcheck(lambda v: operator(v) ** 2, (x,))


def test_both_builders_agree_and_a_pickle_carries_no_matrix():
    operator = parallel_beam(7, 30, 2)
    lazy = ParallelBeamCT(operator.geometry, 2, matrix_limit=0)
    x = torch.rand(1, 2, 30, 30)
    assert torch.allclose(operator(x), lazy(x), rtol=1e-5, atol=1e-6)
    data = pickle.dumps(operator)
    assert len(data) < 10_000
    assert torch.equal(pickle.loads(data)(x), operator(x))


def test_operators_of_one_geometry_share_one_matrix(tmp_path):
    first, second = parallel_beam(9, 20, 1, pixel_mm=1.0), parallel_beam(9, 20, 5, pixel_mm=2.281)
    assert first.projector is second.projector
    stored = ParallelBeamCT(first.geometry, cache=tmp_path)
    x = torch.rand(1, 1, 20, 20)
    assert torch.equal(stored(x), first(x))
    joseph_matrix.cache_clear()
    again = joseph_matrix(first.geometry.in_pixels(), "float32", tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    assert (again != first.projector.matrix).nnz == 0


def test_the_least_squares_solution_explains_the_data():
    operator = parallel_beam(6, 24, 2, attenuation=1.0)
    y = operator(torch.rand(1, 2, 24, 24))
    x, _ = operator.normal_solve(operator.adjoint(y), iterations=150)
    assert float((operator(x) - y).norm() / y.norm()) < 1e-3


def test_a_fine_simulation_of_constant_blocks_converges_to_the_same_integrals():
    operator = parallel_beam(6, 32, 2, attenuation=1.0)
    smooth = torch.from_numpy(np.stack([disc(32, 9), disc(32, 12)])).float()
    same = simulate(smooth, operator)
    fine = simulate(smooth, operator, 4)
    assert torch.equal(fine, simulate(smooth.repeat_interleave(4, 1).repeat_interleave(4, 2), operator, 4))
    assert 0 < float((fine - same).norm() / same.norm()) < 0.05
    assert fine.sum(-1) == pytest.approx(same.sum(-1), rel=5e-3)  # mass is kept by both
    with pytest.raises(UserError, match="has shape"):
        simulate(smooth[:, :-1], operator, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"angles": (0.0, 45.0, 90.0)}, "degrees"),
        ({"angles": (0.0, 1.0, 1.0)}, "2 times"),
        ({"angles": (0.0, float("nan"))}, "angle 1 is not a finite"),
        ({"angles": ()}, "at least 1"),
        ({"rows": 0}, "rows must be at least 1"),
        ({"pixel_mm": 0.0}, "pixel_mm"),
        ({"pixel_mm": float("nan")}, "pixel_mm"),
        ({"detectors": -3}, "detectors"),
    ],
)
def test_a_geometry_that_cannot_be_is_refused(change, message):
    good = {"rows": 8, "columns": 8, "angles": (0.0, 1.0)}
    with pytest.raises(UserError, match=message):
        ParallelGeometry(**(good | change))


def test_bad_measurements_and_weights_are_refused():
    operator = parallel_beam(4, 16, 2)
    y = operator(torch.rand(1, 2, 16, 16))
    with pytest.raises(UserError, match="shape"):
        operator.adjoint(y.transpose(2, 3))  # a transposed sinogram
    with pytest.raises(UserError, match="ray weights"):
        ParallelBeamCT(operator.geometry, 2, ray_weights=-torch.ones(4, 23))
    with pytest.raises(UserError, match="slice"):
        ParallelBeamCT(operator.geometry, 0)
    with pytest.raises(UserError, match="attenuation"):
        ParallelBeamCT(operator.geometry, 1, attenuation=0.0)
    with pytest.raises(UserError, match="span"):
        equal_angles(4, 0.0)
    with pytest.raises(UserError, match="views"):
        equal_angles(0)


def test_weighted_least_squares_scales_rays_by_the_root_of_the_weight():
    operator = parallel_beam(4, 16, 2)
    weights = torch.rand(2, 4, 23)
    x = torch.rand(1, 2, 16, 16)
    assert torch.allclose(operator.weighted(weights)(x), operator(x) * weights.sqrt(), atol=1e-6)
    normal = operator.weighted(weights).normal(x)
    assert torch.allclose(normal, operator.adjoint(weights * operator(x)), rtol=1e-4, atol=1e-6)
