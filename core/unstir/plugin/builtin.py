"""The core's own parts, registered by the hooks that every plugin uses."""

from __future__ import annotations

import functools
from typing import Any

from unstir import names
from unstir.plugin.markers import hookimpl

UNSTIR_API = 1


@hookimpl
def unstir_networks() -> dict[str, str]:
    """The networks of ``unstir.nn``."""
    return {"unet": "unstir.nn.unet:UNet", "mlp": "unstir.nn.mlp:MLP", "dit": "unstir.nn.dit:DiT"}


@hookimpl
def unstir_processes() -> dict[str, str]:
    """The processes of ``unstir.process``."""
    return {
        "vp": "unstir.process.affine:VP",
        "vp-cosine": "unstir.process.affine:VPCosine",
        "vp-table": "unstir.process.table:VPTable",
        "sub-vp": "unstir.process.affine:SubVP",
        "ve": "unstir.process.affine:VE",
        "edm": "unstir.process.affine:EDM",
        "rectified-flow": "unstir.process.affine:RectifiedFlow",
        "ouve": "unstir.process.anchored:OUVE",
        "mean-reverting": "unstir.process.anchored:MeanReverting",
        "sb-ve": "unstir.process.anchored:SBVE",
        "alpha-blending": "unstir.process.affine:RectifiedFlow",
        "vp-logistic": "unstir.process.schedules:VPLogistic",
        "brownian": "unstir.process.schedules:Brownian",
        "ddbm-ve": "unstir.process.bridge:DDBMVE",
        "ddbm-vp": "unstir.process.bridge:DDBMVP",
        "interpolant": "unstir.process.interpolant:Interpolant",
        "rddm": "unstir.process.residual:RDDM",
        "resfusion": "unstir.process.residual:Resfusion",
        "categorical": "unstir.process.categorical:Categorical",
        "blackout": "unstir.process.counts:Blackout",
        "thinning": "unstir.process.counts:Thinning",
        "shortest-path": "unstir.process.multivariate:ShortestPath",
        "linear-diffusion": "unstir.process.multivariate:LinearDiffusion",
        "cold": "unstir.process.cold:Cold",
        "joint": "unstir.process.joint:Joint",
    }


@hookimpl
def unstir_solvers() -> dict[str, str]:
    """The solvers of ``unstir.solver``, and the published ones that are these with certain options."""
    classes = {
        "multistep": "unstir.solver.multistep:Multistep",
        "singlestep": "unstir.solver.singlestep:Singlestep",
        "plms": "unstir.solver.plms:PLMS",
        "gradient-estimation": "unstir.solver.gradient_estimation:GradientEstimation",
        "evodiff": "unstir.solver.evodiff:EVODiff",
        "dpm-v3": "unstir.solver.dpm_v3:DPMSolverV3",
        "rk45": "unstir.solver.adaptive:RK45",
        "dpm-12": "unstir.solver.adaptive:DPMAdaptive",
        "ddim": "unstir.solver.ancestral:DDIM",
        "linear-ddim": "unstir.solver.linear:LinearDDIM",
        "cold": "unstir.solver.linear:ColdSampler",
        "dpm++2m-sde": "unstir.solver.ancestral:MultistepSDE",
        "heun": "unstir.solver.heun:Heun",
        "churn": "unstir.solver.heun:Churn",
        "pc": "unstir.solver.corrector:PredictorCorrector",
        "decoupled": "unstir.posterior.daps:Decoupled",
        "euler-maruyama": "unstir.solver.ancestral:EulerMaruyama",
        "reverse-variance": "unstir.solver.variance:ReverseVariance",
        "regional": "unstir.solver.regional:Regional",
        "virtual-inversion": "unstir.solver.consistency:VirtualInversion",
        "restart": "unstir.solver.restart:Restart",
        "time-travel": "unstir.solver.restart:TimeTravel",
        "one-path": "unstir.solver.brownian:OnePath",
        "time-shift": "unstir.solver.time_shift:TimeShift",
        "per-step": "unstir.solver.per_step:PerStep",
        "bdia": "unstir.solver.bdia:BDIA",
        "edict": "unstir.solver.edict:EDICT",
        "reversible-heun": "unstir.solver.reversible:ReversibleHeun",
        "reversible-sde": "unstir.solver.reversible:ReversibleSDE",
        "ddim-inversion": "unstir.solver.reversible:DDIMInversion",
        "dpm-encoder": "unstir.solver.noise_maps:NoiseMaps",
        "discrete-ancestral": "unstir.solver.discrete:DiscreteAncestral",
        "tau-leaping": "unstir.solver.discrete:TauLeaping",
        "first-hitting": "unstir.solver.discrete:FirstHitting",
        "s4": "unstir.solver.splitting:S4",
        "split": "unstir.solver.splitting:Split",
    }
    return classes | {name: f"{__name__}:{_attribute(name)}" for name in names.known("solver") if name not in classes}


@hookimpl
def unstir_guides() -> dict[str, str]:
    """The guides of ``unstir.guide``."""
    return {
        "reuse": "unstir.denoiser.tokens:Reuse",
        "cfg": "unstir.guide.cfg:CFG",
        "density": "unstir.guide.density:DensityControl",
        "dps": "unstir.guide.dps:DPS",
        "regions": "unstir.guide.regions:Regions",
        "proximal-data": "unstir.guide.proximal:ProximalData",
        "ddnm": "unstir.guide.proximal:DDNM",
        "known-covariance": "unstir.guide.covariance:KnownCovariance",
        "pigdm": "unstir.guide.pigdm:PiGDM",
        "mmps": "unstir.guide.mmps:MMPS",
        "tmpd": "unstir.guide.mmps:TMPD",
        "blind": "unstir.guide.blind:Blind",
        "cfg++": "unstir.guide.cfg:CFGPlusPlus",
        "adaptive": "unstir.guide.adaptive:AdaptiveGuidance",
        "linear-ag": "unstir.guide.adaptive:LinearAG",
        "autoguidance": "unstir.guide.auto:Autoguidance",
        "blur": "unstir.guide.blur:BlurGuidance",
        "classifier": "unstir.guide.classifier:ClassifierGuidance",
        "dynamic": "unstir.guide.classifier:DynamicGuidance",
        "semantic": "unstir.guide.classifier:SemanticGuidance",
        "product": "unstir.guide.fusion:Product",
        "unite-and-conquer": "unstir.guide.fusion:UniteAndConquer",
        "afa": "unstir.guide.fusion:AFA",
        "guide-and-rescale": "unstir.guide.rescale:GuideAndRescale",
        "loss": "unstir.guide.loss:LossGuidance",
        "event": "unstir.guide.event:EventGuidance",
        "self-minority": "unstir.guide.minority:SelfMinority",
    }


@hookimpl
def unstir_steers() -> dict[str, str]:
    """The steers of ``unstir.steer``."""
    return {
        "direct-inversion": "unstir.steer.editing:DirectInversion",
        "eta-noise": "unstir.steer.editing:EtaNoise",
        "density-noise": "unstir.guide.density:DensityNoise",
        "constraint": "unstir.steer.constraint:Constraint",
        "enforced": "unstir.steer.constraint:Enforced",
        "one-way": "unstir.steer.known:OneWay",
        "value": "unstir.guide.value:ValueGuidance",
        "policy": "unstir.guide.value:PolicyGuidance",
        "token-guidance": "unstir.guide.tokens:TokenGuidance",
        "event-probability": "unstir.guide.event:EventProbability",
        "scaled-noise": "unstir.steer.temperature:ScaledNoise",
        "annealed": "unstir.steer.temperature:Annealed",
        "match-marginal": "unstir.steer.marginal:MatchMarginal",
        "diverse": "unstir.steer.diverse:Diverse",
        "data-consistency": "unstir.steer.consistency:DataConsistency",
        "projection": "unstir.steer.projection:Projection",
        "ddrm": "unstir.steer.ddrm:DDRM",
        "ensemble-kalman": "unstir.steer.ensemble:EnsembleKalman",
        "red-diff": "unstir.posterior.reddiff:REDDiff",
        "daps": "unstir.posterior.daps:DAPS",
        "active-subsampling": "unstir.posterior.active:ActiveSubsampling",
        "admm-tv": "unstir.steer.admm:AdmmTV",
        "fk": "unstir.steer.fk:FK",
        "svdd": "unstir.steer.svdd:SVDD",
        "tds": "unstir.steer.tds:TDS",
        "tilt": "unstir.steer.tilt:Tilt",
        "tilted-cfg": "unstir.steer.tilt:TiltedCFG",
        "ratio-filter": "unstir.steer.filter:RatioFilter",
        "mcgdiff": "unstir.steer.mcgdiff:MCGdiff",
        "fps": "unstir.steer.mcgdiff:FPS",
        "on-leaf": "unstir.steer.base:OnLeaf",
        "annealed-mcmc": "unstir.steer.langevin:AnnealedMCMC",
    }


@hookimpl
def unstir_operators() -> dict[str, str]:
    """The operators of ``unstir.operator``."""
    return {
        "identity": "unstir.operator.linear:Identity",
        "dense": "unstir.operator.linear:Dense",
        "diagonal": "unstir.operator.linear:Diagonal",
        "mask": "unstir.operator.linear:Mask",
        "sparse-matrix": "unstir.operator.sparse:SparseMatrix",
        "slice-wise": "unstir.operator.linear:SliceWise",
        "stack": "unstir.operator.linear:Stack",
        "compose": "unstir.operator.linear:Compose",
        "gradient": "unstir.operator.tv:Gradient",
        "convolution": "unstir.operator.convolution:Convolution",
        "gaussian-blur": "unstir.operator.convolution:GaussianBlur",
        "pad": "unstir.operator.resample:Pad",
        "average-pool": "unstir.operator.resample:AveragePool",
        "downsample": "unstir.operator.resample:Downsample",
        "fourier": "unstir.operator.fourier:Fourier",
        "nonlinear": "unstir.operator.nonlinear:Nonlinear",
        "magnitude": "unstir.operator.nonlinear:Magnitude",
        "saturation": "unstir.operator.nonlinear:Saturation",
    }


def _attribute(name: str) -> str:
    return "preset_" + name.replace("+", "p").replace("-", "_")


def __getattr__(attribute: str) -> Any:
    """``preset_dpmpp2m``: makes the solver that ``"dpm++2m"`` stands for."""
    for name in names.known("solver"):
        if _attribute(name) == attribute:
            return functools.partial(names.solver, name)
    raise AttributeError(f"module {__name__!r} has no attribute {attribute!r}")
