"""Sliced: a 2D prior over a volume does what it says slice by slice, for any chunk, axis, context and condition."""

import pytest
import torch

from unstir.certify import GaussianOracle
from unstir.denoiser import Denoiser, NetworkDenoiser, Sliced
from unstir.errors import UserError
from unstir.process import EDM, OUVE, VP

SHAPE = (5, 4, 6)


def volume(batch=2, dtype=torch.float64, seed=0):
    return torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(seed), dtype=dtype)


class Convolution(torch.nn.Module):
    """Two small convolutions that also see the label and a scalar condition."""

    def __init__(self, context=0):
        super().__init__()
        torch.manual_seed(0)
        self.first = torch.nn.Conv2d(1 + 2 * context, 3, 3, padding=1)
        self.second = torch.nn.Conv2d(3, 1, 3, padding=1)
        self.largest = 0

    def forward(self, x, label, condition):
        self.largest = max(self.largest, len(x))
        assert label.shape == x.shape[:1]
        gain = condition["gain"] if condition and "gain" in condition else torch.ones_like(label)
        assert gain.shape == label.shape
        return self.second(torch.tanh(self.first(x) + label[:, None, None, None])) * gain[:, None, None, None]


def prior(context=0, process=None):
    network = Convolution(context).double()
    shape = (1 + 2 * context, -1, -1)
    return NetworkDenoiser(network, process or VP(), parameterisation="edm", shape=shape, context=context)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_every_slice_is_denoised_by_the_prior(axis):
    model, x = prior(), volume()
    estimate = Sliced(model, SHAPE, axis, chunk=3)(x, 0.4)
    assert estimate.shape == x.shape
    for i in range(SHAPE[axis]):
        expected = model(x.select(axis + 1, i)[:, None], 0.4)[:, 0]
        torch.testing.assert_close(estimate.select(axis + 1, i), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("context", [0, 1, 2])
@pytest.mark.parametrize("axis", [0, 2])
def test_the_result_does_not_depend_on_the_chunk(axis, context):
    model, x = prior(context), volume()
    whole = Sliced(model, SHAPE, axis, chunk=1000, context=context)(x, 0.4)
    for chunk in (1, 2, 3, 7, 12):
        part = Sliced(model, SHAPE, axis, chunk=chunk, context=context)(x, 0.4)
        torch.testing.assert_close(part, whole, rtol=1e-12, atol=1e-12)  # a convolution may round differently with its batch


def test_an_elementwise_prior_gives_the_same_bits_for_any_chunk():
    model = GaussianOracle(torch.zeros(1, 4, 6), torch.full((1, 4, 6), 0.3), VP())
    whole = Sliced(model, SHAPE, chunk=1000)(volume(), 0.4)
    for chunk in (1, 3, 4):
        assert torch.equal(Sliced(model, SHAPE, chunk=chunk)(volume(), 0.4), whole)


def test_a_sample_does_not_depend_on_its_batch():
    sliced, x = Sliced(prior(1), SHAPE, context=1, chunk=4), volume(3)
    alone = torch.cat([sliced(x[i : i + 1], 0.4) for i in range(3)])
    torch.testing.assert_close(sliced(x, 0.4), alone, rtol=1e-12, atol=1e-12)


def test_no_chunk_is_larger_than_asked():
    model = prior()
    Sliced(model, SHAPE, chunk=3)(volume(4), 0.4)
    assert model.network.largest == 3


def test_context_channels_are_the_neighbours_and_zeros_beyond_the_ends():
    class Shown(Denoiser):
        def forward(self, x, t, condition=None):
            assert x.shape[1] == 5
            self.windows = getattr(self, "windows", []) + [x]
            return x[:, 2:3]

    shown = Shown(VP(), (5, -1, -1))
    x = volume(1)
    assert torch.equal(Sliced(shown, SHAPE, context=2, chunk=2)(x, 0.4), x)
    windows = torch.cat(shown.windows)
    padded = torch.nn.functional.pad(x[0], (0, 0, 0, 0, 2, 2))
    for i in range(SHAPE[0]):
        assert torch.equal(windows[i], padded[i : i + 5])


def test_context_does_not_leak_from_one_sample_to_the_next():
    sliced, x = Sliced(prior(1), SHAPE, context=1), volume(2)
    other = x.clone()
    other[1] += 100
    assert torch.equal(sliced(x, 0.4)[0], sliced(other, 0.4)[0])


def test_several_axes_are_averaged_with_their_weights():
    model, x = prior(), volume()
    each = [Sliced(model, SHAPE, axis)(x, 0.4) for axis in (0, 1, 2)]
    torch.testing.assert_close(Sliced(model, SHAPE, (0, 1, 2))(x, 0.4), sum(each) / 3)
    torch.testing.assert_close(Sliced(model, SHAPE, (0, 2), weights=(3, 1))(x, 0.4), 0.75 * each[0] + 0.25 * each[2])
    other = prior()
    other.network.second.weight.data.mul_(2)
    mixed = Sliced({0: model, 1: other}, SHAPE, (0, 1))(x, 0.4)
    torch.testing.assert_close(mixed, (each[0] + Sliced(other, SHAPE, 1)(x, 0.4)) / 2)


def test_conditions_are_repeated_for_each_slice():
    model, x = prior(), volume(2)
    gain = torch.tensor([0.5, 2.0], dtype=torch.float64)
    for axis in (0, 1):
        estimate = Sliced(model, SHAPE, axis, chunk=3)(x, 0.4, {"gain": gain, "name": "text", "scale": 3})
        for b in range(2):
            expected = Sliced(model, SHAPE, axis)(x[b : b + 1], 0.4, {"gain": gain[b : b + 1]})
            torch.testing.assert_close(estimate[b : b + 1], expected, rtol=1e-12, atol=1e-12)
    shared = Sliced(model, SHAPE, chunk=3)(x, 0.4, {"gain": gain[:1]})
    torch.testing.assert_close(shared, Sliced(model, SHAPE)(x, 0.4, {"gain": gain[:1].expand(2)}), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("axis", [0, 1])
def test_an_anchor_is_sliced_with_the_volume(axis):
    model, x, y = prior(process=OUVE()), volume(2), volume(2, seed=1)
    estimate = Sliced(model, SHAPE, axis, chunk=3)(x, 0.4, {"anchor": y})
    for i in range(SHAPE[axis]):
        expected = model(x.select(axis + 1, i)[:, None], 0.4, {"anchor": y.select(axis + 1, i)[:, None]})[:, 0]
        torch.testing.assert_close(estimate.select(axis + 1, i), expected, rtol=1e-12, atol=1e-12)
    one = Sliced(model, SHAPE, axis, chunk=3)(x, 0.4, {"anchor": y[:1]})
    torch.testing.assert_close(one, Sliced(model, SHAPE, axis)(x, 0.4, {"anchor": y[:1].expand(2, *SHAPE)}), rtol=1e-12, atol=1e-12)


def test_each_sample_may_have_its_own_time():
    model, x = prior(), volume(2)
    times = torch.tensor([0.2, 0.7], dtype=torch.float64)
    estimate = Sliced(model, SHAPE, 1, chunk=3)(x, times)
    for b in range(2):
        torch.testing.assert_close(estimate[b : b + 1], Sliced(model, SHAPE, 1)(x[b : b + 1], float(times[b])), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("recompute", [True, False])
def test_gradients_reach_the_volume(recompute):
    x = volume(1)[:, :3, :2, :2].clone().requires_grad_()
    sliced = Sliced(prior(1), (-1, -1, -1), (0, 2), chunk=2, context=1, recompute=recompute)
    assert torch.autograd.gradcheck(lambda state: sliced(state, 0.4), x)


def test_gradients_do_not_keep_the_inside_of_the_prior():
    """With ``recompute`` only inputs of chunks are kept for the backward pass, not the activations inside."""

    def kept(recompute):
        sizes = []
        x = volume(1).requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: sizes.append(tensor.numel()) or tensor, lambda tensor: tensor):
            Sliced(prior(), SHAPE, chunk=1, recompute=recompute)(x, 0.4)
        return sum(sizes)

    assert kept(True) < kept(False) / 3


def test_the_prior_may_move_to_another_process():
    model, x = prior(), volume()
    sliced = Sliced(model, SHAPE, (0, 1), weights=(1, 2), chunk=4)
    moved = sliced.with_process(EDM())
    assert isinstance(moved, Sliced)
    t = float(VP().time_at_rho(0.7))
    torch.testing.assert_close(moved(x, 0.7), sliced(x * VP().alpha(t), t), rtol=1e-10, atol=1e-10)


def test_an_empty_batch_is_empty():
    assert Sliced(prior(), SHAPE)(volume(2)[:0], 0.4).shape == (0, *SHAPE)


class Crooked(Denoiser):
    """Returns as many channels as it got."""

    def forward(self, x, t, condition=None):
        return x


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Sliced(prior(), SHAPE, 3), "axes 0, 1 or 2"),
        (lambda: Sliced(prior(), SHAPE, (0, 0)), "axes 0, 1 or 2"),
        (lambda: Sliced({0: prior()}, SHAPE, (0, 1)), "no prior for axis 1"),
        (lambda: Sliced({0: prior(), 1: prior(process=EDM())}, SHAPE, (0, 1)), "differ in process"),
        (lambda: Sliced(prior(), SHAPE, chunk=0), "chunk"),
        (lambda: Sliced(prior(), SHAPE, (0, 1), weights=(1,)), "weights"),
        (lambda: Sliced(prior(), SHAPE)(volume()[:, :3], 0.4), "takes states of shape"),
        (lambda: Sliced(prior(1), SHAPE)(volume(), 0.4), "takes states of shape"),
        (lambda: Sliced(Crooked(VP(), (3, -1, -1)), SHAPE, context=1)(volume(), 0.4), "must return slices"),
    ],
)
def test_an_impossible_slicing_is_refused_in_a_sentence(make, words):
    with pytest.raises(UserError, match=words):
        make()
