"""What is drawn of a CT run: one case under one setting with every answer to it, its region, its errors, its residuals."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from unstir.errors import UserError
from unstir.plugin.protocols import Case, Estimate, RunView
from unstir_medical.metrics import body_mask
from unstir_medical.volume import spacing_of, to_unit

Plane = Literal["axial", "coronal", "sagittal"]
PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")
Cut = tuple[int, int, int] | Literal["auto"]
"""Index of the axial, coronal and sagittal slice, or those through the middle of the body."""
Array = NDArray[Any]

MARGIN_MM = 8.0  # kept around the body
TRUTH = "truth"


@dataclass(frozen=True)
class Scene:
    """One case under one setting with every answer to it.

    Args:
        case: with its truth where there is one.
        setting: the varied keys.
        estimates: by label, in the recipe's order.
        titles: what a reader sees of each method.
        scores: PSNR in dB of each method on this case, where the run has it.
    """

    case: Case
    setting: Mapping[str, Any]
    estimates: Mapping[str, Estimate]
    titles: Mapping[str, str]
    scores: Mapping[str, float]

    @property
    def words(self) -> str:
        """The setting as a reader says it: ``{"task.views": 8}`` is "8 views"."""
        return setting_words(self.setting)

    @property
    def slug(self) -> str:
        """Case and setting as part of a file name."""
        return re.sub(r"[^a-z0-9.]+", "-", f"{self.case.key} {self.words}".lower()).strip("-.")

    @property
    def place(self) -> str:
        """Case and setting as part of a title."""
        return ", ".join(filter(None, [self.case.key, self.words]))

    @cached_property
    def volumes(self) -> dict[str, Array]:
        """HU (z, y, x) by title, the truth first."""
        known = {} if self.case.truth is None else {TRUTH: self.case.truth["hu"].values}
        return known | {self.titles[label]: estimate.data["hu"].values for label, estimate in self.estimates.items()}

    @cached_property
    def reference(self) -> Array:
        """HU (z, y, x) that region and window are taken from: the truth, else the last method's answer."""
        return self.volumes.get(TRUTH, next(reversed(self.volumes.values())))

    @cached_property
    def body(self) -> Array:
        """Voxels of the body, (z, y, x); all of them where nothing is denser than -400 HU."""
        mask = body_mask(self.reference)
        return mask if mask.any() else np.ones_like(mask)

    @cached_property
    def box(self) -> tuple[slice, slice, slice]:
        """The body with a margin, (z, y, x); every slice is kept."""
        _, y, x = self.body.nonzero()
        cut = []
        for axis, found in ((1, y), (2, x)):
            margin = math.ceil(MARGIN_MM / self.spacing[axis])
            cut.append(slice(max(0, int(found.min()) - margin), min(self.body.shape[axis], int(found.max()) + 1 + margin)))
        return slice(0, self.body.shape[0]), cut[0], cut[1]

    def region(self, plane: Plane) -> tuple[slice, slice]:
        """The body's box in the image of a plane."""
        z, y, x = self.box
        return {"axial": (y, x), "coronal": (z, x), "sagittal": (z, y)}[plane]

    def planes(self, slices: Cut) -> list[tuple[Plane, int]]:
        """Plane and index of the three orthogonal slices.

        Raises:
            UserError: an index outside the volume.
        """
        found = self.centre if slices == "auto" else slices
        for plane, index, count in zip(PLANES, found, self.body.shape, strict=True):
            if not 0 <= index < count:
                raise UserError(f"slices: the {plane} slice must be from 0 to {count - 1} for case {self.case.key}, got {index}")
        return list(zip(PLANES, found, strict=True))

    @cached_property
    def centre(self) -> tuple[int, int, int]:
        """The voxel (z, y, x) in the middle of the body."""
        z, y, x = (round(float(found.mean())) for found in self.body.nonzero())
        return z, y, x

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Cell size in mm, (z, y, x)."""
        data = self.case.truth if self.case.truth is not None else next(iter(self.estimates.values())).data
        return spacing_of(data)

    def errors(self) -> dict[str, Array]:
        """Estimate minus truth in HU, (z, y, x), by title; empty without a truth."""
        if self.case.truth is None:
            return {}
        return {title: values - self.volumes[TRUTH] for title, values in self.volumes.items() if title != TRUTH}

    def score(self, title: str) -> str:
        """The PSNR of a method in words, empty where there is none."""
        label = next((label for label, known in self.titles.items() if known == title), "")
        value = self.scores.get(label)
        return "" if value is None else f"{value:.1f} dB"

    def finding(self) -> str:
        """How the best method with a prior stands to the best without, "" where there is no number."""
        scored = {label: value for label, value in self.scores.items() if label in self.estimates}
        learned = {label: value for label, value in scored.items() if self.estimates[label].nfe > 0}
        classical = {label: value for label, value in scored.items() if label not in learned}
        at = f"at {self.words} " if self.words else ""
        if not scored:
            return ""
        if not learned or not classical:
            best = max(scored, key=scored.__getitem__)
            return f"{at}{self.titles[best]} is best with {scored[best]:.1f} dB"
        ours, theirs = max(learned, key=learned.__getitem__), max(classical, key=classical.__getitem__)
        gap = learned[ours] - classical[theirs]
        return f"{at}{self.titles[ours]} is {abs(gap):.1f} dB {'above' if gap >= 0 else 'below'} {self.titles[theirs]}"


def scenes(run: RunView, cases: int) -> Iterator[Scene]:
    """Every setting of the first ``cases`` cases that has an answer."""
    for key in list(run.cases())[:cases]:
        for setting in run.settings:
            found = scene(run, key, setting)
            if found is not None:
                yield found


def scene(run: RunView, key: str, setting: Mapping[str, Any]) -> Scene | None:
    """One case under one setting, ``None`` where no method has answered."""
    asked = ((label, run.estimate(label, key, setting)) for label in run.labels)
    estimates = {label: estimate for label, estimate in asked if estimate is not None}
    if not estimates:
        return None
    return Scene(run.case(key, setting), setting, estimates, method_titles(run), psnr_of(run, key, setting))


def method_titles(run: RunView) -> dict[str, str]:
    """What a reader sees of each method: its title in the recipe, else its label (also where two share a title)."""
    entries = dict(getattr(run.recipe, "resolved", {}).get("methods", {}))
    titles = {label: str(entries.get(label, {}).get("title") or label) for label in run.labels}
    return {label: title if list(titles.values()).count(title) == 1 and title != TRUTH else label for label, title in titles.items()}


def psnr_of(run: RunView, key: str, setting: Mapping[str, Any]) -> dict[str, float]:
    """Volume PSNR in dB by label, of the first seed, from the run's rows."""
    rows = run.rows
    if not len(rows):
        return {}
    rows = rows[(rows["metric"] == "psnr") & (rows["case"] == key)]
    rows = rows[[dict(other) == dict(setting) for other in rows["setting"]]]
    return {str(label): float(group["value"].iloc[0]) for label, group in rows.groupby("method", sort=False)}


def setting_words(setting: Mapping[str, Any]) -> str:
    """A setting as a reader says it: ``{"task.views": 8}`` is "8 views"."""
    words = []
    for key, value in setting.items():
        name = key.rsplit(".", 1)[-1].replace("_", " ")
        if isinstance(value, bool):
            words.append(name if value else f"no {name}")
        elif isinstance(value, int | float) and name.endswith("s"):
            words.append(f"{value:g} {name if value != 1 else name[:-1]}")
        else:
            words.append(f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}")
    return ", ".join(words)


def traces(one: Scene) -> dict[str, list[float]]:
    """Relative data residual of every step, by title, of the methods that recorded it."""
    found = {one.titles[label]: (estimate.info.get("trace") or {}).get("residual") for label, estimate in one.estimates.items()}
    return {title: [float(value) for value in line] for title, line in found.items() if line is not None and len(line)}


def projected(one: Scene, hu: Array) -> Array:
    """The line integrals (z, angle, detector) that a volume in HU would have given."""
    import torch

    u = to_unit(np.ascontiguousarray(hu, dtype=np.float32))
    lines: Array = one.case.context["operator"](torch.from_numpy(u)[None])[0].numpy()
    return lines


def floor(one: Scene) -> dict[str, float]:
    """What no method needs to go below: the residual of the truth itself (noise and the finer grid of the simulation)."""
    if one.case.truth is None:
        return {}
    y = one.case.measurement["sinogram"].values
    value = float(np.linalg.norm(projected(one, one.volumes[TRUTH]) - y) / max(float(np.linalg.norm(y)), 1e-30))
    return {TRUTH: value} if value > 1e-5 else {}
