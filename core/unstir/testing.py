"""The contract test of a plugin: every name it registers resolves, keeps its protocol, and runs on small data.

def test_the_plugin_keeps_the_contract():
    unstir.testing.check_plugin("seismic")
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from unstir.errors import UnstirError
from unstir.plugin.compare import is_finite, same
from unstir.plugin.host import GROUP, Host
from unstir.plugin.protocols import (
    Apply,
    Case,
    Dataset,
    Drawn,
    Estimate,
    Figure,
    ForwardModel,
    Method,
    Metric,
    MetricInfo,
    RunView,
    Score,
    SetMetric,
    Task,
    Training,
)
from unstir.plugin.reference import KINDS, Reference

_KEY = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_CASE_KEY = re.compile(r"[a-z0-9][a-z0-9._-]*")
_PROTOCOLS: dict[str, tuple[type, ...]] = {
    "data": (Dataset,),
    "forward_models": (ForwardModel,),
    "tasks": (Task,),
    "methods": (Method, Training),
    "metrics": (Metric, SetMetric),
    "figures": (Figure,),
    "apply": (Apply,),
}
_PARAMETERS = {
    "forward_models": ("truth", "seed"),
    "methods": ("case", "prior", "seed", "progress"),
    "apply": ("files", "out", "device", "progress"),
}
_PARTS = {
    "processes": ("unstir.process", "Process"),
    "solvers": ("unstir.solver", "Solver"),
    "guides": ("unstir.guide", "Guide"),
    "steers": ("unstir.steer", "Steer"),
    "operators": ("unstir.operator.base", "Sensor"),
    "networks": ("torch.nn", "Module"),
}
_CARD = ("title", "what", "units", "licence", "citation", "split")
_LISTING = """
import sys, unstir.plugin.markers
before = set(sys.modules)
import {module}
print(*sorted({{name.partition(".")[0] for name in set(sys.modules) - before}}))
"""


class ContractError(UnstirError, AssertionError):
    """A plugin breaks the contract; ``faults`` has one sentence each."""

    def __init__(self, plugin: str, faults: list[str]) -> None:
        self.faults = faults
        super().__init__(f"plugin {plugin!r} breaks the contract:\n" + "\n".join(f"- {fault}" for fault in faults))


def check_plugin(plugin: str | ModuleType, *, run: bool = True) -> list[str]:
    """Check all that a plugin registers, and run its recipes that use a dataset marked ``tiny = True``.

    Checked: importing the plugin imports no library; every reference resolves; classes are dataclasses whose options all have defaults
    and keep the protocol of their kind; every dataset has a card (one with ``card = ""`` reads the user's own files); recipes are YAML
    and name what is registered. Run: the cases of a task are the same twice; each method answers without the truth, finitely, and the
    same twice under one seed; metrics give what they describe; exports write what they say; figures draw.

    Args:
        plugin: name of an installed plugin (``"medical"``), or a plugin module.
        run: are recipes on tiny datasets run? Without, only the static part is checked.

    Returns:
        Names of the recipes that were run.

    Raises:
        ContractError: the plugin breaks the contract; lists every fault, one sentence each.
    """
    host, name, module = _find(plugin)
    check = _Check(host, name)
    info = next(info for info in reversed(host.plugins()) if info.name == name)
    if info.reason:
        check.faults.append(info.reason)
    check.listing(module)
    for kind in KINDS:
        for reference in check.own(kind):
            with check.fault(f"{KINDS[kind]} {reference.name!r}"):
                check.reference(kind, reference)
    ran = []
    if run and not check.faults:
        for reference in check.own("recipes"):
            recipe = _yaml(host.path("recipes", reference.name))
            if check.is_tiny(recipe):
                ran.append(reference.name)
                with check.fault(f"recipe {reference.name!r}"):
                    check.run(recipe, f"recipe {reference.name!r}")
        if check.own("tasks") and check.own("methods") and not ran:
            check.faults.append("no recipe could be run: mark a dataset that loads in seconds with 'tiny = True' and use it in a recipe")
    if check.faults:
        raise ContractError(name, check.faults)
    return ran


def _find(plugin: str | ModuleType) -> tuple[Host, str, str]:
    host = Host.discover()
    points = {point.name: point.value for point in metadata.entry_points(group=GROUP)} | {"core": "unstir.plugin.builtin"}
    if isinstance(plugin, str):
        if plugin not in points:
            raise ContractError(plugin, [f"no installed distribution has it as an entry point of {GROUP!r}; there are {', '.join(points)}"])
        return host, plugin, points[plugin]
    for name, module in points.items():
        if module == plugin.__name__:
            return host, name, module
    host.add(plugin.__name__, plugin, distribution=plugin.__name__.partition(".")[0])
    return host, plugin.__name__, plugin.__name__


class _Check:
    def __init__(self, host: Host, plugin: str) -> None:
        self.host, self.plugin, self.faults = host, plugin, list[str]()

    @contextlib.contextmanager
    def fault(self, subject: str) -> Iterator[None]:
        try:
            yield
        except _Fault as error:
            self.faults.append(f"{subject} {error}")
        except Exception as error:
            said = str(error).strip().splitlines()[:1]
            self.faults.append(f"{subject} raised {': '.join([type(error).__name__, *said])}{_where(error)}")

    def own(self, kind: str) -> list[Reference]:
        return [reference for reference in self.host.names(kind).values() if reference.plugin == self.plugin]

    def listing(self, module: str) -> None:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
        command = [sys.executable, "-c", _LISTING.format(module=module)]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        allowed = sys.stdlib_module_names | {"unstir", "pluggy", module.partition(".")[0]}
        heavy = [name for name in run.stdout.split() if name not in allowed and not name.startswith(("unstir_", "_"))]
        if heavy:
            self.faults.append(f"importing {module} imports {', '.join(heavy)}: import it inside the module that uses it")

    def reference(self, kind: str, reference: Reference) -> None:
        found = self.host.resolve(kind, reference.name)
        if kind == "recipes":
            return self.recipe(_yaml(found), found)
        if kind == "checkpoints":
            return _require((found / "model.safetensors").is_file() and (found / "CARD.md").is_file(), "lacks model.safetensors or CARD.md")
        if kind in _PARTS:
            return _check_part(kind, found)
        if kind not in ("apply", "forward_models"):
            _require(inspect.isclass(found) and dataclasses.is_dataclass(found), "must be a dataclass: its fields are a recipe's options")
        noun = _construct(found) if inspect.isclass(found) else found
        _require(isinstance(noun, _PROTOCOLS[kind]), _lacks(noun, _PROTOCOLS[kind][0]))
        if kind in _PARAMETERS and not isinstance(noun, Training):
            _check_parameters(noun, _PARAMETERS[kind])
        if kind == "data" and noun.card:  # a reader of the user's own files has none
            card = _yaml(self.host.card(reference.name))
            missing = [key for key in _CARD if not (isinstance(card, dict) and card.get(key))]
            _require(not missing, f"has a card that does not say {', '.join(missing)}")
        if kind == "metrics":
            _check_description(noun.describe())
        if kind == "tasks":
            self.names("metrics", noun.metrics)
            self.names("figures", noun.figures)

    def names(self, kind: str, names: Iterable[str]) -> None:
        for name in names:
            self.host.reference(kind, name)

    def recipe(self, recipe: Any, path: Path) -> None:
        _require(isinstance(recipe, dict) and isinstance(recipe.get("title"), str), f"must be a mapping with a title ({path.name})")
        for key, kind in (("task", "tasks"), ("data", "data"), ("train", "methods")):
            if key in recipe:
                self.options(kind, recipe[key])
        for label, options in self.methods(recipe).items():
            _require(bool(_KEY.fullmatch(str(label))), f"has the method label {label!r}: write lower-case with hyphens")
            self.options("methods", options)
        self.names("metrics", [_named(metric)[0] for metric in recipe.get("metrics") or []])
        self.names("figures", [_named(figure)[0] for figure in recipe.get("figures") or []])

    def methods(self, recipe: Mapping[str, Any]) -> dict[str, Any]:
        entries = {}
        for label, given in (recipe.get("methods") or {}).items():
            name, options = _named(given)
            inherited = {key: value for key, value in (recipe.get("defaults") or {}).items() if key in self.known(name)}
            entries[str(label)] = inherited | {"name": name} | options
        return entries

    def known(self, method: str) -> set[str]:
        found = self.host.resolve("methods", method)
        own = {field.name for field in dataclasses.fields(found) if field.init}
        return own | ({"title", "checkpoint"} if getattr(found, "uses_prior", False) else {"title"})

    def options(self, kind: str, given: Any) -> Any:
        name, options = _named(given)
        found = self.host.resolve(kind, name)
        fields = {field.name for field in dataclasses.fields(found) if field.init}
        unknown = [key for key in options if key not in (self.known(name) if kind == "methods" else fields)]
        _require(not unknown, f"gives {KINDS[kind]} {name!r} the option {unknown[:1]}, which it does not have")
        made = found(**{key: value for key, value in options.items() if key in fields})
        if kind == "methods" and getattr(made, "uses_prior", False):
            checkpoint = options.get("checkpoint")
            _require(isinstance(checkpoint, str), f"gives method {name!r} no checkpoint")
            if not Path(str(checkpoint)).is_dir():
                self.host.path("checkpoints", str(checkpoint))
        return made

    def is_tiny(self, recipe: Mapping[str, Any]) -> bool:
        if not {"task", "data", "methods"} <= set(recipe):
            return False
        return getattr(self.host.resolve("data", _named(recipe["data"])[0]), "tiny", False) is True

    def run(self, recipe: Mapping[str, Any], subject: str) -> None:
        task, dataset = self.options("tasks", recipe["task"]), self.options("data", recipe["data"])
        cases, again = list(task.cases(dataset.load())), list(task.cases(dataset.load()))
        _require(bool(cases), "has no case")
        keys = [case.key for case in cases]
        allowed = len(set(keys)) == len(keys) and all(_CASE_KEY.fullmatch(key) for key in keys)
        _require(allowed, f"has case keys that are not distinct or not allowed: {keys}")
        case = cases[0]
        _require(same(case.measurement, again[0].measurement), f"gives case {case.key!r} another measurement each time")
        _require(all(value is not case.truth for value in case.context.values()), f"leaks the truth of case {case.key!r} into its context")
        estimates: dict[str, Estimate] = {}
        waiting = self.methods(recipe)
        while waiting:
            ready = [label for label in waiting if set(self.options("methods", waiting[label]).needs) <= set(estimates)]
            _require(bool(ready), f"has methods that wait for each other or for none of the recipe: {', '.join(waiting)}")
            for label in ready:
                options = waiting.pop(label)
                with self.fault(f"{subject}, method {label!r}"):
                    estimates[label] = self.answer(options, case, estimates)
                if label not in estimates:
                    return
        metrics = [_named(metric)[0] for metric in recipe.get("metrics") or task.metrics]
        view = _View(recipe, case, estimates)
        for label, estimate in estimates.items():
            for metric in metrics:
                with self.fault(f"{subject}, metric {metric!r} of {label!r}"):
                    view.scores += [(label, *score) for score in self.score(metric, estimate, case)]
            with self.fault(f"{subject}, export of {label!r}"), tempfile.TemporaryDirectory() as folder:
                written = task.export(estimate, case, Path(folder) / case.key)
                _require(all(Path(path).is_file() for path in written), f"says it wrote {written}, which is not there")
        for name in [_named(figure)[0] for figure in recipe.get("figures") or task.figures]:
            with self.fault(f"{subject}, figure {name!r}"):
                self.picture(_construct(self.host.resolve("figures", name)), view)

    def answer(self, given: Any, case: Case, estimates: Mapping[str, Estimate]) -> Estimate:
        method = self.options("methods", given)
        prior = None
        if method.uses_prior:
            from unstir.checkpoint import load

            prior = load(_named(given)[1]["checkpoint"])
        handed = {label: estimates[label] for label in method.needs}
        seen = dataclasses.replace(case, truth=None, context={**case.context, "estimates": handed, "device": "cpu"})
        ticks: list[tuple[int, int]] = []
        estimate = method(seen, prior, 0, progress=lambda done, total: ticks.append((done, total)))
        _require(isinstance(estimate, Estimate), f"must return an Estimate, got {type(estimate).__name__}")
        _require(is_finite(estimate.data), "has values that are not finite")
        _require(isinstance(estimate.nfe, int) and estimate.nfe >= 0, f"must count its evaluations in an int, got nfe={estimate.nfe!r}")
        _require(all(0 <= done <= total for done, total in ticks), "reports progress beyond its total")
        json.dumps(estimate.info)
        _require(same(method(seen, prior, 0).data, estimate.data), "answers differently a second time under the same seed")
        return estimate

    def picture(self, figure: Figure, view: RunView) -> None:
        drawn = list(figure.draw(view))
        _require(all(isinstance(one, Drawn) for one in drawn), "must yield Drawn")
        names = [one.name for one in drawn]
        _require(len(set(names)) == len(names) and all(_CASE_KEY.fullmatch(name) for name in names), f"draws pictures of the names {names}")
        for one in drawn:
            _require(bool(one.title and one.caption), f"draws {one.name!r} without a title or a caption")
            one.figure.savefig(io.BytesIO(), format="png", dpi=20)

    def score(self, name: str, estimate: Estimate, case: Case) -> list[tuple[str, float, str]]:
        metric = _construct(self.host.resolve("metrics", name))
        scores = metric(estimate, case) if isinstance(metric, Metric) else metric.over([(estimate, case)] * 2)
        described = {info.key: info.unit for info in metric.describe()}
        _require(set(scores) <= set(described), f"gives {sorted(set(scores) - set(described))}, which it does not describe")
        for key, score in scores.items():
            fits = isinstance(score, Score) and isinstance(score.value, float)
            _require(fits, f"must give a Score with a float for {key!r}, got {score!r}")
        return [(key, score.value, described[key]) for key, score in scores.items()]


class _View:
    """A run of one case, in memory: what figures see."""

    def __init__(self, recipe: Mapping[str, Any], case: Case, estimates: Mapping[str, Estimate]) -> None:
        self.folder, self.recipe = Path(), SimpleNamespace(title=recipe["title"])
        self.labels, self.settings = list(estimates), list[dict[str, Any]]([{}])
        self.scores: list[tuple[str, str, float, str]] = []
        self._case, self._estimates = case, estimates

    @property
    def rows(self) -> Any:
        import pandas as pd

        rows = [(label, self._case.key, 0, {}, *score) for label, *score in self.scores]
        return pd.DataFrame(rows, columns=["method", "case", "seed", "setting", "metric", "value", "unit"])

    def cases(self) -> list[str]:
        return [self._case.key]

    def case(self, key: str, setting: Mapping[str, Any]) -> Case:
        return self._case

    def estimate(self, label: str, case_key: str, setting: Mapping[str, Any]) -> Estimate | None:
        return self._estimates.get(label)


class _Fault(Exception):
    pass


def _require(holds: bool, fault: str) -> None:
    if not holds:
        raise _Fault(fault)


def _where(error: BaseException) -> str:
    trace = error.__traceback__
    if isinstance(error, UnstirError) or trace is None:
        return ""
    while trace.tb_next is not None:
        trace = trace.tb_next
    file = trace.tb_frame.f_code.co_filename
    return "" if file.startswith("<") else f" ({Path(file).name}:{trace.tb_lineno})"


def _named(given: Any) -> tuple[str, dict[str, Any]]:
    if isinstance(given, str):
        return given, {}
    _require(isinstance(given, Mapping) and isinstance(given.get("name"), str), f"must give a name, got {given!r}")
    options = dict(given)
    return options.pop("name"), options


def _yaml(path: Path) -> Any:
    from ruamel.yaml import YAML

    return YAML(typ="safe").load(path)


def _construct(found: Callable[..., Any]) -> Any:
    try:
        inspect.signature(found).bind()
    except TypeError as error:
        raise _Fault(f"must have a default for every option: {error}") from error
    return found()


def _lacks(noun: Any, protocol: type) -> str:
    wanted = [name for name in (*protocol.__annotations__, *vars(protocol)) if name == "__call__" or not name.startswith("_")]
    return f"lacks {', '.join(name for name in wanted if not hasattr(noun, name))} of {protocol.__name__}"


def _check_parameters(noun: Any, wanted: tuple[str, ...]) -> None:
    parameters = inspect.signature(noun).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        missing = [name for name in wanted if name not in parameters]
        _require(not missing, f"must take {', '.join(wanted)}; {', '.join(missing)} is missing")


def _check_description(described: Any) -> None:
    _require(isinstance(described, list) and bool(described), "must describe at least one number")
    for info in described:
        _require(isinstance(info, MetricInfo), f"must describe its numbers by MetricInfo, got {type(info).__name__}")
        _require(bool(_KEY.fullmatch(info.key)), f"has the key {info.key!r}: write lower-case with hyphens, without the domain")
        allowed = ("up", "down", "neither")
        _require(info.better in allowed, f"must say 'up', 'down' or 'neither' for what is better in {info.key!r}, got {info.better!r}")
        _require(bool(info.title and info.definition), f"must give {info.key!r} a title and a definition")


def _check_part(kind: str, found: Any) -> None:
    module, name = _PARTS[kind]
    base = getattr(__import__(module, fromlist=[name]), name)
    fits = issubclass(found, base) if inspect.isclass(found) else isinstance(found, base) or callable(found)
    _require(fits, f"must be a {name}, or a function that makes one, got {found!r}")
