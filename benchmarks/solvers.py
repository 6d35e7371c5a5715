"""Time a step of our solvers and of those of other libraries of the same order, in one process, with a trivial denoiser.

    python benchmarks/solvers.py [--rounds 5] [--json benchmarks/solvers.json]

State 64 x 3 x 32 x 32, float32, one thread, denoiser x -> 0.1 x, 20 steps. The libraries take turns, so that a busy machine is busy
for all; a round's figure is the median of its repetitions, and the table shows the median and the lowest of the rounds. A library that
is not installed, or does not import, is left out with the reason. Whole sampling calls are timed: making coefficients counts, for
everyone (ours are cached between calls, as in any repeated use). Order is what a solver declares; the stochastic ones draw noise at
every step, ours a stream a sample (docs/decisions/001-per-sample-noise.md), theirs one for the batch. The table goes to
``solvers.md`` beside the numbers.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.abc
import importlib.machinery
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
from peers import k_diffusion_sampling

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
    sampling = k_diffusion_sampling()
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


def deepinv(solver: str, **options: Any) -> Callable[[torch.Tensor], Any]:
    if importlib.util.find_spec("torchvision") is None:  # it imports torchvision for transforms that samplers do not use
        sys.meta_path.append(Absent("torchvision"))
    sampling = importlib.import_module("deepinv.sampling")

    class Tenth(torch.nn.Module):
        def forward(self, x: Any, sigma: Any, **kwargs: Any) -> Any:
            return x * 0.1

    made = getattr(sampling, solver)(timesteps=torch.linspace(1, 0, STEPS + 1), **options)
    sde = sampling.VarianceExplodingDiffusion(
        denoiser=Tenth(),
        sigma_min=LOW,
        sigma_max=HIGH,
        alpha=0.0 if solver in ("EulerSolver", "HeunSolver") else 1.0,
        solver=made,
        dtype=torch.float32,
    )
    return lambda x: made.sample(sde, x).sample


class Absent(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stands for a package that is imported and not used."""

    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.partition(".")[0] == self.name else None

    def create_module(self, spec: Any) -> types.ModuleType:
        module = types.ModuleType(spec.name)
        module.__getattr__ = lambda attribute: type(attribute, (), {}) if attribute[:2] != "__" else None  # type: ignore[method-assign]
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        module.__path__ = []


Entry = tuple[str, str, str, Callable[[], Callable[[torch.Tensor], Any]]]
ENTRIES: list[Entry] = [
    ("unstir", "ddim", "1", lambda: ours("ddim")),
    ("unstir", "dpm++2m", "2", lambda: ours("dpm++2m")),
    ("unstir", "dpm-solver-2m", "2", lambda: ours("dpm-solver-2m")),
    ("unstir", "heun", "2, two evaluations", lambda: ours("heun")),
    ("unstir", "dpm++3m", "3", lambda: ours("dpm++3m")),
    ("unstir", "deis3", "3", lambda: ours("deis3")),
    ("unstir", "f3", "3", lambda: ours("f3")),
    ("unstir", "unipc2", "3, corrected", lambda: ours("unipc2")),
    ("unstir", "f4", "4", lambda: ours("f4")),
    ("unstir", "lms4", "4", lambda: ours("lms4")),
    ("unstir", "ancestral", "1, stochastic", lambda: ours("ancestral")),
    ("unstir", "dpm++2m-sde", "2, stochastic", lambda: ours("dpm++2m-sde")),
    ("k-diffusion", "euler", "1", lambda: k_diffusion("sample_euler")),
    ("k-diffusion", "dpmpp_2m", "2", lambda: k_diffusion("sample_dpmpp_2m")),
    ("k-diffusion", "heun", "2, two evaluations", lambda: k_diffusion("sample_heun")),
    ("k-diffusion", "lms", "4", lambda: k_diffusion("sample_lms")),
    ("k-diffusion", "euler_ancestral", "1, stochastic", lambda: k_diffusion("sample_euler_ancestral")),
    ("diffusers", "DDIM", "1", lambda: diffusers("DDIMScheduler")),
    ("diffusers", "Euler", "1", lambda: diffusers("EulerDiscreteScheduler")),
    ("diffusers", "DPMSolverMultistep 2", "2", lambda: diffusers("DPMSolverMultistepScheduler", solver_order=2)),
    ("diffusers", "DPMSolverMultistep 3", "3", lambda: diffusers("DPMSolverMultistepScheduler", solver_order=3)),
    ("diffusers", "EDMDPMSolver 2", "2", lambda: diffusers("EDMDPMSolverMultistepScheduler", solver_order=2, prediction_type="epsilon")),
    ("diffusers", "EDMDPMSolver 3", "3", lambda: diffusers("EDMDPMSolverMultistepScheduler", solver_order=3, prediction_type="epsilon")),
    ("diffusers", "DEIS 2", "2", lambda: diffusers("DEISMultistepScheduler", solver_order=2)),
    ("diffusers", "DEIS 3", "3", lambda: diffusers("DEISMultistepScheduler", solver_order=3)),
    ("diffusers", "UniPC 2", "3, corrected", lambda: diffusers("UniPCMultistepScheduler", solver_order=2)),
    ("diffusers", "Heun", "2, two evaluations", lambda: diffusers("HeunDiscreteScheduler")),
    ("diffusers", "EulerAncestral", "1, stochastic", lambda: diffusers("EulerAncestralDiscreteScheduler", prediction_type="epsilon")),
    ("diffusers", "SDE-DPM++ 2", "2, stochastic", lambda: diffusers("DPMSolverMultistepScheduler", algorithm_type="sde-dpmsolver++")),
    ("azula", "Euler", "1", lambda: azula("EulerSampler")),
    ("azula", "DDIM", "1", lambda: azula("DDIMSampler", eta=0.0)),
    ("azula", "Heun", "2, two evaluations", lambda: azula("HeunSampler")),
    ("azula", "xEAB2", "2", lambda: azula("xEABSampler", order=2)),
    ("azula", "vAB2", "2", lambda: azula("vABSampler", order=2)),
    ("azula", "xEAB3", "3", lambda: azula("xEABSampler", order=3)),
    ("azula", "zEAB3", "3", lambda: azula("zEABSampler", order=3)),
    ("azula", "xEAB4", "4", lambda: azula("xEABSampler", order=4)),
    ("azula", "DDPM", "1, stochastic", lambda: azula("DDPMSampler")),
    ("deepinv", "Euler", "1", lambda: deepinv("EulerSolver")),
    ("deepinv", "Heun", "2, two evaluations", lambda: deepinv("HeunSolver")),
    ("deepinv", "DDIM", "1", lambda: deepinv("DDIMSolver")),
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path, default=Path("benchmarks/solvers.json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0)) * HIGH
    runs, skipped = prepared(x)
    rounds: dict[tuple[str, str, str], list[float]] = {key: [] for key in runs}
    for _ in range(options.rounds):
        for key, run in runs.items():
            rounds[key].append(timed(run, x, options.repeats))
    rows = [
        {"library": k[0], "solver": k[1], "order": k[2], "median_us": round(statistics.median(v), 1), "lowest_us": round(min(v), 1)}
        for k, v in rounds.items()
    ]
    versions = {name: version(name) for name in ("torch", "k-diffusion", "diffusers", "azula", "deepinv")}
    report = {"state": SHAPE, "steps": STEPS, "rows": rows, "skipped": skipped, "ratios": ratios(rows), "versions": versions}
    report["machine"] = f"{platform.machine()}, {platform.processor() or platform.system()}, python {platform.python_version()}"
    options.json.write_text(json.dumps(report, indent=2) + "\n")
    text = table(report)
    options.json.with_suffix(".md").write_text(text)
    print(text)
    return 0


def prepared(x: torch.Tensor) -> tuple[dict[tuple[str, str, str], Callable[[torch.Tensor], Any]], dict[str, str]]:
    """The solvers that run here, each run once, and why the others do not."""
    runs, skipped = {}, {}
    for library, name, order, make in ENTRIES:
        try:
            run = make()
            run(x.clone())
        except Exception as error:  # a peer may fail in any way at import; the table says which
            skipped[f"{library} {name}"] = f"{type(error).__name__}: {error}".splitlines()[0]
        else:
            runs[library, name, order] = run
    return runs, skipped


def timed(run: Callable[[torch.Tensor], Any], x: torch.Tensor, repeats: int) -> float:
    """Median microseconds of a step."""
    seconds = []
    for _ in range(repeats):
        start = x.clone()
        begin = time.perf_counter()
        run(start)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds) / STEPS * 1e6


def ratios(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Our fastest solver of each order over the fastest of the others, medians."""
    found = {}
    for order in dict.fromkeys(row["order"] for row in rows):
        own, others = (
            [row["median_us"] for row in rows if row["order"] == order and (row["library"] == "unstir") is mine] for mine in (True, False)
        )
        if own and others:
            found[order] = round(min(own) / min(others), 3)
    return found


def table(report: dict[str, Any]) -> str:
    """The page."""
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items() if number)
    lines = ["# Time of a step", "", "Microseconds a step of 64 x 3 x 32 x 32 float32, one thread, denoiser `0.1 x`, 20 steps"]
    lines += ["(`python benchmarks/solvers.py`; all in one process, taking turns; median and lowest of the rounds).", f"{versions}.", ""]
    lines += ["| order | library | solver | median | lowest |", "|---|---|---|---|---|"]
    for row in sorted(report["rows"], key=lambda row: (row["order"], row["median_us"])):
        bold = "**" if row["library"] == "unstir" else ""
        lines.append(f"| {row['order']} | {bold}{row['library']}{bold} | {row['solver']} | {row['median_us']} | {row['lowest_us']} |")
    lines += ["", "Our fastest over the fastest other, by order (target: at most 0.5 without noise): "]
    lines[-1] += ", ".join(f"{order}: {ratio}" for order, ratio in sorted(report["ratios"].items())) + "."
    if report["skipped"]:
        lines += ["", "Left out: " + "; ".join(f"{name} ({reason})" for name, reason in report["skipped"].items()) + "."]
    return "\n".join(lines) + "\n"


def version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main())
