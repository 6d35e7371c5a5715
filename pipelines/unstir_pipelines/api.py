"""``unstir.run`` in Python: the same recipes and folders as on the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unstir.errors import UnstirError, UserError
from unstir_pipelines.view import Run

__all__ = ["Run", "run"]


class RunFailed(UnstirError):
    """Some jobs of a run failed; ``run`` holds the others.

    Args:
        run: the run.
        failures: records of the failed jobs, each with ``reason``.
    """

    def __init__(self, run: Run, failures: Sequence[Mapping[str, Any]]) -> None:
        self.run, self.failures = run, list(failures)
        first = failures[0]
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        super().__init__(f"{first['method']} failed on {first['case']}: {first['reason']}{more}; the rest is in {run.folder}")


def run(
    recipe: str | Path,
    *,
    data: Any = None,
    methods: Sequence[str] | None = None,
    cases: int | Sequence[str] | None = None,
    seed: int | None = None,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    out: str | Path | None = None,
    resume: str | Path | None = None,
    engine: str = "local",
    workers: int = 0,
    scheduler: str | None = None,
    client: Any = None,
    device: str = "auto",
    threads: int | None = None,
    report: bool = True,
    progress: bool = False,
) -> Run:
    """Run a recipe and return its run folder as an object.

    Args:
        recipe: registered name, or path of a YAML file.
        data: files of the user's own (paths), a registered dataset's name, or ``xarray.Dataset`` objects in the units of the task's truth.
        methods: labels to run; what they need is added.
        cases: the first so many, or their keys.
        seed: in place of the recipe's.
        overrides: ``{"task.views": 8}``, as ``--set``.
        out: the run folder; ``None`` is ``runs/YYYY-MM-DD-NAME-N``.
        resume: a run folder to continue.
        engine: ``"local"`` or ``"dask"``.
        workers: spawned workers (0: in this process).
        scheduler: address of a Dask scheduler.
        client: a ``distributed`` client, in place of ``scheduler``.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``...
        threads: threads of torch in every job; ``None`` leaves its default.
        report: draw figures and write ``report.html``?
        progress: show bars on the terminal?

    Returns:
        The run.

    Raises:
        UserError: the recipe, the data or an option is wrong.
        RunFailed: jobs failed; the others are in its ``run``.
    """
    from unstir_pipelines.display import Bars, Silent
    from unstir_pipelines.recipe import prepare
    from unstir_pipelines.runner import Means, execute

    folder = None if out is None else Path(out)
    given = _given(data, folder)
    prepared = prepare(recipe, sets=overrides, methods=methods, cases=cases, data=given, seed=seed)
    display = Bars() if progress else Silent()
    means = Means(engine, workers, scheduler, client, device, threads, report, (f"unstir.run({str(recipe)!r}, ...)",), display)
    outcome = execute(prepared, means, out=folder, resume=None if resume is None else Path(resume))
    if outcome.failures:
        raise RunFailed(outcome.run, outcome.failures)
    return outcome.run


def _given(data: Any, out: Path | None) -> Sequence[str] | Mapping[str, Any] | None:
    """The data as the recipe holds them; Datasets are written as netCDF beside the run, so that the run can be repeated from its folder."""
    if data is None:
        return None
    items = list(data) if isinstance(data, list | tuple) else [data]
    if all(isinstance(item, str | Path) for item in items):
        return [str(item) for item in items]
    if not all(hasattr(item, "data_vars") for item in items):
        raise UserError(f"data must be paths or xarray.Dataset objects, got {type(items[0]).__name__}")
    from unstir_pipelines.store import keep_datasets

    return {"datasets": [str(path) for path in keep_datasets(items, (Path("runs") if out is None else out.parent) / "data")]}
