"""A set of made graphs as a user takes it home: what is known of each, and one page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import xarray as xr

from unstir.plugin import page as pages
from unstir_molecules.graphs import Graphs

if TYPE_CHECKING:
    from unstir_molecules.making import Made, MakeSets

SHOWN = 24  # graphs of the page


def judged(graphs: Graphs, train: xr.Dataset | None) -> pd.DataFrame:
    """What is known of every graph.

    Args:
        graphs: the set.
        train: those that are not new; ``None`` where nobody knows.

    Returns:
        A row a graph: ``nodes``, ``edges``, ``connected``, and with a training set ``novel`` (isomorphic to none of it).
    """
    from unstir_molecules.isomorphism import novel
    from unstir_molecules.structures import is_connected

    table = pd.DataFrame({"nodes": graphs.nodes, "edges": graphs.edges, "connected": is_connected(graphs)})
    return table if train is None else table.assign(novel=novel(graphs, Graphs.of_dataset(train)))


def report(folder: Path, command: MakeSets, made: Made, graphs: Graphs, table: pd.DataFrame) -> Path:
    """Write ``report.html``.

    Args:
        folder: where.
        command: what was asked.
        made: the set.
        graphs: the same in memory.
        table: of `judged`.

    Returns:
        The path of the page.
    """
    from unstir_molecules.drawing import TEST, TRAIN
    from unstir_molecules.figures_graphs import graphs_picture, statistics_of, statistics_picture

    title = f"{len(graphs):,} graphs of {command.model}"
    marks = ["" if one is None else "novel" if one else "in train" for one in table.get("novel", [None] * len(graphs))]
    first = graphs.take(np.arange(min(SHOWN, len(graphs))))
    picture = graphs_picture({"first graphs": first}, {"first graphs": marks})
    opening = [pages.Picture(picture, "The first graphs, none left out; pieces beside the largest are orange.", f"{title}: drawings")]
    real = {TEST: made.test, TRAIN: made.train}
    sets = {name: Graphs.of_dataset(data) for name, data in real.items() if data is not None} | {"samples": graphs}
    counts = ", ".join(f"{len(one):,} of {name}" for name, one in sets.items())
    laws = statistics_picture({name: statistics_of(one) for name, one in sets.items()})[0]
    summary = table.astype(float).agg(["mean", "min", "max"]).T.rename_axis("graphs").reset_index()
    sections = [
        pages.Section("what", "What they are", [pages.Table.of(summary, "What the graphs are", digits={"mean": 2, "min": 0, "max": 0})]),
        pages.Section("beside", "Beside real graphs", [pages.Picture(laws, f"Nodes of {counts}.", "Histograms of statistics")]),
        pages.Section("made", "How it was made", [pages.Facts(command.facts(made)), *(pages.Words(line, note=True) for line in made.said)]),
    ]
    return pages.page(folder, title=title, kicker="unstir · graphs", opening=opening, sections=sections, footer="Made by unstir.")
