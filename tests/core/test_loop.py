"""The loop: a sample depends on (seed, index) alone, and every other promise of the architecture's section 2."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from unstir import loop, names, sample, stream
from unstir.certify import JointOracle, checks, gm4
from unstir.certify.solvers import refusal
from unstir.denoiser import Denoiser
from unstir.errors import SamplingDiverged, UserError
from unstir.guide import CFG, Guide
from unstir.process import EDM, OUVE, SBVE, VE, VP, Joint, RectifiedFlow
from unstir.process.base import spread
from unstir.solver import DDIM, Heun, Memory, Solver
from unstir.space import Masked
from unstir.steer.base import Steer


class Shrink(Denoiser):
    """E[x_0 | x] for unit normal data: elementwise, so that not a bit depends on the batch."""

    def __init__(self, process: Any = None, shape: Any = (3, 4), **options: Any) -> None:
        super().__init__(process or EDM(), shape, **options)
        self.calls: list[tuple[int, float]] = []

    def forward(self, x: Any, t: Any, condition: Any = None) -> Any:
        alpha, sigma = spread(self.process.alpha(t), x), spread(self.process.sigma(t), x)
        self.calls.append((x.shape[0], t))
        z = x - float(self.process.beta(t)) * condition["anchor"] if self.process.anchored else x
        return z * (alpha / (alpha**2 + sigma**2 + 1e-30))


class Function(Denoiser):
    def __init__(self, function: Any, shape: Any = (2,), process: Any = None, **options: Any) -> None:
        super().__init__(process or EDM(), shape, **options)
        self.function = function

    def forward(self, x: Any, t: Any, condition: Any = None) -> Any:
        return self.function(x, t, condition)


SOLVERS = [name for name in names.known("solver") if refusal(names.solver(name), EDM()) is None]


@pytest.mark.parametrize("name", SOLVERS)
def test_a_sample_does_not_depend_on_its_batch(name: str) -> None:
    found = checks.invariance(Shrink(), count=5, batches=(5, 1, 2, 3), solver=name, grid="karras:7", seed=3)
    assert found.passed, found


@pytest.mark.parametrize("process", [VP(), OUVE(), SBVE(), RectifiedFlow()], ids=repr)
def test_a_sample_does_not_depend_on_its_batch_on_any_process(process: Any) -> None:
    condition = {"anchor": torch.linspace(-1, 1, 60).reshape(5, 3, 4)} if process.anchored else None
    for name in ("dpm++2m", "ancestral"):
        found = checks.invariance(Shrink(process), count=5, batches=(5, 1, 2), solver=name, grid="karras:6", condition=condition)
        assert found.passed, found


def test_a_sample_does_not_depend_on_how_many_there_are() -> None:
    assert torch.equal(sample(Shrink(), 3, solver="ancestral").x, sample(Shrink(), 7, solver="ancestral").x[:3])


def test_seeds_give_different_samples_and_all_their_bits_count() -> None:
    runs = [sample(Shrink(), 1, seed=seed, grid="karras:3").x for seed in (1, 2, 1 + 2**32, -1)]
    assert len({tuple(run.flatten().tolist()) for run in runs}) == 4
    assert torch.equal(sample(Shrink(), 1, seed=1, grid="karras:3").x, runs[0])


@pytest.mark.parametrize("name", SOLVERS)
def test_global_generators_are_neither_read_nor_moved(name: str) -> None:
    torch.manual_seed(0)
    first = sample(Shrink(), 2, solver=name, grid="karras:4").x
    before = torch.get_rng_state()
    torch.manual_seed(1)
    moved = torch.get_rng_state()
    assert torch.equal(sample(Shrink(), 2, solver=name, grid="karras:4").x, first)
    assert torch.equal(torch.get_rng_state(), moved)
    assert not torch.equal(before, moved)


def test_stream_gives_the_samples_of_sample_chunk_by_chunk() -> None:
    whole = sample(Shrink(), 7, solver="ancestral", seed=2)
    chunks = list(stream(Shrink(), 7, solver="ancestral", seed=2, batch=3))
    assert [len(chunk) for chunk in chunks] == [3, 3, 1]
    assert torch.equal(torch.cat([chunk.x for chunk in chunks]), whole.x)


def test_a_stream_holds_one_chunk_at_a_time() -> None:
    denoiser = Shrink()
    chunks = stream(denoiser, 10**9, batch=2, grid="karras:2")
    assert denoiser.calls == []  # nothing before it is asked for
    next(chunks), next(chunks)
    assert [rows for rows, _ in denoiser.calls] == [2] * 4


def test_a_stream_does_not_leak_inference_mode() -> None:
    for _ in stream(Shrink(), 2, batch=1, grid="karras:2"):
        assert not torch.is_inference_mode_enabled()


def test_samples_can_be_trained_on() -> None:
    x = sample(Shrink(), 2, grid="karras:2", trace=True)
    weight = torch.ones(1, requires_grad=True)
    (weight * x.x * x.path[0] * x.estimates[0]).sum().backward()
    assert torch.isfinite(weight.grad).all()


@pytest.mark.parametrize(("name", "nfe"), [("dpm++2m", 6), ("heun", 11), ("pc", 11), ("ddim", 6), ("churn", 11)])
def test_evaluations_are_counted(name: str, nfe: int) -> None:
    denoiser = Shrink()
    found = sample(denoiser, 4, solver=name, grid="karras:6", batch=2)
    assert found.nfe == nfe
    assert sum(rows for rows, _ in denoiser.calls) == 4 * nfe


def test_guides_that_ask_twice_are_counted_twice() -> None:
    conditional = Function(lambda x, t, c: 0.5 * x + (c["label"] if c else 0.0))
    condition = {"label": torch.ones(3, 1)}
    assert sample(conditional, 3, grid="karras:5", condition=condition, guides=[CFG(2.0)]).nfe == 10
    assert sample(conditional, 3, grid="karras:5", condition=condition, guides=[CFG(1.0)]).nfe == 5


def test_guides_stack_the_first_innermost() -> None:
    class Add(Guide):
        exactness = "test"

        def __init__(self, value: float) -> None:
            self.value = value

        def estimate(self, denoiser: Any, x: Any, t: Any, condition: Any) -> Any:
            return 10 * denoiser(x, t, condition) + self.value

    found = sample(Function(lambda x, t, c: torch.zeros_like(x)), 1, grid=[1.0, 0.0], guides=[Add(1.0), Add(2.0)])
    assert torch.equal(found.x, torch.full((1, 2), 12.0))


def test_a_guide_that_differentiates_runs_outside_inference_mode() -> None:
    class Gradient(Guide):
        needs_grad = True
        exactness = "test"

        def estimate(self, denoiser: Any, x: Any, t: Any, condition: Any) -> Any:
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                (slope,) = torch.autograd.grad(denoiser(x, t, condition).square().sum(), x)
            return slope

    seen: list[bool] = []

    def half(x: Any, t: Any, c: Any) -> Any:
        seen.append(torch.is_inference_mode_enabled())
        return x / 2

    found = sample(Function(half), 2, grid=[1.0, 0.0], guides=[Gradient()])
    assert seen == [False]
    assert not found.x.requires_grad
    sample(Function(half), 2, grid=[1.0, 0.0])
    assert seen == [False, True]


def test_trace_keeps_the_path_and_the_estimates() -> None:
    found = sample(Shrink(VP()), 3, solver="ddim", grid="uniform:4", trace=True, batch=2)
    assert len(found.path) == len(found.times) == 5
    assert len(found.estimates) == 4
    assert found.path[0].shape == found.estimates[0].shape == (3, 3, 4)
    assert torch.equal(found.path[-1], found.x)
    rows = DDIM().plan(VP(), found.times)
    for row, before, after, x0 in zip(rows, found.path, found.path[1:], found.estimates, strict=False):
        a, b, _ = row.c
        torch.testing.assert_close(after, a * before + b * x0, rtol=1e-5, atol=1e-6)
    assert sample(Shrink(), 1).path is None


def test_start_begins_anywhere_and_leaves_its_state_alone() -> None:
    process = VP()
    denoiser = Shrink(process)
    whole = sample(denoiser, 2, solver="ddim", grid="uniform:10", trace=True)
    for index in (3, 9):
        state, t = whole.path[index], whole.times[index]
        copy = state.clone()
        rest = sample(denoiser, 2, solver="ddim", grid="uniform:10", start=(state, t))
        assert torch.equal(rest.x, whole.x)
        assert torch.equal(state, copy)
        assert rest.nfe == 10 - index
        assert rest.times == whole.times[index:]


def test_a_start_between_two_times_adds_a_step_from_there() -> None:
    found = sample(Shrink(VP()), 1, grid="uniform:4", start=(torch.ones(1, 3, 4), 0.6))
    assert found.times == pytest.approx([0.6, 0.5, 0.25, 0.0])


def test_one_start_serves_all_samples() -> None:
    state = torch.ones(1, 3, 4)
    found = sample(Shrink(VP()), 3, grid="uniform:4", start=(state, 0.5), solver="ancestral")
    assert found.x.shape == (3, 3, 4)
    assert not torch.equal(found.x[0], found.x[1])
    assert torch.equal(state, torch.ones(1, 3, 4))


def test_a_start_at_the_end_is_returned() -> None:
    state = torch.ones(2, 3, 4)
    found = sample(Shrink(VP()), 2, grid="uniform:4", start=(state, 0.0))
    assert torch.equal(found.x, state)
    assert found.nfe == 0


def test_conditions_have_a_row_a_sample_or_one_for_all() -> None:
    seen: list[Any] = []

    def look(x: Any, t: Any, c: Any) -> Any:
        seen.append((c["each"].flatten().tolist(), c["all"].shape[0], c["nested"]["each"].flatten().tolist(), c["word"]))
        return x / 2

    each = torch.arange(3.0)[:, None]
    condition = {"each": each, "all": torch.zeros(1, 5), "nested": {"each": each + 10}, "word": "left as it is"}
    sample(Function(look), 3, grid=[1.0, 0.0], condition=condition, batch=2)
    assert seen == [([0, 1], 1, [10, 11], "left as it is"), ([2], 1, [12], "left as it is")]
    with pytest.raises(UserError, match=r"condition 'each' must have one row a sample \(4\) or one row for all, got shape \(3, 1\)"):
        sample(Function(look), 4, grid=[1.0, 0.0], condition=condition)


@pytest.mark.parametrize("process", [OUVE(), SBVE()], ids=repr)
def test_an_anchored_process_is_its_plain_process_moved(process: Any) -> None:
    anchor = torch.tensor([[0.7, -0.3]], dtype=torch.float64)
    for name in ("dpm++2m", "ancestral"):
        with_anchor = sample(gm4(process), 4, solver=name, grid="karras:8", condition={"anchor": anchor}, trace=True)
        assert torch.isfinite(with_anchor.x).all()
        for t, state, x0 in zip(with_anchor.times, with_anchor.path, with_anchor.estimates, strict=False):
            expected = gm4(process)(state, t, {"anchor": anchor})  # the denoiser saw the state with its anchor
            torch.testing.assert_close(x0, expected, rtol=1e-9, atol=1e-9)


def test_a_missing_anchor_is_a_sentence() -> None:
    for start in (None, (torch.zeros(1, 2, dtype=torch.float64), 0.5)):
        with pytest.raises(UserError, match=r"condition\['anchor'\]"):
            sample(gm4(OUVE()), 1, start=start)


def joint(shared: bool = True) -> JointOracle:
    return JointOracle({"x": gm4(VP()), "y": gm4(RectifiedFlow())}, shared_time=shared)


@pytest.mark.parametrize("name", [name for name in SOLVERS if refusal(names.solver(name), joint().process) is None])
def test_dict_states_are_sampled_leaf_by_leaf(name: str) -> None:
    found = sample(joint(), 3, solver=name, grid="uniform:6", seed=5)
    assert set(found.x) == {"x", "y"}
    assert found.x["x"].shape == (3, 2)
    again = sample(joint(), 3, solver=name, grid="uniform:6", seed=5, batch=1)
    for leaf in found.x:
        torch.testing.assert_close(again.x[leaf], found.x[leaf], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shared", [True, False])
def test_independent_leaves_are_sampled_as_if_alone(shared: bool) -> None:
    start = torch.tensor([[0.4, -1.0], [1.2, 0.3]], dtype=torch.float64)
    denoiser = joint(shared)
    grid = names.grid("uniform:8")
    for name in ("dpm++2m", "f4", "heun", "ddim"):
        time = {"x": 1.0, "y": 1.0} if not shared else 1.0
        both = sample(denoiser, 2, solver=name, grid=grid, start=({"x": start, "y": 2 * start}, time))
        for leaf, process, state in (("x", VP(), start), ("y", RectifiedFlow(), 2 * start)):
            alone = sample(gm4(process), 2, solver=name, grid=grid, start=(state, 1.0))
            torch.testing.assert_close(both.x[leaf], alone.x, rtol=1e-12, atol=1e-12)


def test_a_leaf_may_be_anchored_and_another_not() -> None:
    denoiser = JointOracle({"clean": gm4(OUVE()), "noise": gm4(RectifiedFlow())})
    anchor = {"clean": torch.tensor([[0.2, 0.1]], dtype=torch.float64)}
    found = sample(denoiser, 2, grid="uniform:5", condition={"anchor": anchor}, solver="ancestral")
    assert torch.isfinite(found.x["clean"]).all()
    with pytest.raises(UserError, match=r"condition\['anchor'\]"):
        sample(denoiser, 2, grid="uniform:5")


class Keep(Steer):
    """Holds the first entry at a value; notes what it is told."""

    def __init__(self) -> None:
        self.moments: list[Any] = []

    def after(self, x: Any, moment: Any) -> Any:
        self.moments.append(moment)
        moment.memory["count"] = moment.memory.get("count", 0) + 1
        x = x.clone()
        x[:, 0] = 7.0
        return x


def test_steers_change_the_state_after_each_step() -> None:
    steer = Keep()
    found = sample(Function(lambda x, t, c: x / 2), 4, grid="karras:5", steers=[steer], batch=2, trace=True)
    assert (found.x[:, 0] == 7).all()
    assert all((state[:, 0] == 7).all() for state in found.path[1:])
    assert [moment.row.index for moment in steer.moments] == [0, 1, 2, 3, 4] * 2
    assert [moment.memory["count"] for moment in steer.moments[4::5]] == [5, 5]  # its own notes, per trajectory
    assert [list(moment.index) for moment in steer.moments[::5]] == [[0, 1], [2, 3]]
    assert torch.equal(steer.moments[4].x0, found.estimates[4][:2])


def test_steers_see_the_anchor_in_the_state() -> None:
    process, anchor = OUVE(), torch.tensor([[5.0, 5.0]], dtype=torch.float64)
    seen: list[Any] = []

    class Look(Steer):
        def after(self, x: Any, moment: Any) -> Any:
            seen.append(x.clone())
            return x

    found = sample(gm4(process), 2, grid="karras:4", condition={"anchor": anchor}, steers=[Look()], trace=True)
    for state, own in zip(seen, found.path[1:], strict=True):
        torch.testing.assert_close(state, own, rtol=1e-12, atol=1e-12)


def test_a_steer_that_gives_another_shape_is_refused() -> None:
    class Cut(Steer):
        def after(self, x: Any, moment: Any) -> Any:
            return x[:, :1]

    with pytest.raises(UserError, match=r"the state from Cut at step 0 must have shape \(1, 2\), got \(1, 1\)"):
        sample(Function(lambda x, t, c: x), 1, steers=[Cut()])


def test_states_stay_in_their_space() -> None:
    mask = torch.tensor([[True, True, False], [True, False, False]])

    def leaves_the_space(x: Any, t: Any, condition: Any) -> Any:
        return x / 2 + 1

    denoiser = Function(leaves_the_space, (3, 4), space=Masked())
    found = sample(denoiser, 2, solver="ancestral", grid="karras:5", condition={"mask": mask}, trace=True)
    for state in found.path:
        assert (state[~mask] == 0).all()
        assert (state[mask] != 0).all()


def test_a_state_that_stops_being_finite_is_named() -> None:
    def breaks(x: Any, t: Any, c: Any) -> Any:
        out = x / 2
        if t < 1:
            out[c["bad"][:, 0]] = float("nan")
        return out

    bad = torch.tensor([False, False, False, True])[:, None]
    times = [8.0, 4.0, 2.0, 0.5, 0.25, 0.125, 0.0]
    for batch in (None, 1, 3):
        with pytest.raises(SamplingDiverged) as caught:
            sample(Function(breaks), 4, grid=times, condition={"bad": bad}, batch=batch, solver="ddim")
        assert (caught.value.step, caught.value.time, caught.value.index) == (3, 0.25, 3)


def test_large_numbers_are_not_taken_for_divergence() -> None:
    start = (torch.full((1, 2), 3e38), 1.0)  # their sum is infinite in float32, they are not
    assert torch.isfinite(sample(Function(lambda x, t, c: x.clone()), 1, grid=[1.0, 0.5, 0.0], start=start).x).all()


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        (lambda x, t, c: x[:, :1] if t < 2 else x, r"estimate at step 2 must have shape \(2, 2\), got \(2, 1\)"),
        (lambda x, t, c: x.round().long() if t < 2 else x, "estimate at step 2 must be of a floating dtype, got torch.int64"),
        (lambda x, t, c: {"x": x}, "estimate at step 0 must be a tensor, got dict"),
        (lambda x, t, c: None, "estimate at step 0 must be a tensor, got NoneType"),
    ],
)
def test_a_denoiser_that_gives_something_else_is_named_with_its_step(function: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        sample(Function(function), 2, grid=[8.0, 4.0, 1.0, 0.0])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"count": -1}, "count must be a whole number of at least 0"),
        ({"count": 2.0}, "count must be a whole number"),
        ({"batch": 0}, "batch must be a whole number of at least 1"),
        ({"seed": 0.5}, "seed must be an integer"),
        ({"solver": "dpm++2n"}, "did you mean 'dpm"),
        ({"solver": "ddim:tau=1"}, "no option 'tau'"),
        ({"grid": "karras:0"}, "at least 1"),
        ({"start": (torch.zeros(2, 2, dtype=torch.int64), 1.0)}, "must be of a floating dtype, got torch.int64"),
        ({"start": (torch.zeros(3, 2), 1.0)}, r"one row a sample \(2\) or one row for all, got 3"),
        ({"start": (torch.zeros(2, 3), 1.0)}, r"\(batch, 2\), got \(2, 3\)"),
        ({"start": ({"x": torch.zeros(2, 2)}, 1.0)}, "takes a tensor as its state"),
        ({"grid": [0.5, 0.5, 0.0]}, "decrease"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_in_a_sentence(options: dict[str, Any], sentence: str) -> None:
    arguments = {"count": 2, **options}
    with pytest.raises(UserError, match=sentence):
        sample(Function(lambda x, t, c: x), **arguments)
    with pytest.raises(UserError, match=sentence):
        list(stream(Function(lambda x, t, c: x), **arguments))


def test_unknown_arguments_raise() -> None:
    with pytest.raises(TypeError, match="stepps"):
        sample(Shrink(), 1, stepps=3)  # type: ignore[call-arg]


def test_no_samples_are_an_empty_state() -> None:
    found = sample(Shrink(), 0, trace=True)
    assert found.x.shape == (0, 3, 4)
    assert found.nfe == 0
    assert len(found) == 0
    assert list(stream(Shrink(), 0)) == []
    assert sample(joint(), 0, grid="uniform:3").x["y"].shape == (0, 2)
    assert sample(Shrink(), 0, start=(torch.zeros(0, 3, 4), 1.0)).x.shape == (0, 3, 4)


def test_a_denoiser_of_any_size_takes_its_size_from_start_or_anchor() -> None:
    with pytest.raises(UserError, match="any size"):
        sample(Function(lambda x, t, c: x / 2, (1, -1, -1)), 1)
    start = (torch.ones(1, 1, 5, 6), 1.0)
    assert sample(Function(lambda x, t, c: x / 2, (1, -1, -1)), 2, start=start).x.shape == (2, 1, 5, 6)
    anchored = Function(lambda x, t, c: x / 2, (1, -1), process=OUVE())
    assert sample(anchored, 2, condition={"anchor": torch.zeros(1, 1, 9)}).x.shape == (2, 1, 9)


def test_the_state_is_float32_for_a_model_in_half_precision_and_float64_for_one_in_float64() -> None:
    def model(dtype: torch.dtype) -> Denoiser:
        denoiser = Function(lambda x, t, c: x.to(dtype) * 0.5)
        denoiser.weight = torch.nn.Parameter(torch.zeros(1, dtype=dtype))
        return denoiser

    for dtype, state in ((torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)):
        assert sample(model(dtype), 1, grid="karras:3").x.dtype == state


def test_a_denoiser_may_give_back_its_input_or_reuse_its_memory() -> None:
    expected = sample(Function(lambda x, t, c: x * 0.5), 2, grid="karras:6").x
    out = torch.empty(2, 2)

    def reuses(x: Any, t: Any, c: Any) -> Any:
        return torch.mul(x, 0.5, out=out)

    for solver in ("dpm++2m", "dpm++3m", "f3", "dpm++2m-sde"):
        fresh = sample(Function(lambda x, t, c: x * 0.5), 2, grid="karras:6", solver=solver).x
        assert torch.equal(sample(Function(reuses), 2, grid="karras:6", solver=solver).x, fresh)
        same = sample(Function(lambda x, t, c: x), 2, grid="karras:6", solver=solver).x
        assert torch.equal(same, sample(Function(lambda x, t, c: x.clone()), 2, grid="karras:6", solver=solver).x)
    assert torch.isfinite(expected).all()


def test_progress_counts_the_steps_of_all_chunks() -> None:
    seen: list[tuple[int, int]] = []
    sample(Shrink(), 5, grid="karras:3", batch=2, progress=lambda step, steps: seen.append((step, steps)))
    assert seen == [(i + 1, 9) for i in range(9)]


def test_samples_convert_to_arrays() -> None:
    found = sample(Shrink(), 3, grid="karras:2")
    assert np.asarray(found).shape == (3, 3, 4)
    assert torch.equal(found[1], found.x[1])
    assert len(found) == 3
    with pytest.raises(TypeError, match="leaves"):
        np.asarray(sample(joint(), 1, grid="uniform:2"))


def test_plans_are_made_before_the_loop_on_the_host() -> None:
    order: list[str] = []

    class Watched(Heun):
        def coefficients(self, levels: Any) -> Any:
            order.append("plan")
            return super().coefficients(levels)

    sample(Function(lambda x, t, c: order.append("evaluate") or x / 2), 1, solver=Watched(), grid="karras:3", batch=1)
    assert order == ["plan"] + ["evaluate"] * 5


def test_a_solver_of_ones_own_is_one_class() -> None:
    class Euler(Solver):
        order = 1

        def coefficients(self, levels: Any) -> Any:
            rows = []
            for i in range(levels.steps):
                a = levels.sigma[i + 1] / levels.sigma[i]
                rows.append((a, levels.alpha[i + 1] - a * levels.alpha[i]))
            return rows

        def step(self, x: Any, row: Any, model: Any, memory: Any) -> Any:
            a, b = row.c
            return a * x + b * model(x, row.t)

    solver = dataclass(frozen=True)(Euler)()
    torch.testing.assert_close(sample(gm4(VE()), 3, solver=solver).x, sample(gm4(VE()), 3, solver="ddim").x, rtol=1e-9, atol=1e-9)
    assert repr(solver).endswith("Euler()")
    assert checks.order(solver).passed


def test_the_step_of_a_joint_process_has_a_number_a_leaf() -> None:
    row = DDIM().plan(Joint({"x": VP(), "y": RectifiedFlow()}), [0.5, 0.25])[0]
    assert row.t == 0.5
    assert set(row.c[0]) == set(row.rho_t) == {"x", "y"}
    assert row.rho_t["y"] == pytest.approx(1.0)


def test_the_loop_is_one_short_file() -> None:
    assert len(inspect.getsource(loop).splitlines()) < 200


def test_memory_without_a_source_of_noise_says_so() -> None:
    with pytest.raises(RuntimeError, match="source of noise"):
        Memory().noise()


@pytest.mark.parametrize("name", ["dpm++2m", "f4", "heun", "ancestral"])
def test_a_step_can_be_captured_whole(name: str) -> None:
    """One graph without a break, traced only: nothing is compiled."""
    solver, ones = names.solver(name), torch.ones(2, 3)
    rows = solver.plan(EDM(), names.grid("karras:6").times(EDM()))
    memories = [Memory(lambda: ones.clone()), Memory(lambda: ones.clone())]
    states = [ones.clone(), ones.clone()]
    torch._dynamo.reset()
    with torch.no_grad():
        for row in rows[:3]:
            states = [solver.step(x, row, lambda z, t: z / 2, memory) for x, memory in zip(states, memories, strict=True)]
        traced = torch.compile(lambda x, m: solver.step(x, rows[3], lambda z, t: z / 2, m), backend="eager", fullgraph=True)
        assert torch.equal(traced(states[0], memories[0]), solver.step(states[1], rows[3], lambda z, t: z / 2, memories[1]))
