"""Time of the CT operator beside the bare sparse matrix, on 48 slices of 128 x 128.

    OMP_NUM_THREADS=1 python benchmarks/ct_operator.py

The bare matrix is scipy's compressed rows times a dense block whose columns are the slices, already in that layout; the operator takes
volumes (slices, rows, columns) and gives sinograms, so it pays for both changes of layout. Budget: A + A^T within 3 times the matrix.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from unstir_medical.ct.joseph import joseph_matrix
from unstir_medical.tomography import ParallelBeamCT, parallel_beam

PLAN = {8: (4.5, 2.9), 20: (15.5, 8.8)}  # ms, the plan's own measurement of scipy's matrix on another machine


def milliseconds(work: Callable[[], Any], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return 1e3 * float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--slices", type=int, default=48)
    parser.add_argument("--size", type=int, default=128)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    print(
        "| views | nnz | build s | scipy A / A^T ms | operator A / A^T ms | A^T A ms | view by view A / A^T ms | ratio to scipy | plan ms |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for views in (8, 20, 60):
        operator = parallel_beam(views, chosen.size, chosen.slices, pixel_mm=2.281)
        started = time.perf_counter()
        joseph_matrix(operator.geometry.in_pixels(), "float32")
        built = time.perf_counter() - started
        matrix = operator.projector.matrix
        transposed = matrix.T.tocsr()
        x = torch.rand(1, *operator.shape_in)
        y = operator(x)
        columns = np.ascontiguousarray(x[0].flatten(1).T.numpy())
        rays = np.ascontiguousarray(y[0].flatten(1).T.numpy())
        lazy = ParallelBeamCT(operator.geometry, operator.slices, matrix_limit=0)
        bare = [milliseconds(work, chosen.repeats) for work in (lambda a=matrix, b=columns: a @ b, lambda a=transposed, b=rays: a @ b)]
        ours = [milliseconds(work, chosen.repeats) for work in (lambda o=operator, v=x: o(v), lambda o=operator, v=y: o.adjoint(v))]
        normal = milliseconds(lambda o=operator, v=x: o.normal(v), chosen.repeats)
        slow = [milliseconds(work, 3) for work in (lambda o=lazy, v=x: o(v), lambda o=lazy, v=y: o.adjoint(v))]
        plan = " / ".join(map(str, PLAN[views])) if views in PLAN else ""
        pairs = " | ".join(f"{a:.1f} / {b:.1f}" for a, b in (bare, ours))
        lazily = f"{slow[0]:.0f} / {slow[1]:.0f}"
        print(f"| {views} | {matrix.nnz} | {built:.2f} | {pairs} | {normal:.1f} | {lazily} | {sum(ours) / sum(bare):.2f} | {plan} |")


if __name__ == "__main__":
    main()
