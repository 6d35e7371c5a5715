"""What is known of a state: RePaint's walks, cyclic one-way diffusion, and constraints that hold at every time."""

import pytest
import torch

import unstir
from unstir.certify.checks import invariance
from unstir.certify.laws import ring8
from unstir.certify.oracles import GaussianOracle
from unstir.errors import UserError
from unstir.process import OUVE
from unstir.steer import Constraint, Enforced, OneWay

SIZE = 8
PLACE = torch.arange(SIZE, dtype=torch.float64)
COV = torch.exp(-(PLACE[:, None] - PLACE).abs() / 4)
LAW = GaussianOracle(torch.zeros(SIZE, dtype=torch.float64), COV)
MASK = torch.arange(SIZE) < 3
VALUE = torch.tensor([1.5, 1.0, 2.0, *[float("nan")] * 5], dtype=torch.float64)  # what is not known may hold anything
WANT = COV[3:, :3] @ torch.linalg.solve(COV[:3, :3], VALUE[:3])
GRID = "log-snr:30,sigma_max=30,sigma_min=0.03"


def error_of(steer, walks, count=600):
    x = unstir.sample(LAW, count, solver=f"time-travel:jump=5,walks={walks}", grid=GRID, steers=[steer]).x
    assert torch.equal(x[:, :3], VALUE[:3].expand(count, 3).to(x.dtype))  # the masked region, exactly
    return (x[:, 3:].double().mean(0) - WANT).norm().item()


def test_repaint_nears_the_conditional_mean_with_its_walks():
    errors = [error_of(Constraint(MASK, VALUE), walks) for walks in (1, 3, 10)]
    # 600 draws of 5 entries leave .09
    assert errors[0] > 1.2 * errors[1]
    assert errors[1] > 1.5 * errors[2]
    assert errors[2] < 0.25 * WANT.norm()


def test_one_way_cycles_near_it_too_and_beat_a_single_replacement_pass():
    errors = [error_of(OneWay(MASK, VALUE), walks) for walks in (1, 3, 10)]
    assert errors[0] > 1.3 * errors[1]
    assert errors[1] > 1.5 * errors[2]
    assert errors[2] < 0.7 * error_of(Constraint(MASK, VALUE), 1)


def test_one_way_plants_at_the_top_of_each_walk_only():
    steer = OneWay(MASK, VALUE, mode="path")
    run = unstir.sample(LAW, 3, solver="time-travel:jump=5,walks=2", grid=GRID, steers=[steer], trace=True)
    levels = [LAW.process.sigma(t).item() for t in run.times]
    noise = None
    for k, (level, state) in enumerate(zip(levels, run.path, strict=True)):
        planted = (state[:, :3].double() - VALUE[:3]) / max(level, 1e-30)
        up = k > 0 and level > levels[k - 1]
        noise = planted if up and noise is None else noise
        if k and level and not up:
            assert (planted - noise).abs().max() > 1e-3 if noise is not None else True
        elif up:
            torch.testing.assert_close(planted, noise, rtol=0, atol=1e-3)  # float32 states of up to 30, over the level
    low = OneWay(MASK, VALUE, mode="path", low=1.0)
    below = unstir.sample(LAW, 3, solver="ancestral", grid=GRID, steers=[low], trace=True)
    tail = [(s[:, :3].double() - VALUE[:3]) / t for s, t in zip(below.path, below.times, strict=True) if 0.03 < t < 1]
    assert len(tail) > 3
    assert all((part - tail[0]).abs().max() < 1e-3 for part in tail)


def test_an_enforced_constraint_holds_before_the_first_evaluation():
    seen = []

    class Watched(GaussianOracle):
        def forward(self, x, t, condition=None):
            seen.append((x[:, :3].clone(), t))
            return super().forward(x, t, condition)

    law = Watched(torch.zeros(SIZE, dtype=torch.float64), COV)
    unstir.sample(law, 2, solver="ddim", grid=GRID, steers=[Enforced(MASK, VALUE, mode="clean")])
    assert all(torch.equal(part, VALUE[:3].expand(2, 3).to(part.dtype)) for part, _ in seen)
    seen.clear()
    unstir.sample(law, 2, solver="ddim", grid=GRID, steers=[Enforced(MASK, VALUE, mode="path")])
    noise = [(part.double() - VALUE[:3]) / t for part, t in seen]
    assert all((one - noise[0]).abs().max() < 1e-3 for one in noise)


@pytest.mark.parametrize("steer", [OneWay(MASK, VALUE), Enforced(MASK, VALUE)], ids=["one-way", "enforced"])
def test_an_anchored_process_ends_at_the_value(steer):
    law = GaussianOracle(torch.zeros(SIZE, dtype=torch.float64), COV, OUVE())
    condition = {"anchor": torch.full((1, SIZE), 0.3)}
    x = unstir.sample(law, 4, solver="ancestral", grid="uniform:10", steers=[steer], condition=condition).x
    assert torch.isfinite(x).all()
    assert torch.equal(x[:, :3], VALUE[:3].expand(4, 3).to(x.dtype))


def test_samples_do_not_see_each_other():
    steer = OneWay(torch.tensor([1, 0]), torch.tensor([4.0, 0.0]))
    assert invariance(ring8(), solver="time-travel:jump=2,walks=2", grid="karras:6", steers=[steer]).same


def test_options_are_checked():
    with pytest.raises(UserError, match="noised"):
        OneWay(MASK, VALUE, mode="clean")
    with pytest.raises(UserError, match="finite"):
        OneWay(torch.ones(SIZE), VALUE)
