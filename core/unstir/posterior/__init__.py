"""Methods for measurements that are more than a guide or a steer: variational, decoupled, active and self-supervised ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unstir.lazy import attach

_LAZY = {
    "ActiveSubsampling": "active",
    "DAPS": "daps",
    "Decoupled": "daps",
    "MeasurementLoss": "selfsupervised",
    "REDDiff": "reddiff",
    "Tweedie": "tweedie",
    "difface": "diffface",
    "mixture_entropy": "active",
    "power_law": "tweedie",
    "power_mean": "tweedie",
}
__all__ = list(_LAZY)

if TYPE_CHECKING:
    from unstir.posterior.active import ActiveSubsampling as ActiveSubsampling
    from unstir.posterior.active import mixture_entropy as mixture_entropy
    from unstir.posterior.daps import DAPS as DAPS
    from unstir.posterior.daps import Decoupled as Decoupled
    from unstir.posterior.diffface import difface as difface
    from unstir.posterior.reddiff import REDDiff as REDDiff
    from unstir.posterior.selfsupervised import MeasurementLoss as MeasurementLoss
    from unstir.posterior.tweedie import Tweedie as Tweedie
    from unstir.posterior.tweedie import power_law as power_law
    from unstir.posterior.tweedie import power_mean as power_mean

__getattr__, __dir__ = attach(__name__, _LAZY)
