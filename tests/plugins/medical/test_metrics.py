"""Image metrics: closed forms, equality with scikit-image, the parts that intervals are made from."""

from __future__ import annotations

import gc
import math
import tracemalloc

import numpy as np
import pytest
import xarray as xr

from unstir.errors import DataError, UserError
from unstir.plugin.protocols import Case, Estimate
from unstir_medical import volume as volumes
from unstir_medical.metrics import NMSE, PSNR, RMSE, SSIM, DataResidual, body_mask, slabs, ssim_maps
from unstir_medical.tomography import parallel_beam

SPACING = (5.0, 2.0, 2.0)


def data(u) -> xr.Dataset:
    affine = np.diag([SPACING[2], SPACING[1], SPACING[0], 1.0])
    return volumes.dataset(np.asarray(u, dtype=np.float32) * 2000 - 1000, affine, {"key": "x", "modality": "CT"})


def scored(metric, found, truth, **more):
    scores = metric(Estimate(data(found)), Case("x", data(truth), more.get("measurement"), more.get("context", {})))
    assert list(scores) == [info.key for info in metric.describe()]
    return scores


def phantom(shape=(16, 40, 36), seed=0):
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij")
    return 0.5 * (x**2 + y**2 + 0.2 * z**2 < 0.6) + 0.05 * np.random.default_rng(seed).random(shape)


def test_psnr_of_a_constant_error_is_its_logarithm_in_every_plane():
    truth = phantom()
    scores = scored(PSNR(), truth + 0.1, truth)
    for score in scores.values():
        assert score.value == pytest.approx(20.0, abs=1e-4)


def test_planes_are_averaged_over_their_own_slices_and_perfect_slices_are_left_out():
    truth = phantom()
    found = truth.copy()
    found[3] += 0.1
    scores = scored(PSNR(), found, truth)
    assert scores["psnr-axial"].value == pytest.approx(20.0, abs=1e-3)  # one slice alone has an error
    assert scores["psnr"].value == pytest.approx(20 + 10 * math.log10(16), abs=1e-3)
    assert scores["psnr-coronal"].value == pytest.approx(20 + 10 * math.log10(16), abs=1e-3)
    assert scored(PSNR(planes=("axial",)), truth, truth)["psnr"].value == math.inf


def test_combining_the_parts_gives_the_value():
    truth = phantom()
    found = truth + 0.1 * np.random.default_rng(1).standard_normal(truth.shape)
    for metric in (PSNR(), SSIM(), NMSE(), RMSE()):
        for key, score in scored(metric, found, truth).items():
            parts = np.array(score.parts)
            assert len(parts) >= 2, key
            combined = {"mean": parts.mean(), "rms": math.sqrt((parts**2).mean()), "psnr": -10 * math.log10(parts.mean())}[score.combine]
            assert combined == pytest.approx(score.value, rel=0.02), key  # slabs are of nearly, not always exactly, equal size


@pytest.mark.parametrize(("count", "spacing"), [(48, 5.0), (47, 5.0), (1, 5.0), (3, 100.0), (128, 2.281), (200, 0.05)])
def test_slabs_cover_every_slice_once(count, spacing):
    cut = list(slabs(count, spacing))
    assert [i for s in cut for i in range(s.start, s.stop)] == list(range(count))
    assert max(s.stop - s.start for s in cut) - min(s.stop - s.start for s in cut) <= 1
    if (count, spacing) == (48, 5.0):
        assert len(cut) == 12


def test_ssim_is_that_of_scikit_image():
    similarity = pytest.importorskip("skimage.metrics").structural_similarity
    truth = phantom((14, 24, 30))
    found = truth + 0.07 * np.random.default_rng(2).standard_normal(truth.shape)
    same = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    volume, axial, coronal, sagittal = ssim_maps(found, truth, [(0, 1, 2), (1, 2), (0, 2), (0, 1)])
    assert volume.mean() == pytest.approx(similarity(found, truth, **same), abs=1e-12)
    assert axial[5].mean() == pytest.approx(similarity(found[5], truth[5], **same), abs=1e-12)
    assert coronal[:, 7].mean() == pytest.approx(similarity(found[:, 7], truth[:, 7], **same), abs=1e-12)
    assert sagittal[..., 9].mean() == pytest.approx(similarity(found[..., 9], truth[..., 9], **same), abs=1e-12)
    scores = scored(SSIM(), found, truth)
    expected = np.mean([similarity(np.float32(a), np.float32(b), **same) for a, b in zip(found, truth, strict=True)])
    assert scores["ssim-axial"].value == pytest.approx(expected, abs=1e-4)  # HU are stored in float32
    assert scored(SSIM(), truth, truth)["ssim"].value == pytest.approx(1.0)


def test_a_slice_below_the_window_is_refused_and_other_planes_still_work():
    truth = phantom((6, 24, 30))
    with pytest.raises(UserError, match="11"):
        scored(SSIM(), truth, truth)
    assert scored(SSIM(planes=("axial",), volume=False), truth, truth)["ssim-axial"].value == pytest.approx(1.0)
    with pytest.raises(UserError, match="oblique"):
        PSNR(planes=("oblique",))  # type: ignore[arg-type]


def test_scoring_a_volume_leaves_nothing_in_memory():
    truth = phantom((12, 40, 40))
    found = truth + 0.1
    windows = [(0, 1, 2), (1, 2), (0, 2), (0, 1)]
    gc.disable()  # what a reference cycle holds stays until the collector runs
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(3):
            [image.mean() for image in ssim_maps(found, truth, windows)]
        assert tracemalloc.get_traced_memory()[0] - before < truth.nbytes
    finally:
        tracemalloc.stop()
        gc.enable()


def test_nmse_is_relative_to_the_energy():
    truth = phantom()
    assert scored(NMSE(), 0 * truth, truth)["nmse"].value == pytest.approx(1.0, abs=1e-6)
    assert scored(NMSE(), 1.1 * truth, truth)["nmse"].value == pytest.approx(0.01, rel=1e-3)


def test_rmse_is_in_hu_and_only_inside_the_body():
    truth = np.zeros((4, 30, 30))
    truth[:, 5:25, 5:25] = 0.5
    truth[:, 10:15, 10:15] = 0.05  # a lung: a hole in the body
    truth[:, 27:29, 27:29] = 0.9  # a table beside it
    body = body_mask(truth * 2000 - 1000)
    assert body.sum() == 4 * 400
    found = truth + np.where(body, 0.01, 0.3)
    assert scored(RMSE(), found, truth)["rmse-hu"].value == pytest.approx(20.0, rel=1e-3)


def test_the_data_residual_is_zero_for_the_truth_and_one_for_air():
    operator = parallel_beam(5, 20, 8)
    truth = phantom((8, 20, 20)).astype(np.float32)
    import torch

    y = operator(torch.from_numpy(truth)[None])[0].numpy()
    more = {"measurement": xr.Dataset({"sinogram": (("z", "angle", "detector"), y)}), "context": {"operator": operator}}
    assert scored(DataResidual(), truth, truth, **more)["data-residual"].value < 1e-5
    air = scored(DataResidual(), 0 * truth, truth, **more)["data-residual"]
    assert air.value == pytest.approx(1.0, abs=1e-5)
    assert math.sqrt(np.mean(np.square(air.parts))) == pytest.approx(1.0, abs=1e-5)


def test_estimates_that_cannot_be_judged_are_refused():
    truth = phantom()
    broken = truth.copy()
    broken[0, 0, 0] = np.nan
    with pytest.raises(DataError, match="1 voxels that are not finite"):
        scored(PSNR(), broken, truth)
    with pytest.raises(DataError, match="shape"):
        scored(PSNR(), truth[:-1], truth)
    with pytest.raises(DataError, match="no truth"):
        PSNR()(Estimate(data(truth)), Case("x", None, None))
    with pytest.raises(DataError, match="air everywhere"):
        scored(NMSE(), truth, 0 * truth)
    with pytest.raises(DataError, match="no body"):
        scored(RMSE(), truth, 0 * truth)


def test_every_definition_names_its_convention():
    for metric in (PSNR(), SSIM(), NMSE(), RMSE(), DataResidual()):
        for info in metric.describe():
            assert info.better in ("up", "down")
            assert len(info.definition) > 30
            assert "psnr" not in info.key or "data range 1" in info.definition
