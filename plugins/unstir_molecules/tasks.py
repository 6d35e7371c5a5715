"""The question of this domain: given a set, make more like it that are not in it.

A case is a whole set: methods see its training part and the number that is wanted; what they make is judged beside the test part. A user's
own set is split by a hash of each molecule (of each isomorphism class of graphs), so that one graph is never on both sides.
"""

from __future__ import annotations

import hashlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import xarray as xr

from unstir.errors import DataError, UserError
from unstir.plugin.protocols import Case, Estimate


@dataclass(frozen=True)
class Generation(ABC):
    """What both tasks share.

    Args:
        count: samples wanted of a method.
        test: share of a user's own set that is kept for the test.

    Raises:
        UserError: an option out of range.
    """

    count: int = 1000
    test: float = 0.1

    case_noun: ClassVar[str] = "set"
    part_noun: ClassVar[str] = "sample"

    def __post_init__(self) -> None:
        if self.count < 1 or not 0 < self.test < 1:
            raise UserError(f"count must be at least 1 and test a share between 0 and 1, got {self.count} and {self.test}")

    def cases(self, items: Iterable[xr.Dataset]) -> Iterator[Case]:
        """One case a set.

        Args:
            items: sets with ``split``.

        Raises:
            DataError: a set does not say what is for the test, or has nothing in one of the parts.
        """
        for item in items:
            train, test = self.part(item, "train"), self.part(item, "test")
            numbers = {name: self.size(part) for name, part in (("training", train), ("test", test))}
            facts = {"training": f"{numbers['training']}", "test": f"{numbers['test']}", "samples of a method": f"{self.count}"}
            key = str(item.attrs.get("key", "set")).lower()
            yield Case(key, test, train, {"count": self.count, "facts": facts | dict(item.attrs.get("facts", {}))})

    @abstractmethod
    def part(self, item: xr.Dataset, name: str) -> xr.Dataset:
        """The training or the test part of a set.

        Args:
            item: the set.
            name: "train" or "test".

        Raises:
            DataError: there is none.
        """

    @abstractmethod
    def size(self, item: xr.Dataset) -> int:
        """Members of a set.

        Args:
            item: the set.
        """


@dataclass(frozen=True)
class Generate(Generation):
    """New molecules like those of a set.

    Args:
        count: molecules wanted of a method.
        test: share of a user's own set that is kept for the test.
    """

    metrics: ClassVar[tuple[str, ...]] = tuple(
        f"molecules/{name}" for name in ("novelty", "validity", "fcd", "nspdk", "similarity", "fragments", "properties")
    )
    figures: ClassVar[tuple[str, ...]] = ("molecules/grid", "molecules/properties", "molecules/failures")

    def read(self, path: Path, *, column: str = "", charged: str = "drop", fragments: str = "drop") -> xr.Dataset:
        """A user's own molecules (CSV, SMI, SDF), split by a hash of each.

        Args:
            path: the file.
            column: of a table: the column of SMILES; found when empty.
            charged: molecules with a charged atom: "drop" or "keep".
            fragments: molecules in several pieces: "drop", or keep the "largest".

        Raises:
            DataError: the file is missing or holds no molecules.
        """
        from unstir_molecules.molecules import molecule_set
        from unstir_molecules.smiles import Rules, read

        found = read(path, column=column, rules=Rules(charged=charged, fragments=fragments, duplicates="drop"))  # type: ignore[arg-type]
        if found.dropped:
            warnings.warn(f"{path}: {found.said()}", stacklevel=2)
        facts = {f"left out ({reason})": str(number) for reason, number in found.counts.items()}
        made = molecule_set(found.smiles, key=Path(path).name.partition(".")[0], attrs={"facts": facts})
        return made.assign(split=("sample", hashed_split(found.smiles, self.test)))

    def part(self, item: xr.Dataset, name: str) -> xr.Dataset:
        """The training or the test part of a set.

        Args:
            item: a set of molecules with ``split``.
            name: "train" or "test".

        Raises:
            DataError: there is none.
        """
        key = str(item.attrs.get("key", "set"))
        if "split" not in item:
            raise DataError(f"the set {key!r} does not say which of its molecules are for training and which for the test")
        chosen = np.flatnonzero(item["split"].values == name)
        if not len(chosen):
            raise DataError(
                f"the set {key!r} has no molecule in its part {name!r}: of its {item.sizes['sample']}, a hash of each decides; give more, "
                "or another share for the test (task.test)"
            )
        return item.isel(sample=chosen).drop_vars("split")

    def size(self, item: xr.Dataset) -> int:
        """Molecules of a set.

        Args:
            item: the set.
        """
        return int(item.sizes["sample"])

    def export(self, estimate: Estimate, case: Case, stem: Path) -> list[Path]:
        """Write ``.smi`` (the molecules that could be made) and ``.csv`` (a line a sample).

        Args:
            estimate: a set of molecules.
            case: what it answers.
            stem: path without suffix.

        Returns:
            The files written.
        """
        data = estimate.data
        written = [stem.with_name(f"{stem.name}.smi"), stem.with_name(f"{stem.name}.csv")]
        written[0].write_text("".join(f"{text}\n" for text in data["smiles"].values.tolist() if text))
        data.drop_vars([name for name in data.variables if data[name].dims != ("sample",)]).to_dataframe().to_csv(written[1], index=False)
        return written


@dataclass(frozen=True)
class GenerateGraphs(Generation):
    """New graphs like those of a set.

    Args:
        count: graphs wanted of a method; published tables take as many as there are test graphs.
        test: share of a user's own set that is kept for the test.
    """

    count: int = 100

    metrics: ClassVar[tuple[str, ...]] = tuple(f"graphs/{name}" for name in ("mmd-gdss", "mmd-spectre", "novelty", "connected", "sizes"))
    figures: ClassVar[tuple[str, ...]] = ("graphs/grid", "graphs/statistics")

    def read(self, path: Path, *, largest: int = 1000, directed: bool = False) -> xr.Dataset:
        """A user's own graphs (GraphML, GML, edge list, npz), split by a hash of each isomorphism class.

        Args:
            path: the file.
            largest: nodes of a graph, at most.
            directed: are graphs with directed edges taken, without their directions?

        Raises:
            DataError: the file is missing or holds no graphs.
        """
        from unstir_molecules.graph_files import read
        from unstir_molecules.graphs import graph_set
        from unstir_molecules.isomorphism import hashes

        graphs = read(path, largest=largest, directed=directed)
        names = [str(value) for value in hashes(graphs)]
        return graph_set(graphs, Path(path).name.partition(".")[0], split=hashed_split(names, self.test))

    def part(self, item: xr.Dataset, name: str) -> xr.Dataset:
        """The training or the test part of a set.

        Args:
            item: a set of graphs with ``split``.
            name: "train" or "test".

        Raises:
            DataError: there is none.
        """
        from unstir_molecules.graphs import part

        return part(item, name)

    def size(self, item: xr.Dataset) -> int:
        """Graphs of a set.

        Args:
            item: the set.
        """
        return int(item.sizes["graph"])

    def export(self, estimate: Estimate, case: Case, stem: Path) -> list[Path]:
        """Write ``.graphml`` files' content as one edge list a graph in an ``.npz`` that `read` takes.

        Args:
            estimate: a set of graphs.
            case: what it answers.
            stem: path without suffix.

        Returns:
            The file written.
        """
        data: Any = estimate.data
        written = stem.with_name(f"{stem.name}.npz")
        np.savez_compressed(written, **{name: data[name].values for name in ("nodes", "edges", "u", "v")})
        return [written]


def hashed_split(names: Iterable[str], test: float) -> np.ndarray:
    """ "train" or "test" of each name, by its hash alone: the same name is on the same side in every file.

    Args:
        names: canonical names.
        test: share for the test.
    """
    sides = [int(hashlib.sha256(name.encode()).hexdigest()[:12], 16) / 16**12 < test for name in names]
    return np.where(sides, "test", "train")
