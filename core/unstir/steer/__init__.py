"""Steers: where a state may go after a step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unstir.lazy import attach

_LAZY = {
    "Moment": "base",
    "OnLeaf": "base",
    "Steer": "base",
    "Constraint": "constraint",
    "DirectInversion": "editing",
    "EtaNoise": "editing",
    "DataConsistency": "consistency",
    "Projection": "projection",
    "DDRM": "ddrm",
    "EnsembleKalman": "ensemble",
    "AdmmTV": "admm",
    "FK": "fk",
    "SVDD": "svdd",
    "TDS": "tds",
    "Tilt": "tilt",
    "TiltedCFG": "tilt",
    "ParticleSteer": "particles",
    "RatioFilter": "filter",
    "DensityRatio": "filter",
    "fit_ratio": "filter",
    "MCGdiff": "mcgdiff",
    "FPS": "mcgdiff",
    "AnnealedMCMC": "langevin",
    "Enforced": "constraint",
    "Diverse": "diverse",
    "farthest_points": "diverse",
    "OneWay": "known",
    "MatchMarginal": "marginal",
    "Annealed": "temperature",
    "ScaledNoise": "temperature",
}
__all__ = list(_LAZY)

if TYPE_CHECKING:
    from unstir.steer.admm import AdmmTV as AdmmTV
    from unstir.steer.base import Moment as Moment
    from unstir.steer.base import OnLeaf as OnLeaf
    from unstir.steer.base import Steer as Steer
    from unstir.steer.consistency import DataConsistency as DataConsistency
    from unstir.steer.constraint import Constraint as Constraint
    from unstir.steer.constraint import Enforced as Enforced
    from unstir.steer.ddrm import DDRM as DDRM
    from unstir.steer.diverse import Diverse as Diverse
    from unstir.steer.diverse import farthest_points as farthest_points
    from unstir.steer.editing import DirectInversion as DirectInversion
    from unstir.steer.editing import EtaNoise as EtaNoise
    from unstir.steer.ensemble import EnsembleKalman as EnsembleKalman
    from unstir.steer.filter import DensityRatio as DensityRatio
    from unstir.steer.filter import RatioFilter as RatioFilter
    from unstir.steer.filter import fit_ratio as fit_ratio
    from unstir.steer.fk import FK as FK
    from unstir.steer.known import OneWay as OneWay
    from unstir.steer.langevin import AnnealedMCMC as AnnealedMCMC
    from unstir.steer.marginal import MatchMarginal as MatchMarginal
    from unstir.steer.mcgdiff import FPS as FPS
    from unstir.steer.mcgdiff import MCGdiff as MCGdiff
    from unstir.steer.particles import ParticleSteer as ParticleSteer
    from unstir.steer.projection import Projection as Projection
    from unstir.steer.svdd import SVDD as SVDD
    from unstir.steer.tds import TDS as TDS
    from unstir.steer.temperature import Annealed as Annealed
    from unstir.steer.temperature import ScaledNoise as ScaledNoise
    from unstir.steer.tilt import Tilt as Tilt
    from unstir.steer.tilt import TiltedCFG as TiltedCFG

__getattr__, __dir__ = attach(__name__, _LAZY)
