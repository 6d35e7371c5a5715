"""DICOM series: order, spacing, tilt, units, padding, mixtures."""

import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

from unstir.errors import DataError, MissingExtra
from unstir_data import fetch
from unstir_medical.readers import read
from unstir_medical.volume import affine_of, spacing_of

GE = Path(__file__).parents[4] / "shared" / "data" / "medical" / "ge_head_tilt.zip"
SERIES = generate_uid()


@pytest.fixture
def hu():
    values = np.random.default_rng(0).integers(-1000, 900, (6, 8, 10))
    values[:, 0] = -1000
    return values  # (z, y, x), LPS; cells 5 x 2 x 1.5 mm, first at (-7, 3, 11)


def header(rows, columns, **fields):
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = CTImageStorage
    image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = generate_uid()
    image.Modality, image.SeriesInstanceUID, image.SeriesNumber, image.SeriesDescription = "CT", SERIES, 3, "Thorax 5.0"
    image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    image.Rows, image.Columns, image.SamplesPerPixel, image.PhotometricInterpretation = rows, columns, 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
    image.PixelSpacing, image.SliceThickness = [2.0, 1.5], 7.0
    image.ImageOrientationPatient, image.ImagePositionPatient = [1, 0, 0, 0, 1, 0], [-7.0, 3.0, 11.0]
    image.RescaleSlope, image.RescaleIntercept = 1, 0
    for name, value in fields.items():
        if value is None:
            delattr(image, name)
        else:
            setattr(image, name, value)
    return image


def write(path, stored, **fields):
    image = header(*stored.shape[-2:], **fields)
    image.PixelData = stored.astype("<u2" if image.PixelRepresentation == 0 else "<i2").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save_as(path, enforce_file_format=True)
    return path


def series(folder, hu, heights=None, positions=None, **fields):
    """One file a slice, named so that the order by name is not the order in the patient."""
    heights = 11.0 + 5.0 * np.arange(len(hu)) if heights is None else heights
    for k, plane in enumerate(hu):
        place = [-7.0, 3.0, float(heights[k])] if positions is None else [float(p) for p in positions[k]]
        own = {name: value(k) if callable(value) else value for name, value in fields.items()}
        write(folder / f"{(k * 7) % 64:02d}", plane, **({"ImagePositionPatient": place, "InstanceNumber": 40 - k} | own))
    return folder


def test_slices_are_ordered_by_place_not_by_name_or_number(tmp_path, hu):
    volume = read(series(tmp_path / "ct", hu))
    np.testing.assert_array_equal(volume["hu"], hu)
    assert spacing_of(volume) == (5.0, 2.0, 1.5)
    np.testing.assert_allclose([volume.x[0], volume.y[0], volume.z[0]], [-7, 3, 11])
    assert volume.attrs["key"] == "ct"


def test_slices_from_head_to_feet_are_turned_up(tmp_path, hu):
    np.testing.assert_array_equal(read(series(tmp_path, hu, heights=31.0 - 5.0 * np.arange(6)))["hu"], hu[::-1])


def test_a_coronal_series_is_turned_into_patient_order(tmp_path, hu):
    """Slices along y (anterior to posterior), rows downward along -z."""
    folder = tmp_path / "coronal"
    for j in range(hu.shape[1]):
        write(
            folder / str(j),
            hu[::-1, j],
            ImageOrientationPatient=[1, 0, 0, 0, 0, -1],
            ImagePositionPatient=[-7, 3 + 2 * j, 36],
            PixelSpacing=[5, 1.5],
        )
    volume = read(folder)
    np.testing.assert_array_equal(volume["hu"], hu)
    assert spacing_of(volume) == (5.0, 2.0, 1.5)


def test_slope_and_intercept_are_taken_slice_by_slice(tmp_path, hu):
    slopes, intercepts = [1, 2, 1, 4, 1, 2], [0, -1024, -1000, 8, 16, -200]
    stored = np.stack([(plane // 4 * 4 - b) // s for plane, s, b in zip(hu, slopes, intercepts, strict=True)])
    expected = np.stack([p * s + b for p, s, b in zip(stored, slopes, intercepts, strict=True)])
    folder = series(tmp_path, stored, RescaleSlope=lambda k: slopes[k], RescaleIntercept=lambda k: intercepts[k])
    np.testing.assert_array_equal(read(folder)["hu"], expected)


@pytest.mark.parametrize(("representation", "bits", "offset"), [(0, 12, 1024), (0, 16, 1024), (1, 16, 0), (1, 12, 0)])
def test_pixel_representation_and_bits_stored_are_honoured(tmp_path, hu, representation, bits, offset):
    stored = hu + offset
    if representation == 1 and bits == 12:
        stored = np.where(stored < 0, stored + 4096, stored)  # sign in bit 11, upper bits empty
    elif bits == 12:
        stored = stored | 0x1000  # an overlay plane in a bit above BitsStored
    stored = stored.astype(np.uint16 if representation == 0 else np.int16)
    folder = series(tmp_path, stored, PixelRepresentation=representation, BitsStored=bits, HighBit=bits - 1, RescaleIntercept=-offset)
    np.testing.assert_array_equal(read(folder)["hu"], hu)


def test_padding_becomes_air(tmp_path, hu):
    stored = hu.copy()
    stored[:, :2, :2] = -1500
    stored[:, 2:3, :2] = -2000
    stored[:, 4, 4] = 3500
    expected = np.where((stored < -1024) | (stored == 3500), -1000, stored)
    np.testing.assert_array_equal(read(series(tmp_path / "a", stored, PixelPaddingValue=3500))["hu"], expected)
    # a padding value among tissue would punch holes into it: it is not believed
    np.testing.assert_array_equal(read(series(tmp_path / "b", hu, PixelPaddingValue=int(hu[2, 3, 3])))["hu"], hu)


def test_monochrome1_is_a_display_hint_unless_air_is_bright(tmp_path, hu):
    hu = hu.copy()
    hu[:, 0], hu[:, -1], hu[:, :, 0], hu[:, :, -1] = -1000, -1000, -1000, -1000
    np.testing.assert_array_equal(read(series(tmp_path / "a", hu, PhotometricInterpretation="MONOCHROME1"))["hu"], hu)
    turned = series(
        tmp_path / "b",
        4095 - (hu + 1024),
        PhotometricInterpretation="MONOCHROME1",
        PixelRepresentation=0,
        BitsStored=12,
        HighBit=11,
        RescaleIntercept=-1024,
    )
    with pytest.warns(UserWarning, match="turned over"):
        np.testing.assert_array_equal(read(turned)["hu"], hu)


def test_an_empty_folder_and_a_folder_of_other_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"holds no DICOM images \(0 files"):
        read(tmp_path)
    (tmp_path / "viewer.exe").write_bytes(b"MZ" + bytes(300))
    with pytest.raises(DataError, match=r"holds no DICOM images \(1 file looked"):
        read(tmp_path)


def test_two_series_need_a_choice(tmp_path, hu):
    series(tmp_path / "a", hu)
    series(tmp_path / "b", hu[:4] + 1, SeriesInstanceUID=generate_uid(), SeriesNumber=4, SeriesDescription="Abdomen 3.0")
    with pytest.raises(
        DataError, match=r"holds 2 series \(3: Thorax 5.0, 6 images; 4: Abdomen 3.0, 4 images\); choose one with series=NUMBER"
    ):
        read(tmp_path)
    for choice in (4, "4", "abdomen"):
        np.testing.assert_array_equal(read(tmp_path, series=choice)["hu"], hu[:4] + 1)
    with pytest.raises(DataError, match="has no series 'pelvis'"):
        read(tmp_path, series="pelvis")


def test_localisers_and_derived_images_are_left_out(tmp_path, hu):
    series(tmp_path, hu)
    write(tmp_path / "loc", hu[0], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"], ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    np.testing.assert_array_equal(read(tmp_path)["hu"], hu)
    write(tmp_path / "scout", hu[0], SeriesInstanceUID=generate_uid(), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    np.testing.assert_array_equal(read(tmp_path)["hu"], hu)
    write(tmp_path / "mip", hu[0] + 3, ImageType=["DERIVED", "SECONDARY", "MIP"])
    with pytest.warns(UserWarning, match="1 derived images beside 6 original"):
        np.testing.assert_array_equal(read(tmp_path)["hu"], hu)
    (tmp_path / "mip").unlink()
    write(tmp_path / "odd", np.zeros((4, 4)))
    with pytest.warns(UserWarning, match="another size or orientation"):
        np.testing.assert_array_equal(read(tmp_path)["hu"], hu)


def test_two_stacks_in_one_series_are_refused(tmp_path, hu):
    series(tmp_path / "a", hu)
    series(tmp_path / "b", hu[:5], ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    with pytest.raises(DataError, match="mixes images of 2 different sizes, pixel sizes or orientations"):
        read(tmp_path)


def test_a_slice_that_stands_twice_counts_once_and_two_phases_are_refused(tmp_path, hu):
    series(tmp_path, hu)
    again = write(tmp_path / "again", hu[2], ImagePositionPatient=[-7, 3, 21])
    with pytest.warns(UserWarning, match="1 slices stand there twice"):
        np.testing.assert_array_equal(read(tmp_path)["hu"], hu)
    write(again, hu[2] + 1, ImagePositionPatient=[-7, 3, 21])
    with pytest.raises(DataError, match="two different images at one place"):
        read(tmp_path)


def test_missing_slices_are_named_and_filled_on_demand(tmp_path, hu):
    kept = [0, 1, 4, 5]
    folder = series(tmp_path, hu[kept], heights=11.0 + 5.0 * np.array(kept))
    with pytest.raises(DataError, match=r"has 2 missing slices \(the others are 5 mm apart, gaps lie 5 mm from the first\)"):
        read(folder)
    with pytest.warns(UserWarning, match="interpolated"):
        volume = read(folder, resample=True)
    assert spacing_of(volume) == (5, 2, 1.5)
    np.testing.assert_allclose(volume["hu"][kept], hu[kept], atol=1e-3)
    np.testing.assert_allclose(volume["hu"][2], (2 * hu[1] + hu[4]) / 3, atol=1e-3)


def test_variable_spacing_is_refused_or_resampled(tmp_path, hu):
    heights = np.array([0.0, 1.1, 5, 9, 16, 23])
    folder = series(tmp_path, np.broadcast_to(np.rint(20 * heights)[:, None, None] - 1000, hu.shape), heights=heights)
    with pytest.raises(DataError, match=r"variable spacing \(slices 1.1 to 7 mm apart along the normal\); resample=True"):
        read(folder)
    with pytest.warns(UserWarning, match="interpolated"):
        volume = read(folder, resample=2.0)
    assert spacing_of(volume) == (2, 2, 1.5)
    np.testing.assert_allclose(volume["hu"][:, 3, 3], 20 * volume.z - 1000, atol=1e-2)


def test_slice_thickness_is_not_the_spacing(tmp_path, hu):
    assert spacing_of(read(series(tmp_path, hu, SliceThickness=1.25)))[0] == 5.0


def test_a_gantry_tilt_is_refused_or_straightened(tmp_path):
    """A ball, scanned by slices tilted 20 degrees whose corners are stacked along z: its centre of mass must stay."""
    angle = np.radians(20)
    row = np.array([0, np.cos(angle), -np.sin(angle)])
    k, j, i = np.mgrid[:16, :32, :24]
    points = (
        np.array([-18.0, -30.0, -30.0])
        + k[..., None] * np.array([0, 0, 4.0])
        + j[..., None] * 2.0 * row
        + i[..., None] * np.array([1.5, 0, 0])
    )
    ball = np.where(np.linalg.norm(points - [1.0, 4.0, -6.0], axis=-1) < 9, 800, -1000)
    positions = [[-18.0, -30.0, -30.0 + 4.0 * n] for n in range(16)]
    folder = series(tmp_path, ball, positions=positions, ImageOrientationPatient=[1, 0, 0, 0, float(row[1]), float(row[2])])
    with pytest.raises(DataError, match=r"a gantry tilt of 20.0 degrees \(slices drift by 10 pixels\)"):
        read(folder)
    with pytest.warns(UserWarning, match="interpolated"):
        volume = read(folder, resample=True)
    mass = volume["hu"].values + 1000
    z, y, x = (float((mass * n).sum() / mass.sum()) for n in np.indices(mass.shape))
    np.testing.assert_allclose(affine_of(volume) @ [x, y, z, 1], [1.0, 4.0, -6.0, 1.0], atol=0.3)  # mm; cells have 2 to 4
    assert mass.max() < 1800.1


def test_other_modalities_colours_and_units_are_refused(tmp_path, hu):
    with pytest.raises(DataError, match="holds MR images and CT is wanted; no CT recipe fits MR"):
        read(series(tmp_path / "mr", hu, Modality="MR"))
    with pytest.raises(DataError, match="values in MGML, not HU"):
        read(series(tmp_path / "dual", hu, RescaleType="MGML"))
    with pytest.raises(DataError, match="colour image"):
        read(series(tmp_path / "rgb", hu, SamplesPerPixel=3))
    with pytest.raises(DataError, match="no ImagePositionPatient"):
        read(series(tmp_path / "lost", hu, ImagePositionPatient=None))
    with pytest.raises(DataError, match="no usable geometry"):
        read(series(tmp_path / "zero", hu, PixelSpacing=[0, 2]))
    assert read(series(tmp_path / "mr2", hu + 1000, Modality="MR"), modality="MR")["intensity"].shape == hu.shape


def test_truncated_pixels_are_named(tmp_path, hu):
    folder = series(tmp_path, hu)
    victim = pydicom.dcmread(folder / "07")
    victim.PixelData = victim.PixelData[:50]
    victim.save_as(folder / "07")
    with pytest.raises(DataError, match="07 has damaged pixels"):
        read(folder)


def test_a_missing_decoder_names_its_package(tmp_path, hu, monkeypatch):
    folder = series(tmp_path, hu)
    victim = pydicom.dcmread(folder / "07")
    victim.file_meta.TransferSyntaxUID = pydicom.uid.JPEG2000Lossless
    victim.PixelData = pydicom.encaps.encapsulate([b"not decoded here"])
    victim["PixelData"].is_undefined_length = True
    victim.save_as(folder / "07")
    real, absent = pydicom.pixels.get_decoder, type("Absent", (), {"is_available": False})
    monkeypatch.setattr(pydicom.pixels, "get_decoder", lambda syntax: absent if syntax.is_encapsulated else real(syntax))
    with pytest.raises(MissingExtra, match=r"07 is compressed as JPEG 2000 .*pip install pylibjpeg pylibjpeg-openjpeg"):
        read(folder)


def test_a_single_slice_takes_its_thickness(tmp_path, hu):
    path = write(tmp_path / "one.dcm", hu[1])
    volume = read(path)
    assert volume["hu"].shape == (1, 8, 10)
    assert spacing_of(volume)[0] == 7.0
    with pytest.raises(DataError, match="one slice without SliceThickness"):
        read(write(path, hu[1], SliceThickness=None))


def test_an_enhanced_multi_frame_file_is_a_volume(tmp_path, hu):
    image = header(*hu.shape[1:], SOPClassUID=EnhancedCTImageStorage, NumberOfFrames=len(hu))
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "RescaleSlope", "RescaleIntercept"):
        delattr(image, name)

    def item(**fields):
        part = Dataset()
        for name, value in fields.items():
            setattr(part, name, value)
        return part

    order = [3, 0, 5, 1, 4, 2]
    image.PerFrameFunctionalGroupsSequence = Sequence([
        item(PlanePositionSequence=Sequence([item(ImagePositionPatient=[-7, 3, 11 + 5 * k])]),
             PixelValueTransformationSequence=Sequence([item(RescaleSlope=1, RescaleIntercept=-10 * k, RescaleType="HU")]))
        for k in order
    ])  # fmt: skip
    image.SharedFunctionalGroupsSequence = Sequence([
        item(PlaneOrientationSequence=Sequence([item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]),
             PixelMeasuresSequence=Sequence([item(PixelSpacing=[2.0, 1.5], SliceThickness=5)]))
    ])  # fmt: skip
    image.PixelData = np.stack([hu[k] + 10 * k for k in order]).astype("<i2").tobytes()
    image.save_as(tmp_path / "enhanced.dcm", enforce_file_format=True)
    volume = read(tmp_path / "enhanced.dcm")
    np.testing.assert_array_equal(volume["hu"], hu)
    assert spacing_of(volume) == (5.0, 2.0, 1.5)
    del image.PerFrameFunctionalGroupsSequence
    image.save_as(tmp_path / "plain.dcm", enforce_file_format=True)
    with pytest.raises(DataError, match="6 frames without a position"):
        read(tmp_path / "plain.dcm")


@pytest.mark.skipif(not GE.exists(), reason="the yardstick data (GE head series with tilt) stand only beside a checkout")
def test_the_real_ge_series_with_tilt_and_variable_spacing(tmp_path):
    with zipfile.ZipFile(GE) as archive:
        archive.extractall(tmp_path)
    with pytest.raises(DataError, match=r"variable spacing \(slices 1.08 to 7 mm .* and a gantry tilt of 18.5 degrees"):
        read(tmp_path)
    with pytest.warns(UserWarning, match="interpolated"):
        volume = read(tmp_path, resample=True)
    assert volume["hu"].shape == (37, 611, 512)
    assert spacing_of(volume) == pytest.approx((4.0, 0.488, 0.488), abs=5e-3)
    assert -1024 <= float(volume["hu"].min()) < -990
    assert float(volume["hu"].max()) > 1500


def test_the_real_jpeg2000_series():
    folder = fetch.cached("medical/siemens")
    if folder is None:
        pytest.skip("medical/siemens is not in the cache (unstir data get medical/siemens)")
    volume = read(folder)
    assert volume["hu"].shape == (20, 512, 512)
    assert spacing_of(volume) == (2.0, 0.9765625, 0.9765625)
    assert (float(volume["hu"].min()), float(volume["hu"].max())) == (-1024, 1839)
    assert float(volume.z[0]) == -804.5


def test_a_series_written_as_nifti_is_the_same_volume(tmp_path, hu):
    from unstir_medical.writers import write

    volume = read(
        series(tmp_path / "ct", hu, ImageOrientationPatient=[-1, 0, 0, 0, 1, 0], ImagePositionPatient=lambda k: [6.5, 3, 11 + 5 * k])
    )
    back = read(write(volume, tmp_path / "ct.nii.gz")[0])
    np.testing.assert_array_equal(back["hu"], volume["hu"])
    np.testing.assert_array_equal(back["hu"], hu[:, :, ::-1])
    np.testing.assert_allclose(affine_of(back), affine_of(volume), atol=1e-5)
    assert back.attrs["orientation"] == volume.attrs["orientation"] == "RPI"  # n = row x column points down
