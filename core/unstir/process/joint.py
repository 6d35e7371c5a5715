"""Several processes side by side, one a leaf of a dict state.

    x = {leaf: x_leaf},   x_leaf at time t = alpha_leaf(t) x0_leaf + beta_leaf(t) y_leaf + sigma_leaf(t) eps_leaf

Times are shared (one t for all leaves) or separate (a dict of times).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from unstir.errors import UserError
from unstir.process.base import Process


@dataclass(frozen=True)
class Joint(Process):
    """A process a leaf of a dict state; every function of time returns a dict.

    Args:
        leaves: the process of each leaf; with a shared time grids in sigma/alpha are made on the first.
        shared_time: one time for all leaves (all must then end at the same ``t_max``), or a dict of times ``{leaf: t}``.

    Raises:
        UserError: no leaf, or a shared time whose end differs between leaves.
    """

    leaves: Mapping[str, Process]
    shared_time: bool = True

    def __post_init__(self) -> None:
        if not self.leaves:
            raise UserError("a joint process needs at least one leaf")
        ends = {leaf: process.t_max for leaf, process in self.leaves.items()}
        if self.shared_time and len(set(ends.values())) > 1:
            raise UserError(f"leaves that share a time must end at one t_max, got {ends}; give shared_time=False or one t_max")

    def __hash__(self) -> int:
        return hash((tuple(self.leaves.items()), self.shared_time))

    @property
    def t_min(self) -> float:  # type: ignore[override]
        """The latest ``t_min`` of the leaves."""
        return max(process.t_min for process in self.leaves.values())

    @property
    def t_max(self) -> float:  # type: ignore[override]
        """The ``t_max`` of the first leaf (of all leaves, when the time is shared)."""
        return self.clock.t_max

    @property
    def t_zero(self) -> float:
        """The time at which sigma is 0 in every leaf."""
        return min(process.t_zero for process in self.leaves.values())

    @property
    def anchored(self) -> bool:  # type: ignore[override]
        """Whether any leaf has an anchor."""
        return any(process.anchored for process in self.leaves.values())

    @property
    def discrete(self) -> bool:  # type: ignore[override]
        """Whether every leaf is of whole numbers."""
        return all(process.discrete for process in self.leaves.values())

    @property
    def clock(self) -> Process:
        """The process of the first leaf."""
        return next(iter(self.leaves.values()))

    def times(self, t: Any) -> dict[str, Any]:
        """The time of each leaf: ``t`` itself where it is a dict, else ``t`` for all."""
        if isinstance(t, Mapping):
            if set(t) != set(self.leaves):
                raise UserError(f"times are given for {sorted(t)}, and the leaves are {sorted(self.leaves)}")
            return dict(t)
        if not self.shared_time:
            raise UserError(f"the leaves have separate times: give a dict of times for {sorted(self.leaves)}")
        return dict.fromkeys(self.leaves, t)

    def each(self, verb: Callable[[Process, Any], Any], t: Any) -> dict[str, Any]:
        """``verb(process, t)`` of every leaf."""
        times = self.times(t)
        return {leaf: verb(process, times[leaf]) for leaf, process in self.leaves.items()}

    def alpha(self, t: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """alpha of each leaf."""
        return self.each(lambda process, s: process.alpha(s), t)

    def beta(self, t: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """beta of each leaf."""
        return self.each(lambda process, s: process.beta(s), t)

    def sigma(self, t: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """sigma of each leaf."""
        return self.each(lambda process, s: process.sigma(s), t)

    def rho(self, t: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """sigma/alpha of each leaf."""
        return self.each(lambda process, s: process.rho(s), t)

    def log_snr(self, t: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """log(alpha^2/sigma^2) of each leaf."""
        return self.each(lambda process, s: process.log_snr(s), t)

    def rate(self, t: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """f of each leaf."""
        return self.each(lambda process, s: process.rate(s), t)

    def pull(self, t: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """beta' - f beta of each leaf."""
        return self.each(lambda process, s: process.pull(s), t)

    def diffusion(self, t: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """g of each leaf."""
        return self.each(lambda process, s: process.diffusion(s), t)

    def label(self, t: Any) -> dict[str, Tensor]:  # type: ignore[override]
        """What the network is told about each leaf."""
        return self.each(lambda process, s: process.label(s), t)

    def time_at_rho(self, rho: Any) -> Any:
        """The time of a noise level: of the first leaf for a number (shared time), of each leaf for a dict (separate times)."""
        if isinstance(rho, Mapping):
            return {leaf: process.time_at_rho(rho[leaf]) for leaf, process in self.leaves.items()}
        if not self.shared_time:
            raise UserError(f"the leaves have separate times: give a dict of noise levels for {sorted(self.leaves)}")
        return self.clock.time_at_rho(rho)

    def drift(self, x: Any, t: Any, anchor: Any = None) -> dict[str, Tensor]:  # type: ignore[override]
        """The drift of each leaf; ``x`` and ``anchor`` are dicts."""
        anchors = anchor or {}
        return self.zip(lambda process, leaf, s: process.drift(x[leaf], s, anchors.get(leaf)), t)

    def prior(self, anchor: Any = None, t: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Means and standard deviations, two dicts; ``anchor`` is a dict."""
        anchors, starts = anchor or {}, self.times(t) if t is not None else {leaf: p.t_max for leaf, p in self.leaves.items()}
        laws = {leaf: process.prior(anchors.get(leaf), starts[leaf]) for leaf, process in self.leaves.items()}
        return {leaf: law[0] for leaf, law in laws.items()}, {leaf: law[1] for leaf, law in laws.items()}

    def perturb(self, x0: Any, t: Any, noise: Any, anchor: Any = None) -> dict[str, Tensor]:
        """x_t of each leaf; ``x0``, ``noise`` and ``anchor`` are dicts."""
        anchors = anchor or {}
        return self.zip(lambda process, leaf, s: process.perturb(x0[leaf], s, noise[leaf], anchors.get(leaf)), t)

    def zip(self, verb: Callable[[Process, str, Any], Tensor], t: Any) -> dict[str, Tensor]:
        """``verb(process, leaf, t)`` of every leaf."""
        times = self.times(t)
        return {leaf: verb(process, leaf, times[leaf]) for leaf, process in self.leaves.items()}
