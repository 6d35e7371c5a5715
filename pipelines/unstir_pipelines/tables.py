"""A run's numbers as tables: for the terminal and for pandas."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from unstir_pipelines.results import COST_KEYS, Number, as_float, digits_of, duration, headed, read, setting_title, shown, spent

if TYPE_CHECKING:
    import pandas as pd


def frame(folder: Path) -> pd.DataFrame:
    """The table as pandas: a row a setting, method and metric.

    Args:
        folder: a finished run.

    Returns:
        Columns: ``task``, the varied keys, ``method``, ``metric``, ``unit``, ``mean``, ``low`` and ``high`` (95 % bootstrap interval),
        ``cases``, ``better``, and ``best``: is the method ahead of every other, as far as the intervals say?

    Raises:
        DataError: the folder is not a finished run.
    """
    import pandas as pd

    results = read(folder)
    records = [
        {
            "task": row.get("task", results.task),
            **row["setting"],
            "method": row["method"],
            "metric": row["metric"],
            "unit": row.get("unit", ""),
        }
        | {name: as_float(row[name]) for name in ("mean", "low", "high")}
        | {"cases": row["cases"], "better": row["better"]}
        | {"best": row["metric"] not in COST_KEYS and results.leader(row["setting"], row["metric"]) == row["method"]}
        for row in results.rows
    ]
    return pd.DataFrame.from_records(records)


@dataclass
class Column:
    """One column of a text table.

    Args:
        head: what stands above it.
        cells: one text a row.
        best: is a row's cell the best?
        least: characters it takes at least.
    """

    head: str
    cells: list[str]
    best: list[bool]
    least: int = 0

    @property
    def width(self) -> int:
        """Characters across."""
        return max(self.least, *(len(text) for text in [self.head, *self.cells]))

    def fitted(self, text: str) -> str:
        """A text in the column's width: numbers with an interval from the left, plain ones to the right."""
        return text.ljust(self.width) if any("±" in cell for cell in self.cells) else text.rjust(self.width)


@dataclass
class TextTable:
    """A rich renderable: rows with groups of columns side by side; groups that do not fit go below.

    Args:
        corner: what the rows are (``"method"``).
        labels: names of the rows.
        groups: title and columns of each group.
        notes: sentences below.
    """

    corner: str
    labels: list[str]
    groups: list[tuple[str, list[Column]]]
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for title, columns in self.groups:
            columns[-1].least = columns[-1].width + max(0, len(title) + 3 - _span(columns))

    def _bands(self, room: int) -> Iterator[list[tuple[str, list[Column]]]]:
        """Groups that fit beside each other in ``room`` characters; a group too wide alone is cut between columns."""
        band: list[tuple[str, list[Column]]] = []
        for title, columns in self.groups:
            if band and sum(_span(taken) for _, taken in band) + _span(columns) > room:
                yield band
                band = []
            while len(columns) > 1 and _span(columns) > room:
                fit = max([1, *(count for count in range(1, len(columns)) if _span(columns[:count]) <= room)])
                yield [(title, columns[:fit])]
                columns = columns[fit:]
            band.append((title, columns))
        if band:
            yield band

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lines of text, as wide as the console allows."""
        longest = min(max(len(label) for label in [*self.labels, self.corner]), max(12, options.max_width // 3))
        for index, band in enumerate(self._bands(options.max_width - longest - 2)):
            if index:
                yield Text()
            if any(title for title, _ in band):
                yield _trimmed(
                    Text(" " * (longest + 1)).append("".join(f"   {title:<{_span(columns) - 3}}" for title, columns in band), style="bold")
                )
            line = Text(f" {self.corner:<{longest}}")
            for _, columns in band:
                for pad, column in zip(_pads(columns), columns, strict=True):
                    line.append(" " * pad + column.fitted(column.head), style="dim")
            yield _trimmed(line)
            for row, label in enumerate(self.labels):
                line = Text(f" {label if len(label) <= longest else label[: longest - 1] + '…':<{longest}}")
                for _, columns in band:
                    for pad, column in zip(_pads(columns), columns, strict=True):
                        line.append(" " * pad).append(column.fitted(column.cells[row]), style="bold" if column.best[row] else "")
                yield _trimmed(line)
        for note in self.notes:
            for words in textwrap.wrap(note, max(20, options.max_width - 1)):
                yield Text(f" {words}", style="dim")


def terminal(folder: Path) -> TextTable:
    """The run's table for the terminal: methods down, settings side by side; the first two metrics, NFE and seconds.

    Args:
        folder: a finished run.

    Returns:
        A rich renderable (``Console().print(terminal(folder))``).

    Raises:
        DataError: the folder is not a finished run.
    """
    results = read(folder)
    metrics = [*results.leads[:2], *(key for key in ("nfe", "seconds") if any(row["metric"] == key for row in results.rows))]
    groups = []
    for setting in results.settings:
        columns = []
        for metric in metrics:
            leader = None if metric in COST_KEYS else results.leader(setting, metric)
            numbers = [results.number(label, setting, metric) for label in results.labels]
            columns.append(Column(headed(results.info(metric)), cells_of(numbers, metric), [label == leader for label in results.labels]))
        if columns:
            groups.append((setting_title(setting), columns))
    notes = [results.note()]
    seconds, judging = spent(results)
    if judging >= 1:
        notes.append(f"The methods took {duration(seconds)}, judging what they gave {duration(judging)}.")
    if any(cell.strip() == "–" for _, columns in groups for column in columns for cell in column.cells):
        notes.append("– is a job that gave no number: the report says why.")
    return TextTable("method", [results.titled(label) for label in results.labels], groups, notes)


def cells_of(numbers: Sequence[Number | None], metric: str) -> list[str]:
    """The cells of one column, with the same digits and their numbers flush right before the ±."""
    digits = digits_of(numbers)
    cells = [shown(number, metric, digits) for number in numbers]
    width = max((len(cell.partition(" ±")[0]) for cell in cells), default=0)
    return [" " * (width - len(cell.partition(" ±")[0])) + cell for cell in cells]


def _pads(columns: Sequence[Column]) -> list[int]:
    """Blanks before each column: three where a group begins, else two."""
    return [3, *([2] * (len(columns) - 1))]


def _span(columns: Sequence[Column]) -> int:
    return sum(_pads(columns)) + sum(column.width for column in columns)


def _trimmed(line: Text) -> Text:
    line.rstrip()
    line.no_wrap, line.overflow = True, "crop"
    return line
