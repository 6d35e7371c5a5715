"""Heavy tails: the Student-t space is PFGM++'s kernel, its flow is exact, and it costs one draw."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from unstir import sample
from unstir.certify.distances import sliced_wasserstein
from unstir.denoiser import Denoiser
from unstir.errors import UserError
from unstir.heavy_tails import StudentT
from unstir.process import EDM


def normals(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("entries", [1, 2, 12])
@pytest.mark.parametrize("dof", [1.0, 4.0, 64.0])
def test_the_noise_is_multivariate_student_t(entries, dof):
    """Each entry is Student t of the same degrees of freedom, and |e|^2/N is F(N, nu): Kolmogorov-Smirnov, 4000 draws."""
    e = StudentT(dof).draw(normals(4000, entries)).numpy()
    for i in range(min(entries, 2)):
        assert stats.kstest(e[:, i], stats.t(dof).cdf).pvalue > 0.01
    assert stats.kstest((e**2).mean(1), stats.f(entries, dof).cdf).pvalue > 0.01
    assert stats.kstest(e[:, 0], stats.norm.cdf).pvalue < 0.01 or dof > 4  # the test can fail: it is not normal noise


@pytest.mark.parametrize("entries", [2, 48])
def test_the_noise_is_the_kernel_of_pfgm(entries):
    """The published recipe: R1 ~ Beta(N/2, D/2), R = sigma sqrt(D R1/(1 - R1)), a uniform direction; 4000 draws of each, D = 64."""
    generator, d = np.random.default_rng(0), 64
    r1 = generator.beta(entries / 2, d / 2, 4000)
    radius = math.sqrt(d) * np.sqrt(r1 / (1 - r1))
    ours = torch.linalg.vector_norm(StudentT(d).draw(normals(4000, entries)), dim=1).numpy()
    assert stats.ks_2samp(ours, radius).pvalue > 0.01
    # p_r(x|y) ~ (|x - y|^2 + r^2)^(-(N + D)/2) with r = sigma sqrt(D): the density of the length, by quadrature at its median
    r2, middle = float(d), float(np.median(ours))

    def shell(length):
        return length ** (entries - 1) * (length**2 + r2) ** (-(entries + d) / 2) * r2 ** ((entries + d) / 2)

    share = integrate.quad(shell, 0, middle)[0] / integrate.quad(shell, 0, np.inf)[0]
    assert abs(share - 0.5) < 4 * 0.5 / math.sqrt(4000)  # standard errors of a median's quantile


def test_a_million_extra_dimensions_are_normal_noise():
    """N = 2, r = sqrt(D): marginal variance D/(D - 2), and KS against the normal law at D = 1e6."""
    n = normals(20000, 2)
    for d, measured in ((64, 1.032), (2048, 1.001), (1e6, 1.0)):
        e = StudentT(d).draw(n)
        assert StudentT(d).variance == pytest.approx(measured, abs=1e-3)
        assert float(e.square().mean() / n.square().mean()) == pytest.approx(measured, abs=0.02)  # 20000 draws
    for i in range(2):
        assert stats.kstest(StudentT(1e6).draw(n)[:, i].numpy(), stats.norm.cdf).pvalue > 0.01
    torch.testing.assert_close(StudentT(1e12).draw(n), n, rtol=1e-10, atol=0)  # (|n|^2/nu)/4, and no digits lost on the way
    assert StudentT(math.inf).draw(n) is n
    assert (StudentT(2.0).variance, StudentT(math.inf).variance) == (math.inf, 1.0)


def test_noise_of_unit_variance_is_the_same_law_scaled():
    n = normals(50000, 3)
    e = StudentT(6.0, unit_variance=True).draw(n)
    torch.testing.assert_close(e * math.sqrt(6 / 4), StudentT(6.0).draw(n))
    assert float(e.square().mean()) == pytest.approx(StudentT(6.0, unit_variance=True).variance, abs=0.04)  # fourth moment 6, 50000 draws
    with pytest.raises(UserError, match="above 2"):
        StudentT(2.0, unit_variance=True)


@pytest.mark.parametrize("dof", [1.0, 64.0])
def test_no_length_is_lost_in_either_tail(dof):
    """Squared lengths from 1e-6 to 200 of two normals: finite, increasing, and back where they came from."""
    squared = np.geomspace(1e-6, 200, 400)
    moved = StudentT(dof).length(squared, 2)
    assert np.isfinite(moved).all()
    assert (np.diff(moved) > 0).all()
    np.testing.assert_allclose(np.log(stats.f(2, dof).sf(moved / 2)), -squared / 2, rtol=1e-9, atol=1e-12)  # chi2 of 2: sf = exp(-q/2)


def test_a_draw_keeps_its_direction_dtype_and_batch():
    space, n = StudentT(3.0), normals(5, 3, 4)
    e = space.draw(n)
    torch.testing.assert_close(torch.cosine_similarity(e.flatten(1), n.flatten(1)), torch.ones(5, dtype=torch.float64))
    alone = torch.cat([space.draw(n[i : i + 1]) for i in range(5)])
    assert torch.equal(e, alone)
    assert space.draw(n.float()).dtype == torch.float32
    assert space.draw(n[:0]).shape == (0, 3, 4)
    assert space.project(n) is n
    with pytest.raises(UserError, match="above 0"):
        StudentT(0.0)


class Points(Denoiser):
    """The exact denoiser of finitely many data under heavy-tailed noise: a softmax over -(N + nu)/2 log(1 + |x - y|^2/(nu sigma^2))."""

    def __init__(self, data: torch.Tensor, dof: float) -> None:
        super().__init__(EDM(t_min=0.02, t_max=80.0), tuple(data.shape[1:]), StudentT(dof))
        self.register_buffer("data", data)
        self.dof = dof

    def forward(self, x, t, condition=None):
        squared = torch.cdist(x, self.data).square() / t**2
        power = self.data.shape[1] + self.dof
        log = -squared / 2 if math.isinf(self.dof) else -power / 2 * torch.log1p(squared / self.dof)
        return torch.softmax(log, 1) @ self.data


def ring(count: int, seed: int) -> torch.Tensor:
    angle = torch.randint(8, (count,), generator=torch.Generator().manual_seed(seed)) * (math.pi / 4)
    return 4 * torch.stack([torch.cos(angle), torch.sin(angle)], 1) + 0.3 * normals(count, 2, seed=seed + 1)


def distance(denoiser: Points) -> float:
    """Sliced Wasserstein-2 of 1000 samples to the 500 data, each of them twice; between draws of 1000 from them it is .16 to .40."""
    return sliced_wasserstein(sample(denoiser, 1000, solver="heun", grid="karras:40", seed=2).x, denoiser.data.repeat(2, 1))


def test_the_flow_of_any_number_of_extra_dimensions_ends_in_the_data():
    """EDM's schedule and solver with r = sigma sqrt(D), exact field: as near to the data as diffusion gets, to 10 %, from the same normals.

    The planted fault is heavy noise with the field of normal noise.
    """
    data = ring(500, 1)
    normal = distance(Points(data, math.inf))
    for dof in (4.0, 64.0, 2048.0):
        assert distance(Points(data, dof)) == pytest.approx(normal, rel=0.1)
    wrong = Points(data, math.inf)
    wrong.space = StudentT(1.0)
    assert distance(wrong) > 1.2 * normal


def test_heavy_tailed_noise_takes_no_further_draw_and_matches_itself():
    """The start of index 3 is the same alone and in a batch, and the normals of both spaces are the same."""
    data = ring(50, 1)
    heavy, plain = (sample(Points(data, dof), 5, solver="ddim", grid="karras:3", seed=9, trace=True) for dof in (4.0, math.inf))
    chunked = sample(Points(data, 4.0), 5, solver="ddim", grid="karras:3", seed=9, batch=2)
    torch.testing.assert_close(heavy.x, chunked.x, rtol=0, atol=1e-6)
    cosine = torch.cosine_similarity(heavy.path[0], plain.path[0])
    torch.testing.assert_close(cosine, torch.ones_like(cosine))
