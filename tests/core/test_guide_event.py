"""Event guidance: exact on normal data, samples and probability; biased where there are several modes, and repaired there."""

import math

import pytest
import torch

import unstir
from unstir.certify.checks import invariance
from unstir.certify.distances import energy_distance, weights_distance, weights_of
from unstir.certify.laws import gaussian, ring8
from unstir.certify.oracles import GaussianOracle
from unstir.errors import UserError
from unstir.guide import EventGuidance, EventProbability, LossGuidance
from unstir.process import OUVE, VP, RectifiedFlow
from unstir.steer import FK, Tilt

RING = ring8(weights=[0.02, 0.12, 0.2, 0.12, 0.14, 0.12, 0.16, 0.12])
DIRECTION = torch.tensor([1.0, -1.0, 0.5, 0.0, 0.0, 2.0], dtype=torch.float64)


def normal(z):
    return torch.special.ndtr(torch.as_tensor(z, dtype=torch.float64))


def far_right(x0):
    return x0[:, 0] - 3.9


@pytest.fixture(scope="module")
def inside():
    """Exact draws of the ring in the event, and their shares of modes."""
    x = RING.draw(200_000, torch.Generator().manual_seed(1))
    x = x[far_right(x) > 0]
    return x, weights_of(x, RING), len(x) / 200_000


# ---- normal data


@pytest.mark.parametrize("process", [VP(), RectifiedFlow(), OUVE()], ids=["vp", "flow", "ouve"])
def test_on_normal_data_the_guided_estimate_is_the_mean_of_the_cut_normal_law(process):
    law = GaussianOracle(torch.tensor([0.3], dtype=torch.float64), torch.tensor([0.7], dtype=torch.float64), process)
    anchor = {"anchor": torch.full((5, 1), 0.4, dtype=torch.float64)} if process.anchored else None
    t, line = 0.5 * process.t_max, torch.linspace(-20, 20, 400_001, dtype=torch.float64)[:, None]
    x = law.marginal(5, t, anchor=anchor["anchor"] if anchor else None)
    guided = EventGuidance(lambda x0: x0[:, 0] - 1.0).wrap(law)(x, t, anchor)
    spread = 0.7 * float(process.sigma(t)) ** 2 / (float(process.alpha(t)) ** 2 * 0.7 + float(process.sigma(t)) ** 2)
    weight = torch.exp(-0.5 * (line - law(x, t, anchor)[:, 0]).square() / spread) * (line > 1)
    torch.testing.assert_close(guided[:, 0], (weight * line).sum(0) / weight.sum(0), rtol=0, atol=1e-4)  # the quadrature's step


def test_on_normal_data_the_flow_carries_every_quantile_to_that_of_the_cut_law():
    law = GaussianOracle(torch.tensor([0.3], dtype=torch.float64), torch.tensor([0.7], dtype=torch.float64))
    guide, cut = EventGuidance(lambda x0: x0[:, 0] - 1.0), (1.0 - 0.3) / math.sqrt(0.7)
    u = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9], dtype=torch.float64)
    want = 0.3 + math.sqrt(0.7) * torch.special.ndtri(normal(cut) + u * (1 - normal(cut)))
    start = (want.mean() + 2000 * torch.special.ndtri(u)[:, None], 2000.0)  # at sigma 2000 the law is normal to 1e-3 of its spread
    x = unstir.sample(law, 5, solver="heun", grid="karras:300,sigma_max=2000,sigma_min=0.001", guides=[guide], start=start).x[:, 0]
    assert (x - want).abs().max() < 5e-3
    assert (x > 1).all()


def test_a_linear_event_on_normal_data_has_the_exact_samples_and_probability():
    law, spread = gaussian(6), float((DIRECTION @ gaussian(6).cov @ DIRECTION).sqrt())
    guide = EventGuidance(lambda x0: x0 @ DIRECTION - spread)
    steers = [EventProbability(guide)]
    run = unstir.sample(law, 2000, solver="heun", grid="karras:40,sigma_max=200", guides=[guide], steers=steers)
    drawn = law.draw(30_000, torch.Generator().manual_seed(5))
    exact = drawn[drawn @ DIRECTION > spread][:2000]
    assert (run.x.double() @ DIRECTION > spread).all()
    assert energy_distance(run.x, exact) < 0.02  # two sets of 2000 exact draws differ by up to .01
    # the state at sigma 200 says almost nothing: each sample's number is P(E) but for 1/200 of a standard deviation
    assert abs(run.info["event_probability"].mean().item() - normal(-1).item()) < 1e-3


def test_a_curved_event_is_met_with_better_statistics_than_by_a_hinge_on_the_estimate():
    law = gaussian(3)

    def event(x0):
        return x0[:, 0] + 0.3 * x0[:, 1].square() - 2.5

    drawn = law.draw(200_000, torch.Generator().manual_seed(2))
    exact = drawn[event(drawn) > 0][:3000]
    options = {"solver": "ancestral", "grid": "log-snr:80,sigma_max=60,sigma_min=0.02"}
    hinge = LossGuidance(losses=lambda x0, c: torch.relu(-event(x0)), weight=5.0)
    ours, theirs = (unstir.sample(law, 2000, guides=[guide], **options).x.double() for guide in (EventGuidance(event), hinge))
    assert (event(ours) > 0).double().mean() > 0.97
    assert energy_distance(ours, exact) < 0.5 * energy_distance(theirs, exact)


# ---- several modes


def test_in_a_rare_mode_the_normal_approximation_is_biased_as_measured(inside):
    exact, weights, _ = inside
    x = unstir.sample(RING, 1500, solver="ancestral", grid="karras:150,sigma_max=50", guides=[EventGuidance(far_right)]).x.double()
    # the reference numbers are ED .278, in the event .95, TVw .35 at 300 steps
    assert abs(weights_distance(x, RING, weights) - 0.36) < 0.06
    assert 0.15 < energy_distance(x, exact) < 0.4
    assert (far_right(x) > 0).double().mean() > 0.95


@pytest.mark.parametrize("repair", ["tilt", "fk"])
def test_weighted_particles_repair_it(inside, repair):
    exact, weights, share = inside
    if repair == "tilt":
        steer = Tilt(log_twist=EventGuidance(far_right).twist(RING), kappa=1.0, particles=256)
    else:
        steer = FK(reward=lambda x0, c: -torch.relu(-far_right(x0)), scale=20.0, particles=256)
    run = unstir.sample(RING, 1024, solver="ancestral", grid="log-snr:100,sigma_max=50,sigma_min=0.02", steers=[steer])
    x = run.x.double()
    # few of 1024 particles descend from different ancestors; without the weights the distances are .27 and .35
    assert energy_distance(x, exact) < 0.05
    assert weights_distance(x, RING, weights) < 0.02
    if repair == "tilt":
        assert (far_right(x) > 0).all()
        assert abs(run.info["log_evidence"].exp().mean().item() / share - 1) < 0.3  # P(E), from 4 problems
    else:
        assert (far_right(x) > 0).double().mean() > 0.85


def test_without_the_guide_the_probability_becomes_exact_as_the_level_falls(inside):
    _, _, share = inside
    guide, errors, spreads = EventGuidance(far_right), [], []
    for level in (4.0, 0.5):
        run = unstir.sample(RING, 3000, solver="heun", grid="karras:12", steers=[EventProbability(guide, level=level)])
        errors.append(abs(run.info["event_probability"].mean().item() - share))
        spreads.append(run.info["event_probability"].std().item())
    # at the high level the approximation is wrong (.039), at the low one it is right: .0127 to 3 standard errors
    assert errors[0] > 0.02
    assert errors[1] < 3 * spreads[1] / math.sqrt(3000)
    hits = (far_right(run.x) > 0).double()
    assert spreads[1] < hits.std().item() + 0.02  # no worse than counting


# ---- edges


def test_far_from_the_event_the_estimate_moves_to_its_edge_and_stays_finite():
    law = GaussianOracle(torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64))
    guide, x = EventGuidance(lambda x0: x0[:, 0] - 50.0).wrap(law), torch.zeros(1, 2)
    for sigma in (1e-4, 1e-2, 1.0, 100.0):
        x0 = guide(x, sigma)
        assert torch.isfinite(x0).all()
        assert abs(x0[0, 0].item() - 50) < 1.1 * min(sigma, 1.0)
        assert x0[0, 1] == 0
    flow = GaussianOracle(torch.zeros(2), torch.ones(2), RectifiedFlow())
    assert torch.isfinite(EventGuidance(lambda x0: x0[:, 0] - 5.0).wrap(flow)(x, 1.0)).all()


def test_a_sure_event_and_a_closed_interval_change_nothing():
    x = RING.marginal(6, 1.0)
    sure = EventGuidance(lambda x0: x0[:, 0] + 1e3).wrap(RING)(x, 1.0)
    torch.testing.assert_close(sure, RING(x, 1.0), rtol=0, atol=1e-12)
    assert torch.equal(EventGuidance(far_right, low=2.0).wrap(RING)(x, 1.0), RING(x, 1.0))
    with pytest.raises(UserError, match="low < high"):
        EventGuidance(far_right, low=2.0, high=1.0)


def test_samples_do_not_see_each_other():
    guide = EventGuidance(far_right)
    assert invariance(RING, grid="karras:5", guides=[guide], steers=[EventProbability(guide)]).same
