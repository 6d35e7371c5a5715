"""Training of ``medical/ct-prior``: a denoiser of CT slices that sees its neighbours, on the volumes of four patients.

D(x_t, t) of the middle slice of five,   u = (HU + 1000)/2000 clipped to [0, 1],   EDM preconditioning
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from unstir import checkpoint, registry
from unstir.denoiser import NetworkDenoiser, Normaliser
from unstir.errors import UserError
from unstir.nn import UNet
from unstir.process import EDM
from unstir.space import Masked, Space
from unstir.train import EMA, DenoisingLoss, LogUniform, Mixture, Schedule, Trainer
from unstir_medical import volume as volumes
from unstir_medical.slabs import Slabs, Source, features, planes

VOLUMES: dict[str, dict[str, float]] = {
    "medical/lung2": {"axial": 3.0},
    "medical/aorta": {"axial": 2.0, "coronal": 0.3, "sagittal": 0.3},
    "medical/abdomen": {"axial": 0.7, "coronal": 0.15, "sagittal": 0.15},
    "medical/siemens": {"axial": 0.7},
}
HELD_OUT = ("medical/lung2", 24, 36)
"""Slices of lung2 that no slab of the training contains: 60 mm of the chest, for early stopping and the choice of options."""
LEVELS = (0.02, 0.05, 0.1, 0.2, 0.4)
"""Noise levels (state unit) at which the held-out slab is denoised."""


def network_config(widths: tuple[int, ...], blocks: int, context: int) -> dict[str, Any]:
    """Keyword arguments of the prior's U-Net."""
    return {
        "dim": 2, "in_channels": 1 + 2 * context, "out_channels": 1, "widths": list(widths), "blocks": blocks,
        "features": 2, "feature_key": "grid",
    }  # fmt: skip


@dataclass(frozen=True)
class CTPriorTraining:
    """Train the CT prior and write its checkpoint folder.

    Args:
        volumes: datasets and the weights of their planes.
        held_out: dataset, first slice and end of the slab kept for validation.
        widths: channels of the network's levels.
        blocks: residual blocks a level.
        context: neighbouring slices on either side.
        crop: side of a training slab, pixels.
        batch: slabs a step.
        variants: grids each plane is resampled to.
        steps: optimiser steps.
        rate: learning rate of the plateau.
        warmup: steps of its warm-up.
        decay: steps of the linear way down at the end.
        ema: decay of the averaged weights.
        low, middle, high: noise levels: log-uniform on [low, middle] for ``share`` of the slabs, on [middle, high] for the rest.
        share: see above.
        precision: as Lightning Fabric takes it.
        every: steps between saved states (each validated).
        seed: of everything.
    """

    volumes: dict[str, dict[str, float]] = field(default_factory=lambda: {name: dict(planes_) for name, planes_ in VOLUMES.items()})
    held_out: tuple[str, int, int] = HELD_OUT
    widths: tuple[int, ...] = (64, 128, 192)
    blocks: int = 2
    context: int = 2
    crop: int = 96
    batch: int = 8
    variants: int = 24
    steps: int = 20000
    rate: float = 4e-4
    warmup: int = 500
    decay: int = 5000
    ema: float = 0.999
    low: float = 0.004
    middle: float = 0.8
    high: float = 80.0
    share: float = 0.85
    precision: str = "32-true"
    every: int = 500
    seed: int = 0

    needs: ClassVar[tuple[str, ...]] = ()

    def run(
        self, out: str | Path, *, device: str = "cpu", progress: Callable[[int, int], None] | None = None, resume: bool = False
    ) -> Path:
        """Train (or go on) in ``out/training`` and write the checkpoint to ``out``; validation goes to ``out/validation.jsonl``.

        Returns:
            The checkpoint folder.
        """
        out = Path(out)
        out.mkdir(parents=True, exist_ok=True)
        config = {key: value for key, value in asdict(self).items() if key not in ("steps", "decay", "every")}
        training, held = self.data()
        denoiser = self.denoiser(Masked("present"))
        slabs = Slabs(training, crop=self.crop, context=self.context, batch=self.batch, variants=self.variants, seed=self.seed)
        started = time.monotonic()

        def validate(step: int, trainer: Trainer) -> None:
            scores = held_out_psnr(self.averaged(trainer), held, self.context)
            line = {"step": step, "seconds": round(time.monotonic() - started), "psnr": scores}
            _log(out / "validation.jsonl", [*(old for old in _logged(out / "validation.jsonl") if old["step"] < step), line])

        trainer = Trainer(
            denoiser,
            slabs,
            DenoisingLoss(Mixture(LogUniform(self.low, self.middle), LogUniform(self.middle, self.high), self.share), "edm"),
            self.steps,
            Schedule(self.rate, self.warmup, self.decay, 0.02),
            {"ema": EMA(decay=self.ema)},
            self.seed,
            accelerator="cuda" if device.startswith("cuda") else "cpu",
            precision=self.precision,
            every=self.every,
            config=config,
            on_save=validate,
        )
        trainer.run(out / "training", resume=resume, progress=progress)
        if _last(out / "validation.jsonl").get("step") != self.steps:  # killed between the last state and its validation
            validate(self.steps, trainer)
        return self.write(out, trainer)

    def data(self) -> tuple[list[Source], tuple[np.ndarray, tuple[float, float, float]]]:
        """Training planes, and the held-out slab as (HU at full resolution, spacing)."""
        sources: list[Source] = []
        held: tuple[np.ndarray, tuple[float, float, float]] | None = None
        for name, weights in self.volumes.items():
            for item in registry.resolve("data", name)().load():
                hu, spacing = item["hu"].values.astype(np.float32), volumes.spacing_of(item)
                if name == self.held_out[0]:
                    first, end = self.held_out[1:]
                    held = hu[first:end].copy(), spacing
                    parts = [hu[:first], hu[end:]]
                    total = sum(len(part) for part in parts)
                    for part in (part for part in parts if len(part)):
                        scaled = {plane: weight * len(part) / total for plane, weight in weights.items()}
                        sources += planes(part, spacing, scaled)
                else:
                    sources += planes(hu, spacing, weights)
        if held is None:
            raise UserError(f"held_out names {self.held_out[0]}, which is not among the training volumes")
        return sources, held

    def denoiser(self, space: Space | None = None) -> NetworkDenoiser:
        """The untrained denoiser; its weights depend on the seed alone. In training, missing neighbours have no noise (``space``)."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = UNet(**network_config(self.widths, self.blocks, self.context))
        return NetworkDenoiser(
            network,
            EDM(),
            parameterisation="edm",
            shape=(1 + 2 * self.context, -1, -1),
            sigma_data=0.25,
            context=self.context,
            space=space,
            normaliser=Normaliser(-1000.0, 2000.0),
        )

    def averaged(self, trainer: Trainer) -> NetworkDenoiser:
        """The denoiser with the averaged weights, in evaluation mode."""
        other = self.denoiser()
        other.network.load_state_dict(trainer.averages["ema"].weights())
        return other.eval()

    def write(self, out: Path, trainer: Trainer) -> Path:
        """The checkpoint of the averaged weights, in half precision on disk."""
        denoiser = self.averaged(trainer)
        denoiser.card = card(self, _last(out / "validation.jsonl"))
        facts = {"window_hu": [-1000, 1000], "pixel_mm": [1.7, 3.0], "slice_distance_mm": [3.0, 6.0], "noise": [self.low, self.high]}
        config = network_config(self.widths, self.blocks, self.context)
        return checkpoint.save(denoiser, out, network="unet", config=config, dtype=torch.float16, facts=facts)


def held_out_psnr(denoiser: NetworkDenoiser, held: tuple[np.ndarray, tuple[float, float, float]], context: int) -> dict[str, float]:
    """PSNR (dB, range 1) of the denoised held-out slab at `LEVELS`, 4 x 4 block means, neighbours zero beyond its ends."""
    hu, (dz, dy, _) = held
    side = min(hu.shape[1:]) // 4 * 4
    blocks = np.clip(hu[:, :side, :side], -1000, 1000).reshape(len(hu), side // 4, 4, side // 4, 4).mean((2, 4))
    clean = torch.from_numpy((blocks.astype(np.float32) + 1000) / 2000)
    generator = torch.Generator().manual_seed(0)
    condition = {"grid": features(dz, 4 * dy)[None].expand(len(clean), 2)}
    scores = {}
    with torch.inference_mode():
        for level in LEVELS:
            noisy = clean + level * torch.randn(clean.shape, generator=generator)
            padded = torch.nn.functional.pad(noisy, (0, 0, 0, 0, context, context))
            slab = torch.stack([padded[i : i + 1 + 2 * context] for i in range(len(clean))])
            error = (denoiser(slab, level, condition)[:, 0] - clean).square().mean()
            scores[str(level)] = round(float(-10 * torch.log10(error)), 3)
    return scores


def card(training: CTPriorTraining, validation: Mapping[str, Any]) -> str:
    """The model card of a finished training."""
    levels = ", ".join(f"{value:.2f} dB at {level}" for level, value in validation.get("psnr", {}).items())
    names = ", ".join(training.volumes)
    width = " / ".join(map(str, training.widths))
    return f"""# medical/ct-prior

A denoiser of axial CT slices, u = (HU + 1000)/2000 on [-1000, 1000] HU, that sees {training.context} neighbours on either side.

- **Data**: {names}; slices {training.held_out[1]} to {training.held_out[2] - 1} of {training.held_out[0]} held out. \
Never lung1, never head.
- **Grids**: pixels 1.7 to 3.0 mm, slices 3 to 6 mm apart, rotations up to 10 degrees, flips, window jitter; told to the network.
- **Network**: 2D U-Net, widths {width}, {training.blocks} blocks a level, space-to-depth stem; EDM preconditioning, sigma_data 0.25.
- **Training**: {training.steps} steps of {training.batch} slabs of {training.crop} x {training.crop}, Adam {training.rate:g}, precision \
{training.precision}, EMA {training.ema}, seed {training.seed}; {platform.machine()} CPU unless said otherwise; \
recipe `unstir train medical/ct-prior`.
- **Held-out denoising** (PSNR, range 1): {levels}.
- **Licence**: Apache-2.0 for the weights; the training data keep their own (see `unstir data list`).
- **Limits**: four adult patients, chest to pelvis. It has seen no head, no child, no implant beyond a little metal. Not a medical device.
"""


def _logged(path: Path) -> list[dict[str, Any]]:
    """The lines of a log that are whole."""
    found = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with suppress(ValueError):
            found.append(json.loads(line))
    return found


def _log(path: Path, lines: list[dict[str, Any]]) -> None:
    """Write a log, whole or not at all."""
    part = path.with_name(path.name + ".tmp")
    part.write_text("".join(json.dumps(line) + "\n" for line in lines))
    part.replace(path)


def _last(path: Path) -> Mapping[str, Any]:
    """The last whole line of a log."""
    return (_logged(path) or [{}])[-1]
