"""Forecasts, and trajectories out of nothing, of a GeoTDM model, through the core's one loop.

    x = x_ref(given) + s r,     r of `unstir.sample`;    several futures of one past differ in their noise alone

Turning or shifting the given frames turns or shifts the law of the futures; a single future turns with them when its noise is turned, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

import unstir
from unstir import names
from unstir.errors import CheckpointError, DataError, UserError
from unstir.plugin.protocols import Case, Estimate, Progress
from unstir_molecules.trajectories.network import GeoTDMNetwork
from unstir_molecules.trajectories.tasks import futures, given_of


@dataclass(frozen=True)
class GeoTDM:
    """Draw futures of a GeoTDM model.

    Args:
        samples: futures of each trajectory.
        solver: a solver of the core.
        grid: its times.
        batch: futures worked on at a time.

    Raises:
        UserError: an option out of range.
    """

    samples: int = 5
    solver: str = "logistic3"
    grid: str = "logistic:20"
    batch: int = 256

    needs: ClassVar[tuple[str, ...]] = ()
    uses_prior: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if min(self.samples, self.batch) < 1:
            raise UserError(f"samples and batch must be at least 1, got {self.samples} and {self.batch}")
        names.solver(self.solver)
        names.grid(self.grid)

    def check_prior(self, prior: Any) -> None:
        """Refuse a checkpoint that is no model of trajectories.

        Args:
            prior: a checkpoint's denoiser.

        Raises:
            CheckpointError: it is of another kind.
        """
        if getattr(prior, "facts", {}).get("model") != "geotdm" or not isinstance(prior.network, GeoTDMNetwork):
            raise CheckpointError("this checkpoint is no model of trajectories: take one that geotdm-training made")

    def __call__(self, case: Case, prior: Any, seed: int, *, progress: Progress = None) -> Estimate:
        """Futures of the trajectories of a case.

        Args:
            case: of the task of trajectories.
            prior: a GeoTDM model that forecasts.
            seed: of the draws.
            progress: told of steps.

        Returns:
            Places (sample, trajectory, time, body, axis); ``nfe`` counts the evaluations of all samples of a trajectory.

        Raises:
            CheckpointError: the model is of another kind, or knows other numbers of bodies or frames.
            DataError: the given frames do not fit the model.
        """
        self.check_prior(prior)
        given, network = given_of(case), prior.network
        asked = (given.shape[1], len(case.context["times"]), *given.shape[2:])
        knows = (network.given, network.frames, network.bodies, network.axes)
        if asked != knows:
            raise CheckpointError(f"this model knows (given frames, frames to come, bodies, axes) = {knows}, and the case has {asked}")
        told: dict[str, Tensor] = {"given": torch.from_numpy(given).float()}
        if prior.facts["told"]:
            lacking = [name for name in ("charge", "coupling") if name not in case.measurement]
            if lacking:
                raise DataError(f"this model was told charges and springs, and case {case.key} lacks {', '.join(lacking)}")
            told |= {name: torch.from_numpy(np.asarray(case.measurement[name].values)).float() for name in ("charge", "coupling")}
        many = {name: value.repeat_interleave(self.samples, 0) for name, value in told.items()}
        made = self._sample(prior, len(given) * self.samples, seed, many, progress)
        residual = prior.normaliser.decode(made.x).reshape(len(given), self.samples, network.frames, network.bodies, network.axes)
        places = network.reference(told["given"])[:, None] + residual
        info = {"solver": self.solver, "grid": self.grid, "samples": self.samples, "prior_sha256": getattr(prior, "sha256", None)}
        data = futures(places.transpose(0, 1).double().numpy(), case)
        return Estimate(data, nfe=made.nfe * self.samples, info=info)

    def generated(
        self, prior: Any, count: int, seed: int, *, charge: Tensor | None = None, coupling: Tensor | None = None, progress: Progress = None
    ) -> Tensor:
        """Trajectories out of nothing, their centre of mass over all frames at the origin.

        Args:
            prior: a GeoTDM model trained with ``given=0``.
            count: how many.
            seed: of the draws.
            charge: (count, bodies), for a model that was told.
            coupling: (count, bodies, bodies).
            progress: told of steps.

        Returns:
            Places (count, time, body, axis).

        Raises:
            CheckpointError: the model forecasts, or is of another kind.
        """
        self.check_prior(prior)
        network = prior.network
        if network.given:
            raise CheckpointError(f"this model forecasts from {network.given} given frames: train one with given=0")
        told = {name: value for name, value in (("charge", charge), ("coupling", coupling)) if value is not None}
        made = self._sample(prior, count, seed, told, progress)
        found: Tensor = prior.normaliser.decode(made.x).reshape(count, network.frames, network.bodies, network.axes)
        return found

    def _sample(self, prior: Any, count: int, seed: int, told: dict[str, Tensor], progress: Progress) -> Any:
        return unstir.sample(
            prior,
            count,
            solver=self.solver,
            grid=self.grid,
            condition=told,
            seed=seed,
            batch=min(self.batch, max(count, 1)),
            progress=progress,
        )
