"""Columns of a user's frame as numbers and as times: what cannot be read is refused with its row, what is changed is said.

number = float64, NaN where there is none;  time = nanoseconds since 1970, in UTC and by the clock on the wall
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from unstir.errors import DataError
from unstir_timeseries import frequency

MISSING = ("", "na", "nan", "n/a", "null", "none", "<na>", "-nan", "#n/a")
"""Texts (in small letters) that mean no value."""
COUNTED_FROM = "2000-01-01"
"""Where stamps that are only counted are put."""
_EXACT = 2**53
_ISO = re.compile(r"\s*\d{4}-?\d\d-?\d\d([T ]\d.*)?\s*")
_OFFSET = re.compile(r"\s*(Z|[+-]\d\d(:?\d\d)?)$")
_SLASHED = re.compile(r"\s*\d{1,2}[/.-]\d{1,2}[/.-]\d{2,4}")


def numbers(column: Any, where: str, said: list[str]) -> NDArray[np.float64]:
    """A column as numbers.

    Args:
        column: numbers of any kind (whole, boolean, nullable, Decimal, text that is a number).
        where: the column in words, for sentences.
        said: sentences are appended here.

    Returns:
        float64, NaN where there was no value.

    Raises:
        DataError: text that is no number, a complex or infinite one, or times.
    """
    column = pd.Series(column).reset_index(drop=True)
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.dtype.categories.dtype)
    kind = column.dtype
    if pd.api.types.is_datetime64_any_dtype(kind) or pd.api.types.is_timedelta64_dtype(kind) or isinstance(kind, pd.PeriodDtype):
        raise DataError(f"{where} holds times ({kind}), not numbers")
    if pd.api.types.is_bool_dtype(kind):
        said.append(f"{where} is true or false: read as 1 and 0")
    if pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_complex_dtype(kind):
        values: NDArray[np.float64] = column.to_numpy(dtype=np.float64, na_value=np.nan)
        if pd.api.types.is_integer_dtype(kind) and len(column) and np.nanmax(np.abs(values), initial=0.0) >= _EXACT:
            said.append(f"{where} has whole numbers of 2^53 and more, which are rounded")
    else:
        values = _from_objects(column, where, said)
    endless = np.isinf(values)
    if endless.any():
        raise DataError(
            f"{where} is infinite {_times(int(endless.sum()))}, first in row {int(endless.argmax())}: make these values NaN where unknown"
        )
    return values


def _times(count: int) -> str:
    return f"{count} time{'s' * (count != 1)}"


def _from_objects(column: pd.Series, where: str, said: list[str]) -> NDArray[np.float64]:
    made = pd.to_numeric(column.astype(object), errors="coerce")
    if pd.api.types.is_complex_dtype(made.dtype):
        raise DataError(f"{where} holds complex numbers; take the real part, or the magnitude")
    values = made.to_numpy(dtype=np.float64, na_value=np.nan)
    texts = column.map(lambda one: isinstance(one, str)).to_numpy(dtype=bool)
    absent = column.isna().to_numpy(dtype=bool)
    absent = absent | column.where(texts, "x").astype(str).str.strip().str.lower().isin(MISSING).to_numpy(dtype=bool)
    wrong = np.isnan(values) & ~absent
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(f"{where} holds {column.iloc[row]!r} in row {row}, which is not a number")
    if (texts & ~absent).any():
        said.append(f"{where} holds numbers as text: read as numbers")
    if column.map(lambda one: isinstance(one, bool | np.bool_)).any():
        said.append(f"{where} is true or false: read as 1 and 0")
    return values


def is_numeric(column: pd.Series) -> bool:
    """Whether most of what a column holds is numbers (as text too), so that it is meant as a series."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.dtype.categories.dtype)
    kind = column.dtype
    if pd.api.types.is_numeric_dtype(kind):
        return True
    if not (pd.api.types.is_object_dtype(kind) or pd.api.types.is_string_dtype(kind)):
        return False
    held = column.dropna()
    held = held[~held.astype(str).str.strip().str.lower().isin(MISSING)]
    return bool(len(held) == 0 or pd.to_numeric(held.astype(object), errors="coerce").notna().mean() > 0.5)


@dataclass(frozen=True)
class Stamps:
    """Times of rows.

    Args:
        utc: (rows,) int64 nanoseconds; of stamps without a zone, as they are.
        wall: (rows,) int64 nanoseconds by the clock of the zone; the same as ``utc`` without one.
        zone: name of the zone, "" without one.
        freq: the frequency that the stamps carry themselves, if any.
        counted: whether steps were counted instead of timed.
    """

    utc: NDArray[np.int64]
    wall: NDArray[np.int64]
    zone: str = ""
    freq: str | None = None
    counted: bool = False


def stamps(column: Any, where: str, said: list[str], *, freq: str | None = None, date_format: str | None = None) -> Stamps:
    """A column as times.

    Args:
        column: times with or without a zone, periods, dates, text, or whole numbers that count steps (``freq`` given).
        where: the column in words, for sentences.
        said: sentences are appended here.
        freq: the step that whole numbers count.
        date_format: how text is to be read ("%d/%m/%Y"), where it is not ISO 8601.

    Returns:
        The times in nanoseconds.

    Raises:
        DataError: what is no time, an ambiguous date, or one that is missing or outside the years 1678 to 2262.
    """
    column = pd.Series(column).reset_index(drop=True)
    if isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype(column.dtype.categories.dtype)
    absent = column.isna().to_numpy(dtype=bool)
    if absent.any():
        raise DataError(f"{where} has no time in {int(absent.sum())} of {len(column)} rows, first in row {int(absent.argmax())}")
    if isinstance(column.dtype, pd.PeriodDtype):
        return _periods(pd.PeriodIndex(column))
    if (
        pd.api.types.is_bool_dtype(column.dtype)
        or pd.api.types.is_float_dtype(column.dtype)
        or pd.api.types.is_timedelta64_dtype(column.dtype)
    ):
        raise DataError(f"{where} holds {column.dtype} values, not times")
    if pd.api.types.is_integer_dtype(column.dtype):
        return _counted(column.to_numpy(dtype=np.int64), where, freq, said)
    if not pd.api.types.is_datetime64_any_dtype(column.dtype):
        column, wall = _parsed(column, where, date_format, said)
        if wall is not None:
            utc = pd.DatetimeIndex(column).tz_localize(None)
            return Stamps(nanoseconds(utc, where), nanoseconds(pd.DatetimeIndex(wall), where), "UTC")
    index = pd.DatetimeIndex(column)
    zone = _zone(index)
    if zone:
        return Stamps(nanoseconds(index.tz_convert("UTC").tz_localize(None), where), nanoseconds(index.tz_localize(None), where), zone)
    made = nanoseconds(index, where)
    return Stamps(made, made)


def nanoseconds(index: pd.DatetimeIndex, where: str) -> NDArray[np.int64]:
    """Stamps without a zone as int64 nanoseconds since 1970.

    Args:
        index: the stamps.
        where: what they are, for the sentence.

    Raises:
        DataError: one lies outside what nanoseconds can hold.
    """
    try:
        return np.asarray(index.as_unit("ns").asi8)
    except pd.errors.OutOfBoundsDatetime as error:
        raise DataError(f"{where} runs from {index.min()} to {index.max()}: stamps must lie in the years 1678 to 2262") from error


def _zone(index: pd.DatetimeIndex) -> str:
    """The zone's name; one that has none by which it is found again counts as UTC."""
    if index.tz is None:
        return ""
    try:
        index[:0].tz_convert(str(index.tz))
    except Exception:  # every zone library has errors of its own for a name it does not know
        return "UTC"
    return str(index.tz)


def _periods(index: pd.PeriodIndex) -> Stamps:
    freq = frequency.normalise(index.freqstr)
    made = index.to_timestamp() if frequency.step_of(freq) is not None or freq == "B" else index.to_timestamp(how="end").normalize()
    utc = nanoseconds(made, "the index of periods")
    return Stamps(utc, utc, freq=freq)


def _counted(count: NDArray[np.int64], where: str, freq: str | None, said: list[str]) -> Stamps:
    if freq is None:
        hint = "pd.to_datetime(..., unit='s') makes times of seconds since 1970" if len(count) and abs(count).max() >= 10**8 else ""
        raise DataError(f"{where} holds whole numbers, not times; {hint or 'give freq= and they count steps'}")
    freq = frequency.normalise(freq)
    if frequency.parts(freq)[1] in ("YE", "YS", "BYE", "BYS") and len(count) and count.min() >= 1678 and count.max() <= 2262:
        said.append(f"{where} holds whole numbers: read as years")
        years = pd.to_datetime(pd.Series(count).astype(str), format="%Y")
        offset = pd.tseries.frequencies.to_offset(freq)
        made = nanoseconds(pd.DatetimeIndex([offset.rollforward(one) for one in years]), where)
        return Stamps(made, made, freq=freq)
    if len(count) and (count.min() < 0 or count.max() >= 10**7):
        raise DataError(f"{where} counts steps from {count.min()} to {count.max()}: counts must lie between 0 and 10 million")
    said.append(f"{where} holds whole numbers: they count steps of {freq!r}, put on a calendar that starts {COUNTED_FROM}")
    made = counting(freq, int(count.max()) + 1 if len(count) else 0).asi8[count]
    return Stamps(made, made, freq=freq, counted=True)


def counting(freq: str, length: int) -> pd.DatetimeIndex:
    """The made-up stamps of steps 0, 1, 2 ...

    Args:
        freq: the step.
        length: how many.
    """
    return pd.date_range(COUNTED_FROM, periods=length, freq=freq).as_unit("ns")


def _parsed(column: pd.Series, where: str, date_format: str | None, said: list[str]) -> tuple[pd.Series, pd.Series | None]:
    """Text and date objects as times (and by the clock on the wall, where offsets from UTC differ); an ambiguous date is refused."""
    if date_format is not None or not column.map(lambda one: isinstance(one, str)).all():
        return _parse(column, where, date_format), None
    try:
        return pd.to_datetime(column, format="ISO8601"), None
    except ValueError as error:
        if "timezone" in str(error) or "offset" in str(error):
            said.append(f"{where} has several offsets from UTC")
            local = column.str.strip().str.replace(_OFFSET, "", regex=True)
            return pd.to_datetime(column, format="ISO8601", utc=True), pd.to_datetime(local, format="ISO8601")
    if _SLASHED.match(column.iloc[0]):
        return _slashed(column, where, said), None
    return _parse(column, where, None), None


def _parse(column: pd.Series, where: str, date_format: str | None) -> pd.Series:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # pandas warns where it guesses
            return pd.to_datetime(column, format=date_format)
    except (ValueError, TypeError, OverflowError, UserWarning) as error:
        bad = pd.to_datetime(column.astype(str), format=date_format or "ISO8601", errors="coerce").isna().to_numpy(dtype=bool)
        row = int(bad.argmax())
        how = f"by the format {date_format!r}" if date_format else "as ISO 8601 (2024-07-01 13:00); give date_format= for another"
        raise DataError(f"{where} holds {column.iloc[row]!r} in row {row}, which cannot be read as a time {how}") from error


def _slashed(column: pd.Series, where: str, said: list[str]) -> pd.Series:
    parts = column.str.extract(r"\s*(\d+)[/.-](\d+)[/.-](\d+)(.*)")
    ways = {}
    for name, order in {"day first": [2, 1, 0, 3], "month first": [2, 0, 1, 3]}.items():
        text = parts[order[0]] + "-" + parts[order[1]].str.zfill(2) + "-" + parts[order[2]].str.zfill(2) + parts[3]
        made = pd.to_datetime(text, format="ISO8601", errors="coerce")
        if made.notna().all():
            ways[name] = made
    if len(ways) != 1:
        why = "could have the day or the month first" if ways else "cannot be read as a time"
        raise DataError(f"{where} holds {column.iloc[0]!r}, which {why}; give date_format='%d/%m/%Y' or the like")
    ((name, made),) = ways.items()
    said.append(f"{where} is read with the {name}: the other way does not fit all rows")
    return made


def looks_like_times(column: pd.Series) -> bool:
    """Whether a column is of times, or of text that starts like ISO dates."""
    if pd.api.types.is_datetime64_any_dtype(column.dtype) or isinstance(column.dtype, pd.PeriodDtype):
        return True
    if not (pd.api.types.is_object_dtype(column.dtype) or pd.api.types.is_string_dtype(column.dtype)):
        return False
    first: Sequence[Any] = column.dropna().head(20).tolist()
    return bool(first) and all(
        hasattr(one, "isoformat") or (isinstance(one, str) and (_ISO.fullmatch(one) or _SLASHED.match(one))) for one in first
    )
