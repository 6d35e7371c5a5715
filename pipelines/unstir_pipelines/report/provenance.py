"""How each number was made: definitions, data and checkpoint cards, solvers and grids, seeds, versions, hardware, the command."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from unstir import registry
from unstir.errors import UnstirError
from unstir.plugin.protocols import MetricInfo
from unstir_pipelines.document import dump, read
from unstir_pipelines.results import Results, named, records, setting_title
from unstir_pipelines.store import RunFolder

SHOWN_APART = ("name", "title", "checkpoint", "solver", "grid", "start", "process")
"""Options of a method that have a column of their own."""


@dataclass(frozen=True)
class Failure:
    """Jobs of one method that gave nothing for one reason."""

    method: str
    reason: str
    was_skipped: bool
    places: tuple[str, ...]


@dataclass(frozen=True)
class CheckpointCard:
    """A checkpoint that methods used, with its card as safe HTML (``None`` where there is no card to read)."""

    name: str
    methods: list[str]
    body: Markup | None


def failures(results: Results) -> list[Failure]:
    """Jobs that failed or were skipped because what they start from failed, those of one method and reason together."""
    found: dict[tuple[str, str], list[str]] = {}
    for record in records(results):
        if record.get("status") == "failed":
            reason = str(record.get("reason") or "no reason was written")
            place = ", ".join(filter(None, [setting_title(record.get("setting") or {}), str(record["case"])]))
            found.setdefault((str(record["method"]), reason), []).append(place)
    return [
        Failure(results.titled(method), reason, reason.startswith("it starts from"), tuple(places))
        for (method, reason), places in found.items()
    ]


def definitions(results: Results) -> list[MetricInfo]:
    """Every metric of the table, with its definition."""
    return [results.info(key) for key in dict.fromkeys(row["metric"] for row in results.rows)]


def methods(results: Results) -> list[dict[str, Any]]:
    """What each method was: its registered name, checkpoint, solver, grid, start and other options."""
    made = []
    for label in results.labels:
        options = results.options.get(label, {})
        others = [f"{key} {_flat(value)}" for key, value in options.items() if key not in SHOWN_APART and value is not None]
        apart = {key: _flat(options[key]) if options.get(key) is not None else "" for key in SHOWN_APART}
        made.append({"label": label, "others": others} | apart)
    return made


def data_card(results: Results) -> tuple[str, list[tuple[str, str]]]:
    """Name of the data and the fields of its card; for a user's own files, the files."""
    entry = results.recipe.get("data") or {}
    name = named(entry)
    if not name:
        files = [Path(str(file)).name for key in ("files", "datasets") for file in entry.get(key) or ()]
        return results.data, [("files", ", ".join(files))] if files else []
    try:
        card = read(registry.card(name)).content
    except (UnstirError, OSError):
        return name, []
    return name, [(key.replace("_", " "), _flat(value)) for key, value in card.items() if value not in (None, "", [], {})]


def checkpoint_cards(results: Results) -> list[CheckpointCard]:
    """The card of every checkpoint that a method used."""
    used: dict[str, list[str]] = {}
    for label in results.labels:
        checkpoint = results.options.get(label, {}).get("checkpoint")
        if checkpoint:
            used.setdefault(str(checkpoint), []).append(results.titled(label))
    return [CheckpointCard(name, labels, _card(name)) for name, labels in used.items()]


def environment(results: Results) -> dict[str, Any]:
    """Versions, hardware, data fingerprints and the commands that repeat the run."""
    store = RunFolder(results.folder)
    found = store.environment
    hardware = found.get("hardware") or {}
    memory = hardware.get("memory_bytes")
    machine = [hardware.get("processor"), f"{hardware['cores']} cores" if hardware.get("cores") else None]
    machine += [f"{memory / 1e9:.0f} GB" if memory else None, *(hardware.get("graphics") or ()), hardware.get("system")]
    versions = {"Python": found["python"]} if found.get("python") else {}
    started = next((event["time"] for event in store.events() if event.get("event") == "run_started"), "")
    return {
        "versions": versions | dict(found.get("versions") or {}),
        "machine": [str(part) for part in machine if part],
        "device": str(found.get("device") or ""),
        "threads": found.get("threads"),
        "engine": str(found.get("engine") or ""),
        "fingerprints": {key: value for key, value in (found.get("data") or {}).items() if value},
        "command": shlex.join(str(part) for part in found.get("command") or ()),
        "again": f"unstir run {shlex.quote((results.folder / 'recipe.yaml').as_posix())}",
        "seed": _flat(results.recipe.get("seed", 0)),
        "started": started,
        "recipe": dump(results.recipe),
    }


def _card(name: str) -> Markup | None:
    folder = Path(name)
    if not (folder / "CARD.md").is_file():
        try:
            folder = registry.path("checkpoints", name)
        except UnstirError:
            return None
    path = folder / "CARD.md"
    return markdown(path.read_text(encoding="utf-8")) if path.is_file() else None


def markdown(text: str) -> Markup:
    """Markdown as HTML that can do no harm: raw HTML is escaped, images and unsafe links are left out, headings lie below ours."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")
    tokens = parser.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + 3)}"
    return Markup(parser.renderer.render(tokens, parser.options, {}))


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_flat(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        words = [_flat(inner) for inner in value]
        return (" " if words and all(word.endswith(".") for word in words) else ", ").join(words)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
