"""Exact inversion: round trips, orders, what the noisy end looks like, noise maps, and editing from an inversion."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest
import torch

import unstir
from unstir import names
from unstir.certify import GaussianOracle, JointOracle, checks, gm4, gm4_points
from unstir.certify.distances import energy_distance
from unstir.certify.laws import classes3, gaussian, ring8
from unstir.errors import SamplingDiverged, UserError
from unstir.grid import Karras, LogSNR
from unstir.guide import CFG
from unstir.noise import NoiseSource
from unstir.process import EDM, OUVE, SBVE, VP, Process, RectifiedFlow, SubVP, VPCosine, VPLogistic, VPTable
from unstir.solver import BDIA, DDIM, EDICT, DDIMInversion, Memory, NoiseMaps, Reversible, ReversibleHeun, ReversibleSDE
from unstir.steer import DirectInversion, EtaNoise

PROCESSES: list[Process] = [EDM(), VP(), VPCosine(), SubVP(), RectifiedFlow(), OUVE(), SBVE(), VPTable("linear", zero_terminal=True)]
EXACT = ["bdia", "bdia-published", "edict", "edict-published", "reversible-heun", "reversible-heun:eps", "dpm-encoder"]
EXACT += ["dpm-encoder:eta=0.5"]
# (state, table of steps) shared by the tests: 24 exact draws of the law
DATA = gm4().draw(24, torch.Generator().manual_seed(0))


def anchor_of(process: Process) -> dict[str, torch.Tensor] | None:
    return {"anchor": torch.tensor([[0.3, -0.2]], dtype=torch.float64)} if process.anchored else None


def round_trip(denoiser: Any, x: Any, solver: str, grid: Any, **options: Any) -> tuple[unstir.Inversion, unstir.Samples]:
    there = unstir.invert(denoiser, x, solver=solver, grid=grid, **options)
    count = len(there)
    return there, unstir.sample(denoiser, count, solver=solver, grid=there.grid, start=there.start, **options)


def worst(found: unstir.Samples, x: torch.Tensor) -> float:
    return (found.x - x).abs().max().item()  # type: ignore[operator]


@pytest.mark.parametrize("solver", EXACT)
@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_a_round_trip_from_data_is_exact_to_rounding(solver: str, process: Process) -> None:
    for steps in (20, 50):
        there, back = round_trip(gm4(process), DATA, solver, f"karras:{steps}", condition=anchor_of(process))
        # rounding of a state of size 80 is 1e-14, and the variables "eps" are divided by alpha (down to .0066) on the way
        limit = 1e-10 if "published" in solver or "eps" in solver else 1e-11
        assert worst(back, DATA) < limit, (steps, worst(back, DATA))
        assert torch.isfinite(there.x).all()  # type: ignore[arg-type]


@pytest.mark.parametrize("solver", ["bdia", "edict", "reversible-heun", "dpm-encoder"])
@pytest.mark.parametrize("steps", [20, 50])
def test_a_guided_round_trip_is_exact_to_rounding(solver: str, steps: int) -> None:
    denoiser = classes3(VP())
    x = denoiser.draw(30, torch.Generator().manual_seed(0))
    guides, condition = [CFG(5.0, null={"class": torch.full((1,), -1)})], {"class": torch.arange(30) % 3}
    grid = [float(t) for t in np.linspace(1, 1e-3, steps + 1)]
    _, back = round_trip(denoiser, x, solver, grid, guides=guides, condition=condition)
    assert worst(back, x) < 1e-11


def test_without_what_the_solver_remembers_the_round_trip_is_not_exact() -> None:
    for solver in ("bdia", "edict", "reversible-heun", "dpm-encoder"):  # the planted fault of the tests above
        there = unstir.invert(gm4(VP()), DATA, solver=solver, grid="karras:20")
        back = unstir.sample(gm4(VP()), len(DATA), solver=solver, grid=there.grid, start=there.start[:2])
        assert worst(back, DATA) > 1e-4, solver


def test_float32_round_trips_lose_what_rounding_takes() -> None:
    x = DATA.float()
    for solver in ("bdia", "edict", "reversible-heun"):
        _, back = round_trip(gm4(VP()), x, solver, "karras:50")
        assert back.x.dtype == torch.float32  # type: ignore[union-attr]
        assert worst(back, x) < 1e-4  # 50 steps of rounding at 1e-7, some of it amplified


def test_bdia_at_gamma_0_is_ddim_and_has_no_inverse() -> None:
    start = (gm4_points(80.0, 8), 80.0)
    plain, bdia = (unstir.sample(gm4(), 8, solver=solver, grid="karras:20", start=start).x for solver in (DDIM(), BDIA(gamma=0.0)))
    torch.testing.assert_close(bdia, plain, rtol=1e-12, atol=1e-13)
    with pytest.raises(UserError, match="no inverse"):
        unstir.invert(gm4(), DATA, solver=BDIA(gamma=0.0))


ORDERED = [BDIA(), BDIA(scale=None), BDIA(gamma=0.5), EDICT(), EDICT(0.93, "eps"), ReversibleHeun(), ReversibleHeun("eps")]


@pytest.mark.parametrize("solver", ORDERED, ids=repr)
@pytest.mark.parametrize("process", [EDM(), VP(), OUVE()], ids=repr)
def test_reversible_solvers_have_the_order_they_declare(solver: Reversible, process: Process) -> None:
    found = checks.order(solver, process)
    assert found.passed, found


# Error against NFE 5, 10, 20 on GM4, sigma 80 -> .002, Karras grid, median of 512 points: the published methods and ours.
TABLE = [("bdia-published", "3.2 .41 .12"), ("reversible-heun:eps", ".95 .076 .016")]
BOUND = {"bdia": (0.2, 0.13, 0.026), "reversible-heun": (0.23, 0.07, 0.016), "reversible-heun:scale=.8": (0.17, 0.05, 0.0095)}


@functools.cache
def flow() -> tuple[torch.Tensor, torch.Tensor]:
    x = gm4_points(80.0, 512)
    return x, gm4().transport(x, 80.0, 0.002, steps=600)


def errors(solver: str) -> list[float]:
    x, end = flow()
    grids = [Karras(n, sigma_max=80.0, sigma_min=0.002, to_zero=False) for n in (5, 10, 20)]
    runs = [unstir.sample(gm4(), 512, solver=solver, grid=grid, start=(x, 80.0)).x for grid in grids]
    return [torch.linalg.vector_norm(run - end, dim=1).median().item() for run in runs]  # type: ignore[operator]


@pytest.mark.parametrize(("solver", "printed"), TABLE, ids=str)
def test_reversible_solvers_reproduce_their_published_errors(solver: str, printed: str) -> None:
    for error, digits in zip(errors(solver), printed.split(), strict=True):
        assert error == pytest.approx(float(digits), rel=0.04)  # two digits are printed


def test_states_of_one_size_make_reversible_solvers_better_at_few_steps() -> None:
    for solver, bounds in BOUND.items():
        assert all(error <= bound for error, bound in zip(errors(solver), bounds, strict=True)), solver
    # exact invertibility says nothing of quality: the published EDICT is far away at 20 evaluations, and exact
    assert errors("edict-published")[1] > 10
    assert errors("edict")[1] < 0.3


def test_bdia_samples_are_better_than_ddims_also_under_guidance() -> None:
    law = ring8(VP())
    start = (torch.randn(200, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64), 1.0)

    def run(solver: str, steps: int) -> torch.Tensor:
        grid = [float(t) for t in np.linspace(1, 1e-3, steps + 1)]
        return unstir.sample(law, 200, solver=solver, grid=grid, start=start).x  # type: ignore[return-value]

    exact = run("f4", 600)
    error = {(s, n): (run(s, n) - exact).square().mean().sqrt().item() for s in ("bdia-published", "ddim") for n in (20, 50)}
    assert error["bdia-published", 20] == pytest.approx(0.023, rel=0.25)  # RMS over 200 points of a law with eight modes
    assert error["ddim", 20] == pytest.approx(0.058, rel=0.25)
    assert error["bdia-published", 50] < error["ddim", 50] / 4


def test_the_noisy_end_of_an_inversion_looks_like_noise() -> None:
    process = VP()
    x = gm4().draw(400, torch.Generator().manual_seed(1))
    prior = float(process.sigma(1.0)) * torch.randn(400, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for solver in ("bdia", "edict", "reversible-heun", "dpm-encoder", "ddim-inversion:iterations=3"):
        there = unstir.invert(gm4(process), x, solver=solver, grid="karras:50")
        assert energy_distance(there.x, prior) < 0.02, solver  # type: ignore[arg-type]  # two sets of 400 draws differ by .005
        assert energy_distance(x, prior) > 0.05


def test_ddim_inversion_is_approximate_and_its_iterations_help() -> None:
    # RMS round trip on M8 from t = 1 to .001: measured .136/.050/.026 (linear), .109/.045/.022 (cosine), .243/.070/.032 and
    # .128/.044/.021 (logistic k=15, t0=.6 and k=10, t0=.5) at 20/50/100 steps; the logistic schedule is not better as such
    table = [(VP(), 1.0, (0.128, 0.049, 0.024)), (VPCosine(), 0.999, (0.109, 0.043, 0.022))]
    table += [(VPLogistic(15.0, 0.6), 1.0, (0.245, 0.067, 0.031)), (VPLogistic(10.0, 0.5), 1.0, (0.123, 0.042, 0.020))]
    x = ring8().draw(500, torch.Generator().manual_seed(0))

    def rms(process: Process, high: float, steps: int, iterations: int = 0) -> float:
        low = 0.0 if isinstance(process, VPLogistic) else 1e-3
        grid = [float(t) for t in np.linspace(high, low, steps + 1)]
        _, back = round_trip(ring8(process), x, f"ddim-inversion:iterations={iterations}", grid)
        return (back.x - x).square().mean().sqrt().item()  # type: ignore[operator]

    for process, high, measured in table:
        for steps, value in zip((20, 50, 100), measured, strict=True):
            assert rms(process, high, steps) == pytest.approx(value, rel=0.15), (process, steps)  # one seed against another
        assert rms(process, high, 50, 3) < 0.3 * rms(process, high, 50)  # .012, .004, .006 and .001
    assert VPLogistic(10.0, 0.5).rho(0.0) > 0.08  # what the gentle schedule pays with: noise left in the data


def last_memory(solver: Reversible, rows: Any, model: Any, x: torch.Tensor, noise: Any) -> tuple[torch.Tensor, Memory]:
    memory = Memory(noise)
    for row in rows:
        x = solver.step(x, row, model, memory)  # type: ignore[assignment]
    return x, memory


@pytest.mark.parametrize("mix", [0.9, 0.999, 1.0])
def test_the_reversible_sde_comes_back_to_its_start_along_its_own_noise(mix: float) -> None:
    solver, process = ReversibleSDE(mix), EDM()
    rows = solver.plan(process, Karras(60, sigma_max=20.0, sigma_min=0.02, to_zero=False).times(process))
    start = gm4_points(20.0, 32)
    source = NoiseSource(5, range(32))
    drawn = [source.draw((2,), torch.float64) for _ in rows]
    model = lambda z, t: gm4()(z, t)  # noqa: E731
    x, memory = last_memory(solver, rows, model, start.clone(), iter(drawn).__next__)
    assert torch.linalg.vector_norm(x[:, None] - gm4().means, dim=2).min(1).values.max() < 1.5  # at a mode, each
    memory = Memory(iter(drawn[::-1]).__next__, None, {"partner": memory["partner"]})
    for row in reversed(rows):
        x = solver.back(x, row, model, memory)  # type: ignore[assignment]
    assert (x - start).abs().max() < 1e-6 / mix**60  # rounding (1e-15 of a state of size 20) times (20/.02)^2, over mix^60


def test_the_reversible_sde_round_trip_from_data_uses_the_seeds_noise() -> None:
    for process in (VP(), EDM(), RectifiedFlow(), SBVE()):
        there, back = round_trip(gm4(process), DATA, "reversible-sde", "karras:30", seed=9, condition=anchor_of(process))
        scale = there.x.abs().max().item()  # type: ignore[union-attr]
        # a path of noise that does not belong to the data is undone by a start far out: the SDE forgets its start at (rho_T/rho_0)^2
        assert worst(back, DATA) < 1e-6, (process, scale)
        options: dict[str, Any] = {"grid": there.grid, "start": there.start, "condition": anchor_of(process)}
        other = unstir.sample(gm4(process), len(DATA), solver="reversible-sde", seed=8, **options)
        assert worst(other, DATA) > 1e-2


@pytest.mark.parametrize("process", [EDM(), VP(), RectifiedFlow()], ids=repr)
def test_the_reversible_sde_samples_well_and_converges(process: Process) -> None:
    times = {n: LogSNR(n, sigma_max=50.0, sigma_min=0.005, to_zero=False).times(process) for n in (60, 120, 240, 480)}

    def gap(solver: Any, n: int) -> float:  # by exact affine recursions: no sampling error
        return abs(checks.variance_ratio(solver, process, times[n], 0.25) - 1)

    assert gap(ReversibleSDE(), 60) < gap("ancestral", 60) / 20  # .0025 against .072
    assert math.log2(gap(ReversibleSDE(mix=1.0), 120) / gap(ReversibleSDE(mix=1.0), 240)) > 1.8  # better than the first order of a half
    assert gap(ReversibleSDE(mix=0.9), 480) < 0.007 < gap(ReversibleSDE(mix=0.9), 120)


def test_euler_steps_in_sigma_squared_would_be_as_reversible_and_blow_up() -> None:
    levels = Karras(60, sigma_max=20.0, sigma_min=0.02, to_zero=False).times(EDM())
    law, zeta = ring8(), 0.999
    x = start = law.marginal(64, 20.0, seed=0)
    y, generator = x, torch.Generator().manual_seed(1)

    def change(z: torch.Tensor, t: float, s: float) -> torch.Tensor:
        return (law(z, t) - z) / t**2 * (t**2 - s**2)

    for t, s in zip(levels, levels[1:], strict=False):
        w = math.sqrt(t**2 - s**2) * torch.randn(64, 2, generator=generator, dtype=torch.float64)
        x = zeta * x + (1 - zeta) * y + change(y, t, s) + w
        y = y - change(x, s, t) + w
    far = torch.linalg.vector_norm(x[:, None] - law.means, dim=2).min(1).values.mean()
    ours = unstir.sample(law, 64, solver="reversible-sde", grid=levels, start=(start, 20.0)).x
    near = torch.linalg.vector_norm(ours[:, None] - law.means, dim=2).min(1).values.mean()  # type: ignore[index]
    assert far > 100
    assert near == pytest.approx(0.3 * math.sqrt(math.pi / 2), abs=0.1)  # the mean distance of N(0, .3^2) in the plane is .376


def test_the_encoder_finds_the_noises_of_the_reverse_chain() -> None:
    process, variance, count = VP(), 0.25, 4000
    law = GaussianOracle(torch.zeros(1), torch.full((1,), variance), process)
    times = names.grid("karras:40").times(process)[:-1]
    x = law.marginal(count, times[-1], seed=4)
    there = unstir.invert(law, x, solver="dpm-encoder", grid=times, seed=2)
    draws = torch.stack(there.memory["noise"])
    assert draws.shape == (39, count, 1)
    for row, z in zip(DDIM(eta=1.0).plan(process, times), draws, strict=True):
        unsure = variance * row.sigma_t**2 / (row.alpha_t**2 * variance + row.sigma_t**2)  # Var[x0 | x_t], which d leaves out
        expected = math.sqrt(1 + row.c[1] ** 2 * unsure / row.c[2] ** 2)
        assert z.std().item() == pytest.approx(expected, rel=4 / math.sqrt(2 * count))  # four standard errors
    assert there.x.std() == pytest.approx(1, abs=4 / math.sqrt(2 * count))  # type: ignore[union-attr]


def test_two_models_translate_through_one_latent_and_keep_what_they_share() -> None:
    law = ring8(VP())
    turned = type(law)(torch.ones(8), -law.means * 0.5, law.variances.sqrt() * 0.5, VP())  # the inverted, smaller ring
    x = law.draw(300, torch.Generator().manual_seed(1))
    there = unstir.invert(law, x, solver="dpm-encoder", grid="karras:40", seed=1)
    y = unstir.sample(turned, 300, solver="dpm-encoder", grid=there.grid, start=there.start).x
    angle = torch.nn.functional.cosine_similarity(x, y, dim=1).mean()  # type: ignore[arg-type]
    shuffled = torch.nn.functional.cosine_similarity(x, y.roll(1, 0), dim=1).mean()  # type: ignore[union-attr, arg-type]
    assert torch.linalg.vector_norm(y, dim=1).mean() == pytest.approx(2, abs=0.1)  # type: ignore[arg-type]
    assert angle > 0.5  # it is the noise that is shared, hence the direction
    assert abs(shuffled) < 0.15


def test_chunks_and_neighbours_do_not_change_an_inversion() -> None:
    for solver in ("bdia", "reversible-sde", "dpm-encoder", "ddim-inversion"):
        whole = unstir.invert(gm4(VP()), DATA, solver=solver, grid="karras:10", trace=True)
        parts = unstir.invert(gm4(VP()), DATA, solver=solver, grid="karras:10", trace=True, batch=7)
        assert torch.equal(whole.x, parts.x), solver  # type: ignore[arg-type]
        assert len(whole.path) == len(parts.path) == len(whole.times) == 10  # type: ignore[arg-type]
        assert all(torch.equal(a, b) for a, b in zip(whole.path, parts.path, strict=True)), solver  # type: ignore[arg-type]
        assert torch.equal(whole.path[-1], DATA)  # type: ignore[index, arg-type]
        assert whole.nfe == parts.nfe
        again = unstir.sample(gm4(VP()), len(DATA), solver=solver, grid=whole.grid, start=parts.start, batch=5)
        straight = unstir.sample(gm4(VP()), len(DATA), solver=solver, grid=whole.grid, start=whole.start)
        assert torch.equal(again.x, straight.x)  # type: ignore[arg-type]


def test_an_inversion_may_be_used_twice() -> None:
    there = unstir.invert(gm4(VP()), DATA, solver="bdia", grid="karras:12")
    runs = [unstir.sample(gm4(VP()), len(DATA), solver="bdia", grid=there.grid, start=there.start).x for _ in range(2)]
    assert torch.equal(runs[0], runs[1])  # type: ignore[arg-type]


def test_a_joint_state_with_shared_time_goes_there_and_back() -> None:
    parts = {"a": gaussian(3, process=VP()), "b": gaussian(2, process=RectifiedFlow())}
    x = {leaf: law.draw(5, torch.Generator().manual_seed(0)) for leaf, law in parts.items()}
    denoiser = JointOracle(parts)
    for solver in ("bdia", "edict", "reversible-heun", "dpm-encoder"):
        _, back = round_trip(denoiser, x, solver, "uniform:20")
        assert all((back.x[leaf] - x[leaf]).abs().max() < 1e-11 for leaf in x), solver  # type: ignore[index, call-overload]


def test_inversion_refuses_what_it_cannot_do() -> None:
    with pytest.raises(UserError, match="cannot be inverted; reversible solvers are"):
        unstir.invert(gm4(), DATA, solver="heun")
    with pytest.raises(UserError, match="at least two times"):
        unstir.invert(gm4(), DATA, grid=[80.0, 0.0])
    with pytest.raises(UserError, match="batch"):
        unstir.invert(gm4(), DATA, batch=0)
    with pytest.raises(SamplingDiverged, match="sample 1"):
        unstir.invert(gm4(), torch.stack([DATA[0], DATA[0] / 0]), solver="bdia")
    wrong: list[Any] = [lambda: BDIA(gamma=1.5), lambda: BDIA(scale=0.0), lambda: EDICT(mix=0.5), lambda: EDICT(output="x0")]  # type: ignore[arg-type]
    wrong += [lambda: ReversibleHeun("v"), lambda: ReversibleSDE(0.0), lambda: NoiseMaps(eta=0.0), lambda: DDIMInversion(-1)]  # type: ignore[arg-type]
    for make in (*wrong, lambda: NoiseMaps(temperature=0.5)):
        with pytest.raises(UserError):
            make()


def test_no_samples_invert_to_none() -> None:
    there = unstir.invert(gm4(VP()), DATA[:0], solver="bdia")
    assert len(there) == 0
    assert there.nfe == 0


def test_every_reversible_solver_undoes_its_own_steps() -> None:
    model = lambda z, t: gm4(VP())(z, t)  # noqa: E731
    for name in names.known("solver"):
        solver = names.solver(name)
        if not isinstance(solver, Reversible) or isinstance(solver, NoiseMaps) or not solver.exact:
            continue
        rows = solver.plan(VP(), [0.9, 0.7, 0.5, 0.3])
        draws = [torch.full((3, 2), 0.1 * k, dtype=torch.float64) for k in range(3)]
        start = gm4_points(1.0, 3)
        x, memory = last_memory(solver, rows, model, start.clone(), iter(draws).__next__)
        back = Memory(iter(draws[::-1]).__next__, None, dict(memory))
        for row in reversed(rows):
            x = solver.back(x, row, model, back)  # type: ignore[assignment]
        assert (x - start).abs().max() < 1e-12, name


def test_direct_inversion_keeps_the_source_and_leaves_the_target_alone() -> None:
    law, n, steps = classes3(VP()), 20, 25
    x = law.given(0).draw(n, torch.Generator().manual_seed(0))
    grid = [float(t) for t in np.linspace(1, 1e-3, steps + 1)]
    source, target = torch.zeros(n, dtype=torch.int64), torch.full((n,), 2)
    there = unstir.invert(law, x, solver="ddim-inversion", grid=grid, condition={"class": source}, trace=True)
    assert there.nfe == steps  # the cost is that of one inversion
    start, condition = (torch.cat([there.x, there.x]), there.times[0]), {"class": torch.cat([source, target])}  # type: ignore[list-item]
    options: dict[str, Any] = {"solver": "ddim", "grid": there.grid, "start": start, "condition": condition}
    plain = unstir.sample(law, 2 * n, **options)
    corrected = unstir.sample(law, 2 * n, steers=[DirectInversion(there.path)], **options)  # type: ignore[arg-type]
    assert (corrected[:n] - x).abs().max() < 1e-12  # type: ignore[operator]
    assert (plain[:n] - x).abs().max() > 1e-3  # type: ignore[operator]
    assert torch.equal(corrected[n:], plain[n:])  # type: ignore[arg-type]
    chunked = unstir.sample(law, 2 * n, steers=[DirectInversion(there.path)], batch=7, **options)  # type: ignore[arg-type]
    assert torch.equal(chunked.x, corrected.x)  # type: ignore[arg-type]


def test_eta_noise_after_ddim_is_ddim_with_that_eta() -> None:
    for process in (VP(), EDM(), OUVE(), VPCosine()):
        for eta in (0.0, 0.4, 1.0):
            options: dict[str, Any] = {"grid": "karras:12", "condition": anchor_of(process)}
            steered = unstir.sample(gm4(process), 6, solver="ddim", steers=[EtaNoise(eta)], **options).x
            own = unstir.sample(gm4(process), 6, solver=DDIM(eta=eta), **options).x
            torch.testing.assert_close(steered, own, rtol=1e-5, atol=1e-5)  # states are float32 here


def test_eta_inversion_edits_inside_its_mask_only() -> None:
    law = GaussianOracle(torch.zeros(6), torch.linspace(0.2, 1.0, 6), VP())  # elementwise: what is outside cannot learn of the inside
    n, mask = 40, torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.0, 0.0]])
    x = law.draw(1, torch.Generator().manual_seed(0)).expand(n, 6)
    there = unstir.invert(law, x, solver="ddim-inversion", grid="karras:40", trace=True)
    runs = []
    for eta in (0.0, 0.1, 0.2, 0.4):
        steers = [EtaNoise(lambda rho, eta=eta: eta * min(rho, 1.0) ** 0.2, mask)]  # less at low noise
        runs.append(unstir.sample(law, n, solver="ddim", grid=there.grid, start=there.start, steers=steers, seed=3).x)
    outside = [run[:, 3:] for run in runs]
    assert all(torch.equal(part, outside[0]) for part in outside)
    diversity = [torch.cdist(run[:, :3], run[:, :3]).mean().item() for run in runs]
    assert diversity[0] < 1e-12
    assert diversity == sorted(diversity)
    assert diversity[-1] > 0.5  # eta near 1 adds no more: the start is forgotten, and at 40 steps ancestral noise falls short by a tenth
    both = [EtaNoise(1.0, mask), DirectInversion(there.path)]  # type: ignore[arg-type]
    kept = unstir.sample(law, 2 * n, solver="ddim", grid=there.grid, start=(there.x.repeat(2, 1), there.times[0]), steers=both)  # type: ignore[union-attr]
    assert (kept[:n] - x).abs().max() < 1e-12  # type: ignore[operator]
    assert torch.cdist(kept[n:, :3], kept[n:, :3]).mean() > 0.5  # type: ignore[call-overload]


def test_eta_noise_keeps_the_law_of_an_exact_denoiser() -> None:
    law = GaussianOracle(torch.zeros(2), torch.full((2,), 0.25), EDM())
    grid = LogSNR(100, sigma_max=40.0, sigma_min=0.01, to_zero=False)
    mask = torch.tensor([[1.0, 0.0]])
    start = (law.marginal(1500, 40.0, seed=1), 40.0)
    x = unstir.sample(law, 1500, solver="ddim", grid=grid, start=start, steers=[EtaNoise(1.0, mask)]).x
    expected = [checks.variance_ratio(f"ddim:eta={eta}", EDM(), grid.times(EDM()), 0.25) for eta in (1.0, 0.0)]
    found = x.std(dim=0) / math.sqrt(0.25 + 0.01**2)  # type: ignore[union-attr]
    assert found.tolist() == pytest.approx(expected, rel=4 / math.sqrt(2 * 1500))  # four standard errors; both tend to 1
    assert expected == pytest.approx([1, 1], abs=0.08)


def test_editing_steers_refuse_what_does_not_fit() -> None:
    with pytest.raises(UserError, match="needs the path"):
        DirectInversion([])
    with pytest.raises(UserError, match="sample on its grid"):
        unstir.sample(gm4(), 2, grid="karras:4", steers=[DirectInversion([DATA[:2]])])
    for wrong in (lambda: EtaNoise(1.2), lambda: EtaNoise(0.5, torch.tensor([[2.0]]))):
        with pytest.raises(UserError):
            wrong()


@pytest.mark.parametrize("solver", ["bdia", "bdia:gamma=0.8", "edict", "reversible-heun", "reversible-sde"])
@pytest.mark.parametrize("process", [EDM(), VP(), VPCosine()], ids=repr)
def test_the_adjoint_gradient_is_that_of_automatic_differentiation(solver: str, process: Process) -> None:
    law, made, grid = gm4(process), names.solver(solver), "karras:12"
    t = process.t_max
    start = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * float(process.sigma(t))
    goal = torch.tensor([[0.5, -0.5]], dtype=torch.float64)
    samples, found = unstir.pulled_back(law, (start, t), lambda x: x - goal, solver=solver, grid=grid, seed=3)
    plain = unstir.sample(law, 4, solver=solver, grid=grid, start=(start, t), seed=3).x
    torch.testing.assert_close(samples, plain, rtol=1e-12, atol=1e-12)
    source, x = NoiseSource(3, range(4)), start.clone().requires_grad_()
    memory, z = Memory(lambda: source.draw((2,), torch.float64, stream="solver")), x.clone()
    for row in made.plan(process, names.grid(grid).times(process)):
        z = made.step(z, row, lambda y, s: law(y.clone(), s), memory)
    (expected,) = torch.autograd.grad(0.5 * (z - goal).square().sum(), x)
    assert (found - expected).abs().max() < 1e-8 * max(1.0, expected.abs().max().item())  # type: ignore[operator]  # rounding of the way back


def test_gradients_are_pulled_back_along_exact_solvers_only() -> None:
    for solver in ("heun", "ddim-inversion", "dpm-encoder"):
        with pytest.raises(UserError, match="exactly reversible"):
            unstir.pulled_back(gm4(), (DATA, 80.0), lambda x: x, solver=solver)
