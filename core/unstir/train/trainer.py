"""A trainer on Lightning Fabric whose resumption is exact.

A batch is a function of (seed, step, rank) alone, and so is its noise: nothing but weights, optimiser and averages needs to be kept,
and a training killed at any moment and resumed ends in the same weights (bit for bit on a CPU).
"""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from unstir.denoiser import NetworkDenoiser
from unstir.errors import CheckpointError, UserError
from unstir.train.ema import EMA, Average
from unstir.train.loss import DenoisingLoss

Batch = Mapping[str, Any]
Batches = Callable[[int, np.random.Generator], Batch]


@dataclass(frozen=True)
class Schedule:
    """Learning rate: a linear warm-up, a plateau, and a linear way down to ``last`` over the final ``decay`` steps.

    Args:
        rate: learning rate of the plateau.
        warmup: steps of the warm-up.
        decay: steps of the way down.
        last: share of ``rate`` at the end.
    """

    rate: float = 2e-4
    warmup: int = 500
    decay: int = 0
    last: float = 0.0

    def at(self, step: int, steps: int) -> float:
        """Learning rate of a step (0-based) of a training of ``steps``."""
        up = min(1.0, (step + 1) / max(self.warmup, 1))
        left = steps - step
        down = 1.0 if self.decay == 0 or left > self.decay else self.last + (1 - self.last) * left / self.decay
        return self.rate * up * down


@dataclass
class Trainer:
    """Train a denoiser's network.

    Args:
        denoiser: what is trained (its ``network``).
        batches: ``batches(step, generator)`` gives ``{"x0": state, "condition": mapping or None}`` from the step and a numpy
            generator keyed by (seed, step, rank); it must draw from nothing else.
        loss: the denoising loss.
        steps: optimiser steps.
        schedule: learning rate.
        averages: running averages of the weights, by name.
        seed: of everything.
        clip: gradients are clipped to this norm; 0: never.
        weight_decay: of AdamW.
        betas: of AdamW.
        accelerator, devices, precision, strategy: as Lightning Fabric takes them (``precision="bf16-mixed"``).
        every: steps between two saved states.
        config: JSON-able description; a resumption with another one is refused.
        on_save: called with (step, trainer) after each saved state, on rank 0 (validation).
    """

    denoiser: NetworkDenoiser
    batches: Batches
    loss: DenoisingLoss
    steps: int
    schedule: Schedule = field(default_factory=Schedule)
    averages: dict[str, Average] = field(default_factory=lambda: {"ema": EMA()})
    seed: int = 0
    clip: float = 1.0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    accelerator: str = "auto"
    devices: int | str = 1
    precision: str = "32-true"
    strategy: str = "auto"
    every: int = 1000
    config: Mapping[str, Any] = field(default_factory=dict)
    on_save: Callable[[int, Trainer], None] | None = None

    def run(self, folder: str | Path, *, resume: bool = False, progress: Callable[[int, int], None] | None = None) -> list[float]:
        """Train to the last step.

        Args:
            folder: where states are kept (``step-N``, the last two) and the losses (``loss.jsonl``).
            resume: go on from the last whole state in ``folder``; start anew where there is none.
            progress: told of each step.

        Returns:
            The losses of the steps this call made.

        Raises:
            CheckpointError: the state kept is of another configuration.
            UserError: the loss is not finite.
        """
        from lightning_fabric import Fabric

        folder = Path(folder)
        fabric = Fabric(accelerator=self.accelerator, devices=self.devices, precision=self.precision, strategy=self.strategy)  # type: ignore[arg-type]
        if fabric.world_size > 1 and not torch.distributed.is_initialized():
            fabric.launch()
        network = self.denoiser.network.train()
        optimiser = torch.optim.AdamW(network.parameters(), lr=self.schedule.rate, betas=self.betas, weight_decay=self.weight_decay)
        wrapped, optimiser = fabric.setup(network, optimiser)  # type: ignore[assignment]
        begin = self._restore(folder, network, optimiser) if resume else 0
        self.denoiser.network = wrapped
        losses: list[float] = []
        pending: list[tuple[int, Tensor]] = []
        try:
            for step, batch in _ahead(lambda step: self._batch(step, fabric.global_rank), range(begin, self.steps)):
                for group in optimiser.param_groups:
                    group["lr"] = self.schedule.at(step, self.steps)
                generator = torch.Generator().manual_seed(_key(self.seed, step, fabric.global_rank, 1))
                moved = fabric.to_device(dict(batch))
                value = self.loss(self.denoiser, moved["x0"], generator, moved.get("condition"))
                fabric.backward(value)
                if self.clip > 0:
                    fabric.clip_gradients(wrapped, optimiser, max_norm=self.clip, error_if_nonfinite=False)
                optimiser.step()
                optimiser.zero_grad()
                for average in self.averages.values():
                    average.update(network)
                pending.append((step, value.detach()))
                if len(pending) == 50 or step + 1 == self.steps or (step + 1) % self.every == 0:
                    losses += self._log(folder, pending, fabric.global_rank)
                if (step + 1) % self.every == 0 or step + 1 == self.steps:
                    if fabric.global_rank == 0:
                        self._keep(folder, step + 1, network, optimiser)
                        if self.on_save is not None:
                            self.on_save(step + 1, self)
                    fabric.barrier()
                if progress is not None:
                    progress(step + 1, self.steps)
        finally:
            self.denoiser.network = network
        return losses

    def _batch(self, step: int, rank: int) -> Batch:
        return self.batches(step, np.random.Generator(np.random.Philox(key=_key(self.seed, step, rank, 0))))

    def _log(self, folder: Path, pending: list[tuple[int, Tensor]], rank: int) -> list[float]:
        values = [float(value) for _, value in pending]
        bad = next((step for (step, _), value in zip(pending, values, strict=True) if not np.isfinite(value)), None)
        if bad is not None:
            raise UserError(f"the loss is not finite at step {bad}: a smaller learning rate, a longer warm-up or float32 may help")
        if rank == 0:
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / "loss.jsonl").open("a") as file:
                file.write(json.dumps({"step": pending[-1][0] + 1, "loss": float(np.mean(values))}) + "\n")
        pending.clear()
        return values

    def _keep(self, folder: Path, step: int, network: torch.nn.Module, optimiser: Any) -> None:
        """Write a state under a temporary name and rename it, then drop all but the last two."""
        state = {f"network/{key}": value for key, value in network.state_dict().items()}
        for name, average in self.averages.items():
            state |= {f"average/{name}/{key}": value for key, value in average.values.items()}
        kept = optimiser.state_dict()["state"]
        state |= {f"optimiser/{index}/{key}": torch.as_tensor(value) for index, entry in kept.items() for key, value in entry.items()}
        part = folder / f"step-{step:08d}.tmp"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        save_file({key: value.detach().cpu().contiguous().clone() for key, value in state.items()}, part / "state.safetensors")
        counts = {name: average.count for name, average in self.averages.items()}
        (part / "state.json").write_text(json.dumps({"step": step, "counts": counts, "config": self._description()}))
        target = folder / f"step-{step:08d}"
        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)
        for old in _states(folder)[:-2]:
            shutil.rmtree(old)

    def _restore(self, folder: Path, network: torch.nn.Module, optimiser: Any) -> int:
        """Load the last whole state; the step to go on with (0 when there is none)."""
        states = _states(folder)
        if not states:
            return 0
        meta = json.loads((states[-1] / "state.json").read_text())
        changed = sorted(key for key in {*meta["config"], *self._description()} if meta["config"].get(key) != self._description().get(key))
        if changed:
            pairs = "; ".join(f"{key}: {meta['config'].get(key)} there, {self._description().get(key)} now" for key in changed)
            raise CheckpointError(f"{folder} holds a training of another configuration ({pairs})")
        state = load_file(states[-1] / "state.safetensors")
        network.load_state_dict(_part(state, "network/"))
        for name, average in self.averages.items():
            average.values = _part(state, f"average/{name}/")
            average.count = meta["counts"][name]
        entries: dict[int, dict[str, Tensor]] = {}
        for key, value in _part(state, "optimiser/").items():
            index, _, name = key.partition("/")
            entries.setdefault(int(index), {})[name] = value
        optimiser.load_state_dict({"state": entries, "param_groups": optimiser.state_dict()["param_groups"]})
        return int(meta["step"])

    def _description(self) -> dict[str, Any]:
        return json.loads(json.dumps({"seed": self.seed, "clip": self.clip, "precision": self.precision, **self.config}))


def _states(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if path.suffix != ".tmp" and (path / "state.json").exists())


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}


def _key(*numbers: int) -> int:
    return int(np.random.SeedSequence([n % 2**63 for n in numbers]).generate_state(1, np.uint64)[0])


def _ahead(make: Callable[[int], Batch], steps: Sequence[int], depth: int = 3) -> Iterator[tuple[int, Batch]]:
    """Batches made in a thread while the network works; their content depends on the step alone."""
    queue: Queue[Any] = Queue(depth)
    stop = threading.Event()

    def work() -> None:
        try:
            for step in steps:
                if stop.is_set():
                    return
                queue.put((step, make(step)))
            queue.put(None)
        except BaseException as error:
            queue.put(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (item := queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        while not queue.empty():
            queue.get_nowait()
