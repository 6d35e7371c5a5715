"""Join runs, of one domain or several, into one table, a page of curves of quality against evaluations, and ranks.

Rows are methods, settings or the values of an option of methods (``solver``, ``grid``); columns are tasks under their settings.
Where two rows answered the same cases their difference is paired. Ranks are averaged over the columns that every row has; two rows differ
when their mean ranks are further apart than the critical difference

    CD = q_0.05(k) sqrt(k (k + 1) / (6 N)),   k rows, N columns.        [Nemenyi 1963; Demsar 2006, JMLR 7:1-30]
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from unstir.errors import UserError, nearest
from unstir.plugin.protocols import Setting
from unstir_pipelines.options import UsageError
from unstir_pipelines.pairing import Difference, Scored, paired_difference
from unstir_pipelines.results import ARROWS, Number, Results, ahead, headed, read, setting_title
from unstir_pipelines.store import make_folder, to_json, write_whole
from unstir_pipelines.tables import Column, TextTable, cells_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


ALONG = ("grid", "steps")
"""Options that a curve runs along; methods that differ in another one have curves of their own."""


@dataclass(frozen=True, eq=False)
class Entry:
    """One method of one run under one setting, judged by the first metric of its recipe.

    Args:
        row: its row in the table.
        column: its column.
        series: its curve.
        results: the run.
        label: the method.
        setting: the setting.
        metric: the metric.
        number: its mean and interval.
    """

    row: str
    column: tuple[str, str, str]
    series: str
    results: Results
    label: str
    setting: Setting
    metric: str
    number: Number

    @property
    def nfe(self) -> float:
        """Evaluations of the denoiser, nan where they were not counted."""
        found = self.results.number(self.label, self.setting, "nfe")
        return math.nan if found is None else found.mean

    @cached_property
    def scores(self) -> Scored:
        """Values by case and the rank of the seed: seeds are draws of one law, so the first of one run pairs with the first of another."""
        scores = self.results.scores(self.label, self.setting, self.metric)
        seeds = {seed: rank for rank, seed in enumerate(sorted({seed for _, seed in scores}))}
        return {(f"{case}@{self.results.fingerprint(case, self.setting)}", seeds[seed]): entry for (case, seed), entry in scores.items()}


@dataclass
class Comparison:
    """Runs, joined.

    Args:
        by: what the rows are.
        runs: the runs.
        entries: every cell; a cell that several entries share holds the first.
    """

    by: str
    runs: list[Results]
    entries: list[Entry]
    _differences: dict[tuple[int, int], Difference | None] = field(default_factory=dict)

    @cached_property
    def cells(self) -> dict[tuple[str, tuple[str, str, str]], Entry]:
        """Entries by row and column."""
        found: dict[tuple[str, tuple[str, str, str]], Entry] = {}
        for entry in self.entries:
            found.setdefault((entry.row, entry.column), entry)
        return found

    @cached_property
    def columns(self) -> list[tuple[str, str, str]]:
        """Task, setting and what else tells columns apart, in the order of the runs."""
        return list(dict.fromkeys(entry.column for entry in self.entries))

    @cached_property
    def rows(self) -> list[str]:
        """Rows: those without a trained prior first, then by mean rank, else in the order of the runs."""
        every = list(dict.fromkeys(entry.row for entry in self.entries))
        learned = {entry.row for entry in self.entries if entry.results.uses_prior(entry.label)}
        return sorted(every, key=lambda row: (row in learned, self.ranks.get(row, math.inf)))

    def column_entries(self, column: tuple[str, str, str]) -> list[Entry]:
        """The cells of one column, best first."""
        found = [entry for (_, where), entry in self.cells.items() if where == column and math.isfinite(entry.number.mean)]
        return sorted(found, key=lambda entry: entry.number.mean if entry.number.better == "down" else -entry.number.mean)

    def difference(self, a: Entry, b: Entry) -> Difference | None:
        """How far ``a`` is from ``b`` over the cases both answered; ``None`` where they share none."""
        key = (id(a), id(b))
        if key not in self._differences:
            self._differences[key] = paired_difference(a.scores, b.scores)
        return self._differences[key]

    def is_best(self, entry: Entry) -> bool:
        """Is the entry ahead of every other one of its column, as far as the intervals say?"""
        order = self.column_entries(entry.column)
        return (
            len(order) > 1
            and order[0] is entry
            and all(ahead(entry.number, other.number, self.difference(entry, other)) for other in order[1:])
        )

    @cached_property
    def ranked(self) -> tuple[list[str], list[tuple[str, str, str]]]:
        """Rows and columns that the ranks are made of: every such row has a number in every such column."""
        every = list(dict.fromkeys(entry.row for entry in self.entries))
        whole = [row for row in every if all(self._is_finite(row, column) for column in self.columns)]
        if len(whole) >= 2 and len(self.columns) >= 2:
            return whole, self.columns
        full = [column for column in self.columns if all(self._is_finite(row, column) for row in every)]
        return (every, full) if len(every) >= 2 and len(full) >= 2 else ([], [])

    def _is_finite(self, row: str, column: tuple[str, str, str]) -> bool:
        entry = self.cells.get((row, column))
        return entry is not None and math.isfinite(entry.number.mean)

    @cached_property
    def _ranks_by_column(self) -> Any:
        import numpy as np
        from scipy.stats import rankdata

        rows, columns = self.ranked
        table = []
        for column in columns:
            numbers = [self.cells[row, column].number for row in rows]
            table.append(rankdata([number.mean if number.better == "down" else -number.mean for number in numbers]))
        return np.array(table)

    @cached_property
    def ranks(self) -> dict[str, float]:
        """Mean rank of each row, 1 the best; empty where fewer than two rows share two columns."""
        rows, columns = self.ranked
        return dict(zip(rows, self._ranks_by_column.mean(0).tolist(), strict=True)) if columns else {}

    @cached_property
    def critical_difference(self) -> float | None:
        """How far apart two mean ranks must be at the 5 % level, ``None`` without ranks."""
        from scipy.stats import studentized_range

        rows, columns = self.ranked
        if not columns:
            return None
        count = len(rows)
        return float(studentized_range.ppf(0.95, count, math.inf) / math.sqrt(2) * math.sqrt(count * (count + 1) / (6 * len(columns))))

    @cached_property
    def friedman(self) -> float | None:
        """p-value of the Friedman test that all rows rank alike; ``None`` for fewer than three rows or columns."""
        from scipy.stats import friedmanchisquare

        rows, columns = self.ranked
        if len(rows) < 3 or len(columns) < 3:
            return None
        return float(friedmanchisquare(*self._ranks_by_column.T).pvalue)

    def payload(self) -> dict[str, Any]:
        """All of it as JSON holds it: a row an entry, with its distance to the best of its column, and the ranks."""
        made = []
        for entry in self.entries:
            order = self.column_entries(entry.column)
            best = order[0] if order else entry
            behind = None if best is entry else self.difference(entry, best)
            seconds = entry.results.number(entry.label, entry.setting, "seconds")
            made.append(
                {
                    "run": run_name(entry.results),
                    "task": entry.results.task,
                    "setting": dict(entry.setting),
                    "method": entry.label,
                    "row": entry.row,
                }
                | {"column": titled(entry.column), "series": entry.series, "metric": entry.metric}
                | {name: getattr(entry.number, name) for name in ("unit", "mean", "low", "high", "cases", "better")}
                | {"nfe": entry.nfe, "seconds": None if seconds is None else seconds.mean, "best": self.is_best(entry)}
                | {
                    "from_best": None
                    if behind is None
                    else {name: getattr(behind, name) for name in ("mean", "low", "high", "cases", "over")}
                }
            )
        ranks = [{"row": row, "mean_rank": self.ranks[row], "columns": len(self.ranked[1])} for row in self.rows if row in self.ranks]
        tail = {"ranks": ranks, "critical_difference": self.critical_difference, "friedman_p": self.friedman}
        return {"by": self.by, "runs": [str(run.folder) for run in self.runs], "rows": made, **tail}

    def table(self) -> TextTable:
        """The table for the terminal."""
        groups = []
        for column in self.columns:
            entries = [self.cells.get((row, column)) for row in self.rows]
            first = next(entry for entry in entries if entry is not None)
            best = [entry is not None and self.is_best(entry) for entry in entries]
            numbers = [None if entry is None else entry.number for entry in entries]
            quality = Column(headed(first.results.info(first.metric)), cells_of(numbers, first.metric), best)
            groups.append((titled(column), [quality, Column("NFE", [_count(entry) for entry in entries], [False] * len(entries))]))
        if self.ranks:
            ranks = [f"{self.ranks[row]:.2f}" if row in self.ranks else "–" for row in self.rows]
            groups.append(("", [Column("mean rank", ranks, [False] * len(ranks))]))
        return TextTable(self.by, self.rows, groups, [self.note(), *([self.rank_note()] if self.ranks else [])])

    def note(self) -> str:
        """What the ± and the bold are."""
        over = " or ".join(dict.fromkeys(run.over for run in self.runs if run.over))
        text = f"± is the half-width of a 95 % bootstrap interval over {over}." if over else "No intervals: there was nothing to resample."
        return f"{text} Bold is ahead of every other row of its column; differences are paired where the cases are the same."

    def rank_note(self) -> str:
        """What the ranks are, and how far apart they must be."""
        count = len(self.ranked[1])
        apart = f"two rows differ where their ranks are {self.critical_difference:.2f} or more apart (Nemenyi, 5 %)"
        text = f"Mean rank over {count} columns, 1 the best; {apart}."
        return text if self.friedman is None else f"{text} Friedman test that all rank alike: p = {self.friedman:.2g}."


def join(folders: Sequence[Path], by: str = "method") -> Comparison:
    """Join runs into one comparison.

    Args:
        folders: finished runs, of one domain or several.
        by: what the rows are: ``"method"``, ``"setting"``, or an option of methods (``"solver"``, ``"grid"``, ``"checkpoint"``).

    Returns:
        The comparison.

    Raises:
        DataError: a folder is not a finished run.
        UserError: no runs, or no method has the option.
    """
    if not folders:
        raise UserError("compare needs at least one run folder")
    runs = [read(folder) for folder in dict.fromkeys(Path(folder).resolve() for folder in folders)]
    options = {
        key
        for run in runs
        for entry in run.options.values()
        for key, value in entry.items()
        if value is not None and key not in ("name", "title")
    }
    if by not in ("method", "setting") and by not in options:
        near = nearest(by, {"method", "setting", *options}, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: method, setting, {', '.join(sorted(options))}"
        raise UsageError(f"--by {by!r} is not an option of any method of these runs; {hint}")
    found = [entry for run in runs for entry in _entries(run, by, runs)]
    found = _told_apart(_without_twins(found), _differing)
    return Comparison(by, runs, _told_apart(found, lambda shared: {"run"}))


def compare(folders: Sequence[Path], by: str | None = None, out: Path = Path("runs/compare")) -> Path:
    """Join runs and write ``compare.html``, ``compare.png``, ``compare.json`` and ``table.txt``.

    Args:
        folders: finished runs.
        by: as in ``join``; ``None`` is ``"method"``.
        out: where to write.

    Returns:
        Path of the page.

    Raises:
        DataError: a folder is not a finished run.
        UserError: no runs, or no method has the option.
    """
    from unstir_pipelines.report import compared

    comparison = join(folders, by or "method")
    out = Path(out)
    make_folder(out, "--out")
    text = io.StringIO()
    Console(file=text, width=120, color_system=None).print(comparison.table())
    write_whole(out / "table.txt", text.getvalue())
    write_whole(out / "compare.json", to_json(comparison.payload()))
    picture = draw(comparison)
    write_whole(out / "compare.png", picture)
    page = out / "compare.html"
    write_whole(page, compared.render(comparison, out, picture))
    return page


def draw(comparison: Comparison) -> bytes:
    """Curves of quality against evaluations, a panel a task and setting, as PNG; rows without evaluations are dashed lines."""
    import matplotlib

    from unstir_pipelines.figures import STYLE, png

    with matplotlib.rc_context(STYLE):
        return png(_curves(comparison))


def _curves(comparison: Comparison) -> Figure:
    from matplotlib.figure import Figure

    from unstir_pipelines.figures import PALETTE, log_axis, plain, shortened

    panels: dict[tuple[str, str, str], list[Entry]] = {}
    for entry in comparison.entries:
        if math.isfinite(entry.number.mean):
            panels.setdefault((entry.results.title, setting_title(entry.setting), entry.metric), []).append(entry)
    names = list(dict.fromkeys(entry.series for entries in panels.values() for entry in entries))
    looks = {name: (PALETTE[i % len(PALETTE)], "os^DvP*"[i % 7], ("-", ":")[i // len(PALETTE) % 2]) for i, name in enumerate(names)}
    columns = min(3, max(1, len(panels)))
    lines = max(1, math.ceil(len(panels) / columns))
    figure = Figure(figsize=(max(5.6, 4.1 * columns), 3.3 * lines + 0.28 * math.ceil(len(names) / 4) + 0.2), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    drawn: dict[str, Any] = {}
    for axes, ((title, setting, metric), entries) in zip(grid.flat, panels.items(), strict=False):
        info = entries[0].results.info(metric)
        for name in dict.fromkeys(entry.series for entry in entries):
            colour, mark, dash = looks[name]
            own = [entry for entry in entries if entry.series == name]
            for entry in own:
                if not entry.nfe > 0:
                    drawn[name] = axes.axhline(entry.number.mean, color=colour, linestyle="--", linewidth=1.2)
                    if math.isfinite(entry.number.half):
                        axes.axhspan(entry.number.low, entry.number.high, color=colour, alpha=0.12, linewidth=0)
            points = sorted((entry.nfe, entry.number.mean, entry.number.low, entry.number.high) for entry in own if entry.nfe > 0)
            if points:
                x, y, low, high = zip(*points, strict=True)
                (drawn[name],) = axes.plot(x, y, color=colour, marker=mark, linestyle=dash, markersize=5, linewidth=1.5, zorder=3)
                axes.vlines(x, low, high, color=colour, linewidth=1.3, zorder=3)
        log_axis(axes, [entry.nfe for entry in entries])
        axes.margins(x=0.12, y=0.12)
        axes.set_title(plain(", ".join(filter(None, [title, setting]))))
        axes.set_xlabel("evaluations of the denoiser (NFE)")
        axes.set_ylabel(plain(f"{info.title} ({info.unit})" if info.unit else info.title) + f" {ARROWS[info.better]}".rstrip())
    if drawn:
        words = [plain(shortened(name, 48)) for name in drawn]
        columns = max(1, min(4, int(12 * figure.get_figwidth() / (max(map(len, words)) + 8))))
        figure.legend(list(drawn.values()), words, loc="outside lower left", ncols=columns, fontsize=9)
    return figure


def _entries(run: Results, by: str, runs: Sequence[Results]) -> Iterable[Entry]:
    if not run.leads:
        return
    metric = run.leads[0]
    has_option = [label for label in run.labels if run.options.get(label, {}).get(by) is not None]
    task = _task_title(run, runs)
    rivals = {
        label for other in runs if _task_title(other, runs) == task for label, entry in other.options.items() if entry.get(by) is not None
    }
    for setting in run.settings:
        where = setting_title(setting)
        for label in run.labels:
            number = run.number(label, setting, metric)
            if number is None:
                continue
            name = run.titled(label)
            if by == "method":
                cells = [(name, (task, where, ""))]
            elif by == "setting":
                cells = [(where or "as it is", (task, "", name))]
            elif label in has_option:
                cells = [(str(run.options[label][by]), (task, where, name if len(rivals) > 1 else ""))]
            else:
                others = [run.titled(other) for other in has_option] if len(rivals) > 1 else [""]
                cells = [(name, (task, where, other)) for other in others or [""]]
            series = cells[0][0] if by not in ("method", "setting") else name
            for row, column in cells:
                yield Entry(row, column, series, run, label, setting, metric, number)


def _task_title(run: Results, runs: Sequence[Results]) -> str:
    """The run's title, with the data where runs of one task differ in them."""
    same = [other for other in runs if other.task == run.task]
    return f"{run.title}, {run.data}" if len({other.data for other in same}) > 1 else run.title


def _without_twins(entries: Iterable[Entry]) -> list[Entry]:
    """Leave out what several runs did alike: a method with the same options and the same numbers on the same cases."""
    seen: set[tuple[Any, ...]] = set()
    kept = []
    for entry in entries:
        values = tuple(sorted((case, scored[0]) for case, scored in entry.scores.items()))
        key = (entry.row, entry.column, str(entry.results.options.get(entry.label)), values)
        if key not in seen or not values:
            kept.append(entry)
        seen.add(key)
    return kept


def _told_apart(entries: Sequence[Entry], by: Callable[[Sequence[Entry]], set[str]]) -> list[Entry]:
    """Give entries that fall on one cell rows of their own, named by what tells them apart (every entry of such a row alike)."""
    places: dict[tuple[str, tuple[str, str, str]], list[Entry]] = {}
    for entry in entries:
        places.setdefault((entry.row, entry.column), []).append(entry)
    keys: dict[str, set[str]] = {}
    for (row, _), shared in places.items():
        if len(shared) > 1:
            keys.setdefault(row, set()).update(by(shared))
    named = []
    for entry in entries:
        words = {key: _word(entry, key) for key in sorted(keys.get(entry.row, ()))}
        row = ", ".join([entry.row, *filter(None, words.values())])
        series = ", ".join([entry.series, *(word for key, word in words.items() if word and key not in ALONG)])
        named.append(replace(entry, row=row, series=series))
    return named


def _differing(shared: Sequence[Entry]) -> set[str]:
    """Options, and the seed, in which entries of one cell differ."""
    options = [entry.results.options.get(entry.label, {}) | {"seed": entry.results.recipe.get("seed")} for entry in shared]
    return {key for key in {key for each in options for key in each} if len({str(each.get(key)) for each in options}) > 1}


def _word(entry: Entry, key: str) -> str:
    if key == "run":
        return run_name(entry.results)
    value = entry.results.recipe.get("seed") if key == "seed" else entry.results.options.get(entry.label, {}).get(key)
    if value is None:
        return ""
    return str(value) if key in ("solver", "grid", "checkpoint", "title") else f"{key} {value}"


def run_name(results: Results) -> str:
    """The name of the run's folder."""
    return results.folder.name


def titled(column: tuple[str, str, str]) -> str:
    """A column's head in words."""
    return ", ".join(filter(None, column))


def _count(entry: Entry | None) -> str:
    return "–" if entry is None or not math.isfinite(entry.nfe) else f"{entry.nfe:.0f}"
