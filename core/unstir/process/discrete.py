"""Discrete processes: states are whole numbers that jump, and survival takes the place of scale.

    alpha(t): the chance that an entry (or a unit of a count) has not been touched at time t;      sigma = 1 - alpha

    linear       1 - t                                       cosine      cos^2(pi/2 (t + .008)/1.008), 1 at t = 0
    log-linear   1 - (1 - eps) t, eps = 1e-3                 md4-cosine  1 - cos(pi/2 (1 - t))             exponential   exp(-t)
    pard-cosine  cos(pi/2 (t + .008)/1.008), 1 at t = 0: the root of cosine

Estimates are beliefs about the clean state: probabilities of each category, or the mean of a count. Noise is the unit normals of all
processes, turned into uniforms by the normal distribution function, so that one kind of keyed noise serves.
References: Austin et al. 2021 (D3PM), arXiv:2107.03006; Campbell et al. 2022, arXiv:2205.14987; Lou et al. 2024 (SEDD, log-linear),
arXiv:2310.16834; Shi et al. 2024 (MD4), arXiv:2406.04329; Nichol & Dhariwal 2021 (cosine), arXiv:2102.09672; Zhao et al. 2024 (PARD,
whose cosine is not squared), arXiv:2402.03687.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from unstir.errors import UnknownName, UserError
from unstir.noise import NoiseSource
from unstir.process.base import Process, Time
from unstir.process.joint import Joint
from unstir.space import Condition, Symmetric

SCHEDULES = ("linear", "cosine", "log-linear", "md4-cosine", "pard-cosine", "exponential")
_OFFSET, _FLOOR = 0.008, 1e-3  # of the cosine and of the log-linear schedule
_START = math.pi / 2 * _OFFSET / (1 + _OFFSET)
_SPEED = math.pi / 2 / (1 + _OFFSET)


class Discrete(Process):
    """A process of whole numbers: a frozen dataclass with a ``schedule``; states are long tensors (batch, *shape).

    Attributes:
        schedule: one of `SCHEDULES`.
        pointed: is the prior a single state, which every trajectory leaves from?
    """

    discrete: ClassVar[bool] = True
    schedule: str

    @property
    @abstractmethod
    def pointed(self) -> bool:
        """Is the prior a single state?"""

    def alpha(self, t: Time) -> Tensor:
        """Survival: 1 at the data."""
        t = self.time(t)
        if self.schedule == "linear":
            return 1 - t
        if self.schedule == "log-linear":
            return 1 - (1 - _FLOOR) * t
        if self.schedule == "exponential":
            return torch.exp(-t)
        if self.schedule == "md4-cosine":
            late = 2 * torch.sin(math.pi / 4 * (1 - t)).square()  # without cancellation where little is left
            return torch.where(t < 0.5, 1 - torch.sin(math.pi / 2 * t), late)
        root = torch.cos(_START + _SPEED * t.clamp(max=1.0)) / math.cos(_START)
        return root if self.schedule == "pard-cosine" else root.square()

    def sigma(self, t: Time) -> Tensor:
        """1 - alpha, without cancellation."""
        t = self.time(t)
        if self.schedule == "linear":
            return t.clone()
        if self.schedule == "log-linear":
            return (1 - _FLOOR) * t
        if self.schedule == "exponential":
            return -torch.expm1(-t)
        if self.schedule == "md4-cosine":
            return torch.sin(math.pi / 2 * t)
        if self.schedule == "pard-cosine":
            return 2 * torch.sin(_SPEED / 2 * t) * torch.sin(_START + _SPEED / 2 * t) / math.cos(_START)
        return torch.sin(_SPEED * t) * torch.sin(2 * _START + _SPEED * t) / math.cos(_START) ** 2

    def loss_rate(self, t: Time) -> Tensor:
        """-alpha'(t), per unit of time."""
        t = self.time(t)
        if self.schedule == "linear":
            return torch.ones_like(t)
        if self.schedule == "log-linear":
            return torch.full_like(t, 1 - _FLOOR)
        if self.schedule == "exponential":
            return torch.exp(-t)
        if self.schedule == "md4-cosine":
            return math.pi / 2 * torch.cos(math.pi / 2 * t)
        if self.schedule == "pard-cosine":
            return _SPEED * torch.sin(_START + _SPEED * t) / math.cos(_START)
        return _SPEED * torch.sin(2 * (_START + _SPEED * t)) / math.cos(_START) ** 2

    def time_at_alpha(self, alpha: float | Tensor) -> Tensor:
        """The time of a survival, at most ``t_max``: the inverse of ``alpha``."""
        alpha = torch.as_tensor(alpha, dtype=torch.float64)
        if self.schedule == "linear":
            t = 1 - alpha
        elif self.schedule == "log-linear":
            t = (1 - alpha) / (1 - _FLOOR)
        elif self.schedule == "exponential":
            t = -torch.log(alpha)
        elif self.schedule == "md4-cosine":
            t = 1 - 4 / math.pi * torch.asin(torch.sqrt(alpha.clamp(0, 1) / 2))
        else:
            root = alpha.clamp(0, 1) if self.schedule == "pard-cosine" else torch.sqrt(alpha.clamp(0, 1))
            t = (torch.acos(root * math.cos(_START)) - _START) / _SPEED
        return t.clamp(self.t_zero, self.t_max)

    def time_at_rho(self, rho: float | Tensor) -> Tensor:
        """The time at which alpha is 1/(1 + rho)."""
        return self.time_at_alpha(1 / (1 + torch.as_tensor(rho, dtype=torch.float64)))

    def rate(self, t: Time) -> Tensor:
        """alpha'/alpha: minus the rate at which an entry is touched, per unit of time."""
        return -self.loss_rate(t) / self.alpha(t)

    def weight(self, t: Time) -> Tensor:
        """-alpha'/(1 - alpha): the rate at which a touched entry comes back on the way to the data, the weight of its loss."""
        return self.loss_rate(t) / self.sigma(t)

    def drift(self, x: Any, t: Any, anchor: Any = None) -> Any:
        """There is none: states jump.

        Raises:
            UserError: always.
        """
        raise UserError(f"{type(self).__name__} has no drift and no diffusion: its states jump; take 'discrete-ancestral' as the solver")

    def diffusion(self, t: Time) -> Tensor:
        """There is none: states jump; see ``drift``."""
        return self.drift(None, t)

    def prior(self, anchor: Tensor | None = None, t: float | None = None) -> tuple[Any, Any]:
        """There is no normal law; ``first`` draws the start.

        Args:
            anchor: none.
            t: any time.

        Raises:
            UserError: always.
        """
        raise UserError(f"the prior of {type(self).__name__} is no normal law: draw it by process.first(source, shape, stream)")

    @abstractmethod
    def first(self, source: NoiseSource, shape: tuple[int, ...], stream: str) -> Tensor:
        """Draws of the prior, keyed by sample.

        Args:
            source: keyed noise.
            shape: of one state.
            stream: name of the draw.

        Returns:
            Long tensor (len(source), *shape).
        """

    @abstractmethod
    def perturb(self, x0: Tensor, t: Any, noise: Tensor, anchor: Any = None) -> Tensor:
        """A draw of x_t given x_0.

        Args:
            x0: clean state (batch, *shape), long.
            t: one time, or one a sample (batch,).
            noise: unit normals of the shape of ``x0``.
            anchor: none.

        Returns:
            Long tensor of the shape of ``x0``.
        """

    @abstractmethod
    def belief(self, x: Tensor, output: Tensor) -> Tensor:
        """What a network's output says about the clean state.

        Args:
            x: noisy state (batch, *shape).
            output: of the network, (batch, *shape, categories) for categories, (batch, *shape) for counts.

        Returns:
            The estimate that solvers and losses take.
        """

    @abstractmethod
    def certain(self, x0: Tensor, like: Tensor) -> Tensor:
        """The estimate of one who knows ``x0``, in the dtype of ``like``."""

    @abstractmethod
    def ancestral(self, x: Tensor, x0: Tensor, alpha_t: float, alpha_s: float, u: Tensor) -> Tensor:
        """A draw of x_s given x_t and the estimate, entry by entry.

        Args:
            x: state at t (batch, *shape).
            x0: the estimate there.
            alpha_t, alpha_s: survival at t and at the earlier time s.
            u: independent uniforms of the shape of ``x``.

        Returns:
            Long tensor of the shape of ``x``.
        """

    @abstractmethod
    def leap(self, x: Tensor, x0: Tensor, t: float, s: float, u: Tensor) -> Tensor:
        """As ``ancestral``, with the jump rates that hold at t kept until s.

        Args:
            x: state at t (batch, *shape).
            x0: the estimate there.
            t, s: the two times.
            u: independent uniforms of the shape of ``x``.

        Returns:
            Long tensor of the shape of ``x``.
        """

    @abstractmethod
    def divergence(self, x: Tensor, x0: Tensor, estimate: Tensor, t: Any) -> Tensor:
        """How fast the reverse jumps believed depart from the true ones: the density in time of the bound on -log p(x_0).

        sum over jumps of  r log(r/r') - r + r',     r the rate given x_0, r' the rate given the estimate

        Args:
            x: state at t (batch, *shape).
            x0: the clean state.
            estimate: the belief at ``x``.
            t: one time, or one a sample.

        Returns:
            (batch, *shape), nats per unit of time.
        """


@dataclass(frozen=True)
class SymmetricTokens(Symmetric):
    """Symmetric matrices of whole numbers, 0 on the diagonal and at absent nodes: kinds of edges.

    Noise is that of :class:`~unstir.space.Symmetric`, unit normal and symmetric, so that an edge is drawn once; of whole numbers the
    projection keeps the triangle above the diagonal and mirrors it.

    Args:
        key: the entry of the condition with a mask of nodes (batch, nodes).
    """

    def project(self, x: Tensor, condition: Condition = None) -> Tensor:
        """The upper triangle, mirrored, of whole numbers; else as for real matrices."""
        if x.is_floating_point():
            return super().project(x, condition)
        upper = torch.triu(x, 1)
        return super().project((upper + upper.mT).to(torch.float64), condition).to(x.dtype)


def by_leaf(process: Process) -> Mapping[str, Process]:
    """The processes of the leaves; of a single one under the name ``""``."""
    return process.leaves if isinstance(process, Joint) else {"": process}


def uniforms(noise: Tensor) -> Tensor:
    """Uniforms in (0, 1) from unit normals, float64."""
    return torch.special.ndtr(noise.to(torch.float64))


def spread_over(coefficient: float | Tensor, x: Tensor, extra: int = 0) -> float | Tensor:
    """A coefficient, one for all or one a sample, ready to multiply (batch, *shape) with ``extra`` axes behind."""
    if not isinstance(coefficient, Tensor):
        return coefficient
    if coefficient.ndim == 0:
        return float(coefficient)
    return coefficient.to(x.device).reshape(coefficient.shape + (1,) * (x.ndim - 1 + extra))


def check_schedule(schedule: str, t_max: float) -> None:
    """Refuse a schedule that does not exist or is over before ``t_max``.

    Args:
        schedule: its name.
        t_max: time of the prior.

    Raises:
        UnknownName: there is no such schedule.
        UserError: ``t_max`` is not positive, or beyond 1 for a schedule that ends there.
    """
    if schedule not in SCHEDULES:
        raise UnknownName("schedule", schedule, SCHEDULES)
    if not t_max > 0 or (schedule != "exponential" and t_max > 1):
        raise UserError(f"t_max of a {schedule} schedule must lie in (0, {'inf' if schedule == 'exponential' else '1'}], got {t_max}")
