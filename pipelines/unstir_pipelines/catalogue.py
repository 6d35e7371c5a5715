"""What is installed, described for people without importing any of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unstir import names, registry
from unstir.errors import UnstirError
from unstir_pipelines import document
from unstir_pipelines.document import Document
from unstir_pipelines.peek import peek

CORE = "core"

TOP = {
    "title": "text",
    "seed": "whole number, or a list",
    "cases": "number or list of keys",
    "vary": "lists of values by key",
    "metrics": "list of names",
    "figures": "list of names",
}


def listed() -> list[dict[str, Any]]:
    """Every recipe: name, title, the verb it is for, its plugin; one that cannot be read says so in its title."""
    rows = []
    for name, reference in registry.names("recipes").items():
        try:
            content = document.read(registry.path("recipes", name), name).content
            does = ", ".join(verb for verb, key in (("run", "methods"), ("train", "train")) if content.get(key)) or "?"
            title = str(content.get("title") or "")
        except UnstirError as error:
            does, title = "?", f"cannot be read: {error}"
        rows.append({"name": name, "title": title, "does": does, "plugin": reference.plugin})
    return rows


def described(name: str) -> dict[str, Any]:
    """A recipe: its text, and every key with its type and value.

    Raises:
        RecipeError: it cannot be read.
        UnknownName: there is none of that name.
    """
    path = Path(name)
    if path.is_dir():
        path = path / "recipe.yaml"
    is_registered = not path.exists() and name in registry.names("recipes")
    source = document.read(registry.path("recipes", name) if is_registered else path, name)
    content = source.content
    rows = [
        {"key": key, "kind": kind, "value": _text(content.get(key))}
        for key, kind in TOP.items()
        if key in content or key in ("seed", "cases")
    ]
    for key, kind in (("task", "tasks"), ("data", "data"), ("train", "methods")):
        if isinstance(content.get(key), dict):
            rows += _options(source, key, kind, content[key])
    for label, entry in (content.get("methods") or {}).items():
        if isinstance(entry, dict):
            rows += _options(source, f"methods.{label}", "methods", entry)
    plugin = registry.names("recipes")[name].plugin if is_registered else ""
    text = source.path.read_text(encoding="utf-8") if source.path else ""
    return {"kind": "recipe", "name": name, "plugin": plugin, "title": str(content.get("title") or ""), "text": text, "options": rows}


def part(kind: str, name: str) -> dict[str, Any]:
    """A registered class: the first sentence of its docstring, and its options; a short name with options of its own shows them."""
    reference, word = registry.reference(kind, name), registry.KINDS[kind]
    preset = names.stands_for(word, name) if reference.plugin == CORE else None
    if preset is not None and preset[1]:
        return _part(word, name, CORE, *preset)
    return _part(word, name, reference.plugin, reference.target, {})


def grid(name: str) -> dict[str, Any] | None:
    """A grid by its short name, ``None`` where there is none: grids are the core's and no plugin registers one."""
    preset = names.stands_for("grid", name)
    return None if preset is None else _part("grid", name, CORE, *preset)


def _part(word: str, name: str, plugin: str, target: str, preset: dict[str, Any]) -> dict[str, Any]:
    seen = peek(target)
    own = {key: repr(value) for key, value in preset.items()}
    rows = [
        {"key": option.name, "kind": option.kind, "value": own.get(option.name, option.default or "(required)")}
        for option in (seen.options if seen else ())
    ]
    return {
        "kind": word,
        "name": name,
        "plugin": plugin,
        "target": target,
        "title": names.known(word)[name] if preset else "",
        "summary": seen.summary if seen else f"{target} (its source is not to be found)",
        "options": rows,
    }


def checkpoint(name: str) -> dict[str, Any]:
    """A checkpoint: its folder and its card."""
    reference = registry.reference("checkpoints", name)
    folder = registry.path("checkpoints", name)
    text = (folder / "CARD.md").read_text(encoding="utf-8") if (folder / "CARD.md").is_file() else ""
    return {"kind": "checkpoint", "name": name, "plugin": reference.plugin, "summary": str(folder), "text": text}


def card(name: str) -> dict[str, Any] | None:
    """A dataset's card, ``None`` where there is none of that name."""
    from unstir_data import cards

    if name not in cards.names():
        return None
    found = cards.load(name).model_dump(mode="json")
    fields = {key: value for key, value in found.items() if key not in ("name", "title", "source") and value not in (None, [], "")}
    return {"kind": "card", "name": name, "title": found["title"], "fields": fields}


def _options(source: Document, key: str, kind: str, entry: dict[str, Any]) -> list[dict[str, Any]]:
    names = registry.names(kind)
    if kind == "methods" and entry.get("name") not in names:
        names = registry.names("tasks") if entry.get("name") in registry.names("tasks") else names
    target = names.get(str(entry.get("name")))
    seen = peek(target.target) if target else None
    rows = [{"key": f"{key}.name", "kind": "name", "value": _text(entry.get("name"))}]
    known = {option.name: option for option in seen.options} if seen else {}
    for name in dict.fromkeys([*known, *(other for other in entry if other != "name")]):
        default = known[name].default if name in known else ""
        value = _text(entry[name]) if name in entry else f"{default} (default)" if default is not None else "(required)"
        rows.append({"key": f"{key}.{name}", "kind": known[name].kind if name in known else "", "value": value})
    return rows


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_text(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_text(inner) for inner in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)
