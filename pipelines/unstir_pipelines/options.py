"""From a recipe's entry ``{name: medical/fbp, filter: hann}`` to the object: every option known, of the right type, in range.

Options are the fields of the dataclass that the name stands for (or the parameters of its constructor).
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import re
import sys
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from unstir import registry
from unstir.errors import MissingExtra, RecipeError, UnknownName, UnstirError, UserError, nearest
from unstir_pipelines.document import Document

_MISSING = object()


class UsageError(UserError):
    """A command was given something that it does not take."""


@dataclasses.dataclass(frozen=True)
class Option:
    """One option of a registered class.

    Args:
        name: as written in the recipe.
        kind: its type.
        default: its default; ``Option.required`` tells whether there is one.
        required: must a recipe give it?
    """

    name: str
    kind: Any
    default: Any
    required: bool


def options_of(target: Any) -> dict[str, Option]:
    """The options a class takes, in order."""
    hints = _hints(target if inspect.isclass(target) else type(target))
    if dataclasses.is_dataclass(target):
        found = {}
        for item in dataclasses.fields(target):
            if not item.init:
                continue
            default = item.default
            if item.default_factory is not dataclasses.MISSING:
                default = item.default_factory()
            needed = default is dataclasses.MISSING
            found[item.name] = Option(item.name, hints.get(item.name, Any), None if needed else default, needed)
        return found
    return signature_options(target)


def signature_options(target: Callable[..., Any], skip: Iterable[str] = ()) -> dict[str, Option]:
    """The options a callable takes by name, in order; ``skip`` leaves some out."""
    try:
        parameters = inspect.signature(target).parameters.values()
    except (TypeError, ValueError):
        return {}
    function = target.__init__ if inspect.isclass(target) else target  # type: ignore[misc]
    hints = _hints(function)
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in {"self", *skip}]
    return {
        p.name: Option(p.name, hints.get(p.name, Any), None if p.default is p.empty else p.default, p.default is p.empty) for p in named
    }


def _hints(target: Any) -> dict[str, Any]:
    """Type hints, each by itself: one that names what only a type checker imports does not cost the others."""
    found: dict[str, Any] = {}
    for owner in reversed(target.__mro__) if inspect.isclass(target) else [target]:
        names = vars(sys.modules.get(owner.__module__, typing))
        for name, hint in inspect.get_annotations(owner).items():
            try:
                found[name] = eval(hint, names) if isinstance(hint, str) else hint
            except Exception:
                found[name] = Any
    return found


def checked(option: Option, value: Any) -> Any:
    """Convert a value to an option's type.

    Raises:
        ValueError: it does not fit; the message says what would (``"must be at least 1, got 0"``).
    """
    from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

    if option.kind is Any:
        return value
    try:
        adapter = TypeAdapter(option.kind, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError:
        try:
            adapter = TypeAdapter(option.kind)
        except PydanticUserError:
            return value
    bare = typing.get_args(option.kind)[0] if typing.get_origin(option.kind) is typing.Annotated else option.kind
    if isinstance(value, bool) and bare in (int, float):
        raise ValueError(f"must be a number, got {str(value).lower()}")
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise ValueError(complaint(error.errors()[0], value)) from None


def complaint(fault: Mapping[str, Any], value: Any) -> str:
    """Say a pydantic fault in plain words: ``"must be at least 1, got 0"``."""
    context = fault.get("ctx") or {}
    kind = fault["type"]
    got = shown(fault.get("input", value))
    bounds = {
        "greater_than_equal": ("at least", "ge"),
        "greater_than": ("more than", "gt"),
        "less_than_equal": ("at most", "le"),
        "less_than": ("less than", "lt"),
    }
    if kind in bounds:
        word, key = bounds[kind]
        return f"must be {word} {context[key]:g}, got {got}"
    if kind in ("literal_error", "enum"):
        known = re.findall(r"'([^']*)'", str(context.get("expected", "")))
        near = nearest(str(value), known, 1)
        return f"must be {context.get('expected')}, got {got}" + (f"; did you mean {near[0]!r}?" if near else "")
    words = {
        "int_": "a whole number",
        "float_": "a number",
        "finite": "a finite number",
        "bool_": "true or false",
        "string_": "text",
        "list_": "a list",
        "tuple_": "a list",
        "dict_": "a mapping",
        "path_": "a path",
        "none_": "empty",
    }
    for start, word in words.items():
        if kind.startswith(start):
            return f"must be {word}, got {got}"
    return f"is not valid: {fault['msg'][:1].lower()}{fault['msg'][1:]}, got {got}"


def shown(value: Any) -> str:
    """A value as the recipe writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, str) else str(value)


def unknown_key(document: Document, key: str, known: Iterable[str]) -> RecipeError:
    """The error for a key that nothing reads: ``recipe R has no key 'task.veiws'; did you mean 'task.views'? (...)``."""
    parent, _, last = key.rpartition(".")
    near = nearest(last, known, 1)
    hint = f"; did you mean {(f'{parent}.' if parent else '') + near[0]!r}?" if near else f" (known: {', '.join(known) or 'none'})"
    place = "" if document.was_overridden(key) else f"{document.where(key)}; "
    return RecipeError(f"recipe {document.name} has no key {key!r}{hint} ({place}unstir show {document.name} lists all)")


def resolve(kind: str, document: Document, key: str, name: Any) -> Any:
    """Import what a recipe names.

    Raises:
        RecipeError: there is no such name; says file, line and the nearest.
    """
    if not isinstance(name, str) or not name:
        raise RecipeError(f"{key} must name a registered {registry_word(kind)}, got {shown(name)} ({document.where(key)})")
    try:
        return registry.resolve(kind, name)
    except UnknownName as error:
        broken = [plugin for plugin in registry.plugins() if plugin.status != "ok" and plugin.name == name.partition("/")[0]]
        if broken:
            raise RecipeError(
                f"{error}: plugin {broken[0].name} is {broken[0].status}, {broken[0].reason} ({document.where(key)})"
            ) from None
        raise RecipeError(f"{error} ({document.where(key)})") from None


def registry_word(kind: str) -> str:
    """The word for one of a kind (``"methods"`` is ``"method"``)."""
    from unstir.plugin.host import KINDS

    return KINDS.get(kind, kind)


def build(kind: str, document: Document, key: str, entry: Mapping[str, Any], *, reserved: Iterable[str] = (), target: Any = None) -> Any:
    """Make the object that an entry of a recipe describes.

    Args:
        kind: kind of registered thing (``"methods"``).
        document: the recipe, for the places in errors.
        key: dotted key of the entry (``"methods.dds"``).
        entry: ``name`` and options.
        reserved: keys of the entry that are the runner's.
        target: the class, where it was resolved already.

    Raises:
        RecipeError: unknown name or option, wrong type, value out of range.
    """
    target = resolve(kind, document, f"{key}.name", entry.get("name")) if target is None else target
    options = options_of(target)
    given = {name: value for name, value in entry.items() if name != "name" and name not in reserved}
    values = {}
    for name, value in given.items():
        if name not in options:
            raise unknown_key(document, f"{key}.{name}", [*options, *reserved])
        try:
            values[name] = checked(options[name], value)
        except ValueError as error:
            raise RecipeError(f"{name} {error} ({document.where(f'{key}.{name}')})") from None
    missing = [name for name, option in options.items() if option.required and name not in values]
    if missing:
        raise RecipeError(f"{key} needs {missing[0]!r} ({document.where(key)})")
    try:
        return target(**values)
    except MissingExtra:
        raise
    except ModuleNotFoundError as error:
        extra = registry.missing_extra(kind, str(entry["name"]), error)
        if extra is None:
            raise
        raise extra from error
    except (ValueError, TypeError, UnstirError) as error:
        raise RecipeError(f"{_sentence(error)} ({document.where(_blamed(error, key, values))})") from error


def written(thing: Any, entry: Mapping[str, Any], reserved: Iterable[str] = ()) -> dict[str, Any]:
    """The entry with every option spelled out, defaults included, in the types a recipe holds."""
    spelled: dict[str, Any] = {"name": entry["name"]}
    for name in reserved:
        if name in entry and name != "name":
            spelled[name] = entry[name]
    for name in options_of(type(thing)):
        value = plain(getattr(thing, name, _MISSING))
        if value is _MISSING:
            if name in entry:
                spelled[name] = entry[name]
            continue
        spelled[name] = value
    return spelled


def plain(value: Any) -> Any:
    """A value in the types YAML holds; what has none is a private marker."""
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        made = {str(name): plain(inner) for name, inner in value.items()}
        return _MISSING if any(inner is _MISSING for inner in made.values()) else made
    if isinstance(value, list | tuple):
        items = [plain(inner) for inner in value]
        return _MISSING if any(inner is _MISSING for inner in items) else items
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return plain(value.item())
    return _MISSING


def _sentence(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _blamed(error: BaseException, key: str, values: Mapping[str, Any]) -> str:
    """The key an error is about: the first option that its message names."""
    words = re.findall(r"[A-Za-z_]\w*", str(error))
    named = [word for word in words if word in values]
    return f"{key}.{named[0]}" if named else key
