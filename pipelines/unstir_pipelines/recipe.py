"""Recipes: a short YAML file that says which methods answer which question on which data, and how they are judged.

task: {name: medical/sparse-view-ct, views: 8}
vary: {task.views: [8, 20]}
data: {name: medical/lung1}
defaults: {grid: "karras:20"}          # for every method that has the option
methods:
  fbp: {name: medical/fbp}
  dds: {name: medical/dds, checkpoint: medical/ct-prior}
metrics: [medical/psnr]
seed: 0
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from unstir import registry
from unstir.errors import DataError, RecipeError, UnknownName, nearest
from unstir_pipelines import document as documents
from unstir_pipelines import options
from unstir_pipelines.document import Document
from unstir_pipelines.settings import Setting, expand, put

METHOD_KEYS = ("name", "title", "checkpoint")
"""Keys of a method's entry that are the runner's; the others are options of the method."""

OWN_DATA = ("files", "datasets")
"""In place of a dataset's name: files that the task reads, or netCDF files in the variables and units of its truth."""

Seed = Annotated[int, Field(ge=0, strict=True)]
Entry = dict[str, Any]


class Schema(BaseModel):
    """The top level of a recipe."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    name: str = ""
    title: str = ""
    description: str = ""
    task: Entry | None = None
    data: Entry | None = None
    vary: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(default_factory=dict)
    defaults: Entry = Field(default_factory=dict)
    methods: dict[str, Entry] = Field(default_factory=dict)
    metrics: list[str | Entry] | None = None
    figures: list[str | Entry] | None = None
    seed: Seed | Annotated[list[Seed], Field(min_length=1)] = 0
    cases: Annotated[int, Field(ge=1, strict=True)] | Annotated[list[str], Field(min_length=1)] | None = None
    train: Entry | None = None


@dataclass(frozen=True)
class Datasets:
    """Ground truth as netCDF files, already in the variables and units of the task's truth."""

    files: tuple[Path, ...]
    card: str = ""

    def load(self) -> Iterable[Any]:
        """Yield the items; the file's stem is the key where the file names none."""
        from unstir_pipelines.store import read_dataset

        for path in self.files:
            if not path.exists():
                raise DataError(f"{path} does not exist")
            item = read_dataset(path)
            item.attrs.setdefault("key", path.stem)
            yield item


@dataclass
class Assembly:
    """The objects of a recipe under one setting."""

    task: Any
    dataset: Any
    files: list[Path]
    methods: dict[str, Any]
    checkpoints: dict[str, Any]
    metrics: list[Any]
    figures: list[Any]
    entries: dict[str, Any]
    reading: dict[str, Any]


@dataclass
class Recipe:
    """A recipe with every override applied.

    Args:
        document: where everything was said.
        schema: the top level, validated.
        chosen: labels of the methods to run, in the recipe's order; ``None`` for all.
    """

    document: Document
    schema: Schema
    chosen: list[str] | None = None

    @property
    def name(self) -> str:
        """Registered name, or the file's stem."""
        if self.schema.name:
            return self.schema.name
        return self.document.path.stem if self.document.path and self.document.name == str(self.document.path) else self.document.name

    @property
    def title(self) -> str:
        """The title, else the name."""
        return self.schema.title or self.name

    @cached_property
    def settings(self) -> list[Setting]:
        """Every combination of the varied keys."""
        return expand(self.schema.vary)

    @property
    def seeds(self) -> list[int]:
        """The seeds, one job each."""
        return [self.schema.seed] if isinstance(self.schema.seed, int) else list(self.schema.seed)

    @cached_property
    def labels(self) -> list[str]:
        """Labels of the methods that run, in the recipe's order."""
        return list(self.assemble({}).methods if not self.schema.vary else self.assemble(self.settings[0]).methods)

    def assemble(self, setting: Mapping[str, Any]) -> Assembly:
        """Make the objects under one setting; every option is checked.

        Raises:
            RecipeError: a name, an option or a value is wrong; says file, line, key and the nearest right one.
        """
        content, document = copy.deepcopy(self.document.content), self.document
        if setting:
            said = {key: document.where(f"vary.{key}") for key in setting} | document.said
            document = Document(document.name, document.path, content, document.lines, said)
            for key, value in setting.items():
                self._check_varied(key)
                put(content, key, copy.deepcopy(value))
        entries = _validated(content, document)
        if entries.task is None or not entries.methods:
            missing = "task" if entries.task is None else "methods"
            raise RecipeError(f"recipe {document.name} has no {missing!r}, so there is nothing to run ({document.where('')})")
        task = options.build("tasks", document, "task", entries.task)
        dataset, files, reading = _data(entries.data, document, task)
        methods, spelled = _methods(entries, document, self.chosen)
        checkpoints = {label: entry["checkpoint"] for label, entry in spelled.items() if entry.get("checkpoint")}
        metrics, metric_entries = _parts("metrics", entries.metrics, getattr(task, "metrics", ()), document)
        figures, figure_entries = _parts("figures", entries.figures, getattr(task, "figures", ()), document)
        spelled_data = (
            dict(entries.data or {}) if dataset is None or isinstance(dataset, Datasets) else options.written(dataset, entries.data or {})
        )
        written = {
            "task": options.written(task, entries.task),
            "data": spelled_data,
            "methods": spelled,
            "metrics": metric_entries,
            "figures": figure_entries,
        }
        return Assembly(task, dataset, files, methods, checkpoints, metrics, figures, written, reading)

    def _check_varied(self, key: str) -> None:
        top = key.partition(".")[0]
        if "." not in key or top not in ("task", "data", "methods", "metrics"):
            place = self.document.where(f"vary.{key}")
            raise RecipeError(f"vary: {key!r} cannot vary; name an option of the task, the data or a method, as 'task.views' ({place})")
        parts = key.split(".")
        if top == "methods" and parts[1] not in self.schema.methods:
            raise options.unknown_key(self.document, f"methods.{parts[1]}", self.schema.methods)

    @cached_property
    def resolved(self) -> dict[str, Any]:
        """The whole recipe with every option spelled out, as ``recipe.yaml`` of a run folder holds it."""
        first = self.assemble(self.settings[0])
        for setting in self.settings[1:]:
            self.assemble(setting)
        whole: dict[str, Any] = {"name": self.name, "title": self.title}
        if self.schema.description:
            whole["description"] = self.schema.description
        whole |= copy.deepcopy(first.entries)
        if self.schema.vary:
            whole["vary"] = copy.deepcopy(self.schema.vary)
        whole["seed"] = self.schema.seed
        if self.schema.cases is not None:
            whole["cases"] = self.schema.cases
        return whole

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Recipe:
        """A recipe of plain content, as ``resolved`` gives it."""
        plain = copy.deepcopy(dict(content))
        document = Document(str(plain.get("name") or "recipe"), None, plain)
        return cls(document, _validated(plain, document))


def prepare(
    source: str | Path,
    *,
    sets: Sequence[str] | Mapping[str, Any] = (),
    methods: Sequence[str] | None = None,
    cases: int | Sequence[str] | None = None,
    data: Sequence[str | Path] | Mapping[str, Any] | None = None,
    seed: int | None = None,
) -> Recipe:
    """Find a recipe, apply what the command line says, and check all of it.

    Args:
        source: registered name or path of a YAML file.
        sets: overrides ``"task.views=8"`` (values are YAML), or a dict of dotted keys.
        methods: labels to run; what they need is added.
        cases: the first so many, or their keys.
        data: the user's own files, the name of one registered dataset, or a recipe's ``data`` entry.
        seed: in place of the recipe's.

    Raises:
        RecipeError: anything in it is wrong.
        UnknownName: no recipe of that name.
    """
    document = find(source)
    for key, value, said in _overrides(sets):
        _override(document, key, value, said)
    if seed is not None:
        _override(document, "seed", seed, f"--seed {seed}")
    if cases is not None:
        count = cases if isinstance(cases, int) else None
        if count is not None and count < 1:
            raise RecipeError(f"--cases must be at least 1, got {count}")
        _override(document, "cases", count if count is not None else [str(key) for key in cases], "--cases")  # type: ignore[union-attr]
    if data:
        own = dict(data) if isinstance(data, Mapping) else _own_data([str(path) for path in data])
        named = dict.fromkeys(key.split(".")[1] for key in document.said if key.startswith("data."))
        _override(document, "data", own | {name: document.content["data"][name] for name in named}, "--data")
    recipe = Recipe(document, _validated(document.content, document))
    if methods is not None:
        if not methods:
            raise RecipeError(f"--methods needs at least one of {', '.join(recipe.schema.methods)}")
        for label in methods:
            if label not in recipe.schema.methods:
                near = nearest(label, recipe.schema.methods, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(recipe.schema.methods)}"
                raise RecipeError(f"recipe {document.name} has no method {label!r}; {hint} (unstir show {document.name} lists all)")
        recipe.chosen = [label for label in recipe.schema.methods if label in methods]
    return recipe


def find(source: str | Path) -> Document:
    """Read a recipe by registered name or by path.

    Raises:
        RecipeError: the file is missing or not a recipe.
        UnknownName: nothing has that name; lists the nearest.
    """
    path = Path(source)
    if isinstance(source, Path) or path.suffix in (".yaml", ".yml") or path.is_file():
        return documents.read(path)
    if path.is_dir() and (path / "recipe.yaml").is_file():
        return documents.read(path / "recipe.yaml")
    name = str(source)
    try:
        return documents.read(registry.path("recipes", name), name)
    except UnknownName as error:
        domain = name.partition("/")[0]
        if error.nearest or "/" not in name or any(plugin.name == domain for plugin in registry.plugins()):
            raise
        raise RecipeError(f"there is no recipe {name!r}: no plugin {domain!r} is installed (unstir plugins lists those that are)") from None


def _overrides(sets: Sequence[str] | Mapping[str, Any]) -> Iterable[tuple[str, Any, str]]:
    if isinstance(sets, Mapping):
        for key, value in sets.items():
            yield key, copy.deepcopy(value), f"--set {key}={options.shown(value)}"
        return
    for text in sets:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise RecipeError(f"--set needs KEY=VALUE, as --set task.views=8, got {text!r}")
        yield key.strip(), documents.scalar(value), f"--set {text}"


def _override(document: Document, key: str, value: Any, said: str) -> None:
    content = document.content
    top, _, rest = key.partition(".")
    if top not in Schema.model_fields:
        known = [
            *Schema.model_fields,
            *(f"{name}.{inner}" for name, part in content.items() if isinstance(part, Mapping) for inner in part),
        ]
        raise _no_key(document, key, known)
    vary = content.get("vary")
    if top == "vary" and rest:
        content["vary"] = {**(vary or {}), rest: value if isinstance(value, list) else [value]}
        document.said[f"vary.{rest}"] = said
        return
    if isinstance(vary, dict) and key in vary:
        del vary[key]
    if top == "methods" and rest:
        label = rest.partition(".")[0]
        methods = content.get("methods") or {}
        if label not in methods and "." in rest:
            raise _no_key(document, f"methods.{label}", [f"methods.{known}" for known in methods])
    for entry in ("metrics", "figures"):
        if top == entry and rest and not isinstance(content.get(entry), list):
            raise _no_key(document, key, [entry])
    put(content, key, value)
    document.said[key] = said


def _no_key(document: Document, key: str, known: Sequence[str]) -> RecipeError:
    near = nearest(key, known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return RecipeError(f"recipe {document.name} has no key {key!r}{hint} (unstir show {document.name} lists all)")


def _own_data(files: list[str]) -> Entry:
    if len(files) == 1 and not Path(files[0]).exists() and files[0] in registry.names("data"):
        return {"name": files[0]}
    for file in files:
        if not Path(file).exists() and Path(file).suffix == "" and file.count("/") == 1:
            _refuse_dataset(file)
    return {"files": [str(Path(file).expanduser().resolve()) for file in files]}


def _refuse_dataset(name: str) -> None:
    """Raise where a missing file has the shape of a dataset's name, in a domain that has datasets."""
    datasets = registry.names("data")
    if name in datasets:
        raise RecipeError(f"--data takes files or one registered dataset: give {name} alone")
    near = nearest(name, [other for other in datasets if other.partition("/")[0] == name.partition("/")[0]], 1)
    if near:
        raise RecipeError(f"{Path(name).resolve()} does not exist, and there is no dataset {name!r}; did you mean {near[0]!r}? (--data)")


def _validated(content: dict[str, Any], document: Document) -> Schema:
    try:
        return Schema.model_validate(content)
    except ValidationError as error:
        fault = error.errors()[0]
        place = [str(part) for part in fault["loc"]]
        if fault["type"] == "extra_forbidden":
            raise options.unknown_key(document, place[0], list(Schema.model_fields)) from None
        key = ".".join([place[0], *(part for part in place[1:] if part in _keys(content.get(place[0])))])
        value = content.get(place[0])
        if place[0] in ("methods", "task", "data", "train", "defaults") and not isinstance(fault["input"], Mapping):
            text = f"{key} must be a mapping, as {{name: medical/fbp}}, got {options.shown(fault['input'])}"
        elif place[0] == "cases":
            least = isinstance(value, int) and not isinstance(value, bool)
            text = (
                f"cases must be at least 1, got {value}"
                if least
                else f"cases must be a number from 1 or a list of keys, got {options.shown(value)}"
            )
        elif place[0] == "seed":
            text = f"seed must be a whole number from 0, or a list of such, got {options.shown(value)}"
        elif place[0] == "vary":
            text = f"{key} must be a list of at least one value, got {options.shown(fault['input'])}"
        elif place[0] in ("metrics", "figures"):
            text = f"{key} must be a list of registered names, got {options.shown(value)}"
        else:
            text = f"{key} {options.complaint(fault, value)}"
        raise RecipeError(f"{text} ({document.where(key)})") from None


def _keys(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [str(key) for key in value]
    return [str(index) for index in range(len(value))] if isinstance(value, list) else []


def _data(entry: Entry | None, document: Document, task: Any) -> tuple[Any, list[Path], dict[str, Any]]:
    """The dataset, or the user's files and the options that the task reads them with."""
    if entry is None:
        raise RecipeError(f"recipe {document.name} has no 'data'; add it, or give your own files with --data FILE ({document.where('')})")
    own = next((key for key in OWN_DATA if key in entry), None)
    if own is None:
        return options.build("data", document, "data", entry), [], {}
    known = options.signature_options(task.read) if own == "files" else {}
    for first in list(known)[:1]:  # the path
        del known[first]
    reading = {}
    for name in (name for name in entry if name != own):
        if name not in known:
            raise options.unknown_key(document, f"data.{name}", [own, *known])
        reading[name] = _option(known[name], entry[name], f"data.{name}", document)
    files = entry[own]
    if not isinstance(files, list) or not files or not all(isinstance(file, str) for file in files):
        raise RecipeError(f"data.{own} must be a list of paths, got {options.shown(files)} ({document.where(f'data.{own}')})")
    if own == "files":
        return None, [Path(file) for file in files], reading
    return Datasets(tuple(Path(file) for file in files)), [], {}


def _option(option: options.Option, value: Any, key: str, document: Document) -> Any:
    try:
        return options.checked(option, value)
    except ValueError as error:
        raise RecipeError(f"{option.name} {error} ({document.where(key)})") from None


def _methods(entries: Schema, document: Document, chosen: list[str] | None) -> tuple[dict[str, Any], dict[str, Entry]]:
    """Build the chosen methods and what they need; defaults go to every method that has the option."""
    made: dict[str, Any] = {}
    spelled: dict[str, Entry] = {}
    used: set[str] = set()
    waiting = list(entries.methods if chosen is None else chosen)
    while waiting:
        label = waiting.pop(0)
        if label in made:
            continue
        if "/" in label or not label.strip():
            raise RecipeError(f"method label {label!r} must be a plain word, as 'fbp' ({document.where(f'methods.{label}')})")
        key = f"methods.{label}"
        entry = entries.methods[label]
        target = options.resolve("methods", document, f"{key}.name", entry.get("name"))
        takes_prior = bool(getattr(target, "uses_prior", False))
        reserved = ("title", "checkpoint") if takes_prior else ("title",)
        known = {*options.options_of(target), *reserved}
        inherited = {name: value for name, value in entries.defaults.items() if name in known}
        used |= set(inherited)
        entry = {**inherited, **entry}
        method = options.build("methods", document, key, entry, reserved=reserved, target=target)
        if getattr(method, "uses_prior", False) and not entry.get("checkpoint"):
            raise RecipeError(f"method {label!r} needs a checkpoint: add 'checkpoint: NAME' or a folder ({document.where(key)})")
        made[label] = method
        spelled[label] = options.written(method, entry, reserved)
        if "checkpoint" in spelled[label]:
            spelled[label]["checkpoint"] = _checkpoint(spelled[label]["checkpoint"], document, key)
        for need in getattr(method, "needs", ()):
            if need == label:
                raise RecipeError(f"method {label!r} cannot start from itself ({document.where(key)})")
            if need not in entries.methods:
                near = nearest(need, entries.methods, 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise RecipeError(
                    f"method {label!r} starts from {need!r}, which is not a method of this recipe{hint} ({document.where(key)})"
                )
            waiting.append(need)
    if chosen is None:
        idle = [name for name in entries.defaults if name not in used]
        if idle:
            near = nearest(idle[0], {name for method in made.values() for name in options.options_of(type(method))}, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise RecipeError(f"no method has the option 'defaults.{idle[0]}'{hint} ({document.where(f'defaults.{idle[0]}')})")
    order = [label for label in entries.methods if label in made]
    _check_order(made, document)
    return {label: made[label] for label in order}, {label: spelled[label] for label in order}


def _checkpoint(given: Any, document: Document, key: str) -> str | None:
    """A registered name as it is, a folder by its absolute path: a worker may stand elsewhere."""
    if given is not None and not isinstance(given, str):
        place = document.where(f"{key}.checkpoint")
        raise RecipeError(f"checkpoint must be a registered name or a folder, got {options.shown(given)} ({place})")
    is_folder = given is not None and given not in registry.names("checkpoints") and Path(given).expanduser().is_dir()
    return str(Path(given).expanduser().resolve()) if given is not None and is_folder else given


def _check_order(methods: Mapping[str, Any], document: Document) -> None:
    ready: set[str] = set()
    waiting = list(methods)
    while waiting:
        now = [label for label in waiting if set(getattr(methods[label], "needs", ())) <= ready]
        if not now:
            ring = " and ".join(repr(label) for label in waiting)
            raise RecipeError(f"methods {ring} start from each other ({document.where(f'methods.{waiting[0]}')})")
        ready |= set(now)
        waiting = [label for label in waiting if label not in ready]


def _parts(kind: str, given: Sequence[str | Entry] | None, otherwise: Sequence[str], document: Document) -> tuple[list[Any], list[Any]]:
    things, spelled = [], []
    for index, item in enumerate(otherwise if given is None else given):
        entry = {"name": item} if isinstance(item, str) else item
        thing = options.build(kind, document, f"{kind}.{index}", entry)
        things.append(thing)
        whole = options.written(thing, entry)
        spelled.append(whole if len(whole) > 1 else whole["name"])
    return things, spelled
