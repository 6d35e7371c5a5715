"""Cases of a run under one setting: made from the data by the task, found again by key, few held in memory."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from unstir.errors import DataError, PluginError, RecipeError, nearest
from unstir.plugin.protocols import Case
from unstir_pipelines.recipe import Assembly

HELD = 8
"""How many cases stay in memory."""


class CaseSource:
    """The cases of one setting, in order.

    Args:
        assembly: the objects of the recipe under the setting.
        chosen: the first so many, or keys; ``None`` for all.
    """

    def __init__(self, assembly: Assembly, chosen: int | Sequence[str] | None = None) -> None:
        self.assembly = assembly
        self.chosen = chosen
        self._held: OrderedDict[str, Case] = OrderedDict()
        self._iterator: Iterator[Case] | None = None

    def items(self) -> Iterator[Any]:
        """The items of the data: the dataset's, or the user's files as the task reads them."""
        if self.assembly.dataset is not None:
            yield from self.assembly.dataset.load()
            return
        seen: set[str] = set()
        for path in self.assembly.files:
            if not path.exists():
                raise DataError(f"{path} does not exist")
            item = self.assembly.task.read(path, **self.assembly.reading)
            key = path.name.partition(".")[0] or path.name
            if hasattr(item, "attrs"):
                item.attrs.setdefault("key", key)
                key = str(item.attrs["key"])
            if key in seen:
                raise DataError(f"two files of --data have the name {key!r}; rename {path}")
            seen.add(key)
            yield item if hasattr(item, "attrs") else (key, item)

    def walk(self) -> Iterator[Case]:
        """Every chosen case, in order.

        Raises:
            RecipeError: a chosen key is not there; lists the nearest.
            PluginError: the task gave two cases of one key, or something that is no case.
            DataError: there are no cases.
        """
        wanted = None if self.chosen is None or isinstance(self.chosen, int) else list(self.chosen)
        seen: list[str] = []
        found = 0
        for case in self._fresh():
            if not isinstance(case, Case):
                raise PluginError(f"{type(self.assembly.task).__name__}.cases must yield Case, got {type(case).__name__}")
            if case.key in seen:
                raise PluginError(f"{type(self.assembly.task).__name__}.cases gave two cases of the key {case.key!r}")
            seen.append(case.key)
            if wanted is None or case.key in wanted:
                found += 1
                self._keep(case)
                yield case
            if isinstance(self.chosen, int) and found == self.chosen or wanted is not None and found == len(set(wanted)):
                return
        for key in wanted or ():
            if key not in seen:
                near = nearest(key, seen, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {_few(seen)}"
                raise RecipeError(f"there is no case {key!r}; {hint} (--cases)")
        if not seen:
            raise DataError("the data hold no cases")

    def get(self, key: str) -> Case:
        """The case of a key; made again where it is no longer in memory."""
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        for attempt in range(2):
            if self._iterator is None or attempt:
                self._iterator = self.walk()
            for case in self._iterator:
                if case.key == key:
                    return case
            self._iterator = None
        raise PluginError(f"the task no longer gives the case {key!r}: the same data must give the same cases")

    def _fresh(self) -> Iterable[Case]:
        return iter(self.assembly.task.cases(self.items()))

    def _keep(self, case: Case) -> None:
        self._held[case.key] = case
        self._held.move_to_end(case.key)
        while len(self._held) > HELD:
            self._held.popitem(last=False)


def fingerprint(case: Case) -> str | None:
    """A sha256 of a case's measurement and truth, ``None`` where they are not arrays.

    Args:
        case: the case, with its truth.
    """
    digest = hashlib.sha256()
    known = False
    for part in (case.measurement, case.truth):
        known |= _feed(digest, part)
    return digest.hexdigest() if known else None


def _feed(digest: Any, part: Any) -> bool:
    import numpy as np

    if part is None:
        digest.update(b"none")
        return False
    if hasattr(part, "data_vars"):
        for name in sorted([*part.data_vars, *part.coords], key=str):
            digest.update(f"{name}{part[name].dims}".encode())
            _feed(digest, np.asarray(part[name].values))
        return True
    if isinstance(part, np.ndarray):
        digest.update(f"{part.dtype}{part.shape}".encode())
        digest.update(np.ascontiguousarray(part) if part.dtype.kind not in "OM" else repr(part.tolist()).encode())
        return True
    if isinstance(part, str | bytes | int | float):
        digest.update(repr(part).encode())
        return True
    return False


def _few(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
