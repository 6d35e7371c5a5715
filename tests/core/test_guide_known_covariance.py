"""Guidance by a known covariance: exact for normal data, whatever was observed of each sample."""

import pytest
import torch

import unstir
from unstir.certify.oracles import GaussianOracle
from unstir.errors import UserError
from unstir.guide import KnownCovariance
from unstir.process import EDM


def law(n=5):
    root = torch.randn(n, n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return torch.linspace(-1, 1, n, dtype=torch.float64), root @ root.t() / n + 0.1 * torch.eye(n, dtype=torch.float64)


def masks():
    return torch.tensor([[1, 1, 0, 0, 0], [0, 1, 0, 1, 1], [0, 0, 0, 0, 0], [1, 1, 0, 0, 0]], dtype=torch.float64)


def test_the_guided_estimate_is_the_posterior_mean_of_a_normal_law():
    mean, C = law()
    denoiser, t, noise = GaussianOracle(mean, C, EDM()), 0.7, 0.3
    draw = torch.Generator().manual_seed(2)
    x, y = (torch.randn(4, 5, generator=draw, dtype=torch.float64) for _ in range(2))
    found = KnownCovariance(C, noise).wrap(denoiser)(x, t, {"observation": y, "observed": masks()})
    for row, mask in enumerate(masks() > 0):
        A = torch.cat((torch.eye(5, dtype=torch.float64), torch.eye(5, dtype=torch.float64)[mask]))
        R = torch.diag(torch.cat((torch.full((5,), t**2), torch.full((int(mask.sum()),), noise**2))).double())
        given = torch.cat((x[row], y[row][mask]))
        wanted = mean + C @ A.t() @ torch.linalg.solve(A @ C @ A.t() + R, given - A @ mean)
        torch.testing.assert_close(found[row], wanted, rtol=1e-7, atol=1e-7)  # the jitter of the solve


def test_samples_follow_the_conditional_law():
    """Of 4000 paths, 20 steps: three standard errors and the solver's 1 %."""
    mean, C = law()
    mask = torch.tensor([True, True, False, False, False])
    y = torch.tensor([0.5, -0.5, 0, 0, 0], dtype=torch.float64)
    told = {"observation": y.expand(4000, 5), "observed": mask.double().expand(4000, 5)}
    x = unstir.sample(GaussianOracle(mean, C, EDM()), 4000, guides=[KnownCovariance(C, 1e-3)], condition=told, seed=0).x.double()
    pull = C[~mask][:, mask] @ torch.linalg.inv(C[mask][:, mask])
    wanted = mean[~mask] + pull @ (y[mask] - mean[mask])
    cov = C[~mask][:, ~mask] - pull @ C[mask][:, ~mask]
    torch.testing.assert_close(x[:, ~mask].mean(0), wanted, atol=0.05, rtol=0)
    torch.testing.assert_close(torch.cov(x[:, ~mask].t()), cov, atol=0.06, rtol=0.06)
    assert (x[:, mask] - y[mask]).abs().max() < 0.02


def test_each_sample_may_have_a_covariance_of_its_own_and_none_meets_another():
    mean, C = law()
    both = torch.stack((C, 2 * torch.eye(5, dtype=torch.float64)))
    denoiser, draw = GaussianOracle(mean, C, EDM()), torch.Generator().manual_seed(3)
    x, y = (torch.randn(4, 5, generator=draw, dtype=torch.float64) for _ in range(2))
    told = {"observation": y, "observed": masks(), "group": torch.tensor([0, 1, 0, 1])}
    whole = KnownCovariance(both).wrap(denoiser)(x, 0.5, told)
    for row in range(4):
        alone = {key: value[row : row + 1] for key, value in told.items()}
        torch.testing.assert_close(whole[row : row + 1], KnownCovariance(both).wrap(denoiser)(x[row : row + 1], 0.5, alone))
    assert not torch.allclose(whole[0] - whole[3], (x - y)[0] * 0)


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match="square matrix"):
        KnownCovariance(torch.ones(2, 3))
    with pytest.raises(UserError, match="at least 0"):
        KnownCovariance(torch.eye(2), noise=-1)
    with pytest.raises(UserError, match="looks for condition"):
        KnownCovariance(torch.eye(5)).wrap(GaussianOracle(*law(), EDM()))(torch.zeros(1, 5), 0.5, None)
