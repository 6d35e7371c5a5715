"""Solvers: how to step from one time to the next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unstir.lazy import attach

_LAZY = {
    "Solver": "base",
    "Row": "base",
    "Levels": "base",
    "Memory": "base",
    "Multistep": "multistep",
    "Singlestep": "singlestep",
    "PLMS": "plms",
    "GradientEstimation": "gradient_estimation",
    "EVODiff": "evodiff",
    "DPMSolverV3": "dpm_v3",
    "Statistics": "dpm_v3",
    "calibrate": "dpm_v3",
    "RK45": "adaptive",
    "DPMAdaptive": "adaptive",
    "DDIM": "ancestral",
    "MultistepSDE": "ancestral",
    "ReverseVariance": "variance",
    "LinearDDIM": "linear",
    "ColdSampler": "linear",
    "Heun": "heun",
    "Reversible": "reversible",
    "ReversibleHeun": "reversible",
    "ReversibleSDE": "reversible",
    "DDIMInversion": "reversible",
    "BDIA": "bdia",
    "EDICT": "edict",
    "NoiseMaps": "noise_maps",
    "Churn": "heun",
    "PredictorCorrector": "corrector",
    "DiscreteSolver": "discrete",
    "DiscreteAncestral": "discrete",
    "TauLeaping": "discrete",
    "FirstHitting": "discrete",
    "S4": "splitting",
    "Split": "splitting",
    "EulerMaruyama": "ancestral",
    "Regional": "regional",
    "VirtualInversion": "consistency",
    "Restart": "restart",
    "TimeTravel": "restart",
    "OnePath": "brownian",
    "BrownianTree": "brownian",
    "TimeShift": "time_shift",
    "PerStep": "per_step",
}
__all__ = list(_LAZY)

if TYPE_CHECKING:
    from unstir.solver.adaptive import RK45 as RK45
    from unstir.solver.adaptive import DPMAdaptive as DPMAdaptive
    from unstir.solver.ancestral import DDIM as DDIM
    from unstir.solver.ancestral import EulerMaruyama as EulerMaruyama
    from unstir.solver.ancestral import MultistepSDE as MultistepSDE
    from unstir.solver.base import Levels as Levels
    from unstir.solver.base import Memory as Memory
    from unstir.solver.base import Row as Row
    from unstir.solver.base import Solver as Solver
    from unstir.solver.bdia import BDIA as BDIA
    from unstir.solver.brownian import BrownianTree as BrownianTree
    from unstir.solver.brownian import OnePath as OnePath
    from unstir.solver.consistency import VirtualInversion as VirtualInversion
    from unstir.solver.corrector import PredictorCorrector as PredictorCorrector
    from unstir.solver.discrete import DiscreteAncestral as DiscreteAncestral
    from unstir.solver.discrete import DiscreteSolver as DiscreteSolver
    from unstir.solver.discrete import FirstHitting as FirstHitting
    from unstir.solver.discrete import TauLeaping as TauLeaping
    from unstir.solver.dpm_v3 import DPMSolverV3 as DPMSolverV3
    from unstir.solver.dpm_v3 import Statistics as Statistics
    from unstir.solver.dpm_v3 import calibrate as calibrate
    from unstir.solver.edict import EDICT as EDICT
    from unstir.solver.evodiff import EVODiff as EVODiff
    from unstir.solver.gradient_estimation import GradientEstimation as GradientEstimation
    from unstir.solver.heun import Churn as Churn
    from unstir.solver.heun import Heun as Heun
    from unstir.solver.linear import ColdSampler as ColdSampler
    from unstir.solver.linear import LinearDDIM as LinearDDIM
    from unstir.solver.multistep import Multistep as Multistep
    from unstir.solver.noise_maps import NoiseMaps as NoiseMaps
    from unstir.solver.per_step import PerStep as PerStep
    from unstir.solver.plms import PLMS as PLMS
    from unstir.solver.regional import Regional as Regional
    from unstir.solver.restart import Restart as Restart
    from unstir.solver.restart import TimeTravel as TimeTravel
    from unstir.solver.reversible import DDIMInversion as DDIMInversion
    from unstir.solver.reversible import Reversible as Reversible
    from unstir.solver.reversible import ReversibleHeun as ReversibleHeun
    from unstir.solver.reversible import ReversibleSDE as ReversibleSDE
    from unstir.solver.singlestep import Singlestep as Singlestep
    from unstir.solver.splitting import S4 as S4
    from unstir.solver.splitting import Split as Split
    from unstir.solver.time_shift import TimeShift as TimeShift
    from unstir.solver.variance import ReverseVariance as ReverseVariance

__getattr__, __dir__ = attach(__name__, _LAZY)
