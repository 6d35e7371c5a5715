"""Steers: golden data steps, independent samples, warm starts, constraints at every noise level."""

import math
from dataclasses import replace

import pytest
import torch

from unstir.denoiser import Denoiser
from unstir.errors import UserError
from unstir.guide import DPS, ProximalData
from unstir.loop import sample
from unstir.noise import NoiseSource
from unstir.operator import Dense, Diagonal, Identity, Mask, Proximal, SliceWise, admm_tv
from unstir.process import EDM, OUVE, VP, Joint
from unstir.solver import DDIM
from unstir.steer import AdmmTV, Constraint, DataConsistency, Moment, OnLeaf

A = Dense(torch.tensor([[1, 0.5, 0], [0, 1, -1]], dtype=torch.float64))
Y = torch.tensor([1.2, -0.4], dtype=torch.float64)
ESTIMATE = torch.tensor([[0.682033, -0.576369, 0.372960]], dtype=torch.float64)  # LG3's, at x = (1, -1, .5), sigma = .7


def states(batch, *shape, dtype=torch.float64, seed=0):
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def moment(x0, process=None, t=0.7, s=0.3, **known):
    process = process or EDM()
    index = known.pop("index", range(x0.shape[0]))
    return Moment(DDIM().plan(process, [t, s])[0], x0, process, noise=NoiseSource(0, index), index=index, **known)


# ---- data consistency


@pytest.mark.parametrize(
    ("iterations", "golden"), [(1, [1.032835, -0.161924, 0.133916]), (2, [1.191852, -0.187632, 0.239133])], ids=["one", "two"]
)
def test_dds_reproduces_the_golden_data_steps(iterations, golden):
    found = DataConsistency(A, Y, iterations=iterations, gamma=5.0).after(ESTIMATE, moment(ESTIMATE, s=0.0))
    torch.testing.assert_close(found[0], torch.tensor(golden, dtype=torch.float64), rtol=0, atol=1.5e-6)


def test_with_the_noise_it_is_the_proximal_step_of_diffpir():
    # lambda = 1, measurement variance .09: argmin |Ax-y|^2/2R + |x-D|^2/2 sigma^2, solved to the end
    steer = DataConsistency(A, Y, iterations=3, noise=0.3)
    last = steer.after(ESTIMATE, moment(ESTIMATE, t=0.7, s=0.0))
    torch.testing.assert_close(last[0], torch.tensor([1.197783, -0.185025, 0.239490], dtype=torch.float64), rtol=0, atol=1.5e-6)


@pytest.mark.parametrize("process", [EDM(), VP()])
def test_editing_the_estimate_is_the_ddim_step_of_the_edited_estimate(process):
    t, s = process.t_max / 2, process.t_max / 5
    row = DDIM().plan(process, [t, s])[0]
    x, x0 = states(2, 3), states(2, 3, seed=1)
    eps = (x - row.alpha_t * x0) / row.sigma_t

    def step(clean):
        return row.alpha_s * clean + row.sigma_s * eps

    steer = DataConsistency(A, Y, iterations=2, gamma=2.0)
    steered = steer.after(step(x0), moment(x0, process, t, s))
    torch.testing.assert_close(steered, step(Proximal(A, 2)(x0, Y[None], 2.0)))


def test_on_the_noisy_state_it_works_on_the_state_without_its_scale_and_anchor():
    x, x0, anchor = states(2, 3), states(2, 3, seed=1), states(2, 3, seed=2)
    steer = DataConsistency(A, Y, iterations=3, gamma=2.0, on="noisy")
    process = OUVE()
    now = moment(x0, process, 0.5, 0.2, condition={"anchor": anchor})
    alpha, beta = now.row.alpha_s, float(process.beta(0.2))
    expected = beta * anchor + alpha * Proximal(A, 3)((x - beta * anchor) / alpha, Y[None], 2.0)
    torch.testing.assert_close(steer.after(x, now), expected)
    alpha = float(VP().alpha(0.2))
    torch.testing.assert_close(steer.after(x, moment(x0, VP(), 0.5, 0.2)), alpha * Proximal(A, 3)(x / alpha, Y[None], 2.0))


def test_without_gamma_and_noise_the_data_are_met_exactly():
    steer = DataConsistency(A, Y, iterations=3)
    x = steer.after(ESTIMATE, moment(ESTIMATE, s=0.0))
    torch.testing.assert_close(A(x), Y[None])
    # what A does not see stays: the change lies in the range of A^T
    change = x - ESTIMATE
    torch.testing.assert_close(A.adjoint(torch.linalg.lstsq(A.matrix.T, change.T).solution.T), change)
    torch.testing.assert_close(DataConsistency(A, Y, iterations=3, noise=0.0).after(ESTIMATE, moment(ESTIMATE, s=0.0)), x)


def test_gamma_follows_the_noise_level():
    steer = DataConsistency(A, Y, iterations=3, noise=0.3)
    loud, quiet = (steer.after(ESTIMATE, moment(ESTIMATE, t=t, s=0.0)) for t in (20.0, 0.01))
    assert (A(loud) - Y).norm() < 1e-3
    assert (quiet - ESTIMATE).norm() < 1e-2
    now = moment(ESTIMATE, VP(), 0.5, 0.3)
    gamma = (now.row.sigma_t / now.row.alpha_t / 0.3) ** 2
    fixed = DataConsistency(A, Y, iterations=3, gamma=gamma)
    torch.testing.assert_close(steer.after(ESTIMATE, now), fixed.after(ESTIMATE, now))


def test_the_discrepancy_rule_stops_each_sample_at_its_noise():
    operator = Diagonal(torch.logspace(0, 2, 40, dtype=torch.float64))
    truth, noise = states(2, 40), 0.5
    y = operator(truth) + noise * states(2, 40, seed=1)
    start = torch.stack([truth[0], torch.zeros(40, dtype=torch.float64)])
    steer = DataConsistency(operator, y, iterations=40, noise=noise, gamma=1e12, discrepancy=1.4)
    x = steer.after(start, moment(start, s=0.0))
    assert torch.equal(x[0], start[0])  # already within the noise
    left = (y - operator(x)).norm(dim=1)
    assert (left <= 1.4 * noise * math.sqrt(40)).all()
    full = DataConsistency(operator, y, iterations=40, gamma=1e12).after(start, moment(start, s=0.0))
    assert (y - operator(full)).norm(dim=1)[1] < left[1]


def test_each_sample_of_a_chunk_meets_its_own_measurement():
    y = states(10, 2)
    steer = DataConsistency(A, y, iterations=3)
    x = states(3, 3)
    met = steer.after(x, moment(x, s=0.0, index=range(6, 9)))
    torch.testing.assert_close(A(met), y[6:9])
    with pytest.raises(UserError, match="values for 10 samples"):
        steer.after(x, moment(x, s=0.0, index=range(9, 12)))


# ---- ADMM with total variation


def test_the_trajectory_runs_one_admm():
    # the estimate stays as the steer left it, so n steps are n outer iterations of a single call
    operator = SliceWise(Mask(torch.arange(12).reshape(3, 4) % 2 > 0), 4)
    y = operator(states(2, 4, 3, 4))
    steer = AdmmTV(operator, y, lam=0.2, rho=1.5, outer=1, cg=4)
    x, memory = torch.zeros(2, 4, 3, 4, dtype=torch.float64), {}
    for _ in range(5):
        x = steer.after(x, moment(x, s=0.0, memory=memory))
    whole, state = admm_tv(operator, y, lam=0.2, rho=1.5, outer=5, cg=4, axes=(0,), isotropic=False)
    torch.testing.assert_close(x, whole)
    torch.testing.assert_close(memory["state"], state)


def test_editing_on_the_noisy_state_is_diffusion_mbir():
    operator = Identity((5, 2))
    y, x = states(1, 5, 2), states(1, 5, 2, seed=1)
    steer = AdmmTV(operator, y, lam=0.2, rho=1.5, on="noisy", cg=1)
    expected, _ = admm_tv(operator, y, lam=0.2, rho=1.5, outer=1, cg=1, axes=(0,), isotropic=False, start=x)
    torch.testing.assert_close(steer.after(x, moment(torch.zeros_like(x), s=0.3)), expected)


def test_a_pull_keeps_it_near_the_estimate():
    operator = Identity((5, 2))
    y, x0 = states(1, 5, 2), states(1, 5, 2, seed=1)
    options = {"lam": 1e-9, "rho": 1e-3, "outer": 3, "cg": 10}
    pulled = AdmmTV(operator, y, noise=0.35, **options).after(x0, moment(x0, t=0.7, s=0.0))
    torch.testing.assert_close(pulled, (4 * y + x0) / 5, rtol=0, atol=1e-3)  # gamma = .7^2/.35^2 = 4
    torch.testing.assert_close(AdmmTV(operator, y, gamma=4.0, **options).after(x0, moment(x0, s=0.0)), pulled)


def test_rejoined_slices_are_smoother_through_the_plane():
    operator = SliceWise(Identity((3, 4)), 6)
    x0 = states(1, 6, 3, 4)
    x = AdmmTV(operator, x0, lam=1.0, rho=1.0, outer=20).after(x0, moment(x0, s=0.0))
    assert x.diff(dim=1).abs().sum() < 0.5 * x0.diff(dim=1).abs().sum()


# ---- constraints

MASK = torch.tensor([[1, 0, 0], [0, 0, 1]])
VALUE = torch.tensor([[2.0, math.nan, 0.0], [math.nan, math.nan, -1.0]])


def test_a_clean_constraint_writes_the_value_at_every_level():
    x = states(2, 2, 3)
    held = Constraint(MASK, VALUE, mode="clean").after(x, moment(x))
    assert held[:, 0, 0].tolist() == [2.0, 2.0]
    assert held[:, 1, 2].tolist() == [-1.0, -1.0]
    assert torch.equal(held[:, MASK == 0], x[:, MASK == 0])


def test_a_constraint_at_the_end_leaves_all_steps_but_the_last():
    x = states(2, 2, 3)
    steer = Constraint(MASK, VALUE, mode="end")
    assert torch.equal(steer.after(x, moment(x)), x)
    assert steer.after(x, moment(x, s=0.0))[0, 0, 0] == 2.0


@pytest.mark.parametrize("mode", ["noised", "path"])
@pytest.mark.parametrize("process", [VP(), OUVE()])
def test_a_noised_constraint_has_the_law_of_the_process(mode, process):
    count = 4000
    x = torch.zeros(count, 2, 3, dtype=torch.float64)
    now = moment(x, process, 0.7, 0.3, condition={"anchor": torch.full((1, 2, 3), 5.0, dtype=torch.float64)})
    held = Constraint(MASK, VALUE, mode=mode).after(x, now)
    alpha, beta, sigma = (float(v(0.3)) for v in (process.alpha, process.beta, process.sigma))
    known = held[:, 0, 0]
    # four standard errors
    assert abs(known.mean() - 2 * alpha - 5 * beta) < 4 * sigma / math.sqrt(count)
    assert abs(known.std() - sigma) < 4 * sigma / math.sqrt(2 * count)
    assert torch.equal(held[:, MASK == 0], x[:, MASK == 0])


def test_a_path_keeps_one_noise_and_a_noised_constraint_draws_anew():
    x, source = states(2, 2, 3), NoiseSource(0, range(2))
    for mode, draws in (("path", 1), ("noised", 2)):
        memory, before = {}, source.draws
        rows = [moment(x, t=t, s=s).row for t, s in ((0.7, 0.5), (0.5, 0.25))]
        moments = [Moment(row, x, EDM(), noise=source, index=range(2), memory=memory) for row in rows]
        first, second = (Constraint(MASK, VALUE, mode=mode).after(x, now) for now in moments)
        assert source.draws - before == draws
        straight = torch.allclose((first[:, 0, 0] - 2) / 0.5, (second[:, 0, 0] - 2) / 0.25)
        assert straight == (mode == "path")


def test_the_last_step_writes_the_value_and_draws_nothing():
    x = states(2, 2, 3)
    for process in (EDM(), VP()):
        now = moment(x, process, 0.7, 0.0)
        assert Constraint(MASK, VALUE).after(x, now)[0, 0, 0] == 2.0
        assert now.noise.draws == 0


def test_masks_and_values_may_differ_from_sample_to_sample():
    x = states(2, 2, 3)
    mask = torch.stack([MASK, 1 - MASK])
    held = Constraint(mask, torch.tensor([1.0, 2.0]).view(2, 1, 1).expand(2, 2, 3), mode="clean").after(x, moment(x))
    assert (held[0][MASK == 1] == 1).all()
    assert (held[1][MASK == 0] == 2).all()
    number = Constraint(MASK, 3.0, mode="clean").after(x, moment(x))
    assert (number[:, MASK == 1] == 3).all()


def test_a_leaf_of_a_dict_state_is_steered_alone():
    process = Joint({"tissue": EDM(), "haze": EDM()})
    x = {"tissue": states(2, 2, 3), "haze": states(2, 2, 3, seed=1)}
    row = DDIM().plan(process, [0.7, 0.3])[0]
    now = Moment(row, x, process, noise=NoiseSource(0, range(2)), index=range(2))
    for steer in (Constraint(MASK, VALUE), DataConsistency(Mask(MASK), torch.zeros(2, 3), noise=0.1)):
        steered = OnLeaf("tissue", steer).after(x, now)
        alone = steer.after(x["tissue"], moment(x["tissue"], t=0.7, s=0.3))
        torch.testing.assert_close(steered["tissue"], alone)
        assert steered["haze"] is x["haze"]
        now.noise = NoiseSource(0, range(2))
        with pytest.raises(UserError, match="wrap it as OnLeaf"):
            steer.after(x, now)
    with pytest.raises(UserError, match="no leaf 'bone'"):
        OnLeaf("bone", Constraint(MASK, VALUE)).after(x, now)


# ---- every steer

VOLUME = SliceWise(Mask(torch.tensor([[1, 0, 1], [0, 1, 1]])), 4)
HARD = torch.tensor([1.0, 1e3, 1e-3]).view(3, 1, 1, 1)
MEASURED = VOLUME(states(3, 4, 2, 3, dtype=torch.float32) * HARD)
STEERS = {
    "constraint-noised": lambda y: Constraint(torch.tensor([1.0, 0, 0, 1]).view(4, 1, 1).expand(4, 2, 3), y),
    "constraint-path": lambda y: Constraint(torch.tensor([1.0, 0, 0, 1]).view(4, 1, 1).expand(4, 2, 3), y, mode="path"),
    "consistency": lambda y: DataConsistency(VOLUME, y, iterations=3, gamma=2.0),
    "consistency-noise": lambda y: DataConsistency(VOLUME, y, iterations=5, noise=0.1, tolerance=1e-2),
    "consistency-discrepancy": lambda y: DataConsistency(VOLUME, y, iterations=5, noise=0.1, discrepancy=1.0),
    "consistency-noisy": lambda y: DataConsistency(VOLUME, y, on="noisy"),
    "admm": lambda y: AdmmTV(VOLUME, y, lam=0.1, rho=2.0),
    "admm-isotropic": lambda y: AdmmTV(VOLUME, y, lam=0.1, rho=2.0, axes=None, isotropic=True, outer=2, noise=0.3),
    "admm-noisy": lambda y: AdmmTV(VOLUME, y, lam=0.1, rho=2.0, on="noisy", boundary="periodic"),
}


@pytest.mark.parametrize("make", STEERS.values(), ids=STEERS.keys())
@pytest.mark.parametrize("process", [EDM(), VP()], ids=["edm", "vp"])
def test_problems_of_one_batch_do_not_influence_each_other(make, process):
    x, x0 = (states(3, 4, 2, 3, dtype=torch.float32, seed=seed) * HARD for seed in (1, 2))
    times = [(0.7, 0.5), (0.5, 0.3), (0.3, 0.0)]

    def run(rows):
        memory, noise, out = {}, NoiseSource(0, rows), []
        for t, s in times:
            now = Moment(DDIM().plan(process, [t, s])[0], x0[rows], process, noise=noise, index=rows, memory=memory)
            out.append(make(MEASURED).after(x[rows] / (1 + t), now))
        return torch.stack(out, 1)

    together = run([0, 1, 2])
    for i in range(3):
        assert torch.equal(run([i]), together[i : i + 1])
    assert torch.equal(run([2, 0, 1]), together[[2, 0, 1]])
    assert torch.isfinite(together).all()


class Shrinking(Denoiser):
    """The exact denoiser of independent unit normals, elementwise."""

    def __init__(self, process):
        super().__init__(process, (4, 2, 3))

    def forward(self, x, t, condition=None):
        assert condition is None or "measurement" not in condition
        alpha, sigma = float(self.process.alpha(t)), float(self.process.sigma(t))
        return x * (alpha / (alpha**2 + sigma**2))


@pytest.mark.parametrize("process", [EDM(), VP()], ids=["edm", "vp"])
@pytest.mark.parametrize("solver", ["ddim", "ddim:eta=0.85,kind=dds", "dpm++2m"])
@pytest.mark.parametrize("part", [*STEERS, "dps", "proximal"])
def test_a_whole_run_does_not_depend_on_its_chunks(part, solver, process):
    guides = {"dps": DPS(VOLUME, "measurement", weight=0.1), "proximal": ProximalData(VOLUME, "measurement", noise=0.1)}
    given = {
        "guides": [guides[part]] if part in guides else [],
        "steers": [] if part in guides else [STEERS[part](MEASURED)],
        "condition": {"measurement": MEASURED} if part in guides else None,
    }
    whole, chunked = (sample(Shrinking(process), 3, solver=solver, grid="karras:4", batch=size, **given) for size in (None, 2))
    assert torch.isfinite(whole.x).all()
    assert torch.equal(whole.x, chunked.x)
    assert whole.nfe == 4


def test_in_the_limit_of_no_noise_every_run_ends_on_the_data():
    for guides, steers in (([ProximalData(VOLUME, MEASURED[:1])], []), ([], [DataConsistency(VOLUME, MEASURED[:1])])):
        x = sample(Shrinking(VP()), 2, solver="dpm++2m", grid="karras:6", guides=guides, steers=steers).x
        torch.testing.assert_close(VOLUME(x), MEASURED[:1].expand(2, 4, 2, 3), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", STEERS.values(), ids=STEERS.keys())
def test_a_steer_overwrites_neither_state_nor_estimate_and_keeps_the_dtype(make):
    for dtype in (torch.float32, torch.float64):
        x, x0 = states(3, 4, 2, 3, dtype=dtype, seed=1), states(3, 4, 2, 3, dtype=dtype, seed=2)
        kept = x.clone(), x0.clone()
        steered = make(MEASURED).after(x, moment(x0))
        assert (steered.dtype, steered.shape) == (dtype, x.shape)
        assert torch.equal(x, kept[0])
        assert torch.equal(x0, kept[1])


@pytest.mark.parametrize("make", STEERS.values(), ids=STEERS.keys())
def test_every_steer_says_how_exact_it_is(make):
    assert len(make(MEASURED).exactness) > 20


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: DataConsistency(A, Y, gamma=0.0), "gamma must be above 0"),
        (lambda: DataConsistency(A, Y, noise=-0.1), "noise of a measurement"),
        (lambda: DataConsistency(A, Y, on="both"), "on is 'clean' or 'noisy'"),
        (lambda: DataConsistency(A, Y, iterations=0), "iterations >= 1"),
        (lambda: DataConsistency(A, Y, discrepancy=1.0), "discrepancy rule needs"),
        (lambda: DataConsistency(A, torch.zeros(3)), "has shape"),
        (lambda: DataConsistency(A, torch.tensor([1.0, torch.inf])), "not finite"),
        (lambda: AdmmTV(VOLUME, MEASURED, lam=0.0, rho=1.0), "lam and rho above 0"),
        (lambda: AdmmTV(Identity((2, 3)), torch.zeros(2, 3), lam=1.0, rho=1.0, boundary="periodic"), "use the boundary 'neumann'"),
        (lambda: AdmmTV(SliceWise(Identity((2, 3)), 1), torch.zeros(1, 2, 3), lam=1.0, rho=1.0), "has one element"),
        (lambda: AdmmTV(VOLUME, MEASURED, lam=1.0, rho=1.0, noise=-1.0), "noise of a measurement"),
        (lambda: Constraint(MASK, torch.full((2, 3), math.nan)), "must be finite"),
        (lambda: Constraint(MASK, 1.0, mode="soft"), "mode of a Constraint"),
        (lambda: Constraint(MASK, 1.0).after(states(1, 2, 3), replace(moment(states(1, 2, 3)), noise=None)), "needs noise"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()
