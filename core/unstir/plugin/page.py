"""A report of one HTML file: title, pictures, tables, words, and how it was made, in sections.

The pictures are inside, nothing is loaded, every text from outside is escaped; it is readable on a phone, printable, and dark where the
reader's system is. What an ``unstir apply`` command writes beside its results; matplotlib and jinja2 are imported on use.
"""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

FRAME = """<!doctype html>
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
<p class="kicker">{{ kicker }}</p>
<h1>{{ title }}</h1>
{% macro shown(part) %}
{% if part.kind == "picture" %}
<figure>
<div class="paper" tabindex="0" role="region" aria-label="Picture">
<img src="data:image/png;base64,{{ part.encoded() }}" alt="{{ part.alt }}">
</div>
<figcaption>{{ part.caption }}</figcaption>
</figure>
{% elif part.kind == "table" %}
<div class="scroll" tabindex="0" role="region" aria-label="{{ part.label }}">
<table>
<thead><tr>{% for name in part.head %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in part.rows %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody>
</table>
</div>
{% elif part.kind == "facts" %}
<dl>
{% for name, value in part.pairs() %}
<dt>{{ name }}</dt><dd>{{ value }}</dd>
{% endfor %}
</dl>
{% else %}
<p{% if part.note %} class="note"{% endif %}>{{ part.text }}</p>
{% endif %}
{% endmacro %}
{% for part in opening %}
{{ shown(part) }}
{%- endfor %}
</header>
<main>
{% for section in sections %}
<section id="{{ section.name }}">
<h2>{{ section.title }}</h2>
{% for part in section.parts %}
{{ shown(part) }}
{%- endfor %}
</section>
{% endfor %}
</main>
<footer>{{ footer }}</footer>
</body>
</html>
"""
"""The page, in jinja2."""


@dataclass(frozen=True)
class Words:
    """A paragraph.

    Args:
        text: what it says; no markup.
        note: is it small print?
    """

    text: str
    note: bool = False

    kind: ClassVar[str] = "words"


@dataclass(frozen=True)
class Picture:
    """A picture, kept inside the page as PNG.

    Args:
        figure: a matplotlib figure.
        caption: what stands under it.
        alt: what it shows, for who cannot see it.
    """

    figure: Figure
    caption: str
    alt: str

    kind: ClassVar[str] = "picture"

    def encoded(self) -> str:
        """The picture as base64 of a PNG."""
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=130, bbox_inches="tight", facecolor="white", metadata={"Software": None})
        return base64.b64encode(buffer.getvalue()).decode()


@dataclass(frozen=True)
class Table:
    """A table in words.

    Args:
        label: what it is, for who cannot see it.
        head: names of the columns.
        rows: cells.
    """

    label: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    kind: ClassVar[str] = "table"

    @classmethod
    def of(
        cls, frame: pd.DataFrame, label: str, *, names: Mapping[str, str] | None = None, digits: Mapping[str, int] | None = None
    ) -> Table:
        """A data frame in words, as many digits in all rows of a column.

        Args:
            frame: any.
            label: what it is.
            names: of columns, as a reader knows them.
            digits: after the point, by column; `places` finds the others.
        """
        head = [(names or {}).get(str(name), str(name)) for name in frame.columns]
        given = dict(digits or {})
        columns = [[shown(value, given.get(str(name), places(column))) for value in column] for name, column in frame.items()]
        return cls(label, head, list(zip(*columns, strict=True)))


@dataclass(frozen=True)
class Facts:
    """What was done, name by name; names lose their underscores and values that are ``None`` are left out.

    Args:
        told: values by name.
    """

    told: Mapping[str, Any]

    kind: ClassVar[str] = "facts"

    def pairs(self) -> list[tuple[str, str]]:
        """Names and values as a reader reads them."""
        return [(str(name).replace("_", " "), shown(value)) for name, value in self.told.items() if value is not None]


Part = Words | Picture | Table | Facts


@dataclass(frozen=True)
class Section:
    """A part of a page under a heading.

    Args:
        name: anchor, in lower case.
        title: the heading.
        parts: what stands in it.
    """

    name: str
    title: str
    parts: Sequence[Part]


def page(folder: Path, *, title: str, kicker: str, opening: Sequence[Part], sections: Sequence[Section], footer: str) -> Path:
    """Write ``report.html``: one file, no network.

    Args:
        folder: where.
        title: of the page.
        kicker: the line above it.
        opening: what stands under the title, before all sections.
        sections: the rest.
        footer: the last line.

    Returns:
        The path of the page.
    """
    from jinja2 import Environment, StrictUndefined

    template = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(FRAME)
    words = template.render(title=title, kicker=kicker, opening=opening, sections=sections, footer=footer)
    path, part = Path(folder) / "report.html", Path(folder) / "report.html.tmp"
    part.write_text(words, encoding="utf-8")
    os.replace(part, path)
    return path


def places(column: pd.Series) -> int | None:
    """Digits after the point that give the largest number of a column five digits, at most four; ``None`` where it has no fixed ones.

    Args:
        column: of a table.
    """
    if column.dtype.kind != "f":
        return None
    size = column.abs()[column.abs() < math.inf].max()
    return min(4, max(0, 4 - math.floor(math.log10(size)))) if 1e-3 <= size < 1e12 else None


def shown(value: Any, digits: int | None = None) -> str:
    """A value as a reader reads it, stamps to the minute where that is all.

    Args:
        value: of a cell.
        digits: after the point of a number; five digits in all when ``None``.
    """
    if isinstance(value, datetime) and value == value:  # not pandas' missing stamp
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
