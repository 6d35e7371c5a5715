"""Low temperature: samples of p(x_0)^(1/T), T < 1, likelier and less diverse than the data.

    scaled noise:  every unit of noise times sqrt(T): the first state around its mean, and each draw, x_s = a x_t + b D + sqrt(T) d z
    annealed:      p_t(x_t)^w at every level, w = 1/T, by guided steps and weights:  D' = D + (w - 1)(D - x_t/alpha_t),
                   log w_i <- log w_i + w (w - 1) b^2 |D - x_t/alpha_t|^2/(2 d^2)

Scaled noise is exact for normal data, where all is linear: the covariance is T times that of the solver's own samples, for any number of
steps. Of several modes it narrows each and does not weigh them anew: a mode of weight w_k and covariance C_k in n dimensions should get
w_k^(1/T) |C_k|^((1 - 1/T)/2). Annealing with weights is exact for any law; guidance by p^w without them is not.
Reference: Ajay et al. 2023 (Decision Diffuser: noise scaled by a half), arXiv:2211.15657; Skreta et al. 2025 (annealing), arXiv:2503.02819.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.steer.base import Moment, Steer
from unstir.steer.tilt import TiltedCFG, check_ancestral, check_gaussian, mean_of_step, plain


@dataclass(frozen=True, eq=False)
class ScaledNoise(Steer):
    """Scales the noise of a trajectory, of its beginning and of every draw.

    A deterministic solver of any kind will do, and stochastic ones whose step has one draw, x_s = a x + b D + d z: the DDIM family.

    Args:
        temperature: T, above 0; 1 changes nothing.
        mean: of the data, (*shape) or (1, *shape), around whose noisy version the first state is scaled; 0 when absent.

    Raises:
        UserError: a temperature that is not positive, or another stochastic solver.
    """

    temperature: float
    mean: Tensor | None = None
    exactness: ClassVar[str] = "exact for normal data; of several modes each is narrowed, and their weights are biased"

    def __post_init__(self) -> None:
        check_temperature(self.temperature)

    def before(self, x: Tensor, moment: Moment) -> Tensor:  # type: ignore[override]
        """The first state scaled; where a draw will be, a note of the state without it."""
        if not isinstance(x, Tensor):
            raise UserError("ScaledNoise works on a tensor and the state is a dict of leaves: wrap it as OnLeaf(leaf, steer)")
        if moment.row.index == 0:
            x = scaled_start(x, moment, self.temperature, self.mean)
            moment.move(x)
        if moment.stochastic:
            check_gaussian(x, moment, "ScaledNoise")
            moment.memory["mean"] = mean_of_step(x, moment)
        return x

    def after(self, x: Tensor, moment: Moment) -> Tensor:  # type: ignore[override]
        """The state with the draw scaled."""
        if not moment.stochastic or not moment.row.c[2]:
            return x
        return x + (math.sqrt(self.temperature) - 1) * (plain(x, moment, moment.row.s) - moment.memory["mean"])


@dataclass(frozen=True, eq=False)
class Annealed(TiltedCFG):
    """Weighted particles of p(x_0)^w: :class:`TiltedCFG` between the law and one that is flat; one evaluation a step.

    The grid begins at a noise level far above the data's spread, where p_t is normal and its power a scaled start.

    Args:
        weight: w = 1/T.
        mean: of the data, as for :class:`ScaledNoise`.
        null: must be absent.
        keys: must be absent.
        particles: K, consecutive samples of one problem.
        threshold: resample where ESS is below this share of K.

    Raises:
        UserError: a weight that is not positive, options of the other branch, or a solver that is not ancestral.
    """

    mean: Tensor | None = None
    exactness: ClassVar[str] = "exact for any law as particles and steps grow"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_temperature(self.weight)
        if self.null is not None or self.keys is not None:
            raise UserError("annealing has no unconditional branch: leave null and keys away")

    def before(self, x: Tensor, moment: Moment) -> Tensor:  # type: ignore[override]
        """The first state scaled; a look, and what the flat law would believe."""
        check_gaussian(x, moment, "Annealed")
        check_ancestral(moment.row, "Annealed")
        row = moment.row
        if row.index == 0:
            x = scaled_start(x, moment, 1 / self.weight, self.mean)
            moment.move(x)
        x0: Any = moment.look()
        moment.memory["gap"] = x0 - plain(x, moment, row.t) / row.alpha_t if row.c[2] else torch.zeros_like(x)  # type: ignore[operator]
        return x


def check_temperature(temperature: float) -> None:
    """Refuse a temperature, or a power, that is not positive and finite.

    Args:
        temperature: T.

    Raises:
        UserError: says so.
    """
    if not 0 < temperature < math.inf:
        raise UserError(f"a temperature, or a power of a law, must be positive and finite, got {temperature}")


def scaled_start(x: Tensor, moment: Moment, temperature: float, mean: Tensor | None) -> Tensor:
    """The first state, scaled by sqrt(T) around alpha m + beta y.

    Args:
        x: the state.
        moment: the first step.
        temperature: T.
        mean: m, 0 when absent.

    Returns:
        A new state.
    """
    value = torch.zeros_like(x[:1]) if mean is None else mean.to(x).expand_as(x)
    anchor = moment.anchor if moment.process.anchored else None
    centre = moment.process.perturb(value.expand_as(x), moment.row.t, torch.zeros_like(x), anchor)
    return centre + math.sqrt(temperature) * (x - centre)
