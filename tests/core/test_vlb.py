"""The variational bound: against closed forms, above -log p, tighter with more steps and with a learned variance; importance sampling."""

import math

import numpy as np
import pytest
import torch

from unstir import sample
from unstir.certify.checks import variance_ratio
from unstir.certify.oracles import GaussianOracle, MixtureOracle, gm4
from unstir.denoiser import NetworkDenoiser
from unstir.errors import UserError
from unstir.grid import Native
from unstir.process import DDBMVP, EDM, OUVE, VP, Joint, VPTable
from unstir.solver import DDIM, ReverseVariance
from unstir.train import DenoisingLoss, ImportanceSampler, ReverseChain, TwoHeads, VariationalLoss, bound

TABLE = VPTable()


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ring(process) -> MixtureOracle:
    angle = torch.arange(8, dtype=torch.float64) * (math.pi / 4)
    means = 4 * torch.stack([torch.cos(angle), torch.sin(angle)], 1)
    return MixtureOracle([1.0] * 8, means, torch.full((8, 2), 0.3), process)


def respaced(steps: int, process: VPTable = TABLE) -> ReverseChain:
    return ReverseChain(process, Native(steps).times(process))


# The steps


def test_the_two_variances_are_those_of_ddpm():
    """beta and beta-tilde = beta (1 - abar_prev)/(1 - abar) of the table of 1000; the first variance stands in at the data."""
    chain, betas = respaced(1000), TABLE.betas().numpy()
    kept = np.cumprod(1 - betas)
    before = np.append(1, kept[:-1])
    np.testing.assert_allclose(chain.table["large"].exp().numpy()[::-1], betas, rtol=1e-9)
    tilde = betas * (1 - before) / (1 - kept)
    np.testing.assert_allclose(chain.table["small"].exp().numpy()[::-1][1:], tilde[1:], rtol=1e-9)
    np.testing.assert_allclose(chain.table["small"].exp().numpy()[-1], tilde[1], rtol=1e-9)
    np.testing.assert_allclose(chain.table["b"].numpy()[::-1], np.sqrt(before) * betas / (1 - kept), rtol=1e-9)


def test_each_term_is_the_divergence_of_two_normal_laws():
    """KL(N(m1, s1)|N(m2, s2)) of torch.distributions, entry by entry; and -log N at the step to the data."""
    chain = respaced(20)
    x0, estimate, v = torch.randn(3, 4, 3, generator=gen(), dtype=torch.float64)
    step = torch.tensor([0, 7, 18, 19])
    terms = chain.terms(step, x0, estimate, v)
    normal = torch.distributions.Normal
    small, large, b = (chain.table[name][step][:, None] for name in ("small", "large", "b"))
    scale = torch.exp((v * large + (1 - v) * small) / 2)
    expected = torch.distributions.kl_divergence(normal(b * x0, torch.exp(small / 2).expand(4, 3)), normal(b * estimate, scale)).sum(1)
    expected[-1] = -normal(estimate, scale).log_prob(x0)[-1].sum()
    torch.testing.assert_close(terms, expected)


def test_the_last_state_of_ddpm_knows_less_than_1e_4_nats_an_entry():
    """abar_T = 4.04e-5, data of unit variance: KL(q(x_T|x_0)|prior) = abar x_0^2/(2 sigma^2)."""
    x0 = torch.randn(500, 4, generator=gen(), dtype=torch.float64)
    term = respaced(1000).prior_term(x0).mean() / 4
    assert term == pytest.approx(4.0358e-5 / 2 * float(x0.square().mean()), rel=1e-3)
    assert term < 1e-4


def test_the_bound_of_normal_data_is_exact_where_the_chain_is():
    """N(0, 1) data under VP: p(x_s|x_t) is normal with the large variance, so every KL term is its own mean and the bound is -log p.

    Averaged over 4000 draws the two agree to four standard errors; with the small variance the bound is well above.
    """
    oracle = GaussianOracle(torch.zeros(2), torch.eye(2), TABLE)
    x0 = oracle.draw(4000, gen(1))
    exact = -oracle.log_density(x0, -1.0)
    last = respaced(10).steps

    def total(v):
        terms = bound(oracle, x0, respaced(10), fraction=v, generator=gen(2))
        assert terms.shape == (last + 1, 4000)
        return terms.sum(0)

    gap = total(1.0) - exact
    assert abs(gap.mean()) < 4 * gap.std() / math.sqrt(4000) + 1e-3  # the prior's own term
    assert (total(0.0) - exact).mean() > 0.5


def test_the_bound_lies_above_minus_log_p_and_tightens_with_the_number_of_steps():
    """The ring of eight, exact denoiser, 25, 50 and 200 steps: mean gap over 3000 draws of data.

    With the larger variance it closes; the smaller one's stays at 1 nat however many steps, for near the data it is too small by far.
    """
    oracle = ring(TABLE)
    x0 = oracle.draw(3000, gen(3))
    exact = -oracle.log_density(x0, -1.0)

    def gap(steps, v):
        return bound(oracle, x0, respaced(steps), fraction=v, generator=gen(4)).sum(0) - exact

    gaps = [gap(steps, 1.0) for steps in (25, 50, 200)]
    errors = [float(value.std()) / math.sqrt(3000) for value in gaps]
    assert all(float(value.mean()) > -3 * error for value, error in zip(gaps, errors, strict=True))
    assert gaps[1].mean() + 3 * errors[1] < gaps[0].mean()
    assert gaps[2].mean() + 3 * errors[2] < gaps[1].mean()
    assert gap(200, 0.0).mean() > 1


def test_a_reverse_chain_ends_at_the_data():
    for times in ([0.9, 0.5], [0.5, 0.9, 0.0], [0.9, 0.0]):
        with pytest.raises(UserError, match="reverse chain"):
            ReverseChain(VP(), times)
    with pytest.raises(UserError, match="one continuous process"):
        ReverseChain(Joint({"x": VP()}), [0.9, 0.5, 0.0])
    assert ReverseChain(VP(), np.linspace(1, 0, 5)).steps == 4


def test_the_bound_of_an_anchored_process_is_that_of_its_plain_state():
    """y moves x by beta y and nothing else: the terms of x and of z = x - beta y agree; the prior's own mismatch counts."""
    anchor, process = torch.tensor([[0.7, -0.4]], dtype=torch.float64), OUVE()
    x0 = gm4().draw(50, gen(5))
    chain = ReverseChain(process, [1.0, 0.5, 0.2, 0.0])
    here = bound(gm4(process), x0, chain, generator=gen(6), condition={"anchor": anchor})
    there = bound(gm4(process), x0, chain, generator=gen(6), condition={"anchor": torch.zeros(1, 2)})
    torch.testing.assert_close(here[1:], there[1:])
    alpha, sigma = float(process.alpha(1.0)), float(process.sigma(1.0))
    torch.testing.assert_close(here[0], (alpha * (x0 - anchor)).square().sum(1) / (2 * sigma**2))


# A learned variance


class Steps(torch.nn.Module):
    """A v for every step, whatever the state."""

    def __init__(self, chain: ReverseChain) -> None:
        super().__init__()
        self.times = chain.table["t"]
        self.v = torch.nn.Parameter(torch.full((chain.steps,), 0.5, dtype=torch.float64))

    def forward(self, x, t, condition=None):
        t = torch.as_tensor(t, dtype=torch.float64).expand(x.shape[0])
        return self.v[(self.times - t[:, None]).abs().argmin(1)][:, None].expand_as(x)


@pytest.fixture(scope="module")
def learned():
    """v of 25 respaced steps on the ring, by Adam on L_hybrid (the mean has nothing to learn), exact denoiser."""
    chain, oracle = respaced(25), ring(TABLE)
    steps = Steps(chain)
    loss = VariationalLoss(chain, steps, hybrid=True, weight=1.0)
    x0, generator = oracle.draw(20000, gen(7)), gen(8)
    for rate in (0.3, 0.03):
        optimiser = torch.optim.Adam(steps.parameters(), lr=rate)
        for _ in range(150):
            optimiser.zero_grad()
            loss(oracle, x0[torch.randint(len(x0), (250,), generator=generator)], generator).backward()
            optimiser.step()
    return chain, oracle, steps


def test_a_learned_variance_bounds_tighter_than_both_fixed_ones(learned):
    chain, oracle, steps = learned
    x0 = oracle.draw(3000, gen(9))
    with torch.no_grad():
        found = {v: float(bound(oracle, x0, chain, fraction=v, generator=gen(10)).sum(0).mean()) for v in (0.0, 1.0, steps)}
    exact = float(-oracle.log_density(x0, -1.0).mean())
    assert exact < found[steps] < min(found[0.0], found[1.0])
    assert found[steps] - exact < 0.7 * (min(found[0.0], found[1.0]) - exact)


def test_the_learned_variance_is_the_optimal_one(learned):
    """Sigma = small + b^2 E|x_0 - D|^2 per entry minimises each term: what L_vlb teaches."""
    chain, oracle, steps = learned
    x0, table = oracle.draw(6000, gen(11)), chain.table
    for number in (5, 12, 18, 22):
        t = float(table["t"][number])
        error = (x0 - oracle(TABLE.perturb(x0, t, torch.randn(x0.shape, generator=gen(12), dtype=x0.dtype)), t)).square().mean()
        best = torch.log(table["small"][number].exp() + table["b"][number] ** 2 * error)
        found = chain.log_variance(torch.tensor([number]), steps.v.detach()[number : number + 1])
        assert abs(float(found) - float(best)) < 0.1 * float(best - table["small"][number]) + 0.03, number  # the noise of Adam


def test_sampling_with_the_learned_variance_is_nearer_to_the_law(learned):
    """Variance of the ring's radius: 25 ancestral steps shrink the modes with the small variance, and less with the learned one."""
    chain, oracle, steps = learned

    def spread_of(solver) -> float:
        with torch.no_grad():
            x = sample(oracle, 1500, solver=solver, grid=Native(25), seed=1).x
        means = oracle.means
        return float((x - means[torch.cdist(x, means).argmin(1)]).square().mean().sqrt())

    small, found = spread_of(ReverseVariance()), spread_of(ReverseVariance(steps))
    assert abs(found - 0.3) < abs(small - 0.3)


def test_the_hybrid_loss_is_the_simple_loss_and_a_little_of_the_bound():
    """At v = 1 everywhere: mean |eps - eps_theta|^2 + 0.001 T E[L_t] in bits an entry; only the variance gets the bound's gradient."""
    chain, oracle = respaced(25), ring(TABLE)
    x0, scale = oracle.draw(64, gen(1)), torch.ones((), dtype=torch.float64, requires_grad=True)
    head = torch.ones((), dtype=torch.float64, requires_grad=True)

    class Scaled(type(oracle)):
        def forward(self, x, t, condition=None):
            return super().forward(x, t, condition) * scale

    denoiser = Scaled(oracle.log_weights.exp(), oracle.means, oracle.variances.sqrt(), TABLE)

    def fraction(x, t, condition=None):
        return head.expand_as(x)

    def parts(weight):
        value = VariationalLoss(chain, fraction, weight=weight)(denoiser, x0, gen(2))
        return value, *torch.autograd.grad(value, (scale, head))

    (one, slope, slope_head), (two, slope_two, slope_head_two) = parts(0.001), parts(0.002)
    torch.testing.assert_close(slope, slope_two)  # the mean is held fixed in L_vlb
    torch.testing.assert_close(2 * slope_head, slope_head_two)
    step, _ = ImportanceSampler(25, even=1.0).draw(64, generator := gen(2))
    t = chain.table["t"][step]
    x_t = TABLE.perturb(x0, t, torch.randn(x0.shape, generator=generator, dtype=x0.dtype))
    terms = chain.terms(step, x0, oracle(x_t, t), torch.ones_like(x0)) / (2 * math.log(2))
    torch.testing.assert_close((two - one).detach(), 0.001 * 25 * terms.mean())
    simple = ((x0 - oracle(x_t, t)) / TABLE.rho(t)[:, None]).square().mean()
    torch.testing.assert_close((2 * one - two).detach(), simple)
    full = VariationalLoss(chain, fraction, hybrid=False)(denoiser, x0, gen(2))
    assert torch.autograd.grad(full, scale)[0].abs() > 0


def test_one_network_with_two_heads_learns_both():
    """A linear trunk of twice the channels: the denoiser sees the first half, L_hybrid reaches every weight."""
    torch.manual_seed(0)

    class Trunk(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Conv1d(2, 4, 1)

        def forward(self, x, label, condition=None):
            return self.layer(x)

    heads = TwoHeads(Trunk())
    denoiser = NetworkDenoiser(heads, TABLE, parameterisation="eps", shape=(2, 5))
    loss = VariationalLoss(respaced(10), heads.fraction)
    x0 = torch.randn(6, 2, 5, generator=gen())
    value = loss(denoiser, x0, gen(1))
    value.backward()
    assert torch.isfinite(value)
    assert (heads.network.layer.weight.grad.abs().sum((1, 2)) > 0).all()
    assert denoiser(x0, 500.0).shape == (6, 2, 5)
    assert heads.fraction(x0, 500.0).shape == (6, 2, 5)
    x = sample(denoiser, 2, solver=ReverseVariance(heads.fraction), grid=Native(5))
    assert torch.isfinite(x.x).all()
    with pytest.raises(UserError, match="follows a call"):
        TwoHeads(Trunk()).fraction(x0, 1.0)


def test_options_of_the_variational_loss_are_checked():
    with pytest.raises(UserError, match="positive"):
        VariationalLoss(respaced(5), lambda x, t, c: x, weight=0.0)
    with pytest.raises(UserError, match="draws from 4 steps"):
        VariationalLoss(respaced(5), lambda x, t, c: x, sampler=ImportanceSampler(4))
    with pytest.raises(UserError, match="keep of at least 1"):
        ImportanceSampler(4, keep=0)


# The steps that are drawn


def test_importance_sampling_is_unbiased_and_uniform_until_every_step_was_seen():
    sampler = ImportanceSampler(4, keep=3)
    sampler.update(torch.tensor([0, 1, 2, 0, 1, 2, 0, 1, 2]), torch.ones(9))
    assert torch.equal(sampler.probabilities, torch.full((4,), 0.25, dtype=torch.float64))
    sampler.update(torch.tensor([3, 3, 3, 3]), torch.tensor([50.0, 3.0, 3.0, 3.0]))  # the first is forgotten
    p = sampler.probabilities
    torch.testing.assert_close(p, 0.999 * torch.tensor([1, 1, 1, 3], dtype=torch.float64) / 6 + 0.001 / 4)
    step, weights = sampler.draw(40000, gen())
    values = torch.tensor([1.0, 5.0, -2.0, 8.0], dtype=torch.float64)
    assert abs((weights * values[step]).mean() - values.mean()) < 4 * (weights * values[step]).std() / 200
    torch.testing.assert_close(torch.bincount(step) / 40000, p.float(), rtol=0, atol=0.01)  # 4 standard errors


def test_importance_sampling_lowers_the_variance_of_the_gradient_of_the_bound():
    """L_vlb of 200 steps on the ring, gradient with respect to a shift of the estimate: second moment uniform over importance-sampled."""
    chain, oracle = respaced(200), ring(TABLE)
    x0, generator, sampler = oracle.draw(4000, gen(1)), gen(2), ImportanceSampler(200)

    def gradients(step):
        data = x0[torch.randint(len(x0), (len(step),), generator=generator)]
        t = chain.table["t"][step]
        x_t = TABLE.perturb(data, t, torch.randn(data.shape, generator=generator, dtype=data.dtype))
        estimate = oracle(x_t, t).requires_grad_()
        terms = chain.terms(step, data, estimate, torch.full_like(data, 0.5))
        (gradient,) = torch.autograd.grad(terms.sum(), estimate)
        return terms, 200 * gradient.sum(1)

    every = torch.arange(200).repeat(10)
    sampler.update(every, gradients(every)[0])
    uniform, (step, weights) = torch.randint(200, (20000,), generator=generator), sampler.draw(20000, generator)
    plain, drawn = gradients(uniform)[1], weights * gradients(step)[1]
    assert drawn.var() < 0.5 * plain.var()


# The solver


def test_the_smaller_variance_is_ancestral_sampling():
    x = sample(gm4(EDM()), 16, solver=ReverseVariance(), grid="karras:8", seed=3).x
    torch.testing.assert_close(x, sample(gm4(EDM()), 16, solver=DDIM(eta=1.0), grid="karras:8", seed=3).x)
    y = {"anchor": torch.tensor([[0.3, 0.1]])}
    pinned = sample(gm4(DDBMVP()), 16, solver=ReverseVariance(1.0), grid="log-snr:8", condition=y).x
    assert torch.isfinite(pinned).all()
    assert pinned.std(0).min() > 0.1


def test_the_larger_variance_is_exact_for_normal_data_of_unit_variance():
    """Any number of steps on VP: sampled over exact standard deviation is 1, and below it with the smaller one."""
    times = [*np.linspace(1.0, 0.02, 6)]
    assert variance_ratio(ReverseVariance(1.0), VP(), times, 1.0) == pytest.approx(1, abs=1e-12)
    assert variance_ratio(ReverseVariance(0.0), VP(), times, 1.0) < 0.95
    with pytest.raises(UserError, match="finite number"):
        ReverseVariance(math.nan)


def test_ancestral_sampling_with_a_thousand_steps_has_the_moments_of_normal_data():
    """Exact variance by propagating every draw, in directions of variance 4, .5 and .06: to 2 %, and 3 % in the smallest."""
    times = Native(1000).times(TABLE)[:-1]
    for variance in (4.0, 0.5, 0.06):
        for solver in (ReverseVariance(0.0), ReverseVariance(1.0)):
            assert variance_ratio(solver, TABLE, times, variance) ** 2 == pytest.approx(1, abs=0.02 if variance > 0.1 else 0.03), variance


def test_the_bound_weighs_the_errors_of_the_denoising_loss():
    """The KL term at the small variance is b^2/(2 small) |x_0 - D|^2, half the SNR gained in the step: VDM's weight of the simple loss."""
    chain = respaced(1000)
    snr = 1 / TABLE.rho(torch.tensor(chain.times[:-1], dtype=torch.float64)) ** 2
    gained = snr[1:] - snr[:-1]
    weight = (chain.table["b"] ** 2 / (2 * chain.table["small"].exp()))[:-1]
    torch.testing.assert_close(weight, gained / 2, rtol=1e-8, atol=0)
    assert DenoisingLoss(weight="x0").weights(TABLE, chain.table["t"], 0.5).unique().tolist() == [1.0]
