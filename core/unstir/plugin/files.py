"""A command over a user's files: one after another; one that cannot be worked on is told when the others are done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unstir.errors import DataError, UnstirError
from unstir.plugin.chain import part
from unstir.plugin.protocols import Progress


@dataclass
class Job:
    """One file of a command.

    Args:
        file: what is worked on.
        out: folder of the results, which is there.
        progress: told of the work on this file.
        taken: files that a result must not take the place of: those given, and the results of the files before.
    """

    file: Path
    out: Path
    progress: Progress = None
    taken: set[Path] = field(default_factory=set)

    def free(self, stem: str, ending: str) -> str:
        """A stem whose file is not taken: the one asked for, else with the first number that is free.

        Args:
            stem: of the results.
            ending: of one of them, as "-forecast.csv".
        """
        name, count = stem, 1
        while (self.out / f"{name}{ending}").resolve() in self.taken:
            count += 1
            name = f"{stem}-{count}"
        return name


def one_by_one(
    files: Sequence[Path], out: Path, progress: Progress, work: Callable[[Job], dict[str, Any]], done: str = "worked on"
) -> dict[str, Any]:
    """Work on every file; one that cannot be is reported at the end, when the others are done.

    Args:
        files: at least one.
        out: folder of the results, made if needed.
        progress: told of hundredths of a file.
        work: of one file; what was done with it, with ``source`` (the file), ``files`` (paths written) and ``said`` (sentences).
        done: what is done with a file, in the past tense.

    Returns:
        ``files``, the paths written; ``said``, each sentence behind its file; and ``results``, what was done with each file.

    Raises:
        UnstirError: what was wrong with the only file.
        DataError: one or more of several files could not be worked on; a sentence each.
    """
    results: list[dict[str, Any]] = []
    faults: list[UnstirError] = []
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    taken = {Path(file).resolve() for file in files}
    for number, file in enumerate(files):
        told = part(progress, number, len(files))
        try:
            results.append(work(Job(Path(file), out, told, taken)))
        except UnstirError as error:
            faults.append(error)
        else:
            taken |= {Path(path).resolve() for path in results[-1]["files"]}
        if told is not None:
            told(1, 1)
    if len(files) == 1 and faults:
        raise faults[0]
    if faults:
        others = f"the other {len(results)} in {out}" if results else "none was"
        raise DataError(f"{len(faults)} of {len(files)} files were not {done} ({others}): {'; '.join(map(str, faults))}")
    said = [f"{result['source']}: {note}" for result in results for note in result["said"]]
    return {"files": [path for result in results for path in result["files"]], "said": said, "results": results}
