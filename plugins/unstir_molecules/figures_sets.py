"""Pictures of runs that make sets: one a case and setting, of the last methods that made anything."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import xarray as xr

from unstir.plugin.options import at_least
from unstir.plugin.protocols import Case, Drawn, RunView
from unstir.plugin.view import View

S = TypeVar("S")


@dataclass(frozen=True)
class OfSets(ABC, Generic[S]):
    """What the pictures of sets share.

    Args:
        most: how many methods, the last of the recipe.
        methods: labels shown instead.

    Raises:
        UserError: nothing would be drawn.
    """

    most: int = 4
    methods: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        at_least(self, most=1)

    def draw(self, run: RunView) -> Iterator[Drawn]:
        """One picture a set and setting; none where no method made anything.

        Args:
            run: the run.
        """
        for view in View.each(run):
            for case in view.cases():
                found = view.estimates(case.key, self.methods)
                read = {view.titles[label]: self.made(one.data) for label, one in found.items()}
                held = [(title, one) for title, one in read.items() if one is not None]
                if held:
                    yield self.picture(view, case, dict(held[-max(self.most, len(self.methods)) :]))

    @abstractmethod
    def made(self, data: xr.Dataset) -> S | None:
        """The set that an answer holds; ``None`` where it holds none, or an empty one.

        Args:
            data: of an estimate.
        """

    @abstractmethod
    def picture(self, view: View, case: Case, made: Mapping[str, S]) -> Drawn:
        """The picture of one set.

        Args:
            view: of the setting.
            case: whose.
            made: sets by title.
        """
