"""The CT prior's training: what it never sees, what it writes, that it resumes, and that a method accepts what came out."""

import json
import math

import numpy as np
import pytest
import torch
import yaml

import unstir
from unstir import registry
from unstir.errors import CheckpointError, DataError, UserError
from unstir.space import Euclidean, Masked
from unstir_medical import prior
from unstir_medical import volume as volumes
from unstir_medical.diffusion import DDS
from unstir_medical.prior import HELD_OUT, LEVELS, VOLUMES, CTPriorTraining, held_out_psnr
from unstir_medical.slabs import Slabs
from unstir_medical.tasks import SparseViewCT


def volume(slices, side=40, spacing=(5.0, 2.0, 2.0), seed=0):
    """Soft blobs in air, -1000 to 400 HU."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in (slices, side, side)], indexing="ij")
    hu = np.full(z.shape, -1000.0)
    hu[x**2 + 1.4 * y**2 < 0.8] = 40
    for cz, cy, cx in rng.uniform(-0.6, 0.6, (5, 3)):
        hu[(z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2 < 0.1] = rng.uniform(-900, 400)
    return item(hu, spacing)


def item(hu, spacing=(5.0, 2.0, 2.0), key="made"):
    affine = np.diag([spacing[2], spacing[1], spacing[0], 1.0])
    attrs = {"key": key, "modality": "CT", "source": key, "orientation": "LPS"}
    return volumes.dataset(np.asarray(hu, dtype=np.float32), affine, attrs)


@pytest.fixture
def data(monkeypatch):
    """Registered volumes ``test/one`` and ``test/two``; more can be added."""
    made = {"test/one": volume(12), "test/two": volume(9, seed=1)}
    resolve = registry.resolve

    def fake(kind, name):
        if kind == "data" and name in made:
            return lambda: type("Data", (), {"load": lambda self: iter([made[name]])})()
        return resolve(kind, name)

    monkeypatch.setattr(registry, "resolve", fake)
    return made


def training(**options):
    small = {
        "volumes": {"test/one": {"axial": 2.0, "coronal": 0.5}, "test/two": {"axial": 1.0}},
        "held_out": ("test/one", 4, 8),
        "widths": (8, 12),
        "blocks": 1,
        "context": 1,
        "crop": 16,
        "batch": 2,
        "variants": 1,
        "steps": 4,
        "decay": 0,
        "warmup": 1,
        "every": 2,
    }
    return CTPriorTraining(**small | options)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# -- what it sees ----------------------------------------------------------------------------------------------------


def test_the_published_training_holds_out_a_slab_and_never_sees_the_test_patient():
    assert HELD_OUT[0] == "medical/lung2"
    assert HELD_OUT[2] - HELD_OUT[1] == 12
    assert set(VOLUMES) == {"medical/lung2", "medical/aorta", "medical/abdomen", "medical/siemens"}
    default = CTPriorTraining()
    assert default.volumes == VOLUMES
    assert default.held_out == HELD_OUT
    for name in VOLUMES:
        assert registry.names("data")[name].target.startswith("unstir_medical.datasets:")


@pytest.mark.parametrize("spacing", [(5.0, 2.0, 2.0), (1.0, 2.0, 2.0)], ids=["thick", "thin"])
def test_slabs_never_contain_held_out_slices(data, spacing):
    """The held-out slices are the only bright ones: no slab of any plane, however resampled, is bright anywhere."""
    hu = np.full((36, 40, 40), -800.0)
    hu[12:24] = 3000.0
    data["test/one"] = item(hu, spacing)
    made = training(held_out=("test/one", 12, 24), volumes={"test/one": {"axial": 1.0, "coronal": 1.0, "sagittal": 1.0}})
    sources, (held, held_spacing) = made.data()
    assert held.shape == (12, 40, 40)
    assert (held == 3000).all()
    assert held_spacing == spacing
    assert max(source.hu.max() for source in sources) == -800
    slabs = Slabs(sources, crop=8, context=2, batch=16, variants=3)
    brightest = max(float(slabs(step, np.random.default_rng(step))["x0"].max()) for step in range(20))
    assert brightest < 0.3  # -800 HU is 0.1, with the jitter of the window; a held-out voxel would be 1


def test_no_slab_spans_the_gap(data):
    """What lies below the held-out slab and what lies above it are different sources: no slab has both as neighbours."""
    hu = np.full((24, 40, 40), -600.0)
    hu[8:16], hu[16:] = 3000.0, 600.0
    data["test/one"] = item(hu)
    sources, _ = training(held_out=("test/one", 8, 16), volumes={"test/one": {"axial": 1.0}}).data()
    slabs = Slabs(sources, crop=8, context=2, batch=16, variants=1, rotation=0.0)
    for step in range(20):
        batch = slabs(step, np.random.default_rng(step))
        seen = batch["x0"].mean((2, 3))
        present = batch["condition"]["present"][:, :, 0, 0] > 0
        for row, there in zip(seen, present, strict=True):
            assert row[there].max() - row[there].min() < 0.2


def test_the_planes_of_a_divided_volume_share_its_weight(data):
    sources, _ = training(held_out=("test/one", 2, 6)).data()
    weights = [round(source.weight, 6) for source in sources]
    assert weights == [0.5, 0.125, 1.5, 0.375, 1.0]  # 2 and 6 of 8 slices; axial and coronal
    assert sum(weights) == pytest.approx(3.5)


@pytest.mark.parametrize("slab", [(0, 4), (8, 12)])
def test_a_slab_at_an_end_of_the_volume_can_be_held_out(data, slab):
    sources, (held, _) = training(held_out=("test/one", *slab)).data()
    assert len(held) == 4
    assert [len(source.hu) for source in sources if source.turns] == [8, 9]


def test_a_held_out_volume_that_is_not_trained_on_is_refused(data):
    with pytest.raises(UserError, match="held_out names test/three, which is not among the training volumes"):
        training(held_out=("test/three", 4, 8)).data()


# -- the denoiser ----------------------------------------------------------------------------------------------------


def test_the_untrained_denoiser_depends_on_the_seed_alone():
    torch.manual_seed(1)
    one = training().denoiser().network.state_dict()
    torch.manual_seed(2)
    before = torch.get_rng_state()
    two = training().denoiser().network.state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[key], two[key]) for key in one)
    other = training(seed=5).denoiser().network.state_dict()
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_the_denoiser_is_of_slices_with_neighbours():
    made = training(context=2).denoiser()
    assert (made.shape, made.context, made.parameterisation) == ((5, -1, -1), 2, "edm")
    assert made.space == Euclidean()
    assert training().denoiser(space=Masked("present")).space == Masked("present")
    assert made.normaliser.encode(torch.tensor([-1000.0, 0.0, 1000.0])).tolist() == [0.0, 0.5, 1.0]
    assert made(torch.zeros(2, 5, 9, 7), 0.5, {"grid": torch.zeros(1, 2)}).shape == (2, 1, 9, 7)


class Passing(torch.nn.Module):
    """Returns the middle slice as it is, and keeps what it saw."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x, t, condition):
        self.seen.append((x, condition["grid"]))
        return x[:, 1:2]


def test_the_held_out_psnr_of_doing_nothing_is_the_noise():
    """-20 log10(level): 12 x 20 x 20 squares of normals, 4 standard errors of the mean are 8 %, 0.35 dB."""
    held = volume(12, side=82)["hu"].values, (5.0, 0.6, 0.6)
    passing = Passing()
    found = held_out_psnr(passing, held, 1)
    assert list(found) == [str(level) for level in LEVELS]
    for level in LEVELS:
        assert found[str(level)] == pytest.approx(-20 * math.log10(level), abs=0.35)
    x, grid = passing.seen[0]
    assert x.shape == (12, 3, 20, 20)  # blocks of 4 x 4 pixels, what is left over cut off
    assert not x[0, 0].any()
    assert not x[-1, -1].any()
    assert x[0, 1].any()
    assert torch.equal(x[1, 0], x[0, 1])
    torch.testing.assert_close(grid[0], torch.tensor([0.0, math.log(2.4 / 2.28) / 0.3]))


def test_the_held_out_psnr_of_the_truth_is_endless_and_the_same_twice():
    held = volume(6)["hu"].values, (5.0, 0.6, 0.6)
    assert held_out_psnr(Passing(), held, 1) == held_out_psnr(Passing(), held, 1)

    class Halving(Passing):
        def forward(self, x, t, condition):
            return super().forward(x, t, condition) * 0.5

    better = held_out_psnr(Halving(), (np.full((6, 40, 40), -1000.0, np.float32), held[1]), 1)
    plain = held_out_psnr(Passing(), (np.full((6, 40, 40), -1000.0, np.float32), held[1]), 1)
    for level in plain:  # air is 0: half the noise, 6.02 dB
        assert better[level] - plain[level] == pytest.approx(20 * math.log10(2), abs=2e-3)


# -- from end to end -------------------------------------------------------------------------------------------------


def test_a_training_writes_a_checkpoint_that_a_method_accepts(data, tmp_path):
    told = []
    out = training().run(tmp_path / "prior", progress=lambda step, steps: told.append((step, steps)))
    assert out == tmp_path / "prior"
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert sorted(path.name for path in out.iterdir()) == ["CARD.md", "model.json", "model.safetensors", "training", "validation.jsonl"]

    scores = lines(out / "validation.jsonl")
    assert [line["step"] for line in scores] == [2, 4]
    assert all(list(line["psnr"]) == [str(level) for level in LEVELS] for line in scores)
    assert all(math.isfinite(value) for line in scores for value in line["psnr"].values())

    loaded = unstir.load(out)
    assert (loaded.shape, loaded.context, loaded.sigma_data) == ((3, -1, -1), 1, 0.25)
    assert loaded.facts["window_hu"] == [-1000, 1000]
    assert loaded.space == Euclidean()  # the mask of missing neighbours belongs to the training
    assert "test/one, test/two" in loaded.card
    assert "slices 4 to 7 of test/one held out" in loaded.card
    assert f"{scores[-1]['psnr']['0.1']:.2f} dB at 0.1" in loaded.card

    case = next(iter(SparseViewCT(views=6, size=32).cases([volume(4, 32)])))
    method = DDS(grid="karras:2,sigma_max=1,sigma_min=0.1", iterations=1)
    estimate = method(case, loaded, 0)
    assert estimate.data["hu"].shape == (4, 32, 32)
    assert np.isfinite(estimate.data["hu"]).all()
    assert estimate.info["prior_sha256"] == loaded.sha256
    assert estimate.nfe == 2


def test_the_checkpoint_holds_the_averaged_weights_in_half_precision(data, tmp_path, monkeypatch):
    kept = []
    card = CTPriorTraining.card
    monkeypatch.setattr(CTPriorTraining, "card", lambda self, ended: kept.append(ended.trainer) or card(self, ended))
    loaded = unstir.load(training().run(tmp_path / "prior")).network.state_dict()
    average, last = kept[0].averages["ema"].weights(), kept[0].denoiser.network.state_dict()
    assert all(torch.equal(loaded[key], average[key].half().float()) for key in loaded)
    assert any(not torch.equal(loaded[key], last[key].half().float()) for key in loaded)


def test_training_helps_on_the_held_out_slab(data, tmp_path):
    """60 steps of a tiny network, by its own measure: better than the best shrinkage of each pixel it began as."""
    data["test/one"], data["test/two"] = (volume(12, 64, (5.0, 0.6, 0.6), seed) for seed in (0, 1))
    made = training(steps=60, every=60, rate=3e-3, ema=0.9, batch=4)
    begun = held_out_psnr(made.denoiser().eval(), made.data()[1], 1)
    out = made.run(tmp_path)
    found = lines(out / "validation.jsonl")[-1]["psnr"]
    assert min(found[level] - begun[level] for level in ("0.1", "0.2", "0.4")) > 0.5, (begun, found)


def test_a_training_that_was_stopped_resumes_to_the_same_weights(data, tmp_path):
    class Stop(BaseException):
        pass

    def stop(step, steps):
        if step == 5:
            raise Stop

    straight = training(steps=6).run(tmp_path / "straight")
    with pytest.raises(Stop):
        training(steps=6).run(tmp_path / "resumed", progress=stop)
    assert not (tmp_path / "resumed" / "model.json").exists()
    resumed = training(steps=6).run(tmp_path / "resumed", resume=True)
    assert (straight / "model.safetensors").read_bytes() == (resumed / "model.safetensors").read_bytes()
    scores = [[(line["step"], line["psnr"]) for line in lines(out / "validation.jsonl")] for out in (straight, resumed)]
    assert scores[0] == scores[1]
    assert [step for step, _ in scores[0]] == [2, 4, 6]
    assert (straight / "CARD.md").read_text() == (resumed / "CARD.md").read_text()


def test_killed_between_the_last_state_and_its_validation_it_validates_on_resuming(data, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(prior, "held_out_psnr", kill)
        with pytest.raises(Killed):
            training(steps=2).run(tmp_path)
    assert not (tmp_path / "validation.jsonl").exists()
    (tmp_path / "validation.jsonl").write_text('{"step": 2, "ps')  # and in the middle of a line
    out = training(steps=2).run(tmp_path, resume=True)
    assert [line["step"] for line in lines(out / "validation.jsonl")] == [2]
    assert "dB at 0.02" in unstir.load(out).card


def test_a_resumed_training_with_other_options_is_refused_with_the_difference(data, tmp_path):
    training(steps=2).run(tmp_path)
    with pytest.raises(CheckpointError, match=r"another configuration \(batch: 2 there, 3 now; rate: 0.0004 there, 0.001 now\)"):
        training(steps=2, batch=3, rate=1e-3).run(tmp_path, resume=True)


def test_a_longer_training_goes_on_from_a_shorter_one(data, tmp_path):
    training(steps=2).run(tmp_path / "a")
    longer = training(steps=4).run(tmp_path / "a", resume=True)
    straight = training(steps=4).run(tmp_path / "b")
    assert (longer / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()


def test_volumes_that_cannot_be_had_are_said_so(monkeypatch, tmp_path):
    def missing(kind, name):
        raise DataError(f"{name} is not in the cache: unstir data get {name}")

    monkeypatch.setattr(registry, "resolve", missing)
    with pytest.raises(DataError, match="test/one is not in the cache: unstir data get test/one"):
        training().run(tmp_path)


# -- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def recipe(tmp_path):
    options = {
        "volumes": {"test/one": {"axial": 1.0}, "test/two": {"axial": 1.0}},
        "held_out": ["test/one", 4, 8],
        "widths": [8, 12],
        "blocks": 1,
        "context": 1,
        "crop": 16,
        "batch": 2,
        "variants": 1,
        "steps": 4,
        "decay": 0,
        "every": 2,
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({"title": "A tiny prior", "train": {"name": "medical/ct-prior", **options}}))
    return path


def call(*words):
    from unstir_pipelines.cli import app

    return app.call([str(word) for word in words])


def test_the_command_trains_and_resumes_to_the_same_bytes(data, recipe, tmp_path, monkeypatch, capsys):
    command = ["train", recipe, "--device", "cpu", "--quiet"]
    assert call(*command, "--out", tmp_path / "straight") == 0

    score, calls = prior.held_out_psnr, []

    def interrupt(*given):
        calls.append(given)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return score(*given)

    monkeypatch.setattr(prior, "held_out_psnr", interrupt)
    assert call(*command, "--out", tmp_path / "stopped") == 1
    error = capsys.readouterr().err
    assert "stopped: the same command with --out" in error
    assert "--resume goes on" in error
    assert "Traceback" not in error
    assert not (tmp_path / "stopped" / "model.json").exists()
    assert call(*command, "--out", tmp_path / "stopped") == 1  # without --resume
    assert "holds something already: add --resume" in capsys.readouterr().err
    assert call(*command, "--out", tmp_path / "stopped", "--resume") == 0
    one, two = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("straight", "stopped"))
    assert one == two
    assert unstir.load(tmp_path / "stopped").sha256 == unstir.load(tmp_path / "straight").sha256


def test_the_command_refuses_a_resumption_with_other_options_in_a_sentence(data, recipe, tmp_path, capsys):
    assert call("train", recipe, "--out", tmp_path / "out", "--device", "cpu", "--quiet") == 0
    assert call("train", recipe, "--out", tmp_path / "out", "--device", "cpu", "--quiet", "--resume", "--set", "train.batch=3") == 1
    error = capsys.readouterr().err
    assert "another configuration" in error
    assert "batch: 2 there, 3 now" in error
    assert "Traceback" not in error


def test_the_command_refuses_a_misspelt_option(data, recipe, tmp_path, capsys):
    assert call("train", recipe, "--out", tmp_path / "out", "--set", "train.stepz=3") != 0
    assert "steps" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_shipped_prior_was_made_by_the_shipped_recipe():
    recipe = yaml.safe_load(registry.path("recipes", "medical/ct-prior").read_text())["train"]
    prior = unstir.load("medical/ct-prior")
    training = CTPriorTraining(**{key: value for key, value in recipe.items() if key != "name"})
    assert f"{training.steps} steps of {training.batch} slabs of {training.crop} x {training.crop}" in prior.card
    assert f"precision {training.precision}" in prior.card
    assert prior.context == training.context
    folder = registry.path("checkpoints", "medical/ct-prior")
    assert sum(path.stat().st_size for path in folder.iterdir()) < 12e6
