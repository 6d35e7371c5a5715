"""Names of time steps: old pandas aliases and new ones, the season and the lags that go with a step, and the step of given stamps.

    freq = n x unit[-anchor],  n = 1 not written, a fixed step in the largest unit that divides it ("60min" is "h", "24h" is "D")
    lags (steps) = 24 {1, 2, 3, 4, 5, 6, 7, 14, 21, 28} hourly, 30 {1 .. 12} daily and on business days

pandas 2.2 renamed H, T, S, L, M, Q, A ... to h, min, s, ms, ME, QE, YE ..., and pandas 3 refuses the old names, which files of other tools
still carry; both are read here, and the new one is what a panel holds.
Reference: lags of TSDiff (Kollovieh et al. 2023, arXiv:2307.11494) as its code has them; seasons as GluonTS counts them.
"""

from __future__ import annotations

import datetime as dt
import re
from decimal import Decimal
from itertools import pairwise
from math import gcd
from typing import Any

import numpy as np
import pandas as pd

from unstir.errors import DataError, UnknownName, UserError

STEPS = {"D": 86_400 * 10**9, "h": 3600 * 10**9, "min": 60 * 10**9, "s": 10**9, "ms": 10**6, "us": 1000, "ns": 1}
"""Nanoseconds of the units of fixed length, the longest first."""
CALENDAR = ("B", "W", "SME", "SMS", "ME", "MS", "BME", "BMS", "QE", "QS", "BQE", "BQS", "YE", "YS", "BYE", "BYS")
"""Units whose length the calendar decides."""
OLD = {"h": "H", "min": "T", "s": "S", "ms": "L", "us": "U", "ns": "N", "ME": "M", "BME": "BM", "SME": "SM", "QE": "Q", "BQE": "BQ"}
OLD |= {"YE": "A", "YS": "AS", "BYE": "BA", "BYS": "BAS"}
"""The name that pandas before 2.2 had for a unit, where it was another."""
WORDS = {"day": "D", "hour": "h", "minute": "min", "second": "s", "week": "W", "month": "ME", "quarter": "QE", "year": "YE"}
WORDS |= {"daily": "D", "hourly": "h", "minutely": "min", "weekly": "W", "monthly": "ME", "quarterly": "QE", "yearly": "YE", "annual": "YE"}

_SEASONS = {"s": 3600, "min": 1440, "h": 24, "D": 1, "B": 5, "W": 1, "SM": 24, "M": 12, "Q": 4, "Y": 1}
_DAYS = ("MON", "TUE", "WED", "THU", "FRI", "SAT", "SUN")
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_MULTIPLES = (1, 2, 3, 4, 5, 6, 7, 14, 21, 28)
_FILLED = 0.1
"""A grid of which the stamps fill less than this was not meant."""


def _spellings() -> dict[str, str]:
    units = (*STEPS, *CALENDAR)
    known = {unit: unit for unit in units} | {old: new for new, old in OLD.items()} | {"Y": "YE", "BY": "BYE"} | WORDS
    folded: dict[str, set[str]] = {}
    for name, unit in known.items():
        folded.setdefault(name.lower(), set()).add(unit)
    once = {name: next(iter(found)) for name, found in folded.items() if len(found) == 1 and name != "m"}
    return once | known


_SPELLINGS = _spellings()


def normalise(freq: Any) -> str:
    """The alias of today for a step, whatever it is called.

    Args:
        freq: an alias, old or new ("H", "2h", "15T", "M", "W-MON", "QE-DEC"), a word ("hourly"), a sum ("1h30min"), a pandas offset, or a
            length of time.

    Returns:
        The new alias in its shortest form: "h", "2h", "15min", "ME", "W-MON", "QE"; the usual anchor (SUN, DEC, and JAN for starts) is not
        written, and anchors that name one grid (QE-MAR, QE-DEC) have one name.

    Raises:
        UserError: it is no step, or is not positive; the sentence names the nearest.
    """
    if isinstance(freq, dt.timedelta | np.timedelta64):
        return _fixed(int(pd.Timedelta(freq).value), str(freq))
    if isinstance(freq, pd.offsets.BaseOffset):
        freq = freq.freqstr
    if not isinstance(freq, str):
        raise UserError(f"a frequency is an alias such as 'h', 'D' or 'ME', got {freq!r}")
    text = freq.strip()
    pieces = re.findall(r"(\d+(?:\.\d+)?)?([A-Za-z]+)", text)
    single = re.fullmatch(r"(\d+(?:\.\d+)?)?\s*([A-Za-z]+)(?:-([A-Za-z]+))?", text)
    if single is None:
        units = [_SPELLINGS.get(name) for _, name in pieces]
        if len(pieces) < 2 or "".join(a + b for a, b in pieces) != text or not all(unit in STEPS for unit in units):
            raise UnknownName("frequency", freq, _SPELLINGS)
        return _fixed(sum(_nanoseconds(number, unit or "", freq) for (number, _), unit in zip(pieces, units, strict=True)), freq)
    number, name, anchor = single.groups()
    unit = _SPELLINGS.get(name, _SPELLINGS.get(name.lower(), ""))
    if not unit and name.lower() == "m":
        raise UserError(f"the frequency {freq!r} could be minutes ('min') or months ('ME'): say which")
    if not unit:
        raise UnknownName("frequency", freq, _SPELLINGS)
    if unit in STEPS:
        if anchor:
            raise UserError(f"the frequency {freq!r} has an anchor, and {unit!r} takes none")
        return _fixed(_nanoseconds(number, unit, freq), freq)
    count = float(number or 1)
    if count < 1 or count != int(count):
        raise UserError(f"the frequency {freq!r} must be a whole number of {unit!r}, at least 1")
    end = _anchor(unit, anchor, freq)
    return f"{int(count) if count > 1 else ''}{unit}{end}"


def _nanoseconds(number: str | None, unit: str, freq: str) -> int:
    length = Decimal(number or 1) * STEPS[unit]
    if length != int(length):
        raise UserError(f"the frequency {freq!r} is not a whole number of nanoseconds")
    return int(length)


def _fixed(length: int, freq: str) -> str:
    if length <= 0:
        raise UserError(f"the frequency {freq!r} must be longer than nothing")
    unit = next(unit for unit, size in STEPS.items() if length % size == 0)
    count = length // STEPS[unit]
    return f"{count if count > 1 else ''}{unit}"


def _anchor(unit: str, anchor: str | None, freq: str) -> str:
    """The anchor as it is written: nothing where it is the usual one."""
    family = unit.strip("B")[:1]
    names = _DAYS if unit == "W" else _MONTHS if family in "QY" and unit != "B" else ()
    if anchor is None:
        return ""
    if anchor.upper() not in names:
        takes = f"takes {names[0]} .. {names[-1]}" if names else "takes none"
        raise UserError(f"the frequency {freq!r} has the anchor {anchor!r}, and {unit!r} {takes}")
    place = names.index(anchor.upper())
    usual = 6 if unit == "W" else 0 if unit.endswith("S") else 11
    if family == "Q":
        place, usual = place % 3, usual % 3
    return "" if place == usual else f"-{names[place]}"


def legacy(freq: Any) -> str:
    """The alias that files of other tools expect: "H" for "h", "M" for "ME", "2T" for "2min".

    Args:
        freq: whatever `normalise` takes.

    Returns:
        The name that pandas had before 2.2.
    """
    count, unit, anchor = parts(freq)
    return f"{count if count > 1 else ''}{OLD.get(unit, unit)}{anchor}"


def parts(freq: Any) -> tuple[int, str, str]:
    """How many of which unit, and the anchor with its dash ("" for none).

    Args:
        freq: whatever `normalise` takes.

    Returns:
        count, unit, anchor: (2, "h", ""), (1, "W", "-MON").

    Raises:
        UserError: it is no step.
    """
    found = re.fullmatch(r"(\d*)([A-Za-z]+)(-[A-Z]+)?", normalise(freq))
    if found is None:
        raise UserError(f"{freq!r} is no frequency")
    return int(found[1] or 1), found[2], found[3] or ""


def step_of(freq: Any) -> pd.Timedelta | None:
    """The length of a step, or None where the calendar decides it (months, weeks with their day, business days).

    Args:
        freq: whatever `normalise` takes.
    """
    count, unit, _ = parts(freq)
    return pd.Timedelta(count * STEPS[unit], unit="ns") if unit in STEPS else None


def shortest_of(freq: Any) -> pd.Timedelta:
    """The least length that a step can have: its length, or that of the shortest month, quarter, ... it may fall on.

    Args:
        freq: whatever `normalise` takes.
    """
    count, unit, _ = parts(freq)
    days = {"B": 1, "W": 7, "SM": 13, "M": 28, "Q": 89, "Y": 362}  # business ones begin and end up to three days from their month's edges
    return step_of(freq) or pd.Timedelta(days=count * days[unit if unit in "BW" else _family(unit)])


def season_of(freq: Any) -> int:
    """Steps of a season, as GluonTS counts them: 24 for "h", 1 for "D" and "W", 5 for "B", 12 for months, 4 for quarters.

    A step of minutes has the day (96 for "15min"), one of seconds the hour; a multiple that does not divide its season has none (1), like
    whatever is finer than a second.

    Args:
        freq: whatever `normalise` takes.

    Returns:
        At least 1.
    """
    count, unit, _ = parts(freq)
    whole = _SEASONS.get(unit if unit in STEPS or unit in "BW" else _family(unit), 1)
    return whole // count if whole % count == 0 else 1


def lags_of(freq: Any) -> tuple[int, ...]:
    """Lags of the channels of TSDiff, in steps.

    Hourly the days 24 {1..7, 14, 21, 28}, daily and on business days 30 {1..12}: the authors' table. Beyond it, by extension: hours and
    minutes in any multiple keep those days, seconds keep that many hours; multiples of days keep the 30 {1..12} days; weeks have every
    fourth up to a year, 4 {1..13}; months, quarters and years have three years. What does not divide is rounded, and lags that
    fall together are one. Steps finer than a second have none.

    Args:
        freq: whatever `normalise` takes.

    Returns:
        Increasing lags, each at least 1.
    """
    count, unit, _ = parts(freq)
    if unit in ("h", "min", "s"):
        base = (STEPS["h"] if unit == "s" else STEPS["D"]) // STEPS[unit]
        wanted = [base * k for k in _MULTIPLES]
    elif unit in ("D", "B"):
        wanted = [30 * k for k in range(1, 13)]
    elif unit == "W":
        wanted = [4 * k for k in range(1, 14)]
    elif unit in STEPS:
        wanted = []
    else:
        wanted = [_SEASONS[_family(unit)] * k for k in (1, 2, 3)]
    return tuple(sorted({max(1, round(lag / count)) for lag in wanted}))


def _family(unit: str) -> str:
    """M, Q, Y or SM: months and their relatives, business ones too."""
    return unit.removeprefix("B").rstrip("ES") if not unit.startswith("SM") else "SM"


def infer(stamps: Any, name: str = "the series") -> str:
    """The step of stamps, gaps allowed: the step that occurs and of which all others are multiples.

    Weekdays without a weekend are business days, whole weeks have their day, first and last days of months are months, quarters or years.

    Args:
        stamps: times without a zone, in any order; repeated ones count once.
        name: what the stamps belong to, for the sentence.

    Returns:
        An alias as `normalise` gives it.

    Raises:
        DataError: fewer than two stamps, or irregular ones.
    """
    index = pd.DatetimeIndex(stamps).dropna().unique().sort_values().as_unit("ns")
    if len(index) < 2:
        raise DataError(f"{name} has {len(index)} stamp{'s' * (len(index) != 1)}: two are needed to see a frequency; give freq=")
    steps = np.diff(index.asi8)
    common, least = int(np.gcd.reduce(steps)), int(steps.min())
    if common % STEPS["D"] == 0 and least >= 28 * STEPS["D"] and (months := _months(index)):
        return months
    filled = len(index) * common / (index.asi8[-1] - index.asi8[0] + common)
    if common != least or filled < _FILLED:
        raise DataError(_irregular(steps, name))
    if common == STEPS["D"] and len(index) >= 5 and steps.max() > common and (index.day_of_week < 5).all():
        return "B"
    weeks, rest = divmod(common, 7 * STEPS["D"])
    if rest == 0:
        return normalise(f"{weeks}W-{_DAYS[index[0].day_of_week]}")
    return _fixed(common, "")


def _irregular(steps: np.ndarray[Any, Any], name: str) -> str:
    lengths, times = np.unique(steps, return_counts=True)
    usual = int(times.argmax())
    small, large, most = (pd.Timedelta(int(one), unit="ns") for one in (lengths[0], lengths[-1], lengths[usual]))
    return (
        f"the stamps of {name} are not regular: steps run from {small} to {large}, "
        f"the commonest is {most} ({times[usual] / len(steps):.0%}); give freq= (and off_grid='snap' where stamps lie beside its grid)"
    )


def _months(index: pd.DatetimeIndex) -> str:
    """The alias of stamps on first or last (business) days of months, or ""."""
    day = pd.DatetimeIndex(index.normalize().to_numpy())  # without its freq: with a business one, pandas' month end is the business one
    kinds = {
        "S": day.is_month_start,
        "E": day.is_month_end,
        "BS": np.array([pd.offsets.BMonthBegin().is_on_offset(one) for one in day]),
        "BE": np.array([pd.offsets.BMonthEnd().is_on_offset(one) for one in day]),
    }
    kind = next((kind for kind, holds in kinds.items() if np.all(holds)), "")
    number = index.year.to_numpy(dtype=np.int64) * 12 + index.month.to_numpy(dtype=np.int64)
    gaps = [int(b - a) for a, b in pairwise(number)]
    common = gcd(*gaps)
    if not kind or common == 0 or common != min(gaps) or len(index) * common < _FILLED * (number[-1] - number[0] + common):
        return ""
    business, edge = kind[:-1], kind[-1]
    family, count = ("Y", common // 12) if common % 12 == 0 else ("Q", common // 3) if common % 3 == 0 else ("M", common)
    unit = f"{business}{family}{edge}"
    anchor = f"-{_MONTHS[int(number[0] - 1) % 12]}" if family != "M" else ""
    return normalise(f"{count}{unit}{anchor}")
