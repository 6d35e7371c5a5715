"""``unstir apply molecules/generate`` and ``graphs/generate``: sets of new molecules or graphs of a trained model, judged.

Results are written all together or not at all.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import xarray as xr

from unstir.errors import UserError
from unstir.plugin.results import together
from unstir_molecules.making import Made, MakeSets, method_of, registered, spell


@dataclass(frozen=True)
class MakeMolecules(MakeSets):
    """Make a set of new molecules.

    The folder gets samples.smi (the molecules), samples.csv (a line a sample: validity before correction, what was wrong, properties,
    novelty, the nearest training molecule), samples.sdf (2-D coordinates) and report.html (structures, faults, laws beside real molecules,
    how it was made). Nothing here was synthesised or tested: a proposal is not a compound.

    Args:
        model: a checkpoint, a registered name or a folder.
        n: how many.
        nodes: heavy atoms other than the learnt numbers: "8", "7-9", "7:1,9:3".
        steps: of the sampler; the method's or the model's own when 0.
        train: a file (CSV, SMI, SDF) of molecules that are not new; the training part of the data that the model names when empty.
        seed: of everything drawn.
        maximise: a reward: "qed", "logp", "sa", "similarity:SMILES"; empty for none.
        scaffold: SMILES that every molecule holds.
        by: how the reward is raised: "svdd" (each sample by itself), "fk" (particles); with a regressor "gradient" (its slope), "tds"
            (particles that follow it).
        particles: proposals a step, or particles of a problem.
        temperature: in units of the reward; small is greedy.
        regressor: a checkpoint of molecules/property-training for this model, for "gradient" and "tds".

    Raises:
        UserError: an option out of range, no such reward.
    """

    maximise: str = ""
    scaffold: str = ""
    by: Literal["svdd", "fk", "gradient", "tds"] = "svdd"
    particles: int = 8
    temperature: float = 0.05
    regressor: str = ""

    name: ClassVar[str] = "molecules/generate"
    makes: ClassVar[str] = "molecules"

    def __post_init__(self) -> None:
        from unstir_molecules.steering import Steering

        super().__post_init__()
        Steering(**self.steering)

    @property
    def steering(self) -> dict[str, Any]:
        """Options of the steering."""
        return {name: getattr(self, name) for name in ("maximise", "by", "particles", "temperature", "scaffold", "regressor")}

    def method(self, prior: Any, said: list[str]) -> Any:
        """The method that draws of a model, steered as asked.

        Args:
            prior: the model.
            said: what the scaffold does to the sizes is added.

        Raises:
            CheckpointError: there is none.
            UserError: an option that its method does not have, or a scaffold that does not fit.
        """
        steering = self.steering if self.maximise or self.scaffold else {}
        made = method_of(prior, nodes=self.nodes, steps=self.steps, model=self.model, steering=steering)
        if not self.scaffold:
            return made
        counts = {int(nodes): count for nodes, count in (prior.facts["sizes"] or {prior.facts["nodes"]: 1}).items()}
        size = self.held(prior, max(counts))
        if not hasattr(made, "nodes"):
            said.append(f"molecules begin with the {size} atoms of the scaffold and grow on from them")
            return made
        if self.nodes or prior.facts["sizes"] is None or size <= min(counts):
            return made
        said.append(f"molecules have at least the {size} atoms of the scaffold")
        return replace(made, nodes=",".join(f"{nodes}:{count}" for nodes, count in counts.items() if nodes >= size))

    def held(self, prior: Any, largest: int) -> int:
        """Atoms of the scaffold.

        Args:
            prior: the model.
            largest: atoms that it makes at most.

        Raises:
            UserError: the model's vocabulary cannot say it, or it is too large.
        """
        from unstir_molecules.build import REASONS, dense_of
        from unstir_molecules.sampling import vocabulary_of

        vocabulary = vocabulary_of(prior)
        assert vocabulary is not None
        graph, lost = dense_of([self.scaffold], vocabulary, largest)
        if lost:
            what = f"a model of up to {largest} atoms {', '.join(vocabulary.atoms)}"
            raise UserError(
                f"the scaffold {self.scaffold!r} does not fit {self.model}, {what}: {REASONS.get(lost[0].reason, lost[0].reason)}"
            )
        return int(graph.sizes[0])

    def real(self, prior: Any, said: list[str]) -> tuple[xr.Dataset | None, xr.Dataset | None]:
        """Training and test molecules.

        Args:
            prior: the model.
            said: where they come from is added.

        Raises:
            DataError: the file cannot be used.
        """
        from unstir_molecules.molecules import molecule_set
        from unstir_molecules.smiles import Rules, read
        from unstir_molecules.tasks import Generate

        if self.train:
            found = read(Path(self.train).expanduser(), rules=Rules("keep", "largest", "drop"))
            said += [f"{self.train}: {found.said()}"] if found.dropped else []
            return molecule_set(found.smiles, key=Path(self.train).name), None
        item = registered("molecules", str(prior.facts.get("data") or ""), said)
        return (None, None) if item is None else (Generate().part(item, "train"), Generate().part(item, "test"))

    def written(self, out: Path, made: Made) -> dict[str, Any]:
        """Judge molecules and write them.

        Args:
            out: the folder.
            made: the set.
        """
        from unstir_molecules.library import judged, report, write_sdf

        started = time.perf_counter()
        table, counts = judged(made.estimate.data, made.train, self.maximise)
        made.seconds["judging"] = time.perf_counter() - started
        with together(out) as results:
            (results.folder / "samples.smi").write_text("".join(f"{text}\n" for text in table["smiles"] if text))
            table.to_csv(results.folder / "samples.csv", index=False, float_format="%.6g")
            write_sdf(results.folder / "samples.sdf", table)
            report(results.folder, self, made, table, counts)
        said = [f"{counts['made']:,} of {self.n:,} samples are molecules, {counts['valid']:,} of them before any correction"]
        if made.train is not None:
            said.append(f"{counts['novel_made']:,} distinct molecules are not in the training set")
        spent = ", ".join(f"{name} {spell(value)}" for name, value in made.seconds.items())
        numbers = {**counts, "seconds": made.seconds, "nfe": made.estimate.nfe}
        return {"files": [str(path) for path in results.files], "said": [*made.said, *said, f"time: {spent}"], "results": [numbers]}


@dataclass(frozen=True)
class MakeGraphs(MakeSets):
    """Make a set of new graphs.

    The folder gets samples.npz and samples.graphml (the graphs) and report.html (drawings, statistics beside real graphs, how it was made).

    Args:
        model: a checkpoint, a registered name or a folder.
        n: how many.
        nodes: numbers of nodes other than the learnt ones: "18", "12-20", "12:1,20:3".
        steps: of the sampler; the method's or the model's own when 0.
        train: a file of graphs that are not new; the training part of the data that the model names when empty.
        seed: of everything drawn.

    Raises:
        UserError: an option out of range.
    """

    n: int = 100

    name: ClassVar[str] = "graphs/generate"
    makes: ClassVar[str] = "graphs"

    def real(self, prior: Any, said: list[str]) -> tuple[xr.Dataset | None, xr.Dataset | None]:
        """Training and test graphs.

        Args:
            prior: the model.
            said: where they come from is added.

        Raises:
            DataError: the file cannot be used.
        """
        from unstir_molecules.graph_files import read
        from unstir_molecules.graphs import graph_set, part

        if self.train:
            return graph_set(read(Path(self.train).expanduser()), Path(self.train).name), None
        item = registered("graphs", str(prior.facts.get("data") or ""), said)
        return (None, None) if item is None else (part(item, "train"), part(item, "test"))

    def written(self, out: Path, made: Made) -> dict[str, Any]:
        """Judge graphs and write them.

        Args:
            out: the folder.
            made: the set.
        """
        from unstir_molecules.graph_files import write
        from unstir_molecules.graph_library import judged, report
        from unstir_molecules.graphs import Graphs

        started = time.perf_counter()
        graphs = Graphs.of_dataset(made.estimate.data)
        table = judged(graphs, made.train)
        made.seconds["judging"] = time.perf_counter() - started
        with together(out) as results:
            write(graphs, results.folder / "samples.npz")
            write(graphs, results.folder / "samples.graphml")
            report(results.folder, self, made, graphs, table)
        said = [f"{int(table['connected'].sum()):,} of {self.n:,} graphs are in one piece"]
        if made.train is not None:
            said.append(f"{int(table['novel'].sum()):,} are not in the training set")
        spent = ", ".join(f"{name} {spell(value)}" for name, value in made.seconds.items())
        counts = {"connected": int(table["connected"].sum()), "seconds": made.seconds, "nfe": made.estimate.nfe}
        return {"files": [str(path) for path in results.files], "said": [*made.said, *said, f"time: {spent}"], "results": [counts]}
