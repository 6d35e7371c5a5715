"""Time a step of the second-order multistep solver (2M) of unstir and of other libraries, in one process, with a trivial denoiser.

    python benchmarks/solver_overhead.py [--rounds 5] [--json benchmarks/solver_overhead.json]

State 64 x 3 x 32 x 32, float32, one thread, denoiser x -> 0.1 x, 20 steps. The libraries take turns, so that a busy machine is busy
for all; a round's figure is the median of its repetitions, and the table shows the median and the lowest of the rounds. A library that
is not installed, or does not import, is left out with the reason. Whole sampling calls are timed: making coefficients counts, for
everyone (ours are cached between calls, as in any repeated use).
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import platform
import statistics
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

SHAPE, STEPS = (64, 3, 32, 32), 20
HIGH, LOW = 80.0, 0.002


def ours(solver: str) -> Callable[[torch.Tensor], Any]:
    import unstir
    from unstir.process import EDM

    class Tenth(unstir.Denoiser):
        def forward(self, x: Any, t: Any, condition: Any = None) -> Any:
            return x * 0.1

    denoiser = Tenth(EDM(), SHAPE[1:])
    return lambda x: unstir.sample(denoiser, SHAPE[0], solver=solver, grid=f"karras:{STEPS},to_zero=false", start=(x, HIGH)).x


def azula(sampler: str, **options: Any) -> Callable[[torch.Tensor], Any]:
    denoise, noise, sample = (importlib.import_module(f"azula.{name}") for name in ("denoise", "noise", "sample"))

    class Tenth(denoise.Denoiser):
        schedule = noise.VESchedule(LOW, HIGH)

        def forward(self, x: Any, t: Any, **kwargs: Any) -> Any:
            return denoise.DiracPosterior(mean=x * 0.1)

    made = getattr(sample, sampler)(Tenth(), steps=STEPS, silent=True, **options)
    return lambda x: made(x)


def k_diffusion(sampler: str) -> Callable[[torch.Tensor], Any]:
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None:
        raise ModuleNotFoundError("No module named 'k_diffusion'")
    # Its package imports torchvision and training code; the samplers need one function of it.
    package, helpers = types.ModuleType("k_diffusion"), types.ModuleType("k_diffusion.utils")
    package.__path__ = list(spec.submodule_search_locations or [])
    helpers.append_dims = lambda x, dims: x[(...,) + (None,) * (dims - x.ndim)]  # type: ignore[attr-defined]
    package.utils = helpers  # type: ignore[attr-defined]
    sys.modules.update({"k_diffusion": package, "k_diffusion.utils": helpers})
    sampling = importlib.import_module("k_diffusion.sampling")
    ramp = torch.linspace(0, 1, STEPS + 1)
    sigmas = (HIGH ** (1 / 7) + ramp * (LOW ** (1 / 7) - HIGH ** (1 / 7))) ** 7
    function = getattr(sampling, sampler)
    return lambda x: function(lambda x, sigma: x * 0.1, x, sigmas, disable=True)


def diffusers(scheduler: str, **options: Any) -> Callable[[torch.Tensor], Any]:
    made = getattr(importlib.import_module("diffusers"), scheduler)(**{"prediction_type": "sample", **options})

    @torch.no_grad()
    def run(x: torch.Tensor) -> torch.Tensor:
        made.set_timesteps(STEPS)
        for t in made.timesteps:
            x = made.step(made.scale_model_input(x, t) * 0.1, t, x, return_dict=False)[0]
        return x

    return run


ENTRIES: list[tuple[str, str, bool, Callable[[], Callable[[torch.Tensor], Any]]]] = [
    ("unstir", "dpm++2m", True, lambda: ours("dpm++2m")),
    ("unstir", "f3", False, lambda: ours("f3")),
    ("unstir", "ddim", False, lambda: ours("ddim")),
    ("k-diffusion", "dpmpp_2m", True, lambda: k_diffusion("sample_dpmpp_2m")),
    (
        "diffusers",
        "DPMSolverMultistep",
        True,
        lambda: diffusers("DPMSolverMultistepScheduler", algorithm_type="dpmsolver++", solver_order=2),
    ),
    (
        "diffusers",
        "EDMDPMSolverMultistep",
        True,
        lambda: diffusers("EDMDPMSolverMultistepScheduler", solver_order=2, prediction_type="epsilon"),
    ),
    ("diffusers", "DEISMultistep", False, lambda: diffusers("DEISMultistepScheduler", solver_order=2)),
    ("azula", "xEAB2", True, lambda: azula("xEABSampler", order=2)),
    ("azula", "vAB2", False, lambda: azula("vABSampler", order=2)),
    ("azula", "DDIM", False, lambda: azula("DDIMSampler", eta=0.0)),
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/solver_overhead.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)) * HIGH
    runs, skipped = {}, {}
    for library, name, second_order, make in ENTRIES:
        try:
            runs[library, name, second_order] = run = make()
            run(x.clone())
        except Exception as error:  # a peer may fail in any way at import; the table says which
            runs.pop((library, name, second_order), None)
            skipped[f"{library} {name}"] = f"{type(error).__name__}: {error}".splitlines()[0]
    rounds: dict[tuple[str, str, bool], list[float]] = {key: [] for key in runs}
    for _ in range(options.rounds):
        for key, run in runs.items():
            seconds = []
            for _ in range(options.repeats):
                start = x.clone()
                begin = time.perf_counter()
                run(start)
                seconds.append(time.perf_counter() - begin)
            rounds[key].append(statistics.median(seconds) / STEPS * 1e6)
    rows = [
        {
            "library": k[0],
            "solver": k[1],
            "second_order_x0": k[2],
            "median_us": round(statistics.median(v), 1),
            "lowest_us": round(min(v), 1),
        }
        for k, v in rounds.items()
    ]
    peers = [row for row in rows if row["second_order_x0"] and row["library"] != "unstir"]
    own = next(row for row in rows if row["solver"] == "dpm++2m")
    ratio = {m: round(own[m] / min(row[m] for row in peers), 3) if peers else None for m in ("median_us", "lowest_us")}
    versions = {name: version(name) for name in ("torch", "k-diffusion", "diffusers", "azula")}
    report = {"state": SHAPE, "steps": STEPS, "rows": rows, "skipped": skipped, "ratio_to_fastest_peer": ratio, "versions": versions}
    report["machine"] = f"{platform.machine()}, {platform.processor() or platform.system()}, python {platform.python_version()}"
    print(f"{'library':12s} {'solver':24s} {'us/step, median':>16s} {'lowest':>8s}")
    for row in sorted(rows, key=lambda row: row["median_us"]):
        mark = "   2M" if row["second_order_x0"] else ""
        print(f"{row['library']:12s} {row['solver']:24s} {row['median_us']:16.1f} {row['lowest_us']:8.1f}{mark}")
    for name, reason in skipped.items():
        print(f"skipped {name}: {reason}")
    print(f"unstir dpm++2m over the fastest other 2M: {ratio['median_us']} (median), {ratio['lowest_us']} (lowest); target: at most 0.5")
    options.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


def version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main())
