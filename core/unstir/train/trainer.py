"""A trainer on Lightning Fabric whose resumption is exact.

A batch is a function of (seed, step, rank) alone, and so is its noise and whatever the network draws: nothing but weights, optimiser
and averages needs to be kept, and a training killed at any moment and resumed ends in the same weights (bit for bit on a CPU).
"""

from __future__ import annotations

import json
import shutil
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
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
        """Train to the last step. Ctrl-C ends the step at work and keeps its state first; a second one stops at once.

        Args:
            folder: where states are kept (``step-N``, the last two) and the losses (``loss.jsonl``).
            resume: go on from the last whole state in ``folder``; start anew where there is none.
            progress: told of each step.

        Returns:
            The losses of the steps this call made.

        Raises:
            CheckpointError: the state kept is damaged, of another configuration or beyond the last step, or there is one and ``resume``
                is not set.
            UserError: the loss or the weights are not finite.
        """
        from lightning_fabric import Fabric

        folder = Path(folder)
        fabric = Fabric(accelerator=self.accelerator, devices=self.devices, precision=self.precision, strategy=self.strategy)  # type: ignore[arg-type]
        if fabric.world_size > 1 and not torch.distributed.is_initialized():
            fabric.launch()
        rank = fabric.global_rank
        network = self.denoiser.network.train()
        optimiser = torch.optim.AdamW(network.parameters(), lr=self.schedule.rate, betas=self.betas, weight_decay=self.weight_decay)
        wrapped, optimiser = fabric.setup(_Opening(network), optimiser)  # type: ignore[assignment]
        begin = self._begin(folder, network, optimiser, fabric, resume)
        self.denoiser.network = _Sealing(wrapped)
        losses: list[float] = []
        pending: list[tuple[int, Tensor]] = []
        forked = [fabric.device] if fabric.device.type == "cuda" else []
        try:
            with (
                closing(_ahead(lambda step: self._batch(step, rank), range(begin, self.steps))) as batches,
                torch.random.fork_rng(devices=forked),
                _brake(fabric.world_size) as is_pulled,
            ):
                for step, batch in batches:
                    value = self._step(step, batch, wrapped, optimiser, fabric)
                    for average in self.averages.values():
                        average.update(network)
                    pending.append((step, value))
                    is_due, stop = step + 1 == self.steps or (step + 1) % self.every == 0, is_pulled()
                    if len(pending) == 50 or is_due or stop:
                        losses += self._log(folder, pending, rank)
                    if is_due or stop:
                        if rank == 0:
                            self._keep(folder, step + 1, network, optimiser, fabric)
                            if self.on_save is not None and is_due:
                                self.on_save(step + 1, self)
                        fabric.barrier()
                    if progress is not None:
                        progress(step + 1, self.steps)
                    if stop:
                        raise KeyboardInterrupt
                if is_pulled():  # while the last state was kept
                    raise KeyboardInterrupt
        finally:
            self.denoiser.network = network
        return losses

    def _step(self, step: int, batch: Batch, wrapped: Any, optimiser: Any, fabric: Any) -> Tensor:
        """One step of the optimiser; the loss before it."""
        for group in optimiser.param_groups:
            group["lr"] = self.schedule.at(step, self.steps)
        generator = torch.Generator().manual_seed(_key(self.seed, step, fabric.global_rank, 1))
        torch.manual_seed(_key(self.seed, step, fabric.global_rank, 2))  # dropout, and whatever else draws by itself
        moved = fabric.to_device(dict(batch))
        value = self.loss(self.denoiser, moved["x0"], generator, moved.get("condition"))
        fabric.backward(value)
        self._before_step(wrapped, optimiser, fabric)
        optimiser.step()
        optimiser.zero_grad()
        return value.detach()

    def _before_step(self, wrapped: Any, optimiser: Any, fabric: Any) -> None:
        """What becomes of the gradients before the optimiser sees them: clipped by the norm of all."""
        if self.clip > 0:
            fabric.clip_gradients(wrapped, optimiser, max_norm=self.clip, error_if_nonfinite=False)

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

    def _keep(self, folder: Path, step: int, network: torch.nn.Module, optimiser: Any, fabric: Any) -> None:
        """Write a state under a temporary name and rename it, then drop all but the last two."""
        state = {f"network/{key}": value for key, value in network.state_dict().items()}
        bad = next((key for key, value in state.items() if not torch.isfinite(value).all()), None)
        if bad is not None:
            raise UserError(f"the weights are not finite after step {step - 1} ({bad}): a smaller learning rate or float32 may help")
        for name, average in self.averages.items():
            state |= {f"average/{name}/{key}": value for key, value in average.values.items()}
        kept = optimiser.state_dict()["state"]
        state |= {f"optimiser/{index}/{key}": torch.as_tensor(value) for index, entry in kept.items() for key, value in entry.items()}
        part = folder / f"step-{step:08d}.tmp"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        whole = safetensors.save({key: value.detach().cpu().contiguous().clone() for key, value in state.items()})
        (part / "state.safetensors").write_bytes(whole)
        counts = {name: average.count for name, average in self.averages.items()}
        meta = {"step": step, "counts": counts, "config": self._description()}
        scaler = fabric.strategy.precision.state_dict()  # of float16; empty otherwise
        (part / "state.json").write_text(json.dumps(meta | ({"scaler": scaler} if scaler else {})))
        target = folder / f"step-{step:08d}"
        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)
        for old in _states(folder)[:-2]:
            shutil.rmtree(old)

    def _begin(self, folder: Path, network: torch.nn.Module, optimiser: Any, fabric: Any, resume: bool) -> int:
        """The step to begin with, everything loaded that it needs."""
        states = _states(folder)
        if states and not resume:
            raise CheckpointError(f"{folder} holds a training already ({states[-1].name}): resume it, or train into another folder")
        begin = self._restore(states[-1], network, optimiser, fabric) if states else 0
        if begin > self.steps:
            raise CheckpointError(f"{states[-1]} is {begin} steps on already, beyond the {self.steps} that are asked for")
        if fabric.global_rank == 0:
            for part in folder.glob("step-*.tmp"):
                shutil.rmtree(part)
            _cut(folder / "loss.jsonl", begin)
        return begin

    def _restore(self, folder: Path, network: torch.nn.Module, optimiser: Any, fabric: Any) -> int:
        """Load a state; its step."""
        try:
            meta = json.loads((folder / "state.json").read_text())
            state = safetensors.load_file(folder / "state.safetensors")
            step, counts, config = int(meta["step"]), dict(meta["counts"]), dict(meta["config"])
        except KeyError as error:
            raise CheckpointError(f"{folder} is damaged (state.json lacks {error}): remove it to go on from the state before") from error
        except (SafetensorError, OSError, ValueError, TypeError) as error:
            raise CheckpointError(f"{folder} is damaged ({error}): remove it to go on from the state before") from error
        here = self._description()
        changed = sorted(key for key in {*config, *here} if config.get(key) != here.get(key))
        if changed:
            pairs = "; ".join(f"{key}: {config.get(key)} there, {here.get(key)} now" for key in changed)
            raise CheckpointError(f"{folder} holds a training of another configuration ({pairs})")
        if set(counts) != set(self.averages):
            there, now = sorted(counts), sorted(self.averages)
            raise CheckpointError(f"{folder} holds a training of another configuration (averages: {there} there, {now} now)")
        try:
            network.load_state_dict(_part(state, "network/"))
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise CheckpointError(f"{folder} holds the training of another network: {reason}") from error
        for name, average in self.averages.items():
            average.values = {key: value.to(fabric.device) for key, value in _part(state, f"average/{name}/").items()}
            average.count = counts[name]
        if "scaler" in meta:
            fabric.strategy.precision.load_state_dict(meta["scaler"])
        entries: dict[int, dict[str, Tensor]] = {}
        for key, value in _part(state, "optimiser/").items():
            index, _, name = key.partition("/")
            entries.setdefault(int(index), {})[name] = value
        optimiser.load_state_dict({"state": entries, "param_groups": optimiser.state_dict()["param_groups"]})
        return step

    def _description(self) -> dict[str, Any]:
        return json.loads(json.dumps({"seed": self.seed, "clip": self.clip, "precision": self.precision, **self.config}))


class _Sealed:
    """Arguments that Fabric's precision leaves as they are; rounded to bfloat16, step 999 could not be told from step 1000."""

    def __init__(self, *values: Any) -> None:
        self.values = values


class _Sealing(torch.nn.Module):
    """Seals the label and the condition on their way into Fabric's wrapper."""

    def __init__(self, wrapped: torch.nn.Module) -> None:
        super().__init__()
        self.wrapped = wrapped

    def forward(self, x: Any, label: Any, condition: Any) -> Any:
        return self.wrapped(x, _Sealed(label, condition))


class _Opening(torch.nn.Module):
    """Opens them on the other side."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Any, sealed: _Sealed) -> Any:
        return self.network(x, *sealed.values)


@contextmanager
def _brake(processes: int) -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed. With several processes, or where somebody else handles it, Python's own way stays."""
    mine = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if processes > 1 or not mine:
        yield lambda: False
        return
    pulled = threading.Event()

    def pull(*_: Any) -> None:
        pulled.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, pull)
    try:
        yield pulled.is_set
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _cut(path: Path, step: int) -> None:
    """Drop what a log says beyond a step, for these steps will be made again; a line cut short is dropped too."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines(keepends=True):
        with suppress(ValueError, KeyError):
            if line.endswith("\n") and json.loads(line)["step"] <= step:
                kept.append(line)
    part = path.with_name(path.name + ".tmp")
    part.write_text("".join(kept))
    part.replace(path)


def _states(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-*") if path.suffix != ".tmp" and (path / "state.json").exists())


def _part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}


def _key(*numbers: int) -> int:
    return int(np.random.SeedSequence([n % 2**63 for n in numbers]).generate_state(1, np.uint64)[0])


def _ahead(make: Callable[[int], Batch], steps: Sequence[int], depth: int = 3) -> Generator[tuple[int, Batch], None, None]:
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
        while thread.is_alive():
            with suppress(Empty):
                queue.get(timeout=0.05)
