"""The S4D layer against the recurrence it stands for, and against digits worked out by hand."""

import math

import numpy as np
import pytest
import torch

from unstir.errors import UserError
from unstir_timeseries import s4d
from unstir_timeseries.s4d import S4D, Backbone, convolve, kernel, poles

C = torch.tensor([1, 0.5 + 0.25j, -0.25 + 0.5j, 0.125 - 0.5j], dtype=torch.complex128)
STEP = torch.tensor(0.1, dtype=torch.float64)
ZOH = [0.2717428826, 0.2382356008, 0.1661801181, 0.0936679214, 0.0686349694, 0.1041915466, 0.1642244746, 0.1909884867]
BILINEAR = [0.2683758642, 0.2372445631, 0.1754510685, 0.1076816159, 0.0714308388, 0.0857947682, 0.1341324568, 0.1739961851]
CAUSAL = [0, 0.2286637510, 0.4475634495, 0.3948111242, 0.0578901102, -0.2745004689, -0.2668424195, 0.1243394501]
BOTH = [0.4108188006, 0.3430674687, 0.1651803470, -0.0241891995, -0.1600793449, -0.1939120448, -0.0883109874, 0.1243394501]


def given_kernel(rule="zoh"):
    return kernel(poles(4), C, STEP, 8, rule)


def sine():
    return torch.sin(torch.arange(8.0, dtype=torch.float64)).view(1, 1, 8)


@pytest.mark.parametrize(("rule", "digits"), [("zoh", ZOH), ("bilinear", BILINEAR)])
def test_the_kernel_has_the_digits_of_the_recurrence(rule, digits):
    A, dt = poles(4).numpy(), 0.1
    a_bar = np.exp(dt * A) if rule == "zoh" else (1 + dt * A / 2) / (1 - dt * A / 2)
    b_bar = (a_bar - 1) / A if rule == "zoh" else dt / (1 - dt * A / 2)
    state, walked = np.zeros(4, complex), []
    for u in [1.0] + [0.0] * 7:  # the response to an impulse
        state = a_bar * state + b_bar * u
        walked.append(2 * (C.numpy() * state).sum().real)
    found = given_kernel(rule).numpy()
    np.testing.assert_allclose(found, walked, atol=1e-14)
    np.testing.assert_allclose(found, digits, atol=5e-11)  # the digits given


def test_the_poles_of_the_inverse_start():
    np.testing.assert_allclose(poles(4, "inv").imag.numpy(), [17.8253536, 4.2441318, 1.5278875, 0.3637827], atol=5e-8)
    with pytest.raises(UserError, match="'lin' or 'inv'"):
        poles(4, "random")


@pytest.mark.parametrize("dense", [1, 512])
def test_both_ways_to_convolve_have_the_digits(monkeypatch, dense):
    monkeypatch.setattr(s4d, "DENSE", dense)  # 1: by transforms; 512: by a matrix
    K = given_kernel()[None]
    np.testing.assert_allclose(convolve(sine(), K)[0, 0].numpy(), CAUSAL, atol=5e-10)
    np.testing.assert_allclose(convolve(sine(), K, K)[0, 0].numpy(), BOTH, atol=5e-10)


def test_two_different_directions_are_the_double_sum(monkeypatch):
    draw = torch.Generator().manual_seed(0)
    u, K1, K2 = (torch.randn(*size, generator=draw, dtype=torch.float64) for size in ((3, 2, 9), (3, 9), (3, 9)))
    wanted = torch.zeros_like(u)
    for t in range(9):
        for s in range(9):
            wanted[..., t] += (K1[:, None, t - s] if s <= t else K2[:, None, s - t - 1]) * u[..., s]
    for dense in (1, 512):
        monkeypatch.setattr(s4d, "DENSE", dense)
        torch.testing.assert_close(convolve(u, K1, K2), wanted)


def test_a_causal_layer_does_not_see_the_future():
    layer = S4D(4, 8, is_causal=True).eval()
    u = torch.randn(4, 1, 12)
    other = u.clone()
    other[..., 7:] += 1
    before = layer(u)[..., :7]
    torch.testing.assert_close(before, layer(other)[..., :7])
    assert not torch.allclose(layer(u)[..., 7:], layer(other)[..., 7:])


def test_the_kernel_is_made_once_for_sampling_and_anew_for_new_weights():
    layer = S4D(4, 8).eval()
    made = []
    build = layer._kernels
    layer._kernels = lambda length: made.append(length) or build(length)
    u = torch.randn(4, 2, 12)
    with torch.inference_mode():
        first = layer(u)
        layer(u)
    assert made == [12]
    with torch.no_grad():
        layer.D.add_(1)
    assert not torch.allclose(layer(u), first)
    assert made == [12, 12]
    layer(u.clone().requires_grad_()).sum().backward()  # kept under inference mode or not, it serves a gradient of the state


def test_training_moves_every_parameter():
    network = Backbone(2, 8, 2, 4, 16, features=3, sees_observed=True, patch=2)
    told = {"features": torch.randn(3, 3, 12), "told": torch.randn(3, 4, 12)}
    network(torch.randn(3, 2, 12), torch.rand(3), told).square().sum().backward()
    still = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == ["blocks.1.out.weight", "blocks.1.out.bias"]  # as published: after the last block only its skip is used


@pytest.mark.parametrize("patch", [1, 3])
def test_rows_of_a_batch_do_not_meet(patch):
    network = Backbone(2, 8, 2, 4, 16, features=1, patch=patch, mixes=True).eval()
    x, label, features = torch.randn(3, 2, 12), torch.rand(3), torch.randn(3, 1, 12)
    with torch.no_grad():
        whole = network(x, label, {"features": features})
        torch.testing.assert_close(whole[1:2], network(x[1:2], label[1:2], {"features": features[1:2]}))


def test_channels_that_mix_see_each_other_and_folding_is_undone():
    network = Backbone(3, 8, 1, 4, 16, patch=2, mixes=True).eval()
    x = torch.randn(1, 3, 8, requires_grad=True)
    gradient = torch.autograd.grad(network(x, torch.zeros(1))[0, 0].sum(), x)[0]
    assert gradient[0, 1].abs().sum() > 0
    folded = network.folded(x)
    assert torch.equal(folded.view(3, 2, 1, 4).permute(2, 0, 3, 1).reshape(1, 3, 8), x)


def test_the_published_embedding_has_tsdiffs_frequencies():
    network = Backbone(low=1 / (2 * math.pi * 1e4), high=1 / (2 * math.pi))
    wanted = torch.exp(-math.log(1e4) * torch.arange(64) / 63).flip(0)
    torch.testing.assert_close(network.embed.frequencies(torch.device("cpu")), wanted, rtol=1e-4, atol=0)


def test_what_does_not_fit_is_refused_in_a_sentence():
    network = Backbone(1, 8, 1, 4, 16, features=2, patch=5)
    with pytest.raises(UserError, match="folds 5 steps"):
        network(torch.randn(1, 1, 12), torch.zeros(1))
    with pytest.raises(UserError, match=r"condition\['features'\] of shape"):
        network(torch.randn(1, 1, 10), torch.zeros(1))
    with pytest.raises(UserError, match="blocks of a backbone"):
        Backbone(blocks=0)
