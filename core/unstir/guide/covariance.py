"""Guidance by the covariance of the data, known beforehand: no derivative of the denoiser, one evaluation a step.

    D' = D + V A^T (A V A^T + R)^-1 (y - A D),     V = (C^-1 + rho^-2 I)^-1 = Cov[x0 | x_t] of normal data of covariance C

A takes the observed entries, others in each sample where a mask says so. With C = s^2 I it is PiGDM past the denoiser.
Reference: the conditional of a normal law; Song et al. 2023 (PiGDM), ICLR, for its place in a sampler.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from unstir.denoiser.base import Denoiser
from unstir.errors import UserError
from unstir.guide.base import Guide
from unstir.guide.likelihood import check_tensor


@dataclass(frozen=True, eq=False)
class KnownCovariance(Guide):
    """Guide by observed entries and the covariance of the data; one evaluation of the denoiser, no gradient, per sample.

    Args:
        covariance: C, (n, n), symmetric and positive, n the entries of a state in order; or (groups, n, n), the condition's entry
            ``group`` then says which is whose.
        noise: standard deviation of the observations' noise, at least 0.
        y: name of the condition's entry with the observations (batch, *shape), kept from the denoiser; or the observations of all samples,
            (1, *shape), NaN where there are none.
        observed: name of the entry that says which were observed (batch, *shape), 1 or 0.
        group: name of the entry with numbers of covariances (batch,).

    Raises:
        UserError: a covariance that is not square, or noise out of range.
    """

    covariance: Tensor
    noise: float = 0.01
    y: str | Tensor = "observation"
    observed: str = "observed"
    group: str = "group"
    exactness: ClassVar[str] = "exact for normal data of this covariance, as the steps become finer; biased otherwise"
    _made: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        C = self.covariance
        if C.ndim not in (2, 3) or C.shape[-1] != C.shape[-2] or not bool(torch.isfinite(C).all()):
            raise UserError(f"a covariance is a finite square matrix, or several, got the shape {tuple(C.shape)}")
        if not 0 <= self.noise < float("inf"):
            raise UserError(f"the noise of observations is finite and at least 0, got {self.noise}")

    def estimate(self, denoiser: Denoiser, x: Any, t: Any, condition: Mapping[str, Any] | None) -> Tensor:
        """D + K (y - D), K of each sample's mask and covariance."""
        check_tensor(x, self)
        told, given = dict(condition or {}), self.y
        if isinstance(given, str):
            if given not in told or self.observed not in told:
                raise UserError(f"this guide looks for condition[{given!r}] and condition[{self.observed!r}]")
            y, observed = told.pop(given), told.pop(self.observed) > 0
        else:
            y, observed = given.nan_to_num(0.0), ~given.isnan()
        group = told.pop(self.group, None)
        x0 = denoiser(x, t, told or None)
        seen = observed.to(x0.device).expand(x0.shape)
        residual = torch.where(seen, y.to(x0) - x0, 0.0).flatten(1)
        number = torch.zeros(len(x0), dtype=torch.long) if group is None else group.long().cpu()
        rho = float(denoiser.process.rho(t))
        change = torch.empty_like(residual)
        kinds, kind = torch.unique(torch.cat((seen.flatten(1).long().cpu(), number[:, None]), 1), dim=0, return_inverse=True)
        for index, pattern in enumerate(kinds):  # a row a mask and covariance
            rows, mask = (kind == index).to(x0.device), pattern[:-1] > 0
            change[rows] = residual[rows][:, mask.to(x0.device)] @ self._gain(mask, int(pattern[-1]), rho).to(residual).t()
        return x0 + change.view_as(x0)

    def _gain(self, mask: Tensor, which: int, rho: float) -> Tensor:
        """V_:o (V_oo + R)^-1 in float64, (n, observed)."""
        key = (which, rho, hash(mask.numpy().tobytes()))
        if key not in self._made:
            if len(self._made) > 4096:
                self._made.clear()
            values, vectors = self._spectrum(which)
            left = values * rho**2 / (values + rho**2) if rho < float("inf") else values
            V = (vectors * left) @ vectors.t()
            inner = V[mask][:, mask] + self.noise**2 * torch.eye(int(mask.sum()), dtype=V.dtype)
            jitter = 1e-10 * left.max().clamp(min=1e-300)
            self._made[key] = torch.linalg.solve(inner + jitter * torch.eye(len(inner), dtype=V.dtype), V[mask]).t()
        return self._made[key]

    def _spectrum(self, which: int) -> tuple[Tensor, Tensor]:
        if ("spectrum", which) not in self._made:
            C = (self.covariance if self.covariance.ndim == 2 else self.covariance[which]).double().cpu()
            values, vectors = torch.linalg.eigh((C + C.t()) / 2)
            self._made["spectrum", which] = values.clamp(min=0), vectors
        return self._made["spectrum", which]
