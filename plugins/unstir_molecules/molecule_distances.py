"""Distances of generated molecules to real ones, each with its implementation, its conventions and its number of molecules.

Every distance compares as many molecules of one set as of the other, drawn without replacement by a seed: most are biased by a term that
falls with that number. Its parts are those of a block jackknife (`unstir_molecules.judge.with_parts`), so that an interval comes from
resampling them; where a number is a mean over samples, these are its parts.

Reference: Preuer et al. 2018 (FCD), arXiv:1803.09518; Polykovskiy et al. 2020 (MOSES), arXiv:1811.12823; Jo et al. 2022 (GDSS),
arXiv:2202.02514.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

from unstir.plugin.options import at_least
from unstir.plugin.protocols import Case, Estimate, MetricInfo, Score
from unstir_molecules import fcd, fragments, nspdk, similarity
from unstir_molecules.judge import chosen, every, with_parts
from unstir_molecules.molecule_metrics import SAMPLES, test_of, train_of
from unstir_molecules.properties import NAMES, TITLES, UNITS, properties, wasserstein

JACKKNIFE = "the interval is that of a block jackknife of 20 blocks (conservative near the floor)"


@dataclass(frozen=True)
class OfSets(ABC):
    """A number of two sets of molecules, each a random part of what there is.

    Args:
        count: molecules of each side at most.
        seed: draws them.

    Raises:
        UserError: fewer than 2.
    """

    count: int = 1000
    seed: int = 0

    floored: ClassVar[bool] = False
    """Is the training set compared with the test set too?"""

    def __post_init__(self) -> None:
        at_least(self, count=2)

    @abstractmethod
    def describe(self) -> list[MetricInfo]:
        """An entry a number."""

    def __call__(self, estimate: Estimate, case: Case) -> dict[str, Score]:
        """Draw as many of the made molecules as of the real ones, and compare.

        Args:
            estimate: a set of molecules.
            case: with its truth.
        """
        made = [one for one in every(estimate.data) if one]
        real = [test_of(case), train_of(case)] if self.floored else [test_of(case)]
        n = min(self.count, len(made), *map(len, real))
        if n < 2:
            return self.without(n)
        drawn = [chosen(one, self.count, self.seed + 1 + place) for place, one in enumerate(real)]  # the same for every method
        return self.compared(n, chosen(made, n, self.seed), *drawn)

    def without(self, n: int) -> dict[str, Score]:
        """What is said where there is nothing to compare.

        Args:
            n: molecules of the smaller side.
        """
        return {info.key: Score(float("nan")) for info in self.describe()}

    @abstractmethod
    def compared(self, n: int, ours: list[str], theirs: list[str], *train: list[str]) -> dict[str, Score]:
        """The numbers.

        Args:
            n: molecules of each side.
            ours: n made ones.
            theirs: of the test set, of which the first n count; what is seen in all of them is kept.
            train: of the training set, the same, where it is compared too.
        """

    def jackknifed(self, distance: Callable[[Any, Any], float], ours: Any, theirs: Any) -> Score:
        """A distance of two sets with the parts of a block jackknife.

        Args:
            distance: of rows.
            ours: a row a molecule.
            theirs: a row a molecule.
        """
        sizes = (ours.shape[0], theirs.shape[0])
        return Score(*with_parts(lambda left, right: distance(ours[left], theirs[right]), sizes, seed=self.seed))


@dataclass(frozen=True)
class FCD(OfSets):
    """Frechet ChemNet distance to the test set, its n, and that of the training set at the same n.

    Args:
        count: molecules of each side at most.
        seed: draws them.
        labelled: do the keys name the count ("fcd-1000"), so that two counts stand beside each other?

    Raises:
        UserError: fewer than 2.
    """

    labelled: bool = False

    floored: ClassVar[bool] = True

    @property
    def keys(self) -> tuple[str, str, str]:
        """The keys of the distance, its n and its floor."""
        tail = f"-{self.count}" if self.labelled else ""
        return f"fcd{tail}", f"fcd-n{tail}", f"fcd-floor{tail}"

    def describe(self) -> list[MetricInfo]:
        """The distance, its n and its floor."""
        (key, many, floor), at = self.keys, f" ({self.count})" if self.labelled else ""
        how = "Frechet distance of ChemNet activations (network of fcd; canonical SMILES without isomers, padded to 350; repeats count)"
        n = f"n molecules on each side, {self.count} at most; biased upwards by a term that falls with n"
        return [
            MetricInfo(key, f"FCD{at}", "", "down", f"{how} between made samples and the test set, {n}; {JACKKNIFE}"),
            MetricInfo(many, f"FCD's n{at}", "", "neither", "molecules on each side of the FCD"),
            MetricInfo(floor, f"FCD of train{at}", "", "neither", f"{how} between the training set and the test set at the same n"),
        ]

    def without(self, n: int) -> dict[str, Score]:
        """Its n alone.

        Args:
            n: molecules of the smaller side.
        """
        return super().without(n) | {self.keys[1]: Score(float(n))}

    def compared(self, n: int, ours: list[str], theirs: list[str], *train: list[str]) -> dict[str, Score]:
        """Look through ChemNet.

        Args:
            n: molecules of each side.
            ours: n made ones.
            theirs: of the test set.
            train: of the training set.

        Raises:
            MissingExtra: fcd is not installed.
        """
        test, seen = (fcd.activations(one, keep=True)[:n] for one in (theirs, *train))
        found = self.jackknifed(fcd.frechet, fcd.activations(ours), test)
        return dict(zip(self.keys, (found, Score(float(n)), Score(fcd.frechet(seen, test))), strict=True))


@dataclass(frozen=True)
class NSPDK(OfSets):
    """MMD^2 under the neighbourhood subgraph pairwise distance kernel to the test set, and that of the training set."""

    floored: ClassVar[bool] = True

    def describe(self) -> list[MetricInfo]:
        """The distance and its floor."""
        how = "MMD^2 (biased, linear kernel) of NSPDK features: EDeN's with r = d = 4, 2^16 places, a fixed hash, aromatic bonds as order 1"
        n = f"n molecules on each side, {self.count} at most, as many as of the FCD of the same count"
        return [
            MetricInfo("nspdk", "NSPDK", "", "down", f"{how}; made samples against the test set, {n}; {JACKKNIFE}"),
            MetricInfo("nspdk-floor", "NSPDK of train", "", "neither", f"{how}; the training set against the test set at the same n"),
        ]

    def compared(self, n: int, ours: list[str], theirs: list[str], *train: list[str]) -> dict[str, Score]:
        """Embed and compare.

        Args:
            n: molecules of each side.
            ours: n made ones.
            theirs: of the test set.
            train: of the training set.
        """
        test, seen = (nspdk.embedded(one, keep=True)[:n] for one in (theirs, *train))
        found = self.jackknifed(nspdk.squared_mmd, nspdk.embedded(ours), test)
        return {"nspdk": found, "nspdk-floor": Score(nspdk.squared_mmd(seen, test))}


@dataclass(frozen=True)
class Similarity(OfSets):
    """How near the test set, and how varied, by fingerprints."""

    count: int = 3000

    def describe(self) -> list[MetricInfo]:
        """SNN and IntDiv."""
        how = "Tanimoto similarity of Morgan fingerprints (RDKit, radius 2, 1024 bits)"
        near = f"mean over made samples of the largest {how} to a molecule of the test set, as many of both, {self.count} at most"
        varied = f"1 - mean {how} over all pairs of made samples, a sample with itself included, {self.count} at most"
        return [
            MetricInfo("snn", "SNN", "", "up", f"{near}; {SAMPLES}"),
            MetricInfo("intdiv", "IntDiv", "", "neither", f"{varied}; {SAMPLES}"),
        ]

    def compared(self, n: int, ours: list[str], theirs: list[str], *train: list[str]) -> dict[str, Score]:
        """Compare bits.

        Args:
            n: molecules of each side.
            ours: n made ones.
            theirs: of the test set.
            train: none.
        """
        bits = similarity.fingerprints(ours)
        near = similarity.nearest_similarity(bits, similarity.fingerprints(theirs, keep=True)[:n])
        apart = 1.0 - similarity.mean_similarity(bits, bits)
        parts = apart.mean() + 2.0 * (apart - apart.mean())  # a mean over pairs moves twice as much with a sample as a mean over samples
        return {
            "snn": Score(float(near.mean()), tuple(float(part) for part in near)),
            "intdiv": Score(float(apart.mean()), tuple(float(part) for part in parts)),
        }


@dataclass(frozen=True)
class Fragments(OfSets):
    """Are the pieces of the molecules those of the test set?

    Args:
        count: molecules of each side at most.
        seed: draws them.
        rings: fewest rings of a scaffold that counts; MOSES has 2.
    """

    count: int = 3000
    rings: int = 2

    def describe(self) -> list[MetricInfo]:
        """Frag and Scaf."""
        how = f"as many made samples as molecules of the test set, {self.count} at most; {JACKKNIFE}"
        scaf = f"cosine of the counts of Bemis-Murcko scaffolds with at least {self.rings} rings (RDKit)"
        return [
            MetricInfo("frag", "Frag", "", "up", f"cosine of the counts of BRICS fragments (RDKit, attachment points labelled); {how}"),
            MetricInfo("scaf", "Scaf", "", "up", f"{scaf}; {how}"),
        ]

    def compared(self, n: int, ours: list[str], theirs: list[str], *train: list[str]) -> dict[str, Score]:
        """Cut and count.

        Args:
            n: molecules of each side.
            ours: n made ones.
            theirs: of the test set.
            train: none.
        """
        cuts: dict[str, Callable[..., list[list[str]]]] = {
            "frag": fragments.fragments_of,
            "scaf": partial(fragments.scaffolds_of, rings=self.rings),
        }
        scores = {}
        for key, cut in cuts.items():
            made, test = fragments.counts([cut(ours), cut(theirs, keep=True)[:n]])
            scores[key] = self.jackknifed(fragments.cosine, made, test)
        return scores


@dataclass(frozen=True)
class Properties(OfSets):
    """Are the properties distributed as those of the test set?"""

    def describe(self) -> list[MetricInfo]:
        """A distance a property."""
        how = f"of made samples and molecules of the test set, as many of both, {self.count} at most; {JACKKNIFE}"
        told = {name: f"Wasserstein-1 distance (SciPy) of the laws of {title} (RDKit) {how}" for name, title in TITLES.items()}
        return [MetricInfo(f"w1-{name}", f"W1 {TITLES[name]}", UNITS[name], "down", told[name]) for name in NAMES]

    def compared(self, n: int, ours: list[str], theirs: list[str], *train: list[str]) -> dict[str, Score]:
        """Compute and compare.

        Args:
            n: molecules of each side.
            ours: n made ones.
            theirs: of the test set.
            train: none.
        """
        made, test = properties(ours), properties(theirs, keep=True)
        return {f"w1-{name}": self.jackknifed(wasserstein, made[name], test[name][:n]) for name in NAMES}
