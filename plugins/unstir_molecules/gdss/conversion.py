"""The original authors' weights as a checkpoint of ours, without unpickling anything but tensors and plain values.

    layers.i.attn.j.gnn_{q,k,v}.weight  ->  layers.i.graph.weight[j], queries, keys and values side by side
    shadow_params (a list)              ->  the averaged weights, in the order of the parameters

A ``.pth`` file is a zip: a pickle that says which tensors there are, and their numbers. The pickle is read by an unpickler that knows
tensors, dicts, lists and numbers, and takes an ``easydict`` for the dict it is; whatever else it names ends the reading, so no code runs.
Reference: Jo et al. 2022 (GDSS), arXiv:2202.02514.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unstir import checkpoint
from unstir.errors import CheckpointError, UserError
from unstir_molecules.atoms import PRESETS as VOCABULARIES
from unstir_molecules.gdss.networks import GDSSNetwork
from unstir_molecules.gdss.presets import PRESETS, Leaf, Preset, denoiser_of, facts_of, preset

_DTYPES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16, "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64, "IntStorage": torch.int32, "ShortStorage": torch.int16, "CharStorage": torch.int8,
    "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip
_DATA = {"ego_small": "ego-small", "community_small": "community-small", "ENZYMES": "enzymes", "QM9": "qm9", "ZINC250k": "zinc250k"}


class _Plain(dict[str, Any]):
    """A dict of settings; whatever state a pickle gives it is dropped, for its items say the same."""

    def __setstate__(self, state: Any) -> None:
        return None


def _tensor(storage: Tensor, offset: int, size: Sequence[int], stride: Sequence[int], *_: Any) -> Tensor:
    need = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1 if all(n > 0 for n in size) else 0
    if offset < 0 or any(n < 0 for n in size) or any(step < 0 for step in stride) or need > storage.numel():
        raise pickle.UnpicklingError("a tensor reaches beyond the numbers that the file holds")
    return torch.as_strided(storage, tuple(size), tuple(stride), offset).clone()


def _parameter(tensor: Tensor, *_: Any) -> Tensor:
    return tensor


class _Reader(pickle.Unpickler):
    """Reads the pickle of a checkpoint; refuses any name that is not of a tensor or a plain value."""

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        self.archive, self.root = archive, root
        super().__init__(archive.open(f"{root}/data.pkl"), encoding="utf-8")

    def find_class(self, module: str, name: str) -> Any:
        """What a name in the pickle stands for, among the few that are allowed."""
        known: dict[tuple[str, str], Any] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("easydict", "EasyDict"): _Plain,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): _parameter,
        }
        if (module, name) in known:
            return known[module, name]
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is neither a tensor nor a plain value")

    def persistent_load(self, pid: Any) -> Tensor:
        """The numbers of a storage."""
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage" and isinstance(pid[1], torch.dtype)):
            raise pickle.UnpicklingError("it refers to something that is not a storage of numbers")
        raw = bytearray(self.archive.read(f"{self.root}/data/{pid[2]}"))
        return torch.frombuffer(raw, dtype=pid[1]) if raw else torch.empty(0, dtype=pid[1])


def read(path: str | Path) -> dict[str, Any]:
    """What a file that torch saved holds: tensors, dicts, lists, numbers and texts, and nothing else.

    Args:
        path: a ``.pth`` file of torch 1.6 or later (a zip).

    Returns:
        The dict that was saved; ``easydict`` objects are dicts.

    Raises:
        CheckpointError: the file is missing, is no such zip, is damaged, or names anything that would have to be executed.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise CheckpointError(f"{path} is a zip without the one data.pkl that torch writes: not a checkpoint of torch")
            if f"{pickles[0][:-9]}/byteorder" in archive.namelist() and archive.read(f"{pickles[0][:-9]}/byteorder") == b"big":
                raise CheckpointError(f"{path} was written on a big-endian machine, whose numbers are not read here")
            found = _Reader(archive, pickles[0][:-9]).load()
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no file {path}") from error
    except (zipfile.BadZipFile, IsADirectoryError) as error:
        raise CheckpointError(f"{path} is no zip that torch (1.6 or later) wrote; save older files anew with torch.save") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{path} is not read: {error}") from error
    except (KeyError, EOFError, ValueError, TypeError, AttributeError, IndexError, RuntimeError, OSError) as error:
        raise CheckpointError(f"{path} is damaged ({error})") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds a {type(found).__name__}, and a checkpoint of GDSS is a dict")
    return found


def renamed(x: Mapping[str, Tensor], adj: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The original state dicts under our names.

    Args:
        x: state dict of ScoreNetworkX or ScoreNetworkX_GMH; a prefix ``module.`` is dropped.
        adj: of ScoreNetworkA.

    Returns:
        State dict of :class:`GDSSNetwork`.

    Raises:
        CheckpointError: an attention lacks a part.
    """
    return {f"x.{key}": value for key, value in _renamed(x).items()} | {f"a.{key}": value for key, value in _renamed(adj).items()}


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    state = {key.removeprefix("module."): value for key, value in state.items()}
    made: dict[str, Tensor] = {}
    stacks: dict[str, dict[int, dict[str, Tensor]]] = {}
    for key, value in state.items():
        parts = key.split(".")
        if parts[0] == "layers" and len(parts) == 3:  # a convolution of ScoreNetworkX
            made[f"layers.{parts[1]}.{parts[2]}"] = value[None]
        elif parts[0] == "layers" and parts[2] == "attn":
            stacks.setdefault(parts[1], {}).setdefault(int(parts[3]), {})[".".join(parts[4:])] = value
        else:
            made[key] = value
    for layer, heads in stacks.items():
        channels = [heads[index] for index in sorted(heads)]
        try:
            for kind in ("weight", "bias"):
                names = [f"gnn_{part}.{kind}" for part in ("q", "k", "v") if f"gnn_{part}.{kind}" in channels[0]]
                made[f"layers.{layer}.graph.{kind}"] = torch.stack(
                    [torch.cat([channel[name] for name in names], -1) for channel in channels]
                )
            for index, channel in enumerate(channels):
                for name, value in channel.items():
                    if ".linears." in name:
                        which, rest = name.split(".", 1)
                        made[f"layers.{layer}.plain.{2 * index + (which == 'gnn_k')}.{rest}"] = value
        except KeyError as error:
            raise CheckpointError(f"layer {layer} of the checkpoint lacks {error}: it is not GDSS's attention") from error
    return made


def averaged(state: Mapping[str, Tensor], average: Mapping[str, Any]) -> dict[str, Tensor]:
    """A state dict with its running averages in the place of its weights.

    Args:
        state: the original state dict; every entry is a parameter, in the order of the network's parameters.
        average: the original average: ``shadow_params``, a list in that order.

    Raises:
        CheckpointError: number or shapes of the two differ.
    """
    shadows = average.get("shadow_params")
    if not isinstance(shadows, list) or [tuple(s.shape) for s in shadows] != [tuple(v.shape) for v in state.values()]:
        raise CheckpointError("the averaged weights (shadow_params) are not those of the network: their number or shapes differ")
    return dict(zip(state, shadows, strict=True))


def settings_of(found: Mapping[str, Any]) -> Preset:
    """The preset that an original checkpoint was trained with, from the settings inside it.

    Args:
        found: as :func:`read` gives it.

    Raises:
        CheckpointError: settings are missing or not GDSS's.
    """
    try:
        config, x, adj = found["model_config"], found["params_x"], found["params_adj"]
        base = PRESETS.get(_DATA.get(config["data"]["data"], str(config["data"]["data"]).lower()), preset("community-small"))
        leaves: dict[str, Any] = {
            leaf: Leaf({"VP": "vp", "VE": "ve", "subVP": "sub-vp"}[entry["type"]], float(entry["beta_min"]), float(entry["beta_max"]))
            for leaf, entry in (("x", config["sde"]["x"]), ("a", config["sde"]["adj"]))
        }
        return replace(
            base,
            **leaves,
            nodes=int(adj["max_node_num"]),
            features=int(x["max_feat_num"]),
            depth=int(x["depth"]),
            layers=int(adj["num_layers"]),
            linears=int(adj["num_linears"]),
            hidden=int(adj["nhid"]),
            attention=int(adj["adim"]),
            heads=int(adj["num_heads"]),
            channels=(int(adj["c_init"]), int(adj["c_hid"]), int(adj["c_final"])),
            conv="mlp" if adj["conv"] == "MLP" else "gcn",
            gmh=x["model_type"] == "ScoreNetworkX_GMH",
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"these are not the settings of a GDSS checkpoint: {error} is missing or misnamed") from error


def convert(path: str | Path, folder: str | Path, *, average: bool | None = None, sizes: Mapping[str, int] | None = None) -> Path:
    """Turn an original GDSS checkpoint (``gdss_qm9.pth``) into a checkpoint folder.

    Args:
        path: the original file; nothing in it is executed.
        folder: where the checkpoint goes.
        average: take the averaged weights; as the preset of its data set says when absent.
        sizes: how many training graphs have how many nodes; without them a method takes the sizes from the training set it is given.

    Returns:
        The folder.

    Raises:
        CheckpointError: the file is not a checkpoint of GDSS, or its weights do not fit its settings.
    """
    found = read(path)
    made = settings_of(found)
    try:
        x, adj = dict(found["x_state_dict"]), dict(found["adj_state_dict"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} holds no weights ({error} is missing)") from error
    use = made.average if average is None else average
    if use:
        if "ema_x" not in found or "ema_adj" not in found:
            raise CheckpointError(f"{path} holds no averaged weights: average=False takes the plain ones")
        x, adj = averaged(x, found["ema_x"]), averaged(adj, found["ema_adj"])
    network = load(made, renamed(x, adj), str(path))
    denoiser, kind = denoiser_of(made, network), "averaged" if use else "plain"
    denoiser.card = f"""# GDSS, converted from {Path(path).name}

The original authors' weights ({kind}), as they are. Their licence is the authors' own.

- **Network**: {sum(p.numel() for p in network.parameters()):,} parameters; {made.features} features a node, up to {made.nodes} nodes.
- **Process**: nodes {made.x}, edges {made.a}; signal-to-noise ratio at its end: {made.terminal_text()}.
"""
    name = str(found["model_config"]["data"]["data"]).lower()
    vocabulary = VOCABULARIES[name].as_dict() if name in VOCABULARIES else None
    facts = facts_of(made, {"sizes": sizes and dict(sizes), "vocabulary": vocabulary, "data": Path(path).name})
    return checkpoint.save(denoiser, folder, network="molecules/gdss", config=made.network(), facts=facts)


def load(settings: Preset, state: Mapping[str, Tensor], source: str) -> GDSSNetwork:
    """A network with given weights.

    Args:
        settings: the network's sizes.
        state: under our names.
        source: what a message calls the weights.

    Raises:
        CheckpointError: they do not fit.
    """
    try:
        network = GDSSNetwork(**settings.network())
        network.load_state_dict({key: value.float() for key, value in state.items()})
    except UserError as error:
        raise CheckpointError(f"{source} cannot be used: {error}") from error
    except RuntimeError as error:
        raise CheckpointError(f"the weights of {source} do not fit its settings: {str(error).splitlines()[-1].strip()}") from error
    return network.eval()
