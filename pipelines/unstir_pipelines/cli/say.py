"""Printing: JSON for programs, plain columns for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]


def as_json(content: Any) -> None:
    """Print as JSON."""
    typer.echo(json.dumps(content, indent=1, default=str))


def columns(rows: Sequence[Sequence[str]], head: Sequence[str] = (), right: Sequence[int] = ()) -> None:
    """Print rows in aligned columns; ``right`` names those of numbers."""
    table = [list(head), *map(list, rows)] if head else [list(row) for row in rows]
    if not table:
        return
    widths = [max(len(row[index]) for row in table) for index in range(len(table[0]))]
    for row in table:
        cells = (
            cell.rjust(width) if index in right else cell.ljust(width) for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        typer.echo(f" {'  '.join(cells)}".rstrip())
