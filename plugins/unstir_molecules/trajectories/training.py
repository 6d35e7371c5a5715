"""Training of GeoTDM: residuals of trajectories to a reference, on the core's process, loss and trainer.

    forecast        r_0 = (x - x_ref)/s,     r_t = alpha r_0 + sigma eps,     so that x_t = x_ref + alpha (x - x_ref) + s sigma eps
    out of nothing  x_0 = (x - mean over time and bodies)/s, and noise in the same subspace: covariance I - 1 1^T/(T N) an axis

The first is the conditional form of the paper with the reference taken out of the state. What a network must say (v, the velocity of the
process) is then a vector that a shift leaves alone, which it would not be around an anchor. The reference is learnt from the training set
before anything else: x_ref(t) = sum_s w_ts x_s over the given frames, sum_s w_ts = 1, by ridge regression; or it is the last given frame.

Reference: Han et al. 2024 (GeoTDM), arXiv:2410.13027.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from unstir.denoiser import NetworkDenoiser, Normaliser
from unstir.errors import DataError, UserError
from unstir.process import VPCosine
from unstir.space import Euclidean, ZeroMean
from unstir.train import DenoiserTraining, DenoisingLoss, Ended, Schedule, Trainer
from unstir_molecules.trajectories.network import GeoTDMNetwork

Array = NDArray[Any]
HELD_OUT = 256
"""Held-out training trajectories, at most a tenth."""


def fitted(given: Array, future: Array, ridge: float) -> Array:
    """Weights of the reference: the best combination of the given frames, weights of a frame adding up to 1.

    Args:
        given: (trajectories, G, bodies, axes) places.
        future: (trajectories, T, bodies, axes) places.
        ridge: times the mean square of the given frames' distances from the last one: the larger, the nearer to the last frame.

    Returns:
        (T, G).
    """
    if given.shape[1] == 1:
        return np.ones((future.shape[1], 1))
    last = given[:, -1:]
    before, after = ((x - last).transpose(0, 2, 3, 1) for x in (given[:, :-1], future))
    before, after = before.reshape(-1, given.shape[1] - 1), after.reshape(-1, future.shape[1])
    square = before.T @ before
    weights = np.linalg.solve(square + ridge * np.trace(square) / len(square) * np.eye(len(square)), before.T @ after).T
    return np.concatenate([weights, 1 - weights.sum(1, keepdims=True)], 1)


@dataclass(frozen=True)
class TrainingTrajectories:
    """Trajectories to learn from, cut into given frames and frames to come.

    Args:
        given: (trajectories, G, bodies, axes) places.
        future: (trajectories, T, bodies, axes).
        charge: (trajectories, bodies).
        coupling: (trajectories, bodies, bodies).
        held: how many of the last ones are held out.
        batch: trajectories a step.
        weights: (T, G) of the reference.
        scale: s.
    """

    given: Array
    future: Array
    charge: Array
    coupling: Array
    held: int
    batch: int
    weights: Array
    scale: float

    @classmethod
    def of(cls, item: xr.Dataset, given: int, *, batch: int, told: bool, reference: str, ridge: float) -> TrainingTrajectories:
        """The training part of a set.

        Args:
            item: trajectories; with ``split``, only its "train".
            given: G, 0 for trajectories out of nothing.
            batch: trajectories a step.
            told: are charges and couplings known to the network?
            reference: "learned" or "last".
            ridge: of the regression.

        Raises:
            DataError: too few frames or trajectories.
        """
        part = item.isel(trajectory=np.flatnonzero(item["split"].values == "train")) if "split" in item else item
        x = np.asarray(part["position"].transpose("trajectory", "time", "body", "axis").values, dtype=float)
        if len(x) < 2 or x.shape[1] <= given:
            raise DataError(
                f"{item.attrs.get('key', 'the set')} has {len(x)} trajectories of {x.shape[1]} frames; 2 and more than {given} are needed"
            )
        held = min(HELD_OUT, max(1, len(x) // 10))
        bodies = x.shape[2]
        charge = np.asarray(part["charge"].values) if told and "charge" in part else np.zeros((len(x), bodies))
        coupling = np.asarray(part["coupling"].values) if told and "coupling" in part else np.zeros((len(x), bodies, bodies))
        before, future = x[:, :given], x[:, given:]
        if not given:
            future = future - future.mean((1, 2), keepdims=True)
            return cls(before, future, charge, coupling, held, batch, np.ones((x.shape[1], 1)), float(future[:-held].std()))
        last = np.eye(given)[-1:].repeat(future.shape[1], 0)
        weights = fitted(before[:-held], future[:-held], ridge) if reference == "learned" else last
        residual = future[:-held] - np.einsum("ts,bsna->btna", weights, before[:-held])
        moved = future[:-held] - before[:-held, -1:]
        scale = max(float(np.sqrt((residual**2).mean())), 1e-3 * float(np.sqrt((moved**2).mean())), 1e-9)
        return cls(before, future, charge, coupling, held, batch, weights, scale)

    def __call__(self, step: int, generator: np.random.Generator) -> Mapping[str, Any]:
        """The batch of a step."""
        return self.state(generator.integers(len(self.future) - self.held, size=self.batch))

    def kept(self) -> Mapping[str, Any]:
        """The held-out trajectories."""
        return self.state(np.arange(len(self.future) - self.held, len(self.future)))

    def state(self, chosen: Array) -> Mapping[str, Any]:
        """Clean states (B, T N, A) and their condition.

        Args:
            chosen: numbers of the trajectories.
        """
        x = self.future[chosen]
        condition = {"charge": self.charge[chosen], "coupling": self.coupling[chosen]}
        if self.given.shape[1]:
            condition["given"] = self.given[chosen]
            x = x - np.einsum("ts,bsna->btna", self.weights, self.given[chosen])
        state = torch.from_numpy(x.reshape(len(x), -1, x.shape[-1]) / self.scale).float()
        return {"x0": state, "condition": {key: torch.from_numpy(value).float() for key, value in condition.items()}}


@dataclass(frozen=True)
class GeoTDMTraining(DenoiserTraining[TrainingTrajectories]):
    """Train GeoTDM on trajectories and write its checkpoint folder.

    Args:
        data: dataset whose training part is learnt.
        options: its options.
        given: G, frames that are known; 0 for trajectories out of nothing.
        reference: of the frames to come: "learned" from the given ones, or their "last".
        ridge: of the regression that learns it.
        told: does the network know charges and springs?
        width, layers, heads, channels: of the network, see :class:`GeoTDMNetwork`.
        steps: optimiser steps.
        batch: trajectories a step.
        rate: learning rate of the plateau.
        warmup: steps of its warm-up.
        decay: steps of the linear way down at the end.
        ema: decay of the averaged weights.
        clip: largest norm of a gradient.
        every: steps between saved states (each validated).
        seed: of everything.

    Raises:
        UserError: an option out of range.
    """

    data: str = "molecules/springs"
    options: dict[str, Any] = field(default_factory=dict)
    given: int = 10
    reference: Literal["learned", "last"] = "learned"
    ridge: float = 1e-3
    told: bool = True
    width: int = 64
    layers: int = 3
    heads: int = 4
    channels: int = 8
    steps: int = 10000
    batch: int = 64
    rate: float = 1e-3
    warmup: int = 200
    decay: int = 4000
    ema: float = 0.999
    clip: float = 1.0
    every: int = 1000
    seed: int = 0

    registered: ClassVar[str] = "molecules/geotdm"

    def __post_init__(self) -> None:
        if self.reference not in ("learned", "last"):
            raise UserError(f"reference is 'learned' or 'last', got {self.reference!r}")
        if self.given < 0 or self.ridge < 0 or min(self.steps, self.batch) < 1:
            numbers = f"{self.given}, {self.ridge}, {self.steps} and {self.batch}"
            raise UserError(f"given and ridge must not be negative, steps and batch positive, got {numbers}")

    def sampler(self, item: xr.Dataset) -> TrainingTrajectories:
        """The trajectories that are learnt; with ``split``, only its "train"."""
        return TrainingTrajectories.of(item, self.given, batch=self.batch, told=self.told, reference=self.reference, ridge=self.ridge)

    def trainer(self, sampler: TrainingTrajectories, device: str = "cpu") -> Trainer:
        """The core's trainer, ready to run."""
        schedule = Schedule(self.rate, self.warmup, self.decay, 0.01)
        return self.prepared(self.denoiser(sampler), sampler, DenoisingLoss(weight="v"), self.steps, schedule, device)

    def network(self, sampler: TrainingTrajectories) -> dict[str, Any]:
        """Keyword arguments of the network."""
        _, frames, bodies, axes = sampler.future.shape
        sizes = {name: getattr(self, name) for name in ("given", "width", "layers", "heads", "channels")}
        return {"bodies": bodies, "frames": frames, "axes": axes, "scale": sampler.scale, **sizes}

    def denoiser(self, sampler: TrainingTrajectories) -> NetworkDenoiser:
        """The untrained denoiser; its weights depend on the seed alone."""
        network = self.untrained(GeoTDMNetwork, self.network(sampler))
        if self.given:
            network.weights.copy_(torch.from_numpy(sampler.weights))
        return NetworkDenoiser(
            network,
            VPCosine(),
            parameterisation="v",
            shape=(network.frames * network.bodies, network.axes),
            space=Euclidean() if self.given else ZeroMean(axis=1),
            normaliser=Normaliser(scale=sampler.scale),
        )

    def score(self, denoiser: NetworkDenoiser, sampler: TrainingTrajectories) -> float:
        """The loss of held-out training trajectories, with fixed noise."""
        held = sampler.kept()
        with torch.inference_mode():
            return float(DenoisingLoss(weight="v")(denoiser, held["x0"], torch.Generator().manual_seed(0), held["condition"]))

    def card(self, ended: Ended[TrainingTrajectories]) -> str:
        """The model card."""
        item, sampler = ended.item, ended.sampler
        count, frames, bodies, axes = sampler.future.shape
        what = f"{self.given} given frames, {frames} to come" if self.given else f"{frames} frames out of nothing"
        told = "told" if self.told else "not told"
        return (
            f"# GeoTDM of {item.attrs.get('key', 'trajectories')}\n\n"
            f"- data: {count - sampler.held} trajectories of {bodies} bodies in {axes} dimensions "
            f"({item.attrs.get('simulated', 'as given')}); {what}; charges and springs are {told}; test trajectories were never seen\n"
            f"- training: {self.steps} steps of {self.batch}, reference {self.reference}, {ended.where(2)}\n"
            f"- validation: loss of {sampler.held} held-out trajectories {ended.found:.4f} (square error of v, an entry)\n"
            "- limits: this number of bodies and frames and this time between them; a demonstration on simulated data\n"
            "- licence: that of the project\n- citation: Han et al. 2024, arXiv:2410.13027\n"
        )

    def facts(self, ended: Ended[TrainingTrajectories]) -> dict[str, Any]:
        """What it knows of the frames, and the time between them."""
        said = {name: getattr(self, name) for name in ("given", "told", "reference")}
        interval = float(np.diff(ended.item["time"].values).mean())
        return {"model": "geotdm", **said, "data": str(ended.item.attrs.get("key", "")), "interval": interval}
