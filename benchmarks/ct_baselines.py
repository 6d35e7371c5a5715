"""Classical CT baselines on the test patient, beside the numbers the plan asks for.

    python benchmarks/ct_baselines.py                    # bundled 128 x 128 volume: rows on the same grid
    python benchmarks/ct_baselines.py --full             # fine-grid rows too, from the 512 x 512 source (fetched once, cached)
    python benchmarks/ct_baselines.py --full --head      # and another scanner
    python benchmarks/ct_baselines.py --best             # also the strongest total variation found, at equal cost

PSNR of the whole volume, data range 1 = 2000 HU. The penalties of total variation were tuned on this very patient.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from unstir_medical.classical import FBP, SIRT, AdmmTV
from unstir_medical.datasets import Head, Lung1, Lung1Full, thinned
from unstir_medical.metrics import PSNR, SSIM
from unstir_medical.readers import read
from unstir_medical.tasks import LimitedAngleCT, SparseViewCT

QUICK = {"outer": 30, "cg": 5, "start": "zero"}
FBP_ROWS = {
    "fbp ramp": (FBP("ramp", clip=False), (20.83, 13.40, 7.66, 2.05)),
    "fbp ramp, clipped": (FBP("ramp"), (21.82, 14.97, 11.12, 8.82)),
    "fbp hann": (FBP("hann", clip=False), (23.61, 16.36, 10.47, 4.90)),
    "fbp hann, clipped": (FBP("hann"), (24.65, 17.55, 12.18, 9.18)),
    "fbp hamming, clipped": (FBP("hamming"), (24.56, 17.41, None, None)),
}
TV_ROWS: list[tuple[str, Any, AdmmTV, float | None]] = [
    ("20 views, same grid", SparseViewCT(views=20, simulation="same"), AdmmTV(0.3, 3.0), 32.76),
    ("8 views, same grid", SparseViewCT(views=8, simulation="same"), AdmmTV(0.4, 2.0), 27.16),
    ("20 views, same grid, auto", SparseViewCT(views=20, simulation="same"), AdmmTV(), 32.76),
    ("8 views, same grid, auto", SparseViewCT(views=8, simulation="same"), AdmmTV(), 27.16),
    ("limited angle 90, 90 views, same grid", LimitedAngleCT(simulation="same"), AdmmTV(0.4, 4.0, outer=15, cg=5, start="zero"), 22.51),
    ("limited angle 90, 90 views, same grid, auto", LimitedAngleCT(simulation="same"), AdmmTV(), None),
]
FINE_ROWS: list[tuple[str, Any, float, AdmmTV, float]] = [
    ("20 views, fine grid", SparseViewCT(views=20), 24.51, AdmmTV(0.2, 2.0, **QUICK), 31.34),  # type: ignore[arg-type]
    ("20 views, fine grid, Poisson 1e4", SparseViewCT(views=20, noise="poisson"), 23.64, AdmmTV(0.3, 2.0, **QUICK), 28.34),  # type: ignore[arg-type]
    ("8 views, fine grid", SparseViewCT(views=8), 17.44, AdmmTV(0.4, 4.0, **QUICK), 26.00),  # type: ignore[arg-type]
    ("8 views, fine grid, Poisson 1e4", SparseViewCT(views=8, noise="poisson"), 16.97, AdmmTV(0.6, 4.0, **QUICK), 25.72),  # type: ignore[arg-type]
]
HEAD_ROWS = [(20, 23.28, AdmmTV(0.3, 3.0, outer=40, cg=5), 29.17), (8, 16.87, AdmmTV(0.4, 2.0, outer=40, cg=5), 22.07)]
BEST_ROWS = [(20, AdmmTV(0.1, 1.0, outer=20, cg=20)), (8, AdmmTV(0.3, 2.0, outer=20, cg=20))]


def label(method: AdmmTV) -> str:
    return f"admm-tv {method.lam}, {method.rho}, {method.outer} x {method.cg}"


def row(setting: str, name: str, method: Any, case: Any, asked: float | None) -> str:
    started = time.perf_counter()
    estimate = method(case, None, 0)
    seconds = time.perf_counter() - started
    psnr = PSNR()(estimate, case)
    ssim = SSIM(volume=False)(estimate, case)
    planes = " / ".join(f"{psnr[f'psnr-{p}'].value:.2f}" for p in ("axial", "coronal", "sagittal"))
    similar = " / ".join(f"{ssim[f'ssim-{p}'].value:.3f}" for p in ("axial", "coronal", "sagittal"))
    wanted = "" if asked is None else f"{asked:.2f}"
    return f"| {setting} | {name} | {psnr['psnr'].value:.2f} | {wanted} | {planes} | {similar} | {seconds:.2f} |"


def rows(full: Any, head: Any, best: bool) -> Iterator[str]:
    small = next(Lung1().load())
    cases = {views: SparseViewCT(views=views, simulation="same").case(small) for views in (20, 8, 4, 2)}
    for name, (method, asked) in FBP_ROWS.items():
        for (views, case), wanted in zip(cases.items(), asked, strict=True):
            yield row(f"{views} views, same grid", name, method, case, wanted)
    for views in (20, 8):
        yield row(f"{views} views, same grid", "sirt 100", SIRT(), cases[views], None)
    yield row("limited angle 90, 90 views, same grid", "fbp hann, clipped", FBP(), LimitedAngleCT(simulation="same").case(small), 15.22)
    for setting, task, method, wanted in TV_ROWS:
        yield row(setting, label(method), method, task.case(small), wanted)
    if best:
        for views, method in BEST_ROWS:
            yield row(f"{views} views, same grid", label(method), method, cases[views], None)
    if full is not None:
        for setting, task, filtered, method, wanted in FINE_ROWS:
            case = task.case(full)
            yield row(setting, "fbp hann, clipped", FBP(), case, filtered)
            yield row(setting, label(method), method, case, wanted)
            yield row(setting, "admm-tv auto, 60 x 6", AdmmTV(), case, None)
    if head is not None:
        for views, filtered, method, wanted in HEAD_ROWS:
            case = SparseViewCT(views=views, simulation="same").case(head)
            yield row(f"head, {views} views, same grid", "fbp hann, clipped", FBP(), case, filtered)
            yield row(f"head, {views} views, same grid", label(method), method, case, wanted)


def opened(file: str | None, source: Any) -> Any:
    if file is None:
        return None
    return thinned(read(Path(file), key="volume"), source.every) if file else next(source.load())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", nargs="?", const="", default=None, metavar="FILE", help="fine-grid rows, from FILE or the fetched source")
    parser.add_argument("--head", nargs="?", const="", default=None, metavar="FILE", help="head rows, from FILE or the fetched source")
    parser.add_argument("--best", action="store_true", help="the strongest total variation found, too")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    full = opened(chosen.full, Lung1Full())
    head = opened(chosen.head, Head())
    print("| setting | method | PSNR dB | asked | PSNR axial / coronal / sagittal | SSIM axial / coronal / sagittal | s |")
    print("|---|---|---|---|---|---|---|")
    for line in rows(full, head, chosen.best):
        print(line, flush=True)


if __name__ == "__main__":
    main()
