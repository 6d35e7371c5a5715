"""Pictures of a run that makes plain graphs: some of every method beside test graphs, and the laws of their statistics.

Places of the nodes are those of a spring layout with a fixed seed; what is shown is never picked, it is the first graphs of a set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from unstir.errors import UserError
from unstir.plugin.canvas import INK, PALETTE, QUIET, WIDTH, label_left, legend, sheet
from unstir.plugin.protocols import Case, Drawn
from unstir.plugin.view import View, compared
from unstir_molecules.adjacency import networkx
from unstir_molecules.drawing import TEST, TRAIN, draw_laws, edges_of, titled_whole
from unstir_molecules.figures_sets import OfSets
from unstir_molecules.graphs import Graphs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["DrawnGraphs", "Statistics", "graphs_picture", "statistics_of", "statistics_picture"]

Array = NDArray[Any]
STATISTICS = {"degree": "degree", "clustering": "clustering coefficient", "eigenvalue": "eigenvalue of the normalised Laplacian"}


class OfGraphs(OfSets[Graphs]):
    """What the pictures of graphs share."""

    def made(self, data: xr.Dataset) -> Graphs | None:
        """The graphs that an answer holds; ``None`` where it holds none.

        Args:
            data: of an estimate.
        """
        return Graphs.of_dataset(data) if "nodes" in data and data.sizes["graph"] else None


@dataclass(frozen=True)
class DrawnGraphs(OfGraphs):
    """The first graphs of every method, below the first test graphs.

    Args:
        most: how many methods, the last of the recipe.
        methods: labels shown instead.
        columns: graphs of a method.

    Raises:
        UserError: nothing would be drawn.
    """

    columns: int = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.columns <= 12:
            raise UserError(f"columns must be from 1 to 12, got {self.columns}")

    def picture(self, view: View, case: Case, made: Mapping[str, Graphs]) -> Drawn:
        """The picture of one set.

        Args:
            view: of the setting.
            case: whose.
            made: graphs by title.
        """
        from unstir_molecules.isomorphism import novel
        from unstir_molecules.structures import is_connected

        train = Graphs.of_dataset(case.measurement)
        new = {title: novel(graphs, train) for title, graphs in made.items()}
        whole = {title: is_connected(graphs) for title, graphs in made.items()}
        groups = {} if case.truth is None else {f"{TEST} set": Graphs.of_dataset(case.truth)}
        groups |= made
        marks = {title: ["novel" if one else "in train" for one in found] for title, found in new.items()}
        shown = {title: graphs.take(np.arange(min(self.columns, len(graphs)))) for title, graphs in groups.items()}
        figure = graphs_picture(shown, marks, self.columns)
        means = {title: 100 * float((new[title] & whole[title]).mean()) for title in made}
        caption = f"{view.at}In one piece and not in the training set: {compared(means, 1, unit='%', highest=True)}. "
        caption += f"Shown are the first {self.columns} graphs of each; pieces beside the largest are orange."
        tables = [
            pd.DataFrame({"set": title, "graph": range(len(graphs)), "nodes": graphs.nodes, "edges": graphs.edges,
                          "novel": new[title][: len(graphs)] if title in new else np.nan})
            for title, graphs in shown.items()
        ]  # fmt: skip
        data = pd.concat(tables, ignore_index=True)
        return Drawn(view.named("grid", case.key), f"Graphs, {case.key}{view.place}", caption, figure, data, case.key)


def graphs_picture(groups: Mapping[str, Graphs], marks: Mapping[str, list[str]], columns: int = 6) -> Figure:
    """Graphs in rows, a group under its title.

    Args:
        groups: graphs by title.
        marks: a word a graph, by title.
        columns: graphs in a row.
    """
    from matplotlib.figure import Figure

    cell, head = (WIDTH - 0.1) / columns, 0.32
    high = cell * 1.12
    lines = {title: max(1, -(-len(graphs) // columns)) for title, graphs in groups.items()}
    total = sum(number * high + head for number in lines.values()) + 0.05
    figure, top = Figure(figsize=(WIDTH, total), facecolor="white"), total
    for title, graphs in groups.items():
        top -= head + lines[title] * high
        axes = figure.add_axes((0.05 / WIDTH, top / total, 1 - 0.1 / WIDTH, lines[title] * high / total))
        axes.set(xlim=(0, columns), ylim=(lines[title], 0))
        axes.set_axis_off()
        titled_whole(axes, title)
        for place, graph in enumerate(graphs.to_networkx()):
            down, across = divmod(place, columns)
            draw_graph(axes, graph, across, down, colour=INK if title == f"{TEST} set" else PALETTE[0])
            mark = marks[title][place] if title in marks else ""
            words = "\n".join(filter(None, [f"{graph.number_of_nodes()} nodes, {graph.number_of_edges()} edges", mark]))
            axes.text(across + 0.5, down + 0.9, words, ha="center", va="center", fontsize=7, color=INK, linespacing=1.15)
    return figure


def draw_graph(axes: Axes, graph: Any, left: float, top: float, colour: str) -> None:
    """A graph within a unit square.

    Args:
        axes: where.
        graph: of networkx, nodes 0 to n - 1.
        left: of the square.
        top: of the square.
        colour: of its largest piece; nodes of other pieces are orange.
    """
    from matplotlib.collections import LineCollection

    count = graph.number_of_nodes()
    if not count:
        return
    nx = networkx()
    found = nx.spring_layout(graph, seed=0, iterations=100)
    at = np.array([found[node] for node in range(count)], dtype=np.float64)
    low, span = at.min(0), np.maximum(np.ptp(at, axis=0), 1e-9)
    at = np.where(np.ptp(at, axis=0) < 1e-9, 0.5, (at - low) / span) * [0.84, 0.72] + [left + 0.08, top + 0.06]
    piece = max(nx.connected_components(graph), key=len)
    colours = [colour if node in piece else PALETTE[1] for node in range(count)]
    lines = LineCollection([at[list(edge)] for edge in graph.edges()], colors=QUIET, linewidths=0.7 if count < 60 else 0.35, zorder=1)
    axes.add_collection(lines, autolim=False)
    axes.scatter(at[:, 0], at[:, 1], s=14 if count < 60 else 4, c=colours, linewidths=0, zorder=2)


# ---- statistics


def statistics_of(graphs: Graphs) -> dict[str, Array]:
    """Degrees, clustering coefficients and eigenvalues of the normalised Laplacian of all nodes of a set.

    Args:
        graphs: the set.

    Returns:
        An array, a number a node, by the names of `STATISTICS`.
    """
    from unstir_molecules.statistics import clustering_coefficients, eigenvalues

    return {"degree": graphs.degrees().astype(float), "clustering": clustering_coefficients(graphs), "eigenvalue": eigenvalues(graphs)}


def statistics_picture(sets: Mapping[str, Mapping[str, Array]]) -> tuple[Figure, pd.DataFrame]:
    """Histograms of the statistics of several sets.

    Args:
        sets: statistics by title; "test" and "train" are drawn as what they are.

    Returns:
        The picture, and its numbers: ``statistic``, ``set``, ``low``, ``high``, ``percent``.
    """
    figure, grid = sheet(len(STATISTICS), columns=3, height=2.4)
    tables = []
    for axes, (name, words) in zip(grid, STATISTICS.items(), strict=True):
        values = {title: one[name] for title, one in sets.items()}
        tables.append(draw_laws(axes, edges_of(list(values.values()), name == "degree"), values).assign(statistic=name))
        axes.set_xlabel(words, fontsize=8, color=INK)
    label_left(figure, grid, "% of nodes, of eigenvalues")
    legend(figure, grid, first=TEST)
    return figure, pd.concat(tables, ignore_index=True)[["statistic", "set", "low", "high", "percent"]]


@dataclass(frozen=True)
class Statistics(OfGraphs):
    """Degrees, clustering coefficients and spectra of every method beside those of the test and the training graphs.

    Args:
        most: how many methods, the last of the recipe.
        methods: labels shown instead.
    """

    def picture(self, view: View, case: Case, made: Mapping[str, Graphs]) -> Drawn:
        """The picture of one set.

        Args:
            view: of the setting.
            case: whose.
            made: graphs by title.
        """
        real = {TEST: case.truth, TRAIN: case.measurement}
        sets = {title: statistics_of(Graphs.of_dataset(data)) for title, data in real.items() if data is not None}
        sets |= {title: statistics_of(graphs) for title, graphs in made.items()}
        figure, data = statistics_picture(sets)
        title = f"Degree, clustering and spectrum, {case.key}{view.place}"
        return Drawn(view.named("statistics", case.key), title, f"{view.at}{self.finding(sets)}", figure, data, case.key)

    def finding(self, sets: Mapping[str, Mapping[str, Array]]) -> str:
        """How far each method is from the test graphs.

        Args:
            sets: statistics by title.
        """
        from scipy.stats import wasserstein_distance

        if TEST not in sets:
            return "There are no test graphs beside."
        said = []
        for name in STATISTICS:
            far = {title: float(wasserstein_distance(one[name], sets[TEST][name])) for title, one in sets.items() if title != TEST}
            said.append(f"{name} {compared(far, 3)}")
        return f"Wasserstein distance to the test graphs, over nodes: {'; '.join(said)}."
