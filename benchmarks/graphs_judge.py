"""How long it takes to judge generated graphs: 100 against 100, nothing remembered, one process.

    python benchmarks/graphs_judge.py                    # the generators' sets
    python benchmarks/graphs_judge.py --count 1000

Test and made graphs are the halves of a set of twice as many; the training graphs are made with another seed. Seconds are those of the
processor, the least of five runs, each with an empty memory.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from unstir.plugin.protocols import Case, Estimate
from unstir_molecules import isomorphism, mmd, remembered
from unstir_molecules.generators import SBM, Community, Ego, Grid, Planar
from unstir_molecules.graph_metrics import VUN, Connected, GDSSDistance, Novelty, Ratio, Sizes, SpectreDistance
from unstir_molecules.graphs import Graphs

SETS: dict[str, Any] = {"community-small": Community, "ego-small": Ego, "planar, 64 nodes": Planar, "sbm": SBM, "grid": Grid}
METRICS = {"MMD gdss": GDSSDistance(), "MMD spectre": SpectreDistance(), "ratio": Ratio(), "V.U.N.": VUN(), "novelty": Novelty(),
           "connected": Connected(), "sizes": Sizes()}  # fmt: skip
RUNS = 5


def judged(estimate: Estimate, case: Case) -> dict[str, float]:
    """Seconds of every metric, one after another, from an empty memory."""
    remembered.forget()
    mmd._means.forget()
    isomorphism._classes.forget()
    taken = {}
    for name, metric in METRICS.items():
        started = time.process_time()
        metric(estimate, case)
        taken[name] = time.process_time() - started
    return taken


def main() -> None:
    """Print a table, a row a set."""
    options = argparse.ArgumentParser(description="seconds to judge generated graphs")
    options.add_argument("--count", type=int, default=100, help="graphs made, and test graphs")
    count = options.parse_args().count
    print(f"| {count} v {count} graphs | nodes | {' | '.join(METRICS)} | all, s |")
    print(f"|{'---|' * (len(METRICS) + 3)}")
    for name, kind in SETS.items():
        every, train = kind(count=2 * count).graphs(), kind(count=count, seed=1).graphs()
        half: list[Graphs] = [every.take(range(first, first + count)) for first in (0, count)]
        case = Case("set", half[0].dataset("test"), train.dataset("train"), {})
        runs = [judged(Estimate(half[1].dataset("made")), case) for _ in range(RUNS)]
        best = min(runs, key=lambda one: sum(one.values()))
        columns = " | ".join(f"{best[key]:.3f}" for key in METRICS)
        print(f"| {name} | {every.nodes.min()} to {every.nodes.max()} | {columns} | **{sum(best.values()):.2f}** |", flush=True)


if __name__ == "__main__":
    main()
