from pathlib import Path

import pytest

from unstir.errors import MissingExtra, RecipeError, UnknownName
from unstir_pipelines import document
from unstir_pipelines.recipe import Recipe, prepare
from unstir_pipelines.settings import expand, file_name, folder_name


def message(call) -> str:
    with pytest.raises(RecipeError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    return text


def changed(path: Path, old: str, new: str) -> Path:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


def test_a_recipe_spells_out_every_option(recipe: Path):
    resolved = prepare(recipe).resolved
    assert resolved["task"] == {"name": "toy/denoise", "noise": 0.1, "copies": 1}
    assert resolved["methods"]["smooth"] == {"name": "toy/smooth", "steps": 3, "edge": "nearest", "pause": 0.0}
    assert resolved["seed"] == 4


def test_a_resolved_recipe_is_a_recipe_and_resolves_to_itself(recipe: Path, tmp_path: Path):
    resolved = prepare(recipe, sets=["vary.task.noise=[0.1, 0.2]"], cases=2).resolved
    again = tmp_path / "again.yaml"
    again.write_text(document.dump(resolved))
    assert prepare(again).resolved == resolved
    assert Recipe.of(resolved).resolved == resolved


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("noise: 0.1", "niose: 0.1", "has no key 'task.niose'; did you mean 'task.noise'? (recipe.yaml:2; unstir show"),
        ("steps: 3", "steps: 0", "steps must be at least 1, got 0 (recipe.yaml:8)"),
        ("steps: 3", "steps: many", "steps must be a whole number, got 'many' (recipe.yaml:8)"),
        ("steps: 3", "steps: 2.5", "steps must be a whole number, got 2.5 (recipe.yaml:8)"),
        ("steps: 3", "steps: true", "steps must be a number, got true (recipe.yaml:8)"),
        ("steps: 3", "edge: mirrir", "edge must be 'nearest' or 'mirror', got 'mirrir'; did you mean 'mirror'? (recipe.yaml:8)"),
        ("noise: 0.1", "copies: 0", "copies must be at least 1, got 0 (recipe.yaml:2)"),
        ("name: toy/smooth", "name: toy/smoth", "there is no method 'toy/smoth'; did you mean 'toy/smooth'"),
        ("metrics: [toy/error]", "metrics: [toy/eror]", "there is no metric 'toy/eror'; did you mean 'toy/error'"),
        ("metrics:", "metrcis:", "has no key 'metrcis'; did you mean 'metrics'? (recipe.yaml:10;"),
        (
            "start: smooth",
            "start: smoth",
            "method 'refine' starts from 'smoth', which is not a method of this recipe; did you mean 'smooth'? (recipe.yaml:9)",
        ),
        ("start: smooth", "start: refine", "method 'refine' cannot start from itself (recipe.yaml:9)"),
        ("seed: 4", "seed: -1", "seed must be a whole number from 0, or a list of such, got -1 (recipe.yaml:12)"),
        ("seed: 4", "cases: 0", "cases must be at least 1, got 0 (recipe.yaml:12)"),
        ("seed: 4", "vary: {task.noise: []}", "vary.task.noise must be a list of at least one value, got [] (recipe.yaml:12)"),
        ("seed: 4", "vary: {task.niose: [1]}", "has no key 'task.niose'; did you mean 'task.noise'?"),
        ("seed: 4", "vary: {methods.smoth.steps: [1]}", "has no key 'methods.smoth'; did you mean 'methods.smooth'?"),
        ("seed: 4", "defaults: {steeps: 2}", "no method has the option 'defaults.steeps'; did you mean 'steps'? (recipe.yaml:12)"),
        (
            "keep: {name: toy/keep}",
            "keep: toy/keep",
            "methods.keep must be a mapping, as {name: medical/fbp}, got 'toy/keep' (recipe.yaml:5)",
        ),
        (
            "keep: {name: toy/keep}",
            "keep: {name: toy/learned}",
            "method 'keep' needs a checkpoint: add 'checkpoint: NAME' or a folder (recipe.yaml:5)",
        ),
        ("keep: {name: toy/keep}", "keep: {name: toy/keep, checkpoint: x}", "has no key 'methods.keep.checkpoint'"),
        ("keep: {name: toy/keep}", "keep: {steps: 2}", "methods.keep.name must name a registered method, got None (recipe.yaml:5)"),
        ("title: Noisy lines", "title: [unclosed", "is not valid YAML"),
        ("keep: {name: toy/keep}", "smooth: {name: toy/keep}", "is not valid YAML: found duplicate key"),
    ],
)
def test_a_mistake_is_told_with_its_line_its_key_and_the_nearest_right_one(recipe: Path, old: str, new: str, said: str):
    assert said in message(lambda: prepare(changed(recipe, old, new)).resolved)


def test_a_missing_file_and_a_recipe_that_is_no_mapping_are_told():
    assert message(lambda: prepare("nothing.yaml")) == "recipe nothing.yaml does not exist"
    Path("list.yaml").write_text("- 1\n")
    assert "list.yaml is not a recipe: its top must be a mapping" in message(lambda: prepare("list.yaml"))
    Path("empty.yaml").write_text("title: x\n")
    assert "has no 'task', so there is nothing to run" in message(lambda: prepare("empty.yaml").resolved)


def test_an_unknown_recipe_lists_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'toy/lines'"):
        prepare("toy/line")
    assert (
        message(lambda: prepare("qqqq/zzzz"))
        == "there is no recipe 'qqqq/zzzz': no plugin 'qqqq' is installed (unstir plugins lists those that are)"
    )


def test_a_missing_library_is_told_by_its_name(recipe: Path):
    with pytest.raises(MissingExtra, match="toy/heavy of toy-lines needs the module 'a_library_nobody_has'"):
        _ = prepare(changed(recipe, "toy/keep", "toy/heavy")).resolved


def test_set_reads_values_as_yaml():
    resolved = prepare("toy/lines", sets=["task.noise=1e-3", "methods.smooth.edge=mirror", "seed=[1, 2]"]).resolved
    assert (resolved["task"]["noise"], resolved["methods"]["smooth"]["edge"], resolved["seed"]) == (1e-3, "mirror", [1, 2])


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        ("task.niose=1", "recipe toy/lines has no key 'task.niose'; did you mean 'task.noise'? (unstir show toy/lines lists all)"),
        (
            "methods.smoth.steps=1",
            "recipe toy/lines has no key 'methods.smoth'; did you mean 'methods.smooth'? (unstir show toy/lines lists all)",
        ),
        ("tsak.noise=1", "recipe toy/lines has no key 'tsak.noise'; did you mean 'task.noise'? (unstir show toy/lines lists all)"),
        ("methods.smooth.steps=0", "steps must be at least 1, got 0 (--set methods.smooth.steps=0)"),
        ("task.noise", "--set needs KEY=VALUE, as --set task.views=8, got 'task.noise'"),
        ("title.deep=1", "cannot set 'title.deep': 'title' holds 'Noisy lines', which has no keys"),
    ],
)
def test_a_wrong_override_is_told_as_it_was_typed(sets: str, said: str):
    assert message(lambda: prepare("toy/lines", sets=[sets]).resolved) == said


def test_setting_a_varied_key_replaces_the_variation(recipe: Path):
    recipe.write_text(recipe.read_text() + "vary: {task.noise: [0.1, 0.5]}\n")
    assert prepare(recipe).settings == [{"task.noise": 0.1}, {"task.noise": 0.5}]
    one = prepare(recipe, sets=["task.noise=0.3"])
    assert one.settings == [{}]
    assert one.resolved["task"]["noise"] == 0.3
    assert prepare(recipe, sets=["vary.task.noise=[1, 2, 3]"]).settings == [{"task.noise": value} for value in (1, 2, 3)]


def test_every_varied_value_is_checked_with_its_line(recipe: Path):
    recipe.write_text(recipe.read_text() + "vary: {methods.smooth.steps: [1, 0]}\n")
    assert message(lambda: prepare(recipe).resolved) == "steps must be at least 1, got 0 (recipe.yaml:13)"


def test_defaults_reach_every_method_that_has_the_option_and_yield_to_its_own(recipe: Path):
    recipe.write_text(recipe.read_text() + "defaults: {steps: 9, edge: mirror}\n")
    methods = prepare(recipe).resolved["methods"]
    assert methods["smooth"]["steps"] == 3
    assert methods["smooth"]["edge"] == "mirror"
    assert "edge" not in methods["keep"]


def test_methods_brings_what_they_start_from_in_the_recipes_order():
    assert list(prepare("toy/lines", methods=["refine"]).resolved["methods"]) == ["smooth", "refine"]
    assert list(prepare("toy/lines", methods=["keep"]).resolved["methods"]) == ["keep"]
    assert "has no method 'smoth'; did you mean 'smooth'?" in message(lambda: prepare("toy/lines", methods=["smoth"]))
    assert "--methods needs at least one of" in message(lambda: prepare("toy/lines", methods=[]))


def test_methods_that_start_from_each_other_are_refused(recipe: Path):
    changed(recipe, "keep: {name: toy/keep}", "other: {name: toy/refine, start: refine}")
    changed(recipe, "start: smooth", "start: other")
    assert "start from each other" in message(lambda: prepare(recipe).resolved)


def test_data_are_files_or_the_name_of_a_dataset():
    assert prepare("toy/lines", data=["toy/lines"]).resolved["data"] == {"name": "toy/lines", "count": 3}
    Path("a.npy").write_bytes(b"")
    assert prepare("toy/lines", data=["a.npy"]).resolved["data"] == {"files": [str(Path("a.npy").resolve())]}


def test_settings_are_every_combination_and_name_folders():
    vary = {"task.views": [8, 20], "methods.dds.noise": ["a/b"]}
    assert expand(vary) == [{"task.views": 8, "methods.dds.noise": "a/b"}, {"task.views": 20, "methods.dds.noise": "a/b"}]
    assert folder_name(expand(vary)[0], vary) == "views=8,noise=a%2Fb"
    clash = {"methods.a.steps": [1], "methods.b.steps": [2]}
    assert folder_name(expand(clash)[0], clash) == "a.steps=1,b.steps=2"
    assert folder_name({}, {}) == ""


def test_file_names_are_safe_and_tell_different_texts_apart():
    texts = ["a", "a b", "a/b", "..", ".", "a%2Fb", "é", "a_b", "", "\n"]
    names = [file_name(text) for text in texts]
    assert len(set(names)) == len(texts)
    assert not any("/" in name or name in (".", "..") or name.startswith(".") for name in names)
