"""A guide says what else a denoiser knows: it wraps a denoiser and gives a denoiser.

D'(x, t) = guide(D, x, t);   guides stack in list order, the first innermost.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from unstir.denoiser.base import Denoiser
from unstir.errors import UserError
from unstir.state import followed

if TYPE_CHECKING:
    from unstir.operator.base import Sensor
    from unstir.process import Process
    from unstir.solver.base import Row
    from unstir.state import State


class Guide(ABC):
    """Changes what a denoiser believes; never mixes the samples of a batch.

    Attributes:
        needs_grad: whether it differentiates the denoiser, so that sampling may not run in inference mode.
        exactness: in a sentence, which law the guided samples follow, and in which limit.
    """

    needs_grad: ClassVar[bool] = False
    exactness: ClassVar[str]

    @abstractmethod
    def estimate(self, denoiser: Denoiser, x: State, t: Any, condition: Mapping[str, Any] | None) -> State:
        """The guided estimate of the clean state.

        Args:
            denoiser: the denoiser being guided.
            x: the noisy state, batch first.
            t: a float for all samples, or (batch,).
            condition: what the denoiser is given, batch first.

        Returns:
            x0, structured like ``x``, in new tensors.
        """

    def planned(self, rows: Sequence[Row]) -> Guide:
        """The guide that knows the steps about to be made; itself, where it has no use for them.

        Args:
            rows: the solver's plan, one row a step.

        Returns:
            A guide of the same meaning; :func:`unstir.sample` asks once, before the first chunk.
        """
        return self

    def wrap(self, denoiser: Denoiser) -> Denoiser:
        """The guided denoiser, of the same process, space, shape and normaliser; wrapped anew for each trajectory."""
        return Guided(denoiser, self)


class RememberingGuide(Guide):
    """A guide that keeps notes along a trajectory: its ``wrap`` gives a :class:`Guided` of its own, new for each trajectory."""

    @abstractmethod
    def wrap(self, denoiser: Denoiser) -> Denoiser:
        """The guided denoiser of one trajectory, with its notes."""

    def estimate(self, denoiser: Denoiser, x: State, t: Any, condition: Mapping[str, Any] | None) -> State:
        """The guided estimate at the beginning of a trajectory, where there are no notes."""
        return self.wrap(denoiser)(x, t, condition)


class Guided(Denoiser):
    """A denoiser under a guide.

    Args:
        denoiser: the denoiser being guided.
        guide: what guides it.
    """

    def __init__(self, denoiser: Denoiser, guide: Guide) -> None:
        super().__init__(denoiser.process, denoiser.shape, denoiser.space, denoiser.normaliser, denoiser.card)
        self.denoiser, self.guide = denoiser, guide

    def forward(self, x: Any, t: Any, condition: Mapping[str, Any] | None = None) -> Any:
        """The guided estimate; see :meth:`Denoiser.forward`."""
        return self.guide.estimate(self.denoiser, x, t, condition)

    def follow(self, index: Tensor, count: int) -> None:
        """Samples took the place of others: the notes of a subclass, its public attributes, follow them.

        Args:
            index: (count,) long: which sample each place got.
            count: number of samples.
        """
        for name, value in list(vars(self).items()):
            if not name.startswith("_") and name not in ("denoiser", "guide", "process", "space", "shape", "normaliser"):
                setattr(self, name, followed(value, index, count))

    def with_process(self, process: Process) -> Denoiser:
        """The denoiser on the other process, guided there."""
        return self.guide.wrap(self.denoiser.with_process(process))


def measured(operator: Sensor, y: Tensor | str, condition: Mapping[str, Any] | None, x: Tensor) -> tuple[Tensor, Mapping[str, Any] | None]:
    """The measurements of the samples at hand, and the condition without them.

    Args:
        operator: what measured.
        y: (1, *shape_out) for all samples, or the name of the condition's entry that holds one a sample.
        condition: what the denoiser is given, batch first.
        x: a noisy state; the measurements follow its device and precision.

    Returns:
        (1 or batch, *shape_out), and the condition without the entry named.

    Raises:
        UserError: the condition has no such entry, or it does not fit.
    """
    if isinstance(y, str):
        if not condition or y not in condition:
            raise UserError(f"a guide looks for its measurement in condition[{y!r}], and the condition holds {sorted(condition or ())}")
        y, condition = operator.measurement(condition[y]), {key: value for key, value in condition.items() if key != y} or None
    return y.to(x.device, x.dtype.to_complex() if y.is_complex() else x.dtype), condition
