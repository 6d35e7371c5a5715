"""S4: one evaluation a step for coupled leaves, exact variance recursions, the published coefficients, per-sample corrections."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import unstir
from unstir.certify import GaussianOracle, checks
from unstir.denoiser import Denoiser
from unstir.errors import UserError
from unstir.grid import LogSNR
from unstir.process import EDM, OUVE, VE, VP, Joint, RectifiedFlow
from unstir.solver import S4, Memory
from unstir.space import JointSpace, Masked, Symmetric

MEAN = torch.tensor([0.5, -0.3, 0.8], dtype=torch.float64)
COV = torch.tensor([[0.6, 0.35, -0.2], [0.35, 0.5, 0.1], [-0.2, 0.1, 0.4]], dtype=torch.float64)


class Coupled(Denoiser):
    """A normal law over two leaves that know of each other, x (2 entries) and a (1 entry), each on a process of its own."""

    def __init__(self, x: VP | VE, a: VP | VE) -> None:
        super().__init__(Joint({"x": x, "a": a}), {"x": (2,), "a": (1,)})
        self.asked: list[float] = []

    def scales(self, t: float) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.process.alpha(t), self.process.sigma(t)
        return torch.stack([alpha["x"], alpha["x"], alpha["a"]]), torch.stack([sigma["x"], sigma["x"], sigma["a"]])

    def forward(self, x: dict[str, Tensor], t: float, condition: object = None) -> dict[str, Tensor]:
        self.asked.append(t)
        alpha, sigma = self.scales(t)
        noisy = alpha[:, None] * COV * alpha + torch.diag(sigma**2)
        gain = COV * alpha @ torch.linalg.inv(noisy)
        flat = MEAN + (torch.cat([x["x"], x["a"]], 1).double() - alpha * MEAN) @ gain.mT
        return {"x": flat[:, :2].to(x["x"]), "a": flat[:, 2:].to(x["a"])}


def carried(solver: S4, exact: Coupled, times: list[float]) -> Tensor:
    """The covariance of the samples, exactly: each unit draw gets a row of its own, and every step is linear."""
    alpha, sigma = exact.scales(times[0])
    start = torch.linalg.cholesky(alpha[:, None] * COV * alpha + torch.diag(sigma**2))
    rows = solver.plan(exact.process, times)
    width = 3 + 9 * len(rows)
    x = torch.zeros(width + 1, 3, dtype=torch.float64)  # the last row is the mean, followed beside the draws
    x[:3], x[-1] = start.mT, alpha * MEAN
    state, used = {"x": x[:, :2], "a": x[:, 2:]}, 3

    def noise() -> dict[str, Tensor]:
        nonlocal used
        unit = torch.zeros(width + 1, 3, dtype=torch.float64)
        unit[range(used, used + 3), range(3)] = 1.0
        used += 3
        return {"x": unit[:, :2], "a": unit[:, 2:]}

    def model(z: dict[str, Tensor], t: float) -> dict[str, Tensor]:
        flat = torch.cat([z["x"], z["a"]], 1)
        alpha = exact.scales(t)[0]
        shift = torch.cat([torch.zeros(width, 3), torch.ones(1, 3)]).double()  # coefficients have no mean; the last row has
        at = flat + (1 - shift) * alpha * MEAN
        found = exact({"x": at[:, :2], "a": at[:, 2:]}, t)
        out = torch.cat([found["x"], found["a"]], 1) - (1 - shift) * MEAN
        return {"x": out[:, :2], "a": out[:, 2:]}

    memory = Memory(noise)
    for row in rows:
        state = solver.step(state, row, model, memory)
    flat = torch.cat([state["x"], state["a"]], 1)
    end = exact.scales(times[-1])[0]
    torch.testing.assert_close(flat[-1] / end, MEAN, rtol=0, atol=0.05)
    return flat[:-1].mT @ flat[:-1] / (end[:, None] * end)


@pytest.mark.parametrize("variant", ["exact", "published"])
def test_coupled_leaves_reach_their_joint_covariance_at_first_order(variant: str) -> None:
    """Exact recursion for two leaves on two processes; the covariance across leaves needs both scores from one state."""
    exact = Coupled(VP(0.1, 8.0), VE(0.05, 8.0))
    errors = []
    for steps in (100, 200, 400):
        times = [1 - 0.99 * i / steps for i in range(steps + 1)]
        alpha, sigma = exact.scales(times[-1])
        target = COV + torch.diag((sigma / alpha) ** 2)
        found = carried(S4(snr=0.0, variant=variant), exact, times)
        errors.append(float((found - target).abs().max()))
        assert abs(float(found[0, 2] - COV[0, 2])) < 0.12
    assert errors[2] < 0.03
    assert 1.7 < errors[0] / errors[1] < 2.4
    assert 1.7 < errors[1] / errors[2] < 2.4


@pytest.mark.parametrize("process", [VP(), RectifiedFlow(), EDM(), VE()], ids=lambda p: type(p).__name__)
@pytest.mark.parametrize("variant", ["exact", "published"])
def test_the_variance_converges_on_every_process(process: VP, variant: str) -> None:
    times = LogSNR(800, sigma_max=50.0, sigma_min=0.005, to_zero=False).times(process)
    assert checks.variance_ratio(S4(snr=0.0, variant=variant), process, times, 0.25) == pytest.approx(1, abs=0.03)  # first order in 9/800


def test_one_evaluation_a_step_at_the_state_before_it() -> None:
    """Both leaves are asked about together, once; the second leaf does not see the first one's move."""
    exact = Coupled(VP(), VP())
    samples = unstir.sample(exact, 3, solver="s4", grid="uniform:6")
    assert samples.nfe == 6
    assert exact.asked == samples.times[:-1]

    swapped = Coupled(VP(), VP())
    swapped.process = Joint(dict(reversed(swapped.process.leaves.items())))
    swapped.shape = dict(reversed(swapped.shape.items()))
    swapped.space = JointSpace(dict(reversed(swapped.space.leaves.items())))
    again = unstir.sample(swapped, 3, solver="s4", grid="uniform:6")
    for leaf in ("x", "a"):
        assert torch.equal(samples.x[leaf], again.x[leaf])


def test_the_published_coefficients_are_those_of_gdss() -> None:
    """VP: exp(-l) with l = dt (2 b0 + (2 t + dt)(b1 - b0))/4 for dt < 0, variance 1 - exp(2 l), score part beta(t) |dt|; VE likewise."""
    low, high, t, s = 0.1, 1.0, 0.6, 0.59
    (row,) = S4(variant="published").plan(VP(low, high), [t, s])
    half = (s - t) / 2
    first, second = (half / 4 * (2 * low + (2 * begin + half) * (high - low)) for begin in (t, t + half))
    _, a1, d1, kick, a2, d2, _ = row.c
    assert a1 == pytest.approx(math.exp(-first), rel=1e-12)
    assert a2 == pytest.approx(math.exp(-second), rel=1e-12)
    assert d1 == pytest.approx(math.sqrt(1 - math.exp(2 * first)), rel=1e-9)
    assert d2 == pytest.approx(math.sqrt(1 - math.exp(2 * second)), rel=1e-9)
    assert kick == pytest.approx((low + t * (high - low)) * (t - s), rel=1e-12)
    (row,) = S4(variant="published").plan(VE(0.2, 1.0), [t, s])
    sigma = [0.2 * 5**time for time in (t, (t + s) / 2, s)]
    assert row.c[2] == pytest.approx(math.sqrt(sigma[0] ** 2 - sigma[1] ** 2), rel=1e-9)
    assert row.c[3] == pytest.approx(sigma[0] ** 2 * 2 * math.log(5) * (t - s), rel=1e-9)


def test_the_correction_takes_its_length_from_one_sample() -> None:
    denoiser = Coupled(VP(), VE())
    for option in ({"snr": 0.2}, {"snr": 0.2, "noise": 0.7}, {"snr": 0.0}):
        assert checks.invariance(denoiser, count=4, batches=(1, 4), solver=S4(**option), grid="uniform:5").worst < 1e-6  # a matrix product


def test_norms_over_the_batch_change_nothing_for_one_sample_and_join_several() -> None:
    denoiser = Coupled(VP(), VE())
    run = {"grid": "uniform:5", "seed": 2}
    alone = [unstir.sample(denoiser, 1, solver=S4(snr=0.2, norms=norms), **run).x["x"] for norms in ("sample", "batch")]
    assert torch.equal(*alone)
    several = [unstir.sample(denoiser, 4, solver=S4(snr=0.2, norms=norms), **run).x["x"] for norms in ("sample", "batch")]
    assert not torch.allclose(*several)


def test_corrections_keep_the_spread_of_many_entries_and_less_noise_narrows_it() -> None:
    """128 entries of variance .25, 100 steps: within 5 % (a Langevin step of fixed relative length is biased by snr^2), 15 % less at .7."""
    law, ratio = GaussianOracle(torch.zeros(128), torch.full((128,), 0.25), VP()), {}
    for name, solver in {"plain": S4(snr=0.0), "corrected": S4(snr=0.15), "sharpened": S4(snr=0.15, noise=0.7)}.items():
        samples = unstir.sample(law, 100, solver=solver, grid="uniform:100")
        assert samples.nfe == 100
        ratio[name] = float(samples.x.double().std() / 0.5)  # known to .6 %
    assert ratio["plain"] == pytest.approx(1, abs=0.05)
    assert ratio["corrected"] == pytest.approx(1, abs=0.07)
    assert ratio["sharpened"] < 0.9


def test_masked_and_symmetric_leaves_stay_in_their_spaces() -> None:
    class Flat(Denoiser):
        def forward(self, x: dict[str, Tensor], t: float, condition: object = None) -> dict[str, Tensor]:
            return {leaf: 0.3 * value for leaf, value in x.items()}

    space = JointSpace({"x": Masked("nodes"), "a": Symmetric("nodes")})
    denoiser = Flat(Joint({"x": VP(), "a": VE()}), {"x": (4, 2), "a": (4, 4)}, space)
    condition = {"nodes": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])}
    samples = unstir.sample(denoiser, 2, solver="s4", grid="uniform:7", condition=condition, trace=True)
    for state in samples.path:
        torch.testing.assert_close(state["a"], state["a"].mT, rtol=0, atol=1e-6)
        assert (state["x"][1, 2:] == 0).all()
        assert (state["a"][1, 2:] == 0).all()
        assert (state["a"].diagonal(dim1=1, dim2=2) == 0).all()


@pytest.mark.parametrize("process", [VP(), VE(), EDM(), RectifiedFlow(), OUVE()], ids=lambda p: type(p).__name__)
def test_no_grid_leaves_the_finite_numbers(process: VP) -> None:
    for snr in (0.0, 0.3):
        grids = [f"{grid}:{n}" for grid in ("uniform", "karras", "log-snr") for n in (1, 2, 5, 20)]
        found = checks.finite(S4(snr=snr), process, grids, count=2)
        assert found.passed, found.failures[:3]


def test_options_are_checked() -> None:
    for option in ({"snr": -0.1}, {"noise": -1.0}, {"snr": math.inf}, {"variant": "half"}, {"norms": "all"}):
        with pytest.raises(UserError):
            S4(**option)
    assert S4(snr=0.0).linear
    assert not S4().linear
    assert S4().stochastic
