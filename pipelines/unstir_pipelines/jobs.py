"""What one job is: a method answers one case, the answer is judged and written. It needs nothing but the plan and its own name."""

from __future__ import annotations

import dataclasses
import json
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from unstir import registry
from unstir.errors import PluginError, UnstirError, UserError
from unstir.plugin.protocols import Case, Estimate, MetricInfo, Score
from unstir_pipelines import settings
from unstir_pipelines.cases import CaseSource
from unstir_pipelines.measure import peak_memory
from unstir_pipelines.recipe import Assembly, Recipe
from unstir_pipelines.store import Job, RunFolder, is_disk_full, write_estimate

Report = Callable[[int, int], None]

COSTS = (
    MetricInfo("nfe", "NFE", "", "down", "Evaluations of the denoiser for one estimate."),
    MetricInfo("seconds", "Seconds", "s", "down", "Wall-clock time of the method for one case."),
    MetricInfo("memory", "Memory", "MB", "down", "Rise of resident memory at its peak while the method ran (1 MB is 1e6 bytes)."),
)
"""What is measured of every job."""


@dataclass(frozen=True)
class Plan:
    """All that a worker must know to do any job of a run.

    Args:
        recipe: the resolved recipe, plain.
        folder: the run folder.
        device: where methods compute (``"cpu"``, ``"cuda"``).
        threads: threads of torch in every job; ``None`` leaves its default.
    """

    recipe: Mapping[str, Any]
    folder: str
    device: str
    threads: int | None = None

    @cached_property
    def key(self) -> str:
        """Equal for equal plans."""
        return json.dumps([self.recipe, self.folder, self.device, self.threads], sort_keys=True, default=str)


class Bench:
    """A plan with its objects made, kept for the life of a worker.

    Args:
        plan: the plan.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.recipe = Recipe.of(plan.recipe)
        self.folder = RunFolder(Path(plan.folder))
        self._assemblies: dict[int, Assembly] = {}
        self._sources: dict[int, CaseSource] = {}
        self._priors: dict[str, Any] = {}

    def assembly(self, setting: int) -> Assembly:
        """The objects under a setting."""
        if setting not in self._assemblies:
            self._assemblies[setting] = self.recipe.assemble(self.recipe.settings[setting])
        return self._assemblies[setting]

    def cases(self, setting: int) -> CaseSource:
        """The cases under a setting."""
        if setting not in self._sources:
            self._sources[setting] = CaseSource(self.assembly(setting), self.recipe.schema.cases)
        return self._sources[setting]

    def prior(self, checkpoint: str | None) -> Any:
        """The denoiser of a checkpoint on the plan's device, loaded once."""
        if checkpoint is None:
            return None
        if checkpoint not in self._priors:
            import unstir

            self._priors[checkpoint] = unstir.load(checkpoint).to(self.plan.device)
        return self._priors[checkpoint]


_bench: Bench | None = None
_turn = threading.Lock()


def bench(plan: Plan) -> Bench:
    """The bench of a plan; a process keeps the last one."""
    global _bench
    if _bench is None or _bench.plan.key != plan.key:
        _bench = Bench(plan)
    return _bench


def kept(recipe: Mapping[str, Any], folder: Path) -> Bench | None:
    """The bench of this process where it is that of a run folder: its cases need not be made again."""
    if _bench is None or Path(_bench.plan.folder or "/") != folder.resolve() or _bench.plan.recipe != recipe:
        return None
    return _bench


def keep(desk: Bench) -> None:
    """Make a bench the one of this process."""
    global _bench
    _bench = desk


def perform(plan: Plan, job: Job, progress: Report | None = None) -> dict[str, Any]:
    """Do a job and write its estimate and record; jobs of one process take turns.

    Args:
        plan: the run.
        job: which one.
        progress: told of the method's steps.

    Returns:
        The record: ``status`` ``"done"`` or ``"failed"``, with ``reason`` and ``traceback`` of a failure.

    Raises:
        OSError: the disk is full.
    """
    with _turn:
        if not Path(plan.folder).is_dir():
            raise UserError(f"a worker cannot see {plan.folder}: put the run folder on storage that every worker shares")
        desk = bench(plan)
        record: dict[str, Any] = {
            "status": "done",
            "method": job.method,
            "case": job.case,
            "seed": job.seed,
            "setting": desk.recipe.settings[job.setting],
        }
        try:
            return _answer(desk, job, record, progress)
        except Exception as error:
            if is_disk_full(error):
                raise
            failed = failure(job, desk.recipe.settings[job.setting], reason_of(error), "".join(traceback.format_exception(error)))
            desk.folder.fail(job.stem, failed)
            return failed


def failure(job: Job, setting: Mapping[str, Any], reason: str, trace: str = "") -> dict[str, Any]:
    """The record of a job that failed."""
    told = {"status": "failed", "method": job.method, "case": job.case, "seed": job.seed, "setting": dict(setting)}
    return {**told, "reason": reason, "traceback": trace}


def reason_of(error: BaseException) -> str:
    """One sentence of what went wrong; the type is named where the error is not unstir's own."""
    lines = str(error).strip().splitlines() or [""]
    return lines[0] if isinstance(error, UnstirError) and lines[0] else f"{type(error).__name__}: {lines[0]}".rstrip(": ")


def _answer(desk: Bench, job: Job, record: dict[str, Any], progress: Report | None) -> dict[str, Any]:
    plan, assembly = desk.plan, desk.assembly(job.setting)
    if plan.threads is not None:
        import torch

        if torch.get_num_threads() != plan.threads:
            torch.set_num_threads(plan.threads)
    case = desk.cases(job.setting).get(job.case)
    prior = desk.prior(assembly.checkpoints.get(job.method))
    estimates = {}
    for label, stem in job.needs:
        estimates[label] = desk.folder.estimate(stem, assembly.task)
        if estimates[label] is None:
            raise PluginError(f"needs the estimate of {label}, which is not there")
    blind = _blind(case, {"estimates": estimates, "device": plan.device})
    with peak_memory() as peak:
        began = time.perf_counter()
        try:
            estimate = assembly.methods[job.method](blind, prior, job.seed, progress=progress)
            _finish(plan.device)
        except ModuleNotFoundError as error:
            extra = registry.missing_extra("methods", assembly.entries["methods"][job.method]["name"], error)
            if extra is None:
                raise
            raise extra from error
        seconds = time.perf_counter() - began
    if not isinstance(estimate, Estimate):
        raise PluginError(f"method {job.method!r} must return an Estimate, got {type(estimate).__name__}")
    costs = {"nfe": float(estimate.nfe), "seconds": seconds, "memory": peak.megabytes}
    began = time.perf_counter()
    scores = judge(assembly.metrics, estimate, case) if case.truth is not None else []
    costs["judging"] = time.perf_counter() - began
    scores += [_row(info, Score(costs[info.key])) for info in COSTS]
    record |= {**costs, "nfe": int(estimate.nfe), "info": estimate.info, "scores": scores}
    return desk.folder.commit(job.stem, record, lambda stem: write_estimate(estimate, case, assembly.task, stem))


def judge(metrics: Sequence[Any], estimate: Estimate, case: Case) -> list[dict[str, Any]]:
    """Score an estimate by every metric that looks at one estimate."""
    rows = []
    for metric in metrics:
        if not hasattr(metric, "over"):
            rows += described(metric, metric(estimate, case))
    return rows


def described(metric: Any, scores: Mapping[str, Score]) -> list[dict[str, Any]]:
    """The scores of a metric, each with what it is.

    Raises:
        PluginError: the metric gave a key that it does not describe, or something that is no Score.
    """
    infos = {info.key: info for info in metric.describe()}
    for key, score in scores.items():
        if key not in infos:
            raise PluginError(f"metric {type(metric).__name__} gave {key!r}, which its describe() does not list")
        if not isinstance(score, Score):
            raise PluginError(f"metric {type(metric).__name__} must give a Score for {key!r}, got {type(score).__name__}")
    return [_row(infos[key], scores[key]) for key in infos if key in scores]


def _row(info: MetricInfo, score: Score) -> dict[str, Any]:
    parts = [float(part) for part in score.parts]
    return {
        "metric": info.key,
        "value": float(score.value),
        "unit": info.unit,
        "better": info.better,
        "parts": parts,
        "combine": score.combine,
    }


def _blind(case: Case, context: Mapping[str, Any]) -> Case:
    """The case as a method gets it: no truth, and a measurement of its own, so that no job can disturb another."""
    measurement = case.measurement.copy(deep=True) if hasattr(case.measurement, "data_vars") else case.measurement
    return dataclasses.replace(case, truth=None, measurement=measurement, context={**case.context, **context})


def _finish(device: str) -> None:
    torch = sys.modules.get("torch")
    if torch is not None and device.startswith("cuda"):
        torch.cuda.synchronize(device)


def listed(recipe: Recipe, keys: Mapping[int, Sequence[str]], methods: Mapping[int, Mapping[str, Any]]) -> list[Job]:
    """Every job of a run: setting by setting, case by case, what others need first.

    Args:
        recipe: the recipe.
        keys: the keys of the cases, by index of setting.
        methods: the methods by label, by index of setting.
    """
    jobs = []
    for index, setting in enumerate(recipe.settings):
        place = settings.folder_name(setting, recipe.schema.vary)
        for case in keys[index]:
            for seed in recipe.seeds:
                ending = f"@seed={seed}" if len(recipe.seeds) > 1 else ""
                stems = {
                    label: "/".join(filter(None, ["estimates", settings.file_name(label), place, settings.file_name(case) + ending]))
                    for label in methods[index]
                }
                for label in _in_order(methods[index]):
                    needs = tuple((need, stems[need]) for need in getattr(methods[index][label], "needs", ()))
                    jobs.append(Job(label, case, seed, index, stems[label], needs))
    return jobs


def _in_order(methods: Mapping[str, Any]) -> list[str]:
    """Labels in the recipe's order, each after those it needs."""
    order: list[str] = []
    waiting = list(methods)
    while waiting:
        for label in waiting:
            if all(need in order for need in getattr(methods[label], "needs", ())):
                order.append(label)
                waiting.remove(label)
                break
    return order
