"""From a run folder to ``report.html``: one file, no network, no script; every text from outside is escaped."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from markupsafe import Markup

from unstir.errors import UnstirError
from unstir.plugin.protocols import Setting
from unstir_pipelines import figures
from unstir_pipelines.figures import Gallery, Picture
from unstir_pipelines.pairing import DRAWS
from unstir_pipelines.report import findings, provenance
from unstir_pipelines.results import (
    ARROWS,
    COST_KEYS,
    Results,
    digits_of,
    duration,
    headed,
    plural,
    read,
    records,
    setting_title,
    shown,
    spent,
)
from unstir_pipelines.store import write_whole

if TYPE_CHECKING:
    from jinja2 import Environment

    from unstir_pipelines.view import Run

WIDEST = 1800
"""Pixels across a picture in the page; the PNG in the folder keeps its own size."""

INLINE = 200_000
"""Bytes of numbers up to which a figure's data stand in the page itself."""


LOOKED_AT = 8
"""Cases of a setting that are asked what their measurement is; making them all again may take long."""


@dataclass(frozen=True)
class Measurement:
    """What one case says of its measurement.

    Args:
        case: key of the case.
        setting: the setting in words.
        facts: what a reader should know: geometry, noise...
        simulated: how it was simulated; empty for a real measurement.
    """

    case: str
    setting: str
    facts: Mapping[str, str]
    simulated: str


def write(folder: Path) -> Path:
    """Draw the figures of a finished run and write its ``report.html``.

    Args:
        folder: the run folder.

    Returns:
        Path of the page.

    Raises:
        DataError: the folder is not a finished run.
    """
    results = read(folder)
    run = _run(results)
    gallery = figures.draw(run, results)
    path = results.folder / "report.html"
    write_whole(path, render(results, gallery, () if run is None else measurements(run, results)))
    return path


def render(results: Results, gallery: Gallery, measured: Sequence[Measurement] = ()) -> str:
    """The page as HTML.

    Args:
        results: the numbers.
        gallery: the pictures.
        measured: what cases say of their measurement.
    """
    simulations = {measurement.case: measurement.simulated for measurement in measured if measurement.simulated}
    environment = provenance.environment(results)
    hero = next((picture for picture in gallery.pictures if picture.name == gallery.overview), None)
    others = [picture for picture in gallery.pictures if picture is not hero]
    return (
        pages()
        .get_template("report.html.jinja")
        .render(
            title=results.title,
            run=results.folder.resolve().name,
            description=str(results.recipe.get("description") or "").strip(),
            question=findings.question(results),
            answers=findings.answers(results),
            facts=_facts(results, environment),
            simulated=sorted(set(simulations.values())),
            measured=_alike(measured),
            hero=None if hero is None else embed(results.folder, hero),
            tables=[table(results, setting) for setting in results.settings],
            note=results.note(),
            rule=_rule(results),
            interval=f"Percentile bootstrap, {DRAWS} draws, seed 0"
            + (f", over {results.over}; a difference takes the same draw for both methods." if results.over else "."),
            numbers=inline("metrics.csv", results.long_csv()) if len(results.long) else None,
            whole=[embed(results.folder, picture) for picture in others if picture.case is None],
            cases=_cases(results, others, hero, simulations),
            failures=provenance.failures(results),
            lost=sum(len(failure.places) for failure in provenance.failures(results)),
            undrawn=gallery.failed,
            definitions=provenance.definitions(results),
            methods=provenance.methods(results),
            data=provenance.data_card(results),
            checkpoints=provenance.checkpoint_cards(results),
            environment=environment,
        )
    )


def pages() -> Environment:
    """The templates, autoescaped, with the style sheet they share."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    found = Environment(
        loader=PackageLoader("unstir_pipelines.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    found.globals["style"] = Markup((Path(__file__).parent / "templates" / "style.css").read_text(encoding="utf-8"))
    return found


def table(results: Results, setting: Setting) -> dict[str, Any]:
    """One setting: a row a method, with a strip that shows each interval on the scale of its column."""
    costs = [key for key in COST_KEYS if any(row["metric"] == key for row in results.rows)]
    quality = results.metrics if len(results.metrics) <= 5 else results.leads
    rest = [key for key in results.metrics if key not in quality]
    rival = _rival(results, setting)
    return {
        "title": setting_title(setting),
        "rival": None if rival is None else results.titled(rival),
        "head": [{"text": headed(results.info(key)), "arrow": _arrow(results, key)} for key in [*quality, *costs]],
        "leads": len(quality),
        "rows": _rows(results, setting, [*quality, *costs]),
        "rest": {
            "head": [{"text": headed(results.info(key)), "arrow": _arrow(results, key)} for key in rest],
            "rows": _rows(results, setting, rest),
        }
        if rest
        else None,
    }


def measurements(run: Run, results: Results) -> list[Measurement]:
    """What the first cases say of their measurement under each setting: the dict ``context["facts"]``, and whether it was simulated.

    A case says so by ``context["simulated"]`` or the measurement's attribute ``simulated``: true, or a sentence that says how.
    """
    found = []
    for setting in results.settings:
        for key in results.cases[:LOOKED_AT]:
            try:
                case = run.case(key, setting)
            except Exception:
                continue
            facts = {str(name): str(fact) for name, fact in (case.context.get("facts") or {}).items()}
            mark = case.context.get("simulated") or getattr(case.measurement, "attrs", {}).get("simulated")
            how = mark if isinstance(mark, str) else facts.get("simulation", "simulated") if mark else ""
            found.append(Measurement(key, setting_title(setting), facts, how))
    return found


def embed(folder: Path, picture: Picture) -> dict[str, Any]:
    """A picture for the page: the image inline, its numbers inline where they are few."""
    from PIL import Image

    raw = (folder / picture.image).read_bytes()
    with Image.open(io.BytesIO(raw)) as image:
        width, height = image.size
        if width > WIDEST:
            height, width = round(height * WIDEST / width), WIDEST
            buffer = io.BytesIO()
            image.resize((width, height), Image.Resampling.LANCZOS).save(buffer, format="PNG", optimize=True)
            raw = buffer.getvalue()
    data = None
    if picture.data is not None:
        text = (folder / picture.data).read_text(encoding="utf-8")
        data = (
            inline(Path(picture.data).name, text)
            if len(text) <= INLINE
            else {"href": quote(picture.data), "name": "", "size": size(len(text))}
        )
    return {
        "title": picture.title,
        "caption": picture.caption,
        "source": f"data:image/png;base64,{base64.b64encode(raw).decode()}",
        "width": width,
        "height": height,
        "file": quote(picture.image),
        "data": data,
    }


def inline(name: str, text: str, kind: str = "text/csv") -> dict[str, str]:
    """A text as a link that downloads it from the page itself."""
    encoded = base64.b64encode(text.encode()).decode()
    return {"href": f"data:{kind};charset=utf-8;base64,{encoded}", "name": name, "size": size(len(text))}


def size(count: int) -> str:
    """Bytes in words."""
    return f"{count} bytes" if count < 1000 else f"{count / 1000:.0f} kB" if count < 1_000_000 else f"{count / 1e6:.1f} MB"


def _alike(measured: Sequence[Measurement]) -> list[tuple[str, Mapping[str, str]]]:
    """Where, and what is known there, of the first case of each setting; settings that agree stand together."""
    found: dict[tuple[tuple[str, str], ...], list[str]] = {}
    seen: set[str] = set()
    for measurement in measured:
        if measurement.facts and measurement.setting not in seen:
            seen.add(measurement.setting)
            found.setdefault(tuple(measurement.facts.items()), []).append(", ".join(filter(None, [measurement.case, measurement.setting])))
    return [("; ".join(places), dict(facts)) for facts, places in found.items()]


def _run(results: Results) -> Run | None:
    """The run with its objects, ``None`` where a plugin that made it is not installed."""
    from unstir_pipelines.view import Run

    run = Run(results.folder)
    try:
        run.assembly(0)
    except UnstirError:
        return None
    return run


def _arrow(results: Results, metric: str) -> str:
    return "" if metric in COST_KEYS else ARROWS[results.info(metric).better]


def _rival(results: Results, setting: Setting) -> str | None:
    """The best method without a trained prior by the first metric, where there are methods with one to compare."""
    if not results.leads:
        return None
    order = results.ranked(setting, results.leads[0])
    classical = [label for label in order if not results.uses_prior(label)]
    return classical[0] if classical and len(classical) < len(order) else None


def _rows(results: Results, setting: Setting, metrics: list[str]) -> list[dict[str, Any]]:
    rival = _rival(results, setting)
    columns = {}
    for metric in metrics:
        numbers = [results.number(label, setting, metric) for label in results.labels]
        ends = [end for number in numbers if number for end in (number.low, number.mean, number.high) if math.isfinite(end)]
        columns[metric] = (
            numbers,
            digits_of(numbers),
            min(ends, default=0.0),
            max(ends, default=0.0),
            None if metric in COST_KEYS else results.leader(setting, metric),
        )
    rows = []
    for index, label in enumerate(results.labels):
        cells = []
        for metric, (numbers, digits, low, high, leader) in columns.items():
            number = numbers[index]
            text, _, half = shown(number, metric, digits).partition(" ±")
            strip = None
            if number is not None and math.isfinite(number.half) and high > low and metric not in COST_KEYS:
                ends = [100 * (end - low) / (high - low) for end in (number.low, number.mean, number.high)]
                left, middle, right = ends if number.better != "down" else [100 - end for end in reversed(ends)]
                strip = {"left": f"{left:.1f}", "width": f"{max(right - left, 0.5):.1f}", "middle": f"{middle:.1f}"}
            cells.append({"text": text, "half": half, "best": label == leader, "strip": strip})
        difference = results.difference(label, rival, setting, results.leads[0]) if rival and label != rival else None
        signed = "rival" if label == rival else findings.signed(difference)
        rows.append({"label": results.titled(label), "is_prior": results.uses_prior(label), "cells": cells, "against": signed})
    return rows


def _rule(results: Results) -> str:
    case, part = results.nouns
    over = plural(case if len(results.cases) > 1 else part)
    text = f"Bold: better than every other method, each difference taken over the same {over} (paired bootstrap, 95 %)"
    strip = "The strip below a number is its interval on the scale of the column, better to the right."
    return f"{text}; nothing is bold where an interval holds zero. {strip}"


def _facts(results: Results, environment: Mapping[str, Any]) -> list[str]:
    case = results.nouns[0]
    counts = [(len(results.cases), case), (len(results.settings), "setting"), (len(results.labels), "method")]
    facts = [results.data] + [f"{count} {word}{'s' if count != 1 else ''}" for count, word in counts if count]
    seconds, judging = spent(results)
    if seconds:
        judged = f" and {duration(judging)} of judging" if judging >= 1 else ""
        facts.append(f"{duration(seconds)} of computing{judged} on {environment['device'] or 'one machine'}")
    if environment["started"]:
        facts.append(f"{datetime.fromisoformat(environment['started']):%-d %B %Y}")
    return facts


def _cases(results: Results, others: list[Picture], hero: Picture | None, simulations: Mapping[str, str]) -> list[dict[str, Any]]:
    """One entry a case that has pictures or files: its pictures and links to what came out."""
    files: dict[str, dict[str, list[dict[str, str]]]] = {}
    for record in records(results):
        for name in record.get("files") or () if record.get("status") == "done" else ():
            suffix = "".join(Path(name).suffixes[-2:]) if name.endswith(".gz") else Path(name).suffix
            link = {"href": quote(f"{record['folder']}/{name}"), "text": f"{results.titled(record['method'])} {suffix}"}
            files.setdefault(str(record["case"]), {}).setdefault(setting_title(record.get("setting") or {}), []).append(link)
    made = []
    for key in results.cases:
        pictures = [embed(results.folder, picture) for picture in others if picture.case == key]
        is_hero = hero is not None and hero.case == key
        made.append({"key": key, "pictures": pictures, "files": files.get(key, {}), "simulated": simulations.get(key), "is_hero": is_hero})
    return made
