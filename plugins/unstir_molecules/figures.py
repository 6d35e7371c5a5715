"""Pictures of a run that makes molecules: structures of every method, the laws of their properties, their faults.

What is shown is never picked: the first samples of a method, molecules spread evenly over the test set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr

from unstir.errors import UserError
from unstir.plugin.options import at_least
from unstir.plugin.protocols import Case, Drawn
from unstir.plugin.view import View, compared, spread
from unstir_molecules.drawing import (
    PANELS,
    TEST,
    TRAIN,
    described,
    failures_picture,
    faults_said,
    marked,
    properties_picture,
    structures_picture,
)
from unstir_molecules.figures_sets import OfSets

__all__ = ["Failures", "PropertyLaws", "Structures"]


class OfMolecules(OfSets[xr.Dataset]):
    """What the pictures of molecules share."""

    def made(self, data: xr.Dataset) -> xr.Dataset | None:
        """The molecules that an answer holds; ``None`` where it holds none.

        Args:
            data: of an estimate.
        """
        return data if "smiles" in data and data.sizes["sample"] else None


@dataclass(frozen=True)
class Structures(OfMolecules):
    """The first samples of every method as drawn molecules, each marked as novel, in the training set, a repeat or mended.

    Args:
        most: how many methods, the last of the recipe.
        methods: labels shown instead.
        rows: of molecules, a method.
        columns: molecules in a row.

    Raises:
        UserError: nothing would be drawn, or more than 60 molecules a method.
    """

    rows: int = 2
    columns: int = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.rows, self.columns) < 1 or self.rows * self.columns > 60:
            raise UserError(f"rows and columns must be at least 1 and their product 60 at most, got {self.rows} and {self.columns}")

    def picture(self, view: View, case: Case, made: Mapping[str, xr.Dataset]) -> Drawn:
        """The picture of one set.

        Args:
            view: of the setting.
            case: whose.
            made: molecules by title.
        """
        from unstir_molecules.judge import judge
        from unstir_molecules.molecules import smiles_of

        train = set(smiles_of(case.measurement))
        count = self.rows * self.columns
        frames = {title: marked(one, train) for title, one in made.items()}
        groups = {title: frame.head(count) for title, frame in frames.items()}
        if case.truth is not None:
            real = smiles_of(case.truth)
            some = [real[place] for place in spread(len(real), self.columns)]
            groups = {f"{TEST} set": pd.DataFrame({"smiles": some, "mark": "", "problem": ""})} | groups
        figure = structures_picture(groups, self.columns)
        shares = {title: 100 * judge(one, train).shares()["vun"] for title, one in made.items()}
        first = {title: int((frame["mark"].head(count) == "novel").sum()) for title, frame in frames.items()}
        shown = ", ".join(f"{title} {number} of {len(groups[title])}" for title, number in first.items())
        caption = f"{view.at}Valid, distinct and novel of all samples: {compared(shares, 1, unit='%', highest=True)}. "
        caption += f"Shown are the first samples; novel of these: {shown}."
        data = pd.concat([frame.assign(set=title) for title, frame in groups.items()], ignore_index=True)
        return Drawn(view.named("grid", case.key), f"Molecules, {case.key}{view.place}", caption, figure, data, case.key)


@dataclass(frozen=True)
class PropertyLaws(OfMolecules):
    """Histograms of QED, SA, logP, weight, rings and heavy atoms of every method, beside those of the test and the training set.

    Args:
        most: how many methods, the last of the recipe.
        methods: labels shown instead.
        count: molecules of a set that are looked at, at most.
        seed: draws them.

    Raises:
        UserError: nothing would be drawn.
    """

    count: int = 2000
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, count=1)

    def picture(self, view: View, case: Case, made: Mapping[str, xr.Dataset]) -> Drawn:
        """The picture of one set.

        Args:
            view: of the setting.
            case: whose.
            made: molecules by title.
        """
        from unstir_molecules.molecules import smiles_of

        real = {TEST: case.truth, TRAIN: case.measurement}
        texts = {title: smiles_of(data) for title, data in real.items() if data is not None}
        texts |= {title: smiles_of(one) for title, one in made.items()}
        sets = {title: described(listed, self.count, self.seed) for title, listed in texts.items() if listed}
        figure, data = properties_picture(sets)
        caption = f"{view.at}{self.finding(sets)}"
        return Drawn(
            view.named("properties", case.key), f"Properties of molecules, {case.key}{view.place}", caption, figure, data, case.key
        )

    def finding(self, sets: Mapping[str, Mapping[str, np.ndarray]]) -> str:
        """Which method is nearest to the test set, property by property.

        Args:
            sets: properties by title.
        """
        from unstir_molecules.properties import wasserstein

        ours = [title for title in sets if title not in (TEST, TRAIN)]
        if TEST not in sets or not ours:
            return f"Properties of {', '.join(ours) or 'no molecule'}; there is no test set beside."
        said = []
        for name, words in PANELS.items():
            far = {title: wasserstein(one[name], sets[TEST][name]) for title, one in sets.items() if title != TEST}
            nearest = min(ours, key=far.__getitem__)
            floor = f", train {far[TRAIN]:.3g}" if TRAIN in far else ""
            said.append(f"{words.partition(' (')[0].partition(',')[0]} {nearest} {far[nearest]:.3g}{floor}")
        return f"Wasserstein distance to the test set, the nearest method and the training set as floor: {'; '.join(said)}."


@dataclass(frozen=True)
class Failures(OfMolecules):
    """What was wrong with the samples of every method before any correction, a bar a method.

    Args:
        most: how many methods, the last of the recipe.
        methods: labels shown instead.
    """

    most: int = 8

    def picture(self, view: View, case: Case, made: Mapping[str, xr.Dataset]) -> Drawn:
        """The picture of one set.

        Args:
            view: of the setting.
            case: whose.
            made: molecules by title.
        """
        from unstir_molecules.taxonomy import failures

        found = {title: failures(one) for title, one in made.items()}
        figure, data = failures_picture(found)
        caption = f"{view.at}Samples with a fault: {'; '.join(faults_said(title, listed) for title, listed in found.items())}."
        return Drawn(view.named("failures", case.key), f"What was wrong, {case.key}{view.place}", caption, figure, data, case.key)
