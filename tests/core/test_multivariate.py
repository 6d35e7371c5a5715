"""Processes with several noise levels: shortest path, linear diffusions, functions, deterministic degradations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

import unstir
from unstir.certify.multivariate import MapOracle, fisher_length
from unstir.denoiser import Denoiser
from unstir.errors import UserError
from unstir.function_noise import FunctionNoise
from unstir.process import VP, Cold, LinearDiffusion, ShortestPath, VPCosine
from unstir.process.cold import blurred
from unstir.process.multivariate import frequencies
from unstir.solver import ColdSampler, LinearDDIM

GENERATOR = torch.Generator().manual_seed(0)
SHAPE = (8, 8)


def unit(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


# -- the shortest path


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_the_spectrum_along_the_shortest_path_is_the_predicted_one(t: float) -> None:
    """M and R act frequency by frequency, so the spectrum of x_t is a_k^2 v_k + s_k^2, read off unit impulses."""
    process = ShortestPath()
    impulse = torch.zeros(1, *SHAPE, dtype=torch.float64)
    impulse[0, 0, 0] = 1.0
    gain, noise = (torch.fft.fftn(part, dim=(-2, -1)).real[0] for part in (process.carry(impulse, t), process.colour(impulse, t)))
    found = gain**2 * process.spectrum(SHAPE) + noise**2
    torch.testing.assert_close(found, process.power(SHAPE, t), rtol=1e-10, atol=1e-12)


def test_no_usual_path_is_shorter_than_the_shortest_path() -> None:
    process = ShortestPath(exponent=3.0, level=20.0)
    power = process.spectrum(SHAPE)
    times = torch.linspace(0, 1, 2001, dtype=torch.float64)
    shortest = fisher_length(torch.stack([process.power(SHAPE, float(t)) for t in times]))
    assert shortest == pytest.approx(math.sqrt(0.5 * float(power.log().square().sum())), rel=1e-6)
    others = {}
    for name, plain in (("linear", VP()), ("cosine", VPCosine())):
        a, s = plain.alpha(times)[:, None, None], plain.sigma(times)[:, None, None]
        others[name] = fisher_length(a**2 * power + s**2)
    gain = torch.exp(-4 * times[:, None, None] * frequencies(SHAPE)) * torch.sqrt(1 - times)[:, None, None]
    others["blur"] = fisher_length(gain**2 * power + times[:, None, None])
    for bend in (0.05, -0.05):  # the same ends, the path between them bent
        path = power ** (1 - times - bend * torch.sin(math.pi * times))[:, None, None] * torch.exp(
            bend * torch.sin(2 * math.pi * times)[:, None, None] * frequencies(SHAPE)
        )
        others[f"bent {bend}"] = fisher_length(path)
    assert all(length > shortest * 1.001 for length in others.values()), (shortest, others)


@pytest.mark.parametrize("process", [ShortestPath(), LinearDiffusion()], ids=["shortest path", "linear"])
def test_white_noise_comes_back_from_coloured(process: ShortestPath | LinearDiffusion) -> None:
    noise = unit(3, 2, 4, 4)
    for t in (0.05, 0.4, 1.0):
        torch.testing.assert_close(process.whiten(process.colour(noise, t), t), noise, rtol=1e-8, atol=1e-8)


# -- linear diffusions


def test_vp_is_the_linear_diffusion_of_one_variable() -> None:
    process = LinearDiffusion(((0.0,),), ((1.0,),), speed=2.0)
    for t in (0.1, 0.7):
        assert process.mean(t).item() == pytest.approx(math.exp(-2 * t), abs=1e-12)
        assert process.covariance(t).item() == pytest.approx(-math.expm1(-4 * t), abs=1e-12)
        assert process.root(t).item() == pytest.approx(math.sqrt(-math.expm1(-4 * t)), abs=1e-8)


def test_critically_damped_langevin_diffusion_has_its_known_moments() -> None:
    """dx = b v, dv = -b x - 2 b v + 2 sqrt(b) dw: the mean is e^{-s} [[1 + s, s], [-s, 1 - s]], s = b t, and S = I - M M^T."""
    process = LinearDiffusion(speed=3.0)
    for t in (0.05, 0.3, 1.0):
        s = 3.0 * t
        mean = math.exp(-s) * np.array([[1 + s, s], [-s, 1 - s]])
        np.testing.assert_allclose(process.mean(t), mean, atol=1e-8)
        np.testing.assert_allclose(process.covariance(t), np.eye(2) - mean @ mean.T, atol=1e-8)
        np.testing.assert_allclose(process.root(t) @ process.root(t).T, process.covariance(t), atol=1e-7)


def test_a_simulated_random_diffusion_has_the_moments_of_the_matrix_exponential() -> None:
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=(3, 3)), generator.normal(size=(3, 3))
    q, d = (a - a.T) / 2, b @ b.T / 3
    process = LinearDiffusion(tuple(map(tuple, q)), tuple(map(tuple, d)), speed=1.0)
    count, steps, t = 40_000, 200, 0.8
    u, root = np.tile([1.0, -0.5, 0.2], (count, 1)), np.linalg.cholesky(2 * d)
    for _ in range(steps):
        u = u - (t / steps) * u @ (q + d).T + math.sqrt(t / steps) * generator.normal(size=u.shape) @ root.T
    np.testing.assert_allclose(u.mean(0), process.mean(t) @ [1.0, -0.5, 0.2], atol=0.02)  # 40,000 paths, 200 steps
    np.testing.assert_allclose(np.cov(u.T), process.covariance(t), atol=0.03)


@pytest.mark.parametrize("bad", [{"antisymmetric": ((0.0, 1.0), (1.0, 0.0))}, {"dissipation": ((0.0, 0.0), (0.0, 0.0))}, {"speed": -1.0}])
def test_a_diffusion_that_never_forgets_is_refused(bad: dict) -> None:
    with pytest.raises(UserError, match=r"antisymmetric|never mixed"):
        LinearDiffusion(**bad)


# -- sampling


def data_of(process: ShortestPath | LinearDiffusion) -> MapOracle:
    """Normal data, whose exact denoiser is linear, on a process of maps."""
    shape = (2, 3) if isinstance(process, LinearDiffusion) else (4, 4)
    n = math.prod(shape)
    root = torch.tril(unit(n, n)) / n**0.5 + 0.3 * torch.eye(n, dtype=torch.float64)
    return MapOracle(unit(n).reshape(shape) * 0.5, root @ root.mT, process)


@pytest.mark.parametrize("process", [ShortestPath(), LinearDiffusion()], ids=["shortest path", "linear"])
def test_the_flow_carries_normal_data_to_their_law_at_first_order(process: ShortestPath | LinearDiffusion) -> None:
    """The sampler is affine in the start: its exact covariance tends to the data's as the steps double."""
    law = data_of(process)
    errors = []
    for steps in (100, 200):
        cov = law.sampled_covariance(steps)
        errors.append(float((cov - law.cov).norm() / law.cov.norm()))
    assert errors[1] < 0.1
    assert errors[1] < 0.6 * errors[0]


@pytest.mark.parametrize("process", [ShortestPath(), LinearDiffusion()], ids=["shortest path", "linear"])
def test_a_point_is_reached_exactly_and_a_sample_stands_alone(process: ShortestPath | LinearDiffusion) -> None:
    shape = (2, 3) if isinstance(process, LinearDiffusion) else (4, 4)

    class Point(Denoiser):
        def forward(self, x: Tensor, t: float, condition: object = None) -> Tensor:
            return torch.full_like(x, 0.7)

    prior = Point(process, shape)  # type: ignore[arg-type]
    for eta in (0.0, 1.0):
        made = unstir.sample(prior, 3, solver=LinearDDIM(eta), grid="uniform:6", seed=1)
        assert torch.equal(made.x, torch.full((3, *shape), 0.7))  # type: ignore[arg-type]
    half = unstir.sample(prior, 3, solver=LinearDDIM(1.0), grid=[1.0, 0.6, 0.4], seed=1).x
    alone = unstir.sample(prior, 3, solver=LinearDDIM(1.0), grid=[1.0, 0.6, 0.4], seed=1, batch=1).x
    torch.testing.assert_close(half, alone, rtol=0, atol=1e-6)


def test_solvers_of_one_noise_level_refuse_processes_of_several_and_the_other_way_round() -> None:
    law = data_of(ShortestPath())
    with pytest.raises(UserError, match="has several"):
        unstir.sample(law, 1, solver="dpm++2m", grid="uniform:4")
    with pytest.raises(UserError, match="steps a Multivariate process"):
        LinearDDIM().plan(VP(), [1.0, 0.5])
    with pytest.raises(UserError, match="decrease"):
        LinearDDIM().plan(ShortestPath(), [0.5, 0.5])


# -- functions


def smoother(x: Tensor, points: Tensor, width: float = 0.1) -> Tensor:
    """A denoiser that knows no resolution: the mean of the values around each point, over a fixed width."""
    weights = torch.exp(-torch.cdist(points, points).square() / (2 * width**2))
    return x @ (weights / weights.sum(-1, keepdim=True))[0].mT


def test_function_noise_is_resolution_free_and_white_noise_is_not() -> None:
    """The spread of what a resolution-free denoiser makes of noise at 32 and 256 points: equal for functions, not for white noise."""
    space, spread = FunctionNoise(length=0.2), {}
    for n in (32, 64, 256):
        points = torch.linspace(0, 1, n, dtype=torch.float64)[None, :, None]
        noise = unit(4000, n)
        for name, drawn in (("function", space.draw(noise, {"points": points})), ("white", noise)):
            spread[name, n] = float(smoother(drawn, points)[:, n // 2].var())
    assert spread["function", 256] == pytest.approx(spread["function", 32], rel=0.1)  # 4,000 draws: 2.2 per cent
    assert spread["white", 256] < 0.2 * spread["white", 32]


def test_the_law_at_some_points_does_not_depend_on_the_others() -> None:
    space = FunctionNoise(length=0.3)
    few = torch.tensor([[[0.1], [0.5], [0.8]]], dtype=torch.float64)
    many = torch.cat([few, torch.rand(1, 29, 1, generator=GENERATOR, dtype=torch.float64)], 1)
    torch.testing.assert_close(space.kernel(many)[:, :3, :3], space.kernel(few))
    drawn = space.draw(unit(20_000, 32), {"points": many})[:, :3]
    torch.testing.assert_close(drawn.mT.cov(), space.kernel(few)[0], rtol=0, atol=0.04)  # 20,000 draws
    with pytest.raises(UserError, match="needs the points"):
        space.draw(unit(2, 3))


def test_functions_are_sampled_on_any_grid_with_one_covariance() -> None:
    """GP data with their exact denoiser at 12 and 48 irregular points: the covariance at the shared points agrees with the data's."""
    space, data = FunctionNoise(length=0.1), FunctionNoise(length=0.3)

    class Exact(Denoiser):
        def forward(self, x: Tensor, t: float, condition: dict | None = None) -> Tensor:
            points = (condition or {})["points"]
            a, s = float(self.process.alpha(t)), float(self.process.sigma(t))
            prior, noise = data.kernel(points), space.kernel(points)
            gain = a * prior @ torch.linalg.inv(a**2 * prior + s**2 * noise)
            return (gain @ x[..., None])[..., 0]

    shared = torch.linspace(0.1, 0.9, 6, dtype=torch.float64)[None, :, None]
    errors = []
    for n in (12, 48):
        points = torch.cat([shared, torch.rand(1, n - 6, 1, generator=torch.Generator().manual_seed(n), dtype=torch.float64)], 1)
        prior = Exact(VP(), (n,), space)
        torch.set_default_dtype(torch.float64)
        try:
            made = unstir.sample(prior, 3000, solver="dpm++2m", grid="log-snr:20", condition={"points": points}).x
        finally:
            torch.set_default_dtype(torch.float32)
        errors.append(float((made[:, :6].mT.cov() - data.kernel(shared)[0]).norm()))  # type: ignore[index]
    assert max(errors) < 0.25  # of a matrix of norm 3.6; 3,000 draws alone give about 0.15


# -- deterministic degradations


def test_the_improved_sampler_is_exact_for_a_linear_degradation_whatever_the_restoration() -> None:
    """Deg(x, t) = x + t e: any restoration ends at x_0 by the improved sampler, and not by the naive one."""
    truth, e = unit(2, 5), unit(1, 5) + 3

    class Any(Denoiser):
        def forward(self, x: Tensor, t: float, condition: object = None) -> Tensor:
            return torch.tanh(x) + 0.3 * t

    process = Cold(lambda x, t: x + t * e)
    prior, start = Any(process, (5,)), (truth + e, 1.0)
    improved = unstir.sample(prior, 2, solver=ColdSampler(), grid="uniform:7", start=start).x
    naive = unstir.sample(prior, 2, solver=ColdSampler(improved=False), grid="uniform:7", start=start).x
    torch.testing.assert_close(improved, truth, rtol=0, atol=1e-12)
    assert float((naive - truth).abs().max()) > 0.5  # type: ignore[operator]


def test_on_blurred_digits_improved_beats_naive_beats_one_restoration() -> None:
    """Real 8 x 8 digits, a linear restoration fitted on one half (ridge, a time each) and tested on the other."""
    from sklearn.datasets import load_digits

    images = torch.from_numpy(load_digits().images / 16.0)
    fit, held = images[:1200], images[1200:1500]
    process = Cold(lambda x, t: blurred(x, t, width=1.5))
    times = [k / 10 for k in range(10, -1, -1)]

    class Ridge(Denoiser):
        def __init__(self) -> None:
            super().__init__(process, SHAPE)
            clean = fit.flatten(1)
            self.maps = {}
            for t in times:
                x = torch.cat([process.carry(fit, t).flatten(1), torch.ones(len(fit), 1, dtype=torch.float64)], 1)
                self.maps[t] = torch.linalg.solve(x.mT @ x + 0.3 * torch.eye(65, dtype=torch.float64), x.mT @ clean)

        def forward(self, x: Tensor, t: float, condition: object = None) -> Tensor:
            return (torch.cat([x.flatten(1), torch.ones(len(x), 1, dtype=x.dtype)], 1) @ self.maps[t]).reshape(x.shape)

    prior, start = Ridge(), (process.carry(held, 1.0), 1.0)
    error = {
        name: float((unstir.sample(prior, len(held), solver=solver, grid=times, start=start).x - held).square().mean())  # type: ignore[operator]
        for name, solver in (("improved", ColdSampler()), ("naive", ColdSampler(improved=False)))
    }
    error["direct"] = float((prior(start[0], 1.0) - held).square().mean())
    assert error["improved"] < error["direct"], error
    assert error["improved"] < error["naive"], error


def test_a_cold_process_needs_a_degraded_state_to_begin_with() -> None:
    class Same(Denoiser):
        def forward(self, x: Tensor, t: float, condition: object = None) -> Tensor:
            return x

    with pytest.raises(UserError, match=r"give a degraded state as start=\(state, t\)"):
        unstir.sample(Same(Cold(), SHAPE), 1, solver=ColdSampler(), grid="uniform:3")
    with pytest.raises(UserError, match="keeps the shape"):
        Cold(lambda x, t: x[:, :1]).carry(unit(2, 4), 0.5)
