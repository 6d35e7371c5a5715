"""Evaluations of a denoiser inside a loop: counted, checked, in the space of the state, and with the anchor put back.

    x0 = project(D(z + beta(t) y, t)),      z the state without its anchor y

Nothing here is costly: a step in Euclidean space without an anchor passes the state on as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unstir.denoiser import Denoiser
from unstir.errors import UserError
from unstir.process import Joint, Process
from unstir.process.base import spread
from unstir.space import Euclidean, JointSpace
from unstir.state import Coefficient, State, batch_size, clone, combine, leaves, map_state


class Counted(Denoiser):
    """The same denoiser, counting how many samples it has been asked about.

    Args:
        denoiser: what is counted. Guides wrap the counted denoiser, so each of their calls counts.
    """

    def __init__(self, denoiser: Denoiser, tally: list[int] | None = None) -> None:
        super().__init__(denoiser.process, denoiser.shape, denoiser.space, denoiser.normaliser, denoiser.card)
        self.denoiser = denoiser
        self.tally = [0] if tally is None else tally

    def forward(self, x: Any, t: Any, condition: Mapping[str, Any] | None = None) -> Any:
        """The denoiser's estimate."""
        self.tally[0] += batch_size(x)
        return self.denoiser(x, t, condition)

    def with_process(self, process: Process) -> Denoiser:
        """The denoiser on another process, counted together with this one."""
        return Counted(self.denoiser.with_process(process), self.tally)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("denoiser"), name)


class Evaluation:
    """What a solver sees of a denoiser: ``x0 = evaluation(z, t)``.

    Args:
        denoiser: guided and counted.
        condition: its condition, batch first; ``anchor`` in it is y.

    Attributes:
        x0: the last estimate.
        step: number of the step at work, for error messages.
    """

    def __init__(self, denoiser: Denoiser, process: Process, condition: Mapping[str, Any] | None) -> None:
        self.denoiser, self.process, self.condition = denoiser, process, condition
        self.anchor = anchor_for(process, condition)
        self.x0: Any = None
        self.step = 0
        self._first: list[Tensor] | None = None
        self._fresh: bool | None = None
        self._expected: tuple[State, Any, State] | None = None

    def __call__(self, z: State, t: Any) -> State:
        """The clean estimate, in the structure, shape and dtype of ``z``, sharing no memory with it; it may be kept.

        Of a discrete leaf it is what that process says: probabilities (batch, *shape, K), or a real number for each count.

        Raises:
            UserError: the denoiser gave something else; names the step.
        """
        known, self._expected = self.expected(z, t), None
        self.x0 = self.believed(self.with_anchor(z, t), t) if known is None else known
        return self.x0

    def expect(self, z: State, t: Any, x0: State) -> None:
        """The next evaluation, if it is of this very state at this time, is already known."""
        self._expected = (z, t, x0)

    def expected(self, z: State, t: Any) -> Any:
        """The estimate that is already known of this very state at this time, or None."""
        if self._expected is None or isinstance(t, Tensor):
            return None
        state, time, x0 = self._expected
        return x0 if state is z and time == t else None

    def believed(self, x: State, t: Any) -> State:
        """The clean estimate of a state with its anchor; see ``__call__``."""
        estimate = self.denoiser(x, t, self.condition)
        check_like(estimate, x, f"the denoiser's estimate at step {self.step}", whole=discrete_leaves(self.process))
        if not isinstance(self.denoiser.space, Euclidean):
            estimate = self._projected(estimate)
        fresh = self._is_fresh(leaves(estimate))
        return map_state(lambda tensor, own: _own(tensor, own, fresh), estimate, x)

    def _projected(self, estimate: Any) -> Any:
        """The estimate in the space of the state; that of a discrete leaf lives elsewhere and stays."""
        space, whole = self.denoiser.space, discrete_leaves(self.process)
        if not whole:
            return space.project(estimate, self.condition)
        if not isinstance(space, JointSpace):
            return estimate
        return {k: value if k in whole else space.of(k).project(value, self.condition) for k, value in estimate.items()}

    def _is_fresh(self, estimate: list[Tensor]) -> bool:
        """Does the denoiser give new tensors? The first is held, and the second (hence all) is new if it lies elsewhere."""
        if self._fresh is None and self._first is None:
            self._first = estimate
            return False
        if self._fresh is None:
            self._fresh = not {_address(tensor) for tensor in self._first or ()} & {_address(tensor) for tensor in estimate}
            self._first = None
        return bool(self._fresh)

    def with_anchor(self, z: State, t: Any, sign: float = 1.0) -> State:
        """``z + sign beta(t) y``: ``z`` itself where there is no anchor, else a new state."""
        if self.anchor is None:
            return z
        beta: Any = self.process.beta(t)
        if isinstance(t, Tensor) and isinstance(z, Tensor):
            return z + spread(sign * beta, z) * self.anchor.to(z)
        scale: Coefficient = {leaf: sign * float(b) for leaf, b in beta.items()} if isinstance(beta, dict) else sign * float(beta)
        if not isinstance(z, dict):
            return combine(clone(z), 1.0, (scale, self.anchor))
        anchors = {leaf: self.anchor.get(leaf) for leaf in z}
        known = {leaf: anchor for leaf, anchor in anchors.items() if anchor is not None}
        moved = combine({leaf: z[leaf].clone() for leaf in known}, 1.0, (scale, known))
        return {**z, **moved}  # type: ignore[dict-item]


def anchor_for(process: Process, condition: Mapping[str, Any] | None) -> Any:
    """The anchor that a process needs, from a condition; ``None`` where it needs none.

    Raises:
        UserError: the process (or an anchored leaf) has no anchor there.
    """
    if not process.anchored:
        return None
    anchor = (condition or {}).get("anchor")
    if isinstance(process, Joint):
        for leaf, own in process.leaves.items():
            if own.anchored:
                own.need((anchor or {}).get(leaf))
        return anchor
    return process.need(anchor)


def discrete_leaves(process: Process) -> frozenset[str]:
    """The leaves of a joint process whose states are whole numbers; ``{""}`` for a discrete process on its own."""
    if isinstance(process, Joint):
        return frozenset(leaf for leaf, own in process.leaves.items() if own.discrete)
    return frozenset([""] if process.discrete else [])


def check_like(state: Any, like: State, what: str, whole: frozenset[str] = frozenset(), leaf: str = "") -> None:
    """Raise unless ``state`` has the structure, shapes and kind of numbers of ``like``.

    Args:
        state: what is checked.
        like: what it should be like.
        what: how a message names it.
        whole: discrete leaves, of which ``state`` holds estimates: floating, one row a sample.
        leaf: the leaf at hand.

    Raises:
        UserError: says what differs.
    """
    if isinstance(like, dict):
        if not isinstance(state, dict) or state.keys() != like.keys():
            got = sorted(state) if isinstance(state, dict) else type(state).__name__
            raise UserError(f"{what} must have the leaves {sorted(like)}, got {got}")
        for leaf in like:
            check_like(state[leaf], like[leaf], f"{what}, leaf {leaf!r},", whole, leaf)
    elif not isinstance(state, Tensor):
        raise UserError(f"{what} must be a tensor, got {type(state).__name__}")
    elif state.shape[: like.ndim] != like.shape if leaf in whole else state.shape != like.shape:
        raise UserError(f"{what} must have shape {tuple(like.shape)}, got {tuple(state.shape)}")
    elif not state.is_floating_point() and (leaf in whole or like.is_floating_point()):
        raise UserError(f"{what} must be of a floating dtype, got {state.dtype}")
    elif leaf not in whole and state.is_floating_point() and not like.is_floating_point():
        raise UserError(f"{what} must be of whole numbers, got {state.dtype}")


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _own(estimate: Tensor, z: Tensor, fresh: bool) -> Tensor:
    """The estimate in the dtype of the state, without a graph; copied unless it is known to be new."""
    if estimate.requires_grad:
        estimate = estimate.detach()
    if estimate.dtype != z.dtype and z.is_floating_point():
        return estimate.to(z.dtype)
    return estimate if fresh and _address(estimate) != _address(z) else estimate.clone()


def working_tensor(denoiser: torch.nn.Module, start: State | None) -> Tensor:
    """An empty tensor of the dtype and device that states have: those of ``start``, else of the denoiser's numbers.

    A denoiser in half precision keeps states in float32; one without numbers of its own gets torch's default dtype.

    Raises:
        UserError: ``start`` has whole numbers where the process has real ones.
    """
    known: dict[str, Tensor] = {} if start is None else start if isinstance(start, dict) else {"": start}
    whole = discrete_leaves(denoiser.process)  # type: ignore[arg-type]
    for leaf, tensor in known.items():
        if not tensor.is_floating_point() and leaf not in whole:
            raise UserError(f"the state at the start must be of a floating dtype, got {tensor.dtype}")
    for tensor in known.values():
        if tensor.is_floating_point():
            device = next((p.device for p in denoiser.parameters()), tensor.device)
            return torch.empty(0, dtype=tensor.dtype, device=device)
    for tensor in (*denoiser.parameters(), *denoiser.buffers()):
        if tensor.is_floating_point():
            wide = tensor.dtype if tensor.dtype == torch.float64 else torch.float32
            return torch.empty(0, dtype=wide, device=tensor.device)
    return torch.empty(0)
