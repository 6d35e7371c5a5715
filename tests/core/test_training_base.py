"""The base of trainings: what one keeps of its own is enough; a checkpoint with card and facts, validation lines that survive a kill."""

import json
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import unstir
from unstir import registry
from unstir.denoiser import NetworkDenoiser
from unstir.errors import CheckpointError
from unstir.nn import MLP
from unstir.process import EDM
from unstir.train import DenoiserTraining, DenoisingLoss, LogNormal, Schedule, Training, ValidationLog


@dataclass(frozen=True)
class Numbers:
    """Batches of rows of a table, the last row held out."""

    table: Any

    def __call__(self, step, generator):
        return {"x0": self.table[generator.integers(len(self.table) - 1, size=4)]}


@dataclass(frozen=True)
class Toy(DenoiserTraining[Numbers]):
    """A training of four numbers."""

    data: str = "toy/numbers"
    options: dict[str, Any] = field(default_factory=dict)
    width: int = 8
    steps: int = 4
    decay: int = 0
    ema: float = 0.5
    weight_decay: float = 0.01
    every: int = 2
    seed: int = 0

    registered: ClassVar[str] = "mlp"
    measure: ClassVar[str] = "error"

    def sampler(self, item):
        return Numbers(item)

    def trainer(self, sampler, device="cpu"):
        schedule = Schedule(1e-2, 1, self.decay)
        return self.prepared(self.denoiser(sampler), sampler, DenoisingLoss(LogNormal(), "edm"), self.steps, schedule, device, clip=0.5)

    def network(self, sampler):
        return {"size": 4, "width": self.width, "depth": 1, "embedding": 8}

    def denoiser(self, sampler):
        network = self.untrained(MLP, self.network(sampler))
        return NetworkDenoiser(network, EDM(), parameterisation="edm", shape=(4,), sigma_data=0.3)

    def score(self, denoiser, sampler):
        with torch.inference_mode():
            return float((denoiser(sampler.table[-1:] + 0.1, 0.1) - sampler.table[-1:]).square().mean())

    def card(self, ended):
        return f"{ended.trainer.steps} steps, {ended.where()}, error {ended.found:.4f}\n"

    def facts(self, ended):
        return {"rows": len(ended.item)}


TABLE = torch.from_numpy(np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32))


def lines(folder):
    return [json.loads(line) for line in (folder / "validation.jsonl").read_text().splitlines()]


def test_a_training_leaves_a_checkpoint_of_averaged_weights_with_card_and_facts(tmp_path):
    training, told = Toy(), []
    trainer = training.trainer(training.sampler(TABLE))
    trainer.run(tmp_path / "by-hand")
    loaded = unstir.load(training.fit(TABLE, tmp_path / "made", progress=lambda *done: told.append(done)))
    torch.testing.assert_close(dict(loaded.network.state_dict()), trainer.averages["ema"].weights(), rtol=0, atol=0)
    assert loaded.facts["rows"] == 12
    assert loaded.card.startswith("4 steps, one cpu (")
    found = lines(tmp_path / "made")
    assert [line["step"] for line in found] == [2, 4]
    assert found[-1]["error"] == training.score(training.averaged(trainer, Numbers(TABLE)), Numbers(TABLE))
    assert f"error {found[-1]['error']:.4f}" in loaded.card
    assert told[-1] == (4, 4)


def test_run_learns_the_set_that_the_options_name(tmp_path, monkeypatch):
    asked = {}

    def resolve(kind, name):
        assert (kind, name) == ("data", "toy/numbers")
        return lambda **options: asked.update(options) or type("Data", (), {"load": lambda self: iter([TABLE])})()

    with monkeypatch.context() as patch:
        patch.setattr(registry, "resolve", resolve)
        assert Toy(options={"rows": 12}).load() is TABLE
    assert asked == {"rows": 12}


def test_options_named_as_the_trainers_are_handed_on_and_others_take_their_place():
    trainer = Toy().trainer(Numbers(TABLE))
    assert (trainer.weight_decay, trainer.every, trainer.seed, trainer.clip) == (0.01, 2, 0, 0.5)
    assert trainer.precision == "32-true"  # no option of this training
    assert trainer.averages["ema"].decay == 0.5


def test_steps_may_change_when_a_training_is_resumed_and_other_options_may_not(tmp_path):
    Toy(steps=2).fit(TABLE, tmp_path / "a")
    longer = Toy(steps=4).fit(TABLE, tmp_path / "a", resume=True)
    straight = Toy(steps=4).fit(TABLE, tmp_path / "b")
    assert (longer / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()
    assert [line["step"] for line in lines(longer)] == [2, 4]
    with pytest.raises(CheckpointError, match="width: 8 there, 9 now"):
        Toy(width=9).fit(TABLE, tmp_path / "a", resume=True)


def test_killed_before_the_last_validation_it_validates_on_resuming(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def kill(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Toy, "score", kill)
        with pytest.raises(Killed):
            Toy(steps=2).fit(TABLE, tmp_path)
    (tmp_path / "validation.jsonl").write_text('{"step": 2, "er')  # and in the middle of a line
    Toy(steps=2).fit(TABLE, tmp_path, resume=True)
    assert [line["step"] for line in lines(tmp_path)] == [2]


def test_where_nothing_is_held_out_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(Toy, "score", lambda *_: None)
    monkeypatch.setattr(Toy, "card", lambda self, ended: f"found {ended.found}")
    assert unstir.load(Toy(steps=2).fit(TABLE, tmp_path)).card.strip() == "found None"
    assert not (tmp_path / "validation.jsonl").exists()


def test_untrained_weights_depend_on_the_seed_alone_and_leave_the_random_state():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = Toy().denoiser(Numbers(TABLE)).network.state_dict()
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    two = Toy().denoiser(Numbers(TABLE)).network.state_dict()
    other = replace(Toy(), seed=3).denoiser(Numbers(TABLE)).network.state_dict()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_a_line_takes_the_place_of_its_step_and_later_ones(tmp_path):
    log = ValidationLog(tmp_path / "log.jsonl")
    assert (log.lines, log.last) == ([], {})
    for step in (1, 2, 3):
        log.add({"step": step})
    log.add({"step": 2, "again": True})
    assert log.lines == [{"step": 1}, {"step": 2, "again": True}]
    assert log.last == {"step": 2, "again": True}
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


def test_a_training_must_say_what_is_its_own():
    with pytest.raises(TypeError, match="abstract"):
        Training()  # type: ignore[abstract]
