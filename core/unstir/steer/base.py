"""A steer says where the state may go after a step: a function of the state and the step.

x_s <- steer(x_s; x0, row),   row: the step from time t to time s, x0: what the denoiser last believed during it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from unstir.errors import UserError

if TYPE_CHECKING:
    from unstir.noise import NoiseSource
    from unstir.process import Process
    from unstir.solver import Row
    from unstir.state import State


@dataclass
class Moment:
    """What a steer knows about the step that has just been made.

    Attributes:
        row: the step's row of the plan: times t -> s, alpha, sigma and rho at both.
        x0: the last estimate of the clean state within this step, structured like the state.
        process: the process of the state.
        condition: what the denoiser was given, batch first.
        noise: keyed noise of these samples.
        index: numbers of the samples of this batch within the whole run.
        memory: the steer's own notes; empty at the start of a trajectory, kept until its end.
    """

    row: Row
    x0: State
    process: Process
    condition: Mapping[str, Any] | None = None
    noise: NoiseSource | None = None
    index: Sequence[int] = ()
    memory: MutableMapping[Any, Any] = field(default_factory=dict)

    @property
    def rho(self) -> float:
        """sigma/alpha of the state that ``x0`` was estimated from."""
        return float(self.row.rho_t)  # type: ignore[arg-type]

    @property
    def anchor(self) -> Any:
        """The anchor y of the process, or None."""
        return self.condition.get("anchor") if self.condition else None

    def leaf(self, name: str) -> Moment:
        """The same moment as one leaf of a dict state sees it; the memory is shared."""

        def of(value: Any) -> Any:
            return value[name] if isinstance(value, Mapping) else value

        numbers = {f.name: of(getattr(self.row, f.name)) for f in fields(self.row) if f.name != "c"}
        condition: dict[str, Any] = {key: of(value) if key == "anchor" else value for key, value in (self.condition or {}).items()}
        leaves = getattr(self.process, "leaves", {})
        return replace(self, row=replace(self.row, **numbers), x0=of(self.x0), process=leaves.get(name, self.process), condition=condition)


class Steer(ABC):
    """Changes a state after a step; never mixes the samples of a batch.

    Attributes:
        exactness: in a sentence, which law the steered samples follow, and in which limit.
    """

    exactness: ClassVar[str]

    @abstractmethod
    def after(self, x: State, moment: Moment) -> State:
        """The state after the step, steered.

        Args:
            x: the state at the time the step went to, batch first, anchor included; not overwritten.
            moment: the step.

        Returns:
            The new state, of the same structure, shape and dtype.
        """


@dataclass(frozen=True)
class OnLeaf(Steer):
    """A steer of one leaf of a dict state; the other leaves pass.

    Args:
        leaf: name of the leaf.
        steer: what steers it.
    """

    leaf: str
    steer: Steer
    exactness: ClassVar[str] = "as the steer it carries"

    def after(self, x: State, moment: Moment) -> State:
        """The state with that leaf steered."""
        if not isinstance(x, dict) or self.leaf not in x:
            raise UserError(f"there is no leaf {self.leaf!r} to steer; the state is {'a tensor' if isinstance(x, Tensor) else sorted(x)}")
        steered: Any = self.steer.after(x[self.leaf], moment.leaf(self.leaf))
        return {**x, self.leaf: steered}


def per_sample(value: Tensor, moment: Moment, x: Tensor) -> Tensor:
    """The rows of a batch-first tensor that belong to the samples at hand, in the dtype (of its kind) and on the device of x.

    Args:
        value: (1, ...) for all samples, or one row a sample of the whole run.
        moment: knows which samples are at hand.
        x: (batch, ...).

    Returns:
        (batch, ...).

    Raises:
        UserError: as many rows as neither.
    """
    value = value.to(x.device, x.dtype.to_complex() if value.is_complex() else x.dtype)
    batch = x.shape[0]
    if value.shape[0] == 1:
        return value.expand(batch, *value.shape[1:])
    index = list(moment.index) or list(range(batch))
    if len(index) != batch or max(index, default=0) >= value.shape[0]:
        asked = max(index, default=0)
        raise UserError(f"a steer was given values for {value.shape[0]} samples, and sample {asked} was asked: give one, or one a sample")
    return value[index]


def check_on(on: str) -> None:
    """Refuse what :func:`edited` cannot do."""
    if on not in ("clean", "noisy"):
        raise UserError(f"on is 'clean' or 'noisy', got {on!r}")


def edited(x: State, moment: Moment, on: str, edit: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply an editor of clean states to the estimate (``on="clean"``) or to the noisy state itself (``on="noisy"``).

    clean: x + alpha_s (edit(x0) - x0), what a step affine in x0 gives with the noise direction kept;
    noisy: beta_s y + alpha_s edit((x - beta_s y)/alpha_s).

    Args:
        x: the state after the step, a tensor.
        moment: the step.
        on: ``"clean"`` or ``"noisy"``.
        edit: of a clean state (batch, *shape).

    Returns:
        The state, edited; unchanged where alpha_s is 0, since it then holds no data.

    Raises:
        UserError: the state is a dict of leaves.
    """
    if not isinstance(x, Tensor) or not isinstance(moment.x0, Tensor):
        raise UserError("this steer works on a tensor and the state is a dict of leaves: wrap it as OnLeaf(leaf, steer)")
    alpha = float(moment.row.alpha_s)  # type: ignore[arg-type]
    if alpha == 0:
        return x
    if on == "clean":
        return x + alpha * (edit(moment.x0) - moment.x0)
    if moment.process.anchored:
        pull = float(moment.process.beta(moment.row.s)) * moment.anchor  # type: ignore[arg-type]
        return pull + alpha * edit((x - pull) / alpha)
    return alpha * edit(x / alpha)
