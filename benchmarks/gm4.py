"""Error against evaluations on the mixture GM4, with the exact denoiser: every deterministic solver of unstir, and its peers elsewhere.

    python benchmarks/gm4.py [--markdown benchmarks/gm4.md] [--quick]

Flow from sigma 80 to .002 (alpha = 1), 512 fixed start points, float64, against Runge-Kutta 4 of 4000 steps. Grid K: Karras, rho = 7;
grid L: uniform in log sigma; grid G: our logistic grid, scale .5; N + 1 levels, no step to sigma = 0. A method of two evaluations a step
makes N/2 steps (in DPM-Solver-2 and 2S the second evaluation lies at the geometric mean). A cell is median / RMSE of the 2-norm. A peer is
run in the same process on the same grid; one that is not installed, or does not import, is left out with the reason.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peers import k_diffusion_sampling

from unstir import sample
from unstir.certify import gm4, gm4_points
from unstir.certify.laws import classes3, ring8
from unstir.grid import Karras, Logistic, LogSNR, Times
from unstir.guide import CFG
from unstir.process import EDM
from unstir.solver import DPMSolverV3, EVODiff, GradientEstimation, Multistep, Solver, calibrate

HIGH, LOW, BUDGETS = 80.0, 0.002, (5, 10, 20)
Levels = list[float]
Peer = Callable[[torch.Tensor, Levels], torch.Tensor]
LAW = gm4()


def levels(kind: str, steps: int) -> Levels:
    made = {"K": Karras, "L": LogSNR, "G": Logistic}[kind](steps, sigma_max=HIGH, sigma_min=LOW, to_zero=False)
    return list(made.times(EDM()))


def halved(kind: str, evaluations: int) -> Levels:
    """Half as many steps, with the geometric means between: what two-evaluation methods make of a grid."""
    coarse = levels(kind, evaluations // 2)
    return [level for a, b in zip(coarse, coarse[1:], strict=False) for level in (a, math.sqrt(a * b))] + coarse[-1:]


def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
    return LAW.estimate(x, 1.0, float(sigma))


# ---- peers -------------------------------------------------------------------------------------------------------------------------


def azula(name: str, **options: Any) -> Peer:
    denoisers, noise, samplers = (importlib.import_module(f"azula.{part}") for part in ("denoise", "noise", "sample"))

    def run(x: torch.Tensor, grid: Levels) -> torch.Tensor:
        table = torch.tensor(grid[::-1], dtype=torch.float64)

        class Tabled(noise.Schedule):
            """Time k/N is the k-th level."""

            def alpha(self, t: torch.Tensor) -> torch.Tensor:
                return torch.ones_like(t)

            def sigma(self, t: torch.Tensor) -> torch.Tensor:
                return table[torch.round(t * (len(table) - 1)).long()]

            def __call__(self, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                return self.alpha(t), self.sigma(t)

        class Exact(denoisers.Denoiser):
            schedule = Tabled()

            def forward(self, x: torch.Tensor, t: torch.Tensor, **kwargs: Any) -> Any:
                return denoisers.DiracPosterior(mean=denoise(x, float(self.schedule.sigma(t))))

        return getattr(samplers, name)(Exact(), steps=len(grid) - 1, silent=True, dtype=torch.float64, **options)(x)

    return run


def k_diffusion(name: str, **options: Any) -> Peer:
    function = getattr(k_diffusion_sampling(), name)

    def run(x: torch.Tensor, grid: Levels) -> torch.Tensor:
        extra = {"noise_sampler": lambda *_: torch.zeros_like(x)} if "sde" in name or "ancestral" in name else {}
        made: torch.Tensor = function(
            lambda x, sigma: denoise(x, float(sigma[0])), x, torch.tensor(grid, dtype=torch.float64), disable=True, **options, **extra
        )
        return made

    return run


def diffusers(name: str, **options: Any) -> Peer:
    scheduler = getattr(importlib.import_module("diffusers"), name)

    def run(x: torch.Tensor, grid: Levels) -> torch.Tensor:
        made = scheduler(prediction_type="epsilon", lower_order_final=False, **options)
        steps = len(grid) - 1
        made.set_timesteps(steps)
        made.sigmas, made.timesteps = torch.tensor(grid, dtype=torch.float64), torch.arange(steps, 0, -1)
        alpha = [1 / math.sqrt(1 + sigma**2) for sigma in grid]
        state = x * alpha[0]
        for i, t in enumerate(made.timesteps):
            bar = state / alpha[i]
            state = made.step((bar - denoise(bar, grid[i])) / grid[i], t, state).prev_sample
        return state / alpha[-1]

    return run


DPM, UNI = "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"
SIGMA = {"final_sigmas_type": "sigma_min"}
# method, our solver, is it one of two evaluations a step, peers: label -> how it is made
ROWS: list[tuple[str, Solver | str, bool, dict[str, Callable[[], Peer]]]] = [
    ("DDIM, Euler", "ddim", False, {"k": lambda: k_diffusion("sample_euler"), "azula": lambda: azula("EulerSampler")}),
    ("Heun", "heun", True, {"k": lambda: k_diffusion("sample_heun")}),
    ("DPM-Solver-2 singlestep, KDPM2", "dpm-solver-2s", True, {"k": lambda: k_diffusion("sample_dpm_2")}),
    ("DPM-Solver++ 2S", "dpm++2s", True, {"k": lambda: k_diffusion("sample_dpmpp_2s_ancestral", eta=0.0)}),
    ("DPM-Solver-3 singlestep", "dpm-solver-3s", False, {}),
    ("DPM-Solver++ 3S", "dpm++3s", False, {}),
    ("DPM-Solver++ 2M midpoint", "dpm++2m", False, {
        "k": lambda: k_diffusion("sample_dpmpp_2m"), "diffusers": lambda: diffusers(DPM, solver_order=2, **SIGMA)}),
    ("DPM-Solver++ 2M exact, xEAB2", "dpm++2m-exact", False, {"azula": lambda: azula("xEABSampler", order=2)}),
    ("DPM-Solver++ 3M published", "dpm++3m-published", False, {
        "k": lambda: k_diffusion("sample_dpmpp_3m_sde", eta=0.0), "diffusers": lambda: diffusers(DPM, solver_order=3, **SIGMA)}),
    ("xEAB3", Multistep(predictor=3, start_up="none"), False, {"azula": lambda: azula("xEABSampler", order=3)}),
    ("DPM-Solver++ 3M, third order", "dpm++3m", False, {}),
    ("xEAB4", Multistep(predictor=4, start_up="none"), False, {"azula": lambda: azula("xEABSampler", order=4)}),
    ("DPM-Solver 2M (eps)", "dpm-solver-2m", False, {
        "diffusers": lambda: diffusers(DPM, solver_order=2, algorithm_type="dpmsolver", **SIGMA)}),
    ("DPM-Solver 3M (eps) published", "dpm-solver-3m", False, {
        "diffusers": lambda: diffusers(DPM, solver_order=3, algorithm_type="dpmsolver", **SIGMA)}),
    ("DEIS2, zEAB2", "deis2", False, {
        "diffusers": lambda: diffusers("DEISMultistepScheduler", solver_order=2), "azula": lambda: azula("zEABSampler", order=2)}),
    ("DEIS3, zEAB3 published", Multistep("eps", predictor=3, start_up="none"), False, {
        "diffusers": lambda: diffusers("DEISMultistepScheduler", solver_order=3), "azula": lambda: azula("zEABSampler", order=3)}),
    ("DEIS3, third order", "deis3", False, {}),
    ("tAB2 on EDM, zAB2, LMS2", Multistep("eps", "t", 2, start_up="none"), False, {"azula": lambda: azula("zABSampler", order=2)}),
    ("rhoAB3, zAB3, LMS3 published", Multistep("eps", "rho", 3, start_up="none"), False, {"azula": lambda: azula("zABSampler", order=3)}),
    ("LMS3, third order", "lms3", False, {}),
    ("LMS4 published", Multistep("eps", "rho", 4, start_up="none"), False, {"k": lambda: k_diffusion("sample_lms")}),
    ("vAB2", "vab2", False, {"azula": lambda: azula("vABSampler", order=2)}),
    ("vAB3 published", Multistep("v", "logistic", 3, start_up="none", scale=1.0, power=1.0), False, {
        "azula": lambda: azula("vABSampler", order=3)}),
    ("vAB3, third order", "vab3", False, {}),
    ("REAB2, corrected", "reab2", False, {"azula": lambda: azula("REABSampler", order=2)}),
    ("REAB3, corrected", Multistep("F", predictor=3, scale=1.0), False, {"azula": lambda: azula("REABSampler", order=3)}),
    ("UniPC2 bh1", "unipc2-bh1", False, {"diffusers": lambda: diffusers(UNI, solver_order=2, solver_type="bh1", **SIGMA)}),
    ("UniPC2 bh2", "unipc2-bh2", False, {"diffusers": lambda: diffusers(UNI, solver_order=2, solver_type="bh2", **SIGMA)}),
    ("UniPC2 exact", "unipc2", False, {}),
    ("UniPC3 bh1", Multistep(predictor=3, corrector=4, start_up="none", variant="bh1"), False, {
        "diffusers": lambda: diffusers(UNI, solver_order=3, solver_type="bh1", **SIGMA)}),
    ("UniPC3 bh2", Multistep(predictor=3, corrector=4, start_up="none", variant="bh2"), False, {
        "diffusers": lambda: diffusers(UNI, solver_order=3, solver_type="bh2", **SIGMA)}),
    ("PLMS (N + 1 evaluations)", "plms", False, {}),
    ("gradient estimation, gamma = 2", GradientEstimation(), False, {}),
    ("gradient estimation, gamma = 1.5", GradientEstimation(1.5), False, {}),
    ("EVODiff, experimental", EVODiff(), False, {}),
    ("TrigFlow, F in theta", "trig3:scale=.8", False, {}),
    ("F in lambda, 3", "f3:scale=.8", False, {}),
    ("F in lambda, 4", "f4:scale=.8", False, {}),
    ("F logistic, 3", "logistic3:scale=.8", False, {}),
    ("F logistic, 4", "logistic4:scale=.8", False, {}),
    ("DPM-Solver-v3, 2, statistics of the model", "v3", False, {}),
    ("DPM-Solver-v3, 2 + 3, statistics of the model", "v3c", False, {}),
]  # fmt: skip


def error(found: torch.Tensor, exact: torch.Tensor) -> tuple[float, float]:
    distance = torch.linalg.vector_norm(found - exact, dim=1)
    return distance.median().item(), distance.square().mean().sqrt().item()


def ours(solver: Solver | str, grid: Levels, start: torch.Tensor) -> tuple[torch.Tensor, int]:
    made = sample(LAW, len(start), solver=solver, grid=Times(tuple(grid)), start=(start, grid[0]))
    return made.x, made.nfe  # type: ignore[return-value]


def grid_for(solver: Any, pair: bool, kind: str, budget: int) -> Levels:
    if solver in ("dpm-solver-2s", "dpm++2s"):
        return halved(kind, budget)
    return levels(kind, budget // 2 if pair else budget)


def table(quick: bool) -> tuple[list[tuple[str, str, list[tuple[float, float]]]], list[str]]:
    """Rows (method, who, cells over the grids at every budget), and what was left out."""
    start = gm4_points(HIGH, 512)
    exact = LAW.transport(start, HIGH, LOW, steps=1000 if quick else 4000)
    statistics = calibrate(LAW, LAW.draw(2048, torch.Generator().manual_seed(1)))
    named: dict[Any, Solver] = {"v3": DPMSolverV3(statistics, 2, 0), "v3c": DPMSolverV3(statistics, 2, 3)}
    rows, missing = [], []
    for name, solver, pair, peers in ROWS:
        made = named.get(solver, solver)
        grids = [(kind, budget) for kind in "KLG" for budget in BUDGETS]
        rows.append((name, "unstir", [error(ours(made, grid_for(solver, pair, *at), start)[0], exact) for at in grids]))
        for label, make in peers.items():
            try:
                run = make()
            except Exception as reason:  # a peer may fail to import in any way
                missing.append(f"{label}: {type(reason).__name__}: {reason}")
                continue
            cells = [error(run(start.clone(), levels(kind, budget // 2 if pair else budget)), exact) for kind, budget in grids]
            rows.append((name, label, cells))
    return rows, sorted(set(missing))


def recommended() -> list[tuple[str, str, list[tuple[float, float]]]]:
    """Our recommendation at every budget, for GM4 (no step to 0), and on other laws to sigma = 0, guided too."""
    start = gm4_points(HIGH, 512)
    exact = LAW.transport(start, HIGH, LOW)
    rows = []
    for solver in ("logistic3", "logistic3:scale=.8", "multistep:F,logistic,4,scale=.8", "f3:scale=.8", "dpm++2m"):
        scale = 0.8 if ".8" in solver else 0.5
        grids = [Logistic(n, HIGH, LOW, False, scale=scale).times(EDM()) for n in BUDGETS]
        rows.append((f"GM4, {solver}", f"logistic:N,scale={scale}", [error(ours(solver, grid, start)[0], exact) for grid in grids]))
    count = 256
    label = {"class": torch.arange(count) % 3}
    laws: dict[str, tuple[Any, Any, Any]] = {
        "ring of 8": (ring8(), (), None),
        "3 classes, given": (classes3(), (), label),
        "3 classes, guided by 4": (classes3(), (CFG(4.0),), label),
        "3 classes, guided by 9": (classes3(), (CFG(9.0),), label),
    }
    for name, (law, guides, condition) in laws.items():
        options = {"guides": guides, "condition": condition, "seed": 3}
        truth: Any = sample(law, count, solver="rk45:1e-8,1e-9", grid="log-snr:12", **options).x
        for solver, grid in (("dpm++2m", "karras"), ("dpm++2m", "log-snr"), ("dpm++2m", "logistic"), ("logistic3", "logistic")):
            found = [sample(law, count, solver=solver, grid=f"{grid}:{n}", **options).x for n in BUDGETS]
            rows.append((f"{name}, {solver}", f"{grid}:N", [error(x, truth) for x in found]))  # type: ignore[arg-type]
    return rows


def shown(cells: list[tuple[float, float]]) -> str:
    return " | ".join(f"{number(a)} / {number(b)}" for a, b in cells)


def number(value: float) -> str:
    text = f"{value:.3g}" if value >= 0.1 else f"{value:.2g}" if value >= 0.01 else f"{value:.4f}".rstrip("0")
    return text.removeprefix("0") if value < 1 else text


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--quick", action="store_true", help="a rougher reference flow")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows, missing = table(arguments.quick)
    best = recommended()
    made = "Made by `python benchmarks/gm4.py --markdown benchmarks/gm4.md`."
    lines = ["# Error against evaluations on GM4", "", made, "", *(__doc__ or "").strip().splitlines()[4:], ""]
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "azula", "diffusers", "k-diffusion") if present(name)]
    lines += [f"Versions: {', '.join(versions)}. Left out: {'; '.join(missing) or 'none'}.", ""]
    lines += ["| method | who | " + " | ".join(f"{kind} {n}" for kind in "KLG" for n in BUDGETS) + " |", "|---|---|" + "---|" * 9]
    lines += [f"| {name} | {who} | {shown(cells)} |" for name, who, cells in rows]
    lines += ["", "## Best RMSE at each number of evaluations, without statistics of the model", ""]
    lines += ["| | 5 | 10 | 20 |", "|---|---|---|---|"]
    for who, first, last in (("peers", 0, 2), ("unstir", 0, 2), ("unstir", 2, 3)):
        fair = [row for row in rows if "statistics" not in row[0] and "N + 1" not in row[0]]
        own = [cells for _, label, cells in fair if (label == "unstir") == (who == "unstir")]
        if own:
            least = [min(c[3 * grid + j][1] for c in own for grid in range(first, last)) for j in range(3)]
            lines.append(f"| {who} on {'K and L' if first == 0 else 'G'} | " + " | ".join(map(number, least)) + " |")
    lines += ["", "## What we recommend", "", "| law, solver | grid | 5 | 10 | 20 |", "|---|---|---|---|---|"]
    lines += [f"| {name} | `{grid}` | {shown(cells)} |" for name, grid, cells in best]
    text = "\n".join(lines) + "\n"
    print(text)
    if arguments.markdown:
        arguments.markdown.write_text(text)


def present(name: str) -> bool:
    try:
        return bool(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return False


if __name__ == "__main__":
    main()
