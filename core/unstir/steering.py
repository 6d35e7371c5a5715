"""Steers at work along one trajectory: what they see, and what follows when they make samples take the place of others.

    x_t <- before(x_t),   x_s <- after(step(x_t)),       every edit ends in the space of the state

An estimate that a steer asked for is handed to the solver, which begins its next step with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from unstir.denoiser import Denoiser
from unstir.evaluation import Evaluation, check_like
from unstir.guide.base import Guided
from unstir.noise import NoiseSource
from unstir.samples import plain
from unstir.solver.base import Memory, Row
from unstir.state import State, batch_size, combine, followed, take
from unstir.steer.base import Moment, Steer


class Steering:
    """The steers of one chunk of samples, from its first step to its last.

    Args:
        steers: in the order in which they are asked.
        denoiser: whose space the states live in.
        model: the guided denoiser, counted.
        noise: keyed noise of these samples.
        memory: the solver's.
        stochastic: does the solver draw noise?

    Attributes:
        info: what the steers reported, by name.
    """

    def __init__(
        self,
        steers: Sequence[Steer],
        denoiser: Denoiser,
        model: Evaluation,
        noise: NoiseSource,
        memory: Memory,
        stochastic: bool = True,
    ) -> None:
        self.steers, self.denoiser, self.model, self.noise, self.memory = steers, denoiser, model, noise, memory
        self.stochastic = stochastic
        self.notes: list[dict[Any, Any]] = [{} for _ in steers]
        self.info: dict[str, Tensor] = {}
        self.early = any(type(steer).before is not Steer.before for steer in steers)

    def before(self, z: State, row: Row, last: bool) -> State:
        """The state at the start of a step, after every steer."""
        return self._asked("before", z, row, row.t, last) if self.early else z

    def after(self, z: State, row: Row, last: bool) -> State:
        """The state at the end of a step, after every steer."""
        return self._asked("after", z, row, row.s, last)

    def _asked(self, verb: str, z: State, row: Row, time: Any, last: bool) -> State:
        model = self.model
        at = _At(self, model.with_anchor(z, time), time, row)
        at.x0 = model.expected(z, time)
        first = at.x
        for steer, own in zip(self.steers, self.notes, strict=True):
            moment = Moment(row, model.x0, model.process, model.condition, self.noise, self.noise.indices, own, last, at)
            new = getattr(steer, verb)(at.x, moment)
            if new is not at.x:
                check_like(new, z, f"the state from {type(steer).__name__} at step {row.index}")
                at.x, at.x0 = self.denoiser.space.project(new, model.condition), None
        if at.x is not first:
            z = combine(z, 0.0, (1.0, model.with_anchor(at.x, time, -1.0)))
        if at.x0 is not None and not (last and verb == "after"):
            model.expect(z, time, at.x0)
        return z


class _At:
    """The trajectory at one time: the state, and what the denoiser believes of it once a steer has asked."""

    def __init__(self, steering: Steering, x: State, time: Any, row: Row) -> None:
        self.steering, self.time, self.row = steering, time, row
        self.x: Any = x  # with its anchor
        self.x0: Any = None

    @property
    def denoiser(self) -> Denoiser:
        """The guided denoiser."""
        return self.steering.model.denoiser

    @property
    def stochastic(self) -> bool:
        """Does the solver draw noise?"""
        return self.steering.stochastic

    def believe(self, x0: State) -> None:
        """What the next look gives."""
        self.x0 = x0

    def move(self, x: State) -> None:
        """Another state, of which nothing is known."""
        self.x, self.x0 = x, None

    def look(self, x: State | None = None) -> State:
        """The guided denoiser's estimate, at most one evaluation; of another state, always one."""
        if x is not None and x is not self.x:
            return self.steering.model.believed(x, self.time)
        if self.x0 is None:
            self.x0 = self._clean() if self._is_clean() else self.steering.model.believed(self.x, self.time)
        return self.x0

    def resample(self, index: Tensor) -> State:
        """The state at ``index``, and all that belongs to it."""
        steering, count = self.steering, batch_size(self.x)
        self.x = take(self.x, index)
        self.x0 = None if self.x0 is None else take(self.x0, index)
        model = steering.model
        model.x0 = None if model.x0 is None else take(model.x0, index)
        replayed = steering.memory.pop("noise", None)
        for notes in (steering.memory, *steering.notes):
            notes.update({key: followed(value, index, count) for key, value in notes.items()})
        guided: Any = model.denoiser
        while isinstance(guided, Guided):
            guided.follow(index, count)
            guided = guided.denoiser
        if replayed is not None:
            steering.memory["noise"] = replayed
        return self.x

    def report(self, name: str, value: Tensor) -> None:
        """Keep a tensor for ``Samples.info``."""
        kept: Any = plain(value.detach().clone())
        self.steering.info[name] = kept

    def _scales(self) -> tuple[Any, Any]:
        row = self.row
        return (row.alpha_s, row.sigma_s) if self.time is row.s else (row.alpha_t, row.sigma_t)

    def _is_clean(self) -> bool:
        alpha, sigma = (list(c.values()) if isinstance(c, dict) else [c] for c in self._scales())
        return not any(sigma) and all(alpha)

    def _clean(self) -> State:
        alpha, _ = self._scales()
        if isinstance(self.x, dict):
            scale = alpha if isinstance(alpha, dict) else dict.fromkeys(self.x, alpha)
            return {leaf: _unscaled(x, scale[leaf]) for leaf, x in self.x.items()}
        return _unscaled(self.x, alpha)


def _unscaled(x: Tensor, alpha: float) -> Tensor:
    return x / alpha if x.is_floating_point() else x.clone()
