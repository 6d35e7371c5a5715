"""Training: averages, losses and laws of times against closed forms; what the trainer promises about steps, clipping and stopping."""

import json
import math
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

sys.path.insert(0, str(Path(__file__).parent))
import training_by_hand as by_hand

from unstir.certify import GaussianOracle
from unstir.denoiser import NetworkDenoiser
from unstir.denoiser.convert import convert
from unstir.errors import UnknownName, UserError
from unstir.nn import MLP
from unstir.process import EDM, OUVE, VE, VP, Joint, RectifiedFlow, VPCosine, VPTable
from unstir.process.base import spread
from unstir.space import Euclidean, JointSpace, Masked, ZeroMean
from unstir.train import (
    EMA,
    DenoisingLoss,
    LogitNormal,
    LogNormal,
    LogUniform,
    Mixture,
    PowerEMA,
    Schedule,
    Trainer,
    Uniform,
)
from unstir.train.loss import WEIGHTS

PROCESSES = [EDM(), VE(), VP(), VPCosine(), VPTable(), RectifiedFlow(3.0), OUVE()]
every_process = pytest.mark.parametrize("process", PROCESSES, ids=repr)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# -- averages --------------------------------------------------------------------------------------------------------


class Number(nn.Module):
    """One weight, one count and one half-precision weight."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.rough = nn.Parameter(torch.zeros((), dtype=torch.bfloat16))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def set(self, value):
        with torch.no_grad():
            self.weight.fill_(value)
            self.rough.fill_(value)
            self.count.fill_(int(value))


def averaged(average, values):
    number = Number()
    for value in values:
        number.set(value)
        average.update(number)
    return average.weights()


def shares(make, count):
    """What each of ``count`` updates contributes to the average."""
    return torch.stack([averaged(make(), [float(i == k) for i in range(count)])["weight"] for k in range(count)]).double()


@pytest.mark.parametrize("make", [EMA, lambda: EMA(decay=0.3), PowerEMA, lambda: PowerEMA(gamma=16.97)])
@pytest.mark.parametrize("count", [1, 2, 3, 17])
def test_the_shares_of_an_average_sum_to_one(make, count):
    found = shares(make, count)
    assert (found >= 0).all()
    assert found.sum().item() == pytest.approx(1, abs=1e-6)  # float32


@pytest.mark.parametrize("gamma", [0.0, 1.0, 6.94])
def test_a_power_average_weighs_by_powers_of_time(gamma):
    """The share of update k of n is ((k/n)^(g+1) - ((k-1)/n)^(g+1)): the integral of a power of time."""
    n, k = 25, torch.arange(26, dtype=torch.float64)
    torch.testing.assert_close(shares(lambda: PowerEMA(gamma=gamma), n), ((k / n) ** (gamma + 1)).diff(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("gamma", "width"), [(6.94, 0.10), (16.97, 0.05)])
def test_the_width_of_a_power_average_is_the_published_one(gamma, width):
    """sigma_rel of the profile t^gamma on [0, 1]: sqrt((g+1)/((g+2)^2 (g+3)))."""
    share = torch.tensor([PowerEMA(gamma=gamma).keep(n) for n in range(1, 4001)], dtype=torch.float64)
    kept = torch.cat((share[1:].flip(0).cumprod(0).flip(0), torch.ones(1, dtype=torch.float64)))
    weight, time = (1 - share) * kept, torch.arange(1, 4001, dtype=torch.float64) / 4000
    mean = (weight * time).sum()
    assert ((weight * (time - mean) ** 2).sum().sqrt()).item() == pytest.approx(width, abs=2e-4)
    assert math.sqrt((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3))) == pytest.approx(width, abs=2e-4)


def test_an_exponential_average_warms_up():
    values, expected = [3.0, -1.0, 4.0, 1.5], 3.0
    for n, value in enumerate(values[1:], start=2):
        keep = (1 + n) / (10 + n)
        expected = keep * expected + (1 - keep) * value
    assert averaged(EMA(decay=0.999), values)["weight"].item() == pytest.approx(expected, rel=1e-6)
    assert [EMA(decay=0.9).keep(n) for n in (1, 2, 80, 10**6)] == [2 / 11, 3 / 12, 0.9, 0.9]


def test_after_its_warm_up_an_average_forgets_geometrically():
    found = shares(lambda: EMA(decay=0.5), 40)
    torch.testing.assert_close(found[30:], 0.5 ** torch.arange(10, 0, -1, dtype=torch.float64), rtol=1e-5, atol=0)


def test_the_first_update_is_the_weights_themselves():
    for average in (EMA(), PowerEMA()):
        assert averaged(average, [7.0])["weight"] == 7.0


def test_an_average_is_kept_in_float32_and_counts_are_copied():
    found = averaged(EMA(decay=0.999), [float(n) for n in range(1, 200)])
    assert found["rough"].dtype == torch.float32
    assert found["count"] == 199
    assert found["count"].dtype == torch.int64
    assert abs(found["rough"] - found["weight"]) < 1  # 8 bits of the values averaged, not of the average


def test_an_average_is_no_view_of_the_weights():
    number, average = Number(), EMA()
    number.set(1.0)
    average.update(number)
    number.set(5.0)
    assert average.weights()["weight"] == 1.0
    assert average.weights()["count"] == 1


# -- laws of times ---------------------------------------------------------------------------------------------------

LAWS = [Uniform(), LogUniform(0.02, 50.0), LogNormal(), LogitNormal(0.3, 0.8), Mixture(LogUniform(0.02, 1.0), LogUniform(1.0, 50.0), 0.85)]
every_law = pytest.mark.parametrize("law", LAWS, ids=repr)
U = torch.tensor([0.0, 0.1, 0.5, 0.8413447460685429, 0.999], dtype=torch.float64)


@every_law
@every_process
def test_quantiles_increase_and_stay_within_the_process(law, process):
    t = law.quantile(process, torch.linspace(0, 1 - 1e-9, 201, dtype=torch.float64))
    assert t.dtype == torch.float64
    assert torch.isfinite(t).all()
    assert (t.diff() >= 0).all()
    slack = 1e-12 * process.t_max  # rounding
    assert process.t_min - slack <= t.min() <= t.max() <= process.t_max + slack


@every_process
def test_log_uniform_times_are_log_uniform_noise_levels(process):
    found = process.rho(LogUniform(0.05, 2.0).quantile(process, U))
    ends = [process.rho(end).item() for end in (process.t_min, process.t_max)]
    torch.testing.assert_close(found, (0.05 * 40**U).clamp(*ends), rtol=1e-6, atol=0)


def test_log_normal_times_have_the_median_and_the_deviation():
    rho = EDM().rho(LogNormal(-1.2, 1.2).quantile(EDM(), U))
    assert rho[2].item() == pytest.approx(math.exp(-1.2), rel=1e-9)
    assert rho[3].item() == pytest.approx(1.0, rel=1e-9)  # exp(mean + std) at Phi(1)


@every_process
def test_uniform_and_logit_normal_times_have_their_quantiles(process):
    t = Uniform(0.0).quantile(process, U)
    torch.testing.assert_close(t, process.t_min + U * (process.t_max - process.t_min), rtol=1e-12, atol=1e-12)
    middle = LogitNormal().quantile(process, U)
    assert middle[2].item() == pytest.approx((process.t_min + process.t_max) / 2)
    share = (middle[3].item() - process.t_min) / (process.t_max - process.t_min)
    assert share == pytest.approx(1 / (1 + math.exp(-1)))


def test_uniform_times_stay_off_the_end_without_noise():
    assert Uniform(0.1).quantile(RectifiedFlow(), U)[0].item() == pytest.approx(0.1)


@every_law
@given(count=st.integers(1, 40), seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_times_are_stratified(law, count, seed):
    """Every n-th part of the law holds exactly one of the n times."""
    process = EDM()
    times = law(process, count, generator(seed)).sort().values
    edges = law.quantile(process, torch.arange(1, count, dtype=torch.float64) / count)
    inside = torch.searchsorted(edges * (1 + 1e-12), times)
    assert torch.equal(inside, torch.arange(count))


def test_a_time_follows_its_law():
    """The first of a batch over many draws: Kolmogorov's distance of 2000 is below 1.63/sqrt(2000) with probability 0.99."""
    g = generator(5)
    rho = torch.stack([EDM().rho(LogUniform(0.01, 10.0)(EDM(), 8, g)[0]) for _ in range(2000)]).sort().values
    uniform = torch.log(rho / 0.01) / math.log(1000)
    assert (uniform - torch.arange(2000) / 2000).abs().max() < 1.63 / math.sqrt(2000)


@pytest.mark.parametrize("share", [0.0, 0.25, 0.85, 1.0])
def test_a_mixture_gives_each_law_its_share(share):
    law = Mixture(LogUniform(0.01, 1.0), LogUniform(1.0, 50.0), share)
    rho = EDM().rho(law(EDM(), 200, generator(1)))
    assert torch.isfinite(rho).all()
    assert abs((rho < 1.0).sum().item() - 200 * share) <= 1  # stratified
    u = torch.tensor([share / 2, (1 + share) / 2], dtype=torch.float64)
    found = EDM().rho(law.quantile(EDM(), u))
    if share > 0:
        assert found[0].item() == pytest.approx(0.1, rel=1e-6)  # the median of the first
    if share < 1:
        assert found[1].item() == pytest.approx(math.sqrt(50), rel=1e-6)


def test_times_depend_on_the_generator_alone():
    for law in LAWS:
        assert torch.equal(law(EDM(), 5, generator(3)), law(EDM(), 5, generator(3)))
        assert not torch.equal(law(EDM(), 5, generator(3)), law(EDM(), 5, generator(4)))


# -- losses ----------------------------------------------------------------------------------------------------------


class Zero(nn.Module):
    """F = 0: with ``edm`` the exact denoiser of N(0, sigma_data^2)."""

    def forward(self, x, label, condition=None):
        return torch.zeros_like(x)


class Fixed(nn.Module):
    """Something of the input and the label."""

    def forward(self, x, label, condition=None):
        return torch.sin(2 * x) + 0.3 * torch.tanh(spread(label.to(x), x))


S = 0.3


def gaussian(process, space=None, shape=(1000,)):
    return NetworkDenoiser(Zero(), process, parameterisation="edm", shape=shape, sigma_data=S, space=space)


def data(count=64, size=1000, seed=0, scale=S):
    return scale * torch.randn(count, size, generator=generator(seed), dtype=torch.float64)


def test_the_optimal_denoiser_of_normal_data_is_the_oracle():
    x, t = data(4, 6), torch.tensor([0.01, 0.1, 1.0, 10.0], dtype=torch.float64)
    oracle = GaussianOracle(torch.zeros(6), torch.full((6,), S**2, dtype=torch.float64), EDM())
    torch.testing.assert_close(gaussian(EDM(), shape=(6,))(x, t), oracle(x, t), rtol=1e-9, atol=1e-12)


EXPECTED = {
    "x0": lambda rho: S**2 * rho**2 / (S**2 + rho**2),
    "eps": lambda rho: S**2 / (S**2 + rho**2),
    "v": lambda rho: (1 + rho**2) * S**2 / (S**2 + rho**2),
    "edm": lambda rho: torch.ones_like(rho),
    "min-snr": lambda rho: S**2 / (S**2 + rho**2) * (5 * rho**2).clamp(max=1),
}


@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("process", [EDM(), VP(), RectifiedFlow(), VPCosine()], ids=repr)
def test_the_loss_of_the_optimal_denoiser_is_its_closed_form(weight, process):
    """E w ||D - x0||^2 = w s^2 rho^2/(s^2 + rho^2) at each level; 64 x 1000 squares of normals: 4 standard errors are 2.3 %."""
    law = LogUniform(0.05, 20.0)
    found = DenoisingLoss(law, weight)(gaussian(process), data(), generator(1)).item()
    times = law(process, 64, generator(1))  # the loss draws its times first
    level = EXPECTED[weight](process.rho(times))
    error = 4 * math.sqrt(2 * (level**2).sum() / 1000) / 64
    assert found == pytest.approx(level.mean().item(), abs=error)


@pytest.mark.parametrize("weight", WEIGHTS)
def test_no_constant_correction_betters_the_optimal_denoiser(weight):
    """The loss is a parabola about the optimum: other shrinkage costs w (c - c*)^2 E x^2."""
    law, x0 = LogUniform(0.1, 3.0), data()

    class Shrunk(nn.Module):
        def __init__(self, by):
            super().__init__()
            self.by = by

        def forward(self, x, label, condition=None):
            return self.by * x

    def loss(by):
        denoiser = NetworkDenoiser(Shrunk(by), EDM(), parameterisation="edm", shape=(1000,), sigma_data=S)
        return DenoisingLoss(law, weight)(denoiser, x0, generator(1)).item()

    assert loss(0.0) < min(loss(0.1), loss(-0.1))


KINDS = {"eps": "eps", "v": "v", "x0": "x0"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_weight_counts_the_error_in_the_unit_of_its_name(kind):
    """On a variance-preserving process ``eps`` is ||eps - network||^2, ``v`` ||v - network||^2, ``x0`` ||x0 - network||^2."""
    process, x0 = VP(), data(8, 5, scale=1.0)
    denoiser = NetworkDenoiser(Fixed(), process, parameterisation=kind, shape=(5,))
    law = LogUniform(0.1, 5.0)
    found = DenoisingLoss(law, kind)(denoiser, x0, generator(2))
    g = generator(2)
    t = law(process, 8, g)
    noise = torch.randn(x0.shape, generator=g, dtype=x0.dtype)
    x_t = process.perturb(x0, t, noise)
    alpha, sigma = (spread(c, x_t) for c in (process.alpha(t), process.sigma(t)))
    target = convert(x0, "x0", kind, x_t, alpha, sigma, 0.5)
    output = Fixed()(x_t, process.label(t))
    torch.testing.assert_close(found, (output - target).square().mean(), rtol=1e-5, atol=0, check_dtype=False)  # summed in float32


def test_the_edm_weight_counts_the_error_of_the_network():
    process, x0 = EDM(), data(8, 5)
    denoiser = NetworkDenoiser(Fixed(), process, parameterisation="edm", shape=(5,), sigma_data=S)
    found = DenoisingLoss(LogNormal(), "edm")(denoiser, x0, generator(2))
    g = generator(2)
    t = LogNormal()(process, 8, g)
    noise = torch.randn(x0.shape, generator=g, dtype=x0.dtype)
    x_t, sigma = x0 + spread(t, x0) * noise, spread(t, x0)
    skip, out, scale = S**2 / (S**2 + sigma**2), sigma * S / (S**2 + sigma**2).sqrt(), 1 / (S**2 + sigma**2).sqrt()
    target = (x0 - skip * x_t) / out
    output = Fixed()(scale * x_t, torch.log(t) / 4)
    torch.testing.assert_close(found, (output - target).square().mean(), rtol=1e-5, atol=0, check_dtype=False)


def test_weights_are_clipped_where_asked():
    t = torch.tensor([0.01, 0.1, 1.0], dtype=torch.float64)
    assert DenoisingLoss(weight="eps").weights(EDM(), t, S).tolist() == pytest.approx([1e4, 100, 1])
    assert DenoisingLoss(weight="eps", most=50.0).weights(EDM(), t, S).tolist() == pytest.approx([50, 50, 1])
    assert DenoisingLoss(weight="min-snr").weights(EDM(), t, S).tolist() == pytest.approx([5, 5, 1])
    assert DenoisingLoss(weight="edm").weights(EDM(), t, S).tolist() == pytest.approx([1e4 + S**-2, 100 + S**-2, 1 + S**-2])


def test_an_unknown_weight_is_refused_with_the_nearest():
    with pytest.raises(UnknownName, match="there is no loss weight 'min_snr'; did you mean 'min-snr'"):
        DenoisingLoss(weight="min_snr")


def test_the_loss_depends_on_its_generator_alone():
    loss, denoiser = DenoisingLoss(LogNormal(), "edm"), gaussian(EDM())
    before = torch.get_rng_state()
    assert loss(denoiser, data(), generator(3)) == loss(denoiser, data(), generator(3)) != loss(denoiser, data(), generator(4))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_noise_of_a_loss_lives_in_the_space():
    """Without noise in the absent half and no data there, the optimal denoiser is right there: half the loss."""
    mask = torch.ones(64, 1000)
    mask[:, 500:] = 0
    denoiser, x0 = gaussian(EDM(), Masked()), data() * mask
    full = DenoisingLoss(LogUniform(0.1, 1.0), "edm")(denoiser, x0, generator(1), {"mask": mask}).item()
    assert full == pytest.approx(0.5, rel=4 * math.sqrt(2 / 32000))
    with pytest.raises(UserError, match=r"condition\['mask'\]"):
        DenoisingLoss()(denoiser, x0, generator(1))


def test_an_anchored_process_is_trained_with_its_anchor():
    process, y = OUVE(), torch.randn(64, 1000, generator=generator(9), dtype=torch.float64)
    law = LogUniform(0.05, 1.0)
    found = DenoisingLoss(law, "edm")(gaussian(process), data(), generator(1), {"anchor": y}).item()
    assert found == pytest.approx(1.0, rel=4 * math.sqrt(2 / 64000))


def test_the_context_is_seen_and_not_predicted():
    """Five channels go in, the middle one counts."""

    class Middle(nn.Module):
        def forward(self, x, label, condition=None):
            assert x.shape[1] == 5
            return torch.zeros_like(x[:, 2:3])

    denoiser = NetworkDenoiser(Middle(), EDM(), parameterisation="edm", shape=(5, -1), sigma_data=S, context=2)
    x0 = data(64, 5000).reshape(64, 5, 1000)
    x0[:, [0, 1, 3, 4]] += 100.0
    assert DenoisingLoss(LogNormal(), "edm")(denoiser, x0, generator(1)).item() == pytest.approx(1.0, rel=4 * math.sqrt(2 / 64000))


class Both(nn.Module):
    def forward(self, x, label, condition=None):
        return {leaf: torch.zeros_like(value) for leaf, value in x.items()}


@pytest.mark.parametrize("shared", [True, False])
def test_the_loss_of_a_joint_process_is_the_sum_over_its_leaves(shared):
    process = Joint({"a": VP(), "b": VPCosine()}, shared_time=shared)
    space = JointSpace({"a": Euclidean(), "b": ZeroMean(1)})
    denoiser = NetworkDenoiser(Both(), process, parameterisation="edm", shape={"a": (1000,), "b": (500,)}, sigma_data=S, space=space)
    x0 = {"a": data(), "b": data(64, 500, 1)}
    law = Uniform(0.1)
    found = DenoisingLoss(law, "edm")(denoiser, x0, generator(1)).item()
    assert found == pytest.approx(2.0, rel=0.02)  # 1 a leaf (the mean of b's noise is missing: 1/500)
    g = generator(1)
    first = law(process.leaves["a"], 64, g)
    second = first if shared else law(process.leaves["b"], 64, g)
    assert shared == torch.equal(first, second)
    noise = {"a": torch.randn(64, 1000, generator=g, dtype=torch.float64), "b": torch.randn(64, 500, generator=g, dtype=torch.float64)}
    total = 0.0
    for leaf, t in (("a", first), ("b", second)):
        part = process.leaves[leaf]
        eps = noise[leaf] if leaf == "a" else noise[leaf] - noise[leaf].mean(1, keepdim=True)
        bar = part.perturb(x0[leaf], t, eps) / spread(part.alpha(t), eps)
        rho = spread(part.rho(t), eps)
        estimate = bar * S**2 / (S**2 + rho**2)
        total += ((rho**-2 + S**-2) * (estimate - x0[leaf]).square()).mean().item()
    assert found == pytest.approx(total, rel=1e-5)  # errors are summed in float32


# -- schedule --------------------------------------------------------------------------------------------------------


def test_the_learning_rate_warms_up_stays_and_goes_down():
    schedule = Schedule(1e-3, warmup=4, decay=5, last=0.1)
    rates = [schedule.at(step, 20) / 1e-3 for step in range(20)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1] + [1] * 11 + [1, 0.82, 0.64, 0.46, 0.28])


def test_without_warm_up_or_decay_the_rate_is_constant():
    assert {Schedule(1e-3, warmup=0).at(step, 10) for step in range(10)} == {1e-3}


# -- trainer ---------------------------------------------------------------------------------------------------------


def parameters(trainer):
    return {key: value.detach().clone() for key, value in trainer.denoiser.network.named_parameters()}


def gradients_of(run):
    """The gradient norms and learning rates that the optimiser steps with."""
    seen = []

    def look(optimiser, *_):
        grads = [p.grad.double() for group in optimiser.param_groups for p in group["params"]]
        seen.append((math.sqrt(sum(g.square().sum().item() for g in grads)), optimiser.param_groups[0]["lr"]))

    handle = register_optimizer_step_pre_hook(look)
    try:
        run()
    finally:
        handle.remove()
    return seen


def test_training_finds_the_denoiser_of_normal_data(tmp_path):
    """N(m, s^2) with a sigma_data that is wrong by 2: the averaged network comes near the oracle, far nearer than it began."""
    mean, std = torch.tensor([0.5, -0.3]), 0.25

    def batches(step, rng):
        return {"x0": mean + std * torch.from_numpy(rng.standard_normal((64, 2), dtype="float32"))}

    torch.manual_seed(0)
    denoiser = NetworkDenoiser(MLP(2, width=32, depth=1, embedding=16), EDM(), parameterisation="edm", shape=(2,), sigma_data=0.5)
    oracle = GaussianOracle(mean, torch.full((2,), std**2), EDM())
    x0 = mean + std * torch.randn(256, 2, generator=generator(1))
    t = LogUniform(0.05, 2.0)(EDM(), 256, generator(2))
    x_t = EDM().perturb(x0, t, torch.randn(256, 2, generator=generator(3)))

    def excess():
        with torch.no_grad():
            return (denoiser(x_t, t) - oracle(x_t, t)).square().mean().sqrt().item()

    begun = excess()
    trainer = Trainer(denoiser, batches, DenoisingLoss(LogUniform(0.02, 5.0), "edm"), 300, Schedule(5e-3, 20, 100), accelerator="cpu")
    losses = trainer.run(tmp_path)
    denoiser.network.load_state_dict(trainer.averages["ema"].weights())
    assert excess() < 0.03 < 0.2 * begun
    assert np.mean(losses[-50:]) < 0.7 * np.mean(losses[:20])


def test_the_first_step_is_adams(tmp_path):
    """Adam's first step is -rate g/(|g| + eps), here with the first rate of a warm-up of four steps."""
    trainer, found = by_hand.trainer(steps=1, schedule=Schedule(1e-2, warmup=4), weight_decay=0.0), []
    before = parameters(trainer)

    def look(optimiser, *_):
        found.extend(p.grad.clone() for p in optimiser.param_groups[0]["params"])

    handle = register_optimizer_step_pre_hook(look)
    try:
        trainer.run(tmp_path)
    finally:
        handle.remove()
    for (key, value), gradient in zip(parameters(trainer).items(), found, strict=True):
        expected = -2.5e-3 * gradient / (gradient.abs() + 1e-8)
        torch.testing.assert_close(value - before[key], expected, rtol=1e-3, atol=1e-7)  # a difference of float32 weights


def test_gradients_are_clipped_to_the_norm(tmp_path):
    free = gradients_of(lambda: by_hand.trainer(clip=0.0, steps=6).run(tmp_path / "free"))
    clipped = gradients_of(lambda: by_hand.trainer(clip=0.01, steps=6).run(tmp_path / "clipped"))
    assert min(norm for norm, _ in free) > 0.02
    assert [norm for norm, _ in clipped] == pytest.approx([0.01] * 6, rel=1e-3)
    loose = gradients_of(lambda: by_hand.trainer(clip=1e6, steps=6).run(tmp_path / "loose"))
    assert loose == free  # a norm that is never reached changes nothing


def test_the_optimiser_steps_with_the_schedule(tmp_path):
    schedule = Schedule(1e-2, warmup=3, decay=4, last=0.2)
    seen = gradients_of(lambda: by_hand.trainer(schedule=schedule, steps=9).run(tmp_path))
    assert [rate for _, rate in seen] == [schedule.at(step, 9) for step in range(9)]


def test_the_losses_are_returned_logged_and_told(tmp_path):
    told = []
    losses = by_hand.trainer(steps=14).run(tmp_path, progress=lambda step, steps: told.append((step, steps)))
    assert told == [(step, 14) for step in range(1, 15)]
    lines = [json.loads(line) for line in (tmp_path / "loss.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [6, 12, 14]
    assert [line["loss"] for line in lines] == [np.mean(losses[:6]), np.mean(losses[6:12]), np.mean(losses[12:])]


def test_the_observer_sees_every_saved_state(tmp_path):
    seen = []

    def look(step, trainer):
        seen.append((step, trainer.averages["ema"].count, (tmp_path / f"step-{step:08d}" / "state.json").exists()))

    by_hand.trainer(steps=14, on_save=look).run(tmp_path)
    assert seen == [(6, 6, True), (12, 12, True), (14, 14, True)]


def test_averages_are_those_of_the_weights_of_every_step(tmp_path):
    history = []
    trainer = by_hand.trainer(steps=5)
    network = trainer.denoiser.network
    trainer.run(tmp_path, progress=lambda *_: history.append({key: p.detach().clone() for key, p in network.named_parameters()}))
    expected = by_hand.trainer().averages["power"]
    for weights in history:
        expected.update(Weights(weights))
    for key, value in expected.weights().items():
        assert torch.equal(trainer.averages["power"].weights()[key.replace("|", ".")], value)


class Weights(nn.Module):
    def __init__(self, weights):
        super().__init__()
        for key, value in weights.items():
            self.register_buffer(key.replace(".", "|"), value)


def test_a_batch_depends_on_seed_and_step_alone():
    one, two, other = by_hand.trainer(), by_hand.trainer(), by_hand.trainer(seed=1)
    assert torch.equal(one._batch(7, 0)["x0"], two._batch(7, 0)["x0"])
    assert not torch.equal(one._batch(7, 0)["x0"], one._batch(8, 0)["x0"])
    assert not torch.equal(one._batch(7, 0)["x0"], one._batch(7, 1)["x0"])
    assert not torch.equal(one._batch(7, 0)["x0"], other._batch(7, 0)["x0"])


def test_a_training_leaves_the_global_generator_alone(tmp_path):
    trainer = by_hand.trainer(steps=3)
    torch.manual_seed(123)
    before = torch.get_rng_state()
    trainer.run(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_training_does_not_depend_on_the_global_generator(tmp_path):
    ends = []
    for seed in (1, 2):
        trainer = by_hand.trainer(steps=5)
        torch.manual_seed(seed)
        trainer.run(tmp_path / str(seed))
        ends.append(parameters(trainer))
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


def test_the_denoiser_is_whole_after_the_training(tmp_path):
    trainer = by_hand.trainer(steps=2)
    network = trainer.denoiser.network
    trainer.run(tmp_path)
    assert trainer.denoiser.network is network


def failing(at, error):
    def batches(step, rng):
        if step == at:
            raise error
        return by_hand.batches(step, rng)

    return batches


def test_an_error_in_a_batch_is_raised_and_leaves_no_thread(tmp_path):
    before = threading.active_count()
    trainer = by_hand.trainer(batches=failing(4, ValueError("no such slice")))
    network = trainer.denoiser.network
    with pytest.raises(ValueError, match="no such slice"):
        trainer.run(tmp_path)
    assert threading.active_count() == before
    assert trainer.denoiser.network is network


def test_an_error_in_the_network_leaves_no_thread(tmp_path):
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def forward(self, x, label, condition=None):
            raise RuntimeError("out of memory")

    before = threading.active_count()
    with pytest.raises(RuntimeError, match="out of memory"):
        by_hand.trainer(denoiser=by_hand.denoiser(Broken)).run(tmp_path)
    assert threading.active_count() == before


def test_a_loss_that_is_not_finite_is_refused_before_a_state_is_kept(tmp_path):
    def batches(step, rng):
        batch = by_hand.batches(step, rng)
        return {"x0": batch["x0"] * float("nan")} if step == 8 else batch

    with pytest.raises(UserError, match="the loss is not finite at step 8: a smaller learning rate"):
        by_hand.trainer(batches=batches).run(tmp_path)
    assert by_hand.last_state(tmp_path).name == "step-00000006"


def test_weights_that_are_not_finite_are_not_kept(tmp_path):
    with pytest.raises(UserError, match=r"the weights are not finite after step 0 \(.*\): a smaller learning rate"):
        by_hand.trainer(schedule=Schedule(float("inf"), warmup=0), every=1).run(tmp_path)
    assert not list(tmp_path.glob("step-*"))


def test_ctrl_c_ends_the_step_keeps_its_state_and_is_resumed_to_the_same_weights(tmp_path):
    def press(step, steps):
        if step == 9:
            signal.raise_signal(signal.SIGINT)

    stopped = by_hand.trainer()
    with pytest.raises(KeyboardInterrupt):
        stopped.run(tmp_path / "a", progress=press)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert by_hand.last_state(tmp_path / "a").name == "step-00000010"  # the step at work when the key was seen
    resumed, straight = by_hand.trainer(), by_hand.trainer()
    resumed.run(tmp_path / "a", resume=True)
    straight.run(tmp_path / "b")
    ends = [(by_hand.last_state(tmp_path / name) / "state.safetensors").read_bytes() for name in "ab"]
    assert ends[0] == ends[1]


def test_ctrl_c_while_a_state_is_kept_does_not_cut_it_short(tmp_path):
    def press(step, trainer):
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        by_hand.trainer(on_save=press).run(tmp_path)
    assert by_hand.last_state(tmp_path).name == "step-00000007"


def test_ctrl_c_in_the_last_step_is_not_lost(tmp_path):
    def press(step, trainer):
        if step == by_hand.STEPS:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        by_hand.trainer(on_save=press).run(tmp_path)
    assert by_hand.last_state(tmp_path).name == f"step-{by_hand.STEPS:08d}"


def test_a_second_ctrl_c_stops_at_once(tmp_path):
    steps = []

    def press(step, total):
        steps.append(step)
        if step >= 3:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        by_hand.trainer().run(tmp_path, progress=press)
    assert steps == [1, 2, 3]
    assert not list(tmp_path.glob("step-*"))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_somebody_elses_handler_of_ctrl_c_stays(tmp_path):
    pressed = []
    previous = signal.signal(signal.SIGINT, lambda *_: pressed.append(1))
    try:
        by_hand.trainer(steps=3).run(tmp_path, progress=lambda *_: signal.raise_signal(signal.SIGINT))
        assert len(pressed) == 3
    finally:
        signal.signal(signal.SIGINT, previous)


def test_labels_and_conditions_keep_their_precision_under_autocast(tmp_path):
    """In bfloat16 999 is 1000; the network's state may be rounded, what it is told may not."""
    seen = []

    class Told(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x, label, condition=None):
            out = self.layer(x)
            seen.append((out.dtype, label.dtype, condition["place"].dtype, condition["place"].clone()))
            return out

    def batches(step, rng):
        return {**by_hand.batches(step, rng), "condition": {"place": torch.full((8, 1), 999.0)}}

    by_hand.trainer(denoiser=by_hand.denoiser(Told), batches=batches, precision="bf16-mixed", steps=2).run(tmp_path)
    assert len(seen) == 2
    for computed, label, place, value in seen:
        assert (computed, label, place) == (torch.bfloat16, torch.float32, torch.float32)
        assert (value == 999).all()


def test_mixed_precision_keeps_weights_and_averages_in_float32(tmp_path):
    trainer = by_hand.trainer(precision="bf16-mixed", steps=4)
    assert all(math.isfinite(loss) for loss in trainer.run(tmp_path))
    assert {p.dtype for p in trainer.denoiser.network.parameters()} == {torch.float32}
    assert {v.dtype for v in trainer.averages["ema"].weights().values()} == {torch.float32, torch.int64}


def test_a_dict_state_is_trained(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = MLP(3, width=8, depth=1, embedding=8), MLP(2, width=8, depth=1, embedding=8)

        def forward(self, x, label, condition=None):
            return {"a": self.a(x["a"], label["a"]), "b": self.b(x["b"], label["b"])}

    def batches(step, rng):
        return {"x0": {"a": torch.from_numpy(rng.standard_normal((4, 3))).float(), "b": torch.from_numpy(rng.random((4, 2))).float()}}

    process = Joint({"a": VP(), "b": VP()})
    denoiser = NetworkDenoiser(Two(), process, parameterisation="v", shape={"a": (3,), "b": (2,)})
    losses = by_hand.trainer(denoiser=denoiser, batches=batches, loss=DenoisingLoss(Uniform(), "v"), steps=3).run(tmp_path)
    assert len(losses) == 3
    assert all(math.isfinite(loss) for loss in losses)
