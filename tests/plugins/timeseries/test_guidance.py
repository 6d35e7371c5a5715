"""Observation guidance against closed forms: an autoregression's exact denoiser, whose guided ancestral walks are linear."""

import numpy as np
import pytest
import torch

import unstir
from unstir.certify.oracles import MixtureOracle
from unstir.errors import UserError
from unstir.guide import LossGuidance, PiGDM
from unstir.operator import Identity
from unstir.process import EDM
from unstir_timeseries.ar1 import Autoregression
from unstir_timeseries.guidance import ObservationGuidance, Restrained, pinball, squared
from unstir_timeseries.panel import NINE, sample_quantiles
from unstir_timeseries.scores import weighted_quantile_loss
from unstir_timeseries.stability import leading_variance, stable_scale

AR, WINDOWS, C, H = Autoregression(), 60, 48, 24
Y = AR.draw(WINDOWS, 0)
LAW = AR.denoiser()
PUBLISHED = {"solver": "ancestral", "grid": "native:100"}


def given(windows):
    """What a forecast may see of windows: NaN in the horizon."""
    y = torch.from_numpy(np.array(windows))[:, None].clone()
    y[:, :, C:] = torch.nan
    return y


def crps(paths, truth):
    """Mean weighted quantile loss over nine levels; paths (windows, samples, H)."""
    return weighted_quantile_loss(sample_quantiles(paths, NINE, axis=1), truth, NINE)


def sampled(guidance, windows, samples, seed=0, **how):
    found = guidance.sample(LAW, given(windows), samples=samples, seed=seed, **(how or PUBLISHED))
    return found.x[:, 0].double().numpy().reshape(len(windows), samples, AR.length)


def walked(kind, scale):
    """Means (windows, L) and covariance of guided ancestral steps of the published table from N(0, I): all guides here are linear."""
    cov, unit = AR.covariance, np.eye(AR.length)
    seen = np.diag(np.r_[np.ones(C), np.zeros(H)])
    y = (Y * np.r_[np.ones(C), np.zeros(H)]).T
    betas = np.linspace(1e-4, 0.1, 100)
    abar = np.r_[1.0, np.cumprod(1 - betas)]
    mean, spread, centre = np.zeros((AR.length, WINDOWS)), unit, np.full((AR.length, 1), AR.mean)
    for t in range(100, 0, -1):
        a, b, now, then = 1 - betas[t - 1], betas[t - 1], abar[t], abar[t - 1]
        gain = np.sqrt(now) * cov @ np.linalg.inv(now * cov + (1 - now) * unit)
        if kind == "mse":
            pull = 2 * scale * gain @ seen
        elif kind == "pigdm":
            pull = gain @ seen / (1 - now + 1e-4)
        else:
            left = (1 - now) / np.sqrt(now) * gain
            pull = gain[:, :C] @ np.linalg.inv(left[:C, :C] + 1e-4 * np.eye(C)) @ np.eye(C, AR.length)
        pull = b / np.sqrt(a) * pull  # the shift of an ancestral step: beta_t/sqrt(a_t) grad
        clean = np.sqrt(then) * b / (1 - now) * unit - pull
        turn = np.sqrt(a) * (1 - then) / (1 - now) * unit + clean @ gain
        mean = turn @ mean + clean @ (centre - np.sqrt(now) * gain @ centre) + pull @ y
        spread = turn @ spread @ turn.T + (b * (1 - then) / (1 - now) * unit if t > 1 else 0)
    return mean.T, spread


@pytest.mark.parametrize(("kind", "scale"), [("mse", 0.5), ("mse", 4.0), ("pigdm", 1.0), ("covariance", 1.0)])
def test_guided_ancestral_steps_shift_the_mean_by_beta_over_root_a(kind, scale):
    guidance = ObservationGuidance(kind, scale=scale, iterations=16, restrained=False)
    told, count = guidance.condition(given(Y[:1]), samples=400), 400
    found = unstir.sample(LAW, count, guides=guidance.guides((1, AR.length)), condition=told, seed=1, **PUBLISHED).x[:, 0].numpy()
    means, spread = walked(kind, scale)
    mean, deviation = means[0], np.sqrt(np.diag(spread))
    # 72 means and spreads of 400 draws each: 5 standard errors; 16 of 48 iterations of "covariance" leave 1e-2
    assert np.abs((found.mean(0) - mean) / np.maximum(deviation, 0.04)).max() < 5 / np.sqrt(count)
    assert np.abs(found.std(0) / deviation - 1)[C:].max() < 5 / np.sqrt(2 * count)


FEW = [ObservationGuidance("quantile", scale=4.0), ObservationGuidance("pigdm")]
TABLE = [  # kind, scale, CRPS of the table, of the closed form; sd one step ahead of the table
    ("mse", 0.5, 0.1906, 0.1899, 0.58),
    ("mse", 1.0, 0.1959, 0.1906, 0.50),
    ("mse", 4.0, 0.1963, 0.1998, 0.41),
    ("pigdm", 1.0, 0.1887, 0.1888, 0.445),
    ("covariance", 1.0, 0.1879, 0.1874, 0.408),
]


@pytest.mark.parametrize(("kind", "scale", "table", "closed", "width"), TABLE)
def test_the_laws_of_the_guides_score_as_in_the_table(kind, scale, table, closed, width):
    from scipy.stats import norm

    means, spread = walked(kind, scale)
    deviation = np.sqrt(np.diag(spread))
    quantiles = np.stack([(means + deviation * norm.ppf(q))[:, C:] for q in NINE], axis=1)
    found = weighted_quantile_loss(quantiles, Y[:, C:], NINE)
    assert found == pytest.approx(closed, abs=1e-4)
    # the table's 100 draws cost .001, and one seed of it is worth .004; its "mse 1" lies .005 off the law it samples
    assert found == pytest.approx(table, abs=0.0055)
    assert deviation[C] == pytest.approx(width, abs=0.01)


def test_the_exact_law_scores_what_the_table_says():
    from scipy.stats import norm

    mean, std = AR.forecast(Y[:, C - 1], H)
    quantiles = np.stack([mean + std * norm.ppf(q) for q in NINE], axis=1)
    assert weighted_quantile_loss(quantiles, Y[:, C:], NINE) == pytest.approx(0.1864, abs=5e-5)


@pytest.mark.slow
def test_full_covariance_guidance_is_within_four_thousandths_of_the_exact_law():
    paths = sampled(ObservationGuidance("covariance", iterations=8), Y, 100, **{"solver": "dpm++2m-sde", "grid": "logistic:20"})
    assert crps(paths[..., C:], Y[:, C:]) == pytest.approx(0.1873, abs=0.004)
    assert paths[..., C].std(1).mean() == pytest.approx(0.436, abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    "guidance", [ObservationGuidance("quantile", scale=4.0), ObservationGuidance("pigdm"), ObservationGuidance("mse", scale=0.5)]
)
def test_twenty_evaluations_score_within_two_per_cent_of_a_hundred_ancestral_steps(guidance):
    base = crps(sampled(guidance, Y, 50)[..., C:], Y[:, C:])
    for solver in ("dpm++2m-sde", "ancestral", "logistic3", "dpm++2m", "ddim"):
        few = crps(sampled(guidance, Y, 50, solver=solver, grid="logistic:20")[..., C:], Y[:, C:])
        assert few < 1.02 * base, solver


def test_scale_0_is_unconditional_sampling_to_the_bit():
    free = unstir.sample(LAW, 6, seed=4).x
    for kind in ("mse", "quantile", "pigdm", "covariance"):
        found = ObservationGuidance(kind, scale=0.0).sample(LAW, given(Y[:2]), samples=3, seed=4)
        assert torch.equal(found.x, free)


def test_a_scale_that_diverges_is_refused_with_the_largest_that_does_not():
    for scale in (8.0, 16.0):
        with pytest.raises(UserError, match=r"scale (8|16) diverges .* largest stable scale is 4\.\d"):
            ObservationGuidance("mse", scale=scale, restrained=False).sample(LAW, given(Y[:1]), samples=2, **PUBLISHED)
    ObservationGuidance("mse", scale=4.0, restrained=False).check(LAW, **PUBLISHED)
    with pytest.raises(UserError, match="largest stable scale is 0.96"):  # 20 steps bear less than 100
        ObservationGuidance("mse", scale=1.0, restrained=False).check(LAW, solver="logistic3", grid="logistic:20")


def test_the_refusal_predicts_what_sampling_does():
    wild, tame = (ObservationGuidance("mse", scale=scale, restrained=False) for scale in (8.0, 4.0))
    size = []
    for guidance in (wild, tame):
        told = guidance.condition(given(Y[:1]), samples=4)
        size.append(float(unstir.sample(LAW, 4, guides=guidance.guides((1, 72)), condition=told, **PUBLISHED).x.abs().max()))
    assert size[0] > 1e3
    assert size[1] < 20


def test_the_leading_variance_is_that_of_the_windows():
    exact = np.linalg.eigvalsh(AR.covariance)[-1]
    assert exact * 0.85 < leading_variance(LAW) <= exact * 1.001  # 8 power iterations from below; its neighbour is 15 % smaller
    assert leading_variance(AR.denoiser(EDM())) == pytest.approx(exact, rel=0.15)


def test_a_stable_scale_falls_with_the_variance_of_the_data():
    wide, narrow = (stable_scale(Autoregression(std=std, length=24).denoiser(), **PUBLISHED) for std in (2.0, 1.0))
    assert wide == pytest.approx(narrow / 4, rel=0.4)  # s l is what matters, where sigma^2 is not small beside l


@pytest.mark.parametrize("kind", ["mse", "quantile"])
@pytest.mark.parametrize("solver", ["logistic3", "dpm++2m-sde", "ddim"])
def test_a_restrained_pull_of_any_scale_stays_near_the_data(kind, solver):
    found = sampled(ObservationGuidance(kind, scale=1e4), Y[:4], 4, solver=solver, grid="logistic:10")
    assert np.isfinite(found).all()
    assert np.abs(found).max() < 25  # mean 3, standard deviation 1; the plain pull of this scale ends beyond 1e10


@pytest.mark.parametrize("kind", ["mse", "quantile", "pigdm"])
def test_fine_steps_never_feel_the_restraint(kind):
    guidance = ObservationGuidance(kind, scale=1.0)
    told, x = guidance.condition(given(Y[:3]), samples=2), torch.randn(6, 1, 72, generator=torch.Generator().manual_seed(0)).double()
    fine = Restrained(kind, 1.0).planned(unstir.names.solver("ddim").plan(LAW.process, [40.0 + i / 1e4 for i in range(10, -1, -1)]))
    plain = ObservationGuidance(kind, scale=1.0, restrained=False).guides((1, 72))[0]
    torch.testing.assert_close(fine.estimate(LAW, x, 40.0005, told), plain.estimate(LAW, x, 40.0005, told), rtol=1e-6, atol=1e-6)


def test_a_restrained_move_ends_where_the_error_is_least_along_it():
    for kind, energy in (("mse", squared), ("quantile", pinball)):
        guidance = ObservationGuidance(kind, scale=1e3)
        told, x = guidance.condition(given(Y[:2]), samples=3), torch.randn(6, 1, 72, generator=torch.Generator().manual_seed(1)).double()
        (guide,) = guidance.guides((1, 72))
        before, after = LAW(x, 60.0), guide.estimate(LAW, x, 60.0, told)
        least = energy(after, told)
        for part in (0.0, 0.9, 1.1):
            assert (least <= energy(before + part * (after - before), told) * (1 + 1e-3)).all()  # bisection to 1/256


def test_rows_with_different_gaps_do_not_meet():
    y = given(Y[:3])
    y[0, :, :10], y[1, :, 20:40] = torch.nan, torch.nan
    x = torch.randn(6, 1, 72, generator=torch.Generator().manual_seed(0)).double()
    for kind in ("mse", "quantile", "pigdm", "covariance"):
        guidance = ObservationGuidance(kind)
        (guide,) = guidance.guides((1, 72))
        whole = guide.estimate(LAW, x, 50.0, guidance.condition(y, samples=2))
        for item in range(3):
            rows = slice(2 * item, 2 * item + 2)
            alone = guide.estimate(LAW, x[rows], 50.0, guidance.condition(y[item : item + 1], samples=2))
            torch.testing.assert_close(whole[rows], alone, rtol=1e-9, atol=1e-9)


def test_an_unobserved_item_follows_the_prior():
    y = torch.full((1, 1, 72), torch.nan, dtype=torch.float64)
    found = ObservationGuidance("quantile", scale=4.0).sample(LAW, y, samples=300, seed=2).x[:, 0].numpy()
    assert np.abs(found.mean(0) - 3).max() < 6 / np.sqrt(300) + 0.05  # 72 correlated means; the start knows the mean to .05


def test_gaps_are_imputed_by_the_same_call():
    y = torch.from_numpy(Y[:20])[:, None].clone()
    truth = y[:, 0, 30:34].numpy().copy()
    y[:, :, 30:34] = torch.nan
    found = ObservationGuidance("covariance").sample(LAW, y, samples=20, solver="dpm++2m-sde", grid="logistic:20").x
    error = found[:, 0, 30:34].numpy().reshape(20, 20, 4).mean(1) - truth
    inside = AR.covariance[:, np.r_[0:30, 34:72]] @ np.linalg.inv(AR.covariance[np.ix_(np.r_[0:30, 34:72], np.r_[0:30, 34:72])])
    left = (AR.covariance - inside @ AR.covariance[np.r_[0:30, 34:72]])[30:34, 30:34]
    assert np.sqrt((error**2).mean()) == pytest.approx(np.sqrt(np.trace(left) / 4 * 1.05), rel=0.25)  # 80 correlated errors, 20 draws


def test_paths_carry_their_quantile_levels_in_order():
    told = ObservationGuidance("quantile").condition(given(Y[:2]), samples=4)
    np.testing.assert_allclose(told["level"], [0.2, 0.4, 0.6, 0.8] * 2)
    assert told["observed"].shape == (8, 1, 72)
    assert float(told["observed"].sum()) == 8 * C
    found = sampled(ObservationGuidance("quantile", scale=4.0), Y[:8], 20, solver="ddim", grid="logistic:20")[..., C - 1]
    assert np.corrcoef(np.tile(np.arange(20), 8), (found - found.mean(1, keepdims=True)).ravel())[0, 1] > 0.5


def test_one_path_is_guided_by_half_the_absolute_error():
    told = ObservationGuidance("quantile").condition(given(Y[:1]), samples=1)
    x0 = torch.randn(1, 1, 72, generator=torch.Generator().manual_seed(0)).double()
    error = (told["observation"] - x0)[..., :C].abs().sum()
    assert float(pinball(x0, told)) == pytest.approx(float(error) / 2)


def test_the_plain_pulls_are_the_core_s_guides():
    plain = {kind: ObservationGuidance(kind, restrained=False).guides((1, 4))[0] for kind in ("mse", "quantile", "pigdm")}
    assert isinstance(plain["mse"], LossGuidance)
    assert isinstance(plain["quantile"], LossGuidance)
    assert isinstance(plain["pigdm"], PiGDM)
    assert isinstance(plain["pigdm"].operator, Identity)


def test_a_law_that_is_not_normal_is_guided_to_its_observed_values():
    law = MixtureOracle([0.5, 0.5], [[[-1.0, -1.0]], [[1.0, 1.0]]], [[[0.1, 0.1]], [[0.1, 0.1]]], EDM())
    y = torch.tensor([[[1.0, torch.nan]], [[-1.0, torch.nan]]], dtype=torch.float64)
    found = ObservationGuidance("pigdm", noise=0.1).sample(law, y, samples=40, solver="dpm++2m-sde").x[:, 0, 1]
    assert (found[:40] > 0).double().mean() > 0.9
    assert (found[40:] < 0).double().mean() > 0.9


BAD = [
    ({"kind": "median"}, "one of mse"),
    ({"scale": -1.0}, "at least 0"),
    ({"scale": float("inf")}, "finite"),
    ({"kind": "pigdm", "scale": 2.0}, "Bayes"),
    ({"noise": -0.1}, "noise >= 0"),
    ({"std": 0.0}, "std above 0"),
    ({"iterations": 0}, "iterations"),
]


@pytest.mark.parametrize(("options", "sentence"), BAD)
def test_options_out_of_range_are_refused(options, sentence):
    with pytest.raises(UserError, match=sentence):
        ObservationGuidance(**options)


def test_bad_observations_are_refused():
    guidance = ObservationGuidance()
    with pytest.raises(UserError, match="at least 1"):
        guidance.condition(given(Y[:1]), samples=0)
    with pytest.raises(UserError, match="infinite"):
        guidance.condition(torch.full((1, 1, 3), torch.inf), samples=1)
    with pytest.raises(UserError, match="no observations"):
        guidance.guides((1, 72))[0].estimate(LAW, torch.zeros(1, 1, 72), 5.0, None)
