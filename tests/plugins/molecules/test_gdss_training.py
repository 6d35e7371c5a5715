"""Training of GDSS: the loss in closed form, two Adams in one, batches, and a whole run that resumes in the same weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from unstir import checkpoint
from unstir.errors import CheckpointError, DataError, UserError
from unstir_molecules.gdss import training as gdss
from unstir_molecules.gdss.networks import GDSSNetwork
from unstir_molecules.gdss.presets import Leaf, Preset, denoiser_of, preset
from unstir_molecules.gdss.training import Epochs, GDSSBatches, GDSSLoss, GDSSTraining, TwoAdams
from unstir_molecules.graphs import Graphs
from unstir_molecules.molecules import molecule_set
from unstir_molecules.training_sets import TrainingGraphs

TINY = Preset(6, 4, a=Leaf("ve", 0.2, 1.0), layers=2, hidden=8, attention=8)
CONDITION = {"mask": torch.arange(6) < torch.tensor([6, 4, 3])[:, None]}


class Constant(torch.nn.Module):
    """Says one number everywhere."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Any, label: Any, condition: Any) -> Any:
        return {leaf: torch.full_like(part, self.value) for leaf, part in x.items()}


def cycles(count: int = 24) -> xr.Dataset:
    """Cycles of 4 to 6 nodes."""
    sizes = [4 + i % 3 for i in range(count)]
    return Graphs.of_edges([(n, [(i, (i + 1) % n) for i in range(n)]) for n in sizes]).dataset("cycles")


def states(batch: int = 3) -> dict[str, torch.Tensor]:
    x = torch.zeros(batch, 6, 4)
    a = torch.zeros(batch, 6, 6)
    x[:, 0, 1], a[:, 0, 1], a[:, 1, 0] = 1, 1, 1
    return {"x": x, "a": a}


def test_the_loss_is_half_the_sum_over_all_entries_of_the_error_of_the_noise() -> None:
    """A network that says c: vp 1/2 sum (eps - c)^2; ve, whose output is the score, 1/2 sum (eps + sigma c)^2. Both halves of a count."""
    torch.manual_seed(0)
    denoiser = denoiser_of(TINY, Constant(0.3))  # type: ignore[arg-type]
    t, noise = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64), {"x": torch.randn(3, 6, 4), "a": torch.randn(3, 6, 6)}
    found = GDSSLoss().parts(denoiser, states(), t, noise, CONDITION)
    sigma = 0.2 * 5 ** t.float()
    assert float(found["x"]) == pytest.approx(float((noise["x"] - 0.3).square().sum() / 6), rel=1e-5)
    assert float(found["a"]) == pytest.approx(float((noise["a"] + 0.3 * sigma[:, None, None]).square().sum() / 6), rel=1e-5)


def test_a_network_that_knows_nothing_loses_half_a_unit_for_each_entry() -> None:
    """E 1/2 sum eps^2 = entries/2, both halves of the matrix counted and no diagonal: to 3 % with 20,000 graphs."""
    denoiser = denoiser_of(TINY, Constant(0.0))  # type: ignore[arg-type]
    clean = {leaf: value[:1].expand(20000, *value.shape[1:]) for leaf, value in states(1).items()}
    mask = (torch.arange(6) < 4).expand(20000, 6)
    found = GDSSLoss().drawn(denoiser, clean, torch.Generator().manual_seed(0), {"mask": mask})
    assert float(found["x"]) == pytest.approx(4 * 4 / 2, rel=0.03)
    assert float(found["a"]) == pytest.approx(4 * 3 / 2, rel=0.03)


def test_neither_loss_reaches_the_other_network() -> None:
    torch.manual_seed(0)
    net = GDSSNetwork(**TINY.network())
    losses = GDSSLoss().drawn(denoiser_of(TINY, net), states(), torch.Generator().manual_seed(0), CONDITION)
    losses["x"].backward(retain_graph=True)
    assert all(p.grad is None for p in net.a.parameters())
    net.zero_grad()
    losses["a"].backward()
    assert all(p.grad is None for p in net.x.parameters())


def test_the_rate_falls_by_a_factor_an_epoch() -> None:
    schedule = Epochs(0.01, length=3, factor=0.5)
    assert [schedule.at(step, 9) for step in range(7)] == [0.01, 0.01, 0.01, 0.005, 0.005, 0.005, 0.0025]


def test_one_trainer_makes_the_steps_of_two_clipped_adams(tmp_path: Path) -> None:
    """Beside torch.optim.Adam(weight_decay=...) and clip_grad_norm_, a network each, for five steps."""
    clean, condition = states(), CONDITION

    def made() -> tuple[GDSSNetwork, Any]:
        torch.manual_seed(3)
        net = GDSSNetwork(**TINY.network())
        return net, denoiser_of(TINY, net)

    class Fixed(GDSSLoss):
        def __call__(self, denoiser: Any, x0: Any, generator: Any, known: Any = None) -> torch.Tensor:
            return super().__call__(denoiser, x0, torch.Generator().manual_seed(5), known)

    net, denoiser = made()
    trainer = TwoAdams(
        denoiser, lambda step, rng: {"x0": clean, "condition": condition}, Fixed(), 5, Epochs(0.01, length=2, factor=0.9), {},  # type: ignore[arg-type]
        clip=0.5, betas=(0.9, 0.999), accelerator="cpu", decay=0.01,
    )  # fmt: skip
    trainer.run(tmp_path / "run")
    other, theirs = made()
    parts = (other.x, other.a)
    adams = [torch.optim.Adam(part.parameters(), lr=0.01, weight_decay=0.01) for part in parts]
    for step in range(5):
        losses = Fixed().drawn(theirs, clean, torch.Generator().manual_seed(5), condition)
        for leaf, part, adam in zip(("x", "a"), parts, adams, strict=True):
            adam.param_groups[0]["lr"] = 0.01 * 0.9 ** (step // 2)
            adam.zero_grad()
            losses[leaf].backward()
            torch.nn.utils.clip_grad_norm_(part.parameters(), 0.5)
            adam.step()
    for (name, ours), expected in zip(net.named_parameters(), other.parameters(), strict=True):
        if "layers.1.multi_channel" not in name and "layers.1.graph" not in name:  # values of the last layer: no gradient, or one of 0
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6, msg=name)


def test_a_small_set_is_one_batch_and_a_large_one_is_drawn_without_repetition() -> None:
    graphs, rng = TrainingGraphs.of(cycles()), np.random.default_rng(0)
    count = len(graphs.seen)
    small = GDSSBatches(graphs, Preset(6, 4, batch=128))
    assert small.epoch == 1
    assert len(small(0, rng)["x0"]["a"]) == count
    large = GDSSBatches(graphs, Preset(6, 4, batch=5))
    assert large.epoch == -(-count // 5)
    batch = large(0, rng)
    assert len(batch["x0"]["a"]) == 5
    assert torch.equal(batch["x0"]["x"].argmax(-1)[batch["condition"]["mask"]], torch.full((int(batch["condition"]["mask"].sum()),), 2))


def trained(folder: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[Path, GDSSTraining]:
    small = Preset(20, 4, layers=2, hidden=8, attention=8, batch=8, average=True)
    monkeypatch.setattr(gdss, "preset", lambda name: small if name == "community-small" else preset(name))
    training = GDSSTraining(**{"steps": 6, "every": 3, "weight_decay": 1e-4} | options)
    training.fit(cycles(), folder)
    return folder, training


def test_a_training_writes_a_checkpoint_that_says_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = trained(tmp_path / "out", monkeypatch)
    meta = json.loads((folder / "model.json").read_text())
    assert meta["network"] == "molecules/gdss"
    assert set(meta["facts"]["sizes"]) == {"4", "5", "6"}
    assert meta["facts"]["terminal_snr"]["x"] == pytest.approx(1.3638, abs=1e-3)
    assert meta["facts"]["moments"]["x"][0] == pytest.approx([0, 0, 1, 0])
    assert "signal-to-noise" in (folder / "CARD.md").read_text()
    lines = [json.loads(line) for line in (folder / "validation.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 6]
    try:
        prior: Any = checkpoint.load(folder)
    except CheckpointError as error:
        pytest.skip(f"the network is not registered: {error}")
    assert prior.parameterisation == {"x": "eps", "a": "eps"}


def test_a_resumed_training_ends_in_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = trained(tmp_path / "whole", monkeypatch)
    part, training = trained(tmp_path / "part", monkeypatch, steps=3)
    GDSSTraining(steps=6, every=3).fit(cycles(), part, resume=True)
    assert (whole / "model.safetensors").read_bytes() == (part / "model.safetensors").read_bytes()


def test_a_closed_schedule_ends_in_noise_and_the_weights_asked_for_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed, _ = trained(tmp_path / "closed", monkeypatch, terminal="closed")
    meta = json.loads((closed / "model.json").read_text())
    assert meta["process"]["leaves"]["x"]["beta_max"] == 20
    assert max(meta["facts"]["terminal_snr"].values()) < 1e-4
    plain, _ = trained(tmp_path / "plain", monkeypatch, average="no")
    other, _ = trained(tmp_path / "other", monkeypatch)
    assert (plain / "model.safetensors").read_bytes() != (other / "model.safetensors").read_bytes()


def test_a_set_that_does_not_fit_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    star = Graphs.of_edges([(12, [(0, i) for i in range(1, 12)])] * 4).dataset("stars")
    with pytest.raises(DataError, match="11 neighbours.*features=12"):
        GDSSTraining(steps=1).fit(star, tmp_path / "out")
    assert not (tmp_path / "out" / "training").exists()


def test_options_out_of_range_are_refused() -> None:
    for option, sentence in (
        ({"terminal": "open"}, "terminal must be"),
        ({"preset": "qm8"}, "qm9"),
        ({"steps": -1}, "must not be negative"),
        ({"eps": 0.0}, "eps must be"),
        ({"average": "maybe"}, "average must be"),
    ):
        with pytest.raises(UserError, match=sentence):
            GDSSTraining(**option)  # type: ignore[arg-type]


def test_molecules_are_trained_with_their_own_atoms() -> None:
    pytest.importorskip("rdkit", reason="RDKit is not installed")
    graphs = TrainingGraphs.of(molecule_set(["CCO", "CC=O", "CCS", "OCCO", "CCCl"]))
    settings = GDSSTraining(preset="qm9").settings(graphs)
    assert (settings.nodes, settings.features, settings.molecules) == (4, 4, True)
    batch = GDSSBatches(graphs, settings)(0, np.random.default_rng(0))
    assert batch["x0"]["a"].max() == 2
    assert torch.equal(batch["x0"]["x"].sum(-1) > 0, batch["condition"]["mask"])
    plain = GDSSTraining().settings(TrainingGraphs.of(cycles()))
    assert (plain.nodes, plain.features, plain.molecules) == (6, 10, False)
