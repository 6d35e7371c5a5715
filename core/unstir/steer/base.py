"""A steer says where the state may go before and after a step: a function of the state and the step.

x_s <- steer(x_s; x0, row),   row: the step from time t to time s, x0: what the denoiser last believed during it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from torch import Tensor

from unstir.errors import UserError

if TYPE_CHECKING:
    from unstir.denoiser import Denoiser
    from unstir.noise import NoiseSource
    from unstir.process import Process
    from unstir.solver import Row
    from unstir.state import State


class Trajectory(Protocol):
    """What a steer may ask of the trajectory it steers; the loop's answer is in ``unstir.steering``."""

    @property
    def denoiser(self) -> Denoiser:
        """The guided denoiser, counted; it may be differentiated by a steer that says ``needs_grad``."""

    @property
    def stochastic(self) -> bool:
        """Does the solver draw noise?"""

    def look(self, x: State | None = None) -> State:
        """What the guided denoiser believes of the state handed to the steer, or of another at its time; structured like it."""

    def believe(self, x0: State) -> None:
        """Take an estimate of the state handed to the steer that is known already."""

    def move(self, x: State) -> None:
        """From here on the state is another."""

    def resample(self, index: Tensor) -> State:
        """That state at ``index`` (batch,), with all that belongs to it."""

    def report(self, name: str, value: Tensor) -> None:
        """Put a tensor into ``Samples.info``."""


@dataclass
class Moment:
    """What a steer knows about the step that is about to be made, or has just been made.

    Attributes:
        row: the step's row of the plan: times t -> s, alpha, sigma and rho at both.
        x0: the last estimate of the clean state (within this step, once it is made), structured like the state; None before the first.
        process: the process of the state.
        condition: what the denoiser was given, batch first.
        noise: keyed noise of these samples.
        index: numbers of the samples of this batch within the whole run.
        memory: the steer's own notes; empty at the start of a trajectory, kept until its end.
        last: is this the last step?
        trajectory: what :meth:`look`, :meth:`resample` and :meth:`report` ask.
    """

    row: Row
    x0: State
    process: Process
    condition: Mapping[str, Any] | None = None
    noise: NoiseSource | None = None
    index: Sequence[int] = ()
    memory: MutableMapping[Any, Any] = field(default_factory=dict)
    last: bool = False
    trajectory: Trajectory | None = None

    def look(self, x: State | None = None) -> State:
        """What the guided denoiser believes of the state handed to the steer, at the time it is at (x/alpha where sigma is 0).

        It is evaluated once, and costs nothing where the state then goes unchanged (or resampled) into the next step, which begins
        with this evaluation.

        Args:
            x: another state at the same time, evaluated anew; the one handed to the steer when absent.

        Returns:
            x0, structured like the state; not to be overwritten.
        """
        return self._asked().look(x)

    def believe(self, x0: State) -> None:
        """Hand in what :meth:`look` would give, from a steer that evaluated the denoiser itself (for its gradient).

        Args:
            x0: the guided denoiser's estimate of the state handed to the steer, without a graph.
        """
        self._asked().believe(x0)

    def move(self, x: State) -> None:
        """Change the state before a look or a resampling; the steer returns it, or what :meth:`resample` makes of it.

        Args:
            x: structured like the state handed to the steer.
        """
        self._asked().move(x)

    @property
    def denoiser(self) -> Denoiser:
        """The guided denoiser at work, counted."""
        return self._asked().denoiser

    @property
    def stochastic(self) -> bool:
        """Does the solver draw noise, so that equal particles part again?"""
        return self.trajectory is None or self.trajectory.stochastic

    def resample(self, index: Tensor) -> State:
        """Samples take the place of others: what belongs to them (the solver's history, this estimate, the notes of steers) follows.

        Args:
            index: (batch,) long: which sample each place gets; within one problem only.

        Returns:
            The state handed to the steer, at ``index``: return it.
        """
        return self._asked().resample(index)

    def report(self, name: str, value: Tensor) -> None:
        """Put a tensor into ``Samples.info``; the last of a name stays, and chunks are joined along its first axis.

        Args:
            name: its key.
            value: one row a sample, or one a problem.
        """
        self._asked().report(name, value)

    def _asked(self) -> Trajectory:
        if self.trajectory is None:
            raise UserError("this steer asks for a trajectory: it runs under unstir.sample only")
        return self.trajectory

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
    """Changes a state before or after a step; never mixes samples, but for those of one problem.

    Attributes:
        exactness: in a sentence, which law the steered samples follow, and in which limit.
        particles: how many consecutive samples make one problem; a run has a whole number of problems, and no chunk cuts one.
    """

    exactness: ClassVar[str]
    particles: int = 1

    def before(self, x: State, moment: Moment) -> State:
        """The state before the step, steered; as it is, unless a subclass says otherwise.

        Args:
            x: the state at the time the step starts from, batch first, anchor included; not overwritten.
            moment: the step, not yet made.

        Returns:
            The new state, of the same structure, shape and dtype.
        """
        return x

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

    def __post_init__(self) -> None:
        object.__setattr__(self, "particles", self.steer.particles)

    def before(self, x: State, moment: Moment) -> State:
        """The state with that leaf steered before the step."""
        return self._steered(self.steer.before, x, moment) if type(self.steer).before is not Steer.before else x

    def after(self, x: State, moment: Moment) -> State:
        """The state with that leaf steered."""
        return self._steered(self.steer.after, x, moment)

    def _steered(self, verb: Callable[[State, Moment], State], x: State, moment: Moment) -> State:
        if not isinstance(x, dict) or self.leaf not in x:
            raise UserError(f"there is no leaf {self.leaf!r} to steer; the state is {'a tensor' if isinstance(x, Tensor) else sorted(x)}")
        steered: Any = verb(x[self.leaf], moment.leaf(self.leaf))
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
    if on == "clean" and moment.row.rho_s > moment.row.rho_t:  # type: ignore[operator]
        return x  # the step went back up in noise, and made no estimate
    alpha = float(moment.row.alpha_s)  # type: ignore[arg-type]
    if alpha == 0:
        return x
    if on == "clean":
        return x + alpha * (edit(moment.x0) - moment.x0)
    if moment.process.anchored:
        pull = float(moment.process.beta(moment.row.s)) * moment.anchor  # type: ignore[arg-type]
        return pull + alpha * edit((x - pull) / alpha)
    return alpha * edit(x / alpha)
