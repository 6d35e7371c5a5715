"""Processes: how data become noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unstir.lazy import attach

_LAZY = {
    "Process": "base",
    "VP": "affine",
    "VPCosine": "affine",
    "SubVP": "affine",
    "VE": "affine",
    "EDM": "affine",
    "RectifiedFlow": "affine",
    "VPTable": "table",
    "Anchored": "anchored",
    "OUVE": "anchored",
    "MeanReverting": "anchored",
    "SBVE": "anchored",
    "VPLogistic": "schedules",
    "Brownian": "schedules",
    "Bridge": "bridge",
    "DDBMVE": "bridge",
    "DDBMVP": "bridge",
    "Interpolant": "interpolant",
    "RDDM": "residual",
    "Resfusion": "residual",
    "Discrete": "discrete",
    "SymmetricTokens": "discrete",
    "Categorical": "categorical",
    "Blackout": "counts",
    "Thinning": "counts",
    "Cold": "cold",
    "LinearDiffusion": "multivariate",
    "Multivariate": "multivariate",
    "ShortestPath": "multivariate",
    "Joint": "joint",
}
__all__ = list(_LAZY)

if TYPE_CHECKING:
    from unstir.process.affine import EDM as EDM
    from unstir.process.affine import VE as VE
    from unstir.process.affine import VP as VP
    from unstir.process.affine import RectifiedFlow as RectifiedFlow
    from unstir.process.affine import SubVP as SubVP
    from unstir.process.affine import VPCosine as VPCosine
    from unstir.process.anchored import OUVE as OUVE
    from unstir.process.anchored import SBVE as SBVE
    from unstir.process.anchored import Anchored as Anchored
    from unstir.process.anchored import MeanReverting as MeanReverting
    from unstir.process.base import Process as Process
    from unstir.process.bridge import DDBMVE as DDBMVE
    from unstir.process.bridge import DDBMVP as DDBMVP
    from unstir.process.bridge import Bridge as Bridge
    from unstir.process.categorical import Categorical as Categorical
    from unstir.process.cold import Cold as Cold
    from unstir.process.counts import Blackout as Blackout
    from unstir.process.counts import Thinning as Thinning
    from unstir.process.discrete import Discrete as Discrete
    from unstir.process.discrete import SymmetricTokens as SymmetricTokens
    from unstir.process.interpolant import Interpolant as Interpolant
    from unstir.process.joint import Joint as Joint
    from unstir.process.multivariate import LinearDiffusion as LinearDiffusion
    from unstir.process.multivariate import Multivariate as Multivariate
    from unstir.process.multivariate import ShortestPath as ShortestPath
    from unstir.process.residual import RDDM as RDDM
    from unstir.process.residual import Resfusion as Resfusion
    from unstir.process.schedules import Brownian as Brownian
    from unstir.process.schedules import VPLogistic as VPLogistic
    from unstir.process.table import VPTable as VPTable

__getattr__, __dir__ = attach(__name__, _LAZY)
