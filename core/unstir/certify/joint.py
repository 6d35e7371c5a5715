"""An oracle of dict states: independent leaves, each with its own exact denoiser.

p(x) = prod_leaf p_leaf(x_leaf),        D(x, t)[leaf] = D_leaf(x[leaf], t)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unstir.certify.oracles import Oracle
from unstir.denoiser.base import Condition, Denoiser, anchor_of
from unstir.errors import UserError
from unstir.process import Joint, Process


class JointOracle(Denoiser):
    """The exact denoiser of independent leaves.

    Args:
        leaves: the oracle of each leaf, on its own process.
        shared_time: one time for all leaves, or a dict of times.
    """

    def __init__(self, leaves: Mapping[str, Oracle], shared_time: bool = True) -> None:
        process = Joint({leaf: oracle.process for leaf, oracle in leaves.items()}, shared_time)
        super().__init__(process, {leaf: oracle.shape for leaf, oracle in leaves.items()})  # type: ignore[misc]
        self.leaves = torch.nn.ModuleDict(dict(leaves))

    def forward(self, x: Any, t: Any, condition: Condition | None = None) -> dict[str, Tensor]:
        """E[x_0 | x_t = x], leaf by leaf."""
        times, anchors = self.process.times(t), anchor_of(condition) or {}  # type: ignore[attr-defined]
        return {leaf: oracle(x[leaf], times[leaf], {"anchor": anchors.get(leaf)}) for leaf, oracle in self.leaves.items()}

    def log_density(self, x: Any, t: Any, condition: Condition | None = None) -> Tensor:
        """log p(x_t) in nats, one number a sample: the sum over the leaves."""
        times, anchors = self.process.times(t), anchor_of(condition) or {}  # type: ignore[attr-defined]
        parts = [self.leaves[leaf].log_density(x[leaf], times[leaf], {"anchor": anchors.get(leaf)}) for leaf in self.leaves]  # type: ignore[operator]
        return torch.stack(parts).sum(0)

    def with_process(self, process: Process) -> JointOracle:
        """The same laws on another joint process."""
        if not isinstance(process, Joint) or set(process.leaves) != set(self.leaves):
            raise UserError(f"the oracle needs a joint process of the leaves {sorted(self.leaves)}, got {process!r}")
        return JointOracle({leaf: oracle.on(process.leaves[leaf]) for leaf, oracle in self.leaves.items()}, process.shared_time)  # type: ignore[operator,misc]
