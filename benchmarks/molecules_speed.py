"""Seconds a molecule of GDSS: ours and the original code side by side, one process, the same weights, the same settings.

    git clone https://github.com/harryjo97/GDSS
    python benchmarks/molecules_speed.py --original GDSS                                     # 1000 molecules, 1000 steps
    python benchmarks/molecules_speed.py --original GDSS --count 128 --walked 20             # a quick look
    python benchmarks/molecules_speed.py --original GDSS --weights GDSS/checkpoints/QM9/gdss_qm9.pth

QM9's settings as published: variance exploding from .1 to 1, 1000 steps of reverse diffusion, each with a Langevin step (snr .2, scale .7,
norms over the batch). ``--walked N`` walks N of the steps and counts the rest as equally long. Sampling alone: no valencies, no metrics.
The best of some rounds of each counts. Seconds of the clock say what a user waits, seconds of the processor (all threads together) are the
fairer ratio on a machine that does other work.

The first table holds the two codes at the same settings; the second what else ours can do with the same weights. Without ``--weights`` they
are drawn: the time does not depend on them.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unstir_molecules.gdss.conversion import load, read, renamed
from unstir_molecules.gdss.generation import GDSS
from unstir_molecules.gdss.presets import Preset, denoiser_of, facts_of, preset

NODES, FEATURES, STEPS = 9, 4, 1000
SIZES = (0.0, 0.0, 0.0, 1.0, 4.0, 24.0, 137.0, 833.0, 5050.0)
"""How many molecules of QM9 have 1 to 9 heavy atoms, roughly."""
Run = Callable[[int], None]
"""Draw, walking so many steps."""


class Original:
    """The original samplers on the original networks.

    Args:
        folder: a checkout of harryjo97/GDSS.
        settings: sizes, processes and sampler.
    """

    def __init__(self, folder: Path, settings: Preset) -> None:
        if not (folder / "solver.py").is_file():
            raise SystemExit(f"{folder} is no checkout of harryjo97/GDSS: it has no solver.py")
        sys.path.insert(0, str(folder.resolve()))
        self.sde, self.solver = (importlib.import_module(name) for name in ("sde", "solver"))
        nets = [importlib.import_module(f"models.ScoreNetwork_{leaf}") for leaf in ("X", "A")]
        first, middle, last = settings.channels
        torch.manual_seed(0)
        self.x = nets[0].ScoreNetworkX(settings.features, settings.depth, settings.hidden).eval()
        self.a = nets[1].ScoreNetworkA(
            settings.features, settings.nodes, settings.hidden, settings.layers, settings.linears, first, middle, last,
            settings.attention, settings.heads, "GCN",
        ).eval()  # fmt: skip
        self.settings = settings

    def weights(self, found: dict[str, Any]) -> None:
        """Take the weights of an original checkpoint."""
        self.x.load_state_dict(found["x_state_dict"])
        self.a.load_state_dict(found["adj_state_dict"])

    def run(self, mask: Tensor, predictor: str) -> Run:
        """What draws the graphs of a mask with ``"Reverse"`` or ``"S4"``; few steps are the first ones of a thousand."""
        settings, shape = self.settings, (len(mask), self.settings.nodes, self.settings.features)
        own = {leaf: self.sde.VESDE(part.low, part.high, STEPS) for leaf, part in (("x", settings.x), ("a", settings.a))}
        build = self.solver.S4_solver if predictor == "S4" else self.solver.get_pc_sampler
        sampler = build(
            own["x"], own["a"], shape, (*shape[:2], shape[1]), predictor=predictor, corrector="Langevin", snr=settings.snr,
            scale_eps=settings.scale, n_steps=1, continuous=True, denoise=True, eps=1e-4, device="cpu",
        )  # fmt: skip

        def walk(steps: int) -> None:
            torch.manual_seed(0)
            own["a"].N = steps  # the length of the loop; a step costs what it costs, whatever its time
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                sampler(self.x, self.a, mask.float())

        return walk


def ours(settings: Preset, state: dict[str, Tensor], mask: Tensor, **options: Any) -> Run:
    """What draws the graphs of a mask with our code and the same weights; norms over the batch take the batch whole."""
    prior: Any = denoiser_of(settings, load(settings, state, "the weights"))
    prior.facts = facts_of(settings, {})
    options = {"batch": len(mask)} | options

    def walk(steps: int) -> None:
        GDSS(steps=steps, **options).draw(prior, mask, seed=0)

    return walk


def best(run: Run, steps: int, chosen: argparse.Namespace, told: str) -> tuple[float, float]:
    """Seconds a molecule of the fastest of some rounds, by the clock and by the processor, after one of two steps that warms up."""
    walked = min(steps, chosen.walked)
    run(2)
    found = []
    for number in range(chosen.rounds):
        clock, processor = time.perf_counter(), time.process_time()
        run(walked)
        found.append((time.perf_counter() - clock, time.process_time() - processor))
        print(f"  {told}, round {number + 1}: {found[-1][0]:.2f} s ({found[-1][1]:.2f} s of processor)", file=sys.stderr)
    clock, processor = (min(times) * steps / walked / chosen.count for times in zip(*found, strict=True))
    return clock, processor


def agreement(theirs: Original, state: dict[str, Tensor]) -> float:
    """The largest difference of the outputs of both networks on the same noisy graphs."""
    generator = torch.Generator().manual_seed(1)
    x, a = torch.randn(64, NODES, FEATURES, generator=generator), torch.randn(64, NODES, NODES, generator=generator).triu(1)
    mask = torch.arange(NODES) < torch.randint(3, NODES + 1, (64, 1), generator=generator)
    x, a = x * mask[..., None], (a + a.mT) * mask[:, None] * mask[..., None]
    network = load(theirs.settings, state, "the weights")
    with torch.inference_mode():
        found = network({"x": x, "a": a}, None, {"mask": mask})
        beside = {"x": theirs.x(x, a, mask.float()), "a": theirs.a(x, a, mask.float())}
    return max(float((found[leaf] - beside[leaf]).abs().max()) for leaf in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--original", type=Path, required=True, metavar="FOLDER", help="a checkout of harryjo97/GDSS")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="its gdss_qm9.pth; nothing in it is executed")
    parser.add_argument("--count", type=int, default=1000, help="molecules, one batch (default 1000)")
    parser.add_argument("--walked", type=int, default=STEPS, help="steps that are walked of the 1000 (default all)")
    parser.add_argument("--rounds", type=int, default=1, help="rounds of each, the best counts (default 1)")
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    settings = preset("qm9")
    theirs = Original(chosen.original, settings)
    if chosen.weights:
        theirs.weights(read(chosen.weights))
    state = renamed(theirs.x.state_dict(), theirs.a.state_dict())
    print(f"outputs of the networks differ by at most {agreement(theirs, state):.1e}; {chosen.count} molecules, {chosen.threads} threads")
    sizes = torch.multinomial(torch.tensor(SIZES), chosen.count, True, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(NODES) <= sizes[:, None]
    same = {
        "reverse + Langevin, 1000 steps": (theirs.run(mask, "Reverse"), {"predictor": "reverse", "norms": "batch"}),
        "S4, 1000 steps": (theirs.run(mask, "S4"), {"predictor": "s4", "norms": "batch"}),
    }
    print("seconds a molecule by the clock (of the processor)")
    print("| the same settings | original | ours | ratio |\n|---|---|---|---|")
    for name, (run, options) in same.items():
        a = best(run, STEPS, chosen, f"{name}, original")
        b = best(ours(settings, state, mask, **options), STEPS, chosen, f"{name}, ours")
        print(f"| {name} | {told(a)} | {told(b)} | {a[0] / b[0]:.1f} ({a[1] / b[1]:.1f}) |", flush=True)
    more: dict[str, tuple[int, dict[str, Any]]] = {
        "reverse + Langevin, 1000 steps, norms of each graph": (STEPS, {"predictor": "reverse"}),
        "S4, 1000 steps, norms of each graph": (STEPS, {"predictor": "s4"}),
        "S4, 100 steps, norms of each graph": (100, {"predictor": "s4"}),
        "dpm++2m, 50 steps": (50, {"predictor": "dpm++2m"}),
    }
    print("\n| ours, by what a graph depends on and fewer steps | s a molecule |\n|---|---|")
    for name, (steps, options) in more.items():
        print(f"| {name} | {told(best(ours(settings, state, mask, **options), steps, chosen, name))} |", flush=True)


def told(seconds: tuple[float, float]) -> str:
    """Seconds by the clock, those of the processor in brackets."""
    return f"{seconds[0]:.4f} ({seconds[1]:.4f})"


if __name__ == "__main__":
    main()
