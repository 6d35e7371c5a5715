"""One page about one file of series: the picture, the first rows of the table, how far the past says to trust it, and how it was made."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from unstir.plugin import page as pages

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS = 48  # of the table that are shown
FEW = 20  # windows below which the page says that they are few
NAMES = {
    "crps": "CRPS", "sample-crps": "CRPS fair", "nd": "ND", "coverage-50": "in 50 %", "coverage-80": "in 80 %", "coverage-90": "in 90 %",
    "coverage-error": "coverage error", "unique_id": "series", "ds": "time", "is_imputed": "filled",
}  # fmt: skip
"""Columns as a reader knows them."""

SCORES = """CRPS: mean weighted quantile loss at 10 to 90 %, relative to the size of the series; lower is better.
ND: the same of the median alone. In 80 %: share of the true values inside the 80 % band; 80 is right."""
LEGEND = "Black: observed. Blue: the median, its central bands, and a few sample paths where the method draws them."


def page(
    folder: Path, *, title: str, picture: Figure, table: pd.DataFrame, scores: pd.DataFrame | None, facts: Mapping[str, Any]
) -> Path:  # fmt: skip
    """Write ``report.html``: one file, no network.

    Args:
        folder: where.
        title: of the page.
        picture: a matplotlib figure.
        table: its first rows are shown.
        scores: of the past: ``method``, ``windows`` and a column a metric; ``None`` where none was tried.
        facts: how it was made; ``None`` values are left out.

    Returns:
        The path of the page.
    """
    more = len(table) - ROWS
    rest = f"These are the first {ROWS} rows; {more:,} more {'is' if more == 1 else 'are'} in the parquet file beside this page."
    shown: list[pages.Part] = [pages.Table.of(table.head(ROWS), "Numbers", names=NAMES, digits=percents(table.head(ROWS)))]
    shown += [pages.Words(rest, note=True)] if more > 0 else []
    return pages.page(
        folder,
        title=title,
        kicker="unstir · time series",
        opening=[pages.Picture(picture, LEGEND, f"{title}: the series with medians and bands")],
        sections=[
            pages.Section("trust", "How far to trust it", past(scores)),
            pages.Section("numbers", "Numbers", shown),
            pages.Section("made", "How it was made", [pages.Facts(facts)]),
        ],
        footer="Made by unstir. Bands are a model's, not a guarantee.",
    )


def past(scores: pd.DataFrame | None) -> list[pages.Part]:
    """What the page says of the past.

    Args:
        scores: as `page` takes them.
    """
    if scores is None or scores.empty:
        return [pages.Words("No window of the past was tried: nothing here says how near this is to the truth.")]
    table = pages.Table.of(scores, "Scores on the past", names=NAMES, digits=percents(scores))
    return [pages.Words(trust(scores)), table, pages.Words(SCORES, note=True)]


def percents(frame: pd.DataFrame) -> dict[str, int]:
    """One digit for the columns that are shares in percent.

    Args:
        frame: any.
    """
    shares = [name for name in map(str, frame.columns) if name.startswith("coverage-")]
    return {name: 1 for name in shares if frame[name].dtype.kind == "f" and frame[name].max() > 1}


def trust(scores: pd.DataFrame) -> str:
    """What the windows of the past say, in sentences, and how little few of them say.

    Args:
        scores: ``method``, ``windows``, ``crps`` and ``coverage-80``, the method in question first.
    """
    count, first = int(scores["windows"].iloc[0]), scores.iloc[0]
    tried = f"The last {count} windows of the past were" if count > 1 else "The last window of the past was"
    said = [f"{tried} forecast in the same way, from what lay before."]
    if "crps" in scores and math.isfinite(first["crps"]):
        others = ", ".join(f"{row['method']} {row['crps']:.4f}" for _, row in scores.iloc[1:].iterrows() if math.isfinite(row["crps"]))
        said.append(f"CRPS: {first['method']} {first['crps']:.4f}{f' beside {others}' if others else ''}.")
        better = scores.iloc[1:]["method"][scores["crps"].iloc[1:] < first["crps"]]
        if len(better):
            said.append(f"{', '.join(map(str, better))} did better here.")
    if "coverage-80" in scores and math.isfinite(first["coverage-80"]):
        said.append(f"The 80 % band of {first['method']} held {first['coverage-80']:.1f} % of the true values.")
    if count < FEW:
        number = f"{count} windows say" if count > 1 else "One window says"
        said.append(f"{number} little: other weeks may differ from these by more than the methods do.")
    return " ".join(said).replace(" %", "\N{NO-BREAK SPACE}%")
