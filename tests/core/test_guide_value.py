"""Value and policy guidance: Bayes' rule in the limit, where and how far the state moves, and what holds after every edit."""

import math

import pytest
import torch

import unstir
from unstir.certify.checks import invariance
from unstir.certify.laws import gaussian, ring8
from unstir.certify.oracles import lg3
from unstir.certify.posterior import posterior
from unstir.errors import UserError
from unstir.guide import PolicyGuidance, ValueGuidance
from unstir.guide.value import policy_weight, variance_of
from unstir.process import EDM, VP
from unstir.solver import DDIM
from unstir.steer import Constraint, Diverse, Enforced, MatchMarginal

PROBLEM = lg3()
LAW = PROBLEM.prior(EDM())


def log_likelihood(x, t):
    """log p(y | x_t), exactly, but for a constant."""
    left = torch.linalg.inv(torch.linalg.inv(LAW.cov) + torch.eye(3, dtype=torch.float64) / t**2)
    residual = PROBLEM.y - LAW(x, t) @ PROBLEM.matrix.mT
    precision = torch.linalg.inv(PROBLEM.matrix @ left @ PROBLEM.matrix.mT + 0.09 * torch.eye(2, dtype=torch.float64))
    return -0.5 * (residual @ precision * residual).sum(1)


def linear(x, t=None):
    return x.flatten(1).sum(1)


# ---- Bayes' rule


@pytest.mark.parametrize("place", ["before", "after"])
def test_the_exact_value_reaches_the_posterior_as_steps_become_finer(place):
    found = [posterior(steers=[ValueGuidance(log_likelihood, place=place)], solver="ancestral", steps=n) for n in (100, 200, 400)]
    assert all(one.exact for one in found)  # propagated moments, no draws
    errors = [one.wasserstein for one in found]
    ratios = [errors[0] / errors[1], errors[1] / errors[2]]
    assert ratios == pytest.approx([2, 2], abs=0.3)
    assert errors[2] < 0.06
    off = posterior(steers=[ValueGuidance(log_likelihood, place=place, scale=0.5)], solver="ancestral", steps=400)
    assert off.wasserstein > 2 * errors[2]  # another scale is another law


# ---- where and how far


def test_before_the_step_it_is_the_step_from_the_moved_state():
    law = gaussian(4)
    row = DDIM(eta=0.0).plan(law.process, [3.0, 1.0])[0]
    x = law.marginal(5, 3.0)
    steer = ValueGuidance(linear, scale=0.5, repeats=2)
    moved = unstir.sample(law, 5, solver="ddim", grid=[3.0, 1.0], start=(x, 3.0), steers=[steer]).x
    there = unstir.sample(law, 5, solver="ddim", grid=[3.0, 1.0], start=(x + variance_of(row), 3.0)).x
    torch.testing.assert_close(moved, there, rtol=1e-13, atol=1e-13)  # 2 x .5 x v x (1, ..., 1)
    after = unstir.sample(law, 5, solver="ddim", grid=[3.0, 1.0], start=(x, 3.0), steers=[ValueGuidance(linear, place="after")]).x
    plain = unstir.sample(law, 5, solver="ddim", grid=[3.0, 1.0], start=(x, 3.0)).x
    torch.testing.assert_close(after, plain + variance_of(row), rtol=1e-13, atol=1e-13)


def test_the_variance_is_that_of_the_ancestral_step_of_diffuser():
    process = VP()
    t, s = process.t_max * 0.5, process.t_max * 0.4
    row = DDIM(eta=1.0).plan(process, [t, s])[0]
    kept, cleaner = (row.alpha_t / row.alpha_s) ** 2, row.alpha_s**2
    published = (1 - kept) * (1 - cleaner) / (1 - kept * cleaner)  # beta (1 - abar_{t-1})/(1 - abar_t)
    assert math.isclose(variance_of(row), published, rel_tol=1e-9)
    assert math.isclose(variance_of(row), row.c[2] ** 2, rel_tol=1e-9)


def test_past_the_denoiser_after_the_step_it_costs_no_evaluation():
    """FlowChef's placement: the estimate of the step itself gives the gradient."""
    law, options = ring8(), {"solver": "ddim", "grid": "karras:10"}
    steer = ValueGuidance(lambda x0: -0.5 * (x0 - 4.0).square().sum(1), scale=0.05, place="after", on="clean", by_variance=False)
    plain, guided = (unstir.sample(law, 64, steers=steers, **options) for steers in ([], [steer]))
    assert guided.nfe == plain.nfe
    assert (guided.x.double() - 4.0).norm(dim=1).mean() < (plain.x.double() - 4.0).norm(dim=1).mean() - 0.3


def test_a_value_of_the_estimate_through_the_denoiser_is_a_function_of_the_noisy_state():
    law = ring8()
    steer = ValueGuidance(lambda x, t: -0.5 * (law(x, t)[:, 0] - 2.83).square(), scale=4.0, place="after")
    x = unstir.sample(law, 300, solver="ancestral", grid="log-snr:60", steers=[steer]).x
    free = unstir.sample(law, 300, solver="ancestral", grid="log-snr:60").x
    assert (x[:, 0] - 2.83).abs().mean() < 0.5 * (free[:, 0] - 2.83).abs().mean()


def test_scale_0_and_closed_levels_leave_the_stream_as_it_is():
    law, options = ring8(), {"solver": "ancestral", "grid": "karras:8"}
    plain = unstir.sample(law, 8, **options).x
    for steer in (ValueGuidance(linear, scale=0.0), ValueGuidance(linear, high=1e-4), ValueGuidance(linear, low=1e4, place="after")):
        assert torch.equal(unstir.sample(law, 8, steers=[steer], **options).x, plain)


@pytest.mark.parametrize(
    "steer",
    [
        ValueGuidance(linear, scale=50.0, by_variance=False),
        ValueGuidance(linear, scale=50.0, by_variance=False, place="after"),
        MatchMarginal(torch.tensor([50.0, 60.0])),
        Diverse(50.0, 2),
    ],
    ids=["before", "after", "marginal", "diverse"],
)
def test_where_a_solver_goes_back_up_nothing_is_moved(steer):
    run = unstir.sample(ring8(), 4, solver="time-travel:jump=2,walks=2", grid="karras:6,sigma_max=8", steers=[steer], trace=True)
    levels = [ring8().process.sigma(t).item() for t in run.times]
    ups = [k for k in range(1, len(levels)) if levels[k] > levels[k - 1]]
    # going up adds noise of at most the level, in two entries; a move is of 50
    assert ups
    assert all((run.path[k] - run.path[k - 1]).abs().max() < 4.5 * levels[k] < 40 for k in ups)


# ---- policies


def test_the_published_weights_of_policy_guidance():
    golden = {0: 1.0037, 64: 0.9647, 128: 0.8, 192: 0.4595, 254: 0.0115}
    assert {k: round(policy_weight(k, 256), 4) for k in golden} == pytest.approx(golden, abs=1.5e-4)


def test_a_policy_moves_actions_only_by_normalised_gradients_and_not_at_the_last_step():
    law = gaussian(6)
    x, actions = law.marginal(5, 3.0), torch.tensor([1.0, 1, 0, 0, 0, 0])
    steer = PolicyGuidance(lambda z, t: -0.5 * (z[:, :2] - z[:, 2:4]).square().sum(1), scale=0.7, mask=actions, steps=4)
    options = {"solver": "ddim", "start": (x, 3.0)}
    gradient = torch.cat([x[:, 2:4] - x[:, :2], torch.zeros(5, 4)], 1)
    moved = x + 0.7 * policy_weight(0, 4) * gradient / gradient.norm(dim=1, keepdim=True)
    got = unstir.sample(law, 5, grid=[3.0, 1.0, 0.5], steers=[steer], trace=True, **options)
    want = unstir.sample(law, 5, grid=[3.0, 1.0], solver="ddim", start=(moved, 3.0)).x
    torch.testing.assert_close(got.path[1], want, rtol=0, atol=1e-7)  # the published 1e-8 beside the norm
    last = unstir.sample(law, 5, grid=[1.0, 0.5], solver="ddim", start=(got.path[1], 1.0)).x
    torch.testing.assert_close(got.x, last, rtol=1e-13, atol=1e-13)


# ---- what is enforced


def test_conditions_hold_after_every_edit():
    law, mask, seen = gaussian(6), torch.tensor([1, 1, 0, 0, 0, 0]), []
    held = Enforced(mask, 0.25, mode="clean")

    def value(x, t):
        seen.append(x[:, :2].detach().clone())
        return linear(x)

    steers = [held, ValueGuidance(value, repeats=2, constraint=held), held]
    x = unstir.sample(law, 4, solver="ancestral", grid="karras:6", steers=steers, trace=True)
    assert len(seen) == 12
    assert all((part == 0.25).all() for part in seen)
    assert all((state[:, :2] == 0.25).all() for state in x.path[1:])
    seen.clear()
    loose = [Constraint(mask, 0.25, mode="clean"), ValueGuidance(value, repeats=2)]  # the control: the second gradient sees a broken state
    unstir.sample(law, 4, solver="ancestral", grid="karras:6", steers=loose)
    assert not all((part == 0.25).all() for part in seen)


def test_samples_do_not_see_each_other():
    steers = [ValueGuidance(linear, scale=0.3), PolicyGuidance(linear, mask=torch.tensor([1.0, 0.0]), scale=0.2)]
    assert invariance(ring8(), grid="karras:5", solver="ancestral", steers=steers).same


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ValueGuidance(linear, place="between"), "'before' or 'after'"),
        (lambda: ValueGuidance(linear, scale=math.inf), "finite scale"),
        (lambda: ValueGuidance(linear, repeats=0), "whole number of moves"),
        (lambda: ValueGuidance(linear, repeats=2, place="after"), "one move"),
        (lambda: PolicyGuidance(linear), "mask"),
    ],
)
def test_options_are_checked(make, says):
    with pytest.raises(UserError, match=says):
        make()
