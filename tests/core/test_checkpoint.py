"""Checkpoints: what was saved is what is loaded; what is damaged, foreign or executable is refused with the reason."""

import json
import os
import pickle
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import unstir
from unstir import checkpoint
from unstir.denoiser import PARAMETERISATIONS, NetworkDenoiser, Normaliser, TokenDenoiser
from unstir.errors import CheckpointError, UnknownName, UserError
from unstir.nn import MLP, UNet
from unstir.process import EDM, OUVE, SBVE, VE, VP, Categorical, Joint, MeanReverting, RectifiedFlow, SubVP, VPCosine, VPTable
from unstir.space import Euclidean, JointSpace, Masked, Symmetric, ZeroMean

CONFIG = {"size": 4, "width": 8, "depth": 1, "embedding": 8}
PROCESSES = [
    EDM(t_max=100.0),
    VE(sigma_max=30.0),
    VP(beta_max=16.0),
    SubVP(),
    VPCosine(),
    VPTable(),
    VPTable("squaredcos", 50, zero_terminal=True),
    RectifiedFlow(3.0),
    OUVE(stiffness=2.0),
    MeanReverting(),
    SBVE(),
]
SPACES = [Euclidean(), Masked("present"), Symmetric(), Symmetric("nodes"), ZeroMean(-1), ZeroMean(1, "nodes")]


def network(seed=0):
    torch.manual_seed(seed)
    return MLP(**CONFIG)


def denoiser(seed=0, **options):
    made = {"process": EDM(), "parameterisation": "edm", "shape": (4,), "card": "# A card\n\nTrained on nothing."} | options
    return NetworkDenoiser(network(seed), made.pop("process"), **made)


def saved(folder, seed=0, **options):
    return checkpoint.save(denoiser(seed), folder, network="mlp", config=CONFIG, **options)


def same(one, two):
    a, b = one.network.state_dict(), two.network.state_dict()
    return set(a) == set(b) and all(torch.equal(a[key], b[key]) for key in a)


def estimate(model, shape=(4,)):
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    condition = {"anchor": torch.ones(3, *shape)} if model.process.anchored else None
    t = 0.5 * (model.process.t_min + model.process.t_max)
    with torch.no_grad():
        return model(x, t, condition)


# -- round trips -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_every_process_comes_back(process, tmp_path):
    model = denoiser(process=process)
    checkpoint.save(model, tmp_path, network="mlp", config=CONFIG)
    again = unstir.load(tmp_path)
    assert again.process == process
    assert torch.equal(estimate(again), estimate(model))


@pytest.mark.parametrize("kind", PARAMETERISATIONS)
def test_every_parameterisation_comes_back(kind, tmp_path):
    model = denoiser(process=VP(), parameterisation=kind, sigma_data=0.3, normaliser=Normaliser(-1000.0, 2000.0))
    checkpoint.save(model, tmp_path, network="mlp", config=CONFIG)
    again = unstir.load(tmp_path)
    assert (again.parameterisation, again.sigma_data, again.normaliser) == (kind, 0.3, Normaliser(-1000.0, 2000.0))
    assert torch.equal(estimate(again), estimate(model))


@pytest.mark.parametrize("where", SPACES, ids=repr)
def test_every_space_comes_back(where, tmp_path):
    checkpoint.save(denoiser(space=where), tmp_path, network="mlp", config=CONFIG)
    assert unstir.load(tmp_path).space == where


@pytest.mark.parametrize("shared", [True, False])
def test_a_joint_denoiser_comes_back(shared, tmp_path):
    process = Joint({"b": VP(), "a": VPTable("linear", 1000) if not shared else VPCosine()}, shared_time=shared)
    space = JointSpace({"b": ZeroMean(1), "a": Symmetric()})
    shift = Normaliser({"a": 0.0, "b": [1.0, 2.0]}, 2.0)
    model = denoiser(
        process=process, shape={"b": (3, 2), "a": (3, 3)}, space=space, parameterisation={"b": "eps", "a": "x0"}, normaliser=shift
    )
    checkpoint.save(model, tmp_path, network="mlp", config=CONFIG)
    again = unstir.load(tmp_path)
    assert again.process == process
    assert list(again.process.leaves) == ["b", "a"]
    assert again.space == space
    assert again.shape == {"b": (3, 2), "a": (3, 3)}
    assert again.parameterisation == {"b": "eps", "a": "x0"}
    assert again.normaliser == shift


@pytest.mark.parametrize("time_free", [True, False])
def test_a_denoiser_of_tokens_comes_back(time_free, tmp_path):
    noise = {"noise": "absorbing"} if time_free else {"noise": "marginal", "marginals": (0.7, 0.2, 0.1), "schedule": "cosine"}
    process = Joint({"kinds": Categorical(3, **noise), "x": VP()}) if not time_free else Categorical(3, **noise)
    shape = (5,) if time_free else {"kinds": (5,), "x": (4,)}
    space = Masked() if time_free else JointSpace({"kinds": Masked(), "x": Euclidean()})
    model = TokenDenoiser(network(), process, shape, space=space, time_free=time_free, parameterisation="eps", card="# Tokens")
    again = unstir.load(checkpoint.save(model, tmp_path, network="mlp", config=CONFIG, facts={"atoms": ["C", "N"]}))
    assert isinstance(again, TokenDenoiser)
    assert (again.process, again.shape, again.space, again.time_free) == (process, shape, space, time_free)
    assert (again.parameterisation, again.facts, again.card.strip()) == ("eps", {"atoms": ["C", "N"]}, "# Tokens")
    assert not again.training
    assert same(again, model)


def test_a_kind_of_denoiser_that_is_not_known_is_said(tmp_path):
    with pytest.raises(CheckpointError, match="its denoiser is of the kind 'particles', and this version of unstir knows"):
        unstir.load(edited(saved(tmp_path), denoiser="particles"))


def test_a_unet_with_context_comes_back(tmp_path):
    config = {"dim": 2, "in_channels": 3, "out_channels": 1, "widths": [8, 16], "blocks": 1, "features": 2, "attention": [1]}
    torch.manual_seed(0)
    model = NetworkDenoiser(UNet(**config), EDM(), parameterisation="edm", shape=(3, -1, -1), context=1)
    checkpoint.save(model, tmp_path, network="unet", config=config, facts={"pixel_mm": [1.7, 3.0]})
    again = unstir.load(str(tmp_path))
    assert (again.shape, again.context, again.facts) == ((3, -1, -1), 1, {"pixel_mm": [1.7, 3.0]})
    assert not again.training
    assert same(again, model)


def test_half_precision_on_disk_halves_the_file_and_loads_as_float32(tmp_path):
    saved(tmp_path / "single")
    saved(tmp_path / "half", dtype=torch.float16)
    stored = load_file(tmp_path / "half" / "model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float16}
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("single", "half")]
    numbers = sum(p.numel() for p in network().parameters())
    assert sizes[0] - sizes[1] == pytest.approx(2 * numbers, abs=100)  # but for the header's text
    again = unstir.load(tmp_path / "half").network.state_dict()
    for key, value in network().state_dict().items():
        assert again[key].dtype == torch.float32
        assert torch.equal(again[key], value.half().float())


def test_other_weights_than_the_networks_own_can_be_saved(tmp_path):
    saved(tmp_path, weights=network(5).state_dict())
    assert same(unstir.load(tmp_path), denoiser(5))


def test_counts_stay_integers_in_half_precision(tmp_path):
    from unstir import registry

    class Counted(MLP):
        def __init__(self, **config):
            super().__init__(**config)
            self.register_buffer("count", torch.tensor(70000))

    model = denoiser()
    model.network = Counted(**CONFIG)
    resolve = registry.resolve
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "resolve", lambda kind, name: Counted if (kind, name) == ("networks", "counted") else resolve(kind, name))
        checkpoint.save(model, tmp_path, network="counted", config=CONFIG, dtype=torch.float16)
        assert unstir.load(tmp_path).network.count == 70000  # beyond float16


def test_the_card_is_kept(tmp_path):
    saved(tmp_path)
    assert (tmp_path / "CARD.md").read_text() == "# A card\n\nTrained on nothing.\n"
    assert unstir.load(tmp_path).card == "# A card\n\nTrained on nothing.\n"
    (tmp_path / "CARD.md").unlink()
    assert unstir.load(tmp_path).card is None


def test_the_same_weights_give_the_same_bytes_and_hash(tmp_path):
    files = [(saved(tmp_path / name) / "model.safetensors").read_bytes() for name in "ab"]
    assert files[0] == files[1]
    assert unstir.load(tmp_path / "a").sha256 == unstir.load(tmp_path / "b").sha256 != unstir.load(saved(tmp_path / "c", 1)).sha256


def test_a_checkpoint_replaces_the_one_before_and_leaves_other_files_alone(tmp_path):
    saved(tmp_path)
    (tmp_path / "validation.jsonl").write_text("{}\n")
    (tmp_path / "training").mkdir()
    saved(tmp_path, 1)
    assert same(unstir.load(tmp_path), denoiser(1))
    assert {path.name for path in tmp_path.iterdir()} == {*checkpoint.FILES, "training", "validation.jsonl"}


def test_what_has_no_name_is_refused_before_anything_is_written(tmp_path):
    class Own(EDM):
        pass

    class Elsewhere(Euclidean):
        pass

    with pytest.raises(UserError, match=r"Own\(.*\) is not a registered process"):
        checkpoint.save(denoiser(process=Own()), tmp_path / "a", network="mlp", config=CONFIG)
    with pytest.raises(UserError, match="is not a space that a checkpoint can name; known are Euclidean, Masked"):
        checkpoint.save(denoiser(space=Elsewhere()), tmp_path / "a", network="mlp", config=CONFIG)
    assert not (tmp_path / "a").exists()


# -- killed while saving ---------------------------------------------------------------------------------------------


class Killed(BaseException):
    """What no handler catches."""


WRITES = ("write_bytes", "write_text", "mkdir", "rename", "replace", "rmdir", "unlink")


def killed_at(moment, patch, do):
    """Do something until its ``moment``-th touch of the disk, which (for a write) is half done; how many touches there were."""
    touches = [0]

    def touch(name):
        original = getattr(Path, name)

        def guarded(self, *given, **options):
            touches[0] += 1
            if touches[0] == moment:
                if name.startswith("write"):
                    original(self, given[0][: len(given[0]) // 2])
                raise Killed
            return original(self, *given, **options)

        return guarded

    with patch.context() as inside:
        for name in WRITES:
            inside.setattr(Path, name, touch(name))
        try:
            do()
        except Killed:
            return True
    return False


@pytest.mark.parametrize("moment", range(1, 14))
def test_killed_while_saving_it_loads_the_one_before_or_the_new_one(moment, tmp_path, monkeypatch):
    saved(tmp_path)
    old, new = denoiser(0), denoiser(1)
    new.card = "# Another"
    was_killed = killed_at(moment, monkeypatch, lambda: checkpoint.save(new, tmp_path, network="mlp", config=CONFIG))
    found = unstir.load(tmp_path)
    is_new = same(found, new)
    assert is_new or same(found, old)
    assert found.card.startswith("# Another" if is_new else "# A card")  # never a mixture
    assert is_new or was_killed
    third = denoiser(2)
    checkpoint.save(third, tmp_path, network="mlp", config=CONFIG)
    assert same(unstir.load(tmp_path), third)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["CARD.md", "model.json", "model.safetensors"]


@pytest.mark.parametrize("moment", range(1, 14))
def test_a_first_save_that_is_killed_leaves_none_or_the_whole(moment, tmp_path, monkeypatch):
    killed_at(moment, monkeypatch, lambda: saved(tmp_path))
    try:
        found = unstir.load(tmp_path)
    except CheckpointError as error:
        said = str(error)
    else:
        said = "no model.json" if same(found, denoiser(0)) else "another"
    assert "no model.json" in said
    saved(tmp_path, 1)
    assert same(unstir.load(tmp_path), denoiser(1))


def test_every_moment_of_a_save_was_tried(tmp_path, monkeypatch):
    saved(tmp_path)
    assert not killed_at(14, monkeypatch, lambda: saved(tmp_path, 1))


def test_a_second_kill_while_the_first_is_mended_does_no_harm(tmp_path, monkeypatch):
    for first in range(7, 11):
        for second in range(1, 16, 2):
            folder = tmp_path / f"{first}-{second}"
            saved(folder)
            killed_at(first, monkeypatch, lambda folder=folder: saved(folder, 1))
            killed_at(second, monkeypatch, lambda folder=folder: saved(folder, 2))
            found = unstir.load(folder)
            assert any(same(found, denoiser(seed)) for seed in range(3))


# -- refused ---------------------------------------------------------------------------------------------------------


def edited(folder, **changes):
    meta = json.loads((folder / "model.json").read_text())
    for key, value in changes.items():
        if value is None:
            del meta[key]
        else:
            meta[key] = value
    (folder / "model.json").write_text(json.dumps(meta))
    return folder


@pytest.mark.parametrize("keep", [0, 4, 100, 0.5, -1])
def test_truncated_weights_are_refused(keep, tmp_path):
    saved(tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: int(len(whole) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(CheckpointError, match=r"is damaged: .*model.safetensors cannot be read"):
        unstir.load(tmp_path)


def test_a_changed_bit_is_noticed(tmp_path):
    saved(tmp_path)
    whole = bytearray((tmp_path / "model.safetensors").read_bytes())
    whole[-5] ^= 1
    (tmp_path / "model.safetensors").write_bytes(bytes(whole))
    with pytest.raises(CheckpointError, match="is damaged: model.safetensors is not the file model.json was written with"):
        unstir.load(tmp_path)


def test_an_edited_hash_is_noticed(tmp_path):
    with pytest.raises(CheckpointError, match="model.safetensors is not the file model.json was written with"):
        unstir.load(edited(saved(tmp_path), sha256="0" * 64))


def test_missing_weights_are_refused(tmp_path):
    saved(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model.safetensors cannot be read"):
        unstir.load(tmp_path)


def test_json_that_is_cut_short_is_refused(tmp_path):
    saved(tmp_path)
    text = (tmp_path / "model.json").read_text()
    (tmp_path / "model.json").write_text(text[: len(text) // 2])
    with pytest.raises(CheckpointError, match=r"is damaged: .*model.json is not JSON"):
        unstir.load(tmp_path)


KEYS = ("network", "config", "process", "parameterisation", "sigma_data", "context", "shape", "space", "normaliser", "facts")


@pytest.mark.parametrize("key", KEYS)
def test_a_missing_key_is_named(key, tmp_path):
    with pytest.raises(CheckpointError, match=f"cannot be used: model.json lacks or misnames '{key}'"):
        unstir.load(edited(saved(tmp_path), **{key: None}))


@pytest.mark.parametrize(("format", "said"), [(2, "2"), (None, "None"), ("1", "'1'")])
def test_another_format_is_refused(format, said, tmp_path):
    with pytest.raises(CheckpointError, match=f"has format {said}, this version of unstir reads format 1"):
        unstir.load(edited(saved(tmp_path), format=format))


def test_json_that_is_no_model_is_refused(tmp_path):
    saved(tmp_path)
    (tmp_path / "model.json").write_text("[1, 2]")
    with pytest.raises(CheckpointError, match="has format None"):
        unstir.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"config": CONFIG | {"width": 16}}, "belong to another network than mlp: size mismatch"),
        ({"config": CONFIG | {"depth": 2}}, "belong to another network than mlp"),
        ({"config": CONFIG | {"wide": 2}}, "cannot be used: .*'wide'"),
        ({"network": "unet"}, "cannot be used: .*'size'"),
        ({"network": "mpl"}, "cannot be used: there is no network 'mpl'; did you mean 'mlp'"),
        ({"process": {"name": "edn"}}, "cannot be used: there is no process 'edn'; did you mean 'edm'"),
        ({"process": {"name": "vp", "beta": 3}}, "cannot be used: .*'beta'"),
        ({"space": {"name": "Curved"}}, "cannot be used: .*'Curved'"),
        ({"parameterisation": "epsilon"}, "cannot be used: there is no parameterisation 'epsilon'"),
        ({"sigma_data": -1.0}, "cannot be used: sigma_data must be positive"),
        ({"normaliser": {"shift": 0.0, "scale": 0.0}}, "cannot be used: the scale of a normaliser must be positive"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(changes, sentence, tmp_path):
    with pytest.raises(CheckpointError, match=sentence):
        unstir.load(edited(saved(tmp_path), **changes))


def test_weights_of_another_network_are_refused(tmp_path):
    saved(tmp_path)
    other = {key: torch.zeros(3, 3) for key in network().state_dict()}
    save_file(other, tmp_path / "model.safetensors")
    import hashlib

    sha256 = hashlib.sha256((tmp_path / "model.safetensors").read_bytes()).hexdigest()
    with pytest.raises(CheckpointError, match="belong to another network than mlp: size mismatch"):
        unstir.load(edited(tmp_path, sha256=sha256))


class Bomb:
    """A pickle that would leave a file behind if anybody opened it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["model.pt", "model.ckpt", "weights.pth", "pytorch_model.bin"])
@pytest.mark.parametrize("is_folder", [False, True])
def test_a_pickle_is_refused_and_never_opened(name, is_folder, tmp_path):
    trap = tmp_path / "exploded"
    (tmp_path / name).write_bytes(pickle.dumps(Bomb(trap)))
    with pytest.raises(CheckpointError, match="unstir never opens .* files, for a pickle executes what it holds"):
        unstir.load(tmp_path if is_folder else tmp_path / name)
    assert not trap.exists()


def test_a_pickle_under_the_name_of_the_weights_is_refused_and_never_opened(tmp_path):
    trap = tmp_path / "exploded"
    saved(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(pickle.dumps(Bomb(trap)))
    with pytest.raises(CheckpointError, match="is damaged"):
        unstir.load(tmp_path)
    assert not trap.exists()


def test_a_header_that_lies_about_its_length_is_refused(tmp_path):
    saved(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", 2**60) + b"{}")
    with pytest.raises(CheckpointError, match="is damaged"):
        unstir.load(tmp_path)


def test_a_single_file_is_no_checkpoint(tmp_path):
    saved(tmp_path)
    with pytest.raises(CheckpointError, match="is a file and a checkpoint is a folder with model.safetensors and model.json$"):
        unstir.load(tmp_path / "model.safetensors")


def test_an_empty_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match=r"has no model.json in .*: no checkpoint folder, or a partial one"):
        unstir.load(tmp_path)


def test_a_folder_that_is_not_there_is_said_to_be_missing(tmp_path):
    for name in (tmp_path / "nowhere", str(tmp_path / "nowhere"), "./nowhere"):
        with pytest.raises(CheckpointError, match="there is no checkpoint folder .*nowhere"):
            unstir.load(name)


def test_an_unknown_name_is_answered_with_the_nearest(monkeypatch):
    from unstir import registry

    def path(kind, name):
        raise UnknownName("checkpoint", name, ["medical/ct-prior", "medical/mr-prior", "speech/enhancer"])

    monkeypatch.setattr(registry, "path", path)
    with pytest.raises(UnknownName, match="no checkpoint 'medical/ct-priro'; did you mean 'medical/ct-prior' or 'medical/mr-prior'"):
        unstir.load("medical/ct-priro")


def test_a_registered_checkpoint_whose_folder_is_gone_is_said_so(monkeypatch, tmp_path):
    from unstir import registry

    monkeypatch.setattr(registry, "path", lambda kind, name: tmp_path / "gone")
    with pytest.raises(CheckpointError, match="checkpoint medical/ct-prior is registered but its folder is missing: reinstall"):
        unstir.load("medical/ct-prior")


def test_a_registered_checkpoint_is_found_by_its_name(monkeypatch, tmp_path):
    from unstir import registry

    saved(tmp_path)
    monkeypatch.setattr(registry, "path", lambda kind, name: {("checkpoints", "lab/prior"): tmp_path}[kind, name])
    assert same(unstir.load("lab/prior"), denoiser())


def test_a_moved_folder_is_the_same_checkpoint(tmp_path):
    saved(tmp_path / "a")
    shutil.move(tmp_path / "a", tmp_path / "b")
    assert same(unstir.load(tmp_path / "b"), denoiser())


@pytest.mark.parametrize(("have", "need", "fits"), [
    ((5, -1, -1), (5, -1, -1), True), ((5, -1, -1), (5, 64, 64), True), ((5, -1, -1), (1, -1, -1), False), ((5, -1), (5, -1, -1), False),
])  # fmt: skip
def test_states_of_another_shape_are_refused(have, need, fits):
    model = denoiser(shape=have)
    if fits:
        checkpoint.check(model, shape=need)
    else:
        with pytest.raises(CheckpointError, match="this checkpoint was trained for states of shape"):
            checkpoint.check(model, shape=need)
