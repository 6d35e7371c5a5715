"""Numbers that judge a set of generated graphs beside the test graphs and, for what is new, beside the training graphs.

    distances    MMD^2 of degree, clustering, orbit and spectral statistics in a named convention (`unstir_molecules.mmd`), and their ratio
                 to the distance of the training graphs
    sanity       connected, of the structure asked for, different from each other, different from every training graph; V.U.N.
    sizes        how far the numbers of nodes and edges are from the test graphs'

A distance is above 0 for real graphs, too, by more the fewer there are: read it beside the row of training graphs. Distances carry no parts
(a bootstrap of graphs adds copies, which a V-statistic takes for likeness): `unstir_molecules.mmd.resampled` gives their spread.
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from unstir.errors import DataError, UserError
from unstir.plugin.options import one_of
from unstir.plugin.protocols import Case, Estimate, MetricInfo, Score
from unstir_molecules.graphs import Graphs
from unstir_molecules.isomorphism import leakage, novel, uniqueness
from unstir_molecules.mmd import Convention, Spread, distances, jackknifed, kernel_of, mean_ratio, ratios, resampled
from unstir_molecules.statistics import STATISTICS, chosen
from unstir_molecules.structures import STRUCTURES, is_connected, valid

SAMPLES = "share of all generated graphs; the interval resamples them"
JACKKNIFE = "the interval is that of a block jackknife over made and test graphs, at most 20 blocks (conservative near the floor)"
WHAT = {
    "degree": "degree histograms",
    "clustering": "histograms of clustering coefficients (100 bins)",
    "orbit": "mean counts of the 15 orbits of connected graphlets of up to 4 nodes",
    "spectral": "histograms of normalised-Laplacian eigenvalues (200 bins on [-1e-5, 2])",
}
LAWS = {"emd": "earth mover's distance", "tv": "half the city-block distance", "l2": "Euclidean distance"}


def made_of(estimate: Estimate, case: Case) -> Graphs:
    """The generated graphs.

    Args:
        estimate: a set of graphs.
        case: what it answers.

    Raises:
        DataError: it is no set of graphs, or an empty one.
    """
    made = Graphs.of_dataset(estimate.data)
    if not len(made):
        raise DataError(f"the estimate of case {case.key} holds no graph")
    return made


def truth_of(case: Case) -> Graphs:
    """The test graphs.

    Args:
        case: with its truth.

    Raises:
        DataError: there is no truth.
    """
    if case.truth is None:
        raise DataError(f"case {case.key} has no test graphs to compare with")
    return Graphs.of_dataset(case.truth)


@dataclass(frozen=True)
class MMD(ABC):
    """MMD^2 to the test graphs.

    Args:
        statistics: which of degree, clustering, orbit, spectral.
        resamples: 0 compares all generated graphs at once; else the mean over so many random parts of as many graphs as there are test
            graphs.

    Raises:
        UserError: an option out of range.
    """

    statistics: tuple[str, ...] = STATISTICS
    resamples: int = 0

    convention: ClassVar[Convention]

    def __post_init__(self) -> None:
        object.__setattr__(self, "statistics", chosen(self.statistics))
        if self.resamples < 0 or self.resamples == 1:
            raise UserError(f"resamples must be 0 or at least 2, got {self.resamples}")

    @property
    @abstractmethod
    def source(self) -> str:
        """Whose convention it is."""

    def describe(self) -> list[MetricInfo]:
        """One entry a statistic."""
        how = f"mean over {self.resamples} parts of the test set's size" if self.resamples else "all generated graphs at once"
        infos = []
        for name in chosen(self.statistics):
            kernel = kernel_of(name, self.convention)
            step = f" (neighbouring bins {kernel.step:g} apart)" if kernel.law == "emd" else ""
            law = f"exp(-D^2 / (2 sigma^2)), D the {LAWS[kernel.law]}{step} of {WHAT[name]}, sigma {kernel.sigma:g}"
            warning = "; near a delta kernel: it saturates and ranks nothing" if (self.convention, name) == ("gdss", "spectral") else ""
            definition = (
                f"MMD^2 (V-statistic, diagonal included) to the test graphs, kernel {law} ({self.source}); {how}; {JACKKNIFE}{warning}"
            )
            better: Any = "neither" if warning else "down"
            infos.append(MetricInfo(f"{self.convention}-{name}", f"{name} MMD ({self.convention})", "", better, definition))
        return infos

    def __call__(self, estimate: Estimate, case: Case) -> dict[str, Score]:
        """Compare.

        Args:
            estimate: generated graphs.
            case: with its test graphs.
        """
        made, test = made_of(estimate, case), truth_of(case)
        if self.resamples:
            found = {name: one.value for name, one in self.spread(estimate, case, self.resamples).items()}
        else:
            every = distances(made, test, self.convention, self.statistics)
            found = {f"{self.convention}-{name}": value for name, value in every.items()}
        moves = jackknifed(made, test, self.convention, self.statistics)
        return {key: Score(value, tuple(value + moves[key.rpartition("-")[2]])) for key, value in found.items()}  # type: ignore[index]

    def spread(self, estimate: Estimate, case: Case, resamples: int = 10, seed: int = 0) -> dict[str, Spread]:
        """Mean, quantiles and standard deviation over random parts of the test set's size, by key.

        Args:
            estimate: generated graphs.
            case: with its test graphs.
            resamples: parts.
            seed: of the draws.
        """
        made, test = made_of(estimate, case), truth_of(case)
        found = resampled(made, test, convention=self.convention, statistics=self.statistics, resamples=resamples, seed=seed)
        return {f"{self.convention}-{name}": one for name, one in found.items()}


@dataclass(frozen=True)
class GDSSDistance(MMD):
    """Distances as GDSS and GraphRNN's line of work take them: Gaussian kernels of earth mover's distances."""

    convention: ClassVar[Convention] = "gdss"

    @property
    def source(self) -> str:
        """Whose convention it is."""
        return "as GDSS has it"


@dataclass(frozen=True)
class SpectreDistance(MMD):
    """Distances as SPECTRE, DiGress and those after them take them: Gaussian kernels of total variation."""

    convention: ClassVar[Convention] = "spectre"

    @property
    def source(self) -> str:
        """Whose convention it is."""
        return "as SPECTRE and DiGress have it"


@dataclass(frozen=True)
class Ratio:
    """How many times the distance of the training graphs the generated ones are from the test graphs.

    Args:
        convention: of the distances, ``"spectre"`` or ``"gdss"``.
        statistics: which; their mean is the number that the field tabulates.

    Raises:
        UserError: there is no such convention or statistic.
    """

    convention: Convention = "spectre"
    statistics: tuple[str, ...] = STATISTICS

    def __post_init__(self) -> None:
        object.__setattr__(self, "statistics", chosen(self.statistics))
        kernel_of("degree", self.convention)

    def describe(self) -> list[MetricInfo]:
        """One entry a statistic, and the mean."""
        how = f"MMD^2(generated, test) / MMD^2(training, test), convention {self.convention}, all graphs of each; NaN where the latter is 0"
        each = [MetricInfo(f"ratio-{name}", f"{name} ratio", "", "down", f"{how}; of {WHAT[name]}") for name in self.statistics]
        return [*each, MetricInfo("ratio", "ratio", "", "down", f"mean over {', '.join(self.statistics)} of {how}")]

    def __call__(self, estimate: Estimate, case: Case) -> dict[str, Score]:
        """Compare.

        Args:
            estimate: generated graphs.
            case: with its test graphs; its measurement is the training set.
        """
        test, train = truth_of(case), Graphs.of_dataset(case.measurement)
        floor = distances(train, test, self.convention, self.statistics)
        found = ratios(distances(made_of(estimate, case), test, self.convention, self.statistics), floor)
        without = [name for name, value in found.items() if math.isnan(value)]
        if without:
            warnings.warn(f"the ratio of {', '.join(without)} is NaN: training and test graphs do not differ in it", stacklevel=2)
        scores = {f"ratio-{name}": Score(value) for name, value in found.items()}
        return scores | {"ratio": Score(mean_ratio(found))}


@dataclass(frozen=True)
class VUN:
    """Valid, unique and novel: the share of generated graphs that is of the structure of the set, different and not in the training set.

    Args:
        structure: what a valid graph is; what the set says of itself (its attribute ``structure``) when empty, else ``"any"``.

    Raises:
        UserError: there is no such structure.
    """

    structure: str = ""

    def __post_init__(self) -> None:
        if self.structure:
            one_of(self, structure=tuple(STRUCTURES))

    def describe(self) -> list[MetricInfo]:
        """The share that has the structure, and V.U.N."""
        kind = self.structure or "the structure that the set promises"
        how = f"is of {kind} (planar, tree, lobster and grid: connected; sbm: blocks by description length, not graph-tool's)"
        parts = "k isomorphic graphs counting 1/k each, and is isomorphic to no training graph"
        return [
            MetricInfo("structure", "structure", "", "up", f"share of generated graphs that {how}; {SAMPLES}"),
            MetricInfo("vun", "V.U.N.", "", "up", f"share of generated graphs that {how}, {parts}; {SAMPLES}"),
        ]

    def __call__(self, estimate: Estimate, case: Case) -> dict[str, Score]:
        """Judge.

        Args:
            estimate: generated graphs.
            case: its measurement is the training set.
        """
        made, train = made_of(estimate, case), Graphs.of_dataset(case.measurement)
        kind: Any = self.structure or case.measurement.attrs.get("structure") or "any"
        right = valid(made, kind)
        return {"structure": _share(right), "vun": _share(np.where(right & novel(made, train), uniqueness(made), 0.0))}


@dataclass(frozen=True)
class Connected:
    """Share of generated graphs that are connected."""

    def describe(self) -> list[MetricInfo]:
        """One entry."""
        return [
            MetricInfo("connected", "connected", "", "up", f"graphs with one component, isolated nodes counting as components; {SAMPLES}")
        ]

    def __call__(self, estimate: Estimate, case: Case) -> dict[str, Score]:
        """Count components.

        Args:
            estimate: generated graphs.
            case: what they answer.
        """
        return {"connected": _share(is_connected(made_of(estimate, case)))}


@dataclass(frozen=True)
class Novelty:
    """Different from each other, and from the training graphs; and how much novelty can mean for such a set."""

    def describe(self) -> list[MetricInfo]:
        """Uniqueness, novelty, leakage."""
        unique = "isomorphism classes among the generated graphs / generated graphs; a graph without nodes is not unique"
        new = "graphs isomorphic to no training graph / all generated graphs (not: / unique ones)"
        leak = "share of test graphs isomorphic to a training graph: where large, novelty is no merit; the interval resamples test graphs"
        return [
            MetricInfo("uniqueness", "unique", "", "up", f"{unique}; the interval resamples graphs, k isomorphic ones weighing 1/k each"),
            MetricInfo("novelty", "novel", "", "up", f"{new}; the interval resamples generated graphs"),
            MetricInfo("leakage", "test in train", "", "neither", leak),
        ]

    def __call__(self, estimate: Estimate, case: Case) -> dict[str, Score]:
        """Compare by isomorphism.

        Args:
            estimate: generated graphs.
            case: with its test graphs; its measurement is the training set.
        """
        made, train, test = made_of(estimate, case), Graphs.of_dataset(case.measurement), truth_of(case)
        leaked = ~novel(test, train) & (test.nodes > 0)
        scores = {"uniqueness": _share(uniqueness(made)), "novelty": _share(novel(made, train))}
        return scores | {"leakage": Score(leakage(test, train).share, tuple(float(one) for one in leaked))}


@dataclass(frozen=True)
class Sizes:
    """How far the numbers of nodes and edges are from those of the test graphs."""

    def describe(self) -> list[MetricInfo]:
        """Distances and means."""
        how = "Wasserstein-1 distance between the generated and the test graphs' numbers of"
        mean = "mean over generated graphs, the interval resamples them; a fact, to be read beside the training graphs'"
        return [
            MetricInfo("nodes-distance", "nodes W1", "nodes", "down", f"{how} nodes"),
            MetricInfo("edges-distance", "edges W1", "edges", "down", f"{how} edges"),
            MetricInfo("nodes", "nodes", "", "neither", f"number of nodes, {mean}"),
            MetricInfo("edges", "edges", "", "neither", f"number of edges, {mean}"),
        ]

    def __call__(self, estimate: Estimate, case: Case) -> dict[str, Score]:
        """Compare.

        Args:
            estimate: generated graphs.
            case: with its test graphs.
        """
        from scipy.stats import wasserstein_distance

        made, test = made_of(estimate, case), truth_of(case)
        far = {name: Score(float(wasserstein_distance(getattr(made, name), getattr(test, name)))) for name in ("nodes", "edges")}
        return {f"{name}-distance": score for name, score in far.items()} | {"nodes": _share(made.nodes), "edges": _share(made.edges)}


def _share(values: Any) -> Score:
    """A mean over graphs with the values of the graphs as its parts."""
    parts = tuple(float(value) for value in values)
    return Score(float(np.mean(parts)), parts)
