"""Training: losses with weights and time samplers, averaged weights, and a trainer that resumes exactly."""

from __future__ import annotations

from unstir.lazy import attach

_LAZY = {
    "DenoisingLoss": "loss",
    "PathLoss": "discrete",
    "VLB": "discrete",
    "nelbo": "discrete",
    "LogUniform": "times",
    "LogNormal": "times",
    "LogitNormal": "times",
    "Uniform": "times",
    "ReverseChain": "variance",
    "VariationalLoss": "variance",
    "ImportanceSampler": "variance",
    "TwoHeads": "variance",
    "bound": "variance",
    "Mixture": "times",
    "EMA": "ema",
    "PowerEMA": "ema",
    "Trainer": "trainer",
    "Schedule": "trainer",
    "Training": "training",
    "DenoiserTraining": "training",
    "Ended": "training",
    "ValidationLog": "training",
}
__all__ = list(_LAZY)

__getattr__, __dir__ = attach(__name__, _LAZY)
