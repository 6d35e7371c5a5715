"""The plugin host: finds plugins by their entry points, keeps broken ones apart, and turns names into objects on first use.

Every fault is a sentence in ``PluginInfo.reason``; nothing a plugin does while it is listed stops the others.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pluggy

from unstir import __version__
from unstir.errors import MissingExtra, PluginError, UnknownName, nearest
from unstir.plugin import hookspecs
from unstir.plugin.markers import API_VERSION, PROJECT
from unstir.plugin.reference import FILES, KINDS, Reference, fault

GROUP = "unstir.plugins"
CARDS = "unstir_data"

log = logging.getLogger(PROJECT)


@dataclass(frozen=True)
class PluginInfo:
    """A line of ``unstir plugins``.

    Args:
        name: name of the entry point.
        version: version of the distribution.
        distribution: name of the distribution.
        api: the API version the plugin declares, ``None`` where it could not be read.
        status: ``"ok"``; ``"faulty"``, works but for what ``reason`` says; ``"broken"``, gives nothing.
        reason: what is wrong, one sentence a fault, joined by ``"; "``; empty when ok.
        counts: how many names of each kind it registers.
    """

    name: str
    version: str
    distribution: str
    api: int | None
    status: Literal["ok", "faulty", "broken"]
    reason: str
    counts: dict[str, int]


@dataclass
class _Plugin:
    name: str
    distribution: str
    version: str
    api: int | None = None
    broken: bool = False
    faults: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))

    @property
    def origin(self) -> str:
        return f"{self.distribution} {self.version}".strip()


class _Manager(pluggy.PluginManager):
    def parse_hookimpl_opts(self, plugin: Any, name: str) -> Any:
        # pluggy reads every name in dir(plugin); a package that lists its names lazily would import all of itself
        return super().parse_hookimpl_opts(plugin, name) if name in vars(plugin) else None


class Host:
    """Plugins and everything they register; a new host has the parts of the core, ``discover`` adds what is installed.

    Example:
        >>> Host.discover().resolve("solvers", "dpm++2m")  # doctest: +SKIP
    """

    def __init__(self) -> None:
        self._manager = _Manager(PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._plugins: list[_Plugin] = []
        self._owners: dict[tuple[str, str], list[tuple[_Plugin, Reference]]] = {}
        self._quiet: set[str] = set()
        self.add("core", "unstir.plugin.builtin", distribution=PROJECT, version=__version__)

    @classmethod
    def discover(cls) -> Host:
        """Make a host of every plugin installed here: unstir's own first, then by distribution and name.

        In this order the first to claim a name keeps it on the list; whoever claims it again is reported.
        """
        host = cls()
        for point in sorted(metadata.entry_points(group=GROUP), key=lambda p: (_distribution(p) != PROJECT, _distribution(p), p.name)):
            host.add(point.name, point.value, distribution=_distribution(point), version=point.dist.version if point.dist else "")
        return host

    def add(self, name: str, module: str | ModuleType, *, distribution: str, version: str = "") -> None:
        """Add one plugin; a fault is kept for ``plugins``, not raised.

        Args:
            name: name of the plugin, as its entry point has it.
            module: the plugin's module or its dotted name.
            distribution: who brings it.
            version: version of the distribution.
        """
        plugin = _Plugin(name, distribution, version)
        twin = next((other for other in self._plugins if other.name == name), None)
        self._plugins.append(plugin)
        try:
            if twin is not None:
                raise PluginError(f"plugin name {name!r} is claimed by {twin.origin} and by {plugin.origin}: uninstall one of them")
            if isinstance(module, str):
                module = _load(module)
            plugin.api = _api(module, plugin)
            self._register(module, plugin)
        except PluginError as error:
            plugin.broken = True
            plugin.faults.append(str(error))

    def _register(self, module: ModuleType, plugin: _Plugin) -> None:
        key = f"{plugin.distribution}:{plugin.name}"
        hooks = [name for name in vars(hookspecs) if name.startswith("unstir_")]
        for name, value in vars(module).items():
            if callable(value) and name.startswith("unstir_") and not hasattr(value, f"{PROJECT}_impl"):
                plugin.faults.append(f"{module.__name__}.{name} lacks its marker: write @unstir.hookimpl above it")
            elif hasattr(value, f"{PROJECT}_impl") and name not in hooks:
                near = nearest(name, hooks, 1)
                plugin.faults.append(f"{module.__name__}.{name} is not a hook of unstir" + (f", did you mean {near[0]}?" if near else ""))
        try:
            self._manager.register(module, key)
        except (pluggy.PluginValidationError, ValueError) as error:
            if self._manager.has_plugin(key):
                self._manager.unregister(name=key)
            raise PluginError(f"its hooks do not fit: {_one_line(error)}") from error
        for kind in KINDS:
            for impl in getattr(self._manager.hook, f"unstir_{kind}").get_hookimpls():
                if impl.plugin_name == key:
                    self._list(kind, impl.function, plugin)

    def _list(self, kind: str, hook: Any, plugin: _Plugin) -> None:
        try:
            given = hook()
        except Exception as error:
            plugin.faults.append(f"unstir_{kind} raised {_one_line(error)}")
            return
        if not isinstance(given, dict):
            plugin.faults.append(f"unstir_{kind} must return a dict of references, got {type(given).__name__}")
            return
        for name, target in given.items():
            wrong = fault(kind, name, target)
            if wrong:
                plugin.faults.append(wrong)
                continue
            owners = self._owners.setdefault((kind, name), [])
            owners.append((plugin, Reference(name, target, plugin.name, plugin.distribution)))
            plugin.counts[kind] += 1
            if len(owners) > 1:
                plugin.faults.append(_clash(kind, name, [owner for owner, _ in owners]))

    def plugins(self) -> list[PluginInfo]:
        """Every plugin found, the broken ones with the reason, the core first."""
        infos = []
        for plugin in self._plugins:
            status: Literal["ok", "faulty", "broken"] = "broken" if plugin.broken else "faulty" if plugin.faults else "ok"
            reason = "; ".join(plugin.faults)
            infos.append(PluginInfo(plugin.name, plugin.version, plugin.distribution, plugin.api, status, reason, dict(plugin.counts)))
        return infos

    def require_sound(self) -> None:
        """Make every fault fatal (``--strict``).

        Raises:
            PluginError: a plugin is broken or faulty; names each with its reason.
        """
        bad = [f"plugin {plugin.name!r} ({plugin.origin}): {'; '.join(plugin.faults)}" for plugin in self._plugins if plugin.faults]
        if bad:
            raise PluginError("\n".join(bad))

    def names(self, kind: str) -> dict[str, Reference]:
        """What is registered under a kind, in the order of registration; imports nothing more.

        Args:
            kind: one of ``KINDS`` (``"tasks"``, ``"solvers"``...).

        Raises:
            UnknownName: there is no such kind.
        """
        _check_kind(kind)
        return {name: owners[0][1] for (which, name), owners in self._owners.items() if which == kind}

    def reference(self, kind: str, name: str) -> Reference:
        """What one name stands for.

        Raises:
            UnknownName: nothing of that kind has the name; lists the nearest three.
            PluginError: two plugins claim it; names both distributions.
        """
        _check_kind(kind)
        owners = self._owners.get((kind, name))
        if not owners:
            raise UnknownName(KINDS[kind], name, self.names(kind))
        if len(owners) > 1:
            raise PluginError(_clash(kind, name, [owner for owner, _ in owners]))
        return owners[0][1]

    def resolve(self, kind: str, name: str) -> Any:
        """Import what a name stands for (a path for recipes and checkpoints).

        Raises:
            UnknownName: nothing of that kind has the name.
            MissingExtra: an optional library is not installed; says what to install.
            PluginError: the reference points nowhere, or two plugins claim the name.
        """
        if kind in FILES:
            return self.path(kind, name)
        reference = self.reference(kind, name)
        module_name, _, attribute = reference.target.partition(":")
        try:
            found: Any = importlib.import_module(module_name)
            for part in attribute.split("."):
                found = _attribute(kind, reference, found, part)
        except ModuleNotFoundError as error:
            missing = error.name or ""
            if missing == module_name or module_name.startswith(f"{missing}."):
                raise PluginError(f"{_subject(kind, reference)} points at {reference.target}, but there is no module {missing!r}") from None
            translated = missing_extra(reference, error)
            if translated is None:
                raise
            raise translated from error
        return found

    def path(self, kind: str, name: str) -> Path:
        """The file of a recipe or the folder of a checkpoint.

        Raises:
            UnknownName: nothing of that kind has the name.
            PluginError: the file does not exist, or two plugins claim the name.
        """
        if kind not in FILES:
            raise PluginError(f"a {KINDS.get(kind, kind)} is not a file: resolve it instead")
        reference = self.reference(kind, name)
        package, _, relative = reference.target.partition(":")
        path = _file(package, relative)
        if path is None:
            raise PluginError(f"{_subject(kind, reference)} points at {reference.target}, but package {package!r} carries no such file")
        return path

    def card(self, name: str) -> Path:
        """The card of a registered dataset: ``cards/CARD.yaml`` in the package that holds it, else in ``unstir_data``.

        Raises:
            PluginError: there is no such file.
        """
        reference = self.reference("data", name)
        card = self.resolve("data", name).card
        own = reference.target.partition(":")[0].partition(".")[0]
        path = _file(own, f"cards/{card}.yaml") or _file(CARDS, f"cards/{card}.yaml")
        if path is None:
            raise PluginError(f"{_subject('data', reference)} has no card: write cards/{card}.yaml in package {own}")
        return path

    def call(self, event: str, **arguments: Any) -> None:
        """Tell every observer; one that fails is mentioned once and never stops a run.

        Args:
            event: ``"run_started"``, ``"case_finished"`` or ``"run_finished"``.
            **arguments: as in the hook specification.
        """
        for impl in getattr(self._manager.hook, f"unstir_{event}").get_hookimpls():
            try:
                impl.function(*(arguments[name] for name in impl.argnames))
            except Exception as error:
                if impl.plugin_name not in self._quiet:
                    self._quiet.add(impl.plugin_name)
                    log.warning("plugin %s failed to observe %s (the run goes on): %s", impl.plugin_name, event, _one_line(error))


def missing_extra(reference: Reference, error: ModuleNotFoundError) -> MissingExtra | None:
    """Say what to install when a plugin's code misses a library; ``None`` when the missing module is the plugin's own.

    Args:
        reference: what was being imported or used.
        error: what Python said.
    """
    missing = (error.name or "").partition(".")[0]
    own = {PROJECT, reference.target.partition(":")[0].partition(".")[0]}
    if not missing or missing in own or missing.startswith(f"{PROJECT}_"):
        return None
    try:
        extras = metadata.metadata(reference.distribution).get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        extras = []
    if reference.distribution == PROJECT and reference.plugin in extras:
        extra = reference.plugin
        return MissingExtra(f"{reference.name} needs the extra {extra!r}: pip install '{PROJECT}[{extra}]'")
    return MissingExtra(f"{reference.name} of {reference.distribution} needs the module {missing!r}, which is not installed")


def _file(package: str, relative: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(package)
    except ModuleNotFoundError:
        return None
    folders = spec.submodule_search_locations if spec else None
    return next((path for folder in folders or [] if (path := Path(folder) / relative).exists()), None)


def _distribution(point: metadata.EntryPoint) -> str:
    return point.dist.name if point.dist else ""


def _load(module: str) -> ModuleType:
    try:
        loaded = importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise PluginError(f"importing {module} raised {_one_line(error)}") from error
    return loaded


def _api(module: ModuleType, plugin: _Plugin) -> int:
    api = getattr(module, "UNSTIR_API", None)
    if api is None:
        raise PluginError(f"{module.__name__} does not say for which API it was written: add 'UNSTIR_API = {API_VERSION}' to it")
    if api != API_VERSION:
        newer = isinstance(api, int) and api > API_VERSION
        remedy = "upgrade unstir" if newer else f"upgrade {plugin.distribution}"
        raise PluginError(f"{plugin.origin} was written for plugin API {api!r} and this unstir has API {API_VERSION}: {remedy}")
    return API_VERSION


def _clash(kind: str, name: str, owners: list[_Plugin]) -> str:
    claims = " and by ".join(f"plugin {owner.name!r} ({owner.origin})" for owner in owners)
    return f"{KINDS[kind]} {name!r} is claimed by {claims}: uninstall one of them"


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise UnknownName("kind", kind, KINDS)


def _subject(kind: str, reference: Reference) -> str:
    return f"{KINDS[kind]} {reference.name!r} of plugin {reference.plugin!r}"


def _attribute(kind: str, reference: Reference, found: Any, part: str) -> Any:
    try:
        return getattr(found, part)
    except AttributeError as error:
        if error.name != part or error.obj is not found:  # raised further inside: a fault of the code, not of the reference
            raise
    near = nearest(part, _public(found), 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    where = getattr(found, "__name__", type(found).__name__)
    raise PluginError(f"{_subject(kind, reference)} points at {reference.target}, but {where} has no {part!r}{hint}")


def _public(found: Any) -> Iterator[str]:
    return (name for name in dir(found) if not name.startswith("_"))


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return ": ".join([type(error).__name__, *lines[:1]]).replace("; ", ", ")
