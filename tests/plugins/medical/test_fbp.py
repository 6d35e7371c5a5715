"""Filtered back-projection: closed forms, golden numbers, the part of the arc a view stands for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from unstir.errors import UserError
from unstir_medical.ct.fbp import fbp, filtered, ramp_response
from unstir_medical.ct.geometry import ParallelGeometry, equal_angles
from unstir_medical.tomography import ParallelBeamCT, parallel_beam


def disc(size=128, radius=40.0, middle=(0.0, 0.0)):
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    return ((x - middle[0]) ** 2 + (y - middle[1]) ** 2 <= radius**2).astype(np.float64)


def psnr(a, b):
    return -10 * math.log10(float(((np.asarray(a) - np.asarray(b)) ** 2).mean()))


@pytest.mark.parametrize(("views", "mean", "quality"), [(180, 1.0001, 28.9), (8, 1.004, None)])
def test_golden_disc(views, mean, quality):
    image = disc()
    operator = parallel_beam(views, 128, attenuation=1.0)
    found = operator.fbp(operator(torch.from_numpy(image)[None, None]), "ramp")[0, 0].numpy()
    y, x = np.mgrid[:128, :128] - 63.5
    assert found[x**2 + y**2 < 400].mean() == pytest.approx(mean, abs=3e-4)
    if quality is not None:
        assert psnr(found, image) == pytest.approx(quality, abs=0.1)


def test_the_ramp_is_the_frequency_but_for_its_foot():
    response = ramp_response(182, 1.0, "ramp")
    frequency = np.arange(response.size) / (2 * (response.size - 1))
    assert response[1:] == pytest.approx(frequency[1:], rel=0.03)  # the kernel is cut at the padded length
    assert 0 < response[0] < 1e-3  # and 0 there would lower the mean of every image


def test_windows_are_one_at_zero_and_fall_to_their_end():
    ramp, hann, hamming = (ramp_response(64, 1.0, w) for w in ("ramp", "hann", "hamming"))
    assert hann[0] == pytest.approx(ramp[0])
    assert hann[-1] == pytest.approx(0, abs=1e-12)
    assert hamming[-1] == pytest.approx(0.08 * ramp[-1])


def test_filtering_scales_with_the_detector_spacing():
    q = np.random.default_rng(0).standard_normal((3, 40))
    assert filtered(q, 2.0, "ramp") == pytest.approx(filtered(q, 1.0, "ramp") / 2)


@pytest.mark.parametrize("pixel_mm", [0.5, 2.281])
def test_the_value_does_not_depend_on_the_pixel_size(pixel_mm):
    image = torch.from_numpy(disc(64, 20))[None, None]
    operator = ParallelBeamCT(ParallelGeometry(64, 64, equal_angles(90), pixel_mm), attenuation=0.04)
    found = operator.pinv(operator(image))[0, 0].numpy()
    y, x = np.mgrid[:64, :64] - 31.5
    assert found[x**2 + y**2 < 100].mean() == pytest.approx(1.0, abs=5e-3)


def test_an_object_off_the_centre_comes_back_where_it_was_with_a_shifted_detector():
    image = disc(64, 8, middle=(13.0, -7.0))
    operator = ParallelBeamCT(ParallelGeometry(64, 64, equal_angles(120), 1.0, 110, offset_mm=4.3), attenuation=1.0)
    found = operator.fbp(operator(torch.from_numpy(image)[None, None]), clip=(0, 1))[0, 0].numpy()
    y, x = np.mgrid[:64, :64] - 31.5
    weight = np.where(found > 0.5, found, 0)
    assert (weight * x).sum() / weight.sum() == pytest.approx(13.0, abs=0.05)
    assert (weight * y).sum() / weight.sum() == pytest.approx(-7.0, abs=0.05)


def test_views_stand_for_their_part_of_the_arc():
    full = ParallelGeometry(8, 8, equal_angles(20)).view_weights()
    assert full == pytest.approx(np.full(20, math.pi / 20))
    limited = ParallelGeometry(8, 8, equal_angles(90, 90.0)).view_weights()
    assert limited == pytest.approx(np.full(90, math.pi / 180))  # arc pi / 2, not pi
    turn = ParallelGeometry(8, 8, equal_angles(40, 360.0)).view_weights()
    assert turn == pytest.approx(np.full(40, math.pi / 40))  # opposite views share their direction
    uneven = ParallelGeometry(8, 8, (0.0, 0.5, 1.0, 2.0, 2.5)).view_weights()
    assert uneven.sum() == pytest.approx(math.pi)
    assert uneven[2] == pytest.approx(0.75)
    assert ParallelGeometry(8, 8, (1.0,)).view_weights() == pytest.approx([math.pi])


def test_uneven_views_keep_the_mean_of_a_disc():
    angles = tuple(np.cumsum(np.random.default_rng(0).uniform(0.5, 1.5, 120)) * math.pi / 125)
    image = torch.from_numpy(disc(64, 20))[None, None]
    operator = ParallelBeamCT(ParallelGeometry(64, 64, angles), attenuation=1.0)
    found = operator.fbp(operator(image))[0, 0].numpy()
    y, x = np.mgrid[:64, :64] - 31.5
    assert found[x**2 + y**2 < 100].mean() == pytest.approx(1.0, abs=0.02)


def test_the_order_of_views_does_not_matter():
    operator = parallel_beam(12, 32, attenuation=1.0)
    y = operator(torch.rand(1, 1, 32, 32, dtype=torch.float64))[0].numpy()
    mixed = np.random.default_rng(1).permutation(12)
    shuffled = ParallelGeometry(32, 32, tuple(np.array(operator.geometry.angles)[mixed]))
    assert fbp(y[:, mixed], shuffled) == pytest.approx(fbp(y, operator.geometry))


def test_clipping_bounds_and_an_unknown_filter_is_refused():
    operator = parallel_beam(5, 32, attenuation=1.0)
    y = operator(torch.rand(1, 1, 32, 32))
    clipped = operator.fbp(y, clip=(0.0, 1.0))
    assert 0 <= float(clipped.min()) <= float(clipped.max()) <= 1
    assert clipped.dtype == torch.float32
    with pytest.raises(UserError, match="hann"):
        operator.fbp(y, "shepp")  # type: ignore[arg-type]


def test_rays_without_weight_count_as_zero():
    weights = torch.ones(1, 9, 46)
    weights[..., :4] = 0
    operator = ParallelBeamCT(ParallelGeometry(32, 32, equal_angles(9)), ray_weights=4 * weights)
    plain = parallel_beam(9, 32)
    x = torch.rand(1, 1, 32, 32)
    assert torch.allclose(operator.pinv(operator(x)), plain.pinv(plain(x) * weights), atol=1e-5)
