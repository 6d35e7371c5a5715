"""Adaptive guidance: who is still guided, what it saves, and noises foretold from those before."""

import pytest
import torch

import unstir
from unstir.certify.checks import invariance
from unstir.certify.distances import sliced_wasserstein
from unstir.certify.laws import classes3
from unstir.errors import UserError
from unstir.guide import CFG, AdaptiveGuidance, Guided, LinearAG
from unstir.guide.adaptive import noise_of, rows_at
from unstir.process import EDM, OUVE, VP
from unstir.solver import DDIM

COUNT = 900
LABELS = torch.arange(COUNT) % 3
CLASS = {"class": LABELS}


def run(guide, count=COUNT, solver="dpm++2m", **options):
    return unstir.sample(
        classes3(EDM()), count, solver=solver, grid="karras:20", guides=[guide], condition={"class": LABELS[:count]}, seed=1, **options
    )


@pytest.fixture(scope="module")
def guided():
    return run(CFG(3.0), trace=True)


def test_the_branches_agree_more_and_more_below_the_level_of_the_data_and_again_where_all_is_noise(guided):
    law, cosines = classes3(EDM()), []
    for t, x in zip(guided.times[:-1], guided.path[:-1], strict=True):
        given, free = (noise_of(law.process, law(x, t, c), x, t, None) for c in (CLASS, None))
        cosines.append(torch.cosine_similarity(given, free).median().item())
    lowest = min(range(len(cosines)), key=cosines.__getitem__)
    assert 2.0 < guided.times[lowest] < 10.0
    assert all(a <= b + 1e-12 for a, b in zip(cosines[lowest:], cosines[lowest + 1 :], strict=False))
    assert cosines[0] > 0.999  # why ``high`` is needed: at 80 the two noises agree and guidance has yet to begin
    assert cosines[-1] > 1 - 1e-12


def test_a_fifth_of_the_evaluations_is_saved_and_the_law_stays(guided):
    exact = torch.cat([classes3().given(c).marginal(COUNT // 3, 0.0, seed=c) for c in range(3)])
    order = LABELS.argsort(stable=True)
    plain = sliced_wasserstein(guided.x[order], exact)
    saved = run(AdaptiveGuidance(3.0, threshold=0.999, high=2.0))
    assert guided.nfe == 40
    assert saved.nfe <= 32
    assert abs(sliced_wasserstein(saved.x[order], exact) / plain - 1) < 0.02  # the project's own bound for this row


def test_without_the_level_guidance_would_stop_before_it_begins(guided):
    early = run(AdaptiveGuidance(3.0, threshold=0.999, high=100.0))
    assert sliced_wasserstein(early.x, guided.x) > 0.1


def test_a_threshold_of_1_is_classifier_free_guidance_bit_for_bit(guided):
    always = run(AdaptiveGuidance(3.0, threshold=1.0), count=30)
    assert always.nfe == 40
    assert torch.equal(always.x, guided.x[:30])


def test_a_sample_keeps_its_own_threshold_whoever_is_beside_it():
    options = {"solver": "dpm++2m", "grid": "karras:12", "condition": {"class": torch.arange(5) % 3}}
    assert invariance(classes3(), guides=[AdaptiveGuidance(3.0, threshold=0.99, high=3.0)], **options).passed


def test_a_null_entry_goes_with_its_sample_when_others_have_stopped():
    x = torch.tensor([[2.0, 0.3], [0.1, 0.05], [-1.0, 1.7]], dtype=torch.float64)
    label, options = {"class": torch.tensor([0, 0, 1])}, {"threshold": 0.99, "high": 2.0}
    dropped = AdaptiveGuidance(3.0, **options).wrap(classes3())
    replaced = AdaptiveGuidance(3.0, null={"class": torch.tensor([-1])}, **options).wrap(classes3())
    for t in (1.0, 0.9):
        assert torch.equal(replaced(x, t, label), dropped(x, t, label))


def test_the_unconditional_branch_is_evaluated_for_those_who_need_it_only():
    law, asked = classes3(EDM()), []
    wrapped = AdaptiveGuidance(3.0, threshold=0.99, high=2.0).wrap(law)
    law.register_forward_hook(lambda _m, inputs, _o: asked.append((len(inputs[0]), (inputs[2] or {}).get("class"))))
    x = torch.tensor([[2.0, 0.3], [0.1, 0.05], [-1.0, 1.7]], dtype=torch.float64)  # sure, torn, sure
    for t in (1.0, 0.9):
        wrapped(x, t, {"class": torch.tensor([0, 0, 1])})
    assert [n for n, _ in asked] == [3, 3, 3, 1]
    assert [labels is None for _, labels in asked] == [False, True, False, True]


def test_entries_of_one_row_and_other_values_stay_when_rows_are_picked():
    condition = {"a": torch.arange(3), "b": torch.ones(1, 2), "c": "x", "d": {"e": torch.arange(6).view(3, 2)}}
    found = rows_at(condition, torch.tensor([2, 0]), 3)
    assert found["a"].tolist() == [2, 0]
    assert found["b"].shape == (1, 2)
    assert found["c"] == "x"
    assert found["d"]["e"].tolist() == [[4, 5], [0, 1]]
    assert rows_at(None, torch.tensor([0]), 3) is None


@pytest.mark.parametrize("process", [VP(), EDM(), OUVE()], ids=["vp", "edm", "ouve"])
def test_the_noise_of_the_truth_is_the_noise_that_was_put_in(process):
    generator = torch.Generator().manual_seed(0)
    x0, eps, anchor = (torch.randn(4, 3, generator=generator, dtype=torch.float64) for _ in range(3))
    condition = {"anchor": anchor} if process.anchored else None
    for t in (0.6, torch.tensor([0.2, 0.4, 0.6, 0.9], dtype=torch.float64)):
        x = process.perturb(x0, t, eps, anchor if process.anchored else None)
        torch.testing.assert_close(noise_of(process, x0, x, t, condition), eps)


@pytest.fixture(scope="module")
def linear():
    condition = {"class": torch.arange(50) % 3}
    return LinearAG.fit(classes3(EDM()), 3.0, condition, solver=DDIM(), grid="karras:20", exact=10)


def test_linear_ag_says_its_error_and_saves_what_it_foretells(linear):
    exact, found = (run(guide, count=300, solver=DDIM()) for guide in (CFG(3.0), linear))
    assert (exact.nfe, found.nfe) == (40, 30)
    assert len(linear.errors) == 10
    assert max(linear.errors) < 0.05
    dropped = run(CFG(3.0, low=0.99 * float(exact.times[9])), count=300, solver=DDIM())  # the same cost: guidance ends there
    assert dropped.nfe == 30
    assert sliced_wasserstein(found.x, exact.x) < 0.5 * sliced_wasserstein(dropped.x, exact.x)


def test_linear_ag_finds_a_combination_that_is_exact():
    # at the last evaluation, at a sigma of .002, both branches agree: eps_u = 1 eps_c
    condition = {"class": torch.tensor([1])}
    guide = LinearAG.fit(classes3(), 2.0, condition, solver=DDIM(), grid="karras:8", exact=7, depth=1, count=8)
    assert guide.errors[-1] < 1e-9
    torch.testing.assert_close(guide.coefficients[-1].sum().item(), 1.0, rtol=0, atol=1e-2)


def test_linear_ag_does_not_depend_on_the_batch(linear):
    options = {"solver": DDIM(), "grid": "karras:20", "condition": {"class": torch.arange(5) % 3}}
    assert invariance(classes3(), guides=[linear], **options).passed


def test_linear_ag_of_another_grid_is_refused(linear):
    with pytest.raises(UserError, match="fitted for evaluations"):
        unstir.sample(classes3(), 3, solver=DDIM(), grid="karras:10", guides=[linear], condition={"class": LABELS[:3]})
    with pytest.raises(UserError, match="one evaluation a time"):
        LinearAG.fit(classes3(), 3.0, {"class": LABELS[:9]}, solver="heun", grid="karras:6", count=9)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: AdaptiveGuidance(float("nan")), "finite weight"),
        (lambda: AdaptiveGuidance(2.0, threshold=1.5), "threshold in"),
        (lambda: AdaptiveGuidance(2.0, high=0.0), "positive high"),
        (lambda: LinearAG(2.0, (1.0,), torch.zeros(2, 4), 1), "coefficients"),
        (lambda: AdaptiveGuidance(2.0).wrap(classes3())({"a": torch.zeros(2, 2)}, 1.0, CLASS), "dict of leaves"),
    ],
)
def test_adaptive_guides_refuse_what_cannot_be(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()


def test_a_trajectory_is_of_one_number_of_samples():
    wrapped = AdaptiveGuidance(2.0).wrap(classes3())
    assert isinstance(wrapped, Guided)
    wrapped(torch.zeros(3, 2), 1.0, {"class": torch.zeros(3, dtype=torch.long)})
    with pytest.raises(UserError, match="3 samples, and was asked about 2"):
        wrapped(torch.zeros(2, 2), 1.0, {"class": torch.zeros(2, dtype=torch.long)})
