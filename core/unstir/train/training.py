"""What every training of one denoiser is: a set, batches of it, a trainer that resumes, averaged weights, a checkpoint with its card.

    item -> sampler -> trainer (states in ``training``, a line of ``validation.jsonl`` beside each) -> averaged weights -> checkpoint

A training is a frozen dataclass whose fields are its options. What it has of its own is batches, network, denoiser, loss, score and the
sentences of its card; the rest is here.
"""

from __future__ import annotations

import json
import platform
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch

from unstir import checkpoint, registry
from unstir.plugin.protocols import Progress
from unstir.train.ema import EMA
from unstir.train.trainer import Schedule, Trainer

Sampler = TypeVar("Sampler")
Network = TypeVar("Network", bound=torch.nn.Module)
HANDED = ("clip", "weight_decay", "precision", "every")
"""Options of a training that are its trainer's, where it has them."""


class Training(ABC):
    """A training of a set, written as a frozen dataclass whose fields are its options.

    ``data`` and ``options`` name the set, ``ema`` is the decay of the averaged weights and ``seed`` of everything; ``clip``,
    ``weight_decay``, ``precision`` and ``every`` are the trainer's, where there are such.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    free: ClassVar[tuple[str, ...]] = ("steps", "decay", "every")
    """Options that may change from one run to the next that resumes it."""

    def run(self, out: str | Path, *, device: str = "cpu", progress: Progress = None, resume: bool = False) -> Path:
        """Train (or go on) in ``out/training`` and write the checkpoint to ``out``; validation goes to ``out/validation.jsonl``.

        Args:
            out: the checkpoint folder.
            device: ``"cpu"`` or ``"cuda"``.
            progress: told of each step.
            resume: go on from the last state kept?

        Returns:
            The checkpoint folder.
        """
        return self.fit(self.load(), out, device=device, progress=progress, resume=resume)

    def load(self) -> Any:
        """The set that the options name: the first item of the dataset."""
        options: Any = self
        return next(iter(registry.resolve("data", options.data)(**options.options).load()))

    @abstractmethod
    def fit(self, item: Any, out: str | Path, *, device: str = "cpu", progress: Progress = None, resume: bool = False) -> Path:
        """Train on a set at hand.

        Args:
            item: the set; where it says which part is for the test, this is not seen.
            out: the checkpoint folder.
            device: ``"cpu"`` or ``"cuda"``.
            progress: told of each step.
            resume: go on from the last state kept?

        Returns:
            The checkpoint folder.
        """

    def prepared(
        self,
        denoiser: Any,
        batches: Any,
        loss: Any,
        steps: int,
        schedule: Schedule,
        device: str,
        *,
        kind: type[Trainer] = Trainer,
        **more: Any,
    ) -> Trainer:
        """The core's trainer with the options of this training.

        Args:
            denoiser: what is trained.
            batches: draws batches by (step, generator) alone.
            loss: of a batch.
            steps: optimiser steps.
            schedule: learning rate.
            device: ``"cpu"`` or ``"cuda"``.
            kind: the trainer's class.
            more: arguments of the trainer that take the place of the training's own.
        """
        options: dict[str, Any] = asdict(self)  # type: ignore[call-overload]
        return kind(
            denoiser,
            batches,
            loss,
            steps,
            schedule,
            {"ema": EMA(decay=options["ema"])},
            options["seed"],
            accelerator="cuda" if device.startswith("cuda") else "cpu",
            config={key: value for key, value in options.items() if key not in self.free},
            **{key: options[key] for key in HANDED if key in options} | more,
        )

    def untrained(self, network: Callable[..., Network], config: Mapping[str, Any]) -> Network:
        """A network whose weights depend on the seed alone; the random state stays as it was.

        Args:
            network: its class.
            config: its keyword arguments.
        """
        options: Any = self
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(options.seed)
            return network(**config)


@dataclass(frozen=True)
class Ended(Generic[Sampler]):
    """A training that has come to its end, as its card tells of it.

    Args:
        item: the set.
        sampler: what was learnt, and what was held out.
        trainer: after its last step.
        found: score of the averaged weights; ``None`` where nothing is held out.
        device: ``"cpu"`` or ``"cuda"``.
        seconds: that this run took.
    """

    item: Any
    sampler: Sampler
    trainer: Trainer
    found: Any
    device: str
    seconds: float

    def where(self, digits: int = 1) -> str:
        """On what and for how long, as ``one cpu (x86_64), 1.4 h``.

        Args:
            digits: of the hours.
        """
        return f"one {self.device} ({platform.machine()}), {self.seconds / 3600:.{digits}f} h"


class DenoiserTraining(Training, Generic[Sampler]):
    """A training of one denoiser, whose averaged weights become the checkpoint."""

    registered: ClassVar[str]
    """Registered name of the network."""
    dtype: ClassVar[torch.dtype | None] = None
    """Of the weights on disk; as they are when ``None``."""
    measure: ClassVar[str] = "loss"
    """What the score is called in ``validation.jsonl``."""

    def fit(self, item: Any, out: str | Path, *, device: str = "cpu", progress: Progress = None, resume: bool = False) -> Path:
        """Train on a set at hand.

        Args:
            item: the set; where it says which part is for the test, this is not seen.
            out: the checkpoint folder.
            device: ``"cpu"`` or ``"cuda"``.
            progress: told of each step.
            resume: go on from the last state kept?

        Returns:
            The checkpoint folder.
        """
        out, started = Path(out), time.monotonic()
        sampler, log = self.sampler(item), ValidationLog(out / "validation.jsonl")
        out.mkdir(parents=True, exist_ok=True)
        trainer = self.trainer(sampler, device)

        def validate(step: int, trainer: Trainer) -> None:
            found = self.score(self.averaged(trainer, sampler), sampler)
            if found is not None:
                log.add({"step": step, "seconds": round(time.monotonic() - started), self.measure: found})

        trainer.on_save = validate
        trainer.run(out / "training", resume=resume, progress=progress)
        if log.last.get("step") != trainer.steps:  # killed between the last state and its validation
            validate(trainer.steps, trainer)
        denoiser = self.averaged(trainer, sampler)
        ended = Ended(item, sampler, trainer, log.last.get(self.measure), device, time.monotonic() - started)
        denoiser.card = self.card(ended)
        return checkpoint.save(
            denoiser, out, network=self.registered, config=self.network(sampler), dtype=self.dtype, facts=self.facts(ended)
        )

    @abstractmethod
    def sampler(self, item: Any) -> Sampler:
        """What draws the batches, and holds some of the set out.

        Args:
            item: the set.
        """

    @abstractmethod
    def trainer(self, sampler: Sampler, device: str = "cpu") -> Trainer:
        """The core's trainer, ready to run.

        Args:
            sampler: what is learnt.
            device: ``"cpu"`` or ``"cuda"``.
        """

    @abstractmethod
    def network(self, sampler: Sampler) -> dict[str, Any]:
        """Keyword arguments of the network.

        Args:
            sampler: what is learnt.
        """

    @abstractmethod
    def denoiser(self, sampler: Sampler) -> Any:
        """The untrained denoiser; its weights depend on the seed alone.

        Args:
            sampler: what is learnt.
        """

    def averaged(self, trainer: Trainer, sampler: Sampler) -> Any:
        """The denoiser with the averaged weights, in evaluation mode.

        Args:
            trainer: after some steps.
            sampler: what is learnt.
        """
        other = self.denoiser(sampler)
        other.network.load_state_dict(trainer.averages["ema"].weights())
        return other.eval()

    @abstractmethod
    def score(self, denoiser: Any, sampler: Sampler) -> Any:
        """What held-out members of the set say of a denoiser, the same whenever it is asked; anything that JSON can hold.

        Args:
            denoiser: in evaluation mode.
            sampler: with the held-out ones.
        """

    @abstractmethod
    def card(self, ended: Ended[Sampler]) -> str:
        """The model card.

        Args:
            ended: the training.
        """

    @abstractmethod
    def facts(self, ended: Ended[Sampler]) -> dict[str, Any]:
        """What the checkpoint keeps beside its weights.

        Args:
            ended: the training.
        """


@dataclass(frozen=True)
class ValidationLog:
    """A file of one JSON line a step, written whole or not at all.

    Args:
        path: the file; made by the first line.
    """

    path: Path

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The lines that are whole."""
        found = []
        for text in self.path.read_text().splitlines() if self.path.exists() else []:
            with suppress(ValueError):
                found.append(json.loads(text))
        return found

    @property
    def last(self) -> dict[str, Any]:
        """The last line; empty where there is none."""
        return (self.lines or [{}])[-1]

    def add(self, line: Mapping[str, Any]) -> None:
        """Add a line in place of those of its step and later ones, which a resumed training makes again.

        Args:
            line: with ``step``.
        """
        kept = [old for old in self.lines if old["step"] < line["step"]]
        part = self.path.with_name(self.path.name + ".tmp")
        part.write_text("".join(json.dumps(one) + "\n" for one in [*kept, line]))
        part.replace(self.path)
