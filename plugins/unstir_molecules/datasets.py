"""Molecules of the plugin: a bundled sample of QM9, whole sets inside packages of public registries, and files of one's own.

Each yields one set (`unstir_molecules.molecules`) with a variable ``split`` ("train", "test"); nothing is left out in silence: ``facts``
says how many of what. Canonical SMILES depend on RDKit, so they are made by the version at hand and kept beside the cache of fetched data.
No package of data is ever imported: its files are read where they lie.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import lzma
import os
import re
import tempfile
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from unstir.errors import DataError, UserError
from unstir_data import cards, fetch
from unstir_molecules.molecules import molecule_set
from unstir_molecules.smiles import Rules, canonical, cleaned, read
from unstir_molecules.tasks import hashed_split

Table = dict[str, NDArray[Any]]
Scaffolds = Literal["test", "test_scaffolds"]

GDB9 = 133_885
"""Molecules of GDB-9, of which QM9 lacks those that its authors found inconsistent."""
CHARGED = re.compile(r"\[[^]]*[+-]")
"""Finds a charged atom in a SMILES."""


@dataclass(frozen=True)
class CardMolecules(ABC):
    """Molecules that a card describes: bundled, or in a package that is installed, or fetched on first use."""

    card: ClassVar[str]

    def load(self) -> Iterator[xr.Dataset]:
        """The set; ``attrs["key"]`` is the card's short name."""
        card, table = cards.load(self.card), self.table()
        texts = table["smiles"].tolist()
        facts = {"charged": f"{sum(CHARGED.search(text) is not None for text in texts):,} of {len(texts):,}", **self.facts()}
        attrs = {"title": card.title, "licence": card.licence, "citation": card.citation, "facts": facts}
        extra = {name: values for name, values in table.items() if name != "smiles"}
        yield molecule_set(texts, key=self.key, properties=extra, attrs=attrs)

    @abstractmethod
    def table(self) -> Table:
        """``smiles`` (canonical), ``split`` and what else there is, an entry a molecule."""

    def facts(self) -> dict[str, str]:
        """What a reader must know of the set."""
        return {}

    @property
    def key(self) -> str:
        """The card's short name."""
        return self.card.rpartition("/")[2]


@dataclass(frozen=True)
class QM9Sample(CardMolecules):
    """6,000 training and 1,500 test molecules of QM9, bundled; drawn from either side of the split of GDSS."""

    card: ClassVar[str] = "molecules/qm9-sample"
    tiny: ClassVar[bool] = True

    def table(self) -> Table:
        """``smiles``, ``split`` and ``gdb_index``."""
        return _remembered(self.key, cards.load(self.card).sha256, self._made)

    def _made(self) -> Table:
        with lzma.open(fetch.get(self.card), "rt", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        texts = _whole(canonical([row["smiles"] for row in rows]), self.card)
        splits, numbers = [row["split"] for row in rows], [int(row["gdb_index"]) for row in rows]
        return {"smiles": texts, "split": np.array(splits, dtype=object), "gdb_index": np.array(numbers)}


@dataclass(frozen=True)
class QM9(CardMolecules):
    """QM9 whole: 130,831 molecules of up to nine heavy atoms C, N, O, F; 12,914 of the test set of GDSS, the other 117,917 to train."""

    card: ClassVar[str] = "molecules/qm9"

    def table(self) -> Table:
        """``smiles``, ``split`` and ``gdb_index``."""
        return _remembered(self.key, cards.load(self.card).sha256, self._made)

    def rows(self) -> Table:
        """``source`` (SMILES as the package has them), ``split`` and ``gdb_index``, by index; only two columns of the files are read."""
        import pandas as pd

        folder = located(self.card, "qm9pack")
        parts = [pd.read_csv(folder / f"qm9_part{n}.csv", usecols=["Index", "SMILES"]) for n in (1, 2, 3)]
        whole = pd.concat(parts).sort_values("Index", kind="stable")
        numbers = whole["Index"].to_numpy()
        splits = np.where(gdss_test()[numbers - 1], "test", "train").astype(object)
        return {"source": whole["SMILES"].to_numpy(dtype=object), "split": splits, "gdb_index": numbers}

    def _made(self) -> Table:
        rows = self.rows()
        return {"smiles": _whole(canonical(rows.pop("source").tolist()), self.card), **rows}


@dataclass(frozen=True)
class Moses(CardMolecules):
    """MOSES: drug-like molecules of up to 27 heavy atoms, none charged; 1,584,663 to train. The whole takes minutes once, parts of it less.

    Args:
        train: so many training molecules, evenly spread over the file; all when 0.
        test: so many test molecules, likewise.
        which: "test", or "test_scaffolds", whose ring systems training molecules do not have.

    Raises:
        UserError: an option out of range.
    """

    train: int = 0
    test: int = 0
    which: Scaffolds = "test"

    card: ClassVar[str] = "molecules/moses"

    def __post_init__(self) -> None:
        if self.train < 0 or self.test < 0:
            raise UserError(f"train and test must be at least 0, got {self.train} and {self.test}")
        if self.which not in get_args(Scaffolds):
            raise UserError(f"which must be one of {', '.join(get_args(Scaffolds))}, got {self.which!r}")

    def table(self) -> Table:
        """``smiles`` and ``split``."""
        sha = cards.load(self.card).sha256
        parts = []
        for name, count in (("train", self.train), (self.which, self.test)):
            made = _remembered(f"moses-{name}-{count}", sha, lambda name=name, count=count: {"smiles": self._made(name, count)})  # type: ignore[misc]
            parts.append(made["smiles"])
        sides = np.repeat(np.array(["train", "test"], dtype=object), [len(part) for part in parts])
        return {"smiles": np.concatenate(parts), "split": sides}

    def _made(self, name: str, count: int) -> NDArray[Any]:
        import pandas as pd

        column = pd.read_csv(located(self.card, "moses") / f"{name}.csv.gz", usecols=["SMILES"])["SMILES"].to_numpy()
        rows = np.linspace(0, len(column) - 1, count).round().astype(int) if 0 < count < len(column) else slice(None)
        return _whole(canonical(column[rows].tolist()), self.card)


@dataclass(frozen=True)
class Screening(CardMolecules):
    """Molecules as they are handed around: salts, charges, metals. What cannot be read is left out; a hash makes the split.

    Args:
        fragments: molecules in several pieces: "drop", or keep the "largest" of them.
        test: share for the test.

    Raises:
        UserError: an option out of range.
    """

    fragments: Literal["drop", "largest"] = "largest"
    test: float = 0.2

    place: ClassVar[str]
    """Where the Debian package puts the file."""

    def __post_init__(self) -> None:
        self.rules()
        if not 0 < self.test < 1:
            raise UserError(f"test must be a share between 0 and 1, got {self.test}")

    def rules(self) -> Rules:
        """What is left out."""
        return Rules(charged="keep", fragments=self.fragments, duplicates="drop")

    def load(self) -> Iterator[xr.Dataset]:
        """The set; ``facts`` says what was left out."""
        card, found = cards.load(self.card), self.found()
        facts = {f"left out ({reason})": f"{count:,}" for reason, count in found.counts.items()}
        attrs = {"title": card.title, "licence": card.licence, "citation": card.citation, "facts": facts}
        yield molecule_set(found.smiles, key=self.key, properties={"split": hashed_split(found.smiles, self.test)}, attrs=attrs)

    def table(self) -> Table:
        """``smiles`` and ``split``."""
        found = self.found()
        return {"smiles": np.array(found.smiles, dtype=object), "split": hashed_split(found.smiles, self.test)}

    def found(self) -> Any:
        """The molecules of the file and what was left out (`unstir_molecules.smiles.Read`)."""
        return read(system_file(self.card, self.place), rules=self.rules())


@dataclass(frozen=True)
class NCI(Screening):
    """The first 4,999 molecules of the open collection of the National Cancer Institute."""

    card: ClassVar[str] = "molecules/nci"
    place: ClassVar[str] = "/usr/share/RDKit/Data/NCI/first_5K.smi"


@dataclass(frozen=True)
class WEHI(Screening):
    """10,000 molecules of a screening library of the Walter and Eliza Hall Institute."""

    card: ClassVar[str] = "molecules/wehi"
    place: ClassVar[str] = "/usr/share/RDKit/Data/Pains/test_data/wehi_mols.csv"

    def found(self) -> Any:
        """The molecules of the first column, which has no head, and what was left out."""
        with system_file(self.card, self.place).open(newline="", encoding="utf-8") as file:
            return cleaned([row[0] for row in csv.reader(file) if row], self.rules())


@dataclass(frozen=True)
class FileMolecules:
    """Molecules of your own: CSV with a column of SMILES, SMILES line by line, SDF; split by a hash of each molecule.

    Args:
        path: the file.
        test_path: a file of test molecules; a share of ``path`` when empty.
        column: of a table: the column of SMILES; found when empty.
        charged: molecules with a charged atom: "drop" or "keep".
        fragments: molecules in several pieces: "drop", or keep the "largest".
        largest: most heavy atoms; any number when 0.
        test: share for the test.

    Raises:
        UserError: an option out of range.
    """

    path: str = ""
    test_path: str = ""
    column: str = ""
    charged: Literal["drop", "keep"] = "drop"
    fragments: Literal["drop", "largest"] = "drop"
    largest: int = 0
    test: float = 0.1

    card: ClassVar[str] = ""

    def __post_init__(self) -> None:
        Rules(charged=self.charged, fragments=self.fragments, largest=self.largest)
        if not 0 < self.test < 1:
            raise UserError(f"test must be a share between 0 and 1, got {self.test}")

    def load(self) -> Iterator[xr.Dataset]:
        """The set, each molecule once; a training molecule that is a test molecule too is for the test alone.

        Raises:
            DataError: no path was given, or what is there holds no molecules.
        """
        if not self.path:
            raise DataError("molecules/file needs the path of a file: data.path=molecules.csv")
        rules = Rules(self.charged, self.fragments, "drop", largest=self.largest)
        found = read(self.path, column=self.column, rules=rules)
        texts, dropped = found.smiles, dict(found.counts)
        splits = hashed_split(texts, self.test)
        if self.test_path:
            held = read(self.test_path, column=self.column, rules=rules)
            dropped = {reason: dropped.get(reason, 0) + held.counts.get(reason, 0) for reason in {**dropped, **held.counts}}
            both = set(held.smiles)
            train = [text for text in texts if text not in both]
            texts, splits = train + held.smiles, np.array(["train"] * len(train) + ["test"] * len(held.smiles), dtype=object)
        facts = {f"left out ({reason})": f"{count:,}" for reason, count in dropped.items()}
        if found.dropped:
            warnings.warn(f"{self.path}: {found.said()}", stacklevel=2)
        yield molecule_set(texts, key=Path(self.path).name.partition(".")[0], properties={"split": splits}, attrs={"facts": facts})


def gdss_test() -> NDArray[np.bool_]:
    """(133,885,) which molecules of GDB-9 are in the test set of GDSS, index 1 first; 13,082, of which QM9 has 12,914.

    Raises:
        DataError: the bundled file is missing or damaged.
    """
    path = cards.SAMPLES / "molecules" / "qm9-test.bits.xz"
    try:
        packed = lzma.decompress(path.read_bytes())
    except (OSError, lzma.LZMAError) as error:
        raise DataError(f"the bundled split {path} is missing or damaged; install unstir again") from error
    return np.unpackbits(np.frombuffer(packed, dtype=np.uint8))[:GDB9].astype(bool)


def located(card: str, module: str) -> Path:
    """Folder of a package's data: of the package where it is installed in this version, else fetched.

    Args:
        card: name of the card.
        module: the package's module, which is found and not imported.

    Returns:
        The folder, its sha256 that of the card.

    Raises:
        DataError: it could not be fetched.
    """
    known = cards.load(card)
    spec = importlib.util.find_spec(module)
    if spec is not None and spec.submodule_search_locations and isinstance(known.source, cards.Package):
        folder = Path(spec.submodule_search_locations[0]).parent / known.source.inner
        with suppress(OSError):
            if fetch.sha256(folder) == known.sha256:
                return folder
    return fetch.get(card)


def system_file(card: str, place: str) -> Path:
    """A file of a Debian package: where the system has it, else fetched.

    Args:
        card: name of the card.
        place: where the package puts it.

    Returns:
        The file, its sha256 that of the card.

    Raises:
        DataError: it is not there and cannot be fetched; the sentence names the Debian package.
    """
    path = Path(place)
    return path if path.is_file() and fetch.sha256(path) == cards.load(card).sha256 else fetch.get(card)


def kept_folder() -> Path:
    """Where canonical SMILES lie: ``molecules`` beside the cache of fetched data."""
    return fetch.cache_folder().parent / "molecules"


def _remembered(name: str, sha256: str, make: Callable[[], Table]) -> Table:
    """A table from the disk, else made and written there; another RDKit or another file is another table."""
    import pyarrow as pa
    import rdkit
    from pyarrow import parquet

    told = hashlib.sha256(f"{sha256} {rdkit.__version__} {gdss_test().tobytes().hex()}".encode()).hexdigest()[:12]
    path = kept_folder() / f"{name}-{told}.parquet"
    with suppress(OSError, pa.ArrowInvalid):
        found = parquet.read_table(path)
        return {column: np.asarray(found[column].to_numpy(zero_copy_only=False)) for column in found.column_names}
    table = make()
    with suppress(OSError):  # a cache that cannot be written costs time alone
        path.parent.mkdir(parents=True, exist_ok=True)
        number, temporary = tempfile.mkstemp(prefix=".making-", dir=path.parent)
        os.close(number)
        columns = {column: pa.array(values.tolist()) for column, values in table.items()}
        parquet.write_table(pa.table(columns), temporary, compression="zstd")
        os.replace(temporary, path)
    return table


def _whole(texts: Sequence[str | None], card: str) -> NDArray[Any]:
    """All of them; a set that is known to be readable is refused where it is not."""
    missing = sum(text is None for text in texts)
    if missing:
        raise DataError(f"{missing} molecules of {card} could not be read with this RDKit")
    return np.array(texts, dtype=object)
