"""What was wrong with samples: counts of the kinds of failure of a set of molecules, in one order, for reports."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from unstir_molecules.build import PROBLEMS
from unstir_molecules.judge import are_valid, every

KINDS = {
    "unparsable": "the text is no SMILES: a ring or a bracket is left open",
    **{kind: told for kind, told in PROBLEMS.items() if kind},
}
"""Kinds of failure and what they are; other kinds that a set names come after these."""


@dataclass(frozen=True)
class Failure:
    """How often one kind of failure occurs.

    Args:
        kind: a key of `KINDS`, or what the set calls it.
        told: what it is, in a few words.
        count: samples whose first problem it was.
        share: of all samples.
        mended: of them, samples of which a molecule was made all the same.
    """

    kind: str
    told: str
    count: int
    share: float
    mended: int


def failures(data: xr.Dataset) -> list[Failure]:
    """Failures of a set, by kind; kinds that do not occur are there with 0.

    Args:
        data: a set of molecules; where it has no ``problem``, samples that are not valid are "unknown".

    Returns:
        An entry a kind, those of `KINDS` first, others by name.

    Raises:
        DataError: this is no set of molecules, or it has no samples.
    """
    made = np.asarray([bool(one) for one in every(data)])
    if "problem" in data:
        problem = np.asarray(data["problem"].values).astype(str)
    else:
        problem = np.where(are_valid(data), "", "unknown")
    others = sorted(set(problem.tolist()) - set(KINDS) - {""})
    return [
        Failure(kind, KINDS.get(kind, kind), int(held.sum()), float(held.mean()), int((held & made).sum()))
        for kind in (*KINDS, *others)
        for held in [problem == kind]
    ]
