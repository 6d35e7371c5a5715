"""Every frame that forecasters use, as one table of rows: which item, when, what value, what was known, what is static.

long (unique_id, ds, y), wide (a column a series), pandas Series, xarray with a time axis, dictionaries of GluonTS  ->  Rows
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from unstir.errors import DataError, nearest
from unstir_timeseries import columns, frequency
from unstir_timeseries.columns import Stamps

_OFTEN = {
    "id_col": ("item_id", "id", "series", "series_id", "item", "unique_id", "name"),
    "time_col": ("timestamp", "datetime", "date", "time", "ds", "index"),
    "target_col": ("target", "value", "values", "y"),
}
_GLUONTS = {"start", "target", "item_id", "freq", "feat_dynamic_real", "feat_static_cat"}


@dataclass(frozen=True)
class Columns:
    """What the columns of a frame are called.

    Args:
        id_col: names of series.
        time_col: their times.
        target_col: their values.
        known: covariates known in the future too.
        static: categories, one value a series.
        date_format: how text in ``time_col`` is read, where it is not ISO 8601.
    """

    id_col: str = "unique_id"
    time_col: str = "ds"
    target_col: str = "y"
    known: tuple[str, ...] = ()
    static: tuple[str, ...] = ()
    date_format: str | None = None


@dataclass
class Rows:
    """A row an observation.

    Args:
        items: names of the series, in order of appearance.
        code: (rows,) which item.
        stamps: when.
        y: (rows,) float64, NaN where nothing was observed.
        known: (rows,) each, by name.
        static: a text an item, by name.
        freqs: the frequency that the source gives an item, if it does.
        said: sentences about what was changed.
    """

    items: list[str]
    code: NDArray[np.int64]
    stamps: Stamps
    y: NDArray[np.float64]
    known: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    static: dict[str, list[str]] = field(default_factory=dict)
    freqs: list[str | None] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


def rows_of(data: Any, named: Columns, freq: str | None = None) -> Rows:
    """The rows of whatever a user has.

    Args:
        data: a frame (long or wide), Series, mapping of Series, xarray object, or dictionaries of GluonTS.
        named: names of its columns.
        freq: the step, for sources that only count steps.

    Returns:
        The rows, unsorted, on no grid yet.

    Raises:
        DataError: it is none of these, is empty, or lacks a column.
    """
    if isinstance(data, xr.DataArray):
        data = data.to_dataset(name=data.name if data.name is not None else named.target_col)
    if isinstance(data, xr.Dataset):
        return _of_xarray(data, named, freq)
    if not isinstance(data, pd.DataFrame | pd.Series) and hasattr(data, "to_pandas"):
        data = data.to_pandas()
    if isinstance(data, Mapping):
        if data and all(isinstance(one, pd.Series) for one in data.values()):
            data = pd.concat(dict(data), axis=1)
        elif "target" in data:
            data = [data]
    if isinstance(data, pd.Series):
        data = data.to_frame(named.target_col if data.name is None or isinstance(data.index, pd.MultiIndex) else str(data.name))
    if isinstance(data, pd.DataFrame):
        return _of_frame(data, named, freq)
    if isinstance(data, np.ndarray) or not isinstance(data, Iterable) or isinstance(data, str | bytes | Mapping):
        raise DataError(
            f"a {type(data).__name__} is no frame of series; give a pandas frame with times, xarray, or dictionaries of GluonTS"
        )
    entries = list(data)
    if not entries:
        raise DataError("the data is empty: there is no series")
    if not all(isinstance(one, Mapping) for one in entries):
        raise DataError(f"a list of {type(entries[0]).__name__} is no list of series; give {{name: series}}, or dictionaries of GluonTS")
    if not any("target" in one for one in entries):
        return _of_frame(pd.DataFrame(entries), named, freq)
    return _of_gluonts(entries, named, freq)


def _missing(name: str, option: str, frame: pd.DataFrame) -> DataError:
    usual = [one for one in frame.columns if str(one).lower() in _OFTEN.get(option, ())]
    like = usual[:1] or nearest(name, [str(one) for one in frame.columns], 1)
    offer = f"{option}={like[0]!r}" if like and option in _OFTEN else repr(like[0]) if like else ""
    shown = ", ".join(str(one) for one in frame.columns[:8]) + (" ..." if len(frame.columns) > 8 else "")
    return DataError(f"there is no column {name!r}{f'; did you mean {offer}?' if offer else ''} (columns: {shown or 'none'})")


def _flat(frame: pd.DataFrame, named: Columns) -> pd.DataFrame:
    """The frame with its index as columns and every column named by one text."""
    if len(frame) == 0:
        raise DataError("the frame is empty: it has no rows")
    index = frame.index
    if isinstance(index, pd.MultiIndex):
        names = [one or (named.id_col, named.time_col)[min(place, 1)] for place, one in enumerate(index.names)]
        frame = frame.reset_index(names=names)
    elif isinstance(index, pd.DatetimeIndex | pd.PeriodIndex) and named.time_col not in frame.columns:
        frame = frame.rename_axis(named.time_col).reset_index()
    elif index.name in (named.id_col, named.time_col) and index.name not in frame.columns:
        frame = frame.reset_index()
    texts = ["/".join(map(str, one)) if isinstance(one, tuple) else str(one) for one in frame.columns]
    twice = sorted({one for one in texts if texts.count(one) > 1}) if len(set(texts)) < len(texts) else []
    if twice:
        raise DataError(f"two columns of the frame are called {twice[0]!r}")
    return frame.set_axis(texts, axis=1)


def _of_frame(frame: pd.DataFrame, named: Columns, freq: str | None) -> Rows:
    said: list[str] = []
    frame = _flat(frame, named)
    time = _time_column(frame, named, said)
    for name in (*named.known, *named.static):
        if name not in frame.columns:
            raise _missing(name, "", frame)
    has_id, has_target = named.id_col in frame.columns, named.target_col in frame.columns
    if not has_target and (has_id or named.target_col != Columns.target_col):
        raise _missing(named.target_col, "target_col", frame)
    if not has_id and named.id_col != Columns.id_col:
        raise _missing(named.id_col, "id_col", frame)
    stamps = columns.stamps(frame[time], f"column {time!r}", said, freq=freq, date_format=named.date_format)
    known = {name: columns.numbers(frame[name], f"column {name!r}", []) for name in named.known}
    rest = [name for name in frame.columns if name != time and name not in named.known]
    if not has_target:
        return _of_wide(frame, rest, stamps, known, named, said)
    unused = [name for name in rest if name not in (named.id_col, named.target_col, *named.static)]
    if unused:
        said.append(f"column{'s' * (len(unused) > 1)} {listed(unused)} not used (known= and static= name covariates and categories)")
    items, code = _items(frame[named.id_col], named.id_col) if has_id else ([named.target_col], np.zeros(len(frame), dtype=np.int64))
    if not has_id and len(np.unique(stamps.utc)) < len(stamps.utc):
        like = [name for name in unused if not columns.is_numeric(frame[name]) or name.lower() in _OFTEN["id_col"]]
        if like:
            raise DataError(f"stamps come several times and there is no column {named.id_col!r}; did you mean id_col={like[0]!r}?")
    static = {name: _static(frame[name], code, items, name) for name in named.static}
    y = columns.numbers(frame[named.target_col], f"column {named.target_col!r}", said)
    return Rows(items, code, stamps, y, known, static, [stamps.freq] * len(items), said)


def listed(names: Sequence[str], most: int = 3) -> str:
    """A few names of many, for a sentence."""
    shown = ", ".join(repr(str(one)) for one in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _time_column(frame: pd.DataFrame, named: Columns, said: list[str]) -> str:
    if named.time_col in frame.columns:
        return named.time_col
    times = [str(name) for name in frame.columns if columns.looks_like_times(frame[name])]
    if named.time_col != Columns.time_col or len(times) != 1:
        raise _missing(named.time_col, "time_col", frame)
    said.append(f"there is no column {named.time_col!r}: the only column of times, {times[0]!r}, is taken")
    return times[0]


def _items(column: pd.Series, where: str) -> tuple[list[str], NDArray[np.int64]]:
    absent = column.isna().to_numpy(dtype=bool)
    if absent.any():
        raise DataError(f"column {where!r} has no name in {int(absent.sum())} rows, first in row {int(absent.argmax())}")
    code, found = pd.factorize(column)
    items = [str(one) for one in found]
    if len(set(items)) < len(items):
        twice = next(one for place, one in enumerate(items) if one in items[:place])
        raise DataError(f"two different values of column {where!r} are both written {twice!r}: rename one")
    return items, np.asarray(code, dtype=np.int64)


def _static(column: pd.Series, code: NDArray[np.int64], items: Sequence[str], name: str) -> list[str]:
    texts = column.astype(object).where(column.notna(), "").astype(str).to_numpy(dtype=object)
    first = np.zeros(len(items), dtype=np.int64)
    first[code[::-1]] = np.arange(len(code))[::-1]
    other = texts != texts[first[code]]
    if other.any():
        row = int(other.argmax())
        raise DataError(f"static column {name!r} has several values in series {items[code[row]]!r}; one that changes belongs to known=")
    return [str(one) for one in texts[first]]


def _of_wide(frame: pd.DataFrame, rest: Sequence[str], stamps: Stamps, known: dict[str, Any], named: Columns, said: list[str]) -> Rows:
    if named.static:
        raise DataError(f"a wide frame (a column a series) has no place for the static column {named.static[0]!r}: use a long one")
    items = [name for name in rest if columns.is_numeric(frame[name])]
    dropped = [name for name in rest if name not in items]
    if not items:
        raise DataError(f"the frame has no column of numbers (columns: {', '.join(frame.columns)})")
    if dropped:
        said.append(f"column{'s' * (len(dropped) > 1)} {listed(dropped)} not used: no numbers")
    values = np.stack([columns.numbers(frame[name], f"column {name!r}", said) for name in items])
    return _tiled(items, values, stamps, {name: np.broadcast_to(one, values.shape) for name, one in known.items()}, {}, said)


def _tiled(
    items: list[str], values: NDArray[Any], stamps: Stamps, known: Mapping[str, NDArray[Any]], static: dict[str, list[str]], said: list[str]
) -> Rows:
    """Rows of values (items, steps) that have the same stamps."""
    count, length = values.shape
    many = Stamps(np.tile(stamps.utc, count), np.tile(stamps.wall, count), stamps.zone, stamps.freq, stamps.counted)
    code = np.repeat(np.arange(count), length)
    flat = {name: np.ascontiguousarray(one).reshape(-1) for name, one in known.items()}
    return Rows(items, code, many, values.reshape(-1), flat, static, [stamps.freq] * count, said)


def _of_xarray(data: xr.Dataset, named: Columns, freq: str | None) -> Rows:
    said: list[str] = []
    time = _time_dimension(data, named)
    index = data.indexes[time]
    if len(index) == 0:
        raise DataError(f"the dataset is empty: dimension {time!r} has no steps")
    if isinstance(index, xr.CFTimeIndex):
        raise DataError(f"dimension {time!r} is in the calendar {index.calendar!r}; make it standard, as with convert_calendar('standard')")
    stamps = columns.stamps(index.to_series(), f"dimension {time!r}", said, freq=freq, date_format=named.date_format)
    for name in (*named.known, *named.static):
        if name not in data.variables:
            raise DataError(f"the dataset has no variable {name!r} (variables: {', '.join(map(str, data.variables))})")
    over_time = [str(name) for name, one in data.data_vars.items() if time in one.dims and name not in (*named.known, *named.static)]
    targets = [named.target_col] if named.target_col in over_time else [name for name in over_time if data[name].dtype.kind in "fiub"]
    if not targets or (named.target_col != Columns.target_col and named.target_col not in over_time):
        raise DataError(f"the dataset has no series: no variable {named.target_col!r}, or of numbers, with dimension {time!r}")
    unused = [name for name in over_time if name not in targets]
    if unused:
        said.append(f"variable{'s' * (len(unused) > 1)} {listed(unused)} not used (known= and static= name covariates and categories)")
    items: list[str] = []
    values: list[NDArray[Any]] = []
    known: dict[str, list[NDArray[Any]]] = {name: [] for name in named.known}
    static: dict[str, list[str]] = {name: [] for name in named.static}
    for target in targets:
        array = data[target].transpose(..., time)
        labels = _labels(array, time)
        items += [f"{target}/{label}" if label and len(targets) > 1 else label or target for label in labels]
        values.append(columns.numbers(array.values.reshape(-1), f"variable {target!r}", said).reshape(len(labels), len(index)))
        for name in known:
            known[name].append(_like(data[name], array, name).astype(np.float64).reshape(len(labels), len(index)))
        for name in static:
            static[name] += [str(one) for one in _like(data[name], array.isel({time: 0}, drop=True), name).reshape(-1)]
    if len(set(items)) < len(items):
        raise DataError("two series of the dataset have the same name")
    return _tiled(items, np.concatenate(values), stamps, {name: np.concatenate(one) for name, one in known.items()}, static, said)


def _time_dimension(data: xr.Dataset, named: Columns) -> str:
    if named.time_col in data.dims and named.time_col in data.indexes:
        return named.time_col
    kinds = (pd.DatetimeIndex, pd.PeriodIndex, xr.CFTimeIndex)
    times = [str(name) for name in data.dims if isinstance(data.indexes.get(name), kinds)]
    if len(times) != 1 or named.time_col != Columns.time_col:
        raise DataError(
            f"which dimension is the time? {len(times)} of {', '.join(map(str, data.dims)) or 'none'} have times as coordinate; "
            "name it by time_col="
        )
    return times[0]


def _labels(array: xr.DataArray, time: str) -> list[str]:
    """Names of the series of an array: coordinates of its other dimensions, joined by "/"."""
    made = [""]
    for name in array.dims:
        if name != time:
            made = [f"{a}/{b}" if a else str(b) for a in made for b in array[name].values]
    return made


def _like(array: xr.DataArray, target: xr.DataArray, name: str) -> NDArray[Any]:
    strange = set(array.dims) - set(target.dims)
    if strange:
        raise DataError(f"variable {name!r} has a dimension that its series lack: {', '.join(sorted(map(str, strange)))}")
    return np.asarray(array.broadcast_like(target).transpose(*target.dims).values)


def _of_gluonts(entries: Sequence[Mapping[str, Any]], named: Columns, freq: str | None) -> Rows:
    said: list[str] = []
    items: list[str] = []
    freqs: list[str | None] = []
    codes, times, values = [], [], []
    known: dict[str, list[NDArray[Any]]] = {}
    static: dict[str, list[str]] = {}
    unused: set[str] = set()
    for place, entry in enumerate(entries):
        name = str(entry.get("item_id", place))
        unused |= set(entry) - _GLUONTS
        if "target" not in entry or "start" not in entry:
            raise DataError(
                f"series {name!r} has no {'target' if 'target' not in entry else 'start'!r} (fields: {', '.join(map(str, entry))})"
            )
        target = _matrix(entry["target"], f"the target of series {name!r}")
        features = _matrix(entry.get("feat_dynamic_real"), f"feat_dynamic_real of series {name!r}")
        step, start = _start(entry, name, freq, said)
        length = max(target.shape[1], features.shape[1])
        if target.shape[1] == 0:
            raise DataError(f"series {name!r} has an empty target")
        grid = pd.date_range(start, periods=length, freq=step).as_unit("ns").asi8
        for row, one in enumerate(target):
            codes.append(np.full(length, len(items)))
            items.append(name if len(target) == 1 else f"{name}/{row}")
            freqs.append(step)
            times.append(grid)
            values.append(_longer(one, length))
            names = named.known if len(named.known) == len(features) else [f"feat_dynamic_real_{k}" for k in range(len(features))]
            for feature, path in zip(names, features, strict=True):
                known.setdefault(feature, []).append(_longer(path, length))
            for k, value in enumerate(entry.get("feat_static_cat", ())):
                static.setdefault(named.static[k] if k < len(named.static) else f"feat_static_cat_{k}", []).append(str(value))
    for feature, having in {**{a: len(b) for a, b in known.items()}, **{a: len(b) for a, b in static.items()}}.items():
        if having != len(items):
            raise DataError(f"only {having} of {len(items)} series have the feature {feature!r}")
    if len(set(items)) < len(items):
        raise DataError(f"two series have the item_id {next(one for k, one in enumerate(items) if one in items[:k])!r}")
    if unused:
        said.append(f"field{'s' * (len(unused) > 1)} {listed(sorted(unused))} not used")
    stamps = np.concatenate(times)
    flat = {name: np.concatenate(found) for name, found in known.items()}
    return Rows(
        items, np.concatenate(codes), Stamps(stamps, stamps), np.concatenate(values), flat, static, freqs, list(dict.fromkeys(said))
    )


def _matrix(values: Any, where: str) -> NDArray[np.float64]:
    """Values as (series, steps); None is no series."""
    if values is None:
        return np.zeros((0, 0))
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise DataError(f"{where} has rows of different length") from error
    if array.ndim not in (1, 2):
        raise DataError(f"{where} has {array.ndim} dimensions, not one or two")
    return columns.numbers(array.reshape(-1), where, []).reshape(np.atleast_2d(array).shape)


def _longer(values: NDArray[Any], length: int) -> NDArray[np.float64]:
    return np.concatenate([values, np.full(length - len(values), np.nan)])


def _start(entry: Mapping[str, Any], name: str, freq: str | None, said: list[str]) -> tuple[str, pd.Timestamp]:
    """The step and the first stamp of a series of GluonTS; a start inside a step is moved to the step's own stamp, as there."""
    start = entry["start"]
    given = freq or entry.get("freq") or (start.freqstr if isinstance(start, pd.Period) else None)
    if not given:
        raise DataError(f"series {name!r} carries no frequency: give freq='h' or what it is")
    step = frequency.normalise(given)
    stamps = columns.stamps([start.to_timestamp() if isinstance(start, pd.Period) else start], f"the start of series {name!r}", said)
    if stamps.zone:
        said.append(f"starts in the time zone {stamps.zone} are taken in UTC")
    first = pd.Timestamp(int(stamps.utc[0]))
    count, unit, anchor = frequency.parts(step)
    if unit in frequency.STEPS:
        moved = first.floor(unit)
    else:
        offset = pd.tseries.frequencies.to_offset(f"{unit}{anchor}")
        day = first.normalize()
        moved = offset.rollback(day) if unit.endswith("S") else offset.rollforward(day)
    if unit in frequency.STEPS and moved != first:
        said.append(f"starts that are not on the step {step!r} are taken back to it, as GluonTS does")
    return step, moved
