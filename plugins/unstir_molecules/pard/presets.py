"""Sizes of PARD: the published ones, and ones for a few CPU cores.

Reference: Zhao, Ding and Akoglu 2024 (PARD), arXiv:2402.03687, and its configuration files; weight decay 0.01 and uniform noise throughout.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """Options of a training.

    Args:
        width, layers, edge_width: of the network.
        batch: graphs a step.
        epochs: how often each graph is seen.
        rate: learning rate.
        hops: K of the structural order.
        diffusion: T, steps of a block.
        products, heads: of the network.
        precision: as Lightning Fabric takes it.
    """

    width: int
    layers: int
    edge_width: int
    batch: int
    epochs: float
    rate: float
    hops: int
    diffusion: int = 50
    products: int = 16
    heads: int = 4
    precision: str = "32-true"


PRESETS = {
    "qm9-cpu": Preset(96, 5, 32, 128, 12, 1e-3, 3),
    "graphs-cpu": Preset(64, 4, 32, 16, 400, 1e-3, 1),
    "qm9": Preset(256, 8, 64, 128, 100, 4e-4, 3, products=64, heads=8),
    "zinc250k": Preset(256, 8, 64, 128, 70, 4e-4, 3, products=64, heads=8),
    "moses": Preset(256, 8, 64, 128, 40, 2e-4, 3, products=64, heads=8),
    "grid": Preset(256, 10, 48, 2, 700, 3e-3, 1, products=48, heads=8, precision="bf16-mixed"),
    "planar": Preset(256, 10, 32, 6, 400, 3e-4, 1, products=32, heads=8),
    "sbm": Preset(128, 6, 32, 24, 300, 2e-4, 1, diffusion=40, products=32, heads=8),
}
"""By name; those without ``-cpu`` are the published ones, whose products and heads are ours (the tables do not say them)."""
