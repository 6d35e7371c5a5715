"""Distances of generated molecules to real ones, each with its implementation, its conventions and its number of molecules.

Every distance compares as many molecules of one set as of the other, drawn without replacement by a seed: most are biased by a term that
falls with that number. Its parts are those of a block jackknife (`unstir_molecules.judge.with_parts`), so that an interval comes from
resampling them; where a number is a mean over samples, these are its parts.

Reference: Preuer et al. 2018 (FCD), arXiv:1803.09518; Polykovskiy et al. 2020 (MOSES), arXiv:1811.12823; Jo et al. 2022 (GDSS),
arXiv:2202.02514.
"""

from __future__ import annotations

from dataclasses import dataclass

from unstir.errors import UserError
from unstir.plugin.protocols import Case, Estimate, MetricInfo, Score
from unstir_molecules import fcd, fragments, nspdk, similarity
from unstir_molecules.judge import chosen, every, with_parts
from unstir_molecules.molecule_metrics import SAMPLES, test_of, train_of
from unstir_molecules.properties import NAMES, TITLES, UNITS, properties, wasserstein

JACKKNIFE = "the interval is that of a block jackknife of 20 blocks (conservative near the floor)"


@dataclass(frozen=True)
class OfSets:
    """A number of two sets of molecules, each a random part of what there is.

    Args:
        count: molecules of each side at most.
        seed: draws them.

    Raises:
        UserError: fewer than 2.
    """

    count: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.count < 2:
            raise UserError(f"a distance of sets needs a count of at least 2, got {self.count}")

    def sides(self, estimate: Estimate, case: Case) -> tuple[list[str], list[str]]:
        """As many of the made molecules as of the test set.

        Args:
            estimate: a set of molecules.
            case: with its truth.
        """
        made, test = [one for one in every(estimate.data) if one], test_of(case)
        n = min(self.count, len(made), len(test))
        return ([], []) if n < 2 else (chosen(made, n, self.seed), chosen(test, n, self.seed + 1))


@dataclass(frozen=True)
class FCD(OfSets):
    """Frechet ChemNet distance to the test set, its n, and that of the training set at the same n."""

    def describe(self) -> list[MetricInfo]:
        """The distance, its n and its floor."""
        how = "Frechet distance of ChemNet activations (network of fcd; canonical SMILES without isomers, padded to 350; repeats count)"
        n = f"n molecules on each side, {self.count} at most; biased upwards by a term that falls with n"
        return [
            MetricInfo("fcd", "FCD", "", "down", f"{how} between made samples and the test set, {n}; {JACKKNIFE}"),
            MetricInfo("fcd-n", "FCD's n", "", "neither", "molecules on each side of the FCD"),
            MetricInfo("fcd-floor", "FCD of train", "", "neither", f"{how} between the training set and the test set at the same n"),
        ]

    def __call__(self, estimate: Estimate, case: Case) -> dict[str, Score]:
        """Look through ChemNet.

        Args:
            estimate: a set of molecules.
            case: with its truth.

        Raises:
            MissingExtra: fcd is not installed.
        """
        ours, theirs = self.sides(estimate, case)
        train = train_of(case)
        n = min(len(ours), len(train))
        if n < 2:
            return {"fcd": Score(float("nan")), "fcd-n": Score(float(n)), "fcd-floor": Score(float("nan"))}
        test = fcd.activations(chosen(test_of(case), self.count, self.seed + 1))[:n]  # the same for every method: remembered
        floor = fcd.activations(chosen(train, self.count, self.seed + 2))[:n]
        found = fcd.between(fcd.activations(ours[:n]), test, seed=self.seed)
        return {"fcd": Score(found.value, found.parts), "fcd-n": Score(float(n)), "fcd-floor": Score(fcd.frechet(floor, test))}


@dataclass(frozen=True)
class NSPDK(OfSets):
    """MMD^2 under the neighbourhood subgraph pairwise distance kernel to the test set, and that of the training set."""

    def describe(self) -> list[MetricInfo]:
        """The distance and its floor."""
        how = "MMD^2 (biased, linear kernel) of NSPDK features: EDeN's with r = d = 4, 2^16 places, a fixed hash, aromatic bonds as order 1"
        n = f"n molecules on each side, {self.count} at most, as many as of the FCD of the same count"
        return [
            MetricInfo("nspdk", "NSPDK", "", "down", f"{how}; made samples against the test set, {n}; {JACKKNIFE}"),
            MetricInfo("nspdk-floor", "NSPDK of train", "", "neither", f"{how}; the training set against the test set at the same n"),
        ]

    def __call__(self, estimate: Estimate, case: Case) -> dict[str, Score]:
        """Embed and compare.

        Args:
            estimate: a set of molecules.
            case: with its truth.
        """
        ours, theirs = self.sides(estimate, case)
        train = train_of(case)
        n = min(len(ours), len(train))
        if n < 2:
            return {"nspdk": Score(float("nan")), "nspdk-floor": Score(float("nan"))}
        made, test, seen = (nspdk.embedded(one) for one in (ours[:n], theirs[:n], chosen(train, n, self.seed + 2)))
        value, parts = with_parts(lambda left, right: nspdk.squared_mmd(made[left], test[right]), (n, n), seed=self.seed)
        return {"nspdk": Score(value, parts), "nspdk-floor": Score(nspdk.squared_mmd(seen, test))}


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

    def __call__(self, estimate: Estimate, case: Case) -> dict[str, Score]:
        """Compare bits.

        Args:
            estimate: a set of molecules.
            case: with its truth.
        """
        ours, theirs = (similarity.fingerprints(one) for one in self.sides(estimate, case))
        if not len(ours):
            return {"snn": Score(float("nan")), "intdiv": Score(float("nan"))}
        near = similarity.nearest_similarity(ours, theirs)
        apart = 1.0 - similarity.mean_similarity(ours, ours)
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

    def __call__(self, estimate: Estimate, case: Case) -> dict[str, Score]:
        """Cut and count.

        Args:
            estimate: a set of molecules.
            case: with its truth.
        """
        sides = self.sides(estimate, case)
        if not sides[0]:
            return {"frag": Score(float("nan")), "scaf": Score(float("nan"))}
        cut = {"frag": map(fragments.fragments_of, sides), "scaf": (fragments.scaffolds_of(one, self.rings) for one in sides)}
        scores = {}
        for key, found in cut.items():
            ours, theirs = fragments.counts(list(found))
            sizes = (ours.shape[0], theirs.shape[0])
            scores[key] = Score(*with_parts(lambda a, b, x=ours, y=theirs: fragments.cosine(x[a], y[b]), sizes, seed=self.seed))  # type: ignore[misc]
        return scores


@dataclass(frozen=True)
class Properties(OfSets):
    """Are the properties distributed as those of the test set?"""

    def describe(self) -> list[MetricInfo]:
        """A distance a property."""
        how = f"of made samples and molecules of the test set, as many of both, {self.count} at most; {JACKKNIFE}"
        told = {name: f"Wasserstein-1 distance (SciPy) of the laws of {title} (RDKit) {how}" for name, title in TITLES.items()}
        return [MetricInfo(f"w1-{name}", f"W1 {TITLES[name]}", UNITS[name], "down", told[name]) for name in NAMES]

    def __call__(self, estimate: Estimate, case: Case) -> dict[str, Score]:
        """Compute and compare.

        Args:
            estimate: a set of molecules.
            case: with its truth.
        """
        sides = self.sides(estimate, case)
        if not sides[0]:
            return {f"w1-{name}": Score(float("nan")) for name in NAMES}
        ours, theirs = (properties(one) for one in sides)
        scores = {}
        for name in NAMES:
            x, y = ours[name], theirs[name]
            scores[f"w1-{name}"] = Score(*with_parts(lambda a, b, x=x, y=y: wasserstein(x[a], y[b]), (len(x), len(y)), seed=self.seed))  # type: ignore[misc]
        return scores
