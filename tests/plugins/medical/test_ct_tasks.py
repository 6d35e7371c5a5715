"""CT tasks: what a case holds, grids of simulation, noise that depends on the case alone, options that are refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import xarray as xr

from unstir.errors import DataError, UserError
from unstir.plugin.protocols import Estimate
from unstir_medical import volume as volumes
from unstir_medical.ct.noise import gaussian, poisson
from unstir_medical.tasks import LimitedAngleCT, SparseViewCT, reconstruction
from unstir_medical.tomography import simulate


def chest(size=32, slices=3, pixel=2.0, key="chest"):
    z, y, x = np.meshgrid(np.linspace(-1, 1, slices), *[np.linspace(-1, 1, size)] * 2, indexing="ij")
    hu = np.full(z.shape, -1000.0)
    hu[x**2 + 1.6 * y**2 < 0.7] = 40
    hu[(np.abs(x) - 0.4) ** 2 + y**2 < 0.06 + 0.02 * z] = -850
    hu[x**2 + (y - 0.55) ** 2 < 0.008] = 1500  # bone above the window
    affine = np.diag([pixel, pixel, 5.0, 1.0])
    return volumes.dataset(hu.astype(np.float32), affine, {"key": key, "modality": "CT", "source": key, "orientation": "LPS"})


def test_a_case_holds_truth_measurement_and_what_a_method_may_know():
    case = next(iter(SparseViewCT(views=6, size=32).cases([chest()])))
    assert case.key == "chest"
    assert dict(case.truth.sizes) == {"z": 3, "y": 32, "x": 32}
    assert float(case.truth.hu.max()) == 1000  # clipped to the window
    y = case.measurement
    assert y.sinogram.dims == ("z", "angle", "detector")
    assert y.sinogram.shape == case.context["operator"].shape_out == (3, 6, 46)
    assert y.angle.values == pytest.approx(np.arange(6) * math.pi / 6)
    assert y.attrs["simulated"] == True  # noqa: E712  (a netCDF attribute holds no booleans)
    assert y.attrs["pixel_mm"] == 2.0
    assert case.context["spacing_mm"] == (5.0, 2.0, 2.0)
    assert case.context["shape"] == (3, 32, 32)
    assert "inverse crime" not in y.attrs["simulation"]


def test_a_measurement_survives_a_netcdf_file(tmp_path):
    case = SparseViewCT(views=4, size=32, noise="poisson").case(chest())
    case.measurement.to_netcdf(tmp_path / "y.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "y.nc", engine="h5netcdf") as again:
        assert np.array_equal(again.sinogram.values, case.measurement.sinogram.values)
        assert again.attrs["noise"] == case.measurement.attrs["noise"]


def test_the_same_grid_is_the_operator_itself_and_says_so():
    case = SparseViewCT(views=6, size=32, simulation="same").case(chest())
    u = torch.from_numpy(volumes.to_unit(case.truth.hu.values))[None]
    assert np.array_equal(case.context["operator"](u)[0].numpy(), case.measurement.sinogram.values)
    assert "inverse crime" in case.measurement.attrs["simulation"]


def test_a_finer_source_is_measured_on_its_own_grid():
    item = chest(size=64, pixel=1.0)
    case = SparseViewCT(views=6, size=32).case(item)
    assert "source's own pixels" in case.measurement.attrs["simulation"]
    u = volumes.to_unit(item.hu.values)
    assert np.array_equal(simulate(u, case.context["operator"], 2).numpy(), case.measurement.sinogram.values)
    assert case.truth.hu.values == pytest.approx(np.clip(item.hu.values, -1000, 1000).reshape(3, 32, 2, 32, 2).mean((2, 4)), abs=1e-3)
    same = case.context["operator"](torch.from_numpy(volumes.to_unit(case.truth.hu.values))[None])[0].numpy()
    error = np.linalg.norm(same - case.measurement.sinogram.values) / np.linalg.norm(same)
    assert 1e-4 < error < 0.02  # near, and not the same


def test_a_source_that_is_not_finer_has_its_pixels_replicated():
    case = SparseViewCT(views=6, size=32, fine=4).case(chest())
    assert "128 x 128 grid (its pixels replicated), 4 parts" in case.measurement.attrs["simulation"]


def test_a_rectangular_source_is_padded_to_a_square():
    item = chest(size=32).isel(y=slice(4, 28))
    item = volumes.dataset(item.hu.values, item.attrs["affine"], item.attrs)
    case = SparseViewCT(views=4, size=32).case(item)
    assert case.context["shape"] == (3, 32, 32)


def test_a_short_detector_row_is_said():
    facts = [SparseViewCT(views=4, size=32, detectors=n).case(chest()).context["facts"]["field of view"] for n in (0, 20)]
    assert "truncated" not in facts[0]
    assert "truncated" in facts[1]


def test_one_slice_is_a_volume():
    case = SparseViewCT(views=4, size=32).case(chest(slices=1))
    assert case.measurement.sinogram.shape == (1, 4, 46)


@pytest.mark.parametrize("noise", ["gaussian", "poisson"])
def test_noise_depends_on_seed_and_key_alone(noise):
    task = SparseViewCT(views=4, size=32, noise=noise)
    first, again = (task.case(chest()).measurement.sinogram.values for _ in range(2))
    assert np.array_equal(first, again)
    together = list(task.cases([chest(key="other"), chest()]))
    assert np.array_equal(together[1].measurement.sinogram.values, first)
    assert not np.array_equal(together[0].measurement.sinogram.values, first)
    assert not np.array_equal(SparseViewCT(views=4, size=32, noise=noise, noise_seed=1).case(chest()).measurement.sinogram.values, first)


def test_gaussian_noise_has_its_standard_deviation():
    clean = np.full((200, 500), 2.0, dtype=np.float32)
    draw = np.random.default_rng(0)
    assert gaussian(clean, draw, relative=0.05).sigma == pytest.approx(0.1)
    noisy = gaussian(clean, draw, sigma=0.3)
    assert (noisy.sinogram - clean).std() == pytest.approx(0.3, rel=0.02)  # 1e5 draws: 0.2 %
    with pytest.raises(UserError, match="either"):
        gaussian(clean, draw)
    with pytest.raises(UserError, match="negative"):
        gaussian(clean, draw, sigma=-1.0)


def test_photon_noise_has_the_variance_of_its_counts():
    p = 2.0
    noisy = poisson(np.full((300, 400), p, dtype=np.float32), np.random.default_rng(0), i0=1e4)
    expected = 1e4 * math.exp(-p)
    assert noisy.sinogram.var() == pytest.approx(1 / expected, rel=0.03)
    assert noisy.sigma == pytest.approx(expected**-0.5, rel=1e-6)
    assert noisy.weights.mean() == pytest.approx(expected, rel=1e-3)
    assert noisy.clamped == 0


def test_rays_without_a_photon_are_clamped_and_counted():
    noisy = poisson(np.full((50, 50), 12.0, dtype=np.float32), np.random.default_rng(0), i0=1e4)
    assert noisy.clamped == pytest.approx(2500 * math.exp(-1e4 * math.exp(-12)), rel=0.03)  # P(no photon), 5 standard errors
    assert noisy.weights.min() == 1
    assert np.isfinite(noisy.sinogram).all()
    case = SparseViewCT(views=4, size=32, noise="poisson", i0=2.0).case(chest())
    assert case.measurement.attrs["clamped_rays"] > 0
    assert f"{case.measurement.attrs['clamped_rays']} of" in case.context["facts"]["noise"]
    with pytest.raises(UserError, match="i0"):
        poisson(np.zeros(3), np.random.default_rng(0), i0=0)


def test_a_limited_arc_leaves_a_wedge_out():
    case = LimitedAngleCT(views=9, span=90, size=32).case(chest())
    assert case.measurement.angle.values == pytest.approx(np.radians(np.arange(9) * 10.0))
    assert case.context["operator"].geometry.view_weights().sum() == pytest.approx(math.pi / 2)


def test_an_estimate_lies_on_the_grid_of_the_truth_and_is_exported_on_the_source_grid(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    task = SparseViewCT(views=4, size=16)
    case = task.case(chest())
    u = volumes.to_unit(case.truth.hu.values)
    data = reconstruction(u, case, std=0 * u + 0.01)
    assert data.hu.values == pytest.approx(case.truth.hu.values, abs=1e-3)
    assert float(data.hu_std.mean()) == pytest.approx(20.0)
    for axis in "zyx":
        assert data[axis].values == pytest.approx(case.truth[axis].values)
    written = task.export(Estimate(data), case, tmp_path / "lung")
    names = {path.name for path in written}
    assert {"lung.nii.gz", "lung.json", "lung-std.nii.gz"} <= names
    assert nibabel.load(tmp_path / "lung.nii.gz").shape == (32, 32, 3)


def test_a_user_file_becomes_a_case(tmp_path):
    from unstir_medical.writers import write

    write(chest(), tmp_path / "scan.nii.gz")
    task = SparseViewCT(views=4, size=32)
    case = next(iter(task.cases([task.read(tmp_path / "scan.nii.gz")])))
    assert case.key == "scan"
    assert np.array_equal(case.measurement.sinogram.values, task.case(chest()).measurement.sinogram.values)
    with pytest.raises(DataError, match=r"none\.nii"):
        task.read(tmp_path / "none.nii")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": 0}, "views must be at least 1, got 0"),
        ({"size": 1}, "size"),
        ({"simulation": "exact"}, "simulation must be one of fine, same"),
        ({"noise": "pink"}, "noise must be one of none, gaussian, poisson"),
        ({"fine": 1}, "fine must be between"),
        ({"i0": 0.0}, "i0 must be positive"),
        ({"relative": -0.1}, "relative must not be negative"),
        ({"mu_water": float("nan")}, "mu_water"),
        ({"detectors": -1}, "detectors"),
        ({"noise_seed": -1}, "noise_seed"),
    ],
)
def test_an_option_outside_its_range_is_refused_in_a_sentence(options, message):
    with pytest.raises(UserError, match=message):
        SparseViewCT(**options)


@pytest.mark.parametrize("span", [0.0, 180.0, -10.0])
def test_a_limited_arc_is_a_part_of_the_half_circle(span):
    with pytest.raises(UserError, match="span"):
        LimitedAngleCT(span=span)


def test_a_volume_that_is_not_ct_is_refused():
    with pytest.raises(DataError, match="not a CT volume"):
        SparseViewCT(size=32).case(chest().rename(hu="intensity"))
