"""Rows put on regular grids: one panel a frequency, NaN where a step has no row.

    time_k = start + k freq,  y[item, k] = the row's value at time_k, else NaN (never zero)

Stamps with a time zone: steps shorter than a day are kept in UTC, which has no gap in spring and no hour twice in autumn; days and longer
are dates by the clock on the wall. The zone stays in ``attrs["tz"]`` and results are given back in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from unstir.errors import DataError
from unstir.plugin.options import one_of
from unstir_timeseries import columns, frequency
from unstir_timeseries.panel import panel
from unstir_timeseries.rows import Rows, listed

_DAY = 86_400 * 10**9
_LARGEST = 500_000_000
_PHASES = 24
_FEW = 5


@dataclass(frozen=True)
class Rules:
    """What is done with rows that do not fit a grid.

    Args:
        on_gaps: a step without a row is NaN ("nan") or an error ("refuse").
        duplicates: two rows of one stamp are an error ("refuse"), or their "mean", "sum", "first" or "last" is taken.
        off_grid: a stamp beside the grid is an error ("refuse"), or moved to the nearest step ("snap").
        clock: of stamps with a time zone and steps below a day: "utc", or "wall" (an hour that the clocks repeat is averaged, one that they
            skip is NaN).
    """

    on_gaps: str = "nan"
    duplicates: str = "refuse"
    off_grid: str = "refuse"
    clock: str = "utc"

    def __post_init__(self) -> None:
        one_of(self, on_gaps=("nan", "refuse"), duplicates=("refuse", "mean", "sum", "first", "last"))
        one_of(self, off_grid=("refuse", "snap"), clock=("utc", "wall"))


def panels_of(rows: Rows, rules: Rules, *, freq: str | None = None, season: int | None = None, key: str = "panel") -> list[xr.Dataset]:
    """A panel for each frequency (and phase) of the rows.

    Args:
        rows: the rows, in any order; its ``said`` is added to.
        rules: what is done with rows that do not fit.
        freq: the step of all series; found in their stamps where absent.
        season: steps of a season; by the frequency where absent.
        key: name of the panels; with the frequency behind it where there are several.

    Returns:
        Panels, the one of most series first.

    Raises:
        DataError: stamps are irregular, come twice, or lie beside the grid, or steps are missing where that is refused.
    """
    rows = _sorted(rows)
    wall = _on_wall(rows, rules)
    time = np.where(wall[rows.code], rows.stamps.wall, rows.stamps.utc)
    freqs = _frequencies(rows, time, freq)
    if rules.off_grid == "snap":
        time = _snapped(rows, time, freqs)
    rows, time = _single(rows, time, rules, wall)
    groups = Counter(zip(freqs, wall.tolist(), strict=True)).most_common()
    cut = [(step, by_wall, part) for (step, by_wall), _ in groups for part in _phases(rows, time, freqs, wall, step, by_wall)]
    if len(cut) > 1:
        rows.said.append(
            "series of several frequencies or phases: " + ", ".join(f"{len(part)} of {step!r}" for step, _, part in cut) + ", a panel each"
        )
    names = [key if len(cut) == 1 else f"{key}-{step}" for step, _, _ in cut]
    names = [name if names.count(name) == 1 else f"{name}-{names[:place].count(name) + 1}" for place, name in enumerate(names)]
    made = [_panel(rows, time, part, step, name, season, rules, by_wall) for (step, by_wall, part), name in zip(cut, names, strict=True)]
    said = list(dict.fromkeys(rows.said))
    return [one.assign_attrs(said="\n".join(said)) if said else one for one in made]


def _take(rows: Rows, keep: NDArray[np.int64]) -> Rows:
    stamps = columns.Stamps(rows.stamps.utc[keep], rows.stamps.wall[keep], rows.stamps.zone, rows.stamps.freq, rows.stamps.counted)
    known = {name: values[keep] for name, values in rows.known.items()}
    return Rows(rows.items, rows.code[keep], stamps, rows.y[keep], known, rows.static, rows.freqs, rows.said)


def _sorted(rows: Rows) -> Rows:
    by_item = np.argsort(rows.code, kind="stable")
    back = (np.diff(rows.stamps.utc[by_item]) < 0) & (np.diff(rows.code[by_item]) == 0)
    if back.any():
        rows.said.append(f"rows of {len(set(rows.code[by_item][1:][back]))} series were not in order of time: sorted")
    return _take(rows, np.lexsort((rows.stamps.utc, rows.code)))


def _edges(code: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Where the rows of each item begin, and the end of the last."""
    return np.searchsorted(code, np.arange(count + 1))


def _on_wall(rows: Rows, rules: Rules) -> NDArray[np.bool_]:
    """Which items keep the clock on the wall: dates, and all where that is asked."""
    zone, count = rows.stamps.zone, len(rows.items)
    if zone in ("", "UTC") and np.array_equal(rows.stamps.utc, rows.stamps.wall):
        return np.zeros(count, dtype=bool)
    edges = _edges(rows.code, count)[:-1]
    hour = rows.stamps.wall % _DAY
    dates = np.minimum.reduceat(hour, edges) == np.maximum.reduceat(hour, edges)
    if dates.any():
        rows.said.append(f"days are those of the clock on the wall{f' in {zone}' if zone != 'UTC' else ''}")
    if (~dates).any():
        back = f", and given back in {zone}" if zone != "UTC" else ""
        rows.said.append(f"stamps of hours are kept {f'in UTC{back}' if rules.clock == 'utc' else 'by the clock on the wall'}")
    return dates | (rules.clock == "wall")


def _frequencies(rows: Rows, time: NDArray[np.int64], freq: str | None) -> list[str]:
    """The step of each item: what is given, else what its stamps show, else that of most stamps if they lie on it."""
    if freq is not None:
        return [frequency.normalise(freq)] * len(rows.items)
    edges = _edges(rows.code, len(rows.items))
    found: list[str] = []
    why: dict[int, DataError] = {}
    seen: dict[bytes, str] = {}
    stamps: Counter[str] = Counter()
    for item, given in enumerate(rows.freqs):
        own = time[edges[item] : edges[item + 1]]
        try:
            step = given or seen.get(own.tobytes()) or frequency.infer(own.astype("datetime64[ns]"), f"series {rows.items[item]!r}")
            seen[own.tobytes()] = step
            stamps[step] += len(own)
        except DataError as error:
            step, why[item] = "", error
        found.append(step)
    if not stamps:
        raise why[0]
    usual, joined = stamps.most_common(1)[0][0], []
    for item, step in enumerate(found):
        own = time[edges[item] : edges[item + 1]]
        if step != usual and (item in why or (rows.freqs[item] is None and len(own) < _FEW)):
            model = time[edges[found.index(usual)]]
            if np.isin(own, _grid(int(min(own[0], model)), int(max(own[-1], model)), usual, int(model)).asi8).all():
                found[item] = usual
                joined.append(rows.items[item])
            elif item in why:
                raise why[item]
    if joined:
        rows.said.append(f"stamps of series {listed(joined)} are too few or too irregular to show a frequency: {usual!r}, like the others")
    return found


def _grid(first: int, last: int, freq: str, through: int) -> pd.DatetimeIndex:
    """The stamps of a step from ``first`` to ``last`` (at most one step beyond), one of them ``through``; nanoseconds."""
    step, length = frequency.step_of(freq), frequency.shortest_of(freq).value
    if (last - first) / length > _LARGEST:
        raise DataError(f"steps of {freq!r} from {pd.Timestamp(first)} to {pd.Timestamp(last)} would be more than {_LARGEST:,}")
    start, middle, end = (pd.Timestamp(one) for one in (first, through, last))
    if step is not None:
        return pd.date_range(middle - (middle - start) // step * step, end, freq=step).as_unit("ns")
    grid = pd.date_range(middle, end, freq=freq)
    if first < through:
        grid = pd.date_range(end=middle, periods=(through - first) // length + 2, freq=freq).union(grid)
    return grid[grid >= start].as_unit("ns")


def _snapped(rows: Rows, time: NDArray[np.int64], freqs: list[str]) -> NDArray[np.int64]:
    edges, made, furthest, moved = _edges(rows.code, len(rows.items)), time.copy(), 0, 0
    for item, freq in enumerate(freqs):
        own = time[edges[item] : edges[item + 1]]
        step = frequency.step_of(freq)
        if step is not None:
            near = (own + step.value // 2) // step.value * step.value
        else:
            day = own // _DAY * _DAY
            offset = pd.tseries.frequencies.to_offset(freq)
            first = pd.Timestamp(int(day[0]))
            before = first if offset.is_on_offset(first) else first - offset
            grid = pd.date_range(before, periods=2 + len(pd.date_range(before, pd.Timestamp(int(day[-1])), freq=freq)), freq=freq).as_unit(
                "ns"
            )
            near = grid.asi8[grid.get_indexer(pd.DatetimeIndex(own), method="nearest")]
        moved += int((near != own).sum())
        furthest = max(furthest, int(np.abs(near - own).max()))
        made[edges[item] : edges[item + 1]] = near
    if moved:
        rows.said.append(f"{moved} stamps were moved to the nearest step, by up to {pd.Timedelta(furthest, unit='ns')}")
    return made


def _single(rows: Rows, time: NDArray[np.int64], rules: Rules, wall: NDArray[np.bool_]) -> tuple[Rows, NDArray[np.int64]]:
    """One row a stamp."""
    again = (np.diff(time) == 0) & (np.diff(rows.code) == 0)
    if not again.any():
        return rows, time
    rule = rules.duplicates
    only_wall = wall[rows.code[1:]] & (np.diff(rows.stamps.utc) != 0)
    if rules.clock == "wall" and rules.off_grid == "refuse" and only_wall[again].all():
        rule = "mean"
        rows.said.append(f"{int(again.sum())} steps that the clocks repeat in autumn are averaged")
    elif rule == "refuse":
        row = int(again.argmax())
        twice = pd.DatetimeIndex(time[1:][again])
        autumn = ((twice.day_of_week == 6) & (twice.hour < 4) & (twice.month >= 9)).all()
        hint = ", which looks like the hour that clocks repeat in autumn" if autumn else ""
        raise DataError(
            f"series {rows.items[rows.code[row]]!r} has several rows at {pd.Timestamp(int(time[row]))} "
            f"({int(again.sum())} such rows in all{hint}); "
            "give duplicates='mean', 'sum', 'first' or 'last' to join them"
        )
    else:
        rows.said.append(f"{int(again.sum())} rows had a stamp that was there already: the {rule} is taken")
    table = pd.DataFrame({"code": rows.code, "time": time, "y": rows.y, **{f"known {name}": one for name, one in rows.known.items()}})
    grouped = table.groupby(["code", "time"], sort=True)
    joined = grouped.sum(min_count=1) if rule == "sum" else grouped.agg(rule)
    if rule == "sum":
        means = grouped.mean()
        joined = joined.assign(**{f"known {name}": means[f"known {name}"] for name in rows.known})
    keep = np.flatnonzero(np.concatenate([[True], ~again]))
    made = _take(rows, keep)
    made.y = joined["y"].to_numpy(dtype=np.float64)
    made.known = {name: joined[f"known {name}"].to_numpy(dtype=np.float64) for name in rows.known}
    return made, time[keep]


def _phases(
    rows: Rows, time: NDArray[np.int64], freqs: list[str], wall: NDArray[np.bool_], step: str, by_wall: bool
) -> Iterator[NDArray[np.int64]]:
    """The items of one frequency, cut where their grids never meet (full hours and half hours)."""
    edges = _edges(rows.code, len(rows.items))
    left = np.array([item for item in range(len(rows.items)) if freqs[item] == step and wall[item] == by_wall])
    for _ in range(_PHASES):
        if not len(left):
            return
        first = time[edges[left]]
        grid = _grid(int(first.min()), int(first.max()), step, int(first.min()))
        fits = np.isin(first, grid.asi8)
        yield left[fits]
        left = left[~fits]
    if len(left):
        raise DataError(f"series of the step {step!r} start at more than {_PHASES} different phases; off_grid='snap' puts them on one grid")


def _panel(
    rows: Rows, time: NDArray[np.int64], part: NDArray[np.int64], freq: str, key: str, season: int | None, rules: Rules, by_wall: bool
) -> xr.Dataset:
    edges = _edges(rows.code, len(rows.items))
    keep = np.concatenate([np.arange(edges[item], edges[item + 1]) for item in part])
    stamp = time[keep]
    first = int(time[edges[part]].min())
    grid = _grid(first, int(stamp.max()), freq, first)
    if len(grid) * len(part) > _LARGEST:
        raise DataError(f"{len(part)} series from {grid[0]} to {grid[-1]} in steps of {freq!r} would be {len(grid) * len(part):,} values")
    place = grid.get_indexer(pd.DatetimeIndex(stamp))
    if (place < 0).any():
        row = keep[int((place < 0).argmax())]
        raise DataError(
            f"series {rows.items[rows.code[row]]!r} has a row at {pd.Timestamp(int(time[row]))}, which is not on its grid of step {freq!r} "
            f"from {pd.Timestamp(int(time[edges[rows.code[row]]]))} on; give off_grid='snap' to move it to the nearest step"
        )
    local = np.full(len(rows.items), -1)
    local[part] = np.arange(len(part))
    at = local[rows.code[keep]]
    y = np.full((len(part), len(grid)), np.nan)
    y[at, place] = rows.y[keep]
    known = np.full((len(rows.known), len(part), len(grid)), np.nan)
    for k, values in enumerate(rows.known.values()):
        known[k, at, place] = values[keep]
    _say(rows, y, at, place, part, rules)
    attrs: dict[str, object] = {"counted": 1} if rows.stamps.counted else {}
    if rows.stamps.zone and not (by_wall and rows.stamps.zone == "UTC"):
        attrs |= {"tz": rows.stamps.zone, "clock": "wall" if by_wall else "utc"}
    return panel(
        y,
        grid,
        [rows.items[item] for item in part],
        freq=freq,
        season=frequency.season_of(freq) if season is None else season,
        key=key,
        calendar="unknown" if rows.stamps.counted else "known",
        known=known if rows.known else None,
        covariates=list(rows.known),
        category={name: [values[item] for item in part] for name, values in rows.static.items()},
        attrs=attrs,
    )


def _say(
    rows: Rows, y: NDArray[np.float64], at: NDArray[np.int64], place: NDArray[np.int64], part: NDArray[np.int64], rules: Rules
) -> None:
    starts = np.full(len(part), y.shape[1])
    ends = np.full(len(part), -1)
    np.minimum.at(starts, at, place)
    np.maximum.at(ends, at, place)
    absent = ends - starts + 1 - np.bincount(at, minlength=len(part))
    if absent.any():
        which = [rows.items[part[k]] for k in np.flatnonzero(absent)]
        sentence = f"{int(absent.sum())} steps have no row (series {listed(which)})"
        if rules.on_gaps == "refuse":
            raise DataError(f"{sentence}; on_gaps='nan' makes them missing values")
        rows.said.append(f"{sentence}: missing values")
    empty = np.isnan(y).all(axis=1)
    if empty.any():
        rows.said.append(f"series {listed([rows.items[part[k]] for k in np.flatnonzero(empty)])} has no observed value")
