"""Small trainings for the tests of resumption; as a script, trainings that are really killed.

``python training_by_hand.py serve`` reads one JSON order a line, forks a training for each, kills it as ordered and answers with the
exit status (-9: killed). Torch is imported once, so that a killed training costs no start.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

from unstir.denoiser import NetworkDenoiser
from unstir.nn import MLP
from unstir.process import EDM
from unstir.train import EMA, DenoisingLoss, LogNormal, PowerEMA, Schedule, Trainer

STEPS = 30


class Dropped(nn.Module):
    """An MLP with dropout: a network that draws by itself."""

    def __init__(self):
        super().__init__()
        self.inner = small()
        self.drop = nn.Dropout(0.2)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x, label, condition=None):
        self.calls += 1
        return self.inner(self.drop(x), label)


def batches(step, rng):
    return {"x0": torch.from_numpy(0.3 * rng.standard_normal((8, 4), dtype="float32") + 0.1)}


def small():
    return MLP(4, width=16, depth=1, embedding=8)


def denoiser(network=Dropped, seed=0):
    torch.manual_seed(seed)
    return NetworkDenoiser(network(), EDM(), parameterisation="edm", shape=(4,), sigma_data=0.3)


def trainer(**options):
    made = {
        "denoiser": None,
        "batches": batches,
        "loss": DenoisingLoss(LogNormal(), "edm"),
        "steps": STEPS,
        "schedule": Schedule(1e-2, warmup=5, decay=16),
        "averages": {"ema": EMA(decay=0.9), "power": PowerEMA()},
        "weight_decay": 0.01,
        "every": 6,
        "accelerator": "cpu",
        "config": {"task": "test"},
    } | options
    made["denoiser"] = made["denoiser"] or denoiser()
    return Trainer(**made)


def last_state(folder):
    return sorted(Path(folder).glob("step-????????"))[-1]


def _die():
    os.kill(os.getpid(), signal.SIGKILL)


def _arm(at: str, count: int) -> None:
    """Make this process kill itself at a place of the trainer's writing, the ``count``-th time it comes there."""
    seen = [0]

    def due():
        seen[0] += 1
        return seen[0] == count

    write_bytes, write_text, rename, rmtree = Path.write_bytes, Path.write_text, Path.rename, shutil.rmtree

    def half_bytes(self, data):
        if self.name == "state.safetensors" and due():
            write_bytes(self, data[: len(data) // 2])
            _die()
        return write_bytes(self, data)

    def half_text(self, data, *more, **options):
        if self.name == "state.json" and due():
            write_text(self, data[: len(data) // 2])
            _die()
        return write_text(self, data, *more, **options)

    def before_rename(self, target):
        if due():
            _die()
        return rename(self, target)

    def after_rename(self, target):
        made = rename(self, target)
        if due():
            _die()
        return made

    def half_removed(path, *more, **options):
        if Path(path).suffix != ".tmp" and Path(path).exists() and due():
            (Path(path) / "state.safetensors").unlink()
            _die()
        return rmtree(path, *more, **options)

    if at == "weights":
        Path.write_bytes = half_bytes
    elif at == "json":
        Path.write_text = half_text
    elif at == "before-rename":
        Path.rename = before_rename
    elif at == "after-rename":
        Path.rename = after_rename
    elif at == "removal":
        shutil.rmtree = half_removed


def _serve() -> None:
    with tempfile.TemporaryDirectory() as folder:  # imports whatever a training imports late
        trainer(steps=1).run(folder)
    for line in sys.stdin:
        order = json.loads(line)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reader)
            code = 1
            try:
                _arm(order.get("at", ""), order.get("count", 1))
                trainer().run(order["folder"], resume=True, progress=lambda *_, end=writer: os.write(end, b"."))
                code = 0
            finally:
                os._exit(code)
        os.close(writer)
        told = 0
        while told < order.get("kill_after", STEPS + 1) and os.read(reader, 1):
            told += 1
        if "kill_after" in order:
            os.kill(child, signal.SIGKILL)  # from outside, wherever it is by now
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        os.close(reader)
        print(json.dumps({"status": status, "steps": told}), flush=True)


def _both(folder: str) -> None:
    """Two processes of one training (Lightning starts the second); each writes its weights."""
    made = trainer(denoiser=denoiser(small), loss=Regression(), devices=2, strategy="ddp", steps=7, every=4)
    made.run(folder)
    torch.save(made.denoiser.network.state_dict(), Path(folder) / f"rank-{os.environ.get('LOCAL_RANK', '0')}.pt")


class Regression:
    """A loss that draws nothing: the error of the estimate at one noise level."""

    def __call__(self, denoiser, x0, generator, condition=None):
        return (denoiser(x0, torch.full((len(x0),), 0.5)) - x0.square()).square().mean()


if __name__ == "__main__":
    torch.set_num_threads(1)
    _serve() if sys.argv[1] == "serve" else _both(sys.argv[2])
