"""``unstir apply timeseries/forecast`` and ``timeseries/anomaly``: a user's own series forecast, completed or scored."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from unstir.errors import DataError, UserError
from unstir.plugin.chain import Chain, part
from unstir.plugin.files import Job, one_by_one
from unstir.plugin.protocols import Case, Estimate, Progress
from unstir.plugin.results import together
from unstir_timeseries.predictor import LOAD, TSDiffPredictor, ahead, checked, context_for

RECIPE = "timeseries/forecast"
"""Whose methods and options are used."""


@dataclass(frozen=True)
class SeriesFiles:
    """What the commands on files of series share.

    Args:
        freq: the step, as a pandas alias; found in the stamps when empty.
        id: column that names the series.
        time: column of the stamps.
        target: column of the values.
        known: columns that are known of the future too, separated by commas.
        duplicates: stamps that come twice: "refuse", "mean", "sum", "first" or "last".
        seed: of everything drawn.
    """

    freq: str = ""
    id: str = "unique_id"
    time: str = "ds"
    target: str = "y"
    known: str = ""
    duplicates: str = "refuse"
    seed: int = 0

    def panels(self, job: Job, ending: str) -> dict[str, xr.Dataset]:
        """The panels of a file, one for each step, by the name of their results, which end in ``ending``."""
        from unstir_timeseries.readers import read, stem

        known = tuple(name.strip() for name in self.known.split(",") if name.strip())
        names = {"id_col": self.id, "time_col": self.time, "target_col": self.target}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the panels say it too
            found = read(job.file, freq=self.freq or None, known=known, duplicates=self.duplicates, **names)
        keys = [stem(job.file)] if len(found) == 1 else [str(panel.attrs["key"]) for panel in found]
        return {job.free(key, ending): panel for key, panel in zip(keys, found, strict=True)}

    def each(self, files: Sequence[Path], out: Path, progress: Progress, one: Callable[[Job], dict[str, Any]]) -> dict[str, Any]:
        """Work on every file; one that cannot be is reported at the end, when the others are done."""
        if not files:
            raise UserError("name at least one file of series, as unstir apply timeseries/forecast load.parquet --out forecast")
        return one_by_one(files, out, progress, one)


@dataclass(frozen=True)
class ForecastFiles(SeriesFiles):
    """Forecast series beyond their last value, or fill the gaps of their past.

    A file (parquet, CSV, GluonTS JSON lines, netCDF) in long form (unique_id, ds, y) or wide form (a column a series) gives
    NAME-forecast.parquet and .csv (mean and quantiles), NAME-paths.parquet (sample paths), NAME-forecast.png (fan charts) and
    NAME-report.html; with ``impute`` NAME-imputed in the same forms. The last windows of the past are forecast too, beside the seasonal
    naive, so that the report can say how far to trust it.

    Args:
        horizon: steps to forecast.
        levels: quantiles in percent: 10,50,90.
        impute: fill the gaps of the past instead.
        method: of the recipe timeseries/forecast (tsdiff-cov, tsdiff-q, ridge-residual...), or a registered one.
        options: in place of the recipe's: ``{samples: 200}``.
        model: a checkpoint (name or folder), or ``fit`` for one trained on this file first (minutes); when empty, the one of hourly
            load for hourly series and ``fit`` for the rest.
        steps: of that training.
        backtest: how many windows of the past are forecast to judge by; 0 for none.
    """

    horizon: int = 24
    levels: str | list[float] = "10,50,90"
    impute: bool = False
    method: str = "tsdiff-cov"
    options: dict[str, Any] = field(default_factory=dict)
    model: str = ""
    steps: int = 3000
    backtest: int = 3

    def __post_init__(self) -> None:
        checked(self.horizon, self.percents)
        if self.backtest < 0 or self.steps < 1 or self.seed < 0:
            raise UserError(
                f"backtest and seed must not be negative and steps at least 1, got {self.backtest}, {self.seed} and {self.steps}"
            )

    @property
    def percents(self) -> list[float]:
        """The levels as numbers."""
        given = self.levels.split(",") if isinstance(self.levels, str) else self.levels
        try:
            return [float(level) for level in given]
        except (TypeError, ValueError):
            raise UserError(f"levels are percentages separated by commas, as 10,50,90; got {self.levels!r}") from None

    def __call__(self, files: Sequence[Path], out: Path, *, device: str = "cpu", progress: Progress = None) -> dict[str, Any]:
        """Forecast (or complete) every file; one that cannot be is reported at the end, when the others are done.

        Args:
            files: of series.
            out: folder of the results, made if needed.
            device: of the model ("cpu", "cuda").
            progress: told of hundredths of a method's work.

        Returns:
            ``files``, the paths written; ``said``, what happened in sentences; and ``results``, what was done with each file.

        Raises:
            UserError: no file, an unknown method or option, a model that is not there.
            DataError: one or more files could not be worked on; a sentence each.
        """
        return self.each(files, out, progress, lambda job: self.one(job, device))

    def one(self, job: Job, device: str) -> dict[str, Any]:
        """Forecast one file and write its results, all of them or none."""
        started, out = time.perf_counter(), job.out
        result: dict[str, Any] = {"source": str(job.file), "files": [], "said": []}
        panels = self.panels(job, "-imputed.csv" if self.impute else "-forecast.csv")
        for number, (name, panel) in enumerate(panels.items()):
            with heard(panel, result["said"]):
                told = part(job.progress, number, len(panels))
                chain = self.chain(panel.assign_attrs(key=name), out / f"{name}-model", device, told, result["said"])
                work = self.completed if self.impute else self.ahead
                result["files"] += work(panel.assign_attrs(key=name), chain, out, name, told, result["said"])
        return result | {"seconds": round(time.perf_counter() - started, 2), "said": list(dict.fromkeys(result["said"]))}

    def chain(self, panel: xr.Dataset, folder: Path, device: str, progress: Progress, said: list[str]) -> Chain:
        """The method, with a model that suits the panel."""
        model = self.model or (LOAD if panel.attrs["freq"] == "h" and "known" not in panel else "fit")
        chosen = Chain.of(RECIPE, self.method, options=self.options, checkpoint=LOAD if model == "fit" else model, device=device)
        if chosen.prior is None:
            return chosen
        if model != "fit":
            if not self.model:
                said.append(f"forecast by {LOAD}, a model of hourly load; --model fit trains one on these series")
            return chosen
        context = context_for(panel, self.horizon)
        predictor = TSDiffPredictor(self.horizon, context, seed=self.seed, training={"steps": self.steps, "decay": self.steps // 2})
        fitted = predictor.fit(panel, folder, progress=progress, resume=True)
        said.append(f"a model was trained on these series ({self.steps} steps): {fitted.model}")
        return Chain.of(RECIPE, self.method, options=self.options, checkpoint=str(fitted.model), device=device)

    def ahead(self, panel: xr.Dataset, chain: Chain, out: Path, name: str, progress: Progress, said: list[str]) -> list[str]:
        """Forecast beyond the last value."""
        from unstir_timeseries.drawing import fan_chart
        from unstir_timeseries.frames import forecast_frame, paths_frame
        from unstir_timeseries.page import page

        case = ahead(panel, self.horizon, self.context(chain, panel))
        estimate = chain(case, self.seed, progress)
        said += estimate.info.get("said", [])
        scores = self.judged(panel, chain)
        tables = {"forecast": forecast_frame(estimate.data, [level / 100 for level in self.percents], like=panel)}
        if "samples" in estimate.data:
            tables["paths"] = paths_frame(estimate.data, like=panel)
        else:
            said.append(f"{chain.label} gives quantiles and no paths")
        picture = fan_chart(case.measurement, estimate.data, levels=self.percents)
        facts = self.facts(case, estimate, chain)
        shown = {"title": f"Forecast of {name}", "picture": picture, "table": tables["forecast"], "scores": scores, "facts": facts}
        write = partial(page, **shown)
        return written(out, name, tables, picture, write, {**facts, "backtest": scores.to_dict("records") if scores is not None else []})

    def completed(self, panel: xr.Dataset, chain: Chain, out: Path, name: str, progress: Progress, said: list[str]) -> list[str]:
        """Fill the gaps of the past."""
        from unstir_timeseries.drawing import fan_chart, gaps_of
        from unstir_timeseries.frames import forecast_frame
        from unstir_timeseries.page import page

        gaps = gaps_of(panel["y"].values)
        if not gaps.any():
            raise DataError(f"{name} has no gap to fill: every step between the first and the last value of each series was observed")
        facts = {
            "season": int(panel.attrs["season"]),
            "freq": panel.attrs["freq"],
            "training": panel,
            "context": self.context(chain, panel),
        }
        case = Case(name.lower(), None, panel.assign_attrs(horizon=0), {**facts, "device": "cpu"})
        estimate = chain(case, self.seed, progress)
        said += [*estimate.info.get("said", []), f"{int(gaps.sum())} missing values of {panel.sizes['item']} series filled"]
        table = forecast_frame(estimate.data, [level / 100 for level in self.percents], like=panel)
        table.insert(2, "y", np.where(gaps, estimate.data["mean"].values, panel["y"].values).reshape(-1))
        table.insert(3, "is_imputed", gaps.reshape(-1))
        table = table[np.isfinite(table["y"])].reset_index(drop=True)
        picture = fan_chart(case.measurement, estimate.data, levels=self.percents)
        shown = self.facts(case, estimate, chain)
        filled = {"title": f"Gaps of {name}", "picture": picture, "table": table[table.is_imputed], "scores": None, "facts": shown}
        write = partial(page, **filled)
        return written(out, name, {"imputed": table}, picture, write, shown)

    def context(self, chain: Chain, panel: xr.Dataset) -> int:
        """Steps of context: the model's, else what the series leave room for."""
        windows = getattr(chain.prior, "facts", {}).get("windows", {})
        return int(windows.get("context", 0)) or context_for(panel, self.horizon)

    def judged(self, panel: xr.Dataset, chain: Chain) -> pd.DataFrame | None:
        """Scores of the method and of the seasonal naive on the last windows of the past; ``None`` where there is no room."""
        from unstir_timeseries.metrics import CRPS, ND, Coverage
        from unstir_timeseries.tasks import Forecast

        if not self.backtest:
            return None
        seen = np.isfinite(panel["y"].values).any(0)
        past = panel.isel(time=slice(0, int(np.flatnonzero(seen)[-1]) + 1))
        task = Forecast(horizon=self.horizon, context=self.context(chain, panel), windows=self.backtest, stride=0)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                cases = list(task.cases([past]))
        except DataError:
            return None
        rows = []
        for label, judged in ((chain.label, chain), ("seasonal-residual", Chain.of(RECIPE, "seasonal-residual"))):
            pairs = [(judged(case, self.seed, None), case) for case in cases]
            row: dict[str, Any] = {"method": label, "windows": len(pairs)}
            for metric in (CRPS(), ND(), Coverage()):
                row |= {key: score.value for key, score in metric.over(pairs).items()}
            rows.append(row)
        return pd.DataFrame(rows)

    def facts(self, case: Case, estimate: Estimate, chain: Chain) -> dict[str, Any]:
        """What was done, in words and numbers."""
        return {
            "method": chain.label, "options": chain.said, "model": chain.checkpoint if chain.sha256 else None, "model_sha256": chain.sha256,
            "origin": case.context.get("origin"), "step": case.measurement.attrs["freq"], "series": case.measurement.sizes["item"],
            "evaluations a path": estimate.nfe, "seed": self.seed,
        }  # fmt: skip


@dataclass(frozen=True)
class ScoreFiles(SeriesFiles):
    """Score how unusual every step of a series is.

    A file gives NAME-scores.parquet and .csv (unique_id, ds, y, score) and NAME-scores.png. A score is large where the windows over a step
    are unlike those of the training part; it is not a probability.

    Args:
        method: registered scorer (dte-np, knn, isolation-forest, dte), without the domain.
        window: steps of a window; two seasons when 0.
        training: share of the series, from its start, that counts as normal; 0 compares every window with all others.
        join: "max" or "mean" over the windows that cover a step.
        top: how many of the most unusual steps are named.
    """

    method: str = "dte-np"
    window: int = 0
    training: float = 0.5
    join: Literal["max", "mean"] = "mean"
    top: int = 5

    def __post_init__(self) -> None:
        if not 0 <= self.training < 1 or self.window < 0 or self.top < 0:
            raise UserError(
                f"training is a share in [0, 1), window and top not negative, got {self.training}, {self.window} and {self.top}"
            )

    def __call__(self, files: Sequence[Path], out: Path, *, device: str = "cpu", progress: Progress = None) -> dict[str, Any]:
        """Score every file; one that cannot be is reported at the end, when the others are done.

        Args:
            files: of series.
            out: folder of the results, made if needed.
            device: unused; scorers run on the CPU.
            progress: told of steps.

        Returns:
            ``files``, the paths written; ``said``, the most unusual steps in sentences; and ``results``.

        Raises:
            UserError: no file, or an unknown method.
            DataError: one or more files could not be scored; a sentence each.
        """
        return self.each(files, out, progress, self.one)

    def one(self, job: Job) -> dict[str, Any]:
        """Score one file and write its results, all of them or none."""
        from unstir import registry
        from unstir_timeseries.anomaly_windows import score_panel
        from unstir_timeseries.drawing import score_chart
        from unstir_timeseries.frames import to_frame

        method = registry.resolve("methods", self.method if "/" in self.method else f"timeseries/{self.method}")()
        result: dict[str, Any] = {"source": str(job.file), "files": [], "said": []}
        for name, panel in self.panels(job, "-scores.csv").items():
            window = self.window or 2 * int(panel.attrs["season"])
            with heard(panel, result["said"]):
                known = int(self.training * panel.sizes["time"])
                scored = score_panel(panel, method, window, reduce=self.join, training=known, seed=self.seed)
                table = to_frame(panel, trim=False).assign(score=scored["score"].values.reshape(-1))
                card = {"method": self.method, "window": window, "seed": self.seed}
                result["files"] += written(job.out, name, {"scores": table}, score_chart(panel, scored), None, card)
                for row in table.nlargest(self.top, "score").itertuples():
                    result["said"].append(f"{row.unique_id} at {row.ds}: score {row.score:.4g}")
        return result


@contextmanager
def heard(panel: xr.Dataset, said: list[str]) -> Iterator[None]:
    """Collect what a panel and the warnings of the work on it say.

    Args:
        panel: with what its reader said.
        said: sentences are added.
    """
    said += str(panel.attrs.get("said", "")).splitlines()
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        yield
    said += [str(warning.message) for warning in given if warning.category is UserWarning]


def written(
    out: Path, name: str, tables: dict[str, pd.DataFrame], picture: Any, page: Callable[[Path], Any] | None, card: dict[str, Any]
) -> list[str]:
    """Write tables, picture, page and card under names of their own: all of them, or none.

    Args:
        out: the folder.
        name: stem of the files.
        tables: by what they hold.
        picture: a matplotlib figure.
        page: writes ``report.html`` into a folder.
        card: what was done, JSON-able.

    Returns:
        The paths.
    """
    first = next(iter(tables))
    with together(out) as made:
        place = made.folder
        for kind, table in tables.items():
            table.to_parquet(place / f"{name}-{kind}.parquet", index=False)
            if kind != "paths":
                table.to_csv(place / f"{name}-{kind}.csv", index=False)
        picture.savefig(place / f"{name}-{first}.png", dpi=130, bbox_inches="tight", metadata={"Software": None})
        (place / f"{name}-{first}.json").write_text(json.dumps(card, indent=1, default=str) + "\n")
        if page is not None:
            page(place)
            (place / "report.html").rename(place / f"{name}-report.html")
    return [str(path) for path in made.files]
