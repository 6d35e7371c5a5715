"""Training of ``medical/ct-prior``: a denoiser of CT slices that sees its neighbours, on the volumes of four patients.

D(x_t, t) of the middle slice of five,   u = (HU + 1000)/2000 clipped to [0, 1],   EDM preconditioning
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch

from unstir import registry
from unstir.denoiser import NetworkDenoiser, Normaliser
from unstir.errors import UserError
from unstir.nn import UNet
from unstir.process import EDM
from unstir.space import Masked, Space
from unstir.train import DenoiserTraining, DenoisingLoss, Ended, LogUniform, Mixture, Schedule, Trainer
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
Held = tuple[np.ndarray, tuple[float, float, float]]
"""HU at full resolution, and spacing in mm."""


def network_config(widths: tuple[int, ...], blocks: int, context: int) -> dict[str, Any]:
    """Keyword arguments of the prior's U-Net."""
    return {
        "dim": 2, "in_channels": 1 + 2 * context, "out_channels": 1, "widths": list(widths), "blocks": blocks,
        "features": 2, "feature_key": "grid",
    }  # fmt: skip


@dataclass(frozen=True)
class CTPriorTraining(DenoiserTraining["TrainingSlabs"]):
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

    registered: ClassVar[str] = "unet"
    dtype: ClassVar[torch.dtype | None] = torch.float16
    measure: ClassVar[str] = "psnr"

    def load(self) -> tuple[list[Source], Held]:
        """Training planes and the held-out slab."""
        return self.data()

    def sampler(self, item: tuple[list[Source], Held]) -> TrainingSlabs:
        """What draws the slabs, and the held-out one."""
        training, held = item
        slabs = Slabs(training, crop=self.crop, context=self.context, batch=self.batch, variants=self.variants, seed=self.seed)
        return TrainingSlabs(slabs, held)

    def trainer(self, sampler: TrainingSlabs, device: str = "cpu") -> Trainer:
        """The core's trainer, ready to run; missing neighbours have no noise."""
        times = Mixture(LogUniform(self.low, self.middle), LogUniform(self.middle, self.high), self.share)
        schedule = Schedule(self.rate, self.warmup, self.decay, 0.02)
        denoiser = self.denoiser(space=Masked("present"))
        return self.prepared(denoiser, sampler.slabs, DenoisingLoss(times, "edm"), self.steps, schedule, device)

    def data(self) -> tuple[list[Source], Held]:
        """Training planes, and the held-out slab as (HU at full resolution, spacing)."""
        sources: list[Source] = []
        held: Held | None = None
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

    def network(self, sampler: TrainingSlabs | None = None) -> dict[str, Any]:
        """Keyword arguments of the network, whatever is learnt."""
        return network_config(self.widths, self.blocks, self.context)

    def denoiser(self, sampler: TrainingSlabs | None = None, space: Space | None = None) -> NetworkDenoiser:
        """The untrained denoiser; its weights depend on the seed alone. In training, missing neighbours have no noise (``space``)."""
        network = self.untrained(UNet, self.network())
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

    def score(self, denoiser: NetworkDenoiser, sampler: TrainingSlabs) -> dict[str, float]:
        """PSNR of the denoised held-out slab at `LEVELS`, dB."""
        return held_out_psnr(denoiser, sampler.held, self.context)

    def card(self, ended: Ended[TrainingSlabs]) -> str:
        """The model card."""
        return card(self, ended.found)

    def facts(self, ended: Ended[TrainingSlabs]) -> dict[str, Any]:
        """Window and grids it was trained on, and levels of noise."""
        return {"window_hu": [-1000, 1000], "pixel_mm": [1.7, 3.0], "slice_distance_mm": [3.0, 6.0], "noise": [self.low, self.high]}


@dataclass(frozen=True)
class TrainingSlabs:
    """Slabs to train on.

    Args:
        slabs: draws them.
        held: the held-out slab.
    """

    slabs: Slabs
    held: Held


def held_out_psnr(denoiser: NetworkDenoiser, held: Held, context: int) -> dict[str, float]:
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


def card(training: CTPriorTraining, psnr: Mapping[str, float]) -> str:
    """The model card of a finished training."""
    levels = ", ".join(f"{value:.2f} dB at {level}" for level, value in psnr.items())
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
