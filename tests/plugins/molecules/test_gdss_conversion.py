"""Original checkpoints: written here under the original names, read without executing anything, refused where they are something else."""

from __future__ import annotations

import os
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from unstir import checkpoint
from unstir.errors import CheckpointError
from unstir_molecules.gdss.conversion import averaged, convert, load, read, renamed, settings_of
from unstir_molecules.gdss.networks import GDSSNetwork
from unstir_molecules.gdss.presets import Preset, preset


def original(settings: Preset, seed: int = 0) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Two state dicts under the original names, in the original order of parameters."""
    generator = torch.Generator().manual_seed(seed)
    F, h, n = settings.features, settings.hidden, settings.layers

    def draw(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator) / 4

    def linears(name: str, widths: list[int]) -> dict[str, Tensor]:
        made = {}
        for i, (a, b) in enumerate(zip(widths, widths[1:], strict=False)):
            made |= {f"{name}.linears.{i}.weight": draw(b, a), f"{name}.linears.{i}.bias": draw(b)}
        return made

    x: dict[str, Tensor] = {}
    for i in range(settings.depth):
        x |= {f"layers.{i}.weight": draw(F if i == 0 else h, h), f"layers.{i}.bias": draw(h)}
    total = F + settings.depth * h
    x |= linears("final", [total, 2 * total, 2 * total, F])
    adj: dict[str, Tensor] = {}
    first, middle, last = settings.channels
    for i in range(n):
        inputs, width = (F, h) if i == 0 else (h, settings.attention)
        channels, made = first if i == 0 else middle, middle if i < n - 1 else last
        for c in range(channels):
            for part, size in (("q", width), ("k", width), ("v", h)):
                adj |= {f"layers.{i}.attn.{c}.gnn_{part}.weight": draw(inputs, size), f"layers.{i}.attn.{c}.gnn_{part}.bias": draw(size)}
        hidden = 2 * max(channels, made)
        adj |= linears(f"layers.{i}.mlp", [2 * channels, *[hidden] * (settings.linears - 1), made])
        adj |= linears(f"layers.{i}.multi_channel", [channels * h, hidden, h])
    total = first + middle * (n - 1) + last
    return x, adj | linears("final", [total, 2 * total, 2 * total, 1])


class EasyDict(dict[str, Any]):
    """What the original files hold: a dict whose items are attributes too."""

    def __init__(self, items: dict[str, Any]) -> None:
        super().__init__()
        for key, value in items.items():
            made = EasyDict(value) if isinstance(value, dict) else value
            self[key] = made
            self.__dict__[key] = made


@pytest.fixture
def easydict(monkeypatch: pytest.MonkeyPatch) -> type[EasyDict]:
    """The class under the name of its package, which need not be installed."""
    module = types.ModuleType("easydict")
    monkeypatch.setattr(EasyDict, "__module__", "easydict")
    module.EasyDict = EasyDict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "easydict", module)
    return EasyDict


def saved(path: Path, easy: type[EasyDict], settings: Preset, prefix: str = "", **more: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    x, adj = original(settings)
    first, middle, last = settings.channels
    kinds = {"vp": "VP", "ve": "VE", "sub-vp": "subVP"}
    sde = {
        name: {"type": kinds[leaf.kind], "beta_min": leaf.low, "beta_max": leaf.high}
        for name, leaf in (("x", settings.x), ("adj", settings.a))
    }
    config = easy(
        {"data": {"data": "QM9", "max_node_num": settings.nodes}, "sde": sde, "train": {"name": "train", "lr": 0.005}, "seed": 42}
    )
    shadows = {
        key: {"decay": 0.999, "num_updates": 3, "shadow_params": [2 * v for v in part.values()]}
        for key, part in (("ema_x", x), ("ema_adj", adj))
    }
    content = {
        "model_config": config,
        "params_x": {"model_type": "ScoreNetworkX", "max_feat_num": settings.features, "depth": settings.depth, "nhid": settings.hidden},
        "params_adj": {
            "model_type": "ScoreNetworkA", "max_feat_num": settings.features, "max_node_num": settings.nodes, "nhid": settings.hidden,
            "num_layers": settings.layers, "num_linears": settings.linears, "c_init": first, "c_hid": middle, "c_final": last,
            "adim": settings.attention, "num_heads": settings.heads, "conv": "GCN",
        },
        "x_state_dict": OrderedDict((prefix + key, value) for key, value in x.items()),
        "adj_state_dict": OrderedDict((prefix + key, torch.nn.Parameter(value)) for key, value in adj.items()),
        **shadows,
    }  # fmt: skip
    torch.save(content | more, path)
    return x, adj


def equal(network: GDSSNetwork, x: dict[str, Tensor], adj: dict[str, Tensor], factor: float = 1.0) -> bool:
    state, expected = network.state_dict(), renamed(x, adj)
    return state.keys() == expected.keys() and all(torch.equal(state[key], factor * value) for key, value in expected.items())


@pytest.mark.parametrize("prefix", ["", "module."])
def test_an_original_file_becomes_a_checkpoint_with_its_weights(tmp_path: Path, easydict: type[EasyDict], prefix: str) -> None:
    settings = preset("qm9")
    x, adj = saved(tmp_path / "gdss_qm9.pth", easydict, settings, prefix)
    folder = convert(tmp_path / "gdss_qm9.pth", tmp_path / "out", sizes={"9": 3, "8": 1})
    try:
        prior: Any = checkpoint.load(folder)
    except CheckpointError as error:
        pytest.skip(f"the network is not registered: {error}")
    assert equal(prior.network, x, adj)
    assert prior.process == settings.process
    assert prior.parameterisation == {"x": "score", "a": "score"}
    assert prior.facts["sizes"] == {"9": 3, "8": 1}
    assert prior.facts["vocabulary"]["atoms"] == ["C", "N", "O", "F"]
    assert prior.facts["sampler"] == {"predictor": "reverse", "snr": 0.2, "scale": 0.7, "steps": 1000}
    assert "signal-to-noise" in prior.card


def test_averaged_weights_are_taken_in_the_order_of_the_parameters(tmp_path: Path, easydict: type[EasyDict]) -> None:
    settings = preset("qm9")
    x, adj = saved(tmp_path / "a.pth", easydict, settings)
    found = read(tmp_path / "a.pth")
    both = (averaged(found["x_state_dict"], found["ema_x"]), averaged(found["adj_state_dict"], found["ema_adj"]))
    assert equal(load(settings, renamed(*both), "a.pth"), x, adj, 2.0)
    found["ema_x"]["shadow_params"].pop()
    with pytest.raises(CheckpointError, match="shadow_params"):
        averaged(found["x_state_dict"], found["ema_x"])


def test_settings_come_from_the_file(tmp_path: Path, easydict: type[EasyDict]) -> None:
    saved(tmp_path / "a.pth", easydict, preset("qm9"))
    assert settings_of(read(tmp_path / "a.pth")) == preset("qm9")
    with pytest.raises(CheckpointError, match="params_x"):
        settings_of({"model_config": {}})


def test_parameters_lie_in_the_original_order_of_channels() -> None:
    """Channel 3 of layer 1: its queries, keys and values side by side."""
    settings = preset("qm9")
    x, adj = original(settings)
    made = renamed(x, adj)["a.layers.1.graph.weight"][3]
    q, k, v = made.split((16, 16, 16), -1)
    for part, value in (("q", q), ("k", k), ("v", v)):
        assert torch.equal(value, adj[f"layers.1.attn.3.gnn_{part}.weight"])


def test_queries_and_keys_of_perceptrons_find_their_places() -> None:
    settings = Preset(5, 3, depth=1, layers=1, hidden=4, attention=4, conv="mlp", channels=(2, 3, 2))
    net = GDSSNetwork(**settings.network())
    state = net.a.state_dict()
    back = {}
    for key, value in state.items():
        if ".plain." in key:
            index, rest = key.split(".plain.")[1].split(".", 1)
            back[f"layers.0.attn.{int(index) // 2}.gnn_{'qk'[int(index) % 2]}.{rest}"] = value
        elif ".graph." in key:
            back |= {f"layers.0.attn.{c}.gnn_v.{key.rsplit('.', 1)[1]}": part for c, part in enumerate(value)}
        else:
            back[key] = value
    x = {key.replace("x.", "", 1): value[0] if ".layers." in f".{key}" else value for key, value in net.x.state_dict().items()}
    made = renamed(x, back)
    assert {key: value.shape for key, value in made.items()} == {key: value.shape for key, value in net.state_dict().items()}
    assert all(torch.equal(made[key], value) for key, value in net.state_dict().items())


# Files that are something else


class Evil:
    """Runs a command where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def test_a_file_that_would_execute_something_is_refused_and_nothing_runs(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    torch.save({"x_state_dict": Evil(mark)}, tmp_path / "evil.pth")
    with pytest.raises(CheckpointError, match="mkdir"):
        read(tmp_path / "evil.pth")
    assert not mark.exists()


def test_a_tensor_that_reaches_beyond_its_numbers_is_refused(tmp_path: Path) -> None:
    class Long:
        def __reduce__(self) -> Any:
            storage = torch.zeros(4).storage()
            return torch._utils._rebuild_tensor_v2, (storage, 0, (1000,), (1,), False, OrderedDict())

    torch.save({"w": Long()}, tmp_path / "long.pth")
    with pytest.raises(CheckpointError, match="beyond the numbers"):
        read(tmp_path / "long.pth")


def test_other_files_are_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no file"):
        read(tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("not a zip")
    with pytest.raises(CheckpointError, match="no zip"):
        read(tmp_path / "text.pth")
    torch.save({"a": 1}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="no zip"):
        read(tmp_path / "old.pth")
    with zipfile.ZipFile(tmp_path / "other.pth", "w") as archive:
        archive.writestr("readme", "hello")
    with pytest.raises(CheckpointError, match=r"data\.pkl"):
        read(tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="a list"):
        read(tmp_path / "list.pth")
    with zipfile.ZipFile(tmp_path / "cut.pth", "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({"a": 1}, 2)[:-3])
    with pytest.raises(CheckpointError, match="damaged|not read"):
        read(tmp_path / "cut.pth")
    torch.save({"a": 1}, tmp_path / "empty.pth")
    with pytest.raises(CheckpointError, match="settings"):
        convert(tmp_path / "empty.pth", tmp_path / "out")


def test_weights_of_another_network_are_refused(tmp_path: Path, easydict: type[EasyDict]) -> None:
    saved(tmp_path / "a.pth", easydict, preset("qm9"), x_state_dict=OrderedDict({"layers.0.weight": torch.zeros(4, 16)}))
    with pytest.raises(CheckpointError, match="do not fit"):
        convert(tmp_path / "a.pth", tmp_path / "out", average=False)


def test_tensors_of_other_kinds_and_shared_numbers_are_read(tmp_path: Path) -> None:
    base = torch.arange(12.0)
    content = {"view": base.view(3, 4)[:, 1:3], "long": torch.tensor([1, 2]), "half": torch.ones(2).half(), "none": torch.zeros(0), "n": 3}
    torch.save(content, tmp_path / "a.pth")
    found = read(tmp_path / "a.pth")
    for key in ("view", "long", "half", "none"):
        assert torch.equal(found[key], content[key])  # type: ignore[arg-type]
        assert found[key].dtype == content[key].dtype  # type: ignore[union-attr]
    assert found["n"] == 3
