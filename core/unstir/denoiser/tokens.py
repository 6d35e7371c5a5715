"""A network as a denoiser of discrete states, and its reuse while a state stands still.

    categories   softmax of the logits; with masks by SUBS: the mask is never predicted, and what is seen stays    [MDLM, arXiv:2406.07524]
    counts       x + softplus (Blackout), softplus (Thinning)

With masks p(x_0 | x_t) does not depend on the time: it is the law of the clean data given the entries that are seen. A network without a
time input therefore loses nothing, and one evaluation serves until the state changes: in N uniform steps over L masks on average
1 + (N - 1)(1 - (1 - 1/N)^L) of them, N (1 - (1 - 1/N)^L) but for the ends of the grid.                      [RADD, arXiv:2406.03736]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from unstir.denoiser.base import Condition, Denoiser, Shape, check_shape, matching_time
from unstir.denoiser.convert import PARAMETERISATIONS, weights
from unstir.errors import UnknownName, UserError
from unstir.guide.base import Guide, Guided
from unstir.process import Joint, Process
from unstir.process.base import spread
from unstir.process.discrete import Discrete, by_leaf
from unstir.space import Space
from unstir.state import batch_size, map_state, take


class TokenDenoiser(Denoiser):
    """A network over discrete states, or over dict states with at least one discrete leaf, as a denoiser.

    Args:
        network: called as ``network(x, label, condition)``: x long (batch, *shape), label (batch,) the time of the process; it gives
            logits (batch, *shape, categories), or (batch, *shape) for counts. For a dict state all three are dicts.
        process: discrete, or joint with discrete leaves.
        shape: shape of one state without its batch; a dict for a dict state.
        space: where states live; ``SymmetricTokens`` for kinds of edges.
        time_free: is the network told 0 instead of the time? Only for processes that are all masks, where this is exact.
        parameterisation: what the network predicts in continuous leaves of a dict state, as for ``NetworkDenoiser`` (not ``edm``).
        card: the model card, a text.

    Raises:
        UnknownName: the parameterisation does not exist.
        UserError: no leaf is discrete, a continuous leaf is anchored, or ``time_free`` where the belief depends on the time.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        process: Process,
        shape: Shape,
        *,
        space: Space | None = None,
        time_free: bool = False,
        parameterisation: str = "x0",
        card: str | None = None,
    ) -> None:
        super().__init__(process, shape, space, None, card)
        if isinstance(process, Joint) != isinstance(shape, dict):
            raise UserError("a dict state has a joint process and a dict of shapes; any other state neither")
        leaves = by_leaf(process)
        if parameterisation not in PARAMETERISATIONS or parameterisation == "edm":
            raise UnknownName("parameterisation", parameterisation, [kind for kind in PARAMETERISATIONS if kind != "edm"])
        if not any(own.discrete for own in leaves.values()) or any(own.anchored for own in leaves.values()):
            raise UserError("TokenDenoiser is for discrete states, beside continuous leaves without an anchor; else take NetworkDenoiser")
        if time_free and not all(getattr(own, "mask", None) is not None for own in leaves.values()):
            raise UserError("time_free needs masks in every leaf: with other noise the belief depends on the time")
        self.network, self.time_free, self.parameterisation = network, time_free, parameterisation

    def forward(self, x: Any, t: Any, condition: Condition | None = None) -> Any:
        """The belief about x_0: probabilities, means of counts, and E[x_0 | x_t] in continuous leaves."""
        check_shape(x, self.shape, "the denoiser")
        single = not isinstance(x, Mapping)
        state: Mapping[str, Tensor] = {"": x} if single else x
        processes = by_leaf(self.process)
        times = {"": t} if single else self.process.times(t)  # type: ignore[attr-defined]
        labels = {}
        for leaf, part in state.items():
            time = torch.as_tensor(0.0 if self.time_free else times[leaf], dtype=torch.float64)
            labels[leaf] = processes[leaf].label(time).to(part.device, torch.float32).expand(part.shape[0])
        output = self.network(x, labels[""] if single else labels, condition)
        outputs = {"": output} if single else output
        found = {leaf: self._belief(processes[leaf], part, times[leaf], outputs[leaf]) for leaf, part in state.items()}
        return found[""] if single else found

    def with_process(self, process: Process) -> Denoiser:
        """The model on another schedule: it is asked at the time of equal survival (of equal sigma/alpha in continuous leaves).

        Args:
            process: of the same laws, on another schedule.

        Returns:
            A denoiser on ``process``.

        Raises:
            UserError: a continuous leaf would change, or leaves share a time and change differently.
        """
        return self if process == self.process else Retimed(self, process)

    def _belief(self, process: Process, x: Tensor, t: Any, output: Tensor) -> Tensor:
        if isinstance(process, Discrete):
            return process.belief(x, output)
        on_value, on_state = weights(self.parameterisation, "x0", process.alpha(t), process.sigma(t), 1.0)
        return spread(torch.as_tensor(on_value), x) * output.to(x.dtype) + spread(torch.as_tensor(on_state), x) * x


class Retimed(Denoiser):
    """A denoiser of discrete states moved to another schedule by matching survival; see ``TokenDenoiser.with_process``.

    Args:
        denoiser: the model, on its own process.
        process: the process to sample.

    Raises:
        UserError: see ``TokenDenoiser.with_process``.
    """

    def __init__(self, denoiser: Denoiser, process: Process) -> None:
        super().__init__(process, denoiser.shape, denoiser.space, denoiser.normaliser, denoiser.card)
        own, other = by_leaf(denoiser.process), by_leaf(process)
        if set(own) != set(other):
            raise UserError(f"the leaves of the processes differ: {sorted(own)} and {sorted(other)}")
        for leaf, part in own.items():
            if part != other[leaf] and (not part.discrete or type(part) is not type(other[leaf])):
                raise UserError(f"only the schedule of discrete leaves can be exchanged, got {other[leaf]!r} for {part!r}")
        if (
            isinstance(process, Joint)
            and process.shared_time
            and len({(own[leaf], other[leaf]) for leaf in own if own[leaf] != other[leaf]}) > 1
        ):
            raise UserError("the leaves share one time, and their schedules would change differently: give shared_time=False")
        self.denoiser = denoiser

    def forward(self, x: Any, t: Any, condition: Condition | None = None) -> Any:
        """The belief of the model at the matching time."""
        own, other = self.denoiser.process, self.process
        if isinstance(own, Joint) and isinstance(other, Joint):
            times = {leaf: _matched(own.leaves[leaf], other.leaves[leaf], time) for leaf, time in other.times(t).items()}
            return self.denoiser(x, next(iter(times.values())) if own.shared_time else times, condition)
        return self.denoiser(x, _matched(own, other, t), condition)

    def with_process(self, process: Process) -> Denoiser:
        """The model itself, moved to a third process."""
        return self.denoiser.with_process(process)


class Reuse(Guide):
    """Asks a time-free model only about samples whose state has changed since it was last asked; counted evaluations fall accordingly.

    D(x_t, t) = D(x_s) where x_t = x_s. Reads back to the host which samples have changed.       [RADD, arXiv:2406.03736, section 3.3]
    """

    exactness: ClassVar[str] = "exact: a time-free model says the same of the same state"

    def wrap(self, denoiser: Denoiser) -> Denoiser:
        """The denoiser with a memory of its own.

        Args:
            denoiser: time-free.

        Raises:
            UserError: the denoiser is not time-free.
        """
        if not getattr(denoiser, "time_free", False):
            raise UserError("evaluations can be reused of a time-free model only: give TokenDenoiser(..., time_free=True)")
        return _Reusing(denoiser, self)

    def estimate(self, denoiser: Denoiser, x: Any, t: Any, condition: Mapping[str, Any] | None) -> Any:
        """The estimate itself, where nothing is remembered."""
        return denoiser(x, t, condition)


class _Reusing(Guided):
    """Remembers the last state of each sample and what was said of it."""

    def __init__(self, denoiser: Denoiser, guide: Guide) -> None:
        super().__init__(denoiser, guide)
        self.seen: Any = None
        self.said: Any = None

    def forward(self, x: Any, t: Any, condition: Mapping[str, Any] | None = None) -> Any:
        """What is remembered, with the samples that have changed asked again."""
        size = batch_size(x)
        if self.seen is None or batch_size(self.seen) != size:
            index = torch.arange(size)
        else:
            parts = map_state(lambda new, old: (new != old).flatten(1).any(1), x, self.seen)
            changed = torch.stack(list(parts.values())).any(0) if isinstance(parts, dict) else parts
            index = changed.nonzero()[:, 0]
            if not len(index):
                return self.said
        said = self.denoiser(take(x, index), t[index] if isinstance(t, Tensor) and t.ndim else t, _rows(condition, index, size))
        if len(index) < size:
            said = map_state(lambda old, new: old.index_copy(0, index.to(old.device), new), self.said, said)
        self.seen, self.said = map_state(torch.clone, x), said
        return said


def _rows(condition: Any, index: Tensor, size: int) -> Any:
    """The rows of a condition; tensors with one row for all pass."""
    if isinstance(condition, Mapping):
        return {key: _rows(value, index, size) for key, value in condition.items()}
    whole = isinstance(condition, Tensor) and condition.ndim > 0 and condition.shape[0] == size > 1
    return condition[index.to(condition.device)] if whole else condition


def _matched(own: Process, other: Process, t: Any) -> Any:
    if own == other:
        return t
    time = matching_time(own, other, t)
    return time if isinstance(t, Tensor) else float(time)
