"""``unstir apply medical/reconstruct``: sinograms and volumes in, volumes, pictures and cards out; what is refused, in a sentence."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from unstir import checkpoint
from unstir.denoiser import NetworkDenoiser, Normaliser
from unstir.errors import CheckpointError, DataError, UserError
from unstir.nn import UNet
from unstir.plugin.chain import methods_of
from unstir.plugin.protocols import Apply
from unstir.process import EDM
from unstir_medical import sinograms
from unstir_medical import volume as volumes
from unstir_medical.apply import RECIPE, Reconstruct, working
from unstir_medical.readers import read
from unstir_medical.tasks import SparseViewCT
from unstir_medical.writers import write

SIZE, PIXEL = 32, 2.0
QUICK = {"grid": "log-snr:2,sigma_max=0.1,sigma_min=0.05", "iterations": 2}


def phantom(slices=3, size=SIZE, pixel=PIXEL, distance=5.0):
    z, y, x = np.meshgrid(np.linspace(-1, 1, slices), *[np.linspace(-1, 1, size)] * 2, indexing="ij")
    hu = np.where(x**2 + 1.6 * y**2 < 0.6, 40.0, -1000.0)
    hu[(x - 0.4) ** 2 + y**2 < 0.06] = -850  # on one side, so that a flip shows
    affine = np.diag([pixel, pixel, distance, 1.0])
    affine[:3, 3] = [-30, 12, 100]
    return volumes.dataset(hu.astype(np.float32), affine, {"key": "chest", "modality": "CT", "source": "", "orientation": "RAS"})


@pytest.fixture(scope="module")
def case():
    return SparseViewCT(views=60, size=SIZE, simulation="same").case(phantom())


def save(path: Path, case, **changes) -> Path:
    """The case's measurement as .npz, in degrees; ``changes`` replace entries, None leaves one out."""
    y = case.measurement
    entries = {"sinogram": y["sinogram"].values, "angles": np.degrees(y["angle"].values), "detector_mm": PIXEL, "slice_mm": 5.0} | changes
    np.savez(path, **{name: value for name, value in entries.items() if value is not None})
    return path


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    """An untrained prior of the shape of the real one."""
    torch.manual_seed(0)
    config = {"dim": 2, "in_channels": 3, "out_channels": 1, "widths": [8, 8], "blocks": 1, "features": 2, "feature_key": "grid"}
    denoiser = NetworkDenoiser(
        UNet(**config), EDM(), parameterisation="edm", shape=(3, -1, -1), sigma_data=0.25, context=1, normaliser=Normaliser(-1000.0, 2000.0)
    )
    facts = {"window_hu": [-1000, 1000], "pixel_mm": [1.7, 3.0], "slice_distance_mm": [3.0, 6.0]}
    return checkpoint.save(denoiser, tmp_path_factory.mktemp("prior"), network="unet", config=config, facts=facts)


def psnr(found, truth):
    return -20 * math.log10(np.sqrt(np.mean((found - truth) ** 2)) / 2000)


def test_the_command_keeps_its_protocol():
    assert isinstance(Reconstruct(), Apply)


def test_a_volume_comes_back_on_its_own_grid_with_picture_and_card(tmp_path):
    source = write(phantom(), tmp_path / "chest.nii.gz")[0]
    before = source.read_bytes()
    result = Reconstruct(method="fbp", views=60, seed=4)([source], tmp_path / "out")
    assert result["files"] == [str(tmp_path / "out" / f"chest-reconstruction.{suffix}") for suffix in ("nii.gz", "json", "png")]
    found = read(tmp_path / "out" / "chest-reconstruction.nii.gz")
    assert np.allclose(volumes.affine_of(found), volumes.affine_of(phantom()))
    assert found.attrs["orientation"] == "RAS"
    assert psnr(found["hu"].values, phantom()["hu"].values) > 20
    card = json.loads((tmp_path / "out" / "chest-reconstruction.json").read_text())
    assert card["method"] == "fbp"
    assert card["options"]["fbp"]["name"] == "medical/fbp"
    assert card["grid"] == "3 slices 5 mm apart of 32 x 32 pixels of 2 mm"
    assert "60 views" in card["operator"]
    assert (card["nfe"], card["seed"], card["prior_sha256"], card["checkpoint"]) == (0, 4, None, None)
    assert 0 < card["residual"] < 0.1
    assert card["psnr_db"] > 20
    assert card["seconds"] > 0
    assert (tmp_path / "out" / "chest-reconstruction.png").read_bytes().startswith(b"\x89PNG")
    assert source.read_bytes() == before
    assert result["results"][0]["grid"] == card["grid"]
    json.dumps(result)


@pytest.mark.parametrize("kind", ["npz", "nc", "npy", "npz in radians", "one slice"])
def test_a_sinogram_is_reconstructed_from_every_kind_of_file(tmp_path, case, kind):
    options, y = {}, case.measurement
    if kind == "nc":
        y.to_netcdf(tmp_path / "scan.nc", engine="h5netcdf")
        path = tmp_path / "scan.nc"
    elif kind == "npy":
        np.save(tmp_path / "scan.npy", y["sinogram"].values)
        np.savetxt(tmp_path / "angles.txt", np.degrees(y["angle"].values))
        path, options = tmp_path / "scan.npy", {"angles": str(tmp_path / "angles.txt"), "detector_mm": PIXEL, "slice_mm": 5.0}
    elif kind == "one slice":
        path = save(tmp_path / "scan.npz", case, sinogram=y["sinogram"].values[1], slice_mm=None)
    else:
        path = save(tmp_path / "scan.npz", case, **({"angles": y["angle"].values} if "radians" in kind else {}))
    result = Reconstruct(method="fbp", size=SIZE, **options)([path], tmp_path / "out")
    found = read(tmp_path / "out" / "scan-reconstruction.nii.gz", check_range=False)
    truth = case.truth["hu"].values[1:2] if kind == "one slice" else case.truth["hu"].values
    assert psnr(found["hu"].values, truth) > 22
    assert volumes.spacing_of(found) == pytest.approx((5.0, PIXEL, PIXEL))
    assert result["results"][0]["kind"] == "sinogram"
    assert ("one slice of unknown thickness, taken to be 5 mm" in result["results"][0]["notes"]) == (kind == "one slice")
    unit = "radians" if kind in ("nc", "npz in radians") else "degrees"
    assert any(note.endswith(f"taken as {unit}") for note in result["results"][0]["notes"])


def test_the_field_holds_the_body_without_being_told(tmp_path, case):
    Reconstruct(method="fbp")([save(tmp_path / "scan.npz", case)], tmp_path)
    found = read(tmp_path / "scan-reconstruction.nii.gz", check_range=False)["hu"].values
    margin = (found.shape[1] - SIZE) // 2
    assert found.shape[1] >= 0.77 * SIZE  # the body's diameter
    assert found[:, :1].max() < -500  # and air around it
    assert margin <= 7


def test_a_warm_start_runs_what_it_starts_from_and_names_its_prior(tmp_path, case, prior):
    path, told = save(tmp_path / "scan.npz", case), []
    asked = Reconstruct(checkpoint=str(prior), options=QUICK)
    result = asked([path], tmp_path / "out", progress=lambda done, total: told.append((done, total)))
    card = result["results"][0]
    assert set(card["options"]) == {"admm-tv", "dds-warm"}
    assert card["options"]["dds-warm"]["iterations"] == 2
    assert card["options"]["dds-warm"]["start"] == "admm-tv"
    assert card["nfe"] == 2
    assert card["prior_sha256"] == json.loads((prior / "model.json").read_text())["sha256"]
    assert card["checkpoint"] == str(prior)
    done = [done for done, _ in told]
    assert done == sorted(done)
    assert told[-1] == (100, 100)
    again = asked([path], tmp_path / "again")
    assert (tmp_path / "out" / "scan-reconstruction.nii.gz").read_bytes() == Path(again["files"][0]).read_bytes()


def test_an_ensemble_writes_its_standard_deviation(tmp_path, case, prior):
    chosen = Reconstruct(method="dds", checkpoint=str(prior), options={"samples": 2, "grid": "karras:2,sigma_max=1,sigma_min=0.1"})
    result = chosen([save(tmp_path / "scan.npz", case)], tmp_path / "out")
    assert str(tmp_path / "out" / "scan-reconstruction-std.nii.gz") in result["files"]


def test_the_default_method_and_its_start_are_those_of_the_recipe():
    entries, shared = methods_of(RECIPE)
    assert entries[Reconstruct().method]["start"] == "admm-tv"
    assert shared["checkpoint"] == "medical/ct-prior"
    for label, entry in entries.items():
        if not entry["name"].endswith(("dds", "dps", "mbir")):
            assert Reconstruct(method=label).chain("cpu").prior is None


@pytest.mark.parametrize(
    ("cell", "chosen"), [(2.28, 2.28), (0.57, 2.28), (0.977, 1.954), (1.0, 2.0), (1.5, 3.0), (1.6, 2.28), (4.0, 2.0), (3.5, 1.75)]
)
def test_the_working_pixel_is_one_the_prior_knows(cell, chosen):
    assert working(cell, (1.7, 3.0), 2.28) == pytest.approx(chosen, abs=1e-3)


def test_a_fine_volume_is_measured_on_its_own_pixels_and_comes_back_to_them(tmp_path):
    fine = phantom(slices=8, size=96, pixel=0.9, distance=1.5)
    source = write(fine, tmp_path / "fine.nrrd")[0]
    card = Reconstruct(method="fbp", views=90)([source], tmp_path / "out")["results"][0]
    assert card["grid"] == "4 slices 3 mm apart of 32 x 32 pixels of 2.7 mm"
    assert "source's own pixels" in card["notes"][0]
    assert any("the source has 1.5 and 0.9 mm" in note for note in card["notes"])
    found = read(tmp_path / "out" / "fine-reconstruction.nii.gz")
    assert found["hu"].shape == fine["hu"].shape
    assert np.allclose(volumes.affine_of(found), volumes.affine_of(fine), atol=1e-5)
    assert psnr(found["hu"].values, fine["hu"].values) > 17


def test_fine_detectors_and_thin_slices_are_averaged_to_what_the_prior_knows(tmp_path):
    fine = SparseViewCT(views=60, size=64, simulation="same").case(phantom(slices=5, size=64, pixel=1.0, distance=1.5))
    path = save(tmp_path / "fine.npz", fine, detector_mm=1.0, slice_mm=1.5, noise_sigma=0.02)
    card = Reconstruct(method="fbp")([path], tmp_path / "out")["results"][0]
    found = read(tmp_path / "out" / "fine-reconstruction.nii.gz", check_range=False)
    assert volumes.spacing_of(found) == pytest.approx((3.0, 2.0, 2.0))
    assert found.sizes["z"] == 3
    assert "2 neighbouring detectors averaged into one of 2 mm" in card["notes"]
    assert card["noise"] == "standard deviation 0.01"
    assert float(found["z"][0]) == pytest.approx(0.75)
    whole = Reconstruct(method="fbp", pixel_mm=1.0)([path], tmp_path / "own")
    assert whole["results"][0]["grid"].startswith("5 slices 1.5 mm apart")


def test_averaging_detectors_keeps_the_rotation_axis():
    scan = sinograms.Scan(np.zeros((1, 1, 11), np.float32) + np.arange(11, dtype=np.float32), (0.0,), 1.0, 5.0, offset_mm=0.5)
    binned = scan.binned(4, 1)
    place = (np.arange(2) - 0.5) * binned.detector_mm + binned.offset_mm
    assert place == pytest.approx(binned.values[0, 0] - 5 + 0.5)  # a ray's value is its index, its place index - 5 + offset


def test_a_grid_the_prior_was_not_trained_for_is_refused(tmp_path, case, prior):
    path = save(tmp_path / "scan.npz", case)
    with pytest.raises(DataError, match=r"pixels of 1 mm, and .* was trained for 1.7 to 3 mm; --method admm-tv"):
        Reconstruct(checkpoint=str(prior), pixel_mm=1.0)([path], tmp_path / "out")
    with pytest.raises(DataError, match=r"slices that are 8 mm, and .* was trained for 3 to 6 mm"):
        Reconstruct(checkpoint=str(prior), slice_mm=8.0)([path], tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_one_bad_file_does_not_keep_the_others(tmp_path, case):
    good, bad, gone = save(tmp_path / "good.npz", case), tmp_path / "bad.npz", tmp_path / "gone.npz"
    bad.write_bytes(b"")
    with pytest.raises(DataError, match="2 of 3 files were not reconstructed") as error:
        Reconstruct(method="fbp")([bad, good, gone], tmp_path / "out")
    assert "\n" not in str(error.value)
    assert f"{bad} " in str(error.value)
    assert f"{gone} does not exist" in str(error.value)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"good-reconstruction.{s}" for s in ("json", "nii.gz", "png")]


def test_files_of_one_name_and_files_that_were_given_keep_their_places(tmp_path, case):
    (tmp_path / "other").mkdir()
    first, second = save(tmp_path / "scan.npz", case), save(tmp_path / "other" / "scan.npz", case)
    given = write(phantom(), tmp_path / "scan-reconstruction.nii.gz")[0]
    before = given.read_bytes()
    result = Reconstruct(method="fbp")([first, second, given], tmp_path)
    volumes_written = [Path(path).name for path in result["files"] if path.endswith(".nii.gz")]
    assert volumes_written == [
        "scan-reconstruction-2.nii.gz", "scan-reconstruction-3.nii.gz", "scan-reconstruction-reconstruction.nii.gz"
    ]  # fmt: skip
    assert given.read_bytes() == before


def test_nothing_is_left_where_writing_fails(tmp_path, case, monkeypatch):
    from matplotlib.figure import Figure

    def full(self, *args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(OSError, match="No space"):
        Reconstruct(method="fbp")([save(tmp_path / "scan.npz", case)], tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


BAD = {
    "empty file": (b"", "is not a volume|not a NumPy array|sinogram that can be read"),
    "five axes": ({"sinogram": np.ones((1, 1, 3, 4, 5))}, r"has shape \(1, 1, 3, 4, 5\); a sinogram has axes"),
    "one axis": ({"sinogram": np.arange(9.0)}, r"has shape \(9,\)"),
    "not a number": ({"sinogram": np.array([[[0.1, np.nan, 0.2]] * 60])}, r"60 rays that are NaN or infinite, the first at .*\(0, 0, 1\)"),
    "infinite": ({"sinogram": np.array([[[0.1, 0.2, np.inf]] * 60])}, "NaN or infinite"),
    "no views": ({"sinogram": np.ones((3, 0, 40))}, "has no views"),
    "one detector": ({"sinogram": np.ones((3, 60, 1))}, "at least 1 slice and 2 detectors"),
    "complex": ({"sinogram": np.ones((3, 60, 40), complex)}, "complex128 values; line integrals are real"),
    "constant": ({"sinogram": np.ones((3, 60, 40))}, "is constant: every ray is 1"),
    "no angles": ({"angles": None}, "does not say its view angles: save 'angles' in it .* or give --angles"),
    "too few angles": ({"angles": np.arange(59.0)}, "has 60 views and 59 angles$"),
    "endless angle": ({"angles": np.r_[np.arange(59.0), np.inf]}, "angles must be a list of finite numbers"),
    "words for angles": ({"angles": np.array(["a"] * 60)}, "angles must be a list of finite numbers"),
    "no detector size": ({"detector_mm": None}, "distance between its detectors: save detector_mm .* or give --detector-mm"),
    "no slice distance": ({"slice_mm": None}, "distance between its slices: save slice_mm .* or give --slice-mm"),
    "detectors of no size": ({"detector_mm": -1.0}, "detector_mm must be a positive length in mm, got -1"),
    "negative noise": ({"noise_sigma": -1.0}, "noise_sigma not negative"),
    "pickled": ({"sinogram": np.array([{"a": 1}], dtype=object)}, "cannot be loaded when allow_pickle=False"),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_sinogram_is_refused_in_a_sentence_that_names_the_file(tmp_path, case, fault):
    content, says = BAD[fault]
    path = tmp_path / "scan.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        save(path, case, **content)
    with pytest.raises(DataError, match=says) as error:
        Reconstruct(method="fbp")([path], tmp_path / "out")
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert list((tmp_path / "out").iterdir()) == []


UNITS = {
    "HU": (lambda y: 500 * y - 900, "look like HU"),
    "photon counts": (lambda y: 1e4 * np.exp(-y), "photon counts become line integrals"),
    "pixel units": (lambda y: y / 0.02, "lengths in pixels"),
    "transmission": (lambda y: np.exp(-y), "look like transmission I / I0"),
    "an offset": (lambda y: y - 0.5 * y.max(), "not negative beyond noise"),
}


@pytest.mark.parametrize("unit", UNITS)
def test_values_that_are_no_line_integrals_are_refused_unless_asked_for(tmp_path, case, unit):
    change, says = UNITS[unit]
    path = save(tmp_path / "scan.npz", case, sinogram=change(case.measurement["sinogram"].values))
    with pytest.raises(DataError, match=says) as error:
        Reconstruct(method="fbp")([path], tmp_path / "out")
    assert "does not hold line integrals of attenuation: values run from" in str(error.value)
    sinograms.read(path, check_range=False)


def test_noise_around_zero_is_no_fault(tmp_path, case):
    y = case.measurement["sinogram"].values
    noisy = y + 0.02 * y.max() * np.random.default_rng(0).standard_normal(y.shape)
    assert sinograms.read(save(tmp_path / "scan.npz", case, sinogram=noisy)).values.min() < 0


def test_a_transposed_sinogram_is_recognised_by_its_angles(tmp_path, case):
    turned = case.measurement["sinogram"].values.swapaxes(1, 2)
    with pytest.raises(DataError, match="46 views and 60 angles; it looks transposed, the order is"):
        sinograms.read(save(tmp_path / "scan.npz", case, sinogram=turned))


def test_a_field_wider_than_the_detector_is_refused_and_a_truncated_body_said(tmp_path, case):
    path = save(tmp_path / "scan.npz", case)
    with pytest.raises(DataError, match="the detector is too narrow for a field of 60 x 2 mm, it sees 92 mm; give a smaller --size"):
        Reconstruct(method="fbp", size=60)([path], tmp_path / "out")
    cut = save(tmp_path / "cut.npz", case, sinogram=case.measurement["sinogram"].values[:, :, 15:-15])
    notes = Reconstruct(method="fbp")([cut], tmp_path / "out")["results"][0]["notes"]
    assert any(note.startswith("truncated:") for note in notes)


def test_views_in_any_order_and_twice_are_the_same_scan(tmp_path, case):
    y, angles = case.measurement["sinogram"].values, np.degrees(case.measurement["angle"].values)
    order = np.random.default_rng(0).permutation(60)
    shuffled = sinograms.read(save(tmp_path / "a.npz", case, sinogram=y[:, order], angles=angles[order]))
    assert np.degrees(shuffled.angles) == pytest.approx(angles[order])
    twice = {"sinogram": np.concatenate([y + 0.01, y[:, ::-1] - 0.01], 1), "angles": np.concatenate([angles, angles[::-1] + 360])}
    again = sinograms.read(save(tmp_path / "b.npz", case, **twice))
    assert again.values == pytest.approx(y, abs=1e-5)
    assert "60 views at an angle that was there already were averaged with it" in again.notes


@pytest.mark.filterwarnings("ignore:.*has no geometry")
def test_a_bare_array_that_is_neither_says_how_to_be_a_sinogram(tmp_path, case):
    np.save(tmp_path / "scan.npy", case.measurement["sinogram"].values)
    with pytest.raises(DataError, match="values run from 0 to .*if it is a sinogram, give its --angles, --detector-mm and --slice-mm"):
        Reconstruct(method="fbp")([tmp_path / "scan.npy"], tmp_path / "out")
    with pytest.raises(DataError, match="there is no file nowhere.txt; give a list such as"):
        Reconstruct(method="fbp", angles="nowhere.txt")([tmp_path / "scan.npy"], tmp_path / "out")


@pytest.mark.parametrize("name", ["scan.nc", "scan.npz"])
def test_a_file_that_only_has_the_name_is_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"not at all")
    with pytest.raises(DataError, match=f"{name} is not a"):
        Reconstruct(method="fbp")([tmp_path / name], tmp_path / "out")


def test_a_netcdf_with_other_axes_or_uneven_detectors_is_refused(tmp_path, case):
    case.measurement.rename(z="slice").to_netcdf(tmp_path / "axes.nc", engine="h5netcdf")
    with pytest.raises(DataError, match=r"no variable 'sinogram' with dims \(z, angle, detector\)"):
        sinograms.read(tmp_path / "axes.nc")
    uneven = case.measurement.assign_coords(detector=np.arange(46.0) ** 2)
    uneven.to_netcdf(tmp_path / "uneven.nc", engine="h5netcdf")
    with pytest.raises(DataError, match="'detector' must grow in equal steps"):
        sinograms.read(tmp_path / "uneven.nc")


def test_angles_of_a_small_arc_are_degrees_where_it_is_said(tmp_path, case):
    path = save(tmp_path / "scan.npz", case, angles=np.arange(60) / 10.0)
    assert max(sinograms.read(path, angle_unit="degrees").angles) == pytest.approx(math.radians(5.9))
    assert max(sinograms.read(path).angles) == pytest.approx(5.9)


@pytest.mark.parametrize(
    ("options", "says"),
    [({"method": "fpb"}, "no method 'fpb'; did you mean 'fbp'.*there are fbp, "),
     ({"method": "sirt", "options": {"iteration": 3}}, "method sirt has no option 'iteration'; did you mean 'iterations'"),
     ({"method": "sirt", "options": {"iterations": "many"}}, "method sirt: iterations: .*, got 'many'"),
     ({"method": "sirt", "options": {"iterations": 0}}, "iterations must be at least 1"),
     ({"method": "medical/ct-prior"}, "is a training, not a method"),
     ({"method": "dds", "options": {"start": "fpb"}}, "no method 'fpb'"),
     ({"method": "dds", "options": {"start": "dds"}}, "method dds starts from itself")],
)  # fmt: skip
def test_methods_and_options_that_do_not_exist_are_refused_before_any_file_is_read(tmp_path, options, says):
    with pytest.raises(UserError, match=says):
        Reconstruct(**options)([tmp_path / "nothing.npz"], tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "says"),
    [({"views": 0}, "views must be at least 1"), ({"span": 200.0}, "span must be above 0 and below"), ({"noise": "loud"}, "noise must be"),
     ({"size": -1}, "size must not be negative"), ({"pixel_mm": math.nan}, "pixel_mm must not be negative"), ({"i0": 0.0}, "i0 must be")],
)  # fmt: skip
def test_options_out_of_range_are_refused(options, says):
    with pytest.raises(UserError, match=says):
        Reconstruct(**options)


def test_no_file_and_no_checkpoint_are_said(tmp_path, case):
    with pytest.raises(UserError, match="name at least one sinogram or volume"):
        Reconstruct(method="fbp")([], tmp_path)
    with pytest.raises(CheckpointError, match="no checkpoint folder"):
        Reconstruct(checkpoint=str(tmp_path / "gone"))([save(tmp_path / "scan.npz", case)], tmp_path / "out")


def test_a_registered_method_of_any_plugin_can_be_named(tmp_path, case):
    path = save(tmp_path / "scan.npz", case)
    result = Reconstruct(method="medical/sirt", options={"iterations": 3})([path], tmp_path / "out")
    assert result["results"][0]["method"] == "medical/sirt"


def test_mr_given_as_ct_is_refused(tmp_path):
    np.savez(tmp_path / "mr.npz", volume=np.random.default_rng(0).uniform(0, 900, (4, 16, 16)), spacing_mm=[5.0, 2.0, 2.0])
    with pytest.raises(DataError, match="does not look like CT"):
        Reconstruct(method="fbp")([tmp_path / "mr.npz"], tmp_path / "out")


def test_the_command_line_reconstructs_and_fails_in_a_sentence(tmp_path, case, capsys):
    from unstir_pipelines.cli.app import call

    path, out = save(tmp_path / "scan.npz", case), tmp_path / "out"
    told = ["apply", "medical/reconstruct", str(path), "--out", str(out), "--method", "sirt", "--options", "{iterations: 2}"]
    assert call([*told, "--json"], is_debug=False) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["results"][0]["options"]["sirt"]["iterations"] == 2
    assert call([*told[:2], str(save(tmp_path / "bad.npz", case, angles=None)), *told[3:]], is_debug=False) == 1
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert "does not say its view angles" in error
    assert len(error.splitlines()) == 1
