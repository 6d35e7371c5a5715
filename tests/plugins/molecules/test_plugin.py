"""The plugin keeps the contract, and its parts run together."""

from __future__ import annotations

import subprocess
import sys

import pytest

from unstir import registry
from unstir.testing import check_plugin


def test_the_plugin_keeps_the_contract():
    assert check_plugin("molecules", run=False) == []


def test_nothing_of_another_domain_is_imported():
    for kind in ("data", "tasks", "methods", "metrics", "networks"):
        for name in registry.names(kind):
            if name.startswith(("molecules/", "graphs/")):
                registry.resolve(kind, name)
    code = "import sys, unstir_molecules.tasks, unstir_molecules.discrete; "
    code += "assert not [n for n in sys.modules if 'unstir_medical' in n or 'unstir_timeseries' in n]"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.slow
def test_the_recipes_of_small_sets_run():
    assert {"molecules/generate", "graphs/community"} <= set(check_plugin("molecules"))
