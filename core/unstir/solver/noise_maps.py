"""The latent of a stochastic sampler: its start and every noise it draws, found from data.

    encode:  x_t drawn given x_s, from noise to noise,      z = (x_s - a x_t - b D(x_t, t))/d;      decode:  x_s = a x_t + b D(x_t, t) + d z

with (a, b, d) of DDIM at eta; the noises drawn going up are keyed by the seed. Decoded by the same denoiser the latent gives the data back;
by another one (other weights, another condition) a translation that keeps what the two have in common.

Reference: Wu & De la Torre 2023 (CycleDiffusion, DPM-Encoder), arXiv:2210.05559.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from unstir.errors import UserError
from unstir.solver.ancestral import DDIM
from unstir.solver.base import Levels, Memory, Model, Row
from unstir.solver.reversible import Reversible, every
from unstir.state import State, clone, combine, nonzero


@dataclass(frozen=True, repr=False)
class NoiseMaps(DDIM, Reversible):
    """DDIM with noise whose noises can be found from data; the memory keeps one state a step.

    The chain that ``back`` draws, x_t = alpha_t x0 + sigma_t (k eps_s + sqrt(1 - k^2) xi), k = sqrt(1 - v/sigma_s^2), has the law of the
    steps at the same eta when x0 is the data; at eta = 1 it is the forward process and x0 drops out.

    Args:
        eta: share of fresh noise, above 0 to 1.

    Raises:
        UserError: an option is out of range.
    """

    travels: ClassVar[tuple[str, ...]] = ("noise",)
    eta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.eta > 0 and self.temperature == 1 and self.kind == "variance"):
            raise UserError(f"noise maps need eta above 0, temperature 1 and kind 'variance', got {self!r}")

    def coefficients(self, levels: Levels) -> list[tuple[float, ...]]:
        """``(a, b, d)`` of DDIM, ``(-a/d, -b/d, 1/d)``, and ``(u, c, e)`` of ``x_t = u x_s + c x0 + e xi``; 0 where sigma_s is."""
        rows: list[tuple[float, ...]] = []
        for i, (a, b, d) in enumerate(super().coefficients(levels)):
            if d == 0:
                rows.append((a, b, d, *(0.0,) * 6))
                continue
            sigma_t, sigma_s = levels.sigma[i : i + 2]
            kept = a * sigma_t / sigma_s  # k: at a pinned start nothing is kept and nothing is drawn
            up = sigma_t * kept / sigma_s
            rows.append((a, b, d, -a / d, -b / d, 1 / d, up, levels.alpha[i] - up * levels.alpha[i + 1], sigma_t * d / sigma_s))
        return rows

    def draws(self, row: Row) -> bool:
        """Every step up draws once, where a step down does."""
        return nonzero(row.c[2])

    def step(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """``x_s = a x + b x0 + d z``."""
        a, b, d = row.c[:3]
        combine(x, a, (b, model(x, row.t)))
        return combine(x, 1.0, (d, memory.noise())) if nonzero(d) else x

    def begin(self, x: State, row: Row, model: Model, memory: Memory) -> None:
        """The data, up to the noise in ``x``."""
        memory["clean"] = combine(clone(x), _inverse(row.alpha_s))

    def back(self, x: State, row: Row, model: Model, memory: Memory) -> State:
        """Draw the noisier state, and note the noise that leads from it to ``x``."""
        a, b, gain, up, share, fresh = row.c[3:]
        if not every(row.c[2]):
            raise UserError("a step to sigma = 0 draws no noise that could be found: end the grid above it (to_zero=false)")
        new = combine(clone(x), up, (share, memory["clean"]), (fresh, memory.noise()))
        memory.setdefault("found", []).insert(0, combine(clone(x), gain, (a, new), (b, model(new, row.t))))
        if row.index == 0:
            memory["noise"] = memory.pop("found")
        return new


def _inverse(alpha: float | dict[str, float]) -> float | dict[str, float]:
    return {leaf: 1 / value for leaf, value in alpha.items()} if isinstance(alpha, dict) else 1 / alpha
