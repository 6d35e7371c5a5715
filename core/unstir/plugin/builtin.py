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
        "joint": "unstir.process.joint:Joint",
    }


@hookimpl
def unstir_solvers() -> dict[str, str]:
    """The solvers of ``unstir.solver``, and the published ones that are these with certain options."""
    classes = {
        "multistep": "unstir.solver.multistep:Multistep",
        "ddim": "unstir.solver.ancestral:DDIM",
        "dpm++2m-sde": "unstir.solver.ancestral:MultistepSDE",
        "heun": "unstir.solver.heun:Heun",
        "churn": "unstir.solver.heun:Churn",
        "pc": "unstir.solver.corrector:PredictorCorrector",
    }
    return classes | {name: f"{__name__}:{_attribute(name)}" for name in names.known("solver") if name not in classes}


@hookimpl
def unstir_guides() -> dict[str, str]:
    """The guides of ``unstir.guide``."""
    return {"cfg": "unstir.guide.cfg:CFG", "dps": "unstir.guide.dps:DPS", "proximal-data": "unstir.guide.proximal:ProximalData"}


@hookimpl
def unstir_steers() -> dict[str, str]:
    """The steers of ``unstir.steer``."""
    return {
        "constraint": "unstir.steer.constraint:Constraint",
        "data-consistency": "unstir.steer.consistency:DataConsistency",
        "admm-tv": "unstir.steer.admm:AdmmTV",
        "on-leaf": "unstir.steer.base:OnLeaf",
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
    }


def _attribute(name: str) -> str:
    return "preset_" + name.replace("+", "p").replace("-", "_")


def __getattr__(attribute: str) -> Any:
    """``preset_dpmpp2m``: makes the solver that ``"dpm++2m"`` stands for."""
    for name in names.known("solver"):
        if _attribute(name) == attribute:
            return functools.partial(names.solver, name)
    raise AttributeError(f"module {__name__!r} has no attribute {attribute!r}")
