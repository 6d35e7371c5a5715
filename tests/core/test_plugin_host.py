"""A broken plugin is reported in a sentence while the rest works."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from unstir import registry
from unstir.errors import MissingExtra, PluginError, UnknownName
from unstir.plugin.host import Host, missing_extra

HOOK = """
import unstir

UNSTIR_API = {api}

@unstir.hookimpl
def unstir_{kind}():
    return {references!r}
"""


def plugin_text(references: object, kind: str = "tasks", api: object = 1) -> str:
    return HOOK.format(api=api, kind=kind, references=references)


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A folder of installed distributions: ``site(distribution, module, text)`` adds one with a plugin in it."""
    folder = tmp_path / "site"
    folder.mkdir()
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(folder))

    def install(distribution: str, module: str, text: str, *, name: str | None = None, extras: tuple[str, ...] = (), **files: str) -> None:
        (folder / f"{module}.py").write_text(text)
        for file, content in files.items():
            (folder / f"{file}.py").write_text(content)
        info = folder / f"{distribution.replace('-', '_')}-1.2.0.dist-info"
        info.mkdir()
        provides = "".join(f"Provides-Extra: {extra}\n" for extra in extras)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2.0\n{provides}")
        (info / "entry_points.txt").write_text(f"[unstir.plugins]\n{name or module} = {module}\n")

    yield install
    for module in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[module], "__file__", "")):
            del sys.modules[module]
    registry.reset()


def info(host: Host, name: str):
    return next(found for found in host.plugins() if found.name == name)


def test_a_plugin_that_works_is_listed_with_its_distribution_version_and_counts(site):
    site("good-dist", "fake_good", plugin_text({"good/one": "fake_good:One", "good/two": "fake_good:Two"}))
    found = info(Host.discover(), "fake_good")
    assert (found.status, found.reason, found.api) == ("ok", "", 1)
    assert (found.distribution, found.version) == ("good-dist", "1.2.0")
    assert found.counts["tasks"] == 2
    assert sum(found.counts.values()) == 2


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("raise RuntimeError('no licence; ask for one\\nsoon')", "importing fake_bad raised RuntimeError: no licence, ask for one"),
        ("import module_that_is_not_there", "ModuleNotFoundError: No module named 'module_that_is_not_there'"),
        ("def broken(:", "SyntaxError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import unstir", "fake_bad does not say for which API it was written: add 'UNSTIR_API = 1' to it"),
        (plugin_text({}, api=2), "bad-dist 1.2.0 was written for plugin API 2 and this unstir has API 1: upgrade unstir"),
        (plugin_text({}, api=0), "upgrade bad-dist"),
        (plugin_text({}, api="'one'"), "API 'one'"),
        ("import unstir\nUNSTIR_API = 1\n@unstir.hookimpl\ndef unstir_tasks(run):\n    return {}", "its hooks do not fit"),
    ],
)
def test_a_plugin_that_cannot_be_loaded_is_broken_and_the_rest_works(site, text, reason):
    site("bad-dist", "fake_bad", text)
    site("good-dist", "fake_good", plugin_text({"good/one": "fake_good:UNSTIR_API"}))
    host = Host.discover()
    found = info(host, "fake_bad")
    assert found.status == "broken"
    assert reason in found.reason
    assert "\n" not in found.reason
    assert "; " not in found.reason  # which joins several
    assert sum(found.counts.values()) == 0
    assert info(host, "fake_good").status == "ok"
    assert host.resolve("tasks", "good/one") == 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (plugin_text({"good/one": 3}), "both strings, got 'good/one': 3"),
        (plugin_text({"Good/One": "fake_bad:One"}), "task name 'Good/One' is not allowed: write domain/thing, lower-case with hyphens"),
        (plugin_text({"one": "fake_bad:One"}), "task name 'one' is not allowed"),
        (plugin_text({"good/a_b": "fake_bad:One"}), "task name 'good/a_b' is not allowed"),
        (plugin_text({"Heun": "fake_bad:One"}, "solvers"), "or a bare word"),
        (plugin_text({"good/one": "fake_bad.One"}), "task 'good/one' must refer to 'module:attribute', got 'fake_bad.One'"),
        (plugin_text({"good/one": "fake_bad:../one.yaml"}, "recipes"), "recipe 'good/one' must refer to 'package:relative/path'"),
        (plugin_text({"good/one": "fake_bad:/etc/one.yaml"}, "recipes"), "must refer to 'package:relative/path'"),
        (plugin_text(["good/one"]), "unstir_tasks must return a dict of references, got list"),
        (plugin_text({}, "taks"), "fake_bad.unstir_taks is not a hook of unstir, did you mean unstir_tasks?"),
        ("UNSTIR_API = 1\ndef unstir_tasks():\n    return {}", "fake_bad.unstir_tasks lacks its marker: write @unstir.hookimpl above it"),
        ("import unstir\nUNSTIR_API = 1\n@unstir.hookimpl\ndef unstir_tasks():\n    return 1 / 0", "unstir_tasks raised ZeroDivisionError"),
    ],
)
def test_a_faulty_hook_is_reported_and_the_plugin_keeps_its_other_hooks(site, text, reason):
    other = "\n@unstir.hookimpl\ndef unstir_metrics():\n    return {'good/error': 'fake_bad:UNSTIR_API'}\n"
    site("bad-dist", "fake_bad", "import unstir\n" + text + other)
    host = Host.discover()
    found = info(host, "fake_bad")
    assert found.status == "faulty"
    assert reason in found.reason
    assert host.resolve("metrics", "good/error") == 1


@pytest.mark.parametrize("reverse", [False, True])
def test_a_name_claimed_twice_names_both_distributions_in_whatever_order_they_were_installed(site, reverse):
    both = [("alpha-dist", "fake_alpha"), ("beta-dist", "fake_beta")]
    for distribution, module in reversed(both) if reverse else both:
        site(distribution, module, plugin_text({"shared/one": f"{module}:UNSTIR_API", f"{module[5:]}/own": f"{module}:UNSTIR_API"}))
    host = Host.discover()
    assert info(host, "fake_alpha").status == "ok"
    assert info(host, "fake_beta").status == "faulty"
    sentence = "task 'shared/one' is claimed by plugin 'fake_alpha' (alpha-dist 1.2.0) and by plugin 'fake_beta' (beta-dist 1.2.0)"
    assert sentence in info(host, "fake_beta").reason
    assert host.names("tasks")["shared/one"].distribution == "alpha-dist"
    with pytest.raises(PluginError, match="alpha-dist 1.2.0.*beta-dist 1.2.0"):
        host.resolve("tasks", "shared/one")
    assert host.resolve("tasks", "alpha/own") == host.resolve("tasks", "beta/own") == 1


def test_a_stranger_cannot_take_a_name_of_the_core(site):
    name = next(iter(Host().names("networks")))
    site("aaa-dist", "fake_thief", plugin_text({name: "fake_thief:UNSTIR_API"}, "networks"))
    host = Host.discover()
    assert host.names("networks")[name].distribution == "unstir"
    assert "unstir" in info(host, "fake_thief").reason
    assert "aaa-dist" in info(host, "fake_thief").reason


def test_two_plugins_of_one_name_are_an_error_naming_both_distributions(site):
    site("alpha-dist", "fake_alpha", plugin_text({"a/one": "fake_alpha:UNSTIR_API"}), name="twin")
    site("beta-dist", "fake_beta", plugin_text({"b/one": "fake_beta:UNSTIR_API"}), name="twin")
    host = Host.discover()
    first, second = [found for found in host.plugins() if found.name == "twin"]
    assert (first.status, second.status) == ("ok", "broken")
    assert "alpha-dist 1.2.0 and by beta-dist 1.2.0" in second.reason


def test_a_module_that_two_entry_points_name_counts_once(site, tmp_path):
    site("good-dist", "fake_good", plugin_text({"good/one": "fake_good:UNSTIR_API"}))
    entries = tmp_path / "site" / "good_dist-1.2.0.dist-info" / "entry_points.txt"
    entries.write_text(entries.read_text() + "twice = fake_good\n")
    host = Host.discover()
    assert info(host, "fake_good").status == "ok"
    assert info(host, "twice").status == "broken"
    assert host.resolve("tasks", "good/one") == 1


def test_strict_makes_every_fault_fatal_and_names_each_plugin(site, monkeypatch):
    site("bad-dist", "fake_bad", "raise RuntimeError('no licence found')")
    site("odd-dist", "fake_odd", plugin_text({"one": "fake_odd:One"}))
    registry.reset()
    assert {found.name for found in registry.plugins() if found.status != "ok"} >= {"fake_bad", "fake_odd"}
    with pytest.raises(PluginError, match="(?s)fake_bad.*bad-dist 1.2.0.*no licence found.*fake_odd.*'one' is not allowed"):
        registry.plugins(strict=True)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("fake_none.tasks:One", "task 'good/one' of plugin 'fake_good' points at fake_none.tasks:One, but there is no module 'fake_none'"),
        ("fake_good.tasks:One", "there is no module 'fake_good.tasks'"),
        ("fake_good:Onne", "fake_good has no 'Onne'; did you mean 'One'?"),
        ("fake_good:One.two", "One has no 'two'"),
    ],
)
def test_a_reference_that_points_nowhere_is_an_error_only_when_it_is_used(site, target, reason):
    site("good-dist", "fake_good", plugin_text({"good/one": target}) + "\nclass One: pass\n")
    host = Host.discover()
    assert info(host, "fake_good").status == "ok"
    with pytest.raises(PluginError, match=reason.replace("?", r"\?")):
        host.resolve("tasks", "good/one")


def test_a_missing_library_of_a_stranger_is_named(site):
    text = plugin_text({"good/one": "fake_tasks:One"})
    site("good-dist", "fake_good", text, fake_tasks="import library_that_is_not_there.sub")
    with pytest.raises(MissingExtra, match="good/one of good-dist needs the module 'library_that_is_not_there', which is not installed"):
        Host.discover().resolve("tasks", "good/one")


def test_a_missing_library_of_a_built_in_domain_names_the_extra():
    reference = registry.Reference("medical/fbp", "unstir_medical.ct:FBP", "medical", "unstir")
    error = ModuleNotFoundError("No module named 'nibabel'", name="nibabel")
    assert str(missing_extra(reference, error)) == "medical/fbp needs the extra 'medical': pip install 'unstir[medical]'"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("import fake_tasks.nothing", ModuleNotFoundError),
        ("from unstir import no_such_name_in_unstir", ImportError),
        ("import unstir.no_such_module", ModuleNotFoundError),
        ("raise ImportError('library too old')", ImportError),
        ("1 / 0", ZeroDivisionError),
        ("object().nothing", AttributeError),
    ],
)
def test_a_fault_in_the_plugin_s_own_code_is_not_disguised(site, code, error):
    site("good-dist", "fake_good", plugin_text({"good/one": "fake_tasks:One"}), fake_tasks=code)
    with pytest.raises(error) as caught:
        Host.discover().resolve("tasks", "good/one")
    assert type(caught.value) is error


def test_an_attribute_error_inside_a_lazy_package_is_not_disguised(site):
    lazy = "def __getattr__(name):\n    return object().nothing"
    site("good-dist", "fake_good", plugin_text({"good/one": "fake_tasks:One"}), fake_tasks=lazy)
    with pytest.raises(AttributeError, match="nothing"):
        Host.discover().resolve("tasks", "good/one")


def test_listing_does_not_touch_the_lazy_names_of_a_plugin_package(site):
    lazy = "\ndef __getattr__(name):\n    raise RuntimeError('imported ' + name)\ndef __dir__():\n    return ['Heavy', 'unstir_tasks']\n"
    site("good-dist", "fake_good", plugin_text({"good/one": "fake_good:UNSTIR_API"}) + lazy)
    host = Host.discover()
    assert info(host, "fake_good").status == "ok"
    assert "good/one" in host.names("tasks")


def test_a_file_that_the_plugin_does_not_carry_is_an_error_when_it_is_used(site, tmp_path):
    site("good-dist", "fake_good", plugin_text({"good/one": "fake_good:recipes/one.yaml"}, "recipes"))
    with pytest.raises(PluginError, match="recipe 'good/one' of plugin 'fake_good' points at fake_good:recipes/one.yaml"):
        Host.discover().path("recipes", "good/one")


def test_a_recipe_resolves_to_its_path(site, tmp_path):
    package = tmp_path / "site" / "fake_package"
    (package / "recipes").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('a path needs no import')")
    (package / "recipes" / "one.yaml").write_text("title: One\n")
    site("good-dist", "fake_good", plugin_text({"good/one": "fake_package:recipes/one.yaml"}, "recipes"))
    host = Host.discover()
    assert host.path("recipes", "good/one") == host.resolve("recipes", "good/one") == package / "recipes" / "one.yaml"
    with pytest.raises(PluginError, match="a task is not a file"):
        host.path("tasks", "good/one")


def test_a_card_is_found_in_the_package_of_its_dataset(site, tmp_path):
    package = tmp_path / "site" / "fake_package"
    (package / "cards").mkdir(parents=True)
    (package / "__init__.py").write_text("class Data:\n    card = 'sand'\nclass Bare:\n    card = 'none'\n")
    (package / "cards" / "sand.yaml").write_text("title: Sand\n")
    site("good-dist", "fake_good", plugin_text({"good/sand": "fake_package:Data", "good/bare": "fake_package:Bare"}, "data"))
    host = Host.discover()
    assert host.card("good/sand") == package / "cards" / "sand.yaml"
    with pytest.raises(PluginError, match="dataset 'good/bare' of plugin 'fake_good' has no card: write cards/none.yaml"):
        host.card("good/bare")


OBSERVER = """
import unstir

UNSTIR_API = 1
seen = []

@unstir.hookimpl
def unstir_run_started(run):
    seen.append(("started", run))

@unstir.hookimpl
def unstir_case_finished(label, estimate):
    seen.append((label, estimate))

@unstir.hookimpl
def unstir_run_finished(run):
    raise OSError("tracker not reachable")
"""


def test_an_observer_sees_the_run_and_asks_only_for_what_it_uses(site):
    site("watch-dist", "fake_watch", OBSERVER)
    host = Host.discover()
    host.call("run_started", run="the run")
    host.call("case_finished", run="the run", label="fbp", case=None, estimate=3)
    assert sys.modules["fake_watch"].seen == [("started", "the run"), ("fbp", 3)]


def test_a_failing_observer_is_mentioned_once_and_the_others_still_hear(site, caplog):
    site("watch-dist", "fake_watch", OBSERVER)
    site("zeal-dist", "fake_zeal", OBSERVER.replace('raise OSError("tracker not reachable")', 'seen.append("finished")'))
    host = Host.discover()
    for _ in range(3):
        host.call("run_finished", run=None)
    assert sys.modules["fake_zeal"].seen == ["finished"] * 3
    assert [record.message for record in caplog.records if "fake_watch" in record.message] == [
        "plugin watch-dist:fake_watch failed to observe run_finished (the run goes on): OSError: tracker not reachable"
    ]


def test_unknown_names_and_kinds_list_the_nearest(site):
    site("good-dist", "fake_good", plugin_text({"good/sparse-view": "fake_good:UNSTIR_API"}))
    host = Host.discover()
    with pytest.raises(UnknownName, match="there is no task 'good/sprase-view'; did you mean 'good/sparse-view'"):
        host.resolve("tasks", "good/sprase-view")
    with pytest.raises(UnknownName, match="there is no kind 'task'; did you mean 'tasks'"):
        host.names("task")


def test_a_folder_on_the_path_of_a_fresh_interpreter_is_enough(site, tmp_path):
    site("good-dist", "fake_good", plugin_text({"good/one": "fake_good:UNSTIR_API"}))
    code = "from unstir import registry; print(registry.names('tasks')['good/one'].distribution)"
    path = [str(tmp_path / "site"), *(entry for entry in sys.path if entry)]
    environment = {"PYTHONPATH": os.pathsep.join(path)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "good-dist", run.stderr
