"""A stack of diagonal state space layers (S4D), the backbone of TSDiff in plain torch.

    x' = A x + B u,  y = 2 Re C x + D u     K_l = 2 Re sum_n C_n Bbar_n Abar_n^l,  y = K * u + D u,  A = -exp(a) + i b
    ZOH: Abar = exp(dt A), Bbar = (Abar - 1)/A B        bilinear: Abar = (1 + dt A/2)/(1 - dt A/2), Bbar = dt B/(1 - dt A/2)

Both directions: y_t = sum_{s<=t} K1[t-s] u_s + sum_{s>t} K2[s-t-1] u_s.
Reference: Gu et al. 2022 (S4D), arXiv:2206.11893; Kollovieh et al. 2023 (TSDiff), arXiv:2307.11494.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unstir.errors import UserError
from unstir.nn.embedding import LabelEmbedding

Start = Literal["lin", "inv"]
Rule = Literal["zoh", "bilinear"]
DENSE = 512
"""Up to this length a convolution is a product with a Toeplitz matrix (faster on any machine than transforms); beyond, by FFT."""


def poles(count: int, start: Start = "lin") -> Tensor:
    """A_n of the initialisations S4D-Lin and S4D-Inv.

    A_n = -1/2 + i pi n                     A_n = -1/2 + i (2N/pi)(2N/(2n+1) - 1)      (N conjugate pairs)

    Args:
        count: N, conjugate pairs.
        start: ``"lin"`` or ``"inv"``.

    Returns:
        (N,) complex128.

    Raises:
        UserError: another start.
    """
    n = torch.arange(count, dtype=torch.float64)
    if start not in ("lin", "inv"):
        raise UserError(f"poles start as 'lin' or 'inv', got {start!r}")
    imaginary = math.pi * n if start == "lin" else (2 * count / math.pi) * (2 * count / (2 * n + 1) - 1)
    return torch.complex(torch.full_like(n, -0.5), imaginary)


def kernel(A: Tensor, C: Tensor, dt: Tensor, length: int, rule: Rule = "zoh") -> Tensor:
    """K_0 ... K_{length-1} of single-input state space models with B = 1.

    Args:
        A: (..., N) complex poles with negative real parts.
        C: (..., N) complex.
        dt: (...,) steps.
        length: L.
        rule: ``"zoh"`` or ``"bilinear"``.

    Returns:
        (..., L) real.
    """
    step = dt.unsqueeze(-1) * A
    if rule == "zoh":
        log_bar, b_bar = step, torch.expm1(step) / A if step.dtype == torch.complex128 else (torch.exp(step) - 1) / A
    else:
        log_bar, b_bar = torch.log((1 + step / 2) / (1 - step / 2)), dt.unsqueeze(-1) / (1 - step / 2)
    powers = torch.exp(log_bar.unsqueeze(-1) * torch.arange(length, device=A.device))
    return 2 * ((C * b_bar).unsqueeze(-2) @ powers).squeeze(-2).real


def convolve(u: Tensor, forward: Tensor, backward: Tensor | None = None) -> Tensor:
    """y_t = sum_{s<=t} K1[t-s] u_s + sum_{s>t} K2[s-t-1] u_s, each channel with its own kernels.

    Args:
        u: (channels, batch, L).
        forward: K1, (channels, L).
        backward: K2, (channels, L); causal without.

    Returns:
        (channels, batch, L).
    """
    length = u.shape[-1]
    if length <= DENSE:
        return u @ toeplitz(forward, backward)
    full = F.pad(forward, (0, length))
    if backward is not None:
        full = full + F.pad(backward.flip(-1), (length, 0))
    return torch.fft.irfft(torch.fft.rfft(u, 2 * length) * torch.fft.rfft(full, 2 * length).unsqueeze(1), 2 * length)[..., :length]


def toeplitz(forward: Tensor, backward: Tensor | None = None) -> Tensor:
    """The matrix T of `convolve`, y = u T, (channels, L, L)."""
    length = forward.shape[-1]
    past = torch.zeros_like(forward[:, 1:]) if backward is None else backward[:, : length - 1]
    both = torch.cat((past.flip(-1), forward), -1)  # entry L-1+k is K1[k], entry L-2-k is K2[k]
    return both.unfold(-1, length, 1).flip(1)  # row s, column t: entry L-1-s+t


class S4D(nn.Module):
    """One layer of diagonal state space models, a channel each, mixed by a linear map after a GELU.

    Args:
        width: channels H.
        states: conjugate pairs N a channel.
        start: initial poles.
        rule: discretisation.
        is_causal: only the past? Otherwise both directions.
        dt: log-uniform range of the initial steps.
    """

    def __init__(
        self,
        width: int,
        states: int = 64,
        start: Start = "lin",
        rule: Rule = "zoh",
        is_causal: bool = False,
        dt: tuple[float, float] = (1e-3, 1e-1),
    ) -> None:
        super().__init__()
        self.rule: Rule = rule
        ways = 1 if is_causal else 2
        initial = poles(states, start)
        self.log_real = nn.Parameter(torch.log(-initial.real).float().expand(width, -1).clone())
        self.imaginary = nn.Parameter(initial.imag.float().expand(width, -1).clone())
        self.C = nn.Parameter(torch.randn(ways, width, states, 2) * math.sqrt(0.5))
        low, high = dt
        self.log_dt = nn.Parameter(math.log(low) + torch.rand(width) * math.log(high / low))
        self.D = nn.Parameter(torch.randn(width))
        self.mix = nn.Linear(width, width)
        self._cached: tuple[Any, Tensor, Tensor | None] | None = None

    def kernels(self, length: int) -> tuple[Tensor, Tensor | None]:
        """K1 and K2, (width, length), D on the diagonal of K1; in float32 whatever the autocast.

        In evaluation they are made once for a length and kept, for they depend on neither the state nor the time.
        """
        if self.training:
            return self._kernels(length)
        weights = (self.log_real, self.imaginary, self.C, self.log_dt, self.D)
        key = (length, *((weight.data_ptr(), weight._version) for weight in weights))
        if self._cached is None or self._cached[0] != key:
            with torch.inference_mode(False), torch.no_grad():
                self._cached = (key, *self._kernels(length))
        return self._cached[1:]

    def _kernels(self, length: int) -> tuple[Tensor, Tensor | None]:
        with torch.autocast(self.D.device.type, enabled=False):
            A = torch.complex(-torch.exp(self.log_real.float()), self.imaginary.float())
            found = kernel(A, torch.view_as_complex(self.C.float().contiguous()), torch.exp(self.log_dt.float()), length, self.rule)
            direct = F.pad(self.D.float().unsqueeze(-1), (0, length - 1))
            return found[0] + direct, found[1] if len(found) == 2 else None

    def forward(self, u: Tensor) -> Tensor:
        """Apply to u (width, batch, L)."""
        forward, backward = self.kernels(u.shape[-1])
        y = convolve(u, forward.to(u.dtype), None if backward is None else backward.to(u.dtype))
        return linear(self.mix, F.gelu(y, approximate="tanh"))


class Block(nn.Module):
    """z = x + W e(t);  z = z + S4D(norm z) + W c;  g = tanh z sigmoid z;  out = x + W g,  skip = W g."""

    def __init__(self, width: int, embedding: int, covariates: int, **layer: Any) -> None:
        super().__init__()
        self.time = nn.Linear(embedding, width)
        self.norm = nn.LayerNorm(width)
        self.sequence = S4D(width, **layer)
        self.covariates = nn.Linear(covariates, width) if covariates else None
        self.out = nn.Linear(width, width)
        self.skip = nn.Linear(width, width)

    def forward(self, x: Tensor, embedding: Tensor, covariates: Tensor | None) -> tuple[Tensor, Tensor]:
        """Apply to x (width, batch, L), embedding (batch, embedding), covariates (covariates, batch or 1, L)."""
        z = x + self.time(embedding).t().unsqueeze(-1)
        centred = z - z.mean(0)  # a LayerNorm over the first axis; var_mean there is several times slower
        spread = torch.rsqrt(centred.square().mean(0) + self.norm.eps)
        scaled = centred * spread * self.norm.weight.view(-1, 1, 1) + self.norm.bias.view(-1, 1, 1)
        z = z + self.sequence(scaled)
        if self.covariates is not None and covariates is not None:
            z = z + linear(self.covariates, covariates)
        gated = torch.tanh(z) * torch.sigmoid(z)
        return x + linear(self.out, gated), linear(self.skip, gated)


class Backbone(nn.Module):
    """TSDiff's network: a stack of S4D blocks whose skips are summed.

    Args:
        channels: of the state: the series and its lags (or several series).
        width: hidden channels.
        blocks: residual blocks.
        states: conjugate pairs a channel.
        embedding: width of the sinusoidal embedding of the step.
        low: lowest frequency of the label, cycles a unit; the published one for labels 0...99 is 1/(2 pi 1e4).
        high: highest frequency, 1/(2 pi) there.
        features: known covariates a step, in ``condition["features"]`` (batch or 1, features, L).
        sees_observed: is it conditional? ``condition["told"]`` (batch or 1, 2 channels, L) then holds the observed values (0 elsewhere)
            and their mask; without it the network is told that nothing was observed.
        patch: steps folded into channels (space to depth); L must be a multiple of it.
        init_skip: is the input added to the output?
        start: initial poles, ``"lin"`` or ``"inv"``.
        rule: discretisation, ``"zoh"`` or ``"bilinear"``.
        mixes: are several series mixed by attention across channels before the first block? For multivariate states.

    Raises:
        UserError: a size below 1.
    """

    def __init__(
        self,
        channels: int = 1,
        width: int = 64,
        blocks: int = 3,
        states: int = 64,
        embedding: int = 128,
        low: float = 0.02,
        high: float = 4.0,
        features: int = 0,
        sees_observed: bool = False,
        patch: int = 1,
        init_skip: bool = False,
        start: Start = "lin",
        rule: Rule = "zoh",
        mixes: bool = False,
    ) -> None:
        super().__init__()
        for name, number in (("channels", channels), ("width", width), ("blocks", blocks), ("states", states), ("patch", patch)):
            if number < 1:
                raise UserError(f"{name} of a backbone must be at least 1, got {number}")
        self.channels, self.features, self.patch, self.init_skip = channels, features, patch, init_skip
        self.sees_observed = sees_observed
        self.embed = LabelEmbedding(embedding, low=low, high=high)
        self.enter = nn.Linear(channels * patch * (3 if sees_observed else 1), width)
        self.mixing = ChannelMixing(patch, width, channels) if mixes else None
        layer = {"states": states, "start": start, "rule": rule}
        self.blocks = nn.ModuleList(Block(width, embedding, features * patch, **layer) for _ in range(blocks))
        self.first = nn.Linear(width, width)
        self.leave = nn.Linear(width, channels * patch)
        nn.init.zeros_(self.leave.bias)
        with torch.no_grad():
            self.leave.weight.mul_(0.1)

    def forward(self, x: Tensor, label: Tensor, condition: Mapping[str, Any] | None = None) -> Tensor:
        """Apply to x (batch, channels, L); returns the same shape.

        Raises:
            UserError: the length is no multiple of the patch, or a condition is missing or of another size.
        """
        batch, length = x.shape[0], x.shape[-1]
        if length % self.patch:
            raise UserError(f"this network folds {self.patch} steps into one, and a window of {length} steps is no multiple of that")
        given = [self.folded(x)]
        if self.sees_observed:
            given.append(self._observed(x, condition))
        h = torch.relu(linear(self.enter, torch.cat(given, 0)))
        if self.mixing is not None:
            h = h + self.mixing(given[0])
        covariates = self._covariates(x, condition)
        embedding, total = F.silu(self.embed(label, None)), torch.zeros_like(h)
        for block in self.blocks:
            h, skip = block(h, embedding, covariates)
            total = total + skip
        out = linear(self.leave, torch.relu(linear(self.first, total)))
        out = out.view(self.channels, self.patch, batch, -1).permute(2, 0, 3, 1).reshape(batch, self.channels, length)
        return out + x if self.init_skip else out

    def folded(self, x: Tensor) -> Tensor:
        """(batch, channels, L) as (channels patch, batch, L/patch)."""
        batch, channels, length = x.shape
        return x.view(batch, channels, length // self.patch, self.patch).permute(1, 3, 0, 2).reshape(channels * self.patch, batch, -1)

    def _observed(self, x: Tensor, condition: Mapping[str, Any] | None) -> Tensor:
        seen = (condition or {}).get("told")
        if seen is None:
            return x.new_zeros(2 * self.channels * self.patch, x.shape[0], x.shape[-1] // self.patch)
        return self.folded(seen.to(x.dtype).expand(x.shape[0], -1, -1).contiguous())

    def _covariates(self, x: Tensor, condition: Mapping[str, Any] | None) -> Tensor | None:
        if not self.features:
            return None
        found = (condition or {}).get("features")
        if found is None or found.shape[-2:] != (self.features, x.shape[-1]):
            size = None if found is None else tuple(found.shape)
            raise UserError(f"this network needs condition['features'] of shape (batch, {self.features}, {x.shape[-1]}), got {size}")
        return self.folded(found.to(x.dtype).contiguous())


class ChannelMixing(nn.Module):
    """Attention of the channels on one another, a step at a time: what a multivariate window needs and a sum of channels lacks."""

    def __init__(self, patch: int, width: int, channels: int, size: int = 16) -> None:
        super().__init__()
        self.patch, self.size = patch, size
        self.name = nn.Parameter(0.1 * torch.randn(channels, 1, 1, size))
        self.value = nn.Linear(patch, 3 * size)
        self.leave = nn.Linear(channels * size, width)

    def forward(self, folded: Tensor) -> Tensor:
        """(channels patch, batch, L/patch) to (width, batch, L/patch)."""
        _, batch, length = folded.shape
        per_channel = folded.view(-1, self.patch, batch, length).permute(0, 2, 3, 1)
        query, key, value = (part + self.name for part in self.value(per_channel).chunk(3, -1))
        mixed = F.scaled_dot_product_attention(*(part.permute(1, 2, 0, 3) for part in (query, key, value)))
        return self.leave(mixed.flatten(-2)).permute(2, 0, 1)


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """A linear map of the first axis: W x + b for x (channels, batch, L)."""
    return torch.addmm(layer.bias.unsqueeze(-1), layer.weight, x.reshape(x.shape[0], -1)).view(-1, *x.shape[1:])
