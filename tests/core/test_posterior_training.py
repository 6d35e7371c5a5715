"""Learning from measurements alone: denoisers of signals never seen, and clean data from noisy data by the score of their law."""

import math

import pytest
import torch

from unstir import sample
from unstir.certify import GaussianOracle, MixtureOracle
from unstir.certify.distances import energy_distance
from unstir.denoiser import Denoiser
from unstir.errors import UnknownName, UserError
from unstir.posterior import MeasurementLoss, Tweedie, power_law, power_mean
from unstir.process import EDM
from unstir.train.times import LogNormal, LogUniform

# ---- signals never seen


class Filled(Denoiser):
    """A small network that is told which entries it sees; all of them when it samples."""

    def __init__(self):
        super().__init__(EDM(), (2,))
        self.net = torch.nn.Sequential(
            torch.nn.Linear(5, 64), torch.nn.SiLU(), torch.nn.Linear(64, 64), torch.nn.SiLU(), torch.nn.Linear(64, 2)
        )

    def forward(self, x, t, condition=None):
        view = torch.ones_like(x) if condition is None else condition["view"]
        sigma = torch.as_tensor(t, dtype=x.dtype).reshape(-1, 1).expand(x.shape[0], 1)
        found = self.net(torch.cat([x / torch.sqrt(sigma**2 + 2), view, sigma.log() / 4], 1))
        return view * (x * 2 / (2 + sigma**2) + sigma * 2**0.5 / torch.sqrt(2 + sigma**2) * found) + (1 - view) * found


LAW = MixtureOracle([0.5, 0.5], [[1.5, -1.0], [-1.5, 1.0]], [[0.6, 0.6], [0.6, 0.6]])


def views(count, generator):
    """What was measured (an entry is missing in 6 of 10 signals), and a part of it."""
    kind = torch.rand(count, 1, generator=generator)
    view = torch.cat([(kind < 0.7).float(), ((kind < 0.4) | (kind >= 0.7)).float()], 1)
    return view, view * (torch.rand(count, 2, generator=generator) < 0.8)


@pytest.fixture(scope="module")
def learned():
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    denoiser, loss = Filled(), MeasurementLoss(times=LogUniform(0.05, 10.0))
    optimiser = torch.optim.Adam(denoiser.parameters(), lr=1e-2)
    truth = LAW.draw(4000, generator).float()
    view, _ = views(4000, generator)
    for step in range(1200):
        index = torch.randint(4000, (256,), generator=generator)
        seen = view[index] * (torch.rand(256, 2, generator=generator) < 0.8)
        for group in optimiser.param_groups:
            group["lr"] = 1e-2 * (1 - step / 1200)
        value = loss(denoiser, (truth * view)[index], view[index], seen, generator, sigma_data=1.5)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
    return denoiser.eval(), (truth * view).double(), view


def test_a_law_of_signals_that_were_never_seen_whole_is_learned(learned):
    denoiser, filled, _ = learned
    made = sample(denoiser, 2000, solver="dpm++2m", grid="karras:30,sigma_max=10", seed=1).x.double()
    reference = LAW.draw(2000, torch.Generator().manual_seed(7))
    inpainted = energy_distance(filled[:2000], reference)  # fill in the mean (0), then fit: the best fit has that law
    assert energy_distance(made, reference) < inpainted / 4


def test_what_is_not_seen_is_filled_in_by_its_conditional_mean(learned):
    denoiser, _, _ = learned
    x = torch.tensor([[1.5, 0.0], [-1.5, 0.0]])
    view = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    with torch.no_grad():
        found = denoiser(x, 0.2, {"view": view})
    # the other entry's mode is known from the first, 5 standard deviations apart
    assert (found[:, 1] - torch.tensor([-1.0, 1.0])).abs().max() < 0.3


def test_the_measurement_loss_with_everything_seen_is_the_denoising_loss_and_takes_another_physics():
    exact = GaussianOracle(torch.zeros(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64), EDM())
    y, ones = torch.randn(500, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64), torch.ones(500, 3, dtype=torch.float64)
    loss = MeasurementLoss(times=LogNormal(0.0, 1.0), weight="x0")
    found = loss(exact, y, ones, ones, torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(2)
    t = LogNormal(0.0, 1.0)(exact.process, 500, generator)
    x = y + t[:, None] * torch.randn(500, 3, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(found, (exact(x, t) - y).square().mean())

    turned = MeasurementLoss(
        render=lambda signal, view: (signal * view).sum(1, keepdim=True),
        lift=lambda measured, view: measured * view,
        times=LogNormal(0.0, 1.0),
        weight="x0",
    )
    angle = torch.rand(500, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * math.pi
    view = torch.cat([angle.cos(), angle.sin(), 0 * angle], 1)
    seen = (y * view).sum(1, keepdim=True)
    # of white data a noisy projection says (a . x + sigma e)/(1 + sigma^2) along a: the oracle's value along a lifted state
    value = turned(exact, seen, view, view, torch.Generator().manual_seed(4))
    generator = torch.Generator().manual_seed(4)
    t = LogNormal(0.0, 1.0)(exact.process, 500, generator)
    noisy = seen + t[:, None] * torch.randn(500, 1, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(value, (noisy / (1 + t[:, None] ** 2) - seen).square().mean())


def test_the_measurement_loss_refuses_what_cannot_be():
    with pytest.raises(UnknownName):
        MeasurementLoss(weight="much")
    with pytest.raises(UserError, match="must be finite"):
        MeasurementLoss()(Filled(), torch.full((1, 2), math.nan), torch.ones(1, 2), torch.ones(1, 2), torch.Generator())


# ---- clean data from noisy data


def test_of_normal_noise_the_estimate_is_the_posterior_mean():
    mean, cov, phi = torch.tensor([0.5, -0.3]).double(), torch.tensor([[1, 0.6], [0.6, 0.8]]).double(), 0.3
    noisy = GaussianOracle(mean, cov + phi * torch.eye(2).double())  # a denoiser trained on noisy data alone
    y = noisy.draw(50, torch.Generator().manual_seed(0))
    exact = mean + (y - mean) @ torch.linalg.solve(cov + phi * torch.eye(2).double(), cov)
    torch.testing.assert_close(Tweedie(noisy, 0.0, phi, 1e-4)(y), exact, rtol=1e-6, atol=1e-6)


def test_of_gamma_noise_the_estimate_is_the_exact_harmonic_mean():
    # mu ~ inverse Gamma(a, b), y ~ Gamma(k = 1/phi, mean mu): p(y) ~ y^(k-1)/(b + k y)^(a+k)
    a, b, phi = 4.0, 3.0, 0.1
    k, y = 1 / phi, torch.linspace(0.1, 5, 40, dtype=torch.float64)
    score = (k - 1) / y - (a + k) * k / (b + k * y)
    found = power_mean(y, score, 2.0, phi)
    torch.testing.assert_close(found, (b + k * y) / (a + k))
    generator = torch.distributions.Gamma(torch.tensor(a).double(), torch.tensor(b).double())
    torch.manual_seed(0)
    mu = 1 / generator.sample((20000,))
    y = torch.distributions.Gamma(torch.tensor(k).double(), k / mu).sample()
    ours = power_mean(y, (k - 1) / y - (a + k) * k / (b + k * y), 2.0, phi)
    best = (b + k * y) / (a + k - 1)  # the posterior mean itself
    loss = 10 * torch.log10((ours - mu).square().mean() / (best - mu).square().mean())
    assert 0 <= float(loss) < 0.5  # dB


def test_of_poisson_noise_the_estimate_is_the_geometric_mean_but_for_few_counts():
    # mu ~ Gamma(a, b), y = phi n, n ~ Poisson(mu/phi); n is negative binomial
    a, b, phi = 3.0, 0.7, 0.1
    n = torch.arange(1, 60, dtype=torch.float64)
    score = (torch.digamma(n + a) - torch.digamma(n + 1) - math.log1p(phi * b)) / phi
    exact = torch.exp(torch.digamma(a + n) - math.log(b + 1 / phi))
    found = power_mean(phi * n, score, 1.0, phi)
    assert ((found / exact - 1).abs() < 1 / (10 * n**2)).all()  # the saddle point leaves 1/(12 n^2)
    best = (a + n) / (b + 1 / phi)
    assert float((found / best - 1).abs()[10:].max()) < 0.05


def test_the_estimate_is_continuous_in_the_power():
    y, score = torch.linspace(0.5, 3, 10, dtype=torch.float64), torch.linspace(-1, 1, 10, dtype=torch.float64)
    for p in (0.0, 1.0, 2.0):
        near = min(max(p + 1e-6, 0.0), 2.0 - 1e-6 * (p == 2))
        torch.testing.assert_close(power_mean(y, score, near, 0.1), power_mean(y, score, p, 0.1), rtol=1e-4, atol=1e-4)


def smooth(seed):
    """Smooth positive images (8, 64, 64) between 0.5 and 6."""
    axis = torch.linspace(0, 1, 64, dtype=torch.float64)
    phase = torch.rand(8, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 6
    waves = torch.sin(3 * axis[None, :, None] + phase[:, 0, None, None]) + torch.cos(4 * axis[None, None] + phase[:, 1, None, None])
    return 3.25 + 1.35 * waves


@pytest.mark.parametrize(("p", "phi"), [(0.0, 0.04), (1.0, 0.05), (2.0, 0.02)])
@pytest.mark.parametrize("copies", [1, 2])
def test_the_kind_of_noise_and_its_size_are_found_from_noisy_images(p, phi, copies):
    truth = smooth(0)
    torch.manual_seed(1)

    def noisy():
        if p == 0:
            return truth + math.sqrt(phi) * torch.randn_like(truth)
        if p == 1:
            return phi * torch.poisson(truth / phi)
        return torch.distributions.Gamma(torch.tensor(1 / phi).double(), 1 / (phi * truth)).sample()

    found = power_law(noisy(), noisy() if copies == 2 else None)
    assert found[0] == p
    assert found[1] == pytest.approx(phi, rel=0.1)
    free = power_law(noisy(), noisy(), powers=None)
    assert free[0] == pytest.approx(p, abs=0.2)  # 32,768 squares, over means from .5 to 6


def test_clean_data_refuse_what_cannot_be():
    y = torch.ones(3)
    with pytest.raises(UserError, match="power must lie"):
        power_mean(y, y, 3.0, 0.1)
    with pytest.raises(UserError, match="phi above 0"):
        power_mean(y, y, 1.0, 0.0)
    with pytest.raises(UserError, match="must be positive"):
        power_mean(-y, y, 1.0, 0.1)
    with pytest.raises(UserError, match="two copies"):
        power_law(y, torch.ones(2))
    with pytest.raises(UserError, match="positive mean"):
        power_law(-y)
