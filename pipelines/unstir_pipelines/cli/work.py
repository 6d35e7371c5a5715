"""Verbs that compute: ``run``, ``train``, ``apply``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from unstir_pipelines.cli.say import Json, Quiet, as_json
from unstir_pipelines.options import UsageError

Sets = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a key: --set task.views=8 (repeatable; values are YAML).")
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.")]


def run(
    context: typer.Context,
    recipe: Annotated[str, typer.Argument(metavar="[RECIPE]", help="Registered name or YAML file; not needed with --resume.")] = "",
    sets: Sets = [],  # noqa: B006
    data: Annotated[
        list[str], typer.Option("--data", metavar="FILE...", help="Your own ground truth (repeatable), or a registered dataset.")
    ] = [],  # noqa: B006
    methods: Annotated[str | None, typer.Option("--methods", metavar="A,B", help="Only these; what they start from is added.")] = None,
    cases: Annotated[str | None, typer.Option("--cases", metavar="N|KEYS", help="The first N cases, or keys separated by commas.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="In place of the recipe's.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Run folder; a run that stopped there goes on.")] = None,
    resume: Annotated[Path | None, typer.Option("--resume", metavar="RUN", help="Go on with this run folder.")] = None,
    device: Device = "auto",
    engine: Annotated[str, typer.Option("--engine", help="local or dask.")] = "local",
    workers: Annotated[int, typer.Option("--workers", help="Worker processes; 0 works in this process.")] = 0,
    scheduler: Annotated[
        str | None, typer.Option("--scheduler", metavar="ADDRESS", help="Dask scheduler: tcp://host:8786 or a scheduler file.")
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", help="Threads of torch in every job; decides the last bits of sums.")] = None,
    no_report: Annotated[bool, typer.Option("--no-report", help="Numbers only: no figures, no report.html.")] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> int:
    """Evaluate: run a recipe's methods on its cases, judge them, and write a run folder with a report."""
    from unstir_pipelines.display import Bars, Silent
    from unstir_pipelines.recipe import prepare
    from unstir_pipelines.runner import Means, execute

    if context.args and not data:
        raise UsageError(f"unexpected {context.args[0]!r}: run takes one recipe; files come after --data")
    data = [*data, *context.args]
    if not recipe and resume is None:
        raise UsageError("name a recipe, as unstir run medical/sparse-view-ct (unstir recipes lists them), or a run with --resume")
    source: str | Path = recipe or _folder_recipe(resume)
    wanted = None if methods is None else [label.strip() for label in methods.split(",") if label.strip()]
    prepared = prepare(source, sets=sets, methods=wanted, cases=_cases(cases), data=data or None, seed=seed)
    shows = sys.stderr.isatty() and not quiet and not json
    means = Means(
        engine, workers, scheduler, None, device, threads, not no_report, ("unstir", *sys.argv[1:]), Bars() if shows else Silent()
    )
    outcome = execute(prepared, means, out=out, resume=resume)
    if json:
        typer.echo((outcome.run.folder / "metrics.json").read_text(), nl=False)
    elif not quiet:
        _tell(outcome, recipe, has_own_data=bool(data))
    for record in outcome.failures:
        setting = ", ".join(f"{key}={value}" for key, value in record["setting"].items())
        where = f"{record['case']}, {setting}" if setting else record["case"]
        typer.echo(f"error: {record['method']} failed on {where}: {record['reason']}", err=True)
    if outcome.report_fault:
        typer.echo(
            f"error: the report could not be made: {outcome.report_fault} (unstir report {outcome.run.folder} --debug shows where)",
            err=True,
        )
    return 1 if outcome.failures or outcome.report_fault else 0


def train(
    recipe: Annotated[str, typer.Argument(help="Registered name or YAML file with a 'train' key.")],
    sets: Sets = [],  # noqa: B006
    out: Annotated[Path | None, typer.Option("--out", help="Checkpoint folder; runs/checkpoints/NAME without it.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a training into --out stopped.")] = False,
    data: Annotated[list[str], typer.Option("--data", metavar="FILE...", help="Your own files, where the training takes files.")] = [],  # noqa: B006
    seed: Annotated[int | None, typer.Option("--seed", help="In place of the recipe's.")] = None,
    device: Device = "auto",
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Train: make the checkpoint that a recipe's 'train' key describes."""
    from unstir_pipelines import train as training
    from unstir_pipelines.display import counter

    tell = None if quiet or json else lambda text: typer.echo(text, err=True)
    with counter("training", is_silent=quiet or json) as progress:
        made = training.train(recipe, out=out, sets=sets, data=data, seed=seed, device=device, resume=resume, progress=progress, tell=tell)
    if json:
        as_json({"checkpoint": str(made)})
    elif not quiet:
        typer.echo(f"Checkpoint  {made}")


def apply(
    context: typer.Context,
    task: Annotated[str, typer.Argument(help="What to do, as medical/reconstruct; unstir show TASK lists its options.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the results.")],
    device: Device = "auto",
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Use: a method on your own files. Give files, then the command's own options: --option value."""
    from unstir_pipelines import apply as applying
    from unstir_pipelines.display import counter

    with counter(task, is_silent=quiet or json) as progress:
        summary = applying.apply(task, list(context.args), out=out, device=device, progress=progress)
    if json:
        as_json(summary)
    elif not quiet:
        for line in (*summary.get("said", ()), *summary.get("files", ())):
            typer.echo(str(line))


def _cases(text: str | None) -> int | list[str] | None:
    if text is None:
        return None
    text = text.strip()
    if text.lstrip("+-").isdigit():
        return int(text)
    return [key.strip() for key in text.split(",") if key.strip()]


def _folder_recipe(run: Path | None) -> Path:
    from unstir_pipelines.store import RunFolder

    return RunFolder.open(Path(run or "")).path / "recipe.yaml"


def _tell(outcome: Any, recipe: str, *, has_own_data: bool) -> None:
    from rich.console import Console

    from unstir_pipelines import tables

    console = Console(highlight=False)
    folder = outcome.run.folder
    console.print(tables.terminal(folder))
    if outcome.report is not None:
        typer.echo(f"Report   {outcome.report}")
    if (folder / "figures").is_dir():
        typer.echo(f"Figures  {folder / 'figures'}/")
    if outcome.report is None:
        typer.echo(f"Run      {folder}")
    if "/" in recipe and not has_own_data and not Path(recipe).exists():
        typer.echo(f"Next     unstir run {recipe} --data YOUR_FILE")
