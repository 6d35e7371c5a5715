"""Starts: better first states than noise at the end of the process; each gives ``start=(state, t)`` for :func:`unstir.sample`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unstir.lazy import attach

_LAZY = {
    "Gaussian": "teleport",
    "teleported": "teleport",
    "score_error": "teleport",
    "leaked": "leak",
    "Boundary": "boundary",
    "optimal_boundary": "boundary",
    "SemiDiscrete": "transport",
    "langevin_chain": "langevin",
    "Chain": "chain",
    "denoising_mcmc": "chain",
    "finish": "chain",
}
__all__ = list(_LAZY)

if TYPE_CHECKING:
    from unstir.starts.boundary import Boundary as Boundary
    from unstir.starts.boundary import optimal_boundary as optimal_boundary
    from unstir.starts.chain import Chain as Chain
    from unstir.starts.chain import denoising_mcmc as denoising_mcmc
    from unstir.starts.chain import finish as finish
    from unstir.starts.langevin import langevin_chain as langevin_chain
    from unstir.starts.leak import leaked as leaked
    from unstir.starts.teleport import Gaussian as Gaussian
    from unstir.starts.teleport import score_error as score_error
    from unstir.starts.teleport import teleported as teleported
    from unstir.starts.transport import SemiDiscrete as SemiDiscrete

__getattr__, __dir__ = attach(__name__, _LAZY)
