"""Labelled data of the anomaly task: points (Shuttle), a series with a training part (UCR 135), and any labelled table.

    points    x (sample, feature), label (sample)                    attrs key
    series    a panel, y (item, time), and label (item, time)        attrs training: steps at the beginning that are normal

Labels are 0 (normal), 1 (anomalous) or NaN (nobody knows: not judged).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from unstir.errors import DataError
from unstir.plugin.options import at_least
from unstir_data import fetch
from unstir_timeseries.panel import panel

LABELS = ("anomaly", "is_anomaly", "label")
TIMES = ("ds", "timestamp", "time", "date", "datetime")
ITEM, SCORE, SAMPLE = "unique_id", "score", "sample"


@dataclass(frozen=True)
class Shuttle:
    """Statlog Shuttle as ADBench has it: 49,097 readings of nine sensors, 3,511 of them anomalous. Points, not a series.

    Args:
        every: keep every so many rows (1: all).

    Raises:
        UserError: ``every`` is not positive.
    """

    every: int = 1

    card: ClassVar[str] = "timeseries/shuttle"

    def __post_init__(self) -> None:
        at_least(self, every=1)

    def load(self) -> Iterator[xr.Dataset]:
        """The points ``shuttle``."""
        frame = pd.read_csv(fetch.get(self.card)).iloc[:: self.every]
        yield points(frame.drop(columns="anomaly"), frame["anomaly"].to_numpy(np.float64), "shuttle")


@dataclass(frozen=True)
class InternalBleeding:
    """UCR anomaly series 135: 7,501 steps of an arterial pressure, the first 1,200 of them for training, 12 anomalous steps in the rest."""

    card: ClassVar[str] = "timeseries/ucr-135"

    def load(self) -> Iterator[xr.Dataset]:
        """The panel ``ucr-135`` of one item; its training part is at the beginning, ``attrs["training"]`` steps.

        Raises:
            DataError: the training file is not the beginning of the test file.
        """
        train, test = (self.read(end) for end in ("TRAIN", "TEST"))
        if not train.equals(test.iloc[: len(train)]):
            raise DataError("the training file of UCR 135 is not the beginning of its test file")
        yield labelled(test, "ucr-135", training=len(train))

    def read(self, end: str) -> pd.DataFrame:
        """One of the two files.

        Args:
            end: "TRAIN" or "TEST".
        """
        return pd.read_csv(fetch.get(self.card) / f"135_UCR_Anomaly_InternalBleeding16_{end}.csv")


def points(frame: pd.DataFrame, label: NDArray[np.float64], key: str) -> xr.Dataset:
    """Labelled points from a table of numbers.

    Args:
        frame: a row a point, a column a feature.
        label: (rows,) 0, 1 or NaN.
        key: name of the data.

    Returns:
        ``x`` (sample, feature) float64 and ``label`` (sample).
    """
    coords = {"sample": np.arange(len(frame)), "feature": [str(name) for name in frame.columns]}
    x = frame.to_numpy(np.float64)
    return xr.Dataset({"x": (("sample", "feature"), x), "label": ("sample", label)}, coords, {"key": key})


def read_labelled(path: Path, *, label: str = "", time: str = "", training: int = 0) -> xr.Dataset:
    """A labelled table (CSV, parquet) as points, or as a panel where it has a column of times.

    Args:
        path: the file.
        label: name of the column of labels, 0 or 1; the first of `LABELS` that is there where empty.
        time: name of the column of stamps (or step numbers); the first of `TIMES` that is there where empty.
        training: steps at the beginning of the series that are for training; the task's share where 0.

    Returns:
        An item of the anomaly task.

    Raises:
        DataError: the file is missing or no table, or a column is missing or not what it should be.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path} does not exist")
    try:
        frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (ValueError, OSError) as error:  # pandas' and pyarrow's own are ValueErrors
        raise DataError(f"{path} is not a table: {str(error).splitlines()[0]}") from error
    try:
        return labelled(frame, path.stem.lower(), label=label, time=time, training=training)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def labelled(frame: pd.DataFrame, key: str, *, label: str = "", time: str = "", training: int = 0) -> xr.Dataset:
    """A labelled frame as points, or as a panel where it has a column of times.

    Args:
        frame: columns of numbers, one of labels; long (``unique_id``) or wide where it has times.
        key: name of the data.
        label: as for `read_labelled`.
        time: as for `read_labelled`.
        training: as for `read_labelled`.

    Returns:
        An item of the anomaly task.

    Raises:
        DataError: a column is missing or not what it should be.
    """
    if frame.empty:
        raise DataError("the table is empty")
    named = _column(frame, label, LABELS)
    if named is None:
        raise DataError(f"there is no column of labels (0 normal, 1 anomalous): name it, or call it {', '.join(LABELS)}")
    marks = pd.to_numeric(frame[named], errors="coerce").to_numpy(np.float64)
    if not np.isin(marks[np.isfinite(marks)], (0.0, 1.0)).all():
        raise DataError(f"labels must be 0 (normal) or 1 (anomalous), and column {named} holds others")
    stamped = _column(frame, time, TIMES)
    values = frame.drop(columns=[name for name in (named, stamped, ITEM, SCORE, SAMPLE) if name is not None and name in frame])
    words = [str(name) for name in values if not pd.api.types.is_numeric_dtype(values[name])]
    if words or values.shape[1] == 0:
        raise DataError(f"column {words[0]} is not numeric" if words else "there is no column of values")
    if stamped is None:
        return points(values, marks, key)
    if ITEM not in frame:
        return _panel(values, frame[stamped], np.tile(marks, (values.shape[1], 1)), key, training)
    if values.shape[1] != 1:
        raise DataError(f"a long table has one column of values beside {ITEM}, got {', '.join(map(str, values))}")
    if frame.duplicated([ITEM, stamped]).any():
        raise DataError(f"a stamp comes twice for one {ITEM}")
    wide, known = (
        pd.DataFrame({"item": frame[ITEM].astype(str), "time": frame[stamped], "value": column}).pivot(
            index="time", columns="item", values="value"
        )
        for column in (values.iloc[:, 0].to_numpy(), marks)
    )
    return _panel(wide, wide.index.to_series(), known.to_numpy(np.float64).T, key, training)


def _column(frame: pd.DataFrame, name: str, known: tuple[str, ...]) -> str | None:
    if name and name not in frame:
        raise DataError(f"there is no column {name}; there are {', '.join(map(str, frame.columns))}")
    return name or next((one for one in known if one in frame), None)


def _panel(values: pd.DataFrame, stamps: pd.Series, marks: NDArray[np.float64], key: str, training: int) -> xr.Dataset:
    """Stamps on their grid, gaps as NaN; whole step numbers as hours of a made-up clock (calendar "unknown")."""
    from unstir_timeseries.frequency import infer, season_of

    y = values.to_numpy(np.float64).T
    if pd.api.types.is_numeric_dtype(stamps):
        if not np.all(np.diff(stamps.to_numpy(np.float64)) == 1):
            raise DataError("step numbers must rise by 1 from row to row")
        index, freq, season, calendar = pd.date_range("2000-01-01", periods=len(stamps), freq="h"), "h", 1, "unknown"
    else:
        given = _stamps(stamps)
        freq = infer(given)
        index, season, calendar = pd.date_range(given.min(), given.max(), freq=freq), season_of(freq), "known"
        place = given.get_indexer(index)
        y, marks = (np.where(place < 0, np.nan, rows[:, place]) for rows in (y, marks))
    made = panel(y, index, [str(name) for name in values], freq=freq, season=season, key=key, calendar=calendar)
    made["label"] = (("item", "time"), marks)
    if training:
        made.attrs["training"] = int(training)
    return made


def _stamps(stamps: pd.Series) -> pd.DatetimeIndex:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of pandas, that it parses one by one
            index = pd.DatetimeIndex(pd.to_datetime(stamps))
    except (ValueError, TypeError) as error:
        raise DataError(f"column {stamps.name} holds something that is no time: {str(error).splitlines()[0]}") from error
    if index.tz is not None:
        raise DataError(f"the stamps of column {stamps.name} have a zone: convert them to UTC and drop it")
    if index.hasnans or not index.is_unique:
        raise DataError(f"a stamp of column {stamps.name} is {'missing' if index.hasnans else 'there twice'}")
    return index
