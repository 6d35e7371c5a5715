"""From a recipe to a run folder: list the jobs, run them on an engine, write the numbers.

A job's record is on disk the moment it is done, so a run that ends for any reason goes on from there: the same command with the
same ``--out``, or ``--resume RUN``.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unstir import registry
from unstir.errors import CheckpointError, RecipeError, UserError
from unstir_pipelines import document, environment, jobs
from unstir_pipelines.cases import fingerprint
from unstir_pipelines.display import Silent
from unstir_pipelines.engines.base import Engine
from unstir_pipelines.jobs import Bench, Plan, reason_of
from unstir_pipelines.options import UsageError
from unstir_pipelines.recipe import Recipe
from unstir_pipelines.settings import folder_name
from unstir_pipelines.store import Job, RunFolder, is_disk_full, make_folder, to_json, write_whole
from unstir_pipelines.view import Run

if TYPE_CHECKING:
    import pandas as pd

ENGINES = ("local", "dask")

COLUMNS = ("task", "setting", "method", "case", "seed", "metric", "value", "unit", "better", "parts", "combine", "covers")
"""Columns of ``metrics.parquet``; ``covers`` is 0, or how many cases a number over the whole set (``case`` is ``*``) judges."""


@dataclass(frozen=True)
class Means:
    """How a run is carried out; none of it changes a number but ``device`` and ``threads``.

    Args:
        engine: ``"local"`` or ``"dask"``.
        workers: spawned workers of the local engine (0: in this process), or processes of a Dask cluster on this machine.
        scheduler: address of a Dask scheduler, or its scheduler file.
        client: a ``distributed`` client, in place of ``scheduler``.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``...
        threads: threads of torch in every job; ``None`` leaves its default.
        with_report: draw figures and write ``report.html`` at the end?
        command: what the user typed, for ``environment.json``.
        display: who shows progress.
    """

    engine: str = "local"
    workers: int = 0
    scheduler: str | None = None
    client: Any = None
    device: str = "auto"
    threads: int | None = None
    with_report: bool = True
    command: Sequence[str] = ()
    display: Silent = field(default_factory=Silent)


@dataclass
class Outcome:
    """How a run ended.

    Args:
        run: the run.
        failures: records of failed jobs.
        report: ``report.html``, ``None`` where it was not asked for or could not be made.
        report_fault: why it could not.
    """

    run: Run
    failures: list[dict[str, Any]]
    report: Path | None = None
    report_fault: str = ""


class Interrupted(UserError):
    """Somebody stopped the run; what is done is kept."""


def execute(recipe: Recipe, means: Means, *, out: Path | None = None, resume: Path | None = None) -> Outcome:
    """Run a recipe, or what is left of it.

    Args:
        recipe: from ``recipe.prepare``.
        means: how.
        out: the run folder; continued where it holds the same run. ``None``: ``runs/YYYY-MM-DD-NAME-N``.
        resume: a run folder to continue.

    Returns:
        The run and what failed in it.

    Raises:
        RecipeError: the recipe is wrong, or differs from that of the folder.
        DataError: the data cannot be read.
        Interrupted: Ctrl-C; says how to go on.
        UserError: no such engine or device, the disk is full, or another process writes the folder.
    """
    _check(means)
    device = environment.device(means.device)
    desk = Bench(Plan(recipe.resolved, "", device, means.threads or _default_threads()))
    keys, prints = _cases(desk)
    _check_priors(desk, keys)
    folder = _folder(recipe, out, resume)
    with folder.begun(), folder.held():
        is_new = not folder.holds_run()
        desk.plan = Plan(desk.plan.recipe, str(folder.path.resolve()), device, desk.plan.threads)
        desk.folder = RunFolder(folder.path)
        jobs.keep(desk)
        run = Run(folder.path, desk)
        known = {"device": device, "threads": desk.plan.threads, "cases": list(keys.values()), "data": prints}
        try:
            if is_new:
                write_whole(
                    folder.path / "environment.json",
                    to_json(environment.describe(**known, engine=means.engine, command=list(means.command))),
                )
                write_whole(folder.path / "recipe.yaml", document.dump(recipe.resolved))
            else:
                _require_same(folder, recipe.resolved, known)
                folder.tidy()
            folder.log(
                "run_started" if is_new else "run_resumed",
                engine=means.engine,
                workers=means.workers,
                device=device,
                command=list(means.command),
            )
            return _work(run, desk, keys, means)
        except KeyboardInterrupt:
            folder.log("run_interrupted")
            raise Interrupted(f"stopped: {_state(run)}; {_again(recipe, folder)} goes on") from None
        except OSError as error:
            if is_disk_full(error):
                raise UserError(
                    f"the disk that holds {folder.path} is full: {_state(run)}; free some space and {_again(recipe, folder)} goes on"
                ) from error
            raise


def collect(run: Run) -> pd.DataFrame:
    """Every number of the jobs that are done, a row a job and metric; numbers over whole sets are made here."""
    import pandas as pd

    rows: list[tuple[Any, ...]] = []
    task = run.store.recipe["task"]["name"]
    for job in run.jobs():
        record = run.store.record(job.stem)
        if record is None or record["status"] != "done":
            continue
        setting = json.dumps(run.settings[job.setting])
        rows += [(task, setting, job.method, job.case, job.seed, *_columns(score), 0) for score in record["scores"]]
    rows += [(task, *row) for row in _over_sets(run)]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.astype({"seed": "int64", "value": "float64", "covers": "int64"})


def write_numbers(run: Run) -> dict[str, Any]:
    """Write ``metrics.parquet`` and ``metrics.json`` from the jobs' records, and return the latter's content."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from unstir_pipelines.statistics import summarise

    rows = collect(run)
    parts = pa.array([list(part) for part in rows["parts"]], pa.list_(pa.float64()))
    arrays = [parts if name == "parts" else pa.array(rows[name].tolist(), _type(name)) for name in COLUMNS]
    buffer = io.BytesIO()
    pq.write_table(pa.table(arrays, names=list(COLUMNS)), buffer)
    write_whole(run.folder / "metrics.parquet", buffer.getvalue())
    content = {"run": run.folder.resolve().name, "rows": summarise(rows, run.settings, run.labels)}
    text = to_json(content)
    write_whole(run.folder / "metrics.json", text)
    return json.loads(text)


def _work(run: Run, desk: Bench, keys: Mapping[int, Sequence[str]], means: Means) -> Outcome:
    todo, totals, done = [], dict.fromkeys(run.labels, 0), dict.fromkeys(run.labels, 0)
    finished: set[str] = set()
    for job in run.jobs():
        totals[job.method] += 1
        if run.store.is_done(job.stem):
            finished.add(job.stem)
            done[job.method] += 1
        else:
            todo.append(job)
    registry.call("run_started", run=run)
    means.display.start(_title(run, desk, keys), totals, done)
    if (crowd := _crowd(desk.plan, means)) and todo:
        means.display.say(crowd)
    try:
        if todo:
            _run_jobs(run, desk, todo, finished, means)
    finally:
        means.display.stop()
    write_numbers(run)
    failures = run.failures()
    outcome = Outcome(run, failures)
    if means.with_report:
        _report(run, outcome)
    run.store.log("run_finished", done=len(run.jobs()) - len(failures), failed=len(failures))
    registry.call("run_finished", run=run)
    return outcome


def _run_jobs(run: Run, desk: Bench, todo: list[Job], finished: set[str], means: Means) -> None:
    store, failed = run.store, {}
    is_observed = _is_observed("case_finished")
    for job in todo:
        store.forget(job.stem)
    waiting = list(todo)
    running = 0

    def told(job: Job, step: int, steps: int) -> None:
        means.display.step(job.method, job.stem, step, steps)

    def ended(job: Job, record: Mapping[str, Any]) -> None:
        if record["status"] == "done":
            finished.add(job.stem)
            times = {key: round(record[key], 4) for key in ("seconds", "judging")}
            store.log("job_finished", job=str(job), nfe=record["nfe"], **times)
            if is_observed:
                estimate = store.estimate(job.stem, desk.assembly(job.setting).task)
                registry.call("case_finished", run=run, label=job.method, case=desk.cases(job.setting).get(job.case), estimate=estimate)
        else:
            failed[job.stem] = record["reason"]
            store.log("job_failed", job=str(job), reason=record["reason"], traceback=record["traceback"])
            means.display.say(f"failed: {job}: {record['reason']}")
        means.display.ended(job.method, job.stem, record.get("seconds", 0.0))

    with _engine(means, desk, told) as engine:
        while waiting or running:
            for job in list(waiting):
                broken = [label for label, stem in job.needs if stem in failed]
                if broken:
                    waiting.remove(job)
                    record = jobs.failure(job, run.settings[job.setting], f"it starts from {broken[0]}, which failed")
                    store.fail(job.stem, record)
                    ended(job, record)
                elif running < engine.slots and all(stem in finished for _, stem in job.needs):
                    waiting.remove(job)
                    engine.submit(job)
                    running += 1
            if running:
                for job, record in engine.wait():
                    running -= 1
                    ended(job, record)


def _engine(means: Means, desk: Bench, told: Any) -> Engine:
    settings = desk.recipe.settings
    if means.engine == "dask":
        from unstir_pipelines.engines.dask import OnDask

        return OnDask(desk.plan, told, means.scheduler, means.workers, settings, means.client)
    from unstir_pipelines.engines.local import InProcess, Spawned

    return Spawned(desk.plan, told, means.workers, settings) if means.workers else InProcess(desk.plan, told)


def _check(means: Means) -> None:
    if means.engine not in ENGINES:
        raise UsageError(f"--engine must be one of {', '.join(ENGINES)}, got {means.engine!r}")
    if means.workers < 0:
        raise UsageError(f"--workers must be at least 0, got {means.workers}")
    if means.threads is not None and means.threads < 1:
        raise UsageError(f"--threads must be at least 1, got {means.threads}")
    if means.scheduler and means.engine != "dask":
        raise UsageError("--scheduler needs --engine dask")


def _default_threads() -> int | None:
    """Torch's own default here, told to every worker: the number of threads decides the last bits of a sum."""
    torch = sys.modules.get("torch")
    return None if torch is None else torch.get_num_threads()


def _cases(desk: Bench) -> tuple[dict[int, list[str]], dict[str, str | None]]:
    keys: dict[int, list[str]] = {}
    prints: dict[str, str | None] = {}
    for index, setting in enumerate(desk.recipe.settings):
        keys[index] = []
        place = folder_name(setting, desk.recipe.schema.vary)
        for case in desk.cases(index).walk():
            keys[index].append(case.key)
            prints["/".join(filter(None, [place, case.key]))] = fingerprint(case)
    return keys, prints


def _check_priors(desk: Bench, settings: Iterable[int]) -> None:
    """Load every checkpoint, and ask the methods whether theirs fits."""
    for index in settings:
        assembly = desk.assembly(index)
        for label, checkpoint in assembly.checkpoints.items():
            prior = desk.prior(checkpoint)
            check = getattr(assembly.methods[label], "check_prior", None)
            try:
                if check is not None:
                    check(prior)
            except CheckpointError as error:
                raise CheckpointError(f"checkpoint {checkpoint} does not fit method {label!r}: {error}") from error


def _folder(recipe: Recipe, out: Path | None, resume: Path | None) -> RunFolder:
    if resume is not None:
        return RunFolder.open(resume)
    if out is None:
        return RunFolder.create(Path("runs"), recipe.name)
    folder = RunFolder(out)
    if (
        not folder.holds_run()
        and out.is_dir()
        and any(not path.name.startswith(".") and path.name != "environment.json" for path in out.iterdir())
    ):
        raise UserError(f"--out {out} holds other files and no run; name a new or empty folder")
    make_folder(out, "--out")
    return folder


def _require_same(folder: RunFolder, resolved: Mapping[str, Any], known: Mapping[str, Any]) -> None:
    there, here = _flat(folder.recipe), _flat(json.loads(json.dumps(resolved)))
    differences = [
        f"{key}: {_side(there, key)} there, {_side(here, key)} now"
        for key in dict.fromkeys([*there, *here])
        if there.get(key, "") != here.get(key, "")
    ]
    advice = "give another --out, or go back to the same recipe"
    if differences:
        raise RecipeError(f"{folder.path} was run with another recipe ({'; '.join(differences[:8])}): {advice}")
    before = folder.environment
    if before.get("device") and before["device"] != known["device"]:
        raise UserError(
            f"{folder.path} was run on {before['device']} and would go on with {known['device']}: add --device {before['device']}"
        )
    for key, value in known["data"].items():
        old = (before.get("data") or {}).get(key, value)
        if old != value:
            raise UserError(
                f"the data of case {key} are not those that {folder.path} was run with (sha256 {old} there, {value} now): {advice}"
            )


def _flat(content: Any, key: str = "") -> dict[str, Any]:
    if isinstance(content, Mapping) and content:
        made: dict[str, Any] = {}
        for name, value in content.items():
            made |= _flat(value, f"{key}.{name}" if key else str(name))
        return made
    return {key: content}


def _side(flat: Mapping[str, Any], key: str) -> str:
    return json.dumps(flat[key]) if key in flat else "absent"


def _state(run: Run) -> str:
    every = run.jobs()
    count = sum(run.store.is_done(job.stem) for job in every)
    return f"{count} of {len(every)} jobs {'is' if count == 1 else 'are'} done and kept"


def _again(recipe: Recipe, folder: RunFolder) -> str:
    return f"'unstir run --resume {folder.path}'"


def _title(run: Run, desk: Bench, keys: Mapping[int, Sequence[str]]) -> str:
    """``Sparse-view CT · lung1 (48 x 128 x 128) · 8 and 20 views · 4 methods``."""
    truth: Any = desk.cases(0).get(keys[0][0]).truth
    shape = ""
    if hasattr(truth, "data_vars") and len(truth.data_vars):
        shape = " x ".join(str(size) for size in truth[next(iter(truth.data_vars))].shape)
        if "spacing_mm" in truth.attrs:
            shape += f", {' x '.join(f'{size:.3g}' for size in truth.attrs['spacing_mm'])} mm"
        shape = f" ({shape})"
    data = f"{keys[0][0]}{shape}" if len(keys[0]) == 1 else f"{len(keys[0])} cases"
    varied = [f"{_and([str(value) for value in values])} {key.rpartition('.')[2]}" for key, values in run.recipe.schema.vary.items()]
    count = len(run.labels)
    return " · ".join([run.recipe.title, data, *varied, f"{count} method{'s' if count > 1 else ''}"])


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _crowd(plan: Plan, means: Means) -> str:
    """What to say where workers would want more threads than there are cores."""
    cores = os.cpu_count() or 1
    if means.engine != "local" or means.workers * (plan.threads or 1) <= max(cores, means.workers):
        return ""
    fewer = max(1, cores // means.workers)
    crowd = f"{means.workers} workers with {plan.threads} threads each on {cores} cores"
    return f"{crowd}: --threads {fewer} may be faster (and changes the last bits of sums)"


def _report(run: Run, outcome: Outcome) -> None:
    from unstir_pipelines import report

    try:
        outcome.report = Path(report.write(run.folder))
    except Exception as error:
        if is_disk_full(error):
            raise
        import traceback

        outcome.report_fault = reason_of(error)
        run.store.log("report_failed", reason=outcome.report_fault, traceback=traceback.format_exc())


def _over_sets(run: Run) -> list[tuple[Any, ...]]:
    made: list[tuple[Any, ...]] = []
    for index, setting in enumerate(run.settings):
        metrics = [metric for metric in run.assembly(index).metrics if hasattr(metric, "over")]
        for metric in metrics:
            for label in run.labels:
                for seed in run.recipe.seeds:
                    pairs = [(run.estimate(label, key, setting, seed), run.case(key, setting)) for key in run.case_keys(index)]
                    done = [(estimate, case) for estimate, case in pairs if estimate is not None and case.truth is not None]
                    if done:
                        scores = jobs.described(metric, metric.over(done))
                        made += [(json.dumps(setting), label, "*", seed, *_columns(score), len(done)) for score in scores]
    return made


def _columns(score: Mapping[str, Any]) -> tuple[Any, ...]:
    value = float("nan") if score["value"] is None else score["value"]
    parts = [float("nan") if part is None else part for part in score["parts"]]
    return score["metric"], value, score["unit"], score["better"], parts, score["combine"]


def _type(name: str) -> Any:
    import pyarrow as pa

    return {"seed": pa.int64(), "value": pa.float64(), "covers": pa.int64()}.get(name, pa.string())


def _is_observed(event: str) -> bool:
    """Does any plugin watch? Reading every estimate back for nobody would double the reading."""
    hooks = registry.host()._manager.hook
    return bool(getattr(hooks, f"unstir_{event}").get_hookimpls())
