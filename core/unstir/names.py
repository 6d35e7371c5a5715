"""Short names for solvers, grids and processes: ``"dpm++2m"``, ``"ddim:eta=0.85,temperature=0"``, ``"karras:20,sigma_max=80"``.

    name[:option,option,...],      option = value (in the order of the class's fields) or key=value

An object passes through; an unknown name lists the nearest three; names that plugins registered come from the registry.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from unstir.errors import UnknownName, UserError, nearest

# name -> (module:class, options that the name stands for)
_SOLVERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("unstir.solver.ancestral:DDIM", {}),
    "ancestral": ("unstir.solver.ancestral:DDIM", {"eta": 1.0}),
    "ddpm": ("unstir.solver.ancestral:DDIM", {"eta": 1.0}),
    "linear-ddim": ("unstir.solver.linear:LinearDDIM", {}),
    "cold": ("unstir.solver.linear:ColdSampler", {}),
    "dpm++2m-sde": ("unstir.solver.ancestral:MultistepSDE", {}),
    "consistency": ("unstir.solver.ancestral:DDIM", {"eta": 1.0, "kind": "dds"}),
    "euler-maruyama": ("unstir.solver.ancestral:EulerMaruyama", {}),
    "regional": ("unstir.solver.regional:Regional", {}),
    "virtual-inversion": ("unstir.solver.consistency:VirtualInversion", {}),
    "restart": ("unstir.solver.restart:Restart", {}),
    "time-travel": ("unstir.solver.restart:TimeTravel", {}),
    "one-path": ("unstir.solver.brownian:OnePath", {}),
    "heun": ("unstir.solver.heun:Heun", {}),
    "reverse-variance": ("unstir.solver.variance:ReverseVariance", {}),
    "ddpm-large": ("unstir.solver.variance:ReverseVariance", {"fraction": 1.0}),
    "churn": ("unstir.solver.heun:Churn", {}),
    "pc": ("unstir.solver.corrector:PredictorCorrector", {}),
    "bdia": ("unstir.solver.bdia:BDIA", {}),
    "bdia-published": ("unstir.solver.bdia:BDIA", {"scale": None}),
    "edict": ("unstir.solver.edict:EDICT", {}),
    "edict-published": ("unstir.solver.edict:EDICT", {"mix": 0.93, "output": "eps"}),
    "reversible-heun": ("unstir.solver.reversible:ReversibleHeun", {}),
    "reversible-sde": ("unstir.solver.reversible:ReversibleSDE", {}),
    "ddim-inversion": ("unstir.solver.reversible:DDIMInversion", {}),
    "dpm-encoder": ("unstir.solver.noise_maps:NoiseMaps", {}),
    "multistep": ("unstir.solver.multistep:Multistep", {}),
    "dpm++2m": ("unstir.solver.multistep:Multistep", {"start_up": "none", "variant": "midpoint"}),
    "dpm++2m-exact": ("unstir.solver.multistep:Multistep", {"start_up": "none"}),
    "dpm++3m": ("unstir.solver.multistep:Multistep", {"predictor": 3}),
    "dpm++3m-published": ("unstir.solver.multistep:Multistep", {"predictor": 3, "start_up": "none", "variant": "published"}),
    "dpm-solver-2m": ("unstir.solver.multistep:Multistep", {"output": "eps", "start_up": "none", "variant": "midpoint"}),
    "dpm-solver-3m": (
        "unstir.solver.multistep:Multistep",
        {"output": "eps", "predictor": 3, "start_up": "none", "variant": "published"},
    ),
    "deis2": ("unstir.solver.multistep:Multistep", {"output": "eps", "start_up": "none"}),
    "deis3": ("unstir.solver.multistep:Multistep", {"output": "eps", "predictor": 3}),
    "tab3": ("unstir.solver.multistep:Multistep", {"output": "eps", "variable": "t", "predictor": 3}),
    "lms2": ("unstir.solver.multistep:Multistep", {"output": "eps", "variable": "rho"}),
    "lms4": ("unstir.solver.multistep:Multistep", {"output": "eps", "variable": "rho", "predictor": 4, "start_up": "full"}),
    "trig3": ("unstir.solver.multistep:Multistep", {"output": "F", "variable": "theta", "predictor": 3}),
    "unipc2": ("unstir.solver.multistep:Multistep", {"corrector": 3}),
    "f3": ("unstir.solver.multistep:Multistep", {"output": "F", "predictor": 3}),
    "f4": ("unstir.solver.multistep:Multistep", {"output": "F", "predictor": 4, "start_up": "full"}),
    "logistic3": ("unstir.solver.multistep:Multistep", {"output": "F", "variable": "logistic", "predictor": 3}),
    "logistic4": ("unstir.solver.multistep:Multistep", {"output": "F", "variable": "logistic", "predictor": 4, "start_up": "full"}),
    "unipc3": ("unstir.solver.multistep:Multistep", {"predictor": 3, "corrector": 4, "start_up": "full"}),
    "unipc2-bh1": ("unstir.solver.multistep:Multistep", {"corrector": 3, "start_up": "none", "variant": "bh1"}),
    "unipc2-bh2": ("unstir.solver.multistep:Multistep", {"corrector": 3, "start_up": "none", "variant": "bh2"}),
    "vab2": ("unstir.solver.multistep:Multistep", {"output": "v", "variable": "logistic", "power": 1.0, "scale": 1.0, "start_up": "none"}),
    "vab3": ("unstir.solver.multistep:Multistep", {"output": "v", "variable": "logistic", "power": 1.0, "scale": 1.0, "predictor": 3}),
    "reab2": ("unstir.solver.multistep:Multistep", {"output": "F", "scale": 1.0, "start_up": "none"}),
    "dpm++4m": ("unstir.solver.multistep:Multistep", {"predictor": 4, "start_up": "full"}),
    "deis4": ("unstir.solver.multistep:Multistep", {"output": "eps", "predictor": 4, "start_up": "full"}),
    "lms3": ("unstir.solver.multistep:Multistep", {"output": "eps", "variable": "rho", "predictor": 3}),
    "singlestep": ("unstir.solver.singlestep:Singlestep", {}),
    "dpm-solver-2s": ("unstir.solver.singlestep:Singlestep", {"output": "eps"}),
    "dpm-solver-3s": ("unstir.solver.singlestep:Singlestep", {"output": "eps", "stages": 3}),
    "dpm++2s": ("unstir.solver.singlestep:Singlestep", {}),
    "dpm++3s": ("unstir.solver.singlestep:Singlestep", {"stages": 3}),
    "plms": ("unstir.solver.plms:PLMS", {}),
    "gradient-estimation": ("unstir.solver.gradient_estimation:GradientEstimation", {}),
    "evodiff": ("unstir.solver.evodiff:EVODiff", {}),
    "dpm-v3": ("unstir.solver.dpm_v3:DPMSolverV3", {}),
    "rk45": ("unstir.solver.adaptive:RK45", {}),
    "dpm-12": ("unstir.solver.adaptive:DPMAdaptive", {}),
    "dpm-23": ("unstir.solver.adaptive:DPMAdaptive", {"stages": 3}),
}
_GRIDS: dict[str, tuple[str, dict[str, Any]]] = {
    "karras": ("unstir.grid:Karras", {}),
    "log-snr": ("unstir.grid:LogSNR", {}),
    "logsnr": ("unstir.grid:LogSNR", {}),
    "logistic": ("unstir.grid:Logistic", {}),
    "uniform": ("unstir.grid:Uniform", {}),
    "quadratic": ("unstir.grid:Quadratic", {}),
    "beta": ("unstir.grid:Beta", {}),
    "native": ("unstir.grid:Native", {}),
    "times": ("unstir.grid:Times", {}),
}
_PROCESSES: dict[str, tuple[str, dict[str, Any]]] = {
    "vp": ("unstir.process:VP", {}),
    "vp-cosine": ("unstir.process:VPCosine", {}),
    "vp-table": ("unstir.process:VPTable", {}),
    "sub-vp": ("unstir.process:SubVP", {}),
    "ve": ("unstir.process:VE", {}),
    "edm": ("unstir.process:EDM", {}),
    "rectified-flow": ("unstir.process:RectifiedFlow", {}),
    "ouve": ("unstir.process:OUVE", {}),
    "mean-reverting": ("unstir.process:MeanReverting", {}),
    "shortest-path": ("unstir.process:ShortestPath", {}),
    "linear-diffusion": ("unstir.process:LinearDiffusion", {}),
    "cold": ("unstir.process:Cold", {}),
    "sb-ve": ("unstir.process:SBVE", {}),
    "alpha-blending": ("unstir.process:RectifiedFlow", {}),
    "vp-logistic": ("unstir.process:VPLogistic", {}),
    "brownian": ("unstir.process:Brownian", {}),
    "ddbm-ve": ("unstir.process:DDBMVE", {}),
    "ddbm-vp": ("unstir.process:DDBMVP", {}),
    "interpolant": ("unstir.process:Interpolant", {}),
    "rddm": ("unstir.process:RDDM", {}),
    "resfusion": ("unstir.process:Resfusion", {}),
}
_KINDS = {"solver": _SOLVERS, "grid": _GRIDS, "process": _PROCESSES}


def solver(value: Any) -> Any:
    """A solver from its short name; a solver passes through.

    Args:
        value: ``"dpm++2m"``, ``"ddim:eta=0.85"``, the name of a registered solver, or a solver.

    Returns:
        The solver.

    Raises:
        UnknownName: there is no such solver; lists the nearest three.
        UserError: an option is unknown or out of range.
    """
    return make("solver", value)


def grid(value: Any) -> Any:
    """A grid from its short name; a grid passes through, a sequence of numbers becomes the grid of these times.

    Args:
        value: ``"karras:20"``, ``"uniform:50,to_zero=false"``, ``"times:1,0.5,0"``, times, or a grid.

    Returns:
        The grid.

    Raises:
        UnknownName: there is no such grid; lists the nearest three.
        UserError: an option is unknown or out of range.
    """
    if isinstance(value, (list, tuple)):
        return importlib.import_module("unstir.grid").Times(tuple(value))
    return make("grid", value)


def process(value: Any) -> Any:
    """A process from its short name; a process passes through.

    Args:
        value: ``"vp"``, ``"edm:sigma_max=20"``, or a process.

    Returns:
        The process.

    Raises:
        UnknownName: there is no such process; lists the nearest three.
        UserError: an option is unknown or out of range.
    """
    return make("process", value)


def known(kind: str) -> dict[str, str]:
    """The short names of a kind (``"solver"``, ``"grid"``, ``"process"``), each with what it stands for, as typed; imports nothing."""
    return {name: _typed(target, preset) for name, (target, preset) in _KINDS[kind].items()}


def stands_for(kind: str, name: str) -> tuple[str, dict[str, Any]] | None:
    """What a short name stands for, as ``("module:Class", options)``; ``None`` where the core has no such name; imports nothing."""
    found = _KINDS.get(kind, {}).get(name)
    return None if found is None else (found[0], dict(found[1]))


def make(kind: str, value: Any) -> Any:
    """The object a short name of a kind stands for; anything but a string must already be one.

    Raises:
        UnknownName: there is no such name.
        UserError: the object is of another kind, or an option does not fit.
    """
    if not isinstance(value, str):
        base = getattr(importlib.import_module(f"unstir.{kind}"), kind.capitalize())
        if not isinstance(value, base):
            raise UserError(f"a {kind} is a short name such as {next(iter(_KINDS[kind]))!r} or an object of {base.__name__}, got {value!r}")
        return value
    return _core(kind, value) if value.partition(":")[0].strip() in _KINDS[kind] else _parsed(kind, value)


def _parsed(kind: str, value: str) -> Any:
    name, _, text = value.strip().partition(":")
    factory = _factory(kind, name.strip())
    positional, options = _options(text, value)
    if getattr(factory, "func", factory).__name__ == "Times" and kind == "grid":
        positional = [tuple(positional)]
    allowed = inspect.signature(factory).parameters
    for key in options:
        if key not in allowed:
            close = nearest(key, allowed, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"it takes {', '.join(allowed) or 'none'}"
            raise UserError(f"{kind} {name.strip()!r} has no option {key!r}; {hint} (in {value!r})")
    try:
        return factory(*positional, **options)
    except TypeError as error:
        raise UserError(f"{value!r} does not make a {kind}: {error}") from error


_core = functools.lru_cache(maxsize=256)(_parsed)  # the core's objects are frozen; what plugins register may change


def _factory(kind: str, name: str) -> Any:
    if name in _KINDS[kind]:
        target, preset = _KINDS[kind][name]
        module, _, attribute = target.partition(":")
        made = getattr(importlib.import_module(module), attribute)
        return functools.partial(made, **preset) if preset else made
    registered: Mapping[str, Any] = {}
    if kind != "grid":
        registry = importlib.import_module("unstir.registry")
        plural = {"solver": "solvers", "process": "processes"}[kind]
        registered = registry.names(plural)
        if name in registered:
            return registry.resolve(plural, name)
    raise UnknownName(kind, name, [*_KINDS[kind], *registered])


def _options(text: str, whole: str) -> tuple[list[Any], dict[str, Any]]:
    positional: list[Any] = []
    options: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = part.partition("=")
        if equals and key.strip() in options:
            raise UserError(f"option {key.strip()!r} is given twice in {whole!r}")
        if equals:
            options[key.strip().replace("-", "_")] = _value(value.strip())
        elif options:
            raise UserError(f"{part!r} must come before the options with names in {whole!r}")
        else:
            positional.append(_value(part))
    return positional, options


def _value(text: str) -> Any:
    words = {"true": True, "false": False, "none": None, "inf": float("inf"), "-inf": float("-inf")}
    if text.lower() in words:
        return words[text.lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _typed(target: str, preset: Mapping[str, Any]) -> str:
    return f"{target.partition(':')[2]}({', '.join(f'{key}={value!r}' for key, value in preset.items())})"
