"""Files of series: what is written is read back, every format gives the same panel, what is no such file is said in a sentence."""

import gzip
import json
import pickle
import warnings
import zipfile

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from unstir.errors import DataError, MissingExtra, UserError
from unstir_timeseries.frames import to_frame, to_panels
from unstir_timeseries.panel import panel as make
from unstir_timeseries.readers import read, stem, write

HOURS = pd.date_range("2024-01-01", periods=30, freq="h")


@pytest.fixture
def panel():
    """Ragged series with holes, names that look like numbers and like nothing, a covariate beyond the last value, a category."""
    y = np.random.default_rng(0).normal(size=(3, 30)) * np.array([[1e12], [1.0], [1e-12]])
    y[0, :5] = y[1, 7] = y[:, 26:] = np.nan
    known = np.arange(90.0).reshape(1, 3, 30) / 7
    category = {"shop": ["01", "NA", "ü"]}
    return make(y, HOURS, ["007", "NA", "x,y"], freq="h", season=24, key="load", known=known, covariates=["temp"], category=category)


def quietly(path, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (panel,) = read(path, **options)
    return panel


# round trips ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["load.parquet", "load.nc", "load.csv", "load.csv.gz", "LOAD.CSV"])
def test_what_is_written_is_read_back(tmp_path, panel, name):
    path = write(panel, tmp_path / "new" / name)
    options = {"known": ["temp"], "static": ["shop"]} if "csv" in name.lower() else {}
    xr.testing.assert_identical(quietly(path, key="load", **options), panel)
    assert [one.name for one in path.parent.iterdir()] == [name]  # nothing half written stays


@pytest.mark.parametrize("freq", ["D", "B", "ME", "W-WED", "15min", "QS"])
def test_every_frequency_is_read_back(tmp_path, freq):
    made = make(
        np.arange(40.0).reshape(2, 20), pd.date_range("2024-01-31", periods=20, freq=freq), ["a", "b"], freq=freq, season=1, key="f"
    )
    for suffix in ("parquet", "csv", "nc"):
        xr.testing.assert_equal(quietly(write(made, tmp_path / f"f.{suffix}")), made)


def test_a_panel_of_one_step_is_read_back_from_what_keeps_its_frequency(tmp_path):
    made = make(np.ones((1, 1)), HOURS[:1], ["a"], freq="h", season=24, key="f")
    for suffix in ("parquet", "nc"):
        xr.testing.assert_identical(quietly(write(made, tmp_path / f"f.{suffix}")), made)
    with pytest.raises(DataError, match=r"f\.csv: series 'a' has 1 stamp.*give freq="):
        read(write(made, tmp_path / "f.csv"))


def test_few_business_days_are_read_back(tmp_path):
    made = make(np.ones((1, 3)), pd.bdate_range("2024-01-01", periods=3), ["a"], freq="B", season=5, key="f")
    xr.testing.assert_identical(quietly(write(made, tmp_path / "f.parquet")), made)  # by their stamps alone they would be days


def test_a_time_zone_is_read_back(tmp_path):
    local = pd.Series(np.arange(30.0), HOURS.tz_localize("Europe/Berlin"), name="a")
    with pytest.warns(UserWarning, match="kept in UTC"):
        (made,) = to_panels(local, key="f")
    for suffix in ("parquet", "nc", "csv"):
        path = write(made, tmp_path / f"f.{suffix}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            (again,) = read(path)
        xr.testing.assert_equal(again, made)
        assert (to_frame(again)["ds"].to_numpy() == to_frame(made)["ds"].to_numpy()).all()


def test_counted_steps_are_read_back(tmp_path):
    with pytest.warns(UserWarning, match="count steps"):
        (made,) = to_panels(pd.DataFrame({"ds": range(5, 15), "y": np.arange(10.0)}), freq="h", key="f")
    with pytest.warns(UserWarning, match="count steps"):
        (again,) = read(write(made, tmp_path / "f.parquet"))
    xr.testing.assert_identical(again, made)


def test_what_changed_since_is_not_taken_from_what_was_kept(tmp_path, panel):
    path = write(panel, tmp_path / "f.parquet")
    frame = pd.read_parquet(path)
    days = frame.groupby(["unique_id", frame["ds"].dt.normalize()])["y"].mean().rename_axis(["unique_id", "ds"]).reset_index()
    days.attrs = frame.attrs
    days.to_parquet(path)
    read_back = quietly(path)
    np.testing.assert_array_equal(read_back["y"], days["y"].to_numpy().reshape(3, 2))
    assert read_back.attrs["freq"] == "D"
    assert "known" not in read_back


@pytest.mark.parametrize(("name", "wrong"), [("a.xlsx", UserError), ("a", UserError), ("a.pkl", UserError)])
def test_what_cannot_be_written_is_said(tmp_path, panel, name, wrong):
    with pytest.raises(wrong, match=r"a panel is written as \.parquet, \.csv, \.csv\.gz or \.nc"):
        write(panel, tmp_path / name)
    with pytest.raises(DataError, match="only a panel can be written"):
        write(xr.Dataset(), tmp_path / "a.nc")
    assert list(tmp_path.iterdir()) == []


# formats ----------------------------------------------------------------------------------------------------------------------------


def frame():
    parts = [pd.DataFrame({"unique_id": name, "ds": HOURS, "y": np.arange(30) / 8 + k}) for k, name in enumerate("ab")]
    return pd.concat(parts, ignore_index=True)


def test_every_format_of_the_same_series_is_the_same_panel(tmp_path):
    long = frame()
    wide = long.pivot(index="ds", columns="unique_id", values="y")
    (expected,) = to_panels(long, key="f")
    long.to_csv(tmp_path / "f.csv", index=False)
    long.to_csv(tmp_path / "f.tsv", index=False, sep="\t")
    (tmp_path / "semi").mkdir()
    long.to_csv(tmp_path / "semi" / "f.csv", index=False, sep=";", decimal=",")
    for packing in ("gz", "xz", "bz2", "zip"):
        long.to_csv(tmp_path / f"f.csv.{packing}", index=False)
    wide.to_parquet(tmp_path / "f.parquet")
    (tmp_path / "bom").mkdir()
    long.to_csv(tmp_path / "bom" / "f.csv", index=False, encoding="utf-8-sig")
    (tmp_path / "wide").mkdir()
    wide.to_csv(tmp_path / "wide" / "f.csv")
    xr.Dataset({"y": (("time", "item"), wide.to_numpy())}, {"time": HOURS, "item": ["a", "b"]}).to_netcdf(tmp_path / "f.nc")
    xr.Dataset({name: ("time", wide[name].to_numpy()) for name in "ab"}, {"time": HOURS}).to_netcdf(
        tmp_path / "f.nc4", format="NETCDF3_CLASSIC"
    )
    lines = [json.dumps({"start": "2024-01-01 00:00:00", "target": wide[name].tolist(), "item_id": name}) for name in "ab"]
    (tmp_path / "f.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "f.json.gz").write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))
    (tmp_path / "f.json").write_text("[" + ",".join(lines) + "]")
    files = [path for path in sorted(tmp_path.rglob("*")) if path.is_file()]
    assert len(files) == 15
    for path in files:
        options = {"freq": "H"} if ".json" in path.name else {}
        xr.testing.assert_identical(quietly(path, **options), expected)
    (tmp_path / "f.json").write_text(json.dumps(long.assign(ds=long["ds"].astype(str)).to_dict("records")))
    xr.testing.assert_identical(quietly(tmp_path / "f.json"), expected)


def test_numbers_of_a_text_file_are_read_to_the_last_bit(tmp_path):
    values = np.random.default_rng(0).normal(size=200) * 10.0 ** np.random.default_rng(1).integers(-300, 300, 200)
    made = make(values[None], pd.date_range("2024", periods=200, freq="h"), ["a"], freq="h", season=24, key="f")
    np.testing.assert_array_equal(quietly(write(made, tmp_path / "f.csv"))["y"], values[None])


def test_missing_values_of_a_text_file_are_nan(tmp_path):
    gaps = ["", "NA", "nan", "NULL", "null", "NaN", "n/a"]
    rows = [f"NA,2024-01-01 {k:02d}:00,{value}" for k, value in enumerate(["1", *gaps, "2"])]
    (tmp_path / "f.csv").write_text("\n".join(["unique_id,ds,y", *rows]))
    made = quietly(tmp_path / "f.csv")
    assert list(made["item"].values) == ["NA"]
    np.testing.assert_array_equal(made["y"].values[0], [1, *[np.nan] * 7, 2])


def test_a_folder_of_gluonts_is_read(tmp_path):
    def lines(length, ids=("a", "b")):
        return "\n".join(json.dumps({"start": "2024-01-01", "target": list(range(length)), "item_id": name}) for name in ids)

    for part, text in {"train": lines(20), "test": lines(24) + "\n" + lines(28)}.items():
        (tmp_path / "set" / part).mkdir(parents=True)
        (tmp_path / "set" / part / "data.json").write_text(text)
    (tmp_path / "set" / "metadata.json").write_text(json.dumps({"freq": "H", "prediction_length": 4}))
    made = quietly(tmp_path / "set")
    assert made.attrs == {"key": "set", "freq": "h", "season": 24, "calendar": "known"}
    assert made.sizes == {"item": 2, "time": 20}
    with pytest.warns(UserWarning, match="windows of one item_id overlap: the longest of each is taken"):
        (test,) = read(tmp_path / "set", split="test")
    assert test.sizes == {"item": 2, "time": 28}
    with pytest.raises(DataError, match=r"a folder without other/data\.json"):
        read(tmp_path / "set", split="other")
    (tmp_path / "set" / "metadata.json").write_text("{")
    with pytest.raises(DataError, match=r"metadata\.json is not JSON"):
        read(tmp_path / "set")
    (tmp_path / "set" / "train" / "data.json").write_text(lines(4, "aa"))
    (tmp_path / "set" / "metadata.json").unlink()
    with pytest.raises(DataError, match="two series have one item_id"):
        read(tmp_path / "set", freq="h")


def test_zarr_is_read_where_it_is_installed(tmp_path, monkeypatch):
    (expected,) = to_panels(frame(), key="f")
    (tmp_path / "f.zarr").mkdir()
    monkeypatch.setitem(__import__("sys").modules, "zarr", None)
    with pytest.raises(MissingExtra, match=r"f\.zarr needs Zarr: pip install zarr"):
        read(tmp_path / "f.zarr")
    monkeypatch.undo()
    pytest.importorskip("zarr")
    with pytest.raises(DataError, match="is not a Zarr group that can be read"):
        read(tmp_path / "f.zarr")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected.to_zarr(tmp_path / "g.zarr")
        (again,) = read(tmp_path / "g.zarr")
    xr.testing.assert_equal(again, expected)


def test_the_key_is_the_stem():
    from pathlib import Path

    names = {"a.csv.gz": "a", "a.b.parquet": "a.b", "folder": "folder", ".csv": ".csv", "x.zarr": "x", "A.CSV": "A"}
    assert {name: stem(Path("d") / name) for name in names} == names


# bad files --------------------------------------------------------------------------------------------------------------------------

PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.csv", b"", r"a\.csv is empty: it has no bytes"),
        ("a.csv", PNG, r"a\.csv is not CSV \(it starts like a PNG image\)"),
        ("a.json", PNG, r"a\.json is not JSON \(it starts like a PNG image\)"),
        ("a.parquet", PNG, r"a\.parquet is not parquet \(it starts like a PNG image\)"),
        ("a.parquet", b"ds,y\n", r"a\.parquet is not parquet$"),
        ("a.parquet", b"PAR1" + bytes(50), r"a\.parquet is damaged: "),
        ("a.nc", PNG, r"a\.nc is not netCDF \(it starts like a PNG image\)"),
        ("a.nc", b"\x89HDF\r\n\x1a\n" + bytes(50), r"a\.nc is damaged: "),
        ("a.csv", b"PAR1" + bytes(50), r"is not CSV \(it starts like parquet; give it the suffix \.parquet\)"),
        ("a.csv", pickle.dumps(frame()), r"it starts like a pickle, which unstir never opens"),
        ("a.pkl", pickle.dumps(frame()), r"a\.pkl is a pickle, which unstir never opens \(it can run any code\)"),
        ("a.csv", gzip.compress(b"ds,y\n", mtime=0), r"it starts like gzip; give it the suffix \.gz"),
        ("a.csv.gz", b"ds,y\n2024-01-01,1\n", r"is not packed as its suffix \.gz says"),
        ("a.csv.gz", PNG, r"is not packed as its suffix \.gz says \(it starts like a PNG image\)"),
        ("a.csv.gz", gzip.compress(bytes(9999), mtime=0)[:20], r"a\.csv\.gz is not a table that can be read"),
        ("a.parquet.gz", gzip.compress(b"PAR1", mtime=0), "is packed; unpack it first"),
        ("a.xlsx", b"PK\x03\x04" + bytes(50), r"not a file of series .*a spreadsheet; save the sheet as CSV\); readable are parquet"),
        ("a.dat", b"1 2 3", r"a\.dat is not a file of series that unstir knows; readable are parquet"),
        ("a.csv", b"ds,y\n2024-01-01 00:00,\xff\xfe\n", r"a\.csv is not text in UTF-8"),
        ("a.csv", b"\n\n\n", r"a\.csv"),
        ("a.csv", b"ds,y\n", r"a\.csv: the frame is empty: it has no rows"),
        ("a.csv", b"ds,y,y\n2024-01-01,1,2\n", r"a\.csv: two columns are called 'y'"),
        ("a.csv", b"when,what\n2024-01-01,x\n2024-01-02,y\n", r"a\.csv: the frame has no column of numbers \(columns: when, what\)"),
        ("a.csv", b"a,b\n1,2\n", r"a\.csv: there is no column 'ds' \(columns: a, b\)"),
        ("a.csv", b"unique_id,ds,value\na,2024-01-01,1\n", r"a\.csv: there is no column 'y'; did you mean target_col='value'"),
        ("a.csv", b"ds,y\n2024-01-01,1\n2024-01-02,oops\n", r"a\.csv: column 'y' holds 'oops' in row 1"),
        ("a.csv", b"ds,y\n2024-01-01,1\n2024-01-02,inf\n", r"a\.csv: column 'y' is infinite 1 time, first in row 1"),
        ("a.csv", b"ds,y\n2024-01-01,1,3,4\n2024-01-02,2\n", r"a\.csv has lines with more fields than column names"),
        ("a.json", b'{"start": "2024-01-01", "target": [1]}\n{oops\n', r"a\.json is not JSON in line 2"),
        ("a.json", b"[1, 2", r"a\.json is not JSON"),
        ("a.json", b"3\n4\n", r"a\.json holds no series: a line is to be an object with start and target"),
        ("a.jsonl", b"\n\n", r"a\.jsonl holds no series"),
        ("a.json", b"\xff\xfe\x00", r"a\.json is not text in UTF-8"),
        ("a.json.gz", gzip.compress(b"[]" * 999, mtime=0)[:20], r"a\.json\.gz is damaged"),
        ("a.json", b'{"start": "2024-01-01", "target": [1]}', r"a\.json: series '0' carries no frequency"),
    ],
)
def test_what_is_no_file_of_series_is_said(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=sentence) as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_zip_of_several_files_is_said(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.csv.zip", "w") as made:
        made.writestr("a.csv", "ds,y\n")
        made.writestr("b.csv", "ds,y\n")
    with pytest.raises(DataError, match=r"a\.csv\.zip is not a table that can be read: Multiple files"):
        read(tmp_path / "a.csv.zip")


def test_what_is_missing_and_folders_are_said(tmp_path):
    with pytest.raises(DataError, match=r"load\.csv does not exist"):
        read(tmp_path / "load.csv")
    with pytest.raises(DataError, match=r"is a folder without train/data\.json: give a file"):
        read(tmp_path)


def test_options_are_checked(tmp_path):
    frame().to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(UserError, match="reading series has no option 'frequency'; did you mean 'freq'"):
        read(tmp_path / "a.csv", frequency="h")
    with pytest.raises(UserError, match="split= chooses a part of a folder of GluonTS, and this is none"):
        read(tmp_path / "a.csv", split="test")
    with pytest.raises(UserError, match=r"a\.csv: there is no frequency 'hh'"):
        read(tmp_path / "a.csv", freq="hh")


def test_what_is_said_of_a_file_is_said_to_its_reader(tmp_path):
    frame().sample(frac=1, random_state=0).to_csv(tmp_path / "a.csv", index=False)
    with pytest.warns(UserWarning, match="not in order of time: sorted") as heard:
        read(tmp_path / "a.csv")
    assert [one.filename for one in heard] == [__file__]
