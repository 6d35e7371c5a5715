"""Files of molecules: CSV with a column of SMILES, SMILES line by line, SDF; plain or packed (.gz, .xz, .bz2).

What comes out is canonical SMILES without stereo, in the order of the file, and a list of what was left out, each with its line and reason:
a training set that loses molecules in silence is another training set.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import lzma
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal

from unstir.errors import DataError, nearest
from unstir.plugin.options import at_least, one_of
from unstir_molecules.atoms import Vocabulary
from unstir_molecules.each import mapped
from unstir_molecules.kekule import REASONS, fault, is_mol, parsed, problem_of
from unstir_molecules.valence import kept

Charged = Literal["drop", "keep"]
Fragments = Literal["drop", "largest"]
Duplicates = Literal["keep", "drop"]

COLUMNS = ("smiles", "canonical_smiles", "smi")
"""Names of the column of SMILES, in any case, first come first; else the one column whose name has "smiles" in it."""
READABLE = "readable are .csv, .tsv, .smi, .smiles, .txt and .sdf (.gz, .xz, .bz2 too)"
_PACKED: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
_BROKEN = (OSError, EOFError, zlib.error, lzma.LZMAError, csv.Error)


@dataclass(frozen=True)
class Rules:
    """What is left out of a set, besides what is no molecule (unparsable, wildcards, isotopes, lone electrons).

    Args:
        charged: molecules with a charged atom: "drop" or "keep" (where a vocabulary is given, it decides).
        fragments: molecules in several pieces: "drop" them, or keep the "largest" piece (most atoms).
        duplicates: a molecule that came before: "keep" or "drop".
        vocabulary: atoms there may be; any where None.
        largest: most heavy atoms; that of the vocabulary, else any number, when 0.

    Raises:
        UserError: an option is none of these.
    """

    charged: Charged = "drop"
    fragments: Fragments = "drop"
    duplicates: Duplicates = "keep"
    vocabulary: Vocabulary | None = None
    largest: int = 0

    def __post_init__(self) -> None:
        one_of(self, charged=Charged, fragments=Fragments, duplicates=Duplicates)
        at_least(self, largest=0)


@dataclass(frozen=True)
class Dropped:
    """A molecule that was left out.

    Args:
        line: of the file (an SDF: number of the record), from 1.
        smiles: as it stands there.
        reason: a key of `REASONS`.
    """

    line: int
    smiles: str
    reason: str


@dataclass(frozen=True)
class Read:
    """The molecules of a file.

    Args:
        smiles: canonical, without stereo.
        lines: of each (an SDF: its number), from 1.
        dropped: what was left out.
    """

    smiles: list[str]
    lines: list[int]
    dropped: list[Dropped]

    @property
    def counts(self) -> dict[str, int]:
        """How many were left out for each reason, most first."""
        counts = Counter(one.reason for one in self.dropped)
        return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0])))

    def said(self) -> str:
        """One sentence of what was left out; "" where nothing was."""
        if not self.dropped:
            return ""
        parts = ", ".join(f"{count:,} with {REASONS[reason]}" for reason, count in self.counts.items())
        lost, whole = len(self.dropped), len(self.dropped) + len(self.smiles)
        return f"{lost:,} of {whole:,} molecules {'is' if lost == 1 else 'are'} left out: {parts}"


def read(path: str | Path, *, column: str = "", rules: Rules | None = None, workers: int = 0) -> Read:
    """The molecules of a file.

    Args:
        path: the file; its suffix says the format.
        column: of a table: the column of SMILES; one of `COLUMNS` when empty.
        rules: what is left out; `Rules`' defaults when None.
        workers: processes; 0 for as many as there are cores.

    Returns:
        Canonical SMILES in the order of the file, and what was left out.

    Raises:
        DataError: missing, empty, damaged, of no such format, a pickle, without such a column, or nothing in it can be used.
    """
    path = Path(path)
    suffix = _suffix(path)
    try:
        items = list(_SUFFIXES[suffix](path, column))
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no text in UTF-8 (byte {error.start}); save it as such") from error
    except _BROKEN as error:
        raise DataError(f"{path} is damaged: {' '.join(str(error).split())}") from error
    if not items:
        raise DataError(f"{path} has no molecules")
    found = cleaned([item for _, item in items], rules, lines=[line for line, _ in items], workers=workers)
    if not found.smiles:
        raise DataError(f"{path} has no molecule that can be used; {found.said()}{_remedy(found)}")
    return found


def _remedy(found: Read) -> str:
    """The options that would keep molecules of a file from which none was kept."""
    options = {"charged": "charged=keep", "fragments": "fragments=largest"}
    helpful = [options[reason] for reason in found.counts if reason in options]
    return f"; {' and '.join(helpful)} would keep such" if helpful else ""


def cleaned(items: Sequence[Any], rules: Rules | None = None, *, lines: Sequence[int] | None = None, workers: int = 0) -> Read:
    """Canonical SMILES of molecules, and what is left out.

    Args:
        items: SMILES (None, NaN and "" are "empty") or RDKit molecules.
        rules: what is left out; `Rules`' defaults when None.
        lines: a number of each; 1, 2, ... when None.
        workers: processes for SMILES; 0 for as many as there are cores.

    Returns:
        In the order of the items; perhaps none.
    """
    rules = rules or Rules()
    numbers = list(lines) if lines is not None else list(range(1, len(items) + 1))
    texts = all(item is None or isinstance(item, str) for item in items)
    answers = [one for part in mapped(partial(_canonical, rules=rules), items, workers=workers if texts else 1) for one in part]
    found, seen = Read([], [], []), set[str]()
    for line, item, (text, reason) in zip(numbers, items, answers, strict=True):
        if not reason and rules.duplicates == "drop":
            reason = "duplicate" if text in seen else ""
            seen.add(text)
        if reason:
            found.dropped.append(Dropped(line, item if isinstance(item, str) else text, reason))
        else:
            found.smiles.append(text)
            found.lines.append(line)
    return found


def canonical(smiles: Sequence[str | None], *, workers: int = 0) -> list[str | None]:
    """Canonical SMILES without stereo, None for what is no molecule; nothing is left out.

    Args:
        smiles: any SMILES.
        workers: processes; 0 for as many as there are cores.
    """
    return [one for part in mapped(_plain, list(smiles), workers=workers) for one in part]


def _plain(texts: Sequence[str | None]) -> list[str | None]:
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        mols = [parsed(text)[0] for text in texts]
        return [None if mol is None else Chem.MolToSmiles(mol, isomericSmiles=False) for mol in mols]


def _canonical(items: Sequence[Any], rules: Rules) -> list[tuple[str, str]]:
    """(canonical SMILES, reason it is left out or "") of each."""
    from rdkit import Chem, rdBase

    kinds = {name: i for i, name in enumerate(rules.vocabulary.atoms)} if rules.vocabulary else None
    largest = rules.largest or (rules.vocabulary.largest if rules.vocabulary else 0)
    made = []
    with rdBase.BlockLogs():
        for item in items:
            mol, reason = _plain_mol(item) if is_mol(item) else parsed(item)
            if mol is not None and rules.fragments == "largest":
                whole = Chem.MolToSmiles(mol)
                if "." in whole:
                    mol, reason = parsed(kept(whole, "largest"))
            reason = reason or fault(mol, kinds, largest, rules.charged == "keep")
            made.append(("" if mol is None else Chem.MolToSmiles(mol, isomericSmiles=False), reason))
    return made


def _plain_mol(item: Any) -> tuple[Any | None, str]:
    """A sanitised copy without explicit hydrogens."""
    from rdkit import Chem

    mol = Chem.Mol(item)
    if not mol.GetNumAtoms():
        return None, "empty"
    if Chem.SanitizeMol(mol, catchErrors=True):
        return None, problem_of(mol)
    return Chem.RemoveHs(mol), ""


def _suffix(path: Path) -> str:
    """The suffix of the format, after what no reader opens was refused."""
    if not path.exists():
        raise DataError(f"{path} does not exist")
    if not path.is_file():
        raise DataError(f"{path} is a folder; {READABLE}")
    names = [one.lower() for one in path.suffixes]
    suffix = (names[-2] if len(names) > 1 else "") if names and names[-1] in _PACKED else (names[-1] if names else "")
    with path.open("rb") as file:
        start = file.read(2)
    if suffix in (".pkl", ".pickle") or start in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise DataError(f"{path} is a pickle, which runs whatever it holds when it is opened and so never is; save SMILES as CSV or text")
    if not start:
        raise DataError(f"{path} is empty")
    if suffix not in _SUFFIXES:
        raise DataError(f"{path} has no suffix of a format of molecules; {READABLE}")
    return suffix


def _opened(path: Path) -> IO[bytes]:
    packed: IO[bytes] = _PACKED.get(path.suffix.lower(), Path.open)(path, "rb")
    return packed


def _lines(path: Path, column: str) -> Iterator[tuple[int, str]]:
    """SMILES line by line, a name after a space or tab; a head, and lines that begin with #, are passed over."""
    if column:
        raise DataError(f"{path} has lines of SMILES and no columns; column is for tables")
    with _opened(path) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig") as file:
        rows = [(number, line.split()) for number, line in enumerate(file, 1)]
    while rows and not rows[-1][1]:
        rows.pop()
    for number, words in rows:
        word = words[0] if words else ""
        if not word.startswith("#") and not (number == 1 and word.strip('"').lower() in COLUMNS):
            yield number, word


def _table(path: Path, column: str) -> Iterator[tuple[int, str]]:
    """SMILES of a column; newlines inside a cell, as in zinc250k.csv, are none of it."""
    csv.field_size_limit(1 << 24)
    with _opened(path) as raw, io.TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, delimiter=_delimiter(path, file), strict=True)  # else a lost quote swallows the rest of the file
        line = 0
        try:
            head = [name.strip() for name in next(rows, [])]
            at, line = _column(path, head, column), rows.line_num
            for row in rows:
                if row:
                    yield line + 1, row[at].strip() if at < len(row) else ""
                line = rows.line_num
        except csv.Error as error:
            raise DataError(f"the quotes of the row at line {line + 1} of {path} do not close: {error}") from error


def _delimiter(path: Path, file: io.TextIOWrapper) -> str:
    if ".tsv" in [one.lower() for one in path.suffixes]:
        return "\t"
    first = file.readline()
    file.seek(0)
    return max(",;\t", key=first.count) if any(mark in first for mark in ",;\t") else ","


def _column(path: Path, head: Sequence[str], column: str) -> int:
    """Where the SMILES stand."""
    told = ", ".join(head[:20]) + (", ..." if len(head) > 20 else "")
    if column:
        if column not in head:
            like = nearest(column, head, 1)
            raise DataError(f"{path} has no column {column!r} but {told}{f'; did you mean {like[0]!r}?' if like else ''}")
        return head.index(column)
    plain = [name.lower().replace(" ", "_") for name in head]
    for name in COLUMNS:
        if name in plain:
            return plain.index(name)
    like = [name for name in head if "smiles" in name.lower()]
    if len(like) == 1:
        return head.index(like[0])
    if any(name is not None for name in _plain(head)):
        raise DataError(f"{path} begins with a molecule, not with names of columns: give it the head smiles, or save it as .smi")
    raise DataError(
        f"{path} has {'several columns' if like else 'no column'} of SMILES (smiles, canonical_smiles) but {told}; name it: column=NAME"
    )


def _records(path: Path, column: str) -> Iterator[tuple[int, Any]]:
    """Molecules of an SDF; a record that RDKit cannot read is None."""
    from rdkit import Chem, rdBase

    if column:
        raise DataError(f"{path} is an SDF and has no columns; column is for tables")
    with _opened(path) as raw, rdBase.BlockLogs():
        whole = io.BytesIO(raw.read())
        for number, mol in enumerate(Chem.ForwardSDMolSupplier(whole), 1):
            yield number, "(record)" if mol is None else mol


_SUFFIXES: dict[str, Callable[[Path, str], Iterator[tuple[int, Any]]]] = {
    **dict.fromkeys((".smi", ".smiles", ".txt", ".ism", ".can"), _lines),
    **dict.fromkeys((".csv", ".tsv"), _table),
    **dict.fromkeys((".sdf", ".sd", ".mol"), _records),
}
