"""The CT recipes with the shipped prior: the test patient, another scanner, few photons, a limited arc, and a volume of 256 x 256.

    python benchmarks/ct_diffusion.py [--only NAME,...] [--out runs/ct-diffusion]

Prints the tables of ct_diffusion.md; a run that was stopped goes on. ``head`` and ``large`` fetch their volumes on first use.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pandas as pd

import unstir

SPARSE = "medical/sparse-view-ct"
MAIN = ["fbp", "admm-tv", "dds", "diffusion-mbir", "dds-warm"]
RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "patient": (SPARSE, {}),
    "poisson": (SPARSE, {"overrides": {"task.noise": "poisson"}, "methods": MAIN}),
    "head": (SPARSE, {"data": "medical/head", "methods": MAIN}),
    "limited": ("medical/limited-angle-ct", {"methods": MAIN}),
    "large": (SPARSE, {"data": "medical/lung1-full", "overrides": {"task.size": 256, "vary": {"task.views": [20]}}, "methods": ["dds"]}),
}
COLUMNS = {
    "psnr": "{:.2f}", "ssim": "{:.3f}", "ssim-axial": "{:.3f}", "ssim-coronal": "{:.3f}", "ssim-sagittal": "{:.3f}",
    "data-residual": "{:.4f}", "nfe": "{:.0f}", "seconds": "{:.1f}", "memory": "{:.0f}",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(RUNS))
    parser.add_argument("--out", type=Path, default=Path("runs/ct-diffusion"))
    asked = parser.parse_args()
    for name in asked.only.split(","):
        recipe, options = RUNS[name]
        run = unstir.run(recipe, out=asked.out / name, progress=True, **options)
        print(f"\n## {name}\n\n| setting | method | {' | '.join(COLUMNS)} |\n|{'---|' * (2 + len(COLUMNS))}", flush=True)
        rows = pd.read_parquet(run.folder / "metrics.parquet")
        values = rows.pivot_table(index=["setting", "method"], columns="metric", values="value", sort=False)
        for (setting, method), row in values.iterrows():
            said = ", ".join(f"{key.removeprefix('task.')} {value}" for key, value in json.loads(setting or "{}").items())
            print(f"| {said} | {method} | {' | '.join(form.format(row[key]) for key, form in COLUMNS.items())} |", flush=True)


if __name__ == "__main__":
    main()
