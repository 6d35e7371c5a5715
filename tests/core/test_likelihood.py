"""Likelihoods by the probability flow: goldens, closed forms on every process, Hutchinson's estimate, priors, quantised data."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import unstir
from unstir.certify import GaussianOracle, JointOracle, gm4
from unstir.certify.laws import classes3, gaussian, ring8
from unstir.denoiser import Denoiser
from unstir.divergence import estimate_and_trace, signs
from unstir.errors import UserError
from unstir.guide import CFG
from unstir.noise import NoiseSource
from unstir.process import EDM, OUVE, SBVE, VE, VP, MeanReverting, Process, RectifiedFlow, SubVP, VPCosine, VPTable
from unstir.space import Masked, ZeroMean

POINTS = torch.tensor([[0.3, -0.4], [1.5, 1.0], [-2.0, 0.7]], dtype=torch.float64)
PROCESSES: list[Process] = [
    EDM(),
    VP(),
    VPCosine(),
    SubVP(),
    VE(),
    RectifiedFlow(),
    VPTable(),
    VPTable("linear", zero_terminal=True),
    OUVE(),
    MeanReverting(),
]


def test_the_flow_gives_the_golden_likelihoods() -> None:
    found = unstir.likelihood(gm4(), POINTS, divergence="exact", grid="log-snr:300,to_zero=false", prior=gm4())
    exact = torch.tensor([-12.725664, -13.560394, -32.157393], dtype=torch.float64)  # log p at sigma = .002, printed to 1e-6
    assert (found.nats - exact).abs().max() < 3e-6  # 300 steps of Runge-Kutta
    assert (found.nats - gm4().log_density(POINTS, 0.002)).abs().max() < 3e-6
    golden = torch.tensor([-12.725661, -13.560392, -32.157388], dtype=torch.float64)  # as they were first measured, to 5e-6 of the exact
    assert (found.nats - golden).abs().max() < 6e-6
    assert found.nfe == 1200
    assert found.prior == "MixtureOracle"


def test_the_mismatch_of_the_normal_prior_is_the_golden_one() -> None:
    found = unstir.likelihood(gm4(), POINTS, divergence="exact", grid="log-snr:300,to_zero=false")
    assert found.nats.tolist() == pytest.approx([-12.724265, -13.578618, -32.145217], abs=6e-6)
    assert found.prior == "normal, standard deviation 80"
    assert found.bits_per_dim.tolist() == pytest.approx((-found.nats / (2 * math.log(2))).tolist())
    assert found.dimensions.tolist() == [2, 2, 2]


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_the_likelihood_of_a_normal_law_is_its_density_on_every_process(process: Process) -> None:
    law = GaussianOracle(torch.linspace(-1, 1, 4), torch.tensor([0.1, 0.4, 0.9, 2.0]), process)
    x = law.draw(4, torch.Generator().manual_seed(0))
    condition = {"anchor": torch.full((1, 4), 0.4, dtype=torch.float64)} if process.anchored else None
    found = unstir.likelihood(law, x, divergence="exact", grid="log-snr:50", prior=law, condition=condition)
    assert (found.nats - law.log_density(x, process.t_min, condition)).abs().max() < 2e-5  # fourth order in 50 steps
    assert torch.allclose(found.x, law.transport(x, process.t_min, process.t_max, condition), atol=1e-5)  # type: ignore[arg-type]


def test_the_likelihood_converges_at_fourth_order() -> None:
    law = gaussian(8)
    x = law.draw(4, torch.Generator().manual_seed(0))
    exact = law.log_density(x, 0.002)
    runs = [unstir.likelihood(law, x, divergence="exact", grid=f"log-snr:{n},to_zero=false", prior=law).nats for n in (40, 80)]
    gaps = [(run - exact).abs().max().item() for run in runs]
    assert math.log2(gaps[0] / gaps[1]) == pytest.approx(4, abs=0.4)  # both are still far from their limit


def test_hutchinsons_estimate_is_unbiased_and_its_probe_stays() -> None:
    law, count = ring8(EDM(0.05, 20.0)), 200
    x = torch.tensor([[2.6, 2.9]], dtype=torch.float64)
    grid = "log-snr:20,to_zero=false"
    exact = unstir.likelihood(law, x, divergence="exact", grid=grid, prior=law).nats
    found = unstir.likelihood(law, x.expand(count, 2), grid=grid, prior=law, seed=1).nats
    error = found.std() / math.sqrt(count)
    assert error > 1e-3  # the estimate does vary
    assert abs(found.mean() - exact) < 4 * error  # four standard errors
    assert torch.equal(found, unstir.likelihood(law, x.expand(count, 2), grid=grid, prior=law, seed=1, batch=77).nats)
    assert not torch.equal(found[:5], unstir.likelihood(law, x.expand(5, 2), grid=grid, prior=law, seed=2).nats)


def test_hutchinsons_estimate_is_exact_where_the_jacobian_is_diagonal() -> None:
    law = GaussianOracle(torch.zeros(100), torch.linspace(0.1, 2, 100))  # with signs, v.Jv is the trace
    x = law.draw(2, torch.Generator().manual_seed(0))
    found = unstir.likelihood(law, x, grid="log-snr:60", prior=law)
    assert (found.nats - law.log_density(x, 0.002)).abs().max() < 1e-3  # 100 dimensions, 60 steps
    with pytest.raises(UserError, match="up to 64 entries"):
        unstir.likelihood(law, x, divergence="exact")


def test_traces_agree_with_the_jacobian() -> None:
    x = POINTS * 0.5
    jacobian = torch.stack([torch.autograd.functional.jacobian(lambda z: gm4()(z[None], 0.7)[0], row) for row in x])
    _, exact = estimate_and_trace(gm4(), x, 0.7, None, None)
    assert torch.allclose(exact, jacobian.diagonal(dim1=1, dim2=2).sum(1), rtol=1e-12)  # type: ignore[arg-type]
    probe = signs(NoiseSource(0, range(3)), x)
    _, guessed = estimate_and_trace(gm4(), x, 0.7, None, probe)
    assert torch.allclose(guessed, torch.einsum("bi,bij,bj->b", probe, jacobian, probe), rtol=1e-12)  # type: ignore[arg-type]
    assert set(probe.unique().tolist()) <= {-1.0, 1.0}  # type: ignore[union-attr]


def test_leaves_of_a_joint_state_add_their_likelihoods() -> None:
    parts = {"a": gaussian(3, process=VP()), "b": gaussian(2, process=RectifiedFlow())}
    x: Any = {leaf: law.draw(3, torch.Generator().manual_seed(1)) for leaf, law in parts.items()}
    for shared in (True, False):
        found = unstir.likelihood(JointOracle(parts, shared), x, divergence="exact", grid="uniform:60,t_min=.01")
        alone = [unstir.likelihood(parts[leaf], x[leaf], divergence="exact", grid="uniform:60,t_min=.01").nats for leaf in parts]
        assert (found.nats - sum(alone)).abs().max() < 2e-3  # a leaf that follows another's clock steps at other half-ways
        assert found.dimensions.tolist() == [5, 5, 5]


def test_a_condition_changes_the_law_and_so_does_a_guide() -> None:
    law = classes3()
    x = law.given(1).draw(3, torch.Generator().manual_seed(0))
    options: dict[str, Any] = {"divergence": "exact", "grid": "log-snr:60,to_zero=false"}
    condition = {"class": torch.ones(3, dtype=torch.int64)}
    own = unstir.likelihood(law, x, condition=condition, prior=law.given(1), **options).nats
    assert (own - law.given(1).log_density(x, 0.002)).abs().max() < 5e-3  # 60 steps, narrow modes
    null = {"class": torch.full((1,), -1)}
    plain = unstir.likelihood(law, x, condition=condition, prior=law.given(1), guides=[CFG(1.0, null=null)], **options).nats
    torch.testing.assert_close(plain, own)
    guided = unstir.likelihood(law, x, condition=condition, prior=law.given(1), guides=[CFG(3.0, null=null)], **options).nats
    assert torch.isfinite(guided).all()
    assert (guided - own).abs().min() > 0.01


class Padded(Denoiser):
    """Normal data in the first two of four places."""

    def __init__(self) -> None:
        super().__init__(EDM(), (4,), Masked())

    def forward(self, x: Any, t: Any, condition: Any = None) -> Any:
        return x / (1 + float(t) ** 2)


def test_absent_entries_have_no_likelihood() -> None:
    mask = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    x = torch.tensor([[0.3, -1.0, 0.0, 0.0]], dtype=torch.float64)
    law = GaussianOracle(torch.zeros(2), torch.ones(2))
    for divergence in ("exact", "hutchinson"):
        found = unstir.likelihood(Padded(), x, divergence=divergence, condition={"mask": mask}, grid="log-snr:100")
        assert found.dimensions.item() == 2
        assert found.nats.item() == pytest.approx(law.log_density(x[:, :2], 0.002).item(), abs=1e-3)  # the normal prior is off by 1/80^2


def test_quantised_data_are_dequantised_and_bounded() -> None:
    width, levels = 0.5, torch.arange(-6, 6, dtype=torch.float64) * 0.5
    law = GaussianOracle(torch.zeros(1), torch.ones(1))
    x = levels.repeat(200)[:, None]
    found = unstir.likelihood(law, x, divergence="exact", grid="log-snr:40", prior=law, bin_width=width)
    bits = found.bits_per_dim.reshape(200, -1).mean(0)
    normal = torch.distributions.Normal(0.0, 1.0)
    true = -torch.log2(normal.cdf(levels + width) - normal.cdf(levels))
    assert ((bits - true) > -0.02).all()  # an upper bound, but for the error of 200 draws
    assert ((bits - true) < 0.12).all()  # tight where the density is smooth over a bin, less so in the tails
    plain = unstir.likelihood(law, x[:3], divergence="exact", grid="log-snr:40", prior=law)
    assert torch.allclose(plain.bits_per_dim, -plain.nats / math.log(2))


def test_likelihoods_refuse_what_has_none() -> None:
    with pytest.raises(UserError, match="ends in a point"):
        unstir.likelihood(gm4(SBVE()), POINTS, condition={"anchor": POINTS})
    denoiser = gm4()
    denoiser.space = ZeroMean()
    with pytest.raises(UserError, match="no density in its entries"):
        unstir.likelihood(denoiser, POINTS)
    for options in ({"divergence": "trace"}, {"prior": "uniform"}, {"bin_width": 0.0}, {"grid": [80.0, 0.0]}):
        with pytest.raises(UserError):
            unstir.likelihood(gm4(), POINTS, **options)  # type: ignore[arg-type]


class Detached(Denoiser):
    """Gives no gradient."""

    def forward(self, x: Any, t: Any, condition: Any = None) -> Any:
        return x.detach() * 0.5


def test_a_denoiser_without_a_gradient_is_refused() -> None:
    with pytest.raises(UserError, match="gives a gradient"):
        unstir.likelihood(Detached(EDM(), (2,)), POINTS)
