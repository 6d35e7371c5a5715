"""What was worked out, kept for the next time: in the process, and on disk under a hash of what it was made from.

On disk it is a dict of arrays in a safetensors file, written whole or not at all; nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from unstir.plugin.results import write_whole

T = TypeVar("T")
Arrays = dict[str, NDArray[Any]]


class Memory(Generic[T]):
    """What was worked out, by key; the least recently used is forgotten first, the last one never.

    Args:
        limit: how much to remember, in units of ``size``.
        size: of a thing; one each when ``None``.
    """

    def __init__(self, limit: int, size: Callable[[T], int] | None = None) -> None:
        self.limit, self.size = limit, size or (lambda _: 1)
        self._kept: OrderedDict[Hashable, T] = OrderedDict()
        self._held = 0

    def of(self, key: Hashable, make: Callable[[], T]) -> T:
        """What is remembered under a key, made where there is nothing yet.

        Args:
            key: what it depends on.
            make: makes it.
        """
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        made = self._kept[key] = make()
        self._held += self.size(made)
        while self._held > self.limit and len(self._kept) > 1:
            self._held -= self.size(self._kept.popitem(last=False)[1])
        return made

    def forget(self) -> None:
        """Let go of everything."""
        self._kept.clear()
        self._held = 0


class Shelf:
    """Dicts of arrays by name, in the process and as files; a file that cannot be read or written is said, and costs time alone.

    Args:
        folder: says where files lie when it is asked.
        what: one of them in words, for warnings: "fit".
        room: bytes that stay in the process.
    """

    def __init__(self, folder: Callable[[], Path], what: str, room: int = 1 << 28) -> None:
        self.folder, self.what = folder, what
        self._memory: Memory[Arrays] = Memory(room, lambda made: sum(array.nbytes for array in made.values()))

    def of(self, name: str, make: Callable[[], Arrays], *, on_disk: bool = True) -> Arrays:
        """What has this name: from the process, from the disk, else made and kept.

        Args:
            name: kind and `fingerprint` of what it is made from.
            make: makes it.
            on_disk: is it worth a file? Else it stays in the process alone.

        Returns:
            Its arrays, not to be written to.
        """
        return self._memory.of(name, lambda: self._found(self.folder() / f"{name}.safetensors", make) if on_disk else make())

    def forget(self) -> None:
        """Let go of what is in the process; files stay."""
        self._memory.forget()

    def _found(self, path: Path, make: Callable[[], Arrays]) -> Arrays:
        found = self._read(path)
        return self._written(path, make()) if found is None else found

    def _read(self, path: Path) -> Arrays | None:
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            return dict(load(path.read_bytes()))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, SafetensorError, ValueError) as error:
            warnings.warn(f"the {self.what} {path} cannot be read ({error}); it is made again", stacklevel=2)
            return None

    def _written(self, path: Path, made: Arrays) -> Arrays:
        from safetensors.numpy import save

        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, save({key: np.ascontiguousarray(value) for key, value in made.items()}))
        except OSError as error:
            warnings.warn(f"the {self.what} could not be kept in {path.parent} ({error.strerror or error})", stacklevel=2)
        return made


def fingerprint(facts: Mapping[str, Any], *arrays: NDArray[Any]) -> str:
    """A name for what is made from facts and arrays.

    Args:
        facts: anything that JSON can hold; what it cannot, as its words.
        arrays: numbers; their bytes count, their shapes belong to the facts.

    Returns:
        32 hexadecimal digits.
    """
    made = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for array in arrays:
        made.update(np.ascontiguousarray(array).data)
    return made.hexdigest()[:32]
