"""Training of a network that tells properties from the noisy states of a model.

    L = E sum over properties of (f(x_t, t) - r)^2/spread(r)^2,      x_t of the model's own process, t uniform

Reference: Dhariwal and Nichol 2021, arXiv:2105.05233; Vignac et al. 2023 (DiGress), arXiv:2209.14734, section 5.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor

import unstir
from unstir import checkpoint, registry
from unstir.denoiser import NetworkDenoiser, TokenDenoiser
from unstir.errors import CheckpointError, UserError
from unstir.plugin.protocols import Progress
from unstir.train import EMA, Schedule, Trainer, Uniform
from unstir_molecules.gdss.state import state_of
from unstir_molecules.property_guidance import PropertyNetwork, check_guided, hot
from unstir_molecules.sampling import vocabulary_of
from unstir_molecules.training_sets import TrainingGraphs


@dataclass(frozen=True)
class PropertyLoss:
    """Squared error of the properties in units of their spread, at uniform times.

    Args:
        low: smallest time.
    """

    low: float = 1e-3

    def __call__(self, denoiser: Any, x0: Any, generator: torch.Generator, condition: Mapping[str, Any] | None = None) -> Tensor:
        """The mean over graphs and properties.

        Args:
            denoiser: whose network is trained and whose process makes the noise.
            x0: clean states.
            generator: the only source of randomness.
            condition: ``mask``, and ``values`` (batch, properties).
        """
        told = condition or {}
        clock = denoiser.process.clock
        t = Uniform(self.low)(clock, len(told["values"]), generator).to(told["values"].device)
        x_t = noisy(denoiser, x0, t, generator, told)
        error = denoiser.network(x_t, t, {"mask": told["mask"]}) - told["values"]
        return (error / told["spread"]).square().mean()


def noisy(denoiser: Any, x0: Any, t: Any, generator: torch.Generator, condition: Mapping[str, Any]) -> dict[str, Tensor]:
    """Noisy states, one-hot where they are discrete.

    Args:
        denoiser: with the process and the space.
        x0: clean states.
        t: times (batch,).
        generator: of the noise.
        condition: with ``mask``.
    """
    kind = torch.float64 if denoiser.process.discrete else torch.float32
    unit = {leaf: torch.randn(value.shape, generator=generator, dtype=kind).to(value.device) for leaf, value in x0.items()}
    x_t = denoiser.space.project(denoiser.process.perturb(x0, t, denoiser.space.draw(unit, condition)), condition)
    return hot(denoiser, x_t) if denoiser.process.discrete else x_t


@dataclass(frozen=True)
class PropertyTraining:
    """Train a network that tells properties from the noisy states of a model, and write its checkpoint folder.

    Args:
        model: the model whose samples will be guided, a registered checkpoint or a folder: GDSS or a discrete diffusion of molecules.
        data: dataset whose training part is learnt.
        options: its options.
        properties: rewards by name, see `unstir_molecules.properties.reward`.
        width, layers: of the network.
        steps: optimiser steps.
        batch: molecules a step.
        rate: learning rate of the plateau.
        ema: decay of the averaged weights.
        every: steps between saved states.
        seed: of everything.

    Raises:
        UserError: an option out of range, or no such property.
    """

    model: str = ""
    data: str = "molecules/qm9-sample"
    options: dict[str, Any] = field(default_factory=dict)
    properties: tuple[str, ...] = ("qed", "logp", "sa")
    width: int = 64
    layers: int = 4
    steps: int = 8000
    batch: int = 128
    rate: float = 1e-3
    ema: float = 0.999
    every: int = 2000
    seed: int = 0

    needs: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        from unstir_molecules.properties import reward

        if not self.properties or min(self.width, self.layers, self.steps, self.batch) < 1:
            raise UserError("properties must be named, and width, layers, steps and batch be at least 1")
        for name in self.properties:
            reward(name)

    def run(self, out: str | Path, *, device: str = "cpu", progress: Progress = None, resume: bool = False) -> Path:
        """Train (or go on) in ``out/training`` and write the checkpoint to ``out``.

        Returns:
            The checkpoint folder.
        """
        item = next(iter(registry.resolve("data", self.data)(**self.options).load()))
        return self.fit(item, out, device=device, progress=progress, resume=resume)

    def fit(self, item: xr.Dataset, out: str | Path, *, device: str = "cpu", progress: Progress = None, resume: bool = False) -> Path:
        """Train on a set at hand.

        Args:
            item: a set of molecules; where it says which are for the test, these are not seen.
            out: the checkpoint folder.
            device: ``"cpu"`` or ``"cuda"``.
            progress: told of each step.
            resume: go on from the last state kept?

        Returns:
            The checkpoint folder.

        Raises:
            CheckpointError: the model is no model of molecules that guidance knows.
            DataError: there is nothing to learn from.
        """
        prior, started = unstir.load(self.model), time.monotonic()
        check_guided(prior, self.model)
        batches = PropertyBatches.of(item, prior, self)
        denoiser = self.told_by(prior, batches)
        trainer = Trainer(
            denoiser,  # type: ignore[arg-type]
            batches,
            PropertyLoss(),  # type: ignore[arg-type]
            self.steps,
            Schedule(self.rate, min(200, max(1, self.steps // 10)), self.steps // 2, 0.01),
            {"ema": EMA(decay=self.ema)},
            self.seed,
            accelerator="cuda" if device.startswith("cuda") else "cpu",
            every=self.every,
            config={key: value for key, value in asdict(self).items() if key not in ("steps", "every")},
        )
        trainer.run(Path(out) / "training", resume=resume, progress=progress)
        denoiser.network.load_state_dict(trainer.averages["ema"].weights())
        denoiser.network.eval()
        found = self.score(denoiser, batches)
        denoiser.card = (
            f"# Properties of molecules behind noisy graphs\n\n- tells: {', '.join(self.properties)}, for guidance of {self.model}\n"
            f"- data: {batches.name}, {len(batches.values)} molecules; test molecules were never seen\n"
            f"- training: {self.steps} steps of {self.batch} molecules, one {device} ({platform.machine()}), "
            f"{(time.monotonic() - started) / 3600:.2f} h in the last run\n- validation: root mean square error in units of the spread, "
            f"by time: {found}\n- limits: molecules like those it has seen; guidance by it is biased\n- licence: that of the project\n"
        )
        facts = {"model": "property", "properties": list(self.properties), "guides": getattr(prior, "sha256", None), "found": found}
        return checkpoint.save(denoiser, out, network="molecules/property", config=self.network(prior), facts=facts)

    def network(self, prior: Any) -> dict[str, Any]:
        """Keyword arguments of the network.

        Args:
            prior: the model that is guided.
        """
        if prior.process.discrete:
            kinds = {"nodes": prior.process.leaves["nodes"].states, "edges": prior.process.leaves["edges"].states}
        else:
            kinds = {"nodes": int(prior.shape["x"][-1]), "edges": 1}
        return {**kinds, "properties": len(self.properties), "width": self.width, "layers": self.layers}

    def told_by(self, prior: Any, batches: PropertyBatches) -> Any:
        """The untrained network on the process and the space of the model.

        Args:
            prior: the model.
            batches: with the moments of the properties.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = PropertyNetwork(**self.network(prior))
        network.mean.copy_(torch.from_numpy(batches.values.mean(0)))
        network.spread.copy_(torch.from_numpy(batches.spread))
        if prior.process.discrete:
            return TokenDenoiser(network, prior.process, prior.shape, space=prior.space)
        return NetworkDenoiser(network, prior.process, parameterisation=prior.parameterisation, shape=prior.shape, space=prior.space)

    def score(self, denoiser: Any, batches: PropertyBatches) -> dict[str, list[float]]:
        """Root mean square errors on held-out molecules in units of the spread, by time.

        Args:
            denoiser: with the trained network.
            batches: with the held-out molecules.
        """
        x0, condition = batches.held()
        found = {}
        for t in (0.05, 0.25, 0.5, 0.75, 1.0):
            times, generator = torch.full((len(condition["values"]),), t * denoiser.process.t_max), torch.Generator().manual_seed(0)
            with torch.no_grad():
                told = denoiser.network(noisy(denoiser, x0, times, generator, condition), times, condition)
            error = ((told - condition["values"]) / condition["spread"]).square().mean(0).sqrt()
            found[f"{t:g}"] = [round(float(value), 3) for value in error]
        return found


@dataclass(frozen=True)
class PropertyBatches:
    """Clean states of molecules and their properties.

    Args:
        graphs: what is learnt and what is held out.
        values: (learnt molecules, properties).
        held_values: (held-out molecules, properties).
        features: F of a continuous model; 0 for a discrete one.
        batch: molecules a step.
    """

    graphs: TrainingGraphs
    values: np.ndarray
    held_values: np.ndarray
    features: int
    batch: int

    @classmethod
    def of(cls, item: xr.Dataset, prior: Any, training: PropertyTraining) -> PropertyBatches:
        """The training part of a set, in the vocabulary of a model.

        Args:
            item: molecules.
            prior: the model.
            training: the options.

        Raises:
            CheckpointError: the set has other kinds of atoms than the model.
        """
        from unstir_molecules.build import rebuilt
        from unstir_molecules.properties import rewards

        graphs = TrainingGraphs.of(item, batch=training.batch)
        vocabulary = vocabulary_of(prior)
        if vocabulary is None or graphs.vocabulary is None or graphs.vocabulary.as_dict() != vocabulary.as_dict():
            raise CheckpointError(f"{training.model} has other kinds of atoms than {graphs.name}: train on the molecules of the model")

        def told(part: Any) -> np.ndarray:
            smiles = [one.smiles or "" for one in rebuilt(part.take(slice(None)), vocabulary)]
            return np.stack([np.asarray(rewards(name, smiles), dtype=np.float32) for name in training.properties], 1)

        features = 0 if prior.process.discrete else int(prior.shape["x"][-1])
        return cls(graphs, told(graphs.seen), told(graphs.kept), features, training.batch)

    @property
    def name(self) -> str:
        """Of the data."""
        return self.graphs.name

    @property
    def spread(self) -> np.ndarray:
        """Standard deviation of each property."""
        return self.values.std(0).clip(min=1e-3).astype(np.float32)

    def __call__(self, step: int, generator: np.random.Generator) -> Mapping[str, Any]:
        """The batch of a step."""
        chosen = generator.integers(len(self.values), size=self.batch)
        x0, condition = self._state(self.graphs.seen.take(chosen).trimmed(), self.values[chosen])
        return {"x0": x0, "condition": condition}

    def held(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The held-out molecules and what is told of them."""
        return self._state(self.graphs.kept.take(slice(None)), self.held_values)

    def _state(self, part: Any, values: np.ndarray) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        state = state_of(part, self.features, True) if self.features else {"nodes": part.x, "edges": part.e}
        return state, {"mask": part.mask, "values": torch.from_numpy(values), "spread": torch.from_numpy(self.spread)[None]}
