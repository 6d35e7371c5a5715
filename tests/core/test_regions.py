"""Region-adaptive evaluation: bit by bit the plain run at ratio 1, every token fresh enough, near the plain run at ratio 1/2."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from unstir import sample
from unstir.certify import GaussianOracle
from unstir.denoiser import NetworkDenoiser
from unstir.errors import UserError
from unstir.guide import CFG, Regions, TokenWise
from unstir.guide.regions import spread_tokens, tokens_of
from unstir.nn import DiT
from unstir.process import EDM, OUVE, VP


class Fields(GaussianOracle):
    """Smooth fields, (1, 16, 16) with a power-law spectrum: exact, and able to be asked about tokens; what was not asked is rubbish.

    Args:
        uneven: are they quiet at one side and lively at the other?
    """

    def __init__(self, process: Any = None, uneven: bool = False) -> None:
        k = torch.minimum(torch.arange(16), 16 - torch.arange(16)).double()
        spectrum = 1 / (1 + k[:, None] ** 2 + k[None] ** 2) ** 1.5
        basis = torch.fft.fft(torch.eye(16, dtype=torch.float64), norm="ortho")
        turn = torch.kron(basis, basis)
        cov = (turn.mH * spectrum.flatten().to(turn.dtype)) @ turn
        cov = cov.real / cov.real.diagonal().mean()
        if uneven:
            strength = torch.linspace(0.05, 1.95, 16, dtype=torch.float64).expand(16, 16).flatten()
            cov = strength[:, None] * cov * strength
        super().__init__(torch.zeros(1, 16, 16, dtype=torch.float64), (cov + cov.mT) / 2, process)
        self.asked: list[Any] = []

    def partial(self, x: Tensor, t: Any, condition: Any, focus: Tensor | None, kept: Any) -> Tensor:
        self.asked.append(focus)
        x0 = self(x, t, condition)
        if focus is None:
            return x0
        inside = torch.zeros(len(x), 16, dtype=torch.bool).scatter(1, focus, True)
        return torch.where(spread_tokens(inside, 4, x), x0, torch.full_like(x0, 1e6))


def transformer(seed: int = 0, kind: type = TokenWise) -> Any:
    """A transformer of 16 tokens that does something everywhere: its zero-initialised parts are drawn."""
    torch.manual_seed(seed)
    network = DiT((16, 16), 1, 1, patch=4, width=32, depth=2, heads=2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(0, 0.1)
    return kind(network, EDM(), shape=(1, 16, 16), parameterisation="edm")


def test_at_ratio_1_nothing_changes_to_the_bit() -> None:
    for denoiser in (transformer(), transformer(kind=NetworkDenoiser), Fields()):
        plain = sample(denoiser, 2, grid="karras:6", seed=1)
        whole = sample(denoiser, 2, grid="karras:6", seed=1, guides=[Regions(1.0)])
        assert torch.equal(plain.x, whole.x)  # type: ignore[arg-type]
        assert plain.nfe == whole.nfe


def test_the_transformer_on_all_of_its_tokens_is_its_forward() -> None:
    denoiser, x = transformer(), torch.randn(3, 1, 16, 16)
    kept: dict[Any, Tensor] = {}
    with torch.no_grad():
        torch.testing.assert_close(denoiser.partial(x, 2.0, None, None, kept), denoiser(x, 2.0), rtol=1e-5, atol=1e-5)
        focus = torch.tensor([[3, 7], [0, 15], [9, 2]])
        inside = spread_tokens(torch.zeros(3, 16, dtype=torch.bool).scatter(1, focus, True), 4, x)
        part, whole = denoiser.partial(x, 2.0, None, focus, kept), denoiser(x, 2.0)  # nothing moved: what was kept is right
        torch.testing.assert_close(part[inside], whole[inside], rtol=1e-5, atol=1e-5)
        moved = denoiser.partial(2 * x, 2.0, None, focus, kept)
        assert not torch.allclose(moved[inside], denoiser(2 * x, 2.0)[inside], rtol=1e-3)  # old keys and values are an approximation


def test_a_share_of_the_tokens_costs_a_share_of_the_work() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    denoiser, x, work = transformer(), torch.randn(2, 1, 16, 16), []
    kept: dict[Any, Tensor] = {}
    for focus in (None, torch.arange(8).expand(2, 8), torch.arange(4).expand(2, 4)):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            denoiser.partial(x, 2.0, None, focus, kept)
        work.append(counter.get_total_flops())
    assert work[1] < 0.6 * work[0]
    assert work[2] < 0.4 * work[0]


@pytest.mark.parametrize("by", ["change", "deviation"])
def test_half_the_tokens_give_nearly_the_plain_run(by: Any) -> None:
    denoiser = Fields()
    plain: Any = sample(denoiser, 8, solver="ddim", grid="karras:30,sigma_max=20", seed=2).x
    half: Any = sample(denoiser, 8, solver="ddim", grid="karras:30,sigma_max=20", seed=2, guides=[Regions(0.5, by=by)]).x
    assert float((half - plain).norm() / plain.norm()) < 0.05  # measured .013 by change, .021 by deviation
    network = transformer()
    plain = sample(network, 4, solver="ddim", grid="karras:30", seed=2).x
    half = sample(network, 4, solver="ddim", grid="karras:30", seed=2, guides=[Regions(0.5, by=by)]).x
    assert float((half - plain).norm() / plain.norm()) < 0.05


def test_reusing_edms_output_is_several_times_better_than_reusing_the_noise() -> None:
    """Against the published choice; noise is reused across levels at which the network would say something else."""
    denoiser = Fields()
    plain: Any = sample(denoiser, 8, solver="ddim", grid="karras:30,sigma_max=20", seed=2).x
    errors = {}
    for reuse in ("F", "eps"):
        half: Any = sample(denoiser, 8, solver="ddim", grid="karras:30,sigma_max=20", seed=2, guides=[Regions(0.5, reuse=reuse)]).x
        errors[reuse] = float((half - plain).norm() / plain.norm())
    assert errors["F"] < 0.3 * errors["eps"]  # measured .013 and .079


def test_tokens_that_change_are_better_chosen_than_tokens_at_random() -> None:
    class Blind(Regions):
        def focus(self, age: Tensor, standing: Tensor) -> Tensor:
            noise = torch.rand(standing.shape, generator=torch.Generator().manual_seed(int(age.sum())))
            return super().focus(age, noise)

    def error(guide: Regions) -> float:
        denoiser = Fields(uneven=True)
        half: Any = sample(denoiser, 16, solver="ddim", grid="karras:30,sigma_max=20", seed=2, guides=[guide]).x
        plain: Any = sample(denoiser, 16, solver="ddim", grid="karras:30,sigma_max=20", seed=2).x
        return float((half - plain).norm() / plain.norm())

    assert error(Regions(0.5, every=8)) < error(Blind(0.5, every=8))


@pytest.mark.parametrize(("ratio", "every"), [(0.5, 2), (0.5, 4), (0.25, 4), (0.3, 5), (0.1, 16)])
def test_every_token_is_refreshed_within_its_limit(ratio: float, every: int) -> None:
    denoiser = Fields()
    sample(denoiser, 3, solver="ddim", grid="karras:40", seed=2, guides=[Regions(ratio, every=every)])
    age = torch.zeros(3, 16, dtype=torch.int64)
    for focus in denoiser.asked:
        age += 1
        if focus is None:
            age.zero_()
        else:
            assert all(len(row.unique()) == len(row) for row in focus)
            age.scatter_(1, focus, 0)
        assert int(age.max()) < every
    assert sum(focus is None for focus in denoiser.asked) == 2  # those that warm up


def test_the_oldest_come_first_however_little_they_stand_out() -> None:
    guide = Regions(0.25, every=4)
    age = torch.arange(16)[None].flip(1)
    assert set(guide.focus(age, torch.arange(16.0)[None])[0].tolist()) == {0, 1, 2, 3}
    fresh = torch.zeros(1, 16, dtype=torch.int64)
    chosen = Regions(0.5, every=4).focus(fresh, torch.arange(16.0)[None])[0].tolist()
    assert set(chosen) == {0, 1, 2, 3, 12, 13, 14, 15}  # four that wait, four that stand out


def test_regions_are_per_sample() -> None:
    denoiser = Fields()
    together: Any = sample(denoiser, 3, solver="ddim", grid="karras:10", seed=2, guides=[Regions(0.5)]).x
    alone: Any = sample(denoiser, 3, solver="ddim", grid="karras:10", seed=2, batch=1, guides=[Regions(0.5)]).x
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-9)


def test_evaluations_in_part_are_counted() -> None:
    denoiser = Fields(VP())
    assert sample(denoiser, 2, solver="ddim", grid="uniform:7", guides=[Regions(0.5)]).nfe == 7
    assert len(denoiser.asked) == 7


def test_tokens_are_patches_row_by_row() -> None:
    x = torch.arange(64.0).reshape(1, 1, 8, 8)
    tokens = tokens_of(x, 4)
    assert tokens.shape == (1, 4, 16)
    assert set(tokens[0, 1].tolist()) == set(x[0, 0, :4, 4:].flatten().tolist())
    marked = spread_tokens(torch.tensor([[0, 1, 0, 0]]), 4, x)
    assert torch.equal(marked[0, 0].nonzero(), (x[0, 0] * 0 + torch.nn.functional.pad(torch.ones(4, 4), (4, 0, 0, 4))).nonzero())


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Regions(0.0), "ratio must lie"),
        (lambda: Regions(0.25, every=3), "every at least 1/ratio"),
        (lambda: Regions(0.5, by="size"), "by must be one of"),  # type: ignore[arg-type]
        (lambda: sample(transformer(kind=NetworkDenoiser), 1, guides=[Regions(0.5)]), "asked about tokens"),
        (lambda: sample(transformer(), 1, guides=[CFG(1.0), Regions(0.5)]), "innermost guide"),
        (lambda: Regions(0.5).wrap(Fields(OUVE()))(torch.zeros(1, 1, 16, 16), 0.5), "without an anchor"),
    ],
)
def test_regions_refuse_what_they_cannot_do(make: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        make()
