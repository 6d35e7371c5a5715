"""How molecules are drawn: their structures with what became of each sample, the laws of their properties beside real ones, their faults.

A sample is "novel" where its molecule is not in the training set and no earlier sample made it, "in train", a "repeat", "mended" where it
was no molecule before correction, or "none"; "a piece" was kept where it came in several. Marks are words and dashes as well as colours.
"""

from __future__ import annotations

import io
import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from unstir.plugin.canvas import INK, PALETTE, QUIET, WIDTH, label_left, legend, plain, plain_axes, sheet, style, tint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from unstir_molecules.taxonomy import Failure

Array = NDArray[Any]
TEST, TRAIN = "test", "train"
"""Names of the sets of real molecules."""
CELL = (260, 190)  # pixels of a structure
BINS = 30
LOOKS: dict[str, tuple[str, Any]] = {
    "novel": (PALETTE[2], "-"), "valid": (PALETTE[2], "-"), "in train": (QUIET, "-"), "repeat": (QUIET, (0, (5, 2))),
    "mended": (PALETTE[1], (0, (2, 1.2))), "none": (PALETTE[1], (0, (1, 2))), "": ("none", "-"),
}  # fmt: skip
"""Colour and dashes of the frame of a structure, by its mark."""
PIECES = "disconnected"  # of these samples one piece was kept
HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\")


def marked(data: xr.Dataset, train: Collection[str] | None) -> pd.DataFrame:
    """What became of every sample.

    Args:
        data: a set of molecules.
        train: SMILES that are not new; ``None`` where nobody knows, and what is right is called "valid".

    Returns:
        A row a sample: ``sample``, ``smiles``, ``valid``, ``corrected``, ``problem``, ``novel`` and ``mark``.
    """
    from unstir_molecules.judge import are_valid, every

    smiles, valid = every(data), are_valid(data)
    seen = set(train or ())
    new = [bool(text) and train is not None and text not in seen for text in smiles]
    marks, before = [], set()
    for text, is_valid, is_new in zip(smiles, valid.tolist(), new, strict=True):
        if not text or not is_valid:
            marks.append("mended" if text else "none")
        elif train is None:
            marks.append("repeat" if text in before else "valid")
        else:
            marks.append("in train" if not is_new else "repeat" if text in before else "novel")
        before.add(text)
    other = {name: data[name].values if name in data else default for name, default in (("corrected", False), ("problem", ""))}
    return pd.DataFrame({"sample": range(len(smiles)), "smiles": smiles, "valid": valid, **other, "novel": new, "mark": marks})


def structure(smiles: str) -> Array:
    """A molecule as RDKit draws it.

    Args:
        smiles: one SMILES.

    Returns:
        (190, 260, 3) float of an image, white where there is no molecule.
    """
    from matplotlib.image import imread
    from rdkit.Chem.Draw import rdMolDraw2D

    from unstir_molecules.each import molecule

    width, height = CELL
    mol = molecule(smiles)
    if mol is None or not mol.GetNumAtoms():
        return np.ones((height, width, 3))
    pen = rdMolDraw2D.MolDraw2DCairo(width, height)
    look: Any = pen.drawOptions()
    look.fixedBondLength, look.bondLineWidth, look.padding, look.minFontSize = 38, 2, 0.08, 15
    rdMolDraw2D.PrepareAndDrawMolecule(pen, mol)
    pen.FinishDrawing()
    return np.asarray(imread(io.BytesIO(pen.GetDrawingText()), format="png"), dtype=np.float64)[..., :3]


def structures_picture(groups: Mapping[str, pd.DataFrame], columns: int = 6) -> Figure:
    """Structures in rows, a group under its title, each in the frame of its mark.

    Args:
        groups: ``smiles``, ``mark`` and ``problem`` of the molecules shown, by title.
        columns: molecules in a row.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    cell = (WIDTH - 0.1) / columns
    lines = {title: max(1, math.ceil(len(frame) / columns)) for title, frame in groups.items()}
    high, head = cell * 0.92, 0.32  # inches of a cell and of a title
    total = sum(number * high + head for number in lines.values()) + 0.05
    figure, top = Figure(figsize=(WIDTH, total), facecolor="white"), total
    for title, frame in groups.items():
        top -= head
        axes = figure.add_axes((0.05 / WIDTH, (top - lines[title] * high) / total, 1 - 0.1 / WIDTH, lines[title] * high / total))
        top -= lines[title] * high
        axes.set(xlim=(0, columns), ylim=(lines[title], 0))
        axes.set_axis_off()
        titled_whole(axes, title)
        for place, (text, mark, problem) in enumerate(zip(frame["smiles"], frame["mark"], frame["problem"], strict=True)):
            down, across = divmod(place, columns)
            axes.imshow(structure(text), extent=(across + 0.05, across + 0.95, down + 0.78, down + 0.05), aspect="auto", zorder=1)
            colour, dashes = LOOKS[mark]
            frame_look: dict[str, Any] = {"edgecolor": colour, "linestyle": dashes, "linewidth": 1.3, "facecolor": "none", "zorder": 2}
            axes.add_patch(Rectangle((across + 0.03, down + 0.03), 0.94, 0.77, **frame_look))
            words = f"{mark}: {problem}" if problem and mark in ("mended", "none") else f"{mark}{', a piece' if problem == PIECES else ''}"
            axes.text(across + 0.5, down + 0.89, words, ha="center", va="center", fontsize=8, color=INK)
        axes.set(xlim=(0, columns), ylim=(lines[title], 0))  # images move them
    return figure


def titled_whole(axes: Axes, words: str) -> None:
    """A title over axes as wide as the page.

    Args:
        axes: whose.
        words: what it says.
    """
    axes.set_title(plain(words, 90), loc="left", fontsize=9.5, weight="bold", color=INK, pad=4)


# ---- laws


PANELS = {
    "qed": "QED",
    "sa": "SA (1 easy to 10 hard to make)",
    "logp": "logP",
    "weight": "weight, Da",
    "rings": "rings",
    "atoms": "heavy atoms",
}
"""Properties that are drawn, with their units."""
WHOLE = ("rings", "atoms")


def atoms_of(mol: Any) -> float:
    """Heavy atoms of a molecule.

    Args:
        mol: an RDKit molecule.
    """
    return float(mol.GetNumHeavyAtoms())


def described(smiles: Sequence[str], count: int, seed: int = 0) -> dict[str, Array]:
    """Properties of a random part of a set.

    Args:
        smiles: SMILES, "" for none: these are left out.
        count: molecules at most.
        seed: draws them.

    Returns:
        An array by the names of `PANELS`.
    """
    from unstir_molecules.each import each
    from unstir_molecules.judge import chosen
    from unstir_molecules.properties import properties

    some = chosen([one for one in smiles if one], count, seed)
    return properties(some) | {"atoms": np.array(each(atoms_of, some), dtype=np.float64)}


def edges_of(values: Sequence[Array], whole: bool) -> Array:
    """Ends of the bins of a histogram of several samples.

    Args:
        values: each (n,).
        whole: are they whole numbers? Then every number has a bin of its own.
    """
    known = [one[np.isfinite(one)] for one in values]
    ends = [np.quantile(one, (0.002, 0.998)) for one in known if len(one)]
    low, high = (min(end[0] for end in ends), max(end[1] for end in ends)) if ends else (0.0, 1.0)
    if whole:
        return np.arange(math.floor(low) - 0.5, math.ceil(high) + 1.0)
    return np.linspace(low, high if high > low else low + 1, BINS + 1)


def draw_laws(axes: Axes, edges: Array, sets: Mapping[str, Array]) -> pd.DataFrame:
    """Histograms in percent: the test set filled, the training set dashed in grey, the others as lines.

    Args:
        axes: where.
        edges: of the bins; what lies beyond is in the nearest.
        sets: values by title.

    Returns:
        ``set``, ``low``, ``high``, ``percent``.
    """
    tables, place = [], 0
    for title, values in sets.items():
        known = np.clip(values[np.isfinite(values)], edges[0], edges[-1])
        share = 100 * np.histogram(known, edges)[0] / max(len(known), 1)
        if title == TEST:
            axes.stairs(share, edges, fill=True, color=tint(INK, 0.18), label=TEST, zorder=1.5)
        elif title == TRAIN:
            axes.stairs(share, edges, color=QUIET, linestyle=(0, (2, 1.2)), linewidth=1.3, label=TRAIN, zorder=2)
        else:
            axes.stairs(share, edges, **style(place), label=plain(title), zorder=2.5 - 0.01 * place)
            place += 1
        tables.append(pd.DataFrame({"set": title, "low": edges[:-1], "high": edges[1:], "percent": share}))
    plain_axes(axes, ticks=4)
    axes.set_ylim(bottom=0)
    return pd.concat(tables, ignore_index=True)


def properties_picture(sets: Mapping[str, Mapping[str, Array]]) -> tuple[Figure, pd.DataFrame]:
    """Histograms of the properties of several sets.

    Args:
        sets: properties by title; "test" and "train" are drawn as what they are.

    Returns:
        The picture, and its numbers: ``property``, ``set``, ``low``, ``high``, ``percent``.
    """
    from matplotlib.ticker import MaxNLocator

    figure, grid = sheet(len(PANELS), columns=3, height=1.9)
    tables = []
    for axes, (name, words) in zip(grid, PANELS.items(), strict=True):
        values = {title: one[name] for title, one in sets.items()}
        table = draw_laws(axes, edges_of(list(values.values()), name in WHOLE), values)
        axes.set_xlabel(words, fontsize=8, color=INK)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=name in WHOLE))
        tables.append(table.assign(property=name))
    label_left(figure, grid, "% of molecules")
    legend(figure, grid, first=TEST)
    data = pd.concat(tables, ignore_index=True)
    return figure, data[["property", "set", "low", "high", "percent"]]


# ---- failures


def failures_picture(found: Mapping[str, Sequence[Failure]]) -> tuple[Figure, pd.DataFrame]:
    """Shares of samples with each kind of fault, a bar a set.

    Args:
        found: failures by title.

    Returns:
        The picture, and its numbers: ``method``, ``kind``, ``what``, ``count``, ``percent``, ``mended``.
    """
    kinds = [one.kind for one in next(iter(found.values()))]
    kinds += sorted({one.kind for listed in found.values() for one in listed} - set(kinds))
    shares = {title: {one.kind: 100 * one.share for one in listed} for title, listed in found.items()}
    shown = [kind for kind in kinds if any(share.get(kind, 0) > 0 for share in shares.values())]
    figure, (axes,) = sheet(1, columns=1, height=0.55 + 0.34 * len(found))
    titles, left = list(found), np.zeros(len(found))
    for place, kind in enumerate(shown):
        wide = np.array([shares[title].get(kind, 0.0) for title in titles])
        look: dict[str, Any] = {
            "color": tint(PALETTE[place % len(PALETTE)], 0.75),
            "edgecolor": "white",
            "hatch": HATCHES[place % len(HATCHES)],
        }
        axes.barh(range(len(titles)), wide, left=left, height=0.62, linewidth=0.4, label=kind, **look)
        left += wide
    axes.set_xlim(0, max(1.12 * float(left.max(initial=0)), 0.1))
    for place, total in enumerate(left):
        axes.annotate(f" {total:.1f} %", (float(total), place), va="center", fontsize=7.5, color=INK)
    plain_axes(axes, ticks=0)
    axes.set_yticks(range(len(titles)), [plain(title) for title in titles])
    axes.set_ylim(len(titles) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("% of samples with a fault before any correction", fontsize=8, color=INK)
    legend(figure, [axes])
    rows = [
        {"method": title, "kind": one.kind, "what": one.told, "count": one.count, "percent": 100 * one.share, "mended": one.mended}
        for title, listed in found.items() for one in listed
    ]  # fmt: skip
    return figure, pd.DataFrame(rows)


def faults_said(title: str, listed: Sequence[Failure]) -> str:
    """What was wrong with a set, in words: "gdss 1.8 % (valence 17, disconnected 1; 18 mended)".

    Args:
        title: of the set.
        listed: its failures.
    """
    total = sum(one.count for one in listed)
    if not total:
        return f"{title} none"
    parts = ", ".join(f"{one.kind} {one.count:,}" for one in sorted(listed, key=lambda one: -one.count) if one.count)
    return f"{title} {100 * sum(one.share for one in listed):.1f} % ({parts}; {sum(one.mended for one in listed):,} mended)"
