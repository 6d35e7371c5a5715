"""How volumes are drawn: pages of panels placed to the inch, colour scales, slices side by side.

Patient axes (LPS) as a radiologist hangs them: anterior and superior are up, the patient's left is on the right; all panels of a picture
are to one scale in mm (slices are thicker than pixels are wide) and in one window.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from unstir.plugin.canvas import INK, QUIET, WIDTH
from unstir_medical.scene import Array, Cut, Plane, Scene

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Auto = float | Literal["auto"]
COLUMNS = 6  # panels in a row
GAP = 0.04  # inches between panels


@dataclass
class Sheet:
    """A page of panels placed to the inch, so that every image keeps its scale; filled from the top, then made.

    Args:
        width: in inches.
    """

    width: float = WIDTH
    down: float = 0.0
    panels: list[tuple[float, float, float, float, Callable[[Axes], Any]]] = field(default_factory=list)
    texts: list[tuple[float, float, str, dict[str, Any]]] = field(default_factory=list)

    def panel(self, left: float, top: float, width: float, height: float, draw: Callable[[Axes], Any]) -> None:
        """Place a panel by its upper left corner, in inches from the page's."""
        self.panels.append((left, top, width, height, draw))

    def text(self, left: float, top: float, words: str, **look: Any) -> None:
        """Place a text, in inches from the upper left corner."""
        self.texts.append((left, top, words, {"va": "top", "color": INK, "fontsize": 8.5} | look))

    def figure(self) -> Figure:
        """The page."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(self.width, self.down), facecolor="white")
        for left, top, width, height, draw in self.panels:
            place = (left / self.width, 1 - (top + height) / self.down, width / self.width, height / self.down)
            draw(figure.add_axes(place))
        for left, top, words, look in self.texts:
            figure.text(left / self.width, 1 - top / self.down, words.replace("$", r"\$"), **look)
        return figure


@dataclass(frozen=True)
class Scale:
    """A colour scale.

    Args:
        low: value of the first colour.
        high: value of the last.
        colours: name of the matplotlib map.
        label: quantity and unit.
        beyond: do values lie beyond: "neither", "max" or "both".
    """

    low: float
    high: float
    colours: str = "gray"
    label: str = "HU"
    beyond: Literal["neither", "max", "both"] = "neither"

    def picture(self, values: Array, size_mm: tuple[float, float]) -> Callable[[Axes], None]:
        """What draws a slice with cells of ``size_mm`` (down, across)."""

        def draw(axes: Axes) -> None:
            height, width = values.shape[0] * size_mm[0], values.shape[1] * size_mm[1]
            axes.imshow(values, self.colours, vmin=self.low, vmax=self.high, extent=(0, width, height, 0), interpolation="bilinear")
            axes.set_axis_off()

        return draw

    def bar(self, axes: Axes) -> None:
        """Draw the scale itself into tall thin axes."""
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        mapped = ScalarMappable(Normalize(self.low, self.high), self.colours)
        figure = axes.get_figure(root=True)
        assert figure is not None
        bar = figure.colorbar(mapped, cax=axes, extend=self.beyond, extendfrac=0.04)
        bar.outline.set_linewidth(0.5)  # type: ignore[operator]
        bar.outline.set_edgecolor(QUIET)  # type: ignore[operator]
        axes.tick_params(labelsize=7, length=2, width=0.5, color=QUIET, labelcolor=INK, pad=2)
        axes.set_title(self.label, fontsize=7, color=INK, loc="left", pad=5)


def window_of(scene: Scene, level: Auto = "auto", width: Auto = "auto") -> Scale:
    """The window of a scene: as asked, else what holds 98 % of the body, in steps of 50 HU."""
    low, high = np.percentile(scene.reference[scene.body], (1.0, 99.0))
    low, high = max(-1000.0, 50 * math.floor(low / 50)), 50 * math.ceil(high / 50)
    middle = (low + high) / 2 if level == "auto" else level
    span = max(high - low, 50.0) if width == "auto" else width
    return Scale(middle - span / 2, middle + span / 2)


def strips(
    sheet: Sheet, scene: Scene, planes: Sequence[tuple[Plane, int]], shown: Mapping[str, Array], scale: Scale, under: Callable[[str], str],
    left: float = 0.2, right: float = 0.48,
) -> None:  # fmt: skip
    """Fill a sheet with volumes side by side, a row a plane, under the names of the volumes.

    Args:
        sheet: filled from where it stands.
        scene: whose region is shown.
        planes: plane and index of each row.
        shown: (z, y, x) by title.
        scale: of all.
        under: what stands under a title.
        left: inches left free.
        right: inches right free, for the scale.
    """
    dz, dy, dx = scene.spacing
    size_mm = {"axial": (dy, dx), "coronal": (dz, dx), "sagittal": (dz, dy)}
    lines = max(1, math.ceil(len(shown) / COLUMNS))
    columns = math.ceil(len(shown) / lines)
    widest = max(image(scene.body[scene.box], plane, 0).shape[1] * size_mm[plane][1] for plane, _ in planes)
    width = min((sheet.width - left - right - GAP * (columns - 1)) / columns, 2.2)
    titles, begun = list(shown), 0.0
    for line in range(lines):
        row = titles[line * columns : (line + 1) * columns]
        for place, title in enumerate(row):
            across = left + place * (width + GAP) + width / 2
            sheet.text(across, sheet.down, title, ha="center", weight="bold")
            sheet.text(across, sheet.down + 0.145, under(title), ha="center", fontsize=7.5, color=QUIET)
        sheet.down += 0.32
        begun = begun or sheet.down
        for plane, index in planes:
            height = image(scene.body[scene.box], plane, 0).shape[0] * size_mm[plane][0] * width / widest
            font = min(7.0, 15 * height)  # a thin stack is as low as the name of its plane is long
            sheet.text(left - 0.06, sheet.down + height / 2, plane, ha="right", va="center", rotation=90, fontsize=font, color=QUIET)
            for place, title in enumerate(row):
                cut = image(shown[title], plane, index)[scene.region(plane)]
                own = cut.shape[1] * size_mm[plane][1] * width / widest
                at = left + place * (width + GAP) + (width - own) / 2
                sheet.panel(at, sheet.down, own, height, scale.picture(cut, size_mm[plane]))
            sheet.down += height + GAP
        sheet.down += 0.08
    beside = left + columns * (width + GAP) + 0.06
    sheet.panel(beside, begun, 0.09, min(1.5, sheet.down - begun - 0.45), scale.bar)
    bar_mm = nice(0.18 * widest / width, (1, 2, 5, 10))
    sheet.panel(beside, sheet.down - 0.3, bar_mm * width / widest, 0.06, ruler(f"{bar_mm:g} mm"))


def slices_picture(scene: Scene, window: Scale, slices: Cut = "auto") -> Figure:
    """Three orthogonal slices of the truth and of every method, in one window."""
    sheet = Sheet()
    strips(sheet, scene, scene.planes(slices), scene.volumes, window, scene.score)
    return sheet.figure()


def ruler(words: str) -> Callable[[Axes], None]:
    """What draws a length as wide as its axes."""

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [1, 1], color=INK, linewidth=1.6, solid_capstyle="butt", clip_on=False)
        axes.set(xlim=(0, 1), ylim=(0, 1))
        axes.set_axis_off()
        axes.text(0, 0, words, fontsize=7, color=INK, va="top")

    return draw


def image(values: Array, plane: Plane, index: int) -> Array:
    """A slice of (z, y, x) as it hangs: anterior or superior up, the patient's left (or posterior) to the right."""
    if plane == "axial":
        return values[index]
    return (values[:, index] if plane == "coronal" else values[:, :, index])[::-1]


def nice(value: float, digits: Sequence[float] = (1, 2, 2.5, 5, 10)) -> float:
    """The first round number not below ``value``."""
    if not value > 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return power * next(d for d in digits if d * power >= value * (1 - 1e-9))
