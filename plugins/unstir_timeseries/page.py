"""One page about one file of series: the picture, the first rows of the table, how far the past says to trust it, and how it was made.

A single HTML file: the picture is inside, nothing is loaded, every text from outside is escaped.
"""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS = 48  # of the table that are shown
FEW = 20  # windows below which the page says that they are few
NAMES = {
    "crps": "CRPS", "sample-crps": "CRPS fair", "nd": "ND", "coverage-50": "in 50 %", "coverage-80": "in 80 %", "coverage-90": "in 90 %",
    "coverage-error": "coverage error", "unique_id": "series", "ds": "time", "is_imputed": "filled",
}  # fmt: skip
"""Columns as a reader knows them."""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="unstir">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<link rel="icon" href="data:,">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; --paper: #fcfcfa; --ink: #1b1d20; --quiet: #5b6169; --line: #dcdedb;
  --sans: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif;
  --serif: Charter, "Bitstream Charter", "Sitka Text", "Source Serif 4", Cambria, Georgia, "Liberation Serif", serif; }
@media (prefers-color-scheme: dark) { :root { --paper: #15171a; --ink: #e5e4df; --quiet: #a0a5ac; --line: #33373c; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 1.0625rem/1.55 var(--serif); }
header, main, footer { max-width: 62rem; margin: 0 auto; padding: 0 clamp(1.1rem, 4vw, 2.5rem); }
header { padding-top: clamp(1.6rem, 5vw, 3.5rem); }
h1 { margin: 0 0 .9rem; font-size: clamp(1.7rem, 5vw, 2.6rem); line-height: 1.1; font-weight: 600; overflow-wrap: anywhere; }
h2 { margin: 0 0 .8rem; font-size: 1.4rem; font-weight: 600; }
section { margin-top: 2.4rem; padding-top: 1.2rem; border-top: 1px solid var(--line); }
p { max-width: 44rem; margin: 0 0 .9rem; overflow-wrap: break-word; }
.kicker, .note, table, dl, figcaption, footer { font-family: var(--sans); }
.kicker, .note, footer { font-size: .8125rem; color: var(--quiet); }
figure { margin: 1.2rem 0 0; break-inside: avoid; }
figure .paper { background: #fff; border: 1px solid var(--line); border-radius: 8px; overflow-x: auto;
  padding: clamp(.4rem, 1.5vw, .9rem); }
figure img { display: block; max-width: 100%; height: auto; margin: 0 auto; }
figcaption { margin-top: .6rem; font-size: .875rem; color: var(--quiet); max-width: 46rem; }
.scroll { overflow-x: auto; margin: 0 0 .8rem; }
table { border-collapse: collapse; font-size: .875rem; line-height: 1.3; min-width: 100%;
  font-variant-numeric: tabular-nums lining-nums; }
th, td { padding: .4rem .9rem .4rem 0; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; max-width: 16rem; overflow: hidden; text-overflow: ellipsis; }
thead th { font-weight: 500; color: var(--quiet); border-bottom: 1.5px solid var(--ink); }
dl { margin: 0; font-size: .875rem; display: grid; grid-template-columns: minmax(7rem, 13rem) minmax(0, 1fr); }
dt, dd { margin: 0; padding: .4rem 1rem .4rem 0; border-top: 1px solid var(--line); overflow-wrap: anywhere; }
dt { font-weight: 600; }
footer { margin-top: 3rem; padding-bottom: 2.5rem; }
@media (max-width: 36rem) {
  dl { grid-template-columns: minmax(0, 1fr); }
  dd { border-top: 0; padding-top: 0; }
  figure img { width: 38rem; max-width: none; }
}
@media print {
  :root { color-scheme: light; --paper: #fff; --ink: #000; --quiet: #444; --line: #bbb; }
  body { font-size: 10.5pt; }
  header, main, footer { max-width: none; padding: 0; }
  .scroll { overflow: visible; }
  table { font-size: 8.5pt; }
  tr, figure { break-inside: avoid; }
  figure img { width: auto; max-width: 100%; max-height: 22cm; }
}
</style>
</head>
<body>
<header>
<p class="kicker">unstir · time series</p>
<h1>{{ title }}</h1>
<figure>
<div class="paper" tabindex="0" role="region" aria-label="Picture">
<img src="data:image/png;base64,{{ image }}" alt="{{ title }}: the series with medians and bands">
</div>
<figcaption>{{ legend }}</figcaption>
</figure>
</header>
<main>
{% macro grid(frame, label) %}
<div class="scroll" tabindex="0" role="region" aria-label="{{ label }}">
<table>
<thead><tr>{% for name in frame.head %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in frame.rows %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
</div>
{% endmacro %}
<section id="trust">
<h2>How far to trust it</h2>
{% if scores %}
<p>{{ trust }}</p>
{{ grid(scores, "Scores on the past") }}
<p class="note">CRPS: mean weighted quantile loss at 10 to 90 %, relative to the size of the series; lower is better.
ND: the same of the median alone. In 80 %: share of the true values inside the 80 % band; 80 is right.</p>
{% else %}
<p>No window of the past was tried: nothing here says how near this is to the truth.</p>
{% endif %}
</section>
<section id="numbers">
<h2>Numbers</h2>
{{ grid(table, "Numbers") }}
{% if more %}
<p class="note">{{ more }}</p>
{% endif %}
</section>
<section id="made">
<h2>How it was made</h2>
<dl>
{% for name, value in facts %}
<dt>{{ name }}</dt><dd>{{ value }}</dd>
{% endfor %}
</dl>
</section>
</main>
<footer>Made by unstir. Bands are a model's, not a guarantee.</footer>
</body>
</html>
"""


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
    from jinja2 import Environment, StrictUndefined

    buffer = io.BytesIO()
    picture.savefig(buffer, format="png", dpi=130, bbox_inches="tight", facecolor="white", metadata={"Software": None})
    more = len(table) - ROWS
    rest = f"These are the first {ROWS} rows; {more:,} more {'is' if more == 1 else 'are'} in the parquet file beside this page."
    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(PAGE)
    words = template.render(
        title=title,
        image=base64.b64encode(buffer.getvalue()).decode(),
        legend="Black: observed. Blue: the median, its central bands, and a few sample paths where the method draws them.",
        table=cells(table.head(ROWS)),
        more=rest if more > 0 else "",
        scores=None if scores is None or scores.empty else cells(scores),
        trust=None if scores is None or scores.empty else trust(scores),
        facts=[(str(name).replace("_", " "), shown(value)) for name, value in facts.items() if value is not None],
    )
    path, part = Path(folder) / "report.html", Path(folder) / "report.html.tmp"
    part.write_text(words, encoding="utf-8")
    os.replace(part, path)
    return path


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


def cells(frame: pd.DataFrame) -> dict[str, Any]:
    """A table in words: its head and its rows, as many digits in all rows of a column.

    Args:
        frame: any.
    """
    head = [NAMES.get(str(name), str(name)) for name in frame.columns]
    columns = [[shown(value, places(column)) for value in column] for _, column in frame.items()]
    return {"head": head, "rows": list(zip(*columns, strict=True))}


def places(column: pd.Series) -> int | None:
    """Digits after the point that give the largest number of a column five digits, at most four; ``None`` where it has no fixed ones.

    Args:
        column: of a table.
    """
    if column.dtype.kind != "f":
        return None
    if str(column.name).startswith("coverage-") and column.max() > 1:
        return 1
    size = column.abs()[column.abs() < math.inf].max()
    return min(4, max(0, 4 - math.floor(math.log10(size)))) if 1e-3 <= size < 1e12 else None


def shown(value: Any, digits: int | None = None) -> str:
    """A value as a reader reads it, stamps to the minute where that is all.

    Args:
        value: of a cell.
        digits: after the point of a number; five digits in all when ``None``.
    """
    if isinstance(value, pd.Timestamp):
        return value.strftime("%Y-%m-%d %H:%M:%S%z" if value.second else "%Y-%m-%d %H:%M%z")
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            return "\N{EN DASH}"
        text = f"{value:,.5g}" if digits is None else f"{value:,.{digits}f}"
        return f"\N{MINUS SIGN}{text[1:]}" if text.startswith("-") else text
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {shown(one)}" for name, one in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(shown(one) for one in value) or "none"
    return str(value)
