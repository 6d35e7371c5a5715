"""A run folder as an object: its table, its estimates, its cases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unstir.errors import UnknownName
from unstir.plugin.protocols import Case, Estimate
from unstir_pipelines import jobs
from unstir_pipelines.recipe import Assembly, Recipe
from unstir_pipelines.settings import Setting
from unstir_pipelines.store import Job, RunFolder

if TYPE_CHECKING:
    import pandas as pd


class Run:
    """A run, finished or not; what ``unstir.run`` returns and what figures, reports and observers see.

    Args:
        folder: the run folder.
        bench: the objects of the recipe where they exist already.

    Example:
        >>> run = Run(Path("runs/demo"))                      # doctest: +SKIP
        >>> run.estimates["dds"]                              # doctest: +SKIP
    """

    def __init__(self, folder: Path, bench: jobs.Bench | None = None) -> None:
        self.store = RunFolder.open(Path(folder)) if bench is None else bench.folder
        self.folder = self.store.path
        self._given = bench

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    @cached_property
    def _bench(self) -> jobs.Bench:
        if self._given is not None:
            return self._given
        known = jobs.kept(self.store.recipe, self.folder)
        return known or jobs.Bench(jobs.Plan(self.store.recipe, str(self.folder), str(self.store.environment.get("device") or "cpu")))

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe with every override applied."""
        return self._bench.recipe

    @cached_property
    def labels(self) -> list[str]:
        """Methods in the recipe's order."""
        return list(self._bench.assembly(0).methods)

    @property
    def settings(self) -> list[Setting]:
        """One entry a combination of the varied keys; ``[{}]`` where nothing varies."""
        return self.recipe.settings

    @property
    def rows(self) -> pd.DataFrame:
        """A row a method, case, seed, metric and setting, as in ``metrics.parquet`` (``setting`` is a dict)."""
        import json

        import pandas as pd

        rows = pd.read_parquet(self.folder / "metrics.parquet")
        rows["setting"] = [json.loads(text) for text in rows["setting"]]
        return rows

    def table(self) -> pd.DataFrame:
        """The table: a row a setting, method and metric, with the mean and its 95 % bootstrap interval."""
        from unstir_pipelines import tables

        return tables.frame(self.folder)

    def cases(self) -> list[str]:
        """Keys of the cases, in order."""
        return list(self._keys[0])

    @cached_property
    def _keys(self) -> list[list[str]]:
        known = self.store.environment.get("cases")
        if known:
            return [list(known[index]) for index in range(len(self.settings))]
        return [[case.key for case in self._bench.cases(index).walk()] for index in range(len(self.settings))]

    def case_keys(self, setting: int) -> list[str]:
        """Keys of the cases under a setting, by its index."""
        return self._keys[setting]

    def assembly(self, setting: int) -> Assembly:
        """The task, methods, metrics and figures under a setting, by its index."""
        return self._bench.assembly(setting)

    def case(self, key: str, setting: Mapping[str, Any] | None = None) -> Case:
        """The case with its truth, under one setting (the first by default)."""
        return self._bench.cases(self._index(setting)).get(key)

    def estimate(self, label: str, case_key: str, setting: Mapping[str, Any] | None = None, seed: int | None = None) -> Estimate | None:
        """What a method answered; ``None`` where its job failed or has not run.

        Args:
            label: the method.
            case_key: the case.
            setting: the first by default.
            seed: the first of the recipe by default.
        """
        index = self._index(setting)
        stem = self._stems.get((label, case_key, self.recipe.seeds[0] if seed is None else seed, index))
        return None if stem is None else self.store.estimate(stem, self._bench.assembly(index).task)

    @property
    def estimates(self) -> Estimates:
        """Estimates by label: ``run.estimates["dds"]`` is that of the first case under the first setting."""
        return Estimates(self)

    def jobs(self) -> list[Job]:
        """Every job of the run."""
        keys = dict(enumerate(self._keys))
        return jobs.listed(self.recipe, keys, {index: self._bench.assembly(index).methods for index in range(len(self.settings))})

    @cached_property
    def _stems(self) -> dict[tuple[str, str, int, int], str]:
        return {(job.method, job.case, job.seed, job.setting): job.stem for job in self.jobs()}

    def failures(self) -> list[dict[str, Any]]:
        """Records of the jobs that failed, each with its ``reason``."""
        records = (self.store.record(job.stem) for job in self.jobs())
        return [record for record in records if record is not None and record["status"] == "failed"]

    def _index(self, setting: Mapping[str, Any] | None) -> int:
        if setting is None:
            return 0
        for index, known in enumerate(self.settings):
            if known == dict(setting):
                return index
        raise UnknownName("setting", str(dict(setting)), [str(known) for known in self.settings])


class Estimates(Mapping[str, Any]):
    """Estimates of a run by label of the method.

    Args:
        run: the run.
    """

    def __init__(self, run: Run) -> None:
        self._run = run

    def __getitem__(self, label: str) -> Any:
        if label not in self._run.labels:
            raise UnknownName("method", label, self._run.labels)
        return self.of(label)

    def of(self, label: str, case: str | None = None, setting: Mapping[str, Any] | None = None) -> Any:
        """The data of one estimate, ``None`` where there is none; the first case and setting by default."""
        keys: Sequence[str] = self._run.cases()
        estimate = self._run.estimate(label, keys[0] if case is None else case, setting)
        return None if estimate is None else estimate.data

    def __iter__(self) -> Iterator[str]:
        return iter(self._run.labels)

    def __len__(self) -> int:
        return len(self._run.labels)

    def __repr__(self) -> str:
        return f"<estimates of {', '.join(self._run.labels)}>"
