"""The numbers of a finished run, read back from its folder: what tables, reports and comparisons are made of.

Everything comes from ``recipe.yaml``, ``metrics.json`` and ``metrics.parquet``, so a table can be made again years later.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unstir import registry
from unstir.errors import DataError, UnstirError
from unstir.plugin.protocols import MetricInfo, Setting
from unstir_pipelines.jobs import COSTS
from unstir_pipelines.pairing import Difference, Scored, paired_difference
from unstir_pipelines.settings import expand, folder_name
from unstir_pipelines.store import RECORD, RunFolder

if TYPE_CHECKING:
    import pandas as pd

WHOLE_SET = "*"
"""What stands for the case in a row of ``metrics.parquet`` that judges all cases together."""

COST_KEYS = tuple(info.key for info in COSTS)
ARROWS = {"up": "↑", "down": "↓", "neither": ""}
"""Which way a metric is better, as a table's head says it."""


def places(half: float) -> int:
    """Digits after the point that show one significant digit of an interval's half-width, two where it begins with 1; four at most."""
    return min(4, max(0, -math.floor(math.log10(half / 2)))) if math.isfinite(half) and half > 0 else 1


@dataclass(frozen=True)
class Number:
    """One cell: a mean with its 95 % bootstrap interval, in the metric's unit, over ``cases`` cases; ``digits`` as the metric wishes."""

    mean: float
    low: float
    high: float
    cases: int
    unit: str
    better: str
    digits: int = 0

    @property
    def half(self) -> float:
        """Half the width of the interval (nan where there is none)."""
        return (self.high - self.low) / 2

    def decimals(self) -> int:
        """Digits after the point that the interval supports (without one, a hundredth of the mean), more where the metric asks."""
        return max(self.digits, places(self.half if math.isfinite(self.half) and self.half > 0 else abs(self.mean) / 100))


def plural(noun: str) -> str:
    """Many of a noun: "windows", "series".

    Args:
        noun: in the singular.
    """
    return noun if noun.endswith("s") else f"{noun}s"


def ahead(first: Number, second: Number, gap: Difference | None) -> bool:
    """Is the first better than the second?

    Args:
        first: one mean.
        second: the other, of the same metric.
        gap: first minus second over shared cases: its interval must leave zero out. ``None``: the intervals of the two means must not meet.
    """
    if first.better == "neither":
        return False
    is_up = first.better == "up"
    if gap is not None:
        return gap.clear and (gap.mean > 0) == is_up
    return first.low > second.high if is_up else first.high < second.low


@dataclass
class Results:
    """The numbers of one run folder.

    Args:
        folder: the run folder.
        recipe: ``recipe.yaml`` as a plain dict.
        rows: the rows of ``metrics.json``.
        infos: metric descriptions by key, of the recipe's metrics where their plugins are installed.
        heads: the first key of each of the recipe's metrics.
    """

    folder: Path
    recipe: dict[str, Any]
    rows: list[dict[str, Any]]
    infos: dict[str, MetricInfo] = field(default_factory=dict)
    heads: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        """The recipe's title, else the task's name."""
        return str(self.recipe.get("title") or self.task)

    @property
    def task(self) -> str:
        """Registered name of the task."""
        return named(self.recipe.get("task"))

    @property
    def data(self) -> str:
        """Registered name of the data, or words for a user's own files."""
        return named(self.recipe.get("data")) or "the user's own files"

    @cached_property
    def options(self) -> dict[str, dict[str, Any]]:
        """Options of each method in the recipe, by label."""
        methods = self.recipe.get("methods") or {}
        return {str(label): (dict(entry) if isinstance(entry, Mapping) else {"name": entry}) for label, entry in methods.items()}

    @cached_property
    def labels(self) -> list[str]:
        """Methods, those without a trained prior first, otherwise in the recipe's order."""
        seen = list(dict.fromkeys([*self.options, *(str(row["method"]) for row in self.rows)]))
        return sorted(seen, key=self.uses_prior)

    def uses_prior(self, label: str) -> bool:
        """Does the method use a trained prior?"""
        return bool(self.options.get(label, {}).get("checkpoint"))

    def titled(self, label: str) -> str:
        """What a reader sees of a method: its title in the recipe, else its label (also where two methods have one title)."""
        title = str(self.options.get(label, {}).get("title") or label)
        shared = sum(str(entry.get("title") or other) == title for other, entry in self.options.items())
        return title if shared <= 1 else label

    def fingerprint(self, case: str, setting: Setting) -> str:
        """The sha256 of a case's measurement and truth as the run recorded it, empty where it did not."""
        place = folder_name(setting, self.recipe.get("vary") or {})
        prints = self._environment.get("data") or {}
        return str(prints.get("/".join(filter(None, [place, case]))) or "")

    @cached_property
    def _environment(self) -> dict[str, Any]:
        return RunFolder(self.folder).environment

    @cached_property
    def settings(self) -> list[Setting]:
        """Settings in the recipe's order, those without any number included."""
        asked = expand(self.recipe.get("vary") or {})
        return list({setting_key(setting): setting for setting in [*asked, *(row["setting"] for row in self.rows)]}.values())

    @cached_property
    def metrics(self) -> list[str]:
        """Metrics of quality, in the order of the rows."""
        return list(dict.fromkeys(row["metric"] for row in self.rows if row["metric"] not in COST_KEYS))

    @cached_property
    def leads(self) -> list[str]:
        """The headline of each metric of the recipe: the first key it describes (without descriptions, the first two keys)."""
        return [key for key in self.heads if key in self.metrics] or self.metrics[:2]

    @cached_property
    def cases(self) -> list[str]:
        """Keys of the cases, in order."""
        known = [str(case) for cases in self._environment.get("cases") or () for case in cases]
        judged = [case for case in self.long["case"].astype(str) if case != WHOLE_SET] if len(self.long) else []
        return list(dict.fromkeys([*known, *judged]))

    @cached_property
    def long(self) -> pd.DataFrame:
        """``metrics.parquet`` with ``setting`` as a dict, empty where the file is missing."""
        import pandas as pd

        path = self.folder / "metrics.parquet"
        if not path.exists():
            return pd.DataFrame(columns=["task", "setting", "method", "case", "seed", "metric", "value", "parts", "combine"])
        frame = pd.read_parquet(path)
        frame["setting"] = [json.loads(setting) for setting in frame["setting"]]
        return frame

    def long_csv(self) -> str:
        """``metrics.parquet`` as CSV, a row a method, case, seed, metric and setting (parts are left out)."""
        columns = ["task", "setting", "method", "case", "seed", "metric", "value", "unit", "better"]
        frame = self.long[[column for column in columns if column in self.long]].copy()
        frame["setting"] = [json.dumps(setting) for setting in frame["setting"]]
        return frame.to_csv(index=False)

    @cached_property
    def _numbers(self) -> dict[tuple[str, str, str], Number]:
        return {
            (str(row["method"]), setting_key(row["setting"]), row["metric"]): Number(
                as_float(row["mean"]),
                as_float(row["low"]),
                as_float(row["high"]),
                int(row["cases"]),
                row.get("unit") or "",
                row.get("better") or "up",
                self.info(row["metric"]).digits,
            )
            for row in self.rows
        }

    def number(self, label: str, setting: Setting, metric: str) -> Number | None:
        """One cell of the table, ``None`` where the method gave nothing."""
        return self._numbers.get((label, setting_key(setting), metric))

    def info(self, metric: str) -> MetricInfo:
        """What a metric is; its key stands for the title where no plugin describes it."""
        known = self.infos.get(metric) or next((info for info in COSTS if info.key == metric), None)
        if known is not None:
            return known
        row = next((row for row in self.rows if row["metric"] == metric), {})
        return MetricInfo(metric, metric, row.get("unit") or "", row.get("better") or "up", "")

    @cached_property
    def _scores(self) -> dict[tuple[str, str, str], dict[tuple[str, int], tuple[float, Sequence[float], str]]]:
        scores: dict[tuple[str, str, str], dict[tuple[str, int], tuple[float, Sequence[float], str]]] = {}
        for row in self.long.to_dict("records"):
            parts = row.get("parts")
            entry = (as_float(row["value"]), () if parts is None else tuple(parts), row.get("combine") or "mean")
            case = (str(row["case"]), int(row.get("seed") or 0))
            scores.setdefault((str(row["method"]), setting_key(row["setting"]), row["metric"]), {})[case] = entry
        return scores

    def scores(self, label: str, setting: Setting, metric: str) -> Scored:
        """Values of every case and seed of one cell."""
        return self._scores.get((label, setting_key(setting), metric), {})

    def difference(self, a: str, b: str, setting: Setting, metric: str) -> Difference | None:
        """How far method ``a`` is from ``b`` on what both answered."""
        return paired_difference(self.scores(a, setting, metric), self.scores(b, setting, metric))

    def ranked(self, setting: Setting, metric: str) -> list[str]:
        """Methods that have a number, best first."""
        numbers = {label: self.number(label, setting, metric) for label in self.labels}
        have = [
            (number.mean if number.better == "down" else -number.mean, label)
            for label, number in numbers.items()
            if number and math.isfinite(number.mean)
        ]
        return [label for _, label in sorted(have, key=lambda pair: pair[0])]

    def is_ahead(self, a: str, b: str, setting: Setting, metric: str) -> bool:
        """Is ``a`` better than ``b``, as far as the intervals say?"""
        first, second = self.number(a, setting, metric), self.number(b, setting, metric)
        return first is not None and second is not None and ahead(first, second, self.difference(a, b, setting, metric))

    def leader(self, setting: Setting, metric: str) -> str | None:
        """The method that is ahead of every other one, ``None`` where the intervals do not say so."""
        order = self.ranked(setting, metric)
        if len(order) < 2 or not all(self.is_ahead(order[0], other, setting, metric) for other in order[1:]):
            return None
        return order[0]

    @cached_property
    def nouns(self) -> tuple[str, str]:
        """What the task calls a case and a part of one (``("patient", "slab")``)."""
        try:
            task = registry.resolve("tasks", self.task)
        except UnstirError:
            return ("case", "part")
        return getattr(task, "case_noun", "case"), getattr(task, "part_noun", "part")

    @property
    def over(self) -> str:
        """What the intervals were resampled over, in the plural; empty where there are none."""
        resampled = [row.get("resampled") for row in self.rows if row["metric"] not in COST_KEYS]
        case, part = self.nouns
        words = {"cases": plural(case), "parts": plural(part), "seeds": "seeds"}
        return " or ".join(word for key, word in words.items() if key in resampled)

    def note(self) -> str:
        """What the ± is, and what it does not say."""
        text = (
            f"± is the half-width of a 95 % bootstrap interval over {self.over}."
            if self.over
            else "No intervals: there was nothing to resample."
        )
        if len(self.cases) == 1:
            text += f" One {self.nouns[0]}: says nothing about others."
        return text


def read(folder: Path) -> Results:
    """Read the numbers of a run folder.

    Raises:
        DataError: the folder is not a run, or its ``metrics.json`` cannot be read.
    """
    store = RunFolder.open(Path(folder))
    path = store.path / "metrics.json"
    if not path.exists():
        raise DataError(f"{folder} holds no finished run: metrics.json is missing (unstir run --resume {folder} finishes it)")
    try:
        rows = [{**row, "setting": dict(row.get("setting") or {})} for row in json.loads(path.read_text())["rows"]]
    except (ValueError, KeyError, TypeError) as fault:
        raise DataError(f"{path} is not the metrics of a run ({fault}); unstir run --resume {folder} writes it again") from fault
    results = Results(store.path, store.recipe, rows)
    for entry in results.recipe.get("metrics") or ():
        infos = described(entry)
        results.infos.update({info.key: info for info in infos})
        results.heads += [info.key for info in infos[:1]]
    return results


def described(entry: Any) -> list[MetricInfo]:
    """What a metric of the recipe says of its keys; empty where its plugin is not installed."""
    options = {key: value for key, value in entry.items() if key != "name"} if isinstance(entry, Mapping) else {}
    try:
        return list(registry.resolve("metrics", named(entry))(**options).describe())
    except (UnstirError, TypeError, ValueError):
        return []


def named(entry: Any) -> str:
    """The registered name of a recipe's entry, written as a string or as a mapping with ``name``."""
    return str(entry.get("name", "")) if isinstance(entry, Mapping) else str(entry or "")


def setting_key(setting: Setting) -> str:
    """A setting as a text that compares equal for equal settings."""
    return json.dumps(dict(setting), sort_keys=True, default=str)


def setting_title(setting: Setting) -> str:
    """A setting as a reader says it: ``{"task.views": 8}`` is "8 views"; nothing varied is an empty text."""
    words = []
    for key, value in setting.items():
        name = key.rsplit(".", 1)[-1].replace("_", " ").replace("-", " ")
        if isinstance(value, bool):
            words.append(name if value else f"no {name}")
        elif isinstance(value, (int, float)) and name.endswith("s"):
            words.append(f"{value:g} {name if value != 1 else name[:-1]}")
        else:
            words.append(f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}")
    return ", ".join(words)


def headed(info: MetricInfo) -> str:
    """The head of a column: ``"PSNR dB"``; a cost by its unit alone, ``"s"``."""
    if info.key in COST_KEYS:
        return info.unit or info.title
    return f"{info.title} {info.unit}".strip()


def as_float(value: Any) -> float:
    """A number of a JSON file, where ``null`` is nan."""
    return float("nan") if value is None else float(value)


def digits_of(numbers: Iterable[Number | None]) -> int:
    """Digits after the point for a whole column: what its intervals support, at most one more than the widest of them does."""
    every = [number.decimals() for number in numbers if number is not None and math.isfinite(number.mean)]
    return min(max(every), min(every) + 1) if every else 0


def shown(number: Number | None, metric: str, digits: int | None = None) -> str:
    """A cell as text: ``"27.2 ±0.4"``; costs without interval; ``"–"`` where there is nothing.

    Args:
        number: the cell.
        metric: its metric.
        digits: after the point, as in the rest of its column; ``None``: what its own interval supports.
    """
    if number is None or not math.isfinite(number.mean):
        return "–"
    if metric in COST_KEYS:
        return f"{number.mean:.0f}" if number.mean >= 10 or number.mean == round(number.mean) else f"{number.mean:.2g}"
    has_interval = math.isfinite(number.half) and number.half > 0
    if 0 < abs(number.mean) < 1e-3 or abs(number.mean) >= 1e6:
        return f"{number.mean:.2e} ±{number.half:.0e}" if has_interval else f"{number.mean:.2e}"
    digits = number.decimals() if digits is None else digits
    return f"{number.mean:.{digits}f}" + (f" ±{number.half:.{digits}f}" if has_interval else "")


def records(results: Results) -> list[dict[str, Any]]:
    """Records of all jobs of a run, setting by setting, each with ``folder``, where its files lie."""
    order = {setting_key(setting): index for index, setting in enumerate(results.settings)}
    found = []
    for path in sorted(results.folder.glob(f"estimates/**/*{RECORD}")):
        try:
            record = json.loads(path.read_text())
        except ValueError:
            continue
        found.append(record | {"folder": path.parent.relative_to(results.folder).as_posix()})
    return sorted(found, key=lambda record: order.get(setting_key(record.get("setting") or {}), len(order)))


def spent(results: Results) -> tuple[float, float]:
    """Seconds that the methods of a run took, and seconds that judging their estimates took."""
    kept = records(results)
    seconds, judging = (sum(float(record.get(key) or 0) for record in kept) for key in ("seconds", "judging"))
    return seconds, judging


def duration(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.1g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
