"""Training slabs: what is in them, what is not, and that a missing neighbour looks in training as it does in a volume."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unstir.denoiser import NetworkDenoiser, Sliced
from unstir.errors import UserError
from unstir.process import EDM
from unstir.space import Masked
from unstir.train import DenoisingLoss, LogUniform
from unstir_medical.slabs import REFERENCE, Slabs, Source, features, planes


def rng(seed=0):
    return np.random.default_rng(seed)


def source(slices=9, side=64, hu=40.0, spacing=(5.0, 2.0, 2.0), weight=1.0, turns=True):
    values = np.broadcast_to(np.asarray(hu, np.float32).reshape(-1, 1, 1), (slices, side, side))
    return Source(np.ascontiguousarray(values, dtype=np.float32), spacing, weight, turns)


def slabs(sources=None, **options):
    made = {"crop": 16, "context": 2, "batch": 6, "variants": 2} | options
    return Slabs([source()] if sources is None else sources, **made)


def drawn(made, batches=12):
    """Many slabs: u, present, grid."""
    found = [made(step, rng(step)) for step in range(batches)]
    return (
        torch.cat([batch["x0"] for batch in found]),
        torch.cat([batch["condition"]["present"] for batch in found]),
        torch.cat([batch["condition"]["grid"] for batch in found]),
    )


def test_a_batch_has_the_shape_and_the_unit_of_a_state():
    u, present, grid = drawn(slabs(), 1)
    assert u.shape == (6, 5, 16, 16)
    assert u.dtype == torch.float32
    assert present.shape == (6, 5, 1, 1)
    assert grid.shape == (6, 2)
    assert 0 <= u.min() <= u.max() <= 1


def test_a_batch_depends_on_the_seed_and_its_generator_alone():
    one, two, other = slabs(seed=3), slabs(seed=3), slabs(seed=4)
    for key in (0, 5):
        a, b = one(0, rng(key)), two(9, rng(key))
        assert torch.equal(a["x0"], b["x0"])
        assert torch.equal(a["condition"]["grid"], b["condition"]["grid"])
    assert not torch.equal(one(0, rng(0))["condition"]["grid"], other(0, rng(0))["condition"]["grid"])
    assert not torch.equal(one(0, rng(0))["condition"]["grid"], one(0, rng(1))["condition"]["grid"])


def test_a_uniform_volume_gives_uniform_slabs():
    """40 HU is u = 0.52; the jitter of the window moves it by gain 3 % and 8 HU."""
    u, present, _ = drawn(slabs(rotation=0.0), 40)
    u = u[..., 2:-2, 2:-2]  # the outermost pixels may lie half beyond the volume
    inside = u[(present > 0).expand_as(u)].reshape(-1, 144)
    assert (inside.max(1).values - inside.min(1).values).max() < 1e-6  # every slice of a slab is one colour
    colour = inside.mean(1)
    exact = (colour - 0.52).abs() < 4096 / 65535 / 2000  # half a step of what is stored, with room
    assert 0.35 < exact.float().mean() < 0.65  # half of the slabs are not jittered
    assert 0.005 < colour.std() < 0.03


def test_the_middle_is_always_there_and_what_is_missing_is_zero():
    u, present, _ = drawn(slabs(alone=0.5, rotation=0.0), 40)
    u = u[..., 2:-2, 2:-2]
    assert (present[:, 2] == 1).all()
    assert set(present.unique().tolist()) == {0.0, 1.0}
    assert not u[(present == 0).expand_as(u)].any()
    assert (u[(present == 1).expand_as(u)] > 0).all()


def test_a_share_of_slabs_stands_alone():
    deep = slabs([source(slices=400)], alone=0.3, batch=50)
    _, present, _ = drawn(deep, 20)
    count = present.sum((1, 2, 3))
    # 1000 draws with probability 0.3 (the ends of 400 slices add a few with fewer than five): 4 standard deviations are 0.058
    assert (count == 1).float().mean().item() == pytest.approx(0.3, abs=0.058)
    assert (count == 5).float().mean().item() == pytest.approx(0.7, abs=0.08)


def test_without_standing_alone_neighbours_are_missing_only_at_the_ends():
    """A ramp of slices: the middle's colour tells where the slab was cut, and that tells which neighbours exist."""
    heights = np.linspace(-900, 900, 6)
    u, present, _ = drawn(slabs([source(6, hu=heights)], alone=0.0, rotation=0.0), 30)
    for slab, there in zip(u, present[:, :, 0, 0], strict=True):
        place = round((slab[2].mean().item() * 2000 - 1000 + 900) / 360)
        forward = [0 <= place + k < 6 for k in range(-2, 3)]
        assert there.bool().tolist() in (forward, forward[::-1])


def test_neighbours_are_neighbours_in_order():
    heights = np.linspace(-900, 900, 30)
    u, present, _ = drawn(slabs([source(30, hu=heights)], alone=0.0, rotation=0.0), 10)
    whole = present.sum((1, 2, 3)) == 5
    steps = u[whole].mean((2, 3)).diff(dim=1) * 2000
    signs = steps.sign()
    assert (signs == signs[:, :1]).all()  # one direction
    assert {1.0, -1.0} <= set(signs[:, 0].tolist())  # flipped in half of them
    assert ((steps.abs() - 1800 / 29).abs() < 12).all()  # of the jitter's gain


class Recording(torch.nn.Module):
    """Keeps what it was given."""

    def __init__(self, context):
        super().__init__()
        self.context, self.inputs = context, []

    def forward(self, x, label, condition=None):
        self.inputs.append(x.clone())
        return x[:, self.context : self.context + 1]


def test_a_missing_neighbour_has_neither_state_nor_noise_in_training_as_in_a_volume():
    """The same slices with the same noise: what the network is given in training and through ``Sliced`` are the same numbers."""
    context, depth, level = 2, 3, 0.3
    network = Recording(context)
    kwargs = {"parameterisation": "edm", "shape": (5, -1, -1), "sigma_data": 0.25, "context": context}
    training = NetworkDenoiser(network, EDM(), space=Masked("present"), **kwargs)

    made = slabs([source(depth, hu=np.array([-500.0, 40.0, 700.0]))], alone=0.3)
    batch = made(0, rng(0))
    DenoisingLoss(LogUniform(0.05, 2.0), "edm")(training, batch["x0"], torch.Generator().manual_seed(0), batch["condition"])
    seen, present = network.inputs.pop(), batch["condition"]["present"]
    assert (present == 0).any()
    assert not seen[(present == 0).expand_as(seen)].any()
    spread = seen.flatten(2).std(2)
    assert (spread[present[:, :, 0, 0] == 1] > 0.05).all()  # noise wherever there is a slice

    volume = torch.rand(1, depth, 16, 16, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(1, depth, 16, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        sliced = Sliced(NetworkDenoiser(network, EDM(), **kwargs), (depth, 16, 16), context=context)
        estimate = sliced(EDM().perturb(volume, level, noise), level)
    in_volume = network.inputs.pop()
    window = torch.zeros(2, depth, 5, 16, 16)
    there = torch.zeros(depth, 5)
    for i in range(depth):
        for k in range(-2, 3):
            if 0 <= i + k < depth:
                window[0, i, k + 2], window[1, i, k + 2], there[i, k + 2] = volume[0, i + k], noise[0, i + k], 1
    t = torch.full((depth,), level, dtype=torch.float64)
    condition = {"present": there[:, :, None, None]}
    # outside the volume the noise is arbitrary: the space takes it out
    loud = torch.where(condition["present"] > 0, window[1], torch.tensor(99.0))
    x_t = EDM().perturb(window[0], t, training.space.draw(loud, condition))
    by_training = training(x_t, t, condition)
    torch.testing.assert_close(network.inputs.pop(), in_volume, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(by_training[:, 0], estimate[0], rtol=1e-5, atol=1e-6)


def test_the_loss_does_not_see_the_neighbours_error():
    """Only the middle is predicted, so only it counts."""
    network = Recording(2)
    training = NetworkDenoiser(network, EDM(), parameterisation="x0", shape=(5, -1, -1), context=2, space=Masked("present"))
    batch = slabs(alone=0.0, batch=64)(0, rng(0))
    found = DenoisingLoss(LogUniform(0.3, 0.3000001), "x0")(training, batch["x0"], torch.Generator().manual_seed(0), batch["condition"])
    # the network answers with its noisy input: the error is the noise, 0.09; 64 * 256 squares of normals
    assert found.item() == pytest.approx(0.09, rel=4 * (2 / (64 * 256)) ** 0.5)


# -- grids -----------------------------------------------------------------------------------------------------------


def test_features_are_zero_on_the_reference_grid():
    assert features(*REFERENCE).tolist() == [0.0, 0.0]
    torch.testing.assert_close(features(5.0 * np.e**0.3, 2.28), torch.tensor([1.0, 0.0]))
    assert features(torch.tensor([3.0, 5.0]), torch.tensor([2.0, 2.28])).shape == (2, 2)


@settings(max_examples=25, deadline=None)
@given(dz=st.floats(0.5, 8.0), pixel=st.floats(0.5, 4.0), slices=st.integers(14, 24), side=st.integers(12, 60), seed=st.integers(0, 99))
def test_every_grid_lies_in_the_ranges_it_was_drawn_from(dz, pixel, slices, side, seed):
    made = slabs([source(slices, side, spacing=(dz, pixel, pixel))], seed=seed, crop=12, variants=3)
    for variant in made.variants[0]:
        assert variant.values.shape[1] >= 12
        assert variant.values.shape[2] >= 12
        every = variant.distance_mm / dz
        assert every == pytest.approx(round(every))
        if dz >= 3.0 / 1.4:
            assert variant.distance_mm == dz  # thick slices stay as they are
        else:
            assert variant.distance_mm >= 3.0 - 1e-6
            assert variant.distance_mm <= max(6.0, 3.0 + dz) + 1e-6
        assert variant.pixel_mm <= 3.0 + 1e-9
        assert variant.pixel_mm >= min(1.7, pixel * side / 12) - 1e-9  # a small source takes smaller pixels


def test_a_pixel_is_the_mean_over_its_area():
    """A checkerboard of -1000 and 1000 HU at a tenth of the pixel is grey at 0 HU; its neighbours along z average as well."""
    fine = np.where(np.indices((24, 120, 120)).sum(0) % 2 == 0, -1000, 1000).astype(np.float32)
    made = slabs([Source(fine, (1.0, 0.25, 0.25), 1.0)], crop=8, variants=4, rotation=0.0, pixel_mm=(2.0, 3.0))
    for variant in made.variants[0]:
        core = variant.values[:, 3:-3, 3:-3].astype(float) * 4096 / 65535 - 1024
        assert np.abs(core).max() < 170  # area means of 8 to 12 pixels a side


def test_what_lies_beyond_the_volume_is_air():
    made = slabs([source(5, 32, hu=1000.0, spacing=(5.0, 2.0, 2.0))], crop=32, rotation=10.0, variants=3, pixel_mm=(2.0, 2.0))
    corners = [variant.values[:, 0, 0].astype(float) * 4096 / 65535 - 1024 for variant in made.variants[0]]
    assert all((corner < 1000).all() for corner in corners)
    u, _, _ = drawn(made, 5)
    assert u.min() == 0.0  # below the window


def test_sources_come_with_the_share_of_their_weight():
    made = slabs([source(hu=-600.0, weight=3.0), source(hu=500.0, weight=1.0)], batch=50, alone=1.0)
    u, _, _ = drawn(made, 20)
    light = (u[:, 2].mean((1, 2)) > 0.5).float().mean().item()
    assert light == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 1000) ** 0.5)


def test_only_axial_planes_are_turned():
    """A volume bright at its top: where it may not be turned, no slab is bright at the bottom or at a side."""
    hu = np.full((6, 32, 32), -900, np.float32)
    hu[:, :16] = 900

    def brightest(turns):
        made = slabs([Source(hu, (5.0, 2.0, 2.0), 1.0, turns)], crop=32, rotation=0.0, pixel_mm=(2.0, 2.0), alone=1.0)
        u = drawn(made, 30)[0][:, 2]
        halves = torch.stack((u[:, :16].mean((1, 2)), u[:, 16:].mean((1, 2)), u[:, :, :16].mean((1, 2)), u[:, :, 16:].mean((1, 2))), 1)
        return set(halves.argmax(1).tolist())

    assert brightest(False) == {0}
    assert brightest(True) == {0, 1, 2, 3}


def test_the_planes_of_a_volume_are_its_transposes():
    hu = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
    axial, coronal, sagittal = planes(hu, (5.0, 2.0, 1.0), {"axial": 1.0, "coronal": 0.5, "sagittal": 0.25})
    assert np.array_equal(axial.hu, hu)
    assert axial.spacing_mm == (5.0, 2.0, 1.0)
    assert np.array_equal(coronal.hu[1], hu[:, 1])
    assert coronal.spacing_mm == (2.0, 5.0, 1.0)
    assert np.array_equal(sagittal.hu[2], hu[:, :, 2])
    assert sagittal.spacing_mm == (1.0, 5.0, 2.0)
    assert [(s.weight, s.turns) for s in (axial, coronal, sagittal)] == [(1.0, True), (0.5, False), (0.25, False)]


def test_what_cannot_be_used_is_refused():
    with pytest.raises(UserError, match="a plane is axial, coronal or sagittal, got 'frontal'"):
        planes(np.zeros((2, 2, 2), np.float32), (1, 1, 1), {"frontal": 1.0})
    with pytest.raises(UserError, match="needs at least one training volume"):
        slabs([])
    with pytest.raises(UserError, match="a training volume of 2 slices 1 mm apart is too thin for slices [3-6] mm apart"):
        slabs([source(2, spacing=(1.0, 2.0, 2.0))])


def test_the_progress_of_the_resampling_is_told():
    told = []
    slabs([source(), source()], progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]
