"""Loss guidance: its law in closed form, the skipped gradient, several losses, and nothing at weight 0."""

import math

import pytest
import torch

import unstir
from unstir.certify.checks import invariance
from unstir.certify.laws import linear_mixture, ring8
from unstir.certify.oracles import GaussianOracle, MixtureOracle
from unstir.denoiser import Denoiser
from unstir.errors import UserError
from unstir.guide import LossGuidance
from unstir.process import EDM, VP, RectifiedFlow

MEAN, VARIANCE, Y, WEIGHT = 0.3, 0.7, 1.5, 2.0
LINE = GaussianOracle(torch.tensor([MEAN], dtype=torch.float64), torch.tensor([VARIANCE], dtype=torch.float64))


def towards(y):
    return lambda x0, condition: 0.5 * (x0 - y).square().flatten(1).sum(1)


def dawson(v):
    u = torch.linspace(0, v, 20001, dtype=torch.float64)
    return math.exp(-v * v) * float(torch.trapezoid(torch.exp(u * u), u))


class Straight(Denoiser):
    """A denoiser of which we count the calls and the transposes."""

    def __init__(self, law):
        super().__init__(law.process, law.shape)
        self.law, self.calls, self.graphs = law, 0, 0

    def forward(self, x, t, condition=None):
        self.calls, self.graphs = self.calls + 1, self.graphs + x.requires_grad
        return self.law(x, t, condition)


# ---- the closed form


@pytest.mark.parametrize("jacobian", [True, False], ids=["through", "past"])
def test_a_quadratic_loss_on_normal_data_gives_the_guided_law_in_closed_form(jacobian):
    guide = LossGuidance(losses=towards(Y), weight=WEIGHT, jacobian=jacobian, data_std=math.sqrt(VARIANCE))
    gain = math.sqrt(2 * WEIGHT * VARIANCE) * dawson(math.sqrt(WEIGHT * VARIANCE / 2))
    spread = math.sqrt(VARIANCE * math.exp(-WEIGHT * VARIANCE))
    start = MEAN + 400 * torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    errors = []
    for steps in (80, 160):
        x = unstir.sample(
            LINE, 2, solver="heun", grid=f"karras:{steps},sigma_min=0.002,sigma_max=400", guides=[guide], start=(start, 400.0)
        ).x
        errors.append(max(abs(x[0].item() - MEAN - (Y - MEAN) * gain), abs((x[1] - x[0]).item() - spread)))
    # 160 steps of a second-order solver, and a start at sigma 400 where the law still ends at infinity: (y - m)/400 of the mean
    assert errors[1] < 3e-3
    assert errors[1] < errors[0]
    bayes = WEIGHT * VARIANCE / (1 + WEIGHT * VARIANCE)
    assert abs(gain - bayes) > 0.1  # and this is not Bayes' rule, which the bias is documented by


def test_to_first_order_in_the_weight_the_guided_mean_is_that_of_bayes():
    shifts = []
    for weight in (0.1, 0.2):
        guide = LossGuidance(losses=towards(Y), weight=weight)
        options = {"solver": "heun", "grid": "karras:60,sigma_max=400", "start": (torch.full((1, 1), MEAN, dtype=torch.float64), 400.0)}
        x = unstir.sample(LINE, 1, guides=[guide], **options).x.item()
        shifts.append((x - MEAN) / ((Y - MEAN) * weight * VARIANCE) - 1)
    assert abs(shifts[0] + 0.1 * VARIANCE / 3) < 0.005
    assert abs(shifts[1] / shifts[0] - 2) < 0.3


# ---- skipping the gradient (FlowChef)


def test_skipping_the_gradient_is_as_good_on_a_straight_flow_and_takes_no_transpose():
    law = GaussianOracle(torch.zeros(6, dtype=torch.float64), torch.full((6,), 1.0, dtype=torch.float64), RectifiedFlow())
    matrix = torch.randn(3, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.tensor([1.0, -0.5, 0.3], dtype=torch.float64)

    def loss(x0, condition):
        return 0.5 * (x0 @ matrix.mT - y).square().sum(1)

    errors, graphs = [], []
    for jacobian in (True, False):
        watched = Straight(law)
        guide = LossGuidance(losses=loss, weight=1.0, jacobian=jacobian)
        x = unstir.sample(watched, 64, solver="heun", grid="uniform:20", guides=[guide]).x.double()
        errors.append((x @ matrix.mT - y).norm(dim=1).mean().item())
        graphs.append(watched.graphs)
    assert abs(errors[1] / errors[0] - 1) < 0.1
    assert graphs[1] == 0 < graphs[0]
    assert errors[0] < 0.6 * (unstir.sample(law, 64, grid="uniform:20").x.double() @ matrix.mT - y).norm(dim=1).mean()


def test_the_skipped_gradient_points_like_the_true_one_on_a_straight_flow_and_less_so_on_a_curved_one():
    process, t = RectifiedFlow(), 0.4
    narrow = torch.tensor([1.0, 1.1, 0.9, 1.05], dtype=torch.float64)
    wide = torch.tensor([4.0, 0.02, 1.0, 0.001], dtype=torch.float64)
    cosines = []
    for variances in (narrow, wide):
        law = GaussianOracle(torch.zeros(4, dtype=torch.float64), variances, process)
        x = law.marginal(200, t, seed=1)
        moved = [LossGuidance(losses=towards(1.0), jacobian=j).wrap(law)(x, t) - law(x, t) for j in (True, False)]
        cosines.append(torch.cosine_similarity(*moved).mean().item())
    assert cosines[0] > 0.9 > cosines[1] + 0.1


# ---- Steered Diffusion's claims


def test_two_constraints_in_one_sum_are_both_met():
    law = ring8(VP())
    losses = [lambda x0, condition: 50 * (x0[:, 0] - 2.83).square(), lambda x0, condition: 50 * (x0[:, 1] - 2.83).square()]
    both, one = (
        unstir.sample(law, 200, solver="ancestral", grid="log-snr:60", guides=[LossGuidance(losses=given)]).x
        for given in (losses, losses[:1])
    )
    # 50 (x - y)^2 is a measurement with noise .1; the mode is .3 wide, and guidance overshoots that a little
    assert (both - 2.83).abs().amax(1).median() < 0.2
    assert (one[:, 0] - 2.83).abs().median() < 0.2
    assert (one[:, 1] < 0).double().mean() > 0.3


def test_a_linear_inverse_model_moves_the_mean_towards_the_posteriors():
    problem = linear_mixture()
    law = problem.prior()

    def loss(features, condition):
        return 0.5 * (features - condition["y"]).square().sum(1) / problem.std**2

    guide = LossGuidance(lambda x0: x0 @ problem.matrix.mT, losses=loss, entries=("y",), weight=0.2)
    options = {"solver": "ancestral", "grid": "log-snr:80,sigma_max=40,sigma_min=0.02"}
    guided = unstir.sample(law, 400, guides=[guide], condition={"y": problem.y[None]}, **options).x.double().mean(0)
    free = unstir.sample(law, 400, **options).x.double().mean(0)
    off, was = ((x - problem.posterior_mean).norm().item() for x in (guided, free))
    # 400 draws of 20 entries of standard deviation .5 leave .1 of error; the rest is the bias of the loss of the mean
    assert off < 0.35 * was


def test_weight_0_is_the_unguided_stream_to_the_bit():
    law = ring8()
    guided, free = (
        unstir.sample(law, 16, solver="ancestral", grid="karras:10", guides=guides).x
        for guides in ([LossGuidance(losses=towards(0.0), weight=0.0)], [])
    )
    assert torch.equal(guided, free)


def test_a_sum_of_losses_is_one_loss_and_a_value_of_noisy_states_is_minus_one():
    law = ring8()
    x = law.marginal(8, 1.0)
    a, b = towards(1.0), towards(-2.0)
    together = LossGuidance(losses=[a, b]).wrap(law)(x, 1.0)
    summed = LossGuidance(losses=lambda x0, c: a(x0, c) + b(x0, c)).wrap(law)(x, 1.0)
    torch.testing.assert_close(together, summed, rtol=1e-13, atol=1e-13)  # rounding
    noisy = LossGuidance(lambda z, t: law.log_density(z, t), losses=lambda value, c: -value, on="noisy").wrap(law)(x, 1.0)
    torch.testing.assert_close(noisy, law(x, 1.0) + law.score(x, 1.0), rtol=1e-12, atol=1e-12)  # sigma = alpha = 1


def test_samples_do_not_see_each_other():
    law = MixtureOracle([0.5, 0.5], [[1.0, 0.0], [-1.0, 0.5]], [[0.3, 0.3], [0.2, 0.4]], EDM())
    assert invariance(law, grid="karras:5", guides=[LossGuidance(losses=towards(0.5))]).same


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "needs a loss"),
        ({"losses": lambda x0, c: x0.sum()}, "one number a sample"),
        ({"losses": lambda x0, c: torch.zeros(len(x0))}, "no gradient"),
        ({"losses": towards(0.0), "weight": math.nan}, "finite weight"),
    ],
)
def test_what_cannot_guide_is_refused(options, says):
    with pytest.raises(UserError, match=says):
        LossGuidance(**options).wrap(LINE)(torch.zeros(2, 1, dtype=torch.float64), 1.0)
