"""Shares of a set of generated molecules: how many are valid, distinct and new, and what reward they earn.

    valid / samples,    unique / valid,    novel / unique,    their product = novel / samples

Each share names its denominator, and its parts are the samples. Distances to real molecules are in `molecule_distances`.

Reference: Jo et al. 2022 (GDSS), arXiv:2202.02514.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unstir.errors import DataError
from unstir.plugin.protocols import Case, Estimate, MetricInfo, Score
from unstir_molecules.judge import Judgement, are_valid, are_whole, every, judge, shares_of_distinct

Array = NDArray[Any]
BEFORE = "before any correction"
SAMPLES = "the interval resamples samples"


def train_of(case: Case) -> list[str]:
    """SMILES of what the method saw.

    Args:
        case: of a task that generates molecules.
    """
    return [one for one in every(case.measurement) if one]


def test_of(case: Case) -> list[str]:
    """SMILES of real molecules that the method has not seen.

    Args:
        case: with its truth.

    Raises:
        DataError: it has none.
    """
    if case.truth is None:
        raise DataError(f"case {case.key} has no test set to compare with")
    return [one for one in every(case.truth) if one]


def _share(values: Array) -> Score:
    """A percentage whose parts are the samples; NaN of nothing."""
    percent = 100.0 * np.asarray(values, dtype=np.float64)
    return Score(float(percent.mean()) if len(percent) else float("nan"), tuple(float(part) for part in percent))


@dataclass(frozen=True)
class Validity:
    """Which samples are molecules: as drawn, in one piece, and after correction."""

    def describe(self) -> list[MetricInfo]:
        """Three entries, all of the samples."""
        first = f"share of samples that pass RDKit's valence check {BEFORE} and of which a molecule can be made; {SAMPLES}"
        whole = f"share of samples that came as one fragment, before the longest was kept; {SAMPLES}"
        after = f"share of samples of which a molecule was made, mended ones included (100 % by construction where one mends); {SAMPLES}"
        return [
            MetricInfo("valid", "valid", "%", "up", first),
            MetricInfo("one-fragment", "one fragment", "%", "up", whole),
            MetricInfo("valid-corrected", "valid, corrected", "%", "up", after),
        ]

    def __call__(self, estimate: Estimate, case: Case) -> dict[str, Score]:
        """Look at the samples.

        Args:
            estimate: a set of molecules.
            case: not looked at.
        """
        made = np.asarray([bool(one) for one in every(estimate.data)])
        valid, whole = are_valid(estimate.data), are_whole(estimate.data)
        return {"valid": _share(valid), "one-fragment": _share(whole), "valid-corrected": _share(made)}


@dataclass(frozen=True)
class Novelty:
    """Which molecules differ from each other and from the training set: of the valid ones, and of all that were made."""

    def describe(self) -> list[MetricInfo]:
        """Six entries; each share divides by the one before it."""
        infos = []
        for tail, title, base in (("", "", f"valid ({BEFORE})"), ("-corrected", ", corrected", "made (corrected ones included)")):
            unique = f"distinct canonical SMILES without isomers among the {base} samples / these samples"
            novel = f"of the distinct SMILES of {base} samples, the share that is not in the training set"
            both = f"distinct SMILES of {base} samples that are not in the training set / all samples: valid x unique x novel"
            held = "the interval resamples samples, a repeated SMILES counting 1 / its repeats"
            infos += [
                MetricInfo(f"vun{tail}", f"V x U x N{title}", "%", "up", f"{both}; {held}"),
                MetricInfo(f"unique{tail}", f"unique{title}", "%", "up", f"{unique}; {held}"),
                MetricInfo(f"novel{tail}", f"novel{title}", "%", "up", f"{novel}; the interval resamples distinct SMILES"),
            ]
        return infos

    def __call__(self, estimate: Estimate, case: Case) -> dict[str, Score]:
        """Compare with the training set.

        Args:
            estimate: a set of molecules.
            case: its measurement is the training set.
        """
        seen, smiles = set(train_of(case)), every(estimate.data)
        scores: dict[str, Score] = {}
        for tail, held in (("", are_valid(estimate.data)), ("-corrected", np.asarray([bool(one) for one in smiles]))):
            asked = [one if is_held else "" for one, is_held in zip(smiles, held, strict=True)]
            weight, new = shares_of_distinct(asked), np.asarray([one not in seen for one in asked])
            scores[f"vun{tail}"] = _share(weight * new)
            scores[f"unique{tail}"] = _share(weight[held])
            scores[f"novel{tail}"] = _share(np.asarray([one not in seen for one in sorted(set(asked) - {""})]))
        return scores


@dataclass(frozen=True)
class Numerators:
    """How many molecules the shares are made of."""

    def describe(self) -> list[MetricInfo]:
        """One entry a count."""
        told = {
            "samples": ("samples", "samples"),
            "valid-count": ("valid", f"samples that are valid {BEFORE}"),
            "unique-count": ("unique", "distinct SMILES of valid samples"),
            "novel-count": ("novel", "distinct SMILES of valid samples that are not in the training set"),
            "made-count": ("made", "samples of which a molecule was made, corrected ones included"),
            "novel-made-count": ("novel, corrected", "distinct SMILES of made samples that are not in the training set"),
        }
        return [MetricInfo(key, f"{title} (count)", "", "neither", f"number of {how}") for key, (title, how) in told.items()]

    def __call__(self, estimate: Estimate, case: Case) -> dict[str, Score]:
        """Count.

        Args:
            estimate: a set of molecules.
            case: its measurement is the training set.
        """
        found: Judgement = judge(estimate.data, train_of(case))
        counted = (found.samples, found.valid, found.unique, found.novel, found.made, found.novel_made)
        return {info.key: Score(float(count)) for info, count in zip(self.describe(), counted, strict=True)}


@dataclass(frozen=True)
class Reward:
    """Mean of a reward over all samples, 0 where there is no molecule; and how many different molecules earn it.

    Args:
        reward: a name of `unstir_molecules.properties.reward`.

    Raises:
        UserError: there is no such reward.
    """

    reward: str = "qed"

    def __post_init__(self) -> None:
        from unstir_molecules.properties import reward

        reward(self.reward)

    def describe(self) -> list[MetricInfo]:
        """The mean, and the share of distinct molecules."""
        how = f"mean of {self.reward} (RDKit) over all samples, 0 where no molecule could be made"
        differ = f"distinct SMILES of all samples / samples; {SAMPLES}, repeats counting 1 / repeats"
        return [
            MetricInfo("reward", f"mean {self.reward}", "", "up", f"{how}; {SAMPLES}"),
            MetricInfo("distinct", "distinct", "%", "up", differ),
        ]

    def __call__(self, estimate: Estimate, case: Case) -> dict[str, Score]:
        """Ask for the reward of every sample.

        Args:
            estimate: a set of molecules.
            case: not looked at.
        """
        from unstir_molecules.properties import rewards

        smiles = every(estimate.data)
        values = rewards(self.reward, smiles)
        return {"reward": Score(float(values.mean()), tuple(float(one) for one in values)), "distinct": _share(shares_of_distinct(smiles))}
