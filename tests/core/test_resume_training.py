"""A training that was killed ends in the same bits as one that was not: weights, averages, optimiser and the log of losses."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import training_by_hand as by_hand  # noqa: E402

from unstir.errors import CheckpointError, UserError  # noqa: E402
from unstir.nn import MLP  # noqa: E402
from unstir.train import EMA, Schedule  # noqa: E402

ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def server():
    """Starts trainings in processes of their own and kills them: ``server(folder, ...)`` gives the exit status."""
    command = [sys.executable, str(HERE / "training_by_hand.py"), "serve"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ONE_THREAD)

    def order(folder, **how):
        process.stdin.write(json.dumps({"folder": str(folder), **how}) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    yield order
    process.stdin.close()
    process.wait()


@pytest.fixture(scope="module")
def whole(server, tmp_path_factory):
    """The training that nobody touched: the bytes of its last state and of its log."""
    folder = tmp_path_factory.mktemp("whole")
    assert server(folder)["status"] == 0
    return outcome(folder)


def outcome(folder):
    state = by_hand.last_state(folder)
    assert not list(folder.glob("*.tmp"))
    return state.name, (state / "state.safetensors").read_bytes(), (state / "state.json").read_text(), (folder / "loss.jsonl").read_text()


def test_a_training_is_the_same_in_another_process_of_the_same_kind(whole, server, tmp_path):
    assert server(tmp_path)["status"] == 0
    assert outcome(tmp_path) == whole


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_steps_it_ends_in_the_same_bits(seed, whole, server, tmp_path):
    rng, kills = random.Random(seed), 0
    for _ in range(5):
        kills += server(tmp_path, kill_after=rng.randrange(0, 11))["status"] == -9
    assert server(tmp_path)["status"] == 0
    assert kills >= 3  # a kill that comes after the last step finds nothing to kill
    assert outcome(tmp_path) == whole


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("at", ["weights", "json", "before-rename", "after-rename", "removal"])
def test_killed_while_it_writes_a_state_it_ends_in_the_same_bits(at, count, whole, server, tmp_path):
    assert server(tmp_path, at=at, count=count)["status"] == -9
    assert server(tmp_path)["status"] == 0
    assert outcome(tmp_path) == whole


def test_killed_twice_at_the_same_place_it_ends_in_the_same_bits(whole, server, tmp_path):
    for _ in range(2):
        assert server(tmp_path, at="weights", count=2)["status"] == -9
    assert server(tmp_path)["status"] == 0
    assert outcome(tmp_path) == whole


def test_a_line_of_the_log_that_was_cut_short_is_made_again(whole, server, tmp_path):
    server(tmp_path, at="weights", count=4)
    with (tmp_path / "loss.jsonl").open("a") as file:
        file.write('{"step": 27, "lo')
    assert server(tmp_path)["status"] == 0
    assert outcome(tmp_path) == whole


def test_a_finished_training_resumed_stays_as_it_is(whole, server, tmp_path):
    server(tmp_path)
    assert server(tmp_path) == {"status": 0, "steps": 0}
    assert outcome(tmp_path) == whole


def test_the_state_goes_on_in_the_weights_and_averages_of_the_trainer(tmp_path):
    constant = Schedule(1e-2, warmup=5)  # a way down would begin earlier in the shorter training
    by_hand.trainer(steps=12, schedule=constant).run(tmp_path)
    resumed, straight = by_hand.trainer(schedule=constant), by_hand.trainer(schedule=constant)
    losses = resumed.run(tmp_path, resume=True)
    assert losses == straight.run(tmp_path / "straight")[12:]
    for one, two in ((resumed.denoiser.network.state_dict(), straight.denoiser.network.state_dict()),) + tuple(
        (resumed.averages[name].weights(), straight.averages[name].weights()) for name in ("ema", "power")
    ):
        assert set(one) == set(two)
        assert all(torch.equal(one[key], two[key]) for key in one)
    assert resumed.averages["power"].count == straight.averages["power"].count == by_hand.STEPS


def test_the_last_two_states_are_kept(tmp_path):
    by_hand.trainer().run(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loss.jsonl", "step-00000024", "step-00000030"]


def test_a_state_holds_weights_averages_and_optimiser(tmp_path):
    made = by_hand.trainer(steps=6)
    made.run(tmp_path)
    state = load_file(by_hand.last_state(tmp_path) / "state.safetensors")
    for name, value in made.denoiser.network.state_dict().items():
        assert torch.equal(state[f"network/{name}"], value)
        for average in made.averages:
            assert torch.equal(state[f"average/{average}/{name}"], made.averages[average].weights()[name])
    count = len(list(made.denoiser.network.parameters()))
    assert {key for key in state if key.startswith("optimiser/")} == {
        f"optimiser/{i}/{key}" for i in range(count) for key in ("step", "exp_avg", "exp_avg_sq")
    }


def broken(folder, how):
    state = by_hand.last_state(folder)
    if how == "truncated":
        data = (state / "state.safetensors").read_bytes()
        (state / "state.safetensors").write_bytes(data[: len(data) // 2])
    elif how == "empty":
        (state / "state.safetensors").write_bytes(b"")
    elif how == "missing":
        (state / "state.safetensors").unlink()
    elif how == "no json":
        (state / "state.json").write_text('{"step": 12, "cou')
    elif how == "no counts":
        (state / "state.json").write_text('{"step": 12}')
    return state


@pytest.mark.parametrize("how", ["truncated", "empty", "missing", "no json", "no counts"])
def test_a_damaged_state_is_refused_and_the_one_before_goes_on_to_the_same_end(how, tmp_path):
    by_hand.trainer(steps=12).run(tmp_path / "a")
    state = broken(tmp_path / "a", how)
    with pytest.raises(CheckpointError, match="step-00000012 is damaged .*: remove it to go on from the state before"):
        by_hand.trainer(steps=12).run(tmp_path / "a", resume=True)
    shutil.rmtree(state)
    by_hand.trainer(steps=12).run(tmp_path / "a", resume=True)
    by_hand.trainer(steps=12).run(tmp_path / "b")
    assert outcome(tmp_path / "a") == outcome(tmp_path / "b")


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"config": {"task": "other"}}, "task: test there, other now"),
        ({"config": {"task": "test", "batch": 4}}, "batch: None there, 4 now"),
        ({"seed": 1}, "seed: 0 there, 1 now"),
        ({"clip": 0.5}, r"clip: 1.0 there, 0.5 now"),
        ({"precision": "bf16-mixed", "seed": 2}, "precision: 32-true there, bf16-mixed now; seed: 0 there, 2 now"),
        ({"averages": {"ema": EMA()}}, r"averages: \['ema', 'power'\] there, \['ema'\] now"),
    ],
)
def test_another_configuration_is_refused_with_the_difference(options, difference, tmp_path):
    by_hand.trainer(steps=2).run(tmp_path)
    before = outcome(tmp_path)
    with pytest.raises(CheckpointError, match=rf"another configuration \({difference}\)"):
        by_hand.trainer(**options).run(tmp_path, resume=True)
    assert outcome(tmp_path) == before


def test_another_network_is_refused(tmp_path):
    by_hand.trainer(steps=2).run(tmp_path)
    other = by_hand.denoiser(lambda: MLP(4, width=8, depth=1, embedding=8))
    with pytest.raises(CheckpointError, match="holds the training of another network"):
        by_hand.trainer(denoiser=other).run(tmp_path, resume=True)


def test_a_folder_in_use_is_refused_unless_resumed(tmp_path):
    by_hand.trainer(steps=2).run(tmp_path)
    before = outcome(tmp_path)
    with pytest.raises(CheckpointError, match="holds a training already .*: resume it, or train into another folder"):
        by_hand.trainer(steps=2).run(tmp_path)
    assert outcome(tmp_path) == before


def test_a_training_beyond_the_steps_asked_for_is_refused(tmp_path):
    by_hand.trainer(steps=8).run(tmp_path)
    with pytest.raises(CheckpointError, match="step-00000008 is 8 steps on already, beyond the 7 that are asked for"):
        by_hand.trainer(steps=7).run(tmp_path, resume=True)


def test_resuming_an_empty_folder_begins_anew(tmp_path):
    by_hand.trainer(steps=6).run(tmp_path / "a", resume=True)
    by_hand.trainer(steps=6).run(tmp_path / "b")
    assert outcome(tmp_path / "a") == outcome(tmp_path / "b")


def test_a_training_stopped_by_an_error_resumes_exactly(tmp_path):
    """What an observer raises after a state was kept leaves that state."""

    def full(step, trainer):
        if step == 12:
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        by_hand.trainer(on_save=full).run(tmp_path / "a")
    by_hand.trainer().run(tmp_path / "a", resume=True)
    by_hand.trainer().run(tmp_path / "b")
    assert outcome(tmp_path / "a") == outcome(tmp_path / "b")


def test_a_full_disk_leaves_the_state_before(tmp_path, monkeypatch):
    write = Path.write_bytes

    def full(self, data):
        if "step-00000012" in str(self):
            write(self, data[:100])
            raise OSError(28, "No space left on device")
        return write(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space left"):
            by_hand.trainer().run(tmp_path / "a")
    assert by_hand.last_state(tmp_path / "a").name == "step-00000006"
    by_hand.trainer().run(tmp_path / "a", resume=True)
    by_hand.trainer().run(tmp_path / "b")
    assert outcome(tmp_path / "a") == outcome(tmp_path / "b")


def test_a_learning_rate_that_diverges_is_refused_and_the_good_state_stays(tmp_path):
    by_hand.trainer(steps=6).run(tmp_path)
    with pytest.raises(UserError, match="not finite"):
        by_hand.trainer(schedule=Schedule(float("inf"), warmup=0)).run(tmp_path, resume=True)
    assert by_hand.last_state(tmp_path).name == "step-00000006"


@pytest.mark.slow
def test_two_processes_train_as_one_over_the_union_of_their_batches(tmp_path):
    """DDP with gloo on the CPU: the mean of two gradients is the gradient over both batches."""
    command = [sys.executable, str(HERE / "training_by_hand.py"), "both", str(tmp_path / "two")]
    done = subprocess.run(command, env=ONE_THREAD, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / "two" / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1))
    assert all(torch.equal(first[key], second[key]) for key in first)

    source = by_hand.trainer()

    def union(step, rng):
        parts = [source._batch(step, rank)["x0"] for rank in (0, 1)]
        assert not torch.equal(*parts)
        return {"x0": torch.cat(parts)}

    one = by_hand.trainer(denoiser=by_hand.denoiser(by_hand.small), loss=by_hand.Regression(), batches=union, steps=7, every=4)
    one.run(tmp_path / "one")
    for key, value in one.denoiser.network.state_dict().items():
        # float32 in another order of summation, through Adam: its first steps divide by |gradient|
        torch.testing.assert_close(first[key], value, rtol=1e-3, atol=1e-5)
    kept = load_file(by_hand.last_state(tmp_path / "two") / "state.safetensors")
    assert all(torch.equal(kept[f"network/{key}"], first[key]) for key in first)
