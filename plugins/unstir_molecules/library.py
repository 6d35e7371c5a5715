"""A set of made molecules as a user takes it home: a table with what is known of each, a file of structures, one page.

    similarity = Tanimoto of Morgan fingerprints (radius 2, 1024 bits) to the nearest training molecule;    novel: it is not one of them

Validity is that before any correction; nothing is dropped, so that a line a sample is a line a draw of the model.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from unstir.plugin import page as pages
from unstir_molecules.judge import are_valid, every, judge
from unstir_molecules.molecules import smiles_of

if TYPE_CHECKING:
    from unstir_molecules.making import Made, MakeSets

SHOWN = 24  # structures of the page
TOP = 12  # lines of the table of the best
LAWS = 2000  # molecules of a histogram
DIGITS = {"qed": 3, "sa": 2, "logp": 2, "weight": 2, "similarity": 3, "reward": 3}
NAMES = {"qed": "QED", "sa": "SA", "logp": "logP", "weight": "weight, Da", "nearest": "nearest in train", "smiles": "SMILES"}
WORDS = {
    "samples": "samples", "valid": "valid, before any correction", "whole": "in one piece", "made": "made, mended ones included",
    "unique_made": "distinct molecules", "novel_made": "distinct and not in the training set",
}  # fmt: skip


def judged(data: xr.Dataset, train: xr.Dataset | None, maximise: str = "") -> tuple[pd.DataFrame, dict[str, int]]:
    """What is known of every sample.

    Args:
        data: a set of molecules.
        train: those that are not new; ``None`` where nobody knows.
        maximise: a reward that each is asked for; empty for none.

    Returns:
        A row a sample: ``smiles``, ``valid``, ``corrected``, ``problem``, ``qed``, ``sa``, ``logp``, ``weight`` (Da), ``rings``, and with a
        training set ``novel``, ``nearest`` (SMILES) and ``similarity``, and ``reward`` where one is asked for; and how many are what.
    """
    from unstir_molecules.properties import properties, rewards

    smiles = every(data)
    seen = [] if train is None else smiles_of(train)
    table = pd.DataFrame(
        {"smiles": smiles, "valid": are_valid(data), "corrected": data["corrected"].values, "problem": data["problem"].values}
    )
    table = table.assign(**properties(smiles))
    table["rings"] = table["rings"].astype("Int64")
    if train is not None:
        known = set(seen)
        table["novel"] = [bool(text) and text not in known for text in smiles]
        near = nearest_of(smiles, seen)
        table["nearest"] = [near[text][0] if text else "" for text in smiles]
        table["similarity"] = [near[text][1] if text else np.nan for text in smiles]
    if maximise and maximise not in ("qed", "logp"):  # these are columns already; the reward "sa" is not the score of that name
        table["reward"] = rewards(maximise, smiles)
    counts = judge(data, seen).counted()
    if train is None:
        counts = {name: number for name, number in counts.items() if not name.startswith("novel")}
    return table, counts


def nearest_of(smiles: list[str], train: list[str]) -> dict[str, tuple[str, float]]:
    """The nearest training molecule of each, and how like it is.

    Args:
        smiles: SMILES, "" for none.
        train: SMILES of the training set.
    """
    from unstir_molecules.similarity import fingerprints, nearest

    asked = sorted({text for text in smiles if text})
    place, value = nearest(fingerprints(asked), fingerprints(train, keep=True))
    return {text: (train[at] if at >= 0 else "", float(like)) for text, at, like in zip(asked, place, value, strict=True)}


def write_sdf(path: Path, table: pd.DataFrame) -> None:
    """Molecules as a structure file with coordinates in the plane; samples without a molecule are left out.

    Args:
        path: the file.
        table: of `judged`; its columns become properties, ``_Name`` is the number of the sample.
    """
    from rdkit import Chem
    from rdkit.Chem import rdDepictor

    from unstir_molecules.each import molecule

    writer = Chem.SDWriter(str(path))
    try:
        for place, row in enumerate(table.to_dict("records")):
            mol = molecule(str(row["smiles"]))
            if mol is None:
                continue
            rdDepictor.Compute2DCoords(mol)
            mol.SetProp("_Name", f"sample-{place}")
            for name, value in row.items():
                if not pd.isna(value) and value != "":
                    mol.SetProp(str(name), f"{value:.6g}" if isinstance(value, float) else str(value))
            writer.write(mol)
    finally:
        writer.close()


def report(folder: Path, command: MakeSets, made: Made, table: pd.DataFrame, counts: dict[str, int]) -> Path:
    """Write ``report.html``.

    Args:
        folder: where.
        command: what was asked.
        made: the set.
        table: of `judged`.
        counts: of `judged`.

    Returns:
        The path of the page.
    """
    from unstir_molecules.drawing import failures_picture, faults_said, marked, structures_picture
    from unstir_molecules.taxonomy import failures

    train = None if made.train is None else smiles_of(made.train)
    title = f"{counts['samples']:,} samples of {command.model}"
    first = marked(made.estimate.data, train).head(SHOWN)
    legend = "The first samples, none left out. Novel: not in the training set and not made before; mended: no molecule before correction; "
    legend += "a piece: of a sample in several, the one that was kept."
    opening: list[pages.Part] = [pages.Picture(structures_picture({"first samples": first}), legend, f"{title}: drawn molecules")]
    found = failures(made.estimate.data)
    said = f"With a fault before any correction: {faults_said('of all samples', found)}."
    rows = [
        (words, f"{counts[name]:,}", f"{100 * counts[name] / counts['samples']:.1f}") for name, words in WORDS.items() if name in counts
    ]
    what: list[pages.Part] = [pages.Table("What the samples are", ("", "samples", "% of all"), rows)]
    what += (
        [pages.Picture(failures_picture({"samples": found})[0], said, "Shares of samples by fault")]
        if any(one.count for one in found)
        else []
    )
    if train is None:
        what.append(pages.Words("The training set is not at hand, so nothing is said of novelty.", note=True))
    sections = [pages.Section("what", "What they are", what)]
    sections += best(str(getattr(command, "maximise", "")), table)
    sections.append(pages.Section("beside", "Beside real molecules", beside(made, table)))
    notes: list[pages.Part] = [pages.Words(line, note=True) for line in made.said]
    sections.append(pages.Section("made", "How it was made", [pages.Facts(command.facts(made)), *notes]))
    footer = "Made by unstir. Nothing here was synthesised or tested: a proposal is not a compound."
    return pages.page(folder, title=title, kicker="unstir · molecules", opening=opening, sections=sections, footer=footer)


def best(maximise: str, table: pd.DataFrame) -> list[pages.Section]:
    """The molecules of highest reward, each once; nothing where none was asked for.

    Args:
        maximise: the reward.
        table: of `judged`.
    """
    if not maximise:
        return []
    column = "reward" if "reward" in table else maximise
    made = table[table["smiles"] != ""]
    ranked = made.drop_duplicates("smiles").sort_values(column, ascending=False, kind="stable")
    top = ranked.head(TOP).drop(columns=["valid", "corrected", "problem"])
    words = f"Distinct molecules of highest reward ({maximise}); its mean over all samples that are molecules is {made[column].mean():.3f}."
    parts: list[pages.Part] = [pages.Words(words), pages.Table.of(top, f"Highest reward, {maximise}", names=NAMES, digits=DIGITS)]
    return [pages.Section("best", "Highest reward", parts)]


def beside(made: Made, table: pd.DataFrame) -> list[pages.Part]:
    """Histograms of properties beside those of real molecules, and how near the training set is.

    Args:
        made: the set.
        table: of `judged`.
    """
    from unstir_molecules.drawing import TEST, TRAIN, described, properties_picture

    real = {TEST: made.test, TRAIN: made.train}
    texts = {title: smiles_of(data) for title, data in real.items() if data is not None}
    texts["samples"] = [text for text in table["smiles"] if text]
    sets: dict[str, Any] = {title: described(listed, LAWS) for title, listed in texts.items() if listed}
    words = ", ".join(f"{min(len(texts[title]), LAWS):,} of {title}" for title in sets)
    if "samples" not in sets:
        return [pages.Words("No sample is a molecule.")]
    parts: list[pages.Part] = [pages.Picture(properties_picture(sets)[0], f"Properties of {words}.", "Histograms of properties")]
    if "similarity" in table:
        like = table["similarity"].dropna()
        said = f"Similarity to the nearest training molecule: mean {like.mean():.2f}, and 1 for {100 * float((like >= 1).mean()):.1f} %"
        parts.append(pages.Words(f"{said} (the fingerprint of Morgan, radius 2, cannot tell all molecules apart)."))
    return parts
