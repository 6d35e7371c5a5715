"""Files of series: parquet, CSV, JSON lines of GluonTS (or a folder of them), netCDF, Zarr; and their writing.

read(write(panel, path)) = panel
"""

from __future__ import annotations

import csv
import gzip
import inspect
import json
import os
import re
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr

from unstir.errors import DataError, MissingExtra, UserError, nearest
from unstir_timeseries.columns import MISSING
from unstir_timeseries.frames import is_panel, to_frame, to_panels

READABLE = "readable are parquet, CSV and TSV (.gz, .xz, .bz2, .zip too), JSON lines of GluonTS, netCDF and Zarr"
_STARTS = {
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"%PDF": "a PDF",
    b"PK\x03\x04": "a zip archive, or a spreadsheet; save the sheet as CSV",
    b"\xd0\xcf\x11\xe0": "an old spreadsheet; save the sheet as CSV",
    b"\x1f\x8b": "gzip; give it the suffix .gz",
    b"\xfd7zXZ": "xz; give it the suffix .xz",
    b"BZh": "bzip2; give it the suffix .bz2",
    b"PAR1": "parquet; give it the suffix .parquet",
    b"\x89HDF": "HDF5 or netCDF; give it the suffix .nc",
    b"CDF": "netCDF; give it the suffix .nc",
    b"SQLite": "an SQLite database",
    b"\x80\x02": "a pickle, which unstir never opens",
    b"\x80\x03": "a pickle, which unstir never opens",
    b"\x80\x04": "a pickle, which unstir never opens",
    b"\x80\x05": "a pickle, which unstir never opens",
}
_ABSENT = sorted({spelt for one in MISSING for spelt in (one, one.upper(), one.title(), one.replace("nan", "NaN"))})
_PANDAS = tuple(int(part) for part in pd.__version__.split(".")[:2])
_PACKED = {".gz": b"\x1f\x8b", ".xz": b"\xfd7zXZ", ".bz2": b"BZh", ".zip": b"PK\x03\x04"}
_BROKEN = (OSError, EOFError, ValueError, zlib.error, zipfile.BadZipFile, csv.Error, KeyError)


def read(path: str | Path, **options: Any) -> list[xr.Dataset]:
    """Panels of a file, one for each frequency.

    Args:
        path: the file; its suffix says the format. A folder is Zarr, or of GluonTS (``train/data.json``, ``metadata.json``).
        options: those of `unstir_timeseries.frames.to_panels` (``freq``, ``known``, ``static``, ``id_col``, ``time_col``, ``target_col``,
            ``duplicates``, ...); ``split`` ("train", "test") chooses the part of a folder of GluonTS. ``key`` is the
            file's stem by default.

    Returns:
        The panels; see `unstir_timeseries.panel`.

    Raises:
        DataError: missing, empty, no such format, damaged, or not of series; one sentence names the file and the fault.
        UserError: an option is not one of these.
        MissingExtra: Zarr is not installed.
    """
    path = Path(path)
    known = {name for name, one in inspect.signature(to_panels).parameters.items() if one.kind is one.KEYWORD_ONLY} | {"split"}
    for name in options:
        if name not in known:
            like = nearest(name, known, 1)
            raise UserError(f"reading series has no option {name!r}{f'; did you mean {like[0]!r}?' if like else ''}")
    options["key"] = options.get("key") or stem(path)
    split = options.pop("split", None)
    reader = _reader(path)
    if split is not None and reader is not _folder:
        raise UserError(f"{path}: split= chooses a part of a folder of GluonTS, and this is none")
    try:
        data, found = _folder(path, split) if reader is _folder else reader(path, options)
        return _heard(data, {**found, **options})
    except (UserError, MissingExtra) as error:
        if str(path) in str(error):
            raise
        kind = DataError if isinstance(error, DataError) else UserError
        raise kind(f"{path}: {error}") from error


def _heard(data: Any, options: Mapping[str, Any]) -> list[xr.Dataset]:
    """The panels; what is said of them is said to the caller of `read`."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        panels = to_panels(data, **options)
    for one in said:
        warnings.warn(one.message, one.category, stacklevel=3)
    return panels


def stem(path: Path) -> str:
    """A file's name without the suffixes of its format and packing."""
    name = path.name
    for suffix in (*_PACKED, *_FORMATS):
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            name = name[: -len(suffix)]
    return name or "panel"


def _reader(path: Path) -> Any:
    if not path.exists():
        raise DataError(f"{path} does not exist")
    low = path.name.lower()
    if path.is_dir():
        if low.endswith(".zarr") or (path / ".zgroup").exists() or (path / "zarr.json").exists():
            return _zarr
        return _folder
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty: it has no bytes")
    if low.endswith((".pkl", ".pickle", ".p")):
        raise DataError(f"{path} is a pickle, which unstir never opens (it can run any code); save the frame with to_parquet")
    packing = next((suffix for suffix in _PACKED if low.endswith(suffix)), "")
    format_ = next((suffix for suffix in _FORMATS if low.removesuffix(packing).endswith(suffix)), None)
    with path.open("rb") as file:
        start = file.read(16)
    what = _looks_like(start)
    like = f" (it starts like {what})" if what else ""
    if format_ is None:
        raise DataError(f"{path} is not a file of series that unstir knows{like}; {READABLE}")
    if packing and format_ not in _TEXT:
        raise DataError(f"{path} is packed; unpack it first")
    if packing and not start.startswith(_PACKED[packing]):
        raise DataError(f"{path} is not packed as its suffix {packing} says{like}")
    if format_ in _TEXT and what and not packing:
        raise DataError(f"{path} is not {_TEXT[format_]}{like}")
    return _FORMATS[format_]


def _looks_like(start: bytes) -> str:
    return next((what for magic, what in _STARTS.items() if start.startswith(magic)), "")


def _parquet(path: Path, options: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    with path.open("rb") as file:
        start = file.read(16)
    if not start.startswith(b"PAR1"):
        what = _looks_like(start)
        raise DataError(f"{path} is not parquet{f' (it starts like {what})' if what else ''}")
    try:
        frame = pd.read_parquet(path)
    except _BROKEN as error:
        raise DataError(f"{path} is damaged: {_first_line(error)}") from error
    return frame, _own_facts(frame, options)


def _own_facts(frame: pd.DataFrame, options: Mapping[str, Any]) -> dict[str, Any]:
    """What `write` kept beside the columns, as far as the columns are still there and nothing else is asked."""
    facts = frame.attrs.get("unstir_panel")
    if not isinstance(facts, dict) or not {"unique_id", "ds", "y"} <= set(frame.columns):
        return {}
    made = {name: [one for one in facts.get(name, ()) if one in frame.columns] for name in ("known", "static")}
    steps = frame["ds"].drop_duplicates()
    if facts.get("counted") or len(pd.date_range(steps.min(), steps.max(), freq=facts["freq"])) == len(steps):
        made["freq"] = facts["freq"]
    return {name: value for name, value in made.items() if value}


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _delimited(path: Path, options: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    try:
        lines = pd.read_csv(
            path, sep="\x00", header=None, nrows=2, dtype=str, encoding="utf-8-sig", quoting=csv.QUOTE_NONE, engine="python"
        )[0]
        head = str(lines.iloc[0])
        if not re.search(r"\w", head):
            raise DataError(f"{path} has no line of column names")
        separator = max(",;\t|", key=head.count)
        names = next(csv.reader([head], delimiter=separator))
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise DataError(f"{path}: two columns are called {twice[0]!r}")
        second = str(lines.iloc[1]) if len(lines) > 1 else ""
        decimal = "," if separator != "," and re.search(r"(^|[;\t|])\s*-?\d+,\d+\s*($|[;\t|])", second) else "."
        texts = {options.get("id_col") or "unique_id", *_listed(options.get("static"))}
        absent = {name: _ABSENT for name in names if name not in texts}
        exact = {} if decimal == "," or _PANDAS >= (3, 1) else {"float_precision": "round_trip"}  # 3.1 reads to the last bit by itself
        frame = _whole_lines(
            path,
            sep=separator,
            decimal=decimal,
            dtype={name: str for name in names if name in texts},
            keep_default_na=False,
            na_values=absent,
            encoding="utf-8-sig",
            index_col=False,
            **exact,
        )
    except DataError:
        raise
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text in UTF-8 (byte {error.start})") from error
    except _BROKEN as error:
        raise DataError(f"{path} is not a table that can be read: {_first_line(error)}") from error
    return frame, {}


def _whole_lines(path: Path, **options: Any) -> pd.DataFrame:
    """`pandas.read_csv`, which would drop what a line has beyond the names with a warning only."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            return pd.read_csv(path, **options)
        except pd.errors.ParserWarning as error:
            raise DataError(f"{path} has lines with more fields than column names") from error


def _listed(given: Any) -> list[str]:
    return [given] if isinstance(given, str) else list(given or ())


def _json(path: Path, options: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    return _entries(path), {}


def _entries(path: Path) -> list[dict[str, Any]]:
    """Objects of a file of JSON, one a line, or one array of them."""
    try:
        text = (gzip.decompress(path.read_bytes()) if path.name.lower().endswith(".gz") else path.read_bytes()).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not text in UTF-8 (byte {error.start})") from error
    except _BROKEN as error:
        raise DataError(f"{path} is damaged: {_first_line(error)}") from error
    if text.lstrip().startswith("["):
        try:
            made = json.loads(text)
        except json.JSONDecodeError as error:
            raise DataError(f"{path} is not JSON: {error}") from error
    else:
        made = []
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                try:
                    made.append(json.loads(line))
                except json.JSONDecodeError as error:
                    raise DataError(f"{path} is not JSON in line {number}: {error.msg}") from error
    if not made or not all(isinstance(one, dict) for one in made):
        raise DataError(f"{path} holds no series: a line is to be an object with start and target")
    return made


def _folder(path: Path, split: str | None) -> tuple[Any, dict[str, Any]]:
    """A data set of GluonTS: metadata, and lines for training and test."""
    part = split or "train"
    names = [f"{part}/data{suffix}" for suffix in (".json", ".json.gz", ".jsonl", ".jsonl.gz")]
    there = [path / name for name in names if (path / name).is_file()]
    if part not in ("train", "test") or not there:
        raise DataError(
            f"{path} is a folder without {part}/data.json: give a file, or a folder of GluonTS (train/data.json, metadata.json)"
        )
    about: dict[str, Any] = {}
    for name in ("metadata.json", "metadata/metadata.json"):
        if (path / name).is_file():
            try:
                about = json.loads((path / name).read_text("utf-8"))
            except (ValueError, OSError) as error:
                raise DataError(f"{path / name} is not JSON: {_first_line(error)}") from error
    entries = _entries(there[0])
    found = {"freq": about["freq"]} if about.get("freq") else {}
    longest: dict[str, dict[str, Any]] = {}
    for place, entry in enumerate(entries):
        name = str(entry.get("item_id", place))
        if name not in longest or len(entry.get("target", ())) > len(longest[name].get("target", ())):
            longest[name] = entry
    if len(longest) < len(entries):
        if part == "train":
            raise DataError(f"{there[0]}: two series have one item_id")
        warnings.warn(f"{there[0]}: windows of one item_id overlap: the longest of each is taken", stacklevel=4)
    return list(longest.values()), found


def _netcdf(path: Path, options: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    with path.open("rb") as file:
        start = file.read(16)
    if not start.startswith((b"\x89HDF", b"CDF")):
        what = _looks_like(start)
        raise DataError(f"{path} is not netCDF{f' (it starts like {what})' if what else ''}")
    try:
        with xr.open_dataset(path, engine="h5netcdf" if start.startswith(b"\x89HDF") else "scipy") as opened:
            return opened.load(), {}
    except _BROKEN as error:
        raise DataError(f"{path} is damaged: {_first_line(error)}") from error


def _zarr(path: Path, options: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    try:
        import zarr  # noqa: F401
    except ImportError as error:
        raise MissingExtra(f"reading {path} needs Zarr: pip install zarr") from error
    try:
        with xr.open_zarr(path, chunks=None) as opened:
            return opened.load(), {}
    except _BROKEN as error:
        raise DataError(f"{path} is not a Zarr group that can be read: {_first_line(error)}") from error


_FORMATS: dict[str, Callable[[Path, Mapping[str, Any]], tuple[Any, dict[str, Any]]]] = {
    ".parquet": _parquet,
    ".pq": _parquet,
    ".csv": _delimited,
    ".tsv": _delimited,
    ".txt": _delimited,
    ".json": _json,
    ".jsonl": _json,
    ".nc": _netcdf,
    ".nc4": _netcdf,
    ".zarr": _zarr,
}
_TEXT = {".csv": "CSV", ".tsv": "TSV", ".txt": "a table", ".json": "JSON", ".jsonl": "JSON lines"}


def write(panel: xr.Dataset, path: str | Path) -> Path:
    """A panel as a file: all of it as netCDF, its long frame as parquet or CSV.

    Args:
        panel: a panel.
        path: where; the suffix (.parquet, .csv, .csv.gz, .nc) says how. Parquet keeps which columns are covariates and categories; of CSV
            the reader is told by ``known=`` and ``static=``.

    Returns:
        The path, written whole or not at all.

    Raises:
        UserError: the suffix is none of these.
        DataError: what is to be written is no panel.
    """
    path = Path(path)
    low = path.name.lower()
    if not low.endswith((".parquet", ".csv", ".csv.gz", ".nc")):
        raise UserError(f"{path}: a panel is written as .parquet, .csv, .csv.gz or .nc")
    if not is_panel(panel):
        raise DataError("only a panel can be written: y (item, time) with key, freq, season and calendar")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        if low.endswith(".nc"):
            panel.to_netcdf(made, engine="h5netcdf")
        else:
            _write_frame(panel, made)
        os.replace(made, path)
    return path


def _write_frame(panel: xr.Dataset, path: Path) -> None:
    frame = to_frame(panel, trim=False)
    if not path.name.lower().endswith(".parquet"):
        frame.to_csv(path, index=False)
        return
    names = {
        name: [str(one) for one in panel[dim].values] if dim in panel.coords else []
        for name, dim in {"known": "covariate", "static": "static"}.items()
    }
    frame.attrs["unstir_panel"] = {**names, "freq": panel.attrs["freq"], "counted": int(panel.attrs.get("counted", 0))}
    frame.to_parquet(path, index=False)
