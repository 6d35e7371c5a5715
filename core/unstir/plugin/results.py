"""Files that belong together: all of them are there, or none is.

They are written under a hidden folder within the folder of the results and moved in one go when the last is done, each by a rename. A
single file is written to a temporary name beside it and renamed.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Results:
    """Files in the making.

    Args:
        folder: where they are written.
        files: where they are in the end, by name; known when all are written.
    """

    folder: Path
    files: list[Path] = field(default_factory=list)


@contextmanager
def together(out: Path) -> Iterator[Results]:
    """Write files to ``folder`` of what is given; they are moved to ``out`` at the end, and lost where an error comes before it.

    Args:
        out: folder of the results, which is there.

    Yields:
        The files in the making.
    """
    with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=out) as folder:
        made = Results(Path(folder))
        yield made
        for path in sorted(made.folder.iterdir()):
            os.replace(path, out / path.name)
            made.files.append(out / path.name)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, readable to whom the user's mask allows.

    Args:
        path: the file, in a folder that is there.
        data: what it holds.

    Raises:
        OSError: the disk does not take it; what was at ``path`` before is there still.
    """
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
