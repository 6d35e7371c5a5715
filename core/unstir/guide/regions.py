"""Region-adaptive evaluation: ask the network about the parts of a state that need it, and reuse what it said of the others.

    D = a x + b F,     F_i anew for the tokens i in focus,  F_j from earlier for the others

    reuse "F":    a = s^2/((rho^2 + s^2) alpha),  b = rho s/sqrt(rho^2 + s^2)       EDM's output, which changes least from step to step
    reuse "eps":  a = 1/alpha,  b = -rho                                            the noise, as published

Focus are the tokens that waited longest, as many as it takes to refresh every token within ``every`` steps, and beyond these the tokens
that stand out, times the steps they waited. The network attends to the keys and values that the others left behind.
Reference: Liu et al. 2025 (RAS), arXiv:2502.10389.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from unstir.denoiser import Denoiser, NetworkDenoiser
from unstir.denoiser.base import Condition, scales
from unstir.errors import UserError
from unstir.guide.base import Guide, Guided
from unstir.nn.dit import DiT
from unstir.nn.unet import depth_to_space, space_to_depth

By = Literal["change", "deviation"]
Reuse = Literal["F", "eps"]


@dataclass(frozen=True)
class Regions(Guide):
    """Evaluate a share of the tokens of each sample at a step; a call on a share still counts as one evaluation.

    Args:
        ratio: share of the tokens evaluated, above 0; 1 is the plain denoiser, bit by bit.
        patch: side of a token, in entries of each axis after the channels.
        every: every token is evaluated at least once in so many steps; at least 1/ratio, which leaves nothing to choose and was the best on
            the fields it was tried on.
        warm: first evaluations that are whole.
        by: what makes a token stand out: the ``"change"`` of its value a step, when it was last evaluated, or the ``"deviation"`` of its
            value over its entries (as published, there of the noise).
        reuse: which value is reused, ``"F"`` or ``"eps"``.
        scale: s of ``"F"``, the standard deviation of the data per entry.

    Raises:
        UserError: an option is out of range.
    """

    ratio: float = 1.0
    patch: int = 4
    every: int = 4
    warm: int = 2
    by: By = "change"
    reuse: Reuse = "F"
    scale: float = 0.5
    exactness: ClassVar[str] = "biased by values that are up to `every` steps old; exact at ratio 1"

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1 or self.patch < 1 or self.warm < 1 or self.every * self.ratio < 1 - 1e-12:
            raise UserError(f"ratio must lie in (0, 1], patch and warm be at least 1 and every at least 1/ratio, got {self!r}")
        for name, kind in (("by", By), ("reuse", Reuse)):
            if getattr(self, name) not in get_args(kind):
                raise UserError(f"{name} must be one of {', '.join(map(repr, get_args(kind)))}, got {getattr(self, name)!r}")
        if not 0 < self.scale < math.inf:
            raise UserError(f"scale must be positive, got {self.scale}")

    def wrap(self, denoiser: Denoiser) -> Denoiser:
        """The guided denoiser of one trajectory, which remembers values.

        Raises:
            UserError: the denoiser cannot be asked about tokens, see :class:`TokenWise`; this guide stands innermost.
        """
        if self.ratio == 1:
            return denoiser
        if not hasattr(denoiser, "partial"):
            raise UserError("regions need a denoiser that can be asked about tokens, such as TokenWise, and must be the innermost guide")
        return _Regions(denoiser, self)

    def estimate(self, denoiser: Denoiser, x: Tensor, t: Any, condition: Mapping[str, Any] | None) -> Tensor:  # type: ignore[override]
        """The estimate at the beginning of a trajectory, where it is whole."""
        return denoiser(x, t, condition)  # type: ignore[no-any-return]

    def split(self, alpha: float, sigma: float) -> tuple[float, float]:
        """``(a, b)`` of D = a x + b F.

        Args:
            alpha: scale of the data in x, not 0.
            sigma: scale of the noise in x.
        """
        rho, s = sigma / alpha, self.scale
        return (1 / alpha, -rho) if self.reuse == "eps" else (s * s / ((rho * rho + s * s) * alpha), rho * s / math.hypot(rho, s))

    def focus(self, age: Tensor, standing: Tensor) -> Tensor:
        """The tokens to evaluate.

        Args:
            age: steps since each token was evaluated (batch, tokens).
            standing: how much each stands out for a step of waiting (batch, tokens).

        Returns:
            Numbers of tokens (batch, ratio x tokens), the same count for every sample.
        """
        tokens = age.shape[1]
        count, oldest = math.ceil(self.ratio * tokens), math.ceil(tokens / self.every)
        number = torch.arange(tokens, device=age.device)
        waited = (age * tokens - number).topk(oldest, dim=1).indices
        return (standing * (age + 1)).scatter(1, waited, math.inf).topk(max(count, oldest), dim=1).indices


class _Regions(Guided):
    """A denoiser along one trajectory, with the value of every token, its age, and what the network keeps."""

    guide: Regions

    def __init__(self, denoiser: Denoiser, guide: Regions) -> None:
        super().__init__(denoiser, guide)
        self.value: Tensor | None = None
        self.age = self.standing = torch.empty(0)
        self.calls, self.kept = 0, dict[Any, Tensor]()

    def forward(self, x: Any, t: Any, condition: Mapping[str, Any] | None = None) -> Any:
        """The estimate, in part from earlier values."""
        if not isinstance(x, Tensor) or isinstance(t, Tensor) or self.process.anchored:
            raise UserError("regions are of a state of one leaf without an anchor, at one time for all")
        alpha, _, sigma = scales(self.process, float(t))
        guide, self.calls = self.guide, self.calls + 1
        whole = self.value is None or self.calls <= guide.warm or alpha == 0 or sigma == 0
        focus = None if whole else guide.focus(self.age, self.standing)
        asked: Any = self.denoiser
        if hasattr(asked, "tally"):  # the loop's counter, which sees calls of the denoiser alone
            asked.tally[0] += x.shape[0]
        x0: Tensor = asked.partial(x, t, condition, focus, self.kept)
        if alpha == 0 or sigma == 0:
            return x0
        a, b = guide.split(alpha, sigma)
        value, inside = (x0 - a * x) / b, None
        if focus is not None and self.value is not None:
            inside = torch.zeros_like(self.age, dtype=torch.bool).scatter(1, focus, True)
            value = torch.where(spread_tokens(inside, guide.patch, x), value, self.value)
            x0 = a * x + b * value
        self._judge(value, inside)
        self.value = value
        return x0

    def _judge(self, value: Tensor, inside: Tensor | None) -> None:
        """Note how much every token stands out; a token that was not evaluated keeps its standing."""
        cells = tokens_of(value, self.guide.patch)
        if self.guide.by == "deviation":
            new = cells.std(dim=2, unbiased=False)
        else:
            before = cells if self.value is None else tokens_of(self.value, self.guide.patch)
            new = (cells - before).square().mean(2).sqrt() / (1 if inside is None else self.age + 1)
        self.standing = new if inside is None else torch.where(inside, new, self.standing)
        self.age = torch.zeros_like(new, dtype=torch.int64) if inside is None else torch.where(inside, 0, self.age + 1)


class TokenWise(NetworkDenoiser):
    """A diffusion transformer as a denoiser that can be asked about some of its tokens.

    Args and errors are those of :class:`unstir.denoiser.NetworkDenoiser`; the network is a :class:`unstir.nn.DiT`.
    """

    def partial(self, x: Tensor, t: Any, condition: Condition | None, focus: Tensor | None, kept: dict[Any, Tensor]) -> Tensor:
        """The estimate of some tokens.

        Args:
            x: noisy state (batch, *shape).
            t: a float.
            condition: as in ``forward``.
            focus: numbers of tokens (batch, k), row by row over the patches; all of them for None.
            kept: what the network keeps of the others; filled here.

        Returns:
            The estimate (batch, *shape); its entries outside of the focus mean nothing.
        """
        parts = self._parts(x, t, condition)
        if parts["x"].clean:
            return self(x, t, condition)  # type: ignore[no-any-return]
        seen, label = self._inputs(x, parts)
        network: Any = self.network
        return self._estimate(parts["x"], _attended(network, seen, label, condition, focus, kept))


def _attended(network: DiT, x: Tensor, label: Tensor, condition: Condition | None, focus: Tensor | None, kept: dict[Any, Tensor]) -> Tensor:
    """The transformer on tokens in focus, with the keys and values of all: its own ``forward`` where all are."""
    cells = space_to_depth(x, network.patch)
    embedding = F.silu(network.embed(label, condition))
    inputs = cells.flatten(2).transpose(1, 2)
    batch, tokens, _ = inputs.shape
    index = torch.arange(tokens, device=x.device).expand(batch, tokens) if focus is None else focus

    def chosen(all_tokens: Tensor) -> Tensor:
        return all_tokens.gather(1, index[..., None].expand(*index.shape, all_tokens.shape[2]))

    h = network.enter(chosen(inputs)) + chosen(network.position.expand(batch, -1, -1))
    blocks: Any = network.blocks
    for number, block in enumerate(blocks):
        a1, b1, g1, a2, b2, g2 = block.modulation(embedding).unsqueeze(1).chunk(6, -1)
        q, k, v = block.query_key_value(block.norm(h) * (1 + a1) + b1).chunk(3, -1)
        for name, new in (("k", k), ("v", v)):
            old = kept.get((name, number), h.new_empty(batch, tokens, h.shape[2]))
            kept[name, number] = old.scatter(1, index[..., None].expand_as(new), new)
        q, k, v = (_heads(part, block) for part in (q, kept["k", number], kept["v", number]))
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(h.shape)
        h = h + g1 * block.attended(attended)
        h = h + g2 * block.out(F.gelu(block.hidden(block.norm(h) * (1 + a2) + b2)))
    out = network.leave(network.norm(h))
    whole = out.new_zeros(batch, tokens, out.shape[2]).scatter(1, index[..., None].expand_as(out), out).transpose(1, 2)
    return depth_to_space(whole.reshape(batch, -1, *cells.shape[2:]), network.patch)


def _heads(part: Tensor, block: Any) -> Tensor:
    return part.reshape(*part.shape[:2], block.heads, -1).transpose(1, 2)


def tokens_of(x: Tensor, patch: int) -> Tensor:
    """The entries of each token, (batch, tokens, entries): patches of ``patch`` along each axis after the channels, row by row.

    Args:
        x: (batch, channels, *sizes), sizes multiples of ``patch``.
        patch: side of a token.
    """
    return space_to_depth(x, patch).flatten(2).transpose(1, 2)


def spread_tokens(inside: Tensor, patch: int, like: Tensor) -> Tensor:
    """A number a token (batch, tokens), for every entry of the token, (batch, 1, *sizes)."""
    out = inside.reshape(like.shape[0], 1, *(n // patch for n in like.shape[2:]))
    for axis in range(2, like.ndim):
        out = out.repeat_interleave(patch, dim=axis)
    return out
