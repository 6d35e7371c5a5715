"""Verbs that read runs: ``compare``, ``report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unstir_pipelines.cli.say import Json, as_json


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders, of one domain or several.")],
    by: Annotated[
        str, typer.Option("--by", help="Rows of the table: method, setting, or an option of methods (solver, grid...).")
    ] = "method",
    out: Annotated[Path, typer.Option("--out", help="Folder of the table and the page.")] = Path("runs/compare"),
    json: Json = False,
) -> None:
    """Join runs into one table and a page of curves."""
    from unstir_pipelines import compare as comparing
    from unstir_pipelines.store import RunFolder

    folders = [RunFolder.open(run).path for run in runs]
    made = comparing.compare(folders, by, out)
    if json:
        typer.echo((out / "compare.json").read_text(), nl=False)
        return
    table = out / "table.txt"
    if table.exists():
        typer.echo(table.read_text(), nl=False)
    typer.echo(f"Comparison  {made}")


def report(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    json: Json = False,
) -> None:
    """Write figures and report.html of a run again."""
    from unstir_pipelines import report as reporting
    from unstir_pipelines.runner import write_numbers
    from unstir_pipelines.store import RunFolder
    from unstir_pipelines.view import Run

    folder = RunFolder.open(run)
    if not (folder.path / "metrics.json").exists():
        write_numbers(Run(folder.path))
    path = reporting.write(folder.path)
    if json:
        as_json({"report": str(path)})
    else:
        typer.echo(f"Report   {path}")
