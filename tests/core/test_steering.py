"""What a steer may ask of its trajectory: looks, resampling, reports; what a start may bring; plans that go back up."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import unstir
from unstir.certify.oracles import gm4
from unstir.errors import UserError
from unstir.guide import Guide, Guided
from unstir.process import SBVE
from unstir.solver import DDIM, Multistep
from unstir.steer import Moment, Steer

GM4 = gm4()


@dataclass(frozen=True)
class Looking(Steer):
    """Looks at every state, before and after a step."""

    exactness: ClassVar[str] = "exact: it only looks"

    def before(self, x: Tensor, moment: Moment) -> Tensor:  # type: ignore[override]
        seen: Any = moment.look()
        moment.memory.setdefault("before", []).append(seen)
        return x

    def after(self, x: Tensor, moment: Moment) -> Tensor:  # type: ignore[override]
        seen: Any = moment.look()
        if moment.last:
            assert torch.equal(seen, x)  # sigma is 0: the state is the estimate
        moment.report("seen", seen)
        moment.report("looks", torch.full((len(x) // 2,), float(len(moment.memory["before"]))))
        return x


@dataclass(frozen=True)
class FirstWins(Steer):
    """After one step, the first particle of each problem takes the place of all."""

    step: int
    particles: int = 3
    exactness: ClassVar[str] = "none: a test's"

    def after(self, x: Tensor, moment: Moment) -> Tensor:  # type: ignore[override]
        if moment.row.index != self.step:
            return x
        moment.look()
        index = torch.arange(len(x)) // self.particles * self.particles
        return moment.resample(index)  # type: ignore[return-value]


@pytest.mark.parametrize("solver", ["dpm++2m", "dpm++2m-sde", "heun", "ddim"])
def test_a_look_costs_no_evaluation_and_changes_nothing(solver: str) -> None:
    plain = unstir.sample(GM4, 4, solver=solver, grid="karras:8", seed=1)
    looked = unstir.sample(GM4, 4, solver=solver, grid="karras:8", seed=1, steers=[Looking()], batch=2)
    assert looked.nfe == plain.nfe
    assert torch.equal(looked.x, plain.x)
    assert torch.equal(looked.info["seen"], looked.x)
    assert looked.info["looks"].tolist() == [8.0, 8.0]  # one row a chunk of two, joined


@pytest.mark.parametrize("solver", ["dpm++2m", "f4", "heun"])
def test_the_solver_s_history_follows_a_resampled_particle(solver: str) -> None:
    """From the resampling on, all particles of a problem are the first: a deterministic solver then gives the first's path to all."""
    alone = unstir.sample(GM4, 6, solver=solver, grid="karras:9", seed=2)
    won = unstir.sample(GM4, 6, solver=solver, grid="karras:9", seed=2, steers=[FirstWins(4)])
    assert torch.equal(won.x, alone.x[[0, 0, 0, 3, 3, 3]])
    assert won.nfe == alone.nfe


def test_resampled_particles_part_again_under_noise() -> None:
    won = unstir.sample(GM4, 3, solver="ddim:eta=1", grid="karras:9", seed=2, steers=[FirstWins(4)])
    assert len(won.x.unique(dim=0)) == 3  # type: ignore[union-attr]


def test_chunks_never_cut_a_problem() -> None:
    whole = unstir.sample(GM4, 9, solver="ddim:eta=1", grid="karras:6", steers=[FirstWins(3)])
    cut = unstir.sample(GM4, 9, solver="ddim:eta=1", grid="karras:6", steers=[FirstWins(3)], batch=4)
    assert torch.equal(whole.x, cut.x)
    with pytest.raises(UserError, match="count must be a multiple of the 3 particles"):
        unstir.sample(GM4, 4, steers=[FirstWins(3)])


def test_a_steer_outside_a_trajectory_says_so() -> None:
    row = DDIM().plan(GM4.process, [2.0, 1.0])[0]
    with pytest.raises(UserError, match="unstir.sample only"):
        Moment(row, torch.zeros(1, 2), GM4.process).look()


def test_a_steer_looks_at_states_with_their_anchor() -> None:
    anchor = torch.tensor([[0.3, -0.2]], dtype=torch.float64)
    law = gm4(SBVE())
    plain = unstir.sample(law, 4, solver="ddim", grid="uniform:8", condition={"anchor": anchor})
    looked = unstir.sample(law, 4, solver="ddim", grid="uniform:8", condition={"anchor": anchor}, steers=[Looking()])
    assert looked.nfe == plain.nfe
    assert torch.equal(looked.x, plain.x)


def test_a_start_can_bring_the_draws_of_the_solver() -> None:
    """Draws of 0 make the stochastic solver deterministic; one draw fewer than it takes is refused."""
    x = GM4.marginal(3, 80.0)
    zeros = [torch.zeros_like(x)] * 7
    quiet = unstir.sample(GM4, 3, solver="ddim:eta=1", grid="karras:8", start=(x, 80.0, {"noise": zeros}), batch=2)
    again = unstir.sample(GM4, 3, solver="ddim:eta=1", grid="karras:8", start=(x, 80.0, {"noise": zeros}), seed=9)
    assert torch.equal(quiet.x, again.x)
    with pytest.raises(UserError, match="brought 6 draws"):
        unstir.sample(GM4, 3, solver="ddim:eta=1", grid="karras:8", start=(x, 80.0, {"noise": zeros[:6]}))


def test_a_plan_may_go_back_up() -> None:
    """A row that does not decrease the noise is made like any other, and the samples tell the times that were walked."""

    @dataclass(frozen=True, repr=False)
    class Twice(Multistep):
        def plan(self, process: Any, times: Any) -> list[Any]:
            rows = super().plan(process, times)
            back = replace(rows[0], t=rows[-1].s, s=rows[0].t, alpha_s=1.0, c=tuple(0.0 for _ in rows[0].c[:-1]) + (0.0,))
            return [replace(row, index=i) for i, row in enumerate([*rows, replace(back, c=(0.0, 0.0, 1.0, *back.c[3:])), *rows])]

    samples = unstir.sample(GM4, 2, solver=Twice(), grid="karras:4,to_zero=false", trace=True)
    assert len(samples.times) == 10
    assert samples.times[5] == samples.times[0]
    assert samples.path is not None
    assert len(samples.path) == 10


class Remembering(Guided):
    """Adds to every estimate a thousandth of the first state it saw."""

    first: Any = None

    def forward(self, x: Tensor, t: Any, condition: Any = None) -> Tensor:
        if self.first is None:
            self.first = [x.clone()]
        return self.denoiser(x, t, condition) + 1e-3 * self.first[0]


class Grudge(Guide):
    exactness: ClassVar[str] = "none: a test's"

    def wrap(self, denoiser: Any) -> Remembering:
        return Remembering(denoiser, self)

    def estimate(self, denoiser: Any, x: Any, t: Any, condition: Any) -> Any:
        raise AssertionError("asked through its wrapper")


def test_the_notes_of_a_guide_follow_a_resampled_particle() -> None:
    options: Any = {"solver": "dpm++2m", "grid": "karras:9", "seed": 2, "guides": [Grudge()]}
    alone = unstir.sample(GM4, 6, **options)
    won = unstir.sample(GM4, 6, steers=[FirstWins(4)], **options)
    assert torch.equal(won.x, alone.x[[0, 0, 0, 3, 3, 3]])  # type: ignore[index]
