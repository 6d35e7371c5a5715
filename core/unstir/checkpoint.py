"""Checkpoints: a folder that holds a denoiser and never executes anything on loading.

model.safetensors   the network's weights
model.json          network name and config, process, parameterisation, normaliser, space, shape, version
CARD.md             data, split, steps, hardware, metrics with intervals, licence, limits
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors

from unstir import names, registry, space
from unstir.denoiser import Denoiser, NetworkDenoiser, Normaliser, TokenDenoiser
from unstir.errors import CheckpointError, MissingExtra, UnknownName, UserError
from unstir.process import Joint, Process

FORMAT = 1
FILES = ("model.safetensors", "model.json", "CARD.md")
PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle")
_SPACES = {
    **dict.fromkeys(("Euclidean", "Masked", "Symmetric", "ZeroMean"), "unstir.space"),
    "StudentT": "unstir.heavy_tails",
    "FunctionNoise": "unstir.function_noise",
    "SymmetricTokens": "unstir.process.discrete",
}


def save(
    denoiser: NetworkDenoiser | TokenDenoiser,
    folder: str | Path,
    *,
    network: str,
    config: Mapping[str, Any],
    weights: Mapping[str, torch.Tensor] | None = None,
    dtype: torch.dtype | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """Write a checkpoint folder, whole or not at all: killed at any moment, it leaves the checkpoint before or the new one.

    Args:
        denoiser: whose process, parameterisation, normaliser, space and shape are kept.
        folder: where; an existing checkpoint there is replaced, other files are left alone.
        network: registered name of the network class (``"unet"``).
        config: its keyword arguments, JSON-able.
        weights: the network's state dict when it is not the denoiser's own (an average of it).
        dtype: floating-point type on disk (``torch.float16`` halves the size); loading gives float32.
        facts: what a user must know and a loader may check (``{"pixel_mm": [1.8, 2.8]}``), JSON-able.

    Returns:
        The folder.

    Raises:
        UserError: the process or the space has no name that a checkpoint could give.
    """
    folder = Path(folder)
    state = denoiser.network.state_dict() if weights is None else weights
    state = {key: _stored(value, dtype) for key, value in state.items()}
    meta = {
        "format": FORMAT,
        "network": network,
        "config": dict(config),
        "process": _process_to_json(denoiser.process),
        "parameterisation": denoiser.parameterisation,
        **_own_options(denoiser),
        "shape": denoiser.shape,
        "space": _space_to_json(denoiser.space),
        "facts": dict(facts or {}),
    }
    whole = safetensors.save(state)
    meta["sha256"] = hashlib.sha256(whole).hexdigest()
    part = folder / ".part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    (part / "model.safetensors").write_bytes(whole)
    (part / "model.json").write_text(json.dumps(meta, indent=1) + "\n")
    (part / "CARD.md").write_text((denoiser.card or "No card was written.").rstrip() + "\n")
    _settle(folder)
    part.rename(folder / ".whole")  # from here on the new checkpoint counts
    _settle(folder)
    return folder


def load(name: str | Path) -> NetworkDenoiser | TokenDenoiser:
    """The denoiser of a checkpoint, on the CPU, in evaluation mode.

    Args:
        name: registered name (``"medical/ct-prior"``) or a folder.

    Returns:
        The denoiser; ``.card`` is its card, ``.facts`` and ``.sha256`` say what it was trained for and which weights these are.

    Raises:
        CheckpointError: the folder is missing, truncated or a pickle, or its weights belong to another network.
        MissingExtra: the network needs a library that is not installed.
        UnknownName: neither a folder nor a registered name.
    """
    folder = _folder(name)
    _refuse_pickles(name, folder)
    try:
        meta = json.loads(_file(folder, "model.json").read_text())
    except FileNotFoundError as error:
        raise CheckpointError(f"checkpoint {name} has no model.json in {folder}: no checkpoint folder, or a partial one") from error
    except (ValueError, OSError) as error:
        raise CheckpointError(f"checkpoint {name} is damaged: {folder / 'model.json'} is not JSON ({error})") from error
    found = meta.get("format") if isinstance(meta, dict) else None
    if found != FORMAT:
        raise CheckpointError(f"checkpoint {name} has format {found!r}, this version of unstir reads format {FORMAT}")
    try:
        whole = _file(folder, "model.safetensors").read_bytes()
        weights = safetensors.load(whole)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"checkpoint {name} is damaged: {folder / 'model.safetensors'} cannot be read ({error})") from error
    sha256 = hashlib.sha256(whole).hexdigest()
    if meta.get("sha256") not in (None, sha256):
        raise CheckpointError(f"checkpoint {name} is damaged: model.safetensors is not the file model.json was written with")
    try:
        network = registry.resolve("networks", meta["network"])(**meta["config"])
        network.load_state_dict({key: value.float() if value.is_floating_point() else value for key, value in weights.items()})
        facts = dict(meta["facts"])
        denoiser = _denoiser(meta, network, _file(folder, "CARD.md").read_text() if _file(folder, "CARD.md").exists() else None)
    except MissingExtra:
        raise
    except UserError as error:
        raise CheckpointError(f"checkpoint {name} cannot be used: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"checkpoint {name} cannot be used: model.json lacks or misnames {error}") from error
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"the weights of checkpoint {name} belong to another network than {meta['network']}: {reason}") from error
    denoiser.facts, denoiser.sha256 = facts, sha256  # type: ignore[assignment]
    return denoiser.eval()


def _own_options(denoiser: NetworkDenoiser | TokenDenoiser) -> dict[str, Any]:
    """What only one of the two kinds of denoiser has."""
    if isinstance(denoiser, TokenDenoiser):
        return {"denoiser": "tokens", "time_free": denoiser.time_free}
    normaliser = {"shift": denoiser.normaliser.shift, "scale": denoiser.normaliser.scale}
    return {"sigma_data": denoiser.sigma_data, "context": denoiser.context, "normaliser": normaliser}


def _denoiser(meta: Mapping[str, Any], network: torch.nn.Module, card: str | None) -> NetworkDenoiser | TokenDenoiser:
    """The denoiser that ``model.json`` describes around its network."""
    process, shape, space = _process_from_json(meta["process"]), _shape_from_json(meta["shape"]), _space_from_json(meta["space"])
    kind = meta.get("denoiser", "network")
    if kind not in ("network", "tokens"):
        raise UserError(f"its denoiser is of the kind {kind!r}, and this version of unstir knows 'network' and 'tokens'")
    if kind == "tokens":
        options = {"time_free": meta["time_free"], "parameterisation": meta["parameterisation"]}
        return TokenDenoiser(network, process, shape, space=space, card=card, **options)
    return NetworkDenoiser(
        network,
        process,
        parameterisation=meta["parameterisation"],
        shape=shape,
        space=space,
        sigma_data=meta["sigma_data"],
        context=meta["context"],
        normaliser=Normaliser(meta["normaliser"]["shift"], meta["normaliser"]["scale"]),
        card=card,
    )


def _folder(name: str | Path) -> Path:
    given = Path(name)
    if given.is_dir():
        return given
    if given.is_file():
        raise CheckpointError(f"{name} is a file and a checkpoint is a folder with {FILES[0]} and {FILES[1]}{_pickled(given)}")
    try:
        folder = registry.path("checkpoints", str(name))
    except UnknownName as error:
        if isinstance(name, Path) or str(name).startswith((".", "/")) or "\\" in str(name):
            raise CheckpointError(f"there is no checkpoint folder {name}") from error
        raise
    if not folder.is_dir():
        raise CheckpointError(f"checkpoint {name} is registered but its folder is missing: reinstall the distribution that carries it")
    return folder


def _pickled(path: Path) -> str:
    return f"; unstir never opens {path.suffix} files, for a pickle executes what it holds" if path.suffix in PICKLES else ""


def _refuse_pickles(name: str | Path, folder: Path) -> None:
    if not _file(folder, "model.json").exists():
        found = next((path for path in sorted(folder.iterdir()) if path.suffix in PICKLES), None)
        if found is not None:
            raise CheckpointError(f"checkpoint {name} has no model.json but {found.name}{_pickled(found)}")


def _file(folder: Path, name: str) -> Path:
    """Where a file of a checkpoint is: a save that was killed half-way may have left it among the new ones."""
    new = folder / ".whole" / name
    return new if new.exists() else folder / name


def _settle(folder: Path) -> None:
    """Move the files of a new checkpoint to their places, one by one; `_file` finds them on the way."""
    new = folder / ".whole"
    if new.exists():
        for name in FILES:
            if (new / name).exists():
                (new / name).replace(folder / name)
        new.rmdir()


def _stored(value: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    value = value.detach().cpu()
    return (value.to(dtype) if dtype is not None and value.is_floating_point() else value).contiguous().clone()


def _process_to_json(process: Process) -> dict[str, Any]:
    if isinstance(process, Joint):
        leaves = {leaf: _process_to_json(part) for leaf, part in process.leaves.items()}
        return {"name": "joint", "leaves": leaves, "shared_time": process.shared_time}
    for name in registry.names("processes"):
        if registry.resolve("processes", name) is type(process):
            options = {f.name: getattr(process, f.name) for f in dataclasses.fields(process) if f.init}  # type: ignore[arg-type]
            return {"name": name, **options}
    raise UserError(f"{process!r} is not a registered process, so a checkpoint cannot name it (hook unstir_processes)")


def _process_from_json(meta: Mapping[str, Any]) -> Process:
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in meta.items() if key != "name"}
    if meta["name"] == "joint":
        leaves = {leaf: _process_from_json(part) for leaf, part in meta["leaves"].items()}
        return Joint(leaves, shared_time=meta["shared_time"])
    made: Process = names.process(meta["name"]) if not options else registry.resolve("processes", meta["name"])(**options)
    return made


def _space_to_json(where: space.Space) -> dict[str, Any]:
    if isinstance(where, space.JointSpace):
        return {"name": "JointSpace", "leaves": {leaf: _space_to_json(part) for leaf, part in where.leaves.items()}}
    if type(where).__name__ not in _SPACES:
        raise UserError(f"{where!r} is not a space that a checkpoint can name; known are {', '.join(_SPACES)} and JointSpace")
    return {"name": type(where).__name__, **dataclasses.asdict(where)}  # type: ignore[call-overload]


def _space_from_json(meta: Mapping[str, Any]) -> space.Space:
    if meta["name"] == "JointSpace":
        return space.JointSpace({leaf: _space_from_json(part) for leaf, part in meta["leaves"].items()})
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in meta.items() if key != "name"}
    return getattr(importlib.import_module(_SPACES[meta["name"]]), meta["name"])(**options)


def _shape_from_json(shape: Any) -> Any:
    return {leaf: tuple(size) for leaf, size in shape.items()} if isinstance(shape, Mapping) else tuple(shape)


def check(denoiser: Denoiser, *, shape: tuple[int, ...]) -> None:
    """Refuse a checkpoint whose states have another shape.

    Args:
        denoiser: as loaded.
        shape: the event shape that is needed, -1 where any size does.

    Raises:
        CheckpointError: the shapes disagree.
    """
    have = denoiser.shape
    fits = not isinstance(have, dict) and len(have) == len(shape) and all(a == b or -1 in (a, b) for a, b in zip(have, shape, strict=True))
    if not fits:
        raise CheckpointError(f"this checkpoint was trained for states of shape {have}, and {shape} is needed here")
