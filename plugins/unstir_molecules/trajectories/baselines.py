"""What every forecast of bodies is compared with: they stand still, they go on as they went, or a linear rule of the given frames.

    last-frame          x(t) = x_last
    constant-velocity   x(t) = x_last + (x_last - x_before) (t - t_last)/(t_last - t_before)
    linear              x(t) = sum_s w_ts x_s, sum_s w_ts = 1, by ridge regression on the training trajectories

All three turn and shift with the world. Without noise the last is a strong opponent: smooth motion is a combination of its own past.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from unstir.errors import DataError, UserError
from unstir.plugin.protocols import Case, Estimate, Progress
from unstir_molecules.trajectories.tasks import ORDER, futures, given_of
from unstir_molecules.trajectories.training import fitted


@dataclass(frozen=True)
class Baseline(ABC):
    """A rule that gives one future."""

    needs: ClassVar[tuple[str, ...]] = ()
    uses_prior: ClassVar[bool] = False

    def __call__(self, case: Case, prior: Any, seed: int, *, progress: Progress = None) -> Estimate:
        """The futures of a case.

        Args:
            case: of the task of trajectories.
            prior: not used.
            seed: not used.
            progress: not told of anything.
        """
        return Estimate(futures(self.forecast(given_of(case), case), case))

    @abstractmethod
    def forecast(self, given: np.ndarray, case: Case) -> np.ndarray:
        """Places (trajectory, time, body, axis) at the times of the case.

        Args:
            given: places of the given frames.
            case: what is asked.
        """


@dataclass(frozen=True)
class LastFrame(Baseline):
    """Bodies stay where they are."""

    def forecast(self, given: np.ndarray, case: Case) -> np.ndarray:
        """The last frame, again and again."""
        return np.repeat(given[:, -1:], len(case.context["times"]), 1)


@dataclass(frozen=True)
class ConstantVelocity(Baseline):
    """Bodies go on as between the last two given frames."""

    def forecast(self, given: np.ndarray, case: Case) -> np.ndarray:
        """A straight line.

        Raises:
            DataError: only one frame is given.
        """
        if given.shape[1] < 2:
            raise DataError(f"case {case.key} gives one frame, and a velocity needs two")
        times = case.measurement["time"].values
        ahead = (np.asarray(case.context["times"]) - times[-1]) / (times[-1] - times[-2])
        return given[:, -1:] + ahead[:, None, None] * (given[:, -1:] - given[:, -2:-1])


@dataclass(frozen=True)
class Linear(Baseline):
    """The best combination of the given frames, the same for all bodies and axes.

    Args:
        ridge: of the regression, relative to the motion in the given frames; near 0 weights may be huge, which bears no noise.

    Raises:
        UserError: the ridge is negative.
    """

    ridge: float = 1e-3

    def __post_init__(self) -> None:
        if self.ridge < 0:
            raise UserError(f"the ridge of a regression must not be negative, got {self.ridge}")

    def forecast(self, given: np.ndarray, case: Case) -> np.ndarray:
        """The combination that is best in training.

        Raises:
            DataError: the case comes without training trajectories.
        """
        training = case.context.get("training")
        if training is None or not training.sizes["trajectory"]:
            raise DataError(f"case {case.key} comes without training trajectories, from which the regression learns")
        x, frames = np.asarray(training["position"].transpose(*ORDER).values, dtype=float), given.shape[1]
        weights = fitted(x[:, :frames], x[:, frames : frames + len(case.context["times"])], self.ridge)
        return np.einsum("ts,bsna->btna", weights, given)
