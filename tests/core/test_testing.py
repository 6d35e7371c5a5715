"""The contract test finds what it promises to find: each case breaks the example plugin in one place."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from unstir import registry
from unstir.plugin.compare import is_finite, same
from unstir.testing import ContractError, check_plugin

EXAMPLE = Path(__file__).parents[1] / "third_party" / "unstir_seismic_example"
NAME = "seismic-example"
FAST = ("recipes/first.yaml", "  diffusion: {name: seismic-example/diffusion, steps: 12}\n", "")


@pytest.fixture
def example(tmp_path, monkeypatch):
    """Install a copy of the example with edits (file, old text, new text)."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(*edits: tuple[str, str, str]) -> None:
        shutil.copytree(EXAMPLE, tmp_path / EXAMPLE.name, ignore=shutil.ignore_patterns("__pycache__"))
        info = tmp_path / "unstir_seismic_example-0.3.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: unstir-seismic-example\nVersion: 0.3.0\n")
        (info / "entry_points.txt").write_text(f"[unstir.plugins]\n{NAME} = unstir_seismic_example\n")
        for file, old, new in (FAST, *edits):
            path = tmp_path / EXAMPLE.name / file
            text = path.read_text()
            assert old in text, f"{old!r} is not in {file}"
            path.write_text(text.replace(old, new, 1))

    yield install
    for module in [name for name in sys.modules if name.partition(".")[0] == EXAMPLE.name]:
        del sys.modules[module]
    registry.reset()


def faults() -> list[str]:
    with pytest.raises(ContractError) as caught:
        check_plugin(NAME)
    assert "\n- ".join(["", *caught.value.faults]) in str(caught.value)
    return caught.value.faults


def test_a_sound_plugin_passes_and_its_recipe_was_run(example):
    example()
    assert check_plugin(NAME) == ["seismic-example/first"]
    assert check_plugin(NAME, run=False) == []


def test_a_module_is_as_good_as_a_name(example):
    example()
    import unstir_seismic_example  # type: ignore[import-not-found]

    assert check_plugin(unstir_seismic_example) == ["seismic-example/first"]


def test_the_core_keeps_its_own_contract():
    assert check_plugin("core") == []


HOOKS, DATA, TASK, METHODS, JUDGES, RECIPE = "__init__.py", "data.py", "task.py", "methods.py", "judges.py", "recipes/first.yaml"


@pytest.mark.parametrize(
    ("file", "old", "new", "fault"),
    [
        (HOOKS, "import unstir\n", "import numpy\nimport unstir\n", "importing unstir_seismic_example imports numpy"),
        (HOOKS, "data:Generated", "data:Genrated", "dataset 'seismic-example/generated' raised PluginError: .* did you mean 'Generated'"),
        (HOOKS, '"seismic-example/generated"', '"generated"', "dataset name 'generated' is not allowed"),
        (DATA, 'card: ClassVar[str] = "generated"', 'card: ClassVar[str] = "lost"', "has no card: write cards/lost.yaml"),
        ("cards/generated.yaml", "licence: CC0-1.0\n", "", "has a card that does not say licence"),
        (DATA, "count: int = 3", "count: int", "must have a default for every option: missing a required argument: 'count'"),
        (DATA, "tiny: ClassVar[bool] = True", "tiny: ClassVar[bool] = False", "no recipe could be run"),
        (DATA, "def load", "def loaded", "lacks load of Dataset"),
        (TASK, "def export", "def exported", "lacks export of Task"),
        (TASK, "@dataclass(frozen=True)\n", "", "must be a dataclass"),
        (TASK, '("seismic-example/correlation",)', '("seismic-example/corelation",)', "there is no metric .*; did you mean 'seismic-"),
        (TASK, "zlib.crc32(item.attrs['key'].encode())".replace("'", '"'), "", "another measurement each time"),
        (TASK, '"noise": self.noise}', '"noise": self.noise, "answer": item}', "leaks the truth of case 'trace-0' into its context"),
        (TASK, 'Case(item.attrs["key"], item', 'Case("one trace", item', "case keys that are not distinct or not allowed"),
        (TASK, "return [path]", "return [path.with_suffix('.txt')]", "says it wrote .* which is not there"),
        (METHODS, "seed: int, *, progress=None", "*, progress=None", "must take case, prior, seed, progress; seed is missing"),
        (METHODS, "wavelet, noise = case", "case.truth.reflectivity; wavelet, noise = case", "AttributeError: 'NoneType' .*methods.py"),
        (METHODS, "case.measurement.amplitude.values))", "case.measurement.amplitude.values) * np.nan)", "values that are not finite"),
        (METHODS, "wavelet.T @ case.measurement.amplitude.values)", "np.random.randn(len(wavelet)))", "answers differently a second time"),
        (METHODS, "return Estimate(xr.Dataset", "return dict(xr.Dataset", "method 'wiener' raised TypeError"),
        (JUDGES, '"up"', '"higher"', "must say 'up', 'down' or 'neither' for what is better in 'correlation'"),
        (JUDGES, 'MetricInfo("correlation"', 'MetricInfo("Pearson R"', "has the key 'Pearson R'"),
        (JUDGES, '{"correlation": Score', '{"pearson": Score', r"gives \['pearson'\], which it does not describe"),
        (JUDGES, "Score(float(value))", "float(value)", "must give a Score with a float"),
        (JUDGES, "yield Drawn(", "yield (", "figure 'seismic-example/traces' must yield Drawn"),
        (JUDGES, 'caption = f"Refl', 'caption = "" and f"Refl', "draws 'traces-0' without a title or a caption"),
        (JUDGES, "axes.legend()", "axes.legnd()", "figure 'seismic-example/traces' raised AttributeError"),
        (RECIPE, "wiener: {", "Wiener: {", "has the method label 'Wiener'"),
        (RECIPE, "frequency: 25.0", "frequncy: 25.0", r"gives task .* the option \['frequncy'\], which it does not have"),
        (RECIPE, "name: seismic-example/wiener", "name: seismic-example/winer", "did you mean 'seismic-example/wiener'"),
        (RECIPE, "title:", "title: [", "raised ParserError"),
    ],
)
def test_a_broken_promise_is_found_and_said_in_a_sentence(example, file, old, new, fault):
    example((file, old, new))
    found = faults()
    assert [sentence for sentence in found if re.search(fault, sentence)], found
    assert all("\n" not in sentence for sentence in found)


def test_every_fault_is_listed_not_only_the_first(example):
    lost = (DATA, 'ClassVar[str] = "generated"', 'ClassVar[str] = "lost"')
    example(lost, (TASK, "def export", "def exported"), (JUDGES, '"up"', '"higher"'))
    assert len(faults()) >= 3


def test_a_plugin_that_is_not_installed_is_said():
    with pytest.raises(ContractError, match="no installed distribution has it as an entry point of 'unstir.plugins'; there are .*core"):
        check_plugin("nowhere")


def test_finite_and_same_look_into_what_crosses_a_border():
    data = xr.Dataset({"a": ("x", [1.0, 2.0]), "name": ("x", ["u", "v"])})
    assert is_finite(data)
    assert same(data, data.copy(deep=True))
    assert not same(data, data.assign(a=data.a + 1e-12))
    assert not is_finite(data.assign(a=data.a / 0))
    assert same({"a": [np.arange(3)]}, {"a": [np.arange(3)]})
    assert not same([np.arange(3)], [np.arange(3.0)])
    assert same("smiles", "smiles")
    assert not same("smiles", "frowns")
    assert not is_finite(float("nan"))
    assert is_finite(object())
