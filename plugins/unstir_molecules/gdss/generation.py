"""Drawing graphs and molecules of a GDSS model through the core's one loop.

    predictor-corrector   Langevin at t, then Euler or reverse-diffusion to the next time; two evaluations a step
    S4                    one evaluation for both, half the cost

As published: 1000 steps of equal length from t = 1 to 1e-4, the last one without noise; the lengths of Langevin steps from norms averaged
over the batch (``norms="batch"``), so that a graph depends on its neighbours; a start at N(0, 1) although the process does not end there.
By default each graph has its own norms and depends on nothing but the seed and its number.
Reference: Jo et al. 2022 (GDSS), arXiv:2202.02514, algorithm 1; Song et al. 2021, arXiv:2011.13456.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

import unstir
from unstir import names
from unstir.errors import CheckpointError, UserError
from unstir.noise import NoiseSource
from unstir.plugin.protocols import Case, Estimate, Progress
from unstir.process import Joint
from unstir.solver import S4, EulerMaruyama, PredictorCorrector, Solver
from unstir_molecules.build import dense_of
from unstir_molecules.dense import Dense
from unstir_molecules.gdss.state import graphs_of, moments_of, started
from unstir_molecules.graphs import Graphs
from unstir_molecules.sampling import as_set, drawn, drawn_sizes, histogram, of_width, vocabulary_of
from unstir_molecules.steering import By, Steering

T_END = 1e-4
"""The last time at which the model is asked."""
CELLS = 512 * 81
"""Entries of adjacency matrices worked on at a time: what a processor keeps close."""


@dataclass(frozen=True)
class GDSS:
    """Draw graphs or molecules of a GDSS model.

    Args:
        predictor: ``"euler"``, ``"reverse"`` or ``"s4"``; the model's own when empty. Any other solver of the core by its name.
        snr: relative length of a Langevin step, 0 for none; the model's own below 0.
        scale: factor on its noise (``scale_eps``); the model's own below 0.
        steps: of equal length; the model's own when 0.
        norms: lengths of Langevin steps from the norms of each ``"sample"``, or from their means over the ``"batch"`` as published.
        start: ``"published"``, or ``"matched"`` to the mean and variance that data have at the end of the process.
        nodes: sizes other than the learnt ones, see `unstir_molecules.sampling.drawn_sizes`.
        batch: graphs (of 9 nodes; fewer of larger ones) drawn together; with ``norms="batch"`` all of them of one padding.
        maximise, by, particles, temperature, draws, scaffold, regressor: see `unstir_molecules.steering.Steering`; ``by="tds"`` needs
            ``predictor="ancestral"``, whose steps have a known law.

    Raises:
        UserError: an option out of range.
    """

    predictor: str = ""
    snr: float = -1.0
    scale: float = -1.0
    steps: int = 0
    norms: Literal["sample", "batch"] = "sample"
    start: Literal["published", "matched"] = "published"
    nodes: str = ""
    batch: int = 1024
    maximise: str = ""
    by: By = "svdd"
    particles: int = 8
    temperature: float = 0.05
    draws: int = 1
    scaffold: str = ""
    regressor: str = ""

    needs: ClassVar[tuple[str, ...]] = ()
    uses_prior: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.batch < 1 or self.steps < 0:
            raise UserError(f"batch must be at least 1 and steps at least 0, got {self.batch} and {self.steps}")
        if self.norms not in ("sample", "batch"):
            raise UserError(f"norms must be 'sample' or 'batch', got {self.norms!r}")
        if self.start not in ("published", "matched"):
            raise UserError(f"start must be 'published' or 'matched', got {self.start!r}")
        self.solver({"predictor": "euler", "snr": 0.0, "scale": 0.0})
        self.steering  # noqa: B018 (its own checks)

    @property
    def steering(self) -> Steering:
        """How the samples are steered."""
        return Steering(self.maximise, self.by, self.particles, self.temperature, self.draws, self.scaffold, self.regressor)

    def solver(self, own: Any) -> Solver:
        """The solver of the core.

        Args:
            own: sampler of the model's facts.
        """
        predictor = self.predictor or str(own["predictor"])
        snr, scale = (float(own[name]) if value < 0 else value for name, value in (("snr", self.snr), ("scale", self.scale)))
        if predictor == "s4":
            return S4(snr=snr, noise=scale, variant="published", norms=self.norms)
        if predictor not in ("euler", "reverse"):
            return names.solver(predictor)
        kind: Literal["time", "reverse"] = "time" if predictor == "euler" else "reverse"
        return PredictorCorrector(EulerMaruyama(kind), snr=snr, noise=scale, norms=self.norms, first=True)

    def check_prior(self, prior: Any) -> None:
        """Refuse a checkpoint that is no GDSS model.

        Args:
            prior: a checkpoint's denoiser.

        Raises:
            CheckpointError: it is of another kind.
        """
        vocabulary_of(prior)
        process = prior.process
        if prior.facts.get("model") != "gdss" or not isinstance(process, Joint) or set(process.leaves) != {"x", "a"}:
            raise CheckpointError("this checkpoint is no GDSS model: take the method it was trained for")

    def __call__(self, case: Case, prior: Any, seed: int, *, progress: Progress = None) -> Estimate:
        """``case.context["count"]`` new graphs.

        Args:
            case: of a task of generation; its training set says the sizes where the model does not.
            prior: a GDSS model.
            seed: of the draws.
            progress: told of steps.

        Returns:
            The set; ``nfe`` counts the evaluations of one graph.
        """
        self.check_prior(prior)
        facts = dict(prior.facts)
        if facts.get("sizes") is None or (self.start == "matched" and facts.get("moments") is None):
            facts |= _learnt(case.measurement, prior)
        sizes, moments = drawn_sizes(facts["sizes"], int(case.context["count"]), seed, self.nodes), facts.get("moments")
        if self.norms == "batch":
            mask = torch.arange(int(facts.get("nodes", sizes.max()))) < torch.as_tensor(sizes)[:, None]
            found, nfe = self.draw(prior, mask, seed, progress, moments=moments)
        else:
            found, nfe = drawn(
                lambda mask, keyed, told: self.draw(prior, mask, keyed, told, moments=moments),
                sizes,
                seed,
                batch=self.batch,
                progress=progress,
            )
        info = {
            "solver": repr(self.solver(facts["sampler"])), "steps": self.steps or facts["sampler"]["steps"], "norms": self.norms,
            "start": self.start, "nodes": self.nodes, "terminal_snr": facts.get("terminal_snr"),
            "prior_sha256": getattr(prior, "sha256", None),
        }  # fmt: skip
        return Estimate(as_set(found, vocabulary_of(prior), case.key), nfe=nfe, info=info)

    def draw(
        self, prior: Any, mask: Tensor, seed: int, progress: Progress = None, *, moments: Any = None, **options: Any
    ) -> tuple[Dense, int]:
        """Graphs on the nodes of a mask.

        Args:
            prior: a GDSS model.
            mask: (B, N) nodes that are there.
            seed: of the draws.
            progress: told of steps.
            moments: of the data; the model's own when absent.
            options: guides, steers and more for `unstir.sample`.

        Returns:
            B graphs, and evaluations a graph.
        """
        own, nodes, steering = prior.facts["sampler"], mask.shape[1], self.steering
        wide, solver, molecules = steering.widened(mask), self.solver(own), vocabulary_of(prior) is not None
        count = len(wide)
        sized: Any = of_width(prior, nodes)
        condition = {"mask": wide, **options.pop("condition", {})}
        guides, steers = steering.parts(
            prior, mask, lambda x0, there: graphs_of(x0["x"], x0["a"], there, molecules), ("x", "a"), path=not solver.stochastic
        )
        source = NoiseSource(seed, range(count))
        unit = sized.space.draw({leaf: source.draw(shape, stream=f"start/{leaf}") for leaf, shape in sized.shape.items()}, condition)
        state = started(unit, sized.process, self.start, moments or prior.facts.get("moments"), wide)
        made: Any = unstir.sample(
            sized,
            count,
            solver=solver,
            grid=f"uniform:{self.steps or own['steps']},t_min={T_END}",
            guides=[*guides, *options.pop("guides", ())],
            steers=[*steers, *options.pop("steers", ())],
            condition=condition,
            start=(state, sized.process.t_max),
            seed=seed,
            batch=self.batch if self.norms == "batch" else max(1, CELLS // max(nodes, 1) ** 2),
            progress=progress,
            **options,
        )
        chosen = slice(0, len(mask) * steering.copies, steering.copies)
        return graphs_of(made.x["x"][chosen], made.x["a"][chosen], mask, molecules), made.nfe * steering.copies


def _learnt(item: xr.Dataset, prior: Any) -> dict[str, Any]:
    """Sizes and moments of a training set, of at most 20,000 of its members."""
    vocabulary, rng = vocabulary_of(prior), np.random.default_rng(0)
    if vocabulary is not None:
        texts = np.array([str(text) for text in item["smiles"].values if text], dtype=object)
        graphs = dense_of(list(texts[rng.permutation(len(texts))[:20000]]), vocabulary)[0]
    else:
        graphs = Graphs.of_dataset(item).dense()
    features = int(prior.shape["x"][-1])
    return {"sizes": histogram(graphs.sizes.numpy()), "moments": moments_of(graphs, features, vocabulary is not None)}
