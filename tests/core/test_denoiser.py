"""Denoisers: a network of any parameterisation is the exact denoiser, on its own process and on any other, at both ends."""

import math

import pytest
import torch

from unstir.certify import JointOracle, gm4, lg3
from unstir.denoiser import PARAMETERISATIONS, Denoiser, NetworkDenoiser, Normaliser
from unstir.denoiser.convert import convert
from unstir.errors import UnknownName, UserError
from unstir.process import EDM, OUVE, SBVE, VE, VP, Joint, MeanReverting, RectifiedFlow, SubVP, VPCosine, VPTable
from unstir.process.base import spread
from unstir.space import Euclidean, JointSpace, Masked

PROCESSES = [
    EDM(),
    VE(),
    VP(),
    SubVP(),
    VPCosine(),
    VPTable(),
    VPTable(zero_terminal=True),
    RectifiedFlow(3.0),
    OUVE(),
    MeanReverting(),
    SBVE(),
]
every_process = pytest.mark.parametrize("process", PROCESSES, ids=repr)
every_kind = pytest.mark.parametrize("kind", PARAMETERISATIONS)
POINTS = torch.tensor([[0.3, -0.4], [1.5, 1.0], [-2.0, 0.7]], dtype=torch.float64)
ANCHOR = {"anchor": torch.tensor([[0.4, -0.6]], dtype=torch.float64)}
S = 0.8


class ExactNetwork(torch.nn.Module):
    """A network that predicts exactly, from its input and its label alone."""

    def __init__(self, kind, process):
        super().__init__()
        self.kind, self.process, self.asked = kind, process, 0

    def time(self, label):
        if self.kind == "edm":
            return self.process.time_at_rho(torch.exp(4 * label))
        if isinstance(self.process, EDM):
            return torch.exp(4 * label)
        return self.process.time_at_rho(label / (1 - label)) if isinstance(self.process, RectifiedFlow) else label

    def forward(self, x, label, condition):
        self.asked += 1
        assert label.shape == x.shape[:1]
        t = self.time(label)
        alpha, beta, sigma = (spread(c, x) for c in (self.process.alpha(t), self.process.beta(t), self.process.sigma(t)))
        offset = beta * condition["anchor"] if self.process.anchored else 0.0
        z = x * torch.sqrt(sigma**2 + S**2 * alpha**2) if self.kind == "edm" else x - offset
        return convert(gm4(self.process)(z + offset, t, condition), "x0", self.kind, z, alpha, sigma, S)


def exact(kind, process):
    return NetworkDenoiser(ExactNetwork(kind, process), process, parameterisation=kind, shape=(2,), sigma_data=S)


def times(process):
    """Noise levels .03 ... 30."""
    return process.time_at_rho(torch.tensor([0.03, 0.5, 3.0, 30.0], dtype=torch.float64)).clamp(max=process.t_max * (1 - 1e-6)).tolist()


@every_process
@every_kind
def test_an_exact_network_is_the_exact_denoiser(kind, process):
    denoiser, law = exact(kind, process), gm4(process)
    for t in times(process):
        x = process.perturb(POINTS, t, POINTS.flip(0), ANCHOR["anchor"])
        torch.testing.assert_close(denoiser(x, t, ANCHOR), law(x, t, ANCHOR), rtol=1e-8, atol=1e-8)
    t = torch.tensor(times(process)[:3], dtype=torch.float64)
    x = process.perturb(POINTS, t, POINTS.flip(0), ANCHOR["anchor"])
    torch.testing.assert_close(denoiser(x, t, ANCHOR), law(x, t, ANCHOR), rtol=1e-8, atol=1e-8)


@every_process
@every_kind
def test_at_the_data_the_state_is_the_estimate_and_the_network_is_not_asked(kind, process):
    denoiser = exact(kind, process)
    torch.testing.assert_close(denoiser(POINTS, process.t_zero, ANCHOR), POINTS)
    assert denoiser.network.asked == 0


@pytest.mark.parametrize("process", [VPCosine(), VPTable(zero_terminal=True), RectifiedFlow()], ids=repr)
@every_kind
def test_at_pure_noise_the_estimate_is_finite_or_refused(kind, process):
    """eps and score say nothing about the data there; the other predictions still hold."""
    network = torch.nn.Identity()
    network.forward = lambda x, label, condition: x
    denoiser = NetworkDenoiser(network, process, parameterisation=kind, shape=(2,))
    if kind in ("eps", "score"):
        with pytest.raises(UserError, match="no data left"):
            denoiser(POINTS, process.t_max)
    else:
        assert torch.isfinite(denoiser(POINTS, process.t_max)).all()
        assert torch.isfinite(denoiser.network_input(POINTS, process.t_max)[1]).all()


@every_process
def test_a_model_moves_exactly_to_any_other_process(process):
    """Denoiser.with_process, by matching sigma/alpha, against the law written down on the other process."""
    for own in PROCESSES:
        law = gm4(own)
        moved = Denoiser.with_process(law, process)
        assert moved.process == process
        t = times(process)[:3]  # levels that every process reaches, OUVE up to 1.7
        for time in t:
            x = process.perturb(POINTS, time, POINTS.flip(0), ANCHOR["anchor"])
            torch.testing.assert_close(moved(x, time, ANCHOR), gm4(process)(x, time, ANCHOR), rtol=1e-7, atol=1e-7)
        each = torch.tensor(t, dtype=torch.float64)
        x = process.perturb(POINTS, each, POINTS.flip(0), ANCHOR["anchor"])
        torch.testing.assert_close(moved(x, each, ANCHOR), gm4(process)(x, each, ANCHOR), rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(moved(POINTS, process.t_zero, ANCHOR), POINTS)
        assert torch.isfinite(moved(POINTS, process.t_max, ANCHOR)).all()
        assert moved.with_process(own) is law


def test_pure_noise_is_met_at_the_largest_level_a_model_knows():
    """EDM knows 80 at most: at alpha = 0 it is asked at 80, where it knows nearly nothing but the mean."""
    moved = Denoiser.with_process(gm4(), RectifiedFlow())
    torch.testing.assert_close(moved(POINTS, 1.0), gm4()(80 * POINTS, 80.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@every_kind
def test_the_dtype_of_the_state_is_kept(kind, dtype):
    layer = torch.nn.Linear(2, 2)
    network = Plain(layer.to(dtype))
    denoiser = NetworkDenoiser(network, VP(), parameterisation=kind, shape=(2,))
    for t in (0.3, torch.full((3,), 0.3)):
        assert denoiser(POINTS.to(dtype), t).dtype == dtype
    assert denoiser.network_input(POINTS.to(dtype), 0.3)[1].dtype == dtype


class Plain(torch.nn.Module):
    """A layer that sees the state only."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.seen = layer, None

    def forward(self, x, label, condition):
        self.seen = (x, label)
        return self.layer(x)


def test_float64_coefficients_reach_a_float64_network_untouched():
    """The same network in float64 and float32: float64 results differ from float32 ones at 1e-7, not at 1e-15 or 1e-3."""
    layer = torch.nn.Linear(2, 2).double()
    high = NetworkDenoiser(Plain(layer), VP(), parameterisation="v", shape=(2,))(POINTS, 0.123456789)
    alpha, sigma = VP().alpha(0.123456789), VP().sigma(0.123456789)
    expected = alpha * POINTS - sigma * layer(POINTS)
    torch.testing.assert_close(high, expected, rtol=1e-14, atol=1e-14)


def test_a_half_precision_network_gets_half_precision_and_full_labels():
    """The state stays float32: with sigma = .001 the estimate is the state to .001 times bfloat16's rounding."""
    network = Plain(torch.nn.Linear(2, 2).bfloat16())
    denoiser = NetworkDenoiser(network, VPTable(), parameterisation="eps", shape=(2,))
    estimate = denoiser(POINTS.float(), 998.0)
    assert estimate.dtype == torch.float32
    assert network.seen[0].dtype == torch.bfloat16
    assert network.seen[1].dtype == torch.float32
    assert network.seen[1].tolist() == [998.0] * 3
    with torch.autocast("cpu", dtype=torch.bfloat16):
        network = NetworkDenoiser(Plain(torch.nn.Linear(2, 2)), EDM(), parameterisation="edm", shape=(2,))
        estimate = network(POINTS.float(), 0.001)
    assert estimate.dtype == torch.float32
    assert (estimate - POINTS).abs().max() < 0.01


@every_kind
def test_a_host_time_reads_nothing_back_from_the_device(kind):
    """On the meta device nothing can be read: a pass means no host synchronisation."""
    denoiser = NetworkDenoiser(Plain(torch.nn.Linear(2, 2)), VP(), parameterisation=kind, shape=(2,)).to("meta")
    assert denoiser(torch.zeros(4, 2, device="meta"), 0.3).device.type == "meta"
    moved = denoiser.with_process(EDM())
    assert moved(torch.zeros(4, 2, device="meta"), 0.3).device.type == "meta"


def test_gradients_flow_to_the_state_and_to_the_network():
    denoiser = NetworkDenoiser(Plain(torch.nn.Linear(2, 2).double()), VP(), parameterisation="edm", shape=(2,))
    x = POINTS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda state: denoiser(state, 0.3), x)
    denoiser(POINTS, torch.full((3,), 0.3)).square().sum().backward()
    assert denoiser.network.layer.weight.grad.abs().sum() > 0


def test_an_edm_network_sees_unit_variance_and_a_quarter_of_the_log_level():
    denoiser = exact("edm", EDM())
    x0 = S * torch.randn(20000, 2, generator=torch.Generator().manual_seed(0))
    for sigma in (0.01, 0.8, 50.0):
        x = x0 + sigma * torch.randn(20000, 2, generator=torch.Generator().manual_seed(1))
        seen, label = denoiser.network_input(x, sigma)
        assert abs(seen.std().item() - 1) < 0.02
        torch.testing.assert_close(label, torch.full((20000,), math.log(sigma) / 4))


def test_the_edm_label_stops_where_it_would_be_infinite():
    label = exact("edm", RectifiedFlow()).network_input(POINTS, 1.0)[1]
    torch.testing.assert_close(label, torch.full((3,), math.log(1e4) / 4, dtype=torch.float64))


def test_an_empty_batch_is_empty():
    assert exact("eps", VP())(POINTS[:0], 0.3).shape == (0, 2)


# Dict states


class Leafwise(torch.nn.Module):
    """Exact networks side by side."""

    def __init__(self, networks):
        super().__init__()
        self.networks = torch.nn.ModuleDict(networks)

    def forward(self, x, label, condition):
        return {leaf: self.networks[leaf](x[leaf], label[leaf], {"anchor": ANCHOR["anchor"]}) for leaf in x}


def test_a_dict_state_is_denoised_leaf_by_leaf():
    parts, kinds = {"x": VP(), "y": OUVE()}, {"x": "v", "y": "edm"}
    network = Leafwise({leaf: ExactNetwork(kinds[leaf], parts[leaf]) for leaf in parts})
    law = JointOracle({leaf: gm4(process) for leaf, process in parts.items()})
    condition = {"anchor": {"y": ANCHOR["anchor"]}}
    x = {"x": POINTS, "y": POINTS.flip(1)}
    shape = {"x": (2,), "y": (2,)}
    denoiser = NetworkDenoiser(network, Joint(parts), parameterisation=kinds, shape=shape, sigma_data=S)
    assert denoiser.space == JointSpace({"x": Euclidean(), "y": Euclidean()})
    for t in (0.4, torch.tensor([0.2, 0.4, 0.9], dtype=torch.float64)):
        torch.testing.assert_close(denoiser(x, t, condition), law(x, t, condition), rtol=1e-8, atol=1e-8)
    separate = NetworkDenoiser(network, Joint(parts, shared_time=False), parameterisation=kinds, shape=shape, sigma_data=S)
    torch.testing.assert_close(separate(x, {"x": 0.4, "y": 0.4}, condition), law(x, 0.4, condition), rtol=1e-8, atol=1e-8)
    clean = separate(x, {"x": 0.0, "y": 0.4}, condition)
    assert torch.equal(clean["x"], x["x"])
    torch.testing.assert_close(clean["y"], law(x, 0.4, condition)["y"], rtol=1e-8, atol=1e-8)


def test_a_joint_model_with_separate_times_moves_leaf_by_leaf():
    law = JointOracle({"x": gm4(VP()), "y": gm4(VE())}, shared_time=False)
    moved = Denoiser.with_process(law, Joint({"x": RectifiedFlow(), "y": VPCosine()}))
    estimate = moved({"x": POINTS, "y": POINTS}, 0.4)
    torch.testing.assert_close(estimate["x"], gm4(RectifiedFlow())(POINTS, 0.4), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(estimate["y"], gm4(VPCosine())(POINTS, 0.4), rtol=1e-8, atol=1e-8)
    for process in (VP(), Joint({"x": VP()}), Joint({"z": VP(), "y": VP()})):
        with pytest.raises(UserError):
            Denoiser.with_process(law, process)
    with pytest.raises(UserError, match="one time for all"):
        Denoiser.with_process(JointOracle({"x": gm4(VP()), "y": gm4(VE())}), Joint({"x": VE(), "y": VE()}))


# Normaliser


def test_normalisers_undo_themselves():
    x = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for normaliser in (Normaliser(), Normaliser(-1000.0, 2000.0), Normaliser([[1.0], [2.0], [3.0]], [[0.5], [1.0], [2.0]])):
        torch.testing.assert_close(normaliser.decode(normaliser.encode(x)), x)
        assert eval(repr(normaliser)) == normaliser
    assert Normaliser(-1000.0, 2000.0).encode(torch.tensor([-1000.0, 1000.0])).tolist() == [0, 1]
    joint = Normaliser({"x": 1.0, "y": [2.0, 3.0]}, {"x": 2.0, "y": 1.0})
    state = {"x": torch.ones(1, 2), "y": torch.ones(1, 2)}
    torch.testing.assert_close(joint.encode(state), {"x": torch.zeros(1, 2), "y": torch.tensor([[-1.0, -2.0]])})
    torch.testing.assert_close(joint.decode(joint.encode(state)), state)
    with pytest.raises(UserError, match="positive"):
        Normaliser(0.0, 0.0)
    with pytest.raises(UserError, match="positive"):
        Normaliser(0.0, [1.0, -1.0])


# Bad input


def test_states_of_another_shape_are_refused():
    denoiser = exact("eps", VP())
    for x in (POINTS[0], POINTS[:, :1], POINTS[:, None], {"x": POINTS}):
        with pytest.raises(UserError, match="the denoiser takes"):
            denoiser(x, 0.3)
    any_size = NetworkDenoiser(Plain(torch.nn.Identity()), VP(), parameterisation="x0", shape=(1, -1))
    assert any_size(torch.zeros(2, 1, 7), 0.3).shape == (2, 1, 7)
    joint = NetworkDenoiser(Plain(torch.nn.Identity()), Joint({"x": VP()}), parameterisation="x0", shape={"x": (2,)})
    for x in (POINTS, {"y": POINTS}, {"x": POINTS[:, :1]}):
        with pytest.raises(UserError):
            joint(x, 0.3)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"parameterisation": "noise", "shape": (2,)}, UnknownName),
        ({"parameterisation": "eps", "shape": {"x": (2,)}}, UserError),
        ({"parameterisation": "edm", "shape": (2,), "sigma_data": 0.0}, UserError),
    ],
)
def test_an_impossible_denoiser_is_refused(options, error):
    with pytest.raises(error):
        NetworkDenoiser(torch.nn.Identity(), VP(), **options)


def test_leaves_must_agree():
    with pytest.raises(UserError, match="leaves differ"):
        NetworkDenoiser(torch.nn.Identity(), Joint({"x": VP()}), parameterisation={"y": "eps"}, shape={"x": (2,)})


def test_a_denoiser_carries_what_it_was_given():
    denoiser = NetworkDenoiser(
        torch.nn.Identity(), VP(), parameterisation="eps", shape=(2,), space=Masked(), normaliser=Normaliser(1.0, 2.0), card="# A card"
    )
    moved = denoiser.with_process(EDM())
    for each in (denoiser, moved):
        assert (each.shape, each.space, each.normaliser, each.card) == ((2,), Masked(), Normaliser(1.0, 2.0), "# A card")
    assert denoiser.with_process(VP()) is denoiser
    assert lg3().prior().shape == (3,)
