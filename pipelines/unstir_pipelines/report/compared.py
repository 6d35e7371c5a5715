"""The compare page: the joined table, how far each row is behind the best, curves, ranks, and where the numbers come from."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from unstir_pipelines.report.findings import listed, signed
from unstir_pipelines.report.page import inline, pages
from unstir_pipelines.results import ARROWS, digits_of, headed, shown
from unstir_pipelines.store import to_json

if TYPE_CHECKING:
    from unstir_pipelines.compare import Comparison


def render(comparison: Comparison, out: Path, picture: bytes) -> str:
    """The page as HTML.

    Args:
        comparison: joined runs.
        out: folder of the page; links to the runs are relative to it.
        picture: the curves as PNG.
    """
    from unstir_pipelines.compare import titled

    return (
        pages()
        .get_template("compare.html.jinja")
        .render(
            title=f"Comparison by {comparison.by}",
            question=_question(comparison),
            answer=_answer(comparison),
            by=comparison.by,
            columns=[titled(column) for column in comparison.columns],
            heads=[_head(comparison, column) for column in comparison.columns],
            rows=[_row(comparison, row) for row in comparison.rows],
            has_ranks=bool(comparison.ranks),
            note=comparison.note(),
            rank_note=comparison.rank_note() if comparison.ranks else "",
            picture=f"data:image/png;base64,{base64.b64encode(picture).decode()}",
            numbers=inline("compare.json", to_json(comparison.payload()), "application/json"),
            runs=[_run(run, out) for run in comparison.runs],
        )
    )


def _question(comparison: Comparison) -> str:
    titles = list(dict.fromkeys(run.title for run in comparison.runs))
    runs = len(comparison.runs)
    return f"Which {comparison.by} does best on {listed(titles)}? {len(comparison.rows)} rows from {runs} run{'s' if runs != 1 else ''}."


def _answer(comparison: Comparison) -> str:
    """Who is best in how many columns, as far as the intervals say, and whether the ranks differ."""
    won: dict[str, int] = {}
    for column in comparison.columns:
        for entry in comparison.column_entries(column)[:1]:
            if comparison.is_best(entry):
                won[entry.row] = won.get(entry.row, 0) + 1
    total = len(comparison.columns)
    parts = [f"{row} in {count} of {total} columns" for row, count in sorted(won.items(), key=lambda pair: -pair[1])]
    text = f"Ahead of all others: {'; '.join(parts)}." if parts else ""
    left = total - sum(won.values())
    return f"{text} In {left} of {total} the intervals name no best.".strip() if left else text


def _head(comparison: Comparison, column: tuple[str, str, str]) -> dict[str, str]:
    entry = next(entry for entry in comparison.entries if entry.column == column)
    info = entry.results.info(entry.metric)
    return {"text": headed(info), "arrow": ARROWS[info.better]}


def _row(comparison: Comparison, row: str) -> dict[str, Any]:
    cells = []
    for column in comparison.columns:
        entry = comparison.cells.get((row, column))
        order = comparison.column_entries(column)
        if entry is None:
            cells.append({"text": "–", "half": "", "best": False, "nfe": "", "behind": ""})
            continue
        text, _, half = shown(entry.number, entry.metric, digits_of([other.number for other in order])).partition(" ±")
        behind = signed(comparison.difference(entry, order[0])) if order and order[0] is not entry else ""
        nfe = f"{entry.nfe:.0f}" if entry.nfe == entry.nfe else "–"
        cells.append({"text": text, "half": half, "best": comparison.is_best(entry), "nfe": nfe, "behind": behind})
    rank = comparison.ranks.get(row)
    return {"label": row, "cells": cells, "rank": "–" if rank is None else f"{rank:.2f}"}


def _run(run: Any, out: Path) -> dict[str, str]:
    here = os.path.relpath(run.folder, Path(out).resolve())
    report = run.folder / "report.html"
    return {"name": run.folder.name, "title": run.title, "data": run.data, "link": quote(f"{here}/report.html") if report.exists() else ""}
