"""Run folders written by hand to the schema of the runner: a task in two settings, classical and learned methods, one case or several."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from unstir_pipelines import document
from unstir_pipelines.pairing import combined
from unstir_pipelines.runner import COLUMNS
from unstir_pipelines.settings import file_name, folder_name
from unstir_pipelines.statistics import summarise

METHODS: dict[str, dict[str, Any]] = {
    "dds": {"name": "made/dds", "checkpoint": "made/prior", "solver": "ddim:eta=0.85", "grid": "karras:50"},
    "dds-warm": {"name": "made/dds", "checkpoint": "made/prior", "solver": "ddim:temperature=0", "grid": "karras:20", "start": "admm-tv"},
    "fbp": {"name": "made/fbp"},
    "admm-tv": {"name": "made/admm-tv", "title": "admm-tv (tuned)"},
}
QUALITY = {"fbp": 17.5, "admm-tv": 27.2, "dds": 22.8, "dds-warm": 29.6}
COST = {"fbp": (0, 0.02, 40), "admm-tv": (0, 11.3, 310), "dds": (50, 52.0, 640), "dds-warm": (20, 33.1, 655)}


def build(
    folder: Path,
    *,
    methods: Mapping[str, Mapping[str, Any]] = METHODS,
    quality: Mapping[str, float] = QUALITY,
    settings: Sequence[Mapping[str, Any]] = ({"task.views": 8}, {"task.views": 20}),
    cases: Sequence[str] = ("lung1",),
    parts: int = 12,
    failed: Mapping[str, str] | None = None,
    title: str = "Sparse-view CT",
    task: str = "made/sparse-view-ct",
    metrics: Sequence[Any] = (),
    seed: int = 0,
    costs: Mapping[str, tuple[int, float, float]] = COST,
    pictures: Sequence[Mapping[str, Any]] = (),
    prints: str = "ab",
) -> Path:
    """Write a run folder whose numbers are drawn around ``quality`` (PSNR, dB), the same for the same seed."""
    folder.mkdir(parents=True)
    failed = failed or {}
    recipe = {
        "name": task,
        "title": title,
        "task": {"name": task, "noise": "none"},
        "data": {"name": "made/volumes"},
        "methods": dict(methods),
    }
    keys = dict.fromkeys(key for setting in settings for key in setting)
    vary = {key: list(dict.fromkeys(setting[key] for setting in settings)) for key in keys}
    recipe |= {"metrics": list(metrics), "figures": [], **({"vary": vary} if vary else {}), "seed": 0}
    (folder / "recipe.yaml").write_text(document.dump(json.loads(json.dumps(recipe))))
    environment = {
        "python": "3.11.9",
        "versions": {"unstir": "0.1.0", "torch": "2.13.0", "numpy": "2.4.1"},
        "hardware": {
            "system": "Linux-6.1-x86_64",
            "processor": "A fast processor",
            "cores": 2,
            "memory_bytes": 16_000_000_000,
            "graphics": [],
        },
        "device": "cpu",
        "threads": 2,
        "cases": [list(cases) for _ in settings],
        "data": {"/".join(filter(None, [folder_name(setting, vary), case])): prints * 32 for setting in settings for case in cases},
        "engine": "local",
        "command": ["unstir", "run", task],
    }
    (folder / "environment.json").write_text(json.dumps(environment))
    rows = []
    events = [{"time": "2026-11-21T10:00:00.000+00:00", "event": "run_started"}]
    generator = np.random.default_rng(seed)
    for index, setting in enumerate(settings):
        for case in cases:
            hard = generator.normal(0, 1.0) if len(cases) > 1 else 0.0
            slabs = generator.normal(0, 0.6, parts)
            for label in methods:
                place = folder_name(setting, vary)
                stem = folder / "estimates" / file_name(label) / place / case
                stem.parent.mkdir(parents=True, exist_ok=True)
                record = {"method": label, "case": case, "seed": 0, "setting": dict(setting)}
                if label in failed:
                    record |= {"status": "failed", "reason": failed[label], "traceback": ""}
                    events.append(
                        {
                            "time": "2026-11-21T10:00:01.000+00:00",
                            "event": "job_failed",
                            "job": f"{label}/{place}/{case}",
                            "reason": failed[label],
                        }
                    )
                else:
                    level = quality[label] + 5 * index + hard + slabs + generator.normal(0, 0.15, parts)
                    errors = 10 ** (-level / 10)
                    ssim = np.clip(0.5 + level / 80 + generator.normal(0, 0.004, parts), 0, 1)
                    nfe, seconds, memory = costs[label]
                    row = {"task": task, "setting": json.dumps(dict(setting)), "method": label, "case": case, "seed": 0, "covers": 0}
                    scores = [
                        ("psnr", float(combined(errors, "psnr")), "dB", "up", errors.tolist(), "psnr"),
                        ("ssim", float(ssim.mean()), "", "up", ssim.tolist(), "mean"),
                        ("nfe", float(nfe), "", "down", [], "mean"),
                        ("seconds", seconds, "s", "down", [], "mean"),
                        ("memory", memory, "MB", "down", [], "mean"),
                    ]
                    rows += [
                        row | dict(zip(("metric", "value", "unit", "better", "parts", "combine"), score, strict=True)) for score in scores
                    ]
                    record |= {"status": "done", "nfe": nfe, "seconds": seconds, "files": [f"{case}.nc"]}
                    (stem.parent / f"{case}.nc").write_bytes(b"")
                (stem.parent / f"{case}.job.json").write_text(json.dumps(record))
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    frame.to_parquet(folder / "metrics.parquet")
    content = {"run": folder.name, "rows": summarise(frame, [dict(setting) for setting in settings], list(methods))}
    (folder / "metrics.json").write_text(json.dumps(content).replace("NaN", "null"))
    (folder / "log.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    if pictures:
        from matplotlib.figure import Figure

        (folder / "figures").mkdir()
        kept = []
        for picture in pictures:
            figure = Figure(figsize=(3, 2))
            figure.subplots().plot([1, 2, 4])
            name = picture["name"]
            figure.savefig(folder / "figures" / f"{name}.png", dpi=60)
            (folder / "figures" / f"{name}.csv").write_text("x,y\n0,1\n")
            data = f"figures/{name}.csv" if picture.get("data", True) else None
            kept.append({"title": name, "caption": "", "case": None, **picture, "image": f"figures/{name}.png", "data": data})
        index = {"pictures": kept, "overview": kept[0]["name"], "failed": []}
        (folder / "figures" / "index.json").write_text(json.dumps(index))
    return folder
