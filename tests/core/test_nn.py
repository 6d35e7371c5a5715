"""Networks: any size goes in and comes out, labels reach them in full precision, every parameter learns, wrong options are refused."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unstir.errors import UserError
from unstir.nn import MLP, DiT, LabelEmbedding, UNet
from unstir.nn.unet import depth_to_space, space_to_depth


def stirred(network, seed=0):
    """The network with every parameter moved off its initial value (several start at zero)."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return network


def normal(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def made(seed, build):
    torch.manual_seed(seed)
    return build()


def unet(dim=2, **options):
    return made(0, lambda: UNet(dim, 2, 3, **{"widths": (16, 24), "blocks": 1, "embedding": 16} | options))


NETWORKS = {
    "unet-1d": (lambda: unet(1, attention=(1,), features=2), (2, 13)),
    "unet-2d": (lambda: unet(2, attention=(0, 1), features=2), (2, 9, 12)),
    "unet-3d": (lambda: unet(3, attention=(1,), features=2), (2, 5, 4, 7)),
    "mlp": (lambda: MLP(6, width=16, depth=2, embedding=8, features=2), (2, 3)),
    "dit-1d": (lambda: DiT((8,), 2, 2, patch=4, width=16, depth=2, features=2), (2, 8)),
    "dit-2d": (lambda: DiT((4, 6), 2, 2, patch=2, width=16, depth=2, features=2), (2, 4, 6)),
    "dit-3d": (lambda: DiT((2, 4, 2), 2, 2, patch=2, width=16, depth=1, features=2), (2, 2, 4, 2)),
}
every_network = pytest.mark.parametrize("name", NETWORKS)
FEATURES = {"features": torch.tensor([[0.3, -1.0], [0.8, 0.1], [-0.4, 0.6]])}


@pytest.mark.parametrize("stem", [1, 2, 4])
@pytest.mark.parametrize("dim", [1, 2, 3])
@settings(max_examples=8, deadline=None)
@given(st.data())
def test_a_unet_keeps_any_size(dim, stem, data):
    size = data.draw(st.lists(st.integers(1, 11), min_size=dim, max_size=dim))
    assert stirred(unet(dim, stem=stem))(normal(2, 2, *size), torch.zeros(2)).shape == (2, 3, *size)


def test_padding_repeats_the_border_and_is_cropped_again():
    """Padded by hand to the cell of 4 and cropped, an odd size gives the same; what is left over goes to the end."""
    network, x = stirred(unet(attention=(0,))), normal(1, 2, 6, 11)
    by_hand = torch.cat((x[:, :, :1], x, x[:, :, -1:]), 2)
    by_hand = torch.cat((by_hand, by_hand[..., -1:]), 3)
    torch.testing.assert_close(network(x, torch.zeros(1)), network(by_hand, torch.zeros(1))[:, :, 1:7, :11])


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.data())
@settings(max_examples=30, deadline=None)
def test_depth_to_space_undoes_space_to_depth(dim, factor, channels, data):
    size = [factor * n for n in data.draw(st.lists(st.integers(1, 3), min_size=dim, max_size=dim))]
    x = torch.arange(2 * channels * torch.Size(size).numel()).reshape(2, channels, *size)
    folded = space_to_depth(x, factor)
    assert folded.shape == (2, channels * factor**dim, *(n // factor for n in size))
    assert torch.equal(depth_to_space(folded, factor), x)


def test_the_channels_of_a_folded_cell_are_its_pixels_in_order():
    x = torch.arange(16).reshape(1, 1, 4, 4)
    assert torch.equal(space_to_depth(x, 2)[0, :, 0, 1], torch.tensor([2, 3, 6, 7]))
    assert torch.equal(space_to_depth(x, 2), torch.nn.functional.pixel_unshuffle(x, 2))


@every_network
def test_gradients_reach_every_parameter(name):
    build, shape = NETWORKS[name]
    network = stirred(build())
    network(normal(3, *shape), torch.tensor([-1.0, 0.2, 1.3]), FEATURES).square().sum().backward()
    assert [key for key, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@every_network
def test_an_output_does_not_depend_on_the_batch(name):
    build, shape = NETWORKS[name]
    network, x, label = stirred(build()), normal(3, *shape), torch.tensor([-1.0, 0.2, 1.3])
    whole = network(x, label, FEATURES)
    for i in range(3):
        alone = network(x[i : i + 1], label[i : i + 1], {"features": FEATURES["features"][i : i + 1]})
        torch.testing.assert_close(whole[i : i + 1], alone, rtol=1e-4, atol=1e-5)  # float32, another order of summation


@every_network
def test_one_label_and_one_row_of_features_serve_all(name):
    build, shape = NETWORKS[name]
    network, x = stirred(build()), normal(3, *shape)
    row = FEATURES["features"][:1]
    spelled_out = network(x, torch.full((3,), 0.7), {"features": row.expand(3, 2)})
    torch.testing.assert_close(network(x, torch.tensor(0.7), {"features": row}), spelled_out, rtol=1e-4, atol=1e-5)


@every_network
def test_the_label_and_the_features_matter(name):
    build, shape = NETWORKS[name]
    network, x = stirred(build()), normal(3, *shape)
    there = network(x, torch.zeros(3), FEATURES)
    assert not torch.allclose(there, network(x, torch.ones(3), FEATURES), atol=1e-6)
    assert not torch.allclose(there, network(x, torch.zeros(3), {"features": FEATURES["features"] + 1}), atol=1e-6)


@every_network
def test_missing_features_or_too_many_are_refused(name):
    build, shape = NETWORKS[name]
    network, x = build(), normal(3, *shape)
    for condition in (None, {}, {"other": FEATURES["features"]}):
        with pytest.raises(UserError, match=r"needs condition\['features'\], a tensor of shape \(batch, 2\)"):
            network(x, torch.zeros(3), condition)
    with pytest.raises(UserError, match=r"condition\['features'\] has 3 features, this network takes 2"):
        network(x, torch.zeros(3), {"features": torch.zeros(3, 3)})


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "mlp"])  # the MLP begins near zero, not at it
def test_an_untrained_network_says_zero(name):
    build, shape = NETWORKS[name]
    assert not build()(normal(3, *shape), torch.zeros(3), FEATURES).any()


def test_an_untrained_mlp_says_little():
    assert MLP(4, width=64)(normal(8, 4), torch.zeros(8)).abs().max() < 0.01


@pytest.mark.parametrize("name", ["unet-2d", "dit-2d", "mlp"])
def test_a_network_computes_in_double_and_in_half_precision(name):
    build, shape = NETWORKS[name]
    network, x = stirred(build()), normal(3, *shape)
    single = network(x, torch.zeros(3), FEATURES)
    double = network.double()(x.double(), torch.zeros(3), FEATURES)
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), single, rtol=1e-4, atol=1e-5)
    half = network.bfloat16()(x.bfloat16(), torch.zeros(3), FEATURES)
    assert half.dtype == torch.bfloat16
    assert (half.float() - single).abs().max() < 0.1 * single.abs().max()  # bfloat16 keeps 8 bits


def test_channels_last_gives_the_same_result():
    network, x = stirred(unet(attention=(1,))), normal(2, 2, 10, 12)
    plain = network(x, torch.zeros(2))
    last = network.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last), torch.zeros(2))
    torch.testing.assert_close(last, plain, rtol=1e-4, atol=1e-5)


def test_attention_carries_news_across_the_whole_signal():
    """Beyond the reach of the convolutions the far end is seen through attention alone (group norms see it too, so their share is
    what is left when attention is taken away)."""
    x = normal(1, 2, 400)
    moved = x.clone()
    moved[..., :8] = -moved[..., :8]  # the same norm: group statistics of the first layer move a little only

    def change(network):
        return (network(x, torch.zeros(1)) - network(moved, torch.zeros(1)))[..., 200:].abs().max().item()

    with_it = stirred(unet(1, stem=1, attention=(1,)))
    without = stirred(unet(1, stem=1))
    for network in (with_it, without):
        for module in network.modules():
            if isinstance(module, torch.nn.GroupNorm):
                module.forward = lambda x: x
    assert change(without) == 0.0
    assert change(with_it) > 0.0


def test_attention_sits_at_the_levels_asked_for():
    network = unet(widths=(16, 24, 32), attention=(0, 2))
    assert [isinstance(module, torch.nn.Identity) for module in network.attend] == [False, True, False]


def test_attention_takes_widths_that_its_heads_do_not_divide():
    network = stirred(unet(1, widths=(16, 100), attention=(1,)))
    assert network(normal(1, 2, 8), torch.zeros(1)).shape == (1, 3, 8)


def test_a_dit_sees_its_patches_in_their_places():
    """With the blocks left out a patch depends on itself and its place alone."""
    network = stirred(DiT((4, 4), 1, 1, patch=2, width=16, depth=0))
    x = normal(1, 1, 4, 4)
    other = x.clone()
    other[..., :2, 2:] += 1
    changed = (network(x, torch.zeros(1)) != network(other, torch.zeros(1)))[0, 0]
    assert torch.equal(changed, torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.bool))
    same = network(torch.ones(1, 1, 4, 4), torch.zeros(1))[0, 0]
    assert not torch.allclose(same[:2, :2], same[2:, 2:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_neighbouring_labels_are_distinguished_in_half_precision(dtype):
    """Steps 0 to 999 of a table, told as themselves: in bfloat16 the label 999 is 1000 (8 bits), the embedding's angles are not."""
    embedding = made(0, lambda: LabelEmbedding(64)).to(dtype)
    label = torch.arange(1000.0)
    rows = {tuple(row) for row in embedding(label).float().tolist()}
    assert len(rows) == 1000
    edm = torch.linspace(-2.3, 2.3, 400)  # log(rho)/4 over rho in [1e-4, 1e4]
    close = embedding(edm).float()
    assert (close[1:] - close[:-1]).norm(dim=1).min() > 0


def test_the_embedding_is_its_formula():
    embedding = made(0, lambda: LabelEmbedding(8, low=0.1, high=10.0))
    label = torch.tensor([0.4])
    f = torch.tensor([0.1 * 100 ** (k / 3) for k in range(4)])
    angle = 2 * torch.pi * f * label
    by_hand = embedding.second(torch.nn.functional.silu(embedding.first(torch.cat((angle.cos(), angle.sin()))[None])))
    torch.testing.assert_close(embedding(label), by_hand)


def test_the_same_seed_makes_the_same_network():
    for build, _ in NETWORKS.values():
        one, two = made(3, build).state_dict(), made(3, build).state_dict()
        assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"dim": 4}, "a U-Net has 1, 2 or 3 dimensions, got 4"),
        ({"attention": (2,)}, r"attention goes to levels 0 to 1 of this U-Net, got \[2\]"),
        ({"widths": ()}, "a U-Net needs at least one width, each at least 1"),
        ({"widths": (16, 0)}, r"a U-Net needs at least one width, each at least 1, got \[16, 0\]"),
        ({"blocks": 0}, "blocks and stem of a U-Net must be at least 1"),
        ({"stem": 0}, "blocks and stem of a U-Net must be at least 1"),
        ({"embedding": 1}, "an embedding needs a width of at least 2"),
    ],
)
def test_a_wrong_unet_is_refused(options, sentence):
    with pytest.raises(UserError, match=sentence):
        unet(**options)


def test_a_wrong_dit_is_refused():
    with pytest.raises(UserError, match=r"sizes \(8, 6\) of a DiT must be multiples of its patch 4"):
        DiT((8, 6), 1, 1, patch=4)
    with pytest.raises(UserError, match="width 30 of a DiT must be a multiple of its 4 heads"):
        DiT((8, 8), 1, 1, width=30)


def test_a_state_of_another_form_is_refused():
    with pytest.raises(UserError, match=r"takes \(batch, channels, 2 spatial sizes\), got a tensor of shape \(1, 2, 8\)"):
        unet()(normal(1, 2, 8), torch.zeros(1))
    with pytest.raises(UserError, match=r"this U-Net takes 2 channels, got a tensor of shape \(1, 5, 8, 8\)"):
        unet()(normal(1, 5, 8, 8), torch.zeros(1))
    with pytest.raises(UserError, match=r"built for sizes \(8,\), got \(12,\)"):
        DiT((8,), 1, 1)(normal(1, 1, 12), torch.zeros(1))
    with pytest.raises(UserError, match=r"takes states of 6 entries, got a tensor of shape \(4, 5\)"):
        MLP(6)(normal(4, 5), torch.zeros(4))


@pytest.mark.parametrize("shape", [(6,), (2, 3), (1, 2, 3)])
def test_an_mlp_restores_the_shape_of_its_state(shape):
    assert MLP(6, width=8)(normal(4, *shape), torch.zeros(4)).shape == (4, *shape)


def test_names_of_parameters_stay_as_checkpoints_know_them():
    """A checkpoint is loaded by name: renaming a module breaks every one that was written before."""
    tops = {key.partition(".")[0] for key in unet(attention=(0,)).state_dict()}
    assert tops == {"embed", "enter", "down", "up", "attend", "coarsen", "refine", "leave_norm", "leave"}
    assert {key.partition(".")[0] for key in MLP(2).state_dict()} == {"embed", "enter", "norm", "first", "modulation", "second", "leave"}
    assert {key.partition(".")[0] for key in DiT((4,), 1, 1).state_dict()} == {"embed", "enter", "position", "blocks", "norm", "leave"}


def test_networks_are_what_the_registry_names():
    from unstir import registry

    assert [registry.resolve("networks", name) for name in ("unet", "mlp", "dit")] == [UNet, MLP, DiT]


def test_every_pair_of_options_builds_and_runs():
    for dim, stem, attention, features in itertools.product((1, 2, 3), (1, 2), ((), (1,)), (0, 2)):
        network = unet(dim, stem=stem, attention=attention, features=features)
        assert network(normal(3, 2, *(5,) * dim), torch.zeros(3), FEATURES).shape == (3, 3, *(5,) * dim)
