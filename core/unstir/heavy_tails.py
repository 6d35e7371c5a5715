"""Heavy-tailed noise as a space: the extra dimensions of PFGM++, which is the multivariate Student t.

    p(e) ~ (1 + |e|^2/nu)^(-(N + nu)/2),        |e|^2/N ~ F(N, nu),        e/|e| uniform on the sphere,        N entries a state

PFGM++ with D extra dimensions and r = sigma sqrt(D) is nu = D: its |e|^2 = D R/(1 - R), R ~ Beta(N/2, D/2), is that law. The flow
dx/dsigma = (x - E[x_0|x])/sigma is exact for every nu, and EDM's for nu = infinity; solvers that draw noise on the way are exact at
infinity only.
[PFGM++, Xu et al. 2023, arXiv:2302.04265; heavy-tailed diffusion, Pandey et al. 2024, arXiv:2410.14171]
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import special
from torch import Tensor

from unstir.errors import UserError
from unstir.space import Condition, Euclidean


@dataclass(frozen=True)
class StudentT(Euclidean):
    """All real arrays of a shape, with noise of a multivariate Student t: rare large draws, of the whole state at once.

    A state's normals have a direction and a length that are independent, so the length alone is moved, from quantile to quantile:

        e = n sqrt(N F^-1(P(|n|^2; chi2_N); N, nu))/|n|

    Its variance in each entry is nu/(nu - 2), infinite for nu <= 2; ``sigma`` of a process is the scale.

    Args:
        dof: nu, degrees of freedom; the number D of extra dimensions in PFGM++ (1 is PFGM's, 128 and 2048 are its images'),
            infinity for normal noise.
        unit_variance: divide by sqrt(nu/(nu - 2)), so that ``sigma`` is a standard deviation and a network's scaling of its input fits.

    Raises:
        UserError: ``dof`` is not positive, or too small for a variance where that is to be 1.
    """

    dof: float
    unit_variance: bool = False

    def __post_init__(self) -> None:
        least = 2 if self.unit_variance else 0
        if not self.dof > least:
            raise UserError(f"StudentT needs dof above {least}{', where there is a variance' if least else ''}, got {self.dof}")

    @property
    def variance(self) -> float:
        """Of an entry: nu/(nu - 2), infinite for nu <= 2; or 1."""
        if self.unit_variance or math.isinf(self.dof):
            return 1.0
        return self.dof / (self.dof - 2) if self.dof > 2 else math.inf

    def draw(self, noise: Tensor, condition: Condition = None) -> Tensor:
        """The noise with its lengths moved to those of the Student t, one length a sample."""
        if math.isinf(self.dof) or noise.numel() == 0:
            return noise
        squared = noise.detach().to(torch.float64).square().flatten(1).sum(1).cpu().numpy()
        scale = np.sqrt(self.length(squared, noise[0].numel()) / np.maximum(squared, np.finfo(float).tiny))
        return noise * torch.from_numpy(scale).to(noise).reshape(-1, *[1] * (noise.ndim - 1))

    def length(self, squared: np.ndarray, entries: int) -> np.ndarray:
        """|e|^2 at the quantile of |n|^2, each tail from its own side so that none is lost to rounding.

        Args:
            squared: |n|^2 of unit normals, (batch,).
            entries: N, how many entries a state has.

        Returns:
            Squared lengths (batch,), increasing in ``squared``.
        """
        a, b, low = entries / 2, self.dof / 2, squared < entries
        below, above = special.gammainc(a, squared / 2), special.gammaincc(a, squared / 2)
        part = np.where(low, special.betaincinv(a, b, below), special.betainccinv(a, b, above))  # R ~ Beta(N/2, nu/2)
        rest = np.where(low, special.betainccinv(b, a, below), special.betaincinv(b, a, above))  # 1 - R
        return (self.dof - 2 if self.unit_variance else self.dof) * part / rest
