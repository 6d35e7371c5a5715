"""Categories: the low-rank posterior against Bayes' rule, samplers against enumeration, graphs, time-free networks, and mixed states."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import unstir
from unstir.certify import Enumerated, EnumeratedGraph, checks, every_graph, gm4, law_of, markov_source, states_of, two_tokens
from unstir.certify.distances import total_variation
from unstir.denoiser import Denoiser, Reuse, TokenDenoiser
from unstir.errors import UnknownName, UserError
from unstir.noise import NoiseSource
from unstir.process import VP, Categorical, Joint, SymmetricTokens
from unstir.process.categorical import draw
from unstir.process.discrete import SCHEDULES, by_leaf
from unstir.solver import DDIM, DiscreteAncestral, FirstHitting, Heun, Split, TauLeaping
from unstir.space import Euclidean, JointSpace, Masked
from unstir.steer import FK, Enforced

MARGINALS = (0.5, 0.3, 0.2)
PROCESSES = [Categorical(3), Categorical(3, "uniform"), Categorical(3, "marginal", MARGINALS)]


def uniform_times(steps: int) -> list[float]:
    return [1 - i / steps for i in range(steps + 1)]


def fits(place: Tensor, weights: Tensor) -> bool:
    """Chi-square of draws against a law, over the cells with at least 5 expected: within 4 standard deviations of its mean."""
    expected = weights * len(place)
    keep = expected > 5
    found = torch.bincount(place, minlength=len(weights)).double()
    free = int(keep.sum())
    return float(((found - expected)[keep].square() / expected[keep]).sum()) < free + 4 * math.sqrt(2 * free)


def kernel(process: Categorical, a: float) -> Tensor:
    """Q = a I + (1 - a) 1 m^T, every row a law."""
    m = process.stationary(torch.empty(0, dtype=torch.float64))
    return a * torch.eye(process.states, dtype=torch.float64) + (1 - a) * m.expand(process.states, -1)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.noise)
def test_the_posterior_is_that_of_brute_force_bayes(process: Categorical) -> None:
    """Every state and a random belief, against the sum over x_0 of the product of K x K matrices."""
    belief = torch.rand(process.states, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    belief = belief / belief.sum(-1, keepdim=True)
    if process.mask is not None:
        belief[:3] = torch.eye(3, dtype=torch.float64)  # what is seen is known
    for alpha_t, alpha_s in ((0.3, 0.55), (0.0, 0.2), (0.4, 1.0), (0.999, 0.9999)):
        across, clean, noisy = kernel(process, alpha_t / alpha_s), kernel(process, alpha_s), kernel(process, alpha_t)
        expected = torch.zeros(process.states, process.states, dtype=torch.float64)
        for x, k in itertools.product(range(process.states), range(3)):
            if noisy[k, x] > 0:
                expected[x] += belief[x, k] * across[:, x] * clean[k] / noisy[k, x]
        impossible = expected.sum(-1) == 0  # something seen where nothing can have survived: it stays
        expected[impossible] = torch.eye(process.states, dtype=torch.float64)[impossible]
        assert not impossible.any() or (process.mask is not None and alpha_t == 0)
        found = process.posterior(torch.arange(process.states)[None], belief[None], alpha_t, alpha_s)[0]
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(found.sum(-1), torch.ones(process.states, dtype=torch.float64), rtol=1e-12, atol=0)


def test_the_mean_of_x0_put_into_bayes_rule_is_another_law() -> None:
    """The planted fault: with uniform noise the normaliser depends on x_0."""
    process, belief = Categorical(3, "uniform"), torch.tensor([[[0.7, 0.2, 0.1]]], dtype=torch.float64)
    across, clean = kernel(process, 0.3 / 0.55), kernel(process, 0.55)
    plugged = across[:, 0] * (belief[0, 0] @ clean)
    found = process.posterior(torch.tensor([[0]]), belief, 0.3, 0.55)[0, 0]
    assert total_variation(found, plugged / plugged.sum()) > 0.01


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_is_inverted_and_differentiated_in_closed_form(schedule: str) -> None:
    process = Categorical(3, "uniform", schedule=schedule)
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    torch.testing.assert_close(process.alpha(t) + process.sigma(t), torch.ones_like(t), rtol=0, atol=1e-15)
    torch.testing.assert_close(process.time_at_alpha(process.alpha(t)), t, rtol=0, atol=1e-7)  # sqrt(eps) where the slope vanishes
    inner = t[1:-1].clone().requires_grad_()
    (slope,) = torch.autograd.grad(process.alpha(inner).sum(), inner)
    torch.testing.assert_close(process.loss_rate(t[1:-1]), -slope, rtol=1e-12, atol=1e-14)
    assert float(process.alpha(0.0)) == 1
    assert float(process.sigma(0.0)) == 0


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.noise)
def test_the_noisy_law_of_perturb_is_q(process: Categorical) -> None:
    """Every 1/4000th quantile of the noise in turn: frequencies are exact to one in 4000."""
    u = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    found = process.perturb(torch.ones(1, 4000, dtype=torch.long), 0.35, torch.special.ndtri(u)[None])
    frequencies = torch.bincount(found[0], minlength=process.states) / 4000
    torch.testing.assert_close(frequencies.double(), kernel(process, float(process.alpha(0.35)))[1], rtol=0, atol=3 / 4000)


def test_a_draw_inverts_the_distribution_function_and_avoids_the_impossible() -> None:
    law = torch.tensor([0.0, 0.25, 0.0, 0.75, 0.0], dtype=torch.float64)
    u = torch.tensor([1e-17, 0.1, 0.2499, 0.25, 0.9, 1 - 2**-53], dtype=torch.float64)
    assert draw(law.expand(6, -1), u).tolist() == [1, 1, 1, 3, 3, 3]


def test_parallel_unmasking_is_four_tenths_over_n_off() -> None:
    exact = two_tokens()
    for steps in (1, 2, 5, 10):
        law = law_of(exact, DiscreteAncestral(), uniform_times(steps)).reshape(3, 3)
        assert float(law[2].sum() + law[:, 2].sum()) < 1e-15
        assert float(total_variation(law[:2, :2].flatten(), exact.weights)) == pytest.approx(0.4 / steps, abs=1e-12)


@pytest.mark.parametrize("solver", [DiscreteAncestral(), TauLeaping()], ids=repr)
@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.noise)
def test_samplers_reach_the_law_of_a_markov_source_as_steps_grow(process: Categorical, solver: DiscreteAncestral) -> None:
    """Exact laws, by enumeration: the error of drawing letters independently halves with the step, and is .02 at 32 steps."""
    exact = markov_source(process, 4)
    errors = [float(total_variation(law_of(exact, solver, uniform_times(n)), exact.law(0.0))) for n in (8, 16, 32)]
    assert errors[2] < 0.025
    for coarse, fine in itertools.pairwise(errors):
        assert 1.8 < coarse / fine < 3.2


def test_tau_leaping_of_masks_is_ancestral_sampling() -> None:
    exact = markov_source(PROCESSES[0], 3)
    ancestral, leaping = (law_of(exact, solver, uniform_times(5)) for solver in (DiscreteAncestral(), TauLeaping()))
    torch.testing.assert_close(leaping, ancestral, rtol=1e-12, atol=1e-15)


def test_the_rates_of_a_leap_integrate_those_of_the_process() -> None:
    """1 - exp(-integral) against the instantaneous rates summed over 4000 instants (midpoint rule, error 1e-8)."""
    process, belief = PROCESSES[2], torch.tensor([[[0.2, 0.5, 0.3]] * 3], dtype=torch.float64)
    x, (s, t) = torch.tensor([[0, 1, 2]]), (0.3, 0.6)
    times = s + (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000 * (t - s)
    integral = process.rates(x.expand(4000, -1), belief.expand(4000, -1, -1), times).mean(0) * (t - s)
    law = process.leap_law(x, belief, t, s)[0]
    torch.testing.assert_close(law.diagonal(), torch.exp(-integral.sum(-1)), rtol=1e-7, atol=0)
    off = ~torch.eye(3, dtype=torch.bool)
    torch.testing.assert_close(
        (law / (1 - law.diagonal())[:, None])[off], (integral / integral.sum(-1, keepdim=True))[off], rtol=1e-7, atol=0
    )


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.noise)
def test_concrete_scores_are_ratios_of_the_noisy_law(process: Categorical) -> None:
    exact, t = markov_source(process, 3), 0.4
    law, states = exact.law(t), states_of(process.states, 3)
    scores = process.concrete_score(states, exact(states, t), t)
    for i, v in itertools.product(range(3), range(process.states)):
        moved = states.clone()
        moved[:, i] = v
        place = (moved * process.states ** torch.arange(2, -1, -1)).sum(-1)
        possible = (law > 0) & (process.mask is None or (states[:, i] == process.mask))
        torch.testing.assert_close(scores[possible, i, v], (law[place] / law)[possible], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("grid", ["uniform:1", "uniform:3"])
def test_first_hitting_has_no_error_of_its_own(grid: str) -> None:
    """20,000 samples: .0035 standard deviation of a frequency; parallel unmasking in as many steps is .4 or .13 off."""
    samples = unstir.sample(two_tokens(), 20000, solver="first-hitting", grid=grid, seed=3)
    found = torch.bincount(samples.x[:, 0] * 2 + samples.x[:, 1], minlength=4) / 20000
    assert float(total_variation(found.double(), two_tokens().weights)) < 0.012
    assert samples.nfe == {"uniform:1": 2, "uniform:3": 6}[grid]


def test_first_hitting_of_a_source_takes_as_many_evaluations_as_letters() -> None:
    exact = markov_source(Categorical(3, schedule="cosine"), 5)
    samples = unstir.sample(exact, 3000, solver=FirstHitting(), grid="uniform:1")
    place = (samples.x * 3 ** torch.arange(4, -1, -1)).sum(-1)
    assert samples.nfe == 5
    assert fits(place, exact.weights)


def test_the_sampler_draws_from_the_law_it_declares() -> None:
    """The loop with its keyed noise against the enumerated law of the same solver, which differs from the exact one (planted)."""
    exact = markov_source(Categorical(4, "uniform"), 3)
    samples = unstir.sample(exact, 4000, solver="discrete-ancestral", grid="uniform:4")
    place = (samples.x * 4 ** torch.arange(2, -1, -1)).sum(-1)
    assert fits(place, law_of(exact, DiscreteAncestral(), uniform_times(4)))
    assert not fits(place, exact.law(0.0))


@pytest.mark.parametrize("solver", ["discrete-ancestral", "tau-leaping", "first-hitting"])
@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.noise)
def test_a_sample_does_not_depend_on_its_batch(process: Categorical, solver: str) -> None:
    if solver == "first-hitting" and process.mask is None:
        with pytest.raises(UserError, match="absorbing"):
            unstir.sample(markov_source(process, 4), 2, solver=solver, grid="uniform:2")
        return
    assert checks.invariance(markov_source(process, 4), count=7, batches=(1, 3, 7), solver=solver, grid="uniform:5", seed=2).passed


def test_the_first_state_is_the_prior() -> None:
    source = NoiseSource(0, range(2000))
    assert (PROCESSES[0].first(source, (3,), "start") == 3).all()
    assert source.draws == 0
    found = torch.bincount(PROCESSES[2].first(source, (5,), "start").flatten()) / 10000
    torch.testing.assert_close(found, torch.tensor(MARGINALS), rtol=0, atol=0.02)  # 4 standard deviations


GRAPH = Joint({"x": Categorical(2), "e": Categorical(2, schedule="cosine")})


def graph(process: Joint = GRAPH, key: str | None = None) -> EnumeratedGraph:
    """Three nodes of two kinds; an edge is likely between nodes of one kind, and its law says so."""
    nodes, edges = every_graph(3, 2, 2)
    upper = torch.triu_indices(3, 3, 1)
    alike = (nodes[:, upper[0]] == nodes[:, upper[1]]).long()
    weights = torch.where(edges == alike, 0.85, 0.15).double().prod(-1) * torch.where(nodes == 0, 0.6, 0.4).double().prod(-1)
    return EnumeratedGraph(nodes, edges, weights, process, key)


def place_of(state: dict[str, Tensor]) -> Tensor:
    upper = torch.triu_indices(3, 3, 1)
    flat = torch.cat([state["x"], state["e"][:, upper[0], upper[1]]], 1)
    return (flat * 2 ** torch.arange(5, -1, -1)).sum(-1)


@pytest.mark.parametrize("solver", ["first-hitting", "discrete-ancestral", "tau-leaping"])
def test_graphs_of_two_leaves_stay_symmetric_and_reach_their_law(solver: str) -> None:
    exact = graph()
    grid = "uniform:1" if solver == "first-hitting" else "uniform:30"
    samples = unstir.sample(exact, 1500, solver=solver, grid=grid, trace=True)
    for state in samples.path:
        assert torch.equal(state["e"], state["e"].mT)
        assert (state["e"].diagonal(dim1=1, dim2=2) == 0).all()
    if solver == "first-hitting":
        assert samples.nfe == 6  # three nodes and three edges: an edge is lifted once
    assert fits(place_of(samples.x), exact.nodes.weights)
    assert not fits(place_of({"x": samples.x["x"], "e": samples.x["e"].roll(1, 0)}), exact.nodes.weights)  # edges of another graph


def test_absent_nodes_and_their_edges_stay_at_zero() -> None:
    exact = graph(Joint({"x": Categorical(2, "uniform"), "e": Categorical(2)}), key="nodes")
    condition = {"nodes": torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0]])}
    samples = unstir.sample(exact, 3, solver="discrete-ancestral", grid="uniform:5", condition=condition, trace=True)
    for state in samples.path:
        assert state["x"][1, 2] == 0
        assert (state["x"][2, 1:] == 0).all()
        assert (state["e"][1, 2] == 0).all()
        assert (state["e"][1, :, 2] == 0).all()
        assert (state["e"][2] == 0).all()
    assert checks.invariance(exact, count=3, batches=(1, 3), solver="discrete-ancestral", grid="uniform:5", condition=condition).passed


def test_symmetric_tokens_keep_whole_numbers_whole() -> None:
    space, x = SymmetricTokens("nodes"), torch.randint(1, 5, (2, 4, 4), generator=torch.Generator().manual_seed(0))
    condition = {"nodes": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])}
    found = space.project(x, condition)
    assert found.dtype == torch.long
    assert torch.equal(found, found.mT)
    assert torch.equal(space.project(found, condition), found)
    assert found[0, 0, 3] == x[0, 0, 3]
    assert found[1, 2:].sum() == 0
    assert (found.diagonal(dim1=1, dim2=2) == 0).all()


class Side(Denoiser):
    """A point of GM4 and two tokens, independent."""

    def __init__(self) -> None:
        self_process = Joint({"point": VP(), "tokens": Categorical(2)})
        super().__init__(self_process, {"point": (2,), "tokens": (2,)})
        self.point, self.tokens = gm4(VP()), two_tokens()

    def forward(self, x: dict[str, Tensor], t: float, condition: object = None) -> dict[str, Tensor]:
        return {"point": self.point(x["point"], t), "tokens": self.tokens(x["tokens"], t)}


def test_mixed_leaves_move_by_their_own_solvers_from_one_evaluation() -> None:
    solver = Split({"point": DDIM(eta=1.0), "tokens": DiscreteAncestral()})
    samples = unstir.sample(Side(), 4000, solver=solver, grid="uniform:8")
    assert samples.nfe == 8
    assert samples.x["tokens"].dtype == torch.long
    assert samples.x["point"].is_floating_point()
    law = law_of(two_tokens(), DiscreteAncestral(), uniform_times(8)).reshape(3, 3)[:2, :2].flatten()
    found = torch.bincount(samples.x["tokens"][:, 0] * 2 + samples.x["tokens"][:, 1], minlength=4) / 4000
    assert float(total_variation(found.double(), law)) < 0.025
    alone = unstir.sample(gm4(VP()), 4000, solver="ancestral", grid="uniform:8")
    torch.testing.assert_close(samples.x["point"].mean(0), alone.x.mean(0).to(samples.x["point"]), rtol=0, atol=0.06)
    assert checks.invariance(Side(), count=5, batches=(1, 2, 5), solver=solver, grid="uniform:4").passed


def test_a_split_refuses_what_it_cannot_share() -> None:
    with pytest.raises(UserError, match="one evaluation"):
        Split({"point": Heun(), "tokens": DiscreteAncestral()})
    with pytest.raises(UserError, match="one evaluation"):
        Split({"tokens": FirstHitting()})
    with pytest.raises(UserError, match="leaves"):
        unstir.sample(Side(), 1, solver=Split({"point": DDIM()}), grid="uniform:2")
    with pytest.raises(UserError, match="Split"):
        unstir.sample(Side(), 1, solver="discrete-ancestral", grid="uniform:2")
    with pytest.raises(UserError, match="discrete"):
        unstir.sample(two_tokens(), 1, solver="ddim", grid="uniform:2")


class Table(torch.nn.Module):
    """Logits that look up the exact conditionals, with a column for the mask that says nonsense."""

    def __init__(self, exact: Enumerated) -> None:
        super().__init__()
        self.exact, self.asked, self.labels = exact, 0, []

    def forward(self, x: Tensor, label: Tensor, condition: object = None) -> Tensor:
        self.asked += len(x)
        self.labels.append(label)
        logits = torch.log(self.exact(x, 0.5).clamp(min=1e-30))
        return torch.cat([logits + 3.0, torch.full((*x.shape, 1), 50.0, dtype=logits.dtype)], -1)


def test_subs_never_predicts_the_mask_and_keeps_what_is_seen() -> None:
    exact = markov_source(PROCESSES[0], 3)
    model = TokenDenoiser(Table(exact), exact.process, (3,))
    states = states_of(4, 3)
    torch.testing.assert_close(model(states, 0.3), exact(states, 0.3), rtol=1e-9, atol=1e-12)
    with pytest.raises(UserError, match="logits"):
        exact.process.belief(states, torch.zeros(64, 3, 5))


def test_with_masks_the_belief_does_not_depend_on_the_time() -> None:
    exact, states = markov_source(PROCESSES[0], 3), states_of(4, 3)
    for t in (0.01, 0.5, 0.99):
        torch.testing.assert_close(exact(states, t), exact(states, 0.3), rtol=1e-9, atol=1e-12)
    other = markov_source(PROCESSES[1], 3)
    assert (other(states_of(3, 3), 0.2) - other(states_of(3, 3), 0.8)).abs().max() > 0.1
    model = TokenDenoiser(Table(exact), exact.process, (3,), time_free=True)
    assert torch.equal(model(states, 0.1), model(states, 0.9))
    assert all((label == 0).all() for label in model.network.labels)
    with pytest.raises(UserError, match="masks"):
        TokenDenoiser(Table(other), other.process, (3,), time_free=True)


def test_reuse_asks_as_often_as_states_change() -> None:
    """1 + (N - 1)(1 - (1 - 1/N)^L) evaluations, within 5 % of the published N (1 - (1 - 1/N)^L); samples are bit for bit the same."""
    steps, length, count = 24, 20, 400
    support = torch.stack([torch.zeros(length), torch.ones(length)]).long()
    exact = Enumerated(support, torch.tensor([0.5, 0.5]), Categorical(2))
    model = TokenDenoiser(Table(exact), exact.process, (length,), time_free=True)
    plain = unstir.sample(model, count, solver="discrete-ancestral", grid=f"uniform:{steps}")
    assert plain.nfe == steps
    model.network.asked = 0
    reused = unstir.sample(model, count, solver="discrete-ancestral", grid=f"uniform:{steps}", guides=[Reuse()], batch=100)
    mean, chance = model.network.asked / count, 1 - (1 - 1 / steps) ** length
    assert torch.equal(plain.x, reused.x)
    assert reused.nfe == math.ceil(mean)
    assert mean == pytest.approx(1 + (steps - 1) * chance, rel=0.02)  # 2 standard deviations of the mean of 400 are 1 %
    assert mean == pytest.approx(steps * chance, rel=0.05)
    with pytest.raises(UserError, match="time_free"):
        unstir.sample(
            TokenDenoiser(Table(exact), exact.process, (length,)), 2, solver="discrete-ancestral", grid="uniform:4", guides=[Reuse()]
        )


def test_another_schedule_asks_the_model_at_equal_survival() -> None:
    linear, cosine = (Categorical(3, "uniform", schedule=name) for name in ("linear", "cosine"))
    model = TokenDenoiser(torch.nn.Module(), linear, (3,))
    model.forward = lambda x, t, condition=None: markov_source(linear, 3)(x, t)  # type: ignore[method-assign]
    states = states_of(3, 3)
    for t in (0.2, 0.7, torch.full((27,), 0.4, dtype=torch.float64)):
        torch.testing.assert_close(model.with_process(cosine)(states, t), markov_source(cosine, 3)(states, t), rtol=1e-9, atol=1e-12)
    with pytest.raises(UserError):
        model.with_process(VP())


def test_samples_of_another_schedule_are_the_same_at_equal_levels() -> None:
    """With masks the schedule only renames the times: grids at equal survival give equal laws."""
    linear, cosine = Categorical(3), Categorical(3, schedule="cosine")
    times = [float(cosine.time_at_alpha(1 - t)) for t in uniform_times(4)]
    torch.testing.assert_close(
        law_of(markov_source(cosine, 3), DiscreteAncestral(), times),
        law_of(markov_source(linear, 3), DiscreteAncestral(), uniform_times(4)),
        rtol=1e-7,
        atol=1e-9,
    )


def test_a_network_of_a_mixed_state_gives_every_leaf_its_belief() -> None:
    class Net(torch.nn.Module):
        def forward(self, x: dict[str, Tensor], label: dict[str, Tensor], condition: object) -> dict[str, Tensor]:
            return {"point": x["point"] * 0.5, "tokens": torch.zeros(*x["tokens"].shape, 2)}

    process = Side().process
    model = TokenDenoiser(Net(), process, {"point": (2,), "tokens": (2,)}, parameterisation="eps")
    x = {"point": torch.ones(3, 2), "tokens": torch.tensor([[0, 2], [1, 1], [2, 2]])}
    found = model(x, 0.5)
    alpha, sigma = (float(f(0.5)) for f in (VP().alpha, VP().sigma))
    torch.testing.assert_close(found["point"], torch.full((3, 2), (1 - sigma * 0.5) / alpha))
    assert found["tokens"][0].tolist() == [[1, 0], [0.5, 0.5]]


def test_masked_positions_of_sequences_stay_at_zero() -> None:
    exact = markov_source(Categorical(3), 4)
    exact.space = Masked()
    lengths = {"mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])}
    for solver in ("discrete-ancestral", "first-hitting"):
        samples = unstir.sample(exact, 2, solver=solver, grid="uniform:4", condition=lengths)
        assert (samples.x[1, 2:] == 0).all()
        assert (samples.x < 3).all()


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Categorical(1), UserError),
        (lambda: Categorical(3, "gaussian"), UserError),
        (lambda: Categorical(3, marginals=MARGINALS), UserError),
        (lambda: Categorical(3, "marginal", (0.5, 0.6, 0.2)), UserError),
        (lambda: Categorical(3, schedule="quadratic"), UnknownName),
        (lambda: Categorical(3, t_max=2.0), UserError),
        (lambda: Categorical(3).drift(None, 0.5), UserError),
        (lambda: Categorical(3).diffusion(0.5), UserError),
        (lambda: Categorical(3).prior(), UserError),
    ],
)
def test_what_does_not_fit_is_refused(make: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        make()  # type: ignore[operator]


def test_a_warm_start_begins_in_the_middle() -> None:
    exact = markov_source(Categorical(3), 4)
    start = torch.tensor([[0, 3, 3, 2]])
    samples = unstir.sample(exact, 50, solver="discrete-ancestral", grid="uniform:8", start=(start, 0.5))
    assert (samples.x[:, 0] == 0).all()
    assert (samples.x[:, 3] == 2).all()
    assert samples.nfe == 4


def test_leaves_of_joint_spaces_are_found_by_name() -> None:
    assert list(by_leaf(GRAPH)) == ["x", "e"]
    assert list(by_leaf(GRAPH.leaves["x"])) == [""]
    assert isinstance(graph().space, JointSpace)
    assert isinstance(graph().space.of("x"), Euclidean)


@pytest.mark.parametrize("mode", ["noised", "path"])
def test_known_tokens_are_held_and_lead_the_rest(mode):
    """Two tokens that are always equal; the first is held at 1, so the second must follow. 512 draws, three standard errors of chance."""
    process = Categorical(2, "uniform", schedule="cosine")

    class Equal(torch.nn.Module):
        def forward(self, x, label, condition):
            alpha = process.alpha(label.double())[:, None]
            each = torch.stack([(alpha * (x == k) + (1 - alpha) / 2).log().sum(1) for k in (0, 1)], -1)
            return each[:, None].expand(-1, 2, -1).float()

    denoiser = TokenDenoiser(Equal(), process, (2,))
    held = Enforced(torch.tensor([True, False]), torch.tensor([1, 0]), mode=mode)
    found = unstir.sample(denoiser, 512, solver="discrete-ancestral", grid="uniform:60", steers=[held], seed=0).x
    assert (found[:, 0] == 1).all()
    assert found[:, 1].double().mean() > 0.9


def test_a_reward_sees_states_of_the_space():
    """Edges are drawn of a belief each on its own; what is rewarded is symmetric with an empty diagonal all the same."""
    seen = []

    def reward(x0, condition):
        seen.append(x0)
        return x0.double().sum((1, 2))

    class Half(torch.nn.Module):
        def forward(self, x, label, condition):
            return torch.zeros(*x.shape, 2)

    denoiser = TokenDenoiser(Half(), Categorical(2, "uniform"), (4, 4), space=SymmetricTokens())
    unstir.sample(denoiser, 8, solver="discrete-ancestral", grid="uniform:4", steers=[FK(reward=reward, particles=4)], seed=0)
    assert len(seen) > 3
    assert all(torch.equal(x0, x0.mT) and not torch.diagonal(x0, dim1=1, dim2=2).any() for x0 in seen)
