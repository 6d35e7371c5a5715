"""A function of every molecule of a set, in order: each distinct SMILES is asked once, in several processes where there are many.

Each worker is a fresh interpreter that is sent a function and its part of the work, and sends the answers back; it never runs the caller's
script again, as spawned workers do. Small work stays in the process, and no answer depends on the number of workers.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from unstir.errors import DataError

T = TypeVar("T")

SMALL = 8000
"""Up to so many items are worked on in the process: a worker takes half a second to start."""
CHUNK = 2000
"""Items of a call."""
FEWEST, PART = 2000, 500
"""The same two where each item is a molecule of which a function is asked, which takes longer."""
_START = (
    "import pickle, sys; where = pickle.load(sys.stdin.buffer); sys.path[:] = where; "
    "work, parts = pickle.load(sys.stdin.buffer); out = sys.stdout.buffer; sys.stdout = sys.stderr; "
    "pickle.dump([work(part) for part in parts], out, protocol=5)"
)


def molecule(smiles: str) -> Any:
    """The molecule of a SMILES, ``None`` where there is none; silent.

    Args:
        smiles: one SMILES, "" for none.

    Returns:
        A sanitised RDKit molecule, or ``None``.
    """
    from rdkit import Chem, rdBase

    if not smiles:
        return None
    with rdBase.BlockLogs():
        return Chem.MolFromSmiles(smiles)


def molecules(smiles: Iterable[str], wanted: str) -> Iterator[Any]:
    """The molecules of a set in which each must be one.

    Args:
        smiles: SMILES.
        wanted: what they are wanted for, for the error.

    Yields:
        Sanitised RDKit molecules.

    Raises:
        DataError: one is no molecule.
    """
    for one in smiles:
        mol = molecule(one)
        if mol is None:
            raise DataError(f"{one!r} is no molecule: leave out what is not valid before asking for {wanted}")
        yield mol


def each(function: Callable[[Any], Any], smiles: Iterable[str], *, workers: int = 0) -> list[Any]:
    """What a function says of every molecule.

    Args:
        function: of a module, of an RDKit molecule.
        smiles: SMILES, "" for none.
        workers: processes for a large set; 0 for as many as there are cores.

    Returns:
        Results in the order of ``smiles``; ``None`` where there is no molecule.
    """
    asked = list(smiles)
    distinct = sorted({one for one in asked if one})
    found = [one for part in mapped(partial(_of_each, function), distinct, workers=workers, chunk=PART, small=FEWEST) for one in part]
    known = dict(zip(distinct, found, strict=True))
    return [known.get(one) for one in asked]


def mapped(work: Callable[[Sequence[Any]], T], items: Sequence[Any], *, workers: int = 0, chunk: int = 0, small: int = 0) -> list[T]:
    """``work`` of the items, chunk by chunk.

    Args:
        work: takes a list of items; a function of a module (or a partial of one) that can be pickled.
        items: what to work on; can be pickled.
        workers: processes; 0 for as many as there are cores, and none but this one where the process is itself a worker.
        chunk: items of a call; `CHUNK` when 0.
        small: up to so many items stay in the process; `SMALL` when 0.

    Returns:
        An answer a chunk, in the order of the items; no part depends on the number of workers.
    """
    chunk, small = chunk or CHUNK, small or SMALL
    parts = [items[first : first + chunk] for first in range(0, len(items), chunk)]
    count = min(workers or _cores(), len(parts))
    if len(items) <= small or count <= 1:
        return [work(part) for part in parts]
    with ThreadPoolExecutor(count) as pool:
        answers = list(pool.map(lambda i: _asked(work, parts[i::count]), range(count)))
    return [answers[i % count][i // count] for i in range(len(parts))]


def _cores() -> int:
    if multiprocessing.parent_process() is not None:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _asked(work: Callable[[Any], T], parts: list[Any]) -> list[T]:
    sent = pickle.dumps(list(sys.path)) + pickle.dumps((work, parts), protocol=5)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes: Any = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen([sys.executable, "-c", _START], env=environment, **pipes)
    try:
        back, said = process.communicate(sent)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.returncode:
        last = (said.decode(errors="replace").split("\n")[:-1] or ["it said nothing"])[-1]
        raise RuntimeError(f"a worker process ended with {process.returncode}: {last}")
    answers: list[T] = pickle.loads(back)  # of our own worker
    return answers


def _of_each(function: Callable[[Any], Any], smiles: Sequence[str]) -> list[Any]:
    return [None if (mol := molecule(one)) is None else function(mol) for one in smiles]
